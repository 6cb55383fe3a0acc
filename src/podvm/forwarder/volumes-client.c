/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/forwarder/volumes-client.h"

#include <utlist.h>

#include "basic/bus-private.h"
#include "basic/log.h"
#include "basic/util.h"
#include "podvm/volumes/volumes.h"

struct VolumesCall {
        VolumesClient *client;          /* borrowed */
        sd_bus_slot *slot;
        VolumesHandler handler;
        void *userdata;
        bool has_path;
        VolumesCall *prev, *next;
};

struct VolumesClient {
        sd_event *event;
        char *socket;
        sd_bus *bus;                    /* NULL until it is needed, and after it was lost */
        VolumesCall *calls;
};

VolumesCall* volumes_call_free(VolumesCall *call) {
        if (!call)
                return NULL;
        DL_DELETE(call->client->calls, call);
        sd_bus_slot_unref(call->slot);
        free(call);
        return NULL;
}

/* Calls that it has not answered will not be. */
static void disconnect(VolumesClient *c) {
        c->bus = sd_bus_close_unref(c->bus);
        while (c->calls) {
                VolumesHandler handler = c->calls->handler;
                void *userdata = c->calls->userdata;

                volumes_call_free(c->calls);
                handler(PEERPOD_ERROR_UNAVAILABLE, "podvm-volumes has ended", NULL, userdata);
        }
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        disconnect(userdata);
        return 1;
}

static int connect_bus(VolumesClient *c) {
        int r;

        if (c->bus && sd_bus_is_open(c->bus) > 0)
                return 0;
        disconnect(c);
        r = bus_private_connect(c->event, c->socket, &c->bus);
        if (r < 0)
                return r;
        r = sd_bus_match_signal(c->bus, NULL, NULL, "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local", "Disconnected",
                                on_disconnected, c);
        if (r < 0)
                disconnect(c);
        return r;
}

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *ret_error) {
        VolumesCall *call = userdata;
        VolumesHandler handler = call->handler;
        const sd_bus_error *e = sd_bus_message_get_error(m);
        void *data = call->userdata;
        const char *path = NULL;
        bool has_path = call->has_path;

        volumes_call_free(call);
        if (e)
                handler(e->name, e->message ?: e->name, NULL, data);
        else if (has_path && (sd_bus_message_read(m, "s", &path) < 0 || path[0] != '/'))
                handler(PEERPOD_ERROR_INTERNAL, "podvm-volumes has sent an answer of another form", NULL, data);
        else
                handler(NULL, NULL, path, data);
        return 1;
}

static int call_once(VolumesClient *c, const char *method, const char *container, const VolumeSpec *v, VolumesCall *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        r = connect_bus(c);
        if (r >= 0)
                r = sd_bus_message_new_method_call(c->bus, &m, NULL, VOLUMES_PATH, VOLUMES_INTERFACE, method);
        if (r >= 0)
                r = sd_bus_message_append(m, "s", container);
        if (r >= 0 && v)
                r = sd_bus_message_append(m, "ssususs", v->name, v->fs_type, v->lun, v->disk_id, (uint32_t) v->fs_group, v->encrypt_type, v->key_id);
        return r < 0 ? r : sd_bus_call_async(c->bus, &call->slot, m, on_answer, call, VOLUMES_CALL_USEC);
}

static int call_begin(VolumesClient *c, const char *method, const char *container, const VolumeSpec *v, VolumesHandler handler, void *userdata,
                      VolumesCall **ret_call) {
        VolumesCall *call = new(VolumesCall);
        int r;

        if (!call)
                return -ENOMEM;
        *call = (VolumesCall) { .client = c, .handler = handler, .userdata = userdata, .has_path = v };

        r = call_once(c, method, container, v, call);
        if (r == -ECONNRESET || r == -EPIPE || r == -ENOTCONN) {        /* it has ended, and we are the first to notice */
                disconnect(c);
                r = call_once(c, method, container, v, call);
        }
        if (r < 0) {
                free(call);
                return r;
        }
        DL_APPEND(c->calls, call);
        *ret_call = call;
        return 0;
}

int volumes_client_mount(VolumesClient *c, const char *container, const VolumeSpec *v, VolumesHandler handler, void *userdata,
                         VolumesCall **ret_call) {
        return call_begin(c, "Mount", container, v, handler, userdata, ret_call);
}

int volumes_client_release(VolumesClient *c, const char *container, VolumesHandler handler, void *userdata, VolumesCall **ret_call) {
        return call_begin(c, "Release", container, NULL, handler, userdata, ret_call);
}

int volumes_client_new(sd_event *event, const char *socket, VolumesClient **ret) {
        _cleanup_(volumes_client_freep) VolumesClient *c = new(VolumesClient);

        if (!c)
                return -ENOMEM;
        *c = (VolumesClient) { .event = sd_event_ref(event), .socket = strdup(socket) };
        if (!c->socket)
                return -ENOMEM;
        *ret = TAKE_PTR(c);
        return 0;
}

VolumesClient* volumes_client_free(VolumesClient *c) {
        if (!c)
                return NULL;
        while (c->calls)
                volumes_call_free(c->calls);
        disconnect(c);
        free(c->socket);
        sd_event_unref(c->event);
        free(c);
        return NULL;
}
