/* SPDX-License-Identifier: Apache-2.0 */
#include <syslog.h>

#include "aws-provider.h"
#include "aws-run.h"
#include "cloud-config.h"

#define NO_INSTANCE "i-00000000000000000"

static int who_are_we(Aws *a, const PeerpodCall *call, PeerpodError *error) {
        const AwsQuery q = { .action = "GetCallerIdentity", .sts = true, .repeatable = true };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        char arn[256];
        int r;

        r = aws_query(a, call, &q, NULL, &reply, error);
        if (r == 0)
                r = aws_field(reply.root, "GetCallerIdentityResult/Arn", arn, sizeof(arn), error);
        if (r == 0)
                peerpod_log(call, LOG_INFO, "AWS knows us as '%s'.", arn);
        return r;
}

typedef struct SubnetSearch {
        bool found;
        uint64_t n_free;
        char vpc[32];
} SubnetSearch;

static int on_subnet(void *userdata, const xmlNode *item, PeerpodError *error) {
        SubnetSearch *s = userdata;
        int r = aws_number(item, "availableIpAddressCount", &s->n_free, error);

        s->found = true;
        return r < 0 ? r : aws_field(item, "vpcId", s->vpc, sizeof(s->vpc), error);
}

static int on_group(void *userdata, const xmlNode *item, PeerpodError *error) {
        const SubnetSearch *s = userdata;
        char id[32], vpc[32];
        int r;

        r = aws_field(item, "groupId", id, sizeof(id), error);
        if (r == 0)
                r = aws_field(item, "vpcId", vpc, sizeof(vpc), error);
        if (r == 0 && s->found && !streq(vpc, s->vpc))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Security group '%s' is of network '%s', the subnet of '%s'.", id, vpc, s->vpc);
        return r;
}

/* Whoever may not look is not refused: RunInstances will tell. */
static int may_not(const PeerpodCall *call, const char *code, const char *what, int r) {
        if (r >= 0 || !streq(code, "UnauthorizedOperation"))
                return r;
        peerpod_log(call, LOG_NOTICE, "%s is not allowed, so that is not checked.", what);
        return 0;
}

static int check_network(Aws *a, const PeerpodCall *call, const AwsPlace *place, PeerpodError *error) {
        _cleanup_(form_done) Form subnet = {}, groups = {};
        char code[AWS_CODE_SIZE];
        SubnetSearch s = {};
        int r = 0;

        if (!isempty(place->subnet)) {
                form_add(&subnet, "SubnetId.1", place->subnet);
                r = aws_each(a, call, "DescribeSubnets", &subnet, 0, "subnetSet", on_subnet, &s, code, error);
                if (r == 0 && (!s.found || s.n_free == 0))
                        return peerpod_error_set(error, s.found ? PEERPOD_E_EXHAUSTED : PEERPOD_E_FAILED_PRECONDITION,
                                                 s.found ? "Subnet '%s' has no free address." : "There is no subnet '%s'.", place->subnet);
                r = may_not(call, code, "DescribeSubnets", r);
        }
        if (r == 0 && !isempty(place->groups)) {
                form_add_list(&groups, "GroupId.", place->groups);
                r = aws_each(a, call, "DescribeSecurityGroups", &groups, 0, "securityGroupInfo", on_group, &s, code, error);
                r = may_not(call, code, "DescribeSecurityGroups", r);
        }
        return r;
}

/* EC2 looks at permissions first: DryRunOperation is a yes, and so is any complaint about the instance that is not there. */
static int dry_run(Aws *a, const PeerpodCall *call, const char *action, Form *f, PeerpodError *error) {
        const AwsQuery q = { .action = action, .repeatable = true };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        int r;

        form_add(f, "DryRun", "true");
        r = aws_query(a, call, &q, f, &reply, error);
        return r < 0 && (streq(reply.code, "DryRunOperation") || streq(reply.code, "InvalidInstanceID.NotFound")) ? 0 : r;
}

static int check_permissions(Aws *a, const PeerpodCall *call, const AwsPlan *p, PeerpodError *error) {
        static const char *const listings[] = { "DescribeInstances", "DescribeAddresses", "DescribeNetworkInterfaces", "DescribeVolumes" };
        _cleanup_(form_done) Form run = {}, terminate = {};
        int r;

        plan_form(a, p, &run);
        r = dry_run(a, call, "RunInstances", &run, error);
        if (r < 0)
                return r;
        form_add(&terminate, "InstanceId.1", NO_INSTANCE);
        r = dry_run(a, call, "TerminateInstances", &terminate, error);
        for (size_t i = 0; i < ELEMENTSOF(listings) && r == 0; i++) {
                _cleanup_(form_done) Form f = {};

                r = dry_run(a, call, listings[i], &f, error);
        }
        return r;
}

int aws_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        const PeerpodInstanceSpec spec = {
                .size = sizeof(PeerpodInstanceSpec),
                .name = "peerpod-check", .sandbox_id = "check", .node = "check",
                .machine_type = "", .image = "", .pod_name = "", .pod_namespace = "", .gpu_model = "",
                .user_data = "#cloud-config\n", .user_data_size = strlen("#cloud-config\n"),
        };
        _cleanup_(plan_done) AwsPlan p = {};
        Aws *a = provider;
        int r;

        r = who_are_we(a, call, error);
        if (r == 0)
                r = plan_make(a, call, &spec, &p, error);
        if (r == 0)
                r = check_network(a, call, &p.place, error);
        return r < 0 ? r : check_permissions(a, call, &p, error);
}
