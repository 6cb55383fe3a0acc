/* SPDX-License-Identifier: Apache-2.0 */
/* Provider module of the crash tests: asks tests/crash/nscloud, whose instances are pod VMs in namespaces, over a UNIX socket.
 *
 * One connection for each request, one line (and the user data) there, lines until the end back:
 *         create NAME SANDBOX NODE SIZE   → ok ID ADDRESS
 *         delete NAME SANDBOX             → ok
 *         find NODE                       → instance NAME SANDBOX ID, …, ok
 *         any                             → error KIND TEXT
 * The cloud does not mind who hangs up: what was asked for is done. */
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "provider/peerpod-provider.h"

#define ANSWER_MAX (1U << 20)
#define UNDO_USEC (UINT64_C(60) * 1000000)

enum {
        CLOUD_SOCKET,
        _CLOUD_OPTION_MAX,
};

static const PeerpodOption options[_CLOUD_OPTION_MAX] = {
        [CLOUD_SOCKET] = { "nscloud-socket", "NSCLOUD_SOCKET", "/run/nscloud.sock", "Where the cloud listens",
                           .flags = PEERPOD_OPTION_REQUIRED },
};

typedef struct Cloud {
        struct sockaddr_un address;
} Cloud;

static int fail_errno(PeerpodError *error, const char *what) {
        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: %s", what, strerror(errno));
}

static int connect_cloud(const Cloud *c, int *ret, PeerpodError *error) {
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);

        if (fd < 0)
                return fail_errno(error, "socket");
        if (connect(fd, (const struct sockaddr*) &c->address, sizeof(c->address)) < 0) {
                int r = fail_errno(error, c->address.sun_path);

                (void) close(fd);
                return r;
        }
        *ret = fd;
        return 0;
}

static int send_all(int fd, const PeerpodCall *call, const void *data, size_t size, PeerpodError *error) {
        const char *p = data;

        while (size > 0) {
                ssize_t n = send(fd, p, size, MSG_NOSIGNAL);

                if (n < 0 && errno != EAGAIN && errno != EINTR)
                        return fail_errno(error, "send");
                if (n < 0) {
                        int r = peerpod_call_wait(call, fd, POLLOUT, UINT64_MAX, error);

                        if (r < 0)
                                return r;
                        continue;
                }
                p += n;
                size -= (size_t) n;
        }
        return 0;
}

static int receive_all(int fd, const PeerpodCall *call, char **ret, PeerpodError *error) {
        size_t size = 0;
        char *text = malloc(ANSWER_MAX);

        if (!text)
                return fail_errno(error, "memory");
        for (;;) {
                int r = peerpod_call_wait(call, fd, POLLIN, UINT64_MAX, error);
                ssize_t n;

                if (r < 0) {
                        free(text);
                        return r;
                }
                n = recv(fd, text + size, ANSWER_MAX - 1 - size, 0);
                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        continue;
                if (n < 0 || (n > 0 && size + (size_t) n == ANSWER_MAX - 1)) {
                        free(text);
                        return n < 0 ? fail_errno(error, "receive") : peerpod_error_set(error, PEERPOD_E_INTERNAL, "answer is too long");
                }
                if (n == 0)
                        break;
                size += (size_t) n;
        }
        text[size] = '\0';
        *ret = text;
        return 0;
}

static PeerpodErrorKind kind_of(const char *name) {
        if (strcmp(name, "exists") == 0)
                return PEERPOD_E_ALREADY_EXISTS;
        if (strcmp(name, "other-owner") == 0)
                return PEERPOD_E_FAILED_PRECONDITION;
        return PEERPOD_E_UNAVAILABLE;
}

/* The last line says "ok" or why not; without it the answer is cut. */
static int check_answer(const char *text, PeerpodError *error) {
        char kind[32] = "", reason[256] = "";
        const char *last = text, *p;

        for (p = text; (p = strchr(p, '\n'));)
                if (*++p != '\0')
                        last = p;
        if (sscanf(last, "error %31s %255[^\n]", kind, reason) >= 1)
                return peerpod_error_set(error, kind_of(kind), "the cloud says: %s", reason);
        if (strncmp(last, "ok", 2) != 0 || !strchr(last, '\n'))
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "the cloud hung up without an answer");
        return 0;
}

static int ask(const Cloud *c, const PeerpodCall *call, const char *line, const void *data, size_t size, char **ret, PeerpodError *error) {
        char *text = NULL;
        int fd, r;

        r = connect_cloud(c, &fd, error);
        if (r < 0)
                return r;
        r = send_all(fd, call, line, strlen(line), error);
        if (r >= 0)
                r = send_all(fd, call, data, size, error);
        if (r >= 0)
                r = receive_all(fd, call, &text, error);
        (void) close(fd);
        if (r < 0)
                return r;

        r = check_answer(text, error);
        if (r < 0) {
                free(text);
                return r;
        }
        *ret = text;
        return 0;
}

static int cloud_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        Cloud *c = calloc(1, sizeof(Cloud));

        if (!c)
                return fail_errno(error, "memory");
        c->address.sun_family = AF_UNIX;
        (void) snprintf(c->address.sun_path, sizeof(c->address.sun_path), "%s", config->values[CLOUD_SOCKET]);
        *ret = c;
        return 0;
}

static int cloud_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        char *text = NULL;
        int r = ask(provider, call, "find -\n", NULL, 0, &text, error);

        free(text);
        return r;
}

static int delete_named(const Cloud *c, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error) {
        char line[512], *text = NULL;
        int r;

        (void) snprintf(line, sizeof(line), "delete %s %s\n", name, sandbox_id);
        r = ask(c, call, line, NULL, 0, &text, error);
        free(text);
        return r;
}

static int cloud_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret,
                        PeerpodError *error) {
        char line[768], *text = NULL;
        int r;

        (void) snprintf(line, sizeof(line), "create %s %s %s %" PRIu64 "\n", spec->name, spec->sandbox_id, spec->node, spec->user_data_size);
        r = ask(provider, call, line, spec->user_data, spec->user_data_size, &text, error);
        if (r >= 0 && sscanf(text, "ok %511s %45s", ret->id, ret->addresses[0]) != 2)
                r = peerpod_error_set(error, PEERPOD_E_INTERNAL, "the cloud's answer cannot be read");
        free(text);
        if (r < 0) {
                PeerpodCall undo = peerpod_call_for_undo(call, UNDO_USEC);

                if (error->kind != PEERPOD_E_ALREADY_EXISTS)
                        (void) delete_named(provider, &undo, spec->name, spec->sandbox_id, NULL);
                return r;
        }

        ret->n_addresses = 1;
        (void) snprintf(ret->type, sizeof(ret->type), "namespace");
        return 0;
}

static int cloud_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        return delete_named(provider, call, key->name, key->sandbox_id, error);
}

static int cloud_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata,
                      PeerpodError *error) {
        char line[320], *text = NULL, *saved, *l;
        int r;

        (void) snprintf(line, sizeof(line), "find %s\n", node);
        r = ask(provider, call, line, NULL, 0, &text, error);
        for (l = r < 0 ? NULL : strtok_r(text, "\n", &saved); l; l = strtok_r(NULL, "\n", &saved)) {
                char name[64], sandbox_id[65], id[128];
                int n = sscanf(l, "instance %63s %64s %127s", name, sandbox_id, id);

                if (n != 3)
                        continue;
                r = found(userdata, &(PeerpodFoundInstance) {
                        .size = sizeof(PeerpodFoundInstance),
                        .name = name,
                        .sandbox_id = sandbox_id,
                        .id = id,
                });
                if (r < 0) {
                        (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list was refused.");
                        break;
                }
        }
        free(text);
        return r;
}

static void cloud_close(void *provider) {
        free(provider);
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "nscloud",
        .description = "Pod VMs in namespaces, for tests",
        .options = options,
        .n_options = _CLOUD_OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = 64 * 1024,
        .open = cloud_open,
        .verify = cloud_verify,
        .create = cloud_create,
        .remove = cloud_remove,
        .find = cloud_find,
        .close = cloud_close,
};
