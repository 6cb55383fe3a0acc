/* SPDX-License-Identifier: Apache-2.0 */
/* apf.json: what the worker tells agent-protocol-forwarder and pod-network in the VM. */
#pragma once

#include <stddef.h>

#include "basic/cleanup.h"

#define APF_SIZE_MAX ((size_t) 1 << 20)         /* the text */
#define APF_PEM_MAX ((size_t) 64 << 10)         /* each of key, certificate, CA */
#define APF_STRING_MAX ((size_t) 1024)          /* every other string */
#define APF_CIPHER_SUITES_MAX 64U

/* All strings are owned. A NULL string is a key that is absent (or null). */
typedef struct ApfConfig {
        char *pod_network;              /* JSON text of the object "pod-network"; NULL = null */
        char *pod_namespace;
        char *pod_name;
        char *tls_server_key;           /* PEM; secret */
        char *tls_server_cert;          /* PEM */
        char *tls_client_ca;            /* PEM; may be the client certificate itself */
        char *tls_min_version;          /* "VersionTLS12" or "VersionTLS13" */
        char **tls_cipher_suites;       /* IANA names, NULL-terminated; NULL = key absent */
} ApfConfig;

#define APF_CONFIG_NULL (ApfConfig) {}

/**
 * apf_config_format() - write apf.json as upstream does: order of keys, four spaces, no final newline
 * @c:      pod_network is parsed and written out again in the layout of the rest
 * @ret:    text with a NUL behind it, erased and freed by the caller (it holds the server's key)
 * @reterr: filled on failure only, freed by the caller; names the key. May be NULL, and *@reterr
 *          must be NULL before: some failures, such as no memory, have no text
 *
 * Source: cloud-api-adaptor: src/cloud-api-adaptor/pkg/forwarder/forwarder.go (Config) and Go's
 * json.MarshalIndent. pod-network, pod-namespace and pod-name are always written, the others when they are set.
 * Any text is represented: what JSON or a cloud-config block could not carry is escaped.
 *
 * Returns 0, -EINVAL (no UTF-8, pod_network is no JSON object, unknown TLS version), -E2BIG, -ENOMEM.
 */
int apf_config_format(const ApfConfig *c, char **ret, size_t *ret_size, char **reterr);

/**
 * apf_config_parse() - read apf.json, upstream's or ours
 * @data:   need not end in NUL
 * @ret:    untouched on failure; apf_config_done() when done with it
 * @reterr: filled on failure only, freed by the caller; names the key, never a value. May be NULL
 *
 * Unknown keys are ignored. The TLS version and cipher suites are trimmed, and suites without a name dropped
 * (cloud-api-adaptor: src/cloud-api-adaptor/pkg/util/tlsconfig). Whether PEM texts are any good is for the TLS library to say; here they are only
 * strings with a bound and without NUL. Whether a missing key is an error is for the caller to say.
 *
 * Returns 0, -EBADMSG (no JSON object, wrong type, unknown TLS version), -E2BIG (a limit above), -ENOMEM.
 */
int apf_config_parse(const void *data, size_t size, ApfConfig *ret, char **reterr);

/* Frees everything, the key erased; the object may be used again. */
void apf_config_done(ApfConfig *c);
