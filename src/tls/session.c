/* SPDX-License-Identifier: Apache-2.0 */
#include "tls/session.h"

#include <gnutls/gnutls.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "basic/strv.h"
#include "basic/util.h"

#define RECORD_MAX 16384U               /* plain bytes of a full record: RFC 8446, section 5.1 */
#define IN_SIZE (64U * 1024U)           /* one recv() */
#define OUT_LIMIT (64U * 1024U)         /* no new record is made above this */
#define OUT_SIZE (OUT_LIMIT + 2U * (RECORD_MAX + 512U)) /* room for that record and for what GnuTLS sends of itself */

struct TlsContext {
        unsigned n_refs;
        bool server;
        bool skip_verify;
        const char *alpn;               /* borrowed, a constant */
        gnutls_certificate_credentials_t credentials;
        gnutls_priority_t priority;
        char **suites;                  /* allowed ones of TLS 1.2; NULL = any of ours */
};

struct TlsSession {
        TlsContext *context;
        gnutls_session_t session;
        int fd;                         /* borrowed */
        bool maybe_readable;            /* recv() may give something */
        bool eof;                       /* recv() said 0 */
        bool ended;                     /* the peer has said goodbye */
        bool verified;
        int io_error;                   /* errno of the socket, sticky */
        int deferred;                   /* what GnuTLS said after bytes that had to be handed out first */
        char *server_name;
        gnutls_typed_vdata_st expected[2];

        uint8_t *in;
        size_t in_start, in_end;
        uint8_t *out;
        size_t out_start, out_end;

        char error[256];
        char description[96];
};

/* Cipher suites of TLS 1.2 by their IANA names: those that Go's crypto/tls lists as secure (golang/go:
 * src/crypto/tls/cipher_suites.go), in the terms of GnuTLS. */
static const struct {
        const char *iana, *key_exchange, *cipher, *mac;
} suites[] = {
        { "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",       "ECDHE-ECDSA", "AES-128-GCM",       "AEAD" },
        { "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",       "ECDHE-ECDSA", "AES-256-GCM",       "AEAD" },
        { "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA", "CHACHA20-POLY1305", "AEAD" },
        { "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",         "ECDHE-RSA",   "AES-128-GCM",       "AEAD" },
        { "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",         "ECDHE-RSA",   "AES-256-GCM",       "AEAD" },
        { "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",   "ECDHE-RSA",   "CHACHA20-POLY1305", "AEAD" },
        { "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",          "ECDHE-ECDSA", "AES-128-CBC",       "SHA1" },
        { "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",          "ECDHE-ECDSA", "AES-256-CBC",       "SHA1" },
        { "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",            "ECDHE-RSA",   "AES-128-CBC",       "SHA1" },
        { "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",            "ECDHE-RSA",   "AES-256-CBC",       "SHA1" },
};

/* Allowed in a list, without effect: the suites of TLS 1.3 are not a matter of choice there either. */
static const char *const suites_1_3[] = { "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256" };

static const char *const version_table[_TLS_VERSION_MAX] = {
        [TLS_VERSION_1_2] = "VersionTLS12",
        [TLS_VERSION_1_3] = "VersionTLS13",
};

TlsVersion tls_version_from_string(const char *s) {
        for (TlsVersion v = 0; s && v < _TLS_VERSION_MAX; v++)
                if (streq(s, version_table[v]))
                        return v;
        return _TLS_VERSION_INVALID;
}

const char* tls_version_to_string(TlsVersion v) {
        return v >= 0 && v < _TLS_VERSION_MAX ? version_table[v] : NULL;
}

/* The one place where GnuTLS's numbers become ours. */
static int gnutls_to_errno(int error) {
        switch (error) {

        case GNUTLS_E_SUCCESS:
                return 0;
        case GNUTLS_E_AGAIN:
        case GNUTLS_E_INTERRUPTED:
                return -EAGAIN;
        case GNUTLS_E_MEMORY_ERROR:
                return -ENOMEM;
        case GNUTLS_E_PREMATURE_TERMINATION:
        case GNUTLS_E_PULL_ERROR:
        case GNUTLS_E_PUSH_ERROR:
        case GNUTLS_E_SESSION_EOF:
                return -ECONNRESET;
        case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
        case GNUTLS_E_CERTIFICATE_ERROR:
        case GNUTLS_E_NO_CERTIFICATE_FOUND:
        case GNUTLS_E_CERTIFICATE_REQUIRED:
                return -EKEYREJECTED;
        case GNUTLS_E_FATAL_ALERT_RECEIVED:
                return -ECONNREFUSED;
        default:
                return -EPROTO;
        }
}

static int failed(char **reterr, int r, const char *format, ...) PRINTF(3, 4);
static int failed(char **reterr, int r, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        if (vasprintf(reterr, format, ap) < 0)
                *reterr = NULL;
        va_end(ap);
        return *reterr ? r : -ENOMEM;
}

#define PRIORITY_SIZE 512U

static bool priority_append(char *buffer, size_t size, const char *name) {
        char item[40];
        size_t n = strlen(buffer);

        (void) snprintf(item, sizeof(item), ":+%s", name);
        for (const char *p = buffer; (p = strstr(p, item)); p++)
                if (p[strlen(item)] == ':' || p[strlen(item)] == '\0')
                        return true;
        if (n + strlen(item) >= size)
                return false;
        memcpy(buffer + n, item, strlen(item) + 1);
        return true;
}

static int unknown_suite(const char *name, char **reterr) {
        char names[1024] = "";

        for (size_t i = 0; i < ELEMENTSOF(suites); i++)
                (void) snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i > 0 ? ", " : "", suites[i].iana);
        return failed(reterr, -EINVAL, "unknown TLS cipher suite '%.64s'; there are: %s", name, names);
}

/* AES-128-GCM first: the same order as Go's, and the cheapest per byte. Nothing without forward secrecy and AEAD, unless a list of
 * the operator asks for it. A list does not map one-to-one onto GnuTLS's sets, so the outcome is compared with it after the
 * handshake; the server's order counts, so that what the list has is also what gets chosen. */
static int write_priority(TlsVersion min_version, char *const *cipher_suites, char priority[static PRIORITY_SIZE], char ***ret_suites,
                          char **reterr) {
        _cleanup_(strv_freep) char **chosen = NULL;
        bool ok = true;
        int r;

        (void) stpcpy(priority, "NORMAL:-VERS-ALL:-CIPHER-ALL:-KX-ALL:-MAC-ALL:%SAFE_RENEGOTIATION:%SERVER_PRECEDENCE:+VERS-TLS1.3");
        if (min_version < 0 || min_version >= _TLS_VERSION_MAX)
                return failed(reterr, -EINVAL, "unknown minimum TLS version");
        if (min_version == TLS_VERSION_1_2)
                ok = ok && priority_append(priority, PRIORITY_SIZE, "VERS-TLS1.2");

        for (char *const *s = cipher_suites; s && *s; s++) {
                size_t i;

                if (min_version == TLS_VERSION_1_3)
                        return failed(reterr, -EINVAL, "cipher suites cannot be chosen with VersionTLS13");

                for (i = 0; i < ELEMENTSOF(suites) && !streq(*s, suites[i].iana); i++)
                        ;
                if (i == ELEMENTSOF(suites)) {
                        for (i = 0; i < ELEMENTSOF(suites_1_3) && !streq(*s, suites_1_3[i]); i++)
                                ;
                        if (i == ELEMENTSOF(suites_1_3))
                                return unknown_suite(*s, reterr);
                        continue;
                }

                ok = ok && priority_append(priority, PRIORITY_SIZE, suites[i].key_exchange) &&
                        priority_append(priority, PRIORITY_SIZE, suites[i].cipher) &&
                        priority_append(priority, PRIORITY_SIZE, suites[i].mac);
                r = strv_extend(&chosen, suites[i].iana);
                if (r < 0)
                        return failed(reterr, r, "out of memory");
        }

        if (!chosen)
                ok = ok && priority_append(priority, PRIORITY_SIZE, "ECDHE-ECDSA") &&
                        priority_append(priority, PRIORITY_SIZE, "ECDHE-RSA");

        ok = ok && priority_append(priority, PRIORITY_SIZE, "AES-128-GCM") &&
                priority_append(priority, PRIORITY_SIZE, "AES-256-GCM") &&
                priority_append(priority, PRIORITY_SIZE, "CHACHA20-POLY1305") &&
                priority_append(priority, PRIORITY_SIZE, "AEAD");
        assert(ok);             /* the longest list still fits */

        *ret_suites = TAKE_PTR(chosen);
        return 0;
}

static int make_priority(TlsContext *c, const TlsSettings *settings, char **reterr) {
        char priority[PRIORITY_SIZE];
        const char *where;
        int r;

        r = write_priority(settings->min_version, settings->cipher_suites, priority, &c->suites, reterr);
        if (r < 0)
                return r;
        r = gnutls_priority_init2(&c->priority, priority, &where, 0);
        if (r < 0)
                return failed(reterr, gnutls_to_errno(r), "TLS settings are not available on this machine: %s", gnutls_strerror(r));
        return 0;
}

static gnutls_datum_t datum(const char *s) {
        return (gnutls_datum_t) { (unsigned char*) s, strlen(s) };
}

static int load_credentials(TlsContext *c, const TlsSettings *settings, char **reterr) {
        int r;

        r = gnutls_certificate_allocate_credentials(&c->credentials);
        if (r < 0)
                return failed(reterr, gnutls_to_errno(r), "%s", gnutls_strerror(r));

        if (settings->server && (isempty(settings->key) || isempty(settings->cert)))
                return failed(reterr, -ENOKEY, "there is no TLS server key and certificate");
        if (isempty(settings->key) != isempty(settings->cert))
                return failed(reterr, -ENOKEY, "TLS key and certificate must come together");
        if (settings->server && settings->skip_verify)
                return failed(reterr, -EINVAL, "a server must verify its clients");
        if (!settings->skip_verify && isempty(settings->trust))
                return failed(reterr, -ENOKEY, "there is no certificate to verify the peer with");

        if (!isempty(settings->key)) {
                gnutls_datum_t key = datum(settings->key), cert = datum(settings->cert);

                /* Compares key and certificate too. */
                r = gnutls_certificate_set_x509_key_mem(c->credentials, &cert, &key, GNUTLS_X509_FMT_PEM);
                if (r < 0)
                        return failed(reterr, r == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EBADMSG,
                                      "TLS key and certificate are unusable: %s", gnutls_strerror(r));
        }

        if (!isempty(settings->trust) && !settings->skip_verify) {
                gnutls_datum_t trust = datum(settings->trust);

                r = gnutls_certificate_set_x509_trust_mem(c->credentials, &trust, GNUTLS_X509_FMT_PEM);
                if (r <= 0)
                        return failed(reterr, r == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EBADMSG,
                                      "trusted certificate is unusable: %s", r < 0 ? gnutls_strerror(r) : "no certificate in it");
        }

        return 0;
}

TlsContext* tls_context_ref(TlsContext *c) {
        assert(c->n_refs > 0);
        c->n_refs++;
        return c;
}

TlsContext* tls_context_unref(TlsContext *c) {
        if (!c)
                return NULL;
        assert(c->n_refs > 0);
        if (--c->n_refs > 0)
                return NULL;

        if (c->credentials)
                gnutls_certificate_free_credentials(c->credentials);
        if (c->priority)
                gnutls_priority_deinit(c->priority);
        strv_free(c->suites);
        free(c);
        return NULL;
}

int tls_context_new(const TlsSettings *settings, TlsContext **ret, char **reterr) {
        _cleanup_(tls_context_unrefp) TlsContext *c = NULL;
        int r;

        c = new(TlsContext);
        if (!c)
                return failed(reterr, -ENOMEM, "out of memory");
        *c = (TlsContext) { .n_refs = 1, .server = settings->server, .skip_verify = settings->skip_verify,
                             .alpn = settings->alpn };

        r = make_priority(c, settings, reterr);
        if (r < 0)
                return r;
        r = load_credentials(c, settings, reterr);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(c);
        return 0;
}

int tls_profile_check(TlsVersion min_version, char *const *cipher_suites, char **reterr) {
        const TlsSettings settings = { .min_version = min_version, .cipher_suites = cipher_suites };
        TlsContext c = { .n_refs = 1 };
        int r;

        r = make_priority(&c, &settings, reterr);
        if (c.priority)
                gnutls_priority_deinit(c.priority);
        strv_free(c.suites);
        return r;
}

int tls_profile_get_priority(TlsVersion min_version, char *const *cipher_suites, char **ret, char ***ret_allowed, char **reterr) {
        _cleanup_(strv_freep) char **chosen = NULL;
        char priority[PRIORITY_SIZE];
        int r;

        r = tls_profile_check(min_version, cipher_suites, reterr);
        if (r >= 0)
                r = write_priority(min_version, cipher_suites, priority, &chosen, reterr);
        if (r < 0)
                return r;
        *ret = strdup(priority);
        if (!*ret)
                return failed(reterr, -ENOMEM, "out of memory");
        *ret_allowed = TAKE_PTR(chosen);
        return 0;
}

bool tls_profile_allows(char *const *allowed, void *session) {
        const char *suite = gnutls_ciphersuite_get(session);

        return !allowed || gnutls_protocol_get_version(session) >= GNUTLS_TLS1_3 || (suite && strv_contains(allowed, suite));
}

TlsSession* tls_session_free(TlsSession *s) {
        if (!s)
                return NULL;

        if (s->session)
                gnutls_deinit(s->session);
        if (s->in)
                explicit_bzero(s->in, IN_SIZE);
        free(s->in);
        free(s->out);
        free(s->server_name);
        tls_context_unref(s->context);
        free(s);
        return NULL;
}

static ssize_t session_fail(TlsSession *s, int error) {
        gnutls_transport_set_errno(s->session, error);
        if (error != EAGAIN && error != EINTR)
                s->io_error = error;
        return -1;
}

static ssize_t session_pull(gnutls_transport_ptr_t p, void *data, size_t size) {
        TlsSession *s = p;

        if (s->in_start == s->in_end) {
                ssize_t n;

                s->in_start = s->in_end = 0;
                if (s->eof)
                        return 0;
                if (!s->maybe_readable)
                        return session_fail(s, EAGAIN);

                n = recv(s->fd, s->in, IN_SIZE, MSG_DONTWAIT);
                if (n < 0) {
                        if (errno == EAGAIN)
                                s->maybe_readable = false;
                        return session_fail(s, errno);
                }
                if (n == 0)
                        s->eof = true;
                if ((size_t) n < IN_SIZE)
                        s->maybe_readable = false;      /* poll will tell of more: saves a recv() that says EAGAIN */
                s->in_end = n;
        }

        size = MIN(size, s->in_end - s->in_start);
        memcpy(data, s->in + s->in_start, size);
        s->in_start += size;
        return size;
}

static int session_pull_timeout(gnutls_transport_ptr_t p, unsigned ms) {
        TlsSession *s = p;

        return s->in_start < s->in_end || s->eof || s->maybe_readable;
}

static ssize_t session_push(gnutls_transport_ptr_t p, const giovec_t *iov, int n_iov) {
        TlsSession *s = p;
        size_t total = 0;

        for (int i = 0; i < n_iov; i++)
                total += iov[i].iov_len;

        if (total > OUT_SIZE - s->out_end && s->out_start > 0) {
                memmove(s->out, s->out + s->out_start, s->out_end - s->out_start);
                s->out_end -= s->out_start;
                s->out_start = 0;
        }
        if (total > OUT_SIZE - s->out_end) {
                int r = tls_session_flush(s);
                if (r < 0 && r != -EAGAIN)
                        return session_fail(s, -r);
                if (total > OUT_SIZE - s->out_end)
                        return session_fail(s, EAGAIN);
        }

        for (int i = 0; i < n_iov; i++) {
                memcpy(s->out + s->out_end, iov[i].iov_base, iov[i].iov_len);
                s->out_end += iov[i].iov_len;
        }
        return total;
}

int tls_session_new(TlsContext *context, int fd, const char *server_name, TlsSession **ret) {
        _cleanup_(tls_session_freep) TlsSession *s = NULL;
        unsigned flags = GNUTLS_NONBLOCK|GNUTLS_NO_TICKETS;
        int r;

        s = new(TlsSession);
        if (!s)
                return -ENOMEM;
        *s = (TlsSession) { .context = tls_context_ref(context), .fd = fd, .maybe_readable = true };

        s->in = malloc(IN_SIZE);
        s->out = malloc(OUT_SIZE);
        if (!s->in || !s->out)
                return -ENOMEM;

        r = gnutls_init(&s->session, flags|(context->server ? GNUTLS_SERVER : GNUTLS_CLIENT));
        if (r < 0) {
                s->session = NULL;
                return gnutls_to_errno(r);
        }

        r = gnutls_priority_set(s->session, context->priority);
        if (r < 0)
                return gnutls_to_errno(r);
        r = gnutls_credentials_set(s->session, GNUTLS_CRD_CERTIFICATE, context->credentials);
        if (r < 0)
                return gnutls_to_errno(r);

        /* A peer that does not know it gets none (RFC 7301, section 3.2, would let a server refuse). */
        if (context->alpn) {
                gnutls_datum_t alpn = datum(context->alpn);

                r = gnutls_alpn_set_protocols(s->session, &alpn, 1, 0);
                if (r < 0)
                        return gnutls_to_errno(r);
        }

        gnutls_transport_set_ptr(s->session, s);
        gnutls_transport_set_pull_function(s->session, session_pull);
        gnutls_transport_set_pull_timeout_function(s->session, session_pull_timeout);
        gnutls_transport_set_vec_push_function(s->session, session_push);
        gnutls_handshake_set_timeout(s->session, GNUTLS_INDEFINITE_TIMEOUT);    /* the caller has a timer */

        if (context->server) {
                gnutls_certificate_server_set_request(s->session, GNUTLS_CERT_REQUIRE);
                s->expected[0] = (gnutls_typed_vdata_st) { GNUTLS_DT_KEY_PURPOSE_OID, (void*) GNUTLS_KP_TLS_WWW_CLIENT, 0 };
                gnutls_session_set_verify_cert2(s->session, s->expected, 1, 0);
        } else {
                if (server_name) {
                        s->server_name = strdup(server_name);
                        if (!s->server_name)
                                return -ENOMEM;
                        r = gnutls_server_name_set(s->session, GNUTLS_NAME_DNS, s->server_name, strlen(s->server_name));
                        if (r < 0)
                                return -EINVAL;
                }
                if (!context->skip_verify) {
                        if (!server_name)
                                return -EINVAL;
                        s->expected[0] = (gnutls_typed_vdata_st) { GNUTLS_DT_DNS_HOSTNAME, (void*) s->server_name, 0 };
                        s->expected[1] = (gnutls_typed_vdata_st) { GNUTLS_DT_KEY_PURPOSE_OID, (void*) GNUTLS_KP_TLS_WWW_SERVER, 0 };
                        gnutls_session_set_verify_cert2(s->session, s->expected, 2, 0);
                }
        }

        *ret = TAKE_PTR(s);
        return 0;
}

/* Turns GnuTLS's number into ours and the circumstances into a sentence. */
static int session_error(TlsSession *s, int error, const char *doing) {
        int r = gnutls_to_errno(error);

        if (r == -EAGAIN)
                return r;

        if (s->io_error > 0 && (error == GNUTLS_E_PULL_ERROR || error == GNUTLS_E_PUSH_ERROR)) {
                r = -s->io_error;
                (void) snprintf(s->error, sizeof(s->error), "%s: %s", doing, strerrordesc_np(s->io_error));
        } else if (error == GNUTLS_E_FATAL_ALERT_RECEIVED)
                (void) snprintf(s->error, sizeof(s->error), "%s: the peer refused: %s", doing,
                                strempty(gnutls_alert_get_name(gnutls_alert_get(s->session))));
        else if (error == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
                gnutls_datum_t text = {};

                (void) gnutls_certificate_verification_status_print(gnutls_session_get_verify_cert_status(s->session),
                                                                    GNUTLS_CRT_X509, &text, 0);
                (void) snprintf(s->error, sizeof(s->error), "%s: %s", doing,
                                text.data ? (const char*) text.data : gnutls_strerror(error));
                gnutls_free(text.data);
        } else if (error == GNUTLS_E_PREMATURE_TERMINATION)
                (void) snprintf(s->error, sizeof(s->error), "%s: the peer closed the connection", doing);
        else
                (void) snprintf(s->error, sizeof(s->error), "%s: %s", doing, gnutls_strerror(error));

        /* "The certificate is NOT trusted. " ends in a blank */
        for (size_t n = strlen(s->error); n > 0 && strchr(" .", s->error[n - 1]); n--)
                s->error[n - 1] = '\0';
        return r;
}

static int check_suite(TlsSession *s) {
        const char *suite = gnutls_ciphersuite_get(s->session);
        gnutls_protocol_t version = gnutls_protocol_get_version(s->session);

        (void) snprintf(s->description, sizeof(s->description), "%s %s",
                        strempty(gnutls_protocol_get_name(version)), strempty(suite));

        if (tls_profile_allows(s->context->suites, s->session))
                return 0;

        (void) snprintf(s->error, sizeof(s->error), "TLS handshake: the cipher suite '%s' is not allowed here", strempty(suite));
        return -EPROTO;
}

int tls_session_handshake(TlsSession *s) {
        int r, q;

        r = gnutls_handshake(s->session);
        if (r == GNUTLS_E_WARNING_ALERT_RECEIVED)
                r = GNUTLS_E_AGAIN;
        else if (r < 0 && gnutls_error_is_fatal(r)) {
                int error = session_error(s, r, "TLS handshake");

                /* Tell the peer why: it is waiting for an answer. */
                (void) gnutls_alert_send_appropriate(s->session, r);
                (void) tls_session_flush(s);
                return error;
        }

        q = tls_session_flush(s);
        if (q < 0 && q != -EAGAIN) {
                s->io_error = -q;
                return session_error(s, GNUTLS_E_PUSH_ERROR, "TLS handshake");
        }
        if (r < 0)
                return 0;

        r = check_suite(s);
        return r < 0 ? r : 1;
}

void tls_session_set_readable(TlsSession *s) {
        s->maybe_readable = true;
}

ssize_t tls_session_read(TlsSession *s, void *buf, size_t size) {
        size_t done = 0;

        if (s->deferred < 0)
                return session_error(s, s->deferred, "TLS read");

        while (done < size) {
                ssize_t n = gnutls_record_recv(s->session, (uint8_t*) buf + done, size - done);

                if (n > 0) {
                        done += n;
                        continue;
                }
                if (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_WARNING_ALERT_RECEIVED)
                        continue;
                if (n == 0) {           /* comes again with the next call */
                        s->ended = true;
                        return done;
                }
                /* GNUTLS_E_REHANDSHAKE is an end as well: nobody here renegotiates. */
                if (n != GNUTLS_E_AGAIN)
                        s->deferred = n;
                if (done > 0)
                        break;
                return session_error(s, n, "TLS read");
        }

        return done;
}

ssize_t tls_session_write(TlsSession *s, const void *buf, size_t size) {
        size_t done = 0;

        while (done < size) {
                ssize_t n;

                /* Below the limit there is room for a whole record, so GnuTLS never has to keep a part of one. */
                if (s->out_end - s->out_start >= OUT_LIMIT) {
                        int r = tls_session_flush(s);

                        if (r == -EAGAIN && s->out_end - s->out_start >= OUT_LIMIT)
                                break;
                        if (r < 0 && r != -EAGAIN) {
                                s->io_error = -r;
                                return session_error(s, GNUTLS_E_PUSH_ERROR, "TLS write");
                        }
                }

                n = gnutls_record_send(s->session, (const uint8_t*) buf + done, MIN(size - done, RECORD_MAX));
                if (n == GNUTLS_E_INTERRUPTED)
                        continue;
                if (n < 0)
                        return session_error(s, n, "TLS write");
                done += n;
        }

        if (done == 0 && size > 0)
                return -EAGAIN;
        return done;
}

int tls_session_flush(TlsSession *s) {
        while (s->out_start < s->out_end) {
                ssize_t n = send(s->fd, s->out + s->out_start, s->out_end - s->out_start, MSG_DONTWAIT|MSG_NOSIGNAL);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                s->out_start += n;
        }

        s->out_start = s->out_end = 0;
        return 0;
}

void tls_session_bye(TlsSession *s) {
        (void) gnutls_bye(s->session, GNUTLS_SHUT_WR);
        (void) tls_session_flush(s);
}

bool tls_session_has_input(const TlsSession *s) {
        return s->in_start < s->in_end || s->maybe_readable || s->eof || s->ended || s->deferred < 0 ||
                gnutls_record_check_pending(s->session) > 0;
}

size_t tls_session_has_output(const TlsSession *s) {
        return s->out_end - s->out_start;
}

const char* tls_session_error(const TlsSession *s) {
        return s->error[0] ? s->error : NULL;
}

bool tls_session_has_alpn(const TlsSession *s) {
        gnutls_datum_t selected;

        return s->context->alpn && gnutls_alpn_get_selected_protocol(s->session, &selected) >= 0 &&
                selected.size == strlen(s->context->alpn) && memcmp(selected.data, s->context->alpn, selected.size) == 0;
}

int tls_session_get_fingerprint(const TlsSession *s, uint8_t ret[TLS_FINGERPRINT_SIZE]) {
        unsigned n = 0;
        const gnutls_datum_t *certs = gnutls_certificate_get_peers(s->session, &n);

        if (!certs || n == 0)
                return -ENOENT;
        return gnutls_to_errno(gnutls_hash_fast(GNUTLS_DIG_SHA256, certs[0].data, certs[0].size, ret));
}

const char* tls_session_describe(const TlsSession *s) {
        return s->description;
}
