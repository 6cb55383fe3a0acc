/* SPDX-License-Identifier: Apache-2.0 */
/* Attestation reports, which pass through the host: the field that is found lies within the report. The first byte says whose report the
 * others are. */
#include "basic/util.h"
#include "podvm/process-user-data/tsm-report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const providers[] = { "sev_guest", "tdx_guest", "arm_cca_guest" };
        const uint8_t *report = data + 1;
        const char *provider;
        TsmField field;
        int r;

        if (size-- == 0)
                return 0;
        provider = providers[data[0] % ELEMENTSOF(providers)];

        r = tsm_report_host_field(provider, report, size, &field);
        assert(r == 0 || r == 1 || r == -EBADMSG);
        assert((r == 0) == streq(provider, "arm_cca_guest"));
        if (r == 1) {
                assert(field.name && field.size > 0 && field.size <= TSM_FIELD_SIZE_MAX);
                assert(field.value >= report && field.value + field.size <= report + size);
        }
        return 0;
}
