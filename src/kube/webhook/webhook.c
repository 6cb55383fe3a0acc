/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-webhook: rewrites pods that run in pod VMs, for the API server to see what they really take. */
#include "kube/webhook/webhook.h"

#include <systemd/sd-daemon.h>

#include "basic/daemon.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/messages.h"
#include "basic/options.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/webhook/server.h"
#include "kube/webhook/serving-cert.h"

#define RUNTIME_CLASS "kata-remote"
#define GPU_RESOURCE "nvidia.com/gpu"

static const Option options[] = {
        { "listen", NULL, OPTION_STRING, offsetof(WebhookSettings, listen), "",
          "Listen here instead of on the sockets of systemd", "ADDRESS:PORT" },
        { "cert-dir", NULL, OPTION_STRING, offsetof(WebhookSettings, certificate_dir), "/etc/peerpod/webhook",
          "Where tls.crt and tls.key are", "PATH" },
        { "target-runtimeclass", "TARGET_RUNTIMECLASS", OPTION_STRV, offsetof(WebhookSettings, runtime_classes), NULL,
          "RuntimeClasses whose pods are changed, patterns among them; " RUNTIME_CLASS, "NAME,…" },
        { "extended-resource", "POD_VM_EXTENDED_RESOURCE", OPTION_STRING, offsetof(WebhookSettings, vm_resource), "kata.peerpods.io/vm",
          "Resource that stands for one pod VM", "NAME" },
        { "gpu-resource", "POD_VM_GPU_RESOURCES", OPTION_STRV, offsetof(WebhookSettings, gpu_resources), NULL,
          "Resources that are GPUs of the pod VM, patterns among them; " GPU_RESOURCE, "NAME,…" },
        { "tls-min-version", "TLS_MIN_VERSION", OPTION_STRING, offsetof(WebhookSettings, min_version_name), "VersionTLS12",
          "VersionTLS12 or VersionTLS13", "VERSION" },
        { "tls-cipher-suites", "TLS_CIPHER_SUITES", OPTION_STRV, offsetof(WebhookSettings, cipher_suites), NULL,
          "Cipher suites of TLS 1.2, by their IANA names", "NAME,…" },
        { "request-time", NULL, OPTION_DURATION, offsetof(WebhookSettings, request_usec), "10s",
          "End a connection whose handshake, headers or body take longer", "TIME" },
        { "idle-time", NULL, OPTION_DURATION, offsetof(WebhookSettings, idle_usec), "90s",
          "End a connection without a request for so long", "TIME" },
        {}
};

static const Program program = {
        .name = "peerpod-webhook",
        .usage = "[OPTIONS…]",
        .description = "Rewrites pods that run in pod VMs, when the API server asks.",
        .options = options,
        .man = "peerpod-webhook(8)",
};

static void settings_done(WebhookSettings *s) {
        options_done(options, s);
}

/* A list's default in the table would be added to what is set. */
static int set_defaults(WebhookSettings *s) {
        int r = 0;

        if (!s->runtime_classes)
                r = strv_extend(&s->runtime_classes, RUNTIME_CLASS);
        if (r >= 0 && !s->gpu_resources)
                r = strv_extend(&s->gpu_resources, GPU_RESOURCE);
        return r;
}

/* An extended resource has a domain (kubernetes/kubernetes: pkg/apis/core/helper, IsExtendedResourceName). */
static int check_settings(WebhookSettings *s) {
        _cleanup_(freep) char *problem = NULL;

        if (!strchr(s->vm_resource, '/'))
                return log_error_errno(EINVAL, "POD_VM_EXTENDED_RESOURCE='%s' is no extended resource: these have a domain, as in "
                                       "kata.peerpods.io/vm.", s->vm_resource);
        s->min_version = tls_version_from_string(s->min_version_name);
        if (s->min_version < 0)
                return log_error_errno(EINVAL, "TLS_MIN_VERSION='%s' is neither VersionTLS12 nor VersionTLS13; older ones are not supported.",
                                       s->min_version_name);
        if (tls_profile_check(s->min_version, s->cipher_suites, &problem) < 0)
                return log_error_errno(EINVAL, "TLS_CIPHER_SUITES: %s.", problem ?: "out of memory");
        return 0;
}

static int on_certificate(const CertPair *pair, void *userdata) {
        int r = server_set_certificate(userdata, pair);

        if (r >= 0)
                log_notice("New connections get the new certificate.");
        return r;
}

static int load_certificate(ServingCert *cert, Server *server) {
        _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL;
        int r;

        r = serving_cert_load(cert, &pair);
        if (r < 0)
                return r;
        r = server_set_certificate(server, &pair);
        return r < 0 ? log_error_errno(r, "Failed to serve with the certificate: %m") : 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) WebhookSettings settings = {};
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(server_freep) Server *server = NULL;
        _cleanup_(serving_cert_freep) ServingCert *cert = NULL;
        int r, status;

        r = options_load(&program, argc, argv, &settings, /* ret_rest= */ NULL, &status);
        if (r != 0)
                return r < 0 ? r : status;
        if (check_settings(&settings) < 0)
                return EXIT_CONFIGURATION;
        if (set_defaults(&settings) < 0)
                return log_oom();

        r = daemon_event_new(&event);
        if (r < 0)
                return log_error_errno(r, "Failed to make the event loop: %m");
        r = server_new(event, &settings, &server);
        if (r < 0)
                return log_error_errno(r, "Failed to make the HTTPS server: %m");
        r = serving_cert_new(event, settings.certificate_dir, on_certificate, server, &cert);
        if (r < 0)
                return log_error_errno(r, "Failed to watch '%s': %m", settings.certificate_dir);
        if (load_certificate(cert, server) < 0)
                return EXIT_CONFIGURATION;
        if (isempty(settings.listen))
                r = listeners_add_passed(server_listeners(server));
        else {
                int fd = daemon_listen_tcp(settings.listen);

                r = fd < 0 ? fd : listeners_add(server_listeners(server), fd);
                if (r < 0)
                        log_error_errno(r, "Failed to listen on '%s': %m", settings.listen);
        }
        if (r < 0)
                return r;

        (void) sd_notify(/* unset_environment= */ false, "READY=1");
        return daemon_loop(event);
}

DEFINE_SOCKET_SERVICE_MAIN_FUNCTION(run);
