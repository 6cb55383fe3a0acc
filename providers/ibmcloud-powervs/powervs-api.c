/* SPDX-License-Identifier: Apache-2.0 */
#include <json-c/json.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "powervs.h"

#define GET_USEC (UINT64_C(60) * 1000000)
#define SERVERS_MAX 100000
#define PAUSE_USEC UINT64_C(250000)
#define PAUSE_MAX_USEC UINT64_C(5000000)

/* The account is the API key's; it is asked for once. */
static int crn_of(PowerVs *p, const PeerpodCall *call, char **ret, PeerpodError *error) {
        const char *account = p->account;
        int r;

        if (isempty(account)) {
                r = iam_account(p->iam, call, &account, error);
                if (r < 0)
                        return r;
        }
        if (asprintf(ret, "crn:v1:%s:public:power-iaas:%s:a/%s:%s::", p->crn_cloud, p->zone, account, p->service_instance) < 0) {
                *ret = NULL;
                return oom(error);
        }
        return 0;
}

int powervs_call(PowerVs *p, const PeerpodCall *call, const PowerVsRequest *q, IbmReply *ret, PeerpodError *error) {
        _cleanup_(freep) char *crn = NULL, *path = q->path;
        int r;

        *ret = (IbmReply) {};
        r = path ? crn_of(p, call, &crn, error) : oom(error);
        if (r < 0) {
                json_object_put(q->body);
                return r;
        }
        return ibm_call(&p->api, call, &(IbmRequest) {
                .method = q->method,
                .what = q->what,
                .url = ibm_url(p->url, "/pcloud/v1/cloud-instances/%s%s", p->service_instance, path),
                .body = q->body,
                .array = q->array,
                .timeout_usec = q->timeout_usec ?: GET_USEC,
                .header = "CRN",
                .header_value = crn,
        }, ret, error);
}

static char* path_of(const char *id) {
        char *path;

        return asprintf(&path, "/pvm-instances/%s", id) < 0 ? NULL : path;
}

int powervs_get_instance(PowerVs *p, const PeerpodCall *call, const char *id, IbmReply *ret, PeerpodError *error) {
        int r = powervs_call(p, call, &(PowerVsRequest) { .method = "GET", .what = "Instance", .path = path_of(id) }, ret, error);

        if (r == 0 && !ret->body)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Instance: the answer is empty.");
        return r;
}

static int note(PowerVsIds *l, json_object *server) {
        const char *id;

        if (!json_object_is_type(server, json_type_object))
                return -EBADMSG;
        if (l->name && strcasecmp(json_path_string(server, "serverName", ""), l->name) != 0)
                return 0;
        id = json_path_string(server, "pvmInstanceID", "");
        if (!ibm_id_is_valid(id))
                return -EBADMSG;
        if (grow_array(&l->ids, l->n, SERVERS_MAX, sizeof(char*)) < 0)
                return -ENOMEM;
        l->ids[l->n] = strdup(id);
        return l->ids[l->n++] ? 0 : -ENOMEM;
}

void powervs_ids_done(PowerVsIds *l) {
        for (size_t i = 0; i < l->n; i++)
                free(l->ids[i]);
        free(l->ids);
        *l = (PowerVsIds) {};
}

int powervs_list(PowerVs *p, const PeerpodCall *call, const char *name, PowerVsIds *ret, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        _cleanup_(powervs_ids_done) PowerVsIds l = { .name = name };
        json_object *servers;
        int r;

        r = powervs_call(p, call, &(PowerVsRequest) { .method = "GET", .what = "Find instances", .path = strdup("/pvm-instances") }, &reply, error);
        if (r < 0)
                return r;
        if (!reply.body || json_get_array(reply.body, "pvmInstances", &servers, NULL) <= 0)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Find instances: the answer is not as the API says.");
        for (size_t i = 0; i < json_object_array_length(servers) && r == 0; i++)
                r = note(&l, json_object_array_get_idx(servers, i));
        if (r == -EBADMSG)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Find instances: the answer is not as the API says.");
        if (r < 0)
                return oom(error);
        *ret = l;
        l = (PowerVsIds) {};
        return 0;
}

int powervs_pause(const PeerpodCall *call, uint64_t *usec, PeerpodError *error) {
        *usec = *usec == 0 ? PAUSE_USEC : MIN(*usec * 3 / 2, PAUSE_MAX_USEC);
        return peerpod_call_wait(call, -1, 0, *usec, error);
}
