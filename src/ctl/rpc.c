/* SPDX-License-Identifier: Apache-2.0 */
/* One ttrpc call after the other, with errors that say which call it was. */
#include "ctl/rpc.h"

#include <inttypes.h>
#include <json-c/json.h>

#include "basic/text.h"
#include "ctl/ctl.h"
#include "proto-json/proto-json.h"
#include "proto/agent.pb-c.h"
#include "proto/health.pb-c.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/podvminfo.pb-c.h"

int rpc_connect(sd_event *event, const char *path, TtrpcClient **ret) {
        int r;

        r = ttrpc_client_new_unix(event, path, ret);
        if (r < 0)
                return complain("Cannot connect to '%s': %s", path, strerror(-r));

        return 0;
}

int rpc_complain(const char *service, const char *method, int32_t code, const char *message) {
        return complain("%s/%s: %s: %s", service, method, ttrpc_code_to_string(code), message);
}

int rpc_call(TtrpcClient *client, const ProtobufCServiceDescriptor *service, const char *method,
             const ProtobufCMessage *request, uint64_t timeout_usec, ProtobufCMessage **ret) {
        const ProtobufCMethodDescriptor *m = protobuf_c_service_descriptor_get_method_by_name(service, method);
        _cleanup_(ttrpc_result_done) TtrpcResult result = TTRPC_RESULT_NULL;
        int r;

        assert(m);

        r = ttrpc_client_call_message_sync(client, service->name, method, request, timeout_usec, /* metadata= */ NULL,
                                           ret ? m->output : NULL, ret, &result);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return rpc_complain(service->name, method, result.code, result.message ?: strerror(-r));

        return 0;
}

static void print_flat(const char *path, json_object *o) {
        _cleanup_(freep) char *below = NULL;

        switch (json_object_get_type(o)) {
        case json_type_object: {
                json_object_object_foreach(o, key, value) {
                        if (asprintf(&below, "%s%s%s", path, *path ? "." : "", key) < 0)
                                return;
                        print_flat(below, value);
                        below = (free(below), NULL);
                }
                return;
        }
        case json_type_array:
                for (size_t i = 0; i < json_object_array_length(o); i++) {
                        if (asprintf(&below, "%s[%zu]", path, i) < 0)
                                return;
                        print_flat(below, json_object_array_get_idx(o, i));
                        below = (free(below), NULL);
                }
                return;
        case json_type_null:
                return;
        case json_type_boolean:
                if (!json_object_get_boolean(o))
                        return;
                break;
        case json_type_int:
                if (json_object_get_int64(o) == 0)
                        return;
                break;
        default:
                break;
        }

        print_field(path, json_object_get_string(o));
}

int rpc_print(const ProtobufCMessage *m, bool json) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r;

        r = proto_to_json(m, PROTO_JSON_PLAIN, &o);
        if (r < 0)
                return r;
        if (json)
                return print_json(o);

        print_flat("", o);
        return flush_stdout();
}

int rpc_print_one(const ProtobufCMessage *m, const char *value, bool json) {
        _cleanup_(freep) char *shown = NULL;

        if (json)
                return rpc_print(m, json);

        shown = text_for_terminal(value);
        if (!shown)
                return -ENOMEM;

        (void) puts(shown);
        return flush_stdout();
}

const ProtobufCMethodDescriptor* rpc_find(const char *service, const char *method,
                                          const ProtobufCServiceDescriptor **ret_service) {
        static const ProtobufCServiceDescriptor *const services[] = {
                &grpc__agent_service__descriptor,
                &grpc__health__descriptor,
                &hypervisor__hypervisor__descriptor,
                &podvminfo__pod_vminfo__descriptor,
        };

        for (size_t i = 0; i < ELEMENTSOF(services); i++)
                if (streq(services[i]->name, service) || streq(services[i]->short_name, service)) {
                        *ret_service = services[i];
                        return protobuf_c_service_descriptor_get_method_by_name(services[i], method);
                }

        return NULL;
}
