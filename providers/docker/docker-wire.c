/* SPDX-License-Identifier: Apache-2.0 */
#include "docker-wire.h"

#include <arpa/inet.h>
#include <ctype.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define MESSAGE_MAX 600
#define NAME_MAX_SIZE 255
#define LIST_MAX 100000
#define IMAGE_MAX 4096
#define MIB (UINT64_C(1) << 20)

uint32_t docker_version_parse(const char *s) {
        unsigned major = 0, minor = 0;
        size_t n = 0;

        for (; isdigit((unsigned char) s[n]) && n < 3; n++)
                major = major * 10 + (unsigned) (s[n] - '0');
        if (n == 0 || major == 0 || s[n] != '.' || !isdigit((unsigned char) s[n + 1]))
                return 0;
        s += n + 1;
        for (n = 0; isdigit((unsigned char) s[n]) && n < 3; n++)
                minor = minor * 10 + (unsigned) (s[n] - '0');
        return s[n] == '\0' ? major * 1000 + minor : 0;
}

int docker_parse_version(const char *text, size_t size, uint32_t wanted, DockerEngine *ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *version = NULL, *minimum = NULL;
        DockerEngine e = {};
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        if (json_get_string(o, "ApiVersion", &version, NULL) <= 0 || json_get_string(o, "MinAPIVersion", &minimum, NULL) < 0)
                return -EBADMSG;
        e.maximum = docker_version_parse(version);
        e.minimum = minimum ? docker_version_parse(minimum) : DOCKER_VERSION_LOWEST;
        if (e.maximum == 0 || e.minimum == 0 || e.minimum > e.maximum)
                return -EBADMSG;
        e.version = wanted > e.maximum ? e.maximum : wanted < e.minimum ? e.minimum : wanted;
        *ret = e;
        return 0;
}

int docker_parse_info(const char *text, size_t size, DockerEngine *ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        uint64_t cpus = 0, memory = 0;
        bool quota = true;
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        if (json_get_u64(o, "NCPU", 1 << 20, &cpus, NULL) < 0 || json_get_u64(o, "MemTotal", INT64_MAX, &memory, NULL) < 0 ||
            json_get_bool(o, "CpuCfsQuota", &quota, NULL) < 0)
                return -EBADMSG;
        ret->cpus = (uint32_t) cpus;
        ret->memory_mib = memory / MIB;
        ret->no_cpu_limit = !quota;
        return 0;
}

int docker_parse_message(const char *text, size_t size, char **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *message = NULL;

        if (json_parse(text, size, &o, NULL) < 0 || json_get_string(o, "message", &message, NULL) <= 0)
                return 0;
        *ret = text_make_plain(message, MESSAGE_MAX);
        return *ret ? 1 : 0;
}

void docker_owner_done(DockerOwner *o) {
        free(o->name);
        free(o->sandbox_id);
        free(o->node);
        *o = (DockerOwner) {};
}

/* A label of the form that we give it; others are not ours. */
static int get_label(json_object *labels, const char *key, size_t max, char **ret) {
        const char *value = NULL;

        if (json_get_string(labels, key, &value, NULL) <= 0 || isempty(value) || !text_is_plain(value, max))
                return 0;
        *ret = strdup(value);
        return *ret ? 0 : -ENOMEM;
}

static int parse_owner(json_object *labels, DockerOwner *ret) {
        int r;

        if (!labels)
                return 0;
        r = get_label(labels, OWNER_TAG_NAME, 63, &ret->name);
        if (r == 0)
                r = get_label(labels, OWNER_TAG_SANDBOX, 64, &ret->sandbox_id);
        return r < 0 ? r : get_label(labels, OWNER_TAG_NODE, 253, &ret->node);
}

static bool id_is_valid(const char *s) {
        size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");

        return n > 0 && n <= DOCKER_ID_MAX && s[n] == '\0' && s[0] != '.';
}

static int copy_plain(const char *s, size_t max, char **ret) {
        *ret = text_make_plain(s, max);
        return *ret ? 0 : -ENOMEM;
}

static int parse_state(json_object *state, DockerContainer *ret) {
        const char *status = NULL, *health = NULL, *error = NULL;
        json_object *h = NULL;
        int r;

        if (json_get_string(state, "Status", &status, NULL) <= 0 || json_get_string(state, "Error", &error, NULL) < 0 ||
            json_get_object(state, "Health", &h, NULL) < 0 || (h && json_get_string(h, "Status", &health, NULL) < 0) ||
            json_get_bool(state, "OOMKilled", &ret->out_of_memory, NULL) < 0 ||
            json_get_u64(state, "ExitCode", UINT32_MAX, &ret->exit_code, NULL) < 0)
                return -EBADMSG;
        r = copy_plain(status, 32, &ret->status);
        if (r == 0 && !isempty(health) && !streq(health, "none"))
                r = copy_plain(health, 32, &ret->health);
        if (r == 0 && !isempty(error))
                r = copy_plain(error, MESSAGE_MAX, &ret->error);
        return r;
}

static int add_address(json_object *network, const char *key, int family, DockerContainer *ret) {
        const char *address = NULL;
        uint8_t binary[16];

        if (json_get_string(network, key, &address, NULL) < 0)
                return -EBADMSG;
        if (isempty(address))
                return 0;
        if (strlen(address) >= PEERPOD_ADDRESS_SIZE || inet_pton(family, address, binary) != 1)
                return -EBADMSG;
        strcpy(ret->addresses[ret->n_addresses++], address);
        return 0;
}

static int parse_addresses(json_object *o, const char *network, DockerContainer *ret) {
        json_object *settings = NULL, *networks = NULL, *ours = NULL;
        int r;

        if (json_get_object(o, "NetworkSettings", &settings, NULL) < 0 ||
            (settings && json_get_object(settings, "Networks", &networks, NULL) < 0) ||
            (networks && json_get_object(networks, network, &ours, NULL) < 0))
                return -EBADMSG;
        if (!ours)
                return 0;
        r = add_address(ours, "IPAddress", AF_INET, ret);
        return r < 0 ? r : add_address(ours, "GlobalIPv6Address", AF_INET6, ret);
}

int docker_parse_container(const char *text, size_t size, const char *network, DockerContainer *ret) {
        json_object *config = NULL, *labels = NULL, *state = NULL;
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *id = NULL, *name = NULL;
        int r;

        *ret = (DockerContainer) {};
        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        if (json_get_string(o, "Id", &id, NULL) <= 0 || !id_is_valid(id) || json_get_string(o, "Name", &name, NULL) <= 0 ||
            json_get_object(o, "State", &state, NULL) <= 0 || json_get_object(o, "Config", &config, NULL) < 0 ||
            (config && json_get_object(config, "Labels", &labels, NULL) < 0))
                return -EBADMSG;
        strcpy(ret->id, id);
        r = copy_plain(name[0] == '/' ? name + 1 : name, NAME_MAX_SIZE, &ret->name);
        if (r == 0)
                r = parse_owner(labels, &ret->owner);
        if (r == 0)
                r = parse_state(state, ret);
        return r < 0 ? r : parse_addresses(o, network, ret);
}

void docker_container_done(DockerContainer *c) {
        free(c->name);
        free(c->status);
        free(c->health);
        free(c->error);
        docker_owner_done(&c->owner);
        *c = (DockerContainer) {};
}

int docker_parse_created(const char *text, size_t size, char ret_id[static DOCKER_ID_MAX + 1], char **ret_warnings) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *warnings = NULL;
        const char *id = NULL;
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        if (json_get_string(o, "Id", &id, NULL) <= 0 || !id_is_valid(id) || json_get_array(o, "Warnings", &warnings, NULL) < 0)
                return -EBADMSG;
        if (warnings && json_object_array_length(warnings) > 0) {
                r = copy_plain(json_object_to_json_string_ext(warnings, JSON_C_TO_STRING_PLAIN), MESSAGE_MAX, ret_warnings);
                if (r < 0)
                        return r;
        }
        strcpy(ret_id, id);
        return 0;
}

static int list_add(DockerList *l, json_object *item, const char *id_key) {
        json_object *labels = NULL;
        const char *id = NULL;
        DockerListed *i;
        int r;

        if (!json_object_is_type(item, json_type_object) || json_get_string(item, id_key, &id, NULL) <= 0 || !id_is_valid(id) ||
            json_get_object(item, "Labels", &labels, NULL) < 0)
                return -EBADMSG;
        r = grow_array(&l->items, l->n_items, LIST_MAX, sizeof(DockerListed));
        if (r < 0)
                return r == -E2BIG ? -EBADMSG : r;
        i = l->items + l->n_items;
        *i = (DockerListed) {};
        r = parse_owner(labels, &i->owner);
        if (r == 0 && (!i->owner.name || !i->owner.sandbox_id || !i->owner.node)) {
                docker_owner_done(&i->owner);
                return 0;
        }
        l->n_items++;
        if (r < 0)
                return r;
        i->id = strdup(id);
        return i->id ? 0 : -ENOMEM;
}

static int list_fill(DockerList *l, json_object *array, const char *id_key) {
        for (size_t i = 0; array && i < json_object_array_length(array); i++) {
                int r = list_add(l, json_object_array_get_idx(array, i), id_key);

                if (r < 0)
                        return r;
        }
        return 0;
}

int docker_parse_containers(const char *text, size_t size, DockerList *ret) {
        static const char before[] = "{\"list\":", after[] = "}";
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *object = NULL;
        json_object *array = NULL;
        size_t n = 0;
        int r;

        *ret = (DockerList) {};
        /* The one answer that is an array; the parser wants objects. */
        object = malloc(size + sizeof(before) + sizeof(after));
        if (!object)
                return -ENOMEM;
        memcpy(object, before, sizeof(before) - 1);
        n += sizeof(before) - 1;
        memcpy(object + n, text, size);
        n += size;
        memcpy(object + n, after, sizeof(after) - 1);
        n += sizeof(after) - 1;

        r = json_parse(object, n, &o, NULL);
        if (r < 0)
                return r;
        if (json_get_array(o, "list", &array, NULL) <= 0)
                return -EBADMSG;
        return list_fill(ret, array, "Id");
}

int docker_parse_volumes(const char *text, size_t size, DockerList *ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *array = NULL;
        int r;

        *ret = (DockerList) {};
        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        if (json_get_array(o, "Volumes", &array, NULL) < 0)
                return -EBADMSG;
        return list_fill(ret, array, "Name");
}

void docker_list_done(DockerList *l) {
        for (size_t i = 0; i < l->n_items; i++) {
                free(l->items[i].id);
                docker_owner_done(&l->items[i].owner);
        }
        free(l->items);
        *l = (DockerList) {};
}

int docker_parse_network(const char *text, size_t size, char **ret_driver) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *driver = NULL;
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        if (json_get_string(o, "Driver", &driver, NULL) <= 0)
                return -EBADMSG;
        return copy_plain(driver, 64, ret_driver);
}

static int progress_line(DockerProgress *p) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *error = NULL, *id = NULL, *status = NULL, *progress = NULL;
        _cleanup_(freep) char *plain = NULL;
        char text[sizeof(p->status)];
        json_object *detail = NULL;

        if (p->size == 0 || json_parse(p->line, p->size, &o, NULL) < 0)
                return 0;
        if (json_get_object(o, "errorDetail", &detail, NULL) > 0)
                (void) json_get_string(detail, "message", &error, NULL);
        if (!error)
                (void) json_get_string(o, "error", &error, NULL);
        if (error && !p->error)
                return copy_plain(error, MESSAGE_MAX, &p->error);

        if (json_get_string(o, "status", &status, NULL) <= 0)
                return 0;
        (void) json_get_string(o, "id", &id, NULL);
        (void) json_get_string(o, "progress", &progress, NULL);
        (void) snprintf(text, sizeof(text), "%.40s%s%.60s %.40s", strempty(id), id ? ": " : "", status, strempty(progress));
        plain = text_make_plain(text, sizeof(text) - 1);
        if (!plain)
                return -ENOMEM;
        (void) snprintf(p->status, sizeof(p->status), "%s", plain);
        return 0;
}

int docker_progress_feed(DockerProgress *p, const void *data, size_t size) {
        const char *s = data;

        while (size > 0) {
                const char *end = memchr(s, '\n', size);
                size_t n = end ? (size_t) (end - s) : size;
                int r = 0;

                if (p->too_long || n > sizeof(p->line) - p->size)
                        p->too_long = true;
                else {
                        memcpy(p->line + p->size, s, n);
                        p->size += n;
                }
                if (end) {
                        if (!p->too_long)
                                r = progress_line(p);
                        p->size = 0;
                        p->too_long = false;
                        n++;
                }
                s += n;
                size -= n;
                if (r < 0)
                        return r;
        }
        return 0;
}

void docker_progress_done(DockerProgress *p) {
        free(p->error);
        p->error = NULL;
}

int docker_image_split(const char *image, char **ret_name, char **ret_tag) {
        _cleanup_(freep) char *name = NULL, *tag = NULL;
        const char *slash, *colon, *at = strchr(image, '@');

        if (isempty(image) || strlen(image) > IMAGE_MAX || image[0] == '/' || image[0] == '-' ||
            image[strspn(image, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/:@[]+")] != '\0')
                return -EINVAL;
        slash = strrchr(image, '/');
        colon = strchr(at ? image : slash ? slash : image, ':');
        if (at) {
                if (strchr(at + 1, '@') || !startswith(at + 1, "sha256:") || at == image)
                        return -EINVAL;
                /* "name:tag@digest" is the digest. */
                slash = memrchr(image, '/', (size_t) (at - image));
                colon = memchr(slash ?: image, ':', (size_t) (at - (slash ?: image)));
                name = strndup(image, (size_t) ((colon ?: at) - image));
                tag = strdup(at + 1);
        } else {
                name = colon ? strndup(image, (size_t) (colon - image)) : strdup(image);
                tag = strdup(colon ? colon + 1 : "latest");
        }
        if (!name || !tag)
                return -ENOMEM;
        if (isempty(name) || isempty(tag) || name[strlen(name) - 1] == '/' || (!at && strchr(tag, ':')))
                return -EINVAL;
        *ret_name = TAKE_PTR(name);
        *ret_tag = TAKE_PTR(tag);
        return 0;
}

int docker_image_registry(const char *image, char **ret) {
        const char *slash = strchr(image, '/');
        size_t n = slash ? (size_t) (slash - image) : 0;

        /* distribution/reference: the first part is a host if it has a dot or a port, or is "localhost". */
        *ret = NULL;
        if (n == 0 || !(memchr(image, '.', n) || memchr(image, ':', n) || (n == 9 && memcmp(image, "localhost", n) == 0)))
                return 0;
        *ret = strndup(image, n);
        return *ret ? 0 : -ENOMEM;
}
