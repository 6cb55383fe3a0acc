/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to peerpod-providerd. Strings and the record are borrowed until the call has ended. */
#pragma once

#include "adaptor/service-link.h"
#include "adaptor/sandbox-record.h"

/**
 * provider_create_instance() - reply "ssas": id, type, addresses
 * @user_data_path: file that goes along as a sealed memfd, read again for each attempt
 * @timeout_usec:   how long the cloud may take; giving up here does not stop the service, DeleteInstance does
 */
int provider_create_instance(ServiceLink *provider, const SandboxRecord *record, const char *user_data_path, uint64_t timeout_usec,
                             ServiceHandler handler, void *userdata, ServiceCall **ret);

/* Reply "" when the instance and all it had is gone. */
int provider_delete_instance(ServiceLink *provider, const SandboxRecord *record, ServiceHandler handler, void *userdata, ServiceCall **ret);

/* Reply "a(sss)": sandbox id, instance name, instance id, of all instances with this node's owner tag. */
int provider_find_instances(ServiceLink *provider, const char *node, ServiceHandler handler, void *userdata, ServiceCall **ret);

/* Reply for provider_read_description(): the provider's name, and how much user data it takes, 0 if it does not say. */
int provider_describe(ServiceLink *provider, ServiceHandler handler, void *userdata, ServiceCall **ret);
int provider_read_description(sd_bus_message *m, const char **ret_name, uint64_t *ret_user_data_size_max);

/* Reply "" when the provider's own check of its configuration against the cloud has passed. */
int provider_verify(ServiceLink *provider, ServiceHandler handler, void *userdata, ServiceCall **ret);
