/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/volume.h"

#include "basic/error-text.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "kube/kube-object.h"

#define OBJECT_NAME_MAX 253U
#define CSI_DIRECTORY "kubernetes.io~csi"

static const char *const state_names[_VOLUME_STATE_MAX] = {
        [VOLUME_NEW] = "",
        [VOLUME_CONTROLLER_PUBLISH_CACHED] = "controllerPublishVolumeCached",
        [VOLUME_NODE_STAGE_CACHED] = "nodeStageVolumeCached",
        [VOLUME_NODE_PUBLISH_CACHED] = "nodePublishVolumeCached",
        [VOLUME_VM_RUNNING] = "peerPodVSIRunning",
        [VOLUME_VM_KNOWN] = "peerPodVSIIDReady",
        [VOLUME_ATTACHED] = "controllerPublishVolumeApplied",
        [VOLUME_STAGED] = "nodeStageVolumeApplied",
        [VOLUME_PUBLISHED] = "nodePublishVolumeApplied",
        [VOLUME_NODE_UNPUBLISH_CACHED] = "nodeUnpublishVolumeCached",
        [VOLUME_UNPUBLISHED] = "nodeUnpublishVolumeApplied",
        [VOLUME_NODE_UNSTAGE_CACHED] = "nodeUnstageVolumeCached",
        [VOLUME_UNSTAGED] = "nodeUnstageVolumeApplied",
        [VOLUME_DETACHED] = "controllerUnpublishVolumeApplied",
};

const char* volume_state_to_string(VolumeState s) {
        assert(s >= 0 && s < _VOLUME_STATE_MAX);
        return state_names[s];
}

VolumeState volume_state_from_string(const char *s) {
        for (VolumeState i = 0; i < _VOLUME_STATE_MAX; i++)
                if (streq(state_names[i], s))
                        return i;
        return _VOLUME_STATE_INVALID;
}

int volume_read(json_object *object, Volume *ret, char **reterr) {
        const char *state = kube_string_at(object, "status", "state", NULL);
        KubeMeta meta;
        int r;

        r = kube_meta(object, &meta, reterr);
        if (r < 0)
                return r;

        *ret = (Volume) {
                .object = object, .name = meta.name, .uid = meta.uid, .resource_version = meta.resource_version,
                .state = volume_state_from_string(state),
                .id = kube_string_at(object, "spec", "volumeID", NULL),
                .pv_name = kube_string_at(object, "spec", "volumeName", NULL),
                .node_name = kube_string_at(object, "spec", "nodeName", NULL),
                .pod_uid = kube_string_at(object, "spec", "podUid", NULL),
                .pod_name = kube_string_at(object, "spec", "podName", NULL),
                .pod_namespace = kube_string_at(object, "spec", "podNamespace", NULL),
                .vm_id = kube_string_at(object, "spec", "vmID", NULL),
                .device_path = kube_string_at(object, "spec", "devicePath", NULL),
                .target_path = kube_string_at(object, "spec", "targetPath", NULL),
                .publish_request = kube_string_at(object, "spec", "wrapperControllerPublishVolumeReq", NULL),
                .publish_response = kube_string_at(object, "spec", "wrapperControllerPublishVolumeRes", NULL),
                .stage_request = kube_string_at(object, "spec", "wrapperNodeStageVolumeReq", NULL),
                .node_publish_request = kube_string_at(object, "spec", "wrapperNodePublishVolumeReq", NULL),
                .unpublish_request = kube_string_at(object, "spec", "wrapperNodeUnpublishVolumeReq", NULL),
                .unstage_request = kube_string_at(object, "spec", "wrapperNodeUnstageVolumeReq", NULL),
                .secrets = kube_string_at(object, "metadata", "annotations", VOLUME_SECRETS_ANNOTATION, NULL),
                .boot_id = kube_string_at(object, "metadata", "annotations", VOLUME_BOOT_ANNOTATION, NULL),
                .again = kube_string_at(object, "metadata", "annotations", VOLUME_AGAIN_ANNOTATION, NULL),
        };
        if (streq(ret->pv_name, VOLUME_NO_NAME))
                ret->pv_name = "";
        if (ret->state < 0)
                return error_text(reterr, -EBADMSG, "state '%.64s' of PeerpodVolume '%s' is unknown to this version", state, meta.name);
        return 0;
}

bool volume_may_be_attached(const Volume *v) {
        return !isempty(v->vm_id) && v->state != VOLUME_DETACHED;
}

bool volume_may_be_mounted(const Volume *v) {
        switch (v->state) {
        case VOLUME_ATTACHED:
        case VOLUME_STAGED:
        case VOLUME_PUBLISHED:
        case VOLUME_NODE_UNPUBLISH_CACHED:
        case VOLUME_NODE_UNSTAGE_CACHED:
                return !isempty(v->vm_id);
        case VOLUME_UNPUBLISHED:                /* a driver without staging is done here */
                return !isempty(v->vm_id) && !isempty(v->stage_request);
        default:
                return false;
        }
}

char* volume_object_name(const char *volume_id) {
        return kube_name_make(volume_id, /* tail= */ NULL, OBJECT_NAME_MAX);
}

const char* volume_node_id(const char *vm_id) {
        const char *name = strrchr(vm_id, '/');

        return name && startswith(vm_id, "/subscriptions/") && strstr(vm_id, "/virtualMachines/") ? name + 1 : vm_id;
}

/* The part of @path that ends at *@end, which becomes the "/" before it. */
static bool take_last(const char *path, const char **end, const char **ret, size_t *ret_size) {
        const char *p = *end;

        while (p > path && p[-1] != '/')
                p--;
        if (p == path || p == *end)
                return false;
        *ret = p;
        *ret_size = (size_t) (*end - p);
        *end = p - 1;
        return true;
}

static bool take_word(const char *path, const char **end, const char *word) {
        const char *p;
        size_t n;

        return take_last(path, end, &p, &n) && n == strlen(word) && memcmp(p, word, n) == 0;
}

int volume_path_parse(const char *path, char **ret_pod_uid, char **ret_pv_name) {
        _cleanup_(freep) char *uid = NULL, *pv = NULL;
        const char *end = path + strlen(path), *u, *p;
        size_t n_u, n_p;

        if (path[0] != '/' || strstr(path, "/../") || strstr(path, "//") ||
            !take_word(path, &end, "mount") || !take_last(path, &end, &p, &n_p) || !take_word(path, &end, CSI_DIRECTORY) ||
            !take_word(path, &end, "volumes") || !take_last(path, &end, &u, &n_u) || !take_word(path, &end, "pods"))
                return -EINVAL;

        uid = strndup(u, n_u);
        pv = strndup(p, n_p);
        if (!uid || !pv)
                return -ENOMEM;
        if (!sandbox_id_is_valid(uid) || !kube_name_is_valid(pv))
                return -EINVAL;

        *ret_pod_uid = TAKE_PTR(uid);
        *ret_pv_name = TAKE_PTR(pv);
        return 0;
}
