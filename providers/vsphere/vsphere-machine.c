/* SPDX-License-Identifier: Apache-2.0 */
/* Whose a virtual machine is stands in its extraConfig, from the clone on; no other value of that is ever asked for, since user data are among
 * them. Its instanceUuid follows from name and sandbox, so that it is known before the clone; other than the BIOS's, a vCenter has none twice.
 * While it is being cloned, a machine has its name and no configuration. */
#include <math.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-owner.h"
#include "cloud-xml.h"
#include "vsphere.h"

#define POLL_USEC (500 * USEC_PER_MSEC)
#define BUSY_USEC USEC_PER_SEC

int machine_field(const xmlNode *object, const char *path, const char *in_value, char *ret, size_t size) {
        xmlNode *n = soap_property(object, path);
        _cleanup_(freep) char *text = n ? xml_text(n, in_value) : strdup("");

        if (!text)
                return -ENOMEM;
        (void) snprintf(ret, size, "%s", strlen(text) < size && text_is_plain(text, size) ? text : "");
        return 0;
}

/* 1, or 0: it is being cloned */
static int read_machine(const xmlNode *object, const Ref *vm, Machine *ret) {
        char power[32], cpus[16], memory[24];
        const struct {
                const char *path, *in_value;
                char *to;
                size_t size;
        } fields[] = {
                { "name", "", ret->name, sizeof(ret->name) },
                { "config.instanceUuid", "", ret->uuid, sizeof(ret->uuid) },
                { PROPERTY_SANDBOX, "value", ret->sandbox_id, sizeof(ret->sandbox_id) },
                { PROPERTY_NODE, "value", ret->node, sizeof(ret->node) },
                { "runtime.powerState", "", power, sizeof(power) },
                { "summary.config.numCpu", "", cpus, sizeof(cpus) },
                { "summary.config.memorySizeMB", "", memory, sizeof(memory) },
        };
        uint64_t mib = 0;

        *ret = (Machine) { .vm = *vm };
        for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                if (machine_field(object, fields[i].path, fields[i].in_value, fields[i].to, fields[i].size) < 0)
                        return -ENOMEM;
        ret->on = streq(power, "poweredOn");
        (void) parse_u64(memory, &mib);
        (void) snprintf(ret->type, sizeof(ret->type), "%sx%g", cpus, (double) mib / 1024);
        return !isempty(ret->uuid);
}

int machine_by_ref(Vsphere *v, const PeerpodCall *call, const Ref *vm, Machine *ret, PeerpodError *error) {
        static const char *const paths[] = {
                "name", "config.instanceUuid", PROPERTY_SANDBOX, PROPERTY_NODE, "runtime.powerState", "summary.config.numCpu",
                "summary.config.memorySizeMB", NULL,
        };

        for (;;) {
                _cleanup_(vim_reply_done) VimReply reply = {};
                xmlNode *object;
                int r;

                r = vim_get(v, call, vm, paths, &reply, &object, error);
                if (r < 0)
                        return fault_is_gone(&reply.fault, vm) ? 0 : r;
                r = read_machine(object, vm, ret);
                if (r != 0)
                        return r < 0 ? oom(error) : 1;
                r = peerpod_call_wait(call, -1, 0, POLL_USEC, error);
                if (r < 0)
                        return r;
        }
}

int machine_by_uuid(Vsphere *v, const PeerpodCall *call, const char *name, const char *sandbox_id, Machine *ret, PeerpodError *error) {
        _cleanup_(vim_reply_done) VimReply reply = {};
        char uuid[OWNER_TOKEN_SIZE];
        Soap s = {};
        Ref vm = {};
        int r;

        owner_token(name, sandbox_id, uuid);
        soap_begin(&s, "FindByUuid", &v->content.search_index);
        soap_add(&s, "uuid", uuid);
        soap_add_bool(&s, "vmSearch", true);
        soap_add_bool(&s, "instanceUuid", true);
        r = vim_call(v, call, &s, VIM_REPEATABLE, 0, &reply, error);
        if (r < 0)
                return r;
        r = ref_read(xml_child(reply.answer, "returnval"), &vm);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "FindByUuid: the answer is no reference.");
        return machine_by_ref(v, call, &vm, ret, error);
}

int machine_by_name(Vsphere *v, const PeerpodCall *call, const char *name, Machine *ret, PeerpodError *error) {
        _cleanup_(freep) char *path = NULL;
        Ref vm = {};
        int r;

        if (asprintf(&path, "%s/vm/%s%s%s", v->datacenter, v->folder, isempty(v->folder) ? "" : "/", name) < 0) {
                path = NULL;
                return oom(error);
        }
        r = inventory_find(v, call, path, &vm, error);
        if (r <= 0)
                return r;
        if (!streq(vm.type, "VirtualMachine"))
                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "'%s' exists and is no virtual machine.", name);
        return machine_by_ref(v, call, &vm, ret, error);
}

bool machine_is_of(const Machine *m, const char *sandbox_id, const char *node) {
        return streq(m->sandbox_id, sandbox_id) && (!node || streq(m->node, node));
}

/* ---- power, and the end ---- */

/* A fault of the call or of its task; 0 if it ended well */
static int run_task(Vsphere *v, const PeerpodCall *call, const char *method, const Machine *m, Fault *ret_fault, PeerpodError *error) {
        _cleanup_(vim_reply_done) VimReply reply = {};
        Ref task = {};
        int r;

        *ret_fault = (Fault) {};
        r = vim_begin(v, call, method, &m->vm, &task, &reply, error);
        if (r == 0)
                return vim_wait_task(v, call, method, &task, NULL, ret_fault, error);
        *ret_fault = reply.fault;
        return r;
}

int machine_power_on(Vsphere *v, const PeerpodCall *call, const Machine *m, PeerpodError *error) {
        Fault fault;
        int r;

        if (m->on)
                return 0;
        r = run_task(v, call, "PowerOnVM_Task", m, &fault, error);
        return r < 0 && fault_is(&fault, "InvalidPowerState") ? 0 : r;
}

int machine_destroy(Vsphere *v, const PeerpodCall *call, const Machine *m, PeerpodError *error) {
        bool on = m->on;

        for (;;) {
                Fault fault;
                int r = 0;

                if (on)
                        r = run_task(v, call, "PowerOffVM_Task", m, &fault, error);
                if (r == 0 || fault_is(&fault, "InvalidPowerState")) {
                        r = run_task(v, call, "Destroy_Task", m, &fault, error);
                        /* Somebody has switched it on again. */
                        on = r < 0 && fault_is(&fault, "InvalidPowerState");
                }
                if (r == 0 || fault_is_gone(&fault, &m->vm))
                        return 0;
                if (!on && !fault_is(&fault, "TaskInProgress") && !fault_is(&fault, "ResourceInUse") && !fault_is(&fault, "ConcurrentAccess"))
                        return r;
                r = peerpod_call_wait(call, -1, 0, BUSY_USEC, error);
                if (r < 0)
                        return r;
        }
}
