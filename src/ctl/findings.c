/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/findings.h"

#include <stdarg.h>
#include <stdio.h>

#include "ctl/ctl.h"

static const char *const names[_SEVERITY_MAX] = {
        [SEVERITY_OK]      = "ok",
        [SEVERITY_SKIPPED] = "skipped",
        [SEVERITY_WARNING] = "warning",
        [SEVERITY_ERROR]   = "error",
};

const char* severity_to_string(Severity s) {
        return names[s];
}

void findings_done(Findings *f) {
        FOREACH_ELEMENT(Finding, i, f->items, f->n_items) {
                free(i->subject);
                free(i->text);
                free(i->remedy);
        }
        free(f->items);
        *f = (Findings) {};
}

void finding_add(Findings *f, Severity severity, const char *subject, const char *remedy, const char *format, ...) {
        Finding *grown, i = { .severity = severity, .subject = strdup(subject), .remedy = remedy ? strdup(remedy) : NULL };
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&i.text, format, ap) < 0)
                i.text = NULL;          /* vasprintf() leaves it undefined */
        va_end(ap);

        grown = i.subject && i.text && !!remedy == !!i.remedy ? reallocarray(f->items, f->n_items + 1, sizeof(*grown)) : NULL;
        if (!grown) {
                free(i.subject);
                free(i.text);
                free(i.remedy);
                f->out_of_memory = true;
                return;
        }
        f->items = grown;
        f->items[f->n_items++] = i;
}

Severity findings_worst(const Findings *f) {
        Severity worst = SEVERITY_OK;

        FOREACH_ELEMENT(const Finding, i, f->items, f->n_items)
                worst = MAX(worst, i->severity);
        return worst;
}

void findings_print(const Findings *f, bool all) {
        size_t n[_SEVERITY_MAX] = {};

        FOREACH_ELEMENT(const Finding, i, f->items, f->n_items) {
                n[i->severity]++;
                if (i->severity == SEVERITY_OK && !all)
                        continue;
                printf_for_terminal("%7s  %s: %s\n", names[i->severity], i->subject, i->text);
                if (i->remedy)
                        printf_for_terminal("         %s\n", i->remedy);
        }

        printf("%zu in order, %zu skipped, %zu warning%s, %zu error%s.\n", n[SEVERITY_OK], n[SEVERITY_SKIPPED], n[SEVERITY_WARNING],
               n[SEVERITY_WARNING] == 1 ? "" : "s", n[SEVERITY_ERROR], n[SEVERITY_ERROR] == 1 ? "" : "s");
}

int findings_to_json(const Findings *f, json_object **ret) {
        _cleanup_(json_object_putp) json_object *list = NULL;

        list = json_object_new_array();
        if (!list)
                return -ENOMEM;
        FOREACH_ELEMENT(const Finding, i, f->items, f->n_items) {
                json_object *o = json_object_new_object();
                int r;

                if (!o || json_object_array_add(list, o) < 0) {
                        json_object_put(o);
                        return -ENOMEM;
                }
                r = json_set_string(o, "severity", names[i->severity]);
                if (r >= 0)
                        r = json_set_string(o, "subject", i->subject);
                if (r >= 0)
                        r = json_set_string(o, "text", i->text);
                if (r >= 0)
                        r = json_set_string(o, "remedy", i->remedy);
                if (r < 0)
                        return r;
        }

        *ret = TAKE_PTR(list);
        return 0;
}
