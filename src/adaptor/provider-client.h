/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to peerpod-providerd. Strings and the record are borrowed until the call has ended. */
#pragma once

#include "adaptor/link.h"
#include "adaptor/sandbox-record.h"

/**
 * provider_create_instance() - reply "ssas": id, type, addresses
 * @user_data_path: file that goes along as a sealed memfd, read again for each attempt
 * @timeout_usec:   how long the cloud may take; giving up here does not stop the service, DeleteInstance does
 */
int provider_create_instance(Link *provider, const SandboxRecord *record, const char *user_data_path, uint64_t timeout_usec,
                             LinkHandler handler, void *userdata, LinkCall **ret);

/* Reply "" when the instance and all it had is gone. */
int provider_delete_instance(Link *provider, const SandboxRecord *record, LinkHandler handler, void *userdata, LinkCall **ret);

/* Reply "a(sss)": sandbox id, instance name, instance id, of all instances with this node's owner tag. */
int provider_find_instances(Link *provider, const char *node, LinkHandler handler, void *userdata, LinkCall **ret);

/* Reply "v" with "s": the provider's name. */
int provider_get_name(Link *provider, LinkHandler handler, void *userdata, LinkCall **ret);
