/* SPDX-License-Identifier: Apache-2.0 */
/* What Azure's answers hold: resource ids, URLs to follow, an item of the list of VM sizes. */
#include <strings.h>

#include "azure-id.h"
#include "azure-sku.h"
#include "azure-verify.h"
#include "basic/json.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_ids(const char *text) {
        ArmId id, again;
        char *built = NULL;

        if (arm_id_parse(text, &id) == 0) {
                assert(arm_path_is_plain(text) && *id.subscription && *id.group && *id.type && *id.name);
                assert(!strpbrk(id.name, "/?#% ") && arm_id_is(&id, id.type));
        }
        if (arm_url_is_below(text, "https://management.azure.com"))
                assert(strncasecmp(text, "https://management.azure.com/", strlen("https://management.azure.com/")) == 0);
        if (asprintf(&built, "/subscriptions/s/resourceGroups/r/providers/N.x/t/%.40s", text) > 0 && arm_id_parse(built, &again) == 0)
                assert(strncasecmp(again.type, "N.x/t", 5) == 0);
        free(built);
        assert(arm_location_equal(text, text));
        assert(azure_action_matches("*", text));
        if (!strchr(text, '*'))
                assert(azure_action_matches(text, text));
        (void) azure_action_matches(text, "Microsoft.Compute/virtualMachines/read");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        InstanceType t = {};
        AzureSku s = {};
        char *text;
        int r;

        text = malloc(size + 1);
        assert(text);
        if (size > 0)
                memcpy(text, data, size);
        text[size] = '\0';
        try_ids(text);
        free(text);

        if (json_parse((const char*) data, size, &o, NULL) < 0)
                return 0;
        r = azure_sku_parse(o, "westeurope", &t, &s);
        assert(r <= 1);
        if (r > 0)
                assert(*t.name && streq(t.name, s.name) && s.zones && (t.gpus == 0 || t.gpu_model));
        else
                assert(!t.name && !s.name);
        instance_type_done(&t);
        azure_sku_done(&s);
        return 0;
}
