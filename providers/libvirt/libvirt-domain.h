/* SPDX-License-Identifier: Apache-2.0 */
/* Domain XML: what we write for a pod VM, and the little that we read back. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

#define OWNER_NAMESPACE "https://confidentialcontainers.org/peerpod/1"
#define OWNER_PREFIX "peerpod"

/* Everything that stands in the XML. Strings may hold any text; they are escaped here and only here. */
typedef struct DomainSpec {
        const char *name;
        const char *sandbox_id, *node;          /* owner tag */
        const char *arch;                       /* "x86_64", "aarch64", "s390x" */
        uint32_t vcpus;
        uint64_t memory_mib;
        const char *cpuset;                     /* empty: none */
        bool kvm;
        bool cpu_maximum;                       /* TCG: QEMU's "max" model is trusted */
        const char *firmware;                   /* x86_64: UEFI code image, empty for BIOS */
        const char *nvram;                      /* file for the UEFI variables, NULL: libvirt's choice */
        bool s390_pv;
        const char *pool;                       /* disks are volumes of this pool; NULL: files */
        const char *root, *seed;                /* volume names or absolute paths */
        char *const *volumes;                   /* the pod's own disks, likewise, or block devices below /dev; NULL: none */
        const char *network, *tap;              /* one of both */
        const char *mac;
        const char *serial_log;                 /* file for the console's output, NULL: a pty */
} DomainSpec;

/* domain_xml_write() - @ret is newly allocated. Returns 0, -EINVAL (text that XML cannot hold), -ENOMEM. */
int domain_xml_write(const DomainSpec *spec, char **ret);

typedef struct DomainOwner {
        char *sandbox_id, *node;
} DomainOwner;

void domain_owner_done(DomainOwner *o);

/* domain_owner_parse() - from the text of the owner element. Returns 0, -EBADMSG, -ENOMEM. */
int domain_owner_parse(const char *xml, DomainOwner *ret);

/* domain_mac_parse() - hardware address of the first network interface in a domain's XML. Returns 0, -ENOENT, -EBADMSG, -ENOMEM. */
int domain_mac_parse(const char *xml, uint8_t ret[static 6]);

/* mac_parse() - "52:54:00:12:34:56". Returns 0, -EINVAL. */
int mac_parse(const char *s, uint8_t ret[static 6]);
