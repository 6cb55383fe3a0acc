/* SPDX-License-Identifier: Apache-2.0 */
#include "instance-type.h"

#include <ctype.h>
#include <pthread.h>
#include <syslog.h>

#include "basic/util.h"
#include "cloud-config.h"

#define WAIT_STEP_USEC (200 * USEC_PER_MSEC)
#define FETCH_AGAIN_USEC (60 * USEC_PER_SEC)    /* after a failure, while there is an old listing */

void instance_type_done(InstanceType *t) {
        free(t->name);
        free(t->gpu_model);
        free(t->architecture);
        *t = (InstanceType) {};
}

static void free_types(InstanceType *types, size_t n) {
        FOREACH_ELEMENT(InstanceType, t, types, n)
                instance_type_done(t);
        free(types);
}

static const InstanceType* find_type(const InstanceType *types, size_t n, const char *name) {
        for (size_t i = 0; i < n; i++)
                if (streq(types[i].name, name))
                        return types + i;
        return NULL;
}

/* "Tesla T4" is in "NVIDIA-TESLA-T4". */
static bool model_matches(const char *have, const char *want) {
        char a[128], b[128], *to[] = { a, b };
        const char *from[] = { strempty(have), strempty(want) };

        for (size_t i = 0; i < ELEMENTSOF(to); i++) {
                size_t n = 0;

                for (const char *p = from[i]; *p && n < sizeof(a) - 1; p++)
                        if (isalnum((unsigned char) *p))
                                to[i][n++] = (char) tolower((unsigned char) *p);
                to[i][n] = '\0';
        }
        return strstr(a, b) != NULL;
}

static bool is_allowed(const InstanceTypeWish *wish, const char *type) {
        return isempty(wish->allowed) ? streq(type, wish->default_type) : list_contains(wish->allowed, type);
}

static bool architecture_fits(const InstanceTypeWish *wish, const InstanceType *t) {
        return !wish->architecture || !t->architecture || streq(wish->architecture, t->architecture);
}

static bool fits(const InstanceTypeWish *wish, const InstanceType *t) {
        const PeerpodInstanceSpec *s = wish->spec;

        if (!is_allowed(wish, t->name) || !architecture_fits(wish, t))
                return false;
        if (s->gpus > 0 ? t->gpus < s->gpus || !model_matches(t->gpu_model, s->gpu_model) : t->gpus > 0)
                return false;
        return t->vcpus >= s->vcpus && t->memory_mib >= s->memory_mib;
}

static int compare_sizes(const InstanceType *a, const InstanceType *b) {
        if (a->gpus != b->gpus)
                return a->gpus < b->gpus ? -1 : 1;
        if (a->memory_mib != b->memory_mib)
                return a->memory_mib < b->memory_mib ? -1 : 1;
        if (a->vcpus != b->vcpus)
                return a->vcpus < b->vcpus ? -1 : 1;
        return strcmp(a->name, b->name);
}

static const InstanceType* smallest_fit(const InstanceTypeWish *wish, const InstanceType *types, size_t n) {
        const InstanceType *best = NULL;

        for (size_t i = 0; i < n; i++)
                if (fits(wish, types + i) && (!best || compare_sizes(types + i, best) < 0))
                        best = types + i;
        return best;
}

/* Which allowed type has most of what is asked for? For the error text only. */
static const InstanceType* nearest(const InstanceTypeWish *wish, const InstanceType *types, size_t n) {
        const PeerpodInstanceSpec *s = wish->spec;
        const InstanceType *best = NULL;
        double best_share = -1;

        for (size_t i = 0; i < n; i++) {
                const InstanceType *t = types + i;
                double share = 0;

                if (!is_allowed(wish, t->name) || !architecture_fits(wish, t) || (s->gpus == 0 && t->gpus > 0))
                        continue;
                share += s->gpus > 0 ? MIN((double) t->gpus / s->gpus, 1.) : 0;
                share += s->vcpus > 0 ? MIN((double) t->vcpus / s->vcpus, 1.) : 1;
                share += s->memory_mib > 0 ? MIN((double) t->memory_mib / (double) s->memory_mib, 1.) : 1;
                if (share > best_share) {
                        best_share = share;
                        best = t;
                }
        }
        return best;
}

static void print_size(char *text, size_t size, uint32_t vcpus, uint64_t memory_mib, uint32_t gpus, const char *gpu_model) {
        int n = snprintf(text, size, "%" PRIu32 " vCPUs, %" PRIu64 " MiB", vcpus, memory_mib);

        if (gpus > 0 && n > 0 && (size_t) n < size)
                (void) snprintf(text + n, size - n, ", %" PRIu32 " GPUs%s%s", gpus, isempty(gpu_model) ? "" : " ", strempty(gpu_model));
}

static int refuse_size(const InstanceTypeWish *wish, const InstanceType *types, size_t n, PeerpodError *error) {
        const PeerpodInstanceSpec *s = wish->spec;
        const InstanceType *near = nearest(wish, types, n);
        char asked[192], has[192], what[512] = "";

        print_size(asked, sizeof(asked), s->vcpus, s->memory_mib, s->gpus, s->gpu_model);
        if (near) {
                print_size(has, sizeof(has), near->vcpus, near->memory_mib, near->gpus, near->gpu_model);
                (void) snprintf(what, sizeof(what), " the nearest is '%.64s' (%s%s%.16s)", near->name, has, near->architecture ? ", " : "",
                                strempty(near->architecture));
        } else
                (void) snprintf(what, sizeof(what), " none is of this kind");
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "No allowed instance type fits the pod (%s%s%s): of %s%s%s%s.", asked,
                                 wish->architecture ? ", image for " : "", strempty(wish->architecture),
                                 isempty(wish->allowed) ? "the default alone, as no list is set in " : "the list in ", wish->allowed_option,
                                 isempty(wish->allowed) ? "," : "", what);
}

static int take_named(const InstanceTypeWish *wish, const InstanceType *types, size_t n, const char *name, const char **ret, PeerpodError *error) {
        const InstanceType *t = find_type(types, n, name);

        if (t && !architecture_fits(wish, t))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance type '%s' is of architecture %s, the image of %s.",
                                         name, t->architecture, wish->architecture);
        *ret = name;
        return 0;
}

int instance_type_choose(const InstanceTypeWish *wish, const InstanceType *types, size_t n_types, const char **ret, PeerpodError *error) {
        const PeerpodInstanceSpec *s = wish->spec;
        const InstanceType *best;

        if (!isempty(s->machine_type)) {
                if (is_allowed(wish, s->machine_type) || streq(s->machine_type, wish->default_type))
                        return take_named(wish, types, n_types, s->machine_type, ret, error);
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, isempty(wish->allowed) ?
                                         "Instance type '%s' is not the default, '%s', and no list of allowed ones is set in %s." :
                                         "Instance type '%s' is neither the default, '%s', nor in the list of %s.",
                                         s->machine_type, wish->default_type, wish->allowed_option);
        }
        if (s->gpus == 0 && (s->vcpus == 0 || s->memory_mib == 0))
                return take_named(wish, types, n_types, wish->default_type, ret, error);

        best = smallest_fit(wish, types, n_types);
        if (!best)
                return refuse_size(wish, types, n_types, error);
        *ret = best->name;
        return 0;
}

struct InstanceTypeCache {
        pthread_mutex_t mutex;
        InstanceTypeFetch fetch;
        void *userdata;
        uint64_t keep_usec, fetched_usec, failed_usec;  /* CLOCK_MONOTONIC; 0: never */
        InstanceType *types;
        size_t n_types;
        bool fetching;
};

int instance_type_cache_new(InstanceTypeFetch fetch, void *userdata, uint64_t keep_usec, InstanceTypeCache **ret) {
        InstanceTypeCache *c = new(InstanceTypeCache);

        if (!c)
                return -ENOMEM;
        *c = (InstanceTypeCache) { .mutex = PTHREAD_MUTEX_INITIALIZER, .fetch = fetch, .userdata = userdata, .keep_usec = keep_usec };
        *ret = c;
        return 0;
}

InstanceTypeCache* instance_type_cache_free(InstanceTypeCache *c) {
        if (!c)
                return NULL;
        free_types(c->types, c->n_types);
        (void) pthread_mutex_destroy(&c->mutex);
        free(c);
        return NULL;
}

static bool is_fresh(const InstanceTypeCache *c) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        if (c->fetched_usec == 0)
                return false;
        return now < usec_add(c->fetched_usec, c->keep_usec) || (c->failed_usec > 0 && now < usec_add(c->failed_usec, FETCH_AGAIN_USEC));
}

/* Called and returns with the mutex held. */
static int fetch_locked(InstanceTypeCache *c, const PeerpodCall *call, PeerpodError *error) {
        InstanceType *types = NULL;
        size_t n = 0;
        int r;

        c->fetching = true;
        (void) pthread_mutex_unlock(&c->mutex);
        r = c->fetch(c->userdata, call, &types, &n, error);
        (void) pthread_mutex_lock(&c->mutex);
        c->fetching = false;

        if (r >= 0) {
                free_types(c->types, c->n_types);
                c->types = types;
                c->n_types = n;
                c->fetched_usec = now_usec(CLOCK_MONOTONIC);
                c->failed_usec = 0;
                return 0;
        }
        if (c->fetched_usec == 0)
                return r;
        c->failed_usec = now_usec(CLOCK_MONOTONIC);
        peerpod_log(call, LOG_WARNING, "The list of instance types could not be renewed, going on with the old one: %s", error ? error->text : "");
        return 0;
}

/* Called and returns with the mutex held. Who waits looks again several times a second: it is rare, and may be cancelled. */
static int refresh_locked(InstanceTypeCache *c, const PeerpodCall *call, PeerpodError *error) {
        while (!is_fresh(c)) {
                int r;

                if (!c->fetching)
                        return fetch_locked(c, call, error);
                if (c->fetched_usec > 0)
                        return 0;
                (void) pthread_mutex_unlock(&c->mutex);
                r = peerpod_call_wait(call, -1, 0, WAIT_STEP_USEC, error);
                (void) pthread_mutex_lock(&c->mutex);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int copy_text(const char *from, char **to) {
        *to = from ? strdup(from) : NULL;
        return from && !*to ? -ENOMEM : 0;
}

static int copy_type(const InstanceType *t, InstanceType *ret) {
        *ret = (InstanceType) { .vcpus = t->vcpus, .memory_mib = t->memory_mib, .gpus = t->gpus };
        if (copy_text(t->name, &ret->name) < 0 || copy_text(t->gpu_model, &ret->gpu_model) < 0 || copy_text(t->architecture, &ret->architecture) < 0) {
                instance_type_done(ret);
                return -ENOMEM;
        }
        return 0;
}

int instance_type_cache_choose(InstanceTypeCache *c, const PeerpodCall *call, const InstanceTypeWish *wish, char **ret, InstanceType *ret_type,
                               PeerpodError *error) {
        const InstanceType *known;
        const char *name;
        char *copy = NULL;
        int r;

        (void) pthread_mutex_lock(&c->mutex);
        r = refresh_locked(c, call, error);
        if (r >= 0)
                r = instance_type_choose(wish, c->types, c->n_types, &name, error);
        if (r >= 0) {
                copy = strdup(name);
                if (!copy)
                        r = oom(error);
        }
        if (r >= 0 && ret_type) {
                *ret_type = (InstanceType) {};
                known = find_type(c->types, c->n_types, name);
                if (known && copy_type(known, ret_type) < 0)
                        r = oom(error);
        }
        (void) pthread_mutex_unlock(&c->mutex);
        if (r < 0) {
                free(copy);
                return r;
        }
        *ret = copy;
        return 0;
}
