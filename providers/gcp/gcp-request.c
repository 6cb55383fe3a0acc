/* SPDX-License-Identifier: Apache-2.0 */
/* The body of instances.insert (Compute Engine API v1: Instance). */
#include "gcp.h"

#include <inttypes.h>

#include "cloud-owner.h"

/* Builds an object; an error stays. */
typedef struct Builder {
        bool failed;
} Builder;

static json_object* object(Builder *b) {
        json_object *o = json_object_new_object();

        b->failed |= !o;
        return o;
}

static json_object* array(Builder *b) {
        json_object *a = json_object_new_array();

        b->failed |= !a;
        return a;
}

static void put(Builder *b, json_object *o, const char *key, json_object *value) {
        if (b->failed || json_set(o, key, json_object_get(value)) < 0)
                b->failed = true;
        json_object_put(value);
}

static void put_text(Builder *b, json_object *o, const char *key, const char *value) {
        if (b->failed || json_set_string(o, key, value) < 0)
                b->failed = true;
}

static void put_bool(Builder *b, json_object *o, const char *key, bool value) {
        if (b->failed || json_set_bool(o, key, value) < 0)
                b->failed = true;
}

__attribute__((format(printf, 4, 5)))
static void putf(Builder *b, json_object *o, const char *key, const char *format, ...) {
        char *text = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0) {
                b->failed = true;
                text = NULL;
        }
        va_end(ap);
        if (text)
                put_text(b, o, key, text);
        free(text);
}

static void append(Builder *b, json_object *a, json_object *value) {
        if (b->failed || json_object_array_add(a, value) < 0) {
                json_object_put(value);
                b->failed = true;
        }
}

static void append_text(Builder *b, json_object *a, const char *text, size_t size) {
        json_object *s = b->failed ? NULL : json_object_new_string_len(text, (int) size);

        b->failed |= !s;
        append(b, a, s);
}

char* owner_description(const char *sandbox_id, const char *node) {
        char *s;

        return asprintf(&s, "peerpod sandbox=%s node=%s", sandbox_id, node) < 0 ? NULL : s;
}

char* subnetwork_resource(const Gcp *g, const char *name) {
        const char *dash = strrchr(g->zone, '-');
        char *s;

        if (startswith(name, "projects/") || startswith(name, "/projects") || startswith(name, "regions/") || startswith(name, "http"))
                return strdup(name);
        return asprintf(&s, "projects/%s/regions/%.*s/subnetworks/%s", g->project, dash ? (int) (dash - g->zone) : (int) strlen(g->zone), g->zone, name) < 0 ? NULL : s;
}

static json_object* build_disks(Builder *b, const Gcp *g, const PeerpodInstanceSpec *spec, const GcpImage *image) {
        json_object *disks = array(b), *boot = object(b), *parameters = object(b);

        putf(b, parameters, "diskSizeGb", "%" PRIu64, MAX(image->size_gib, g->root_volume_gib));
        put_text(b, parameters, "sourceImage", image->resource);
        putf(b, parameters, "diskType", "zones/%s/diskTypes/%s", g->zone, g->disk_type);
        put_bool(b, boot, "boot", true);
        put_bool(b, boot, "autoDelete", true);
        put_text(b, boot, "type", "PERSISTENT");
        put(b, boot, "initializeParams", parameters);
        append(b, disks, boot);

        for (uint64_t i = 0; i < spec->n_volumes; i++) {
                _cleanup_(freep) char *source = disk_resource(g, spec->volumes[i]);
                json_object *disk = object(b);

                b->failed |= !source;
                put_text(b, disk, "source", source);
                put_text(b, disk, "type", "PERSISTENT");
                put_text(b, disk, "mode", "READ_WRITE");
                put_bool(b, disk, "boot", false);
                put_bool(b, disk, "autoDelete", false);
                append(b, disks, disk);
        }
        return disks;
}

static json_object* build_interface(Builder *b, const Gcp *g, const char *network, const char *subnetwork, bool public_ip) {
        json_object *nic = object(b);

        put_text(b, nic, "network", isempty(network) ? NULL : network);
        if (!isempty(subnetwork)) {
                _cleanup_(freep) char *resource = subnetwork_resource(g, subnetwork);

                b->failed |= !resource;
                put_text(b, nic, "subnetwork", resource);
        }
        put_text(b, nic, "stackType", "IPV4_ONLY");
        if (public_ip) {
                json_object *list = array(b), *access = object(b);

                put_text(b, access, "name", "External NAT");
                put_text(b, access, "type", "ONE_TO_ONE_NAT");
                put_text(b, access, "networkTier", g->network_tier);
                append(b, list, access);
                put(b, nic, "accessConfigs", list);
        }
        return nic;
}

static json_object* build_interfaces(Builder *b, const Gcp *g, const PeerpodInstanceSpec *spec) {
        json_object *nics = array(b);

        append(b, nics, build_interface(b, g, g->network, g->subnetwork, g->public_ip));
        if (spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                append(b, nics, build_interface(b, g, g->second_network, g->second_subnetwork, g->public_ip));
        return nics;
}

static json_object* build_metadata(Builder *b, const char *user_data) {
        json_object *metadata = object(b), *items = array(b), *data = object(b), *encoding = object(b);

        put_text(b, data, "key", "user-data");
        put_text(b, data, "value", user_data);
        put_text(b, encoding, "key", "user-data-encoding");
        put_text(b, encoding, "value", "base64");
        append(b, items, data);
        append(b, items, encoding);
        put(b, metadata, "items", items);
        return metadata;
}

/* Labels take neither the length of a sandbox's id nor the alphabet of a node's name. The full names are in the description. */
static json_object* build_labels(Builder *b, const Gcp *g, const PeerpodInstanceSpec *spec) {
        json_object *labels = object(b);
        const char *p = g->labels, *item;
        char digest[OWNER_DIGEST_SIZE];
        size_t n;

        while (list_next(&p, &item, &n)) {
                _cleanup_(freep) char *pair = strndup(item, n);
                char *value = pair ? strchr(pair, '=') : NULL;

                b->failed |= !value;
                if (value) {
                        *value++ = '\0';
                        put_text(b, labels, pair, value);
                }
        }
        owner_digest(spec->node, digest);
        put_text(b, labels, OWNER_TAG_NODE, digest);
        owner_digest(spec->sandbox_id, digest);
        put_text(b, labels, OWNER_TAG_SANDBOX, digest);
        return labels;
}

/* Namespaced: "PROJECT/KEY": "VALUE", so that nothing has to be looked up; a key with a '/' brings its own namespace. */
static json_object* build_tags(Builder *b, const Gcp *g) {
        json_object *tags = object(b);
        const char *p = g->tags, *item;
        size_t n;

        while (list_next(&p, &item, &n)) {
                _cleanup_(freep) char *pair = strndup(item, n), *key = NULL;
                char *value = pair ? strchr(pair, '=') : NULL;

                if (!value) {
                        b->failed = true;
                        continue;
                }
                *value++ = '\0';
                if (strchr(pair, '/'))
                        key = strdup(pair);
                else if (asprintf(&key, "%s/%s", g->project, pair) < 0)
                        key = NULL;
                b->failed |= !key;
                if (key)
                        put_text(b, tags, key, value);
        }
        return tags;
}

static void put_optional(Builder *b, json_object *o, const Gcp *g, const InstanceType *type) {
        json_object *part;
        const char *p = g->network_tags, *item;
        size_t n;

        if (g->confidential) {
                part = object(b);
                put_bool(b, part, "enableConfidentialCompute", true);
                put_text(b, part, "confidentialInstanceType", g->confidential_type);
                put(b, o, "confidentialInstanceConfig", part);
        }
        /* Neither a confidential VM nor one with GPUs can be moved to another host while it runs. */
        if (g->confidential || type->gpus > 0) {
                part = object(b);
                put_text(b, part, "onHostMaintenance", "TERMINATE");
                put(b, o, "scheduling", part);
        }
        if (g->secure_boot) {
                part = object(b);
                put_bool(b, part, "enableSecureBoot", true);
                put_bool(b, part, "enableVtpm", true);
                put_bool(b, part, "enableIntegrityMonitoring", true);
                put(b, o, "shieldedInstanceConfig", part);
        }
        if (!isempty(g->network_tags)) {
                json_object *items = array(b);

                while (list_next(&p, &item, &n))
                        append_text(b, items, item, n);
                part = object(b);
                put(b, part, "items", items);
                put(b, o, "tags", part);
        }
        if (!isempty(g->tags)) {
                part = object(b);
                put(b, part, "resourceManagerTags", build_tags(b, g));
                put(b, o, "params", part);
        }
}

int insert_body(Gcp *g, const PeerpodInstanceSpec *spec, const char *machine_type, const InstanceType *type, const GcpImage *image, const char *user_data,
                json_object **ret, PeerpodError *error) {
        _cleanup_(freep) char *description = owner_description(spec->sandbox_id, spec->node);
        Builder b = { .failed = !description };
        json_object *o = object(&b);

        put_text(&b, o, "name", spec->name);
        put_text(&b, o, "description", description);
        putf(&b, o, "machineType", "zones/%s/machineTypes/%s", g->zone, machine_type);
        put(&b, o, "disks", build_disks(&b, g, spec, image));
        put(&b, o, "networkInterfaces", build_interfaces(&b, g, spec));
        put(&b, o, "metadata", build_metadata(&b, user_data));
        put(&b, o, "labels", build_labels(&b, g, spec));
        put_optional(&b, o, g, type);
        if (b.failed) {
                json_object_put(o);
                return oom(error);
        }
        *ret = o;
        return 0;
}
