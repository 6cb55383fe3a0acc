/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <cmocka.h>

#include "fd-count.h"
#include "net/link.h"
#include "net/netlink.h"
#include "net/pod-network.h"
#include "net/route.h"

/* -- addresses -- */

typedef struct PrefixCase {
        const char *text;
        int result;
        const char *again;
} PrefixCase;

static const PrefixCase prefix_cases[] = {
        { "10.128.0.2/24",          0,       "10.128.0.2/24" },
        { "0.0.0.0/0",              0,       "0.0.0.0/0" },
        { "::ffff:0.0.0.0/0",       0,       "0.0.0.0/0" },
        { "::ffff:10.0.0.0/8",      0,       "10.0.0.0/8" },
        { "::ffff:10.0.0.0/104",    0,       "10.0.0.0/8" },
        { "::ffff:10.0.0.0/33",     -EINVAL, NULL },
        { "::ffff:10.0.0.0/129",    -EINVAL, NULL },
        { "::/0",                   0,       "::/0" },
        { "fd00:128::2/64",         0,       "fd00:128::2/64" },
        { "10.0.0.0/33",            -EINVAL, NULL },
        { "fd00::/129",             -EINVAL, NULL },
        { "10.0.0.0",               -EINVAL, NULL },
        { "10.0.0.0/",              -EINVAL, NULL },
        { "10.0.0.0/08",            -EINVAL, NULL },
        { "10.0.0.0/+8",            -EINVAL, NULL },
        { "10.0.0.0/8 ",            -EINVAL, NULL },
        { " 10.0.0.0/8",            -EINVAL, NULL },
        { "010.0.0.0/8",            -EINVAL, NULL },
        { "10.0.0/8",               -EINVAL, NULL },
        { "fe80::1%eth0/64",        -EINVAL, NULL },
        { "/8",                     -EINVAL, NULL },
        { "",                       -EINVAL, NULL },
        { "10.0.0.0/4294967304",    -EINVAL, NULL },
        { "1111:2222:3333:4444:5555:6666:7777:8888:9999/8", -EINVAL, NULL },
};

static void prefix_is_parsed_strictly(void **state) {
        const PrefixCase *c = *state;
        IPPrefix p = {};

        assert_int_equal(ip_prefix_parse(c->text, &p), c->result);
        if (c->again)
                assert_string_equal(FORMAT_IP_PREFIX(&p), c->again);
}

static void prefix_is_masked(void **state) {
        static const char *const cases[][2] = {
                { "10.128.3.77/24", "10.128.3.0/24" }, { "10.128.3.77/23", "10.128.2.0/23" }, { "10.128.3.77/32", "10.128.3.77/32" },
                { "10.128.3.77/0", "0.0.0.0/0" }, { "fd00::ffff/113", "fd00::8000/113" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                IPPrefix p;

                assert_int_equal(ip_prefix_parse(cases[i][0], &p), 0);
                p = ip_prefix_masked(&p);
                assert_string_equal(FORMAT_IP_PREFIX(&p), cases[i][1]);
        }
}

static void mac_address_is_parsed_strictly(void **state) {
        static const char *const bad[] = {
                "", "0a:58:0a:80:00", "0a:58:0a:80:00:0", "0a:58:0a:80:00:02:", "0a-58-0a-80-00-02", "0a:58:0a:80:00:0g", "0a:58:0a:80:00: 2",
        };
        MACAddress m;

        assert_int_equal(mac_address_parse("0A:58:0a:80:00:ff", &m), 0);
        assert_string_equal(FORMAT_MAC_ADDRESS(&m), "0a:58:0a:80:00:ff");
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(mac_address_parse(bad[i], &m), -EINVAL);
}

static void host_address_is_known(void **state) {
        static const char *const hosts[] = { "10.0.0.1", "169.254.1.1", "223.255.255.255", "fd00::1", "fe80::1" };
        static const char *const others[] = { "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1" };
        IPAddress a;

        for (size_t i = 0; i < ELEMENTSOF(hosts); i++) {
                assert_int_equal(ip_address_parse(hosts[i], &a), 0);
                assert_true(ip_address_is_host(&a));
        }
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                assert_int_equal(ip_address_parse(others[i], &a), 0);
                assert_false(ip_address_is_host(&a));
        }
        assert_false(ip_address_is_host(&IP_ADDRESS_NULL));
}

static void interface_name_is_checked(void **state) {
        static const char *const good[] = { "eth0", "a", "fifteencharacte", "cni-1.2_x" };
        static const char *const bad[] = { "", ".", "..", "sixteencharacter", "a/b", "a b", "a:1", "eth%d", "a\n", "\xc3\xa4" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                assert_true(link_name_is_valid(good[i]));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_false(link_name_is_valid(bad[i]));
}

static void lowest_metric_is_primary(void **state) {
#define MAIN .table = RT_TABLE_MAIN, .type = RTN_UNICAST
        const Route routes[] = {
                { MAIN, .family = AF_INET, .dst.length = 0, .ifindex = 2, .priority = 1024 },
                { MAIN, .family = AF_INET, .dst.length = 24, .ifindex = 3, .priority = 0 },
                { MAIN, .family = AF_INET, .dst.length = 0, .ifindex = 4, .priority = 100, .multipath = true },
                { MAIN, .family = AF_INET6, .dst.length = 0, .ifindex = 5, .priority = 1 },
                { MAIN, .family = AF_INET, .dst.length = 0, .ifindex = 6, .priority = 100 },
                { MAIN, .family = AF_INET, .dst.length = 0, .ifindex = 7, .priority = 100 },
                { .table = 100, .type = RTN_UNICAST, .family = AF_INET, .dst.length = 0, .ifindex = 8 },
                { .table = RT_TABLE_MAIN, .type = RTN_UNREACHABLE, .family = AF_INET, .dst.length = 0, .ifindex = 1 },
        };
#undef MAIN

        assert_ptr_equal(route_primary(routes, ELEMENTSOF(routes), AF_INET), routes + 4);
        assert_ptr_equal(route_primary(routes, ELEMENTSOF(routes), AF_INET6), routes + 3);
        assert_null(route_primary(routes + 1, 2, AF_INET));
        assert_null(route_primary(NULL, 0, AF_INET));
}

/* -- JSON -- */

/* What cloud-api-adaptor v0.15 writes for a pod of the bridge plugin (src/cloud-api-adaptor/pkg/podnetwork/tunneler/config.go by Go's
 * encoding/json, with the default route as vishvananda/netlink 1.3.1 gives it). */
static const char upstream[] =
        "{\n"
        "    \"podip\": \"10.128.0.2/24\",\n"
        "    \"pod-hw-addr\": \"0a:58:0a:80:00:02\",\n"
        "    \"interface\": \"eth0\",\n"
        "    \"worker-node-ip\": \"10.10.0.1/16\",\n"
        "    \"tunnel-type\": \"vxlan\",\n"
        "    \"routes\": [\n"
        "        {\n"
        "            \"dst\": \"::ffff:0.0.0.0/0\",\n"
        "            \"gw\": \"10.128.0.1\",\n"
        "            \"dev\": \"eth0\",\n"
        "            \"protocol\": \"boot\"\n"
        "        },\n"
        "        {\n"
        "            \"dst\": \"10.128.0.0/24\",\n"
        "            \"gw\": \"\",\n"
        "            \"dev\": \"eth0\",\n"
        "            \"protocol\": \"kernel\",\n"
        "            \"scope\": \"link\"\n"
        "        }\n"
        "    ],\n"
        "    \"neighbors\": null,\n"
        "    \"mtu\": 1450,\n"
        "    \"index\": 0,\n"
        "    \"vxlan-port\": 4789,\n"
        "    \"vxlan-id\": 555000,\n"
        "    \"dedicated\": false,\n"
        "    \"external-net-via-pod-vm\": false\n"
        "}";

/* The same, as we write it. */
static const char ours[] =
        "{\"podip\":\"10.128.0.2/24\",\"pod-hw-addr\":\"0a:58:0a:80:00:02\",\"interface\":\"eth0\",\"worker-node-ip\":\"10.10.0.1/16\","
        "\"tunnel-type\":\"vxlan\",\"routes\":[{\"dst\":\"0.0.0.0/0\",\"gw\":\"10.128.0.1\",\"dev\":\"eth0\",\"protocol\":\"boot\"},"
        "{\"dst\":\"10.128.0.0/24\",\"gw\":\"\",\"dev\":\"eth0\",\"protocol\":\"kernel\",\"scope\":\"link\"}],\"neighbors\":null,\"mtu\":1450,"
        "\"index\":0,\"vxlan-port\":4789,\"vxlan-id\":555000,\"dedicated\":false,\"external-net-via-pod-vm\":false}";

static int read_text(const char *text, PodNetwork *ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r = json_parse(text, strlen(text), &o, ret_error);

        return r < 0 ? r : pod_network_from_json(o, ret, ret_error);
}

static void upstream_json_is_read(void **state) {
        PodNetwork n = POD_NETWORK_NULL;

        assert_int_equal(read_text(upstream, &n, NULL), 0);
        assert_string_equal(FORMAT_IP_PREFIX(&n.pod_ip), "10.128.0.2/24");
        assert_string_equal(FORMAT_IP_PREFIX(&n.worker_ip), "10.10.0.1/16");
        assert_string_equal(FORMAT_MAC_ADDRESS(&n.mac), "0a:58:0a:80:00:02");
        assert_string_equal(n.interface, "eth0");
        assert_int_equal(n.n_routes, 2);
        assert_string_equal(FORMAT_IP_PREFIX(&n.routes[0].dst), "0.0.0.0/0");
        assert_string_equal(FORMAT_IP_ADDRESS(&n.routes[0].gateway), "10.128.0.1");
        assert_int_equal(n.routes[0].protocol, RTPROT_BOOT);
        assert_int_equal(n.routes[0].scope, RT_SCOPE_UNIVERSE);
        assert_false(ip_address_is_set(&n.routes[1].gateway));
        assert_int_equal(n.routes[1].protocol, RTPROT_KERNEL);
        assert_int_equal(n.routes[1].scope, RT_SCOPE_LINK);
        assert_int_equal(n.n_neighbours, 0);
        assert_int_equal(n.mtu, 1450);
        assert_int_equal(n.vxlan_port, 4789);
        assert_int_equal(n.vxlan_id, 555000);
        pod_network_done(&n);
}

static void our_json_has_upstreams_keys(void **state) {
        PodNetwork n = POD_NETWORK_NULL;
        char *text;

        assert_int_equal(read_text(upstream, &n, NULL), 0);
        assert_int_equal(pod_network_to_text(&n, &text), 0);
        assert_string_equal(text, ours);
        free(text);
        pod_network_done(&n);
}

static void extra_keys_survive(void **state) {
        static const char text[] =
                "{\"podip\":\"\",\"pod-hw-addr\":\"\",\"interface\":\"\",\"worker-node-ip\":\"\",\"tunnel-type\":\"\",\"routes\":["
                "{\"dst\":\"10.30.0.0/16\",\"gw\":\"172.31.0.1\",\"protocol-number\":12,\"src\":\"10.128.0.2\",\"priority\":50,"
                "\"mtu\":1300,\"onlink\":true}],"
                "\"neighbors\":[{\"ip\":\"169.254.1.1\",\"hw-addr\":\"02:00:00:00:00:01\",\"dev\":\"eth0\",\"state\":\"permanent\"}],"
                "\"mtu\":0,\"index\":0,\"dedicated\":true,\"external-net-via-pod-vm\":true,"
                "\"ipv6\":{\"podips\":[\"fd00::2/64\"],\"routes\":[{\"dst\":\"::/0\",\"gw\":\"fd00::1\"}],\"neighbors\":null}}";
        PodNetwork n = POD_NETWORK_NULL;
        char *again;

        assert_int_equal(read_text(text, &n, NULL), 0);
        assert_int_equal(n.n_routes, 2);
        assert_int_equal(n.routes[1].dst.address.family, AF_INET6);
        assert_int_equal(n.neighbours[0].state, NUD_PERMANENT);
        assert_int_equal(pod_network_to_text(&n, &again), 0);
        assert_string_equal(again, text);
        free(again);
        pod_network_done(&n);
}

typedef struct JsonCase {
        const char *text;
        const char *error;              /* NULL: it is read */
} JsonCase;

static const JsonCase json_cases[] = {
        { "{}", NULL },
        { "{\"podip\":null,\"routes\":null,\"mtu\":null,\"dedicated\":null}", NULL },
        { "{\"unknown\":[{\"a\":1}],\"Podip\":5}", NULL },
        { "{\"routes\":[{}]}", NULL },
        { "{\"ipv6\":{\"routes\":[{\"dst\":\"::/0\"}]}}", NULL },        /* found by the fuzzer: lost when written */
        { "{\"routes\":[{\"dst\":\"\",\"gw\":\"\"}]}", NULL },
        { "{\"podip\":5}", "'podip'" },
        { "{\"podip\":\"10.0.0.1\"}", "'podip'" },
        { "{\"podip\":\"fd00::1/64\"}", "'podip'" },
        { "{\"podip\":\"10.0.0.1/24\\u0000\"}", "'podip'" },
        { "{\"pod-hw-addr\":\"0a:58\"}", "'pod-hw-addr'" },
        { "{\"interface\":\"../../etc\"}", "'interface'" },
        { "{\"interface\":\"sixteencharacter\"}", "'interface'" },
        { "{\"worker-node-ip\":[]}", "'worker-node-ip'" },
        { "{\"tunnel-type\":\"0123456789012345\"}", "'tunnel-type'" },
        { "{\"tunnel-type\":true}", "'tunnel-type'" },
        { "{\"routes\":{}}", "'routes'" },
        { "{\"routes\":[1]}", "'routes[0]'" },
        { "{\"routes\":[{},{\"dst\":\"x\"}]}", "'routes[1]': 'dst'" },
        { "{\"routes\":[{\"gw\":\"10.0.0.1/24\"}]}", "'routes[0]': 'gw'" },
        { "{\"routes\":[{\"protocol\":\"bird\"}]}", NULL },
        { "{\"routes\":[{\"protocol\":186}]}", "'routes[0]': 'protocol'" },
        { "{\"routes\":[{\"table\":255}]}", "'routes[0]': 'table'" },
        { "{\"routes\":[{\"type\":\"local\"}]}", "'routes[0]': 'type'" },
        { "{\"routes\":[{\"type\":\"throw\",\"gw\":\"10.0.0.1\"}]}", "'routes[0]': 'type' and 'gw'" },
        { "{\"podips\":[\"10.1.0.5/24\",\"10.1.0.6/24\"]}", NULL },
        { "{\"podips\":[\"fd00::5/64\"]}", "'podips[0]'" },
        { "{\"policy\":{\"routes\":[{\"dst\":\"0.0.0.0/0\",\"gw\":\"10.0.0.1\",\"table\":100},{\"dst\":\"::/0\",\"gw\":\"\",\"type\":\"unreachable\"}],"
          "\"rules\":[{\"priority\":5,\"from\":\"10.1.0.5/32\",\"to\":\"10.2.0.0/16\",\"fwmark\":1,\"fwmask\":15,\"iif\":\"eth0\",\"oif\":\"lo\",\"not\":true,"
          "\"table\":100},{\"family\":\"ipv6\",\"from\":\"fd00::/64\",\"type\":\"blackhole\"}]}}", NULL },
        { "{\"policy\":[]}", "'policy'" },
        { "{\"policy\":{\"routes\":[{\"table\":100}]}}", "'policy': 'routes[0]': 'dst'" },
        { "{\"policy\":{\"rules\":[{\"priority\":1}]}}", "'policy': 'rules[0]': a rule has either" },
        { "{\"policy\":{\"rules\":[{\"table\":100,\"type\":\"prohibit\"}]}}", "'policy': 'rules[0]': a rule has either" },
        { "{\"policy\":{\"rules\":[{\"type\":\"throw\"}]}}", "'policy': 'rules[0]': 'type'" },
        { "{\"policy\":{\"rules\":[{\"family\":\"ipv6\",\"table\":1,\"from\":\"10.0.0.0/8\"}]}}", "'policy': 'rules[0]': 'from'" },
        { "{\"policy\":{\"rules\":[{\"family\":\"ipx\",\"table\":1}]}}", "'policy': 'rules[0]': 'family'" },
        { "{\"routes\":[{\"scope\":\"global\"}]}", "'routes[0]': 'scope'" },
        { "{\"routes\":[{\"protocol-number\":256}]}", "'routes[0]': 'protocol-number'" },
        { "{\"routes\":[{\"onlink\":\"yes\"}]}", "'routes[0]': 'onlink'" },
        { "{\"neighbors\":[{}]}", "'neighbors[0]': 'ip'" },
        { "{\"neighbors\":[{\"ip\":\"10.0.0.1\",\"state\":\"gone\"}]}", "'neighbors[0]': 'state'" },
        { "{\"neighbors\":[{\"ip\":\"10.0.0.1\",\"hw-addr\":\"x\"}]}", "'neighbors[0]': 'hw-addr'" },
        { "{\"mtu\":-1}", "'mtu'" },
        { "{\"mtu\":\"1450\"}", "'mtu'" },
        { "{\"mtu\":1450.5}", "'mtu'" },
        { "{\"mtu\":2147483648}", "'mtu'" },
        { "{\"index\":-1}", "'index'" },
        { "{\"vxlan-port\":65536}", "'vxlan-port'" },
        { "{\"vxlan-id\":16777216}", "'vxlan-id'" },
        { "{\"dedicated\":1}", "'dedicated'" },
        { "{\"external-net-via-pod-vm\":\"true\"}", "'external-net-via-pod-vm'" },
        { "{\"ipv6\":[]}", "'ipv6'" },
        { "{\"ipv6\":{\"podips\":[\"10.0.0.1/24\"]}}", "'ipv6': 'podips[0]'" },
        { "{\"ipv6\":{\"routes\":[{\"dst\":\"10.0.0.0/8\"}]}}", "'ipv6': 'routes[0]': 'dst'" },
};

static void json_is_read_or_refused_by_key(void **state) {
        const JsonCase *c = *state;
        PodNetwork n = POD_NETWORK_NULL;
        char *error = NULL;

        assert_int_equal(read_text(c->text, &n, &error), c->error ? -EBADMSG : 0);
        if (c->error) {
                assert_non_null(error);
                assert_ptr_equal(strstr(error, c->error), error);
        } else {
                PodNetwork again = POD_NETWORK_NULL;
                char *text, *text_again;

                assert_int_equal(pod_network_to_text(&n, &text), 0);
                assert_int_equal(read_text(text, &again, NULL), 0);
                assert_int_equal(again.n_routes, n.n_routes);
                assert_int_equal(again.n_rules, n.n_rules);
                assert_int_equal(again.n_addresses4, n.n_addresses4);
                assert_int_equal(pod_network_to_text(&again, &text_again), 0);
                assert_string_equal(text, text_again);
                free(text);
                free(text_again);
                pod_network_done(&again);
        }
        free(error);
        pod_network_done(&n);
}

static void too_many_routes_are_refused(void **state) {
        size_t size = 16 + 3 * (POD_NETWORK_ROUTES_MAX + 2);
        char *text = malloc(size), *p = stpcpy(text, "{\"routes\":["), *error = NULL;
        PodNetwork n = POD_NETWORK_NULL;

        for (unsigned i = 0; i <= POD_NETWORK_ROUTES_MAX; i++)
                p = stpcpy(p, i == 0 ? "{}" : ",{}");
        (void) stpcpy(p, "]}");
        assert_int_equal(read_text(text, &n, &error), -EBADMSG);
        assert_string_equal(error, "'routes' has too many elements");
        free(error);
        free(text);
}

/* -- namespaces -- */

static void only_a_network_namespace_is_opened(void **state) {
        char fifo[] = "/tmp/net-test-XXXXXX/fifo";
        int fd = -EBADF, own = -EBADF;
        uint64_t a, b;

        *strrchr(fifo, '/') = '\0';
        assert_non_null(mkdtemp(fifo));
        fifo[strlen(fifo)] = '/';
        assert_int_equal(mkfifo(fifo, 0600), 0);
        assert_int_equal(netns_open(fifo, &fd), -EMEDIUMTYPE);          /* and does not block */
        (void) unlink(fifo);
        *strrchr(fifo, '/') = '\0';
        (void) rmdir(fifo);

        assert_int_equal(netns_open("/proc/self/ns/mnt", &fd), -EMEDIUMTYPE);
        assert_int_equal(netns_open("/dev/null", &fd), -EMEDIUMTYPE);
        assert_int_equal(netns_open("/proc", &fd), -EMEDIUMTYPE);
        assert_int_equal(netns_open("/nonexistent", &fd), -ENOENT);
        assert_int_equal(fd, -EBADF);

        assert_int_equal(netns_open("/proc/self/ns/net", &fd), 0);
        assert_int_equal(netns_open_own(&own), 0);
        assert_int_equal(netns_same(fd, own), 1);
        if (geteuid() == 0) {
                assert_int_equal(netns_cookie(fd, &a), 0);
                assert_int_equal(netns_cookie(-EBADF, &b), 0);
                assert_true(a == b);
        }
        close_fd(fd);
        close_fd(own);
}

static void kernel_says_what_is_wrong(void **state) {
        Netlink *nl;
        NetError e = {};
        Link l;
        int r;

        assert_int_equal(netlink_open(-EBADF, NETLINK_ROUTE, &nl), 0);
        r = link_get(nl, "no-such-device", &l);
        assert_int_equal(r, -ENODEV);
        assert_int_equal(netlink_fail(nl, &e, r, "look at '%s'", "x"), -ENODEV);
        assert_non_null(strstr(e.text, "look at 'x': No such device"));
        assert_int_equal(net_error_prefix(&e, r, "set up"), -ENODEV);
        assert_ptr_equal(strstr(e.text, "set up: look at"), e.text);
        assert_int_equal(link_get(nl, "lo", &l), 0);
        assert_int_equal(l.ifindex, 1);
        assert_true(l.flags & IFF_LOOPBACK);
        netlink_free(nl);
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest plain[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
                T(prefix_is_masked),
                T(mac_address_is_parsed_strictly),
                T(host_address_is_known),
                T(interface_name_is_checked),
                T(lowest_metric_is_primary),
                T(upstream_json_is_read),
                T(our_json_has_upstreams_keys),
                T(extra_keys_survive),
                T(too_many_routes_are_refused),
                T(only_a_network_namespace_is_opened),
                T(kernel_says_what_is_wrong),
        };
        struct CMUnitTest prefixes[ELEMENTSOF(prefix_cases)], json[ELEMENTSOF(json_cases)];
        int r;

        for (size_t i = 0; i < ELEMENTSOF(prefix_cases); i++)
                prefixes[i] = (struct CMUnitTest) { .name = prefix_cases[i].text, .test_func = prefix_is_parsed_strictly,
                                                    .initial_state = (void*) &prefix_cases[i] };
        for (size_t i = 0; i < ELEMENTSOF(json_cases); i++)
                json[i] = (struct CMUnitTest) { .name = json_cases[i].text, .test_func = json_is_read_or_refused_by_key,
                                                .initial_state = (void*) &json_cases[i] };
        r = cmocka_run_group_tests_name("net", plain, NULL, NULL);
        r += cmocka_run_group_tests_name("prefix", prefixes, NULL, NULL);
        r += cmocka_run_group_tests_name("pod-network JSON", json, NULL, NULL);
        return r > 0;
}
