/* SPDX-License-Identifier: Apache-2.0 */
/* What upstream's worker sends, as it sends it (cloud-api-adaptor: src/cloud-providers/util/cloudinit/cloudconfig.go,
 * pkg/forwarder/forwarder.go, pkg/podnetwork/tunneler/tunneler.go), and what it might: each accepted or refused for a reason.
 * First user data, up to the files; then apf.json, up to the pod's network. That no client CA ends the forwarder's start is shown by
 * integration relay: the_forwarder_needs_a_client_ca. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "net/pod-network.h"
#include "podvm/process-user-data/provision.h"
#include "userdata/apf.h"

/* ---- user data ----------------------------------------------------------------------------------------------------- */

#define HEAD "#cloud-config\n\nwrite_files:\n"
#define ENTRY(path) "  - path: /run/peerpod/" path "\n"
#define APF ENTRY("apf.json") "    content: |\n      {\"pod-name\": \"p\"}\n"
#define AUTH ENTRY("auth.json")

typedef struct UserData {
        const char *name, *text;
        const char *auth;               /* what auth.json holds then; NULL = there is none */
        mode_t mode;                    /* of it, if not 0600 */
        const char *error;              /* NULL = accepted */
} UserData;

static const UserData user_data[] = {
        { "as upstream's worker writes it", .text =
          "#cloud-config\n\nwrite_files:\n"
          "  - path: /run/peerpod/apf.json\n    content: |\n      {\n          \"pod-network\": null,\n          \"pod-n"
          "amespace\": \"default\",\n"
          "          \"pod-name\": \"nginx\"\n      }\n"
          "  - path: /run/peerpod/auth.json\n    content: |\n      {\"auths\":{}}\n"
          "  - path: /run/peerpod/initdata\n    content: |\n"
          "      H4sIAAAAAAAA/ypLLSrOzM9TsFVQMtAz1DNQ4krMSc8vyizJyAWJFWckGluYKHFxRackliTGcikV5OdkJlfqFaWm5ysp2Cqoq6tzFSQ"
          "mZyempyokpqfmlcRDFHCBJA"
          "ABAAD//zmF0VtcAAAA\n"
          "  - path: /run/peerpod/scratch-space.marker\n", .auth = "{\"auths\":{}}\n" },
        { "without the first line", .text = "write_files:\n" APF },
        { "in flow style", .text = "{write_files: [{path: /run/peerpod/apf.json, content: '{}'}]}" },
        { "nothing in it", .text = "#cloud-config\n", .error = "has no '/run/peerpod/apf.json'" },
        { "empty", .text = "", .error = "has no '/run/peerpod/apf.json'" },
        { "a shell script instead", .text = "#!/bin/sh\nexec sh\n", .error = "line 2: the document is not a mapping" },
        { "an empty file, without content", .text = HEAD APF AUTH, .auth = "" },
        { "content that is null", .text = HEAD APF AUTH "    content: null\n", .auth = "" },
        { "an unknown key of a file", .text = HEAD APF AUTH "    content: a\n    defer: true\n", .auth = "a" },
        { "an unknown key beside write_files", .text = "runcmd:\n  - [sh, -c, id]\n" HEAD APF AUTH "    content: a\n",
          .auth = "a" },
        { "users and keys of a cloud's own",
          .text = "users:\n  - name: root\n    ssh_authorized_keys: [x]\nssh_pwauth: true\n" HEAD APF },
        { "permissions that are wider", .text = HEAD APF AUTH "    permissions: '0644'\n    content: a\n", .auth = "a" },
        { "permissions that are tighter", .text = HEAD APF AUTH "    permissions: \"0400\"\n    content: a\n",
          .auth = "a", .mode = 0400 },
        { "permissions to nobody", .text = HEAD APF AUTH "    permissions: '0000'\n    content: a\n", .auth = "a", .mode = 0400 },
        { "permissions with set-user-ID", .text = HEAD APF AUTH "    permissions: '4755'\n    content: a\n", .auth = "a" },
        { "permissions without quotes", .text = HEAD APF AUTH "    permissions: 0600\n    content: a\n", .auth = "a" },
        { "permissions that are no number", .text = HEAD APF AUTH "    permissions: u=rw\n",
          .error = "permissions is no octal number" },
        { "an owner", .text = HEAD APF AUTH "    owner: root:root\n    content: a\n", .auth = "a" },
        { "another owner", .text = HEAD APF AUTH "    owner: nobody\n    content: a\n", .auth = "a" },
        { "base64", .text = HEAD APF AUTH "    encoding: b64\n    content: eyJhdXRocyI6e319\n", .auth = "{\"auths\":{}}" },
        { "base64 in a block of lines",
          .text = HEAD APF AUTH "    encoding: base64\n    content: |\n      eyJhdXRo\n      cyI6e319\n",
          .auth = "{\"auths\":{}}" },
        { "base64 that is none", .text = HEAD APF AUTH "    encoding: b64\n    content: '{}'\n", .error = "is no base64" },
        { "gzip in base64", .text = HEAD APF AUTH "    encoding: gz+b64\n    content: H4sIAAAAAAAAA6tWSiwtyShWsqqurQUA+jcPoQwAAAA=\n",
          .auth = "{\"auths\":{}}" },
        { "gzip in base64 that is none", .text = HEAD APF AUTH "    encoding: gz+b64\n    content: eyJhdXRocyI6e319\n",
          .error = "is no gzip" },
        { "an encoding nobody has", .text = HEAD APF AUTH "    encoding: rot13\n    content: a\n",
          .error = "this encoding is not supported" },
        { "append", .text = HEAD APF AUTH "    append: true\n    content: a\n", .error = "append is not supported" },
        { "no append", .text = HEAD APF AUTH "    append: false\n    content: a\n", .auth = "a" },
        { "lines that end in CR LF",
          .text = "#cloud-config\r\nwrite_files:\r\n  - path: /run/peerpod/apf.json\r\n    content: |\r\n      {}\r\n"
          "  - path: /run/peerpod/auth.json\r\n    content: |\r\n      a\r\n      b\r\n", .auth = "a\nb\n" },
        { "tabs in content", .text = HEAD APF AUTH "    content: |\n      {\t\"auths\":\t{}}\n", .auth = "{\t\"auths\":\t{}}\n" },
        { "tabs for indentation", .text = HEAD APF "\t- path: /run/peerpod/auth.json\n", .error = "no YAML" },
        { "an anchor and an alias", .text = "a: &a x\n" HEAD APF AUTH "    content: *a\n", .error = "anchors are not accepted" },
        { "an alias of nothing", .text = HEAD APF AUTH "    content: *a\n", .error = "aliases are not accepted" },
        { "write_files twice", .text = HEAD APF "write_files: []\n", .error = "a key is given twice" },
        { "content twice", .text = HEAD APF AUTH "    content: a\n    content: b\n", .error = "a key is given twice" },
        { "a file twice", .text = HEAD APF AUTH AUTH, .error = "'/run/peerpod/auth.json' is given twice" },
        { "a file without path", .text = HEAD APF "  - content: a\n", .error = "a file without path" },
        { "a relative path", .text = HEAD APF "  - path: run/peerpod/auth.json\n", .error = "path is not absolute" },
        { "a path that leads to an allowed one", .text = HEAD APF "  - path: /run/peerpod/../peerpod/auth.json\n    content: a\n" },
        { "aa.toml beside initdata", .text = HEAD APF ENTRY("aa.toml") "    content: a\n" },
        { "a path of the system", .text = HEAD APF "  - path: /etc/systemd/system/x.service\n    content: a\n" },
        { "content that is a list", .text = HEAD APF AUTH "    content: [a]\n", .error = "content is not a string" },
        { "content that is a number", .text = HEAD APF AUTH "    content: 1\n", .auth = "1" },
        { "binary content", .text = HEAD APF AUTH "    content: !!binary eyI=\n", .error = "!!binary is not supported" },
        { "two documents", .text = HEAD APF "---\n" HEAD APF, .error = "more than one document" },
        { "cut off in an entry", .text = "#cloud-config\nwrite_files:\n  - path: /run/peerpod/apf.json\n    content: \"{",
          .error = "no YAML" },
        { "cut off before apf.json", .text = HEAD AUTH "    content: a\n", .error = "has no '/run/peerpod/apf.json'" },
        { "cut off in apf.json", .text = HEAD ENTRY("apf.json") "    content: |\n      {\"pod-na\n",
          .error = "'/run/peerpod/apf.json' cannot be used" },
        { "initdata that is not gzip", .text = HEAD APF ENTRY("initdata") "    content: e30=\n",
          .error = "it is not gzip inside base64" },
};

static void check_auth(const UserData *c, const char *dir) {
        _cleanup_(freep) char *text = NULL;
        char path[64];
        struct stat st;

        (void) snprintf(path, sizeof(path), "%s/auth.json", dir);
        if (!c->auth) {
                assert_int_equal(access(path, F_OK), -1);
                return;
        }
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
        assert_string_equal(text, c->auth);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, c->mode ?: 0600);
}

static void user_data_is_taken_or_refused(void **state) {
        static const MeasureSettings nowhere = { .tpm_device = "/nonexistent/tpm", .sys_dir = "/nonexistent" };
        const UserData *c = *state;
        char dir[] = "/tmp/interop-XXXXXX", *error = NULL;
        int r;

        assert_non_null(mkdtemp(dir));
        r = provision(c->text, strlen(c->text), dir, &nowhere, &error);
        if (c->error) {
                if (r != -EBADMSG || !strstr(strempty(error), c->error))
                        fail_msg("result %i, '%s'", r, strempty(error));
        } else {
                if (r != PROVISION_DONE)
                        fail_msg("result %i, '%s'", r, strempty(error));
                check_auth(c, dir);
        }
        free(error);
        assert_int_equal(remove_tree(dir), 0);
}

/* ---- apf.json ------------------------------------------------------------------------------------------------------ */

#define NETWORK(more) "{\"pod-network\":{\"podip\":\"10.128.0.2/24\",\"interface\":\"eth0\",\"worker-node-ip\":\"10.10.0.1/16\"," \
        "\"tunnel-type\":\"vxlan\"," more "\"mtu\":1450,\"index\":0,\"dedicated\":false,\"external-net-via-pod-vm\":false}}"
#define ROUTE(route) NETWORK("\"routes\":[" route "],")

typedef struct Apf {
        const char *name, *text;
        const char *apf_error;          /* apf.json itself is refused */
        const char *network_error;      /* its pod-network is */
        bool no_network;                /* there is none, which pod-network and forwarder then refuse */
        size_t n_routes;
        bool default_route;             /* the first route is IPv4's */
        uint8_t protocol;               /* of the first */
} Apf;

static const Apf apfs[] = {
        { "as upstream's worker writes it", .text =
          "{\n    \"pod-network\": {\n        \"podip\": \"10.128.0.2/24\",\n        \"pod-hw-addr\": \"0a:58:0a:80:00:02\",\n"
          "        \"interface\": \"eth0\",\n        \"worker-node-ip\": \"10.10.0.1/16\",\n        \"tunnel-type\": \"vxlan\",\n"
          "        \"routes\": [\n            {\n                \"dst\": \"::ffff:0.0.0.0/0\",\n                \"gw\": \"10.128.0.1\",\n"
          "                \"dev\": \"eth0\",\n                \"protocol\": \"boot\"\n            },\n            {\n"
          "                \"dst\": \"10.128.0.0/24\",\n                \"gw\": \"\",\n                \"dev\": \"eth0\",\n"
          "                \"protocol\": \"kernel\",\n                \"scope\": \"link\"\n            }\n        ],\n"
          "        \"neighbors\": null,\n        \"mtu\": 1450,\n        \"index\": 0,\n        \"vxlan-port\": 4789,\n"
          "        \"vxlan-id\": 555000,\n        \"dedicated\": false,\n        \"external-net-via-pod-vm\": false\n    },\n"
          "    \"pod-namespace\": \"default\",\n    \"pod-name\": \"nginx\",\n    \"tls-server-key\": \"K\\n\",\n"
          "    \"tls-server-cert\": \"C\\n\",\n    \"tls-client-ca\": \"A\\n\"\n}",
          .n_routes = 2, .default_route = true, .protocol = RTPROT_BOOT },
        { "routes that are null", .text = NETWORK("\"routes\":null,\"neighbors\":null,") },
        { "no routes at all", .text = NETWORK("") },
        { "the default route as 4-in-6", .text = ROUTE("{\"dst\":\"::ffff:0.0.0.0/0\",\"gw\":\"10.128.0.1\"}"),
          .n_routes = 1, .default_route = true },
        { "the default route as older builds wrote it", .text = ROUTE("{\"dst\":\"0.0.0.0/0\",\"gw\":\"10.128.0.1\"}"),
          .n_routes = 1,
          .default_route = true },
        { "the default route as nothing", .text = ROUTE("{\"dst\":\"\",\"gw\":\"10.128.0.1\"}"),
          .n_routes = 1, .default_route = true },
        { "an on-link route with an empty gateway", .text = ROUTE("{\"dst\":\"10.0.0.0/8\",\"gw\":\"\",\"dev\":\"eth0\"}"),
          .n_routes = 1 },
        { "a protocol that upstream knows", .text = ROUTE("{\"dst\":\"10.0.0.0/8\",\"gw\":\"\",\"protocol\":\"dhcp\"}"),
          .n_routes = 1,
          .protocol = RTPROT_DHCP },
        { "a protocol nobody knows, which ends upstream's forwarder",
          .text = ROUTE("{\"dst\":\"10.0.0.0/8\",\"gw\":\"\",\"protocol\":\"bird\"}"),
          .n_routes = 1, .protocol = RTPROT_UNSPEC },
        { "a scope nobody knows", .text = ROUTE("{\"dst\":\"10.0.0.0/8\",\"gw\":\"\",\"scope\":\"galaxy\"}"),
          .network_error = "'scope'" },
        { "a destination that is none", .text = ROUTE("{\"dst\":\"10.0.0.0\",\"gw\":\"\"}"),
          .network_error = "'dst' is not an IPv4 prefix" },
        { "an IPv6 destination among IPv4 routes", .text = ROUTE("{\"dst\":\"fd00::/8\",\"gw\":\"\"}"),
          .network_error = "'dst' is not an IPv4 prefix" },
        { "a route that is no object", .text = ROUTE("1"), .network_error = "'routes[0]' is not an object" },
        { "routes that are no list", .text = NETWORK("\"routes\":{},"), .network_error = "'routes'" },
        { "an unknown key in a route", .text = ROUTE("{\"dst\":\"10.0.0.0/8\",\"gw\":\"\",\"weight\":[1]}"), .n_routes = 1 },
        { "an unknown key in the network", .text = NETWORK("\"routing-tunnel\":{\"a\":1},") },
        { "unknown keys and leftovers beside it",
          .text = "{\"pod-network\":null,\"sc-pp-prv\":\"AA==\",\"sc-wn-pub\":null,\"new\":[{}]}",
          .no_network = true },
        { "a network that is null, which crashes upstream's forwarder", .text = "{\"pod-network\":null}", .no_network = true },
        { "no network", .text = "{}", .no_network = true },
        { "a network that is a string", .text = "{\"pod-network\":\"vxlan\"}", .apf_error = "'pod-network'" },
        { "a key that is given twice, the last holds", .text = "{\"pod-network\":1,\"pod-network\":null}", .no_network = true },
        { "no client CA, for the forwarder to refuse",
          .text = "{\"pod-network\":null,\"tls-server-key\":\"K\",\"tls-server-cert\":\"C\"}",
          .no_network = true },
        { "TLS 1.1", .text = "{\"tls-min-version\":\"VersionTLS11\"}", .apf_error = "'tls-min-version'" },
        { "a key that is no string", .text = "{\"tls-server-key\":{\"a\":1}}", .apf_error = "'tls-server-key'" },
        { "a second value behind it, at which upstream does not look", .text = "{} {}", .apf_error = "byte" },
        { "cut off", .text = "{\"pod-network\":{\"podip\"", .apf_error = "ends too early" },
        { "a list", .text = "[]", .apf_error = "not an object" },
        { "an MTU that is a string", .text = "{\"pod-network\":{\"mtu\":\"1450\"}}", .network_error = "'mtu'" },
        { "an MTU below zero", .text = "{\"pod-network\":{\"mtu\":-1}}", .network_error = "'mtu'" },
        { "a port that is none", .text = "{\"pod-network\":{\"vxlan-port\":65536}}", .network_error = "'vxlan-port'" },
        { "an id that does not fit into VXLAN", .text = "{\"pod-network\":{\"vxlan-id\":16777216}}",
          .network_error = "'vxlan-id'" },
        { "an interface that is a path", .text = "{\"pod-network\":{\"interface\":\"../eth0\"}}",
          .network_error = "'interface'" },
        { "addresses that are not set", .text = "{\"pod-network\":{\"podip\":\"\",\"pod-hw-addr\":\"\",\"worker-node-ip\":\"\"}}" },
        { "a neighbour without address", .text = NETWORK("\"neighbors\":[{\"ip\":\"\",\"hw-addr\":\"0a:58:0a:80:00:01\"}],"),
          .network_error = "'ip' is missing" },
        { "a neighbour in a state nobody knows", .text = NETWORK("\"neighbors\":[{\"ip\":\"10.128.0.1\",\"state\":\"happy\"}],"),
          .network_error = "'state'" },
};

static void check_network(const Apf *c, const char *text) {
        _cleanup_(pod_network_done) PodNetwork n = POD_NETWORK_NULL;
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *error = NULL;
        int r;

        assert_int_equal(json_parse(text, strlen(text), &o, NULL), 0);
        r = pod_network_from_json(o, &n, &error);
        if (c->network_error) {
                if (r != -EBADMSG || !strstr(strempty(error), c->network_error))
                        fail_msg("result %i, '%s'", r, strempty(error));
                return;
        }
        if (r < 0)
                fail_msg("result %i, '%s'", r, strempty(error));
        assert_int_equal(n.n_routes, c->n_routes);
        if (n.n_routes > 0) {
                assert_int_equal(n.routes[0].protocol, c->protocol);
                assert_int_equal(n.routes[0].dst.address.family, AF_INET);
                assert_int_equal(n.routes[0].dst.length == 0, c->default_route);
        }
}

static void apf_json_is_taken_or_refused(void **state) {
        _cleanup_(apf_config_done) ApfConfig config = APF_CONFIG_NULL;
        _cleanup_(freep) char *error = NULL;
        const Apf *c = *state;
        int r;

        r = apf_config_parse(c->text, strlen(c->text), &config, &error);
        if (c->apf_error) {
                if (r != -EBADMSG || !strstr(strempty(error), c->apf_error))
                        fail_msg("result %i, '%s'", r, strempty(error));
                return;
        }
        if (r < 0)
                fail_msg("result %i, '%s'", r, strempty(error));
        assert_int_equal(!config.pod_network, c->no_network);
        if (config.pod_network)
                check_network(c, config.pod_network);
}

int main(void) {
        struct CMUnitTest tests[ELEMENTSOF(user_data) + ELEMENTSOF(apfs)];
        size_t n = 0;

        log_set_max_level(LOG_EMERG);
        FOREACH_ELEMENT(const UserData, c, user_data, ELEMENTSOF(user_data))
                tests[n++] = (struct CMUnitTest) { .name = c->name,
                                                   .test_func = user_data_is_taken_or_refused, .initial_state = (void*) c };
        FOREACH_ELEMENT(const Apf, c, apfs, ELEMENTSOF(apfs))
                tests[n++] = (struct CMUnitTest) { .name = c->name,
                                                   .test_func = apf_json_is_taken_or_refused, .initial_state = (void*) c };
        return cmocka_run_group_tests_name("interop", tests, NULL, NULL);
}
