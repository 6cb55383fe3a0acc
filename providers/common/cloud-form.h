/* SPDX-License-Identifier: Apache-2.0 */
/* Text for URLs and for the bodies of forms: "a=b&c=d", escaped. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* url_escape() - percent-encode all but A-Z a-z 0-9 - _ . ~ (RFC 3986, unreserved). Newly allocated, NULL when memory is short. */
char* url_escape(const char *s);

/* A growing "a=b&c=d", each part escaped; a NULL value adds nothing. Set to {} first, freed by form_done(). An error stays:
 * form_text() then is NULL. */
typedef struct Form {
        char *text;
        size_t size;
        bool failed;
} Form;

void form_add(Form *f, const char *key, const char *value);
__attribute__((format(printf, 3, 4))) void form_addf(Form *f, const char *key, const char *format, ...);
const char* form_text(const Form *f);   /* "" when nothing was added, NULL when memory was short */
void form_done(Form *f);                /* erases */
