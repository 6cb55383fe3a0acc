/* SPDX-License-Identifier: Apache-2.0 */
/* hypervisor …, info: the part of Kata's shim that speaks to the adaptor. */
#include <fcntl.h>
#include <inttypes.h>

#include "basic/io.h"
#include "basic/main-func.h"
#include "basic/parse.h"
#include "basic/paths.h"
#include "ctl/ctl.h"
#include "ctl/rpc.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/podvminfo.pb-c.h"

static int connect_adaptor(const CommandLine *line, TtrpcClient **ret) {
        return rpc_connect(/* event= */ NULL, arguments(line)->socket ?: PEERPOD_HYPERVISOR_SOCKET, ret);
}

static int call_hypervisor(const CommandLine *line, const char *method, const ProtobufCMessage *request,
                           ProtobufCMessage **ret) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        int r;

        r = connect_adaptor(line, &client);
        if (r != 0)
                return r;

        return rpc_call(client, &hypervisor__hypervisor__descriptor, method, request, command_timeout(line), ret);
}

int command_hypervisor_version(const CommandLine *line) {
        Hypervisor__VersionRequest request = HYPERVISOR__VERSION_REQUEST__INIT;
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        int r;

        r = call_hypervisor(line, "Version", &request.base, &reply);
        if (r != 0)
                return r;

        return rpc_print_one(reply, ((Hypervisor__VersionResponse*) reply)->version, arguments(line)->json);
}

#define KATA_PREFIX "io.katacontainers.config.hypervisor."

/* The nine that Kata always sends, empty or not (kata-containers: src/runtime/virtcontainers/remote.go), and one for each
 * --annotation=, which replaces one of the nine where it has the same key. */
typedef struct Annotations {
        size_t n;
        Hypervisor__CreateVMRequest__AnnotationsEntry *entries;
        Hypervisor__CreateVMRequest__AnnotationsEntry **pointers;
        char **keys;            /* of those whose text was cut from "K=V"; owned */
} Annotations;

static void annotations_done(Annotations *a) {
        for (size_t i = 0; i < a->n; i++)
                free(a->keys[i]);
        free(a->keys);
        free(a->entries);
        free(a->pointers);
}

static int annotations_init(Annotations *a, size_t n_max) {
        *a = (Annotations) {
                .entries = new0(Hypervisor__CreateVMRequest__AnnotationsEntry, n_max),
                .pointers = new0(Hypervisor__CreateVMRequest__AnnotationsEntry*, n_max),
                .keys = new0(char*, n_max),
        };

        return a->entries && a->pointers && a->keys ? 0 : -ENOMEM;
}

static void annotations_set(Annotations *a, const char *key, const char *value, char *owned_key) {
        size_t i = 0;

        while (i < a->n && !streq(a->entries[i].key, key))
                i++;
        if (i == a->n)
                a->n++;

        free(a->keys[i]);
        a->keys[i] = owned_key;
        hypervisor__create_vmrequest__annotations_entry__init(&a->entries[i]);
        a->entries[i].key = (char*) key;        /* protobuf-c has no const; packing only reads */
        a->entries[i].value = (char*) value;
        a->pointers[i] = &a->entries[i];
}

static int annotations_fill(Annotations *a, const Arguments *arg, const char *initdata,
                            char *cpus, char *memory, char *gpus, size_t size) {
        (void) snprintf(cpus, size, "%" PRIu64, arg->cpus.value);
        (void) snprintf(memory, size, "%" PRIu64, arg->memory.value);
        (void) snprintf(gpus, size, "%" PRIu64, arg->gpus.value);

        annotations_set(a, "io.kubernetes.cri.sandbox-name", strempty(arg->pod_name), NULL);
        annotations_set(a, "io.kubernetes.cri.sandbox-namespace", strempty(arg->pod_namespace), NULL);
        annotations_set(a, KATA_PREFIX "machine_type", strempty(arg->machine_type), NULL);
        annotations_set(a, KATA_PREFIX "image", strempty(arg->image), NULL);
        annotations_set(a, KATA_PREFIX "default_vcpus", cpus, NULL);
        annotations_set(a, KATA_PREFIX "default_memory", memory, NULL);
        annotations_set(a, KATA_PREFIX "default_gpus", gpus, NULL);
        annotations_set(a, KATA_PREFIX "default_gpu_model", strempty(arg->gpu_model), NULL);
        annotations_set(a, KATA_PREFIX "cc_init_data", strempty(initdata), NULL);

        for (size_t i = 0; i < arg->annotations.n_items; i++) {
                const char *text = arg->annotations.items[i], *equals = strchr(text, '=');
                char *key;

                if (!equals || equals == text)
                        return complain_usage("--annotation: '%s' is not KEY=VALUE", text);
                key = strndup(text, (size_t) (equals - text));
                if (!key)
                        return -ENOMEM;
                annotations_set(a, key, equals + 1, key);
        }

        return 0;
}

int command_hypervisor_create_vm(const CommandLine *line) {
        const Arguments *arg = arguments(line);
        Hypervisor__CreateVMRequest request = HYPERVISOR__CREATE_VMREQUEST__INIT;
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        _cleanup_(annotations_done) Annotations annotations = {};
        _cleanup_(freep) char *initdata = NULL;
        char cpus[24], memory[24], gpus[24];
        int r;

        if (!arg->netns || !arg->pod_name || !arg->pod_namespace)       /* empty is the adaptor's to refuse */
                return complain_usage("hypervisor create-vm needs --netns=, --pod-name= and --pod-namespace=");

        if (arg->initdata) {
                r = read_input(arg->initdata, INPUT_TEXT_MAX, &initdata, /* ret_size= */ NULL);
                if (r != 0)
                        return r;
        }

        r = annotations_init(&annotations, 9 + arg->annotations.n_items);
        if (r >= 0)
                r = annotations_fill(&annotations, arg, initdata, cpus, memory, gpus, sizeof(cpus));
        if (r != 0)
                return r;

        request.id = line->words[0];
        request.networknamespacepath = (char*) arg->netns;
        request.n_annotations = annotations.n;
        request.annotations = annotations.pointers;

        r = call_hypervisor(line, "CreateVM", &request.base, &reply);
        if (r != 0)
                return r;

        return rpc_print_one(reply, ((Hypervisor__CreateVMResponse*) reply)->agentsocketpath, arg->json);
}

int command_hypervisor_start_vm(const CommandLine *line) {
        Hypervisor__StartVMRequest request = HYPERVISOR__START_VMREQUEST__INIT;

        request.id = line->words[0];
        return call_hypervisor(line, "StartVM", &request.base, NULL);
}

int command_hypervisor_stop_vm(const CommandLine *line) {
        Hypervisor__StopVMRequest request = HYPERVISOR__STOP_VMREQUEST__INIT;

        request.id = line->words[0];
        return call_hypervisor(line, "StopVM", &request.base, NULL);
}

int command_info(const CommandLine *line) {
        Podvminfo__GetInfoRequest request = PODVMINFO__GET_INFO_REQUEST__INIT;
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        int r;

        r = connect_adaptor(line, &client);
        if (r != 0)
                return r;

        request.podnamespace = line->words[0];
        request.podname = line->words[1];
        request.wait = arguments(line)->wait;
        r = rpc_call(client, &podvminfo__pod_vminfo__descriptor, "GetInfo", &request.base, command_timeout(line), &reply);
        if (r != 0)
                return r;

        return rpc_print_one(reply, ((Podvminfo__GetInfoResponse*) reply)->vmid, arguments(line)->json);
}
