/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration and objects of src/kube/; what talks is in tests/integration/kube-client-test.py. */
#include <fcntl.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <setjmp.h>

#include <cmocka.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/util.h"
#include "fd-count.h"
#include "kube/kube-client.h"
#include "kube/kube-config.h"
#include "kube/kube-object.h"
#include "kube/kube-yaml.h"

/* ---- kubeconfig ---- */

/* base64 of "-----BEGIN CERTIFICATE-----\n" and "-----BEGIN PRIVATE KEY-----\n" (coreutils: base64) */
#define CERTIFICATE "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="
#define KEY "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCg=="

#define HEAD "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
#define CONTEXT "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
#define CLUSTER(more) "clusters: [{name: k, cluster: {server: \"https://api.example:6443/\"" more "}}]\n"
#define USER(body) "users: [{name: u, user: {" body "}}]\n"

typedef struct Case {
        const char *name, *text;
        int result;
        const char *words;              /* in the error */
        const char *server, *token, *token_file, *ca_file, *cert_data;
} Case;

static const Case cases[] = {
        { "a token", HEAD CONTEXT CLUSTER("") USER("token: abc"), 0, NULL, "https://api.example:6443", "abc" },
        { "JSON is YAML", "{\"apiVersion\":\"v1\",\"kind\":\"Config\",\"current-context\":\"c\",\"contexts\":[{\"name\":\"c\",\"context\":{\"cluster\":\"k\",\"user\":\"u\"}}],"
          "\"clusters\":[{\"name\":\"k\",\"cluster\":{\"server\":\"https:\\/\\/10.0.0.1\"}}],\"users\":[{\"name\":\"u\",\"user\":{\"token\":\"\\u0061bc\"}}]}",
          0, NULL, "https://10.0.0.1", "abc" },
        { "paths are relative to the file", HEAD CONTEXT CLUSTER(", certificate-authority: pki/ca.crt") USER("tokenFile: token"), 0, NULL, "https://api.example:6443", NULL,
          "/etc/kube/token", "/etc/kube/pki/ca.crt" },
        { "absolute paths stay", HEAD CONTEXT CLUSTER(", certificate-authority: /x/ca.crt") USER("tokenFile: /run/token"), 0, NULL, "https://api.example:6443", NULL,
          "/run/token", "/x/ca.crt" },
        { "data wins over a file", HEAD CONTEXT CLUSTER(", certificate-authority: x, certificate-authority-data: " CERTIFICATE) USER("client-certificate-data: " CERTIFICATE ", client-key-data: " KEY),
          0, NULL, "https://api.example:6443", NULL, NULL, NULL, "-----BEGIN CERTIFICATE-----\n" },
        { "unknown keys are left alone", HEAD "preferences: {colors: true}\nextensions: [{name: x, extension: {a: [1, 2]}}]\n" CONTEXT CLUSTER(", disable-compression: true") USER("token: abc"),
          0, NULL, "https://api.example:6443", "abc" },
        { "plain HTTP on loopback, for tests", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'http://127.0.0.1:8001'}}]\n" USER(""), 0, NULL, "http://127.0.0.1:8001" },
        { "an IPv6 server", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'https://[fd00::1]:6443'}}]\n" USER(""), 0, NULL, "https://[fd00::1]:6443" },
        { "no user", HEAD "contexts: [{name: c, context: {cluster: k}}]\n" CLUSTER(""), 0, NULL, "https://api.example:6443" },

        { "an exec plugin is refused", HEAD CONTEXT CLUSTER("") USER("exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}"), -EINVAL,
          "user 'u': exec would run a program" },
        { "an auth-provider is refused", HEAD CONTEXT CLUSTER("") USER("auth-provider: {name: gcp}"), -EINVAL, "user 'u': auth-provider is not supported" },
        { "acting for others is refused", HEAD CONTEXT CLUSTER("") USER("token: abc, as: admin"), -EINVAL, "user 'u': as " },
        { "an exec plugin of somebody else does no harm", HEAD CONTEXT CLUSTER("") "users: [{name: u, user: {token: abc}}, {name: v, user: {exec: {command: x}}}]\n", 0, NULL,
          "https://api.example:6443", "abc" },
        { "a certificate without its key", HEAD CONTEXT CLUSTER("") USER("client-certificate-data: " CERTIFICATE), -EINVAL, "user 'u': client-key is missing" },
        { "a key without its certificate", HEAD CONTEXT CLUSTER("") USER("client-key: k.pem"), -EINVAL, "user 'u': client-certificate is missing" },
        { "data that is no base64", HEAD CONTEXT CLUSTER(", certificate-authority-data: '***'") USER(""), -EINVAL, "cluster 'k': certificate-authority-data is no base64 of PEM" },
        { "data that is no PEM", HEAD CONTEXT CLUSTER(", certificate-authority-data: aGFsbG8=") USER(""), -EINVAL, "is no base64 of PEM" },
        { "no verification and an authority", HEAD CONTEXT CLUSTER(", insecure-skip-tls-verify: true, certificate-authority: x") USER(""), -EINVAL, "contradicts" },
        { "a flag that is none", HEAD CONTEXT CLUSTER(", insecure-skip-tls-verify: maybe") USER(""), -EINVAL, "neither true nor false" },
        { "a token with a line end", HEAD CONTEXT CLUSTER("") USER("token: \"a\\r\\nHost: x\""), -EINVAL, "user 'u': token holds" },
        { "a token with a blank", HEAD CONTEXT CLUSTER("") USER("token: a b"), -EINVAL, "user 'u': token holds" },
        { "plain HTTP elsewhere", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'http://api.example'}}]\n" USER("token: abc"), -EINVAL, "server is not https" },
        { "plain HTTP to a name that begins like loopback", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'http://127.0.0.1.example'}}]\n" USER("token: abc"), -EINVAL,
          "server is not https" },
        { "another protocol", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'ftp://api.example'}}]\n" USER(""), -EINVAL, "server is not https" },
        { "a password in the URL", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'https://u:p@api.example'}}]\n" USER(""), -EINVAL, "server has a user" },
        { "no server", HEAD CONTEXT "clusters: [{name: k, cluster: {}}]\n" USER(""), -EINVAL, "cluster 'k': server is missing" },
        { "no current-context", CONTEXT CLUSTER("") USER(""), -EINVAL, "current-context is missing" },
        { "a context that is not there", HEAD CLUSTER("") USER(""), -EINVAL, "there is no context 'c'" },
        { "a cluster that is not there", HEAD CONTEXT USER(""), -EINVAL, "there is no cluster 'k'" },
        { "a user that is not there", HEAD CONTEXT CLUSTER(""), -EINVAL, "there is no user 'u'" },
        { "an entry without a name", HEAD "contexts: [{context: {cluster: k}}]\n", -EINVAL, "contexts[0] has no name" },
        { "a mapping instead of a list", HEAD "users: {u: {token: abc}}\n", -EINVAL, "users is no list" },
        { "another kind", "kind: Pod\napiVersion: v1\n", -EINVAL, "kind is not Config" },
        { "a list instead of a string", HEAD CONTEXT CLUSTER("") USER("token: [a]"), -EINVAL, "user 'u': token is no string" },

        { "an alias", "a: &x 1\nb: *x\n", -EBADMSG, "line 1: anchors are not accepted" },
        { "a key twice", "kind: Config\nkind: Config\n", -EBADMSG, "line 2: a key is there twice" },
        { "two documents", "a: 1\n---\nb: 2\n", -EBADMSG, "more than one document" },
        { "no mapping", "- a\n", -EBADMSG, "the document is no mapping" },
        { "nothing", "", -EBADMSG, "there is no document" },
        { "too deep", "a: [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]\n", -EBADMSG, "nested too deeply" },
        { "no YAML", "a: b: c\n", -EBADMSG, "no YAML" },
};

static void assert_string_is(const char *have, const char *want) {
        if (want)
                assert_string_equal(strempty(have), want);
        else
                assert_null(have);
}

static void kubeconfig_parses_as_specified(void **state) {
        const Case *c = *state;
        KubeConfig *config = NULL;
        char *why = NULL;

        assert_int_equal(kube_config_parse(c->text, strlen(c->text), "/etc/kube/config", "/etc/kube", &config, &why), c->result);
        if (c->result < 0) {
                assert_non_null(why);
                if (!strstr(why, c->words))
                        fail_msg("'%s' does not say '%s'", why, c->words);
                assert_non_null(strstr(why, "/etc/kube/config"));
                assert_null(strstr(why, "abc"));
        } else {
                assert_string_is(config->server, c->server);
                assert_string_is(config->token, c->token);
                assert_string_is(config->token_file, c->token_file);
                assert_string_is(config->ca_file, c->ca_file);
                assert_string_is(config->cert_data, c->cert_data);
        }
        kube_config_free(config);
        free(why);
}

/* Loopback is reached by no proxy. */
static void only_loopback_is_taken_for_it(void **state) {
        static const struct {
                const char *server;
                bool loopback;
        } servers[] = {
                { "https://127.0.0.1:6443",   true  }, { "https://localhost",             true  }, { "https://[::1]:1",      true  },
                { "https://127.8.9.10",       true  }, { "https://localhost.example",     false }, { "https://127.example",  false },
                { "https://127.0.0.1.example", false }, { "https://10.0.0.1",             false }, { "https://[fd00::1]:1",  false },
        };

        for (size_t i = 0; i < ELEMENTSOF(servers); i++) {
                KubeConfig *c = NULL;
                char text[256];

                (void) snprintf(text, sizeof(text), HEAD "contexts: [{name: c, context: {cluster: k}}]\nclusters: [{name: k, cluster: {server: '%s'}}]\n", servers[i].server);
                assert_int_equal(kube_config_parse(text, strlen(text), "/x", "/", &c, NULL), 0);
                if (c->loopback != servers[i].loopback)
                        fail_msg("'%s'", servers[i].server);
                kube_config_free(c);
        }
}

/* ---- where configuration is looked for ---- */

typedef struct Place {
        char directory[32];
} Place;

static int place_setup(void **state) {
        Place *p = new(Place);

        (void) remember_fds(state);
        strcpy(p->directory, "/tmp/kube-test.XXXXXX");
        assert_non_null(mkdtemp(p->directory));
        for (const char *const *v = (const char *const[]) { "KUBECONFIG", "CREDENTIALS_DIRECTORY", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "HOME", NULL }; *v; v++)
                unsetenv(*v);
        *state = p;
        return 0;
}

static int place_teardown(void **state) {
        Place *p = *state;
        int r = remove_tree(p->directory);

        free(p);
        return r < 0 ? r : compare_fds(state);
}

static char* put(Place *p, const char *name, const char *text) {
        static char path[128];

        (void) snprintf(path, sizeof(path), "%s/%s", p->directory, name);
        if (strrchr(path, '/') > path + strlen(p->directory)) {
                char parent[128];

                (void) snprintf(parent, sizeof(parent), "%.*s", (int) (strrchr(path, '/') - path), path);
                assert_int_equal(mkdir_p(parent, 0700), 0);
        }
        assert_int_equal(write_file_atomic(path, text, strlen(text), 0600), 0);
        return path;
}

static void several_files_are_merged_and_the_first_one_wins(void **state) {
        Place *p = *state;
        KubeConfig *c = NULL;
        char list[256], expected[128];

        put(p, "one/config", HEAD "clusters: [{name: k, cluster: {server: 'https://one', certificate-authority: ca.crt}}]\n");
        put(p, "two/config", "current-context: other\n" CONTEXT "clusters: [{name: k, cluster: {server: 'https://two'}}]\n" USER("tokenFile: token"));
        (void) snprintf(list, sizeof(list), "%s/none:%s/one/config:%s/two/config", p->directory, p->directory, p->directory);
        setenv("KUBECONFIG", list, 1);
        assert_int_equal(kube_config_load(NULL, &c, NULL), 0);
        assert_string_equal(c->server, "https://one");
        (void) snprintf(expected, sizeof(expected), "%s/one/ca.crt", p->directory);
        assert_string_equal(c->ca_file, expected);
        (void) snprintf(expected, sizeof(expected), "%s/two/token", p->directory);
        assert_string_equal(c->token_file, expected);
        kube_config_free(c);
}

static void places_are_tried_in_their_order(void **state) {
        Place *p = *state;
        KubeConfig *c = NULL;
        char *why = NULL, credentials[64];

        assert_int_equal(kube_config_load(NULL, &c, &why), -ENXIO);
        assert_non_null(why);
        free(why);

        put(p, "home/.kube/config", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'https://home'}}]\n" USER(""));
        (void) snprintf(credentials, sizeof(credentials), "%s/home", p->directory);
        setenv("HOME", credentials, 1);
        assert_int_equal(kube_config_load(NULL, &c, NULL), 0);
        assert_string_equal(c->server, "https://home");
        c = kube_config_free(c);

        put(p, "credentials/kubeconfig", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'https://credential'}}]\n" USER(""));
        (void) snprintf(credentials, sizeof(credentials), "%s/credentials", p->directory);
        setenv("CREDENTIALS_DIRECTORY", credentials, 1);
        assert_int_equal(kube_config_load(NULL, &c, NULL), 0);
        assert_string_equal(c->server, "https://credential");
        c = kube_config_free(c);

        setenv("KUBECONFIG", put(p, "listed", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'https://listed'}}]\n" USER("")), 1);
        assert_int_equal(kube_config_load(NULL, &c, NULL), 0);
        assert_string_equal(c->server, "https://listed");
        c = kube_config_free(c);

        assert_int_equal(kube_config_load(put(p, "named", HEAD CONTEXT "clusters: [{name: k, cluster: {server: 'https://named'}}]\n" USER("")), &c, NULL), 0);
        assert_string_equal(c->server, "https://named");
        c = kube_config_free(c);

        assert_int_equal(kube_config_load("/nonexistent/config", &c, &why), -ENOENT);
        assert_non_null(strstr(why, "/nonexistent/config"));
        free(why);
}

static void a_pod_finds_its_server(void **state) {
        Place *p = *state;
        KubeConfig *c = NULL;
        char *why = NULL;

        assert_int_equal(kube_config_load_in_cluster(p->directory, &c, NULL), -ENXIO);
        setenv("KUBERNETES_SERVICE_HOST", "fd00::1", 1);
        setenv("KUBERNETES_SERVICE_PORT", "443", 1);
        assert_int_equal(kube_config_load_in_cluster(p->directory, &c, &why), -ENOENT);
        assert_non_null(strstr(why, "/token"));
        why = (free(why), NULL);

        put(p, "token", " \n");
        put(p, "ca.crt", "-----BEGIN CERTIFICATE-----\n");
        assert_int_equal(kube_config_load_in_cluster(p->directory, &c, &why), -EBADMSG);
        assert_non_null(strstr(why, "is empty"));
        free(why);

        put(p, "token", "abc\n");
        put(p, "namespace", "ns1\n");
        assert_int_equal(kube_config_load_in_cluster(p->directory, &c, NULL), 0);
        assert_string_equal(c->server, "https://[fd00::1]:443");
        assert_string_equal(c->default_namespace, "ns1");
        kube_config_free(c);
}

/* The kubelet swaps ..data, a symlink, under the symlink that is read. */
static void a_projected_token_is_read_through_its_links(void **state) {
        Place *p = *state;
        char link[64], *token = NULL;

        put(p, "..2026/token", "first");
        (void) snprintf(link, sizeof(link), "%s/..data", p->directory);
        assert_int_equal(symlink("..2026", link), 0);
        (void) snprintf(link, sizeof(link), "%s/token", p->directory);
        assert_int_equal(symlink("..data/token", link), 0);
        assert_int_equal(kube_token_read(link, &token, NULL), 0);
        assert_string_equal(token, "first");
        free(token);
}

static void what_is_no_token_is_not_taken_for_one(void **state) {
        Place *p = *state;
        char *token = NULL, *why = NULL;

        assert_int_equal(kube_token_read(put(p, "t", "a\r\nHost: evil"), &token, &why), -EBADMSG);
        assert_null(strstr(why, "evil"));
        why = (free(why), NULL);
        assert_int_equal(kube_token_read(p->directory, &token, NULL), -EBADMSG);
        assert_null(token);
}

/* ---- objects ---- */

static void paths_are_escaped(void **state) {
        char *s;

        static const struct {
                const char *group, *ns, *plural, *name, *sub, *path;
        } paths[] = {
                { "v1", NULL, "nodes", NULL, NULL, "/api/v1/nodes" },
                { "v1", "ns", "pods", "a", "status", "/api/v1/namespaces/ns/pods/a/status" },
                { "confidentialcontainers.org/v1alpha1", "ns", "peerpods", NULL, NULL, "/apis/confidentialcontainers.org/v1alpha1/namespaces/ns/peerpods" },
                { "v1", "a/../b", "pods", "..?x=%", NULL, "/api/v1/namespaces/a%2F..%2Fb/pods/..%3Fx%3D%25" },
        };
        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                s = kube_path(paths[i].group, paths[i].ns, paths[i].plural, paths[i].name, paths[i].sub);
                assert_string_equal(s, paths[i].path);
                free(s);
        }
        s = kube_path("v1", NULL, "pods", NULL, NULL);
        assert_int_equal(kube_query_add(&s, "fieldSelector", "spec.nodeName=n 1"), 0);
        assert_int_equal(kube_query_add(&s, "continue", NULL), 0);
        assert_int_equal(kube_query_add(&s, "limit", "5"), 0);
        assert_string_equal(s, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn%201&limit=5");
        free(s);
}

static json_object* parse(const char *text) {
        json_object *o = NULL;

        assert_int_equal(json_parse(text, strlen(text), &o, NULL), 0);
        return o;
}

static void assert_json(json_object *o, const char *expected) {
        assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE), expected);
}

static void metadata_of_a_wrong_type_is_refused(void **state) {
        static const char *const bad[] = { "{}", "{\"metadata\":{}}", "{\"metadata\":[]}", "{\"metadata\":{\"name\":1}}", "{\"metadata\":{\"name\":\"a\",\"uid\":{}}}",
                "{\"metadata\":{\"name\":\"a\",\"finalizers\":\"x\"}}", "{\"metadata\":{\"name\":\"a\\u0000b\"}}" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                json_object *o = parse(bad[i]);
                KubeMeta meta = { .name = "untouched" };

                assert_int_equal(kube_meta(o, &meta, NULL), -EBADMSG);
                assert_string_equal(meta.name, "untouched");
                json_object_put(o);
        }
}

static void the_patch_for_a_finalizer_is_guarded(void **state) {
        json_object *o = parse("{\"metadata\":{\"name\":\"a\",\"uid\":\"u-1\",\"finalizers\":[\"x/y\",\"peer.pod/finalizer\"]}}"), *patch = NULL;

        assert_int_equal(kube_patch_remove_finalizer(o, "peer.pod/finalizer", &patch), 1);
        assert_json(patch, "[{\"op\":\"test\",\"path\":\"/metadata/uid\",\"value\":\"u-1\"},"
                           "{\"op\":\"test\",\"path\":\"/metadata/finalizers/1\",\"value\":\"peer.pod/finalizer\"},"
                           "{\"op\":\"remove\",\"path\":\"/metadata/finalizers/1\"}]");
        json_object_put(patch);
        assert_int_equal(kube_patch_remove_finalizer(o, "other/one", &patch), 0);
        json_object_put(o);
}

static void keys_in_a_pointer_are_escaped(void **state) {
        json_object *patch = NULL;

        assert_int_equal(kube_patch_add_op(&patch, "remove", NULL, "metadata", "annotations", "kata.peerpods.io/caa~owner", NULL), 0);
        assert_json(patch, "[{\"op\":\"remove\",\"path\":\"/metadata/annotations/kata.peerpods.io~1caa~0owner\"}]");
        assert_int_equal(kube_patch_add_op(&patch, "add", NULL, "x", NULL), -ENOMEM);
        json_object_put(patch);
}

static void times_are_those_of_the_api(void **state) {
        static const struct {
                const char *text;
                int result;
                uint64_t usec;
        } times[] = {
                { "1970-01-01T00:00:00Z", 0, 0 },
                { "2026-08-03T14:17:51Z", 0, UINT64_C(1785766671000000) },      /* coreutils: date -u -d … +%s */
                { "2026-08-03T14:17:51.000123Z", 0, UINT64_C(1785766671000123) },
                { "2026-08-03T14:17:51.000123999Z", 0, UINT64_C(1785766671000123) },
                { "2026-08-03T16:17:51+02:00", 0, UINT64_C(1785766671000000) },
                { "2026-08-03T12:47:51.5-01:30", 0, UINT64_C(1785766671500000) },
                { "2026-08-03 14:17:51Z", -EINVAL }, { "2026-08-03T14:17:51", -EINVAL }, { "2026-13-03T14:17:51Z", -EINVAL }, { "2026-08-03T24:17:51Z", -EINVAL },
                { "2026-08-03T14:17:51.Z", -EINVAL }, { "2026-08-03T14:17:51Zx", -EINVAL }, { "", -EINVAL }, { "1969-12-31T23:59:59Z", -EINVAL },
        };
        char text[KUBE_TIME_SIZE];

        for (size_t i = 0; i < ELEMENTSOF(times); i++) {
                uint64_t usec = 0;

                assert_int_equal(kube_time_parse(times[i].text, &usec), times[i].result);
                assert_int_equal(usec, times[i].usec);
        }
        kube_time_format(UINT64_C(1785766671000123), text);
        assert_string_equal(text, "2026-08-03T14:17:51Z");
        kube_micro_time_format(UINT64_C(1785766671000123), text);
        assert_string_equal(text, "2026-08-03T14:17:51.000123Z");
}

static void a_condition_changes_its_time_only_with_its_status(void **state) {
        json_object *l = NULL;

        assert_int_equal(kube_condition_set(&l, "Gone", "False", "Running", "It runs.", 1, 0), 1);
        assert_int_equal(kube_condition_set(&l, "Gone", "False", "Running", "It runs.", 1, 5000000), 0);
        assert_int_equal(kube_condition_set(&l, "Gone", "False", "Failed", "The cloud does not answer.", 1, 5000000), 1);
        assert_int_equal(kube_condition_set(&l, "Ready", "True", "Up", "", 0, 5000000), 1);
        assert_json(l, "[{\"type\":\"Gone\",\"status\":\"False\",\"reason\":\"Failed\",\"message\":\"The cloud does not answer.\",\"observedGeneration\":1,"
                       "\"lastTransitionTime\":\"1970-01-01T00:00:00Z\"},"
                       "{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"Up\",\"message\":\"\",\"lastTransitionTime\":\"1970-01-01T00:00:05Z\"}]");
        assert_int_equal(kube_condition_set(&l, "Gone", "True", "Deleted", "", 1, 9000000), 1);
        assert_true(kube_condition_is(l, "Gone", "True"));
        assert_false(kube_condition_is(l, "Other", "True"));
        json_object_put(l);
}

static void names_fit_whatever_they_are_made_of(void **state) {
        char longest[300], *a, *b;

        memset(longest, 'a', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        a = kube_name_make("web-1", "resource-x7k2p", 253);
        assert_string_equal(a, "web-1-resource-x7k2p");
        free(a);
        /* coreutils: printf %s 'Web_1' | sha256sum */
        a = kube_name_make("Web_1", NULL, 63);
        assert_string_equal(a, "web-1-93f4c8d00c");
        free(a);
        a = kube_name_make(longest, "resource-x7k2p", 253);
        assert_int_equal(strlen(a), 253);
        assert_true(kube_name_is_valid(a));
        longest[298] = 'b';
        b = kube_name_make(longest, "resource-x7k2p", 253);
        assert_string_not_equal(a, b);
        free(a);
        free(b);
        for (const char *const *s = (const char *const[]) { "", "-", "...", "a..b", "a-.b", "ä", "a.", NULL }; *s; s++) {
                a = kube_name_make(*s, NULL, 63);
                assert_true(kube_name_is_valid(a));
                assert_string_not_equal(a, *s);
                free(a);
        }
}

static void pauses_grow_and_have_an_end(void **state) {
        uint64_t most = 0;

        for (unsigned i = 0; i < 2000; i++) {
                assert_in_range(kube_backoff_usec(1000, 30000, 0, 0), 0, 1000);
                assert_in_range(kube_backoff_usec(1000, 30000, 2, 500), 500, 4500);
                most = MAX(most, kube_backoff_usec(1000, 30000, 60, 0));
        }
        assert_in_range(most, 25000, 30000);
        assert_int_equal(kube_backoff_usec(0, 0, 0, UINT64_MAX), UINT64_MAX);
}

static void a_client_names_the_file_that_it_cannot_read(void **state) {
        _cleanup_(kube_config_freep) KubeConfig *c = NULL;
        static const char text[] = HEAD CONTEXT CLUSTER(", certificate-authority: nothing.crt") USER("");
        KubeClient *client = NULL;
        sd_event *event = NULL;
        char *why = NULL;

        assert_int_equal(kube_config_parse(text, strlen(text), "x", "/nonexistent", &c, NULL), 0);
        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(kube_client_new(event, c, NULL, &client, &why), -ENOENT);
        assert_string_equal(why, "the certificate authority '/nonexistent/nothing.crt' cannot be read: No such file or directory");
        free(why);
        sd_event_unref(event);
}

int main(void) {
        static const struct CMUnitTest others[] = {
                cmocka_unit_test(only_loopback_is_taken_for_it),
                cmocka_unit_test_setup_teardown(several_files_are_merged_and_the_first_one_wins, place_setup, place_teardown),
                cmocka_unit_test_setup_teardown(places_are_tried_in_their_order, place_setup, place_teardown),
                cmocka_unit_test_setup_teardown(a_pod_finds_its_server, place_setup, place_teardown),
                cmocka_unit_test_setup_teardown(a_projected_token_is_read_through_its_links, place_setup, place_teardown),
                cmocka_unit_test_setup_teardown(what_is_no_token_is_not_taken_for_one, place_setup, place_teardown),
                cmocka_unit_test(paths_are_escaped),
                cmocka_unit_test(metadata_of_a_wrong_type_is_refused),
                cmocka_unit_test(the_patch_for_a_finalizer_is_guarded),
                cmocka_unit_test(keys_in_a_pointer_are_escaped),
                cmocka_unit_test(times_are_those_of_the_api),
                cmocka_unit_test(a_condition_changes_its_time_only_with_its_status),
                cmocka_unit_test(names_fit_whatever_they_are_made_of),
                cmocka_unit_test(pauses_grow_and_have_an_end),
                cmocka_unit_test(a_client_names_the_file_that_it_cannot_read),
        };
        struct CMUnitTest tests[ELEMENTSOF(cases) + ELEMENTSOF(others)];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                tests[i] = (struct CMUnitTest) { .name = cases[i].name, .test_func = kubeconfig_parses_as_specified, .initial_state = (void*) &cases[i] };
        memcpy(tests + ELEMENTSOF(cases), others, sizeof(others));
        return cmocka_run_group_tests_name("kube", tests, NULL, NULL);
}
