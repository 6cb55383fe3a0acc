/* SPDX-License-Identifier: Apache-2.0 */
/* The private bus of peerpod-tunneld; what would act on the kernel is replaced at link time. */
#include "bus-fuzz.h"

#include "basic/parse.h"
#include "basic/strv.h"
#include "tunnel/diagnose.h"
#include "tunnel/probe.h"
#include "tunnel/tunnel.h"

int __wrap_tunnel_inspect(Manager *m, const char *sandbox_id, const char *netns_path, char **ret_pod_network, NetError *e);
int __wrap_tunnel_setup(Manager *m, const char *sandbox_id, const char *netns_path, char *const *addresses, NetError *e);
int __wrap_tunnel_teardown(Manager *m, const char *sandbox_id, const char *netns_path, NetError *e);
int __wrap_probe_new(Manager *m, Tunnel *t, ProbeDone done, void *userdata, Probe **ret, NetError *e);
int __wrap_diagnose(Manager *m, const Tunnel *t, char ***ret);

static int act(const char *sandbox_id, const char *netns_path, NetError *e) {
        assert(sandbox_id_is_valid(sandbox_id));
        return strlen(netns_path) % 2 ? net_error_set(e, -ENOENT, "'%s' is not there", netns_path) : 0;
}

int __wrap_tunnel_inspect(Manager *m, const char *sandbox_id, const char *netns_path, char **ret_pod_network, NetError *e) {
        int r = act(sandbox_id, netns_path, e);

        if (r < 0)
                return r;
        *ret_pod_network = strdup("{}");
        return *ret_pod_network ? 0 : -ENOMEM;
}

int __wrap_tunnel_setup(Manager *m, const char *sandbox_id, const char *netns_path, char *const *addresses, NetError *e) {
        for (size_t i = 0; i < strv_length(addresses); i++)
                assert(addresses[i]);
        return act(sandbox_id, netns_path, e);
}

int __wrap_tunnel_teardown(Manager *m, const char *sandbox_id, const char *netns_path, NetError *e) {
        return act(sandbox_id, netns_path, e);
}

/* There is no tunnel, so no probe may begin. */
int __wrap_probe_new(Manager *m, Tunnel *t, ProbeDone done, void *userdata, Probe **ret, NetError *e) {
        assert(false);
        return -EIO;
}

int __wrap_diagnose(Manager *m, const Tunnel *t, char ***ret) {
        assert(!t);
        return strv_extend(ret, "a rule");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const members[] = { "Inspect", "Setup", "Teardown", "List", "Probe", "Diagnose", "Verify", NULL };
        static const Settings settings = { .direct_volumes_dir = (char*) "/nonexistent" };
        static Manager manager = { .settings = &settings };
        static BusFuzz f = {
                .path = "/org/confidentialcontainers/PeerPod1/Tunnel",
                .interface = "org.confidentialcontainers.PeerPod1.Tunnel",
                .members = members,
                .setup = manager_setup_bus,
                .userdata = &manager,
        };

        bus_fuzz_one(&f, data, size);
        return 0;
}
