/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-user-data.h"

#include "basic/util.h"
#include "cloud-config.h"
#include "userdata/cloud-config.h"
#include "userdata/encode.h"

typedef struct Biggest {
        char path[128];
        size_t size;
} Biggest;

/* The document is ours (userdata/cloud-config.c): "  - path: P", then what belongs to it. */
static Biggest find_biggest(const char *text, size_t size) {
        static const char mark[] = "  - path: ";
        Biggest biggest = {};
        const char *p = memmem(text, size, mark, strlen(mark));

        while (p) {
                const char *begin = p + strlen(mark), *next = memmem(begin, text + size - begin, mark, strlen(mark));
                size_t n = (next ?: text + size) - p;

                if (n > biggest.size) {
                        const char *line_end = memchr(begin, '\n', text + size - begin) ?: text + size;

                        biggest.size = n;
                        (void) snprintf(biggest.path, sizeof(biggest.path), "%.*s", (int) MIN(line_end - begin, (ptrdiff_t) 120), begin);
                }
                p = next;
        }
        return biggest;
}

static int refuse(const PeerpodInstanceSpec *spec, size_t size, size_t limit, bool encoded, PeerpodError *error) {
        Biggest b = find_biggest(spec->user_data, spec->user_data_size);

        return peerpod_error_set(error, PEERPOD_E_EXHAUSTED, "User data is too big: %zu bytes%s, the cloud takes %zu; its biggest file is '%s', %zu bytes.",
                                 size, encoded ? " encoded" : "", limit, b.size > 0 ? b.path : "(none)", b.size);
}

int user_data_encode(const PeerpodInstanceSpec *spec, UserDataEncoding encoding, size_t limit, bool limit_encoded, char **ret, size_t *ret_size,
                     PeerpodError *error) {
        char *text = NULL;
        int r = 0;

        if (!limit_encoded && spec->user_data_size > limit)
                return refuse(spec, spec->user_data_size, limit, false, error);
        /* Of what has no limit of its own, the document's is far below zlib's and our arithmetic's. */
        if (spec->user_data_size > CLOUD_CONFIG_SIZE_MAX)
                return refuse(spec, spec->user_data_size, CLOUD_CONFIG_SIZE_MAX, false, error);

        switch (encoding) {

        case USER_DATA_PLAIN:
                text = malloc(spec->user_data_size + 1);
                if (!text)
                        return oom(error);
                memcpy(text, spec->user_data, spec->user_data_size);
                text[spec->user_data_size] = '\0';
                *ret_size = spec->user_data_size;
                break;

        case USER_DATA_BASE64:
                r = base64_encode(spec->user_data, spec->user_data_size, &text);
                break;

        case USER_DATA_GZIP_BASE64: {
                uint8_t *packed = NULL;
                size_t packed_size;

                r = gzip_encode(spec->user_data, spec->user_data_size, &packed, &packed_size);
                if (r < 0)
                        break;
                r = base64_encode(packed, packed_size, &text);
                erase_free(packed, packed_size);
                break;
        }
        }
        if (r < 0)
                return oom(error);
        if (encoding != USER_DATA_PLAIN)
                *ret_size = strlen(text);

        if (limit_encoded && *ret_size > limit) {
                r = refuse(spec, *ret_size, limit, encoding != USER_DATA_PLAIN, error);
                erase_free(text, *ret_size);
                return r;
        }
        *ret = text;
        return 0;
}
