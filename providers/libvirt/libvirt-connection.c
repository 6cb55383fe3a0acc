/* SPDX-License-Identifier: Apache-2.0 */
#include "libvirt-connection.h"

#include <signal.h>
#include <stdarg.h>
#include <syslog.h>

#define KEEPALIVE_INTERVAL_SEC 5
#define KEEPALIVE_COUNT 3
/* libvirtd has that many calls of a connection under way (libvirt/libvirt: src/remote/libvirtd.conf.in, max_client_requests is 5) and reads the next;
 * with one more it would read nothing until one is done, and not answer keep-alive either. */
#define CALLS_MAX 4U
#define LOOK_USEC (100 * USEC_PER_MSEC)

int libvirt_oom(PeerpodError *error) {
        (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "Out of memory.");
        return -ENOMEM;
}

int libvirt_last_code(void) {
        virErrorPtr e = virGetLastError();

        return e ? e->code : VIR_ERR_OK;
}

/* What a lost connection gives has no code of its own: "client socket is closed" is an internal error, the end of file a system error. Only
 * the domain tells (libvirt/libvirt: src/rpc/virnetclient.c, virnetsocket.c; SSH in the process: virnetsshsession.c, virnetlibsshsession.c). */
static bool is_cut_off(const virError *e) {
        return e && ((e->domain == VIR_FROM_RPC && (e->code == VIR_ERR_INTERNAL_ERROR || e->code == VIR_ERR_SYSTEM_ERROR)) ||
                     (e->domain == VIR_FROM_SSH && e->code == VIR_ERR_SSH) ||
                     (e->domain == VIR_FROM_LIBSSH && e->code == VIR_ERR_LIBSSH));
}

bool libvirt_is_cut_off(void) {
        return is_cut_off(virGetLastError());
}

PeerpodErrorKind libvirt_error_kind(const virError *e, PeerpodErrorKind fallback) {
        if (is_cut_off(e))
                return PEERPOD_E_UNAVAILABLE;

        switch (e ? e->code : VIR_ERR_OK) {
        case VIR_ERR_AUTH_FAILED:
        case VIR_ERR_AUTH_CANCELLED:
        case VIR_ERR_AUTH_UNAVAILABLE:
        case VIR_ERR_ACCESS_DENIED:
                return PEERPOD_E_UNAUTHENTICATED;
        case VIR_ERR_RPC:
        case VIR_ERR_NO_CONNECT:
        case VIR_ERR_INVALID_CONN:
        case VIR_ERR_OPERATION_TIMEOUT:         /* another one has the VM's lock */
                return PEERPOD_E_UNAVAILABLE;
        case VIR_ERR_NO_STORAGE_POOL:
        case VIR_ERR_NO_STORAGE_VOL:
        case VIR_ERR_NO_NETWORK:
        case VIR_ERR_CONFIG_UNSUPPORTED:
                return PEERPOD_E_FAILED_PRECONDITION;
        case VIR_ERR_NO_MEMORY:
                return PEERPOD_E_EXHAUSTED;
        default:
                return fallback;
        }
}

int libvirt_fail(PeerpodError *error, PeerpodErrorKind fallback, const char *format, ...) {
        virErrorPtr e = virGetLastError();
        char what[256];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(what, sizeof(what), format, ap);
        va_end(ap);
        return peerpod_error_set(error, libvirt_error_kind(e, fallback), "%s: %s", what, e && e->message ? e->message : "unknown error");
}

/* Without a handler libvirt prints every error on stderr, those that we expect too. */
static void on_error(void *userdata, virErrorPtr e) {
}

static void* loop(void *userdata) {
        Libvirt *l = userdata;

        while (!__atomic_load_n(&l->loop_stop, __ATOMIC_ACQUIRE))
                if (virEventRunDefaultImpl() < 0)
                        virResetLastError();
        return NULL;
}

int libvirt_loop_start(Libvirt *l) {
        sigset_t all, old;
        int r;

        if (virInitialize() < 0)
                return -EIO;
        virSetErrorFunc(NULL, on_error);
        if (virEventRegisterDefaultImpl() < 0)
                return -EIO;

        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &old);
        r = pthread_create(&l->loop_thread, NULL, loop, l);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (r != 0)
                return -r;
        l->loop_running = true;
        return 0;
}

static void on_wakeup(int timer, void *userdata) {
        (void) virEventRemoveTimeout(timer);
}

void libvirt_loop_stop(Libvirt *l) {
        if (!l->loop_running)
                return;
        __atomic_store_n(&l->loop_stop, true, __ATOMIC_RELEASE);
        (void) virEventAddTimeout(0, on_wakeup, NULL, NULL);    /* it polls without end otherwise */
        (void) pthread_join(l->loop_thread, NULL);
        l->loop_running = false;
}

/* On the loop's thread. */
static void on_closed(virConnectPtr handle, int reason, void *userdata) {
        static const char *const names[] = {
                [VIR_CONNECT_CLOSE_REASON_ERROR] = "an error",
                [VIR_CONNECT_CLOSE_REASON_EOF] = "the daemon",
                [VIR_CONNECT_CLOSE_REASON_KEEPALIVE] = "silence",
                [VIR_CONNECT_CLOSE_REASON_CLIENT] = "us",
        };
        LibvirtConnection *c = userdata;
        const Libvirt *l = c->libvirt;

        if (reason != VIR_CONNECT_CLOSE_REASON_CLIENT && l->log) {
                char text[128];

                (void) snprintf(text, sizeof(text), "The connection to libvirt was ended by %s; it is made again when needed.",
                                reason >= 0 && (size_t) reason < ELEMENTSOF(names) ? names[reason] : "something");
                l->log(l->log_userdata, LOG_WARNING, text);
        }
        __atomic_store_n(&c->lost, true, __ATOMIC_RELEASE);
}

static void disconnect(LibvirtConnection *c) {
        (void) virConnectUnregisterCloseCallback(c->handle, on_closed);        /* on_closed() is not under way then */
        (void) virConnectClose(c->handle);
        free(c);
}

static void drop_lost(Libvirt *l) {
        for (LibvirtConnection **p = &l->connections, *c; (c = *p);) {
                if (virConnectIsAlive(c->handle) != 1)
                        __atomic_store_n(&c->lost, true, __ATOMIC_RELEASE);
                if (__atomic_load_n(&c->lost, __ATOMIC_ACQUIRE) && __atomic_load_n(&c->n_calls, __ATOMIC_ACQUIRE) == 0) {
                        *p = c->next;
                        disconnect(c);
                } else
                        p = &c->next;
        }
        virResetLastError();
}

static bool is_free(const LibvirtConnection *c) {
        return !__atomic_load_n(&c->lost, __ATOMIC_ACQUIRE) &&
                (libvirt_is_embedded(c->libvirt) || __atomic_load_n(&c->n_calls, __ATOMIC_ACQUIRE) < CALLS_MAX);
}

static LibvirtConnection* find_free(Libvirt *l) {
        LibvirtConnection *c;

        drop_lost(l);
        for (c = l->connections; c && !is_free(c); c = c->next)
                ;
        return c;
}

static int make_connection(Libvirt *l, LibvirtConnection **ret, PeerpodError *error) {
        LibvirtConnection *c = new(LibvirtConnection);

        if (!c)
                return libvirt_oom(error);
        *c = (LibvirtConnection) { .handle = virConnectOpen(l->uri), .libvirt = l };
        if (!c->handle) {
                free(c);
                return libvirt_fail(error, PEERPOD_E_UNAVAILABLE, "Failed to connect to libvirt");
        }
        /* Not all drivers know these two: a local one needs no keep-alive. */
        (void) virConnectSetKeepAlive(c->handle, KEEPALIVE_INTERVAL_SEC, KEEPALIVE_COUNT);
        (void) virConnectRegisterCloseCallback(c->handle, on_closed, c, NULL);
        virResetLastError();
        *ret = c;
        return 0;
}

static void* connector(void *userdata) {
        PeerpodError error = { .size = sizeof(PeerpodError) };
        LibvirtConnection *c = NULL;
        Libvirt *l = userdata;
        int r;

        r = make_connection(l, &c, &error);
        (void) pthread_mutex_lock(&l->mutex);
        l->connecting = false;
        l->n_attempts++;
        l->failure = error;
        l->failed = r;
        if (r == 0) {
                c->next = l->connections;
                l->connections = c;
        }
        (void) pthread_cond_broadcast(&l->connected);
        (void) pthread_mutex_unlock(&l->mutex);
        return NULL;
}

/* On a thread of its own, that nobody waits for: libvirt has no end of its patience with a daemon that does not answer, nor can it be told. */
static int begin_connecting(Libvirt *l, PeerpodError *error) {
        pthread_attr_t attributes;
        sigset_t all, old;
        pthread_t thread;
        int r;

        if (l->connecting)
                return 0;
        (void) pthread_attr_init(&attributes);
        (void) pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &old);
        r = pthread_create(&thread, &attributes, connector, l);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        (void) pthread_attr_destroy(&attributes);
        if (r != 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to start a thread: %s", strerror(r));
        l->connecting = true;
        return 0;
}

/* Until the attempt that is under way has ended, or there may be a cancel to look for. */
static void wait_for_attempt(Libvirt *l, uint64_t deadline_usec) {
        uint64_t until = MIN(peerpod_now_usec() + LOOK_USEC, deadline_usec);

        (void) pthread_cond_clockwait(&l->connected, &l->mutex, CLOCK_MONOTONIC, &(struct timespec) {
                .tv_sec = (time_t) (until / USEC_PER_SEC),
                .tv_nsec = (long) (until % USEC_PER_SEC * NSEC_PER_USEC),
        });
}

static int connect_locked(Libvirt *l, const PeerpodCall *call, LibvirtConnection **ret, PeerpodError *error) {
        uint64_t n_earlier = l->n_attempts + l->connecting;     /* that began before this call: their failure is not its own */
        int r;

        for (;;) {
                uint64_t ended = l->n_attempts;

                *ret = find_free(l);
                if (*ret)
                        return 0;
                r = begin_connecting(l, error);
                if (r < 0)
                        return r;
                while (l->n_attempts == ended) {
                        r = peerpod_call_check(call, error);
                        if (r == -ETIMEDOUT)
                                return peerpod_error_set(error, PEERPOD_E_TIMED_OUT, "No connection to libvirt in time.");
                        if (r < 0)
                                return r;
                        wait_for_attempt(l, call->deadline_usec);
                }
                if (l->failed < 0 && l->n_attempts > n_earlier) {
                        (void) peerpod_error_set(error, l->failure.kind, "%s", l->failure.text);
                        return l->failed;
                }
        }
}

int libvirt_connect(Libvirt *l, const PeerpodCall *call, LibvirtConnection **ret, PeerpodError *error) {
        int r;

        (void) pthread_mutex_lock(&l->mutex);
        r = connect_locked(l, call, ret, error);
        if (r == 0)
                (void) __atomic_add_fetch(&(*ret)->n_calls, 1, __ATOMIC_ACQ_REL);
        (void) pthread_mutex_unlock(&l->mutex);
        return r;
}

void libvirt_release(LibvirtConnection *c) {
        (void) __atomic_sub_fetch(&c->n_calls, 1, __ATOMIC_ACQ_REL);
}

bool libvirt_disconnect(Libvirt *l) {
        bool connecting;
        LibvirtConnection *c;

        (void) pthread_mutex_lock(&l->mutex);
        connecting = l->connecting;
        (void) pthread_mutex_unlock(&l->mutex);
        if (connecting)
                return false;
        while ((c = l->connections)) {
                l->connections = c->next;
                disconnect(c);
        }
        return true;
}
