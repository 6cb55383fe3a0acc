/* SPDX-License-Identifier: Apache-2.0 */
/* PeerPods, which anybody may have written: read twice, an object says the same; what has no flaw names an instance that may be asked for; and
 * what was entered into tables is out of them again. */
#include "basic/parse.h"
#include "basic/util.h"
#include "kube/ctrl/controller.h"
#include "kube/kube-object.h"
#include "provider/instance-name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const PeerPod *p) {
        if (peerpod_flaw(p))
                return;
        assert(!isempty(p->provider_name) && text_is_plain(p->provider_name, 256));
        assert(peerpod_is_tagged(p) || !isempty(p->instance_id));
        assert(text_is_plain(p->instance_id, 511));
        if (peerpod_is_tagged(p))
                assert(instance_name_is_valid(p->instance_name) && sandbox_id_is_valid(p->sandbox_id));
        assert(isempty(p->pod_uid) == isempty(p->pod_name));
        assert(strlen(p->name_prefix) <= INSTANCE_NAME_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Controller c = {};
        PeerPod *p = NULL, *q = NULL;
        json_object *o;
        int r;

        if (json_parse((const char*) data, size, &o, NULL) < 0)
                return 0;
        r = peerpod_new(&c, "a", &p);
        assert(r == 0);
        r = peerpod_new(&c, "b", &q);
        assert(r == 0);

        r = peerpod_read(p, o);
        if (r >= 0) {
                r = peerpod_read(p, o);
                assert(r == 0);
                check(p);

                /* Its twin has the same pod and the same instance, and is neither older nor younger. */
                r = peerpod_read(q, o);
                assert(r >= 0);
                assert(!peerpod_successor(p, false));
                if (!peerpod_flaw(p) && !p->deleting)
                        assert(peerpod_rival(p) == q && peerpod_rival(q) == p);
        }

        peerpod_free(p);
        peerpod_free(q);
        assert(!c.owners && !c.claims);
        json_object_put(o);
        return 0;
}
