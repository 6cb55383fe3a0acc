/* SPDX-License-Identifier: Apache-2.0 */
/* The vendor's files of profiles: whichever section is looked for, values are parts of one line, and what is known already stays. */
#include "aws-profile.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_value(const char *value) {
        if (isempty(value))
                return;
        assert(!strchr(value, '\n'));
        assert(!strchr(" \t\r", *value) && !strchr(" \t\r", value[strlen(value) - 1]));
}

static void check_values(const Profile *p) {
        char *const values[] = { p->key_id, p->secret, p->session, p->role_arn, p->source_profile, p->credential_source, p->web_identity_file, p->role_session,
                                 p->external_id, p->duration, p->region };

        for (size_t i = 0; i < ELEMENTSOF(values); i++) {
                check_value(values[i]);
                assert(p->found || !values[i]);
        }
}

static void try_profile(const char *text, size_t size, const char *name, bool config) {
        Profile p = {};
        char *region, *key_id;
        int r;

        r = profile_parse(text, size, name, config, &p);
        assert(r == 0 || r == -EBADMSG);
        check_values(&p);
        region = p.region;
        key_id = p.key_id;
        assert(profile_parse(text, size, name, config, &p) == r);
        assert(!region || p.region == region);
        assert(!key_id || p.key_id == key_id);
        if (r == 0)
                assert(p.region == region && p.key_id == key_id);
        profile_done(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *text = malloc(size > 0 ? size : 1);       /* no NUL behind it: it must not be looked for */

        assert(text);
        if (size > 0)
                memcpy(text, data, size);
        for (unsigned config = 0; config < 2; config++) {
                try_profile(text, size, "default", config);
                try_profile(text, size, "dev", config);
                try_profile(text, size, "with blanks", config);
        }
        free(text);
        return 0;
}
