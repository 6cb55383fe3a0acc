/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/forwarder/agent-exit.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "basic/util.h"

#define WORD_MAX 32U

/* Words of systemd are letters, digits, '-' and '+' (RTMIN+4). */
static const char* next_word(const char *p, char ret[static WORD_MAX + 1]) {
        size_t n = 0;

        p += strspn(p, " ");
        for (; *p && *p != ' '; p++)
                if (n < WORD_MAX && strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-+", *p))
                        ret[n++] = *p;
        ret[n] = '\0';
        return p;
}

void agent_exit_parse(const char *note, char *ret) {
        char result[WORD_MAX + 1], code[WORD_MAX + 1], status[WORD_MAX + 1];

        note = next_word(note, result);
        note = next_word(note, code);
        (void) next_word(note, status);

        if (streq(result, "oom-kill"))
                (void) snprintf(ret, AGENT_EXIT_TEXT_SIZE, "the agent was killed because the VM ran out of memory");
        else if (streq(result, "watchdog"))
                (void) snprintf(ret, AGENT_EXIT_TEXT_SIZE, "the agent was ended because it hung");
        else if (streq(code, "killed") && status[0])
                (void) snprintf(ret, AGENT_EXIT_TEXT_SIZE, "the agent was killed by signal %s", status);
        else if (streq(code, "dumped") && status[0])
                (void) snprintf(ret, AGENT_EXIT_TEXT_SIZE, "the agent has crashed with signal %s", status);
        else if (streq(code, "exited") && streq(status, "0"))
                (void) snprintf(ret, AGENT_EXIT_TEXT_SIZE, "the agent has ended by itself");
        else if (streq(code, "exited") && status[0])
                (void) snprintf(ret, AGENT_EXIT_TEXT_SIZE, "the agent has ended with exit status %s", status);
        else if (result[0] && !streq(result, "success"))
                (void) snprintf(ret, AGENT_EXIT_TEXT_SIZE, "the agent could not be started (%s)", result);
        else
                (void) snprintf(ret, AGENT_EXIT_TEXT_SIZE, "the agent has ended");
}

int agent_exit_read(const char *path, char *ret) {
        char note[3 * WORD_MAX];
        ssize_t n = readlink(path, note, sizeof(note) - 1);

        if (n < 0)
                return errno == ENOENT ? 0 : -errno;
        note[n] = '\0';
        agent_exit_parse(note, ret);
        return 1;
}

int agent_exit_watch(sd_event *event, const char *path, sd_event_inotify_handler_t handler, void *userdata, sd_event_source **ret) {
        const char *slash = strrchr(path, '/');
        char directory[PATH_MAX];

        if (!slash || slash == path || (size_t) (slash - path) >= sizeof(directory))
                return -EINVAL;
        memcpy(directory, path, slash - path);
        directory[slash - path] = '\0';
        return sd_event_add_inotify(event, ret, directory, IN_CREATE|IN_MOVED_TO|IN_ONLYDIR, handler, userdata);
}
