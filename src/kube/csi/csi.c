/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-csi: stands between kubelet, or the CSI sidecars, and a CSI driver, and has volumes of peer pods attached to their VMs. */
#include <systemd/sd-daemon.h>

#include "basic/daemon.h"
#include "basic/log.h"
#include "basic/options.h"
#include "basic/paths.h"
#include "basic/util.h"
#include "kube/csi/wrapper.h"
#include "kube/kube-client.h"
#include "kube/kube-config.h"
#include "kube/kube-lease.h"
#include "kube/kube-object.h"

#define LEASE_NAME "peerpod-csi-controller"
#define DIRECT_VOLUMES "/run/kata-containers/shared/direct-volumes"

/* Flags of cloud-api-adaptor's csi-wrapper, where it had one (src/csi-wrapper/cmd/, until its removal). */
static const Option options[] = {
        { "role", NULL, OPTION_STRING, offsetof(Settings, role), NULL, "controller, node, or podvm", "ROLE" },
        { "endpoint", NULL, OPTION_STRING, offsetof(Settings, endpoint), "", "Listen on this UNIX socket instead of on that of systemd", "PATH" },
        { "target-endpoint", NULL, OPTION_STRING, offsetof(Settings, target), "/csi/csi.sock", "The driver's UNIX socket", "PATH" },
        { "namespace", NULL, OPTION_STRING, offsetof(Settings, namespace), "default", "Where the PeerpodVolumes are", "NAME" },
        { "kubeconfig", NULL, OPTION_STRING, offsetof(Settings, kubeconfig), "", "Instead of $KUBECONFIG, a credential, or what a pod is given", "PATH" },
        { "vm-id-information-endpoint", NULL, OPTION_STRING, offsetof(Settings, vm_socket), PEERPOD_HYPERVISOR_SOCKET,
          "The adaptor's socket (node)", "PATH" },
        { "direct-volumes-dir", NULL, OPTION_STRING, offsetof(Settings, records_dir), DIRECT_VOLUMES, "Kata's records of volumes (node)", "PATH" },
        { "node-name", "POD_NODE_NAME", OPTION_STRING, offsetof(Settings, node_name), "", "Name of this node in the cluster (node)", "NAME" },
        { "pod-name", "POD_NAME", OPTION_STRING, offsetof(Settings, pod_name), "", "The pod that this runs in (podvm)", "NAME" },
        { "pod-namespace", "POD_NAME_SPACE", OPTION_STRING, offsetof(Settings, pod_namespace), "", "Its namespace (podvm)", "NAME" },
        { "pod-uid", "POD_UID", OPTION_STRING, offsetof(Settings, pod_uid), "", "Its uid (podvm; controller: who it is as holder of the lease)", "UID" },
        { "leader-elect", NULL, OPTION_BOOL, offsetof(Settings, leader_elect), "true", "Serve only while holding the lease (controller)" },
        { "leader-election-id", NULL, OPTION_STRING, offsetof(Settings, lease_name), LEASE_NAME, "Name of the lease (controller)", "NAME" },
        {}
};

static const Program program = {
        .name = "peerpod-csi",
        .usage = "--role=ROLE [OPTIONS…]",
        .description = "Wraps a CSI driver, so that volumes of peer pods are attached to their VMs.",
        .options = options,
        .man = "peerpod-csi(8)",
};

typedef struct Process {
        Settings settings;
        const Role *role;
        sd_event *event;
        KubeClient *kube;
        KubeLease *lease;
        int fd;                         /* the socket, until it is served */
        Wrapper *wrapper;
} Process;

static void process_done(Process *p) {
        p->wrapper = wrapper_free(p->wrapper);
        p->lease = kube_lease_free(p->lease);
        p->kube = kube_client_free(p->kube);
        p->event = sd_event_unref(p->event);
        p->fd = close_fd(p->fd);
        options_done(options, &p->settings);
}

static const Role* find_role(const char *name) {
        static const Role *const roles[] = { &controller_role, &node_role, &podvm_role };

        for (size_t i = 0; i < ELEMENTSOF(roles); i++)
                if (streq_ptr(roles[i]->name, name))
                        return roles[i];
        return NULL;
}

static bool missing(const char *value, const char *flag, const char *variable) {
        if (!isempty(value))
                return false;
        log_error("Flag '--%s' or variable '%s' is needed in this role.", flag, variable);
        return true;
}

/* "unix://PATH" as csi-wrapper had it, too. */
static int take_path(const char *flag, char **value) {
        const char *path = startswith(*value, "unix:");
        char *copy;

        if (isempty(*value))
                return 0;
        path = path ? (startswith(path, "//") ?: path) : *value;
        if (path[0] != '/') {
                log_error("Flag '--%s': '%s' is no absolute path of a UNIX socket.", flag, *value);
                return EXIT_USAGE;
        }
        copy = strdup(path);
        if (!copy)
                return log_oom();
        free(*value);
        *value = copy;
        return 0;
}

static int check_settings(Settings *s, const Role **ret) {
        const Role *role = find_role(s->role);
        int r;

        if (!role) {
                log_error("Flag '--role' is to be one of controller, node and podvm.");
                return EXIT_USAGE;
        }
        if (!kube_name_is_valid(s->namespace)) {
                log_error("Flag '--namespace': '%s' is no name of a namespace.", s->namespace);
                return EXIT_USAGE;
        }
        if (!kube_name_is_valid(s->lease_name)) {
                log_error("Flag '--leader-election-id': '%s' is no name of a lease.", s->lease_name);
                return EXIT_USAGE;
        }
        r = take_path("endpoint", &s->endpoint);
        if (r == 0)
                r = take_path("target-endpoint", &s->target);
        if (r == 0)
                r = take_path("vm-id-information-endpoint", &s->vm_socket);
        if (r != 0)
                return r;
        if ((role == &node_role && missing(s->node_name, "node-name", "POD_NODE_NAME")) ||
            (role == &podvm_role && (missing(s->pod_name, "pod-name", "POD_NAME") ||
                                     missing(s->pod_namespace, "pod-namespace", "POD_NAME_SPACE") ||
                                     missing(s->pod_uid, "pod-uid", "POD_UID"))))
                return EXIT_CONFIGURATION;

        *ret = role;
        return 0;
}

static int open_kube(sd_event *event, const Settings *s, KubeClient **ret) {
        _cleanup_(kube_config_freep) KubeConfig *config = NULL;
        _cleanup_(freep) char *reason = NULL;
        int r;

        r = kube_config_load(isempty(s->kubeconfig) ? NULL : s->kubeconfig, &config, &reason);
        if (r == -ENXIO)
                log_error("There is no kubeconfig and no service account; use --kubeconfig.");
        if (r >= 0)
                r = kube_client_new(event, config, &(KubeClientOptions) { .user_agent = "peerpod-csi/" PEERPOD_VERSION, .qps = 50, .burst = 100 },
                                    ret, &reason);
        if (r < 0 && r != -ENXIO)
                log_error("Failed to open the API server's client: %s", reason ?: strerror(-r));
        return r == -ENOMEM ? r : r < 0 ? EXIT_CONFIGURATION : 0;
}

static int open_socket(const Settings *s) {
        int fd = isempty(s->endpoint) ? daemon_take_socket("csi") : daemon_listen_unix(s->endpoint);

        if (fd == -ENOENT && isempty(s->endpoint))
                return log_error_errno(fd, "There is no socket 'csi' from systemd; by hand, use --endpoint.");
        return fd < 0 ? log_error_errno(fd, "Failed to listen on '%s': %m", isempty(s->endpoint) ? "systemd's socket" : s->endpoint) : fd;
}

static int serve(Process *p) {
        int r;

        r = wrapper_new(p->event, &p->settings, p->role, TAKE_FD(p->fd), p->kube, &p->wrapper);
        if (r < 0)
                return r;
        (void) sd_notifyf(/* unset_environment= */ false, "READY=1\nSTATUS=Wrapping the driver at %s as %s", p->settings.target, p->role->name);
        return 0;
}

/* ---- one controller at a time ----
 *
 * Two of them would attach a volume and detach it at the same time: the tasks of one volume exclude each other in one process only. So who does not
 * hold the lease does not serve its socket at all. Sidecars beside it wait there before they take part in elections of their own
 * (kubernetes-csi/external-attacher: cmd/csi-attacher/main.go), so that the pod that holds ours holds theirs. */

static void on_acquired(KubeLease *l, void *userdata) {
        Process *p = userdata;

        if (serve(p) < 0)
                (void) sd_event_exit(p->event, EXIT_FAILURE);
}

static void on_lost(KubeLease *l, const char *why, void *userdata) {
        Process *p = userdata;

        log_error("Another controller may serve from now on, ending: %s", why);
        (void) sd_event_exit(p->event, EXIT_FAILURE);
}

static void on_leader(KubeLease *l, const char *identity, void *userdata) {
        if (isempty(identity) || streq(identity, kube_lease_identity(l)))
                return;
        log_info("'%s' serves, waiting.", identity);
        (void) sd_notifyf(/* unset_environment= */ false, "STATUS=Waiting: '%s' serves.", identity);
}

static void on_released(KubeLease *l, void *userdata) {
        Process *p = userdata;

        (void) sd_event_exit(p->event, 0);
}

static int begin_election(Process *p) {
        const KubeLeaseSpec spec = {
                .ns = p->settings.namespace,
                .name = p->settings.lease_name,
                .identity = isempty(p->settings.pod_uid) ? NULL : p->settings.pod_uid,  /* a container that is restarted need not wait */
                .on_acquired = on_acquired,
                .on_lost = on_lost,
                .on_leader = on_leader,
        };
        int r;

        r = kube_lease_new(p->kube, &spec, p, &p->lease);
        if (r < 0)
                return log_error_errno(r, "Failed to ask for lease '%s': %m", p->settings.lease_name);
        (void) sd_notify(/* unset_environment= */ false, "READY=1\nSTATUS=Asking for the lease");
        return 0;
}

static int on_signal(sd_event_source *es, const struct signalfd_siginfo *si, void *userdata) {
        Process *p = userdata;
        int r;

        if (p->wrapper && p->role == &podvm_role)
                r = wrapper_leave(p->wrapper);
        else if (p->lease) {
                p->wrapper = wrapper_free(p->wrapper);
                r = kube_lease_release(p->lease, on_released, p);
        } else
                r = sd_event_exit(sd_event_source_get_event(es), 0);
        if (r < 0) {
                log_error_errno(r, "Failed to leave in order: %m");
                (void) sd_event_exit(sd_event_source_get_event(es), 0);
        }
        return 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(process_done) Process p = { .fd = -EBADF };
        int r, status;

        r = options_load(&program, argc, argv, &p.settings, /* ret_rest= */ NULL, &status);
        if (r != 0)
                return r < 0 ? r : status;
        r = check_settings(&p.settings, &p.role);
        if (r != 0)
                return r;

        r = daemon_event_new_with(on_signal, &p, &p.event);
        if (r < 0)
                return log_error_errno(r, "Failed to make the event loop: %m");
        r = open_kube(p.event, &p.settings, &p.kube);
        if (r != 0)
                return r;
        p.fd = open_socket(&p.settings);
        if (p.fd < 0)
                return p.fd;
        r = p.role == &controller_role && p.settings.leader_elect ? begin_election(&p) : serve(&p);
        if (r < 0)
                return r;

        return daemon_loop(p.event);
}

DEFINE_SOCKET_SERVICE_MAIN_FUNCTION(run);
