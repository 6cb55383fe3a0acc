/* SPDX-License-Identifier: Apache-2.0 */
#include "alibabacloud-disk.h"

#include "alibabacloud-wait.h"

static const char* const* volumes_of(const PeerpodInstanceSpec *spec, size_t *ret_n) {
        *ret_n = PEERPOD_HAS(spec, n_volumes) ? spec->n_volumes : 0;
        return *ret_n > 0 ? spec->volumes : NULL;
}

int disks_check(const PeerpodInstanceSpec *spec, PeerpodError *error) {
        size_t n;
        const char *const *volumes = volumes_of(spec, &n);

        for (size_t i = 0; i < n; i++) {
                const char *id = startswith(volumes[i], "d-");

                if (!id || isempty(id) || strlen(id) > 64 || strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(id))
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no id of a disk ('d-…').", volumes[i]);
        }
        return 0;
}

static int look(Alibaba *a, const PeerpodCall *call, const char *id, char **ret_status, char **ret_instance, PeerpodError *error) {
        _cleanup_(api_request_done) ApiRequest q = { .action = "DescribeDisks" };
        _cleanup_(api_reply_done) ApiReply reply = {};
        char ids[128];
        int r;

        (void) snprintf(ids, sizeof(ids), "[\"%s\"]", id);
        api_add(&q, "RegionId", a->region);
        api_add(&q, "DiskIds", ids);
        r = api_call(a, call, &q, &reply, error);
        if (r < 0)
                return r;
        r = string_parse(reply.body, "Disks/Disk/0/Status", ret_status);
        if (r == 0)
                r = string_parse(reply.body, "Disks/Disk/0/InstanceId", ret_instance);
        if (r < 0)
                return api_malformed(error, &q, r);
        return isempty(*ret_status) ? peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no disk '%s' in region '%s'.", id, a->region) : 0;
}

/* Returns 1 when it is to be looked at again. */
static int attach(Alibaba *a, const PeerpodCall *call, const char *id, const char *instance_id, PeerpodError *error) {
        static const char *const busy[] = {
                "IncorrectInstanceStatus", "IncorrectDiskStatus", "InvalidDisk.AlreadyAttached", "OperationConflict", "InvalidInstanceId.NotFound",
        };
        _cleanup_(api_request_done) ApiRequest q = { .action = "AttachDisk" };
        _cleanup_(api_reply_done) ApiReply reply = {};
        int r;

        api_add(&q, "InstanceId", instance_id);
        api_add(&q, "DiskId", id);
        api_add(&q, "DeleteWithInstance", "false");
        r = api_call(a, call, &q, &reply, error);
        if (r == 0 || reply.unknown)
                return r == -ECANCELED || r == -ETIMEDOUT ? r : 1;
        for (size_t i = 0; i < ELEMENTSOF(busy); i++)
                if (code_is(reply.code, busy[i]))
                        return 1;
        return r;
}

static int attach_one(Alibaba *a, const PeerpodCall *call, const char *id, const char *instance_id, PeerpodError *error) {
        uint64_t pause = PAUSE_FIRST_USEC;

        for (;;) {
                _cleanup_(freep) char *status = NULL, *holder = NULL;
                int r;

                r = look(a, call, id, &status, &holder, error);
                if (r < 0)
                        return r;
                if (streq(status, "In_use") && streq(holder, instance_id))
                        return 0;
                /* One that is being detached from its last pod's VM is worth the wait. */
                if (streq(status, "In_use"))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Disk '%s' is in use by instance '%s'.", id, holder);
                if (streq(status, "Available")) {
                        r = attach(a, call, id, instance_id, error);
                        if (r < 0)
                                return r;
                }
                r = pause_next(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

int disks_attach(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *instance_id, PeerpodError *error) {
        size_t n;
        const char *const *volumes = volumes_of(spec, &n);

        for (size_t i = 0; i < n; i++) {
                int r = attach_one(a, call, volumes[i], instance_id, error);

                if (r < 0)
                        return r;
        }
        return 0;
}
