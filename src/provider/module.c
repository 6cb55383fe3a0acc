/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/module.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <strings.h>
#include <sys/stat.h>

#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"

#define SHA256_SIZE 32
#define OPTIONS_MAX 256

static bool name_is_valid(const char *name) {
        size_t n = strlen(name);

        return n > 0 && n <= MODULE_NAME_MAX && name[0] != '-' &&
                strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static bool default_is_good(const PeerpodOption *o) {
        uint64_t number;
        bool boolean;

        switch (o->type) {
        case PEERPOD_OPTION_BOOL:
                return parse_bool(o->default_value, &boolean) >= 0;
        case PEERPOD_OPTION_UINT:
                return parse_u64(o->default_value, &number) >= 0;
        case PEERPOD_OPTION_DURATION:
                return parse_duration_usec(o->default_value, &number) >= 0;
        default:
                return o->type < _PEERPOD_OPTION_TYPE_MAX;
        }
}

static bool option_is_good(const PeerpodOption *o) {
        if ((!o->name && !o->env) || !o->default_value || !o->help)
                return false;
        if (o->name && (isempty(o->name) || o->name[0] == '-' || strchr(o->name, '=')))
                return false;
        return default_is_good(o);
}

int module_check_descriptor(const PeerpodProvider *p, const char *name, const char *path) {
        if (p->abi_version != PEERPOD_PROVIDER_ABI_VERSION) {
                log_error("Provider module '%s' has interface version %" PRIu32 ", this program needs version %" PRIu32 ".",
                          path, p->abi_version, PEERPOD_PROVIDER_ABI_VERSION);
                return -EINVAL;
        }
        if (!PEERPOD_HAS(p, close) || (p->n_options > 0 && (!p->options || p->option_size != sizeof(PeerpodOption))) ||
            p->n_options > OPTIONS_MAX ||
            !p->name || !p->description || !p->open || !p->verify || !p->create || !p->remove || !p->find || !p->close) {
                log_error("Provider module '%s' has an incomplete descriptor.", path);
                return -EINVAL;
        }
        if (!streq(p->name, name)) {
                log_error("Provider module '%s' says that its name is '%.64s', not '%s'.", path, p->name, name);
                return -EINVAL;
        }
        for (uint32_t i = 0; i < p->n_options; i++)
                if (!option_is_good(p->options + i)) {
                        log_error("Provider module '%s' has an ill-formed option, number %" PRIu32 ".", path, i);
                        return -EINVAL;
                }

        return 0;
}

/* @load is what dlopen() gets, @path what people know. */
static int load(const char *load_path, const char *path, const char *name, const PeerpodProvider **ret) {
        const PeerpodProvider *p;
        void *handle;

        handle = dlopen(load_path, RTLD_NOW|RTLD_LOCAL|RTLD_NODELETE);
        if (!handle) {
                log_error("Failed to load provider module '%s': %s", path, dlerror());
                return -EINVAL;
        }
        p = dlsym(handle, PEERPOD_PROVIDER_SYMBOL);
        if (!p) {
                log_error("'%s' is no provider module: it has no symbol '" PEERPOD_PROVIDER_SYMBOL "'.", path);
                return -EINVAL;
        }
        if (module_check_descriptor(p, name, path) < 0)
                return -EINVAL;

        *ret = p;
        return 0;
}

static int hash_fd(int fd, char ret[static SHA256_SIZE * 2 + 1]) {
        uint8_t buffer[64 * 1024], digest[SHA256_SIZE];
        gnutls_hash_hd_t h;
        off_t offset = 0;
        int r = 0;

        if (gnutls_hash_init(&h, GNUTLS_DIG_SHA256) < 0)
                return -ENOMEM;
        for (;;) {
                ssize_t n = pread(fd, buffer, sizeof(buffer), offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        r = -errno;
                if (n <= 0)
                        break;
                if (gnutls_hash(h, buffer, n) < 0) {
                        r = -EIO;
                        break;
                }
                offset += n;
        }
        gnutls_hash_deinit(h, digest);

        for (size_t i = 0; r == 0 && i < sizeof(digest); i++)
                (void) sprintf(ret + 2 * i, "%02x", digest[i]);
        return r;
}

static bool same_content(const struct stat *a, const struct stat *b) {
        return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
                a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static int load_external(const char *name, const ModuleExternal *external, const PeerpodProvider **ret) {
        char hash[SHA256_SIZE * 2 + 1], expected[MODULE_NAME_MAX + sizeof(".so")], fd_path[64];
        _cleanup_(close_fdp) int fd = -EBADF;
        struct stat before, after;
        const char *base;
        int r;

        if (isempty(external->path)) {
                log_error("An external provider module is enabled, but CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH is not set.");
                return -EINVAL;
        }
        if (external->path[0] != '/') {
                log_error("CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH '%s' is not absolute.", external->path);
                return -EINVAL;
        }
        if (isempty(external->hash)) {
                log_error("An external provider module is enabled, but CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH is not set.");
                return -EINVAL;
        }
        if (strlen(external->hash) != SHA256_SIZE * 2 || strspn(external->hash, "0123456789abcdef") != SHA256_SIZE * 2) {
                log_error("CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH is not a SHA-256 in lower-case hexadecimal digits.");
                return -EINVAL;
        }
        (void) snprintf(expected, sizeof(expected), "%s.so", name);
        base = strrchr(external->path, '/') + 1;
        if (strcasecmp(base, expected) != 0) {
                log_error("External provider module '%s' must be named '%s'.", external->path, expected);
                return -EINVAL;
        }

        fd = open(external->path, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        if (fd < 0 || fstat(fd, &before) < 0) {
                log_error("Failed to open external provider module '%s': %m", external->path);
                return -EINVAL;
        }
        if (!S_ISREG(before.st_mode)) {
                log_error("External provider module '%s' is no regular file.", external->path);
                return -EINVAL;
        }
        /* Whoever may write to the file could do so between the hash and the load, whatever its name. */
        if ((before.st_mode & 022) != 0 || (before.st_uid != 0 && before.st_uid != geteuid())) {
                log_error("External provider module '%s' may be changed by others than root and this program's user.", external->path);
                return -EINVAL;
        }

        r = hash_fd(fd, hash);
        if (r < 0) {
                log_error_errno(r, "Failed to read external provider module '%s': %m", external->path);
                return -EINVAL;
        }
        if (!streq(hash, external->hash)) {
                log_error("External provider module '%s' has SHA-256 %s, not the configured %s.", external->path, hash, external->hash);
                return -EINVAL;
        }
        if (fstat(fd, &after) < 0 || !same_content(&before, &after)) {
                log_error("External provider module '%s' changed while it was read.", external->path);
                return -EINVAL;
        }

        (void) snprintf(fd_path, sizeof(fd_path), "/proc/self/fd/%i", fd);
        return load(fd_path, external->path, name, ret);
}

int module_load(const char *directory, const char *name, const ModuleExternal *external, const PeerpodProvider **ret) {
        _cleanup_(freep) char *path = NULL;

        if (!name_is_valid(name)) {
                log_error("'%.64s' is no provider name.", name);
                return -EINVAL;
        }

        if (streq(external->enable, "true"))
                return load_external(name, external, ret);
        if (!isempty(external->enable) && !streq(external->enable, "false")) {
                log_error("ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN must be 'true' or 'false', not '%.64s'.", external->enable);
                return -EINVAL;
        }

        if (asprintf(&path, "%s/%s.so", directory, name) < 0)
                return log_oom();
        if (access(path, F_OK) < 0) {
                log_error("Provider '%s' is not installed: no module '%s'.", name, path);
                return -EINVAL;
        }
        return load(path, path, name, ret);
}
