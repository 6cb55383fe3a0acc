/* SPDX-License-Identifier: Apache-2.0 */
#include "aws-image.h"

#include <syslog.h>

#include "aws-api.h"
#include "cloud-config.h"

#define TYPES_MAX 1024
#define SNP_FEATURE "amd-sev-snp"

static const char* machine_of(const char *architecture) {
        return streq(architecture, "arm64") ? "aarch64" : architecture;
}

/* ---- images ---- */

bool image_id_is_valid(const char *s) {
        const char *rest = startswith(s, "ami-");

        return rest && strlen(rest) >= 8 && strlen(rest) <= 17 && strspn(rest, "0123456789abcdef") == strlen(rest);
}

static bool look_up(Aws *a, const char *id, AwsImage *ret) {
        bool found = false;

        (void) pthread_mutex_lock(&a->mutex);
        for (size_t i = 0; i < MIN(a->n_images, (size_t) AWS_IMAGES_MAX) && !found; i++)
                if (streq(a->images[i].id, id)) {
                        *ret = a->images[i];
                        found = true;
                }
        (void) pthread_mutex_unlock(&a->mutex);
        return found;
}

static void keep(Aws *a, const AwsImage *image) {
        (void) pthread_mutex_lock(&a->mutex);
        a->images[a->n_images++ % AWS_IMAGES_MAX] = *image;     /* the oldest makes room */
        (void) pthread_mutex_unlock(&a->mutex);
}

typedef struct ImageSearch {
        AwsImage image;
        char state[24];
} ImageSearch;

static int on_image(void *userdata, const xmlNode *item, PeerpodError *error) {
        ImageSearch *s = userdata;
        char architecture[16];
        xmlNode *devices;
        int r;

        r = aws_field(item, "imageId", s->image.id, sizeof(s->image.id), error);
        if (r == 0)
                r = aws_field(item, "imageState", s->state, sizeof(s->state), error);
        if (r == 0)
                r = aws_field(item, "rootDeviceName", s->image.root_device, sizeof(s->image.root_device), error);
        if (r == 0)
                r = aws_field(item, "bootMode", s->image.boot_mode, sizeof(s->image.boot_mode), error);
        if (r == 0)
                r = aws_field(item, "architecture", architecture, sizeof(architecture), error);
        if (r < 0)
                return r;
        (void) snprintf(s->image.architecture, sizeof(s->image.architecture), "%s", machine_of(architecture));

        /* The root is where its name says, which need not be the first place. */
        devices = xml_child(item, "blockDeviceMapping");
        for (xmlNode *d = devices ? xml_first(devices, "item") : NULL; d; d = xml_next(d, "item")) {
                char name[32];

                r = aws_field(d, "deviceName", name, sizeof(name), error);
                if (r == 0 && streq(name, s->image.root_device))
                        r = aws_number(d, "ebs/volumeSize", &s->image.root_gib, error);
                if (r < 0)
                        return r;
        }
        return 0;
}

int aws_image(Aws *a, const PeerpodCall *call, const char *id, AwsImage *ret, PeerpodError *error) {
        _cleanup_(form_done) Form f = {};
        ImageSearch s = {};
        char code[AWS_CODE_SIZE];
        int r;

        if (look_up(a, id, ret))
                return 0;
        form_add(&f, "ImageId.1", id);
        r = aws_each(a, call, "DescribeImages", &f, 0, "imagesSet", on_image, &s, code, error);
        if (r < 0)
                return r;
        if (!streq(s.image.id, id))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no image '%s' in this region that we may see.", id);
        if (!isempty(s.state) && !streq(s.state, "available"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Image '%s' is not usable: its state is '%s'.", id, s.state);
        if (isempty(s.image.root_device))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Image '%s' has no root device.", id);
        keep(a, &s.image);
        *ret = s.image;
        return 0;
}

/* ---- types ---- */

typedef struct TypeSearch {
        Aws *aws;
        const PeerpodCall *call;
        InstanceType *types;
        size_t n;
        bool default_is_plain;
} TypeSearch;

static bool list_has(const xmlNode *parent, const char *path, const char *text, bool *ret_oom) {
        const xmlNode *list = xml_child(parent, path);

        for (xmlNode *n = list ? xml_first(list, "item") : NULL; n; n = xml_next(n, "item")) {
                _cleanup_(freep) char *t = xml_text(n, "");

                if (!t)
                        *ret_oom = true;
                else if (streq(t, text))
                        return true;
        }
        return false;
}

static int read_gpus(const xmlNode *item, InstanceType *t, PeerpodError *error) {
        const xmlNode *gpus = xml_child(item, "gpuInfo/gpus");

        for (xmlNode *g = gpus ? xml_first(gpus, "item") : NULL; g; g = xml_next(g, "item")) {
                _cleanup_(freep) char *maker = xml_text(g, "manufacturer"), *name = xml_text(g, "name");
                uint64_t count;
                int r = aws_number(g, "count", &count, error);

                if (r < 0)
                        return r;
                if (!maker || !name)
                        return oom(error);
                t->gpus += (uint32_t) MIN(count, UINT64_C(1024));
                if (!t->gpu_model && asprintf(&t->gpu_model, "%s %s", maker, name) < 0) {
                        t->gpu_model = NULL;
                        return oom(error);
                }
        }
        return 0;
}

static int read_type(const xmlNode *item, InstanceType *t, PeerpodError *error) {
        uint64_t vcpus = 0;
        bool no_memory = false, x86, arm;
        int r;

        t->name = xml_text(item, "instanceType");
        if (!t->name)
                return oom(error);
        r = aws_number(item, "vCpuInfo/defaultVCpus", &vcpus, error);
        if (r == 0)
                r = aws_number(item, "memoryInfo/sizeInMiB", &t->memory_mib, error);
        if (r == 0)
                r = read_gpus(item, t, error);
        if (r < 0)
                return r;
        t->vcpus = (uint32_t) MIN(vcpus, (uint64_t) UINT32_MAX);
        x86 = list_has(item, "processorInfo/supportedArchitectures", "x86_64", &no_memory);
        arm = list_has(item, "processorInfo/supportedArchitectures", "arm64", &no_memory);
        if (x86 != arm) {
                t->architecture = strdup(x86 ? "x86_64" : "aarch64");
                no_memory |= !t->architecture;
        }
        return no_memory ? oom(error) : 0;
}

static int on_type(void *userdata, const xmlNode *item, PeerpodError *error) {
        InstanceType type = {};
        TypeSearch *s = userdata;
        bool no_memory = false;
        int r;

        r = read_type(item, &type, error);
        if (r < 0)
                goto fail;
        if (s->aws->cvm && !list_has(item, "processorInfo/supportedFeatures", SNP_FEATURE, &no_memory)) {
                if (no_memory) {
                        r = oom(error);
                        goto fail;
                }
                peerpod_log(s->call, LOG_WARNING, "Instance type '%s' makes no confidential VMs (no AMD SEV-SNP), not using it.", type.name);
                s->default_is_plain |= streq(type.name, s->aws->type);
                instance_type_done(&type);
                return 0;
        }
        r = grow_array(&s->types, s->n, TYPES_MAX, sizeof(InstanceType));
        if (r < 0) {
                r = r == -E2BIG ? peerpod_error_set(error, PEERPOD_E_INTERNAL, "More than %i instance types.", TYPES_MAX) : oom(error);
                goto fail;
        }
        s->types[s->n++] = type;
        return 0;
fail:
        instance_type_done(&type);
        return r;
}

int types_fetch(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error) {
        Aws *a = userdata;
        TypeSearch s = { .aws = a, .call = call };
        _cleanup_(form_done) Form f = {};
        char code[AWS_CODE_SIZE];
        const char *list = a->types, *item;
        unsigned n_values = 1;
        size_t n;
        int r;

        /* A filter, not InstanceType.N: that fails as a whole when one name is unknown in this region. */
        form_add(&f, "Filter.1.Name", "instance-type");
        form_add_key(&f, a->type, "Filter.1.Value.%u", n_values++);
        while (list_next(&list, &item, &n)) {
                char name[64];

                (void) snprintf(name, sizeof(name), "%.*s", (int) n, item);
                if (!streq(name, a->type))
                        form_add_key(&f, name, "Filter.1.Value.%u", n_values++);
        }
        r = aws_each(a, call, "DescribeInstanceTypes", &f, 100, "instanceTypeSet", on_type, &s, code, error);
        if (r == 0 && s.default_is_plain && !a->use_template)
                r = peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                      "Confidential VMs are asked for (DISABLECVM=false), but the default instance type '%s' has no AMD SEV-SNP.", a->type);
        if (r < 0) {
                for (size_t i = 0; i < s.n; i++)
                        instance_type_done(&s.types[i]);
                free(s.types);
                return r;
        }
        *ret = s.types;
        *ret_n = s.n;
        return 0;
}
