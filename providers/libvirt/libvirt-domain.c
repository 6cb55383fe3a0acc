/* SPDX-License-Identifier: Apache-2.0 */
#include "libvirt-domain.h"

#include <errno.h>
#include <inttypes.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <libxml/xmlwriter.h>
#include <stdarg.h>
#include <stdio.h>

#include "basic/util.h"

#define XML_SIZE_MAX (4 * 1024 * 1024)          /* a domain's XML is a few KiB */

typedef struct Writer {
        xmlTextWriterPtr writer;
        bool failed;
} Writer;

/* XML 1.0 has no way to write control characters; and what is no UTF-8 would make the document unreadable. */
static bool text_is_writable(const char *s) {
        for (const char *p = s; *p; p++)
                if ((unsigned char) *p < 0x20 || *p == 0x7f)
                        return false;
        return xmlCheckUTF8((const xmlChar*) s) == 1;
}

static void begin(Writer *w, const char *name) {
        if (xmlTextWriterStartElement(w->writer, (const xmlChar*) name) < 0)
                w->failed = true;
}

static void end(Writer *w) {
        if (xmlTextWriterEndElement(w->writer) < 0)
                w->failed = true;
}

static void attribute(Writer *w, const char *name, const char *value) {
        if (!text_is_writable(value) ||
            xmlTextWriterWriteAttribute(w->writer, (const xmlChar*) name, (const xmlChar*) value) < 0)
                w->failed = true;
}

static void text(Writer *w, const char *value) {
        if (!text_is_writable(value) || xmlTextWriterWriteString(w->writer, (const xmlChar*) value) < 0)
                w->failed = true;
}

/* An element with attributes (name, value pairs that end with NULL) and no content. */
__attribute__((sentinel))
static void empty(Writer *w, const char *name, ...) {
        const char *key;
        va_list ap;

        begin(w, name);
        va_start(ap, name);
        while ((key = va_arg(ap, const char*)))
                attribute(w, key, va_arg(ap, const char*));
        va_end(ap);
        end(w);
}

static void text_element(Writer *w, const char *name, const char *value) {
        begin(w, name);
        text(w, value);
        end(w);
}

static void number_element(Writer *w, const char *name, const char *key, const char *value, uint64_t n) {
        char digits[24];

        (void) snprintf(digits, sizeof(digits), "%" PRIu64, n);
        begin(w, name);
        if (!isempty(value))
                attribute(w, key, value);
        text(w, digits);
        end(w);
}

static bool is_x86(const DomainSpec *s) {
        return streq(s->arch, "x86_64");
}

static bool is_s390(const DomainSpec *s) {
        return streq(s->arch, "s390x");
}

static void write_owner(Writer *w, const DomainSpec *s) {
        begin(w, "metadata");
        begin(w, OWNER_PREFIX ":owner");
        attribute(w, "xmlns:" OWNER_PREFIX, OWNER_NAMESPACE);
        attribute(w, "sandbox", s->sandbox_id);
        attribute(w, "node", s->node);
        end(w);
        end(w);
}

/* The loader is named by its path, without firmware='efi': libvirt 8.4 and older ignore a path beside autoselection, 9.0 refuses
 * it, and autoselection alone would take Debian's image with secure boot and its keys, which refuses ours. */
static void write_os(Writer *w, const DomainSpec *s) {
        begin(w, "os");
        if (streq(s->arch, "aarch64"))
                attribute(w, "firmware", "efi");
        begin(w, "type");
        attribute(w, "arch", s->arch);
        attribute(w, "machine", is_x86(s) ? "q35" : is_s390(s) ? "s390-ccw-virtio" : "virt");
        text(w, "hvm");
        end(w);
        if (is_x86(s) && !isempty(s->firmware)) {
                begin(w, "loader");
                attribute(w, "readonly", "yes");
                attribute(w, "secure", "no");
                attribute(w, "type", "pflash");
                text(w, s->firmware);
                end(w);
                if (s->nvram) {
                        begin(w, "nvram");
                        text(w, s->nvram);
                        end(w);
                }
        }
        end(w);
}

static void write_features(Writer *w, const DomainSpec *s) {
        if (is_s390(s))
                return;
        begin(w, "features");
        empty(w, "acpi", NULL);
        if (is_x86(s)) {
                empty(w, "apic", NULL);
                empty(w, "vmport", "state", "off", NULL);
        }
        end(w);
}

/* TCG: QEMU 7.2's "max" model was seen to corrupt flags of the guest, so a plain model where QEMU is not known to be good. */
static void write_cpu(Writer *w, const DomainSpec *s) {
        begin(w, "cpu");
        if (s->kvm)
                attribute(w, "mode", is_x86(s) || is_s390(s) ? "host-model" : "host-passthrough");
        else if (s->cpu_maximum || !is_x86(s))
                attribute(w, "mode", "maximum");
        else {
                attribute(w, "mode", "custom");
                attribute(w, "match", "exact");
                attribute(w, "check", "none");
                begin(w, "model");
                attribute(w, "fallback", "forbid");
                text(w, "Nehalem");
                end(w);
        }
        end(w);
}

static void begin_disk(Writer *w, const char *pool, const char *name) {
        bool block = startswith(name, "/dev/");

        begin(w, "disk");
        attribute(w, "type", block ? "block" : pool ? "volume" : "file");
        attribute(w, "device", "disk");
        if (block)
                empty(w, "source", "dev", name, NULL);
        else if (pool)
                empty(w, "source", "pool", pool, "volume", name, NULL);
        else
                empty(w, "source", "file", name, NULL);
}

/* The guest's kernel names them in this order, too: libvirt gives them PCI slots by it. */
static void write_disk_target(Writer *w, unsigned i) {
        char target[] = "vda";

        target[2] += i;
        empty(w, "target", "dev", target, "bus", "virtio", NULL);
}

/* The pod's disks are behind the root disk, where upstream's forwarder counts from, too (cloud-api-adaptor: pkg/forwarder/interceptor).
 * The seed comes last. It is a read-only virtio disk on all machines, and no CD-ROM as upstream has it: guests find it by its label
 * either way, but a CD-ROM may not have been probed yet when the guest looks. */
static void write_disks(Writer *w, const DomainSpec *s) {
        unsigned n = 0;

        begin_disk(w, s->pool, s->root);
        /* A pod VM's disk is of no use after a crash of the host: no flushing. */
        empty(w, "driver", "name", "qemu", "type", "qcow2", "cache", "unsafe", "discard", "unmap", NULL);
        write_disk_target(w, n++);
        empty(w, "boot", "order", "1", NULL);
        end(w);

        /* Always raw: what a pod has written must not be taken for an image's header, which may name files of this host. */
        for (char *const *volume = s->volumes; volume && *volume; volume++) {
                begin_disk(w, s->pool, *volume);
                empty(w, "driver", "name", "qemu", "type", "raw", "discard", "unmap", NULL);
                write_disk_target(w, n++);
                end(w);
        }

        begin_disk(w, s->pool, s->seed);
        empty(w, "driver", "name", "qemu", "type", "raw", NULL);
        write_disk_target(w, n);
        empty(w, "readonly", NULL);
        end(w);
}

static void write_interface(Writer *w, const DomainSpec *s) {
        begin(w, "interface");
        attribute(w, "type", s->tap ? "ethernet" : "network");
        empty(w, "mac", "address", s->mac, NULL);
        if (s->tap)
                empty(w, "target", "dev", s->tap, "managed", "no", NULL);
        else
                empty(w, "source", "network", s->network, NULL);
        empty(w, "model", "type", "virtio", NULL);
        /* Without an option ROM the firmware does not try to boot from the network, which would come first and last long. */
        if (!is_s390(s))
                empty(w, "rom", "enabled", "no", NULL);
        end(w);
}

static void write_console(Writer *w, const DomainSpec *s) {
        const char *element = is_s390(s) ? "console" : "serial";

        begin(w, element);
        attribute(w, "type", s->serial_log ? "file" : "pty");
        if (s->serial_log)
                empty(w, "source", "path", s->serial_log, NULL);
        if (is_s390(s))
                empty(w, "target", "type", "sclp", "port", "0", NULL);
        else
                empty(w, "target", "port", "0", NULL);
        end(w);
}

static void write_devices(Writer *w, const DomainSpec *s) {
        begin(w, "devices");
        empty(w, "controller", "type", "usb", "model", "none", NULL);   /* the firmware would look for keyboards */
        write_disks(w, s);
        write_interface(w, s);
        write_console(w, s);

        begin(w, "channel");
        attribute(w, "type", "unix");
        empty(w, "target", "type", "virtio", "name", "org.qemu.guest_agent.0", NULL);
        end(w);

        begin(w, "rng");
        attribute(w, "model", "virtio");
        begin(w, "backend");
        attribute(w, "model", "random");
        text(w, "/dev/urandom");
        end(w);
        end(w);

        empty(w, "memballoon", "model", "none", NULL);
        if (is_x86(s)) {
                begin(w, "video");
                empty(w, "model", "type", "none", NULL);
                end(w);
        }
        end(w);
}

static void write_domain(Writer *w, const DomainSpec *s) {
        begin(w, "domain");
        attribute(w, "type", s->kvm ? "kvm" : "qemu");

        text_element(w, "name", s->name);
        text_element(w, "description", "This Virtual Machine is the peer-pod VM");
        write_owner(w, s);
        number_element(w, "memory", "unit", "MiB", s->memory_mib);
        number_element(w, "vcpu", "cpuset", s->cpuset, s->vcpus);
        write_os(w, s);
        write_features(w, s);
        write_cpu(w, s);
        empty(w, "clock", "offset", "utc", NULL);
        /* A pod VM has nothing to come back to: its containers are gone. And one that panics, as on a corrupted root, would
         * boot over and over until the caller's deadline. */
        text_element(w, "on_reboot", "destroy");
        text_element(w, "on_crash", "destroy");
        write_devices(w, s);
        if (s->s390_pv)
                empty(w, "launchSecurity", "type", "s390-pv", NULL);
        end(w);
}

int domain_xml_write(const DomainSpec *s, char **ret) {
        xmlBufferPtr buffer = xmlBufferCreate();
        Writer w = {};
        int r = -ENOMEM;

        if (!buffer)
                return r;
        w.writer = xmlNewTextWriterMemory(buffer, 0);
        if (w.writer) {
                write_domain(&w, s);
                r = w.failed ? -EINVAL : 0;
                xmlFreeTextWriter(w.writer);    /* flushes */
        }
        if (r == 0) {
                *ret = strdup((const char*) xmlBufferContent(buffer));
                r = *ret ? 0 : -ENOMEM;
        }
        xmlBufferFree(buffer);
        return r;
}

/* No network, no entities, no warnings on stderr. */
static xmlDocPtr parse(const char *xml) {
        size_t size = strlen(xml);

        if (size > XML_SIZE_MAX)
                return NULL;
        return xmlReadMemory(xml, (int) size, NULL, NULL, XML_PARSE_NONET|XML_PARSE_NOERROR|XML_PARSE_NOWARNING);
}

static char* get_attribute(xmlNodePtr node, const char *name) {
        xmlChar *value = xmlGetNoNsProp(node, (const xmlChar*) name);
        char *copy;

        if (!value)
                return NULL;
        copy = strdup((const char*) value);
        xmlFree(value);
        return copy;
}

void domain_owner_done(DomainOwner *o) {
        free(o->sandbox_id);
        free(o->node);
        *o = (DomainOwner) {};
}

int domain_owner_parse(const char *xml, DomainOwner *ret) {
        _cleanup_(domain_owner_done) DomainOwner o = {};
        xmlDocPtr doc = parse(xml);
        xmlNodePtr root;
        int r = -EBADMSG;

        if (!doc)
                return r;
        root = xmlDocGetRootElement(doc);
        /* libvirt gives the element without its namespace's declaration, so only the local name can be compared. */
        if (root && xmlStrcmp(root->name, (const xmlChar*) "owner") == 0) {
                o.sandbox_id = get_attribute(root, "sandbox");
                o.node = get_attribute(root, "node");
                if (o.sandbox_id && o.node) {
                        *ret = o;
                        o = (DomainOwner) {};
                        r = 0;
                }
        }
        xmlFreeDoc(doc);
        return r;
}

int mac_parse(const char *s, uint8_t ret[static 6]) {
        unsigned v[6];
        int n = 0;

        if (strlen(s) != 17 || strspn(s, "0123456789abcdefABCDEF:") != 17 ||
            sscanf(s, "%2x:%2x:%2x:%2x:%2x:%2x%n", v, v + 1, v + 2, v + 3, v + 4, v + 5, &n) != 6 || n != 17)
                return -EINVAL;
        for (size_t i = 0; i < 6; i++)
                ret[i] = v[i];
        return 0;
}

static xmlNodePtr child(xmlNodePtr parent, const char *name) {
        for (xmlNodePtr n = parent ? parent->children : NULL; n; n = n->next)
                if (n->type == XML_ELEMENT_NODE && xmlStrcmp(n->name, (const xmlChar*) name) == 0)
                        return n;
        return NULL;
}

int domain_mac_parse(const char *xml, uint8_t ret[static 6]) {
        _cleanup_(freep) char *address = NULL;
        xmlDocPtr doc = parse(xml);
        xmlNodePtr mac;
        int r = -ENOENT;

        if (!doc)
                return -EBADMSG;
        mac = child(child(child(xmlDocGetRootElement(doc), "devices"), "interface"), "mac");
        if (mac) {
                address = get_attribute(mac, "address");
                r = address && mac_parse(address, ret) == 0 ? 0 : -EBADMSG;
        }
        xmlFreeDoc(doc);
        return r;
}
