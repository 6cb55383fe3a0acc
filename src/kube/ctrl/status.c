/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/status.h"

#include "basic/log.h"
#include "basic/messages.h"
#include "basic/parse.h"
#include "kube/ctrl/controller.h"
#include "kube/kube-event.h"
#include "kube/kube-object.h"
#include "kube/peerpod-names.h"

#define TEXT_MAX 1000           /* of a condition's message */

void status_event(PeerPod *p, const char *type, const char *reason, const char *text) {
        const KubeReference about = {
                .api_version = PEERPOD_API_VERSION,
                .kind = PEERPOD_KIND,
                .ns = p->ns,
                .name = p->name,
                .uid = p->uid,
        };

        kube_event(p->controller->events, &about, type, reason, "Delete", text);
}

bool status_has_flaw(const PeerPod *p) {
        return kube_condition_is(p->conditions, CONDITION_VALID, "False");
}

bool status_tells(const PeerPod *p, const char *type) {
        const char *rest = p->told ? startswith(p->told, type) : NULL;

        return rest && *rest == ' ';
}

static int make_conditions(const PeerPod *p, const Trouble *t, const char *text, json_object **ret) {
        _cleanup_(json_object_putp) json_object *conditions = NULL;
        int r;

        /* Those of others stay; a copy, as ours may turn out to be late. */
        if (p->conditions && json_object_deep_copy(p->conditions, &conditions, NULL) < 0)
                return -ENOMEM;
        r = kube_condition_set(&conditions, t->type, t->over ? "True" : "False", t->reason, text, /* generation= */ 0, now_usec(CLOCK_REALTIME));
        if (r < 0)
                return r;
        *ret = TAKE_PTR(conditions);
        return r;
}

/* {"metadata":{"resourceVersion":…},"status":{"phase":…,"conditions":[…]}}: of just that version, since a list is replaced as a whole */
static int make_patch(const PeerPod *p, json_object *conditions, json_object **ret) {
        _cleanup_(json_object_putp) json_object *patch = json_object_new_object();
        json_object *metadata = json_object_new_object(), *status = json_object_new_object();
        int r;

        r = patch ? json_set(patch, "metadata", metadata) : (json_object_put(metadata), -ENOMEM);
        if (r >= 0)
                r = json_set(patch, "status", status);
        else
                json_object_put(status);
        if (r >= 0)
                r = json_set_string(metadata, "uid", p->uid);
        if (r >= 0)
                r = json_set_string(metadata, "resourceVersion", p->resource_version);
        if (r >= 0 && p->deleting)
                r = json_set_string(status, "phase", PEERPOD_PHASE_DELETING);
        if (r >= 0)
                r = json_set(status, "conditions", json_object_get(conditions));
        if (r < 0)
                return r;
        *ret = TAKE_PTR(patch);
        return 0;
}

int status_tell(PeerPod *p, const Trouble *t, KubeReplyHandler handler, KubeRequest **ret) {
        _cleanup_(json_object_putp) json_object *conditions = NULL, *patch = NULL;
        _cleanup_(freep) char *text = text_make_plain(t->text, TEXT_MAX), *told = NULL, *path = NULL;
        int r;

        if (!text || asprintf(&told, "%s %s %s", t->type, t->reason, text) < 0)
                return -ENOMEM;
        if (p->told && streq(p->told, told))
                return 0;

        if (!streq(t->reason, "PodAlive") && !streq(t->type, CONDITION_VALID))
                peerpod_say(p, LOG_WARNING, MSG_PEERPOD_STUCK, "The instance of PeerPod '%s/%s' is not deleted, trying again: %s", p->ns, p->name, text);
        if (!t->over)
                status_event(p, "Warning", t->reason, text);

        r = make_conditions(p, t, text, &conditions);
        if (r == 0) {                   /* the controller before us has told it */
                free(p->told);
                p->told = TAKE_PTR(told);
                return 0;
        }
        if (r > 0)
                r = make_patch(p, conditions, &patch);
        if (r < 0)
                return r;
        path = kube_path(PEERPOD_API_VERSION, p->ns, PEERPOD_PLURAL, p->name, "status");
        r = path ? kube_patch(p->controller->client, path, KUBE_MERGE_PATCH, patch, handler, p, ret) : -ENOMEM;
        if (r < 0)
                return r;

        free(p->told);
        p->told = t->over ? NULL : TAKE_PTR(told);      /* so that it is told again when it comes back */
        return 1;
}

/* What was not written is written with the next failure. */
void status_told(PeerPod *p, const KubeReply *reply) {
        if (reply->error == 0)
                return;
        log_debug("PeerPod '%s/%s': its status was not written: %s", p->ns, p->name, reply->text);
        free(p->told);
        p->told = NULL;
}
