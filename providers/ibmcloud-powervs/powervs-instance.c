/* SPDX-License-Identifier: Apache-2.0 */
/* Creating an instance. There is no token of idempotency: the name is looked for before the call and after one whose end is unknown. */
#include <json-c/json.h>
#include <syslog.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-user-data.h"
#include "powervs.h"

#define CREATE_USEC (UINT64_C(300) * 1000000)
#define UNDO_USEC (UINT64_C(120) * 1000000)
#define APPEAR_USEC (UINT64_C(30) * 1000000)
#define LOOKS 4

typedef struct Creation {
        PowerVs *powervs;
        const PeerpodInstanceSpec *spec;
        PowerVsSize size;
        const char *user_data;
        char *id;
        bool unresolved;                /* a POST may yet have made it */
        bool asked;                     /* there was a POST: what has the name and no owner by now is ours */
} Creation;

static int take_id(Creation *c, const char *id, PeerpodError *error) {
        if (!ibm_id_is_valid(id))
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Create instance: the answer has no usable id.");
        free(c->id);
        c->id = strdup(id);
        c->unresolved = false;
        return c->id ? 0 : oom(error);
}

/* Tags may come a little later than the instance. Returns 0 and *ret, or what failed. */
static int get_tagged(Creation *c, const PeerpodCall *call, const char *id, IbmReply *ret, PeerpodError *error) {
        uint64_t pause = 0;

        for (unsigned i = 0;; i++) {
                int r;

                r = powervs_get_instance(c->powervs, call, id, ret, error);
                if (r < 0 || c->asked || powervs_has_owner(ret->body) || i == LOOKS)
                        return r;
                ibm_reply_done(ret);
                r = powervs_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* 1: taken, 0: gone or on its way */
static int adopt_one(Creation *c, const PeerpodCall *call, const char *id, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        int r;

        r = get_tagged(c, call, id, &reply, error);
        if (r < 0)
                return reply.status == 404 || reply.status == 410 ? 0 : r;
        if (!powervs_is_owned(reply.body, c->spec->sandbox_id) && (powervs_has_owner(reply.body) || !c->asked)) {
                c->unresolved = false;
                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "Instance '%s' exists and is another owner's.", c->spec->name);
        }
        if (streq(json_path_string(reply.body, "status", ""), "ERROR")) {
                r = powervs_remove_id(c->powervs, call, id, error);
                return r < 0 ? r : 0;
        }
        r = take_id(c, id, error);
        return r < 0 ? r : 1;
}

static int adopt(Creation *c, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(powervs_ids_done) PowerVsIds l = {};
        int r;

        r = powervs_list(c->powervs, call, c->spec->name, &l, error);
        for (size_t i = 0; i < l.n && r == 0; i++)
                r = adopt_one(c, call, l.ids[i], error);
        return r;
}

static int adopt_late(Creation *c, const PeerpodCall *call, PeerpodError *error) {
        uint64_t pause = 0;

        for (unsigned i = 0; i < LOOKS; i++) {
                int r = adopt(c, call, error);

                if (r != 0)
                        return r;
                if (i + 1 < LOOKS && (r = powervs_pause(call, &pause, error)) < 0)
                        return r;
        }
        return 0;
}

/* ---- the request (power-go-client: PVMInstanceCreate) ---- */

static json_object* decimal(uint64_t hundredths) {
        char text[32];

        (void) snprintf(text, sizeof(text), "%" PRIu64 ".%02" PRIu64, hundredths / 100, hundredths % 100);
        return json_object_new_double_s((double) hundredths / 100, text);
}

static int set_networks(const Creation *c, json_object *o) {
        _cleanup_(json_object_putp) json_object *array = json_object_new_array();
        json_object *network = json_object_new_object();

        if (!array || !network || json_set_string(network, "networkID", c->powervs->network) < 0 || json_object_array_add(array, network) < 0) {
                json_object_put(network);
                return -ENOMEM;
        }
        return json_set(o, "networks", TAKE_PTR(array));
}

static int build(const Creation *c, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        const PowerVs *p = c->powervs;

        if (!o || json_set_string(o, "serverName", c->spec->name) < 0 ||
            json_set_string(o, "imageID", isempty(c->spec->image) ? p->image : c->spec->image) < 0 ||
            json_set_string(o, "keyPairName", isempty(p->ssh_key) ? NULL : p->ssh_key) < 0 ||
            json_set_string(o, "procType", powervs_processor_name(c->size.processor)) < 0 ||
            json_set_string(o, "sysType", c->size.system) < 0 ||
            json_set_string(o, "storageType", isempty(p->storage_type) ? NULL : p->storage_type) < 0 ||
            json_set(o, "processors", decimal(c->size.cpu_hundredths)) < 0 ||
            json_set_u64(o, "memory", c->size.memory_gb) < 0 ||
            json_set_string(o, "userData", c->user_data) < 0 ||
            json_set(o, "userTags", ibm_owner_tags(c->spec)) < 0 ||
            set_networks(c, o) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(o);
        return 0;
}

static int read_created(Creation *c, const IbmReply *reply, PeerpodError *error) {
        json_object *items, *first = NULL;

        if (reply->body && json_get_array(reply->body, "items", &items, NULL) > 0 && json_object_array_length(items) > 0)
                first = json_object_array_get_idx(items, 0);
        return take_id(c, json_object_is_type(first, json_type_object) ? json_path_string(first, "pvmInstanceID", "") : "", error);
}

static int post(Creation *c, const PeerpodCall *call, bool *ret_ambiguous, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        json_object *body;
        int r;

        if (build(c, &body) < 0)
                return oom(error);
        r = powervs_call(c->powervs, call, &(PowerVsRequest) {
                .method = "POST",
                .what = "Create instance",
                .path = strdup("/pvm-instances"),
                .body = body,
                .array = true,
                .timeout_usec = CREATE_USEC,
        }, &reply, error);
        if (r == 0)
                r = read_created(c, &reply, error);
        if (r == 0)
                return 0;
        *ret_ambiguous = ibm_is_ambiguous(&reply);
        c->asked |= *ret_ambiguous;
        if (reply.status == 404) {
                error->kind = PEERPOD_E_FAILED_PRECONDITION;
                r = peerpod_error_to_errno(PEERPOD_E_FAILED_PRECONDITION);
        }
        return r;
}

/* Names need not be unique, so an unknown end is looked into, and never followed by a second call. */
static int make(Creation *c, const PeerpodCall *call, PeerpodError *error) {
        PeerpodError late = { .size = sizeof(late) };
        bool ambiguous = false;
        int r, q;

        r = post(c, call, &ambiguous, error);
        c->unresolved = r < 0 && ambiguous;
        if (r == 0 || !ambiguous || peerpod_call_check(call, NULL) < 0)
                return r;
        q = adopt_late(c, call, &late);
        if (q > 0)
                return 0;
        return q < 0 ? peerpod_error_set(error, (PeerpodErrorKind) late.kind, "%s", late.text) : r;
}

/* ---- waiting ---- */

static int failed(json_object *instance, PeerpodError *error) {
        const char *details = json_path_string(instance, "fault.details", "");

        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "The instance is in error state: %.300s", isempty(details) ? json_path_string(instance, "fault.message", "") : details);
}

static int wait_ready(Creation *c, const PeerpodCall *call, PeerpodInstance *ret, PeerpodError *error) {
        uint64_t pause = 0, begin = peerpod_now_usec(), built = begin + c->powervs->build_timeout_usec, appear = begin + APPEAR_USEC;

        for (;;) {
                _cleanup_(ibm_reply_done) IbmReply reply = {};
                const char *status;
                int r;

                r = powervs_get_instance(c->powervs, call, c->id, &reply, error);
                if (r < 0 && !(reply.status == 404 && peerpod_now_usec() < appear))
                        return r;
                status = r == 0 ? json_path_string(reply.body, "status", "") : "unknown";
                if (r == 0)
                        appear = 0;
                if (streq(status, "ERROR"))
                        return failed(reply.body, error);
                if (streq(status, "ACTIVE")) {
                        r = powervs_addresses(c->powervs, call, reply.body, ret, error);
                        if (r != 0)
                                return r < 0 ? r : 0;
                } else if (peerpod_now_usec() >= built)
                        return peerpod_error_set(error, PEERPOD_E_TIMED_OUT, "The instance is still '%.32s' after the %" PRIu64 " s of POWERVS_BUILD_TIMEOUT.", status,
                                                 c->powervs->build_timeout_usec / 1000000);
                r = powervs_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

static void undo(Creation *c, const PeerpodCall *call) {
        PeerpodCall late = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError error = { .size = sizeof(error) };
        int r = 0;

        if (!c->id && c->unresolved)
                r = adopt_late(c, &late, &error);
        if (r >= 0 && c->id)
                r = powervs_remove_id(c->powervs, &late, c->id, &error);
        if (r < 0)
                peerpod_log(call, LOG_ERR, "Instance '%s' of a failed creation could not be removed, it will be found by its tags: %.300s",
                            c->id ?: c->spec->name, error.text);
}

static int create(Creation *c, const PeerpodCall *call, PeerpodInstance *ret, PeerpodError *error) {
        int r;

        r = adopt(c, call, error);
        if (r < 0)
                return r;
        if (r == 0)
                r = make(c, call, error);
        if (r >= 0)
                r = wait_ready(c, call, ret, error);
        if (r < 0)
                undo(c, call);
        return r;
}

static int check_spec(const PeerpodInstanceSpec *spec, PeerpodError *error) {
        if (spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "A second interface is not made by this provider.");
        if (spec->n_volumes > 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Volumes are not attached by this provider.");
        if (strlen(spec->name) > 47)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Name '%s' is longer than PowerVS takes (47 characters).", spec->name);
        if (!isempty(spec->image) && !ibm_id_is_valid(spec->image))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Image '%.128s' is no image's id.", spec->image);
        return 0;
}

int powervs_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *user_data = NULL;
        PeerpodInstance instance = { .size = ret->size };
        Creation c = { .powervs = provider, .spec = spec };
        size_t size;
        int r;

        r = check_spec(spec, error);
        if (r == 0)
                r = powervs_size_choose(&c.powervs->size, spec, &c.size, error);
        if (r == 0)
                r = user_data_encode(spec, USER_DATA_BASE64, POWERVS_USER_DATA_MAX, false, &user_data, &size, error);
        if (r < 0)
                return r;
        c.user_data = user_data;
        r = create(&c, call, &instance, error);
        if (r == 0) {
                (void) snprintf(instance.id, sizeof(instance.id), "%s", c.id);
                (void) snprintf(instance.type, sizeof(instance.type), "%s-%" PRIu64 ".%02" PRIu64 "x%" PRIu64, c.size.system, c.size.cpu_hundredths / 100,
                                c.size.cpu_hundredths % 100, c.size.memory_gb);
                *ret = instance;
        }
        free(c.id);
        return r;
}
