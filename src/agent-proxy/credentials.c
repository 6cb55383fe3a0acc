/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-proxy/credentials.h"

#include "basic/io.h"
#include "basic/main-func.h"
#include "ttrpc/session.h"

#define PEM_SIZE_MAX (256U << 10)

static int read_credential(const LogContext *log, int dir_fd, const char *name, size_t max, char **ret, size_t *ret_size) {
        int r = read_full_file_at(dir_fd, name, max, ret, ret_size);

        if (r < 0)
                (void) log_full(log, LOG_ERR, NULL, r, "Failed to read credential '%s': %m", name);
        return r;
}

int credentials_read_config(int dir_fd, const char *sandbox_id, LogContext *log, ProxyConfig *ret) {
        _cleanup_(proxy_config_done) ProxyConfig c = PROXY_CONFIG_NULL;
        _cleanup_(freep) char *text = NULL, *error = NULL;
        size_t size;
        int r;

        r = log_context_add(log, "PEERPOD_SANDBOX_ID", sandbox_id);
        if (r < 0)
                return log_oom();

        r = read_credential(log, dir_fd, "proxy.json", PROXY_CONFIG_SIZE_MAX, &text, &size);
        if (r < 0)
                return EXIT_CONFIGURATION;
        r = proxy_config_parse(text, size, &c, &error);
        if (r < 0) {
                (void) log_full(log, LOG_ERR, NULL, 0, "Bad proxy.json: %s.", error ?: strerrordesc_np(-r));
                return r == -ENOMEM ? r : EXIT_CONFIGURATION;
        }
        if (!isempty(c.sandbox_id) && !streq(c.sandbox_id, sandbox_id)) {
                (void) log_full(log, LOG_ERR, NULL, 0, "proxy.json is for another sandbox.");
                return EXIT_CONFIGURATION;
        }

        if (log_context_add(log, "PEERPOD_POD_NAME", c.pod_name) < 0 ||
            log_context_add(log, "PEERPOD_POD_NAMESPACE", c.pod_namespace) < 0 ||
            log_context_add(log, "PEERPOD_INSTANCE_ID", c.instance_id) < 0 ||
            log_context_add(log, "PEERPOD_PROVIDER", c.provider) < 0)
                return log_oom();

        *ret = c;
        c = PROXY_CONFIG_NULL;
        return 0;
}

int credentials_read_tls(int dir_fd, const ProxyConfig *config, const LogContext *log, TlsContext **ret) {
        _cleanup_(erase_free_stringp) char *key = NULL;
        _cleanup_(freep) char *cert = NULL, *trust = NULL, *error = NULL;
        TlsSettings settings = {};
        int r;

        if (!config->tls) {
                (void) log_full(log, LOG_WARNING, NULL, 0, "TLS is off: the agent protocol of this sandbox is open to the network.");
                return 0;
        }

        if (read_credential(log, dir_fd, "client.key", PEM_SIZE_MAX, &key, NULL) < 0 ||
            read_credential(log, dir_fd, "client.crt", PEM_SIZE_MAX, &cert, NULL) < 0 ||
            read_credential(log, dir_fd, "server-ca.crt", PEM_SIZE_MAX, &trust, NULL) < 0)
                return EXIT_CONFIGURATION;

        settings = (TlsSettings) {
                .key = key,
                .cert = cert,
                .trust = trust,
                .min_version = config->tls_min_version,
                .cipher_suites = config->tls_cipher_suites,
                .alpn = SESSION_ALPN,
        };
        r = tls_context_new(&settings, ret, &error);
        if (r < 0) {
                (void) log_full(log, LOG_ERR, NULL, 0, "TLS: %s.", error ?: strerrordesc_np(-r));
                return r == -ENOMEM ? r : EXIT_CONFIGURATION;
        }
        return 0;
}
