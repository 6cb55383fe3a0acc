/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults for peerpod-tunneld, in a test program of their own: the linker's --wrap puts these functions between its code and
 * src/net/netlink.c, through which every request to the kernel goes. The product's program has nothing of it.
 *
 * $PEERPOD_TEST_FAULT says what happens (fail-before, fail-after, kill-before, kill-after the request; run-before: the shell command
 * $PEERPOD_TEST_FAULT_COMMAND), the file $PEERPOD_TEST_FAULT_FILE at which request: it holds a number that each one counts down. A
 * file, not a variable, so that a test starts the daemon first.
 */
#include <signal.h>
#include <stdio.h>

#include "net/netlink.h"

int __real_netlink_request(Netlink *nl, struct nl_msg *m, netlink_handler_t handler, void *userdata);
int __wrap_netlink_request(Netlink *nl, struct nl_msg *m, netlink_handler_t handler, void *userdata);
int __real_netlink_dump(Netlink *nl, struct nl_msg *m, void (*reset)(void *userdata), netlink_handler_t handler, void *userdata);
int __wrap_netlink_dump(Netlink *nl, struct nl_msg *m, void (*reset)(void *userdata), netlink_handler_t handler, void *userdata);
int __real_netlink_batch(Netlink *nl, uint8_t *data, size_t size);
int __wrap_netlink_batch(Netlink *nl, uint8_t *data, size_t size);

static bool is_due(void) {
        const char *path = getenv("PEERPOD_TEST_FAULT_FILE");
        int n = 0;
        FILE *f;

        f = path ? fopen(path, "re") : NULL;
        if (!f)
                return false;
        if (fscanf(f, "%i", &n) != 1)
                n = 0;
        (void) fclose(f);
        if (n <= 0)
                return false;
        f = fopen(path, "we");
        if (f) {
                (void) fprintf(f, "%i\n", n - 1);
                (void) fclose(f);
        }
        return n == 1;
}

static bool fault_is(const char *what) {
        const char *v = getenv("PEERPOD_TEST_FAULT");

        return v && streq(v, what);
}

#define WITH_FAULT(call)                                        \
        ({                                                      \
                bool _due = is_due();                           \
                int _r;                                         \
                                                                \
                if (_due && fault_is("kill-before"))            \
                        (void) raise(SIGKILL);                  \
                if (_due && fault_is("run-before") && system(getenv("PEERPOD_TEST_FAULT_COMMAND")) != 0) \
                        abort();                                \
                if (_due && fault_is("fail-before"))            \
                        return -EIO;                            \
                _r = (call);                                    \
                if (_due && fault_is("kill-after"))             \
                        (void) raise(SIGKILL);                  \
                _due && fault_is("fail-after") ? -EIO : _r;     \
        })

int __wrap_netlink_request(Netlink *nl, struct nl_msg *m, netlink_handler_t handler, void *userdata) {
        return WITH_FAULT(__real_netlink_request(nl, m, handler, userdata));
}

int __wrap_netlink_batch(Netlink *nl, uint8_t *data, size_t size) {
        return WITH_FAULT(__real_netlink_batch(nl, data, size));
}

int __wrap_netlink_dump(Netlink *nl, struct nl_msg *m, void (*reset)(void *userdata), netlink_handler_t handler, void *userdata) {
        return WITH_FAULT(__real_netlink_dump(nl, m, reset, handler, userdata));
}
