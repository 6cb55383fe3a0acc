/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

/* vsphere_decode() - the value of guestinfo.userdata, by that of guestinfo.userdata.encoding ("" if there is none); as Source.fetch() */
int vsphere_decode(const char *encoding, const char *value, size_t size, char **ret, size_t *ret_size, char **reterr);
