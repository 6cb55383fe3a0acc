/* SPDX-License-Identifier: Apache-2.0 */
/* The pod network's JSON: what is read can be written, and read again as the same. */
#include "net/pod-network.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(pod_network_done) PodNetwork n = POD_NETWORK_NULL, again = POD_NETWORK_NULL;
        _cleanup_(json_object_putp) json_object *o = NULL, *written = NULL;
        _cleanup_(freep) char *error = NULL, *text = NULL, *text_again = NULL;
        int r;

        r = json_parse((const char*) data, size, &o, NULL);
        if (r < 0)
                return 0;
        r = pod_network_from_json(o, &n, &error);
        if (r < 0) {
                assert(r != -EBADMSG || error);         /* every refusal says why */
                return 0;
        }

        r = pod_network_to_text(&n, &text);
        assert(r >= 0);
        r = json_parse(text, strlen(text), &written, NULL);
        assert(r >= 0);
        r = pod_network_from_json(written, &again, NULL);
        assert(r >= 0);
        assert(again.n_routes == n.n_routes && again.n_neighbours == n.n_neighbours && again.n_rules == n.n_rules &&
               again.n_addresses4 == n.n_addresses4 && again.n_addresses6 == n.n_addresses6);
        r = pod_network_to_text(&again, &text_again);
        assert(r >= 0 && streq(text, text_again));
        return 0;
}
