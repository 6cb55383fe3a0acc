/* SPDX-License-Identifier: Apache-2.0 */
/* What peerpod-adaptor says of its sandboxes on the system bus: all of them whenever it comes, and then each change. */
#pragma once

#include <stdbool.h>

#include "basic/cleanup.h"

typedef struct AdaptorWatch AdaptorWatch;
typedef struct Node Node;

/* adaptor_watch_new() - begin; the node's bus is there already, and borrowed. Returns 0 or -errno. */
int adaptor_watch_new(Node *n, AdaptorWatch **ret);
AdaptorWatch* adaptor_watch_free(AdaptorWatch *w);      /* takes NULL */
DEFINE_CLEANUP(AdaptorWatch*, adaptor_watch_free);

/* adaptor_watch_is_synced() - all its sandboxes have been told, so that one that is not known here does not exist */
bool adaptor_watch_is_synced(const AdaptorWatch *w);
