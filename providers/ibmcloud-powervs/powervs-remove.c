/* SPDX-License-Identifier: Apache-2.0 */
/* Removing and finding instances. */
#include <json-c/json.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-owner.h"
#include "powervs.h"

#define DELETE_USEC (UINT64_C(60) * 1000000)
#define UNKNOWN_LOOKS 8

static json_object* tags_of(json_object *instance) {
        json_object *tags = NULL;

        (void) json_get_array(instance, "userTags", &tags, NULL);
        return tags;
}

bool powervs_is_owned(json_object *instance, const char *sandbox_id) {
        char tag[IBM_TAG_SIZE];

        ibm_sandbox_tag(sandbox_id, tag);
        return ibm_has_tag(tags_of(instance), tag);
}

bool powervs_has_owner(json_object *instance) {
        char sandbox[IBM_TAG_SIZE];

        ibm_tag_value(tags_of(instance), OWNER_TAG_SANDBOX, sandbox);
        return !isempty(sandbox);
}

static bool is_gone(const IbmReply *reply) {
        return reply->status == 404 || reply->status == 410;
}

static int send_delete(PowerVs *p, const PeerpodCall *call, const char *id, IbmReply *ret, PeerpodError *error) {
        char *path;

        if (asprintf(&path, "/pvm-instances/%s", id) < 0)
                path = NULL;
        return powervs_call(p, call, &(PowerVsRequest) { .method = "DELETE", .what = "Delete instance", .path = path, .timeout_usec = DELETE_USEC }, ret, error);
}

/* An instance in BUILD refuses to be deleted, for minutes: it is asked again and again until the call's time is over. */
int powervs_remove_id(PowerVs *p, const PeerpodCall *call, const char *id, PeerpodError *error) {
        bool accepted = false;
        uint64_t pause = 0;
        int r;

        for (;;) {
                _cleanup_(ibm_reply_done) IbmReply reply = {}, state = {};
                PeerpodError refused = { .size = sizeof(refused) };

                if (!accepted) {
                        r = send_delete(p, call, id, &reply, &refused);
                        if (r < 0 && is_gone(&reply))
                                return 0;
                        if (r < 0 && (reply.status == 0 || reply.status == 401 || reply.status == 403))
                                return peerpod_error_set(error, refused.kind, "%s", refused.text);
                        accepted = r == 0;
                }
                r = powervs_get_instance(p, call, id, &state, error);
                if (r < 0 && is_gone(&state))
                        return 0;
                if (r < 0)
                        return r;
                if (!accepted && !streq(json_path_string(state.body, "status", ""), "BUILD") && reply.status != 409 && reply.status < 500 && reply.status != 429)
                        return peerpod_error_set(error, refused.kind, "%s", refused.text);
                r = powervs_pause(call, &pause, error);
                if (r < 0 && !accepted)
                        return peerpod_error_set(error, (PeerpodErrorKind) error->kind, "The instance cannot be deleted yet: %.600s", refused.text);
                if (r < 0)
                        return r;
        }
}

static int refuse(PeerpodError *error, const PeerpodInstanceKey *key, const char *id) {
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' (%s) is not that of sandbox '%s': it is left alone.", id, key->name,
                                 key->sandbox_id);
}

/* 1: ours, 0: gone */
static int check_owner(PowerVs *p, const PeerpodCall *call, const PeerpodInstanceKey *key, const char *id, PeerpodError *error) {
        uint64_t pause = 0;

        for (unsigned i = 0;; i++) {
                _cleanup_(ibm_reply_done) IbmReply reply = {};
                int r;

                r = powervs_get_instance(p, call, id, &reply, error);
                if (r < 0)
                        return is_gone(&reply) ? 0 : r;
                if (strcasecmp(json_path_string(reply.body, "serverName", ""), key->name) != 0)
                        return refuse(error, key, id);
                if (powervs_is_owned(reply.body, key->sandbox_id))
                        return 1;
                /* Tags may come a little later than the instance. */
                if (powervs_has_owner(reply.body) || i == UNKNOWN_LOOKS)
                        return refuse(error, key, id);
                r = powervs_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

int powervs_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        _cleanup_(powervs_ids_done) PowerVsIds l = {};
        PowerVs *p = provider;
        int r;

        if (!isempty(key->id)) {
                if (!ibm_id_is_valid(key->id))
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no instance's id.", key->id);
                r = check_owner(p, call, key, key->id, error);
                return r <= 0 ? r : powervs_remove_id(p, call, key->id, error);
        }
        r = powervs_list(p, call, key->name, &l, error);
        for (size_t i = 0; i < l.n && r >= 0; i++) {
                r = check_owner(p, call, key, l.ids[i], error);
                if (r > 0)
                        r = powervs_remove_id(p, call, l.ids[i], error);
        }
        return r < 0 ? r : 0;
}

static int report(json_object *instance, const char *id, const char *node, PeerpodFound found, void *userdata) {
        char name[IBM_TAG_SIZE], sandbox[IBM_TAG_SIZE], tag[IBM_TAG_SIZE];

        ibm_node_tag(node, tag);
        ibm_tag_value(tags_of(instance), OWNER_TAG_NAME, name);
        ibm_tag_value(tags_of(instance), OWNER_TAG_SANDBOX, sandbox);
        if (!ibm_has_tag(tags_of(instance), tag) || isempty(name) || isempty(sandbox))
                return 0;
        return found(userdata, &(PeerpodFoundInstance) { .size = sizeof(PeerpodFoundInstance), .name = name, .sandbox_id = sandbox, .id = id });
}

int powervs_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        _cleanup_(powervs_ids_done) PowerVsIds l = {};
        int r;

        r = powervs_list(provider, call, NULL, &l, error);
        for (size_t i = 0; i < l.n && r >= 0; i++) {
                _cleanup_(ibm_reply_done) IbmReply reply = {};

                r = powervs_get_instance(provider, call, l.ids[i], &reply, error);
                if (r < 0 && is_gone(&reply))
                        r = 0;
                else if (r == 0)
                        r = report(reply.body, l.ids[i], node, found, userdata);
        }
        return r < 0 ? r : 0;
}
