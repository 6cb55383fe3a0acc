/* SPDX-License-Identifier: Apache-2.0 */
/* What provider modules share: signatures, encodings, instance types, user data, XML, owner tags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <pthread.h>
#include <stdatomic.h>

#include <cmocka.h>

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "basic/json.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-owner.h"
#include "cloud-sign.h"
#include "cloud-user-data.h"
#include "cloud-xml.h"
#include "instance-type.h"
#include "userdata/decode.h"
#include "userdata/encode.h"

static PeerpodCall test_call(void) {
        return (PeerpodCall) { .size = sizeof(PeerpodCall), .cancel_fd = -1, .deadline_usec = peerpod_now_usec() + 60 * USEC_PER_SEC };
}

#define NEW_ERROR { .size = sizeof(PeerpodError) }

/* The vectors of the public AWS Signature Version 4 test suite ("get-vanilla" and so on), with its key, region, service and time. The last
 * one is no part of it: made by the vendor's JavaScript signer. */
typedef struct SigV4Case {
        const char *name, *method, *path, *query, *service, *body, *signature;
        SignHeader headers[5];
} SigV4Case;

#define SUITE_HOST { "host", "example.amazonaws.com" }
#define SUITE_DATE { "x-amz-date", "20150830T123600Z" }

static const SigV4Case sigv4_cases[] = {
        { "get-vanilla", "GET", "/", "", "service", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
          { SUITE_HOST, SUITE_DATE } },
        { "get-vanilla-query-order-key-case", "GET", "/", "Param2=value2&Param1=value1", "service", "",
          "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500", { SUITE_DATE, SUITE_HOST } },
        { "get-header-value-trim", "GET", "/", "", "service", "", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
          { SUITE_HOST, { "my-header1", " value1" }, { "my-header2", " \"a   b   c\"" }, SUITE_DATE } },
        { "post-vanilla", "POST", "/", "", "service", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
          { SUITE_HOST, SUITE_DATE } },
        { "post-vanilla-query", "POST", "/", "Param1=value1", "service", "", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
          { SUITE_HOST, SUITE_DATE } },
        { "post-x-www-form-urlencoded", "POST", "/", "", "service", "Param1=value1",
          "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
          { { "content-type", "application/x-www-form-urlencoded" }, SUITE_HOST, SUITE_DATE } },
        { "terminate instances with a session token", "POST", "/", "", "ec2",
          "Action=TerminateInstances&Version=2016-11-15&InstanceId.1=i-1234567890abcdef0",
          "e657c17b0e0fe0ac4bc4e722daaed893c632c1d327613cc50fc9eb65fb96010f",
          { { "content-type", "application/x-www-form-urlencoded; charset=utf-8" }, { "host", "ec2.us-east-1.amazonaws.com" }, SUITE_DATE,
            { "x-amz-security-token", "SESSIONTOKEN" } } },
};

static void sigv4_is_the_vendors(void **state) {
        const SigV4Case *c = *state;
        _cleanup_(freep) char *authorization = NULL, *expected = NULL;
        size_t n = 0;

        while (n < ELEMENTSOF(c->headers) && c->headers[n].name)
                n++;
        assert_int_equal(sigv4_sign("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "us-east-1", c->service, c->method, c->path, c->query,
                                    c->headers, n, c->body, strlen(c->body), &authorization), 0);
        assert_true(asprintf(&expected, ", Signature=%s", c->signature) > 0);
        assert_non_null(strstr(authorization, expected));
        assert_non_null(startswith(authorization, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/"));
}

static void the_time_of_sigv4_is_utc(void **state) {
        char text[17];

        sigv4_time(1440938160, text);
        assert_string_equal(text, "20150830T123600Z");
}

/* The first is the vendor's published example, the second from its OpenAPI library. */
static void acs3_is_the_vendors(void **state) {
        static const SignHeader first[] = {
                { "host", "ecs.cn-shanghai.aliyuncs.com" },
                { "x-acs-action", "RunInstances" },
                { "x-acs-content-sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
                { "x-acs-date", "2023-10-26T10:22:32Z" },
                { "x-acs-signature-nonce", "3156853299f313e23d1673dc12e1703d" },
                { "x-acs-version", "2014-05-26" },
        };
        static const SignHeader second[] = {
                { "x-acs-version", "2014-05-26" },
                { "x-acs-security-token", "testtoken" },
                { "x-acs-accesskey-id", "testid" },
                { "host", "ecs.cn-beijing.aliyuncs.com" },
                { "x-acs-action", "RunInstances" },
                { "x-acs-content-sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
                { "x-acs-date", "2026-01-02T03:04:05Z" },
                { "x-acs-signature-nonce", "00000000000000000000000000000001" },
        };
        _cleanup_(freep) char *a = NULL, *b = NULL;

        assert_int_equal(acs3_sign("YourAccessKeyId", "YourAccessKeySecret", "POST",
                                   "ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai", first, ELEMENTSOF(first), &a), 0);
        assert_string_equal(a, "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;"
                               "x-acs-signature-nonce;x-acs-version,Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0");
        assert_int_equal(acs3_sign("testid", "testsecret", "POST", "RegionId=cn-beijing&Tag.1.Key=a%20b&Tag.1.Value=x%2By%2Az~&"
                                   "UserData=I2Nsb3VkLWNvbmZpZwo%3D", second, ELEMENTSOF(second), &b), 0);
        assert_non_null(strstr(b, ",Signature=aae01d49d4a1123999e4317511b1221339f92c0c63ccff2771dced0ed743d73a"));
}

/* RFC 4648, section 10. */
static void base64_is_rfc_4648s(void **state) {
        static const char *const vectors[][3] = {
                { "", "", "" }, { "f", "Zg==", "Zg" }, { "fo", "Zm8=", "Zm8" }, { "foo", "Zm9v", "Zm9v" }, { "foob", "Zm9vYg==", "Zm9vYg" },
                { "fooba", "Zm9vYmE=", "Zm9vYmE" }, { "foobar", "Zm9vYmFy", "Zm9vYmFy" }, { "\xff\xef\xfe", "/+/+", "_-_-" },
        };

        for (size_t i = 0; i < ELEMENTSOF(vectors); i++) {
                _cleanup_(freep) char *text = NULL, *url = NULL;

                assert_int_equal(base64_encode(vectors[i][0], strlen(vectors[i][0]), &text), 0);
                assert_int_equal(base64url_encode(vectors[i][0], strlen(vectors[i][0]), &url), 0);
                assert_string_equal(text, vectors[i][1]);
                assert_string_equal(url, vectors[i][2]);
        }
}

static void make_rsa_key(gnutls_x509_privkey_t *ret, char **ret_pem) {
        gnutls_datum_t pem;

        assert_int_equal(gnutls_x509_privkey_init(ret), 0);
        assert_int_equal(gnutls_x509_privkey_generate(*ret, GNUTLS_PK_RSA, 2048, 0), 0);
        assert_int_equal(gnutls_x509_privkey_export2(*ret, GNUTLS_X509_FMT_PEM, &pem), 0);
        *ret_pem = strndup((char*) pem.data, pem.size);
        gnutls_free(pem.data);
}

/* What we signed is what the verifier of the library signs anew: RSASSA-PKCS1-v1_5 has one signature. The independent proof is Google's own
 * library, in the test of that provider. */
static void a_jwt_holds_header_claims_and_signature(void **state) {
        static const char plain[] = "{\"alg\":\"RS256\",\"typ\":\"JWT\",\"kid\":\"k\\\"1\"}";
        _cleanup_(freep) char *pem = NULL, *token = NULL, *header = NULL;
        gnutls_x509_privkey_t key;
        char *dot;

        make_rsa_key(&key, &pem);
        assert_int_equal(jwt_rs256(pem, "k\"1", "{\"iss\":\"me\"}", &token), 0);
        gnutls_x509_privkey_deinit(key);

        assert_int_equal(base64url_encode(plain, strlen(plain), &header), 0);
        assert_non_null(startswith(token, header));
        dot = strchr(token, '.');
        assert_non_null(dot);
        assert_non_null(startswith(dot, ".eyJpc3MiOiJtZSJ9."));
        assert_int_equal(strlen(strrchr(token, '.') + 1), 342);         /* 256 bytes */

        free(token);
        token = NULL;
        assert_int_equal(jwt_rs256("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", NULL, "{}", &token), -EINVAL);
        assert_null(token);
}

static const InstanceType all_types[] = {
        { "small",     2,   4096, 0, NULL,          NULL      },
        { "cpu",       4,   8192, 0, NULL,          "x86_64"  },
        { "memory",    2,  16384, 0, NULL,          "x86_64"  },
        { "arm",       4,   8192, 0, NULL,          "aarch64" },
        { "big",      16,  65536, 0, NULL,          NULL      },
        { "gpu-t4",    4,  16384, 1, "NVIDIA T4",   NULL      },
        { "gpu-a100", 12,  87040, 1, "NVIDIA A100", NULL      },
        { "gpu-8",    96, 786432, 8, "NVIDIA A100", NULL      },
};

#define ALL "small,cpu,memory,arm,big,gpu-t4,gpu-a100,gpu-8"

typedef struct ChoiceCase {
        const char *name;
        PeerpodInstanceSpec spec;
        const char *allowed, *architecture;
        const char *type;               /* or NULL: */
        PeerpodErrorKind kind;
        const char *text;
} ChoiceCase;

static const ChoiceCase choice_cases[] = {
        { "nothing asked for: the default", {}, ALL, NULL, "small" },
        { "vCPUs alone: the default", { .vcpus = 8 }, ALL, NULL, "small" },
        { "the smallest memory wins", { .vcpus = 2, .memory_mib = 4096 }, ALL, NULL, "small" },
        { "a fit that a binary search over (memory, vCPUs) misses", { .vcpus = 4, .memory_mib = 8192 }, "memory,cpu", NULL, "cpu" },
        { "more memory than vCPUs", { .vcpus = 1, .memory_mib = 10000 }, ALL, NULL, "memory" },
        { "equals are told apart by name", { .vcpus = 4, .memory_mib = 8192 }, ALL, NULL, "arm" },
        { "the image's architecture counts", { .vcpus = 4, .memory_mib = 8192 }, ALL, "x86_64", "cpu" },
        { "no GPU type for a pod without GPUs", { .vcpus = 17, .memory_mib = 1 }, ALL, NULL, NULL, PEERPOD_E_FAILED_PRECONDITION,
          "No allowed instance type fits the pod (17 vCPUs, 1 MiB): of the list in TYPES the nearest is " },
        { "GPUs alone are enough", { .gpus = 1 }, ALL, NULL, "gpu-t4" },
        { "GPUs with vCPUs", { .gpus = 1, .vcpus = 8, .memory_mib = 1024 }, ALL, NULL, "gpu-a100" },
        { "a GPU model, however it is written", { .gpus = 1, .gpu_model = "nvidia-a-100" }, ALL, NULL, "gpu-a100" },
        { "a GPU model that there is none of", { .gpus = 1, .gpu_model = "H100" }, ALL, NULL, NULL, PEERPOD_E_FAILED_PRECONDITION, "1 GPUs H100" },
        { "only allowed types are looked at", { .vcpus = 4, .memory_mib = 8192 }, "small,big", NULL, "big" },
        { "without a list there is the default", { .vcpus = 2, .memory_mib = 2048 }, "", NULL, "small" },
        { "the error says that no list is set", { .vcpus = 3, .memory_mib = 2048 }, "", NULL, NULL, PEERPOD_E_FAILED_PRECONDITION,
          "of the default alone, as no list is set in TYPES, the nearest is 'small' (2 vCPUs, 4096 MiB)." },
        { "the annotation's type", { .machine_type = "big", .vcpus = 1, .memory_mib = 1 }, ALL, NULL, "big" },
        { "the annotation's type may be the default without a list", { .machine_type = "small" }, "", NULL, "small" },
        { "the annotation's type need not be known", { .machine_type = "secret-type" }, "secret-type", NULL, "secret-type" },
        { "the annotation's type must be allowed", { .machine_type = "huge" }, ALL, NULL, NULL, PEERPOD_E_INVALID_ARGUMENT,
          "Instance type 'huge' is neither the default, 'small', nor in the list of TYPES." },
        { "the annotation's type without a list", { .machine_type = "big" }, "", NULL, NULL, PEERPOD_E_INVALID_ARGUMENT,
          "no list of allowed ones is set in TYPES" },
        { "the annotation's type for another architecture", { .machine_type = "arm" }, ALL, "x86_64", NULL, PEERPOD_E_FAILED_PRECONDITION,
          "Instance type 'arm' is of architecture aarch64, the image of x86_64." },
};

static void the_type_is_chosen(void **state) {
        const ChoiceCase *c = *state;
        const InstanceTypeWish wish = { &c->spec, "small", c->allowed, "TYPES", c->architecture };
        PeerpodError error = NEW_ERROR;
        const char *type = NULL;
        int r = instance_type_choose(&wish, all_types, ELEMENTSOF(all_types), &type, &error);

        if (c->type) {
                assert_int_equal(r, 0);
                assert_string_equal(type, c->type);
                return;
        }
        assert_int_equal(r, peerpod_error_to_errno(c->kind));
        assert_int_equal(error.kind, c->kind);
        if (!strstr(error.text, c->text))
                fail_msg("'%s' does not say '%s'", error.text, c->text);
}

typedef struct Listing {
        atomic_int n_fetches, n_running;
        atomic_bool fail;
} Listing;

static int fetch_types(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error) {
        Listing *l = userdata;
        InstanceType *t;

        assert_int_equal(atomic_fetch_add(&l->n_running, 1), 0);
        (void) peerpod_call_wait(call, -1, 0, 50 * USEC_PER_MSEC, error);
        l->n_fetches++;
        l->n_running--;
        if (l->fail)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "no answer");
        t = calloc(1, sizeof(*t));
        *t = (InstanceType) { .name = strdup("small"), .vcpus = 2, .memory_mib = 4096 };
        *ret = t;
        *ret_n = 1;
        return 0;
}

static void* choose_once(void *userdata) {
        static const PeerpodInstanceSpec spec = { .vcpus = 2, .memory_mib = 4096 };
        static const InstanceTypeWish wish = { &spec, "small", "", "TYPES", NULL };
        PeerpodCall call = test_call();
        PeerpodError error = NEW_ERROR;
        InstanceType type;
        char *name = NULL;
        int r = instance_type_cache_choose(userdata, &call, &wish, &name, &type, &error);

        if (r >= 0) {
                r = streq(name, "small") && type.vcpus == 2 ? 0 : -EIO;
                instance_type_done(&type);
        }
        free(name);
        return (void*) (intptr_t) r;
}

static void the_listing_is_fetched_once_for_all(void **state) {
        Listing l = {};
        InstanceTypeCache *c;
        pthread_t threads[16];

        assert_int_equal(instance_type_cache_new(fetch_types, &l, 3600 * USEC_PER_SEC, &c), 0);
        for (size_t i = 0; i < ELEMENTSOF(threads); i++)
                assert_int_equal(pthread_create(threads + i, NULL, choose_once, c), 0);
        for (size_t i = 0; i < ELEMENTSOF(threads); i++) {
                void *result;

                assert_int_equal(pthread_join(threads[i], &result), 0);
                assert_int_equal((intptr_t) result, 0);
        }
        assert_int_equal(l.n_fetches, 1);
        instance_type_cache_free(c);
}

static void an_old_listing_serves_while_the_cloud_does_not_answer(void **state) {
        Listing l = { .fail = true };
        InstanceTypeCache *c;

        assert_int_equal(instance_type_cache_new(fetch_types, &l, 0, &c), 0);
        assert_int_equal((intptr_t) choose_once(c), -EHOSTUNREACH);
        l.fail = false;
        assert_int_equal((intptr_t) choose_once(c), 0);
        l.fail = true;
        assert_int_equal((intptr_t) choose_once(c), 0);
        assert_int_equal(l.n_fetches, 3);
        /* And it does not ask again at once. */
        assert_int_equal((intptr_t) choose_once(c), 0);
        assert_int_equal(l.n_fetches, 3);
        instance_type_cache_free(c);
}

static const char document[] =
        "#cloud-config\n\nwrite_files:\n"
        "  - path: /run/peerpod/apf.json\n    content: |\n      {\"secret\": \"s3cret\"}\n"
        "  - path: /run/peerpod/initdata\n    content: |\n      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";

static void user_data_is_encoded_whole(void **state) {
        const PeerpodInstanceSpec spec = { .user_data = document, .user_data_size = strlen(document) };
        PeerpodError error = NEW_ERROR;
        char *text, *plain, *packed;
        size_t size, plain_size;

        assert_int_equal(user_data_encode(&spec, USER_DATA_PLAIN, 1000, true, &text, &size, &error), 0);
        assert_string_equal(text, document);
        free(text);

        assert_int_equal(user_data_encode(&spec, USER_DATA_BASE64, strlen(document), false, &text, &size, &error), 0);
        assert_int_equal(size, strlen(text));
        assert_int_equal(base64_decode(text, size, &plain, &plain_size), 0);
        assert_string_equal(plain, document);
        free(text);
        free(plain);

        assert_int_equal(user_data_encode(&spec, USER_DATA_GZIP_BASE64, 1000, true, &text, &size, &error), 0);
        assert_int_equal(base64_decode(text, size, &packed, &plain_size), 0);
        assert_int_equal(gzip_decode(packed, plain_size, 1000, &plain, &plain_size), 0);
        assert_string_equal(plain, document);
        free(text);
        free(packed);
        free(plain);
}

static void user_data_that_is_too_big_names_its_biggest_file(void **state) {
        const PeerpodInstanceSpec spec = { .user_data = document, .user_data_size = strlen(document) };
        PeerpodError error = NEW_ERROR;
        char *text = NULL;
        size_t size;

        assert_int_equal(user_data_encode(&spec, USER_DATA_BASE64, strlen(document) - 1, false, &text, &size, &error), -ENOSPC);
        assert_int_equal(error.kind, PEERPOD_E_EXHAUSTED);
        assert_non_null(strstr(error.text, "User data is too big: "));
        assert_non_null(strstr(error.text, "its biggest file is '/run/peerpod/initdata'"));
        assert_null(strstr(error.text, "s3cret"));
        assert_int_equal(user_data_encode(&spec, USER_DATA_BASE64, strlen(document), true, &text, &size, &error), -ENOSPC);
        assert_null(text);
}

static void xml_is_read_by_local_name(void **state) {
        static const char text[] =
                "<?xml version=\"1.0\"?><r:R xmlns:r=\"urn:x\"><a><item><r:b> 1 &amp; 2\n</r:b></item><x/><item><b>2</b></item></a></r:R>";
        _cleanup_(xml_freep) xmlDoc *d = NULL;
        xmlNode *root, *item;
        char *s;

        assert_int_equal(xml_parse(text, strlen(text), &d), 0);
        root = xmlDocGetRootElement(d);
        s = xml_text(root, "a/item/b");
        assert_string_equal(s, "1 & 2");
        free(s);
        s = xml_text(root, "a/none");
        assert_string_equal(s, "");
        free(s);
        item = xml_next(xml_first(xml_child(root, "a"), "item"), "item");
        s = xml_text(item, "b");
        assert_string_equal(s, "2");
        free(s);
        assert_null(xml_next(item, "item"));
}

static void hostile_xml_is_refused(void **state) {
        static const char *const texts[] = {
                "", "<a>", "no XML", "<a></b>", "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
                "<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>", "<?xml version=\"1.0\"?>",
        };
        xmlDoc *d;

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                assert_int_equal(xml_parse(texts[i], strlen(texts[i]), &d), -EBADMSG);
}

static void owner_tokens_are_the_same_each_time(void **state) {
        char a[OWNER_TOKEN_SIZE], b[OWNER_TOKEN_SIZE], digest[OWNER_DIGEST_SIZE];

        owner_token("podvm-x-12345678", "1234567890", a);
        owner_token("podvm-x-12345678", "1234567890", b);
        assert_string_equal(a, b);
        assert_int_equal(strlen(a), 36);
        assert_int_equal(a[14], '5');
        owner_token("podvm-x-12345678", "1234567891", b);
        assert_string_not_equal(a, b);
        owner_digest("", digest);
        assert_string_equal(digest, "e3b0c44298fc1c149afbf4c8996fb924");
}

static void lists_are_walked_item_by_item(void **state) {
        const char *p = "a,bc", *item;
        size_t n;

        assert_true(list_next(&p, &item, &n));
        assert_int_equal(n, 1);
        assert_true(list_next(&p, &item, &n));
        assert_int_equal(n, 2);
        assert_memory_equal(item, "bc", 2);
        assert_false(list_next(&p, &item, &n));
        assert_true(list_contains("a,bc", "bc"));
        assert_false(list_contains("a,bc", "b"));
        assert_false(list_contains("", ""));
}

int main(void) {
        static const struct CMUnitTest plain[] = {
                cmocka_unit_test(the_time_of_sigv4_is_utc),
                cmocka_unit_test(acs3_is_the_vendors),
                cmocka_unit_test(base64_is_rfc_4648s),
                cmocka_unit_test(a_jwt_holds_header_claims_and_signature),
                cmocka_unit_test(the_listing_is_fetched_once_for_all),
                cmocka_unit_test(an_old_listing_serves_while_the_cloud_does_not_answer),
                cmocka_unit_test(user_data_is_encoded_whole),
                cmocka_unit_test(user_data_that_is_too_big_names_its_biggest_file),
                cmocka_unit_test(xml_is_read_by_local_name),
                cmocka_unit_test(hostile_xml_is_refused),
                cmocka_unit_test(owner_tokens_are_the_same_each_time),
                cmocka_unit_test(lists_are_walked_item_by_item),
        };
        struct CMUnitTest tests[ELEMENTSOF(plain) + ELEMENTSOF(sigv4_cases) + ELEMENTSOF(choice_cases)];
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(sigv4_cases); i++)
                tests[n++] = (struct CMUnitTest) { .name = sigv4_cases[i].name, .test_func = sigv4_is_the_vendors, .initial_state = (void*) &sigv4_cases[i] };
        for (size_t i = 0; i < ELEMENTSOF(choice_cases); i++)
                tests[n++] = (struct CMUnitTest) { .name = choice_cases[i].name, .test_func = the_type_is_chosen, .initial_state = (void*) &choice_cases[i] };
        for (size_t i = 0; i < ELEMENTSOF(plain); i++)
                tests[n++] = plain[i];
        return _cmocka_run_group_tests("cloud", tests, n, NULL, NULL);
}
