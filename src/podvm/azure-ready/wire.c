/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/azure-ready/wire.h"

#include <libxml/parser.h>
#include <libxml/tree.h>

#include "basic/parse.h"
#include "basic/util.h"

#define VALUE_MAX 256U          /* ids are UUIDs and the like */

DEFINE_CLEANUP(xmlDocPtr, xmlFreeDoc);

void goal_state_done(GoalState *g) {
        free(g->incarnation);
        free(g->container_id);
        free(g->instance_id);
        *g = (GoalState) {};
}

static void be_quiet(void *context, const char *format, ...) {
}

/* No entities, no network; depth and size of names are bounded by libxml2 as long as nobody says HUGE. */
static int parse(const char *text, size_t size, const char *root, xmlDocPtr *ret) {
        _cleanup_(xmlFreeDocp) xmlDocPtr doc = NULL;
        xmlNodePtr node;

        if (size > INT_MAX)
                return -EBADMSG;
        xmlSetGenericErrorFunc(NULL, be_quiet);
        doc = xmlReadMemory(text, (int) size, NULL, NULL, XML_PARSE_NONET|XML_PARSE_NOERROR|XML_PARSE_NOWARNING);
        if (!doc)
                return -EBADMSG;
        if (xmlGetIntSubset(doc))               /* a document type: nobody here has one */
                return -EBADMSG;
        node = xmlDocGetRootElement(doc);
        if (!node || !streq((const char*) node->name, root))
                return -EBADMSG;

        *ret = TAKE_PTR(doc);
        return 0;
}

static xmlNodePtr next_of(xmlNodePtr node, const char *name) {
        while (node && !(node->type == XML_ELEMENT_NODE && streq((const char*) node->name, name)))
                node = node->next;
        return node;
}

/* The first element at a path of names below @node; NULL if there is none. */
static xmlNodePtr find(xmlNodePtr node, const char *const *names) {
        for (; node && *names; names++)
                node = next_of(node->children, *names);
        return node;
}

static int get_text(xmlNodePtr node, char **ret) {
        _cleanup_(freep) char *text = NULL;
        xmlChar *content;

        if (!node)
                return -EBADMSG;
        content = xmlNodeGetContent(node);
        if (!content)
                return -ENOMEM;
        text = strdup((const char*) content);
        xmlFree(content);
        if (!text)
                return -ENOMEM;
        if (isempty(text) || !text_is_plain(text, VALUE_MAX))
                return -EBADMSG;

        *ret = TAKE_PTR(text);
        return 0;
}

int wire_parse_versions(const char *text, size_t size, char **ret) {
        _cleanup_(xmlFreeDocp) xmlDocPtr doc = NULL;
        _cleanup_(freep) char *first = NULL;
        xmlNodePtr node;
        int r;

        r = parse(text, size, "Versions", &doc);
        if (r < 0)
                return r;

        node = find(xmlDocGetRootElement(doc), (const char*[]) { "Supported", "Version", NULL });
        if (!node)
                return -EBADMSG;
        for (; node; node = next_of(node->next, "Version")) {
                _cleanup_(freep) char *version = NULL;

                r = get_text(node, &version);
                if (r < 0)
                        return r;
                if (!first || streq(version, WIRE_VERSION)) {
                        free(first);
                        first = TAKE_PTR(version);
                }
                if (streq(first, WIRE_VERSION))
                        break;
        }
        *ret = TAKE_PTR(first);
        return 0;
}

int wire_parse_goal_state(const char *text, size_t size, GoalState *ret) {
        _cleanup_(xmlFreeDocp) xmlDocPtr doc = NULL;
        _cleanup_(goal_state_done) GoalState g = {};
        xmlNodePtr root;
        int r;

        r = parse(text, size, "GoalState", &doc);
        if (r < 0)
                return r;
        root = xmlDocGetRootElement(doc);

        r = get_text(find(root, (const char*[]) { "Incarnation", NULL }), &g.incarnation);
        if (r >= 0)
                r = get_text(find(root, (const char*[]) { "Container", "ContainerId", NULL }), &g.container_id);
        if (r >= 0)
                r = get_text(find(root, (const char*[]) { "Container", "RoleInstanceList", "RoleInstance", "InstanceId", NULL }),
                             &g.instance_id);
        if (r < 0)
                return r;

        *ret = g;
        g = (GoalState) {};
        return 0;
}

/* libxml2's own escaping; NULL when memory was short, then and before. */
static xmlNodePtr add(xmlNodePtr parent, const char *name, const char *text) {
        return parent ? xmlNewTextChild(parent, NULL, (const xmlChar*) name, (const xmlChar*) text) : NULL;
}

int wire_format_health(const GoalState *g, char **ret) {
        _cleanup_(xmlFreeDocp) xmlDocPtr doc = xmlNewDoc((const xmlChar*) "1.0");
        xmlNodePtr health, container, role;
        xmlChar *text = NULL;
        int size;

        if (!doc)
                return -ENOMEM;
        health = xmlNewDocNode(doc, NULL, (const xmlChar*) "Health", NULL);
        if (!health)
                return -ENOMEM;
        xmlDocSetRootElement(doc, health);

        if (!add(health, "GoalStateIncarnation", g->incarnation))
                return -ENOMEM;
        container = add(health, "Container", NULL);
        if (!add(container, "ContainerId", g->container_id))
                return -ENOMEM;
        role = add(add(container, "RoleInstanceList", NULL), "Role", NULL);
        if (!add(role, "InstanceId", g->instance_id) || !add(add(role, "Health", NULL), "State", "Ready"))
                return -ENOMEM;

        xmlDocDumpMemoryEnc(doc, &text, &size, "UTF-8");
        if (!text)
                return -ENOMEM;
        *ret = strdup((const char*) text);
        xmlFree(text);
        return *ret ? 0 : -ENOMEM;
}
