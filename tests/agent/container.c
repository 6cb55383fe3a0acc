/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"

#include <ctype.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/strv.h"
#include "basic/util.h"

#define TERMINATION_PATH_ANNOTATION "io.kubernetes.container.terminationMessagePath"
#define CONTAINER_TYPE_ANNOTATION "io.kubernetes.cri.container-type"

/* kata-containers: src/agent/src/rpc.rs, verify_id() */
static bool id_is_valid(const char *s) {
        size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

        return n > 1 && n <= 128 && !s[n] && isalnum((unsigned char) s[0]);
}

Container* container_find(Agent *a, const char *id) {
        for (Container *c = a->containers; c; c = c->next)
                if (streq(c->id, id))
                        return c;
        return NULL;
}

static void unmount_rootfs(Container *c) {
        _cleanup_(freep) char *rootfs = NULL;

        if (!c->rootfs_mounted || asprintf(&rootfs, "%s/rootfs", c->bundle) < 0)
                return;
        if (umount2(rootfs, MNT_DETACH) < 0)
                (void) log_warning_errno(errno, "Failed to unmount '%s', ignoring: %m", rootfs);
        c->rootfs_mounted = false;
}

Container* container_free(Container *c) {
        if (!c)
                return NULL;

        for (Container **i = &c->agent->containers; *i; i = &(*i)->next)
                if (*i == c) {
                        *i = c->next;
                        c->agent->n_containers--;
                        break;
                }

        while (c->processes)
                process_free(c->processes);
        oom_unwatch(c);
        unmount_rootfs(c);
        if (c->bundle) {
                int r = remove_tree(c->bundle);
                if (r < 0)
                        (void) log_warning_errno(r, "Failed to remove '%s', ignoring: %m", c->bundle);
        }

        ttrpc_call_unref(c->remove_call);
        sd_event_source_disable_unref(c->remove_timeout);
        free(c->termination_log);
        free(c->termination_error);
        free(c->cgroup);
        free(c->bundle);
        free(c->id);
        free(c);
        return NULL;
}

static const Grpc__Storage* guest_pull_storage(const Grpc__CreateContainerRequest *request) {
        for (size_t i = 0; i < request->n_storages; i++)
                if (streq(request->storages[i]->driver, "image_guest_pull"))
                        return request->storages[i];
        return NULL;
}

static bool is_directory(const char *path) {
        struct stat st;

        return path[0] == '/' && stat(path, &st) >= 0 && S_ISDIR(st.st_mode);
}

/* Layers over a root file system that stays as it is: what the container writes goes with the bundle. */
static int mount_rootfs(Container *c, const char *lower) {
        static const char *const dirs[] = { "rootfs", "upper", "work" };
        _cleanup_(freep) char *options = NULL, *rootfs = NULL;

        if (strpbrk(lower, ":,\\"))
                return -EINVAL;
        for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
                _cleanup_(freep) char *path = NULL;

                if (asprintf(&path, "%s/%s", c->bundle, dirs[i]) < 0)
                        return -ENOMEM;
                if (mkdir(path, 0755) < 0)
                        return -errno;
        }

        if (asprintf(&options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, c->bundle, c->bundle) < 0 ||
            asprintf(&rootfs, "%s/rootfs", c->bundle) < 0)
                return -ENOMEM;
        if (mount("overlay", rootfs, "overlay", 0, options) < 0)
                return -errno;
        c->rootfs_mounted = true;
        return 0;
}

/* The pause image's one program; Kata carries it as /pause_bundle in the guest. */
static int install_pause(Container *c) {
        _cleanup_(freep) char *program = NULL, *path = NULL;
        size_t size;
        int r;

        r = read_full_file_at(AT_FDCWD, c->agent->settings->pause, 16 << 20, &program, &size);
        if (r < 0)
                return r;
        if (asprintf(&path, "%s/rootfs/pause", c->bundle) < 0)
                return -ENOMEM;
        return write_file_atomic(path, program, size, 0755);
}

/* Where the client will look for the termination message: kata-containers: src/agent/src/rpc.rs, get_diagnostic_data(). */
static int remember_termination_log(Container *c, const Grpc__Spec *spec) {
        const char *path = oci_annotation(spec, TERMINATION_PATH_ANNOTATION);

        if (!path)
                return 0;
        for (size_t i = 0; i < spec->n_mounts; i++)
                if (streq(spec->mounts[i]->destination, path)) {
                        c->termination_log = strdup(spec->mounts[i]->source);
                        return c->termination_log ? 0 : -ENOMEM;
                }
        return 0;
}

static void create_done(int status, const char *error, void *userdata) {
        Process *p = userdata;
        Container *c = p->container;
        _cleanup_(ttrpc_call_unrefp) TtrpcCall *call = TAKE_PTR(p->call);
        _cleanup_(freep) char *pid_file = NULL;
        int r;

        c->n_commands--;
        p->starting = false;
        process_close_child_fds(p);

        if (c->removing) {
                (void) ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Container '%s' was removed meanwhile", c->id);
                container_step(c);
                return;
        }

        r = -EIO;
        if (status == 0 && asprintf(&pid_file, "%s/init.pid", c->bundle) >= 0)
                r = process_started(p, pid_file);
        if (r < 0) {
                (void) ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Failed to create container '%s': %s", c->id,
                                               !isempty(error) ? error : status != 0 ? "crun failed" : strerror(-r));
                if (status == 0) {              /* crun knows the container: take the long way */
                        container_remove(c, NULL, 0);
                        return;
                }
                container_free(c);
                return;
        }

        r = cgroup_of_pid("/sys/fs/cgroup", p->pid, &c->cgroup);
        if (r < 0)
                (void) log_warning_errno(r, "Container '%s' has no control group of version 2, no statistics: %m", c->id);
        if (ttrpc_call_reply(call, NULL, 0) < 0)
                log_debug("Nobody waits for container '%s' any more.", c->id);
}

static int container_prepare(Container *c, const Grpc__CreateContainerRequest *request, char **reterr) {
        const Grpc__Storage *image = guest_pull_storage(request);
        const char *lower = c->agent->settings->rootfs, *type = oci_annotation(request->oci, CONTAINER_TYPE_ANNOTATION);
        _cleanup_(freep) char *config = NULL;
        bool pause;
        int r;

        for (size_t i = 0; i < request->n_storages; i++) {
                if (request->storages[i] == image)
                        continue;
                r = storage_add(c->agent, request->storages[i], reterr);
                if (r < 0)
                        return r;
        }

        pause = image && (streq(image->source, "pause") || (type && streq(type, "sandbox")));
        if (!image && request->oci->root && is_directory(request->oci->root->path))
                lower = request->oci->root->path;
        if (mkdir(c->bundle, 0700) < 0)
                return -errno;
        r = mount_rootfs(c, lower);
        if (r < 0) {
                if (asprintf(reterr, "Failed to mount overlay over '%s': %s", lower, strerror(-r)) < 0)
                        *reterr = NULL;
                return r;
        }
        if (pause) {
                r = install_pause(c);
                if (r < 0) {
                        if (asprintf(reterr, "Failed to install '%s': %s", c->agent->settings->pause, strerror(-r)) < 0)
                                *reterr = NULL;
                        return r;
                }
        }

        r = remember_termination_log(c, request->oci);
        if (r < 0)
                return r;
        if (asprintf(&config, "%s/config.json", c->bundle) < 0)
                return -ENOMEM;
        return oci_write_config(c->agent, c, request->oci, pause, request->sandbox_pidns, config);
}

int container_create(Agent *a, TtrpcCall *call, const Grpc__CreateContainerRequest *request) {
        _cleanup_(freep) char *error = NULL, *pid_file = NULL;
        const char *id = request->container_id;
        Container *c;
        Process *p;
        int r;

        if (!id_is_valid(id) || (!isempty(request->exec_id) && !id_is_valid(request->exec_id)))
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Invalid container id");
        if (!request->oci || !request->oci->process || request->oci->process->n_args == 0 || !request->oci->linux)
                return ttrpc_call_reply_status(call, TTRPC_INVALID_ARGUMENT, "No OCI spec, or one without process or linux");
        if (container_find(a, id))
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Container '%s' already exists", id);
        if (a->n_containers >= CONTAINERS_MAX)
                return ttrpc_call_reply_status(call, TTRPC_RESOURCE_EXHAUSTED, "More than %u containers", CONTAINERS_MAX);
        if (a->destroy_call)
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "The sandbox is being destroyed");

        c = new(Container);
        if (!c)
                return -ENOMEM;
        *c = (Container) { .agent = a, .oom_watch = -1, .next = a->containers };
        a->containers = c;
        a->n_containers++;

        c->id = strdup(id);
        if (!c->id || asprintf(&c->bundle, "%s/%s", a->settings->state_dir, id) < 0) {
                c->bundle = NULL;
                r = -ENOMEM;
                goto fail;
        }

        r = container_prepare(c, request, &error);
        if (r < 0)
                goto fail;
        r = process_new(c, !isempty(request->exec_id) ? request->exec_id : id, request->oci->process->terminal, &p);
        if (r < 0)
                goto fail;
        c->init = p;
        if (asprintf(&pid_file, "%s/init.pid", c->bundle) < 0) {
                r = -ENOMEM;
                goto fail;
        }

        const char *const args[] = {
                "create", "--bundle", c->bundle, "--pid-file", pid_file,
                p->console_path ? "--console-socket" : id, p->console_path ? p->console_path : NULL, id, NULL,
        };

        r = command_start_crun(a, args, p->child_fds, create_done, p);
        if (r < 0)
                goto fail;
        c->n_commands++;
        p->call = ttrpc_call_ref(call);
        return 0;

fail:
        (void) ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Failed to create container '%s': %s", id, error ?: strerror(-r));
        container_free(c);
        return 0;
}

typedef struct Start {
        Container *container;
        TtrpcCall *call;
} Start;

static void start_done(int status, const char *error, void *userdata) {
        Start *s = userdata;
        Container *c = s->container;

        c->n_commands--;
        if (status != 0)
                (void) ttrpc_call_reply_status(s->call, TTRPC_INTERNAL, "Failed to start container '%s': %s", c->id,
                                               isempty(error) ? "crun failed" : error);
        else {
                if (!streq(c->id, strempty(c->agent->sandbox_id)))
                        oom_watch(c);
                (void) ttrpc_call_reply(s->call, NULL, 0);
        }

        ttrpc_call_unref(s->call);
        free(s);
        container_step(c);
}

int container_start(Container *c, TtrpcCall *call) {
        const char *const args[] = { "start", c->id, NULL };
        Start *s;
        int r;

        if (c->removing || (c->init && c->init->starting))
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Container '%s' is not there yet, or not any more", c->id);

        s = new(Start);
        if (!s)
                return -ENOMEM;
        *s = (Start) { .container = c, .call = ttrpc_call_ref(call) };

        r = command_start_crun(c->agent, args, NULL, start_done, s);
        if (r < 0) {
                ttrpc_call_unref(s->call);
                free(s);
                return r;
        }
        c->n_commands++;
        return 0;
}

static void exec_files(const Process *p, char **ret_process, char **ret_pid) {
        if (asprintf(ret_process, "%s/exec-%s.json", p->container->bundle, p->exec_id) < 0)
                *ret_process = NULL;
        if (asprintf(ret_pid, "%s/exec-%s.pid", p->container->bundle, p->exec_id) < 0)
                *ret_pid = NULL;
}

static void exec_done(int status, const char *error, void *userdata) {
        Process *p = userdata;
        Container *c = p->container;
        _cleanup_(ttrpc_call_unrefp) TtrpcCall *call = TAKE_PTR(p->call);
        _cleanup_(freep) char *process_file = NULL, *pid_file = NULL;
        int r = -EIO;

        c->n_commands--;
        p->starting = false;
        process_close_child_fds(p);

        exec_files(p, &process_file, &pid_file);
        if (status == 0 && process_file && pid_file)
                r = process_started(p, pid_file);
        if (process_file)
                (void) unlink(process_file);
        if (pid_file)
                (void) unlink(pid_file);

        if (r < 0) {
                (void) ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Failed to run process '%s': %s", p->exec_id,
                                               !isempty(error) ? error : status != 0 ? "crun failed" : strerror(-r));
                process_free(p);
        } else
                (void) ttrpc_call_reply(call, NULL, 0);
        container_step(c);
}

int container_exec(Container *c, TtrpcCall *call, const Grpc__ExecProcessRequest *request) {
        _cleanup_(freep) char *process_file = NULL, *pid_file = NULL;
        Process *p;
        int r;

        if (!id_is_valid(request->exec_id))
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Invalid exec id");
        if (!request->process || request->process->n_args == 0)
                return ttrpc_call_reply_status(call, TTRPC_INVALID_ARGUMENT, "No process");
        if (process_find(c, request->exec_id))
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "exec_id '%s' already exists", request->exec_id);
        if (c->removing || (c->init && c->init->starting))
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Container '%s' is not there yet, or not any more", c->id);

        r = process_new(c, request->exec_id, request->process->terminal, &p);
        if (r < 0)
                return r;
        exec_files(p, &process_file, &pid_file);
        r = process_file && pid_file ? oci_write_process(request->process, process_file) : -ENOMEM;
        if (r < 0) {
                process_free(p);
                return r;
        }

        const char *args[10] = { "exec", "--detach", "--process", process_file, "--pid-file", pid_file };
        size_t n = 6;

        if (p->console_path) {
                args[n++] = "--console-socket";
                args[n++] = p->console_path;
        }
        args[n++] = c->id;

        r = command_start_crun(c->agent, args, p->child_fds, exec_done, p);
        if (r < 0) {
                (void) unlink(process_file);
                process_free(p);
                return r;
        }
        c->n_commands++;
        p->call = ttrpc_call_ref(call);
        return 0;
}

int container_kill_all(Container *c) {
        _cleanup_(freep) char *path = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;

        if (c->cgroup && asprintf(&path, "%s/cgroup.kill", c->cgroup) >= 0) {
                fd = open(path, O_WRONLY|O_CLOEXEC);
                if (fd >= 0 && write(fd, "1", 1) == 1)
                        return 0;
        } else
                path = NULL;

        /* Without a group: all we know, and with the first process the kernel kills the rest of its pid namespace. */
        for (Process *p = c->processes; p; p = p->next)
                (void) process_signal(p, SIGKILL);
        return 0;
}

static void delete_done(int status, const char *error, void *userdata) {
        Container *c = userdata;

        c->n_commands--;
        if (status != 0)
                log_warning("Failed to delete container '%s', ignoring: %s", c->id, isempty(error) ? "crun failed" : error);
        c->deleted = true;
        container_step(c);
}

void container_step(Container *c) {
        const char *const args[] = { "delete", "--force", c->id, NULL };
        Agent *a = c->agent;
        int r;

        if (!c->removing || c->n_commands > 0)
                return;

        if (!c->deleted) {
                /* The first process has to be gone, and its status with its waiters, before the container is. */
                if (c->init && !c->init->exited && c->init->exit_source)
                        return;
                r = command_start_crun(a, args, NULL, delete_done, c);
                if (r < 0) {
                        (void) log_error_errno(r, "Failed to delete container '%s': %m", c->id);
                        c->deleted = true;
                } else {
                        c->n_commands++;
                        return;
                }
        }

        if (c->remove_call) {
                _cleanup_(ttrpc_call_unrefp) TtrpcCall *call = TAKE_PTR(c->remove_call);

                container_free(c);
                (void) ttrpc_call_reply(call, NULL, 0);
        } else
                container_free(c);
        agent_destroy_step(a);
}

static int remove_timed_out(sd_event_source *source, uint64_t usec, void *userdata) {
        Container *c = userdata;

        if (c->remove_call) {
                (void) ttrpc_call_reply_status(c->remove_call, TTRPC_INTERNAL, "ETIME: Timer expired");
                c->remove_call = ttrpc_call_unref(c->remove_call);
        }
        return 0;
}

/* Goes on to its end whether or not anybody still waits for it. */
void container_remove(Container *c, TtrpcCall *call, uint32_t timeout_sec) {
        c->removing = true;
        c->remove_call = call ? ttrpc_call_ref(call) : NULL;
        if (call && timeout_sec > 0)
                (void) sd_event_add_time_relative(c->agent->event, &c->remove_timeout, CLOCK_MONOTONIC,
                                                  timeout_sec * USEC_PER_SEC, 0, remove_timed_out, c);

        (void) container_kill_all(c);
        container_step(c);
}
