/* SPDX-License-Identifier: Apache-2.0 */
/* pod-network: makes the pod VM's end of the tunnel, from apf.json. */
#include <fcntl.h>

#include "basic/io.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/paths.h"
#include "podvm/pod-network/pod-network.h"

#define CONFIG_SIZE_MAX (4U * 1024U * 1024U)

typedef struct Settings {
        char *config, *pod_namespace, *host_interface, *external_interface;
        uint64_t timeout_usec;
} Settings;

static const Option options[] = {
        { "config", NULL, OPTION_STRING, offsetof(Settings, config), PODVM_APF_CONFIG, "The VM's configuration", "PATH" },
        { "pod-namespace", NULL, OPTION_STRING, offsetof(Settings, pod_namespace), PODVM_POD_NETNS,
          "Network namespace of the pod", "PATH" },
        { "host-interface", NULL, OPTION_STRING, offsetof(Settings, host_interface), "",
          "Interface of the tunnel's own, where the configuration says 'dedicated'", "IF" },
        { "external-interface", NULL, OPTION_STRING, offsetof(Settings, external_interface), "",
          "Interface for the pod's external traffic, where the configuration asks for one", "IF|MAC" },
        { "timeout", NULL, OPTION_DURATION, offsetof(Settings, timeout_usec), "3m",
          "How long to wait for an interface with an address", "TIME" },
        {},
};

static const Program program = {
        .name = "pod-network",
        .usage = "setup|teardown [OPTIONS…]",
        .description = "Makes the pod VM's end of the pod's network tunnel.",
        .options = options,
        .man = "pod-network(8)",
};

static void settings_done(Settings *s) {
        options_done(options, s);
}

/* The file holds the VM's TLS key too: neither it nor the parser's words on it are shown. */
static int read_config(const char *path, PodNetwork *ret) {
        _cleanup_(json_object_putp) json_object *apf = NULL;
        _cleanup_(freep) char *error = NULL;
        json_object *o = NULL;
        char *text;
        size_t size;
        int r;

        r = read_full_file_at(AT_FDCWD, path, CONFIG_SIZE_MAX, &text, &size);
        if (r < 0)
                return log_error_errno(r, "Failed to read '%s': %m", path);
        r = json_parse(text, size, &apf, &error);
        erase_free(text, size);
        if (r >= 0)
                r = json_get_object(apf, "pod-network", &o, &error);
        if (r < 0)
                return log_error_errno(r, "Failed to read '%s': %s", path, error ?: strerror(-r));
        if (!o) {
                log_error("'%s' has no 'pod-network'.", path);
                return -EINVAL;
        }

        r = pod_network_from_json(o, ret, &error);
        return r < 0 ? log_error_errno(r, "Failed to read 'pod-network' of '%s': %s", path, error ?: strerror(-r)) : 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(pod_network_done) PodNetwork n = POD_NETWORK_NULL;
        _cleanup_(settings_done) Settings settings = {};
        NetError e = {};
        const char *verb = NULL;
        int r, status, rest;
        PodVM vm;

        if (argc > 1 && argv[1][0] != '-') {    /* the verb may stand in front of the options or behind them */
                verb = argv[1];
                argv++;
                argc--;
        }
        r = options_load(&program, argc, argv, &settings, &rest, &status);
        if (r != 0)
                return r < 0 ? r : status;
        if (!verb && rest < argc)
                verb = argv[rest++];
        if (!verb || rest != argc || (!streq(verb, "setup") && !streq(verb, "teardown"))) {
                log_error("Say 'setup' or 'teardown'.");
                return EXIT_USAGE;
        }
        vm = (PodVM) {
                .netns_path = settings.pod_namespace,
                .host_interface = settings.host_interface,
                .external_interface = settings.external_interface,
                .timeout_usec = settings.timeout_usec,
        };

        r = read_config(settings.config, &n);
        if (streq(verb, "teardown")) {
                r = podvm_teardown(&n, &vm, &e);
                return r < 0 ? log_error_errno(r, "Failed to tear down the pod's network: %s", net_error_text(&e, r)) : 0;
        }
        if (r < 0)
                return EXIT_CONFIGURATION;
        r = podvm_setup(&n, &vm, &e);
        if (r < 0)
                (void) log_error_errno(r, "Failed to set up the pod's network: %s", net_error_text(&e, r));
        return r == -EINVAL ? EXIT_CONFIGURATION : r;
}

DEFINE_MAIN_FUNCTION(run);
