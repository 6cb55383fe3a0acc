/* SPDX-License-Identifier: Apache-2.0 */
/* One file for each sandbox in one directory. Knows names and bytes, not what they mean. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/cleanup.h"

typedef struct SandboxStore SandboxStore;

/**
 * sandbox_store_new() - open the directory, making it where it is missing (0700)
 * @durable: changes are on disk when a call returns; else they only are what every later reader sees
 *
 * Takes a lock, so that two processes never drive the same sandboxes. Returns 0, -EBUSY (locked), another -errno.
 */
int sandbox_store_new(const char *path, bool durable, SandboxStore **ret);
SandboxStore* sandbox_store_free(SandboxStore *store);
DEFINE_CLEANUP(SandboxStore*, sandbox_store_free);

/* sandbox_store_save() - the file has the new content, or the old one; durable when this returns 0. @id is valid. */
int sandbox_store_save(SandboxStore *store, const char *id, const void *data, size_t size);

/* sandbox_store_remove() - durable; no file is success. Takes what was set aside under this id along. */
int sandbox_store_remove(SandboxStore *store, const char *id);

/**
 * sandbox_store_set_aside() - keep a file that nobody can read under another name, for people
 * @ret_name: its new name in the directory, newly allocated
 */
int sandbox_store_set_aside(SandboxStore *store, const char *id, char **ret_name);

/* sandbox_store_holds() - is there a file for this sandbox, set aside or not. Where no sandbox of that id was read from it, it is
 * one that could not be read, and could not even be set aside if it has its old name (a disk that fails). */
bool sandbox_store_holds(SandboxStore *store, const char *id);

/* @error is 0, or why the file could not be read (-EFBIG, -EBADMSG for a NUL inside, -EIO, …), with @data NULL then. */
typedef int (*SandboxStoreHandler)(SandboxStore *store, const char *id, int error, const char *data, size_t size, void *userdata);

/**
 * sandbox_store_load() - hand each file to @handler, in the order of their names
 *
 * Removes what a crash has left of an unfinished save. A negative return of @handler ends it. Files with other names are left
 * alone. Returns 0 or -errno.
 */
int sandbox_store_load(SandboxStore *store, size_t size_max, SandboxStoreHandler handler, void *userdata);
