/* SPDX-License-Identifier: Apache-2.0 */
#include "aws-describe.h"

#include "basic/parse.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define LIST_MAX 10000
#define PAGE_SIZE 200

bool instance_id_is_valid(const char *s) {
        const char *rest = startswith(s, "i-");

        return rest && strlen(rest) >= 8 && strlen(rest) <= 17 && strspn(rest, "0123456789abcdef") == strlen(rest);
}

bool ec2_is_over(const Ec2Instance *i) {
        return streq(i->state, "shutting-down") || streq(i->state, "terminated");
}

int ec2_tag(const xmlNode *set, const char *key, char *ret, size_t size, PeerpodError *error) {
        ret[0] = '\0';
        for (xmlNode *t = set ? xml_first(set, "item") : NULL; t; t = xml_next(t, "item")) {
                char name[129];
                int r = aws_field(t, "key", name, sizeof(name), error);

                if (r == 0 && streq(name, key)) {
                        r = aws_field(t, "value", ret, size, error);
                        return r < 0 ? r : 1;
                }
                if (r < 0)
                        return r;
        }
        return 0;
}

static int compare_nics(const void *a, const void *b) {
        const Ec2Nic *x = a, *y = b;

        return x->index < y->index ? -1 : x->index > y->index;
}

static int parse_nics(const xmlNode *item, Ec2Instance *i, PeerpodError *error) {
        const xmlNode *set = xml_child(item, "networkInterfaceSet");

        for (xmlNode *n = set ? xml_first(set, "item") : NULL; n && i->n_nics < NICS_MAX; n = xml_next(n, "item")) {
                Ec2Nic *nic = i->nics + i->n_nics;
                int r;

                r = aws_field(n, "networkInterfaceId", nic->id, sizeof(nic->id), error);
                if (r == 0)
                        r = aws_field(n, "privateIpAddress", nic->address, sizeof(nic->address), error);
                if (r == 0)
                        r = aws_field(n, "association/publicIp", nic->public_address, sizeof(nic->public_address), error);
                if (r == 0)
                        r = aws_number(n, "attachment/deviceIndex", &nic->index, error);
                if (r < 0)
                        return r;
                if (streq(nic->address, "0.0.0.0"))
                        nic->address[0] = '\0';
                i->n_nics++;
        }
        qsort(i->nics, i->n_nics, sizeof(Ec2Nic), compare_nics);
        return 0;
}

int ec2_parse(const xmlNode *item, Ec2Instance *ret, PeerpodError *error) {
        _cleanup_(freep) char *reason = NULL, *plain = NULL;
        const xmlNode *tags = xml_child(item, "tagSet");
        char name[128];
        int r, owned;

        *ret = (Ec2Instance) {};
        r = aws_field(item, "instanceId", ret->id, sizeof(ret->id), error);
        if (r == 0)
                r = aws_field(item, "instanceState/name", ret->state, sizeof(ret->state), error);
        if (r == 0)
                r = aws_field(item, "instanceType", ret->type, sizeof(ret->type), error);
        if (r == 0)
                r = parse_nics(item, ret, error);
        if (r < 0)
                return r;
        if (!instance_id_is_valid(ret->id))
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "EC2 tells of an instance without a proper id.");

        r = ec2_tag(tags, OWNER_TAG_NAME, name, sizeof(name), error);
        owned = r;
        if (r >= 0)
                r = ec2_tag(tags, OWNER_TAG_SANDBOX, ret->sandbox, sizeof(ret->sandbox), error);
        owned += r;
        if (r >= 0)
                r = ec2_tag(tags, OWNER_TAG_NODE, ret->node, sizeof(ret->node), error);
        owned += r;
        if (r >= 0)
                r = ec2_tag(tags, "Name", ret->name, sizeof(ret->name), error);
        if (r < 0)
                return r;
        ret->ours = owned == 3 && !isempty(name) && !isempty(ret->sandbox) && !isempty(ret->node);
        if (ret->ours)
                memcpy(ret->name, name, sizeof(name));

        reason = xml_text(item, "stateReason/message");
        plain = reason ? text_make_plain(reason, sizeof(ret->reason) - 1) : NULL;
        if (!plain)
                return oom(error);
        (void) snprintf(ret->reason, sizeof(ret->reason), "%s", plain);
        return 0;
}

static int on_reservation(void *userdata, const xmlNode *item, PeerpodError *error) {
        const xmlNode *set = xml_child(item, "instancesSet");
        Ec2List *l = userdata;

        for (xmlNode *n = set ? xml_first(set, "item") : NULL; n; n = xml_next(n, "item")) {
                int r = grow_array(&l->items, l->n, LIST_MAX, sizeof(Ec2Instance));

                if (r < 0)
                        return r == -E2BIG ? peerpod_error_set(error, PEERPOD_E_INTERNAL, "More than %i instances.", LIST_MAX) : oom(error);
                r = ec2_parse(n, l->items + l->n, error);
                if (r < 0)
                        return r;
                l->n++;
        }
        return 0;
}

void ec2_list_done(Ec2List *l) {
        free(l->items);
        *l = (Ec2List) {};
}

int ec2_get(Aws *a, const PeerpodCall *call, const char *id, Ec2Instance *ret, PeerpodError *error) {
        _cleanup_(ec2_list_done) Ec2List l = {};
        _cleanup_(form_done) Form f = {};
        char code[AWS_CODE_SIZE];
        int r;

        form_add(&f, "InstanceId.1", id);
        r = aws_each(a, call, "DescribeInstances", &f, 0, "reservationSet", on_reservation, &l, code, error);
        if (r < 0)
                return aws_is_gone(code) ? 0 : r;
        for (size_t i = 0; i < l.n; i++)
                if (streq(l.items[i].id, id)) {
                        *ret = l.items[i];
                        return 1;
                }
        return 0;
}

int ec2_list(Aws *a, const PeerpodCall *call, const char *key, const char *value, Ec2List *ret, PeerpodError *error) {
        static const char *const states[] = { "pending", "running", "shutting-down", "stopping", "stopped" };
        _cleanup_(ec2_list_done) Ec2List l = {};
        _cleanup_(form_done) Form f = {};
        char code[AWS_CODE_SIZE], name[64];
        int r;

        (void) snprintf(name, sizeof(name), "tag:%s", key);
        form_add_filter(&f, 1, name, value);
        form_add(&f, "Filter.2.Name", "instance-state-name");
        for (unsigned i = 0; i < ELEMENTSOF(states); i++)
                form_add_key(&f, states[i], "Filter.2.Value.%u", i + 1);
        r = aws_each(a, call, "DescribeInstances", &f, PAGE_SIZE, "reservationSet", on_reservation, &l, code, error);
        if (r < 0)
                return r;
        *ret = l;
        l = (Ec2List) {};
        return 0;
}
