/* SPDX-License-Identifier: Apache-2.0 */
/* libcurl's multi handle on the event loop: its sockets and its timer are event sources here, and CURLM codes stop here. */
#pragma once

#include <curl/curl.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"

typedef struct KubeCurl KubeCurl;

/* A transfer has ended; it is out of the handle already. From the loop, never from within libcurl: may add, remove and free. */
typedef void (*KubeCurlDone)(CURL *easy, CURLcode code, void *userdata);

/* kube_curl_new() - a pool of connections. Counted: one reference for the caller, one for each transfer in it. Returns 0, -ENOMEM or -errno. */
int kube_curl_new(sd_event *event, KubeCurl **ret);
KubeCurl* kube_curl_ref(KubeCurl *c);
KubeCurl* kube_curl_unref(KubeCurl *c);
DEFINE_CLEANUP(KubeCurl*, kube_curl_unref);

/* kube_curl_add() - begin; @easy is borrowed, CURLOPT_PRIVATE is ours, @done and @userdata must stay until it is done or removed. Returns 0, -ENOMEM. */
int kube_curl_add(KubeCurl *c, CURL *easy, KubeCurlDone done, void *userdata);
/* kube_curl_remove() - end without a word; not from within a callback of libcurl */
void kube_curl_remove(KubeCurl *c, CURL *easy);
