/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/gcp/manager.go), open, close. */
#include "gcp.h"

#define TYPES_KEEP_USEC (3600 * USEC_PER_SEC)

enum {
        OPTION_CREDENTIALS,
        OPTION_CREDENTIALS_FILE,
        OPTION_PROJECT,
        OPTION_ZONE,
        OPTION_IMAGE,
        OPTION_MACHINE_TYPE,
        OPTION_MACHINE_TYPES,
        OPTION_NETWORK,
        OPTION_SUBNETWORK,
        OPTION_DISK_TYPE,
        OPTION_DISABLE_CVM,
        OPTION_CONFIDENTIAL_TYPE,
        OPTION_ROOT_VOLUME_SIZE,
        OPTION_USE_PUBLIC_IP,
        OPTION_TAGS,
        OPTION_LABELS,
        OPTION_NETWORK_TAGS,
        OPTION_NETWORK_TIER,
        OPTION_SECURE_BOOT,
        OPTION_SECOND_NETWORK,
        OPTION_SECOND_SUBNETWORK,
        OPTION_COMPUTE_ENDPOINT,
        OPTION_RESOURCE_MANAGER_ENDPOINT,
        OPTION_METADATA_HOST,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_CREDENTIALS] = { "gcp-credentials", "GCP_CREDENTIALS", "",
                "Key of a service account, or configuration of an external account, as JSON text", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_CREDENTIALS_FILE] = { NULL, "GOOGLE_APPLICATION_CREDENTIALS", "",
                "File with the same; without both, the machine's own service account" },
        [OPTION_PROJECT] = { "gcp-project-id", "GCP_PROJECT_ID", "", "Project of the pod VMs", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_ZONE] = { "zone", "GCP_ZONE", "", "Zone of the pod VMs", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_IMAGE] = { "image-name", "PODVM_IMAGE_NAME", "", "Image: a name, a path 'projects/…/global/images/…', or a family 'family/…'" },
        [OPTION_MACHINE_TYPE] = { "machine-type", "GCP_MACHINE_TYPE", "e2-medium", "Machine type of a VM whose pod asks for none" },
        [OPTION_MACHINE_TYPES] = { "machine-types", "GCP_INSTANCE_TYPES", "", "Machine types that pods may get", .type = PEERPOD_OPTION_LIST },
        [OPTION_NETWORK] = { "network", "GCP_NETWORK", "", "VPC network, such as 'global/networks/NAME'", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_SUBNETWORK] = { "subnetwork", "GCP_SUBNETWORK", "", "Subnetwork: a name in the zone's region, or a path" },
        [OPTION_DISK_TYPE] = { "disk-type", "GCP_DISK_TYPE", "pd-standard", "Type of the boot disk" },
        [OPTION_DISABLE_CVM] = { "disable-cvm", "DISABLECVM", "false", "true asks for VMs that are not confidential", .type = PEERPOD_OPTION_BOOL },
        [OPTION_CONFIDENTIAL_TYPE] = { "confidential-type", "GCP_CONFIDENTIAL_TYPE", "", "'SEV', 'SEV_SNP' or 'TDX'; needed unless DISABLECVM is true" },
        [OPTION_ROOT_VOLUME_SIZE] = { "root-volume-size", "ROOT_VOLUME_SIZE", "10", "Least size of the boot disk, in GiB", .type = PEERPOD_OPTION_UINT, .maximum = 65536 },
        [OPTION_USE_PUBLIC_IP] = { "use-public-ip", "USE_PUBLIC_IP", "false", "Give pod VMs public addresses, and use them", .type = PEERPOD_OPTION_BOOL },
        [OPTION_TAGS] = { "tags", "TAGS", "", "Resource manager tags: key=value of the project, or ORGANIZATION/key=value", .type = PEERPOD_OPTION_MAP },
        [OPTION_LABELS] = { "labels", "GCP_LABELS", "", "Labels of the pod VMs", .type = PEERPOD_OPTION_MAP },
        [OPTION_NETWORK_TAGS] = { "network-tags", "GCP_NETWORK_TAGS", "", "Network tags, for firewall rules", .type = PEERPOD_OPTION_LIST },
        [OPTION_NETWORK_TIER] = { "network-tier", "GCP_NETWORK_TIER", "STANDARD", "Tier of public addresses: 'STANDARD' or 'PREMIUM'" },
        [OPTION_SECURE_BOOT] = { "enable-secure-boot", "ENABLE_SECURE_BOOT", "false", "Secure boot, for signed images", .type = PEERPOD_OPTION_BOOL },
        [OPTION_SECOND_NETWORK] = { "external-network", "GCP_EXTERNAL_NETWORK", "", "Network of the second interface, for pods with external traffic of their own" },
        [OPTION_SECOND_SUBNETWORK] = { "external-subnetwork", "GCP_EXTERNAL_SUBNETWORK", "", "Subnetwork of the second interface" },
        [OPTION_COMPUTE_ENDPOINT] = { "compute-endpoint", "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "https://compute.googleapis.com/compute/v1",
                "Compute Engine API" },
        [OPTION_RESOURCE_MANAGER_ENDPOINT] = { "resource-manager-endpoint", "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER",
                "https://cloudresourcemanager.googleapis.com", "Resource Manager API" },
        [OPTION_METADATA_HOST] = { "metadata-host", "GCE_METADATA_HOST", "169.254.169.254", "The machine's metadata server" },
};

static int refuse(PeerpodError *error, const PeerpodConfig *config, unsigned option, const char *why) {
        return config_refuse(error, options, config, option, why);
}

/* Names go into URLs and paths as they are. */
static bool name_is_plain(const char *s) {
        return !isempty(s) && strlen(s) < 256 && !strstr(s, "..") &&
                strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/") == strlen(s);
}

static int copy_settings(Gcp *g, const PeerpodConfig *config, PeerpodError *error) {
        const struct {
                char **to;
                unsigned option;
                bool plain;             /* must be, if it is there */
        } table[] = {
                { &g->project, OPTION_PROJECT, true },                  { &g->zone, OPTION_ZONE, true },
                { &g->image, OPTION_IMAGE, true },                      { &g->machine_type, OPTION_MACHINE_TYPE, true },
                { &g->machine_types, OPTION_MACHINE_TYPES, false },     { &g->network, OPTION_NETWORK, true },
                { &g->subnetwork, OPTION_SUBNETWORK, true },            { &g->disk_type, OPTION_DISK_TYPE, true },
                { &g->confidential_type, OPTION_CONFIDENTIAL_TYPE, true }, { &g->tags, OPTION_TAGS, false },
                { &g->labels, OPTION_LABELS, false },                   { &g->network_tags, OPTION_NETWORK_TAGS, false },
                { &g->network_tier, OPTION_NETWORK_TIER, true },        { &g->second_network, OPTION_SECOND_NETWORK, true },
                { &g->second_subnetwork, OPTION_SECOND_SUBNETWORK, true }, { &g->compute_endpoint, OPTION_COMPUTE_ENDPOINT, true },
                { &g->resource_manager_endpoint, OPTION_RESOURCE_MANAGER_ENDPOINT, true }, { &g->metadata_host, OPTION_METADATA_HOST, true },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                const char *value = config->values[table[i].option];
                int r;

                if (table[i].plain && !isempty(value) && !name_is_plain(value))
                        return refuse(error, config, table[i].option, "it holds characters that no such name has");
                r = config_copy(config, table[i].option, table[i].to, error);
                if (r < 0)
                        return r;
        }
        for (size_t n; (n = strlen(g->compute_endpoint)) > 0 && g->compute_endpoint[n - 1] == '/';)
                g->compute_endpoint[n - 1] = '\0';
        for (size_t n; (n = strlen(g->resource_manager_endpoint)) > 0 && g->resource_manager_endpoint[n - 1] == '/';)
                g->resource_manager_endpoint[n - 1] = '\0';
        return 0;
}

/* Labels are lower case, digits, '_' and '-', 63 at most (Compute Engine documentation, "Requirements for labels"). */
static bool labels_are_good(const char *labels) {
        const char *p = labels, *item;
        size_t n, n_items = 0;

        while (list_next(&p, &item, &n)) {
                size_t key = strcspn(item, "="), value = n - key - 1;

                n_items++;
                if (key > 63 || value > 63 || item[0] < 'a' || item[0] > 'z')
                        return false;
                for (size_t i = 0; i < n; i++)
                        if (i != key && !strchr("abcdefghijklmnopqrstuvwxyz0123456789_-", item[i]))
                                return false;
        }
        return n_items <= 60;
}

static int check_settings(const Gcp *g, const PeerpodConfig *config, PeerpodError *error) {
        if (g->confidential && !streq(g->confidential_type, "SEV") && !streq(g->confidential_type, "SEV_SNP") && !streq(g->confidential_type, "TDX"))
                return refuse(error, config, OPTION_CONFIDENTIAL_TYPE, "it must be 'SEV', 'SEV_SNP' or 'TDX', unless DISABLECVM is true");
        if (g->confidential && machine_type_has_no_confidential_mode(g->machine_type))
                return refuse(error, config, OPTION_MACHINE_TYPE, "this series has no confidential VMs, and DISABLECVM is not true");
        if (!streq(g->network_tier, "STANDARD") && !streq(g->network_tier, "PREMIUM"))
                return refuse(error, config, OPTION_NETWORK_TIER, "it is neither 'STANDARD' nor 'PREMIUM'");
        if (!labels_are_good(g->labels))
                return refuse(error, config, OPTION_LABELS, "labels are of lower-case letters, digits, '_' and '-', 63 at most each");
        return 0;
}

static void gcp_close(void *provider) {
        Gcp *g = provider;
        char *const texts[] = {
                g->project, g->zone, g->image, g->machine_type, g->machine_types, g->network, g->subnetwork, g->disk_type, g->confidential_type, g->tags,
                g->labels, g->network_tags, g->network_tier, g->second_network, g->second_subnetwork, g->compute_endpoint, g->resource_manager_endpoint,
                g->metadata_host,
        };

        cloud_http_free(g->http);
        token_cache_free(g->tokens);
        instance_type_cache_free(g->types);
        if (g->key)
                json_object_put(g->key);
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                free(texts[i]);
        free(g);
}

DEFINE_CLEANUP(Gcp*, gcp_close);

static int gcp_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        const CloudHttpConfig http = { .user_agent = "peerpod-gcp/" PEERPOD_VERSION };
        _cleanup_(gcp_closep) Gcp *g = NULL;
        int r;

        g = new(Gcp);
        if (!g)
                return oom(error);
        *g = (Gcp) {
                .root_volume_gib = config_uint(config, OPTION_ROOT_VOLUME_SIZE),
                .confidential = !config_bool(config, OPTION_DISABLE_CVM),
                .public_ip = config_bool(config, OPTION_USE_PUBLIC_IP),
                .secure_boot = config_bool(config, OPTION_SECURE_BOOT),
        };
        r = copy_settings(g, config, error);
        if (r == 0)
                r = check_settings(g, config, error);
        if (r == 0)
                r = credentials_open(g, config->values[OPTION_CREDENTIALS], config->values[OPTION_CREDENTIALS_FILE], error);
        if (r == 0)
                r = cloud_http_new(&http, &g->http, error);
        if (r == 0 && instance_type_cache_new(machine_types_fetch, g, TYPES_KEEP_USEC, &g->types) < 0)
                r = oom(error);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(g);
        return 0;
}

PEERPOD_PROVIDER_EXPORT const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "gcp",
        .description = "Google Compute Engine",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = GCP_USER_DATA_MAX / 4 * 3,
        .open = gcp_open,
        .verify = gcp_verify,
        .create = instance_create,
        .remove = instance_remove,
        .find = instance_find,
        .close = gcp_close,
        .volumes_max = GCP_VOLUMES_MAX,
};
