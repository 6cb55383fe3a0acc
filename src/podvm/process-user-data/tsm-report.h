/* SPDX-License-Identifier: Apache-2.0 */
/* The field of a TEE's attestation report that whoever made the VM could set, and that the VM cannot change. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define TSM_REPORT_SIZE_MAX (UINT32_C(32) << 10)        /* linux: include/linux/tsm.h, TSM_REPORT_OUTBLOB_MAX */
#define TSM_FIELD_SIZE_MAX 48U
#define TSM_INBLOB_SIZE 64U                             /* linux: include/linux/tsm.h, TSM_REPORT_INBLOB_MAX */

typedef struct TsmField {
        const char *name;               /* "HOSTDATA", "MRCONFIGID" */
        const uint8_t *value;           /* borrowed: in the report */
        size_t size;
} TsmField;

/**
 * tsm_report_host_field() - find it in a report
 * @provider: who made the report: "sev_guest" (AMD SEV-SNP ABI 56860, ATTESTATION_REPORT) or "tdx_guest" (Intel TDX DCAP quote, version 4
 *            or 5)
 *
 * Reads only; signatures are for a verifier outside of the VM. Returns 1; 0 if reports of this provider have none that we know; -EBADMSG.
 */
int tsm_report_host_field(const char *provider, const void *report, size_t size, TsmField *ret);

/**
 * tsm_report_read() - have a report made, by configfs (linux: Documentation/ABI/testing/configfs-tsm-report)
 * @sys_dir: "/sys"
 * @inblob:  goes into the report
 * @ret:     newly allocated, with a NUL behind it, as is @ret_provider
 *
 * Returns 1; 0 if this is no VM in a TEE, or the kernel has no such interface; negative where it has one that does not work.
 */
int tsm_report_read(const char *sys_dir, const uint8_t inblob[static TSM_INBLOB_SIZE], char **ret_provider, char **ret, size_t *ret_size);
