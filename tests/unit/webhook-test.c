/* SPDX-License-Identifier: Apache-2.0 */
/* What the webhook makes of quantities, pods and reviews. Cases marked "upstream" are those of cloud-api-adaptor:
 * src/webhook/pkg/mutating_webhook/mutating-webhook_test.go; where our answer is another one, the case says what theirs is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <json-c/json.h>
#include <stdio.h>

#include "basic/strv.h"
#include "basic/util.h"
#include "kube/webhook/mutate.h"
#include "kube/webhook/quantity.h"
#include "kube/webhook/review.h"
#include "kube/webhook/webhook.h"

static char *classes[] = { (char*) "kata-remote", (char*) "kata-qemu-*", NULL };
static char *gpus[] = { (char*) "nvidia.com/gpu", (char*) "amd.com/*", NULL };
static const WebhookSettings settings = {
        .runtime_classes = classes,
        .vm_resource = (char*) "kata.peerpods.io/vm",
        .gpu_resources = gpus,
};

/* ---- quantities ---- */

#define N(x) ((Quantity) (x))
#define U(x) (N(x) * QUANTITY_ONE)

static const struct QuantityCase {
        const char *text;
        int result;
        Quantity value;
} quantity_cases[] = {
        { "0", 0, 0 },                  { "1", 0, U(1) },               { "+1", 0, U(1) },              { "-1", 0, -U(1) },
        { "500m", 0, U(1) / 2 },        { "0.5", 0, U(1) / 2 },         { ".5", 0, U(1) / 2 },          { "1.", 0, U(1) },
        { "1.G", 0, U(1000000000) },    { "007", 0, U(7) },             { "1k", 0, U(1000) },           { "1M", 0, U(1000000) },
        { "1Ki", 0, U(1024) },          { "1.5Gi", 0, U(3) << 29 },     { "0.1Ki", 0, N(102400000000) },{ "1Ei", 0, U(1) << 60 },
        { "1e3", 0, U(1000) },          { "1E3", 0, U(1000) },          { "1E", 0, U(1000000000000000000) },
        { "1e-3", 0, U(1) / 1000 },     { "1e+3", 0, U(1000) },         { "1n", 0, 1 },                 { "1u", 0, 1000 },
        { "0.5n", 0, 1 },               { "1.1n", 0, 2 },               { "1e-100", 0, 1 },             { "0e99999999999", 0, 0 },
        { "0.0000000001Ki", 0, 103 },   { "0.00000000009765625Ki", 0, 100 },
        { "9223372036854775807", 0, U(INT64_MAX) },                     { "9223372036854775808", -ERANGE },
        { "8Ei", 0, U(INT64_MAX) },     { "99999999999999999999Ki", 0, U(INT64_MAX) },
        { "7.9999999999999999999999999999Ei", 0, U(INT64_MAX) },        { "1e19", -ERANGE },            { "1e100", -ERANGE },
        { "+", 0, 0 },                  { "Ki", 0, 0 },                 { ".", 0, 0 },                  { "-0", 0, 0 },
        { "", -EINVAL },                { " 1", -EINVAL },              { "1 ", -EINVAL },              { "1K", -EINVAL },
        { "1ki", -EINVAL },             { "1KI", -EINVAL },             { "1mi", -EINVAL },             { "1.1.1", -EINVAL },
        { "--1", -EINVAL },             { "1e", -EINVAL },              { "1e+", -EINVAL },             { "1e1.5", -EINVAL },
        { "1Gi1", -EINVAL },            { "0x10", -EINVAL },            { "1,5", -EINVAL },             { "inf", -EINVAL },
        { "NaN", -EINVAL },             { "1 Gi", -EINVAL },            { "1Zi", -EINVAL },
};

static void a_quantity_is_read_as_kubernetes_reads_it(void **state) {
        const struct QuantityCase *c = *state;
        Quantity q = 0;

        assert_int_equal(quantity_parse(c->text, &q), c->result);
        assert_true(q == c->value);
}

static void what_is_formatted_is_read_again(void **state) {
        static const struct { Quantity value; const char *text; } table[] = {
                { 0, "0" }, { U(2), "2" }, { U(3) / 2, "1500m" }, { U(5) << 30, "5120Mi" }, { U(1) << 20, "1Mi" },
                { 1, "0.000000001" }, { U(INT64_MAX), "9223372036854775807" }, { U(INT64_MAX) - 1, "9223372036854775806.999999999" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                char text[QUANTITY_TEXT_SIZE];
                Quantity q;

                assert_string_equal(quantity_format(table[i].value, text), table[i].text);
                assert_int_equal(quantity_parse(text, &q), 0);
                assert_true(q == table[i].value);
        }
}

static void the_units_of_a_vm_are_rounded_up(void **state) {
        assert_int_equal(quantity_ceil(1, QUANTITY_ONE), 1);
        assert_int_equal(quantity_ceil(U(2), QUANTITY_ONE), 2);
        assert_int_equal(quantity_ceil(U(1) << 20, QUANTITY_MIB), 1);
        assert_int_equal(quantity_ceil((U(1) << 20) + 1, QUANTITY_MIB), 2);
        assert_int_equal(quantity_ceil(U(INT64_MAX), QUANTITY_ONE), INT64_MAX);
}

/* ---- pods ---- */

typedef struct Fixture {
        json_object *pod;
        Mutation mutation;
        char *error;
} Fixture;

static Fixture fixture;

static int fixture_done(void **state) {
        json_object_putp(&fixture.pod);
        mutation_done(&fixture.mutation);
        free(fixture.error);
        fixture = (Fixture) {};
        return 0;
}

static int mutate(const char *pod) {
        assert_int_equal(json_parse(pod, strlen(pod), &fixture.pod, NULL), 0);
        return mutate_pod(&settings, fixture.pod, &fixture.mutation, &fixture.error);
}

static const char* patch(void) {
        return fixture.mutation.patch ?
                json_object_to_json_string_ext(fixture.mutation.patch, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
}

#define HYPERVISOR "io.katacontainers.config.hypervisor."
#define RES(requests, limits) "\"resources\":{\"requests\":{" requests "},\"limits\":{" limits "}}"
#define CPU(n) "\"cpu\":\"" n "\""
#define MEM(n) "\"memory\":\"" n "\""
#define CPU_MEM(c, m) CPU(c) "," MEM(m)
#define C(name, rest) "{\"name\":\"" name "\"," rest "}"
#define ALWAYS "\"restartPolicy\":\"Always\","

static const struct SizeCase {
        const char *name, *spec;
        const char *vcpus, *memory, *gpus;
} size_cases[] = {
        { "upstream: the limits count", "\"containers\":[" C("a", RES(CPU_MEM("2", "4Gi"), CPU_MEM("3", "5Gi"))) "]", "3", "5120", NULL },
        { "upstream: a request for processors alone", "\"containers\":[" C("a", RES(CPU("2"), "")) "]", "2", NULL, NULL },
        { "upstream: a request for memory alone", "\"containers\":[" C("a", RES(MEM("4Gi"), "")) "]", NULL, "4096", NULL },
        { "upstream: a request for a GPU alone", "\"containers\":[" C("a", RES("\"nvidia.com/gpu\":\"1\"", "")) "]", NULL, NULL, "1" },
        { "upstream: no request", "\"containers\":[{\"name\":\"a\"}]", NULL, NULL, NULL },
        { "upstream: limits like requests", "\"containers\":[" C("a", RES(CPU_MEM("2", "4Gi"), CPU_MEM("2", "4Gi"))) "]", "2", "4096", NULL },
        { "upstream: init and other containers; theirs is 6 and 8192, the sum of those that never run together",
          "\"initContainers\":[" C("i", RES(CPU_MEM("1", "2Gi"), CPU_MEM("1", "2Gi"))) "],\"containers\":["
          C("a", RES(CPU_MEM("2", "4Gi"), CPU_MEM("3", "5Gi"))) "," C("b", RES(CPU_MEM("1", "1Gi"), CPU_MEM("1", "1Gi"))) ","
          C("c", RES(CPU("1") ",\"nvidia.com/gpu\":\"1\"", CPU("1") ",\"nvidia.com/gpu\":\"1\"")) "]", "5", "6144", "1" },
        { "upstream: half a processor", "\"containers\":[" C("a", RES(CPU_MEM("200m", "4Gi"), CPU_MEM("500m", "4Gi"))) "]", "1", "4096", NULL },
        { "upstream: one and a half", "\"containers\":[" C("a", RES(CPU_MEM("200m", "4Gi"), CPU_MEM("1500m", "4Gi"))) "]", "2", "4096", NULL },
        { "upstream: fractions in init and other containers; theirs is 2 and 8192",
          "\"initContainers\":[" C("i", RES(CPU_MEM("200m", "4Gi"), CPU_MEM("0.7", "4Gi"))) "],\"containers\":["
          C("a", RES(CPU_MEM("200m", "4Gi"), CPU_MEM("0.5", "4Gi"))) "]", "1", "4096", NULL },

        { "each container gets its greater one; upstream would give 3",
          "\"containers\":[" C("a", RES(CPU("1"), CPU("4"))) "," C("b", RES(CPU("2"), "")) "]", "6", NULL, NULL },
        { "a limit without a request is one", "\"containers\":[" C("a", RES("", CPU_MEM("2", "1Gi"))) "]", "2", "1024", NULL },
        { "fractions are added before they are rounded",
          "\"containers\":[" C("a", RES(CPU("0.4"), "")) "," C("b", RES(CPU("0.4"), "")) "," C("c", RES(CPU("200m"), "")) "]", "1", NULL, NULL },
        { "a billionth too many is one more", "\"containers\":[" C("a", RES(CPU("1"), "")) "," C("b", RES(CPU("1n"), "")) "]", "2", NULL, NULL },
        { "a byte too many is one MiB more", "\"containers\":[" C("a", RES(MEM("1073741825"), "")) "]", NULL, "1025", NULL },
        { "memory in decimal units", "\"containers\":[" C("a", RES(MEM("1G"), "")) "]", NULL, "954", NULL },
        { "numbers instead of text", "\"containers\":[" C("a", RES("\"cpu\":2,\"memory\":1073741824", "\"cpu\":2.5")) "]", "3", "1024", NULL },
        { "the largest init container counts if it is larger than all others",
          "\"initContainers\":[" C("i", RES(CPU("8"), "")) "," C("j", RES(CPU("2"), "")) "],\"containers\":[" C("a", RES(CPU("1"), "")) "]",
          "8", NULL, NULL },
        { "a sidecar goes on running", "\"initContainers\":[" C("s", ALWAYS RES(CPU("2"), "")) "],\"containers\":["
          C("a", RES(CPU("1"), "")) "]", "3", NULL, NULL },
        { "an init container runs beside the sidecars before it",
          "\"initContainers\":[" C("s", ALWAYS RES(CPU("2"), "")) "," C("i", RES(CPU("4"), "")) "],\"containers\":[" C("a", RES(CPU("1"), "")) "]",
          "6", NULL, NULL },
        { "an init container does not run beside the sidecars behind it",
          "\"initContainers\":[" C("i", RES(CPU("4"), "")) "," C("s", ALWAYS RES(CPU("2"), "")) "],\"containers\":[" C("a", RES(CPU("1"), "")) "]",
          "4", NULL, NULL },
        { "each resource has its own peak",
          "\"initContainers\":[" C("i", RES(CPU_MEM("4", "1Gi"), "")) "],\"containers\":[" C("a", RES(CPU_MEM("1", "2Gi"), "")) "]",
          "4", "2048", NULL },
        { "the overhead is the worker's", "\"overhead\":{\"cpu\":\"250m\",\"memory\":\"120Mi\"},\"containers\":["
          C("a", RES(CPU_MEM("1", "1Gi"), "")) "]", "1", "1024", NULL },
        { "a pod's own limit is that of all its containers",
          RES("", CPU("3")) ",\"containers\":[" C("a", RES(CPU("1"), CPU("3"))) "," C("b", RES(CPU("1"), CPU("3"))) "]", "3", NULL, NULL },
        { "a pod's own request is the least that it gets",
          RES(CPU_MEM("4", "1Gi"), "") ",\"containers\":[" C("a", RES(CPU_MEM("1", "2Gi"), "")) "]", "4", "2048", NULL },
        { "GPUs of several kinds add up",
          "\"containers\":[" C("a", RES("", "\"nvidia.com/gpu\":\"1\",\"amd.com/gpu\":2")) "," C("b", RES("", "\"nvidia.com/gpu\":\"1\"")) "]",
          NULL, NULL, "4" },
        { "zero is nothing", "\"containers\":[" C("a", RES(CPU_MEM("0", "0"), "")) "]", NULL, NULL, NULL },
        { "more than there is remains more than there is",
          "\"containers\":[" C("a", RES(MEM("8Ei"), "")) "," C("b", RES(MEM("8Ei"), "")) "]", NULL, "8796093022208", NULL },
};

static const char* annotation(json_object *annotations, const char *key) {
        const char *value = NULL;

        if (annotations)
                assert_true(json_get_string(annotations, key, &value, NULL) >= 0);
        return value;
}

static void assert_text(const char *a, const char *b) {
        if (a && b)
                assert_string_equal(a, b);
        else
                assert_ptr_equal(a, b);
}

static void a_pod_gets_a_vm_of_its_size(void **state) {
        const struct SizeCase *c = *state;
        _cleanup_(freep) char *pod = NULL;
        json_object *first, *annotations = NULL;
        const char *path;

        assert_true(asprintf(&pod, "{\"metadata\":{},\"spec\":{\"runtimeClassName\":\"kata-remote\",%s}}", c->spec) > 0);
        assert_int_equal(mutate(pod), 0);
        assert_non_null(fixture.mutation.patch);

        first = json_object_array_get_idx(fixture.mutation.patch, 0);
        assert_int_equal(json_get_string(first, "path", &path, NULL), 1);
        if (streq(path, "/metadata/annotations"))
                assert_int_equal(json_get_object(first, "value", &annotations, NULL), 1);
        assert_text(annotation(annotations, HYPERVISOR "default_vcpus"), c->vcpus);
        assert_text(annotation(annotations, HYPERVISOR "default_memory"), c->memory);
        assert_text(annotation(annotations, HYPERVISOR "default_gpus"), c->gpus);
}

#define PEER "\"runtimeClassName\":\"kata-remote\""
#define ONE_VM "{\"limits\":{\"kata.peerpods.io/vm\":\"1\"},\"requests\":{\"kata.peerpods.io/vm\":\"1\"}}"
#define ADD_VM "{\"op\":\"add\",\"path\":\"/spec/containers/0/resources\",\"value\":" ONE_VM "}"
#define EMPTY(path) "{\"op\":\"add\",\"path\":\"" path "/resources\",\"value\":{}}"
#define RECORD "\"kata.peerpods.io/asked-for\":"
#define SET(key, value) "{\"op\":\"add\",\"path\":\"/metadata/annotations/" key "\",\"value\":\"" value "\"}"

static const struct PatchCase {
        const char *name, *pod, *patch, *warning;
} patch_cases[] = {
        { "a pod of another class stays as it is",
          "{\"metadata\":{},\"spec\":{\"runtimeClassName\":\"runc\",\"containers\":[" C("a", RES(CPU("1"), "")) "]}}", NULL, NULL },
        { "a pod without a class stays as it is", "{\"metadata\":{},\"spec\":{\"containers\":[" C("a", RES(CPU("x"), "")) "]}}", NULL, NULL },
        { "a class may be a pattern", "{\"metadata\":{},\"spec\":{\"runtimeClassName\":\"kata-qemu-tdx\",\"containers\":[{\"name\":\"a\"}]}}",
          "[" ADD_VM "]", NULL },
        { "a pod without containers is left to the API server", "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[]}}", NULL, NULL },
        { "what a pod does not have is not taken away",
          "{\"metadata\":{\"annotations\":null},\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\"},{\"name\":\"b\",\"resources\":{}}]}}",
          "[" ADD_VM "]", NULL },
        { "fields that are not known stay, and the order is fixed",
          "{\"metadata\":{\"name\":\"p\",\"future\":1},\"spec\":{" PEER ",\"initContainers\":[" C("i", RES(MEM("1Gi"), "")) "],\"containers\":["
          C("a", RES(CPU("1"), "") ",\"future\":{}") "," C("b", RES("", CPU("1"))) "]}}",
          "[{\"op\":\"add\",\"path\":\"/metadata/annotations\",\"value\":{\"" HYPERVISOR "default_vcpus\":\"2\",\"" HYPERVISOR
          "default_memory\":\"1024\"," RECORD "\"{\\\"containers\\\":{\\\"i\\\":{\\\"memory\\\":\\\"1024Mi\\\"},\\\"a\\\":{\\\"cpu\\\":\\\"1\\\"},"
          "\\\"b\\\":{\\\"cpu\\\":\\\"1\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"2\\\",\\\"memory\\\":\\\"1024\\\"}}\"}},"
          EMPTY("/spec/containers/1") "," EMPTY("/spec/initContainers/0") "," ADD_VM "]", NULL },
        { "annotations that are there stay",
          "{\"metadata\":{\"annotations\":{\"x\":\"y\"}},\"spec\":{" PEER ",\"containers\":[" C("a", RES(CPU("1"), "")) "]}}",
          "[" SET(HYPERVISOR "default_vcpus", "1") "," SET("kata.peerpods.io~1asked-for",
          "{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"1\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"1\\\"}}") "," ADD_VM "]", NULL },
        { "our own output stays as it is",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_vcpus\":\"1\"," RECORD
          "\"{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"1\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"1\\\"}}\"}},"
          "\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\",\"resources\":" ONE_VM "}]}}", NULL, NULL },
        { "a container that comes later is added to what was there, even as the first one",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_vcpus\":\"1\"," RECORD
          "\"{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"1\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"1\\\"}}\"}},"
          "\"spec\":{" PEER ",\"containers\":[" C("proxy", RES(CPU("500m"), "")) ",{\"name\":\"a\",\"resources\":" ONE_VM "}]}}",
          "[" SET(HYPERVISOR "default_vcpus", "2") "," SET("kata.peerpods.io~1asked-for",
          "{\\\"containers\\\":{\\\"proxy\\\":{\\\"cpu\\\":\\\"500m\\\"},\\\"a\\\":{\\\"cpu\\\":\\\"1\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"2\\\"}}")
          "," EMPTY("/spec/containers/1") "," ADD_VM "]", NULL },
        { "a container that asks anew is counted anew",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_vcpus\":\"4\"," RECORD
          "\"{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"4\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"4\\\"}}\"}},"
          "\"spec\":{" PEER ",\"containers\":[" C("a", RES(CPU("3"), "")) "]}}",
          "[" SET(HYPERVISOR "default_vcpus", "3") "," SET("kata.peerpods.io~1asked-for",
          "{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"3\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"3\\\"}}") "," ADD_VM "]", NULL },
        { "a container that goes takes its share along",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_gpus\":\"1\"," RECORD
          "\"{\\\"containers\\\":{\\\"b\\\":{\\\"gpu\\\":\\\"1\\\"}},\\\"set\\\":{\\\"gpu\\\":\\\"1\\\"}}\"}},"
          "\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\",\"resources\":" ONE_VM "}]}}",
          "[{\"op\":\"remove\",\"path\":\"/metadata/annotations/" HYPERVISOR "default_gpus\"},"
          "{\"op\":\"remove\",\"path\":\"/metadata/annotations/kata.peerpods.io~1asked-for\"}]", NULL },
        { "a pod's own resources are taken away, and remembered",
          "{\"metadata\":{},\"spec\":{" PEER "," RES(CPU("2"), CPU("4")) ",\"containers\":[{\"name\":\"a\"}]}}",
          "[{\"op\":\"add\",\"path\":\"/metadata/annotations\",\"value\":{\"" HYPERVISOR "default_vcpus\":\"4\"," RECORD
          "\"{\\\"pod\\\":{\\\"requests\\\":{\\\"cpu\\\":\\\"2\\\"},\\\"limits\\\":{\\\"cpu\\\":\\\"4\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"4\\\"}}\"}},"
          ADD_VM ",{\"op\":\"remove\",\"path\":\"/spec/resources\"}]", NULL },
        { "a pod's own resources still count the next time",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_vcpus\":\"4\"," RECORD
          "\"{\\\"pod\\\":{\\\"requests\\\":{\\\"cpu\\\":\\\"2\\\"},\\\"limits\\\":{\\\"cpu\\\":\\\"4\\\"}},\\\"set\\\":{\\\"cpu\\\":\\\"4\\\"}}\"}},"
          "\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\",\"resources\":" ONE_VM "}]}}", NULL, NULL },
        { "what the author has set stays, with a warning if it is less",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_vcpus\":\"1\"}},\"spec\":{" PEER ",\"containers\":["
          C("a", RES(CPU("2"), "")) "]}}",
          "[" SET("kata.peerpods.io~1asked-for", "{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"2\\\"}}}") "," ADD_VM "]",
          "annotation " HYPERVISOR "default_vcpus, which this pod comes with, wins over the 2 that its containers ask for" },
        { "what the author has set stays, without one if it is more",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_vcpus\":\"8\"}},\"spec\":{" PEER ",\"containers\":["
          C("a", RES(CPU("2"), "")) "]}}",
          "[" SET("kata.peerpods.io~1asked-for", "{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"2\\\"}}}") "," ADD_VM "]", NULL },
        { "what the author has set is the author's the next time, too",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_vcpus\":\"8\"," RECORD
          "\"{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"2\\\"}}}\"}},\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\",\"resources\":"
          ONE_VM "}]}}", NULL, NULL },
        { "a machine type decides, with a warning",
          "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "machine_type\":\"t3.large\",\"" HYPERVISOR "default_vcpus\":\"8\"}},\"spec\":{" PEER
          ",\"containers\":[" C("a", RES(CPU("2"), "")) "]}}",
          "[" SET("kata.peerpods.io~1asked-for", "{\\\"containers\\\":{\\\"a\\\":{\\\"cpu\\\":\\\"2\\\"}}}") "," ADD_VM "]",
          "annotation " HYPERVISOR "machine_type decides on the size of the pod VM, whatever this pod's containers ask for" },
        { "what no VM has is dropped, with a warning",
          "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[" C("a", "\"resources\":{\"requests\":{\"ephemeral-storage\":\"1Gi\","
          "\"hugepages-2Mi\":\"4Mi\"},\"limits\":{\"ephemeral-storage\":\"1Gi\"},\"claims\":[{\"name\":\"x\"}]}") "]}}",
          "[{\"op\":\"add\",\"path\":\"/metadata/annotations\",\"value\":{" RECORD "\"{\\\"containers\\\":{\\\"a\\\":{}}}\"}}," ADD_VM "]",
          "dropped, as a pod VM is not sized by them: ephemeral-storage, hugepages-2Mi, claims" },
        { "devices of the node are not allocated for a VM that does not get them",
          "{\"metadata\":{},\"spec\":{" PEER ",\"resourceClaims\":[{\"name\":\"x\",\"resourceClaimName\":\"y\"}],\"containers\":["
          C("a", "\"resources\":{\"claims\":[{\"name\":\"x\"}]}") "]}}",
          "[{\"op\":\"add\",\"path\":\"/metadata/annotations\",\"value\":{" RECORD "\"{\\\"containers\\\":{\\\"a\\\":{}}}\"}}," ADD_VM
          ",{\"op\":\"remove\",\"path\":\"/spec/resourceClaims\"}]",
          "dropped, as a pod VM is not sized by them: claims, resourceClaims" },
        { "a claim that no container refers to is dropped as well",
          "{\"metadata\":{},\"spec\":{" PEER ",\"resourceClaims\":[{\"name\":\"x\",\"resourceClaimName\":\"y\"}],\"containers\":[{\"name\":\"a\",\"resources\":"
          ONE_VM "}]}}", "[{\"op\":\"remove\",\"path\":\"/spec/resourceClaims\"}]",
          "dropped, as a pod VM is not sized by them: resourceClaims" },
        { "no claims are left as they are",
          "{\"metadata\":{},\"spec\":{" PEER ",\"resourceClaims\":[],\"containers\":[{\"name\":\"a\",\"resources\":" ONE_VM "}]}}", NULL, NULL },
};

static void a_pod_gets_this_patch(void **state) {
        const struct PatchCase *c = *state;

        assert_int_equal(mutate(c->pod), 0);
        assert_text(patch(), c->patch);
        assert_text(fixture.mutation.warnings ? fixture.mutation.warnings[0] : NULL, c->warning);
        assert_int_equal(strv_length(fixture.mutation.warnings), c->warning ? 1 : 0);
}

static const struct ErrorCase {
        const char *name, *pod;
        int result;
        const char *error;
} error_cases[] = {
        { "no spec", "{\"metadata\":{}}", -EBADMSG, "the pod has no spec" },
        { "no metadata", "{\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\"}]}}", -EBADMSG, "the pod has no metadata" },
        { "containers are no array", "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":{}}}", -EBADMSG, "'containers' is not of type array" },
        { "a container is no object", "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\"},7]}}", -EBADMSG,
          "spec.containers[1] is no object" },
        { "a container without a name", "{\"metadata\":{},\"spec\":{" PEER ",\"initContainers\":[{}],\"containers\":[{\"name\":\"a\"}]}}", -EBADMSG,
          "spec.initContainers[0]: it has no name" },
        { "two containers of one name",
          "{\"metadata\":{},\"spec\":{" PEER ",\"initContainers\":[{\"name\":\"a\"}],\"containers\":[{\"name\":\"a\"}]}}", -EINVAL,
          "spec.containers[0]: another container has its name, too" },
        { "a quantity is none", "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[" C("a", RES("", CPU("1x"))) "]}}", -EINVAL,
          "spec.containers[0]: resources: limits['cpu']: '1x' is no quantity" },
        { "a quantity is too large", "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[" C("a", RES(MEM("1e30"), "")) "]}}", -EINVAL,
          "spec.containers[0]: resources: requests['memory']: '1e30' is more than any VM has" },
        { "a quantity is negative", "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[" C("a", RES(MEM("-1"), "")) "]}}", -EINVAL,
          "spec.containers[0]: resources: requests['memory']: '-1' is negative" },
        { "a quantity is an object", "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[" C("a", RES("\"cpu\":{}", "")) "]}}", -EBADMSG,
          "spec.containers[0]: resources: requests['cpu'] is no quantity" },
        { "a part of a GPU", "{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[" C("a", RES("", "\"nvidia.com/gpu\":\"0.5\"")) "]}}", -EINVAL,
          "spec.containers[0]: resources: limits['nvidia.com/gpu'] must be a whole number" },
        { "a record that is not ours", "{\"metadata\":{\"annotations\":{" RECORD "\"[]\"}},\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\"}]}}",
          -EINVAL, "metadata.annotations['kata.peerpods.io/asked-for'] is not what this webhook writes (not an object): remove it" },
        { "an annotation that is no text", "{\"metadata\":{\"annotations\":{\"" HYPERVISOR "default_vcpus\":1}},\"spec\":{" PEER
          ",\"containers\":[{\"name\":\"a\"}]}}", -EBADMSG, "'" HYPERVISOR "default_vcpus' is not of type string" },
};

static void a_pod_that_is_wrong_is_refused(void **state) {
        const struct ErrorCase *c = *state;

        assert_int_equal(mutate(c->pod), c->result);
        assert_text(fixture.error, c->error);
        assert_null(fixture.mutation.patch);
        assert_null(fixture.mutation.warnings);
}

/* ---- reviews ---- */

#define REVIEW(request) "{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\",\"request\":{" request "}}"
#define PODS "\"uid\":\"u\",\"resource\":{\"group\":\"\",\"version\":\"v1\",\"resource\":\"pods\"}"
#define ANSWER(response) "{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\",\"response\":{" response "}}"
#define REFUSED(uid, code, message) ANSWER("\"uid\":\"" uid "\",\"status\":{\"metadata\":{},\"code\":" code ",\"message\":\"" message \
                                           "\"},\"allowed\":false")
#define ALLOWED ANSWER("\"uid\":\"u\",\"status\":{\"metadata\":{},\"code\":200},\"allowed\":true")

static const struct ReviewCase {
        const char *name, *question, *answer;
} review_cases[] = {
        { "what is no JSON", "x", REFUSED("", "400", "unexpected character at byte 0") },
        { "what is no object", "[]", REFUSED("", "400", "not an object") },
        { "another kind", "{\"kind\":\"Pod\"}", REFUSED("", "400", "'kind' is not 'AdmissionReview'") },
        { "another version", "{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1beta1\"}",
          REFUSED("", "400", "'apiVersion' is not 'admission.k8s.io/v1'") },
        { "no uid", REVIEW(""), REFUSED("", "400", "there is no 'request' with a 'uid'") },
        { "no object", REVIEW(PODS ",\"operation\":\"CREATE\""), REFUSED("u", "400", "there is no 'object' in the request") },
        { "a wrong pod, with its uid", REVIEW(PODS ",\"operation\":\"CREATE\",\"object\":{}"), REFUSED("u", "400", "the pod has no spec") },
        { "another operation", REVIEW(PODS ",\"operation\":\"UPDATE\",\"object\":{}"), ALLOWED },
        { "a subresource", REVIEW(PODS ",\"subResource\":\"resize\",\"operation\":\"CREATE\",\"object\":{}"), ALLOWED },
        { "another resource", REVIEW("\"uid\":\"u\",\"resource\":{\"group\":\"apps\",\"resource\":\"pods\"},\"operation\":\"CREATE\",\"object\":{}"),
          ALLOWED },
        { "a pod of another class",
          REVIEW(PODS ",\"operation\":\"CREATE\",\"object\":{\"spec\":{\"runtimeClassName\":\"runc\"}}"), ALLOWED },
        { "a pod of ours",
          REVIEW(PODS ",\"operation\":\"CREATE\",\"object\":{\"metadata\":{},\"spec\":{" PEER ",\"containers\":[{\"name\":\"a\"}]}}"),
          ANSWER("\"patch\":\"W3sib3AiOiJhZGQiLCJwYXRoIjoiL3NwZWMvY29udGFpbmVycy8wL3Jlc291cmNlcyIsInZhbHVlIjp7ImxpbWl0cyI6eyJrYXRhLnBlZXJwb2Rz"
                 "LmlvL3ZtIjoiMSJ9LCJyZXF1ZXN0cyI6eyJrYXRhLnBlZXJwb2RzLmlvL3ZtIjoiMSJ9fX1d\",\"patchType\":\"JSONPatch\",\"uid\":\"u\","
                 "\"status\":{\"metadata\":{},\"code\":200},\"allowed\":true") },
};

static void a_review_is_answered(void **state) {
        const struct ReviewCase *c = *state;
        _cleanup_(freep) char *answer = NULL;

        assert_int_equal(review_answer(&settings, c->question, strlen(c->question), &answer), 0);
        assert_string_equal(answer, c->answer);
}

/* Of each, a review of the permitted size would become some hundred MiB in memory. */
static void a_review_that_would_become_huge_is_refused(void **state) {
        static const char *const pieces[] = { "{},", "[],", "1," };

        for (size_t i = 0; i < ELEMENTSOF(pieces); i++) {
                size_t n = strlen(pieces[i]), size = REVIEW_SIZE_MAX / n * n;
                _cleanup_(freep) char *answer = NULL, *text = malloc(size);

                assert_non_null(text);
                for (size_t j = 0; j < size; j += n)
                        memcpy(text + j, pieces[i], n);
                assert_int_equal(review_answer(&settings, text, size, &answer), 0);
                assert_string_equal(answer, REFUSED("", "400", "the review is too large"));
        }
}

#define ADD_CASES(array, function, label)                                                                       \
        for (size_t i = 0; i < ELEMENTSOF(array); i++)                                                          \
                tests[n++] = (struct CMUnitTest) { .name = array[i].label, .test_func = function,               \
                                                   .teardown_func = fixture_done, .initial_state = (void*) (array + i) }

int main(void) {
        static struct CMUnitTest tests[ELEMENTSOF(quantity_cases) + ELEMENTSOF(size_cases) + ELEMENTSOF(patch_cases) +
                                       ELEMENTSOF(error_cases) + ELEMENTSOF(review_cases) + 3];
        size_t n = 0;

        ADD_CASES(quantity_cases, a_quantity_is_read_as_kubernetes_reads_it, text);
        ADD_CASES(size_cases, a_pod_gets_a_vm_of_its_size, name);
        ADD_CASES(patch_cases, a_pod_gets_this_patch, name);
        ADD_CASES(error_cases, a_pod_that_is_wrong_is_refused, name);
        ADD_CASES(review_cases, a_review_is_answered, name);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(what_is_formatted_is_read_again);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(the_units_of_a_vm_are_rounded_up);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(a_review_that_would_become_huge_is_refused);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
