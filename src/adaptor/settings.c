/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/settings.h"

#include <fcntl.h>
#include <sys/utsname.h>

#include "adaptor/history.h"
#include "adaptor/request.h"
#include "agent-proxy/proxy-config.h"
#include "basic/env-file.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "basic/paths.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "tls/cert.h"
#include "tls/session.h"
#include "userdata/initdata.h"

#define CERTIFICATE_CHECK_MAX_USEC (UINT64_C(8760) * 3600 * USEC_PER_SEC)
#define GIVEN_FILE_MAX (UINT32_C(1) << 20)

/* "/" + 64 + "/agent.ttrpc" and the NUL have to fit into sun_path of 108 bytes (unix(7)). */
#define PODS_DIR_MAX 30U

static const Option options[] = {
        { "socket", "REMOTE_HYPERVISOR_ENDPOINT", OPTION_STRING, offsetof(Settings, socket), NULL,
          "Listen here instead of on the socket that systemd passes", "PATH" },
        { "pods-dir", "PODS_DIR", OPTION_STRING, offsetof(Settings, pods_dir), PEERPOD_PODS_DIR,
          "Where the agents' sockets are", "PATH" },
        { "forwarder-port", "FORWARDER_PORT", OPTION_PORT, offsetof(Settings, forwarder_port), "15150",
          "TCP port of agent-protocol-forwarder in the pod VM", "PORT" },
        { "ca-cert-file", "CACERT_FILE", OPTION_STRING, offsetof(Settings, ca_cert_file), NULL,
          "CA of the certificate that the pod VM's image carries", "PATH" },
        { "cert-file", "CERT_FILE", OPTION_STRING, offsetof(Settings, cert_file), NULL,
          "Client certificate of the agent proxies", "PATH" },
        { "cert-key", "CERT_KEY", OPTION_STRING, offsetof(Settings, cert_key_file), NULL,
          "Its private key", "PATH" },
        { "tls-skip-verify", "TLS_SKIP_VERIFY", OPTION_BOOL, offsetof(Settings, tls_skip_verify), "false",
          "Refused: the pod VM is always verified", NULL },
        { "disable-tls", NULL, OPTION_BOOL, offsetof(Settings, disable_tls), "false",
          "Talk to the pod VM in clear text", NULL },
        { "tls-min-version", "TLS_MIN_VERSION", OPTION_STRING, offsetof(Settings, tls_min_version), NULL,
          "VersionTLS12 or VersionTLS13 (the default)", "VERSION" },
        { "tls-cipher-suites", "TLS_CIPHER_SUITES", OPTION_STRV, offsetof(Settings, tls_cipher_suites), NULL,
          "IANA names, for TLS 1.2", "NAMES" },
        { "certificate-check", "CERTIFICATE_CHECK", OPTION_DURATION, offsetof(Settings, certificate_check_usec), "24h",
          "How often to see whether certificates are about to end", "TIME" },
        { "certificate-warning", "CERTIFICATE_WARNING", OPTION_DURATION, offsetof(Settings, certificate_warning_usec), "720h",
          "How long before their end to warn of it", "TIME" },
        { "environment-file", NULL, OPTION_STRV, offsetof(Settings, environment_files), NULL,
          "Files that TLS settings are read from again at a reload", "PATH,…" },
        { "proxy-timeout", "PROXY_TIMEOUT", OPTION_DURATION, offsetof(Settings, proxy_timeout_usec), "5m",
          "How long the agent proxy tries to reach the agent", "TIME" },
        { "proxy-grace-time", "PROXY_GRACE_TIME", OPTION_DURATION, offsetof(Settings, proxy_grace_time_usec), "1m",
          "How long a lost link to the pod VM is hidden from Kata", "TIME" },
        { "start-timeout", "START_TIMEOUT", OPTION_DURATION, offsetof(Settings, start_timeout_usec), "570s",
          "How long a StartVM may take in all", "TIME" },
        { "tunnel-probe", "TUNNEL_PROBE", OPTION_STRING, offsetof(Settings, tunnel_probe), "require",
          "When a tunnel carries no packets: require (StartVM fails), warn, or off (do not try)", "MODE" },
        { "shim-grace-time", "SHIM_GRACE_TIME", OPTION_DURATION, offsetof(Settings, shim_grace_usec), "60s",
          "How long after the end of its shim a sandbox is deleted; 0 for never", "TIME" },
        { "reconcile-interval", "RECONCILE_INTERVAL", OPTION_DURATION, offsetof(Settings, reconcile_usec), "10m",
          "How often the cloud is asked for instances that no sandbox has; 0 for only at start", "TIME" },
        { "initdata", "INITDATA", OPTION_STRING, offsetof(Settings, initdata), NULL,
          "Initdata of pods without their own: base64(gzip(TOML))", "TEXT" },
        { "enable-scratch-space", "ENABLE_SCRATCH_SPACE", OPTION_BOOL, offsetof(Settings, enable_scratch_space), "false",
          "Let the pod VM use a part of its disk as encrypted scratch space", NULL },
        { "check-settings", NULL, OPTION_BOOL, offsetof(Settings, check_settings), "false",
          "Say whether these settings would be taken, and exit", NULL },
        { "history", "PEERPOD_HISTORY", OPTION_U32, offsetof(Settings, history_max), "64",
          "Of how many sandboxes that are gone 'peerpodctl why' can tell", "N", .max = HISTORY_MAX },
        { "hold-max", "PEERPOD_HOLD_MAX", OPTION_DURATION, offsetof(Settings, hold_max_usec), "4h",
          "How long a pod VM may be kept from being deleted by 'peerpodctl hold'", "TIME" },
        { "hold-failed", "PEERPOD_HOLD_FAILED", OPTION_DURATION, offsetof(Settings, hold_failed_usec), "0",
          "How long a pod VM whose start has failed is kept; 0: not at all", "TIME" },
        { "state-dir", "STATE_DIRECTORY", OPTION_STRING, offsetof(Settings, state_dir), PEERPOD_STATE_DIR,
          "Where the records are kept, in sandboxes/", "PATH" },
        { "runtime-dir", NULL, OPTION_STRING, offsetof(Settings, runtime_dir), PEERPOD_ADAPTOR_RUNTIME_DIR,
          "Where the credentials of running sandboxes are kept", "PATH" },
        { "tunnel-socket", NULL, OPTION_STRING, offsetof(Settings, tunnel_socket), PEERPOD_TUNNEL_SOCKET,
          "Private bus of peerpod-tunneld", "PATH" },
        { "provider-socket", NULL, OPTION_STRING, offsetof(Settings, provider_socket), PEERPOD_PROVIDER_SOCKET,
          "Private bus of peerpod-providerd", "PATH" },
        { "node-name", "NODE_NAME", OPTION_STRING, offsetof(Settings, node), NULL,
          "Owner tag of this node's instances (default: the host name)", "NAME" },
        {}
};

static const Program program = {
        .name = "peerpod-adaptor",
        .usage = "[OPTIONS…]",
        .description = "Answers Kata Containers' remote hypervisor calls with VMs of a cloud.",
        .options = options,
        .man = "peerpod-adaptor(8)",
};

static int configuration_error(int *ret_exit) {
        *ret_exit = EXIT_CONFIGURATION;
        return 1;
}

static int check_paths(const Settings *s, int *ret_exit) {
        const struct {
                const char *name, *path;
        } paths[] = {
                { "pods-dir", s->pods_dir },         { "runtime-dir", s->runtime_dir },
                { "state-dir", s->state_dir },       { "tunnel-socket", s->tunnel_socket },
                { "provider-socket", s->provider_socket },
        };

        for (size_t i = 0; i < ELEMENTSOF(paths); i++)
                if (isempty(paths[i].path) || paths[i].path[0] != '/') {
                        log_error("Value of '%s' is not an absolute path.", paths[i].name);
                        return configuration_error(ret_exit);
                }

        if (strlen(s->pods_dir) > PODS_DIR_MAX || strchr(s->pods_dir, ':')) {
                /* kata-containers: src/runtime/virtcontainers/pkg/agent/protocols/client/client.go splits the path at ':' */
                log_error("Value of 'pods-dir' is longer than %u bytes or has a colon.", PODS_DIR_MAX);
                return configuration_error(ret_exit);
        }

        return 0;
}

static int check_grace_time(const Settings *s, int *ret_exit) {
        if (s->proxy_grace_time_usec <= PROXY_GRACE_TIME_USEC_MAX)
                return 0;

        log_error("Value of 'proxy-grace-time' is longer than %s.", FORMAT_USEC(PROXY_GRACE_TIME_USEC_MAX));
        return configuration_error(ret_exit);
}

static int check_tunnel_probe(const Settings *s, int *ret_exit) {
        if (streq(s->tunnel_probe, "require") || streq(s->tunnel_probe, "warn") || streq(s->tunnel_probe, "off"))
                return 0;
        log_error("Value of 'tunnel-probe' (variable 'TUNNEL_PROBE') is not one of require, warn and off.");
        return configuration_error(ret_exit);
}

static int check_durations(const Settings *s, int *ret_exit) {
        if (s->certificate_check_usec < USEC_PER_SEC || s->certificate_check_usec > CERTIFICATE_CHECK_MAX_USEC) {
                log_error("Value of 'certificate-check' is not between 1 s and a year.");
                return configuration_error(ret_exit);
        }

        return 0;
}

/* The texts are upstream's where it has one (cloud-api-adaptor: pkg/util/tlsutil). */
static int check_tls_profile(Settings *s, int *ret_exit) {
        _cleanup_(freep) char *reason = NULL;
        int r;

        if (s->tls_skip_verify) {
                log_error("Setting 'tls-skip-verify' would let anybody be the pod VM, and is not supported.");
                return configuration_error(ret_exit);
        }
        if (isempty(s->tls_min_version)) {
                free(s->tls_min_version);
                s->tls_min_version = strdup(tls_version_to_string(strv_length(s->tls_cipher_suites) > 0 ? TLS_VERSION_1_2 : TLS_VERSION_1_3));
                if (!s->tls_min_version)
                        return log_oom();
        }
        if (streq(s->tls_min_version, "VersionTLS10") || streq(s->tls_min_version, "VersionTLS11")) {
                log_error("Invalid TLS profile: TLS 1.0 and 1.1 are not supported, use VersionTLS12 or VersionTLS13 for 'tls-min-version'.");
                return configuration_error(ret_exit);
        }
        if (tls_version_from_string(s->tls_min_version) < 0) {
                log_error("Invalid TLS profile: value of 'tls-min-version' is not one of VersionTLS12 and VersionTLS13.");
                return configuration_error(ret_exit);
        }
        r = tls_profile_check(tls_version_from_string(s->tls_min_version), s->tls_cipher_suites, &reason);
        if (r == -ENOMEM)
                return log_oom();
        if (r < 0) {
                log_error("Invalid TLS profile: 'tls-cipher-suites': %s.", strempty(reason));
                return configuration_error(ret_exit);
        }

        return 0;
}

/* The admin's own files, which may be symlinks, as those of ACME clients and of Kubernetes are. */
static int read_given_file(const char *path, char **ret) {
        _cleanup_(close_fdp) int fd = open(path, O_RDONLY|O_CLOEXEC|O_NOCTTY);

        return fd < 0 ? -errno : read_full_fd(fd, GIVEN_FILE_MAX, ret, /* ret_size= */ NULL);
}

static int read_pem(const char *setting, const char *path, char **ret, int *ret_exit) {
        int r;

        if (isempty(path))
                return 0;

        r = read_given_file(path, ret);
        if (r == -ENOMEM)
                return log_oom();
        if (r < 0) {
                log_error_errno(r, "Failed to read '%s', named by '%s': %m", path, setting);
                return configuration_error(ret_exit);
        }

        return 0;
}

/* Upstream reads them only with the first VM, which then accepts any client (cloud-api-adaptor: pkg/adaptor/cloud/cloud.go). */
static int load_certificates(Settings *s, int *ret_exit) {
        int r;

        if (s->disable_tls)
                return 0;

        if (isempty(s->cert_file) != isempty(s->cert_key_file)) {
                log_error("Settings 'cert-file' and 'cert-key' need one another.");
                return configuration_error(ret_exit);
        }
        if (!isempty(s->ca_cert_file) && isempty(s->cert_file)) {
                log_error("Setting 'ca-cert-file' needs 'cert-file' and 'cert-key': the image trusts certificates of its own CA only.");
                return configuration_error(ret_exit);
        }

        r = read_pem("ca-cert-file", s->ca_cert_file, &s->ca_cert, ret_exit);
        if (r != 0)
                return r;
        r = read_pem("cert-file", s->cert_file, &s->client_cert, ret_exit);
        if (r != 0)
                return r;
        r = read_pem("cert-key", s->cert_key_file, &s->client_key, ret_exit);
        if (r != 0)
                return r;

        r = s->ca_cert ? cert_check(s->ca_cert) : 0;
        if (r == -EBADMSG) {
                log_error("File '%s' is no PEM certificate.", s->ca_cert_file);
                return configuration_error(ret_exit);
        }
        if (r >= 0 && s->client_cert)
                r = cert_pair_check(s->client_key, s->client_cert);
        if (r == -EBADMSG) {
                log_error("Files '%s' and '%s' are no PEM certificate and its private key.", s->cert_file, s->cert_key_file);
                return configuration_error(ret_exit);
        }

        return r < 0 ? log_error_errno(r, "Failed to check certificates: %m") : 0;
}

static int check_initdata(Settings *s, int *ret_exit) {
        _cleanup_(initdata_done) Initdata initdata = INITDATA_NULL;
        _cleanup_(freep) char *text = NULL;
        int r;

        if (isempty(s->initdata)) {
                free(s->initdata);
                s->initdata = NULL;
                return 0;
        }

        r = initdata_decode(s->initdata, strlen(s->initdata), &initdata, &text);
        if (r == -ENOMEM)
                return log_oom();
        if (r < 0) {
                log_error("Failed to parse global initdata: %s.", strempty(text));
                return configuration_error(ret_exit);
        }

        return 0;
}

static int find_node(Settings *s, int *ret_exit) {
        struct utsname u;

        if (isempty(s->node)) {
                if (uname(&u) < 0)
                        return log_error_errno(errno, "Failed to read the host name: %m");
                free(s->node);
                s->node = strdup(u.nodename);
                if (!s->node)
                        return log_oom();
        }
        if (!text_is_plain(s->node, REQUEST_TEXT_MAX)) {
                log_error("Value of 'NODE_NAME' is not plain text of at most %u bytes.", REQUEST_TEXT_MAX);
                return configuration_error(ret_exit);
        }

        return 0;
}

static int load(int argc, char *argv[], Settings *s, int *ret_exit) {
        int r;

        r = options_load(&program, argc, argv, s, /* ret_rest= */ NULL, ret_exit);
        if (r != 0)
                return r;
        r = check_paths(s, ret_exit);
        if (r != 0)
                return r;
        r = check_grace_time(s, ret_exit);
        if (r != 0)
                return r;
        r = check_tunnel_probe(s, ret_exit);
        if (r != 0)
                return r;
        r = check_durations(s, ret_exit);
        if (r != 0)
                return r;
        r = check_tls_profile(s, ret_exit);
        if (r != 0)
                return r;
        r = load_certificates(s, ret_exit);
        if (r != 0)
                return r;
        r = check_initdata(s, ret_exit);
        if (r != 0)
                return r;

        return find_node(s, ret_exit);
}

/* Variables that only a TLS setting has, and that are therefore read from files at a reload. */
static const char *const tls_variables[] = {
        "CACERT_FILE", "CERT_FILE", "CERT_KEY", "TLS_SKIP_VERIFY", "TLS_MIN_VERSION", "TLS_CIPHER_SUITES",
};

/* Which of them the files gave, and not the unit. */
static uint32_t from_files;

static int on_assignment(const char *key, const char *value, void *userdata) {
        for (size_t i = 0; i < ELEMENTSOF(tls_variables); i++) {
                if (!streq(key, tls_variables[i]))
                        continue;
                if (setenv(key, value, /* overwrite= */ 1) < 0)
                        return -errno;
                from_files |= BIT(i);
        }

        return 0;
}

/* What systemd does for a new process: later files go before earlier ones, and one that is missing says nothing. */
static int read_environment_files(char *const *paths) {
        for (size_t i = 0; i < ELEMENTSOF(tls_variables); i++)
                if ((from_files & BIT(i)) && unsetenv(tls_variables[i]) < 0)
                        return -errno;
        from_files = 0;

        for (char *const *p = paths; p && *p; p++) {
                _cleanup_(freep) char *text = NULL;
                int r;

                r = read_given_file(*p, &text);
                if (r == -ENOENT)
                        continue;
                if (r >= 0)
                        r = env_file_parse(text, strlen(text), on_assignment, NULL);
                if (r < 0)
                        return log_error_errno(r, "Failed to read '%s', named by 'environment-file': %m", *p);
        }

        return 0;
}

int settings_load(int argc, char *argv[], Settings *ret, int *ret_exit) {
        _cleanup_(settings_done) Settings s = SETTINGS_NULL;
        int r;

        r = load(argc, argv, &s, ret_exit);
        if (r != 0)
                return r;
        /* systemd has done so already; a reload must know what came from where. */
        r = read_environment_files(s.environment_files);
        if (r < 0)
                return configuration_error(ret_exit);

        *ret = s;
        s = SETTINGS_NULL;
        return 0;
}

/* Exchanges what the TLS settings are of. */
static void swap_tls(Settings *a, Settings *b) {
        Settings saved = *a;

        a->tls_skip_verify = b->tls_skip_verify;
#define SWAP(field) a->field = b->field; b->field = saved.field
        SWAP(tls_min_version);
        SWAP(tls_cipher_suites);
        SWAP(ca_cert_file);
        SWAP(cert_file);
        SWAP(cert_key_file);
        SWAP(ca_cert);
        SWAP(client_cert);
        SWAP(client_key);
#undef SWAP
}

int settings_reload_tls(int argc, char *argv[], Settings *s) {
        _cleanup_(settings_done) Settings again = SETTINGS_NULL;
        int r, status;

        r = read_environment_files(s->environment_files);
        if (r < 0)
                return r == -ENOMEM ? r : -EINVAL;
        r = load(argc, argv, &again, &status);
        if (r < 0)
                return r;
        if (r > 0)
                return -EINVAL;

        swap_tls(s, &again);
        return 0;
}

void settings_done(Settings *s) {
        options_done(options, s);
        free(s->ca_cert);
        free(s->client_cert);
        erase_free_stringp(&s->client_key);
        *s = SETTINGS_NULL;
}
