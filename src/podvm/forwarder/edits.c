/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/forwarder/edits.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "ttrpc/wire.h"

/* kata-containers: src/libs/protocols/protos/agent.proto and oci.proto */
enum {
        CONTAINER_ID = 1,               /* of RemoveContainerRequest, too */
        CREATE_CONTAINER_OCI = 6,
        OCI_MOUNTS = 5,
        OCI_ANNOTATIONS = 7,
        OCI_LINUX = 8,
        LINUX_NAMESPACES = 6,
        MOUNT_DESTINATION = 1,
        MOUNT_SOURCE = 2,
        MOUNT_TYPE = 3,
        CREATE_SANDBOX_DNS = 2,
};

#define BIND_SOURCES_MAX 256U           /* made for one request */

#define TARGETS_MAX 256U

#define ANNOTATION_CLOUD_VOLUMES "io.confidentialcontainers.org.cloud_volumes"
#define ANNOTATION_TARGET_PATH "io.confidentialcontainers.org.peerpodvolumes.target_path"

static void refuse(RelayEdit *edit, TtrpcCode code, const char *format, ...) PRINTF(3, 4);
static void refuse(RelayEdit *edit, TtrpcCode code, const char *format, ...) {
        va_list ap;

        edit->code = code;
        va_start(ap, format);
        (void) vsnprintf(edit->message, sizeof(edit->message), format, ap);
        va_end(ap);
        log_warning("Refused a request: %s.", edit->message);
}

int make_bind_source(const char *root, const char *path) {
        _cleanup_(close_fdp) int fd = -EBADF;
        char name[NAME_MAX + 1];
        const char *p = startswith(path, root);
        struct stat st;
        bool made = false;

        if (!p || *p != '/') {
                /* Not ours to make; what is there is not ours to judge either. */
                return lstat(path, &st) >= 0 ? 0 : -EPERM;
        }

        fd = open(root, O_PATH|O_DIRECTORY|O_CLOEXEC);
        if (fd < 0) {
                if (errno != ENOENT || (mkdir(root, 0755) < 0 && errno != EEXIST))
                        return -errno;
                fd = open(root, O_PATH|O_DIRECTORY|O_CLOEXEC);
                if (fd < 0)
                        return -errno;
        }

        for (;;) {
                size_t n;
                int next;

                p += strspn(p, "/");
                n = strcspn(p, "/");
                if (n == 0)
                        return made;
                if (n > NAME_MAX)
                        return -ENAMETOOLONG;
                memcpy(name, p, n);
                name[n] = '\0';
                p += n;
                if (streq(name, ".."))
                        return -EPERM;

                if (mkdirat(fd, name, 0777) >= 0)
                        made = true;
                else if (errno != EEXIST)
                        return -errno;
                if (p[strspn(p, "/")] == '\0')
                        return made;    /* the last one may be a file or a link: it is there */

                next = openat(fd, name, O_PATH|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);
                if (next < 0)
                        return errno == ELOOP || errno == ENOTDIR ? -EPERM : -errno;
                close_fd(fd);
                fd = next;
        }
}

static const char* printable(const char *path) {
        return text_is_plain(path, PATH_MAX) ? path : "(not printable)";
}

static int make_bind_sources(const char *root, TtrpcSlice oci) {
        unsigned n_made = 0, n_outside = 0, n_failed = 0;
        WireField f;
        size_t offset = 0;
        int r;

        while ((r = wire_next(oci, &offset, &f)) > 0) {
                TtrpcSlice type, source;
                char path[PATH_MAX];
                int k;

                if (f.number != OCI_MOUNTS || f.type != WIRE_BYTES)
                        continue;
                if (wire_get_string(f.bytes, MOUNT_TYPE, &type) < 0 || wire_get_string(f.bytes, MOUNT_SOURCE, &source) < 0)
                        return -EBADMSG;
                if (!ttrpc_slice_is(type, "bind"))
                        continue;
                if (source.size >= sizeof(path) || (source.size > 0 && memchr(source.data, 0, source.size)))
                        return -EBADMSG;
                if (source.size > 0)
                        memcpy(path, source.data, source.size);
                path[source.size] = '\0';

                if (n_made == BIND_SOURCES_MAX)
                        return -ENOSPC;
                k = make_bind_source(root, path);

                /* One line of each kind for a request, however many mounts it has. */
                if (k > 0 && n_made++ == 0)
                        log_debug("Made the missing source '%s' of a bind mount.", printable(path));
                else if (k == -EPERM && n_outside++ == 0)       /* the agent will say what is wrong with it, if anything is */
                        log_info("The source '%s' of a bind mount is missing and not below '%s', so it is not made.",
                                 printable(path), root);
                else if (k < 0 && k != -EPERM && n_failed++ == 0)
                        (void) log_warning_errno(k, "Failed to make the source '%s' of a bind mount: %m, ignoring", printable(path));
        }

        return r;
}

void container_volumes_done(ContainerVolumes *v) {
        free(v->container);
        volume_specs_done(&v->specs);
        strv_free(v->targets);
        *v = CONTAINER_VOLUMES_NULL;
}

static char* slice_dup(TtrpcSlice s) {
        return s.size > 0 && memchr(s.data, 0, s.size) ? NULL : strndup((const char*) s.data ?: "", s.size);
}

static void refuse_malformed(RelayEdit *edit, int r) {
        if (r == -ENOMEM)
                refuse(edit, TTRPC_RESOURCE_EXHAUSTED, "CreateContainer: out of memory");
        else if (r == -ENOSPC)
                refuse(edit, TTRPC_RESOURCE_EXHAUSTED, "CreateContainer: too many bind mounts without a source");
        else
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: malformed request");
}

/* 0, or refused. */
static int find_oci(const TtrpcRequest *request, WireField *ret, RelayEdit *edit) {
        int r = wire_find(request->payload, CREATE_CONTAINER_OCI, ret);

        if (r == -ENOENT)
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: there is no OCI specification");
        else if (r < 0)
                refuse_malformed(edit, r);
        return r;
}

static int get_specs(TtrpcSlice oci, ContainerVolumes *v, RelayEdit *edit) {
        _cleanup_(freep) char *error = NULL;
        TtrpcSlice value;
        int r;

        r = wire_get_map(oci, OCI_ANNOTATIONS, ANNOTATION_CLOUD_VOLUMES, &value);
        if (r > 0 && value.size > 0)
                r = volume_specs_parse((const char*) value.data, value.size, &v->specs, &error);
        else if (r < 0)
                refuse_malformed(edit, r);
        /* Without its volumes the pod would write into the VM's memory and nobody would notice. */
        if (r < 0 && edit->code == TTRPC_OK)
                refuse(edit, r == -ENOMEM ? TTRPC_RESOURCE_EXHAUSTED : TTRPC_INVALID_ARGUMENT,
                       "corrupt cloud_volumes annotation (pod would start without volumes): %.160s", error ?: strerrordesc_np(-r));
        return r;
}

/* The listed paths that are sources of mounts, and not of those that get another one. */
static int get_targets(TtrpcSlice oci, ContainerVolumes *v, RelayEdit *edit) {
        _cleanup_(freep) char *text = NULL;
        _cleanup_(strv_freep) char **listed = NULL;
        TtrpcSlice value;
        WireField f;
        size_t offset = 0;
        int r;

        r = wire_get_map(oci, OCI_ANNOTATIONS, ANNOTATION_TARGET_PATH, &value);
        if (r == 0 || (r > 0 && value.size == 0))
                return 0;
        if (r > 0) {
                text = slice_dup(value);
                r = text ? strv_split(text, ",", &listed) : -EBADMSG;
        }
        if (r >= 0 && strv_length(listed) > TARGETS_MAX)
                r = -EBADMSG;

        while (r >= 0 && (r = wire_next(oci, &offset, &f)) > 0) {
                _cleanup_(freep) char *source = NULL, *destination = NULL;
                TtrpcSlice s, d;
                bool moved = false;

                if (f.number != OCI_MOUNTS || f.type != WIRE_BYTES)
                        continue;
                r = wire_get_string(f.bytes, MOUNT_SOURCE, &s);
                if (r >= 0)
                        r = wire_get_string(f.bytes, MOUNT_DESTINATION, &d);
                if (r < 0)
                        break;
                source = slice_dup(s);
                destination = slice_dup(d);
                if (!source || !destination) {
                        r = -EBADMSG;
                        break;
                }
                FOREACH_ELEMENT(VolumeSpec, spec, v->specs.list, v->specs.n)
                        moved = moved || streq(spec->mount_point, destination);
                if (!moved && strv_contains(listed, source) && !strv_contains(v->targets, source))
                        r = strv_extend(&v->targets, source);
        }
        if (r < 0)
                refuse_malformed(edit, r);
        return r;
}

char* edit_get_container(const TtrpcRequest *request) {
        _cleanup_(freep) char *container = NULL;
        TtrpcSlice id;

        if (wire_get_string(request->payload, CONTAINER_ID, &id) < 0)
                return NULL;
        container = slice_dup(id);
        return container && sandbox_id_is_valid(container) ? TAKE_PTR(container) : NULL;
}

int edit_get_volumes(const TtrpcRequest *request, ContainerVolumes *ret, RelayEdit *edit) {
        _cleanup_(container_volumes_done) ContainerVolumes v = CONTAINER_VOLUMES_NULL;
        WireField oci;

        if (find_oci(request, &oci, edit) < 0 || get_specs(oci.bytes, &v, edit) < 0 || get_targets(oci.bytes, &v, edit) < 0)
                return -EINVAL;
        if (v.specs.n == 0 && strv_length(v.targets) == 0)
                return 0;
        v.container = edit_get_container(request);
        if (!v.container) {
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: invalid container id");
                return -EINVAL;
        }
        *ret = v;
        v = CONTAINER_VOLUMES_NULL;
        return 1;
}

/* A mount with another source, and of type "bind". */
static int add_moved_mount(uint8_t **buffer, size_t *size, TtrpcSlice mount, const char *path) {
        _cleanup_(freep) uint8_t *m = NULL;
        size_t n = 0, offset = 0;
        WireField f;
        int r;

        while ((r = wire_next(mount, &offset, &f)) > 0)
                if (f.number != MOUNT_SOURCE && f.number != MOUNT_TYPE) {
                        r = wire_add_raw(&m, &n, mount.data + f.start, f.end - f.start);
                        if (r < 0)
                                break;
                }
        if (r >= 0)
                r = wire_add_bytes(&m, &n, MOUNT_SOURCE, ttrpc_slice(path));
        if (r >= 0)
                r = wire_add_bytes(&m, &n, MOUNT_TYPE, ttrpc_slice("bind"));
        return r < 0 ? r : wire_add_bytes(buffer, size, OCI_MOUNTS, (TtrpcSlice) { m, n });
}

/* The OCI specification with the volumes' mounts moved to where they are in the VM, malloc()ed. */
static int move_mounts(TtrpcSlice oci, const VolumeSpecs *specs, char *const *paths, uint8_t **ret, size_t *ret_size) {
        _cleanup_(freep) uint8_t *out = NULL;
        bool found[CLOUD_VOLUMES_MAX] = {};
        size_t size = 0, offset = 0;
        WireField f;
        int r;

        while ((r = wire_next(oci, &offset, &f)) > 0) {
                size_t i = specs->n;
                TtrpcSlice destination;

                if (f.number == OCI_MOUNTS && f.type == WIRE_BYTES) {
                        r = wire_get_string(f.bytes, MOUNT_DESTINATION, &destination);
                        if (r < 0)
                                return r;
                        for (i = 0; i < specs->n && !ttrpc_slice_is(destination, specs->list[i].mount_point); i++)
                                ;
                }
                if (i < specs->n) {
                        found[i] = true;
                        r = add_moved_mount(&out, &size, f.bytes, paths[i]);
                } else
                        r = wire_add_raw(&out, &size, oci.data + f.start, f.end - f.start);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;

        for (size_t i = 0; i < specs->n; i++)
                if (!found[i])
                        log_warning("No mount of the container is for cloud volume '%s'.", specs->list[i].name);
        *ret = TAKE_PTR(out);
        *ret_size = size;
        return 0;
}

/* The request's payload with that specification, malloc()ed. */
static int move_volumes(TtrpcSlice payload, const WireField *oci, const VolumeSpecs *specs, char *const *paths, uint8_t **ret, size_t *ret_size) {
        _cleanup_(freep) uint8_t *moved = NULL, *out = NULL;
        size_t n, size = 0;
        int r;

        r = move_mounts(oci->bytes, specs, paths, &moved, &n);
        if (r >= 0)
                r = wire_add_raw(&out, &size, payload.data, oci->start);
        if (r >= 0)
                r = wire_add_bytes(&out, &size, CREATE_CONTAINER_OCI, (TtrpcSlice) { moved, n });
        if (r >= 0)
                r = wire_add_raw(&out, &size, payload.data + oci->end, payload.size - oci->end);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(out);
        *ret_size = size;
        return 0;
}

void edit_create_container(const char *pod_namespace, const char *bind_root, const ContainerVolumes *volumes, char *const *paths,
                           const TtrpcRequest *request, RelayEdit *edit) {
        _cleanup_(freep) uint8_t *entry = NULL, *moved = NULL;
        TtrpcSlice payload = request->payload;
        WireField oci, linux_field;
        size_t size = 0, moved_size;
        int r;

        if (find_oci(request, &oci, edit) < 0)
                return;
        if (volumes && volumes->specs.n > 0) {
                r = move_volumes(payload, &oci, &volumes->specs, paths, &moved, &moved_size);
                if (r >= 0) {
                        payload = (TtrpcSlice) { moved, moved_size };
                        r = wire_find(payload, CREATE_CONTAINER_OCI, &oci);
                }
                if (r < 0) {
                        refuse_malformed(edit, r);
                        return;
                }
        }

        r = wire_find(oci.bytes, OCI_LINUX, &linux_field);
        if (r == -ENOENT) {
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: the OCI specification has no Linux part");
                return;
        }
        if (r >= 0)
                r = wire_add_pair(&entry, &size, LINUX_NAMESPACES, "network", pod_namespace);
        if (r >= 0)
                r = wire_append(payload, (const uint32_t[]) { CREATE_CONTAINER_OCI, OCI_LINUX, 0 },
                                (TtrpcSlice) { entry, size }, &edit->payload, &edit->size);
        if (r >= 0)
                r = make_bind_sources(bind_root, oci.bytes);
        if (r < 0)
                refuse_malformed(edit, r);
}

void edit_create_sandbox(const TtrpcRequest *request, RelayEdit *edit) {
        int r = wire_remove(request->payload, CREATE_SANDBOX_DNS, &edit->payload, &edit->size);

        if (r == -ENOMEM)
                refuse(edit, TTRPC_RESOURCE_EXHAUSTED, "CreateSandbox: out of memory");
        else if (r < 0)
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateSandbox: malformed request");
}
