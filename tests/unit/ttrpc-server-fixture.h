/* SPDX-License-Identifier: Apache-2.0 */
/* What the server's tests share: a server with methods of all kinds, and a peer that sends raw bytes, in the real loop over socketpairs. */
#pragma once

#include "ttrpc-fixture.h"
#include "ttrpc/server.h"

#define SERVICE "peerpod.test.Peer"

typedef struct Fixture {
        sd_event *event;
        TtrpcServer *server;
        Peer peer, second;
        size_t n_fds;
        TtrpcCall *kept[64];            /* what "Keep" did not answer */
        unsigned n_kept;
        unsigned n_calls;               /* handlers run */
        unsigned n_cancelled;
        int reason;
        bool answer_when_cancelled, answer_others_when_cancelled;
        bool drained;
        char text[256];
} Fixture;

int setup(void **state);
int teardown(void **state);             /* fails the test that has leaked a descriptor */

int method_echo(TtrpcCall *call, const void *payload, size_t size, void *userdata);
int method_keep(TtrpcCall *call, const void *payload, size_t size, void *userdata);    /* answers when the test does */

void send_call(Peer *p, uint32_t id, const char *method, const char *payload);
void send_call_timeout(Peer *p, uint32_t id, const char *method, int64_t timeout_nano);

/* expect_alive() - the connection is good: a call goes through */
void expect_alive(Peer *p, uint32_t id);
