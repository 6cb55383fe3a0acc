/* SPDX-License-Identifier: Apache-2.0 */
#include "retry-after.h"

#include <curl/curl.h>

#include "basic/parse.h"
#include "basic/util.h"

#define LONGEST_USEC (86400 * USEC_PER_SEC)

int retry_after_parse(const char *s, uint64_t now, uint64_t *ret) {
        uint64_t seconds;
        time_t t;
        int r;

        r = parse_u64(s, &seconds);
        if (r >= 0 || r == -ERANGE) {
                *ret = r < 0 || seconds > LONGEST_USEC / USEC_PER_SEC ? LONGEST_USEC : seconds * USEC_PER_SEC;
                return 0;
        }
        t = curl_getdate(s, NULL);
        if (t < 0)
                return -EINVAL;
        *ret = (uint64_t) t <= now / USEC_PER_SEC ? 0 : MIN((uint64_t) t * USEC_PER_SEC - now, LONGEST_USEC);
        return 0;
}
