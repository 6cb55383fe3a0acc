/* SPDX-License-Identifier: Apache-2.0 */
/* IBM Cloud VPC (IBM Cloud Docs, "About instance metadata"), for machines that have lost their seed disk. */
#include "podvm/process-user-data/metadata.h"
#include "podvm/process-user-data/source.h"

static const MetadataService service = {
        .addresses = { "169.254.169.254" },
        .headers = { "Accept: application/json" },
        .token_path = "/instance_identity/v1/token?version=2022-03-01",
        .token_headers = { "Metadata-Flavor: ibm", "Content-Type: application/json" },
        .token_body = "{\"expires_in\":300}",
        .token_key = "access_token",
        .token_header = "Authorization: Bearer ",
        .path = "/metadata/v1/instance/initialization?version=2022-03-01",
        .key = "user_data",
};

static bool ibm_detect(const SourceSettings *s) {
        return dmi_is("chassis_asset_tag", "ibmcloud") || dmi_begins("chassis_vendor", "IBM:Cloud Compute Server");
}

static int ibm_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        return metadata_fetch(&service, s->deadline_usec, ret, ret_size, reterr);
}

const Source source_ibm = {
        .name = "IBM Cloud",
        .remote = true,
        .detect = ibm_detect,
        .fetch = ibm_fetch,
};
