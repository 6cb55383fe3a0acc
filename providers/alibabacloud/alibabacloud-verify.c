/* SPDX-License-Identifier: Apache-2.0 */
/* What can be asked without making anything: the things that settings name, one look at the lists that deleting needs, and RunInstances as
 * a dry run, which checks permissions, combinations and stock. */
#include "alibabacloud-verify.h"

#include <syslog.h>

#include "alibabacloud-list.h"
#include "alibabacloud-run.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define NAME "peerpod-check"

static int check_vswitch(Alibaba *a, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "DescribeVSwitchAttributes", .vpc = true };
        _cleanup_(api_reply_done) ApiReply reply = {};
        _cleanup_(freep) char *vpc = NULL;
        int r;

        api_add(&q, "RegionId", a->region);
        api_add(&q, "VSwitchId", a->vswitch);
        r = api_call(a, call, &q, &reply, error);
        if (r < 0)
                return r;
        r = string_parse(reply.body, "VpcId", &vpc);
        if (r < 0)
                return api_malformed(error, &q, r);
        if (isempty(vpc))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no vSwitch '%s' (VSWITCH_ID) in region '%s'.", a->vswitch, a->region);
        if (!isempty(a->vpc) && !streq(vpc, a->vpc))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "vSwitch '%s' is in VPC '%s', not in '%s' (--vpc-id).", a->vswitch, vpc, a->vpc);
        return 0;
}

static int check_image(Alibaba *a, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "DescribeImages" };
        _cleanup_(api_reply_done) ApiReply reply = {};
        _cleanup_(freep) char *status = NULL;
        int r;

        if (isempty(a->image))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "IMAGEID is empty.");
        api_add(&q, "RegionId", a->region);
        api_add(&q, "ImageId", a->image);
        api_add(&q, "Status", "Creating,Waiting,Available,UnAvailable,CreateFailed,Deprecated");
        r = api_call(a, call, &q, &reply, error);
        if (r < 0)
                return r;
        r = string_parse(reply.body, "Images/Image/0/Status", &status);
        if (r < 0)
                return api_malformed(error, &q, r);
        if (isempty(status))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no image '%s' (IMAGEID) in region '%s'.", a->image, a->region);
        if (!streq(status, "Available") && !streq(status, "Deprecated"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Image '%s' is in state %s.", a->image, status);
        return 0;
}

static int check_types(Alibaba *a, const PeerpodCall *call, PeerpodError *error) {
        InstanceType *types = NULL;
        bool known = false;
        size_t n = 0;
        int r;

        r = list_types(a, call, &types, &n, error);
        if (r < 0)
                return r;
        FOREACH_ELEMENT(InstanceType, t, types, n) {
                known = known || streq(t->name, a->default_type);
                instance_type_done(t);
        }
        free(types);
        return known ? 0 : peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no instance type '%s' (PODVM_INSTANCE_TYPE).", a->default_type);
}

static int check_lists(Alibaba *a, const PeerpodCall *call, PeerpodError *error) {
        const ListFilter f = { .name = NAME, .sandbox_id = NAME };
        EcsInstance *instances = NULL;
        VpcAddress *addresses = NULL;
        size_t n_instances = 0, n_addresses = 0;
        int r;

        r = list_instances(a, call, &f, &instances, &n_instances, error);
        if (r == 0)
                r = list_addresses(a, call, &f, &addresses, &n_addresses, error);
        ecs_instances_free(instances, n_instances);
        vpc_addresses_free(addresses, n_addresses);
        return r;
}

static int check_run(Alibaba *a, const PeerpodCall *call, PeerpodError *error) {
        const PeerpodInstanceSpec spec = { .size = sizeof(PeerpodInstanceSpec), .name = NAME, .sandbox_id = NAME, .node = NAME, .image = "" };
        const RunSpec dry = { .spec = &spec, .type = a->default_type };
        _cleanup_(api_reply_done) ApiReply reply = {};
        _cleanup_(freep) char *id = NULL;
        int r;

        r = run_instances(a, call, &dry, &id, &reply, error);
        if (r == 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "RunInstances: A dry run has made instance '%s'.", id);
        return code_is(reply.code, "DryRunOperation") ? 0 : r;
}

int alibaba_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        int (*const checks[])(Alibaba*, const PeerpodCall*, PeerpodError*) = { check_vswitch, check_image, check_types, check_lists, check_run };

        for (size_t i = 0; i < ELEMENTSOF(checks); i++) {
                int r = checks[i](provider, call, error);

                if (r < 0)
                        return r;
        }
        return 0;
}
