/* SPDX-License-Identifier: Apache-2.0 */
/* The elastic public address of the second interface: allocated, tagged and bound by create(), found by its tags and released by
 * remove(), wherever either was cut off. */
#pragma once

#include "alibabacloud-api.h"

/* address_bind() - one of @spec's own is bound to instance @i's second interface; @ret: INET6_ADDRSTRLEN */
int address_bind(Alibaba *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const EcsInstance *i, char *ret, PeerpodError *error);

/* addresses_release() - all of @name and @sandbox_id; returns when they are gone */
int addresses_release(Alibaba *a, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error);
