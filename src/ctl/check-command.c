/* SPDX-License-Identifier: Apache-2.0 */
/* check: what keeps pods from starting on this node, and how to mend it. */
#include <stdio.h>

#include "basic/log.h"
#include "basic/paths.h"
#include "ctl/ctl.h"
#include "ctl/kata-check.h"
#include "ctl/kernel-check.h"
#include "ctl/podvms.h"
#include "ctl/settings-check.h"

#define CONFIG_DIR "/etc/peerpod"
#define EXIT_WARNINGS 3
#define EXIT_ERRORS 4
#define SYSTEMD "org.freedesktop.systemd1"

static const char *const units[] = { "peerpod-adaptor.socket", "peerpod-tunnel.socket", "peerpod-provider.socket",
                                     "peerpod-adaptor.service", "peerpod-tunnel.service", "peerpod-provider.service" };

static void check_unit(Findings *f, sd_bus *bus, const char *unit) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(freep) char *load = NULL, *active = NULL;
        const char *path = NULL;
        bool socket = strstr(unit, ".socket");
        int r;

        r = sd_bus_call_method(bus, SYSTEMD, "/org/freedesktop/systemd1", SYSTEMD ".Manager", "LoadUnit", &error, &reply, "s", unit);
        if (r >= 0)
                r = sd_bus_message_read(reply, "o", &path);
        if (r >= 0)
                r = sd_bus_get_property_string(bus, SYSTEMD, path, SYSTEMD ".Unit", "LoadState", &error, &load);
        if (r >= 0)
                r = sd_bus_get_property_string(bus, SYSTEMD, path, SYSTEMD ".Unit", "ActiveState", &error, &active);
        if (r < 0) {
                finding_add(f, SEVERITY_SKIPPED, unit, NULL, "systemd does not tell: %s", error.message ?: strerror(-r));
                return;
        }

        if (!streq(load, "loaded"))
                finding_add(f, SEVERITY_ERROR, unit, "Install peerpod's units, then systemctl daemon-reload.", "Is %s.", load);
        else if (streq(active, "failed"))
                finding_add(f, SEVERITY_ERROR, unit, "systemctl status and journalctl -u say why.", "Has failed.");
        else if (socket && !streq(active, "active"))
                finding_add(f, SEVERITY_ERROR, unit, "systemctl enable --now peerpod.target", "Does not listen (%s).", active);
        else
                finding_add(f, SEVERITY_OK, unit, NULL, "Is %s.", active);      /* a service starts with the first call */
}

/* @ret_socket, @ret_start_timeout_usec: what it really has, wherever it has that from; as they were if it does not tell */
static void check_adaptor(Findings *f, sd_bus *bus, char **ret_socket, uint64_t *ret_start_timeout_usec) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(freep) char *version = NULL;
        int r;

        (void) sd_bus_get_property_string(bus, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, "HypervisorSocket", NULL,
                                          ret_socket);
        (void) sd_bus_get_property_trivial(bus, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, "StartTimeoutUSec", NULL, 't',
                                           ret_start_timeout_usec);

        r = sd_bus_get_property_string(bus, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, "Version", &error, &version);
        if (r < 0)
                finding_add(f, SEVERITY_ERROR, "adaptor", "systemctl status peerpod-adaptor.service says why.", "Does not answer on the bus: %s",
                            error.message ?: strerror(-r));
        else if (!streq(version, PEERPOD_VERSION))
                finding_add(f, SEVERITY_WARNING, "adaptor", "systemctl restart peerpod-adaptor.service; pods do not notice.",
                            "Runs version %s, but " PEERPOD_VERSION " is installed.", version);
        else
                finding_add(f, SEVERITY_OK, "adaptor", NULL, "Answers on the bus, version %s.", version);
}

/* Through adaptor and provider service, with the credentials that pods are started with. */
static void check_provider(Findings *f, const CommandLine *line, sd_bus *bus) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r;

        r = sd_bus_message_new_method_call(bus, &call, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, "VerifyProvider");
        if (r >= 0)
                r = sd_bus_message_set_allow_interactive_authorization(call, !arguments(line)->no_ask_password);
        if (r >= 0)
                r = sd_bus_call(bus, call, command_timeout(line), &error, NULL);
        if (r < 0)
                finding_add(f, SEVERITY_ERROR, "provider", "Mend what the cloud names; peerpod-providerd(8) and the provider's page have the settings.",
                            "%s", error.message ?: strerror(-r));
        else
                finding_add(f, SEVERITY_OK, "provider", NULL, "Passes its own check against the cloud.");
}

static int check_sandbox(Findings *f, const CommandLine *line, sd_bus *bus, const char *id) {
        _cleanup_(sd_bus_error_free) sd_bus_error bus_error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        _cleanup_(json_object_putp) json_object *podvms = NULL;
        _cleanup_(freep) char *error = NULL;
        const char *report = NULL;
        json_object *podvm;
        int ok = false, r;

        r = podvms_read(bus, command_timeout(line), &podvms, &error);
        if (r >= 0)
                r = podvm_find(podvms, id, &podvm, &error);
        if (r < 0) {
                if (!error)
                        return r;
                finding_add(f, SEVERITY_ERROR, id, "peerpodctl why tells of sandboxes that are gone.", "%s", error);
                return 0;
        }
        id = podvm_text(podvm, "SandboxId");

        if (*podvm_text(podvm, "LastError"))
                finding_add(f, SEVERITY_WARNING, id, "peerpodctl why tells more.", "Is %s; its last error: %s", podvm_text(podvm, "State"),
                            podvm_text(podvm, "LastError"));
        if (!streq(podvm_text(podvm, "State"), "running")) {
                finding_add(f, SEVERITY_SKIPPED, id, NULL, "Is %s: there is no tunnel to try.", podvm_text(podvm, "State"));
                return 0;
        }

        r = sd_bus_message_new_method_call(bus, &call, PEERPOD_BUS_NAME, podvm_text(podvm, "Path"), PEERPOD_PODVM_INTERFACE, "CheckTunnel");
        if (r >= 0)
                r = sd_bus_message_set_allow_interactive_authorization(call, !arguments(line)->no_ask_password);
        if (r >= 0)
                r = sd_bus_call(bus, call, command_timeout(line), &bus_error, &reply);
        if (r >= 0)
                r = sd_bus_message_read(reply, "bs", &ok, &report);
        if (r < 0)
                finding_add(f, SEVERITY_ERROR, id, NULL, "Its tunnel cannot be tried: %s", bus_error.message ?: strerror(-r));
        else
                finding_add(f, ok ? SEVERITY_OK : SEVERITY_ERROR, id, ok ? NULL : "Open what it names between worker and pod VM.", "Tunnel: %s",
                            report);
        return 0;
}

static int check_all(Findings *f, const CommandLine *line) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(freep) char *socket = NULL;
        uint64_t start_timeout_usec = 0;
        const Arguments *a = arguments(line);
        const char *programs = getenv("PEERPOD_LIBEXECDIR");    /* of a build tree */
        int r;

        r = settings_check(f, a->config_dir ?: CONFIG_DIR, isempty(programs) ? PKGLIBEXECDIR : programs);
        if (r >= 0)
                r = kernel_check(f);
        if (r < 0)
                return r;

        r = sd_bus_open_system(&bus);
        if (r < 0)
                finding_add(f, SEVERITY_ERROR, "bus", "Is dbus running?", "Cannot connect to the system bus: %s", strerror(-r));
        else {
                for (size_t i = 0; i < ELEMENTSOF(units); i++)
                        check_unit(f, bus, units[i]);
                check_adaptor(f, bus, &socket, &start_timeout_usec);
                check_provider(f, line, bus);
        }

        r = kata_check_file(f, a->kata_config, isempty(socket) ? PEERPOD_HYPERVISOR_SOCKET : socket, start_timeout_usec);
        if (r < 0)
                return r;
        return bus && a->sandbox ? check_sandbox(f, line, bus, a->sandbox) : 0;
}

int command_check(const CommandLine *line) {
        _cleanup_(findings_done) Findings f = {};
        int r;

        r = check_all(&f, line);
        if (r < 0)
                return r;
        if (f.out_of_memory)
                return -ENOMEM;

        if (arguments(line)->json) {
                _cleanup_(json_object_putp) json_object *list = NULL;

                r = findings_to_json(&f, &list);
                if (r >= 0)
                        r = print_json(list);
        } else {
                findings_print(&f, arguments(line)->all);
                r = flush_stdout();
        }
        if (r != 0)
                return r;

        return findings_worst(&f) == SEVERITY_ERROR ? EXIT_ERRORS : findings_worst(&f) == SEVERITY_WARNING ? EXIT_WARNINGS : 0;
}
