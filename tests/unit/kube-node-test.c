/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-node: pull secrets, records, and the PeerPod object. The expected texts of pull secrets follow the rules of cloud-api-adaptor
 * (src/cloud-api-adaptor/pkg/adaptor/k8sops) and docker's own files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <json-c/json_tokener.h>

#include "basic/json.h"
#include "basic/util.h"
#include "kube/kube-object.h"
#include "kube/node/peerpod-object.h"
#include "kube/node/pull-secrets.h"
#include "kube/node/track-record.h"
#include "kube/peerpod-names.h"
#include "userdata/encode.h"

typedef struct SecretCase {
        const char *name, *key, *text;
        int result;
        const char *auth;               /* auth.json, after {"auths":{"old.example":{"auth":"b2xk"}}} */
} SecretCase;

#define OLD "\"old.example\":{\"auth\":\"b2xk\"}"

static const SecretCase secret_cases[] = {
        { "an auth is taken as it is", ".dockerconfigjson", "{\"auths\":{\"a.example\":{\"auth\":\"dTpw\"}}}", 1,
          "{\"auths\":{" OLD ",\"a.example\":{\"auth\":\"dTpw\"}}}" },
        { "what comes later wins", ".dockerconfigjson", "{\"auths\":{\"old.example\":{\"auth\":\"bmV3\"}}}", 1,
          "{\"auths\":{\"old.example\":{\"auth\":\"bmV3\"}}}" },
        { "name and password make an auth", ".dockerconfigjson", "{\"auths\":{\"a.example\":{\"username\":\"u\",\"password\":\"p\",\"email\":\"x\"}}}", 1,
          "{\"auths\":{" OLD ",\"a.example\":{\"auth\":\"dTpw\"}}}" },
        { "a name without password is dropped", ".dockerconfigjson", "{\"auths\":{\"a.example\":{\"username\":\"u\"}}}", 0, "{\"auths\":{" OLD "}}" },
        { "an old file is a bare map", ".dockercfg", "{\"https://index.docker.io/v1/\":{\"auth\":\"dTpw\"}}", 1,
          "{\"auths\":{" OLD ",\"https://index.docker.io/v1/\":{\"auth\":\"dTpw\"}}}" },
        { "no auths", ".dockerconfigjson", "{\"credHelpers\":{}}", 0, "{\"auths\":{" OLD "}}" },
        { "another kind of secret", "tls.key", "{}", -ENOENT, "{\"auths\":{" OLD "}}" },
        { "no JSON", ".dockerconfigjson", "{", -EBADMSG, "{\"auths\":{" OLD "}}" },
        { "auths of another type", ".dockerconfigjson", "{\"auths\":[]}", -EBADMSG, "{\"auths\":{" OLD "}}" },
        { "an auth of another type", ".dockerconfigjson", "{\"auths\":{\"a\":{\"auth\":7}}}", -EBADMSG, "{\"auths\":{" OLD "}}" },
        { "a control character in a registry", ".dockerconfigjson", "{\"auths\":{\"a\\nb\":{\"auth\":\"dTpw\"}}}", -EBADMSG, "{\"auths\":{" OLD "}}" },
        { "a line end in an auth", ".dockerconfigjson", "{\"auths\":{\"a\":{\"auth\":\"d\\n\"}}}", -EBADMSG, "{\"auths\":{" OLD "}}" },
};

static json_object* parse(const char *text) {
        json_object *o = NULL;

        assert_int_equal(json_parse(text, strlen(text), &o, NULL), 0);
        return o;
}

static void pull_secrets_merge(void **state) {
        const SecretCase *c = *state;
        json_object *secret = json_object_new_object(), *data = json_object_new_object(), *auths = parse("{" OLD "}");
        char *encoded, *text;

        assert_int_equal(base64_encode(c->text, strlen(c->text), &encoded), 0);
        assert_int_equal(json_set_string(data, c->key, encoded), 0);
        assert_int_equal(json_set(secret, "data", data), 0);
        assert_int_equal(pull_secret_merge(secret, auths), c->result);
        assert_int_equal(auth_json_format(auths, &text), 0);
        assert_string_equal(text, c->auth);

        free(text);
        free(encoded);
        json_object_put(auths);
        json_object_put(secret);
}

static void names_of_secrets_are_bounded(void **state) {
        json_object *list = json_tokener_parse("[{\"name\":\"a\"},{\"name\":\"../b\"},{},3,{\"name\":\"c\"}]"), *long_list = json_object_new_array();
        char **names = NULL;

        assert_int_equal(pull_secret_names(NULL, &names), 0);
        assert_int_equal(pull_secret_names(list, &names), 0);
        assert_string_equal(names[0], "a");
        assert_string_equal(names[1], "c");
        assert_null(names[2]);
        for (int i = 0; i < 40; i++)
                json_object_array_add(long_list, parse("{\"name\":\"x\"}"));
        assert_int_equal(pull_secret_names(long_list, &names), -E2BIG);

        for (char **n = names; *n; n++)
                free(*n);
        free(names);
        json_object_put(long_list);
        json_object_put(list);
}

static void too_much_is_not_handed_over(void **state) {
        json_object *auths = json_object_new_object();
        char big[AUTH_JSON_SIZE_MAX + 1], *text;

        memset(big, 'a', sizeof(big) - 1);
        big[sizeof(big) - 1] = '\0';
        assert_int_equal(auth_json_format(auths, &text), 0);
        assert_null(text);
        assert_int_equal(json_set_string(auths, "a", big), 0);
        assert_int_equal(auth_json_format(auths, &text), -E2BIG);
        json_object_put(auths);
}

typedef struct RecordCase {
        const char *name, *text;
        int result;
        const char *reason;
} RecordCase;

#define FIELDS "\"sandbox-id\":\"a\",\"pod-namespace\":\"d\",\"pod-name\":\"p\",\"name\":\"n\""

static const RecordCase record_cases[] = {
        { "the least", "{\"version\":1,\"state\":\"creating\"," FIELDS "}", 0, NULL },
        { "no version", "{\"state\":\"creating\"," FIELDS "}", -EBADMSG, "version" },
        { "a newer version", "{\"version\":2}", -EPROTONOSUPPORT, "newer" },
        { "no state", "{\"version\":1," FIELDS "}", -EBADMSG, "state" },
        { "an id that is a path", "{\"version\":1,\"state\":\"gone\",\"sandbox-id\":\"../a\",\"pod-namespace\":\"d\",\"pod-name\":\"p\",\"name\":\"n\"}", -EBADMSG,
          "sandbox-id" },
        { "a namespace that is a path", "{\"version\":1,\"state\":\"gone\",\"sandbox-id\":\"a\",\"pod-namespace\":\"d/e\",\"pod-name\":\"p\",\"name\":\"n\"}", -EBADMSG,
          "pod-namespace" },
        { "no name", "{\"version\":1,\"state\":\"gone\",\"sandbox-id\":\"a\",\"pod-namespace\":\"d\",\"pod-name\":\"p\"}", -EBADMSG, "name" },
        { "a uid that nobody can have told", "{\"version\":1,\"state\":\"gone\",\"uid\":\"u\"," FIELDS "}", -EBADMSG, "posted" },
        { "an address that is none", "{\"version\":1,\"state\":\"gone\",\"addresses\":[\"\\n\"]," FIELDS "}", -EBADMSG, "addresses" },
};

static void records_are_checked(void **state) {
        const RecordCase *c = *state;
        TrackRecord record = TRACK_RECORD_NULL;
        char *reason = NULL;

        assert_int_equal(track_record_parse(c->text, strlen(c->text), &record, &reason), c->result);
        if (c->reason)
                assert_non_null(strstr(reason, c->reason));
        free(reason);
        track_record_done(&record);
}

static TrackRecord example(void) {
        return (TrackRecord) {
                .state = TRACK_RUNNING, .id = (char*) "a", .pod_namespace = (char*) "d", .pod_name = (char*) "p", .pod_uid = (char*) "pod-1",
                .provider = (char*) "aws", .instance_name = (char*) "podvm-p-a", .instance_id = (char*) "i-1", .name = (char*) "p-resource-1",
                .created_usec = 7,
        };
}

static void a_name_is_the_sandboxs_own(void **state) {
        char *a, *b, *again, longest[254];

        memset(longest, 'p', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        assert_int_equal(peerpod_name_make("web", "a", &a), 0);
        assert_int_equal(peerpod_name_make("web", "b", &b), 0);
        assert_int_equal(peerpod_name_make("web", "a", &again), 0);
        assert_true(startswith(a, "web-resource-"));
        assert_string_equal(a, again);
        assert_string_not_equal(a, b);
        free(a);
        free(b);
        free(again);

        assert_int_equal(peerpod_name_make(longest, "a", &a), 0);
        assert_true(kube_name_is_valid(a));
        free(a);
}

static void what_is_set_in_the_spec_stays(void **state) {
        TrackRecord record = example();
        json_object *o = parse("{\"metadata\":{\"name\":\"n\",\"uid\":\"u\",\"resourceVersion\":\"5\"},\"spec\":{\"cloudProvider\":\"aws\",\"instanceName\":\"podvm-p-a\"}}");
        json_object *other = parse("{\"metadata\":{\"name\":\"n\",\"uid\":\"u\"},\"spec\":{\"instanceID\":\"i-2\"}}"), *patch;

        assert_int_equal(peerpod_spec_patch(o, &record, &patch), 1);
        assert_string_equal(json_object_to_json_string_ext(patch, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
                            "[{\"op\":\"test\",\"path\":\"/metadata/uid\",\"value\":\"u\"},{\"op\":\"add\",\"path\":\"/spec/instanceID\",\"value\":\"i-1\"}]");
        json_object_put(patch);
        assert_int_equal(json_set_string(kube_object_at(o, "spec", NULL), "instanceID", "i-1"), 0);
        assert_int_equal(peerpod_spec_patch(o, &record, &patch), 0);
        assert_int_equal(peerpod_spec_patch(other, &record, &patch), -EEXIST);
        json_object_put(o);
        json_object_put(other);
}

static void a_status_is_told_once_and_keeps_what_others_say(void **state) {
        TrackRecord record = example();
        json_object *o = parse("{\"metadata\":{\"name\":\"n\",\"uid\":\"u\",\"resourceVersion\":\"5\"},\"status\":{\"cleand\":true}}"), *patch, *status;

        assert_int_equal(peerpod_status_patch(o, &record, 1, &patch), 1);
        status = kube_object_at(json_object_array_get_idx(patch, 2), "value", NULL);
        assert_string_equal(kube_string_at(status, "phase", NULL), PEERPOD_PHASE_RUNNING);
        assert_true(json_object_get_boolean(kube_object_at(status, "cleand", NULL)));
        assert_true(kube_condition_is(kube_object_at(status, "conditions", NULL), "Ready", "True"));
        assert_int_equal(json_set(o, "status", json_object_get(status)), 0);
        json_object_put(patch);
        assert_int_equal(peerpod_status_patch(o, &record, 2, &patch), 0);
        json_object_put(o);
}

int main(void) {
        struct CMUnitTest tests[ELEMENTSOF(secret_cases) + ELEMENTSOF(record_cases) + 5];
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(secret_cases); i++)
                tests[n++] = (struct CMUnitTest) { secret_cases[i].name, pull_secrets_merge, NULL, NULL, (void*) &secret_cases[i] };
        for (size_t i = 0; i < ELEMENTSOF(record_cases); i++)
                tests[n++] = (struct CMUnitTest) { record_cases[i].name, records_are_checked, NULL, NULL, (void*) &record_cases[i] };
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(names_of_secrets_are_bounded);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(too_much_is_not_handed_over);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(a_name_is_the_sandboxs_own);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(what_is_set_in_the_spec_stays);
        tests[n++] = (struct CMUnitTest) cmocka_unit_test(a_status_is_told_once_and_keeps_what_others_say);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
