/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's name is unique in its folder: it is the token of idempotency, and a second clone ends with DuplicateName. */
#include <syslog.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-user-data.h"
#include "vsphere.h"

#define UNDO_USEC (180 * USEC_PER_SEC)
#define LOOKS_AFTER_UNKNOWN 4           /* what was asked for, and never answered, may appear a little later */
#define LOOKS_AFTER_DUPLICATE 60
#define LOOK_USEC (500 * USEC_PER_MSEC)

/* How far a creation has come, for what undoes it. */
typedef struct Progress {
        Ref task;                       /* of the clone, while it runs */
        bool begun;                     /* there is, or may be, a machine */
        bool unknown;
} Progress;

static int somebody_elses(PeerpodError *error, PeerpodErrorKind kind, const char *name) {
        return peerpod_error_set(error, kind, "A virtual machine '%s' exists and belongs to somebody else.", name);
}

/* The one of that name and sandbox, where there is one; else whatever has that name. */
static int find_machine(Vsphere *v, const PeerpodCall *call, const char *name, const char *sandbox_id, Machine *ret, PeerpodError *error) {
        int r = machine_by_uuid(v, call, name, sandbox_id, ret, error);

        return r == 0 ? machine_by_name(v, call, name, ret, error) : r;
}

/* ---- what has failed ---- */

/* A clone that cannot be stopped is waited for. */
static void stop_task(Vsphere *v, const PeerpodCall *call, const Ref *task) {
        PeerpodError e = { .size = sizeof(e) };
        _cleanup_(vim_reply_done) VimReply reply = {};
        Soap s = {};

        soap_begin(&s, "CancelTask", task);
        (void) vim_call(v, call, &s, VIM_REPEATABLE, 0, &reply, &e);
        (void) vim_wait_task(v, call, "CloneVM_Task", task, NULL, NULL, &e);
}

static void undo(Vsphere *v, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const Progress *p) {
        PeerpodCall u = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError e = { .size = sizeof(e) };
        int r = 0;

        if (ref_is_set(&p->task))
                stop_task(v, &u, &p->task);
        for (unsigned n = 0; n < (p->unknown ? LOOKS_AFTER_UNKNOWN : 1) && r == 0; n++) {
                Machine m;

                if (n > 0)
                        (void) peerpod_call_wait(&u, -1, 0, LOOK_USEC, &e);
                r = find_machine(v, &u, spec->name, spec->sandbox_id, &m, &e);
                if (r > 0 && !machine_is_of(&m, spec->sandbox_id, spec->node))
                        return;
                if (r > 0) {
                        r = machine_destroy(v, &u, &m, &e);
                        break;
                }
        }
        if (r < 0)
                peerpod_log(call, LOG_ERR, "Virtual machine '%s' could not be removed after its creation failed; deleting it will try again: %s", spec->name, e.text);
}

/* ---- creation ---- */

/* The name is taken: by another owner, or by an earlier attempt, whose machine may still be on its way. */
static int adopt(Vsphere *v, const PeerpodCall *call, const PeerpodInstanceSpec *spec, Machine *ret, PeerpodError *error) {
        int r = 0;

        for (unsigned n = 0; n < LOOKS_AFTER_DUPLICATE && r == 0; n++) {
                r = n > 0 ? peerpod_call_wait(call, -1, 0, LOOK_USEC, error) : 0;
                if (r == 0)
                        r = machine_by_name(v, call, spec->name, ret, error);
        }
        if (r < 0)
                return r;
        if (r == 0)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "The name '%s' is taken, and nothing is there.", spec->name);
        if (!machine_is_of(ret, spec->sandbox_id, spec->node))
                return somebody_elses(error, PEERPOD_E_ALREADY_EXISTS, spec->name);
        peerpod_log(call, LOG_INFO, "Virtual machine '%s' exists already.", spec->name);
        return 0;
}

static int clone_once(Vsphere *v, const PeerpodCall *call, CloneRequest *c, Progress *p, Machine *ret, PeerpodError *error) {
        _cleanup_(vim_reply_done) VimReply reply = {};
        Fault fault = {};
        Ref vm = {};
        int r;

        r = inventory_template(v, call, c->spec->image, &c->template, error);
        if (r == 0 && (c->spec->flags & PEERPOD_INSTANCE_MULTI_NIC) && c->template.n_nics < 2)
                r = peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The pod wants a second interface, and the template has one network adapter only.");
        if (r == 0)
                r = MIN(inventory_folder(v, call, true, &c->folder, error), 0);
        if (r == 0)
                r = inventory_place(v, call, &c->place, error);
        if (r == 0 && v->drs)
                r = clone_place(v, call, c, error);
        if (r < 0)
                return r;

        r = clone_begin(v, call, c, &p->task, &reply, error);
        p->unknown = r < 0 && reply.unknown;
        p->begun = r == 0 || p->unknown;
        if (r < 0 && fault_is(&reply.fault, "DuplicateName"))
                return adopt(v, call, c->spec, ret, error);
        if (r < 0)
                return r;
        peerpod_log(call, LOG_INFO, "Virtual machine '%s' is being cloned.", c->spec->name);
        r = vim_wait_task(v, call, "CloneVM_Task", &p->task, &vm, &fault, error);
        if (r == 0 || !isempty(fault.type))
                p->task = (Ref) {};             /* it has ended */
        if (r < 0 && fault_is(&fault, "DuplicateName"))
                return adopt(v, call, c->spec, ret, error);
        if (r < 0)
                return r;
        r = machine_by_ref(v, call, &vm, ret, error);
        return r == 0 ? peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Virtual machine '%s' has gone while it was made.", c->spec->name) : MIN(r, 0);
}

static int make(Vsphere *v, const PeerpodCall *call, CloneRequest *c, Progress *p, Machine *ret, PeerpodError *error) {
        int r;

        r = machine_by_uuid(v, call, c->spec->name, c->spec->sandbox_id, ret, error);
        if (r < 0)
                return r;
        if (r > 0) {
                p->begun = true;
                if (!machine_is_of(ret, c->spec->sandbox_id, c->spec->node))
                        return somebody_elses(error, PEERPOD_E_ALREADY_EXISTS, c->spec->name);
                peerpod_log(call, LOG_INFO, "Virtual machine '%s' exists already.", c->spec->name);
                return 0;
        }
        r = clone_once(v, call, c, p, ret, error);
        if (r == 0 || error->kind != PEERPOD_E_NOT_FOUND)
                return r;
        /* The folder, the host … that was looked up earlier is no longer that. */
        inventory_forget(v);
        c->place = (Place) {};
        *p = (Progress) {};
        return clone_once(v, call, c, p, ret, error);
}

static int run(Vsphere *v, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const Machine *m, PeerpodInstance *ret, PeerpodError *error) {
        int r;

        r = machine_power_on(v, call, m, error);
        if (r == 0)
                r = guest_wait(v, call, &m->vm, spec->name, (spec->flags & PEERPOD_INSTANCE_MULTI_NIC) ? 2 : 1, ret, error);
        if (r < 0)
                return r;
        (void) snprintf(ret->id, sizeof(ret->id), "%s", m->uuid);
        (void) snprintf(ret->type, sizeof(ret->type), "%s", m->type);
        return 0;
}

static int encode(const PeerpodInstanceSpec *spec, char **ret, size_t *ret_size, const char **ret_encoding, PeerpodError *error) {
        bool packed = spec->user_data_size > VSPHERE_USER_DATA_MAX / 4 * 3;

        *ret_encoding = packed ? "gzip+base64" : "base64";
        return user_data_encode(spec, packed ? USER_DATA_GZIP_BASE64 : USER_DATA_BASE64, VSPHERE_USER_DATA_MAX, true, ret, ret_size, error);
}

int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        CloneRequest c = { .spec = spec };
        Progress progress = {};
        Vsphere *v = provider;
        char *user_data = NULL;
        size_t size = 0;
        Machine m;
        int r;

        if (spec->gpus > 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The pod wants %" PRIu32 " GPUs: provider vsphere gives none but the template's.", spec->gpus);
        r = size_choose(spec, &c.size, error);
        if (r == 0)
                r = encode(spec, &user_data, &size, &c.encoding, error);
        if (r < 0)
                return r;
        c.user_data = user_data;
        r = vim_ready(v, call, error);
        if (r == 0)
                r = make(v, call, &c, &progress, &m, error);
        erase_free(user_data, size);
        if (r == 0)
                r = run(v, call, spec, &m, ret, error);
        if (r < 0 && progress.begun && error->kind != PEERPOD_E_ALREADY_EXISTS)
                undo(v, call, spec, &progress);
        return r;
}

/* ---- remove(), find() ---- */

int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        Vsphere *v = provider;
        Machine m;
        int r;

        r = vim_ready(v, call, error);
        if (r == 0)
                r = find_machine(v, call, key->name, key->sandbox_id, &m, error);
        if (r <= 0)
                return r;
        if (!machine_is_of(&m, key->sandbox_id, NULL))
                return somebody_elses(error, PEERPOD_E_FAILED_PRECONDITION, key->name);
        return machine_destroy(v, call, &m, error);
}

typedef struct Report {
        const char *node;
        PeerpodFound found;
        void *userdata;
} Report;

static int on_machine(void *userdata, const Ref *vm, const xmlNode *object, PeerpodError *error) {
        char name[64], sandbox_id[65], node[254], uuid[64];
        const Report *report = userdata;

        if (machine_field(object, "name", "", name, sizeof(name)) < 0 || machine_field(object, PROPERTY_SANDBOX, "value", sandbox_id, sizeof(sandbox_id)) < 0 ||
            machine_field(object, PROPERTY_NODE, "value", node, sizeof(node)) < 0 || machine_field(object, "config.instanceUuid", "", uuid, sizeof(uuid)) < 0)
                return oom(error);
        if (isempty(name) || isempty(sandbox_id) || !streq(node, report->node))
                return 0;
        if (report->found(report->userdata, &(PeerpodFoundInstance) { .size = sizeof(PeerpodFoundInstance), .name = name, .sandbox_id = sandbox_id, .id = uuid }) < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of instances was refused.");
        return 0;
}

int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        static const char *const paths[] = { "name", "config.instanceUuid", PROPERTY_SANDBOX, PROPERTY_NODE, NULL };
        Report report = { node, found, userdata };
        Vsphere *v = provider;
        int r;

        r = vim_ready(v, call, error);
        for (unsigned n = 0; r == 0 && n < 2; n++) {
                Ref folder;

                r = inventory_folder(v, call, false, &folder, error);
                if (r <= 0)
                        return r;
                r = vim_each(v, call, &folder, paths, on_machine, &report, error);
                if (r == 0)
                        return 0;
                if (error->kind == PEERPOD_E_NOT_FOUND && n == 0) {
                        inventory_forget(v);    /* it was another one's place meanwhile */
                        r = 0;
                }
        }
        return r;
}
