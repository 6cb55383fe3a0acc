/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/forwarder/edits.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "basic/log.h"
#include "basic/util.h"
#include "ttrpc/wire.h"

/* kata-containers: src/libs/protocols/protos/agent.proto and oci.proto */
enum {
        CREATE_CONTAINER_OCI = 6,
        OCI_MOUNTS = 5,
        OCI_ANNOTATIONS = 7,
        OCI_LINUX = 8,
        LINUX_NAMESPACES = 6,
        MOUNT_SOURCE = 2,
        MOUNT_TYPE = 3,
        CREATE_SANDBOX_DNS = 2,
};

static const char *const volume_annotations[] = {
        "io.confidentialcontainers.org.cloud_volumes",
        "io.confidentialcontainers.org.peerpodvolumes.target_path",
};

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

static int make_bind_sources(const char *root, TtrpcSlice oci) {
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

                k = make_bind_source(root, path);
                if (k > 0)
                        log_debug("Made the missing source '%s' of a bind mount.", path);
                else if (k == -EPERM)   /* the agent will say what is wrong with it, if anything is */
                        log_info("The source '%s' of a bind mount is missing and not below '%s', so it is not made.", path, root);
                else if (k < 0)
                        log_warning_errno(k, "Failed to make the source '%s' of a bind mount: %m, ignoring", path);
        }

        return r;
}

void edit_create_container(const char *pod_namespace, const char *bind_root, const TtrpcRequest *request, RelayEdit *edit) {
        _cleanup_(freep) uint8_t *entry = NULL;
        size_t size = 0;
        WireField oci, linux_field;
        TtrpcSlice value;
        int r;

        r = wire_find(request->payload, CREATE_CONTAINER_OCI, &oci);
        if (r == -ENOENT) {
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: there is no OCI specification");
                return;
        }
        if (r >= 0)
                r = wire_find(oci.bytes, OCI_LINUX, &linux_field);
        if (r == -ENOENT) {
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: the OCI specification has no Linux part");
                return;
        }

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(volume_annotations); i++) {
                r = wire_get_map(oci.bytes, OCI_ANNOTATIONS, volume_annotations[i], &value);
                if (r > 0 && value.size > 0) {
                        /* Without its volumes the pod would write into the VM's memory and nobody would notice. */
                        refuse(edit, TTRPC_FAILED_PRECONDITION, "CreateContainer: annotation '%s': volumes are not supported by this "
                               "version of agent-protocol-forwarder", volume_annotations[i]);
                        return;
                }
        }

        if (r >= 0)
                r = wire_add_pair(&entry, &size, LINUX_NAMESPACES, "network", pod_namespace);
        if (r >= 0)
                r = wire_append(request->payload, (const uint32_t[]) { CREATE_CONTAINER_OCI, OCI_LINUX, 0 },
                                (TtrpcSlice) { entry, size }, &edit->payload, &edit->size);
        if (r >= 0)
                r = make_bind_sources(bind_root, oci.bytes);

        if (r == -ENOMEM)
                refuse(edit, TTRPC_RESOURCE_EXHAUSTED, "CreateContainer: out of memory");
        else if (r < 0)
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: malformed request");
}

void edit_create_sandbox(const TtrpcRequest *request, RelayEdit *edit) {
        int r = wire_remove(request->payload, CREATE_SANDBOX_DNS, &edit->payload, &edit->size);

        if (r == -ENOMEM)
                refuse(edit, TTRPC_RESOURCE_EXHAUSTED, "CreateSandbox: out of memory");
        else if (r < 0)
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateSandbox: malformed request");
}
