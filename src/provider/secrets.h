/* SPDX-License-Identifier: Apache-2.0 */
/* Cloud credentials as systemd passes them best: in a file of a directory that is the service's own (systemd.exec(5), LoadCredential=),
 * and so neither in an environment that children inherit nor on a disk in clear. */
#pragma once

#include "provider/peerpod-provider.h"

/* The name, also of the file in /etc/credstore.encrypted; its content is that of /etc/peerpod/peer-pods-secret.env. */
#define SECRETS_CREDENTIAL "peer-pods-secret.env"

/**
 * secrets_load() - put the credential's variables into the environment, in front of what is there; nothing if there is no credential
 * @ret_names: strv of them, for secrets_forget(); the caller frees
 *
 * Returns 0, -ENOMEM, or another negative error; logged. Before there are other threads.
 */
int secrets_load(char ***ret_names);

/* secrets_forget() - out of the environment again, and the module's secret options with them: its children shall not inherit them */
void secrets_forget(char **names, const PeerpodProvider *module);
