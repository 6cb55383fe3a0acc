/* SPDX-License-Identifier: Apache-2.0 */
/* The role in the pod itself, and so in its VM, beside a copy of the driver: mounts there what kubelet believes to have had mounted on the node,
 * and unmounts it. When the pod ends, it does so of its own accord, as it ends before kubelet asks. */
#include <stdio.h>

#include "basic/log.h"
#include "basic/messages.h"
#include "basic/util.h"
#include "kube/csi/csi-message.h"
#include "kube/csi/secrets.h"
#include "kube/csi/wrapper.h"
#include "kube/kube-object.h"
#include "proto/csi-v1.pb-c.h"
#include "proto/proto.h"

#define NODE "/csi.v1.Node/"
#define DEVICE_PATH "device-path"

static void set_request(Task *t, ProtobufCMessage *m) {
        proto_free(t->request);
        t->request = m;
}

static bool load_request(Task *t, const char *field, const char *text, const ProtobufCMessageDescriptor *type) {
        _cleanup_(freep) char *reason = NULL;
        ProtobufCMessage *m;

        if (message_from_text(type, text, &m, &reason) < 0) {
                task_fail(t, TTRPC_FAILED_PRECONDITION, "%s: %s", field, strempty(reason));
                return false;
        }
        set_request(t, m);
        return true;
}

/* ---- here we are ---- */

static void announce(Task *t) {
        const Settings *s = t->wrapper->settings;
        _cleanup_(json_object_putp) json_object *patch = NULL;
        _cleanup_(freep) char *name = kube_name_make(s->pod_name, /* tail= */ NULL, 63), *ns = kube_name_make(s->pod_namespace, NULL, 63);
        int r;

        r = name && ns ? patch_set(&patch, "spec", "podName", s->pod_name) : -ENOMEM;
        if (r >= 0)
                r = patch_set(&patch, "spec", "podNamespace", s->pod_namespace);
        if (r >= 0)
                r = patch_set_in_metadata(&patch, "labels", "podName", name);
        if (r >= 0)
                r = patch_set_in_metadata(&patch, "labels", "podNamespace", ns);
        if (r >= 0)
                r = patch_set_in_metadata(&patch, "annotations", VOLUME_BOOT_ANNOTATION, t->wrapper->boot_id);
        if (r < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_update(t, TAKE_PTR(patch), VOLUME_VM_RUNNING, task_end_ok);
}

/* kubelet has replaced the pod's sandbox, and so its VM, for which it mounts nothing anew. What has been at the first VM comes to this one when the
 * node has seen that gone. */
static bool is_anothers(const Wrapper *w, const Volume *v) {
        return !isempty(v->boot_id) && !streq(v->boot_id, w->boot_id);
}

static void replace_vm(Task *t) {
        _cleanup_(json_object_putp) json_object *patch = NULL;

        if (patch_set_in_metadata(&patch, "annotations", VOLUME_AGAIN_ANNOTATION, volume_state_to_string(t->volume.state)) < 0) {
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
                return;
        }
        (void) log_full(NULL, LOG_INFO, MSG_VOLUME_MOVED, 0, "Volume '%s' comes when the pod's former VM '%s' is gone.", t->volume.id, t->volume.vm_id);
        task_update(t, TAKE_PTR(patch), VOLUME_NODE_UNSTAGE_CACHED, task_end_ok);
}

/* ---- mounting ---- */

/* The driver gets what it said itself when it attached the disk, instead of what the attacher was told. */
static int use_publish_context(Task *t) {
        _cleanup_(proto_freep) ProtobufCMessage *response = NULL;
        _cleanup_(freep) char *reason = NULL;
        const Csi__V1__ControllerPublishVolumeResponse *m;
        int r;

        (void) message_map_drop(t->request, "publish_context", NULL);
        if (isempty(t->volume.publish_response))
                return 0;
        r = message_from_text(&csi__v1__controller_publish_volume_response__descriptor, t->volume.publish_response, &response, &reason);
        if (r < 0)
                return r;
        m = (const Csi__V1__ControllerPublishVolumeResponse*) response;
        for (size_t i = 0; r >= 0 && i < m->n_publish_context; i++)
                r = message_map_set(t->request, "publish_context", m->publish_context[i]->key, m->publish_context[i]->value);
        if (r >= 0 && !isempty(t->volume.device_path))
                r = message_map_set(t->request, "publish_context", DEVICE_PATH, t->volume.device_path);
        return r;
}

static void on_published(Task *t, const GrpcReply *reply) {
        if (reply->code != TTRPC_OK)
                task_fail(t, reply->code, "NodePublishVolume: %s", reply->text);
        else {
                (void) log_full(NULL, LOG_INFO, MSG_VOLUME_MOVED, 0, "Volume '%s' is mounted on '%s'.", t->volume.id, t->volume.target_path);
                task_update(t, NULL, VOLUME_PUBLISHED, task_end_ok);
        }
}

static void send_publish(Task *t) {
        task_ask_driver(t, NODE "NodePublishVolume", t->request, on_published);
}

static void publish(Task *t) {
        if (!load_request(t, "wrapperNodePublishVolumeReq", t->volume.node_publish_request, &csi__v1__node_publish_volume_request__descriptor))
                return;
        if (use_publish_context(t) < 0)
                task_fail(t, TTRPC_FAILED_PRECONDITION, "wrapperControllerPublishVolumeRes cannot be read.");
        else
                secrets_fetch(t, SECRET_NODE_PUBLISH, send_publish);
}

static void on_staged(Task *t, const GrpcReply *reply) {
        if (reply->code != TTRPC_OK)
                task_fail(t, reply->code, "NodeStageVolume: %s", reply->text);
        else
                task_update(t, NULL, VOLUME_STAGED, publish);
}

static void send_stage(Task *t) {
        task_ask_driver(t, NODE "NodeStageVolume", t->request, on_staged);
}

static void stage(Task *t) {
        if (!load_request(t, "wrapperNodeStageVolumeReq", t->volume.stage_request, &csi__v1__node_stage_volume_request__descriptor))
                return;
        if (use_publish_context(t) < 0)
                task_fail(t, TTRPC_FAILED_PRECONDITION, "wrapperControllerPublishVolumeRes cannot be read.");
        else
                secrets_fetch(t, SECRET_NODE_STAGE, send_stage);
}

/* ---- unmounting ---- */

static void on_unstaged(Task *t, const GrpcReply *reply) {
        if (reply->code != TTRPC_OK && reply->code != TTRPC_NOT_FOUND)
                task_fail(t, reply->code, "NodeUnstageVolume: %s", reply->text);
        else {
                (void) log_full(NULL, LOG_INFO, MSG_VOLUME_MOVED, 0, "Volume '%s' is unmounted.", t->volume.id);
                task_update(t, NULL, VOLUME_UNSTAGED, task_end_ok);
        }
}

static void unstage(Task *t) {
        Csi__V1__NodeUnstageVolumeRequest *request = malloc(sizeof(*request));

        if (!request) {
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
                return;
        }
        csi__v1__node_unstage_volume_request__init(request);
        set_request(t, &request->base);
        if (message_set_string(t->request, "volume_id", t->volume.id) < 0 ||
            message_set_string(t->request, "staging_target_path", kube_string_at(t->object, "spec", "stagingTargetPath", NULL)) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_ask_driver(t, NODE "NodeUnstageVolume", t->request, on_unstaged);
}

static void on_unpublished(Task *t, const GrpcReply *reply) {
        if (reply->code != TTRPC_OK && reply->code != TTRPC_NOT_FOUND)
                task_fail(t, reply->code, "NodeUnpublishVolume: %s", reply->text);
        else if (isempty(t->volume.stage_request))
                task_update(t, NULL, t->volume.state == VOLUME_NODE_UNSTAGE_CACHED ? VOLUME_UNSTAGED : VOLUME_UNPUBLISHED, task_end_ok);
        else if (t->volume.state == VOLUME_NODE_UNSTAGE_CACHED)
                unstage(t);
        else
                task_update(t, NULL, VOLUME_UNPUBLISHED, t->wrapper->leaving ? unstage : task_end_ok);
}

static void unpublish(Task *t) {
        Csi__V1__NodeUnpublishVolumeRequest *request = malloc(sizeof(*request));

        if (!request) {
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
                return;
        }
        csi__v1__node_unpublish_volume_request__init(request);
        set_request(t, &request->base);
        if (message_set_string(t->request, "volume_id", t->volume.id) < 0 ||
            message_set_string(t->request, "target_path", t->volume.target_path) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_ask_driver(t, NODE "NodeUnpublishVolume", t->request, on_unpublished);
}

/* ---- whose turn it is ---- */

static bool wants(const Wrapper *w, const Volume *v) {
        if (!streq(v->pod_uid, w->settings->pod_uid))
                return false;
        if (is_anothers(w, v))
                return !w->leaving && v->state >= VOLUME_NODE_PUBLISH_CACHED && v->state <= VOLUME_PUBLISHED;
        switch (v->state) {
        case VOLUME_NODE_PUBLISH_CACHED:
        case VOLUME_ATTACHED:
        case VOLUME_STAGED:
        case VOLUME_NODE_UNPUBLISH_CACHED:
        case VOLUME_NODE_UNSTAGE_CACHED:
                return !w->leaving || v->state != VOLUME_NODE_PUBLISH_CACHED;
        case VOLUME_PUBLISHED:
                return w->leaving;
        case VOLUME_UNPUBLISHED:
                return w->leaving && volume_may_be_mounted(v);
        default:
                return false;
        }
}

static void advance(Task *t) {
        const Volume *v = &t->volume;

        if (!t->has_volume || !wants(t->wrapper, v))
                task_end_ok(t);
        else if (v->state == VOLUME_NODE_PUBLISH_CACHED || v->state == VOLUME_VM_RUNNING)
                announce(t);
        else if (is_anothers(t->wrapper, v))
                replace_vm(t);
        else if (v->state == VOLUME_UNPUBLISHED)
                unstage(t);
        else if (t->wrapper->leaving || v->state >= VOLUME_NODE_UNPUBLISH_CACHED)
                unpublish(t);
        else if (v->state == VOLUME_ATTACHED && !isempty(v->stage_request))
                stage(t);
        else
                publish(t);
}

static const char *const services[] = { "/csi.v1.Identity", "/csi.v1.Node", NULL };

static const Method methods[] = { {} };

const Role podvm_role = { "podvm", services, methods, wants, advance };
