/* SPDX-License-Identifier: Apache-2.0 */
/* One cloud's module, in a process of its own: a peerpod-providerd that this controller runs, and its private bus.
 *
 * So a module is opened exactly as on a worker node, with nothing but its own cloud's settings; one that crashes or hangs takes nobody with
 * it; and other settings are another process. The socket is ours and outlives the process: what is asked meanwhile waits in it. */
#pragma once

#include <stdint.h>

#include "adaptor/service-link.h"
#include "kube/ctrl/variables.h"

typedef struct ProviderProcess ProviderProcess;

typedef enum ProviderState {
        PROVIDER_STOPPED,               /* not begun, or stopping */
        PROVIDER_RUNS,
        PROVIDER_PAUSES,                /* it has failed and will be started again; calls wait */
        PROVIDER_REFUSES,               /* its settings are wrong: no use before they change */
} ProviderState;

typedef struct ProviderSpec {
        const char *program;            /* peerpod-providerd; all borrowed for the life of the process */
        const char *module_directory, *runtime_directory, *state_directory;
        uint32_t n_calls_max;           /* at once */
        uint64_t delete_timeout_usec, stop_timeout_usec;
} ProviderSpec;

/* What to delete; borrowed until the call has ended. */
typedef struct ProviderKey {
        const char *sandbox_id, *name;
        const char *id;                 /* "": not known */
        const char *name_prefix;        /* an instance without owner tag, made by cloud-api-adaptor: its name begins so; NULL: one of ours */
} ProviderKey;

/* The state is another one. Calls are the caller's to forget when it refuses. */
typedef void (*ProviderHandler)(ProviderProcess *p, ProviderState state, void *userdata);

/* provider_name_canonical() - the module's name: upstream's chart knows one provider under another name than its program does */
const char* provider_name_canonical(const char *name);
/* provider_is_installed() - is there a module of that name, or do the settings name an external one? */
bool provider_is_installed(const char *name, const char *module_directory, const Variables *settings);

/**
 * provider_process_new() - make the socket; nothing is started before provider_process_start()
 * @name:     canonical; copied
 * @settings: borrowed; read at each start, and put into the process's environment
 * @secrets:  likewise, but in a file that it reads; wins
 *
 * Returns 0 or -errno (logged).
 */
int provider_process_new(sd_event *event, const char *name, const ProviderSpec *spec, const Variables *settings, const Variables *secrets,
                         ProviderHandler handler, void *userdata, ProviderProcess **ret);
/* provider_process_free() - no call may be left; a process that runs is told to end and not waited for */
ProviderProcess* provider_process_free(ProviderProcess *p);
DEFINE_CLEANUP(ProviderProcess*, provider_process_free);

/* provider_process_start() - unless it runs; after other settings, or for good measure */
void provider_process_start(ProviderProcess *p);
/* provider_process_restart() - with the settings as they are now; what runs may end first */
void provider_process_restart(ProviderProcess *p);
/* provider_process_stop() - calls that run may end, for the stop time-out; then the handler is told PROVIDER_STOPPED, from the loop */
void provider_process_stop(ProviderProcess *p);

ProviderState provider_process_state(const ProviderProcess *p);
const char* provider_process_name(const ProviderProcess *p);
pid_t provider_process_pid(const ProviderProcess *p);           /* 0: none */

/* provider_process_remove() - delete an instance, if it is whose it should be; see service_link_call(). Reply "". */
int provider_process_remove(ProviderProcess *p, const ProviderKey *key, ServiceHandler handler, void *userdata, ServiceCall **ret);
