/* SPDX-License-Identifier: Apache-2.0 */
/* What proxy and forwarder change in messages. The messages that go in were made by protoc (protobuf 3.21.12, --encode) from the
 * text above each; what comes out is read by protobuf-c. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "agent-proxy/container-edit.h"
#include "agent-proxy/proxy-config.h"
#include "agent.pb-c.h"
#include "basic/io.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "podvm/forwarder/edits.h"
#include "ttrpc/wire.h"

/* grpc.CreateContainerRequest (kata-containers: src/libs/protocols/protos/agent.proto):
 *   container_id: "c1"
 *   exec_id: "c1"
 *   storages { driver: "overlayfs" source: "none" mount_point: "/run/kata-containers/shared/containers/c1" }
 *   OCI {
 *     Version: "1.0.2"
 *     Hostname: "web"
 *     Mounts { destination: "/proc" source: "proc" type: "proc" }
 *     Mounts { destination: "/data" source: "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-1/mount" type: "bind" options: "rbind" }
 *     Mounts { destination: "/more" source: "/var/lib/kubelet//pods/u1/./volumes/kubernetes.io~csi/x/../pvc-2/mount/" type: "bind" }
 *     Mounts { destination: "/plain" source: "/plain/volume" type: "bind" }
 *     Annotations { key: "io.katacontainers.config.hypervisor.default_gpus" value: "1" }
 *     Annotations { key: "io.kubernetes.cri.sandbox-uid" value: "u1" }
 *     Linux {
 *       CgroupsPath: "/c1"
 *       Namespaces { Type: "ipc" }
 *       Namespaces { Type: "network" }
 *       MaskedPaths: "/proc/kcore"
 *     }
 *   }
 *   sandbox_pidns: true
 *   stdin_port: 7
 */
static const uint8_t create_container[] = {
        0x0a, 0x02, 0x63, 0x31, 0x12, 0x02, 0x63, 0x31, 0x2a, 0x3c, 0x0a, 0x09, 0x6f, 0x76, 0x65, 0x72, 0x6c, 0x61, 0x79, 0x66,
        0x73, 0x1a, 0x04, 0x6e, 0x6f, 0x6e, 0x65, 0x32, 0x29, 0x2f, 0x72, 0x75, 0x6e, 0x2f, 0x6b, 0x61, 0x74, 0x61, 0x2d, 0x63,
        0x6f, 0x6e, 0x74, 0x61, 0x69, 0x6e, 0x65, 0x72, 0x73, 0x2f, 0x73, 0x68, 0x61, 0x72, 0x65, 0x64, 0x2f, 0x63, 0x6f, 0x6e,
        0x74, 0x61, 0x69, 0x6e, 0x65, 0x72, 0x73, 0x2f, 0x63, 0x31, 0x32, 0xf0, 0x02, 0x0a, 0x05, 0x31, 0x2e, 0x30, 0x2e, 0x32,
        0x22, 0x03, 0x77, 0x65, 0x62, 0x2a, 0x13, 0x0a, 0x05, 0x2f, 0x70, 0x72, 0x6f, 0x63, 0x12, 0x04, 0x70, 0x72, 0x6f, 0x63,
        0x1a, 0x04, 0x70, 0x72, 0x6f, 0x63, 0x2a, 0x54, 0x0a, 0x05, 0x2f, 0x64, 0x61, 0x74, 0x61, 0x12, 0x3e, 0x2f, 0x76, 0x61,
        0x72, 0x2f, 0x6c, 0x69, 0x62, 0x2f, 0x6b, 0x75, 0x62, 0x65, 0x6c, 0x65, 0x74, 0x2f, 0x70, 0x6f, 0x64, 0x73, 0x2f, 0x75,
        0x31, 0x2f, 0x76, 0x6f, 0x6c, 0x75, 0x6d, 0x65, 0x73, 0x2f, 0x6b, 0x75, 0x62, 0x65, 0x72, 0x6e, 0x65, 0x74, 0x65, 0x73,
        0x2e, 0x69, 0x6f, 0x7e, 0x63, 0x73, 0x69, 0x2f, 0x70, 0x76, 0x63, 0x2d, 0x31, 0x2f, 0x6d, 0x6f, 0x75, 0x6e, 0x74, 0x1a,
        0x04, 0x62, 0x69, 0x6e, 0x64, 0x22, 0x05, 0x72, 0x62, 0x69, 0x6e, 0x64, 0x2a, 0x56, 0x0a, 0x05, 0x2f, 0x6d, 0x6f, 0x72,
        0x65, 0x12, 0x47, 0x2f, 0x76, 0x61, 0x72, 0x2f, 0x6c, 0x69, 0x62, 0x2f, 0x6b, 0x75, 0x62, 0x65, 0x6c, 0x65, 0x74, 0x2f,
        0x2f, 0x70, 0x6f, 0x64, 0x73, 0x2f, 0x75, 0x31, 0x2f, 0x2e, 0x2f, 0x76, 0x6f, 0x6c, 0x75, 0x6d, 0x65, 0x73, 0x2f, 0x6b,
        0x75, 0x62, 0x65, 0x72, 0x6e, 0x65, 0x74, 0x65, 0x73, 0x2e, 0x69, 0x6f, 0x7e, 0x63, 0x73, 0x69, 0x2f, 0x78, 0x2f, 0x2e,
        0x2e, 0x2f, 0x70, 0x76, 0x63, 0x2d, 0x32, 0x2f, 0x6d, 0x6f, 0x75, 0x6e, 0x74, 0x2f, 0x1a, 0x04, 0x62, 0x69, 0x6e, 0x64,
        0x2a, 0x1d, 0x0a, 0x06, 0x2f, 0x70, 0x6c, 0x61, 0x69, 0x6e, 0x12, 0x0d, 0x2f, 0x70, 0x6c, 0x61, 0x69, 0x6e, 0x2f, 0x76,
        0x6f, 0x6c, 0x75, 0x6d, 0x65, 0x1a, 0x04, 0x62, 0x69, 0x6e, 0x64, 0x3a, 0x35, 0x0a, 0x30, 0x69, 0x6f, 0x2e, 0x6b, 0x61,
        0x74, 0x61, 0x63, 0x6f, 0x6e, 0x74, 0x61, 0x69, 0x6e, 0x65, 0x72, 0x73, 0x2e, 0x63, 0x6f, 0x6e, 0x66, 0x69, 0x67, 0x2e,
        0x68, 0x79, 0x70, 0x65, 0x72, 0x76, 0x69, 0x73, 0x6f, 0x72, 0x2e, 0x64, 0x65, 0x66, 0x61, 0x75, 0x6c, 0x74, 0x5f, 0x67,
        0x70, 0x75, 0x73, 0x12, 0x01, 0x31, 0x3a, 0x23, 0x0a, 0x1d, 0x69, 0x6f, 0x2e, 0x6b, 0x75, 0x62, 0x65, 0x72, 0x6e, 0x65,
        0x74, 0x65, 0x73, 0x2e, 0x63, 0x72, 0x69, 0x2e, 0x73, 0x61, 0x6e, 0x64, 0x62, 0x6f, 0x78, 0x2d, 0x75, 0x69, 0x64, 0x12,
        0x02, 0x75, 0x31, 0x42, 0x24, 0x2a, 0x03, 0x2f, 0x63, 0x31, 0x32, 0x05, 0x0a, 0x03, 0x69, 0x70, 0x63, 0x32, 0x09, 0x0a,
        0x07, 0x6e, 0x65, 0x74, 0x77, 0x6f, 0x72, 0x6b, 0x52, 0x0b, 0x2f, 0x70, 0x72, 0x6f, 0x63, 0x2f, 0x6b, 0x63, 0x6f, 0x72,
        0x65, 0x38, 0x01, 0x48, 0x07,
};

/* grpc.CreateSandboxRequest:
 *   hostname: "web"
 *   dns: "nameserver 10.0.0.10"
 *   dns: "search default.svc"
 *   storages { driver: "ephemeral" }
 *   sandbox_pidns: true
 *   sandbox_id: "s1"
 */
static const uint8_t create_sandbox[] = {
        0x0a, 0x03, 0x77, 0x65, 0x62, 0x12, 0x14, 0x6e, 0x61, 0x6d, 0x65, 0x73, 0x65, 0x72, 0x76, 0x65, 0x72, 0x20, 0x31, 0x30,
        0x2e, 0x30, 0x2e, 0x30, 0x2e, 0x31, 0x30, 0x12, 0x12, 0x73, 0x65, 0x61, 0x72, 0x63, 0x68, 0x20, 0x64, 0x65, 0x66, 0x61,
        0x75, 0x6c, 0x74, 0x2e, 0x73, 0x76, 0x63, 0x1a, 0x0b, 0x0a, 0x09, 0x65, 0x70, 0x68, 0x65, 0x6d, 0x65, 0x72, 0x61, 0x6c,
        0x20, 0x01, 0x2a, 0x02, 0x73, 0x31,
};

#define CREATE_CONTAINER ((TtrpcSlice) { create_container, sizeof(create_container) })

static TtrpcRequest request_of(TtrpcSlice payload) {
        return (TtrpcRequest) { .payload = payload };
}

static Grpc__CreateContainerRequest* unpack(const RelayEdit *edit) {
        Grpc__CreateContainerRequest *m;

        assert_int_equal(edit->code, TTRPC_OK);
        assert_non_null(edit->payload);
        m = grpc__create_container_request__unpack(NULL, edit->size, edit->payload);
        assert_non_null(m);
        return m;
}

static const char* annotation(const Grpc__CreateContainerRequest *m, const char *key) {
        const char *value = NULL;

        for (size_t i = 0; i < m->oci->n_annotations; i++)
                if (streq(m->oci->annotations[i]->key, key))
                        value = m->oci->annotations[i]->value;
        return value;
}

static void forwarder_appends_the_network_namespace(void **state) {
        static const char *const types[] = { "ipc", "network", "network" }, *const paths[] = { "", "", "/run/netns/podns" };
        Grpc__CreateContainerRequest *m;
        TtrpcRequest r = request_of(CREATE_CONTAINER);
        RelayEdit edit = {};

        edit_create_container("/run/netns/podns", "/nonexistent", NULL, NULL, &r, &edit);
        m = unpack(&edit);
        assert_int_equal(m->oci->linux->n_namespaces, 3);
        for (size_t i = 0; i < 3; i++) {
                assert_string_equal(m->oci->linux->namespaces[i]->type, types[i]);
                assert_string_equal(m->oci->linux->namespaces[i]->path, paths[i]);
        }
        assert_string_equal(m->oci->linux->cgroupspath, "/c1");
        assert_string_equal(m->oci->linux->maskedpaths[0], "/proc/kcore");
        assert_int_equal(m->oci->n_mounts, 4);
        assert_true(m->sandbox_pidns);
        assert_int_equal(m->stdin_port, 7);
        grpc__create_container_request__free_unpacked(m, NULL);

        /* Everything else is the same bytes: 29 more, of which the lengths of OCI and Linux grew by none. */
        assert_int_equal(edit.size, sizeof(create_container) + 29);
        free(edit.payload);
}

static void unknown_fields_stay_at_every_level(void **state) {
        static const uint8_t unknown[] = { 0xa2, 0x06, 3, 'a', 'b', 'c' };      /* field 100: "abc" */
        static const uint32_t paths[][4] = { { 0 }, { 6, 0 }, { 6, 8, 0 } };

        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                uint8_t *with, *p;
                size_t size;
                RelayEdit edit = {};
                TtrpcRequest r;

                assert_int_equal(wire_append(CREATE_CONTAINER, paths[i], (TtrpcSlice) { unknown, sizeof(unknown) }, &with, &size), 0);
                r = request_of((TtrpcSlice) { with, size });
                edit_create_container("/n", "/nonexistent", NULL, NULL, &r, &edit);
                assert_int_equal(edit.code, TTRPC_OK);
                p = memmem(edit.payload, edit.size, unknown, sizeof(unknown));
                assert_non_null(p);
                grpc__create_container_request__free_unpacked(unpack(&edit), NULL);
                free(edit.payload);

                edit = (RelayEdit) {};
                container_edit(NULL, 0, &r, &edit);
                assert_non_null(memmem(edit.payload, edit.size, unknown, sizeof(unknown)));
                free(edit.payload);
                free(with);
        }
}

static void requests_without_the_needed_parts_are_refused(void **state) {
        static const struct {
                const char *name, *payload;
                size_t size;
                TtrpcCode proxy, forwarder;
        } cases[] = {
                { "empty",                 "",                         0, TTRPC_INVALID_ARGUMENT, TTRPC_INVALID_ARGUMENT },
                { "no OCI",                "\x0a\x01" "c",             3, TTRPC_INVALID_ARGUMENT, TTRPC_INVALID_ARGUMENT },
                { "no Linux",              "\x32\x00",                 2, TTRPC_OK,               TTRPC_INVALID_ARGUMENT },
                { "empty Linux",           "\x32\x02\x42\x00",         4, TTRPC_OK,               TTRPC_OK },
                { "OCI twice",             "\x32\x00\x32\x00",         4, TTRPC_INVALID_ARGUMENT, TTRPC_INVALID_ARGUMENT },
                { "Linux twice",           "\x32\x04\x42\x00\x42\x00", 6, TTRPC_OK,               TTRPC_INVALID_ARGUMENT },
                { "OCI a number",          "\x30\x05",                 2, TTRPC_INVALID_ARGUMENT, TTRPC_INVALID_ARGUMENT },
                { "OCI cut off",           "\x32\x05\x42",             3, TTRPC_INVALID_ARGUMENT, TTRPC_INVALID_ARGUMENT },
                { "a mount cut off",       "\x32\x05\x2a\x02\x0a\x09\x42", 7, TTRPC_INVALID_ARGUMENT, TTRPC_INVALID_ARGUMENT },
                { "a group",               "\x32\x02\x42\x00\x0b\x0c", 6, TTRPC_INVALID_ARGUMENT, TTRPC_INVALID_ARGUMENT },
                { "junk inside of Linux",  "\x32\x03\x42\x01\xff",     5, TTRPC_OK,               TTRPC_INVALID_ARGUMENT },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                TtrpcRequest r = request_of((TtrpcSlice) { (const uint8_t*) cases[i].payload, cases[i].size });
                RelayEdit edit = {};

                container_edit(NULL, 0, &r, &edit);
                if (edit.code != cases[i].proxy)
                        print_error("%s\n", cases[i].name);
                assert_int_equal(edit.code, cases[i].proxy);
                free(edit.payload);
                edit = (RelayEdit) {};
                edit_create_container("/n", "/nonexistent", NULL, NULL, &r, &edit);
                if (edit.code != cases[i].forwarder)
                        print_error("%s\n", cases[i].name);
                assert_int_equal(edit.code, cases[i].forwarder);
                free(edit.payload);
        }
}

static void dns_is_taken_from_create_sandbox(void **state) {
        TtrpcRequest r = request_of((TtrpcSlice) { create_sandbox, sizeof(create_sandbox) });
        Grpc__CreateSandboxRequest *m;
        RelayEdit edit = {};

        edit_create_sandbox(&r, &edit);
        assert_int_equal(edit.code, TTRPC_OK);
        m = grpc__create_sandbox_request__unpack(NULL, edit.size, edit.payload);
        assert_non_null(m);
        assert_int_equal(m->n_dns, 0);
        assert_string_equal(m->hostname, "web");
        assert_string_equal(m->sandbox_id, "s1");
        assert_int_equal(m->n_storages, 1);
        grpc__create_sandbox_request__free_unpacked(m, NULL);

        /* Without any, the request passes as it is. */
        r = request_of((TtrpcSlice) { edit.payload, edit.size });
        {
                RelayEdit again = {};

                edit_create_sandbox(&r, &again);
                assert_int_equal(again.code, TTRPC_OK);
                assert_null(again.payload);
        }
        free(edit.payload);
}

static void proxy_tells_of_gpus_and_volumes(void **state) {
        const ProxyVolume volumes[] = {
                { .path = (char*) "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-1/mount", .disk_id = (char*) "vol-a",
                  .fs_type = (char*) "ext4", .encrypt_type = (char*) "luks2", .key_id = (char*) "default/key/1" },
                { .path = (char*) "/not/mounted/here", .disk_id = (char*) "vol-b", .fs_type = (char*) "xfs" },
                { .path = (char*) "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-2/mount", .disk_id = (char*) "" },
                { .path = (char*) "/plain/volume", .disk_id = (char*) "vol-c", .fs_type = (char*) "xfs" },
        };
        TtrpcRequest r = request_of(CREATE_CONTAINER);
        Grpc__CreateContainerRequest *m;
        RelayEdit edit = {};

        container_edit(volumes, ELEMENTSOF(volumes), &r, &edit);
        m = unpack(&edit);
        assert_string_equal(annotation(m, "cdi.k8s.io/peer-pods"), "nvidia.com/gpu=all");
        assert_string_equal(annotation(m, "io.confidentialcontainers.org.peerpodvolumes.target_path"),
                            "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-1/mount,"
                            "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-2/mount");
        assert_string_equal(annotation(m, "io.confidentialcontainers.org.cloud_volumes"),
                            "{\"vol-0\":{\"mount_point\":\"/data\",\"fs_type\":\"ext4\",\"lun\":\"0\",\"disk_id\":\"vol-a\","
                            "\"encrypt_type\":\"luks2\",\"key_id\":\"default/key/1\"},"
                            "\"vol-2\":{\"mount_point\":\"/plain\",\"fs_type\":\"xfs\",\"lun\":\"2\",\"disk_id\":\"vol-c\"}}");
        assert_string_equal(annotation(m, "io.kubernetes.cri.sandbox-uid"), "u1");
        grpc__create_container_request__free_unpacked(m, NULL);

        /* And the forwarder knows what it has to wait for. */
        {
                TtrpcRequest next = request_of((TtrpcSlice) { edit.payload, edit.size });
                ContainerVolumes v = CONTAINER_VOLUMES_NULL;
                RelayEdit none = {};

                assert_int_equal(edit_get_volumes(&next, &v, &none), 1);
                assert_string_equal(v.container, "c1");
                assert_int_equal(v.specs.n, 2);
                assert_string_equal(v.specs.list[0].name, "vol-0");
                assert_string_equal(v.specs.list[0].mount_point, "/data");
                assert_string_equal(v.specs.list[0].disk_id, "vol-a");
                assert_string_equal(v.specs.list[0].encrypt_type, "luks2");
                assert_string_equal(v.specs.list[0].key_id, "default/key/1");
                assert_string_equal(v.specs.list[1].fs_type, "xfs");
                assert_int_equal(v.specs.list[1].lun, 2);
                /* pvc-1 is the first cloud volume. pvc-2's source is written otherwise in the mount, where upstream compares them so. */
                assert_int_equal(strv_length(v.targets), 0);
                container_volumes_done(&v);
        }
        free(edit.payload);
}

/* The request above with an annotation more. */
static void add_annotation(TtrpcSlice before, const char *key, const char *value, TtrpcSlice *ret) {
        uint8_t *pair = NULL, *payload = NULL;
        size_t n = 0, size;

        assert_int_equal(wire_add_pair(&pair, &n, 7, key, value), 0);
        assert_int_equal(wire_append(before, (const uint32_t[]) { 6, 0 }, (TtrpcSlice) { pair, n }, &payload, &size), 0);
        free(pair);
        *ret = (TtrpcSlice) { payload, size };
}

static void mounts_of_cloud_volumes_lead_to_where_those_are(void **state) {
        static const uint8_t unknown[] = { 0xa2, 0x06, 3, 'a', 'b', 'c' };      /* field 100: "abc" */
        char *paths[] = { (char*) "/run/cloud-volumes/vol-0", (char*) "/run/cloud-volumes/vol-9", NULL };
        ContainerVolumes v = CONTAINER_VOLUMES_NULL;
        Grpc__CreateContainerRequest *m;
        RelayEdit edit = {};
        TtrpcSlice payload, with;
        TtrpcRequest r;
        size_t size;
        uint8_t *p;

        add_annotation(CREATE_CONTAINER, "io.confidentialcontainers.org.cloud_volumes",
                       "{\"vol-9\":{\"mount_point\":\"/nowhere\",\"lun\":\"9\"},\"vol-0\":{\"mount_point\":\"/data\",\"lun\":\"0\"}}", &payload);
        assert_int_equal(wire_append(payload, (const uint32_t[]) { 6, 0 }, (TtrpcSlice) { unknown, sizeof(unknown) }, &p, &size), 0);
        with = (TtrpcSlice) { p, size };
        free((void*) payload.data);

        r = request_of(with);
        assert_int_equal(edit_get_volumes(&r, &v, &edit), 1);
        edit_create_container("/run/netns/podns", "/nonexistent", &v, paths, &r, &edit);
        m = unpack(&edit);
        assert_int_equal(m->oci->n_mounts, 4);
        assert_string_equal(m->oci->mounts[1]->destination, "/data");
        assert_string_equal(m->oci->mounts[1]->source, "/run/cloud-volumes/vol-0");
        assert_string_equal(m->oci->mounts[1]->type, "bind");
        assert_int_equal(m->oci->mounts[1]->n_options, 1);
        assert_string_equal(m->oci->mounts[1]->options[0], "rbind");
        assert_string_equal(m->oci->mounts[0]->source, "proc");
        assert_string_equal(m->oci->mounts[3]->source, "/plain/volume");
        assert_int_equal(m->oci->linux->n_namespaces, 3);
        assert_string_equal(m->oci->hostname, "web");
        assert_int_equal(m->stdin_port, 7);
        assert_int_equal(m->n_storages, 1);
        assert_non_null(memmem(edit.payload, edit.size, unknown, sizeof(unknown)));
        grpc__create_container_request__free_unpacked(m, NULL);
        container_volumes_done(&v);
        free(edit.payload);
        free((void*) with.data);
}

static void listed_directories_that_are_mounted_from_are_waited_for(void **state) {
        static const char *const listed[] = { "/plain/volume", ",/plain/volume", "/other,/plain/volume,/plain/volume", "/other", "" };

        for (size_t i = 0; i < ELEMENTSOF(listed); i++) {
                ContainerVolumes v = CONTAINER_VOLUMES_NULL;
                RelayEdit edit = {};
                TtrpcSlice payload;
                TtrpcRequest r;

                add_annotation(CREATE_CONTAINER, "io.confidentialcontainers.org.peerpodvolumes.target_path", listed[i], &payload);
                r = request_of(payload);
                assert_int_equal(edit_get_volumes(&r, &v, &edit), i < 3);
                assert_int_equal(strv_length(v.targets), i < 3 ? 1 : 0);
                if (i < 3)
                        assert_string_equal(v.targets[0], "/plain/volume");
                container_volumes_done(&v);
                free((void*) payload.data);
        }
}

static void bad_descriptions_of_cloud_volumes_are_refused_with_their_reason(void **state) {
#define V "{\"vol-0\":{\"mount_point\":\"/data\",\"lun\":\"0\""
        static const struct {
                const char *text, *error;
        } cases[] = {
                { V "}}", NULL },
                { V ",\"fs_type\":\"xfs\",\"fs_group\":\"1000\",\"future\":[1]}}", NULL },
                { V ",\"encrypt_type\":\"luks\",\"key_id\":\"a/b/c\"}}", NULL },
                { "{}", NULL },
                { "", NULL },
                { "{", "" },
                { "[]", "" },
                { "{\"vol-0\":1}", "no object" },
                { "{\"vol-0\":{\"lun\":\"0\"}}", "'mount_point'" },
                { "{\"vol-0\":{\"mount_point\":\"data\",\"lun\":\"0\"}}", "'mount_point'" },
                { "{\"vol-0\":{\"mount_point\":\"/data\"}}", "'lun'" },
                { "{\"vol-0\":{\"mount_point\":\"/data\",\"lun\":0}}", "lun" },
                { "{\"vol-0\":{\"mount_point\":\"/data\",\"lun\":\"-1\"}}", "'lun'" },
                { "{\"vol-0\":{\"mount_point\":\"/data\",\"lun\":\"16384\"}}", "'lun'" },
                { "{\"../vol\":{\"mount_point\":\"/data\",\"lun\":\"0\"}}", "not plain" },
                { "{\"..\":{\"mount_point\":\"/data\",\"lun\":\"0\"}}", "not plain" },
                { "{\"\":{\"mount_point\":\"/data\",\"lun\":\"0\"}}", "not plain" },
                { V ",\"fs_type\":\"btrfs\"}}", "'fs_type'" },
                { V ",\"fs_group\":\"users\"}}", "'fs_group'" },
                { V ",\"encrypt_type\":\"luks\"}}", "'key_id'" },
                { V ",\"encrypt_type\":\"aes\",\"key_id\":\"a/b/c\"}}", "'encrypt_type'" },
                { V ",\"encrypt_type\":\"luks2\",\"key_id\":\"a\\nb\"}}", "'key_id'" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                ContainerVolumes v = CONTAINER_VOLUMES_NULL;
                RelayEdit edit = {};
                TtrpcSlice payload;
                TtrpcRequest r;
                int k;

                add_annotation(CREATE_CONTAINER, "io.confidentialcontainers.org.cloud_volumes", cases[i].text, &payload);
                r = request_of(payload);
                k = edit_get_volumes(&r, &v, &edit);
                if ((k < 0) != (cases[i].error != NULL))
                        print_error("%s: %s\n", cases[i].text, edit.message);
                assert_int_equal(k < 0, cases[i].error != NULL);
                if (cases[i].error) {
                        assert_int_equal(edit.code, TTRPC_INVALID_ARGUMENT);
                        assert_non_null(strstr(edit.message, "corrupt cloud_volumes annotation"));
                        assert_non_null(strstr(edit.message, cases[i].error));
                } else if (k > 0)
                        assert_int_equal(v.specs.list[0].lun, 0);
                container_volumes_done(&v);
                free((void*) payload.data);
        }
}

static void no_gpus_no_annotation(void **state) {
        static const char *const values[] = { "", "0", "00", "none", "-1", "99999999999999999999999999" };

        for (size_t i = 0; i < ELEMENTSOF(values); i++) {
                _cleanup_(freep) uint8_t *pair = NULL, *payload = NULL;
                size_t n = 0, size;
                RelayEdit edit = {};
                TtrpcRequest r;

                assert_int_equal(wire_add_pair(&pair, &n, 7, "io.katacontainers.config.hypervisor.default_gpus", values[i]), 0);
                assert_int_equal(wire_append((TtrpcSlice) { (const uint8_t*) "\x32\x00", 2 }, (const uint32_t[]) { 6, 0 },
                                             (TtrpcSlice) { pair, n }, &payload, &size), 0);
                r = request_of((TtrpcSlice) { payload, size });
                container_edit(NULL, 0, &r, &edit);
                assert_int_equal(edit.code, TTRPC_OK);
                assert_null(edit.payload);
        }
}

/* sha256sum (coreutils 9.1) of "/plain/volume" and of the path that is mounted at /more */
#define DIGEST_PLAIN "c0ae2bcea6343d6cdb28caf447a5068b9354b6e3352521e6c3ad26b17388e847"
#define DIGEST_MORE "449cae36bdc419feb5cd33c96d79ba0e067ba73329a01a0b2421e45675cb50ce"

static void a_volume_that_was_not_attached_is_refused(void **state) {
        char *const none[] = { (char*) "0000", NULL }, *const plain[] = { (char*) "0000", (char*) DIGEST_PLAIN, NULL },
                *const more[] = { (char*) DIGEST_MORE, NULL };
        TtrpcRequest r = request_of(CREATE_CONTAINER);
        RelayEdit edit = {};

        assert_true(container_check_volumes(NULL, &r, &edit));
        assert_true(container_check_volumes(none, &r, &edit));
        assert_int_equal(edit.code, TTRPC_OK);
        assert_false(container_check_volumes(plain, &r, &edit));
        assert_int_equal(edit.code, TTRPC_FAILED_PRECONDITION);
        assert_non_null(strstr(edit.message, "the volume for '/plain' is not attached"));
        edit = (RelayEdit) {};
        assert_false(container_check_volumes(more, &r, &edit));         /* however the path is written */
        assert_non_null(strstr(edit.message, "'/more'"));
        assert_null(edit.payload);
}

static void bind_sources_are_made_below_their_root_only(void **state) {
        char root[] = "/tmp/peerpod-edits-XXXXXX", path[128], outside[64];
        struct stat st;

        assert_non_null(mkdtemp(root));
        (void) snprintf(path, sizeof(path), "%s/a/b/c", root);
        assert_int_equal(make_bind_source(root, path), 1);
        assert_int_equal(stat(path, &st), 0);
        assert_true(S_ISDIR(st.st_mode));
        assert_int_equal(make_bind_source(root, path), 0);

        assert_int_equal(make_bind_source(root, "/etc"), 0);            /* is there */
        assert_int_equal(make_bind_source(root, "/etc/peerpod-nothing/x"), -EPERM);
        (void) snprintf(path, sizeof(path), "%s/../peerpod-edits-escape", root);
        assert_int_equal(make_bind_source(root, path), -EPERM);
        (void) snprintf(path, sizeof(path), "%sx/y", root);             /* a sibling with the same beginning */
        assert_int_equal(make_bind_source(root, path), -EPERM);

        /* A symlink on the way leads nowhere. */
        (void) snprintf(outside, sizeof(outside), "%s-outside", root);
        assert_int_equal(mkdir(outside, 0700), 0);
        (void) snprintf(path, sizeof(path), "%s/link", root);
        assert_int_equal(symlink(outside, path), 0);
        (void) snprintf(path, sizeof(path), "%s/link/made", root);
        assert_int_equal(make_bind_source(root, path), -EPERM);
        (void) snprintf(path, sizeof(path), "%s/made", outside);
        assert_int_equal(lstat(path, &st), -1);

        assert_int_equal(remove_tree(root), 0);
        assert_int_equal(remove_tree(outside), 0);
}

static void varints_and_lengths_are_checked(void **state) {
        static const struct {
                const char *bytes;
                size_t size;
                int result;
        } cases[] = {
                { "",                                              0, 0 },
                { "\x08\x01",                                      2, 0 },
                { "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, 0 },
                { "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11, -EBADMSG },       /* 65 bits */
                { "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, -EBADMSG },
                { "\x08",                                          1, -EBADMSG },
                { "\x00\x01",                                      2, -EBADMSG },       /* field 0 */
                { "\x09\1\2\3\4\5\6\7\x08",                        9, 0 },
                { "\x09\1\2\3\4\5\6\7",                            8, -EBADMSG },
                { "\x0d\1\2\3\4",                                  5, 0 },
                { "\x0d\1\2\3",                                    4, -EBADMSG },
                { "\x0a\x02" "a",                                  3, -EBADMSG },
                { "\x0a\xff\xff\xff\xff\x0f" "a",                  7, -EBADMSG },
                { "\x0e\x01",                                      2, -EBADMSG },       /* type 6 */
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_int_equal(wire_check((TtrpcSlice) { (const uint8_t*) cases[i].bytes, cases[i].size }), cases[i].result);
}

static void lengths_that_get_longer_move_what_follows(void **state) {
        uint8_t big[20000], *out;
        size_t size;
        WireField f;

        /* 6 { 8 { } } 1: "z": the bytes make both lengths three bytes long */
        memset(big, 0, sizeof(big));
        big[0] = 0x0a;
        big[1] = ((20000 - 4) & 0x7f) | 0x80;
        big[2] = (((20000 - 4) >> 7) & 0x7f) | 0x80;
        big[3] = (20000 - 4) >> 14;
        assert_int_equal(wire_append((TtrpcSlice) { (const uint8_t*) "\x32\x02\x42\x00\x0a\x01z", 7 }, (const uint32_t[]) { 6, 8, 0 },
                                     (TtrpcSlice) { big, sizeof(big) }, &out, &size), 0);
        assert_int_equal(size, 7 + 20000 + 2 + 2);
        assert_int_equal(wire_find((TtrpcSlice) { out, size }, 6, &f), 0);
        assert_int_equal(f.bytes.size, 20000 + 4);
        assert_int_equal(wire_find(f.bytes, 8, &f), 0);
        assert_int_equal(f.bytes.size, 20000);
        assert_memory_equal(f.bytes.data, big, sizeof(big));
        assert_memory_equal(out + size - 3, "\x0a\x01z", 3);
        free(out);
}

static void proxy_json_is_read_strictly(void **state) {
        static const struct {
                const char *text, *error;
        } cases[] = {
                { "{\"addresses\":[\"10.0.0.1\"],\"server-name\":\"n\"}", NULL },
                { "{\"addresses\":[\"10.0.0.1\",\"fd00::1\"],\"tls\":false,\"port\":1,\"future-key\":[]}", NULL },
                { "{\"addresses\":[],\"server-name\":\"n\"}", "'addresses'" },
                { "{\"server-name\":\"n\"}", "'addresses'" },
                { "{\"addresses\":[\"1.1.1.1\"]}", "'server-name'" },
                { "{\"addresses\":\"1.1.1.1\",\"server-name\":\"n\"}", "addresses" },
                { "{\"addresses\":[\"1.1.1.1\"],\"server-name\":\"n\",\"port\":0}", "'port'" },
                { "{\"addresses\":[\"1.1.1.1\"],\"server-name\":\"n\",\"port\":65536}", "port" },
                { "{\"addresses\":[\"1.1.1.1\"],\"server-name\":\"n\",\"tls-min-version\":\"VersionTLS10\"}", "tls-min-version" },
                { "{\"addresses\":[\"1.1.1.1\"],\"server-name\":\"n\",\"volumes\":[1]}", "volumes" },
                { "{\"addresses\":[\"1.1.1.1\"],\"server-name\":\"n\",\"volumes\":[{\"path\":\"x\"}]}", "volumes" },
                { "{", "" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                ProxyConfig c = PROXY_CONFIG_NULL;
                char *error = NULL;
                int r = proxy_config_parse(cases[i].text, strlen(cases[i].text), &c, &error);

                assert_int_equal(r, cases[i].error ? -EBADMSG : 0);
                if (cases[i].error) {
                        assert_non_null(error);
                        assert_non_null(strstr(error, cases[i].error));
                } else
                        assert_int_equal(c.connect_timeout_usec, 300 * USEC_PER_SEC);
                free(error);
                proxy_config_done(&c);
        }
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(forwarder_appends_the_network_namespace),
                cmocka_unit_test(unknown_fields_stay_at_every_level),
                cmocka_unit_test(requests_without_the_needed_parts_are_refused),
                cmocka_unit_test(dns_is_taken_from_create_sandbox),
                cmocka_unit_test(proxy_tells_of_gpus_and_volumes),
                cmocka_unit_test(a_volume_that_was_not_attached_is_refused),
                cmocka_unit_test(mounts_of_cloud_volumes_lead_to_where_those_are),
                cmocka_unit_test(listed_directories_that_are_mounted_from_are_waited_for),
                cmocka_unit_test(bad_descriptions_of_cloud_volumes_are_refused_with_their_reason),
                cmocka_unit_test(no_gpus_no_annotation),
                cmocka_unit_test(bind_sources_are_made_below_their_root_only),
                cmocka_unit_test(varints_and_lengths_are_checked),
                cmocka_unit_test(lengths_that_get_longer_move_what_follows),
                cmocka_unit_test(proxy_json_is_read_strictly),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
