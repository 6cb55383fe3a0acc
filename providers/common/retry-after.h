/* SPDX-License-Identifier: Apache-2.0 */
/* The header Retry-After: seconds, or a date (RFC 9110, sections 10.2.3 and 5.6.7). */
#pragma once

#include <stdint.h>

/* retry_after_parse() - µs from @now_usec (CLOCK_REALTIME) on, at most a day; a date that is over is 0. Returns 0, -EINVAL. */
int retry_after_parse(const char *s, uint64_t now_usec, uint64_t *ret);
