/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-proxy/proxy-config.h"

#include <json-c/json.h>
#include <stdio.h>

#include "basic/json.h"
#include "basic/parse.h"
#include "basic/paths.h"
#include "basic/strv.h"
#include "basic/util.h"

#define CONNECT_TIMEOUT_USEC (5 * 60 * USEC_PER_SEC)    /* cloud-api-adaptor: -proxy-timeout */
#define GRACE_TIME_USEC (60 * USEC_PER_SEC)

static void volume_done(ProxyVolume *v) {
        free(v->path);
        free(v->disk_id);
        free(v->fs_type);
        free(v->encrypt_type);
        free(v->key_id);
}

void proxy_config_done(ProxyConfig *c) {
        free(c->sandbox_id);
        free(c->pod_name);
        free(c->pod_namespace);
        free(c->instance_id);
        free(c->provider);
        strv_free(c->addresses);
        free(c->server_name);
        strv_free(c->tls_cipher_suites);
        strv_free(c->volumes_elsewhere);
        for (size_t i = 0; i < c->n_volumes; i++)
                volume_done(c->volumes + i);
        free(c->volumes);
        *c = PROXY_CONFIG_NULL;
}

static int refuse(char **ret_error, const char *text) {
        *ret_error = strdup(text);
        return -EBADMSG;
}

static int copy_string(json_object *o, const char *key, const char *by_default, char **ret, char **ret_error) {
        const char *s = by_default;
        int r;

        r = json_get_string(o, key, &s, ret_error);
        if (r < 0)
                return r;
        *ret = strdup(strempty(s));
        return *ret ? 0 : -ENOMEM;
}

static int parse_volumes(json_object *o, ProxyConfig *c, char **ret_error) {
        json_object *array = NULL;
        size_t n;
        int r;

        r = json_get_array(o, "volumes", &array, ret_error);
        if (r <= 0)
                return r;

        n = json_object_array_length(array);
        if (n > PROXY_VOLUMES_MAX)
                return refuse(ret_error, "'volumes' has too many entries");
        c->volumes = new0(ProxyVolume, MAX(n, (size_t) 1));
        if (!c->volumes)
                return -ENOMEM;

        for (size_t i = 0; i < n; i++) {
                json_object *v = json_object_array_get_idx(array, i);
                ProxyVolume *volume = c->volumes + i;

                if (!json_object_is_type(v, json_type_object))
                        return refuse(ret_error, "'volumes' has an entry that is not an object");
                c->n_volumes++;
                if ((r = copy_string(v, "path", NULL, &volume->path, ret_error)) < 0 ||
                    (r = copy_string(v, "disk-id", NULL, &volume->disk_id, ret_error)) < 0 ||
                    (r = copy_string(v, "fs-type", "ext4", &volume->fs_type, ret_error)) < 0 ||
                    (r = copy_string(v, "encrypt-type", NULL, &volume->encrypt_type, ret_error)) < 0 ||
                    (r = copy_string(v, "key-id", NULL, &volume->key_id, ret_error)) < 0)
                        return r;
                if (volume->path[0] != '/')
                        return refuse(ret_error, "'volumes' has an entry without an absolute 'path'");
        }

        return 0;
}

int proxy_config_parse(const char *text, size_t size, ProxyConfig *ret, char **ret_error) {
        _cleanup_(proxy_config_done) ProxyConfig c = {
                .tls = true,
                .tls_min_version = TLS_VERSION_1_3,
                .connect_timeout_usec = CONNECT_TIMEOUT_USEC,
                .grace_time_usec = GRACE_TIME_USEC,
        };
        _cleanup_(json_object_putp) json_object *o = NULL;
        uint64_t port = PODVM_FORWARDER_PORT;
        const char *version = NULL;
        int r;

        r = json_parse(text, size, &o, ret_error);
        if (r < 0)
                return r;

        if ((r = copy_string(o, "sandbox-id", NULL, &c.sandbox_id, ret_error)) < 0 ||
            (r = copy_string(o, "pod-name", NULL, &c.pod_name, ret_error)) < 0 ||
            (r = copy_string(o, "pod-namespace", NULL, &c.pod_namespace, ret_error)) < 0 ||
            (r = copy_string(o, "instance-id", NULL, &c.instance_id, ret_error)) < 0 ||
            (r = copy_string(o, "provider", NULL, &c.provider, ret_error)) < 0 ||
            (r = copy_string(o, "server-name", NULL, &c.server_name, ret_error)) < 0 ||
            (r = json_get_strv(o, "addresses", &c.addresses, ret_error)) < 0 ||
            (r = json_get_strv(o, "volumes-elsewhere", &c.volumes_elsewhere, ret_error)) < 0 ||
            (r = json_get_strv(o, "tls-cipher-suites", &c.tls_cipher_suites, ret_error)) < 0 ||
            (r = json_get_u64(o, "port", UINT16_MAX, &port, ret_error)) < 0 ||
            (r = json_get_u64(o, "connect-timeout-usec", INT64_MAX, &c.connect_timeout_usec, ret_error)) < 0 ||
            (r = json_get_u64(o, "grace-time-usec", PROXY_GRACE_TIME_USEC_MAX, &c.grace_time_usec, ret_error)) < 0 ||
            (r = json_get_bool(o, "tls", &c.tls, ret_error)) < 0 ||
            (r = json_get_string(o, "tls-min-version", &version, ret_error)) < 0 ||
            (r = parse_volumes(o, &c, ret_error)) < 0)
                return r;

        if (!isempty(version)) {
                c.tls_min_version = tls_version_from_string(version);
                if (c.tls_min_version < 0)
                        return refuse(ret_error, "'tls-min-version' is neither VersionTLS12 nor VersionTLS13");
        }
        if (strv_length(c.addresses) == 0)
                return refuse(ret_error, "'addresses' is missing or empty");
        if (port == 0)
                return refuse(ret_error, "'port' is 0");
        if (c.tls && isempty(c.server_name))
                return refuse(ret_error, "'server-name' is missing");
        c.port = port;

        *ret = c;
        c = PROXY_CONFIG_NULL;
        return 0;
}
