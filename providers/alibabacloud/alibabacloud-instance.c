/* SPDX-License-Identifier: Apache-2.0 */
/* An instance is known by its name and its owner tag, which RunInstances sets together with everything else, so there is nothing between
 * "not there" and "there and found again". RunInstances carries a token made from name and sandbox: however often it is sent, and by
 * whichever process, there is one instance. The one thing a token cannot do is to make an instance again whose predecessor was deleted
 * within a day: the cloud then answers with the id of the old one. So an id that is not seen, and that DeleteInstance does not know
 * either, makes us go on with the next token. */
#include "alibabacloud-instance.h"

#include <arpa/inet.h>
#include <syslog.h>

#include "alibabacloud-address.h"
#include "alibabacloud-disk.h"
#include "alibabacloud-list.h"
#include "alibabacloud-run.h"
#include "alibabacloud-wait.h"
#include "cloud-config.h"
#include "cloud-owner.h"
#include "cloud-user-data.h"

#define UNDO_USEC (120 * USEC_PER_SEC)
#define SETTLE_USEC (5 * USEC_PER_SEC)                  /* how long an instance that was made may not be seen yet */
#define SETTLE_CANCELLED_USEC (1 * USEC_PER_SEC)        /* a delete follows, which looks again */
#define VISIBLE_USEC (5 * USEC_PER_SEC)
#define START_USEC (60 * USEC_PER_SEC)
#define DELETE_AGAIN_USEC (30 * USEC_PER_SEC)
#define TOKENS_MAX 8

static bool is_live(const EcsInstance *i) {
        return streq(i->status, "Running") || streq(i->status, "Starting") || streq(i->status, "Pending");
}

static bool is_started(const EcsInstance *i) {
        return streq(i->status, "Running") || streq(i->status, "Starting");
}

/* Returns 1 if it is there, 0 if not. */
static int is_listed(Alibaba *a, const PeerpodCall *call, const char *id, PeerpodError *error) {
        const ListFilter f = { .id = id };
        EcsInstance *all = NULL;
        size_t n = 0;
        int r;

        r = list_instances(a, call, &f, &all, &n, error);
        ecs_instances_free(all, n);
        return r < 0 ? r : n > 0;
}

/* Returns 1: it is being deleted; 0: there is none; or -EAGAIN (not now), or another negative errno with *error set. */
static int ask_to_delete(Alibaba *a, const PeerpodCall *call, const char *id, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "DeleteInstance" };
        _cleanup_(api_reply_done) ApiReply reply = {};
        int r;

        api_add(&q, "InstanceId", id);
        api_add(&q, "Force", "true");
        r = api_call(a, call, &q, &reply, error);
        if (r == 0)
                return 1;
        if (code_is(reply.code, "InvalidInstanceId"))
                return 0;
        if (r == -ECANCELED || r == -ETIMEDOUT)
                return r;
        /* While it boots, mostly: "IncorrectInstanceStatus.Initializing". */
        if (code_is(reply.code, "IncorrectInstanceStatus") || code_is(reply.code, "DependencyViolation") ||
            code_is(reply.code, "OperationConflict") || reply.unknown)
                return -EAGAIN;
        return r;
}

static int delete_until_gone(Alibaba *a, const PeerpodCall *call, const char *id, PeerpodError *error) {
        uint64_t pause = PAUSE_FIRST_USEC, asked = 0;

        for (;;) {
                int r;

                if (asked == 0 || now_usec(CLOCK_MONOTONIC) > usec_add(asked, DELETE_AGAIN_USEC)) {
                        r = ask_to_delete(a, call, id, error);
                        if (r < 0 && r != -EAGAIN)
                                return r;
                        if (r == 1)
                                asked = now_usec(CLOCK_MONOTONIC);
                        if (r >= 0) {           /* what is refused as unknown may be listed for a while all the same */
                                r = is_listed(a, call, id, error);
                                if (r <= 0)
                                        return r;
                        }
                } else {
                        r = is_listed(a, call, id, error);
                        if (r <= 0)
                                return r;
                }
                r = pause_next(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* All instances of @name and @sandbox_id. Returns how many there were, or a negative errno with *error set. */
static int delete_all(Alibaba *a, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error) {
        const ListFilter f = { .name = name, .sandbox_id = sandbox_id };
        EcsInstance *all = NULL;
        size_t n = 0;
        int r;

        r = list_instances(a, call, &f, &all, &n, error);
        for (size_t i = 0; i < n && r == 0; i++)
                if (streq(all[i].sandbox_id, sandbox_id) && streq(all[i].name, name))
                        r = delete_until_gone(a, call, all[i].id, error);
        ecs_instances_free(all, n);
        return r < 0 ? r : (int) n;
}

/* @settle_usec: for so long one that is not seen may still come */
static int erase(Alibaba *a, const PeerpodCall *call, const char *id, const char *name, const char *sandbox_id, uint64_t settle_usec,
                 PeerpodError *error) {
        uint64_t end = usec_add(now_usec(CLOCK_MONOTONIC), settle_usec), pause = PAUSE_FIRST_USEC;
        int r;

        if (!isempty(id)) {
                r = delete_until_gone(a, call, id, error);
                if (r < 0)
                        return r;
        }
        for (;;) {
                r = delete_all(a, call, name, sandbox_id, error);
                if (r < 0)
                        return r;
                if (r > 0 || now_usec(CLOCK_MONOTONIC) >= end)
                        return addresses_release(a, call, name, sandbox_id, error);
                r = pause_next(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

static void undo(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *id, uint64_t settle_usec) {
        PeerpodCall u = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError e = { .size = sizeof(PeerpodError) };

        if (erase(a, &u, id, spec->name, spec->sandbox_id, settle_usec, &e) < 0)
                peerpod_log(call, LOG_ERR, "What instance '%s' had could not be removed after its creation failed; deleting it will try again: %s",
                            spec->name, e.text);
}

/* An attempt that was cut off. Returns 1 and its id, 0 if there is none (any more). */
static int take_earlier(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, char **ret_id, PeerpodError *error) {
        const ListFilter f = { .name = spec->name };
        _cleanup_(freep) char *id = NULL;
        EcsInstance *all = NULL;
        char node[TAG_VALUE_SIZE];
        bool foreign = false;
        size_t n = 0;
        int r;

        tag_value(spec->node, node);
        r = list_instances(a, call, &f, &all, &n, error);
        for (size_t i = 0; i < n && r == 0; i++) {
                if (!streq(all[i].name, spec->name))
                        continue;
                if (!streq(all[i].sandbox_id, spec->sandbox_id) || !streq(all[i].node, node))
                        foreign = true;
                else if (!id && is_live(all + i)) {
                        id = strdup(all[i].id);
                        if (!id)
                                r = oom(error);
                } else                          /* stopped, or one too many */
                        r = delete_until_gone(a, call, all[i].id, error);
        }
        ecs_instances_free(all, n);
        if (r < 0)
                return r;
        if (!id && foreign)
                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "An instance named '%s' exists and belongs to somebody else.", spec->name);
        if (!id)
                return 0;
        peerpod_log(call, LOG_INFO, "Instance '%s' is there already.", spec->name);
        *ret_id = TAKE_PTR(id);
        return 1;
}

/* Returns 1 once it is seen, 0 if not in @usec. */
static int wait_until_listed(Alibaba *a, const PeerpodCall *call, const char *id, uint64_t usec, PeerpodError *error) {
        uint64_t end = usec_add(now_usec(CLOCK_MONOTONIC), usec), pause = PAUSE_FIRST_USEC;

        for (;;) {
                int r = is_listed(a, call, id, error);

                if (r != 0)
                        return r;
                if (now_usec(CLOCK_MONOTONIC) >= end)
                        return 0;
                r = pause_next(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* *ret_id is set as soon as it is known, on failure too, for the caller to delete. */
static int run(Alibaba *a, const PeerpodCall *call, RunSpec *run, char **ret_id, PeerpodError *error) {
        const PeerpodInstanceSpec *spec = run->spec;
        char token[OWNER_TOKEN_SIZE + 8], base[OWNER_TOKEN_SIZE];
        int r;

        owner_token(spec->name, spec->sandbox_id, base);
        for (unsigned i = 0; i < TOKENS_MAX; i++) {
                _cleanup_(api_reply_done) ApiReply reply = {};

                (void) snprintf(token, sizeof(token), "%s-%u", base, i);
                run->token = token;
                r = run_instances(a, call, run, ret_id, &reply, error);
                if (r == 0) {
                        r = wait_until_listed(a, call, *ret_id, VISIBLE_USEC, error);
                        if (r != 0)
                                return r < 0 ? r : 0;
                        peerpod_log(call, LOG_INFO, "The cloud remembers instance '%s' as '%s', which is gone; making it anew.", spec->name, *ret_id);
                        r = delete_until_gone(a, call, *ret_id, error);
                        if (r < 0)
                                return r;
                        free(*ret_id);
                        *ret_id = NULL;
                } else if (code_is(reply.code, "IdempotentParameterMismatch")) {
                        /* Made by an attempt with other settings or user data; not seen a moment ago, so it is new, or gone. */
                        r = take_earlier(a, call, spec, ret_id, error);
                        if (r != 0)
                                return r < 0 ? r : 0;
                } else {
                        if (reply.unknown)
                                undo(a, call, spec, NULL, r == -ECANCELED ? SETTLE_CANCELLED_USEC : SETTLE_USEC);
                        return r;
                }
        }
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The name '%s' was used too often within a day.", spec->name);
}

/* Returns 1 when all that create() promises is there. */
static int is_ready(const Alibaba *a, const PeerpodInstanceSpec *spec, const EcsInstance *i) {
        bool second = spec->flags & PEERPOD_INSTANCE_MULTI_NIC;
        bool volumes = PEERPOD_HAS(spec, n_volumes) && spec->n_volumes > 0;

        if (isempty(i->private_address) || (a->public_address && isempty(i->public_address)) || (second && isempty(i->second_address)))
                return false;
        return volumes || (second && a->public_address) ? streq(i->status, "Running") : is_started(i);
}

/* @ret: one element, ecs_instances_free(ret, 1) */
static int wait_until_ready(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *id, EcsInstance **ret,
                            PeerpodError *error) {
        uint64_t pause = PAUSE_FIRST_USEC, end = usec_add(now_usec(CLOCK_MONOTONIC), START_USEC);
        const ListFilter f = { .id = id };
        bool started = false;

        for (;;) {
                EcsInstance *all = NULL;
                size_t n = 0;
                bool ended;
                int r;

                r = list_instances(a, call, &f, &all, &n, error);
                if (r < 0)
                        return r;
                if (n == 1 && is_ready(a, spec, all)) {
                        *ret = all;
                        return 0;
                }
                /* Before its first start it may be shown as stopped; and lists lag behind. */
                started = started || (n > 0 && is_started(all));
                ended = n == 0 ? now_usec(CLOCK_MONOTONIC) > end : !is_live(all) && (started || now_usec(CLOCK_MONOTONIC) > end);
                if (ended)
                        r = peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' (%s) %s%s before it could be used.", spec->name, id,
                                              n == 0 ? "has vanished" : "is in state ", n == 0 ? "" : all->status);
                ecs_instances_free(all, n);
                if (r == 0)
                        r = pause_next(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

static int complete(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *id, PeerpodInstance *ret,
                    PeerpodError *error) {
        char elastic[INET6_ADDRSTRLEN] = "";
        EcsInstance *i = NULL;
        int r;

        r = wait_until_ready(a, call, spec, id, &i, error);
        if (r == 0 && (spec->flags & PEERPOD_INSTANCE_MULTI_NIC) && a->public_address)
                r = address_bind(a, call, spec, i, elastic, error);
        if (r == 0)
                r = disks_attach(a, call, spec, id, error);
        if (r == 0) {
                (void) snprintf(ret->id, sizeof(ret->id), "%s", id);
                (void) snprintf(ret->type, sizeof(ret->type), "%s", i->type);
                ret->n_addresses = 0;
                if (a->public_address)
                        peerpod_instance_add_address(ret, i->public_address);
                else
                        peerpod_instance_add_address(ret, i->private_address);
                if (spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                        peerpod_instance_add_address(ret, i->second_address);
                if (a->public_address)
                        peerpod_instance_add_address(ret, i->private_address);
                peerpod_instance_add_address(ret, elastic);
        }
        ecs_instances_free(i, i ? 1 : 0);
        return r;
}

static int check_request(const Alibaba *a, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        const char *image = isempty(spec->image) ? a->image : spec->image;

        if (isempty(image))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no image: IMAGEID is empty, and the pod names none.");
        if (strspn(image, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != strlen(image))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no id of an image.", image);
        return disks_check(spec, error);
}

static int choose_type(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, char **ret, PeerpodError *error) {
        const InstanceTypeWish wish = {
                .spec = spec,
                .default_type = a->default_type,
                .allowed = a->allowed_types,
                .allowed_option = "PODVM_INSTANCE_TYPES",
        };

        return instance_type_cache_choose(a->types, call, &wish, ret, NULL, error);
}

int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *user_data = NULL;
        _cleanup_(freep) char *type = NULL, *id = NULL;
        Alibaba *a = provider;
        size_t size;
        int r;

        r = check_request(a, spec, error);
        if (r == 0)
                r = user_data_encode(spec, USER_DATA_BASE64, USER_DATA_MAX, /* limit_encoded= */ false, &user_data, &size, error);
        if (r == 0)
                r = choose_type(a, call, spec, &type, error);
        if (r == 0)
                r = take_earlier(a, call, spec, &id, error);
        if (r < 0)
                return r;

        if (r == 0) {
                RunSpec wanted = { .spec = spec, .type = type, .user_data = user_data };

                r = run(a, call, &wanted, &id, error);
        } else
                r = 0;
        if (r == 0)
                r = complete(a, call, spec, id, ret, error);
        if (r < 0 && id)
                undo(a, call, spec, id, 0);
        return r;
}

/* Is the instance of that id ours? 1, 0 if there is none, or PEERPOD_E_FAILED_PRECONDITION */
static int check_owner(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        const ListFilter f = { .id = key->id };
        EcsInstance *all = NULL;
        bool ours;
        size_t n = 0;
        int r;

        r = list_instances(a, call, &f, &all, &n, error);
        if (r < 0)
                return r;
        ours = n > 0 && streq(all->sandbox_id, key->sandbox_id) && streq(all->name, key->name);
        ecs_instances_free(all, n);
        if (n > 0 && !ours)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' belongs to somebody else.", key->id);
        return n > 0;
}

/* Without an id: one of that name that is another's is not touched, and said. */
static int check_name(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        const ListFilter f = { .name = key->name };
        EcsInstance *all = NULL;
        size_t n = 0, n_ours = 0;
        int r;

        r = list_instances(a, call, &f, &all, &n, error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++)
                n_ours += streq(all[i].sandbox_id, key->sandbox_id);
        ecs_instances_free(all, n);
        if (n > 0 && n_ours == 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' belongs to somebody else.", key->name);
        return 0;
}

int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        Alibaba *a = provider;
        int r;

        r = isempty(key->id) ? check_name(a, call, key, error) : check_owner(a, call, key, error);
        if (r < 0)
                return r;
        return erase(a, call, r > 0 ? key->id : NULL, key->name, key->sandbox_id, 0, error);
}

static int report(PeerpodFound found, void *userdata, const char *name, const char *sandbox_id, const char *id, PeerpodError *error) {
        int r;

        if (isempty(name) || isempty(sandbox_id))
                return 0;
        r = found(userdata, &(PeerpodFoundInstance) {
                .size = sizeof(PeerpodFoundInstance),
                .name = name,
                .sandbox_id = sandbox_id,
                .id = id,
        });
        if (r < 0)
                (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of instances was refused.");
        return r;
}

static bool has_instance(const EcsInstance *all, size_t n, const char *name, const char *sandbox_id) {
        for (size_t i = 0; i < n; i++)
                if (streq(all[i].name, name) && streq(all[i].sandbox_id, sandbox_id))
                        return true;
        return false;
}

int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        char value[TAG_VALUE_SIZE];
        const ListFilter f = { .node = value };
        EcsInstance *all = NULL;
        VpcAddress *addresses = NULL;
        size_t n = 0, n_addresses = 0;
        Alibaba *a = provider;
        int r;

        tag_value(node, value);
        r = list_instances(a, call, &f, &all, &n, error);
        if (r == 0)
                r = list_addresses(a, call, &f, &addresses, &n_addresses, error);
        for (size_t i = 0; i < n && r == 0; i++)
                if (streq(all[i].node, value))
                        r = report(found, userdata, all[i].name, all[i].sandbox_id, all[i].id, error);
        /* An address whose instance is gone is removed as an instance without id. */
        for (size_t i = 0; i < n_addresses && r == 0; i++)
                if (streq(addresses[i].node, value) && !has_instance(all, n, addresses[i].name, addresses[i].sandbox_id))
                        r = report(found, userdata, addresses[i].name, addresses[i].sandbox_id, "", error);
        ecs_instances_free(all, n);
        vpc_addresses_free(addresses, n_addresses);
        return r;
}
