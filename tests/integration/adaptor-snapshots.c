/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peerpod-adaptor whose power is cut after one of its writes, in a test program of its own: the linker's --wrap puts these functions
 * between the sandboxes and the store. The product's program has nothing of it.
 *
 * The record as it is after the Nth write becomes the file $PEERPOD_TEST_SNAPSHOTS/N, empty once the record is removed. After write
 * number $PEERPOD_TEST_POWER_CUT the process ends at once.
 */
#include <signal.h>
#include <stdio.h>

#include "basic/sandbox-store.h"
#include "basic/io.h"
#include "basic/util.h"

static SandboxStore *records;           /* the other store has histories, which a power cut may cost */

int __real_sandbox_store_new(const char *path, bool durable, SandboxStore **ret);
int __wrap_sandbox_store_new(const char *path, bool durable, SandboxStore **ret);
int __real_sandbox_store_save(SandboxStore *store, const char *id, const void *data, size_t size);
int __wrap_sandbox_store_save(SandboxStore *store, const char *id, const void *data, size_t size);
int __real_sandbox_store_remove(SandboxStore *store, const char *id);
int __wrap_sandbox_store_remove(SandboxStore *store, const char *id);

static void written(const void *data, size_t size) {
        const char *directory = getenv("PEERPOD_TEST_SNAPSHOTS"), *cut = getenv("PEERPOD_TEST_POWER_CUT");
        static int n;
        char path[512];
        int r;

        if (!directory)
                return;

        n++;
        (void) snprintf(path, sizeof(path), "%s/%i", directory, n);
        r = write_file_atomic(path, data, size, 0600);
        assert(r >= 0);
        if (cut && n == atoi(cut))
                (void) raise(SIGKILL);
}

int __wrap_sandbox_store_new(const char *path, bool durable, SandboxStore **ret) {
        int r = __real_sandbox_store_new(path, durable, ret);

        if (r >= 0 && durable)
                records = *ret;
        return r;
}

int __wrap_sandbox_store_save(SandboxStore *store, const char *id, const void *data, size_t size) {
        int r = __real_sandbox_store_save(store, id, data, size);

        if (r >= 0 && store == records)
                written(data, size);
        return r;
}

int __wrap_sandbox_store_remove(SandboxStore *store, const char *id) {
        int r = __real_sandbox_store_remove(store, id);

        if (r >= 0 && store == records)
                written("", 0);
        return r;
}
