/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-proxy/container-edit.h"

#include <json-c/json.h>
#include <stdio.h>

#include "basic/json.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "tls/digest.h"
#include "ttrpc/wire.h"

/* kata-containers: src/libs/protocols/protos/agent.proto and oci.proto */
enum {
        CREATE_CONTAINER_OCI = 6,
        OCI_MOUNTS = 5,
        OCI_ANNOTATIONS = 7,
        MOUNT_DESTINATION = 1,
        MOUNT_SOURCE = 2,
};

#define ANNOTATION_TARGET_PATH "io.confidentialcontainers.org.peerpodvolumes.target_path"
#define ANNOTATION_CLOUD_VOLUMES "io.confidentialcontainers.org.cloud_volumes"
#define ANNOTATION_DEFAULT_GPUS "io.katacontainers.config.hypervisor.default_gpus"
#define ANNOTATION_CDI "cdi.k8s.io/peer-pods"
#define CDI_ALL_GPUS "nvidia.com/gpu=all"
#define CSI_PATH "/volumes/kubernetes.io~csi/"

/* Go's path.Clean() for absolute paths: no empty parts, no ".", ".." taken back. */
static char* clean_path(TtrpcSlice s) {
        char *out = malloc(s.size + 2);
        size_t n = 0;

        if (!out)
                return NULL;

        for (size_t i = 0; i < s.size;) {
                size_t part;

                while (i < s.size && s.data[i] == '/')
                        i++;
                for (part = 0; i + part < s.size && s.data[i + part] != '/'; part++)
                        ;
                if (part == 2 && memcmp(s.data + i, "..", 2) == 0)
                        while (n > 0 && out[--n] != '/')
                                ;
                else if (part > 0 && !(part == 1 && s.data[i] == '.')) {
                        out[n++] = '/';
                        memcpy(out + n, s.data + i, part);
                        n += part;
                }
                i += part;
        }

        if (n == 0)
                out[n++] = '/';
        out[n] = '\0';
        return out;
}

typedef struct Found {
        char *targets;                  /* comma separated */
        size_t targets_size;
        char **destinations;            /* of the mount of each volume; NULL: none in this container */
} Found;

static int add_target(Found *f, const char *path) {
        size_t n = strlen(path), old = f->targets_size;
        char *p = realloc(f->targets, old + n + 2);

        if (!p)
                return -ENOMEM;
        f->targets = p;
        if (old > 0)
                p[old++] = ',';
        memcpy(p + old, path, n + 1);
        f->targets_size = old + n;
        return 0;
}

static int find_volumes(TtrpcSlice oci, const ProxyVolume *volumes, size_t n_volumes, Found *f) {
        WireField field;
        size_t offset = 0;
        int r;

        while ((r = wire_next(oci, &offset, &field)) > 0) {
                _cleanup_(freep) char *source = NULL;
                TtrpcSlice s, destination;

                if (field.number != OCI_MOUNTS || field.type != WIRE_BYTES)
                        continue;
                r = wire_get_string(field.bytes, MOUNT_SOURCE, &s);
                if (r >= 0)
                        r = wire_get_string(field.bytes, MOUNT_DESTINATION, &destination);
                if (r < 0)
                        return r;
                source = clean_path(s);
                if (!source)
                        return -ENOMEM;

                for (size_t i = 0; i < n_volumes; i++) {
                        if (!streq(volumes[i].path, source))
                                continue;
                        if (strstr(source, CSI_PATH)) {
                                r = add_target(f, source);
                                if (r < 0)
                                        return r;
                        }
                        if (!f->destinations[i]) {
                                f->destinations[i] = strndup((const char*) destination.data ?: "", destination.size);
                                if (!f->destinations[i])
                                        return -ENOMEM;
                        }
                }
        }

        return r;
}

/* {"vol-0":{"mount_point":…}}: numbers count all volumes that have a disk, also those that this container does not mount, since
 * the number is the disk's place at the VM (lun). */
static int cloud_volumes_json(const ProxyVolume *volumes, size_t n_volumes, char *const *destinations, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        unsigned lun = 0;
        int r;

        if (!o)
                return -ENOMEM;

        for (size_t i = 0; i < n_volumes; i++) {
                const ProxyVolume *v = volumes + i;
                json_object *entry;
                char name[32], number[16];

                if (isempty(v->disk_id))
                        continue;
                (void) snprintf(number, sizeof(number), "%u", lun++);
                (void) snprintf(name, sizeof(name), "vol-%s", number);
                if (!destinations[i])
                        continue;

                entry = json_object_new_object();
                r = entry ? json_set(o, name, entry) : -ENOMEM;
                if (r < 0)
                        return r;
                if ((r = json_set_string(entry, "mount_point", destinations[i])) < 0 ||
                    (r = json_set_string(entry, "fs_type", isempty(v->fs_type) ? "ext4" : v->fs_type)) < 0 ||
                    (r = json_set_string(entry, "lun", number)) < 0 ||
                    (r = json_set_string(entry, "disk_id", v->disk_id)) < 0 ||
                    (r = json_set_string(entry, "encrypt_type", isempty(v->encrypt_type) ? NULL : v->encrypt_type)) < 0 ||
                    (r = json_set_string(entry, "key_id", isempty(v->key_id) ? NULL : v->key_id)) < 0)
                        return r;
        }

        *ret = TAKE_PTR(o);
        return 0;
}

static void found_done(Found *f, size_t n_volumes) {
        for (size_t i = 0; f->destinations && i < n_volumes; i++)
                free(f->destinations[i]);
        free(f->destinations);
        free(f->targets);
}

static int wants_gpus(TtrpcSlice oci, bool *ret) {
        TtrpcSlice value;
        char text[24] = "";
        uint64_t n = 0;
        int r;

        r = wire_get_map(oci, OCI_ANNOTATIONS, ANNOTATION_DEFAULT_GPUS, &value);
        if (r < 0)
                return r;
        if (r > 0 && value.size < sizeof(text))
                memcpy(text, value.data, value.size);
        *ret = r > 0 && parse_u64(text, &n) >= 0 && n > 0;
        return 0;
}

static int make_annotations(TtrpcSlice oci, const ProxyVolume *volumes, size_t n_volumes, Found *f, uint8_t **ret, size_t *ret_size) {
        _cleanup_(json_object_putp) json_object *json = NULL;
        bool gpus;
        int r;

        r = wants_gpus(oci, &gpus);
        if (r < 0)
                return r;
        r = find_volumes(oci, volumes, n_volumes, f);
        if (r < 0)
                return r;
        r = cloud_volumes_json(volumes, n_volumes, f->destinations, &json);
        if (r < 0)
                return r;

        if (f->targets) {
                r = wire_add_pair(ret, ret_size, OCI_ANNOTATIONS, ANNOTATION_TARGET_PATH, f->targets);
                if (r < 0)
                        return r;
        }
        if (gpus) {
                r = wire_add_pair(ret, ret_size, OCI_ANNOTATIONS, ANNOTATION_CDI, CDI_ALL_GPUS);
                if (r < 0)
                        return r;
        }
        if (json_object_object_length(json) > 0) {
                const char *text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE);

                r = text ? wire_add_pair(ret, ret_size, OCI_ANNOTATIONS, ANNOTATION_CLOUD_VOLUMES, text) : -ENOMEM;
                if (r < 0)
                        return r;
        }
        return 0;
}

static void refuse(RelayEdit *edit, TtrpcCode code, const char *text) {
        edit->code = code;
        (void) snprintf(edit->message, sizeof(edit->message), "%s", text);
}

void container_edit(const ProxyVolume *volumes, size_t n_volumes, const TtrpcRequest *request, RelayEdit *edit) {
        _cleanup_(freep) uint8_t *annotations = NULL;
        size_t size = 0;
        Found found = {};
        WireField oci;
        int r;

        r = wire_find(request->payload, CREATE_CONTAINER_OCI, &oci);
        if (r == -ENOENT) {
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: there is no OCI specification");
                return;
        }
        if (r >= 0) {
                found.destinations = new0(char*, MAX(n_volumes, (size_t) 1));
                r = found.destinations ? make_annotations(oci.bytes, volumes, n_volumes, &found, &annotations, &size) : -ENOMEM;
                found_done(&found, n_volumes);
        }
        if (r >= 0 && size > 0)
                r = wire_append(request->payload, (const uint32_t[]) { CREATE_CONTAINER_OCI, 0 }, (TtrpcSlice) { annotations, size },
                                &edit->payload, &edit->size);

        if (r == -ENOMEM)
                refuse(edit, TTRPC_RESOURCE_EXHAUSTED, "CreateContainer: out of memory");
        else if (r < 0)
                refuse(edit, TTRPC_INVALID_ARGUMENT, "CreateContainer: malformed request");
}

static int find_elsewhere(TtrpcSlice oci, char *const *digests, TtrpcSlice *ret_destination) {
        WireField field;
        size_t offset = 0;
        int r;

        while ((r = wire_next(oci, &offset, &field)) > 0) {
                _cleanup_(freep) char *source = NULL;
                char digest[SHA256_HEX_SIZE];
                TtrpcSlice s;

                if (field.number != OCI_MOUNTS || field.type != WIRE_BYTES)
                        continue;
                r = wire_get_string(field.bytes, MOUNT_SOURCE, &s);
                if (r >= 0)
                        r = wire_get_string(field.bytes, MOUNT_DESTINATION, ret_destination);
                if (r < 0)
                        return r;
                source = clean_path(s);
                if (!source)
                        return -ENOMEM;
                r = sha256_hex(source, strlen(source), digest);
                if (r < 0)
                        return r;
                if (strv_contains(digests, digest))
                        return 1;
        }

        return r;
}

bool container_check_volumes(char *const *digests, const TtrpcRequest *request, RelayEdit *edit) {
        TtrpcSlice destination;
        WireField oci;
        int r;

        if (strv_length(digests) == 0 || wire_find(request->payload, CREATE_CONTAINER_OCI, &oci) < 0)
                return true;            /* what is malformed is for container_edit() to say */

        r = find_elsewhere(oci.bytes, digests, &destination);
        if (r == 0 || r == -EBADMSG)
                return true;
        if (r < 0) {
                refuse(edit, TTRPC_RESOURCE_EXHAUSTED, "CreateContainer: out of memory");
                return false;
        }

        edit->code = TTRPC_FAILED_PRECONDITION;
        (void) snprintf(edit->message, sizeof(edit->message), "CreateContainer: the volume for '%.*s' is not attached to the pod VM: this "
                        "container runtime does not tell the pod's UID with CreateVM", (int) MIN(destination.size, (size_t) 80),
                        (const char*) destination.data ?: "");
        return false;
}
