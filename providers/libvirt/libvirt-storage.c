/* SPDX-License-Identifier: Apache-2.0 */
#include "libvirt-storage.h"

#include <fcntl.h>
#include <inttypes.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <libxml/xmlwriter.h>
#include <limits.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "libvirt-command.h"

#define IMAGE_NAME_MAX 255
#define ROOT_SUFFIX "-root.qcow2"
#define SEED_SUFFIX "-cloudinit.iso"
#define DEFAULT_DIRECTORY "/var/lib/libvirt/images"
#define UPLOAD_CHUNK (256 * 1024)
#define SCAN_USEC (60 * USEC_PER_SEC)           /* how old a pool's figures may be */
#define GIB (UINT64_C(1) << 30)
#define STRAGGLER_TRIES 100U
#define STRAGGLER_PAUSE_USEC (100 * USEC_PER_MSEC)
#define QCOW2_HEADER_SIZE 72                    /* qemu: docs/interop/qcow2.rst, version 2 */

static bool endswith(const char *s, const char *suffix) {
        size_t n = strlen(s), m = strlen(suffix);

        return n >= m && streq(s + n - m, suffix);
}

bool image_name_is_valid(const char *s) {
        return !isempty(s) && text_is_plain(s, IMAGE_NAME_MAX) && !strchr(s, '/') && s[0] != '.' &&
                !endswith(s, ROOT_SUFFIX) && !endswith(s, SEED_SUFFIX);
}

/* Files */

static const char* base_directory(const Libvirt *l) {
        return streq(l->pool, "default") ? DEFAULT_DIRECTORY : l->pool;
}

int image_probe(int fd, bool *ret_qcow2, uint64_t *ret_size) {
        uint8_t header[QCOW2_HEADER_SIZE];
        struct stat st;
        ssize_t n;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_size == 0)
                return -EBADMSG;
        n = pread(fd, header, sizeof(header), 0);
        if (n < 0)
                return -errno;
        if (n >= 4 && memcmp(header, "QFI\xfb", 4) == 0) {
                if (n < QCOW2_HEADER_SIZE || read_be32(header + 4) < 2)
                        return -EBADMSG;
                *ret_qcow2 = true;
                *ret_size = read_be64(header + 24);
                return 0;
        }
        *ret_qcow2 = false;
        *ret_size = st.st_size;
        return 0;
}

static int open_base_file(const Libvirt *l, const char *image, char **ret_path, bool *ret_qcow2, uint64_t *ret_size, PeerpodError *error) {
        _cleanup_(close_fdp) int fd = -EBADF;
        _cleanup_(freep) char *path = NULL;
        int r;

        if (asprintf(&path, "%s/%s", base_directory(l), image) < 0)
                return libvirt_oom(error);
        fd = open(path, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        if (fd < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Failed to open base image '%s': %s", path, strerror(errno));
        r = image_probe(fd, ret_qcow2, ret_size);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Base image '%s' is neither a raw nor a qcow2 image.", path);
        *ret_path = TAKE_PTR(path);
        return 0;
}

static int create_root_file(Storage *s, const PeerpodCall *call, const char *image, PeerpodError *error) {
        _cleanup_(freep) char *base = NULL;
        uint64_t base_size;
        char size[24];
        bool qcow2;
        int r;

        r = open_base_file(s->libvirt, image, &base, &qcow2, &base_size, error);
        if (r < 0)
                return r;
        (void) snprintf(size, sizeof(size), "%" PRIu64, MAX(base_size, s->libvirt->root_disk_size));
        return command_run(call, (const char*[]) {
                "qemu-img", "create", "-q", "-f", "qcow2", "-F", qcow2 ? "qcow2" : "raw", "-b", base, s->root, size, NULL
        }, error);
}

static int create_seed_file(Storage *s, const uint8_t *data, size_t size, PeerpodError *error) {
        _cleanup_(close_fdp) int fd = open(s->seed, O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC|O_NOFOLLOW, 0600);
        int r = fd < 0 ? -errno : write_full(fd, data, size);

        if (r < 0)
                return peerpod_error_set(error, r == -ENOSPC || r == -EDQUOT ? PEERPOD_E_EXHAUSTED : PEERPOD_E_INTERNAL,
                                         "Failed to write seed disk '%s': %s", s->seed, strerror(-r));
        return 0;
}

/* With all that is there: libvirt, too, leaves a file behind (nvram.fd.new) if the service is killed while it writes one. A qemu-img that outlived a
 * killed service makes its file when this one is done: look again, for a while. */
static int remove_files(Storage *s, const PeerpodCall *call, PeerpodError *error) {
        if (unlink(s->libvirt_log) < 0 && errno != ENOENT)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to remove '%s': %s", s->libvirt_log, strerror(errno));
        for (unsigned n_tries = 1;; n_tries++) {
                int r;

                r = remove_tree(s->directory);
                if (r == 0)
                        return 0;
                if (r != -ENOTEMPTY || n_tries == STRAGGLER_TRIES)
                        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to remove '%s': %s", s->directory, strerror(-r));
                r = peerpod_call_wait(call, -1, 0, STRAGGLER_PAUSE_USEC, error);
                if (r < 0)
                        return r;
        }
}

static int init_files(Storage *s, const char *name, PeerpodError *error) {
        if (asprintf(&s->directory, "%s/%s", s->libvirt->instances, name) < 0 ||
            asprintf(&s->root, "%s/root.qcow2", s->directory) < 0 ||
            asprintf(&s->seed, "%s/seed.iso", s->directory) < 0 ||
            asprintf(&s->nvram, "%s/nvram.fd", s->directory) < 0 ||
            asprintf(&s->serial_log, "%s/console.log", s->directory) < 0 ||
            asprintf(&s->libvirt_log, "%s/log/qemu/%s.log", s->libvirt->embed_root, name) < 0)
                return libvirt_oom(error);
        return 0;
}

/* Volumes */

static int volume_xml(const char *name, uint64_t capacity, const char *format, const char *base, const char *base_format, char **ret) {
        xmlBufferPtr buffer = xmlBufferCreate();
        xmlTextWriterPtr w;
        bool good;

        if (!buffer)
                return -ENOMEM;
        w = xmlNewTextWriterMemory(buffer, 0);
        if (!w) {
                xmlBufferFree(buffer);
                return -ENOMEM;
        }

#define OPEN(name) (xmlTextWriterStartElement(w, (const xmlChar*) (name)) >= 0)
#define ATTRIBUTE(key, value) (xmlTextWriterWriteAttribute(w, (const xmlChar*) (key), (const xmlChar*) (value)) >= 0)
#define TEXT(name, value) (xmlTextWriterWriteElement(w, (const xmlChar*) (name), (const xmlChar*) (value)) >= 0)
#define CLOSE() (xmlTextWriterEndElement(w) >= 0)
        good = OPEN("volume") && TEXT("name", name) &&
                OPEN("capacity") && ATTRIBUTE("unit", "bytes") && xmlTextWriterWriteFormatString(w, "%" PRIu64, capacity) >= 0 && CLOSE() &&
                OPEN("target") &&
                OPEN("format") && ATTRIBUTE("type", format) && CLOSE() &&
                OPEN("permissions") && TEXT("mode", "0600") && CLOSE() &&
                CLOSE();
        if (good && base)
                good = OPEN("backingStore") && TEXT("path", base) &&
                        OPEN("format") && ATTRIBUTE("type", base_format) && CLOSE() && CLOSE();
        good = good && CLOSE();
#undef OPEN
#undef ATTRIBUTE
#undef TEXT
#undef CLOSE
        xmlFreeTextWriter(w);

        *ret = good ? strdup((const char*) xmlBufferContent(buffer)) : NULL;
        xmlBufferFree(buffer);
        return *ret ? 0 : -ENOMEM;
}

/* target/format@type of a volume's XML; "raw" if it names none. */
static int volume_format(const char *xml, char **ret) {
        xmlNodePtr node;
        xmlDocPtr doc;
        xmlChar *type = NULL;

        doc = xmlReadMemory(xml, (int) strlen(xml), NULL, NULL, XML_PARSE_NONET|XML_PARSE_NOERROR|XML_PARSE_NOWARNING);
        if (!doc)
                return -EBADMSG;
        node = xmlDocGetRootElement(doc);
        for (const char *const *name = (const char*[]) { "target", "format", NULL }; node && *name; name++) {
                xmlNodePtr child = node->children;

                while (child && (child->type != XML_ELEMENT_NODE || xmlStrcmp(child->name, (const xmlChar*) *name) != 0))
                        child = child->next;
                node = child;
        }
        if (node)
                type = xmlGetNoNsProp(node, (const xmlChar*) "type");
        *ret = strdup(type ? (const char*) type : "raw");
        if (type)
                xmlFree(type);
        xmlFreeDoc(doc);
        return *ret ? 0 : -ENOMEM;
}

/* A pool is scanned for a volume only when that is missing: libvirt knows those that it made, and a scan fails while others upload. */
static virStorageVolPtr lookup_volume(virStoragePoolPtr pool, const char *name) {
        virStorageVolPtr v = virStorageVolLookupByName(pool, name);

        if (v || libvirt_last_code() != VIR_ERR_NO_STORAGE_VOL)
                return v;
        (void) virStoragePoolRefresh(pool, 0);
        return virStorageVolLookupByName(pool, name);
}

/* The key, which may be any path, is the operator's to use, not a pod's. */
static int find_base_volume(const Libvirt *l, virStoragePoolPtr pool, const char *image, virStorageVolPtr *ret, PeerpodError *error) {
        virStorageVolPtr v = lookup_volume(pool, image);

        if (!v && libvirt_last_code() == VIR_ERR_NO_STORAGE_VOL && streq(image, l->image))
                v = virStorageVolLookupByKey(virStoragePoolGetConnect(pool), image);
        if (!v)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to find base volume '%s' in pool '%s'", image, l->pool);
        *ret = v;
        return 0;
}

static int fail_volume(PeerpodError *error, const char *what, const char *name) {
        /* Out of space has no code of its own. */
        virErrorPtr e = virGetLastError();
        bool full = e && e->message && (strstr(e->message, "No space left") || strstr(e->message, "not enough space"));

        return libvirt_fail(error, full ? PEERPOD_E_EXHAUSTED : PEERPOD_E_INTERNAL, "%s '%s'", what, name);
}

/* A pool's figures are those of its last scan, less what was allocated since; what VMs have written shows in the next one only. A scan looks
 * at each image and is refused while somebody uploads, so it is made before a VM is refused, but not for each one; if it fails, the figures
 * must do as they are. */
static int get_free_space(Libvirt *l, virStoragePoolPtr pool, uint64_t needed, uint64_t *ret, PeerpodError *error) {
        uint64_t now = peerpod_now_usec(), last = __atomic_load_n(&l->pool_scanned_usec, __ATOMIC_RELAXED);
        bool scanned = last != 0 && now - last < SCAN_USEC;
        virStoragePoolInfo info = {};

        if (scanned && virStoragePoolGetInfo(pool, &info) < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to ask storage pool '%s' for its free space", l->pool);
        if (!scanned || info.available < needed) {
                __atomic_store_n(&l->pool_scanned_usec, now, __ATOMIC_RELAXED);
                (void) virStoragePoolRefresh(pool, 0);
                if (virStoragePoolGetInfo(pool, &info) < 0)
                        return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to ask storage pool '%s' for its free space", l->pool);
        }
        *ret = info.available;
        return 0;
}

/* A root disk takes what its VM writes, so a pool may promise more than it has. But with less than one more VM may write, VMs come to a halt. */
static int check_space(Libvirt *l, virStoragePoolPtr pool, const char *image, uint64_t root_size, uint64_t seed_size, PeerpodError *error) {
        uint64_t needed = root_size <= UINT64_MAX - seed_size ? root_size + seed_size : UINT64_MAX, available = 0;
        int r;

        r = get_free_space(l, pool, needed, &available, error);
        if (r < 0)
                return r;
        if (available < needed)
                return peerpod_error_set(error, PEERPOD_E_EXHAUSTED,
                                         "Storage pool '%s' has %.2f GiB free, and a VM needs %.2f GiB: its root disk may grow to that, the larger "
                                         "of LIBVIRT_ROOT_DISK_SIZE and base image '%s'. Make room, or take a smaller disk.",
                                         l->pool, (double) available / GIB, (double) needed / GIB, image);
        return 0;
}

static int create_root_volume(Storage *s, const char *image, uint64_t seed_size, PeerpodError *error) {
        _cleanup_(virStorageVolFreep) virStorageVolPtr base = NULL, volume = NULL;
        _cleanup_(freep) char *format = NULL, *path = NULL, *base_xml = NULL, *xml = NULL;
        virStorageVolInfo info;
        uint64_t size;
        int r;

        r = find_base_volume(s->libvirt, s->pool, image, &base, error);
        if (r < 0)
                return r;
        path = virStorageVolGetPath(base);
        if (!path || virStorageVolGetInfo(base, &info) < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to look at base volume '%s'", image);
        base_xml = virStorageVolGetXMLDesc(base, 0);
        if (!base_xml)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to look at base volume '%s'", image);
        r = volume_format(base_xml, &format);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to read the format of base volume '%s': %s", image, strerror(-r));

        size = MAX((uint64_t) info.capacity, s->libvirt->root_disk_size);
        r = check_space(s->libvirt, s->pool, image, size, seed_size, error);
        if (r < 0)
                return r;
        r = volume_xml(s->root, size, "qcow2", path, format, &xml);
        if (r < 0)
                return libvirt_oom(error);
        volume = virStorageVolCreateXML(s->pool, xml, 0);
        if (!volume)
                return fail_volume(error, "Failed to create volume", s->root);
        return 0;
}

static int upload(virConnectPtr c, virStorageVolPtr volume, const PeerpodCall *call, const uint8_t *data, size_t size, PeerpodError *error) {
        virStreamPtr stream = virStreamNew(c, 0);
        int r = 0;

        if (!stream)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to make a stream");
        if (virStorageVolUpload(volume, stream, 0, size, 0) < 0) {
                r = libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to upload the seed disk");
                (void) virStreamFree(stream);
                return r;
        }

        for (size_t done = 0; done < size && r == 0;) {
                int n;

                r = peerpod_call_check(call, error);
                if (r < 0)
                        break;
                n = virStreamSend(stream, (const char*) data + done, MIN(size - done, (size_t) UPLOAD_CHUNK));
                if (n < 0)
                        r = fail_volume(error, "Failed to upload", "seed disk");
                else
                        done += (size_t) n;
        }
        if (r < 0)
                (void) virStreamAbort(stream);
        else if (virStreamFinish(stream) < 0)
                r = fail_volume(error, "Failed to upload", "seed disk");
        (void) virStreamFree(stream);
        return r;
}

static int create_seed_volume(Storage *s, const PeerpodCall *call, const uint8_t *data, size_t size, PeerpodError *error) {
        _cleanup_(virStorageVolFreep) virStorageVolPtr volume = NULL;
        _cleanup_(freep) char *xml = NULL;

        if (volume_xml(s->seed, size, "raw", NULL, NULL, &xml) < 0)
                return libvirt_oom(error);
        volume = virStorageVolCreateXML(s->pool, xml, 0);
        if (!volume)
                return fail_volume(error, "Failed to create volume", s->seed);
        return upload(virStoragePoolGetConnect(s->pool), volume, call, data, size, error);
}

static int remove_volume(virStoragePoolPtr pool, const char *name, const PeerpodCall *call, PeerpodError *error) {
        for (;;) {
                _cleanup_(virStorageVolFreep) virStorageVolPtr volume = virStorageVolLookupByName(pool, name);
                int r;

                if (!volume && libvirt_last_code() == VIR_ERR_NO_STORAGE_VOL)
                        return 0;
                if (volume && virStorageVolDelete(volume, 0) == 0)
                        return 0;
                /* "is still being allocated", "has asynchronous jobs": an upload that was cut off and not yet noticed. */
                if (libvirt_is_cut_off() ||
                    (libvirt_last_code() != VIR_ERR_OPERATION_INVALID && libvirt_last_code() != VIR_ERR_INTERNAL_ERROR))
                        return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to delete volume '%s'", name);
                r = libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to delete volume '%s'", name);
                if (peerpod_call_wait(call, -1, 0, USEC_PER_SEC, NULL) < 0)
                        return r;
        }
}

/* Both */

static int find_volume(Storage *s, const char *id, PeerpodError *error) {
        _cleanup_(virStorageVolFreep) virStorageVolPtr volume = NULL;
        _cleanup_(freep) char *path = NULL;
        bool block = startswith(id, "/dev/");
        struct stat st;

        if (block ? !text_is_plain(id, PATH_MAX) || strstr(id, "/..") : !image_name_is_valid(id))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is neither a volume's name nor a block device.", id);
        if (!block && streq(id, s->libvirt->image))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Volume '%s' is the base image.", id);
        if (s->pool && block)           /* of another machine, perhaps: libvirt will tell */
                return strv_extend(&s->volumes, id) < 0 ? libvirt_oom(error) : 0;
        if (s->pool) {
                volume = lookup_volume(s->pool, id);
                if (!volume)
                        return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to find volume '%s' in pool '%s'", id, s->libvirt->pool);
                return strv_extend(&s->volumes, id) < 0 ? libvirt_oom(error) : 0;
        }

        if (asprintf(&path, "%s%s%s", block ? "" : base_directory(s->libvirt), block ? "" : "/", id) < 0)
                return libvirt_oom(error);
        if (stat(path, &st) < 0 || access(path, R_OK|W_OK) < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Volume '%s' cannot be used: %s", path, strerror(errno));
        if (block ? !S_ISBLK(st.st_mode) : !S_ISREG(st.st_mode))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Volume '%s' is no %s.", path,
                                         block ? "block device" : "regular file");
        return strv_extend(&s->volumes, path) < 0 ? libvirt_oom(error) : 0;
}

int storage_find_volumes(Storage *s, const char *const *ids, size_t n, PeerpodError *error) {
        for (size_t i = 0; i < n; i++) {
                int r = find_volume(s, ids[i], error);

                if (r < 0)
                        return r;
        }
        return 0;
}

int storage_init(Storage *s, Libvirt *l, virConnectPtr c, const char *name, PeerpodError *error) {
        *s = (Storage) { .libvirt = l };
        if (libvirt_is_embedded(l))
                return init_files(s, name, error);

        s->pool = virStoragePoolLookupByName(c, l->pool);
        if (!s->pool)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to find storage pool '%s'", l->pool);
        if (asprintf(&s->root, "%s" ROOT_SUFFIX, name) < 0 || asprintf(&s->seed, "%s" SEED_SUFFIX, name) < 0)
                return libvirt_oom(error);
        return 0;
}

void storage_done(Storage *s) {
        if (s->pool)
                (void) virStoragePoolFree(s->pool);
        free(s->directory);
        free(s->root);
        free(s->seed);
        strv_free(s->volumes);
        free(s->nvram);
        free(s->serial_log);
        free(s->libvirt_log);
        *s = (Storage) {};
}

int storage_create_root(Storage *s, const PeerpodCall *call, const char *image, uint64_t seed_size, PeerpodError *error) {
        if (s->pool)
                return create_root_volume(s, image, seed_size, error);
        if (mkdir(s->directory, 0700) < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to create '%s': %s", s->directory, strerror(errno));
        return create_root_file(s, call, image, error);
}

int storage_create_seed(Storage *s, const PeerpodCall *call, const uint8_t *data, size_t size, PeerpodError *error) {
        return s->pool ? create_seed_volume(s, call, data, size, error) : create_seed_file(s, data, size, error);
}

int storage_remove(Storage *s, const PeerpodCall *call, PeerpodError *error) {
        int r;

        if (!s->pool)
                return remove_files(s, call, error);
        r = remove_volume(s->pool, s->seed, call, error);
        return r < 0 ? r : remove_volume(s->pool, s->root, call, error);
}

int storage_check(Libvirt *l, virConnectPtr c, PeerpodError *error) {
        _cleanup_(virStoragePoolFreep) virStoragePoolPtr pool = NULL;
        _cleanup_(virStorageVolFreep) virStorageVolPtr volume = NULL;
        _cleanup_(freep) char *path = NULL;
        virStorageVolInfo info;
        uint64_t size;
        bool qcow2;
        int r;

        if (libvirt_is_embedded(l))
                return open_base_file(l, l->image, &path, &qcow2, &size, error);

        pool = virStoragePoolLookupByName(c, l->pool);
        if (!pool)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to find storage pool '%s'", l->pool);
        r = find_base_volume(l, pool, l->image, &volume, error);
        if (r < 0)
                return r;
        if (virStorageVolGetInfo(volume, &info) < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to look at base volume '%s'", l->image);
        return check_space(l, pool, l->image, MAX((uint64_t) info.capacity, l->root_disk_size), /* seed_size= */ 0, error);
}
