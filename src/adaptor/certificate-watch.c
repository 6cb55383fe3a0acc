/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/certificate-watch.h"

#include <systemd/sd-event.h>

#include "adaptor/manager.h"
#include "adaptor/sandbox-files.h"
#include "adaptor/sandbox.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "tls/cert.h"

struct CertificateWatch {
        Manager *manager;               /* borrowed */
        sd_event_source *timer;
};

/* How long it is good for, or that it is over; says so only if it is time to. */
static bool is_time_to_warn(const Settings *settings, uint64_t end_usec, const char **ret_text, uint64_t *ret_left_usec) {
        uint64_t now = now_usec(CLOCK_REALTIME);

        *ret_text = end_usec > now ? "ends in" : "has ended, since";
        *ret_left_usec = end_usec > now ? end_usec - now : now - end_usec;
        return end_usec <= now || end_usec - now < settings->certificate_warning_usec;
}

static int level_of(uint64_t end_usec) {
        return end_usec > now_usec(CLOCK_REALTIME) ? LOG_WARNING : LOG_ERR;
}

static void check_given(const Settings *settings, const char *path, const char *pem) {
        uint64_t end, left;
        const char *text;

        if (!pem || cert_get_expiry(pem, &end) < 0 || !is_time_to_warn(settings, end, &text, &left))
                return;
        (void) log_full(NULL, level_of(end), MSG_CERTIFICATE_ENDS, 0, "Certificate '%s' %s %s.", path, text, FORMAT_USEC(left));
}

static void check_sandbox(const Settings *settings, Sandbox *s) {
        uint64_t end, left;
        const char *text;

        if (sandbox_files_get_expiry(settings, s->record.id, &end) < 0 || !is_time_to_warn(settings, end, &text, &left))
                return;
        log_sandbox(s, level_of(end), MSG_CERTIFICATE_ENDS,
                    "Certificate of sandbox '%s' %s %s: then its agent proxy can no longer connect to the pod VM.", s->record.id, text,
                    FORMAT_USEC(left));
}

void certificate_watch_check(CertificateWatch *w) {
        const Settings *settings = w->manager->settings;
        Sandbox *s;

        if (!settings->disable_tls) {
                check_given(settings, settings->cert_file, settings->client_cert);
                check_given(settings, settings->ca_cert_file, settings->ca_cert);
        }
        TAILQ_FOREACH(s, &w->manager->sandboxes, sandboxes)
                if (s->record.state == SANDBOX_RUNNING)
                        check_sandbox(settings, s);
}

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        CertificateWatch *w = userdata;
        int r;

        certificate_watch_check(w);
        r = sd_event_source_set_time_relative(es, w->manager->settings->certificate_check_usec);
        if (r >= 0)
                r = sd_event_source_set_enabled(es, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer, certificates are not watched any more: %m");
        return 0;
}

int certificate_watch_new(Manager *m, CertificateWatch **ret) {
        _cleanup_(certificate_watch_freep) CertificateWatch *w = NULL;
        int r;

        w = new(CertificateWatch);
        if (!w)
                return -ENOMEM;
        *w = (CertificateWatch) { .manager = m };
        r = sd_event_add_time_relative(m->event, &w->timer, CLOCK_MONOTONIC, m->settings->certificate_check_usec, 0, on_timer, w);
        if (r < 0)
                return r;

        certificate_watch_check(w);
        *ret = TAKE_PTR(w);
        return 0;
}

CertificateWatch* certificate_watch_free(CertificateWatch *w) {
        if (!w)
                return NULL;

        sd_event_source_disable_unref(w->timer);
        free(w);
        return NULL;
}
