/* SPDX-License-Identifier: Apache-2.0 */
/* All that can be asked without making anything: the account, the zone, the machine type, the image, the networks, what the account may do. */
#include "gcp.h"

#include <syslog.h>

static const char *const permissions[] = {
        "compute.instances.create", "compute.instances.delete", "compute.instances.get", "compute.instances.list", "compute.instances.setLabels",
        "compute.instances.setMetadata", "compute.disks.create", "compute.subnetworks.use", "compute.zoneOperations.get",
};

static int ask(Gcp *g, const PeerpodCall *call, const char *what, char *url, const char *variable, const char *value, PeerpodError *error) {
        const GcpQuery q = { .what = what, .method = "GET", .repeatable = true };
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        _cleanup_(freep) char *owned = url;
        int r = gcp_query(g, call, &q, owned, &reply, error);

        if (r < 0 && reply.status == 404)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no '%s', the value of %s.", value, variable);
        return r;
}

static int verify_network(Gcp *g, const PeerpodCall *call, const char *network, const char *subnetwork, const char *variable, const char *subvariable,
                          PeerpodError *error) {
        _cleanup_(freep) char *resource = NULL;
        int r = 0;

        if (!isempty(network))
                r = ask(g, call, "networks.get", strstr(network, "projects/") ? gcp_resource_url(g, network) : gcp_url(g, "%s", network), variable, network, error);
        if (r < 0 || isempty(subnetwork))
                return r;
        resource = subnetwork_resource(g, subnetwork);
        if (!resource)
                return oom(error);
        return ask(g, call, "subnetworks.get", strstr(resource, "projects/") ? gcp_resource_url(g, resource) : gcp_url(g, "%s", resource), subvariable, subnetwork, error);
}

/* The permissions that the account lacks are named. Where that cannot be asked (the API is not enabled), it is said and passed over. */
static int verify_permissions(Gcp *g, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *body = json_object_new_object();
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        const char *wanted[ELEMENTSOF(permissions) + 1] = {};
        _cleanup_(freep) char *url = NULL;
        json_object *granted = NULL;
        char missing[512] = "";
        int r;

        memcpy(wanted, permissions, sizeof(permissions));
        if (!body || json_set_strv(body, "permissions", (char *const*) wanted) < 0 ||
            asprintf(&url, "%s/v3/projects/%s:testIamPermissions", g->resource_manager_endpoint, g->project) < 0)
                return oom(error);
        r = gcp_query(g, call, &(GcpQuery) { .what = "projects.testIamPermissions", .method = "POST", .body = body, .repeatable = true }, url, &reply, error);
        if (r < 0 && (reply.status == 403 || reply.status == 404)) {
                peerpod_log(call, LOG_NOTICE, "What the account may do could not be asked, passing that over: %s", error->text);
                return 0;
        }
        if (r < 0)
                return r;
        (void) json_get_array(reply.root, "permissions", &granted, NULL);
        for (size_t i = 0; i < ELEMENTSOF(permissions); i++) {
                bool has = false;

                for (size_t k = 0; granted && k < json_object_array_length(granted) && !has; k++)
                        has = streq_ptr(json_object_get_string(json_object_array_get_idx(granted, k)), permissions[i]);
                if (!has) {
                        size_t n = strlen(missing);

                        (void) snprintf(missing + n, sizeof(missing) - n, "%s%s", n > 0 ? ", " : "", permissions[i]);
                }
        }
        return missing[0] ? peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The account lacks permissions in project '%s': %s.", g->project, missing) : 0;
}

int gcp_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(image_done) GcpImage image = {};
        Gcp *g = provider;
        int r;

        if (isempty(g->image))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "No image is set: PODVM_IMAGE_NAME is empty.");
        r = ask(g, call, "zones.get", gcp_url(g, "zones/%s", g->zone), "GCP_ZONE", g->zone, error);
        if (r == 0)
                r = verify_permissions(g, call, error);
        if (r == 0)
                r = ask(g, call, "machineTypes.get", gcp_url(g, "zones/%s/machineTypes/%s", g->zone, g->machine_type), "GCP_MACHINE_TYPE", g->machine_type, error);
        if (r == 0)
                r = ask(g, call, "diskTypes.get", gcp_url(g, "zones/%s/diskTypes/%s", g->zone, g->disk_type), "GCP_DISK_TYPE", g->disk_type, error);
        if (r == 0)
                r = image_get(g, call, g->image, &image, error);
        if (r == 0)
                r = verify_network(g, call, g->network, g->subnetwork, "GCP_NETWORK", "GCP_SUBNETWORK", error);
        if (r == 0)
                r = verify_network(g, call, g->second_network, g->second_subnetwork, "GCP_EXTERNAL_NETWORK", "GCP_EXTERNAL_SUBNETWORK", error);
        return r;
}
