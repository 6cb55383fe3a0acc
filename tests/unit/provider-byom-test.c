/* SPDX-License-Identifier: Apache-2.0 */
/* The pool's list of addresses, and its state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "basic/strv.h"
#include "basic/util.h"
#include "byom-pool.h"

typedef struct ListCase {
        const char *name, *list;
        uint64_t range_max;
        int result;
        const char *text;               /* the addresses, or what is bad */
} ListCase;

static const ListCase lists[] = {
        { "single addresses",                    "10.0.0.1,fd00::1",                100, 0,       "10.0.0.1 fd00::1"          },
        { "canonical, without repetitions",      "fd00:0::1,FD00::1,10.0.0.1,10.0.0.1", 100, 0,   "fd00::1 10.0.0.1"          },
        { "a range",                             "10.0.0.254-10.0.1.1",             100, 0,       "10.0.0.254 10.0.0.255 10.0.1.0 10.0.1.1" },
        { "a range of IPv6",                     "fd00::ffff-fd00::1:1",            100, 0,       "fd00::ffff fd00::1:0 fd00::1:1" },
        { "ends that are equal, and blanks",     "10.0.0.1 - 10.0.0.1, ,10.0.0.2 ", 100, 0,       "10.0.0.1 10.0.0.2"         },
        { "a range is cut off",                  "10.0.0.1-10.0.0.9",               2,   0,       "10.0.0.1 10.0.0.2"         },
        { "a range to the last address of all",  "255.255.255.254-255.255.255.255", 100, 0,       "255.255.255.254 255.255.255.255" },
        { "nothing",                             "",                                100, 0,       ""                          },
        { "ends in the wrong order",             "10.0.0.2-10.0.0.1",               100, -EINVAL, "10.0.0.2-10.0.0.1"         },
        { "ends of two families",                "10.0.0.1-fd00::1",                100, -EINVAL, "10.0.0.1-fd00::1"          },
        { "half a range",                        "10.0.0.1,10.0.0.2-",              100, -EINVAL, "10.0.0.2-"                 },
        { "a network",                           "10.0.0.0/24",                     100, -EINVAL, "10.0.0.0/24"               },
        { "a name",                              "vm1",                             100, -EINVAL, "vm1"                       },
        { "more than the pool holds",            "fd00::-fd00::ffff",               65536, -E2BIG, NULL                       },
};

static void list_parses_as_specified(void **state) {
        _cleanup_(strv_freep) char **l = NULL;
        _cleanup_(freep) char *bad = NULL, *text = NULL;
        const ListCase *c = *state;

        assert_int_equal(pool_parse(c->list, c->range_max, &l, &bad), c->result);
        if (c->result == -EINVAL)
                assert_string_equal(bad, c->text);
        if (c->result < 0)
                return;
        assert_int_equal(strv_join(l, " ", &text), 0);
        assert_string_equal(text, c->text);
}

/* cloud-api-adaptor: src/cloud-providers/byom, the first four bytes of md5sum(1) of the same text */
static void hash_is_upstreams(void **state) {
        assert_int_equal(pool_hash("nginx-88a70031b7f0"), 0x39d36155);
        assert_int_equal(pool_hash("busybox-1"), 0x4a6c1c40);
}

/* As upstream writes it. */
static const char upstreams[] =
        "{\n"
        "  \"allocatedIPs\": {\n"
        "    \"nginx-88a70031b7f0\": {\n"
        "      \"allocationID\": \"nginx-88a70031b7f0\",\n"
        "      \"ip\": \"10.0.0.2\",\n"
        "      \"nodeName\": \"node1\",\n"
        "      \"podName\": \"nginx\",\n"
        "      \"allocatedAt\": \"2026-01-01T00:00:00Z\"\n"
        "    }\n"
        "  },\n"
        "  \"availableIPs\": [\n"
        "    \"10.0.0.1\",\n"
        "    \"192.0.2.1\"\n"
        "  ],\n"
        "  \"lastUpdated\": \"2026-01-01T00:00:00Z\",\n"
        "  \"version\": 41\n"
        "}";

static void state_is_kept_and_brought_up_to_date(void **unused) {
        char *addresses[] = { (char*) "10.0.0.1", (char*) "10.0.0.2", (char*) "10.0.0.3", NULL };
        _cleanup_(json_object_putp) json_object *state = NULL, *again = NULL;
        _cleanup_(freep) char *error = NULL;
        _cleanup_(strv_freep) char **available = NULL;
        uint64_t version = 0;
        const char *text;

        assert_int_equal(state_parse(upstreams, strlen(upstreams), &state, &error), 0);
        assert_true(state_has_address(state, "10.0.0.2"));
        assert_false(state_has_address(state, "10.0.0.1"));
        assert_int_equal(state_add(state, "podvm-a-s", "10.0.0.3", "node2", "a", "podvm-a", "s"), 0);
        assert_null(state_name_owner(state, "podvm-a", "s"));
        assert_string_equal(state_name_owner(state, "podvm-a", "t"), "s");
        text = state_text(state, addresses);
        assert_non_null(text);

        assert_int_equal(state_parse(text, strlen(text), &again, &error), 0);
        assert_string_equal(entry_get(state_get(again, "nginx-88a70031b7f0"), "podName"), "nginx");
        assert_string_equal(entry_get(state_get(again, "podvm-a-s"), "ip"), "10.0.0.3");
        assert_int_equal(json_get_strv(again, "availableIPs", &available, NULL), 1);
        assert_int_equal(strv_length(available), 1);    /* 192.0.2.1 is configured no more */
        assert_string_equal(available[0], "10.0.0.1");
        assert_int_equal(json_get_u64(again, "version", UINT64_MAX, &version, NULL), 1);
        assert_int_equal(version, 42);

        state_drop(again, "podvm-a-s");
        assert_null(state_get(again, "podvm-a-s"));
        state_drop(again, "podvm-a-s");
}

int main(void) {
        struct CMUnitTest tests[ELEMENTSOF(lists) + 2];

        for (size_t i = 0; i < ELEMENTSOF(lists); i++)
                tests[i] = (struct CMUnitTest) { .name = lists[i].name, .test_func = list_parses_as_specified, .initial_state = (void*) &lists[i] };
        tests[ELEMENTSOF(lists)] = (struct CMUnitTest) cmocka_unit_test(hash_is_upstreams);
        tests[ELEMENTSOF(lists) + 1] = (struct CMUnitTest) cmocka_unit_test(state_is_kept_and_brought_up_to_date);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
