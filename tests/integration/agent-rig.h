/* SPDX-License-Identifier: Apache-2.0 */
/* The stand-in agent for tests outside of a pod VM, and the requests that Kata's shim makes of an agent. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "proto/agent.pb-c.h"

#define BUSYBOX "/bin/busybox"

/* Makes @dir/rootfs with busybox in it and pins a network namespace at @dir/podns, as pod-network leaves one. 0 or -1. */
int agent_rig_make(const char *dir);
void agent_rig_done(const char *dir);           /* unpins; the files are the caller's to remove */

/* Starts it in namespaces of its own (--host-mode), listening on @socket. Root. Returns its pid or -1. */
pid_t agent_rig_start(const char *program, const char *pause_program, const char *dir, const char *socket);
bool agent_rig_has_leftovers(pid_t pid);        /* control groups, after its end */

/* As the shim sends it: guest pull, namespaces without network, the forwarder's addition at the end. */
typedef struct Spec {
        Grpc__CreateContainerRequest q;
        Grpc__Spec spec;
        Grpc__Process process;
        Grpc__User user;
        Grpc__Root root;
        Grpc__Linux linux;
        Grpc__LinuxNamespace namespaces[4], *namespace_pointers[4];
        Grpc__Mount mounts[4], *mount_pointers[4];
        Grpc__Storage storage, *storages[1];
        char *dev_options[2], *args[8], *env[1];
} Spec;

/* @netns: path of the pod's network namespace; NULL: the forwarder adds it. */
void spec_init(Spec *s, const char *netns, const char *id, const char *image, const char *const *args);
void exec_request(Grpc__ExecProcessRequest *q, Grpc__Process *p, const char *id, const char *exec_id, char **args);
