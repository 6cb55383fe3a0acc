/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/webhook/mutate.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>

#include "basic/error-text.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/webhook/pod-size.h"
#include "kube/webhook/webhook.h"

#define ANNOTATIONS_PATH "/metadata/annotations"
#define HYPERVISOR "io.katacontainers.config.hypervisor."
#define MACHINE_TYPE HYPERVISOR "machine_type"
#define WARNING_MAX 256U                        /* the API server cuts longer ones */

/* Kata's own (kata-containers: src/runtime/virtcontainers/pkg/annotations/annotations.go) */
static const struct {
        const char *key;
        Quantity unit;
} annotation_table[_VM_RESOURCE_MAX] = {
        [VM_CPU]    = { HYPERVISOR "default_vcpus",  QUANTITY_ONE },
        [VM_MEMORY] = { HYPERVISOR "default_memory", QUANTITY_MIB },
        [VM_GPU]    = { HYPERVISOR "default_gpus",   QUANTITY_ONE },
};

/* A pod on its way from what it asks for to a patch. */
typedef struct Pod {
        const WebhookSettings *settings;        /* borrowed, as the pod's parts are */
        json_object *annotations, *spec, *containers, *init_containers;         /* NULL: there are none */
        json_object *old;                       /* what an earlier call has kept, or NULL */
        json_object *names;                     /* of containers that have been read, as a set */
        json_object *record;                    /* what is kept now: { "containers": {…}, "pod": {…}, "set": {…} } */
        PodSum sum;
        PodSize requests, limits;               /* of spec.resources */
        char **dropped;
        Mutation result;
} Pod;

static void pod_done(Pod *p) {
        json_object_putp(&p->old);
        json_object_putp(&p->names);
        json_object_putp(&p->record);
        p->dropped = strv_free(p->dropped);
        mutation_done(&p->result);
}

void mutation_done(Mutation *m) {
        json_object_putp(&m->patch);
        m->warnings = strv_free(m->warnings);
        *m = (Mutation) {};
}

static int warn(Pod *p, const char *format, ...) PRINTF(2, 3);
static int warn(Pod *p, const char *format, ...) {
        _cleanup_(freep) char *plain = NULL;
        char text[WARNING_MAX + 1];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        plain = text_make_plain(text, WARNING_MAX);
        return plain ? strv_extend(&p->result.warnings, plain) : -ENOMEM;
}

/* ---- the patch ---- */

/* Takes @value, also on failure; NULL is for "remove". */
static int add_operation(Pod *p, const char *operation, const char *path, json_object *value) {
        _cleanup_(json_object_putp) json_object *owned = value, *o = json_object_new_object();
        int r;

        if (!o)
                return -ENOMEM;
        if (!p->result.patch) {
                p->result.patch = json_object_new_array();
                if (!p->result.patch)
                        return -ENOMEM;
        }
        r = json_set_string(o, "op", operation);
        if (r >= 0)
                r = json_set_string(o, "path", path);
        if (r >= 0 && owned)
                r = json_set(o, "value", TAKE_PTR(owned));
        if (r < 0)
                return r;
        if (json_object_array_add(p->result.patch, o) < 0)
                return -ENOMEM;
        o = NULL;
        return 0;
}

/* An "add" of a member that is there replaces it. */
static int add_new(Pod *p, const char *path, json_object *value) {
        return value ? add_operation(p, "add", path, value) : -ENOMEM;
}

/* @value NULL removes the annotation. @changes has all of a pod that has none yet. */
static int change_annotation(Pod *p, json_object *changes, const char *key, const char *value) {
        char path[sizeof(ANNOTATIONS_PATH) + 80], *q;

        if (!p->annotations)
                return json_set_string(changes, key, value);

        q = stpcpy(path, ANNOTATIONS_PATH "/");
        for (; *key; key++)                     /* ours have no '~', which would have to be escaped, too */
                if (*key == '/')
                        q = stpcpy(q, "~1");
                else
                        *q++ = *key;
        *q = '\0';
        return value ? add_new(p, path, json_object_new_string(value)) : add_operation(p, "remove", path, NULL);
}

/* ---- what is kept for the next call ---- */

static int read_size(json_object *o, PodSize *ret, char **reterr) {
        PodSize size = {};
        const char *text;
        int r;

        for (VmResource i = 0; i < _VM_RESOURCE_MAX; i++) {
                r = json_get_string(o, vm_resource_to_string(i), &text, reterr);
                if (r < 0)
                        return r;
                if (r > 0 && (quantity_parse(text, size.of + i) < 0 || size.of[i] < 0))
                        return error_text(reterr, -EBADMSG, "'%s' is no quantity", vm_resource_to_string(i));
        }

        *ret = size;
        return 0;
}

/* 1 if there was something of that name. */
static int read_kept(Pod *p, const char *list, const char *name, PodSize *ret, char **reterr) {
        json_object *o;
        int r;

        if (!p->old)
                return 0;
        r = json_get_object(p->old, list, &o, reterr);
        if (r > 0)
                r = json_get_object(o, name, &o, reterr);
        if (r <= 0)
                return r;
        r = read_size(o, ret, reterr);
        return r < 0 ? r : 1;
}

static int keep(Pod *p, const char *list, const char *name, const PodSize *size) {
        char text[QUANTITY_TEXT_SIZE];
        json_object *o, *sizes;
        int r;

        if (!json_object_object_get_ex(p->record, list, &o)) {
                o = json_object_new_object();
                r = json_set(p->record, list, o);
                if (r < 0)
                        return r;
        }
        sizes = json_object_new_object();
        r = json_set(o, name, sizes);
        for (VmResource i = 0; r >= 0 && i < _VM_RESOURCE_MAX; i++)
                if (size->of[i] > 0)
                        r = json_set_string(sizes, vm_resource_to_string(i), quantity_format(size->of[i], text));
        return r;
}

static int read_old(Pod *p, char **reterr) {
        _cleanup_(freep) char *problem = NULL;
        const char *text;
        int r;

        if (!p->annotations)
                return 0;
        r = json_get_string(p->annotations, MUTATE_RECORD, &text, &problem);
        if (r > 0)
                r = json_parse(text, strlen(text), &p->old, &problem);
        if (r < 0)
                return error_text(reterr, r == -EBADMSG ? -EINVAL : r,
                                  "metadata.annotations['" MUTATE_RECORD "'] is not what this webhook writes (%s): remove it",
                                  problem ?: "out of memory");
        return 0;
}

/* ---- what the pod asks for ---- */

/* What a container asked for before counts until it asks for something new. */
static int read_container(Pod *p, json_object *container, PodSize *ret, char **reterr) {
        Asked asked = { .dropped = &p->dropped };
        PodSize size = {};
        const char *name;
        int r;

        r = json_get_string(container, "name", &name, reterr);
        if (r == 0)
                return error_text(reterr, -EBADMSG, "it has no name");
        if (r < 0)
                return r;
        /* What is kept goes by name, so that two of one name, which the API server refuses later, would grow with each call. */
        if (json_object_object_get_ex(p->names, name, NULL))
                return error_text(reterr, -EINVAL, "another container has its name, too");
        r = json_set_bool(p->names, name, true);
        if (r < 0)
                return r;
        r = asked_read(p->settings, container, &asked, reterr);
        if (r < 0)
                return r;

        if (asked.anything) {
                size = pod_size_of(&asked);
                r = 1;
        } else
                r = read_kept(p, "containers", name, &size, reterr);
        if (r > 0)
                r = keep(p, "containers", name, &size);
        if (r < 0)
                return r;

        *ret = size;
        return 0;
}

static int read_containers(Pod *p, json_object *list, const char *list_name, bool init, char **reterr) {
        size_t n = list ? json_object_array_length(list) : 0;
        int r;

        for (size_t i = 0; i < n; i++) {
                json_object *container = json_object_array_get_idx(list, i);
                _cleanup_(freep) char *problem = NULL;
                const char *policy = NULL;
                PodSize size;

                if (!json_object_is_type(container, json_type_object))
                        return error_text(reterr, -EBADMSG, "spec.%s[%zu] is no object", list_name, i);
                r = read_container(p, container, &size, &problem);
                if (r >= 0)
                        r = json_get_string(container, "restartPolicy", &policy, &problem);
                if (r < 0)
                        return error_text(reterr, r, "spec.%s[%zu]: %s", list_name, i, problem ?: "out of memory");

                if (!init)
                        pod_sum_add_app(&p->sum, &size);
                else if (streq_ptr(policy, "Always"))
                        pod_sum_add_sidecar(&p->sum, &size);
                else
                        pod_sum_add_init(&p->sum, &size);
        }
        return 0;
}

static int read_pod_level(Pod *p, char **reterr) {
        _cleanup_(freep) char *problem = NULL;
        Asked asked = { .dropped = &p->dropped };
        int r;

        r = asked_read(p->settings, p->spec, &asked, &problem);
        if (r < 0)
                return error_text(reterr, r, "spec: %s", problem ?: "out of memory");
        if (asked.anything) {
                p->requests = asked.requests;
                p->limits = asked.limits;
                r = 1;
        } else {
                int k = read_kept(p, "pod", "limits", &p->limits, reterr);

                r = k < 0 ? k : read_kept(p, "pod", "requests", &p->requests, reterr);
                if (r == 0)
                        r = k;
        }
        if (r > 0)
                r = keep(p, "pod", "requests", &p->requests);
        if (r >= 0 && json_object_object_get_ex(p->record, "pod", NULL))
                r = keep(p, "pod", "limits", &p->limits);
        return r < 0 ? r : 0;
}

/* ---- what it gets ---- */

/* What an earlier call has set; NULL: nothing. */
static int read_ours(Pod *p, VmResource i, const char **ret, char **reterr) {
        json_object *set;
        int r;

        r = p->old ? json_get_object(p->old, "set", &set, reterr) : 0;
        if (r > 0)
                r = json_get_string(set, vm_resource_to_string(i), ret, reterr);
        return r < 0 ? r : 0;
}

/* 1 if the pod's author has a value of their own, which stays. @ret_value: the one that the pod has, NULL: none. */
static int is_authors(Pod *p, VmResource i, const char **ret_value, char **reterr) {
        const char *ours = NULL, *value = NULL;
        int r = 0;

        if (p->annotations)
                r = json_get_string(p->annotations, annotation_table[i].key, &value, reterr);
        if (r >= 0)
                r = read_ours(p, i, &ours, reterr);
        if (r < 0)
                return r;

        *ret_value = value;
        return value && !streq_ptr(ours, value);
}

static int annotate_resource(Pod *p, json_object *changes, json_object *set, VmResource i, Quantity total, char **reterr) {
        const char *key = annotation_table[i].key, *value;
        uint64_t wanted = quantity_ceil(total, annotation_table[i].unit), given;
        char text[sizeof("18446744073709551615")];
        int r;

        r = is_authors(p, i, &value, reterr);
        if (r < 0)
                return r;
        if (r > 0) {
                if (wanted > 0 && (parse_decimal_ceil(value, &given) < 0 || given < wanted))
                        return warn(p, "annotation %s, which this pod comes with, wins over the %" PRIu64 " that its containers ask for",
                                    key, wanted);
                return 0;
        }
        if (wanted == 0)
                return value ? change_annotation(p, changes, key, NULL) : 0;

        (void) snprintf(text, sizeof(text), "%" PRIu64, wanted);
        r = streq_ptr(value, text) ? 0 : change_annotation(p, changes, key, text);
        return r < 0 ? r : json_set_string(set, vm_resource_to_string(i), text);
}

static int annotate_record(Pod *p, json_object *changes) {
        const char *text = NULL, *old = NULL;

        if (json_object_object_length(p->record) > 0) {
                text = json_object_to_json_string_ext(p->record, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE);
                if (!text)
                        return -ENOMEM;
        }
        if (p->old)
                (void) json_get_string(p->annotations, MUTATE_RECORD, &old, NULL);
        return streq_ptr(text, old) ? 0 : change_annotation(p, changes, MUTATE_RECORD, text);
}

static int annotate(Pod *p, char **reterr) {
        _cleanup_(json_object_putp) json_object *changes = json_object_new_object(), *set = json_object_new_object();
        PodSize total = pod_sum_total(&p->sum, &p->requests, &p->limits);
        int r = 0;

        if (!changes || !set)
                return -ENOMEM;
        for (VmResource i = 0; r >= 0 && i < _VM_RESOURCE_MAX; i++)
                r = annotate_resource(p, changes, set, i, total.of[i], reterr);
        if (r >= 0 && json_object_object_length(set) > 0)
                r = json_set(p->record, "set", TAKE_PTR(set));
        if (r >= 0)
                r = annotate_record(p, changes);
        if (r >= 0 && json_object_object_length(changes) > 0)
                r = add_new(p, ANNOTATIONS_PATH, TAKE_PTR(changes));
        return r;
}

static json_object* one_vm(const char *resource) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        const char *const lists[] = { "limits", "requests" };

        for (size_t i = 0; i < ELEMENTSOF(lists); i++) {
                json_object *list = json_object_new_object();

                if (!o || json_set(o, lists[i], list) < 0 || json_set_string(list, resource, "1") < 0)
                        return NULL;
        }
        return TAKE_PTR(o);
}

static int empty_containers(Pod *p, json_object *list, const char *list_name, size_t first) {
        size_t n = list ? json_object_array_length(list) : 0;
        char path[64];
        int r;

        for (size_t i = first; i < n; i++) {
                json_object *resources;

                if (!json_object_object_get_ex(json_object_array_get_idx(list, i), "resources", &resources) || !resources ||
                    json_object_object_length(resources) == 0)
                        continue;
                (void) snprintf(path, sizeof(path), "/spec/%s/%zu/resources", list_name, i);
                r = add_new(p, path, json_object_new_object());
                if (r < 0)
                        return r;
        }
        return 0;
}

static int replace_resources(Pod *p) {
        _cleanup_(json_object_putp) json_object *vm = one_vm(p->settings->vm_resource);
        json_object *resources;
        int r;

        if (!vm)
                return -ENOMEM;
        r = empty_containers(p, p->containers, "containers", 1);
        if (r >= 0)
                r = empty_containers(p, p->init_containers, "initContainers", 0);
        if (r < 0)
                return r;

        if (!json_object_object_get_ex(json_object_array_get_idx(p->containers, 0), "resources", &resources) ||
            !json_object_equal(resources, vm)) {
                r = add_new(p, "/spec/containers/0/resources", TAKE_PTR(vm));
                if (r < 0)
                        return r;
        }
        /* The API server refuses a pod of which spec.resources says less than its containers do. */
        if (json_object_object_get_ex(p->spec, "resources", NULL))
                return add_operation(p, "remove", "/spec/resources", NULL);
        return 0;
}

/* Devices of the node do not reach a pod VM. What no container refers to any more would still be allocated, and bind the pod to the nodes
 * that have it (kubernetes/kubernetes: pkg/scheduler/framework/plugins/dynamicresources). */
static int drop_claims(Pod *p, char **reterr) {
        json_object *claims;
        int r;

        r = json_get_array(p->spec, "resourceClaims", &claims, reterr);
        if (r <= 0 || json_object_array_length(claims) == 0)
                return r;
        r = strv_extend(&p->dropped, "resourceClaims");
        return r < 0 ? r : add_operation(p, "remove", "/spec/resourceClaims", NULL);
}

static int warn_of_dropped(Pod *p) {
        _cleanup_(freep) char *names = NULL;
        int r;

        if (!p->dropped)
                return 0;
        r = strv_join(p->dropped, ", ", &names);
        if (r < 0)
                return r;
        return warn(p, "dropped, as a pod VM is not sized by them: %s", names);
}

static int warn_of_machine_type(Pod *p) {
        if (!p->annotations || !json_object_object_get_ex(p->annotations, MACHINE_TYPE, NULL) ||
            !json_object_object_get_ex(p->record, "containers", NULL))
                return 0;
        return warn(p, "annotation " MACHINE_TYPE " decides on the size of the pod VM, whatever this pod's containers ask for");
}

/* ---- */

static bool is_ours(const WebhookSettings *settings, const char *runtime_class) {
        for (char *const *pattern = settings->runtime_classes; pattern && *pattern; pattern++)
                if (fnmatch(*pattern, runtime_class, 0) == 0)
                        return true;
        return false;
}

/* 1 if it is to be changed. One without containers is refused by the API server, if no other webhook adds some. */
static int read_pod(Pod *p, json_object *pod, char **reterr) {
        const char *runtime_class;
        json_object *metadata;
        int r;

        r = json_get_object(pod, "spec", &p->spec, reterr);
        if (r == 0)
                return error_text(reterr, -EBADMSG, "the pod has no spec");
        if (r < 0)
                return r;
        r = json_get_string(p->spec, "runtimeClassName", &runtime_class, reterr);
        if (r <= 0 || !is_ours(p->settings, runtime_class))
                return r < 0 ? r : 0;

        r = json_get_object(pod, "metadata", &metadata, reterr);
        if (r == 0)
                return error_text(reterr, -EBADMSG, "the pod has no metadata");
        if (r >= 0)
                r = json_get_object(metadata, "annotations", &p->annotations, reterr);
        if (r >= 0)
                r = json_get_array(p->spec, "initContainers", &p->init_containers, reterr);
        if (r >= 0)
                r = json_get_array(p->spec, "containers", &p->containers, reterr);
        return r <= 0 ? r : json_object_array_length(p->containers) > 0;
}

int mutate_pod(const WebhookSettings *settings, json_object *pod, Mutation *ret, char **reterr) {
        _cleanup_(pod_done) Pod p = { .settings = settings };
        int r;

        r = read_pod(&p, pod, reterr);
        if (r <= 0) {
                if (r == 0)
                        *ret = (Mutation) {};
                return r;
        }
        p.record = json_object_new_object();
        p.names = json_object_new_object();
        if (!p.record || !p.names)
                return -ENOMEM;

        r = read_old(&p, reterr);
        if (r >= 0)
                r = read_containers(&p, p.init_containers, "initContainers", /* init= */ true, reterr);
        if (r >= 0)
                r = read_containers(&p, p.containers, "containers", /* init= */ false, reterr);
        if (r >= 0)
                r = read_pod_level(&p, reterr);
        if (r >= 0)
                r = annotate(&p, reterr);
        if (r >= 0)
                r = replace_resources(&p);
        if (r >= 0)
                r = drop_claims(&p, reterr);
        if (r >= 0)
                r = warn_of_dropped(&p);
        if (r >= 0)
                r = warn_of_machine_type(&p);
        if (r < 0)
                return r;

        *ret = p.result;
        p.result = (Mutation) {};
        return 0;
}
