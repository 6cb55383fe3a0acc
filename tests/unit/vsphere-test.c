/* SPDX-License-Identifier: Apache-2.0 */
/* The vSphere Web Services API without a vCenter: requests as they are written, answers as the simulator and vCenters spell them, URLs,
 * addresses, sizes, thumbprints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* After the others: it needs them. */
#include <cmocka.h>

#include "basic/util.h"
#include "cloud-thumbprint.h"
#include "cloud-xml.h"
#include "vsphere.h"

/* As the simulator of vmware/govmomi spells it: the prefix of XML Schema's instances is declared where it is used, under a name of its own. */
#define ENVELOPE(body) "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" "   \
        "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>" body "</soapenv:Body></soapenv:Envelope>"
#define XSI(type) " xmlns:_XMLSchema-instance=\"http://www.w3.org/2001/XMLSchema-instance\" _XMLSchema-instance:type=\"" type "\""

static xmlDoc* parse(const char *text) {
        xmlDoc *doc = NULL;

        assert_int_equal(xml_parse(text, strlen(text), &doc), 0);
        return doc;
}

static void a_request_is_escaped(void **state) {
        const Ref clone = { "VirtualMachine", "vm-57" }, none = {};
        Soap s = {};

        soap_begin(&s, "CloneVM_Task", &clone);
        soap_add_ref(&s, "folder", &none);
        soap_add(&s, "name", "a<b>&\"c\"\r\n\xc3\xa4");
        soap_add(&s, "left-out", NULL);
        soap_open_typed(&s, "selectSet", "TraversalSpec");
        soap_add_bool(&s, "skip", false);
        soap_add_uint(&s, "n", UINT64_MAX);
        soap_close(&s, "selectSet");
        soap_add_option(&s, "guestinfo.userdata", "eA==");
        assert_string_equal(soap_text(&s),
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" "
                "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"><s:Body>"
                "<CloneVM_Task xmlns=\"urn:vim25\"><_this type=\"VirtualMachine\">vm-57</_this>"
                "<name>a&lt;b&gt;&amp;&quot;c&quot;&#13;\n\xc3\xa4</name>"
                "<selectSet xsi:type=\"TraversalSpec\"><skip>false</skip><n>18446744073709551615</n></selectSet>"
                "<extraConfig><key>guestinfo.userdata</key><value xsi:type=\"xsd:string\">eA==</value></extraConfig>"
                "</CloneVM_Task></s:Body></s:Envelope>\n");
        soap_done(&s);
}

static void what_no_xml_holds_is_refused(void **state) {
        static const char *const bad[] = { "\x01", "a\x1b", "\xff", "\xc0\x80", "\xed\xa0\x80", "\xef\xbf\xbe" };
        const Ref object = { "T", "t" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Soap s = {};

                soap_begin(&s, "Login", &object);
                soap_add(&s, "password", bad[i]);
                assert_null(soap_text(&s));
                soap_done(&s);
        }
}

static void a_fault_has_a_type_and_an_object(void **state) {
        xmlDoc *doc = parse(ENVELOPE("<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>gone\n</faultstring><detail>"
                                     "<ManagedObjectNotFoundFault xmlns=\"urn:vim25\" xsi:type=\"ManagedObjectNotFound\"><obj type=\"VirtualMachine\">vm-1</obj>"
                                     "</ManagedObjectNotFoundFault></detail></soapenv:Fault>"));
        const Ref vm = { "VirtualMachine", "vm-1" }, other = { "VirtualMachine", "vm-2" };
        Fault f = {};

        assert_int_equal(soap_fault(doc, &f), 1);
        assert_string_equal(f.type, "ManagedObjectNotFound");
        assert_string_equal(f.words, "gone");
        assert_true(fault_is_gone(&f, &vm));
        assert_false(fault_is_gone(&f, &other));
        assert_null(soap_answer(doc, "Destroy_Task"));
        xmlFreeDoc(doc);
}

static void a_fault_without_a_type_is_named_by_its_element(void **state) {
        xmlDoc *doc = parse(ENVELOPE("<soapenv:Fault><faultstring/><detail><InvalidLoginFault xmlns=\"urn:vim25\"/></detail></soapenv:Fault>"));
        Fault f = {};

        assert_int_equal(soap_fault(doc, &f), 1);
        assert_string_equal(f.type, "InvalidLogin");
        xmlFreeDoc(doc);
}

static void a_tasks_failure_is_read_under_any_prefix(void **state) {
        xmlDoc *doc = parse(ENVELOPE("<RetrievePropertiesExResponse xmlns=\"urn:vim25\"><returnval><objects><obj type=\"Task\">task-1</obj>"
                                     "<propSet><name>info.error</name><val" XSI("LocalizedMethodFault") "><fault _XMLSchema-instance:type=\"vim25:DuplicateName\">"
                                     "<name>x</name><object type=\"VirtualMachine\">vm-2</object></fault><localizedMessage>There is one.</localizedMessage></val></propSet>"
                                     "</objects></returnval></RetrievePropertiesExResponse>"));
        xmlNode *object = xml_child(soap_answer(doc, "RetrievePropertiesEx"), "returnval/objects");
        Fault f = {};
        Ref r;

        assert_int_equal(fault_read(soap_property(object, "info.error"), &f), 0);
        assert_string_equal(f.type, "DuplicateName");
        assert_string_equal(f.words, "There is one.");
        assert_int_equal(ref_read(xml_child(object, "obj"), &r), 0);
        assert_string_equal(r.id, "task-1");
        assert_int_equal(ref_read(soap_property(object, "info.result"), &r), -ENOENT);
        assert_false(soap_lacks_session(soap_answer(doc, "RetrievePropertiesEx")));
        xmlFreeDoc(doc);
}

static void properties_left_out_for_want_of_a_session_are_noticed(void **state) {
        xmlDoc *doc = parse(ENVELOPE("<RetrievePropertiesExResponse xmlns=\"urn:vim25\"><returnval><objects><obj type=\"Task\">task-1</obj>"
                                     "<missingSet><path>info.state</path><fault><fault xsi:type=\"NotAuthenticated\"/><localizedMessage/></fault></missingSet>"
                                     "</objects></returnval></RetrievePropertiesExResponse>"));

        assert_true(soap_lacks_session(soap_answer(doc, "RetrievePropertiesEx")));
        xmlFreeDoc(doc);
}

static void references_are_opaque_but_bounded(void **state) {
        static const struct {
                const char *text;
                int result;
        } cases[] = {
                { "<r type=\"Datastore\">/tmp/govcsim-DC0-LocalDS_0@folder-5</r>", 0 },
                { "<r type=\"Datastore\"/>", -ENOENT },
                { "<r>datastore-1</r>", -EBADMSG },
                { "<r type=\"Datastore\">a\tb</r>", -EBADMSG },
                { "<r type=\"TypeThatIsLongerThanAnyTypeOfTheApiCouldEverBeExpected\">x</r>", -EBADMSG },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                xmlDoc *doc = parse(cases[i].text);
                Ref r = {};

                assert_int_equal(ref_read(xmlDocGetRootElement(doc), &r), cases[i].result);
                xmlFreeDoc(doc);
        }
}

#define NIC(key, addresses) "<GuestNicInfo>" addresses "<connected>true</connected><deviceConfigId>" key "</deviceConfigId></GuestNicInfo>"
#define IP(a) "<ipAddress>" a "</ipAddress>"

static void addresses_are_one_of_each_interface_first(void **state) {
        static const struct {
                const char *nics;
                size_t n;
                const char *expected;
        } cases[] = {
                { "", 0, "" },
                { NIC("4000", IP("10.0.0.1")), 1, "10.0.0.1 " },
                { NIC("4000", IP("fe80::1") IP("169.254.3.4") IP("127.0.0.1") IP("0.0.0.0") IP("224.0.0.1") IP("::1") IP("ff02::1") IP("nonsense")), 0, "" },
                { NIC("4000", IP("2001:db8::1") IP("10.0.0.1")), 1, "10.0.0.1 2001:db8::1 " },
                { NIC("4001", IP("10.0.1.1")) NIC("-1", IP("172.17.0.1")) NIC("4000", IP("2001:db8::1")), 2, "2001:db8::1 10.0.1.1 " },
                { NIC("4000", IP("10.0.0.1") IP("10.0.0.2")) NIC("4001", IP("10.0.1.1") IP("10.0.0.2")), 2, "10.0.0.1 10.0.1.1 10.0.0.2 " },
                { "<GuestNicInfo>" IP("10.0.0.1") "</GuestNicInfo>", 0, "" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                PeerpodInstance instance = { .size = sizeof(instance) };
                char text[2048], found[1024] = "";
                xmlDoc *doc;

                (void) snprintf(text, sizeof(text), "<val>%s</val>", cases[i].nics);
                doc = parse(text);
                assert_int_equal(guest_addresses(xmlDocGetRootElement(doc), &instance), cases[i].n);
                for (size_t k = 0; k < instance.n_addresses; k++) {
                        strcat(found, instance.addresses[k]);
                        strcat(found, " ");
                }
                assert_string_equal(found, cases[i].expected);
                xmlFreeDoc(doc);
        }
}

static void a_url_may_lack_scheme_and_path(void **state) {
        static const struct {
                const char *value, *url;
        } cases[] = {
                { "vc.example.org", "https://vc.example.org/sdk" },
                { "vc.example.org:8443/", "https://vc.example.org:8443/sdk" },
                { "https://user:p%40ss@vc.example.org/sdk/", "https://vc.example.org/sdk" },
                { "http://[::1]:80", "http://[::1]:80/sdk" },
                { "https://vc/other", "https://vc/other" },
                { "ftp://vc", NULL },
                { "https://", NULL },
                { "https://a b", NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) char *url = NULL;

                assert_int_equal(vsphere_url(cases[i].value, &url), cases[i].url ? 0 : -EINVAL);
                if (cases[i].url)
                        assert_string_equal(url, cases[i].url);
        }
}

static void a_type_is_cpus_and_gib(void **state) {
        static const struct {
                const char *type;
                uint32_t vcpus;
                uint64_t memory_mib;
                Size size;              /* zeros: refused, or the template's */
                int result;
        } cases[] = {
                { "",        0, 0,    { 0, 0 },       0 },
                { "",        3, 1000, { 3, 1000 },    0 },
                { "",        0, 1001, { 0, 1004 },    0 },
                { "4x16",    1, 1,    { 4, 16384 },   0 },
                { "1x0.5",   0, 0,    { 1, 512 },     0 },
                { "1x0.001", 0, 0,    { 1, 4 },       0 },
                { "1x0",     0, 0,    {},             -EINVAL },
                { "1x",      0, 0,    {},             -EINVAL },
                { "1x1.",    0, 0,    {},             -EINVAL },
                { "1x.5",    0, 0,    {},             -EINVAL },
                { "1X1",     0, 0,    {},             -EINVAL },
                { "961x1",   0, 0,    {},             -EINVAL },
                { "1x99999999999", 0, 0, {},          -EINVAL },
                { "",        4000, 1, {},             -EINVAL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const PeerpodInstanceSpec spec = { .size = sizeof(spec), .machine_type = cases[i].type, .vcpus = cases[i].vcpus, .memory_mib = cases[i].memory_mib };
                PeerpodError error = { .size = sizeof(error) };
                Size size = {};

                assert_int_equal(size_choose(&spec, &size, &error), cases[i].result);
                assert_int_equal(size.cpus, cases[i].size.cpus);
                assert_int_equal(size.memory_mib, cases[i].size.memory_mib);
        }
}

static void a_thumbprint_is_sha1_or_sha256(void **state) {
        /* of no bytes at all (FIPS 180-4) */
        static const char sha1[] = "DA:39:A3:EE:5E:6B:4B:0D:32:55:BF:EF:95:60:18:90:AF:D8:07:09",
                sha256[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        static const char *const bad[] = { "", "DA", "DA:39", "DA39:A3", "da:39:a3:ee:5e:6b:4b:0d:32:55:bf:ef:95:60:18:90:af:d8:07:0", ":DA",
                                           "zz39a3ee5e6b4b0d3255bfef95601890afd80709", "DA:39:A3:EE:5E:6B:4B:0D:32:55:BF:EF:95:60:18:90:AF:D8:07:09:" };
        char text[THUMBPRINT_TEXT_SIZE];
        Thumbprint t;

        assert_int_equal(thumbprint_parse(sha1, &t), 0);
        assert_true(thumbprint_fits(&t, "", 0));
        assert_false(thumbprint_fits(&t, "x", 1));
        thumbprint_of(&t, "", 0, text);
        assert_string_equal(text, sha1);
        assert_int_equal(thumbprint_parse(sha256, &t), 0);
        assert_true(thumbprint_fits(&t, "", 0));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(thumbprint_parse(bad[i], &t), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_request_is_escaped),
                cmocka_unit_test(what_no_xml_holds_is_refused),
                cmocka_unit_test(a_fault_has_a_type_and_an_object),
                cmocka_unit_test(a_fault_without_a_type_is_named_by_its_element),
                cmocka_unit_test(a_tasks_failure_is_read_under_any_prefix),
                cmocka_unit_test(properties_left_out_for_want_of_a_session_are_noticed),
                cmocka_unit_test(references_are_opaque_but_bounded),
                cmocka_unit_test(addresses_are_one_of_each_interface_first),
                cmocka_unit_test(a_url_may_lack_scheme_and_path),
                cmocka_unit_test(a_type_is_cpus_and_gib),
                cmocka_unit_test(a_thumbprint_is_sha1_or_sha256),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
