/* SPDX-License-Identifier: Apache-2.0 */
/* User data is the host's, and not measured: so what it may reach is a fixed list of files, none of which can change what runs
 * in the VM (cloud-api-adaptor: src/cloud-api-adaptor/pkg/userdata/provision.go, WriteFilesList). aa.toml and cdh.toml, which
 * say whom the VM trusts, are on upstream's list too; they are accepted from initdata only, whose digest is measured.
 *
 * Invariant: apf.json is there if and only if every other file of the same user data is, since it is renamed into place last
 * and is the one file that must be among them. It is what a second run and the services behind this one look at. */
#include "podvm/process-user-data/provision.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/paths.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "userdata/apf.h"
#include "userdata/cloud-config.h"

#define FILE_MODE 0600
#define RAW_NAME "user-data"                    /* the data as it came, for a second run to compare */

typedef enum Rule {
        RULE_WRITE,
        RULE_INITDATA,                          /* to be decoded, measured and unpacked */
        RULE_INITDATA_ONLY,                     /* accepted as a part of initdata only */
} Rule;

static const struct {
        const char *name;                       /* below PODVM_DATA_DIR */
        Rule rule;
} allowed[] = {
        { "auth.json",            RULE_WRITE         },
        { "scratch-space.marker", RULE_WRITE         },
        { "apf.json",             RULE_WRITE         },
        { "initdata",             RULE_INITDATA      },
        { "aa.toml",              RULE_INITDATA_ONLY },
        { "cdh.toml",             RULE_INITDATA_ONLY },
};

/* One file on its way to its place. */
typedef struct Item {
        const char *name;                       /* borrowed: constant */
        const char *content;                    /* borrowed: of the document */
        size_t size;
        char *temporary;                        /* its name, or that of the file it replaced; NULL = nothing to clean up */
        bool placed, replaced;
} Item;

typedef struct Plan {
        Item items[ELEMENTSOF(allowed) + 1];
        size_t n;
        int dir_fd;
        bool dir_made;
        const char *output_dir;                 /* borrowed */
} Plan;

static int fail(char **reterr, int error, const char *format, ...) PRINTF(3, 4);
static int fail(char **reterr, int error, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        if (vasprintf(reterr, format, ap) < 0)
                *reterr = NULL;
        va_end(ap);
        return error;
}

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
        p->items[p->n++] = (Item) { .name = name, .content = content, .size = size };
}

/* A path comes from outside: shown with nothing in it that a terminal would obey. */
static void log_skipped(const char *path, const char *why) {
        char shown[128];
        size_t n;

        for (n = 0; path[n] && n < sizeof(shown) - 1; n++)
                shown[n] = path[n] >= 0x20 && path[n] < 0x7f ? path[n] : '?';
        shown[n] = '\0';
        log_warning("File '%s' is not accepted from user data: %s, skipping.", shown, why);
}

static int plan_files(Plan *p, const CloudConfig *c, char **reterr) {
        const CloudConfigFile *apf = NULL;

        for (size_t i = 0; i < c->n_files; i++) {
                const CloudConfigFile *f = c->files + i;
                int k = find_allowed(f->path);

                if (k < 0) {
                        log_skipped(f->path, "its path is not on the list");
                        continue;
                }

                switch (allowed[k].rule) {
                case RULE_INITDATA_ONLY:
                        log_skipped(f->path, "it must come in initdata, where it is measured");
                        continue;
                case RULE_INITDATA:
                        /* To go on without it would give the pod another policy and other trust than its owner asked for. */
                        return fail(reterr, -EOPNOTSUPP,
                                    "The user data has initdata, and this version cannot measure and unpack it; refusing to go on without.");
                case RULE_WRITE:
                        break;
                }

                if (plan_has(p, allowed[k].name) || (apf && streq(allowed[k].name, "apf.json")))
                        return fail(reterr, -EBADMSG, "File '%s' is given twice.", f->path);

                if (streq(allowed[k].name, "apf.json"))
                        apf = f;                /* goes last */
                else
                        plan_add(p, allowed[k].name, f->content, f->size);
        }

        if (!apf)
                return fail(reterr, -EBADMSG, "The user data has no '%s', without which nobody can reach this VM.", PODVM_APF_CONFIG);

        _cleanup_(apf_config_done) ApfConfig config = APF_CONFIG_NULL;
        _cleanup_(freep) char *why = NULL;
        int r;

        r = apf_config_parse(apf->content, apf->size, &config, &why);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return fail(reterr, -EBADMSG, "'%s' cannot be used: %s.", apf->path, strempty(why));

        plan_add(p, "apf.json", apf->content, apf->size);
        return 0;
}

static int open_output(Plan *p, char **reterr) {
        struct stat st;

        if (mkdir(p->output_dir, 0700) >= 0)
                p->dir_made = true;
        else if (errno != EEXIST)
                return fail(reterr, -errno, "Cannot make directory '%s': %s.", p->output_dir, strerror(errno));

        p->dir_fd = open(p->output_dir, O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);
        if (p->dir_fd < 0)
                return fail(reterr, -errno, "Cannot open directory '%s': %s.", p->output_dir, strerror(errno));
        if (fstat(p->dir_fd, &st) < 0)
                return -errno;
        if (st.st_uid != geteuid() || (st.st_mode & 022))
                return fail(reterr, -EPERM, "Directory '%s' can be written by others.", p->output_dir);
        return 0;
}

/* 1: provisioned with this data before; 0: not provisioned at all. */
static int check_earlier(const Plan *p, const char *text, size_t size, char **reterr) {
        char *earlier = NULL;
        size_t earlier_size = 0;
        struct stat st;
        int r;

        if (fstatat(p->dir_fd, "apf.json", &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : -errno;

        r = read_full_file_at(p->dir_fd, RAW_NAME, CLOUD_CONFIG_SIZE_MAX, &earlier, &earlier_size);
        if (r == -ENOENT)
                return fail(reterr, -EEXIST, "'%s/apf.json' is there already, and was not written by this program.", p->output_dir);
        if (r < 0)
                return fail(reterr, r, "Cannot read '%s/" RAW_NAME "': %s.", p->output_dir, strerror(-r));

        r = earlier_size == size && memcmp(earlier, text, size) == 0;
        erase_free(earlier, earlier_size);
        if (!r)
                return fail(reterr, -EEXIST, "This VM was provisioned with other user data before; it takes new data only after a reboot.");
        return 1;
}

static int write_temporary(Plan *p, Item *item) {
        _cleanup_(close_fdp) int fd = -EBADF;
        _cleanup_(freep) char *name = NULL;
        uint64_t random;
        int r;

        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
                return -errno;
        if (asprintf(&name, ".#%s.%016llx", item->name, (unsigned long long) random) < 0)
                return -ENOMEM;

        fd = openat(p->dir_fd, name, O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC|O_NOFOLLOW, FILE_MODE);
        if (fd < 0)
                return -errno;
        item->temporary = TAKE_PTR(name);       /* from here on it has to be removed */

        r = write_full(fd, item->content, item->size);
        if (r < 0)
                return r;
        if (fchmod(fd, FILE_MODE) < 0)
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
                if (renameat2(p->dir_fd, item->temporary, p->dir_fd, item->name, RENAME_EXCHANGE) < 0)
                        return -errno;
                item->replaced = true;
        } else if (errno != ENOENT ||
                   renameat2(p->dir_fd, item->temporary, p->dir_fd, item->name, RENAME_NOREPLACE) < 0)
                return -errno;

        item->placed = true;
        return 0;
}

static void plan_undo(Plan *p) {
        for (size_t i = p->n; i > 0; i--) {
                Item *item = p->items + i - 1;

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
}

static int write_files(Plan *p, char **reterr) {
        int r;

        for (size_t i = 0; i < p->n; i++) {
                r = write_temporary(p, p->items + i);
                if (r < 0)
                        return fail(reterr, r, "Cannot write '%s/%s': %s.", p->output_dir, p->items[i].name, strerror(-r));
        }

        for (size_t i = 0; i < p->n; i++) {
                r = place(p, p->items + i);
                if (r < 0) {
                        (void) fail(reterr, r, "Cannot put '%s/%s' into its place: %s.", p->output_dir, p->items[i].name, strerror(-r));
                        plan_undo(p);
                        return r;
                }
        }

        if (fsync(p->dir_fd) < 0) {
                r = -errno;
                plan_undo(p);
                return fail(reterr, r, "Cannot sync directory '%s': %s.", p->output_dir, strerror(-r));
        }
        return 0;
}

int provision(const char *text, size_t size, const char *output_dir, char **reterr) {
        _cleanup_(plan_done) Plan p = { .dir_fd = -EBADF, .output_dir = output_dir };
        _cleanup_(cloud_config_done) CloudConfig config = CLOUD_CONFIG_NULL;
        _cleanup_(freep) char *why = NULL;
        int r;

        r = cloud_config_parse(text, size, &config, &why);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return fail(reterr, -EBADMSG, "The user data cannot be read: %s.", strempty(why));
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
        if (r > 0)
                return PROVISION_ALREADY;

        r = write_files(&p, reterr);
        if (r < 0)
                return r;

        for (size_t i = 0; i < p.n; i++)
                log_info("Wrote '%s/%s'.", output_dir, p.items[i].name);
        return PROVISION_DONE;
}
