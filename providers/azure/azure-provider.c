/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/azure/manager.go), open, close. */
#include <ctype.h>
#include <strings.h>
#include <syslog.h>

#include "azure-api.h"
#include "azure-body.h"
#include "azure-credentials.h"
#include "azure-disk.h"
#include "azure-id.h"
#include "azure-instance.h"
#include "azure-sku.h"
#include "azure-ssh.h"
#include "azure-verify.h"
#include "basic/parse.h"

#define TOKEN_EARLY_USEC (5 * 60 * USEC_PER_SEC)
#define SKUS_KEEP_USEC (3600 * USEC_PER_SEC)
#define USER_DATA_PLAIN_MAX (65536 / 4 * 3)
#define TRIES_MAX 10                            /* limits are per subscription: others may use them up for a while */
#define PAUSE_USEC (250 * USEC_PER_MSEC)
#define TAGS_MAX 48                             /* Azure takes 50; two are ours */

const PeerpodOption azure_options[_AZURE_OPTION_MAX] = {
        [OPTION_CLIENT_ID] = { "clientid", "AZURE_CLIENT_ID", "",
                "Client (application) id; of a managed identity: which of several" },
        [OPTION_CLIENT_SECRET] = { NULL, "AZURE_CLIENT_SECRET", "",
                "The client's secret; empty: workload or managed identity", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_TENANT_ID] = { "tenantid", "AZURE_TENANT_ID", "",
                "Tenant (directory) id" },
        [OPTION_SUBSCRIPTION] = { "subscriptionid", "AZURE_SUBSCRIPTION_ID", "",
                "Subscription", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_REGION] = { "region", "AZURE_REGION", "",
                "Region, such as 'eastus'", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_ZONE] = { "zone", "AZURE_ZONE", "",
                "Availability zone of the VMs; empty: the pod's disks', or none" },
        [OPTION_GROUP] = { "resourcegroup", "AZURE_RESOURCE_GROUP", "",
                "Resource group of the VMs", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_SUBNET] = { "subnetid", "AZURE_SUBNET_ID", "",
                "Resource id of the subnet", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_NSG] = { "securitygroupid", "AZURE_NSG_ID", "",
                "Resource id of the network security group of the VMs' interfaces" },
        [OPTION_SIZE] = { "instance-size", "AZURE_INSTANCE_SIZE", "Standard_DC2as_v5",
                "VM size of pods that ask for none", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_SIZES] = { "instance-sizes", "AZURE_INSTANCE_SIZES", "",
                "VM sizes that pods may have; empty: the default alone", .type = PEERPOD_OPTION_LIST },
        [OPTION_IMAGE] = { "imageid", "AZURE_IMAGE_ID", "",
                "Image: a resource id, a community or shared gallery's, or a URN", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_SSH_KEY_PATH] = { "ssh-key-path", NULL, "",
                "File with an SSH public key for the VMs; empty: a key that nobody has" },
        [OPTION_SSH_USER] = { "ssh-username", "SSH_USERNAME", "peerpod",
                "User that Azure's provisioning makes in the VMs", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_DISABLE_CVM] = { "disable-cvm", "DISABLECVM", "false",
                "true makes ordinary VMs instead of confidential ones", .type = PEERPOD_OPTION_BOOL },
        [OPTION_SECURE_BOOT] = { "enable-secure-boot", "ENABLE_SECURE_BOOT", "false",
                "Boot with secure boot; an ordinary VM is a trusted launch VM then", .type = PEERPOD_OPTION_BOOL },
        [OPTION_PUBLIC_IP] = { "use-public-ip", "USE_PUBLIC_IP", "false",
                "Give each VM a public address, and reach it there", .type = PEERPOD_OPTION_BOOL },
        [OPTION_ROOT_SIZE] = { "root-volume-size", "ROOT_VOLUME_SIZE", "0",
                "Size of the OS disk in GiB; 0: the image's", .type = PEERPOD_OPTION_UINT, .maximum = 4095 },
        [OPTION_TAGS] = { "tags", "TAGS", "",
                "Tags of the VMs, 'key=value,key=value'", .type = PEERPOD_OPTION_MAP },
        [OPTION_SECOND_SUBNET] = { "second-subnetid", "AZURE_SECOND_SUBNET_ID", "",
                "Resource id of the subnet of a pod's external interface; empty: the same" },
        [OPTION_CVM_DISK] = { "cvm-disk-encryption", "AZURE_CVM_DISK_ENCRYPTION", "VMGuestStateOnly",
                "What of a confidential VM's disk is bound to it: 'VMGuestStateOnly', 'DiskWithVMGuestState', 'NonPersistedTPM'" },
        [OPTION_TOKEN_FILE] = { "federated-token-file", "AZURE_FEDERATED_TOKEN_FILE", "",
                "File with the workload identity's token" },
        [OPTION_AUTHORITY] = { "authority-host", "AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com",
                "Where tokens come from", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_ENDPOINT] = { "resource-manager-endpoint", "AZURE_RESOURCE_MANAGER_ENDPOINT", "https://management.azure.com",
                "Azure Resource Manager, and the audience of tokens", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_IDENTITY_HOST] = { "managed-identity-host", "AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://169.254.169.254",
                "Metadata service that gives a managed identity's tokens", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_CA_FILE] = { "ca-file", "PEERPOD_AZURE_CA_FILE", "",
                "PEM file of the certificate authorities to trust instead of the system's" },
};

/* A token must not travel in the clear, except on this machine or to the metadata service. */
static bool url_is_safe(const char *s) {
        static const char *const plain[] = { "http://127.", "http://localhost", "http://[::1]", "http://169.254." };

        if (!text_is_plain(s, 256) || strpbrk(s, " ?#\"\\"))
                return false;
        if (startswith(s, "https://"))
                return s[strlen("https://")] != '\0';
        for (size_t i = 0; i < ELEMENTSOF(plain); i++)
                if (startswith(s, plain[i]))
                        return true;
        return false;
}

static bool name_is_plain(const char *s, const char *further, size_t max) {
        size_t n = 0;

        for (; s[n]; n++)
                if (!isalnum((unsigned char) s[n]) && !strchr(further, s[n]))
                        return false;
        return n > 0 && n <= max;
}

static bool id_is_of(const char *s, const char *type) {
        ArmId id;

        return arm_id_parse(s, &id) == 0 && arm_id_is(&id, type);
}

static bool cvm_disk_is_known(const char *s) {
        return streq(s, "VMGuestStateOnly") || streq(s, "DiskWithVMGuestState") || streq(s, "NonPersistedTPM");
}

/* Azure's grammar for names of tags; values: 256 characters. */
static const char* check_tags(const char *list) {
        const char *item;
        size_t n, count = 0;

        while (list_next(&list, &item, &n)) {
                const char *equals = memchr(item, '=', n);
                size_t key = equals ? (size_t) (equals - item) : 0;

                if (key == 0 || key > 512 || n - key - 1 > 256)
                        return "a tag's key has 1 to 512 characters, its value 256 at most";
                if (strcspn(item, "<>%&\\?/") < key)
                        return "a tag's key holds none of <>%&\\?/";
                if (strncasecmp(item, "peerpod-", strlen("peerpod-")) == 0)
                        return "tags that begin with 'peerpod-' are the provider's own";
                if (++count > TAGS_MAX)
                        return "there are too many tags";
        }
        return NULL;
}

/* One line for each setting that has a grammar: the first that does not fit is named. */
static int check(const PeerpodConfig *config, PeerpodError *error) {
        const char *const *v = config->values;
        const char *tags = check_tags(v[OPTION_TAGS]);
        const struct {
                AzureOption option;
                bool good;
                const char *why;
        } checks[] = {
                { OPTION_CLIENT_ID, !*v[OPTION_CLIENT_ID] || name_is_plain(v[OPTION_CLIENT_ID], "-", 64), "it is no client id" },
                { OPTION_TENANT_ID, !*v[OPTION_TENANT_ID] || name_is_plain(v[OPTION_TENANT_ID], "-.", 128), "it is no tenant" },
                { OPTION_SUBSCRIPTION, name_is_plain(v[OPTION_SUBSCRIPTION], "-", 63), "it is no subscription id" },
                { OPTION_REGION, name_is_plain(v[OPTION_REGION], "", 64), "it is no region's name, such as 'eastus'" },
                { OPTION_ZONE, !*v[OPTION_ZONE] || name_is_plain(v[OPTION_ZONE], "", 6), "it is no zone, such as '1'" },
                { OPTION_GROUP, name_is_plain(v[OPTION_GROUP], "-_.()", 90), "it is no resource group's name" },
                { OPTION_SUBNET, id_is_of(v[OPTION_SUBNET], "Microsoft.Network/virtualNetworks/subnets"), "it is no subnet's resource id" },
                { OPTION_SECOND_SUBNET, !*v[OPTION_SECOND_SUBNET] ||
                          id_is_of(v[OPTION_SECOND_SUBNET], "Microsoft.Network/virtualNetworks/subnets"), "it is no subnet's resource id" },
                { OPTION_NSG, !*v[OPTION_NSG] || id_is_of(v[OPTION_NSG], "Microsoft.Network/networkSecurityGroups"),
                  "it is no network security group's resource id" },
                { OPTION_SIZE, name_is_plain(v[OPTION_SIZE], "_-", 63), "it is no VM size" },
                { OPTION_IMAGE, azure_image_check(v[OPTION_IMAGE]) == 0,
                  "it is neither an image's resource id, nor a community or shared gallery's, nor PUBLISHER:OFFER:SKU:VERSION" },
                { OPTION_SSH_USER, name_is_plain(v[OPTION_SSH_USER], "-_", 32), "it is no user's name" },
                { OPTION_CVM_DISK, cvm_disk_is_known(v[OPTION_CVM_DISK]), "it is none of the three" },
                { OPTION_TAGS, !tags, tags },
                { OPTION_AUTHORITY, url_is_safe(v[OPTION_AUTHORITY]), "it is no https:// URL" },
                { OPTION_ENDPOINT, url_is_safe(v[OPTION_ENDPOINT]), "it is no https:// URL" },
                { OPTION_IDENTITY_HOST, url_is_safe(v[OPTION_IDENTITY_HOST]), "it is no URL of this machine or its metadata service" },
        };

        for (size_t i = 0; i < ELEMENTSOF(checks); i++)
                if (!checks[i].good)
                        return config_refuse(error, azure_options, config, checks[i].option, checks[i].why);
        return 0;
}

static int read_settings(Azure *a, const PeerpodConfig *config, PeerpodError *error) {
        static const AzureOption endpoints[] = { OPTION_AUTHORITY, OPTION_ENDPOINT, OPTION_IDENTITY_HOST };
        int r;

        r = check(config, error);
        for (unsigned i = 0; r == 0 && i < _AZURE_OPTION_MAX; i++)
                r = config_copy(config, i, &a->text[i], error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(endpoints); i++)
                for (size_t n = strlen(a->text[endpoints[i]]); n > 0 && a->text[endpoints[i]][n - 1] == '/'; n--)
                        a->text[endpoints[i]][n - 1] = '\0';
        a->confidential = !config_bool(config, OPTION_DISABLE_CVM);
        a->secure_boot = config_bool(config, OPTION_SECURE_BOOT);
        a->public_ip = config_bool(config, OPTION_PUBLIC_IP);
        a->root_size_gib = config_uint(config, OPTION_ROOT_SIZE);
        if (a->confidential && a->secure_boot && streq(azure_text(a, OPTION_CVM_DISK), "NonPersistedTPM"))
                return config_refuse(error, azure_options, config, OPTION_CVM_DISK, "it contradicts ENABLE_SECURE_BOOT=true");
        r = azure_credentials_check(a, error);
        return r < 0 ? r : azure_ssh_key(azure_text(a, OPTION_SSH_KEY_PATH), &a->ssh_key, error);
}

static void azure_close(void *provider) {
        Azure *a = provider;

        (void) instance_type_cache_free(a->types);
        (void) token_cache_free(a->tokens);
        (void) cloud_http_free(a->http);
        azure_skus_free(a->skus, a->n_skus);
        for (unsigned i = 0; i < _AZURE_OPTION_MAX; i++)
                erase_free_stringp(&a->text[i]);
        free(a->ssh_key);
        (void) pthread_mutex_destroy(&a->mutex);
        free(a);
}

static int open_client(Azure *a, PeerpodError *error) {
        const CloudHttpConfig http = {
                .user_agent = "peerpod-azure/" PEERPOD_VERSION,
                .ca_file = azure_text(a, OPTION_CA_FILE),
                .tries_max = TRIES_MAX,
                .pause_usec = PAUSE_USEC,
        };

        a->api = (CloudApi) { .authorize = azure_authorize, .judge = azure_judge, .userdata = a };
        a->token_api = (CloudApi) { .judge = azure_token_judge, .userdata = a };
        if (token_cache_new(azure_token_fetch, a, TOKEN_EARLY_USEC, &a->tokens) < 0 ||
            instance_type_cache_new(azure_skus_fetch, a, SKUS_KEEP_USEC, &a->types) < 0)
                return oom(error);
        return cloud_http_new(&http, &a->http, error);
}

static int azure_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        Azure *a = new(Azure);
        int r;

        if (!a)
                return oom(error);
        *a = (Azure) { .mutex = PTHREAD_MUTEX_INITIALIZER };
        r = read_settings(a, config, error);
        if (r == 0)
                r = open_client(a, error);
        if (r < 0) {
                azure_close(a);
                return r;
        }
        *ret = a;
        return 0;
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "azure",
        .description = "pod VMs in Microsoft Azure",
        .options = azure_options,
        .n_options = _AZURE_OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = USER_DATA_PLAIN_MAX,
        .open = azure_open,
        .verify = azure_verify,
        .create = azure_create,
        .remove = azure_remove,
        .find = azure_find,
        .close = azure_close,
        .volumes_max = AZURE_DISKS_MAX,
};
