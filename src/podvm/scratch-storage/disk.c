/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/scratch-storage/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/blkpg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "basic/error-text.h"
#include "basic/io.h"
#include "basic/parse.h"
#include "basic/util.h"

#define SECTOR_SIZE UINT64_C(512)               /* of sysfs, whatever the disk's is */
#define ALIGNMENT (UINT64_C(1) << 20)
#define BACKUP_SIZE (UINT64_C(34) * 512)        /* UEFI 2.10, 5.3: 32 sectors of entries and the header; systemd-repart leaves as much */
#define DEPTH_MAX 8                             /* device-mapper devices on one another */

static int read_number_at(int dir_fd, const char *name, uint64_t *ret) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = read_full_file_at(dir_fd, name, 64, &text, NULL);
        if (r < 0)
                return r;
        text[strcspn(text, "\n")] = '\0';
        return parse_u64(text, ret) < 0 ? -EBADMSG : 0;
}

/* In bytes. */
static int read_size_at(int dir_fd, const char *name, uint64_t *ret) {
        uint64_t sectors;
        int r;

        r = read_number_at(dir_fd, name, &sectors);
        if (r < 0)
                return r;
        if (sectors > UINT64_MAX / SECTOR_SIZE / 2)
                return -EBADMSG;
        *ret = sectors * SECTOR_SIZE;
        return 0;
}

typedef struct Partition {
        uint64_t number, start, size;
} Partition;

/* 1: @name is a partition, 0: it is something else in the disk's directory. */
static int read_partition(int disk_fd, const char *name, Partition *ret) {
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        fd = openat(disk_fd, name, O_RDONLY|O_DIRECTORY|O_CLOEXEC|O_NOFOLLOW);
        if (fd < 0)
                return errno == ENOTDIR || errno == ELOOP ? 0 : -errno;
        r = read_number_at(fd, "partition", &ret->number);
        if (r == -ENOENT)
                return 0;
        if (r >= 0)
                r = read_size_at(fd, "start", &ret->start);
        if (r >= 0)
                r = read_size_at(fd, "size", &ret->size);
        return r < 0 ? r : ret->number > INT32_MAX - 1 ? -EBADMSG : 1;
}

int disk_tail(const char *sysfs, Tail *ret) {
        _cleanup_(closedirp) DIR *dir = NULL;
        uint64_t size, start = 0, end, last = 0;
        Partition part;
        int r;

        dir = opendir(sysfs);
        if (!dir)
                return -errno;
        r = read_size_at(dirfd(dir), "size", &size);
        if (r < 0)
                return r;

        for (struct dirent *d; (d = readdir(dir));) {
                r = d->d_name[0] == '.' ? 0 : read_partition(dirfd(dir), d->d_name, &part);
                if (r < 0)
                        return r;
                if (r == 0)
                        continue;
                start = MAX(start, part.start + part.size);
                last = MAX(last, part.number);
        }

        start = (start + BACKUP_SIZE + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        end = (size < BACKUP_SIZE ? 0 : size - BACKUP_SIZE) / ALIGNMENT * ALIGNMENT;
        *ret = (Tail) { .start = start, .size = end > start ? end - start : 0, .partition = (int) last + 1 };
        return ret->size < SCRATCH_SIZE_MIN ? -ENOSPC : 0;
}

/* The directory in sysfs of the disk that a block device lies on, in the end. */
static int find_disk(dev_t dev, char ret[static PATH_MAX]) {
        char path[PATH_MAX + 16];

        (void) snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(dev), minor(dev));
        for (unsigned depth = 0; depth < DEPTH_MAX; depth++) {
                _cleanup_(closedirp) DIR *slaves = NULL;
                const char *slave = NULL;

                if (!realpath(path, ret))
                        return -errno;
                (void) snprintf(path, sizeof(path), "%s/partition", ret);
                if (access(path, F_OK) >= 0) {          /* its parent is the disk */
                        *strrchr(ret, '/') = '\0';
                        return 0;
                }

                (void) snprintf(path, sizeof(path), "%s/slaves", ret);
                slaves = opendir(path);
                for (struct dirent *d; slaves && !slave && (d = readdir(slaves));)
                        if (d->d_name[0] != '.')
                                slave = d->d_name;
                if (!slave)
                        return -ENODEV;                 /* no partitions there, so no place behind them */
                if ((size_t) snprintf(path, sizeof(path), "%s/slaves/%s", ret, slave) >= sizeof(path))
                        return -ENAMETOOLONG;
        }
        return -ELOOP;
}

static int change_partition(int disk_fd, int op, const Tail *tail) {
        struct blkpg_partition p = { .start = (long long) tail->start, .length = (long long) tail->size, .pno = tail->partition };
        struct blkpg_ioctl_arg arg = { .op = op, .datalen = sizeof(p), .data = &p };

        return ioctl(disk_fd, BLKPG, &arg) < 0 ? -errno : 0;
}

void scratch_place_forget(ScratchPlace *p) {
        if (p->disk_fd >= 0)
                (void) change_partition(p->disk_fd, BLKPG_DEL_PARTITION, &p->tail);
}

void scratch_place_done(ScratchPlace *p) {
        close_fd(p->disk_fd);
        free(p->device);
}

static int place_behind_root(ScratchPlace *ret, char **ret_error) {
        char sysfs[PATH_MAX], path[PATH_MAX];
        const char *disk;
        struct stat st;
        int r;

        if (stat("/", &st) < 0)
                return -errno;
        r = find_disk(st.st_dev, sysfs);
        if (r < 0)
                return error_text(ret_error, r, "no partition is named '" SCRATCH_PARTLABEL "', and the root file system is on no disk "
                                  "with partitions");
        disk = strrchr(sysfs, '/') + 1;

        r = disk_tail(sysfs, &ret->tail);
        if (r == -ENOSPC)
                return error_text(ret_error, r, "disk '%s' has %llu MiB behind its last partition, and %llu MiB are the least; "
                                  "make it larger by the setting of the provider, or add a disk with a partition named '"
                                  SCRATCH_PARTLABEL "'", disk, (unsigned long long) ret->tail.size >> 20, (unsigned long long) SCRATCH_SIZE_MIN >> 20);
        if (r < 0)
                return error_text(ret_error, r, "the partitions of disk '%s' cannot be read: %s", disk, strerror(-r));

        if (asprintf(&ret->device, "/dev/%s%s%d", disk, strchr("0123456789", disk[strlen(disk) - 1]) ? "p" : "", ret->tail.partition) < 0)
                return -ENOMEM;
        (void) snprintf(path, sizeof(path), "/dev/%.100s", disk);
        ret->disk_fd = open(path, O_RDONLY|O_CLOEXEC|O_NOCTTY);
        r = ret->disk_fd < 0 ? -errno : change_partition(ret->disk_fd, BLKPG_ADD_PARTITION, &ret->tail);
        if (r < 0) {
                ret->disk_fd = close_fd(ret->disk_fd);
                return error_text(ret_error, r, "a partition of disk '%s' cannot be added: %s", disk, strerror(-r));
        }
        return 0;
}

int scratch_place_find(ScratchPlace *ret, char **ret_error) {
        static const char labelled[] = "/dev/disk/by-partlabel/" SCRATCH_PARTLABEL;

        if (access(labelled, F_OK) < 0)
                return place_behind_root(ret, ret_error);
        ret->device = realpath(labelled, NULL);
        return ret->device ? 0 : -errno;
}
