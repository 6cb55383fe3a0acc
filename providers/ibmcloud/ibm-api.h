/* SPDX-License-Identifier: Apache-2.0 */
/* JSON requests to IBM Cloud's services, and what their errors mean. */
#pragma once

#include "basic/json.h"
#include "ibm-iam.h"

typedef struct IbmApi {
        CloudHttp *http;                /* borrowed, both */
        Iam *iam;
} IbmApi;

typedef struct IbmRequest {
        const char *method, *what;
        char *url;                      /* taken; NULL: memory was short */
        json_object *body;              /* taken; NULL: none */
        bool array;                     /* the answer is an array: body then is { "items": ARRAY } */
        uint64_t timeout_usec;
        const char *header, *header_value;
} IbmRequest;

typedef struct IbmReply {
        int status;                     /* 0: there was no whole answer */
        bool sent;                      /* the server may have seen the request */
        char code[64];                  /* of an error, as the service names it */
        json_object *body;              /* of a success; NULL when there was none */
} IbmReply;

/* ibm_call() - ask; all but POST is repeated where that helps. Returns 0 for a 2xx, or a negative errno with *error set; *ret in any case,
 * freed by ibm_reply_done(). */
int ibm_call(IbmApi *api, const PeerpodCall *call, const IbmRequest *q, IbmReply *ret, PeerpodError *error);
void ibm_reply_done(IbmReply *reply);

/* After a failed POST: may the server have done it? */
bool ibm_is_ambiguous(const IbmReply *reply);

/* ibm_error() - *error from a reply that is no success; errors of VPC ({"errors":[…]}), IAM ({"errorCode"}) and PowerVS ({"message"}) */
int ibm_error(PeerpodError *error, const char *what, const HttpReply *reply, char *ret_code, size_t size);

/* ibm_error_parse() - the code and text of an error's body; both newly allocated or NULL. Returns 0, -EBADMSG, -ENOMEM. */
int ibm_error_parse(const char *text, size_t size, char **ret_code, char **ret_message);

/* ibm_url() - @base without its last slashes, and the rest. Newly allocated, NULL when memory is short. */
__attribute__((format(printf, 2, 3))) char* ibm_url(const char *base, const char *format, ...);
void ibm_trim_url(char *url);

bool ibm_id_is_valid(const char *id);           /* may stand in a path: [A-Za-z0-9._-]{1,128}, not all dots */
bool ibm_url_is_valid(const char *url);         /* http:// or https://, no blanks, no query */

/* Owner tags: one string each, [A-Za-z0-9:_.-], 128 bytes at most; tags compare without regard to case. */
#define IBM_TAG_SIZE 129
void ibm_node_tag(const char *node, char ret[static IBM_TAG_SIZE]);
void ibm_sandbox_tag(const char *sandbox_id, char ret[static IBM_TAG_SIZE]);
void ibm_name_tag(const char *name, char ret[static IBM_TAG_SIZE]);
bool ibm_has_tag(json_object *tags, const char *tag);
/* The rest of the first tag that begins with "@key:", copied and checked by ibm_id_is_valid(); "" if there is none. */
void ibm_tag_value(json_object *tags, const char *key, char ret[static IBM_TAG_SIZE]);
json_object* ibm_owner_tags(const PeerpodInstanceSpec *spec);   /* NULL when memory is short */

/* ibm_address() - a usable address: no empty one, not 0.0.0.0; copied. Returns true if it is one. */
bool ibm_address(const char *text, char ret[static PEERPOD_ADDRESS_SIZE]);
