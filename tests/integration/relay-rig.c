/* SPDX-License-Identifier: Apache-2.0 */
#include "relay-rig.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/util.h"
#include "ttrpc/server.h"
#include "ttrpc/wire.h"

static void die(const char *what) {
        perror(what);
        abort();
}

static void check(bool b, const char *what) {
        if (!b)
                die(what);
}

static int listen_unix(const char *path) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);

        check(fd >= 0 && strlen(path) < sizeof(sa.sun_path), "socket");
        memcpy(sa.sun_path, path, strlen(path));
        (void) unlink(path);
        check(bind(fd, (struct sockaddr*) &sa, sizeof(sa)) == 0 && listen(fd, SOMAXCONN) == 0, path);
        return fd;
}

static void write_text(const char *dir, const char *name, const char *text) {
        char path[160];

        (void) snprintf(path, sizeof(path), "%s/%s", dir, name);
        check(write_file_atomic(path, text, strlen(text), 0600) >= 0, path);
}

static void json_escape(const char *s, char *out) {
        for (; *s; s++)
                if (*s == '\n') {
                        *out++ = '\\';
                        *out++ = 'n';
                } else
                        *out++ = *s;
        *out = '\0';
}

void rig_write_config(Rig *r) {
        char key[4096], cert[4096], ca[4096], text[16384];

        json_escape(r->server.key, key);
        json_escape(r->server.cert, cert);
        json_escape(r->client.cert, ca);
        (void) snprintf(text, sizeof(text), "{\"pod-network\":null,\"pod-namespace\":\"default\",\"pod-name\":\"web\","
                        "\"tls-server-key\":\"%s\",\"tls-server-cert\":\"%s\",\"tls-client-ca\":\"%s\",\"tls-min-version\":\"%s\"}",
                        key, cert, ca, r->tls_min_version);
        write_text(r->credentials, "apf.json", text);

        (void) snprintf(text, sizeof(text), "{\"sandbox-id\":\"test\",\"pod-name\":\"web\",\"pod-namespace\":\"default\","
                        "\"instance-id\":\"i-1\",\"provider\":\"test\",\"addresses\":[\"127.0.0.1\"],\"port\":%u,"
                        "\"server-name\":\"" RIG_SERVER_NAME "\",\"tls\":%s,\"tls-min-version\":\"%s\",\"connect-timeout-usec\":%llu,"
                        "\"grace-time-usec\":%llu}",
                        r->port, r->tls ? "true" : "false", r->tls_min_version, (unsigned long long) r->connect_timeout_usec,
                        (unsigned long long) r->grace_time_usec);
        write_text(r->credentials, "proxy.json", text);
        write_text(r->credentials, "client.key", r->client.key);
        write_text(r->credentials, "client.crt", r->client.cert);
        write_text(r->credentials, "server-ca.crt", r->server.cert);
        write_text(r->credentials, "server.key", r->server.key);
}

static int bind_notify(const char *path) {
        struct sockaddr_un un = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM|SOCK_CLOEXEC, 0);

        check(fd >= 0 && strlen(path) < sizeof(un.sun_path), path);
        memcpy(un.sun_path, path, strlen(path));
        check(bind(fd, (struct sockaddr*) &un, sizeof(un)) == 0, "notify socket");
        return fd;
}

void rig_make(Rig *r) {
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t size = sizeof(in);

        *r = (Rig) { .tls = true, .tls_min_version = "VersionTLS13", .connect_timeout_usec = 20 * USEC_PER_SEC,
                     .grace_time_usec = 60 * USEC_PER_SEC };
        (void) snprintf(r->dir, sizeof(r->dir), "/tmp/peerpod-relay-XXXXXX");
        check(mkdtemp(r->dir), "mkdtemp");
        (void) snprintf(r->agent_socket, sizeof(r->agent_socket), "%s/agent.sock", r->dir);
        (void) snprintf(r->proxy_socket, sizeof(r->proxy_socket), "%s/agent.ttrpc", r->dir);
        (void) snprintf(r->notify_path, sizeof(r->notify_path), "%s/notify", r->dir);
        (void) snprintf(r->credentials, sizeof(r->credentials), "%s/credentials", r->dir);
        check(mkdir(r->credentials, 0700) == 0, "mkdir");

        r->proxy_listen = listen_unix(r->proxy_socket);
        r->forwarder_listen = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);
        check(bind(r->forwarder_listen, (struct sockaddr*) &in, sizeof(in)) == 0 && listen(r->forwarder_listen, SOMAXCONN) == 0 &&
              getsockname(r->forwarder_listen, (struct sockaddr*) &in, &size) == 0, "listen");
        r->port = ntohs(in.sin_port);

        r->notify_fd = bind_notify(r->notify_path);

        r->server = test_cert_make(&(TestCertSpec) { .name = RIG_SERVER_NAME, .purpose = GNUTLS_KP_TLS_WWW_SERVER });
        r->client = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT });
        rig_write_config(r);
}

void rig_done(Rig *r) {
        (void) rig_stop(&r->proxy, SIGKILL);
        (void) rig_stop(&r->forwarder, SIGKILL);
        (void) rig_stop(&r->agent, SIGKILL);
        r->proxy_listen = close_fd(r->proxy_listen);
        r->forwarder_listen = close_fd(r->forwarder_listen);
        r->notify_fd = close_fd(r->notify_fd);
        test_cert_done(&r->server);
        test_cert_done(&r->client);
        (void) remove_tree(r->dir);
}

/* What the service manager does between fork() and exec(): descriptors from 3 on, $LISTEN_FDS for this very process. */
static pid_t start(Rig *r, RigStore *store, int listen_fd, const char *fd_name, const char *log, const char *const argv[]) {
        pid_t parent = getpid(), pid = fork();
        char number[16], names[RIG_STORE_MAX * 33 + 64];
        int copies[RIG_STORE_MAX + 1];
        size_t n = 1;

        check(pid >= 0, "fork");
        if (pid > 0)
                return pid;

        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(1);

        copies[0] = fcntl(listen_fd, F_DUPFD_CLOEXEC, 500);
        (void) snprintf(names, sizeof(names), "%s", fd_name);
        for (size_t i = 0; store && i < store->n_fds; i++, n++) {
                copies[n] = fcntl(store->fds[i], F_DUPFD_CLOEXEC, 500);
                strcat(strcat(names, ":"), store->names[i]);
        }
        if (log) {
                int fd = open(log, O_WRONLY|O_CREAT|O_APPEND|O_CLOEXEC, 0600);

                if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
                        _exit(1);
        }
        for (size_t i = 0; i < n; i++)
                if (copies[i] < 0 || dup2(copies[i], 3 + i) < 0)
                        _exit(1);
        (void) snprintf(number, sizeof(number), "%i", (int) getpid());
        (void) setenv("LISTEN_PID", number, 1);
        (void) snprintf(number, sizeof(number), "%zu", n);
        (void) setenv("LISTEN_FDS", number, 1);
        (void) setenv("LISTEN_FDNAMES", names, 1);
        (void) setenv("NOTIFY_SOCKET", store ? store->path : r->notify_path, 1);
        if (store)
                (void) setenv("FDSTORE", "80", 1);
        (void) setenv("CREDENTIALS_DIRECTORY", r->credentials, 1);
        (void) setenv("RUNTIME_DIRECTORY", r->dir, 1);
        execv(argv[0], (char* const*) argv);
        _exit(127);
}

void rig_start_forwarder(Rig *r) {
        const char *argv[24] = { getenv(r->tls || r->tls_off_is_forbidden ? "FORWARDER" : "FORWARDER_PLAIN"),
                                 "-kata-agent-socket", r->agent_socket, "-bind-source-root", r->dir,
                                 "-agent-exit-note", r->exit_note ?: "/nonexistent/agent-exit",
                                 "-volumes-socket", r->volumes_socket ?: "/nonexistent/volumes.sock",
                                 "-volumes-dir", r->volumes_dir ?: "/nonexistent/volumes" };
        size_t n = 11;

        if (r->pod_namespace) {
                argv[n++] = "-pod-namespace";
                argv[n++] = r->pod_namespace;
        }
        if (!r->tls)
                argv[n++] = "-disable-tls";
        check(argv[0], "$FORWARDER");
        r->forwarder = start(r, r->forwarder_store, r->forwarder_listen, "agent-protocol", r->forwarder_log, argv);
}

void rig_start_proxy(Rig *r) {
        const char *argv[] = { getenv("PROXY"), "test", NULL };

        check(argv[0], "$PROXY");
        r->proxy = start(r, r->proxy_store, r->proxy_listen, "agent", r->proxy_log, argv);
}

void rig_start_go_forwarder(Rig *r) {
        const char *argv[] = { getenv("RELAY_GO"), "forwarder", r->credentials, NULL };

        check(argv[0], "$RELAY_GO");
        r->forwarder = start(r, NULL, r->forwarder_listen, "agent-protocol", NULL, argv);
}

int rig_run_go_proxy(Rig *r) {
        char port[8];
        const char *argv[] = { getenv("RELAY_GO"), "proxy", r->credentials, port, RIG_SERVER_NAME, NULL };
        pid_t pid;

        check(argv[0], "$RELAY_GO");
        (void) snprintf(port, sizeof(port), "%u", r->port);
        pid = start(r, NULL, r->proxy_listen, "unused", NULL, argv);
        return rig_wait(&pid, 120000);
}

void rig_store_make(RigStore *s, const Rig *r, const char *name) {
        *s = (RigStore) {};
        (void) snprintf(s->path, sizeof(s->path), "%s/%s", r->dir, name);
        s->notify_fd = bind_notify(s->path);
}

void rig_store_clear(RigStore *s) {
        while (s->n_fds > 0)
                close_fd(s->fds[--s->n_fds]);
}

void rig_store_done(RigStore *s) {
        rig_store_clear(s);
        s->notify_fd = close_fd(s->notify_fd);
}

static void store_remove(RigStore *s, const char *name) {
        for (size_t i = s->n_fds; i-- > 0;)
                if (streq(s->names[i], name)) {
                        close_fd(s->fds[i]);
                        s->n_fds--;
                        memmove(s->fds + i, s->fds + i + 1, (s->n_fds - i) * sizeof(s->fds[0]));
                        memmove(s->names + i, s->names + i + 1, (s->n_fds - i) * sizeof(s->names[0]));
                }
}

/* sd_notify(3): one message, assignments on lines of their own; descriptors come with it. */
static void store_message(RigStore *s, char *text, int *fds, size_t n_fds) {
        const char *name = "stored";
        bool store = false, remove = false;

        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
                name = startswith(line, "FDNAME=") ?: name;
                store = store || streq(line, "FDSTORE=1");
                remove = remove || streq(line, "FDSTOREREMOVE=1");
                s->n_ready += streq(line, "READY=1");
        }
        if (remove)
                store_remove(s, name);
        for (size_t i = 0; i < n_fds; i++)
                if (store) {
                        check(s->n_fds < RIG_STORE_MAX && strlen(name) < sizeof(s->names[0]), "fd store");
                        strcpy(s->names[s->n_fds], name);
                        s->fds[s->n_fds++] = fds[i];
                        s->n_stored++;
                } else
                        close_fd(fds[i]);       /* BARRIER=1 waits for this */
}

void rig_store_read(RigStore *s) {
        for (;;) {
                char text[1024], control[CMSG_SPACE(sizeof(int) * 64)];
                struct iovec iov = { text, sizeof(text) - 1 };
                struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
                int fds[64];
                size_t n_fds = 0;
                ssize_t n = recvmsg(s->notify_fd, &mh, MSG_DONTWAIT|MSG_CMSG_CLOEXEC);

                if (n < 0)
                        return;
                text[n] = '\0';
                for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c))
                        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
                                n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                                memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
                        }
                store_message(s, text, fds, n_fds);
        }
}

void rig_wait_ready(Rig *r, int n) {
        while (n > 0) {
                char text[512];
                ssize_t k;

                check(poll(&(struct pollfd) { .fd = r->notify_fd, .events = POLLIN }, 1, 120000) == 1, "no READY=1");
                k = recv(r->notify_fd, text, sizeof(text) - 1, 0);
                check(k >= 0, "notify socket");
                text[k] = '\0';
                if (strstr(text, "READY=1"))
                        n--;
        }
}

int rig_wait(pid_t *pid, unsigned timeout_ms) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + timeout_ms * USEC_PER_MSEC;
        int status;

        for (;;) {
                pid_t k = waitpid(*pid, &status, WNOHANG);

                check(k >= 0, "waitpid");
                if (k > 0) {
                        *pid = 0;
                        return status;
                }
                if (now_usec(CLOCK_MONOTONIC) > end)
                        return -1;
                (void) poll(NULL, 0, 5);
        }
}

int rig_stop(pid_t *pid, int sig) {
        int status;

        if (*pid <= 0)
                return 0;
        (void) kill(*pid, sig);
        status = rig_wait(pid, 120000);
        check(status != -1, "process does not end");
        return status;
}

/* The agent. */

static unsigned n_cancelled;

static int method_echo(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply(call, payload, size);
}

static const char *check_error;

static int method_check(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        if (check_error)
                return ttrpc_call_reply_status(call, TTRPC_UNAVAILABLE, "%s", check_error);
        return ttrpc_call_reply(call, "\x08\x01", 2);
}

static int method_write(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply(call, NULL, 0);
}

static int method_destroy(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        (void) ttrpc_call_reply(call, NULL, 0);
        _exit(0);
}

static int method_read(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        static uint8_t buffer[4 << 20];
        WireField f;
        size_t offset = 0, n = 0;

        while (wire_next((TtrpcSlice) { payload, size }, &offset, &f) > 0)
                if (f.number == 3)
                        n = MIN(f.varint, sizeof(buffer));
        return ttrpc_call_reply(call, buffer, n);
}

void rig_stream(uint32_t seed, uint8_t *data, size_t size) {
        uint32_t x = seed * 2654435761U | 1;

        for (size_t i = 0; i < size; i++) {
                x ^= x << 13;
                x ^= x >> 17;
                x ^= x << 5;
                data[i] = x;
        }
}

/* FNV-1a */
uint64_t rig_sum(const uint8_t *data, size_t size) {
        uint64_t sum = UINT64_C(0xcbf29ce484222325);

        for (size_t i = 0; i < size; i++)
                sum = (sum ^ data[i]) * UINT64_C(0x100000001b3);
        return sum;
}

static int method_stream(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        static uint8_t buffer[4 << 20];
        const uint8_t *p = payload;
        size_t n;

        if (size < 8)
                return ttrpc_call_reply_status(call, TTRPC_INVALID_ARGUMENT, "8 bytes, please");
        n = MIN((size_t) read_be32(p + 4), sizeof(buffer) - 64);
        rig_stream(read_be32(p), buffer, n);
        return ttrpc_call_reply(call, buffer, n);
}

static int method_sum(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        uint8_t sum[8];

        write_be64(sum, rig_sum(payload, size));
        return ttrpc_call_reply(call, sum, sizeof(sum));
}

static void on_cancelled(TtrpcCall *call, int reason, void *userdata) {
        n_cancelled++;
        ttrpc_call_unref(call);
}

static int method_wait(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        ttrpc_call_set_cancelled_handler(ttrpc_call_ref(call), on_cancelled, NULL);
        return 0;
}

static int method_cancelled(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        char text[16];

        return ttrpc_call_reply(call, text, snprintf(text, sizeof(text), "%u", n_cancelled));
}

void rig_run_agent(const char *path, int ready_fd) {
        static const TtrpcMethod agent[] = {
                { "CreateContainer", method_echo }, { "RemoveContainer", method_write }, { "CreateSandbox", method_echo }, { "Echo", method_echo },
                { "ReadStdout", method_read }, { "WriteStdin", method_write }, { "WaitProcess", method_wait },
                { "GetOOMEvent", method_wait }, { "Cancelled", method_cancelled }, { "Stream", method_stream }, { "Sum", method_sum },
                { "DestroySandbox", method_destroy }, {}
        }, health[] = { { "Check", method_check }, {} };
        TtrpcServerLimits limits = TTRPC_SERVER_LIMITS_DEFAULT;
        sd_event *event = NULL;
        TtrpcServer *server = NULL;

        limits.n_calls_max = 8192;
        limits.output_max = 256U << 20;
        check(sd_event_new(&event) >= 0 && ttrpc_server_new(event, &server) >= 0, "agent");
        ttrpc_server_set_limits(server, &limits);
        check(ttrpc_server_add_service(server, "grpc.AgentService", agent, NULL) >= 0 &&
              ttrpc_server_add_service(server, "grpc.Health", health, NULL) >= 0 &&
              ttrpc_server_add_listen_fd(server, listen_unix(path)) >= 0, "agent");
        close_fd(ready_fd);
        (void) sd_event_loop(event);
        _exit(0);
}

void rig_start_agent(Rig *r) {
        pid_t parent = getpid();
        int fds[2];
        char c;

        check(pipe2(fds, O_CLOEXEC) == 0, "pipe");
        r->agent = fork();
        check(r->agent >= 0, "fork");
        if (r->agent == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent)
                        _exit(1);
                /* The listening sockets are the daemons': as long as we held one, a dead daemon would look alive. */
                close_fd(r->proxy_listen);
                close_fd(r->forwarder_listen);
                close_fd(fds[0]);
                check_error = r->check_error;
                rig_run_agent(r->agent_socket, fds[1]);
        }
        close_fd(fds[1]);
        check(read(fds[0], &c, 1) == 0, "agent");
        close_fd(fds[0]);
}

size_t rig_count_fds(pid_t pid) {
        char path[64];
        size_t n = 0;
        DIR *d;

        (void) snprintf(path, sizeof(path), "/proc/%i/fd", (int) pid);
        d = opendir(path);
        check(d, path);
        for (struct dirent *e; (e = readdir(d));)
                n += e->d_name[0] != '.';
        (void) closedir(d);
        return n;
}

size_t rig_memory_kib(pid_t pid, const char *field) {
        _cleanup_(fclosep) FILE *f = NULL;
        char path[64], line[256];

        (void) snprintf(path, sizeof(path), "/proc/%i/smaps_rollup", (int) pid);
        f = fopen(path, "re");
        check(f, path);
        while (fgets(line, sizeof(line), f)) {
                const char *v = startswith(line, field);

                if (v)
                        return strtoul(v, NULL, 10);
        }
        return 0;
}
