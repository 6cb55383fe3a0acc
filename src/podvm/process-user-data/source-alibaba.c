/* SPDX-License-Identifier: Apache-2.0 */
/* Elastic Compute Service (Alibaba Cloud documentation, "Instance metadata"). The token is what its security hardening mode insists on, and what
 * the normal mode takes, too. */
#include "podvm/process-user-data/metadata.h"
#include "podvm/process-user-data/source.h"

static const MetadataService service = {
        .addresses = { "100.100.100.200" },
        .token_path = "/latest/api/token",
        .token_headers = { "X-aliyun-ecs-metadata-token-ttl-seconds: 60" },
        .token_header = "X-aliyun-ecs-metadata-token: ",
        .path = "/latest/user-data",
};

static bool alibaba_detect(const SourceSettings *s) {
        return dmi_is("sys_vendor", "Alibaba Cloud");
}

static int alibaba_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        return metadata_fetch(&service, s->deadline_usec, ret, ret_size, reterr);
}

const Source source_alibaba = {
        .name = "Alibaba Cloud",
        .remote = true,
        .detect = alibaba_detect,
        .fetch = alibaba_fetch,
};
