/* SPDX-License-Identifier: Apache-2.0 */
#include <syslog.h>

#include "aws-side.h"
#include "cloud-config.h"

#define ATTACH_USEC (60 * USEC_PER_SEC)         /* as the existing implementation waits */
#define POLL_USEC USEC_PER_SEC

typedef struct Volume {
        char id[32], state[24], zone[32];
        struct {
                char instance[32], state[24];
        } attachment;                   /* at the instance that matters, or the first one */
        bool attached_elsewhere;
} Volume;

typedef struct VolumeList {
        const char *instance_id;        /* the one that matters */
        Volume items[VOLUMES_MAX];
        size_t n;
} VolumeList;

static bool volume_id_is_valid(const char *s) {
        const char *rest = startswith(s, "vol-");

        return rest && strlen(rest) >= 8 && strlen(rest) <= 17 && strspn(rest, "0123456789abcdef") == strlen(rest);
}

static int on_volume(void *userdata, const xmlNode *item, PeerpodError *error) {
        const xmlNode *set = xml_child(item, "attachmentSet");
        VolumeList *l = userdata;
        Volume *v;
        int r;

        if (l->n == VOLUMES_MAX)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "EC2 tells of more volumes than asked for.");
        v = l->items + l->n++;
        r = aws_field(item, "volumeId", v->id, sizeof(v->id), error);
        if (r == 0)
                r = aws_field(item, "status", v->state, sizeof(v->state), error);
        if (r == 0)
                r = aws_field(item, "availabilityZone", v->zone, sizeof(v->zone), error);
        for (xmlNode *n = set ? xml_first(set, "item") : NULL; n && r == 0; n = xml_next(n, "item")) {
                char instance[32];

                r = aws_field(n, "instanceId", instance, sizeof(instance), error);
                if (r < 0)
                        return r;
                if (streq(v->attachment.instance, l->instance_id) && !isempty(l->instance_id))
                        break;
                (void) snprintf(v->attachment.instance, sizeof(v->attachment.instance), "%s", instance);
                r = aws_field(n, "status", v->attachment.state, sizeof(v->attachment.state), error);
        }
        return r;
}

static int list_volumes(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, VolumeList *l, PeerpodError *error) {
        _cleanup_(form_done) Form f = {};
        char code[AWS_CODE_SIZE];

        l->n = 0;
        memset(l->items, 0, sizeof(l->items));
        for (uint64_t i = 0; i < spec->n_volumes; i++)
                form_add_key(&f, spec->volumes[i], "VolumeId.%" PRIu64, i + 1);
        return aws_each(a, call, "DescribeVolumes", &f, 0, "volumeSet", on_volume, l, code, error);
}

static const Volume* find_volume(const VolumeList *l, const char *id) {
        for (size_t i = 0; i < l->n; i++)
                if (streq(l->items[i].id, id))
                        return l->items + i;
        return NULL;
}

static int on_subnet(void *userdata, const xmlNode *item, PeerpodError *error) {
        return aws_field(item, "availabilityZone", userdata, 32, error);
}

/* "" if we may not know */
static int get_zone(Aws *a, const PeerpodCall *call, const char *subnet, char zone[static 32], PeerpodError *error) {
        _cleanup_(form_done) Form f = {};
        char code[AWS_CODE_SIZE];
        int r;

        zone[0] = '\0';
        if (isempty(subnet))
                return 0;
        form_add(&f, "SubnetId.1", subnet);
        r = aws_each(a, call, "DescribeSubnets", &f, 0, "subnetSet", on_subnet, zone, code, error);
        return r < 0 && streq(code, "UnauthorizedOperation") ? 0 : r;
}

int volumes_check(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *subnet, const char *instance_id, PeerpodError *error) {
        VolumeList l = { .instance_id = instance_id };
        char zone[32];
        int r;

        if (spec_n_volumes(spec) == 0)
                return 0;
        if (spec->n_volumes > VOLUMES_MAX)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%" PRIu64 " volumes are more than %i.", spec->n_volumes, VOLUMES_MAX);
        for (uint64_t i = 0; i < spec->n_volumes; i++) {
                if (!volume_id_is_valid(spec->volumes[i]))
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no id of an EBS volume.", spec->volumes[i]);
                for (uint64_t k = 0; k < i; k++)
                        if (streq(spec->volumes[i], spec->volumes[k]))
                                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "EBS volume '%s' is asked for twice.", spec->volumes[i]);
        }

        r = list_volumes(a, call, spec, &l, error);
        if (r == 0)
                r = get_zone(a, call, subnet, zone, error);
        if (r < 0)
                return r;
        for (uint64_t i = 0; i < spec->n_volumes; i++) {
                const Volume *v = find_volume(&l, spec->volumes[i]);

                if (!v)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no EBS volume '%s'.", spec->volumes[i]);
                if (!streq(v->state, "available") && (isempty(instance_id) || !streq(v->attachment.instance, instance_id)))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "EBS volume '%s' is not free: its state is '%s'%s%s.", v->id,
                                                 v->state, isempty(v->attachment.instance) ? "" : ", attached to ", v->attachment.instance);
                if (!isempty(zone) && !streq(v->zone, zone))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                                 "EBS volume '%s' is in zone %s, the VM would be in %s (subnet '%s').", v->id, v->zone, zone, subnet);
        }
        return 0;
}

static int attach(Aws *a, const PeerpodCall *call, const char *volume, const char *instance_id, unsigned index, PeerpodError *error) {
        const AwsQuery q = { .action = "AttachVolume", .repeatable = true };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        _cleanup_(form_done) Form f = {};
        int r;

        form_addf(&f, "Device", "/dev/xvd%c", (char) ('b' + index));
        form_add(&f, "InstanceId", instance_id);
        form_add(&f, "VolumeId", volume);
        r = aws_query(a, call, &q, &f, &reply, error);
        /* A second try finds the first one's work; whose it is shows when we wait for it. */
        return r < 0 && streq(reply.code, "VolumeInUse") ? 0 : r;
}

/* 1: all are there; 0: not yet */
static int are_attached(const VolumeList *l, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        for (uint64_t i = 0; i < spec->n_volumes; i++) {
                const Volume *v = find_volume(l, spec->volumes[i]);

                if (v && !isempty(v->attachment.instance) && !streq(v->attachment.instance, l->instance_id))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "EBS volume '%s' is attached to '%s'.", v->id,
                                                 v->attachment.instance);
                if (!v || !streq(v->attachment.instance, l->instance_id) || !streq(v->attachment.state, "attached"))
                        return 0;
        }
        return 1;
}

int volumes_attach(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *instance_id, PeerpodError *error) {
        VolumeList l = { .instance_id = instance_id };
        uint64_t end = usec_add(peerpod_now_usec(), ATTACH_USEC);
        int r;

        if (spec_n_volumes(spec) == 0)
                return 0;
        r = list_volumes(a, call, spec, &l, error);
        for (unsigned i = 0; i < spec->n_volumes && r == 0; i++) {
                const Volume *v = find_volume(&l, spec->volumes[i]);

                if (!v || !streq(v->attachment.instance, instance_id))
                        r = attach(a, call, spec->volumes[i], instance_id, i, error);
        }
        while (r == 0) {
                r = list_volumes(a, call, spec, &l, error);
                if (r == 0)
                        r = are_attached(&l, spec, error);
                if (r != 0)
                        return r < 0 ? r : 0;
                if (peerpod_now_usec() > end)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "The EBS volumes have not been attached within 60 s.");
                r = peerpod_call_wait(call, -1, 0, POLL_USEC, error);
        }
        return r;
}
