/* SPDX-License-Identifier: Apache-2.0 */
/* User data is the host's, and not measured: so what it may reach is a fixed list of files, none of which can change what runs
 * in the VM (cloud-api-adaptor: src/cloud-api-adaptor/pkg/userdata/provision.go, WriteFilesList). aa.toml and cdh.toml, which
 * say whom the VM trusts, are on upstream's list too; they are accepted from initdata only, whose digest is measured. What is in their
 * places without it is taken away.
 *
 * Invariant: apf.json is there if and only if every other file of the same user data is, since it is renamed into place last
 * and is the one file that must be among them. It is what a second run and the services behind this one look at. */
#include "podvm/process-user-data/provision.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "basic/error-text.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/paths.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "userdata/apf.h"
#include "userdata/cloud-config.h"
#include "userdata/initdata.h"

#define FILE_MODE 0600                          /* at most; less where user data asks for it, but readable by its owner */
#define FILE_MODE_MIN 0400
#define RAW_NAME "user-data"                    /* the data as it came, for a second run to compare */
#define DIGEST_NAME "initdata.digest"
#define LOG_NAME "measurements"
#define SKIPPED_SHOWN_MAX 16U                   /* names that initdata has and we do not */

typedef enum Rule {
        RULE_WRITE,
        RULE_APF,                               /* to be checked, and written last */
        RULE_INITDATA,                          /* to be decoded, measured and unpacked */
        RULE_INITDATA_ONLY,                     /* accepted as a part of initdata only */
} Rule;

static const struct {
        const char *name;                       /* below PODVM_DATA_DIR */
        Rule rule;
} allowed[] = {
        { "auth.json",            RULE_WRITE         },
        { "scratch-space.marker", RULE_WRITE         },
        { "apf.json",             RULE_APF           },
        { "initdata",             RULE_INITDATA      },
        { "aa.toml",              RULE_INITDATA_ONLY },
        { "cdh.toml",             RULE_INITDATA_ONLY },
};

/* What is taken from initdata; the rest of it is for others. */
static const char *const initdata_files[] = { "aa.toml", "cdh.toml", "policy.rego" };

/* One file on its way to its place, or out of it. */
typedef struct Item {
        const char *name;                       /* borrowed: constant */
        const char *content;                    /* borrowed: of the document or the plan; NULL = the file is to go */
        size_t size;
        mode_t mode;
        char *temporary;                        /* its name, or that of the file it replaced; NULL = nothing to clean up */
        bool placed, replaced, removed;
} Item;

typedef struct Plan {
        Item items[ELEMENTSOF(allowed) + ELEMENTSOF(initdata_files) + 3];
        size_t n;
        Initdata initdata;
        char digest[INITDATA_DIGEST_HEX_SIZE];
        char *dummy, *event;                    /* contents of items */
        int dir_fd;
        bool dir_made;
        const char *output_dir;                 /* borrowed */
} Plan;

/* Byte-exact: "/run/peerpod/./apf.json" is another path. */
static int find_allowed(const char *path) {
        const char *name = startswith(path, PODVM_DATA_DIR "/");

        for (size_t i = 0; name && i < ELEMENTSOF(allowed); i++)
                if (streq(name, allowed[i].name))
                        return (int) i;
        return -ENOENT;
}

static bool plan_has(const Plan *p, const char *name) {
        for (size_t i = 0; i < p->n; i++)
                if (streq(p->items[i].name, name))
                        return true;
        return false;
}

static void plan_add(Plan *p, const char *name, const char *content, size_t size) {
        assert(p->n < ELEMENTSOF(p->items));
        p->items[p->n++] = (Item) { .name = name, .content = content, .size = size, .mode = FILE_MODE };
}

static void plan_add_file(Plan *p, const char *name, const CloudConfigFile *f) {
        plan_add(p, name, f->content, f->size);
        if (f->mode != MODE_INVALID)
                p->items[p->n - 1].mode = (f->mode & FILE_MODE) | FILE_MODE_MIN;
}

/* A path comes from outside: shown with nothing in it that a terminal would obey. */
static void log_skipped(const char *path, const char *where, const char *why) {
        char shown[128];
        size_t n;

        for (n = 0; path[n] && n < sizeof(shown) - 1; n++)
                shown[n] = path[n] >= 0x20 && path[n] < 0x7f ? path[n] : '?';
        shown[n] = '\0';
        log_warning("File '%s' is not accepted from %s: %s, skipping.", shown, where, why);
}

static bool is_initdata_file(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(initdata_files); i++)
                if (streq(initdata_files[i], name))
                        return true;
        return false;
}

/* Reads initdata, or the dummy where none came, and adds what is in it. */
static int plan_initdata(Plan *p, const CloudConfigFile *f, char **reterr) {
        _cleanup_(freep) char *why = NULL;
        const TomlValue *data;
        const char *encoded;
        unsigned n_skipped = 0;
        size_t size;
        int r;

        if (!f) {
                log_info("The user data has no '" PODVM_DATA_DIR "/initdata', taking the empty one.");
                r = initdata_encode(INITDATA_DUMMY, &p->dummy);
                if (r < 0)
                        return r;
        }
        encoded = f ? f->content : p->dummy;
        size = f ? f->size : strlen(p->dummy);

        r = initdata_decode(encoded, size, &p->initdata, &why);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return error_text(reterr, r, "The initdata cannot be used: %s.", strempty(why));
        initdata_digest_hex(&p->initdata, p->digest);

        plan_add(p, "initdata", encoded, size);
        plan_add(p, DIGEST_NAME, p->digest, strlen(p->digest));
        data = initdata_data(&p->initdata);
        for (size_t i = 0; i < ELEMENTSOF(initdata_files); i++) {
                const TomlValue *v = toml_get(data, initdata_files[i]);

                plan_add(p, initdata_files[i], v ? v->text : NULL, v ? v->size : 0);
        }
        FOREACH_ELEMENT(const TomlValue, v, data->items, data->n_items)
                if (!is_initdata_file(v->key) && n_skipped++ < SKIPPED_SHOWN_MAX)
                        log_skipped(v->key, "initdata", "nobody here reads a file of this name");
        return 0;
}

static int plan_apf(Plan *p, const CloudConfigFile *apf, char **reterr) {
        _cleanup_(apf_config_done) ApfConfig config = APF_CONFIG_NULL;
        _cleanup_(freep) char *why = NULL;
        int r;

        if (!apf)
                return error_text(reterr, -EBADMSG, "The user data has no '" PODVM_APF_CONFIG "', without which nobody can reach this VM.");

        r = apf_config_parse(apf->content, apf->size, &config, &why);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return error_text(reterr, -EBADMSG, "'%s' cannot be used: %s.", apf->path, strempty(why));

        plan_add_file(p, "apf.json", apf);
        return 0;
}

static int plan_files(Plan *p, const CloudConfig *c, char **reterr) {
        const CloudConfigFile *apf = NULL, *initdata = NULL;
        int r;

        for (size_t i = 0; i < c->n_files; i++) {
                const CloudConfigFile *f = c->files + i;
                int k = find_allowed(f->path);

                if (k < 0) {
                        log_skipped(f->path, "user data", "its path is not on the list");
                        continue;
                }
                if (allowed[k].rule == RULE_INITDATA_ONLY) {
                        log_skipped(f->path, "user data", "it must come in initdata, where it is measured");
                        continue;
                }

                if (plan_has(p, allowed[k].name) || (apf && allowed[k].rule == RULE_APF) ||
                    (initdata && allowed[k].rule == RULE_INITDATA))
                        return error_text(reterr, -EBADMSG, "File '%s' is given twice.", f->path);

                if (allowed[k].rule == RULE_APF)
                        apf = f;
                else if (allowed[k].rule == RULE_INITDATA)
                        initdata = f;
                else
                        plan_add_file(p, allowed[k].name, f);
        }

        r = plan_initdata(p, initdata, reterr);
        if (r < 0)
                return r;
        plan_add(p, LOG_NAME, NULL, 0);         /* known when it is done */
        return plan_apf(p, apf, reterr);        /* goes last */
}

static int open_output(Plan *p, char **reterr) {
        struct stat st;

        if (mkdir(p->output_dir, 0700) >= 0)
                p->dir_made = true;
        else if (errno != EEXIST)
                return error_text(reterr, -errno, "Cannot make directory '%s': %s.", p->output_dir, strerror(errno));

        p->dir_fd = open(p->output_dir, O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);
        if (p->dir_fd < 0)
                return error_text(reterr, -errno, "Cannot open directory '%s': %s.", p->output_dir, strerror(errno));
        if (fstat(p->dir_fd, &st) < 0)
                return -errno;
        if (st.st_uid != geteuid() || (st.st_mode & 022))
                return error_text(reterr, -EPERM, "Directory '%s' can be written by others.", p->output_dir);
        return 0;
}

/* A digest without an apf.json is what a run leaves that was cut off at its very end: it is for the same initdata, or for nobody. */
static int check_earlier_digest(const Plan *p, char **reterr) {
        _cleanup_(freep) char *digest = NULL;
        int r;

        r = read_full_file_at(p->dir_fd, DIGEST_NAME, INITDATA_DIGEST_HEX_SIZE, &digest, NULL);
        if (r == -ENOENT || r == -ENOMEM)
                return r == -ENOENT ? 0 : r;
        if (r < 0 || !streq(digest, p->digest))
                return error_text(reterr, -EEXIST, "'%s/" DIGEST_NAME "' is of other initdata; this VM takes new data only after a reboot.",
                                  p->output_dir);
        return 0;
}

/* 1: provisioned with this data before; 0: not provisioned at all. */
static int check_earlier(const Plan *p, const char *text, size_t size, char **reterr) {
        char *earlier = NULL;
        size_t earlier_size = 0;
        struct stat st;
        int r;

        if (fstatat(p->dir_fd, "apf.json", &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? check_earlier_digest(p, reterr) : -errno;

        r = read_full_file_at(p->dir_fd, RAW_NAME, CLOUD_CONFIG_SIZE_MAX, &earlier, &earlier_size);
        if (r == -ENOENT)
                return error_text(reterr, -EEXIST, "'%s/apf.json' is there already, and was not written by this program.", p->output_dir);
        if (r < 0)
                return error_text(reterr, r, "Cannot read '%s/" RAW_NAME "': %s.", p->output_dir, strerror(-r));

        r = earlier_size == size && memcmp(earlier, text, size) == 0;
        erase_free(earlier, earlier_size);
        if (!r)
                return error_text(reterr, -EEXIST,
                                  "This VM was provisioned with other user data before; it takes new data only after a reboot.");
        return 1;
}

static int make_temporary_name(const char *name, char **ret) {
        uint64_t random;

        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
                return -errno;
        if (asprintf(ret, TEMPORARY_PREFIX "%s.%016llx", name, (unsigned long long) random) < 0) {
                *ret = NULL;
                return -ENOMEM;
        }
        return 0;
}

static int write_temporary(Plan *p, Item *item) {
        _cleanup_(close_fdp) int fd = -EBADF;
        _cleanup_(freep) char *name = NULL;
        int r;

        r = make_temporary_name(item->name, &name);
        if (r < 0)
                return r;
        if (!item->content) {
                item->temporary = TAKE_PTR(name);
                return 0;
        }

        fd = openat(p->dir_fd, name, O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC|O_NOFOLLOW, FILE_MODE);
        if (fd < 0)
                return -errno;
        item->temporary = TAKE_PTR(name);       /* from here on it has to be removed */

        r = write_full(fd, item->content, item->size);
        if (r < 0)
                return r;
        if (fchmod(fd, item->mode) < 0)
                return -errno;
        if (fsync(fd) < 0)
                return -errno;
        return 0;
}

/* What was in the place, such as the empty auth.json that tmpfiles makes, stays under the temporary name until all is done. */
static int place(Plan *p, Item *item) {
        struct stat st;

        if (fstatat(p->dir_fd, item->name, &st, AT_SYMLINK_NOFOLLOW) >= 0) {
                if (S_ISDIR(st.st_mode))
                        return -EISDIR;
                if (!item->content) {
                        if (renameat2(p->dir_fd, item->name, p->dir_fd, item->temporary, RENAME_NOREPLACE) < 0)
                                return -errno;
                        item->removed = true;
                        return 0;
                }
                if (renameat2(p->dir_fd, item->temporary, p->dir_fd, item->name, RENAME_EXCHANGE) < 0)
                        return -errno;
                item->replaced = true;
        } else if (errno != ENOENT)
                return -errno;
        else if (!item->content)
                return 0;
        else if (renameat2(p->dir_fd, item->temporary, p->dir_fd, item->name, RENAME_NOREPLACE) < 0)
                return -errno;

        item->placed = true;
        return 0;
}

static void plan_undo(Plan *p) {
        for (size_t i = p->n; i > 0; i--) {
                Item *item = p->items + i - 1;

                if (item->removed)
                        (void) renameat2(p->dir_fd, item->temporary, p->dir_fd, item->name, RENAME_NOREPLACE);
                item->removed = false;
                if (!item->placed)
                        continue;
                if (item->replaced)
                        (void) renameat2(p->dir_fd, item->temporary, p->dir_fd, item->name, RENAME_EXCHANGE);
                else
                        (void) renameat(p->dir_fd, item->name, p->dir_fd, item->temporary);
                item->placed = item->replaced = false;
        }
}

/* Removes temporary files, and the directory if it was made for nothing. */
static void plan_done(Plan *p) {
        bool empty = true;

        for (size_t i = 0; i < p->n; i++) {
                Item *item = p->items + i;

                if (item->temporary && (!item->placed || item->replaced))
                        (void) unlinkat(p->dir_fd, item->temporary, 0);
                if (item->placed)
                        empty = false;
                free(item->temporary);
                item->temporary = NULL;
        }

        p->dir_fd = close_fd(p->dir_fd);
        if (p->dir_made && empty)
                (void) rmdir(p->output_dir);

        initdata_done(&p->initdata);
        free(p->dummy);
        free(p->event);
}

static int write_temporaries(Plan *p, char **reterr) {
        for (size_t i = 0; i < p->n; i++) {
                Item *item = p->items + i;
                int r = item->temporary ? 0 : write_temporary(p, item);

                if (r < 0)
                        return error_text(reterr, r, "Cannot write '%s/%s': %s.", p->output_dir, item->name, strerror(-r));
        }
        return 0;
}

static int write_event(Plan *p, char **reterr) {
        Item *item = p->items + p->n - 2;       /* before apf.json */

        assert(streq(item->name, LOG_NAME));
        if (!p->event)
                return 0;

        free(TAKE_PTR(item->temporary));        /* the name for a file that is to go */
        item->content = p->event;
        item->size = strlen(p->event);
        return write_temporaries(p, reterr);
}

/* A PCR cannot be taken back, so it comes when all that may fail has succeeded, but for renames. */
static int write_files(Plan *p, const MeasureSettings *measure, char **reterr) {
        int r;

        (void) remove_temporary_files_at(p->dir_fd);            /* of a run that was killed; nobody else writes here yet */
        r = write_temporaries(p, reterr);
        if (r < 0)
                return r;
        r = measure_initdata(measure, &p->initdata, /* again= */ false, &p->event, reterr);
        if (r < 0)
                return r;
        r = write_event(p, reterr);
        if (r < 0)
                return r;

        for (size_t i = 0; i < p->n; i++) {
                r = place(p, p->items + i);
                if (r < 0) {
                        (void) error_text(reterr, r, "Cannot put '%s/%s' into its place: %s.", p->output_dir, p->items[i].name,
                                          strerror(-r));
                        plan_undo(p);
                        return r;
                }
        }

        if (fsync(p->dir_fd) < 0) {
                r = -errno;
                plan_undo(p);
                return error_text(reterr, r, "Cannot sync directory '%s': %s.", p->output_dir, strerror(-r));
        }
        return 0;
}

int provision(const char *text, size_t size, const char *output_dir, const MeasureSettings *measure, char **reterr) {
        _cleanup_(plan_done) Plan p = { .dir_fd = -EBADF, .output_dir = output_dir };
        _cleanup_(cloud_config_done) CloudConfig config = CLOUD_CONFIG_NULL;
        _cleanup_(freep) char *why = NULL;
        int r;

        r = cloud_config_parse(text, size, &config, &why);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return error_text(reterr, -EBADMSG, "The user data cannot be read: %s.", strempty(why));
        for (size_t i = 0; i < config.n_warnings; i++)
                log_warning("User data: %s.", config.warnings[i]);

        plan_add(&p, RAW_NAME, text, size);
        r = plan_files(&p, &config, reterr);
        if (r < 0)
                return r;

        r = open_output(&p, reterr);
        if (r < 0)
                return r;
        r = check_earlier(&p, text, size, reterr);
        if (r < 0)
                return r;
        if (r > 0) {
                r = measure_initdata(measure, &p.initdata, /* again= */ true, &p.event, reterr);
                return r < 0 ? r : PROVISION_ALREADY;
        }

        r = write_files(&p, measure, reterr);
        if (r < 0)
                return r;

        for (size_t i = 0; i < p.n; i++)
                if (p.items[i].content)
                        log_info("Wrote '%s/%s'.", output_dir, p.items[i].name);
        return PROVISION_DONE;
}
