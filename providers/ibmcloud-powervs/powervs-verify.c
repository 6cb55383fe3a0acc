/* SPDX-License-Identifier: Apache-2.0 */
/* What --check asks the cloud. PowerVS has no dry run: that we may read is asked, that we may create is not. */
#include "basic/util.h"
#include "cloud-config.h"
#include "powervs.h"

static int check(PowerVs *p, const PeerpodCall *call, const char *what, const char *path, const char *id, const char *variable, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        char *full;
        int r;

        if (asprintf(&full, "%s/%s", path, id) < 0)
                full = NULL;
        r = powervs_call(p, call, &(PowerVsRequest) { .method = "GET", .what = what, .path = full }, &reply, error);
        if (r < 0 && reply.status == 404)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s '%s' of %s does not exist in this workspace.", what, id, variable);
        return r;
}

int powervs_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(powervs_ids_done) PowerVsIds l = {};
        PowerVs *p = provider;
        int r;

        r = powervs_list(p, call, "", &l, error);
        if (r == 0)
                r = check(p, call, "Image", "/images", p->image, "POWERVS_IMAGE_ID", error);
        if (r == 0)
                r = check(p, call, "Network", "/networks", p->network, "POWERVS_NETWORK_ID", error);
        return r;
}
