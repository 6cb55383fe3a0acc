/* SPDX-License-Identifier: Apache-2.0 */
/* The parameters (botocore: botocore/data/ec2/2016-11-15/service-2.json, RunInstancesRequest). With a launch template, what is set here goes
 * before what the template says, and what is not set is the template's. */
#include "aws-run.h"

#include "aws-image.h"
#include "cloud-config.h"
#include "cloud-owner.h"
#include "cloud-user-data.h"

#define USER_DATA_MAX 16384             /* of the plain document (EC2 User Guide, "Run commands on your Linux instance at launch") */

void plan_done(AwsPlan *p) {
        aws_place_done(&p->place);
        free(p->type);
        erase_free_stringp(&p->user_data);
        *p = (AwsPlan) {};
}

static int choose_type(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, AwsPlan *p, PeerpodError *error) {
        const InstanceTypeWish wish = {
                .spec = spec,
                .default_type = a->type,
                .allowed = a->types,
                .allowed_option = "PODVM_INSTANCE_TYPES",
                .architecture = isempty(p->image.architecture) ? NULL : p->image.architecture,
        };

        /* The setting's default cannot be told from the same value set by hand: it leaves the choice to the template. */
        if (a->use_template && isempty(a->types) && streq(a->type, AWS_TEMPLATE_TYPE) && isempty(spec->machine_type) && spec->gpus == 0) {
                p->type = strdup("");
                return p->type ? 0 : oom(error);
        }
        return instance_type_cache_choose(a->type_cache, call, &wish, &p->type, NULL, error);
}

int plan_make(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, AwsPlan *ret, PeerpodError *error) {
        _cleanup_(plan_done) AwsPlan p = { .spec = spec, .multi_nic = PEERPOD_HAS(spec, flags) && (spec->flags & PEERPOD_INSTANCE_MULTI_NIC) };
        const char *image = isempty(spec->image) ? a->image : spec->image;
        size_t size;
        int r;

        if (!isempty(spec->image) && !image_id_is_valid(spec->image))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no id of an image (AMI).", spec->image);
        r = user_data_encode(spec, USER_DATA_BASE64, USER_DATA_MAX, /* limit_encoded= */ false, &p.user_data, &size, error);
        if (r < 0)
                return r;
        if (!isempty(image)) {
                r = aws_image(a, call, image, &p.image, error);
                if (r < 0)
                        return r;
        }
        if (a->cvm && streq(p.image.boot_mode, "legacy-bios"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                         "Confidential VMs are asked for (DISABLECVM=false), but image '%s' boots with legacy BIOS.", p.image.id);
        r = choose_type(a, call, spec, &p, error);
        if (r < 0)
                return r;
        r = aws_place(a, call, &p.place, error);
        if (r < 0)
                return r;
        if (p.multi_nic && isempty(p.place.subnet))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "A second interface needs AWS_SUBNET_ID to be set.");

        *ret = p;
        p = (AwsPlan) {};
        return 0;
}

static void add_tag(Form *f, unsigned n, unsigned *k, const char *key, const char *value) {
        (*k)++;
        form_add_key(f, key, "TagSpecification.%u.Tag.%u.Key", n, *k);
        form_add_key(f, value, "TagSpecification.%u.Tag.%u.Value", n, *k);
}

void form_add_owner(Form *f, unsigned n, const char *resource, const PeerpodInstanceSpec *spec, const char *tags) {
        const char *item;
        unsigned k = 0;
        size_t size;

        form_add_key(f, resource, "TagSpecification.%u.ResourceType", n);
        add_tag(f, n, &k, "Name", spec->name);
        add_tag(f, n, &k, OWNER_TAG_NAME, spec->name);
        add_tag(f, n, &k, OWNER_TAG_SANDBOX, spec->sandbox_id);
        add_tag(f, n, &k, OWNER_TAG_NODE, spec->node);
        while (list_next(&tags, &item, &size)) {
                char key[129], value[257];
                const char *equals = memchr(item, '=', size);
                size_t n_key = equals ? (size_t) (equals - item) : size;

                (void) snprintf(key, sizeof(key), "%.*s", (int) n_key, item);
                (void) snprintf(value, sizeof(value), "%.*s", equals ? (int) (size - n_key - 1) : 0, equals ? equals + 1 : "");
                add_tag(f, n, &k, key, value);
        }
}

static void add_network(const Aws *a, const AwsPlan *p, Form *f) {
        unsigned n_nics = p->multi_nic ? 2 : a->public_ip ? 1 : 0;

        if (n_nics == 0) {
                if (!isempty(p->place.subnet))
                        form_add(f, "SubnetId", p->place.subnet);
                form_add_list(f, "SecurityGroupId.", p->place.groups);
        }
        for (unsigned i = 1; i <= n_nics; i++) {
                char prefix[64];

                form_add_key(f, i == 1 ? "0" : "1", "NetworkInterface.%u.DeviceIndex", i);
                form_add_key(f, "true", "NetworkInterface.%u.DeleteOnTermination", i);
                if (!isempty(p->place.subnet))
                        form_add_key(f, p->place.subnet, "NetworkInterface.%u.SubnetId", i);
                (void) snprintf(prefix, sizeof(prefix), "NetworkInterface.%u.SecurityGroupId.", i);
                form_add_list(f, prefix, p->place.groups);
                /* With two interfaces EC2 gives none by itself: they get elastic ones, later. */
                if (n_nics == 1)
                        form_add(f, "NetworkInterface.1.AssociatePublicIpAddress", "true");
        }
}

static void add_root(const Aws *a, const AwsPlan *p, Form *f) {
        uint64_t gib = MAX(a->root_gib, p->image.root_gib);

        /* Of a template's own image we know nothing. */
        if (isempty(p->image.root_device))
                return;
        form_add(f, "BlockDeviceMapping.1.DeviceName", p->image.root_device);
        form_add(f, "BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true");
        if (gib > 0)
                form_addf(f, "BlockDeviceMapping.1.Ebs.VolumeSize", "%" PRIu64, gib);
        if (!isempty(a->kms_key)) {
                form_add(f, "BlockDeviceMapping.1.Ebs.Encrypted", "true");
                form_add(f, "BlockDeviceMapping.1.Ebs.KmsKeyId", a->kms_key);
        }
}

void plan_form(const Aws *a, const AwsPlan *p, Form *f) {
        form_add(f, "MinCount", "1");
        form_add(f, "MaxCount", "1");
        if (a->use_template) {
                form_add(f, "LaunchTemplate.LaunchTemplateName", a->template_name);
                form_add(f, "LaunchTemplate.Version", a->template_version);
        }
        if (!isempty(p->image.id))
                form_add(f, "ImageId", p->image.id);
        if (!isempty(p->type))
                form_add(f, "InstanceType", p->type);
        if (!isempty(p->place.key_name))
                form_add(f, "KeyName", p->place.key_name);
        if (a->cvm)
                form_add(f, "CpuOptions.AmdSevSnp", "enabled");
        /* User data hold secrets: nobody but the VM's own kernel and root network may read them. */
        form_add(f, "MetadataOptions.HttpEndpoint", "enabled");
        form_add(f, "MetadataOptions.HttpTokens", "required");
        form_add(f, "MetadataOptions.HttpPutResponseHopLimit", "1");
        form_add(f, "InstanceInitiatedShutdownBehavior", "terminate");
        add_root(a, p, f);
        add_network(a, p, f);
        form_add_owner(f, 1, "instance", p->spec, a->tags);
        form_add_owner(f, 2, "volume", p->spec, a->tags);
        form_add_owner(f, 3, "network-interface", p->spec, a->tags);
        form_add(f, "UserData", p->user_data);
}
