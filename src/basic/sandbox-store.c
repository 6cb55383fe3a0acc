/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/sandbox-store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "basic/crash-point.h"
#include "basic/io.h"
#include "basic/parse.h"
#include "basic/util.h"

#define SUFFIX ".json"
#define ASIDE_SUFFIX ".json.unreadable"

struct SandboxStore {
        int dir_fd;
        bool durable;
};

int sandbox_store_new(const char *path, bool durable, SandboxStore **ret) {
        _cleanup_(sandbox_store_freep) SandboxStore *store = NULL;
        int r;

        store = new(SandboxStore);
        if (!store)
                return -ENOMEM;
        *store = (SandboxStore) { .dir_fd = -EBADF, .durable = durable };

        r = mkdir_p(path, 0700);
        if (r < 0)
                return r;
        store->dir_fd = open(path, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (store->dir_fd < 0)
                return -errno;
        if (flock(store->dir_fd, LOCK_EX|LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EBUSY : -errno;

        *ret = TAKE_PTR(store);
        return 0;
}

SandboxStore* sandbox_store_free(SandboxStore *store) {
        if (!store)
                return NULL;

        close_fd(store->dir_fd);
        free(store);
        return NULL;
}

static int file_name(const char *id, const char *suffix, char **ret) {
        assert(sandbox_id_is_valid(id));

        return asprintf(ret, "%s%s", id, suffix) < 0 ? -ENOMEM : 0;
}

int sandbox_store_save(SandboxStore *store, const char *id, const void *data, size_t size) {
        _cleanup_(freep) char *name = NULL;
        int r;

        r = file_name(id, SUFFIX, &name);
        if (r < 0)
                return r;

        crash_point("store-save");
        r = store->durable ? write_file_atomic_at(store->dir_fd, name, data, size, 0600) :
                             replace_file_at(store->dir_fd, name, data, size, 0600);
        crash_point("store-saved");
        return r;
}

int sandbox_store_remove(SandboxStore *store, const char *id) {
        _cleanup_(freep) char *name = NULL, *aside = NULL;
        int r;

        r = file_name(id, SUFFIX, &name);
        if (r < 0)
                return r;
        r = file_name(id, ASIDE_SUFFIX, &aside);
        if (r < 0)
                return r;
        if (unlinkat(store->dir_fd, aside, 0) < 0 && errno != ENOENT)
                return -errno;

        crash_point("store-remove");
        if (store->durable)
                r = remove_file_durably_at(store->dir_fd, name);
        else
                r = unlinkat(store->dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
        crash_point("store-removed");
        return r;
}

int sandbox_store_set_aside(SandboxStore *store, const char *id, char **ret_name) {
        _cleanup_(freep) char *name = NULL, *aside = NULL;
        int r;

        r = file_name(id, SUFFIX, &name);
        if (r < 0)
                return r;
        r = file_name(id, ASIDE_SUFFIX, &aside);
        if (r < 0)
                return r;
        if (renameat(store->dir_fd, name, store->dir_fd, aside) < 0)
                return -errno;
        if (fsync(store->dir_fd) < 0)
                return -errno;

        *ret_name = TAKE_PTR(aside);
        return 0;
}

bool sandbox_store_holds(SandboxStore *store, const char *id) {
        static const char *const suffixes[] = { ASIDE_SUFFIX, SUFFIX };

        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                _cleanup_(freep) char *name = NULL;

                /* When in doubt, say yes: it keeps the caller from deleting what somebody may still need. */
                if (file_name(id, suffixes[i], &name) < 0 || faccessat(store->dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) >= 0)
                        return true;
        }

        return false;
}

/* The id that a file name stands for, or NULL. */
static char* id_of_file(const char *name) {
        size_t n = strlen(name), suffix = strlen(SUFFIX);
        char *id;

        if (n <= suffix || !streq(name + n - suffix, SUFFIX))
                return NULL;
        id = strndup(name, n - suffix);
        if (id && !sandbox_id_is_valid(id)) {
                free(id);
                return NULL;
        }

        return id;
}

static int load_file(SandboxStore *store, const char *name, size_t size_max, SandboxStoreHandler handler, void *userdata) {
        _cleanup_(freep) char *id = NULL, *data = NULL;
        size_t size = 0;
        int r;

        id = id_of_file(name);
        if (!id)
                return 0;

        r = read_full_file_at(store->dir_fd, name, size_max, &data, &size);
        if (r == -ENOMEM)
                return r;

        return handler(store, id, MIN(r, 0), data, size, userdata);
}

int sandbox_store_load(SandboxStore *store, size_t size_max, SandboxStoreHandler handler, void *userdata) {
        struct dirent **entries;
        int n, r;

        r = remove_temporary_files_at(store->dir_fd);
        if (r < 0)
                return r;

        /* All names first: the handler may rename files under us. */
        n = scandirat(store->dir_fd, ".", &entries, /* filter= */ NULL, alphasort);
        if (n < 0)
                return -errno;

        for (int i = 0; i < n; i++) {
                if (r >= 0)
                        r = load_file(store, entries[i]->d_name, size_max, handler, userdata);
                free(entries[i]);
        }
        free(entries);

        return MIN(r, 0);
}
