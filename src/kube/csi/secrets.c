/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/secrets.h"

#include <json-c/json.h>
#include <stdio.h>

#include "basic/log.h"
#include "basic/strv.h"
#include "basic/text.h"
#include "basic/util.h"
#include "kube/csi/csi-message.h"
#include "kube/kube-object.h"

#define TOKENS_KEY "csi.storage.k8s.io/serviceAccount.tokens"

static bool had_secrets(const Volume *v, const char *ref) {
        _cleanup_(strv_freep) char **refs = NULL;

        return strv_split(v->secrets, ",", &refs) >= 0 && strv_contains(refs, ref);
}

/* Tokens of the pod's account, for a driver with tokenRequests. kubelet puts them among the volume's attributes, or among the secrets if the
 * driver asks for that (kubernetes: pkg/volume/csi/csi_mounter.go). No PersistentVolume says where to have them from. */
static void drop_tokens(Task *t) {
        size_t n = message_map_drop(t->request, "volume_context", TOKENS_KEY) + message_map_drop(t->request, "secrets", TOKENS_KEY);

        if (n > 0)
                log_notice("The driver of volume '%s' asks for tokens of the pod's service account: they are not kept, and in the VM it gets none.",
                           t->volume.id);
}

int secrets_strip(Task *t, const char *ref, json_object **patch) {
        _cleanup_(freep) char *refs = NULL;
        const Volume *v = &t->volume;

        drop_tokens(t);
        if (message_map_drop(t->request, "secrets", NULL) > 0)
                t->had_secrets = true;          /* the next time, after a conflict, it has none any more */
        if (!t->had_secrets || had_secrets(v, ref))
                return 0;
        if (asprintf(&refs, "%s%s%s", v->secrets, isempty(v->secrets) ? "" : ",", ref) < 0)
                return -ENOMEM;
        return patch_set_in_metadata(patch, "annotations", VOLUME_SECRETS_ANNOTATION, refs);
}

static int add_secret(Task *t, const char *key, json_object *value) {
        uint8_t *data = NULL;
        size_t size = 0;
        char *text;
        int r;

        if (!json_object_is_type(value, json_type_string))
                return -EBADMSG;
        r = base64_decode_strict(json_object_get_string(value), &data, &size);
        if (r < 0)
                return r == -EINVAL ? -EBADMSG : r;
        text = memchr(data, 0, size) ? NULL : strndup((const char*) data, size);
        (void) erase_free(data, size);
        if (!text)
                return -EBADMSG;
        r = message_map_set(t->request, "secrets", key, text);
        erase_free_stringp(&text);
        return r;
}

static void on_secret(Task *t, json_object *object) {
        json_object *data = kube_object_at(object, "data", NULL);

        if (!json_object_is_type(data, json_type_object)) {
                task_fail(t, TTRPC_UNAVAILABLE, "The secret that '%s' of PersistentVolume '%s' names is not there.", t->secret_ref, t->volume.pv_name);
                return;
        }
        json_object_object_foreach(data, key, value)
                if (add_secret(t, key, value) < 0) {
                        task_fail(t, TTRPC_FAILED_PRECONDITION, "Key '%s' of the secret that '%s' of PersistentVolume '%s' names is no text.", key,
                                  t->secret_ref, t->volume.pv_name);
                        return;
                }
        t->secrets_done(t);
}

static void on_pv(Task *t, json_object *object) {
        const char *name = kube_string_at(object, "spec", "csi", t->secret_ref, "name", NULL);
        const char *ns = kube_string_at(object, "spec", "csi", t->secret_ref, "namespace", NULL);
        _cleanup_(freep) char *path = NULL;

        if (isempty(name) || isempty(ns)) {
                task_fail(t, TTRPC_UNAVAILABLE, "PersistentVolume '%s' names no secret in '%s'.", t->volume.pv_name, t->secret_ref);
                return;
        }
        path = kube_path("v1", ns, "secrets", name, NULL);
        if (!path) {
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
                return;
        }
        task_get(t, path, on_secret);
}

void secrets_fetch(Task *t, const char *ref, TaskStep next) {
        _cleanup_(freep) char *path = NULL;

        t->secret_ref = ref;
        t->secrets_done = next;
        if (!had_secrets(&t->volume, ref)) {
                next(t);
                return;
        }
        if (isempty(t->volume.pv_name)) {
                task_fail(t, TTRPC_UNAVAILABLE, "The volume needs secrets, but its PersistentVolume is not known.");
                return;
        }
        path = kube_path("v1", NULL, "persistentvolumes", t->volume.pv_name, NULL);
        if (!path)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_get(t, path, on_pv);
}
