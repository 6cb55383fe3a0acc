/* SPDX-License-Identifier: Apache-2.0 */
#include "vsphere-soap.h"

#include <inttypes.h>
#include <stdio.h>

#include "basic/parse.h"
#include "basic/utf8.h"
#include "basic/util.h"
#include "cloud-xml.h"

#define NS_VIM "urn:vim25"
#define NS_XSI "http://www.w3.org/2001/XMLSchema-instance"
#define ENVELOPE "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"                                                                           \
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsi=\"" NS_XSI "\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">" \
        "<s:Body>"
#define ENVELOPE_END "</s:Body></s:Envelope>\n"
#define FIRST_SIZE 4096U

/* ---- writing ---- */

static void put(Soap *s, const char *text, size_t size) {
        if (s->failed)
                return;
        if (s->size + size + 1 > s->allocated) {
                size_t doubled = MAX(s->allocated * 2, (size_t) FIRST_SIZE), want = MAX(s->size + size + 1, doubled);
                char *bigger = malloc(want);

                if (!bigger) {
                        s->failed = true;
                        return;
                }
                if (s->size > 0)
                        memcpy(bigger, s->text, s->size);
                erase_free(s->text, s->allocated);
                s->text = bigger;
                s->allocated = want;
        }
        memcpy(s->text + s->size, text, size);
        s->size += size;
        s->text[s->size] = '\0';
}

static void put_text(Soap *s, const char *text) {
        put(s, text, strlen(text));
}

/* XML 1.0, section 2.2: no control characters but these, no U+FFFE and U+FFFF */
static bool is_char(uint32_t c) {
        return (c >= 0x20 || c == '\t' || c == '\n' || c == '\r') && c != 0xfffe && c != 0xffff;
}

static void put_escaped(Soap *s, const char *text) {
        for (size_t left = strlen(text), n; left > 0 && !s->failed; text += n, left -= n) {
                uint32_t c;

                n = utf8_decode(text, left, &c);
                if (n == 0 || !is_char(c)) {
                        s->failed = true;
                        return;
                }
                switch (c) {
                case '&':
                        put_text(s, "&amp;");
                        break;
                case '<':
                        put_text(s, "&lt;");
                        break;
                case '>':
                        put_text(s, "&gt;");
                        break;
                case '"':
                        put_text(s, "&quot;");
                        break;
                case '\r':              /* else it is a line end to the reader */
                        put_text(s, "&#13;");
                        break;
                default:
                        put(s, text, n);
                }
        }
}

static void put_attribute(Soap *s, const char *name, const char *value) {
        put_text(s, " ");
        put_text(s, name);
        put_text(s, "=\"");
        put_escaped(s, value);
        put_text(s, "\"");
}

static void put_start(Soap *s, const char *name, const char *attribute, const char *value) {
        put_text(s, "<");
        put_text(s, name);
        if (attribute)
                put_attribute(s, attribute, value);
        put_text(s, ">");
}

void soap_begin(Soap *s, const char *method, const Ref *this_object) {
        s->method = method;
        put_text(s, ENVELOPE);
        put_start(s, method, "xmlns", NS_VIM);
        soap_add_ref(s, "_this", this_object);
}

void soap_open(Soap *s, const char *name) {
        put_start(s, name, NULL, NULL);
}

void soap_open_typed(Soap *s, const char *name, const char *xsi_type) {
        put_start(s, name, "xsi:type", xsi_type);
}

void soap_close(Soap *s, const char *name) {
        put_text(s, "</");
        put_text(s, name);
        put_text(s, ">");
}

static void add(Soap *s, const char *name, const char *attribute, const char *attribute_value, const char *value) {
        put_start(s, name, attribute, attribute_value);
        put_escaped(s, value);
        soap_close(s, name);
}

void soap_add(Soap *s, const char *name, const char *value) {
        if (value)
                add(s, name, NULL, NULL, value);
}

void soap_add_uint(Soap *s, const char *name, uint64_t value) {
        char text[24];

        (void) snprintf(text, sizeof(text), "%" PRIu64, value);
        soap_add(s, name, text);
}

void soap_add_bool(Soap *s, const char *name, bool value) {
        soap_add(s, name, value ? "true" : "false");
}

void soap_add_ref(Soap *s, const char *name, const Ref *r) {
        if (ref_is_set(r))
                add(s, name, "type", r->type, r->id);
}

void soap_add_option(Soap *s, const char *key, const char *value) {
        soap_open(s, "extraConfig");
        soap_add(s, "key", key);
        add(s, "value", "xsi:type", "xsd:string", value);
        soap_close(s, "extraConfig");
}

const char* soap_text(Soap *s) {
        if (s->method) {
                soap_close(s, s->method);
                put_text(s, ENVELOPE_END);
                s->method = NULL;
        }
        return s->failed ? NULL : s->text;
}

void soap_done(Soap *s) {
        erase_free(s->text, s->allocated);
        *s = (Soap) {};
}

/* ---- reading ---- */

/* An attribute into a buffer; 1, 0 without it, -EBADMSG if it does not fit, -ENOMEM */
static int read_attribute(const xmlNode *n, const char *name, const char *ns, char *ret, size_t size) {
        const xmlAttr *a;
        xmlChar *text;
        size_t length;

        /* Asked for first, since the getters say nothing of why there is no text. */
        a = xmlHasNsProp(n, (const xmlChar*) name, (const xmlChar*) ns);
        if (!a)
                return 0;
        text = ns ? xmlGetNsProp(n, (const xmlChar*) name, (const xmlChar*) ns) : xmlGetNoNsProp(n, (const xmlChar*) name);
        if (!text)
                return -ENOMEM;
        length = strlen((const char*) text);
        if (length < size)
                memcpy(ret, text, length + 1);
        xmlFree(text);
        return length < size ? 1 : -EBADMSG;
}

int ref_read(const xmlNode *n, Ref *ret) {
        _cleanup_(freep) char *id = NULL;
        Ref r = {};
        int k;

        if (!n)
                return -ENOENT;
        id = xml_text(n, "");
        if (!id)
                return -ENOMEM;
        if (isempty(id))
                return -ENOENT;
        k = read_attribute(n, "type", NULL, r.type, sizeof(r.type));
        if (k < 0)
                return k;
        if (k == 0 || strlen(id) >= sizeof(r.id) || !text_is_plain(id, sizeof(r.id)) || !text_is_plain(r.type, sizeof(r.type)))
                return -EBADMSG;
        memcpy(r.id, id, strlen(id) + 1);
        *ret = r;
        return 0;
}

bool soap_type_is(const xmlNode *n, const char *type) {
        char text[FAULT_TYPE_SIZE];
        const char *colon;

        if (read_attribute(n, "type", NS_XSI, text, sizeof(text)) <= 0)
                return false;
        colon = strrchr(text, ':');
        return streq(colon ? colon + 1 : text, type);
}

static xmlNode* body_of(const xmlDoc *doc) {
        xmlNode *root = xmlDocGetRootElement(doc);

        return root && streq((const char*) root->name, "Envelope") ? xml_child(root, "Body") : NULL;
}

xmlNode* soap_answer(const xmlDoc *doc, const char *method) {
        xmlNode *body = body_of(doc);

        for (xmlNode *n = body ? body->children : NULL; n; n = n->next) {
                const char *rest = n->type == XML_ELEMENT_NODE ? startswith((const char*) n->name, method) : NULL;

                if (rest && streq(rest, "Response"))
                        return n;
        }
        return NULL;
}

static int read_words(const xmlNode *n, const char *path, Fault *f) {
        _cleanup_(freep) char *text = xml_text(n, path), *plain = text ? text_make_plain(text, sizeof(f->words) - 1) : NULL;

        if (!plain)
                return -ENOMEM;
        (void) snprintf(f->words, sizeof(f->words), "%s", plain);
        return 0;
}

/* @n is the fault itself: its type is what xsi:type says, or the element's name without "Fault". */
static int read_type(const xmlNode *n, Fault *f) {
        char type[FAULT_TYPE_SIZE] = "";
        const char *colon;
        Ref object = {};
        int r;

        r = read_attribute(n, "type", NS_XSI, type, sizeof(type));
        if (r == -ENOMEM)
                return r;
        if (r <= 0) {
                size_t size = strlen((const char*) n->name);

                if (size > 5 && streq((const char*) n->name + size - 5, "Fault"))
                        size -= 5;
                (void) snprintf(type, sizeof(type), "%.*s", (int) MIN(size, sizeof(type) - 1), (const char*) n->name);
        }
        colon = strrchr(type, ':');
        (void) snprintf(f->type, sizeof(f->type), "%s", colon ? colon + 1 : type);
        if (!text_is_plain(f->type, sizeof(f->type)))
                f->type[0] = '\0';
        r = ref_read(xml_child(n, "obj"), &object);
        if (r == -ENOMEM)
                return r;
        memcpy(f->object, object.id, sizeof(f->object));
        return 0;
}

int soap_fault(const xmlDoc *doc, Fault *ret) {
        xmlNode *body = body_of(doc), *fault = body ? xml_child(body, "Fault") : NULL, *detail;
        Fault f = {};
        int r;

        if (!fault)
                return 0;
        r = read_words(fault, "faultstring", &f);
        if (r < 0)
                return r;
        detail = xml_child(fault, "detail");
        for (xmlNode *n = detail ? detail->children : NULL; n; n = n->next)
                if (n->type == XML_ELEMENT_NODE) {
                        r = read_type(n, &f);
                        if (r < 0)
                                return r;
                        break;
                }
        *ret = f;
        return 1;
}

int fault_read(const xmlNode *n, Fault *ret) {
        xmlNode *fault = xml_child(n, "fault");
        Fault f = {};
        int r;

        r = read_words(n, "localizedMessage", &f);
        if (r == 0 && fault)
                r = read_type(fault, &f);
        if (r == 0)
                *ret = f;
        return r;
}

bool soap_lacks_session(const xmlNode *answer) {
        xmlNode *result = xml_child(answer, "returnval");

        for (xmlNode *o = xml_first(result, "objects"); o; o = xml_next(o, "objects"))
                for (xmlNode *m = xml_first(o, "missingSet"); m; m = xml_next(m, "missingSet")) {
                        xmlNode *fault = xml_child(m, "fault/fault");

                        if (fault && soap_type_is(fault, "NotAuthenticated"))
                                return true;
                }
        return false;
}

xmlNode* soap_property(const xmlNode *object, const char *path) {
        static const char *const sets[] = { "propSet", "changeSet" };

        for (size_t i = 0; i < ELEMENTSOF(sets); i++)
                for (xmlNode *p = xml_first(object, sets[i]); p; p = xml_next(p, sets[i])) {
                        _cleanup_(freep) char *name = xml_text(p, "name");

                        if (name && streq(name, path))
                                return xml_child(p, "val");
                }
        return NULL;
}
