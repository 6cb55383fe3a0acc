/* SPDX-License-Identifier: Apache-2.0 */
/* A provider module for tests: an instance is a file, its addresses are given, and it fails or hangs when told to.
 *
 * Below $FAKE_DIRECTORY (default: the state directory) lies one file for each instance, NAME, with lines key=value; so what a test
 * leaked is what the directory still holds. A creation in progress is NAME.tmp. Each call appends a line to "calls", and each start
 * one to ".opened" that tells where the secret was.
 *
 * The file "control" there is read anew at each call, one order on a line: OPERATION=ACTION or "OPERATION NAME=ACTION", operation one
 * of verify, create, delete, find, list (find has looked, and is about to tell); action one of
 *         fail:KIND:TEXT  KIND as in the D-Bus error names ("Exhausted")
 *         hang            until cancelled or out of time
 *         hang-hard       until the file "control" is gone, deaf to cancel and deadline
 *         leak            create: fail, but leave the instance behind
 *         crash           abort()
 *         delay:MS        take so long */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "provider/peerpod-provider.h"

enum {
        FAKE_ADDRESSES,
        FAKE_DELAY,
        FAKE_DIRECTORY,
        FAKE_SECRET,
        _FAKE_OPTION_MAX,
};

static const PeerpodOption options[_FAKE_OPTION_MAX] = {
        [FAKE_ADDRESSES] = { "fake-addresses", "FAKE_ADDRESSES", "192.0.2.10", "Addresses of each instance, comma separated",
                             .flags = PEERPOD_OPTION_REQUIRED },
        [FAKE_DELAY] = { "fake-delay", "FAKE_DELAY_MS", "0", "How long a creation takes, in ms",
                         .type = PEERPOD_OPTION_UINT, .maximum = 3600000 },
        [FAKE_DIRECTORY] = { "fake-directory", "FAKE_DIRECTORY", "", "Where instances and control file are" },
        [FAKE_SECRET] = { "fake-secret", "FAKE_SECRET", "", "A secret", .flags = PEERPOD_OPTION_SECRET },
};

typedef struct Fake {
        char *addresses, *directory;
        uint64_t delay_usec;
} Fake;

static int fail_errno(PeerpodError *error, const char *what) {
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: %s", what, strerror(errno));
}

static void note(const Fake *f, const char *file, const char *operation, const char *name) {
        char path[PATH_MAX], line[512];
        int fd, n;

        (void) snprintf(path, sizeof(path), "%s/%s", f->directory, file);
        fd = open(path, O_WRONLY|O_CREAT|O_APPEND|O_CLOEXEC, 0600);
        if (fd < 0)
                return;
        n = snprintf(line, sizeof(line), "%s %s\n", operation, name);
        if (write(fd, line, n) < 0)
                syslog(LOG_DEBUG, "calls");
        (void) close(fd);
}

static void note_call(const Fake *f, const char *operation, const char *name) {
        note(f, "calls", operation, name);
}

/* What is too long for the field is cut: only we write these files. */
static void take(char *to, size_t size, const char *from) {
        size_t n = strnlen(from, size - 1);

        memcpy(to, from, n);
        to[n] = '\0';
}

/* The action for @operation, or for it on instance @name, or an empty string. */
static void read_control(const Fake *f, const char *operation, const char *name, char *ret, size_t size) {
        char path[PATH_MAX], line[512], key[128];
        FILE *file;

        ret[0] = '\0';
        (void) snprintf(path, sizeof(path), "%s/control", f->directory);
        file = fopen(path, "re");
        if (!file)
                return;
        while (fgets(line, sizeof(line), file)) {
                line[strcspn(line, "\n")] = '\0';
                (void) snprintf(key, sizeof(key), "%s=", operation);
                if (strncmp(line, key, strlen(key)) == 0)
                        take(ret, size, line + strlen(key));
                (void) snprintf(key, sizeof(key), "%s %s=", operation, name);
                if (strncmp(line, key, strlen(key)) == 0)
                        take(ret, size, line + strlen(key));
        }
        (void) fclose(file);
}

static PeerpodErrorKind kind_from_string(const char *s, size_t n) {
        static const char *const names[_PEERPOD_E_MAX] = {
                [PEERPOD_E_INVALID_ARGUMENT] = "InvalidArgument",
                [PEERPOD_E_NOT_FOUND] = "NotFound",
                [PEERPOD_E_ALREADY_EXISTS] = "AlreadyExists",
                [PEERPOD_E_EXHAUSTED] = "Exhausted",
                [PEERPOD_E_FAILED_PRECONDITION] = "FailedPrecondition",
                [PEERPOD_E_UNAVAILABLE] = "Unavailable",
                [PEERPOD_E_TIMED_OUT] = "TimedOut",
                [PEERPOD_E_CANCELLED] = "Cancelled",
                [PEERPOD_E_UNAUTHENTICATED] = "Unauthenticated",
                [PEERPOD_E_INTERNAL] = "Internal",
                [PEERPOD_E_THROTTLED] = "Throttled",
        };

        for (unsigned i = 1; i < _PEERPOD_E_MAX; i++)
                if (strlen(names[i]) == n && strncmp(names[i], s, n) == 0)
                        return i;
        return PEERPOD_E_INTERNAL;
}

/* Does what the control file says. Returns 0 to go on, 1 for "leak", negative to fail. */
static int obey(const Fake *f, const PeerpodCall *call, const char *operation, const char *name, PeerpodError *error) {
        char action[512];
        const char *text;

        read_control(f, operation, name, action, sizeof(action));

        if (strncmp(action, "fail:", 5) == 0) {
                text = strchrnul(action + 5, ':');
                return peerpod_error_set(error, kind_from_string(action + 5, text - action - 5), "%s", *text ? text + 1 : "told to fail");
        }
        if (strcmp(action, "hang") == 0)
                for (;;) {
                        int r = peerpod_call_wait(call, -1, 0, 3600 * UINT64_C(1000000), error);
                        if (r < 0)
                                return r;
                }
        if (strcmp(action, "hang-hard") == 0) {
                while (action[0]) {
                        (void) usleep(10000);
                        read_control(f, operation, name, action, sizeof(action));
                }
                return 0;
        }
        if (strcmp(action, "crash") == 0)
                abort();
        if (strcmp(action, "leak") == 0)
                return 1;
        if (strncmp(action, "delay:", 6) == 0)
                return peerpod_call_wait(call, -1, 0, strtoull(action + 6, NULL, 10) * 1000, error);
        return 0;
}

static int instance_path(const Fake *f, const char *name, const char *suffix, char ret[static PATH_MAX], PeerpodError *error) {
        if (snprintf(ret, PATH_MAX, "%s/%s%s", f->directory, name, suffix) >= PATH_MAX)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "The path is too long.");
        return 0;
}

typedef struct Record {
        char name[128], sandbox_id[128], node[256], id[256];
} Record;

/* 1 and *ret filled, or 0 if there is no such instance. */
static int read_instance(const char *path, Record *ret) {
        char line[1024];
        FILE *file = fopen(path, "re");

        if (!file)
                return 0;
        *ret = (Record) {};
        while (fgets(line, sizeof(line), file)) {
                line[strcspn(line, "\n")] = '\0';
                if (strncmp(line, "sandbox=", 8) == 0)
                        take(ret->sandbox_id, sizeof(ret->sandbox_id), line + 8);
                else if (strncmp(line, "node=", 5) == 0)
                        take(ret->node, sizeof(ret->node), line + 5);
                else if (strncmp(line, "id=", 3) == 0)
                        take(ret->id, sizeof(ret->id), line + 3);
        }
        (void) fclose(file);
        return 1;
}

static int write_instance(const char *path, const PeerpodInstanceSpec *spec, const char *id, PeerpodError *error) {
        FILE *file = fopen(path, "we");

        if (!file)
                return fail_errno(error, "open");
        (void) fprintf(file, "sandbox=%s\nnode=%s\nid=%s\nvcpus=%u\nmemory=%" PRIu64 "\nimage=%s\npod=%s/%s\nuser-data-size=%" PRIu64 "\n",
                       spec->sandbox_id, spec->node, id, spec->vcpus, spec->memory_mib, spec->image,
                       spec->pod_namespace, spec->pod_name, spec->user_data_size);
        if (spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                (void) fprintf(file, "multi-nic\n");
        if (PEERPOD_HAS(spec, gpu_model) && spec->gpu_model[0])
                (void) fprintf(file, "gpu-model=%s\n", spec->gpu_model);
        if (PEERPOD_HAS(spec, n_volumes))
                for (uint64_t i = 0; i < spec->n_volumes; i++)
                        (void) fprintf(file, "volume-%" PRIu64 "=%s\n", i, spec->volumes[i]);
        return fclose(file) == 0 ? 0 : fail_errno(error, "write");
}

static int fill_instance(const Fake *f, const char *id, PeerpodInstance *ret) {
        const char *p = f->addresses;

        (void) snprintf(ret->id, sizeof(ret->id), "%s", id);
        (void) snprintf(ret->type, sizeof(ret->type), "fake");
        for (ret->n_addresses = 0; *p && ret->n_addresses < PEERPOD_ADDRESSES_MAX;) {
                size_t n = strcspn(p, ",");

                (void) snprintf(ret->addresses[ret->n_addresses++], PEERPOD_ADDRESS_SIZE, "%.*s", (int) n, p);
                p += n + (p[n] == ',');
        }
        return 0;
}

static int fake_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        const char *directory = config->values[FAKE_DIRECTORY];
        Fake *f = calloc(1, sizeof(Fake));

        if (!f)
                return fail_errno(error, "memory");
        f->addresses = strdup(config->values[FAKE_ADDRESSES]);
        f->directory = strdup(directory[0] ? directory : config->state_directory);
        f->delay_usec = strtoull(config->values[FAKE_DELAY], NULL, 10) * 1000;
        if (!f->addresses || !f->directory) {
                free(f->addresses);
                free(f->directory);
                free(f);
                return fail_errno(error, "memory");
        }
        note(f, ".opened", "open",
             getenv("FAKE_SECRET") ? "secret-in-environment" : config->values[FAKE_SECRET][0] ? "secret" : "no-secret");
        *ret = f;
        return 0;
}

static int fake_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        int r = obey(provider, call, "verify", "", error);

        return r < 0 ? r : 0;
}

static int fake_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret,
                       PeerpodError *error) {
        char path[PATH_MAX], half[PATH_MAX], id[128];
        Fake *f = provider;
        Record record;
        int r;

        note_call(f, "create", spec->name);
        r = instance_path(f, spec->name, "", path, error);
        if (r == 0)
                r = instance_path(f, spec->name, ".tmp", half, error);
        if (r < 0)
                return r;

        if (read_instance(path, &record)) {
                if (strcmp(record.sandbox_id, spec->sandbox_id) != 0 || strcmp(record.node, spec->node) != 0)
                        return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "Instance '%s' belongs to another sandbox.", spec->name);
                return fill_instance(f, record.id, ret);
        }

        (void) snprintf(id, sizeof(id), "fake-%s", spec->name);
        r = write_instance(half, spec, id, error);
        if (r < 0)
                return r;
        r = obey(f, call, "create", spec->name, error);
        if (r == 1) {
                (void) rename(half, path);
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "told to leak");
        }
        if (r == 0)
                r = peerpod_call_wait(call, -1, 0, f->delay_usec, error);
        if (r < 0) {
                (void) unlink(half);
                return r;
        }

        if (rename(half, path) < 0)
                return fail_errno(error, "rename");
        peerpod_log(call, LOG_DEBUG, "Fake instance '%s' is there.", spec->name);
        return fill_instance(f, id, ret);
}

/* The name of the instance with that id, or "". */
static void find_by_id(const Fake *f, const char *id, char ret[static 128]) {
        DIR *list = opendir(f->directory);
        struct dirent *de;

        ret[0] = '\0';
        while (list && (de = readdir(list))) {
                char path[PATH_MAX];
                Record record;

                if (strncmp(de->d_name, "podvm-", 6) == 0 && instance_path(f, de->d_name, "", path, NULL) == 0 && read_instance(path, &record) &&
                    strcmp(record.id, id) == 0)
                        take(ret, 128, de->d_name);
        }
        if (list)
                (void) closedir(list);
}

static int remove_untagged(Fake *f, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        char path[PATH_MAX], name[128];
        Record record;
        int r;

        note_call(f, "delete-untagged", key->id);
        find_by_id(f, key->id, name);
        r = obey(f, call, "delete", name, error);
        if (r < 0 || !name[0])
                return r;
        r = instance_path(f, name, "", path, error);
        if (r < 0 || !read_instance(path, &record))
                return r;
        if (record.sandbox_id[0] || strncmp(name, key->name, strlen(key->name)) != 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' belongs to somebody else.", key->id);
        return unlink(path) < 0 && errno != ENOENT ? fail_errno(error, "unlink") : 0;
}

static int fake_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        char path[PATH_MAX], half[PATH_MAX];
        Fake *f = provider;
        Record record;
        int r;

        if (key->flags & PEERPOD_KEY_UNTAGGED)
                return remove_untagged(f, call, key, error);

        note_call(f, "delete", key->name);
        r = obey(f, call, "delete", key->name, error);
        if (r < 0)
                return r;
        r = instance_path(f, key->name, "", path, error);
        if (r == 0)
                r = instance_path(f, key->name, ".tmp", half, error);
        if (r < 0)
                return r;

        if (read_instance(path, &record) && strcmp(record.sandbox_id, key->sandbox_id) != 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' belongs to another sandbox.", key->name);
        if ((unlink(path) < 0 && errno != ENOENT) || (unlink(half) < 0 && errno != ENOENT))
                return fail_errno(error, "unlink");
        return 0;
}

static int fake_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata,
                     PeerpodError *error) {
        Fake *f = provider;
        struct dirent *de;
        DIR *list;
        Record *records = NULL;
        size_t n = 0;
        int r;

        note_call(f, "find", node);
        r = obey(f, call, "find", "", error);
        if (r < 0)
                return r;

        /* Instances are the files whose name begins as ours do. */
        list = opendir(f->directory);
        if (!list)
                return fail_errno(error, "list");
        while ((de = readdir(list))) {
                char file[PATH_MAX], *name = de->d_name;
                Record record, *more;

                if (strncmp(name, "podvm-", 6) != 0 || instance_path(f, name, "", file, error) < 0 || !read_instance(file, &record) ||
                    strcmp(record.node, node) != 0)
                        continue;
                name[strcspn(name, ".")] = '\0';        /* a half-made one goes by its name */
                take(record.name, sizeof(record.name), name);
                more = reallocarray(records, n + 1, sizeof(Record));
                if (!more)
                        break;
                records = more;
                records[n++] = record;
        }
        (void) closedir(list);

        note_call(f, "list", node);
        r = obey(f, call, "list", "", error);
        for (size_t i = 0; i < n && r >= 0; i++)
                r = found(userdata, &(PeerpodFoundInstance) {
                        .size = sizeof(PeerpodFoundInstance),
                        .name = records[i].name,
                        .sandbox_id = records[i].sandbox_id,
                        .id = records[i].id,
                });
        free(records);
        return r < 0 ? peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list was refused.") : 0;
}

static void fake_close(void *provider) {
        Fake *f = provider;

        free(f->addresses);
        free(f->directory);
        free(f);
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "fake",
        .description = "Instances that are files, for tests",
        .options = options,
        .n_options = _FAKE_OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = 64 * 1024,
        .open = fake_open,
        .verify = fake_verify,
        .create = fake_create,
        .remove = fake_remove,
        .find = fake_find,
        .close = fake_close,
        .volumes_max = 3,
        .flags = PEERPOD_PROVIDER_REMOVES_UNTAGGED,
};
