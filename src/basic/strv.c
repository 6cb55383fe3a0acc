/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/strv.h"

#include <ctype.h>
#include <string.h>

#include "basic/util.h"

char** strv_free(char **l) {
        if (l)
                for (char **s = l; *s; s++)
                        free(*s);
        free(l);
        return NULL;
}

size_t strv_length(char *const *l) {
        size_t n = 0;

        while (l && l[n])
                n++;
        return n;
}

bool strv_contains(char *const *l, const char *s) {
        for (; l && *l; l++)
                if (streq(*l, s))
                        return true;
        return false;
}

bool strv_equal(char *const *a, char *const *b) {
        size_t n = strv_length(a);

        if (n != strv_length(b))
                return false;
        for (size_t i = 0; i < n; i++)
                if (!streq(a[i], b[i]))
                        return false;
        return true;
}

/* Takes @s over, also on failure. */
static int strv_consume(char ***l, char *s) {
        size_t n = strv_length(*l);
        char **k;

        if (!s)
                return -ENOMEM;

        k = reallocarray(*l, n + 2, sizeof(char*));
        if (!k) {
                free(s);
                return -ENOMEM;
        }

        k[n] = s;
        k[n + 1] = NULL;
        *l = k;
        return 0;
}

int strv_extend(char ***l, const char *s) {
        return strv_consume(l, strdup(s));
}

int strv_copy(char *const *l, char ***ret) {
        _cleanup_(strv_freep) char **k = new0(char*, strv_length(l) + 1);

        if (!k)
                return -ENOMEM;
        for (size_t i = 0; l && l[i]; i++) {
                k[i] = strdup(l[i]);
                if (!k[i])
                        return -ENOMEM;
        }

        *ret = TAKE_PTR(k);
        return 0;
}

int strv_split(const char *s, const char *separators, char ***ret) {
        _cleanup_(strv_freep) char **l = new0(char*, 1);

        if (!l)
                return -ENOMEM;

        while (*s) {
                size_t n = strcspn(s, separators);
                const char *begin = s, *end = s + n;
                int r;

                while (begin < end && isspace((unsigned char) *begin))
                        begin++;
                while (end > begin && isspace((unsigned char) end[-1]))
                        end--;
                if (begin < end) {
                        r = strv_consume(&l, strndup(begin, end - begin));
                        if (r < 0)
                                return r;
                }

                s += n;
                if (*s)
                        s++;
        }

        *ret = TAKE_PTR(l);
        return 0;
}

int strv_join(char *const *l, const char *separator, char **ret) {
        size_t size = 1, separator_size = strlen(separator);
        char *s, *p;

        for (char *const *i = l; i && *i; i++)
                size += strlen(*i) + separator_size;

        s = malloc(size);
        if (!s)
                return -ENOMEM;

        p = s;
        for (char *const *i = l; i && *i; i++) {
                if (i != l)
                        p = stpcpy(p, separator);
                p = stpcpy(p, *i);
        }
        *p = '\0';

        *ret = s;
        return 0;
}
