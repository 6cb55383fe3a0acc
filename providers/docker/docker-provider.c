/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/docker/manager.go, as of its last version), open, check, close. */
#include "docker-provider.h"

#include <stdlib.h>
#include <sys/un.h>
#include <syslog.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "docker-api.h"
#include "userdata/encode.h"

enum {
        OPTION_HOST,
        OPTION_API_VERSION,
        OPTION_CERT_PATH,
        OPTION_TLS_VERIFY,
        OPTION_IMAGE,
        OPTION_NETWORK,
        OPTION_DATA_DIR,
        OPTION_IMAGE_PATTERNS,
        OPTION_IMAGE_PULL,
        OPTION_REGISTRY_AUTH,
        OPTION_CPU,
        OPTION_MEMORY,
        OPTION_PIDS,
        OPTION_CAPABILITIES,
        OPTION_PRIVILEGED,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_HOST] = { "docker-host", "DOCKER_HOST", "unix:///var/run/docker.sock",
                "The engine: unix:///PATH or tcp://HOST:PORT", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_API_VERSION] = { "docker-api-version", "DOCKER_API_VERSION", "1.44",
                "Highest version of the API to speak; an engine that knows only older or newer ones is spoken to in one of its own" },
        [OPTION_CERT_PATH] = { "docker-cert-path", "DOCKER_CERT_PATH", "",
                "Directory with ca.pem, cert.pem and key.pem, for TLS" },
        [OPTION_TLS_VERIFY] = { "docker-tls-verify", "DOCKER_TLS_VERIFY", "false",
                "TLS without a client certificate, too; the engine's certificate is verified in any case", .type = PEERPOD_OPTION_BOOL },
        [OPTION_IMAGE] = { "podvm-docker-image", "DOCKER_PODVM_IMAGE", "",
                "Image of the pod VM's container", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_NETWORK] = { "docker-network-name", "DOCKER_NETWORK_NAME", "bridge",
                "Network of the pod VMs", .flags = PEERPOD_OPTION_REQUIRED },
        [OPTION_DATA_DIR] = { "data-dir", NULL, "/var/lib/docker/peerpods",
                "Accepted and not used: nothing is kept on the engine's machine outside of the container" },
        [OPTION_IMAGE_PATTERNS] = { "docker-image-patterns", "DOCKER_IMAGE_PATTERNS", "",
                "Shell patterns of images that a pod may name beside that one", .type = PEERPOD_OPTION_LIST },
        [OPTION_IMAGE_PULL] = { "docker-image-pull", "DOCKER_IMAGE_PULL", "false",
                "Pull an image that the engine does not have", .type = PEERPOD_OPTION_BOOL },
        [OPTION_REGISTRY_AUTH] = { NULL, "DOCKER_REGISTRY_AUTH", "",
                "Credentials of a pull: the engine API's JSON, with serveraddress", .flags = PEERPOD_OPTION_SECRET },
        [OPTION_CPU] = { "docker-cpu", "DOCKER_CPU", "2",
                "vCPUs of a pod VM whose pod asks for none; 0: no limit", .type = PEERPOD_OPTION_UINT, .maximum = 4096 },
        [OPTION_MEMORY] = { "docker-memory", "DOCKER_MEMORY", "8192",
                "Memory, in MiB, of a pod VM whose pod asks for none; 0: no limit", .type = PEERPOD_OPTION_UINT, .maximum = 67108864 },
        [OPTION_PIDS] = { "docker-pids-limit", "DOCKER_PIDS_LIMIT", "16384",
                "Processes and threads of a pod VM; 0: no limit", .type = PEERPOD_OPTION_UINT, .maximum = 4194304 },
        [OPTION_CAPABILITIES] = { "docker-capabilities", "DOCKER_CAPABILITIES",
                "AUDIT_WRITE,CHOWN,DAC_OVERRIDE,DAC_READ_SEARCH,FOWNER,FSETID,KILL,MKNOD,NET_ADMIN,NET_BIND_SERVICE,NET_RAW,SETFCAP,SETGID,"
                "SETPCAP,SETUID,SYS_ADMIN,SYS_CHROOT,SYS_PTRACE",
                "Capabilities of the container, all others dropped", .type = PEERPOD_OPTION_LIST },
        [OPTION_PRIVILEGED] = { "docker-privileged", "DOCKER_PRIVILEGED", "false",
                "A privileged container, for images that need one", .type = PEERPOD_OPTION_BOOL },
};

static int refuse(PeerpodError *error, const PeerpodConfig *config, unsigned option, const char *why) {
        return config_refuse(error, options, config, option, why);
}

/* "tcp://host:port" → "http://host:port" or "https://…", with the port that is usual */
static int read_tcp(Docker *d, const PeerpodConfig *config, const char *authority, bool tls, PeerpodError *error) {
        size_t n = strcspn(authority, "/");
        const char *colon, *end = authority + n;

        if (n == 0 || n > 255 || (*end && end[1]) ||
            authority[strspn(authority, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]")] != *end)
                return refuse(error, config, OPTION_HOST, "it is not of the form tcp://HOST:PORT");
        colon = memrchr(authority, ':', n);
        if (colon && memchr(colon, ']', (size_t) (end - colon)))        /* of an IPv6 address */
                colon = NULL;
        if (colon) {
                char port[8] = "";
                uint16_t p;

                if ((size_t) (end - colon - 1) >= sizeof(port))
                        return refuse(error, config, OPTION_HOST, "its port is none");
                memcpy(port, colon + 1, (size_t) (end - colon - 1));
                if (parse_port(port, &p) < 0)
                        return refuse(error, config, OPTION_HOST, "its port is none");
        }
        if (asprintf(&d->base, "%s://%.*s%s", tls ? "https" : "http", (int) n, authority, colon ? "" : tls ? ":2376" : ":2375") < 0) {
                d->base = NULL;
                return oom(error);
        }
        return 0;
}

static int read_host(Docker *d, const PeerpodConfig *config, CloudHttpConfig *http, bool *ret_tls, PeerpodError *error) {
        const char *host = config->values[OPTION_HOST], *rest;
        bool tls = config_bool(config, OPTION_TLS_VERIFY) || !isempty(config->values[OPTION_CERT_PATH]);

        rest = startswith(host, "unix://");
        if (rest) {
                if (rest[0] != '/' || strlen(rest) >= sizeof(((struct sockaddr_un*) NULL)->sun_path))
                        return refuse(error, config, OPTION_HOST, "it is not of the form unix:///PATH, or the path is too long");
                http->unix_socket = rest;
                *ret_tls = false;
                d->base = strdup("http://localhost");
                return d->base ? 0 : oom(error);
        }
        rest = startswith(host, "tcp://");
        if (!rest)
                rest = startswith(host, "http://");
        if (!rest) {
                rest = startswith(host, "https://");
                tls = tls || rest;
        }
        if (!rest)
                return refuse(error, config, OPTION_HOST, "it begins neither with unix:// nor with tcp://");
        *ret_tls = tls;
        return read_tcp(d, config, rest, tls, error);
}

/* Which of the three files there are: DIRECTORY/NAME, or NULL */
static int find_file(const char *directory, const char *name, char **ret, PeerpodError *error) {
        _cleanup_(freep) char *path = NULL;

        if (asprintf(&path, "%s/%s", directory, name) < 0) {
                path = NULL;
                return oom(error);
        }
        if (access(path, F_OK) == 0) {
                if (access(path, R_OK) < 0)
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "File '%.256s' (DOCKER_CERT_PATH) cannot be read: %s", path,
                                                 strerror(errno));
                *ret = TAKE_PTR(path);
        }
        return 0;
}

static int open_http(Docker *d, const PeerpodConfig *config, const PeerpodCall *call, PeerpodError *error) {
        const char *directory = config->values[OPTION_CERT_PATH];
        _cleanup_(freep) char *ca = NULL, *cert = NULL, *key = NULL;
        CloudHttpConfig http = { .user_agent = "peerpod-docker/" PEERPOD_VERSION, .ca_file = "", .tries_max = 8,
                .pause_usec = USEC_PER_SEC / 4, .pause_max_usec = 4 * USEC_PER_SEC };
        bool tls = false;
        int r;

        r = read_host(d, config, &http, &tls, error);
        if (r < 0)
                return r;
        if (tls && !isempty(directory)) {
                if (directory[0] != '/')
                        return refuse(error, config, OPTION_CERT_PATH, "it is no absolute path");
                r = find_file(directory, "ca.pem", &ca, error);
                if (r == 0)
                        r = find_file(directory, "cert.pem", &cert, error);
                if (r == 0)
                        r = find_file(directory, "key.pem", &key, error);
                if (r < 0)
                        return r;
                if (!ca && !cert && !key)
                        return refuse(error, config, OPTION_CERT_PATH, "none of ca.pem, cert.pem and key.pem is there to be read");
                if (!cert != !key)
                        return refuse(error, config, OPTION_CERT_PATH, "cert.pem and key.pem go together");
                http.ca_file = ca ?: "";
                http.cert_file = cert;
                http.key_file = key;
        }
        if (!tls && !http.unix_socket)
                peerpod_log(call, LOG_WARNING, "The engine is spoken to without TLS: whoever is on the way reads pod VMs' keys, and may use the engine.");
        return cloud_http_new(&http, &d->http, error);
}

static int read_auth(Docker *d, const PeerpodConfig *config, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *text = config->values[OPTION_REGISTRY_AUTH], *server = NULL;

        if (isempty(text))
                return 0;
        if (json_parse(text, strlen(text), &o, NULL) < 0 || json_get_string(o, "serveraddress", &server, NULL) <= 0 || isempty(server))
                return refuse(error, config, OPTION_REGISTRY_AUTH, "it is no JSON object with a serveraddress");
        d->registry = strdup(startswith(server, "https://") ?: server);
        if (!d->registry)
                return oom(error);
        d->registry[strcspn(d->registry, "/")] = '\0';
        return base64url_encode(text, strlen(text), &d->registry_auth) < 0 ? oom(error) : 0;
}

static int read_settings(Docker *d, const PeerpodConfig *config, PeerpodError *error) {
        const char *network = config->values[OPTION_NETWORK], *item;
        _cleanup_(freep) char *name = NULL, *tag = NULL;
        size_t n;
        int r;

        d->api_version = docker_version_parse(config->values[OPTION_API_VERSION]);
        if (d->api_version == 0)
                return refuse(error, config, OPTION_API_VERSION, "it is no version such as '1.44'");
        if (docker_image_split(config->values[OPTION_IMAGE], &name, &tag) < 0)
                return refuse(error, config, OPTION_IMAGE, "it is no name of an image");
        if (!text_is_plain(network, 255) || network[strcspn(network, " /:")] != '\0')
                return refuse(error, config, OPTION_NETWORK, "it is no name of a network");
        for (const char *p = config->values[OPTION_CAPABILITIES]; list_next(&p, &item, &n);)
                if (n > 32 || strspn(item, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") < n)
                        return refuse(error, config, OPTION_CAPABILITIES, "it is no list of capabilities such as 'NET_ADMIN,SYS_ADMIN'");
        d->pull = config_bool(config, OPTION_IMAGE_PULL);
        d->privileged = config_bool(config, OPTION_PRIVILEGED);
        d->vcpus = (uint32_t) config_uint(config, OPTION_CPU);
        d->memory_mib = config_uint(config, OPTION_MEMORY);
        d->pids_max = config_uint(config, OPTION_PIDS);
        if (d->memory_mib > 0 && d->memory_mib < 64)
                return refuse(error, config, OPTION_MEMORY, "it is less than 64 and not 0");

        r = config_copy(config, OPTION_IMAGE, &d->image, error);
        if (r == 0)
                r = config_copy(config, OPTION_NETWORK, &d->network, error);
        if (r == 0)
                r = config_copy(config, OPTION_IMAGE_PATTERNS, &d->image_patterns, error);
        if (r == 0)
                r = config_copy(config, OPTION_CAPABILITIES, &d->capabilities, error);
        return r < 0 ? r : read_auth(d, config, error);
}

static void docker_close(void *provider) {
        Docker *d = provider;

        (void) cloud_http_free(d->http);
        (void) pthread_mutex_destroy(&d->mutex);
        free(d->base);
        free(d->image);
        free(d->network);
        free(d->image_patterns);
        free(d->registry);
        erase_free_stringp(&d->registry_auth);
        free(d->capabilities);
        free(d);
}

DEFINE_CLEANUP(Docker*, docker_close);

static int docker_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        _cleanup_(docker_closep) Docker *d = NULL;
        int r;

        d = new(Docker);
        if (!d)
                return oom(error);
        *d = (Docker) {};
        (void) pthread_mutex_init(&d->mutex, NULL);

        r = read_settings(d, config, error);
        if (r == 0)
                r = open_http(d, config, call, error);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(d);
        return 0;
}

static int docker_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        Docker *d = provider;
        DockerEngine e;
        int r;

        r = docker_engine(d, call, &e, error);
        if (r == 0)
                r = docker_network_check(d, call, error);
        return r < 0 ? r : docker_image_ensure(d, call, d->image, error);
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "docker",
        .description = "Pod VMs as containers of a Docker Engine",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = DOCKER_USER_DATA_MAX,
        .open = docker_open,
        .verify = docker_verify,
        .create = docker_create,
        .remove = docker_remove,
        .find = docker_find,
        .close = docker_close,
};
