/* SPDX-License-Identifier: Apache-2.0 */
/* proxy.json is either refused with a reason, or has all that the proxy goes by. */
#include "agent-proxy/proxy-config.h"
#include "basic/strv.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(proxy_config_done) ProxyConfig c = PROXY_CONFIG_NULL;
        _cleanup_(freep) char *reason = NULL;
        int r;

        r = proxy_config_parse((const char*) data, size, &c, &reason);
        if (r < 0) {
                assert(r == -EBADMSG);
                assert(reason);
                assert(!c.sandbox_id);
                return 0;
        }

        assert(c.sandbox_id && c.pod_name && c.pod_namespace && c.instance_id && c.provider && c.server_name);
        assert(strv_length(c.addresses) > 0);
        assert(c.port > 0);
        assert(!c.tls || !isempty(c.server_name));
        assert(c.n_volumes <= PROXY_VOLUMES_MAX);
        for (size_t i = 0; i < c.n_volumes; i++)
                assert(c.volumes[i].path[0] == '/' && c.volumes[i].disk_id && c.volumes[i].fs_type && c.volumes[i].encrypt_type &&
                       c.volumes[i].key_id);
        return 0;
}
