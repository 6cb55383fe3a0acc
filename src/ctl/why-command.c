/* SPDX-License-Identifier: Apache-2.0 */
/* why: what happened to a sandbox, on one screen. */
#include <inttypes.h>
#include <stdio.h>

#include "basic/log.h"
#include "ctl/ctl.h"
#include "ctl/podvms.h"

/* Where a setting that moves a deadline is written. */
static const struct {
        const char *setting, *place;
} places[] = {
        { "START_TIMEOUT",             "/etc/peerpod/peer-pods-cm.env, see peerpod-adaptor(8)" },
        { "PROXY_TIMEOUT",             "/etc/peerpod/peer-pods-cm.env, see peerpod-adaptor(8)" },
        { "PEERPOD_CREATE_TIMEOUT",    "/etc/peerpod/peer-pods-cm.env, see peerpod-providerd(8)" },
        { "remote_hypervisor_timeout", "Kata's configuration-remote.toml; the kubelet's runtimeRequestTimeout may be shorter" },
};

static json_object* steps_of(json_object *story) {
        json_object *steps;

        return json_object_object_get_ex(story, "Steps", &steps) && json_object_is_type(steps, json_type_array) ? steps : NULL;
}

/* Fields of a step by their place in the structure (org.confidentialcontainers.PeerPod1(5)). */
enum { STATE, NAME, RESULT, BEGIN, END, TRIES, TEXT };

static const char* step_text(json_object *step, size_t field) {
        json_object *v = json_object_array_get_idx(step, field);

        return v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
}

static uint64_t step_number(json_object *step, size_t field) {
        json_object *v = json_object_array_get_idx(step, field);

        return v && json_object_is_type(v, json_type_int) ? json_object_get_uint64(v) : 0;
}

static void print_headline(json_object *story, uint64_t now) {
        const char *state = podvm_text(story, "State"), *error = podvm_text(story, "Error"), *reason = podvm_text(story, "Reason");
        uint64_t failed = podvm_number(story, "FailedTimestamp"), ran = podvm_number(story, "RunningTimestamp"),
                 deleting = podvm_number(story, "DeletingTimestamp"), since = podvm_number(story, "CreatedTimestamp");
        bool pod = *podvm_text(story, "PodName"), past = *error || *reason;
        char what[1200], age[24];

        if (*error) {
                (void) snprintf(what, sizeof(what), "%s", ran > 0 ? "has failed" : "has failed to start");
                since = failed;
        } else if (*reason) {
                (void) snprintf(what, sizeof(what), "was ended%s: %s", ran > 0 ? "" : " before it ran", reason);
                since = deleting;
        } else {
                (void) snprintf(what, sizeof(what), "is %s", state);
                since = streq(state, "running") ? ran : since;
        }

        printf_for_terminal("Sandbox %s%s%s%s%s %s%s%s%s.\n\n", podvm_text(story, "SandboxId"), pod ? " of pod " : "",
                            podvm_text(story, "PodNamespace"), pod ? "/" : "", podvm_text(story, "PodName"), what,
                            past ? ", " : " for ", age_of(since, now, age), past ? " ago" : "");
        if (past)
                print_field("Now", state);
}

static void print_deadline(json_object *story) {
        const char *setting = podvm_text(story, "Setting"), *place = "";
        uint64_t usec = podvm_number(story, "DeadlineUSec");
        char text[256];

        if (!*setting && usec == 0)
                return;
        for (size_t i = 0; i < ELEMENTSOF(places); i++)
                if (streq(places[i].setting, setting))
                        place = places[i].place;

        if (usec > 0)
                print_field("Deadline", FORMAT_USEC(usec));
        (void) snprintf(text, sizeof(text), "%s%s%s", *setting ? setting : "nothing, it is fixed", *place ? " in " : "", place);
        print_field("Moved by", text);
}

/* "stop-proxy, delete-instance": steps of the undoing that have this end. */
static int print_undone(json_object *story, const char *name, bool done) {
        _cleanup_(freep) char *list = NULL;
        json_object *steps = steps_of(story);

        for (size_t i = 0; steps && i < json_object_array_length(steps); i++) {
                json_object *step = json_object_array_get_idx(steps, i);
                char *longer;

                if (!streq(step_text(step, STATE), "deleting") || streq(step_text(step, RESULT), "done") != done)
                        continue;
                if (asprintf(&longer, "%s%s%s", strempty(list), list ? ", " : "", step_text(step, NAME)) < 0)
                        return -ENOMEM;
                free(list);
                list = longer;
        }

        print_field(name, list);
        return 0;
}

static int print_steps(json_object *story) {
        static const char *const headers[] = { "STATE", "STEP", "RESULT", "BEGAN", "TOOK", "TRIES", "TEXT" };
        _cleanup_(table_freep) Table *table = NULL;
        json_object *steps = steps_of(story);
        uint64_t first = 0;
        int r;

        if (!steps || json_object_array_length(steps) == 0)
                return 0;

        r = table_new(headers, ELEMENTSOF(headers), &table);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(steps); i++) {
                json_object *step = json_object_array_get_idx(steps, i);
                uint64_t begin = step_number(step, BEGIN), end = step_number(step, END);
                char began[64], took[64] = "", tries[24];

                first = first ?: begin;
                (void) snprintf(began, sizeof(began), "+%s", FORMAT_USEC(begin > first ? begin - first : 0));
                if (end >= begin && end > 0)
                        (void) snprintf(took, sizeof(took), "%s", FORMAT_USEC(end - begin));
                (void) snprintf(tries, sizeof(tries), "%" PRIu64, step_number(step, TRIES));
                r = table_add(table, (const char *const[]) {
                                step_text(step, STATE), step_text(step, NAME), step_text(step, RESULT), began, took, tries,
                                step_text(step, TEXT) });
        }
        if (r < 0)
                return r;

        putchar('\n');
        table_print(table);
        return 0;
}

static int explain(const CommandLine *line, sd_bus *bus, json_object **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        r = call_manager(line, bus, "Explain", &reply, "s", line->words[0]);
        if (r != 0)
                return r;
        r = bus_value_to_json(reply, ret);
        return r < 0 && r != -ENOMEM ? complain("peerpod-adaptor sent an answer that is not understood: %s", strerror(-r)) : r;
}

int command_why(const CommandLine *line) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(json_object_putp) json_object *story = NULL;
        int r;

        r = connect_bus(&bus);
        if (r == 0)
                r = explain(line, bus, &story);
        if (r != 0)
                return r;
        if (arguments(line)->json)
                return print_json(story);

        print_headline(story, now_usec(CLOCK_REALTIME));
        print_field("Failed at", podvm_text(story, "FailedStep"));
        print_field("Error", podvm_text(story, "Error"));
        print_deadline(story);
        print_field("Instance", *podvm_text(story, "InstanceId") ? podvm_text(story, "InstanceId") : podvm_text(story, "InstanceName"));
        r = print_undone(story, "Undone", /* done= */ true);
        if (r >= 0)
                r = print_undone(story, "Not yet undone", /* done= */ false);
        if (r >= 0)
                r = print_steps(story);
        if (r < 0)
                return r;

        printf_for_terminal("\nThe journal: peerpodctl logs %s\n", podvm_text(story, "SandboxId"));
        return flush_stdout();
}
