/* SPDX-License-Identifier: Apache-2.0 */
#include "alibabacloud-list.h"

#include <syslog.h>

#include "cloud-config.h"
#include "cloud-owner.h"

#define PAGE "100"                      /* the clouds' limit */
#define PAGES_MAX 1000
#define TYPES_AT_ONCE 10                /* Ecs 2014-05-26, DescribeInstanceTypes, InstanceTypes.N */

void tag_value(const char *s, char ret[static TAG_VALUE_SIZE]) {
        if (strlen(s) < TAG_VALUE_SIZE && !startswith(s, "aliyun"))
                strcpy(ret, s);
        else
                owner_digest(s, ret);
}

/* Adds @n_more elements (moved; @more is freed) to an array. */
static int append(void *array, size_t *n, void *more, size_t n_more, size_t size) {
        void **p = array, *q;

        q = reallocarray(*p, *n + n_more + 1, size);
        if (!q)
                return -ENOMEM;
        if (n_more > 0)
                memcpy((char*) q + *n * size, more, n_more * size);
        *p = q;
        *n += n_more;
        free(more);
        return 0;
}

static void add_tags(ApiRequest *q, const ListFilter *f) {
        size_t i = 1;

        if (f->node) {
                api_add_item(q, "Tag", i, "Key", OWNER_TAG_NODE);
                api_add_item(q, "Tag", i++, "Value", f->node);
        }
        if (f->sandbox_id) {
                api_add_item(q, "Tag", i, "Key", OWNER_TAG_SANDBOX);
                api_add_item(q, "Tag", i, "Value", f->sandbox_id);
        }
}

static int ask_for_instances(Alibaba *a, const PeerpodCall *call, const ListFilter *f, const char *next, EcsInstance **ret, size_t *ret_n,
                             char **ret_next, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "DescribeInstances" };
        _cleanup_(api_reply_done) ApiReply reply = {};
        char ids[512];
        int r;

        api_add(&q, "RegionId", a->region);
        api_add(&q, "MaxResults", PAGE);
        api_add(&q, "NextToken", next);
        api_add(&q, "InstanceName", f->name);
        if (f->id) {
                (void) snprintf(ids, sizeof(ids), "[\"%.256s\"]", f->id);
                api_add(&q, "InstanceIds", ids);
        }
        add_tags(&q, f);
        r = api_call(a, call, &q, &reply, error);
        if (r < 0)
                return r;
        r = ecs_instances_parse(reply.body, ret, ret_n, ret_next);
        return r < 0 ? api_malformed(error, &q, r) : 0;
}

int list_instances(Alibaba *a, const PeerpodCall *call, const ListFilter *f, EcsInstance **ret, size_t *ret_n, PeerpodError *error) {
        _cleanup_(freep) char *next = strdup("");
        EcsInstance *all = NULL;
        size_t n = 0;
        int r = next ? 0 : oom(error);

        for (size_t page = 0; r == 0; page++) {
                EcsInstance *some = NULL;
                size_t n_some = 0;
                char *after = NULL;

                r = page < PAGES_MAX ? ask_for_instances(a, call, f, next, &some, &n_some, &after, error) :
                        peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "DescribeInstances: The list does not end.");
                if (r < 0)
                        break;
                if (append(&all, &n, some, n_some, sizeof(EcsInstance)) < 0) {
                        ecs_instances_free(some, n_some);
                        free(after);
                        r = oom(error);
                        break;
                }
                free(next);
                next = after;
                if (isempty(next))
                        break;
        }
        if (r < 0) {
                ecs_instances_free(all, n);
                return r;
        }
        *ret = all;
        *ret_n = n;
        return 0;
}

/* Returns 1 when the user may not, and need not. */
static int ask_for_addresses(Alibaba *a, const PeerpodCall *call, const ListFilter *f, size_t page, VpcAddress **ret, size_t *ret_n,
                             uint64_t *ret_total, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "DescribeEipAddresses", .vpc = true };
        _cleanup_(api_reply_done) ApiReply reply = {};
        char number[32];
        int r;

        (void) snprintf(number, sizeof(number), "%zu", page);
        api_add(&q, "RegionId", a->region);
        api_add(&q, "PageSize", PAGE);
        api_add(&q, "PageNumber", number);
        add_tags(&q, f);
        r = api_call(a, call, &q, &reply, error);
        if (r < 0 && !a->public_address && (code_is(reply.code, "Forbidden") || code_is(reply.code, "NoPermission"))) {
                peerpod_log(call, LOG_DEBUG, "There is no right to list elastic addresses, and none is asked for.");
                return 1;
        }
        if (r < 0)
                return r;
        r = vpc_addresses_parse(reply.body, ret, ret_n, ret_total);
        return r < 0 ? api_malformed(error, &q, r) : 0;
}

int list_addresses(Alibaba *a, const PeerpodCall *call, const ListFilter *f, VpcAddress **ret, size_t *ret_n, PeerpodError *error) {
        VpcAddress *all = NULL;
        size_t n = 0;
        int r = 0;

        for (size_t page = 1; r == 0; page++) {
                VpcAddress *some = NULL;
                uint64_t total = 0;
                size_t n_some = 0;

                r = page <= PAGES_MAX ? ask_for_addresses(a, call, f, page, &some, &n_some, &total, error) :
                        peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "DescribeEipAddresses: The list does not end.");
                if (r != 0)
                        break;
                if (append(&all, &n, some, n_some, sizeof(VpcAddress)) < 0) {
                        vpc_addresses_free(some, n_some);
                        r = oom(error);
                        break;
                }
                if (n_some == 0 || n >= total)
                        break;
        }
        if (r < 0) {
                vpc_addresses_free(all, n);
                return r;
        }
        *ret = all;
        *ret_n = n;
        return 0;
}

static void types_free(InstanceType *types, size_t n) {
        FOREACH_ELEMENT(InstanceType, t, types, n)
                instance_type_done(t);
        free(types);
}

static int ask_for_types(Alibaba *a, const PeerpodCall *call, ApiRequest *q, InstanceType **all, size_t *n, PeerpodError *error) {
        _cleanup_(api_reply_done) ApiReply reply = {};
        _cleanup_(freep) char *next = NULL;     /* ten types are one page */
        InstanceType *some = NULL;
        size_t n_some = 0;
        int r;

        r = api_call(a, call, q, &reply, error);
        if (r < 0)
                return r;
        r = instance_types_parse(reply.body, &some, &n_some, &next);
        if (r < 0)
                return api_malformed(error, q, r);
        if (append(all, n, some, n_some, sizeof(InstanceType)) < 0) {
                types_free(some, n_some);
                return oom(error);
        }
        return 0;
}

int list_types(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error) {
        Alibaba *a = userdata;
        _cleanup_(freep) char *names = NULL;
        InstanceType *all = NULL;
        const char *p, *item;
        size_t n = 0, size;
        int r = 0;

        if (asprintf(&names, "%s%s%s", a->default_type, isempty(a->allowed_types) ? "" : ",", a->allowed_types) < 0)
                return oom(error);
        p = names;
        while (r == 0 && *p) {
                _cleanup_(api_request_done) ApiRequest q = { .action = "DescribeInstanceTypes" };

                for (size_t i = 1; i <= TYPES_AT_ONCE && list_next(&p, &item, &size); i++) {
                        char name[128];

                        (void) snprintf(name, sizeof(name), "%.*s", (int) size, item);
                        api_add_item(&q, "InstanceTypes", i, NULL, name);
                }
                r = ask_for_types(a, call, &q, &all, &n, error);
        }
        if (r < 0) {
                types_free(all, n);
                return r;
        }
        *ret = all;
        *ret_n = n;
        return 0;
}
