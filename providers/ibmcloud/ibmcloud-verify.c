/* SPDX-License-Identifier: Apache-2.0 */
/* What --check asks the cloud. VPC has no dry run: that we may list is asked, that we may create is not. */
#include "ibmcloud.h"

#include "basic/util.h"
#include "cloud-config.h"

static int check_exists(Vpc *v, const PeerpodCall *call, const char *what, const char *path, const char *list, const char *variable, PeerpodError *error) {
        const char *item;
        size_t n;

        for (const char *p = list; list_next(&p, &item, &n);) {
                _cleanup_(ibm_reply_done) IbmReply reply = {};
                int r;

                r = vpc_get(v, call, what, vpc_url(v, "%s/%.*s", path, (int) n, item), &reply, error);
                if (r < 0 && reply.status == 404)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s '%.*s' of %s does not exist.", what, (int) n, item, variable);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_subnet(Vpc *v, const PeerpodCall *call, const char *subnet, const char *variable, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        const char *zone;
        uint64_t left;
        int r;

        r = vpc_get(v, call, "Subnet", vpc_url(v, "/subnets/%s", subnet), &reply, error);
        if (r < 0 && reply.status == 404)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Subnet '%s' of %s does not exist.", subnet, variable);
        if (r < 0)
                return r;
        zone = json_path_string(reply.body, "zone.name", "");
        if (!isempty(v->zone) && !streq(zone, v->zone))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Subnet '%s' of %s is in zone '%.64s', not in '%s' of IBMCLOUD_ZONE.", subnet,
                                         variable, zone, v->zone);
        if (!isempty(v->vpc) && !streq(json_path_string(reply.body, "vpc.id", ""), v->vpc))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Subnet '%s' of %s is not in the VPC of IBMCLOUD_VPC_ID.", subnet, variable);
        if (json_get_u64(reply.body, "available_ipv4_address_count", UINT64_MAX, &left, NULL) > 0 && left == 0)
                return peerpod_error_set(error, PEERPOD_E_EXHAUSTED, "Subnet '%s' of %s has no free address.", subnet, variable);
        return 0;
}

static int check_image_format(Vpc *v, const PeerpodCall *call, const char *image, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        const char *format;
        int r;

        r = vpc_get(v, call, "Image", vpc_url(v, "/images/%s", image), &reply, error);
        if (r < 0)
                return r;
        format = json_path_string(reply.body, "operating_system.user_data_format", "");
        if (!isempty(format) && !streq(format, "cloud_init"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Image '%s' takes user data as '%.32s': import it as an operating system of format 'cloud_init'.",
                                         image, format);
        return 0;
}

static int check_listing(Vpc *v, const PeerpodCall *call, const char *what, const char *path, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};

        return vpc_get(v, call, what, vpc_url(v, "%s?limit=1", path), &reply, error);
}

int vpc_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        Vpc *v = provider;
        PeerpodInstanceSpec spec = { .size = sizeof(spec), .machine_type = "", .image = "", .gpu_model = "" };
        _cleanup_(vpc_choice_done) VpcChoice choice = {};
        const VpcPlace *place;
        const char *host, *group;
        int r;

        r = check_subnet(v, call, v->subnet, "IBMCLOUD_VPC_SUBNET_ID", error);
        if (r == 0 && !isempty(v->secondary_subnet))
                r = check_subnet(v, call, v->secondary_subnet, "secondary-subnet-id", error);
        if (r == 0)
                r = vpc_find_place(v, call, &place, error);
        if (r == 0)
                r = vpc_choose(v, call, &spec, &choice, error);
        if (r == 0)
                r = check_image_format(v, call, choice.image, error);
        if (r == 0)
                r = check_exists(v, call, "Instance profile", "/instance/profiles", v->profiles, "IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST", error);
        if (r == 0)
                r = check_exists(v, call, "Instance profile", "/instance/profiles", v->default_profile, "IBMCLOUD_PODVM_INSTANCE_PROFILE_NAME", error);
        if (r == 0)
                r = check_exists(v, call, "Security group", "/security_groups", v->security_groups, "IBMCLOUD_SECURITY_GROUP_IDS", error);
        if (r == 0)
                r = check_exists(v, call, "Security group", "/security_groups", v->secondary_security_group, "secondary-security-group-id", error);
        if (r == 0)
                r = check_exists(v, call, "SSH key", "/keys", v->key, "IBMCLOUD_SSH_KEY_ID", error);
        if (r == 0)
                r = vpc_find_hosts(v, call, place->zone, &host, &group, error);
        if (r == 0)
                r = check_listing(v, call, "List instances", "/instances", error);
        if (r == 0)
                r = check_listing(v, call, "List volumes", "/volumes", error);
        return r;
}
