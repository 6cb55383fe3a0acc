/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/peerpod.h"

#include <inttypes.h>

#include "basic/log.h"
#include "basic/parse.h"
#include "kube/ctrl/controller.h"
#include "kube/kube-object.h"
#include "kube/peerpod-names.h"
#include "provider/instance-name.h"

#define ID_MAX 511                      /* PeerpodInstance.id */
#define PREFIX_POD_MAX 26               /* of a pod's name: the shortest that upstream cuts it to (IBM Power: 47 in all) */

int peerpod_new(Controller *c, const char *uid, PeerPod **ret) {
        PeerPod *p = new0(PeerPod, 1);

        if (!p)
                return -ENOMEM;
        p->controller = c;
        p->uid = strdup(uid);
        if (!p->uid) {
                free(p);
                return -ENOMEM;
        }
        *ret = p;
        return 0;
}

PeerPod* peerpod_free(PeerPod *p) {
        if (!p)
                return NULL;

        service_call_free(p->call);
        kube_request_free(p->request);
        sd_event_source_disable_unref(p->timer);
        group_leave(&p->owner);
        group_leave(&p->claim_by_id);
        group_leave(&p->claim_by_tag);
        json_object_putp(&p->conditions);
        free(p->ns);
        free(p->name);
        free(p->uid);
        free(p->resource_version);
        free(p->provider_name);
        free(p->instance_id);
        free(p->instance_name);
        free(p->node);
        free(p->sandbox_id);
        free(p->name_prefix);
        free(p->pod_name);
        free(p->pod_uid);
        free(p->told);
        free(p);
        return NULL;
}

/* Returns 1 when it is another value, 0, -ENOMEM. */
static int take(char **to, const char *value) {
        char *copy;

        if (*to && streq(*to, value))
                return 0;
        copy = strdup(value);
        if (!copy)
                return -ENOMEM;
        free(*to);
        *to = copy;
        return 1;
}

/* The pod among the owners: the one that is in control, else the first one. */
static json_object* find_owner(json_object *references) {
        json_object *found = NULL;
        size_t n = json_object_is_type(references, json_type_array) ? json_object_array_length(references) : 0;

        for (size_t i = 0; i < n; i++) {
                json_object *o = json_object_array_get_idx(references, i), *control;

                if (!json_object_is_type(o, json_type_object) || !streq(kube_string_at(o, "kind", NULL), "Pod") ||
                    isempty(kube_string_at(o, "uid", NULL)) || !kube_name_is_valid(kube_string_at(o, "name", NULL)))
                        continue;
                control = kube_object_at(o, "controller", NULL);
                if (control && json_object_is_type(control, json_type_boolean) && json_object_get_boolean(control))
                        return o;
                found = found ?: o;
        }
        return found;
}

/* Upstream names instances "podvm-POD-SANDBOX" (cloud-api-adaptor: src/cloud-providers/util.go, GenerateInstanceName). */
static int make_name_prefix(PeerPod *p) {
        _cleanup_(freep) char *name = NULL;
        size_t n = MIN(strlen(p->pod_name), (size_t) PREFIX_POD_MAX);
        int r;

        if (isempty(p->pod_name))
                return take(&p->name_prefix, "");
        r = instance_name_make(p->pod_name, "00000000", INSTANCE_NAME_MAX, &name);
        if (r < 0)
                return r == -ENOMEM ? r : take(&p->name_prefix, "");
        /* A name that was not cut is followed by the sandbox. */
        name[MIN(strlen("podvm-") + n + (n < PREFIX_POD_MAX ? 1 : 0), strlen(name))] = '\0';
        return take(&p->name_prefix, name);
}

static int join(PeerPod *p, Group **table, Member *m, bool wanted, const char *a, const char *b, const char *c) {
        _cleanup_(freep) char *key = NULL;

        if (!wanted) {
                group_leave(m);
                return 0;
        }
        if (asprintf(&key, "%s\n%s\n%s", a, b, c) < 0)
                return -ENOMEM;
        return group_join(table, key, m, p);
}

static int join_groups(PeerPod *p) {
        Controller *c = p->controller;
        int r;

        r = join(p, &c->owners, &p->owner, !isempty(p->pod_uid), p->ns, p->pod_uid, "");
        if (r >= 0)
                r = join(p, &c->claims, &p->claim_by_id, !isempty(p->instance_id), "id", p->provider_name, p->instance_id);
        if (r >= 0)
                r = join(p, &c->claims, &p->claim_by_tag, peerpod_is_tagged(p), p->provider_name, p->sandbox_id, p->instance_name);
        return r;
}

static uint64_t number_at(json_object *object, const char *key) {
        json_object *o = kube_object_at(object, "spec", key, NULL);
        int64_t n = o && json_object_is_type(o, json_type_int) ? json_object_get_int64(o) : 0;

        return n > 0 ? (uint64_t) n : 0;
}

static bool is_gone(json_object *object) {
        json_object *cleaned = kube_object_at(object, "status", "cleand", NULL);

        return streq(kube_string_at(object, "status", "phase", NULL), PEERPOD_PHASE_GONE) ||
                (cleaned && json_object_is_type(cleaned, json_type_boolean) && json_object_get_boolean(cleaned));
}

int peerpod_read(PeerPod *p, json_object *object) {
        json_object *owner, *conditions = kube_object_at(object, "status", "conditions", NULL);
        bool deleting, has_finalizer, gone = is_gone(object);
        uint64_t attempt = number_at(object, "attempt");
        int changed = 0, r;
        KubeMeta meta;

        r = kube_meta(object, &meta, /* reterr= */ NULL);
        if (r < 0)
                return r;
        deleting = meta.deleting;
        has_finalizer = kube_has_finalizer(&meta, PEERPOD_FINALIZER);
        owner = find_owner(meta.owner_references);

        const struct {
                char **to;
                const char *value;
                bool matters;
        } fields[] = {
                { &p->ns,               meta.ns,                                                true  },
                { &p->name,             meta.name,                                              true  },
                { &p->resource_version, meta.resource_version,                                  false },
                { &p->provider_name,    provider_name_canonical(kube_string_at(object, "spec", "cloudProvider", NULL)), true },
                { &p->instance_id,      kube_string_at(object, "spec", "instanceID", NULL),     true  },
                { &p->instance_name,    kube_string_at(object, "spec", "instanceName", NULL),   true  },
                { &p->node,             kube_string_at(object, "spec", "nodeName", NULL),       true  },
                { &p->sandbox_id,       kube_string_at(object, "spec", "sandboxID", NULL),      true  },
                { &p->pod_name,         owner ? kube_string_at(owner, "name", NULL) : "",       true  },
                { &p->pod_uid,          owner ? kube_string_at(owner, "uid", NULL) : "",        true  },
        };

        FOREACH_ELEMENT(const typeof(fields[0]), f, fields, ELEMENTSOF(fields)) {
                r = take(f->to, f->value);
                if (r < 0)
                        return r;
                changed |= f->matters ? r : 0;
        }
        changed |= p->attempt != attempt || p->deleting != deleting || p->has_finalizer != has_finalizer || p->gone != gone;
        p->attempt = attempt;
        p->has_finalizer = has_finalizer;
        p->gone = gone;
        if (deleting && !p->deleting)
                p->deleting_since_usec = now_usec(CLOCK_MONOTONIC);
        p->deleting = deleting;
        if (kube_time_parse(meta.creation_timestamp, &p->created_usec) < 0)
                p->created_usec = 0;

        json_object_putp(&p->conditions);
        p->conditions = conditions && json_object_is_type(conditions, json_type_array) ? json_object_get(conditions) : NULL;

        r = make_name_prefix(p);
        if (r >= 0)
                r = join_groups(p);
        return r < 0 ? r : changed;
}

bool peerpod_is_tagged(const PeerPod *p) {
        return !isempty(p->sandbox_id) && !isempty(p->instance_name);
}

const char* peerpod_flaw(const PeerPod *p) {
        if (isempty(p->provider_name))
                return "spec.cloudProvider is empty";
        if (!text_is_plain(p->provider_name, 256))
                return "spec.cloudProvider is no name of a provider";
        if (!text_is_plain(p->instance_id, ID_MAX))
                return "spec.instanceID is no instance's id";
        if (!isempty(p->instance_name) && !instance_name_is_valid(p->instance_name))
                return "spec.instanceName is no instance's name";
        if (!isempty(p->sandbox_id) && !sandbox_id_is_valid(p->sandbox_id))
                return "spec.sandboxID is no sandbox's id";
        if (isempty(p->instance_name) != isempty(p->sandbox_id))
                return "only one of spec.instanceName and spec.sandboxID is given";
        if (isempty(p->instance_id) && isempty(p->instance_name))
                return "it names no instance: spec.instanceID and spec.instanceName are empty";
        return NULL;
}

static bool is_older(const PeerPod *a, const PeerPod *b) {
        if (a->attempt > 0 && b->attempt > 0 && a->attempt != b->attempt)
                return a->attempt < b->attempt;
        return a->created_usec < b->created_usec;
}

const PeerPod* peerpod_successor(const PeerPod *p, bool alive) {
        GROUP_FOREACH_OTHER(m, &p->owner)
                if (is_older(p, m->peerpod) && !(alive && m->peerpod->deleting))
                        return m->peerpod;
        return NULL;
}

const PeerPod* peerpod_rival(const PeerPod *p) {
        const Member *claims[] = { &p->claim_by_id, &p->claim_by_tag };

        for (size_t i = 0; i < ELEMENTSOF(claims); i++)
                GROUP_FOREACH_OTHER(m, claims[i])
                        if (!m->peerpod->deleting && m->peerpod->created_usec <= p->created_usec)
                                return m->peerpod;
        return NULL;
}

int peerpod_say(const PeerPod *p, int level, const char *message_id, const char *format, ...) {
        LogContext context = {};
        va_list ap;

        if (level > log_get_max_level())
                return 0;
        (void) log_context_add(&context, "PEERPOD_POD_NAMESPACE", p->ns);
        (void) log_context_add(&context, "PEERPOD_POD_NAME", isempty(p->pod_name) ? NULL : p->pod_name);
        (void) log_context_add(&context, "PEERPOD_SANDBOX_ID", isempty(p->sandbox_id) ? NULL : p->sandbox_id);
        (void) log_context_add(&context, "PEERPOD_INSTANCE_ID", isempty(p->instance_id) ? NULL : p->instance_id);
        (void) log_context_add(&context, "PEERPOD_PROVIDER", isempty(p->provider_name) ? NULL : p->provider_name);
        va_start(ap, format);
        (void) log_internalv(&context, level, message_id, 0, __FILE__, __LINE__, __func__, format, ap);
        va_end(ap);
        log_context_done(&context);
        return 0;
}
