/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the place where container images are unpacked: on a disk, encrypted with a key of this boot, if user data asks for it,
 * else in memory, with a limit of its own. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/messages.h"
#include "basic/options.h"
#include "basic/paths.h"
#include "basic/util.h"
#include "podvm/scratch-storage/crypt.h"
#include "podvm/scratch-storage/disk.h"
#include "podvm/scratch-storage/filesystem.h"

#define NAME "scratch-storage"
#define MAPPING "scratch"

typedef struct Settings {
        char *marker, *mount_point;
        uint32_t memory_percent;
} Settings;

static const Option options[] = {
        { .flag = "marker", .type = OPTION_STRING, .offset = offsetof(Settings, marker), .value = PODVM_SCRATCH_MARKER,
          .help = "File that asks for encrypted storage on a disk", .metavar = "PATH" },
        { .flag = "mount-point", .type = OPTION_STRING, .offset = offsetof(Settings, mount_point), .value = PODVM_IMAGES_DIR,
          .help = "Where it is mounted", .metavar = "DIR" },
        { .flag = "memory-percent", .type = OPTION_U32, .offset = offsetof(Settings, memory_percent), .value = "50",
          .help = "Without the file: how much of the memory it may take", .metavar = "N", .min = 1, .max = 100 },
        {}
};

static const Program program = {
        .name = NAME,
        .usage = "[OPTIONS…]",
        .description = "Mount the pod VM's storage for container images.",
        .options = options,
        .man = NAME "(8)",
};

static void settings_done(Settings *s) {
        options_done(options, s);
}

static uint64_t size_mib(const char *path) {
        struct statfs s;

        return statfs(path, &s) < 0 ? 0 : (uint64_t) s.f_blocks * (uint64_t) s.f_bsize >> 20;
}

static int mount_memory(const Settings *s) {
        char data[64];

        (void) snprintf(data, sizeof(data), "mode=0755,size=%u%%", s->memory_percent);
        if (mount("tmpfs", s->mount_point, "tmpfs", MS_NOSUID|MS_NODEV, data) < 0)
                return log_error_errno(errno, "Failed to mount a tmpfs on '%s': %m", s->mount_point);
        log_info("Container images are kept in memory, %llu MiB at most.", (unsigned long long) size_mib(s->mount_point));
        return 0;
}

static int use_disk(const Settings *s, const char *device) {
        _cleanup_(freep) char *error = NULL;
        int r;

        r = scratch_crypt_open(device, MAPPING, &error);
        if (r < 0)
                return log_full(NULL, LOG_ERR, MSG_SCRATCH_FAILED, r, "Failed to encrypt scratch storage on '%s': %s", device,
                                error ?: strerror(-r));
        r = scratch_filesystem_make("/dev/mapper/" MAPPING, "mkfs.ext4");
        /* No inode is read ahead: those beside it may never have been written. */
        if (r >= 0 && mount("/dev/mapper/" MAPPING, s->mount_point, "ext4", MS_NOSUID|MS_NODEV|MS_NOATIME, "inode_readahead_blks=0") < 0)
                r = log_error_errno(errno, "Failed to mount '/dev/mapper/" MAPPING "' on '%s': %m", s->mount_point);
        if (r < 0) {
                scratch_crypt_close(MAPPING);
                return log_full(NULL, LOG_ERR, MSG_SCRATCH_FAILED, r, "There is no file system for scratch storage on '%s'.", device);
        }

        log_notice("Container images are kept on '%s', %llu MiB, encrypted with a key of this boot.", device,
                   (unsigned long long) size_mib(s->mount_point));
        return 0;
}

static int mount_disk(const Settings *s) {
        _cleanup_(scratch_place_done) ScratchPlace place = SCRATCH_PLACE_NULL;
        _cleanup_(freep) char *error = NULL;
        int r;

        r = scratch_place_find(&place, &error);
        if (r < 0)
                return log_full(NULL, LOG_ERR, MSG_SCRATCH_FAILED, r, "There is no place for scratch storage: %s.", error ?: strerror(-r));
        r = use_disk(s, place.device);
        if (r < 0)
                scratch_place_forget(&place);
        return r;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings s = {};
        int r, exit;

        r = options_load(&program, argc, argv, &s, NULL, &exit);
        if (r != 0)
                return r < 0 ? r : exit;

        r = mkdir_p(s.mount_point, 0755);
        if (r < 0)
                return log_error_errno(r, "Failed to make '%s': %m", s.mount_point);
        if (access(s.marker, F_OK) >= 0)
                return mount_disk(&s);
        if (errno != ENOENT)
                return log_error_errno(errno, "Failed to look for '%s': %m", s.marker);
        return mount_memory(&s);
}

DEFINE_MAIN_FUNCTION(run);
