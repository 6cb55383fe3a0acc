/* SPDX-License-Identifier: Apache-2.0 */
/* The interface between peerpod-providerd and a provider module: the one header that a module's author needs.
 *
 * A module is a shared object NAME.so that exports one symbol, `peerpod_provider`, a constant descriptor of type PeerpodProvider.
 *
 * Versions. `abi_version` must be equal on both sides. Within one version, structs grow at their end only: each starts with its
 * size as its maker knew it, and whoever reads a member beyond that size takes it as zero (PEERPOD_HAS() asks).
 *
 * Threads. open() is called first, on the main thread and before the daemon has any other thread; close() last, when no other call
 * runs. All other functions are called from any number of worker threads at once, but never twice at once for the same instance
 * name. They may block, for as long as the call's deadline and cancel descriptor allow. A module may start threads of its own; it
 * must block all signals in them. It never uses sd-event or sd-bus, and does not touch signal handlers or SIGCHLD.
 *
 * Ownership. Everything a module is given is borrowed and valid only until the function returns, except what says otherwise.
 * Results are copied into the caller's structs; nothing is ever freed across this interface.
 *
 * Failure. Functions return 0, or a negative errno with *error filled. On failure nothing that the call made is left behind. */
#pragma once

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PEERPOD_PROVIDER_ABI_VERSION UINT32_C(1)
#define PEERPOD_PROVIDER_SYMBOL "peerpod_provider"
#define PEERPOD_PROVIDER_EXPORT __attribute__((visibility("default")))

/* Is @member within what the maker of *@object knew? */
#define PEERPOD_HAS(object, member) \
        ((object)->size >= (char*) &(object)->member - (char*) (object) + sizeof((object)->member))

/* Grows at its end within a version, too; a kind that the daemon does not know is PEERPOD_E_INTERNAL to it. */
typedef enum PeerpodErrorKind {
        PEERPOD_E_NONE,
        PEERPOD_E_INVALID_ARGUMENT,         /* the request or the configuration can never work */
        PEERPOD_E_NOT_FOUND,
        PEERPOD_E_ALREADY_EXISTS,           /* the name is taken by something that is not ours */
        PEERPOD_E_EXHAUSTED,                /* quota, capacity, no disk space, user data too big */
        PEERPOD_E_FAILED_PRECONDITION,      /* the world is not as configured: no such image, network, pool */
        PEERPOD_E_UNAVAILABLE,              /* the cloud cannot be reached; worth another try */
        PEERPOD_E_TIMED_OUT,
        PEERPOD_E_CANCELLED,
        PEERPOD_E_UNAUTHENTICATED,
        PEERPOD_E_INTERNAL,
        PEERPOD_E_THROTTLED,                /* too many requests: the cloud wants fewer, and later */
        _PEERPOD_E_MAX,
} PeerpodErrorKind;

#define PEERPOD_ERROR_TEXT_SIZE 1024

typedef struct PeerpodError {
        uint32_t size;
        uint32_t kind;                          /* PeerpodErrorKind */
        char text[PEERPOD_ERROR_TEXT_SIZE];     /* for people; says what was tried on what; never a secret; NUL-terminated */
} PeerpodError;

/* Levels as in syslog(3). May be called from any thread. */
typedef void (*PeerpodLog)(void *userdata, int level, const char *text);

/* What bounds one call. Every wait in a module goes through it. */
typedef struct PeerpodCall {
        uint32_t size;
        int32_t cancel_fd;              /* readable once the call is cancelled, and from then on; poll only, never read; or -1 */
        uint64_t deadline_usec;         /* CLOCK_MONOTONIC */
        PeerpodLog log;                 /* knows the sandbox that the call is for */
        void *log_userdata;
} PeerpodCall;

typedef enum PeerpodOptionType {
        PEERPOD_OPTION_STRING,
        PEERPOD_OPTION_BOOL,            /* value: "true" or "false" */
        PEERPOD_OPTION_UINT,            /* value: decimal digits, minimum <= value <= maximum */
        PEERPOD_OPTION_LIST,            /* value: "a,b": items trimmed, empty ones and repetitions dropped */
        PEERPOD_OPTION_MAP,             /* value: "key=value,key=value": likewise trimmed, no key empty or twice */
        PEERPOD_OPTION_DECIMAL,         /* value: "2" or "0.5" */
        PEERPOD_OPTION_DURATION,        /* value: decimal digits, microseconds; people write "2m30s" */
        _PEERPOD_OPTION_TYPE_MAX,
} PeerpodOptionType;

enum {
        PEERPOD_OPTION_SECRET = 1 << 0,         /* never shown; refused on the command line */
        PEERPOD_OPTION_REQUIRED = 1 << 1,       /* an empty value is refused at start */
};

/* One setting. Precedence: command line, non-empty environment, default. The daemon checks the type, the module the meaning. */
typedef struct PeerpodOption {
        const char *name;               /* command line flag without dashes; NULL: environment only */
        const char *env;                /* environment variable; NULL: flag only */
        const char *default_value;      /* never NULL */
        const char *help;               /* one line */
        uint32_t type;                  /* PeerpodOptionType */
        uint32_t flags;
        uint64_t minimum, maximum;      /* of a UINT; maximum 0 means no limit */
} PeerpodOption;

typedef struct PeerpodConfig {
        uint32_t size;
        uint32_t n_values;
        const char *const *values;      /* one for each option, in the descriptor's order, none NULL */
        const char *state_directory;    /* absolute; the module may keep files there; 0700 */
        PeerpodLog log;                 /* for what belongs to no call; valid until close() has returned */
        void *log_userdata;
} PeerpodConfig;

enum {
        /* The pod's external traffic leaves by an interface of its own: give the instance a second one. A module that cannot refuses. */
        PEERPOD_INSTANCE_MULTI_NIC = 1 << 0,
};

/* What to create. The name, and the owner tag (sandbox_id, node), are fixed before the first call and must be found again on the
 * instance by find(). Strings are never NULL; empty means not given, numbers 0 likewise. */
typedef struct PeerpodInstanceSpec {
        uint32_t size;
        uint32_t vcpus;
        uint64_t memory_mib;
        uint32_t gpus;
        uint32_t flags;                 /* PEERPOD_INSTANCE_* */
        const char *name;               /* [a-z0-9-]{1,63}, first and last alphanumeric */
        const char *sandbox_id;         /* [A-Za-z0-9._-]{1,64}, first alphanumeric */
        const char *node;               /* [A-Za-z0-9._-]{1,253}, first alphanumeric */
        const char *machine_type;
        const char *image;
        const char *pod_name;
        const char *pod_namespace;
        const void *user_data;          /* a cloud-config document; secret */
        uint64_t user_data_size;
        const char *const *volumes;     /* the cloud's ids of disks to attach, in the order that they have at the VM */
        uint64_t n_volumes;             /* at most what the descriptor says */
        const char *gpu_model;          /* what the GPUs must be, as the cloud names them */
} PeerpodInstanceSpec;

#define PEERPOD_ADDRESSES_MAX 16
#define PEERPOD_ADDRESS_SIZE 46         /* INET6_ADDRSTRLEN */

typedef struct PeerpodInstance {
        uint32_t size;
        uint32_t n_addresses;
        char id[512];                   /* the cloud's id, never empty */
        char type[64];                  /* instance type, for people */
        /* The first one is where the forwarder listens. With PEERPOD_INSTANCE_MULTI_NIC the second one is the second interface's. One of
         * each interface comes before any further ones. */
        char addresses[PEERPOD_ADDRESSES_MAX][PEERPOD_ADDRESS_SIZE];
} PeerpodInstance;

/* What to delete. */
typedef struct PeerpodInstanceKey {
        uint32_t size;
        uint32_t reserved;
        const char *name;
        const char *sandbox_id;
        const char *id;                 /* empty if it was never learnt: find it by name and owner tag */
} PeerpodInstanceKey;

typedef struct PeerpodFoundInstance {
        uint32_t size;
        uint32_t reserved;
        const char *name;
        const char *sandbox_id;
        const char *id;
} PeerpodFoundInstance;

/* A negative return ends the search; find() then returns it. */
typedef int (*PeerpodFound)(void *userdata, const PeerpodFoundInstance *found);

typedef struct PeerpodProvider {
        uint32_t abi_version;           /* PEERPOD_PROVIDER_ABI_VERSION */
        uint32_t size;
        const char *name;               /* equals the file name without ".so" */
        const char *description;        /* one line */
        const PeerpodOption *options;
        uint32_t n_options;
        uint32_t option_size;           /* sizeof(PeerpodOption) */
        uint64_t user_data_size_max;    /* the cloud's limit, in bytes of the plain document */

        /* Check the configuration and get ready. A cloud that cannot be reached now is no reason to fail. */
        int (*open)(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error);

        /* Check against the cloud itself: credentials, image, network, quota. */
        int (*verify)(void *provider, const PeerpodCall *call, PeerpodError *error);

        /* Make the instance and wait until it has an address. Idempotent: an instance of that name with that owner tag is completed
         * and returned; one without it is PEERPOD_E_ALREADY_EXISTS. On failure, cancel included, everything is undone
         * (peerpod_call_for_undo()). */
        int (*create)(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret,
                      PeerpodError *error);

        /* Delete the instance and all it had; returns when they are gone. Not there is success, a half-made one is removed. An
         * instance of another owner is left alone and is PEERPOD_E_FAILED_PRECONDITION. */
        int (*remove)(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);

        /* Report each instance whose owner tag names @node, running or not, half-made ones included. */
        int (*find)(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata,
                    PeerpodError *error);

        void (*close)(void *provider);

        uint32_t volumes_max;           /* disks that create() attaches to one instance; 0: it knows nothing of volumes */
        uint32_t reserved;
} PeerpodProvider;

extern PEERPOD_PROVIDER_EXPORT const PeerpodProvider peerpod_provider;

/* Helpers; nothing below is part of the binary interface. */

static inline int peerpod_error_to_errno(PeerpodErrorKind kind) {
        switch (kind) {
        case PEERPOD_E_INVALID_ARGUMENT:
                return -EINVAL;
        case PEERPOD_E_NOT_FOUND:
                return -ENOENT;
        case PEERPOD_E_ALREADY_EXISTS:
                return -EEXIST;
        case PEERPOD_E_EXHAUSTED:
                return -ENOSPC;
        case PEERPOD_E_FAILED_PRECONDITION:
                return -ENOTSUP;
        case PEERPOD_E_UNAVAILABLE:
                return -EHOSTUNREACH;
        case PEERPOD_E_TIMED_OUT:
                return -ETIMEDOUT;
        case PEERPOD_E_CANCELLED:
                return -ECANCELED;
        case PEERPOD_E_UNAUTHENTICATED:
                return -EACCES;
        case PEERPOD_E_THROTTLED:
                return -EBUSY;
        default:
                return -EIO;
        }
}

__attribute__((format(printf, 3, 4)))
static inline int peerpod_error_set(PeerpodError *error, PeerpodErrorKind kind, const char *format, ...) {
        va_list ap;

        if (error) {
                error->kind = kind;
                va_start(ap, format);
                (void) vsnprintf(error->text, sizeof(error->text), format, ap);
                va_end(ap);
        }

        return peerpod_error_to_errno(kind);
}

__attribute__((format(printf, 3, 4)))
static inline void peerpod_log(const PeerpodCall *call, int level, const char *format, ...) {
        char text[2048];
        va_list ap;

        if (!call || !call->log)
                return;
        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        call->log(call->log_userdata, level, text);
}

/* What is empty, too long, or more than there is room for is left out. */
static inline void peerpod_instance_add_address(PeerpodInstance *instance, const char *address) {
        if (address && *address && strlen(address) < PEERPOD_ADDRESS_SIZE && instance->n_addresses < PEERPOD_ADDRESSES_MAX)
                strcpy(instance->addresses[instance->n_addresses++], address);
}

static inline uint64_t peerpod_now_usec(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}

/* Wait until @fd (or -1 for none) has @events, at most @usec: 1 ready, 0 not within @usec, or -ECANCELED, -ETIMEDOUT with *error filled. */
static inline int peerpod_call_wait(const PeerpodCall *call, int fd, short events, uint64_t usec, PeerpodError *error) {
        uint64_t start = peerpod_now_usec(), end = usec < UINT64_MAX - start ? start + usec : UINT64_MAX;

        for (;;) {
                struct pollfd p[] = { { .fd = call->cancel_fd, .events = POLLIN }, { .fd = fd, .events = events } };
                uint64_t now = peerpod_now_usec(), until = end < call->deadline_usec ? end : call->deadline_usec;
                uint64_t left = now < until ? until - now : 0;
                struct timespec ts = { .tv_sec = (time_t) (left / 1000000), .tv_nsec = (long) (left % 1000000) * 1000 };
                int n;

                n = ppoll(p, 2, &ts, NULL);
                if (n < 0 && errno != EINTR)
                        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "poll: %s", strerror(errno));
                if (n > 0 && p[0].revents != 0)
                        return peerpod_error_set(error, PEERPOD_E_CANCELLED, "The request was cancelled.");
                if (n > 0)
                        return 1;
                now = peerpod_now_usec();
                if (now >= call->deadline_usec)
                        return peerpod_error_set(error, PEERPOD_E_TIMED_OUT, "The request ran out of time.");
                if (now >= end)
                        return 0;
        }
}

/* Cancelled or out of time? To be asked between two steps. */
static inline int peerpod_call_check(const PeerpodCall *call, PeerpodError *error) {
        return peerpod_call_wait(call, -1, 0, 0, error);
}

/* A call that cleans up after @call: @usec from now, deaf to its cancel. */
static inline PeerpodCall peerpod_call_for_undo(const PeerpodCall *call, uint64_t usec) {
        return (PeerpodCall) {
                .size = sizeof(PeerpodCall),
                .cancel_fd = -1,
                .deadline_usec = peerpod_now_usec() + usec,
                .log = call->log,
                .log_userdata = call->log_userdata,
        };
}

#ifdef __cplusplus
}
#endif
