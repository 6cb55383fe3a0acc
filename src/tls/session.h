/* SPDX-License-Identifier: Apache-2.0 */
/* TLS by GnuTLS on non-blocking sockets: a context (keys, trust, versions) and one session for each connection.
 *
 * A session has a buffer on either side of GnuTLS: one recv() takes in many records, one send() takes out many. So bytes
 * may be inside the session which no poll on the descriptor will ever report: whoever reads goes on until -EAGAIN or
 * asks tls_session_has_input(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/cleanup.h"

typedef struct TlsContext TlsContext;
typedef struct TlsSession TlsSession;

#define TLS_FINGERPRINT_SIZE 32U

typedef enum TlsVersion {
        TLS_VERSION_1_2,
        TLS_VERSION_1_3,
        _TLS_VERSION_MAX,
        _TLS_VERSION_INVALID = -22, /* -EINVAL */
} TlsVersion;

/* "VersionTLS12" and "VersionTLS13", as Kubernetes spells them; anything else is _TLS_VERSION_INVALID. */
TlsVersion tls_version_from_string(const char *s);
const char* tls_version_to_string(TlsVersion v);

/**
 * tls_profile_check() - may this version and these cipher suites be asked for
 * @reterr: as of tls_context_new()
 *
 * Returns 0, -EINVAL, -ENOMEM.
 */
int tls_profile_check(TlsVersion min_version, char *const *cipher_suites, char **reterr);

/**
 * tls_profile_get_priority() - the same choice as a priority string of GnuTLS, for a library that does TLS itself
 * @ret:         newly allocated
 * @ret_allowed: strv for tls_profile_allows(), or NULL: the string cannot say all that a list of suites does
 */
int tls_profile_get_priority(TlsVersion min_version, char *const *cipher_suites, char **ret, char ***ret_allowed, char **reterr);

/* tls_profile_allows() - may one go on with a session (a gnutls_session_t) after its handshake */
bool tls_profile_allows(char *const *allowed, void *session);

typedef struct TlsSettings {
        bool server;
        const char *key;                        /* PEM; both or neither on a client, needed on a server */
        const char *cert;                       /* PEM, leaf first */
        const char *trust;                      /* PEM: the peer's chain ends in one of these, or is one of these; needed */
        TlsVersion min_version;
        char *const *cipher_suites;             /* IANA names, for TLS 1.2 only, or NULL; NULL-terminated */
        bool skip_verify;                       /* client only: any server certificate will do; testing */
        const char *alpn;                       /* the one protocol offered (client) or known (server), a constant; NULL: none */
} TlsSettings;

/**
 * tls_context_new() - check and load keys, trust and versions
 * @ret:    the context; any number of sessions share it, it never changes
 * @reterr: a text for people, only on failure, freed by the caller; never contains key material
 *
 * Returns 0, -EINVAL (versions or suites), -ENOKEY (something needed is missing), -EBADMSG (bad PEM, key does not match),
 * -ENOMEM.
 */
int tls_context_new(const TlsSettings *settings, TlsContext **ret, char **reterr);
TlsContext* tls_context_ref(TlsContext *c);
TlsContext* tls_context_unref(TlsContext *c);
DEFINE_CLEANUP(TlsContext*, tls_context_unref);

/**
 * tls_session_new() - a session on a connected, non-blocking socket
 * @fd:          borrowed; outlives the session
 * @server_name: the name that the server's certificate must carry; NULL on a server
 */
int tls_session_new(TlsContext *context, int fd, const char *server_name, TlsSession **ret);
TlsSession* tls_session_free(TlsSession *s);
DEFINE_CLEANUP(TlsSession*, tls_session_free);

/* 1: done, the peer is who it must be. 0: wait for the descriptor (writable too if tls_session_has_output()). */
int tls_session_handshake(TlsSession *s);

/* The descriptor was reported readable: recv() is worth a try again. */
void tls_session_set_readable(TlsSession *s);

/* Returns the bytes read, 0 at the peer's orderly end, -EAGAIN, -ECONNRESET for an end without goodbye, or another error. */
ssize_t tls_session_read(TlsSession *s, void *buf, size_t size);

/* Returns the bytes taken (encrypted, and sent or kept), or -EAGAIN if none could be taken. */
ssize_t tls_session_write(TlsSession *s, const void *buf, size_t size);

/* Sends what is kept. 0: nothing is kept any more. -EAGAIN: wait for the descriptor to be writable. */
int tls_session_flush(TlsSession *s);

/* Says goodbye (close_notify), as far as the socket takes it at once. */
void tls_session_bye(TlsSession *s);

bool tls_session_has_input(const TlsSession *s);        /* no poll will report these */
size_t tls_session_has_output(const TlsSession *s);     /* encrypted bytes that wait for the socket */
const char* tls_session_error(const TlsSession *s);     /* why the last call failed, for people; NULL: there is no more to say than its errno */
bool tls_session_has_alpn(const TlsSession *s);         /* both know the context's .alpn */

/* SHA-256 of the peer's certificate. 0, -ENOENT (it has none), or another -errno. */
int tls_session_get_fingerprint(const TlsSession *s, uint8_t ret[TLS_FINGERPRINT_SIZE]);
const char* tls_session_describe(const TlsSession *s);  /* "TLS1.3 TLS_AES_128_GCM_SHA256"; valid as long as the session */
