/* SPDX-License-Identifier: Apache-2.0 */
/* Give a machine out, take it back.
 *
 * free → allocated → cleaning → free. The entry is written before the machine is touched, and goes only when it was never touched or has been
 * rebooted since, seen by us; until then it names its owner, find() reports it, and a remove() tries again. Who gets a machine's entry has it
 * alone: two nodes cannot hold one address at once (byom-store.c). */
#include <json-c/linkhash.h>
#include <syslog.h>

#include "basic/strv.h"
#include "basic/util.h"
#include "byom-provider.h"
#include "cloud-config.h"

#define UNDO_USEC (120 * USEC_PER_SEC)
#define BAD_USEC (60 * USEC_PER_SEC)    /* a machine that did not answer is tried last for so long */
#define LOOK_PAUSE_MIN (100 * USEC_PER_MSEC)
#define LOOK_PAUSE_MAX (2 * USEC_PER_SEC)

static int allocation_id(const char *name, const char *sandbox_id, char **ret, PeerpodError *error) {
        return asprintf(ret, "%s-%s", name, sandbox_id) < 0 ? oom(error) : 0;
}

/* Entries of the pool. */

typedef struct Take {
        Byom *b;
        const PeerpodInstanceSpec *spec;
        const char *allocation;
        const bool *tried;              /* one for each address */
        char *address;                  /* result; owned */
        bool is_new, cleaning;
} Take;

static bool is_bad(Byom *b, size_t i) {
        bool bad;

        (void) pthread_mutex_lock(&b->lock);
        bad = b->bad[i].until_usec > now_usec(CLOCK_MONOTONIC);
        (void) pthread_mutex_unlock(&b->lock);
        return bad;
}

static size_t index_of(const Byom *b, const char *address) {
        size_t i = 0;

        while (b->addresses[i] && !streq(b->addresses[i], address))
                i++;
        return i;
}

static void set_bad(Byom *b, const char *address) {
        size_t i = index_of(b, address);

        if (!b->addresses[i])
                return;
        (void) pthread_mutex_lock(&b->lock);
        b->bad[i].until_usec = now_usec(CLOCK_MONOTONIC) + BAD_USEC;
        (void) pthread_mutex_unlock(&b->lock);
}

/* Around the ring of free addresses from the hash on: those that answered of late first. */
static const char* choose(const Take *t, json_object *state) {
        size_t n = 0, k = 0, first;
        char **free_ones = new0(char*, strv_length(t->b->addresses) + 1);
        const char *found = NULL;

        if (!free_ones)
                return NULL;
        for (size_t i = 0; t->b->addresses[i]; i++)
                if (!state_has_address(state, t->b->addresses[i]))
                        free_ones[n++] = t->b->addresses[i];
        first = n > 0 ? pool_hash(t->allocation) % n : 0;
        for (int round = 0; round < 2 && !found; round++)
                for (k = 0; k < n && !found; k++) {
                        size_t i = index_of(t->b, free_ones[(first + k) % n]);

                        if (!t->tried[i] && (round > 0 || !is_bad(t->b, i)))
                                found = t->b->addresses[i];
                }
        free(free_ones);
        return found;
}

static int take(void *userdata, json_object *state, PeerpodError *error) {
        Take *t = userdata;
        json_object *entry = state_get(state, t->allocation);
        const char *other = state_name_owner(state, t->spec->name, t->spec->sandbox_id), *address;

        free(TAKE_PTR(t->address));
        if (other)
                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "Instance '%s' exists and is sandbox '%s''s.", t->spec->name, other);
        if (entry) {
                t->is_new = false;
                t->cleaning = streq(entry_get(entry, "state"), STATE_CLEANING);
                t->address = strdup(entry_get(entry, "ip"));
                return t->address ? 0 : oom(error);
        }
        address = choose(t, state);
        if (!address)
                return peerpod_error_set(error, PEERPOD_E_EXHAUSTED, "No VM of the pool is free (of %zu), or none of the free ones can be used.",
                                         strv_length(t->b->addresses));
        t->is_new = true;
        t->cleaning = false;
        t->address = strdup(address);
        if (!t->address || state_add(state, t->allocation, address, t->spec->node, t->spec->pod_name, t->spec->name, t->spec->sandbox_id) < 0)
                return oom(error);
        return 1;
}

static int drop(void *userdata, json_object *state, PeerpodError *error) {
        if (!state_get(state, userdata))
                return 0;
        state_drop(state, userdata);
        return 1;
}

typedef struct Cleaning {
        const char *allocation, *name, *sandbox_id;
        char *address;                  /* result; owned; NULL: there is no such allocation */
} Cleaning;

static int mark_cleaning(void *userdata, json_object *state, PeerpodError *error) {
        Cleaning *c = userdata;
        json_object *entry = state_get(state, c->allocation);
        const char *other;

        free(TAKE_PTR(c->address));
        if (!entry) {
                other = state_name_owner(state, c->name, c->sandbox_id);
                if (other)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' is sandbox '%s''s, and left alone.", c->name, other);
                return 0;
        }
        c->address = strdup(entry_get(entry, "ip"));
        if (!c->address)
                return oom(error);
        if (streq(entry_get(entry, "state"), STATE_CLEANING))
                return 0;
        return json_set_string(entry, "state", STATE_CLEANING) < 0 ? oom(error) : 1;
}

/* Reboot it, and see that it has: asked once, and again where it says nothing of having been asked. */
static int clean(Byom *b, const PeerpodCall *call, const char *address, const char *allocation, PeerpodError *error) {
        PeerpodError last = { .size = sizeof(PeerpodError) };
        bool said = false;
        int r;

        for (uint64_t pause = LOOK_PAUSE_MIN;; pause = MIN(pause * 2, LOOK_PAUSE_MAX)) {
                VmState state;

                r = vm_look(b, call, address, allocation, &state, &last);
                if (r == 0 && state == VM_CLEAN)
                        return 0;
                if (r == 0 && !said) {
                        r = vm_reboot(b, call, address, &last);
                        said = r == 0;
                        if (said)
                                peerpod_log(call, LOG_INFO, "VM %s is asked to reboot.", address);
                }
                if (r == -EACCES)       /* another key than the known one: no use to go on asking */
                        break;
                r = peerpod_call_wait(call, -1, 0, pause, error);
                if (r == -ECANCELED)
                        return r;
                if (r < 0)
                        break;
        }
        return peerpod_error_set(error, r == -EACCES ? PEERPOD_E_UNAUTHENTICATED : PEERPOD_E_UNAVAILABLE,
                                 "VM %s is not seen to have rebooted, and is kept out of the pool until it is%s%.600s", address,
                                 isempty(last.text) ? "." : ": ", last.text);
}

static int take_back(Byom *b, const PeerpodCall *call, Cleaning *c, PeerpodError *error) {
        int r;

        r = pool_change(b, call, mark_cleaning, c, error);
        if (r < 0 || !c->address)
                return r;
        r = clean(b, call, c->address, c->allocation, error);
        if (r < 0)
                return r;
        r = pool_change(b, call, drop, (void*) c->allocation, error);
        if (r == 0)
                peerpod_log(call, LOG_INFO, "VM %s is free again.", c->address);
        return r;
}

static void undo(Byom *b, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *allocation, bool touched) {
        PeerpodCall undo_call = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError error = { .size = sizeof(PeerpodError) };
        Cleaning c = { .allocation = allocation, .name = spec->name, .sandbox_id = spec->sandbox_id };
        int r;

        r = touched ? take_back(b, &undo_call, &c, &error) : pool_change(b, &undo_call, drop, (void*) allocation, &error);
        if (r < 0)
                peerpod_log(call, LOG_WARNING, "Allocation '%s' could not be undone, a later deletion does that: %s", allocation, error.text);
        free(c.address);
}

static int check_spec(const PeerpodInstanceSpec *spec, PeerpodError *error) {
        const char *what = NULL;

        if (spec->gpus > 0)
                what = "GPUs";
        else if (spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                what = "a second network interface";
        else if (spec->n_volumes > 0)
                what = "volumes";
        else if (!isempty(spec->image))
                what = "an image of its own";
        else if (!isempty(spec->machine_type))
                what = "a machine type";
        if (what)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The pod asks for %s, which VMs of a pool do not have.", what);
        return 0;
}

static void fill(PeerpodInstance *ret, const char *address, const char *allocation) {
        (void) snprintf(ret->id, sizeof(ret->id), "%s/%s", address, allocation);
        (void) snprintf(ret->type, sizeof(ret->type), "byom");
        (void) snprintf(ret->addresses[0], sizeof(ret->addresses[0]), "%s", address);
        ret->n_addresses = 1;
}

int byom_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        Byom *b = provider;
        _cleanup_(freep) char *allocation = NULL;
        _cleanup_(freep) bool *tried = new0(bool, strv_length(b->addresses) + 1);
        PeerpodError last = { .size = sizeof(PeerpodError) };
        int r;

        if (!tried)
                return oom(error);
        r = check_spec(spec, error);
        if (r == 0)
                r = allocation_id(spec->name, spec->sandbox_id, &allocation, error);
        if (r < 0)
                return r;

        for (;;) {
                Take t = { .b = b, .spec = spec, .allocation = allocation, .tried = tried };
                _cleanup_(freep) char *address = NULL;
                bool touched = false;

                r = pool_change(b, call, take, &t, error);
                address = t.address;
                if (r < 0) {
                        /* The write may have been done, or the entry be an earlier attempt's: take it back, if it is there. */
                        if (r != -EEXIST && r != -ENOSPC)
                                undo(b, call, spec, allocation, /* touched= */ true);
                        if (r == -ENOSPC && !isempty(last.text))
                                return peerpod_error_set(error, (PeerpodErrorKind) last.kind, "No VM of the pool can be used; the last one tried: %.800s",
                                                         last.text);
                        return r;
                }
                if (t.cleaning) {
                        undo(b, call, spec, allocation, /* touched= */ true);
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "VM %s of this sandbox was still being cleaned.", address);
                }

                r = vm_upload(b, call, address, allocation, spec->user_data, spec->user_data_size, &touched, &last);
                if (r == 0) {
                        fill(ret, address, allocation);
                        return 0;
                }
                /* An earlier attempt's VM may have been touched by that. */
                undo(b, call, spec, allocation, touched || !t.is_new);
                if (touched || !t.is_new || r == -ECANCELED || peerpod_call_check(call, NULL) < 0)
                        return peerpod_error_set(error, (PeerpodErrorKind) last.kind, "%s", last.text);
                peerpod_log(call, LOG_WARNING, "%s Trying another one.", last.text);
                set_bad(b, address);
                tried[index_of(b, address)] = true;
        }
}

int byom_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        _cleanup_(freep) char *allocation = NULL;
        Cleaning c = { .name = key->name, .sandbox_id = key->sandbox_id };
        Byom *b = provider;
        int r;

        /* The id is of no use: an address may have another tenant by now. The allocation's own is made of name and sandbox. */
        r = allocation_id(key->name, key->sandbox_id, &allocation, error);
        if (r < 0)
                return r;
        c.allocation = allocation;
        r = take_back(b, call, &c, error);
        free(c.address);
        return r;
}

typedef struct Find {
        const char *node;
        json_object *found;             /* array of [name, sandbox, id] */
} Find;

static int collect(void *userdata, json_object *state, PeerpodError *error) {
        Find *f = userdata;
        json_object *allocated = NULL;

        json_object_put(f->found);
        f->found = json_object_new_array();
        if (!f->found)
                return oom(error);
        (void) json_object_object_get_ex(state, "allocatedIPs", &allocated);
        json_object_object_foreach(allocated, key, entry) {
                json_object *copy;

                /* Those of cloud-api-adaptor have no name: its own controller removes them. */
                if (!streq(entry_get(entry, "nodeName"), f->node) || isempty(entry_get(entry, "instanceName")) || isempty(entry_get(entry, "sandboxID")))
                        continue;
                copy = json_object_get(entry);
                if (json_set_string(copy, "allocationID", key) < 0 || json_object_array_add(f->found, copy) < 0) {
                        json_object_put(copy);
                        return oom(error);
                }
        }
        return 0;
}

int byom_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        Find f = { .node = node };
        int r;

        r = pool_change(provider, call, collect, &f, error);
        for (size_t i = 0; r == 0 && i < json_object_array_length(f.found); i++) {
                json_object *entry = json_object_array_get_idx(f.found, i);
                char id[512];
                PeerpodFoundInstance one = {
                        .size = sizeof(PeerpodFoundInstance),
                        .name = entry_get(entry, "instanceName"),
                        .sandbox_id = entry_get(entry, "sandboxID"),
                        .id = id,
                };

                (void) snprintf(id, sizeof(id), "%s/%s", entry_get(entry, "ip"), entry_get(entry, "allocationID"));
                r = found(userdata, &one);
                if (r > 0)
                        r = 0;
        }
        json_object_put(f.found);
        return r;
}
