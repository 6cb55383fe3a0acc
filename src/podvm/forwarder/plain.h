/* SPDX-License-Identifier: Apache-2.0 */
/* Whether this image may do without TLS. */
#pragma once

#include <stdbool.h>

/* A file of the sealed root file system, which production images do not have: neither the worker, nor user data, nor what is in /etc or /run can
 * make it. */
#define PLAIN_MARKER PKGLIBEXECDIR "/allow-disable-tls"

bool plain_is_allowed(void);
