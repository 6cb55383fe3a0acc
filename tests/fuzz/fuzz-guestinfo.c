/* SPDX-License-Identifier: Apache-2.0 */
/* A hypervisor that answers each call of the backdoor with what stands in the input: status, type, and four bytes. What comes out is decoded
 * as the first byte says. */
#include "basic/util.h"
#include "podvm/process-user-data/guestinfo.h"
#include "podvm/process-user-data/vsphere.h"
#include "userdata/cloud-config.h"

#define ANSWER_SIZE 6           /* status, type, four bytes of data */
#define VALUE_MAX 65536U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *left;
static size_t n_left;

static int give_answer(BackdoorRegisters *r) {
        const uint8_t *p = left;

        if (n_left < ANSWER_SIZE)
                return -EPERM;
        left += ANSWER_SIZE;
        n_left -= ANSWER_SIZE;
        r->cx = (uint32_t) p[0] << 16;
        r->dx = (uint32_t) p[1] << 16;
        r->bx = (uint32_t) p[2] | (uint32_t) p[3] << 8 | (uint32_t) p[4] << 16 | (uint32_t) p[5] << 24;
        return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const encodings[] = { "", "base64", "gzip+base64", "rot13" };
        char *value = NULL, *text = NULL, *error = NULL;
        size_t n = 0, n_text = 0;
        int r;

        if (size < 1)
                return 0;
        left = data + 1;
        n_left = size - 1;

        r = guestinfo_get(give_answer, "guestinfo.x", VALUE_MAX, &value, &n, &error);
        if (r < 0) {
                assert(!value);
                assert(r == -ENODATA || r == -E2BIG || r == -EBADMSG || r == -EAGAIN || r == -EPERM);
                assert(error);
                free(error);
                return 0;
        }

        assert(!error && n <= VALUE_MAX && value[n] == '\0');
        r = vsphere_decode(encodings[data[0] % ELEMENTSOF(encodings)], value, n, &text, &n_text, &error);
        assert(r >= 0 ? !error && n_text > 0 && n_text <= CLOUD_CONFIG_SIZE_MAX && text[n_text] == '\0' :
                        error && !text && (r == -EAGAIN || r == -EBADMSG || r == -E2BIG || r == -EOPNOTSUPP));
        erase_free(text, n_text);
        erase_free(value, n);
        free(error);
        return 0;
}
