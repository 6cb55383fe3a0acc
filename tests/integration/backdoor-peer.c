/* SPDX-License-Identifier: Apache-2.0 */
/* VMware's side of the backdoor's message channel, for a program that believes to be in a VM: the program runs traced, its I/O
 * instruction faults, as it does where there is no VMware, and the fault is answered as the hypervisor would answer the instruction:
 * by changed registers (open-vm-tools: open-vm-tools/lib/message/message.c and lib/include/guest_msg_def.h, which it is written from).
 * Knows "info-get KEY" and "info-set KEY VALUE"; the values are files named KEY of a directory.
 *
 * Usage: backdoor-peer [--checkpoint N|always | --size N | --refuse | --garbage | --expect-closed | --read-only] DIRECTORY PROGRAM [ARGUMENT…] */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define VALUE_MAX (4U << 20)
#define CHANNEL_ID 5
#define COOKIE_HIGH 0xfeedf00dU
#define COOKIE_LOW 0x8badf00dU

enum { OPEN, SEND_SIZE, SEND_PAYLOAD, RECEIVE_SIZE, RECEIVE_PAYLOAD, RECEIVE_STATUS, CLOSE };
enum { SUCCESS = 0x01, DO_RECEIVE = 0x02, CHECKPOINT = 0x10, HIGH_BANDWIDTH = 0x80 };

static const char *directory;
static bool refuse, garbage, expect_closed, read_only, always_checkpoint;
static unsigned long checkpoint_at, size_lie;

static bool is_open;
static unsigned long n_steps;
static char request[256];
static size_t request_size, request_read;
static char answer[VALUE_MAX + 3];
static size_t answer_size, answer_sent;

static void fail(const char *what) {
        fprintf(stderr, "backdoor-peer: %s\n", what);
        exit(99);
}

static void make_answer(void) {
        char path[512];
        ssize_t n;
        int fd;

        request[request_size] = '\0';
        if (strncmp(request, "info-set guestinfo.", 19) == 0 && !strchr(request, '/') && !read_only) {
                char *value = strchr(request + 9, ' ');

                if (!value)
                        fail("a variable is set to nothing");
                *value++ = '\0';
                snprintf(path, sizeof(path), "%s/%s", directory, request + 9);
                fd = open(path, O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0600);
                if (fd < 0 || write(fd, value, strlen(value)) != (ssize_t) strlen(value))
                        fail("cannot write a value");
                close(fd);
                answer_size = (size_t) sprintf(answer, "1 ");
                return;
        }
        if (strncmp(request, "info-get guestinfo.", 19) != 0 || strchr(request, '/')) {
                answer_size = (size_t) sprintf(answer, "0 Unknown command");
                return;
        }
        snprintf(path, sizeof(path), "%s/%s", directory, request + 9);
        fd = open(path, O_RDONLY|O_CLOEXEC);
        if (fd < 0) {
                answer_size = (size_t) sprintf(answer, "0 No value found");
                return;
        }
        memcpy(answer, "1 ", 2);
        n = read(fd, answer + 2, VALUE_MAX);
        if (n < 0)
                fail("cannot read a value");
        close(fd);
        answer_size = (size_t) n + 2;
}

/* The status, and what else changes. */
static unsigned step(unsigned type, struct user_regs_struct *r) {
        uint32_t argument = (uint32_t) r->rbx, piece = 0;

        if (type != OPEN && (!is_open || (r->rdx >> 16 & 0xffff) != CHANNEL_ID ||
                             (uint32_t) r->rsi != COOKIE_HIGH || (uint32_t) r->rdi != COOKIE_LOW))
                fail("a channel that is not open, or another cookie");
        n_steps++;
        if (type != OPEN && type != CLOSE && (always_checkpoint || n_steps == checkpoint_at))
                return CHECKPOINT;

        switch (type) {
        case OPEN:
                if (argument != (0x49435052U | 0x80000000U) || is_open)
                        fail("not the protocol's number, or a second channel");
                if (refuse)
                        return 0;
                is_open = true;
                r->rdx = (r->rdx & 0xffff) | (uint64_t) CHANNEL_ID << 16;
                r->rsi = COOKIE_HIGH;
                r->rdi = COOKIE_LOW;
                return SUCCESS;
        case SEND_SIZE:
                if (argument >= sizeof(request))
                        fail("a request that is too long");
                request_size = argument;
                request_read = 0;
                return SUCCESS | HIGH_BANDWIDTH;
        case SEND_PAYLOAD:
                if (request_read >= request_size)
                        fail("more than was announced");
                for (unsigned i = 0; i < 4 && request_read < request_size; i++)
                        request[request_read++] = (char) (argument >> 8 * i);
                if (request_read == request_size)
                        make_answer();
                return SUCCESS;
        case RECEIVE_SIZE:
                if (request_read != request_size)
                        fail("asked for an answer before the request was complete");
                answer_sent = 0;
                r->rdx = (r->rdx & 0xffff) | (uint64_t) (garbage ? 77 : SEND_SIZE) << 16;
                r->rbx = size_lie ?: answer_size;
                return SUCCESS | DO_RECEIVE | HIGH_BANDWIDTH;
        case RECEIVE_PAYLOAD:
                if (argument != SUCCESS || answer_sent >= answer_size)
                        fail("more than there is, or without thanks");
                for (unsigned i = 0; i < 4 && answer_sent < answer_size; i++)
                        piece |= (uint32_t) (unsigned char) answer[answer_sent++] << 8 * i;
                r->rbx = piece;
                r->rdx = (r->rdx & 0xffff) | (uint64_t) SEND_PAYLOAD << 16;
                return SUCCESS;
        case RECEIVE_STATUS:
                if (argument != SUCCESS || answer_sent != answer_size)
                        fail("said thanks before it had all");
                return SUCCESS;
        case CLOSE:
                is_open = false;
                return SUCCESS;
        default:
                fail("unknown type of message");
                return 0;
        }
}

/* True if the fault was the backdoor's instruction: in (%dx),%eax with its magic numbers. */
static bool serve(pid_t pid) {
        struct user_regs_struct r;
        long word;

        if (ptrace(PTRACE_GETREGS, pid, NULL, &r) < 0)
                fail("PTRACE_GETREGS");
        word = ptrace(PTRACE_PEEKTEXT, pid, (void*) r.rip, NULL);
        if ((word & 0xff) != 0xed || (uint32_t) r.rax != 0x564d5868U || (r.rdx & 0xffff) != 0x5658 || (r.rcx & 0xffff) != 30)
                return false;

        unsigned status = step((unsigned) (r.rcx >> 16 & 0xffff), &r);
        r.rcx = (r.rcx & 0xffff) | (uint64_t) status << 16;
        r.rip += 1;
        if (ptrace(PTRACE_SETREGS, pid, NULL, &r) < 0)
                fail("PTRACE_SETREGS");
        return true;
}

static void options(int argc, char *argv[], int *i) {
        for (*i = 1; *i < argc && strncmp(argv[*i], "--", 2) == 0; ++*i) {
                const char *o = argv[*i] + 2;

                if (strcmp(o, "refuse") == 0)
                        refuse = true;
                else if (strcmp(o, "garbage") == 0)
                        garbage = true;
                else if (strcmp(o, "read-only") == 0)
                        read_only = true;
                else if (strcmp(o, "expect-closed") == 0)
                        expect_closed = true;
                else if (strcmp(o, "checkpoint") == 0) {
                        always_checkpoint = strcmp(argv[++*i], "always") == 0;
                        checkpoint_at = strtoul(argv[*i], NULL, 10);
                } else if (strcmp(o, "size") == 0)
                        size_lie = strtoul(argv[++*i], NULL, 10);
                else
                        fail("unknown option");
        }
}

int main(int argc, char *argv[]) {
        int status, i;
        pid_t pid;

        options(argc, argv, &i);
        if (argc - i < 2)
                fail("arguments are missing");
        directory = argv[i];

        pid = fork();
        if (pid < 0)
                fail("fork");
        if (pid == 0) {
                if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
                        fail("PTRACE_TRACEME");
                execv(argv[i + 1], argv + i + 1);
                fail("exec");
        }

        for (;;) {
                int sig = 0;

                if (waitpid(pid, &status, 0) < 0)
                        fail("waitpid");
                if (WIFEXITED(status)) {
                        if (expect_closed && is_open)
                                fail("a channel was left open");
                        return WEXITSTATUS(status);
                }
                if (WIFSIGNALED(status))
                        fail("the program was killed by a signal");
                if (WIFSTOPPED(status))
                        sig = WSTOPSIG(status);
                if (sig == SIGTRAP || (sig == SIGSEGV && serve(pid)))
                        sig = 0;
                if (ptrace(PTRACE_CONT, pid, NULL, (void*) (intptr_t) sig) < 0)
                        fail("PTRACE_CONT");
        }
}
