/* SPDX-License-Identifier: Apache-2.0 */
/* What IBM Cloud says: tokens, errors, tags, addresses. The same bytes go to each parser. */
#include "basic/util.h"
#include "ibm-api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_token(const char *text, size_t size) {
        Token token = {};
        int r;

        r = iam_token_parse(text, size, /* now_usec= */ 1, &token);
        assert(r == 0 || r == -EBADMSG);
        if (r < 0)
                return;
        /* It becomes a header. */
        assert(!isempty(token.parts[0]) && !strpbrk(token.parts[0], " \r\n"));
        assert(token.expires_usec >= 1);
        token_done(&token);
}

static void try_error(const char *text, size_t size) {
        char *code = NULL, *message = NULL;
        int r;

        r = ibm_error_parse(text, size, &code, &message);
        assert(r == 0 || r == -EBADMSG);
        assert(r == 0 || (!code && !message));
        assert(!code || !strpbrk(code, "\r\n\t"));
        assert(!message || !strpbrk(message, "\r\n\t"));
        free(code);
        free(message);
}

static void try_object(const char *text, size_t size) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *tags = NULL;
        char value[IBM_TAG_SIZE], address[PEERPOD_ADDRESS_SIZE];

        if (json_parse(text, size, &o, NULL) < 0)
                return;
        (void) json_get_array(o, "user_tags", &tags, NULL);
        ibm_tag_value(tags, "peerpod-sandbox", value);
        assert(isempty(value) || ibm_id_is_valid(value));
        (void) ibm_has_tag(tags, "peerpod-node:x");
        if (ibm_address(json_path_string(o, "primary_ip.address", ""), address))
                assert(strlen(address) > 1 && !streq(address, "0.0.0.0") && !streq(address, "::"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *text = malloc(size + 1);

        assert(text);
        memcpy(text, data, size);
        text[size] = '\0';
        try_token(text, size);
        try_error(text, size);
        try_object(text, size);
        free(text);
        return 0;
}
