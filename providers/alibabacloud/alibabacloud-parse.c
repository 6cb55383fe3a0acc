/* SPDX-License-Identifier: Apache-2.0 */
#include "alibabacloud-parse.h"

#include <arpa/inet.h>
#include <json-c/json.h>
#include <math.h>

#include "basic/json.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-owner.h"

#define WORD_MAX 256
#define NEXT_TOKEN_MAX 4096
#define MESSAGE_MAX 512
#define SECRET_MAX 8192
#define TAGS_MAX 64
#define MIB_PER_GIB 1024
#define MEMORY_GIB_MAX (1 << 20)

static bool is_word(const char *s) {
        return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(s);
}

/* The member at @path, objects by key, arrays by index; 1, 0 if there is none, -EBADMSG. Borrowed. */
static int find(json_object *o, const char *path, json_object **ret) {
        while (*path) {
                char key[64];
                size_t n = strcspn(path, "/");

                if (n >= sizeof(key))
                        return -EBADMSG;
                memcpy(key, path, n);
                key[n] = '\0';
                path += n + (path[n] == '/');

                if (json_object_is_type(o, json_type_array)) {
                        size_t i = strtoul(key, NULL, 10);

                        o = i < json_object_array_length(o) ? json_object_array_get_idx(o, i) : NULL;
                } else if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &o))
                        return json_object_is_type(o, json_type_object) || !o ? 0 : -EBADMSG;
                if (!o)
                        return 0;
        }
        *ret = o;
        return 1;
}

static int get_text(json_object *o, const char *path, size_t max, char **ret) {
        json_object *v = NULL;
        const char *s = "";
        int r;

        r = find(o, path, &v);
        if (r < 0)
                return r;
        if (r > 0) {
                if (!json_object_is_type(v, json_type_string))
                        return -EBADMSG;
                s = json_object_get_string(v);
                if (strlen(s) != (size_t) json_object_get_string_len(v) || !text_is_plain(s, max))
                        return -EBADMSG;
        }
        *ret = strdup(s);
        return *ret ? 0 : -ENOMEM;
}

static int get_word(json_object *o, const char *path, char **ret) {
        _cleanup_(freep) char *s = NULL;
        int r;

        r = get_text(o, path, WORD_MAX, &s);
        if (r < 0)
                return r;
        if (!is_word(s))
                return -EBADMSG;
        *ret = TAKE_PTR(s);
        return 0;
}

static int get_address(json_object *o, const char *path, char **ret) {
        _cleanup_(freep) char *s = NULL;
        struct in6_addr a;
        int r;

        r = get_text(o, path, INET6_ADDRSTRLEN, &s);
        if (r < 0)
                return r;
        if (!isempty(s) && inet_pton(AF_INET, s, &a) != 1 && inet_pton(AF_INET6, s, &a) != 1)
                return -EBADMSG;
        *ret = TAKE_PTR(s);
        return 0;
}

/* The list at @path; 0 and *ret_n = 0 where there is none */
static int get_list(json_object *o, const char *path, size_t max, json_object **ret, size_t *ret_n) {
        json_object *v = NULL;
        int r;

        r = find(o, path, &v);
        if (r < 0)
                return r;
        *ret = v;
        *ret_n = 0;
        if (r == 0)
                return 0;
        if (!json_object_is_type(v, json_type_array) || json_object_array_length(v) > max)
                return -EBADMSG;
        *ret_n = json_object_array_length(v);
        return 0;
}

/* A number that is not negative; 0 where there is none */
static int get_number(json_object *o, const char *path, double max, double *ret) {
        json_object *v = NULL;
        double d;
        int r;

        r = find(o, path, &v);
        if (r < 0)
                return r;
        if (r == 0) {
                *ret = 0;
                return 0;
        }
        if (!json_object_is_type(v, json_type_int) && !json_object_is_type(v, json_type_double))
                return -EBADMSG;
        d = json_object_get_double(v);
        if (!(d >= 0 && d <= max))
                return -EBADMSG;
        *ret = d;
        return 0;
}

/* ECS and VPC call the members of a tag differently. */
static int get_tag(json_object *tags, size_t n, const char *key_name, const char *value_name, const char *key, char **ret) {
        for (size_t i = 0; i < n; i++) {
                json_object *tag = json_object_array_get_idx(tags, i), *v;

                if (!json_object_is_type(tag, json_type_object))
                        return -EBADMSG;
                if (json_object_object_get_ex(tag, key_name, &v) && json_object_is_type(v, json_type_string) &&
                    streq(json_object_get_string(v), key))
                        return get_word(tag, value_name, ret);
        }
        *ret = strdup("");
        return *ret ? 0 : -ENOMEM;
}

static void instance_done(EcsInstance *i) {
        free(i->id);
        free(i->name);
        free(i->status);
        free(i->type);
        free(i->node);
        free(i->sandbox_id);
        free(i->private_address);
        free(i->public_address);
        free(i->second_interface);
        free(i->second_address);
}

void ecs_instances_free(EcsInstance *instances, size_t n) {
        FOREACH_ELEMENT(EcsInstance, i, instances, n)
                instance_done(i);
        free(instances);
}

static int parse_tags(json_object *o, const char *key_name, const char *value_name, char **ret_node, char **ret_sandbox, char **ret_name) {
        json_object *tags;
        size_t n;
        int r;

        r = get_list(o, "Tags/Tag", TAGS_MAX, &tags, &n);
        if (r == 0)
                r = get_tag(tags, n, key_name, value_name, OWNER_TAG_NODE, ret_node);
        if (r == 0)
                r = get_tag(tags, n, key_name, value_name, OWNER_TAG_SANDBOX, ret_sandbox);
        if (r == 0 && ret_name)
                r = get_tag(tags, n, key_name, value_name, OWNER_TAG_NAME, ret_name);
        return r;
}

/* The address that is dialled may be the one that comes with the instance or an elastic one. */
static int parse_addresses(json_object *o, EcsInstance *i) {
        int r;

        r = get_address(o, "VpcAttributes/PrivateIpAddress/IpAddress/0", &i->private_address);
        if (r == 0)
                r = get_address(o, "PublicIpAddress/IpAddress/0", &i->public_address);
        if (r == 0 && isempty(i->public_address)) {
                free(i->public_address);
                i->public_address = NULL;
                r = get_address(o, "EipAddress/IpAddress", &i->public_address);
        }
        return r;
}

static int parse_interfaces(json_object *o, EcsInstance *i) {
        json_object *list;
        size_t n;
        int r;

        r = get_list(o, "NetworkInterfaces/NetworkInterface", ALIBABA_ITEMS_MAX, &list, &n);
        if (r < 0)
                return r;
        for (size_t k = 0; k < n; k++) {
                json_object *interface = json_object_array_get_idx(list, k);
                _cleanup_(freep) char *type = NULL;

                r = get_word(interface, "Type", &type);
                if (r < 0)
                        return r;
                if (!streq(type, "Secondary"))
                        continue;
                r = get_word(interface, "NetworkInterfaceId", &i->second_interface);
                return r < 0 ? r : get_address(interface, "PrimaryIpAddress", &i->second_address);
        }
        i->second_interface = strdup("");
        i->second_address = strdup("");
        return i->second_interface && i->second_address ? 0 : -ENOMEM;
}

static int parse_instance(json_object *o, EcsInstance *i) {
        int r;

        if (!json_object_is_type(o, json_type_object))
                return -EBADMSG;
        r = get_word(o, "InstanceId", &i->id);
        if (r == 0 && isempty(i->id))
                return -EBADMSG;
        if (r == 0)
                r = get_text(o, "InstanceName", WORD_MAX, &i->name);
        if (r == 0)
                r = get_word(o, "Status", &i->status);
        if (r == 0)
                r = get_word(o, "InstanceType", &i->type);
        if (r == 0)
                r = parse_tags(o, "TagKey", "TagValue", &i->node, &i->sandbox_id, NULL);
        if (r == 0)
                r = parse_addresses(o, i);
        return r < 0 ? r : parse_interfaces(o, i);
}

int ecs_instances_parse(json_object *body, EcsInstance **ret, size_t *ret_n, char **ret_next) {
        _cleanup_(freep) char *next = NULL;
        EcsInstance *instances;
        json_object *list;
        size_t n;
        int r;

        r = get_list(body, "Instances/Instance", ALIBABA_ITEMS_MAX, &list, &n);
        if (r == 0)
                r = get_text(body, "NextToken", NEXT_TOKEN_MAX, &next);
        if (r < 0)
                return r;
        instances = new0(EcsInstance, n + 1);
        if (!instances)
                return -ENOMEM;
        for (size_t i = 0; i < n && r == 0; i++)
                r = parse_instance(json_object_array_get_idx(list, i), instances + i);
        if (r < 0) {
                ecs_instances_free(instances, n);
                return r;
        }
        *ret = instances;
        *ret_n = n;
        *ret_next = TAKE_PTR(next);
        return 0;
}

static void vpc_address_done(VpcAddress *a) {
        free(a->id);
        free(a->address);
        free(a->status);
        free(a->instance_id);
        free(a->instance_type);
        free(a->node);
        free(a->sandbox_id);
        free(a->name);
}

void vpc_addresses_free(VpcAddress *addresses, size_t n) {
        FOREACH_ELEMENT(VpcAddress, a, addresses, n)
                vpc_address_done(a);
        free(addresses);
}

static int parse_vpc_address(json_object *o, VpcAddress *a) {
        int r;

        if (!json_object_is_type(o, json_type_object))
                return -EBADMSG;
        r = get_word(o, "AllocationId", &a->id);
        if (r == 0 && isempty(a->id))
                return -EBADMSG;
        if (r == 0)
                r = get_address(o, "IpAddress", &a->address);
        if (r == 0)
                r = get_word(o, "Status", &a->status);
        if (r == 0)
                r = get_word(o, "InstanceId", &a->instance_id);
        if (r == 0)
                r = get_word(o, "InstanceType", &a->instance_type);
        return r < 0 ? r : parse_tags(o, "Key", "Value", &a->node, &a->sandbox_id, &a->name);
}

int vpc_addresses_parse(json_object *body, VpcAddress **ret, size_t *ret_n, uint64_t *ret_total) {
        VpcAddress *addresses;
        json_object *list;
        double total = 0;
        size_t n;
        int r;

        r = get_list(body, "EipAddresses/EipAddress", ALIBABA_ITEMS_MAX, &list, &n);
        if (r == 0)
                r = get_number(body, "TotalCount", 1e9, &total);
        if (r < 0)
                return r;
        addresses = new0(VpcAddress, n + 1);
        if (!addresses)
                return -ENOMEM;
        for (size_t i = 0; i < n && r == 0; i++)
                r = parse_vpc_address(json_object_array_get_idx(list, i), addresses + i);
        if (r < 0) {
                vpc_addresses_free(addresses, n);
                return r;
        }
        *ret = addresses;
        *ret_n = n;
        *ret_total = (uint64_t) total;
        return 0;
}

static int parse_type(json_object *o, InstanceType *t) {
        double cpus = 0, memory = 0, gpus = 0;
        _cleanup_(freep) char *architecture = NULL;
        int r;

        if (!json_object_is_type(o, json_type_object))
                return -EBADMSG;
        r = get_word(o, "InstanceTypeId", &t->name);
        if (r == 0)
                r = get_number(o, "CpuCoreCount", 1 << 16, &cpus);
        if (r == 0)
                r = get_number(o, "MemorySize", MEMORY_GIB_MAX, &memory);
        if (r == 0)
                r = get_number(o, "GPUAmount", 1 << 16, &gpus);
        if (r == 0)
                r = get_text(o, "GPUSpec", WORD_MAX, &t->gpu_model);
        if (r == 0)
                r = get_word(o, "CpuArchitecture", &architecture);
        if (r < 0)
                return r;

        t->vcpus = (uint32_t) cpus;
        t->memory_mib = (uint64_t) floor(memory * MIB_PER_GIB);         /* "0.5" is a size, too */
        t->gpus = (uint32_t) gpus;
        if (streq(architecture, "X86"))
                t->architecture = strdup("x86_64");
        else if (streq(architecture, "ARM"))
                t->architecture = strdup("aarch64");
        else
                return 0;
        return t->architecture ? 0 : -ENOMEM;
}

int instance_types_parse(json_object *body, InstanceType **ret, size_t *ret_n, char **ret_next) {
        _cleanup_(freep) char *next = NULL;
        InstanceType *types;
        json_object *list;
        size_t n, k = 0;
        int r;

        r = get_list(body, "InstanceTypes/InstanceType", ALIBABA_ITEMS_MAX, &list, &n);
        if (r == 0)
                r = get_text(body, "NextToken", NEXT_TOKEN_MAX, &next);
        if (r < 0)
                return r;
        types = new0(InstanceType, n + 1);
        if (!types)
                return -ENOMEM;
        for (size_t i = 0; i < n && r == 0; i++) {
                InstanceType t = {};

                r = parse_type(json_object_array_get_idx(list, i), &t);
                if (r == 0 && !isempty(t.name) && t.vcpus > 0 && t.memory_mib > 0)
                        types[k++] = t;
                else
                        instance_type_done(&t);
        }
        if (r < 0) {
                FOREACH_ELEMENT(InstanceType, t, types, k)
                        instance_type_done(t);
                free(types);
                return r;
        }
        *ret = types;
        *ret_n = k;
        *ret_next = TAKE_PTR(next);
        return 0;
}

int instance_id_parse(json_object *body, char **ret) {
        _cleanup_(freep) char *id = NULL;
        int r;

        r = get_word(body, "InstanceIdSets/InstanceIdSet/0", &id);
        if (r < 0)
                return r;
        if (isempty(id))
                return -EBADMSG;
        *ret = TAKE_PTR(id);
        return 0;
}

int string_parse(json_object *body, const char *path, char **ret) {
        return get_word(body, path, ret);
}

int error_parse(const char *text, size_t size, char ret_code[static ALIBABA_CODE_SIZE], char **ret_message) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *code = NULL;
        const char *message = "";
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r == 0)
                r = get_word(o, "Code", &code);
        if (r == 0 && (isempty(code) || strlen(code) >= ALIBABA_CODE_SIZE))
                r = -EBADMSG;
        if (r == 0 && ret_message) {
                (void) json_get_string(o, "Message", &message, NULL);
                *ret_message = text_make_plain(message, MESSAGE_MAX);
                if (!*ret_message)
                        r = -ENOMEM;
        }
        if (r < 0)
                return r;
        strcpy(ret_code, code);
        return 0;
}

int credentials_parse(const char *text, size_t size, const char *path, Token *ret) {
        static const char *const keys[TOKEN_PARTS] = { "AccessKeyId", "AccessKeySecret", "SecurityToken" };
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *expiration = NULL, *code = NULL;
        json_object *credentials = NULL;
        Token t = {};
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r == 0)
                r = get_word(o, "Code", &code);         /* the metadata service's own */
        if (r == 0 && !isempty(code) && !streq(code, "Success"))
                r = -EBADMSG;
        if (r == 0 && find(o, path, &credentials) <= 0)
                r = -EBADMSG;
        for (size_t i = 0; i < TOKEN_PARTS && r == 0; i++) {
                r = get_text(credentials, keys[i], SECRET_MAX, t.parts + i);
                if (r == 0 && isempty(t.parts[i]))
                        r = -EBADMSG;
        }
        if (r == 0)
                r = get_text(credentials, "Expiration", WORD_MAX, &expiration);
        if (r == 0 && token_parse_time(expiration, &t.expires_usec) < 0)
                r = -EBADMSG;
        if (r < 0) {
                token_done(&t);
                return r;
        }
        *ret = t;
        return 0;
}
