/* SPDX-License-Identifier: Apache-2.0 */
/* A kubeconfig is refused with its name, or gives a server that credentials may be sent to and credentials that fit into a header. */
#include "basic/util.h"
#include "kube/kube-config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_plain(const char *s) {
        for (; s && *s; s++)
                assert((unsigned char) *s >= ' ' && *s != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(kube_config_freep) KubeConfig *c = NULL;
        _cleanup_(freep) char *why = NULL;
        int r;

        r = kube_config_parse((const char*) data, size, "FILE", "/DIRECTORY", &c, &why);
        if (r < 0) {
                assert(r == -EBADMSG || r == -EINVAL);
                assert(!c && why && strstr(why, "FILE"));
                return 0;
        }
        assert(!why);
        assert(startswith(c->server, "https://") || startswith(c->server, "http://"));
        check_plain(c->server);
        check_plain(c->token);
        check_plain(c->username);
        check_plain(c->password);
        assert(!c->token || !strchr(c->token, ' '));
        assert(!!(c->cert_data ?: c->cert_file) == !!(c->key_data ?: c->key_file));
        assert(!c->ca_file || c->ca_file[0] == '/');
        assert(!c->token_file || c->token_file[0] == '/');
        assert(!c->insecure || (!c->ca_file && !c->ca_data));
        return 0;
}
