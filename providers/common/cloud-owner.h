/* SPDX-License-Identifier: Apache-2.0 */
/* The owner tag of everything that we make in a cloud: which node's, which sandbox's. */
#pragma once

#include "provider/peerpod-provider.h"

/* Names of tags, where the cloud's grammar allows it; labels of other clouds are derived from these. */
#define OWNER_TAG_NODE "peerpod-node"
#define OWNER_TAG_SANDBOX "peerpod-sandbox"
#define OWNER_TAG_NAME "peerpod-name"   /* of side resources (NIC, disk, address): the instance's name */

/* owner_digest() - 32 hexadecimal digits that stand for @s where a tag's grammar or length does not take it: the first half of its SHA-256 */
#define OWNER_DIGEST_SIZE 33
void owner_digest(const char *s, char ret[static OWNER_DIGEST_SIZE]);

/* owner_token() - a UUID (version 5 by form) that is the same for each try to make the instance of @name for @sandbox_id: for a cloud's own
 * token of idempotency */
#define OWNER_TOKEN_SIZE 37
void owner_token(const char *name, const char *sandbox_id, char ret[static OWNER_TOKEN_SIZE]);

/* random_token() - a random UUID, for a call that is not to be taken for another one */
void random_token(char ret[static OWNER_TOKEN_SIZE]);
