/* SPDX-License-Identifier: Apache-2.0 */
/* CSI volumes: cloud disks that others made, attached to the running instance one after another, so that the VM has them in this order.
 * Releasing the instance detaches them. */
#pragma once

#include "alibabacloud-api.h"

#define DISKS_MAX 16                    /* data disks of an instance (Ecs 2014-05-26, limits) */

int disks_check(const PeerpodInstanceSpec *spec, PeerpodError *error);
int disks_attach(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *instance_id, PeerpodError *error);
