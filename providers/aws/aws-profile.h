/* SPDX-License-Identifier: Apache-2.0 */
/* The vendor's files of profiles, ~/.aws/config and ~/.aws/credentials (AWS SDKs and Tools Reference Guide, "Shared config and credentials
 * files"). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define PROFILE_FILE_MAX (256U << 10)

typedef struct Profile {
        char *key_id, *secret, *session, *role_arn, *source_profile, *credential_source, *web_identity_file, *role_session, *external_id,
                *duration, *region;
        bool found, unsupported;        /* unsupported: it has sso_… or credential_process */
} Profile;

void profile_done(Profile *p);

/* profile_parse() - add what @text says of profile @name; what @p has already is kept. @config: sections are "[profile NAME]", "[default]",
 * not "[NAME]". Unknown keys are passed over. Returns 0, -EBADMSG (a line that is none of a section, "key = value", comment), -ENOMEM. */
int profile_parse(const char *text, size_t size, const char *name, bool config, Profile *p);
