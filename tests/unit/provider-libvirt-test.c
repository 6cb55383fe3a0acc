/* SPDX-License-Identifier: Apache-2.0 */
/* The libvirt module's parts that need no libvirt: domain XML, addresses, images, names. */
#include <fcntl.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <syslog.h>
#include <unistd.h>

#include <cmocka.h>

#include "libvirt-address.h"
#include "libvirt-command.h"
#include "libvirt-domain.h"
#include "libvirt-storage.h"
#include "libvirt-tap.h"

static const DomainSpec plain = {
        .name = "podvm-a-1", .sandbox_id = "sb1", .node = "node1", .arch = "x86_64", .vcpus = 2, .memory_mib = 2048,
        .firmware = "/usr/share/OVMF/OVMF_CODE_4M.fd", .nvram = "/x/nvram.fd", .root = "/x/root.qcow2", .seed = "/x/seed.iso",
        .network = "br0", .tap = "ppv1", .mac = "52:54:00:12:34:56", .serial_log = "/x/console.log",
};

static xmlNodePtr child(xmlNodePtr n, const char *name) {
        for (n = n ? n->children : NULL; n; n = n->next)
                if (n->type == XML_ELEMENT_NODE && strcmp((const char*) n->name, name) == 0)
                        return n;
        return NULL;
}

/* Everything that is written comes back as it was, whatever it holds: no text can become an element of its own. */
static void any_text_survives(void **state) {
        static const char *const texts[] = {
                "plain", "<a/>", "a'b\"c", "&amp;", "]]>", "'/><devices><disk/></devices><x y='", "\xc3\xa4\xe2\x82\xac", " blanks ",
        };

        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
                DomainSpec s = plain;
                char *xml = NULL;
                xmlNodePtr root, disk, owner;
                xmlChar *value;
                xmlDocPtr doc;

                s.sandbox_id = s.root = s.name = s.firmware = s.cpuset = texts[i];
                assert_int_equal(domain_xml_write(&s, &xml), 0);
                doc = xmlReadMemory(xml, strlen(xml), NULL, NULL, XML_PARSE_NONET);
                assert_non_null(doc);
                root = xmlDocGetRootElement(doc);

                value = xmlNodeGetContent(child(root, "name"));
                assert_string_equal((const char*) value, texts[i]);
                xmlFree(value);
                disk = child(child(root, "devices"), "disk");
                value = xmlGetNoNsProp(child(disk, "source"), (const xmlChar*) "file");
                assert_string_equal((const char*) value, texts[i]);
                xmlFree(value);
                owner = child(child(root, "metadata"), "owner");
                value = xmlGetNoNsProp(owner, (const xmlChar*) "sandbox");
                assert_string_equal((const char*) value, texts[i]);
                xmlFree(value);
                assert_string_equal((const char*) owner->ns->href, OWNER_NAMESPACE);
                xmlFreeDoc(doc);
                free(xml);
        }
}

static void what_xml_cannot_hold_is_refused(void **state) {
        for (const char *const *t = (const char*[]) { "a\nb", "\x01", "\x7f", "\xff\xfe", "\xc3", NULL }; *t; t++) {
                DomainSpec s = plain;
                char *xml = NULL;

                s.network = "n";
                s.tap = NULL;
                s.sandbox_id = *t;
                assert_int_equal(domain_xml_write(&s, &xml), -EINVAL);
                assert_null(xml);
        }
}

static void volumes_are_between_root_and_seed(void **state) {
        DomainSpec s = plain;
        char *xml = NULL;

        s.volumes = (char*[]) { (char*) "/pool/b", (char*) "/dev/sdq", NULL };
        assert_int_equal(domain_xml_write(&s, &xml), 0);
        assert_non_null(strstr(xml, "<source file=\"/pool/b\"/><driver name=\"qemu\" type=\"raw\" discard=\"unmap\"/>"
                                    "<target dev=\"vdb\" bus=\"virtio\"/></disk>"
                                    "<disk type=\"block\" device=\"disk\"><source dev=\"/dev/sdq\"/>"));
        assert_non_null(strstr(xml, "<source file=\"/x/seed.iso\"/><driver name=\"qemu\" type=\"raw\"/><target dev=\"vdd\" bus=\"virtio\"/>"));
        free(xml);
}

static void xml_is_as_the_machine_needs(void **state) {
        DomainSpec s = plain;
        char *xml = NULL;

        assert_int_equal(domain_xml_write(&s, &xml), 0);
        assert_non_null(strstr(xml, "<domain type=\"qemu\">"));
        assert_non_null(strstr(xml, "machine=\"q35\""));
        assert_non_null(strstr(xml, "<loader readonly=\"yes\" secure=\"no\" type=\"pflash\">/usr/share/OVMF/OVMF_CODE_4M.fd</loader>"));
        assert_non_null(strstr(xml, "Nehalem"));                        /* an unknown QEMU's "max" is not trusted */
        assert_non_null(strstr(xml, "<boot order=\"1\"/>"));
        assert_non_null(strstr(xml, "<rom enabled=\"no\"/>"));
        assert_non_null(strstr(xml, "<target dev=\"ppv1\" managed=\"no\"/>"));
        assert_non_null(strstr(xml, "<on_reboot>destroy</on_reboot>"));
        assert_null(strstr(xml, "firmware=\"efi\""));
        free(xml);

        s.cpu_maximum = true;
        s.firmware = "";
        assert_int_equal(domain_xml_write(&s, &xml), 0);
        assert_non_null(strstr(xml, "<cpu mode=\"maximum\"/>"));
        assert_null(strstr(xml, "loader"));
        free(xml);

        s = plain;
        s.kvm = true;
        s.pool = "p";
        s.tap = NULL;
        s.cpuset = "0-3";
        s.serial_log = NULL;
        s.root = "a-root.qcow2";
        assert_int_equal(domain_xml_write(&s, &xml), 0);
        assert_non_null(strstr(xml, "<domain type=\"kvm\">"));
        assert_non_null(strstr(xml, "host-model"));
        assert_non_null(strstr(xml, "<source pool=\"p\" volume=\"a-root.qcow2\"/>"));
        assert_non_null(strstr(xml, "<source network=\"br0\"/>"));
        assert_non_null(strstr(xml, "<vcpu cpuset=\"0-3\">2</vcpu>"));
        free(xml);

        s.arch = "s390x";
        s.s390_pv = true;
        assert_int_equal(domain_xml_write(&s, &xml), 0);
        assert_non_null(strstr(xml, "<launchSecurity type=\"s390-pv\"/>"));
        assert_null(strstr(xml, "acpi"));
        free(xml);

        s.arch = "aarch64";
        s.s390_pv = false;
        assert_int_equal(domain_xml_write(&s, &xml), 0);
        assert_non_null(strstr(xml, "<os firmware=\"efi\">"));
        assert_non_null(strstr(xml, "host-passthrough"));
        free(xml);
}

/* A killed service's qemu-img, which still runs while the next service removes what it made: the root disk comes back once, after it
 * was removed. Its temporary file keeps the directory from going until then. */
typedef struct Straggler {
        char directory[32], root[48], temporary[48];
} Straggler;

static void* straggle(void *userdata) {
        Straggler *s = userdata;

        while (access(s->root, F_OK) >= 0)
                (void) poll(NULL, 0, 1);
        (void) close(open(s->root, O_WRONLY|O_CREAT|O_CLOEXEC, 0600));
        (void) unlink(s->temporary);
        return NULL;
}

static void a_disk_that_comes_back_once_is_removed_again(void **state) {
        Straggler s = { .directory = "/tmp/peerpod-storage-XXXXXX" };
        PeerpodCall call = { .size = sizeof(call), .cancel_fd = -1, .deadline_usec = peerpod_now_usec() + 30 * USEC_PER_SEC };
        PeerpodError error = { .size = sizeof(error) };
        Storage storage;
        pthread_t thread;
        int r;

        assert_non_null(mkdtemp(s.directory));
        (void) snprintf(s.root, sizeof(s.root), "%s/root.qcow2", s.directory);
        (void) snprintf(s.temporary, sizeof(s.temporary), "%s/temporary", s.directory);
        assert_int_equal(close(open(s.root, O_WRONLY|O_CREAT|O_CLOEXEC, 0600)), 0);
        assert_int_equal(close(open(s.temporary, O_WRONLY|O_CREAT|O_CLOEXEC, 0600)), 0);
        storage = (Storage) { .directory = s.directory, .root = s.root, .seed = s.root, .nvram = s.root, .serial_log = s.root,
                              .libvirt_log = s.root };

        assert_int_equal(pthread_create(&thread, NULL, straggle, &s), 0);
        r = storage_remove(&storage, &call, &error);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(r, 0);
        assert_int_equal(access(s.directory, F_OK), -1);
}

/* As libvirt 11.3 returns them. */
static void owner_is_read(void **state) {
        DomainOwner o = {};

        assert_int_equal(domain_owner_parse("<owner sandbox='a&amp;b' node='n1'/>", &o), 0);
        assert_string_equal(o.sandbox_id, "a&b");
        assert_string_equal(o.node, "n1");
        domain_owner_done(&o);
        assert_int_equal(domain_owner_parse("<p:owner xmlns:p='" OWNER_NAMESPACE "' sandbox='a' node='b'/>", &o), 0);
        domain_owner_done(&o);
        for (const char *const *x = (const char*[]) { "", "<", "<owner/>", "<owner sandbox='a'/>", "<other sandbox='a' node='b'/>",
                     "<!DOCTYPE owner [<!ENTITY e SYSTEM 'file:///etc/hostname'>]><owner sandbox='a'>&e;</owner>", NULL }; *x; x++)
                assert_int_equal(domain_owner_parse(*x, &o), -EBADMSG);
}

static void mac_is_read(void **state) {
        uint8_t m[6];

        assert_int_equal(domain_mac_parse("<domain><devices><interface type='x'><mac address='52:54:00:aB:cd:0f'/></interface></devices></domain>", m), 0);
        assert_memory_equal(m, "\x52\x54\x00\xab\xcd\x0f", 6);
        assert_int_equal(domain_mac_parse("<domain><devices/></domain>", m), -ENOENT);
        assert_int_equal(domain_mac_parse("<domain", m), -EBADMSG);
        for (const char *const *s = (const char*[]) { "", "52:54:00:ab:cd", "52:54:00:ab:cd:0f:00", "52-54-00-ab-cd-0f", "52:54:00:ab:cd:+f",
                     "525400abcd0f00000", NULL }; *s; s++)
                assert_int_equal(mac_parse(*s, m), -EINVAL);
}

static void useful_addresses_are_kept_in_order(void **state) {
        PeerpodInstance i = { .size = sizeof(i) };

        for (const char *const *a = (const char*[]) { "fe80::1", "2001:db8::1", "169.254.1.1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "::",
                     "10.0.0.2", "10.0.0.2", "x", "::ffff:10.0.0.9", "10.0.0.1", "2001:db8::2", NULL }; *a; a++)
                address_list_add(&i, *a);
        assert_int_equal(i.n_addresses, 4);
        assert_string_equal(i.addresses[0], "10.0.0.2");
        assert_string_equal(i.addresses[1], "10.0.0.1");
        assert_string_equal(i.addresses[2], "2001:db8::1");
        assert_string_equal(i.addresses[3], "2001:db8::2");

        for (int n = 0; n < 100; n++) {
                char text[32];

                snprintf(text, sizeof(text), "10.1.0.%i", n + 1);
                address_list_add(&i, text);
        }
        assert_int_equal(i.n_addresses, PEERPOD_ADDRESSES_MAX);
}

static void image_names_stay_in_their_directory(void **state) {
        for (const char *const *s = (const char*[]) { "podvm-base.qcow2", "a", "a b", NULL }; *s; s++)
                assert_true(image_name_is_valid(*s));
        for (const char *const *s = (const char*[]) { "", "/etc/shadow", "../x", ".", "..", ".hidden", "a/b", "a\n", "podvm-x-1-root.qcow2",
                     "podvm-x-1-cloudinit.iso", NULL }; *s; s++)
                assert_false(image_name_is_valid(*s));
}

static void images_are_recognized(void **state) {
        uint8_t header[72] = "QFI\xfb\0\0\0\3";
        int fd = memfd_create("image", MFD_CLOEXEC);
        uint64_t size = 0;
        bool qcow2;

        assert_int_equal(image_probe(fd, &qcow2, &size), -EBADMSG);     /* empty */
        assert_int_equal(pwrite(fd, "x", 1, 4095), 1);
        assert_int_equal(image_probe(fd, &qcow2, &size), 0);
        assert_false(qcow2);
        assert_int_equal(size, 4096);

        header[27] = 1;                 /* 4 GiB at offset 24, big-endian: docs/interop/qcow2.rst */
        assert_int_equal(pwrite(fd, header, sizeof(header), 0), sizeof(header));
        assert_int_equal(image_probe(fd, &qcow2, &size), 0);
        assert_true(qcow2);
        assert_int_equal(size, UINT64_C(1) << 32);

        assert_int_equal(ftruncate(fd, 71), 0);
        assert_int_equal(image_probe(fd, &qcow2, &size), -EBADMSG);
        close(fd);
        fd = open("/dev/null", O_RDONLY|O_CLOEXEC);
        assert_int_equal(image_probe(fd, &qcow2, &size), -EBADMSG);
        close(fd);
}

static void errors_say_whether_to_try_again(void **state) {
        static const struct {
                int domain, code;
                PeerpodErrorKind kind;
        } cases[] = {
                { VIR_FROM_RPC, VIR_ERR_INTERNAL_ERROR, PEERPOD_E_UNAVAILABLE },        /* the way to the daemon */
                { VIR_FROM_RPC, VIR_ERR_SYSTEM_ERROR, PEERPOD_E_UNAVAILABLE },
                { VIR_FROM_SSH, VIR_ERR_SSH, PEERPOD_E_UNAVAILABLE },
                { VIR_FROM_LIBSSH, VIR_ERR_LIBSSH, PEERPOD_E_UNAVAILABLE },
                { VIR_FROM_REMOTE, VIR_ERR_NO_CONNECT, PEERPOD_E_UNAVAILABLE },
                { VIR_FROM_QEMU, VIR_ERR_OPERATION_TIMEOUT, PEERPOD_E_UNAVAILABLE },
                { VIR_FROM_QEMU, VIR_ERR_INTERNAL_ERROR, PEERPOD_E_INTERNAL },          /* the daemon's own */
                { VIR_FROM_STORAGE, VIR_ERR_SYSTEM_ERROR, PEERPOD_E_INTERNAL },
                { VIR_FROM_LIBSSH, VIR_ERR_AUTH_FAILED, PEERPOD_E_UNAUTHENTICATED },
                { VIR_FROM_RPC, VIR_ERR_AUTH_UNAVAILABLE, PEERPOD_E_UNAUTHENTICATED },
                { VIR_FROM_ACCESS, VIR_ERR_ACCESS_DENIED, PEERPOD_E_UNAUTHENTICATED },
                { VIR_FROM_STORAGE, VIR_ERR_NO_STORAGE_POOL, PEERPOD_E_FAILED_PRECONDITION },
                { VIR_FROM_NETWORK, VIR_ERR_NO_NETWORK, PEERPOD_E_FAILED_PRECONDITION },
                { VIR_FROM_QEMU, VIR_ERR_CONFIG_UNSUPPORTED, PEERPOD_E_FAILED_PRECONDITION },
                { VIR_FROM_QEMU, VIR_ERR_NO_MEMORY, PEERPOD_E_EXHAUSTED },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                virError e = { .domain = cases[i].domain, .code = cases[i].code };

                assert_int_equal(libvirt_error_kind(&e, PEERPOD_E_INTERNAL), cases[i].kind);
        }
        assert_int_equal(libvirt_error_kind(NULL, PEERPOD_E_INTERNAL), PEERPOD_E_INTERNAL);
}

static void tap_names_fit_and_differ(void **state) {
        char a[IFNAMSIZ], b[IFNAMSIZ];

        tap_name_make("podvm-a-12345678", a);
        tap_name_make("podvm-a-12345679", b);
        assert_int_equal(strlen(a), IFNAMSIZ - 1);
        assert_string_not_equal(a, b);
        tap_name_make("podvm-a-12345678", b);
        assert_string_equal(a, b);
}

static void commands_are_bounded(void **state) {
        PeerpodError e = { .size = sizeof(e) };
        PeerpodCall call = { .size = sizeof(call), .cancel_fd = -1, .deadline_usec = peerpod_now_usec() + 30000000 };
        uint64_t begin;

        assert_int_equal(command_run(&call, (const char*[]) { "true", NULL }, &e), 0);
        assert_int_equal(command_run(&call, (const char*[]) { "sh", "-c", "echo first >&2; echo second >&2; exit 3", NULL }, &e), -EIO);
        assert_string_equal(e.text, "'sh' failed: first second");
        assert_true(command_run(&call, (const char*[]) { "no-such-program-here", NULL }, &e) < 0);
        assert_non_null(strstr(e.text, "no-such-program-here"));

        begin = peerpod_now_usec();
        call.deadline_usec = begin + 100000;
        assert_int_equal(command_run(&call, (const char*[]) { "sleep", "60", NULL }, &e), -ETIMEDOUT);
        assert_true(peerpod_now_usec() - begin < 20000000);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(any_text_survives),
                cmocka_unit_test(what_xml_cannot_hold_is_refused),
                cmocka_unit_test(xml_is_as_the_machine_needs),
                cmocka_unit_test(volumes_are_between_root_and_seed),
                cmocka_unit_test(a_disk_that_comes_back_once_is_removed_again),
                cmocka_unit_test(owner_is_read),
                cmocka_unit_test(mac_is_read),
                cmocka_unit_test(useful_addresses_are_kept_in_order),
                cmocka_unit_test(image_names_stay_in_their_directory),
                cmocka_unit_test(images_are_recognized),
                cmocka_unit_test(errors_say_whether_to_try_again),
                cmocka_unit_test(tap_names_fit_and_differ),
                cmocka_unit_test(commands_are_bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
