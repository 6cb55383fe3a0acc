/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/forwarder/volume-jobs.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "basic/bus-private.h"
#include "basic/parse.h"
#include "basic/util.h"

#define DESTROY_USEC (60 * USEC_PER_SEC)        /* for the agent to end the containers */

typedef struct Job {
        VolumeJobs *jobs;               /* borrowed */
        Relay *relay;                   /* borrowed */
        RelayHold *hold;                /* NULL: nobody waits any more */
        ContainerVolumes volumes;
        char **paths;                   /* of the volumes that are mounted */
        VolumesCall *call;
        sd_event_source *timer;
        uint64_t deadline, pause_usec;

        /* DestroySandbox: the agent's answer, for when the volumes are gone */
        RelayEdit answer;
        struct Job *prev, *next;
} Job;

struct VolumeJobs {
        sd_event *event;
        VolumesClient *client;                  /* borrowed */
        const VolumeJobSettings *settings;      /* borrowed */
        const LogContext *log;                  /* borrowed */
        Job *list;
        VolumesCall *release;           /* of a container that came to nothing */
};

static void job_free(Job *job) {
        DL_DELETE(job->jobs->list, job);
        volumes_call_free(job->call);
        sd_event_source_disable_unref(job->timer);
        container_volumes_done(&job->volumes);
        strv_free(job->paths);
        free(job->answer.payload);
        free(job);
}

static Job* job_new(VolumeJobs *j, Relay *relay) {
        Job *job = new(Job);

        if (!job)
                return NULL;
        *job = (Job) { .jobs = j, .relay = relay };
        DL_APPEND(j->list, job);
        return job;
}

static void refuse(RelayEdit *edit, TtrpcCode code, const char *format, ...) PRINTF(3, 4);
static void refuse(RelayEdit *edit, TtrpcCode code, const char *format, ...) {
        va_list ap;

        edit->code = code;
        va_start(ap, format);
        (void) vsnprintf(edit->message, sizeof(edit->message), format, ap);
        va_end(ap);
}

static TtrpcCode code_of(const char *error) {
        static const struct {
                const char *name;
                TtrpcCode code;
        } codes[] = {
                { PEERPOD_ERROR_INVALID_ARGUMENT,    TTRPC_INVALID_ARGUMENT },
                { PEERPOD_ERROR_FAILED_PRECONDITION, TTRPC_FAILED_PRECONDITION },
                { PEERPOD_ERROR_EXHAUSTED,           TTRPC_RESOURCE_EXHAUSTED },
                { PEERPOD_ERROR_TIMED_OUT,           TTRPC_DEADLINE_EXCEEDED },
                { PEERPOD_ERROR_CANCELLED,           TTRPC_CANCELLED },
                { PEERPOD_ERROR_UNAVAILABLE,         TTRPC_UNAVAILABLE },
        };

        for (size_t i = 0; i < ELEMENTSOF(codes); i++)
                if (streq(error, codes[i].name))
                        return codes[i].code;
        return TTRPC_INTERNAL;
}

static void on_released_for_nothing(const char *error, const char *text, const char *path, void *userdata) {
        VolumeJobs *j = userdata;

        j->release = NULL;
        if (error)
                (void) log_full(j->log, LOG_WARNING, NULL, 0, "Failed to take back a container's volumes, ignoring: %s", text);
}

/* The container is not made, or gone, so nothing of it shall stay. */
static void take_back(Job *job) {
        VolumeJobs *j = job->jobs;

        j->release = volumes_call_free(j->release);     /* its answer is of no interest any more; it is done all the same */
        (void) volumes_client_release(j->client, job->volumes.container, on_released_for_nothing, j, &j->release);
}

static void on_hold_dropped(RelayHold *hold, void *userdata) {
        Job *job = userdata;

        if (job->volumes.specs.n > 0)
                take_back(job);
        job_free(job);
}

static void job_refuse(Job *job, TtrpcCode code, const char *text) {
        RelayEdit edit = {};

        refuse(&edit, code, "CreateContainer: %.220s", text);
        (void) log_full(job->jobs->log, LOG_WARNING, NULL, 0, "Refused a request: %s.", edit.message);
        if (job->volumes.specs.n > 0)
                take_back(job);
        relay_hold_done(job->hold, &edit);
        job_free(job);
}

static void job_send(Job *job) {
        const VolumeJobSettings *s = job->jobs->settings;
        TtrpcRequest request;
        RelayEdit edit = {};

        relay_hold_get(job->hold, &request);
        edit_create_container(s->pod_namespace, s->bind_root, &job->volumes, job->paths, &request, &edit);
        if (edit.code != TTRPC_OK)
                if (job->volumes.specs.n > 0)
                take_back(job);
        relay_hold_done(job->hold, &edit);
        job_free(job);
}

/* As we see it: mounts of the VM get here by propagation. */
static bool is_mount_point(const char *path) {
        struct statx stx;

        return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW|AT_NO_AUTOMOUNT, 0, &stx) >= 0 && (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

static int on_target_timer(sd_event_source *source, uint64_t usec, void *userdata);

static void wait_for_targets(Job *job) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        char text[200];
        int r;

        for (char **t = job->volumes.targets; t && *t; t++) {
                if (is_mount_point(*t))
                        continue;
                if (now >= job->deadline) {
                        (void) snprintf(text, sizeof(text), "nothing has been mounted at '%.100s'", text_is_plain(*t, 100) ? *t : "(not printable)");
                        job_refuse(job, TTRPC_DEADLINE_EXCEEDED, text);
                        return;
                }

                job->timer = sd_event_source_disable_unref(job->timer);
                r = sd_event_add_time_relative(job->jobs->event, &job->timer, CLOCK_MONOTONIC, MIN(job->pause_usec, job->deadline - now), 0,
                                               on_target_timer, job);
                job->pause_usec = MIN(2 * job->pause_usec, (uint64_t) TARGET_PAUSE_MAX_USEC);
                if (r < 0)
                        job_refuse(job, TTRPC_RESOURCE_EXHAUSTED, "no timer");
                return;
        }
        job_send(job);
}

static int on_target_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        wait_for_targets(userdata);
        return 0;
}

static void mount_next(Job *job);

static void on_mounted(const char *error, const char *text, const char *path, void *userdata) {
        Job *job = userdata;

        job->call = NULL;
        if (error)
                job_refuse(job, code_of(error), text);
        else if (strv_extend(&job->paths, path) < 0)
                job_refuse(job, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
        else
                mount_next(job);
}

/* One after the other in the order of their names, as upstream does. */
static void mount_next(Job *job) {
        size_t n = strv_length(job->paths);
        char text[200];
        int r;

        if (n == job->volumes.specs.n) {
                job->pause_usec = TARGET_PAUSE_USEC;
                job->deadline = usec_add(now_usec(CLOCK_MONOTONIC), job->jobs->settings->target_wait_usec ?: TARGET_WAIT_USEC);
                wait_for_targets(job);
                return;
        }
        r = volumes_client_mount(job->jobs->client, job->volumes.container, job->volumes.specs.list + n, on_mounted, job, &job->call);
        if (r < 0) {
                (void) snprintf(text, sizeof(text), "cannot reach podvm-volumes: %s", strerrordesc_np(-r));
                job_refuse(job, TTRPC_UNAVAILABLE, text);
        }
}

static int on_begin(sd_event_source *source, uint64_t usec, void *userdata) {
        mount_next(userdata);
        return 0;
}

/* From the loop: a hold can not be over before its rule has returned. */
static int begin_later(Job *job, sd_event_time_handler_t begin) {
        return sd_event_add_time_relative(job->jobs->event, &job->timer, CLOCK_MONOTONIC, 0, 0, begin, job);
}

void volume_jobs_create_container(VolumeJobs *j, Relay *relay, const TtrpcRequest *request, RelayEdit *edit) {
        _cleanup_(container_volumes_done) ContainerVolumes volumes = CONTAINER_VOLUMES_NULL;
        Job *job;
        int r;

        r = edit_get_volumes(request, &volumes, edit);
        if (r < 0)
                return;
        if (r == 0) {
                edit_create_container(j->settings->pod_namespace, j->settings->bind_root, NULL, NULL, request, edit);
                return;
        }

        job = job_new(j, relay);
        if (job && begin_later(job, on_begin) >= 0)
                job->hold = relay_hold(relay, /* survives= */ false, on_hold_dropped, job);
        if (!job || !job->hold) {
                if (job)
                        job_free(job);
                refuse(edit, TTRPC_RESOURCE_EXHAUSTED, "CreateContainer: too many requests wait for their volumes");
                return;
        }
        job->volumes = volumes;
        volumes = CONTAINER_VOLUMES_NULL;
        edit->held = true;
        (void) log_full(j->log, LOG_INFO, NULL, 0, "A container waits for %zu cloud volumes and %zu mounts.", job->volumes.specs.n,
                        strv_length(job->volumes.targets));
}

static void on_removed(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata) {
        Job *job = userdata;

        if (code == TTRPC_OK)
                take_back(job);
        job_free(job);
}

void volume_jobs_remove_container(VolumeJobs *j, const TtrpcRequest *request, RelayEdit *edit) {
        Job *job;

        if (access(j->settings->mount_root, F_OK) < 0)
                return;

        /* Without it the volumes stay until the sandbox is destroyed. */
        job = job_new(j, NULL);
        if (!job)
                return;
        job->volumes.container = edit_get_container(request);
        if (!job->volumes.container) {
                job_free(job);
                return;
        }
        edit->on_answer = on_removed;
        edit->data = job;
}

static void on_destroyer_gone(RelayHold *hold, void *userdata) {
        Job *job = userdata;

        job->hold = NULL;               /* the volumes are unmounted all the same */
}

static void on_all_released(const char *error, const char *text, const char *path, void *userdata) {
        Job *job = userdata;

        job->call = NULL;
        if (error)
                (void) log_full(job->jobs->log, LOG_ERR, NULL, 0, "Failed to unmount all volumes: %s.", text);
        if (job->hold) {
                relay_hold_done(job->hold, &job->answer);
                job->answer.payload = NULL;     /* taken */
        }
        job_free(job);
}

/* The containers are gone, or the agent is. */
static void on_destroyed(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata) {
        Job *job = userdata;
        int r = 0;

        if (code == TTRPC_OK) {
                job->answer.answered = true;
                if (payload.size > 0) {
                        job->answer.payload = malloc(payload.size);
                        if (job->answer.payload) {
                                memcpy(job->answer.payload, payload.data, payload.size);
                                job->answer.size = payload.size;
                        }
                }
        } else
                refuse(&job->answer, code > 0 ? (TtrpcCode) code : TTRPC_UNAVAILABLE, "%.*s", (int) MIN(message.size, (size_t) 250),
                       (const char*) message.data ?: "");

        r = volumes_client_release(job->jobs->client, "", on_all_released, job, &job->call);
        if (r < 0)
                on_all_released(PEERPOD_ERROR_UNAVAILABLE, strerrordesc_np(-r), NULL, job);
}

static int on_begin_destroy(sd_event_source *source, uint64_t usec, void *userdata) {
        Job *job = userdata;
        TtrpcRequest request = {};
        int r;

        if (job->hold)
                relay_hold_get(job->hold, &request);
        r = relay_call(job->relay, "grpc.AgentService", "DestroySandbox", request.payload.data, request.payload.size, DESTROY_USEC, on_destroyed, job);
        if (r < 0)
                on_destroyed(TTRPC_UNAVAILABLE, ttrpc_slice("connection to the agent lost"), (TtrpcSlice) {}, job);
        return 0;
}

void volume_jobs_destroy_sandbox(VolumeJobs *j, Relay *relay, const TtrpcRequest *request, RelayEdit *edit) {
        Job *job;

        if (access(j->settings->mount_root, F_OK) < 0)
                return;

        /* The agent first, so that nothing uses them; and its answer last, as the worker then deletes the VM. */
        job = job_new(j, relay);
        if (job && begin_later(job, on_begin_destroy) >= 0)
                job->hold = relay_hold(relay, /* survives= */ true, on_destroyer_gone, job);
        if (job && job->hold)
                edit->held = true;
        else if (job)
                job_free(job);
}

int volume_jobs_new(sd_event *event, VolumesClient *client, const VolumeJobSettings *settings, const LogContext *log, VolumeJobs **ret) {
        VolumeJobs *j = new(VolumeJobs);

        if (!j)
                return -ENOMEM;
        *j = (VolumeJobs) { .event = sd_event_ref(event), .client = client, .settings = settings, .log = log };
        *ret = j;
        return 0;
}

VolumeJobs* volume_jobs_free(VolumeJobs *j) {
        if (!j)
                return NULL;
        while (j->list)
                job_free(j->list);
        volumes_call_free(j->release);
        sd_event_unref(j->event);
        free(j);
        return NULL;
}
