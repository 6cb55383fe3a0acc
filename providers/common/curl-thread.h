/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that drives libcurl's multi handle, so that the transfers of many callers share its connections. It knows nothing of what is
 * transferred. */
#pragma once

#include <curl/curl.h>

#include "provider/peerpod-provider.h"

typedef struct CurlThread CurlThread;

/**
 * curl_thread_new() - begin it, with all signals blocked
 * @connections_max: to one host
 * @ret:             curl_thread_free()
 *
 * Returns 0 or -errno.
 */
int curl_thread_new(unsigned connections_max, CurlThread **ret);
/* curl_thread_free() - end it and wait for that; no transfer may run any more. Takes NULL, returns NULL. */
CurlThread* curl_thread_free(CurlThread *c);

/**
 * curl_thread_perform() - hand over a prepared transfer and wait for its end, or that of the call
 * @easy:     borrowed until this returns, as is all that it uses, and of no other transfer; CURLOPT_PRIVATE becomes the thread's
 * @ret_code: set whatever comes: how the transfer has ended
 *
 * Returns 0 once the transfer has ended, well or not, by itself. Else negative with *error set: the call is over (peerpod_call_wait()), and
 * the transfer with it; or memory or descriptors are short. Any thread.
 */
int curl_thread_perform(CurlThread *c, const PeerpodCall *call, CURL *easy, CURLcode *ret_code, PeerpodError *error);
