/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/source.h"

#include <fcntl.h>
#include <stdio.h>

#include "basic/io.h"
#include "basic/util.h"

#define DMI_DIR "/sys/class/dmi/id"
#define DMI_VALUE_MAX 4096U

/* First match wins. Files come first, as in cloud-api-adaptor: src/cloud-api-adaptor/pkg/userdata/provision.go: whoever can attach a
 * disk may do so on a machine of any cloud, and IBM Cloud has both. */
static const Source *const sources[] = {
        &source_nocloud,
        &source_config_drive,
        &source_aws,
        &source_azure,
        &source_gcp,
        &source_ibm,
        &source_alibaba,
        &source_vsphere,
};

const Source* source_find(const SourceSettings *s) {
        for (size_t i = 0; i < ELEMENTSOF(sources); i++)
                if (sources[i]->detect(s))
                        return sources[i];
        return NULL;
}

/* NULL where there is no such file; most machines that are no PC have none. */
static char* dmi_read(const char *attribute) {
        _cleanup_(freep) char *path = NULL;
        char *value;

        if (asprintf(&path, DMI_DIR "/%s", attribute) < 0 ||
            read_full_file_at(AT_FDCWD, path, DMI_VALUE_MAX, &value, NULL) < 0)
                return NULL;
        value[strcspn(value, "\n")] = '\0';
        return value;
}

bool dmi_is(const char *attribute, const char *value) {
        _cleanup_(freep) char *found = dmi_read(attribute);

        return found && streq(found, value);
}

bool dmi_begins(const char *attribute, const char *prefix) {
        _cleanup_(freep) char *found = dmi_read(attribute);

        return found && startswith(found, prefix);
}
