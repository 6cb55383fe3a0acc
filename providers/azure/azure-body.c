/* SPDX-License-Identifier: Apache-2.0 */
/* The paths are those of cloud-api-adaptor: src/cloud-providers/azure/provider.go, getVMParameters(); what differs is in
 * docs/providers/azure.md. */
#include "azure-body.h"

#include <json-c/json.h>
#include <strings.h>

#include "azure-api.h"
#include "azure-id.h"
#include "cloud-owner.h"

/* Building with one check at the end: after a failure all is ignored. */
typedef struct Builder {
        bool failed;
} Builder;

static json_object* add(Builder *b, json_object *parent, const char *key, json_object *value) {
        if (!parent || !value || b->failed) {
                if (value)
                        json_object_put(value);
                b->failed = true;
                return NULL;
        }
        if (key ? json_set(parent, key, value) < 0 : json_object_array_add(parent, value) < 0) {
                if (!key)
                        json_object_put(value);
                b->failed = true;
                return NULL;
        }
        return value;
}

static json_object* object_in(Builder *b, json_object *parent, const char *key) {
        return add(b, parent, key, json_object_new_object());
}

static json_object* array_in(Builder *b, json_object *parent, const char *key) {
        return add(b, parent, key, json_object_new_array());
}

static void text_in(Builder *b, json_object *parent, const char *key, const char *value) {
        (void) add(b, parent, key, json_object_new_string(value));
}

static void bool_in(Builder *b, json_object *parent, const char *key, bool value) {
        (void) add(b, parent, key, json_object_new_boolean(value));
}

static void number_in(Builder *b, json_object *parent, const char *key, uint64_t value) {
        (void) add(b, parent, key, json_object_new_uint64(value));
}

static const char* after_prefix(const char *s, const char *prefix) {
        return strncasecmp(s, prefix, strlen(prefix)) == 0 ? s + strlen(prefix) : NULL;
}

/* Four parts of letters, digits and "-_."; NULL if not. Newly allocated. */
static char* split_urn(const char *image, char *parts[static 4]) {
        char *copy, *save = NULL;
        size_t n = 0;

        if (strspn(image, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:") != strlen(image))
                return NULL;
        copy = strdup(image);
        if (!copy)
                return NULL;
        for (char *p = strtok_r(copy, ":", &save); p; p = strtok_r(NULL, ":", &save)) {
                if (n == 4) {
                        free(copy);
                        return NULL;
                }
                parts[n++] = p;
        }
        if (n == 4)
                return copy;
        free(copy);
        return NULL;
}

int azure_image_check(const char *image) {
        _cleanup_(freep) char *urn = NULL;
        char *parts[4];
        ArmId id;

        if (image[0] != '/') {
                urn = split_urn(image, parts);
                return urn ? 0 : -EINVAL;
        }
        if (after_prefix(image, "/CommunityGalleries/") || after_prefix(image, "/SharedGalleries/"))
                return arm_path_is_plain(image) ? 0 : -EINVAL;
        if (arm_id_parse(image, &id) < 0)
                return -EINVAL;
        return arm_id_is(&id, "Microsoft.Compute/images") || arm_id_is(&id, "Microsoft.Compute/galleries/images") ||
                               arm_id_is(&id, "Microsoft.Compute/galleries/images/versions") ? 0 : -EINVAL;
}

static void add_image(Builder *b, json_object *storage, const char *image) {
        static const char *const keys[4] = { "publisher", "offer", "sku", "version" };
        json_object *reference = object_in(b, storage, "imageReference");
        _cleanup_(freep) char *urn = NULL;
        char *parts[4];

        if (image[0] != '/') {
                urn = split_urn(image, parts);
                b->failed = b->failed || !urn;
                for (size_t i = 0; urn && i < 4; i++)
                        text_in(b, reference, keys[i], parts[i]);
        } else if (after_prefix(image, "/CommunityGalleries/"))
                text_in(b, reference, "communityGalleryImageId", image);
        else if (after_prefix(image, "/SharedGalleries/"))
                text_in(b, reference, "sharedGalleryImageId", image);
        else
                text_in(b, reference, "id", image);
}

static void add_storage(Builder *b, const Azure *a, const AzurePlan *p, json_object *properties) {
        json_object *storage = object_in(b, properties, "storageProfile"), *disk = object_in(b, storage, "osDisk");
        json_object *managed = object_in(b, disk, "managedDisk"), *disks;
        char name[80];

        add_image(b, storage, p->image);
        (void) snprintf(name, sizeof(name), "%s-disk", p->spec->name);
        text_in(b, disk, "name", name);
        text_in(b, disk, "createOption", "FromImage");
        text_in(b, disk, "caching", "ReadWrite");
        text_in(b, disk, "deleteOption", "Delete");
        if (a->root_size_gib > 0)
                number_in(b, disk, "diskSizeGB", a->root_size_gib);
        text_in(b, managed, "storageAccountType", "Premium_LRS");
        if (a->confidential)
                text_in(b, object_in(b, managed, "securityProfile"), "securityEncryptionType", azure_text(a, OPTION_CVM_DISK));

        if (p->spec->n_volumes == 0)
                return;
        disks = array_in(b, storage, "dataDisks");
        for (uint64_t i = 0; i < p->spec->n_volumes; i++) {
                json_object *d = object_in(b, disks, NULL);

                number_in(b, d, "lun", i);
                text_in(b, d, "createOption", "Attach");
                text_in(b, d, "deleteOption", "Detach");
                text_in(b, object_in(b, d, "managedDisk"), "id", p->disks[i]);
        }
}

static void add_os(Builder *b, const Azure *a, const AzurePlan *p, json_object *properties) {
        json_object *os = object_in(b, properties, "osProfile"), *linux_part = object_in(b, os, "linuxConfiguration"), *key;
        char path[128];

        text_in(b, os, "adminUsername", azure_text(a, OPTION_SSH_USER));
        text_in(b, os, "computerName", p->spec->name);
        bool_in(b, linux_part, "disablePasswordAuthentication", true);
        key = object_in(b, array_in(b, object_in(b, linux_part, "ssh"), "publicKeys"), NULL);
        (void) snprintf(path, sizeof(path), "/home/%s/.ssh/authorized_keys", azure_text(a, OPTION_SSH_USER));
        text_in(b, key, "path", path);
        text_in(b, key, "keyData", a->ssh_key);
}

/* A Standard address is closed to what comes in unless a network security group opens it; Basic ones are gone since September 2025. */
static void add_public_ip(Builder *b, const AzurePlan *p, json_object *ip_properties) {
        json_object *c = object_in(b, ip_properties, "publicIPAddressConfiguration"), *properties, *sku;
        char name[80];

        (void) snprintf(name, sizeof(name), "%s-net", p->spec->name);
        text_in(b, c, "name", name);
        properties = object_in(b, c, "properties");
        text_in(b, properties, "deleteOption", "Delete");
        text_in(b, properties, "publicIPAllocationMethod", "Static");
        sku = object_in(b, c, "sku");
        text_in(b, sku, "name", "Standard");
        text_in(b, sku, "tier", "Regional");
}

static void add_nic(Builder *b, const Azure *a, const AzurePlan *p, json_object *list, bool primary) {
        json_object *nic = object_in(b, list, NULL), *properties, *ip, *ip_properties;
        const char *subnet = primary || !*azure_text(a, OPTION_SECOND_SUBNET) ? azure_text(a, OPTION_SUBNET) : azure_text(a, OPTION_SECOND_SUBNET);
        char name[80];

        (void) snprintf(name, sizeof(name), "%s-net%s", p->spec->name, primary ? "" : "2");
        text_in(b, nic, "name", name);
        properties = object_in(b, nic, "properties");
        bool_in(b, properties, "primary", primary);
        text_in(b, properties, "deleteOption", "Delete");
        if (*azure_text(a, OPTION_NSG))
                text_in(b, object_in(b, properties, "networkSecurityGroup"), "id", azure_text(a, OPTION_NSG));
        ip = object_in(b, array_in(b, properties, "ipConfigurations"), NULL);
        text_in(b, ip, "name", "ip-config");
        ip_properties = object_in(b, ip, "properties");
        text_in(b, object_in(b, ip_properties, "subnet"), "id", subnet);
        if (primary && a->public_ip)
                add_public_ip(b, p, ip_properties);
}

static void add_security(Builder *b, const Azure *a, json_object *properties) {
        json_object *security, *uefi;

        if (!a->confidential && !a->secure_boot)
                return;
        security = object_in(b, properties, "securityProfile");
        text_in(b, security, "securityType", a->confidential ? "ConfidentialVM" : "TrustedLaunch");
        uefi = object_in(b, security, "uefiSettings");
        bool_in(b, uefi, "secureBootEnabled", a->secure_boot);
        bool_in(b, uefi, "vTpmEnabled", true);
}

static void add_tags(Builder *b, const Azure *a, const AzurePlan *p, json_object *root) {
        json_object *tags = object_in(b, root, "tags");
        const char *list = azure_text(a, OPTION_TAGS), *item;
        size_t n;

        while (list_next(&list, &item, &n)) {
                char *copy = strndup(item, n), *equals = copy ? strchr(copy, '=') : NULL;

                if (equals) {
                        *equals = '\0';
                        text_in(b, tags, copy, equals + 1);
                } else
                        b->failed = true;
                free(copy);
        }
        text_in(b, tags, OWNER_TAG_NODE, p->spec->node);
        text_in(b, tags, OWNER_TAG_SANDBOX, p->spec->sandbox_id);
}

static void add_properties(Builder *b, const Azure *a, const AzurePlan *p, json_object *properties) {
        json_object *network, *nics;

        text_in(b, object_in(b, properties, "hardwareProfile"), "vmSize", p->size);
        add_storage(b, a, p, properties);
        add_os(b, a, p, properties);
        network = object_in(b, properties, "networkProfile");
        text_in(b, network, "networkApiVersion", API_NETWORK_INLINE);
        nics = array_in(b, network, "networkInterfaceConfigurations");
        add_nic(b, a, p, nics, true);
        if (p->spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                add_nic(b, a, p, nics, false);
        add_security(b, a, properties);
        bool_in(b, object_in(b, object_in(b, properties, "diagnosticsProfile"), "bootDiagnostics"), "enabled", true);
}

/* The user data are put into the text, not into the object: json-c does not erase what it frees. @text ends with the "properties". */
static char* splice_user_data(const char *text, const char *user_data, size_t *ret_size) {
        static const char key[] = ",\"userData\":\"", end[] = "\"}}";
        size_t n = strlen(text), m = strlen(user_data), size;
        char *out;

        assert(n > 2 && streq(text + n - 2, "}}"));
        size = n - 2 + strlen(key) + m + strlen(end);
        out = malloc(size + 1);
        if (!out)
                return NULL;
        memcpy(out, text, n - 2);
        memcpy(out + n - 2, key, strlen(key));
        memcpy(out + n - 2 + strlen(key), user_data, m);
        memcpy(out + n - 2 + strlen(key) + m, end, strlen(end) + 1);
        *ret_size = size;
        return out;
}

int azure_body_write(const Azure *a, const AzurePlan *plan, char **ret, size_t *ret_size, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *root = json_object_new_object();
        Builder b = {};
        const char *text;

        text_in(&b, root, "location", azure_text(a, OPTION_REGION));
        add_tags(&b, a, plan, root);
        if (*plan->zone)
                text_in(&b, array_in(&b, root, "zones"), NULL, plan->zone);
        add_properties(&b, a, plan, object_in(&b, root, "properties"));
        text = b.failed ? NULL : json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text)
                return oom(error);
        *ret = splice_user_data(text, plan->user_data, ret_size);
        return *ret ? 0 : oom(error);
}
