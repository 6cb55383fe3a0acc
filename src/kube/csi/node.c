/* SPDX-License-Identifier: Apache-2.0 */
/* The role beside kubelet: tells it that a peer pod's volume is mounted when there is only an empty directory, so that the pod's VM gets started;
 * finds out which instance that is; and sees it gone. */
#include <stdio.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/util.h"
#include "kube/csi/csi-message.h"
#include "kube/csi/direct-record.h"
#include "kube/csi/secrets.h"
#include "kube/csi/vm.h"
#include "kube/csi/wrapper.h"
#include "kube/kube-object.h"
#include "proto/csi-v1.pb-c.h"
#include "proto/proto.h"

#define DIRECTORY_MODE 0755

static void begin(Wrapper *w, GrpcCall *call, ProtobufCMessage *request, TaskStep start) {
        _cleanup_(freep) char *name = NULL;
        const char *id = message_get_string(request, "volume_id");

        name = isempty(id) ? NULL : volume_object_name(id);
        if (!name) {
                proto_free(request);
                grpc_call_reply(call, isempty(id) ? TTRPC_INVALID_ARGUMENT : TTRPC_RESOURCE_EXHAUSTED,
                                isempty(id) ? "The request names no volume." : "Out of memory.", NULL, NULL, 0);
                return;
        }
        task_begin(w, name, call, request, start);
}

/* Not a peer pod's: the driver's. */
static bool is_ours(Task *t) {
        if (!t->has_volume) {
                task_pass(t);
                return false;
        }
        if (!streq(t->volume.id, message_get_string(t->request, "volume_id"))) {
                task_fail(t, TTRPC_FAILED_PRECONDITION, "PeerpodVolume '%s' is that of another volume, '%s'.", t->volume.name, t->volume.id);
                return false;
        }
        return true;
}

/* A path of kubelet's, for a directory that we make or remove as root. */
static bool check_path(Task *t, const char *field, const char **ret) {
        const char *path = message_get_string(t->request, field);

        if (path[0] != '/' || strlen(path) >= PATH_MAX || strstr(path, "/../")) {
                task_fail(t, TTRPC_INVALID_ARGUMENT, "'%s' is no absolute path.", field);
                return false;
        }
        *ret = path;
        return true;
}

static bool make_directory(Task *t, const char *path) {
        int r = mkdir_p(path, DIRECTORY_MODE);

        if (r < 0)
                task_fail(t, TTRPC_INTERNAL, "Failed to make directory '%s': %s", path, strerror(-r));
        return r >= 0;
}

/* Only what we have made: an empty directory. */
static bool remove_directory(Task *t, const char *path) {
        if (rmdir(path) >= 0 || errno == ENOENT)
                return true;
        task_fail(t, TTRPC_INTERNAL, "Failed to remove directory '%s': %s", path, strerror(errno));
        return false;
}

/* ---- NodeStageVolume ---- */

static int make_stage_patch(Task *t, const char *path, json_object **patch) {
        const char *node = t->wrapper->settings->node_name;
        _cleanup_(freep) char *text = NULL, *label = kube_name_make(node, /* tail= */ NULL, 63);
        int r;

        if (!label)
                return -ENOMEM;
        (void) message_map_drop(t->request, "volume_context", CSI_PEERPOD_KEY);
        r = secrets_strip(t, SECRET_NODE_STAGE, patch);
        if (r >= 0)
                r = message_to_text(t->request, &text);
        if (r >= 0)
                r = patch_set(patch, "spec", "wrapperNodeStageVolumeReq", text);
        if (r >= 0)
                r = patch_set(patch, "spec", "stagingTargetPath", path);
        if (r >= 0)
                r = patch_set(patch, "spec", "nodeName", node);
        if (r >= 0)
                r = patch_set_in_metadata(patch, "labels", "podNodeName", label);
        return r;
}

static bool is_free(Task *t) {
        const Volume *v = &t->volume;

        if (v->state == VOLUME_NEW)
                task_fail(t, TTRPC_FAILED_PRECONDITION, "The controller has not published the volume.");
        else if (v->state >= VOLUME_NODE_STAGE_CACHED && v->state < VOLUME_DETACHED && !streq(v->node_name, t->wrapper->settings->node_name))
                task_fail(t, TTRPC_FAILED_PRECONDITION, "The volume is at node '%s'.", v->node_name);
        else if (v->state >= VOLUME_NODE_UNPUBLISH_CACHED && v->state < VOLUME_DETACHED)
                task_fail(t, TTRPC_ABORTED, "The volume is being taken from VM '%s' (state %s).", v->vm_id, volume_state_to_string(v->state));
        else
                return true;
        return false;
}

static void stage_start(Task *t) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        const char *path;

        if (!is_ours(t) || !is_free(t) || !check_path(t, "staging_target_path", &path) || !make_directory(t, path))
                return;
        if (t->volume.state >= VOLUME_NODE_STAGE_CACHED && t->volume.state != VOLUME_DETACHED)
                task_end_ok(t);
        else if (make_stage_patch(t, path, &patch) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_update(t, TAKE_PTR(patch), VOLUME_NODE_STAGE_CACHED, task_end_ok);
}

static void stage(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        begin(w, call, request, stage_start);
}

/* ---- NodePublishVolume ---- */

typedef struct Target {
        char *pod_uid, *pv_name;
} Target;

static void target_done(Target *target) {
        free(target->pod_uid);
        free(target->pv_name);
}

static int make_publish_patch(Task *t, const char *path, const Target *target, json_object **patch) {
        const char *pod = message_map_get(t->request, "volume_context", "csi.storage.k8s.io/pod.name");
        const char *ns = message_map_get(t->request, "volume_context", "csi.storage.k8s.io/pod.namespace");
        const char *node = t->wrapper->settings->node_name;
        _cleanup_(freep) char *text = NULL, *label = kube_name_make(node, /* tail= */ NULL, 63);
        int r;

        if (!label)
                return -ENOMEM;
        r = patch_set(patch, "spec", "podUid", target->pod_uid);
        if (r >= 0 && pod && ns) {              /* a driver with podInfoOnMount */
                r = patch_set(patch, "spec", "podName", pod);
                if (r >= 0)
                        r = patch_set(patch, "spec", "podNamespace", ns);
        }
        (void) message_map_drop(t->request, "volume_context", CSI_PEERPOD_KEY);
        if (r >= 0)
                r = secrets_strip(t, SECRET_NODE_PUBLISH, patch);
        if (r >= 0)
                r = message_to_text(t->request, &text);
        if (r >= 0)
                r = patch_set(patch, "spec", "wrapperNodePublishVolumeReq", text);
        if (r >= 0)
                r = patch_set(patch, "spec", "wrapperNodeUnpublishVolumeReq", NULL);
        if (r >= 0)
                r = patch_set(patch, "spec", "targetPath", path);
        if (r >= 0)
                r = patch_set(patch, "spec", "nodeName", node);
        if (r >= 0)
                r = patch_set(patch, "spec", "volumeName", target->pv_name);
        if (r >= 0)
                r = patch_set_in_metadata(patch, "labels", "podUid", target->pod_uid);
        if (r >= 0)
                r = patch_set_in_metadata(patch, "labels", "podNodeName", label);
        return r;
}

/* Another pod of this node waits for a volume that kubelet keeps staged for it, so it will never ask to unstage it: that is done first. */
static bool was_another_pods(Task *t) {
        if (t->volume.state != VOLUME_NODE_UNPUBLISH_CACHED && t->volume.state != VOLUME_UNPUBLISHED)
                return false;
        task_update(t, NULL, volume_may_be_attached(&t->volume) ? VOLUME_NODE_UNSTAGE_CACHED : VOLUME_DETACHED, t->start);
        return true;
}

static void publish_start(Task *t) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        _cleanup_(target_done) Target target = {};
        const Volume *v = &t->volume;
        const char *path;
        int r;

        if (!is_ours(t) || was_another_pods(t) || !is_free(t) || !check_path(t, "target_path", &path))
                return;
        if (volume_path_parse(path, &target.pod_uid, &target.pv_name) < 0) {
                task_fail(t, TTRPC_INVALID_ARGUMENT, "target_path '%s' is none of a pod's volume.", path);
                return;
        }
        if (!isempty(v->pv_name) && !streq(v->pv_name, target.pv_name)) {
                task_fail(t, TTRPC_INVALID_ARGUMENT, "target_path is that of PersistentVolume '%s', the volume's is '%s'.", target.pv_name, v->pv_name);
                return;
        }
        if (v->state != VOLUME_DETACHED && !isempty(v->target_path) && !streq(v->target_path, path)) {
                task_fail(t, TTRPC_FAILED_PRECONDITION, "The volume is mounted in pod '%s'; a peer pod's volume can be in one only.", v->pod_uid);
                return;
        }

        if (!make_directory(t, path))
                return;
        r = direct_record_write(t->wrapper->settings->records_dir, path);
        if (r < 0)
                task_fail(t, TTRPC_INTERNAL, "Failed to write the record of '%s' for Kata below '%s': %s", path, t->wrapper->settings->records_dir,
                          r == -ENAMETOOLONG ? "a path may have no more than 189 bytes" : strerror(-r));
        else if (v->state >= VOLUME_NODE_PUBLISH_CACHED && v->state != VOLUME_DETACHED)
                task_end_ok(t);
        else if (make_publish_patch(t, path, &target, &patch) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_update(t, TAKE_PTR(patch), VOLUME_NODE_PUBLISH_CACHED, task_end_ok);
}

static void publish(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        begin(w, call, request, publish_start);
}

/* ---- NodeUnpublishVolume, NodeUnstageVolume ---- */

static void note_request(Task *t, const char *field, VolumeState state) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        _cleanup_(freep) char *text = NULL;

        if (message_to_text(t->request, &text) < 0 || patch_set(&patch, "spec", field, text) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_update(t, TAKE_PTR(patch), state, task_end_ok);
}

static void unpublish_start(Task *t) {
        const Volume *v = &t->volume;
        const char *path;
        int r;

        if (!is_ours(t) || !check_path(t, "target_path", &path))
                return;
        r = direct_record_remove(t->wrapper->settings->records_dir, path);
        if (r < 0) {
                task_fail(t, TTRPC_INTERNAL, "Failed to remove the record of '%s' below '%s': %s", path, t->wrapper->settings->records_dir, strerror(-r));
                return;
        }
        if (!remove_directory(t, path))
                return;

        /* It is on its way to another VM of a pod that ends now. */
        if (!isempty(v->again) && v->state > VOLUME_PUBLISHED && v->state < VOLUME_DETACHED && streq(v->target_path, path))
                note_request(t, "wrapperNodeUnpublishVolumeReq", v->state);
        /* Done already, or never begun; or the path of a pod that was refused. */
        else if (v->state < VOLUME_NODE_PUBLISH_CACHED || v->state > VOLUME_PUBLISHED || !streq(v->target_path, path))
                task_end_ok(t);
        else if (volume_may_be_attached(v))
                note_request(t, "wrapperNodeUnpublishVolumeReq", VOLUME_NODE_UNPUBLISH_CACHED);
        else
                note_request(t, "wrapperNodeUnpublishVolumeReq", isempty(v->stage_request) ? VOLUME_DETACHED : VOLUME_UNPUBLISHED);
}

static void unpublish(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        begin(w, call, request, unpublish_start);
}

static void unstage_start(Task *t) {
        const Volume *v = &t->volume;
        const char *path;

        if (!is_ours(t) || !check_path(t, "staging_target_path", &path) || !remove_directory(t, path))
                return;
        if (v->state < VOLUME_NODE_STAGE_CACHED || v->state >= VOLUME_NODE_UNSTAGE_CACHED)
                task_end_ok(t);
        else
                note_request(t, "wrapperNodeUnstageVolumeReq", volume_may_be_attached(v) ? VOLUME_NODE_UNSTAGE_CACHED : VOLUME_DETACHED);
}

static void unstage(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        begin(w, call, request, unstage_start);
}

/* ---- NodeGetVolumeStats, NodeExpandVolume ---- */

/* The driver of the node would measure, or grow, the file system in which our empty directory is. A volume that cannot be expanded where it is
 * in use is FAILED_PRECONDITION by CSI; with that, kubelet mounts it all the same and leaves the rest to the next staging
 * (kubernetes: pkg/volume/csi/expander.go). */
#define NOT_HERE "The volume is for a pod VM and not mounted on this node."

/* By the record alone, and not by the API server, as kubelet asks about each volume each minute. */
static void get_stats(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        const char *path = message_get_string(request, "volume_path");
        bool ours = path[0] == '/' && direct_record_is_ours(w->settings->records_dir, path);

        proto_free(request);
        if (ours)
                grpc_call_reply(call, TTRPC_FAILED_PRECONDITION, NOT_HERE, NULL, NULL, 0);
        else
                task_begin_unnamed(w, call, /* request= */ NULL, task_pass);
}

/* By the object: kubelet asks before there is a target path, too. */
static void expand_start(Task *t) {
        if (is_ours(t))
                task_fail(t, TTRPC_FAILED_PRECONDITION, NOT_HERE);
}

static void expand(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        begin(w, call, request, expand_start);
}

/* ---- the VM comes, the VM goes ---- */

static void on_found(Task *t, const char *vm_id, const char *reason) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        _cleanup_(freep) char *label = NULL;
        int r;

        if (!vm_id) {
                task_fail(t, TTRPC_UNAVAILABLE, "VM of pod '%s/%s': %s", t->volume.pod_namespace, t->volume.pod_name, reason);
                return;
        }
        label = kube_name_make(strrchr(vm_id, '/') ? strrchr(vm_id, '/') + 1 : vm_id, /* tail= */ NULL, 63);
        r = label ? patch_set(&patch, "spec", "vmID", vm_id) : -ENOMEM;
        if (r >= 0)
                r = patch_set_in_metadata(&patch, "labels", "vmID", label);
        if (r < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_update(t, TAKE_PTR(patch), VOLUME_VM_KNOWN, task_end_ok);
}

/* The VM that had announced itself was replaced before its instance was asked for, so that the volume is at the VM that waits for it. */
static bool may_be_there(const Volume *v) {
        VolumeState found = isempty(v->again) ? _VOLUME_STATE_INVALID : volume_state_from_string(v->again);

        return found == VOLUME_VM_KNOWN || found == VOLUME_ATTACHED;    /* else the other one has mounted it */
}

static void fail_still_there(Task *t) {
        task_fail(t, TTRPC_UNAVAILABLE, "VM '%s' of pod '%s/%s' is still there.", t->volume.vm_id, t->volume.pod_namespace, t->volume.pod_name);
}

static void on_found_again(Task *t, const char *vm_id, const char *reason) {
        if (vm_id && streq(vm_id, t->volume.vm_id))
                task_update(t, NULL, VOLUME_UNSTAGED, task_end_ok);
        else
                fail_still_there(t);
}

static void on_looked(Task *t, int exists, const char *reason) {
        if (exists < 0)
                task_fail(t, TTRPC_UNAVAILABLE, "VM '%s' of pod '%s/%s': %s", t->volume.vm_id, t->volume.pod_namespace, t->volume.pod_name, reason);
        else if (exists && may_be_there(&t->volume))
                vm_find(t, t->volume.pod_namespace, t->volume.pod_name, on_found_again);
        else if (exists)
                fail_still_there(t);
        else {
                (void) log_full(NULL, LOG_INFO, MSG_VOLUME_MOVED, 0, "VM '%s' of volume '%s' is gone.", t->volume.vm_id, t->volume.id);
                task_update(t, NULL, t->volume.state == VOLUME_NODE_UNPUBLISH_CACHED ? VOLUME_UNPUBLISHED : VOLUME_UNSTAGED, task_end_ok);
        }
}

static bool wants(const Wrapper *w, const Volume *v) {
        return streq(v->node_name, w->settings->node_name) && !isempty(v->pod_name) &&
                (v->state == VOLUME_VM_RUNNING || v->state == VOLUME_NODE_UNPUBLISH_CACHED || v->state == VOLUME_NODE_UNSTAGE_CACHED);
}

static void advance(Task *t) {
        if (!t->has_volume || !wants(t->wrapper, &t->volume))
                task_end_ok(t);
        else if (t->volume.state == VOLUME_VM_RUNNING)
                vm_find(t, t->volume.pod_namespace, t->volume.pod_name, on_found);
        else
                vm_look(t, t->volume.vm_id, on_looked);
}

static const char *const services[] = { "/csi.v1.Identity", "/csi.v1.Node", NULL };

#define NODE "/csi.v1.Node/"

static const Method methods[] = {
        { NODE "NodeStageVolume", &csi__v1__node_stage_volume_request__descriptor, stage },
        { NODE "NodePublishVolume", &csi__v1__node_publish_volume_request__descriptor, publish },
        { NODE "NodeUnpublishVolume", &csi__v1__node_unpublish_volume_request__descriptor, unpublish },
        { NODE "NodeUnstageVolume", &csi__v1__node_unstage_volume_request__descriptor, unstage },
        { NODE "NodeGetVolumeStats", &csi__v1__node_get_volume_stats_request__descriptor, get_stats },
        { NODE "NodeExpandVolume", &csi__v1__node_expand_volume_request__descriptor, expand },
        {}
};

const Role node_role = { "node", services, methods, wants, advance };
