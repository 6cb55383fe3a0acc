/* SPDX-License-Identifier: Apache-2.0 */
/* What the cloud has: machine types, images, disks (Compute Engine API v1: machineTypes, images, disks). */
#include "gcp.h"

#include <inttypes.h>
#include <syslog.h>

#include "basic/parse.h"

#define TYPES_MAX 256

/* "ARM64" → as uname -m has it; NULL: not known */
static const char* architecture_of(json_object *o) {
        const char *a = json_path_string(o, "architecture", NULL);

        return !a ? NULL : streq(a, "X86_64") ? "x86_64" : streq(a, "ARM64") ? "aarch64" : NULL;
}

static int copy_text(const char *from, char **to) {
        *to = from ? strdup(from) : NULL;
        return from && !*to ? -ENOMEM : 0;
}

static int read_type(json_object *o, const char *name, InstanceType *ret) {
        json_object *accelerators = NULL;
        uint64_t vcpus = 0, gpus = 0;
        InstanceType t = {};
        int r;

        (void) json_get_u64(o, "guestCpus", UINT32_MAX, &vcpus, NULL);
        (void) json_get_u64(o, "memoryMb", UINT64_MAX >> 1, &t.memory_mib, NULL);
        r = copy_text(name, &t.name);
        if (r == 0)
                r = copy_text(architecture_of(o), &t.architecture);
        if (r == 0 && json_get_array(o, "accelerators", &accelerators, NULL) > 0 && json_object_array_length(accelerators) > 0) {
                json_object *first = json_object_array_get_idx(accelerators, 0);

                (void) json_get_u64(first, "guestAcceleratorCount", UINT32_MAX, &gpus, NULL);
                r = copy_text(json_path_string(first, "guestAcceleratorType", NULL), &t.gpu_model);
        }
        if (r < 0) {
                instance_type_done(&t);
                return r;
        }
        t.vcpus = (uint32_t) vcpus;
        t.gpus = (uint32_t) gpus;
        *ret = t;
        return 0;
}

/* One question for each: of all that a zone has, hundreds, a few are allowed. 1: *ret; 0: there is no such type in the zone. */
static int fetch_type(Gcp *g, const PeerpodCall *call, const char *name, InstanceType *ret, PeerpodError *error) {
        const GcpQuery q = { .what = "machineTypes.get", .method = "GET", .repeatable = true };
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        _cleanup_(freep) char *url = gcp_url(g, "zones/%s/machineTypes/%s", g->zone, name);
        int r;

        r = gcp_query(g, call, &q, url, &reply, error);
        if (r < 0 && reply.status == 404) {
                peerpod_log(call, LOG_WARNING, "Zone '%s' has no machine type '%s'.", g->zone, name);
                return 0;
        }
        if (r < 0)
                return r;
        return read_type(reply.root, name, ret) < 0 ? oom(error) : 1;
}

int machine_types_fetch(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error) {
        Gcp *g = userdata;
        const char *p = g->machine_types, *item;
        bool has_default = list_contains(g->machine_types, g->machine_type);
        InstanceType *types = new0(InstanceType, TYPES_MAX);
        size_t n = 0, size;
        int r = types ? 0 : oom(error);

        while (r >= 0 && n < TYPES_MAX - 1 && list_next(&p, &item, &size)) {
                _cleanup_(freep) char *name = strndup(item, size);

                r = name ? fetch_type(g, call, name, types + n, error) : oom(error);
                n += r > 0;
        }
        if (r >= 0 && !has_default) {
                r = fetch_type(g, call, g->machine_type, types + n, error);
                n += r > 0;
        }
        if (r < 0) {
                FOREACH_ELEMENT(InstanceType, t, types, n)
                        instance_type_done(t);
                free(types);
                return r;
        }
        *ret = types;
        *ret_n = n;
        return 0;
}

bool machine_type_has_no_confidential_mode(const char *machine_type) {
        /* Compute Engine documentation, "Confidential VM supported configurations": older and shared-core series will not get one. */
        static const char *const series[] = { "e2-", "f1-", "g1-", "n1-", "t2a-", "t2d-", "m1-", "m2-", NULL };

        for (const char *const *s = series; *s; s++)
                if (startswith(machine_type, *s))
                        return true;
        return false;
}

void image_done(GcpImage *i) {
        free(i->resource);
        free(i->architecture);
        *i = (GcpImage) {};
}

/* Any form → "projects/P/global/images/N" or "projects/P/global/images/family/F" */
static char* image_resource(const Gcp *g, const char *name) {
        const char *path = strstr(name, "projects/"), *rest = name;
        char *s;

        if (path && (path == name || path[-1] == '/'))
                return strdup(path);
        if (startswith(name, "global/images/"))
                rest = name + strlen("global/images/");
        return asprintf(&s, "projects/%s/global/images/%s", g->project, rest) < 0 ? NULL : s;
}

static bool resource_is_plain(const char *s) {
        return !isempty(s) && strlen(s) < 512 && !strstr(s, "..") &&
                strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:") == strlen(s);
}

int image_get(Gcp *g, const PeerpodCall *call, const char *name, GcpImage *ret, PeerpodError *error) {
        const GcpQuery q = { .what = "images.get", .method = "GET", .repeatable = true };
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        _cleanup_(freep) char *resource = NULL, *url = NULL;
        _cleanup_(image_done) GcpImage image = {};
        const char *size, *status, *self;
        int r;

        if (!resource_is_plain(name))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no name of an image.", name);
        resource = image_resource(g, name);
        if (!resource)
                return oom(error);
        url = gcp_resource_url(g, resource);
        r = gcp_query(g, call, &q, url, &reply, error);
        if (r < 0 && reply.status == 404)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no image '%s'.", resource);
        if (r < 0)
                return r;

        status = json_path_string(reply.root, "status", NULL);
        if (status && !streq(status, "READY"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Image '%s' is not ready: it is %.32s.", resource, status);
        size = json_path_string(reply.root, "diskSizeGb", NULL);
        self = json_path_string(reply.root, "selfLink", NULL);
        if (self && (self = strstr(self, "projects/")) && resource_is_plain(self)) {
                /* A family's answer is the image that it stands for now. */
                image.resource = strdup(self);
        } else
                image.resource = TAKE_PTR(resource);
        if (!image.resource || copy_text(architecture_of(reply.root), &image.architecture) < 0)
                return oom(error);
        if (size && parse_u64(size, &image.size_gib) < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "images.get: the size of image '%s' is no number.", image.resource);
        *ret = image;
        image = (GcpImage) {};
        return 0;
}

char* disk_resource(const Gcp *g, const char *disk) {
        const char *path = strstr(disk, "projects/");
        char *s;

        if (path)
                return strdup(path);
        return asprintf(&s, "projects/%s/zones/%s/disks/%s", g->project, g->zone, disk) < 0 ? NULL : s;
}

static int check_disk(Gcp *g, const PeerpodCall *call, const char *disk, const char *instance, PeerpodError *error) {
        const GcpQuery q = { .what = "disks.get", .method = "GET", .repeatable = true };
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        _cleanup_(freep) char *resource = NULL, *url = NULL, *zone = NULL;
        json_object *users = NULL;
        const char *status, *user;
        int r;

        if (!resource_is_plain(disk))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no name of a disk.", disk);
        resource = disk_resource(g, disk);
        if (!resource || asprintf(&zone, "/zones/%s/", g->zone) < 0)
                return oom(error);
        if (!strstr(resource, zone))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Disk '%s' is not in zone '%s', where pod VMs are made.", resource, g->zone);
        url = gcp_resource_url(g, resource);
        r = gcp_query(g, call, &q, url, &reply, error);
        if (r < 0 && reply.status == 404)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no disk '%s'.", resource);
        if (r < 0)
                return r;
        status = json_path_string(reply.root, "status", NULL);
        if (status && !streq(status, "READY"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Disk '%s' is not ready: it is %.32s.", resource, status);
        if (json_get_array(reply.root, "users", &users, NULL) > 0 && json_object_array_length(users) > 0) {
                user = json_object_get_string(json_object_array_get_idx(users, 0));
                if (!streq(strrchr(user, '/') ? strrchr(user, '/') + 1 : user, instance))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Disk '%s' is attached to '%.128s'.", resource, user);
        }
        return 0;
}

int disks_check(Gcp *g, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        for (uint64_t i = 0; i < spec->n_volumes; i++) {
                int r = check_disk(g, call, spec->volumes[i], spec->name, error);

                if (r < 0)
                        return r;
        }
        return 0;
}
