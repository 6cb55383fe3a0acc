/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor, as long as it had this provider: src/cloud-providers/vsphere/manager.go), open, close. */
#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "userdata/cloud-config.h"
#include "vsphere.h"

/* Each creation that waits for addresses holds a connection. */
#define CONNECTIONS_MAX 128

enum {
        OPTION_URL,
        OPTION_USER,
        OPTION_PASSWORD,
        OPTION_THUMBPRINT,
        OPTION_TEMPLATE,
        OPTION_DATACENTER,
        OPTION_DATASTORE,
        OPTION_FOLDER,
        OPTION_CLUSTER,
        OPTION_DRS,
        OPTION_HOST,
        OPTION_CA_FILE,
        OPTION_INSECURE,
        OPTION_POOL,
        OPTION_LINKED,
        OPTION_CONFIDENTIAL,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_URL] = { "vcenter-url", "GOVC_URL", "", "vCenter Server, such as 'https://vc.example.org/sdk'", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_USER] = { "user-name", "GOVC_USERNAME", "", "Who logs in there", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_PASSWORD] = { NULL, "GOVC_PASSWORD", "", "Their password", .flags = PEERPOD_OPTION_SECRET|PEERPOD_OPTION_REQUIRED },
        [OPTION_THUMBPRINT] = { "thumbprint", "GOVC_THUMBPRINT", "",
                "SHA-1 or SHA-256 of the vCenter's certificate, 'AA:BB:…': that one is trusted, and no other" },
        [OPTION_TEMPLATE] = { "template", "GOVC_TEMPLATE", "podvm-template", "Template of the pod VMs: a name, a path below the datacenter's 'vm', or '/DATACENTER/vm/…'" },
        [OPTION_DATACENTER] = { "data-center", "GOVC_DATACENTER", "", "Datacenter: a name, or FOLDER/NAME", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_DATASTORE] = { "data-store", "GOVC_DATASTORE", "", "Datastore; needed unless GOVC_DRS is true" },
        [OPTION_FOLDER] = { "deploy-folder", "GOVC_FOLDER", "", "Folder of the pod VMs, below the datacenter's 'vm'; made if it is not there" },
        [OPTION_CLUSTER] = { "cluster", "GOVC_VCLUSTER", "", "Cluster" },
        [OPTION_DRS] = { "drs", "GOVC_DRS", "false", "Let the cluster's DRS choose host and datastore", .type = PEERPOD_OPTION_BOOL },
        [OPTION_HOST] = { "host", "GOVC_HOST", "", "Host, of the cluster if there is one; needed unless GOVC_DRS is true" },
        [OPTION_CA_FILE] = { "ca-file", "GOVC_TLS_CA_CERTS", "", "PEM of the authorities to trust, instead of the system's" },
        [OPTION_INSECURE] = { "insecure", "GOVC_INSECURE", "false", "Trust whoever answers at GOVC_URL", .type = PEERPOD_OPTION_BOOL },
        [OPTION_POOL] = { "resource-pool", "GOVC_RESOURCE_POOL", "", "Resource pool below the datacenter's 'host', such as 'CLUSTER/Resources/pods'; else the host's" },
        [OPTION_LINKED] = { "linked-clone", "GOVC_LINKED_CLONE", "false", "Share the disk of the template's snapshot instead of copying it", .type = PEERPOD_OPTION_BOOL },
        [OPTION_CONFIDENTIAL] = { "confidential-type", "GOVC_CONFIDENTIAL_TYPE", "", "'TDX' or 'SEV_SNP', of a vCenter Server 9" },
};

static int refuse(PeerpodError *error, const PeerpodConfig *config, unsigned option, const char *why) {
        return config_refuse(error, options, config, option, why);
}

/* Paths lose the '/' around them, which mean nothing, but for the template's first one. */
static int copy_path(const PeerpodConfig *config, unsigned option, bool absolute, char **ret, PeerpodError *error) {
        const char *begin = config->values[option], *end = begin + strlen(begin);
        char *copy;

        if (!text_is_plain(begin, 1024))
                return refuse(error, config, option, "it is no UTF-8, holds control characters, or is too long");
        while (end > begin && end[-1] == '/')
                end--;
        while (!absolute && begin < end && *begin == '/')
                begin++;
        copy = strndup(begin, end - begin);
        if (!copy)
                return oom(error);
        *ret = copy;
        return 0;
}

static int copy_settings(Vsphere *v, const PeerpodConfig *config, PeerpodError *error) {
        const struct {
                char **to;
                unsigned option;
        } paths[] = {
                { &v->template, OPTION_TEMPLATE },      { &v->datacenter, OPTION_DATACENTER },  { &v->datastore, OPTION_DATASTORE },
                { &v->folder, OPTION_FOLDER },          { &v->cluster, OPTION_CLUSTER },        { &v->host, OPTION_HOST },
                { &v->pool, OPTION_POOL },
        };
        int r;

        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                r = copy_path(config, paths[i].option, paths[i].option == OPTION_TEMPLATE, paths[i].to, error);
                if (r < 0)
                        return r;
        }
        if (!text_is_plain(config->values[OPTION_USER], 256))
                return refuse(error, config, OPTION_USER, "it is no UTF-8, holds control characters, or is too long");
        if (!text_is_plain(config->values[OPTION_PASSWORD], 1024))
                return refuse(error, config, OPTION_PASSWORD, "it is no UTF-8, holds control characters, or is too long");
        r = config_copy(config, OPTION_USER, &v->user, error);
        if (r == 0)
                r = config_copy(config, OPTION_PASSWORD, &v->password, error);
        if (r == 0)
                r = config_copy(config, OPTION_CONFIDENTIAL, &v->confidential, error);
        if (r < 0)
                return r;
        r = vsphere_url(config->values[OPTION_URL], &v->url);
        return r == -EINVAL ? refuse(error, config, OPTION_URL, "it is no URL of http or https") : r < 0 ? oom(error) : 0;
}

static int check_settings(const Vsphere *v, const PeerpodConfig *config, PeerpodError *error) {
        bool thumbprint = !isempty(config->values[OPTION_THUMBPRINT]), ca = !isempty(config->values[OPTION_CA_FILE]), insecure = config_bool(config, OPTION_INSECURE);

        if (v->drs && isempty(v->cluster))
                return refuse(error, config, OPTION_CLUSTER, "with GOVC_DRS a cluster is needed");
        if (!v->drs && isempty(v->host))
                return refuse(error, config, OPTION_HOST, "without GOVC_DRS a host is needed");
        if (!v->drs && isempty(v->datastore))
                return refuse(error, config, OPTION_DATASTORE, "without GOVC_DRS a datastore is needed");
        if (!isempty(v->confidential) && !streq(v->confidential, "TDX") && !streq(v->confidential, "SEV_SNP"))
                return refuse(error, config, OPTION_CONFIDENTIAL, "it is neither 'TDX' nor 'SEV_SNP'");
        if (insecure && (thumbprint || ca))
                return refuse(error, config, OPTION_INSECURE, "GOVC_THUMBPRINT and GOVC_TLS_CA_CERTS would mean nothing");
        if (startswith(v->url, "http:") && (thumbprint || ca))
                return refuse(error, config, OPTION_URL, "without TLS, GOVC_THUMBPRINT and GOVC_TLS_CA_CERTS would mean nothing");
        return 0;
}

static void vsphere_close(void *provider) {
        Vsphere *v = provider;
        char *const texts[] = { v->url, v->user, v->template, v->datacenter, v->datastore, v->folder, v->cluster, v->host, v->pool, v->confidential };

        if (v->http && v->sessions)
                vim_logout(v);
        cloud_http_free(v->http);
        token_cache_free(v->sessions);
        if (v->password)
                erase_free(v->password, strlen(v->password));
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                free(texts[i]);
        (void) pthread_mutex_destroy(&v->mutex);
        free(v);
}

static void vsphere_closep(Vsphere **v) {
        if (*v)
                vsphere_close(*v);
}

static int vsphere_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        const CloudHttpConfig http = {
                .user_agent = "peerpod-vsphere/" PEERPOD_VERSION,
                .ca_file = config->values[OPTION_CA_FILE],
                .thumbprint = config->values[OPTION_THUMBPRINT],
                .insecure = config_bool(config, OPTION_INSECURE),
                .connections_max = CONNECTIONS_MAX,
        };
        _cleanup_(vsphere_closep) Vsphere *v = NULL;
        int r;

        v = new(Vsphere);
        if (!v)
                return oom(error);
        *v = (Vsphere) {
                .drs = config_bool(config, OPTION_DRS),
                .linked = config_bool(config, OPTION_LINKED),
                .mutex = PTHREAD_MUTEX_INITIALIZER,
        };
        r = copy_settings(v, config, error);
        if (r == 0)
                r = check_settings(v, config, error);
        if (r == 0)
                r = cloud_http_new(&http, &v->http, error);
        if (r == 0 && token_cache_new(vim_login, v, 0, &v->sessions) < 0)
                r = oom(error);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(v);
        return 0;
}

PEERPOD_PROVIDER_EXPORT const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "vsphere",
        .description = "VMware vSphere",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = CLOUD_CONFIG_SIZE_MAX,
        .open = vsphere_open,
        .verify = vsphere_verify,
        .create = instance_create,
        .remove = instance_remove,
        .find = instance_find,
        .close = vsphere_close,
};
