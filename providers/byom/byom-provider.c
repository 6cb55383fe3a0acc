/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/byom/manager.go), open, check, close. */
#include "byom-provider.h"

#include <arpa/inet.h>
#include <fcntl.h>

#include "basic/io.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "cloud-config.h"

#define KEY_MAX 65536
#define ACCOUNT_DEFAULT "/var/run/secrets/kubernetes.io/serviceaccount"
#define NAMESPACE_DEFAULT "confidential-containers-system"

enum {
        OPTION_POOL,
        OPTION_USER,
        OPTION_PUBLIC_KEY,
        OPTION_PRIVATE_KEY,
        OPTION_NAMESPACE,
        OPTION_CONFIGMAP,
        OPTION_RANGE_MAX,
        OPTION_TIMEOUT,
        OPTION_ALLOWLIST,
        OPTION_KNOWN_HOSTS,
        OPTION_ACCEPT_ANY,
        OPTION_PORT,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_POOL] = { "vm-pool-ips", "VM_POOL_IPS", "", "Addresses of the VMs, and ranges: 10.0.0.5,10.0.0.10-10.0.0.20",
                PEERPOD_OPTION_LIST, PEERPOD_OPTION_REQUIRED },
        [OPTION_USER] = { "ssh-username", "SSH_USERNAME", "peerpod", "User of the VMs, for SFTP" },
        [OPTION_PUBLIC_KEY] = { "ssh-pub-key", "SSH_PUB_KEY_PATH", "/root/.ssh/id_rsa.pub", "Accepted and not used: the private key has it in it" },
        [OPTION_PRIVATE_KEY] = { "ssh-priv-key", "SSH_PRIV_KEY_PATH", "/root/.ssh/id_rsa", "Private key's file" },
        [OPTION_NAMESPACE] = { "pool-namespace", "POOL_NAMESPACE", "", "Namespace of the pool's ConfigMap; empty: the service account's" },
        [OPTION_CONFIGMAP] = { "pool-configmap-name", "POOL_CONFIGMAP_NAME", "byom-ip-pool-state", "ConfigMap that the nodes share",
                .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_RANGE_MAX] = { "max-range-ips", "MAX_RANGE_IPS", "100", "Most addresses of one range; what is more is left out",
                PEERPOD_OPTION_UINT, .minimum = 1, .maximum = POOL_ADDRESSES_MAX },
        [OPTION_TIMEOUT] = { "ssh-timeout", "SSH_TIMEOUT", "30", "Seconds for connecting to a VM and giving it its user data",
                PEERPOD_OPTION_UINT, .minimum = 1, .maximum = 3600 },
        [OPTION_ALLOWLIST] = { "ssh-host-key-allowlist-dir", "SSH_HOST_KEY_ALLOWLIST_DIR", "",
                "Directory of host keys, *.pub; one named ADDRESS.pub is good for that address only" },
        [OPTION_KNOWN_HOSTS] = { "ssh-known-hosts", "SSH_KNOWN_HOSTS", "", "File of host keys by address, as ssh(1) has it" },
        [OPTION_ACCEPT_ANY] = { "ssh-accept-any-host-key", "SSH_ACCEPT_ANY_HOST_KEY", "false",
                "Do not check host keys: who is in between gets the pod's keys", PEERPOD_OPTION_BOOL },
        [OPTION_PORT] = { "ssh-port", "SSH_PORT", "22", "Port of the VMs' SSH", PEERPOD_OPTION_UINT, .minimum = 1, .maximum = 65535 },
};

static int read_pool(Byom *b, const PeerpodConfig *config, PeerpodError *error) {
        _cleanup_(freep) char *bad = NULL;
        char why[160];
        int r;

        r = pool_parse(config->values[OPTION_POOL], config_uint(config, OPTION_RANGE_MAX), &b->addresses, &bad);
        if (r == -ENOMEM)
                return oom(error);
        if (r < 0) {
                (void) snprintf(why, sizeof(why), r == -E2BIG ? "it is more than %.32s addresses" : "'%.100s' is no address and no range 'FIRST-LAST'",
                                r == -E2BIG ? "4096" : strempty(bad));
                return config_refuse(error, options, config, OPTION_POOL, why);
        }
        if (strv_length(b->addresses) == 0)
                return config_refuse(error, options, config, OPTION_POOL, "it names no VM");
        b->bad = calloc(strv_length(b->addresses), sizeof(*b->bad));
        return b->bad ? 0 : oom(error);
}

static int read_ssh(Byom *b, const PeerpodConfig *config, PeerpodError *error) {
        const char *path = config->values[OPTION_PRIVATE_KEY];
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        if (isempty(config->values[OPTION_USER]))
                return config_refuse(error, options, config, OPTION_USER, "it must not be empty");
        fd = open(path, O_RDONLY|O_CLOEXEC);    /* a secret's file is often a link */
        r = fd < 0 ? -errno : read_full_fd(fd, KEY_MAX, &b->private_key, NULL);
        if (r < 0)
                return config_refuse(error, options, config, OPTION_PRIVATE_KEY, strerror(-r));
        b->accept_any = config_bool(config, OPTION_ACCEPT_ANY);
        b->ssh_timeout_usec = config_uint(config, OPTION_TIMEOUT) * USEC_PER_SEC;
        b->ssh_port = (uint16_t) config_uint(config, OPTION_PORT);
        r = config_copy(config, OPTION_USER, &b->user, error);
        if (r == 0)
                r = config_copy(config, OPTION_KNOWN_HOSTS, &b->known_hosts, error);
        if (r == 0)
                r = config_copy(config, OPTION_ALLOWLIST, &b->allowlist, error);
        return r < 0 ? r : ssh_check_settings(b, error);
}

static bool is_kubernetes_name(const char *s) {
        size_t n = strlen(s);

        return n > 0 && n <= 253 && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") == n && s[0] != '.' && s[0] != '-';
}

static int read_namespace(Byom *b, const PeerpodConfig *config, PeerpodError *error) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        const char *value = config->values[OPTION_NAMESPACE];

        if (isempty(value)) {
                _cleanup_(close_fdp) int fd = -EBADF;

                if (asprintf(&path, "%s/namespace", b->account) < 0)
                        return oom(error);
                fd = open(path, O_RDONLY|O_CLOEXEC);
                if (fd >= 0 && read_full_fd(fd, 256, &text, NULL) >= 0)
                        text[strcspn(text, " \r\n")] = '\0';
                value = isempty(text) ? environment_or("POD_NAMESPACE", NAMESPACE_DEFAULT) : text;
        }
        if (!is_kubernetes_name(value))
                return config_refuse(error, options, config, OPTION_NAMESPACE, "it is no name of a namespace");
        b->namespace = strdup(value);
        return b->namespace ? 0 : oom(error);
}

static int read_api(Byom *b, const PeerpodConfig *config, PeerpodError *error) {
        const char *host = environment_or("KUBERNETES_SERVICE_HOST", NULL), *port = environment_or("KUBERNETES_SERVICE_PORT", "443");
        _cleanup_(freep) char *ca = NULL;
        CloudHttpConfig http = { .user_agent = "peerpod-byom/" PEERPOD_VERSION };
        struct in6_addr six;
        uint16_t unused;
        int r;

        if (!host)
                return asprintf(&b->file, "%s/byom-pool.json", config->state_directory) < 0 ? oom(error) : 0;
        if (parse_port(port, &unused) < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Value '%.32s' of KUBERNETES_SERVICE_PORT: it is no port.", port);
        if (!is_kubernetes_name(config->values[OPTION_CONFIGMAP]))
                return config_refuse(error, options, config, OPTION_CONFIGMAP, "it is no name of a ConfigMap");
        b->account = strdup(environment_or("PEERPOD_BYOM_SERVICEACCOUNT", ACCOUNT_DEFAULT));
        if (!b->account || asprintf(&ca, "%s/ca.crt", b->account) < 0)
                return oom(error);
        http.ca_file = ca;
        if (inet_pton(AF_INET6, host, &six) == 1)
                r = asprintf(&b->api_url, "https://[%s]:%s", host, port);
        else
                r = asprintf(&b->api_url, "https://%s:%s", host, port);
        if (r < 0)
                return oom(error);
        r = config_copy(config, OPTION_CONFIGMAP, &b->configmap, error);
        if (r == 0)
                r = read_namespace(b, config, error);
        return r < 0 ? r : cloud_http_new(&http, &b->http, error);
}

static void byom_close(void *provider) {
        Byom *b = provider;

        b->http = cloud_http_free(b->http);
        b->addresses = strv_free(b->addresses);
        erase_free_stringp(&b->private_key);
        free(b->user);
        free(b->known_hosts);
        free(b->allowlist);
        free(b->namespace);
        free(b->configmap);
        free(b->account);
        free(b->api_url);
        free(b->file);
        free(b->bad);
        (void) pthread_mutex_destroy(&b->file_lock);
        (void) pthread_mutex_destroy(&b->lock);
        free(b);
}

DEFINE_CLEANUP(Byom*, byom_close);

static int byom_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        _cleanup_(byom_closep) Byom *b = new(Byom);
        int r;

        if (!b)
                return oom(error);
        *b = (Byom) { .file_lock = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER };
        r = read_pool(b, config, error);
        if (r == 0)
                r = read_ssh(b, config, error);
        if (r == 0)
                r = read_api(b, config, error);
        if (r < 0)
                return r;
        if (b->accept_any)
                peerpod_log(call, /* LOG_WARNING */ 4, "Host keys of the pool's VMs are not checked (SSH_ACCEPT_ANY_HOST_KEY).");
        if (b->file)
                peerpod_log(call, /* LOG_NOTICE */ 5, "There is no KUBERNETES_SERVICE_HOST: the pool is this node's alone, its state in '%s'.", b->file);
        *ret = TAKE_PTR(b);
        return 0;
}

/* The pool's state can be read and written, and a VM that answers is one for this. */
static int byom_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        Byom *b = provider;
        int r;

        r = pool_check(b, call, error);
        if (r < 0)
                return r;
        for (size_t i = 0; b->addresses[i]; i++) {
                VmState state;

                r = vm_look(b, call, b->addresses[i], "", &state, error);
                if (r == 0 || r == -ECANCELED || r == -ETIMEDOUT)
                        return r;
        }
        return r;
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "byom",
        .description = "machines that are there already, from a pool",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = UINT64_C(8) << 20,
        .open = byom_open,
        .verify = byom_verify,
        .create = byom_create,
        .remove = byom_remove,
        .find = byom_find,
        .close = byom_close,
};
