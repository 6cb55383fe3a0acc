/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/vm.h"

#include <systemd/sd-bus.h>

#include "basic/util.h"
#include "kube/csi/task.h"
#include "kube/csi/wrapper.h"
#include "proto/podvminfo.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/client.h"

#define ADAPTOR_NAME "org.confidentialcontainers.PeerPod1"
#define ADAPTOR_PATH "/org/confidentialcontainers/PeerPod1"
#define ANSWER_USEC (10 * USEC_PER_SEC)

/* ---- PodVMInfo ---- */

typedef struct Find {
        TtrpcSlot *slot;
        void (*found)(Task *t, const char *vm_id, const char *reason);
} Find;

static void find_free(void *query) {
        Find *f = query;

        ttrpc_slot_free(f->slot);
        free(f);
}

static void on_info(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        _cleanup_(freep) char *reason = NULL;
        Task *t = userdata;
        Find *f = t->query;
        void (*found)(Task*, const char*, const char*) = f->found;
        const char *id = NULL;

        if (reply->error < 0)
                reason = strdup(reply->message);
        else if (proto_unpack(&podvminfo__get_info_response__descriptor, reply->payload, reply->size, &m) >= 0)
                id = ((Podvminfo__GetInfoResponse*) m)->vmid;
        task_answered(t);
        found(t, isempty(id) ? NULL : id, reason ?: "The adaptor's answer names no VM.");
}

static int connect_adaptor(Wrapper *w) {
        if (w->adaptor && ttrpc_client_is_connected(w->adaptor))
                return 0;
        w->adaptor = ttrpc_client_free(w->adaptor);
        return ttrpc_client_new_unix(w->event, w->settings->vm_socket, &w->adaptor);
}

void vm_find(Task *t, const char *pod_namespace, const char *pod_name, void (*found)(Task *t, const char *vm_id, const char *reason)) {
        Podvminfo__GetInfoRequest request = PODVMINFO__GET_INFO_REQUEST__INIT;
        Find *f;
        int r;

        f = new(Find);
        if (!f) {
                found(t, NULL, "Out of memory.");
                return;
        }
        *f = (Find) { .found = found };
        request.podname = (char*) pod_name;
        request.podnamespace = (char*) pod_namespace;
        r = connect_adaptor(t->wrapper);
        if (r >= 0)
                r = ttrpc_client_call_message(t->wrapper->adaptor, "podvminfo.PodVMInfo", "GetInfo", &request.base, ANSWER_USEC,
                                              /* metadata= */ NULL, on_info, t, &f->slot);
        if (r < 0) {
                find_free(f);
                found(t, NULL, strerror(-r));
                return;
        }
        task_ask(t, f, find_free);
}

/* ---- GetManagedObjects ---- */

typedef struct Look {
        sd_bus_slot *slot;
        char *vm_id;
        void (*seen)(Task *t, int exists, const char *reason);
} Look;

static void look_free(void *query) {
        Look *l = query;

        sd_bus_slot_unref(l->slot);
        free(l->vm_id);
        free(l);
}

/* Returns 1 if one of them is @vm_id, 0, or -errno. Each goes to the end of what it reads. */
static int find_in_properties(sd_bus_message *m, const char *vm_id) {
        const char *name, *value;
        int r, found = 0;

        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = sd_bus_message_read(m, "s", &name);
                if (r < 0)
                        return r;
                if (streq(name, "InstanceId")) {
                        r = sd_bus_message_read(m, "v", "s", &value);
                        found = found || (r >= 0 && streq(value, vm_id));
                } else
                        r = sd_bus_message_skip(m, "v");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        return r < 0 ? r : found;
}

static int find_in_interfaces(sd_bus_message *m, const char *vm_id) {
        int r, found = 0;

        r = sd_bus_message_enter_container(m, 'a', "{sa{sv}}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sa{sv}")) > 0) {
                r = sd_bus_message_skip(m, "s");
                if (r >= 0)
                        r = find_in_properties(m, vm_id);
                found = found || r > 0;
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        return r < 0 ? r : found;
}

static int find_in_objects(sd_bus_message *m, const char *vm_id) {
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{oa{sa{sv}}}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "oa{sa{sv}}")) > 0) {
                r = sd_bus_message_skip(m, "o");
                if (r >= 0)
                        r = find_in_interfaces(m, vm_id);
                if (r > 0)
                        return r;
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r;
}

static int on_list(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const sd_bus_error *e = sd_bus_message_get_error(m);
        Task *t = userdata;
        Look *l = t->query;
        void (*seen)(Task*, int, const char*) = l->seen;
        _cleanup_(freep) char *reason = e ? strdup(strempty(e->message)) : NULL;
        int r = e ? -EIO : find_in_objects(m, l->vm_id);

        task_answered(t);
        seen(t, r, reason ?: r < 0 ? "The adaptor's answer cannot be read." : "");
        return 0;
}

/* A bus that was lost is opened again for the next question. */
static int connect_bus(Wrapper *w) {
        int r;

        if (w->bus && sd_bus_is_open(w->bus) > 0)
                return 0;
        w->bus = sd_bus_close_unref(w->bus);
        r = sd_bus_open_system(&w->bus);
        if (r < 0)
                return r;
        return sd_bus_attach_event(w->bus, w->event, SD_EVENT_PRIORITY_NORMAL);
}

static int look_begin(Task *t, Look *l) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        r = connect_bus(t->wrapper);
        if (r < 0)
                return r;
        r = sd_bus_message_new_method_call(t->wrapper->bus, &m, ADAPTOR_NAME, ADAPTOR_PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects");
        if (r < 0)
                return r;
        return sd_bus_call_async(t->wrapper->bus, &l->slot, m, on_list, t, ANSWER_USEC);
}

void vm_look(Task *t, const char *vm_id, void (*seen)(Task *t, int exists, const char *reason)) {
        Look *l;
        int r;

        l = new(Look);
        if (!l) {
                seen(t, -ENOMEM, "Out of memory.");
                return;
        }
        *l = (Look) { .seen = seen, .vm_id = strdup(vm_id) };
        r = l->vm_id ? look_begin(t, l) : -ENOMEM;
        if (r < 0) {
                look_free(l);
                seen(t, r, strerror(-r));
                return;
        }
        task_ask(t, l, look_free);
}

void vm_disconnect(Wrapper *w) {
        w->adaptor = ttrpc_client_free(w->adaptor);
        w->bus = sd_bus_close_unref(w->bus);
}
