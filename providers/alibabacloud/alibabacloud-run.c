/* SPDX-License-Identifier: Apache-2.0 */
#include "alibabacloud-run.h"

#include "alibabacloud-list.h"
#include "cloud-config.h"
#include "cloud-owner.h"

static void add_tags(ApiRequest *q, const Alibaba *a, const PeerpodInstanceSpec *spec) {
        char node[TAG_VALUE_SIZE];
        const char *item;
        size_t n, index = 1;

        tag_value(spec->node, node);
        api_add_item(q, "Tag", index, "Key", OWNER_TAG_NODE);
        api_add_item(q, "Tag", index++, "Value", node);
        api_add_item(q, "Tag", index, "Key", OWNER_TAG_SANDBOX);
        api_add_item(q, "Tag", index++, "Value", spec->sandbox_id);
        for (const char *p = a->tags; list_next(&p, &item, &n); index++) {
                _cleanup_(freep) char *pair = strndup(item, n);
                char *value = pair ? strchr(pair, '=') : NULL;

                if (!pair || !value) {
                        q->failed = true;
                        return;
                }
                *value = '\0';
                api_add_item(q, "Tag", index, "Key", pair);
                api_add_item(q, "Tag", index, "Value", value + 1);
        }
}

/* It goes with the instance: nothing to find and remove later. */
static void add_second_interface(ApiRequest *q, const Alibaba *a) {
        api_add(q, "NetworkInterface.1.InstanceType", "Secondary");
        api_add(q, "NetworkInterface.1.VSwitchId", a->vswitch);
        api_add_list(q, "NetworkInterface.1.SecurityGroupIds", a->security_groups);
        api_add(q, "NetworkInterface.1.DeleteOnRelease", "true");
}

static void add_machine(ApiRequest *q, const Alibaba *a, const RunSpec *run) {
        char size[32];

        api_add(q, "ImageId", isempty(run->spec->image) ? a->image : run->spec->image);
        api_add(q, "InstanceType", run->type);
        api_add(q, "KeyPairName", a->key_name);
        api_add(q, "DedicatedHostId", a->dedicated_host);
        api_add(q, "HttpEndpoint", "enabled");
        api_add(q, "HttpTokens", a->http_tokens);
        if (a->confidential)
                api_add(q, "SecurityOptions.ConfidentialComputingMode", "TDX");
        if (a->disk_size_gib > 0) {
                (void) snprintf(size, sizeof(size), "%" PRIu64, a->disk_size_gib);
                api_add(q, "SystemDisk.Size", size);
                api_add(q, "SystemDisk.Category", a->disk_category);
        }
}

static void add_network(ApiRequest *q, const Alibaba *a, const PeerpodInstanceSpec *spec) {
        api_add(q, "VSwitchId", a->vswitch);
        api_add_list(q, "SecurityGroupIds", a->security_groups);
        if (a->public_address) {
                api_add(q, "InternetChargeType", "PayByTraffic");
                api_add(q, "InternetMaxBandwidthOut", "100");
        }
        if (spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                add_second_interface(q, a);
}

int run_instances(Alibaba *a, const PeerpodCall *call, const RunSpec *run, char **ret_id, ApiReply *ret_reply, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "RunInstances" };
        int r;

        api_add(&q, "RegionId", a->region);
        api_add(&q, "Amount", "1");
        api_add(&q, "MinAmount", "1");
        api_add(&q, "InstanceChargeType", "PostPaid");
        api_add(&q, "InstanceName", run->spec->name);
        api_add(&q, "ResourceGroupId", a->resource_group);
        api_add(&q, "UserData", run->user_data);
        add_machine(&q, a, run);
        add_network(&q, a, run->spec);
        add_tags(&q, a, run->spec);
        if (run->token)
                api_add(&q, "ClientToken", run->token);
        else
                api_add(&q, "DryRun", "true");

        r = api_call(a, call, &q, ret_reply, error);
        if (r < 0)
                return r;
        r = instance_id_parse(ret_reply->body, ret_id);
        if (r < 0) {
                ret_reply->unknown = true;
                return api_malformed(error, &q, r);
        }
        return 0;
}
