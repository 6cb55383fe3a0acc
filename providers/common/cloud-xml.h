/* SPDX-License-Identifier: Apache-2.0 */
/* libxml2 with its traps closed, and the few ways in which the clouds' XML is read. */
#pragma once

#include <libxml/tree.h>
#include <stddef.h>

#include "basic/cleanup.h"

static inline void xml_freep(xmlDoc **d) {
        if (*d)
                xmlFreeDoc(*d);
}

/* xml_parse() - a bounded document without DTD or entities of its own, nothing is fetched. Returns 0, -EBADMSG, -ENOMEM. */
int xml_parse(const char *text, size_t size, xmlDoc **ret);

/* Elements by local name, whatever their namespace; a path is "a/b/c", the first of each. NULL when there is none. */
xmlNode* xml_child(const xmlNode *parent, const char *path);
xmlNode* xml_first(const xmlNode *parent, const char *name);   /* for (n = xml_first(p, "item"); n; n = xml_next(n, "item")) */
xmlNode* xml_next(const xmlNode *node, const char *name);

/* xml_text() - the text of an element at @path, blanks around it dropped; "" if there is no such element. Newly allocated, NULL when memory
 * is short. */
char* xml_text(const xmlNode *parent, const char *path);
