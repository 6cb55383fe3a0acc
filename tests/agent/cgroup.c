/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups of version 2 (kernel: Documentation/admin-guide/cgroup-v2.rst): figures, and who was killed for memory. */
#include "agent.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/inotify.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"

#define FILE_MAX (64U << 10)

/* "0::/path" is the line of version 2 (cgroups(7)). */
int cgroup_of_pid(const char *cgroup_root, pid_t pid, char **ret) {
        _cleanup_(freep) char *text = NULL, *dir = NULL;
        char path[64];
        const char *p;
        int r;

        (void) snprintf(path, sizeof(path), "/proc/%i/cgroup", pid);
        r = read_full_file_at(AT_FDCWD, path, FILE_MAX, &text, NULL);
        if (r < 0)
                return r;

        for (p = text; p; p = (p = strchr(p, '\n')) ? p + 1 : NULL)
                if (startswith(p, "0::/"))
                        break;
        if (!p)
                return -ENODATA;
        p += strlen("0::");
        if (asprintf(&dir, "%s%.*s", cgroup_root, (int) strcspn(p, "\n"), p) < 0) {
                dir = NULL;
                return -ENOMEM;
        }

        (void) snprintf(path, sizeof(path), "%s", "cgroup.procs");
        _cleanup_(freep) char *procs = NULL;
        if (asprintf(&procs, "%s/%s", dir, path) < 0) {
                procs = NULL;
                return -ENOMEM;
        }
        if (access(procs, F_OK) < 0)
                return -errno;
        *ret = TAKE_PTR(dir);
        return 0;
}

static int read_cgroup_file(const char *dir, const char *name, char **ret) {
        _cleanup_(freep) char *path = NULL;

        if (asprintf(&path, "%s/%s", dir, name) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        return read_full_file_at(AT_FDCWD, path, FILE_MAX, ret, NULL);
}

/* One number; "max" is all there is. 0 where the file is not there. */
static uint64_t read_number(const char *dir, const char *name) {
        _cleanup_(freep) char *text = NULL;
        uint64_t v = 0;

        if (read_cgroup_file(dir, name, &text) < 0)
                return 0;
        text[strcspn(text, "\n")] = '\0';
        if (streq(text, "max"))
                return UINT64_MAX;
        (void) parse_u64(text, &v);
        return v;
}

/* "key value" lines, each given to the function. */
static int for_each_pair(const char *dir, const char *name, void (*each)(const char *key, uint64_t value, void *userdata), void *userdata) {
        _cleanup_(freep) char *text = NULL;
        char *saved, *line;
        int r;

        r = read_cgroup_file(dir, name, &text);
        if (r < 0)
                return r;
        for (line = strtok_r(text, "\n", &saved); line; line = strtok_r(NULL, "\n", &saved)) {
                char *blank = strchr(line, ' ');
                uint64_t v;

                if (!blank)
                        continue;
                *blank = '\0';
                if (parse_u64(blank + 1, &v) >= 0)
                        each(line, v, userdata);
        }
        return 0;
}

bool cgroup_has_controller(const char *cgroup_root, const char *name) {
        _cleanup_(freep) char *text = NULL;
        char *saved, *word;

        if (read_cgroup_file(cgroup_root, "cgroup.controllers", &text) < 0)
                return false;
        for (word = strtok_r(text, " \n", &saved); word; word = strtok_r(NULL, " \n", &saved))
                if (streq(word, name))
                        return true;
        return false;
}

#define MEMORY_STATS_MAX 64U

typedef struct Stats {
        Grpc__CpuUsage usage;
        Grpc__ThrottlingData throttling;
        uint64_t cache;
        Grpc__MemoryStats__StatsEntry entries[MEMORY_STATS_MAX], *entry_pointers[MEMORY_STATS_MAX];
        char keys[MEMORY_STATS_MAX][40];
        size_t n_entries;
} Stats;

static void cpu_pair(const char *key, uint64_t value, void *userdata) {
        Stats *s = userdata;

        /* The figures of version 1 are in ns, and that is what the message means. */
        if (streq(key, "usage_usec"))
                s->usage.total_usage = value * NSEC_PER_USEC;
        else if (streq(key, "user_usec"))
                s->usage.usage_in_usermode = value * NSEC_PER_USEC;
        else if (streq(key, "system_usec"))
                s->usage.usage_in_kernelmode = value * NSEC_PER_USEC;
        else if (streq(key, "nr_periods"))
                s->throttling.periods = value;
        else if (streq(key, "nr_throttled"))
                s->throttling.throttled_periods = value;
        else if (streq(key, "throttled_usec"))
                s->throttling.throttled_time = value * NSEC_PER_USEC;
}

static void memory_pair(const char *key, uint64_t value, void *userdata) {
        Stats *s = userdata;

        if (streq(key, "file"))
                s->cache = value;
        if (s->n_entries >= MEMORY_STATS_MAX || strlen(key) >= sizeof(s->keys[0]))
                return;
        strcpy(s->keys[s->n_entries], key);
        s->entries[s->n_entries] = (Grpc__MemoryStats__StatsEntry) GRPC__MEMORY_STATS__STATS_ENTRY__INIT;
        s->entries[s->n_entries].key = s->keys[s->n_entries];
        s->entries[s->n_entries].value = value;
        s->entry_pointers[s->n_entries] = s->entries + s->n_entries;
        s->n_entries++;
}

static void failcnt_pair(const char *key, uint64_t value, void *userdata) {
        if (streq(key, "max"))
                *(uint64_t*) userdata = value;
}

int cgroup_stats_reply(const char *dir, TtrpcCall *call) {
        Grpc__StatsContainerResponse response = GRPC__STATS_CONTAINER_RESPONSE__INIT;
        Grpc__CgroupStats group = GRPC__CGROUP_STATS__INIT;
        Grpc__CpuStats cpu = GRPC__CPU_STATS__INIT;
        Grpc__PidsStats pids = GRPC__PIDS_STATS__INIT;
        Grpc__MemoryStats memory = GRPC__MEMORY_STATS__INIT;
        Grpc__MemoryData usage = GRPC__MEMORY_DATA__INIT, swap = GRPC__MEMORY_DATA__INIT;
        Stats s = { .usage = GRPC__CPU_USAGE__INIT, .throttling = GRPC__THROTTLING_DATA__INIT };

        (void) for_each_pair(dir, "cpu.stat", cpu_pair, &s);
        (void) for_each_pair(dir, "memory.stat", memory_pair, &s);
        (void) for_each_pair(dir, "memory.events", failcnt_pair, &usage.failcnt);
        usage.usage = read_number(dir, "memory.current");
        usage.max_usage = read_number(dir, "memory.peak");
        usage.limit = read_number(dir, "memory.max");
        swap.usage = read_number(dir, "memory.swap.current");
        swap.limit = read_number(dir, "memory.swap.max");
        pids.current = read_number(dir, "pids.current");
        pids.limit = read_number(dir, "pids.max");
        if (pids.limit == UINT64_MAX)
                pids.limit = 0;                         /* as the message has "none" */

        cpu.cpu_usage = &s.usage;
        cpu.throttling_data = &s.throttling;
        memory.cache = s.cache;
        memory.usage = &usage;
        memory.swap_usage = &swap;
        memory.use_hierarchy = true;
        memory.n_stats = s.n_entries;
        memory.stats = s.entry_pointers;
        group.cpu_stats = &cpu;
        group.memory_stats = &memory;
        group.pids_stats = &pids;
        response.cgroup_stats = &group;
        return ttrpc_call_reply_message(call, &response.base);
}

static void oom_kill_pair(const char *key, uint64_t value, void *userdata) {
        if (streq(key, "oom_kill"))
                *(uint64_t*) userdata = value;
}

int cgroup_read_oom_kills(const char *dir, uint64_t *ret) {
        uint64_t v = 0;
        int r;

        r = for_each_pair(dir, "memory.events", oom_kill_pair, &v);
        if (r < 0)
                return r;
        *ret = v;
        return 0;
}

/* One answer for each event: to somebody who waits, or kept for the next. */
static void oom_event(Agent *a, const char *id) {
        log_notice("Container '%s' ran out of memory.", id);

        if (a->oom_waiters.first) {
                Grpc__OOMEvent event = GRPC__OOMEVENT__INIT;

                event.container_id = (char*) id;
                (void) ttrpc_call_reply_message(a->oom_waiters.first->call, &event.base);
                pending_free(a->oom_waiters.first);
                return;
        }

        if (a->n_oom_events >= OOM_EVENTS_MAX)
                return;
        a->oom_events[a->n_oom_events] = strdup(id);
        if (a->oom_events[a->n_oom_events])
                a->n_oom_events++;
}

static void oom_look(Container *c) {
        uint64_t n;

        if (!c->cgroup || cgroup_read_oom_kills(c->cgroup, &n) < 0)
                return;
        for (; c->n_oom_kills < n; c->n_oom_kills++)
                oom_event(c->agent, c->id);
}

static int oom_ready(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        uint8_t buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
        Agent *a = userdata;
        ssize_t n = read(fd, buffer, sizeof(buffer));

        for (ssize_t at = 0; at < n;) {
                const struct inotify_event *e = (const struct inotify_event*) (buffer + at);

                at += (ssize_t) (sizeof(*e) + e->len);
                for (Container *c = a->containers; c; c = c->next)
                        if (c->oom_watch == e->wd) {
                                if (e->mask & IN_IGNORED)
                                        c->oom_watch = -1;
                                else
                                        oom_look(c);
                        }
        }
        return 0;
}

int oom_init(Agent *a) {
        a->oom_fd = inotify_init1(IN_CLOEXEC|IN_NONBLOCK);
        if (a->oom_fd < 0)
                return -errno;
        return sd_event_add_io(a->event, &a->oom_source, a->oom_fd, EPOLLIN, oom_ready, a);
}

/* The kernel makes the file "modified" when a count in it changes. */
void oom_watch(Container *c) {
        _cleanup_(freep) char *path = NULL;

        if (!c->cgroup || asprintf(&path, "%s/memory.events", c->cgroup) < 0) {
                path = NULL;
                return;
        }
        c->oom_watch = inotify_add_watch(c->agent->oom_fd, path, IN_MODIFY);
        if (c->oom_watch < 0)
                (void) log_info_errno(errno, "No word of memory running out in container '%s': %m", c->id);
        else
                oom_look(c);
}

void oom_unwatch(Container *c) {
        if (c->oom_watch >= 0)
                (void) inotify_rm_watch(c->agent->oom_fd, c->oom_watch);
        c->oom_watch = -1;
}
