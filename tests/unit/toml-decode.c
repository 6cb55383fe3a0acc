/* SPDX-License-Identifier: Apache-2.0 */
/* A decoder as the official suite wants it (github.com/toml-lang/toml-test, "JSON encoding"): TOML on stdin, tagged JSON on stdout. */
#include <json-c/json.h>
#include <stdio.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/toml.h"
#include "basic/util.h"

static const char *const type_names[] = {
        [TOML_STRING] = "string",
        [TOML_INTEGER] = "integer",
        [TOML_FLOAT] = "float",
        [TOML_BOOL] = "bool",
        [TOML_DATETIME] = "datetime",
        [TOML_DATETIME_LOCAL] = "datetime-local",
        [TOML_DATE_LOCAL] = "date-local",
        [TOML_TIME_LOCAL] = "time-local",
};

static json_object* to_json(const TomlValue *v) {
        json_object *o = v->type == TOML_ARRAY ? json_object_new_array() : json_object_new_object();
        char number[32];

        if (v->type == TOML_TABLE)
                FOREACH_ELEMENT(const TomlValue, i, v->items, v->n_items)
                        json_object_object_add(o, i->key, to_json(i));
        else if (v->type == TOML_ARRAY)
                FOREACH_ELEMENT(const TomlValue, i, v->items, v->n_items)
                        json_object_array_add(o, to_json(i));
        else {
                (void) snprintf(number, sizeof(number), "%lld", (long long) v->integer);
                json_object_object_add(o, "type", json_object_new_string(type_names[v->type]));
                json_object_object_add(o, "value", v->type == TOML_INTEGER ? json_object_new_string(number) :
                                       json_object_new_string_len(v->text, (int) v->size));
        }
        return o;
}

int main(void) {
        _cleanup_(toml_done) TomlValue root = TOML_NULL;
        _cleanup_(freep) char *text = NULL, *error = NULL;
        json_object *o;
        size_t size;

        if (read_full_fd(STDIN_FILENO, TOML_SIZE_MAX, &text, &size) < 0)
                return 2;
        if (toml_parse(text, size, &root, &error) < 0) {
                fprintf(stderr, "%s\n", strempty(error));
                return 1;
        }

        o = to_json(&root);
        puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
        json_object_put(o);
        return 0;
}
