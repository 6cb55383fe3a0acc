/* SPDX-License-Identifier: Apache-2.0 */
/* podvm-volumes with real disks and file systems. Arguments: the program, and a peer that plays confidential-data-hub (cdh-go). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "../unit/fd-count.h"
#include "basic/bus-private.h"
#include "basic/io.h"
#include "basic/util.h"
#include "podvm/forwarder/volumes-client.h"
#include "podvm/volumes/disk.h"
#include "volumes-rig.h"

#define PATIENCE_USEC (120 * USEC_PER_SEC)

static const char *program, *cdh_program;
static VolumesRig rig;
static sd_event *event;
static VolumesClient *client;

/* What came of one call. */
typedef struct Answer {
        bool done;
        char error[128], text[300], path[200];
        VolumesCall *call;
} Answer;

static VolumeSpec volume(const char *name, uint32_t lun) {
        return (VolumeSpec) {
                .name = (char*) name, .mount_point = (char*) "/data", .fs_type = (char*) "ext4", .disk_id = (char*) "",
                .encrypt_type = (char*) "", .key_id = (char*) "", .lun = lun, .fs_group = (gid_t) -1,
        };
}

static int setup(void **state) {
        fds_before = count_fds();
        volumes_rig_make(&rig);
        return sd_event_new(&event) < 0 || volumes_client_new(event, rig.socket, &client) < 0 ? -1 : 0;
}

static int teardown(void **state) {
        client = volumes_client_free(client);
        event = sd_event_unref(event);
        volumes_rig_done(&rig);
        return count_fds() == fds_before ? 0 : -1;
}

static void on_answer(const char *error, const char *text, const char *path, void *userdata) {
        Answer *a = userdata;

        a->done = true;
        (void) snprintf(a->error, sizeof(a->error), "%s", error ? error + strlen(PEERPOD_ERROR_PREFIX) : "");
        (void) snprintf(a->text, sizeof(a->text), "%s", strempty(text));
        (void) snprintf(a->path, sizeof(a->path), "%s", strempty(path));
}

static void wait_for(Answer *a) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;

        while (!a->done && now_usec(CLOCK_MONOTONIC) < end)
                assert_true(sd_event_run(event, USEC_PER_SEC) >= 0);
        assert_true(a->done);
}

static void begin_mount(const char *container, VolumeSpec v, Answer *a) {
        *a = (Answer) {};
        assert_int_equal(volumes_client_mount(client, container, &v, on_answer, a, &a->call), 0);
}

static Answer mount_volume(const char *container, VolumeSpec v) {
        Answer a;

        begin_mount(container, v, &a);
        wait_for(&a);
        return a;
}

static void begin_release(const char *container, Answer *a) {
        *a = (Answer) {};
        assert_int_equal(volumes_client_release(client, container, on_answer, a, &a->call), 0);
}

static Answer release(const char *container) {
        Answer a;

        begin_release(container, &a);
        wait_for(&a);
        return a;
}

static const char* path_of(const char *name) {
        static char path[200];

        (void) snprintf(path, sizeof(path), "%s/%s", rig.mount_root, name);
        return path;
}

static bool is_mounted(const char *name) {
        return disk_is_mounted_at(path_of(name), 0) == 1;
}

static void assert_is_mounted(const char *name, dev_t device, const char *type) {
        _cleanup_(freep) char *text = NULL;
        char wanted[300];

        assert_int_equal(disk_is_mounted_at(path_of(name), device), 1);
        assert_int_equal(read_full_file_at(AT_FDCWD, "/proc/self/mountinfo", 1 << 20, &text, NULL), 0);
        (void) snprintf(wanted, sizeof(wanted), " %s rw,nodev,relatime - %s ", path_of(name), type);
        if (!strstr(text, wanted))
                fail_msg("no '%s' in:\n%s", wanted, text);
}

static void an_empty_disk_is_formatted_and_keeps_its_files(void **state) {
        static const char *const types[] = { "ext4", "ext3", "xfs" };
        Answer a;

        for (unsigned i = 0; i < ELEMENTSOF(types); i++)
                (void) volumes_rig_add_disk(&rig, (const char *[]) { "vdb", "vdc", "vdd" }[i]);
        volumes_rig_start(&rig, program, "1");

        for (unsigned i = 0; i < ELEMENTSOF(types); i++) {
                _cleanup_(freep) char *text = NULL;
                VolumeSpec v = volume("vol-0", i);
                char file[300];
                struct stat st;

                v.fs_type = (char*) types[i];
                v.fs_group = 1234;
                a = mount_volume("c1", v);
                assert_string_equal(a.text, "");
                assert_string_equal(a.path, path_of("vol-0"));
                assert_is_mounted("vol-0", rig.devices[i], types[i]);
                assert_int_equal(stat(a.path, &st), 0);
                assert_int_equal(st.st_gid, 1234);
                assert_int_equal(st.st_mode & 07777, 02775);
                (void) snprintf(file, sizeof(file), "%s/file", a.path);
                assert_int_equal(write_file_atomic(file, "kept", 4, 0600), 0);
                assert_string_equal(release("c1").text, "");
                assert_false(is_mounted("vol-0"));

                /* The second time there is something on it, which is used as it is, whatever type is asked for. */
                v.fs_type = (char*) "ext4";
                a = mount_volume("c2", v);
                assert_string_equal(a.text, "");
                assert_is_mounted("vol-0", rig.devices[i], types[i]);
                assert_int_equal(read_full_file_at(AT_FDCWD, file, 100, &text, NULL), 0);
                assert_string_equal(text, "kept");
                assert_string_equal(release("").text, "");
                assert_int_equal(access(path_of("vol-0"), F_OK), -1);
        }
}

static void what_is_not_empty_is_never_formatted(void **state) {
        static const struct {
                const char *name;
                uint64_t offset;
                const char *data;
                size_t size;
                const char *why;
        } cases[] = {
                { "a byte at the very end",          VOLUMES_RIG_DISK_SIZE - 1, "x", 1, "not empty" },
                { "a byte behind the beginning",     (4 << 20) - 1, "x", 1, "not empty" },
                { "a byte in the first block",       0, "x", 1, "not empty" },
                { "a DOS partition table",           440, "\x01\x02\x03\x04\x00\x00" "\x80\x00\x02\x00\x83\x01\x02\x03\x00\x08\x00\x00\x00\x10\x00\x00"
                  "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" "\x55\xaa", 72, "partition" },
                { "a swap signature",                4086, "SWAPSPACE2", 10, "" },
                { "a LUKS header, without a key",    0, "LUKS\xba\xbe\x00\x02", 8, "" },
        };

        for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
                char name[] = { 'v', 'd', (char) ('b' + i), '\0' };
                unsigned disk = volumes_rig_add_disk(&rig, name);

                volumes_rig_write(&rig, disk, cases[i].offset, cases[i].data, cases[i].size);
        }
        volumes_rig_start(&rig, program, "1");

        for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
                Answer a = mount_volume("c1", volume("vol-0", i));
                _cleanup_(close_fdp) int fd = -EBADF;
                char path[100], data[100];

                print_message("%s: %s\n", cases[i].name, a.text);
                assert_string_equal(a.error, "FailedPrecondition");
                assert_non_null(strstr(a.text, cases[i].why));
                (void) snprintf(path, sizeof(path), "%s/disk%u", rig.dir, i);
                fd = open(path, O_RDONLY|O_CLOEXEC);
                assert_int_equal(pread(fd, data, cases[i].size, cases[i].offset), cases[i].size);
                assert_memory_equal(data, cases[i].data, cases[i].size);
                assert_int_equal(access(path_of("vol-0"), F_OK), -1);
        }
}

static void a_disk_that_is_used_otherwise_is_refused(void **state) {
        char directory[100], device[120];
        Answer a;

        (void) volumes_rig_add_disk(&rig, "vdb");
        volumes_rig_start(&rig, program, "1");
        assert_string_equal(mount_volume("c1", volume("vol-0", 0)).text, "");

        /* As a second volume. */
        a = mount_volume("c2", volume("vol-1", 0));
        assert_string_equal(a.error, "FailedPrecondition");
        assert_non_null(strstr(a.text, "the same disk"));

        /* By somebody else. */
        assert_string_equal(release("").text, "");
        (void) snprintf(directory, sizeof(directory), "%s/elsewhere", rig.dir);
        (void) snprintf(device, sizeof(device), "%s/vdb", rig.dev);
        assert_int_equal(mkdir(directory, 0700), 0);
        assert_int_equal(mount(device, directory, "ext4", 0, NULL), 0);
        a = mount_volume("c1", volume("vol-0", 0));
        assert_string_equal(a.error, "FailedPrecondition");
        assert_non_null(strstr(a.text, "in use"));
        assert_int_equal(umount(directory), 0);
        assert_string_equal(mount_volume("c1", volume("vol-0", 0)).text, "");
}

static void a_disk_may_come_late_or_never(void **state) {
        Answer a;

        (void) volumes_rig_add_disk(&rig, NULL);
        (void) volumes_rig_add_disk(&rig, "vdc");       /* tells the provider */
        volumes_rig_start(&rig, program, "20");
        begin_mount("c1", volume("vol-0", 0), &a);
        /* It is looked for when the service has answered something else. */
        assert_string_equal(release("c9").text, "");
        volumes_rig_name_disk(&rig, 0, "vdb");
        wait_for(&a);
        assert_string_equal(a.text, "");

        a = mount_volume("c1", volume("vol-7", 7));
        assert_string_equal(a.error, "FailedPrecondition");
        assert_non_null(strstr(a.text, "there is no disk with LUN 7"));
}

static void a_volume_is_unmounted_when_its_last_container_is_gone(void **state) {
        Answer a, b;

        (void) volumes_rig_add_disk(&rig, "vdb");
        volumes_rig_start(&rig, program, "1");

        /* Both at once: one mount. */
        begin_mount("c1", volume("vol-0", 0), &a);
        begin_mount("c2", volume("vol-0", 0), &b);
        wait_for(&a);
        wait_for(&b);
        assert_string_equal(a.path, path_of("vol-0"));
        assert_string_equal(b.path, path_of("vol-0"));
        assert_string_equal(mount_volume("c1", volume("vol-0", 0)).text, "");

        assert_string_equal(release("c1").text, "");
        assert_true(is_mounted("vol-0"));
        assert_string_equal(release("nobody").text, "");
        assert_true(is_mounted("vol-0"));

        /* Another volume of that name is another one. */
        {
                VolumeSpec v = volume("vol-0", 1);

                assert_string_equal(mount_volume("c3", v).error, "FailedPrecondition");
        }
        assert_string_equal(release("c2").text, "");
        assert_false(is_mounted("vol-0"));
}

static void a_busy_volume_is_unmounted_as_soon_as_it_is_free(void **state) {
        _cleanup_(close_fdp) int fd = -EBADF;
        Answer a, other;

        (void) volumes_rig_add_disk(&rig, "vdb");
        (void) volumes_rig_add_disk(&rig, "vdc");
        volumes_rig_start(&rig, program, "1");
        assert_string_equal(mount_volume("c1", volume("vol-0", 0)).text, "");
        fd = open(path_of("vol-0"), O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        assert_true(fd >= 0);

        begin_release("", &a);
        other = mount_volume("c2", volume("vol-1", 1));         /* nobody else waits for it */
        assert_string_equal(other.text, "");
        assert_false(a.done);
        assert_true(is_mounted("vol-0"));
        fd = close_fd(fd);
        wait_for(&a);
        assert_string_equal(a.text, "");
        assert_false(is_mounted("vol-0"));
        assert_true(is_mounted("vol-1"));
}

static void mounts_outlive_the_service(void **state) {
        char record[200];
        Answer a;

        (void) volumes_rig_add_disk(&rig, "vdb");
        (void) volumes_rig_add_disk(&rig, "vdc");
        volumes_rig_start(&rig, program, "1");
        assert_string_equal(mount_volume("c1", volume("vol-0", 0)).text, "");
        assert_string_equal(mount_volume("c1", volume("vol-1", 1)).text, "");

        volumes_rig_stop(&rig, SIGKILL);
        assert_true(is_mounted("vol-0") && is_mounted("vol-1"));
        /* As if it had been killed between mount and record. */
        (void) snprintf(record, sizeof(record), "%s/vol-1.json", rig.runtime_dir);
        assert_int_equal(unlink(record), 0);

        volumes_rig_start(&rig, program, "1");
        a = mount_volume("c2", volume("vol-0", 0));
        assert_string_equal(a.text, "");
        assert_string_equal(release("c2").text, "");
        assert_true(is_mounted("vol-0"));       /* the first container's use is remembered */
        for (uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC; is_mounted("vol-1") && now_usec(CLOCK_MONOTONIC) < end;)
                (void) usleep(10000);
        assert_false(is_mounted("vol-1"));      /* of which nobody has been told */
        assert_string_equal(release("").text, "");
        assert_false(is_mounted("vol-0"));
}

static void an_encrypted_volume_is_mounted_by_confidential_data_hub(void **state) {
        _cleanup_(freep) char *log = NULL;
        VolumeSpec v = volume("vol-0", 0);
        char wanted[1000];
        Answer a;

        (void) volumes_rig_add_disk(&rig, "vdb");
        (void) volumes_rig_add_disk(&rig, "vdc");
        volumes_rig_write(&rig, 1, 0, "LUKS\xba\xbe\x00\x02", 8);
        volumes_rig_start(&rig, program, "1");
        volumes_rig_start_cdh(&rig, cdh_program);

        v.encrypt_type = (char*) "luks";
        v.key_id = (char*) "default/key/1";
        a = mount_volume("c1", v);
        assert_string_equal(a.text, "");
        assert_true(is_mounted("vol-0"));
        /* For two containers it is asked once. */
        assert_string_equal(mount_volume("c2", v).text, "");
        assert_string_equal(release("c1").text, "");
        assert_true(is_mounted("vol-0"));
        assert_string_equal(release("c2").text, "");
        assert_false(is_mounted("vol-0"));

        v.key_id = (char*) "default/key/refused";
        a = mount_volume("c1", v);
        assert_string_equal(a.error, "Unavailable");
        assert_non_null(strstr(a.text, "attestation has failed"));
        assert_int_equal(access(path_of("vol-0"), F_OK), -1);

        (void) snprintf(wanted, sizeof(wanted),
                        "block-device 0 devicePath=%s/vdb encryptionType=luks2 filesystemType=ext4 key=kbs:///default/key/1 mapperName=caa-vol-0 "
                        "sourceType=empty targetType=fileSystem %s/vol-0\n"
                        "block-device 0 devicePath=%s/vdb encryptionType=luks2 filesystemType=ext4 key=kbs:///default/key/refused "
                        "mapperName=caa-vol-0 sourceType=empty targetType=fileSystem %s/vol-0\n",
                        rig.dev, rig.mount_root, rig.dev, rig.mount_root);
        assert_int_equal(read_full_file_at(AT_FDCWD, rig.cdh_log, 1 << 16, &log, NULL), 0);
        assert_string_equal(log, wanted);
}

static void only_an_empty_or_a_luks_disk_is_encrypted(void **state) {
        VolumeSpec v = volume("vol-0", 0), e = volume("vol-0", 0);
        Answer a;

        (void) volumes_rig_add_disk(&rig, "vdb");
        volumes_rig_start(&rig, program, "1");
        volumes_rig_start_cdh(&rig, cdh_program);
        assert_string_equal(mount_volume("c1", v).text, "");
        assert_string_equal(release("").text, "");

        e.encrypt_type = (char*) "luks2";
        e.key_id = (char*) "default/key/1";
        a = mount_volume("c1", e);
        assert_string_equal(a.error, "FailedPrecondition");
        assert_non_null(strstr(a.text, "there is a 'ext4' on the disk"));
        assert_string_equal(mount_volume("c1", v).text, "");    /* it still is */
}

static void what_the_worker_may_not_ask_for_is_refused(void **state) {
        static const struct {
                const char *container, *name, *fs_type, *encrypt_type, *key_id;
        } cases[] = {
                { "c1", "../vol",  "ext4",  "",      "" },
                { "c1", "..",      "ext4",  "",      "" },
                { "c1", "a/b",     "ext4",  "",      "" },
                { "c1", "",        "ext4",  "",      "" },
                { "c1", "vol-0",   "btrfs", "",      "" },
                { "c1", "vol-0",   "ext4",  "plain", "a/b/c" },
                { "c1", "vol-0",   "ext4",  "luks2", "" },
                { "",   "vol-0",   "ext4",  "",      "" },
                { "a/", "vol-0",   "ext4",  "",      "" },
        };

        (void) volumes_rig_add_disk(&rig, "vdb");
        volumes_rig_start(&rig, program, "1");
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                VolumeSpec v = volume(cases[i].name, 0);
                Answer a;

                v.fs_type = (char*) cases[i].fs_type;
                v.encrypt_type = (char*) cases[i].encrypt_type;
                v.key_id = (char*) cases[i].key_id;
                a = mount_volume(cases[i].container, v);
                assert_string_equal(a.error, "InvalidArgument");
        }
        assert_int_equal(access(rig.mount_root, F_OK), -1);
}

/* ---- how clouds name their disks: links in /dev, and /sys ---- */

static char sys_dir[96];

static void make_sys(void) {
        (void) snprintf(sys_dir, sizeof(sys_dir), "%s/sys", rig.dir);
        rig.sys = sys_dir;
}

/* The disk is H:C:T:L to the kernel. */
static void add_scsi(unsigned disk, const char *address, const char *node) {
        char path[300], target[100];

        (void) snprintf(path, sizeof(path), "%s/class/scsi_device/%s/device/block/%s", sys_dir, address, node);
        assert_int_equal(mkdir_p(path, 0755), 0);
        (void) snprintf(path, sizeof(path), "%s/dev/block/7:%i", sys_dir, rig.loops[disk]);
        assert_int_equal(mkdir_p(path, 0755), 0);
        (void) snprintf(path, sizeof(path), "%s/dev/block/7:%i/device", sys_dir, rig.loops[disk]);
        (void) snprintf(target, sizeof(target), "../../../%s", address);
        assert_int_equal(symlink(target, path), 0);
        volumes_rig_name_disk(&rig, disk, node);
}

static dev_t find(const char *disk_id, uint32_t lun) {
        DiskRoots roots = { .dev = rig.dev, .sys = rig.sys };
        char path[PATH_MAX];
        struct stat st;

        if (disk_find(&roots, disk_detect_provider(&roots), disk_id, lun, path) < 0)
                return 0;
        assert_int_equal(stat(path, &st), 0);
        return st.st_rdev;
}

static void azure_s_disks_are_found_by_lun_and_never_the_system_s(void **state) {
        make_sys();
        (void) volumes_rig_add_disk(&rig, NULL);
        (void) volumes_rig_add_disk(&rig, NULL);
        (void) volumes_rig_add_disk(&rig, NULL);
        add_scsi(0, "0:0:0:0", "sda");
        add_scsi(1, "1:0:0:0", "sdb");
        add_scsi(2, "1:0:0:3", "sdc");

        /* The link that upstream's udev rule makes for the system's disk, too. */
        volumes_rig_name_disk(&rig, 0, "disk/azure/data/by-lun/0");
        assert_int_equal(find("", 0), rig.devices[1]);
        volumes_rig_name_disk(&rig, 2, "disk/azure/data/by-lun/3");
        assert_int_equal(find("", 3), rig.devices[2]);
        volumes_rig_name_disk(&rig, 2, "disk/azure/scsi1/lun4");
        assert_int_equal(find("", 4), rig.devices[2]);
        volumes_rig_name_disk(&rig, 0, "disk/by-path/acpi-VMBUS:00-vmbus-f8b3781a1e824818a1c363d806ec15bb-lun-5");
        assert_int_equal(find("", 5), 0);
        volumes_rig_name_disk(&rig, 1, "disk/by-path/acpi-VMBUS:00-vmbus-f8b3781b1e824818a1c363d806ec15bb-lun-5");
        assert_int_equal(find("", 5), rig.devices[1]);
        assert_int_equal(find("", 9), 0);
}

static void aws_s_disks_are_found_by_volume_id(void **state) {
        make_sys();
        (void) volumes_rig_add_disk(&rig, NULL);
        (void) volumes_rig_add_disk(&rig, NULL);
        volumes_rig_name_disk(&rig, 0, "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0aaa");
        volumes_rig_name_disk(&rig, 0, "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0aaa_1");
        volumes_rig_name_disk(&rig, 0, "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0bbb-part1");
        volumes_rig_name_disk(&rig, 1, "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0aaab");

        assert_int_equal(find("vol-0aaa", 1), rig.devices[0]);
        assert_int_equal(find("vol-0aaab", 0), rig.devices[1]);
        assert_int_equal(find("vol-0aa", 0), 0);
        assert_int_equal(find("vol-0bbb", 0), 0);
        assert_int_equal(find("", 0), rig.devices[0]);
        assert_int_equal(find("", 1), rig.devices[1]);
        assert_int_equal(find("", 2), 0);
}

static void elsewhere_disks_are_found_by_scsi_address_first_those_of_later_hosts(void **state) {
        make_sys();
        for (unsigned i = 0; i < 4; i++)
                (void) volumes_rig_add_disk(&rig, NULL);
        add_scsi(0, "0:0:0:1", "sda");
        add_scsi(1, "2:0:0:1", "sdb");
        add_scsi(2, "0:0:0:2", "sdc");
        assert_int_equal(find("", 1), rig.devices[1]);
        assert_int_equal(find("", 2), rig.devices[2]);
        assert_int_equal(find("", 3), 0);

        /* libvirt's come in their order; what is none of them is looked for as above. */
        volumes_rig_name_disk(&rig, 3, "vdd");
        assert_int_equal(find("", 2), rig.devices[3]);
        assert_int_equal(find("", 1), rig.devices[1]);
        assert_int_equal(find("", 24), 0);
}

static void a_disk_with_partitions_or_holders_is_not_taken(void **state) {
        DiskRoots roots = { .dev = rig.dev };
        static const struct {
                const char *file;
                int error;
        } cases[] = {
                { "partition",           -ENOTBLK },
                { "sda1/partition",      -EBUSY },
                { "holders/dm-0",        -EBUSY },
                { "queue",               0 },
        };

        make_sys();
        roots.sys = rig.sys;
        for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
                char path[300], why[DISK_ERROR_SIZE] = "", name[16];
                dev_t device;

                (void) snprintf(name, sizeof(name), "disk-%u", i);
                (void) volumes_rig_add_disk(&rig, name);
                (void) snprintf(path, sizeof(path), "%s/dev/block/7:%i/%s", sys_dir, rig.loops[i], cases[i].file);
                assert_int_equal(mkdir_p(path, 0755), 0);
                (void) snprintf(path, sizeof(path), "%s/%s", rig.dev, name);
                assert_int_equal(disk_check(&roots, path, &device, why), cases[i].error);
                assert_int_equal(isempty(why), cases[i].error == 0);
        }
}

int main(int argc, char *argv[]) {
        static const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
                TEST(an_empty_disk_is_formatted_and_keeps_its_files),
                TEST(what_is_not_empty_is_never_formatted),
                TEST(a_disk_that_is_used_otherwise_is_refused),
                TEST(a_disk_may_come_late_or_never),
                TEST(a_volume_is_unmounted_when_its_last_container_is_gone),
                TEST(a_busy_volume_is_unmounted_as_soon_as_it_is_free),
                TEST(mounts_outlive_the_service),
                TEST(an_encrypted_volume_is_mounted_by_confidential_data_hub),
                TEST(only_an_empty_or_a_luks_disk_is_encrypted),
                TEST(what_the_worker_may_not_ask_for_is_refused),
                TEST(azure_s_disks_are_found_by_lun_and_never_the_system_s),
                TEST(aws_s_disks_are_found_by_volume_id),
                TEST(elsewhere_disks_are_found_by_scsi_address_first_those_of_later_hosts),
                TEST(a_disk_with_partitions_or_holders_is_not_taken),
        };

        if (argc != 3)
                return 2;
        program = argv[1];
        cdh_program = argv[2];
        return cmocka_run_group_tests(tests, NULL, NULL);
}
