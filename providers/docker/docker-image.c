/* SPDX-License-Identifier: Apache-2.0 */
/* The image: there, or pulled if the settings say so. */
#include <fnmatch.h>
#include <syslog.h>

#include "basic/io.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-form.h"
#include "docker-api.h"

#define PROGRESS_USEC (10 * USEC_PER_SEC)

typedef struct Pull {
        const PeerpodCall *call;
        const char *image;
        DockerProgress progress;
        uint64_t told_usec;
} Pull;

bool docker_image_allowed(const Docker *d, const char *image) {
        const char *item;
        size_t n;

        if (streq(image, d->image))
                return true;
        for (const char *p = d->image_patterns; list_next(&p, &item, &n);) {
                char pattern[512];

                if (n >= sizeof(pattern))
                        continue;
                memcpy(pattern, item, n);
                pattern[n] = '\0';
                /* A '*' ends at a slash: "host/team-*" is not "host/team-1/other". */
                if (fnmatch(pattern, image, FNM_PATHNAME|FNM_NOESCAPE) == 0)
                        return true;
        }
        return false;
}

/* 1, 0 if it is not there */
static int image_is_there(Docker *d, const PeerpodCall *call, const char *image, PeerpodError *error) {
        _cleanup_(http_reply_done) HttpReply reply = {};

        return docker_get(d, call, "look for the image", docker_path("/images/%s/json", image), &reply, error);
}

static int on_progress(void *userdata, const void *data, size_t size) {
        Pull *p = userdata;
        uint64_t now = peerpod_now_usec();
        int r;

        r = docker_progress_feed(&p->progress, data, size);
        if (r == 0 && p->progress.status[0] && now >= p->told_usec + PROGRESS_USEC) {
                p->told_usec = now;
                peerpod_log(p->call, LOG_INFO, "Pulling image '%s': %s", p->image, p->progress.status);
        }
        return r;
}

/* The credentials are for one registry, and no other is to see them. */
static int auth_for(const Docker *d, const char *image, const char **ret, PeerpodError *error) {
        _cleanup_(freep) char *registry = NULL;

        if (docker_image_registry(image, &registry) < 0)
                return oom(error);
        *ret = d->registry_auth && streq_ptr(d->registry, registry) ? d->registry_auth : NULL;
        return 0;
}

static int pull(Docker *d, const PeerpodCall *call, const char *image, PeerpodError *error) {
        DockerRequest request = { .method = "POST", .what = "pull the image", .on_body = on_progress, .body = "" };
        _cleanup_(freep) char *name = NULL, *tag = NULL, *path = NULL;
        _cleanup_(http_reply_done) HttpReply reply = {};
        _cleanup_(freep) Pull *p = NULL;
        uint64_t now = peerpod_now_usec();
        Form form = {};
        int r;

        r = docker_image_split(image, &name, &tag);
        if (r < 0)
                return r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no name of an image.", image);
        form_add(&form, "fromImage", name);
        form_add(&form, "tag", tag);
        if (form_text(&form))
                path = docker_path("/images/create?%s", form_text(&form));
        form_done(&form);
        p = new(Pull);
        if (!path || !p)
                return oom(error);
        r = auth_for(d, image, &request.registry_auth, error);
        if (r < 0)
                return r;
        p->call = call;
        p->image = image;
        p->told_usec = now;
        p->progress.size = 0;
        p->progress.too_long = false;
        p->progress.error = NULL;
        p->progress.status[0] = '\0';

        request.path = path;
        request.userdata = p;
        request.timeout_usec = call->deadline_usec > now ? call->deadline_usec - now : 1;
        peerpod_log(call, LOG_NOTICE, "Image '%s' is not there, pulling it.", image);
        r = docker_request(d, call, &request, &reply, NULL, error);
        if (r == 0 && reply.status != 200)
                r = docker_fail(error, request.what, &reply, PEERPOD_E_FAILED_PRECONDITION);
        else if (r == 0 && p->progress.error)
                r = peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "pull the image '%.200s': %s", image, p->progress.error);
        docker_progress_done(&p->progress);
        return r;
}

int docker_image_ensure(Docker *d, const PeerpodCall *call, const char *image, PeerpodError *error) {
        int r;

        r = image_is_there(d, call, image, error);
        if (r != 0)
                return r < 0 ? r : 0;
        if (d->pull) {
                r = pull(d, call, image, error);
                if (r == 0)
                        r = image_is_there(d, call, image, error);
                if (r != 0)
                        return r < 0 ? r : 0;
        }
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The engine has no image '%.200s'%s.", image,
                                 d->pull ? ", although it was pulled" : ", and DOCKER_IMAGE_PULL is off");
}
