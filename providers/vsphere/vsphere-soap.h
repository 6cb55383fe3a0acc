/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of the vSphere Web Services API as text, and its answers as trees (SOAP 1.1; vmware/govmomi: vim25/soap, vim25/types). Functions
 * without state. */
#pragma once

#include <libxml/tree.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

/* A managed object. Its id is opaque; "" is none. */
#define REF_TYPE_SIZE 48
#define REF_ID_SIZE 256
typedef struct Ref {
        char type[REF_TYPE_SIZE];
        char id[REF_ID_SIZE];
} Ref;

static inline bool ref_is_set(const Ref *r) {
        return r->id[0] != '\0';
}

/* ref_read() - of an element such as <returnval type="Task">task-1</returnval>; 0, -ENOENT (NULL, or empty), -EBADMSG, -ENOMEM */
int ref_read(const xmlNode *n, Ref *ret);

/* A request under construction: set to {}, soap_begin(), its parts in the WSDL's order, soap_text(), soap_done(). An error (memory, a character
 * that XML does not have) stays: soap_text() then is NULL. Elements are escaped; names are constants of ours. Holds secrets: soap_done() erases,
 * and so does growth. */
typedef struct Soap {
        char *text;
        size_t size, allocated;
        const char *method;
        bool failed;
} Soap;

void soap_begin(Soap *s, const char *method, const Ref *this_object);
void soap_open(Soap *s, const char *name);
void soap_open_typed(Soap *s, const char *name, const char *xsi_type);
void soap_close(Soap *s, const char *name);
void soap_add(Soap *s, const char *name, const char *value);            /* NULL: nothing */
void soap_add_uint(Soap *s, const char *name, uint64_t value);
void soap_add_bool(Soap *s, const char *name, bool value);
void soap_add_ref(Soap *s, const char *name, const Ref *r);             /* none: nothing */
void soap_add_option(Soap *s, const char *key, const char *value);      /* an <extraConfig> of a string */
const char* soap_text(Soap *s);                                         /* the whole envelope */
void soap_done(Soap *s);

/* Why a call or a task failed. */
#define FAULT_TYPE_SIZE 64
typedef struct Fault {
        char type[FAULT_TYPE_SIZE];     /* "NotAuthenticated", …; "" for none */
        char object[REF_ID_SIZE];       /* of a ManagedObjectNotFound; else "" */
        char words[400];                /* plain; of the server */
} Fault;

/* soap_answer() - the element METHODResponse in the envelope, or NULL */
xmlNode* soap_answer(const xmlDoc *doc, const char *method);
/* soap_fault() - of an envelope with a Fault; 1, 0 if there is none, -ENOMEM */
int soap_fault(const xmlDoc *doc, Fault *ret);
/* fault_read() - of a LocalizedMethodFault, such as info.error of a task; 0, -ENOMEM */
int fault_read(const xmlNode *n, Fault *ret);
/* soap_lacks_session() - does an answer of RetrievePropertiesEx leave properties out for want of a session? */
bool soap_lacks_session(const xmlNode *answer);

/* soap_property() - <val> of the property @path of an <objects> or an <objectUpdate>; NULL if it has no value */
xmlNode* soap_property(const xmlNode *object, const char *path);
/* soap_type_is() - is the element's xsi:type, prefix aside, this? */
bool soap_type_is(const xmlNode *n, const char *type);
