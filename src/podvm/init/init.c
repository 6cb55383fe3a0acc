/* SPDX-License-Identifier: Apache-2.0 */
/* The first program of a production image: goes on with systemd if the kernel command line is the image's own. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
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

/* Started by a person: the only options there are. */
static int explain(const char *option) {
        if (strcmp(option, "--version") == 0)
                return puts("podvm-init " PEERPOD_VERSION) < 0;
        if (strcmp(option, "--help") == 0)
                return puts("Usage: podvm-init [--help | --version]\n\n"
                            "The first program of a pod VM's initrd: goes on with systemd if the kernel command line is the image's own,\n"
                            "and powers the machine off if not. As another process than the first it does nothing.\n\n"
                            "See the podvm-init(8) man page.") < 0;
        (void) fprintf(stderr, "podvm-init is the first program of a pod VM's initrd and does nothing elsewhere; try --help.\n");
        return 2;
}

int main(int argc, char *argv[]) {
        if (getpid() != 1)
                return explain(argc == 2 ? argv[1] : "");

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
