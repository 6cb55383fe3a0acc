/* SPDX-License-Identifier: Apache-2.0 */
/* agent exec: a process in a container, with our standard streams as its own.
 *
 * All runs at once on one connection: a ReadStdout and a ReadStderr are always pending, stdin is read when the last
 * WriteStdin was answered, signals go out when they come. The next read is asked for when the last one's bytes are written,
 * so a slow reader of ours slows the process down and nothing piles up here. The agent forgets a process that was waited
 * for, and its streams with it (kata-containers: src/agent/src/rpc.rs, do_wait_process()), so WaitProcess comes when both
 * streams have ended, as in Kata's runtime. */
#include <inttypes.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <systemd/sd-event.h>
#include <systemd/sd-id128.h>
#include <termios.h>

#include "basic/io.h"
#include "basic/main-func.h"
#include "ctl/agent.h"
#include "ctl/container-request.h"

#define CALL_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define KILL_TIMEOUT_USEC (5 * USEC_PER_SEC)


typedef struct Exec Exec;

typedef struct Output {
        Exec *exec;             /* borrowed */
        const char *method;     /* ReadStdout, ReadStderr */
        int fd;
        bool ended, closed;     /* closed: nobody reads what we write, so it is thrown away */
} Output;

struct Exec {
        const CommandLine *line;
        sd_event *event;        /* borrowed, as the client */
        TtrpcClient *client;
        char *container_id, *exec_id;
        Output out, err;
        sd_event_source *stdin_source;
        uint8_t *stdin_buffer;
        size_t stdin_size, stdin_done;
        bool started, failed, timed_out;
        unsigned n_interrupts;
};

static void exec_end(Exec *e, int status) {
        (void) sd_event_exit(e->event, status);
}

/* Something that ends the whole, already told. */
static void exec_fail(Exec *e) {
        e->failed = true;
        exec_end(e, EXIT_FAILURE);
}

static int begin_call(Exec *e, const char *method, const ProtobufCMessage *request, uint64_t timeout_usec,
                      TtrpcReplyHandler handler, void *userdata) {
        int r;

        r = ttrpc_client_call_message(e->client, grpc__agent_service__descriptor.name, method, request, timeout_usec,
                                      /* metadata= */ NULL, handler, userdata, /* ret_slot= */ NULL);
        if (r < 0) {
                complain("%s/%s: %s", grpc__agent_service__descriptor.name, method, strerror(-r));
                exec_fail(e);
        }

        return r;
}

static void on_ignored(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
}

static void send_signal(Exec *e, int number) {
        Grpc__SignalProcessRequest request = GRPC__SIGNAL_PROCESS_REQUEST__INIT;

        request.container_id = e->container_id;
        request.exec_id = e->exec_id;
        request.signal = (uint32_t) number;
        (void) begin_call(e, "SignalProcess", &request.base, CALL_TIMEOUT_USEC, on_ignored, e);
}

static void on_waited(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        Exec *e = userdata;

        if (reply->error < 0) {
                rpc_complain(grpc__agent_service__descriptor.name, "WaitProcess", reply->code, reply->message);
                return exec_fail(e);
        }
        if (proto_unpack(&grpc__wait_process_response__descriptor, reply->payload, reply->size, &m) < 0) {
                complain("The agent's answer to WaitProcess is not understood");
                return exec_fail(e);
        }

        exec_end(e, agent_exit_status(((Grpc__WaitProcessResponse*) m)->status));
}

static void output_read(Output *o);

static void output_ended(Output *o) {
        Grpc__WaitProcessRequest request = GRPC__WAIT_PROCESS_REQUEST__INIT;
        Exec *e = o->exec;

        o->ended = true;
        if (!e->out.ended || !e->err.ended)
                return;

        request.container_id = e->container_id;
        request.exec_id = e->exec_id;
        (void) begin_call(e, "WaitProcess", &request.base, USEC_INFINITY, on_waited, e);
}

static void on_output(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        const ProtobufCBinaryData *data;
        Output *o = userdata;
        int r;

        if (reply->error < 0) {
                if (reply->error == -EREMOTEIO && agent_error_is_end_of_stream(reply->code, reply->message))
                        return output_ended(o);
                rpc_complain(grpc__agent_service__descriptor.name, o->method, reply->code, reply->message);
                return exec_fail(o->exec);
        }
        if (proto_unpack(&grpc__read_stream_response__descriptor, reply->payload, reply->size, &m) < 0) {
                complain("The agent's answer to %s is not understood", o->method);
                return exec_fail(o->exec);
        }

        data = &((Grpc__ReadStreamResponse*) m)->data;
        if (data->len == 0)
                return output_ended(o);

        r = o->closed ? 0 : write_full(o->fd, data->data, data->len);
        if (r < 0) {
                if (r != -EPIPE)
                        complain("Cannot write what %s gave: %s", o->method, strerror(-r));
                o->closed = true;
                send_signal(o->exec, SIGPIPE);  /* what the process would have got from a pipe of its own */
        }

        output_read(o);
}

static void output_read(Output *o) {
        Grpc__ReadStreamRequest request = GRPC__READ_STREAM_REQUEST__INIT;

        request.container_id = o->exec->container_id;
        request.exec_id = o->exec->exec_id;
        request.len = AGENT_STREAM_CHUNK;
        (void) begin_call(o->exec, o->method, &request.base, USEC_INFINITY, on_output, o);
}

static void stdin_close(Exec *e) {
        Grpc__CloseStdinRequest request = GRPC__CLOSE_STDIN_REQUEST__INIT;

        e->stdin_source = sd_event_source_disable_unref(e->stdin_source);
        request.container_id = e->container_id;
        request.exec_id = e->exec_id;
        (void) begin_call(e, "CloseStdin", &request.base, CALL_TIMEOUT_USEC, on_ignored, e);
}

static void stdin_send(Exec *e);

static void on_written(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        Exec *e = userdata;
        size_t left = e->stdin_size - e->stdin_done, n = 0;

        /* A process that has ended or closed its stdin is nothing to complain of: its status tells. */
        if (reply->error == 0 &&
            proto_unpack(&grpc__write_stream_response__descriptor, reply->payload, reply->size, &m) >= 0)
                n = ((Grpc__WriteStreamResponse*) m)->len;
        if (n == 0 || n > left) {
                e->stdin_source = sd_event_source_disable_unref(e->stdin_source);
                return;
        }

        e->stdin_done += n;
        if (e->stdin_done < e->stdin_size)
                stdin_send(e);
        else if (sd_event_source_set_enabled(e->stdin_source, SD_EVENT_ONESHOT) < 0)
                exec_fail(e);
}

static void stdin_send(Exec *e) {
        Grpc__WriteStreamRequest request = GRPC__WRITE_STREAM_REQUEST__INIT;

        request.container_id = e->container_id;
        request.exec_id = e->exec_id;
        request.data = (ProtobufCBinaryData) { .data = e->stdin_buffer + e->stdin_done, .len = e->stdin_size - e->stdin_done };
        (void) begin_call(e, "WriteStdin", &request.base, USEC_INFINITY, on_written, e);
}

static int on_stdin(Exec *e) {
        ssize_t n;

        n = read(STDIN_FILENO, e->stdin_buffer, AGENT_STREAM_CHUNK);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
                if (sd_event_source_set_enabled(e->stdin_source, SD_EVENT_ONESHOT) < 0)
                        exec_fail(e);
                return 0;
        }
        if (n <= 0) {
                if (n < 0)
                        complain("Cannot read standard input: %s", strerror(errno));
                stdin_close(e);
                return 0;
        }

        e->stdin_size = (size_t) n;
        e->stdin_done = 0;
        stdin_send(e);
        return 0;
}

static int on_stdin_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        return on_stdin(userdata);
}

static int on_stdin_defer(sd_event_source *source, void *userdata) {
        return on_stdin(userdata);
}

static int stdin_open(Exec *e) {
        int r;

        if (!arguments(e->line)->interactive) {
                stdin_close(e);
                return 0;
        }

        e->stdin_buffer = malloc(AGENT_STREAM_CHUNK);
        if (!e->stdin_buffer)
                return -ENOMEM;

        r = sd_event_add_io(e->event, &e->stdin_source, STDIN_FILENO, EPOLLIN, on_stdin_io, e);
        if (r == -EPERM)        /* a file: always readable, but nothing for epoll */
                r = sd_event_add_defer(e->event, &e->stdin_source, on_stdin_defer, e);
        if (r >= 0)
                r = sd_event_source_set_enabled(e->stdin_source, SD_EVENT_ONESHOT);
        if (r < 0)
                return r;

        return 0;
}

static void resize_tty(Exec *e) {
        Grpc__TtyWinResizeRequest request = GRPC__TTY_WIN_RESIZE_REQUEST__INIT;
        struct winsize size;

        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0)
                return;

        request.container_id = e->container_id;
        request.exec_id = e->exec_id;
        request.row = size.ws_row;
        request.column = size.ws_col;
        (void) begin_call(e, "TtyWinResize", &request.base, CALL_TIMEOUT_USEC, on_ignored, e);
}

static void on_started(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        Exec *e = userdata;
        int r;

        if (reply->error < 0) {
                rpc_complain(grpc__agent_service__descriptor.name, "ExecProcess", reply->code, reply->message);
                return exec_fail(e);
        }

        e->started = true;
        output_read(&e->out);
        if (arguments(e->line)->tty) {
                e->err.ended = true;    /* a terminal has one output */
                resize_tty(e);
        } else
                output_read(&e->err);

        r = stdin_open(e);
        if (r < 0) {
                complain("Cannot watch standard input: %s", strerror(-r));
                exec_fail(e);
        }
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        Exec *e = userdata;
        int number = (int) si->ssi_signo;

        if (number == SIGWINCH) {
                if (e->started && arguments(e->line)->tty)
                        resize_tty(e);
                return 0;
        }

        /* Someone who asks twice no longer wants to know what becomes of the process. */
        if (!e->started || (number == SIGINT && e->n_interrupts++ > 0)) {
                exec_end(e, 128 + number);
                e->failed = true;
                return 0;
        }

        send_signal(e, number);
        return 0;
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        Exec *e = userdata;

        e->timed_out = true;
        complain("The process did not end within %s and is killed", FORMAT_USEC(command_timeout(e->line)));
        exec_fail(e);
        return 0;
}

static void on_closed(TtrpcClient *client, int error, void *userdata) {
        Exec *e = userdata;

        if (!e->failed) {       /* the pending calls have complained already */
                complain("Lost the connection to the agent: %s", strerror(-error));
                exec_fail(e);
        }
}

/* The terminal as it was, whatever happens: kept here because there is but one. */
static struct termios saved_terminal;
static bool terminal_is_raw;

static void restore_terminal(void) {
        if (terminal_is_raw)
                (void) tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_terminal);
        terminal_is_raw = false;
}

static int make_terminal_raw(void) {
        struct termios raw;

        if (tcgetattr(STDIN_FILENO, &saved_terminal) < 0)
                return errno == ENOTTY ? 0 : -errno;    /* --tty with a pipe as stdin is allowed */

        raw = saved_terminal;
        cfmakeraw(&raw);
        if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
                return -errno;

        terminal_is_raw = true;
        return 0;
}

static int watch(Exec *e) {
        static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH };
        uint64_t timeout = command_timeout(e->line);
        int r = 0;

        (void) signal(SIGPIPE, SIG_IGN);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(signals); i++)
                r = sd_event_add_signal(e->event, /* ret= */ NULL, signals[i]|SD_EVENT_SIGNAL_PROCMASK, on_signal, e);
        if (r >= 0 && timeout != USEC_INFINITY)
                r = sd_event_add_time_relative(e->event, /* ret= */ NULL, CLOCK_MONOTONIC, timeout, /* accuracy= */ 0,
                                               on_timeout, e);
        return r < 0 ? r : 0;
}

static void kill_process(Exec *e) {
        Grpc__SignalProcessRequest request = GRPC__SIGNAL_PROCESS_REQUEST__INIT;

        request.container_id = e->container_id;
        request.exec_id = e->exec_id;
        request.signal = SIGKILL;
        (void) rpc_call(e->client, &grpc__agent_service__descriptor, "SignalProcess", &request.base,
                        KILL_TIMEOUT_USEC, NULL);
}

static int exec_run(Exec *e) {
        const Arguments *arg = arguments(e->line);
        Grpc__ExecProcessRequest request = GRPC__EXEC_PROCESS_REQUEST__INIT;
        _cleanup_(proto_freep) ProtobufCMessage *process = NULL;
        _cleanup_(freep) char *error = NULL;
        int r;

        r = process_new(arg, e->line->words + 1, &process, &error);
        if (r < 0)
                return error ? complain_usage("%s", error) : r;

        r = watch(e);
        if (r >= 0 && arg->tty)
                r = make_terminal_raw();
        if (r < 0)
                return complain("Cannot watch signals and terminal: %s", strerror(-r));

        request.container_id = e->container_id;
        request.exec_id = e->exec_id;
        request.process = (Grpc__Process*) process;
        ttrpc_client_set_closed_handler(e->client, on_closed, e);
        r = begin_call(e, "ExecProcess", &request.base, CALL_TIMEOUT_USEC, on_started, e);
        if (r < 0)
                return EXIT_FAILURE;

        r = sd_event_loop(e->event);
        return r < 0 ? complain("Event loop failed: %s", strerror(-r)) : r;
}

int command_agent_exec(const CommandLine *line) {
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        char id_text[SD_ID128_UUID_STRING_MAX];
        Exec e = { .line = line, .container_id = line->words[0], .exec_id = (char*) arguments(line)->exec_id };
        sd_id128_t id;
        int r;

        e.out = (Output) { .exec = &e, .method = "ReadStdout", .fd = STDOUT_FILENO };
        e.err = (Output) { .exec = &e, .method = "ReadStderr", .fd = STDERR_FILENO };

        if (!e.exec_id) {
                r = sd_id128_randomize(&id);
                if (r < 0)
                        return r;
                e.exec_id = sd_id128_to_uuid_string(id, id_text);
        }

        r = sd_event_new(&event);
        if (r < 0)
                return r;
        e.event = event;

        r = agent_connect(line, event, &client, /* ret_id= */ NULL);
        if (r != 0)
                return r;
        e.client = client;

        r = exec_run(&e);
        restore_terminal();
        e.stdin_source = sd_event_source_disable_unref(e.stdin_source);
        free(e.stdin_buffer);

        if (e.timed_out && e.started) {
                /* The loop has ended; the process is killed over a connection of its own. */
                client = ttrpc_client_free(client);
                if (agent_connect(line, /* event= */ NULL, &client, /* ret_id= */ NULL) == 0) {
                        e.client = client;
                        kill_process(&e);
                }
        }

        return r;
}
