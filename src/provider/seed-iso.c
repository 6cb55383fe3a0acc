/* SPDX-License-Identifier: Apache-2.0 */
/* libarchive lays the image out with zeros in place of the files' contents; then the contents are written over the zeros, at the
 * extents that the image's own directory names, and the label is put into lower case, which libarchive writes only into the Joliet
 * descriptor (cloud-api-adaptor's guest looks for /dev/disk/by-label/cidata). The primary descriptor has no checksum. */
#include "provider/seed-iso.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>

#include "basic/util.h"

#define LABEL "cidata"
#define USER_DATA_MAX (UINT32_C(64) << 20)
#define OVERHEAD (256 * 1024)           /* measured: 66 KiB for three files */

/* ECMA-119 */
#define SECTOR_SIZE 2048
#define PVD_OFFSET (16 * SECTOR_SIZE)           /* 6.2.1: the first volume descriptor */
#define PVD_VOLUME_ID 40                        /* 8.4.7 */
#define PVD_ROOT_RECORD 156                     /* 8.4.18 */
#define RECORD_EXTENT 2                         /* 9.1.3, little-endian copy first */
#define RECORD_SIZE 10                          /* 9.1.4 */
#define RECORD_NAME_SIZE 32                     /* 9.1.10 */
#define RECORD_NAME 33                          /* 9.1.11 */

typedef struct SeedFile {
        const char *name;
        const char *iso_name;           /* what libarchive makes of it at level 1 */
        const void *data;
        size_t size;
} SeedFile;

static bool text_is_safe(const char *s) {
        return !isempty(s) &&
                strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(s);
}

static uint32_t read_le32(const uint8_t *p) {
        return (uint32_t) p[3] << 24 | (uint32_t) p[2] << 16 | (uint32_t) p[1] << 8 | p[0];
}

static int add_file(struct archive *a, const SeedFile *f, const uint8_t *zeros) {
        struct archive_entry *e = archive_entry_new();
        int r = -ENOMEM;

        if (!e)
                return r;
        archive_entry_set_pathname(e, f->name);
        archive_entry_set_size(e, f->size);
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_perm(e, 0400);
        if (archive_write_header(a, e) == ARCHIVE_OK &&
            (f->size == 0 || archive_write_data(a, zeros, f->size) == (la_ssize_t) f->size))
                r = 0;
        else
                r = -EIO;
        archive_entry_free(e);
        return r;
}

static int lay_out(const SeedFile *files, size_t n, const uint8_t *zeros, uint8_t *image, size_t size, size_t *ret_used) {
        struct archive *a = archive_write_new();
        int r = -EIO;

        if (!a)
                return -ENOMEM;
        *ret_used = 0;
        if (archive_write_set_format_iso9660(a) == ARCHIVE_OK &&
            archive_write_set_format_option(a, "iso9660", "volume-id", LABEL) == ARCHIVE_OK &&
            archive_write_set_format_option(a, "iso9660", "pad", NULL) == ARCHIVE_OK &&
            archive_write_set_bytes_per_block(a, SECTOR_SIZE) == ARCHIVE_OK &&
            archive_write_open_memory(a, image, size, ret_used) == ARCHIVE_OK) {
                r = 0;
                for (size_t i = 0; i < n && r == 0; i++)
                        r = add_file(a, files + i, zeros);
                if (archive_write_close(a) != ARCHIVE_OK && r == 0)
                        r = -EIO;
        }
        (void) archive_write_free(a);
        return r;
}

/* The directory record of @f in the root directory, or NULL. We read what a library wrote, and still trust no length in it. */
static const uint8_t* find_record(const uint8_t *image, size_t size, const SeedFile *f) {
        const uint8_t *root = image + PVD_OFFSET + PVD_ROOT_RECORD;
        uint64_t begin, end;

        if (size < PVD_OFFSET + SECTOR_SIZE)
                return NULL;
        begin = (uint64_t) read_le32(root + RECORD_EXTENT) * SECTOR_SIZE;
        end = begin + read_le32(root + RECORD_SIZE);
        if (end > size)
                return NULL;

        while (begin < end) {
                const uint8_t *record = image + begin;
                size_t name_size;

                if (record[0] == 0) {           /* 6.8.1.1: no record crosses a sector */
                        begin = (begin / SECTOR_SIZE + 1) * SECTOR_SIZE;
                        continue;
                }
                if (record[0] <= RECORD_NAME || record[0] > end - begin)
                        return NULL;
                name_size = record[RECORD_NAME_SIZE];
                if (name_size == strlen(f->iso_name) && RECORD_NAME + name_size <= record[0] &&
                    memcmp(record + RECORD_NAME, f->iso_name, name_size) == 0)
                        return record;
                begin += record[0];
        }
        return NULL;
}

static int write_content(uint8_t *image, size_t size, const SeedFile *f) {
        const uint8_t *record;
        uint64_t offset;

        if (f->size == 0)
                return 0;
        record = find_record(image, size, f);
        if (!record || read_le32(record + RECORD_SIZE) != f->size)
                return -EIO;
        offset = (uint64_t) read_le32(record + RECORD_EXTENT) * SECTOR_SIZE;
        if (offset > size || f->size > size - offset)
                return -EIO;
        memcpy(image + offset, f->data, f->size);
        return 0;
}

int seed_iso_make(const char *instance_id, const char *hostname, const void *user_data, size_t user_data_size,
                  uint8_t **ret, size_t *ret_size) {
        _cleanup_(freep) char *meta_data = NULL;
        _cleanup_(freep) uint8_t *zeros = NULL;
        uint8_t *image = NULL;
        size_t allocated, used;
        int r;

        if (!text_is_safe(instance_id) || !text_is_safe(hostname))
                return -EINVAL;
        if (user_data_size > USER_DATA_MAX)
                return -EFBIG;
        if (asprintf(&meta_data, "instance-id: %s\nlocal-hostname: %s\n", instance_id, hostname) < 0)
                return -ENOMEM;

        const SeedFile files[] = {
                { "user-data",   "USER_DAT.;1", user_data, user_data_size    },
                { "meta-data",   "META_DAT.;1", meta_data, strlen(meta_data) },
                { "vendor-data", "VENDOR_D.;1", NULL,      0                 },
        };

        allocated = user_data_size + strlen(meta_data) + OVERHEAD;
        zeros = calloc(1, MAX(user_data_size, strlen(meta_data)) + 1);
        image = malloc(allocated);
        if (!zeros || !image) {
                free(image);
                return -ENOMEM;
        }

        r = lay_out(files, ELEMENTSOF(files), zeros, image, allocated, &used);
        if (r == 0 && (used < PVD_OFFSET + SECTOR_SIZE || memcmp(image + PVD_OFFSET, "\1CD001", 6) != 0))
                r = -EIO;
        for (size_t i = 0; i < ELEMENTSOF(files) && r == 0; i++)
                r = write_content(image, used, files + i);
        if (r < 0) {
                erase_free(image, allocated);
                return r;
        }

        memcpy(image + PVD_OFFSET + PVD_VOLUME_ID, LABEL, strlen(LABEL));
        *ret = image;           /* erase_free() with the used size: beyond it there is nothing of the user's */
        *ret_size = used;
        return 0;
}
