/* SPDX-License-Identifier: Apache-2.0 */
/* Removing and finding instances. */
#include "ibmcloud.h"

#include <json-c/json.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-form.h"
#include "cloud-owner.h"

#define PAUSE_USEC UINT64_C(250000)
#define PAUSE_MAX_USEC UINT64_C(3000000)

int vpc_pause(const PeerpodCall *call, uint64_t *usec, PeerpodError *error) {
        *usec = *usec == 0 ? PAUSE_USEC : MIN(*usec * 3 / 2, PAUSE_MAX_USEC);
        return peerpod_call_wait(call, -1, 0, *usec, error);
}

/* ---- by name ---- */

typedef struct ByName {
        const char *name;
        json_object *instance;
} ByName;

static int match_name(void *userdata, json_object *instance) {
        ByName *b = userdata;

        if (!streq(json_path_string(instance, "name", ""), b->name))
                return 0;
        if (!ibm_id_is_valid(json_path_string(instance, "id", "")))
                return -EBADMSG;
        b->instance = json_object_get(instance);
        return 1;
}

/* Names are unique in a region. */
int vpc_find_by_name(Vpc *v, const PeerpodCall *call, const char *name, json_object **ret, PeerpodError *error) {
        _cleanup_(freep) char *query = NULL;
        ByName b = { .name = name };
        int r;

        if (asprintf(&query, "name=%s&limit=10", name) < 0) {
                query = NULL;
                return oom(error);
        }
        r = vpc_list(v, call, "Find instance", "/instances", query, "instances", match_name, &b, error);
        if (r < 0)
                return r;
        *ret = b.instance;
        return b.instance != NULL;
}

/* ---- remove ---- */

static int delete_instance(Vpc *v, const PeerpodCall *call, const char *id, IbmReply *reply, PeerpodError *error) {
        int r = vpc_delete(v, call, "Delete instance", vpc_url(v, "/instances/%s", id), reply, error);

        /* 409: it is just being made, or deleted. */
        return r < 0 && reply->status != 404 && reply->status != 409 ? r : 0;
}

int vpc_remove_instance(Vpc *v, const PeerpodCall *call, const char *id, const char *sandbox_id, PeerpodError *error) {
        uint64_t pause = 0;
        int r;

        for (;;) {
                _cleanup_(ibm_reply_done) IbmReply reply = {}, state = {};

                r = delete_instance(v, call, id, &reply, error);
                if (r < 0)
                        return r;
                if (reply.status == 404)
                        break;
                /* Until it is not there any more, or somebody has stopped it from going. */
                do {
                        ibm_reply_done(&state);
                        r = vpc_pause(call, &pause, error);
                        if (r < 0)
                                return r;
                        r = vpc_get(v, call, "Instance", vpc_url(v, "/instances/%s", id), &state, error);
                        if (r < 0 && state.status != 404)
                                return r;
                } while (r == 0 && streq(json_path_string(state.body, "status", ""), "deleting"));
                if (state.status == 404)
                        break;
        }
        return vpc_remove_volumes(v, call, sandbox_id, error);
}

static int refuse(PeerpodError *error, const PeerpodInstanceKey *key, const char *id) {
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' (%s) is not that of sandbox '%s': it is left alone.", id, key->name,
                                 key->sandbox_id);
}

/* 1 and *ret: the instance; 0: there is none */
static int look_up(Vpc *v, const PeerpodCall *call, const PeerpodInstanceKey *key, json_object **ret, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        int r;

        if (isempty(key->id))
                return vpc_find_by_name(v, call, key->name, ret, error);
        if (!ibm_id_is_valid(key->id))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no instance's id.", key->id);
        r = vpc_get(v, call, "Instance", vpc_url(v, "/instances/%s", key->id), &reply, error);
        if (r < 0)
                return reply.status == 404 ? 0 : r;
        *ret = TAKE_PTR(reply.body);
        return 1;
}

int vpc_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        Vpc *v = provider;
        uint64_t pause = 0;
        int r;

        for (;;) {
                _cleanup_(json_object_putp) json_object *instance = NULL;
                VpcOwner owner;

                r = look_up(v, call, key, &instance, error);
                if (r < 0)
                        return r;
                if (r == 0)
                        return vpc_remove_volumes(v, call, key->sandbox_id, error);
                if (!streq(json_path_string(instance, "name", ""), key->name))
                        return refuse(error, key, json_path_string(instance, "id", ""));
                r = vpc_owner(v, call, instance, key->sandbox_id, &owner, error);
                if (r < 0)
                        return r;
                if (owner == VPC_OWNER_OTHER)
                        return refuse(error, key, json_path_string(instance, "id", ""));
                if (owner == VPC_OWNER_US)
                        return vpc_remove_instance(v, call, json_path_string(instance, "id", ""), key->sandbox_id, error);
                /* An instance that has no boot volume yet will have one, or will be gone. */
                r = vpc_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* ---- find ---- */

typedef struct Finder {
        PeerpodFound found;
        void *userdata;
} Finder;

static int report(void *userdata, json_object *volume) {
        Finder *f = userdata;
        char name[IBM_TAG_SIZE], sandbox[IBM_TAG_SIZE];
        json_object *tags = NULL, *attachments = NULL, *first = NULL;
        const char *id = "";
        int r;

        (void) json_get_array(volume, "user_tags", &tags, NULL);
        ibm_tag_value(tags, OWNER_TAG_NAME, name);
        ibm_tag_value(tags, OWNER_TAG_SANDBOX, sandbox);
        if (isempty(name) || isempty(sandbox))
                return 0;
        if (json_get_array(volume, "volume_attachments", &attachments, NULL) > 0 && json_object_array_length(attachments) > 0)
                first = json_object_array_get_idx(attachments, 0);
        if (json_object_is_type(first, json_type_object) && ibm_id_is_valid(json_path_string(first, "instance.id", "")))
                id = json_path_string(first, "instance.id", "");
        r = f->found(f->userdata, &(PeerpodFoundInstance) { .size = sizeof(PeerpodFoundInstance), .name = name, .sandbox_id = sandbox, .id = id });
        /* These two mean something else to vpc_list(). */
        return r == -EBADMSG || r == -ENOMEM ? -EIO : r < 0 ? r : 0;
}

int vpc_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        _cleanup_(freep) char *query = NULL, *escaped = NULL;
        Finder f = { found, userdata };
        char tag[IBM_TAG_SIZE];

        ibm_node_tag(node, tag);
        escaped = url_escape(tag);
        if (!escaped || asprintf(&query, "tag=%s&limit=100", escaped) < 0) {
                query = NULL;
                return oom(error);
        }
        return vpc_list(provider, call, "Find instances", "/volumes", query, "volumes", report, &f, error);
}
