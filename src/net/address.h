/* SPDX-License-Identifier: Apache-2.0 */
/* IP addresses, prefixes and MAC addresses as values: parsed strictly, compared, written out. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct IPAddress {
        int family;             /* AF_INET, AF_INET6, or AF_UNSPEC for "none" */
        union {
                struct in_addr in;
                struct in6_addr in6;
                uint8_t bytes[16];
        };
} IPAddress;

typedef struct IPPrefix {
        IPAddress address;
        uint8_t length;
} IPPrefix;

typedef struct MACAddress {
        uint8_t bytes[6];
} MACAddress;

#define IP_ADDRESS_NULL ((IPAddress) { .family = AF_UNSPEC })
#define IP_ADDRESS_TEXT_SIZE (INET6_ADDRSTRLEN)
#define IP_PREFIX_TEXT_SIZE (INET6_ADDRSTRLEN + 4)
#define MAC_ADDRESS_TEXT_SIZE 18

#define FORMAT_IP_ADDRESS(a) ip_address_format((a), (char[IP_ADDRESS_TEXT_SIZE]) {})
#define FORMAT_IP_PREFIX(p) ip_prefix_format((p), (char[IP_PREFIX_TEXT_SIZE]) {})
#define FORMAT_MAC_ADDRESS(m) mac_address_format((m), (char[MAC_ADDRESS_TEXT_SIZE]) {})

/* 4, 16, or 0 for "none". */
size_t ip_address_size(const IPAddress *a);
bool ip_address_is_set(const IPAddress *a);
/* Neither "none" nor all bits zero. */
bool ip_address_is_nonzero(const IPAddress *a);
bool ip_address_equal(const IPAddress *a, const IPAddress *b);
/* One host can be reached under it from another: no multicast, broadcast, loopback or zero address. */
bool ip_address_is_host(const IPAddress *a);
bool ip_prefix_equal(const IPPrefix *a, const IPPrefix *b);
/* The prefix with all host bits cleared. */
IPPrefix ip_prefix_masked(const IPPrefix *p);

/*
 * The parsers return 0 or -EINVAL and take no surrounding blanks, leading zeros or zone names. An IPv4 address in IPv6
 * clothes (::ffff:10.0.0.1) becomes plain IPv4: Go's netip prints the default route that vishvananda/netlink invents as
 * "::ffff:0.0.0.0/0", with the length still that of IPv4. A length of 96 and more is taken as the IPv6 one.
 */
int ip_address_parse(const char *text, IPAddress *ret);
int ip_prefix_parse(const char *text, IPPrefix *ret);
int mac_address_parse(const char *text, MACAddress *ret);

/* Each writes into @buffer, which must have the size above, and returns it. "" for "none". */
const char* ip_address_format(const IPAddress *a, char *buffer);
const char* ip_prefix_format(const IPPrefix *p, char *buffer);
const char* mac_address_format(const MACAddress *m, char *buffer);
