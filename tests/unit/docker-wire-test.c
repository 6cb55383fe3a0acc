/* SPDX-License-Identifier: Apache-2.0 */
/* The Docker Engine's API as bytes. Answers are as dockerd 26.1 gives them, cut to what matters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "basic/util.h"
#include "docker-wire.h"

typedef struct ImageCase {
        const char *image, *name, *tag, *registry;      /* name NULL: refused */
} ImageCase;

#define DIGEST "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

/* distribution/reference: reference.go, the grammar at its top */
static const ImageCase images[] = {
        { "podvm", "podvm", "latest", NULL },
        { "podvm:1.2", "podvm", "1.2", NULL },
        { "team/podvm:1", "team/podvm", "1", NULL },
        { "registry.example/team/podvm", "registry.example/team/podvm", "latest", "registry.example" },
        { "registry.example:5000/podvm", "registry.example:5000/podvm", "latest", "registry.example:5000" },
        { "registry.example:5000/podvm:2", "registry.example:5000/podvm", "2", "registry.example:5000" },
        { "localhost/podvm:2", "localhost/podvm", "2", "localhost" },
        { "podvm@" DIGEST, "podvm", DIGEST, NULL },
        { "registry.example:5000/podvm@" DIGEST, "registry.example:5000/podvm", DIGEST, "registry.example:5000" },
        { "registry.example:5000/podvm:2@" DIGEST, "registry.example:5000/podvm", DIGEST, "registry.example:5000" },
        { "", NULL },
        { "podvm:", NULL },
        { ":1", NULL },
        { "podvm:1:2", NULL },
        { "team/", NULL },
        { "/podvm", NULL },
        { "pod vm", NULL },
        { "podvm?x=1", NULL },
        { "podvm%2F", NULL },
        { "-v", NULL },
        { "@" DIGEST, NULL },
        { "podvm@md5:0", NULL },
        { "podvm@" DIGEST "@" DIGEST, NULL },
};

static void an_image_is_a_name_and_a_tag(void **state) {
        FOREACH_ELEMENT(const ImageCase, c, images, ELEMENTSOF(images)) {
                _cleanup_(freep) char *name = NULL, *tag = NULL, *registry = NULL;
                int r = docker_image_split(c->image, &name, &tag);

                if (!c->name) {
                        assert_int_equal(r, -EINVAL);
                        continue;
                }
                assert_int_equal(r, 0);
                assert_string_equal(name, c->name);
                assert_string_equal(tag, c->tag);
                assert_int_equal(docker_image_registry(c->image, &registry), 0);
                assert_true(streq_ptr(registry, c->registry));
        }
}

static void versions_are_numbers(void **state) {
        static const struct {
                const char *text;
                uint32_t version;
        } cases[] = {
                { "1.44", 1044 }, { "1.9", 1009 }, { "2.0", 2000 }, { "", 0 }, { "1", 0 }, { "1.", 0 }, { ".4", 0 }, { "1.4x", 0 }, { "v1.44", 0 },
                { "1.44.1", 0 }, { "1.1000", 0 }, { "0.1", 0 }, { "1234.1", 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_int_equal(docker_version_parse(cases[i].text), cases[i].version);
}

static void the_version_is_what_both_speak(void **state) {
        static const struct {
                const char *text;
                uint32_t version;       /* 0: no answer */
        } cases[] = {
                { "{\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\"}", 1041 },       /* 20.10 */
                { "{\"ApiVersion\":\"1.48\",\"MinAPIVersion\":\"1.24\"}", 1044 },       /* 28.0 */
                { "{\"ApiVersion\":\"1.60\",\"MinAPIVersion\":\"1.50\"}", 1050 },
                { "{\"ApiVersion\":\"1.43\"}", 1043 },
                { "{\"ApiVersion\":\"1.24\",\"MinAPIVersion\":\"1.44\"}", 0 },
                { "{\"ApiVersion\":1.44}", 0 },
                { "{}", 0 },
                { "[]", 0 },
                { "", 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                DockerEngine e = {};
                int r = docker_parse_version(cases[i].text, strlen(cases[i].text), 1044, &e);

                assert_int_equal(r, cases[i].version ? 0 : -EBADMSG);
                assert_int_equal(e.version, cases[i].version);
        }
}

static void a_pull_s_progress_comes_in_pieces_of_any_size(void **state) {
        static const char stream[] =
                "{\"status\":\"Pulling from team/podvm\",\"id\":\"1\"}\r\n"
                "no JSON\r\n"
                "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":5,\"total\":10},\"progress\":\"[==>  ] 5B/10B\",\"id\":\"a3ed95\"}\r\n"
                "{\"errorDetail\":{\"message\":\"manifest\\u001b[31m unknown\"},\"error\":\"manifest unknown\"}\r\n";

        for (size_t step = 1; step <= sizeof(stream); step++) {
                DockerProgress *p = new0(DockerProgress, 1);

                assert_non_null(p);
                for (size_t i = 0; i < strlen(stream); i += step)
                        assert_int_equal(docker_progress_feed(p, stream + i, MIN(step, strlen(stream) - i)), 0);
                assert_string_equal(p->status, "a3ed95: Downloading [==>  ] 5B/10B");
                assert_non_null(p->error);
                assert_null(strchr(p->error, '\033'));
                assert_non_null(strstr(p->error, "unknown"));
                docker_progress_done(p);
                free(p);
        }
}

static void a_line_without_end_is_left_out(void **state) {
        DockerProgress *p = new0(DockerProgress, 1);
        char *long_line = malloc(DOCKER_LINE_MAX);

        assert_non_null(p);
        assert_non_null(long_line);
        memset(long_line, 'x', DOCKER_LINE_MAX);
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(docker_progress_feed(p, long_line, DOCKER_LINE_MAX), 0);
        assert_int_equal(docker_progress_feed(p, "\n{\"status\":\"Done\"}\n", 19), 0);
        assert_string_equal(p->status, "Done ");
        docker_progress_done(p);
        free(p);
        free(long_line);
}

static void only_addresses_are_taken_for_such(void **state) {
        static const char format[] = "{\"Id\":\"0c1f\",\"Name\":\"/a\",\"State\":{\"Status\":\"running\"},"
                "\"NetworkSettings\":{\"Networks\":{\"bridge\":{\"IPAddress\":\"%s\",\"GlobalIPv6Address\":\"%s\"},\"other\":{\"IPAddress\":\"10.0.0.1\"}}}}";
        static const struct {
                const char *v4, *v6;
                int n;                  /* negative: refused */
        } cases[] = {
                { "172.17.0.2", "", 1 }, { "", "", 0 }, { "172.17.0.2", "fd00::2", 2 }, { "", "fd00::2", 1 }, { "172.17.0.2/16", "", -1 },
                { "fd00::2", "", -1 }, { "; rm", "", -1 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                DockerContainer c = {};
                char text[512];
                int r;

                (void) snprintf(text, sizeof(text), format, cases[i].v4, cases[i].v6);
                r = docker_parse_container(text, strlen(text), "bridge", &c);
                assert_int_equal(r, cases[i].n < 0 ? -EBADMSG : 0);
                if (cases[i].n >= 0)
                        assert_int_equal(c.n_addresses, cases[i].n);
                docker_container_done(&c);
        }
}

static void a_list_has_only_what_has_an_owner(void **state) {
        static const char text[] = "[{\"Id\":\"1\",\"Labels\":{\"peerpod-name\":\"n\",\"peerpod-sandbox\":\"s\",\"peerpod-node\":\"w\"}},"
                "{\"Id\":\"2\",\"Labels\":{\"peerpod-name\":\"n\",\"peerpod-node\":\"w\"}},{\"Id\":\"3\",\"Labels\":{}},{\"Id\":\"4\",\"Labels\":null},"
                "{\"Id\":\"5\",\"Labels\":{\"peerpod-name\":\"n\\u0007\",\"peerpod-sandbox\":\"s\",\"peerpod-node\":\"w\"}}]";
        DockerList l = {};

        assert_int_equal(docker_parse_containers(text, strlen(text), &l), 0);
        assert_int_equal(l.n_items, 1);
        assert_string_equal(l.items[0].id, "1");
        docker_list_done(&l);
        assert_int_equal(docker_parse_containers("[1]", 3, &l), -EBADMSG);
        docker_list_done(&l);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(an_image_is_a_name_and_a_tag),
                cmocka_unit_test(versions_are_numbers),
                cmocka_unit_test(the_version_is_what_both_speak),
                cmocka_unit_test(a_pull_s_progress_comes_in_pieces_of_any_size),
                cmocka_unit_test(a_line_without_end_is_left_out),
                cmocka_unit_test(only_addresses_are_taken_for_such),
                cmocka_unit_test(a_list_has_only_what_has_an_owner),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
