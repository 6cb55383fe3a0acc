/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/instance-name.h"

#include <stdio.h>

#include "basic/util.h"

#define PREFIX "podvm-"
#define SID_SIZE 8

static bool char_is_alphanumeric(char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static char sanitize(char c) {
        if (c >= 'A' && c <= 'Z')
                return c - 'A' + 'a';
        return char_is_alphanumeric(c) ? c : '-';
}

int instance_name_make(const char *pod_name, const char *sandbox_id, size_t max, char **ret) {
        size_t fixed = strlen(PREFIX) + 1 + SID_SIZE, n;
        char *name;

        if (isempty(pod_name) || isempty(sandbox_id) || max <= fixed)
                return -EINVAL;

        n = MIN(strlen(pod_name), max - fixed);
        if (asprintf(&name, PREFIX "%.*s-%.*s", (int) n, pod_name, SID_SIZE, sandbox_id) < 0)
                return -ENOMEM;
        for (char *p = name; *p; p++)
                *p = sanitize(*p);
        if (name[strlen(name) - 1] == '-')      /* no host name label; a CRI runtime's ids never end so */
                name[strlen(name) - 1] = 'x';

        *ret = name;
        return 0;
}

bool instance_name_is_valid(const char *s) {
        size_t n = s ? strlen(s) : 0;

        if (n == 0 || n > INSTANCE_NAME_MAX || s[0] == '-' || s[n - 1] == '-')
                return false;
        for (size_t i = 0; i < n; i++)
                if (!char_is_alphanumeric(s[i]) && s[i] != '-')
                        return false;
        return true;
}
