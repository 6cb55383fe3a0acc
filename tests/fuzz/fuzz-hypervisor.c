/* SPDX-License-Identifier: Apache-2.0 */
/* Payloads of the shim's calls: what is accepted keeps within the limits that the rest of the adaptor relies on. The first byte says
 * which message the others are. */
#include "adaptor/request.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/podvminfo.pb-c.h"
#include "proto/proto.h"
#include "userdata/initdata.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const types[] = {
        &hypervisor__create_vmrequest__descriptor,
        &hypervisor__start_vmrequest__descriptor,
        &hypervisor__stop_vmrequest__descriptor,
        &hypervisor__version_request__descriptor,
        &podvminfo__get_info_request__descriptor,
};

/* An instance's name is a DNS label, or no cloud takes it. */
static void check_name(const char *name) {
        size_t n = strlen(name);

        assert(n > 0 && n <= INSTANCE_NAME_MAX);
        assert(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n);
        assert(name[0] != '-' && name[n - 1] != '-');
}

static void check_text(const char *s, size_t max) {
        if (s)
                assert(text_is_plain(s, max));
}

static void check_request(const char *id, const CreateRequest *q) {
        _cleanup_(freep) char *reason = NULL, *name = NULL, *encoded = NULL;

        check_text(q->pod_name, POD_NAME_MAX);
        check_text(q->pod_namespace, POD_NAME_MAX);
        check_text(q->pod_uid, POD_NAME_MAX);
        assert(!q->pod_uid || q->pod_uid[0]);           /* not known is NULL: an empty one would be a part of every path */
        check_text(q->machine_type, REQUEST_TEXT_MAX);
        check_text(q->image, REQUEST_TEXT_MAX);
        check_text(q->gpu_model, REQUEST_TEXT_MAX);
        assert(q->vcpus <= REQUEST_VCPUS_MAX && q->gpus <= REQUEST_GPUS_MAX && q->memory_mib <= REQUEST_MEMORY_MIB_MAX);

        if (create_request_check(q, &reason) < 0) {
                assert(reason);
                return;
        }
        if (sandbox_id_is_valid(id)) {
                int r = instance_name_make(q->pod_name, id, &name);

                assert(r == 0);
                check_name(name);
        }
        if (q->initdata) {
                int r = initdata_encode(q->initdata, &encoded);

                assert(r == 0);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        _cleanup_(create_request_done) CreateRequest q = CREATE_REQUEST_NULL;
        const Hypervisor__CreateVMRequest *create;
        unsigned type;
        int r;

        if (size == 0)
                return 0;
        type = data[0] % ELEMENTSOF(types);
        r = proto_unpack(types[type], data + 1, size - 1, &m);
        if (r < 0) {
                assert(r == -EBADMSG || r == -E2BIG);
                return 0;
        }
        if (type != 0)
                return 0;

        create = (const Hypervisor__CreateVMRequest*) m;
        for (size_t i = 0; i < create->n_annotations; i++) {
                _cleanup_(freep) char *reason = NULL;

                r = create_request_add(&q, strempty(create->annotations[i]->key), strempty(create->annotations[i]->value), &reason);
                assert(r == 0 || r == -EINVAL);
                assert((r < 0) == !!reason);
        }
        check_request(strempty(create->id), &q);
        return 0;
}
