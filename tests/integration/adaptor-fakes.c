/* SPDX-License-Identifier: Apache-2.0 */
/* For the adaptor's test: systemd's manager, polkit and peerpod-tunneld as far as the adaptor sees them, doing as they are told.
 *
 *         adaptor-fakes DIRECTORY
 *
 * Serves the names org.freedesktop.systemd1 and org.freedesktop.PolicyKit1 on $DBUS_SYSTEM_BUS_ADDRESS, and the tunnel service on
 * DIRECTORY/tunnel.sock. Each call appends a line to DIRECTORY/calls. DIRECTORY/control is read anew at each call, one order on a line,
 * OPERATION=ACTION:
 *         start-proxy, start-socket, stop-proxy, stop-socket   fail | hang (until another job of the unit comes)
 *         inspect, setup, teardown, probe, has-netns           KIND:TEXT, KIND as in our D-Bus error names; crash
 *         inspect                                              external (a pod with an interface of its own for external traffic)
 *         probe                                                no:TEXT
 *         has-netns                                            no
 *         node-job                                             TYPE of a job of peerpod-node.service
 *         polkit                                               no | challenge | wait (until the order is gone) */
#include <stdio.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "basic/bus-private.h"
#include "basic/daemon.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/strv.h"
#include "basic/util.h"

#define POD_NETWORK_OF(external) "{\"podip\": \"10.128.0.2/24\", \"pod-hw-addr\": \"0a:58:0a:80:00:02\", \"interface\": \"eth0\", "           \
                    "\"worker-node-ip\": \"10.10.0.1/16\", \"tunnel-type\": \"vxlan\", \"routes\": null, \"neighbors\": null, "     \
                    "\"mtu\": 1450, \"index\": 0, \"vxlan-port\": 4789, \"vxlan-id\": 555007, \"dedicated\": false, "               \
                    "\"external-net-via-pod-vm\": " external "}"
#define POD_NETWORK POD_NETWORK_OF("false")
#define POD_NETWORK_EXTERNAL POD_NETWORK_OF("true")

typedef struct Unit {
        TAILQ_ENTRY(Unit) units;
        char name[256];
        bool active;
        char status[256];
        uint32_t hanging_job;           /* 0: none */
} Unit;

static const char *directory;
static sd_bus *system_bus;
static uint32_t last_job;
static TAILQ_HEAD(, Unit) units = TAILQ_HEAD_INITIALIZER(units);
static char **tunnels;

static void note(const char *what, const char *name) {
        char path[512];
        FILE *f;

        (void) snprintf(path, sizeof(path), "%s/calls", directory);
        f = fopen(path, "ae");
        assert(f);
        fprintf(f, "%s %s\n", what, name);
        fclose(f);
}

/* The action that the control file has for an operation, or "". */
static const char* order(const char *operation) {
        static char line[512];
        char path[512];
        FILE *f;

        (void) snprintf(path, sizeof(path), "%s/control", directory);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f)) {
                const char *rest = startswith(line, operation);

                line[strcspn(line, "\n")] = '\0';
                if (rest && *rest == '=') {
                        fclose(f);
                        return rest + 1;
                }
        }
        if (f)
                fclose(f);
        return "";
}

static Unit* find_unit(const char *name) {
        Unit *u;

        TAILQ_FOREACH(u, &units, units)
                if (streq(u->name, name))
                        return u;

        u = calloc(1, sizeof(Unit));
        assert(u);
        (void) snprintf(u->name, sizeof(u->name), "%s", name);
        TAILQ_INSERT_TAIL(&units, u, units);
        return u;
}

static const char* job_path(uint32_t id) {
        static char path[64];

        (void) snprintf(path, sizeof(path), "/org/freedesktop/systemd1/job/%u", id);
        return path;
}

static void job_removed(uint32_t id, const Unit *u, const char *result) {
        int r = sd_bus_emit_signal(system_bus, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "JobRemoved", "uoss", id,
                                   job_path(id), u->name, result);

        assert(r >= 0);
}

static void unit_changed(const Unit *u, const char *interface, const char *property, const char *value) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        _cleanup_(freep) char *path = NULL;
        int r;

        r = sd_bus_path_encode("/org/freedesktop/systemd1/unit", u->name, &path);
        assert(r >= 0);
        r = sd_bus_message_new_signal(system_bus, &m, path, "org.freedesktop.DBus.Properties", "PropertiesChanged");
        assert(r >= 0);
        r = sd_bus_message_append(m, "sa{sv}as", interface, 2, "Id", "s", u->name, property, "s", value, 0);
        assert(r >= 0);
        r = sd_bus_send(system_bus, m, NULL);
        assert(r >= 0);
}

static int run_job(sd_bus_message *m, bool start) {
        const char *name, *mode, *action, *result = "done";
        char operation[64];
        uint32_t id = ++last_job;
        bool hang;
        Unit *u;
        int r;

        r = sd_bus_message_read(m, "ss", &name, &mode);
        assert(r >= 0 && streq(mode, "replace"));
        u = find_unit(name);
        note(start ? "StartUnit" : "StopUnit", name);
        (void) snprintf(operation, sizeof(operation), "%s-%s", start ? "start" : "stop", strstr(name, ".socket") ? "socket" : "proxy");
        action = order(operation);
        hang = streq(action, "hang");

        if (u->hanging_job) {
                job_removed(u->hanging_job, u, "canceled");
                u->hanging_job = 0;
        }

        if (hang)
                u->hanging_job = id;
        else if (streq(action, "fail")) {
                unit_changed(u, "org.freedesktop.systemd1.Service", "StatusText", "no answer from 192.0.2.7");
                unit_changed(u, "org.freedesktop.systemd1.Unit", "ActiveState", "failed");
                result = "failed";
        } else
                u->active = start;

        /* Both orders are seen with systemd; the second is the hard one. */
        if (id % 2 == 0 && !hang)
                job_removed(id, u, result);
        r = sd_bus_reply_method_return(m, "o", job_path(id));
        if (id % 2 == 1 && !hang)
                job_removed(id, u, result);
        return r;
}

static int method_start(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        return run_job(m, true);
}

static int method_stop(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        return run_job(m, false);
}

static int method_subscribe(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        return sd_bus_reply_method_return(m, NULL);
}

static int method_set_properties(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *name, *property;
        char text[256] = "";
        const uint8_t *address;
        uint32_t prefix;
        int32_t family;
        int runtime, r;
        size_t size;

        r = sd_bus_message_read(m, "sb", &name, &runtime);
        assert(r >= 0 && runtime);
        r = sd_bus_message_enter_container(m, 'a', "(sv)");
        assert(r >= 0);
        r = sd_bus_message_enter_container(m, 'r', "sv");
        assert(r > 0);
        r = sd_bus_message_read(m, "s", &property);
        assert(r >= 0 && streq(property, "IPAddressAllow"));
        r = sd_bus_message_enter_container(m, 'v', "a(iayu)");
        assert(r > 0);
        r = sd_bus_message_enter_container(m, 'a', "(iayu)");
        assert(r >= 0);
        while (sd_bus_message_enter_container(m, 'r', "iayu") > 0) {
                r = sd_bus_message_read(m, "i", &family);
                assert(r >= 0);
                r = sd_bus_message_read_array(m, 'y', (const void**) &address, &size);
                assert(r >= 0);
                r = sd_bus_message_read(m, "u", &prefix);
                assert(r >= 0 && prefix == size * 8);
                (void) snprintf(text + strlen(text), sizeof(text) - strlen(text), " %u.%u.%u.%u/%u", address[0], address[1], address[2],
                                address[3], prefix);
                r = sd_bus_message_exit_container(m);
                assert(r >= 0);
        }
        strncat(text, " ", 2);
        strncat(text, name, 128);
        note("SetUnitProperties", text + 1);
        return sd_bus_reply_method_return(m, NULL);
}

static int method_fail_unit(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *name;
        int r;

        r = sd_bus_message_read(m, "s", &name);
        assert(r >= 0);
        unit_changed(find_unit(name), "org.freedesktop.systemd1.Service", "StatusText", "lost its VM");
        unit_changed(find_unit(name), "org.freedesktop.systemd1.Unit", "ActiveState", "failed");
        return sd_bus_reply_method_return(m, NULL);
}

/* For the test: a service that was killed, and is about to be started again. */
static int method_kill_unit(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *name;
        int r;

        r = sd_bus_message_read(m, "s", &name);
        assert(r >= 0);
        unit_changed(find_unit(name), "org.freedesktop.systemd1.Unit", "SubState", "auto-restart");
        return sd_bus_reply_method_return(m, NULL);
}

/* For the test: what the service says of itself. */
static int method_set_status(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *name, *text;
        Unit *u;
        int r;

        r = sd_bus_message_read(m, "ss", &name, &text);
        assert(r >= 0);
        u = find_unit(name);
        (void) snprintf(u->status, sizeof(u->status), "%s", text);
        unit_changed(u, "org.freedesktop.systemd1.Service", "StatusText", text);
        return sd_bus_reply_method_return(m, NULL);
}

static int method_list_jobs(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *type = order("node-job");
        int r;

        note("list-jobs", "");
        r = sd_bus_message_new_method_return(m, &reply);
        assert(r >= 0);
        r = sd_bus_message_open_container(reply, 'a', "(usssoo)");
        assert(r >= 0);
        if (!isempty(type)) {
                r = sd_bus_message_append(reply, "(usssoo)", UINT32_C(1), "dev-sda.device", "start", "waiting", "/a", "/b");
                assert(r >= 0);
                r = sd_bus_message_append(reply, "(usssoo)", UINT32_C(2), "peerpod-node.service", type, "running", "/a", "/b");
                assert(r >= 0);
        }
        r = sd_bus_message_close_container(reply);
        assert(r >= 0);
        return sd_bus_send(NULL, reply, NULL);
}

/* For the test: a tunnel that nobody has asked for. */
static int method_add_tunnel(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *id;
        int r;

        r = sd_bus_message_read(m, "s", &id);
        assert(r >= 0);
        r = strv_extend(&tunnels, id);
        assert(r >= 0);
        return sd_bus_reply_method_return(m, NULL);
}

/* For the test: how much there is of units that run and of tunnels. */
static int method_count_left(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        uint32_t n = strv_length(tunnels);
        Unit *u;

        TAILQ_FOREACH(u, &units, units)
                n += u->active;
        return sd_bus_reply_method_return(m, "u", n);
}

static int property_get_status(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                               void *userdata, sd_bus_error *error) {
        _cleanup_(freep) char *name = NULL;
        int r;

        r = sd_bus_path_decode(path, "/org/freedesktop/systemd1/unit", &name);
        assert(r > 0);
        note("GetStatus", name);
        return sd_bus_message_append(reply, "s", find_unit(name)->status);
}

static const sd_bus_vtable service_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("StatusText", "s", property_get_status, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_VTABLE_END
};

static const sd_bus_vtable manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Subscribe", "", "", method_subscribe, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("StartUnit", "ss", "o", method_start, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("StopUnit", "ss", "o", method_stop, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("SetUnitProperties", "sba(sv)", "", method_set_properties, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("FailUnit", "s", "", method_fail_unit, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("KillUnit", "s", "", method_kill_unit, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("SetStatus", "ss", "", method_set_status, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("ListJobs", "", "a(usssoo)", method_list_jobs, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("CountLeft", "", "u", method_count_left, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("AddTunnel", "s", "", method_add_tunnel, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_SIGNAL("JobRemoved", "uoss", 0),
        SD_BUS_VTABLE_END
};

static int authorize(sd_bus_message *m) {
        const char *verdict = order("polkit");

        return sd_bus_reply_method_return(m, "(bba{ss})", isempty(verdict), streq(verdict, "challenge"), 0);
}

static int on_look_again(sd_event_source *es, uint64_t usec, void *userdata) {
        sd_bus_message *m = userdata;

        if (streq(order("polkit"), "wait")) {
                (void) sd_event_source_set_time_relative(es, 20 * USEC_PER_MSEC);
                return sd_event_source_set_enabled(es, SD_EVENT_ONESHOT);
        }
        (void) authorize(m);
        sd_bus_message_unref(m);
        sd_event_source_disable_unref(es);
        return 0;
}

static int method_check_authorization(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *kind, *action;
        sd_event_source *es;
        int r;

        r = sd_bus_message_read(m, "(sa{sv})s", &kind, 1, NULL, "s", NULL, &action);
        note("CheckAuthorization", r >= 0 ? action : "?");
        if (!streq(order("polkit"), "wait"))
                return authorize(m);

        r = sd_event_add_time_relative(sd_bus_get_event(system_bus), &es, CLOCK_MONOTONIC, 0, 1, on_look_again, sd_bus_message_ref(m));
        assert(r >= 0);
        return 1;
}

static const sd_bus_vtable polkit_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("CheckAuthorization", "(sa{sv})sa{ss}us", "(bba{ss})", method_check_authorization, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

/* Notes the call; answers it with an error if that was ordered. 1 = answered. */
static int tunnel_order(sd_bus_message *m, const char *operation, const char *id, sd_bus_error *error) {
        const char *action = order(operation), *text = strchr(action, ':');
        char name[256];

        note(sd_bus_message_get_member(m), id);
        if (streq(action, "crash"))
                _exit(1);
        if (!text)
                return 0;
        (void) snprintf(name, sizeof(name), PEERPOD_ERROR_PREFIX "%.*s", (int) (text - action), action);
        return sd_bus_error_set(error, name, text + 1);
}

static int method_inspect(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *id, *netns;
        int r;

        r = sd_bus_message_read(m, "ss", &id, &netns);
        assert(r >= 0);
        r = tunnel_order(m, "inspect", id, error);
        if (r < 0)
                return r;
        if (!strv_contains(tunnels, id)) {
                r = strv_extend(&tunnels, id);
                assert(r >= 0);
        }
        return sd_bus_reply_method_return(m, "s", streq(order("inspect"), "external") ? POD_NETWORK_EXTERNAL : POD_NETWORK);
}

static int method_setup(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *id;
        int r;

        r = sd_bus_message_read(m, "ss", &id, NULL);
        assert(r >= 0);
        r = tunnel_order(m, "setup", id, error);
        return r < 0 ? r : sd_bus_reply_method_return(m, NULL);
}

static int method_teardown(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *id;
        int r;

        r = sd_bus_message_read(m, "ss", &id, NULL);
        assert(r >= 0);
        r = tunnel_order(m, "teardown", id, error);
        if (r < 0)
                return r;
        for (char **t = tunnels; t && *t; t++)
                if (streq(*t, id)) {
                        free(*t);
                        for (char **next = t; (*next = next[1]); next++)
                                ;
                        break;
                }
        return sd_bus_reply_method_return(m, NULL);
}

/* "no:TEXT" is an answer, too. */
static int method_probe(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *id, *no = startswith(order("probe"), "no:");
        int r;

        r = sd_bus_message_read(m, "s", &id);
        assert(r >= 0);
        if (no) {
                note("Probe", id);
                return sd_bus_reply_method_return(m, "bs", false, no);
        }
        r = tunnel_order(m, "probe", id, error);
        return r < 0 ? r : sd_bus_reply_method_return(m, "bs", true, "It carries packets of 1450 bytes.");
}

static int method_has_netns(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *id;
        int r;

        r = sd_bus_message_read(m, "ss", &id, NULL);
        assert(r >= 0);
        r = tunnel_order(m, "has-netns", id, error);
        return r < 0 ? r : sd_bus_reply_method_return(m, "b", !streq(order("has-netns"), "no"));
}

static int method_list(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        r = sd_bus_message_new_method_return(m, &reply);
        assert(r >= 0);
        r = sd_bus_message_append_strv(reply, tunnels);
        assert(r >= 0);
        return sd_bus_send(NULL, reply, NULL);
}

/* DIRECTORY/volumes: a line for each, five words, '-' for an empty one. Without a UID there are the paths only. */
static int method_volumes(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        char path[512], line[1024];
        const char *uid;
        FILE *f;
        int r;

        r = sd_bus_message_read(m, "s", &uid);
        assert(r >= 0);
        r = tunnel_order(m, "volumes", uid, error);
        if (r < 0)
                return r;
        r = sd_bus_message_new_method_return(m, &reply);
        assert(r >= 0);
        r = sd_bus_message_open_container(reply, 'a', "(sssss)");
        assert(r >= 0);
        (void) snprintf(path, sizeof(path), "%s/volumes", directory);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f)) {
                char w[5][200];

                if (sscanf(line, "%199s %199s %199s %199s %199s", w[0], w[1], w[2], w[3], w[4]) != 5)
                        continue;
                for (int i = 0; i < 5; i++)
                        if (streq(w[i], "-") || (i > 0 && isempty(uid)))
                                w[i][0] = '\0';
                r = sd_bus_message_append(reply, "(sssss)", w[0], w[1], w[2], w[3], w[4]);
                assert(r >= 0);
        }
        if (f)
                fclose(f);
        r = sd_bus_message_close_container(reply);
        assert(r >= 0);
        return sd_bus_send(NULL, reply, NULL);
}

static const sd_bus_vtable volumes_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Read", "s", "a(sssss)", method_volumes, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

static const sd_bus_vtable tunnel_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Inspect", "ss", "s", method_inspect, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Setup", "ssas", "", method_setup, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Teardown", "ss", "", method_teardown, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Probe", "s", "bs", method_probe, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("HasNetworkNamespace", "ss", "b", method_has_netns, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("List", "", "as", method_list, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

static int set_up_link(sd_bus *bus, void *userdata) {
        int r;

        r = sd_bus_add_object_vtable(bus, NULL, "/org/confidentialcontainers/PeerPod1/Volumes", "org.confidentialcontainers.PeerPod1.Volumes",
                                     volumes_vtable, NULL);
        return r < 0 ? r : sd_bus_add_object_vtable(bus, NULL, "/org/confidentialcontainers/PeerPod1/Tunnel",
                                        "org.confidentialcontainers.PeerPod1.Tunnel", tunnel_vtable, NULL);
}

static int run(int argc, char *argv[]) {
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        BusServer *server = NULL;
        char path[512];
        int fd, r;

        if (argc != 2)
                return EXIT_USAGE;
        directory = argv[1];

        r = daemon_event_new(&event);
        if (r < 0)
                return r;
        r = sd_bus_open_system(&system_bus);
        if (r < 0)
                return log_error_errno(r, "Failed to connect to the bus: %m");
        r = sd_bus_attach_event(system_bus, event, 0);
        if (r >= 0)
                r = sd_bus_set_exit_on_disconnect(system_bus, true);
        if (r >= 0)
                r = sd_bus_add_object_vtable(system_bus, NULL, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
                                             manager_vtable, NULL);
        if (r >= 0)
                r = sd_bus_add_fallback_vtable(system_bus, NULL, "/org/freedesktop/systemd1/unit", "org.freedesktop.systemd1.Service",
                                               service_vtable, NULL, NULL);
        if (r >= 0)
                r = sd_bus_add_object_vtable(system_bus, NULL, "/org/freedesktop/PolicyKit1/Authority",
                                             "org.freedesktop.PolicyKit1.Authority", polkit_vtable, NULL);
        if (r >= 0)
                r = sd_bus_request_name(system_bus, "org.freedesktop.PolicyKit1", 0);
        if (r < 0)
                return log_error_errno(r, "Failed to set up the bus: %m");

        (void) snprintf(path, sizeof(path), "%s/tunnel.sock", directory);
        fd = daemon_listen_unix(path);
        if (fd < 0)
                return fd;
        r = bus_server_new(event, fd, (uid_t) -1, set_up_link, NULL, &server);
        if (r < 0)
                return r;

        /* Last: it tells the test that all is there. */
        r = sd_bus_request_name(system_bus, "org.freedesktop.systemd1", 0);
        if (r < 0)
                return log_error_errno(r, "Failed to take systemd's name: %m");

        r = sd_event_loop(event);
        bus_server_free(server);
        sd_bus_flush_close_unref(system_bus);
        return r;
}

DEFINE_MAIN_FUNCTION(run);
