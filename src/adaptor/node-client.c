/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/node-client.h"

#include <string.h>
#include <systemd/sd-event.h>

#include "adaptor/error.h"
#include "adaptor/request.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"

#define NODE_NAME "org.confidentialcontainers.PeerPodNode1"
#define NODE_PATH "/org/confidentialcontainers/PeerPodNode1"
#define NODE_INTERFACE NODE_NAME

/* It answers within five seconds, whatever the API server does; a restart in between is added. */
#define REGISTER_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define AGAIN_USEC (200 * USEC_PER_MSEC)
#define AUTH_SIZE_MAX (UINT32_C(64) << 10)      /* clouds end at 64 KiB of user data */

typedef enum Presence {
        PRESENCE_UNKNOWN,               /* not told yet by the bus */
        PRESENCE_ABSENT,
        PRESENCE_THERE,
} Presence;

struct NodeClient {
        sd_bus *bus;                    /* borrowed */
        sd_bus_slot *owner_changed, *get_owner;
        Presence presence;
        bool absence_told;
};

struct NodeCall {
        NodeClient *client;             /* borrowed */
        const SandboxRecord *record;    /* borrowed */
        const char *provider;           /* borrowed */
        NodeHandler handler;
        void *userdata;
        uint64_t end_usec;              /* CLOCK_MONOTONIC */
        bool broken;                    /* it was there when a try began */
        sd_bus_slot *slot;
        sd_event_source *again;
};

void node_answer_done(NodeAnswer *a) {
        free(a->pod_uid);
        erase_free_stringp(&a->auth);
        *a = (NodeAnswer) {};
}

static bool is_absence(const sd_bus_error *error) {
        return sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER) || sd_bus_error_has_name(error, SD_BUS_ERROR_SERVICE_UNKNOWN);
}

static void set_presence(NodeClient *c, bool there) {
        c->get_owner = sd_bus_slot_unref(c->get_owner);
        c->presence = there ? PRESENCE_THERE : PRESENCE_ABSENT;
        if (there)
                c->absence_told = false;
}

static int on_owner(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        set_presence(userdata, !sd_bus_message_is_method_error(reply, NULL));
        return 0;
}

static int on_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *name, *old, *new;

        if (sd_bus_message_read(m, "sss", &name, &old, &new) >= 0)
                set_presence(userdata, !isempty(new));
        return 0;
}

int node_client_new(sd_bus *bus, NodeClient **ret) {
        _cleanup_(node_client_freep) NodeClient *c = new(NodeClient);
        int r;

        if (!c)
                return -ENOMEM;
        *c = (NodeClient) { .bus = bus };

        r = sd_bus_add_match_async(bus, &c->owner_changed,
                                   "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                                   "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='" NODE_NAME "'",
                                   on_owner_changed, /* install_callback= */ NULL, c);
        if (r < 0)
                return r;
        r = sd_bus_call_method_async(bus, &c->get_owner, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                     "GetNameOwner", on_owner, c, "s", NODE_NAME);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(c);
        return 0;
}

NodeClient* node_client_free(NodeClient *c) {
        if (!c)
                return NULL;

        sd_bus_slot_unref(c->owner_changed);
        sd_bus_slot_unref(c->get_owner);
        free(c);
        return NULL;
}

bool node_client_is_there(NodeClient *c) {
        if (c->presence != PRESENCE_ABSENT)
                return true;

        if (!c->absence_told)
                log_info("There is no peerpod-node: sandboxes are started without a record in the cluster and without pull secrets.");
        c->absence_told = true;
        return false;
}

NodeCall* node_call_free(NodeCall *call) {
        if (!call)
                return NULL;

        sd_bus_slot_unref(call->slot);
        sd_event_source_disable_unref(call->again);
        free(call);
        return NULL;
}
DEFINE_CLEANUP(NodeCall*, node_call_free);

static int begin(NodeCall *call);

static int on_again(sd_event_source *es, uint64_t usec, void *userdata) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        NodeCall *call = userdata;
        int r;

        call->again = sd_event_source_disable_unref(call->again);
        r = begin(call);
        if (r < 0) {
                (void) error_set_errno(&error, r, "call peerpod-node");
                call->handler(call, NULL, &error, call->userdata);
        }
        return 0;
}

/* It has ended with our call in its hands, and systemd is about to start it again. */
static bool is_broken_off(NodeCall *call, const sd_bus_error *error) {
        if (is_absence(error))
                return call->broken;
        call->broken = sd_bus_error_has_name(error, SD_BUS_ERROR_NO_REPLY) || sd_bus_error_has_name(error, SD_BUS_ERROR_DISCONNECTED);
        return call->broken;
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *reterror) {
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        NodeCall *call = userdata;

        call->slot = sd_bus_slot_unref(call->slot);
        if (error && is_broken_off(call, error) && now_usec(CLOCK_MONOTONIC) + AGAIN_USEC < call->end_usec &&
            sd_event_add_time_relative(sd_bus_get_event(call->client->bus), &call->again, CLOCK_MONOTONIC, AGAIN_USEC, 0, on_again, call) >= 0)
                return 0;

        call->handler(call, error ? NULL : reply, error, call->userdata);
        return 0;
}

static int begin(NodeCall *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        const SandboxRecord *record = call->record;
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (now >= call->end_usec)
                return -ETIMEDOUT;
        r = sd_bus_message_new_method_call(call->client->bus, &m, NODE_NAME, NODE_PATH, NODE_INTERFACE, "Register");
        if (r < 0)
                return r;
        r = sd_bus_message_set_auto_start(m, false);
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "ssssss", record->id, record->pod_namespace, record->pod_name, strempty(record->pod_uid),
                                  record->instance_name, strempty(call->provider));
        if (r < 0)
                return r;
        return sd_bus_call_async(call->client->bus, &call->slot, m, on_reply, call, call->end_usec - now);
}

int node_register(NodeClient *c, const SandboxRecord *record, const char *provider, NodeHandler handler, void *userdata, NodeCall **ret) {
        _cleanup_(node_call_freep) NodeCall *call = new(NodeCall);
        int r;

        if (!call)
                return -ENOMEM;
        *call = (NodeCall) {
                .client = c,
                .record = record,
                .provider = provider,
                .handler = handler,
                .userdata = userdata,
                .end_usec = now_usec(CLOCK_MONOTONIC) + REGISTER_TIMEOUT_USEC,
        };
        r = begin(call);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(call);
        return 0;
}

int node_read_answer(sd_bus_message *reply, NodeAnswer *ret) {
        _cleanup_(node_answer_done) NodeAnswer a = {};
        const char *uid;
        int fd, recorded, r;

        r = sd_bus_message_read(reply, "sbh", &uid, &recorded, &fd);
        if (r < 0)
                return r;
        if (!text_is_plain(uid, POD_NAME_MAX))
                return -EBADMSG;

        r = memfd_read_sealed(fd, AUTH_SIZE_MAX, &a.auth, /* ret_size= */ NULL);
        if (r < 0)
                return r;
        if (isempty(a.auth)) {
                free(a.auth);
                a.auth = NULL;
        }
        if (!isempty(uid)) {
                a.pod_uid = strdup(uid);
                if (!a.pod_uid)
                        return -ENOMEM;
        }
        a.recorded = recorded;

        *ret = a;
        a = (NodeAnswer) {};
        return 0;
}
