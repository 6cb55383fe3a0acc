/* SPDX-License-Identifier: Apache-2.0 */
/* What in Kata's configuration keeps pods from starting on pod VMs, or lets more through than is meant.
 * Keys and their meaning: kata-containers: src/runtime/config/configuration-remote.toml.in, src/runtime/pkg/katautils/config.go. */
#include "ctl/kata-check.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <regex.h>
#include <stdio.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/toml.h"

#define FILES_MAX 32U
#define TABLE "hypervisor.remote"

/* With an image that is pulled in the pod VM a container's creation takes as long as the pull. */
#define CREATE_CONTAINER_TIMEOUT_LITTLE 60

static const char *const usual_places[] = {
        "/etc/kata-containers/configuration-remote.toml",
        "/opt/kata/share/defaults/kata-containers/configuration-remote.toml",
        "/usr/share/defaults/kata-containers/configuration-remote.toml",
        "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration-remote.toml",
        "/usr/share/defaults/kata-containers/runtime-rs/configuration-remote.toml",
};

/* Annotations below io.katacontainers.config.hypervisor. that Kata hands to the adaptor. */
static const char *const annotations[] = {
        "machine_type", "default_vcpus", "default_memory", "image", "default_gpus", "default_gpu_model", "cc_init_data",
};

typedef struct Check {
        Findings *findings;
        const TomlValue *files;
        size_t n_files;
        const char *path;
} Check;

static const TomlValue* find(const Check *c, const char *path) {
        for (size_t i = c->n_files; i-- > 0;) {
                const TomlValue *v = toml_find(c->files + i, path);

                if (v)
                        return v;
        }

        return NULL;
}

static bool has_table(const Check *c, const char *table) {
        const TomlValue *v = find(c, table);

        return v && v->type == TOML_TABLE;
}

static const char* text_of(const TomlValue *v) {
        return v && v->type == TOML_STRING ? v->text : NULL;
}

#define add(c, severity, remedy, ...) finding_add((c)->findings, (severity), (c)->path, (remedy), __VA_ARGS__)

static void check_socket(const Check *c, const char *socket) {
        const char *text = text_of(find(c, TABLE ".remote_hypervisor_socket"));

        if (!text)
                add(c, SEVERITY_ERROR, "Set remote_hypervisor_socket below [hypervisor.remote].", "No remote_hypervisor_socket: Kata finds no adaptor.");
        else if (!streq(text, socket))
                add(c, SEVERITY_ERROR, "Let remote_hypervisor_socket and the adaptor's socket be the same.",
                    "remote_hypervisor_socket is '%s', but the adaptor listens on '%s'.", text, socket);
        else
                add(c, SEVERITY_OK, NULL, "remote_hypervisor_socket is the adaptor's.");
}

static void check_start_timeout(const Check *c, uint64_t start_timeout_usec) {
        const TomlValue *v = find(c, TABLE ".remote_hypervisor_timeout");

        if (!v || v->type != TOML_INTEGER || v->integer <= 0)
                add(c, SEVERITY_ERROR, "Set remote_hypervisor_timeout = 600 below [hypervisor.remote].",
                    "remote_hypervisor_timeout is no number of seconds.");
        else if (start_timeout_usec > 0 && start_timeout_usec / USEC_PER_SEC >= (uint64_t) v->integer)
                add(c, SEVERITY_WARNING, "Make START_TIMEOUT in /etc/peerpod/peer-pods-cm.env shorter and restart the adaptor, or remote_hypervisor_timeout longer.",
                    "remote_hypervisor_timeout is %" PRIi64 " s and START_TIMEOUT is %s: Kata gives up before it hears the reason.",
                    v->integer, FORMAT_USEC(start_timeout_usec));
        else
                add(c, SEVERITY_OK, NULL, "remote_hypervisor_timeout is %" PRIi64 " s.", v->integer);
}

static void check_create_timeout(const Check *c, const char *key) {
        const TomlValue *v = find(c, key);

        if (!v || v->type != TOML_INTEGER || v->integer <= 0)
                add(c, SEVERITY_ERROR, "Set create_container_timeout to what pulling your largest image takes, 600 for example.",
                    "%s is not set: Kata takes that for 0, and every container fails at once with \"CreateContainerRequest timed out\".",
                    key);
        else if (v->integer <= CREATE_CONTAINER_TIMEOUT_LITTLE)
                add(c, SEVERITY_WARNING, "Set it to what pulling your largest image takes; the kubelet's runtimeRequestTimeout must be as long.",
                    "%s is %" PRIi64 " s, which is little for images that are pulled in the pod VM.", key, v->integer);
        else
                add(c, SEVERITY_OK, NULL, "%s is %" PRIi64 " s.", key, v->integer);
}

static bool pattern_matches(const char *pattern, const char *name) {
        regex_t regex;
        bool matches;

        if (regcomp(&regex, pattern, REG_EXTENDED|REG_NOSUB) != 0)
                return false;
        matches = regexec(&regex, name, 0, NULL, 0) == 0;
        regfree(&regex);
        return matches;
}

static bool is_anchored(const char *pattern) {
        size_t n = strlen(pattern);

        return n >= 2 && pattern[0] == '^' && pattern[n - 1] == '$';
}

static void check_annotations(const Check *c) {
        const TomlValue *v = find(c, TABLE ".enable_annotations");
        size_t n = v && v->type == TOML_ARRAY ? v->n_items : 0;
        char loose[512] = "", missing[512] = "";
        bool unanchored = false;

        for (size_t i = 0; i < n; i++) {
                const char *pattern = text_of(v->items + i);

                if (pattern && !is_anchored(pattern)) {
                        unanchored = true;
                        (void) snprintf(loose + strlen(loose), sizeof(loose) - strlen(loose), "%s%s", *loose ? ", " : "", pattern);
                }
        }
        for (size_t a = 0; a < ELEMENTSOF(annotations); a++) {
                bool found = false;

                for (size_t i = 0; i < n && !found; i++)
                        found = text_of(v->items + i) && pattern_matches(text_of(v->items + i), annotations[a]);
                if (!found)
                        (void) snprintf(missing + strlen(missing), sizeof(missing) - strlen(missing), "%s%s", *missing ? ", " : "",
                                        annotations[a]);
        }

        if (unanchored)
                add(c, SEVERITY_WARNING, "Write each as \"^name$\".",
                    "enable_annotations has patterns without anchors (%s): each also lets every annotation through whose name contains it.",
                    loose);
        if (*missing)
                add(c, SEVERITY_WARNING, "Add what your pods use to enable_annotations.",
                    "enable_annotations does not let through: %s. A pod that has one fails with \"annotation … is not enabled\".", missing);
        if (!unanchored && !*missing)
                add(c, SEVERITY_OK, NULL, "enable_annotations lets through what the adaptor understands, and no more.");
}

static void check_go_runtime(const Check *c) {
        const char *model = text_of(find(c, "runtime.internetworking_model"));
        const TomlValue *netns = find(c, "runtime.disable_new_netns"), *sizing = find(c, "runtime.static_sandbox_resource_mgmt");

        if (!model || !streq(model, "none"))
                add(c, SEVERITY_ERROR, "Set internetworking_model = \"none\" below [runtime].",
                    "internetworking_model is '%s': Kata would rewire the pod's network for a VM on this node.", model ?: "not set");
        if (!netns || netns->type != TOML_BOOL || !netns->integer)
                add(c, SEVERITY_ERROR, "Set disable_new_netns = true below [runtime].",
                    "disable_new_netns is not set: Kata would make a network namespace of its own, and the tunnel would end in that one.");
        if (!sizing || sizing->type != TOML_BOOL || !sizing->integer)
                add(c, SEVERITY_WARNING, "Set static_sandbox_resource_mgmt = true below [runtime].",
                    "static_sandbox_resource_mgmt is not set: the pod's CPU and memory limits do not reach the choice of the instance type.");
        if (!has_table(c, "agent.kata"))
                add(c, SEVERITY_ERROR, "Add [agent.kata] with dial_timeout = 30.",
                    "There is no table [agent.kata]: the shim makes a new connection to the agent for every call.");
        check_create_timeout(c, "runtime.create_container_timeout");
}

int kata_check(Findings *f, const TomlValue *files, size_t n_files, const char *path, const char *socket, uint64_t start_timeout_usec) {
        const Check c = { .findings = f, .files = files, .n_files = n_files, .path = path };
        const char *name;

        if (!has_table(&c, TABLE)) {
                add(&c, SEVERITY_ERROR, "Take Kata's configuration-remote.toml.", "There is no table [hypervisor.remote].");
                return f->out_of_memory ? -ENOMEM : 0;
        }

        check_socket(&c, socket);
        check_start_timeout(&c, start_timeout_usec);
        check_annotations(&c);
        /* The runtime in Rust forces what it needs of the network (kata-containers: src/libs/kata-types/src/config). */
        name = text_of(find(&c, "runtime.name"));
        if (name && streq(name, "virt_container"))
                check_create_timeout(&c, "agent.kata.create_container_timeout");
        else
                check_go_runtime(&c);

        return f->out_of_memory ? -ENOMEM : 0;
}

/* Returns 1 if it was read, 0 if there is something to say about it, which was said; -ENOENT, -ENOMEM. */
static int read_file(Findings *f, const char *path, TomlValue *ret) {
        _cleanup_(freep) char *text = NULL, *error = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        size_t size;
        int r;

        fd = open(path, O_RDONLY|O_CLOEXEC|O_NOCTTY);   /* kata-deploy leaves symlinks */
        r = fd < 0 ? -errno : read_full_fd(fd, TOML_SIZE_MAX, &text, &size);
        if (r == -ENOENT || r == -ENOMEM)
                return r;
        if (r < 0) {
                finding_add(f, SEVERITY_ERROR, path, NULL, "Cannot be read: %s", strerror(-r));
                return 0;
        }

        r = toml_parse(text, size, ret, &error);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                finding_add(f, SEVERITY_ERROR, path, "Mend the file, or have Kata's own kata-runtime show what it reads.",
                            "Is not understood: %s", error ?: "it is too long");
                return 0;
        }

        return 1;
}

static int is_toml(const struct dirent *e) {
        size_t n = strlen(e->d_name);

        return n > 5 && e->d_name[0] != '.' && streq(e->d_name + n - 5, ".toml");
}

/* Kata merges config.d/ beside the file (kata-containers: src/runtime/pkg/katautils/config.go). */
static int read_drop_ins(Findings *f, const char *path, TomlValue *files, size_t *n_files) {
        _cleanup_(freep) char *dir = NULL;
        const char *slash = strrchr(path, '/');
        struct dirent **entries;
        int n, r = 0;

        if (asprintf(&dir, "%.*sconfig.d", slash ? (int) (slash - path) + 1 : 0, path) < 0) {
                dir = NULL;
                return -ENOMEM;
        }
        n = scandir(dir, &entries, is_toml, alphasort);
        if (n < 0)
                return errno == ENOMEM ? -ENOMEM : 0;

        for (int i = 0; i < n; i++) {
                _cleanup_(freep) char *drop_in = NULL;

                if (r >= 0 && *n_files < FILES_MAX) {
                        if (asprintf(&drop_in, "%s/%s", dir, entries[i]->d_name) < 0) {
                                drop_in = NULL;
                                r = -ENOMEM;
                        } else
                                r = read_file(f, drop_in, files + *n_files);
                        if (r > 0)
                                (*n_files)++;
                        if (r == -ENOENT)
                                r = 0;
                }
                free(entries[i]);
        }
        free(entries);
        return MIN(r, 0);
}

static int check_path(Findings *f, const char *path, const char *socket, uint64_t start_timeout_usec) {
        TomlValue files[FILES_MAX] = {};
        size_t n_files = 0;
        int r;

        r = read_file(f, path, files);
        if (r > 0) {
                n_files = 1;
                r = read_drop_ins(f, path, files, &n_files);
                if (r >= 0)
                        r = kata_check(f, files, n_files, path, socket, start_timeout_usec);
        }
        for (size_t i = 0; i < n_files; i++)
                toml_done(files + i);
        return r;
}

int kata_check_file(Findings *f, const char *path, const char *socket, uint64_t start_timeout_usec) {
        int r;

        if (path) {
                r = check_path(f, path, socket, start_timeout_usec);
                if (r == -ENOENT) {
                        finding_add(f, SEVERITY_ERROR, path, "Name Kata's configuration file with --kata-config.", "There is no such file.");
                        r = 0;
                }
                return r;
        }

        for (size_t i = 0; i < ELEMENTSOF(usual_places); i++) {
                r = check_path(f, usual_places[i], socket, start_timeout_usec);
                if (r != -ENOENT)
                        return r;
        }

        finding_add(f, SEVERITY_WARNING, "Kata", "Install Kata Containers, or name its configuration file with --kata-config.",
                    "No configuration of Kata's for remote hypervisors is in its usual places.");
        return 0;
}
