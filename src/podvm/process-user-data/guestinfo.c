/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/guestinfo.h"

#include <stdio.h>

#include "basic/error-text.h"
#include "basic/util.h"

#define COMMAND_MESSAGE UINT32_C(30)
#define PROTOCOL_RPCI UINT32_C(0x49435052)      /* "RPCI" */
#define FLAG_COOKIE UINT32_C(0x80000000)
#define ANSWER_SIZE_MAX 128U                    /* of an RPC that returns nothing */
#define RESTARTS_MAX 3                          /* linux: drivers/gpu/drm/vmwgfx/vmwgfx_msg.c */

typedef enum MessageType {
        MESSAGE_OPEN = 0,
        MESSAGE_SEND_SIZE = 1,
        MESSAGE_SEND_PAYLOAD = 2,
        MESSAGE_RECEIVE_SIZE = 3,
        MESSAGE_RECEIVE_PAYLOAD = 4,
        MESSAGE_RECEIVE_STATUS = 5,
        MESSAGE_CLOSE = 6,
} MessageType;

enum {
        STATUS_SUCCESS = 0x01,
        STATUS_RECEIVE = 0x02,          /* there is a message for us */
        STATUS_CHECKPOINT = 0x10,       /* the VM was suspended or moved: begin this message again */
};

typedef struct Channel {
        BackdoorFunction call;
        uint16_t id;
        uint32_t cookie_high, cookie_low;
} Channel;

/* One step. Returns the status, of which success is a part; -ESTALE: begin again; -EPROTO: refused; or what the backdoor returned. */
static int step(const Channel *c, MessageType type, uint32_t argument, BackdoorRegisters *ret) {
        BackdoorRegisters r = {
                .bx = argument,
                .cx = (uint32_t) type << 16 | COMMAND_MESSAGE,
                .dx = (uint32_t) c->id << 16,
                .si = c->cookie_high,
                .di = c->cookie_low,
        };
        uint32_t status;
        int error;

        error = c->call(&r);
        if (error < 0)
                return error;

        status = r.cx >> 16;
        if (!(status & STATUS_SUCCESS))
                return status & STATUS_CHECKPOINT ? -ESTALE : -EPROTO;
        if (ret)
                *ret = r;
        return (int) status;
}

static int channel_open(Channel *c, BackdoorFunction call) {
        BackdoorRegisters r;
        int status;

        *c = (Channel) { .call = call };
        status = step(c, MESSAGE_OPEN, PROTOCOL_RPCI | FLAG_COOKIE, &r);
        if (status < 0)
                return status;

        c->id = (uint16_t) (r.dx >> 16);
        c->cookie_high = r.si;
        c->cookie_low = r.di;
        return 0;
}

static void channel_close(Channel *c) {
        (void) step(c, MESSAGE_CLOSE, 0, NULL);
}

static int channel_send(const Channel *c, const char *text) {
        size_t size = strlen(text);
        int r;

        r = step(c, MESSAGE_SEND_SIZE, (uint32_t) size, NULL);
        for (size_t i = 0; r >= 0 && i < size; i += 4) {
                uint8_t piece[4] = {};

                memcpy(piece, text + i, MIN(size - i, sizeof(piece)));
                r = step(c, MESSAGE_SEND_PAYLOAD,
                         piece[0] | (uint32_t) piece[1] << 8 | (uint32_t) piece[2] << 16 | (uint32_t) piece[3] << 24, NULL);
        }
        return r < 0 ? r : 0;
}

/* How much there is to receive. */
static int receive_size(const Channel *c, size_t size_max, size_t *ret) {
        BackdoorRegisters r;
        int status;

        status = step(c, MESSAGE_RECEIVE_SIZE, 0, &r);
        if (status < 0)
                return status;
        if (!(status & STATUS_RECEIVE) || r.dx >> 16 != MESSAGE_SEND_SIZE)
                return -EBADMSG;
        if (r.bx > size_max)
                return -E2BIG;
        *ret = r.bx;
        return 0;
}

static int receive_payload(const Channel *c, char *data, size_t size) {
        BackdoorRegisters r;
        int status;

        for (size_t i = 0; i < size; i += 4) {
                status = step(c, MESSAGE_RECEIVE_PAYLOAD, STATUS_SUCCESS, &r);
                if (status < 0)
                        return status;
                if (r.dx >> 16 != MESSAGE_SEND_PAYLOAD)
                        return -EBADMSG;
                for (size_t k = 0; k < MIN(size - i, (size_t) 4); k++)
                        data[i + k] = (char) (r.bx >> 8 * k);
        }
        return step(c, MESSAGE_RECEIVE_STATUS, STATUS_SUCCESS, NULL);
}

static int channel_receive(const Channel *c, size_t size_max, char **ret, size_t *ret_size) {
        char *data;
        size_t size;
        int r;

        r = receive_size(c, size_max, &size);
        if (r < 0)
                return r;
        data = malloc(size + 1);
        if (!data)
                return -ENOMEM;

        r = receive_payload(c, data, size);
        if (r < 0) {
                erase_free(data, size);
                return r;
        }
        data[size] = '\0';
        *ret = data;
        *ret_size = size;
        return 0;
}

/* A message that a checkpoint cut off is begun anew. The answer is lost with the request, so both are. */
static int channel_ask(const Channel *c, const char *text, size_t size_max, char **ret, size_t *ret_size) {
        int r = -ESTALE;

        for (unsigned i = 0; i <= RESTARTS_MAX && r == -ESTALE; i++) {
                r = channel_send(c, text);
                if (r >= 0)
                        r = channel_receive(c, size_max, ret, ret_size);
        }
        return r;
}

static int explain(int error, char **reterr) {
        switch (error) {
        case -EPERM:
                return error_text(reterr, error, "the hypervisor does not let programs use its backdoor");
        case -EOPNOTSUPP:
                return error_text(reterr, error, "this machine's backdoor is not known here");
        case -E2BIG:
                return error_text(reterr, error, "it is too big");
        case -EPROTO:
                return error_text(reterr, -EAGAIN, "the hypervisor refuses the message channel");
        case -ESTALE:
                return error_text(reterr, -EAGAIN, "the machine was moved or suspended in the middle of it, again and again");
        case -EBADMSG:
                return error_text(reterr, error, "the hypervisor does not keep to the protocol of the message channel");
        default:
                return error;
        }
}

/* One RPC. Its answer is "1 VALUE", or "0 REASON", such as "No value found": -ENODATA. */
static int rpc(BackdoorFunction call, const char *request, size_t size_max, char **ret, size_t *ret_size, char **reterr) {
        Channel c;
        char *answer;
        size_t size;
        int r;

        r = channel_open(&c, call);
        if (r < 0)
                return explain(r, reterr);
        r = channel_ask(&c, request, size_max + 2, &answer, &size);
        channel_close(&c);
        if (r < 0)
                return explain(r, reterr);

        r = size >= 2 && answer[1] == ' ' && answer[0] == '1' ? 0 : size >= 1 && answer[0] == '0' ? -ENODATA : -EBADMSG;
        if (r < 0) {
                erase_free(answer, size);
                return r == -ENODATA ? r : explain(r, reterr);
        }

        memmove(answer, answer + 2, size - 2 + 1);
        *ret = answer;
        *ret_size = size - 2;
        return 0;
}

int guestinfo_get(BackdoorFunction call, const char *key, size_t size_max, char **ret, size_t *ret_size, char **reterr) {
        _cleanup_(freep) char *request = NULL;
        int r;

        if (asprintf(&request, "info-get %s", key) < 0)
                return -ENOMEM;
        r = rpc(call, request, size_max, ret, ret_size, reterr);
        return r == -ENODATA ? error_text(reterr, r, "there is no such variable") : r;
}

int guestinfo_set(BackdoorFunction call, const char *key, const char *value, char **reterr) {
        _cleanup_(freep) char *request = NULL, *answer = NULL;
        size_t size;
        int r;

        if (asprintf(&request, "info-set %s %s", key, value) < 0)
                return -ENOMEM;
        r = rpc(call, request, ANSWER_SIZE_MAX, &answer, &size, reterr);
        return r == -ENODATA ? error_text(reterr, -EPERM, "the hypervisor does not let the VM change it") : r;
}
