/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/capacity.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <systemd/sd-id128.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"
#include "kube/kube-watch.h"
#include "kube/node/node.h"
#include "kube/peerpod-names.h"

#define AGAIN_FIRST_USEC USEC_PER_SEC
#define AGAIN_LAST_USEC (60 * USEC_PER_SEC)
#define QUIET_USEC (60 * USEC_PER_SEC)          /* what lasts that long is not being fought over */
#define WITHDRAW_TIMEOUT_USEC (5 * USEC_PER_SEC)
#define OWNER_FILE "advertised"
#define OWNER_SIZE_MAX 256U

struct Capacity {
        Node *node;                     /* borrowed */
        KubeWatch *watch;
        KubeRequest *request;
        sd_event_source *again;
        unsigned n_patches;             /* since it was quiet */
        uint64_t patched_usec;          /* CLOCK_MONOTONIC */
        json_object *object;            /* our Node, as it was last */
        char *owner;                    /* our name in the annotation */
        char *former;                   /* what a former start of ours has left there, or "" */
        char *value;                    /* "10" */
        bool asked;                     /* the server may have it */
        bool changed;                   /* the Node, since what is under way was sent */
        bool advertised, other_told, mismatch_told, withdrawing;

        void (*done)(void *userdata);   /* of the withdrawal */
        void *userdata;
};

static char* path_of_owner_file(const Capacity *c) {
        char *path;

        return asprintf(&path, "%s/" OWNER_FILE, c->node->settings->state_dir) < 0 ? NULL : path;
}

static void forget_owner(Capacity *c) {
        _cleanup_(freep) char *path = path_of_owner_file(c);

        if (!path || (unlink(path) < 0 && errno != ENOENT))
                log_warning_errno(errno, "Failed to remove '%s/" OWNER_FILE "', ignoring: %m", c->node->settings->state_dir);
}

static int remember_owner(Capacity *c) {
        _cleanup_(freep) char *path = path_of_owner_file(c);

        return path ? write_file_atomic(path, c->owner, strlen(c->owner), 0600) : -ENOMEM;
}

static int make_owner(char **ret) {
        sd_id128_t invocation;
        int r;

        r = sd_id128_get_invocation(&invocation);
        if (r < 0)                                      /* started by hand */
                r = sd_id128_randomize(&invocation);
        if (r < 0)
                return r;
        return asprintf(ret, SD_ID128_FORMAT_STR, SD_ID128_FORMAT_VAL(invocation)) < 0 ? -ENOMEM : 0;
}

/* ---- what is asked of the server ---- */

static int add_string(json_object **patch, const char *op, const char *value, const char *k1, const char *k2, const char *k3) {
        json_object *v = value ? json_object_new_string(value) : NULL;

        return value && !v ? -ENOMEM : kube_patch_add_op(patch, op, v, k1, k2, k3, NULL);
}

static int add_missing_map(json_object **patch, json_object *object, const char *k1, const char *k2) {
        json_object *map;

        if (json_object_is_type(kube_object_at(object, k1, k2, NULL), json_type_object))
                return 0;
        map = json_object_new_object();
        return map ? kube_patch_add_op(patch, "add", map, k1, k2, NULL) : -ENOMEM;
}

static int make_patch(Capacity *c, json_object **ret) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        int r;

        r = add_string(&patch, "test", kube_string_at(c->object, "metadata", "uid", NULL), "metadata", "uid", NULL);
        if (r >= 0)
                r = add_missing_map(&patch, c->object, "metadata", "annotations");
        if (r >= 0)
                r = add_missing_map(&patch, c->object, "status", "capacity");
        if (r >= 0)
                r = add_string(&patch, "add", c->owner, "metadata", "annotations", PEERPOD_OWNER_ANNOTATION);
        if (r >= 0)
                r = add_string(&patch, "add", c->value, "status", "capacity", PEERPOD_RESOURCE);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(patch);
        return 0;
}

/* Only as long as nobody else has taken over. */
static int make_withdrawal(const char *owner, json_object **ret) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        int r;

        r = add_string(&patch, "test", owner, "metadata", "annotations", PEERPOD_OWNER_ANNOTATION);
        if (r >= 0)
                r = add_string(&patch, "remove", NULL, "status", "capacity", PEERPOD_RESOURCE);
        if (r >= 0)
                r = add_string(&patch, "remove", NULL, "metadata", "annotations", PEERPOD_OWNER_ANNOTATION);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(patch);
        return 0;
}

/* Takes the patch. */
static int send_patch(Capacity *c, json_object *patch, uint64_t timeout_usec, KubeReplyHandler handler) {
        _cleanup_(json_object_putp) json_object *p = patch;
        _cleanup_(freep) char *path = kube_path("v1", NULL, "nodes", c->node->settings->node, "status");
        const KubeCall call = {
                .method = "PATCH",
                .path = path,
                .content_type = KUBE_JSON_PATCH,
                .body = p,
                .timeout_usec = timeout_usec,
                .once = true,
                .unlimited = true,
        };

        c->request = kube_request_free(c->request);
        c->changed = false;
        return path ? kube_request(c->node->kube, &call, handler, c, &c->request) : -ENOMEM;
}

/* ---- putting it right ---- */

static void look(Capacity *c);
static void withdraw(Capacity *c);

static int on_again(sd_event_source *es, uint64_t usec, void *userdata) {
        Capacity *c = userdata;

        c->again = sd_event_source_disable_unref(c->again);
        if (c->withdrawing)
                withdraw(c);
        else
                look(c);
        return 0;
}

static void look_later(Capacity *c, uint64_t retry_after) {
        int r;

        c->again = sd_event_source_disable_unref(c->again);
        r = sd_event_add_time_relative(c->node->event, &c->again, CLOCK_MONOTONIC,
                                       kube_backoff_usec(AGAIN_FIRST_USEC, AGAIN_LAST_USEC, c->n_patches, retry_after), 0, on_again, c);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer, waiting for the Node's next change: %m");
}

static void on_patched(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Capacity *c = userdata;

        c->request = kube_request_free(c->request);
        (void) node_api_answered(c->node, reply);
        if (c->withdrawing) {
                c->again = sd_event_source_disable_unref(c->again);
                withdraw(c);
                return;
        }
        if (reply->error < 0) {
                log_warning("Failed to say how many pod VMs node '%s' offers, trying again: %s", c->node->settings->node, reply->text);
                look_later(c, reply->retry_after_usec);
                return;
        }

        if (c->advertised)
                log_full(NULL, LOG_WARNING, MSG_NODE_CAPACITY, 0, "Node '%s' had lost its offer of %s " PEERPOD_RESOURCE ", which is back.",
                         c->node->settings->node, c->value);
        else
                log_full(NULL, LOG_NOTICE, MSG_NODE_CAPACITY, 0, "Node '%s' offers %s " PEERPOD_RESOURCE ".", c->node->settings->node, c->value);
        c->advertised = true;
        if (c->changed)         /* perhaps after what is answered here was done */
                look(c);
}

static void advertise(Capacity *c) {
        json_object *patch;
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (c->n_patches > 0 && now > c->patched_usec + QUIET_USEC)
                c->n_patches = 0;
        c->n_patches++;
        c->patched_usec = now;

        r = remember_owner(c);
        if (r >= 0)
                r = make_patch(c, &patch);
        if (r >= 0)
                r = send_patch(c, patch, /* timeout_usec= */ 0, on_patched);
        if (r >= 0)
                c->asked = true;
        else {
                log_warning_errno(r, "Failed to say how many pod VMs node '%s' offers, trying again: %m", c->node->settings->node);
                look_later(c, 0);
        }
}

static void on_former_withdrawn(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Capacity *c = userdata;

        c->request = kube_request_free(c->request);
        if (reply->error < 0 && reply->status != 422) {
                look_later(c, reply->retry_after_usec);
                return;
        }
        log_full(NULL, LOG_NOTICE, MSG_NODE_CAPACITY, 0, "Node '%s' offers no " PEERPOD_RESOURCE " any more.", c->node->settings->node);
        free(c->former);
        c->former = NULL;
        forget_owner(c);
}

/* Nothing is to be offered, but a former start of ours did. */
static void withdraw_former(Capacity *c) {
        json_object *patch;
        int r;

        r = make_withdrawal(c->former, &patch);
        if (r >= 0)
                r = send_patch(c, patch, /* timeout_usec= */ 0, on_former_withdrawn);
        if (r < 0)
                look_later(c, 0);
}

/* A wrong node name would have us speak for another machine. */
static bool is_our_machine(Capacity *c) {
        const char *told = kube_string_at(c->object, "status", "nodeInfo", "machineID", NULL);
        char own[SD_ID128_STRING_MAX];
        sd_id128_t id;

        if (isempty(told) || sd_id128_get_machine(&id) < 0 || streq(told, sd_id128_to_string(id, own))) {
                c->mismatch_told = false;
                return true;
        }
        if (!c->mismatch_told)
                log_full(NULL, LOG_ERR, MSG_NODE_CAPACITY, 0, "Node '%s' is another machine: its machine id is %s, and ours %s. Set NODE_NAME to the "
                         "name of this machine's Node.", c->node->settings->node, told, own);
        c->mismatch_told = true;
        return false;
}

static bool another_has_taken_over(Capacity *c, const char *owner) {
        bool other = c->advertised && !isempty(owner) && !streq(owner, c->owner);

        if (other && !c->other_told)
                log_full(NULL, LOG_WARNING, MSG_NODE_CAPACITY, 0, "Another service has taken over what node '%s' offers of " PEERPOD_RESOURCE
                         ", and calls itself '%.100s'.", c->node->settings->node, owner);
        c->other_told = other;
        return other;
}

static void look(Capacity *c) {
        const char *owner, *capacity;

        if (c->request || c->again || c->withdrawing || !c->object || !is_our_machine(c))
                return;

        owner = kube_string_at(c->object, "metadata", "annotations", PEERPOD_OWNER_ANNOTATION, NULL);
        capacity = kube_string_at(c->object, "status", "capacity", PEERPOD_RESOURCE, NULL);
        if (c->node->settings->limit < 0) {
                if (!isempty(c->former) && streq(owner, c->former))
                        withdraw_former(c);
                return;
        }
        if (streq(owner, c->owner) && streq(capacity, c->value))
                return;
        if (another_has_taken_over(c, owner))
                return;
        if (c->n_patches > 0 && now_usec(CLOCK_MONOTONIC) < c->patched_usec + AGAIN_FIRST_USEC) {
                look_later(c, 0);
                return;
        }
        advertise(c);
}

static void on_object(KubeWatch *w, KubeChange change, json_object *object, void *userdata) {
        Capacity *c = userdata;

        json_object_put(c->object);
        c->object = change == KUBE_DELETED ? NULL : json_object_get(object);
        c->changed = true;
        look(c);
}

static int start_watch(Capacity *c) {
        _cleanup_(freep) char *path = kube_path("v1", NULL, "nodes", NULL, NULL), *selector = NULL;
        KubeWatchSpec spec = { .path = path, .on_object = on_object };

        if (!path || asprintf(&selector, "metadata.name=%s", c->node->settings->node) < 0)
                return -ENOMEM;
        spec.field_selector = selector;
        return kube_watch_new(c->node->kube, &spec, c, &c->watch);
}

int capacity_new(Node *n, Capacity **ret) {
        _cleanup_(capacity_freep) Capacity *c = new(Capacity);
        _cleanup_(freep) char *path = NULL;
        int r;

        if (!c)
                return -ENOMEM;
        *c = (Capacity) { .node = n };

        r = make_owner(&c->owner);
        if (r < 0)
                return r;
        if (asprintf(&c->value, "%" PRIi32, n->settings->limit) < 0) {
                c->value = NULL;
                return -ENOMEM;
        }
        path = path_of_owner_file(c);
        if (!path)
                return -ENOMEM;
        r = read_full_file_at(AT_FDCWD, path, OWNER_SIZE_MAX, &c->former, /* ret_size= */ NULL);
        if (r < 0 && r != -ENOENT)
                log_warning_errno(r, "Failed to read '%s', ignoring: %m", path);
        r = start_watch(c);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(c);
        return 0;
}

Capacity* capacity_free(Capacity *c) {
        if (!c)
                return NULL;

        kube_watch_free(c->watch);
        kube_request_free(c->request);
        sd_event_source_disable_unref(c->again);
        json_object_put(c->object);
        free(c->owner);
        free(c->former);
        free(c->value);
        free(c);
        return NULL;
}

static void on_withdrawn(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Capacity *c = userdata;

        c->request = kube_request_free(c->request);
        if (reply->error == 0) {
                log_full(NULL, LOG_NOTICE, MSG_NODE_CAPACITY, 0, "Node '%s' offers no " PEERPOD_RESOURCE " any more.", c->node->settings->node);
                forget_owner(c);
        } else
                log_warning("Failed to withdraw what node '%s' offers, leaving it: %s", c->node->settings->node, reply->text);
        c->done(c->userdata);
}

static int begin_withdrawal(Capacity *c) {
        json_object *patch;
        int r;

        r = make_withdrawal(c->owner, &patch);
        if (r >= 0)
                r = send_patch(c, patch, WITHDRAW_TIMEOUT_USEC, on_withdrawn);
        if (r < 0)
                return log_warning_errno(r, "Failed to withdraw what node '%s' offers, leaving it: %m", c->node->settings->node);
        return 1;
}

static void withdraw(Capacity *c) {
        if (begin_withdrawal(c) < 0)
                c->done(c->userdata);
}

int capacity_withdraw(Capacity *c, void (*done)(void *userdata), void *userdata) {
        c->withdrawing = true;
        c->again = sd_event_source_disable_unref(c->again);
        if (!c->asked)
                return 0;

        c->done = done;
        c->userdata = userdata;
        /* What is under way might be done after the withdrawal: its answer is waited for, or a timer. */
        if (c->request && sd_event_add_time_relative(c->node->event, &c->again, CLOCK_MONOTONIC, WITHDRAW_TIMEOUT_USEC, 0, on_again, c) >= 0)
                return 1;
        return begin_withdrawal(c);
}
