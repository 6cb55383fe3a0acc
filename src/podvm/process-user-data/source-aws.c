/* SPDX-License-Identifier: Apache-2.0 */
/* EC2 (Amazon EC2 User Guide, "Use the Instance Metadata Service"). EC2 has decoded the base64 of RunInstances. Version 1 of the service, without
 * a token, is not tried: version 2 is there on every machine that has this vendor. */
#include "podvm/process-user-data/metadata.h"
#include "podvm/process-user-data/source.h"

static const MetadataService service = {
        .addresses = { "169.254.169.254", "[fd00:ec2::254]" },
        .token_path = "/latest/api/token",
        .token_headers = { "X-aws-ec2-metadata-token-ttl-seconds: 60" },
        .token_header = "X-aws-ec2-metadata-token: ",
        .path = "/latest/user-data",
};

static bool aws_detect(const SourceSettings *s) {
        return dmi_is("sys_vendor", "Amazon EC2");
}

static int aws_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        return metadata_fetch(&service, s->deadline_usec, ret, ret_size, reterr);
}

const Source source_aws = {
        .name = "AWS",
        .remote = true,
        .detect = aws_detect,
        .fetch = aws_fetch,
};
