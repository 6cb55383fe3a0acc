/* SPDX-License-Identifier: Apache-2.0 */
/* Both answers of a metadata service, token and data, as each cloud wraps them. The first byte chooses the wrapping, a line end divides the
 * answers. */
#include "basic/util.h"
#include "podvm/process-user-data/metadata.h"
#include "userdata/cloud-config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
        const char *data;
        size_t size;
} answers[2];
static size_t n_asked;

static int give_answer(const HttpRequest *q, HttpReply *ret, char **reterr) {
        char *body;
        size_t n;

        assert(n_asked < ELEMENTSOF(answers));
        n = answers[n_asked].size;
        /* A token has become a part of a header: of one. */
        for (size_t i = 0; q->headers[i]; i++)
                assert(!strpbrk(q->headers[i], "\r\n"));
        if (n > q->size_max)
                return -E2BIG;
        body = malloc(n + 1);
        assert(body);
        memcpy(body, answers[n_asked].data, n);
        body[n] = '\0';
        *ret = (HttpReply) { .status = 200, .body = body, .size = n };
        n_asked++;
        return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        MetadataService m = { .addresses = { "192.0.2.1" }, .token_path = "/token", .token_header = "Token: ", .path = "/data" };
        char *text = NULL, *error = NULL;
        const uint8_t *end;
        size_t n = 0;
        int r;

        if (size < 2 || !(end = memchr(data + 1, '\n', size - 1)))
                return 0;
        m.token_key = data[0] & 1 ? "access_token" : NULL;
        m.key = data[0] & 2 ? "user_data" : NULL;
        m.base64 = data[0] & 4;

        answers[0].data = (const char*) data + 1;
        answers[0].size = (size_t) (end - data - 1);
        answers[1].data = (const char*) end + 1;
        answers[1].size = (size_t) (data + size - end - 1);
        n_asked = 0;

        r = metadata_ask(&m, give_answer, USEC_INFINITY, &text, &n, &error);
        if (r < 0) {
                assert(r == -EBADMSG || r == -EAGAIN || r == -E2BIG);
                assert(error && !text);
        } else {
                assert(!error && n > 0 && n <= CLOUD_CONFIG_SIZE_MAX && text[n] == '\0');
                erase_free(text, n);
        }
        free(error);
        return 0;
}
