/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/option-list.h"

#include "basic/json.h"
#include "basic/util.h"

static const char* type_name(uint32_t type) {
        static const char *const names[_PEERPOD_OPTION_TYPE_MAX] = {
                [PEERPOD_OPTION_STRING]   = "string",
                [PEERPOD_OPTION_BOOL]     = "bool",
                [PEERPOD_OPTION_UINT]     = "uint64",
                [PEERPOD_OPTION_LIST]     = "custom",
                [PEERPOD_OPTION_MAP]      = "custom",
                [PEERPOD_OPTION_DECIMAL]  = "float64",
                [PEERPOD_OPTION_DURATION] = "duration",
        };

        return names[type];
}

/* What is secret has no flag: a command line is for all to see. */
static const char* flag_of(const PeerpodOption *o) {
        return (o->flags & PEERPOD_OPTION_SECRET) ? "" : strempty(o->name);
}

static int add_option(json_object *flags, const PeerpodOption *o) {
        json_object *flag = json_object_new_object();

        if (!flag)
                return -ENOMEM;
        if (json_set_string(flag, "flag_name", flag_of(o)) < 0 ||
            json_set_string(flag, "type", type_name(o->type)) < 0 ||
            json_set_string(flag, "default", o->default_value) < 0 ||
            json_set_string(flag, "env_var", strempty(o->env)) < 0 ||
            json_set_string(flag, "description", o->help) < 0 ||
            json_set_bool(flag, "required", (o->flags & PEERPOD_OPTION_REQUIRED) != 0) < 0 ||
            json_set_bool(flag, "secret", (o->flags & PEERPOD_OPTION_SECRET) != 0) < 0 ||
            json_object_array_add(flags, flag) < 0) {
                json_object_put(flag);
                return -ENOMEM;
        }
        return 0;
}

int option_list_print(const PeerpodProvider *module, FILE *f) {
        _cleanup_(json_object_putp) json_object *root = json_object_new_object();
        json_object *flags = json_object_new_array();
        const char *text;
        int r;

        if (!root || !flags) {
                json_object_put(flags);
                return -ENOMEM;
        }
        r = json_set_string(root, "provider", module->name);
        if (r >= 0)
                r = json_set(root, "flags", json_object_get(flags));
        for (uint32_t i = 0; r >= 0 && i < module->n_options; i++)
                r = add_option(flags, module->options + i);
        json_object_put(flags);
        if (r < 0)
                return r;

        text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY|JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text)
                return -ENOMEM;
        (void) fprintf(f, "%s\n", text);
        return fflush(f) != 0 || ferror(f) ? -EIO : 0;
}
