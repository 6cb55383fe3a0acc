/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/env-file.h"

#include <stdbool.h>

#include "basic/util.h"

#define BLANKS " \t"
#define LINE_ENDS "\r\n"
#define ESCAPED_IN_QUOTES "\"\\`$"

static bool is_name(const char *s, size_t n) {
        static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";

        return n > 0 && strspn(s, letters) >= n && !(s[0] >= '0' && s[0] <= '9');
}

static const char* skip_line(const char *p) {
        return p + strcspn(p, LINE_ENDS);
}

/* Reads a value to the end of its line, or, where a quote or a backslash goes on, lines. @out has room for all that is left. */
static const char* read_value(const char *p, char *out) {
        size_t n = 0, keep = 0;         /* what a quote or a backslash gave is kept, blanks at the end are not */
        char quote = 0;

        p += strspn(p, BLANKS);
        for (; *p && (quote || !strchr(LINE_ENDS, *p)); p++) {
                if (quote && *p == quote) {
                        quote = 0;
                        keep = n;
                        p += strspn(p + 1, BLANKS);
                } else if (!quote && (*p == '"' || *p == '\'')) {
                        quote = *p;
                        keep = n;
                } else if (*p == '\\' && quote != '\'' && p[1]) {
                        p++;
                        if (*p == '\n')
                                continue;
                        if (quote && !strchr(ESCAPED_IN_QUOTES, *p))
                                out[n++] = '\\';
                        out[n++] = *p;
                        keep = n;
                } else
                        out[n++] = *p;
        }
        if (quote)
                keep = n;
        while (n > keep && strchr(BLANKS, out[n - 1]))
                n--;
        out[n] = '\0';
        return p;
}

static int parse(char *copy, char *value, EnvFileHandler handler, void *userdata) {
        for (char *p = copy; *p;) {
                char *key, *end, *name_end;
                int r;

                p += strspn(p, BLANKS LINE_ENDS);
                key = p;
                end = p + strcspn(p, "=" LINE_ENDS);
                name_end = end;
                while (name_end > key && strchr(BLANKS, name_end[-1]))
                        name_end--;
                if (*p == '#' || *p == ';' || *end != '=' || !is_name(key, name_end - key)) {
                        p = (char*) skip_line(p);
                        continue;
                }

                *name_end = '\0';
                p = (char*) read_value(end + 1, value);
                r = handler(key, value, userdata);
                if (r < 0)
                        return r;
        }

        return 0;
}

int env_file_parse(const char *text, size_t size, EnvFileHandler handler, void *userdata) {
        char *copy, *value;
        int r;

        if (size > 0 && memchr(text, 0, size))
                return -EBADMSG;
        copy = strndup(size > 0 ? text : "", size);
        value = malloc(size + 1);
        r = copy && value ? parse(copy, value, handler, userdata) : -ENOMEM;

        /* There may be secrets among them. */
        erase_free(copy, size);
        erase_free(value, size + 1);
        return r;
}
