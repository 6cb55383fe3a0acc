/* SPDX-License-Identifier: Apache-2.0 */
/* One caller fetches, on its own thread and call; the others wait on an eventfd each, so that their own deadline and cancel hold. If the one
 * that fetches is cancelled or out of time, that says nothing about the credentials: the next one fetches. */
#include "cloud-token.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <syslog.h>
#include <time.h>

#include "basic/util.h"
#include "cloud-config.h"

#define HOLD_OFF (10 * USEC_PER_SEC)    /* after a failed fetch ahead of the end */

typedef struct Waiter {
        struct Waiter *next;
        int fd;
        bool done;
        int result;
        PeerpodError error;
} Waiter;

struct TokenCache {
        TokenFetch fetch;
        void *userdata;
        uint64_t early_usec;
        pthread_mutex_t lock;           /* of all below */
        Token token;
        bool has_token, fetching;
        uint64_t not_before_usec;       /* CLOCK_MONOTONIC: no fetch ahead of the end before that */
        Waiter *waiters;
};

void token_done(Token *t) {
        for (size_t i = 0; i < TOKEN_PARTS; i++)
                erase_free_stringp(&t->parts[i]);
        *t = (Token) {};
}

int token_copy(const Token *from, Token *ret) {
        Token t = { .expires_usec = from->expires_usec, .fetched_usec = from->fetched_usec };

        for (size_t i = 0; i < TOKEN_PARTS; i++) {
                if (!from->parts[i])
                        continue;
                t.parts[i] = strdup(from->parts[i]);
                if (!t.parts[i]) {
                        token_done(&t);
                        return -ENOMEM;
                }
        }
        *ret = t;
        return 0;
}

static bool token_same(const Token *a, const Token *b) {
        for (size_t i = 0; i < TOKEN_PARTS; i++)
                if (!streq_ptr(a->parts[i], b->parts[i]))
                        return false;
        return true;
}

int token_cache_new(TokenFetch fetch, void *userdata, uint64_t early_usec, TokenCache **ret) {
        TokenCache *c = new(TokenCache);

        if (!c)
                return -ENOMEM;
        *c = (TokenCache) { .fetch = fetch, .userdata = userdata, .early_usec = early_usec, .lock = PTHREAD_MUTEX_INITIALIZER };
        *ret = c;
        return 0;
}

TokenCache* token_cache_free(TokenCache *c) {
        if (!c)
                return NULL;
        assert(!c->waiters && !c->fetching);
        token_done(&c->token);
        (void) pthread_mutex_destroy(&c->lock);
        free(c);
        return NULL;
}

static bool is_usable(const TokenCache *c, const Token *refused) {
        return c->has_token && c->token.expires_usec > now_usec(CLOCK_REALTIME) && !(refused && token_same(refused, &c->token));
}

static bool is_due(const TokenCache *c) {
        uint64_t life, early;

        if (c->token.expires_usec == UINT64_MAX || now_usec(CLOCK_MONOTONIC) < c->not_before_usec)
                return false;
        life = c->token.expires_usec > c->token.fetched_usec ? c->token.expires_usec - c->token.fetched_usec : 0;
        early = MIN(c->early_usec, life / 5);
        return usec_add(now_usec(CLOCK_REALTIME), early) >= c->token.expires_usec;
}

static int give(const TokenCache *c, Token *ret, PeerpodError *error) {
        return token_copy(&c->token, ret) < 0 ? oom(error) : 0;
}

static void wake_waiters(TokenCache *c, int result, const PeerpodError *error) {
        for (Waiter *w; (w = c->waiters);) {
                c->waiters = w->next;
                w->done = true;
                w->result = result;
                if (result < 0)
                        w->error = *error;
                (void) eventfd_write(w->fd, 1);
        }
}

/* Called and left with the lock held. Returns what the fetch of another one came to, or -errno with *error set if this call is over. */
static int wait_for_other(TokenCache *c, const PeerpodCall *call, bool *ret_over, PeerpodError *error) {
        Waiter w = { .fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK), .error = { .size = sizeof(PeerpodError) } };
        int r;

        *ret_over = true;
        if (w.fd < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "eventfd: %s", strerror(errno));
        w.next = c->waiters;
        c->waiters = &w;
        (void) pthread_mutex_unlock(&c->lock);
        r = peerpod_call_wait(call, w.fd, POLLIN, UINT64_MAX, error);
        (void) pthread_mutex_lock(&c->lock);
        for (Waiter **p = &c->waiters; *p; p = &(*p)->next)
                if (*p == &w) {
                        *p = w.next;
                        break;
                }
        w.fd = close_fd(w.fd);
        if (r < 0)
                return r;

        *ret_over = false;
        if (w.done && w.result < 0 && w.error.kind != PEERPOD_E_CANCELLED && w.error.kind != PEERPOD_E_TIMED_OUT) {
                *ret_over = true;
                return peerpod_error_set(error, (PeerpodErrorKind) w.error.kind, "%s", w.error.text);
        }
        return 0;
}

/* Called and left with the lock held. */
static int fetch(TokenCache *c, const PeerpodCall *call, const Token *refused, Token *ret, PeerpodError *error) {
        PeerpodError why = { .size = sizeof(PeerpodError) };
        Token t = {};
        int r;

        c->fetching = true;
        (void) pthread_mutex_unlock(&c->lock);
        r = c->fetch(c->userdata, call, &t, &why);
        (void) pthread_mutex_lock(&c->lock);
        c->fetching = false;
        if (r >= 0) {
                t.fetched_usec = now_usec(CLOCK_REALTIME);
                token_done(&c->token);
                c->token = t;
                c->has_token = true;
                c->not_before_usec = 0;
                wake_waiters(c, 0, NULL);
                return give(c, ret, error);
        }

        token_done(&t);
        wake_waiters(c, r, &why);
        if (why.kind != PEERPOD_E_CANCELLED && is_usable(c, refused)) {
                c->not_before_usec = usec_add(now_usec(CLOCK_MONOTONIC), HOLD_OFF);
                peerpod_log(call, LOG_WARNING, "New credentials cannot be fetched, going on with the old ones: %s", why.text);
                return give(c, ret, error);
        }
        if (error)
                (void) peerpod_error_set(error, (PeerpodErrorKind) why.kind, "%s", why.text);
        return r;
}

int token_cache_get(TokenCache *c, const PeerpodCall *call, const Token *refused, Token *ret, PeerpodError *error) {
        int r;

        (void) pthread_mutex_lock(&c->lock);
        for (;;) {
                bool usable = is_usable(c, refused), over;

                if (usable && (c->fetching || !is_due(c))) {
                        r = give(c, ret, error);
                        break;
                }
                if (!c->fetching) {
                        r = fetch(c, call, refused, ret, error);
                        break;
                }
                r = wait_for_other(c, call, &over, error);
                if (over)
                        break;
        }
        (void) pthread_mutex_unlock(&c->lock);
        return r;
}

/* @n digits at *s. */
static bool take_digits(const char **s, unsigned n, unsigned *ret) {
        unsigned v = 0;

        for (; n > 0; n--, (*s)++) {
                if (**s < '0' || **s > '9')
                        return false;
                v = v * 10 + (unsigned) (**s - '0');
        }
        *ret = v;
        return true;
}

static bool take(const char **s, const char *any) {
        if (**s == '\0' || !strchr(any, **s))
                return false;
        (*s)++;
        return true;
}

static bool is_leap(unsigned year) {
        return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static bool date_is_valid(unsigned year, unsigned month, unsigned day) {
        static const unsigned days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };

        return year >= 1970 && month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1] + (month == 2 && is_leap(year));
}

/* Microseconds of ".123456789", what is finer is dropped; 0 if there is no fraction. */
static bool take_fraction(const char **s, unsigned *ret) {
        unsigned v = 0, scale = 100000;

        *ret = 0;
        if (!take(s, "."))
                return true;
        if (**s < '0' || **s > '9')
                return false;
        for (; **s >= '0' && **s <= '9'; (*s)++, scale /= 10)
                v += (unsigned) (**s - '0') * scale;
        *ret = v;
        return true;
}

int token_parse_time(const char *s, uint64_t *ret) {
        unsigned year, month, day, hour, minute, second, usec, off_hour = 0, off_minute = 0;
        bool west = false;
        struct tm tm;
        int64_t t;

        if (!take_digits(&s, 4, &year) || !take(&s, "-") || !take_digits(&s, 2, &month) || !take(&s, "-") || !take_digits(&s, 2, &day) ||
            !take(&s, "Tt ") || !take_digits(&s, 2, &hour) || !take(&s, ":") || !take_digits(&s, 2, &minute) || !take(&s, ":") ||
            !take_digits(&s, 2, &second) || !take_fraction(&s, &usec))
                return -EINVAL;
        if (!take(&s, "Zz")) {
                west = *s == '-';
                if (!take(&s, "+-") || !take_digits(&s, 2, &off_hour) || !take(&s, ":") || !take_digits(&s, 2, &off_minute))
                        return -EINVAL;
        }
        if (*s != '\0' || !date_is_valid(year, month, day) || hour > 23 || minute > 59 || second > 60 || off_hour > 23 || off_minute > 59)
                return -EINVAL;

        tm = (struct tm) { .tm_year = (int) year - 1900, .tm_mon = (int) month - 1, .tm_mday = (int) day, .tm_hour = (int) hour,
                           .tm_min = (int) minute, .tm_sec = (int) second };
        t = (int64_t) timegm(&tm) + (west ? 1 : -1) * (int64_t) (off_hour * 3600 + off_minute * 60);
        if (t < 0)
                return -EINVAL;
        *ret = (uint64_t) t * USEC_PER_SEC + usec;
        return 0;
}
