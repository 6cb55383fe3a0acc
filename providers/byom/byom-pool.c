/* SPDX-License-Identifier: Apache-2.0 */
#include "byom-pool.h"

#include <arpa/inet.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <json-c/linkhash.h>
#include <time.h>

#include "basic/error-text.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "cloud-config.h"

#define ALLOCATED "allocatedIPs"

typedef struct Address {
        int family;
        uint8_t bytes[16];
} Address;

static size_t address_size(const Address *a) {
        return a->family == AF_INET ? 4 : 16;
}

static bool address_parse(const char *s, size_t n, Address *ret) {
        char text[INET6_ADDRSTRLEN];

        while (n > 0 && *s == ' ')
                s++, n--;
        while (n > 0 && s[n - 1] == ' ')
                n--;
        if (n == 0 || n >= sizeof(text) || memchr(s, '\0', n))
                return false;
        memcpy(text, s, n);
        text[n] = '\0';
        *ret = (Address) { .family = strchr(text, ':') ? AF_INET6 : AF_INET };
        return inet_pton(ret->family, text, ret->bytes) == 1;
}

/* false after the last one of all */
static bool address_next(Address *a) {
        for (size_t i = address_size(a); i > 0; i--)
                if (++a->bytes[i - 1] != 0)
                        return true;
        return false;
}

static int add_address(const Address *a, char ***l, size_t *n) {
        char text[INET6_ADDRSTRLEN];

        if (!inet_ntop(a->family, a->bytes, text, sizeof(text)))
                return -EINVAL;
        if (strv_contains(*l, text))
                return 0;
        if (*n >= POOL_ADDRESSES_MAX)
                return -E2BIG;
        (*n)++;
        return strv_extend(l, text);
}

static int add_item(const char *item, size_t size, uint64_t range_max, char ***l, size_t *n) {
        const char *dash = memchr(item, '-', size);
        Address a, end;
        int r;

        if (!address_parse(item, dash ? (size_t) (dash - item) : size, &a))
                return -EINVAL;
        if (!dash)
                return add_address(&a, l, n);
        if (!address_parse(dash + 1, size - (size_t) (dash + 1 - item), &end) || end.family != a.family ||
            memcmp(a.bytes, end.bytes, address_size(&a)) > 0)
                return -EINVAL;
        for (uint64_t i = 0; i < range_max; i++) {
                r = add_address(&a, l, n);
                if (r < 0)
                        return r;
                if (memcmp(a.bytes, end.bytes, address_size(&a)) == 0 || !address_next(&a))
                        break;
        }
        return 0;
}

int pool_parse(const char *list, uint64_t range_max, char ***ret, char **ret_bad) {
        _cleanup_(strv_freep) char **l = NULL;
        const char *item;
        size_t size, n = 0;

        while (list_next(&list, &item, &size)) {
                int r;

                if (strspn(item, " ") >= size)
                        continue;
                r = add_item(item, size, range_max, &l, &n);
                if (r == -EINVAL)
                        *ret_bad = strndup(item, MIN(size, (size_t) 128));
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(l);
        return 0;
}

uint32_t pool_hash(const char *allocation) {
        uint8_t digest[16] = {};

        /* Where MD5 is not to be had (FIPS 140), everybody begins at the first one: slower, and right all the same. */
        (void) gnutls_hash_fast(GNUTLS_DIG_MD5, allocation, strlen(allocation), digest);
        return read_be32(digest);
}

json_object* state_new(void) {
        json_object *o = json_object_new_object();

        if (o && json_set(o, ALLOCATED, json_object_new_object()) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

static bool entry_is_good(json_object *entry) {
        Address a;
        const char *ip;

        if (!json_object_is_type(entry, json_type_object) || json_get_string(entry, "ip", &ip, NULL) <= 0)
                return false;
        return address_parse(ip, strlen(ip), &a);
}

int state_parse(const char *text, size_t size, json_object **ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *allocated = NULL;
        int r;

        r = json_parse(text, size, &o, ret_error);
        if (r < 0)
                return r;
        r = json_get_object(o, ALLOCATED, &allocated, ret_error);
        if (r < 0)
                return r;
        if (r == 0) {
                r = json_set(o, ALLOCATED, json_object_new_object());
                if (r < 0)
                        return r;
        } else {
                json_object_object_foreach(allocated, key, entry)
                        if (!entry_is_good(entry))
                                return error_text(ret_error, -EBADMSG, "allocation '%.64s' has no valid address", key);
        }
        *ret = TAKE_PTR(o);
        return 0;
}

static json_object* allocated_of(json_object *state) {
        json_object *o = NULL;

        (void) json_object_object_get_ex(state, ALLOCATED, &o);
        return o;
}

json_object* state_get(json_object *state, const char *allocation) {
        json_object *entry = NULL;

        (void) json_object_object_get_ex(allocated_of(state), allocation, &entry);
        return entry;
}

const char* entry_get(json_object *entry, const char *key) {
        const char *v = "";

        (void) json_get_string(entry, key, &v, NULL);
        return v;
}

bool state_has_address(json_object *state, const char *address) {
        Address a, b;

        if (!address_parse(address, strlen(address), &a))
                return true;
        json_object_object_foreach(allocated_of(state), key, entry) {
                const char *ip = entry_get(entry, "ip");

                (void) key;
                if (address_parse(ip, strlen(ip), &b) && a.family == b.family && memcmp(a.bytes, b.bytes, address_size(&a)) == 0)
                        return true;
        }
        return false;
}

const char* state_name_owner(json_object *state, const char *name, const char *sandbox_id) {
        json_object_object_foreach(allocated_of(state), key, entry) {
                (void) key;
                if (streq(entry_get(entry, "instanceName"), name) && !streq(entry_get(entry, "sandboxID"), sandbox_id))
                        return entry_get(entry, "sandboxID");
        }
        return NULL;
}

static int now_text(char ret[static 32]) {
        time_t t = time(NULL);
        struct tm tm;

        return gmtime_r(&t, &tm) && strftime(ret, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) > 0 ? 0 : -EINVAL;
}

int state_add(json_object *state, const char *allocation, const char *address, const char *node, const char *pod, const char *name,
              const char *sandbox_id) {
        json_object *entry = json_object_new_object();
        char now[32] = "";

        (void) now_text(now);
        if (!entry)
                return -ENOMEM;
        if (json_set_string(entry, "allocationID", allocation) < 0 || json_set_string(entry, "ip", address) < 0 ||
            json_set_string(entry, "nodeName", node) < 0 || json_set_string(entry, "podName", pod) < 0 ||
            json_set_string(entry, "allocatedAt", now) < 0 || json_set_string(entry, "instanceName", name) < 0 ||
            json_set_string(entry, "sandboxID", sandbox_id) < 0) {
                json_object_put(entry);
                return -ENOMEM;
        }
        return json_set(allocated_of(state), allocation, entry);
}

void state_drop(json_object *state, const char *allocation) {
        json_object_object_del(allocated_of(state), allocation);
}

const char* state_text(json_object *state, char *const *addresses) {
        json_object *available = json_object_new_array();
        uint64_t version = 0;
        char now[32] = "";

        if (!available)
                return NULL;
        for (char *const *a = addresses; a && *a; a++) {
                json_object *s;

                if (state_has_address(state, *a))
                        continue;
                s = json_object_new_string(*a);
                if (!s || json_object_array_add(available, s) < 0) {
                        json_object_put(s);
                        json_object_put(available);
                        return NULL;
                }
        }
        (void) json_get_u64(state, "version", INT64_MAX - 1, &version, NULL);
        if (json_set(state, "availableIPs", available) < 0 || now_text(now) < 0 || json_set_string(state, "lastUpdated", now) < 0 ||
            json_set_u64(state, "version", version + 1) < 0)
                return NULL;
        return json_object_to_json_string_ext(state, JSON_C_TO_STRING_PRETTY|JSON_C_TO_STRING_SPACED|JSON_C_TO_STRING_NOSLASHESCAPE);
}
