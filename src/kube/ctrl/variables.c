/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/variables.h"

#include "basic/env-file.h"
#include "basic/util.h"

static bool name_is_valid(const char *s) {
        static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";

        return *s && !(*s >= '0' && *s <= '9') && s[strspn(s, letters)] == '\0';
}

/* The place of @name: where it is (true), or where it belongs. */
static bool find(const Variables *v, const char *name, size_t *ret) {
        size_t low = 0, high = v->n, n = strlen(name);

        while (low < high) {
                size_t middle = (low + high) / 2;
                int c = strncmp(v->items[middle], name, n);

                if (c == 0)
                        c = v->items[middle][n] - '=';
                if (c == 0) {
                        *ret = middle;
                        return true;
                }
                if (c < 0)
                        low = middle + 1;
                else
                        high = middle;
        }

        *ret = low;
        return false;
}

static void erase_item(Variables *v, size_t i) {
        v->size -= strlen(v->items[i]);
        v->items[i] = erase_free(v->items[i], strlen(v->items[i]));
}

int variables_set(Variables *v, const char *name, const char *value, size_t size) {
        size_t at, n = strlen(name);
        char *item;
        bool there;
        int r;

        if (!name_is_valid(name) || (size > 0 && memchr(value, 0, size)))
                return -EINVAL;
        if (n + size + 1 > VARIABLES_SIZE_MAX - v->size)
                return -E2BIG;
        there = find(v, name, &at);
        if (!there) {
                r = grow_array(&v->items, v->n, VARIABLES_MAX, sizeof(char*));
                if (r < 0)
                        return r;
        }

        item = malloc(n + 1 + size + 1);
        if (!item)
                return -ENOMEM;
        memcpy(item, name, n);
        item[n] = '=';
        if (size > 0)
                memcpy(item + n + 1, value, size);
        item[n + 1 + size] = '\0';

        if (there)
                erase_item(v, at);
        else {
                memmove(v->items + at + 1, v->items + at, (v->n - at) * sizeof(char*));
                v->n++;
        }
        v->items[at] = item;
        v->size += strlen(item);
        return 0;
}

int variables_parse_item(Variables *v, const char *item) {
        const char *value = strchr(item, '=');
        _cleanup_(freep) char *name = NULL;

        if (!value)
                return -EINVAL;
        name = strndup(item, value - item);
        return name ? variables_set(v, name, value + 1, strlen(value + 1)) : -ENOMEM;
}

const char* variables_get(const Variables *v, const char *name) {
        size_t at;

        return find(v, name, &at) ? v->items[at] + strlen(name) + 1 : NULL;
}

bool variables_equal(const Variables *a, const Variables *b) {
        if (a->n != b->n)
                return false;
        for (size_t i = 0; i < a->n; i++)
                if (!streq(a->items[i], b->items[i]))
                        return false;
        return true;
}

void variables_done(Variables *v) {
        for (size_t i = 0; i < v->n; i++)
                erase_item(v, i);
        free(v->items);
        *v = VARIABLES_NULL;
}

static int take(const char *key, const char *value, void *userdata) {
        return variables_set(userdata, key, value, strlen(value));
}

int variables_parse(Variables *v, const char *text, size_t size) {
        return env_file_parse(text, size, take, v);
}

int variables_format(const Variables *v, char **ret, size_t *ret_size) {
        size_t n = 1;
        char *text, *p;

        /* In single quotes nothing has a meaning but the quote itself, which stands outside of them behind a backslash. */
        for (size_t i = 0; i < v->n; i++) {
                n += strlen(v->items[i]) + strlen("''\n");
                for (const char *c = v->items[i]; *c; c++)
                        n += *c == '\'' ? strlen("'\\''") - 1 : 0;
        }
        text = p = malloc(n);
        if (!text)
                return -ENOMEM;

        for (size_t i = 0; i < v->n; i++) {
                const char *value = strchr(v->items[i], '=') + 1;

                p = mempcpy(p, v->items[i], value - v->items[i]);
                *p++ = '\'';
                for (const char *c = value; *c; c++)
                        if (*c == '\'')
                                p = mempcpy(p, "'\\''", 4);
                        else
                                *p++ = *c;
                *p++ = '\'';
                *p++ = '\n';
        }
        *p = '\0';
        *ret = text;
        *ret_size = p - text;
        return 0;
}
