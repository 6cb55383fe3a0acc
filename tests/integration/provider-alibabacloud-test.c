/* SPDX-License-Identifier: Apache-2.0 */
/* The alibabacloud module in peerpod-providerd, against a cloud of ours that checks each request by the vendor's own classes and each
 * signature by the vendor's own code (alibabacloud-peer.js). */
#include <json-c/json.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "basic/json.h"
#include "provider-client.h"

/* More than an undo that meets the fault, where the create was too slow for it, waits for one answer: a minute. */
#define TIMEOUT (240 * USEC_PER_SEC)
#define NAME "podvm-web-sandbox1"
#define SANDBOX "sandbox1"
#define USER_DATA "#cloud-config\nwrite_files: []\n"

static const char *self, *program, *module_file, *node_program, *peer_script, *only_kind;

/* One for all cases, emptied before each. */
static struct {
        pid_t pid;
        int in;                         /* it ends when this is closed */
        uint16_t port;
} peer = { .in = -EBADF };

typedef struct Fixture {
        char directory[32], state[64], modules[256];
        Daemon daemon;
        sd_bus *bus;
} Fixture;

/* ---- the peer ---- */

static int peer_start(void **state) {
        int in[2], out[2];
        unsigned port = 0;
        FILE *file;

        assert_int_equal(pipe2(in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        peer.pid = fork();
        assert_true(peer.pid >= 0);
        if (peer.pid == 0) {
                (void) dup2(in[0], STDIN_FILENO);
                (void) dup2(out[1], STDOUT_FILENO);
                (void) execl(node_program, node_program, peer_script, (char*) NULL);
                _exit(127);
        }
        (void) close(in[0]);
        (void) close(out[1]);
        peer.in = in[1];
        file = fdopen(out[0], "r");
        assert_non_null(file);
        assert_int_equal(fscanf(file, "%u", &port), 1);
        (void) fclose(file);
        peer.port = port;
        return 0;
}

static int peer_end(void **state) {
        peer.in = close_fd(peer.in);
        (void) waitpid(peer.pid, NULL, 0);
        return 0;
}

/* POST @body to the peer's own interface; the answer is an object. */
static json_object* ask(const Fixture *f, const char *path, const char *body) {
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(peer.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        _cleanup_(close_fdp) int fd = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);
        _cleanup_(freep) char *text = NULL, *request = NULL;
        json_object *o = NULL;
        const char *start;
        size_t size;

        assert_int_equal(connect(fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        assert_true(asprintf(&request, "POST %s HTTP/1.1\r\nHost: peer\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", path, strlen(body), body) > 0);
        assert_int_equal(write_full(fd, request, strlen(request)), 0);
        assert_int_equal(read_full_fd(fd, 64 << 20, &text, &size), 0);
        start = strstr(text, "\r\n\r\n");
        assert_non_null(start);
        assert_int_equal(json_parse(start + 4, size - (start + 4 - text), &o, NULL), 0);
        return o;
}

static void tell(const Fixture *f, const char *path, const char *format, ...) PRINTF(3, 4);
static void tell(const Fixture *f, const char *path, const char *format, ...) {
        _cleanup_(freep) char *body = NULL;
        va_list ap;

        va_start(ap, format);
        assert_true(vasprintf(&body, format, ap) >= 0);
        va_end(ap);
        json_object_put(ask(f, path, body));
}

static json_object* state_of(const Fixture *f) {
        return ask(f, "/_state", "");
}

static size_t length_of(json_object *o, const char *key) {
        json_object *list = NULL;

        assert_int_equal(json_get_array(o, key, &list, NULL), 1);
        return json_object_array_length(list);
}

static size_t count(const Fixture *f, const char *key) {
        json_object *o = state_of(f);
        size_t n = length_of(o, key);

        json_object_put(o);
        return n;
}

static size_t count_calls(const Fixture *f, const char *action) {
        json_object *o = state_of(f), *calls = NULL;
        size_t n = 0;

        assert_int_equal(json_get_array(o, "calls", &calls, NULL), 1);
        for (size_t i = 0; i < json_object_array_length(calls); i++)
                n += streq(json_object_get_string(json_object_array_get_idx(calls, i)), action);
        json_object_put(o);
        return n;
}

static void assert_no_violation(const Fixture *f) {
        json_object *o = state_of(f), *list = NULL;

        assert_int_equal(json_get_array(o, "violations", &list, NULL), 1);
        for (size_t i = 0; i < json_object_array_length(list); i++)
                print_message("violation: %s\n", json_object_get_string(json_object_array_get_idx(list, i)));
        assert_int_equal(json_object_array_length(list), 0);
        json_object_put(o);
}

static void assert_nothing_left(const Fixture *f) {
        json_object *o = state_of(f);

        if (length_of(o, "instances") + length_of(o, "eips") > 0)
                print_message("%s\n", json_object_to_json_string(o));
        assert_int_equal(length_of(o, "instances"), 0);
        assert_int_equal(length_of(o, "eips"), 0);
        json_object_put(o);
        assert_no_violation(f);
}

/* A string of the only instance's, by path: "request/ImageId" */
static void assert_instance(const Fixture *f, const char *object, const char *key, const char *expected) {
        json_object *o = state_of(f), *list = NULL, *i, *v = NULL;

        assert_int_equal(json_get_array(o, "instances", &list, NULL), 1);
        assert_int_equal(json_object_array_length(list), 1);
        i = json_object_array_get_idx(list, 0);
        if (object)
                assert_true(json_object_object_get_ex(i, object, &i));
        (void) json_object_object_get_ex(i, key, &v);
        if (!expected)
                assert_null(v);
        else {
                assert_non_null(v);
                assert_string_equal(json_object_get_string(v), expected);
        }
        json_object_put(o);
}

#define WAIT_UNTIL(condition)                                                                   \
        do {                                                                                    \
                uint64_t _end = now_usec(CLOCK_MONOTONIC) + TIMEOUT;                            \
                while (!(condition)) {                                                          \
                        assert_true(now_usec(CLOCK_MONOTONIC) < _end);                          \
                        (void) poll(NULL, 0, 5);                                                \
                }                                                                               \
        } while (0)

static bool is_held(const Fixture *f) {
        json_object *o = state_of(f);
        uint64_t n = 0;

        (void) json_get_u64(o, "held", 1000, &n, NULL);
        json_object_put(o);
        return n > 0;
}

/* ---- the daemon ---- */

static void set_endpoint(const char *variable, uint16_t port) {
        char url[64];

        (void) snprintf(url, sizeof(url), "http://127.0.0.1:%u", port);
        assert_int_equal(setenv(variable, url, 1), 0);
}

static void set_environment(const Fixture *f) {
        static const char *const unset[] = {
                "ALIBABACLOUD_SECURITY_TOKEN", "PODVM_INSTANCE_TYPE", "INSTANCE_TYPE", "PODVM_INSTANCE_TYPES", "USE_PUBLIC_IP", "TAGS", "KEYNAME",
                "ALIBABA_CLOUD_ROLE_ARN", "ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "ALIBABA_CLOUD_OIDC_TOKEN_FILE", "SYSTEM_DISK_SIZE", "DISABLECVM",
                "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
        };

        for (size_t i = 0; i < ELEMENTSOF(unset); i++)
                (void) unsetenv(unset[i]);
        set_endpoint("ALIBABACLOUD_ECS_ENDPOINT", peer.port);
        set_endpoint("ALIBABACLOUD_VPC_ENDPOINT", peer.port);
        set_endpoint("ALIBABACLOUD_STS_ENDPOINT", peer.port);
        set_endpoint("ALIBABACLOUD_METADATA_ENDPOINT", peer.port);
        (void) setenv("CLOUD_PROVIDER", "alibabacloud", 1);
        (void) setenv("ALIBABACLOUD_ACCESS_KEY_ID", "testid", 1);
        (void) setenv("ALIBABACLOUD_ACCESS_KEY_SECRET", "testsecret", 1);
        (void) setenv("IMAGEID", "m-podvm", 1);
        (void) setenv("VSWITCH_ID", "vsw-1", 1);
        (void) setenv("SECURITY_GROUP_IDS", "sg-1, sg-2", 1);
}

static void start(Fixture *f, const char *const *more) {
        const char *args[24] = { "--module-directory", f->modules, "--state-directory", f->state };
        int status = 0;

        for (size_t n = 4; more && *more; more++)
                args[n++] = *more;
        daemon_start(&f->daemon, program, f->directory, args, &status);
        assert_int_not_equal(f->daemon.pid, 0);
        f->bus = daemon_connect(&f->daemon);
}

static void stop(Fixture *f, int sig) {
        if (f->bus)
                f->bus = sd_bus_flush_close_unref(f->bus);
        (void) daemon_end(&f->daemon, sig);
}

static int set_up(void **state) {
        Fixture *f = calloc(1, sizeof(Fixture));

        strcpy(f->directory, "/tmp/ppali-XXXXXX");
        assert_non_null(mkdtemp(f->directory));
        (void) snprintf(f->state, sizeof(f->state), "%s/s", f->directory);
        (void) snprintf(f->modules, sizeof(f->modules), "%.*s", (int) (strrchr(module_file, '/') - module_file), module_file);
        tell(f, "/_reset", "{}");
        set_environment(f);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        Fixture *f = *state;

        stop(f, SIGKILL);
        (void) remove_tree(f->directory);
        free(f);
        return 0;
}

typedef struct Pod {
        const char *sandbox, *name, *type, *image, *user_data, *volumes[4];
        uint32_t vcpus, gpus;
        uint64_t memory_mib;
        bool multi_nic;
} Pod;

static sd_bus_message* pod_call(sd_bus *bus, const Pod *p) {
        const char *data = p->user_data ?: USER_DATA;
        _cleanup_(close_fdp) int fd = memfd_new_sealed("user-data", data, strlen(data));
        sd_bus_message *m = new_call(bus, "CreateInstance");

        assert_true(sd_bus_message_append(m, "sss", p->sandbox ?: SANDBOX, p->name ?: NAME, "node1") >= 0);
        assert_true(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
        if (p->type)
                (void) sd_bus_message_append(m, "{sv}", "machine-type", "s", p->type);
        if (p->image)
                (void) sd_bus_message_append(m, "{sv}", "image", "s", p->image);
        if (p->vcpus)
                (void) sd_bus_message_append(m, "{sv}", "vcpus", "u", p->vcpus);
        if (p->gpus)
                (void) sd_bus_message_append(m, "{sv}", "gpus", "u", p->gpus);
        if (p->memory_mib)
                (void) sd_bus_message_append(m, "{sv}", "memory-mib", "t", p->memory_mib);
        if (p->multi_nic)
                (void) sd_bus_message_append(m, "{sv}", "multi-nic", "b", 1);
        if (p->volumes[0]) {
                (void) sd_bus_message_open_container(m, 'e', "sv");
                (void) sd_bus_message_append(m, "s", "volumes");
                (void) sd_bus_message_open_container(m, 'v', "as");
                (void) sd_bus_message_append_strv(m, (char**) p->volumes);
                (void) sd_bus_message_close_container(m);
                (void) sd_bus_message_close_container(m);
        }
        assert_true(sd_bus_message_close_container(m) >= 0);
        assert_true(sd_bus_message_append(m, "h", fd) >= 0);
        return m;
}

/* The error's name, or "none" and the fields: addresses joined by blanks. */
static const char* create(Fixture *f, const Pod *p, char *ret_id, char *ret_addresses) {
        static char name[64];
        sd_bus_message *reply = NULL;
        const char *id, *type, *address;

        send_async(f->bus, pod_call(f->bus, p), TIMEOUT, &reply);
        process_until(f->bus, TIMEOUT, &reply);
        (void) snprintf(name, sizeof(name), "%s", error_of(reply));
        if (streq(name, "none")) {
                assert_true(sd_bus_message_read(reply, "ss", &id, &type) > 0);
                if (ret_id)
                        strcpy(ret_id, id);
                if (ret_addresses)
                        *ret_addresses = '\0';
                assert_true(sd_bus_message_enter_container(reply, 'a', "s") > 0);
                while (sd_bus_message_read(reply, "s", &address) > 0)
                        if (ret_addresses)
                                (void) sprintf(ret_addresses + strlen(ret_addresses), "%s%s", *ret_addresses ? " " : "", address);
        }
        sd_bus_message_unref(reply);
        return name;
}

static const char* delete(Fixture *f, const char *sandbox, const char *name, const char *id) {
        static char error[64];
        sd_bus_message *reply = NULL;

        send_async(f->bus, delete_call(f->bus, sandbox, name, id), TIMEOUT, &reply);
        process_until(f->bus, TIMEOUT, &reply);
        (void) snprintf(error, sizeof(error), "%s", error_of(reply));
        sd_bus_message_unref(reply);
        return error;
}

static const Pod plain = {};

/* ---- life ---- */

static void created_found_and_removed(void **state) {
        const char *sandbox, *name, *id;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Fixture *f = *state;
        char made[64], again[64], addresses[256];

        start(f, NULL);
        assert_string_equal(create(f, &plain, made, addresses), "none");
        assert_string_equal(addresses, "10.1.0.1");
        assert_instance(f, NULL, "userData", USER_DATA);

        assert_int_equal(count_instances(f->bus, "node1", &sandbox, &name, &id, &reply), 1);
        assert_string_equal(sandbox, SANDBOX);
        assert_string_equal(name, NAME);
        assert_string_equal(id, made);
        assert_int_equal(count_instances(f->bus, "node2", NULL, NULL, NULL, NULL), 0);

        assert_string_equal(create(f, &plain, again, NULL), "none");            /* what is there is taken */
        assert_string_equal(again, made);

        assert_string_equal(delete(f, SANDBOX, NAME, made), "none");
        assert_nothing_left(f);
        assert_string_equal(delete(f, SANDBOX, NAME, made), "none");            /* gone is success */
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
}

static void request_is_as_configured(void **state) {
        static const struct { const char *key, *value; } expected[] = {
                { "RegionId", "cn-beijing" }, { "Amount", "1" }, { "MinAmount", "1" }, { "InstanceChargeType", "PostPaid" }, { "ImageId", "m-podvm" },
                { "InstanceType", "ecs.g8i.xlarge" }, { "InstanceName", NAME }, { "KeyPairName", "a key" }, { "VSwitchId", "vsw-1" },
                { "SecurityGroupIds.1", "sg-1" }, { "SecurityGroupIds.2", "sg-2" }, { "SystemDisk.Size", "77" }, { "SystemDisk.Category", "cloud_essd" },
                { "SecurityOptions.ConfidentialComputingMode", "TDX" }, { "InternetChargeType", "PayByTraffic" }, { "InternetMaxBandwidthOut", "100" },
                { "HttpTokens", "required" }, { "Tag.1.Key", "peerpod-node" }, { "Tag.1.Value", "node1" }, { "Tag.2.Key", "peerpod-sandbox" },
                { "Tag.2.Value", SANDBOX }, { "Tag.3.Key", "team" }, { "Tag.3.Value", "a b+c*~ä" }, { "Tag.4.Key", "empty" },
                { "NetworkInterface.1.InstanceType", "Secondary" }, { "NetworkInterface.1.DeleteOnRelease", "true" },
                { "NetworkInterface.1.SecurityGroupIds.2", "sg-2" }, { "ResourceGroupId", "rg-1" },
        };
        Fixture *f = *state;

        (void) setenv("KEYNAME", "a key", 1);
        (void) setenv("USE_PUBLIC_IP", "true", 1);
        (void) setenv("SYSTEM_DISK_SIZE", "77", 1);
        (void) setenv("TAGS", "team = a b+c*~ä, empty=", 1);
        start(f, (const char *const[]) { "--http-tokens", "required", "--resource-group-id", "rg-1", NULL });
        assert_string_equal(create(f, &(Pod) { .multi_nic = true }, NULL, NULL), "none");
        for (size_t i = 0; i < ELEMENTSOF(expected); i++)
                assert_instance(f, "request", expected[i].key, expected[i].value);
        assert_instance(f, "request", "DryRun", NULL);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
}

static void plain_request_has_no_more_than_asked(void **state) {
        static const char *const absent[] = {
                "KeyPairName", "InternetMaxBandwidthOut", "SecurityOptions.ConfidentialComputingMode", "SystemDisk.Size", "NetworkInterface.1.InstanceType",
        };
        Fixture *f = *state;

        start(f, (const char *const[]) { "--disable-cvm=true", "--system-disk-size", "0", NULL });
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        for (size_t i = 0; i < ELEMENTSOF(absent); i++)
                assert_instance(f, "request", absent[i], NULL);
        assert_instance(f, "request", "HttpTokens", "optional");
        assert_no_violation(f);
}

static void image_of_a_pod_is_for_that_pod_only(void **state) {
        Fixture *f = *state;

        start(f, NULL);
        assert_string_equal(create(f, &(Pod) { .image = "m-other" }, NULL, NULL), "none");
        assert_instance(f, NULL, "image", "m-other");
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_string_equal(create(f, &(Pod) { .name = "podvm-b-sandbox2", .sandbox = "sandbox2" }, NULL, NULL), "none");
        assert_instance(f, NULL, "image", "m-podvm");
        assert_string_equal(create(f, &(Pod) { .name = "podvm-c", .sandbox = "c", .image = "m-missing" }, NULL, NULL), "FailedPrecondition");
        assert_string_equal(create(f, &(Pod) { .name = "podvm-d", .sandbox = "d", .image = "a/b" }, NULL, NULL), "InvalidArgument");
        assert_string_equal(delete(f, "sandbox2", "podvm-b-sandbox2", ""), "none");
        assert_nothing_left(f);
}

static void instances_of_others_are_left_alone(void **state) {
        Fixture *f = *state;
        json_object *o;
        char id[64];

        start(f, NULL);
        o = ask(f, "/_instance", "{\"name\":\"" NAME "\",\"tags\":{\"peerpod-sandbox\":\"other\",\"peerpod-node\":\"node1\"}}");
        strcpy(id, json_object_get_string(json_object_object_get(o, "id")));
        json_object_put(o);
        assert_string_equal(create(f, &plain, NULL, NULL), "AlreadyExists");
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "FailedPrecondition");
        assert_string_equal(delete(f, SANDBOX, NAME, id), "FailedPrecondition");
        assert_int_equal(count(f, "instances"), 1);
        assert_int_equal(count_calls(f, "RunInstances") + count_calls(f, "DeleteInstance"), 0);
        assert_no_violation(f);
}

/* A service that was killed while the cloud made the instance finds it, and not a second one. */
static void create_that_was_cut_off_is_taken_up(void **state) {
        sd_bus_message *reply = NULL;
        Fixture *f = *state;

        start(f, NULL);
        tell(f, "/_fault", "{\"action\":\"RunInstances\",\"kind\":\"hold-after\"}");
        send_async(f->bus, pod_call(f->bus, &plain), TIMEOUT, &reply);
        WAIT_UNTIL(is_held(f));
        stop(f, SIGKILL);
        assert_int_equal(count(f, "instances"), 1);

        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_int_equal(count(f, "instances"), 1);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
}

/* The list does not show it yet: the token alone keeps it from being made twice. */
static void token_finds_what_the_list_does_not(void **state) {
        sd_bus_message *reply = NULL;
        Fixture *f = *state;

        tell(f, "/_set", "{\"visibleMs\":1500}");
        start(f, NULL);
        tell(f, "/_fault", "{\"action\":\"RunInstances\",\"kind\":\"hold-after\"}");
        send_async(f->bus, pod_call(f->bus, &plain), TIMEOUT, &reply);
        WAIT_UNTIL(is_held(f));
        stop(f, SIGKILL);
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_int_equal(count(f, "instances"), 1);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
}

/* The cloud remembers the token of an instance that is gone. */
static void name_can_be_used_again(void **state) {
        char first[64], second[64];
        Fixture *f = *state;

        start(f, NULL);
        assert_string_equal(create(f, &plain, first, NULL), "none");
        assert_string_equal(delete(f, SANDBOX, NAME, first), "none");
        assert_string_equal(create(f, &plain, second, NULL), "none");
        assert_string_not_equal(first, second);
        assert_string_equal(delete(f, SANDBOX, NAME, second), "none");
        assert_string_equal(create(f, &(Pod) { .user_data = "#cloud-config\n" }, second, NULL), "none");        /* mismatches both tokens */
        assert_instance(f, NULL, "userData", "#cloud-config\n");
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
}

static void stopped_instance_is_made_anew(void **state) {
        char first[64], second[64];
        Fixture *f = *state;

        start(f, NULL);
        assert_string_equal(create(f, &plain, first, NULL), "none");
        tell(f, "/_stop", "{}");
        assert_string_equal(create(f, &(Pod) { .user_data = "#cloud-config\n" }, second, NULL), "none");
        assert_string_not_equal(first, second);
        assert_int_equal(count(f, "instances"), 1);
        assert_string_equal(delete(f, SANDBOX, NAME, second), "none");
        assert_nothing_left(f);
}

static void instance_that_does_not_start_is_removed(void **state) {
        Fixture *f = *state;

        tell(f, "/_set", "{\"failToStart\":true,\"startMs\":1000,\"addressMs\":100000}");
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "FailedPrecondition");
        assert_nothing_left(f);
}

static void early_delete_waits_for_the_boot(void **state) {
        Fixture *f = *state;

        tell(f, "/_set", "{\"initializingMs\":1500,\"goneMs\":400}");
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
        assert_true(count_calls(f, "DeleteInstance") > 1);
}

static void all_pages_are_read(void **state) {
        Fixture *f = *state;

        tell(f, "/_set", "{\"pageSize\":2}");
        start(f, NULL);
        for (unsigned i = 0; i < 5; i++)
                tell(f, "/_instance", "{\"name\":\"podvm-%u\",\"tags\":{\"peerpod-sandbox\":\"s%u\",\"peerpod-node\":\"node1\"}}", i, i);
        for (unsigned i = 3; i < 8; i++)                /* of which two have an instance */
                tell(f, "/_eip", "{\"tags\":{\"peerpod-sandbox\":\"s%u\",\"peerpod-node\":\"node1\",\"peerpod-name\":\"podvm-%u\"}}", i, i);
        tell(f, "/_instance", "{\"name\":\"podvm-x\",\"tags\":{\"peerpod-sandbox\":\"x\",\"peerpod-node\":\"node2\"}}");
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 8);
        assert_int_equal(count_instances(f->bus, "node2", NULL, NULL, NULL, NULL), 1);
        assert_no_violation(f);
}

static void long_node_name_is_found_again(void **state) {
        Fixture *f = *state;
        char node[254];
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;

        memset(node, 'n', sizeof(node) - 1);
        node[sizeof(node) - 1] = '\0';
        start(f, NULL);
        reply = call_and_unref(f->bus, create_call(f->bus, &(CreateArgs) { SANDBOX, NAME, node, USER_DATA }), TIMEOUT, NULL);
        assert_non_null(reply);
        assert_int_equal(count_instances(f->bus, node, NULL, NULL, NULL, NULL), 1);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
}

static void lists_that_lag_behind_are_waited_for(void **state) {
        Fixture *f = *state;

        (void) setenv("USE_PUBLIC_IP", "true", 1);
        tell(f, "/_set", "{\"visibleMs\":1000}");
        start(f, NULL);
        assert_string_equal(create(f, &(Pod) { .multi_nic = true }, NULL, NULL), "none");
        assert_int_equal(count(f, "eips"), 1);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
}

/* ---- network, volumes, types ---- */

static void second_interface_and_elastic_address(void **state) {
        Fixture *f = *state;
        char addresses[256];

        start(f, NULL);
        assert_string_equal(create(f, &(Pod) { .multi_nic = true }, NULL, addresses), "none");
        assert_string_equal(addresses, "10.1.0.1 10.2.0.2");
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        stop(f, SIGTERM);

        tell(f, "/_reset", "{}");
        (void) setenv("USE_PUBLIC_IP", "true", 1);
        start(f, NULL);
        assert_string_equal(create(f, &(Pod) { .multi_nic = true }, NULL, addresses), "none");
        assert_string_equal(addresses, "203.0.113.1 10.2.0.2 10.1.0.1 198.51.100.3");
        assert_int_equal(count(f, "eips"), 1);
        stop(f, SIGKILL);                       /* nothing about the address is in our memory */

        (void) setenv("USE_PUBLIC_IP", "false", 1);
        start(f, NULL);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
}

static void address_without_instance_is_found_and_released(void **state) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *sandbox, *name, *id;
        Fixture *f = *state;

        start(f, NULL);
        tell(f, "/_eip", "{\"tags\":{\"peerpod-sandbox\":\"" SANDBOX "\",\"peerpod-node\":\"node1\",\"peerpod-name\":\"" NAME "\"}}");
        assert_int_equal(count_instances(f->bus, "node1", &sandbox, &name, &id, &reply), 1);
        assert_string_equal(id, "");
        assert_string_equal(delete(f, sandbox, name, id), "none");
        assert_nothing_left(f);
}

static void addresses_are_no_matter_where_they_may_not_be_seen(void **state) {
        Fixture *f = *state;

        tell(f, "/_set", "{\"denied\":[\"DescribeEipAddresses\"]}");
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 1);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
}

static void volumes_are_attached_in_order_and_kept(void **state) {
        json_object *o, *list = NULL;
        Fixture *f = *state;

        start(f, NULL);
        assert_string_equal(create(f, &(Pod) { .volumes = { "d-two", "d-one" } }, NULL, NULL), "none");
        assert_instance(f, NULL, "disks", "[ \"d-two\", \"d-one\" ]");
        assert_string_equal(create(f, &(Pod) { .name = "podvm-b", .sandbox = "b", .volumes = { "d-one" } }, NULL, NULL), "FailedPrecondition");
        assert_string_equal(create(f, &(Pod) { .name = "podvm-c", .sandbox = "c", .volumes = { "d-none" } }, NULL, NULL), "FailedPrecondition");
        assert_string_equal(create(f, &(Pod) { .name = "podvm-d", .sandbox = "d", .volumes = { "\"]" } }, NULL, NULL), "InvalidArgument");
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_nothing_left(f);
        o = state_of(f);
        assert_int_equal(json_get_array(o, "disks", &list, NULL), 1);
        assert_string_equal(json_object_get_string(json_object_object_get(json_object_array_get_idx(list, 0), "status")), "Available");
        json_object_put(o);
}

static void smallest_allowed_type_that_fits_is_taken(void **state) {
        static const struct { Pod pod; const char *error, *type; } cases[] = {
                { {},                                                   "none", "ecs.g8i.xlarge" },
                { { .vcpus = 2, .memory_mib = 4096 },                   "none", "ecs.g8i.large" },
                { { .vcpus = 1, .memory_mib = 512 },                    "none", "ecs.t6-c4m1.large" },
                { { .vcpus = 5, .memory_mib = 1024 },                   "none", "ecs.g8i.4xlarge" },
                { { .gpus = 1 },                                        "none", "ecs.gn7i-c8g1.2xlarge" },
                { { .type = "ecs.g8i.4xlarge" },                        "none", "ecs.g8i.4xlarge" },
                { { .type = "ecs.c5.large" },                           "InvalidArgument", NULL },
                { { .vcpus = 64, .memory_mib = 4096 },                  "FailedPrecondition", NULL },
                { { .gpus = 4 },                                        "FailedPrecondition", NULL },
        };
        Fixture *f = *state;

        (void) setenv("PODVM_INSTANCE_TYPES", "ecs.g8i.4xlarge,ecs.g8i.large,ecs.gn7i-c8g1.2xlarge,ecs.t6-c4m1.large", 1);
        start(f, NULL);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char name[32], sandbox[32];
                Pod p = cases[i].pod;

                (void) snprintf(name, sizeof(name), "podvm-%zu", i);
                (void) snprintf(sandbox, sizeof(sandbox), "s%zu", i);
                p.name = name;
                p.sandbox = sandbox;
                print_message("case %zu\n", i);
                assert_string_equal(create(f, &p, NULL, NULL), cases[i].error);
                if (cases[i].type)
                        assert_instance(f, NULL, "type", cases[i].type);
                assert_string_equal(delete(f, sandbox, name, ""), "none");
        }
        assert_int_equal(count_calls(f, "DescribeInstanceTypes"), 1);          /* and kept */
        assert_nothing_left(f);
}

static void old_name_of_the_type_is_taken(void **state) {
        Fixture *f = *state;

        (void) setenv("INSTANCE_TYPE", "ecs.g8i.large", 1);
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_instance(f, NULL, "type", "ecs.g8i.large");
        assert_no_violation(f);
}

static void user_data_of_the_limit_and_one_byte_more(void **state) {
        Fixture *f = *state;
        char *data = malloc(32770);

        memset(data, 'x', 32769);
        data[32768] = '\0';
        start(f, NULL);
        assert_string_equal(create(f, &(Pod) { .user_data = data }, NULL, NULL), "none");
        assert_instance(f, NULL, "userData", data);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        data[32768] = 'x';
        data[32769] = '\0';
        assert_string_equal(create(f, &(Pod) { .user_data = data }, NULL, NULL), "Exhausted");
        assert_int_equal(count_calls(f, "RunInstances"), 1);
        assert_nothing_left(f);
        free(data);
}

/* ---- credentials ---- */

static void key_with_session_token(void **state) {
        Fixture *f = *state;

        tell(f, "/_set", "{\"keys\":{\"testid\":{\"secret\":\"testsecret\",\"token\":\"a+token/=\"}}}");
        (void) setenv("ALIBABACLOUD_SECURITY_TOKEN", "a+token/=", 1);
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_no_violation(f);
}

static void key_of_the_vendors_variables(void **state) {
        Fixture *f = *state;

        (void) unsetenv("ALIBABACLOUD_ACCESS_KEY_ID");
        (void) setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "testid", 1);
        (void) setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "testsecret", 1);
        start(f, NULL);
        (void) unsetenv("ALIBABA_CLOUD_ACCESS_KEY_ID");
        (void) unsetenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET");
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_no_violation(f);
}

static uint64_t keys_issued(const Fixture *f) {
        json_object *o = state_of(f);
        uint64_t n = 0;

        (void) json_get_u64(o, "keysIssued", 1000, &n, NULL);
        json_object_put(o);
        return n;
}

static void without_key(Fixture *f) {
        (void) unsetenv("ALIBABACLOUD_ACCESS_KEY_ID");
        (void) unsetenv("ALIBABACLOUD_ACCESS_KEY_SECRET");
        tell(f, "/_set", "{\"keys\":{}}");
}

static void set_oidc(const Fixture *f, const char *token) {
        char path[64];

        (void) snprintf(path, sizeof(path), "%s/token", f->directory);
        assert_int_equal(write_file_atomic(path, token, strlen(token), 0600), 0);
        (void) setenv("ALIBABA_CLOUD_ROLE_ARN", "acs:ram::1:role/podvm", 1);
        (void) setenv("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "acs:ram::1:oidc-provider/ack", 1);
        (void) setenv("ALIBABA_CLOUD_OIDC_TOKEN_FILE", path, 1);
}

static void role_of_a_service_account(void **state) {
        Fixture *f = *state;

        without_key(f);
        set_oidc(f, "the-oidc-token\n");
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_int_equal(keys_issued(f), 1);

        /* Refused though not yet expired by the clock: one fetch, and on. */
        tell(f, "/_fault", "{\"action\":\"DescribeInstances\",\"kind\":\"expire\"}");
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 1);
        assert_int_equal(keys_issued(f), 2);
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_int_equal(keys_issued(f), 2);
        assert_nothing_left(f);
}

static void refused_service_account_is_said(void **state) {
        Fixture *f = *state;

        without_key(f);
        set_oidc(f, "another");
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "Unauthenticated");
        assert_int_equal(count_calls(f, "RunInstances"), 0);
}

static void keys_are_renewed_ahead_of_their_end(void **state) {
        Fixture *f = *state;

        without_key(f);
        set_oidc(f, "the-oidc-token");
        tell(f, "/_set", "{\"keyLifeSeconds\":2}");
        start(f, NULL);
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 0);
        WAIT_UNTIL(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL) == 0 && keys_issued(f) > 1);
        assert_no_violation(f);
}

static void role_of_the_machine(void **state) {
        Fixture *f = *state;

        without_key(f);
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "none");
        assert_int_equal(keys_issued(f), 1);
        tell(f, "/_fault", "{\"action\":\"DeleteInstance\",\"kind\":\"expire\"}");
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        assert_int_equal(keys_issued(f), 2);
        assert_nothing_left(f);
        stop(f, SIGTERM);

        tell(f, "/_set", "{\"imdsToken\":false}");      /* an older service */
        (void) setenv("ALIBABA_CLOUD_ECS_METADATA", "podvm-role", 1);
        start(f, NULL);
        (void) unsetenv("ALIBABA_CLOUD_ECS_METADATA");
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 0);
        assert_int_equal(keys_issued(f), 3);
}

static void machine_without_role_is_said(void **state) {
        Fixture *f = *state;

        without_key(f);
        tell(f, "/_set", "{\"role\":\"\"}");
        start(f, NULL);
        assert_string_equal(create(f, &plain, NULL, NULL), "Unauthenticated");
}

/* ---- faults ---- */

static void wait_asked_for_by_a_throttle_is_kept(void **state) {
        Fixture *f = *state;
        uint64_t begin;

        start(f, NULL);
        tell(f, "/_fault", "{\"action\":\"DescribeInstances\",\"kind\":\"error\",\"status\":400,\"code\":\"Throttling.User\","
             "\"headers\":{\"x-ratelimit-user-api\":\"Limit:10,Remain:0,TimeLeft:1500\"}}");
        begin = now_usec(CLOCK_MONOTONIC);
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 0);
        assert_true(now_usec(CLOCK_MONOTONIC) - begin >= 1500 * USEC_PER_MSEC);
        assert_int_equal(count_calls(f, "DescribeInstances"), 2);
}

#define CROWD 100

static void crowd_is_served_by_a_cloud_that_throttles(void **state) {
        static sd_bus_message *replies[CROWD];
        Fixture *f = *state;
        char name[32], sandbox[32];

        tell(f, "/_set", "{\"perSecond\":60}");
        start(f, (const char *const[]) { "--workers", "16", "--create-timeout", "50s", "--delete-timeout", "50s", NULL });
        for (unsigned i = 0; i < CROWD; i++) {
                (void) snprintf(name, sizeof(name), "podvm-%u", i);
                (void) snprintf(sandbox, sizeof(sandbox), "s%u", i);
                send_async(f->bus, pod_call(f->bus, &(Pod) { .name = name, .sandbox = sandbox }), TIMEOUT, replies + i);
        }
        for (unsigned i = 0; i < CROWD; i++) {
                process_until(f->bus, TIMEOUT, replies + i);
                assert_string_equal(error_of(replies[i]), "none");
                sd_bus_message_unref(replies[i]);
        }
        assert_int_equal(count(f, "instances"), CROWD);
        tell(f, "/_set", "{\"perSecond\":0}");
        for (unsigned i = 0; i < CROWD; i++) {
                (void) snprintf(name, sizeof(name), "podvm-%u", i);
                (void) snprintf(sandbox, sizeof(sandbox), "s%u", i);
                send_async(f->bus, delete_call(f->bus, sandbox, name, ""), TIMEOUT, replies + i);
        }
        for (unsigned i = 0; i < CROWD; i++) {
                process_until(f->bus, TIMEOUT, replies + i);
                assert_string_equal(error_of(replies[i]), "none");
                sd_bus_message_unref(replies[i]);
        }
        assert_nothing_left(f);
}

/* The calls of a create that has everything, each as often as it may come before the end. */
static const struct { const char *action; unsigned nth; } create_calls[] = {
        { "DescribeInstanceTypes", 1 }, { "DescribeInstances", 1 }, { "RunInstances", 1 }, { "DescribeInstances", 2 }, { "DescribeInstances", 3 },
        { "DescribeEipAddresses", 1 }, { "AllocateEipAddress", 1 }, { "DescribeEipAddresses", 2 }, { "AssociateEipAddress", 1 },
        { "DescribeEipAddresses", 3 }, { "DescribeDisks", 1 }, { "AttachDisk", 1 }, { "DescribeDisks", 2 },
};
static const Pod everything = { .multi_nic = true, .volumes = { "d-one" } };

static const struct { const char *kind, *rest; bool slow; } fault_kinds[] = {
        { "reset", "" }, { "reset-after", "" }, { "truncate", "" }, { "garbage", "" },
        { "error", ",\"status\":500" }, { "error-after", ",\"status\":500" }, { "error", ",\"status\":503,\"code\":\"ServiceUnavailable\"" },
        { "error", ",\"status\":429" }, { "error", ",\"status\":400,\"code\":\"Throttling.Api\"" }, { "error", ",\"status\":401" },
        { "error", ",\"status\":403,\"code\":\"Forbidden.RAM\"" }, { "error", ",\"status\":404" },
        { "slow", "", true }, { "hold", "", true }, { "hold-after", "", true },
};

#define FAULT_PARTS 2                   /* processes for each kind: most of their time is waiting */

/* One kind of fault, at each call in turn. Afterwards there is the instance, or nothing. */
static void faults_of_one_kind(void **state) {
        unsigned k = atoi(only_kind), part = strchr(only_kind, '/') ? atoi(strchr(only_kind, '/') + 1) : 0;
        Fixture *f = *state;

        (void) setenv("USE_PUBLIC_IP", "true", 1);
        for (size_t i = 0; i < ELEMENTSOF(create_calls); i++) {
                const char *result;
                uint64_t begin;

                if (i % FAULT_PARTS != part)
                        continue;
                tell(f, "/_reset", "{}");
                tell(f, "/_set", "{\"startMs\":20}");
                tell(f, "/_fault", "{\"action\":\"%s\",\"nth\":%u,\"kind\":\"%s\"%s}", create_calls[i].action, create_calls[i].nth,
                     fault_kinds[k].kind, fault_kinds[k].rest);
                start(f, (const char *const[]) { "--create-timeout", fault_kinds[k].slow ? "1500ms" : "30s", NULL });
                begin = now_usec(CLOCK_MONOTONIC);
                result = create(f, &everything, NULL, NULL);
                print_message("%s%s at %s %u: %s\n", fault_kinds[k].kind, fault_kinds[k].rest, create_calls[i].action, create_calls[i].nth, result);
                if (streq(result, "none")) {
                        assert_int_equal(count(f, "instances"), 1);
                        assert_int_equal(count(f, "eips"), 1);
                        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
                } else if (fault_kinds[k].slow) {
                        assert_string_equal(result, "TimedOut");
                        /* The create was too slow to get there: it was its undo that hung, until the daemon gave it up. */
                        if (now_usec(CLOCK_MONOTONIC) - begin > 30 * USEC_PER_SEC)
                                assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
                }
                assert_nothing_left(f);
                stop(f, SIGTERM);
        }
}

static void each_fault_at_each_call(void **state) {
        pid_t pids[ELEMENTSOF(fault_kinds) * FAULT_PARTS];
        int failed = 0;

        for (size_t k = 0; k < ELEMENTSOF(pids); k++) {
                char number[16];
                char *argv[] = { (char*) self, (char*) program, (char*) module_file, (char*) node_program, (char*) peer_script, number, NULL };

                (void) snprintf(number, sizeof(number), "%zu/%zu", k / FAULT_PARTS, k % FAULT_PARTS);
                assert_int_equal(posix_spawn(pids + k, self, NULL, NULL, argv, environ), 0);
        }
        for (size_t k = 0; k < ELEMENTSOF(pids); k++) {
                int status;

                assert_int_equal(waitpid(pids[k], &status, 0), pids[k]);
                failed += status != 0;
        }
        assert_int_equal(failed, 0);
}

/* A delete cancels the create; both end soon, wherever the create was. */
static void cancelled_at_each_call(void **state) {
        Fixture *f = *state;

        (void) setenv("USE_PUBLIC_IP", "true", 1);
        start(f, NULL);
        for (size_t i = 0; i < ELEMENTSOF(create_calls); i++) {
                sd_bus_message *created = NULL, *deleted = NULL;
                uint64_t begin;

                stop(f, SIGTERM);
                tell(f, "/_reset", "{}");
                tell(f, "/_set", "{\"startMs\":20}");
                tell(f, "/_fault", "{\"action\":\"%s\",\"nth\":%u,\"kind\":\"%s\"}", create_calls[i].action, create_calls[i].nth, i % 2 ? "hold" : "hold-after");
                start(f, NULL);
                send_async(f->bus, pod_call(f->bus, &everything), TIMEOUT, &created);
                WAIT_UNTIL(is_held(f));
                begin = now_usec(CLOCK_MONOTONIC);
                send_async(f->bus, delete_call(f->bus, SANDBOX, NAME, ""), TIMEOUT, &deleted);
                process_until(f->bus, TIMEOUT, &created);
                process_until(f->bus, TIMEOUT, &deleted);
                print_message("%s %u: %" PRIu64 " ms\n", create_calls[i].action, create_calls[i].nth, (now_usec(CLOCK_MONOTONIC) - begin) / 1000);
                assert_string_equal(error_of(created), "Cancelled");
                assert_string_equal(error_of(deleted), "none");
                assert_true(now_usec(CLOCK_MONOTONIC) - begin < 10 * USEC_PER_SEC);
                assert_nothing_left(f);
                sd_bus_message_unref(created);
                sd_bus_message_unref(deleted);
        }
}

static void cloud_that_is_not_there_does_not_keep_the_service_from_starting(void **state) {
        Fixture *f = *state;
        const char *error;

        set_endpoint("ALIBABACLOUD_ECS_ENDPOINT", 1);
        start(f, (const char *const[]) { "--create-timeout", "2s", NULL });
        error = create(f, &plain, NULL, NULL);
        assert_true(streq(error, "TimedOut") || streq(error, "Unavailable"));
}

static void capacity_is_its_own_error(void **state) {
        Fixture *f = *state;

        start(f, NULL);
        tell(f, "/_fault", "{\"action\":\"RunInstances\",\"kind\":\"error\",\"status\":403,\"code\":\"OperationDenied.NoStock\"}");
        assert_string_equal(create(f, &plain, NULL, NULL), "Exhausted");
        assert_int_equal(count_calls(f, "RunInstances"), 1);
        assert_nothing_left(f);
}

/* ---- check and settings ---- */

/* Runs the daemon with --check; its exit status and what it says. */
static int check(Fixture *f, const char *more, char *ret_text, size_t size) {
        char command[768];
        FILE *p;
        size_t n;

        (void) snprintf(command, sizeof(command), "%s --check --module-directory %s --state-directory %s %s 2>&1", program, f->modules, f->state, more);
        p = popen(command, "r");
        assert_non_null(p);
        n = fread(ret_text, 1, size - 1, p);
        ret_text[n] = '\0';
        print_message("%s", ret_text);
        return WEXITSTATUS(pclose(p));
}

static void check_says_what_is_wrong(void **state) {
        static const struct { const char *options; int status; const char *text; } cases[] = {
                { "",                                           0,  "passed" },
                { "--imageid m-missing",                        -1, "There is no image 'm-missing'" },
                { "--imageid ''",                               -1, "IMAGEID is empty" },
                { "--vswitch-id vsw-9",                         -1, "There is no vSwitch 'vsw-9'" },
                { "--vpc-id vpc-9",                             -1, "vSwitch 'vsw-1' is in VPC 'vpc-1', not in 'vpc-9'" },
                { "--instance-type ecs.none",                   -1, "There is no instance type 'ecs.none'" },
                { "--security-group-ids nonsense",              -1, "InvalidSecurityGroupId.NotFound" },
                { "--alibabacloud-access-key-id nobody",        -1, "InvalidAccessKeyId.NotFound" },
                { "--tags peerpod-node=x",                      78, "TAGS" },
                { "--http-tokens sometimes",                    78, "ALIBABACLOUD_HTTP_TOKENS" },
                { "--security-group-ids=",                      78, "SECURITY_GROUP_IDS" },
        };
        Fixture *f = *state;
        char text[4096];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int status = check(f, cases[i].options, text, sizeof(text));

                if (cases[i].status >= 0)
                        assert_int_equal(status, cases[i].status);
                else
                        assert_int_not_equal(status, 0);
                assert_non_null(strstr(text, cases[i].text));
        }
        tell(f, "/_set", "{\"denied\":[\"RunInstances\"]}");
        assert_int_not_equal(check(f, "", text, sizeof(text)), 0);
        assert_non_null(strstr(text, "Forbidden.RAM"));
        assert_nothing_left(f);
}

static void secrets_are_in_no_log(void **state) {
        _cleanup_(freep) char *text = NULL;
        Fixture *f = *state;
        char path[64];
        int out, saved;

        (void) snprintf(path, sizeof(path), "%s/log", f->directory);
        out = open(path, O_WRONLY|O_CREAT|O_CLOEXEC, 0600);
        saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
        assert_true(out >= 0 && saved >= 0);
        (void) dup2(out, STDERR_FILENO);
        (void) setenv("PEERPOD_LOG_LEVEL", "debug", 1);
        without_key(f);
        set_oidc(f, "the-oidc-token");
        start(f, NULL);
        (void) dup2(saved, STDERR_FILENO);
        (void) unsetenv("PEERPOD_LOG_LEVEL");
        tell(f, "/_fault", "{\"action\":\"RunInstances\",\"kind\":\"error-after\",\"status\":500}");
        assert_string_equal(create(f, &(Pod) { .user_data = "#cloud-config\nsupersecret\n" }, NULL, NULL), "none");
        assert_string_equal(delete(f, SANDBOX, NAME, ""), "none");
        stop(f, SIGTERM);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
        assert_true(strlen(text) > 0);
        assert_null(strstr(text, "supersecret"));
        assert_null(strstr(text, "the-oidc-token"));
        assert_null(strstr(text, "UserData"));
        assert_null(strstr(text, "Signature="));
        assert_null(strstr(text, "token+"));
        (void) close(out);
        (void) close(saved);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                CASE(created_found_and_removed),
                CASE(request_is_as_configured),
                CASE(plain_request_has_no_more_than_asked),
                CASE(image_of_a_pod_is_for_that_pod_only),
                CASE(instances_of_others_are_left_alone),
                CASE(create_that_was_cut_off_is_taken_up),
                CASE(token_finds_what_the_list_does_not),
                CASE(name_can_be_used_again),
                CASE(stopped_instance_is_made_anew),
                CASE(instance_that_does_not_start_is_removed),
                CASE(early_delete_waits_for_the_boot),
                CASE(all_pages_are_read),
                CASE(long_node_name_is_found_again),
                CASE(lists_that_lag_behind_are_waited_for),
                CASE(second_interface_and_elastic_address),
                CASE(address_without_instance_is_found_and_released),
                CASE(addresses_are_no_matter_where_they_may_not_be_seen),
                CASE(volumes_are_attached_in_order_and_kept),
                CASE(smallest_allowed_type_that_fits_is_taken),
                CASE(old_name_of_the_type_is_taken),
                CASE(user_data_of_the_limit_and_one_byte_more),
                CASE(key_with_session_token),
                CASE(key_of_the_vendors_variables),
                CASE(role_of_a_service_account),
                CASE(refused_service_account_is_said),
                CASE(keys_are_renewed_ahead_of_their_end),
                CASE(role_of_the_machine),
                CASE(machine_without_role_is_said),
                CASE(wait_asked_for_by_a_throttle_is_kept),
                CASE(capacity_is_its_own_error),
                CASE(cloud_that_is_not_there_does_not_keep_the_service_from_starting),
                CASE(crowd_is_served_by_a_cloud_that_throttles),
                CASE(each_fault_at_each_call),
                CASE(cancelled_at_each_call),
                CASE(check_says_what_is_wrong),
                CASE(secrets_are_in_no_log),
        };
        const struct CMUnitTest one_kind[] = { CASE(faults_of_one_kind) };

        assert(argc >= 5);
        self = "/proc/self/exe";
        program = argv[1];
        module_file = argv[2];
        node_program = argv[3];
        peer_script = argv[4];
        only_kind = argc > 5 ? argv[5] : NULL;
        if (!only_kind && getenv("PEERPOD_TEST_FILTER"))
                cmocka_set_test_filter(getenv("PEERPOD_TEST_FILTER"));
        (void) signal(SIGPIPE, SIG_IGN);
        return only_kind ? cmocka_run_group_tests(one_kind, peer_start, peer_end) : cmocka_run_group_tests(tests, peer_start, peer_end);
}
