/* SPDX-License-Identifier: Apache-2.0 */
#include "azure-disk.h"

#include <json-c/json.h>
#include <strings.h>

#include "azure-api.h"
#include "azure-id.h"
#include "basic/parse.h"
#include "basic/strv.h"

void azure_disks_done(AzureDisks *d) {
        d->ids = strv_free(d->ids);
}

/* A whole resource id, or the name of a disk in our resource group. */
static int resolve(const Azure *a, const char *volume, char **ret, PeerpodError *error) {
        ArmId id;

        if (volume[0] == '/') {
                if (arm_id_parse(volume, &id) < 0 || !arm_id_is(&id, "Microsoft.Compute/disks"))
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Volume '%.256s' is no managed disk's resource id.", volume);
                if (strcasecmp(id.subscription, azure_text(a, OPTION_SUBSCRIPTION)) != 0)
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Disk '%s' is in another subscription.", id.name);
                *ret = strdup(volume);
        } else {
                if (strchr(volume, '/') || asprintf(ret, "/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/disks/%s",
                                                    azure_text(a, OPTION_SUBSCRIPTION), azure_text(a, OPTION_GROUP), volume) < 0)
                        *ret = NULL;
                if (*ret && arm_id_parse(*ret, &id) < 0) {
                        free(*ret);
                        *ret = NULL;
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Volume '%.256s' is no disk's name.", volume);
                }
        }
        return *ret ? 0 : oom(error);
}

static int check_zone(json_object *disk, const char *volume, AzureDisks *d, PeerpodError *error) {
        json_object *zones = json_path_array(disk, "zones"), *first;
        const char *zone;

        if (!zones || json_object_array_length(zones) == 0)
                return 0;
        first = json_object_array_get_idx(zones, 0);
        zone = json_object_is_type(first, json_type_string) ? json_object_get_string(first) : "";
        if (!*zone || strlen(zone) >= sizeof(d->zone))
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Disk '%.128s' has a zone that is none.", volume);
        if (*d->zone && !streq(d->zone, zone))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The pod's disks are in different zones: '%.128s' is in %s, others in %s.",
                                         volume, zone, d->zone);
        strcpy(d->zone, zone);
        return 0;
}

static int check(Azure *a, const PeerpodCall *call, const char *volume, const char *id, AzureDisks *d, PeerpodError *error) {
        _cleanup_(freep) char *url = azure_url_of(a, id, API_DISKS);
        _cleanup_(json_object_putp) json_object *disk = NULL;
        const char *state, *location;
        uint64_t shares = 1;
        int r;

        r = azure_get(a, call, "Looking at a volume", url, &disk, error);
        if (r == -ENOENT)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Disk '%.256s' does not exist.", volume);
        if (r < 0)
                return r;

        (void) json_get_u64(json_path(disk, "properties"), "maxShares", UINT32_MAX, &shares, NULL);
        state = json_path_string(disk, "properties.diskState", "");
        if ((strcasecmp(state, "Attached") == 0 || strcasecmp(state, "Reserved") == 0) && shares < 2) {
                ArmId by = {};

                (void) arm_id_parse(json_path_string(disk, "managedBy", ""), &by);
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Disk '%.256s' is attached to VM '%s'.", volume,
                                         *by.name ? by.name : "?");
        }
        location = json_path_string(disk, "location", "");
        if (!arm_location_equal(location, azure_text(a, OPTION_REGION))) {
                _cleanup_(freep) char *plain = text_make_plain(location, 64);

                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Disk '%.256s' is in region '%s', not in '%s'.", volume,
                                         strempty(plain), azure_text(a, OPTION_REGION));
        }
        return check_zone(disk, volume, d, error);
}

int azure_disks_check(Azure *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, AzureDisks *ret, PeerpodError *error) {
        _cleanup_(azure_disks_done) AzureDisks d = {};
        int r;

        if (spec->n_volumes > AZURE_DISKS_MAX)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "The pod has %llu volumes, more than %d.",
                                         (unsigned long long) spec->n_volumes, AZURE_DISKS_MAX);
        d.ids = new0(char*, spec->n_volumes + 1);
        if (!d.ids)
                return oom(error);
        for (uint64_t i = 0; i < spec->n_volumes; i++) {
                r = resolve(a, spec->volumes[i], &d.ids[i], error);
                for (uint64_t k = 0; r == 0 && k < i; k++)
                        if (strcasecmp(d.ids[k], d.ids[i]) == 0)
                                r = peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Disk '%.256s' is named twice.", spec->volumes[i]);
                if (r == 0)
                        r = check(a, call, spec->volumes[i], d.ids[i], &d, error);
                if (r < 0)
                        return r;
        }
        *ret = d;
        d.ids = NULL;
        return 0;
}
