/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/tunnel-client.h"

#include "basic/util.h"

#define TUNNEL_PATH "/org/confidentialcontainers/PeerPod1/Tunnel"
#define TUNNEL_INTERFACE "org.confidentialcontainers.PeerPod1.Tunnel"

/* Some netlink messages; a minute is for a service that has to be started, or is busy with many others. */
#define TUNNEL_TIMEOUT_USEC (60 * USEC_PER_SEC)

typedef struct TunnelArguments {
        const char *sandbox_id, *netns_path;
        char *const *addresses;
} TunnelArguments;

static int append_sandbox(sd_bus_message *m, const void *arguments) {
        const TunnelArguments *a = arguments;

        return sd_bus_message_append(m, "ss", a->sandbox_id, a->netns_path);
}

static int append_setup(sd_bus_message *m, const void *arguments) {
        const TunnelArguments *a = arguments;
        int r;

        r = append_sandbox(m, arguments);
        if (r < 0)
                return r;

        return sd_bus_message_append_strv(m, (char**) a->addresses);
}

static const ServiceMethod inspect_method = { TUNNEL_PATH, TUNNEL_INTERFACE, "Inspect", append_sandbox };
static const ServiceMethod setup_method = { TUNNEL_PATH, TUNNEL_INTERFACE, "Setup", append_setup };
static const ServiceMethod teardown_method = { TUNNEL_PATH, TUNNEL_INTERFACE, "Teardown", append_sandbox };
static const ServiceMethod has_netns_method = { TUNNEL_PATH, TUNNEL_INTERFACE, "HasNetworkNamespace", append_sandbox };
static const ServiceMethod list_method = { TUNNEL_PATH, TUNNEL_INTERFACE, "List", NULL };

int tunnel_inspect(ServiceLink *tunnel, const char *sandbox_id, const char *netns_path, ServiceHandler handler, void *userdata,
                   ServiceCall **ret) {
        const TunnelArguments a = { .sandbox_id = sandbox_id, .netns_path = netns_path };

        return service_link_call(tunnel, &inspect_method, &a, sizeof(a), TUNNEL_TIMEOUT_USEC, handler, userdata, ret);
}

int tunnel_setup(ServiceLink *tunnel, const char *sandbox_id, const char *netns_path, char *const *addresses, ServiceHandler handler,
                 void *userdata, ServiceCall **ret) {
        const TunnelArguments a = { .sandbox_id = sandbox_id, .netns_path = netns_path, .addresses = addresses };

        return service_link_call(tunnel, &setup_method, &a, sizeof(a), TUNNEL_TIMEOUT_USEC, handler, userdata, ret);
}

int tunnel_teardown(ServiceLink *tunnel, const char *sandbox_id, const char *netns_path, ServiceHandler handler, void *userdata,
                    ServiceCall **ret) {
        const TunnelArguments a = { .sandbox_id = sandbox_id, .netns_path = netns_path };

        return service_link_call(tunnel, &teardown_method, &a, sizeof(a), TUNNEL_TIMEOUT_USEC, handler, userdata, ret);
}

int tunnel_has_netns(ServiceLink *tunnel, const char *sandbox_id, const char *netns_path, ServiceHandler handler, void *userdata,
                     ServiceCall **ret) {
        const TunnelArguments a = { .sandbox_id = sandbox_id, .netns_path = netns_path };

        return service_link_call(tunnel, &has_netns_method, &a, sizeof(a), TUNNEL_TIMEOUT_USEC, handler, userdata, ret);
}

int tunnel_list(ServiceLink *tunnel, ServiceHandler handler, void *userdata, ServiceCall **ret) {
        return service_link_call(tunnel, &list_method, /* arguments= */ NULL, 0, TUNNEL_TIMEOUT_USEC, handler, userdata, ret);
}
