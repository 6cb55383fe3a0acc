/* SPDX-License-Identifier: Apache-2.0 */
/* First process of a sandbox: keeps its namespaces, and reaps what is left to it. Linked statically, for any root file system. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap(int sig) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
}

static void end(int sig) {
        _exit(0);
}

int main(void) {
        (void) sigaction(SIGCHLD, &(struct sigaction) { .sa_handler = reap, .sa_flags = SA_NOCLDSTOP }, NULL);
        (void) sigaction(SIGTERM, &(struct sigaction) { .sa_handler = end }, NULL);
        (void) sigaction(SIGINT, &(struct sigaction) { .sa_handler = end }, NULL);
        for (;;)
                (void) pause();
}
