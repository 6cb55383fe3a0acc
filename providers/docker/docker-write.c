/* SPDX-License-Identifier: Apache-2.0 */
/* What is sent: the container, and the archive with its user data. */
#include "docker-wire.h"

#include "basic/io.h"
#include "basic/json.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define MIB (UINT64_C(1) << 20)
#define NANO_CPUS UINT64_C(1000000000)
#define TAR_BLOCK 512

static int add_labels(json_object *to, const char *key, const DockerCreate *c, bool pod) {
        json_object *labels = json_object_new_object();
        int r;

        if (!labels)
                return -ENOMEM;
        r = json_set_string(labels, OWNER_TAG_NAME, c->name);
        if (r == 0)
                r = json_set_string(labels, OWNER_TAG_SANDBOX, c->sandbox_id);
        if (r == 0)
                r = json_set_string(labels, OWNER_TAG_NODE, c->node);
        if (r == 0 && pod)
                r = json_set_string(labels, "peerpod-pod-name", strempty(c->pod_name));
        if (r == 0 && pod)
                r = json_set_string(labels, "peerpod-pod-namespace", strempty(c->pod_namespace));
        if (r < 0) {
                json_object_put(labels);
                return r;
        }
        return json_set(to, key, labels);
}

/* Storage of the VM's own, which goes with it: an anonymous volume, so that containers below find no overlay file system. */
static int add_volume(json_object *mounts, const DockerCreate *c, const char *target) {
        _cleanup_(json_object_putp) json_object *m = json_object_new_object(), *o = json_object_new_object();
        int r;

        if (!m || !o)
                return -ENOMEM;
        r = json_set_string(m, "Type", "volume");
        if (r == 0)
                r = json_set_string(m, "Target", target);
        if (r == 0)
                r = add_labels(o, "Labels", c, /* pod= */ false);
        if (r == 0)
                r = json_set(m, "VolumeOptions", TAKE_PTR(o));
        if (r < 0)
                return r;
        return json_object_array_add(mounts, TAKE_PTR(m)) < 0 ? -ENOMEM : 0;
}

static int add_storage(json_object *host, const DockerCreate *c) {
        json_object *mounts = json_object_new_array(), *tmpfs;
        int r;

        if (!mounts)
                return -ENOMEM;
        r = add_volume(mounts, c, "/run/kata-containers");
        if (r == 0)
                r = add_volume(mounts, c, "/image");
        if (r < 0) {
                json_object_put(mounts);
                return r;
        }
        r = json_set(host, "Mounts", mounts);
        if (r < 0)
                return r;

        /* systemd would mount its own over /run, and so over what is mounted below it. */
        tmpfs = json_object_new_object();
        if (!tmpfs)
                return -ENOMEM;
        r = json_set_string(tmpfs, "/run", "rw,nosuid,nodev,mode=755");
        if (r == 0)
                r = json_set_string(tmpfs, "/tmp", "rw,nosuid,nodev,mode=1777");
        if (r < 0) {
                json_object_put(tmpfs);
                return r;
        }
        return json_set(host, "Tmpfs", tmpfs);
}

/* Mostly not "Privileged": what a pod VM's systemd, network and containers need, and no more. */
static int add_security(json_object *host, const DockerCreate *c) {
        static const char *const all[] = { "ALL", NULL }, *const none[] = { NULL };
        static const char *const options[] = { "seccomp=unconfined", "apparmor=unconfined", NULL };
        json_object *add = json_object_new_array();
        const char *item;
        size_t n;
        int r;

        if (!add)
                return -ENOMEM;
        if (c->privileged) {
                json_object_put(add);
                r = json_set_bool(host, "Privileged", true);
                return r < 0 ? r : json_set_string(host, "CgroupnsMode", "private");
        }
        for (const char *p = c->capabilities; list_next(&p, &item, &n);) {
                json_object *s = json_object_new_string_len(item, (int) n);

                if (!s || json_object_array_add(add, s) < 0) {
                        json_object_put(s);
                        json_object_put(add);
                        return -ENOMEM;
                }
        }
        r = json_set(host, "CapAdd", add);
        if (r == 0)
                r = json_set_strv(host, "CapDrop", (char *const*) all);
        if (r == 0)
                r = json_set_strv(host, "SecurityOpt", (char *const*) options);
        /* The VM's own network settings are below /proc/sys. What is masked stays so. */
        if (r == 0)
                r = json_set_strv(host, "ReadonlyPaths", (char *const*) none);
        if (r == 0)
                r = json_set_string(host, "CgroupnsMode", "private");
        if (r == 0)
                r = json_set_string(host, "IpcMode", "private");
        return r;
}

static int add_limits(json_object *host, const DockerCreate *c) {
        int r = 0;

        if (c->vcpus > 0)
                r = json_set_u64(host, "NanoCpus", c->vcpus * NANO_CPUS);
        if (r == 0 && c->memory_mib > 0)
                r = json_set_u64(host, "Memory", c->memory_mib * MIB);
        if (r == 0 && c->memory_mib > 0)
                r = json_set_u64(host, "MemorySwap", c->memory_mib * MIB);
        if (r == 0 && c->pids_max > 0)
                r = json_set_u64(host, "PidsLimit", c->pids_max);
        return r;
}

static int add_network(json_object *o, const char *network) {
        _cleanup_(json_object_putp) json_object *config = json_object_new_object(), *endpoints = json_object_new_object();
        json_object *endpoint = json_object_new_object();
        int r;

        if (!config || !endpoints || !endpoint) {
                json_object_put(endpoint);
                return -ENOMEM;
        }
        r = json_set(endpoints, network, endpoint);
        if (r == 0)
                r = json_set(config, "EndpointsConfig", TAKE_PTR(endpoints));
        return r < 0 ? r : json_set(o, "NetworkingConfig", TAKE_PTR(config));
}

static int add_host(json_object *o, const DockerCreate *c) {
        _cleanup_(json_object_putp) json_object *host = json_object_new_object();
        int r;

        if (!host)
                return -ENOMEM;
        r = add_storage(host, c);
        if (r == 0)
                r = add_security(host, c);
        if (r == 0)
                r = add_limits(host, c);
        if (r == 0)
                r = json_set_string(host, "NetworkMode", c->network);
        return r < 0 ? r : json_set(o, "HostConfig", TAKE_PTR(host));
}

char* docker_write_create(const DockerCreate *c) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        const char *text;
        int r;

        if (!o)
                return NULL;
        r = json_set_string(o, "Image", c->image);
        if (r == 0)
                r = json_set_string(o, "Hostname", c->name);
        if (r == 0)
                r = add_labels(o, "Labels", c, /* pod= */ true);
        if (r == 0)
                r = add_host(o, c);
        if (r == 0)
                r = add_network(o, c->network);
        text = r < 0 ? NULL : json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
        return text ? strdup(text) : NULL;
}

/* POSIX.1-2017, pax: ustar Interchange Format */
static void tar_header(char block[static TAR_BLOCK], const char *name, char type, unsigned mode, uint64_t size, uint64_t now_sec) {
        unsigned sum = 0;

        memset(block, 0, TAR_BLOCK);
        (void) snprintf(block, 100, "%s", name);
        (void) snprintf(block + 100, 8, "%07o", mode & 07777);
        (void) snprintf(block + 108, 8, "%07o", 0);
        (void) snprintf(block + 116, 8, "%07o", 0);
        (void) snprintf(block + 124, 12, "%011llo", (unsigned long long) size & 077777777777);
        (void) snprintf(block + 136, 12, "%011llo", (unsigned long long) now_sec & 077777777777);
        memset(block + 148, ' ', 8);
        block[156] = type;
        memcpy(block + 257, "ustar\00000", 8);
        for (size_t i = 0; i < TAR_BLOCK; i++)
                sum += (unsigned char) block[i];
        (void) snprintf(block + 148, 7, "%06o", sum & 0777777);
}

int docker_write_user_data(const void *data, size_t size, uint64_t now_sec, char **ret, size_t *ret_size) {
        size_t padded = (size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK, total = 3 * TAR_BLOCK + padded + 2 * TAR_BLOCK;
        char *p = calloc(1, total);

        if (!p)
                return -ENOMEM;
        tar_header(p, "media/", '5', 0755, 0, now_sec);
        tar_header(p + TAR_BLOCK, "media/cidata/", '5', 0700, 0, now_sec);
        tar_header(p + 2 * TAR_BLOCK, "media/cidata/user-data", '0', 0600, size, now_sec);
        if (size > 0)
                memcpy(p + 3 * TAR_BLOCK, data, size);
        *ret = p;
        *ret_size = total;
        return 0;
}
