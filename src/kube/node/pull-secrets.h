/* SPDX-License-Identifier: Apache-2.0 */
/* Image pull secrets, merged to one auth.json (cloud-api-adaptor: pkg/adaptor/k8sops; the formats are docker's config.json and its older
 * .dockercfg).
 *
 * All that goes through here is secret: nothing of it is in a message. */
#pragma once

#include <stddef.h>

#include "basic/cleanup.h"
#include "basic/json.h"

#define PULL_SECRETS_MAX 32U                    /* of one pod and its service account together */
#define PULL_REGISTRIES_MAX 256U
#define AUTH_JSON_SIZE_MAX ((size_t) 64 << 10)  /* clouds end at 64 KiB of user data */

/* pull_secret_names() - names below @list (imagePullSecrets of a pod or a service account; NULL: none), appended to @names. Those that are none are
 * passed over. Returns 0, -E2BIG (more than PULL_SECRETS_MAX), -ENOMEM. */
int pull_secret_names(json_object *list, char ***names);

/**
 * pull_secret_merge() - add what a Secret has; what comes later wins
 * @secret: the object as the API server gave it
 * @auths:  a map of registries
 *
 * Data ".dockerconfigjson" (its "auths"), else ".dockercfg". An entry without "auth" gets it of "username" and "password" if it has both, and is
 * dropped otherwise. Returns the number of registries that were added, -ENOENT (the Secret has neither), -EBADMSG (what it has is no such text),
 * -E2BIG, -ENOMEM; @auths may then have a part of it.
 */
int pull_secret_merge(json_object *secret, json_object *auths);

/* auth_json_format() - {"auths": …}; NULL in *ret if there are none. *ret is a secret. Returns 0, -E2BIG, -ENOMEM. */
int auth_json_format(json_object *auths, char **ret);
