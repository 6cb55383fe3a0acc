/* SPDX-License-Identifier: Apache-2.0 */
/* What is common to Kubernetes objects as JSON: their paths, metadata, patches, times, conditions. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/json.h"

/**
 * kube_path() - the path of a collection, an object or a subresource, each part escaped
 * @group_version: "v1", "coordination.k8s.io/v1"
 * @ns:            NULL: none, or all namespaces
 * @name:          NULL: the collection
 * @subresource:   "status" …, or NULL
 *
 * Newly allocated; NULL when memory is short.
 */
char* kube_path(const char *group_version, const char *ns, const char *plural, const char *name, const char *subresource);

/* kube_query_add() - append "?key=value" or "&key=value", escaped; a NULL value adds nothing. Returns 0, -ENOMEM (*path unchanged). */
int kube_query_add(char **path, const char *key, const char *value);

/* Borrowed from the object; never NULL, "" for what it does not have. */
typedef struct KubeMeta {
        const char *ns, *name, *uid, *resource_version, *generate_name;
        const char *creation_timestamp;
        bool deleting;                  /* has a deletionTimestamp */
        json_object *labels, *annotations, *finalizers, *owner_references;  /* or NULL */
} KubeMeta;

/* kube_meta() - returns 0; -EBADMSG: it has no metadata with a name, or one of a wrong type, with *reterr (may be NULL) naming the key */
int kube_meta(json_object *object, KubeMeta *ret, char **reterr);

bool kube_has_finalizer(const KubeMeta *meta, const char *finalizer);

/* kube_string_at() - a string below @object, "" if there is none: kube_string_at(o, "spec", "nodeName", NULL). Borrowed. */
const char* kube_string_at(json_object *object, const char *key, ...) __attribute__((sentinel));
/* kube_object_at() - whatever is there, or NULL. Borrowed. */
json_object* kube_object_at(json_object *object, const char *key, ...) __attribute__((sentinel));

/* kube_object_new() - {"apiVersion","kind","metadata":{"name","namespace"}}; @ns NULL: cluster-scoped. NULL when memory is short. */
json_object* kube_object_new(const char *api_version, const char *kind, const char *ns, const char *name);

/* JSON patches (RFC 6902), built step by step; the path is a list of plain keys, escaped here, an index written as text.
 *      json_object *patch = NULL;
 *      r = kube_patch_add_op(&patch, "test", json_object_new_string(uid), "metadata", "uid", NULL);
 * Takes @value (NULL for "remove"), also on failure. Returns 0, -ENOMEM; *patch stays the caller's in any case. */
int kube_patch_add_op(json_object **patch, const char *op, json_object *value, const char *key, ...) __attribute__((sentinel));

/**
 * kube_patch_remove_finalizer() - a patch that removes just one finalizer, guarded by the object's uid and by what stands at that place
 *
 * A 422 for it means that the list has changed: read the object again and make a new one. Returns 1, 0 (the object has no such finalizer; *ret
 * untouched), -EBADMSG (no object), -ENOMEM.
 */
int kube_patch_remove_finalizer(json_object *object, const char *finalizer, json_object **ret);

/* kube_delete_options() - DeleteOptions with the preconditions that are not NULL, background propagation. Returns 0, -ENOMEM. */
int kube_delete_options(const char *uid, const char *resource_version, json_object **ret);

/* Times as RFC 3339 in UTC: metav1.Time has seconds, metav1.MicroTime exactly six digits. */
#define KUBE_TIME_SIZE sizeof("2026-08-03T14:17:51.000000Z")
void kube_time_format(uint64_t realtime_usec, char ret[static KUBE_TIME_SIZE]);
void kube_micro_time_format(uint64_t realtime_usec, char ret[static KUBE_TIME_SIZE]);
/* kube_time_parse() - returns 0, -EINVAL. Takes any fraction and offset. */
int kube_time_parse(const char *s, uint64_t *ret_usec);

/**
 * kube_condition_set() - set one entry of a list of conditions (metav1.Condition), which is made if *conditions is NULL
 * @status: "True", "False", "Unknown"
 * @generation: observedGeneration, 0: none
 *
 * lastTransitionTime changes only with the status. Returns 1 when anything has changed, 0 when it was so already, -ENOMEM.
 */
int kube_condition_set(json_object **conditions, const char *type, const char *status, const char *reason, const char *message, int64_t generation,
                       uint64_t now_realtime_usec);
/* kube_condition_is() - has the list a condition of that type and status? */
bool kube_condition_is(json_object *conditions, const char *type, const char *status);

/**
 * kube_name_make() - a name that an API server takes (DNS-1123 subdomain), the same for the same input
 * @base: what it should begin with, as far as it fits; characters that a name cannot have become "-"
 * @tail: what it ends with, such as "resource-x7k2p", or NULL
 * @max:  bytes: 253 for objects, 63 for labels
 *
 * What was changed or cut is followed by "-" and the first 10 hexadecimal digits of the SHA-256 of @base, so that two do not become one. Newly
 * allocated; NULL when memory is short.
 */
char* kube_name_make(const char *base, const char *tail, size_t max);
/* kube_name_is_valid() - a DNS-1123 subdomain of at most 253 bytes */
bool kube_name_is_valid(const char *name);
