/* SPDX-License-Identifier: Apache-2.0 */
/* What a vCenter says: answers, faults, objects with their properties, addresses of guests. The same tree goes to each reader. */
#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-xml.h"
#include "vsphere.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ref(const xmlNode *n) {
        Ref r = {};
        int k = ref_read(n, &r);

        assert(k == 0 || k == -ENOENT || k == -EBADMSG);
        assert((k == 0) == ref_is_set(&r));
        assert(k < 0 || text_is_plain(r.id, sizeof(r.id)));
}

static void check_fault(const Fault *f) {
        assert(text_is_plain(f->type, sizeof(f->type)) && text_is_plain(f->words, sizeof(f->words)) && text_is_plain(f->object, sizeof(f->object)));
}

/* What was read is written as it was read. */
static void check_writing(const xmlNode *n) {
        _cleanup_(freep) char *text = xml_text(n, "");
        const Ref object = { "ServiceInstance", "ServiceInstance" };
        xmlDoc *doc = NULL;
        const char *envelope;
        Soap s = {};

        assert(text);
        soap_begin(&s, "Login", &object);
        soap_add(&s, "userName", text);
        envelope = soap_text(&s);
        if (envelope) {
                _cleanup_(freep) char *again = NULL;

                assert(xml_parse(envelope, strlen(envelope), &doc) == 0);
                again = xml_text(xmlDocGetRootElement(doc), "Body/Login/userName");
                assert(again && streq(again, text));
                xmlFreeDoc(doc);
        }
        soap_done(&s);
}

static void try_object(const xmlNode *object) {
        PeerpodInstance instance = { .size = sizeof(instance) };
        char field[64];
        xmlNode *net = soap_property(object, "guest.net"), *error = soap_property(object, "info.error");
        Fault fault = {};
        size_t n;

        check_ref(xml_child(object, "obj"));
        check_ref(soap_property(object, "info.result"));
        assert(machine_field(object, PROPERTY_SANDBOX, "value", field, sizeof(field)) == 0 && strlen(field) < sizeof(field));
        if (error) {
                assert(fault_read(error, &fault) == 0);
                check_fault(&fault);
        }
        if (net) {
                n = guest_addresses(net, &instance);
                assert(n <= instance.n_addresses && instance.n_addresses <= PEERPOD_ADDRESSES_MAX);
                for (size_t i = 0; i < instance.n_addresses; i++)
                        assert(!isempty(instance.addresses[i]));
        }
}

static void try_all(const xmlNode *n) {
        for (; n; n = n->next)
                if (n->type == XML_ELEMENT_NODE) {
                        check_ref(n);
                        try_object(n);
                        try_all(n->children);
                }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const methods[] = { "RetrievePropertiesEx", "WaitForUpdatesEx", "CloneVM_Task" };
        Fault fault = {};
        xmlDoc *doc = NULL;

        if (xml_parse((const char*) data, size, &doc) < 0)
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(methods); i++) {
                xmlNode *answer = soap_answer(doc, methods[i]);

                if (answer)
                        (void) soap_lacks_session(answer);
        }
        if (soap_fault(doc, &fault) > 0)
                check_fault(&fault);
        check_writing(xmlDocGetRootElement(doc));
        try_all(xmlDocGetRootElement(doc));
        xmlFreeDoc(doc);
        return 0;
}
