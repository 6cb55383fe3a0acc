/* SPDX-License-Identifier: Apache-2.0 */
/* Kata's records of volumes: whose they are, and what is in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "basic/io.h"
#include "tunnel/direct-volume.h"

/* base64.urlsafe_b64encode() of Python 3.11 */
#define NAME_U1_A "L3Zhci9saWIva3ViZWxldC9wb2RzL3UxL3ZvbHVtZXMva3ViZXJuZXRlcy5pb35jc2kvcHZjLWEvbW91bnQ="
#define PATH_U1_A "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-a/mount"
#define NAME_U1_B "L3Zhci9saWIva3ViZWxldC9wb2RzL3UxL3ZvbHVtZXMva3ViZXJuZXRlcy5pb35jc2kvcHZjLWIvbW91bnQ="
#define PATH_U1_B "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-b/mount"
#define NAME_U2_A "L3Zhci9saWIva3ViZWxldC9wb2RzL3UyL3ZvbHVtZXMva3ViZXJuZXRlcy5pb35jc2kvcHZjLWEvbW91bnQ="
#define PATH_U2_A "/var/lib/kubelet/pods/u2/volumes/kubernetes.io~csi/pvc-a/mount"
#define NAME_U1_OTHER "L3Zhci9saWIva3ViZWxldC9wb2RzL3UxL3ZvbHVtZXMva3ViZXJuZXRlcy5pb35lbXB0eS1kaXIveA=="

static char directory[32];

static void add(const char *name, const char *record) {
        char path[512];

        (void) snprintf(path, sizeof(path), "%s/%s", directory, name);
        assert_int_equal(mkdir(path, 0700), 0);
        (void) snprintf(path, sizeof(path), "%s/%s/mountInfo.json", directory, name);
        assert_int_equal(write_file_atomic(path, record, strlen(record), 0600), 0);
}

static int make_directory(void **state) {
        strcpy(directory, "/tmp/direct-volume-XXXXXX");
        assert_non_null(mkdtemp(directory));
        return 0;
}

static int remove_directory(void **state) {
        return remove_tree(directory);
}

static void only_the_pods_own_are_read_in_the_order_of_their_names(void **state) {
        _cleanup_(direct_volumes_done) DirectVolumes v = DIRECT_VOLUMES_NULL;
        NetError e = {};

        add(NAME_U1_B, "{\"volume-type\":\"block\",\"device\":\"/dev/x\",\"fstype\":\"xfs\",\"metadata\":{\"cloud-volume-path\":\"vol-b\","
                       "\"encrypt-type\":\"luks\",\"kbs-key-id\":\"kbs:///k\"},\"options\":[]}");
        add(NAME_U1_A, "{\"device\":\"vol-a\"}");
        add(NAME_U2_A, "this is not even JSON, and none of our business");
        add(NAME_U1_OTHER, "{\"device\":\"vol-c\"}");
        add("not-base64", "{\"device\":\"vol-d\"}");

        assert_int_equal(direct_volumes_read(directory, "u1", &v, &e), 0);
        assert_int_equal(v.n, 2);
        assert_string_equal(v.volumes[0].path, PATH_U1_A);
        assert_string_equal(v.volumes[0].disk_id, "vol-a");
        assert_string_equal(v.volumes[0].fs_type, "ext4");
        assert_string_equal(v.volumes[0].encrypt_type, "");
        assert_string_equal(v.volumes[1].path, PATH_U1_B);
        assert_string_equal(v.volumes[1].disk_id, "vol-b");
        assert_string_equal(v.volumes[1].fs_type, "xfs");
        assert_string_equal(v.volumes[1].encrypt_type, "luks");
        assert_string_equal(v.volumes[1].key_id, "kbs:///k");
}

static void of_an_unknown_pod_nothing_but_paths_is_told(void **state) {
        _cleanup_(direct_volumes_done) DirectVolumes v = DIRECT_VOLUMES_NULL;
        NetError e = {};

        add(NAME_U1_A, "{\"device\":\"vol-a\"}");
        add(NAME_U2_A, "unreadable");
        add(NAME_U1_OTHER, "{\"device\":\"vol-c\"}");
        assert_int_equal(direct_volumes_read(directory, "", &v, &e), 0);
        assert_int_equal(v.n, 2);
        for (size_t i = 0; i < 2; i++) {
                assert_string_equal(v.volumes[i].path, i == 0 ? PATH_U1_A : PATH_U2_A);
                assert_null(v.volumes[i].disk_id);
        }
}

static void a_record_of_the_pods_that_is_unreadable_is_an_error(void **state) {
        static const char *const bad[] = {
                "", "[]", "{\"device\":", "{\"device\":7}", "{\"metadata\":\"x\"}", "{\"metadata\":{\"cloud-volume-path\":[]}}",
                "{\"device\":\"a\\u0001\"}",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_(direct_volumes_done) DirectVolumes v = DIRECT_VOLUMES_NULL;
                NetError e = {};

                add(NAME_U1_A, bad[i]);
                assert_int_equal(direct_volumes_read(directory, "u1", &v, &e), -EBADMSG);
                assert_non_null(strstr(net_error_text(&e, -EBADMSG), PATH_U1_A));
                assert_int_equal(v.n, 0);
                assert_int_equal(remove_tree(directory), 0);
                assert_int_equal(mkdir(directory, 0700), 0);
        }
}

static void a_node_without_volumes_has_none(void **state) {
        _cleanup_(direct_volumes_done) DirectVolumes v = DIRECT_VOLUMES_NULL;
        NetError e = {};

        assert_int_equal(direct_volumes_read("/nonexistent/directory", "u1", &v, &e), 0);
        assert_int_equal(direct_volumes_read(directory, "u1", &v, &e), 0);
        assert_int_equal(v.n, 0);
}

static void names_are_decoded_strictly(void **state) {
        static const struct {
                const char *name, *path;
        } cases[] = {
                { NAME_U1_A, PATH_U1_A },
                { "L2E_Yg==", "/a?b" }, { "L34-", "/~>" },      /* '_' and '-' for '/' and '+' */
                { "L2E_Yg", NULL },                             /* no padding */
                { "L2E/Yg==", NULL }, { "L34+", NULL },         /* the other alphabet */
                { " L34-", NULL }, { "L3\n4-", NULL }, { "", NULL }, { "YQ==", NULL } /* not absolute */,
                { "LwBh", NULL } /* NUL */, { "L2EvLi4vYg==", NULL } /* /a/../b */, { "L_8=", NULL } /* no UTF-8 */,
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) char *path = NULL;
                int r = direct_volume_decode_name(cases[i].name, &path);

                assert_int_equal(r, cases[i].path ? 0 : -EBADMSG);
                if (cases[i].path)
                        assert_string_equal(path, cases[i].path);
        }
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, make_directory, remove_directory)
        static const struct CMUnitTest tests[] = {
                T(only_the_pods_own_are_read_in_the_order_of_their_names),
                T(of_an_unknown_pod_nothing_but_paths_is_told),
                T(a_record_of_the_pods_that_is_unreadable_is_an_error),
                T(a_node_without_volumes_has_none),
                T(names_are_decoded_strictly),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
