/* SPDX-License-Identifier: Apache-2.0 */
/* The certificate that the webhook serves with: two files, tls.crt and tls.key, that somebody else renews. */
#pragma once

#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "tls/cert.h"

typedef struct ServingCert ServingCert;

/* A new pair that is in order; @pair is borrowed for the time of the call. Returns 0, or -errno to be asked again. */
typedef int (*ServingCertHandler)(const CertPair *pair, void *userdata);

/**
 * serving_cert_new() - watch a directory
 * @dir:     copied; may be replaced, as Kubernetes does with what is in a Secret's volume
 * @handler: called when the pair is another one, but for the first, until it takes it
 *
 * A pair that does not belong together is left alone: one of its files may have been written before the other. If it stays so, that
 * is logged, once for each such pair. The same goes for one that is not there any more, or that @handler does not take. Returns 0 or
 * -errno.
 */
int serving_cert_new(sd_event *event, const char *dir, ServingCertHandler handler, void *userdata, ServingCert **ret);
ServingCert* serving_cert_free(ServingCert *c);
DEFINE_CLEANUP(ServingCert*, serving_cert_free);

/* serving_cert_load() - the pair as it is now. Returns 0 or, logged, a negative errno. */
int serving_cert_load(ServingCert *c, CertPair *ret);
