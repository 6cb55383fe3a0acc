/* SPDX-License-Identifier: Apache-2.0 */
/* Machines that are there already, given out from a pool and cleaned by a reboot before the next pod gets them. */
#pragma once

#include <pthread.h>

#include "byom-pool.h"
#include "cloud-http.h"
#include "provider/peerpod-provider.h"

typedef struct Byom {
        /* Settings; constant after open(). */
        char **addresses;               /* strv, canonical */
        char *user, *private_key;       /* the key's text is a secret */
        char *known_hosts;              /* path, or "" */
        char *allowlist;                /* directory, or "" */
        bool accept_any;
        uint64_t ssh_timeout_usec;
        uint16_t ssh_port;
        char *namespace, *configmap;
        char *account;                  /* directory of the service account's token */
        char *api_url;                  /* of Kubernetes; NULL: the pool is kept in a file */
        char *file;                     /* then this one */
        CloudHttp *http;

        pthread_mutex_t file_lock;      /* from reading the file to writing it */
        pthread_mutex_t lock;           /* taken last */
        struct {
                const char *address;    /* of addresses */
                uint64_t until_usec;    /* CLOCK_MONOTONIC: not tried before that */
        } *bad;                         /* one for each address */
} Byom;

/* byom-store.c */
/* What to do with the pool's state: 1 it is to be written, 0 leave it, or a negative errno with *error set. May be called again, on a newer state. */
typedef int (*PoolChange)(void *userdata, json_object *state, PeerpodError *error);
int pool_change(Byom *b, const PeerpodCall *call, PoolChange change, void *userdata, PeerpodError *error);
/* pool_check() - may we read and write the state? Writes nothing. */
int pool_check(Byom *b, const PeerpodCall *call, PeerpodError *error);

/* byom-ssh.c */
typedef enum VmState {
        VM_CLEAN,                       /* booted, and nothing of ours on it */
        VM_MARKED,                      /* given to the allocation asked about */
        VM_SERVING,                     /* likewise, and has the same user data */
        VM_DIRTY,                       /* anything else: another's, or other user data */
} VmState;

/* vm_upload() - mark the machine as the allocation's, and give it its user data. *ret_touched: it is not as it was, or that is unknown. */
int vm_upload(Byom *b, const PeerpodCall *call, const char *address, const char *allocation, const void *data, size_t size, bool *ret_touched,
              PeerpodError *error);
/* vm_look() - what is on it */
int vm_look(Byom *b, const PeerpodCall *call, const char *address, const char *allocation, VmState *ret, PeerpodError *error);
int vm_reboot(Byom *b, const PeerpodCall *call, const char *address, PeerpodError *error);
/* ssh_check_settings() - the key and the known keys of hosts; *error set */
int ssh_check_settings(Byom *b, PeerpodError *error);

/* byom-instance.c */
int byom_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);
int byom_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int byom_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);
