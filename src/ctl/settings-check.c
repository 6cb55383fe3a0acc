/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/settings-check.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/env-file.h"
#include "basic/io.h"
#include "basic/strv.h"

#define FILE_SIZE_MAX (4U << 20)
#define OUTPUT_MAX (256U << 10)

typedef struct Program {
        const char *name;
        bool secrets;                   /* its unit reads the second file, too */
} Program;

static const Program programs[] = {
        { "peerpod-adaptor", false },
        { "peerpod-tunneld", false },
        { "peerpod-providerd", true },
};

/* Of a shell or of systemd; an admin may have them in the file for other reasons. */
static const char *const harmless[] = { "PATH", "HOME", "LANG", "TZ", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
                                        "http_proxy", "https_proxy", "no_proxy" };

typedef struct File {
        char *path;
        char **names;
        char **assignments;             /* "NAME=value"; secrets among them */
} File;

static void file_done(File *f) {
        for (char **i = f->assignments; i && *i; i++)
                explicit_bzero(*i, strlen(*i));
        free(f->path);
        strv_free(f->names);
        strv_free(f->assignments);
}

static int on_assignment(const char *key, const char *value, void *userdata) {
        _cleanup_(erase_free_stringp) char *assignment = NULL;
        File *f = userdata;
        int r;

        if (asprintf(&assignment, "%s=%s", key, value) < 0) {
                assignment = NULL;
                return -ENOMEM;
        }
        r = strv_extend(&f->assignments, assignment);
        return r < 0 ? r : strv_extend(&f->names, key);
}

static void check_mode(Findings *f, const char *path, bool secret, const struct stat *st) {
        if (st->st_uid != 0 || (st->st_mode & 022))
                finding_add(f, SEVERITY_ERROR, path, "chown root, chmod go-w.", "Others than root can change the services' settings.");
        else if (secret && (st->st_mode & 077))
                finding_add(f, SEVERITY_ERROR, path, "chmod 0600; systemd reads it before it gives up its privileges.",
                            "Credentials can be read by others than root (mode %04o).", st->st_mode & 07777);
        else
                finding_add(f, SEVERITY_OK, path, NULL, "Belongs to root, mode %04o.", st->st_mode & 07777);
}

/* A file that is not there sets nothing. Returns 0, -ENOMEM. */
static int read_file(Findings *f, const char *directory, const char *name, bool secret, File *ret) {
        _cleanup_(erase_free_stringp) char *text = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        struct stat st;
        int r;

        if (asprintf(&ret->path, "%s/%s", directory, name) < 0) {
                ret->path = NULL;
                return -ENOMEM;
        }
        fd = open(ret->path, O_RDONLY|O_CLOEXEC|O_NOCTTY);
        if (fd < 0) {
                if (errno == EACCES)
                        finding_add(f, SEVERITY_SKIPPED, ret->path, "Run the check as root.", "May not be read.");
                else if (errno != ENOENT)
                        finding_add(f, SEVERITY_ERROR, ret->path, NULL, "Cannot be read: %s", strerror(errno));
                return 0;
        }
        if (fstat(fd, &st) < 0)
                return -errno;
        check_mode(f, ret->path, secret, &st);

        r = read_full_fd(fd, FILE_SIZE_MAX, &text, /* ret_size= */ NULL);
        if (r >= 0)
                r = env_file_parse(text, strlen(text), on_assignment, ret);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                finding_add(f, SEVERITY_ERROR, ret->path, NULL, "Cannot be read: %s", strerror(-r));
        return 0;
}

/* Of two assignments the later one holds, as with systemd. */
static int set_variable(char ***environment, const char *assignment) {
        size_t n = strcspn(assignment, "=") + 1;

        for (char **i = *environment; i && *i; i++)
                if (strncmp(*i, assignment, n) == 0) {
                        char *copy = strdup(assignment);

                        if (!copy)
                                return -ENOMEM;
                        erase_free_stringp(i);
                        *i = copy;
                        return 0;
                }

        return strv_extend(environment, assignment);
}

/* Runs a service's program for an answer, with these settings and no others. Returns its exit status, -errno. */
static int run(const char *path, const char *argument, const File *const *files, size_t n_files, char **ret_output) {
        char *const argv[] = { (char*) path, (char*) argument, NULL };
        _cleanup_(strv_freep) char **environment = NULL;
        int fds[2], status, r = 0;
        pid_t pid;

        for (size_t i = 0; r >= 0 && i < n_files; i++)
                for (char **a = files[i]->assignments; r >= 0 && a && *a; a++)
                        r = set_variable(&environment, *a);
        if (r >= 0 && !environment)
                r = strv_copy(NULL, &environment);
        if (r < 0)
                return r;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        pid = fork();
        if (pid == 0) {
                if (dup2(fds[1], STDOUT_FILENO) >= 0 && dup2(fds[1], STDERR_FILENO) >= 0)
                        (void) execve(path, argv, environment);
                _exit(127);
        }
        close_fd(fds[1]);
        if (pid < 0)
                r = -errno;
        else
                r = read_full_fd(fds[0], OUTPUT_MAX, ret_output, /* ret_size= */ NULL);
        close_fd(fds[0]);
        if (pid > 0)
                (void) waitpid(pid, &status, 0);
        for (char **i = environment; *i; i++)
                explicit_bzero(*i, strlen(*i));

        return r < 0 ? r : WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* "… [$NAME]" and "$NAME …" of --help */
static int learn_names(char *help, char ***names) {
        for (char *p = help; (p = strchr(p, '$'));) {
                size_t n = strspn(++p, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789abcdefghijklmnopqrstuvwxyz");
                char end = p[n];
                int r;

                p[n] = '\0';
                r = strv_extend(names, p);
                p[n] = end;
                if (r < 0)
                        return r;
                p += n;
        }

        return 0;
}

/* The service's own words, without the "<3>" of its log, and one line only. */
static const char* first_line(char *output) {
        char *p = output;

        if (p[0] == '<' && p[1] && p[2] == '>')
                p += 3;
        p[strcspn(p, "\n")] = '\0';
        return p;
}

static int check_program(Findings *f, const Program *p, const char *directory, const File *cm, const File *secret, char ***names) {
        const File *const files[] = { cm, secret };
        _cleanup_(freep) char *path = NULL, *help = NULL, *output = NULL;
        size_t n = p->secrets ? 2 : 1;
        int r;

        if (asprintf(&path, "%s/%s", directory, p->name) < 0) {
                path = NULL;
                return -ENOMEM;
        }

        r = run(path, "--help", files, n, &help);
        if (r == -ENOMEM)
                return r;
        if (r != 0) {
                finding_add(f, SEVERITY_ERROR, p->name, "Install it.", "Cannot be run as '%s'.", path);
                return 0;
        }
        r = learn_names(help, names);
        if (r < 0)
                return r;

        r = run(path, "--check-settings", files, n, &output);
        if (r == -ENOMEM)
                return r;
        if (r == 0)
                finding_add(f, SEVERITY_OK, p->name, NULL, "Takes its settings.");
        else
                finding_add(f, SEVERITY_ERROR, p->name, "Change what it names; its man page has all settings.", "Does not start: %s",
                            r > 0 && !isempty(output) ? first_line(output) : "it did not say why");
        return 0;
}

static size_t distance(const char *a, const char *b) {
        size_t n = strlen(a), m = strlen(b), row[128];

        if (n >= ELEMENTSOF(row) || m >= ELEMENTSOF(row))
                return SIZE_MAX;
        for (size_t j = 0; j <= m; j++)
                row[j] = j;
        for (size_t i = 1; i <= n; i++) {
                size_t diagonal = row[0];

                row[0] = i;
                for (size_t j = 1; j <= m; j++) {
                        size_t above = row[j], cost = diagonal + (a[i - 1] != b[j - 1]), step = MIN(above, row[j - 1]) + 1;

                        row[j] = MIN(cost, step);
                        diagonal = above;
                }
        }

        return row[m];
}

static void check_names(Findings *f, const File *file, char *const *known) {
        for (char **name = file->names; name && *name; name++) {
                _cleanup_(freep) char *remedy = NULL;
                const char *similar = NULL;
                bool found = strv_contains(known, *name);

                for (size_t i = 0; !found && i < ELEMENTSOF(harmless); i++)
                        found = streq(*name, harmless[i]);
                if (found)
                        continue;
                for (char *const *k = known; k && *k && !similar; k++)
                        if (distance(*name, *k) <= 2)
                                similar = *k;

                if (asprintf(&remedy, similar ? "Is %s meant?" : "Remove it, if it is not one of cloud-api-adaptor's without meaning here.%s",
                             similar ?: "") < 0)
                        remedy = NULL;
                finding_add(f, SEVERITY_WARNING, file->path, remedy, "No service reads %s.", *name);
        }
}

int settings_check(Findings *f, const char *directory, const char *program_directory) {
        _cleanup_(file_done) File cm = {}, secret = {};
        _cleanup_(strv_freep) char **known = NULL;
        int r;

        r = read_file(f, directory, "peer-pods-cm.env", /* secret= */ false, &cm);
        if (r >= 0)
                r = read_file(f, directory, "peer-pods-secret.env", /* secret= */ true, &secret);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(programs); i++)
                r = check_program(f, programs + i, program_directory, &cm, &secret, &known);
        if (r < 0)
                return r;

        check_names(f, &cm, known);
        check_names(f, &secret, known);
        return f->out_of_memory ? -ENOMEM : 0;
}
