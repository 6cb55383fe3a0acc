/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a program under a system call filter that unit-filter.py has made.
 *
 *         under-filter FILTER PROGRAM [ARGUMENT…] */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "basic/io.h"

int main(int argc, char *argv[]) {
        struct sock_fprog program;
        char *filter = NULL;
        size_t size;
        int r;

        if (argc < 3)
                return 2;
        r = read_full_file_at(AT_FDCWD, argv[1], BPF_MAXINSNS * sizeof(struct sock_filter), &filter, &size);
        if (r < 0) {
                fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
                return 1;
        }

        program = (struct sock_fprog) { .len = size / sizeof(struct sock_filter), .filter = (struct sock_filter*) filter };
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
                fprintf(stderr, "seccomp: %s\n", strerror(errno));
                return 1;
        }
        (void) execv(argv[2], argv + 2);
        fprintf(stderr, "%s: %s\n", argv[2], strerror(errno));
        return 1;
}
