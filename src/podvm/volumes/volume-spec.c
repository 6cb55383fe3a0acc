/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/volumes/volume-spec.h"

#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>

#include "basic/error-text.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/util.h"

#define TEXT_MAX 1024U

void volume_spec_done(VolumeSpec *v) {
        free(v->name);
        free(v->mount_point);
        free(v->fs_type);
        free(v->disk_id);
        free(v->encrypt_type);
        free(v->key_id);
        *v = (VolumeSpec) {};
}

void volume_specs_done(VolumeSpecs *v) {
        FOREACH_ELEMENT(VolumeSpec, s, v->list, v->n)
                volume_spec_done(s);
        free(v->list);
        *v = VOLUME_SPECS_NULL;
}

static int set_default(char **s, const char *value) {
        char *copy = strdup(value);

        if (!copy)
                return -ENOMEM;
        free(*s);
        *s = copy;
        return 0;
}

/* Of key broker resources: REPOSITORY/TYPE/TAG; of disks: what clouds give as ids, of which only AWS's is looked at. */
static bool is_plain(const char *s) {
        return text_is_plain(s, TEXT_MAX);
}

int volume_spec_check(VolumeSpec *v, char **ret_error) {
        int r = 0;

        if (!sandbox_id_is_valid(v->name))
                return error_text(ret_error, -EINVAL, "a cloud volume has a name that is not plain");
        if (v->lun > VOLUME_LUN_MAX)
                return error_text(ret_error, -EINVAL, "cloud volume '%s': 'lun' is out of range", v->name);
        if (!is_plain(v->disk_id) || !is_plain(v->key_id))
                return error_text(ret_error, -EINVAL, "cloud volume '%s': 'disk_id' or 'key_id' is no plain text", v->name);

        if (isempty(v->fs_type))
                r = set_default(&v->fs_type, "ext4");
        else if (!streq(v->fs_type, "ext4") && !streq(v->fs_type, "ext3") && !streq(v->fs_type, "xfs"))
                return error_text(ret_error, -EINVAL, "cloud volume '%s': 'fs_type' is none of ext4, ext3, xfs", v->name);

        if (streq(v->encrypt_type, "luks"))
                r = r < 0 ? r : set_default(&v->encrypt_type, "luks2");
        else if (!isempty(v->encrypt_type) && !streq(v->encrypt_type, "luks2"))
                return error_text(ret_error, -EINVAL, "cloud volume '%s': 'encrypt_type' is none of luks, luks2", v->name);
        if (!isempty(v->encrypt_type) && isempty(v->key_id))
                return error_text(ret_error, -EINVAL, "cloud volume '%s': it is to be encrypted, but 'key_id' is missing", v->name);
        return r;
}

static int copy_string(json_object *o, const char *key, size_t max, char **ret, char **ret_error) {
        const char *s = "";
        int r;

        r = json_get_string(o, key, &s, ret_error);
        if (r < 0)
                return r;
        if (strlen(s) > max)
                return error_text(ret_error, -E2BIG, "'%s' is too long", key);
        *ret = strdup(s);
        return *ret ? 0 : -ENOMEM;
}

static int parse_volume(const char *name, json_object *o, VolumeSpec *v, char **ret_error) {
        _cleanup_(freep) char *lun = NULL, *fs_group = NULL;
        uint32_t group;
        int r;

        v->fs_group = (gid_t) -1;
        v->name = strdup(name);
        if (!v->name)
                return -ENOMEM;
        if (!sandbox_id_is_valid(v->name))
                return error_text(ret_error, -EINVAL, "a cloud volume has a name that is not plain");
        if (!json_object_is_type(o, json_type_object))
                return error_text(ret_error, -EBADMSG, "cloud volume '%s' is no object", name);

        if ((r = copy_string(o, "mount_point", PATH_MAX - 1, &v->mount_point, ret_error)) < 0 ||
            (r = copy_string(o, "fs_type", TEXT_MAX, &v->fs_type, ret_error)) < 0 ||
            (r = copy_string(o, "disk_id", TEXT_MAX, &v->disk_id, ret_error)) < 0 ||
            (r = copy_string(o, "encrypt_type", TEXT_MAX, &v->encrypt_type, ret_error)) < 0 ||
            (r = copy_string(o, "key_id", TEXT_MAX, &v->key_id, ret_error)) < 0 ||
            (r = copy_string(o, "lun", TEXT_MAX, &lun, ret_error)) < 0 ||
            (r = copy_string(o, "fs_group", TEXT_MAX, &fs_group, ret_error)) < 0)
                return r;

        if (v->mount_point[0] != '/')
                return error_text(ret_error, -EINVAL, "cloud volume '%s': 'mount_point' is no absolute path", name);
        if (parse_u32(lun, &v->lun) < 0)
                return error_text(ret_error, -EINVAL, "cloud volume '%s': 'lun' is no number", name);
        if (!isempty(fs_group)) {
                if (parse_u32(fs_group, &group) < 0 || group == (gid_t) -1)
                        return error_text(ret_error, -EINVAL, "cloud volume '%s': 'fs_group' is no group id", name);
                v->fs_group = group;
        }
        return volume_spec_check(v, ret_error);
}

static int compare_names(const void *a, const void *b) {
        return strcmp(((const VolumeSpec*) a)->name, ((const VolumeSpec*) b)->name);
}

int volume_specs_parse(const char *text, size_t size, VolumeSpecs *ret, char **ret_error) {
        _cleanup_(volume_specs_done) VolumeSpecs specs = VOLUME_SPECS_NULL;
        _cleanup_(json_object_putp) json_object *o = NULL;
        size_t n;
        int r;

        if (size > CLOUD_VOLUMES_SIZE_MAX)
                return error_text(ret_error, -E2BIG, "the cloud volumes' description is too long");
        r = json_parse(text, size, &o, ret_error);
        if (r < 0)
                return r;
        n = json_object_object_length(o);
        if (n > CLOUD_VOLUMES_MAX)
                return error_text(ret_error, -E2BIG, "more than %u cloud volumes", CLOUD_VOLUMES_MAX);

        specs.list = new0(VolumeSpec, MAX(n, (size_t) 1));
        if (!specs.list)
                return -ENOMEM;
        json_object_object_foreach(o, name, value) {
                r = parse_volume(name, value, specs.list + specs.n++, ret_error);
                if (r < 0)
                        return r;
        }
        if (specs.n > 1)
                qsort(specs.list, specs.n, sizeof(VolumeSpec), compare_names);

        *ret = specs;
        specs = VOLUME_SPECS_NULL;
        return 0;
}
