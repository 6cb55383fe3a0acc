/* SPDX-License-Identifier: Apache-2.0 */
/* The adaptor's parts that need nobody else: states, annotations, names, records, the store, error names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <fcntl.h>

#include <cmocka.h>

#include "adaptor/error.h"
#include "adaptor/request.h"
#include "adaptor/sandbox-record.h"
#include "basic/sandbox-store.h"
#include "basic/io.h"
#include "basic/strv.h"
#include "basic/util.h"

#define CRI "io.kubernetes.cri."
#define P "io.katacontainers.config.hypervisor."

/* ---- states ------------------------------------------------------------------------------------------------------------------------ */

static void every_move_is_legal_or_illegal_as_drawn(void **state) {
        /* rows: from; columns: planned creating running deleting gone */
        static const char *const drawn[_SANDBOX_STATE_MAX] = {
                [SANDBOX_PLANNED]  = ".x.x.",
                [SANDBOX_CREATING] = "..xx.",
                [SANDBOX_RUNNING]  = "...x.",
                [SANDBOX_DELETING] = "....x",
                [SANDBOX_GONE]     = ".....",
        };

        for (SandboxState from = 0; from < _SANDBOX_STATE_MAX; from++)
                for (SandboxState to = 0; to < _SANDBOX_STATE_MAX; to++)
                        if (sandbox_state_may_follow(from, to) != (drawn[from][to] == 'x'))
                                fail_msg("%s to %s", sandbox_state_to_string(from), sandbox_state_to_string(to));
}

static void states_have_their_names_on_the_bus(void **state) {
        static const char *const names[] = { "planned", "creating", "running", "deleting", "gone" };

        for (SandboxState i = 0; i < _SANDBOX_STATE_MAX; i++) {
                assert_string_equal(sandbox_state_to_string(i), names[i]);
                assert_int_equal(sandbox_state_from_string(names[i]), i);
        }
        assert_int_equal(sandbox_state_from_string("frozen"), -EINVAL);
}

/* ---- annotations ------------------------------------------------------------------------------------------------------------------- */

typedef struct AnnotationCase {
        const char *name, *key, *value;
        int result;
        CreateRequest expected;
} AnnotationCase;

static const AnnotationCase annotation_cases[] = {
        { "containerd's pod name", CRI "sandbox-name", "web-0", 0, { .pod_name = (char*) "web-0" } },
        { "CRI-O's name has pod, namespace, uid and attempt", CRI "sandbox-name", "k8s_web-0_default_8d5b7f0e-6f39_3", 0,
          { .pod_name = (char*) "web-0", .pod_uid = (char*) "8d5b7f0e-6f39" } },
        { "CRI-O's name with two parts", CRI "sandbox-name", "k8s_web", 0, { .pod_name = (char*) "web" } },
        { "CRI-O's name without attempt", CRI "sandbox-name", "k8s_web_ns_uid", 0, { .pod_name = (char*) "web", .pod_uid = (char*) "uid" } },
        { "CRI-O's name with an empty uid", CRI "sandbox-name", "k8s_web_ns__0", 0, { .pod_name = (char*) "web" } },
        { "namespace", CRI "sandbox-namespace", "default", 0, { .pod_namespace = (char*) "default" } },
        { "machine type", P "machine_type", "t3.large", 0, { .machine_type = (char*) "t3.large" } },
        { "image", P "image", "ami-1", 0, { .image = (char*) "ami-1" } },
        { "GPU model", P "default_gpu_model", "a100", 0, { .gpu_model = (char*) "a100" } },
        { "whole vCPUs", P "default_vcpus", "4", 0, { .vcpus = 4 } },
        { "half a vCPU more is one more", P "default_vcpus", "1.5", 0, { .vcpus = 2 } },
        { "a tenth of a vCPU is one", P "default_vcpus", "0.1", 0, { .vcpus = 1 } },
        { "2.000 is two", P "default_vcpus", "2.000", 0, { .vcpus = 2 } },
        { "0 vCPUs are not known", P "default_vcpus", "0", 0, {} },
        { "empty vCPUs are not known", P "default_vcpus", "", 0, {} },
        { "words for vCPUs", P "default_vcpus", "two", -EINVAL, {} },
        { "negative vCPUs", P "default_vcpus", "-1", -EINVAL, {} },
        { "vCPUs with a blank", P "default_vcpus", " 1", -EINVAL, {} },
        { "vCPUs with an exponent", P "default_vcpus", "1e3", -EINVAL, {} },
        { "not a number of vCPUs", P "default_vcpus", "NaN", -EINVAL, {} },
        { "infinite vCPUs", P "default_vcpus", "inf", -EINVAL, {} },
        { "the most vCPUs", P "default_vcpus", "65536", 0, { .vcpus = 65536 } },
        { "one vCPU more than that", P "default_vcpus", "65537", -EINVAL, {} },
        { "vCPUs beyond 64 bits", P "default_vcpus", "99999999999999999999", -EINVAL, {} },
        { "memory", P "default_memory", "2048", 0, { .memory_mib = 2048 } },
        { "a fraction of memory", P "default_memory", "2048.5", 0, { .memory_mib = 2049 } },
        { "a petabyte of memory", P "default_memory", "1073741824", 0, { .memory_mib = UINT64_C(1) << 30 } },
        { "more than that", P "default_memory", "1073741825", -EINVAL, {} },
        { "GPUs", P "default_gpus", "2", 0, { .gpus = 2 } },
        { "too many GPUs", P "default_gpus", "1025", -EINVAL, {} },
        { "initdata", P "cc_init_data", "algorithm = \"sha256\"\n", 0, { .initdata = (char*) "algorithm = \"sha256\"\n" } },
        { "a control character in the pod's name", CRI "sandbox-name", "web\n0", -EINVAL, {} },
        { "a control character in CRI-O's uid", CRI "sandbox-name", "k8s_web_ns_u\x01_0", -EINVAL, {} },
        { "no UTF-8", P "image", "\xff", -EINVAL, {} },
        { "an annotation of somebody else", "example.com/x", "y", 0, {} },
};

static void annotation_is_read_as_specified(void **state) {
        const AnnotationCase *c = *state;
        _cleanup_(create_request_done) CreateRequest q = CREATE_REQUEST_NULL;
        _cleanup_(freep) char *reason = NULL;

        assert_int_equal(create_request_add(&q, c->key, c->value, &reason), c->result);
        assert_true((reason != NULL) == (c->result < 0));
        if (reason)
                assert_non_null(strstr(reason, c->key));
        if (c->result < 0)
                return;
        assert_true(streq_ptr(q.pod_name, c->expected.pod_name));
        assert_true(streq_ptr(q.pod_namespace, c->expected.pod_namespace));
        assert_true(streq_ptr(q.pod_uid, c->expected.pod_uid));
        assert_true(streq_ptr(q.machine_type, c->expected.machine_type));
        assert_true(streq_ptr(q.image, c->expected.image));
        assert_true(streq_ptr(q.gpu_model, c->expected.gpu_model));
        assert_true(streq_ptr(q.initdata, c->expected.initdata));
        assert_int_equal(q.vcpus, c->expected.vcpus);
        assert_int_equal(q.gpus, c->expected.gpus);
        assert_int_equal(q.memory_mib, c->expected.memory_mib);
}

static void too_much_initdata_is_refused(void **state) {
        _cleanup_(create_request_done) CreateRequest q = CREATE_REQUEST_NULL;
        _cleanup_(freep) char *reason = NULL, *text = malloc(REQUEST_INITDATA_MAX + 2);

        assert_non_null(text);
        memset(text, 'x', REQUEST_INITDATA_MAX + 1);
        text[REQUEST_INITDATA_MAX + 1] = '\0';
        assert_int_equal(create_request_add(&q, P "cc_init_data", text, &reason), -EINVAL);
        assert_non_null(reason);
        free(TAKE_PTR(reason));
        text[REQUEST_INITDATA_MAX] = '\0';
        assert_int_equal(create_request_add(&q, P "cc_init_data", text, &reason), 0);
}

static void instance_names_are_upstreams(void **state) {
        static const struct {
                const char *pod, *id, *name;
        } cases[] = {
                { "web", "0123456789abcdef", "podvm-web-01234567" },
                { "Web_0.x", "0123456789abcdef", "podvm-web-0-x-01234567" },
                /* 63 in all: cloud-api-adaptor: pkg/util/cloud.go */
                { "a123456789b123456789c123456789d123456789e123456789f", "fedcba9876543210",
                  "podvm-a123456789b123456789c123456789d123456789e1234567-fedcba98" },
        };
        _cleanup_(freep) char *a = NULL, *b = NULL;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) char *name = NULL;

                assert_int_equal(instance_name_make(cases[i].pod, cases[i].id, &name), 0);
                assert_string_equal(name, cases[i].name);
                assert_true(strlen(name) <= INSTANCE_NAME_MAX);
        }

        /* ids that people make up begin alike */
        assert_int_equal(instance_name_make("web", "sandbox-1", &a), 0);
        assert_int_equal(instance_name_make("web", "sandbox-2", &b), 0);
        assert_string_not_equal(a, b);
        assert_int_equal(strlen(a), strlen("podvm-web-01234567"));
}

/* ---- records ----------------------------------------------------------------------------------------------------------------------- */

#define PLANNED "\"sandbox-id\":\"a\",\"pod-name\":\"p\",\"pod-namespace\":\"n\",\"netns-path\":\"/n\",\"instance-name\":\"i\""

typedef struct RecordCase {
        const char *name, *text;
        int result;
        const char *reason;             /* part of it */
} RecordCase;

static const RecordCase record_cases[] = {
        { "a planned sandbox", "{\"version\":1,\"state\":\"planned\"," PLANNED "}", 0, NULL },
        { "keys of a later minor change are ignored", "{\"version\":1,\"state\":\"planned\",\"new\":{}," PLANNED "}", 0, NULL },
        { "a running sandbox", "{\"version\":1,\"state\":\"running\",\"addresses\":[\"10.0.0.1\"]," PLANNED "}", 0, NULL },
        { "deleting needs no more than the id", "{\"version\":1,\"state\":\"deleting\",\"sandbox-id\":\"a\"}", 0, NULL },
        { "nothing", "", -EBADMSG, "" },
        { "a part of a record", "{\"version\":1,\"state\":\"plan", -EBADMSG, "" },
        { "another language", "version = 1\n", -EBADMSG, "" },
        { "an array", "[]", -EBADMSG, "" },
        { "no version", "{\"state\":\"planned\"," PLANNED "}", -EBADMSG, "version" },
        { "version 0", "{\"version\":0,\"state\":\"planned\"," PLANNED "}", -EBADMSG, "version" },
        { "a newer version", "{\"version\":2,\"state\":\"frozen\"}", -EPROTONOSUPPORT, "newer version" },
        { "a version that is text", "{\"version\":\"1\",\"state\":\"planned\"," PLANNED "}", -EBADMSG, "version" },
        { "no state", "{\"version\":1," PLANNED "}", -EBADMSG, "state" },
        { "a state that is none", "{\"version\":1,\"state\":\"frozen\"," PLANNED "}", -EBADMSG, "state" },
        { "gone is never written", "{\"version\":1,\"state\":\"gone\"," PLANNED "}", -EBADMSG, "state" },
        { "no id", "{\"version\":1,\"state\":\"deleting\"}", -EBADMSG, "sandbox-id" },
        { "an id that is a path", "{\"version\":1,\"state\":\"deleting\",\"sandbox-id\":\"../x\"}", -EBADMSG, "sandbox-id" },
        { "running without an address", "{\"version\":1,\"state\":\"running\"," PLANNED "}", -EBADMSG, "addresses" },
        { "an address that is a name", "{\"version\":1,\"state\":\"running\",\"addresses\":[\"vm\"]," PLANNED "}", -EBADMSG, "addresses" },
        { "addresses that are a number", "{\"version\":1,\"state\":\"running\",\"addresses\":7," PLANNED "}", -EBADMSG, "addresses" },
        { "too many vCPUs", "{\"version\":1,\"state\":\"planned\",\"vcpus\":65537," PLANNED "}", -EBADMSG, "vcpus" },
        { "time before 1970", "{\"version\":1,\"state\":\"planned\",\"created-usec\":-1," PLANNED "}", -EBADMSG, "created-usec" },
        { "a control character", "{\"version\":1,\"state\":\"planned\",\"image\":\"a\\nb\"," PLANNED "}", -EBADMSG, "image" },
        { "a pod network that is text", "{\"version\":1,\"state\":\"planned\",\"pod-network\":\"x\"," PLANNED "}", -EBADMSG, "pod-network" },
};

static void record_is_taken_or_refused_as_specified(void **state) {
        const RecordCase *c = *state;
        _cleanup_(sandbox_record_done) SandboxRecord record = SANDBOX_RECORD_NULL;
        _cleanup_(freep) char *reason = NULL;

        assert_int_equal(sandbox_record_parse(c->text, strlen(c->text), &record, &reason), c->result);
        if (c->result < 0) {
                assert_null(record.id);
                assert_non_null(reason);
                if (!strstr(reason, c->reason))
                        fail_msg("'%s' does not say '%s'", reason, c->reason);
        }
}

static void record_comes_back_as_it_was(void **state) {
        SandboxRecord a = {
                .state = SANDBOX_RUNNING, .id = (char*) "0123", .pod_name = (char*) "web \"0\"", .pod_namespace = (char*) "default",
                .pod_uid = (char*) "uid", .netns_path = (char*) "/run/netns/x", .machine_type = (char*) "big", .image = (char*) "i/1",
                .gpu_model = (char*) "a100", .vcpus = 3, .gpus = 1, .memory_mib = UINT64_C(1) << 30, .node = (char*) "n\xc3\xa4",
                .instance_name = (char*) "podvm-web-0123", .instance_id = (char*) "i-1", .instance_type = (char*) "big",
                .addresses = (char*[]) { (char*) "10.0.0.1", (char*) "fd00::1", NULL },
                .pod_network = (char*) "{\"mtu\":1450,\"routes\":null}", .last_error = (char*) "none",
                .state_usec = { 1, INT64_MAX, 3, 0 },
        };
        _cleanup_(sandbox_record_done) SandboxRecord b = SANDBOX_RECORD_NULL;
        _cleanup_(freep) char *text = NULL, *reason = NULL;

        assert_int_equal(sandbox_record_format(&a, &text), 0);
        if (sandbox_record_parse(text, strlen(text), &b, &reason) < 0)
                fail_msg("%s in %s", reason, text);
        assert_int_equal(b.state, a.state);
        assert_string_equal(b.id, a.id);
        assert_string_equal(b.pod_name, a.pod_name);
        assert_string_equal(b.pod_uid, a.pod_uid);
        assert_string_equal(b.image, a.image);
        assert_string_equal(b.node, a.node);
        assert_string_equal(b.instance_id, a.instance_id);
        assert_string_equal(b.pod_network, a.pod_network);
        assert_string_equal(b.last_error, a.last_error);
        assert_true(strv_equal(b.addresses, a.addresses));
        assert_int_equal(b.vcpus, 3);
        assert_int_equal(b.memory_mib, a.memory_mib);
        assert_memory_equal(b.state_usec, a.state_usec, sizeof(a.state_usec));

        /* every truncation is refused: half a record is never half a sandbox */
        for (size_t i = 0; i + 2 < strlen(text); i++) {
                SandboxRecord c = SANDBOX_RECORD_NULL;

                assert_true(sandbox_record_parse(text, i, &c, NULL) < 0);
        }
}

/* ---- the store --------------------------------------------------------------------------------------------------------------------- */

typedef struct StoreTest {
        char dir[32], path[64];
        SandboxStore *store;
        char seen[512];
} StoreTest;

static int store_setup(void **state) {
        StoreTest *t = calloc(1, sizeof(StoreTest));

        assert_non_null(t);
        strcpy(t->dir, "/tmp/pp-store-XXXXXX");
        assert_non_null(mkdtemp(t->dir));
        (void) snprintf(t->path, sizeof(t->path), "%s/sandboxes", t->dir);
        assert_int_equal(sandbox_store_new(t->path, true, &t->store), 0);
        *state = t;
        return 0;
}

static int store_teardown(void **state) {
        StoreTest *t = *state;

        sandbox_store_free(t->store);
        (void) remove_tree(t->dir);
        free(t);
        return 0;
}

static int on_file(SandboxStore *store, const char *id, int error, const char *data, size_t size, void *userdata) {
        StoreTest *t = userdata;

        (void) snprintf(t->seen + strlen(t->seen), sizeof(t->seen) - strlen(t->seen), "%s=%s;", id, error ? "error" : data);
        return 0;
}

static const char* contents(StoreTest *t) {
        t->seen[0] = '\0';
        assert_int_equal(sandbox_store_load(t->store, 64, on_file, t), 0);
        return t->seen;
}

static void put(StoreTest *t, const char *name, const char *text) {
        char path[160];

        (void) snprintf(path, sizeof(path), "%s/%s", t->path, name);
        assert_int_equal(write_file_atomic(path, text, strlen(text), 0600), 0);
}

static void store_saves_replaces_and_removes(void **state) {
        StoreTest *t = *state;
        struct stat st;
        char path[160];

        assert_int_equal(sandbox_store_save(t->store, "b", "1", 1), 0);
        assert_int_equal(sandbox_store_save(t->store, "a", "2", 1), 0);
        assert_int_equal(sandbox_store_save(t->store, "b", "333", 3), 0);
        assert_string_equal(contents(t), "a=2;b=333;");
        (void) snprintf(path, sizeof(path), "%s/a.json", t->path);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(sandbox_store_remove(t->store, "b"), 0);
        assert_int_equal(sandbox_store_remove(t->store, "b"), 0);
        assert_string_equal(contents(t), "a=2;");
}

static void store_is_for_one_process_only(void **state) {
        StoreTest *t = *state;
        SandboxStore *other = NULL;

        assert_int_equal(sandbox_store_new(t->path, true, &other), -EBUSY);
        assert_null(other);
}

static void store_is_not_disturbed_by_other_files(void **state) {
        StoreTest *t = *state;
        char path[160];

        put(t, "README", "x");
        put(t, "..json", "x");                          /* no id */
        put(t, "-x.json", "x");
        put(t, ".#a.json.0123456789abcdef", "half");    /* what a crash leaves of a save */
        put(t, "a.json", "1");
        (void) snprintf(path, sizeof(path), "%s/d.json", t->path);
        assert_int_equal(mkdir(path, 0700), 0);
        (void) snprintf(path, sizeof(path), "%s/l.json", t->path);
        assert_int_equal(symlink("/etc/passwd", path), 0);
        put(t, "big.json", "01234567890123456789012345678901234567890123456789012345678901234567890123456789");
        assert_string_equal(contents(t), "a=1;big=error;d=error;l=error;");
        (void) snprintf(path, sizeof(path), "%s/.#a.json.0123456789abcdef", t->path);
        assert_int_equal(access(path, F_OK), -1);
}

static void store_keeps_what_it_sets_aside(void **state) {
        StoreTest *t = *state;
        _cleanup_(freep) char *name = NULL;

        assert_false(sandbox_store_holds(t->store, "a"));
        assert_int_equal(sandbox_store_save(t->store, "a", "bad", 3), 0);
        assert_true(sandbox_store_holds(t->store, "a"));
        assert_int_equal(sandbox_store_set_aside(t->store, "a", &name), 0);
        assert_string_equal(name, "a.json.unreadable");
        assert_true(sandbox_store_holds(t->store, "a"));
        assert_string_equal(contents(t), "");
        assert_int_equal(sandbox_store_remove(t->store, "a"), 0);
        assert_false(sandbox_store_holds(t->store, "a"));
}

static void a_save_that_fails_leaves_the_old_record(void **state) {
        StoreTest *t = *state;
        char path[160];

        if (geteuid() == 0) {
                /* root may write anywhere: take the file system's word instead */
                (void) snprintf(path, sizeof(path), "%s/a.json", t->path);
                assert_int_equal(mkdir(path, 0700), 0);
                assert_int_equal(sandbox_store_save(t->store, "a", "new", 3), -EISDIR);
                assert_string_equal(contents(t), "a=error;");
                return;
        }
        assert_int_equal(sandbox_store_save(t->store, "a", "old", 3), 0);
        assert_int_equal(chmod(t->path, 0500), 0);
        assert_int_equal(sandbox_store_save(t->store, "a", "new", 3), -EACCES);
        assert_int_equal(chmod(t->path, 0700), 0);
        assert_string_equal(contents(t), "a=old;");
}

/* ---- errors ------------------------------------------------------------------------------------------------------------------------ */

static void errors_become_codes(void **state) {
        static const struct {
                const char *name;
                TtrpcCode code;
        } cases[] = {
                { PEERPOD_ERROR_INVALID_ARGUMENT, 3 }, { PEERPOD_ERROR_TIMED_OUT, 4 }, { PEERPOD_ERROR_NOT_FOUND, 5 },
                { PEERPOD_ERROR_ALREADY_EXISTS, 6 }, { PEERPOD_ERROR_EXHAUSTED, 8 }, { PEERPOD_ERROR_FAILED_PRECONDITION, 9 },
                { PEERPOD_ERROR_INTERNAL, 13 }, { PEERPOD_ERROR_UNAVAILABLE, 14 }, { PEERPOD_ERROR_UNAUTHENTICATED, 16 },
                { PEERPOD_ERROR_CANCELLED, 1 }, { PEERPOD_ERROR_THROTTLED, 14 }, { SD_BUS_ERROR_ACCESS_DENIED, 7 }, { "com.example.Other", 2 },
        };
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                sd_bus_error e = SD_BUS_ERROR_MAKE_CONST(cases[i].name, "text");

                assert_int_equal(error_to_code(&e), cases[i].code);
        }

        assert_int_equal(error_set_errno(&error, -ENOSPC, "write '%s'", "x"), -ENOSPC);
        assert_string_equal(error.message, "write 'x': No space left on device");
        error_wrap(&error, "sandbox %i", 7);
        assert_string_equal(error.message, "sandbox 7: write 'x': No space left on device");
        assert_true(sd_bus_error_has_name(&error, PEERPOD_ERROR_EXHAUSTED));
}

int main(int argc, char *argv[]) {
#define STORE(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
        static const struct CMUnitTest fixed[] = {
                cmocka_unit_test(every_move_is_legal_or_illegal_as_drawn),
                cmocka_unit_test(states_have_their_names_on_the_bus),
                cmocka_unit_test(too_much_initdata_is_refused),
                cmocka_unit_test(instance_names_are_upstreams),
                cmocka_unit_test(record_comes_back_as_it_was),
                STORE(store_saves_replaces_and_removes),
                STORE(store_is_for_one_process_only),
                STORE(store_is_not_disturbed_by_other_files),
                STORE(store_keeps_what_it_sets_aside),
                STORE(a_save_that_fails_leaves_the_old_record),
                cmocka_unit_test(errors_become_codes),
        };
        struct CMUnitTest tests[ELEMENTSOF(fixed) + ELEMENTSOF(annotation_cases) + ELEMENTSOF(record_cases)];
        size_t n = ELEMENTSOF(fixed);

        memcpy(tests, fixed, sizeof(fixed));
        for (size_t i = 0; i < ELEMENTSOF(annotation_cases); i++)
                tests[n++] = (struct CMUnitTest) { .name = annotation_cases[i].name, .test_func = annotation_is_read_as_specified,
                                                   .initial_state = (void*) &annotation_cases[i] };
        for (size_t i = 0; i < ELEMENTSOF(record_cases); i++)
                tests[n++] = (struct CMUnitTest) { .name = record_cases[i].name, .test_func = record_is_taken_or_refused_as_specified,
                                                   .initial_state = (void*) &record_cases[i] };

        return cmocka_run_group_tests_name("adaptor", tests, NULL, NULL);
}
