/* SPDX-License-Identifier: Apache-2.0 */
/* For the targets of private buses: a real server on a real socket, and the fuzzer as its client.
 *
 * The first byte of the input chooses. Odd: the rest goes onto the wire as it is, after the client's part of the authentication. Even:
 * the rest is a script from which libsystemd makes one call, with types that need not be those that the method has. Whatever comes,
 * calls are answered, and the next client is served. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/bus-private.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"

#define BUS_FUZZ_DEPTH_MAX 8U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* LeakSanitizer's, where it is linked in. */
void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));

typedef struct BusFuzz {
        const char *path, *interface;
        const char *const *members;     /* ends with NULL */
        BusServerSetup setup;
        void *userdata;
        sd_event *event;
        BusServer *server;
        struct sockaddr_un address;
        socklen_t address_size;
} BusFuzz;

typedef struct BusScript {
        const uint8_t *p, *end;
} BusScript;

static inline uint8_t script_byte(BusScript *s) {
        return s->p < s->end ? *s->p++ : 0;
}

/* Bytes that libsystemd may refuse to send: then the call is made without them. */
static inline const char* script_text(BusScript *s, char buffer[static 256]) {
        size_t n = MIN((size_t) script_byte(s), (size_t) (s->end - s->p));

        if (n > 0)
                memcpy(buffer, s->p, n);
        buffer[n] = '\0';
        s->p += n;
        return buffer;
}

static inline uint64_t script_number(BusScript *s) {
        uint64_t v = 0;

        for (int i = 0; i < 8; i++)
                v = v << 8 | script_byte(s);
        return v;
}

static inline void script_append(BusScript *s, sd_bus_message *m, unsigned depth) {
        _cleanup_(close_fdp) int fd = -EBADF;
        char text[256];

        switch (script_byte(s) % 9) {
        case 0:
        case 1:
                (void) sd_bus_message_append(m, "s", script_text(s, text));
                break;
        case 2:
                (void) sd_bus_message_append(m, "u", (uint32_t) script_number(s));
                break;
        case 3:
                (void) sd_bus_message_append(m, "t", script_number(s));
                break;
        case 4:
                (void) sd_bus_message_append(m, "as", 2, script_text(s, text), "b");
                break;
        case 5:
                if (depth < BUS_FUZZ_DEPTH_MAX && sd_bus_message_open_container(m, 'v', "s") >= 0) {
                        (void) sd_bus_message_append(m, "s", script_text(s, text));
                        (void) sd_bus_message_close_container(m);
                }
                break;
        case 6:
                if (sd_bus_message_open_container(m, 'a', "{sv}") < 0)
                        break;
                for (unsigned n = script_byte(s) % 8; n > 0; n--) {
                        char key[256];

                        (void) script_text(s, key);
                        if (script_byte(s) % 2)
                                (void) sd_bus_message_append(m, "{sv}", key, "s", script_text(s, text));
                        else if (script_byte(s) % 2)
                                (void) sd_bus_message_append(m, "{sv}", key, "u", (uint32_t) script_number(s));
                        else
                                (void) sd_bus_message_append(m, "{sv}", key, "t", script_number(s));
                }
                (void) sd_bus_message_close_container(m);
                break;
        case 7:
                (void) script_text(s, text);
                fd = memfd_new_sealed("fuzz", text, strlen(text));
                assert(fd >= 0);
                (void) sd_bus_message_append(m, "h", fd);
                break;
        case 8:
                fd = open("/dev/null", O_RDWR|O_CLOEXEC);
                assert(fd >= 0);
                (void) sd_bus_message_append(m, "h", fd);
                break;
        }
}

static inline void bus_fuzz_run(BusFuzz *f) {
        while (sd_event_run(f->event, 0) > 0)
                ;
}

static inline int bus_fuzz_connect(BusFuzz *f) {
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);

        if (fd < 0 || connect(fd, (const struct sockaddr*) &f->address, f->address_size) < 0)
                abort();
        return fd;
}

static inline sd_bus* bus_fuzz_open(BusFuzz *f) {
        sd_bus *bus = NULL;
        int fd = bus_fuzz_connect(f);

        if (sd_bus_new(&bus) < 0 || sd_bus_set_fd(bus, fd, fd) < 0 || sd_bus_negotiate_fds(bus, true) < 0 || sd_bus_start(bus) < 0 ||
            sd_bus_attach_event(bus, f->event, SD_EVENT_PRIORITY_NORMAL) < 0)
                abort();
        for (unsigned i = 0; i < 1000 && sd_bus_is_ready(bus) <= 0; i++)
                bus_fuzz_run(f);
        assert(sd_bus_is_ready(bus) > 0);
        return bus;
}

static inline int bus_fuzz_on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        (*(unsigned*) userdata)++;
        return 1;
}

/* Returns whether the call was answered; one that libsystemd would not send counts as such. */
static inline bool bus_fuzz_call(BusFuzz *f, const char *member, BusScript *s) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        _cleanup_(sd_bus_slot_unrefp) sd_bus_slot *slot = NULL;
        sd_bus *bus = bus_fuzz_open(f);
        unsigned n_answers = 0;
        bool answered;

        if (sd_bus_message_new_method_call(bus, &m, NULL, f->path, f->interface, member) < 0)
                abort();
        /* libsystemd sends a signature of more than 255 characters, and drops it without an answer where it arrives. */
        while (s && s->p < s->end && strlen(sd_bus_message_get_signature(m, true)) < 128)
                script_append(s, m, 0);
        answered = sd_bus_call_async(bus, &slot, m, bus_fuzz_on_reply, &n_answers, USEC_INFINITY) < 0;
        for (unsigned i = 0; i < 1000 && !answered; i++) {
                bus_fuzz_run(f);
                answered = n_answers > 0;
        }

        slot = sd_bus_slot_unref(slot);
        m = sd_bus_message_unref(m);
        sd_bus_close_unref(bus);
        bus_fuzz_run(f);
        return answered;
}

/* libsystemd 257 leaks 64 bytes with a message whose header it refuses, and ends that connection: not looked for here. */
static inline void bus_fuzz_raw(BusFuzz *f, const uint8_t *data, size_t size) {
        static const char hello[] = "\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n";
        int fd = bus_fuzz_connect(f);
        uint8_t answers[4096];

        if (__lsan_disable)
                __lsan_disable();
        if (send(fd, hello, sizeof(hello) - 1, MSG_NOSIGNAL) != sizeof(hello) - 1)
                abort();
        bus_fuzz_run(f);
        while (size > 0) {
                ssize_t n = send(fd, data, size, MSG_NOSIGNAL|MSG_DONTWAIT);

                if (n <= 0 && errno != EAGAIN)
                        break;
                if (n > 0) {
                        data += n;
                        size -= n;
                }
                bus_fuzz_run(f);
                while (recv(fd, answers, sizeof(answers), MSG_DONTWAIT) > 0)
                        ;
        }
        close_fd(fd);
        bus_fuzz_run(f);
        if (__lsan_enable)
                __lsan_enable();
}

static inline void bus_fuzz_start(BusFuzz *f) {
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);

        log_set_max_level(-1);
        f->address = (struct sockaddr_un) { .sun_family = AF_UNIX };
        f->address_size = sizeof(f->address);
        /* The kernel chooses an abstract name. */
        if (fd < 0 || bind(fd, (const struct sockaddr*) &f->address, sizeof(sa_family_t)) < 0 || listen(fd, 16) < 0 ||
            getsockname(fd, (struct sockaddr*) &f->address, &f->address_size) < 0 || sd_event_new(&f->event) < 0 ||
            bus_server_new(f->event, fd, (uid_t) -1, f->setup, f->userdata, &f->server) < 0)
                abort();
}

static inline void bus_fuzz_one(BusFuzz *f, const uint8_t *data, size_t size) {
        BusScript script;
        size_t n = 0;

        if (!f->server)
                bus_fuzz_start(f);
        if (size < 2)
                return;
        while (f->members[n])
                n++;

        if (data[0] % 2)
                bus_fuzz_raw(f, data + 1, size - 1);
        else {
                script = (BusScript) { data + 2, data + size };
                assert(bus_fuzz_call(f, f->members[data[1] % n], &script));
        }
        assert(bus_fuzz_call(f, "NoSuchMethod", NULL));         /* the next one is served */
}
