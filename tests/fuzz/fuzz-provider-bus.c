/* SPDX-License-Identifier: Apache-2.0 */
/* The private bus of peerpod-providerd; the jobs that call the cloud are replaced at link time. */
#include "bus-fuzz.h"

#include "basic/parse.h"
#include "provider/instance-name.h"
#include "provider/job.h"
#include "provider/provider-bus.h"

#define USER_DATA_MAX 128U

int __wrap_job_create(Manager *m, JobRequest *request, sd_bus_message *message, sd_bus_error *error);
int __wrap_job_delete(Manager *m, const JobRequest *request, sd_bus_message *message, sd_bus_error *error);
int __wrap_job_find(Manager *m, const char *node, sd_bus_message *message, sd_bus_error *error);
int __wrap_job_verify(Manager *m, sd_bus_message *message, sd_bus_error *error);

uint64_t manager_user_data_size_max(const Manager *m) {
        return USER_DATA_MAX;
}

static void check_names(const JobRequest *q) {
        assert(sandbox_id_is_valid(q->sandbox_id));
        assert(instance_name_is_valid(q->name));
}

int __wrap_job_create(Manager *m, JobRequest *q, sd_bus_message *message, sd_bus_error *error) {
        const char *const texts[] = { q->machine_type, q->image, q->pod_name, q->pod_namespace };

        check_names(q);
        assert(!isempty(q->node));
        assert(q->user_data && q->user_data_size <= USER_DATA_MAX);
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                assert(!texts[i] || text_is_plain(texts[i], 512));
        q->user_data = erase_free(q->user_data, q->user_data_size);
        return sd_bus_reply_method_return(message, "ssas", "i-1", "t", 1, "192.0.2.1");
}

int __wrap_job_delete(Manager *m, const JobRequest *q, sd_bus_message *message, sd_bus_error *error) {
        check_names(q);
        assert(text_is_plain(q->id, 512));
        return sd_bus_reply_method_return(message, NULL);
}

int __wrap_job_find(Manager *m, const char *node, sd_bus_message *message, sd_bus_error *error) {
        assert(!isempty(node) && text_is_plain(node, 253));
        return sd_bus_reply_method_return(message, "a(sss)", 0);
}

int __wrap_job_verify(Manager *m, sd_bus_message *message, sd_bus_error *error) {
        return sd_bus_reply_method_return(message, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const members[] = { "CreateInstance", "DeleteInstance", "FindInstances", "DeleteUntaggedInstance", NULL };
        static const PeerpodProvider module = { .name = "fuzz" };
        static Manager manager = { .module = &module };
        static BusFuzz f = {
                .path = PROVIDER_PATH,
                .interface = PROVIDER_INTERFACE,
                .members = members,
                .setup = provider_bus_setup,
                .userdata = &manager,
        };

        bus_fuzz_one(&f, data, size);
        return 0;
}
