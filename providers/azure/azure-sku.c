/* SPDX-License-Identifier: Apache-2.0 */
#include "azure-sku.h"

#include <json-c/json.h>
#include <strings.h>

#include "azure-api.h"
#include "azure-id.h"
#include "basic/parse.h"
#include "cloud-form.h"

#define SKUS_MAX 65536
#define ZONES_MAX 16

void azure_sku_done(AzureSku *s) {
        free(s->name);
        free(s->confidential);
        free(s->zones);
        *s = (AzureSku) {};
}

void azure_skus_free(AzureSku *skus, size_t n) {
        FOREACH_ELEMENT(AzureSku, s, skus, n)
                azure_sku_done(s);
        free(skus);
}

/* "3.5" GiB → 3584 MiB; fractions of a MiB are dropped. */
static bool parse_gib(const char *s, uint64_t *ret_mib) {
        uint64_t whole = 0, fraction = 0, scale = 1;
        size_t n = strspn(s, "0123456789");

        if (n == 0 || n > 7)
                return false;
        for (size_t i = 0; i < n; i++)
                whole = whole * 10 + (uint64_t) (s[i] - '0');
        s += n;
        if (*s == '.')
                for (s++; *s >= '0' && *s <= '9' && scale < 1000000; s++, scale *= 10)
                        fraction = fraction * 10 + (uint64_t) (*s - '0');
        if (*s && scale < 1000000)
                return false;
        *ret_mib = whole * 1024 + fraction * 1024 / scale;
        return true;
}

static uint32_t parse_count(const char *s) {
        uint32_t n = 0;

        (void) parse_u32(s, &n);
        return n;
}

static int take_capability(const char *name, const char *value, InstanceType *t, AzureSku *s) {
        if (streq(name, "vCPUs") || streq(name, "vCPUsAvailable"))
                /* Constrained sizes show fewer than the machine has. */
                t->vcpus = streq(name, "vCPUs") && t->vcpus > 0 ? t->vcpus : parse_count(value);
        else if (streq(name, "MemoryGB"))
                return parse_gib(value, &t->memory_mib) ? 0 : -EBADMSG;
        else if (streq(name, "GPUs"))
                t->gpus = parse_count(value);
        else if (streq(name, "MaxDataDiskCount"))
                s->disks_max = parse_count(value);
        else if (streq(name, "MaxNetworkInterfaces"))
                s->nics_max = parse_count(value);
        else if (streq(name, "ConfidentialComputingType") && !s->confidential) {
                s->confidential = text_make_plain(value, 16);
                return s->confidential ? 0 : -ENOMEM;
        } else if (streq(name, "CpuArchitectureType") && !t->architecture) {
                t->architecture = strdup(strcasecmp(value, "Arm64") == 0 ? "aarch64" : "x86_64");
                return t->architecture ? 0 : -ENOMEM;
        }
        return 0;
}

static int take_capabilities(json_object *item, InstanceType *t, AzureSku *s) {
        json_object *list = json_path_array(item, "capabilities");

        for (size_t i = 0; list && i < json_object_array_length(list); i++) {
                json_object *c = json_object_array_get_idx(list, i);
                int r = take_capability(json_path_string(c, "name", ""), json_path_string(c, "value", ""), t, s);

                if (r < 0)
                        return r;
        }
        return 0;
}

static bool array_has(json_object *list, const char *s, bool location) {
        for (size_t i = 0; list && i < json_object_array_length(list); i++) {
                json_object *v = json_object_array_get_idx(list, i);
                const char *t = v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";

                if (location ? arm_location_equal(t, s) : streq(t, s))
                        return true;
        }
        return false;
}

/* A zone that a restriction names is as good as none. */
static bool zone_is_restricted(json_object *restrictions, const char *zone) {
        for (size_t i = 0; restrictions && i < json_object_array_length(restrictions); i++) {
                json_object *r = json_object_array_get_idx(restrictions, i);

                if (strcasecmp(json_path_string(r, "type", ""), "Zone") == 0 && array_has(json_path_array(r, "restrictionInfo.zones"), zone, false))
                        return true;
        }
        return false;
}

static bool region_is_restricted(json_object *restrictions, const char *region) {
        for (size_t i = 0; restrictions && i < json_object_array_length(restrictions); i++) {
                json_object *r = json_object_array_get_idx(restrictions, i);

                if (strcasecmp(json_path_string(r, "type", ""), "Location") == 0 &&
                    (array_has(json_path_array(r, "values"), region, true) || array_has(json_path_array(r, "restrictionInfo.locations"), region, true)))
                        return true;
        }
        return false;
}

static int take_zones(json_object *item, const char *region, json_object *restrictions, AzureSku *s) {
        json_object *infos = json_path_array(item, "locationInfo");
        char zones[ZONES_MAX * 8] = "";
        size_t at = 0;

        for (size_t i = 0; infos && i < json_object_array_length(infos); i++) {
                json_object *info = json_object_array_get_idx(infos, i), *list = json_path_array(info, "zones");

                if (!arm_location_equal(json_path_string(info, "location", ""), region))
                        continue;
                for (size_t k = 0; list && k < json_object_array_length(list); k++) {
                        json_object *v = json_object_array_get_idx(list, k);
                        const char *zone = v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";

                        if (!*zone || strlen(zone) > 6 || strchr(zone, ',') || zone_is_restricted(restrictions, zone) ||
                            at + strlen(zone) + 2 > sizeof(zones))
                                continue;
                        at += (size_t) snprintf(zones + at, sizeof(zones) - at, "%s%s", at > 0 ? "," : "", zone);
                }
        }
        s->zones = strdup(zones);
        return s->zones ? 0 : -ENOMEM;
}

int azure_sku_parse(json_object *item, const char *region, InstanceType *ret_type, AzureSku *ret_sku) {
        json_object *restrictions = json_path_array(item, "restrictions");
        const char *name = json_path_string(item, "name", ""), *family = json_path_string(item, "family", "");
        InstanceType t = {};
        AzureSku s = {};
        int r;

        if (strcasecmp(json_path_string(item, "resourceType", ""), "virtualMachines") != 0 || !array_has(json_path_array(item, "locations"), region, true))
                return 0;
        if (!*name || !text_is_plain(name, 63))
                return -EBADMSG;

        s.restricted = region_is_restricted(restrictions, region);
        t.name = strdup(name);
        s.name = strdup(name);
        r = t.name && s.name ? 0 : -ENOMEM;
        if (r == 0)
                r = take_capabilities(item, &t, &s);
        if (r == 0)
                r = take_zones(item, region, restrictions, &s);
        if (r == 0 && t.gpus > 0) {
                /* The family names the model: "standardNCASv3_T4Family". */
                t.gpu_model = text_make_plain(family, 63);
                r = t.gpu_model ? 0 : -ENOMEM;
        }
        if (r < 0) {
                instance_type_done(&t);
                azure_sku_done(&s);
                return r;
        }
        *ret_type = t;
        *ret_sku = s;
        return 1;
}

typedef struct Listing {
        const char *region;
        InstanceType *types;
        AzureSku *skus;
        size_t n_types, n_skus;
} Listing;

static void listing_done(Listing *l) {
        FOREACH_ELEMENT(InstanceType, t, l->types, l->n_types)
                instance_type_done(t);
        free(l->types);
        azure_skus_free(l->skus, l->n_skus);
}

static int take_item(void *userdata, json_object *item, PeerpodError *error) {
        Listing *l = userdata;
        InstanceType t = {};
        AzureSku s = {};
        int r;

        r = azure_sku_parse(item, l->region, &t, &s);
        if (r == 0 || r == -EBADMSG)
                return 0;       /* one odd entry does not hide the others */
        if (r > 0)
                r = grow_array(&l->skus, l->n_skus, SKUS_MAX, sizeof(AzureSku));
        if (r == 0)
                r = grow_array(&l->types, l->n_types, SKUS_MAX, sizeof(InstanceType));
        if (r < 0) {
                instance_type_done(&t);
                azure_sku_done(&s);
                return r == -E2BIG ? peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of VM sizes is too long.") : oom(error);
        }
        l->skus[l->n_skus++] = s;
        /* What may not be used is not chosen either; that it is known says a better reason when a pod names it. */
        if (s.restricted)
                instance_type_done(&t);
        else
                l->types[l->n_types++] = t;
        return 0;
}

int azure_skus_fetch(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error) {
        _cleanup_(listing_done) Listing l = {};
        _cleanup_(form_done) Form f = {};
        _cleanup_(freep) char *url = NULL;
        Azure *a = userdata;
        int r;

        l.region = azure_text(a, OPTION_REGION);
        form_add(&f, "api-version", API_SKUS);
        form_addf(&f, "$filter", "location eq '%s'", l.region);
        if (!form_text(&f) || asprintf(&url, "%s/subscriptions/%s/providers/Microsoft.Compute/skus?%s", azure_text(a, OPTION_ENDPOINT),
                                       azure_text(a, OPTION_SUBSCRIPTION), form_text(&f)) < 0)
                return oom(error);
        r = azure_list(a, call, "Listing the VM sizes", url, take_item, &l, error);
        if (r < 0)
                return r;

        (void) pthread_mutex_lock(&a->mutex);
        azure_skus_free(a->skus, a->n_skus);
        a->skus = TAKE_PTR(l.skus);
        a->n_skus = l.n_skus;
        (void) pthread_mutex_unlock(&a->mutex);
        l.n_skus = 0;
        *ret = TAKE_PTR(l.types);
        *ret_n = l.n_types;
        l.n_types = 0;
        return 0;
}

int azure_sku_copy(Azure *a, const char *name, AzureSku *ret) {
        int r = 0;

        (void) pthread_mutex_lock(&a->mutex);
        FOREACH_ELEMENT(AzureSku, s, a->skus, a->n_skus)
                if (strcasecmp(s->name, name) == 0) {
                        *ret = *s;
                        ret->name = strdup(s->name);
                        ret->confidential = s->confidential ? strdup(s->confidential) : NULL;
                        ret->zones = strdup(s->zones);
                        r = ret->name && ret->zones && (ret->confidential || !s->confidential) ? 1 : -ENOMEM;
                        break;
                }
        (void) pthread_mutex_unlock(&a->mutex);
        if (r < 0)
                azure_sku_done(ret);
        return r;
}

int azure_sku_check(Azure *a, const char *name, const char *zone, bool two_nics, size_t n_disks, PeerpodError *error) {
        _cleanup_(azure_sku_done) AzureSku s = {};
        int r = azure_sku_copy(a, name, &s);

        if (r <= 0)
                return r < 0 ? oom(error) : 0;
        if (s.restricted)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM size '%s' is not available to this subscription in region '%s'.",
                                         s.name, azure_text(a, OPTION_REGION));
        if (a->confidential && !s.confidential)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                         "VM size '%s' has no confidential VMs, which DISABLECVM=false asks for.", s.name);
        if (*zone && !list_contains(s.zones, zone))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM size '%s' is not available in zone %.16s of region '%s' (has: %s).",
                                         s.name, zone, azure_text(a, OPTION_REGION), *s.zones ? s.zones : "none");
        if (two_nics && s.nics_max == 1)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM size '%s' has one network interface only.", s.name);
        if (s.disks_max > 0 && n_disks > s.disks_max)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The pod has %zu volumes, VM size '%s' takes %u data disks.",
                                         n_disks, s.name, s.disks_max);
        return 0;
}
