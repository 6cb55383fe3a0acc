/* SPDX-License-Identifier: Apache-2.0 */
/* Boot volumes carry the owner's tags; see ibmcloud.h. */
#include "ibmcloud.h"

#include <json-c/json.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-form.h"
#include "cloud-owner.h"

#define SANDBOX_VOLUMES_MAX 16

int vpc_owner(Vpc *v, const PeerpodCall *call, json_object *instance, const char *sandbox_id, VpcOwner *ret, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        const char *id = json_path_string(instance, "boot_volume_attachment.volume.id", "");
        char tag[IBM_TAG_SIZE];
        json_object *tags = NULL;
        int r;

        *ret = VPC_OWNER_UNKNOWN;
        if (!ibm_id_is_valid(id))
                return 0;
        r = vpc_get(v, call, "Boot volume", vpc_url(v, "/volumes/%s", id), &reply, error);
        if (r < 0 && reply.status == 404)
                return 0;
        if (r < 0)
                return r;
        ibm_sandbox_tag(sandbox_id, tag);
        (void) json_get_array(reply.body, "user_tags", &tags, NULL);
        *ret = ibm_has_tag(tags, tag) ? VPC_OWNER_US : VPC_OWNER_OTHER;
        return 0;
}

typedef struct Volumes {
        char *ids[SANDBOX_VOLUMES_MAX];         /* of those that no instance has */
        size_t n, n_all;
} Volumes;

static void volumes_done(Volumes *l) {
        for (size_t i = 0; i < l->n; i++)
                free(l->ids[i]);
}

static int note_volume(void *userdata, json_object *volume) {
        Volumes *l = userdata;
        const char *id = json_path_string(volume, "id", "");
        json_object *attachments;

        if (!ibm_id_is_valid(id))
                return -EBADMSG;
        l->n_all++;
        if ((json_get_array(volume, "volume_attachments", &attachments, NULL) > 0 && json_object_array_length(attachments) > 0) ||
            streq(json_path_string(volume, "status", ""), "pending_deletion") || l->n == SANDBOX_VOLUMES_MAX)
                return 0;
        l->ids[l->n] = strdup(id);
        return l->ids[l->n++] ? 0 : -ENOMEM;
}

int vpc_remove_volumes(Vpc *v, const PeerpodCall *call, const char *sandbox_id, PeerpodError *error) {
        _cleanup_(freep) char *query = NULL, *escaped = NULL;
        char tag[IBM_TAG_SIZE];
        uint64_t pause = 0;
        int r;

        ibm_sandbox_tag(sandbox_id, tag);
        escaped = url_escape(tag);
        if (!escaped || asprintf(&query, "tag=%s&limit=100", escaped) < 0) {
                query = NULL;
                return oom(error);
        }
        for (;;) {
                _cleanup_(volumes_done) Volumes l = {};

                r = vpc_list(v, call, "Volumes", "/volumes", query, "volumes", note_volume, &l, error);
                if (r < 0 || l.n_all == 0)
                        return r;
                for (size_t i = 0; i < l.n; i++) {
                        _cleanup_(ibm_reply_done) IbmReply reply = {};

                        r = vpc_delete(v, call, "Delete volume", vpc_url(v, "/volumes/%s", l.ids[i]), &reply, error);
                        if (r < 0 && reply.status != 404 && reply.status != 409)
                                return r;
                }
                r = vpc_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}
