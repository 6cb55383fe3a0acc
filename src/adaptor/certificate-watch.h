/* SPDX-License-Identifier: Apache-2.0 */
/* Says in the journal when a certificate is about to end: the given ones, and those of each sandbox. */
#pragma once

#include "basic/cleanup.h"

typedef struct CertificateWatch CertificateWatch;
typedef struct Manager Manager;

/**
 * certificate_watch_new() - look now, and then again each time that the settings say
 * @m: borrowed; outlives the watch
 *
 * Returns 0, -ENOMEM, or what sd-event says.
 */
int certificate_watch_new(Manager *m, CertificateWatch **ret);
CertificateWatch* certificate_watch_free(CertificateWatch *w);
DEFINE_CLEANUP(CertificateWatch*, certificate_watch_free);

/* certificate_watch_check() - look now; the settings may have been read again */
void certificate_watch_check(CertificateWatch *w);
