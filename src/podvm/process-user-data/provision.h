/* SPDX-License-Identifier: Apache-2.0 */
/* From the text of the user data to the files that the pod VM's services read. */
#pragma once

#include <stddef.h>

#include "podvm/process-user-data/measure.h"

/* Results of provision() that are no errno. */
typedef enum ProvisionResult {
        PROVISION_DONE = 0,
        PROVISION_ALREADY = 1,          /* an earlier run has written the files of this very user data */
} ProvisionResult;

/**
 * provision() - check user data and write its files
 * @text, @size: the cloud-config document
 * @output_dir:  what the allowed paths' directory /run/peerpod stands for; made with mode 0700 if it is not there
 * @measure:     where initdata is bound to the platform, see there
 * @reterr:      one clear sentence on failure, freed by the caller; *@reterr is NULL before. Never quotes content
 *
 * All files or none: they are written under temporary names, synced, and only then renamed, apf.json as the last; whatever was
 * done is undone when a step fails. Only files of a fixed list are written, mode 0600 or tighter where the data asks for it; others
 * are logged and skipped. The data itself is kept in the file "user-data" beside them, and other data than that is refused for the
 * rest of the VM's life.
 *
 * Initdata is unpacked, checked and measured before any file is in its place; without any, the dummy is. Of its files those that are
 * known are written; where it has none of a name, what is in that place is removed.
 *
 * Returns a ProvisionResult; -EBADMSG (the data is not what it should be, or initdata not what was measured), -E2BIG, -EEXIST (provisioned
 * with other data before), -EIO (the TPM does not work), or another -errno of writing the files.
 */
int provision(const char *text, size_t size, const char *output_dir, const MeasureSettings *measure, char **reterr);
