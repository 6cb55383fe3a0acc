/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the libvirt module share: its configuration, and libvirt's error as ours. */
#pragma once

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <net/if.h>
#include <pthread.h>
#include <stdbool.h>

#include "basic/util.h"
#include "provider/peerpod-provider.h"

typedef enum Accel {
        ACCEL_KVM,
        ACCEL_TCG,
} Accel;

typedef struct Libvirt {
        /* Configuration; not changed after open() */
        char *uri;
        char *pool;                     /* storage pool; for the embedded driver the directory of base images */
        char *network;                  /* virtual network; for the embedded driver a bridge */
        char *image;                    /* name of the base image */
        char *firmware;                 /* path of the UEFI code image, empty for BIOS */
        char *cpuset;
        char *embed_root;               /* the embedded driver's directory; NULL: a daemon's connection */
        char *instances;                /* below it, one directory for each instance's files; embedded only */
        uint32_t vcpus;
        uint64_t memory_mib, root_disk_size;    /* size in bytes */
        bool s390_pv;                   /* launch security */
        bool local;                     /* libvirt runs on this machine: its neighbour table is ours */
        Accel accel;

        /* Connections; see libvirt-connection.c */
        pthread_mutex_t mutex;
        pthread_cond_t connected;       /* or could not be */
        struct LibvirtConnection *connections;
        bool connecting;
        uint64_t n_attempts;            /* that have ended */
        PeerpodError failure;           /* of the last one, if it was one */
        int failed;                     /* its negative errno, or 0 */
        pthread_t loop_thread;
        bool loop_running, loop_stop;
        uint64_t pool_scanned_usec;     /* when we last had the pool's figures renewed; atomic */
        PeerpodLog log;
        void *log_userdata;
} Libvirt;

static inline bool libvirt_is_embedded(const Libvirt *l) {
        return l->embed_root != NULL;
}

/**
 * libvirt_fail() - libvirt's last error of this thread as ours: "WHAT: LIBVIRT'S TEXT"
 *
 * The kind follows from libvirt's code; @fallback where that says nothing. Returns the negative errno of the kind.
 */
int libvirt_fail(PeerpodError *error, PeerpodErrorKind fallback, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* libvirt_error_kind() - of an error of libvirt's; @fallback where that says nothing */
PeerpodErrorKind libvirt_error_kind(const virError *e, PeerpodErrorKind fallback);

/* libvirt_last_code() - code of this thread's last libvirt error */
int libvirt_last_code(void);

/* libvirt_is_cut_off() - did that error come from the way to the daemon, not from the daemon? Whether the call was done is not known then,
 * and no other one gets through on this connection. */
bool libvirt_is_cut_off(void);

int libvirt_oom(PeerpodError *error);

/* libvirt's handles, released by reference count */
DEFINE_CLEANUP(virDomainPtr, virDomainFree);
DEFINE_CLEANUP(virStoragePoolPtr, virStoragePoolFree);
DEFINE_CLEANUP(virStorageVolPtr, virStorageVolFree);
DEFINE_CLEANUP(virNetworkPtr, virNetworkFree);
