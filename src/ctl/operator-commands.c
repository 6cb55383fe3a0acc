/* SPDX-License-Identifier: Apache-2.0 */
/* hold, reap, monitor: what an operator does beside looking. */
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <time.h>

#include "basic/log.h"
#include "ctl/ctl.h"
#include "ctl/podvms.h"

#define HOLD_DEFAULT_USEC (30 * 60 * USEC_PER_SEC)
#define PROPERTIES_INTERFACE "org.freedesktop.DBus.Properties"

int command_hold(const CommandLine *line) {
        _cleanup_(sd_bus_error_free) sd_bus_error bus_error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        _cleanup_(json_object_putp) json_object *podvms = NULL;
        _cleanup_(freep) char *error = NULL;
        const Arguments *a = arguments(line);
        uint64_t usec = a->release ? 0 : a->span.is_set ? a->span.value : HOLD_DEFAULT_USEC;
        json_object *podvm;
        int r;

        if (a->release && a->span.is_set)
                return complain_usage("hold takes --for= or --release, not both");
        if (!a->release && usec == 0)
                return complain_usage("hold --for= needs a time, --release ends a hold");

        r = connect_bus(&bus);
        if (r != 0)
                return r;
        r = podvms_read(bus, command_timeout(line), &podvms, &error);
        if (r >= 0)
                r = podvm_find(podvms, line->words[0], &podvm, &error);
        if (r < 0)
                return error ? complain("%s", error) : r;

        r = sd_bus_message_new_method_call(bus, &call, PEERPOD_BUS_NAME, podvm_text(podvm, "Path"), PEERPOD_PODVM_INTERFACE, "Hold");
        if (r >= 0)
                r = sd_bus_message_set_allow_interactive_authorization(call, !a->no_ask_password);
        if (r >= 0)
                r = sd_bus_message_append(call, "t", usec);
        if (r >= 0)
                r = sd_bus_call(bus, call, command_timeout(line), &bus_error, NULL);
        if (r < 0)
                return complain("Cannot hold sandbox '%s': %s", podvm_text(podvm, "SandboxId"), bus_error.message ?: strerror(-r));

        return 0;
}

int command_reap(const CommandLine *line) {
        static const char *const headers[] = { "KIND", "SANDBOX", "INSTANCE", "NAME", "ACTION", "REASON" };
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(json_object_putp) json_object *found = NULL;
        _cleanup_(table_freep) Table *table = NULL;
        int r;

        r = connect_bus(&bus);
        if (r == 0)
                r = call_manager(line, bus, arguments(line)->dry_run ? "FindOrphans" : "ReapOrphans", &reply, "");
        if (r != 0)
                return r;
        r = bus_value_to_json(reply, &found);
        if (r < 0)
                return r == -ENOMEM ? r : complain("peerpod-adaptor sent an answer that is not understood: %s", strerror(-r));
        if (arguments(line)->json)
                return print_json(found);

        r = table_new(headers, ELEMENTSOF(headers), &table);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(found); i++) {
                json_object *row = json_object_array_get_idx(found, i);
                const char *cells[ELEMENTSOF(headers)];

                /* kind, sandbox id, instance name, instance id, action, reason */
                static const size_t order[] = { 0, 1, 3, 2, 4, 5 };
                for (size_t j = 0; j < ELEMENTSOF(cells); j++) {
                        json_object *v = json_object_array_get_idx(row, order[j]);

                        cells[j] = v ? json_object_get_string(v) : "";
                }
                r = table_add(table, cells);
        }
        if (r < 0)
                return r;

        table_print(table);
        return flush_stdout();
}

/* ---- monitor ---- */

typedef struct Monitor {
        bool json;
        int result;             /* of the last line that was written */
} Monitor;

static void print_now(void) {
        uint64_t now = now_usec(CLOCK_REALTIME);
        time_t seconds = (time_t) (now / USEC_PER_SEC);
        char text[32] = "";
        struct tm tm;

        if (localtime_r(&seconds, &tm))
                (void) strftime(text, sizeof(text), "%T", &tm);
        printf("%s.%03" PRIu64 " ", text, now / 1000 % 1000);
}

/* @properties: NULL, or an object; borrowed */
static void print_event(Monitor *m, const char *sandbox_id, const char *event, json_object *properties) {
        if (m->json) {
                _cleanup_(json_object_putp) json_object *o = json_object_new_object();
                int r = o ? 0 : -ENOMEM;

                if (r >= 0)
                        r = json_set_u64(o, "time", now_usec(CLOCK_REALTIME));
                if (r >= 0)
                        r = json_set_string(o, "event", event);
                if (r >= 0)
                        r = json_set_string(o, "sandbox", sandbox_id);
                if (r >= 0 && properties)
                        r = json_set(o, "properties", json_object_get(properties));
                if (r < 0) {
                        m->result = r;
                        return;
                }
                puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE));
        } else {
                print_now();
                printf_for_terminal("%s %s", sandbox_id ?: "-", event);
                if (properties) {
                        json_object_object_foreach(properties, name, value)
                                printf_for_terminal(" %s=%s", name, json_object_get_string(value));
                }
                putchar('\n');
        }
        m->result = flush_stdout();
}

static int on_pod_vm(sd_bus_message *signal, void *userdata, sd_bus_error *error) {
        const char *id;

        if (sd_bus_message_read(signal, "s", &id) >= 0)
                print_event(userdata, id, streq(sd_bus_message_get_member(signal), "PodVMNew") ? "new" : "removed", NULL);
        return 0;
}

static int on_changed(sd_bus_message *signal, void *userdata, sd_bus_error *error) {
        _cleanup_(json_object_putp) json_object *properties = NULL;
        _cleanup_(freep) char *id = NULL;
        const char *interface;

        if (sd_bus_path_decode(sd_bus_message_get_path(signal), PEERPOD_BUS_PATH "/podvm", &id) <= 0 ||
            sd_bus_message_read(signal, "s", &interface) < 0 || !streq(interface, PEERPOD_PODVM_INTERFACE) ||
            bus_value_to_json(signal, &properties) < 0)
                return 0;

        print_event(userdata, id, "changed", properties);
        return 0;
}

static int on_owner(sd_bus_message *signal, void *userdata, sd_bus_error *error) {
        const char *owner;

        if (sd_bus_message_read(signal, "sss", NULL, NULL, &owner) >= 0)
                print_event(userdata, NULL, *owner ? "adaptor-started" : "adaptor-stopped", NULL);
        return 0;
}

int command_monitor(const CommandLine *line) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        Monitor m = { .json = arguments(line)->json };
        int r;

        r = connect_bus(&bus);
        if (r != 0)
                return r;

        r = sd_bus_match_signal(bus, NULL, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, "PodVMNew", on_pod_vm, &m);
        if (r >= 0)
                r = sd_bus_match_signal(bus, NULL, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, "PodVMRemoved", on_pod_vm, &m);
        if (r >= 0)
                r = sd_bus_add_match(bus, NULL, "type='signal',sender='" PEERPOD_BUS_NAME "',interface='" PROPERTIES_INTERFACE "',"
                                     "member='PropertiesChanged',path_namespace='" PEERPOD_BUS_PATH "/podvm'", on_changed, &m);
        if (r >= 0)
                r = sd_bus_add_match(bus, NULL, "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',"
                                     "member='NameOwnerChanged',arg0='" PEERPOD_BUS_NAME "'", on_owner, &m);
        if (r < 0)
                return complain("Cannot watch the system bus: %s", strerror(-r));
        print_event(&m, NULL, "watching", NULL);

        while (m.result == 0) {
                r = sd_bus_process(bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(bus, USEC_INFINITY);
                if (r < 0 && r != -EINTR)
                        return complain("Lost the system bus: %s", strerror(-r));
        }

        return m.result;
}
