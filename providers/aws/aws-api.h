/* SPDX-License-Identifier: Apache-2.0 */
/* One request of the Query protocol: signed, sent, its XML read, its error as ours. */
#pragma once

#include "aws.h"
#include "cloud-form.h"
#include "cloud-xml.h"

typedef struct AwsQuery {
        const char *action;
        bool sts;                       /* not EC2 */
        bool repeatable;                /* see HttpRequest.repeatable */
        bool anonymous;                 /* not signed */
        const Token *credentials;       /* NULL: those of the chain */
        const Form *page;               /* further parameters, or NULL */
} AwsQuery;

#define AWS_CODE_SIZE 96

typedef struct AwsReply {
        xmlDoc *doc;                    /* of a success */
        xmlNode *root;
        char code[AWS_CODE_SIZE];       /* of an error that AWS reported, else "" */
        bool unknown;                   /* after a failure: it may have been done all the same */
} AwsReply;

void aws_reply_done(AwsReply *r);

/* aws_query() - Returns 0, or a negative errno with *error set, "ACTION: CODE: MESSAGE". @form: the parameters, without Action and Version. */
int aws_query(Aws *a, const PeerpodCall *call, const AwsQuery *q, const Form *form, AwsReply *ret, PeerpodError *error);

/* aws_error_kind() - by AWS's code and the HTTP status */
PeerpodErrorKind aws_error_kind(const char *code, int status);

/* aws_is_gone() - does the code say that what was named is not there? */
bool aws_is_gone(const char *code);

/* aws_field() - the text of an element, in @ret; "" if there is none, or one too long. 0, or a negative errno with *error set. */
int aws_field(const xmlNode *n, const char *path, char *ret, size_t size, PeerpodError *error);
/* aws_number() - likewise a number; 0 if it is none */
int aws_number(const xmlNode *n, const char *path, uint64_t *ret, PeerpodError *error);

/* form_add_key() - form_add() with a key that is made: form_add_key(f, value, "Filter.%u.Name", n) */
__attribute__((format(printf, 3, 4))) void form_add_key(Form *f, const char *value, const char *key, ...);
/* form_add_filter() - Filter.N.Name, Filter.N.Value.1 */
void form_add_filter(Form *f, unsigned n, const char *name, const char *value);
/* form_add_list() - PREFIX1, PREFIX2 … of a PEERPOD_OPTION_LIST's items */
void form_add_list(Form *f, const char *prefix, const char *list);

/* aws_each() - the elements "item" below @path of each page of a listing; a negative return of @item ends it and is the result (with *error set) */
typedef int (*AwsItem)(void *userdata, const xmlNode *item, PeerpodError *error);
int aws_each(Aws *a, const PeerpodCall *call, const char *action, const Form *form, unsigned page_size, const char *path, AwsItem item,
             void *userdata, char code[static AWS_CODE_SIZE], PeerpodError *error);
