/* SPDX-License-Identifier: Apache-2.0 */
/* Names of instances, as upstream makes them (cloud-api-adaptor: src/cloud-providers/util.go, GenerateInstanceName). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define INSTANCE_NAME_MAX 63    /* a DNS label; the name is also the VM's TLS server name */

/**
 * instance_name_make() - "podvm-POD-SID", both parts in lower case with "-" for what is not of [a-z0-9-], SID the first 8
 * characters of the sandbox id, POD cut so that the whole fits
 * @max: longest name that the cloud takes, at least 16
 * @ret: newly allocated
 *
 * Returns 0, -EINVAL, -ENOMEM.
 */
int instance_name_make(const char *pod_name, const char *sandbox_id, size_t max, char **ret);

/* A DNS label: [a-z0-9-]{1,63}, first and last alphanumeric. */
bool instance_name_is_valid(const char *s);
