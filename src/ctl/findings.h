/* SPDX-License-Identifier: Apache-2.0 */
/* What 'peerpodctl check' has found: each thing with what is wrong and how to mend it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/json.h"
#include "basic/util.h"

typedef enum Severity {
        SEVERITY_OK,
        SEVERITY_SKIPPED,       /* could not be looked at; no verdict */
        SEVERITY_WARNING,
        SEVERITY_ERROR,
        _SEVERITY_MAX,
} Severity;

typedef struct Finding {
        Severity severity;
        char *subject, *text, *remedy;  /* owned; @remedy may be NULL */
} Finding;

typedef struct Findings {
        Finding *items;
        size_t n_items;
        bool out_of_memory;
} Findings;

void findings_done(Findings *f);

/* finding_add() - @remedy: what to do about it, or NULL. Without memory Findings.out_of_memory is set. */
void finding_add(Findings *f, Severity severity, const char *subject, const char *remedy, const char *format, ...) PRINTF(5, 6);

Severity findings_worst(const Findings *f);
const char* severity_to_string(Severity s);

/* findings_print() - on stdout; what is in order only with @all */
void findings_print(const Findings *f, bool all);
int findings_to_json(const Findings *f, json_object **ret);
