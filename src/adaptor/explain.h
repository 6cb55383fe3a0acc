/* SPDX-License-Identifier: Apache-2.0 */
/* Answers "why": the story of a sandbox that lives, or of one of the last that are gone. */
#pragma once

#include <systemd/sd-bus.h>

#include "adaptor/story.h"

typedef struct Manager Manager;

/**
 * explain_find() - whose story is meant
 * @what: a sandbox id, its unique begin, or NAMESPACE/POD for the newest sandbox of a pod
 * @ret:  borrowed, until the loop turns
 */
int explain_find(Manager *m, const char *what, const Story **ret, sd_bus_error *error);

/* explain_append() - a{sv}, as org.confidentialcontainers.PeerPod1(5) describes it; what is not known is left out */
int explain_append(sd_bus_message *reply, const Story *s);
