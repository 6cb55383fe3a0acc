/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine answers, and the names of images. The first byte says which parser reads the rest. */
#include <string.h>

#include "basic/util.h"
#include "docker-wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_container(const char *text, size_t size) {
        DockerContainer c = {};

        if (docker_parse_container(text, size, "bridge", &c) == 0) {
                assert(c.id[0] && strlen(c.id) <= DOCKER_ID_MAX && c.name && c.status);
                assert(c.n_addresses <= ELEMENTSOF(c.addresses));
                for (size_t i = 0; i < c.n_addresses; i++)
                        assert(c.addresses[i][0] && strlen(c.addresses[i]) < PEERPOD_ADDRESS_SIZE);
        }
        docker_container_done(&c);
}

static void fuzz_list(const char *text, size_t size, int (*parse)(const char*, size_t, DockerList*)) {
        DockerList l = {};

        if (parse(text, size, &l) == 0)
                for (size_t i = 0; i < l.n_items; i++)
                        assert(l.items[i].id && l.items[i].owner.name && l.items[i].owner.sandbox_id && l.items[i].owner.node);
        docker_list_done(&l);
}

/* Whole and byte by byte it is the same. */
static void fuzz_progress(const char *text, size_t size) {
        DockerProgress *whole = new0(DockerProgress, 1), *pieces = new0(DockerProgress, 1);

        assert(whole && pieces);
        (void) docker_progress_feed(whole, text, size);
        for (size_t i = 0; i < size; i++)
                (void) docker_progress_feed(pieces, text + i, 1);
        assert(whole->size == pieces->size && whole->size <= DOCKER_LINE_MAX);
        assert(streq(whole->status, pieces->status) && streq_ptr(whole->error, pieces->error));
        docker_progress_done(whole);
        docker_progress_done(pieces);
        free(whole);
        free(pieces);
}

static void fuzz_image(const char *text, size_t size) {
        _cleanup_(freep) char *image = strndup(text, size), *name = NULL, *tag = NULL, *registry = NULL;

        assert(image);
        if (docker_image_split(image, &name, &tag) == 0)
                assert(name[0] && tag[0] && strlen(name) + strlen(tag) <= strlen(image) + strlen("latest") && !strpbrk(name, " &?#%@"));
        (void) docker_image_registry(image, &registry);
        (void) docker_version_parse(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(freep) char *message = NULL, *warnings = NULL, *driver = NULL;
        const char *text = (const char*) data + 1;
        char id[DOCKER_ID_MAX + 1];
        DockerEngine engine = {};

        if (size == 0)
                return 0;
        size--;
        switch (data[0]) {
        case 'c': fuzz_container(text, size); break;
        case 'l': fuzz_list(text, size, docker_parse_containers); break;
        case 'v': fuzz_list(text, size, docker_parse_volumes); break;
        case 'p': fuzz_progress(text, size); break;
        case 'i': fuzz_image(text, size); break;
        case 'n': (void) docker_parse_network(text, size, &driver); break;
        case 'm': (void) docker_parse_message(text, size, &message); break;
        case 'd': (void) docker_parse_created(text, size, id, &warnings); break;
        case 'o': (void) docker_parse_info(text, size, &engine); break;
        case 'e':
                if (docker_parse_version(text, size, 1044, &engine) == 0)
                        assert(engine.version >= engine.minimum && engine.version <= engine.maximum);
                break;
        default: break;
        }
        return 0;
}
