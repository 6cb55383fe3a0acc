/* SPDX-License-Identifier: Apache-2.0 */
/* A pool's list gives at most so many addresses, each an address; a state is refused, or can be written and read again. */
#include <arpa/inet.h>

#include "basic/strv.h"
#include "basic/util.h"
#include "byom-pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void list(const char *text) {
        _cleanup_(strv_freep) char **l = NULL;
        _cleanup_(freep) char *bad = NULL;
        struct in6_addr a;

        if (pool_parse(text, 64, &l, &bad) < 0)
                return;
        assert(strv_length(l) <= POOL_ADDRESSES_MAX);
        for (char **i = l; i && *i; i++)
                assert(inet_pton(AF_INET, *i, &a) == 1 || inet_pton(AF_INET6, *i, &a) == 1);
}

static void state(const char *text, size_t size) {
        char *addresses[] = { (char*) "10.0.0.1", (char*) "fd00::1", NULL };
        _cleanup_(json_object_putp) json_object *s = NULL, *again = NULL;
        _cleanup_(freep) char *error = NULL;
        const char *written;

        if (state_parse(text, size, &s, &error) < 0)
                return;
        if (!state_has_address(s, "10.0.0.1"))
                assert(state_add(s, "a", "10.0.0.1", "node", "", "name", "sandbox") == 0);
        assert(state_has_address(s, "10.0.0.1"));
        written = state_text(s, addresses);
        assert(written);
        assert(state_parse(written, strlen(written), &again, NULL) == 0);
        assert(state_has_address(again, "10.0.0.1"));
        (void) state_name_owner(again, "name", "other");
        state_drop(again, "a");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(freep) char *text = strndup((const char*) data, size);

        assert(text);
        list(text);
        state((const char*) data, size);
        return 0;
}
