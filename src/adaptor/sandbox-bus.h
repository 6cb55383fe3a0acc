/* SPDX-License-Identifier: Apache-2.0 */
/* A sandbox's face on the system bus: interface org.confidentialcontainers.PeerPod1.PodVM. */
#pragma once

#include <systemd/sd-bus.h>

typedef struct Manager Manager;
typedef struct Sandbox Sandbox;

#define PEERPOD_BUS_NAME "org.confidentialcontainers.PeerPod1"
#define PEERPOD_BUS_PATH "/org/confidentialcontainers/PeerPod1"
#define PODVM_BUS_PATH PEERPOD_BUS_PATH "/podvm"
#define PODVM_INTERFACE PEERPOD_BUS_NAME ".PodVM"

/* sandbox_bus_path() - object path of a sandbox; newly allocated */
int sandbox_bus_path(const char *id, char **ret);

/* sandbox_bus_add() - serve all sandboxes of @m below PODVM_BUS_PATH */
int sandbox_bus_add(sd_bus *bus, Manager *m);

/* Signals. What has changed is in the object already; nothing happens before there is a bus. */
void sandbox_bus_appeared(Sandbox *s);
void sandbox_bus_vanished(Sandbox *s);
void sandbox_bus_changed(Sandbox *s, const char *property);
void sandbox_bus_state_changed(Sandbox *s);
void sandbox_bus_instance_changed(Sandbox *s);

/* sandbox_bus_stop() - the method Stop() for @call, which was checked; it is answered when the sandbox is gone. Returns 1 or negative. */
int sandbox_bus_stop(Sandbox *s, sd_bus_message *call, sd_bus_error *error);
