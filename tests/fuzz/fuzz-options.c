/* SPDX-License-Identifier: Apache-2.0 */
/* Settings from the environment and the command line: accepted within their limits, or refused with an exit status. The input is
 * lines; those that begin with '$' are variables, the others arguments. */
#include <stdio.h>

#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

#define ARGUMENTS_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Target {
        char *text, *secret;
        char **list;
        bool flag;
        uint32_t number;
        uint64_t big, duration;
        uint16_t port;
} Target;

static const Option options[] = {
        { "text", "FUZZ_TEXT", OPTION_STRING, offsetof(Target, text), "t", "Text", "TEXT" },
        { "secret", "FUZZ_SECRET", OPTION_STRING, offsetof(Target, secret), NULL, "Secret", "TEXT", .secret = true },
        { "list", "FUZZ_LIST", OPTION_STRV, offsetof(Target, list), NULL, "List", "A,B" },
        { "flag", "FUZZ_FLAG", OPTION_BOOL, offsetof(Target, flag), "false", "Flag", NULL },
        { "number", "FUZZ_NUMBER", OPTION_U32, offsetof(Target, number), "7", "Number", "N", .min = 2, .max = 99 },
        { "big", "FUZZ_BIG", OPTION_U64, offsetof(Target, big), "8", "Number", "N" },
        { "duration", "FUZZ_DURATION", OPTION_DURATION, offsetof(Target, duration), "5m", "Time", "TIME" },
        { "port", "FUZZ_PORT", OPTION_PORT, offsetof(Target, port), "15150", "Port", "PORT" },
        {}
};

static const Program program = { "fuzz", "[OPTIONS…]", "Takes options.", options, "fuzz(1)" };

static void check_numbers(const char *s) {
        uint64_t v = 0, w = 0;
        uint32_t u = 0;
        uint16_t port = 0;
        bool b;

        if (parse_u64(s, &v) == 0)
                assert(parse_decimal_ceil(s, &w) == 0 && v == w);
        if (parse_u32(s, &u) == 0)
                assert(parse_u64(s, &v) == 0 && v == u);
        if (parse_port(s, &port) == 0)
                assert(port > 0);
        (void) parse_bool(s, &b);
        (void) parse_duration_usec(s, &v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(freep) char *text = NULL;
        char *argv[ARGUMENTS_MAX + 2] = { (char*) "fuzz" };
        Target target = {};
        int argc = 1, status = -1, rest = 0, r;

        if (log_get_max_level() >= 0) {
                log_set_max_level(-1);
                if (!freopen("/dev/null", "w", stdout))         /* --help */
                        abort();
        }
        text = malloc(size + 1);
        assert(text);
        if (size > 0)
                memcpy(text, data, size);
        text[size] = '\0';

        (void) clearenv();
        for (char *line = text, *next; line && argc <= ARGUMENTS_MAX; line = next) {
                next = strchr(line, '\n');
                if (next)
                        *next++ = '\0';
                check_numbers(line);
                if (line[0] == '$')
                        (void) putenv(line + 1);        /* without '=' it removes one */
                else
                        argv[argc++] = line;
        }

        r = options_load(&program, argc, argv, &target, argc % 2 ? &rest : NULL, &status);
        assert(r == 0 || r == 1);
        if (r == 0) {
                assert(target.number >= 2 && target.number <= 99);
                assert(target.port > 0);
                assert(target.text);
                assert(rest >= 0 && rest <= argc);
        } else
                assert(status == 0 || status == EXIT_USAGE || status == EXIT_CONFIGURATION);

        options_done(options, &target);
        (void) clearenv();
        return 0;
}
