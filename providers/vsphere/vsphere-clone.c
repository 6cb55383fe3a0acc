/* SPDX-License-Identifier: Apache-2.0 */
/* One call makes a machine with all that it is to have, user data and owner included. The parts of a specification stand in the order of the WSDL
 * (vmware/govmomi: vim25/types/types.go, VirtualMachineCloneSpec, VirtualMachineConfigSpec, PlacementSpec). */
#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-owner.h"
#include "cloud-xml.h"
#include "vsphere.h"

#define CPUS_MAX 960                    /* of one virtual machine, vSphere 9 */
#define MEMORY_MIB_MAX (UINT64_C(24) << 20)
#define MEMORY_STEP_MIB 4

/* "4x16", "1x0.5" */
static int parse_size(const char *s, Size *ret) {
        const char *x = strchr(s, 'x'), *dot;
        char cpus[12] = "", whole[12] = "";
        uint64_t n, gib, fraction = 0, unit = 1;

        if (!x || (size_t) (x - s) >= sizeof(cpus))
                return -EINVAL;
        memcpy(cpus, s, x - s);
        x++;
        dot = strchr(x, '.');
        if (!dot)
                dot = x + strlen(x);
        if ((size_t) (dot - x) >= sizeof(whole) || strlen(dot) > 4)
                return -EINVAL;
        memcpy(whole, x, dot - x);
        if (parse_u64(cpus, &n) < 0 || parse_u64(whole, &gib) < 0 || (*dot && parse_u64(dot + 1, &fraction) < 0))
                return -EINVAL;
        for (size_t i = 1; *dot && dot[i]; i++)
                unit *= 10;
        if (n == 0 || n > CPUS_MAX || gib > MEMORY_MIB_MAX / 1024 || gib + fraction == 0)
                return -EINVAL;
        *ret = (Size) { .cpus = n, .memory_mib = gib * 1024 + (fraction * 1024 + unit - 1) / unit };
        return 0;
}

int size_choose(const PeerpodInstanceSpec *spec, Size *ret, PeerpodError *error) {
        Size size = { .cpus = spec->vcpus, .memory_mib = spec->memory_mib };

        if (!isempty(spec->machine_type) && parse_size(spec->machine_type, &size) < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT,
                                         "The pod asks for machine type '%.64s': of provider vsphere they are CPUSxGIB, such as '4x16'.", spec->machine_type);
        if (size.cpus > CPUS_MAX || size.memory_mib > MEMORY_MIB_MAX)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "No virtual machine has %" PRIu64 " CPUs and %" PRIu64 " MiB of memory.", size.cpus,
                                         size.memory_mib);
        size.memory_mib = (size.memory_mib + MEMORY_STEP_MIB - 1) / MEMORY_STEP_MIB * MEMORY_STEP_MIB;
        *ret = size;
        return 0;
}

/* ---- place ---- */

static void add_location(Soap *s, const Vsphere *v, const CloneRequest *c) {
        soap_open(s, "location");
        soap_add_ref(s, "folder", &c->folder);
        soap_add_ref(s, "datastore", &c->place.datastore);
        if (v->linked)
                soap_add(s, "diskMoveType", "createNewChildDiskBacking");
        soap_add_ref(s, "pool", &c->place.pool);
        soap_add_ref(s, "host", &c->place.host);
        soap_close(s, "location");
}

static xmlNode* find_recommendation(const xmlNode *answer) {
        xmlNode *result = xml_child(answer, "returnval");

        for (xmlNode *r = xml_first(result, "recommendations"); r; r = xml_next(r, "recommendations"))
                for (xmlNode *a = xml_first(r, "action"); a; a = xml_next(a, "action"))
                        if (soap_type_is(a, "PlacementAction") && xml_child(a, "relocateSpec"))
                                return xml_child(a, "relocateSpec");
        return NULL;
}

int clone_place(Vsphere *v, const PeerpodCall *call, CloneRequest *c, PeerpodError *error) {
        _cleanup_(vim_reply_done) VimReply reply = {};
        Ref host = {}, pool = {}, datastore = {};
        Soap s = {};
        xmlNode *n;
        int r;

        soap_begin(&s, "PlaceVm", &c->place.cluster);
        soap_open(&s, "placementSpec");
        soap_add_ref(&s, "vm", &c->template.vm);
        soap_open(&s, "relocateSpec");
        soap_add_ref(&s, "folder", &c->folder);
        soap_close(&s, "relocateSpec");
        soap_add(&s, "placementType", "clone");
        soap_open(&s, "cloneSpec");
        soap_add(&s, "location", "");
        soap_add_bool(&s, "template", false);
        soap_add_bool(&s, "powerOn", true);
        soap_close(&s, "cloneSpec");
        soap_add(&s, "cloneName", c->spec->name);
        soap_close(&s, "placementSpec");
        r = vim_call(v, call, &s, VIM_REPEATABLE, 0, &reply, error);
        if (r < 0)
                return r;
        n = find_recommendation(reply.answer);
        if (!n)
                return peerpod_error_set(error, PEERPOD_E_EXHAUSTED, "DRS recommends no place in cluster '%.128s', the value of GOVC_VCLUSTER.", v->cluster);
        if (ref_read(xml_child(n, "host"), &host) == -EBADMSG || ref_read(xml_child(n, "pool"), &pool) == -EBADMSG ||
            ref_read(xml_child(n, "datastore"), &datastore) == -EBADMSG)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "PlaceVm: the answer is no place.");
        c->place.host = host;
        c->place.datastore = datastore;
        if (!ref_is_set(&c->place.pool))
                c->place.pool = pool;
        return 0;
}

/* ---- the clone ---- */

static void add_config(Soap *s, const Vsphere *v, const CloneRequest *c) {
        char uuid[OWNER_TOKEN_SIZE];
        char annotation[512];

        owner_token(c->spec->name, c->spec->sandbox_id, uuid);
        (void) snprintf(annotation, sizeof(annotation), "Pod VM of peerpod: sandbox %s, node %s", c->spec->sandbox_id, c->spec->node);
        soap_open(s, "config");
        soap_add(s, "instanceUuid", uuid);
        soap_add(s, "annotation", annotation);
        if (c->size.cpus > 0) {
                soap_add_uint(s, "numCPUs", c->size.cpus);
                /* The template's may not divide it. */
                soap_add_uint(s, "numCoresPerSocket", 1);
        }
        if (c->size.memory_mib > 0)
                soap_add_uint(s, "memoryMB", c->size.memory_mib);
        soap_add_option(s, KEY_SANDBOX, c->spec->sandbox_id);
        soap_add_option(s, KEY_NODE, c->spec->node);
        soap_add_option(s, "guestinfo.userdata", c->user_data);
        soap_add_option(s, "guestinfo.userdata.encoding", c->encoding);
        if (streq(v->confidential, "TDX"))
                soap_add_bool(s, "tdxEnabled", true);
        if (streq(v->confidential, "SEV_SNP"))
                soap_add_bool(s, "sevSnpEnabled", true);
        soap_close(s, "config");
}

int clone_begin(Vsphere *v, const PeerpodCall *call, const CloneRequest *c, Ref *ret_task, VimReply *reply, PeerpodError *error) {
        Soap s = {};
        int r;

        soap_begin(&s, "CloneVM_Task", &c->template.vm);
        soap_add_ref(&s, "folder", &c->folder);
        soap_add(&s, "name", c->spec->name);
        soap_open(&s, "spec");
        add_location(&s, v, c);
        soap_add_bool(&s, "template", false);
        add_config(&s, v, c);
        soap_add_bool(&s, "powerOn", true);
        if (v->linked)
                soap_add_ref(&s, "snapshot", &c->template.snapshot);
        soap_close(&s, "spec");
        /* Repeatable: a name is in a folder once. */
        r = vim_call(v, call, &s, VIM_REPEATABLE, 0, reply, error);
        if (r < 0)
                return r;
        r = ref_read(xml_child(reply->answer, "returnval"), ret_task);
        if (r == 0)
                return 0;
        reply->unknown = true;
        return r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "CloneVM_Task: the answer names no task.");
}
