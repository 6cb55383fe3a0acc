/* SPDX-License-Identifier: Apache-2.0 */
/* One platform configuration register of a TPM 2.0, in the banks that verifiers use. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

typedef struct Tpm Tpm;

#define TPM_BANKS 2U                    /* SHA-256 and SHA-384 */
#define TPM_DIGEST_MAX 48U

extern const struct TpmBankType {
        const char *name;               /* "sha256", also GnuTLS's name of the hash */
        size_t size;                    /* of its digests, in bytes */
} tpm_bank_types[TPM_BANKS];

typedef struct TpmPcr {
        struct {
                bool is_there;          /* some TPMs have no SHA-384, or have it switched off */
                uint8_t value[TPM_DIGEST_MAX];
        } banks[TPM_BANKS];             /* as in tpm_bank_types */
} TpmPcr;

/**
 * tpm_open() - talk to the TPM behind a character device, "/dev/tpmrm0"
 * @reterr: what failed, with the TPM's own error number; newly allocated; the same for all functions here
 *
 * Calls block until the TPM answers; the kernel's driver bounds that. Returns 0, -EIO, -ENOMEM.
 */
int tpm_open(const char *device, Tpm **ret, char **reterr);
Tpm* tpm_free(Tpm *t);
DEFINE_CLEANUP(Tpm*, tpm_free);

/* tpm_read_pcr() - returns 0, -EIO (also if the TPM has none of the banks) */
int tpm_read_pcr(Tpm *t, unsigned index, TpmPcr *ret, char **reterr);

/* tpm_extend_pcr() - one command for all banks that @digests has: all of them, or none. Returns 0, -EIO. */
int tpm_extend_pcr(Tpm *t, unsigned index, const TpmPcr *digests, char **reterr);
