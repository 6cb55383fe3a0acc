/* SPDX-License-Identifier: Apache-2.0 */
/* What the sandbox has besides containers: directories, mounts, namespaces (kata-containers: src/agent/src/rpc.rs,
 * create_sandbox(); sandbox.rs; storage/). */
#include "agent.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

#define MOUNTINFO_MAX (4U << 20)

static int fail(char **reterr, int error, const char *format, ...) PRINTF(3, 4);
static int fail(char **reterr, int error, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        if (vasprintf(reterr, format, ap) < 0)
                *reterr = NULL;
        va_end(ap);
        return error;
}

static bool path_is_below(const char *path, const char *dir) {
        const char *rest = startswith(path, dir);

        return rest && rest[0] == '/' && rest[1] && !strstr(rest, "/../") && !strstr(rest, "/./") &&
                !(strlen(rest) >= 3 && streq(rest + strlen(rest) - 3, "/.."));
}

/* Detaches every mount strictly below a directory, the last ones first. */
static void unmount_below(const char *dir) {
        _cleanup_(freep) char *text = NULL;
        _cleanup_(strv_freep) char **points = NULL;
        char *saved, *line;

        if (read_full_file_at(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL) < 0)
                return;
        for (line = strtok_r(text, "\n", &saved); line; line = strtok_r(NULL, "\n", &saved)) {
                char *s2, *field = strtok_r(line, " ", &s2);

                for (int i = 0; field && i < 4; i++)    /* proc(5): the fifth is the mount point */
                        field = strtok_r(NULL, " ", &s2);
                if (field && path_is_below(field, dir) && strv_extend(&points, field) < 0)
                        return;
        }
        for (size_t i = strv_length(points); i > 0; i--)
                (void) umount2(points[i - 1], MNT_DETACH);
}

const char* sandbox_namespace_path(const Agent *a, const char *type, char *buffer, size_t size) {
        if (streq(type, "pid")) {
                const Container *first = NULL;

                for (const Container *c = a->containers; c; c = c->next)
                        if (c->init && c->init->pidfd >= 0 && !c->init->exited)
                                first = c;
                if (!first)
                        return NULL;
                (void) snprintf(buffer, size, "/proc/%i/ns/pid", first->init->pid);
                return buffer;
        }

        if (!a->sandbox_namespaces)
                return NULL;
        (void) snprintf(buffer, size, "%s/ns/%s", a->settings->runtime_dir, type);
        return buffer;
}

/* A namespace that lives without a process in it: made by us, pinned by a mount, and left again. */
static int pin_namespace(const Agent *a, const char *type, int flag, const char *hostname) {
        _cleanup_(close_fdp) int own = -EBADF, target = -EBADF;
        _cleanup_(freep) char *path = NULL;
        char self[64];
        int r = 0;

        (void) snprintf(self, sizeof(self), "/proc/self/ns/%s", type);
        if (asprintf(&path, "%s/ns/%s", a->settings->runtime_dir, type) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        target = open(path, O_RDONLY|O_CREAT|O_CLOEXEC|O_NOFOLLOW, 0600);
        if (target < 0)
                return -errno;
        own = open(self, O_RDONLY|O_CLOEXEC);
        if (own < 0 || unshare(flag) < 0)
                return -errno;

        if (!isempty(hostname) && sethostname(hostname, strlen(hostname)) < 0)
                r = -errno;
        if (r >= 0 && mount(self, path, NULL, MS_BIND, NULL) < 0)
                r = -errno;
        if (setns(own, flag) < 0)
                return -errno;
        return r;
}

static int make_namespaces(Agent *a) {
        _cleanup_(freep) char *dir = NULL;
        int r;

        if (asprintf(&dir, "%s/ns", a->settings->runtime_dir) < 0) {
                dir = NULL;
                return -ENOMEM;
        }
        unmount_below(dir);
        r = mkdir_p(dir, 0700);
        if (r < 0)
                return r;
        r = pin_namespace(a, "ipc", CLONE_NEWIPC, NULL);
        if (r >= 0)
                r = pin_namespace(a, "uts", CLONE_NEWUTS, a->hostname);
        a->sandbox_namespaces = r >= 0;
        return r;
}

static int add_tmpfs(const Grpc__Storage *s) {
        _cleanup_(freep) char *data = NULL;
        _cleanup_(strv_freep) char **kept = NULL;
        unsigned long flags = 0;
        int r;

        for (size_t i = 0; i < s->n_options; i++) {
                if (streq(s->options[i], "noexec"))
                        flags |= MS_NOEXEC;
                else if (streq(s->options[i], "nosuid"))
                        flags |= MS_NOSUID;
                else if (streq(s->options[i], "nodev"))
                        flags |= MS_NODEV;
                else if (startswith(s->options[i], "mode=") || startswith(s->options[i], "size=")) {
                        r = strv_extend(&kept, s->options[i]);
                        if (r < 0)
                                return r;
                }
        }

        r = strv_join(kept, ",", &data);
        if (r < 0)
                return r;
        r = mkdir_p(s->mount_point, 0755);
        if (r < 0)
                return r;
        return mount("tmpfs", s->mount_point, "tmpfs", flags, data) < 0 ? -errno : 0;
}

static int add_local(const Grpc__Storage *s) {
        mode_t mode = 0;
        int r;

        for (size_t i = 0; i < s->n_options; i++) {
                const char *octal = startswith(s->options[i], "mode=");

                if (octal)
                        mode = (mode_t) strtoul(octal, NULL, 8) & 07777;
        }
        r = mkdir_p(s->mount_point, 0755);
        if (r < 0)
                return r;
        return mode != 0 && chmod(s->mount_point, mode) < 0 ? -errno : 0;
}

int storage_add(const Agent *a, const Grpc__Storage *s, char **reterr) {
        int r;

        if (!path_is_below(s->mount_point, a->settings->state_dir))
                return fail(reterr, -EINVAL, "Storage '%s' is not below '%s'", s->mount_point, a->settings->state_dir);

        if (streq(s->driver, "ephemeral"))
                r = add_tmpfs(s);
        else if (streq(s->driver, "local"))
                r = add_local(s);
        else
                return fail(reterr, -EOPNOTSUPP, "Storage driver '%s' is not in the stand-in agent", s->driver);

        if (r < 0)
                return fail(reterr, r, "Failed to set up storage '%s': %s", s->mount_point, strerror(-r));
        return 0;
}

static int bind_resolv_conf(const Agent *a, const Grpc__CreateSandboxRequest *request) {
        _cleanup_(freep) char *dir = NULL, *path = NULL, *text = NULL, *old = NULL;
        int r;

        for (size_t i = 0; i < request->n_dns; i++) {
                old = text;
                if (asprintf(&text, "%s%s\n", strempty(old), request->dns[i]) < 0) {
                        text = NULL;
                        return -ENOMEM;
                }
                free(TAKE_PTR(old));
        }
        if (asprintf(&dir, "%s/sandbox", a->settings->state_dir) < 0 || asprintf(&path, "%s/resolv.conf", dir) < 0)
                return -ENOMEM;
        r = mkdir_p(dir, 0755);
        if (r >= 0)
                r = write_file_atomic(path, text, strlen(text), 0644);
        if (r < 0)
                return r;
        return mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

void sandbox_cleanup(Agent *a) {
        unmount_below(a->settings->state_dir);
        unmount_below(a->settings->runtime_dir);
        a->sandbox_namespaces = false;
}

int sandbox_create(Agent *a, const Grpc__CreateSandboxRequest *request, char **reterr) {
        int r;

        if (request->n_kernel_modules > 0)
                return fail(reterr, -EOPNOTSUPP, "Loading of kernel modules is not in the stand-in agent");

        /* Whatever was there goes, sockets of others too: the real agent does just that, and the forwarder and its socket
         * have to live with it. */
        unmount_below(a->settings->state_dir);
        (void) remove_tree(a->settings->state_dir);
        r = mkdir_p(a->settings->state_dir, 0755);
        if (r < 0)
                return fail(reterr, r, "Failed to make '%s': %s", a->settings->state_dir, strerror(-r));

        free(a->sandbox_id);
        free(a->hostname);
        a->sandbox_id = strdup(request->sandbox_id);
        a->hostname = strdup(request->hostname);
        if (!a->sandbox_id || !a->hostname)
                return -ENOMEM;
        a->sandbox_pidns = request->sandbox_pidns;

        r = make_namespaces(a);
        if (r < 0)
                return fail(reterr, r, "Failed to make the sandbox's namespaces: %s", strerror(-r));

        for (size_t i = 0; i < request->n_storages; i++) {
                r = storage_add(a, request->storages[i], reterr);
                if (r < 0)
                        return r;
        }

        if (request->n_dns > 0) {
                r = bind_resolv_conf(a, request);
                if (r < 0)
                        return fail(reterr, r, "Failed to set up resolv.conf: %s", strerror(-r));
        }
        if (!isempty(request->guest_hook_path))
                log_info("Guest hooks are not run by the stand-in agent.");
        return 0;
}
