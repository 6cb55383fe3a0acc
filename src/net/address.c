/* SPDX-License-Identifier: Apache-2.0 */
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

size_t ip_address_size(const IPAddress *a) {
        return a->family == AF_INET ? 4 : a->family == AF_INET6 ? 16 : 0;
}

bool ip_address_is_set(const IPAddress *a) {
        return ip_address_size(a) > 0;
}

bool ip_address_is_nonzero(const IPAddress *a) {
        for (size_t i = 0; i < ip_address_size(a); i++)
                if (a->bytes[i] != 0)
                        return true;
        return false;
}

bool ip_address_equal(const IPAddress *a, const IPAddress *b) {
        return a->family == b->family && memcmp(a->bytes, b->bytes, ip_address_size(a)) == 0;
}

bool ip_address_is_host(const IPAddress *a) {
        switch (a->family) {
        case AF_INET: {
                uint32_t v = ntohl(a->in.s_addr);

                return v >> 24 != 0 && v >> 24 != 127 && v >> 28 < 14;  /* 0/8, 127/8, 224/3 */
        }
        case AF_INET6:
                return !IN6_IS_ADDR_UNSPECIFIED(&a->in6) && !IN6_IS_ADDR_LOOPBACK(&a->in6) &&
                        !IN6_IS_ADDR_MULTICAST(&a->in6);
        default:
                return false;
        }
}

bool ip_prefix_equal(const IPPrefix *a, const IPPrefix *b) {
        return a->length == b->length && ip_address_equal(&a->address, &b->address);
}

IPPrefix ip_prefix_masked(const IPPrefix *p) {
        IPPrefix m = *p;

        for (size_t i = 0; i < ip_address_size(&m.address); i++) {
                int bits = (int) m.length - (int) (i * 8);

                if (bits < 8)
                        m.address.bytes[i] &= bits <= 0 ? 0 : (uint8_t) (0xff << (8 - bits));
        }
        return m;
}

int ip_address_parse(const char *text, IPAddress *ret) {
        IPAddress a = {};

        if (inet_pton(AF_INET, text, &a.in) == 1)
                a.family = AF_INET;
        else if (inet_pton(AF_INET6, text, &a.in6) == 1)
                a.family = AF_INET6;
        else
                return -EINVAL;

        if (a.family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a.in6)) {
                IPAddress v4 = { .family = AF_INET };

                memcpy(v4.bytes, a.bytes + 12, 4);
                a = v4;
        }
        *ret = a;
        return 0;
}

static int prefix_length_parse(const char *text, unsigned *ret) {
        unsigned n = 0;
        size_t len = strspn(text, "0123456789");

        if (len == 0 || len > 3 || text[len] != '\0' || (len > 1 && text[0] == '0'))
                return -EINVAL;
        for (size_t i = 0; i < len; i++)
                n = n * 10 + (unsigned) (text[i] - '0');
        *ret = n;
        return 0;
}

int ip_prefix_parse(const char *text, IPPrefix *ret) {
        char address[IP_ADDRESS_TEXT_SIZE];
        const char *slash = strchr(text, '/');
        unsigned length;
        IPAddress a;
        int r;

        if (!slash || (size_t) (slash - text) >= sizeof(address))
                return -EINVAL;
        memcpy(address, text, (size_t) (slash - text));
        address[slash - text] = '\0';

        r = ip_address_parse(address, &a);
        if (r < 0)
                return r;
        r = prefix_length_parse(slash + 1, &length);
        if (r < 0)
                return r;

        if (a.family == AF_INET && strchr(address, ':') && length >= 96)
                length -= 96;
        if (length > ip_address_size(&a) * 8)
                return -EINVAL;

        *ret = (IPPrefix) { .address = a, .length = (uint8_t) length };
        return 0;
}

static int hex_digit(char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int mac_address_parse(const char *text, MACAddress *ret) {
        MACAddress m;

        if (strlen(text) != MAC_ADDRESS_TEXT_SIZE - 1)
                return -EINVAL;
        for (size_t i = 0; i < sizeof(m.bytes); i++) {
                int high = hex_digit(text[i * 3]), low = hex_digit(text[i * 3 + 1]);

                if (high < 0 || low < 0 || (i < 5 && text[i * 3 + 2] != ':'))
                        return -EINVAL;
                m.bytes[i] = (uint8_t) (high << 4 | low);
        }
        *ret = m;
        return 0;
}

const char* ip_address_format(const IPAddress *a, char *buffer) {
        if (!ip_address_is_set(a) || !inet_ntop(a->family, a->bytes, buffer, IP_ADDRESS_TEXT_SIZE))
                buffer[0] = '\0';
        return buffer;
}

const char* ip_prefix_format(const IPPrefix *p, char *buffer) {
        if (!ip_address_is_set(&p->address))
                buffer[0] = '\0';
        else
                (void) snprintf(buffer, IP_PREFIX_TEXT_SIZE, "%s/%u", FORMAT_IP_ADDRESS(&p->address), p->length);
        return buffer;
}

const char* mac_address_format(const MACAddress *m, char *buffer) {
        (void) snprintf(buffer, MAC_ADDRESS_TEXT_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x",
                        m->bytes[0], m->bytes[1], m->bytes[2], m->bytes[3], m->bytes[4], m->bytes[5]);
        return buffer;
}
