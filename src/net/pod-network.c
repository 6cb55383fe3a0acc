/* SPDX-License-Identifier: Apache-2.0 */
#include "net/pod-network.h"

#include <inttypes.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <stdarg.h>

#include "net/link.h"

/* cloud-api-adaptor: src/cloud-api-adaptor/pkg/util/netops/netops.go has these names */
typedef struct Name {
        const char *name;
        uint16_t value;
} Name;

static const Name protocols[] = {
        { "static", RTPROT_STATIC }, { "boot", RTPROT_BOOT }, { "dhcp", RTPROT_DHCP }, { "kernel", RTPROT_KERNEL }, {},
};
static const Name scopes[] = {
        { "universe", RT_SCOPE_UNIVERSE }, { "site", RT_SCOPE_SITE }, { "link", RT_SCOPE_LINK },
        { "host", RT_SCOPE_HOST }, { "nowhere", RT_SCOPE_NOWHERE }, {},
};
static const Name states[] = {
        { "none", NUD_NONE }, { "incomplete", NUD_INCOMPLETE }, { "reachable", NUD_REACHABLE }, { "stale", NUD_STALE },
        { "delay", NUD_DELAY }, { "probe", NUD_PROBE }, { "failed", NUD_FAILED }, { "noarp", NUD_NOARP },
        { "permanent", NUD_PERMANENT }, {},
};

static const Name types[] = {
        { "unicast", RTN_UNICAST }, { "blackhole", RTN_BLACKHOLE }, { "unreachable", RTN_UNREACHABLE }, { "prohibit", RTN_PROHIBIT },
        { "throw", RTN_THROW }, {},
};
static const Name families[] = { { "ipv4", AF_INET }, { "ipv6", AF_INET6 }, {} };

static const Name* find_name(const Name *names, const char *name) {
        for (; names->name; names++)
                if (streq(names->name, name))
                        return names;
        return NULL;
}

static const char* name_of(const Name *names, uint16_t value) {
        for (; names->name; names++)
                if (names->value == value)
                        return names->name;
        return NULL;
}

static int refuse(char **ret_error, const char *format, ...) PRINTF(2, 3);
static int refuse(char **ret_error, const char *format, ...) {
        if (ret_error) {
                va_list ap;

                va_start(ap, format);
                if (vasprintf(ret_error, format, ap) < 0)
                        *ret_error = NULL;
                va_end(ap);
        }
        return -EBADMSG;
}

void pod_network_done(PodNetwork *n) {
        free(n->routes);
        free(n->neighbours);
        free(n->rules);
        free(n->addresses4);
        free(n->addresses6);
        *n = POD_NETWORK_NULL;
}

static int append(void *array, size_t *n, size_t max, size_t item_size, const void *item) {
        void *p;

        if (*n >= max)
                return -E2BIG;
        p = reallocarray(*(void**) array, *n + 1, item_size);
        if (!p)
                return -ENOMEM;
        memcpy((uint8_t*) p + *n * item_size, item, item_size);
        *(void**) array = p;
        (*n)++;
        return 0;
}

int pod_network_add_route(PodNetwork *n, const PodRoute *r) {
        return append(&n->routes, &n->n_routes, POD_NETWORK_ROUTES_MAX, sizeof(*r), r);
}

int pod_network_add_neighbour(PodNetwork *n, const PodNeighbour *v) {
        return append(&n->neighbours, &n->n_neighbours, POD_NETWORK_NEIGHBOURS_MAX, sizeof(*v), v);
}

int pod_network_add_rule(PodNetwork *n, const PolicyRule *v) {
        return append(&n->rules, &n->n_rules, POD_NETWORK_RULES_MAX, sizeof(*v), v);
}

int pod_network_add_address(PodNetwork *n, const IPPrefix *p) {
        if (p->address.family == AF_INET)
                return append(&n->addresses4, &n->n_addresses4, POD_NETWORK_ADDRESSES_MAX, sizeof(*p), p);
        return append(&n->addresses6, &n->n_addresses6, POD_NETWORK_ADDRESSES_MAX, sizeof(*p), p);
}

/* The getters: absent, null and "" leave *ret as it is, as Go's zero values do. */

static int get_prefix(json_object *o, const char *key, int family, IPPrefix *ret, char **ret_error) {
        const char *s = NULL;
        IPPrefix p;
        int r = json_get_string(o, key, &s, ret_error);

        if (r <= 0 || isempty(s))
                return r < 0 ? r : 0;
        if (ip_prefix_parse(s, &p) < 0 || p.address.family != family)
                return refuse(ret_error, "'%s' is not an %s prefix", key, family == AF_INET ? "IPv4" : "IPv6");
        *ret = p;
        return 0;
}

static int get_address(json_object *o, const char *key, int family, IPAddress *ret, char **ret_error) {
        const char *s = NULL;
        IPAddress a;
        int r = json_get_string(o, key, &s, ret_error);

        if (r <= 0 || isempty(s))
                return r < 0 ? r : 0;
        if (ip_address_parse(s, &a) < 0 || a.family != family)
                return refuse(ret_error, "'%s' is not an %s address", key, family == AF_INET ? "IPv4" : "IPv6");
        *ret = a;
        return 0;
}

static int get_mac(json_object *o, const char *key, MACAddress *ret, bool *ret_has, char **ret_error) {
        const char *s = NULL;
        int r = json_get_string(o, key, &s, ret_error);

        if (r <= 0 || isempty(s))
                return r < 0 ? r : 0;
        if (mac_address_parse(s, ret) < 0)
                return refuse(ret_error, "'%s' is not a MAC address", key);
        *ret_has = true;
        return 0;
}

static int get_device(json_object *o, const char *key, char ret[static IFNAMSIZ], char **ret_error) {
        const char *s = NULL;
        int r = json_get_string(o, key, &s, ret_error);

        if (r <= 0 || isempty(s))
                return r < 0 ? r : 0;
        if (!link_name_is_valid(s))
                return refuse(ret_error, "'%s' is not an interface name", key);
        memcpy(ret, s, strlen(s) + 1);
        return 0;
}

static int get_name(json_object *o, const char *key, const Name *names, uint16_t *ret, char **ret_error) {
        const char *s = NULL;
        const Name *n;
        int r = json_get_string(o, key, &s, ret_error);

        if (r <= 0 || isempty(s))
                return r < 0 ? r : 0;
        n = find_name(names, s);
        if (!n)
                return refuse(ret_error, "'%s' has a value nobody knows", key);
        *ret = n->value;
        return 0;
}

static int get_u32(json_object *o, const char *key, uint32_t max, uint32_t *ret, char **ret_error) {
        uint64_t v;
        int r = json_get_u64(o, key, max, &v, ret_error);

        if (r > 0)
                *ret = (uint32_t) v;
        return r < 0 ? r : 0;
}

static int get_protocol(json_object *o, uint16_t *ret, char **ret_error) {
        const char *s = NULL;
        const Name *n;
        int r = json_get_string(o, "protocol", &s, ret_error);

        n = r > 0 ? find_name(protocols, s) : NULL;
        if (n)
                *ret = n->value;
        return r < 0 ? r : 0;
}

static int read_route(json_object *o, int family, PodRoute *ret, char **ret_error) {
        PodRoute v = { .dst.address.family = family, .table = RT_TABLE_MAIN };
        uint16_t protocol = RTPROT_UNSPEC, scope = RT_SCOPE_UNIVERSE, type = RTN_UNICAST;
        uint32_t number = 0;
        int r;

        if ((r = get_prefix(o, "dst", family, &v.dst, ret_error)) < 0 ||
            (r = get_address(o, "gw", family, &v.gateway, ret_error)) < 0 ||
            (r = get_device(o, "dev", v.device, ret_error)) < 0 ||
            (r = get_protocol(o, &protocol, ret_error)) < 0 ||
            (r = get_name(o, "scope", scopes, &scope, ret_error)) < 0 ||
            (r = get_u32(o, "protocol-number", UINT8_MAX, &number, ret_error)) < 0 ||
            (r = get_address(o, "src", family, &v.source, ret_error)) < 0 ||
            (r = get_u32(o, "priority", UINT32_MAX, &v.priority, ret_error)) < 0 ||
            (r = get_u32(o, "mtu", INT32_MAX, &v.mtu, ret_error)) < 0 ||
            (r = json_get_bool(o, "onlink", &v.onlink, ret_error)) < 0 ||
            (r = get_u32(o, "table", UINT32_MAX, &v.table, ret_error)) < 0 ||
            (r = get_name(o, "type", types, &type, ret_error)) < 0)
                return r;
        if (v.table == RT_TABLE_UNSPEC || v.table == RT_TABLE_LOCAL)
                return refuse(ret_error, "'table' is the kernel's own");
        if (type != RTN_UNICAST && ip_address_is_set(&v.gateway))
                return refuse(ret_error, "'type' and 'gw' exclude each other");
        v.type = (uint8_t) type;
        v.protocol = (uint8_t) (protocol != RTPROT_UNSPEC ? protocol : number);
        v.scope = (uint8_t) scope;
        *ret = v;
        return 0;
}

static int read_neighbour(json_object *o, int family, PodNeighbour *ret, char **ret_error) {
        PodNeighbour v = {};
        int r;

        if ((r = get_address(o, "ip", family, &v.address, ret_error)) < 0 ||
            (r = get_mac(o, "hw-addr", &v.mac, &v.has_mac, ret_error)) < 0 ||
            (r = get_device(o, "dev", v.device, ret_error)) < 0 ||
            (r = get_name(o, "state", states, &v.state, ret_error)) < 0)
                return r;
        if (!ip_address_is_set(&v.address))
                return refuse(ret_error, "'ip' is missing");
        *ret = v;
        return 0;
}

static int read_rule(json_object *o, PolicyRule *ret, char **ret_error) {
        uint16_t family = AF_INET, type = RTN_UNICAST;
        PolicyRule v = {};
        int r;

        if ((r = get_name(o, "family", families, &family, ret_error)) < 0 ||
            (r = get_u32(o, "priority", UINT32_MAX, &v.priority, ret_error)) < 0 ||
            (r = get_prefix(o, "from", family, &v.from, ret_error)) < 0 ||
            (r = get_prefix(o, "to", family, &v.to, ret_error)) < 0 ||
            (r = get_u32(o, "fwmark", UINT32_MAX, &v.mark, ret_error)) < 0 ||
            (r = get_u32(o, "fwmask", UINT32_MAX, &v.mask, ret_error)) < 0 ||
            (r = get_device(o, "iif", v.iif, ret_error)) < 0 ||
            (r = get_device(o, "oif", v.oif, ret_error)) < 0 ||
            (r = json_get_bool(o, "not", &v.invert, ret_error)) < 0 ||
            (r = get_name(o, "type", types, &type, ret_error)) < 0 ||
            (r = get_u32(o, "table", UINT32_MAX, &v.table, ret_error)) < 0)
                return r;
        if (type == RTN_THROW)
                return refuse(ret_error, "'type' is not a rule's");
        if ((type == RTN_UNICAST) != (v.table != RT_TABLE_UNSPEC))
                return refuse(ret_error, "a rule has either a 'table' or a 'type'");
        v.family = family;
        v.type = (uint8_t) type;
        *ret = v;
        return 0;
}

typedef int (*ReadElement)(json_object *o, int family, PodNetwork *n, char **ret_error);

static int take_route(json_object *o, int family, PodNetwork *n, char **ret_error) {
        PodRoute v;
        int r = read_route(o, family, &v, ret_error);

        return r < 0 ? r : pod_network_add_route(n, &v);
}

static int take_neighbour(json_object *o, int family, PodNetwork *n, char **ret_error) {
        PodNeighbour v;
        int r = read_neighbour(o, family, &v, ret_error);

        return r < 0 ? r : pod_network_add_neighbour(n, &v);
}

/* Of the family that its destination has. */
static int take_policy_route(json_object *o, int family, PodNetwork *n, char **ret_error) {
        const char *dst = NULL;
        IPPrefix p;
        int r = json_get_string(o, "dst", &dst, ret_error);

        if (r < 0)
                return r;
        if (isempty(dst) || ip_prefix_parse(dst, &p) < 0)
                return refuse(ret_error, "'dst' is not a network prefix");
        return take_route(o, p.address.family, n, ret_error);
}

static int take_rule(json_object *o, int family, PodNetwork *n, char **ret_error) {
        PolicyRule v;
        int r = read_rule(o, &v, ret_error);

        return r < 0 ? r : pod_network_add_rule(n, &v);
}

/* An array of objects, or null. */
static int read_array(json_object *o, const char *key, int family, ReadElement f, PodNetwork *n, char **ret_error) {
        json_object *array;
        int r = json_get_array(o, key, &array, ret_error);

        if (r <= 0)
                return r;
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                json_object *e = json_object_array_get_idx(array, i);
                _cleanup_(freep) char *inner = NULL;

                if (!json_object_is_type(e, json_type_object))
                        return refuse(ret_error, "'%s[%zu]' is not an object", key, i);
                r = f(e, family, n, &inner);
                if (r == -E2BIG)
                        return refuse(ret_error, "'%s' has too many elements", key);
                if (r == -EBADMSG)
                        return refuse(ret_error, "'%s[%zu]': %s", key, i, strempty(inner));
                if (r < 0)
                        return r;
        }
        return 0;
}

static int read_addresses(json_object *o, int family, PodNetwork *n, char **ret_error) {
        json_object *array;
        int r = json_get_array(o, "podips", &array, ret_error);

        if (r <= 0)
                return r;
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                json_object *e = json_object_array_get_idx(array, i);
                IPPrefix p;

                if (!json_object_is_type(e, json_type_string) ||
                    strlen(json_object_get_string(e)) != (size_t) json_object_get_string_len(e) ||
                    ip_prefix_parse(json_object_get_string(e), &p) < 0 || p.address.family != family)
                        return refuse(ret_error, "'podips[%zu]' is not an %s prefix", i, family == AF_INET ? "IPv4" : "IPv6");
                r = pod_network_add_address(n, &p);
                if (r == -E2BIG)
                        return refuse(ret_error, "'podips' has too many elements");
                if (r < 0)
                        return r;
        }
        return 0;
}

static int read_ipv6(json_object *o, PodNetwork *n, char **ret_error) {
        _cleanup_(freep) char *inner = NULL;
        json_object *ipv6;
        int r = json_get_object(o, "ipv6", &ipv6, ret_error);

        if (r <= 0)
                return r;
        if ((r = read_addresses(ipv6, AF_INET6, n, &inner)) < 0 ||
            (r = read_array(ipv6, "routes", AF_INET6, take_route, n, &inner)) < 0 ||
            (r = read_array(ipv6, "neighbors", AF_INET6, take_neighbour, n, &inner)) < 0)
                return r == -EBADMSG ? refuse(ret_error, "'ipv6': %s", strempty(inner)) : r;
        return 0;
}

static int read_policy(json_object *o, PodNetwork *n, char **ret_error) {
        _cleanup_(freep) char *inner = NULL;
        json_object *policy;
        int r = json_get_object(o, "policy", &policy, ret_error);

        if (r <= 0)
                return r;
        if ((r = read_array(policy, "routes", AF_UNSPEC, take_policy_route, n, &inner)) < 0 ||
            (r = read_array(policy, "rules", AF_UNSPEC, take_rule, n, &inner)) < 0)
                return r == -EBADMSG ? refuse(ret_error, "'policy': %s", strempty(inner)) : r;
        return 0;
}

int pod_network_from_json(json_object *o, PodNetwork *ret, char **ret_error) {
        _cleanup_(pod_network_done) PodNetwork n = POD_NETWORK_NULL;
        const char *type = NULL;
        uint32_t port = 0;
        int r;

        if ((r = get_prefix(o, "podip", AF_INET, &n.pod_ip, ret_error)) < 0 ||
            (r = get_mac(o, "pod-hw-addr", &n.mac, &n.has_mac, ret_error)) < 0 ||
            (r = get_device(o, "interface", n.interface, ret_error)) < 0 ||
            (r = get_prefix(o, "worker-node-ip", AF_INET, &n.worker_ip, ret_error)) < 0 ||
            (r = json_get_string(o, "tunnel-type", &type, ret_error)) < 0 ||
            (r = read_array(o, "routes", AF_INET, take_route, &n, ret_error)) < 0 ||
            (r = read_array(o, "neighbors", AF_INET, take_neighbour, &n, ret_error)) < 0 ||
            (r = get_u32(o, "mtu", INT32_MAX, &n.mtu, ret_error)) < 0 ||
            (r = json_get_u64(o, "index", INT64_MAX, &n.index, ret_error)) < 0 ||
            (r = get_u32(o, "vxlan-port", UINT16_MAX, &port, ret_error)) < 0 ||
            (r = get_u32(o, "vxlan-id", VXLAN_VNI_MAX, &n.vxlan_id, ret_error)) < 0 ||
            (r = json_get_bool(o, "dedicated", &n.dedicated, ret_error)) < 0 ||
            (r = json_get_bool(o, "external-net-via-pod-vm", &n.external_net_via_pod_vm, ret_error)) < 0 ||
            (r = read_addresses(o, AF_INET, &n, ret_error)) < 0 ||
            (r = read_ipv6(o, &n, ret_error)) < 0 ||
            (r = read_policy(o, &n, ret_error)) < 0)
                return r;

        if (type && strlen(type) >= sizeof(n.tunnel_type))
                return refuse(ret_error, "'tunnel-type' is too long");
        (void) stpcpy(n.tunnel_type, strempty(type));
        n.vxlan_port = (uint16_t) port;

        *ret = n;
        n = POD_NETWORK_NULL;
        return 0;
}

static int write_route(const PodRoute *v, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        const char *protocol = name_of(protocols, v->protocol);
        int r;

        if (!o)
                return -ENOMEM;
        if ((r = json_set_string(o, "dst", FORMAT_IP_PREFIX(&v->dst))) < 0 ||
            (r = json_set_string(o, "gw", FORMAT_IP_ADDRESS(&v->gateway))) < 0 ||
            (v->device[0] && (r = json_set_string(o, "dev", v->device)) < 0) ||
            (protocol && (r = json_set_string(o, "protocol", protocol)) < 0) ||
            (!protocol && v->protocol != RTPROT_UNSPEC && (r = json_set_u64(o, "protocol-number", v->protocol)) < 0) ||
            (v->scope != RT_SCOPE_UNIVERSE && (r = json_set_string(o, "scope", name_of(scopes, v->scope))) < 0) ||
            (ip_address_is_set(&v->source) && (r = json_set_string(o, "src", FORMAT_IP_ADDRESS(&v->source))) < 0) ||
            (v->priority > 0 && (r = json_set_u64(o, "priority", v->priority)) < 0) ||
            (v->mtu > 0 && (r = json_set_u64(o, "mtu", v->mtu)) < 0) ||
            (v->onlink && (r = json_set_bool(o, "onlink", true)) < 0) ||
            (v->table != RT_TABLE_MAIN && (r = json_set_u64(o, "table", v->table)) < 0) ||
            (v->type != RTN_UNICAST && (r = json_set_string(o, "type", name_of(types, v->type))) < 0))
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static int write_neighbour(const PodNeighbour *v, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        int r;

        if (!o)
                return -ENOMEM;
        if ((r = json_set_string(o, "ip", FORMAT_IP_ADDRESS(&v->address))) < 0 ||
            (v->has_mac && (r = json_set_string(o, "hw-addr", FORMAT_MAC_ADDRESS(&v->mac))) < 0) ||
            (v->device[0] && (r = json_set_string(o, "dev", v->device)) < 0) ||
            (v->state != NUD_NONE && (r = json_set_string(o, "state", name_of(states, v->state))) < 0))
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static int write_rule(const PolicyRule *v, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        int r;

        if (!o)
                return -ENOMEM;
        if ((r = json_set_string(o, "family", name_of(families, (uint16_t) v->family))) < 0 ||
            (r = json_set_u64(o, "priority", v->priority)) < 0 ||
            (ip_address_is_set(&v->from.address) && (r = json_set_string(o, "from", FORMAT_IP_PREFIX(&v->from))) < 0) ||
            (ip_address_is_set(&v->to.address) && (r = json_set_string(o, "to", FORMAT_IP_PREFIX(&v->to))) < 0) ||
            (v->mark > 0 && (r = json_set_u64(o, "fwmark", v->mark)) < 0) ||
            (v->mask > 0 && (r = json_set_u64(o, "fwmask", v->mask)) < 0) ||
            (v->iif[0] && (r = json_set_string(o, "iif", v->iif)) < 0) ||
            (v->oif[0] && (r = json_set_string(o, "oif", v->oif)) < 0) ||
            (v->invert && (r = json_set_bool(o, "not", true)) < 0) ||
            (r = v->type == RTN_UNICAST ? json_set_u64(o, "table", v->table) : json_set_string(o, "type", name_of(types, v->type))) < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static int array_take(json_object **array, json_object *element) {
        if (!*array)
                *array = json_object_new_array();
        if (!*array || json_object_array_add(*array, element) < 0) {
                json_object_put(element);
                return -ENOMEM;
        }
        return 0;
}

/* Go writes an array that was never filled as null. */
static int set_array(json_object *o, const char *key, json_object **array) {
        return json_object_object_add(o, key, TAKE_PTR(*array)) < 0 ? -ENOMEM : 0;
}

/* Is it one that who does not know of tables and types would take for another? */
static bool is_policy(const PodRoute *v) {
        return v->table != RT_TABLE_MAIN || v->type != RTN_UNICAST;
}

static int write_lists(const PodNetwork *n, int family, json_object *o) {
        _cleanup_(json_object_putp) json_object *routes = NULL, *neighbours = NULL;
        int r;

        for (size_t i = 0; i < n->n_routes; i++) {
                json_object *e;

                if (n->routes[i].dst.address.family != family || is_policy(n->routes + i))
                        continue;
                if ((r = write_route(n->routes + i, &e)) < 0 || (r = array_take(&routes, e)) < 0)
                        return r;
        }
        for (size_t i = 0; i < n->n_neighbours; i++) {
                json_object *e;

                if (n->neighbours[i].address.family != family)
                        continue;
                if ((r = write_neighbour(n->neighbours + i, &e)) < 0 || (r = array_take(&neighbours, e)) < 0)
                        return r;
        }

        r = set_array(o, "routes", &routes);
        return r < 0 ? r : set_array(o, "neighbors", &neighbours);
}

static bool has_ipv6(const PodNetwork *n) {
        for (size_t i = 0; i < n->n_routes; i++)
                if (n->routes[i].dst.address.family == AF_INET6 && !is_policy(n->routes + i))
                        return true;
        for (size_t i = 0; i < n->n_neighbours; i++)
                if (n->neighbours[i].address.family == AF_INET6)
                        return true;
        return n->n_addresses6 > 0;
}

static int set_addresses(json_object *o, const IPPrefix *addresses, size_t n) {
        _cleanup_(json_object_putp) json_object *array = NULL;

        for (size_t i = 0; i < n; i++) {
                json_object *e = json_object_new_string(FORMAT_IP_PREFIX(addresses + i));

                if (!e || array_take(&array, e) < 0)
                        return -ENOMEM;
        }
        return set_array(o, "podips", &array);
}

static int write_ipv6(const PodNetwork *n, json_object *o) {
        _cleanup_(json_object_putp) json_object *ipv6 = NULL;
        int r;

        if (!has_ipv6(n))
                return 0;
        ipv6 = json_object_new_object();
        if (!ipv6)
                return -ENOMEM;
        if ((r = set_addresses(ipv6, n->addresses6, n->n_addresses6)) < 0 ||
            (r = write_lists(n, AF_INET6, ipv6)) < 0)
                return r;
        return json_set(o, "ipv6", TAKE_PTR(ipv6));
}

static int write_policy(const PodNetwork *n, json_object *o) {
        _cleanup_(json_object_putp) json_object *policy = NULL, *routes = NULL, *rules = NULL;
        json_object *e;
        int r;

        for (size_t i = 0; i < n->n_routes; i++)
                if (is_policy(n->routes + i) &&
                    ((r = write_route(n->routes + i, &e)) < 0 || (r = array_take(&routes, e)) < 0))
                        return r;
        for (size_t i = 0; i < n->n_rules; i++)
                if ((r = write_rule(n->rules + i, &e)) < 0 || (r = array_take(&rules, e)) < 0)
                        return r;
        if (!routes && !rules)
                return 0;

        policy = json_object_new_object();
        if (!policy)
                return -ENOMEM;
        if ((r = set_array(policy, "routes", &routes)) < 0 ||
            (r = set_array(policy, "rules", &rules)) < 0)
                return r;
        return json_set(o, "policy", TAKE_PTR(policy));
}

int pod_network_to_json(const PodNetwork *n, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        int r;

        if (!o)
                return -ENOMEM;
        if ((r = json_set_string(o, "podip", FORMAT_IP_PREFIX(&n->pod_ip))) < 0 ||
            (r = json_set_string(o, "pod-hw-addr", n->has_mac ? FORMAT_MAC_ADDRESS(&n->mac) : "")) < 0 ||
            (r = json_set_string(o, "interface", n->interface)) < 0 ||
            (r = json_set_string(o, "worker-node-ip", FORMAT_IP_PREFIX(&n->worker_ip))) < 0 ||
            (r = json_set_string(o, "tunnel-type", n->tunnel_type)) < 0 ||
            (r = write_lists(n, AF_INET, o)) < 0 ||
            (r = json_set_u64(o, "mtu", n->mtu)) < 0 ||
            (r = json_set_u64(o, "index", n->index)) < 0 ||
            (n->vxlan_port > 0 && (r = json_set_u64(o, "vxlan-port", n->vxlan_port)) < 0) ||
            (n->vxlan_id > 0 && (r = json_set_u64(o, "vxlan-id", n->vxlan_id)) < 0) ||
            (r = json_set_bool(o, "dedicated", n->dedicated)) < 0 ||
            (r = json_set_bool(o, "external-net-via-pod-vm", n->external_net_via_pod_vm)) < 0 ||
            (n->n_addresses4 > 0 && (r = set_addresses(o, n->addresses4, n->n_addresses4)) < 0) ||
            (r = write_ipv6(n, o)) < 0 ||
            (r = write_policy(n, o)) < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

int pod_network_to_text(const PodNetwork *n, char **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *s;
        int r = pod_network_to_json(n, &o);

        if (r < 0)
                return r;
        s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE);
        return s && (*ret = strdup(s)) ? 0 : -ENOMEM;
}
