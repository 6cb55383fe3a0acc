/* SPDX-License-Identifier: Apache-2.0 */
/* One try of one request: the layer between libcurl and what repeats requests (kube-client.c) or reads streams (kube-watch.c). Not for others. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/json.h"
#include "kube/kube-client.h"

typedef struct KubeSession KubeSession;
typedef struct KubeTransfer KubeTransfer;

typedef struct KubeTransferSpec {
        const char *method, *path, *content_type;
        const char *body;               /* copied; NULL: none */
        uint64_t timeout_usec;          /* USEC_INFINITY: none, for streams */
        size_t reply_max;
        bool repeatable;                /* libcurl may repeat what a kept connection did not answer */

        /* The headers of a 2xx have come. From within libcurl: must not free. May be NULL. */
        void (*on_begin)(KubeTransfer *t, void *userdata);
        /* A piece of a stream, of a 2xx only; otherwise and without it, all is collected. From within libcurl: may only take it, not free. Returns
         * 0; 1: not now, but again after kube_transfer_resume(); or a negative errno that ends the transfer. */
        int (*on_data)(KubeTransfer *t, const char *data, size_t size, void *userdata);
        /* It has ended; the results below are there. From the loop; may free the transfer. */
        void (*on_done)(KubeTransfer *t, void *userdata);
        void *userdata;
} KubeTransferSpec;

int kube_transfer_new(KubeSession *s, const KubeTransferSpec *spec, KubeTransfer **ret);
KubeTransfer* kube_transfer_free(KubeTransfer *t);      /* ends it */
DEFINE_CLEANUP(KubeTransfer*, kube_transfer_free);

void kube_transfer_resume(KubeTransfer *t);             /* may call on_data() */

/**
 * kube_transfer_reply() - what came of it
 * @ret: its text is newly allocated, kept in the transfer; its object is, too
 *
 * For 2xx of a stream, object is NULL.
 */
void kube_transfer_reply(KubeTransfer *t, KubeReply *ret);
/* kube_transfer_is_undone() - no connection at all, so that the server has done nothing */
bool kube_transfer_is_undone(const KubeTransfer *t);

/* kube_reply_error() - the errno that an HTTP status and a reason stand for */
int kube_reply_error(int status, const char *reason);
