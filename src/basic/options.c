/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/options.h"

#include <inttypes.h>
#include <stdio.h>

#include "basic/daemon.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/parse.h"
#include "basic/strv.h"

static const char* type_name(OptionType type) {
        static const char *const names[] = {
                [OPTION_STRING] = "a text",
                [OPTION_STRV] = "a comma-separated list",
                [OPTION_BOOL] = "a boolean (true or false)",
                [OPTION_U32] = "a whole number",
                [OPTION_U64] = "a whole number",
                [OPTION_PORT] = "a port number, 1 to 65535",
                [OPTION_DURATION] = "a duration such as '5m', '300s' or '300'",
        };

        return names[type];
}

static void* field_of(const Option *option, void *target) {
        return (char*) target + option->offset;
}

static int set_value(const Option *option, void *field, const char *value) {
        int r;

        switch (option->type) {

        case OPTION_STRING: {
                char *s = strdup(value);

                if (!s)
                        return -ENOMEM;
                free(*(char**) field);
                *(char**) field = s;
                return 0;
        }

        case OPTION_STRV: {
                _cleanup_(strv_freep) char **l = NULL;

                r = strv_split(value, ",", &l);
                for (char **s = l; r >= 0 && *s; s++)
                        r = strv_extend(field, *s);
                return r;
        }

        case OPTION_BOOL:
                return parse_bool(value, field);

        case OPTION_U32:
        case OPTION_U64: {
                uint64_t v;

                r = parse_u64(value, &v);
                if (r < 0)
                        return r;
                if (v < option->min || v > (option->max ?: UINT64_MAX) || (option->type == OPTION_U32 && v > UINT32_MAX))
                        return -ERANGE;
                if (option->type == OPTION_U32)
                        *(uint32_t*) field = v;
                else
                        *(uint64_t*) field = v;
                return 0;
        }

        case OPTION_PORT:
                return parse_port(value, field);

        case OPTION_DURATION:
                return parse_duration_usec(value, field);
        }

        assert(false);
        return -EINVAL;
}

int options_set(const Option *option, void *target, const char *value, const char *origin) {
        _cleanup_(freep) char *range = NULL, *shown = NULL;
        int r = set_value(option, field_of(option, target), value);

        if (r >= 0)
                return 0;
        if (r == -ENOMEM)
                return log_oom();

        if (r == -ERANGE && option->max > 0 &&
            asprintf(&range, ", between %" PRIu64 " and %" PRIu64, option->min, option->max) < 0)
                return log_oom();
        if (!option->secret && asprintf(&shown, " '%.64s'", value) < 0)
                return log_oom();
        log_error("Value%s of %s is not %s%s.", strempty(shown), origin, type_name(option->type), strempty(range));
        return -EINVAL;
}

static bool option_is_end(const Option *o) {
        return !o->flag && !o->variable;
}

static void print_help(const Program *program) {
        printf("Usage: %s %s\n\n%s\n\n", program->name, program->usage, program->description);
        for (const Option *o = program->options; !option_is_end(o); o++) {
                char left[64];

                if (o->flag)
                        (void) snprintf(left, sizeof(left), "--%s%s%s", o->flag, o->metavar ? " " : "", strempty(o->metavar));
                else
                        (void) snprintf(left, sizeof(left), "$%s", o->variable);
                printf("  %-34s %s", left, o->help);
                if (!o->secret && !isempty(o->value) && !(o->type == OPTION_BOOL && streq(o->value, "false")))
                        printf(" (default: %s)", o->value);
                if (o->flag && o->variable)
                        printf(" [$%s]", o->variable);
                putchar('\n');
        }
        printf("  %-34s %s\n  %-34s %s\n", "--help", "Show this help", "--version", "Show the version");
        if (program->man)
                printf("\nSee the %s man page.\n", program->man);
}

static int load_variables(const Program *program, void *target, int *ret_exit) {
        for (const Option *o = program->options; !option_is_end(o); o++) {
                const char *value = o->variable ? getenv(o->variable) : NULL;
                char origin[128];
                int r;

                if (isempty(value))
                        continue;
                (void) snprintf(origin, sizeof(origin), "variable '%s'", o->variable);
                r = options_set(o, target, value, origin);
                if (r == -ENOMEM)
                        return r;
                if (r < 0) {
                        *ret_exit = EXIT_CONFIGURATION;
                        return 1;
                }
        }

        return 0;
}

static const Option* find_flag(const Option *options, const char *name, size_t size) {
        for (const Option *o = options; !option_is_end(o); o++)
                if (o->flag && strlen(o->flag) == size && strncmp(o->flag, name, size) == 0)
                        return o;
        return NULL;
}

static int usage_error(int *ret_exit) {
        *ret_exit = EXIT_USAGE;
        return 1;
}

int options_load(const Program *program, int argc, char *const argv[], void *target, int *ret_rest, int *ret_exit) {
        int i, r;

        /* Before anything else, so that they work whatever the environment holds. */
        for (i = 1; i < argc && argv[i][0] == '-' && !streq(argv[i], "--"); i++) {
                const char *name = argv[i] + (argv[i][1] == '-' ? 2 : 1);

                if (streq(name, "help") || streq(name, "h")) {
                        print_help(program);
                        *ret_exit = 0;
                        return 1;
                }
                if (streq(name, "version") && !find_flag(program->options, name, strlen(name))) {
                        *ret_exit = daemon_print_version(program->name);
                        return 1;
                }
        }

        for (const Option *o = program->options; !option_is_end(o); o++)
                if (o->value) {
                        r = set_value(o, field_of(o, target), o->value);
                        assert(r != -EINVAL && r != -ERANGE);
                        if (r < 0)
                                return log_oom();
                }

        r = load_variables(program, target, ret_exit);
        if (r != 0)
                return r;

        for (i = 1; i < argc && argv[i][0] == '-' && argv[i][1] != '\0'; i++) {
                const char *name, *value;
                const Option *o;
                char origin[128];

                if (streq(argv[i], "--")) {
                        i++;
                        break;
                }

                name = argv[i] + (argv[i][1] == '-' ? 2 : 1);
                value = strchr(name, '=');
                o = find_flag(program->options, name, value ? (size_t) (value - name) : strlen(name));
                if (!o) {
                        log_error("Unknown option '%s'. Try '%s --help'.", argv[i], program->name);
                        return usage_error(ret_exit);
                }

                if (value)
                        value++;
                else if (o->type == OPTION_BOOL)
                        value = "true";
                else if (i + 1 < argc)
                        value = argv[++i];
                else {
                        log_error("Option '--%s' needs a value.", o->flag);
                        return usage_error(ret_exit);
                }

                (void) snprintf(origin, sizeof(origin), "option '--%s'", o->flag);
                r = options_set(o, target, value, origin);
                if (r == -ENOMEM)
                        return r;
                if (r < 0)
                        return usage_error(ret_exit);
        }

        if (ret_rest)
                *ret_rest = i;
        else if (i < argc) {
                log_error("Unexpected argument '%s'. Try '%s --help'.", argv[i], program->name);
                return usage_error(ret_exit);
        }

        return 0;
}

void options_done(const Option *options, void *target) {
        for (const Option *o = options; !option_is_end(o); o++) {
                void *field = field_of(o, target);

                if (o->type == OPTION_STRING) {
                        char *s = *(char**) field;

                        *(char**) field = s && o->secret ? erase_free(s, strlen(s)) : (free(s), NULL);
                } else if (o->type == OPTION_STRV)
                        *(char***) field = strv_free(*(char***) field);
        }
}
