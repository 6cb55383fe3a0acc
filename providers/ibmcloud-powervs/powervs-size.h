/* SPDX-License-Identifier: Apache-2.0 */
/* How big a pod VM is: processors in quarters, memory in GB. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "provider/peerpod-provider.h"

#define POWERVS_SYSTEM_SIZE 32

typedef enum PowerVsProcessor {
        POWERVS_SHARED,
        POWERVS_CAPPED,
        POWERVS_DEDICATED,
} PowerVsProcessor;

typedef struct PowerVsSize {
        char system[POWERVS_SYSTEM_SIZE];       /* "s922" */
        PowerVsProcessor processor;
        uint64_t cpu_hundredths;
        uint64_t memory_gb;
} PowerVsSize;

bool powervs_processor_parse(const char *s, PowerVsProcessor *ret);
const char* powervs_processor_name(PowerVsProcessor p);

/* powervs_decimal_parse() - "2", "0.5", "0.25": hundredths, further digits rounded up; at most 100000 whole ones. Returns 0, -EINVAL, -ERANGE. */
int powervs_decimal_parse(const char *s, size_t n, uint64_t *ret);

/* powervs_type_parse() - "s922-0.5x4": system, processors, memory in GB. *size is changed only on success. Returns 0, -EINVAL, -ERANGE. */
int powervs_type_parse(const char *type, PowerVsSize *size);

/* powervs_size_round() - up to what PowerVS has: quarters of a processor (dedicated: whole ones), whole GB, at least 2 */
void powervs_size_round(PowerVsSize *size);

/* powervs_size_choose() - of a pod, beginning from that of the settings. Returns 0, or -EINVAL with *error set. */
int powervs_size_choose(const PowerVsSize *configured, const PeerpodInstanceSpec *spec, PowerVsSize *ret, PeerpodError *error);
