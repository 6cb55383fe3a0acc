/* SPDX-License-Identifier: Apache-2.0 */
/* The public key that Azure demands for each Linux VM. */
#pragma once

#include "azure.h"

/* azure_ssh_key() - the line of the file at @path, whose "$VARIABLES" are expanded; with an empty path a fresh Ed25519 key, whose private half
 * nobody keeps. Newly allocated. Returns 0, or a negative errno with *error set. */
int azure_ssh_key(const char *path, char **ret, PeerpodError *error);
