/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/endpoints.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include "basic/daemon.h"
#include "basic/log.h"
#include "metrics/http.h"

#define CONNECTION_USEC (30 * USEC_PER_SEC)

struct Endpoints {
        EndpointsSpec spec;
        HttpServer *metrics, *health;
        sd_event_source *gather;
};

static int serve(sd_event *event, const char *address, const char *option, const HttpPages *pages, HttpServer **ret) {
        _cleanup_(http_server_freep) HttpServer *s = NULL;
        struct sockaddr_storage sa = {};
        socklen_t size = sizeof(sa);
        int fd, r;

        if (streq(address, "0"))
                return 0;
        fd = daemon_listen_tcp(address);
        if (fd == -EINVAL)
                return log_error_errno(fd, "Value '%.64s' of %s is no address, which is written ':8080', '127.0.0.1:8080' or '[::1]:8080'; "
                                       "'0' is none.", address, option);
        if (fd < 0)
                return log_error_errno(fd, "Failed to listen on '%s' (%s): %m", address, option);

        r = getsockname(fd, (struct sockaddr*) &sa, &size);
        if (r >= 0)
                log_info("Listening on port %u for %s.", (unsigned) be16toh(((struct sockaddr_in*) &sa)->sin_port), option);
        r = http_server_new(event, pages, CONNECTION_USEC, &s);
        if (r < 0) {
                close_fd(fd);
                return log_error_errno(r, "Failed to make the HTTP server: %m");
        }
        r = listeners_add(http_server_listeners(s), fd);
        if (r < 0)
                return log_error_errno(r, "Failed to listen on '%s': %m", address);
        *ret = TAKE_PTR(s);
        return 0;
}

static int on_gather(sd_event_source *es, void *userdata) {
        _cleanup_(exposition_freep) Exposition *x = NULL;
        Endpoints *e = userdata;

        if (exposition_new(&x) < 0 || e->spec.gather(x, e->spec.userdata) < 0)
                x = exposition_free(x);
        http_server_gathered(e->metrics, x);
        return 0;
}

static void gather(void *userdata) {
        Endpoints *e = userdata;

        (void) sd_event_source_set_enabled(e->gather, SD_EVENT_ONESHOT);
}

static unsigned health_page(const char *path, const char **ret_text, void *userdata) {
        Endpoints *e = userdata;
        bool ready = streq(path, "/healthz") || e->spec.is_ready(e->spec.userdata);

        if (!streq(path, "/healthz") && !streq(path, "/readyz"))
                return 0;
        *ret_text = ready ? "ok" : "not ready: the API server is not reached, or cloud settings are not read";
        return ready ? 200 : 503;
}

int endpoints_new(sd_event *event, const EndpointsSpec *spec, Endpoints **ret) {
        _cleanup_(endpoints_freep) Endpoints *e = NULL;
        int r;

        e = new(Endpoints);
        if (!e)
                return log_oom();
        *e = (Endpoints) { .spec = *spec };
        r = sd_event_add_defer(event, &e->gather, on_gather, e);
        if (r >= 0)
                r = sd_event_source_set_enabled(e->gather, SD_EVENT_OFF);
        if (r < 0)
                return log_error_errno(r, "Failed to make an event source: %m");
        r = serve(event, spec->metrics, "--metrics-bind-address", &(HttpPages) { .gather = gather, .userdata = e }, &e->metrics);
        if (r >= 0)
                r = serve(event, spec->health, "--health-probe-bind-address", &(HttpPages) { .page = health_page, .userdata = e }, &e->health);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(e);
        return 0;
}

Endpoints* endpoints_free(Endpoints *e) {
        if (!e)
                return NULL;
        http_server_free(e->metrics);
        http_server_free(e->health);
        sd_event_source_disable_unref(e->gather);
        free(e);
        return NULL;
}
