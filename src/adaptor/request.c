/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/request.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "adaptor/sandbox-record.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

#define CRI "io.kubernetes.cri."
#define HYPERVISOR "io.katacontainers.config.hypervisor."

/* upstream cuts the pod's part to the limit less this: "podvm-" and "-" and eight characters */
#define INSTANCE_NAME_FIXED 15U
#define INSTANCE_NAME_ID 8U

static int refuse(char **ret_error, const char *format, ...) PRINTF(2, 3);
static int refuse(char **ret_error, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        if (vasprintf(ret_error, format, ap) < 0)
                *ret_error = NULL;
        va_end(ap);

        return -EINVAL;
}

static int set_text(char **field, const char *key, const char *value, size_t size_max, char **ret_error) {
        char *copy;

        if (!text_is_plain(value, size_max))
                return refuse(ret_error, "value of annotation '%s' is not plain text of at most %zu bytes", key, size_max);

        copy = strdup(value);
        if (!copy)
                return -ENOMEM;

        free(*field);
        *field = copy;
        return 0;
}

/* runtime-rs sends fractions ("1.5"), both send "0" for "not known" (kata-containers: src/runtime-rs/crates/hypervisor/src/remote). */
static int parse_number(const char *key, const char *value, uint64_t max, uint64_t *ret, char **ret_error) {
        uint64_t v;
        int r;

        r = parse_decimal_ceil(value, &v);
        if (r == -EINVAL)
                return refuse(ret_error, "value of annotation '%s' is not a decimal number", key);
        if (r < 0 || v > max)
                return refuse(ret_error, "value of annotation '%s' is larger than %" PRIu64, key, max);

        *ret = v;
        return 0;
}

/* Whose volumes are attached hangs on it. */
static int set_pod_uid(CreateRequest *request, const char *key, const char *value, char **ret_error) {
        char *copy;

        if (!sandbox_id_is_valid(value))
                return refuse(ret_error, "value of annotation '%s' is no UID", key);
        copy = strdup(value);
        if (!copy)
                return -ENOMEM;
        free(request->pod_uid);
        request->pod_uid = copy;
        return 0;
}

static int set_u32(uint32_t *field, const char *key, const char *value, uint64_t max, char **ret_error) {
        uint64_t v;
        int r;

        r = parse_number(key, value, max, &v, ret_error);
        if (r < 0)
                return r;

        *field = v;
        return 0;
}

/* CRI-O has k8s_POD_NAMESPACE_UID_ATTEMPT where containerd has the pod's name; no part can hold an underscore. */
static int set_pod_name(CreateRequest *request, const char *key, const char *value, char **ret_error) {
        _cleanup_(freep) char *name = NULL;
        const char *rest, *end, *uid;
        int r;

        rest = startswith(value, "k8s_");
        if (!rest)
                return set_text(&request->pod_name, key, value, POD_NAME_MAX, ret_error);

        end = strchrnul(rest, '_');
        name = strndup(rest, end - rest);
        if (!name)
                return -ENOMEM;
        r = set_text(&request->pod_name, key, name, POD_NAME_MAX, ret_error);
        if (r < 0)
                return r;

        uid = *end ? strchr(end + 1, '_') : NULL;
        if (!uid || uid[1] == '\0' || uid[1] == '_')
                return 0;
        uid++;
        free(name);
        name = strndup(uid, strchrnul(uid, '_') - uid);
        if (!name)
                return -ENOMEM;
        return set_pod_uid(request, key, name, ret_error);
}

/* Only size and coding are checked here: what the text means is between the pod's author and the pod VM. */
static int set_initdata(CreateRequest *request, const char *key, const char *value, char **ret_error) {
        size_t size = strlen(value);
        char *copy;

        if (size > REQUEST_INITDATA_MAX)
                return refuse(ret_error, "value of annotation '%s' has %zu bytes, at most %" PRIu32 " are allowed",
                              key, size, REQUEST_INITDATA_MAX);

        copy = strdup(value);
        if (!copy)
                return -ENOMEM;

        free(request->initdata);
        request->initdata = copy;
        return 0;
}

int create_request_add(CreateRequest *request, const char *key, const char *value, char **ret_error) {
        *ret_error = NULL;

        if (value[0] == '\0')
                return 0;               /* kata sends all nine keys, known or not */

        if (streq(key, CRI "sandbox-name"))
                return set_pod_name(request, key, value, ret_error);
        if (streq(key, CRI "sandbox-uid"))
                return set_pod_uid(request, key, value, ret_error);
        if (streq(key, CRI "sandbox-namespace"))
                return set_text(&request->pod_namespace, key, value, POD_NAME_MAX, ret_error);
        if (streq(key, HYPERVISOR "machine_type"))
                return set_text(&request->machine_type, key, value, REQUEST_TEXT_MAX, ret_error);
        if (streq(key, HYPERVISOR "image"))
                return set_text(&request->image, key, value, REQUEST_TEXT_MAX, ret_error);
        if (streq(key, HYPERVISOR "default_gpu_model"))
                return set_text(&request->gpu_model, key, value, REQUEST_TEXT_MAX, ret_error);
        if (streq(key, HYPERVISOR "default_vcpus"))
                return set_u32(&request->vcpus, key, value, REQUEST_VCPUS_MAX, ret_error);
        if (streq(key, HYPERVISOR "default_gpus"))
                return set_u32(&request->gpus, key, value, REQUEST_GPUS_MAX, ret_error);
        if (streq(key, HYPERVISOR "default_memory"))
                return parse_number(key, value, REQUEST_MEMORY_MIB_MAX, &request->memory_mib, ret_error);
        if (streq(key, HYPERVISOR "cc_init_data"))
                return set_initdata(request, key, value, ret_error);

        return 0;
}

int create_request_check(const CreateRequest *request, char **ret_error) {
        *ret_error = NULL;

        if (isempty(request->pod_name))
                return refuse(ret_error, "pod name %s is missing in annotations", CRI "sandbox-name");
        if (isempty(request->pod_namespace))
                return refuse(ret_error, "namespace name %s is missing in annotations", CRI "sandbox-namespace");

        return 0;
}

void create_request_done(CreateRequest *request) {
        free(request->pod_name);
        free(request->pod_namespace);
        free(request->pod_uid);
        free(request->machine_type);
        free(request->image);
        free(request->gpu_model);
        free(request->initdata);
        *request = CREATE_REQUEST_NULL;
}

static void sanitize(char *s) {
        for (; *s; s++) {
                *s = tolower((unsigned char) *s);
                if (!(*s >= 'a' && *s <= 'z') && !(*s >= '0' && *s <= '9') && *s != '-')
                        *s = '-';
        }
}

/* FNV-1a: no secret, no adversary, it only has to tell apart the few sandboxes of one node. */
static uint32_t hash_id(const char *id) {
        uint32_t h = UINT32_C(2166136261);

        for (; *id; id++)
                h = (h ^ (uint8_t) *id) * UINT32_C(16777619);
        return h;
}

int instance_name_make(const char *pod_name, const char *sandbox_id, char **ret) {
        char part[INSTANCE_NAME_ID + 1];
        char *name;

        if (strspn(sandbox_id, "0123456789abcdef") >= INSTANCE_NAME_ID)
                (void) snprintf(part, sizeof(part), "%s", sandbox_id);
        else
                (void) snprintf(part, sizeof(part), "%08" PRIx32, hash_id(sandbox_id));

        if (asprintf(&name, "podvm-%.*s-%s", (int) (INSTANCE_NAME_MAX - INSTANCE_NAME_FIXED), pod_name, part) < 0)
                return -ENOMEM;
        sanitize(name);

        *ret = name;
        return 0;
}

bool addresses_are_valid(char *const *addresses) {
        if (strv_length(addresses) > SANDBOX_ADDRESSES_MAX)
                return false;

        for (char *const *a = addresses; a && *a; a++) {
                struct in6_addr binary;

                if (inet_pton(AF_INET, *a, &binary) != 1 && inet_pton(AF_INET6, *a, &binary) != 1)
                        return false;
        }

        return true;
}
