/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-tunneld in the lab's worker and pod-network in its pod VM, and the calls of the adaptor. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "basic/util.h"

#define RIG_PATIENCE_USEC (60 * USEC_PER_SEC)   /* for what has to happen; a busy machine may take its time */

extern const char *tunneld_program, *faulty_program, *pod_network_program;
extern pid_t daemon_pid;
extern sd_event *rig_event;
extern sd_bus *bus;                             /* to the daemon */

/* The socket that the daemon is started by, in a lab that is up. Returns 0. */
int rig_setup(void);
/* The lab, anew, with it; and the end of both. For cmocka. */
int lab_setup(void **state);
int lab_teardown(void **state);

/* main() of a test of peerpod-tunneld: programs and a filter from its arguments; 77 without the rights. */
struct CMUnitTest;
int rig_main(int argc, char *argv[], const char *name, const struct CMUnitTest *tests, size_t n_tests);

/* @extra: arguments, ends with NULL; may be NULL. spawn_daemon() does not wait until it is ready. */
void spawn_daemon(const char *program, const char *const *extra);
void start_daemon_as(const char *program, const char *const *extra);
void start_daemon(const char *const *extra);
/* Its exit status, or 128 + signal. */
int stop_daemon(int signal_number);

/* One more link, as another adaptor would have; for calls by hand. */
sd_bus* connect_another(void);
#define RIG_OBJECT "/org/confidentialcontainers/PeerPod1/Tunnel"
#define RIG_INTERFACE "org.confidentialcontainers.PeerPod1.Tunnel"

/* Returns NULL on success, else the error's name and text, to be freed. */
char* call(const char *method, sd_bus_message **ret_reply, const char *types, ...);
void expect_success(char *error);
void expect_error(char *error, const char *name, const char *text);

/* The calls, on the namespace "wpod" where none is given. */
char* inspect_path(const char *id, const char *path);
char* inspect(const char *id);
char* try_setup(const char *id, const char *address);
void setup(const char *id);
void teardown(const char *id);

/* The pod VM's side: configuration, then the program. */
void write_apf(const char *pod_network);
pid_t spawn_pod_network(const char *verb, const char *timeout);
int pod_network(const char *verb);
/* The tunnel of sandbox "s1" with the pod VM at its other end. */
void connect_pod(void);

void expect_log(const char *file, const char *text);
void expect_traffic(void);
/* @output is freed */
void expect_empty(const char *what, char *output);
void expect_nothing_left(void);
size_t count_fds(pid_t pid);
