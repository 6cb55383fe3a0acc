/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/source.h"

#include "basic/util.h"

/* First match wins. The seed comes first, as in cloud-api-adaptor: src/cloud-api-adaptor/pkg/userdata/provision.go: whoever
 * can attach a disk may do so on a machine of any cloud. */
static const Source *const sources[] = {
        &source_nocloud,
};

const Source* source_find(const SourceSettings *s) {
        for (size_t i = 0; i < ELEMENTSOF(sources); i++)
                if (sources[i]->detect(s) != 0)
                        return sources[i];
        return NULL;
}
