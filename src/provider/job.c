/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/job.h"

#include <stdio.h>
#include <sys/eventfd.h>
#include <utlist.h>

#include "basic/crash-point.h"
#include "basic/hash.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/strv.h"
#include "basic/util.h"

#define WAITERS_MAX 16          /* requests that wait for one job */
#define FOUND_MAX 65536         /* instances of one node: a cloud's broken answer must not fill our memory */

/* A module that is this late hangs; its callers get an answer, its worker is lost until it returns. */
#define OVERDUE_USEC (60 * USEC_PER_SEC)

typedef enum JobType {
        JOB_CREATE,
        JOB_DELETE,
        JOB_FIND,
        JOB_VERIFY,
        _JOB_TYPE_MAX,
} JobType;

typedef struct Found {
        char *sandbox_id, *name, *id;
} Found;

struct Job {
        PoolJob pool_job;
        Manager *manager;               /* borrowed */
        Job *prev, *next;               /* in manager->jobs */
        UT_hash_handle hh;              /* in the table of its type, unless it looks for all instances */
        JobType type;
        Job *after;                     /* borrowed: the delete that begins when this create has ended */

        char *name, *sandbox_id, *node, *id;
        char *machine_type, *image, *pod_name, *pod_namespace, *gpu_model;
        bool multi_nic, untagged;
        char **volumes;
        uint32_t vcpus, gpus;
        uint64_t memory_mib;
        char *user_data;                /* secret */
        size_t user_data_size;

        LogContext log;
        int cancel_fd;
        uint64_t timeout_usec, deadline_usec, begin_usec;
        sd_event_source *overdue_source;
        sd_bus_message *waiters[WAITERS_MAX];
        size_t n_waiters;

        /* The worker's, until it is done */
        int result;
        PeerpodError error;
        PeerpodInstance instance;
        Found *found;
        size_t n_found, n_found_allocated;
};

static const char* job_type_to_string(JobType t) {
        static const char *const names[_JOB_TYPE_MAX] = {
                [JOB_CREATE] = "Creating",
                [JOB_DELETE] = "Deleting",
                [JOB_FIND] = "Looking for",
                [JOB_VERIFY] = "Checking",
        };

        return names[t];
}

static const CrashPoints crash_points[_JOB_TYPE_MAX] = {
        [JOB_CREATE] = CRASH_POINTS_AROUND("create"),
        [JOB_DELETE] = CRASH_POINTS_AROUND("delete"),
        [JOB_FIND] = CRASH_POINTS_AROUND("find"),
        [JOB_VERIFY] = CRASH_POINTS_AROUND("verify"),
};

/* One table: what the module's error is on the bus. */
static const char* error_kind_to_bus_name(uint32_t kind) {
        static const char *const names[_PEERPOD_E_MAX] = {
                [PEERPOD_E_INVALID_ARGUMENT] = PEERPOD_ERROR_INVALID_ARGUMENT,
                [PEERPOD_E_NOT_FOUND] = PEERPOD_ERROR_NOT_FOUND,
                [PEERPOD_E_ALREADY_EXISTS] = PEERPOD_ERROR_ALREADY_EXISTS,
                [PEERPOD_E_EXHAUSTED] = PEERPOD_ERROR_EXHAUSTED,
                [PEERPOD_E_FAILED_PRECONDITION] = PEERPOD_ERROR_FAILED_PRECONDITION,
                [PEERPOD_E_UNAVAILABLE] = PEERPOD_ERROR_UNAVAILABLE,
                [PEERPOD_E_TIMED_OUT] = PEERPOD_ERROR_TIMED_OUT,
                [PEERPOD_E_CANCELLED] = PEERPOD_ERROR_CANCELLED,
                [PEERPOD_E_UNAUTHENTICATED] = PEERPOD_ERROR_UNAUTHENTICATED,
                [PEERPOD_E_INTERNAL] = PEERPOD_ERROR_INTERNAL,
                [PEERPOD_E_THROTTLED] = PEERPOD_ERROR_THROTTLED,
        };

        return kind < _PEERPOD_E_MAX && names[kind] ? names[kind] : PEERPOD_ERROR_INTERNAL;
}

static Job** table_of(Manager *m, JobType type) {
        return type == JOB_CREATE ? &m->creates : &m->deletes;
}

static Job* job_free(Job *j) {
        if (!j)
                return NULL;

        if (j->prev)
                DL_DELETE(j->manager->jobs, j);
        if (hash_added(j))
                HASH_DEL(*table_of(j->manager, j->type), j);
        sd_event_source_disable_unref(j->overdue_source);
        for (size_t i = 0; i < j->n_waiters; i++)
                sd_bus_message_unref(j->waiters[i]);
        for (size_t i = 0; i < j->n_found; i++) {
                free(j->found[i].sandbox_id);
                free(j->found[i].name);
                free(j->found[i].id);
        }
        free(j->found);
        close_fd(j->cancel_fd);
        log_context_done(&j->log);
        erase_free(j->user_data, j->user_data_size);
        free(j->name);
        free(j->sandbox_id);
        free(j->node);
        free(j->id);
        strv_free(j->volumes);
        free(j->machine_type);
        free(j->gpu_model);
        free(j->image);
        free(j->pod_name);
        free(j->pod_namespace);
        free(j);
        return NULL;
}

DEFINE_CLEANUP(Job*, job_free);

static int copy(char **to, const char *from) {
        *to = strdup(strempty(from));
        return *to ? 0 : -ENOMEM;
}

static int job_new(Manager *m, JobType type, const JobRequest *request, uint64_t timeout_usec, Job **ret) {
        _cleanup_(job_freep) Job *j = NULL;

        j = new(Job);
        if (!j)
                return -ENOMEM;
        *j = (Job) {
                .manager = m,
                .type = type,
                .cancel_fd = -EBADF,
                .timeout_usec = timeout_usec,
                .begin_usec = now_usec(CLOCK_MONOTONIC),
                .vcpus = request->vcpus,
                .gpus = request->gpus,
                .multi_nic = request->multi_nic,
                .untagged = request->untagged,
                .memory_mib = request->memory_mib,
                .error.size = sizeof(PeerpodError),
                .instance.size = sizeof(PeerpodInstance),
        };

        if (copy(&j->name, request->name) < 0 || copy(&j->sandbox_id, request->sandbox_id) < 0 ||
            copy(&j->node, request->node) < 0 || copy(&j->id, request->id) < 0 ||
            copy(&j->machine_type, request->machine_type) < 0 || copy(&j->gpu_model, request->gpu_model) < 0 ||
            copy(&j->image, request->image) < 0 ||
            (request->volumes && strv_copy(request->volumes, &j->volumes) < 0) ||
            copy(&j->pod_name, request->pod_name) < 0 || copy(&j->pod_namespace, request->pod_namespace) < 0 ||
            log_context_add(&j->log, "PEERPOD_SANDBOX_ID", request->sandbox_id) < 0 ||
            log_context_add(&j->log, "PEERPOD_POD_NAME", request->pod_name) < 0 ||
            log_context_add(&j->log, "PEERPOD_POD_NAMESPACE", request->pod_namespace) < 0 ||
            log_context_add(&j->log, "PEERPOD_INSTANCE_ID", request->id) < 0 ||
            log_context_add(&j->log, "PEERPOD_PROVIDER", m->module->name) < 0)
                return -ENOMEM;

        j->cancel_fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);
        if (j->cancel_fd < 0)
                return -errno;

        if (type == JOB_CREATE || type == JOB_DELETE) {
                const char *key = j->untagged ? j->id : j->name;

                HASH_ADD_KEYPTR(hh, *table_of(m, type), key, strlen(key), j);
                if (!hash_added(j))
                        return -ENOMEM;
        }
        DL_APPEND(m->jobs, j);
        *ret = TAKE_PTR(j);
        return 0;
}

static Job* find_job(Manager *m, JobType type, const char *name) {
        Job *j;

        HASH_FIND_STR(*table_of(m, type), name, j);
        return j;
}

static void job_cancel(Job *j) {
        (void) eventfd_write(j->cancel_fd, 1);
        /* One that still waits for its turn need not wait to be told. */
        if (pool_withdraw(j->manager->pool, &j->pool_job))
                j->result = peerpod_error_set(&j->error, PEERPOD_E_CANCELLED, "The request was cancelled.");
}

static int job_add_waiter(Job *j, sd_bus_message *message, sd_bus_error *error) {
        if (j->n_waiters == WAITERS_MAX)
                return sd_bus_error_setf(error, PEERPOD_ERROR_EXHAUSTED, "Too many requests wait for instance '%s'.", j->name);
        j->waiters[j->n_waiters++] = sd_bus_message_ref(message);
        return 0;
}

static int append_addresses(sd_bus_message *reply, const PeerpodInstance *i) {
        int r = sd_bus_message_open_container(reply, 'a', "s");

        for (uint32_t k = 0; r >= 0 && k < i->n_addresses; k++)
                r = sd_bus_message_append(reply, "s", i->addresses[k]);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int append_found(sd_bus_message *reply, const Job *j) {
        int r = sd_bus_message_open_container(reply, 'a', "(sss)");

        for (size_t k = 0; r >= 0 && k < j->n_found; k++)
                r = sd_bus_message_append(reply, "(sss)", j->found[k].sandbox_id, j->found[k].name, j->found[k].id);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int reply_success(const Job *j, sd_bus_message *message) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        r = sd_bus_message_new_method_return(message, &reply);
        if (r < 0)
                return r;
        if (j->type == JOB_CREATE) {
                r = sd_bus_message_append(reply, "ss", j->instance.id, j->instance.type);
                if (r >= 0)
                        r = append_addresses(reply, &j->instance);
        } else if (j->type == JOB_FIND)
                r = append_found(reply, j);
        if (r < 0)
                return r;
        return sd_bus_message_send(reply);
}

/* Answers all that wait: with the result, or with @error. A peer that has gone cannot be told, which is no failure of the job. */
static void job_reply(Job *j, const PeerpodError *error) {
        for (size_t i = 0; i < j->n_waiters; i++) {
                int r;

                if (error)
                        r = sd_bus_reply_method_errorf(j->waiters[i], error_kind_to_bus_name(error->kind), "%s", error->text);
                else
                        r = reply_success(j, j->waiters[i]);
                if (r < 0 && r != -ENOTCONN && r != -ECONNRESET && r != -EPIPE)
                        (void) log_full(&j->log, LOG_WARNING, NULL, r, "Failed to answer a request, ignoring: %m");
                j->waiters[i] = sd_bus_message_unref(j->waiters[i]);
        }
        j->n_waiters = 0;
}

/* The module may log from a worker; the context is not changed while it does. */
static void on_module_log(void *userdata, int level, const char *text) {
        Job *j = userdata;

        (void) log_full(&j->log, level, NULL, 0, "%s", text);
}

static int on_found(void *userdata, const PeerpodFoundInstance *found) {
        Job *j = userdata;
        Found *f;

        if (!found->sandbox_id || !found->name || !found->id)
                return -EINVAL;
        if (j->n_found == FOUND_MAX)
                return -E2BIG;
        if (j->n_found == j->n_found_allocated) {
                size_t n = MAX(j->n_found_allocated * 2, (size_t) 16);

                f = reallocarray(j->found, n, sizeof(Found));
                if (!f)
                        return -ENOMEM;
                j->found = f;
                j->n_found_allocated = n;
        }

        f = j->found + j->n_found;
        *f = (Found) {
                .sandbox_id = strdup(found->sandbox_id),
                .name = strdup(found->name),
                .id = strdup(found->id),
        };
        j->n_found++;
        return f->sandbox_id && f->name && f->id ? 0 : -ENOMEM;
}

/* A module is another author's code: what it returns is looked at before it is believed. */
static void check_instance(Job *j) {
        PeerpodInstance *i = &j->instance;

        i->id[sizeof(i->id) - 1] = '\0';
        i->type[sizeof(i->type) - 1] = '\0';
        for (size_t k = 0; k < PEERPOD_ADDRESSES_MAX; k++)
                i->addresses[k][PEERPOD_ADDRESS_SIZE - 1] = '\0';

        if (i->n_addresses > PEERPOD_ADDRESSES_MAX)
                i->n_addresses = PEERPOD_ADDRESSES_MAX;
        if (isempty(i->id) || i->n_addresses == 0)
                j->result = peerpod_error_set(&j->error, PEERPOD_E_INTERNAL,
                                              "The provider module returned an instance without id or address.");
}

static void job_work(PoolJob *pool_job) {
        Job *j = CONTAINER_OF(pool_job, Job, pool_job);
        const PeerpodProvider *module = j->manager->module;
        PeerpodCall call = {
                .size = sizeof(PeerpodCall),
                .cancel_fd = j->cancel_fd,
                .deadline_usec = j->deadline_usec,
                .log = on_module_log,
                .log_userdata = j,
        };

        /* It may have been cancelled, or too late, while it waited for a worker. */
        j->result = peerpod_call_check(&call, &j->error);
        if (j->result < 0)
                return;

        crash_point_of(crash_points[j->type], before);
        switch (j->type) {

        case JOB_CREATE: {
                PeerpodInstanceSpec spec = {
                        .size = sizeof(PeerpodInstanceSpec),
                        .vcpus = j->vcpus,
                        .memory_mib = j->memory_mib,
                        .gpus = j->gpus,
                        .flags = j->multi_nic ? PEERPOD_INSTANCE_MULTI_NIC : 0,
                        .name = j->name,
                        .sandbox_id = j->sandbox_id,
                        .node = j->node,
                        .machine_type = j->machine_type,
                        .image = j->image,
                        .pod_name = j->pod_name,
                        .pod_namespace = j->pod_namespace,
                        .user_data = j->user_data,
                        .user_data_size = j->user_data_size,
                        .volumes = (const char *const*) j->volumes,
                        .n_volumes = strv_length(j->volumes),
                        .gpu_model = j->gpu_model,
                };

                j->result = module->create(j->manager->provider, &call, &spec, &j->instance, &j->error);
                if (j->result >= 0)
                        check_instance(j);
                break;
        }

        case JOB_DELETE: {
                PeerpodInstanceKey key = {
                        .size = sizeof(PeerpodInstanceKey),
                        .flags = j->untagged ? PEERPOD_KEY_UNTAGGED : 0,
                        .name = j->name,
                        .sandbox_id = j->sandbox_id,
                        .id = j->id,
                };

                j->result = module->remove(j->manager->provider, &call, &key, &j->error);
                break;
        }

        case JOB_FIND:
                j->result = module->find(j->manager->provider, &call, j->node, on_found, j, &j->error);
                break;

        case JOB_VERIFY:
                j->result = module->verify(j->manager->provider, &call, &j->error);
                break;

        default:
                assert(false);
        }

        crash_point_of(crash_points[j->type], after);
        j->error.text[sizeof(j->error.text) - 1] = '\0';
        if (j->result < 0 && j->error.kind == PEERPOD_E_NONE)
                (void) peerpod_error_set(&j->error, PEERPOD_E_INTERNAL, "The provider module failed: %s", strerror(-j->result));
}

static void job_log_end(const Job *j) {
        uint64_t took = now_usec(CLOCK_MONOTONIC) - j->begin_usec;

        if (j->type == JOB_VERIFY)
                (void) log_full(&j->log, j->result < 0 ? LOG_WARNING : LOG_INFO, NULL, 0, "The check of provider '%s' %s%s",
                                j->manager->module->name, j->result < 0 ? "failed: " : "passed.", j->result < 0 ? j->error.text : "");
        else if (j->result < 0 && j->type == JOB_FIND)
                (void) log_full(&j->log, LOG_WARNING, NULL, 0, "Looking for the instances of node '%s' failed: %s", j->node, j->error.text);
        else if (j->result < 0 && j->error.kind == PEERPOD_E_CANCELLED)
                (void) log_full(&j->log, LOG_NOTICE, NULL, 0, "%s instance '%s' was cancelled after %s.",
                                job_type_to_string(j->type), j->name, FORMAT_USEC(took));
        else if (j->result < 0)
                (void) log_full(&j->log, LOG_ERR, j->type == JOB_DELETE ? MSG_DELETE_FAILED : MSG_SANDBOX_FAILED, 0,
                                "%s instance '%s' failed after %s: %s",
                                job_type_to_string(j->type), j->name, FORMAT_USEC(took), j->error.text);
        else if (j->type == JOB_CREATE)
                (void) log_full(&j->log, LOG_NOTICE, MSG_INSTANCE_CREATED, 0, "Instance '%s' (%s, %s) created in %s, address %s.",
                                j->name, j->instance.id, j->instance.type, FORMAT_USEC(took), j->instance.addresses[0]);
        else if (j->type == JOB_DELETE)
                (void) log_full(&j->log, LOG_NOTICE, MSG_INSTANCE_DELETED, 0, "Instance '%s' is gone, deleted in %s.",
                                j->name, FORMAT_USEC(took));
        else
                log_debug("Node '%s' has %zu instances.", j->node, j->n_found);
}

static void job_start_or_fail(Job *j);

static void job_done(PoolJob *pool_job) {
        Job *j = CONTAINER_OF(pool_job, Job, pool_job), *after = j->after;

        if (j->result >= 0)
                (void) log_context_add(&j->log, "PEERPOD_INSTANCE_ID", j->instance.id);
        job_log_end(j);
        job_reply(j, j->result < 0 ? &j->error : NULL);
        crash_point_of(crash_points[j->type], noted);
        job_free(j);

        if (after)
                job_start_or_fail(after);
}

/* The worker has the job's result, the loop may not look at it: callers get an error of our own. */
static int on_overdue(sd_event_source *es, uint64_t usec, void *userdata) {
        Job *j = userdata;
        PeerpodError error = { .size = sizeof(PeerpodError) };

        (void) peerpod_error_set(&error, PEERPOD_E_TIMED_OUT, "%s instance '%s': the provider module is overdue.",
                                 job_type_to_string(j->type), j->name);
        (void) log_full(&j->log, LOG_ERR, NULL, 0, "%s instance '%s' is overdue: the provider module has not returned within %s.",
                        job_type_to_string(j->type), j->name, FORMAT_USEC(now_usec(CLOCK_MONOTONIC) - j->begin_usec));
        job_reply(j, &error);
        return 0;
}

static int job_arm_overdue(Job *j) {
        j->overdue_source = sd_event_source_disable_unref(j->overdue_source);
        if (j->manager->stopping)               /* the loop does not turn any more, the end of the process bounds the job */
                return 0;
        return sd_event_add_time_relative(j->manager->event, &j->overdue_source, CLOCK_MONOTONIC,
                                          usec_add(j->timeout_usec, OVERDUE_USEC), 0, on_overdue, j);
}

static int job_start(Job *j) {
        int r;

        r = job_arm_overdue(j);
        if (r < 0)
                return r;
        j->deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), j->timeout_usec);
        j->pool_job = (PoolJob) { .work = job_work, .done = job_done, .kind = j->type == JOB_CREATE ? POOL_SLOW : POOL_URGENT };
        return pool_submit(j->manager->pool, &j->pool_job);
}

static void job_start_or_fail(Job *j) {
        PeerpodError error = { .size = sizeof(PeerpodError) };
        int r;

        r = job_start(j);
        if (r >= 0)
                return;

        (void) peerpod_error_set(&error, r == -EAGAIN ? PEERPOD_E_EXHAUSTED : PEERPOD_E_INTERNAL,
                                 "%s instance '%s' could not begin: %s", job_type_to_string(j->type), j->name,
                                 r == -EAGAIN ? "too many requests are waiting" : strerror(-r));
        job_reply(j, &error);
        job_free(j);
}

/* The first request of a new job. On failure the job is gone and the request is the caller's to answer. */
static int job_begin(Job *job, sd_bus_message *message, sd_bus_error *error) {
        _cleanup_(job_freep) Job *j = job;
        int r;

        r = job_add_waiter(j, message, error);
        if (r < 0)
                return r;
        r = job_start(j);
        if (r == -EAGAIN)
                return sd_bus_error_set(error, PEERPOD_ERROR_EXHAUSTED, "Too many requests are waiting.");
        if (r < 0)
                return r;
        TAKE_PTR(j);
        return 0;
}

static bool same_owner(const Job *j, const JobRequest *request) {
        return streq(j->sandbox_id, request->sandbox_id) && (isempty(request->node) || streq(j->node, request->node));
}

static int refuse_stopping(sd_bus_error *error) {
        return sd_bus_error_set(error, PEERPOD_ERROR_UNAVAILABLE, "The provider service is stopping.");
}

int job_create(Manager *m, JobRequest *request, sd_bus_message *message, sd_bus_error *error) {
        char *user_data = TAKE_PTR(request->user_data);
        Job *j;
        int r;

        if (m->stopping) {
                erase_free(user_data, request->user_data_size);
                return refuse_stopping(error);
        }

        j = find_job(m, JOB_CREATE, request->name);
        if (j || find_job(m, JOB_DELETE, request->name)) {
                erase_free(user_data, request->user_data_size);
                if (!j || j->after)
                        return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION,
                                                 "Instance '%s' is being deleted.", request->name);
                if (!same_owner(j, request))
                        return sd_bus_error_setf(error, PEERPOD_ERROR_ALREADY_EXISTS,
                                                 "Instance '%s' is being created for another sandbox.", request->name);
                return job_add_waiter(j, message, error);
        }

        r = job_new(m, JOB_CREATE, request, m->create_timeout_usec, &j);
        if (r < 0) {
                erase_free(user_data, request->user_data_size);
                return r;
        }
        j->user_data = user_data;
        j->user_data_size = request->user_data_size;

        (void) log_full(&j->log, LOG_INFO, NULL, 0, "Creating instance '%s'.", j->name);
        return job_begin(j, message, error);
}

int job_delete(Manager *m, const JobRequest *request, sd_bus_message *message, sd_bus_error *error) {
        Job *create, *j;
        int r;

        if (m->stopping)
                return refuse_stopping(error);

        create = request->untagged ? NULL : find_job(m, JOB_CREATE, request->name);
        if (create && !same_owner(create, request))
                return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION,
                                         "Instance '%s' is being created for another sandbox.", request->name);

        j = find_job(m, JOB_DELETE, request->untagged ? request->id : request->name);
        if (j) {
                if (!same_owner(j, request) || j->untagged != request->untagged)
                        return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION,
                                                 "Instance '%s' is being deleted for another sandbox.", request->name);
                return job_add_waiter(j, message, error);
        }

        r = job_new(m, JOB_DELETE, request, m->delete_timeout_usec, &j);
        if (r < 0)
                return r;
        (void) log_full(&j->log, LOG_INFO, NULL, 0, "Deleting instance '%s'%s.", j->name,
                        create ? ", once its creation has been undone" : "");
        if (!create)
                return job_begin(j, message, error);

        r = job_arm_overdue(j);
        if (r >= 0)
                r = job_add_waiter(j, message, error);
        if (r < 0) {
                job_free(j);
                return r;
        }
        create->after = j;
        job_cancel(create);
        return 0;
}

int job_find(Manager *m, const char *node, sd_bus_message *message, sd_bus_error *error) {
        JobRequest request = { .node = node };
        Job *j;
        int r;

        if (m->stopping)
                return refuse_stopping(error);

        r = job_new(m, JOB_FIND, &request, m->find_timeout_usec, &j);
        if (r < 0)
                return r;
        return job_begin(j, message, error);
}

int job_verify(Manager *m, sd_bus_message *message, sd_bus_error *error) {
        const JobRequest request = {};
        Job *j;
        int r;

        if (m->stopping)
                return refuse_stopping(error);

        r = job_new(m, JOB_VERIFY, &request, m->find_timeout_usec, &j);
        if (r < 0)
                return r;
        return job_begin(j, message, error);
}

void jobs_cancel_creates(Manager *m) {
        Job *j;

        DL_FOREACH(m->jobs, j)
                if (j->type == JOB_CREATE)
                        job_cancel(j);
}
