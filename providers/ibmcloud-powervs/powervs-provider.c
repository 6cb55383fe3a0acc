/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/ibmcloudpowervs/manager.go), open, close. */
#include "basic/util.h"
#include "cloud-config.h"
#include "powervs.h"

#define POWER_HOST ".power-iaas.cloud.ibm.com"

enum {
        OPTION_API_KEY,
        OPTION_ZONE,
        OPTION_SERVICE_INSTANCE,
        OPTION_NETWORK,
        OPTION_IMAGE,
        OPTION_SSH_KEY,
        OPTION_PROCESSOR_TYPE,
        OPTION_SYSTEM_TYPE,
        OPTION_MEMORY,
        OPTION_PROCESSORS,
        OPTION_PUBLIC_IP,
        OPTION_BUILD_TIMEOUT,
        OPTION_POWER_URL,
        OPTION_IAM_URL,
        OPTION_STORAGE_TYPE,
        OPTION_ACCOUNT,
        OPTION_PROFILE_ID,
        OPTION_CR_TOKEN,
        OPTION_METADATA_URL,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_API_KEY] = { NULL, "IBMCLOUD_API_KEY", "", "API key", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_ZONE] = { "zone", "POWERVS_ZONE", "", "Zone", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_SERVICE_INSTANCE] = { "service-instance-id", "POWERVS_SERVICE_INSTANCE_ID", "", "Workspace (GUID of the service instance)", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_NETWORK] = { "network-id", "POWERVS_NETWORK_ID", "", "Network", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_IMAGE] = { "image-id", "POWERVS_IMAGE_ID", "", "Image", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_SSH_KEY] = { "ssh-key", "POWERVS_SSH_KEY_NAME", "", "Name of the SSH key" },
        [OPTION_PROCESSOR_TYPE] = { "proc-type", "POWERVS_PROCESSOR_TYPE", "shared", "'shared', 'capped' or 'dedicated'" },
        [OPTION_SYSTEM_TYPE] = { "sys-type", "POWERVS_SYSTEM_TYPE", "s922", "System type" },
        [OPTION_MEMORY] = { "memory", "POWERVS_MEMORY", "2", "Memory, in GB, of a VM whose pod asks for none", .type = PEERPOD_OPTION_DECIMAL },
        [OPTION_PROCESSORS] = { "cpu", "POWERVS_PROCESSORS", "0.5", "Processors of a VM whose pod asks for none", .type = PEERPOD_OPTION_DECIMAL },
        [OPTION_PUBLIC_IP] = { "use-public-ip", "USE_PUBLIC_IP", "false", "Talk to VMs by their external addresses", .type = PEERPOD_OPTION_BOOL },
        [OPTION_BUILD_TIMEOUT] = { "build-timeout", "POWERVS_BUILD_TIMEOUT", "150s", "How long a VM may be in state BUILD", .type = PEERPOD_OPTION_DURATION },
        [OPTION_POWER_URL] = { NULL, "IBMCLOUD_POWER_API_ENDPOINT", "", "Host or URL of the service; empty: that of the zone's region" },
        [OPTION_IAM_URL] = { "iam-service-url", "IBMCLOUD_IAM_ENDPOINT", "https://iam.cloud.ibm.com/identity/token", "IAM's token service" },
        [OPTION_STORAGE_TYPE] = { "storage-type", "POWERVS_STORAGE_TYPE", "", "Storage tier; empty: the service's default" },
        [OPTION_ACCOUNT] = { "account-id", "POWERVS_ACCOUNT_ID", "", "Account; empty: that of the API key" },
        [OPTION_PROFILE_ID] = { "iam-profile-id", "IBMCLOUD_IAM_PROFILE_ID", "", "Trusted profile, where there is no API key; needs the account" },
        [OPTION_CR_TOKEN] = { "cr-token-filename", NULL, IAM_CR_TOKEN_FILE, "Compute resource token for the profile; not there: this VPC instance's identity" },
        [OPTION_METADATA_URL] = { "metadata-service-url", "PEERPOD_IBMCLOUD_METADATA_ENDPOINT", "http://169.254.169.254", "VPC instance metadata, for this instance's identity" },
};

/* power-go-client, ibmpisession: "dal12" → "dal", "eu-de-1" → "eu-de", "us-south" stays */
static size_t region_length(const char *zone) {
        size_t n = strlen(zone), digits = n;

        while (digits > 0 && zone[digits - 1] >= '0' && zone[digits - 1] <= '9')
                digits--;
        if (!strchr(zone, '-'))
                return digits;
        return digits < n && digits > 0 && zone[digits - 1] == '-' ? digits - 1 : n;
}

static int service_url(const PeerpodConfig *config, char **ret, PeerpodError *error) {
        const char *given = config->values[OPTION_POWER_URL], *zone = config->values[OPTION_ZONE];
        int region = (int) region_length(zone), n;

        if (isempty(given))
                n = asprintf(ret, "https://%.*s" POWER_HOST, region, zone);
        else if (startswith(given, "power-iaas."))
                n = asprintf(ret, "https://%.*s.%s", region, zone, given);
        else
                n = asprintf(ret, "%s%s", strstr(given, "://") ? "" : "https://", given);
        if (n < 0) {
                *ret = NULL;
                return oom(error);
        }
        if (!ibm_url_is_valid(*ret))
                return config_refuse(error, options, config, OPTION_POWER_URL, "it is no host and no http or https URL");
        return 0;
}

static int read_size(PowerVs *p, const PeerpodConfig *config, PeerpodError *error) {
        const char *memory = config->values[OPTION_MEMORY], *processors = config->values[OPTION_PROCESSORS], *system = config->values[OPTION_SYSTEM_TYPE];
        uint64_t hundredths;

        if (!powervs_processor_parse(config->values[OPTION_PROCESSOR_TYPE], &p->size.processor))
                return config_refuse(error, options, config, OPTION_PROCESSOR_TYPE, "it is none of 'shared', 'capped' and 'dedicated'");
        if (powervs_decimal_parse(memory, strlen(memory), &hundredths) < 0 || hundredths == 0)
                return config_refuse(error, options, config, OPTION_MEMORY, "it is no amount of memory in GB");
        p->size.memory_gb = (hundredths + 99) / 100;
        if (powervs_decimal_parse(processors, strlen(processors), &p->size.cpu_hundredths) < 0 || p->size.cpu_hundredths == 0)
                return config_refuse(error, options, config, OPTION_PROCESSORS, "it is no number of processors");
        if (isempty(system) || strlen(system) >= POWERVS_SYSTEM_SIZE || !ibm_id_is_valid(system))
                return config_refuse(error, options, config, OPTION_SYSTEM_TYPE, "it is no system type");
        (void) snprintf(p->size.system, sizeof(p->size.system), "%s", system);
        return 0;
}

static int check_texts(const PeerpodConfig *config, PeerpodError *error) {
        static const unsigned ids[] = { OPTION_ZONE, OPTION_SERVICE_INSTANCE, OPTION_NETWORK, OPTION_IMAGE, OPTION_ACCOUNT, OPTION_STORAGE_TYPE };

        for (size_t i = 0; i < ELEMENTSOF(ids); i++)
                if (!isempty(config->values[ids[i]]) && !ibm_id_is_valid(config->values[ids[i]]))
                        return config_refuse(error, options, config, ids[i], "it is no id");
        if (!ibm_url_is_valid(config->values[OPTION_IAM_URL]))
                return config_refuse(error, options, config, OPTION_IAM_URL, "it is no http or https URL");
        if (!ibm_url_is_valid(config->values[OPTION_METADATA_URL]))
                return config_refuse(error, options, config, OPTION_METADATA_URL, "it is no http or https URL");
        if (!isempty(config->values[OPTION_API_KEY]))
                return 0;
        if (isempty(config->values[OPTION_PROFILE_ID]))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Either IBMCLOUD_API_KEY or IBMCLOUD_IAM_PROFILE_ID must be set.");
        if (isempty(config->values[OPTION_ACCOUNT]))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "A trusted profile needs POWERVS_ACCOUNT_ID.");
        return 0;
}

static int read_settings(PowerVs *p, const PeerpodConfig *config, PeerpodError *error) {
        const struct { unsigned option; char **to; } texts[] = {
                { OPTION_ZONE, &p->zone },
                { OPTION_SERVICE_INSTANCE, &p->service_instance },
                { OPTION_NETWORK, &p->network },
                { OPTION_IMAGE, &p->image },
                { OPTION_SSH_KEY, &p->ssh_key },
                { OPTION_STORAGE_TYPE, &p->storage_type },
                { OPTION_ACCOUNT, &p->account },
        };
        int r;

        r = check_texts(config, error);
        for (size_t i = 0; i < ELEMENTSOF(texts) && r == 0; i++)
                r = config_copy(config, texts[i].option, texts[i].to, error);
        if (r == 0)
                r = read_size(p, config, error);
        if (r == 0)
                r = service_url(config, &p->url, error);
        if (r < 0)
                return r;
        p->crn_cloud = isempty(config->values[OPTION_POWER_URL]) || strstr(p->url, POWER_HOST) ? "bluemix" : "staging";
        p->public_ip = config_bool(config, OPTION_PUBLIC_IP);
        p->build_timeout_usec = config_uint(config, OPTION_BUILD_TIMEOUT);
        return 0;
}

static void powervs_close(void *provider) {
        PowerVs *p = provider;

        iam_free(p->iam);
        cloud_http_free(p->http);
        (void) pthread_mutex_destroy(&p->mutex);
        free(p->url);
        free(p->zone);
        free(p->service_instance);
        free(p->network);
        free(p->image);
        free(p->ssh_key);
        free(p->storage_type);
        free(p->account);
        free(p->dhcp_server);
        free(p);
}

DEFINE_CLEANUP(PowerVs*, powervs_close);

static int powervs_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        _cleanup_(powervs_closep) PowerVs *p = NULL;
        int r;

        p = new(PowerVs);
        if (!p)
                return oom(error);
        *p = (PowerVs) {};
        (void) pthread_mutex_init(&p->mutex, NULL);

        r = read_settings(p, config, error);
        if (r == 0)
                r = cloud_http_new(&(CloudHttpConfig) { .user_agent = "peerpod-ibmcloud-powervs/" PEERPOD_VERSION, .ca_file = "" }, &p->http, error);
        if (r == 0)
                r = iam_new(&(IamConfig) {
                        .endpoint = config->values[OPTION_IAM_URL],
                        .api_key = config->values[OPTION_API_KEY],
                        .profile_id = config->values[OPTION_PROFILE_ID],
                        .cr_token_file = config->values[OPTION_CR_TOKEN],
                        .metadata = config->values[OPTION_METADATA_URL],
                }, p->http, &p->iam, error);
        if (r < 0)
                return r;

        p->api = (IbmApi) { .http = p->http, .iam = p->iam };
        *ret = TAKE_PTR(p);
        return 0;
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "ibmcloud-powervs",
        .description = "IBM Power Virtual Server",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = POWERVS_USER_DATA_MAX,
        .open = powervs_open,
        .verify = powervs_verify,
        .create = powervs_create,
        .remove = powervs_remove,
        .find = powervs_find,
        .close = powervs_close,
};
