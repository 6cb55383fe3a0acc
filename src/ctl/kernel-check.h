/* SPDX-License-Identifier: Apache-2.0 */
/* Does this kernel have what a tunnel is made of? Tried in a network namespace that ends with the try. */
#pragma once

#include "ctl/findings.h"

/* Returns 0, -ENOMEM. Needs root; says so otherwise. */
int kernel_check(Findings *f);
