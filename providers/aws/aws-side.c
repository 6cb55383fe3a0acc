/* SPDX-License-Identifier: Apache-2.0 */
#include "aws-side.h"

#include <syslog.h>

#include "aws-run.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define POLL_USEC USEC_PER_SEC
#define ADDRESSES_LISTED_MAX 1000

static bool is_forbidden(const char *code) {
        return streq(code, "UnauthorizedOperation");
}

/* ---- elastic addresses, interfaces: the listing ---- */

typedef struct Side {
        char id[64], association[64], nic[32], address[PEERPOD_ADDRESS_SIZE], status[24];
        char name[128], sandbox[128];
} Side;

typedef struct SideList {
        Side *items;
        size_t n;
} SideList;

static void side_list_done(SideList *l) {
        free(l->items);
        *l = (SideList) {};
}

static int add_side(SideList *l, const xmlNode *item, const char *id, const char *tags, PeerpodError *error) {
        const xmlNode *set = xml_child(item, tags);
        Side s = {};
        int r;

        r = aws_field(item, id, s.id, sizeof(s.id), error);
        if (r == 0)
                r = aws_field(item, "associationId", s.association, sizeof(s.association), error);
        if (r == 0)
                r = aws_field(item, "networkInterfaceId", s.nic, sizeof(s.nic), error);
        if (r == 0)
                r = aws_field(item, "publicIp", s.address, sizeof(s.address), error);
        if (r == 0)
                r = aws_field(item, "status", s.status, sizeof(s.status), error);
        if (r == 0)
                r = ec2_tag(set, OWNER_TAG_NAME, s.name, sizeof(s.name), error);
        if (r >= 0)
                r = ec2_tag(set, OWNER_TAG_SANDBOX, s.sandbox, sizeof(s.sandbox), error);
        if (r < 0)
                return r;
        if (isempty(s.id) || isempty(s.name) || isempty(s.sandbox))
                return 0;
        r = grow_array(&l->items, l->n, ADDRESSES_LISTED_MAX, sizeof(Side));
        if (r < 0)
                return r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_INTERNAL, "More than %i of a kind.", ADDRESSES_LISTED_MAX);
        l->items[l->n++] = s;
        return 0;
}

static int on_address(void *userdata, const xmlNode *item, PeerpodError *error) {
        return add_side(userdata, item, "allocationId", "tagSet", error);
}

static int on_nic(void *userdata, const xmlNode *item, PeerpodError *error) {
        return add_side(userdata, item, "networkInterfaceId", "tagSet", error);
}

/* Filters by tags; a NULL one is left out. Whoever may not list them has none: policies that were written for the existing implementation
 * know nothing of tagged interfaces, and those go with the instance. */
static int list_sides(Aws *a, const PeerpodCall *call, bool nics, const char *name, const char *sandbox, const char *node, SideList *ret,
                      PeerpodError *error) {
        const char *action = nics ? "DescribeNetworkInterfaces" : "DescribeAddresses";
        _cleanup_(side_list_done) SideList l = {};
        _cleanup_(form_done) Form f = {};
        char code[AWS_CODE_SIZE];
        unsigned n = 1;
        int r;

        if (name)
                form_add_filter(&f, n++, "tag:" OWNER_TAG_NAME, name);
        if (sandbox)
                form_add_filter(&f, n++, "tag:" OWNER_TAG_SANDBOX, sandbox);
        if (node)
                form_add_filter(&f, n++, "tag:" OWNER_TAG_NODE, node);
        /* DescribeAddresses has no pages. */
        r = aws_each(a, call, action, &f, nics ? 200 : 0, nics ? "networkInterfaceSet" : "addressesSet", nics ? on_nic : on_address, &l, code, error);
        if (r < 0 && is_forbidden(code) && (nics || !a->public_ip)) {
                peerpod_log(call, LOG_INFO, "%s is not allowed, looking no further: %s", action, error->text);
                return 0;
        }
        if (r < 0)
                return r;
        *ret = l;
        l = (SideList) {};
        return 0;
}

static int do_by_id(Aws *a, const PeerpodCall *call, const char *action, const char *key, const char *id, PeerpodError *error) {
        const AwsQuery q = { .action = action, .repeatable = true };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        _cleanup_(form_done) Form f = {};
        int r;

        form_add(&f, key, id);
        r = aws_query(a, call, &q, &f, &reply, error);
        return r < 0 && aws_is_gone(reply.code) ? 0 : r;
}

/* ---- removal ---- */

static int remove_addresses(Aws *a, const PeerpodCall *call, const char *name, const char *sandbox, PeerpodError *error) {
        _cleanup_(side_list_done) SideList l = {};
        int r;

        r = list_sides(a, call, /* nics= */ false, name, sandbox, NULL, &l, error);
        for (size_t i = 0; i < l.n && r == 0; i++) {
                if (!isempty(l.items[i].association))
                        r = do_by_id(a, call, "DisassociateAddress", "AssociationId", l.items[i].association, error);
                if (r == 0)
                        r = do_by_id(a, call, "ReleaseAddress", "AllocationId", l.items[i].id, error);
        }
        return r;
}

int sides_remove(Aws *a, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error) {
        int r;

        r = remove_addresses(a, call, name, sandbox_id, error);
        while (r == 0) {
                _cleanup_(side_list_done) SideList l = {};

                r = list_sides(a, call, /* nics= */ true, name, sandbox_id, NULL, &l, error);
                if (r < 0 || l.n == 0)
                        return r;
                for (size_t i = 0; i < l.n && r == 0; i++)
                        if (streq(l.items[i].status, "available"))
                                r = do_by_id(a, call, "DeleteNetworkInterface", "NetworkInterfaceId", l.items[i].id, error);
                if (r == 0)
                        r = peerpod_call_wait(call, -1, 0, POLL_USEC, error);
        }
        return r;
}

int sides_find(Aws *a, const PeerpodCall *call, const char *node, SideFound found, void *userdata, PeerpodError *error) {
        for (unsigned nics = 0; nics < 2; nics++) {
                _cleanup_(side_list_done) SideList l = {};
                int r = list_sides(a, call, nics == 1, NULL, NULL, node, &l, error);

                for (size_t i = 0; i < l.n && r == 0; i++)
                        r = found(userdata, l.items[i].name, l.items[i].sandbox, l.items[i].id, error);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* ---- elastic addresses ---- */

static int allocate(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, char *ret, size_t size, PeerpodError *error) {
        /* There is no token of idempotency: what an unclear answer has left is found by its tags and released with the instance. */
        const AwsQuery q = { .action = "AllocateAddress" };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        _cleanup_(form_done) Form f = {};
        int r;

        form_add(&f, "Domain", "vpc");
        form_add_owner(&f, 1, "elastic-ip", spec, a->tags);
        r = aws_query(a, call, &q, &f, &reply, error);
        return r < 0 ? r : aws_field(reply.root, "allocationId", ret, size, error);
}

static int associate(Aws *a, const PeerpodCall *call, const char *allocation, const char *nic, PeerpodError *error) {
        const AwsQuery q = { .action = "AssociateAddress", .repeatable = true };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        _cleanup_(form_done) Form f = {};

        form_add(&f, "AllocationId", allocation);
        form_add(&f, "NetworkInterfaceId", nic);
        form_add(&f, "AllowReassociation", "true");
        return aws_query(a, call, &q, &f, &reply, error);
}

int addresses_give(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const Ec2Instance *i, PeerpodError *error) {
        _cleanup_(side_list_done) SideList l = {};
        size_t next = 0;
        int r;

        /* An earlier attempt may have made some. */
        r = list_sides(a, call, /* nics= */ false, spec->name, spec->sandbox_id, NULL, &l, error);
        for (size_t k = 0; k < i->n_nics && r == 0; k++) {
                char allocation[64] = "";

                if (!isempty(i->nics[k].public_address))
                        continue;
                while (next < l.n && isempty(allocation)) {
                        if (isempty(l.items[next].association))
                                (void) snprintf(allocation, sizeof(allocation), "%s", l.items[next].id);
                        next++;
                }
                if (isempty(allocation))
                        r = allocate(a, call, spec, allocation, sizeof(allocation), error);
                if (r == 0)
                        r = associate(a, call, allocation, i->nics[k].id, error);
        }
        return r;
}
