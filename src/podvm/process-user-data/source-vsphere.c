/* SPDX-License-Identifier: Apache-2.0 */
/* vSphere: guestinfo.userdata and guestinfo.userdata.encoding of the VM's extraConfig, which cloud-api-adaptor sets
 * (src/cloud-providers/vsphere/provider.go), with the encodings of cloud-init's VMware datasource. */
#include "podvm/process-user-data/vsphere.h"

#include "basic/error-text.h"
#include "basic/util.h"
#include "podvm/process-user-data/guestinfo.h"
#include "podvm/process-user-data/source.h"
#include "userdata/cloud-config.h"
#include "userdata/decode.h"

#define KEY "guestinfo.userdata"
#define VALUE_SIZE_MAX (2 * CLOUD_CONFIG_SIZE_MAX)
#define ENCODING_SIZE_MAX 64U

static const struct {
        const char *name;
        bool base64, gzip;
} encodings[] = {
        { "",            false, false },
        { "base64",      true,  false },
        { "b64",         true,  false },
        { "gzip+base64", true,  true  },
        { "gz+b64",      true,  true  },
};

static bool is_absent(const char *value, size_t size) {
        while (size > 0 && strchr(" \t\r\n", value[size - 1]))
                size--;
        return size == 0 || (size == 3 && memcmp(value, "---", 3) == 0);        /* "---": cloud-init has taken it away */
}

int vsphere_decode(const char *encoding, const char *value, size_t size, char **ret, size_t *ret_size, char **reterr) {
        char *data = NULL, *unpacked;
        size_t i, n = size;
        int r;

        if (is_absent(value, size))
                return error_text(reterr, -EAGAIN, "it is empty");
        for (i = 0; i < ELEMENTSOF(encodings); i++)
                if (streq(encoding, encodings[i].name))
                        break;
        if (i == ELEMENTSOF(encodings))
                return error_text(reterr, -EOPNOTSUPP, "its encoding is neither base64 nor gzip+base64");

        if (encodings[i].base64) {
                r = base64_decode(value, size, &data, &n);
                if (r < 0)
                        return r == -EBADMSG ? error_text(reterr, r, "it is no base64") : r;
        }
        if (encodings[i].gzip) {
                r = gzip_decode(data, n, CLOUD_CONFIG_SIZE_MAX, &unpacked, &size);
                erase_free(data, n);
                if (r < 0)
                        return r == -EBADMSG ? error_text(reterr, r, "it is no gzip file, or cut off") :
                                r == -E2BIG ? error_text(reterr, r, "it is too big when it is unpacked") : r;
                data = unpacked;
                n = size;
        }
        if (!data) {
                data = malloc(n + 1);
                if (!data)
                        return -ENOMEM;
                memcpy(data, value, n);
                data[n] = '\0';
        }

        if (n == 0 || n > CLOUD_CONFIG_SIZE_MAX) {
                erase_free(data, n);
                return n == 0 ? error_text(reterr, -EAGAIN, "it is empty") : error_text(reterr, -E2BIG, "it is too big");
        }
        *ret = data;
        *ret_size = n;
        return 0;
}

static bool vsphere_detect(const SourceSettings *s) {
        return dmi_begins("product_name", "VMware");
}

static int vsphere_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        _cleanup_(freep) char *encoding = NULL, *why = NULL;
        char *value;
        size_t size, n;
        int r;

        r = guestinfo_get(backdoor_call, KEY, VALUE_SIZE_MAX, &value, &size, &why);
        if (r < 0)
                return error_text(reterr, r == -ENODATA ? -EAGAIN : r, KEY ": %s", why ?: strerror(-r));

        r = guestinfo_get(backdoor_call, KEY ".encoding", ENCODING_SIZE_MAX, &encoding, &n, &why);
        if (r < 0 && r != -ENODATA)
                (void) error_text(reterr, r, KEY ".encoding: %s", why ?: strerror(-r));
        else {
                free(why);
                why = NULL;
                r = vsphere_decode(strempty(encoding), value, size, ret, ret_size, &why);
                if (r < 0)
                        (void) error_text(reterr, r, KEY ": %s", why ?: strerror(-r));
        }
        erase_free(value, size);
        return r;
}

/* The backdoor answers every program in the VM, containers' included, without asking for any privilege. "---" as cloud-init leaves it
 * (cloudinit/sources/DataSourceVMware.py). */
static int vsphere_erase(const SourceSettings *s, char **reterr) {
        _cleanup_(freep) char *why = NULL;
        int r;

        r = guestinfo_set(backdoor_call, KEY, "---", &why);
        return r < 0 ? error_text(reterr, r, KEY ": %s", why ?: strerror(-r)) : 0;
}

const Source source_vsphere = {
        .name = "vSphere guestinfo",
        .detect = vsphere_detect,
        .fetch = vsphere_fetch,
        .erase = vsphere_erase,
};
