/* SPDX-License-Identifier: Apache-2.0 */
/* The agent protocol through real processes: client, peerpod-agent-proxy, TLS, agent-protocol-forwarder, agent. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "agent-proxy/counters.h"
#include "agent-proxy/proxy-status.h"
#include "basic/io.h"
#include "basic/util.h"
#include "relay-rig.h"
#include "ttrpc/client.h"
#include "ttrpc/frame.h"
#include "ttrpc/relay.h"
#include "ttrpc/wire.h"

#define AGENT "grpc.AgentService"
#define CALL_USEC (20 * USEC_PER_SEC)

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ADDRESS_SANITIZER
#endif
#endif

static Rig rig;
static size_t own_fds;

static int setup(void **state) {
        own_fds = rig_count_fds(getpid());
        rig_make(&rig);
        rig_start_agent(&rig);
        return 0;
}

static int setup_all(void **state) {
        setup(state);
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 2);
        return 0;
}

/* SIGTERM and status 0, so that a leak checker in the daemons has its say. */
static bool ends_well(pid_t *pid) {
        int status = rig_stop(pid, SIGTERM);

        if (status != 0)
                print_error("A daemon ended with wait status 0x%x.\n", status);
        return status == 0;
}

static int teardown(void **state) {
        bool proxy_ok = ends_well(&rig.proxy), forwarder_ok = ends_well(&rig.forwarder);

        rig_done(&rig);
        if (!proxy_ok || !forwarder_ok)
                return -1;
        return rig_count_fds(getpid()) == own_fds ? 0 : -1;
}

static TtrpcClient* connect_client(sd_event *event) {
        TtrpcClient *c = NULL;

        assert_int_equal(ttrpc_client_new_unix(event, rig.proxy_socket, &c), 0);
        return c;
}

static int connect_raw(void) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);

        memcpy(sa.sun_path, rig.proxy_socket, strlen(rig.proxy_socket));
        assert_int_equal(connect(fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        return fd;
}

/* A Request for a raw connection. */
static size_t make_request(uint8_t *p, uint32_t id, const char *method, const void *payload, size_t size) {
        TtrpcRequest request = { .service = ttrpc_slice(AGENT), .method = ttrpc_slice(method), .payload = { payload, size } };
        size_t n = ttrpc_request_size(&request);

        ttrpc_header_write(&(TtrpcHeader) { .length = n, .stream_id = id, .type = TTRPC_TYPE_REQUEST }, p);
        ttrpc_request_write(&request, p + TTRPC_HEADER_SIZE);
        return TTRPC_HEADER_SIZE + n;
}

static size_t make_read_payload(uint8_t *p, uint32_t n) {
        uint8_t *start = p;

        *p++ = 3 << 3;
        for (; n > 0x7f; n >>= 7)
                *p++ = (n & 0x7f) | 0x80;
        *p++ = n;
        return p - start;
}

static int call(TtrpcClient *c, const char *method, const void *payload, size_t size, TtrpcResult *ret) {
        *ret = TTRPC_RESULT_NULL;
        return ttrpc_client_call_sync(c, AGENT, method, payload, size, CALL_USEC, NULL, ret);
}

static void frames_of_any_size_pass_both_ways(void **state) {
        static const size_t sizes[] = { 0, 1, 100, 4096, 16384, 65536, 131072 - 100, 131072, 131073, 1 << 20, (4 << 20) - 100 };
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(NULL);
        uint8_t *data = malloc(4 << 20);

        for (size_t i = 0; i < 4 << 20; i++)
                data[i] = i * 2654435761u >> 13;
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                TtrpcResult result;

                assert_int_equal(call(c, "Echo", data, sizes[i], &result), 0);
                assert_int_equal(result.size, sizes[i]);
                if (sizes[i] > 0)
                        assert_memory_equal(result.payload, data, sizes[i]);
                ttrpc_result_done(&result);
        }
        free(data);
}

static void unknown_methods_and_statuses_pass(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(NULL);
        TtrpcResult result;

        assert_int_equal(call(c, "MethodOfTheFuture", "x", 1, &result), -EREMOTEIO);
        assert_int_equal(result.code, TTRPC_UNIMPLEMENTED);
        assert_string_equal(result.message, "method MethodOfTheFuture");
        ttrpc_result_done(&result);
}

typedef struct Many {
        unsigned n_open, n_done, n_failed;
        int last_code;
        sd_event *event;
        unsigned n_wanted;
} Many;

static uint64_t counted(ProxyCounter which) {
        ProxyValues v;

        assert_int_equal(proxy_counters_read(rig.dir, &v), 0);
        return v.values[which];
}

static void wait_for_count(ProxyCounter which, uint64_t value) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + 60 * USEC_PER_SEC;

        while (counted(which) != value) {
                assert_true(now_usec(CLOCK_MONOTONIC) < end);
                (void) poll(NULL, 0, 10);
        }
}

static void what_passes_is_counted(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(NULL);
        uint8_t data[1000] = {};
        TtrpcResult result;

        for (int i = 0; i < 3; i++) {
                assert_int_equal(call(c, "Echo", data, sizeof(data), &result), 0);
                ttrpc_result_done(&result);
        }
        assert_int_equal(call(c, "MethodOfTheFuture", "x", 1, &result), -EREMOTEIO);
        ttrpc_result_done(&result);

        wait_for_count(PROXY_CALLS_IN_FLIGHT, 0);
        assert_int_equal(counted(PROXY_CALLS), 4);              /* and not the proxy's own Check */
        assert_int_equal(counted(PROXY_CALLS_FAILED), 1);
        assert_in_range(counted(PROXY_BYTES_TO_VM), 3 * sizeof(data), 4 * sizeof(data));
        assert_in_range(counted(PROXY_BYTES_FROM_VM), 3 * sizeof(data), 4 * sizeof(data));
        assert_int_equal(counted(PROXY_CONNECTIONS), 1);
        assert_int_equal(counted(PROXY_LINKS), 1);
        assert_int_equal(counted(PROXY_LINKS_LOST), 0);
        assert_int_equal(counted(PROXY_LINK_UP), 1);
        assert_true(counted(PROXY_BOOT_USEC) > 0);

        (void) rig_stop(&rig.forwarder, SIGKILL);
        wait_for_count(PROXY_LINKS_LOST, 1);
        rig_start_forwarder(&rig);
        rig_wait_ready(&rig, 1);
        wait_for_count(PROXY_LINK_UP, 1);
        assert_in_range(counted(PROXY_LINKS), 2, 100);          /* more, where it is caught at its start */
}

static void on_many(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Many *m = userdata;

        m->n_done++;
        if (reply->error < 0)
                m->n_failed++;
        m->last_code = reply->code;
        if (m->n_done == m->n_wanted)
                (void) sd_event_exit(m->event, 0);
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata) {
        return sd_event_exit(sd_event_source_get_event(s), -ETIMEDOUT);
}

static void loop_with_deadline(sd_event *event, uint64_t usec) {
        sd_event_source *s = NULL;
        int r;

        assert_true(sd_event_add_time_relative(event, &s, CLOCK_MONOTONIC, usec, 0, on_deadline, NULL) >= 0);
        r = sd_event_loop(event);
        sd_event_source_disable_unref(s);
        assert_int_equal(r, 0);
}

/* For an event loop that is needed afterwards. */
static void run_until_done(sd_event *event, const Many *m, unsigned n) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + CALL_USEC;

        while (m->n_done < n) {
                assert_true(sd_event_run(event, 100000) >= 0);
                assert_true(now_usec(CLOCK_MONOTONIC) < end);
        }
}

static void two_hundred_calls_at_once_beside_long_polls(void **state) {
        sd_event *event = NULL;
        TtrpcClient *clients[4];
        Many polls = {}, calls = { .n_wanted = 200 };
        uint8_t payload[8], *big = calloc(1, 1 << 20);
        size_t n;

        assert_int_equal(sd_event_new(&event), 0);
        polls.event = calls.event = event;
        for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                clients[i] = connect_client(event);

        for (size_t i = 0; i < 200; i++)
                assert_int_equal(ttrpc_client_call(clients[i % 4], AGENT, i % 2 ? "WaitProcess" : "GetOOMEvent", NULL, 0, 0, NULL,
                                                   on_many, &polls, NULL), 0);
        for (size_t i = 0; i < 200; i++) {
                n = make_read_payload(payload, i % 3 == 0 ? 300000 : 10);
                if (i % 10 == 7)
                        assert_int_equal(ttrpc_client_call(clients[i % 4], AGENT, "WriteStdin", big, 1 << 20, CALL_USEC, NULL,
                                                           on_many, &calls, NULL), 0);
                else
                        assert_int_equal(ttrpc_client_call(clients[i % 4], AGENT, "ReadStdout", payload, n, CALL_USEC, NULL,
                                                           on_many, &calls, NULL), 0);
        }
        loop_with_deadline(event, CALL_USEC);
        assert_int_equal(calls.n_done, 200);
        assert_int_equal(calls.n_failed, 0);
        assert_int_equal(polls.n_done, 0);

        for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                ttrpc_client_free(clients[i]);
        sd_event_unref(event);
        free(big);
}

static void what_big_answers_have_taken_goes_back_to_the_kernel(void **state) {
        sd_event *event = NULL;
        TtrpcClient *c;
        Many calls = { .n_wanted = 32 };
        uint8_t payload[8];
        size_t n = make_read_payload(payload, 1 << 20), before = rig_memory_kib(rig.proxy, "Rss:"), after;
        uint64_t end;

        assert_int_equal(sd_event_new(&event), 0);
        calls.event = event;
        c = connect_client(event);
        for (unsigned i = 0; i < calls.n_wanted; i++)
                assert_int_equal(ttrpc_client_call(c, AGENT, "ReadStdout", payload, n, CALL_USEC, NULL, on_many, &calls, NULL), 0);
        loop_with_deadline(event, CALL_USEC);
        assert_int_equal(calls.n_done, 32);
        assert_int_equal(calls.n_failed, 0);

        end = now_usec(CLOCK_MONOTONIC) + CALL_USEC;
        do {
                (void) poll(NULL, 0, 50);
                after = rig_memory_kib(rig.proxy, "Rss:");
#ifdef WITH_ADDRESS_SANITIZER   /* which keeps what was freed */
                break;
#endif
                assert_true(now_usec(CLOCK_MONOTONIC) < end);
        } while (after > before + 2048);
        print_message("proxy's RSS after big answers: %zu KiB, before %zu KiB\n", after, before);

        ttrpc_client_free(c);
        sd_event_unref(event);
}

static void one_that_does_not_read_stops_nobody(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(NULL);
        uint8_t frame[128], payload[8];
        int fd = connect_raw();
        size_t size = make_read_payload(payload, 1 << 20), before = rig_memory_kib(rig.proxy, "Rss:"), after;
        TtrpcResult result;
        uint32_t id = 1;

        /* Four answers of 1 MiB are below the limit at which others would be held up; what is asked for after that is not read. */
        for (unsigned i = 0; i < 4; i++, id += 2) {
                size_t n = make_request(frame, id, "ReadStdout", payload, size);
                assert_int_equal(send(fd, frame, n, MSG_NOSIGNAL), n);
        }
        for (unsigned i = 0; i < 20; i++) {
                assert_int_equal(call(c, "Echo", "hello", 5, &result), 0);
                ttrpc_result_done(&result);
        }
        for (unsigned i = 0; i < 500; i++, id += 2) {
                size_t n = make_request(frame, id, "ReadStdout", payload, size);
                if (send(fd, frame, n, MSG_NOSIGNAL|MSG_DONTWAIT) != (ssize_t) n)
                        break;
        }
        for (unsigned i = 0; i < 20; i++) {
                assert_int_equal(call(c, "Echo", "hello", 5, &result), 0);
                ttrpc_result_done(&result);
        }
        after = rig_memory_kib(rig.proxy, "Rss:");
#ifndef WITH_ADDRESS_SANITIZER  /* which keeps what was freed */
        assert_true(after < before + RELAY_CONNECTION_MEMORY_MAX / 1024 + 8192);
#endif
        print_message("proxy's RSS with a client that does not read: %zu KiB, before %zu KiB\n", after, before);
        close_fd(fd);
}

static void a_slow_reader_gets_everything(void **state) {
        uint8_t frame[128], payload[8], buffer[20000];
        int fd = connect_raw();
        size_t size = make_read_payload(payload, 1 << 20), got = 0, wanted = 0;

        for (uint32_t i = 0; i < 30; i++) {
                size_t n = make_request(frame, 1 + 2 * i, "ReadStdout", payload, size);
                assert_int_equal(send(fd, frame, n, MSG_NOSIGNAL), n);
        }
        wanted = 30 * (TTRPC_HEADER_SIZE + 4 + (1 << 20));      /* payload's tag and length: 4 bytes */
        while (got < wanted) {
                ssize_t n;

                assert_int_equal(poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 10000), 1);
                n = recv(fd, buffer, sizeof(buffer), 0);
                assert_true(n > 0);
                got += n;
                if (got % 7 == 0)
                        (void) poll(NULL, 0, 1);
        }
        assert_int_equal(got, wanted);
        close_fd(fd);
}

static void a_half_closed_client_gets_its_answers(void **state) {
        uint8_t frame[128], payload[8], buffer[65536];
        int fd = connect_raw();
        size_t size = make_read_payload(payload, 500000), got = 0;
        size_t n = make_request(frame, 1, "ReadStdout", payload, size);
        ssize_t k;

        assert_int_equal(send(fd, frame, n, MSG_NOSIGNAL), n);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        do {
                assert_int_equal(poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 10000), 1);
                k = recv(fd, buffer, sizeof(buffer), 0);
                assert_true(k >= 0);
                got += k;
        } while (k > 0);
        assert_int_equal(got, TTRPC_HEADER_SIZE + 4 + 500000);
        close_fd(fd);
}

static void an_oversize_frame_ends_its_call_only(void **state) {
        uint8_t head[TTRPC_HEADER_SIZE], frame[128], answer[512], *junk = calloc(1, (4 << 20) + 1);
        int fd = connect_raw();
        TtrpcResponse response;
        TtrpcHeader h;
        size_t done = 0;

        ttrpc_header_write(&(TtrpcHeader) { .length = (4 << 20) + 1, .stream_id = 1, .type = TTRPC_TYPE_REQUEST }, head);
        assert_int_equal(send(fd, head, sizeof(head), MSG_NOSIGNAL), sizeof(head));
        while (done < (4 << 20) + 1) {
                ssize_t k = send(fd, junk + done, (4 << 20) + 1 - done, MSG_NOSIGNAL);
                assert_true(k > 0);
                done += k;
        }
        assert_int_equal(recv(fd, answer, TTRPC_HEADER_SIZE, MSG_WAITALL), TTRPC_HEADER_SIZE);
        assert_int_equal(ttrpc_header_parse(answer, TTRPC_HEADER_SIZE, &h), TTRPC_HEADER_SIZE);
        assert_int_equal(h.stream_id, 1);
        assert_int_equal(recv(fd, answer, h.length, MSG_WAITALL), h.length);
        assert_true(ttrpc_response_parse(answer, h.length, &response) > 0);
        assert_int_equal(response.code, TTRPC_RESOURCE_EXHAUSTED);
        assert_true(ttrpc_slice_is(response.message, "message length 4194305 exceed maximum message size of 4194304"));

        done = make_request(frame, 3, "Echo", "ok", 2);
        assert_int_equal(send(fd, frame, done, MSG_NOSIGNAL), done);
        assert_int_equal(recv(fd, answer, TTRPC_HEADER_SIZE, MSG_WAITALL), TTRPC_HEADER_SIZE);
        assert_int_equal(ttrpc_header_parse(answer, TTRPC_HEADER_SIZE, &h), TTRPC_HEADER_SIZE);
        assert_int_equal(h.stream_id, 3);
        close_fd(fd);
        free(junk);
}

static void requests_are_edited_on_their_way(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(NULL);
        _cleanup_(freep) uint8_t *oci = NULL;
        char source[160];
        uint8_t request[512];
        size_t n_oci = 0, n;
        TtrpcResult result;
        struct stat st;
        static const char ns[] = "\x32\x1b\x0a\x07" "network" "\x12\x10" "/run/netns/podns";

        /* No OCI part at all. */
        assert_int_equal(call(c, "CreateContainer", "\x0a\x01" "c", 3, &result), -EREMOTEIO);
        assert_int_equal(result.code, TTRPC_INVALID_ARGUMENT);
        ttrpc_result_done(&result);

        /* { container_id: "c", OCI { Mounts { destination source type: "bind" }, Linux {}, field 99: 7 } }; GPUs asked for */
        (void) snprintf(source, sizeof(source), "%s/made/by/forwarder", rig.dir);
        {
                uint8_t mount[256], *p = mount;

                *p++ = 0x0a; *p++ = 2; memcpy(p, "/d", 2); p += 2;
                *p++ = 0x12; *p++ = strlen(source); memcpy(p, source, strlen(source)); p += strlen(source);
                *p++ = 0x1a; *p++ = 4; memcpy(p, "bind", 4); p += 4;
                assert_int_equal(wire_add_pair(&oci, &n_oci, 7, "io.katacontainers.config.hypervisor.default_gpus", "2"), 0);
                oci = realloc(oci, n_oci + 300);
                oci[n_oci++] = 0x2a; oci[n_oci++] = p - mount;
                memcpy(oci + n_oci, mount, p - mount); n_oci += p - mount;
                oci[n_oci++] = 0x42; oci[n_oci++] = 0;
                memcpy(oci + n_oci, "\x98\x06\x07", 3); n_oci += 3;
        }
        n = 0;
        memcpy(request, "\x0a\x01" "c" "\x32", 4); n = 4;
        request[n++] = (n_oci & 0x7f) | 0x80; request[n++] = n_oci >> 7;
        memcpy(request + n, oci, n_oci); n += n_oci;

        assert_int_equal(call(c, "CreateContainer", request, n, &result), 0);
        assert_non_null(memmem(result.payload, result.size, ns, sizeof(ns) - 1));
        assert_non_null(memmem(result.payload, result.size, "cdi.k8s.io/peer-pods\x12\x12nvidia.com/gpu=all", 40));
        assert_non_null(memmem(result.payload, result.size, "\x98\x06\x07", 3));
        assert_int_equal(stat(source, &st), 0);
        ttrpc_result_done(&result);

        /* Volumes that cannot be understood are refused, not ignored. */
        {
                _cleanup_(freep) uint8_t *more = NULL, *with = NULL;
                size_t n_more = 0, n_with;

                assert_int_equal(wire_add_pair(&more, &n_more, 7, "io.confidentialcontainers.org.cloud_volumes", "{\"v\":{}}"), 0);
                assert_int_equal(wire_append((TtrpcSlice) { request, n }, (const uint32_t[]) { 6, 0 }, (TtrpcSlice) { more, n_more },
                                             &with, &n_with), 0);
                assert_int_equal(call(c, "CreateContainer", with, n_with, &result), -EREMOTEIO);
                assert_int_equal(result.code, TTRPC_INVALID_ARGUMENT);
                assert_non_null(strstr(result.message, "corrupt cloud_volumes annotation"));
                ttrpc_result_done(&result);
        }

        /* { hostname: "h", dns: ["1.1.1.1", "8.8.8.8"], sandbox_id: "s" } */
        assert_int_equal(call(c, "CreateSandbox", "\x0a\x01h\x12\x07" "1.1.1.1" "\x12\x07" "8.8.8.8" "\x2a\x01s", 24, &result), 0);
        assert_int_equal(result.size, 6);
        assert_memory_equal(result.payload, "\x0a\x01h\x2a\x01s", 6);
        ttrpc_result_done(&result);
        assert_int_equal(call(c, "CreateSandbox", "\x0a\x01h", 3, &result), -EREMOTEIO);
        assert_int_equal(result.code, TTRPC_FAILED_PRECONDITION);
        ttrpc_result_done(&result);
}

static void the_agents_death_is_told_and_healed(void **state) {
        sd_event *event = NULL;
        TtrpcClient *c;
        Many polls = { .n_wanted = 20 };
        TtrpcResult result;

        assert_int_equal(sd_event_new(&event), 0);
        polls.event = event;
        c = connect_client(event);
        for (size_t i = 0; i < 20; i++)
                assert_int_equal(ttrpc_client_call(c, AGENT, "WaitProcess", NULL, 0, 0, NULL, on_many, &polls, NULL), 0);
        assert_int_equal(ttrpc_client_call_sync(c, AGENT, "Echo", "x", 1, CALL_USEC, NULL, &result), 0);
        ttrpc_result_done(&result);

        (void) rig_stop(&rig.agent, SIGKILL);
        loop_with_deadline(event, CALL_USEC);
        assert_int_equal(polls.n_failed, 20);
        assert_int_equal(polls.last_code, TTRPC_UNAVAILABLE);
        c = ttrpc_client_free(c);
        event = sd_event_unref(event);

        /* The proxy's clients wait in the backlog until the agent is there again. */
        c = connect_client(NULL);
        rig_start_agent(&rig);
        assert_int_equal(call(c, "Echo", "again", 5, &result), 0);
        ttrpc_result_done(&result);
        ttrpc_client_free(c);
}

/* A killed forwarder takes the agent's calls with it; what comes after it waits for its successor, on the same connection. */
static void the_forwarders_death_is_told_and_healed(void **state) {
        sd_event *event = NULL;
        Many polls = {};
        TtrpcResult result;
        TtrpcClient *c;

        assert_int_equal(sd_event_new(&event), 0);
        polls.event = event;
        c = connect_client(event);
        for (size_t i = 0; i < 20; i++)
                assert_int_equal(ttrpc_client_call(c, AGENT, "WaitProcess", NULL, 0, 0, NULL, on_many, &polls, NULL), 0);
        assert_int_equal(ttrpc_client_call_sync(c, AGENT, "Echo", "x", 1, CALL_USEC, NULL, &result), 0);
        ttrpc_result_done(&result);

        (void) rig_stop(&rig.forwarder, SIGKILL);
        rig_start_forwarder(&rig);
        run_until_done(event, &polls, 20);
        assert_int_equal(polls.n_failed, 20);
        assert_int_equal(polls.last_code, TTRPC_UNAVAILABLE);

        assert_int_equal(ttrpc_client_call_sync(c, AGENT, "Echo", "again", 5, CALL_USEC, NULL, &result), 0);
        ttrpc_result_done(&result);
        ttrpc_client_free(c);
        sd_event_unref(event);
}

static void wait_for_log(const char *path, const char *text) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + CALL_USEC;

        for (;;) {
                _cleanup_(freep) char *log = NULL;
                char status[512];

                while (recv(rig.notify_fd, status, sizeof(status), MSG_DONTWAIT) > 0)
                        ;               /* a daemon waits in sd_notify() when nobody reads */
                if (read_full_file_at(AT_FDCWD, path, 1 << 20, &log, NULL) >= 0 && strstr(log, text))
                        return;
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("not in the log: %s; but: %s", text, log ?: "");
                (void) poll(NULL, 0, 10);
        }
}

static void an_agent_that_ends_after_destroy_is_no_event(void **state) {
        _cleanup_(freep) char *log = NULL;
        char path[96];
        TtrpcResult result;
        TtrpcClient *c;

        (void) snprintf(path, sizeof(path), "%s/log", rig.dir);
        rig.proxy_log = path;
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 2);

        /* One that ends without being asked is. */
        (void) rig_stop(&rig.agent, SIGKILL);
        wait_for_log(path, "<4>Link to the pod VM lost: closed by the pod VM. Connecting again.\n");
        rig_start_agent(&rig);
        wait_for_log(path, "<5>The agent in the pod VM answers again, after ");

        c = connect_client(NULL);
        assert_int_equal(call(c, "CreateSandbox", "\x2a\x01s", 3, &result), 0);
        ttrpc_result_done(&result);
        (void) call(c, "DestroySandbox", NULL, 0, &result);
        ttrpc_result_done(&result);
        assert_int_equal(rig_wait(&rig.agent, 10000), 0);
        wait_for_log(path, "<6>Link to the pod VM ended after DestroySandbox: closed by the pod VM.\n");
        ttrpc_client_free(c);

        assert_int_equal(read_full_file_at(AT_FDCWD, path, 1 << 20, &log, NULL), 0);
        assert_null(strstr(strstr(log, "<4>") + 1, "<4>"));
}

/* The agent of the rig answers at once, unless it is stopped. */
static void a_container_that_takes_long_to_create_is_told_of_at_half_time(void **state) {
        sd_event *event = NULL;
        Many calls = {};
        char path[96];
        TtrpcClient *c;

        (void) snprintf(path, sizeof(path), "%s/log", rig.dir);
        rig.proxy_log = path;
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 2);
        assert_int_equal(sd_event_new(&event), 0);
        c = connect_client(event);

        /* container_id "web", OCI { Linux {} } */
        assert_int_equal(kill(rig.agent, SIGSTOP), 0);
        assert_int_equal(ttrpc_client_call(c, AGENT, "CreateContainer", "\x0a\x03web\x32\x02\x42\x00", 9, 2 * USEC_PER_SEC, NULL,
                                           on_many, &calls, NULL), 0);
        assert_true(sd_event_run(event, 0) >= 0);
        wait_for_log(path, "<4>CreateContainer of 'web' has taken half of its 2.000s.\n");
        assert_int_equal(kill(rig.agent, SIGCONT), 0);
        run_until_done(event, &calls, 1);
        ttrpc_client_free(c);
        sd_event_unref(event);
}

static void daemons_end_in_good_order(void **state) {
        sd_event *event = NULL;
        TtrpcClient *c;
        Many polls = { .n_wanted = 1 };
        uint64_t begin;
        int status;

        assert_int_equal(sd_event_new(&event), 0);
        polls.event = event;
        c = connect_client(event);
        assert_int_equal(ttrpc_client_call(c, AGENT, "WaitProcess", NULL, 0, 0, NULL, on_many, &polls, NULL), 0);
        assert_true(sd_event_run(event, 100000) >= 0);

        begin = now_usec(CLOCK_MONOTONIC);
        status = rig_stop(&rig.proxy, SIGTERM);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        status = rig_stop(&rig.forwarder, SIGTERM);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        assert_true(now_usec(CLOCK_MONOTONIC) - begin < 3 * USEC_PER_SEC);

        loop_with_deadline(event, CALL_USEC);
        assert_int_equal(polls.last_code, TTRPC_UNAVAILABLE);
        ttrpc_client_free(c);
        sd_event_unref(event);
}

static void nothing_leaks_over_many_clients(void **state) {
        size_t proxy_fds, forwarder_fds;
        TtrpcResult result;

        {
                _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(NULL);
                assert_int_equal(call(c, "Echo", "x", 1, &result), 0);
                ttrpc_result_done(&result);
                proxy_fds = rig_count_fds(rig.proxy);
                forwarder_fds = rig_count_fds(rig.forwarder);
        }

        for (size_t i = 0; i < 300; i++) {
                uint8_t frame[128];
                int fd = connect_raw();
                size_t n = make_request(frame, 1, i % 2 ? "WaitProcess" : "Echo", "abc", 3);

                assert_int_equal(send(fd, frame, i % 3 ? n : n / 2, MSG_NOSIGNAL), i % 3 ? n : n / 2);
                close_fd(fd);
        }

        {
                _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(NULL);
                assert_int_equal(call(c, "Echo", "x", 1, &result), 0);
                ttrpc_result_done(&result);
                assert_int_equal(rig_count_fds(rig.proxy), proxy_fds);
                assert_int_equal(rig_count_fds(rig.forwarder), forwarder_fds);
        }
}

static void junk_closes_only_its_own_connection(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(NULL);
        static const char client_hello[] = "\x16\x03\x01\x00\x8a\x01\x00\x00\x86\x03\x03";
        int fd = connect_raw();
        TtrpcResult result;
        char b;

        assert_int_equal(send(fd, client_hello, sizeof(client_hello) - 1, MSG_NOSIGNAL), sizeof(client_hello) - 1);
        assert_int_equal(poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 5000), 1);
        assert_int_equal(recv(fd, &b, 1, 0), 0);
        close_fd(fd);
        assert_int_equal(call(c, "Echo", "x", 1, &result), 0);
        ttrpc_result_done(&result);
}

static void a_client_that_comes_early_waits(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = NULL;
        TtrpcResult result;

        (void) rig_stop(&rig.agent, SIGKILL);
        rig_start_proxy(&rig);
        c = connect_client(NULL);
        rig_start_forwarder(&rig);
        rig_wait_ready(&rig, 1);        /* the forwarder; the proxy is not ready without an agent */
        assert_int_equal(poll(&(struct pollfd) { .fd = rig.notify_fd, .events = 0 }, 1, 0), 0);
        rig_start_agent(&rig);
        assert_int_equal(call(c, "Echo", "early", 5, &result), 0);
        ttrpc_result_done(&result);
}

/* What a pod VM says is not for the service manager, which takes each line for a field (sd_notify(3)). */
static void a_vm_cannot_notify_the_service_manager(void **state) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + CALL_USEC;
        char path[96], text[1024] = "";

        (void) rig_stop(&rig.agent, SIGKILL);
        (void) snprintf(path, sizeof(path), "%s/log", rig.dir);
        rig.proxy_log = path;
        rig.check_error = "not yet\nREADY=1";
        rig_start_agent(&rig);
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        while (!strstr(text, "not yet")) {
                ssize_t n = recv(rig.notify_fd, text, sizeof(text) - 1, MSG_DONTWAIT);

                text[MAX(n, 0)] = '\0';
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("the trouble was not told");
                if (n < 0)
                        (void) poll(NULL, 0, 10);
        }
        assert_string_equal(text, "STATUS=Waiting for the pod VM: Health.Check: not yet?READY=1");
        wait_for_log(path, "<6>Waiting for the pod VM: Health.Check: not yet?READY=1.\n");
}

static void wait_for_status(const char *status) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + CALL_USEC;
        char text[1024] = "";

        while (!streq(text, status)) {
                ssize_t n = recv(rig.notify_fd, text, sizeof(text) - 1, MSG_DONTWAIT);

                text[MAX(n, 0)] = '\0';
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("never told: %s", status);
                if (n < 0)
                        (void) poll(NULL, 0, 10);
        }
}

/* The adaptor learns from it whether there is a shim. */
static void the_service_manager_is_told_of_clients(void **state) {
        TtrpcClient *c = connect_client(NULL);
        TtrpcResult result;

        assert_int_equal(call(c, "Echo", "hello", 5, &result), 0);
        ttrpc_result_done(&result);
        wait_for_status("STATUS=" PROXY_STATUS_CONNECTED "1");
        ttrpc_client_free(c);
        wait_for_status("STATUS=" PROXY_STATUS_CONNECTED "0");
}

static void a_vm_that_never_answers_ends_the_proxy(void **state) {
        int status;

        rig.connect_timeout_usec = USEC_PER_SEC;
        rig_write_config(&rig);
        rig_start_proxy(&rig);          /* connected by the listening socket's backlog, but nobody shakes hands */
        status = rig_wait(&rig.proxy, 5000);
        assert_true(status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

static void another_clients_certificate_is_refused(void **state) {
        TestCert good = rig.client;
        int status;

        rig_start_forwarder(&rig);
        rig_wait_ready(&rig, 1);
        rig.client = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT });
        rig.connect_timeout_usec = USEC_PER_SEC;
        rig_write_config(&rig);
        rig_start_proxy(&rig);
        status = rig_wait(&rig.proxy, 5000);
        assert_true(status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 1);
        test_cert_done(&good);
}

static void tls_may_be_off(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = NULL;
        TtrpcResult result;

        rig.tls = false;
        rig_write_config(&rig);
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 2);
        c = connect_client(NULL);
        assert_int_equal(call(c, "Echo", "x", 1, &result), 0);
        ttrpc_result_done(&result);
}

static void tls_may_not_be_off_unless_the_image_says_so(void **state) {
        int status;

        rig.tls = false;
        rig.tls_off_is_forbidden = true;
        rig_write_config(&rig);
        rig_start_forwarder(&rig);
        status = rig_wait(&rig.forwarder, 60000);
        assert_true(status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 78);
}

static void an_upstream_forwarder_serves_our_proxy(void **state) {
        static const char *const versions[] = { "VersionTLS13", "VersionTLS12" };
        uint8_t *payload = calloc(1, 3 << 20);

        /* BytesValue { value: 3 MiB - 5 } */
        memcpy(payload, "\x0a\xfb\xff\xbf\x01", 5);
        for (size_t i = 0; i < ELEMENTSOF(versions); i++) {
                _cleanup_(ttrpc_client_freep) TtrpcClient *c = NULL;
                TtrpcResult result;

                rig.tls_min_version = versions[i];
                rig_write_config(&rig);
                rig_start_go_forwarder(&rig);
                rig_start_proxy(&rig);
                rig_wait_ready(&rig, 1);
                c = connect_client(NULL);
                for (size_t k = 0; k < 20; k++) {
                        assert_int_equal(call(c, "Echo", payload, 3 << 20, &result), 0);
                        assert_int_equal(result.size, 3 << 20);
                        assert_memory_equal(result.payload, payload, 3 << 20);
                        ttrpc_result_done(&result);
                }
                assert_int_equal(rig_stop(&rig.proxy, SIGTERM), 0);
                (void) rig_stop(&rig.forwarder, SIGKILL);
        }
        free(payload);
}

static void an_upstream_worker_uses_our_forwarder(void **state) {
        static const char *const versions[] = { "VersionTLS13", "VersionTLS12" };

        for (size_t i = 0; i < ELEMENTSOF(versions); i++) {
                rig.tls_min_version = versions[i];
                rig_write_config(&rig);
                rig_start_forwarder(&rig);
                rig_wait_ready(&rig, 1);
                assert_int_equal(rig_run_go_proxy(&rig), 0);
                assert_int_equal(rig_stop(&rig.forwarder, SIGTERM), 0);
        }
}

static void the_forwarder_needs_a_client_ca(void **state) {
        char path[160];
        int status;

        (void) snprintf(path, sizeof(path), "%s/apf.json", rig.credentials);
        assert_int_equal(write_file_atomic(path, "{\"pod-network\":null}", 20, 0600), 0);
        rig_start_forwarder(&rig);
        status = rig_wait(&rig.forwarder, 5000);
        assert_true(status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 78);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(frames_of_any_size_pass_both_ways, setup_all, teardown),
                cmocka_unit_test_setup_teardown(unknown_methods_and_statuses_pass, setup_all, teardown),
                cmocka_unit_test_setup_teardown(what_passes_is_counted, setup_all, teardown),
                cmocka_unit_test_setup_teardown(two_hundred_calls_at_once_beside_long_polls, setup_all, teardown),
                cmocka_unit_test_setup_teardown(what_big_answers_have_taken_goes_back_to_the_kernel, setup_all, teardown),
                cmocka_unit_test_setup_teardown(one_that_does_not_read_stops_nobody, setup_all, teardown),
                cmocka_unit_test_setup_teardown(a_slow_reader_gets_everything, setup_all, teardown),
                cmocka_unit_test_setup_teardown(a_half_closed_client_gets_its_answers, setup_all, teardown),
                cmocka_unit_test_setup_teardown(an_oversize_frame_ends_its_call_only, setup_all, teardown),
                cmocka_unit_test_setup_teardown(requests_are_edited_on_their_way, setup_all, teardown),
                cmocka_unit_test_setup_teardown(junk_closes_only_its_own_connection, setup_all, teardown),
                cmocka_unit_test_setup_teardown(nothing_leaks_over_many_clients, setup_all, teardown),
                cmocka_unit_test_setup_teardown(the_agents_death_is_told_and_healed, setup_all, teardown),
                cmocka_unit_test_setup_teardown(the_forwarders_death_is_told_and_healed, setup_all, teardown),
                cmocka_unit_test_setup_teardown(daemons_end_in_good_order, setup_all, teardown),
                cmocka_unit_test_setup_teardown(an_agent_that_ends_after_destroy_is_no_event, setup, teardown),
                cmocka_unit_test_setup_teardown(a_vm_cannot_notify_the_service_manager, setup, teardown),
                cmocka_unit_test_setup_teardown(the_service_manager_is_told_of_clients, setup_all, teardown),
                cmocka_unit_test_setup_teardown(a_container_that_takes_long_to_create_is_told_of_at_half_time, setup, teardown),
                cmocka_unit_test_setup_teardown(a_client_that_comes_early_waits, setup, teardown),
                cmocka_unit_test_setup_teardown(a_vm_that_never_answers_ends_the_proxy, setup, teardown),
                cmocka_unit_test_setup_teardown(another_clients_certificate_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(tls_may_be_off, setup, teardown),
                cmocka_unit_test_setup_teardown(tls_may_not_be_off_unless_the_image_says_so, setup, teardown),
                cmocka_unit_test_setup_teardown(an_upstream_forwarder_serves_our_proxy, setup, teardown),
                cmocka_unit_test_setup_teardown(an_upstream_worker_uses_our_forwarder, setup, teardown),
                cmocka_unit_test_setup_teardown(the_forwarder_needs_a_client_ca, setup, teardown),
        };

        (void) signal(SIGPIPE, SIG_IGN);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
