/* SPDX-License-Identifier: Apache-2.0 */
/* AdmissionReview of admission.k8s.io/v1: what the API server asks, and what it is answered (kubernetes/api: admission/v1/types.go). */
#pragma once

#include <stddef.h>

typedef struct WebhookSettings WebhookSettings;

/* One review. The API server takes pods of at most 3 MiB, and adds to them; the limit is upstream's
 * (kubernetes-sigs/controller-runtime: pkg/webhook/admission/http.go). */
#define REVIEW_SIZE_MAX ((size_t) 7 << 20)

/* Objects and arrays, and elements of both: a few bytes of text can become a thousand times more in memory. */
#define REVIEW_CONTAINERS_MAX 65536U
#define REVIEW_ELEMENTS_MAX 524288U

/**
 * review_answer() - decide on a review
 * @ret: the answer, an AdmissionReview as text, newly allocated; a refusal, too, is an answer
 *
 * Returns 0, -ENOMEM.
 */
int review_answer(const WebhookSettings *settings, const char *text, size_t size, char **ret);

/* review_refuse() - an answer that refuses; @uid "" if the question could not even be read, @code as of HTTP. Returns 0, -ENOMEM. */
int review_refuse(const char *uid, unsigned code, const char *message, char **ret);
