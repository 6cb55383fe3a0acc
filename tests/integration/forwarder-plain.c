/* SPDX-License-Identifier: Apache-2.0 */
/* The forwarder as in an image that allows plain TCP. */
#include "podvm/forwarder/plain.h"

bool __wrap_plain_is_allowed(void);
bool __wrap_plain_is_allowed(void) {
        return true;
}
