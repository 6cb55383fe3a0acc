/* SPDX-License-Identifier: Apache-2.0 */
/* Azure (Microsoft Learn, "Azure Instance Metadata Service"). The asset tag is Azure's own, on x86 and ARM; the hypervisor's name, by which
 * cloud-api-adaptor knows it, is that of any Hyper-V. */
#include "podvm/process-user-data/metadata.h"
#include "podvm/process-user-data/source.h"

static const MetadataService service = {
        .addresses = { "169.254.169.254" },
        .headers = { "Metadata: true" },
        .path = "/metadata/instance/compute/userData?api-version=2021-01-01&format=text",
        .base64 = true,
};

static bool azure_detect(const SourceSettings *s) {
        return dmi_is("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77");
}

static int azure_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        return metadata_fetch(&service, s->deadline_usec, ret, ret_size, reterr);
}

const Source source_azure = {
        .name = "Azure",
        .remote = true,
        .detect = azure_detect,
        .fetch = azure_fetch,
};
