/* SPDX-License-Identifier: Apache-2.0 */
/* What the worker's proxy and the VM's forwarder make of a CreateContainer, and the forwarder of a CreateSandbox: whatever is not
 * edited is there afterwards, byte for byte and in its place, in fields that anybody knows and in those that nobody does. */
#include "agent-proxy/container-edit.h"
#include "basic/log.h"
#include "basic/util.h"
#include "podvm/forwarder/edits.h"
#include "proto/agent.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/wire.h"

/* kata-containers: src/libs/protocols/protos/agent.proto, oci.proto */
enum {
        OCI = 6,
        ANNOTATIONS = 7,
        LINUX = 8,
        NAMESPACES = 6,
        DNS = 2,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ProxyVolume volumes[] = {
        { (char*) "/v/volumes/kubernetes.io~csi/a/mount", (char*) "disk-a", (char*) "xfs", (char*) "luks", (char*) "kbs:///k" },
        { (char*) "/v/volumes/kubernetes.io~csi/b/mount", (char*) "disk-b", (char*) "ext4", (char*) "", (char*) "" },
        { (char*) "/plain", (char*) "", (char*) "ext4", (char*) "", (char*) "" },
};

static bool same(TtrpcSlice a, TtrpcSlice b) {
        return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* @after is @before with one message, at @path, that has got fields of number @added at its end; path[0] == 0: it is this one. */
static void check_appended(TtrpcSlice before, TtrpcSlice after, const uint32_t *path, uint32_t added) {
        WireField a, b;
        size_t i = 0, j = 0;
        int r;

        while ((r = wire_next(before, &i, &a)) > 0) {
                r = wire_next(after, &j, &b);
                assert(r > 0);
                if (path[0] != 0 && a.number == path[0]) {
                        assert(b.number == a.number);
                        check_appended(a.bytes, b.bytes, path + 1, added);
                } else
                        assert(same((TtrpcSlice) { before.data + a.start, a.end - a.start },
                                    (TtrpcSlice) { after.data + b.start, b.end - b.start }));
        }
        assert(r == 0);
        while ((r = wire_next(after, &j, &b)) > 0)
                assert(path[0] == 0 && b.number == added);
        assert(r == 0);
}

/* protobuf-c's decoder is another author's: what it could read before, it can read after. */
static void check_decodes(const ProtobufCMessageDescriptor *type, TtrpcSlice before, TtrpcSlice after) {
        _cleanup_(proto_freep) ProtobufCMessage *a = NULL, *b = NULL;
        int r;

        if (proto_unpack(type, before.data, before.size, &a) < 0)
                return;
        r = proto_unpack(type, after.data, after.size, &b);
        assert(r == 0 || r == -E2BIG);
}

static void check(void (*edit)(const TtrpcRequest *request, RelayEdit *e), TtrpcSlice before, const uint32_t *path, uint32_t added) {
        TtrpcRequest request = { .payload = before };
        RelayEdit e = {};

        edit(&request, &e);
        if (e.code != TTRPC_OK)
                assert(!isempty(e.message));
        else if (e.payload) {
                check_appended(before, (TtrpcSlice) { e.payload, e.size }, path, added);
                check_decodes(&grpc__create_container_request__descriptor, before, (TtrpcSlice) { e.payload, e.size });
        }
        free(e.payload);
}

static void edit_on_worker(const TtrpcRequest *request, RelayEdit *e) {
        container_edit(volumes, ELEMENTSOF(volumes), request, e);
}

static void edit_in_podvm(const TtrpcRequest *request, RelayEdit *e) {
        edit_create_container("/run/netns/podns", "/nonexistent/root", NULL, NULL, request, e);
}

static void check_dns_removed(TtrpcSlice before) {
        TtrpcRequest request = { .payload = before };
        WireField a, b;
        RelayEdit e = {};
        size_t i = 0, j = 0;
        int r;

        edit_create_sandbox(&request, &e);
        if (e.code == TTRPC_OK && e.payload) {
                TtrpcSlice after = { e.payload, e.size };

                while ((r = wire_next(before, &i, &a)) > 0) {
                        if (a.number == DNS)
                                continue;
                        r = wire_next(after, &j, &b);
                        assert(r > 0);
                        assert(same((TtrpcSlice) { before.data + a.start, a.end - a.start },
                                    (TtrpcSlice) { after.data + b.start, b.end - b.start }));
                }
                assert(r == 0 && j == after.size);
                check_decodes(&grpc__create_sandbox_request__descriptor, before, after);
        }
        free(e.payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const TtrpcSlice payload = { data, size };

        log_set_max_level(-1);
        check(edit_on_worker, payload, (const uint32_t[]) { OCI, 0 }, ANNOTATIONS);
        check(edit_in_podvm, payload, (const uint32_t[]) { OCI, LINUX, 0 }, NAMESPACES);
        check_dns_removed(payload);
        return 0;
}
