/* SPDX-License-Identifier: Apache-2.0 */
/* The addresses that the tools in a guest report: guest.net, an entry for each interface (vmware/pyvmomi: docs/vim/vm/GuestInfo/NicInfo.rst).
 * Interfaces that only the guest has, such as bridges, have a deviceConfigId of -1. */
#include <arpa/inet.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-xml.h"
#include "vsphere.h"

#define NICS_MAX 10                     /* of one virtual machine */

typedef struct Nic {
        uint64_t key;                   /* of the device: 4000, 4001, … in the order that the template has them */
        char first[PEERPOD_ADDRESS_SIZE];       /* its IPv4 address where it has one */
        const xmlNode *node;
} Nic;

/* 4 or 6; 0: nobody else can reach it there */
static int family_of(const char *text) {
        struct in6_addr a6;
        struct in_addr a4;

        if (inet_pton(AF_INET, text, &a4) == 1) {
                uint32_t a = ntohl(a4.s_addr);

                return a >> 24 == 0 || a >> 24 == 127 || a >> 16 == 0xa9fe || a >> 28 >= 14 ? 0 : 4;
        }
        if (inet_pton(AF_INET6, text, &a6) == 1)
                return IN6_IS_ADDR_UNSPECIFIED(&a6) || IN6_IS_ADDR_LOOPBACK(&a6) || IN6_IS_ADDR_LINKLOCAL(&a6) || IN6_IS_ADDR_MULTICAST(&a6) ||
                        IN6_IS_ADDR_V4MAPPED(&a6) ? 0 : 6;
        return 0;
}

static bool read_address(const xmlNode *n, char ret[static PEERPOD_ADDRESS_SIZE], int *ret_family) {
        _cleanup_(freep) char *text = xml_text(n, "");

        *ret_family = text && strlen(text) < PEERPOD_ADDRESS_SIZE ? family_of(text) : 0;
        if (*ret_family != 0)
                (void) snprintf(ret, PEERPOD_ADDRESS_SIZE, "%s", text);
        return *ret_family != 0;
}

/* Its addresses stand in ipAddress; false: it has none that counts */
static bool read_nic(const xmlNode *n, Nic *ret) {
        _cleanup_(freep) char *key = xml_text(n, "deviceConfigId");
        char address[PEERPOD_ADDRESS_SIZE];
        int family;

        *ret = (Nic) { .node = n };
        if (!key || parse_u64(key, &ret->key) < 0)
                return false;
        for (const xmlNode *a = xml_first(n, "ipAddress"); a; a = xml_next(a, "ipAddress"))
                if (read_address(a, address, &family) && (isempty(ret->first) || family == 4)) {
                        memcpy(ret->first, address, sizeof(address));
                        if (family == 4)
                                return true;
                }
        return !isempty(ret->first);
}

static void add_address(PeerpodInstance *ret, const char *address) {
        for (size_t i = 0; i < ret->n_addresses; i++)
                if (streq(ret->addresses[i], address))
                        return;
        if (ret->n_addresses < PEERPOD_ADDRESSES_MAX)
                (void) snprintf(ret->addresses[ret->n_addresses++], PEERPOD_ADDRESS_SIZE, "%s", address);
}

static int by_key(const void *a, const void *b) {
        uint64_t x = ((const Nic*) a)->key, y = ((const Nic*) b)->key;

        return (x > y) - (x < y);
}

size_t guest_addresses(const xmlNode *net, PeerpodInstance *ret) {
        char address[PEERPOD_ADDRESS_SIZE];
        Nic nics[NICS_MAX];
        size_t n = 0;
        int family;

        ret->n_addresses = 0;
        for (const xmlNode *i = xml_first(net, "GuestNicInfo"); i && n < NICS_MAX; i = xml_next(i, "GuestNicInfo"))
                n += read_nic(i, &nics[n]);
        if (n > 1)
                qsort(nics, n, sizeof(nics[0]), by_key);
        for (size_t i = 0; i < n; i++)
                add_address(ret, nics[i].first);
        for (size_t i = 0; i < n; i++)
                for (const xmlNode *a = xml_first(nics[i].node, "ipAddress"); a; a = xml_next(a, "ipAddress"))
                        if (read_address(a, address, &family))
                                add_address(ret, address);
        return n;
}

typedef struct Guest {
        const char *name;
        size_t n_wanted, n_nics;        /* interfaces with an address */
        PeerpodInstance *instance;
} Guest;

/* An IPv6 address may come before the IPv4 address of the same interface: it is taken when nothing more has come for some seconds. */
static int on_change(void *userdata, const xmlNode *object, PeerpodError *error) {
        Guest *g = userdata;
        const xmlNode *n;

        if (!object)
                return g->n_nics >= g->n_wanted;
        n = soap_property(object, "runtime.powerState");
        if (n) {
                _cleanup_(freep) char *state = xml_text(n, "");

                if (state && streq(state, "poweredOff"))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Virtual machine '%s' has stopped before it had an address.", g->name);
        }
        n = soap_property(object, "guest.net");
        if (!n)
                return 0;
        g->n_nics = guest_addresses(n, g->instance);
        for (size_t i = 0; i < g->n_wanted && i < g->n_nics; i++)
                if (strchr(g->instance->addresses[i], ':'))
                        return 0;
        return g->n_nics >= g->n_wanted;
}

int guest_wait(Vsphere *v, const PeerpodCall *call, const Ref *vm, const char *name, size_t n_wanted, PeerpodInstance *ret, PeerpodError *error) {
        static const char *const paths[] = { "guest.net", "runtime.powerState", NULL };
        Guest g = { .name = name, .n_wanted = n_wanted, .instance = ret };

        return vim_watch(v, call, vm, paths, on_change, &g, error);
}
