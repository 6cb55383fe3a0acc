/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/forwarder/plain.h"

#include <unistd.h>

bool plain_is_allowed(void) {
        return access(PLAIN_MARKER, F_OK) >= 0;
}
