/* SPDX-License-Identifier: Apache-2.0 */
/* What is read can be written, and is the same when it is read again. */
#include "basic/strv.h"
#include "basic/util.h"
#include "userdata/apf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An empty string is not written where the key may be absent. */
static bool same(const char *a, const char *b) {
        return streq(strempty(a), strempty(b));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        ApfConfig c = APF_CONFIG_NULL, again = APF_CONFIG_NULL;
        char *error = NULL, *text;
        size_t n;
        int r;

        r = apf_config_parse(data, size, &c, &error);
        if (r < 0) {
                assert(r == -EBADMSG || r == -E2BIG);
                assert(error);
                free(error);
                return 0;
        }
        assert(!error);

        r = apf_config_format(&c, &text, &n, &error);
        if (r < 0) {
                /* a pod network with a NUL in a string or with NaN, which json-c reads and JSON's users do not */
                assert(r == -EINVAL || r == -E2BIG);
                free(error);
                apf_config_done(&c);
                return 0;
        }

        assert(strlen(text) == n);
        r = apf_config_parse(text, n, &again, NULL);
        assert(r == 0);
        assert(!c.pod_network == !again.pod_network);
        assert(same(c.pod_namespace, again.pod_namespace) && same(c.pod_name, again.pod_name));
        assert(same(c.tls_server_key, again.tls_server_key) && same(c.tls_server_cert, again.tls_server_cert));
        assert(same(c.tls_client_ca, again.tls_client_ca) && same(c.tls_min_version, again.tls_min_version));
        assert(strv_equal(c.tls_cipher_suites, again.tls_cipher_suites));

        erase_free(text, n);
        apf_config_done(&c);
        apf_config_done(&again);
        return 0;
}
