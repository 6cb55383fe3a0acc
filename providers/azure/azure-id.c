/* SPDX-License-Identifier: Apache-2.0 */
#include "azure-id.h"

#include <ctype.h>
#include <stdio.h>
#include <strings.h>

#include "basic/util.h"

#define SEGMENTS_MAX 16
#define URL_MAX 4096

static bool segment_is_plain(const char *s, size_t n) {
        if (n == 0 || (n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.'))
                return false;
        for (size_t i = 0; i < n; i++)
                if (!isalnum((unsigned char) s[i]) && !strchr("-_.()", s[i]))
                        return false;
        return true;
}

/* Returns the number of segments, 0 if there is something wrong. */
static size_t split(const char *s, const char **ret, size_t *ret_sizes, size_t max) {
        size_t n = 0;

        if (*s != '/' || strlen(s) >= ARM_ID_SIZE)
                return 0;
        while (*s == '/') {
                size_t size = strcspn(++s, "/");

                if (n >= max || !segment_is_plain(s, size))
                        return 0;
                ret[n] = s;
                ret_sizes[n++] = size;
                s += size;
        }
        return n;
}

bool arm_path_is_plain(const char *s) {
        const char *segments[SEGMENTS_MAX];
        size_t sizes[SEGMENTS_MAX];

        return split(s, segments, sizes, SEGMENTS_MAX) > 0;
}

static bool copy_segment(char *to, size_t size, const char *from, size_t n) {
        if (n >= size)
                return false;
        memcpy(to, from, n);
        to[n] = '\0';
        return true;
}

static bool keyword(const char *s, size_t n, const char *word) {
        return strlen(word) == n && strncasecmp(s, word, n) == 0;
}

int arm_id_parse(const char *s, ArmId *ret) {
        const char *p[SEGMENTS_MAX];
        size_t size[SEGMENTS_MAX], n, at;
        ArmId id = {};

        n = split(s, p, size, SEGMENTS_MAX);
        if (n < 8 || n % 2 != 0)
                return -EINVAL;
        if (!keyword(p[0], size[0], "subscriptions") || !keyword(p[2], size[2], "resourceGroups") || !keyword(p[4], size[4], "providers"))
                return -EINVAL;
        if (!copy_segment(id.subscription, sizeof(id.subscription), p[1], size[1]) || !copy_segment(id.group, sizeof(id.group), p[3], size[3]) ||
            !copy_segment(id.name, sizeof(id.name), p[n - 1], size[n - 1]) || !copy_segment(id.type, sizeof(id.type), p[5], size[5]))
                return -EINVAL;

        at = size[5];
        for (size_t i = 6; i < n; i += 2) {
                if (at + 1 + size[i] >= sizeof(id.type))
                        return -EINVAL;
                id.type[at++] = '/';
                memcpy(id.type + at, p[i], size[i]);
                at += size[i];
                id.type[at] = '\0';
        }
        *ret = id;
        return 0;
}

bool arm_id_is(const ArmId *id, const char *type) {
        return strcasecmp(id->type, type) == 0;
}

bool arm_location_equal(const char *a, const char *b) {
        for (;;) {
                while (*a == ' ')
                        a++;
                while (*b == ' ')
                        b++;
                if (tolower((unsigned char) *a) != tolower((unsigned char) *b))
                        return false;
                if (*a == '\0')
                        return true;
                a++;
                b++;
        }
}

bool arm_url_is_below(const char *url, const char *endpoint) {
        size_t n = strlen(endpoint);

        if (strlen(url) >= URL_MAX)
                return false;
        for (const char *p = url; *p; p++)
                if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7f)
                        return false;
        return strncasecmp(url, endpoint, n) == 0 && url[n] == '/';
}
