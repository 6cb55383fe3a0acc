/* SPDX-License-Identifier: Apache-2.0 */
#include "alibabacloud-address.h"

#include <arpa/inet.h>
#include <syslog.h>

#include "alibabacloud-list.h"
#include "alibabacloud-wait.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define DESCRIPTION "Peerpod External Network EIP"      /* upstream's */

/* Between two states: ask again. */
static bool is_busy(const ApiReply *reply) {
        static const char *const codes[] = {
                "IncorrectEipStatus", "IncorrectInstanceStatus", "IncorrectStatus", "InvalidStatus", "OperationConflict", "TaskConflict",
                "DependencyViolation", "InvalidEniStatus", "InvalidEipStatus",
        };

        for (size_t i = 0; i < ELEMENTSOF(codes); i++)
                if (code_is(reply->code, codes[i]))
                        return true;
        return reply->unknown;
}

/* The first address of @name and @sandbox_id; 1 and *ret, 0 if there is none */
static int find_address(Alibaba *a, const PeerpodCall *call, const char *name, const char *sandbox_id, VpcAddress **ret, size_t *ret_n,
                        PeerpodError *error) {
        const ListFilter f = { .sandbox_id = sandbox_id };
        VpcAddress *all = NULL;
        size_t n = 0, k = 0;
        int r;

        r = list_addresses(a, call, &f, &all, &n, error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++)
                if (streq(all[i].name, name) && streq(all[i].sandbox_id, sandbox_id)) {
                        VpcAddress t = all[k];

                        all[k++] = all[i];
                        all[i] = t;
                }
        if (k == 0) {
                vpc_addresses_free(all, n);
                return 0;
        }
        /* Those that are another's stay behind the ones that are looked at. */
        *ret = all;
        *ret_n = n;
        return 1;
}

static int allocate(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const EcsInstance *i, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "AllocateEipAddress", .vpc = true };
        _cleanup_(api_reply_done) ApiReply reply = {};
        char token[OWNER_TOKEN_SIZE], node[TAG_VALUE_SIZE];

        /* By the instance's id, too: the token of an address that was released would name that one again. */
        owner_token(spec->name, i->id, token);
        tag_value(spec->node, node);
        api_add(&q, "RegionId", a->region);
        api_add(&q, "Description", DESCRIPTION);
        api_add(&q, "Name", spec->name);
        api_add(&q, "InternetChargeType", "PayByTraffic");
        api_add(&q, "Bandwidth", "100");
        api_add(&q, "ResourceGroupId", a->resource_group);
        api_add(&q, "ClientToken", token);
        api_add_item(&q, "Tag", 1, "Key", OWNER_TAG_NODE);
        api_add_item(&q, "Tag", 1, "Value", node);
        api_add_item(&q, "Tag", 2, "Key", OWNER_TAG_SANDBOX);
        api_add_item(&q, "Tag", 2, "Value", spec->sandbox_id);
        api_add_item(&q, "Tag", 3, "Key", OWNER_TAG_NAME);
        api_add_item(&q, "Tag", 3, "Value", spec->name);
        return api_call(a, call, &q, &reply, error);
}

/* Returns 1 when it is to be looked at again. */
static int associate(Alibaba *a, const PeerpodCall *call, const char *id, const EcsInstance *i, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "AssociateEipAddress", .vpc = true };
        _cleanup_(api_reply_done) ApiReply reply = {};
        int r;

        api_add(&q, "RegionId", a->region);
        api_add(&q, "AllocationId", id);
        api_add(&q, "InstanceId", i->second_interface);
        api_add(&q, "InstanceType", "NetworkInterface");
        r = api_call(a, call, &q, &reply, error);
        return r < 0 && is_busy(&reply) ? 1 : r;
}

int address_bind(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const EcsInstance *i, char *ret, PeerpodError *error) {
        uint64_t pause = PAUSE_FIRST_USEC;
        bool allocated = false;

        for (;;) {
                VpcAddress *all = NULL;
                size_t n = 0;
                int r;

                r = find_address(a, call, spec->name, spec->sandbox_id, &all, &n, error);
                if (r < 0)
                        return r;
                if (r == 0 && !allocated) {
                        r = allocate(a, call, spec, i, error);
                        if (r < 0)
                                return r;
                        allocated = true;       /* it is seen after a while */
                        continue;
                }
                if (r > 0) {
                        bool done = streq(all->status, "InUse") && streq(all->instance_id, i->second_interface) && !isempty(all->address);

                        if (done)
                                (void) snprintf(ret, INET6_ADDRSTRLEN, "%s", all->address);
                        r = !done && streq(all->status, "Available") ? associate(a, call, all->id, i, error) : 0;
                        vpc_addresses_free(all, n);
                        if (r < 0 || done)
                                return r;
                }
                r = pause_next(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* Returns 1 when it is to be looked at again. */
static int unbind_or_release(Alibaba *a, const PeerpodCall *call, const VpcAddress *address, PeerpodError *error) {
        bool bound = !streq(address->status, "Available");
        _cleanup_(api_request_done) ApiRequest q = { .action = bound ? "UnassociateEipAddress" : "ReleaseEipAddress", .vpc = true };
        _cleanup_(api_reply_done) ApiReply reply = {};
        int r;

        if (bound && !streq(address->status, "InUse"))
                return 1;
        api_add(&q, "RegionId", a->region);
        api_add(&q, "AllocationId", address->id);
        if (bound) {
                api_add(&q, "InstanceId", address->instance_id);
                api_add(&q, "InstanceType", address->instance_type);
        }
        r = api_call(a, call, &q, &reply, error);
        if (r == 0 || is_busy(&reply) || code_is(reply.code, "InvalidAllocationId") || code_is(reply.code, "InvalidAssociation") ||
            code_is(reply.code, "InvalidInstanceId"))
                return 1;
        return r;
}

int addresses_release(Alibaba *a, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error) {
        uint64_t pause = PAUSE_FIRST_USEC;

        for (;;) {
                VpcAddress *all = NULL;
                size_t n = 0;
                int r;

                r = find_address(a, call, name, sandbox_id, &all, &n, error);
                if (r <= 0)
                        return r;
                for (size_t i = 0; i < n && r >= 0; i++)
                        if (streq(all[i].name, name) && streq(all[i].sandbox_id, sandbox_id))
                                r = unbind_or_release(a, call, all + i, error);
                vpc_addresses_free(all, n);
                if (r >= 0)
                        r = pause_next(call, &pause, error);
                if (r < 0)
                        return r;
        }
}
