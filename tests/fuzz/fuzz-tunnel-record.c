/* SPDX-License-Identifier: Apache-2.0 */
/* tunneld's record of a tunnel: refused, or understood so well that what is written from it is the same again. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "net/link.h"
#include "tunnel/tunnel.h"

#define NAME "sandbox1.json"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int dir_fd = -EBADF;
static char directory[] = "/tmp/fuzz-tunnel-record.XXXXXX";

static void clean_up(void) {
        (void) remove_tree(directory);
}

static void put(const void *data, size_t size) {
        _cleanup_(close_fdp) int fd = openat(dir_fd, NAME, O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0600);

        if (fd < 0 || write_full(fd, data, size) < 0)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(tunnel_freep) Tunnel *one = NULL, *two = NULL;
        _cleanup_(freep) char *reason = NULL;
        Manager manager = {};
        NetError e = {};
        int r;

        if (dir_fd < 0) {
                log_set_max_level(-1);
                if (!mkdtemp(directory))
                        abort();
                (void) atexit(clean_up);
                dir_fd = open(directory, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        }

        put(data, size);
        r = tunnel_load(dir_fd, NAME, &one, &reason);
        if (r < 0) {
                assert(r == -EBADMSG || r == -EFBIG);
                assert(!one);
                return 0;
        }

        assert(streq(one->sandbox_id, "sandbox1"));
        assert(!isempty(one->netns_path) && link_name_is_valid(one->interface) && one->port > 0 && one->vni <= VXLAN_VNI_MAX);
        manager.runtime_dir_fd = dir_fd;
        r = tunnel_save(&manager, one, &e);
        assert(r == 0);
        r = tunnel_load(dir_fd, NAME, &two, NULL);
        assert(r == 0);
        assert(streq(one->netns_path, two->netns_path) && one->vni == two->vni && one->port == two->port &&
               one->netns_cookie == two->netns_cookie && streq_ptr(one->pod_network, two->pod_network));
        return 0;
}
