/* SPDX-License-Identifier: Apache-2.0 */
/* What a PeerPod says, read; and the clouds' settings on their way. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "basic/util.h"
#include "kube/ctrl/controller.h"
#include "kube/ctrl/variables.h"
#include "userdata/decode.h"

/* ---- PeerPods ---- */

#define OBJECT(metadata, spec) "{\"apiVersion\":\"confidentialcontainers.org/v1alpha1\",\"kind\":\"PeerPod\",\"metadata\":{" \
        "\"name\":\"web\",\"namespace\":\"ns\",\"uid\":\"u-1\",\"resourceVersion\":\"7\",\"creationTimestamp\":\"2026-08-03T14:17:51Z\"" metadata "}," \
        "\"spec\":{" spec "}}"
#define OWNER(name, uid) ",\"ownerReferences\":[{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"name\":\"" name "\",\"uid\":\"" uid "\",\"controller\":true}]"
#define TAGGED "\"cloudProvider\":\"aws\",\"instanceName\":\"podvm-web-1\",\"sandboxID\":\"abc\""

typedef struct Case {
        const char *name, *object;
        const char *flaw;               /* NULL: none */
        const char *provider, *prefix, *pod_uid;
        bool tagged;
} Case;

static const Case cases[] = {
        { "upstream's object (cloud-api-adaptor: pkg/adaptor/k8sops/peerpod.go)", OBJECT(OWNER("web", "p-1"), "\"cloudProvider\":\"aws\",\"instanceID\":\"i-1\""),
          NULL, "aws", "podvm-web-", "p-1", false },
        { "ours, with name and sandbox", OBJECT(OWNER("web", "p-1"), TAGGED), NULL, "aws", "podvm-web-", "p-1", true },
        { "PowerVS by the name that upstream's chart has for it", OBJECT("", "\"cloudProvider\":\"ibmcloudpowervs\",\"instanceID\":\"i-1\""), NULL,
          "ibmcloud-powervs", "", "", false },
        { "without owners", OBJECT("", TAGGED), NULL, "aws", "", "", true },
        { "an owner that is no pod", OBJECT(",\"ownerReferences\":[{\"kind\":\"Job\",\"name\":\"j\",\"uid\":\"j-1\"}]", TAGGED), NULL, "aws", "", "", true },
        { "an owner whose name is none", OBJECT(OWNER("../x", "p-1"), TAGGED), NULL, "aws", "", "", true },
        { "the owner in control among others", OBJECT(",\"ownerReferences\":[{\"kind\":\"Pod\",\"name\":\"a\",\"uid\":\"a-1\"},"
          "{\"kind\":\"Pod\",\"name\":\"b\",\"uid\":\"b-1\",\"controller\":true}]", TAGGED), NULL, "aws", "podvm-b-", "b-1", true },
        { "a long pod name is cut, and what follows is open", OBJECT(OWNER("abcdefghijklmnopqrstuvwxyz0123456789", "p-1"), TAGGED), NULL, "aws",
          "podvm-abcdefghijklmnopqrstuvwxyz", "p-1", true },
        { "no spec", OBJECT("", ""), "spec.cloudProvider is empty", "", "", "", false },
        { "a number for a provider", OBJECT("", "\"cloudProvider\":7,\"instanceID\":\"i-1\""), "spec.cloudProvider is empty", "", "", "", false },
        { "no instance", OBJECT("", "\"cloudProvider\":\"aws\""), "it names no instance: spec.instanceID and spec.instanceName are empty", "aws", "", "", false },
        { "a path for a name", OBJECT("", "\"cloudProvider\":\"aws\",\"instanceName\":\"../x\",\"sandboxID\":\"abc\""), "spec.instanceName is no instance's name",
          "aws", "", "", true },
        { "a path for a sandbox", OBJECT("", "\"cloudProvider\":\"aws\",\"instanceName\":\"x\",\"sandboxID\":\"../x\""), "spec.sandboxID is no sandbox's id",
          "aws", "", "", true },
        { "a name without sandbox", OBJECT("", "\"cloudProvider\":\"aws\",\"instanceName\":\"x\""),
          "only one of spec.instanceName and spec.sandboxID is given", "aws", "", "", false },
        { "a line end in an id", OBJECT("", "\"cloudProvider\":\"aws\",\"instanceID\":\"a\\nb\""), "spec.instanceID is no instance's id", "aws", "", "", false },
};

static void read_object(Controller *c, const char *uid, const char *text, PeerPod **ret) {
        json_object *o;

        assert_int_equal(json_parse(text, strlen(text), &o, NULL), 0);
        if (!*ret)
                assert_int_equal(peerpod_new(c, uid, ret), 0);
        assert_true(peerpod_read(*ret, o) >= 0);
        json_object_put(o);
}

static void object_is_read_as_specified(void **state) {
        const Case *test = *state;
        Controller c = {};
        PeerPod *p = NULL;

        read_object(&c, "u-1", test->object, &p);
        if (test->flaw)
                assert_string_equal(peerpod_flaw(p), test->flaw);
        else
                assert_null(peerpod_flaw(p));
        assert_string_equal(p->provider_name, test->provider);
        assert_string_equal(p->name_prefix, test->prefix);
        assert_string_equal(p->pod_uid, test->pod_uid);
        assert_int_equal(peerpod_is_tagged(p), test->tagged);
        peerpod_free(p);
        assert_null(c.owners);
        assert_null(c.claims);
}

static void what_changes_but_does_not_matter_is_told_apart(void **state) {
        Controller c = {};
        PeerPod *p = NULL;
        json_object *o;
        static const struct {
                const char *text;
                int changed;
        } steps[] = {
                { OBJECT(",\"labels\":{\"a\":\"b\"}", TAGGED), 0 },
                { OBJECT(",\"finalizers\":[\"peer.pod/finalizer\"]", TAGGED), 1 },
                { OBJECT(",\"finalizers\":[\"a/b\",\"peer.pod/finalizer\"]", TAGGED), 0 },
                { OBJECT(",\"finalizers\":[\"peer.pod/finalizer\"],\"deletionTimestamp\":\"2026-08-03T14:18:00Z\"", TAGGED), 1 },
                { OBJECT(",\"finalizers\":[\"peer.pod/finalizer\"],\"deletionTimestamp\":\"2026-08-03T14:18:00Z\"", TAGGED ",\"instanceID\":\"i-1\""), 1 },
        };

        read_object(&c, "u-1", OBJECT("", TAGGED), &p);
        for (size_t i = 0; i < ELEMENTSOF(steps); i++) {
                assert_int_equal(json_parse(steps[i].text, strlen(steps[i].text), &o, NULL), 0);
                assert_int_equal(peerpod_read(p, o), steps[i].changed);
                json_object_put(o);
        }
        assert_true(p->deleting && p->has_finalizer);
        peerpod_free(p);
}

/* Of one pod: by attempt where both have one, else by time. */
static void successors_are_found_by_attempt_and_by_time(void **state) {
        Controller c = {};
        PeerPod *a = NULL, *b = NULL, *other = NULL;

        read_object(&c, "a", OBJECT(OWNER("web", "p-1"), TAGGED ",\"attempt\":2"), &a);
        read_object(&c, "b", OBJECT(OWNER("web", "p-1"), TAGGED ",\"attempt\":3"), &b);
        read_object(&c, "other", OBJECT(OWNER("web", "p-2"), TAGGED ",\"attempt\":9"), &other);
        assert_ptr_equal(peerpod_successor(a, true), b);
        assert_null(peerpod_successor(b, true));
        assert_null(peerpod_successor(other, true));

        b->deleting = true;
        assert_null(peerpod_successor(a, true));
        assert_ptr_equal(peerpod_successor(a, false), b);

        /* Of one second, without attempts: nobody knows. */
        a->attempt = b->attempt = 0;
        assert_null(peerpod_successor(a, false));
        assert_null(peerpod_successor(b, false));
        b->created_usec += USEC_PER_SEC;
        assert_ptr_equal(peerpod_successor(a, false), b);

        peerpod_free(b);
        assert_null(peerpod_successor(a, false));
        peerpod_free(a);
        peerpod_free(other);
}

static void an_instance_is_the_older_objects(void **state) {
        Controller c = {};
        PeerPod *old = NULL, *young = NULL, *other = NULL;

        read_object(&c, "old", OBJECT("", TAGGED), &old);
        read_object(&c, "young", OBJECT("", TAGGED ",\"instanceID\":\"i-1\""), &young);
        read_object(&c, "other", OBJECT("", "\"cloudProvider\":\"gcp\",\"instanceID\":\"i-1\""), &other);
        young->created_usec += USEC_PER_SEC;
        assert_ptr_equal(peerpod_rival(young), old);
        assert_null(peerpod_rival(old));
        assert_null(peerpod_rival(other));          /* the same id, at another cloud */

        young->created_usec = old->created_usec;        /* nobody knows whose it is: nobody may delete it */
        assert_ptr_equal(peerpod_rival(young), old);
        assert_ptr_equal(peerpod_rival(old), young);
        old->deleting = true;
        assert_null(peerpod_rival(young));

        peerpod_free(old);
        peerpod_free(young);
        peerpod_free(other);
}

/* ---- settings ---- */

static void variables_replace_each_other_and_stay_sorted(void **state) {
        Variables v = VARIABLES_NULL;
        static const char *const in[] = { "B=2", "A=1", "AB=x=y", "C=", "B=3", "A_B=4" };
        static const char *const out[] = { "A=1", "AB=x=y", "A_B=4", "B=3", "C=" };

        for (size_t i = 0; i < ELEMENTSOF(in); i++)
                assert_int_equal(variables_parse_item(&v, in[i]), 0);
        assert_int_equal(v.n, ELEMENTSOF(out));
        for (size_t i = 0; i < ELEMENTSOF(out); i++) {
                char name[8] = "";

                memcpy(name, out[i], strcspn(out[i], "="));
                assert_string_equal(variables_get(&v, name), strchr(out[i], '=') + 1);
        }
        assert_null(variables_get(&v, "AC"));
        variables_done(&v);
}

static void what_is_no_variable_is_refused(void **state) {
        Variables v = VARIABLES_NULL;
        char *big = calloc(1, VARIABLES_SIZE_MAX);

        assert_non_null(big);
        memset(big, 'x', VARIABLES_SIZE_MAX - 1);
        assert_int_equal(variables_set(&v, "", "x", 1), -EINVAL);
        assert_int_equal(variables_set(&v, "1A", "x", 1), -EINVAL);
        assert_int_equal(variables_set(&v, "a-b", "x", 1), -EINVAL);
        assert_int_equal(variables_set(&v, "A", "x\0y", 3), -EINVAL);
        assert_int_equal(variables_parse_item(&v, "A"), -EINVAL);
        assert_int_equal(variables_set(&v, "A", big, VARIABLES_SIZE_MAX - 2), 0);
        assert_int_equal(variables_set(&v, "B", "", 0), -E2BIG);
        free(big);
        variables_done(&v);

        for (unsigned i = 0; i < VARIABLES_MAX; i++) {
                char name[16];

                (void) snprintf(name, sizeof(name), "V%u", i);
                assert_int_equal(variables_set(&v, name, "", 0), 0);
        }
        assert_int_equal(variables_set(&v, "ONE_MORE", "", 0), -E2BIG);
        assert_int_equal(variables_set(&v, "V7", "x", 1), 0);
        variables_done(&v);
}

static void any_value_survives_an_environment_file(void **state) {
        static const char *const values[] = { "", " a ", "it's", "'", "''", "\"$HOME\" `x` \\", "two\nlines\n", "#no comment", "a=b", "\\'", "\xc3\xa4" };
        Variables v = VARIABLES_NULL, again = VARIABLES_NULL;
        char *text;
        size_t size;

        for (size_t i = 0; i < ELEMENTSOF(values); i++) {
                char name[16];

                (void) snprintf(name, sizeof(name), "V%zu", i);
                assert_int_equal(variables_set(&v, name, values[i], strlen(values[i])), 0);
        }
        assert_int_equal(variables_format(&v, &text, &size), 0);
        assert_int_equal(size, strlen(text));
        assert_int_equal(variables_parse(&again, text, size), 0);
        assert_true(variables_equal(&v, &again));
        free(text);
        variables_done(&v);
        variables_done(&again);
}

int main(void) {
        struct CMUnitTest tests[ELEMENTSOF(cases) + 6];
        size_t n = 0;

        for (; n < ELEMENTSOF(cases); n++)
                tests[n] = (struct CMUnitTest) { .name = cases[n].name, .test_func = object_is_read_as_specified, .initial_state = (void*) (cases + n) };
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(what_changes_but_does_not_matter_is_told_apart);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(successors_are_found_by_attempt_and_by_time);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(an_instance_is_the_older_objects);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(variables_replace_each_other_and_stay_sorted);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(what_is_no_variable_is_refused);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(any_value_survives_an_environment_file);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
