/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile records: parse → write → parse is the identity, and a session at either end, fed with anything, keeps its numbers in order.
 *
 * The first byte says which end and how much it sends between two bytes of input. */
#include <string.h>

#include "basic/util.h"
#include "ttrpc/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_record(const uint8_t *data, size_t size) {
        SessionRecord record, again;
        uint8_t wire[SESSION_CONTROL_MAX];
        size_t n;
        int r, q;

        r = session_record_parse(data, size, &record);
        assert(r <= (int) size);
        if (r <= 0)
                return;
        n = session_record_write(&record, wire);
        assert(n == (size_t) r && memcmp(wire, data, n) == 0);
        q = session_record_parse(wire, n, &again);
        assert(q == r && again.type == record.type && again.length == record.length);
}

static void check_session(const Session *s) {
        assert(s->acked <= s->sent && s->sent <= s->top && s->top - s->acked <= SESSION_WINDOW);
        assert(s->told <= s->received && s->received + s->ahead - s->told <= SESSION_WINDOW);
        assert(session_room(s) <= SESSION_WINDOW);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        SessionHello hello = { .fresh = true, .keep_sec = 1 };
        uint8_t p[SESSION_CONTROL_MAX];
        unsigned mode;
        size_t n, step;
        Session s;
        int r;

        check_record(data, size);
        if (size == 0)
                return 0;

        mode = data[0];
        step = mode >> 2;
        data++;
        size--;
        if (mode & 1) {
                session_init_server(&s, &hello);
                r = session_welcome(&s, &hello, false, p, &n);
                assert(r == SESSION_WELCOME_SIZE);
        } else {
                session_init_client(&s, hello.id, 1);
                n = session_greet(&s, p);
                assert(n == SESSION_HELLO_SIZE);
        }

        while (size > 0 && s.state != SESSION_OVER) {
                if (s.data_left > 0) {
                        n = MIN((size_t) s.data_left, size);
                        if (mode & 2)
                                session_data_ahead(&s, n);
                        else
                                session_data(&s, n);
                } else {
                        SessionEvent event;
                        uint64_t acked = s.acked;

                        n = MIN(session_wants(&s), size);
                        assert(s.head_size + n <= sizeof(s.head));
                        memcpy(s.head + s.head_size, data, n);
                        r = session_control(&s, n, &event);
                        assert(r == 0 || s.state == SESSION_OVER);
                        assert(event.release == s.acked - acked);
                }
                data += n;
                size -= n;
                check_session(&s);

                n = MIN(session_room(&s), step);
                if (s.state != SESSION_OVER && (n > 0 || session_owes_ack(&s))) {
                        size_t head = session_begin(&s, n, p);

                        assert(head <= SESSION_ACK_SIZE + SESSION_HEADER_SIZE);
                        session_sent(&s, n);
                        check_session(&s);
                }
        }
        return 0;
}
