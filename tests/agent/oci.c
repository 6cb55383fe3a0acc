/* SPDX-License-Identifier: Apache-2.0 */
/* The specification as Kata's protocol carries it becomes the config.json that crun reads (opencontainers/runtime-spec:
 * config.md, config-linux.md). Left out: hooks, which the runtime never sends to a pod VM, device rules of the control group, and
 * whatever is for other systems. */
#include "agent.h"

#include <json-c/json.h>
#include <stdio.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/log.h"
#include "basic/strv.h"
#include "basic/util.h"

/* Building: every helper takes what it is given, and a missing piece (no memory) makes the whole fail at the end. */
typedef struct Builder {
        bool failed;
} Builder;

static void put(Builder *b, json_object *o, const char *key, json_object *value) {
        if (!o || json_set(o, key, value) < 0) {
                b->failed = true;
                if (!o)
                        json_object_put(value);
        }
}

static void put_string(Builder *b, json_object *o, const char *key, const char *value) {
        if (!isempty(value))
                put(b, o, key, json_object_new_string(value));
}

static void put_strings(Builder *b, json_object *o, const char *key, char **values, size_t n) {
        json_object *array;

        if (n == 0)
                return;
        array = json_object_new_array_ext((int) n);
        for (size_t i = 0; array && i < n; i++) {
                json_object *s = json_object_new_string(values[i]);

                if (!s || json_object_array_add(array, s) < 0) {
                        json_object_put(s);
                        b->failed = true;
                }
        }
        put(b, o, key, array);
}

static void put_int(Builder *b, json_object *o, const char *key, int64_t value) {
        put(b, o, key, json_object_new_int64(value));
}

static void put_uint(Builder *b, json_object *o, const char *key, uint64_t value) {
        put(b, o, key, json_object_new_uint64(value));
}

static void put_bool(Builder *b, json_object *o, const char *key, bool value) {
        put(b, o, key, json_object_new_boolean(value));
}

static json_object* put_object(Builder *b, json_object *o, const char *key) {
        json_object *child = json_object_new_object();

        put(b, o, key, child);
        return b->failed ? NULL : child;
}

static json_object* put_array(Builder *b, json_object *o, const char *key) {
        json_object *child = json_object_new_array();

        put(b, o, key, child);
        return b->failed ? NULL : child;
}

static json_object* add_object(Builder *b, json_object *array) {
        json_object *child = json_object_new_object();

        if (!array || !child || json_object_array_add(array, child) < 0) {
                json_object_put(child);
                b->failed = true;
                return NULL;
        }
        return child;
}

static json_object* make_process(Builder *b, const Grpc__Process *p, bool pause) {
        json_object *o = json_object_new_object(), *user;
        char *pause_args[] = { (char*) "/pause" };

        put_bool(b, o, "terminal", p->terminal);
        if (p->consolesize && p->consolesize->height > 0) {
                json_object *size = put_object(b, o, "consoleSize");

                put_uint(b, size, "height", p->consolesize->height);
                put_uint(b, size, "width", p->consolesize->width);
        }

        user = put_object(b, o, "user");
        put_uint(b, user, "uid", p->user ? p->user->uid : 0);
        put_uint(b, user, "gid", p->user ? p->user->gid : 0);
        if (p->user && p->user->n_additionalgids > 0) {
                json_object *gids = put_array(b, user, "additionalGids");

                for (size_t i = 0; gids && i < p->user->n_additionalgids; i++)
                        if (json_object_array_add(gids, json_object_new_uint64(p->user->additionalgids[i])) < 0)
                                b->failed = true;
        }

        if (pause)
                put_strings(b, o, "args", pause_args, 1);
        else
                put_strings(b, o, "args", p->args, p->n_args);
        put_strings(b, o, "env", p->env, p->n_env);
        put_string(b, o, "cwd", isempty(p->cwd) ? "/" : p->cwd);

        if (p->capabilities) {
                json_object *caps = put_object(b, o, "capabilities");

                put_strings(b, caps, "bounding", p->capabilities->bounding, p->capabilities->n_bounding);
                put_strings(b, caps, "effective", p->capabilities->effective, p->capabilities->n_effective);
                put_strings(b, caps, "inheritable", p->capabilities->inheritable, p->capabilities->n_inheritable);
                put_strings(b, caps, "permitted", p->capabilities->permitted, p->capabilities->n_permitted);
                put_strings(b, caps, "ambient", p->capabilities->ambient, p->capabilities->n_ambient);
        }
        if (p->n_rlimits > 0) {
                json_object *limits = put_array(b, o, "rlimits");

                for (size_t i = 0; i < p->n_rlimits; i++) {
                        json_object *l = add_object(b, limits);

                        put_string(b, l, "type", p->rlimits[i]->type);
                        put_uint(b, l, "hard", p->rlimits[i]->hard);
                        put_uint(b, l, "soft", p->rlimits[i]->soft);
                }
        }
        put_bool(b, o, "noNewPrivileges", p->nonewprivileges);
        if (p->oomscoreadj != 0)
                put_int(b, o, "oomScoreAdj", p->oomscoreadj);
        return o;
}

static void put_mounts(Builder *b, json_object *o, const Grpc__Spec *spec) {
        json_object *mounts = put_array(b, o, "mounts");

        for (size_t i = 0; i < spec->n_mounts; i++) {
                const Grpc__Mount *m = spec->mounts[i];
                json_object *mo = add_object(b, mounts);

                put_string(b, mo, "destination", m->destination);
                put_string(b, mo, "source", m->source);
                put_string(b, mo, "type", m->type);
                put_strings(b, mo, "options", m->options, m->n_options);
        }
}

/* Only what this kernel can do: crun fails on a limit whose controller is missing. */
static void put_resources(Builder *b, json_object *linux_object, const Grpc__LinuxResources *r) {
        json_object *o = put_object(b, linux_object, "resources");

        if (r->memory && cgroup_has_controller("/sys/fs/cgroup", "memory")) {
                json_object *m = put_object(b, o, "memory");

                if (r->memory->limit != 0)
                        put_int(b, m, "limit", r->memory->limit);
                if (r->memory->reservation != 0)
                        put_int(b, m, "reservation", r->memory->reservation);
                if (r->memory->swap != 0)
                        put_int(b, m, "swap", r->memory->swap);
        }
        if (r->cpu && cgroup_has_controller("/sys/fs/cgroup", "cpu")) {
                json_object *c = put_object(b, o, "cpu");

                if (r->cpu->shares > 0)
                        put_uint(b, c, "shares", r->cpu->shares);
                if (r->cpu->quota != 0)
                        put_int(b, c, "quota", r->cpu->quota);
                if (r->cpu->period > 0)
                        put_uint(b, c, "period", r->cpu->period);
        }
        if (r->pids && r->pids->limit != 0 && cgroup_has_controller("/sys/fs/cgroup", "pids"))
                put_int(b, put_object(b, o, "pids"), "limit", r->pids->limit);
}

const char* oci_annotation(const Grpc__Spec *spec, const char *key) {
        for (size_t i = 0; i < spec->n_annotations; i++)
                if (streq(spec->annotations[i]->key, key))
                        return spec->annotations[i]->value;
        return NULL;
}

static void put_namespace(Builder *b, json_object *array, const char *type, const char *path) {
        json_object *o = add_object(b, array);

        put_string(b, o, "type", type);
        put_string(b, o, "path", path);
}

/* kata-containers: src/agent/src/rpc.rs, update_container_namespaces(): ipc and uts are the sandbox's, pid is the sandbox's
 * or a new one, and the rest is as it was sent; the forwarder has put in the network namespace. */
static void put_namespaces(Builder *b, json_object *o, const Agent *a, const Grpc__Spec *spec, bool sandbox_pidns) {
        const Grpc__Linux *l = spec->linux;
        json_object *array = put_array(b, o, "namespaces");
        char buffer[256];
        bool has_mount = false;

        for (size_t i = 0; i < l->n_namespaces; i++) {
                const char *type = l->namespaces[i]->type, *path = l->namespaces[i]->path;

                if (streq(type, "pid"))
                        continue;
                if (streq(type, "ipc") || streq(type, "uts"))
                        path = sandbox_namespace_path(a, type, buffer, sizeof(buffer));
                if (streq(type, "mount"))
                        has_mount = true;
                put_namespace(b, array, type, path);
        }
        if (!oci_annotation(spec, VM_PROCESSES_ANNOTATION))
                put_namespace(b, array, "pid", sandbox_pidns ? sandbox_namespace_path(a, "pid", buffer, sizeof(buffer)) : NULL);
        if (!has_mount)
                put_namespace(b, array, "mount", NULL);
}

static void put_id_mappings(Builder *b, json_object *o, const char *key, Grpc__LinuxIDMapping **mappings, size_t n) {
        json_object *array;

        if (n == 0)
                return;
        array = put_array(b, o, key);
        for (size_t i = 0; i < n; i++) {
                json_object *m = add_object(b, array);

                put_uint(b, m, "hostID", mappings[i]->hostid);
                put_uint(b, m, "containerID", mappings[i]->containerid);
                put_uint(b, m, "size", mappings[i]->size);
        }
}

static void put_seccomp(Builder *b, json_object *o, const Grpc__LinuxSeccomp *s) {
        json_object *so = put_object(b, o, "seccomp"), *syscalls;

        put_string(b, so, "defaultAction", s->defaultaction);
        put_strings(b, so, "architectures", s->architectures, s->n_architectures);
        put_strings(b, so, "flags", s->flags, s->n_flags);
        syscalls = put_array(b, so, "syscalls");
        for (size_t i = 0; i < s->n_syscalls; i++) {
                const Grpc__LinuxSyscall *c = s->syscalls[i];
                json_object *co = add_object(b, syscalls), *args;

                put_strings(b, co, "names", c->names, c->n_names);
                put_string(b, co, "action", c->action);
                if (c->errno_ret_case != 0)
                        put_uint(b, co, "errnoRet", c->errnoret);
                if (c->n_args == 0)
                        continue;
                args = put_array(b, co, "args");
                for (size_t k = 0; k < c->n_args; k++) {
                        json_object *ao = add_object(b, args);

                        put_uint(b, ao, "index", c->args[k]->index);
                        put_uint(b, ao, "value", c->args[k]->value);
                        put_uint(b, ao, "valueTwo", c->args[k]->valuetwo);
                        put_string(b, ao, "op", c->args[k]->op);
                }
        }
}

static void put_devices(Builder *b, json_object *o, const Grpc__Linux *l) {
        json_object *array;

        if (l->n_devices == 0)
                return;
        array = put_array(b, o, "devices");
        for (size_t i = 0; i < l->n_devices; i++) {
                const Grpc__LinuxDevice *d = l->devices[i];
                json_object *dev = add_object(b, array);

                put_string(b, dev, "path", d->path);
                put_string(b, dev, "type", d->type);
                put_int(b, dev, "major", d->major);
                put_int(b, dev, "minor", d->minor);
                put_uint(b, dev, "fileMode", d->filemode & 07777);
                put_uint(b, dev, "uid", d->uid);
                put_uint(b, dev, "gid", d->gid);
        }
}

/* "/kubepods/…" is taken as it is; systemd's "slice:prefix:name" is for another manager, and ".." for nobody. */
static void put_cgroups_path(Builder *b, json_object *o, const Agent *a, const Container *c, const char *sent) {
        _cleanup_(freep) char *path = NULL;

        if (isempty(a->settings->cgroup_parent) && sent[0] == '/' && !strchr(sent, ':') && !strstr(sent, "..")) {
                put_string(b, o, "cgroupsPath", sent);
                return;
        }
        if (asprintf(&path, "%s/%s", isempty(a->settings->cgroup_parent) ? "/kata" : a->settings->cgroup_parent, c->id) < 0)
                path = NULL;
        if (!path)
                b->failed = true;
        put_string(b, o, "cgroupsPath", path);
}

static int write_json(Builder *b, json_object *o, const char *path) {
        const char *text;
        size_t size;

        if (b->failed || !o)
                return -ENOMEM;
        text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &size);
        if (!text)
                return -ENOMEM;
        return write_file_atomic(path, text, size, 0600);
}

int oci_write_config(const Agent *a, const Container *c, const Grpc__Spec *spec, bool pause, bool sandbox_pidns, const char *path) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        const Grpc__Linux *l = spec->linux;
        json_object *lo;
        Builder b = {};

        put_string(&b, o, "ociVersion", isempty(spec->version) ? "1.0.2" : spec->version);
        put(&b, o, "process", make_process(&b, spec->process, pause));

        lo = put_object(&b, o, "root");
        put_string(&b, lo, "path", "rootfs");
        put_bool(&b, lo, "readonly", spec->root && spec->root->readonly);
        if (!a->sandbox_namespaces)                     /* otherwise the sandbox's namespace has its name already */
                put_string(&b, o, "hostname", spec->hostname);
        put_mounts(&b, o, spec);

        if (spec->n_annotations > 0) {
                json_object *annotations = put_object(&b, o, "annotations");

                for (size_t i = 0; i < spec->n_annotations; i++)
                        put(&b, annotations, spec->annotations[i]->key, json_object_new_string(spec->annotations[i]->value));
        }

        lo = put_object(&b, o, "linux");
        put_id_mappings(&b, lo, "uidMappings", l->uidmappings, l->n_uidmappings);
        put_id_mappings(&b, lo, "gidMappings", l->gidmappings, l->n_gidmappings);
        if (l->n_sysctl > 0) {
                json_object *sysctl = put_object(&b, lo, "sysctl");

                for (size_t i = 0; i < l->n_sysctl; i++)
                        put(&b, sysctl, l->sysctl[i]->key, json_object_new_string(l->sysctl[i]->value));
        }
        if (l->resources)
                put_resources(&b, lo, l->resources);
        put_cgroups_path(&b, lo, a, c, strempty(l->cgroupspath));
        put_namespaces(&b, lo, a, spec, sandbox_pidns);
        put_devices(&b, lo, l);
        if (l->seccomp)
                put_seccomp(&b, lo, l->seccomp);
        put_string(&b, lo, "rootfsPropagation", l->rootfspropagation);
        put_strings(&b, lo, "maskedPaths", l->maskedpaths, l->n_maskedpaths);
        put_strings(&b, lo, "readonlyPaths", l->readonlypaths, l->n_readonlypaths);

        return write_json(&b, o, path);
}

int oci_write_process(const Grpc__Process *process, const char *path) {
        Builder b = {};
        _cleanup_(json_object_putp) json_object *o = make_process(&b, process, /* pause= */ false);

        return write_json(&b, o, path);
}
