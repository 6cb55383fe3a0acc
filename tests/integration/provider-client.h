/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: start peerpod-providerd, call it over its private bus, and end it. Header only, used by more than one test. */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>

#include "basic/bus-private.h"
#include "basic/io.h"
#include "basic/util.h"
#include "provider/provider-bus.h"

extern char **environ;

typedef struct Daemon {
        pid_t pid;
        char socket[96];
} Daemon;

/* Starts @program with @args behind the test's own, and waits until it listens or has ended; then pid is 0 and *ret_status set. */
static inline void daemon_start(Daemon *d, const char *program, const char *directory, const char *const *args, int *ret_status) {
        char *argv[32] = { (char*) program, (char*) "--peer-user", (char*) "root", (char*) "--socket" };
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        uint64_t end = now_usec(CLOCK_MONOTONIC) + 30 * USEC_PER_SEC;
        size_t n = 4;
        int r;

        (void) snprintf(d->socket, sizeof(d->socket), "%s/bus", directory);
        (void) unlink(d->socket);
        argv[n++] = d->socket;
        for (; args && *args; args++)
                argv[n++] = (char*) *args;
        r = posix_spawn(&d->pid, program, NULL, NULL, argv, environ);
        assert(r == 0);

        strcpy(sa.sun_path, d->socket);
        for (;;) {
                int status, fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);

                r = connect(fd, (struct sockaddr*) &sa, sizeof(sa));
                close_fd(fd);
                if (r == 0)
                        return;
                if (waitpid(d->pid, &status, WNOHANG) == d->pid) {
                        d->pid = 0;
                        *ret_status = status;
                        return;
                }
                assert(now_usec(CLOCK_MONOTONIC) < end);
                (void) poll(NULL, 0, 10);
        }
}

/* Sends @sig and returns the wait status. */
static inline int daemon_end(Daemon *d, int sig) {
        int status = -1;

        if (d->pid > 0) {
                (void) kill(d->pid, sig);
                while (waitpid(d->pid, &status, 0) < 0 && errno == EINTR)
                        ;
                d->pid = 0;
        }
        return status;
}

static inline sd_bus* daemon_connect(const Daemon *d) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        sd_bus *bus = NULL;
        int fd, r;

        strcpy(sa.sun_path, d->socket);
        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        r = connect(fd, (struct sockaddr*) &sa, sizeof(sa));
        assert(r == 0);
        r = sd_bus_new(&bus);
        assert(r >= 0);
        r = sd_bus_set_fd(bus, fd, fd);
        assert(r >= 0);
        r = sd_bus_negotiate_fds(bus, true);
        assert(r >= 0);
        r = sd_bus_start(bus);
        assert(r >= 0);
        return bus;
}

static inline sd_bus_message* new_call(sd_bus *bus, const char *method) {
        sd_bus_message *m = NULL;
        int r = sd_bus_message_new_method_call(bus, &m, NULL, PROVIDER_PATH, PROVIDER_INTERFACE, method);

        assert(r >= 0);
        return m;
}

typedef struct CreateArgs {
        const char *sandbox_id, *name, *node, *user_data, *image;
        size_t user_data_size;          /* 0 = strlen() */
        uint32_t vcpus;
        uint64_t memory_mib;
        const char *volumes[4];         /* ends with NULL */
} CreateArgs;

static inline sd_bus_message* create_call(sd_bus *bus, const CreateArgs *a) {
        _cleanup_(close_fdp) int fd = memfd_new_sealed("user-data", strempty(a->user_data), a->user_data_size ?: strlen(strempty(a->user_data)));
        sd_bus_message *m = new_call(bus, "CreateInstance");
        int r;

        r = sd_bus_message_append(m, "sss", a->sandbox_id, a->name, a->node);
        assert(r >= 0);
        r = sd_bus_message_open_container(m, 'a', "{sv}");
        assert(r >= 0);
        if (a->image)
                (void) sd_bus_message_append(m, "{sv}", "image", "s", a->image);
        if (a->vcpus)
                (void) sd_bus_message_append(m, "{sv}", "vcpus", "u", a->vcpus);
        if (a->memory_mib)
                (void) sd_bus_message_append(m, "{sv}", "memory-mib", "t", a->memory_mib);
        if (a->volumes[0]) {
                (void) sd_bus_message_open_container(m, 'e', "sv");
                (void) sd_bus_message_append(m, "s", "volumes");
                (void) sd_bus_message_open_container(m, 'v', "as");
                (void) sd_bus_message_append_strv(m, (char**) a->volumes);
                (void) sd_bus_message_close_container(m);
                (void) sd_bus_message_close_container(m);
        }
        r = sd_bus_message_close_container(m);
        assert(r >= 0);
        r = sd_bus_message_append(m, "h", fd);
        assert(r >= 0);
        return m;
}

static inline sd_bus_message* delete_call(sd_bus *bus, const char *sandbox_id, const char *name, const char *id) {
        sd_bus_message *m = new_call(bus, "DeleteInstance");
        int r = sd_bus_message_append(m, "sss", sandbox_id, name, id);

        assert(r >= 0);
        return m;
}

static inline sd_bus_message* find_call(sd_bus *bus, const char *node) {
        sd_bus_message *m = new_call(bus, "FindInstances");
        int r = sd_bus_message_append(m, "s", node);

        assert(r >= 0);
        return m;
}

/* Sends @m (taken), waits for the answer. Returns NULL with *error set on an error reply. */
static inline sd_bus_message* call_and_unref(sd_bus *bus, sd_bus_message *m, uint64_t timeout_usec, sd_bus_error *error) {
        sd_bus_message *reply = NULL;
        int r = sd_bus_call(bus, m, timeout_usec, error, &reply);

        sd_bus_message_unref(m);
        return r < 0 ? NULL : reply;
}

static inline int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        sd_bus_message **reply = userdata;

        *reply = sd_bus_message_ref(m);
        return 0;
}

/* Sends @m (taken); the answer comes into *ret by process_until(). */
static inline void send_async(sd_bus *bus, sd_bus_message *m, uint64_t timeout_usec, sd_bus_message **ret) {
        int r;

        *ret = NULL;
        r = sd_bus_call_async(bus, NULL, m, on_reply, ret, timeout_usec);
        assert(r >= 0);
        sd_bus_message_unref(m);
        r = sd_bus_flush(bus);
        assert(r >= 0);
}

static inline void process_until(sd_bus *bus, uint64_t timeout_usec, sd_bus_message **reply) {
        while (!*reply) {
                int r = sd_bus_process(bus, NULL);

                if (r == 0)
                        r = sd_bus_wait(bus, timeout_usec);
                assert(r >= 0);
        }
}

/* The name of an error reply, without the prefix of ours; "none" of another reply. */
static inline const char* error_of(sd_bus_message *reply) {
        const sd_bus_error *e = sd_bus_message_get_error(reply);

        if (!e)
                return "none";
        (void) fprintf(stderr, "%s: %s\n", e->name, e->message);
        return startswith(e->name, PEERPOD_ERROR_PREFIX) ?: e->name;
}

/* How many instances find() reports; the first one's fields, borrowed from *ret_reply, if wanted. */
static inline int count_instances(sd_bus *bus, const char *node, const char **ret_sandbox, const char **ret_name, const char **ret_id,
                                  sd_bus_message **ret_reply) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = call_and_unref(bus, find_call(bus, node), 60 * USEC_PER_SEC, &error);
        const char *sandbox, *name, *id;
        int n = 0;

        if (!reply)
                return -1;
        if (sd_bus_message_enter_container(reply, 'a', "(sss)") < 0)
                return -1;
        while (sd_bus_message_read(reply, "(sss)", &sandbox, &name, &id) > 0) {
                if (n++ == 0 && ret_reply) {
                        *ret_sandbox = sandbox;
                        *ret_name = name;
                        *ret_id = id;
                }
        }
        if (ret_reply)
                *ret_reply = reply;
        else
                sd_bus_message_unref(reply);
        return n;
}
