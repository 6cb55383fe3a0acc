/* SPDX-License-Identifier: Apache-2.0 */
#include "powervs-size.h"

#include "basic/util.h"

#define WHOLE_MAX UINT64_C(100000)
#define MEMORY_MIN_GB 2                 /* upstream's default */

static const char *const processors[] = {
        [POWERVS_SHARED] = "shared",
        [POWERVS_CAPPED] = "capped",
        [POWERVS_DEDICATED] = "dedicated",
};

bool powervs_processor_parse(const char *s, PowerVsProcessor *ret) {
        for (size_t i = 0; i < ELEMENTSOF(processors); i++)
                if (streq(s, processors[i])) {
                        *ret = (PowerVsProcessor) i;
                        return true;
                }
        return false;
}

const char* powervs_processor_name(PowerVsProcessor p) {
        return processors[p];
}

static bool is_digit(char c) {
        return c >= '0' && c <= '9';
}

int powervs_decimal_parse(const char *s, size_t n, uint64_t *ret) {
        uint64_t whole = 0, hundredths = 0;
        size_t i = 0, digits;
        bool more = false;

        for (; i < n && is_digit(s[i]); i++) {
                whole = whole * 10 + (uint64_t) (s[i] - '0');
                if (whole > WHOLE_MAX)
                        return -ERANGE;
        }
        if (i == 0)
                return -EINVAL;
        if (i < n && s[i] == '.') {
                i++;
                for (digits = 0; i < n && is_digit(s[i]); i++, digits++)
                        if (digits < 2)
                                hundredths = hundredths * 10 + (uint64_t) (s[i] - '0');
                        else if (s[i] != '0')
                                more = true;
                if (digits == 0)
                        return -EINVAL;
                if (digits == 1)
                        hundredths *= 10;
        }
        if (i != n)
                return -EINVAL;
        hundredths += whole * 100 + more;
        if (hundredths > WHOLE_MAX * 100)
                return -ERANGE;
        *ret = hundredths;
        return 0;
}

int powervs_type_parse(const char *type, PowerVsSize *size) {
        const char *dash = strchr(type, '-'), *x = dash ? strchr(dash, 'x') : NULL;
        PowerVsSize parsed = *size;
        uint64_t memory;
        size_t n;
        int r;

        if (!dash || !x)
                return -EINVAL;
        n = (size_t) (dash - type);
        if (n == 0 || n >= sizeof(parsed.system) || strspn(type, "abcdefghijklmnopqrstuvwxyz0123456789") != n)
                return -EINVAL;
        r = powervs_decimal_parse(dash + 1, (size_t) (x - dash - 1), &parsed.cpu_hundredths);
        if (r == 0)
                r = powervs_decimal_parse(x + 1, strlen(x + 1), &memory);
        if (r < 0)
                return r;
        if (parsed.cpu_hundredths == 0 || memory == 0)
                return -EINVAL;
        memcpy(parsed.system, type, n);
        parsed.system[n] = '\0';
        parsed.memory_gb = (memory + 99) / 100;
        *size = parsed;
        return 0;
}

void powervs_size_round(PowerVsSize *size) {
        uint64_t step = size->processor == POWERVS_DEDICATED ? 100 : 25;

        size->cpu_hundredths = MAX((size->cpu_hundredths + step - 1) / step, UINT64_C(1)) * step;
        size->memory_gb = MAX(size->memory_gb, (uint64_t) MEMORY_MIN_GB);
}

int powervs_size_choose(const PowerVsSize *configured, const PeerpodInstanceSpec *spec, PowerVsSize *ret, PeerpodError *error) {
        PowerVsSize size = *configured;

        if (spec->gpus > 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "PowerVS has no GPUs.");
        if (!isempty(spec->machine_type)) {
                if (powervs_type_parse(spec->machine_type, &size) < 0)
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Instance type '%.64s' is not of the form SYSTEM-PROCESSORSxMEMORY, such as 's922-0.5x4'.",
                                                 spec->machine_type);
        } else if (spec->vcpus > 0 && spec->memory_mib > 0) {
                size.cpu_hundredths = (uint64_t) spec->vcpus * 100;
                size.memory_gb = (spec->memory_mib + 1023) / 1024;
        }
        powervs_size_round(&size);
        *ret = size;
        return 0;
}
