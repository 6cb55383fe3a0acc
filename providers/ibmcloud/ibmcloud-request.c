/* SPDX-License-Identifier: Apache-2.0 */
/* The body of POST /instances (ibm_vpc/vpc_v1.py: InstancePrototypeInstanceByImageInstanceByImageInstanceByNetworkInterface). */
#include "ibmcloud.h"

#include <json-c/json.h>

#include "basic/util.h"
#include "cloud-config.h"

/* {"id": …} as a member; nothing for an empty id */
static int set_named(json_object *o, const char *key, const char *name, const char *value) {
        json_object *i;

        if (isempty(value))
                return 0;
        i = json_object_new_object();
        if (!i || json_set_string(i, name, value) < 0) {
                json_object_put(i);
                return -ENOMEM;
        }
        return json_set(o, key, i);
}

static int add_id(json_object *array, const char *id, size_t n) {
        json_object *o = json_object_new_object();

        if (!o || json_set(o, "id", json_object_new_string_len(id, n)) < 0 || json_object_array_add(array, o) < 0) {
                json_object_put(o);
                return -ENOMEM;
        }
        return 0;
}

/* Lists of {"id": …}; absent when empty, so that the VPC's default group applies. */
static int set_ids(json_object *o, const char *key, const char *list, const char *one_more) {
        _cleanup_(json_object_putp) json_object *array = json_object_new_array();
        const char *item;
        size_t n;

        if (!array)
                return -ENOMEM;
        for (const char *p = list; list_next(&p, &item, &n);)
                if (add_id(array, item, n) < 0)
                        return -ENOMEM;
        if (!isempty(one_more) && !list_contains(list, one_more) && add_id(array, one_more, strlen(one_more)) < 0)
                return -ENOMEM;
        return json_object_array_length(array) == 0 ? 0 : json_set(o, key, TAKE_PTR(array));
}

static int set_interfaces(const Vpc *v, const VpcRequest *q, json_object *o) {
        _cleanup_(json_object_putp) json_object *primary = json_object_new_object(), *array = NULL;
        json_object *secondary;

        if (!primary || set_named(primary, "subnet", "id", v->subnet) < 0 ||
            set_ids(primary, "security_groups", v->security_groups, q->cluster_group) < 0 ||
            json_set(o, "primary_network_interface", TAKE_PTR(primary)) < 0)
                return -ENOMEM;
        if (isempty(v->secondary_subnet))
                return 0;

        array = json_object_new_array();
        secondary = json_object_new_object();
        if (!array || !secondary || json_object_array_add(array, secondary) < 0) {
                json_object_put(secondary);
                return -ENOMEM;
        }
        if (json_set_bool(secondary, "allow_ip_spoofing", true) < 0 || set_named(secondary, "subnet", "id", v->secondary_subnet) < 0 ||
            set_ids(secondary, "security_groups", v->secondary_security_group, NULL) < 0)
                return -ENOMEM;
        return json_set(o, "network_interfaces", TAKE_PTR(array));
}

/* The owner's tags are here: see ibmcloud.h. */
static int set_boot_volume(const Vpc *v, const VpcRequest *q, json_object *o) {
        _cleanup_(json_object_putp) json_object *attachment = json_object_new_object();
        json_object *volume = json_object_new_object();

        if (!attachment || json_set(attachment, "volume", volume) < 0)
                return -ENOMEM;
        if (json_set_bool(attachment, "delete_volume_on_instance_delete", true) < 0 ||
            set_named(volume, "profile", "name", v->boot_profile) < 0 ||
            set_named(volume, "resource_group", "id", q->place->resource_group) < 0 ||
            json_set(volume, "user_tags", ibm_owner_tags(q->spec)) < 0)
                return -ENOMEM;
        return json_set(o, "boot_volume_attachment", TAKE_PTR(attachment));
}

int vpc_build_request(const Vpc *v, const VpcRequest *q, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        json_object *metadata = json_object_new_object();

        if (!o || json_set(o, "metadata_service", metadata) < 0)
                return -ENOMEM;
        /* The VM's last resort if it has lost its seed disk; out of the containers' reach. */
        if (json_set_bool(metadata, "enabled", true) < 0 ||
            json_set_string(metadata, "protocol", "http") < 0 ||
            json_set_u64(metadata, "response_hop_limit", 1) < 0 ||
            json_set_string(o, "name", q->spec->name) < 0 ||
            json_set_string(o, "user_data", q->user_data) < 0 ||
            set_named(o, "image", "id", q->choice->image) < 0 ||
            set_named(o, "profile", "name", q->choice->profile) < 0 ||
            set_named(o, "zone", "name", q->place->zone) < 0 ||
            set_named(o, "vpc", "id", q->place->vpc) < 0 ||
            set_named(o, "resource_group", "id", q->place->resource_group) < 0 ||
            set_named(o, "placement_target", "id", q->target) < 0 ||
            set_ids(o, "keys", v->key, NULL) < 0 ||
            set_interfaces(v, q, o) < 0 ||
            set_boot_volume(v, q, o) < 0)
                return -ENOMEM;
        if (json_set_string(o, "confidential_compute_mode", q->choice->tdx ? "tdx" : "disabled") < 0 ||
            json_set_bool(o, "enable_secure_boot", q->choice->tdx) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(o);
        return 0;
}
