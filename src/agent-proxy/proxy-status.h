/* SPDX-License-Identifier: Apache-2.0 */
/* What peerpod-agent-proxy says of itself when all is well: for people, and for the adaptor, which learns from it whether a shim is
 * there at all. */
#pragma once

#include <stdbool.h>
#include <string.h>

#define PROXY_STATUS_CONNECTED "Connected to the pod VM. Clients: "     /* and their number; then nothing, or ";" and more */

/* proxy_status_has_no_client() - does this status say so for certain */
static inline bool proxy_status_has_no_client(const char *status) {
        const size_t n = strlen(PROXY_STATUS_CONNECTED "0");

        return strncmp(status, PROXY_STATUS_CONNECTED "0", n) == 0 && (status[n] == '\0' || status[n] == ';');
}
