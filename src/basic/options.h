/* SPDX-License-Identifier: Apache-2.0 */
/* Settings from flags and environment by one table: flag > non-empty variable > default, as cloud-api-adaptor has it
 * (cloud-api-adaptor: src/cloud-providers/util.go), but what is ill-formed is refused with its name instead of ignored. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum OptionType {
        OPTION_STRING,          /* char*, owned; the default is copied, NULL allowed */
        OPTION_STRV,            /* char**, owned; comma separated; variable and flag add up, as upstream does */
        OPTION_BOOL,            /* bool; "-flag", "-flag=false" */
        OPTION_U32,             /* uint32_t, within [min, max] (max 0 = any) */
        OPTION_U64,             /* uint64_t, likewise */
        OPTION_PORT,            /* uint16_t, 1 to 65535 */
        OPTION_DURATION,        /* uint64_t, µs; "5m", "300s", "300" */
} OptionType;

typedef struct Option {
        const char *flag;       /* without dashes; "-x v", "-x=v", "--x v", "--x=v" are alike; NULL = variable only */
        const char *variable;   /* environment variable or NULL */
        OptionType type;
        size_t offset;          /* of the field in the target struct */
        const char *value;      /* default, as text; NULL = leave the field as it is */
        const char *help;       /* one line for --help */
        const char *metavar;    /* "PATH", "N" … in --help */
        bool secret;            /* never printed */
        uint64_t min, max;
} Option;

typedef struct Program {
        const char *name;
        const char *usage;              /* "[OPTIONS…]" */
        const char *description;        /* one sentence */
        const Option *options;          /* ends with an entry without flag and variable */
        const char *man;                /* "peerpod-adaptor(8)" */
} Program;

/**
 * options_load() - defaults, then environment, then the command line into @target
 * @argv:     not changed; the first argument that is no option, or what follows "--", ends the options
 * @ret_rest: index of the first argument that is no option; NULL = none allowed
 *
 * Handles --help and --version. Returns 0 to go on, or sets *ret_exit and returns 1 when the program should end now with that
 * exit status (0, EXIT_USAGE, EXIT_CONFIGURATION; the reason is logged, naming flag or variable, never a secret's value);
 * negative errno when memory is short. What it put into @target is freed by options_done(), on failure too.
 */
int options_load(const Program *program, int argc, char *const argv[], void *target, int *ret_rest, int *ret_exit);
void options_done(const Option *options, void *target);

/**
 * options_set() - set one option from text, with the checks of options_load(); for configuration from other sources
 * @origin: "variable 'X'" or "flag '-x'", for the log
 *
 * Returns 0, -EINVAL (logged), -ENOMEM.
 */
int options_set(const Option *option, void *target, const char *value, const char *origin);
