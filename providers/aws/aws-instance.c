/* SPDX-License-Identifier: Apache-2.0 */
/* An instance carries its owner's tags from the call on that makes it, and so do its volumes, interfaces and elastic addresses: wherever a call
 * is cut off, find() tells of what there is, and remove() removes it. RunInstances has a ClientToken that follows from name and sandbox, so
 * asking again after an unclear answer makes no second one. */
#include "aws-instance.h"

#include <syslog.h>

#include "aws-run.h"
#include "aws-side.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define UNDO_USEC (120 * USEC_PER_SEC)
#define POLL_USEC USEC_PER_SEC
#define POLL_SLOW_USEC (2 * USEC_PER_SEC)
#define POLLS_FAST 15

/* EC2 is eventually consistent: what was made may not be described yet (EC2 User Guide, "Eventual consistency in the Amazon EC2 API"). */
#define VISIBLE_USEC (60 * USEC_PER_SEC)
#define LOOKS_AFTER_UNKNOWN 4

/* A token stands for its first instance for good, terminated or not. Each attempt after that takes the next one of a fixed row. */
#define TOKENS_MAX 16

static int pause_between(const PeerpodCall *call, unsigned n, PeerpodError *error) {
        return peerpod_call_wait(call, -1, 0, n < POLLS_FAST ? POLL_USEC : POLL_SLOW_USEC, error);
}

static bool belongs_to(const Ec2Instance *i, const char *name, const char *sandbox_id) {
        return i->ours && streq(i->name, name) && streq(i->sandbox, sandbox_id);
}

/* ---- removal ---- */

static int terminate(Aws *a, const PeerpodCall *call, const char *id, PeerpodError *error) {
        const AwsQuery q = { .action = "TerminateInstances", .repeatable = true };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        _cleanup_(form_done) Form f = {};
        int r;

        form_add(&f, "InstanceId.1", id);
        r = aws_query(a, call, &q, &f, &reply, error);
        return r < 0 && aws_is_gone(reply.code) ? 0 : r;
}

static int wait_terminated(Aws *a, const PeerpodCall *call, const char *id, PeerpodError *error) {
        for (unsigned n = 0;; n++) {
                Ec2Instance i;
                int r = ec2_get(a, call, id, &i, error);

                if (r <= 0 || streq(i.state, "terminated"))
                        return r < 0 ? r : 0;
                r = pause_between(call, n, error);
                if (r < 0)
                        return r;
        }
}

/* Everything of that name and sandbox. @id: an instance that is theirs for sure, or "". @looks: how often to look before believing that
 * there is nothing. */
static int erase(Aws *a, const PeerpodCall *call, const char *name, const char *sandbox_id, const char *id, unsigned looks, PeerpodError *error) {
        _cleanup_(ec2_list_done) Ec2List l = {};
        bool known = isempty(id);
        int r = 0;

        for (unsigned n = 0; n < looks; n++) {
                size_t n_ours = 0;

                ec2_list_done(&l);
                r = ec2_list(a, call, "Name", name, &l, error);
                for (size_t i = 0; i < l.n; i++)
                        n_ours += belongs_to(l.items + i, name, sandbox_id);
                if (r == 0 && n_ours == 0 && n + 1 < looks)
                        r = pause_between(call, n, error);
                if (r < 0)
                        return r;
                if (n_ours > 0)
                        break;
        }

        for (size_t i = 0; i < l.n && r == 0; i++)
                if (belongs_to(l.items + i, name, sandbox_id)) {
                        known |= streq(l.items[i].id, id);
                        r = terminate(a, call, l.items[i].id, error);
                }
        if (r == 0 && !known)
                r = terminate(a, call, id, error);
        for (size_t i = 0; i < l.n && r == 0; i++)
                if (belongs_to(l.items + i, name, sandbox_id))
                        r = wait_terminated(a, call, l.items[i].id, error);
        if (r == 0 && !known)
                r = wait_terminated(a, call, id, error);
        return r < 0 ? r : sides_remove(a, call, name, sandbox_id, error);
}

/* ---- creation ---- */

/* What a creation has done so far, for its undoing. */
typedef struct Made {
        bool asked;                     /* RunInstances was sent */
        bool unknown;                   /* … and its result is not clear */
        char id[32];
} Made;

static void undo(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const Made *made) {
        PeerpodCall u = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError e = { .size = sizeof(PeerpodError) };

        if (!made->asked)
                return;
        if (erase(a, &u, spec->name, spec->sandbox_id, made->id, made->unknown ? LOOKS_AFTER_UNKNOWN : 1, &e) < 0)
                peerpod_log(call, LOG_ERR, "What instance '%s' had could not be removed after its creation failed; deleting it will try again: %s",
                            spec->name, e.text);
}

static void make_token(const PeerpodInstanceSpec *spec, unsigned n, char ret[static OWNER_TOKEN_SIZE]) {
        char sandbox[128];

        if (n == 0) {
                owner_token(spec->name, spec->sandbox_id, ret);
                return;
        }
        (void) snprintf(sandbox, sizeof(sandbox), "%s#%u", spec->sandbox_id, n);
        owner_token(spec->name, sandbox, ret);
}

/* The instance of an earlier attempt: 1 and *ret, 0 if there is none that lives, or negative with *error set. */
static int find_earlier(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, Ec2Instance *ret, PeerpodError *error) {
        _cleanup_(ec2_list_done) Ec2List l = {};
        const Ec2Instance *best = NULL;
        int r;

        r = ec2_list(a, call, "Name", spec->name, &l, error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < l.n; i++) {
                const Ec2Instance *e = l.items + i;

                if (ec2_is_over(e))
                        continue;
                if (!belongs_to(e, spec->name, spec->sandbox_id) || !streq(e->node, spec->node))
                        return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "An instance named '%s' exists ('%s') and belongs to somebody else.",
                                                 spec->name, e->id);
                if (!best || streq(e->state, "running"))
                        best = e;
        }
        if (!best)
                return 0;
        *ret = *best;
        return 1;
}

/* One RunInstances: 1 and *ret, 0 if the token is used up, or negative with *error set. */
static int run_with_token(Aws *a, const PeerpodCall *call, const AwsPlan *p, unsigned n, Made *made, Ec2Instance *ret, PeerpodError *error) {
        const AwsQuery q = { .action = "RunInstances", .repeatable = true };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        _cleanup_(form_done) Form f = {};
        char token[OWNER_TOKEN_SIZE];
        const xmlNode *item;
        int r;

        make_token(p->spec, n, token);
        form_add(&f, "ClientToken", token);
        plan_form(a, p, &f);
        made->asked = true;
        r = aws_query(a, call, &q, &f, &reply, error);
        if (r < 0) {
                made->unknown = reply.unknown;
                if (!streq(reply.code, "IdempotentParameterMismatch"))
                        return r;
                /* An attempt with other user data. Its instance is over, or not visible yet. */
                r = find_earlier(a, call, p->spec, ret, error);
                if (r > 0)
                        (void) snprintf(made->id, sizeof(made->id), "%s", ret->id);
                return r;
        }

        item = xml_child(reply.root, "instancesSet/item");
        if (!item) {
                made->unknown = true;
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "RunInstances: The answer has no instance.");
        }
        r = ec2_parse(item, ret, error);
        if (r < 0) {
                made->unknown = true;
                return r;
        }
        if (ec2_is_over(ret))
                return 0;
        (void) snprintf(made->id, sizeof(made->id), "%s", ret->id);
        return 1;
}

static int run(Aws *a, const PeerpodCall *call, const AwsPlan *p, Made *made, Ec2Instance *ret, PeerpodError *error) {
        for (unsigned n = 0; n < TOKENS_MAX; n++) {
                int r = run_with_token(a, call, p, n, made, ret, error);

                if (r != 0)
                        return r < 0 ? r : 0;
        }
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%i instances named '%s' have ended one after the other.", TOKENS_MAX, p->spec->name);
}

static bool has_addresses(const Ec2Instance *i, size_t n_nics, bool public) {
        if (i->n_nics < n_nics)
                return false;
        for (size_t k = 0; k < i->n_nics; k++)
                if (isempty(i->nics[k].address) || (public && k < n_nics && isempty(i->nics[k].public_address)))
                        return false;
        return true;
}

/* Running, with its addresses. What fails at the start (capacity of a zone, a key of a volume) shows only then. */
static int wait_running(Aws *a, const PeerpodCall *call, const char *id, size_t n_nics, bool public, Ec2Instance *ret, PeerpodError *error) {
        uint64_t visible = usec_add(peerpod_now_usec(), VISIBLE_USEC);

        for (unsigned n = 0;; n++) {
                int r = ec2_get(a, call, id, ret, error);

                if (r < 0)
                        return r;
                if (r == 0 && peerpod_now_usec() > visible)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Instance '%s' has gone before it ran.", id);
                if (r > 0 && (ec2_is_over(ret) || startswith(ret->state, "stop")))
                        return peerpod_error_set(error, strstr(ret->reason, "nsufficient") || strstr(ret->reason, "imitExceeded") ?
                                                 PEERPOD_E_EXHAUSTED : PEERPOD_E_FAILED_PRECONDITION,
                                                 "Instance '%s' has ended before it ran (%s): %s", id, ret->state, ret->reason);
                if (r > 0 && streq(ret->state, "running") && has_addresses(ret, n_nics, public))
                        return 0;
                r = pause_between(call, n, error);
                if (r < 0)
                        return r;
        }
}

static void fill_instance(const Ec2Instance *i, bool public, PeerpodInstance *ret) {
        (void) snprintf(ret->id, sizeof(ret->id), "%s", i->id);
        (void) snprintf(ret->type, sizeof(ret->type), "%s", i->type);
        ret->n_addresses = 0;
        for (size_t k = 0; k < i->n_nics; k++)
                peerpod_instance_add_address(ret, public && !isempty(i->nics[k].public_address) ? i->nics[k].public_address : i->nics[k].address);
        for (size_t k = 0; k < i->n_nics && public; k++)
                if (!isempty(i->nics[k].public_address))
                        peerpod_instance_add_address(ret, i->nics[k].address);
}

static int complete(Aws *a, const PeerpodCall *call, const AwsPlan *p, Ec2Instance *i, PeerpodError *error) {
        size_t n_nics = p->multi_nic ? 2 : 1;
        char id[32];
        int r;

        memcpy(id, i->id, sizeof(id));
        r = wait_running(a, call, id, n_nics, a->public_ip && !p->multi_nic, i, error);
        if (r == 0 && a->public_ip && p->multi_nic) {
                r = addresses_give(a, call, p->spec, i, error);
                if (r == 0)
                        r = wait_running(a, call, id, n_nics, true, i, error);
        }
        return r < 0 ? r : volumes_attach(a, call, p->spec, id, error);
}

int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(plan_done) AwsPlan p = {};
        Ec2Instance i = {};
        Made made = {};
        Aws *a = provider;
        bool earlier;
        int r;

        r = plan_make(a, call, spec, &p, error);
        if (r < 0)
                return r;
        r = find_earlier(a, call, spec, &i, error);
        if (r < 0)
                return r;
        earlier = r > 0;
        if (earlier && startswith(i.state, "stop")) {
                r = erase(a, call, spec->name, spec->sandbox_id, i.id, 1, error);
                if (r < 0)
                        return r;
                earlier = false;
        }
        r = volumes_check(a, call, spec, p.place.subnet, earlier ? i.id : "", error);
        if (r < 0 && !earlier)
                return r;

        if (earlier) {
                peerpod_log(call, LOG_INFO, "Instance '%s' exists already ('%s').", spec->name, i.id);
                made.asked = true;
                memcpy(made.id, i.id, sizeof(made.id));
        } else {
                r = run(a, call, &p, &made, &i, error);
                if (r == 0)
                        peerpod_log(call, LOG_INFO, "Instance '%s' made ('%s'), waiting until it runs.", spec->name, i.id);
        }
        if (r == 0)
                r = complete(a, call, &p, &i, error);
        if (r < 0) {
                undo(a, call, spec, &made);
                return r;
        }
        fill_instance(&i, a->public_ip, ret);
        return 0;
}

/* ---- remove(), find() ---- */

int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        _cleanup_(ec2_list_done) Ec2List l = {};
        const char *id = instance_id_is_valid(key->id) ? key->id : "";
        bool ours = false, other = false;
        Aws *a = provider;
        Ec2Instance i;
        int r;

        if (!isempty(id)) {
                r = ec2_get(a, call, id, &i, error);
                if (r < 0)
                        return r;
                if (r == 0 || streq(i.state, "terminated"))
                        id = "";        /* gone, but it may have left something */
                else if (!belongs_to(&i, key->name, key->sandbox_id))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' belongs to somebody else.", id);
        }
        if (isempty(id)) {
                r = ec2_list(a, call, "Name", key->name, &l, error);
                if (r < 0)
                        return r;
                for (size_t k = 0; k < l.n; k++)
                        if (belongs_to(l.items + k, key->name, key->sandbox_id))
                                ours = true;
                        else
                                other |= !ec2_is_over(l.items + k);
                if (other && !ours)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "An instance named '%s' belongs to somebody else.", key->name);
        }
        return erase(a, call, key->name, key->sandbox_id, id, 1, error);
}

typedef struct Finder {
        const Ec2List *list;
        PeerpodFound found;
        void *userdata;
} Finder;

static int tell(const Finder *f, const char *name, const char *sandbox_id, const char *id, PeerpodError *error) {
        const PeerpodFoundInstance found = { .size = sizeof(PeerpodFoundInstance), .name = name, .sandbox_id = sandbox_id, .id = id };

        if (f->found(f->userdata, &found) < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of instances was refused.");
        return 0;
}

static int on_side(void *userdata, const char *name, const char *sandbox_id, const char *id, PeerpodError *error) {
        const Finder *f = userdata;

        for (size_t i = 0; i < f->list->n; i++)
                if (belongs_to(f->list->items + i, name, sandbox_id))
                        return 0;
        return tell(f, name, sandbox_id, id, error);
}

int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        _cleanup_(ec2_list_done) Ec2List l = {};
        const Finder f = { .list = &l, .found = found, .userdata = userdata };
        Aws *a = provider;
        int r;

        r = ec2_list(a, call, OWNER_TAG_NODE, node, &l, error);
        for (size_t i = 0; i < l.n && r == 0; i++)
                if (l.items[i].ours && streq(l.items[i].node, node))
                        r = tell(&f, l.items[i].name, l.items[i].sandbox, l.items[i].id, error);
        return r < 0 ? r : sides_find(a, call, node, on_side, (void*) &f, error);
}
