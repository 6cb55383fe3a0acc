/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc-server-fixture.h"

#include <stdlib.h>

#include "proto/hypervisor.pb-c.h"
#include "proto/proto.h"

int method_echo(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Fixture *f = userdata;

        f->n_calls++;
        return ttrpc_call_reply(call, payload, size);
}

static int method_unpack(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        int r;

        r = ttrpc_call_unpack(call, &hypervisor__start_vmrequest__descriptor, payload, size, &m);
        if (r < 0)
                return r;
        return ttrpc_call_reply_message(call, m);
}

static void on_cancelled(TtrpcCall *call, int reason, void *userdata) {
        Fixture *f = userdata;

        f->n_cancelled++;
        f->reason = reason;
        if (f->answer_when_cancelled)
                assert_int_equal(ttrpc_call_reply_status(call, TTRPC_ABORTED, "gave up by itself"), 0);
        if (f->answer_others_when_cancelled)
                for (unsigned i = 0; i < f->n_kept; i++)
                        assert_true(f->kept[i] == call || ttrpc_call_reply(f->kept[i], NULL, 0) <= 0);
}

int method_keep(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Fixture *f = userdata;

        assert_true(f->n_kept < ELEMENTSOF(f->kept));
        f->n_calls++;
        f->kept[f->n_kept++] = ttrpc_call_ref(call);
        ttrpc_call_set_cancelled_handler(call, on_cancelled, f);
        return 0;
}

static int method_forget(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return 0;
}

static int method_errno(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return -ENOENT;
}

static int method_status(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply_status(call, TTRPC_FAILED_PRECONDITION, "bytes \xff\xc3 and \xe2\x82\xac");
}

static int method_twice(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        assert_int_equal(ttrpc_call_reply(call, "once", 4), 0);
        assert_false(ttrpc_call_is_active(call));
        return ttrpc_call_reply(call, "twice", 5);
}

static int method_big(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        uint8_t *data = calloc(1, TTRPC_DATA_MAX);
        int r;

        assert_non_null(data);
        /* The envelope adds a tag and four bytes of length, so this is the first size that does not fit. */
        r = ttrpc_call_reply(call, data, TTRPC_DATA_MAX - 4);
        free(data);
        assert_int_equal(r, -EMSGSIZE);
        return r;
}

/* Answers much more than was asked. */
static int method_inflate(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        static const uint8_t data[30000];
        Fixture *f = userdata;

        f->n_calls++;
        return ttrpc_call_reply(call, data, sizeof(data));
}

static int method_metadata(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Fixture *f = userdata;
        char key[64];

        assert_true(size < sizeof(key));
        memcpy(key, payload, size);
        key[size] = 0;
        (void) snprintf(f->text, sizeof(f->text), "%s/%s", ttrpc_call_get_service(call), ttrpc_call_get_method(call));

        const char *value = ttrpc_call_get_metadata(call, key);
        if (!value)
                return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "no such key");
        return ttrpc_call_reply(call, value, strlen(value));
}

static int method_credentials(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        struct ucred cred;
        int r;

        r = ttrpc_call_get_peer_cred(call, &cred);
        if (r < 0)
                return r;
        return ttrpc_call_reply(call, &cred, sizeof(cred));
}

static const TtrpcMethod methods[] = {
        { "Echo", method_echo },
        { "Unpack", method_unpack },
        { "Keep", method_keep },
        { "Forget", method_forget },
        { "Errno", method_errno },
        { "Status", method_status },
        { "Twice", method_twice },
        { "Big", method_big },
        { "Inflate", method_inflate },
        { "Metadata", method_metadata },
        { "Credentials", method_credentials },
        {}
};

int setup(void **state) {
        Fixture *f = calloc(1, sizeof(Fixture));

        assert_non_null(f);
        f->n_fds = count_fds();
        f->second.fd = -EBADF;
        assert_true(sd_event_new(&f->event) >= 0);
        assert_int_equal(ttrpc_server_new(f->event, &f->server), 0);
        assert_int_equal(ttrpc_server_add_service(f->server, SERVICE, methods, f), 0);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->peer, f->event)), 0);
        *state = f;
        return 0;
}

int teardown(void **state) {
        Fixture *f = *state;
        size_t n;

        /* A test that failed may have left calls; the server cancels them, their references are ours. */
        f->answer_when_cancelled = false;
        f->server = ttrpc_server_free(f->server);
        for (unsigned i = 0; i < f->n_kept; i++)
                ttrpc_call_unref(f->kept[i]);
        peer_done(&f->peer);
        peer_done(&f->second);
        sd_event_unref(f->event);
        n = count_fds();
        if (n != f->n_fds)
                print_error("%zu descriptors, %zu before the test\n", n, f->n_fds);
        n -= f->n_fds;
        free(f);
        return n == 0 ? 0 : -1;
}

void send_call(Peer *p, uint32_t id, const char *method, const char *payload) {
        peer_send_request(p, id, &(TtrpcRequest) {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice(method), .payload = ttrpc_slice(payload),
        });
}

void send_call_timeout(Peer *p, uint32_t id, const char *method, int64_t timeout_nano) {
        peer_send_request(p, id, &(TtrpcRequest) {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice(method), .timeout_nano = timeout_nano,
        });
}

void expect_alive(Peer *p, uint32_t id) {
        send_call(p, id, "Echo", "alive?");
        peer_expect_ok(p, id, "alive?", 6);
}
