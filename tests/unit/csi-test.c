/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-csi without its peers: gRPC's small formats, names and paths of volumes, what may follow what, the edits of messages, and how long its
 * server waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "basic/json.h"
#include "basic/util.h"
#include "kube/csi/csi-message.h"
#include "kube/csi/grpc-server.h"
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

/* ---- the server's time for an answer to be taken ---- */

#define H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" "\0\0\0\x04\0\0\0\0\0"
/* SETTINGS_INITIAL_WINDOW_SIZE, and a WINDOW_UPDATE of the connection */
#define H2_WINDOWS "\0\0\x06\x04\0\0\0\0\0" "\0\x04\x7f\xff\xff\xff" "\0\0\x04\x08\0\0\0\0\0" "\x3f\xff\xff\xff"
/* POST /a/b by HPACK's literals without index (RFC 7541, section 6.2.2), and an empty message */
#define H2_CALL \
        "\0\0\x54\x01\x04\0\0\0\x01" "\0\x07:method\x04POST" "\0\x07:scheme\x04http" "\0\x05:path\x04/a/b" \
        "\0\x0c" "content-type\x10" "application/grpc" "\0\x02te\x08trailers" \
        "\0\0\x05\0\x01\0\0\0\x01" "\0\0\0\0\0"

typedef struct Server {
        sd_event *event;
        GrpcServer *grpc;
        int fd;
        unsigned n_calls;
} Server;

static void answer_at_length(GrpcCall *call, void *userdata) {
        static const uint8_t data[1 << 20];
        Server *s = userdata;

        s->n_calls++;
        grpc_call_reply(call, TTRPC_OK, NULL, NULL, data, sizeof(data));
}

static int server_up(void **state) {
        const GrpcServerSpec spec = { .on_call = answer_at_length, .receive_usec = 50 * USEC_PER_MSEC };
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        socklen_t size = sizeof(sa);
        Server *s = calloc(1, sizeof(*s));
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);

        assert_non_null(s);
        assert_true(fd >= 0);
        assert_int_equal(bind(fd, (struct sockaddr*) &sa, sizeof(sa_family_t)), 0);      /* a name of the kernel's choice */
        assert_int_equal(listen(fd, 1), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr*) &sa, &size), 0);
        s->fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        assert_int_equal(connect(s->fd, (struct sockaddr*) &sa, size), 0);
        assert_true(sd_event_new(&s->event) >= 0);
        assert_int_equal(grpc_server_new(s->event, fd, &spec, s, &s->grpc), 0);
        *state = s;
        return 0;
}

static int server_down(void **state) {
        Server *s = *state;

        grpc_server_free(s->grpc);
        sd_event_unref(s->event);
        close(s->fd);
        free(s);
        return 0;
}

static bool is_closed(Server *s) {
        struct pollfd p = { .fd = s->fd, .events = POLLRDHUP };

        return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP|POLLHUP|POLLERR);
}

static void turn_until_closed(Server *s, bool reads) {
        uint64_t end = usec_add(now_usec(CLOCK_MONOTONIC), 30 * USEC_PER_SEC);  /* before the link itself finds that nothing moves */
        char drop[4096];

        while (!is_closed(s)) {
                assert_true(now_usec(CLOCK_MONOTONIC) < end);
                assert_true(sd_event_run(s->event, USEC_PER_SEC) >= 0);
                while (reads && recv(s->fd, drop, sizeof(drop), MSG_DONTWAIT) > 0)
                        ;
        }
}

static void send_all(Server *s, const char *wire, size_t size) {
        assert_int_equal(send(s->fd, wire, size, MSG_NOSIGNAL), size);
}

static void who_does_not_open_his_window_for_an_answer_is_closed(void **state) {
        static const char wire[] = H2_PREFACE H2_CALL;
        Server *s = *state;

        send_all(s, wire, sizeof(wire) - 1);
        turn_until_closed(s, /* reads= */ true);
        assert_int_equal(s->n_calls, 1);
}

static void who_does_not_read_an_answer_is_closed(void **state) {
        static const char wire[] = H2_PREFACE H2_WINDOWS H2_CALL;
        Server *s = *state;

        send_all(s, wire, sizeof(wire) - 1);
        turn_until_closed(s, /* reads= */ false);
        assert_int_equal(s->n_calls, 1);
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
                cmocka_unit_test_setup_teardown(who_does_not_open_his_window_for_an_answer_is_closed, server_up, server_down),
                cmocka_unit_test_setup_teardown(who_does_not_read_an_answer_is_closed, server_up, server_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
