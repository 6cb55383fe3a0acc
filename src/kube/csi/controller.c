/* SPDX-License-Identifier: Apache-2.0 */
/* The role beside the CSI sidecars: tells the attacher that a peer pod's volume is attached when nothing is, and attaches it when there is a VM.
 *
 * Detaching a disk that is mounted loses data. So it waits until the wrapper in the VM has said that it is unmounted, or the one on the node that
 * there is no VM any more; until then the attacher gets ABORTED, and asks again. */
#include <stdio.h>

#include "basic/log.h"
#include "basic/messages.h"
#include "basic/util.h"
#include "kube/csi/csi-message.h"
#include "kube/csi/secrets.h"
#include "kube/csi/wrapper.h"
#include "kube/kube-object.h"
#include "kube/peerpod-names.h"
#include "proto/csi-v1.pb-c.h"
#include "proto/proto.h"

#define CONTROLLER "/csi.v1.Controller/"
#define DEVICE_PATH "device-path"

static void begin(Wrapper *w, const char *volume_id, GrpcCall *call, ProtobufCMessage *request, TaskStep start) {
        _cleanup_(freep) char *name = NULL;

        if (isempty(volume_id)) {
                proto_free(request);
                grpc_call_reply(call, TTRPC_INVALID_ARGUMENT, "The request names no volume.", NULL, NULL, 0);
                return;
        }
        name = volume_object_name(volume_id);
        if (!name) {
                proto_free(request);
                grpc_call_reply(call, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.", NULL, NULL, 0);
                return;
        }
        task_begin(w, name, call, request, start);
}

/* Two ids whose objects would be one are no matter of chance, but of somebody who wants it. */
static bool is_the_volume(Task *t) {
        if (!t->has_volume || streq(t->volume.id, message_get_string(t->request, "volume_id")))
                return true;
        task_fail(t, TTRPC_FAILED_PRECONDITION, "PeerpodVolume '%s' is that of another volume, '%s'.", t->volume.name, t->volume.id);
        return false;
}

static json_object* new_object(Wrapper *w, const char *volume_id, const char *pv_name) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *name = volume_object_name(volume_id), *label = kube_name_make(pv_name, /* tail= */ NULL, 63);

        if (name && label)
                o = kube_object_new(PEERPOD_API_VERSION, PEERPOD_VOLUME_KIND, w->settings->namespace, name);
        if (!o || patch_set(&o, "spec", "volumeID", volume_id) < 0 || patch_set(&o, "spec", "volumeName", pv_name) < 0 ||
            patch_set_in_metadata(&o, "labels", "volumeName", label) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static void make_object(Task *t, const char *volume_id, const char *pv_name, TaskStep next) {
        json_object *o = new_object(t->wrapper, volume_id, pv_name);

        if (!o)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_create(t, o, next);
}

/* ---- CreateVolume, DeleteVolume ---- */

/* The driver's answer waits in t->request, whose place it has taken, until the object is there. */
static void end_created(Task *t) {
        uint8_t *data = NULL;
        size_t size = 0;

        if (message_pack(t->request, &data, &size) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_end(t, TTRPC_OK, NULL, data, size);
        free(data);
}

/* UNAVAILABLE, should the object not come about, has the provisioner ask again or delete the volume: it is never lost sight of. */
static void on_created(Task *t, const GrpcReply *reply) {
        _cleanup_(freep) char *pv_name = NULL;
        const Csi__V1__CreateVolumeResponse *response;
        ProtobufCMessage *m;

        if (reply->code != TTRPC_OK) {
                task_end_like(t, reply);
                return;
        }
        if (proto_unpack(&csi__v1__create_volume_response__descriptor, reply->data, reply->size, &m) < 0) {
                task_fail(t, TTRPC_INTERNAL, "The driver's answer to CreateVolume cannot be read.");
                return;
        }
        pv_name = strdup(message_get_string(t->request, "name"));
        proto_free(t->request);
        t->request = m;
        response = (const Csi__V1__CreateVolumeResponse*) m;
        if (!pv_name || !response->volume || isempty(response->volume->volume_id))
                task_fail(t, TTRPC_INTERNAL, "The driver's answer to CreateVolume names no volume.");
        else
                make_object(t, response->volume->volume_id, pv_name, end_created);
}

static void create_start(Task *t) {
        (void) message_map_drop(t->request, "parameters", CSI_PEERPOD_KEY);
        task_ask_driver(t, CONTROLLER "CreateVolume", t->request, on_created);
}

static void create_volume(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        bool wanted = !isempty(message_map_get(request, "parameters", CSI_PEERPOD_KEY));

        task_begin_unnamed(w, call, request, wanted ? create_start : task_pass);
}

static void on_driver_deleted(Task *t, const GrpcReply *reply) {
        _cleanup_(freep) char *name = NULL;

        if (reply->code != TTRPC_OK) {
                task_end_like(t, reply);
                return;
        }
        name = volume_object_name(message_get_string(t->request, "volume_id"));
        if (!name)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_delete(t, name, task_end_ok);
}

static void delete_start(Task *t) {
        if (!is_the_volume(t))
                return;
        if (!t->has_volume) {
                task_pass(t);
                return;
        }
        if (volume_may_be_attached(&t->volume)) {
                task_fail(t, TTRPC_FAILED_PRECONDITION, "The volume is at VM '%s'.", t->volume.vm_id);
                return;
        }
        task_ask_driver(t, CONTROLLER "DeleteVolume", t->request, on_driver_deleted);
}

static void delete_volume(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        begin(w, message_get_string(request, "volume_id"), call, request, delete_start);
}

/* ---- ControllerPublishVolume ---- */

/* What csi-wrapper said; nothing of it is used, as nothing is attached. */
static void answer_published(Task *t) {
        static const char *const values[][2] = {
                { "node-id", "" }, { "attach-status", "attached" }, { DEVICE_PATH, "/dev/fff" },
        };
        Csi__V1__ControllerPublishVolumeResponse *response;
        uint8_t *data = NULL;
        size_t size = 0;
        int r;

        response = malloc(sizeof(*response));
        if (!response) {
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
                return;
        }
        csi__v1__controller_publish_volume_response__init(response);
        r = message_map_set(&response->base, "publish_context", "volume-id", t->volume.name);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(values); i++)
                r = message_map_set(&response->base, "publish_context", values[i][0], values[i][1]);
        if (r >= 0)
                r = message_pack(&response->base, &data, &size);
        proto_free(&response->base);
        if (r < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_end(t, TTRPC_OK, NULL, data, size);
        free(data);
}

static int make_publish_patch(Task *t, json_object **patch) {
        const char *node_id = message_get_string(t->request, "node_id");
        _cleanup_(freep) char *text = NULL, *label = kube_name_make(node_id, /* tail= */ NULL, 63);
        int r;

        if (!label)
                return -ENOMEM;
        (void) message_map_drop(t->request, "volume_context", CSI_PEERPOD_KEY);
        r = secrets_strip(t, SECRET_CONTROLLER_PUBLISH, patch);
        if (r >= 0)
                r = message_to_text(t->request, &text);
        if (r >= 0)
                r = patch_set(patch, "spec", "wrapperControllerPublishVolumeReq", text);
        if (r >= 0)
                r = patch_set(patch, "spec", "nodeID", node_id);
        if (r >= 0)
                r = patch_set_in_metadata(patch, "labels", "nodeID", label);
        return r;
}

static void publish_volume(Task *t) {
        const Csi__V1__ControllerPublishVolumeRequest *request = (const Csi__V1__ControllerPublishVolumeRequest*) t->request;
        const char *node_id = kube_string_at(t->object, "spec", "nodeID", NULL);
        _cleanup_(json_object_putp) json_object *patch = NULL;

        if (request->volume_capability &&
            request->volume_capability->access_type_case == CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_BLOCK) {
                task_fail(t, TTRPC_INVALID_ARGUMENT, "A peer pod cannot have a volume as raw block device; use volumeMode: Filesystem.");
                return;
        }
        if (!isempty(node_id) && !streq(node_id, strempty(request->node_id))) {
                task_fail(t, TTRPC_FAILED_PRECONDITION, "The volume is published to node '%s'; a peer pod's volume can be at one only.", node_id);
                return;
        }
        if (t->volume.state > VOLUME_CONTROLLER_PUBLISH_CACHED) {
                answer_published(t);
                return;
        }
        if (make_publish_patch(t, &patch) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_update(t, TAKE_PTR(patch), VOLUME_CONTROLLER_PUBLISH_CACHED, answer_published);
}

static void publish_start(Task *t) {
        if (!is_the_volume(t))
                return;
        if (t->has_volume)
                publish_volume(t);
        else if (isempty(message_map_get(t->request, "volume_context", CSI_PEERPOD_KEY)))
                task_pass(t);
        else
                make_object(t, message_get_string(t->request, "volume_id"), VOLUME_NO_NAME, publish_start);
}

static void controller_publish(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        begin(w, message_get_string(request, "volume_id"), call, request, publish_start);
}

/* ---- ControllerUnpublishVolume, and detaching as soon as it can be done ---- */

static int forget_vm(json_object **patch) {
        static const char *const fields[] = { "vmID", "vmName", "devicePath", "wrapperControllerPublishVolumeRes" };
        static const char *const annotations[] = { VOLUME_BOOT_ANNOTATION, VOLUME_AGAIN_ANNOTATION };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(fields); i++)
                r = patch_set(patch, "spec", fields[i], NULL);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(annotations); i++)
                r = patch_set_in_metadata(patch, "annotations", annotations[i], NULL);
        return r < 0 ? r : patch_set_in_metadata(patch, "labels", "vmID", NULL);
}

/* Nothing of the pod that had it is left; what the attacher and kubelet have asked for stays, as they may not ask again before the next pod. */
static int forget_pod(json_object **patch) {
        static const char *const fields[] = {
                "podName", "podNamespace", "podUid", "targetPath",
                "wrapperNodePublishVolumeReq", "wrapperNodeUnpublishVolumeReq", "wrapperNodeUnstageVolumeReq",
        };
        static const char *const labels[] = { "podUid", "podName", "podNamespace" };
        int r;

        r = forget_vm(patch);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(fields); i++)
                r = patch_set(patch, "spec", fields[i], NULL);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(labels); i++)
                r = patch_set_in_metadata(patch, "labels", labels[i], NULL);
        return r;
}

static int forget_node(json_object **patch) {
        static const char *const fields[] = {
                "nodeID", "nodeName", "stagingTargetPath", "wrapperControllerPublishVolumeReq", "wrapperNodeStageVolumeReq",
        };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(fields); i++)
                r = patch_set(patch, "spec", fields[i], NULL);
        if (r >= 0)
                r = patch_set_in_metadata(patch, "labels", "nodeID", NULL);
        if (r >= 0)
                r = patch_set_in_metadata(patch, "labels", "podNodeName", NULL);
        if (r >= 0)
                r = patch_set_in_metadata(patch, "annotations", VOLUME_SECRETS_ANNOTATION, NULL);
        return r;
}

static void reset(Task *t) {
        _cleanup_(json_object_putp) json_object *patch = NULL;

        if (forget_pod(&patch) < 0 || forget_node(&patch) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_update(t, TAKE_PTR(patch), VOLUME_NEW, task_end_ok);
}

/* A caller wants the volume back, else it stays the node's; the same pod's, if that has another VM now and kubelet has not asked to unmount it. */
static void on_detached(Task *t, const GrpcReply *reply) {
        bool stays = !isempty(t->volume.again) && isempty(t->volume.unpublish_request);
        _cleanup_(json_object_putp) json_object *patch = NULL;

        if (reply->code != TTRPC_OK && reply->code != TTRPC_NOT_FOUND) {
                task_fail(t, reply->code, "Detaching from VM '%s': %s", t->volume.vm_id, reply->text);
                return;
        }
        (void) log_full(NULL, LOG_INFO, MSG_VOLUME_MOVED, 0, "Volume '%s' is detached from VM '%s'.", t->volume.id, t->volume.vm_id);
        if (t->call)
                reset(t);
        else if ((stays ? forget_vm(&patch) : forget_pod(&patch)) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                task_update(t, TAKE_PTR(patch), stays ? VOLUME_NODE_PUBLISH_CACHED : VOLUME_DETACHED, task_end_ok);
}

static void send_detach(Task *t) {
        task_ask_driver(t, CONTROLLER "ControllerUnpublishVolume", t->request, on_detached);
}

static void detach(Task *t) {
        Csi__V1__ControllerUnpublishVolumeRequest *request;

        if (!t->call) {
                request = malloc(sizeof(*request));
                if (!request) {
                        task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
                        return;
                }
                csi__v1__controller_unpublish_volume_request__init(request);
                proto_free(t->request);
                t->request = &request->base;
        }
        if (message_set_string(t->request, "volume_id", t->volume.id) < 0 ||
            message_set_string(t->request, "node_id", volume_node_id(t->volume.vm_id)) < 0) {
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
                return;
        }
        if (t->call)
                send_detach(t);                 /* it brought its secrets */
        else
                secrets_fetch(t, SECRET_CONTROLLER_PUBLISH, send_detach);
}

static void unpublish_start(Task *t) {
        const char *node_id = message_get_string(t->request, "node_id"), *its_node;

        if (!is_the_volume(t))
                return;
        if (!t->has_volume) {
                task_pass(t);
                return;
        }
        its_node = kube_string_at(t->object, "spec", "nodeID", NULL);
        if (t->volume.state == VOLUME_NEW || (!isempty(node_id) && !isempty(its_node) && !streq(node_id, its_node)))
                task_end_ok(t);                 /* it is not there */
        else if (volume_may_be_mounted(&t->volume))
                task_fail(t, TTRPC_ABORTED, "The volume may be mounted in VM '%s' (state %s); it is detached when it is not, or the VM is gone.",
                          t->volume.vm_id, volume_state_to_string(t->volume.state));
        else if (volume_may_be_attached(&t->volume))
                detach(t);
        else
                reset(t);
}

static void controller_unpublish(Wrapper *w, GrpcCall *call, ProtobufCMessage *request) {
        begin(w, message_get_string(request, "volume_id"), call, request, unpublish_start);
}

/* ---- attaching ---- */

static void on_attached(Task *t, const GrpcReply *reply) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        _cleanup_(freep) char *text = NULL;
        int r;

        if (reply->code != TTRPC_OK) {
                task_fail(t, reply->code, "Attaching to VM '%s': %s", t->volume.vm_id, reply->text);
                return;
        }
        r = proto_unpack(&csi__v1__controller_publish_volume_response__descriptor, reply->data, reply->size, &m);
        if (r >= 0)
                r = message_to_text(m, &text);
        if (r >= 0)
                r = patch_set(&patch, "spec", "wrapperControllerPublishVolumeRes", text);
        if (r >= 0)
                r = patch_set(&patch, "spec", "devicePath", strempty(message_map_get(m, "publish_context", DEVICE_PATH)));
        if (r < 0) {
                task_fail(t, TTRPC_INTERNAL, "The driver's answer to ControllerPublishVolume cannot be kept: %s", strerror(-r));
                return;
        }
        (void) log_full(NULL, LOG_INFO, MSG_VOLUME_MOVED, 0, "Volume '%s' is attached to VM '%s'.", t->volume.id, t->volume.vm_id);
        task_update(t, TAKE_PTR(patch), VOLUME_ATTACHED, task_end_ok);
}

static void send_attach(Task *t) {
        task_ask_driver(t, CONTROLLER "ControllerPublishVolume", t->request, on_attached);
}

static void attach(Task *t) {
        _cleanup_(freep) char *reason = NULL;
        ProtobufCMessage *m;

        if (message_from_text(&csi__v1__controller_publish_volume_request__descriptor, t->volume.publish_request, &m, &reason) < 0) {
                task_fail(t, TTRPC_FAILED_PRECONDITION, "wrapperControllerPublishVolumeReq: %s", strempty(reason));
                return;
        }
        proto_free(t->request);
        t->request = m;
        if (message_set_string(m, "node_id", volume_node_id(t->volume.vm_id)) < 0)
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        else
                secrets_fetch(t, SECRET_CONTROLLER_PUBLISH, send_attach);
}

static bool wants_detach(const Volume *v) {
        return v->state >= VOLUME_UNPUBLISHED && volume_may_be_attached(v) && !volume_may_be_mounted(v);
}

static bool wants(const Wrapper *w, const Volume *v) {
        return v->state == VOLUME_VM_KNOWN || wants_detach(v);
}

static void advance(Task *t) {
        if (t->has_volume && t->volume.state == VOLUME_VM_KNOWN)
                attach(t);
        else if (t->has_volume && wants_detach(&t->volume))
                detach(t);
        else
                task_end_ok(t);
}

static const char *const services[] = { "/csi.v1.Identity", "/csi.v1.Controller", "/csi.v1.GroupController", NULL };

static const Method methods[] = {
        { CONTROLLER "CreateVolume", &csi__v1__create_volume_request__descriptor, create_volume },
        { CONTROLLER "DeleteVolume", &csi__v1__delete_volume_request__descriptor, delete_volume },
        { CONTROLLER "ControllerPublishVolume", &csi__v1__controller_publish_volume_request__descriptor, controller_publish },
        { CONTROLLER "ControllerUnpublishVolume", &csi__v1__controller_unpublish_volume_request__descriptor, controller_unpublish },
        {}
};

const Role controller_role = { "controller", services, methods, wants, advance };
