/* SPDX-License-Identifier: Apache-2.0 */
#include "azure-verify.h"

#include <json-c/json.h>
#include <strings.h>

#include "azure-api.h"
#include "azure-body.h"
#include "azure-id.h"
#include "azure-sku.h"

/* In the resource group; what the subnet and the image need is judged at their own scopes, by reading them. */
static const char *const actions[] = {
        "Microsoft.Compute/virtualMachines/read",
        "Microsoft.Compute/virtualMachines/write",
        "Microsoft.Compute/virtualMachines/delete",
        "Microsoft.Compute/disks/read",
        "Microsoft.Compute/disks/write",
        "Microsoft.Compute/disks/delete",
        "Microsoft.Network/networkInterfaces/read",
        "Microsoft.Network/networkInterfaces/write",
        "Microsoft.Network/networkInterfaces/delete",
        "Microsoft.Network/networkInterfaces/join/action",
        "Microsoft.Network/publicIPAddresses/read",
};

static const char *const public_actions[] = {
        "Microsoft.Network/publicIPAddresses/write",
        "Microsoft.Network/publicIPAddresses/delete",
        "Microsoft.Network/publicIPAddresses/join/action",
};

bool azure_action_matches(const char *pattern, const char *action) {
        const char *star = NULL, *resume = NULL;

        while (*action) {
                if (*pattern == '*') {
                        star = pattern++;
                        resume = action;
                } else if (strncasecmp(pattern, action, 1) == 0) {
                        pattern++;
                        action++;
                } else if (star) {
                        pattern = star + 1;
                        action = ++resume;
                } else
                        return false;
        }
        while (*pattern == '*')
                pattern++;
        return *pattern == '\0';
}

static bool list_matches(json_object *list, const char *action) {
        for (size_t i = 0; list && i < json_object_array_length(list); i++) {
                json_object *v = json_object_array_get_idx(list, i);

                if (v && json_object_is_type(v, json_type_string) && azure_action_matches(json_object_get_string(v), action))
                        return true;
        }
        return false;
}

typedef struct Rights {
        uint32_t have, have_public;     /* bits in the order of the tables */
} Rights;

static uint32_t allowed_by(json_object *item, const char *const *table, size_t n) {
        uint32_t bits = 0;

        for (size_t i = 0; i < n; i++)
                if (list_matches(json_path_array(item, "actions"), table[i]) && !list_matches(json_path_array(item, "notActions"), table[i]))
                        bits |= BIT(i);
        return bits;
}

static int take_rights(void *userdata, json_object *item, PeerpodError *error) {
        Rights *r = userdata;

        r->have |= allowed_by(item, actions, ELEMENTSOF(actions));
        r->have_public |= allowed_by(item, public_actions, ELEMENTSOF(public_actions));
        return 0;
}

static int refuse_missing(const char *const *table, size_t n, uint32_t have, PeerpodError *error) {
        for (size_t i = 0; i < n; i++)
                if (!(have & BIT(i)))
                        return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The identity may not do '%s' in the resource group.", table[i]);
        return 0;
}

static int verify_rights(Azure *a, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(freep) char *url = azure_url(a, "Microsoft.Authorization/permissions", NULL, API_PERMISSIONS);
        Rights rights = {};
        int r;

        r = azure_list(a, call, "Reading the permissions", url, take_rights, &rights, error);
        if (r == 0)
                r = refuse_missing(actions, ELEMENTSOF(actions), rights.have, error);
        if (r == 0 && a->public_ip)
                r = refuse_missing(public_actions, ELEMENTSOF(public_actions), rights.have_public, error);
        return r;
}

/* Must be there and readable. */
static int verify_resource(Azure *a, const PeerpodCall *call, const char *what, const char *id, const char *version, json_object **ret,
                           PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *url = azure_url_of(a, id, version);
        int r = azure_get(a, call, what, url, &o, error);

        if (r == -ENOENT)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s: '%s' does not exist.", what, id);
        if (r == 0 && ret)
                *ret = TAKE_PTR(o);
        return r;
}

static int verify_network(Azure *a, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *subnet = NULL;
        int r;

        r = verify_resource(a, call, "Looking at the subnet", azure_text(a, OPTION_SUBNET), API_NETWORK, &subnet, error);
        if (r == 0 && *azure_text(a, OPTION_SECOND_SUBNET))
                r = verify_resource(a, call, "Looking at the second subnet", azure_text(a, OPTION_SECOND_SUBNET), API_NETWORK, NULL, error);
        if (r == 0 && *azure_text(a, OPTION_NSG))
                r = verify_resource(a, call, "Looking at the network security group", azure_text(a, OPTION_NSG), API_NETWORK, NULL, error);
        if (r == 0 && a->public_ip && !*azure_text(a, OPTION_NSG) && !*json_path_string(subnet, "properties.networkSecurityGroup.id", ""))
                r = peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "USE_PUBLIC_IP=true needs a network security group that lets the "
                                      "worker in: set AZURE_NSG_ID, or give the subnet one.");
        return r;
}

/* A community gallery's image is looked at through our subscription and region. */
static int verify_image(Azure *a, const PeerpodCall *call, PeerpodError *error) {
        const char *image = azure_text(a, OPTION_IMAGE), *rest = strchr(image + 1, '/');
        _cleanup_(freep) char *id = NULL;
        bool community = strncasecmp(image, "/CommunityGalleries/", strlen("/CommunityGalleries/")) == 0;
        ArmId parsed;

        if (azure_image_check(image) < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "AZURE_IMAGE_ID: '%.256s' is no image's id.", image);
        if (image[0] != '/')
                return 0;       /* a URN: the VM's creation will tell */
        if (community || strncasecmp(image, "/SharedGalleries/", strlen("/SharedGalleries/")) == 0) {
                if (asprintf(&id, "/subscriptions/%s/providers/Microsoft.Compute/locations/%s/%s%s", azure_text(a, OPTION_SUBSCRIPTION),
                             azure_text(a, OPTION_REGION), community ? "communityGalleries" : "sharedGalleries", rest) < 0)
                        return oom(error);
                return verify_resource(a, call, "Looking at the image", id, API_GALLERIES, NULL, error);
        }
        return verify_resource(a, call, "Looking at the image", image,
                               arm_id_parse(image, &parsed) == 0 && arm_id_is(&parsed, "Microsoft.Compute/images") ? API_COMPUTE : API_GALLERIES,
                               NULL, error);
}

static int verify_sizes(Azure *a, const PeerpodCall *call, PeerpodError *error) {
        PeerpodInstanceSpec spec = { .size = sizeof(PeerpodInstanceSpec), .machine_type = "", .gpu_model = "" };
        InstanceTypeWish wish = { .spec = &spec, .default_type = azure_text(a, OPTION_SIZE), .allowed = "", .allowed_option = "" };
        const char *list = azure_text(a, OPTION_SIZES), *item;
        _cleanup_(freep) char *chosen = NULL;
        size_t n;
        int r;

        r = instance_type_cache_choose(a->types, call, &wish, &chosen, NULL, error);
        for (item = azure_text(a, OPTION_SIZE), n = strlen(item); r == 0;) {
                _cleanup_(azure_sku_done) AzureSku sku = {};
                char name[64];

                (void) snprintf(name, sizeof(name), "%.*s", (int) MIN(n, sizeof(name) - 1), item);
                r = azure_sku_copy(a, name, &sku);
                if (r == 0)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM size '%s' does not exist in region '%s'.", name,
                                                 azure_text(a, OPTION_REGION));
                r = r < 0 ? oom(error) : azure_sku_check(a, name, azure_text(a, OPTION_ZONE), false, 0, error);
                if (r < 0 || !list_next(&list, &item, &n))
                        break;
        }
        return r;
}

int azure_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        Azure *a = provider;
        int r;

        r = verify_rights(a, call, error);
        if (r == 0)
                r = verify_sizes(a, call, error);
        if (r == 0)
                r = verify_image(a, call, error);
        return r < 0 ? r : verify_network(a, call, error);
}
