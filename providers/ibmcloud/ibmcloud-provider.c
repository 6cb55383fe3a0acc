/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/ibmcloud/manager.go), open, close. */
#include "ibmcloud.h"

#include "basic/util.h"
#include "cloud-config.h"

#define TYPES_KEEP_USEC (UINT64_C(3600) * 1000000)

enum {
        OPTION_API_KEY,
        OPTION_PROFILE_ID,
        OPTION_IAM_URL,
        OPTION_VPC_URL,
        OPTION_RESOURCE_GROUP,
        OPTION_PROFILE_NAME,
        OPTION_PROFILE_LIST,
        OPTION_ZONE,
        OPTION_SUBNET,
        OPTION_SECONDARY_SUBNET,
        OPTION_SECURITY_GROUPS,
        OPTION_SECONDARY_SECURITY_GROUP,
        OPTION_KEY,
        OPTION_VPC,
        OPTION_IMAGES,
        OPTION_CLUSTER,
        OPTION_DISABLE_CVM,
        OPTION_CR_TOKEN,
        OPTION_TAGS,
        OPTION_HOSTS,
        OPTION_HOST_GROUPS,
        OPTION_BOOT_PROFILE,
        OPTION_TAGGING_URL,
        OPTION_CONTAINERS_URL,
        OPTION_METADATA_URL,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_API_KEY] = { NULL, "IBMCLOUD_API_KEY", "", "API key; wins over the trusted profile", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_PROFILE_ID] = { "iam-profile-id", "IBMCLOUD_IAM_PROFILE_ID", "", "Trusted profile, where there is no API key" },
        [OPTION_IAM_URL] = { "iam-service-url", "IBMCLOUD_IAM_ENDPOINT", "https://iam.cloud.ibm.com/identity/token", "IAM's token service" },
        [OPTION_VPC_URL] = { "vpc-service-url", "IBMCLOUD_VPC_ENDPOINT", "", "VPC service, with /v1; empty: that of the zone's region" },
        [OPTION_RESOURCE_GROUP] = { "resource-group-id", "IBMCLOUD_RESOURCE_GROUP_ID", "", "Resource group; empty: the subnet's, or the account's default" },
        [OPTION_PROFILE_NAME] = { "profile-name", "IBMCLOUD_PODVM_INSTANCE_PROFILE_NAME", "", "Default instance profile", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_PROFILE_LIST] = { "profile-list", "IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST", "", "Instance profiles that pods may get", .type = PEERPOD_OPTION_LIST },
        [OPTION_ZONE] = { "zone-name", "IBMCLOUD_ZONE", "", "Zone; empty: the subnet's" },
        [OPTION_SUBNET] = { "primary-subnet-id", "IBMCLOUD_VPC_SUBNET_ID", "", "Subnet of the first interface", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_SECONDARY_SUBNET] = { "secondary-subnet-id", NULL, "", "Subnet of a second interface; empty: there is none" },
        [OPTION_SECURITY_GROUPS] = { "security-group-ids", "IBMCLOUD_SECURITY_GROUP_IDS", "", "Security groups of the first interface", .type = PEERPOD_OPTION_LIST },
        [OPTION_SECONDARY_SECURITY_GROUP] = { "secondary-security-group-id", NULL, "", "Security group of the second interface" },
        [OPTION_KEY] = { "key-id", "IBMCLOUD_SSH_KEY_ID", "", "SSH key" },
        [OPTION_VPC] = { "vpc-id", "IBMCLOUD_VPC_ID", "", "VPC; empty: the subnet's" },
        [OPTION_IMAGES] = { "image-id", "IBMCLOUD_PODVM_IMAGE_ID", "", "Images, one for each architecture", .type = PEERPOD_OPTION_LIST, .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_CLUSTER] = { "cluster-id", "IBMCLOUD_CLUSTER_ID", "", "IKS or ROKS cluster, whose security group and tag VMs get; empty: none" },
        [OPTION_DISABLE_CVM] = { "disable-cvm", "DISABLECVM", "true", "false asks for confidential VMs: TDX with secure boot, or Secure Execution", .type = PEERPOD_OPTION_BOOL },
        [OPTION_CR_TOKEN] = { "cr-token-filename", NULL, IAM_CR_TOKEN_FILE, "Compute resource token for the profile; not there: this VPC instance's identity" },
        [OPTION_TAGS] = { "tags", "TAGS", "", "User tags of VMs", .type = PEERPOD_OPTION_LIST },
        [OPTION_HOSTS] = { "dedicated-host-ids", "IBMCLOUD_DEDICATED_HOST_IDS", "", "Dedicated hosts, one for each zone", .type = PEERPOD_OPTION_LIST },
        [OPTION_HOST_GROUPS] = { "dedicated-host-group-ids", "IBMCLOUD_DEDICATED_HOST_GROUP_IDS", "", "Dedicated host groups, one for each zone", .type = PEERPOD_OPTION_LIST },
        [OPTION_BOOT_PROFILE] = { "boot-volume-profile", "PEERPOD_IBMCLOUD_BOOT_VOLUME_PROFILE", "general-purpose", "Volume profile of the boot volume", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_TAGGING_URL] = { "tagging-service-url", "IBMCLOUD_GT_API_ENDPOINT", "https://tags.global-search-tagging.cloud.ibm.com", "Global tagging service" },
        [OPTION_CONTAINERS_URL] = { "containers-service-url", "IBMCLOUD_CS_API_ENDPOINT", "https://containers.cloud.ibm.com/global", "Kubernetes service, for the cluster's security group" },
        [OPTION_METADATA_URL] = { "metadata-service-url", "PEERPOD_IBMCLOUD_METADATA_ENDPOINT", "http://169.254.169.254", "VPC instance metadata, for this instance's identity" },
};

/* "us-south-2" → "us-south" */
static int region_url(const Vpc *v, char **ret, PeerpodError *error) {
        size_t n = strlen(v->zone);

        while (n > 0 && v->zone[n - 1] >= '0' && v->zone[n - 1] <= '9')
                n--;
        if (n > 0 && v->zone[n - 1] == '-')
                n--;
        if (n == 0)
                *ret = strdup("https://us-south.iaas.cloud.ibm.com/v1");
        else if (asprintf(ret, "https://%.*s.iaas.cloud.ibm.com/v1", (int) n, v->zone) < 0)
                *ret = NULL;
        return *ret ? 0 : oom(error);
}

/* What becomes a part of a path must be able to. */
static int check_ids(const PeerpodConfig *config, PeerpodError *error) {
        static const unsigned ids[] = {
                OPTION_RESOURCE_GROUP, OPTION_PROFILE_NAME, OPTION_PROFILE_LIST, OPTION_ZONE, OPTION_SUBNET, OPTION_SECONDARY_SUBNET, OPTION_SECURITY_GROUPS,
                OPTION_SECONDARY_SECURITY_GROUP, OPTION_KEY, OPTION_VPC, OPTION_IMAGES, OPTION_CLUSTER, OPTION_HOSTS, OPTION_HOST_GROUPS, OPTION_BOOT_PROFILE,
        };
        static const unsigned urls[] = { OPTION_IAM_URL, OPTION_VPC_URL, OPTION_TAGGING_URL, OPTION_CONTAINERS_URL, OPTION_METADATA_URL };
        const char *item;
        size_t n;

        for (size_t i = 0; i < ELEMENTSOF(ids); i++)
                for (const char *p = config->values[ids[i]]; list_next(&p, &item, &n);) {
                        _cleanup_(freep) char *id = strndup(item, n);

                        if (!id)
                                return oom(error);
                        if (!ibm_id_is_valid(id))
                                return config_refuse(error, options, config, ids[i], "it is no id");
                }
        for (size_t i = 0; i < ELEMENTSOF(urls); i++)
                if (!isempty(config->values[urls[i]]) && !ibm_url_is_valid(config->values[urls[i]]))
                        return config_refuse(error, options, config, urls[i], "it is no http or https URL");
        for (const char *p = config->values[OPTION_TAGS]; list_next(&p, &item, &n);)
                if (n >= IBM_TAG_SIZE)
                        return config_refuse(error, options, config, OPTION_TAGS, "a tag is longer than 128 characters");
        if (isempty(config->values[OPTION_API_KEY]) && isempty(config->values[OPTION_PROFILE_ID]))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Either IBMCLOUD_API_KEY or IBMCLOUD_IAM_PROFILE_ID must be set.");
        return 0;
}

static int read_settings(Vpc *v, const PeerpodConfig *config, PeerpodError *error) {
        const struct { unsigned option; char **to; } texts[] = {
                { OPTION_VPC_URL, &v->vpc_url },
                { OPTION_TAGGING_URL, &v->tagging_url },
                { OPTION_CONTAINERS_URL, &v->containers_url },
                { OPTION_RESOURCE_GROUP, &v->resource_group },
                { OPTION_PROFILE_NAME, &v->default_profile },
                { OPTION_PROFILE_LIST, &v->profiles },
                { OPTION_ZONE, &v->zone },
                { OPTION_SUBNET, &v->subnet },
                { OPTION_SECONDARY_SUBNET, &v->secondary_subnet },
                { OPTION_SECURITY_GROUPS, &v->security_groups },
                { OPTION_SECONDARY_SECURITY_GROUP, &v->secondary_security_group },
                { OPTION_KEY, &v->key },
                { OPTION_VPC, &v->vpc },
                { OPTION_IMAGES, &v->images },
                { OPTION_CLUSTER, &v->cluster },
                { OPTION_TAGS, &v->tags },
                { OPTION_HOSTS, &v->hosts },
                { OPTION_HOST_GROUPS, &v->host_groups },
                { OPTION_BOOT_PROFILE, &v->boot_profile },
        };
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(texts) && r == 0; i++)
                r = config_copy(config, texts[i].option, texts[i].to, error);
        v->confidential = !config_bool(config, OPTION_DISABLE_CVM);
        if (r == 0 && isempty(v->vpc_url)) {
                free(TAKE_PTR(v->vpc_url));
                r = region_url(v, &v->vpc_url, error);
        }
        return r;
}

static void vpc_close(void *provider) {
        Vpc *v = provider;
        char *texts[] = {
                v->vpc_url, v->tagging_url, v->containers_url, v->resource_group, v->default_profile, v->profiles, v->zone, v->subnet, v->secondary_subnet,
                v->security_groups, v->secondary_security_group, v->key, v->vpc, v->images, v->cluster, v->tags, v->hosts, v->host_groups, v->boot_profile,
                v->host, v->host_group, v->cluster_group,
        };

        instance_type_cache_free(v->types);
        iam_free(v->iam);
        cloud_http_free(v->http);
        (void) pthread_mutex_destroy(&v->mutex);
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                free(texts[i]);
        if (v->place) {
                free(v->place->zone);
                free(v->place->vpc);
                free(v->place->resource_group);
                free(v->place);
        }
        free(v);
}

DEFINE_CLEANUP(Vpc*, vpc_close);

static int vpc_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        _cleanup_(vpc_closep) Vpc *v = NULL;
        int r;

        v = new(Vpc);
        if (!v)
                return oom(error);
        *v = (Vpc) {};
        (void) pthread_mutex_init(&v->mutex, NULL);

        r = check_ids(config, error);
        if (r == 0)
                r = read_settings(v, config, error);
        if (r == 0)
                r = cloud_http_new(&(CloudHttpConfig) { .user_agent = "peerpod-ibmcloud/" PEERPOD_VERSION, .ca_file = "" }, &v->http, error);
        if (r == 0)
                r = iam_new(&(IamConfig) {
                        .endpoint = config->values[OPTION_IAM_URL],
                        .api_key = config->values[OPTION_API_KEY],
                        .profile_id = config->values[OPTION_PROFILE_ID],
                        .cr_token_file = config->values[OPTION_CR_TOKEN],
                        .metadata = config->values[OPTION_METADATA_URL],
                }, v->http, &v->iam, error);
        if (r < 0)
                return r;
        if (instance_type_cache_new(vpc_fetch_types, v, TYPES_KEEP_USEC, &v->types) < 0)
                return oom(error);

        v->api = (IbmApi) { .http = v->http, .iam = v->iam };
        *ret = TAKE_PTR(v);
        return 0;
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "ibmcloud",
        .description = "IBM Cloud VPC",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = VPC_USER_DATA_MAX,
        .open = vpc_open,
        .verify = vpc_verify,
        .create = vpc_create,
        .remove = vpc_remove,
        .find = vpc_find,
        .close = vpc_close,
};
