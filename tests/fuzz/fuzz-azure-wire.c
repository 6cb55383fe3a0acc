/* SPDX-License-Identifier: Apache-2.0 */
/* The WireServer's documents; what comes of a goal state can be read again by whoever gets the answer. */
#include "basic/util.h"
#include "podvm/azure-ready/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        GoalState g = {};
        char *version = NULL, *health;
        int r;

        r = wire_parse_versions((const char*) data, size, &version);
        assert(r == 0 ? version && *version && !strpbrk(version, "\r\n") : r == -EBADMSG && !version);
        free(version);

        r = wire_parse_goal_state((const char*) data, size, &g);
        if (r < 0) {
                assert(r == -EBADMSG && !g.incarnation && !g.container_id && !g.instance_id);
                return 0;
        }

        r = wire_format_health(&g, &health);
        assert(r == 0);
        assert(strstr(health, "<State>Ready</State>"));
        free(health);
        goal_state_done(&g);
        return 0;
}
