/* SPDX-License-Identifier: Apache-2.0 */
/* Pod VMs as peerpod-adaptor shows them on the system bus. */
#pragma once

#include <systemd/sd-bus.h>

#include "basic/json.h"

#define PEERPOD_BUS_NAME "org.confidentialcontainers.PeerPod1"
#define PEERPOD_BUS_PATH "/org/confidentialcontainers/PeerPod1"
#define PEERPOD_MANAGER_INTERFACE PEERPOD_BUS_NAME ".Manager"
#define PEERPOD_PODVM_INTERFACE PEERPOD_BUS_NAME ".PodVM"

/* bus_value_to_json() - the next value of a message, whatever its type; a dictionary with text keys is an object. -errno. */
int bus_value_to_json(sd_bus_message *m, json_object **ret);

/**
 * podvms_read() - all pod VMs, oldest first
 * @ret:    array; each element has the properties of interface .PodVM by their names, and "Path"
 * @reterr: for people, when not -ENOMEM; the caller frees it
 */
int podvms_read(sd_bus *bus, uint64_t timeout_usec, json_object **ret, char **reterr);

/**
 * podvm_find() - the one whose sandbox id is @id, or else the only one whose id begins so
 * @ret: borrowed from @podvms
 *
 * 0, -ENOENT, -EEXIST (several begin so), with @reterr.
 */
int podvm_find(json_object *podvms, const char *id, json_object **ret, char **reterr);

/* Text of a property, "" if there is none; a number, 0. */
const char* podvm_text(json_object *podvm, const char *property);
uint64_t podvm_number(json_object *podvm, const char *property);

/**
 * podvm_agent_socket() - where the agent of a sandbox is reached
 * @id:     of the sandbox, or the begin of one
 * @ret_id: the whole id, owned by the caller; may be NULL
 *
 * By the bus, or by the sockets' directory when the adaptor does not answer, since pods do not stop with it.
 * 0, -ENOENT, -EEXIST, -ENOTCONN, with @reterr; -ENOMEM.
 */
int podvm_agent_socket(const char *id, uint64_t timeout_usec, char **ret, char **ret_id, char **reterr);
