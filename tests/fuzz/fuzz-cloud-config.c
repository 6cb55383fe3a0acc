/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever is read keeps its limits; and what of it can be written again is read back as it was. */
#include <stdio.h>

#include "basic/util.h"
#include "userdata/cloud-config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A block scalar adds the newline that content had not. */
static bool same_content(const CloudConfigFile *a, const CloudConfigFile *b) {
        if (a->size > 0 && a->content[a->size - 1] != '\n' && b->size == a->size + 1 && b->content[a->size] == '\n')
                return memcmp(a->content, b->content, a->size) == 0;
        return a->size == b->size && memcmp(a->content, b->content, a->size) == 0;
}

static void write_and_read_again(const CloudConfig *c) {
        CloudConfigEntry entries[CLOUD_CONFIG_FILES_MAX];
        char modes[CLOUD_CONFIG_FILES_MAX][16], *text;
        CloudConfig again;
        size_t size;
        int r;

        for (size_t i = 0; i < c->n_files; i++) {
                const CloudConfigFile *f = c->files + i;

                if (f->mode != MODE_INVALID)
                        (void) snprintf(modes[i], sizeof(modes[i]), "%04o", f->mode);
                entries[i] = (CloudConfigEntry) {
                        .path = f->path, .owner = f->owner, .permissions = f->mode == MODE_INVALID ? NULL : modes[i],
                        .content = f->content, .size = f->size,
                };
        }

        if (cloud_config_format(entries, c->n_files, &text, &size, NULL) < 0)
                return;

        assert(strlen(text) == size);
        r = cloud_config_parse(text, size, &again, NULL);
        assert(r == 0);
        assert(again.n_files == c->n_files && again.n_warnings == 0);
        for (size_t i = 0; i < c->n_files; i++) {
                const CloudConfigFile *a = c->files + i, *b = again.files + i;

                assert(streq(a->path, b->path));
                assert(a->mode == b->mode);
                assert(streq(strempty(a->owner), strempty(b->owner)));
                assert(same_content(a, b));
        }

        cloud_config_done(&again);
        erase_free(text, size);
}

/* The writer takes the fuzzer's bytes as content: either it refuses them, or they come back. */
static void write_raw(const uint8_t *data, size_t size) {
        CloudConfigFile f = { .path = (char*) "/a", .mode = MODE_INVALID, .content = (char*) data, .size = size };

        write_and_read_again(&(CloudConfig) { .files = &f, .n_files = 1 });
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        CloudConfig c = CLOUD_CONFIG_NULL;
        char *error = NULL;
        size_t total = 0;
        int r;

        write_raw(data, size);

        r = cloud_config_parse(data, size, &c, &error);
        if (r < 0) {
                assert(r == -EBADMSG || r == -E2BIG || r == -EOPNOTSUPP);
                assert(error && c.n_files == 0);
                free(error);
                return 0;
        }

        assert(!error);
        assert(c.n_files <= CLOUD_CONFIG_FILES_MAX && c.n_warnings <= CLOUD_CONFIG_WARNINGS_MAX);
        for (size_t i = 0; i < c.n_files; i++) {
                assert(c.files[i].path[0] == '/');
                assert(c.files[i].content && c.files[i].content[c.files[i].size] == 0);
                assert(c.files[i].mode == MODE_INVALID || c.files[i].mode <= 07777);
                total += c.files[i].size;
        }
        assert(total <= CLOUD_CONFIG_CONTENT_MAX);

        write_and_read_again(&c);
        cloud_config_done(&c);
        return 0;
}
