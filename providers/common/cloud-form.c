/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-form.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/util.h"

static bool is_unreserved(unsigned char c) {
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '~';
}

static char* put_escaped(char *p, const char *s) {
        static const char digits[] = "0123456789ABCDEF";

        for (; *s; s++) {
                unsigned char c = (unsigned char) *s;

                if (is_unreserved(c))
                        *p++ = (char) c;
                else {
                        *p++ = '%';
                        *p++ = digits[c >> 4];
                        *p++ = digits[c & 15];
                }
        }
        return p;
}

char* url_escape(const char *s) {
        char *out = malloc(strlen(s) * 3 + 1);

        if (out)
                *put_escaped(out, s) = '\0';
        return out;
}

void form_add(Form *f, const char *key, const char *value) {
        size_t need;
        char *bigger, *p;

        if (!value || f->failed)
                return;
        need = f->size + 3 * (strlen(key) + strlen(value)) + 3;
        bigger = malloc(need);
        if (!bigger) {
                f->failed = true;
                return;
        }
        p = bigger;
        if (f->size > 0) {
                memcpy(p, f->text, f->size);
                p += f->size;
                *p++ = '&';
        }
        p = put_escaped(p, key);
        *p++ = '=';
        p = put_escaped(p, value);
        *p = '\0';
        erase_free(f->text, f->size);
        f->text = bigger;
        f->size = p - bigger;
}

void form_addf(Form *f, const char *key, const char *format, ...) {
        char *value = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&value, format, ap) < 0) {
                f->failed = true;
                value = NULL;
        }
        va_end(ap);
        form_add(f, key, value);
        if (value)
                erase_free(value, strlen(value));
}

const char* form_text(const Form *f) {
        return f->failed ? NULL : strempty(f->text);
}

void form_done(Form *f) {
        f->text = erase_free(f->text, f->size);
        *f = (Form) {};
}
