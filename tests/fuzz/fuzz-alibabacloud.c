/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a cloud answers: lists, types, refusals, credentials. */
#include <string.h>

#include "alibabacloud-parse.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void lists(json_object *o) {
        EcsInstance *instances = NULL;
        VpcAddress *addresses = NULL;
        InstanceType *types = NULL;
        char *next = NULL, *text = NULL;
        uint64_t total = 0;
        size_t n = 0;

        if (ecs_instances_parse(o, &instances, &n, &next) == 0) {
                for (size_t i = 0; i < n; i++)
                        assert(!isempty(instances[i].id) && instances[i].name && instances[i].status && instances[i].type && instances[i].node &&
                               instances[i].sandbox_id && instances[i].private_address && instances[i].public_address &&
                               instances[i].second_interface && strlen(instances[i].second_address) < 46);
                ecs_instances_free(instances, n);
                free(next);
        }
        if (vpc_addresses_parse(o, &addresses, &n, &total) == 0) {
                for (size_t i = 0; i < n; i++)
                        assert(!isempty(addresses[i].id) && addresses[i].status && addresses[i].instance_id && addresses[i].name);
                vpc_addresses_free(addresses, n);
        }
        next = NULL;
        if (instance_types_parse(o, &types, &n, &next) == 0) {
                for (size_t i = 0; i < n; i++) {
                        assert(!isempty(types[i].name) && types[i].vcpus > 0 && types[i].memory_mib > 0);
                        instance_type_done(types + i);
                }
                free(types);
                free(next);
        }
        if (instance_id_parse(o, &text) == 0) {
                assert(!isempty(text) && text_is_plain(text, 256));
                free(text);
        }
        text = NULL;
        if (string_parse(o, "Disks/Disk/0/Status", &text) == 0)
                free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *message = NULL;
        char code[ALIBABA_CODE_SIZE];
        Token t = {};

        if (size > 1 << 20)
                return 0;
        if (error_parse((const char*) data, size, code, &message) == 0)
                assert(!isempty(code) && text_is_plain(message, 512));
        if (credentials_parse((const char*) data, size, "Credentials", &t) == 0 || credentials_parse((const char*) data, size, "", &t) == 0) {
                assert(!isempty(t.parts[0]) && !isempty(t.parts[1]) && !isempty(t.parts[2]));
                token_done(&t);
        }
        if (json_parse((const char*) data, size, &o, NULL) == 0)
                lists(o);
        return 0;
}
