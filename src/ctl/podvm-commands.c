/* SPDX-License-Identifier: Apache-2.0 */
/* list, status, stop, logs: pod VMs by the system bus. */
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "basic/main-func.h"
#include "basic/parse.h"
#include "basic/text.h"
#include "ctl/ctl.h"
#include "ctl/podvms.h"

#define SHORT_ID 13     /* as crictl cuts sandbox ids */


static int read_podvms(const CommandLine *line, sd_bus *bus, json_object **ret) {
        _cleanup_(freep) char *error = NULL;
        int r;

        r = podvms_read(bus, command_timeout(line), ret, &error);
        if (r < 0)
                return error ? complain("%s", error) : r;

        return 0;
}

/* What is shown of an id: enough to name the sandbox again. */
static void shorten_id(json_object *podvms, const char *id, char *ret, size_t size) {
        size_t n = SHORT_ID;

        for (size_t i = 0; i < json_object_array_length(podvms); i++) {
                const char *other = podvm_text(json_object_array_get_idx(podvms, i), "SandboxId");
                size_t same = 0;

                if (streq(other, id))
                        continue;
                while (other[same] && other[same] == id[same])
                        same++;
                n = MAX(n, same + 1);
        }

        (void) snprintf(ret, size, "%.*s", (int) n, id);
}

static const char* first_address(json_object *podvm) {
        json_object *list, *first;

        if (!json_object_object_get_ex(podvm, "Addresses", &list) || !json_object_is_type(list, json_type_array))
                return "";

        first = json_object_array_get_idx(list, 0);
        return first && json_object_is_type(first, json_type_string) ? json_object_get_string(first) : "";
}

int command_list(const CommandLine *line) {
        static const char *const headers[] = { "SANDBOX", "NAMESPACE", "POD", "STATE", "INSTANCE", "ADDRESS", "AGE" };
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(json_object_putp) json_object *podvms = NULL;
        _cleanup_(table_freep) Table *table = NULL;
        uint64_t now = now_usec(CLOCK_REALTIME);
        int r;

        r = connect_bus(&bus);
        if (r == 0)
                r = read_podvms(line, bus, &podvms);
        if (r != 0)
                return r;

        if (arguments(line)->json)
                return print_json(podvms);

        r = table_new(headers, ELEMENTSOF(headers), &table);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(podvms); i++) {
                json_object *p = json_object_array_get_idx(podvms, i);
                char id[256], age[24], shown[64];

                if (arguments(line)->full)
                        (void) snprintf(id, sizeof(id), "%s", podvm_text(p, "SandboxId"));
                else
                        shorten_id(podvms, podvm_text(p, "SandboxId"), id, sizeof(id));

                (void) snprintf(shown, sizeof(shown), "%s%s", podvm_text(p, "State"),
                                podvm_number(p, "HeldUntilTimestamp") > now ? ",held" : "");
                r = table_add(table, (const char *const[]) {
                                id, podvm_text(p, "PodNamespace"), podvm_text(p, "PodName"), shown,
                                podvm_text(p, "InstanceId"), first_address(p),
                                age_of(podvm_number(p, "CreatedTimestamp"), now, age) });
        }
        if (r < 0)
                return r;

        table_print(table);
        return flush_stdout();
}

/* "2026-03-01 10:00:00.123 UTC (3h ago, 21.400s after the state before)" */
static void print_timestamp(const char *name, uint64_t usec, uint64_t before, uint64_t now) {
        char text[128], age[24];
        time_t seconds = (time_t) (usec / USEC_PER_SEC);
        struct tm tm;
        size_t n;

        if (usec == 0 || !gmtime_r(&seconds, &tm))
                return;

        n = strftime(text, sizeof(text), "%F %T", &tm);
        n += (size_t) snprintf(text + n, sizeof(text) - n, ".%03" PRIu64 " UTC (%s ago", usec / 1000 % 1000,
                               age_of(usec, now, age));
        if (before > 0 && usec >= before)
                n += (size_t) snprintf(text + n, sizeof(text) - n, ", %s after the state before",
                                       FORMAT_USEC(usec - before));
        (void) snprintf(text + n, sizeof(text) - n, ")");
        print_field(name, text);
}

/* "in 12m" */
static void print_until(const char *name, uint64_t usec, uint64_t now) {
        char text[64], span[24];

        if (usec <= now)
                return;
        (void) snprintf(text, sizeof(text), "%s from now", age_of(now, usec, span));
        print_field(name, text);
}

static void print_property(const char *name, json_object *value) {
        if (json_object_is_type(value, json_type_array))
                for (size_t i = 0; i < json_object_array_length(value); i++)
                        print_field(i == 0 ? name : "", json_object_get_string(json_object_array_get_idx(value, i)));
        else if (value)
                print_field(name, json_object_get_string(value));
}

int command_status(const CommandLine *line) {
        static const struct { const char *property, *shown; } rows[] = {
                { "SandboxId", "Sandbox" }, { "PodNamespace", "Namespace" }, { "PodName", "Pod" }, { "State", "State" },
                { "InstanceId", "Instance" }, { "InstanceName", "Instance name" }, { "InstanceType", "Instance type" },
                { "Addresses", "Addresses" }, { "TunnelType", "Tunnel" }, { "TunnelId", "Tunnel id" },
                { "NetworkNamespace", "Network namespace" }, { "AgentSocket", "Agent socket" },
                { "ProxyUnit", "Proxy unit" }, { "HeldUntilTimestamp", "Held until" },
                { "CreatedTimestamp", "Created" }, { "StartedTimestamp", "Started" },
                { "RunningTimestamp", "Running" }, { "DeletingTimestamp", "Deleting" }, { "LastError", "Last error" },
        };
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(json_object_putp) json_object *podvms = NULL;
        _cleanup_(freep) char *error = NULL;
        uint64_t before = 0, now = now_usec(CLOCK_REALTIME);
        json_object *podvm;
        int r;

        r = connect_bus(&bus);
        if (r == 0)
                r = read_podvms(line, bus, &podvms);
        if (r != 0)
                return r;

        r = podvm_find(podvms, line->words[0], &podvm, &error);
        if (r < 0)
                return error ? complain("%s", error) : r;

        if (arguments(line)->json)
                return print_json(podvm);

        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                json_object *value;

                if (!json_object_object_get_ex(podvm, rows[i].property, &value))
                        continue;
                if (streq(rows[i].property, "HeldUntilTimestamp"))
                        print_until(rows[i].shown, podvm_number(podvm, rows[i].property), now);
                else if (strstr(rows[i].property, "Timestamp")) {
                        uint64_t usec = podvm_number(podvm, rows[i].property);

                        print_timestamp(rows[i].shown, usec, before, now);
                        before = usec ?: before;
                } else
                        print_property(rows[i].shown, value);
        }

        /* Of a newer adaptor, perhaps. */
        json_object_object_foreach(podvm, name, value) {
                bool known = false;

                for (size_t i = 0; i < ELEMENTSOF(rows); i++)
                        known = known || streq(rows[i].property, name);
                if (!known)
                        print_property(name, value);
        }

        return flush_stdout();
}

typedef struct Stop {
        const char *sandbox_id;
        bool look_again;        /* something happened that may mean: it is gone */
        bool gone;
} Stop;

static int on_removed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Stop *s = userdata;
        const char *id;

        if (sd_bus_message_read(m, "s", &id) >= 0 && streq(id, s->sandbox_id))
                s->gone = true;
        return 0;
}

/* The adaptor came back after a restart: its signal may have been sent while nobody listened. */
static int on_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Stop *s = userdata;

        s->look_again = true;
        return 0;
}

static int wait_until_gone(const CommandLine *line, sd_bus *bus, Stop *stop, uint64_t deadline) {
        int r;

        while (!stop->gone) {
                uint64_t now;

                if (stop->look_again) {
                        _cleanup_(json_object_putp) json_object *podvms = NULL;
                        _cleanup_(freep) char *error = NULL, *not_found = NULL;
                        json_object *podvm;

                        stop->look_again = false;
                        r = podvms_read(bus, command_timeout(line), &podvms, &error);
                        if (r >= 0 && podvm_find(podvms, stop->sandbox_id, &podvm, &not_found) == -ENOENT) {
                                stop->gone = true;
                                break;
                        }
                        /* An adaptor that is not there yet: its coming is a change of owner, too. */
                }

                r = sd_bus_process(bus, NULL);
                if (r < 0)
                        return complain("Lost the system bus: %s", strerror(-r));
                if (r > 0)
                        continue;

                now = now_usec(CLOCK_MONOTONIC);
                if (now >= deadline)
                        return complain("Sandbox '%s' is still being deleted, 'peerpodctl status' tells the last error",
                                        stop->sandbox_id);
                r = sd_bus_wait(bus, deadline == USEC_INFINITY ? USEC_INFINITY : deadline - now);
                if (r < 0 && r != -EINTR)
                        return complain("Lost the system bus: %s", strerror(-r));
        }

        return 0;
}

int command_stop(const CommandLine *line) {
        _cleanup_(sd_bus_error_free) sd_bus_error bus_error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(sd_bus_slot_unrefp) sd_bus_slot *removed = NULL, *owner = NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        _cleanup_(json_object_putp) json_object *podvms = NULL;
        _cleanup_(freep) char *error = NULL;
        uint64_t deadline = usec_add(now_usec(CLOCK_MONOTONIC), command_timeout(line));
        json_object *podvm;
        Stop stop = {};
        int r;

        r = connect_bus(&bus);
        if (r == 0)
                r = read_podvms(line, bus, &podvms);
        if (r != 0)
                return r;

        r = podvm_find(podvms, line->words[0], &podvm, &error);
        if (r < 0)
                return error ? complain("%s", error) : r;
        stop.sandbox_id = podvm_text(podvm, "SandboxId");

        if (arguments(line)->wait) {
                /* Before the call, so that no signal is missed. */
                r = sd_bus_match_signal(bus, &removed, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE,
                                        "PodVMRemoved", on_removed, &stop);
                if (r >= 0)
                        r = sd_bus_add_match(bus, &owner,
                                             "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',"
                                             "member='NameOwnerChanged',arg0='" PEERPOD_BUS_NAME "'",
                                             on_owner_changed, &stop);
                if (r < 0)
                        return complain("Cannot watch the system bus: %s", strerror(-r));
        }

        r = sd_bus_message_new_method_call(bus, &call, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH,
                                           PEERPOD_MANAGER_INTERFACE, "StopPodVM");
        if (r >= 0)
                r = sd_bus_message_set_allow_interactive_authorization(call, !arguments(line)->no_ask_password);
        if (r >= 0)
                r = sd_bus_message_append(call, "s", stop.sandbox_id);
        if (r >= 0)
                r = sd_bus_call(bus, call, command_timeout(line), &bus_error, NULL);
        if (r < 0)
                return complain("Cannot stop sandbox '%s': %s", stop.sandbox_id, bus_error.message ?: strerror(-r));

        return arguments(line)->wait ? wait_until_gone(line, bus, &stop, deadline) : 0;
}

/* Whoever is gone may still be in the adaptor's history. */
static int find_in_history(const CommandLine *line, sd_bus *bus, const char *what, char **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        _cleanup_(json_object_putp) json_object *story = NULL;
        int r;

        r = sd_bus_message_new_method_call(bus, &call, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, "Explain");
        if (r >= 0)
                r = sd_bus_message_append(call, "s", what);
        if (r >= 0)
                r = sd_bus_call(bus, call, command_timeout(line), /* reterr_error= */ NULL, &reply);
        if (r >= 0)
                r = bus_value_to_json(reply, &story);
        if (r < 0)
                return r;

        *ret = strdup(podvm_text(story, "SandboxId"));
        return *ret ? 0 : -ENOMEM;
}

/* The journal outlives the sandbox, so an id that nobody knows any more is taken as it stands. */
int command_logs(const CommandLine *line) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(json_object_putp) json_object *podvms = NULL;
        _cleanup_(freep) char *ignored = NULL, *error = NULL, *match = NULL, *gone = NULL;
        _cleanup_(freep) const char **argv = NULL;
        const char *id = line->words[0];
        json_object *podvm;
        int r;

        if (sd_bus_open_system(&bus) >= 0 && podvms_read(bus, command_timeout(line), &podvms, &ignored) >= 0) {
                r = podvm_find(podvms, id, &podvm, &error);
                if (r == -EEXIST)
                        return complain("%s", error);
                if (r >= 0)
                        id = podvm_text(podvm, "SandboxId");
                else if (find_in_history(line, bus, id, &gone) >= 0)
                        id = gone;
        }

        if (!sandbox_id_is_valid(id))
                return complain_usage("'%s' is no sandbox id", id);
        if (asprintf(&match, "PEERPOD_SANDBOX_ID=%s", id) < 0)
                return -ENOMEM;

        argv = new0(const char*, line->n_words + 2);
        if (!argv)
                return -ENOMEM;
        argv[0] = "journalctl";
        argv[1] = match;
        for (size_t i = 1; i < line->n_words; i++)
                argv[i + 1] = line->words[i];

        (void) execvp(argv[0], (char *const*) argv);
        return complain("Cannot run journalctl: %s", strerror(errno));
}
