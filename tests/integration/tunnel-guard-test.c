/* SPDX-License-Identifier: Apache-2.0 */
/* Forged VXLAN frames: who may send into a pod. */
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "basic/json.h"
#include "net/address.h"
#include "netlab.h"
#include "tunnel-rig.h"

static void put16(uint8_t *p, unsigned v) {
        p[0] = (uint8_t) (v >> 8);
        p[1] = (uint8_t) v;
}

/* A VXLAN packet (RFC 7348) with a UDP datagram for the pod in it: from the IPv4 header's payload on. Returns its size. */
static size_t forge(uint32_t vni, uint16_t inner_port, const char *dst_mac, uint8_t *p) {
        static const uint8_t inner_ip[20] = { 0x45, 0, 0, 29, 0, 1, 0, 0, 64, 17, 0, 0, 10, 128, 0, 9, 10, 128, 0, 2 };
        uint8_t *f = p + 16, *ip = f + 14, *udp = ip + 20;
        MACAddress mac;
        uint32_t sum = 0;

        memset(p, 0, 128);
        put16(p, 40000);
        put16(p + 2, 4789);
        p[8] = 8;                               /* the VNI is valid */
        p[12] = (uint8_t) (vni >> 16);
        put16(p + 13, vni & 0xffff);
        assert_int_equal(mac_address_parse(dst_mac, &mac), 0);
        memcpy(f, mac.bytes, 6);
        f[6] = 2;
        put16(f + 12, 0x0800);
        memcpy(ip, inner_ip, sizeof(inner_ip));
        for (size_t i = 0; i < 20; i += 2)
                sum += (uint32_t) ip[i] << 8 | ip[i + 1];
        put16(ip + 10, ~((sum & 0xffff) + (sum >> 16)) & 0xffff);
        put16(udp, 5000);
        put16(udp + 2, inner_port);
        put16(udp + 4, 9);
        udp[8] = 'x';
        put16(p + 4, (unsigned) (udp + 9 - p));
        return (size_t) (udp + 9 - p);
}

/* Send it from a namespace as its own host, whole or with a first fragment of 8 bytes. Did it reach a socket of the pod? */
static bool forged_frame_arrives(const char *from, const char *worker_or_vm, uint32_t vni, bool fragments, const char *to) {
        static uint16_t id = 100, port = 6000;
        struct sockaddr_in sa = { .sin_family = AF_INET }, in = { .sin_family = AF_INET, .sin_port = htons(++port) };
        _cleanup_(close_fdp) int raw = lab_socket(from, AF_INET, SOCK_RAW, IPPROTO_RAW);
        _cleanup_(close_fdp) int pod = lab_socket(to, AF_INET, SOCK_DGRAM, 0);
        struct pollfd p = { .fd = pod, .events = POLLIN };
        uint8_t payload[128], packet[160];
        size_t size = forge(vni, port, LAB_POD_MAC, payload), cut = fragments ? 8 : size;

        assert_int_equal(bind(pod, (struct sockaddr*) &in, sizeof(in)), 0);
        assert_int_equal(inet_pton(AF_INET, worker_or_vm, &sa.sin_addr), 1);
        id++;
        for (size_t at = 0; at < size; at += cut, cut = size - at) {
                struct iphdr ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .id = htons(id), .daddr = sa.sin_addr.s_addr };

                ip.frag_off = htons((uint16_t) (at / 8 | (at + cut < size ? 0x2000 : 0)));
                memcpy(packet, &ip, sizeof(ip));
                memcpy(packet + sizeof(ip), payload + at, cut);
                assert_true(sendto(raw, packet, sizeof(ip) + cut, 0, (struct sockaddr*) &sa, sizeof(sa)) > 0);
                if (at + cut >= size)
                        break;
        }
        return poll(&p, 1, 300) == 1;
}

static void forged_frames_are_dropped(void **state) {
        _cleanup_(freep) char *pn = NULL;
        uint64_t vni = 0;
        json_object *o;

        start_daemon(NULL);
        connect_pod();
        expect_traffic();
        pn = inspect("s1");
        assert_int_equal(json_parse(pn, strlen(pn), &o, NULL), 0);
        assert_int_equal(json_get_u64(o, "vxlan-id", UINT32_MAX, &vni, NULL), 1);
        json_object_put(o);

        /* the true peer's frames arrive, whole and in pieces: the forgery itself is sound */
        assert_true(forged_frame_arrives("worker", "10.10.1.2", (uint32_t) vni, false, "podns"));
        assert_true(forged_frame_arrives("worker", "10.10.1.2", (uint32_t) vni, true, "podns"));
        /* a third host's do not */
        assert_false(forged_frame_arrives("other", "10.10.1.2", (uint32_t) vni, false, "podns"));
        assert_false(forged_frame_arrives("other", "10.10.1.2", (uint32_t) vni, true, "podns"));

        /* nft can print what we wrote */
        {
                char vni_text[32];
                char *list = lab_output("ip netns exec worker nft list table ip peerpod");

                (void) snprintf(vni_text, sizeof(vni_text), "4789 . 0x%x . 10.10.1.2", (unsigned) vni);
                assert_non_null(strstr(list, vni_text));
                assert_non_null(strstr(list, "typeof udp dport . @th,96,24 . ip saddr"));
                assert_non_null(strstr(list, "10.10.1.2 . 4789"));
                assert_non_null(strstr(list, "ip saddr . udp dport @peers notrack"));
                assert_non_null(strstr(list, "udp dport . @th,96,24 . ip saddr != @tunnels counter packets"));
                free(list);
        }

        /* on the worker likewise: counted by the guard, and without it delivered */
        char *s = lab_output("ip netns exec worker nft list chain ip peerpod input");
        assert_non_null(strstr(s, "packets 0"));
        free(s);
        (void) forged_frame_arrives("other", "10.10.0.1", (uint32_t) vni, true, "podns");
        s = lab_output("ip netns exec worker nft list chain ip peerpod input");
        assert_non_null(strstr(s, "packets 1"));
        free(s);
        lab_sh("ip netns exec vm nft delete table ip peerpod");
        assert_true(forged_frame_arrives("other", "10.10.1.2", (uint32_t) vni, true, "podns"));
        teardown("s1");
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(forged_frames_are_dropped, lab_setup, lab_teardown),
        };

        return rig_main(argc, argv, "tunnel-guard", tests, ELEMENTSOF(tests));
}
