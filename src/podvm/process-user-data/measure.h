/* SPDX-License-Identifier: Apache-2.0 */
/* Initdata bound to what the platform attests, so that a verifier far away can tell which one this VM works with. */
#pragma once

#include <stdbool.h>

#include "userdata/initdata.h"

#define MEASURE_PCR 8U                  /* free where no GRUB boots; cloud-api-adaptor: podvm/mkosi.images/system, process-user-data.service */

typedef struct MeasureSettings {
        const char *tpm_device;         /* "/dev/tpmrm0" */
        const char *sys_dir;            /* "/sys" */
} MeasureSettings;

/**
 * measure_initdata() - compare with the TEE's report, then extend PCR 8
 * @again:     it was done before in this boot: nothing is extended, and what the TPM holds must be that
 * @ret_event: one record of a log in the TCG's canonical format (CEL), as a JSON text sequence (RFC 7464); NULL if there is no TPM
 * @reterr:    one clear sentence, newly allocated
 *
 * Where the report has HOSTDATA or MRCONFIGID set, it must be the digest. Where there is a TPM, its PCR 8 must be all zeros, and is
 * extended once by the digest in each bank; if it holds just that already, nothing is done. What is not there is logged.
 *
 * Returns 0; -EBADMSG (something else was measured, or the report says otherwise); -EIO (the TPM does not work); -ENOMEM.
 */
int measure_initdata(const MeasureSettings *s, const Initdata *i, bool again, char **ret_event, char **reterr);
