/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/kube-seen.h"

#include <stdio.h>

#include "basic/hash.h"
#include "basic/util.h"
#include "kube/kube-watch.h"

struct KubeSeenObject {
        UT_hash_handle hh;
        uint32_t round;                 /* of the last list that had it */
        char *version;
        char *name, *uid;               /* within key's memory */
        char key[];                     /* "NAMESPACE/NAME" */
};

void kube_seen_remove(KubeSeen *s, KubeSeenObject *o) {
        if (s->oldest == o)
                s->oldest = o->hh.next;
        HASH_DEL(s->table, o);
        free(o->version);
        free(o);
}

void kube_seen_done(KubeSeen *s) {
        while (s->table)
                kube_seen_remove(s, s->table);
        *s = (KubeSeen) {};
}

size_t kube_seen_count(const KubeSeen *s) {
        return HASH_COUNT(s->table);
}

void kube_seen_begin(KubeSeen *s) {
        s->round++;
        s->oldest = s->table;
}

/* uthash keeps the order in which objects were added, so one walk finds all. */
KubeSeenObject* kube_seen_stale(KubeSeen *s) {
        while (s->oldest && s->oldest->round == s->round)
                s->oldest = s->oldest->hh.next;
        return s->oldest;
}

int kube_seen_find(KubeSeen *s, const KubeMeta *meta, KubeSeenObject **ret) {
        _cleanup_(freep) char *key = NULL;

        *ret = NULL;
        if (asprintf(&key, "%s/%s", meta->ns, meta->name) < 0) {
                key = NULL;
                return -ENOMEM;
        }
        HASH_FIND_STR(s->table, key, *ret);
        return 0;
}

bool kube_seen_is(const KubeSeenObject *o, const KubeMeta *meta) {
        return streq(o->uid, meta->uid);
}

int kube_seen_add(KubeSeen *s, const KubeMeta *meta) {
        size_t ns_size = strlen(meta->ns) + 1, key_size = ns_size + strlen(meta->name) + 1, uid_size = strlen(meta->uid) + 1;
        KubeSeenObject *o;

        if (HASH_COUNT(s->table) >= KUBE_WATCH_OBJECTS_MAX)
                return -E2BIG;
        o = calloc(1, sizeof(KubeSeenObject) + key_size + uid_size);
        if (!o)
                return -ENOMEM;
        (void) snprintf(o->key, key_size, "%s/%s", meta->ns, meta->name);
        o->name = o->key + ns_size;
        o->uid = memcpy(o->key + key_size, meta->uid, uid_size);
        o->round = s->round;
        o->version = strdup(meta->resource_version);
        if (o->version)
                HASH_ADD_STR(s->table, key, o);
        if (!o->version || !hash_added(o)) {
                free(o->version);
                free(o);
                return -ENOMEM;
        }
        return 0;
}

int kube_seen_again(KubeSeen *s, KubeSeenObject *o, const char *version) {
        char *copy;

        o->round = s->round;
        if (streq(o->version, version))
                return 0;
        copy = strdup(version);
        if (!copy)
                return -ENOMEM;
        free(o->version);
        o->version = copy;
        return 1;
}

int kube_seen_describe(const KubeSeenObject *o, json_object **ret) {
        _cleanup_(json_object_putp) json_object *object = NULL;
        _cleanup_(freep) char *ns = strndup(o->key, (size_t) (o->name - 1 - o->key));
        json_object *meta;
        int r;

        object = ns ? kube_object_new(NULL, NULL, *ns ? ns : NULL, o->name) : NULL;
        if (!object)
                return -ENOMEM;
        meta = kube_object_at(object, "metadata", NULL);
        if ((r = json_set_string(meta, "uid", o->uid)) < 0 || (r = json_set_string(meta, "resourceVersion", o->version)) < 0)
                return r;
        *ret = TAKE_PTR(object);
        return 0;
}
