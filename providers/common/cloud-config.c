/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-config.h"

#include "basic/parse.h"
#include "basic/util.h"

bool config_bool(const PeerpodConfig *config, unsigned option) {
        return streq(config->values[option], "true");
}

uint64_t config_uint(const PeerpodConfig *config, unsigned option) {
        uint64_t v = 0;

        (void) parse_u64(config->values[option], &v);   /* the daemon has checked it */
        return v;
}

int oom(PeerpodError *error) {
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Out of memory.");
}

int config_copy(const PeerpodConfig *config, unsigned option, char **ret, PeerpodError *error) {
        *ret = strdup(config->values[option]);
        return *ret ? 0 : oom(error);
}

int config_refuse(PeerpodError *error, const PeerpodOption *options, const PeerpodConfig *config, unsigned option, const char *why) {
        const char *name = options[option].env ?: options[option].name;

        if (options[option].flags & PEERPOD_OPTION_SECRET)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Value of %s: %s.", name, why);
        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Value '%.128s' of %s: %s.", config->values[option], name, why);
}

bool list_next(const char **p, const char **ret_item, size_t *ret_size) {
        if (isempty(*p))
                return false;
        *ret_item = *p;
        *ret_size = strcspn(*p, ",");
        *p += *ret_size + ((*p)[*ret_size] == ',');
        return true;
}

bool list_contains(const char *list, const char *item) {
        const char *i;
        size_t n;

        while (list_next(&list, &i, &n))
                if (strlen(item) == n && strncmp(i, item, n) == 0)
                        return true;
        return false;
}

const char* environment_or(const char *variable, const char *fallback) {
        const char *value = getenv(variable);

        return isempty(value) ? fallback : value;
}
