/* SPDX-License-Identifier: Apache-2.0 */
/* Creating an instance. VPC has no token of idempotency, but a name is there once in a region: so a name that is looked for before the call,
 * after a call whose end is unknown, and when the name is said to be taken, is as good. */
#include "ibmcloud.h"

#include <json-c/json.h>
#include <syslog.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-user-data.h"

#define UNDO_USEC (UINT64_C(120) * 1000000)
#define APPEAR_USEC (UINT64_C(30) * 1000000)    /* how long a new instance may be unknown to GET */
#define LOOKS 4                                 /* for an instance of which we do not know whether it was made */
#define CREATES_MAX 3

typedef struct Creation {
        Vpc *vpc;
        const PeerpodInstanceSpec *spec;
        VpcRequest request;
        char *id, *crn;
        bool unresolved;                /* a POST may yet have made it */
} Creation;

static int take_instance(Creation *c, json_object *instance, PeerpodError *error) {
        const char *id = json_path_string(instance, "id", ""), *crn = json_path_string(instance, "crn", "");

        if (!ibm_id_is_valid(id))
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Create instance: the answer has no usable id.");
        free(c->id);
        free(c->crn);
        c->id = strdup(id);
        c->crn = strdup(crn);
        if (!c->id || !c->crn)
                return oom(error);
        c->unresolved = false;
        return 0;
}

/* 1: an instance of that name is ours and taken; 0: there is none */
static int adopt(Creation *c, const PeerpodCall *call, PeerpodError *error) {
        uint64_t pause = 0;
        int r;

        for (;;) {
                _cleanup_(json_object_putp) json_object *instance = NULL;
                const char *status;
                VpcOwner owner;

                r = vpc_find_by_name(c->vpc, call, c->spec->name, &instance, error);
                if (r <= 0)
                        return r;
                r = vpc_owner(c->vpc, call, instance, c->spec->sandbox_id, &owner, error);
                if (r < 0)
                        return r;
                if (owner == VPC_OWNER_OTHER) {
                        c->unresolved = false;  /* the name is taken: it cannot be ours */
                        return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "Instance '%s' exists and is another owner's.", c->spec->name);
                }
                status = json_path_string(instance, "status", "");
                if (owner == VPC_OWNER_US && !streq(status, "deleting") && !streq(status, "failed")) {
                        r = take_instance(c, instance, error);
                        return r < 0 ? r : 1;
                }
                if (owner == VPC_OWNER_US) {
                        r = vpc_remove_instance(c->vpc, call, json_path_string(instance, "id", ""), c->spec->sandbox_id, error);
                        if (r < 0)
                                return r;
                        continue;
                }
                r = vpc_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* Lists lag behind: look more than once, and for longer if it is known to be there. */
static int adopt_late(Creation *c, const PeerpodCall *call, bool there, PeerpodError *error) {
        uint64_t pause = 0, end = peerpod_now_usec() + APPEAR_USEC;

        for (unsigned i = 1;; i++) {
                int r = adopt(c, call, error);

                if (r != 0 || (there ? peerpod_now_usec() >= end : i == LOOKS))
                        return r;
                r = vpc_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* @ret_ambiguous: set on failure only */
static int post(Creation *c, const PeerpodCall *call, bool *ret_ambiguous, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        json_object *body;
        int r;

        if (vpc_build_request(c->vpc, &c->request, &body) < 0)
                return oom(error);
        r = ibm_call(&c->vpc->api, call, &(IbmRequest) {
                .method = "POST",
                .what = "Create instance",
                .url = vpc_url(c->vpc, "/instances"),
                .body = body,
        }, &reply, error);
        if (r == 0 && reply.body)
                r = take_instance(c, reply.body, error);
        else if (r == 0)
                r = peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Create instance: the answer is empty.");
        if (r == 0)
                return 0;
        *ret_ambiguous = ibm_is_ambiguous(&reply);
        if (reply.status == 404) {      /* not the instance: what it is to be made of */
                error->kind = PEERPOD_E_FAILED_PRECONDITION;
                r = peerpod_error_to_errno(error->kind);
        }
        return r;
}

/* VPC refuses a second instance of that name ("validation_unique_failed"); the words are not part of the API. */
static bool name_is_taken(const PeerpodError *error) {
        static const char *const words[] = { "unique", "already", "duplicate", "in use" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcasestr(error->text, words[i]))
                        return error->kind == PEERPOD_E_FAILED_PRECONDITION || error->kind == PEERPOD_E_INVALID_ARGUMENT;
        return false;
}

/* One instance on c->request.target, or none. */
static int make(Creation *c, const PeerpodCall *call, PeerpodError *error) {
        for (unsigned i = 0;; i++) {
                PeerpodError late = { .size = sizeof(late) };
                bool ambiguous = false;
                int r, q;

                r = post(c, call, &ambiguous, error);
                c->unresolved = r < 0 && (c->unresolved || ambiguous);
                if (r == 0 || peerpod_call_check(call, NULL) < 0)
                        return r;
                if (!ambiguous && !name_is_taken(error))
                        return r;
                q = adopt_late(c, call, /* there= */ !ambiguous, &late);
                if (q > 0)
                        return 0;
                if (q < 0)
                        return peerpod_error_set(error, late.kind, "%s", late.text);
                if (!ambiguous || i + 1 == CREATES_MAX)
                        return r;
                peerpod_log(call, LOG_NOTICE, "Creating the instance again: %.300s", error->text);
        }
}

/* ---- running and addresses ---- */

static const char* interface_address(json_object *interface, char ret[static PEERPOD_ADDRESS_SIZE]) {
        return ibm_address(json_path_string(interface, "primary_ip.address", ""), ret) ? ret : NULL;
}

/* True once all interfaces have one. */
static bool read_addresses(json_object *instance, unsigned wanted, PeerpodInstance *ret) {
        json_object *primary, *all;

        ret->n_addresses = 0;
        if (json_get_object(instance, "primary_network_interface", &primary, NULL) <= 0 || !interface_address(primary, ret->addresses[0]))
                return false;
        ret->n_addresses = 1;
        if (json_get_array(instance, "network_interfaces", &all, NULL) <= 0)
                return wanted <= 1;
        for (size_t i = 0; i < json_object_array_length(all) && ret->n_addresses < PEERPOD_ADDRESSES_MAX; i++) {
                json_object *o = json_object_array_get_idx(all, i);

                if (json_object_is_type(o, json_type_object) && !streq(json_path_string(o, "id", ""), json_path_string(primary, "id", "")) &&
                    interface_address(o, ret->addresses[ret->n_addresses]))
                        ret->n_addresses++;
        }
        return ret->n_addresses >= wanted;
}

static int failed(json_object *instance, const char *status, PeerpodError *error) {
        json_object *reasons, *first = NULL;
        const char *code, *message;
        PeerpodErrorKind kind = PEERPOD_E_UNAVAILABLE;

        if (json_get_array(instance, "status_reasons", &reasons, NULL) > 0 && json_object_array_length(reasons) > 0)
                first = json_object_array_get_idx(reasons, 0);
        if (!json_object_is_type(first, json_type_object))
                first = NULL;
        code = first ? json_path_string(first, "code", "") : "no reason given";
        message = first ? json_path_string(first, "message", "") : "";
        if (strstr(code, "capacity") || strstr(code, "ip_address"))
                kind = PEERPOD_E_EXHAUSTED;
        return peerpod_error_set(error, kind, "The instance is '%s': %.100s %.300s", status, code, message);
}

static int wait_running(Creation *c, const PeerpodCall *call, PeerpodInstance *ret, PeerpodError *error) {
        uint64_t pause = 0, appear = peerpod_now_usec() + APPEAR_USEC;
        unsigned wanted = isempty(c->vpc->secondary_subnet) ? 1 : 2;

        for (;;) {
                _cleanup_(ibm_reply_done) IbmReply reply = {};
                const char *status;
                int r;

                r = vpc_get(c->vpc, call, "Instance", vpc_url(c->vpc, "/instances/%s", c->id), &reply, error);
                if (r < 0 && !(reply.status == 404 && peerpod_now_usec() < appear))
                        return r;
                if (r == 0) {
                        appear = 0;     /* seen once, it is no more expected to be unknown */
                        status = json_path_string(reply.body, "status", "");
                        if (streq(status, "failed") || streq(status, "stopped") || streq(status, "stopping") || streq(status, "deleting"))
                                return failed(reply.body, status, error);
                        if (read_addresses(reply.body, wanted, ret) && streq(status, "running")) {
                                (void) snprintf(ret->type, sizeof(ret->type), "%s", json_path_string(reply.body, "profile.name", ""));
                                return 0;
                        }
                }
                r = vpc_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* ---- the whole ---- */

static void undo(Creation *c, const PeerpodCall *call) {
        PeerpodCall late = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError error = { .size = sizeof(error) };
        int r = 0;

        if (!c->id && c->unresolved)
                r = adopt_late(c, &late, /* there= */ false, &error);
        if (r >= 0 && c->id)
                r = vpc_remove_instance(c->vpc, &late, c->id, c->spec->sandbox_id, &error);
        if (r < 0)
                peerpod_log(call, LOG_ERR, "Instance '%s' of a failed creation could not be removed, it will be found by its tag: %.300s",
                            c->id ?: c->spec->name, error.text);
        free(TAKE_PTR(c->id));
        c->unresolved = false;
}

static int create_on(Creation *c, const PeerpodCall *call, const char *target, PeerpodInstance *ret, PeerpodError *error) {
        bool tagged;
        int r = 0;

        c->request.target = target;
        if (!c->id)
                r = make(c, call, error);
        if (r == 0) {
                tagged = vpc_tag(c->vpc, call, c->spec, c->crn);        /* while it boots */
                r = wait_running(c, call, ret, error);
                if (r == 0 && !tagged)
                        (void) vpc_tag(c->vpc, call, c->spec, c->crn);
        }
        if (r < 0)
                undo(c, call);
        return r;
}

static int create(Creation *c, const PeerpodCall *call, PeerpodInstance *ret, PeerpodError *error) {
        PeerpodError first = { .size = sizeof(first) };
        const char *host, *group;
        int r;

        r = vpc_find_hosts(c->vpc, call, c->request.place->zone, &host, &group, error);
        if (r == 0)
                r = vpc_find_cluster_group(c->vpc, call, &c->request.cluster_group, error);
        if (r < 0)
                return r;
        r = adopt(c, call, error);
        if (r < 0)
                return r;

        r = create_on(c, call, isempty(host) ? group : host, ret, &first);
        if (r < 0 && first.kind == PEERPOD_E_EXHAUSTED && !isempty(host) && !isempty(group)) {
                peerpod_log(call, LOG_NOTICE, "Dedicated host '%s' is full, trying its group: %.300s", host, first.text);
                r = create_on(c, call, group, ret, &first);
        }
        return r < 0 ? peerpod_error_set(error, first.kind, "%s", first.text) : 0;
}

static int check_spec(const Vpc *v, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        if ((spec->flags & PEERPOD_INSTANCE_MULTI_NIC) && isempty(v->secondary_subnet))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "A second interface needs --secondary-subnet-id.");
        if (spec->n_volumes > 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Volumes are not attached by this provider.");
        return 0;
}

int vpc_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(vpc_choice_done) VpcChoice choice = {};
        _cleanup_(erase_free_stringp) char *user_data = NULL;
        PeerpodInstance instance = { .size = ret->size };
        Creation c = { .vpc = provider, .spec = spec };
        size_t size;
        int r;

        r = check_spec(c.vpc, spec, error);
        if (r == 0)
                r = user_data_encode(spec, USER_DATA_PLAIN, VPC_USER_DATA_MAX, true, &user_data, &size, error);
        if (r == 0)
                r = vpc_find_place(c.vpc, call, &c.request.place, error);
        if (r == 0)
                r = vpc_choose(c.vpc, call, spec, &choice, error);
        if (r < 0)
                return r;
        c.request.spec = spec;
        c.request.choice = &choice;
        c.request.user_data = user_data;
        r = create(&c, call, &instance, error);
        if (r == 0) {
                (void) snprintf(instance.id, sizeof(instance.id), "%s", c.id);
                if (isempty(instance.type))
                        (void) snprintf(instance.type, sizeof(instance.type), "%.63s", choice.profile);
                *ret = instance;
        }
        free(c.id);
        free(c.crn);
        return r;
}
