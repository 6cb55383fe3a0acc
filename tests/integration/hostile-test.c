/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile peers against the real proxy and forwarder: callers at the proxy's socket, strangers at the forwarder's port, and pod VMs
 * against their proxies. Each time a well-behaved caller is served meanwhile, memory is bounded, and nothing is left afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <cmocka.h>

#include "crowd.h"
#include "relay-rig.h"
#include "ttrpc/client.h"
#include "ttrpc/frame.h"
#include "ttrpc/relay.h"

#define AGENT "grpc.AgentService"
#define CALL_USEC (120 * USEC_PER_SEC)

/* What a crowd may cost: 64 connections with a buffer each, and 16 TLS handshakes. */
#define CROWD_KIB (24U * 1024U)

/* Reads what daemons tell their service manager, as systemd does all the time: the socket takes ten messages, and then they wait. */
typedef struct Drain {
        pthread_t thread;
        int fd;
        atomic_uint n_ready;
} Drain;

static void* drain_run(void *userdata) {
        Drain *d = userdata;
        char text[512];
        ssize_t n;

        while ((n = recv(d->fd, text, sizeof(text) - 1, 0)) > 0) {
                text[n] = '\0';
                if (strstr(text, "READY=1"))
                        d->n_ready++;
        }
        return NULL;
}

static void drain_start(Drain *d, const Rig *r) {
        *d = (Drain) { .fd = r->notify_fd };
        assert_int_equal(pthread_create(&d->thread, NULL, drain_run, d), 0);
}

static void drain_stop(Drain *d) {
        (void) shutdown(d->fd, SHUT_RD);        /* recv() returns 0 */
        (void) pthread_join(d->thread, NULL);
}

static void wait_ready(Drain *d, unsigned n) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + CROWD_PATIENCE_USEC;

        while (d->n_ready < n) {
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("%u daemons are ready, not %u", d->n_ready, n);
                (void) poll(NULL, 0, 5);
        }
}

static Rig rig;
static Drain drain;

static int setup(void **state) {
        rig_make(&rig);
        rig_start_agent(&rig);
        drain_start(&drain, &rig);
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        wait_ready(&drain, 2);
        return 0;
}

static bool ends_well(pid_t *pid) {
        int status = rig_stop(pid, SIGTERM);

        if (status != 0)
                print_error("A daemon ended with wait status 0x%x.\n", status);
        return status == 0;
}

static int teardown(void **state) {
        bool ok = ends_well(&rig.proxy);

        ok = ends_well(&rig.forwarder) && ok;
        drain_stop(&drain);
        rig_done(&rig);
        return ok ? 0 : -1;
}

static TtrpcClient* connect_client(const Rig *r) {
        TtrpcClient *c = NULL;

        assert_int_equal(ttrpc_client_new_unix(NULL, r->proxy_socket, &c), 0);
        return c;
}

static void expect_served(TtrpcClient *c, unsigned n) {
        for (unsigned i = 0; i < n; i++) {
                TtrpcResult result = TTRPC_RESULT_NULL;

                assert_int_equal(ttrpc_client_call_sync(c, AGENT, "Echo", "hello", 5, CALL_USEC, NULL, &result), 0);
                assert_int_equal(result.size, 5);
                ttrpc_result_done(&result);
        }
}

/* A whole Echo request. */
static size_t make_echo(uint8_t *p) {
        TtrpcRequest request = { .service = ttrpc_slice(AGENT), .method = ttrpc_slice("Echo"), .payload = ttrpc_slice("x") };
        size_t n = ttrpc_request_size(&request);

        ttrpc_header_write(&(TtrpcHeader) { .length = n, .stream_id = 1, .type = TTRPC_TYPE_REQUEST }, p);
        ttrpc_request_write(&request, p + TTRPC_HEADER_SIZE);
        return TTRPC_HEADER_SIZE + n;
}

/* ---- callers ----------------------------------------------------------------------------------------------------------------------- */

static void ten_thousand_callers_stop_nobody(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig), *beside = NULL, *later = NULL;
        Crowd crowd = crowd_of_unix(rig.proxy_socket);
        size_t fds, kib;

        expect_served(c, 1);
        fds = daemon_fds(rig.proxy);
        kib = daemon_memory_kib(rig.proxy);
        for (unsigned i = 0; i < 10; i++) {
                crowd_join(&crowd, CROWD_MAX / 10);
                expect_served(c, 5);
        }
        assert_true(crowd.n >= 1000);           /* what the socket's backlog takes */
        beside = connect_client(&rig);
        expect_served(beside, 5);
        check_memory(rig.proxy, kib, CROWD_KIB);

        crowd_leave(&crowd);
        ttrpc_client_free(TAKE_PTR(beside));
        wait_for_fds(rig.proxy, fds);
        later = connect_client(&rig);
        expect_served(later, 5);
        check_memory(rig.proxy, kib, CROWD_KIB);
}

static void lengths_of_four_gigabytes_are_not_believed(void **state) {
        static const uint8_t header[TTRPC_HEADER_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, TTRPC_TYPE_REQUEST, 0 };
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig);
        _cleanup_(freep) uint8_t *body = calloc(1, 1 << 20);
        Crowd crowd = crowd_of_unix(rig.proxy_socket);
        size_t fds, kib;

        expect_served(c, 1);
        fds = daemon_fds(rig.proxy);
        kib = daemon_memory_kib(rig.proxy);
        crowd_join(&crowd, 40);
        crowd_say(&crowd, header, sizeof(header));
        for (unsigned i = 0; i < 8; i++) {
                crowd_say(&crowd, body, 1 << 20);
                expect_served(c, 5);
        }
        check_memory(rig.proxy, kib, CROWD_KIB);
        crowd_leave(&crowd);
        wait_for_fds(rig.proxy, fds);
}

static void requests_may_dribble_in(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig);
        Crowd crowd = crowd_of_unix(rig.proxy_socket);
        uint8_t request[128];
        size_t n = make_echo(request), fds;

        expect_served(c, 1);
        fds = daemon_fds(rig.proxy);
        crowd_join(&crowd, 40);
        for (size_t i = 0; i < n; i++) {
                crowd_say(&crowd, request + i, 1);
                expect_served(c, 1);
        }
        /* And they are answered in the end. */
        for (size_t i = 0; i < crowd.n; i++) {
                uint8_t answer[64];

                assert_int_equal(poll(&(struct pollfd) { .fd = crowd.fds[i], .events = POLLIN }, 1, 120000), 1);
                assert_true(recv(crowd.fds[i], answer, sizeof(answer), 0) > (ssize_t) TTRPC_HEADER_SIZE);
                assert_int_equal(answer[8], TTRPC_TYPE_RESPONSE);
        }
        crowd_leave(&crowd);
        wait_for_fds(rig.proxy, fds);
}

static void half_closed_connections_go(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig);
        uint8_t request[128];
        size_t n = make_echo(request), fds;

        expect_served(c, 1);
        fds = daemon_fds(rig.proxy);
        /* Before, in the middle of, and behind a request. */
        for (size_t part = 0; part <= n; part += n / 2) {
                Crowd crowd = crowd_of_unix(rig.proxy_socket);

                crowd_join(&crowd, 40);
                crowd_say(&crowd, request, part);
                crowd_half_close(&crowd);
                expect_served(c, 5);
                for (size_t i = 0; i < crowd.n; i++) {
                        uint8_t answer[64];

                        do {
                                assert_int_equal(poll(&(struct pollfd) { .fd = crowd.fds[i], .events = POLLIN }, 1, 120000), 1);
                        } while (recv(crowd.fds[i], answer, sizeof(answer), 0) > 0);
                }
                wait_for_fds(rig.proxy, fds);           /* though we still hold our ends */
                crowd_leave(&crowd);
        }
}

/* ---- strangers at the pod VM's port ------------------------------------------------------------------------------------------------ */

static void ten_thousand_strangers_stop_nobody(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig), *again = NULL;
        Crowd crowd = crowd_of_tcp(rig.port);
        size_t fds, kib;

        expect_served(c, 1);
        fds = daemon_fds(rig.forwarder);
        kib = daemon_memory_kib(rig.forwarder);
        for (unsigned i = 0; i < 10; i++) {
                crowd_join(&crowd, CROWD_MAX / 10);
                expect_served(c, 5);
        }
        assert_int_equal(crowd.n, CROWD_MAX);
        check_memory(rig.forwarder, kib, CROWD_KIB);
        assert_true(daemon_fds(rig.forwarder) < fds + 100);

        /* Who has the certificate comes in, though they are still there. */
        ttrpc_client_free(TAKE_PTR(c));
        assert_int_equal(rig_stop(&rig.proxy, SIGTERM), 0);
        rig_start_proxy(&rig);
        wait_ready(&drain, 3);
        again = connect_client(&rig);
        expect_served(again, 5);

        crowd_leave(&crowd);
        wait_for_fds(rig.forwarder, fds);
}

static void whatever_strangers_say_stops_nobody(void **state) {
        static const uint8_t hello[] = {        /* the beginning of a ClientHello of 64 KiB, in records of 16 KiB: RFC 8446, 4.1.2 and 5.1 */
                0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0xff, 0xfc, 0x03, 0x03,
        };
        static const struct {
                const void *data;
                size_t size;
                bool half_close;
        } cases[] = {
                { "\xff\xff\xff\xff\0\0\0\1\1\0", 10, false },
                { "\0\0\0\x10\0\0\0\1\1\0", 10, false },
                { "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27, false },
                { "\x16\x03\x01\xff\xff", 5, false },
                { hello, sizeof(hello), false },
                { hello, sizeof(hello), true },
                { "\x15\x03\x03\x00\x02\x02\x28", 7, false },   /* an alert */
                { "\x80", 1, true },
                { "", 0, true },
        };
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig);
        _cleanup_(freep) uint8_t *junk = malloc(1 << 20);
        size_t fds, kib;

        for (size_t i = 0; i < 1 << 20; i++)
                junk[i] = i * 2654435761u >> 11;
        expect_served(c, 1);
        fds = daemon_fds(rig.forwarder);
        kib = daemon_memory_kib(rig.forwarder);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Crowd crowd = crowd_of_tcp(rig.port);

                crowd_join(&crowd, 30);
                crowd_say(&crowd, cases[i].data, cases[i].size);
                if (cases[i].half_close)
                        crowd_half_close(&crowd);
                else
                        crowd_say(&crowd, junk, 1 << 20);
                expect_served(c, 5);
                check_memory(rig.forwarder, kib, CROWD_KIB);
                crowd_leave(&crowd);
                wait_for_fds(rig.forwarder, fds);
        }
}

static void a_handshake_may_dribble_in(void **state) {
        static const uint8_t hello[] = { 0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03 };
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig);
        Crowd crowd = crowd_of_tcp(rig.port);
        size_t fds;

        expect_served(c, 1);
        fds = daemon_fds(rig.forwarder);
        crowd_join(&crowd, 16);
        for (size_t i = 0; i < 200; i++) {
                crowd_say(&crowd, i < sizeof(hello) ? hello + i : (const uint8_t*) "", 1);
                expect_served(c, 1);
        }
        crowd_leave(&crowd);
        wait_for_fds(rig.forwarder, fds);
}

/* ---- pod VMs ----------------------------------------------------------------------------------------------------------------------- */

/* The other end of a TLS connection with the VM's key, in a process of its own: answers Health.Check, and then does its worst. */

typedef struct Vm {
        gnutls_session_t session;
        int fd;
} Vm;

static void vm_send(Vm *vm, const void *data, size_t size) {
        while (size > 0) {
                ssize_t n = gnutls_record_send(vm->session, data, MIN(size, (size_t) 16384));

                if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
                        continue;
                if (n <= 0)
                        _exit(0);
                data = (const uint8_t*) data + n;
                size -= n;
        }
}

static void vm_send_frame(Vm *vm, uint32_t id, uint8_t type, const void *data, size_t size) {
        uint8_t header[TTRPC_HEADER_SIZE];

        ttrpc_header_write(&(TtrpcHeader) { .length = size, .stream_id = id, .type = type }, header);
        vm_send(vm, header, sizeof(header));
        vm_send(vm, data, size);
}

static void vm_read(Vm *vm, void *data, size_t size) {
        while (size > 0) {
                ssize_t n = gnutls_record_recv(vm->session, data, size);

                if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
                        continue;
                if (n <= 0)
                        _exit(0);
                data = (uint8_t*) data + n;
                size -= n;
        }
}

/* Returns the id of the next request; the method is left in @body. */
static uint32_t vm_read_request(Vm *vm, uint8_t *body, size_t max) {
        uint8_t header[TTRPC_HEADER_SIZE];
        TtrpcHeader h;

        vm_read(vm, header, sizeof(header));
        if (ttrpc_header_parse(header, sizeof(header), &h) <= 0 || h.length > max)
                _exit(2);
        vm_read(vm, body, h.length);
        return h.stream_id;
}

_Noreturn static void vm_stall(void) {
        for (;;)
                (void) pause();
}

static uint8_t megabyte[1 << 20];

static void vm_huge_length(Vm *vm, uint32_t id) {
        static const uint8_t header[TTRPC_HEADER_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, TTRPC_TYPE_RESPONSE, 0 };

        vm_send(vm, header, sizeof(header));
        for (unsigned i = 0; i < 256; i++)
                vm_send(vm, megabyte, sizeof(megabyte));
}

static void vm_largest_length_and_no_more(Vm *vm, uint32_t id) {
        uint8_t header[TTRPC_HEADER_SIZE];

        ttrpc_header_write(&(TtrpcHeader) { .length = TTRPC_DATA_MAX, .stream_id = id, .type = TTRPC_TYPE_RESPONSE }, header);
        vm_send(vm, header, sizeof(header));
        vm_send(vm, megabyte, sizeof(megabyte));
}

static void vm_answers_to_nobody(Vm *vm, uint32_t id) {
        for (unsigned i = 0; i < 256; i++)
                vm_send_frame(vm, 1000001 + 2 * i, TTRPC_TYPE_RESPONSE, megabyte, sizeof(megabyte));
}

static void vm_answers_for_ever(Vm *vm, uint32_t id) {
        for (unsigned i = 0; i < 256; i++)
                vm_send_frame(vm, id, TTRPC_TYPE_DATA, megabyte, sizeof(megabyte));
}

static void vm_odd_frames(Vm *vm, uint32_t id) {
        for (unsigned i = 0; i < 20000; i++)
                vm_send_frame(vm, i % 3 == 0 ? 2 : id + 2 * (i % 5), i % 7, megabyte, i % 11);
}

static void vm_requests(Vm *vm, uint32_t id) {
        for (unsigned i = 0; i < 1000; i++)
                vm_send_frame(vm, 2 * i + 1, TTRPC_TYPE_REQUEST, megabyte, 100);
}

static void vm_byte_by_byte(Vm *vm, uint32_t id) {
        uint8_t header[TTRPC_HEADER_SIZE];

        ttrpc_header_write(&(TtrpcHeader) { .length = 4096, .stream_id = id, .type = TTRPC_TYPE_RESPONSE }, header);
        for (size_t i = 0; i < sizeof(header); i++)
                vm_send(vm, header + i, 1);
        for (unsigned i = 0; i < 3000; i++)
                vm_send(vm, megabyte, 1);
}

static void vm_half_close(Vm *vm, uint32_t id) {
        (void) gnutls_bye(vm->session, GNUTLS_SHUT_WR);
        (void) shutdown(vm->fd, SHUT_WR);
}

static void vm_junk_below_tls(Vm *vm, uint32_t id) {
        for (unsigned i = 0; i < 64; i++)
                (void) !send(vm->fd, megabyte, sizeof(megabyte), MSG_NOSIGNAL);
}

static void vm_reads_nothing(Vm *vm, uint32_t id) {
}

static const struct {
        const char *name;
        void (*attack)(Vm *vm, uint32_t id);
} vms[] = {
        { "a length of 4 GiB", vm_huge_length },
        { "the largest length, and a part of it", vm_largest_length_and_no_more },
        { "256 MiB of answers to nobody", vm_answers_to_nobody },
        { "256 MiB of data on a unary call", vm_answers_for_ever },
        { "frames of all types and ids", vm_odd_frames },
        { "requests of its own", vm_requests },
        { "byte by byte", vm_byte_by_byte },
        { "half-close", vm_half_close },
        { "junk below TLS", vm_junk_below_tls },
        { "reads nothing", vm_reads_nothing },
};

_Noreturn static void run_vm(const Rig *r, size_t k) {
        gnutls_certificate_credentials_t credentials;
        gnutls_datum_t cert = { (uint8_t*) r->server.cert, strlen(r->server.cert) }, key = { (uint8_t*) r->server.key, strlen(r->server.key) };
        uint8_t body[4096], answer[16];
        TtrpcResponse response = { .payload = { (const uint8_t*) "\x08\x01", 2 } };
        Vm vm;
        int rc;

        (void) signal(SIGPIPE, SIG_IGN);
        if (gnutls_certificate_allocate_credentials(&credentials) < 0 ||
            gnutls_certificate_set_x509_key_mem(credentials, &cert, &key, GNUTLS_X509_FMT_PEM) < 0)
                _exit(2);
        for (;;) {
                uint32_t id;

                vm.fd = accept4(r->forwarder_listen, NULL, NULL, SOCK_CLOEXEC);
                if (vm.fd < 0 || gnutls_init(&vm.session, GNUTLS_SERVER) < 0 || gnutls_set_default_priority(vm.session) < 0 ||
                    gnutls_credentials_set(vm.session, GNUTLS_CRD_CERTIFICATE, credentials) < 0)
                        _exit(2);
                gnutls_certificate_server_set_request(vm.session, GNUTLS_CERT_REQUEST);
                gnutls_transport_set_int(vm.session, vm.fd);
                do
                        rc = gnutls_handshake(vm.session);
                while (rc < 0 && !gnutls_error_is_fatal(rc));
                if (rc < 0) {
                        gnutls_deinit(vm.session);
                        close_fd(vm.fd);
                        continue;
                }

                id = vm_read_request(&vm, body, sizeof(body));
                (void) ttrpc_response_write(&response, answer);
                vm_send_frame(&vm, id, TTRPC_TYPE_RESPONSE, answer, ttrpc_response_size(&response));
                id = vm_read_request(&vm, body, sizeof(body));
                vms[k].attack(&vm, id);
                vm_stall();
        }
}

static void start_vm(Rig *r, size_t k) {
        pid_t parent = getpid();

        r->forwarder = fork();
        assert_true(r->forwarder >= 0);
        if (r->forwarder == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent)
                        _exit(1);
                run_vm(r, k);
        }
}

static void on_victims_answer(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        (*(unsigned*) userdata)++;
}

/* The pod whose VM it is may get an error, or wait; it gets no answer that the VM did not give, and the other pod does not notice. */
static void a_hostile_vm_harms_its_own_pod_only(void **state) {
        size_t kib_before = 0;

        kib_before = daemon_memory_kib(rig.proxy);
        for (size_t k = 0; k < ELEMENTSOF(vms); k++) {
                _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig), *victim = NULL;
                unsigned n_answers = 0;
                size_t kib, fds;
                Drain others;
                Rig other;

                print_message("pod VM: %s\n", vms[k].name);
                rig_make(&other);
                start_vm(&other, k);
                drain_start(&others, &other);
                rig_start_proxy(&other);
                wait_ready(&others, 1);
                kib = daemon_memory_kib(other.proxy);
                fds = daemon_fds(other.proxy);

                victim = connect_client(&other);
                for (unsigned i = 0; i < 64; i++) {     /* one is what the VM waits for; the others pile up */
                        int r = ttrpc_client_call(victim, AGENT, "WriteStdin", megabyte, i == 0 ? 8 : sizeof(megabyte), 0, NULL,
                                                  on_victims_answer, &n_answers, NULL);

                        if (r < 0)
                                break;
                }
                for (unsigned i = 0; i < 30; i++) {
                        TtrpcResult result = TTRPC_RESULT_NULL;

                        expect_served(c, 1);
                        /* Turns the victim's loop, too. */
                        (void) ttrpc_client_call_sync(victim, "grpc.Health", "Check", NULL, 0, 10 * USEC_PER_MSEC, NULL, &result);
                        ttrpc_result_done(&result);
                        if (rig_wait(&other.proxy, 0) != -1)
                                break;                  /* it has given its VM up */
                        check_memory(other.proxy, kib, 2 * RELAY_CONNECTION_MEMORY_MAX / 1024 + CROWD_KIB);
                }
                ttrpc_client_free(TAKE_PTR(victim));
                if (other.proxy > 0)
                        wait_for_fds(other.proxy, fds + 2);     /* it may be about to connect again */

                expect_served(c, 5);
                check_memory(rig.proxy, kib_before, CROWD_KIB);
                (void) rig_stop(&other.forwarder, SIGKILL);
                if (other.proxy > 0)
                        assert_true(ends_well(&other.proxy));
                drain_stop(&others);
                rig_done(&other);
        }
}

/* It takes the connection, and says nothing. */
static void a_vm_that_stalls_in_the_handshake_harms_its_own_pod_only(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = connect_client(&rig);
        Drain others;
        Rig other;
        int status;

        rig_make(&other);
        drain_start(&others, &other);
        other.connect_timeout_usec = 3 * USEC_PER_SEC;
        rig_write_config(&other);
        rig_start_proxy(&other);        /* nobody accepts, the kernel connects */
        do {
                expect_served(c, 5);
                status = rig_wait(&other.proxy, 10);
        } while (status == -1);
        assert_int_equal(status, 1 << 8);
        drain_stop(&others);
        rig_done(&other);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        static const struct CMUnitTest tests[] = {
                T(ten_thousand_callers_stop_nobody),
                T(lengths_of_four_gigabytes_are_not_believed),
                T(requests_may_dribble_in),
                T(half_closed_connections_go),
                T(ten_thousand_strangers_stop_nobody),
                T(whatever_strangers_say_stops_nobody),
                T(a_handshake_may_dribble_in),
                T(a_hostile_vm_harms_its_own_pod_only),
                T(a_vm_that_stalls_in_the_handshake_harms_its_own_pod_only),
        };

        (void) signal(SIGPIPE, SIG_IGN);
        crowd_raise_limits();
        if (getenv("CMOCKA_TEST_FILTER"))
                cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));
        return cmocka_run_group_tests(tests, NULL, NULL);
}
