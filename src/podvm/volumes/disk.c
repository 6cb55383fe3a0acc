/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/volumes/disk.h"

#include <blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "basic/io.h"
#include "basic/util.h"

#define AZURE_CHASSIS "7783-7084-3265-9085-8269-3286-77"
#define AWS_LINKS "nvme-Amazon_Elastic_Block_Store_"
#define LIBVIRT_LUN_MAX 24U                     /* vdb to vdz */
#define VOLUME_DISKS_MAX 64U

/* What must be zero for a disk to be empty. */
#define HEAD_SIZE (4U << 20)
#define TAIL_SIZE (1U << 20)
#define PIECE_SIZE 4096U
#define N_PIECES 64U

static const char *const provider_names[_DISK_PROVIDER_MAX] = {
        [DISK_GENERIC] = "generic",
        [DISK_AZURE] = "Azure",
        [DISK_AWS] = "AWS",
        [DISK_LIBVIRT] = "libvirt",
};

const char* disk_provider_to_string(DiskProvider p) {
        assert(p < _DISK_PROVIDER_MAX);
        return provider_names[p];
}

static int fail(char *ret_error, int error, const char *format, ...) PRINTF(3, 4);
static int fail(char *ret_error, int error, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(ret_error, DISK_ERROR_SIZE, format, ap);
        va_end(ap);
        return error;
}

static bool make_path(char *ret, const char *format, ...) PRINTF(2, 3);
static bool make_path(char *ret, const char *format, ...) {
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(ret, PATH_MAX, format, ap);
        va_end(ap);
        return n >= 0 && n < PATH_MAX;
}

/* Paths that match, sorted; NULL for none. globfree() by glob_freep(). */
static void glob_freep(glob_t *g) {
        globfree(g);
}

static size_t glob_paths(glob_t *g, const char *format, ...) PRINTF(2, 3);
static size_t glob_paths(glob_t *g, const char *format, ...) {
        char pattern[PATH_MAX];
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(pattern, sizeof(pattern), format, ap);
        va_end(ap);
        return n >= 0 && n < PATH_MAX && glob(pattern, 0, NULL, g) == 0 ? g->gl_pathc : 0;
}

static bool any_path(const char *format, const char *root) {
        _cleanup_(glob_freep) glob_t g = {};
        char pattern[PATH_MAX];

        return make_path(pattern, "%s%s", root, format) && glob(pattern, 0, NULL, &g) == 0;
}

DiskProvider disk_detect_provider(const DiskRoots *roots) {
        _cleanup_(freep) char *tag = NULL;
        char path[PATH_MAX];

        if (any_path("/disk/azure", roots->dev))
                return DISK_AZURE;
        if (make_path(path, "%s/class/dmi/id/chassis_asset_tag", roots->sys) &&
            read_full_file_at(AT_FDCWD, path, 256, &tag, NULL) >= 0 && startswith(tag, AZURE_CHASSIS))
                return DISK_AZURE;
        if (any_path("/disk/by-id/" AWS_LINKS "*", roots->dev))
                return DISK_AWS;
        if (any_path("/vd[a-z]", roots->dev))
                return DISK_LIBVIRT;
        return DISK_GENERIC;
}

static int take_if_there(const char *path, char *ret) {
        struct stat st;

        if (stat(path, &st) < 0 || !S_ISBLK(st.st_mode))
                return -ENODEV;
        (void) make_path(ret, "%s", path);
        return 0;
}

/* H:C:T:L of a SCSI disk, by its device number. */
static bool is_on_scsi_host_0(const DiskRoots *roots, const char *path) {
        char link[PATH_MAX], target[PATH_MAX];
        const char *last;
        struct stat st;
        ssize_t n;

        if (stat(path, &st) < 0 || !make_path(link, "%s/dev/block/%u:%u/device", roots->sys, major(st.st_rdev), minor(st.st_rdev)))
                return true;
        n = readlink(link, target, sizeof(target) - 1);
        if (n < 0)
                return true;
        target[n] = '\0';
        last = strrchr(target, '/');
        return startswith(last ? last + 1 : target, "0:") != NULL;
}

static int find_azure(const DiskRoots *roots, uint32_t lun, char *ret) {
        _cleanup_(glob_freep) glob_t g = {};
        char path[PATH_MAX];

        /* The links of the image's udev rules and of Azure's own; neither may lead to the disk of the operating system. */
        if (make_path(path, "%s/disk/azure/data/by-lun/%" PRIu32, roots->dev, lun) && !is_on_scsi_host_0(roots, path) &&
            take_if_there(path, ret) >= 0)
                return 0;
        if (make_path(path, "%s/disk/azure/scsi1/lun%" PRIu32, roots->dev, lun) && !is_on_scsi_host_0(roots, path) &&
            take_if_there(path, ret) >= 0)
                return 0;

        for (size_t i = 0, n = glob_paths(&g, "%s/disk/by-path/*vmbus*-lun-%" PRIu32, roots->dev, lun); i < n; i++)
                if (!is_on_scsi_host_0(roots, g.gl_pathv[i]) && take_if_there(g.gl_pathv[i], ret) >= 0)
                        return 0;
        return -ENODEV;
}

/* "vol-0abc" is "vol0abc" as a serial number; behind it may be "_1", the NVMe namespace. */
static bool is_serial(const char *serial, const char *disk_id) {
        for (; *disk_id; disk_id++) {
                if (*disk_id == '-')
                        continue;
                if (*serial++ != *disk_id)
                        return false;
        }
        return *serial == '\0' || *serial == '_';
}

static int find_aws(const DiskRoots *roots, const char *disk_id, uint32_t lun, char *ret) {
        _cleanup_(glob_freep) glob_t g = {};
        dev_t seen[VOLUME_DISKS_MAX] = {};
        char why[DISK_ERROR_SIZE];
        uint32_t n_seen = 0;

        for (size_t i = 0, n = glob_paths(&g, "%s/disk/by-id/" AWS_LINKS "*", roots->dev); i < n; i++) {
                const char *path = g.gl_pathv[i], *serial = strrchr(path, '/') + 1 + strlen(AWS_LINKS);
                bool again = false;
                struct stat st;
                dev_t device;

                if (strstr(serial, "-part") || stat(path, &st) < 0)
                        continue;
                if (!isempty(disk_id)) {
                        if (is_serial(serial, disk_id) && take_if_there(path, ret) >= 0)
                                return 0;
                        continue;
                }

                /* By their order, of those that could be a volume. */
                for (uint32_t k = 0; k < n_seen; k++)
                        again = again || seen[k] == st.st_rdev;
                if (again || n_seen == VOLUME_DISKS_MAX || disk_check(roots, path, &device, why) < 0)
                        continue;
                if (n_seen == lun)
                        return take_if_there(path, ret);
                seen[n_seen++] = st.st_rdev;
        }
        return -ENODEV;
}

static int find_libvirt(const DiskRoots *roots, uint32_t lun, char *ret) {
        char path[PATH_MAX];

        if (lun > LIBVIRT_LUN_MAX || !make_path(path, "%s/vd%c", roots->dev, (char) ('b' + lun)))
                return -ENODEV;
        return take_if_there(path, ret);
}

/* SCSI disks of this LUN: those of later hosts first, as the operating system's is on the first one. */
static int find_scsi(const DiskRoots *roots, uint32_t lun, char *ret) {
        _cleanup_(glob_freep) glob_t g = {};
        size_t n = glob_paths(&g, "%s/class/scsi_device/*:*:*:%" PRIu32 "/device/block/*", roots->sys, lun);

        for (unsigned host_0 = 0; host_0 < 2; host_0++)
                for (size_t i = 0; i < n; i++) {
                        char path[PATH_MAX], why[DISK_ERROR_SIZE];
                        dev_t device;

                        if (!make_path(path, "%s/%s", roots->dev, strrchr(g.gl_pathv[i], '/') + 1) ||
                            is_on_scsi_host_0(roots, path) != (host_0 == 1))
                                continue;
                        if (disk_check(roots, path, &device, why) >= 0 && take_if_there(path, ret) >= 0)
                                return 0;
                }
        return -ENODEV;
}

int disk_find(const DiskRoots *roots, DiskProvider provider, const char *disk_id, uint32_t lun, char *ret) {
        int r = -ENODEV;

        if (provider == DISK_AZURE)
                r = find_azure(roots, lun, ret);
        else if (provider == DISK_AWS)
                r = find_aws(roots, disk_id, lun, ret);
        else if (provider == DISK_LIBVIRT)
                r = find_libvirt(roots, lun, ret);

        /* An id that names a disk names no other one. */
        if (r < 0 && !(provider == DISK_AWS && !isempty(disk_id)))
                r = find_scsi(roots, lun, ret);
        return r;
}

static bool is_there(const DiskRoots *roots, dev_t device, const char *what) {
        _cleanup_(glob_freep) glob_t g = {};

        return glob_paths(&g, "%s/dev/block/%u:%u/%s", roots->sys, major(device), minor(device), what) > 0;
}

int disk_check(const DiskRoots *roots, const char *path, dev_t *ret_device, char *ret_error) {
        _cleanup_(close_fdp) int fd = -EBADF;
        struct stat st;

        /* The kernel grants this to nobody while the disk or a partition of it is mounted, or below another device. */
        fd = open(path, O_RDONLY|O_EXCL|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        if (fd < 0)
                return errno == EBUSY ? fail(ret_error, -EBUSY, "the disk is in use")
                                      : fail(ret_error, -errno, "cannot open the disk: %s", strerrordesc_np(errno));
        if (fstat(fd, &st) < 0)
                return fail(ret_error, -errno, "cannot look at the disk: %s", strerrordesc_np(errno));
        if (!S_ISBLK(st.st_mode))
                return fail(ret_error, -ENOTBLK, "it is no disk");
        if (is_there(roots, st.st_rdev, "partition"))
                return fail(ret_error, -ENOTBLK, "it is a partition, not a whole disk");
        if (is_there(roots, st.st_rdev, "*/partition"))
                return fail(ret_error, -EBUSY, "the disk has partitions");
        if (is_there(roots, st.st_rdev, "holders/*"))
                return fail(ret_error, -EBUSY, "the disk is below another device");

        *ret_device = st.st_rdev;
        return 0;
}

static int is_zero(int fd, uint64_t offset, size_t size) {
        uint8_t buffer[16 * PIECE_SIZE];

        while (size > 0) {
                ssize_t n = pread(fd, buffer, MIN(size, sizeof(buffer)), offset);

                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -EIO;
                if (buffer[0] != 0 || memcmp(buffer, buffer + 1, n - 1) != 0)
                        return 0;
                offset += n;
                size -= n;
        }
        return 1;
}

static int is_empty(int fd) {
        uint64_t size, head, tail;
        int r;

        if (ioctl(fd, BLKGETSIZE64, &size) < 0)
                return -errno;
        head = MIN(size, (uint64_t) HEAD_SIZE);
        tail = MIN(size, (uint64_t) TAIL_SIZE);
        r = is_zero(fd, 0, head);
        if (r > 0)
                r = is_zero(fd, size - tail, tail);
        for (unsigned i = 1; r > 0 && i <= N_PIECES && size > head + tail; i++)
                r = is_zero(fd, MIN(size / (N_PIECES + 1) * i, size - PIECE_SIZE) / PIECE_SIZE * PIECE_SIZE, PIECE_SIZE);
        return r;
}

static void probe_freep(blkid_probe *p) {
        if (*p)
                blkid_free_probe(*p);
}

int disk_probe(const char *path, char *ret_type, char *ret_error) {
        _cleanup_(probe_freep) blkid_probe probe = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        const char *type = NULL;
        int r;

        fd = open(path, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        if (fd < 0)
                return fail(ret_error, -errno, "cannot open the disk: %s", strerrordesc_np(errno));
        probe = blkid_new_probe();
        if (!probe)
                return fail(ret_error, -ENOMEM, "out of memory");
        if (blkid_probe_set_device(probe, fd, 0, 0) < 0)
                return fail(ret_error, -EIO, "cannot read the disk");
        (void) blkid_probe_enable_superblocks(probe, 1);
        (void) blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE|BLKID_SUBLKS_USAGE|BLKID_SUBLKS_BADCSUM);
        (void) blkid_probe_enable_partitions(probe, 1);

        r = blkid_do_safeprobe(probe);
        if (r == -2)
                return fail(ret_error, -EUCLEAN, "there are signatures of several kinds on the disk");
        if (r < 0)
                return fail(ret_error, -EIO, "cannot read the disk");
        if (r == 1) {
                r = is_empty(fd);
                if (r < 0)
                        return fail(ret_error, r, "cannot read the disk: %s", strerrordesc_np(-r));
                if (r == 0)
                        return fail(ret_error, -EUCLEAN, "the disk is not empty, and has no file system that is known");
                ret_type[0] = '\0';
                return 0;
        }

        if (blkid_probe_has_value(probe, "PTTYPE"))
                return fail(ret_error, -EUCLEAN, "there is a partition table on the disk");
        if (blkid_probe_has_value(probe, "SBBADCSUM"))
                return fail(ret_error, -EUCLEAN, "the file system's first block is damaged");
        if (blkid_probe_lookup_value(probe, "TYPE", &type, NULL) < 0 || strlen(type) >= 32)
                return fail(ret_error, -EUCLEAN, "there is something on the disk that is no file system");
        memcpy(ret_type, type, strlen(type) + 1);
        return 0;
}

int disk_is_mounted_at(const char *directory, dev_t device) {
        struct statx stx;

        if (statx(AT_FDCWD, directory, AT_SYMLINK_NOFOLLOW|AT_NO_AUTOMOUNT, 0, &stx) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!(stx.stx_attributes & STATX_ATTR_MOUNT_ROOT))
                return 0;
        return device == 0 || makedev(stx.stx_dev_major, stx.stx_dev_minor) == device ? 1 : -EBUSY;
}
