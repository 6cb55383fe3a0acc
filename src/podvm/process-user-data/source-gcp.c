/* SPDX-License-Identifier: Apache-2.0 */
/* Google Compute Engine (Google Cloud documentation, "About VM metadata"). By its addresses, which are documented: metadata.google.internal
 * would need a resolver, and whoever answers for it could be anybody. cloud-api-adaptor stores the data as base64
 * (src/cloud-providers/gcp/provider.go). */
#include "podvm/process-user-data/metadata.h"
#include "podvm/process-user-data/source.h"

static const MetadataService service = {
        .addresses = { "169.254.169.254", "[fd20:ce::254]" },
        .headers = { "Host: metadata.google.internal", "Metadata-Flavor: Google" },
        .reply_header = "Metadata-Flavor: Google",
        .path = "/computeMetadata/v1/instance/attributes/user-data",
        .base64 = true,
};

static bool gcp_detect(const SourceSettings *s) {
        return dmi_is("product_name", "Google Compute Engine") || dmi_is("sys_vendor", "Google");
}

static int gcp_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        return metadata_fetch(&service, s->deadline_usec, ret, ret_size, reterr);
}

const Source source_gcp = {
        .name = "GCP",
        .remote = true,
        .detect = gcp_detect,
        .fetch = gcp_fetch,
};
