/* SPDX-License-Identifier: Apache-2.0 */
/* What the way through peerpod-agent-proxy, TLS and agent-protocol-forwarder costs, beside the straight way to the same agent
 * and beside a pass-through of the same bytes by two socats with the same TLS. The ways take turns in one run, so that what else
 * the machine does meets all of them.
 *
 * proxy-bench [--rounds N] [--syscalls] */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "../integration/relay-rig.h"
#include "basic/io.h"
#include "basic/util.h"
#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"

#define N_SMALL 500U            /* calls a round */
#define N_BIG 40U
#define BIG (1U << 20)

enum { WAY_DIRECT, WAY_SOCAT, WAY_PROXY, N_WAYS };
static const char *const way_names[N_WAYS] = { "straight to the agent", "socat pass-through", "proxy and forwarder" };

typedef struct Way {
        int fd;
        uint32_t id;
        double *small_usec;
        size_t n_small;
        double big_usec[2];                     /* one after the other; four in flight */
        size_t n_big[2];
        pid_t pids[2];                          /* the programs in between */
        double small_cpu_usec, big_cpu_usec[2]; /* their time */
} Way;

static void die(const char *what) {
        perror(what);
        exit(1);
}

static int connect_unix(const char *path) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        memcpy(sa.sun_path, path, strlen(path));
        for (unsigned i = 0; i < 100; i++) {
                int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);

                if (connect(fd, (struct sockaddr*) &sa, sizeof(sa)) == 0)
                        return fd;
                close_fd(fd);
                (void) poll(NULL, 0, 50);
        }
        die(path);
        return -1;
}

static double now(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

/* What the programs in between have run, in µs: unlike the time that passes, it is no matter of who else runs. */
static double cpu_usec(const Way *w) {
        double sum = 0;

        for (size_t i = 0; i < 2 && w->pids[i] > 0; i++) {
                _cleanup_(fclosep) FILE *f = NULL;
                unsigned long long nsec = 0;
                char path[64];

                (void) snprintf(path, sizeof(path), "/proc/%i/schedstat", (int) w->pids[i]);
                f = fopen(path, "re");
                if (!f || fscanf(f, "%llu", &nsec) != 1)
                        die(path);
                sum += nsec / 1e3;
        }
        return sum;
}

static void read_all(int fd, uint8_t *p, size_t size) {
        while (size > 0) {
                ssize_t n = recv(fd, p, size, 0);

                if (n <= 0)
                        die("recv");
                p += n;
                size -= n;
        }
}

static void send_request(Way *w, const char *method, const void *payload, size_t size) {
        TtrpcRequest request = { .service = ttrpc_slice("grpc.AgentService"), .method = ttrpc_slice(method), .payload = { payload, size } };
        uint8_t frame[256];
        size_t n = ttrpc_request_size(&request);

        w->id += 2;
        ttrpc_header_write(&(TtrpcHeader) { .length = n, .stream_id = w->id, .type = TTRPC_TYPE_REQUEST }, frame);
        ttrpc_request_write(&request, frame + TTRPC_HEADER_SIZE);
        if (send(w->fd, frame, TTRPC_HEADER_SIZE + n, MSG_NOSIGNAL) != (ssize_t) (TTRPC_HEADER_SIZE + n))
                die("send");
}

static size_t read_answer(Way *w) {
        static uint8_t body[TTRPC_DATA_MAX];
        uint8_t head[TTRPC_HEADER_SIZE];
        TtrpcHeader h;

        read_all(w->fd, head, sizeof(head));
        if (ttrpc_header_parse(head, sizeof(head), &h) <= 0 || h.type != TTRPC_TYPE_RESPONSE)
                die("answer");
        read_all(w->fd, body, h.length);
        return h.length;
}

static void run_small(Way *w, size_t n) {
        double cpu = cpu_usec(w);

        for (size_t i = 0; i < n; i++) {
                double begin = now();

                send_request(w, "WriteStdin", "\x0a\x01" "c", 3);
                if (read_answer(w) > 16)
                        die("answer");
                w->small_usec[w->n_small++] = now() - begin;
        }
        w->small_cpu_usec += cpu_usec(w) - cpu;
}

static void run_big(Way *w, unsigned depth) {
        static const uint8_t payload[] = { 0x18, 0x80, 0x80, 0x40 };    /* len: 1 MiB */
        double begin = now(), cpu = cpu_usec(w);
        size_t sent = 0, got = 0;

        while (got < N_BIG) {
                while (sent < N_BIG && sent - got < depth) {
                        send_request(w, "ReadStdout", payload, sizeof(payload));
                        sent++;
                }
                if (read_answer(w) < BIG)
                        die("answer");
                got++;
        }
        w->big_usec[depth > 1] += now() - begin;
        w->n_big[depth > 1] += N_BIG;
        w->big_cpu_usec[depth > 1] += cpu_usec(w) - cpu;
}

static pid_t start_program(const char *const argv[]) {
        pid_t pid = fork();

        if (pid < 0)
                die("fork");
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                execvp(argv[0], (char* const*) argv);
                _exit(127);
        }
        return pid;
}

static uint16_t free_port(void) {
        struct sockaddr_storage sa = { .ss_family = AF_INET };
        socklen_t size = sizeof(sa);
        int fd = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);
        uint8_t *p = (uint8_t*) &sa;

        if (bind(fd, (struct sockaddr*) &sa, 16) < 0 || getsockname(fd, (struct sockaddr*) &sa, &size) < 0)
                die("bind");
        close_fd(fd);
        return p[2] << 8 | p[3];
}

/* The same certificates, TLS 1.3, mutual; buffers as big as ours. */
static void start_socats(Rig *r, pid_t pids[2], char *path, size_t path_size) {
        char server[512], client[512], agent[128], listen[128], file[160];
        uint16_t port = free_port();

        (void) snprintf(file, sizeof(file), "%s/server.key", r->credentials);
        (void) write_file_atomic(file, r->server.key, strlen(r->server.key), 0600);
        (void) snprintf(path, path_size, "%s/socat.sock", r->dir);
        (void) snprintf(server, sizeof(server), "OPENSSL-LISTEN:%u,bind=127.0.0.1,reuseaddr,nodelay,cert=%s/server-ca.crt,key=%s/server.key,"
                        "cafile=%s/client.crt,verify=1,openssl-min-proto-version=TLS1.3", port, r->credentials, r->credentials, r->credentials);
        (void) snprintf(client, sizeof(client), "OPENSSL:127.0.0.1:%u,nodelay,cert=%s/client.crt,key=%s/client.key,cafile=%s/server-ca.crt,"
                        "verify=1,commonname=" RIG_SERVER_NAME ",openssl-min-proto-version=TLS1.3", port, r->credentials, r->credentials, r->credentials);
        (void) snprintf(agent, sizeof(agent), "UNIX-CONNECT:%s", r->agent_socket);
        (void) snprintf(listen, sizeof(listen), "UNIX-LISTEN:%s", path);
        pids[0] = start_program((const char* const[]) { "socat", "-b", "131072", server, agent, NULL });
        (void) poll(NULL, 0, 300);
        pids[1] = start_program((const char* const[]) { "socat", "-b", "131072", listen, client, NULL });
}

static int compare(const void *a, const void *b) {
        double x = *(const double*) a, y = *(const double*) b;

        return x < y ? -1 : x > y;
}

/* Counts the system calls of one daemon while N small calls pass. */
static void count_syscalls(Rig *r, pid_t pid, const char *name, Way *w) {
        char number[16], file[160], line[256], calls[32] = "?";
        pid_t tracer;
        FILE *f;

        (void) snprintf(number, sizeof(number), "%i", (int) pid);
        (void) snprintf(file, sizeof(file), "%s/strace", r->dir);
        tracer = start_program((const char* const[]) { "strace", "-c", "-f", "-o", file, "-p", number, NULL });
        (void) poll(NULL, 0, 1000);
        w->n_small = 0;
        run_small(w, N_SMALL);
        (void) kill(tracer, SIGINT);
        (void) waitpid(tracer, NULL, 0);

        f = fopen(file, "re");
        if (!f)
                die("strace");
        printf("\nsystem calls of %s for %u small calls:\n", name, N_SMALL);
        while (fgets(line, sizeof(line), f)) {
                printf("  %s", line);
                if (strstr(line, "total"))
                        (void) sscanf(line, "%*s %*s %*s %31s", calls);
        }
        (void) fclose(f);
        printf("  = %.2f for each call\n", atof(calls) / N_SMALL);
}

int main(int argc, char *argv[]) {
        Way ways[N_WAYS] = {};
        unsigned rounds = 10;
        bool syscalls = false;
        char socat_path[96];
        pid_t socats[2];
        size_t pss[2];
        Rig r;

        for (int i = 1; i < argc; i++)
                if (streq(argv[i], "--syscalls"))
                        syscalls = true;
                else if (streq(argv[i], "--rounds") && i + 1 < argc)
                        rounds = atoi(argv[++i]);

        (void) signal(SIGPIPE, SIG_IGN);
        if (!getenv("PROXY") || !getenv("FORWARDER")) {
                fprintf(stderr, "$PROXY and $FORWARDER must name the two programs.\n");
                return 2;
        }

        rig_make(&r);
        rig_start_agent(&r);
        rig_start_forwarder(&r);
        rig_start_proxy(&r);
        rig_wait_ready(&r, 2);
        pss[0] = rig_memory_kib(r.proxy, "Pss:");
        pss[1] = rig_memory_kib(r.forwarder, "Pss:");
        start_socats(&r, socats, socat_path, sizeof(socat_path));

        for (size_t i = 0; i < N_WAYS; i++) {
                ways[i].fd = connect_unix(i == WAY_DIRECT ? r.agent_socket : i == WAY_SOCAT ? socat_path : r.proxy_socket);
                ways[i].id = UINT32_MAX;        /* the first one is 1 */
                if (i == WAY_SOCAT)
                        memcpy(ways[i].pids, socats, sizeof(socats));
                else if (i == WAY_PROXY) {
                        ways[i].pids[0] = r.proxy;
                        ways[i].pids[1] = r.forwarder;
                }
                ways[i].small_usec = calloc(MAX(rounds, 1U) * N_SMALL + 100, sizeof(double));
                run_small(&ways[i], 100);
                ways[i].n_small = 0;
                ways[i].small_cpu_usec = 0;
        }

        for (unsigned round = 0; round < rounds; round++)
                for (size_t i = 0; i < N_WAYS; i++) {
                        Way *w = ways + (i + round) % N_WAYS;

                        run_small(w, N_SMALL);
                        run_big(w, 1);
                        run_big(w, 4);
                }

        printf("%u rounds; small: WriteStdin, %u calls a round; big: ReadStdout of 1 MiB, %u calls a round\n\n", rounds, N_SMALL, N_BIG);
        printf("%-24s %10s %10s %12s %12s\n", "", "p50 µs", "p99 µs", "MiB/s", "MiB/s, 4 deep");
        for (size_t i = 0; i < N_WAYS; i++) {
                Way *w = ways + i;

                qsort(w->small_usec, w->n_small, sizeof(double), compare);
                printf("%-24s %10.1f %10.1f %12.0f %12.0f\n", way_names[i], w->small_usec[w->n_small / 2],
                       w->small_usec[w->n_small * 99 / 100], w->n_big[0] * 1e6 / w->big_usec[0], w->n_big[1] * 1e6 / w->big_usec[1]);
        }
#define SMALL(i, percent) (ways[i].small_usec[ways[i].n_small * (percent) / 100])
        printf("\nproxy and forwarder against the pass-through (above 1 is better for throughput, below 1 for latency):\n"
               "  p50 %.2f, p99 %.2f, throughput %.2f, 4 deep %.2f\n",
               SMALL(WAY_PROXY, 50) / SMALL(WAY_SOCAT, 50), SMALL(WAY_PROXY, 99) / SMALL(WAY_SOCAT, 99),
               ways[WAY_SOCAT].big_usec[0] / ways[WAY_PROXY].big_usec[0], ways[WAY_SOCAT].big_usec[1] / ways[WAY_PROXY].big_usec[1]);
        printf("\nCPU time of both programs in between\n");
        for (size_t i = WAY_SOCAT; i < N_WAYS; i++)
                printf("%-24s %10.1f µs a small call, %.0f µs a MiB, %.0f µs a MiB four deep\n", way_names[i],
                       ways[i].small_cpu_usec / ways[i].n_small, ways[i].big_cpu_usec[0] / ways[i].n_big[0],
                       ways[i].big_cpu_usec[1] / ways[i].n_big[1]);
        printf("\nadded to a small call: p50 %.1f µs, p99 %.1f µs (pass-through: %.1f, %.1f)\n",
               SMALL(WAY_PROXY, 50) - SMALL(WAY_DIRECT, 50), SMALL(WAY_PROXY, 99) - SMALL(WAY_DIRECT, 99),
               SMALL(WAY_SOCAT, 50) - SMALL(WAY_DIRECT, 50), SMALL(WAY_SOCAT, 99) - SMALL(WAY_DIRECT, 99));
        printf("PSS when idle: proxy %zu KiB, forwarder %zu KiB; after the run: %zu, %zu\n", pss[0], pss[1],
               rig_memory_kib(r.proxy, "Pss:"), rig_memory_kib(r.forwarder, "Pss:"));

        if (syscalls) {
                count_syscalls(&r, r.proxy, "peerpod-agent-proxy", &ways[WAY_PROXY]);
                count_syscalls(&r, r.forwarder, "agent-protocol-forwarder", &ways[WAY_PROXY]);
                count_syscalls(&r, socats[1], "socat at the client's end", &ways[WAY_SOCAT]);
        }

        for (size_t i = 0; i < 2; i++) {
                (void) kill(socats[i], SIGKILL);
                (void) waitpid(socats[i], NULL, 0);
        }
        for (size_t i = 0; i < N_WAYS; i++) {
                close_fd(ways[i].fd);
                free(ways[i].small_usec);
        }
        rig_done(&r);
        return 0;
}
