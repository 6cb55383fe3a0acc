/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/alibabacloud/manager.go), open, close. */
#include "alibabacloud-provider.h"

#include <syslog.h>

#include "alibabacloud-credentials.h"
#include "alibabacloud-disk.h"
#include "alibabacloud-instance.h"
#include "alibabacloud-list.h"
#include "alibabacloud-verify.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define DEFAULT_TYPE "ecs.g8i.xlarge"
#define DEFAULT_OIDC_TOKEN_FILE "/var/run/secrets/ack.alibabacloud.com/rrsa-tokens/token"        /* the chart's mount */
#define CREDENTIALS_EARLY_USEC (180 * USEC_PER_SEC)
#define TYPES_KEEP_USEC (3600 * USEC_PER_SEC)
#define TRIES_MAX 8
#define USER_TAGS_MAX 18                /* 20 in all */
#define SECURITY_GROUPS_MAX 16

enum {
        OPTION_ACCESS_KEY_ID,
        OPTION_ACCESS_KEY_SECRET,
        OPTION_SECURITY_TOKEN,
        OPTION_REGION,
        OPTION_IMAGE,
        OPTION_TYPE,
        OPTION_TYPE_ALIAS,
        OPTION_ALLOWED_TYPES,
        OPTION_VSWITCH,
        OPTION_VPC,
        OPTION_SECURITY_GROUPS,
        OPTION_KEY_NAME,
        OPTION_PUBLIC_ADDRESS,
        OPTION_DISK_SIZE,
        OPTION_DISK_CATEGORY,
        OPTION_DISABLE_CVM,
        OPTION_TAGS,
        OPTION_HTTP_TOKENS,
        OPTION_RESOURCE_GROUP,
        OPTION_DEDICATED_HOST,
        OPTION_CHAIN_ID,
        OPTION_CHAIN_SECRET,
        OPTION_CHAIN_TOKEN,
        OPTION_ROLE_ARN,
        OPTION_OIDC_PROVIDER_ARN,
        OPTION_OIDC_TOKEN_FILE,
        OPTION_ROLE_SESSION_NAME,
        OPTION_RAM_ROLE,
        OPTION_ECS_ENDPOINT,
        OPTION_VPC_ENDPOINT,
        OPTION_STS_ENDPOINT,
        OPTION_METADATA_ENDPOINT,
        OPTION_CA_FILE,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_ACCESS_KEY_ID] = { "alibabacloud-access-key-id", "ALIBABACLOUD_ACCESS_KEY_ID", "",
                "Access key ID; empty, or without its secret: the credential chain" },
        [OPTION_ACCESS_KEY_SECRET] = { NULL, "ALIBABACLOUD_ACCESS_KEY_SECRET", "",
                "Its secret", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_SECURITY_TOKEN] = { NULL, "ALIBABACLOUD_SECURITY_TOKEN", "",
                "Security token of a temporary access key", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_REGION] = { "region", "REGION", "cn-beijing",
                "Region", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_IMAGE] = { "imageid", "IMAGEID", "",
                "Image of the pod VMs" },
        [OPTION_TYPE] = { "instance-type", "PODVM_INSTANCE_TYPE", DEFAULT_TYPE,
                "Instance type of a pod that asks for nothing else", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_TYPE_ALIAS] = { NULL, "INSTANCE_TYPE", "",
                "The same, where PODVM_INSTANCE_TYPE is not set" },
        [OPTION_ALLOWED_TYPES] = { "instance-types", "PODVM_INSTANCE_TYPES", "",
                "Other types that pods may have; empty: the default one only", .type = PEERPOD_OPTION_LIST },
        [OPTION_VSWITCH] = { "vswitch-id", "VSWITCH_ID", "",
                "vSwitch of the pod VMs", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_VPC] = { "vpc-id", NULL, "",
                "VPC; only checked against the vSwitch's" },
        [OPTION_SECURITY_GROUPS] = { "security-group-ids", "SECURITY_GROUP_IDS", "",
                "Security groups", .type = PEERPOD_OPTION_LIST, .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_KEY_NAME] = { "keyname", "KEYNAME", "",
                "SSH key pair" },
        [OPTION_PUBLIC_ADDRESS] = { "use-public-ip", "USE_PUBLIC_IP", "false",
                "Give the VMs public addresses, and dial these", .type = PEERPOD_OPTION_BOOL },
        [OPTION_DISK_SIZE] = { "system-disk-size", "SYSTEM_DISK_SIZE", "40",
                "Size of the system disk in GiB; 0: the image's", .type = PEERPOD_OPTION_UINT, .maximum = 65536 },
        [OPTION_DISK_CATEGORY] = { "system-disk-category", "ALIBABACLOUD_SYSTEM_DISK_CATEGORY", "cloud_essd",
                "Category of the system disk, where its size is set" },
        [OPTION_DISABLE_CVM] = { "disable-cvm", "DISABLECVM", "false",
                "false makes confidential VMs (TDX)", .type = PEERPOD_OPTION_BOOL },
        [OPTION_TAGS] = { "tags", "TAGS", "",
                "Tags of the instances and their disks", .type = PEERPOD_OPTION_MAP },
        [OPTION_HTTP_TOKENS] = { "http-tokens", "ALIBABACLOUD_HTTP_TOKENS", "optional",
                "'required': the VMs' metadata service answers to tokens only, which upstream's images cannot get" },
        [OPTION_RESOURCE_GROUP] = { "resource-group-id", "ALIBABACLOUD_RESOURCE_GROUP_ID", "",
                "Resource group of what is made" },
        [OPTION_DEDICATED_HOST] = { "dedicated-host-id", "ALIBABACLOUD_DEDICATED_HOST_ID", "",
                "Dedicated host of the pod VMs" },
        [OPTION_CHAIN_ID] = { NULL, "ALIBABA_CLOUD_ACCESS_KEY_ID", "",
                "Chain, 1: access key ID" },
        [OPTION_CHAIN_SECRET] = { NULL, "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "",
                "Chain, 1: its secret", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_CHAIN_TOKEN] = { NULL, "ALIBABA_CLOUD_SECURITY_TOKEN", "",
                "Chain, 1: its security token", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_ROLE_ARN] = { NULL, "ALIBABA_CLOUD_ROLE_ARN", "",
                "Chain, 2: role that a service account's token is good for (RRSA)" },
        [OPTION_OIDC_PROVIDER_ARN] = { NULL, "ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "",
                "Chain, 2: identity provider" },
        [OPTION_OIDC_TOKEN_FILE] = { NULL, "ALIBABA_CLOUD_OIDC_TOKEN_FILE", DEFAULT_OIDC_TOKEN_FILE,
                "Chain, 2: file of the token" },
        [OPTION_ROLE_SESSION_NAME] = { NULL, "ALIBABA_CLOUD_ROLE_SESSION_NAME", "",
                "Chain, 2: name of the session; empty: a new one each time" },
        [OPTION_RAM_ROLE] = { NULL, "ALIBABA_CLOUD_ECS_METADATA", "",
                "Chain, 3: RAM role of this machine; empty: the one it has" },
        [OPTION_ECS_ENDPOINT] = { NULL, "ALIBABACLOUD_ECS_ENDPOINT", "",
                "Host or URL of ECS; empty: the region's" },
        [OPTION_VPC_ENDPOINT] = { NULL, "ALIBABACLOUD_VPC_ENDPOINT", "",
                "Host or URL of VPC; empty: the region's" },
        [OPTION_STS_ENDPOINT] = { NULL, "ALIBABACLOUD_STS_ENDPOINT", "sts.aliyuncs.com",
                "Host or URL of STS" },
        [OPTION_METADATA_ENDPOINT] = { NULL, "ALIBABACLOUD_METADATA_ENDPOINT", "http://100.100.100.200",
                "URL of the metadata service" },
        [OPTION_CA_FILE] = { NULL, "ALIBABACLOUD_CA_FILE", "",
                "File of the certificate authorities to trust instead of the system's (PEM)" },
};

/* Regions whose hosts are not "SERVICE.REGION.aliyuncs.com" (aliyun/alibabacloud-typescript-sdk: ecs-20140526 and vpc-20160428, client). */
static const struct {
        const char *region, *ecs, *vpc;
} endpoints[] = {
        { "ap-northeast-2-pop",      "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
        { "cn-beijing-finance-pop",  "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
        { "cn-beijing-gov-1",        "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
        { "cn-fujian",               "ecs-cn-hangzhou.aliyuncs.com",    "vpc.aliyuncs.com"                },
        { "cn-hangzhou",             "ecs-cn-hangzhou.aliyuncs.com",    "vpc.aliyuncs.com"                },
        { "cn-hangzhou-finance",     "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
        { "cn-hongkong-finance-pop", "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
        { "cn-north-2-gov-1",        "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
        { "cn-shanghai-finance-1",   "ecs-cn-hangzhou.aliyuncs.com",    "vpc.aliyuncs.com"                },
        { "cn-shenzhen-finance-1",   "ecs-cn-hangzhou.aliyuncs.com",    "vpc.aliyuncs.com"                },
        { "cn-wuhan",                "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
        { "cn-zhangbei",             "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
        { "cn-zhangjiakou-na62-a01", "ecs.cn-zhangjiakou.aliyuncs.com", "vpc.cn-zhangjiakou.aliyuncs.com" },
        { "rus-west-1-pop",          "ecs.aliyuncs.com",                "vpc.aliyuncs.com"                },
};

static bool is_id(const char *s) {
        return strlen(s) <= 256 && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(s);
}

static int refuse(const PeerpodConfig *config, unsigned option, const char *why, PeerpodError *error) {
        return config_refuse(error, options, config, option, why);
}

/* "host", "host:port" or "http://host:port" → "https://host" … */
static int read_endpoint(const PeerpodConfig *config, unsigned option, const char *fallback, char **ret, PeerpodError *error) {
        const char *value = isempty(config->values[option]) ? fallback : config->values[option], *host;
        bool has_scheme = startswith(value, "http://") || startswith(value, "https://");

        host = has_scheme ? strstr(value, "://") + strlen("://") : value;
        if (isempty(host) || strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]") != strlen(host))
                return refuse(config, option, "it is no host and no URL without path", error);
        if (asprintf(ret, "%s%s", has_scheme ? "" : "https://", value) < 0) {
                *ret = NULL;
                return oom(error);
        }
        return 0;
}

static int read_endpoints(Alibaba *a, const PeerpodConfig *config, PeerpodError *error) {
        char ecs[300], vpc[300];
        int r;

        (void) snprintf(ecs, sizeof(ecs), "ecs.%s.aliyuncs.com", a->region);
        (void) snprintf(vpc, sizeof(vpc), "vpc.%s.aliyuncs.com", a->region);
        for (size_t i = 0; i < ELEMENTSOF(endpoints); i++)
                if (streq(endpoints[i].region, a->region)) {
                        (void) snprintf(ecs, sizeof(ecs), "%s", endpoints[i].ecs);
                        (void) snprintf(vpc, sizeof(vpc), "%s", endpoints[i].vpc);
                }

        r = read_endpoint(config, OPTION_ECS_ENDPOINT, ecs, &a->ecs_url, error);
        if (r == 0)
                r = read_endpoint(config, OPTION_VPC_ENDPOINT, vpc, &a->vpc_url, error);
        if (r == 0)
                r = read_endpoint(config, OPTION_STS_ENDPOINT, "", &a->sts_url, error);
        if (r == 0)
                r = read_endpoint(config, OPTION_METADATA_ENDPOINT, "", &a->metadata_url, error);
        return r;
}

static int read_texts(Alibaba *a, const PeerpodConfig *config, PeerpodError *error) {
        const struct {
                unsigned option;
                char **to;
                bool is_id;
        } table[] = {
                { OPTION_REGION,            &a->region,            true  },
                { OPTION_IMAGE,             &a->image,             true  },
                { OPTION_TYPE,              &a->default_type,      true  },
                { OPTION_ALLOWED_TYPES,     &a->allowed_types,     false },
                { OPTION_VSWITCH,           &a->vswitch,           true  },
                { OPTION_VPC,               &a->vpc,               true  },
                { OPTION_SECURITY_GROUPS,   &a->security_groups,   false },
                { OPTION_KEY_NAME,          &a->key_name,          false },
                { OPTION_TAGS,              &a->tags,              false },
                { OPTION_DISK_CATEGORY,     &a->disk_category,     true  },
                { OPTION_HTTP_TOKENS,       &a->http_tokens,       true  },
                { OPTION_RESOURCE_GROUP,    &a->resource_group,    true  },
                { OPTION_DEDICATED_HOST,    &a->dedicated_host,    true  },
                { OPTION_ROLE_ARN,          &a->role_arn,          false },
                { OPTION_OIDC_PROVIDER_ARN, &a->oidc_provider_arn, false },
                { OPTION_OIDC_TOKEN_FILE,   &a->oidc_token_file,   false },
                { OPTION_ROLE_SESSION_NAME, &a->session_name,      false },
                { OPTION_RAM_ROLE,          &a->ram_role,          false },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                unsigned option = table[i].option;
                int r;

                /* As upstream's entry point does, which has two names for one setting. */
                if (option == OPTION_TYPE && streq(config->values[option], DEFAULT_TYPE) && !isempty(config->values[OPTION_TYPE_ALIAS]))
                        option = OPTION_TYPE_ALIAS;
                if (table[i].is_id && !is_id(config->values[option]))
                        return refuse(config, option, "it holds characters that it cannot", error);
                r = config_copy(config, option, table[i].to, error);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_lists(const PeerpodConfig *config, PeerpodError *error) {
        static const unsigned lists[] = { OPTION_ALLOWED_TYPES, OPTION_SECURITY_GROUPS };
        const char *item;
        size_t size, n = 0;

        for (size_t i = 0; i < ELEMENTSOF(lists); i++) {
                n = 0;
                for (const char *p = config->values[lists[i]]; list_next(&p, &item, &size); n++) {
                        char text[128];

                        if (size == 0 || size >= sizeof(text))
                                return refuse(config, lists[i], "one of its items is too long", error);
                        (void) snprintf(text, sizeof(text), "%.*s", (int) size, item);
                        if (!is_id(text))
                                return refuse(config, lists[i], "one of its items holds characters that it cannot", error);
                }
        }
        if (n > SECURITY_GROUPS_MAX)
                return refuse(config, OPTION_SECURITY_GROUPS, "an instance has 16 security groups at most", error);
        return 0;
}

/* The rules for tags (Ecs 2014-05-26, RunInstances, Tag.N). */
static int check_tags(const PeerpodConfig *config, PeerpodError *error) {
        const char *item;
        size_t size, n = 0;

        for (const char *p = config->values[OPTION_TAGS]; list_next(&p, &item, &size); n++) {
                _cleanup_(freep) char *pair = strndup(item, size);
                const char *value;

                if (!pair)
                        return oom(error);
                value = strchr(pair, '=');
                if (!value || value == pair)
                        return refuse(config, OPTION_TAGS, "it is no list 'key=value'", error);
                if (value - pair > 128 || strlen(value + 1) > 128)
                        return refuse(config, OPTION_TAGS, "a tag's key and value have 128 characters at most", error);
                if (startswith(pair, "aliyun") || startswith(pair, "acs:") || startswith(pair, "peerpod-"))
                        return refuse(config, OPTION_TAGS, "keys that begin with 'aliyun', 'acs:' or 'peerpod-' are taken", error);
                if (strstr(pair, "http://") || strstr(pair, "https://"))
                        return refuse(config, OPTION_TAGS, "a tag must not hold 'http://' or 'https://'", error);
        }
        if (n > USER_TAGS_MAX)
                return refuse(config, OPTION_TAGS, "an instance has 20 tags at most, and two of them are ours", error);
        return 0;
}

static int read_key(Alibaba *a, const PeerpodConfig *config, unsigned id, unsigned secret, unsigned token, PeerpodError *error) {
        int r;

        a->source = CREDENTIALS_STATIC;
        a->fixed.expires_usec = UINT64_MAX;
        r = config_copy(config, id, &a->fixed.parts[0], error);
        if (r == 0)
                r = config_copy(config, secret, &a->fixed.parts[1], error);
        if (r == 0)
                r = config_copy(config, token, &a->fixed.parts[2], error);
        return r;
}

static bool has_key(const PeerpodConfig *config, unsigned id, unsigned secret) {
        return !isempty(config->values[id]) && !isempty(config->values[secret]);
}

static int read_credentials(Alibaba *a, const PeerpodConfig *config, PeerpodError *error) {
        if (has_key(config, OPTION_ACCESS_KEY_ID, OPTION_ACCESS_KEY_SECRET))
                return read_key(a, config, OPTION_ACCESS_KEY_ID, OPTION_ACCESS_KEY_SECRET, OPTION_SECURITY_TOKEN, error);
        if (has_key(config, OPTION_CHAIN_ID, OPTION_CHAIN_SECRET))
                return read_key(a, config, OPTION_CHAIN_ID, OPTION_CHAIN_SECRET, OPTION_CHAIN_TOKEN, error);
        if (!isempty(a->role_arn) != !isempty(a->oidc_provider_arn))
                return refuse(config, isempty(a->role_arn) ? OPTION_ROLE_ARN : OPTION_OIDC_PROVIDER_ARN,
                              "ALIBABA_CLOUD_ROLE_ARN and ALIBABA_CLOUD_OIDC_PROVIDER_ARN go together", error);
        a->source = isempty(a->role_arn) ? CREDENTIALS_METADATA : CREDENTIALS_OIDC;
        if (token_cache_new(credentials_fetch, a, CREDENTIALS_EARLY_USEC, &a->tokens) < 0)
                return oom(error);
        return 0;
}

static int read_settings(Alibaba *a, const PeerpodConfig *config, PeerpodError *error) {
        int r;

        r = read_texts(a, config, error);
        if (r == 0)
                r = check_lists(config, error);
        if (r == 0)
                r = check_tags(config, error);
        if (r == 0 && !streq(a->http_tokens, "optional") && !streq(a->http_tokens, "required"))
                r = refuse(config, OPTION_HTTP_TOKENS, "it is neither 'optional' nor 'required'", error);
        if (r == 0)
                r = read_endpoints(a, config, error);
        if (r < 0)
                return r;
        a->disk_size_gib = config_uint(config, OPTION_DISK_SIZE);
        a->public_address = config_bool(config, OPTION_PUBLIC_ADDRESS);
        a->confidential = !config_bool(config, OPTION_DISABLE_CVM);
        return 0;
}

static void alibaba_close(void *provider) {
        Alibaba *a = provider;

        instance_type_cache_free(a->types);
        token_cache_free(a->tokens);
        cloud_http_free(a->http);
        token_done(&a->fixed);

        char *const texts[] = {
                a->region, a->image, a->default_type, a->allowed_types, a->vswitch, a->vpc, a->security_groups, a->key_name, a->tags,
                a->disk_category, a->http_tokens, a->resource_group, a->dedicated_host, a->ecs_url, a->vpc_url, a->sts_url, a->metadata_url,
                a->role_arn, a->oidc_provider_arn, a->oidc_token_file, a->session_name, a->ram_role,
        };
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                free(texts[i]);
        free(a);
}

DEFINE_CLEANUP(Alibaba*, alibaba_close);

static int alibaba_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        const CloudHttpConfig http = {
                .user_agent = "peerpod-alibabacloud/" PEERPOD_VERSION,
                .ca_file = config->values[OPTION_CA_FILE],
                .tries_max = TRIES_MAX,
        };
        _cleanup_(alibaba_closep) Alibaba *a = NULL;
        int r;

        a = new(Alibaba);
        if (!a)
                return oom(error);
        *a = (Alibaba) {};
        r = read_settings(a, config, error);
        if (r == 0)
                r = read_credentials(a, config, error);
        if (r == 0)
                r = cloud_http_new(&http, &a->http, error);
        if (r < 0)
                return r;
        if (instance_type_cache_new(list_types, a, TYPES_KEEP_USEC, &a->types) < 0)
                return oom(error);

        *ret = TAKE_PTR(a);
        return 0;
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "alibabacloud",
        .description = "Alibaba Cloud ECS instances",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = USER_DATA_MAX,
        .volumes_max = DISKS_MAX,
        .open = alibaba_open,
        .verify = alibaba_verify,
        .create = instance_create,
        .remove = instance_remove,
        .find = instance_find,
        .close = alibaba_close,
};
