/* SPDX-License-Identifier: Apache-2.0 */
/* On the lower of tpm2-tss's interfaces, SYS: the upper one, ESYS, brings a cryptographic library and three more transports into the
 * image for sessions and encryption, and a PCR needs neither (TCG TSS 2.0 System Level API; TPM 2.0 library, part 3, section 22). */
#include "podvm/process-user-data/tpm.h"

#include <stdio.h>
#include <tss2/tss2_sys.h>
#include <tss2/tss2_tcti_device.h>

#include "basic/util.h"

const struct TpmBankType tpm_bank_types[TPM_BANKS] = {
        { "sha256", TPM2_SHA256_DIGEST_SIZE },
        { "sha384", TPM2_SHA384_DIGEST_SIZE },
};

static const TPMI_ALG_HASH bank_algorithms[TPM_BANKS] = { TPM2_ALG_SHA256, TPM2_ALG_SHA384 };

struct Tpm {
        TSS2_TCTI_CONTEXT *tcti;
        TSS2_SYS_CONTEXT *sys;
        bool tcti_is_open;
};

static int fail(TSS2_RC rc, const char *what, char **reterr) {
        if (asprintf(reterr, "the TPM cannot %s: error 0x%08x", what, (unsigned) rc) < 0)
                *reterr = NULL;
        return -EIO;
}

Tpm* tpm_free(Tpm *t) {
        if (!t)
                return NULL;

        if (t->sys) {
                Tss2_Sys_Finalize(t->sys);
                free(t->sys);
        }
        if (t->tcti_is_open)
                Tss2_Tcti_Finalize(t->tcti);
        free(t->tcti);
        free(t);
        return NULL;
}

int tpm_open(const char *device, Tpm **ret, char **reterr) {
        TSS2_ABI_VERSION version = TSS2_ABI_VERSION_CURRENT;
        _cleanup_(tpm_freep) Tpm *t = new0(Tpm, 1);
        size_t size;
        TSS2_RC rc;

        if (!t)
                return -ENOMEM;

        rc = Tss2_Tcti_Device_Init(NULL, &size, NULL);
        if (rc != TSS2_RC_SUCCESS)
                return fail(rc, "be opened", reterr);
        t->tcti = calloc(1, size);
        if (!t->tcti)
                return -ENOMEM;
        rc = Tss2_Tcti_Device_Init(t->tcti, &size, device);
        if (rc != TSS2_RC_SUCCESS)
                return fail(rc, "be opened", reterr);
        t->tcti_is_open = true;

        size = Tss2_Sys_GetContextSize(0);
        t->sys = calloc(1, size);
        if (!t->sys)
                return -ENOMEM;
        rc = Tss2_Sys_Initialize(t->sys, size, t->tcti, &version);
        if (rc != TSS2_RC_SUCCESS) {
                free(TAKE_PTR(t->sys));
                return fail(rc, "be opened", reterr);
        }

        *ret = TAKE_PTR(t);
        return 0;
}

/* Of an algorithm that the TPM does not know it says TPM_RC_HASH, for the first parameter (part 2, section 6.6). */
static bool is_unknown_hash(TSS2_RC rc) {
        return (rc & 0xfffff0bfU) == TPM2_RC_HASH;
}

int tpm_read_pcr(Tpm *t, unsigned index, TpmPcr *ret, char **reterr) {
        TpmPcr pcr = {};
        bool any = false;

        assert(index < 24);

        for (size_t i = 0; i < TPM_BANKS; i++) {
                TPML_PCR_SELECTION wanted = { .count = 1, .pcrSelections = { { .hash = bank_algorithms[i], .sizeofSelect = 3 } } };
                TPML_PCR_SELECTION got = {};
                TPML_DIGEST values = {};
                UINT32 counter;
                TSS2_RC rc;

                wanted.pcrSelections[0].pcrSelect[index / 8] = (BYTE) (1U << index % 8);
                rc = Tss2_Sys_PCR_Read(t->sys, NULL, &wanted, &counter, &got, &values, NULL);
                if (is_unknown_hash(rc))
                        continue;
                if (rc != TSS2_RC_SUCCESS)
                        return fail(rc, "read a PCR", reterr);
                if (values.count == 0)
                        continue;
                if (values.count != 1 || values.digests[0].size != tpm_bank_types[i].size)
                        return fail(0, "read a PCR: its answer is of another size", reterr);

                pcr.banks[i].is_there = any = true;
                memcpy(pcr.banks[i].value, values.digests[0].buffer, tpm_bank_types[i].size);
        }

        if (!any)
                return fail(0, "read a PCR: it has neither SHA-256 nor SHA-384", reterr);
        *ret = pcr;
        return 0;
}

int tpm_extend_pcr(Tpm *t, unsigned index, const TpmPcr *digests, char **reterr) {
        TSS2L_SYS_AUTH_COMMAND auth = { .count = 1, .auths = { { .sessionHandle = TPM2_RH_PW } } };
        TSS2L_SYS_AUTH_RESPONSE answer = {};
        TPML_DIGEST_VALUES values = {};
        TSS2_RC rc;

        for (size_t i = 0; i < TPM_BANKS; i++)
                if (digests->banks[i].is_there) {
                        TPMT_HA *v = values.digests + values.count++;

                        v->hashAlg = bank_algorithms[i];
                        memcpy(&v->digest, digests->banks[i].value, tpm_bank_types[i].size);
                }

        rc = Tss2_Sys_PCR_Extend(t->sys, index, &auth, &values, &answer);
        return rc == TSS2_RC_SUCCESS ? 0 : fail(rc, "extend a PCR", reterr);
}
