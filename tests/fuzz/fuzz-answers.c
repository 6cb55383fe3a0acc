/* SPDX-License-Identifier: Apache-2.0 */
/* A cloud's answers, each of them: the module is the real one, linked with this, but its HTTP client (fuzz_wraps in meson.build) reads its
 * answers from the input. The first line of it says which call they are for, "create", "remove", "find", or else "verify"; each further line
 * is one answer, "STATUS BODY". When there are no more, the cloud has gone. Time is ours, so that nobody waits: what a call waits for is
 * over at once. */
#include <poll.h>
#include <time.h>

#include "basic/util.h"
#include "cloud-http.h"

#define SUBSCRIPTION "00000000-1111-2222-3333-444444444444"
#define GROUP "/subscriptions/" SUBSCRIPTION "/resourceGroups/pods_(test).1/providers/"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

extern const PeerpodProvider peerpod_provider;

int __wrap_cloud_http_new(const CloudHttpConfig *config, CloudHttp **ret, PeerpodError *error);
CloudHttp* __wrap_cloud_http_free(CloudHttp *h);
int __wrap_cloud_http_perform(CloudHttp *h, const PeerpodCall *call, HttpRequest *request, HttpReply *ret, bool *ret_sent, PeerpodError *error);
int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);

/* Of each answer. */
static const char headers[] = "Azure-AsyncOperation: https://management.azure.com/operations/1?api-version=2024-11-01\r\nRetry-After: 0\r\n"
                              "Metadata-Flavor: Google\r\n";

static struct {
        const char *p, *end;
        time_t offset;                  /* seconds that have not been waited for */
} script;

static void begin(const uint8_t *data, size_t size) {
        script.p = (const char*) data;
        script.end = script.p + size;
        script.offset = 0;
}

/* Only of this clock, which no fuzzer looks at. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts) {
        int r = __real_clock_gettime(clock, ts);

        if (clock == CLOCK_MONOTONIC)
                ts->tv_sec += script.offset;
        return r;
}

int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask) {
        for (nfds_t i = 0; i < n; i++)
                fds[i].revents = 0;
        script.offset += timeout->tv_sec + 1;
        return 0;
}

int __wrap_cloud_http_new(const CloudHttpConfig *config, CloudHttp **ret, PeerpodError *error) {
        *ret = NULL;
        return 0;
}

CloudHttp* __wrap_cloud_http_free(CloudHttp *h) {
        return NULL;
}

/* False: there is no more */
static bool next_line(const char **ret, size_t *ret_size) {
        const char *newline;

        if (script.p >= script.end)
                return false;
        newline = memchr(script.p, '\n', script.end - script.p);
        *ret = script.p;
        *ret_size = (newline ?: script.end) - script.p;
        script.p = newline ? newline + 1 : script.end;
        return true;
}

static int read_status(const char *line, size_t size) {
        int status = 0;

        if (size < 4 || line[3] != ' ')
                return -1;
        for (size_t i = 0; i < 3; i++) {
                if (line[i] < '0' || line[i] > '9')
                        return -1;
                status = status * 10 + line[i] - '0';
        }
        return status >= 200 && status < 600 ? status : -1;
}

int __wrap_cloud_http_perform(CloudHttp *h, const PeerpodCall *call, HttpRequest *request, HttpReply *ret, bool *ret_sent, PeerpodError *error) {
        HttpReply reply = {};
        const char *line;
        size_t size;
        int r;

        assert(!isempty(request->method) && !isempty(request->url) && !isempty(request->what));
        assert(!strpbrk(request->url, " \r\n"));
        for (size_t i = 0; i < request->n_headers; i++)
                assert(!strpbrk(request->headers[i], "\r\n"));

        if (request->api && request->api->authorize) {
                r = request->api->authorize(request->api->userdata, call, request, /* fresh= */ false, error);
                if (r < 0) {
                        assert(error->kind != PEERPOD_E_NONE && *error->text);
                        return r;
                }
        }
        if (ret_sent)
                *ret_sent = true;
        if (!next_line(&line, &size) || (reply.status = read_status(line, size)) < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: nobody answers.", request->what);

        reply.size = size - 4;
        reply.body = malloc(reply.size + 1);
        reply.headers = strdup(headers);
        assert(reply.body && reply.headers);
        memcpy(reply.body, line + 4, reply.size);
        reply.body[reply.size] = '\0';
        if (request->api && request->api->judge)
                assert(request->api->judge(request->api->userdata, &reply) <= HTTP_UNAUTHORIZED);
        *ret = reply;
        return 0;
}

/* What a module promises of each call. */
static void check_outcome(int r, const PeerpodError *error) {
        assert(r <= 0);
        if (r == 0)
                return;
        assert(error->kind != PEERPOD_E_NONE && *error->text && strlen(error->text) < sizeof(error->text));
        assert(r == peerpod_error_to_errno(error->kind));
}

/* ---- settings: what each module cannot be without, by their variables ---- */

static const char *const settings[][2] = {
        { "AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE" }, { "AWS_SECRET_ACCESS_KEY", "secret" }, { "AWS_REGION", "us-east-1" }, { "AWS_SG_IDS", "sg-12345678" },
        { "PODVM_AMI_ID", "ami-12345678" }, { "AWS_SUBNET_ID", "subnet-12345678" },
        { "AZURE_CLIENT_ID", "c" }, { "AZURE_CLIENT_SECRET", "s" }, { "AZURE_TENANT_ID", "t" }, { "AZURE_SUBSCRIPTION_ID", SUBSCRIPTION }, { "AZURE_REGION", "westeurope" },
        { "AZURE_RESOURCE_GROUP", "pods_(test).1" }, { "AZURE_NSG_ID", GROUP "Microsoft.Network/networkSecurityGroups/worker" },
        { "AZURE_SUBNET_ID", GROUP "Microsoft.Network/virtualNetworks/net/subnets/pods" }, { "AZURE_IMAGE_ID", GROUP "Microsoft.Compute/galleries/pods/images/podvm/versions/1.0.0" },
        { "GCP_PROJECT_ID", "p" }, { "GCP_ZONE", "europe-west4-a" }, { "GCP_NETWORK", "global/networks/pods" }, { "PODVM_IMAGE_NAME", "podvm" },
        { "GCP_MACHINE_TYPE", "n2d-standard-2" }, { "GCE_METADATA_HOST", "127.0.0.1:1" },
        { "IBMCLOUD_API_KEY", "key" }, { "IBMCLOUD_ZONE", "us-south-2" }, { "IBMCLOUD_VPC_SUBNET_ID", "0727-subnet" }, { "IBMCLOUD_VPC_ID", "r006-vpc" },
        { "IBMCLOUD_VPC_ENDPOINT", "http://127.0.0.1:1/v1" }, { "IBMCLOUD_PODVM_INSTANCE_PROFILE_NAME", "bx2-2x8" },
        { "IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST", "bx2-2x8,bx2-4x16" }, { "IBMCLOUD_PODVM_IMAGE_ID", "r006-img" }, { "IBMCLOUD_SECURITY_GROUP_IDS", "r006-sg1" },
        { "IBMCLOUD_SSH_KEY_ID", "r006-key" }, { "POWERVS_ZONE", "dal12" }, { "POWERVS_SERVICE_INSTANCE_ID", "7845d372-d4e1-46b8-91fc-41051c984601" },
        { "POWERVS_NETWORK_ID", "net-1" }, { "POWERVS_IMAGE_ID", "img-1" }, { "POWERVS_SSH_KEY_NAME", "key" },
        { "ALIBABACLOUD_ACCESS_KEY_ID", "testid" }, { "ALIBABACLOUD_ACCESS_KEY_SECRET", "testsecret" }, { "IMAGEID", "m-podvm" }, { "VSWITCH_ID", "vsw-1" },
        { "SECURITY_GROUP_IDS", "sg-1" }, { "REGION", "cn-beijing" },
        { "DISABLECVM", "true" }, { "USE_PUBLIC_IP", "true" },
};

static const char* setting_of(const PeerpodOption *o) {
        for (size_t i = 0; i < ELEMENTSOF(settings); i++)
                if (streq_ptr(o->env, settings[i][0]))
                        return settings[i][1];
        return o->default_value;
}

static void* open_module(void) {
        const char *values[128];
        const PeerpodConfig config = { .size = sizeof(config), .n_values = peerpod_provider.n_options, .values = values, .state_directory = "/nonexistent" };
        const PeerpodCall call = { .size = sizeof(call), .cancel_fd = -1, .deadline_usec = UINT64_MAX };
        PeerpodError error = { .size = sizeof(error) };
        void *provider = NULL;

        assert(peerpod_provider.n_options <= ELEMENTSOF(values));
        for (uint32_t i = 0; i < peerpod_provider.n_options; i++)
                values[i] = setting_of(peerpod_provider.options + i);
        if (peerpod_provider.open(&config, &call, &provider, &error) < 0) {
                fprintf(stderr, "%s\n", error.text);
                abort();
        }
        return provider;
}

/* ---- calls ---- */

static int on_found(void *userdata, const PeerpodFoundInstance *found) {
        assert(found->name && found->sandbox_id && found->id);
        return 0;
}

static void try_create(void *provider, const PeerpodCall *call) {
        static const char user_data[] = "#cloud-config\nwrite_files: []\n";
        const PeerpodInstanceSpec spec = { .size = sizeof(spec), .name = "podvm-a", .sandbox_id = "sandbox-a", .node = "node1", .machine_type = "", .image = "",
                                           .pod_name = "web", .pod_namespace = "default", .user_data = user_data, .user_data_size = sizeof(user_data) - 1,
                                           .gpu_model = "", .vcpus = 2, .memory_mib = 2048 };
        PeerpodInstance instance = { .size = sizeof(instance) };
        PeerpodError error = { .size = sizeof(error) };
        int r = peerpod_provider.create(provider, call, &spec, &instance, &error);

        check_outcome(r, &error);
        if (r < 0)
                return;
        assert(*instance.id && strnlen(instance.id, sizeof(instance.id)) < sizeof(instance.id));
        assert(instance.n_addresses > 0 && instance.n_addresses <= PEERPOD_ADDRESSES_MAX);
        for (uint32_t i = 0; i < instance.n_addresses; i++)
                assert(*instance.addresses[i] && strnlen(instance.addresses[i], PEERPOD_ADDRESS_SIZE) < PEERPOD_ADDRESS_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const PeerpodInstanceKey key = { .size = sizeof(key), .name = "podvm-a", .sandbox_id = "sandbox-a", .id = "" };
        PeerpodError error = { .size = sizeof(error) };
        PeerpodCall call = { .size = sizeof(call), .cancel_fd = -1 };
        const char *line = "";
        void *provider;

        (void) setenv("HOME", "/nonexistent", 1);
        begin(data, size);
        provider = open_module();
        call.deadline_usec = peerpod_now_usec() + 600 * USEC_PER_SEC;
        (void) next_line(&line, &size);
        switch (size > 0 ? *line : 0) {
        case 'c':
                try_create(provider, &call);
                break;
        case 'r':
                check_outcome(peerpod_provider.remove(provider, &call, &key, &error), &error);
                break;
        case 'f':
                check_outcome(peerpod_provider.find(provider, &call, "node1", on_found, NULL, &error), &error);
                break;
        default:
                check_outcome(peerpod_provider.verify(provider, &call, &error), &error);
                break;
        }
        peerpod_provider.close(provider);
        return 0;
}
