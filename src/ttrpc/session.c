/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/session.h"

#include <errno.h>

#include "basic/util.h"

#define FLAG_FRESH UINT32_C(1)

static const char *const state_names[_SESSION_STATE_MAX] = {
        [SESSION_AWAY] = "away",
        [SESSION_GREETING] = "greeting",
        [SESSION_UP] = "up",
        [SESSION_OVER] = "over",
};

static const uint32_t allowed[_SESSION_STATE_MAX] = {
        [SESSION_AWAY] = BIT(SESSION_GREETING) | BIT(SESSION_UP) | BIT(SESSION_AWAY) | BIT(SESSION_OVER),
        [SESSION_GREETING] = BIT(SESSION_UP) | BIT(SESSION_AWAY) | BIT(SESSION_OVER),
        [SESSION_UP] = BIT(SESSION_AWAY) | BIT(SESSION_OVER),
        [SESSION_OVER] = BIT(SESSION_OVER),
};

const char* session_state_to_string(SessionState s) {
        assert(s < _SESSION_STATE_MAX);
        return state_names[s];
}

static void set_state(Session *s, SessionState to) {
        assert(allowed[s->state] & BIT(to));
        s->state = to;
}

/* Of a record without a length of its own choice. */
static size_t body_size(uint8_t type) {
        switch (type) {

        case SESSION_HELLO:
                return SESSION_HELLO_SIZE - SESSION_HEADER_SIZE;
        case SESSION_WELCOME:
                return SESSION_WELCOME_SIZE - SESSION_HEADER_SIZE;
        case SESSION_ACK:
                return SESSION_ACK_SIZE - SESSION_HEADER_SIZE;
        default:
                return 0;
        }
}

int session_record_parse(const uint8_t *data, size_t size, SessionRecord *ret) {
        SessionRecord record;
        const uint8_t *p;
        uint32_t flags;

        if (size > 0 && (data[0] < SESSION_HELLO || data[0] > SESSION_END))
                return -EBADMSG;
        if (size < SESSION_HEADER_SIZE)
                return 0;

        record = (SessionRecord) { .type = data[0], .length = read_be32(data) & 0xffffff };
        if (record.type == SESSION_DATA) {
                if (record.length == 0 || record.length > SESSION_DATA_MAX)
                        return -EBADMSG;
                *ret = record;
                return SESSION_HEADER_SIZE;
        }

        if (record.type == SESSION_END ? record.length == 0 || record.length > SESSION_END_TEXT_MAX : record.length != body_size(record.type))
                return -EBADMSG;
        if (size - SESSION_HEADER_SIZE < record.length)
                return 0;

        p = data + SESSION_HEADER_SIZE;
        switch (record.type) {

        case SESSION_END:
                for (uint32_t i = 0; i < record.length; i++)
                        if (p[i] < ' ' || p[i] > '~')
                                return -EBADMSG;
                record.text = (const char*) p;
                break;

        case SESSION_HELLO:
                flags = read_be32(p);
                if (flags & ~FLAG_FRESH)
                        return -EBADMSG;
                record.hello.fresh = flags & FLAG_FRESH;
                record.hello.keep_sec = read_be32(p + 4);
                memcpy(record.hello.id, p + 8, SESSION_ID_SIZE);
                record.hello.received = read_be64(p + 8 + SESSION_ID_SIZE);
                break;

        case SESSION_WELCOME:
                if (read_be32(p) >= _SESSION_STATUS_MAX)
                        return -EBADMSG;
                record.status = read_be32(p);
                record.received = read_be64(p + 4);
                break;

        case SESSION_ACK:
                record.received = read_be64(p);
                break;

        default:
                break;
        }

        *ret = record;
        return SESSION_HEADER_SIZE + record.length;
}

size_t session_record_write(const SessionRecord *record, uint8_t *p) {
        bool any = record->type == SESSION_DATA || record->type == SESSION_END;
        uint32_t length = any ? record->length : body_size(record->type);
        uint8_t *body = p + SESSION_HEADER_SIZE;

        write_be32(p, (uint32_t) record->type << 24 | length);
        switch (record->type) {

        case SESSION_HELLO:
                write_be32(body, record->hello.fresh ? FLAG_FRESH : 0);
                write_be32(body + 4, record->hello.keep_sec);
                memcpy(body + 8, record->hello.id, SESSION_ID_SIZE);
                write_be64(body + 8 + SESSION_ID_SIZE, record->hello.received);
                break;

        case SESSION_WELCOME:
                write_be32(body, record->status);
                write_be64(body + 4, record->received);
                break;

        case SESSION_ACK:
                write_be64(body, record->received);
                break;

        case SESSION_DATA:
                return SESSION_HEADER_SIZE;

        case SESSION_END:
                assert(length > 0 && length <= SESSION_END_TEXT_MAX);
                memcpy(body, record->text, length);
                break;

        case SESSION_BYE:
                break;
        }

        return SESSION_HEADER_SIZE + length;
}

void session_init_client(Session *s, const uint8_t *id, uint32_t keep_sec) {
        *s = (Session) { .state = SESSION_AWAY, .keep_sec = keep_sec };
        memcpy(s->id, id, SESSION_ID_SIZE);
}

void session_init_server(Session *s, const SessionHello *hello) {
        *s = (Session) { .server = true, .state = SESSION_AWAY, .keep_sec = hello->keep_sec };
        memcpy(s->id, hello->id, SESSION_ID_SIZE);
}

bool session_has_id(const Session *s, const uint8_t *id) {
        volatile uint8_t difference = 0;

        for (size_t i = 0; i < SESSION_ID_SIZE; i++)
                difference |= s->id[i] ^ id[i];
        return difference == 0;
}

void session_set_over(Session *s) {
        set_state(s, SESSION_OVER);
}

void session_set_away(Session *s) {
        set_state(s, SESSION_AWAY);
        s->sent = s->acked;
        s->promised = 0;
        s->head_size = 0;
        s->data_left = 0;
        s->ahead = 0;
        s->ack_wanted = false;
}

/* The peer has what is before @received. Returns how many bytes that is more than before, or -EPROTO. */
static int64_t set_acked(Session *s, uint64_t received, uint64_t max) {
        uint64_t n = received - s->acked;

        if (received < s->acked || received > max)
                return -EPROTO;
        s->acked = received;
        return n;
}

size_t session_greet(Session *s, uint8_t *p) {
        SessionRecord record = {
                .type = SESSION_HELLO,
                .hello = { .fresh = !s->confirmed, .keep_sec = s->keep_sec, .received = s->received },
        };

        set_state(s, SESSION_GREETING);
        memcpy(record.hello.id, s->id, SESSION_ID_SIZE);
        s->told = s->received;
        return session_record_write(&record, p);
}

int session_welcome(Session *s, const SessionHello *hello, bool resumed, uint8_t *p, size_t *ret_release) {
        int64_t n = set_acked(s, hello->received, s->top);

        if (n < 0) {
                session_set_over(s);
                return n;
        }

        set_state(s, SESSION_UP);
        s->sent = s->acked;
        s->told = s->received;
        s->keep_sec = hello->keep_sec;
        *ret_release = n;
        return session_record_write(&(SessionRecord) { .type = SESSION_WELCOME,
                                                       .status = resumed ? SESSION_RESUMED : SESSION_NEW,
                                                       .received = s->received }, p);
}

size_t session_room(const Session *s) {
        /* A client whose first connection this is needs nobody to tell it where to begin. */
        if (s->state != SESSION_UP && (s->state != SESSION_GREETING || s->confirmed || s->top != s->sent))
                return 0;
        return s->acked + SESSION_WINDOW - s->sent;
}

bool session_owes_ack(const Session *s) {
        return s->state == SESSION_UP && s->received != s->told &&
                (s->ack_wanted || s->received - s->told >= SESSION_ACK_BYTES);
}

size_t session_begin(const Session *s, size_t size, uint8_t *p) {
        size_t n = 0;

        if (s->received != s->told)
                n = session_record_write(&(SessionRecord) { .type = SESSION_ACK, .received = s->received }, p);
        if (size > 0)
                n += session_record_write(&(SessionRecord) { .type = SESSION_DATA, .length = size }, p + n);
        return n;
}

void session_promise(Session *s, size_t size) {
        assert(s->promised == 0 && size <= session_room(s));

        s->told = s->received;
        s->ack_wanted = false;
        s->promised = size;
}

void session_sent_promised(Session *s, size_t size) {
        assert(size <= s->promised);

        s->promised -= size;
        s->sent += size;
        s->top = MAX(s->top, s->sent);
}

void session_sent(Session *s, size_t size) {
        session_promise(s, size);
        session_sent_promised(s, size);
}

size_t session_wants(const Session *s) {
        assert(s->data_left == 0);

        if (s->head_size < SESSION_HEADER_SIZE)
                return SESSION_HEADER_SIZE - s->head_size;
        return SESSION_HEADER_SIZE + (s->head[0] == SESSION_END ? read_be32(s->head) & 0xffffff : body_size(s->head[0])) - s->head_size;
}

static int on_welcome(Session *s, const SessionRecord *record, SessionEvent *ret) {
        int64_t n;

        if (record->status == SESSION_UNKNOWN) {
                session_set_over(s);
                ret->over = true;
                return 0;
        }
        /* What was made just now has nothing, and was not there before. */
        if (record->status == SESSION_NEW && (s->confirmed || record->received != 0))
                return -EPROTO;

        n = set_acked(s, record->received, s->top);
        if (n < 0)
                return n;

        s->sent = MAX(s->sent, s->acked);
        s->confirmed = true;
        set_state(s, SESSION_UP);
        ret->release = n;
        ret->may_send = true;
        return 0;
}

static int on_ack(Session *s, const SessionRecord *record, SessionEvent *ret) {
        int64_t n = set_acked(s, record->received, s->sent);

        if (n < 0)
                return n;
        ret->release = n;
        ret->may_send = true;
        return 0;
}

static int on_record(Session *s, const SessionRecord *record, SessionEvent *ret) {
        if (record->type == SESSION_END && !s->server && (s->state == SESSION_GREETING || s->state == SESSION_UP)) {
                session_set_over(s);
                ret->over = true;
                ret->end = record->text;
                ret->end_size = record->length;
                return 0;
        }
        if (s->state == SESSION_GREETING)
                return record->type == SESSION_WELCOME ? on_welcome(s, record, ret) : -EPROTO;
        if (s->state != SESSION_UP)
                return -EPROTO;

        switch (record->type) {

        case SESSION_DATA:
                if (s->received + s->ahead + record->length - s->told > SESSION_WINDOW)
                        return -EPROTO;
                s->data_left = record->length;
                return 0;

        case SESSION_ACK:
                return on_ack(s, record, ret);

        case SESSION_BYE:
                session_set_over(s);
                ret->over = true;
                return 0;

        default:
                return -EPROTO;
        }
}

int session_control(Session *s, size_t size, SessionEvent *ret) {
        SessionRecord record;
        int r;

        assert(size <= session_wants(s));
        *ret = (SessionEvent) {};

        s->head_size += size;
        r = session_record_parse(s->head, s->head_size, &record);
        if (r > 0) {
                s->head_size = 0;
                r = on_record(s, &record, ret);
        }
        if (r < 0) {
                session_set_over(s);
                return -EPROTO;
        }
        return 0;
}

void session_data(Session *s, size_t size) {
        assert(size <= s->data_left);

        s->data_left -= size;
        s->received += size;
}

void session_data_ahead(Session *s, size_t size) {
        assert(size <= s->data_left);

        s->data_left -= size;
        s->ahead += size;
}

void session_take_ahead(Session *s, size_t size) {
        assert(size <= s->ahead);

        s->ahead -= size;
        s->received += size;
}
