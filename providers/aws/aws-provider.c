/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/aws/manager.go), open, close. */
#include "aws-provider.h"

#include <syslog.h>

#include "aws-credentials.h"
#include "aws-image.h"
#include "aws-instance.h"
#include "aws-metadata.h"
#include "aws-side.h"
#include "basic/parse.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define CREDENTIALS_EARLY_USEC (5 * 60 * USEC_PER_SEC)
#define METADATA_EARLY_USEC (30 * USEC_PER_SEC)
#define TRIES_MAX 8             /* many pods may start at once, and all meet the same throttle */
#define TAGS_MAX 40             /* 50 on a resource, less ours */

enum {
        OPTION_KEY_ID,
        OPTION_SECRET,
        OPTION_SESSION,
        OPTION_REGION,
        OPTION_PROFILE,
        OPTION_TYPE,
        OPTION_TYPES,
        OPTION_TEMPLATE_NAME,
        OPTION_USE_TEMPLATE,
        OPTION_TEMPLATE_VERSION,
        OPTION_IMAGE,
        OPTION_KEY_NAME,
        OPTION_SUBNET,
        OPTION_GROUPS,
        OPTION_PUBLIC_IP,
        OPTION_ROOT_SIZE,
        OPTION_KMS_KEY,
        OPTION_DISABLE_CVM,
        OPTION_TAGS,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_KEY_ID] = { NULL, "AWS_ACCESS_KEY_ID", "",
                "Access key id; empty, with the secret: the usual chain of credentials", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_SECRET] = { NULL, "AWS_SECRET_ACCESS_KEY", "",
                "Secret access key", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_SESSION] = { NULL, "AWS_SESSION_TOKEN", "",
                "Session token of temporary keys", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_REGION] = { "aws-region", "AWS_REGION", "",
                "Region; empty: this machine's" },
        [OPTION_PROFILE] = { "aws-profile", NULL, "",
                "Profile of ~/.aws/config to take credentials from" },
        [OPTION_TYPE] = { "instance-type", "PODVM_INSTANCE_TYPE", AWS_TEMPLATE_TYPE,
                "Instance type of a pod that asks for none" },
        [OPTION_TYPES] = { "instance-types", "PODVM_INSTANCE_TYPES", "",
                "Instance types that pods may have", .type = PEERPOD_OPTION_LIST },
        [OPTION_TEMPLATE_NAME] = { "aws-lt-name", "PODVM_LAUNCHTEMPLATE_NAME", "kata",
                "Name of the launch template" },
        [OPTION_USE_TEMPLATE] = { "use-lt", "USE_PODVM_LAUNCHTEMPLATE", "false",
                "Use the launch template", .type = PEERPOD_OPTION_BOOL },
        [OPTION_TEMPLATE_VERSION] = { "aws-lt-version", "PODVM_LAUNCHTEMPLATE_VERSION", "$Default",
                "Version of the launch template: a number, $Default or $Latest" },
        [OPTION_IMAGE] = { "imageid", "PODVM_AMI_ID", "",
                "Image of the pod VMs (AMI)" },
        [OPTION_KEY_NAME] = { "keyname", "SSH_KP_NAME", "",
                "SSH key pair; empty: this machine's, if it has one" },
        [OPTION_SUBNET] = { "subnetid", "AWS_SUBNET_ID", "",
                "Subnet; empty: this machine's" },
        [OPTION_GROUPS] = { "securitygroupids", "AWS_SG_IDS", "",
                "Security groups; empty: this machine's", .type = PEERPOD_OPTION_LIST },
        [OPTION_PUBLIC_IP] = { "use-public-ip", "USE_PUBLIC_IP", "false",
                "Give each VM a public address and use that", .type = PEERPOD_OPTION_BOOL },
        [OPTION_ROOT_SIZE] = { "root-volume-size", "ROOT_VOLUME_SIZE", "30",
                "Least size of the root volume, in GiB; 0: the image's", .type = PEERPOD_OPTION_UINT, .maximum = 65536 },
        [OPTION_KMS_KEY] = { "root-volume-kms-key", "ROOT_VOLUME_KMS_KEY", "",
                "Encrypt the root volume with this KMS key (id, ARN or alias)" },
        [OPTION_DISABLE_CVM] = { "disable-cvm", "DISABLECVM", "false",
                "Make ordinary VMs, not confidential ones (AMD SEV-SNP)", .type = PEERPOD_OPTION_BOOL },
        [OPTION_TAGS] = { "tags", "TAGS", "",
                "Tags of all that is made", .type = PEERPOD_OPTION_MAP },
};

/* ---- settings ---- */

static bool is_id(const char *s, const char *prefix) {
        const char *rest = startswith(s, prefix);

        return rest && strlen(rest) >= 8 && strlen(rest) <= 17 && strspn(rest, "0123456789abcdef") == strlen(rest);
}

static bool is_type(const char *s, size_t n) {
        return n > 0 && n < 64 && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") >= n;
}

static int check_tags(const PeerpodConfig *config, PeerpodError *error) {
        static const char *const reserved[] = { "Name", OWNER_TAG_NAME, OWNER_TAG_NODE, OWNER_TAG_SANDBOX };
        const char *list = config->values[OPTION_TAGS], *item;
        unsigned n_tags = 0;
        size_t n;

        while (list_next(&list, &item, &n)) {
                const char *equals = memchr(item, '=', n);
                size_t n_key = equals ? (size_t) (equals - item) : n;

                if (n_key == 0 || n_key > 128 || n - n_key > 257)
                        return config_refuse(error, options, config, OPTION_TAGS, "a tag's key has at most 128 characters, its value 256");
                if (n_key >= 4 && strncasecmp(item, "aws:", 4) == 0)
                        return config_refuse(error, options, config, OPTION_TAGS, "tags that begin with 'aws:' are AWS's own");
                for (size_t i = 0; i < ELEMENTSOF(reserved); i++)
                        if (strlen(reserved[i]) == n_key && strncmp(item, reserved[i], n_key) == 0)
                                return config_refuse(error, options, config, OPTION_TAGS, "'Name' and the tags peerpod-name, -node, -sandbox are set here");
                if (++n_tags > TAGS_MAX)
                        return config_refuse(error, options, config, OPTION_TAGS, "too many tags");
        }
        return 0;
}

static int check_lists(const PeerpodConfig *config, PeerpodError *error) {
        const char *types = config->values[OPTION_TYPES], *groups = config->values[OPTION_GROUPS], *item;
        unsigned n_items = 0;
        size_t n;

        while (list_next(&types, &item, &n))
                if (!is_type(item, n) || ++n_items > 199)
                        return config_refuse(error, options, config, OPTION_TYPES, "it is no list of at most 199 instance types");
        for (n_items = 0; list_next(&groups, &item, &n);) {
                char id[32];

                (void) snprintf(id, sizeof(id), "%.*s", (int) MIN(n, (size_t) 31), item);
                if (n > 31 || !is_id(id, "sg-") || ++n_items > 16)
                        return config_refuse(error, options, config, OPTION_GROUPS, "it is no list of at most 16 security groups' ids");
        }
        return 0;
}

static int check_settings(const PeerpodConfig *config, PeerpodError *error) {
        const char *const *v = config->values;
        bool template = config_bool(config, OPTION_USE_TEMPLATE);
        int r;

        if (isempty(v[OPTION_KEY_ID]) != isempty(v[OPTION_SECRET]))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s is set without %s.",
                                         isempty(v[OPTION_SECRET]) ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY",
                                         isempty(v[OPTION_SECRET]) ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
        if (!isempty(v[OPTION_REGION]) && !aws_region_is_valid(v[OPTION_REGION]))
                return config_refuse(error, options, config, OPTION_REGION, "it is no region's name");
        if (!is_type(v[OPTION_TYPE], strlen(v[OPTION_TYPE])))
                return config_refuse(error, options, config, OPTION_TYPE, "it is no instance type");
        if (isempty(v[OPTION_IMAGE]) && !template)
                return config_refuse(error, options, config, OPTION_IMAGE, "it must not be empty without a launch template");
        if (!isempty(v[OPTION_IMAGE]) && !image_id_is_valid(v[OPTION_IMAGE]))
                return config_refuse(error, options, config, OPTION_IMAGE, "it is no id of an image (ami-…)");
        if (template && isempty(v[OPTION_TEMPLATE_NAME]))
                return config_refuse(error, options, config, OPTION_TEMPLATE_NAME, "it must not be empty with USE_PODVM_LAUNCHTEMPLATE");
        if (!isempty(v[OPTION_SUBNET]) && !is_id(v[OPTION_SUBNET], "subnet-"))
                return config_refuse(error, options, config, OPTION_SUBNET, "it is no subnet's id");
        if (template && isempty(v[OPTION_IMAGE]) && !isempty(v[OPTION_KMS_KEY]))
                return config_refuse(error, options, config, OPTION_KMS_KEY, "with a launch template it needs PODVM_AMI_ID, whose root device it is for");
        r = check_lists(config, error);
        return r < 0 ? r : check_tags(config, error);
}

static int read_settings(Aws *a, const PeerpodConfig *config, PeerpodError *error) {
        const struct {
                unsigned option;
                char **field;
        } texts[] = {
                { OPTION_KEY_ID, &a->key_id }, { OPTION_SECRET, &a->secret }, { OPTION_SESSION, &a->session }, { OPTION_REGION, &a->region },
                { OPTION_PROFILE, &a->profile }, { OPTION_TYPE, &a->type }, { OPTION_TYPES, &a->types }, { OPTION_TEMPLATE_NAME, &a->template_name },
                { OPTION_TEMPLATE_VERSION, &a->template_version }, { OPTION_IMAGE, &a->image }, { OPTION_KEY_NAME, &a->key_name },
                { OPTION_SUBNET, &a->subnet }, { OPTION_GROUPS, &a->groups }, { OPTION_KMS_KEY, &a->kms_key }, { OPTION_TAGS, &a->tags },
        };
        int r = check_settings(config, error);

        for (size_t i = 0; i < ELEMENTSOF(texts) && r == 0; i++)
                r = config_copy(config, texts[i].option, texts[i].field, error);
        a->use_template = config_bool(config, OPTION_USE_TEMPLATE);
        a->public_ip = config_bool(config, OPTION_PUBLIC_IP);
        a->cvm = !config_bool(config, OPTION_DISABLE_CVM);
        a->root_gib = config_uint(config, OPTION_ROOT_SIZE);
        return r;
}

/* ---- the vendor's variables ---- */

static char* home_file(const char *variable, const char *name) {
        const char *set = environment_or(variable, NULL), *home = environment_or("HOME", NULL);
        char *path;

        if (set)
                return strdup(set);
        if (!home)
                return strdup("");
        return asprintf(&path, "%s/.aws/%s", home, name) < 0 ? NULL : path;
}

static char* copy_url(const char *url) {
        size_t n = strlen(url);

        while (n > 0 && url[n - 1] == '/')
                n--;
        return strndup(url, n);
}

/* With a "/" at the end, as it is signed. */
static char* endpoint(const char *service, bool ignore) {
        _cleanup_(freep) char *url = ignore ? strdup("") : copy_url(environment_or(service, environment_or("AWS_ENDPOINT_URL", "")));
        char *with_slash;

        if (!url || isempty(url))
                return TAKE_PTR(url);
        return asprintf(&with_slash, "%s/", url) < 0 ? NULL : with_slash;
}

static char* metadata_url(void) {
        const char *url = environment_or("AWS_EC2_METADATA_SERVICE_ENDPOINT", NULL), *mode = environment_or("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "");

        return copy_url(url ?: strcasecmp(mode, "ipv6") == 0 ? "http://[fd00:ec2::254]" : "http://169.254.169.254");
}

static int read_environment(AwsEnvironment *e, PeerpodError *error) {
        bool ignore = strcasecmp(environment_or("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", ""), "true") == 0;
        const struct {
                const char *variable;
                char **field;
        } texts[] = {
                { "AWS_ACCESS_KEY", &e->key_id }, { "AWS_SECRET_KEY", &e->secret }, { "AWS_ROLE_ARN", &e->role_arn },
                { "AWS_WEB_IDENTITY_TOKEN_FILE", &e->web_identity_file }, { "AWS_ROLE_SESSION_NAME", &e->role_session }, { "AWS_PROFILE", &e->profile },
                { "AWS_CONTAINER_CREDENTIALS_FULL_URI", &e->container_full_uri },
                { "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", &e->container_relative_uri },
                { "AWS_CONTAINER_AUTHORIZATION_TOKEN", &e->container_token },
                { "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &e->container_token_file },
        };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                *texts[i].field = strdup(environment_or(texts[i].variable, ""));
                if (!*texts[i].field)
                        return oom(error);
        }
        e->config_file = home_file("AWS_CONFIG_FILE", "config");
        e->credentials_file = home_file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        e->ec2 = endpoint("AWS_ENDPOINT_URL_EC2", ignore);
        e->sts = endpoint("AWS_ENDPOINT_URL_STS", ignore);
        if (!e->config_file || !e->credentials_file || !e->ec2 || !e->sts)
                return oom(error);
        if (strcasecmp(environment_or("AWS_EC2_METADATA_DISABLED", ""), "true") != 0) {
                e->metadata = metadata_url();
                if (!e->metadata)
                        return oom(error);
        }
        e->metadata_v1 = strcasecmp(environment_or("AWS_EC2_METADATA_V1_DISABLED", ""), "true") != 0;
        return 0;
}

static void environment_done(AwsEnvironment *e) {
        erase_free_stringp(&e->secret);
        erase_free_stringp(&e->container_token);
        free(e->key_id);
        free(e->role_arn);
        free(e->web_identity_file);
        free(e->role_session);
        free(e->profile);
        free(e->config_file);
        free(e->credentials_file);
        free(e->container_full_uri);
        free(e->container_relative_uri);
        free(e->container_token_file);
        free(e->metadata);
        free(e->ec2);
        free(e->sts);
}

/* ---- open, close ---- */

static void aws_close(void *provider) {
        Aws *a = provider;

        a->http = cloud_http_free(a->http);
        a->credentials = token_cache_free(a->credentials);
        a->metadata_token = token_cache_free(a->metadata_token);
        a->type_cache = instance_type_cache_free(a->type_cache);
        erase_free_stringp(&a->secret);
        erase_free_stringp(&a->session);
        free(a->key_id);
        free(a->region);
        free(a->profile);
        free(a->type);
        free(a->types);
        free(a->template_name);
        free(a->template_version);
        free(a->image);
        free(a->key_name);
        free(a->subnet);
        free(a->groups);
        free(a->tags);
        free(a->kms_key);
        environment_done(&a->environment);
        free(a->known_region);
        free(a->known_subnet);
        free(a->known_groups);
        free(a->known_key);
        (void) pthread_mutex_destroy(&a->mutex);
        free(a);
}

DEFINE_CLEANUP(Aws*, aws_close);

/* What belongs together and would else surprise. */
static void tell_settings(const Aws *a, const PeerpodCall *call) {
        peerpod_log(call, LOG_INFO, "Region %s, image %s, instance type %s, credentials %s, %s VMs.", isempty(a->region) ? "of this machine" : a->region,
                    isempty(a->image) ? "of the launch template" : a->image, a->type, isempty(a->key_id) ? "by the chain" : "set",
                    a->cvm ? "confidential" : "ordinary");
        if (a->use_template && isempty(a->image) && a->root_gib > 0)
                peerpod_log(call, LOG_INFO, "The launch template's image decides on the root volume; ROOT_VOLUME_SIZE needs PODVM_AMI_ID.");
}

static int aws_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        _cleanup_(aws_closep) Aws *a = NULL;
        CloudHttpConfig http = { .user_agent = "peerpod-aws/" PEERPOD_VERSION, .ca_file = environment_or("AWS_CA_BUNDLE", ""),
                                 .tries_max = TRIES_MAX };
        int r;

        a = new(Aws);
        if (!a)
                return oom(error);
        *a = (Aws) {};
        (void) pthread_mutex_init(&a->mutex, NULL);

        r = read_settings(a, config, error);
        if (r == 0)
                r = read_environment(&a->environment, error);
        if (r == 0)
                r = cloud_http_new(&http, &a->http, error);
        if (r < 0)
                return r;
        if (token_cache_new(credentials_fetch, a, CREDENTIALS_EARLY_USEC, &a->credentials) < 0 ||
            token_cache_new(metadata_token_fetch, a, METADATA_EARLY_USEC, &a->metadata_token) < 0 ||
            instance_type_cache_new(types_fetch, a, AWS_TYPES_KEPT_USEC, &a->type_cache) < 0)
                return oom(error);
        tell_settings(a, call);
        *ret = TAKE_PTR(a);
        return 0;
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "aws",
        .description = "EC2 instances",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = 16384,
        .volumes_max = VOLUMES_MAX,
        .flags = PEERPOD_PROVIDER_REMOVES_UNTAGGED,
        .open = aws_open,
        .verify = aws_verify,
        .create = instance_create,
        .remove = instance_remove,
        .find = instance_find,
        .close = aws_close,
};
