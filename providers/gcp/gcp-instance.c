/* SPDX-License-Identifier: Apache-2.0 */
/* An instance's name is unique in its zone: it is the token of idempotency. Whose it is stands in its description from the insert on; the labels
 * are for the search. The boot disk goes with the instance, so there is nothing else to be found. */
#include "gcp.h"

#include <syslog.h>

#include "cloud-form.h"
#include "cloud-owner.h"
#include "cloud-user-data.h"

#define UNDO_USEC (120 * USEC_PER_SEC)
#define POLL_USEC USEC_PER_SEC
#define POLL_FIRST_USEC (250 * USEC_PER_MSEC)
#define POLLS_FIRST 8
#define LOOKS_AFTER_UNKNOWN 4           /* an insert whose answer was lost may become visible a little later */
#define PAGE_SIZE 500
#define PAGES_MAX 1000

/* ---- asking ---- */

/* 1: *ret is the instance; 0: there is none */
static int get_instance(Gcp *g, const PeerpodCall *call, const char *name, GcpReply *ret, PeerpodError *error) {
        const GcpQuery q = { .what = "instances.get", .method = "GET", .repeatable = true };
        /* Not its metadata, which hold user data. */
        _cleanup_(freep) char *url = gcp_url(g, "zones/%s/instances/%s?fields=name,status,statusMessage,description,machineType,networkInterfaces", g->zone, name);
        int r;

        r = gcp_query(g, call, &q, url, ret, error);
        if (r < 0 && ret->status == 404)
                return 0;
        return r < 0 ? r : 1;
}

/* "peerpod sandbox=S node=N" → S and N; false: not made by us */
static bool read_owner(json_object *instance, char sandbox_id[static 65], char node[static 254]) {
        const char *description = json_path_string(instance, "description", NULL);

        sandbox_id[0] = node[0] = '\0';
        return description && sscanf(description, "peerpod sandbox=%64[A-Za-z0-9._-] node=%253[A-Za-z0-9._-]", sandbox_id, node) == 2;
}

static bool is_of(json_object *instance, const char *sandbox_id, const char *node) {
        char s[65], n[254];

        return read_owner(instance, s, n) && streq(s, sandbox_id) && (!node || streq(n, node));
}

/* ---- removal ---- */

static int wait_gone(Gcp *g, const PeerpodCall *call, const char *name, PeerpodError *error) {
        for (;;) {
                _cleanup_(gcp_reply_done) GcpReply reply = {};
                int r = get_instance(g, call, name, &reply, error);

                if (r <= 0)
                        return r;
                r = peerpod_call_wait(call, -1, 0, POLL_USEC, error);
                if (r < 0)
                        return r;
        }
}

static int delete_instance(Gcp *g, const PeerpodCall *call, const char *name, PeerpodError *error) {
        const GcpQuery q = { .what = "instances.delete", .method = "DELETE", .repeatable = true };
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        char request_id[OWNER_TOKEN_SIZE], code[GCP_NAME_SIZE];
        _cleanup_(freep) char *url = NULL;
        int r;

        random_token(request_id);
        url = gcp_url(g, "zones/%s/instances/%s?requestId=%s", g->zone, name, request_id);
        r = gcp_query(g, call, &q, url, &reply, error);
        if (r < 0 && reply.status == 404)
                return 0;
        if (r < 0)
                return r;
        r = gcp_wait(g, call, q.what, reply.root, code, error);
        if (r < 0 && error->kind != PEERPOD_E_NOT_FOUND && !streq(code, "RESOURCE_NOT_FOUND"))
                return r;
        return wait_gone(g, call, name, error);
}

static void undo(Gcp *g, const PeerpodCall *call, const PeerpodInstanceSpec *spec, bool unknown) {
        PeerpodCall u = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError e = { .size = sizeof(PeerpodError) };
        int r = 0;

        for (unsigned n = 0; n < (unknown ? LOOKS_AFTER_UNKNOWN : 1); n++) {
                _cleanup_(gcp_reply_done) GcpReply reply = {};

                r = n > 0 ? peerpod_call_wait(&u, -1, 0, POLL_USEC, &e) : 0;
                if (r >= 0)
                        r = get_instance(g, &u, spec->name, &reply, &e);
                if (r > 0 && !is_of(reply.root, spec->sandbox_id, spec->node))
                        return;
                if (r > 0) {
                        r = delete_instance(g, &u, spec->name, &e);
                        break;
                }
        }
        if (r < 0)
                peerpod_log(call, LOG_ERR, "Instance '%s' could not be removed after its creation failed; deleting it will try again: %s", spec->name, e.text);
}

/* ---- creation ---- */

typedef struct Plan {
        char *user_data, *machine_type;
        size_t user_data_size;
        InstanceType type;
        GcpImage image;
        json_object *body;
} Plan;

static void plan_done(Plan *p) {
        erase_free(p->user_data, p->user_data_size);
        free(p->machine_type);
        instance_type_done(&p->type);
        image_done(&p->image);
        if (p->body)
                json_object_put(p->body);
}

/* All that can be known to be wrong, before anything is made. */
static int plan(Gcp *g, const PeerpodCall *call, const PeerpodInstanceSpec *spec, Plan *p, PeerpodError *error) {
        InstanceTypeWish wish = { .spec = spec, .default_type = g->machine_type, .allowed = g->machine_types, .allowed_option = "GCP_INSTANCE_TYPES" };
        const char *image = isempty(spec->image) ? g->image : spec->image;
        int r;

        if ((spec->flags & PEERPOD_INSTANCE_MULTI_NIC) && isempty(g->second_network) && isempty(g->second_subnetwork))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                         "The pod wants a second interface: set GCP_EXTERNAL_NETWORK or GCP_EXTERNAL_SUBNETWORK, another VPC network than GCP_NETWORK's.");
        if (isempty(image))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "No image is set: PODVM_IMAGE_NAME is empty.");
        r = user_data_encode(spec, USER_DATA_BASE64, GCP_USER_DATA_MAX, true, &p->user_data, &p->user_data_size, error);
        if (r == 0)
                r = image_get(g, call, image, &p->image, error);
        wish.architecture = p->image.architecture;
        if (r == 0)
                r = instance_type_cache_choose(g->types, call, &wish, &p->machine_type, &p->type, error);
        if (r < 0)
                return r;
        if (g->confidential && machine_type_has_no_confidential_mode(p->machine_type))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Machine type '%s' has no confidential VMs, and DISABLECVM is not set.", p->machine_type);
        r = disks_check(g, call, spec, error);
        return r < 0 ? r : insert_body(g, spec, p->machine_type, &p->type, &p->image, p->user_data, &p->body, error);
}

/* 0: it is made, or being made; *unknown: it may have been, though this failed */
static int insert(Gcp *g, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const Plan *p, bool *unknown, PeerpodError *error) {
        const GcpQuery q = { .what = "instances.insert", .method = "POST", .body = p->body, .repeatable = true };
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        char request_id[OWNER_TOKEN_SIZE], code[GCP_NAME_SIZE];
        _cleanup_(freep) char *url = NULL;
        int r;

        random_token(request_id);
        url = gcp_url(g, "zones/%s/instances?requestId=%s", g->zone, request_id);
        *unknown = true;
        r = gcp_query(g, call, &q, url, &reply, error);
        if (r < 0) {
                *unknown = reply.unknown;
                /* Its own repetition, or an attempt that was cut off. Whose it is, is asked next. */
                return reply.status == 409 ? 0 : r;
        }
        peerpod_log(call, LOG_INFO, "Instance '%s' is being made, waiting for the operation.", spec->name);
        r = gcp_wait(g, call, q.what, reply.root, code, error);
        if (r < 0 && code[0])           /* the operation has an end: there is no instance that could still appear */
                *unknown = false;
        return r < 0 && streq(code, "RESOURCE_ALREADY_EXISTS") ? 0 : r;
}

static const char* address_of(json_object *nic, bool public) {
        json_object *list = NULL;

        if (!public)
                return json_path_string(nic, "networkIP", NULL);
        if (json_get_array(nic, "accessConfigs", &list, NULL) <= 0 || json_object_array_length(list) == 0)
                return NULL;
        return json_path_string(json_object_array_get_idx(list, 0), "natIP", NULL);
}

/* Whether each interface has its address: then they are in *ret, one of each interface first. */
static bool read_addresses(const Gcp *g, json_object *instance, size_t n_wanted, PeerpodInstance *ret) {
        json_object *nics = NULL;
        size_t n;

        ret->n_addresses = 0;
        if (json_get_array(instance, "networkInterfaces", &nics, NULL) <= 0)
                return false;
        n = json_object_array_length(nics);
        for (size_t i = 0; i < n; i++) {
                const char *address = address_of(json_object_array_get_idx(nics, i), g->public_ip);

                if (isempty(address))
                        return false;
                peerpod_instance_add_address(ret, address);
        }
        for (size_t i = 0; i < n && g->public_ip; i++)
                peerpod_instance_add_address(ret, address_of(json_object_array_get_idx(nics, i), false));
        return n >= n_wanted && ret->n_addresses >= n_wanted;
}

static bool is_over(const char *status) {
        static const char *const over[] = { "STOPPING", "SUSPENDING", "SUSPENDED", "TERMINATED", "STOPPED", "DEPROVISIONING", NULL };

        for (const char *const *s = over; *s; s++)
                if (streq_ptr(status, *s))
                        return true;
        return false;
}

static int wait_running(Gcp *g, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        size_t n_wanted = (spec->flags & PEERPOD_INSTANCE_MULTI_NIC) ? 2 : 1;

        for (unsigned n = 0;; n++) {
                _cleanup_(gcp_reply_done) GcpReply reply = {};
                const char *status, *type, *slash;
                int r = get_instance(g, call, spec->name, &reply, error);

                if (r < 0)
                        return r;
                if (r == 0 && n >= POLLS_FIRST + LOOKS_AFTER_UNKNOWN)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Instance '%s' has gone before it ran.", spec->name);
                if (r > 0) {
                        if (!is_of(reply.root, spec->sandbox_id, spec->node))
                                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "An instance named '%s' exists and belongs to somebody else.", spec->name);
                        status = json_path_string(reply.root, "status", NULL);
                        if (is_over(status))
                                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' has ended before it ran (%.32s): %.256s", spec->name,
                                                         status, strempty(json_path_string(reply.root, "statusMessage", NULL)));
                        if (streq_ptr(status, "RUNNING") && read_addresses(g, reply.root, n_wanted, ret)) {
                                type = strempty(json_path_string(reply.root, "machineType", NULL));
                                slash = strrchr(type, '/');
                                (void) snprintf(ret->id, sizeof(ret->id), "%s", spec->name);
                                (void) snprintf(ret->type, sizeof(ret->type), "%.63s", slash ? slash + 1 : type);
                                return 0;
                        }
                }
                r = peerpod_call_wait(call, -1, 0, n < POLLS_FIRST ? POLL_FIRST_USEC : POLL_USEC, error);
                if (r < 0)
                        return r;
        }
}

/* An earlier attempt's: 1, it goes on; 0, there is none, or none any more */
static int find_earlier(Gcp *g, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        int r;

        r = get_instance(g, call, spec->name, &reply, error);
        if (r <= 0)
                return r;
        if (!is_of(reply.root, spec->sandbox_id, spec->node))
                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "An instance named '%s' exists and belongs to somebody else.", spec->name);
        if (is_over(json_path_string(reply.root, "status", NULL))) {
                r = delete_instance(g, call, spec->name, error);
                return r < 0 ? r : 0;
        }
        peerpod_log(call, LOG_INFO, "Instance '%s' exists already.", spec->name);
        return 1;
}

int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(plan_done) Plan p = {};
        Gcp *g = provider;
        bool made, unknown = false;
        int r;

        r = plan(g, call, spec, &p, error);
        if (r < 0)
                return r;
        r = find_earlier(g, call, spec, error);
        if (r < 0)
                return r;
        made = r > 0;
        if (!made) {
                r = insert(g, call, spec, &p, &unknown, error);
                made = true;
        }
        if (r >= 0)
                r = wait_running(g, call, spec, ret, error);
        if (r < 0 && made && error->kind != PEERPOD_E_ALREADY_EXISTS)
                undo(g, call, spec, unknown);
        return r < 0 ? r : 0;
}

/* ---- remove(), find() ---- */

int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        Gcp *g = provider;
        int r;

        r = get_instance(g, call, key->name, &reply, error);
        if (r <= 0)
                return r;
        if (!is_of(reply.root, key->sandbox_id, NULL))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Instance '%s' belongs to somebody else.", key->name);
        return delete_instance(g, call, key->name, error);
}

static int report(json_object *instance, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        const char *name = json_path_string(instance, "name", NULL);
        char sandbox_id[65], its_node[254];

        if (!name || !read_owner(instance, sandbox_id, its_node) || !streq(its_node, node))
                return 0;
        if (found(userdata, &(PeerpodFoundInstance) { .size = sizeof(PeerpodFoundInstance), .name = name, .sandbox_id = sandbox_id, .id = name }) < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of instances was refused.");
        return 0;
}

/* One page; *token is the next one's, or NULL */
static int find_page(Gcp *g, const PeerpodCall *call, const char *node, char **token, PeerpodFound found, void *userdata, PeerpodError *error) {
        const GcpQuery q = { .what = "instances.list", .method = "GET", .repeatable = true };
        _cleanup_(gcp_reply_done) GcpReply reply = {};
        _cleanup_(form_done) Form form = {};
        _cleanup_(freep) char *url = NULL;
        json_object *items = NULL;
        char digest[OWNER_DIGEST_SIZE];
        const char *text, *next;
        int r;

        owner_digest(node, digest);
        form_addf(&form, "filter", "labels." OWNER_TAG_NODE "=%s", digest);
        form_addf(&form, "maxResults", "%i", PAGE_SIZE);
        form_add(&form, "fields", "nextPageToken,items(name,description)");
        form_add(&form, "pageToken", *token);
        text = form_text(&form);
        if (text)
                url = gcp_url(g, "zones/%s/instances?%s", g->zone, text);
        free(*token);
        *token = NULL;
        r = gcp_query(g, call, &q, url, &reply, error);
        if (r < 0)
                return r;
        if (json_get_array(reply.root, "items", &items, NULL) > 0)
                for (size_t i = 0; i < json_object_array_length(items) && r >= 0; i++)
                        r = report(json_object_array_get_idx(items, i), node, found, userdata, error);
        next = json_path_string(reply.root, "nextPageToken", NULL);
        if (r >= 0 && !isempty(next)) {
                *token = strdup(next);
                if (!*token)
                        r = oom(error);
        }
        return r;
}

int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        _cleanup_(freep) char *token = NULL;
        int r = 0;

        for (unsigned n = 0; r >= 0 && (n == 0 || token); n++) {
                if (n == PAGES_MAX)
                        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of instances does not end.");
                r = find_page(provider, call, node, &token, found, userdata, error);
        }
        return r < 0 ? r : 0;
}
