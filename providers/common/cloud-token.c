/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-token.h"

#include <pthread.h>
#include <syslog.h>

#include "basic/util.h"
#include "cloud-config.h"

#define WAIT_STEP_USEC (100 * USEC_PER_MSEC)
#define FETCH_AGAIN_USEC (30 * USEC_PER_SEC)    /* after a failure, while the old token is valid */

struct TokenCache {
        pthread_mutex_t mutex;
        TokenFetch fetch;
        void *userdata;
        uint64_t early_usec;
        uint64_t failed_usec;           /* CLOCK_MONOTONIC; 0: the last fetch did not fail */
        uint64_t n_fetches;             /* ended ones */
        PeerpodError failure;           /* of the last one, if it failed with no old token to go on with */
        bool present, fetching;
        Token token;
};

void token_done(Token *t) {
        for (size_t i = 0; i < TOKEN_PARTS; i++)
                erase_free_stringp(t->parts + i);
        *t = (Token) {};
}

int token_copy(const Token *from, Token *ret) {
        Token t = { .expires_usec = from->expires_usec, .fetched_usec = from->fetched_usec };

        for (size_t i = 0; i < TOKEN_PARTS; i++)
                if (from->parts[i]) {
                        t.parts[i] = strdup(from->parts[i]);
                        if (!t.parts[i]) {
                                token_done(&t);
                                return -ENOMEM;
                        }
                }
        *ret = t;
        return 0;
}

int token_cache_new(TokenFetch fetch, void *userdata, uint64_t early_usec, TokenCache **ret) {
        TokenCache *c = new(TokenCache);

        if (!c)
                return -ENOMEM;
        *c = (TokenCache) { .mutex = PTHREAD_MUTEX_INITIALIZER, .fetch = fetch, .userdata = userdata, .early_usec = early_usec };
        *ret = c;
        return 0;
}

TokenCache* token_cache_free(TokenCache *c) {
        if (!c)
                return NULL;
        token_done(&c->token);
        (void) pthread_mutex_destroy(&c->mutex);
        free(c);
        return NULL;
}

static bool is_same(const Token *a, const Token *b) {
        for (size_t i = 0; i < TOKEN_PARTS; i++)
                if (!streq_ptr(a->parts[i], b->parts[i]))
                        return false;
        return true;
}

static bool is_valid(const TokenCache *c, const Token *refused) {
        return c->present && now_usec(CLOCK_REALTIME) < c->token.expires_usec && !(refused && is_same(&c->token, refused));
}

/* Old enough to be replaced, while it still is good? */
static bool is_due(const TokenCache *c) {
        uint64_t life, early, now = now_usec(CLOCK_REALTIME);

        if (c->token.expires_usec == UINT64_MAX)
                return false;
        if (c->failed_usec > 0 && now_usec(CLOCK_MONOTONIC) < c->failed_usec + FETCH_AGAIN_USEC)
                return false;
        life = c->token.expires_usec > c->token.fetched_usec ? c->token.expires_usec - c->token.fetched_usec : 0;
        early = MIN(c->early_usec, life / 5);
        return now >= c->token.expires_usec - early;
}

/* Called and returns with the mutex held. */
static int fetch_locked(TokenCache *c, const PeerpodCall *call, const Token *refused, PeerpodError *error) {
        Token fresh = {};
        int r;

        c->fetching = true;
        (void) pthread_mutex_unlock(&c->mutex);
        r = c->fetch(c->userdata, call, &fresh, error);
        (void) pthread_mutex_lock(&c->mutex);
        c->fetching = false;
        c->n_fetches++;
        c->failure = (PeerpodError) {};

        if (r >= 0) {
                token_done(&c->token);
                c->token = fresh;
                c->token.fetched_usec = now_usec(CLOCK_REALTIME);
                c->present = true;
                c->failed_usec = 0;
                return 0;
        }
        token_done(&fresh);
        if (!is_valid(c, refused)) {
                if (error)
                        c->failure = *error;
                return r;
        }
        c->failed_usec = now_usec(CLOCK_MONOTONIC);
        peerpod_log(call, LOG_WARNING, "Credentials could not be renewed, going on with the old ones: %s", error ? error->text : "");
        return 0;
}

int token_cache_get(TokenCache *c, const PeerpodCall *call, const Token *refused, Token *ret, PeerpodError *error) {
        uint64_t n_fetches;
        int r = 0;

        (void) pthread_mutex_lock(&c->mutex);
        n_fetches = c->n_fetches;
        for (;;) {
                bool valid = is_valid(c, refused);

                if (valid && (c->fetching || !is_due(c)))
                        break;
                /* What failed while we waited failed for us, too: a hundred callers do not ask in turn. Unless it was the one caller's time. */
                if (!valid && c->n_fetches != n_fetches && c->failure.kind != PEERPOD_E_NONE && c->failure.kind != PEERPOD_E_CANCELLED &&
                    c->failure.kind != PEERPOD_E_TIMED_OUT) {
                        r = peerpod_error_set(error, c->failure.kind, "%s", c->failure.text);
                        break;
                }
                if (!c->fetching) {
                        r = fetch_locked(c, call, refused, error);
                        break;
                }
                (void) pthread_mutex_unlock(&c->mutex);
                r = peerpod_call_wait(call, -1, 0, WAIT_STEP_USEC, error);
                (void) pthread_mutex_lock(&c->mutex);
                if (r < 0)
                        break;
        }
        if (r >= 0) {
                r = token_copy(&c->token, ret);
                if (r < 0)
                        r = oom(error);
        }
        (void) pthread_mutex_unlock(&c->mutex);
        return r;
}

static int digits(const char **p, size_t n, int *ret) {
        int v = 0;

        for (size_t i = 0; i < n; i++) {
                if ((*p)[i] < '0' || (*p)[i] > '9')
                        return -EINVAL;
                v = v * 10 + ((*p)[i] - '0');
        }
        *p += n;
        *ret = v;
        return 0;
}

static int expect(const char **p, const char *any) {
        if (**p == '\0' || !strchr(any, **p))
                return -EINVAL;
        (*p)++;
        return 0;
}

static int parse_offset(const char *p, int64_t *ret_sec) {
        int hours, minutes, sign = *p == '-' ? -1 : 1;

        if (streq(p, "Z") || streq(p, "z")) {
                *ret_sec = 0;
                return 0;
        }
        if (expect(&p, "+-") < 0 || digits(&p, 2, &hours) < 0 || expect(&p, ":") < 0 || digits(&p, 2, &minutes) < 0 || *p != '\0' ||
            hours > 23 || minutes > 59)
                return -EINVAL;
        *ret_sec = sign * (hours * 3600 + minutes * 60);
        return 0;
}

int token_parse_time(const char *s, uint64_t *ret) {
        struct tm tm = {};
        uint64_t fraction = 0, unit = USEC_PER_SEC / 10;
        int64_t offset, t;
        int year, month;

        if (digits(&s, 4, &year) < 0 || expect(&s, "-") < 0 || digits(&s, 2, &month) < 0 || expect(&s, "-") < 0 || digits(&s, 2, &tm.tm_mday) < 0 ||
            expect(&s, "Tt ") < 0 || digits(&s, 2, &tm.tm_hour) < 0 || expect(&s, ":") < 0 || digits(&s, 2, &tm.tm_min) < 0 ||
            expect(&s, ":") < 0 || digits(&s, 2, &tm.tm_sec) < 0)
                return -EINVAL;
        if (*s == '.') {
                if (*++s < '0' || *s > '9')
                        return -EINVAL;
                for (; *s >= '0' && *s <= '9'; s++, unit /= 10)
                        fraction += (uint64_t) (*s - '0') * unit;
        }
        if (parse_offset(s, &offset) < 0 || year < 1970 || month < 1 || month > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 ||
            tm.tm_min > 59 || tm.tm_sec > 60)
                return -EINVAL;
        tm.tm_year = year - 1900;
        tm.tm_mon = month - 1;
        t = (int64_t) timegm(&tm) - offset;
        if (t < 0)
                return -EINVAL;
        *ret = (uint64_t) t * USEC_PER_SEC + fraction;
        return 0;
}
