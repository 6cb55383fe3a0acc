/* SPDX-License-Identifier: Apache-2.0 */
/* CreateContainerRequest from a few options, as Kata's runtime would have made it from an OCI bundle.
 *
 * All work is done on an OCI config in JSON, a given one or the default below; proto-json makes the message of it. What
 * Kata's runtime takes out of a bundle's config before the agent sees it (kata-containers: src/runtime/virtcontainers/
 * kata_agent.go, constrainGRPCSpec) is not in the default and is taken out of a given one: hooks, seccomp, paths of
 * namespaces, namespaces of the host. */
#include "ctl/container-request.h"

#include <json-c/json.h>

#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/text.h"
#include "proto-json/proto-json.h"
#include "proto/agent.pb-c.h"
#include "proto/proto.h"

#define CAPABILITIES \
        "[\"CAP_AUDIT_WRITE\",\"CAP_CHOWN\",\"CAP_DAC_OVERRIDE\",\"CAP_FOWNER\",\"CAP_FSETID\",\"CAP_KILL\",\"CAP_MKNOD\"," \
        "\"CAP_NET_BIND_SERVICE\",\"CAP_NET_RAW\",\"CAP_SETFCAP\",\"CAP_SETGID\",\"CAP_SETPCAP\",\"CAP_SETUID\"," \
        "\"CAP_SYS_CHROOT\"]"

#define DEFAULT_PROCESS \
        "{\"cwd\":\"/\",\"args\":[],\"user\":{\"uid\":0,\"gid\":0}," \
        " \"env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"]," \
        " \"capabilities\":{\"bounding\":" CAPABILITIES ",\"effective\":" CAPABILITIES ",\"permitted\":" CAPABILITIES "}," \
        " \"noNewPrivileges\":true}"

/* What a CRI runtime gives a container that asks for nothing; the root is the one in the bundle that the agent makes. */
static const char default_config[] =
        "{\"ociVersion\":\"1.1.0\",\"process\":" DEFAULT_PROCESS ",\"root\":{},"
        " \"mounts\":["
        "{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\",\"options\":[\"nosuid\",\"noexec\",\"nodev\"]},"
        "{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\","
        " \"options\":[\"nosuid\",\"strictatime\",\"mode=755\",\"size=65536k\"]},"
        "{\"destination\":\"/dev/pts\",\"type\":\"devpts\",\"source\":\"devpts\","
        " \"options\":[\"nosuid\",\"noexec\",\"newinstance\",\"ptmxmode=0666\",\"mode=0620\",\"gid=5\"]},"
        "{\"destination\":\"/dev/mqueue\",\"type\":\"mqueue\",\"source\":\"mqueue\","
        " \"options\":[\"nosuid\",\"noexec\",\"nodev\"]},"
        "{\"destination\":\"/dev/shm\",\"type\":\"tmpfs\",\"source\":\"shm\","
        " \"options\":[\"nosuid\",\"noexec\",\"nodev\",\"mode=1777\",\"size=65536k\"]},"
        "{\"destination\":\"/sys\",\"type\":\"sysfs\",\"source\":\"sysfs\","
        " \"options\":[\"nosuid\",\"noexec\",\"nodev\",\"ro\"]},"
        "{\"destination\":\"/sys/fs/cgroup\",\"type\":\"cgroup\",\"source\":\"cgroup\","
        " \"options\":[\"nosuid\",\"noexec\",\"nodev\",\"relatime\",\"ro\"]}],"
        " \"annotations\":{},"
        " \"linux\":{\"namespaces\":[{\"type\":\"ipc\"},{\"type\":\"uts\"},{\"type\":\"mount\"}],"
        " \"maskedPaths\":[\"/proc/acpi\",\"/proc/kcore\",\"/proc/keys\",\"/proc/latency_stats\",\"/proc/timer_list\","
        "\"/proc/timer_stats\",\"/proc/sched_debug\",\"/proc/scsi\",\"/sys/firmware\"],"
        " \"readonlyPaths\":[\"/proc/bus\",\"/proc/fs\",\"/proc/irq\",\"/proc/sys\",\"/proc/sysrq-trigger\"]}}";

static int append_text(json_object *list, const char *text) {
        json_object *o;

        o = json_object_new_string(text);
        if (!o)
                return -ENOMEM;
        if (json_object_array_add(list, o) < 0) {
                json_object_put(o);
                return -ENOMEM;
        }

        return 0;
}

static int set_list(json_object *o, const char *key, const char *const *items, size_t n) {
        _cleanup_(json_object_putp) json_object *list = NULL;
        int r;

        list = json_object_new_array();
        if (!list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                r = append_text(list, items[i]);
                if (r < 0)
                        return r;
        }

        return json_set(o, key, TAKE_PTR(list));
}

/* The value below a key; an empty one of that type is made if there is none. */
static int get_or_make(json_object *o, const char *key, enum json_type type, json_object **ret, char **reterr) {
        json_object *child;
        int r;

        if (json_object_object_get_ex(o, key, &child) && child) {
                if (!json_object_is_type(child, type))
                        return refuse_text(reterr, "%s: not an %s", key, json_type_to_name(type));
                *ret = child;
                return 0;
        }

        child = type == json_type_array ? json_object_new_array() : json_object_new_object();
        if (!child)
                return -ENOMEM;
        r = json_set(o, key, child);
        if (r < 0)
                return r;

        *ret = child;
        return 0;
}

/* "K=V" takes the place of an earlier K: which of two wins depends on the program that reads them. */
static int set_env(json_object *process, const TextList *env, char **reterr) {
        _cleanup_(json_object_putp) json_object *list = NULL;
        json_object *old;
        int r;

        for (size_t i = 0; i < env->n_items; i++)
                if (!strchr(env->items[i], '='))
                        return refuse_text(reterr, "--env: '%s' is not NAME=VALUE", env->items[i]);

        list = json_object_new_array();
        if (!list)
                return -ENOMEM;

        r = get_or_make(process, "env", json_type_array, &old, reterr);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(old); i++) {
                const char *text = json_object_get_string(json_object_array_get_idx(old, i));
                bool replaced = !text;

                for (size_t j = 0; j < env->n_items; j++)
                        replaced = replaced || strncmp(text, env->items[j], strcspn(env->items[j], "=") + 1) == 0;
                if (!replaced)
                        r = append_text(list, text);
        }
        for (size_t i = 0; r >= 0 && i < env->n_items; i++)
                r = append_text(list, env->items[i]);
        if (r < 0)
                return r;

        return json_set(process, "env", TAKE_PTR(list));
}

/* "UID" or "UID:GID" */
static int set_user(json_object *process, const char *text, char **reterr) {
        json_object *user;
        const char *colon = strchr(text, ':');
        _cleanup_(freep) char *uid_text = NULL;
        uint32_t uid, gid = 0;
        int r;

        uid_text = strndup(text, colon ? (size_t) (colon - text) : strlen(text));
        if (!uid_text)
                return -ENOMEM;
        if (parse_u32(uid_text, &uid) < 0 || (colon && parse_u32(colon + 1, &gid) < 0))
                return refuse_text(reterr, "--user: '%s' is not UID or UID:GID, in numbers", text);

        r = get_or_make(process, "user", json_type_object, &user, reterr);
        if (r >= 0)
                r = json_set_u64(user, "uid", uid);
        return r < 0 ? r : json_set_u64(user, "gid", gid);
}

static int set_process(json_object *process, const Arguments *arg, char *const *argv, char **reterr) {
        int r = 0;

        if (argv[0])
                r = set_list(process, "args", (const char *const*) argv, strv_length(argv));
        if (r >= 0 && arg->env.n_items > 0)
                r = set_env(process, &arg->env, reterr);
        if (r >= 0 && arg->cwd)
                r = json_set_string(process, "cwd", arg->cwd);
        if (r >= 0 && arg->user)
                r = set_user(process, arg->user, reterr);
        if (r >= 0 && arg->tty)
                r = json_set_bool(process, "terminal", true);

        return r < 0 ? r : 0;
}

/* "TYPE:SOURCE:DESTINATION[:OPTION,OPTION…]" */
static int add_mount(json_object *config, const char *text, char **reterr) {
        _cleanup_(json_object_putp) json_object *mount = NULL;
        _cleanup_(strv_freep) char **options = NULL;
        _cleanup_(freep) char *copy = NULL;
        char *parts[4] = {}, *rest;
        json_object *mounts;
        size_t n = 0;
        int r;

        copy = rest = strdup(text);
        if (!copy)
                return -ENOMEM;
        for (; n < ELEMENTSOF(parts) && rest; n++)      /* the options may hold colons */
                parts[n] = n < ELEMENTSOF(parts) - 1 ? strsep(&rest, ":") : TAKE_PTR(rest);
        if (n < 3 || parts[2][0] != '/')
                return refuse_text(reterr, "--mount: '%s' is not TYPE:SOURCE:DESTINATION[:OPTION,…]", text);

        r = strv_split(strempty(parts[3]), ",", &options);
        if (r < 0)
                return r;

        mount = json_object_new_object();
        if (!mount)
                return -ENOMEM;
        r = json_set_string(mount, "type", parts[0]);
        if (r >= 0)
                r = json_set_string(mount, "source", parts[1]);
        if (r >= 0)
                r = json_set_string(mount, "destination", parts[2]);
        if (r >= 0)
                r = json_set_strv(mount, "options", options);
        if (r >= 0)
                r = get_or_make(config, "mounts", json_type_array, &mounts, reterr);
        if (r < 0)
                return r;

        if (json_object_array_add(mounts, mount) < 0)
                return -ENOMEM;
        (void) TAKE_PTR(mount);
        return 0;
}

static int add_annotations(json_object *annotations, const TextList *texts, char **reterr) {
        for (size_t i = 0; i < texts->n_items; i++) {
                const char *text = texts->items[i], *equals = strchr(text, '=');
                _cleanup_(freep) char *key = NULL;

                if (!equals || equals == text)
                        return refuse_text(reterr, "--annotation: '%s' is not KEY=VALUE", text);
                key = strndup(text, (size_t) (equals - text));
                if (!key || json_set_string(annotations, key, equals + 1) < 0)
                        return -ENOMEM;
        }

        return 0;
}

/* Namespaces are made in the VM: paths are the worker's, and the pod's network is set up there already. */
static int constrain(json_object *config, char **reterr) {
        static const char *const dropped[] = { "network", "cgroup", "time", "pid" };
        _cleanup_(json_object_putp) json_object *kept = NULL;
        json_object *linux_part, *namespaces;
        int r;

        json_object_object_del(config, "hooks");
        r = get_or_make(config, "linux", json_type_object, &linux_part, reterr);
        if (r >= 0)
                r = get_or_make(linux_part, "namespaces", json_type_array, &namespaces, reterr);
        if (r < 0)
                return r;
        json_object_object_del(linux_part, "seccomp");

        kept = json_object_new_array();
        if (!kept)
                return -ENOMEM;
        for (size_t i = 0; i < json_object_array_length(namespaces); i++) {
                json_object *o = json_object_array_get_idx(namespaces, i);
                const char *type = "";
                bool drop = false;

                if (!json_object_is_type(o, json_type_object))
                        return refuse_text(reterr, "linux.namespaces[%zu]: not an object", i);
                (void) json_get_string(o, "type", &type, NULL);
                for (size_t j = 0; j < ELEMENTSOF(dropped); j++)
                        drop = drop || streq(type, dropped[j]);
                if (drop)
                        continue;
                json_object_object_del(o, "path");
                if (json_object_array_add(kept, json_object_get(o)) < 0) {
                        json_object_put(o);
                        return -ENOMEM;
                }
        }

        return json_set(linux_part, "namespaces", TAKE_PTR(kept));
}

/* The image is pulled in the VM, into the bundle that the agent makes there (kata-containers: src/runtime/virtcontainers/
 * fs_share_linux.go, shareRootFilesystemWithVirtualVolume). */
static int pull_storage(const char *image, json_object *annotations, const char *root,
                        json_object *request) {
        _cleanup_(json_object_putp) json_object *storage = NULL, *metadata = NULL, *list = NULL;
        _cleanup_(freep) char *option = NULL;
        int r;

        metadata = json_object_new_object();
        storage = json_object_new_object();
        list = json_object_new_array();
        if (!metadata || !storage || !list)
                return -ENOMEM;

        r = json_set(metadata, "metadata", json_object_get(annotations));
        if (r >= 0 && asprintf(&option, "image_guest_pull=%s",
                               json_object_to_json_string_ext(metadata, JSON_C_TO_STRING_PLAIN)) < 0)
                r = -ENOMEM;
        if (r >= 0)
                r = json_set_string(storage, "driver", "image_guest_pull");
        if (r >= 0)
                r = set_list(storage, "driver_options", (const char *const[]) { option }, 1);
        if (r >= 0)
                r = json_set_string(storage, "source", image);
        if (r >= 0)
                r = json_set_string(storage, "fstype", "overlay");
        if (r >= 0)
                r = json_set_string(storage, "mount_point", root);
        if (r < 0)
                return r;

        if (json_object_array_add(list, storage) < 0)
                return -ENOMEM;
        (void) TAKE_PTR(storage);
        return json_set(request, "storages", TAKE_PTR(list));
}

static int set_root(json_object *config, const char *path, bool read_only, char **reterr) {
        json_object *root;
        int r;

        r = get_or_make(config, "root", json_type_object, &root, reterr);
        if (r >= 0 && path)
                r = json_set_string(root, "path", path);
        return r >= 0 && read_only ? json_set_bool(root, "readonly", true) : r;
}

static int set_annotations(json_object *config, const char *container_id, const char *sandbox_id,
                           const Arguments *arg, json_object **ret, char **reterr) {
        json_object *annotations;
        int r;

        r = get_or_make(config, "annotations", json_type_object, &annotations, reterr);
        if (r >= 0)
                r = json_set_string(annotations, "io.kubernetes.cri.container-type",
                                    streq_ptr(container_id, sandbox_id) ? "sandbox" : "container");
        if (r >= 0)
                r = json_set_string(annotations, "io.kubernetes.cri.sandbox-id", sandbox_id);
        if (r >= 0)
                r = json_set_string(annotations, "io.kubernetes.cri.image-name", arg->image);
        if (r >= 0)
                r = add_annotations(annotations, &arg->annotations, reterr);
        if (r < 0)
                return r;

        *ret = annotations;
        return 0;
}

static int parse_config(const char *text, const char *name, json_object **ret, char **reterr) {
        _cleanup_(freep) char *error = NULL;
        int r;

        r = json_parse(text, strlen(text), ret, &error);
        if (r == -EBADMSG)
                return refuse_text(reterr, "%s: %s", name, error ?: "not JSON");

        return r;
}

/* Config and request are two objects until the spec has been made by OCI's names and the rest by the protocol's. */
int container_request_new(const char *container_id, const char *sandbox_id, const char *config_text,
                          const Arguments *arg, char *const *argv, ProtobufCMessage **ret, char **reterr) {
        _cleanup_(json_object_putp) json_object *config = NULL, *request = NULL;
        _cleanup_(proto_freep) ProtobufCMessage *message = NULL, *spec = NULL;
        _cleanup_(freep) char *bundle_root = NULL, *cgroup = NULL;
        json_object *process, *linux_part, *annotations;
        int r;

        r = parse_config(config_text ?: default_config, arg->bundle_config ?: "default", &config, reterr);
        if (r >= 0)
                r = get_or_make(config, "process", json_type_object, &process, reterr);
        if (r >= 0)
                r = set_process(process, arg, argv, reterr);
        for (size_t i = 0; r >= 0 && i < arg->mounts.n_items; i++)
                r = add_mount(config, arg->mounts.items[i], reterr);
        if (r >= 0)
                r = set_annotations(config, container_id, sandbox_id, arg, &annotations, reterr);
        if (r >= 0)
                r = constrain(config, reterr);
        if (r >= 0 && asprintf(&bundle_root, "/run/kata-containers/%s/rootfs", container_id) < 0)
                r = -ENOMEM;
        if (r >= 0)
                r = set_root(config, arg->rootfs && !arg->image ? arg->rootfs : arg->image || !config_text ? bundle_root : NULL,
                             arg->read_only, reterr);
        if (r >= 0 && arg->hostname)
                r = json_set_string(config, "hostname", arg->hostname);
        if (r >= 0 && !config_text) {
                r = get_or_make(config, "linux", json_type_object, &linux_part, reterr);
                if (r >= 0 && asprintf(&cgroup, "/peerpod/%s", container_id) < 0)
                        r = -ENOMEM;
                if (r >= 0)
                        r = json_set_string(linux_part, "cgroupsPath", cgroup);
        }
        if (r < 0)
                return r;

        request = json_object_new_object();
        if (!request)
                return -ENOMEM;
        r = json_set_string(request, "container_id", container_id);
        if (r >= 0)
                r = json_set_string(request, "exec_id", container_id);
        if (r >= 0 && arg->image)
                r = pull_storage(arg->image, annotations, bundle_root, request);
        if (r >= 0)
                r = proto_from_json(&grpc__create_container_request__descriptor, request, PROTO_JSON_PLAIN,
                                    &message, reterr);
        if (r >= 0)
                r = proto_from_json(&grpc__spec__descriptor, config, PROTO_JSON_OCI, &spec, reterr);
        if (r < 0)
                return r;

        if (((Grpc__Spec*) spec)->process->n_args == 0)
                return refuse_text(reterr, "No command: give one after '--' or in the config");

        ((Grpc__CreateContainerRequest*) message)->oci = (Grpc__Spec*) TAKE_PTR(spec);
        *ret = TAKE_PTR(message);
        return 0;
}

int process_new(const Arguments *arg, char *const *argv, ProtobufCMessage **ret, char **reterr) {
        _cleanup_(json_object_putp) json_object *process = NULL;
        int r;

        r = parse_config(DEFAULT_PROCESS, "default", &process, reterr);
        if (r >= 0)
                r = set_process(process, arg, argv, reterr);
        return r < 0 ? r : proto_from_json(&grpc__process__descriptor, process, PROTO_JSON_OCI, ret, reterr);
}
