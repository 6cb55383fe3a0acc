/* SPDX-License-Identifier: Apache-2.0 */
/* A provider module to begin with. Its "cloud" is a directory: an instance is a file NAME in it that holds the owner tag. Everything else is
 * as in a real module, and what a real one does in a place is said there. Compile it with nothing but peerpod-provider.h (see Makefile). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <peerpod/peerpod-provider.h>

/* Settings: a flag and a variable each. The daemon checks types and ranges before open() sees them. */
enum {
        TEMPLATE_ADDRESS,
        TEMPLATE_KEY,
        _TEMPLATE_OPTION_MAX,
};

static const PeerpodOption options[_TEMPLATE_OPTION_MAX] = {
        [TEMPLATE_ADDRESS] = { "template-address", "TEMPLATE_ADDRESS", "192.0.2.1", "Address of each instance",
                               .flags = PEERPOD_OPTION_REQUIRED },
        /* A secret has no flag, is never shown, and is gone from the environment when open() has returned. */
        [TEMPLATE_KEY] = { NULL, "TEMPLATE_KEY", "", "Key for the cloud's API", .flags = PEERPOD_OPTION_SECRET },
};

/* One for each process; all worker threads use it at once. What changes after open() needs a lock. */
typedef struct Template {
        int directory_fd;
        char *address;
} Template;

typedef struct Owner {
        char sandbox_id[65], node[254];
} Owner;

static int fail(PeerpodError *error, const char *what, const char *name) {
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s '%s': %s", what, name, strerror(errno));
}

static void template_close(void *provider) {
        Template *t = provider;

        if (t->directory_fd >= 0)
                (void) close(t->directory_fd);
        free(t->address);
        free(t);
}

/* No question to the cloud here that could keep the service from starting: a cloud that cannot be reached now may be in a minute. What makes
 * the settings useless whatever the cloud says is PEERPOD_E_INVALID_ARGUMENT: the service is then not started again and again. */
static int template_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        Template *t = calloc(1, sizeof(*t));

        if (!t)
                return fail(error, "memory", "");
        t->directory_fd = -1;
        t->address = strdup(config->values[TEMPLATE_ADDRESS]);
        if (t->address && strlen(t->address) < PEERPOD_ADDRESS_SIZE) {
                if (mkdirat(AT_FDCWD, config->state_directory, 0700) < 0 && errno != EEXIST) {
                        template_close(t);
                        return fail(error, "mkdir", config->state_directory);
                }
                t->directory_fd = open(config->state_directory, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        } else {
                template_close(t);
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Value of TEMPLATE_ADDRESS is no address.");
        }
        if (t->directory_fd < 0) {
                template_close(t);
                return fail(error, "open", config->state_directory);
        }
        *ret = t;
        return 0;
}

/* Ask the cloud all that can be asked without making anything: credentials, image, network, quota, permissions. */
static int template_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        const Template *t = provider;

        if (faccessat(t->directory_fd, ".", W_OK, 0) < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The directory of instances cannot be written: %s", strerror(errno));
        return 0;
}

/* 1: *ret is its owner; 0: there is no such instance */
static int read_owner(const Template *t, const char *name, Owner *ret, PeerpodError *error) {
        char text[sizeof(Owner) + 2] = "";
        int fd = openat(t->directory_fd, name, O_RDONLY|O_CLOEXEC|O_NOFOLLOW);
        ssize_t n;

        if (fd < 0)
                return errno == ENOENT ? 0 : fail(error, "open", name);
        n = read(fd, text, sizeof(text) - 1);
        (void) close(fd);
        if (n < 0)
                return fail(error, "read", name);
        *ret = (Owner) {};
        if (sscanf(text, "%64s %253s", ret->sandbox_id, ret->node) != 2)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "instance '%s' has no owner tag", name);
        return 1;
}

static void fill_instance(const Template *t, const char *name, PeerpodInstance *ret) {
        (void) snprintf(ret->id, sizeof(ret->id), "template-%s", name);
        (void) snprintf(ret->type, sizeof(ret->type), "file");
        (void) snprintf(ret->addresses[0], sizeof(ret->addresses[0]), "%s", t->address);
        ret->n_addresses = 1;
}

/* Whole or not at all: a temporary name first, then the real one, which must be free. */
static int make_file(const Template *t, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        char temporary[80];
        int fd, r = 0;

        (void) snprintf(temporary, sizeof(temporary), ".%s", spec->name);
        fd = openat(t->directory_fd, temporary, O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC|O_NOFOLLOW, 0600);
        if (fd < 0)
                return fail(error, "create", temporary);
        if (dprintf(fd, "%s %s\n", spec->sandbox_id, spec->node) < 0 || fsync(fd) < 0 ||
            linkat(t->directory_fd, temporary, t->directory_fd, spec->name, 0) < 0)
                r = fail(error, "write", spec->name);
        (void) close(fd);
        (void) unlinkat(t->directory_fd, temporary, 0);
        return r;
}

/* Wait for what the cloud does by itself (boot, address): always through peerpod_call_wait(), which ends when the call is cancelled or its
 * time is over. */
static int wait_until_running(const PeerpodCall *call, PeerpodError *error) {
        int r = peerpod_call_wait(call, -1, 0, 1000, error);

        return r < 0 ? r : 0;
}

static int template_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        const Template *t = provider;
        Owner owner;
        int r;

        /* What this cloud cannot do is refused, never left out in silence. */
        if (spec->gpus > 0 || (spec->flags & PEERPOD_INSTANCE_MULTI_NIC))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "A file has neither GPUs nor a second network interface.");

        /* An earlier try may have got this far: the same name with the same owner is completed. A real cloud gets its token of idempotency
         * from spec->name and spec->sandbox_id, so that both tries mean one instance. */
        r = read_owner(t, spec->name, &owner, error);
        if (r < 0)
                return r;
        if (r > 0 && (strcmp(owner.sandbox_id, spec->sandbox_id) != 0 || strcmp(owner.node, spec->node) != 0))
                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "Instance '%s' is another sandbox's.", spec->name);
        if (r == 0) {
                r = make_file(t, spec, error);
                if (r < 0)
                        return r;
        }

        r = wait_until_running(call, error);
        if (r < 0) {
                /* On failure, cancel included, nothing is left. Undoing has a time limit of its own, and asks with
                 * peerpod_call_for_undo(call, …), since @call may be over. */
                (void) unlinkat(t->directory_fd, spec->name, 0);
                return r;
        }

        fill_instance(t, spec->name, ret);
        return 0;
}

/* Gone is success, and key->id may be empty: then the name and the owner tag say which. */
static int template_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        const Template *t = provider;
        Owner owner;
        int r;

        r = read_owner(t, key->name, &owner, error);
        if (r <= 0)
                return r;
        if (strcmp(owner.sandbox_id, key->sandbox_id) != 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' is another sandbox's.", key->name);
        if (unlinkat(t->directory_fd, key->name, 0) < 0 && errno != ENOENT)
                return fail(error, "remove", key->name);
        return 0;
}

static int report(const Template *t, const char *name, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        char id[PATH_MAX];
        Owner owner;
        int r;

        r = read_owner(t, name, &owner, error);
        if (r <= 0 || strcmp(owner.node, node) != 0)
                return r < 0 ? r : 0;
        (void) snprintf(id, sizeof(id), "template-%s", name);
        return found(userdata, &(PeerpodFoundInstance) {
                .size = sizeof(PeerpodFoundInstance), .name = name, .sandbox_id = owner.sandbox_id, .id = id,
        });
}

/* All pages of the listing, and half-made instances, too: what is found and belongs to no pod gets deleted. */
static int template_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        const Template *t = provider;
        int fd = openat(t->directory_fd, ".", O_RDONLY|O_DIRECTORY|O_CLOEXEC), r = 0;
        DIR *d = fd < 0 ? NULL : fdopendir(fd);

        if (!d) {
                if (fd >= 0)
                        (void) close(fd);
                return fail(error, "list", "instances");
        }
        for (struct dirent *e; r >= 0 && (e = readdir(d));)
                if (e->d_name[0] != '.')
                        r = report(t, e->d_name, node, found, userdata, error);
        (void) closedir(d);
        return r;
}

PEERPOD_PROVIDER_EXPORT const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "template",
        .description = "files that stand for instances",
        .options = options,
        .n_options = _TEMPLATE_OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = 65536,
        .open = template_open,
        .verify = template_verify,
        .create = template_create,
        .remove = template_remove,
        .find = template_find,
        .close = template_close,
};
