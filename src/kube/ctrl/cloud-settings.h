/* SPDX-License-Identifier: Apache-2.0 */
/* The clouds' settings and credentials, gathered from where an admin keeps them, and gathered again when they change there.
 *
 * Sources, each winning over the ones before: environment files, and directories with a file for each variable, as a mounted ConfigMap or Secret
 * is, with settings and then with credentials; a ConfigMap and a Secret read from the API server. What does not exist adds nothing, as with
 * upstream's controller. What comes from a source of credentials is a secret, whatever its name. */
#pragma once

#include <systemd/sd-event.h>

#include "kube/ctrl/variables.h"

typedef struct CloudSettings CloudSettings;
typedef struct KubeClient KubeClient;

typedef struct CloudSettingsSpec {
        char *const *paths;             /* files and directories, absolute; borrowed for the call, as all */
        char *const *secret_paths;      /* likewise, of credentials */
        const char *ns;                 /* of the two objects; NULL: they are not read; copied, as the names */
        const char *config_map, *secret;        /* "" or NULL: none */
} CloudSettingsSpec;

/* All sources have been read for the first time, or what they say has changed. */
typedef void (*CloudSettingsHandler)(CloudSettings *c, void *userdata);

/* cloud_settings_new() - files are read here; @handler is called from the loop. Returns 0 or -errno (logged). */
int cloud_settings_new(sd_event *event, KubeClient *client, const CloudSettingsSpec *spec, CloudSettingsHandler handler, void *userdata,
                       CloudSettings **ret);
CloudSettings* cloud_settings_free(CloudSettings *c);
DEFINE_CLEANUP(CloudSettings*, cloud_settings_free);

/* cloud_settings_get() - what is known now; borrowed until the next change */
const Variables* cloud_settings_get(const CloudSettings *c);
/* cloud_settings_get_secrets() - those of them that are secrets, likewise */
const Variables* cloud_settings_get_secrets(const CloudSettings *c);
/* cloud_settings_are_read() - every source has been read once; before that no provider may begin */
bool cloud_settings_are_read(const CloudSettings *c);
