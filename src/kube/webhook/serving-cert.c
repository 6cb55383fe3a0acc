/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/webhook/serving-cert.h"

#include <fcntl.h>
#include <sys/inotify.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/util.h"

#define FILE_SIZE_MAX (256U << 10)
/* Time for the second file to follow the first; and how often to look without being told: an inotify watch stays with a directory
 * that has been replaced by another. */
#define SETTLE_USEC (250 * USEC_PER_MSEC)
#define LOOK_USEC (10 * USEC_PER_SEC)

struct ServingCert {
        char *dir;
        ServingCertHandler handler;
        void *userdata;
        sd_event_source *changes, *timer;
        CertPair current;
        CertPair refused;               /* what was logged last, as far as it could be read, and why; 0: nothing since the last good one */
        int error;
};

/* Follows symlinks: in the volume of a Secret, both files are some. */
static int read_file(int dir_fd, const char *name, char **ret) {
        _cleanup_(close_fdp) int fd = openat(dir_fd, name, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);

        return fd < 0 ? -errno : read_full_fd(fd, FILE_SIZE_MAX, ret, NULL);
}

/* @ret has, on failure too, what could be read. */
static int read_pair(const char *dir, CertPair *ret, const char **ret_what) {
        _cleanup_(close_fdp) int dir_fd = -EBADF;
        int r;

        *ret_what = "the directory";
        dir_fd = open(dir, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (dir_fd < 0)
                return -errno;
        *ret_what = "tls.key";
        r = read_file(dir_fd, "tls.key", &ret->key);
        if (r < 0)
                return r;
        *ret_what = "tls.crt";
        r = read_file(dir_fd, "tls.crt", &ret->cert);
        if (r < 0)
                return r;
        *ret_what = "the pair";
        return cert_pair_check(ret->key, ret->cert);
}

static bool same_pair(const CertPair *a, const CertPair *b) {
        return streq_ptr(a->key, b->key) && streq_ptr(a->cert, b->cert);
}

/* One line for each pair that is no good, however often it is looked at; @pair is taken. */
static bool is_news(ServingCert *c, int error, CertPair *pair) {
        if (c->error == error && same_pair(&c->refused, pair))
                return false;
        cert_pair_done(&c->refused);
        c->refused = *pair;
        *pair = CERT_PAIR_NULL;
        c->error = error;
        return true;
}

static int complain(ServingCert *c, int error, const char *what, const char *consequence) {
        if (error == -EBADMSG)
                return log_full(NULL, LOG_ERR, MSG_WEBHOOK_CERTIFICATE, error,
                                "tls.crt and tls.key in '%s' are no certificate with its key%s.", c->dir, consequence);
        return log_full(NULL, LOG_ERR, MSG_WEBHOOK_CERTIFICATE, error, "Failed to read %s of '%s'%s: %m", what, c->dir, consequence);
}

static int load(ServingCert *c, const char *consequence, CertPair *ret) {
        _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL;
        const char *what;
        int r;

        r = read_pair(c->dir, &pair, &what);
        if (r < 0)
                return is_news(c, r, &pair) ? complain(c, r, what, consequence) : r;

        *ret = pair;
        pair = CERT_PAIR_NULL;
        return 0;
}

/* @pair is taken. */
static void set_current(ServingCert *c, CertPair *pair) {
        cert_pair_done(&c->current);
        c->current = *pair;
        *pair = CERT_PAIR_NULL;
        cert_pair_done(&c->refused);
        c->error = 0;
}

static void look(ServingCert *c) {
        _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL;
        int r;

        if (load(c, ", the old one stays", &pair) < 0)
                return;
        r = same_pair(&pair, &c->current) ? 0 : c->handler(&pair, c->userdata);
        if (r >= 0)
                set_current(c, &pair);
        else if (is_news(c, r, &pair))
                (void) log_full(NULL, LOG_ERR, MSG_WEBHOOK_CERTIFICATE, r,
                                "Failed to serve with the new certificate in '%s', the old one stays, trying again: %m", c->dir);
}

static void look_in(ServingCert *c, uint64_t usec) {
        int r = sd_event_source_set_time_relative(c->timer, usec);

        if (r >= 0)
                r = sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer, the certificate is not watched any more: %m");
}

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        ServingCert *c = userdata;

        look(c);
        look_in(c, LOOK_USEC);
        return 0;
}

static int on_change(sd_event_source *es, const struct inotify_event *event, void *userdata) {
        look_in(userdata, SETTLE_USEC);
        return 0;
}

int serving_cert_load(ServingCert *c, CertPair *ret) {
        _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL, copy = CERT_PAIR_NULL;
        int r;

        r = load(c, "", &pair);
        if (r < 0)
                return r;
        copy = (CertPair) { .key = strdup(pair.key), .cert = strdup(pair.cert) };
        if (!copy.key || !copy.cert)
                return log_oom();
        set_current(c, &copy);

        *ret = pair;
        pair = CERT_PAIR_NULL;
        return 0;
}

int serving_cert_new(sd_event *event, const char *dir, ServingCertHandler handler, void *userdata, ServingCert **ret) {
        _cleanup_(serving_cert_freep) ServingCert *c = NULL;
        int r;

        c = new(ServingCert);
        if (!c)
                return -ENOMEM;
        *c = (ServingCert) { .dir = strdup(dir), .handler = handler, .userdata = userdata };
        if (!c->dir)
                return -ENOMEM;
        r = sd_event_add_time_relative(event, &c->timer, CLOCK_MONOTONIC, LOOK_USEC, 0, on_timer, c);
        if (r < 0)
                return r;
        /* Without it, there is the timer. */
        r = sd_event_add_inotify(event, &c->changes, dir, IN_CLOSE_WRITE|IN_MOVED_TO|IN_CREATE|IN_DELETE|IN_ONLYDIR, on_change, c);
        if (r < 0)
                log_debug_errno(r, "Failed to watch '%s': %m", dir);

        *ret = TAKE_PTR(c);
        return 0;
}

ServingCert* serving_cert_free(ServingCert *c) {
        if (!c)
                return NULL;

        sd_event_source_disable_unref(c->changes);
        sd_event_source_disable_unref(c->timer);
        cert_pair_done(&c->current);
        cert_pair_done(&c->refused);
        free(c->dir);
        free(c);
        return NULL;
}
