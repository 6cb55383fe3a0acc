/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/pod.h"

#include <stdlib.h>
#include <string.h>

#include "basic/util.h"

static Pod* pod_new(const char *pod_namespace, const char *pod_name, size_t *ret_size) {
        size_t namespace_size = strlen(pod_namespace) + 1, name_size = strlen(pod_name) + 1;
        Pod *pod;

        pod = calloc(1, sizeof(Pod) + namespace_size + name_size);
        if (!pod)
                return NULL;
        TAILQ_INIT(&pod->sandboxes);
        LIST_INIT(&pod->waiters);
        memcpy(pod->key, pod_namespace, namespace_size);
        memcpy(pod->key + namespace_size, pod_name, name_size);

        *ret_size = namespace_size + name_size;
        return pod;
}

Pod* pod_find(Pod *table, const char *pod_namespace, const char *pod_name) {
        _cleanup_(freep) Pod *like = NULL;
        Pod *pod;
        size_t size;

        like = pod_new(pod_namespace, pod_name, &size);
        if (!like)
                return NULL;
        HASH_FIND(hh, table, like->key, size, pod);
        return pod;
}

Pod* pod_get(Pod **table, const char *pod_namespace, const char *pod_name) {
        _cleanup_(freep) Pod *new = NULL;
        Pod *pod;
        size_t size;

        new = pod_new(pod_namespace, pod_name, &size);
        if (!new)
                return NULL;
        HASH_FIND(hh, *table, new->key, size, pod);
        if (pod)
                return pod;

        HASH_ADD_KEYPTR(hh, *table, new->key, size, new);
        return hash_added(new) ? TAKE_PTR(new) : NULL;
}

void pod_drop_if_empty(Pod **table, Pod *pod) {
        if (!TAILQ_EMPTY(&pod->sandboxes) || !LIST_EMPTY(&pod->waiters))
                return;

        HASH_DEL(*table, pod);
        free(pod);
}
