/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds a fuzz target its corpus without a fuzzer: each file whole, cut at each length (sampled for long files), and with
 * single bits flipped. Deterministic, so a failure repeats. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#include "basic/io.h"
#include "basic/util.h"

#define INPUT_MAX (8U << 20)
#define VARIANTS_MAX 256        /* of each kind, for one file */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The target gets memory of exactly the size that it is told, so that a read past the end is seen by AddressSanitizer. */
static void feed(const char *data, size_t size) {
        uint8_t *copy = malloc(size ?: 1);

        assert(copy);
        if (size > 0)
                memcpy(copy, data, size);
        (void) LLVMFuzzerTestOneInput(copy, size);
        free(copy);
}

static void feed_variants(char *data, size_t size) {
        size_t step = size / VARIANTS_MAX + 1;

        feed(data, size);
        for (size_t n = 0; n < size; n += step)
                feed(data, n);
        for (size_t i = 0; i < size; i += step) {
                char saved = data[i];

                data[i] ^= 1 << (i / step % 8);
                feed(data, size);
                data[i] = saved;
        }
}

int main(int argc, char *argv[]) {
        size_t n_files = 0;

        if (argc != 2) {
                fprintf(stderr, "Usage: %s CORPUS-DIRECTORY\n", argv[0]);
                return 2;
        }

        _cleanup_(closedirp) DIR *dir = opendir(argv[1]);
        if (!dir) {
                perror(argv[1]);
                return 1;
        }

        for (struct dirent *de; (de = readdir(dir));) {
                _cleanup_(freep) char *data = NULL;
                size_t size;
                int r;

                if (de->d_name[0] == '.')
                        continue;
                r = read_full_file_at(dirfd(dir), de->d_name, INPUT_MAX, &data, &size);
                if (r < 0) {
                        fprintf(stderr, "%s/%s: %s\n", argv[1], de->d_name, strerror(-r));
                        return 1;
                }
                feed_variants(data, size);
                n_files++;
        }

        feed("", 0);
        printf("%zu files replayed\n", n_files);
        return n_files > 0 ? 0 : 1;
}
