/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/forwarder/workers.h"

#include <stdio.h>
#include <utlist.h>

#include "basic/util.h"

typedef struct Worker Worker;
typedef struct Greeting Greeting;

/* A session, which its channel in the relay belongs to. */
struct Worker {
        Workers *workers;               /* borrowed */
        Channel *channel;               /* borrowed; tells when it goes */
        uint8_t fingerprint[TLS_FINGERPRINT_SIZE];
        sd_event_source *timer;         /* while it is away */
        Worker *prev, *next;            /* those that are away by the time since when */
};

/* A connection whose HELLO is being read. */
struct Greeting {
        Workers *workers;               /* borrowed */
        Channel *channel;
        uint8_t fingerprint[TLS_FINGERPRINT_SIZE];
        char peer[64];
        uint8_t hello[SESSION_HELLO_SIZE];
        size_t size;
        sd_event_source *timer;
        Greeting *prev, *next;
};

struct Workers {
        sd_event *event;
        Relay *relay;                   /* borrowed */
        const LogContext *log;          /* borrowed */
        Worker *list;
        Greeting *greetings;
        size_t n_greetings;
        char end[SESSION_END_TEXT_MAX + 1];     /* why the VM ends; "": it does not */
};

static void worker_gone(Channel *c, void *userdata) {
        Worker *w = userdata;

        DL_DELETE(w->workers->list, w);
        sd_event_source_disable_unref(w->timer);
        free(w);
}

static int on_keep_over(sd_event_source *source, uint64_t usec, void *userdata) {
        Worker *w = userdata;

        (void) log_full(w->workers->log, LOG_WARNING, NULL, 0, "The worker did not connect again in time, giving up its session.");
        channel_give_up(w->channel, -ETIMEDOUT, "it did not connect again in time");
        return 0;
}

/* Ends the oldest sessions of this certificate that are away, until @max are left. */
static void end_away(Workers *ws, const uint8_t *fingerprint, size_t max) {
        size_t n = 0;

        for (Worker *w = ws->list; w; w = w->next)
                if (w->timer && memcmp(w->fingerprint, fingerprint, TLS_FINGERPRINT_SIZE) == 0)
                        n++;
        for (Worker *w = ws->list; w && n > max; w = w->next)
                if (w->timer && memcmp(w->fingerprint, fingerprint, TLS_FINGERPRINT_SIZE) == 0) {
                        w->timer = sd_event_source_disable_unref(w->timer);
                        channel_give_up(w->channel, -ESTALE, "another session took its place");
                        n--;
                }
}

static void worker_set_away(Worker *w) {
        Workers *ws = w->workers;
        uint32_t keep_sec = MIN(channel_session(w->channel)->keep_sec, WORKERS_KEEP_SEC_MAX);
        int r;

        DL_DELETE(ws->list, w);
        DL_APPEND(ws->list, w);
        r = sd_event_add_time_relative(ws->event, &w->timer, CLOCK_MONOTONIC, keep_sec * USEC_PER_SEC, 0, on_keep_over, w);
        if (r < 0) {
                channel_give_up(w->channel, r, "no timer for its session");
                return;
        }
        end_away(ws, w->fingerprint, WORKERS_AWAY_MAX);
}

static void on_away(Channel *c, int error, const char *text, void *userdata) {
        Worker *w = userdata;

        (void) log_full(w->workers->log, LOG_WARNING, NULL, 0, "Connection to the worker lost: %s. Keeping its session for it.",
                        text ?: strerrordesc_np(-error));
        worker_set_away(w);
}

static const ChannelKeeper keeper = {
        .on_away = on_away,
        .on_gone = worker_gone,
};

void workers_store(const Channel *channel, Handover *h) {
        const Worker *w = channel_get_keeper_userdata(channel);

        if (w)
                handover_put_bytes(h, w->fingerprint, sizeof(w->fingerprint));
}

int workers_restore(Workers *ws, Channel *channel, Handover *h) {
        const uint8_t *fingerprint;
        size_t size;
        Worker *w;

        if (!channel_session(channel))
                return 0;
        fingerprint = handover_get_bytes(h, TLS_FINGERPRINT_SIZE, &size);
        if (size != TLS_FINGERPRINT_SIZE)
                return -EBADMSG;

        w = new(Worker);
        if (!w)
                return -ENOMEM;
        *w = (Worker) { .workers = ws, .channel = channel };
        memcpy(w->fingerprint, fingerprint, size);
        DL_APPEND(ws->list, w);
        channel_set_keeper(channel, &keeper, w);
        worker_set_away(w);
        return 0;
}

static Greeting* greeting_free(Greeting *g) {
        Workers *ws = g->workers;

        DL_DELETE(ws->greetings, g);
        ws->n_greetings--;
        sd_event_source_disable_unref(g->timer);
        channel_free(g->channel);
        free(g);
        return NULL;
}

static int make_session(Greeting *g, const SessionHello *hello) {
        Workers *ws = g->workers;
        Channel *channel = g->channel;
        Worker *w;
        int r;

        /* Whoever made the sessions that nobody is connected to has been killed, or it would resume one. */
        end_away(ws, g->fingerprint, 0);

        w = new(Worker);
        if (!w)
                return -ENOMEM;
        *w = (Worker) { .workers = ws, .channel = channel };
        memcpy(w->fingerprint, g->fingerprint, sizeof(w->fingerprint));
        DL_APPEND(ws->list, w);

        r = channel_accept_session(channel, hello, &keeper, w);
        if (r < 0) {
                worker_gone(channel, w);
                return r;
        }
        (void) log_full(ws->log, LOG_INFO, NULL, 0, "A worker's session begins, from %s (%s).", g->peer, channel_describe(channel));
        g->channel = NULL;
        return relay_add_downstream(ws->relay, channel);
}

static void resume_session(Greeting *g, Worker *w, const SessionHello *hello) {
        (void) log_full(w->workers->log, LOG_INFO, NULL, 0, "The worker is connected again, from %s.", g->peer);
        w->timer = sd_event_source_disable_unref(w->timer);
        channel_resume_session(w->channel, TAKE_PTR(g->channel), hello);
}

static void tell_end(Greeting *g) {
        uint8_t record[SESSION_END_SIZE_MAX];
        size_t n = session_record_write(&(SessionRecord) { .type = SESSION_END, .length = strlen(g->workers->end), .text = g->workers->end }, record);

        (void) channel_write(g->channel, record, n);
}

static void refuse_session(Greeting *g) {
        uint8_t record[SESSION_WELCOME_SIZE];
        size_t n = session_record_write(&(SessionRecord) { .type = SESSION_WELCOME, .status = SESSION_UNKNOWN }, record);

        (void) log_full(g->workers->log, LOG_WARNING, NULL, 0, "A worker at %s wanted to resume a session that is unknown here.", g->peer);
        (void) channel_write(g->channel, record, n);
}

static void greeting_done(Greeting *g) {
        Workers *ws = g->workers;
        SessionRecord record;
        Worker *w;

        if (session_record_parse(g->hello, sizeof(g->hello), &record) <= 0 || record.type != SESSION_HELLO) {
                (void) log_full(ws->log, LOG_WARNING, NULL, 0, "A worker at %s did not begin with a greeting.", g->peer);
                return;
        }

        if (ws->end[0]) {
                tell_end(g);
                return;
        }

        for (w = ws->list; w; w = w->next)
                if (memcmp(w->fingerprint, g->fingerprint, TLS_FINGERPRINT_SIZE) == 0 &&
                    channel_session(w->channel)->state != SESSION_OVER &&
                    session_has_id(channel_session(w->channel), record.hello.id))
                        break;

        if (w)
                resume_session(g, w, &record.hello);
        else if (!record.hello.fresh)
                refuse_session(g);
        else if (make_session(g, &record.hello) < 0)
                (void) log_oom();
}

static void on_greeting_input(Channel *c, void *userdata) {
        Greeting *g = userdata;
        ssize_t n = channel_read_direct(c, g->hello + g->size, sizeof(g->hello) - g->size);

        if (n <= 0)
                return;                 /* on_greeting_closed() follows, if it must */
        g->size += n;
        if (g->size == sizeof(g->hello)) {
                greeting_done(g);
                greeting_free(g);
        }
}

static void on_greeting_closed(Channel *c, int error, void *userdata) {
        greeting_free(userdata);
}

static void on_greeting_drained(Channel *c, void *userdata) {
}

static const ChannelHandlers greeting_handlers = {
        .on_input = on_greeting_input,
        .on_drained = on_greeting_drained,
        .on_closed = on_greeting_closed,
};

static int on_greeting_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        Greeting *g = userdata;

        (void) log_full(g->workers->log, LOG_WARNING, NULL, 0, "A worker at %s did not greet in time.", g->peer);
        greeting_free(g);
        return 0;
}

static int greet(Workers *ws, Channel *channel, const char *peer) {
        Greeting *g;
        int r;

        if (ws->n_greetings >= WORKERS_GREETINGS_MAX)
                greeting_free(ws->greetings);

        g = new(Greeting);
        if (!g) {
                channel_free(channel);
                return -ENOMEM;
        }
        *g = (Greeting) { .workers = ws, .channel = channel };
        (void) snprintf(g->peer, sizeof(g->peer), "%s", peer);
        DL_APPEND(ws->greetings, g);
        ws->n_greetings++;

        r = channel_get_fingerprint(channel, g->fingerprint);
        if (r >= 0)
                r = sd_event_add_time_relative(ws->event, &g->timer, CLOCK_MONOTONIC, WORKERS_GREETING_USEC, 0, on_greeting_timeout, g);
        if (r < 0) {
                greeting_free(g);
                return r;
        }

        channel_set_handlers(channel, &greeting_handlers, g);
        channel_resume_input(channel);
        return 0;
}

void workers_set_end(Workers *ws, const char *text) {
        (void) snprintf(ws->end, sizeof(ws->end), "%s", text);
        for (char *p = ws->end; *p; p++)
                if (*p < ' ' || *p > '~')
                        *p = '?';
        for (Worker *w = ws->list; w; w = w->next)
                channel_set_last_words(w->channel, ws->end);
}

void workers_add(Workers *ws, Channel *channel, const char *peer) {
        int r;

        if (channel_has_alpn(channel))
                r = greet(ws, channel, peer);
        else {
                (void) log_full(ws->log, LOG_INFO, NULL, 0, "A worker connected from %s (%s).", peer, channel_describe(channel));
                r = relay_add_downstream(ws->relay, channel);
        }
        if (r < 0)
                (void) log_full(ws->log, LOG_ERR, NULL, r, "Cannot serve a worker at %s: %m", peer);
}

int workers_new(sd_event *event, Relay *relay, const LogContext *log, Workers **ret) {
        Workers *ws = new(Workers);

        if (!ws)
                return -ENOMEM;
        *ws = (Workers) { .event = sd_event_ref(event), .relay = relay, .log = log };
        *ret = ws;
        return 0;
}

Workers* workers_free(Workers *ws) {
        if (!ws)
                return NULL;

        assert(!ws->list);              /* the relay, which had the channels, is gone */
        while (ws->greetings)
                greeting_free(ws->greetings);
        sd_event_unref(ws->event);
        free(ws);
        return NULL;
}
