/* SPDX-License-Identifier: Apache-2.0 */
/* The first program of a production image: goes on with systemd if the kernel command line is the image's own. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "podvm/init/command-line.h"

#define SYSTEMD "/usr/lib/systemd/systemd"

/* A longer one is none of ours; the kernel takes 2 KiB on x86. */
static char line[16 * 1024];

static bool read_command_line(void) {
        ssize_t n;
        int fd;

        if (mount("proc", "/proc", "proc", MS_NOSUID|MS_NODEV|MS_NOEXEC, NULL) < 0)
                return false;

        fd = open("/proc/cmdline", O_RDONLY|O_CLOEXEC);
        if (fd < 0)
                return false;
        n = read(fd, line, sizeof(line) - 1);
        (void) close(fd);
        return n > 0 && (size_t) n < sizeof(line) - 1;
}

int main(int argc, char *argv[]) {
        if (getpid() != 1) {
                (void) fprintf(stderr, "%s is the first program of a pod VM's initrd and does nothing elsewhere.\n", argv[0]);
                return 2;
        }

        if (!read_command_line())
                (void) fprintf(stderr, "podvm-init: Failed to read the kernel command line, powering off: %m\n");
        else if (!command_line_is_sealed(line))
                (void) fprintf(stderr, "podvm-init: Somebody has changed the kernel command line of this image, powering off.\n");
        else {
                char *systemd[] = { (char*) SYSTEMD, NULL };    /* none of the kernel's arguments */

                (void) execv(SYSTEMD, systemd);
                (void) fprintf(stderr, "podvm-init: Failed to start '%s', powering off: %m\n", SYSTEMD);
        }

        (void) reboot(RB_POWER_OFF);
        return 1;       /* the kernel panics */
}
