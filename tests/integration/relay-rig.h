/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane as processes: an agent, agent-protocol-forwarder and peerpod-agent-proxy with sockets passed as systemd
 * passes them, for the integration test and the benchmark. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../unit/tls-test-certs.h"

#define RIG_SERVER_NAME "podvm-test-0123"

/* A service manager's fd store for one service, which talks to it over a socket of its own. */
#define RIG_STORE_MAX 128U
typedef struct RigStore {
        char path[96];
        int notify_fd;
        int fds[RIG_STORE_MAX];
        char names[RIG_STORE_MAX][32];
        size_t n_fds;
        unsigned n_ready;               /* READY=1 that came */
        unsigned n_stored;              /* FDSTORE=1 that came */
} RigStore;

typedef struct Rig {
        char dir[64];
        char agent_socket[96], proxy_socket[96], credentials[96], notify_path[96];
        int forwarder_listen, proxy_listen;     /* held here, so that a restarted daemon gets the same ones */
        int notify_fd;
        uint16_t port;                  /* that the proxy is told: the forwarder's, until changed */
        pid_t agent, forwarder, proxy;
        TestCert server, client;
        bool tls;
        bool tls_off_is_forbidden;      /* without TLS: the forwarder of an image that does not allow that */
        const char *tls_min_version;
        const char *check_error;        /* the agent answers Health.Check with this, if set before it is started */
        const char *proxy_log;          /* the proxy's stderr goes there, if set before it is started */
        const char *forwarder_log;      /* likewise, the forwarder's */
        const char *exit_note, *volumes_socket, *volumes_dir;   /* of the forwarder; NULL: there are none */
        const char *pod_namespace;              /* of the forwarder; NULL: its default */
        RigStore *forwarder_store, *proxy_store;        /* used from the next start on; NULL: no store, and the rig's own socket */
        uint64_t connect_timeout_usec, grace_time_usec;
} Rig;

void rig_make(Rig *r);          /* directory, sockets, certificates; starts nothing */
void rig_done(Rig *r);          /* kills what runs, removes everything */
void rig_write_config(Rig *r);  /* apf.json and proxy.json from the fields above */

void rig_start_agent(Rig *r);
void rig_start_forwarder(Rig *r);
void rig_start_proxy(Rig *r);

/* Upstream's halves in Go (relay-go/main.go). */
void rig_start_go_forwarder(Rig *r);
int rig_run_go_proxy(Rig *r);           /* the wait status of a client that tries the forwarder */

void rig_store_make(RigStore *s, const Rig *r, const char *name);
void rig_store_read(RigStore *s);       /* does what has been asked for; never waits */
void rig_store_clear(RigStore *s);      /* as the manager does when a service is stopped for good */
void rig_store_done(RigStore *s);

void rig_wait_ready(Rig *r, int n);             /* READY=1 of n daemons, or abort after two minutes */
int rig_stop(pid_t *pid, int sig);              /* signal, wait; returns the wait status */
int rig_wait(pid_t *pid, unsigned timeout_ms);  /* wait status, or -1 when it still runs */

/* The agent's methods of grpc.AgentService, beside Health.Check:
 *   CreateContainer, CreateSandbox, Echo      answer with the request's payload
 *   ReadStdout                                 answers with ReadStreamRequest.len (field 3) bytes
 *   WriteStdin, RemoveContainer                answer with nothing
 *   DestroySandbox                             answers with nothing, and then the agent ends
 *   WaitProcess, GetOOMEvent                   never answer
 *   Stream                                     answers with rig_stream() of the request's first 4 bytes (seed) and next 4 (size)
 *   Sum                                        answers with the 8 bytes of rig_sum() of the payload
 *   Cancelled                                  answers with the number of calls cancelled by disconnects, as decimal text */
_Noreturn void rig_run_agent(const char *path, int ready_fd);

void rig_stream(uint32_t seed, uint8_t *data, size_t size);
uint64_t rig_sum(const uint8_t *data, size_t size);

size_t rig_count_fds(pid_t pid);
size_t rig_memory_kib(pid_t pid, const char *field);    /* of /proc/PID/smaps_rollup: "Pss:", "Rss:" */
