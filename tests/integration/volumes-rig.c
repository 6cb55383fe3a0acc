/* SPDX-License-Identifier: Apache-2.0 */
#include "volumes-rig.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "basic/io.h"
#include "basic/util.h"

static void check(bool ok, const char *what) {
        if (!ok) {
                perror(what);
                abort();
        }
}

void volumes_rig_make(VolumesRig *r) {
        *r = (VolumesRig) {};
        check(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL) == 0, "mount namespace");
        (void) snprintf(r->dir, sizeof(r->dir), "/tmp/peerpod-volumes-XXXXXX");
        check(mkdtemp(r->dir), "mkdtemp");
        /* Device nodes, and mounts that are seen as such. */
        check(mount("volumes-rig", r->dir, "tmpfs", 0, "mode=0700") == 0, "tmpfs");
        (void) snprintf(r->dev, sizeof(r->dev), "%s/dev", r->dir);
        (void) snprintf(r->mount_root, sizeof(r->mount_root), "%s/cloud-volumes", r->dir);
        (void) snprintf(r->runtime_dir, sizeof(r->runtime_dir), "%s/state", r->dir);
        (void) snprintf(r->socket, sizeof(r->socket), "%s/bus.sock", r->dir);
        (void) snprintf(r->cdh_socket, sizeof(r->cdh_socket), "%s/cdh.sock", r->dir);
        (void) snprintf(r->cdh_log, sizeof(r->cdh_log), "%s/cdh.log", r->dir);
        check(mkdir(r->dev, 0700) == 0, "mkdir");
}

static int open_loop(const VolumesRig *r, unsigned disk) {
        char path[160];

        (void) snprintf(path, sizeof(path), "%s/loop%u", r->dir, disk);
        return open(path, O_RDWR|O_CLOEXEC);
}

void volumes_rig_done(VolumesRig *r) {
        volumes_rig_stop(r, SIGKILL);
        if (r->cdh > 0) {
                (void) kill(r->cdh, SIGKILL);
                (void) waitpid(r->cdh, NULL, 0);
        }
        if (r->dir[0]) {
                _cleanup_(closedirp) DIR *dir = opendir(r->mount_root);
                struct dirent *e;
                char path[400];

                while (dir && (e = readdir(dir))) {
                        if (e->d_name[0] == '.')        /* ".." is the rig's own mount */
                                continue;
                        (void) snprintf(path, sizeof(path), "%s/%s", r->mount_root, e->d_name);
                        (void) umount2(path, MNT_DETACH|UMOUNT_NOFOLLOW);
                }
        }
        for (unsigned i = 0; i < r->n_disks; i++) {
                _cleanup_(close_fdp) int fd = open_loop(r, i);

                check(fd >= 0 && ioctl(fd, LOOP_CLR_FD) == 0, "LOOP_CLR_FD");
        }
        if (r->dir[0]) {
                (void) umount2(r->dir, MNT_DETACH);
                (void) rmdir(r->dir);
        }
        *r = (VolumesRig) {};
}

void volumes_rig_name_disk(VolumesRig *r, unsigned disk, const char *name) {
        char path[200], *slash;

        (void) snprintf(path, sizeof(path), "%s/%s", r->dev, name);
        slash = strrchr(path, '/');
        *slash = '\0';
        check(mkdir_p(path, 0755) >= 0, path);
        *slash = '/';
        check(mknod(path, S_IFBLK|0600, r->devices[disk]) == 0, path);
}

unsigned volumes_rig_add_disk(VolumesRig *r, const char *name) {
        _cleanup_(close_fdp) int control = open("/dev/loop-control", O_RDWR|O_CLOEXEC), file = -EBADF, loop = -EBADF;
        struct loop_config config = {};
        unsigned disk = r->n_disks;
        char path[160], block[32];

        check(disk < VOLUMES_RIG_DISKS_MAX && control >= 0, "loop-control");
        (void) snprintf(path, sizeof(path), "%s/disk%u", r->dir, disk);
        file = open(path, O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600);
        check(file >= 0 && ftruncate(file, VOLUMES_RIG_DISK_SIZE) == 0, path);

        (void) snprintf(path, sizeof(path), "%s/loop%u", r->dir, disk);
        config.fd = file;
        for (;;) {                      /* somebody else may take it in between */
                int number = ioctl(control, LOOP_CTL_GET_FREE);

                check(number >= 0, "LOOP_CTL_GET_FREE");
                (void) unlink(path);
                check(mknod(path, S_IFBLK|0600, makedev(7, number)) == 0, path);
                close_fd(loop);
                loop = open(path, O_RDWR|O_CLOEXEC);
                check(loop >= 0, path);
                r->loops[disk] = number;
                if (ioctl(loop, LOOP_CONFIGURE, &config) == 0)
                        break;
                check(errno == EBUSY, "LOOP_CONFIGURE");
        }
        r->devices[disk] = makedev(7, r->loops[disk]);
        r->n_disks++;

        /* As udev has it. */
        (void) snprintf(block, sizeof(block), "block/7:%i", r->loops[disk]);
        volumes_rig_name_disk(r, disk, block);
        if (name)
                volumes_rig_name_disk(r, disk, name);
        return disk;
}

void volumes_rig_write(VolumesRig *r, unsigned disk, uint64_t offset, const void *data, size_t size) {
        _cleanup_(close_fdp) int fd = open_loop(r, disk);

        check(fd >= 0 && pwrite(fd, data, size, offset) == (ssize_t) size && fsync(fd) == 0, "write to a disk");
}

static pid_t start(const char *const argv[]) {
        pid_t parent = getpid(), pid = fork();

        check(pid >= 0, "fork");
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() == parent)
                        execv(argv[0], (char* const*) argv);
                _exit(127);
        }
        return pid;
}

void volumes_rig_start(VolumesRig *r, const char *program, const char *attempts) {
        const char *argv[] = { program, "--listen", r->socket, "--mount-root", r->mount_root, "--runtime-dir", r->runtime_dir,
                               "--dev", r->dev, "--sys", r->sys ?: "/sys", "--cdh-socket", r->cdh_socket,
                               "--detect-attempts", attempts, "--detect-delay", "100ms", NULL };

        (void) unlink(r->socket);
        r->service = start(argv);
        for (unsigned i = 0; i < 3000 && access(r->socket, F_OK) < 0; i++)
                (void) usleep(10000);
        check(access(r->socket, F_OK) == 0, r->socket);
}

void volumes_rig_stop(VolumesRig *r, int sig) {
        if (r->service <= 0)
                return;
        (void) kill(r->service, sig);
        (void) waitpid(r->service, NULL, 0);
        r->service = 0;
}

void volumes_rig_start_cdh(VolumesRig *r, const char *program) {
        const char *argv[] = { program, r->cdh_socket, r->cdh_log, NULL };

        r->cdh = start(argv);
}
