/* SPDX-License-Identifier: Apache-2.0 */
/* An engine has no two containers of one name, so the instance's name is the token of idempotency: a create of which nobody knows whether it was
 * done is done again, and a conflict of names then is either its own first try or somebody else's container, as the labels tell. */
#include <syslog.h>

#include "basic/io.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-form.h"
#include "docker-api.h"

#define UNDO_USEC (120 * USEC_PER_SEC)
#define LATE_USEC (3 * USEC_PER_SEC)            /* that an engine may take for a create whose connection broke before its answer */
#define PAUSE_USEC (50 * USEC_PER_MSEC)
#define PAUSE_MAX_USEC (500 * USEC_PER_MSEC)
#define SETTLE_USEC (200 * USEC_PER_MSEC)       /* that a container must have run for: one that cannot work mostly ends before that */
#define SLOW_USEC (180 * USEC_PER_SEC)          /* for the steps that the engine needs a moment for */

static int pause_and_double(const PeerpodCall *call, uint64_t *pause, PeerpodError *error) {
        int r = peerpod_call_wait(call, -1, 0, *pause, error);

        *pause = MIN(*pause * 2, PAUSE_MAX_USEC);
        return r;
}

/* The container of that name or id: 1, 0 if there is none */
static int look_at(Docker *d, const PeerpodCall *call, const char *name, DockerContainer *ret, PeerpodError *error) {
        static const char what[] = "look at container";
        _cleanup_(freep) char *escaped = url_escape(name);
        _cleanup_(http_reply_done) HttpReply reply = {};
        int r;

        r = docker_get(d, call, what, escaped ? docker_path("/containers/%s/json", escaped) : NULL, &reply, error);
        if (r <= 0)
                return r;
        r = docker_parse_container(reply.body, reply.size, d->network, ret);
        if (r < 0) {
                docker_container_done(ret);
                return docker_bad_reply(error, what, r);
        }
        return 1;
}

static bool is_owned_by(const DockerContainer *c, const char *name, const char *sandbox_id, const char *node) {
        return streq(c->name, name) && streq_ptr(c->owner.name, name) && streq_ptr(c->owner.sandbox_id, sandbox_id) &&
                (!node || streq_ptr(c->owner.node, node));
}

/* By id, so that it can be nobody else's; with its anonymous volumes. Returns when it is gone. */
static int erase(Docker *d, const PeerpodCall *call, const char *id, PeerpodError *error) {
        DockerRequest request = { .method = "DELETE", .what = "remove container", .again = DOCKER_ASK, .timeout_usec = SLOW_USEC };
        _cleanup_(freep) char *path = docker_path("/containers/%s?force=1&v=1", id);
        uint64_t pause = PAUSE_USEC;

        if (!path)
                return oom(error);
        request.path = path;
        for (;;) {
                _cleanup_(docker_container_done) DockerContainer c = {};
                _cleanup_(http_reply_done) HttpReply reply = {};
                int r;

                r = docker_request(d, call, &request, &reply, NULL, error);
                if (r < 0)
                        return r;
                if (reply.status == 404)
                        return 0;
                /* 409: another removal of it is under way */
                if (reply.status != 204 && reply.status != 200 && reply.status != 409)
                        return docker_fail(error, request.what, &reply, PEERPOD_E_NONE);
                r = look_at(d, call, id, &c, error);
                if (r <= 0)
                        return r;
                r = pause_and_double(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* The volumes of a container that is gone: of an engine that was cut off between making the one and the other */
static int erase_volumes(Docker *d, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error) {
        static const char what[] = "look for volumes";
        _cleanup_(http_reply_done) HttpReply reply = {};
        _cleanup_(docker_list_done) DockerList list = {};
        char *path = NULL;
        Form form = {};
        int r;

        form_addf(&form, "filters", "{\"label\":[\"peerpod-sandbox=%s\",\"peerpod-name=%s\"]}", sandbox_id, name);
        if (form_text(&form))
                path = docker_path("/volumes?%s", form_text(&form));
        form_done(&form);
        r = docker_get(d, call, what, path, &reply, error);
        if (r < 0)
                return r;
        r = r > 0 ? docker_parse_volumes(reply.body, reply.size, &list) : -EBADMSG;
        if (r < 0)
                return docker_bad_reply(error, what, r);

        for (size_t i = 0; i < list.n_items; i++) {
                DockerRequest removal = { .method = "DELETE", .what = "remove volume", .again = DOCKER_ASK };
                _cleanup_(freep) char *volume = docker_path("/volumes/%s", list.items[i].id);
                _cleanup_(http_reply_done) HttpReply gone = {};

                if (!volume)
                        return oom(error);
                removal.path = volume;
                r = docker_request(d, call, &removal, &gone, NULL, error);
                if (r < 0)
                        return r;
                if (gone.status != 204 && gone.status != 404)
                        return docker_fail(error, removal.what, &gone, PEERPOD_E_NONE);
        }
        return 0;
}

int docker_network_check(Docker *d, const PeerpodCall *call, PeerpodError *error) {
        static const char what[] = "look at the network";
        _cleanup_(freep) char *escaped = url_escape(d->network), *driver = NULL;
        _cleanup_(http_reply_done) HttpReply reply = {};
        int r;

        r = docker_get(d, call, what, escaped ? docker_path("/networks/%s", escaped) : NULL, &reply, error);
        if (r < 0)
                return r;
        if (r == 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The engine has no network '%.128s' (DOCKER_NETWORK_NAME).",
                                         d->network);
        r = docker_parse_network(reply.body, reply.size, &driver);
        if (r < 0)
                return docker_bad_reply(error, what, r);
        if (streq(driver, "host") || streq(driver, "null"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                         "A pod VM gets no address of its own in network '%.128s' (DOCKER_NETWORK_NAME), whose driver is '%s'.",
                                         d->network, driver);
        return 0;
}

/* What the spec asks for in numbers, held to what the engine's machine has. */
static int choose_size(Docker *d, const PeerpodCall *call, const PeerpodInstanceSpec *spec, DockerCreate *ret, PeerpodError *error) {
        DockerEngine e;
        int r;

        r = docker_engine(d, call, &e, error);
        if (r < 0)
                return r;
        if (e.cpus > 0 && spec->vcpus > e.cpus)
                return peerpod_error_set(error, PEERPOD_E_EXHAUSTED, "The pod asks for %" PRIu32 " vCPUs; the engine's machine has %" PRIu32 ".",
                                         spec->vcpus, e.cpus);
        if (e.memory_mib > 0 && spec->memory_mib > e.memory_mib)
                return peerpod_error_set(error, PEERPOD_E_EXHAUSTED,
                                         "The pod asks for %" PRIu64 " MiB of memory; the engine's machine has %" PRIu64 ".",
                                         spec->memory_mib, e.memory_mib);
        if (spec->memory_mib != 0 && spec->memory_mib < 64)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Memory of %" PRIu64 " MiB is too little.", spec->memory_mib);
        ret->vcpus = spec->vcpus ?: e.cpus > 0 ? MIN(d->vcpus, e.cpus) : d->vcpus;
        /* It would refuse the container; limits of memory and processes it leaves out by itself, with a warning. */
        if (e.no_cpu_limit && ret->vcpus > 0) {
                peerpod_log(call, LOG_WARNING, "The engine cannot limit CPU time: container '%s' may use all of its machine.", spec->name);
                ret->vcpus = 0;
        }
        ret->memory_mib = spec->memory_mib ?: e.memory_mib > 0 ? MIN(d->memory_mib, e.memory_mib) : d->memory_mib;
        return 0;
}

static int check_request(Docker *d, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        if (!isempty(spec->image) && !docker_image_allowed(d, spec->image))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT,
                                         "Image '%.200s' is not among those that a pod may name (DOCKER_IMAGE_PATTERNS).", spec->image);
        if (!isempty(spec->machine_type))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT,
                                         "Provider 'docker' has no instance types; '%.64s' is asked for.", spec->machine_type);
        if (spec->gpus > 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "GPUs are not supported by provider 'docker'.");
        if (spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "A second network interface is not supported by provider 'docker'.");
        if (PEERPOD_HAS(spec, n_volumes) && spec->n_volumes > 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Volumes are not supported by provider 'docker'.");
        if (spec->user_data_size > DOCKER_USER_DATA_MAX)
                return peerpod_error_set(error, PEERPOD_E_EXHAUSTED, "User data of %" PRIu64 " bytes are more than %" PRIu64 ".",
                                         spec->user_data_size, DOCKER_USER_DATA_MAX);
        return 0;
}

/* What a container of that name means to a create: 1 and *ret it runs and is ours; 0 there is none any more; negative is an error. */
static int take_over(Docker *d, const PeerpodCall *call, const PeerpodInstanceSpec *spec, DockerContainer *ret, PeerpodError *error) {
        _cleanup_(docker_container_done) DockerContainer c = {};
        int r;

        r = look_at(d, call, spec->name, &c, error);
        if (r <= 0)
                return r;
        if (!is_owned_by(&c, spec->name, spec->sandbox_id, spec->node))
                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "A container named '%s' exists and belongs to somebody else.", spec->name);
        if (streq(c.status, "running")) {
                *ret = c;
                c = (DockerContainer) {};
                return 1;
        }
        /* Whether it has its user data is not known. */
        return erase(d, call, c.id, error);
}

/* 1: @ret_id is a new container; 0: the name is taken; negative, and *ret_unknown if there may be one all the same */
static int make(Docker *d, const PeerpodCall *call, const char *name, const char *body, char ret_id[static DOCKER_ID_MAX + 1], bool *ret_unknown,
                PeerpodError *error) {
        _cleanup_(freep) char *path = docker_path("/containers/create?name=%s", name), *warnings = NULL;
        _cleanup_(http_reply_done) HttpReply reply = {};
        const DockerRequest request = {
                .method = "POST",
                .path = path,
                .what = "create container",
                .again = DOCKER_REPEATABLE,
                .body = body,
                .body_size = strlen(body),
                .content_type = "application/json",
                .timeout_usec = SLOW_USEC,
        };
        bool sent = false;
        int r;

        if (!path)
                return oom(error);
        r = docker_request(d, call, &request, &reply, &sent, error);
        if (r < 0) {
                *ret_unknown = sent;
                return r;
        }
        if (reply.status == 409)
                return 0;
        if (reply.status != 201) {
                *ret_unknown = reply.status >= 500;
                return docker_fail(error, request.what, &reply, PEERPOD_E_FAILED_PRECONDITION);
        }
        r = docker_parse_created(reply.body, reply.size, ret_id, &warnings);
        if (r < 0) {
                *ret_unknown = true;
                return docker_bad_reply(error, request.what, r);
        }
        if (warnings)
                peerpod_log(call, LOG_WARNING, "The engine warns of container '%s': %s", name, warnings);
        return 1;
}

static int put_user_data(Docker *d, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *id, PeerpodError *error) {
        DockerRequest request = {
                .method = "PUT",
                .what = "put user data into the container",
                .again = DOCKER_REPEATABLE,
                .content_type = "application/x-tar",
                .timeout_usec = SLOW_USEC,
        };
        _cleanup_(freep) char *path = docker_path("/containers/%s/archive?path=%%2F", id);
        _cleanup_(http_reply_done) HttpReply reply = {};
        char *tar = NULL;
        size_t size = 0;
        int r;

        if (!path)
                return oom(error);
        r = docker_write_user_data(spec->user_data, spec->user_data_size, now_usec(CLOCK_REALTIME) / USEC_PER_SEC, &tar, &size);
        if (r < 0)
                return oom(error);
        request.path = path;
        request.body = tar;
        request.body_size = size;
        r = docker_request(d, call, &request, &reply, NULL, error);
        erase_free(tar, size);
        if (r < 0)
                return r;
        return reply.status == 200 ? 0 : docker_fail(error, request.what, &reply, PEERPOD_E_INTERNAL);
}

static int start(Docker *d, const PeerpodCall *call, const char *id, PeerpodError *error) {
        DockerRequest request = {
                .method = "POST",
                .what = "start container",
                .again = DOCKER_REPEATABLE,
                .body = "",
                .timeout_usec = SLOW_USEC,
        };
        _cleanup_(freep) char *path = docker_path("/containers/%s/start", id);
        _cleanup_(http_reply_done) HttpReply reply = {};
        int r;

        if (!path)
                return oom(error);
        request.path = path;
        r = docker_request(d, call, &request, &reply, NULL, error);
        if (r < 0)
                return r;
        /* 304: it runs already, so an earlier try was done */
        return reply.status == 204 || reply.status == 304 ? 0 : docker_fail(error, request.what, &reply, PEERPOD_E_FAILED_PRECONDITION);
}

/* 1: it is ready; 0: not yet; negative if it never will be */
static int judge_state(const DockerContainer *c, const char *name, PeerpodError *error) {
        if (streq(c->status, "created") || streq(c->status, "restarting"))
                return 0;
        if (!streq(c->status, "running"))
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Container '%s' is %s, with exit status %" PRIu64 "%s%s%s", name, c->status,
                                         c->exit_code, c->out_of_memory ? ", out of memory" : "", c->error ? ": " : ".", strempty(c->error));
        if (streq_ptr(c->health, "unhealthy"))
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Container '%s' is unhealthy, says its image's check.", name);
        return c->n_addresses > 0 && !streq_ptr(c->health, "starting");
}

static int wait_ready(Docker *d, const PeerpodCall *call, const char *name, const char *id, PeerpodInstance *ret, PeerpodError *error) {
        uint64_t pause = PAUSE_USEC;
        bool settled = false;

        for (;;) {
                _cleanup_(docker_container_done) DockerContainer c = {};
                int r;

                r = look_at(d, call, id, &c, error);
                if (r < 0)
                        return r;
                if (r == 0)
                        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Container '%s' has gone while it was waited for.", name);
                r = judge_state(&c, name, error);
                if (r < 0)
                        return r;
                if (r > 0 && !settled) {
                        settled = true;
                        r = peerpod_call_wait(call, -1, 0, SETTLE_USEC, error);
                        if (r < 0)
                                return r;
                        continue;
                }
                if (r > 0) {
                        (void) snprintf(ret->id, sizeof(ret->id), "%s", c.id);
                        for (size_t i = 0; i < c.n_addresses; i++)
                                memcpy(ret->addresses[i], c.addresses[i], sizeof(c.addresses[i]));
                        ret->n_addresses = (uint32_t) c.n_addresses;
                        return 0;
                }
                r = pause_and_double(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* @unknown: the engine may have been told to make it, or may still be at it */
static void undo(Docker *d, const PeerpodCall *call, const PeerpodInstanceSpec *spec, bool unknown) {
        PeerpodCall u = peerpod_call_for_undo(call, UNDO_USEC);
        uint64_t until = peerpod_now_usec() + LATE_USEC, pause = PAUSE_USEC;
        PeerpodError e = { .size = sizeof(PeerpodError) };
        int r;

        for (;;) {
                _cleanup_(docker_container_done) DockerContainer c = {};

                r = look_at(d, &u, spec->name, &c, &e);
                if (r > 0) {
                        r = is_owned_by(&c, spec->name, spec->sandbox_id, spec->node) ? erase(d, &u, c.id, &e) : 0;
                        break;
                }
                if (r < 0 || !unknown || peerpod_now_usec() >= until)
                        break;
                r = pause_and_double(&u, &pause, &e);
                if (r < 0)
                        break;
        }
        if (r < 0)
                peerpod_log(call, LOG_ERR, "Container '%s' could not be removed after its creation failed; deleting it will try again: %s",
                            spec->name, e.text);
}

/* The new container's id, or that of one which runs already (*ret_runs). */
static int make_or_take_over(Docker *d, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *body,
                             char ret_id[static DOCKER_ID_MAX + 1], bool *ret_runs, bool *ret_ours, bool *ret_unknown, PeerpodError *error) {
        uint64_t pause = PAUSE_USEC;

        for (;;) {
                _cleanup_(docker_container_done) DockerContainer c = {};
                int r;

                r = make(d, call, spec->name, body, ret_id, ret_unknown, error);
                if (r != 0) {
                        *ret_ours = r > 0;
                        return r < 0 ? r : 0;
                }
                r = take_over(d, call, spec, &c, error);
                if (r > 0) {
                        strcpy(ret_id, c.id);
                        *ret_runs = *ret_ours = true;
                        return 0;
                }
                /* Gone meanwhile, or removed, or reserved by a try that the engine is still at */
                if (r == 0)
                        r = pause_and_double(call, &pause, error);
                if (r < 0) {
                        *ret_unknown = r != -EEXIST;
                        return r;
                }
        }
}

/* A container has no type but its limits. */
static void write_type(const DockerCreate *create, PeerpodInstance *ret) {
        char cpus[24] = "", memory[32] = "";

        if (create->vcpus > 0)
                (void) snprintf(cpus, sizeof(cpus), ", %" PRIu32 " vCPU", create->vcpus);
        if (create->memory_mib > 0)
                (void) snprintf(memory, sizeof(memory), ", %" PRIu64 " MiB", create->memory_mib);
        (void) snprintf(ret->type, sizeof(ret->type), "container%s%s", cpus, memory);
}

int docker_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        bool runs = false, ours = false, unknown = false;
        DockerCreate create = {};
        _cleanup_(freep) char *body = NULL;
        char id[DOCKER_ID_MAX + 1] = "";
        Docker *d = provider;
        int r;

        create = (DockerCreate) {
                .image = isempty(spec->image) ? d->image : spec->image,
                .network = d->network,
                .node = spec->node,
                .sandbox_id = spec->sandbox_id,
                .name = spec->name,
                .pod_name = spec->pod_name,
                .pod_namespace = spec->pod_namespace,
                .capabilities = d->capabilities,
                .privileged = d->privileged,
                .pids_max = d->pids_max,
        };
        r = check_request(d, spec, error);
        if (r == 0)
                r = choose_size(d, call, spec, &create, error);
        if (r == 0)
                r = docker_network_check(d, call, error);
        if (r == 0)
                r = docker_image_ensure(d, call, create.image, error);
        if (r < 0)
                return r;
        body = docker_write_create(&create);
        if (!body)
                return oom(error);

        r = make_or_take_over(d, call, spec, body, id, &runs, &ours, &unknown, error);
        if (r == 0 && runs)
                peerpod_log(call, LOG_INFO, "Container '%s' runs already.", spec->name);
        else if (r == 0) {
                r = put_user_data(d, call, spec, id, error);
                if (r == 0)
                        r = start(d, call, id, error);
        }
        if (r == 0)
                r = wait_ready(d, call, spec->name, id, ret, error);
        if (r < 0 && (ours || unknown))
                undo(d, call, spec, unknown);
        if (r == 0)
                write_type(&create, ret);
        return r;
}

/* Made by cloud-api-adaptor, which sets no labels (src/cloud-providers/docker/provider.go). */
static int remove_untagged(Docker *d, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        _cleanup_(docker_container_done) DockerContainer c = {};
        int r;

        r = look_at(d, call, key->id, &c, error);
        if (r <= 0)
                return r;
        /* The engine also finds containers by name and by the beginning of an id. */
        if (!streq(c.id, key->id) || c.owner.name || c.owner.sandbox_id || c.owner.node || !startswith(c.name, key->name))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Container '%s' belongs to somebody else.", key->id);
        return erase(d, call, c.id, error);
}

int docker_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        _cleanup_(docker_container_done) DockerContainer c = {};
        Docker *d = provider;
        int r;

        if (key->flags & PEERPOD_KEY_UNTAGGED)
                return remove_untagged(d, call, key, error);
        /* The id says nothing that name and owner do not: names are unique. */
        r = look_at(d, call, key->name, &c, error);
        if (r > 0) {
                if (!is_owned_by(&c, key->name, key->sandbox_id, /* node= */ NULL))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Container '%s' belongs to somebody else.", key->name);
                r = erase(d, call, c.id, error);
        }
        return r < 0 ? r : erase_volumes(d, call, key->name, key->sandbox_id, error);
}

static int list(Docker *d, const PeerpodCall *call, const char *node, bool volumes, DockerList *ret, PeerpodError *error) {
        const char *what = volumes ? "list volumes" : "list containers";
        _cleanup_(http_reply_done) HttpReply reply = {};
        char *path = NULL;
        Form form = {};
        int r;

        form_addf(&form, "filters", "{\"label\":[\"peerpod-node=%s\"]}", node);
        if (!volumes)
                form_add(&form, "all", "1");
        if (form_text(&form))
                path = docker_path("/%s?%s", volumes ? "volumes" : "containers/json", form_text(&form));
        form_done(&form);
        r = docker_get(d, call, what, path, &reply, error);
        if (r < 0)
                return r;
        if (r > 0)
                r = volumes ? docker_parse_volumes(reply.body, reply.size, ret) : docker_parse_containers(reply.body, reply.size, ret);
        else
                r = -EBADMSG;           /* the listing itself is always there */
        return r < 0 ? docker_bad_reply(error, what, r) : 0;
}

static int report(const DockerList *list, const char *node, bool volumes, const DockerList *before, PeerpodFound found, void *userdata,
                  PeerpodError *error) {
        for (size_t i = 0; i < list->n_items; i++) {
                const DockerListed *l = list->items + i;
                bool known = !streq(l->owner.node, node);
                int r;

                /* An instance's volumes are its own business; one without a container is reported as a rest of it, each instance once. */
                for (size_t k = 0; volumes && !known && k < before->n_items; k++)
                        known = streq(before->items[k].owner.name, l->owner.name);
                for (size_t k = 0; volumes && !known && k < i; k++)
                        known = streq(list->items[k].owner.name, l->owner.name);
                if (known)
                        continue;
                r = found(userdata, &(PeerpodFoundInstance) {
                        .size = sizeof(PeerpodFoundInstance),
                        .name = l->owner.name,
                        .sandbox_id = l->owner.sandbox_id,
                        .id = volumes ? "" : l->id,
                });
                if (r < 0) {
                        (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of instances was refused.");
                        return r;
                }
        }
        return 0;
}

int docker_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        _cleanup_(docker_list_done) DockerList containers = {}, volumes = {};
        Docker *d = provider;
        int r;

        /* Volumes first: a container that is made between the two lists has its volumes in neither. */
        r = list(d, call, node, /* volumes= */ true, &volumes, error);
        if (r == 0)
                r = list(d, call, node, /* volumes= */ false, &containers, error);
        if (r == 0)
                r = report(&containers, node, /* volumes= */ false, NULL, found, userdata, error);
        return r < 0 ? r : report(&volumes, node, /* volumes= */ true, &containers, found, userdata, error);
}
