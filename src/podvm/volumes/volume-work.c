/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/volumes/volume-work.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"
#include "cdh.pb-c.h"
#include "ttrpc/client.h"

#define CDH_ATTEMPTS 10U
#define CDH_PAUSE_USEC (2 * USEC_PER_SEC)
#define CDH_CALL_USEC (120 * USEC_PER_SEC)      /* attestation, and luksFormat of a new disk */
#define UNMOUNT_PAUSE_USEC (100 * USEC_PER_MSEC)
#define UNMOUNT_PAUSE_MAX_USEC USEC_PER_SEC

static void fail(WorkResult *ret, int error, const char *format, ...) PRINTF(3, 4);
static void fail(WorkResult *ret, int error, const char *format, ...) {
        va_list ap;

        ret->error = error;
        va_start(ap, format);
        (void) vsnprintf(ret->text, sizeof(ret->text), format, ap);
        va_end(ap);
}

static void pause_for(uint64_t usec) {
        struct timespec ts = { .tv_sec = usec / USEC_PER_SEC, .tv_nsec = usec % USEC_PER_SEC * NSEC_PER_USEC };

        (void) nanosleep(&ts, NULL);
}

static int mount_directory(const WorkSettings *s, const char *name, char ret[static PATH_MAX]) {
        int n = snprintf(ret, PATH_MAX, "%s/%s", s->mount_root, name);

        return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* The mapping that confidential-data-hub makes for us. */
static bool is_our_mapper(const WorkSettings *s, const char *name, dev_t device) {
        _cleanup_(freep) char *text = NULL;
        char path[PATH_MAX], wanted[128];
        int n = snprintf(path, sizeof(path), "%s/dev/block/%u:%u/dm/name", s->roots.sys, major(device), minor(device));

        if (n < 0 || (size_t) n >= sizeof(path) || read_full_file_at(AT_FDCWD, path, 256, &text, NULL) < 0)
                return false;
        (void) snprintf(wanted, sizeof(wanted), VOLUME_MAPPER_PREFIX "%s\n", name);
        return streq(text, wanted);
}

static int wait_for_disk(const WorkSettings *s, const VolumeSpec *v, char ret[static PATH_MAX], WorkResult *result) {
        DiskProvider provider = DISK_GENERIC;

        for (uint32_t i = 0; i < MAX(s->detect_attempts, 1U); i++) {
                if (i > 0)
                        pause_for(s->detect_delay_usec);
                provider = disk_detect_provider(&s->roots);
                if (disk_find(&s->roots, provider, v->disk_id, v->lun, ret) >= 0)
                        return 0;
        }
        fail(result, -ENODEV, "there is no disk with LUN %u after %u looks for it (%s)", v->lun, s->detect_attempts,
             disk_provider_to_string(provider));
        return -ENODEV;
}

static int run_mkfs(const char *fs_type, const char *path, WorkResult *result) {
        char program[32], *argv[] = { program, (char*) "-q", (char*) path, NULL };
        char *environment[] = { (char*) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char*) "LANG=C.UTF-8", NULL };
        posix_spawn_file_actions_t actions;
        int status, r;
        pid_t pid;

        (void) snprintf(program, sizeof(program), "mkfs.%s", fs_type);
        if (posix_spawn_file_actions_init(&actions) != 0)
                return -ENOMEM;
        (void) posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        r = posix_spawnp(&pid, program, &actions, NULL, argv, environment);
        (void) posix_spawn_file_actions_destroy(&actions);
        if (r != 0) {
                fail(result, -r, "cannot run %s: %s", program, strerrordesc_np(r));
                return -r;
        }
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                fail(result, -EIO, "%s has failed on the empty disk", program);
                return -EIO;
        }
        return 0;
}

/* ext3 is mounted as what it says it is; what else is on a disk is no file system for a volume. */
static bool is_volume_type(const char *type) {
        return streq(type, "ext4") || streq(type, "ext3") || streq(type, "xfs");
}

static void mount_plain(const VolumeSpec *v, const char *path, const char *type, const char *directory, WorkResult *ret) {
        const char *fs_type = isempty(type) ? v->fs_type : type;

        if (!isempty(type) && !is_volume_type(type)) {
                fail(ret, -EUCLEAN, "there is a '%s' on the disk, which is no file system for a volume", type);
                return;
        }
        if (isempty(type)) {
                log_notice("The disk of cloud volume '%s' is empty, making a file system (%s).", v->name, fs_type);
                if (run_mkfs(fs_type, path, ret) < 0)
                        return;
        }
        /* Device nodes are no business of a volume. */
        if (mount(path, directory, fs_type, MS_NODEV, NULL) < 0)
                fail(ret, -errno, "cannot mount the disk (%s): %s", fs_type, strerrordesc_np(errno));
}

static int connect_cdh(const char *path, TtrpcClient **ret) {
        int r = -ENOENT;

        for (unsigned i = 0; i < CDH_ATTEMPTS; i++) {
                if (i > 0)
                        pause_for(CDH_PAUSE_USEC);
                r = ttrpc_client_new_unix(NULL, path, ret);
                if (r >= 0)
                        break;
        }
        return r;
}

/* confidential-data-hub opens or formats the LUKS container, with a key that it gets by attestation, and mounts what is in it. */
static void mount_encrypted(const WorkSettings *s, const VolumeSpec *v, const char *path, const char *type, const char *directory,
                            WorkResult *ret) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        TtrpcResult result = TTRPC_RESULT_NULL;
        Api__SecureMountRequest request = API__SECURE_MOUNT_REQUEST__INIT;
        Api__SecureMountRequest__OptionsEntry entries[7], *list[ELEMENTSOF(entries)];
        char key[1100], mapper[128];
        const char *const options[ELEMENTSOF(entries)][2] = {
                { "devicePath", path },
                { "sourceType", isempty(type) ? "empty" : "encrypted" },
                { "targetType", "fileSystem" },
                { "encryptionType", v->encrypt_type },
                { "filesystemType", v->fs_type },
                { "key", key },
                { "mapperName", mapper },
        };
        int r;

        if (!isempty(type) && !streq(type, "crypto_LUKS")) {
                fail(ret, -EUCLEAN, "there is a '%s' on the disk, and not an encrypted volume", type);
                return;
        }

        (void) snprintf(key, sizeof(key), "kbs:///%s", v->key_id);
        (void) snprintf(mapper, sizeof(mapper), VOLUME_MAPPER_PREFIX "%s", v->name);
        for (size_t i = 0; i < ELEMENTSOF(entries); i++) {
                api__secure_mount_request__options_entry__init(&entries[i]);
                entries[i].key = (char*) options[i][0];
                entries[i].value = (char*) options[i][1];
                list[i] = &entries[i];
        }
        request.volume_type = (char*) "block-device";
        request.n_options = ELEMENTSOF(entries);
        request.options = list;
        request.mount_point = (char*) directory;

        r = connect_cdh(s->cdh_socket, &client);
        if (r < 0) {
                fail(ret, -EHOSTUNREACH, "cannot reach confidential-data-hub: %s", strerrordesc_np(-r));
                return;
        }
        r = ttrpc_client_call_message_sync(client, "api.SecureMountService", "SecureMount", &request.base, CDH_CALL_USEC, NULL, NULL, NULL,
                                           &result);
        if (r < 0)
                fail(ret, -EHOSTUNREACH, "confidential-data-hub: SecureMount: %.150s", strempty(result.message));
        ttrpc_result_done(&result);
        if (ret->error == 0 && disk_is_mounted_at(directory, 0) != 1)
                fail(ret, -EIO, "confidential-data-hub says that the volume is mounted, but it is not");
}

static void set_group(const VolumeSpec *v, const char *directory) {
        if (v->fs_group == (gid_t) -1)
                return;
        /* As upstream has it, this is no reason to do without the volume. */
        if (chown(directory, (uid_t) -1, v->fs_group) < 0 || chmod(directory, 02775) < 0)
                (void) log_warning_errno(errno, "Failed to give cloud volume '%s' its group, ignoring: %m", v->name);
}

static void find_and_mount(const WorkSettings *s, const VolumeSpec *v, const char *directory, WorkResult *ret) {
        char path[PATH_MAX], type[32];
        bool encrypted = !isempty(v->encrypt_type);
        dev_t device;
        int r;

        if (wait_for_disk(s, v, path, ret) < 0)
                return;
        r = disk_check(&s->roots, path, &device, ret->text);
        if (r >= 0)
                r = disk_probe(path, type, ret->text);
        if (r < 0) {
                ret->error = r;
                return;
        }

        r = mkdir_p(directory, 0755);
        if (r < 0) {
                fail(ret, r, "cannot make the mount point: %s", strerrordesc_np(-r));
                return;
        }
        if (encrypted)
                mount_encrypted(s, v, path, type, directory, ret);
        else
                mount_plain(v, path, type, directory, ret);
        if (ret->error < 0)
                (void) rmdir(directory);
        else
                set_group(v, directory);
}

void volume_work_mount(const WorkSettings *s, const VolumeSpec *v, WorkResult *ret) {
        char directory[PATH_MAX];
        struct stat st;
        int r;

        *ret = (WorkResult) {};
        r = mount_directory(s, v->name, directory);
        if (r >= 0)
                r = disk_is_mounted_at(directory, 0);
        if (r == 0)
                find_and_mount(s, v, directory, ret);
        else if (r < 0)
                fail(ret, r, "cannot look at the mount point: %s", strerrordesc_np(-r));
        if (ret->error < 0)
                return;

        if (stat(directory, &st) < 0) {
                fail(ret, -errno, "cannot look at the mount point: %s", strerrordesc_np(errno));
                return;
        }
        ret->device = st.st_dev;
        if (!isempty(v->encrypt_type) && !is_our_mapper(s, v->name, st.st_dev))
                log_warning("Cloud volume '%s' is not on the mapping that was asked for.", v->name);
}

/* Of a name that nothing is mapped to, success. */
static int remove_mapper(const WorkSettings *s, const char *suffix, const char *name) {
        struct dm_ioctl dm = { .version = { DM_VERSION_MAJOR, 0, 0 }, .data_size = sizeof(dm), .data_start = sizeof(dm) };
        _cleanup_(close_fdp) int fd = -EBADF;
        char path[PATH_MAX];
        int n = snprintf(path, sizeof(path), "%s/mapper/control", s->roots.dev);

        if (n < 0 || (size_t) n >= sizeof(path))
                return -ENAMETOOLONG;
        fd = open(path, O_RDWR|O_CLOEXEC);
        if (fd < 0)                     /* a kernel without device mapper maps nothing */
                return errno == ENOENT || errno == ENODEV || errno == ENXIO ? 0 : -errno;
        n = snprintf(dm.name, sizeof(dm.name), VOLUME_MAPPER_PREFIX "%s%s", name, suffix);
        if (n < 0 || (size_t) n >= sizeof(dm.name))
                return -ENAMETOOLONG;
        return ioctl(fd, DM_DEV_REMOVE, &dm) < 0 && errno != ENXIO ? -errno : 0;
}

/* Somebody may have it mounted elsewhere still: a container that has not quite ended. */
static int is_free(const WorkSettings *s, dev_t device) {
        _cleanup_(close_fdp) int fd = -EBADF;
        char path[PATH_MAX];
        int n = snprintf(path, sizeof(path), "%s/block/%u:%u", s->roots.dev, major(device), minor(device));

        if (device == 0 || n < 0 || (size_t) n >= sizeof(path))
                return 0;
        fd = open(path, O_RDONLY|O_EXCL|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        return fd < 0 && errno == EBUSY ? -EBUSY : 0;
}

static int unmount_once(const WorkSettings *s, const char *name, const char *directory, dev_t device) {
        int r;

        if (umount2(directory, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
                return -errno;
        r = remove_mapper(s, "", name);
        if (r >= 0)                     /* what is below it where integrity is protected, too */
                r = remove_mapper(s, "_dif", name);
        if (r >= 0)
                r = is_free(s, device);
        if (r >= 0 && rmdir(directory) < 0 && errno != ENOENT)
                r = -errno;
        return r;
}

void volume_work_unmount(const WorkSettings *s, const char *name, dev_t device, WorkResult *ret) {
        uint64_t end = usec_add(now_usec(CLOCK_MONOTONIC), VOLUME_UNMOUNT_USEC), pause = UNMOUNT_PAUSE_USEC;
        char directory[PATH_MAX];
        int r;

        *ret = (WorkResult) {};
        r = mount_directory(s, name, directory);
        while (r >= 0) {
                r = unmount_once(s, name, directory, device);
                if (r != -EBUSY || now_usec(CLOCK_MONOTONIC) >= end)
                        break;
                pause_for(pause);
                pause = MIN(2 * pause, (uint64_t) UNMOUNT_PAUSE_MAX_USEC);
                r = 0;
        }
        if (r == -EBUSY)
                fail(ret, r, "it is still in use");
        else if (r < 0)
                fail(ret, r, "cannot unmount it: %s", strerrordesc_np(-r));
}
