/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/volumes/volumes.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <utlist.h>

#include "basic/bus-private.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "podvm/volumes/volume-store.h"

typedef struct Volume Volume;

typedef enum VolumeState {
        VOLUME_MOUNTING,
        VOLUME_MOUNTED,
        VOLUME_UNMOUNTING,
        _VOLUME_STATE_MAX,
} VolumeState;

/* Who waits for a volume to be mounted. */
typedef struct Waiter {
        sd_bus_message *message;
        char *container;
        struct Waiter *prev, *next;
} Waiter;

struct Volume {
        Volumes *volumes;               /* borrowed */
        VolumeState state;
        VolumeRecord record;
        Waiter *waiters;
        sd_bus_message **releases;      /* to be answered when it is unmounted */
        size_t n_releases;
        pid_t pid;
        int result_fd;
        sd_event_source *child_source, *timer;
        Volume *prev, *next;
};

struct Volumes {
        sd_event *event;
        const WorkSettings *settings;   /* borrowed */
        int state_fd;
        Volume *list;
        size_t n;
};

static const char* error_name(int error) {
        switch (-error) {

        case ENODEV:
        case EBUSY:
        case EUCLEAN:
        case ENOTBLK:
        case ENOENT:
                return PEERPOD_ERROR_FAILED_PRECONDITION;
        case EHOSTUNREACH:
                return PEERPOD_ERROR_UNAVAILABLE;
        case ETIMEDOUT:
                return PEERPOD_ERROR_TIMED_OUT;
        case ENOMEM:
        case ENOSPC:
                return PEERPOD_ERROR_EXHAUSTED;
        default:
                return PEERPOD_ERROR_INTERNAL;
        }
}

static const char* name_of(const Volume *v) {
        return v->record.spec.name;
}

static void waiter_free(Volume *v, Waiter *w) {
        DL_DELETE(v->waiters, w);
        sd_bus_message_unref(w->message);
        free(w->container);
        free(w);
}

static void drop_releases(Volume *v) {
        for (size_t i = 0; i < v->n_releases; i++)
                sd_bus_message_unref(v->releases[i]);
        free(v->releases);
        v->releases = NULL;
        v->n_releases = 0;
}

static Volume* volume_free(Volume *v) {
        DL_DELETE(v->volumes->list, v);
        v->volumes->n--;
        while (v->waiters)
                waiter_free(v, v->waiters);
        drop_releases(v);
        sd_event_source_disable_unref(v->child_source);
        sd_event_source_disable_unref(v->timer);
        if (v->pid > 0)
                (void) kill(-v->pid, SIGKILL);
        close_fd(v->result_fd);
        volume_record_done(&v->record);
        free(v);
        return NULL;
}

static int volume_new(Volumes *m, VolumeState state, Volume **ret) {
        Volume *v = new(Volume);

        if (!v)
                return -ENOMEM;
        *v = (Volume) { .volumes = m, .state = state, .result_fd = -EBADF };
        DL_APPEND(m->list, v);
        m->n++;
        *ret = v;
        return 0;
}

static Volume* find_volume(Volumes *m, const char *name) {
        Volume *v = m->list;

        while (v && !streq(name_of(v), name))
                v = v->next;
        return v;
}

static void answer_releases(Volume *v, const WorkResult *result) {
        for (size_t i = 0; i < v->n_releases; i++) {
                sd_bus_message *message = v->releases[i];
                bool elsewhere = false;

                /* One that waits for several volumes is answered by the last of them, or by the first that fails. */
                for (Volume *o = v->volumes->list; o && result->error == 0; o = o->next)
                        for (size_t k = 0; o != v && k < o->n_releases; k++)
                                elsewhere = elsewhere || o->releases[k] == message;
                if (result->error < 0)
                        (void) sd_bus_reply_method_errorf(message, error_name(result->error), "cloud volume '%s': %s", name_of(v), result->text);
                else if (!elsewhere)
                        (void) sd_bus_reply_method_return(message, NULL);
                if (result->error < 0)
                        for (Volume *o = v->volumes->list; o; o = o->next)
                                for (size_t k = 0; o != v && k < o->n_releases; k++)
                                        if (o->releases[k] == message) {
                                                sd_bus_message_unref(message);
                                                o->releases[k] = o->releases[--o->n_releases];
                                                break;
                                        }
        }
        drop_releases(v);
}

static int begin_work(Volume *v, VolumeState state);

static void unmounted(Volume *v, const WorkResult *result) {
        if (result->error < 0) {
                (void) log_full(NULL, LOG_ERR, NULL, 0, "Failed to unmount cloud volume '%s': %s.", name_of(v), result->text);
                v->state = VOLUME_MOUNTED;      /* the next release tries again */
                answer_releases(v, result);
                return;
        }
        log_info("Unmounted cloud volume '%s'.", name_of(v));
        volume_record_remove(v->volumes->state_fd, name_of(v));
        answer_releases(v, result);
        volume_free(v);
}

static void unmount_if_unused(Volume *v) {
        int r;

        if (v->state != VOLUME_MOUNTED || strv_length(v->record.containers) > 0)
                return;
        r = begin_work(v, VOLUME_UNMOUNTING);
        if (r < 0) {
                WorkResult result = { .error = r };

                (void) snprintf(result.text, sizeof(result.text), "cannot begin to unmount it: %s", strerrordesc_np(-r));
                unmounted(v, &result);
        }
}

static int answer_mounted(Volume *v, sd_bus_message *message, const char *container) {
        char path[PATH_MAX];
        int r = 0;

        if (!strv_contains(v->record.containers, container)) {
                r = strv_extend(&v->record.containers, container);
                if (r >= 0)
                        r = volume_record_save(v->volumes->state_fd, &v->record);
        }
        if (r < 0)
                return sd_bus_reply_method_errorf(message, PEERPOD_ERROR_INTERNAL, "cannot note that cloud volume '%s' is mounted: %s", name_of(v),
                                                  strerrordesc_np(-r));
        (void) snprintf(path, sizeof(path), "%s/%s", v->volumes->settings->mount_root, name_of(v));
        return sd_bus_reply_method_return(message, "s", path);
}

static void mounted(Volume *v, const WorkResult *result) {
        if (result->error < 0) {
                (void) log_full(NULL, LOG_ERR, NULL, 0, "Failed to mount cloud volume '%s': %s.", name_of(v), result->text);
                for (Waiter *w = v->waiters; w; w = w->next)
                        (void) sd_bus_reply_method_errorf(w->message, error_name(result->error), "cloud volume '%s': %s", name_of(v), result->text);
                answer_releases(v, &(WorkResult) {});
                volume_free(v);
                return;
        }

        log_info("Mounted cloud volume '%s'.", name_of(v));
        v->state = VOLUME_MOUNTED;
        v->record.device = result->device;
        while (v->waiters) {
                (void) answer_mounted(v, v->waiters->message, v->waiters->container);
                waiter_free(v, v->waiters);
        }
        unmount_if_unused(v);           /* those who wanted it have gone meanwhile */
}

static int on_work_done(sd_event_source *source, const siginfo_t *si, void *userdata) {
        Volume *v = userdata;
        WorkResult result;

        /* Whatever it has started ends with it. */
        (void) kill(-v->pid, SIGKILL);
        v->pid = 0;
        v->child_source = sd_event_source_disable_unref(v->child_source);
        v->timer = sd_event_source_disable_unref(v->timer);

        if (read(v->result_fd, &result, sizeof(result)) != sizeof(result)) {
                result = (WorkResult) { .error = si->si_code == CLD_KILLED && si->si_status == SIGKILL ? -ETIMEDOUT : -EIO };
                (void) snprintf(result.text, sizeof(result.text), result.error == -ETIMEDOUT ? "it took too long" : "its process has crashed");
        }
        v->result_fd = close_fd(v->result_fd);

        if (v->state == VOLUME_MOUNTING)
                mounted(v, &result);
        else
                unmounted(v, &result);
        return 0;
}

static int on_work_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        Volume *v = userdata;

        log_warning("The work on cloud volume '%s' takes too long, ending it.", name_of(v));
        (void) kill(-v->pid, SIGKILL);
        return 0;
}

_Noreturn static void work(const Volume *v, int result_fd) {
        const WorkSettings *s = v->volumes->settings;
        WorkResult result;
        sigset_t none;

        (void) setpgid(0, 0);
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);

        if (v->state == VOLUME_MOUNTING)
                volume_work_mount(s, &v->record.spec, &result);
        else
                volume_work_unmount(s, name_of(v), v->record.device, &result);
        _exit(write(result_fd, &result, sizeof(result)) == sizeof(result) ? 0 : EXIT_FAILURE);
}

/* The volume is in the state in which it was, if this fails. */
static int begin_work(Volume *v, VolumeState state) {
        static_assert(sizeof(WorkResult) <= PIPE_BUF, "written in one piece");
        uint64_t usec = state == VOLUME_MOUNTING ? VOLUME_MOUNT_USEC : VOLUME_RELEASE_USEC;
        VolumeState before = v->state;
        int fds[2], r;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        v->state = state;
        v->pid = fork();
        if (v->pid == 0)
                work(v, fds[1]);
        r = v->pid < 0 ? -errno : 0;
        close_fd(fds[1]);
        if (r < 0) {
                v->pid = 0;
                v->state = before;
                close_fd(fds[0]);
                return r;
        }
        (void) setpgid(v->pid, v->pid); /* whoever is first */
        v->result_fd = fds[0];

        r = sd_event_add_child(v->volumes->event, &v->child_source, v->pid, WEXITED, on_work_done, v);
        if (r >= 0)
                r = sd_event_add_time_relative(v->volumes->event, &v->timer, CLOCK_MONOTONIC, usec, 0, on_work_timeout, v);
        if (r < 0) {
                (void) kill(-v->pid, SIGKILL);
                (void) waitpid(v->pid, NULL, 0);
                v->child_source = sd_event_source_disable_unref(v->child_source);
                v->pid = 0;
                v->state = before;
                v->result_fd = close_fd(v->result_fd);
        }
        return r;
}

static int add_waiter(Volume *v, sd_bus_message *message, const char *container) {
        Waiter *w = new(Waiter);

        if (!w)
                return -ENOMEM;
        *w = (Waiter) { .container = strdup(container) };
        if (!w->container) {
                free(w);
                return -ENOMEM;
        }
        w->message = sd_bus_message_ref(message);
        DL_APPEND(v->waiters, w);
        return 1;
}

int volumes_mount(Volumes *m, sd_bus_message *message, const char *container, const VolumeSpec *spec, sd_bus_error *error) {
        Volume *v = find_volume(m, spec->name);
        int r;

        if (v) {
                if (!volume_record_is(&v->record, spec))
                        return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION, "cloud volume '%s' is in use as another one", spec->name);
                if (v->state == VOLUME_UNMOUNTING)
                        return sd_bus_error_setf(error, PEERPOD_ERROR_UNAVAILABLE, "cloud volume '%s' is being unmounted", spec->name);
                return v->state == VOLUME_MOUNTED ? answer_mounted(v, message, container) : add_waiter(v, message, container);
        }

        if (m->n >= CLOUD_VOLUMES_MAX)
                return sd_bus_error_setf(error, PEERPOD_ERROR_EXHAUSTED, "more than %u cloud volumes", CLOUD_VOLUMES_MAX);
        for (Volume *o = m->list; o; o = o->next)
                if (volume_record_has_disk(&o->record, spec))
                        return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION, "cloud volumes '%s' and '%s' are to be on the same disk",
                                                 name_of(o), spec->name);

        r = volume_new(m, VOLUME_MOUNTING, &v);
        if (r < 0)
                return r;
        r = volume_record_set(&v->record, spec);
        if (r >= 0)
                r = begin_work(v, VOLUME_MOUNTING);
        if (r >= 0)
                r = add_waiter(v, message, container);
        if (r < 0)
                volume_free(v);
        return r;
}

static void remove_container(Volume *v, const char *container) {
        char **l = v->record.containers;
        size_t n = 0;

        for (char **c = l; c && *c; c++)
                if (isempty(container) || streq(*c, container))
                        free(*c);
                else
                        l[n++] = *c;
        if (l)
                l[n] = NULL;

        for (Waiter *w = v->waiters, *next; w; w = next) {
                next = w->next;
                if (isempty(container) || streq(w->container, container)) {
                        (void) sd_bus_reply_method_errorf(w->message, PEERPOD_ERROR_CANCELLED, "cloud volume '%s' is not wanted any more", name_of(v));
                        waiter_free(v, w);
                }
        }
}

static int add_release(Volume *v, sd_bus_message *message) {
        sd_bus_message **l = reallocarray(v->releases, v->n_releases + 1, sizeof(*l));

        if (!l)
                return -ENOMEM;
        v->releases = l;
        l[v->n_releases++] = sd_bus_message_ref(message);
        return 0;
}

int volumes_release(Volumes *m, sd_bus_message *message, const char *container, sd_bus_error *error) {
        bool waits = false;
        int r;

        for (Volume *v = m->list; v; v = v->next) {
                size_t before = strv_length(v->record.containers);

                remove_container(v, container);
                if (strv_length(v->record.containers) > 0 || v->waiters) {
                        if (strv_length(v->record.containers) < before)
                                (void) volume_record_save(m->state_fd, &v->record);
                        continue;
                }
                r = add_release(v, message);
                if (r < 0)
                        return r;
                waits = true;
        }
        for (Volume *v = m->list, *next; v; v = next) {
                next = v->next;
                unmount_if_unused(v);
        }
        return waits ? 1 : sd_bus_reply_method_return(message, NULL);
}

size_t volumes_get_n(const Volumes *m) {
        return m->n;
}

static int load(const char *name, VolumeRecord *record, void *userdata) {
        Volumes *m = userdata;
        char path[PATH_MAX];
        Volume *v;
        int r;

        (void) snprintf(path, sizeof(path), "%s/%s", m->settings->mount_root, name);
        if (record->spec.name && disk_is_mounted_at(path, 0) != 1) {
                log_warning("Cloud volume '%s' is mounted no more.", name);
                volume_record_remove(m->state_fd, name);
                return 0;
        }
        r = volume_new(m, VOLUME_MOUNTED, &v);
        if (r < 0)
                return r;
        v->record = *record;
        *record = (VolumeRecord) {};
        return 0;
}

/* What was being mounted when the process before ended: nobody has been told of it. */
static int undo_rest(Volumes *m) {
        _cleanup_(closedirp) DIR *dir = opendir(m->settings->mount_root);
        struct dirent *e;

        while (dir && (e = readdir(dir))) {
                Volume *v;
                int r;

                if (e->d_type != DT_DIR || !sandbox_id_is_valid(e->d_name) || find_volume(m, e->d_name))
                        continue;
                log_warning("The mount of cloud volume '%s' was cut off, undoing it.", e->d_name);
                r = volume_new(m, VOLUME_MOUNTED, &v);
                if (r < 0)
                        return r;
                v->record.spec.name = strdup(e->d_name);
                if (!v->record.spec.name) {
                        volume_free(v);
                        return -ENOMEM;
                }
                unmount_if_unused(v);
        }
        return 0;
}

int volumes_new(sd_event *event, const WorkSettings *settings, const char *state_dir, Volumes **ret) {
        _cleanup_(volumes_freep) Volumes *m = new(Volumes);
        int r;

        if (!m)
                return log_oom();
        *m = (Volumes) { .event = sd_event_ref(event), .settings = settings, .state_fd = -EBADF };
        m->state_fd = open(state_dir, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (m->state_fd < 0)
                return log_error_errno(errno, "Failed to open '%s': %m", state_dir);

        r = volume_records_load(m->state_fd, load, m);
        if (r >= 0)
                r = undo_rest(m);
        if (r < 0)
                return log_error_errno(r, "Failed to take over the volumes of the process before: %m");
        *ret = TAKE_PTR(m);
        return 0;
}

Volumes* volumes_free(Volumes *m) {
        if (!m)
                return NULL;

        while (m->list)
                volume_free(m->list);
        close_fd(m->state_fd);
        sd_event_unref(m->event);
        free(m);
        return NULL;
}
