/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel-rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <cmocka.h>

#include "basic/bus-private.h"
#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/util.h"
#include "netlab.h"

const char *tunneld_program, *faulty_program, *pod_network_program;

/* The daemon under test. */
static int listen_fd = -EBADF, notify_fd = -EBADF;
pid_t daemon_pid = -1;
sd_event *rig_event = NULL;
sd_bus *bus = NULL;

static void wait_ready(void) {
        uint64_t deadline = now_usec(CLOCK_MONOTONIC) + RIG_PATIENCE_USEC;

        for (;;) {
                struct pollfd p = { .fd = notify_fd, .events = POLLIN };
                char text[512];
                ssize_t n;
                int status;

                assert_true(now_usec(CLOCK_MONOTONIC) < deadline);
                if (poll(&p, 1, 100) == 0) {
                        assert_int_equal(waitpid(daemon_pid, &status, WNOHANG), 0);
                        continue;
                }
                n = recv(notify_fd, text, sizeof(text) - 1, 0);
                assert_true(n > 0);
                text[n] = '\0';
                if (strstr(text, "READY=1"))
                        return;
        }
}

void spawn_daemon(const char *program, const char *const *extra) {
        char *argv[32] = { (char*) program, (char*) "--user", (char*) "root", (char*) "--runtime-dir", (char*) "/run/lab/tunnel" };

        for (size_t i = 5; extra && *extra; i++)
                argv[i] = (char*) *extra++;
        daemon_pid = lab_spawn("worker", listen_fd, "/run/lab/notify", "tunneld.log", argv);
}

sd_bus* connect_another(void) {
        sd_bus *b;

        assert_int_equal(bus_private_connect(rig_event, "/run/lab/tunnel.sock", &b), 0);
        return b;
}

static void connect_bus(void) {
        bus = sd_bus_flush_close_unref(bus);
        bus = connect_another();
}

void start_daemon_as(const char *program, const char *const *extra) {
        spawn_daemon(program, extra);
        wait_ready();
        connect_bus();
}

void start_daemon(const char *const *extra) {
        start_daemon_as(tunneld_program, extra);
}

int stop_daemon(int signal_number) {
        int r;

        if (daemon_pid < 0)
                return 0;
        (void) kill(daemon_pid, signal_number);
        r = lab_wait(daemon_pid);
        daemon_pid = -1;
        return r;
}

int rig_setup(void) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "/run/lab/notify" };

        assert_int_equal(sd_event_new(&rig_event), 0);
        listen_fd = daemon_listen_unix("/run/lab/tunnel.sock");
        assert_true(listen_fd >= 0);
        assert_int_equal(fcntl(listen_fd, F_SETFL, 0), 0);
        notify_fd = socket(AF_UNIX, SOCK_DGRAM|SOCK_CLOEXEC, 0);
        assert_int_equal(bind(notify_fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        return 0;
}

int lab_setup(void **state) {
        lab_up();
        return rig_setup();
}

int lab_teardown(void **state) {
        char *log;

        bus = sd_bus_flush_close_unref(bus);
        rig_event = sd_event_unref(rig_event);
        (void) stop_daemon(SIGKILL);
        listen_fd = close_fd(listen_fd);
        notify_fd = close_fd(notify_fd);
        lab_down();
        log = lab_output("[ -n \"$LAB_VERBOSE\" ] && cat /run/lab/*.log; cat /run/lab/asan.log* 2>/dev/null; grep -h -A8 'runtime error' /run/lab/*.log 2>/dev/null");
        if (log[0])
                print_error("%s", log);
        free(log);
        return 0;
}

/* Returns NULL on success, else the error's name and text, to be freed. */
char* call(const char *method, sd_bus_message **ret_reply, const char *types, ...) {
        sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *m = NULL, *reply = NULL;
        char *text = NULL;
        va_list ap;
        int r;

        assert_int_equal(sd_bus_message_new_method_call(bus, &m, NULL, RIG_OBJECT, RIG_INTERFACE, method), 0);
        va_start(ap, types);
        assert_true(sd_bus_message_appendv(m, types, ap) >= 0);
        va_end(ap);
        r = sd_bus_call(bus, m, RIG_PATIENCE_USEC, &error, &reply);
        sd_bus_message_unref(m);
        if (r < 0)
                assert_true(asprintf(&text, "%s: %s: %s", method, error.name ?: "?", error.message ?: strerror(-r)) >= 0);
        sd_bus_error_free(&error);
        if (ret_reply)
                *ret_reply = reply;
        else
                sd_bus_message_unref(reply);
        return text;
}

void expect_success(char *error) {
        if (error)
                print_error("call failed: %s\n", error);
        assert_null(error);
}

void expect_error(char *error, const char *name, const char *text) {
        assert_non_null(error);
        if (!strstr(error, name) || !strstr(error, text))
                print_error("expected '%s' with '%s', got: %s\n", name, text, error);
        assert_non_null(strstr(error, name));
        assert_non_null(strstr(error, text));
        free(error);
}

char* inspect_path(const char *id, const char *path) {
        sd_bus_message *reply;
        const char *s;
        char *copy;

        expect_success(call("Inspect", &reply, "ss", id, path));
        assert_true(sd_bus_message_read(reply, "s", &s) >= 0);
        copy = strdup(s);
        sd_bus_message_unref(reply);
        return copy;
}

char* inspect(const char *id) {
        return inspect_path(id, "/run/netns/wpod");
}

char* try_setup(const char *id, const char *address) {
        return call("Setup", NULL, "ssas", id, "/run/netns/wpod", 1, address);
}

void setup(const char *id) {
        expect_success(try_setup(id, "10.10.1.2"));
}

void teardown(const char *id) {
        expect_success(call("Teardown", NULL, "ss", id, "/run/netns/wpod"));
}

void write_apf(const char *pod_network) {
        _cleanup_(freep) char *text = NULL;

        assert_true(asprintf(&text, "{\"pod-network\": %s, \"pod-name\": \"p\", \"tls-server-key\": \"secret\"}", pod_network) >= 0);
        assert_int_equal(write_file_atomic("/run/lab/apf.json", text, strlen(text), 0600), 0);
}

pid_t spawn_pod_network(const char *verb, const char *timeout) {
        char *argv[] = { (char*) pod_network_program, (char*) verb, (char*) "--config", (char*) "/run/lab/apf.json",
                         (char*) "--pod-namespace", (char*) "/run/netns/podns", (char*) "--timeout", (char*) timeout, NULL };

        return lab_spawn("vm", -1, NULL, "pod-network.log", argv);
}

int pod_network(const char *verb) {
        return lab_wait(spawn_pod_network(verb, "60s"));
}

void expect_log(const char *file, const char *text) {
        char *log = lab_output("cat /run/lab/%s", file);

        if (!strstr(log, text))
                print_error("no line '%s' in %s:\n%s", text, file, log);
        assert_non_null(strstr(log, text));
        free(log);
}

/* The tunnel of sandbox "s1" with the pod VM at its other end. */
void connect_pod(void) {
        _cleanup_(freep) char *pn = inspect("s1");

        setup("s1");
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);
}

void expect_traffic(void) {
        assert_true(lab_udp("peer", "podns", "10.128.0.2", 100, true, LAB_PATIENCE_MSEC));
        assert_true(lab_udp("podns", "peer", "10.128.0.9", 100, true, LAB_PATIENCE_MSEC));
}

void expect_empty(const char *what, char *output) {
        if (output[0])
                print_error("%s:\n%s", what, output);
        assert_string_equal(output, "");
        free(output);
}

size_t count_fds(pid_t pid) {
        char path[64];
        DIR *d;
        size_t n = 0;

        expect_success(call("List", NULL, ""));         /* our link is accepted */
        (void) snprintf(path, sizeof(path), "/proc/%i/fd", pid);
        d = opendir(path);
        assert_non_null(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n;
}

void expect_nothing_left(void) {
        expect_empty("links of the pod", lab_output("ip -n wpod -o link show type vxlan; ip -n wpod -o link show type bridge"));
        expect_empty("links of the worker", lab_output("ip -n worker -o link show type vxlan | grep -E ': (pp)?vxlan[0-9]'"));
        expect_empty("ingress hooks", lab_output("tc -n wpod qdisc show dev eth0 | grep -E 'ingress|clsact'"));
        expect_empty("firewall", lab_output("ip netns exec worker nft list ruleset"));
        expect_empty("records", lab_output("ls -A /run/lab/tunnel"));
}

int rig_main(int argc, char *argv[], const char *name, const struct CMUnitTest *tests, size_t n_tests) {
        if (argc < 4)
                return 2;
        tunneld_program = argv[1];
        faulty_program = argv[2];
        pod_network_program = argv[3];
        if (argc > 4)
                cmocka_set_test_filter(argv[4]);
        if (!lab_enter()) {
                (void) fprintf(stderr, "Needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN.\n");
                return 77;
        }
        return _cmocka_run_group_tests(name, tests, n_tests, NULL, NULL) > 0;
}
