/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/hypervisor-service.h"

#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "adaptor/error.h"
#include "adaptor/manager.h"
#include "adaptor/pod.h"
#include "adaptor/sandbox.h"
#include "basic/crash-point.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/sandbox-store.h"
#include "basic/util.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/podvminfo.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/server.h"

/* What the service answers to Version, whatever its own is (cloud-api-adaptor: pkg/adaptor/cloud/cloud.go). Nobody calls it. */
#define HYPERVISOR_VERSION "0.0.0"
#define INFO_WAITERS_MAX 1024U

/* A shim's call that waits for its sandbox. */
typedef struct Pending {
        HypervisorService *service;     /* borrowed */
        LIST_ENTRY(Pending) pending;
        TtrpcCall *call;
        SandboxWaiter *waiter;
} Pending;

/* A GetInfo that waits for the instance of a pod. */
struct InfoWaiter {
        HypervisorService *service;     /* borrowed */
        LIST_ENTRY(InfoWaiter) waiters, of_pod;
        Pod *pod;                       /* borrowed; lives as long as somebody waits for it */
        TtrpcCall *call;
};

struct HypervisorService {
        Manager *manager;               /* borrowed */
        TtrpcServer *server;
        LIST_HEAD(, Pending) pending;
        LIST_HEAD(, InfoWaiter) info_waiters;
        unsigned n_info_waiters;
};

static void pending_free(Pending *p) {
        LIST_REMOVE(p, pending);
        ttrpc_call_set_cancelled_handler(p->call, NULL, NULL);
        ttrpc_call_unref(p->call);
        free(p);
}

/* kata takes any text with "not found" or "not exist" for containerd's NotFound, which to its callers is as good as gone
 * (kata-containers: src/runtime/pkg/containerd-shim-v2/errors.go). A cloud that has no such image says just that. */
static void hide_from_kata(char *text) {
        static const char *const words[] = { "not found", "not exist" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                for (char *p = text; (p = strstr(p, words[i]));)
                        p[strlen("not")] = '-';
}

static int reply_reason(TtrpcCall *call, TtrpcCode code, const char *reason) {
        _cleanup_(freep) char *text = NULL;

        text = strdup(reason);
        if (!text)
                return ttrpc_call_reply_status(call, code, "out of memory for the reason");
        if (code != TTRPC_NOT_FOUND)
                hide_from_kata(text);
        return ttrpc_call_reply_status(call, code, "%s", text);
}

static int reply_error(TtrpcCall *call, const sd_bus_error *error) {
        return reply_reason(call, error_to_code(error), error_get_text(error));
}

static int reply_being_deleted(TtrpcCall *call, const Sandbox *s) {
        _cleanup_(freep) char *text = NULL;

        if (asprintf(&text, "sandbox %s is being deleted%s%s", s->record.id, isempty(s->record.last_error) ? "" : ": ",
                     strempty(s->record.last_error)) < 0) {
                text = NULL;
                return -ENOMEM;
        }
        return reply_reason(call, TTRPC_FAILED_PRECONDITION, text);
}

static int reply_created(TtrpcCall *call, const Sandbox *s) {
        Hypervisor__CreateVMResponse response = HYPERVISOR__CREATE_VMRESPONSE__INIT;

        response.agentsocketpath = s->agent_socket;
        return ttrpc_call_reply_message(call, &response.base);
}

static int reply_started(TtrpcCall *call) {
        Hypervisor__StartVMResponse response = HYPERVISOR__START_VMRESPONSE__INIT;

        return ttrpc_call_reply_message(call, &response.base);
}

static int reply_stopped(TtrpcCall *call) {
        Hypervisor__StopVMResponse response = HYPERVISOR__STOP_VMRESPONSE__INIT;

        return ttrpc_call_reply_message(call, &response.base);
}

static void on_create_done(Sandbox *s, const sd_bus_error *error, void *userdata) {
        Pending *p = userdata;

        (void) (error ? reply_error(p->call, error) : reply_created(p->call, s));
        pending_free(p);
}

static void on_start_done(Sandbox *s, const sd_bus_error *error, void *userdata) {
        Pending *p = userdata;

        (void) (error ? reply_error(p->call, error) : reply_started(p->call));
        pending_free(p);
}

static void on_stop_done(Sandbox *s, const sd_bus_error *error, void *userdata) {
        Pending *p = userdata;

        (void) (error ? reply_error(p->call, error) : reply_stopped(p->call));
        pending_free(p);
}

static void on_cancelled(TtrpcCall *call, int reason, void *userdata) {
        Pending *p = userdata;
        SandboxWaiter *w = p->waiter;

        pending_free(p);                /* the server answers a deadline that has passed */
        sandbox_waiter_cancel(w);
}

/* The handler of a goal may run as soon as something moves, so this comes before anything is set in motion. */
static int wait_for(HypervisorService *h, Sandbox *s, SandboxGoal goal, SandboxDone done, TtrpcCall *call) {
        Pending *p;
        int r;

        p = new(Pending);
        if (!p)
                return -ENOMEM;
        *p = (Pending) { .service = h };

        r = sandbox_wait(s, goal, done, p, &p->waiter);
        if (r < 0) {
                free(p);
                return r;
        }

        p->call = ttrpc_call_ref(call);
        LIST_INSERT_HEAD(&h->pending, p, pending);
        ttrpc_call_set_cancelled_handler(call, on_cancelled, p);
        return 0;
}

static int refuse(TtrpcCall *call, const char *text) {
        return ttrpc_call_reply_status(call, TTRPC_INVALID_ARGUMENT, "%s", text ?: "out of memory");
}

static int parse_request(TtrpcCall *call, const Hypervisor__CreateVMRequest *message, CreateRequest *ret) {
        _cleanup_(create_request_done) CreateRequest request = CREATE_REQUEST_NULL;
        _cleanup_(freep) char *reason = NULL;
        int r;

        if (isempty(message->id)) {
                (void) refuse(call, "empty sandbox id");
                return -EINVAL;
        }
        if (!sandbox_id_is_valid(message->id)) {
                (void) refuse(call, "sandbox id is not made of 1 to 64 letters, digits, '.', '_' and '-'");
                return -EINVAL;
        }
        if (isempty(message->networknamespacepath)) {
                (void) refuse(call, "network namespace path is empty: the pod needs a network of its own, host network is not possible");
                return -EINVAL;
        }
        if (message->networknamespacepath[0] != '/' || !text_is_plain(message->networknamespacepath, NETNS_PATH_MAX)) {
                (void) refuse(call, "network namespace path is not an absolute path");
                return -EINVAL;
        }

        for (size_t i = 0; i < message->n_annotations; i++) {
                r = create_request_add(&request, strempty(message->annotations[i]->key), strempty(message->annotations[i]->value), &reason);
                if (r < 0) {
                        (void) refuse(call, reason);
                        return r;
                }
        }
        r = create_request_check(&request, &reason);
        if (r < 0) {
                (void) refuse(call, reason);
                return r;
        }

        *ret = request;
        request = CREATE_REQUEST_NULL;
        return 0;
}

/* kata may ask again for what it has: same answer. */
static int create_known(HypervisorService *h, TtrpcCall *call, Sandbox *s, const char *netns_path, const CreateRequest *request) {
        if (s->record.state == SANDBOX_DELETING)
                return reply_being_deleted(call, s);
        if (!sandbox_matches(s, netns_path, request))
                return ttrpc_call_reply_status(call, TTRPC_ALREADY_EXISTS,
                                               "adding sandbox: sandbox %s already exists, for another pod or network namespace", s->record.id);
        if (s->record.state == SANDBOX_PLANNED && s->todo != 0)
                return wait_for(h, s, GOAL_PLANNED, on_create_done, call);

        return reply_created(call, s);
}

static int method_create(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *base = NULL;
        _cleanup_(create_request_done) CreateRequest request = CREATE_REQUEST_NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        HypervisorService *h = userdata;
        Manager *m = h->manager;
        const Hypervisor__CreateVMRequest *message;
        Sandbox *s;
        int r;

        r = ttrpc_call_unpack(call, &hypervisor__create_vmrequest__descriptor, payload, size, &base);
        if (r < 0)
                return r;
        message = (const Hypervisor__CreateVMRequest*) base;
        r = parse_request(call, message, &request);
        if (r < 0)
                return r;               /* answered */

        s = manager_find_sandbox(m, message->id);
        if (s)
                return create_known(h, call, s, message->networknamespacepath, &request);
        if (m->n_sandboxes >= SANDBOXES_MAX)
                return ttrpc_call_reply_status(call, TTRPC_RESOURCE_EXHAUSTED, "%u sandboxes are as many as one node may have",
                                               SANDBOXES_MAX);

        if (sandbox_store_holds(m->store, message->id))
                return ttrpc_call_reply_status(call, TTRPC_FAILED_PRECONDITION,
                                               "sandbox %s has a record that this version cannot read; StopVM removes it", message->id);

        r = sandbox_new(m, message->id, message->networknamespacepath, &request, &s);
        if (r < 0)
                return r;
        r = wait_for(h, s, GOAL_PLANNED, on_create_done, call);
        if (r < 0) {
                sandbox_free(s);
                return r;
        }

        crash_point("create-received");
        manager_retire_older(m, s);
        r = sandbox_plan(s, &error);
        if (r < 0)
                sandbox_fail(s, &error);
        else
                sandbox_advance(s);
        return 0;
}

static int method_start(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *base = NULL;
        HypervisorService *h = userdata;
        struct ucred peer;
        const char *id;
        Sandbox *s;
        int r;

        r = ttrpc_call_unpack(call, &hypervisor__start_vmrequest__descriptor, payload, size, &base);
        if (r < 0)
                return r;
        id = strempty(((const Hypervisor__StartVMRequest*) base)->id);
        if (id[0] == '\0')
                return refuse(call, "getting sandbox: empty sandbox id");

        s = manager_find_sandbox(h->manager, id);
        if (!s)
                return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "getting sandbox: sandbox %.64s does not exist", id);

        if (s->record.state < SANDBOX_DELETING && ttrpc_call_get_peer_cred(call, &peer) >= 0)
                shim_watch_set_caller(s, peer.pid);

        switch (s->record.state) {

        case SANDBOX_RUNNING:
                return reply_started(call);

        case SANDBOX_DELETING:
                return reply_being_deleted(call, s);

        default:
                r = wait_for(h, s, GOAL_RUNNING, on_start_done, call);
                if (r < 0)
                        return r;
                sandbox_advance(s);
                return 0;
        }
}

static int method_stop(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *base = NULL;
        HypervisorService *h = userdata;
        const char *id;
        Sandbox *s;
        int r;

        r = ttrpc_call_unpack(call, &hypervisor__stop_vmrequest__descriptor, payload, size, &base);
        if (r < 0)
                return r;
        id = strempty(((const Hypervisor__StopVMRequest*) base)->id);
        if (id[0] == '\0')
                return refuse(call, "stopping VM: empty sandbox id");

        s = manager_find_sandbox(h->manager, id);
        if (!s && sandbox_id_is_valid(id)) {
                r = manager_forget_unreadable(h->manager, id, &s);
                if (r < 0)
                        return r;
        }
        if (!s) {
                /* It is what the shim wants; an error would only be a puzzle in the pod's events. */
                log_debug("StopVM for sandbox '%.64s', which is not known: nothing to do.", id);
                return reply_stopped(call);
        }

        /* runtime-rs waits one second, so the answer is that it will be done, not that it is. */
        crash_point("stop-received");
        r = sandbox_stop(s, "StopVM has come");
        crash_point("stop-noted");
        if (r < 0)
                return wait_for(h, s, GOAL_GONE, on_stop_done, call);

        return reply_stopped(call);
}

static int method_version(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *base = NULL;
        Hypervisor__VersionResponse response = HYPERVISOR__VERSION_RESPONSE__INIT;
        int r;

        r = ttrpc_call_unpack(call, &hypervisor__version_request__descriptor, payload, size, &base);
        if (r < 0)
                return r;

        response.version = (char*) HYPERVISOR_VERSION;
        return ttrpc_call_reply_message(call, &response.base);
}

/* The pod's sandbox that is not on its way out; the one with an instance, if there are several. */
static Sandbox* find_live_sandbox(const Pod *pod) {
        Sandbox *s, *found = NULL;

        TAILQ_FOREACH(s, &pod->sandboxes, of_pod) {
                if (s->record.state >= SANDBOX_DELETING)
                        continue;
                if (!found || s->record.instance_id)
                        found = s;
        }

        return found;
}

static int reply_info(TtrpcCall *call, const Sandbox *s) {
        Podvminfo__GetInfoResponse response = PODVMINFO__GET_INFO_RESPONSE__INIT;

        response.vmid = s->record.instance_id;
        return ttrpc_call_reply_message(call, &response.base);
}

static int reply_no_info(TtrpcCall *call, const char *pod_name, const char *pod_namespace) {
        return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "VM ID for %s:%s was not found", pod_namespace, pod_name);
}

static void info_waiter_free(InfoWaiter *w) {
        LIST_REMOVE(w, waiters);
        LIST_REMOVE(w, of_pod);
        pod_drop_if_empty(&w->service->manager->pods, w->pod);
        w->service->n_info_waiters--;
        ttrpc_call_set_cancelled_handler(w->call, NULL, NULL);
        ttrpc_call_unref(w->call);
        free(w);
}

static void on_info_cancelled(TtrpcCall *call, int reason, void *userdata) {
        info_waiter_free(userdata);     /* the server answers a deadline that has passed */
}

static int wait_for_info(HypervisorService *h, TtrpcCall *call, const char *pod_name, const char *pod_namespace) {
        InfoWaiter *w;

        if (h->n_info_waiters >= INFO_WAITERS_MAX)
                return ttrpc_call_reply_status(call, TTRPC_RESOURCE_EXHAUSTED, "%u callers wait already", INFO_WAITERS_MAX);

        w = new(InfoWaiter);
        if (!w)
                return -ENOMEM;
        *w = (InfoWaiter) { .service = h, .pod = pod_get(&h->manager->pods, pod_namespace, pod_name) };
        if (!w->pod) {
                free(w);
                return -ENOMEM;
        }

        w->call = ttrpc_call_ref(call);
        LIST_INSERT_HEAD(&h->info_waiters, w, waiters);
        LIST_INSERT_HEAD(&w->pod->waiters, w, of_pod);
        h->n_info_waiters++;
        ttrpc_call_set_cancelled_handler(call, on_info_cancelled, w);
        return 0;
}

static int method_get_info(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *base = NULL;
        HypervisorService *h = userdata;
        const Podvminfo__GetInfoRequest *message;
        const char *pod_name, *pod_namespace;
        const Sandbox *s;
        const Pod *pod;
        int r;

        r = ttrpc_call_unpack(call, &podvminfo__get_info_request__descriptor, payload, size, &base);
        if (r < 0)
                return r;
        message = (const Podvminfo__GetInfoRequest*) base;

        pod_name = strempty(message->podname);
        pod_namespace = strempty(message->podnamespace);

        pod = pod_find(h->manager->pods, pod_namespace, pod_name);
        s = pod ? find_live_sandbox(pod) : NULL;
        if (s && s->record.instance_id)
                return reply_info(call, s);
        if (message->wait)
                return wait_for_info(h, call, pod_name, pod_namespace);

        return reply_no_info(call, pod_name, pod_namespace);
}

void hypervisor_service_sandbox_changed(HypervisorService *h, Sandbox *s) {
        Pod *pod = s->pod;
        InfoWaiter *w;

        if (!pod)
                return;
        if (s->record.state >= SANDBOX_DELETING && find_live_sandbox(pod))
                return;                 /* a newer sandbox of the pod is on its way */
        if (s->record.state < SANDBOX_DELETING && !s->record.instance_id)
                return;

        while ((w = LIST_FIRST(&pod->waiters))) {       /* the pod stays: it has this sandbox */
                (void) (s->record.state >= SANDBOX_DELETING ? reply_no_info(w->call, s->record.pod_name, s->record.pod_namespace) :
                                                              reply_info(w->call, s));
                info_waiter_free(w);
        }
}

static const TtrpcMethod hypervisor_methods[] = {
        { "CreateVM", method_create },
        { "StartVM",  method_start },
        { "StopVM",   method_stop },
        { "Version",  method_version },
        {}
};

static const TtrpcMethod info_methods[] = {
        { "GetInfo", method_get_info },
        {}
};

int hypervisor_service_new(Manager *m, int listen_fd, HypervisorService **ret) {
        _cleanup_(hypervisor_service_freep) HypervisorService *h = NULL;
        _cleanup_(close_fdp) int fd = listen_fd;
        int r;

        h = new(HypervisorService);
        if (!h)
                return -ENOMEM;
        *h = (HypervisorService) { .manager = m };
        LIST_INIT(&h->pending);
        LIST_INIT(&h->info_waiters);

        r = ttrpc_server_new(m->event, &h->server);
        if (r < 0)
                return r;
        r = ttrpc_server_add_service(h->server, "hypervisor.Hypervisor", hypervisor_methods, h);
        if (r < 0)
                return r;
        r = ttrpc_server_add_service(h->server, "podvminfo.PodVMInfo", info_methods, h);
        if (r < 0)
                return r;
        r = ttrpc_server_allow_uid(h->server, 0);
        if (r < 0)
                return r;
        r = ttrpc_server_allow_uid(h->server, geteuid());
        if (r < 0)
                return r;
        r = ttrpc_server_add_listen_fd(h->server, TAKE_FD(fd));
        if (r < 0)
                return r;

        *ret = TAKE_PTR(h);
        return 0;
}

HypervisorService* hypervisor_service_free(HypervisorService *h) {
        Pending *p;
        InfoWaiter *w;

        if (!h)
                return NULL;

        /* Not a cancel: what a start has begun stays on record, for the next adaptor to clean up. */
        while ((p = LIST_FIRST(&h->pending))) {
                (void) ttrpc_call_reply_status(p->call, TTRPC_UNAVAILABLE, "the adaptor is being stopped");
                sandbox_waiter_forget(p->waiter);
                pending_free(p);
        }
        while ((w = LIST_FIRST(&h->info_waiters))) {
                (void) ttrpc_call_reply_status(w->call, TTRPC_UNAVAILABLE, "the adaptor is being stopped");
                info_waiter_free(w);
        }
        ttrpc_server_free(h->server);
        free(h);
        return NULL;
}
