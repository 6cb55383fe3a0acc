/* SPDX-License-Identifier: Apache-2.0 */
/* Flags and variables of the module cannot be known before the module is loaded, and which module that is stands among the flags
 * and variables. So the name and what decides about an external module are looked up first, in the same places and with the same
 * precedence; then one table of all options is read as in every other program of the family. */
#include "provider/settings.h"

#include <inttypes.h>

#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "basic/paths.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "provider/option-list.h"

typedef union Value {
        char *text;
        bool boolean;
        uint64_t number;
} Value;

#define FIELD(f) offsetof(Settings, f)

static const Option own_options[] = {
        { "provider", "CLOUD_PROVIDER", OPTION_STRING, FIELD(provider), "libvirt",
          "Provider: the name of a module", "NAME" },
        { "check", NULL, OPTION_BOOL, FIELD(check), "false",
          "Check the configuration against the cloud, and exit" },
        { "check-settings", NULL, OPTION_BOOL, FIELD(check_settings), "false",
          "Say whether these settings would be taken, and exit; the cloud is not asked" },
        { "print-options", NULL, OPTION_BOOL, FIELD(print_options), "false",
          "Print the provider's own options as JSON, and exit" },
        { "cloud-config-verify", "CLOUD_CONFIG_VERIFY", OPTION_BOOL, FIELD(verify), "false",
          "Do that check at each start, and start only if it passes" },
        { "socket", NULL, OPTION_STRING, FIELD(socket), "",
          "Listen there instead of on the socket passed by systemd", "PATH" },
        { "peer-user", "PEERPOD_PROVIDER_PEER_USER", OPTION_STRING, FIELD(peer_user), "peerpod",
          "The user, beside root and our own, that may connect", "NAME" },
        { "module-directory", "PEERPOD_PROVIDER_MODULE_DIRECTORY", OPTION_STRING, FIELD(module_directory), PROVIDERMODULEDIR,
          "Where the modules are", "PATH" },
        { "state-directory", "STATE_DIRECTORY", OPTION_STRING, FIELD(state_directory), PEERPOD_PROVIDER_STATE_DIR,
          "Where a module may keep files", "PATH" },
        { "workers", NULL, OPTION_U32, FIELD(n_workers), "8",
          "How many creations, and how many other calls, may run at once", "N", .min = 1, .max = 64 },
        { "call-patience", NULL, OPTION_DURATION, FIELD(patience_usec), "10s",
          "How long a call counts among those", "TIME" },
        { "threads", NULL, OPTION_U32, FIELD(n_threads), "256",
          "How many calls may run at once in all", "N", .min = 2, .max = 1024 },
        { "queue", NULL, OPTION_U32, FIELD(n_queue), "4096",
          "How many more calls may wait", "N", .min = 1, .max = 65536 },
        { "create-timeout", "PEERPOD_CREATE_TIMEOUT", OPTION_DURATION, FIELD(create_timeout_usec), "10m",
          "How long the creation of an instance may take", "TIME" },
        { "delete-timeout", "PEERPOD_DELETE_TIMEOUT", OPTION_DURATION, FIELD(delete_timeout_usec), "10m",
          "How long the deletion of an instance may take", "TIME" },
        { "find-timeout", "PEERPOD_FIND_TIMEOUT", OPTION_DURATION, FIELD(find_timeout_usec), "2m",
          "How long a search, or the check, may take", "TIME" },
        { "stop-timeout", NULL, OPTION_DURATION, FIELD(stop_timeout_usec), "1m",
          "How long running calls may take to end when the service stops", "TIME" },
        { NULL, "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN", OPTION_STRING, FIELD(external_enable), "",
          "'true' loads an external module" },
        { NULL, "CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH", OPTION_STRING, FIELD(external_path), "",
          "Absolute path of the external module" },
        { NULL, "CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH", OPTION_STRING, FIELD(external_hash), "",
          "Its SHA-256" },
};

/* The last "-flag value" or "-flag=value" of the command line. */
static const char* find_flag(int argc, char *argv[], const char *flag) {
        const char *found = NULL;

        for (int i = 1; i < argc && argv[i][0] == '-' && !streq(argv[i], "--"); i++) {
                const char *rest = startswith(argv[i] + (argv[i][1] == '-' ? 2 : 1), flag);

                if (rest && *rest == '=')
                        found = rest + 1;
                else if (rest && *rest == '\0' && i + 1 < argc)
                        found = argv[i + 1];
                /* A flag's value may stand alone. */
                if (!strchr(argv[i], '=') && i + 1 < argc && argv[i + 1][0] != '-')
                        i++;
        }

        return found;
}

static const char* find_value(int argc, char *argv[], const char *flag, const char *variable, const char *fallback) {
        const char *value = flag ? find_flag(argc, argv, flag) : NULL;

        if (!value)
                value = getenv(variable);
        return isempty(value) ? fallback : value;
}

/* Upstream's chart has one provider under another name than its program. */
static const char* provider_name(const char *name) {
        return streq(name, "ibmcloudpowervs") ? "ibmcloud-powervs" : name;
}

static bool help_is_asked(int argc, char *argv[]) {
        for (int i = 1; i < argc && argv[i][0] == '-' && !streq(argv[i], "--"); i++) {
                const char *name = argv[i] + (argv[i][1] == '-' ? 2 : 1);

                if (streq(name, "help") || streq(name, "h") || streq(name, "version"))
                        return true;
        }
        return false;
}

static Value* module_values(Settings *s) {
        return (Value*) (s + 1);
}

/* Lists, maps and decimals are read as texts, and checked when all settings are there. */
static Option module_option(const PeerpodOption *o, size_t offset) {
        static const struct {
                OptionType type;
                const char *metavar;
        } types[_PEERPOD_OPTION_TYPE_MAX] = {
                [PEERPOD_OPTION_STRING]   = { OPTION_STRING,   "TEXT"           },
                [PEERPOD_OPTION_BOOL]     = { OPTION_BOOL,     NULL             },
                [PEERPOD_OPTION_UINT]     = { OPTION_U64,      "N"              },
                [PEERPOD_OPTION_LIST]     = { OPTION_STRING,   "A,B,…"          },
                [PEERPOD_OPTION_MAP]      = { OPTION_STRING,   "KEY=VALUE,…"    },
                [PEERPOD_OPTION_DECIMAL]  = { OPTION_STRING,   "N.N"            },
                [PEERPOD_OPTION_DURATION] = { OPTION_DURATION, "TIME"           },
        };

        return (Option) {
                .flag = (o->flags & PEERPOD_OPTION_SECRET) ? NULL : o->name,
                .variable = o->env,
                .type = types[o->type].type,
                .offset = offset,
                .value = o->default_value,
                .help = o->help,
                .metavar = types[o->type].metavar,
                .secret = (o->flags & PEERPOD_OPTION_SECRET) != 0,
                .min = o->minimum,
                .max = o->maximum,
        };
}

/* All options in one table, which ends with an empty entry. */
static int make_table(const PeerpodProvider *module, Option **ret) {
        size_t n = module ? module->n_options : 0;
        Option *table;

        table = new0(Option, ELEMENTSOF(own_options) + n + 1);
        if (!table)
                return -ENOMEM;
        memcpy(table, own_options, sizeof(own_options));
        for (size_t i = 0; i < n; i++)
                table[ELEMENTSOF(own_options) + i] = module_option(module->options + i, sizeof(Settings) + i * sizeof(Value));
        *ret = table;
        return 0;
}

static int list_to_text(const char *value, char **ret) {
        _cleanup_(strv_freep) char **items = NULL, **kept = NULL;
        int r;

        r = strv_split(value, ",", &items);
        for (char **i = items; r >= 0 && *i; i++)
                if (!strv_contains(kept, *i))
                        r = strv_extend(&kept, *i);
        return r < 0 ? r : strv_join(kept, ",", ret);
}

/* "a = b" → "a=b" */
static int pair_to_text(char *pair, char ***map) {
        char *value = strchr(pair, '='), *end;
        _cleanup_(freep) char *text = NULL;
        size_t n;

        if (!value)
                return -EINVAL;
        for (end = value++; end > pair && strchr(" \t", end[-1]); end--)
                ;
        n = end - pair;
        value += strspn(value, " \t");
        if (n == 0)
                return -EINVAL;
        for (char **m = *map; m && *m; m++)
                if (strncmp(*m, pair, n) == 0 && (*m)[n] == '=')
                        return -EINVAL;
        if (asprintf(&text, "%.*s=%s", (int) n, pair, value) < 0)
                return -ENOMEM;
        return strv_extend(map, text);
}

static int map_to_text(const char *value, char **ret) {
        _cleanup_(strv_freep) char **pairs = NULL, **map = NULL;
        int r;

        r = strv_split(value, ",", &pairs);
        for (char **p = pairs; r >= 0 && *p; p++)
                r = pair_to_text(*p, &map);
        return r < 0 ? r : strv_join(map, ",", ret);
}

static int decimal_to_text(const char *value, char **ret) {
        uint64_t rounded;
        int r;

        r = isempty(value) ? 0 : parse_decimal_ceil(value, &rounded);
        if (r < 0)
                return r;
        *ret = strdup(value);
        return *ret ? 0 : -ENOMEM;
}

/* What the module is given. Returns 0, -EINVAL or -ERANGE (not of its type), -ENOMEM. */
static int value_to_text(const PeerpodOption *o, const Value *v, char **ret) {
        switch (o->type) {

        case PEERPOD_OPTION_BOOL:
                *ret = strdup(v->boolean ? "true" : "false");
                return *ret ? 0 : -ENOMEM;

        case PEERPOD_OPTION_UINT:
        case PEERPOD_OPTION_DURATION:
                return asprintf(ret, "%" PRIu64, v->number) < 0 ? -ENOMEM : 0;

        case PEERPOD_OPTION_LIST:
                return list_to_text(strempty(v->text), ret);

        case PEERPOD_OPTION_MAP:
                return map_to_text(strempty(v->text), ret);

        case PEERPOD_OPTION_DECIMAL:
                return decimal_to_text(strempty(v->text), ret);

        default:
                *ret = strdup(strempty(v->text));
                return *ret ? 0 : -ENOMEM;
        }
}

static int refuse_value(const PeerpodOption *o, const Value *v) {
        static const char *const what[_PEERPOD_OPTION_TYPE_MAX] = {
                [PEERPOD_OPTION_LIST]    = "a list 'a,b'",
                [PEERPOD_OPTION_MAP]     = "a list 'key=value,key=value' without repetitions",
                [PEERPOD_OPTION_DECIMAL] = "a number such as '2' or '0.5'",
        };
        bool secret = (o->flags & PEERPOD_OPTION_SECRET) != 0;

        log_error("Value%s%.64s%s of %s%s is not %s.", secret ? "" : " '", secret ? "" : strempty(v->text), secret ? "" : "'",
                  o->env ? "variable " : "option --", o->env ?: o->name, what[o->type] ?: "valid");
        return 1;
}

static int take_module_values(Settings *s, int *ret_exit) {
        s->values = new0(const char*, s->module->n_options + 1);
        if (!s->values)
                return -ENOMEM;

        for (uint32_t i = 0; i < s->module->n_options; i++) {
                const PeerpodOption *o = s->module->options + i;
                char *text = NULL;
                int r;

                r = value_to_text(o, module_values(s) + i, &text);
                if (r == -ENOMEM)
                        return r;
                if (r < 0) {
                        *ret_exit = EXIT_CONFIGURATION;
                        return refuse_value(o, module_values(s) + i);
                }
                s->values[i] = text;
                if ((o->flags & PEERPOD_OPTION_REQUIRED) && isempty(s->values[i])) {
                        log_error("Provider '%s' needs %s%s to be set.", s->module->name,
                                  o->env ? "variable " : "option --", o->env ?: o->name);
                        *ret_exit = EXIT_CONFIGURATION;
                        return 1;
                }
        }

        return 0;
}

int settings_load(int argc, char *argv[], Settings **ret, int *ret_exit) {
        const PeerpodProvider *module = NULL;
        const ModuleExternal external = {
                .enable = find_value(argc, argv, NULL, "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN", ""),
                .path = find_value(argc, argv, NULL, "CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH", ""),
                .hash = find_value(argc, argv, NULL, "CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH", ""),
        };
        _cleanup_(settings_freep) Settings *s = NULL;
        _cleanup_(freep) Option *table = NULL;
        int r;

        r = module_load(find_value(argc, argv, "module-directory", "PEERPOD_PROVIDER_MODULE_DIRECTORY", PROVIDERMODULEDIR),
                        provider_name(find_value(argc, argv, "provider", "CLOUD_PROVIDER", "libvirt")), &external, &module);
        if (r == -ENOMEM)
                return r;
        if (r < 0 && !help_is_asked(argc, argv)) {
                *ret_exit = EXIT_CONFIGURATION;
                return 1;
        }

        s = calloc(1, sizeof(Settings) + (module ? module->n_options : 0) * sizeof(Value));
        if (!s)
                return -ENOMEM;
        s->module = module;
        r = make_table(module, &table);
        if (r < 0)
                return r;

        const Program program = {
                .name = "peerpod-providerd",
                .usage = "[OPTIONS…]",
                .description = "Creates, finds and deletes pod VMs through a cloud's module.",
                .options = table,
                .man = "peerpod-providerd(8)",
        };

        r = options_load(&program, argc, argv, s, /* ret_rest= */ NULL, ret_exit);
        if (r != 0)
                return r;
        if (s->print_options) {
                r = option_list_print(module, stdout);
                *ret_exit = r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
                return r == -ENOMEM ? r : 1;
        }
        r = take_module_values(s, ret_exit);
        if (r != 0)
                return r;

        *ret = TAKE_PTR(s);
        return 0;
}

Settings* settings_free(Settings *s) {
        _cleanup_(freep) Option *table = NULL;

        if (!s)
                return NULL;

        for (uint32_t i = 0; s->values && s->values[i]; i++)
                erase_free((char*) s->values[i], strlen(s->values[i]));
        free(s->values);
        if (make_table(s->module, &table) >= 0)
                options_done(table, s);
        free(s);
        return NULL;
}
