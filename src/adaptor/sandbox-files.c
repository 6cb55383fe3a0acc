/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/sandbox-files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json_tokener.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "adaptor/error.h"
#include "adaptor/request.h"
#include "basic/io.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/paths.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "tls/cert.h"
#include "userdata/apf.h"
#include "userdata/cloud-config.h"
#include "userdata/initdata.h"

#define CLIENT_KEY "client.key"
#define CLIENT_CERT "client.crt"
#define SERVER_CA "server-ca.crt"
#define PROXY_SETTINGS "proxy.json"
#define USER_DATA "user-data"
#define SHIM "shim"
#define SHIM_SIZE_MAX 64U
#define CERT_FILE_MAX (UINT32_C(1) << 20)

/* The files' names in the pod VM, and names in certificates: cloud-api-adaptor: pkg/adaptor/cloud/cloud.go, pkg/util/tlsutil */
#define PODVM_APF "/run/peerpod/apf.json"
#define PODVM_AUTH "/run/peerpod/auth.json"
#define PODVM_INITDATA "/run/peerpod/initdata"
#define IMAGE_SERVER_NAME "podvm-server"
#define CLIENT_ORGANIZATION "cloud-api-adaptor"
#define SERVER_ORGANIZATION "agent-protocol-forwarder"

#define NO_TLS "none"           /* tls_profile of a record */

/* What both ends of a sandbox's link go by. */
typedef struct TlsPlan {
        bool enabled;
        const char *min_version, *server_name;
        char **cipher_suites;
} TlsPlan;

/* What one sandbox's ends are given. Strings that come from the settings are borrowed, hence the two fields for each. */
typedef struct Credentials {
        CertPair server, client;
        const char *client_key, *client_cert;
        const char *server_ca;          /* what the proxy trusts */
        const char *client_ca;          /* what the VM trusts; NULL: what its image carries */
} Credentials;

static void credentials_done(Credentials *c) {
        cert_pair_done(&c->server);
        cert_pair_done(&c->client);
}

static int file_path(const Settings *settings, const char *id, const char *name, char **ret) {
        return asprintf(ret, "%s/%s%s%s", settings->runtime_dir, id, name ? "/" : "", strempty(name)) < 0 ? -ENOMEM : 0;
}

int sandbox_files_user_data_path(const Settings *settings, const char *id, char **ret) {
        return file_path(settings, id, USER_DATA, ret);
}

int sandbox_files_agent_socket(const Settings *settings, const char *id, char **ret) {
        return asprintf(ret, "%s/%s/agent.ttrpc", settings->pods_dir, id) < 0 ? -ENOMEM : 0;
}

/* Borrows all; a record of before there were these fields goes by the settings. */
static TlsPlan tls_plan_of(const Settings *settings, const SandboxRecord *record) {
        if (record->tls_profile)
                return (TlsPlan) {
                        .enabled = !streq(record->tls_profile, NO_TLS),
                        .min_version = record->tls_profile,
                        .cipher_suites = record->tls_cipher_suites,
                        .server_name = record->tls_server_name,
                };

        return (TlsPlan) {
                .enabled = !settings->disable_tls,
                .min_version = settings->tls_min_version,
                .cipher_suites = settings->tls_cipher_suites,
                .server_name = settings->ca_cert ? IMAGE_SERVER_NAME : record->instance_name,
        };
}

int sandbox_files_plan_tls(const Settings *settings, SandboxRecord *record) {
        _cleanup_(freep) char *profile = NULL, *server_name = NULL;
        _cleanup_(strv_freep) char **suites = NULL;
        TlsPlan plan;
        int r;

        assert(!record->tls_profile);

        plan = tls_plan_of(settings, record);
        profile = strdup(plan.enabled ? plan.min_version : NO_TLS);
        server_name = strdup(plan.server_name);
        if (!profile || !server_name)
                return -ENOMEM;
        if (plan.enabled && strv_length(plan.cipher_suites) > 0) {
                r = strv_copy(plan.cipher_suites, &suites);
                if (r < 0)
                        return r;
        }

        record->tls_profile = TAKE_PTR(profile);
        record->tls_server_name = TAKE_PTR(server_name);
        record->tls_cipher_suites = TAKE_PTR(suites);
        return 0;
}

static int credentials_make(const Settings *settings, const SandboxRecord *record, Credentials *c) {
        const CertRequest client = { .usage = CERT_CLIENT, .organization = CLIENT_ORGANIZATION };
        const CertRequest server = { .usage = CERT_SERVER, .organization = SERVER_ORGANIZATION, .name = record->instance_name };
        int r;

        if (settings->disable_tls) {
                c->client_key = c->client_cert = c->server_ca = "";
                return 0;
        }

        if (settings->client_cert) {
                c->client_key = settings->client_key;
                c->client_cert = settings->client_cert;
        } else {
                r = cert_pair_make(&client, &c->client);
                if (r < 0)
                        return r;
                c->client_key = c->client.key;
                c->client_cert = c->client.cert;
        }

        if (settings->ca_cert) {
                c->server_ca = settings->ca_cert;       /* and the image has both server certificate and client CA */
                return 0;
        }

        r = cert_pair_make(&server, &c->server);
        if (r < 0)
                return r;
        c->server_ca = c->server.cert;
        c->client_ca = c->client_cert;
        return 0;
}

static int write_file(const Settings *settings, const char *id, const char *name, const char *text, sd_bus_error *error) {
        _cleanup_(freep) char *path = NULL;
        int r;

        r = file_path(settings, id, name, &path);
        if (r >= 0)
                r = write_file_atomic(path, text, strlen(text), 0600);
        if (r < 0)
                return error_set_errno(error, r, "write '%s' of the sandbox", name);

        return 0;
}

/* Borrows everything: the result must not be given to apf_config_done(). */
static ApfConfig apf_config_of(const Settings *settings, const SandboxRecord *record, const Credentials *c) {
        TlsPlan plan = tls_plan_of(settings, record);

        return (ApfConfig) {
                .pod_network = record->pod_network,
                .pod_namespace = record->pod_namespace,
                .pod_name = record->pod_name,
                .tls_server_key = c->server.key,
                .tls_server_cert = c->server.cert,
                .tls_client_ca = (char*) c->client_ca,
                .tls_min_version = plan.enabled ? (char*) plan.min_version : NULL,
                .tls_cipher_suites = plan.enabled && strv_length(plan.cipher_suites) > 0 ? plan.cipher_suites : NULL,
        };
}

/* Says which part it is that is too large. */
static int refuse_size(size_t size_max, size_t apf_size, size_t auth_size, size_t initdata_size, sd_bus_error *error) {
        const char *largest = apf_size > MAX(auth_size, initdata_size) ? "apf.json" : auth_size > initdata_size ? "auth.json" : "initdata";
        char auth[64] = "";

        if (auth_size > 0)
                (void) snprintf(auth, sizeof(auth), ", auth.json (of the pull secrets) %zu", auth_size);
        (void) sd_bus_error_setf(error, PEERPOD_ERROR_EXHAUSTED,
                                 "user data is larger than the %zu bytes that the provider takes, mostly for its %s: apf.json has %zu%s, initdata %zu",
                                 size_max, largest, apf_size, auth, initdata_size);
        return -E2BIG;
}

static int write_user_data(const Settings *settings, const SandboxRecord *record, const Credentials *c, const char *initdata,
                           const char *auth, uint64_t size_max, sd_bus_error *error) {
        _cleanup_(freep) char *encoded = NULL, *reason = NULL;
        ApfConfig apf = apf_config_of(settings, record, c);
        CloudConfigEntry entries[4] = {};
        size_t n = 0, apf_size, size;
        char *apf_text, *text;
        int r;

        if (initdata) {
                r = initdata_encode(initdata, &encoded);
                if (r < 0)
                        return error_set_errno(error, r, "failed to set initdata from annotation");
                initdata = encoded;
        } else
                initdata = settings->initdata;

        r = apf_config_format(&apf, &apf_text, &apf_size, &reason);
        if (r < 0)
                return error_set_errno(error, r == -EINVAL ? -EIO : r, "make apf.json: %s", strempty(reason));

        /* Order as upstream has it. */
        entries[n++] = (CloudConfigEntry) { .path = PODVM_APF, .content = apf_text, .size = apf_size };
        if (auth)
                entries[n++] = (CloudConfigEntry) { .path = PODVM_AUTH, .content = auth, .size = strlen(auth) };
        if (initdata)
                entries[n++] = (CloudConfigEntry) { .path = PODVM_INITDATA, .content = initdata, .size = strlen(initdata) };
        if (settings->enable_scratch_space)
                entries[n++] = (CloudConfigEntry) { .path = PODVM_SCRATCH_MARKER };

        r = cloud_config_format(entries, n, &text, &size, &reason);
        if (r == -E2BIG)
                (void) refuse_size(CLOUD_CONFIG_SIZE_MAX, apf_size, strlen(strempty(auth)), strlen(strempty(initdata)), error);
        else if (r < 0)
                r = error_set_errno(error, r == -EINVAL ? -EIO : r, "make user data: %s", strempty(reason));
        erase_free(apf_text, apf_size);
        if (r < 0)
                return r;

        if (size_max > 0 && size > size_max)
                r = refuse_size(size_max, apf_size, strlen(strempty(auth)), strlen(strempty(initdata)), error);
        else
                r = write_file(settings, record->id, USER_DATA, text, error);
        erase_free(text, size);
        return r;
}

int sandbox_files_prepare(const Settings *settings, const SandboxRecord *record, const char *initdata, const char *auth,
                          uint64_t size_max, sd_bus_error *error) {
        _cleanup_(credentials_done) Credentials c = {};
        _cleanup_(freep) char *directory = NULL;
        int r;

        r = credentials_make(settings, record, &c);
        if (r < 0)
                return error_set_errno(error, r, "creating TLS certificate for communication between worker node and peer pod VM");

        r = file_path(settings, record->id, NULL, &directory);
        if (r >= 0)
                r = mkdir_p(directory, 0700);
        if (r < 0)
                return error_set_errno(error, r, "creating a pod directory");

        r = write_file(settings, record->id, CLIENT_KEY, c.client_key, error);
        if (r < 0)
                return r;
        r = write_file(settings, record->id, CLIENT_CERT, c.client_cert, error);
        if (r < 0)
                return r;
        r = write_file(settings, record->id, SERVER_CA, c.server_ca, error);
        if (r < 0)
                return r;

        return write_user_data(settings, record, &c, initdata, auth, size_max, error);
}

static int format_proxy(const Settings *settings, const SandboxRecord *record, const char *provider, char **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        TlsPlan plan = tls_plan_of(settings, record);
        const char *text;
        int r;

        o = json_object_new_object();
        if (!o)
                return -ENOMEM;

        r = json_set_string(o, "sandbox-id", record->id);
        if (r >= 0)
                r = json_set_string(o, "pod-name", record->pod_name);
        if (r >= 0)
                r = json_set_string(o, "pod-namespace", record->pod_namespace);
        if (r >= 0)
                r = json_set_string(o, "instance-id", record->instance_id);
        if (r >= 0)
                r = json_set_string(o, "provider", provider);
        if (r >= 0)
                r = json_set_strv(o, "addresses", record->addresses);
        if (r >= 0)
                r = json_set_u64(o, "port", settings->forwarder_port);
        if (r >= 0)
                r = json_set_string(o, "server-name", plan.server_name);
        if (r >= 0)
                r = json_set_bool(o, "tls", plan.enabled);
        if (r >= 0 && plan.enabled)
                r = json_set_string(o, "tls-min-version", plan.min_version);
        if (r >= 0 && plan.enabled && strv_length(plan.cipher_suites) > 0)
                r = json_set_strv(o, "tls-cipher-suites", plan.cipher_suites);
        if (r >= 0)
                r = json_set_u64(o, "connect-timeout-usec", settings->proxy_timeout_usec);
        if (r >= 0)
                r = json_set_u64(o, "grace-time-usec", settings->proxy_grace_time_usec);
        if (r >= 0 && record->volumes) {
                json_object *volumes = json_tokener_parse(record->volumes);

                r = volumes ? json_set(o, "volumes", volumes) : -ENOMEM;
        }
        if (r >= 0 && record->volumes_elsewhere)
                r = json_set_strv(o, "volumes-elsewhere", record->volumes_elsewhere);
        if (r < 0)
                return r;

        text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text)
                return -ENOMEM;
        *ret = strdup(text);
        return *ret ? 0 : -ENOMEM;
}

int sandbox_files_write_proxy(const Settings *settings, const SandboxRecord *record, const char *provider, sd_bus_error *error) {
        _cleanup_(freep) char *text = NULL, *directory = NULL;
        int r;

        r = asprintf(&directory, "%s/%s", settings->pods_dir, record->id) < 0 ? -ENOMEM : 0;
        if (r >= 0)
                r = mkdir_p(directory, 0755);
        if (r < 0)
                return error_set_errno(error, r, "creating a pod directory");

        r = format_proxy(settings, record, provider, &text);
        if (r < 0)
                return error_set_errno(error, r, "make '%s'", PROXY_SETTINGS);

        return write_file(settings, record->id, PROXY_SETTINGS, text, error);
}

int sandbox_files_drop_user_data(const Settings *settings, const char *id) {
        _cleanup_(freep) char *path = NULL;
        int r;

        r = sandbox_files_user_data_path(settings, id, &path);
        if (r < 0)
                return r;

        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

bool sandbox_files_are_complete(const Settings *settings, const char *id) {
        static const char *const names[] = { CLIENT_KEY, CLIENT_CERT, SERVER_CA, USER_DATA };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_(freep) char *path = NULL;

                if (file_path(settings, id, names[i], &path) < 0 || access(path, F_OK) < 0)
                        return false;
        }

        return true;
}

int sandbox_files_write_shim(const Settings *settings, const char *id, const ProcessId *shim) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        int r;

        r = file_path(settings, id, SHIM, &path);
        if (r < 0)
                return r;
        if (asprintf(&text, "%" PRIi32 " %" PRIu64, (int32_t) shim->pid, shim->id) < 0)
                return -ENOMEM;

        return write_file_atomic(path, text, strlen(text), 0600);
}

int sandbox_files_read_shim(const Settings *settings, const char *id, ProcessId *ret) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        uint64_t inode;
        uint32_t pid;
        char *blank;
        int r;

        r = file_path(settings, id, SHIM, &path);
        if (r < 0)
                return r;
        r = read_full_file_at(AT_FDCWD, path, SHIM_SIZE_MAX, &text, /* ret_size= */ NULL);
        if (r < 0)
                return r;

        blank = strchr(text, ' ');
        if (!blank)
                return -EBADMSG;
        *blank = '\0';
        if (parse_u32(text, &pid) < 0 || pid == 0 || pid > INT_MAX || parse_u64(blank + 1, &inode) < 0)
                return -EBADMSG;

        *ret = (ProcessId) { .pid = (pid_t) pid, .id = inode };
        return 0;
}

static int expiry_of_file(const Settings *settings, const char *id, const char *name, uint64_t *ret_usec) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        int r;

        r = file_path(settings, id, name, &path);
        if (r < 0)
                return r;
        r = read_full_file_at(AT_FDCWD, path, CERT_FILE_MAX, &text, /* ret_size= */ NULL);
        if (r < 0)
                return r;
        return isempty(text) ? -ENOENT : cert_get_expiry(text, ret_usec);
}

int sandbox_files_get_expiry(const Settings *settings, const char *id, uint64_t *ret_usec) {
        uint64_t client, server;
        int r;

        r = expiry_of_file(settings, id, CLIENT_CERT, &client);
        if (r < 0)
                return r;
        r = expiry_of_file(settings, id, SERVER_CA, &server);
        if (r < 0)
                return r;

        *ret_usec = MIN(client, server);
        return 0;
}

int sandbox_files_remove(const Settings *settings, const char *id) {
        _cleanup_(freep) char *directory = NULL, *pod_directory = NULL, *agent_socket = NULL;
        int r;

        r = file_path(settings, id, NULL, &directory);
        if (r < 0)
                return r;
        r = sandbox_files_agent_socket(settings, id, &agent_socket);
        if (r < 0)
                return r;
        if (asprintf(&pod_directory, "%s/%s", settings->pods_dir, id) < 0)
                return -ENOMEM;

        r = remove_tree(directory);
        if (r < 0)
                return r;
        /* The socket unit has removed its socket; what is left of one is of a unit that was killed. */
        if (unlink(agent_socket) < 0 && errno != ENOENT)
                return -errno;
        return rmdir(pod_directory) < 0 && errno != ENOENT ? -errno : 0;
}
