/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/direct-volume.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "userdata/decode.h"

#define CSI_PATH "/volumes/kubernetes.io~csi/"
#define RECORD_NAME "mountInfo.json"
#define DEFAULT_FS_TYPE "ext4"          /* cloud-api-adaptor: pkg/adaptor/proxy/service.go */
#define TEXT_MAX 1024U

static void direct_volume_done(DirectVolume *v) {
        free(v->path);
        free(v->disk_id);
        free(v->fs_type);
        free(v->encrypt_type);
        free(v->key_id);
        *v = (DirectVolume) {};
}

void direct_volumes_done(DirectVolumes *v) {
        for (size_t i = 0; i < v->n; i++)
                direct_volume_done(v->volumes + i);
        free(v->volumes);
        *v = DIRECT_VOLUMES_NULL;
}

static int get_text(json_object *o, const char *key, const char *or_else, char **ret, char **ret_error) {
        const char *s = NULL;
        int r;

        r = o ? json_get_string(o, key, &s, ret_error) : 0;
        if (r < 0)
                return r;
        if (isempty(s))
                s = or_else;
        if (!text_is_plain(s, TEXT_MAX)) {
                if (asprintf(ret_error, "'%s' is no plain text of at most %u bytes", key, TEXT_MAX) < 0)
                        *ret_error = NULL;
                return -EBADMSG;
        }

        *ret = strdup(s);
        return *ret ? 0 : -ENOMEM;
}

int direct_volume_parse(const char *text, size_t size, DirectVolume *ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(direct_volume_done) DirectVolume v = {};
        json_object *metadata = NULL;
        const char *device = "";
        int r;

        *ret_error = NULL;
        r = json_parse(text, size, &o, ret_error);
        if (r < 0)
                return r;

        if ((r = json_get_object(o, "metadata", &metadata, ret_error)) < 0 ||
            (r = json_get_string(o, "device", &device, ret_error)) < 0 ||
            (r = get_text(metadata, "cloud-volume-path", device, &v.disk_id, ret_error)) < 0 ||
            (r = get_text(o, "fstype", DEFAULT_FS_TYPE, &v.fs_type, ret_error)) < 0 ||
            (r = get_text(metadata, "encrypt-type", "", &v.encrypt_type, ret_error)) < 0 ||
            (r = get_text(metadata, "kbs-key-id", "", &v.key_id, ret_error)) < 0)
                return r;

        v.path = ret->path;
        *ret = v;
        v = (DirectVolume) {};
        return 0;
}

int direct_volume_decode_name(const char *name, char **ret) {
        static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=";
        _cleanup_(freep) char *standard = NULL, *path = NULL;
        size_t size;
        int r;

        if (name[strspn(name, alphabet)] != '\0')
                return -EBADMSG;
        standard = strdup(name);
        if (!standard)
                return -ENOMEM;
        for (char *p = standard; *p; p++)
                *p = *p == '-' ? '+' : *p == '_' ? '/' : *p;

        r = base64_decode(standard, strlen(standard), &path, &size);
        if (r < 0)
                return r;
        if (strlen(path) != size || path[0] != '/' || strstr(path, "/../") || !text_is_plain(path, PATH_MAX - 1))
                return -EBADMSG;

        *ret = TAKE_PTR(path);
        return 0;
}

static bool is_of_pod(const char *path, const char *pod_uid) {
        char part[80];

        if (!strstr(path, CSI_PATH))
                return false;
        if (isempty(pod_uid))
                return true;
        (void) snprintf(part, sizeof(part), "/pods/%s/", pod_uid);
        return strstr(path, part);
}

static int read_record(int dir_fd, const char *name, DirectVolume *v, NetError *e) {
        _cleanup_(freep) char *text = NULL, *reason = NULL, *file = NULL;
        size_t size;
        int r;

        if (asprintf(&file, "%s/" RECORD_NAME, name) < 0) {
                file = NULL;
                return net_error_set(e, -ENOMEM, "out of memory");
        }
        r = read_full_file_at(dir_fd, file, DIRECT_VOLUME_RECORD_MAX, &text, &size);
        if (r < 0)
                return net_error_set(e, r, "record of volume '%s': %s", v->path, strerror(-r));
        r = direct_volume_parse(text, size, v, &reason);
        return r < 0 ? net_error_set(e, r, "record of volume '%s': %s", v->path, reason ?: strerror(-r)) : 0;
}

static int add_volume(DirectVolumes *all, int dir_fd, const char *name, const char *pod_uid, NetError *e) {
        _cleanup_(direct_volume_done) DirectVolume v = {};
        DirectVolume *p;
        int r;

        r = direct_volume_decode_name(name, &v.path);
        if (r == -ENOMEM)
                return net_error_set(e, r, "out of memory");
        if (r < 0 || !is_of_pod(v.path, pod_uid))
                return 0;               /* somebody else's, whatever it is */
        if (!isempty(pod_uid)) {
                if (all->n == DIRECT_VOLUMES_MAX)
                        return net_error_set(e, -E2BIG, "the pod has more than %u volumes", DIRECT_VOLUMES_MAX);
                r = read_record(dir_fd, name, &v, e);
                if (r < 0)
                        return r;
                if (isempty(v.disk_id))
                        log_warning("The record of volume '%s' names no disk, none is attached.", v.path);
        }

        p = reallocarray(all->volumes, all->n + 1, sizeof(*p));
        if (!p)
                return net_error_set(e, -ENOMEM, "out of memory");
        all->volumes = p;
        all->volumes[all->n++] = v;
        v = (DirectVolume) {};
        return 0;
}

static int compare_names(const void *a, const void *b) {
        return strcmp(*(char* const*) a, *(char* const*) b);
}

typedef struct Names {
        char **names;
        size_t n;
} Names;

static void names_done(Names *l) {
        for (size_t i = 0; i < l->n; i++)
                free(l->names[i]);
        free(l->names);
}

static int list_names(DIR *dir, const char *directory, Names *l, NetError *e) {
        struct dirent *de;

        while ((de = readdir(dir))) {
                char **p;

                if (de->d_name[0] == '.')
                        continue;
                if (l->n == DIRECT_VOLUMES_OF_NODE_MAX)
                        return net_error_set(e, -E2BIG, "'%s' has more than %u entries", directory, DIRECT_VOLUMES_OF_NODE_MAX);
                p = reallocarray(l->names, l->n + 1, sizeof(*p));
                if (!p)
                        return net_error_set(e, -ENOMEM, "out of memory");
                l->names = p;
                l->names[l->n] = strdup(de->d_name);
                if (!l->names[l->n])
                        return net_error_set(e, -ENOMEM, "out of memory");
                l->n++;
        }

        if (l->n > 0)
                qsort(l->names, l->n, sizeof(*l->names), compare_names);
        return 0;
}

int direct_volumes_read(const char *directory, const char *pod_uid, DirectVolumes *ret, NetError *e) {
        _cleanup_(direct_volumes_done) DirectVolumes all = DIRECT_VOLUMES_NULL;
        _cleanup_(names_done) Names names = {};
        _cleanup_(closedirp) DIR *dir = opendir(directory);
        int r;

        assert(isempty(pod_uid) || sandbox_id_is_valid(pod_uid));

        if (!dir && errno != ENOENT)
                return net_error_set(e, -errno, "open '%s': %s", directory, strerror(errno));
        r = dir ? list_names(dir, directory, &names, e) : 0;
        for (size_t i = 0; r >= 0 && i < names.n; i++)
                r = add_volume(&all, dirfd(dir), names.names[i], pod_uid, e);
        if (r < 0)
                return r;

        *ret = all;
        all = DIRECT_VOLUMES_NULL;
        return 0;
}
