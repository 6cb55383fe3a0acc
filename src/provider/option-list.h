/* SPDX-License-Identifier: Apache-2.0 */
/* A module's options for other programs: chart generators, documentation. */
#pragma once

#include <stdio.h>

#include "provider/peerpod-provider.h"

/* option_list_print() - as JSON, in the form of upstream's tool (cloud-api-adaptor: src/cloud-providers/cmd/config-extractor/main.go) but for
 * the names of fields in its source. Returns 0, -ENOMEM, -EIO. */
int option_list_print(const PeerpodProvider *module, FILE *f);
