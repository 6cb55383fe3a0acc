/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-csi without its loop: gRPC's small formats, names and paths of volumes, what may follow what, and the edits of messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "basic/json.h"
#include "basic/util.h"
#include "kube/csi/csi-message.h"
#include "kube/csi/grpc-wire.h"
#include "kube/csi/volume.h"
#include "kube/kube-object.h"
#include "proto/csi-v1.pb-c.h"
#include "proto/proto.h"

static void timeouts_are_those_of_grpc(void **state) {
        static const struct {
                const char *text;
                uint64_t usec;          /* USEC_INFINITY: refused */
        } cases[] = {
                { "15S", 15000000 }, { "1m", 1000 }, { "99999999H", UINT64_C(359999996400000000) }, { "1u", 1 }, { "1n", 1 }, { "1001n", 2 },
                { "0S", 0 }, { "2M", 120000000 },
                { "", USEC_INFINITY }, { "S", USEC_INFINITY }, { "15", USEC_INFINITY }, { "123456789S", USEC_INFINITY }, { "1s", USEC_INFINITY },
                { "-1S", USEC_INFINITY }, { "1.5S", USEC_INFINITY }, { " 1S", USEC_INFINITY }, { "1S ", USEC_INFINITY },
        };
        uint64_t usec;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int r = grpc_timeout_parse(cases[i].text, strlen(cases[i].text), &usec);

                assert_int_equal(r, cases[i].usec == USEC_INFINITY ? -EINVAL : 0);
                if (r == 0)
                        assert_int_equal(usec, cases[i].usec);
        }
}

static void timeouts_are_written_in_the_finest_unit_that_has_room(void **state) {
        static const struct {
                uint64_t usec;
                const char *text;
        } cases[] = {
                { 0, "0u" }, { 1, "1u" }, { 99999999, "99999999u" }, { 100000000, "100000m" }, { 100000001, "100001m" },
                { UINT64_C(3600000000000), "3600000S" }, { UINT64_C(1000000000000000), "16666667M" },
        };
        char text[GRPC_TIMEOUT_SIZE];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                grpc_timeout_format(cases[i].usec, text);
                assert_string_equal(text, cases[i].text);
        }
}

/* Examples from grpc: doc/PROTOCOL-HTTP2.md, "Percent-Byte" */
static void texts_are_percent_encoded(void **state) {
        static const struct {
                const char *text, *wire;
        } cases[] = {
                { "plain text", "plain text" }, { "100%", "100%25" }, { "a\nb", "a%0Ab" }, { "ü", "%C3%BC" }, { "", "" },
        };
        char *s;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                s = grpc_text_encode(cases[i].text);
                assert_string_equal(s, cases[i].wire);
                free(s);
                s = grpc_text_decode(cases[i].wire, strlen(cases[i].wire));
                assert_string_equal(s, cases[i].text);
                free(s);
        }
}

static void ill_formed_escapes_stand_for_themselves(void **state) {
        static const struct {
                const char *wire, *text;
        } cases[] = { { "100%", "100%" }, { "%zz%4", "%zz%4" }, { "%00", "?" }, { "%FF%C3", "??" }, { "a%2", "a%2" } };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char *s = grpc_text_decode(cases[i].wire, strlen(cases[i].wire));

                assert_string_equal(s, cases[i].text);
                free(s);
        }
}

static void content_types_are_those_of_grpc(void **state) {
        static const struct {
                const char *text;
                bool valid;
        } cases[] = {
                { "application/grpc", true }, { "application/grpc+proto", true }, { "application/grpc;charset=utf-8", true },
                { "application/grpcweb", false }, { "application/grp", false }, { "application/json", false }, { "", false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_int_equal(grpc_content_type_is_valid(cases[i].text, strlen(cases[i].text)), cases[i].valid);
}

static void target_paths_are_taken_apart_from_their_end(void **state) {
        static const struct {
                const char *path, *uid, *pv;    /* NULL: refused */
        } cases[] = {
                { "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/pvc-1/mount", "u-1", "pvc-1" },
                { "/var/data/kubelet/pods/u-1/volumes/kubernetes.io~csi/pvc-1/mount", "u-1", "pvc-1" },
                { "/pods/u/volumes/kubernetes.io~csi/pv/mount", "u", "pv" },
                { "/a/b/c/d/e/f/pods/u/volumes/kubernetes.io~csi/pv/mount", "u", "pv" },
                { "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pv", NULL, NULL },
                { "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pv/mount/", NULL, NULL },
                { "/var/lib/kubelet/pods//volumes/kubernetes.io~csi/pv/mount", NULL, NULL },
                { "/var/lib/kubelet/pods/../volumes/kubernetes.io~csi/pv/mount", NULL, NULL },
                { "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/PV_/mount", NULL, NULL },
                { "/var/lib/kubelet/pods/u/volumes/kubernetes.io~nfs/pv/mount", NULL, NULL },
                { "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pv/u", NULL, NULL },
                { "pods/u/volumes/kubernetes.io~csi/pv/mount", NULL, NULL },
                { "/mount", NULL, NULL }, { "/", NULL, NULL }, { "", NULL, NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char *uid = NULL, *pv = NULL;
                int r = volume_path_parse(cases[i].path, &uid, &pv);

                assert_int_equal(r, cases[i].uid ? 0 : -EINVAL);
                if (r == 0) {
                        assert_string_equal(uid, cases[i].uid);
                        assert_string_equal(pv, cases[i].pv);
                }
                free(uid);
                free(pv);
        }
}

static void azures_vms_are_called_by_name(void **state) {
        assert_string_equal(volume_node_id("i-0123"), "i-0123");
        assert_string_equal(volume_node_id("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm"), "vm");
        assert_string_equal(volume_node_id("projects/p/zones/z/instances/i"), "projects/p/zones/z/instances/i");
}

static void each_state_has_its_name(void **state) {
        for (VolumeState s = 0; s < _VOLUME_STATE_MAX; s++)
                assert_int_equal(volume_state_from_string(volume_state_to_string(s)), s);
        assert_int_equal(volume_state_from_string("nodeStageVolumeMaybe"), _VOLUME_STATE_INVALID);
}

/* Whether a disk may be taken from its VM is what data hang on: each state by itself. */
static void what_may_be_mounted_is_not_detached(void **state) {
        static const struct {
                VolumeState state;
                bool staging, vm, attached, mounted;
        } cases[] = {
                { VOLUME_NEW, true, false, false, false },
                { VOLUME_NODE_PUBLISH_CACHED, true, false, false, false },
                { VOLUME_VM_RUNNING, true, false, false, false },
                { VOLUME_VM_KNOWN, true, true, true, false },
                { VOLUME_ATTACHED, true, true, true, true },
                { VOLUME_STAGED, true, true, true, true },
                { VOLUME_PUBLISHED, true, true, true, true },
                { VOLUME_NODE_UNPUBLISH_CACHED, true, true, true, true },
                { VOLUME_UNPUBLISHED, true, true, true, true },
                { VOLUME_UNPUBLISHED, false, true, true, false },
                { VOLUME_UNPUBLISHED, true, false, false, false },
                { VOLUME_NODE_UNSTAGE_CACHED, true, true, true, true },
                { VOLUME_UNSTAGED, true, true, true, false },
                { VOLUME_DETACHED, true, true, false, false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Volume v = { .state = cases[i].state, .vm_id = cases[i].vm ? "vm" : "", .stage_request = cases[i].staging ? "{}" : "" };

                assert_int_equal(volume_may_be_attached(&v), cases[i].attached);
                assert_int_equal(volume_may_be_mounted(&v), cases[i].mounted);
        }
}

/* As cloud-api-adaptor's csi-wrapper wrote it, by Go's protojson. */
#define STAGE_TEXT "{\"volumeId\":\"v\",\"publishContext\":{\"a\":\"b\"},\"stagingTargetPath\":\"/s\",\"volumeCapability\":" \
        "{\"mount\":{\"fsType\":\"ext4\"},\"accessMode\":{\"mode\":\"SINGLE_NODE_WRITER\"}}}"

static void requests_are_kept_as_protobufs_json(void **state) {
        ProtobufCMessage *m = NULL;
        char *text = NULL, *reason = NULL;

        assert_int_equal(message_from_text(&csi__v1__node_stage_volume_request__descriptor, STAGE_TEXT, &m, &reason), 0);
        assert_string_equal(((Csi__V1__NodeStageVolumeRequest*) m)->volume_capability->mount->fs_type, "ext4");
        assert_int_equal(message_to_text(m, &text), 0);
        assert_string_equal(text, STAGE_TEXT);
        proto_free(m);
        free(text);

        assert_int_equal(message_from_text(&csi__v1__node_stage_volume_request__descriptor, "{\"volumeId\":1}", &m, &reason), -EBADMSG);
        assert_string_equal(reason, "volume_id: not a string");
        free(reason);
}

static void maps_are_edited_by_key(void **state) {
        /* Two entries of one key: the last one counts. Golden bytes by hand (protobuf: Encoding, Maps). */
        static const uint8_t wire[] = "\x0a\x01v\x12\x06\x0a\x01k\x12\x01" "1\x12\x06\x0a\x01k\x12\x01" "2\x12\x06\x0a\x01l\x12\x01" "3";
        ProtobufCMessage *m;

        assert_int_equal(proto_unpack(&csi__v1__node_stage_volume_request__descriptor, wire, sizeof(wire) - 1, &m), 0);
        assert_string_equal(message_map_get(m, "publish_context", "k"), "2");
        assert_null(message_map_get(m, "publish_context", "x"));
        assert_int_equal(message_map_set(m, "publish_context", "k", "4"), 0);
        assert_string_equal(message_map_get(m, "publish_context", "k"), "4");
        assert_int_equal(message_map_drop(m, "publish_context", "k"), 1);
        assert_int_equal(message_map_drop(m, "publish_context", NULL), 1);
        assert_int_equal(message_map_set(m, "secrets", "a", "b"), 0);
        assert_string_equal(message_map_get(m, "secrets", "a"), "b");
        proto_free(m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(timeouts_are_those_of_grpc),
                cmocka_unit_test(timeouts_are_written_in_the_finest_unit_that_has_room),
                cmocka_unit_test(texts_are_percent_encoded),
                cmocka_unit_test(ill_formed_escapes_stand_for_themselves),
                cmocka_unit_test(content_types_are_those_of_grpc),
                cmocka_unit_test(target_paths_are_taken_apart_from_their_end),
                cmocka_unit_test(azures_vms_are_called_by_name),
                cmocka_unit_test(each_state_has_its_name),
                cmocka_unit_test(what_may_be_mounted_is_not_detached),
                cmocka_unit_test(requests_are_kept_as_protobufs_json),
                cmocka_unit_test(maps_are_edited_by_key),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
