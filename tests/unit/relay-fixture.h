/* SPDX-License-Identifier: Apache-2.0 */
/* What the relay's tests share: a relay in its real loop, with socket pairs for callers and upstream. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <systemd/sd-event.h>

#include "basic/util.h"
#include "ttrpc/relay.h"

#define N_CLIENTS_MAX 8

typedef struct Fixture {
        sd_event *event;
        Relay *relay;
        int upstream;                   /* the far ends */
        int clients[N_CLIENTS_MAX];
        unsigned n_wanted, n_lost, n_closed, n_answers;
        int last_code, lost_error;
        size_t n_connections;
        size_t own_fds;
} Fixture;

/* Without an upstream or clients; or with an upstream and two clients. */
int setup(void **state);
int setup_two(void **state);
int teardown(void **state);          /* fails the test that has leaked a descriptor */

/* make_relay() - another one, with the fixture's rules */
int make_relay(Fixture *f, Relay **ret);
void add_client(Fixture *f, size_t i);
void add_upstream(Fixture *f);

/* on_answer() - of a call of our own: counts them, and keeps the code; @userdata is the fixture */
void on_answer(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata);

/* turn() - the loop, until nothing more happens */
void turn(Fixture *f);

size_t make_frame(uint8_t *p, uint32_t id, uint8_t type, uint8_t flags, const void *data, size_t size);
/* { service: "s", method: METHOD, payload: … } */
size_t make_request(uint8_t *p, uint32_t id, uint8_t flags, const char *method, const char *payload);

void put(int fd, const void *data, size_t size);
void request(Fixture *f, size_t client, uint32_t id, const char *method, const char *payload);          /* and turn */
void answer(Fixture *f, uint32_t id, const char *data);

/* take() - the next frame; its data are in a static buffer */
TtrpcHeader take(int fd, const uint8_t **ret);
bool nothing_to_read(int fd);
void expect_status(int fd, uint32_t id, int code, const char *text);       /* @text: NULL is any */
void expect_end(int fd);
