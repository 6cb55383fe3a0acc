/* SPDX-License-Identifier: Apache-2.0 */
#include "netlab.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
/* cmocka wants the ones above first */
#include <cmocka.h>

#include "basic/util.h"
#include "net/address.h"
#include "net/netlink.h"

static const char *const namespaces[] = { "fab", "worker", "vm", "other", "podns", "wpod", "peer" };
const char *lab_dir = "/run/lab";

bool lab_enter(void) {
        if (geteuid() != 0 || unshare(CLONE_NEWNS|CLONE_NEWNET) < 0)
                return false;
        return mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL) >= 0 &&
                mount("lab", "/run", "tmpfs", 0, "mode=0755") >= 0 &&
                mkdir("/run/netns", 0755) >= 0 && mkdir(lab_dir, 0755) >= 0;
}

static char* format_command(const char *format, va_list ap) __attribute__((format(printf, 1, 0)));
static char* format_command(const char *format, va_list ap) {
        char *s;

        assert_true(vasprintf(&s, format, ap) >= 0);
        return s;
}

int lab_sh_status(const char *format, ...) {
        _cleanup_(freep) char *s = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        s = format_command(format, ap);
        va_end(ap);
        r = system(s);
        return WIFEXITED(r) ? WEXITSTATUS(r) : 255;
}

void lab_sh(const char *format, ...) {
        char *s;
        va_list ap;
        int r;

        va_start(ap, format);
        s = format_command(format, ap);
        va_end(ap);
        r = system(s);
        if (r != 0)
                print_error("command failed: %s\n", s);
        free(s);
        assert_int_equal(r, 0);
}

char* lab_output(const char *format, ...) {
        size_t n = 0, size = 65536;
        char *s, *out = calloc(1, size);
        va_list ap;
        FILE *f;

        va_start(ap, format);
        s = format_command(format, ap);
        va_end(ap);
        f = popen(s, "re");
        free(s);
        assert_non_null(f);
        assert_non_null(out);
        n = fread(out, 1, size - 1, f);
        out[n] = '\0';
        (void) pclose(f);
        return out;
}

void lab_down(void) {
        (void) lab_sh_status("ip -all netns del");
}

/* A host on the cloud's subnet. */
static void add_host(const char *ns, const char *address) {
        lab_sh("ip -n fab link add f-%s type veth peer name enc0 netns %s && ip -n fab link set f-%s master br0 up && "
               "ip -n %s addr add %s dev enc0 && ip -n %s link set enc0 up && ip -n %s route add default via 10.10.255.254",
               ns, ns, ns, ns, address, ns, ns);
}

/* A pod of the worker, as the bridge plugin makes it. */
static void add_pod(const char *ns, const char *address, const char *mac) {
        lab_sh("ip -n worker link add v-%s mtu 1450 type veth peer name eth0 netns %s mtu 1450 && "
               "ip -n worker link set v-%s master cni0 up && ip -n %s link set eth0 address %s && "
               "ip -n %s addr add %s brd + dev eth0 && ip -n %s link set eth0 up && ip -n %s route add default via 10.128.0.1",
               ns, ns, ns, ns, mac, ns, address, ns, ns);
}

static void add_namespace(const char *ns) {
        lab_sh("ip netns add %s && ip -n %s link set lo up", ns, ns);
}

void lab_add_wpod(void) {
        /* The kernel takes its time to empty a deleted namespace: the other end of an earlier pod's pair may still be there. */
        lab_sh("ip -n worker link del v-wpod 2>/dev/null || :");
        add_namespace("wpod");
        add_pod("wpod", "10.128.0.2/24", LAB_POD_MAC);
}

void lab_up_hosts(void) {
        lab_down();
        lab_sh("rm -rf %s/*", lab_dir);
        for (size_t i = 0; i < ELEMENTSOF(namespaces); i++)
                if (strcmp(namespaces[i], "wpod") != 0 && strcmp(namespaces[i], "peer") != 0)
                        add_namespace(namespaces[i]);
        lab_sh("ip -n fab link add br0 type bridge && ip -n fab link set br0 up");
        add_host("worker", "10.10.0.1/16");
        add_host("vm", "10.10.1.2/16");
        add_host("other", "10.10.1.9/16");
}

void lab_up(void) {
        lab_up_hosts();
        lab_sh("ip -n worker link add cni0 type bridge && ip -n worker addr add 10.128.0.1/24 dev cni0 && "
               "ip -n worker link set cni0 up");
        lab_add_wpod();
        add_namespace("peer");
        add_pod("peer", "10.128.0.9/24", "0a:58:0a:80:00:09");
}

static int open_ns(const char *ns) {
        char path[64];
        int fd;

        (void) snprintf(path, sizeof(path), "/run/netns/%s", ns);
        assert_int_equal(netns_open(path, &fd), 0);
        return fd;
}

pid_t lab_spawn(const char *ns, int listen_fd, const char *notify_socket, const char *log, char *const argv[]) {
        int ns_fd = open_ns(ns);
        char path[128];
        pid_t pid;

        (void) snprintf(path, sizeof(path), "%s/%s", lab_dir, log);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                int err = open(path, O_WRONLY|O_CREAT|O_APPEND, 0600);
                sigset_t none;

                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void) sigemptyset(&none);
                (void) sigprocmask(SIG_SETMASK, &none, NULL);
                if (err < 0 || dup2(err, STDERR_FILENO) < 0 || setns(ns_fd, CLONE_NEWNET) < 0)
                        _exit(127);
                if (listen_fd >= 0) {
                        char number[16];

                        (void) snprintf(number, sizeof(number), "%i", getpid());
                        (void) setenv("LISTEN_PID", number, 1);
                        (void) setenv("LISTEN_FDS", "1", 1);
                        (void) setenv("LISTEN_FDNAMES", "bus", 1);
                        if (listen_fd == 3 ? fcntl(3, F_SETFD, 0) < 0 : dup2(listen_fd, 3) < 0)
                                _exit(127);
                }
                if (notify_socket)
                        (void) setenv("NOTIFY_SOCKET", notify_socket, 1);
                if (close_range(listen_fd >= 0 ? 4 : 3, ~0U, 0) < 0)
                        _exit(127);
                execv(argv[0], argv);
                _exit(127);
        }
        close(ns_fd);
        return pid;
}

int lab_wait(pid_t pid) {
        int status;

        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int lab_socket(const char *ns, int family, int type, int protocol) {
        int ns_fd = open_ns(ns), fd = netns_socket(ns_fd, family, type, protocol);

        close(ns_fd);
        assert_true(fd >= 0);
        return fd;
}

typedef union Any {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
} Any;

static socklen_t fill_address(Any *a, const char *address, uint16_t port) {
        IPAddress ip;

        memset(a, 0, sizeof(*a));
        assert_int_equal(ip_address_parse(address, &ip), 0);
        a->sa.sa_family = (sa_family_t) ip.family;
        if (ip.family == AF_INET) {
                a->in.sin_addr = ip.in;
                a->in.sin_port = htons(port);
                return sizeof(a->in);
        }
        a->in6.sin6_addr = ip.in6;
        a->in6.sin6_port = htons(port);
        return sizeof(a->in6);
}

bool lab_udp(const char *from, const char *to, const char *to_address, size_t size, bool dont_fragment, int timeout_msec) {
        static uint16_t port = 20000;
        Any a;
        socklen_t length = fill_address(&a, to_address, ++port);
        _cleanup_(close_fdp) int out = lab_socket(from, a.sa.sa_family, SOCK_DGRAM, 0);
        _cleanup_(close_fdp) int in = lab_socket(to, a.sa.sa_family, SOCK_DGRAM, 0);
        _cleanup_(freep) uint8_t *data = malloc(size + 1), *got = malloc(size + 1);
        int mode = dont_fragment ? IP_PMTUDISC_PROBE : IP_PMTUDISC_DONT;
        struct pollfd p = { .fd = in, .events = POLLIN };

        for (size_t i = 0; i < size; i++)
                data[i] = (uint8_t) (i * 7 + size);
        assert_int_equal(bind(in, &a.sa, length), 0);
        if (a.sa.sa_family == AF_INET)
                assert_int_equal(setsockopt(out, IPPROTO_IP, IP_MTU_DISCOVER, &mode, sizeof(mode)), 0);
        if (sendto(out, data, size, 0, &a.sa, length) != (ssize_t) size)
                return false;
        if (poll(&p, 1, timeout_msec) != 1)
                return false;
        return recv(in, got, size + 1, 0) == (ssize_t) size && memcmp(data, got, size) == 0;
}

bool lab_udp_passes(const char *from, const char *to, const char *to_address, size_t size) {
        uint64_t deadline = now_usec(CLOCK_MONOTONIC) + LAB_PATIENCE_MSEC * USEC_PER_MSEC;

        do
                if (lab_udp(from, to, to_address, size, /* dont_fragment= */ true, 1000))
                        return true;
        while (now_usec(CLOCK_MONOTONIC) < deadline);
        print_error("no datagram of %zu bytes from %s to %s, %s\n", size, from, to, to_address);
        return false;
}

uint64_t lab_tcp(const char *from, const char *to, const char *to_address, size_t size, int timeout_msec) {
        static uint16_t port = 30000;
        static char data[128 * 1024];
        Any a;
        socklen_t length = fill_address(&a, to_address, ++port);
        _cleanup_(close_fdp) int listener = lab_socket(to, a.sa.sa_family, SOCK_STREAM, 0);
        _cleanup_(close_fdp) int client = lab_socket(from, a.sa.sa_family, SOCK_STREAM, 0);
        struct timeval tv = { .tv_sec = timeout_msec / 1000, .tv_usec = timeout_msec % 1000 * 1000 };
        uint64_t begin;
        size_t left;
        int status;
        pid_t pid;

        assert_int_equal(bind(listener, &a.sa, length), 0);
        assert_int_equal(listen(listener, 1), 0);
        (void) setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
        (void) setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
        (void) setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));

        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {                         /* the receiver: counts, then answers one byte */
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                size_t n = 0;

                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void) setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
                while (fd >= 0 && n < size) {
                        ssize_t k = recv(fd, data, sizeof(data), 0);

                        if (k <= 0)
                                _exit(1);
                        n += (size_t) k;
                }
                _exit(fd >= 0 && send(fd, "", 1, 0) == 1 ? 0 : 1);
        }

        begin = now_usec(CLOCK_MONOTONIC);
        left = connect(client, &a.sa, length) < 0 ? 1 : size;
        while (left > 0 && left != 1) {
                ssize_t k = send(client, data, MIN(left, sizeof(data)), MSG_NOSIGNAL);

                if (k <= 0)
                        break;
                left -= (size_t) k;
        }
        if (left != 0 || recv(client, data, 1, 0) != 1)
                (void) kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return status == 0 ? now_usec(CLOCK_MONOTONIC) - begin : 0;
}
