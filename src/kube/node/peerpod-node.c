/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-node: keeps the Kubernetes objects of this node's pod VMs. */
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "basic/crash-point.h"
#include "basic/daemon.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/util.h"
#include "kube/kube-config.h"
#include "kube/node/node.h"
#include "kube/node/settings.h"

/* A file that is not there, or cannot be used, is the configuration's fault; no memory is not. */
static int load_config(const Settings *settings, KubeConfig **ret, int *ret_exit) {
        _cleanup_(freep) char *reason = NULL;
        int r;

        r = kube_config_load(isempty(settings->kubeconfig) ? NULL : settings->kubeconfig, ret, &reason);
        if (r >= 0)
                return 0;
        if (r == -ENOMEM)
                return log_oom();
        if (r == -ENXIO)
                log_error("There is no kubeconfig, so that no API server can be reached; see peerpod-node(8).");
        else
                log_error("Failed to learn how to reach the API server: %s", reason ?: strerror(-r));
        *ret_exit = EXIT_CONFIGURATION;
        return 1;
}

static int on_stop(sd_event_source *es, const struct signalfd_siginfo *si, void *userdata) {
        Node **n = userdata;

        if (*n)
                node_stop(*n);
        else
                (void) sd_event_exit(sd_event_source_get_event(es), 0);
        return 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = SETTINGS_NULL;
        _cleanup_(kube_config_freep) KubeConfig *config = NULL;
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(node_freep) Node *n = NULL;
        int r, status;

        r = settings_load(argc, argv, &settings, &status);
        if (r != 0)
                return r < 0 ? r : status;
        r = load_config(&settings, &config, &status);
        if (r != 0)
                return r < 0 ? r : status;
        if (settings.check_settings)
                return EXIT_SUCCESS;

        r = daemon_event_new_with(on_stop, &n, &event);
        if (r < 0)
                return log_error_errno(r, "Failed to make the event loop: %m");
        r = node_new(&settings, config, event, &n);
        if (r < 0)
                return r;
        r = node_load(n);
        if (r < 0)
                return r;
        crash_point("loaded");
        r = node_start(n);
        if (r < 0)
                return r;
        (void) sd_notify(/* unset_environment= */ false, "READY=1");
        node_update_status(n);
        crash_point("ready");

        r = sd_event_loop(event);
        return r < 0 ? log_error_errno(r, "Event loop has failed: %m") : r;
}

DEFINE_MAIN_FUNCTION(run);
