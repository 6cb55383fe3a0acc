/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/direct-record.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "basic/io.h"
#include "basic/util.h"
#include "userdata/encode.h"

#define RECORD_NAME "mountInfo.json"
#define RECORD "{\"Device\": \"/dev/zero\", \"fstype\": \"ext4\"}"
#define RECORD_SIZE_MAX (64U << 10)             /* of a driver's own */

/* RFC 4648, section 5, padded. */
static int record_directory(const char *directory, const char *target_path, char **ret) {
        _cleanup_(freep) char *name = NULL;
        int r;

        r = base64_encode(target_path, strlen(target_path), &name);
        if (r < 0)
                return r;
        for (char *p = name; *p; p++)
                *p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
        if (strlen(name) > NAME_MAX)
                return -ENAMETOOLONG;
        if (asprintf(ret, "%s/%s", directory, name) < 0)
                return -ENOMEM;
        return 0;
}

int direct_record_write(const char *directory, const char *target_path) {
        _cleanup_(freep) char *path = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        r = record_directory(directory, target_path, &path);
        if (r < 0)
                return r;
        r = mkdir_p(path, 0700);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY|O_DIRECTORY|O_CLOEXEC|O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        /* A driver that does as HEAD of cloud-api-adaptor wants it has left a record of its own: that one names the disk. */
        if (faccessat(fd, RECORD_NAME, F_OK, AT_SYMLINK_NOFOLLOW) >= 0)
                return 0;
        return write_file_atomic_at(fd, RECORD_NAME, RECORD, strlen(RECORD), 0600);
}

bool direct_record_is_ours(const char *directory, const char *target_path) {
        _cleanup_(freep) char *path = NULL, *name = NULL, *text = NULL;

        return record_directory(directory, target_path, &path) >= 0 && asprintf(&name, "%s/" RECORD_NAME, path) >= 0 &&
                read_full_file_at(AT_FDCWD, name, RECORD_SIZE_MAX, &text, /* ret_size= */ NULL) >= 0 && streq(text, RECORD);
}

int direct_record_remove(const char *directory, const char *target_path) {
        _cleanup_(freep) char *path = NULL;
        int r;

        r = record_directory(directory, target_path, &path);
        return r == -ENAMETOOLONG ? 0 : r < 0 ? r : remove_tree(path);
}
