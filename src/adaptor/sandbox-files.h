/* SPDX-License-Identifier: Apache-2.0 */
/* The run-time files of one sandbox: TLS credentials of both ends, the proxy's settings, the user data of the pod VM.
 *
 * They live in RUNTIME_DIR/SANDBOX/ (0700, files 0600). systemd reads the proxy's four and passes them on as credentials; user-data
 * is there from CreateVM until the instance has been made; "shim" is the adaptor's own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "adaptor/sandbox-record.h"
#include "adaptor/settings.h"
#include "basic/process-id.h"

/**
 * sandbox_files_plan_tls() - fix in the record what the ends of this sandbox will be told of TLS
 *
 * The settings may be others when the proxy is started again, the pod VM is still the same. Returns 0, -ENOMEM.
 */
int sandbox_files_plan_tls(const Settings *settings, SandboxRecord *record);

/**
 * sandbox_files_prepare() - make keys and certificates, write them and the user data
 * @initdata: TOML text from the shim, or NULL: then the node's own, if any
 * @auth:     credentials for registries as docker has them (auth.json), or NULL; secret
 * @size_max: of the user data, as the provider takes it; 0 if that is not known
 *
 * What is there already is replaced. Returns 0, or negative with @error set.
 */
int sandbox_files_prepare(const Settings *settings, const SandboxRecord *record, const char *initdata, const char *auth, uint64_t size_max,
                          sd_bus_error *error);

/* sandbox_files_write_proxy() - proxy.json, once the addresses are known. Makes the directory of the agent's socket, too. */
int sandbox_files_write_proxy(const Settings *settings, const SandboxRecord *record, const char *provider, sd_bus_error *error);

/* sandbox_files_drop_user_data() - the instance has it now; it holds the key of the VM's TLS certificate */
int sandbox_files_drop_user_data(const Settings *settings, const char *id);

/* sandbox_files_are_complete() - all that sandbox_files_prepare() has written */
bool sandbox_files_are_complete(const Settings *settings, const char *id);

/* The process that is the sandbox's shim. Kept here and not in the record, as it means nothing after the next boot. */
int sandbox_files_write_shim(const Settings *settings, const char *id, const ProcessId *shim);
int sandbox_files_read_shim(const Settings *settings, const char *id, ProcessId *ret);  /* -ENOENT, -EBADMSG, … */

/* sandbox_files_get_expiry() - when the first of the certificates that the proxy goes by ends. Returns 0, -ENOENT (no TLS), or
 * another -errno. */
int sandbox_files_get_expiry(const Settings *settings, const char *id, uint64_t *ret_usec);

/* sandbox_files_remove() - nothing there is success */
int sandbox_files_remove(const Settings *settings, const char *id);

/* Newly allocated paths. Return 0, -ENOMEM. */
int sandbox_files_user_data_path(const Settings *settings, const char *id, char **ret);
int sandbox_files_agent_socket(const Settings *settings, const char *id, char **ret);
