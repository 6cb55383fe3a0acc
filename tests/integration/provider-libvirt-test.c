/* SPDX-License-Identifier: Apache-2.0 */
/* The libvirt module in peerpod-providerd, with libvirt's embedded driver and real QEMU, as the service has them: an ordinary user
 * with CAP_NET_ADMIN. The VM is UEFI firmware with an empty disk, which is all that a VM's life needs; the address that a guest
 * would have made known is put into the neighbour table by hand.
 *
 * Needs root, for a network namespace of its own and to become that user. */
#include <arpa/inet.h>
#include <dirent.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "libvirt-domain.h"
#include "libvirt-tap.h"
#include "provider-client.h"

#define TIMEOUT (90 * USEC_PER_SEC)
#define NAME "podvm-web-sandbox1"
#define USER "65534"

static const char *program, *module_file;
static char wrapper[64];

typedef struct Fixture {
        char directory[32], state[64], images[64], modules[256];
        Daemon daemon;
        sd_bus *bus;
} Fixture;

static void run(const char *format, ...) PRINTF(1, 2);
static void run(const char *format, ...) {
        char command[512];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(command, sizeof(command), format, ap);
        va_end(ap);
        assert_int_equal(system(command), 0);
}

#define WAIT_UNTIL(condition)                                                                   \
        do {                                                                                    \
                uint64_t _end = now_usec(CLOCK_MONOTONIC) + TIMEOUT;                            \
                while (!(condition)) {                                                          \
                        assert_true(now_usec(CLOCK_MONOTONIC) < _end);                          \
                        (void) poll(NULL, 0, 20);                                               \
                }                                                                               \
        } while (0)

static void start(Fixture *f, const char *const *more) {
        const char *args[24] = { "--module-directory", f->modules, "--state-directory", f->state, "--accel", "tcg" };
        int status = 0;

        for (size_t n = 6; more && *more; more++)
                args[n++] = *more;
        daemon_start(&f->daemon, wrapper, f->directory, args, &status);
        assert_int_not_equal(f->daemon.pid, 0);
        f->bus = daemon_connect(&f->daemon);
}

static void stop(Fixture *f, int sig) {
        if (f->bus)
                f->bus = sd_bus_flush_close_unref(f->bus);
        (void) daemon_end(&f->daemon, sig);
}

/* PIDs of QEMU processes with our state directory in their command line; the first one's in *ret. */
static int find_qemu(const Fixture *f, pid_t *ret) {
        struct dirent *de;
        DIR *d = opendir("/proc");
        int n = 0;

        while ((de = readdir(d))) {
                _cleanup_(freep) char *text = NULL;
                char path[300];
                size_t size;

                (void) snprintf(path, sizeof(path), "/proc/%s/cmdline", de->d_name);
                if (de->d_name[0] < '0' || de->d_name[0] > '9' || read_full_file_at(AT_FDCWD, path, 1 << 20, &text, &size) < 0)
                        continue;
                if (strstr(text, "qemu-system") && memmem(text, size, f->state, strlen(f->state))) {
                        if (n++ == 0 && ret)
                                *ret = atoi(de->d_name);
                }
        }
        (void) closedir(d);
        return n;
}

static int set_up(void **state) {
        Fixture *f = calloc(1, sizeof(Fixture));

        strcpy(f->directory, "/tmp/pplv-XXXXXX");
        assert_non_null(mkdtemp(f->directory));
        (void) snprintf(f->state, sizeof(f->state), "%s/s", f->directory);
        (void) snprintf(f->images, sizeof(f->images), "%s/images", f->directory);
        (void) snprintf(f->modules, sizeof(f->modules), "%.*s", (int) (strrchr(module_file, '/') - module_file), module_file);
        run("mkdir %s %s && truncate -s 64M %s/podvm-base.qcow2 && chown -R " USER ":" USER " %s", f->state, f->images, f->images, f->directory);
        assert_int_equal(setenv("LIBVIRT_POOL", f->images, 1), 0);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        Fixture *f = *state;
        pid_t pid;

        stop(f, SIGKILL);
        while (find_qemu(f, &pid) > 0) {        /* only where the test failed */
                (void) kill(pid, SIGKILL);
                (void) poll(NULL, 0, 50);
        }
        (void) remove_tree(f->directory);
        free(f);
        return 0;
}

/* Nothing of any instance: no domain, no file, no tap device, no process. */
static void assert_nothing_left(const Fixture *f) {
        char path[256];
        char tap[IFNAMSIZ];

        assert_int_equal(find_qemu(f, NULL), 0);
        tap_name_make(NAME, tap);
        assert_int_equal(if_nametoindex(tap), 0);
        /* libvirt clears some of its files away in a thread of its own. */
        run("for i in $(seq 600); do found=$(find %s -name '*%s*'); test -n \"$found\" || exit 0; sleep 0.1; done; echo \"left: $found\"; exit 1",
            f->state, NAME);
        (void) snprintf(path, sizeof(path), "%s/instances/%s", f->state, NAME);
        assert_int_equal(access(path, F_OK), -1);
}

static bool read_domain(const Fixture *f, char **ret) {
        char path[256];

        (void) snprintf(path, sizeof(path), "%s/embed/etc/qemu/" NAME ".xml", f->state);
        return read_full_file_at(AT_FDCWD, path, 1 << 20, ret, NULL) >= 0;
}

static bool has_tap(void) {
        char tap[IFNAMSIZ];

        tap_name_make(NAME, tap);
        return if_nametoindex(tap) > 0;
}

/* As if the VM had spoken to this machine. */
static void learn_address(const Fixture *f, const char *address) {
        _cleanup_(freep) char *xml = NULL;
        uint8_t mac[6];

        if (has_tap() && read_domain(f, &xml) && domain_mac_parse(xml, mac) == 0)
                run("ip neigh replace %s lladdr %02x:%02x:%02x:%02x:%02x:%02x dev pptest0 nud stale",
                    address, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static const CreateArgs args1 = { "sandbox1", NAME, "node1", "#cloud-config\n", NULL, 0, 1, 256 };

static void create_running_with(Fixture *f, const CreateArgs *args, const char *address, char *ret_id) {
        const char *id, *type, *got;
        sd_bus_message *reply = NULL;

        send_async(f->bus, create_call(f->bus, args), TIMEOUT, &reply);
        while (!reply) {                /* the VM may be made anew meanwhile, with another hardware address */
                learn_address(f, address);
                while (sd_bus_process(f->bus, NULL) > 0)
                        ;
                if (!reply)
                        (void) sd_bus_wait(f->bus, 200 * USEC_PER_MSEC);
        }
        assert_string_equal(error_of(reply), "none");
        assert_true(sd_bus_message_read(reply, "ss", &id, &type) > 0);
        assert_true(sd_bus_message_enter_container(reply, 'a', "s") > 0);
        assert_true(sd_bus_message_read(reply, "s", &got) > 0);
        assert_string_equal(got, address);
        assert_int_equal(strlen(id), 36);
        assert_string_equal(type, "1 vCPU, 256 MiB");
        if (ret_id)
                strcpy(ret_id, id);
        sd_bus_message_unref(reply);
}

static void create_running(Fixture *f, const char *address, char *ret_id) {
        create_running_with(f, &args1, address, ret_id);
}

static void delete(Fixture *f, const char *id) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = call_and_unref(f->bus, delete_call(f->bus, "sandbox1", NAME, id), TIMEOUT, &error);

        if (!reply)
                print_message("%s: %s\n", error.name, error.message);
        assert_non_null(reply);
        sd_bus_message_unref(reply);
}

static void qemu_has_no_capabilities(const Fixture *f) {
        char path[64];
        _cleanup_(freep) char *status = NULL;
        pid_t pid;

        assert_int_equal(find_qemu(f, &pid), 1);
        (void) snprintf(path, sizeof(path), "/proc/%i/status", pid);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 65536, &status, NULL), 0);
        assert_non_null(strstr(status, "CapPrm:\t0000000000000000"));
        assert_non_null(strstr(status, "CapEff:\t0000000000000000"));
        assert_non_null(strstr(status, "CapAmb:\t0000000000000000"));
}

static void created_found_joined_deleted(void **state) {
        const char *sandbox, *name, *id;
        char first[64], second[64];
        sd_bus_message *reply = NULL;
        Fixture *f = *state;

        start(f, NULL);
        create_running(f, "10.99.0.7", first);
        qemu_has_no_capabilities(f);

        assert_int_equal(count_instances(f->bus, "node1", &sandbox, &name, &id, &reply), 1);
        assert_string_equal(sandbox, "sandbox1");
        assert_string_equal(name, NAME);
        assert_string_equal(id, first);
        sd_bus_message_unref(reply);
        assert_int_equal(count_instances(f->bus, "node2", NULL, NULL, NULL, NULL), 0);

        create_running(f, "10.99.0.7", second);         /* the same one again */
        assert_string_equal(first, second);
        assert_int_equal(find_qemu(f, NULL), 1);

        delete(f, first);
        assert_nothing_left(f);
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 0);
        delete(f, "");
}

/* Has QEMU the file open? */
static bool qemu_uses(const Fixture *f, const char *name) {
        char command[300];
        pid_t pid;

        assert_int_equal(find_qemu(f, &pid), 1);
        (void) snprintf(command, sizeof(command), "readlink /proc/%i/fd/* | grep -qx '%s/%s'", (int) pid, f->images, name);
        return system(command) == 0;
}

static void a_pods_disks_are_behind_the_root_disk_in_their_order(void **state) {
        static const char *const order[] = { "instances/" NAME "/root.qcow2'", "'vda'", "images/z-first'", "'vdb'", "images/a-second'", "'vdc'",
                                             "/seed.iso'", "'vdd'" };
        _cleanup_(freep) char *xml = NULL;
        CreateArgs args = args1;
        Fixture *f = *state;
        const char *at;

        run("cd %s && truncate -s 1M z-first && truncate -s 2M a-second && chown " USER ":" USER " z-first a-second", f->images);
        args.volumes[0] = "z-first";
        args.volumes[1] = "a-second";
        start(f, NULL);
        create_running_with(f, &args, "10.99.0.9", NULL);
        assert_true(qemu_uses(f, "z-first"));
        assert_true(qemu_uses(f, "a-second"));
        assert_true(read_domain(f, &xml));
        at = xml;
        for (size_t i = 0; i < ELEMENTSOF(order); i++) {
                at = strstr(at, order[i]);
                if (!at)
                        fail_msg("no %s behind what comes before it in:\n%s", order[i], xml);
        }

        delete(f, "");
        assert_nothing_left(f);
        run("test $(stat -c %%s %s/z-first) = 1048576 -a $(stat -c %%s %s/a-second) = 2097152", f->images, f->images);
}

static void a_disk_that_cannot_be_attached_ends_the_create(void **state) {
        static const struct {
                const char *volume, *error, *text;
        } cases[] = {
                { "missing", PEERPOD_ERROR_FAILED_PRECONDITION, "/missing' cannot be used: No such file or directory" },
                { "roots", PEERPOD_ERROR_FAILED_PRECONDITION, "/roots' cannot be used: Permission denied" },
                { "podvm-base.qcow2", PEERPOD_ERROR_INVALID_ARGUMENT, "is the base image" },
                { "../podvm-base.qcow2", PEERPOD_ERROR_INVALID_ARGUMENT, "is neither a volume's name nor a block device" },
                { "/etc/passwd", PEERPOD_ERROR_INVALID_ARGUMENT, "is neither a volume's name nor a block device" },
                { "/dev/../etc/passwd", PEERPOD_ERROR_INVALID_ARGUMENT, "is neither a volume's name nor a block device" },
                { "/dev/null", PEERPOD_ERROR_FAILED_PRECONDITION, "'/dev/null' is no block device" },
        };
        Fixture *f = *state;

        run("install -m 0600 /dev/null %s/roots", f->images);
        start(f, NULL);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                CreateArgs args = args1;

                args.volumes[0] = cases[i].volume;
                assert_null(call_and_unref(f->bus, create_call(f->bus, &args), TIMEOUT, &error));
                if (!streq(error.name, cases[i].error) || !strstr(error.message, cases[i].text))
                        fail_msg("'%s' gives %s: %s", cases[i].volume, error.name, error.message);
                assert_nothing_left(f);
        }
}

static void others_instance_is_left_alone(void **state) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CreateArgs stranger = args1;
        Fixture *f = *state;

        start(f, NULL);
        create_running(f, "10.99.0.8", NULL);
        assert_null(call_and_unref(f->bus, delete_call(f->bus, "sandbox2", NAME, ""), TIMEOUT, &error));
        assert_string_equal(error.name, PEERPOD_ERROR_FAILED_PRECONDITION);
        sd_bus_error_free(&error);
        stranger.sandbox_id = "sandbox2";
        assert_null(call_and_unref(f->bus, create_call(f->bus, &stranger), TIMEOUT, &error));
        assert_string_equal(error.name, PEERPOD_ERROR_ALREADY_EXISTS);
        assert_int_equal(find_qemu(f, NULL), 1);
        delete(f, "");
        assert_nothing_left(f);
}

static void delete_while_it_boots(void **state) {
        sd_bus_message *create, *del;
        Fixture *f = *state;

        start(f, NULL);
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &create);
        WAIT_UNTIL(find_qemu(f, NULL) == 1);
        send_async(f->bus, delete_call(f->bus, "sandbox1", NAME, ""), TIMEOUT, &del);
        process_until(f->bus, TIMEOUT, &create);
        assert_string_equal(error_of(create), "Cancelled");
        process_until(f->bus, TIMEOUT, &del);
        assert_string_equal(error_of(del), "none");
        assert_nothing_left(f);
        sd_bus_message_unref(create);
        sd_bus_message_unref(del);
}

static void no_address_in_time(void **state) {
        sd_bus_message *create;
        Fixture *f = *state;

        start(f, (const char*[]) { "--create-timeout", "15s", NULL });
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &create);
        process_until(f->bus, TIMEOUT, &create);
        assert_string_equal(error_of(create), "TimedOut");
        assert_non_null(strstr(sd_bus_message_get_error(create)->message, "network 'pptest0'"));
        assert_nothing_left(f);
        sd_bus_message_unref(create);
}

static void vm_that_dies_ends_the_wait(void **state) {
        sd_bus_message *create;
        Fixture *f = *state;
        pid_t pid;

        start(f, NULL);
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &create);
        WAIT_UNTIL(has_tap() && find_qemu(f, &pid) == 1);
        (void) poll(NULL, 0, 1000);             /* until libvirt holds its monitor: before that it is a failed start */
        assert_int_equal(kill(pid, SIGKILL), 0);
        process_until(f->bus, TIMEOUT, &create);
        assert_string_equal(error_of(create), "Internal");
        assert_nothing_left(f);
        sd_bus_message_unref(create);
}

typedef struct Failure {
        const char *title;
        const char *image;
        const char *args[3];
        const char *error, *text;
} Failure;

static const Failure failures[] = {
        { "image that is not there", "nosuch.qcow2", {}, "FailedPrecondition", "nosuch.qcow2" },
        { "image outside of the directory", "../../../etc/passwd", {}, "InvalidArgument", "no name of a base image" },
        { "another instance's disk", "podvm-x-root.qcow2", {}, "InvalidArgument", "no name of a base image" },
        { "image that is none", "empty", {}, "FailedPrecondition", "neither a raw nor a qcow2" },
        { "network that is not there", NULL, { "--network-name", "nosuch0" }, "FailedPrecondition", "no bridge 'nosuch0'" },
        { "network that is no bridge", NULL, { "--network-name", "lo" }, "FailedPrecondition", "lo" },
        { "firmware that is not there", NULL, { "--firmware", "/nosuch.fd" }, "FailedPrecondition", "/nosuch.fd" },
        { "confidential VM on this machine", NULL, { "--disable-cvm=false" }, "FailedPrecondition", "confidential" },
};

static void failed_create_leaves_nothing(void **state) {
        Fixture *f = *state;

        run("touch %s/empty", f->images);
        for (size_t i = 0; i < ELEMENTSOF(failures); i++) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                CreateArgs a = args1;

                a.image = failures[i].image;
                start(f, failures[i].args);
                assert_null(call_and_unref(f->bus, create_call(f->bus, &a), TIMEOUT, &error));
                print_message("%s: %s: %s\n", failures[i].title, error.name, error.message);
                assert_string_equal(error.name + strlen(PEERPOD_ERROR_PREFIX), failures[i].error);
                assert_non_null(strstr(error.message, failures[i].text));
                assert_nothing_left(f);
                stop(f, SIGTERM);
        }
}

static void killed_daemon_finds_its_vm_again(void **state) {
        const char *sandbox, *name, *id;
        sd_bus_message *reply = NULL;
        char first[64];
        Fixture *f = *state;
        pid_t before, after;

        start(f, NULL);
        create_running(f, "10.99.0.9", first);
        assert_int_equal(find_qemu(f, &before), 1);
        stop(f, SIGKILL);
        assert_int_equal(find_qemu(f, &after), 1);

        start(f, NULL);
        assert_int_equal(find_qemu(f, &after), 1);
        assert_int_equal(before, after);
        assert_int_equal(count_instances(f->bus, "node1", &sandbox, &name, &id, &reply), 1);
        assert_string_equal(id, first);
        sd_bus_message_unref(reply);
        create_running(f, "10.99.0.9", NULL);
        delete(f, first);
        assert_nothing_left(f);
}

/* What a kill leaves that comes while libvirt looks at what QEMU can do: a QEMU like any other, without a machine. */
static void a_probe_that_its_daemon_did_not_survive_is_ended(void **state) {
        char directory[128];
        Fixture *f = *state;

        (void) snprintf(directory, sizeof(directory), "%s/embed/lib/qemu/qmp-TEST01", f->state);
        run("mkdir -p %s && chown -R " USER ":" USER " %s", directory, f->state);
        run("setpriv --reuid " USER " --regid " USER " --clear-groups qemu-system-x86_64 -S -no-user-config -nodefaults -nographic "
            "-machine none -qmp unix:%s/qmp.monitor,server=on,wait=off -pidfile %s/qmp.pid -daemonize", directory, directory);
        assert_int_equal(find_qemu(f, NULL), 1);

        start(f, NULL);
        WAIT_UNTIL(find_qemu(f, NULL) == 0);
        assert_int_equal(access(directory, F_OK), -1);
        stop(f, SIGTERM);
        assert_nothing_left(f);
}

static void daemon_killed_in_the_middle_of_a_create(void **state) {
        Fixture *f = *state;

        /* At whatever step the kill meets it: the next create of the name, or a delete, gets over it. */
        for (int i = 0; i < 4; i++) {
                sd_bus_message *create;
                _cleanup_(freep) char *xml = NULL;

                start(f, NULL);
                send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &create);
                if (i < 2)
                        WAIT_UNTIL(read_domain(f, &xml));
                else
                        WAIT_UNTIL(find_qemu(f, NULL) == 1);
                stop(f, SIGKILL);
                if (i == 1)     /* what it leaves if it was about to start QEMU, or wrote a file; another kill may or may not meet that */
                        run("cd %s && mkdir -p embed/run/qemu instances/" NAME " && touch embed/run/qemu/" NAME ".pid embed/run/qemu/" NAME ".xml.new "
                            "embed/etc/qemu/" NAME ".xml.new instances/" NAME "/nvram.fd.new && chown -R " USER " instances/" NAME, f->state);

                start(f, NULL);
                assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 1);
                if (i % 2 == 0)
                        create_running(f, "10.99.0.10", NULL);
                delete(f, "");
                assert_nothing_left(f);
                stop(f, SIGTERM);
        }
}

static void stop_of_the_service_keeps_running_vms(void **state) {
        char id[64];
        Fixture *f = *state;

        start(f, NULL);
        create_running(f, "10.99.0.11", id);
        stop(f, SIGTERM);
        assert_int_equal(find_qemu(f, NULL), 1);
        start(f, NULL);
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 1);
        /* What libvirt leaves of a start that was cut off early */
        run("mkdir %s/embed/lib/qemu/domain-999-" NAME " %s/embed/run/qemu/channel/999-" NAME, f->state, f->state);
        delete(f, id);
        assert_nothing_left(f);
}

/* The service's user, with the one capability that the unit's drop-in gives. */
static void write_wrapper(void) {
        char script[1024];

        strcpy(wrapper, "/tmp/pplv-daemon-XXXXXX");
        close_fd(mkstemp(wrapper));
        (void) snprintf(script, sizeof(script),
                        "#!/bin/sh\n"
                        "exec setpriv --reuid " USER " --regid " USER " --clear-groups --no-new-privs --inh-caps +net_admin"
                        " --ambient-caps +net_admin --bounding-set -all,+net_admin %s \"$@\"\n", program);
        assert_int_equal(write_file_atomic(wrapper, script, strlen(script), 0755), 0);
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
                TEST(created_found_joined_deleted),
                TEST(a_pods_disks_are_behind_the_root_disk_in_their_order),
                TEST(a_disk_that_cannot_be_attached_ends_the_create),
                TEST(others_instance_is_left_alone),
                TEST(delete_while_it_boots),
                TEST(no_address_in_time),
                TEST(vm_that_dies_ends_the_wait),
                TEST(failed_create_leaves_nothing),
                TEST(killed_daemon_finds_its_vm_again),
                TEST(a_probe_that_its_daemon_did_not_survive_is_ended),
                TEST(daemon_killed_in_the_middle_of_a_create),
                TEST(stop_of_the_service_keeps_running_vms),
        };
        int r;

        if (argc < 3) {
                fprintf(stderr, "Usage: %s PEERPOD-PROVIDERD LIBVIRT.SO [TEST]\n", argv[0]);
                return 2;
        }
        if (geteuid() != 0 || access("/dev/net/tun", F_OK) < 0 || unshare(CLONE_NEWNET) < 0) {
                fprintf(stderr, "Needs root and /dev/net/tun.\n");
                return 77;
        }
        program = argv[1];
        module_file = argv[2];
        if (argc > 3)
                cmocka_set_test_filter(argv[3]);

        if (system("ip link set lo up && ip link add pptest0 type bridge && ip link set pptest0 up && ip addr add 10.99.0.1/24 dev pptest0") != 0 ||
            setenv("LIBVIRT_NET", "pptest0", 1) < 0 || setenv("LIBVIRT_MEMORY", "256", 1) < 0 || setenv("LIBVIRT_CPU", "1", 1) < 0)
                return 1;
        write_wrapper();
        r = cmocka_run_group_tests(tests, NULL, NULL);
        (void) unlink(wrapper);
        return r;
}
