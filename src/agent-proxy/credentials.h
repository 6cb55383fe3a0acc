/* SPDX-License-Identifier: Apache-2.0 */
/* What the proxy is started with: the files that the adaptor has put into its credentials directory. */
#pragma once

#include "agent-proxy/proxy-config.h"
#include "basic/log.h"
#include "tls/session.h"

/**
 * credentials_read_config() - read proxy.json
 * @sandbox_id: whose it must be
 * @log:        gets the fields that name the sandbox, its pod and its instance, as far as they are known
 * @ret:        untouched on failure; proxy_config_done()
 *
 * Returns 0, EXIT_CONFIGURATION or -ENOMEM; has logged what is wrong.
 */
int credentials_read_config(int dir_fd, const char *sandbox_id, LogContext *log, ProxyConfig *ret);

/**
 * credentials_read_tls() - read client.key, client.crt and server-ca.crt
 * @ret: tls_context_unref(); untouched on failure, and where @config wants no TLS
 *
 * Returns 0, EXIT_CONFIGURATION or -ENOMEM; has logged what is wrong.
 */
int credentials_read_tls(int dir_fd, const ProxyConfig *config, const LogContext *log, TlsContext **ret);
