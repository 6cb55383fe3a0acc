/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/measure.h"

#include <gnutls/crypto.h>
#include <stdio.h>

#include "basic/error-text.h"
#include "basic/log.h"
#include "basic/util.h"
#include "podvm/process-user-data/tpm.h"
#include "podvm/process-user-data/tsm-report.h"

/* ---- the TEE's report ---- */

static bool is_zero(const uint8_t *p, size_t size) {
        for (size_t i = 0; i < size; i++)
                if (p[i] != 0)
                        return false;
        return true;
}

/* An unreadable report is no reason to stop: whoever could make it unreadable gains nothing by it, since a verifier sees the field
 * itself. The comparison is for the honest: the wrong initdata ends here, and not far away without a reason. */
static int check_report(const MeasureSettings *s, const Initdata *i, char **reterr) {
        uint8_t inblob[TSM_INBLOB_SIZE], wanted[TSM_FIELD_SIZE_MAX];
        _cleanup_(freep) char *provider = NULL, *report = NULL;
        TsmField field;
        size_t size;
        int r;

        initdata_digest_fit(i, inblob, sizeof(inblob));
        r = tsm_report_read(s->sys_dir, inblob, &provider, &report, &size);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                log_warning("The attestation report of this VM cannot be read, initdata is not compared with it: %s.", strerror(-r));
                return 0;
        }
        if (r == 0)
                return 0;

        r = tsm_report_host_field(provider, report, size, &field);
        if (r < 0)
                return error_text(reterr, r, "The attestation report of this VM is none of '%.32s'.", provider);
        if (r == 0) {
                log_info("Attestation reports of '%.32s' have no field that initdata could be compared with.", provider);
                return 0;
        }
        if (is_zero(field.value, field.size)) {
                log_info("%s of the attestation report is not set by this cloud, initdata is not compared with it.", field.name);
                return 0;
        }

        assert(field.size <= sizeof(wanted));
        initdata_digest_fit(i, wanted, field.size);
        if (memcmp(field.value, wanted, field.size) != 0)
                return error_text(reterr, -EBADMSG,
                                  "Initdata is not what this VM was made with: %s of its attestation report is another digest.",
                                  field.name);
        log_info("Initdata is what %s of the attestation report says.", field.name);
        return 0;
}

/* ---- the TPM ---- */

/* Some VMs have no TPM; one that has it, and lost its device, must not pass for one of them. */
static bool has_tpm(const MeasureSettings *s) {
        _cleanup_(freep) char *path = NULL;

        if (access(s->tpm_device, F_OK) >= 0)
                return true;
        if (asprintf(&path, "%s/class/tpm/tpm0", s->sys_dir) < 0) {
                path = NULL;
                return true;
        }
        return access(path, F_OK) >= 0;
}

/* What is to be extended, and what the register holds after that: hash(zeros || digest). */
static int expect(const Initdata *i, const TpmPcr *now, TpmPcr *ret_digests, TpmPcr *ret_expected) {
        TpmPcr digests = *now, expected = *now;

        for (size_t b = 0; b < TPM_BANKS; b++) {
                size_t size = tpm_bank_types[b].size;
                uint8_t text[2 * TPM_DIGEST_MAX] = {};

                initdata_digest_fit(i, digests.banks[b].value, size);
                memcpy(text + size, digests.banks[b].value, size);
                if (gnutls_hash_fast((gnutls_digest_algorithm_t) gnutls_digest_get_id(tpm_bank_types[b].name), text, 2 * size,
                                     expected.banks[b].value) < 0)
                        return -EIO;
        }

        *ret_digests = digests;
        *ret_expected = expected;
        return 0;
}

static bool pcr_equal(const TpmPcr *a, const TpmPcr *b) {
        for (size_t i = 0; i < TPM_BANKS; i++)
                if (a->banks[i].is_there != b->banks[i].is_there ||
                    (a->banks[i].is_there && memcmp(a->banks[i].value, b->banks[i].value, tpm_bank_types[i].size) != 0))
                        return false;
        return true;
}

static bool pcr_is_zero(const TpmPcr *pcr) {
        for (size_t i = 0; i < TPM_BANKS; i++)
                if (pcr->banks[i].is_there && !is_zero(pcr->banks[i].value, tpm_bank_types[i].size))
                        return false;
        return true;
}

static int extend(const MeasureSettings *s, const Initdata *i, bool again, TpmPcr *ret_digests, char **reterr) {
        _cleanup_(tpm_freep) Tpm *tpm = NULL;
        TpmPcr now, expected;
        int r;

        r = tpm_open(s->tpm_device, &tpm, reterr);
        if (r < 0)
                return r;
        r = tpm_read_pcr(tpm, MEASURE_PCR, &now, reterr);
        if (r < 0)
                return r;
        r = expect(i, &now, ret_digests, &expected);
        if (r < 0)
                return r;

        if (pcr_equal(&now, &expected)) {
                log_info("PCR %u holds the digest of this initdata already.", MEASURE_PCR);
                return 0;
        }
        if (again || !pcr_is_zero(&now))
                return error_text(reterr, -EBADMSG, "PCR %u of the TPM holds something else than this initdata.", MEASURE_PCR);

        r = tpm_extend_pcr(tpm, MEASURE_PCR, ret_digests, reterr);
        if (r < 0)
                return r;
        r = tpm_read_pcr(tpm, MEASURE_PCR, &now, reterr);
        if (r < 0)
                return r;
        if (!pcr_equal(&now, &expected))
                return error_text(reterr, -EIO, "PCR %u of the TPM does not hold what it was just extended by.", MEASURE_PCR);

        log_notice("Initdata is measured into PCR %u.", MEASURE_PCR);
        return 0;
}

static void put_hex(FILE *f, const uint8_t *p, size_t size) {
        for (size_t i = 0; i < size; i++)
                fprintf(f, "%02x", p[i]);
}

/* TCG Canonical Event Log Format, version 1.0, section 5 (JSON); the record separator is RFC 7464's, as in systemd's own log. */
static int format_event(const Initdata *i, const TpmPcr *digests, char **ret) {
        const char *comma = "";
        char *text = NULL;
        size_t size = 0;
        bool failed;
        FILE *f;

        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;

        fprintf(f, "\x1e{\"pcr\":%u,\"digests\":[", MEASURE_PCR);
        for (size_t b = 0; b < TPM_BANKS; b++)
                if (digests->banks[b].is_there) {
                        fprintf(f, "%s{\"hashAlg\":\"%s\",\"digest\":\"", comma, tpm_bank_types[b].name);
                        put_hex(f, digests->banks[b].value, tpm_bank_types[b].size);
                        fputs("\"}", f);
                        comma = ",";
                }
        fprintf(f, "],\"content_type\":\"peerpod\",\"content\":{\"eventType\":\"initdata\",\"algorithm\":\"%s\",\"digest\":\"",
                i->algorithm);
        put_hex(f, i->digest, i->digest_size);
        fputs("\"}}\n", f);

        failed = ferror(f);
        if (fclose(f) != 0 || failed) {
                free(text);
                return -ENOMEM;
        }
        *ret = text;
        return 0;
}

int measure_initdata(const MeasureSettings *s, const Initdata *i, bool again, char **ret_event, char **reterr) {
        _cleanup_(freep) char *why = NULL;
        TpmPcr digests;
        int r;

        r = check_report(s, i, reterr);
        if (r < 0)
                return r;

        if (!has_tpm(s)) {
                log_info("This VM has no TPM, initdata is not measured into one.");
                *ret_event = NULL;
                return 0;
        }

        r = extend(s, i, again, &digests, &why);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return error_text(reterr, r, "Initdata cannot be measured: %s", strempty(why));
        return format_event(i, &digests, ret_event);
}
