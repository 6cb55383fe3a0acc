/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/volumes/volume-store.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

void volume_record_done(VolumeRecord *r) {
        volume_spec_done(&r->spec);
        strv_free(r->containers);
        *r = (VolumeRecord) {};
}

int volume_record_set(VolumeRecord *r, const VolumeSpec *spec) {
        r->spec = (VolumeSpec) {
                .name = strdup(spec->name),
                .mount_point = strdup(""),
                .fs_type = strdup(spec->fs_type),
                .disk_id = strdup(spec->disk_id),
                .encrypt_type = strdup(spec->encrypt_type),
                .key_id = strdup(spec->key_id),
                .lun = spec->lun,
                .fs_group = spec->fs_group,
        };
        return r->spec.name && r->spec.mount_point && r->spec.fs_type && r->spec.disk_id && r->spec.encrypt_type && r->spec.key_id ? 0 : -ENOMEM;
}

bool volume_record_is(const VolumeRecord *r, const VolumeSpec *spec) {
        return streq_ptr(r->spec.fs_type, spec->fs_type) && streq_ptr(r->spec.disk_id, spec->disk_id) &&
                streq_ptr(r->spec.encrypt_type, spec->encrypt_type) && streq_ptr(r->spec.key_id, spec->key_id) && r->spec.lun == spec->lun;
}

bool volume_record_has_disk(const VolumeRecord *r, const VolumeSpec *spec) {
        return r->spec.lun == spec->lun && streq_ptr(r->spec.disk_id, spec->disk_id);
}

static void record_name(const char *name, char ret[static NAME_MAX + 1]) {
        (void) snprintf(ret, NAME_MAX + 1, "%s.json", name);    /* the name has at most 64 characters */
}

int volume_record_save(int dir_fd, const VolumeRecord *r) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        char name[NAME_MAX + 1];
        const char *text;

        if (!o ||
            json_set_string(o, "fs-type", r->spec.fs_type) < 0 ||
            json_set_u64(o, "lun", r->spec.lun) < 0 ||
            json_set_string(o, "disk-id", r->spec.disk_id) < 0 ||
            json_set_string(o, "encrypt-type", r->spec.encrypt_type) < 0 ||
            json_set_string(o, "key-id", r->spec.key_id) < 0 ||
            json_set_u64(o, "device", r->device) < 0 ||
            json_set_strv(o, "containers", r->containers) < 0 ||
            !(text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY|JSON_C_TO_STRING_NOSLASHESCAPE)))
                return -ENOMEM;
        record_name(r->spec.name, name);
        return replace_file_at(dir_fd, name, text, strlen(text), 0600);
}

void volume_record_remove(int dir_fd, const char *volume) {
        char name[NAME_MAX + 1];

        record_name(volume, name);
        if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
                (void) log_warning_errno(errno, "Failed to remove record '%s', ignoring: %m", name);
}

static int copy_string(json_object *o, const char *key, char **ret) {
        const char *s = "";
        int r = json_get_string(o, key, &s, NULL);

        if (r < 0)
                return r;
        *ret = strdup(s);
        return *ret ? 0 : -ENOMEM;
}

int volume_record_parse(const char *name, const char *text, size_t size, VolumeRecord *ret) {
        _cleanup_(volume_record_done) VolumeRecord record = {};
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *error = NULL;
        uint64_t lun = 0, device = 0;
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        record.spec.fs_group = (gid_t) -1;
        record.spec.name = strdup(name);
        record.spec.mount_point = strdup("");
        if (!record.spec.name || !record.spec.mount_point)
                return -ENOMEM;
        if ((r = copy_string(o, "fs-type", &record.spec.fs_type)) < 0 ||
            (r = copy_string(o, "disk-id", &record.spec.disk_id)) < 0 ||
            (r = copy_string(o, "encrypt-type", &record.spec.encrypt_type)) < 0 ||
            (r = copy_string(o, "key-id", &record.spec.key_id)) < 0 ||
            (r = json_get_u64(o, "lun", VOLUME_LUN_MAX, &lun, NULL)) < 0 ||
            (r = json_get_u64(o, "device", UINT64_MAX, &device, NULL)) < 0 ||
            (r = json_get_strv(o, "containers", &record.containers, NULL)) < 0)
                return r;
        record.spec.lun = lun;
        record.device = device;
        r = volume_spec_check(&record.spec, &error);
        if (r < 0)
                return r == -ENOMEM ? r : -EBADMSG;

        *ret = record;
        record = (VolumeRecord) {};
        return 0;
}

static int load_one(int dir_fd, const char *file, int (*load)(const char *name, VolumeRecord *r, void *userdata), void *userdata) {
        _cleanup_(volume_record_done) VolumeRecord record = {};
        _cleanup_(freep) char *text = NULL, *name = NULL;
        size_t size, n = strlen(file);
        int r;

        if (n <= strlen(".json") || !streq(file + n - strlen(".json"), ".json"))
                return 0;
        name = strndup(file, n - strlen(".json"));
        if (!name)
                return -ENOMEM;
        r = read_full_file_at(dir_fd, file, VOLUME_RECORD_SIZE_MAX, &text, &size);
        if (r >= 0)
                r = volume_record_parse(name, text, size, &record);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                (void) log_warning_errno(r, "Record '%s' is unreadable, ignoring: %m", file);
                return 0;
        }
        return load(name, &record, userdata);
}

int volume_records_load(int dir_fd, int (*load)(const char *name, VolumeRecord *r, void *userdata), void *userdata) {
        _cleanup_(closedirp) DIR *dir = NULL;
        struct dirent *e;
        int fd, r = 0;

        r = remove_temporary_files_at(dir_fd);
        if (r < 0)
                return r;
        fd = openat(dir_fd, ".", O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (fd < 0)
                return -errno;
        dir = fdopendir(fd);
        if (!dir) {
                close_fd(fd);
                return -errno;
        }
        while (r >= 0 && (e = readdir(dir)))
                r = load_one(dir_fd, e->d_name, load, userdata);
        return r;
}
