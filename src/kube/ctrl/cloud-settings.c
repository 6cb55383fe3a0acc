/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/cloud-settings.h"

#include <fcntl.h>
#include <json-c/linkhash.h>
#include <libgen.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/log.h"
#include "basic/strv.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"
#include "kube/kube-watch.h"
#include "userdata/decode.h"

#define SETTLE_USEC (200 * USEC_PER_MSEC)       /* a change of several files is one change */
#define POLL_USEC (30 * USEC_PER_SEC)           /* for file systems that tell nothing, and paths whose directory came late */

typedef struct Source {
        CloudSettings *settings;        /* borrowed */
        KubeWatch *watch;               /* one object */
        const char *kind;
        Variables variables;
        bool secret, read;
} Source;

struct CloudSettings {
        sd_event *event;
        char **paths, **secret_paths;
        Source objects[2];              /* ConfigMap, Secret */
        size_t n_objects;
        sd_event_source **inotify;
        size_t n_inotify;
        sd_event_source *settle, *poll;
        Variables variables, secrets;   /* of all sources; those of them that are secrets */
        bool told;
        CloudSettingsHandler handler;
        void *userdata;
};

static void cloud_settings_schedule(CloudSettings *c, uint64_t usec);

/* ---- files ---- */

static int add_variable(Variables *v, const char *name, const char *value, size_t size, const char *origin) {
        int r = variables_set(v, name, value, size);

        if (r == -EINVAL) {
                log_warning("'%.128s' of %s is no variable of an environment, ignoring.", name, origin);
                return 0;
        }
        return r;
}

/* A file of a mounted Secret is a symlink into a directory that is swapped as a whole: so links are followed here. */
static int read_at(int dir_fd, const char *name, char **ret, size_t *ret_size) {
        _cleanup_(close_fdp) int fd = openat(dir_fd, name, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        struct stat st;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EISDIR;
        return read_full_fd(fd, VARIABLES_SIZE_MAX, ret, ret_size);
}

static int read_directory(const char *path, Variables *v) {
        _cleanup_(closedirp) DIR *d = opendir(path);
        struct dirent *de;
        int r;

        if (!d)
                return -errno;
        while ((de = readdir(d))) {
                char *text;
                size_t size;

                if (de->d_name[0] == '.')
                        continue;
                r = read_at(dirfd(d), de->d_name, &text, &size);
                if (r == -EISDIR || r == -ENOENT)       /* a link that the swap has left dangling */
                        continue;
                if (r < 0)
                        return r;
                r = add_variable(v, de->d_name, text, size, path);
                erase_free(text, size);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int read_path(const char *path, Variables *v) {
        char *text;
        size_t size;
        int r;

        r = read_at(AT_FDCWD, path, &text, &size);
        if (r == -ENOENT)
                return 0;
        if (r == -EISDIR)
                return read_directory(path, v);
        if (r < 0)
                return r;
        r = variables_parse(v, text, size);
        erase_free(text, size);
        return r;
}

/* ---- all sources ---- */

bool cloud_settings_are_read(const CloudSettings *c) {
        for (size_t i = 0; i < c->n_objects; i++)
                if (!c->objects[i].read)
                        return false;
        return true;
}

const Variables* cloud_settings_get(const CloudSettings *c) {
        return &c->variables;
}

const Variables* cloud_settings_get_secrets(const CloudSettings *c) {
        return &c->secrets;
}

static int add_all(Variables *to, const Variables *from) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < from->n; i++)
                r = variables_parse_item(to, from->items[i]);
        return r;
}

static int read_paths(char *const *paths, Variables *ret) {
        for (; paths && *paths; paths++) {
                int r = read_path(*paths, ret);

                if (r < 0)
                        return log_error_errno(r, "Failed to read the cloud settings in '%s', keeping what is known: %m", *paths);
        }
        return 0;
}

static int gather_from(CloudSettings *c, bool secret, Variables *ret) {
        int r;

        r = read_paths(secret ? c->secret_paths : c->paths, ret);
        if (r < 0)
                return r;
        for (size_t i = 0; i < c->n_objects; i++) {
                if (c->objects[i].secret != secret)
                        continue;
                r = add_all(ret, &c->objects[i].variables);
                if (r < 0)
                        return log_error_errno(r, "Failed to take the cloud settings: %m");
        }
        return 0;
}

/* What cannot be read now leaves all as it was: half of the settings would be wrong ones. */
static int refresh(CloudSettings *c, bool *ret_changed) {
        Variables all = VARIABLES_NULL, secrets = VARIABLES_NULL;
        int r;

        *ret_changed = false;
        r = gather_from(c, /* secret= */ false, &all);
        if (r >= 0)
                r = gather_from(c, /* secret= */ true, &secrets);
        if (r >= 0)
                r = add_all(&all, &secrets);
        if (r >= 0 && (!variables_equal(&all, &c->variables) || !variables_equal(&secrets, &c->secrets))) {
                Variables v = c->variables, s = c->secrets;

                c->variables = all;
                c->secrets = secrets;
                all = v;
                secrets = s;
                *ret_changed = true;
        }
        variables_done(&all);
        variables_done(&secrets);
        return r < 0 ? r : 0;
}

static int on_settle(sd_event_source *es, uint64_t usec, void *userdata) {
        CloudSettings *c = userdata;
        bool changed;

        c->settle = sd_event_source_disable_unref(c->settle);
        if (refresh(c, &changed) < 0 && c->told)
                return 0;
        if (!cloud_settings_are_read(c) || (c->told && !changed))
                return 0;
        if (c->told)
                log_notice("The clouds' settings have changed.");
        c->told = true;
        c->handler(c, c->userdata);
        return 0;
}

static void cloud_settings_schedule(CloudSettings *c, uint64_t usec) {
        int r;

        if (c->settle)
                return;
        r = sd_event_add_time_relative(c->event, &c->settle, CLOCK_MONOTONIC, usec, /* accuracy= */ 1, on_settle, c);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer: %m");
}

static int on_poll(sd_event_source *es, uint64_t usec, void *userdata) {
        CloudSettings *c = userdata;

        cloud_settings_schedule(c, 0);
        if (sd_event_source_set_time_relative(es, POLL_USEC) < 0 || sd_event_source_set_enabled(es, SD_EVENT_ONESHOT) < 0)
                log_error("Failed to set a timer, files of settings are not looked at any more.");
        return 0;
}

static int on_inotify(sd_event_source *es, const struct inotify_event *event, void *userdata) {
        cloud_settings_schedule(userdata, SETTLE_USEC);
        return 0;
}

/* The directory, since files are replaced rather than written; for a directory, itself and the one above. */
static int watch_path(CloudSettings *c, const char *path) {
        static const uint32_t mask = IN_CLOSE_WRITE|IN_MOVED_TO|IN_MOVED_FROM|IN_DELETE|IN_CREATE;
        _cleanup_(freep) char *copy = strdup(path);
        const char *watched[2];

        if (!copy)
                return -ENOMEM;
        watched[0] = path;
        watched[1] = dirname(copy);
        for (size_t i = 0; i < ELEMENTSOF(watched); i++) {
                struct stat st;
                int r;

                if (stat(watched[i], &st) < 0 || !S_ISDIR(st.st_mode))
                        continue;
                r = grow_array(&c->inotify, c->n_inotify, SIZE_MAX, sizeof(sd_event_source*));
                if (r < 0)
                        return r;
                r = sd_event_add_inotify(c->event, c->inotify + c->n_inotify, watched[i], mask, on_inotify, c);
                if (r < 0)
                        log_warning_errno(r, "Failed to watch '%s', looking there every 30 s: %m", watched[i]);
                else
                        c->n_inotify++;
        }
        return 0;
}

/* ---- objects ---- */

static int take_value(Source *s, Variables *v, const char *name, json_object *value) {
        char *text = NULL;
        size_t size;
        int r;

        if (!json_object_is_type(value, json_type_string))
                return -EBADMSG;
        if (!s->secret)
                return add_variable(v, name, json_object_get_string(value), json_object_get_string_len(value), s->kind);

        r = base64_decode(json_object_get_string(value), json_object_get_string_len(value), &text, &size);
        if (r < 0)
                return r;
        r = add_variable(v, name, text, size, s->kind);
        erase_free(text, size);
        return r;
}

static void on_object(KubeWatch *w, KubeChange change, json_object *object, void *userdata) {
        Source *s = userdata;
        Variables v = VARIABLES_NULL;
        json_object *data = change == KUBE_DELETED ? NULL : kube_object_at(object, "data", NULL);
        int r = 0;

        if (data && !json_object_is_type(data, json_type_object))
                data = NULL;
        if (data) {
                json_object_object_foreach(data, name, value) {
                        r = take_value(s, &v, name, value);
                        if (r < 0) {
                                log_error_errno(r, "Failed to take '%.128s' of the %s with cloud settings, keeping what is known: %m", name, s->kind);
                                break;
                        }
                }
        }
        if (r < 0) {
                variables_done(&v);
                return;
        }
        variables_done(&s->variables);
        s->variables = v;
        cloud_settings_schedule(s->settings, s->settings->told ? SETTLE_USEC : 0);
}

static void on_synced(KubeWatch *w, void *userdata) {
        Source *s = userdata;

        s->read = true;
        cloud_settings_schedule(s->settings, 0);
}

/* Without the right to read it, it is as if it were not there; the watch has said so. */
static void on_trouble(KubeWatch *w, const KubeReply *reply, uint64_t again_usec, void *userdata) {
        Source *s = userdata;

        if (s->read || (reply->error != -EPERM && reply->error != -ENOENT))
                return;
        log_warning("The %s with cloud settings cannot be read, going on without it: %s", s->kind, reply->text);
        s->read = true;
        cloud_settings_schedule(s->settings, 0);
}

static int watch_object(CloudSettings *c, KubeClient *client, const char *ns, bool secret, const char *name) {
        _cleanup_(freep) char *path = kube_path("v1", ns, secret ? "secrets" : "configmaps", NULL, NULL), *selector = NULL;
        Source *s = c->objects + c->n_objects;

        if (isempty(name))
                return 0;
        if (!path || asprintf(&selector, "metadata.name=%s", name) < 0)
                return -ENOMEM;
        *s = (Source) { .settings = c, .secret = secret, .kind = secret ? "Secret" : "ConfigMap" };
        c->n_objects++;

        const KubeWatchSpec spec = {
                .path = path,
                .field_selector = selector,
                .on_object = on_object,
                .on_synced = on_synced,
                .on_trouble = on_trouble,
        };

        return kube_watch_new(client, &spec, s, &s->watch);
}

int cloud_settings_new(sd_event *event, KubeClient *client, const CloudSettingsSpec *spec, CloudSettingsHandler handler, void *userdata,
                       CloudSettings **ret) {
        _cleanup_(cloud_settings_freep) CloudSettings *c = NULL;
        bool changed;
        int r;

        c = new(CloudSettings);
        if (!c)
                return log_oom();
        *c = (CloudSettings) { .event = sd_event_ref(event), .handler = handler, .userdata = userdata };
        r = strv_copy(spec->paths, &c->paths);
        if (r >= 0)
                r = strv_copy(spec->secret_paths, &c->secret_paths);
        for (char **p = c->paths; r >= 0 && p && *p; p++)
                r = watch_path(c, *p);
        for (char **p = c->secret_paths; r >= 0 && p && *p; p++)
                r = watch_path(c, *p);
        if (r >= 0 && spec->ns)
                r = watch_object(c, client, spec->ns, /* secret= */ false, spec->config_map);
        if (r >= 0 && spec->ns)
                r = watch_object(c, client, spec->ns, /* secret= */ true, spec->secret);
        if (r >= 0)
                r = sd_event_add_time_relative(event, &c->poll, CLOCK_MONOTONIC, POLL_USEC, 0, on_poll, c);
        if (r < 0)
                return log_error_errno(r, "Failed to watch the cloud settings: %m");
        r = refresh(c, &changed);
        if (r < 0)
                return r;
        cloud_settings_schedule(c, 0);

        *ret = TAKE_PTR(c);
        return 0;
}

CloudSettings* cloud_settings_free(CloudSettings *c) {
        if (!c)
                return NULL;

        for (size_t i = 0; i < c->n_objects; i++) {
                kube_watch_free(c->objects[i].watch);
                variables_done(&c->objects[i].variables);
        }
        for (size_t i = 0; i < c->n_inotify; i++)
                sd_event_source_disable_unref(c->inotify[i]);
        free(c->inotify);
        sd_event_source_disable_unref(c->settle);
        sd_event_source_disable_unref(c->poll);
        variables_done(&c->variables);
        variables_done(&c->secrets);
        strv_free(c->paths);
        strv_free(c->secret_paths);
        sd_event_unref(c->event);
        free(c);
        return NULL;
}
