/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"

static int stream_ready(sd_event_source *source, int fd, uint32_t revents, void *userdata);

static void stream_close(Stream *s) {
        s->source = sd_event_source_disable_unref(s->source);
        s->fd = close_fd(s->fd);
}

static void stream_done(Stream *s) {
        pending_flush(&s->queue, TTRPC_NOT_FOUND, "Process not found: it is gone");
        stream_close(s);
}

static int stream_attach(Stream *s, int fd, uint32_t events) {
        int r;

        s->fd = fd;
        r = fd_set_nonblocking(fd, true);
        if (r < 0)
                return r;
        r = sd_event_add_io(s->process->container->agent->event, &s->source, fd, events, stream_ready, s);
        if (r < 0)
                return r;
        return sd_event_source_set_enabled(s->source, SD_EVENT_OFF);
}

Process* process_find(Container *c, const char *exec_id) {
        if (isempty(exec_id))
                return c->init;
        for (Process *p = c->processes; p; p = p->next)
                if (streq(p->exec_id, exec_id))
                        return p;
        return NULL;
}

/* A process that was waited for stays until its output is read: only a client that asks in an unusual order needs that. */
static bool process_is_over(const Process *p) {
        return p->waited && p->out.ended && p->err.ended && !p->starting;
}

static void process_drop_oldest(Container *c) {
        Process *oldest = NULL;

        for (Process *p = c->processes; p; p = p->next)
                if (p->waited && !p->starting)
                        oldest = p;
        if (oldest)
                process_free(oldest);
}

static int make_pipes(Process *p) {
        Stream *streams[] = { &p->in, &p->out, &p->err };

        for (int i = 0; i < 3; i++) {
                int fds[2], r;

                if (pipe2(fds, O_CLOEXEC) < 0)
                        return -errno;
                p->child_fds[i] = fds[i == 0 ? 0 : 1];
                r = stream_attach(streams[i], fds[i == 0 ? 1 : 0], i == 0 ? EPOLLOUT : EPOLLIN);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* crun sends the terminal's master through this socket (opencontainers/runc: docs/terminals.md). */
static int make_console_socket(Process *p) {
        Agent *a = p->container->agent;
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        if (asprintf(&p->console_path, "%s/tty-%llu", a->settings->runtime_dir, (unsigned long long) a->serial++) < 0) {
                p->console_path = NULL;
                return -ENOMEM;
        }
        if (strlen(p->console_path) >= sizeof(sa.sun_path))
                return -ENAMETOOLONG;
        strcpy(sa.sun_path, p->console_path);

        p->console_fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        if (p->console_fd < 0)
                return -errno;
        if (bind(p->console_fd, (const struct sockaddr*) &sa, sizeof(sa)) < 0 || listen(p->console_fd, 1) < 0)
                return -errno;
        return 0;
}

int process_new(Container *c, const char *exec_id, bool terminal, Process **ret) {
        Process *p;
        int r;

        if (c->n_processes >= PROCESSES_MAX)
                process_drop_oldest(c);
        if (c->n_processes >= PROCESSES_MAX)
                return -ENOBUFS;

        p = new(Process);
        if (!p)
                return -ENOMEM;
        *p = (Process) {
                .container = c, .terminal = terminal, .starting = true, .pidfd = -EBADF, .console_fd = -EBADF,
                .in = { .process = p, .fd = -EBADF }, .out = { .process = p, .fd = -EBADF }, .err = { .process = p, .fd = -EBADF },
                .child_fds = { -EBADF, -EBADF, -EBADF }, .next = c->processes,
        };
        c->processes = p;
        c->n_processes++;

        p->exec_id = strdup(exec_id);
        r = p->exec_id ? 0 : -ENOMEM;
        if (r >= 0)
                r = terminal ? make_console_socket(p) : make_pipes(p);
        if (r < 0) {
                process_free(p);
                return r;
        }

        *ret = p;
        return 0;
}

void process_close_child_fds(Process *p) {
        for (int i = 0; i < 3; i++)
                p->child_fds[i] = close_fd(p->child_fds[i]);
}

static void close_console(Process *p) {
        p->console_fd = close_fd(p->console_fd);
        if (p->console_path)
                (void) unlink(p->console_path);
        free(p->console_path);
        p->console_path = NULL;
}

Process* process_free(Process *p) {
        if (!p)
                return NULL;

        for (Process **i = &p->container->processes; *i; i = &(*i)->next)
                if (*i == p) {
                        *i = p->next;
                        p->container->n_processes--;
                        break;
                }
        if (p->container->init == p)
                p->container->init = NULL;

        stream_done(&p->in);
        stream_done(&p->out);
        stream_done(&p->err);
        pending_flush(&p->waiters, TTRPC_NOT_FOUND, "Process not found: it is gone");
        sd_event_source_disable_unref(p->exit_source);
        sd_event_source_disable_unref(p->drain_source);
        process_close_child_fds(p);
        close_console(p);
        close_fd(p->pidfd);
        ttrpc_call_unref(p->call);
        free(p->exec_id);
        free(p);
        return NULL;
}

static void reply_data(TtrpcCall *call, const uint8_t *data, size_t size) {
        Grpc__ReadStreamResponse response = GRPC__READ_STREAM_RESPONSE__INIT;

        response.data = (ProtobufCBinaryData) { .data = (uint8_t*) data, .len = size };
        (void) ttrpc_call_reply_message(call, &response.base);
}

/* Serves waiting reads from the pipe. */
static void stream_read(Stream *s) {
        static uint8_t buffer[READ_MAX];                /* one loop, one thread */
        Process *p = s->process;

        while (s->queue.first) {
                Pending *w = s->queue.first;
                ssize_t n;

                n = s->fd < 0 ? 0 : read(s->fd, buffer, MIN(w->len, READ_MAX));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN && !p->drained) {
                        (void) sd_event_source_set_enabled(s->source, SD_EVENT_ON);
                        return;
                }
                if (n <= 0 && w->len > 0) {             /* end; a terminal says EIO when its last user is gone */
                        stream_close(s);
                        s->ended = true;
                }
                reply_data(w->call, buffer, n > 0 ? (size_t) n : 0);
                pending_free(w);
        }

        if (s->source)
                (void) sd_event_source_set_enabled(s->source, SD_EVENT_OFF);
}

static void stream_write(Stream *s) {
        while (s->queue.first) {
                Pending *w = s->queue.first;
                ssize_t n;

                n = s->fd < 0 ? (errno = EPIPE, -1) : write(s->fd, w->data + w->done, w->size - w->done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN) {
                        (void) sd_event_source_set_enabled(s->source, SD_EVENT_ON);
                        return;
                }
                if (n < 0) {
                        (void) ttrpc_call_reply_status(w->call, TTRPC_INTERNAL, "%s", strerror(errno));
                        pending_free(w);
                        continue;
                }

                w->done += (size_t) n;
                if (w->done == w->size) {
                        Grpc__WriteStreamResponse response = GRPC__WRITE_STREAM_RESPONSE__INIT;

                        response.len = (uint32_t) w->size;
                        (void) ttrpc_call_reply_message(w->call, &response.base);
                        pending_free(w);
                }
        }

        if (s->closing)
                stream_close(s);
        else if (s->source)
                (void) sd_event_source_set_enabled(s->source, SD_EVENT_OFF);
}

static int stream_ready(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Stream *s = userdata;
        Process *p = s->process;

        if (s == &p->in)
                stream_write(s);
        else
                stream_read(s);
        if (process_is_over(p))
                process_free(p);
        return 0;
}

int process_read(Process *p, Stream *s, TtrpcCall *call, uint32_t len) {
        Pending *w;
        int r;

        r = pending_add(&s->queue, call, &w);
        if (r < 0)
                return r;
        w->len = len;
        stream_read(s);
        if (process_is_over(p))
                process_free(p);
        return 0;
}

int process_write(Process *p, TtrpcCall *call, const void *data, size_t size) {
        Pending *w;
        int r;

        r = pending_add(&p->in.queue, call, &w);
        if (r < 0)
                return r;
        w->data = malloc(size);
        if (!w->data) {
                pending_free(w);
                return -ENOMEM;
        }
        memcpy(w->data, data, size);
        w->size = size;
        stream_write(&p->in);
        return 0;
}

void process_close_stdin(Process *p) {
        if (p->terminal)
                return;
        if (p->in.queue.n > 0)
                p->in.closing = true;
        else
                stream_close(&p->in);
}

static int take_terminal(Process *p) {
        _cleanup_(close_fdp) int connection = -EBADF, fd = -EBADF, second = -EBADF;
        char name[256];
        union {
                struct cmsghdr header;
                char buffer[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec iov = { name, sizeof(name) };
        struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
        struct cmsghdr *cmsg;
        int r;

        connection = accept4(p->console_fd, NULL, NULL, SOCK_CLOEXEC|SOCK_NONBLOCK);
        if (connection < 0)
                return -errno;
        if (recvmsg(connection, &mh, MSG_CMSG_CLOEXEC) < 0)
                return -errno;
        cmsg = CMSG_FIRSTHDR(&mh);
        if (!cmsg || cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS || cmsg->cmsg_len != CMSG_LEN(sizeof(int)))
                return -ENODATA;
        memcpy(&fd, CMSG_DATA(cmsg), sizeof(int));

        second = fcntl(fd, F_DUPFD_CLOEXEC, 3);         /* epoll wants a descriptor for each direction */
        if (second < 0)
                return -errno;
        r = stream_attach(&p->out, TAKE_FD(fd), EPOLLIN);
        if (r < 0)
                return r;
        r = stream_attach(&p->in, TAKE_FD(second), EPOLLOUT);
        if (r < 0)
                return r;
        p->err.ended = true;                            /* a terminal has one output */
        close_console(p);
        return 0;
}

static int drain_over(sd_event_source *source, uint64_t usec, void *userdata) {
        Process *p = userdata;

        p->drained = true;
        stream_read(&p->out);
        stream_read(&p->err);
        if (process_is_over(p))
                process_free(p);
        return 0;
}

static void answer_waiters(Process *p) {
        Grpc__WaitProcessResponse response = GRPC__WAIT_PROCESS_RESPONSE__INIT;

        response.status = p->status;
        while (p->waiters.first) {
                (void) ttrpc_call_reply_message(p->waiters.first->call, &response.base);
                pending_free(p->waiters.first);
                p->waited = true;
        }
}

static int process_exited(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Process *p = userdata;
        Container *c = p->container;
        siginfo_t si = {};

        if (waitid(P_PIDFD, (id_t) p->pidfd, &si, WEXITED|WNOHANG) < 0) {
                /* crun's child has not been handed to us: then its status is lost, and its end is all we know. */
                log_warning("Process %i of container '%s' ended as somebody else's child.", p->pid, c->id);
                p->status = 255;
        } else
                p->status = si.si_code == CLD_EXITED ? si.si_status : 128 + si.si_status;

        p->exit_source = sd_event_source_disable_unref(p->exit_source);
        p->exited = true;
        stream_close(&p->in);
        pending_flush(&p->in.queue, TTRPC_INTERNAL, "Broken pipe: the process has ended");
        (void) sd_event_add_time_relative(c->agent->event, &p->drain_source, CLOCK_MONOTONIC, DRAIN_USEC, 0, drain_over, p);

        answer_waiters(p);
        if (process_is_over(p))
                process_free(p);
        agent_reap_orphans(c->agent);
        container_step(c);
        return 0;
}

int process_started(Process *p, const char *pid_file) {
        _cleanup_(freep) char *text = NULL;
        uint32_t pid;
        int r;

        r = read_full_file_at(AT_FDCWD, pid_file, 32, &text, NULL);
        if (r < 0)
                return log_error_errno(r, "Failed to read '%s': %m", pid_file);
        text[strcspn(text, "\n")] = '\0';
        r = parse_u32(text, &pid);
        if (r < 0 || pid == 0)
                return -EBADMSG;

        /* Whatever has become of it, this is it: nobody but us can reap it, so its number is not used again. */
        p->pid = (pid_t) pid;
        p->pidfd = pidfd_open(p->pid, 0);
        if (p->pidfd < 0)
                return log_error_errno(errno, "Failed to open process %i: %m", p->pid);
        if (p->terminal) {
                r = take_terminal(p);
                if (r < 0)
                        return log_error_errno(r, "Failed to take the terminal of process %i: %m", p->pid);
        }
        return sd_event_add_io(p->container->agent->event, &p->exit_source, p->pidfd, EPOLLIN, process_exited, p);
}

int process_signal(Process *p, int sig) {
        if (p->exited || p->pidfd < 0)
                return 0;
        if (pidfd_send_signal(p->pidfd, sig, NULL, 0) < 0 && errno != ESRCH)
                return -errno;
        return 0;
}

int process_wait(Process *p, TtrpcCall *call) {
        int r;

        r = pending_add(&p->waiters, call, NULL);
        if (r < 0)
                return r;
        if (p->exited) {
                answer_waiters(p);
                if (process_is_over(p))
                        process_free(p);
        }
        return 0;
}
