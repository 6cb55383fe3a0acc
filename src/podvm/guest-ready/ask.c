/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/guest-ready/ask.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/paths.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "proto/health.pb-c.h"
#include "ttrpc/client.h"

/* guest-components: attestation-agent/attestation-agent/src/bin/ttrpc-aa.rs, confidential-data-hub/hub/src/config.rs,
 * api-server-rest/src/main.rs */
static const GuestService services[] = {
        { "kata-agent", PODVM_AGENT_SOCKET, .must_serve = true },
        { "attestation-agent", "/run/confidential-containers/attestation-agent/attestation-agent.sock" },
        { "confidential-data-hub", "/run/confidential-containers/cdh.sock" },
        { "api-server-rest", "127.0.0.1:8006", .is_http = true },
};

const GuestService* guest_service_find(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(services); i++)
                if (streq(services[i].name, name))
                        return services + i;
        return NULL;
}

static int ask_ttrpc(const GuestService *service, const char *path, uint64_t timeout_usec, char ret_why[static GUEST_WHY_SIZE]) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(ttrpc_result_done) TtrpcResult result = TTRPC_RESULT_NULL;
        Grpc__CheckRequest request = GRPC__CHECK_REQUEST__INIT;
        Grpc__HealthCheckResponse *response = NULL;
        int r;

        r = ttrpc_client_new_unix(NULL, path, &client);
        if (r < 0) {
                (void) snprintf(ret_why, GUEST_WHY_SIZE, "cannot connect: %s", strerror(-r));
                return r;
        }

        r = ttrpc_client_call_message_sync(client, "grpc.Health", "Check", &request.base, timeout_usec, NULL,
                                           &grpc__health_check_response__descriptor, (ProtobufCMessage**) &response, &result);
        if (r >= 0) {
                bool serving = response->status == GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;

                grpc__health_check_response__free_unpacked(response, NULL);
                if (serving || !service->must_serve)
                        return 0;
                (void) snprintf(ret_why, GUEST_WHY_SIZE, "it says that it does not serve");
                return -EPROTO;
        }
        if (r == -EREMOTEIO && !service->must_serve)
                return 0;
        (void) snprintf(ret_why, GUEST_WHY_SIZE, "%.100s", result.message ?: strerror(-r));
        return r == -EREMOTEIO ? -EPROTO : r;
}

static int connect_ip(const char *where) {
        struct sockaddr_in a = { .sin_family = AF_INET };
        _cleanup_(close_fdp) int fd = -EBADF;
        char address[INET_ADDRSTRLEN];
        const char *colon = strchr(where, ':');
        uint64_t port;

        if (!colon || (size_t) (colon - where) >= sizeof(address) || parse_u64(colon + 1, &port) < 0 || port > UINT16_MAX)
                return -EINVAL;
        (void) snprintf(address, sizeof(address), "%.*s", (int) (colon - where), where);
        if (inet_pton(AF_INET, address, &a.sin_addr) != 1)
                return -EINVAL;
        a.sin_port = htons((uint16_t) port);

        fd = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr*) &a, sizeof(a)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int ask_http(const char *where, uint64_t timeout_usec, char ret_why[static GUEST_WHY_SIZE]) {
        static const char request[] = "GET / HTTP/1.0\r\n\r\n", wanted[] = "HTTP/1.";
        char answer[sizeof(wanted) - 1];
        _cleanup_(close_fdp) int fd = -EBADF;
        struct pollfd p = { .events = POLLIN };
        ssize_t n = -1;
        int r;

        fd = connect_ip(where);
        if (fd < 0) {
                (void) snprintf(ret_why, GUEST_WHY_SIZE, "cannot connect: %s", strerror(-fd));
                return fd;
        }
        if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0) {
                r = -errno;
                (void) snprintf(ret_why, GUEST_WHY_SIZE, "cannot ask: %s", strerror(-r));
                return r;
        }

        p.fd = fd;
        r = poll(&p, 1, (int) (timeout_usec / USEC_PER_MSEC));
        if (r > 0)
                n = recv(fd, answer, sizeof(answer), MSG_WAITALL|MSG_DONTWAIT);
        if (r == 0) {
                (void) snprintf(ret_why, GUEST_WHY_SIZE, "it says nothing");
                return -ETIMEDOUT;
        }
        if (n != (ssize_t) sizeof(answer) || memcmp(answer, wanted, sizeof(answer)) != 0) {
                (void) snprintf(ret_why, GUEST_WHY_SIZE, "what it says is not HTTP");
                return -EPROTO;
        }
        return 0;
}

int guest_service_ask(const GuestService *service, const char *where, uint64_t timeout_usec, char ret_why[static GUEST_WHY_SIZE]) {
        return service->is_http ? ask_http(where, timeout_usec, ret_why) : ask_ttrpc(service, where, timeout_usec, ret_why);
}
