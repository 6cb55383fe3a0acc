/* SPDX-License-Identifier: Apache-2.0 */
/* What the HTTP client reads out of replies; apart from it for the tests. */
#pragma once

#include <stdint.h>

#include "cloud-http.h"

/* http_retry_after() - µs that Retry-After asks for, seconds or a date (RFC 9110 section 10.2.3); 0 without one; an hour at most */
uint64_t http_retry_after(const HttpReply *reply, uint64_t realtime_usec);

/* http_url_is_near() - is the host one that no proxy can reach for us: loopback, link-local, a cloud's metadata service? */
bool http_url_is_near(const char *url);
