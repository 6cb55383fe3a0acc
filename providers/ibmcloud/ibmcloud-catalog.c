/* SPDX-License-Identifier: Apache-2.0 */
#include "ibmcloud.h"

#include <json-c/json.h>
#include <syslog.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"

#define TYPES_MAX 4096
#define CLUSTER_GROUP_RETRY_USEC (UINT64_C(60) * 1000000)

/* ---- place ---- */

static int copy_or(const char *configured, const char *found, char **ret) {
        *ret = strdup(isempty(configured) ? found : configured);
        return *ret ? 0 : -ENOMEM;
}

static void place_free(VpcPlace *p) {
        free(p->zone);
        free(p->vpc);
        free(p->resource_group);
        free(p);
}

DEFINE_CLEANUP(VpcPlace*, place_free);

/* A subnet that cannot be read matters only if something is missing without it. */
int vpc_find_place(Vpc *v, const PeerpodCall *call, const VpcPlace **ret, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        _cleanup_(place_freep) VpcPlace *place = NULL;
        int r;

        (void) pthread_mutex_lock(&v->mutex);
        *ret = v->place;
        (void) pthread_mutex_unlock(&v->mutex);
        if (*ret)
                return 0;

        if (isempty(v->zone) || isempty(v->vpc)) {
                r = vpc_get(v, call, "Subnet", vpc_url(v, "/subnets/%s", v->subnet), &reply, error);
                if (r < 0)
                        return r;
        }
        place = new0(VpcPlace, 1);
        if (!place || copy_or(v->zone, json_path_string(reply.body, "zone.name", ""), &place->zone) < 0 ||
            copy_or(v->vpc, json_path_string(reply.body, "vpc.id", ""), &place->vpc) < 0 ||
            copy_or(v->resource_group, json_path_string(reply.body, "resource_group.id", ""), &place->resource_group) < 0)
                return oom(error);
        if (isempty(place->zone) || isempty(place->vpc))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Subnet '%s' names no zone or no VPC: set IBMCLOUD_ZONE and IBMCLOUD_VPC_ID.",
                                         v->subnet);

        (void) pthread_mutex_lock(&v->mutex);
        if (!v->place)
                v->place = TAKE_PTR(place);
        *ret = v->place;
        (void) pthread_mutex_unlock(&v->mutex);
        return 0;
}

/* ---- dedicated hosts ---- */

static int find_in_zone(Vpc *v, const PeerpodCall *call, const char *list, const char *path, const char *what, const char *zone, char **ret,
                        PeerpodError *error) {
        const char *item;
        size_t n;

        for (const char *p = list; list_next(&p, &item, &n);) {
                _cleanup_(ibm_reply_done) IbmReply reply = {};
                int r;

                r = vpc_get(v, call, what, vpc_url(v, "%s/%.*s", path, (int) n, item), &reply, error);
                if (r < 0)
                        return r;
                if (!streq(json_path_string(reply.body, "zone.name", ""), zone))
                        continue;
                *ret = strndup(item, n);
                return *ret ? 0 : oom(error);
        }
        if (!isempty(list))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s: none of '%s' is in zone '%s'.", what, list, zone);
        *ret = strdup("");
        return *ret ? 0 : oom(error);
}

int vpc_find_hosts(Vpc *v, const PeerpodCall *call, const char *zone, const char **ret_host, const char **ret_group, PeerpodError *error) {
        _cleanup_(freep) char *host = NULL, *group = NULL;
        bool known;
        int r;

        (void) pthread_mutex_lock(&v->mutex);
        known = v->host != NULL;
        (void) pthread_mutex_unlock(&v->mutex);
        if (!known) {
                r = find_in_zone(v, call, v->hosts, "/dedicated_hosts", "Dedicated host", zone, &host, error);
                if (r == 0)
                        r = find_in_zone(v, call, v->host_groups, "/dedicated_host/groups", "Dedicated host group", zone, &group, error);
                if (r < 0)
                        return r;
        }

        (void) pthread_mutex_lock(&v->mutex);
        if (!v->host) {
                v->host = TAKE_PTR(host);
                v->host_group = TAKE_PTR(group);
        }
        *ret_host = v->host;
        *ret_group = v->host_group;
        (void) pthread_mutex_unlock(&v->mutex);
        return 0;
}

/* ---- the cluster's security group (cloud-api-adaptor: src/cloud-providers/ibmcloud/cluster.go) ---- */

static int ask_cluster_group(Vpc *v, const PeerpodCall *call, char **ret, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        json_object *items;
        char name[160];
        int r;

        r = ibm_call(&v->api, call, &(IbmRequest) {
                .method = "GET",
                .what = "Cluster's security groups",
                .url = ibm_url(v->containers_url, "/network/v2/security-group/getSecurityGroups?cluster=%s&type=cluster", v->cluster),
                .array = true,
        }, &reply, error);
        if (r < 0)
                return r;
        (void) snprintf(name, sizeof(name), "kube-%s", v->cluster);
        if (json_get_array(reply.body, "items", &items, NULL) > 0)
                for (size_t i = 0; i < json_object_array_length(items); i++) {
                        json_object *g = json_object_array_get_idx(items, i);

                        if (json_object_is_type(g, json_type_object) && streq(json_path_string(g, "name", ""), name) && ibm_id_is_valid(json_path_string(g, "id", ""))) {
                                *ret = strdup(json_path_string(g, "id", ""));
                                return *ret ? 0 : oom(error);
                        }
                }
        return peerpod_error_set(error, PEERPOD_E_NOT_FOUND, "Cluster's security groups: there is no '%s'.", name);
}

int vpc_find_cluster_group(Vpc *v, const PeerpodCall *call, const char **ret, PeerpodError *error) {
        PeerpodError why = { .size = sizeof(why) };
        char *group = NULL;
        bool ask;
        int r = 0;

        (void) pthread_mutex_lock(&v->mutex);
        *ret = strempty(v->cluster_group);
        ask = !v->cluster_group && !isempty(v->cluster) && peerpod_now_usec() >= v->cluster_group_retry_usec;
        (void) pthread_mutex_unlock(&v->mutex);
        if (!ask)
                return 0;

        r = ask_cluster_group(v, call, &group, &why);
        if (r < 0 && peerpod_call_check(call, error) < 0)
                return peerpod_call_check(call, error);
        if (r < 0)
                peerpod_log(call, LOG_WARNING, "The security group of cluster '%s' is not added to pod VMs: %s", v->cluster, why.text);

        (void) pthread_mutex_lock(&v->mutex);
        if (group && !v->cluster_group)
                v->cluster_group = TAKE_PTR(group);
        else if (r < 0)
                v->cluster_group_retry_usec = peerpod_now_usec() + CLUSTER_GROUP_RETRY_USEC;
        *ret = strempty(v->cluster_group);
        (void) pthread_mutex_unlock(&v->mutex);
        free(group);
        return 0;
}

/* ---- profiles ---- */

bool vpc_architecture(const char *name, const char **ret) {
        static const char *const names[][2] = { { "amd64", "x86_64" }, { "arm64", "aarch64" }, { "s390x", "s390x" } };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (streq(name, names[i][0])) {
                        *ret = names[i][1];
                        return true;
                }
        return false;
}

/* Only "fixed" has a value; what a profile lets one choose ("range", "enum") comes as its default, what "depends" stays unknown. */
static uint64_t number_of(json_object *profile, const char *key, uint64_t max) {
        json_object *o;
        uint64_t n = 0;

        if (json_get_object(profile, key, &o, NULL) <= 0)
                return 0;
        if (json_get_u64(o, "value", max, &n, NULL) <= 0)
                (void) json_get_u64(o, "default", max, &n, NULL);
        return n;
}

static char* gpu_model_of(json_object *profile) {
        json_object *o, *values, *first;

        if (json_get_object(profile, "gpu_model", &o, NULL) <= 0 || json_get_array(o, "values", &values, NULL) <= 0 ||
            json_object_array_length(values) == 0)
                return NULL;
        first = json_object_array_get_idx(values, 0);
        return json_object_is_type(first, json_type_string) ? text_make_plain(json_object_get_string(first), 128) : NULL;
}

typedef struct Types {
        const Vpc *vpc;
        InstanceType *types;
        size_t n;
} Types;

static int add_type(void *userdata, json_object *profile) {
        Types *t = userdata;
        InstanceType *type;
        const char *name = json_path_string(profile, "name", ""), *architecture = NULL;

        if (!list_contains(t->vpc->profiles, name) && !streq(name, t->vpc->default_profile))
                return 0;
        if (grow_array(&t->types, t->n, TYPES_MAX, sizeof(InstanceType)) < 0)
                return -ENOMEM;
        (void) vpc_architecture(json_path_string(profile, "vcpu_architecture.value", ""), &architecture);
        type = &t->types[t->n++];
        *type = (InstanceType) {
                .name = strdup(name),
                .vcpus = number_of(profile, "vcpu_count", UINT32_MAX),
                .memory_mib = number_of(profile, "memory", UINT32_MAX) * 1024,
                .gpus = number_of(profile, "gpu_count", UINT32_MAX),
                .gpu_model = gpu_model_of(profile),
                .architecture = architecture ? strdup(architecture) : NULL,
        };
        return type->name && (!architecture || type->architecture) ? 0 : -ENOMEM;
}

int vpc_fetch_types(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error) {
        Vpc *v = userdata;
        Types t = { .vpc = v };
        int r;

        r = vpc_list(v, call, "Instance profiles", "/instance/profiles", "limit=100", "profiles", add_type, &t, error);
        if (r < 0) {
                for (size_t i = 0; i < t.n; i++)
                        instance_type_done(&t.types[i]);
                free(t.types);
                return r;
        }
        *ret = t.types;
        *ret_n = t.n;
        return 0;
}

/* ---- images ---- */

typedef struct Image {
        char *id;
        const char *architecture;       /* constant, or NULL */
} Image;

#define IMAGES_MAX 64

/* 1: usable, 0: not, and *why says it; negative: it cannot be told */
static int look_at_image(Vpc *v, const PeerpodCall *call, const char *id, const char **ret_architecture, char *why, size_t size, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        const char *status;
        int r;

        r = vpc_get(v, call, "Image", vpc_url(v, "/images/%s", id), &reply, error);
        if (r < 0 && reply.status != 404)
                return r;
        if (r < 0) {
                (void) snprintf(why, size, "image '%s' does not exist", id);
                return 0;
        }
        status = json_path_string(reply.body, "status", "");
        *ret_architecture = NULL;
        (void) vpc_architecture(json_path_string(reply.body, "operating_system.architecture", ""), ret_architecture);
        if (!streq(status, "available") && !streq(status, "deprecated")) {
                (void) snprintf(why, size, "image '%s' is %.32s", id, status);
                return 0;
        }
        return 1;
}

static void images_done(Image *images) {
        for (size_t i = 0; i < IMAGES_MAX; i++)
                free(images[i].id);
}

static int read_images(Vpc *v, const PeerpodCall *call, const char *list, Image *images, size_t *ret_n, PeerpodError *error) {
        const char *item;
        char why[256] = "IBMCLOUD_PODVM_IMAGE_ID is empty";
        size_t n, count = 0;

        for (const char *p = list; count < IMAGES_MAX && list_next(&p, &item, &n);) {
                _cleanup_(freep) char *id = strndup(item, n);
                int r;

                if (!id)
                        return oom(error);
                if (!ibm_id_is_valid(id))
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Image '%.128s' is no image's id.", id);
                r = look_at_image(v, call, id, &images[count].architecture, why, sizeof(why), error);
                if (r < 0)
                        return r;
                if (r == 0) {
                        peerpod_log(call, LOG_WARNING, "Not used: %s.", why);
                        continue;
                }
                images[count++].id = TAKE_PTR(id);
        }
        *ret_n = count;
        if (count == 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no usable image: %s.", why);
        return 0;
}

static bool has_value(json_object *profile, const char *key, const char *text) {
        json_object *o, *values;

        if (json_get_object(profile, key, &o, NULL) <= 0 || json_get_array(o, "values", &values, NULL) <= 0)
                return false;
        for (size_t i = 0; i < json_object_array_length(values); i++)
                if (streq(strempty(json_object_get_string(json_object_array_get_idx(values, i))), text))
                        return true;
        return false;
}

/* IBM Secure Execution is a matter of profile ("bz2e-…") and image; TDX one of the request, which the profile must allow. */
static int check_confidential(Vpc *v, const PeerpodCall *call, const char *profile, const char *architecture, bool *ret_tdx, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        const char *dash = strchr(profile, '-');
        int r;

        if (architecture && streq(architecture, "s390x")) {
                if (dash && dash > profile && dash[-1] == 'e')
                        return 0;
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                         "DISABLECVM=false: profile '%s' has no Secure Execution; those that have it are named like 'bz2e-2x8'.", profile);
        }
        r = vpc_get(v, call, "Instance profile", vpc_url(v, "/instance/profiles/%s", profile), &reply, error);
        if (r < 0)
                return r;
        if (!has_value(reply.body, "confidential_compute_modes", "tdx") || !has_value(reply.body, "secure_boot_modes", "true"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "DISABLECVM=false: profile '%s' cannot do TDX with secure boot.", profile);
        *ret_tdx = true;
        return 0;
}

void vpc_choice_done(VpcChoice *c) {
        free(c->profile);
        free(c->image);
}

static int choose(Vpc *v, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const Image *images, size_t n, VpcChoice *ret, PeerpodError *error) {
        InstanceType type = {};
        bool same = true;
        int r;

        for (size_t i = 1; i < n; i++)
                if (!streq_ptr(images[i].architecture, images[0].architecture))
                        same = false;
        r = instance_type_cache_choose(v->types, call, &(InstanceTypeWish) {
                .spec = spec,
                .default_type = v->default_profile,
                .allowed = v->profiles,
                .allowed_option = "IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST",
                .architecture = same ? images[0].architecture : NULL,
        }, &ret->profile, &type, error);
        if (r < 0)
                return r;

        for (size_t i = 0; i < n && !ret->image; i++)
                if (!type.architecture || !images[i].architecture || streq(type.architecture, images[i].architecture)) {
                        ret->image = strdup(images[i].id);
                        if (!ret->image)
                                r = oom(error);
                }
        if (r == 0 && !ret->image)
                r = peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "No image is for profile '%s' (%s).", ret->profile, type.architecture);
        if (r == 0 && v->confidential)
                r = check_confidential(v, call, ret->profile, type.architecture, &ret->tdx, error);
        instance_type_done(&type);
        return r;
}

int vpc_choose(Vpc *v, const PeerpodCall *call, const PeerpodInstanceSpec *spec, VpcChoice *ret, PeerpodError *error) {
        _cleanup_(vpc_choice_done) VpcChoice choice = {};
        Image images[IMAGES_MAX] = {};
        size_t n = 0;
        int r;

        if (strchr(spec->image, ','))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Image '%.128s' is no image's id.", spec->image);
        r = read_images(v, call, isempty(spec->image) ? v->images : spec->image, images, &n, error);
        if (r == 0)
                r = choose(v, call, spec, images, n, &choice, error);
        images_done(images);
        if (r < 0)
                return r;
        *ret = choice;
        choice = (VpcChoice) {};
        return 0;
}
