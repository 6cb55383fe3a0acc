/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-xml.h"

#include <libxml/parser.h>

#include "basic/util.h"

#define XML_SIZE_MAX (16U << 20)

int xml_parse(const char *text, size_t size, xmlDoc **ret) {
        xmlParserCtxt *c;
        xmlDoc *d;
        int error;

        if (size == 0 || size > XML_SIZE_MAX)
                return -EBADMSG;
        c = xmlNewParserCtxt();
        if (!c)
                return -ENOMEM;
        d = xmlCtxtReadMemory(c, text, (int) size, NULL, NULL,
                              XML_PARSE_NONET|XML_PARSE_NOERROR|XML_PARSE_NOWARNING|XML_PARSE_NOCDATA|XML_PARSE_COMPACT);
        error = c->errNo;
        xmlFreeParserCtxt(c);
        if (!d)
                return error == XML_ERR_NO_MEMORY ? -ENOMEM : -EBADMSG;
        /* No cloud's answer has one; what it may do (entities) is not ours to find out. */
        if (xmlGetIntSubset(d) || !xmlDocGetRootElement(d)) {
                xmlFreeDoc(d);
                return -EBADMSG;
        }
        *ret = d;
        return 0;
}

static bool is_element(const xmlNode *n, const char *name, size_t size) {
        return n->type == XML_ELEMENT_NODE && strlen((const char*) n->name) == size && strncmp((const char*) n->name, name, size) == 0;
}

static xmlNode* search(xmlNode *n, const char *name, size_t size) {
        for (; n; n = n->next)
                if (is_element(n, name, size))
                        return n;
        return NULL;
}

xmlNode* xml_child(const xmlNode *parent, const char *path) {
        for (xmlNode *n = NULL; parent; parent = n) {
                size_t size = strcspn(path, "/");

                n = search(parent->children, path, size);
                if (!n || path[size] == '\0')
                        return n;
                path += size + 1;
        }
        return NULL;
}

xmlNode* xml_first(const xmlNode *parent, const char *name) {
        return parent ? search(parent->children, name, strlen(name)) : NULL;
}

xmlNode* xml_next(const xmlNode *node, const char *name) {
        return search(node->next, name, strlen(name));
}

char* xml_text(const xmlNode *parent, const char *path) {
        const xmlNode *n = isempty(path) ? parent : xml_child(parent, path);
        const char *begin, *end;
        xmlChar *text;
        char *copy;

        if (!n || !n->children)
                return strdup("");
        text = xmlNodeGetContent(n);
        if (!text)
                return NULL;
        begin = (const char*) text + strspn((const char*) text, " \t\r\n");
        for (end = begin + strlen(begin); end > begin && strchr(" \t\r\n", end[-1]); end--)
                ;
        copy = strndup(begin, end - begin);
        xmlFree(text);
        return copy;
}
