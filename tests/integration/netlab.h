/* SPDX-License-Identifier: Apache-2.0 */
/* A cloud in one process: network namespaces joined by a bridge, which vanish with the process whatever happens to it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 *      fab     the cloud's subnet: a bridge
 *      worker  10.10.0.1/16 on enc0; cni0 10.128.0.1/24 is the pods' bridge and gateway
 *      vm      10.10.1.2/16, the pod VM; other 10.10.1.9/16, a host that has no business with it
 *      podns   the pod's namespace in the VM
 *      wpod    the pod's namespace on the worker, 10.128.0.2/24, made as a CNI would
 *      peer    an ordinary pod of the worker, 10.128.0.9/24
 */
#define LAB_POD_MAC "0a:58:0a:80:00:02"

/* Needs root. Private mount and network namespaces for the process, /run and the test's directory in memory. False: no rights. */
bool lab_enter(void);
/* Everything above, anew. Fails the test if something cannot be made. */
void lab_up(void);
/* The same without a pod network: neither cni0 nor the two pods. */
void lab_up_hosts(void);
void lab_down(void);
/* Only the namespace "wpod", after it was deleted. */
void lab_add_wpod(void);
extern const char *lab_dir;

/* Run a shell command; its status has to be 0. lab_sh_status() returns it instead. */
void lab_sh(const char *format, ...) __attribute__((format(printf, 1, 2)));
int lab_sh_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The command's output, to be freed. */
char* lab_output(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Start a program in a namespace; it dies with the test. @listen_fd, if any, is passed as systemd does, under the name "bus".
 * stderr goes to @log in the lab's directory. */
pid_t lab_spawn(const char *ns, int listen_fd, const char *notify_socket, const char *log, char *const argv[]);
/* Wait for its end; returns the exit status, or 128 + signal. */
int lab_wait(pid_t pid);

/* A socket in a namespace. */
int lab_socket(const char *ns, int family, int type, int protocol);

/* How long to wait for what has to come: nobody waits for it on a quiet machine. */
#define LAB_PATIENCE_MSEC 60000

/* Carry one datagram of @size bytes between namespaces; false if it did not arrive within the time. */
bool lab_udp(const char *from, const char *to, const char *to_address, size_t size, bool dont_fragment, int timeout_msec);
/* The same without fragments, and again until it arrives: neighbours may have to be found first. Says what did not. */
bool lab_udp_passes(const char *from, const char *to, const char *to_address, size_t size);
/* Carry @size bytes over a TCP connection; returns the time it took in µs, 0 if it failed. */
uint64_t lab_tcp(const char *from, const char *to, const char *to_address, size_t size, int timeout_msec);
