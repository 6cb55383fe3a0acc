/* SPDX-License-Identifier: Apache-2.0 */
/* The real peerpod-adaptor and peerpod-providerd (with the module whose instances are files) on a private bus, between a client that
 * plays kata's shim and doubles of systemd, polkit and the tunnel service (adaptor-fakes.c). */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include <cmocka.h>

#include "basic/util.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/podvminfo.pb-c.h"
#include "ttrpc/client.h"

#define NAME "org.confidentialcontainers.PeerPod1"
#define ROOT "/org/confidentialcontainers/PeerPod1"
#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define INSTANCE "podvm-web-01234567"
#define NETNS "/run/netns/cni-test"
#define P "io.katacontainers.config.hypervisor."
#define PATIENCE_USEC (60 * USEC_PER_SEC)

/* From the command line. */
extern const char *adaptor_program, *providerd_program, *module_directory, *fakes_program;

typedef struct Test {
        char dir[64];
        pid_t dbus, fakes, provider, adaptor;
        sd_event *event;
        sd_bus *bus;
} Test;

/* Turns the client's loop until a thing is so. */
#define wait_until(t, condition)                                                                        \
        do {                                                                                            \
                uint64_t _end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;                              \
                                                                                                        \
                while (!(condition)) {                                                                  \
                        if (now_usec(CLOCK_MONOTONIC) > _end)                                           \
                                fail_msg("never came true: %s", #condition);                            \
                        (void) sd_event_run((t)->event, 10 * USEC_PER_MSEC);                            \
                }                                                                                       \
        } while (false)

typedef struct Call {
        bool done;
        int32_t code;
        char text[512];
        char value[256];                /* the one string of the answer */
        const ProtobufCMessageDescriptor *type;
} Call;

typedef struct Annotation {
        const char *key, *value;
} Annotation;

/* What the next start of a program gets in addition; NULL for nothing, as after each test. */
extern const char *const *adaptor_options, *const *provider_options;

/* Takes the four programs, which stand first, and $CMOCKA_TEST_FILTER, for tests of one at a time. False if there are not @n arguments. */
bool take_arguments(int argc, char *argv[], int n);

/* ---- fixture: all of it started, in a directory of its own ---- */
int setup(void **state);
int setup_curious(void **state);        /* with an adaptor that looks for orphans several times a second */
int teardown(void **state);             /* fails if the adaptor did not end with 0: a crash, a sanitizer's report */

/* ---- processes ---- */
pid_t spawn(const char *program, const char *const *args);
int end_process(pid_t *pid, int sig);
void start_provider(Test *t);
void start_fakes(Test *t);
void start_adaptor(Test *t);
void end_adaptor(Test *t, int sig);
void restart_adaptor(Test *t, int sig);
unsigned n_descriptors(pid_t pid);

/* ---- files ---- */
char* path_of(const Test *t, const char *name);         /* one of the last eight; not to be freed */
void write_text(const char *path, const char *text);
char* read_text(const char *path);                      /* "" if there is none */
bool exists(const char *path);
unsigned entries(const char *path);                     /* of a directory, without those that begin with a dot */
unsigned count(const char *path, const char *needle);

/* ---- the doubles ---- */
void control_fakes(const Test *t, const char *text);
void control_provider(const Test *t, const char *text);
void tell_fakes(Test *t, const char *method, const char *one, const char *two); /* one of the test's own methods; @two may be NULL */
unsigned n_left_at_fakes(Test *t);                      /* units that run, and tunnels */
void let_the_cloud_be_asked(Test *t, unsigned n);       /* so many more times for its instances */
bool called(const Test *t, const char *line);
bool instance_exists(const Test *t);
bool all_gone(const Test *t);                           /* nothing of any sandbox is left anywhere */

/* ---- the shim ---- */
TtrpcClient* connect_shim(Test *t);
void begin_create(TtrpcClient *client, Call *c, const char *id, const char *netns, const char *pod, const Annotation *extra);
void begin_start(TtrpcClient *client, Call *c, const char *id, uint64_t timeout_usec);
void begin_stop(TtrpcClient *client, Call *c, const char *id);
void begin_get_info(TtrpcClient *client, Call *c, const char *pod, bool wait, uint64_t timeout_usec);
void finish(Test *t, Call *c, int32_t code);
void create_ok(Test *t, TtrpcClient *client);           /* of sandbox ID */
void start_ok(Test *t, TtrpcClient *client);
void stop_ok(Test *t, TtrpcClient *client);

/* ---- the bus ---- */
const char* property_of(Test *t, const char *id, const char *name);     /* a string; "" if there is no such sandbox */
const char* property(Test *t, const char *name);                        /* of sandbox ID */
