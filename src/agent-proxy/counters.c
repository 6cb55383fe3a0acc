/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-proxy/counters.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "basic/util.h"

/* "PPCT", version, number of values, in host order: both ends are on one machine. */
#define PAGE_MAGIC UINT32_C(0x54435050)
#define PAGE_VERSION 1U
#define PAGE_SIZE_MAX 4096U
#define PAGE_VALUES_MAX ((PAGE_SIZE_MAX - sizeof(PageHeader)) / sizeof(uint64_t))

typedef struct PageHeader {
        uint32_t magic, version;
        uint32_t n_values, reserved;
} PageHeader;

static_assert(sizeof(PageHeader) % sizeof(uint64_t) == 0, "the values that follow are aligned");
static_assert(_PROXY_COUNTER_MAX <= (PAGE_SIZE_MAX - sizeof(PageHeader)) / sizeof(uint64_t), "they fit into the page");

/* A new file each time: who has the old one open must not see it begin again. */
static int make_file(const char *directory) {
        _cleanup_(close_fdp) int dir_fd = -EBADF, fd = -EBADF;

        dir_fd = open(directory, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (dir_fd < 0)
                return -errno;
        if (unlinkat(dir_fd, PROXY_COUNTERS_FILE, 0) < 0 && errno != ENOENT)
                return -errno;
        fd = openat(dir_fd, PROXY_COUNTERS_FILE, O_RDWR|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        if (ftruncate(fd, PAGE_SIZE_MAX) < 0 || fchmod(fd, 0644) < 0)
                return -errno;

        return TAKE_FD(fd);
}

static void* map_page(const char *directory, int *ret_error) {
        _cleanup_(close_fdp) int fd = -EBADF;
        void *page;

        fd = make_file(directory);
        if (fd < 0) {
                *ret_error = fd;
                return NULL;
        }
        page = mmap(NULL, PAGE_SIZE_MAX, PROT_READ|PROT_WRITE, MAP_SHARED, fd, 0);
        if (page == MAP_FAILED) {
                *ret_error = -errno;
                return NULL;
        }

        return page;
}

int proxy_counters_open(const char *directory, ProxyCounters *ret) {
        void *page = NULL;
        int r = 0;

        if (!isempty(directory))
                page = map_page(directory, &r);
        if (!page) {
                page = mmap(NULL, PAGE_SIZE_MAX, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);
                if (page == MAP_FAILED)
                        return -ENOMEM;
        }

        *(PageHeader*) page = (PageHeader) { .magic = PAGE_MAGIC, .version = PAGE_VERSION, .n_values = _PROXY_COUNTER_MAX };
        *ret = (ProxyCounters) { .page = page, .values = (uint64_t*) ((char*) page + sizeof(PageHeader)) };
        return r;
}

void proxy_counters_done(ProxyCounters *c) {
        if (c->page)
                (void) munmap(c->page, PAGE_SIZE_MAX);
        *c = (ProxyCounters) {};
}

int proxy_counters_parse(const uint8_t *data, size_t size, ProxyValues *ret) {
        ProxyValues values = {};
        PageHeader header;

        if (size < sizeof(header))
                return -EBADMSG;
        memcpy(&header, data, sizeof(header));
        if (header.magic != PAGE_MAGIC || header.version != PAGE_VERSION || header.n_values > PAGE_VALUES_MAX ||
            header.n_values * sizeof(uint64_t) > size - sizeof(header))
                return -EBADMSG;

        values.n = MIN((size_t) header.n_values, (size_t) _PROXY_COUNTER_MAX);
        memcpy(values.values, data + sizeof(header), values.n * sizeof(uint64_t));
        *ret = values;
        return 0;
}

int proxy_counters_read(const char *directory, ProxyValues *ret) {
        _cleanup_(close_fdp) int dir_fd = -EBADF, fd = -EBADF;
        uint8_t page[PAGE_SIZE_MAX];
        struct stat st;
        ssize_t n;

        dir_fd = open(directory, O_PATH|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);
        if (dir_fd < 0)
                return -errno;
        /* A FIFO would wait for its writer. */
        fd = openat(dir_fd, PROXY_COUNTERS_FILE, O_RDONLY|O_NOFOLLOW|O_NONBLOCK|O_NOCTTY|O_CLOEXEC);
        if (fd < 0)
                return errno == ELOOP || errno == ENXIO ? -EBADMSG : -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EBADMSG;
        n = pread(fd, page, sizeof(page), 0);
        if (n < 0)
                return -errno;

        return proxy_counters_parse(page, n, ret);
}
