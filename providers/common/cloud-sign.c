/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-sign.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "basic/util.h"
#include "userdata/encode.h"

#define SIGNED_HEADERS_MAX 32

/* A text that grows; an error stays. */
typedef struct Text {
        FILE *file;
        char *text;
        size_t size;
} Text;

static void text_done(Text *t) {
        if (t->file)
                (void) fclose(t->file);
        t->text = erase_free(t->text, t->size);
}

static int text_open(Text *t) {
        t->file = open_memstream(&t->text, &t->size);
        return t->file ? 0 : -ENOMEM;
}

static int text_close(Text *t) {
        bool bad = ferror(t->file) != 0;

        if (fclose(t->file) != 0)
                bad = true;
        t->file = NULL;
        return bad ? -ENOMEM : 0;
}

/* These fail only for a wrong algorithm or in an error state that ends the process anyway. */
void sha256(const void *data, size_t size, uint8_t ret[static SHA256_SIZE]) {
        int r = gnutls_hash_fast(GNUTLS_DIG_SHA256, data, size, ret);

        assert(r == 0);
        (void) r;
}

static void hmac_sha256(const void *key, size_t key_size, const void *data, size_t size, uint8_t ret[static SHA256_SIZE]) {
        int r = gnutls_hmac_fast(GNUTLS_MAC_SHA256, key, key_size, data, size, ret);

        assert(r == 0);
        (void) r;
}

static void hmac_text(const uint8_t key[static SHA256_SIZE], const char *text, uint8_t ret[static SHA256_SIZE]) {
        hmac_sha256(key, SHA256_SIZE, text, strlen(text), ret);
}

static void to_hex(const uint8_t *digest, char ret[static SHA256_HEX_SIZE]) {
        for (size_t i = 0; i < SHA256_SIZE; i++)
                (void) snprintf(ret + 2 * i, 3, "%02x", digest[i]);
}

void sha256_hex(const void *data, size_t size, char ret[static SHA256_HEX_SIZE]) {
        uint8_t digest[SHA256_SIZE];

        sha256(data, size, digest);
        to_hex(digest, ret);
}

static int compare_headers(const void *a, const void *b) {
        return strcmp(((const SignHeader*) a)->name, ((const SignHeader*) b)->name);
}

/* The value without blanks around it, and each run of blanks in it as one. */
static void put_trimmed(FILE *f, const char *value) {
        bool pending = false, begun = false;

        for (; *value; value++)
                if (*value == ' ' || *value == '\t')
                        pending = begun;
                else {
                        if (pending)
                                (void) fputc(' ', f);
                        (void) fputc(*value, f);
                        pending = false;
                        begun = true;
                }
}

/* "name:value\n" each, and "name;name". Both signatures do it alike. */
static int canonical_headers(const SignHeader *headers, size_t n, Text *lines, Text *names) {
        SignHeader sorted[SIGNED_HEADERS_MAX];

        if (n > ELEMENTSOF(sorted))
                return -ENOMEM;
        memcpy(sorted, headers, n * sizeof(SignHeader));
        qsort(sorted, n, sizeof(SignHeader), compare_headers);

        if (text_open(lines) < 0 || text_open(names) < 0)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                (void) fprintf(lines->file, "%s:", sorted[i].name);
                put_trimmed(lines->file, sorted[i].value);
                (void) fputc('\n', lines->file);
                (void) fprintf(names->file, "%s%s", i > 0 ? ";" : "", sorted[i].name);
        }
        return text_close(lines) < 0 || text_close(names) < 0 ? -ENOMEM : 0;
}

static int compare_parameters(const void *a, const void *b) {
        return strcmp(*(char *const*) a, *(char *const*) b);
}

/* "b=2&a=1" → "a=1&b=2". The escaped text sorts as the plain one does where only unreserved characters and '%' are in it. */
static int put_sorted_query(FILE *f, const char *query) {
        _cleanup_(freep) char *copy = strdup(query);
        _cleanup_(freep) char **parameters = NULL;
        size_t n = 1, i = 0;
        char *save = NULL;

        if (!copy)
                return -ENOMEM;
        for (const char *p = query; (p = strchr(p, '&')); p++)
                n++;
        parameters = new0(char*, n);
        if (!parameters)
                return -ENOMEM;
        for (char *p = strtok_r(copy, "&", &save); p; p = strtok_r(NULL, "&", &save))
                parameters[i++] = p;
        qsort(parameters, i, sizeof(char*), compare_parameters);
        for (size_t k = 0; k < i; k++)
                (void) fprintf(f, "%s%s%s", k > 0 ? "&" : "", parameters[k], strchr(parameters[k], '=') ? "" : "=");
        return 0;
}

static const char* find_value(const SignHeader *headers, size_t n, const char *name) {
        for (size_t i = 0; i < n; i++)
                if (streq(headers[i].name, name))
                        return headers[i].value;
        return NULL;
}

static void sigv4_key(const char *secret_key, const char *date, const char *region, const char *service, uint8_t ret[static SHA256_SIZE]) {
        uint8_t k[SHA256_SIZE];
        char start[4 + 256];

        (void) snprintf(start, sizeof(start), "AWS4%s", secret_key);
        hmac_sha256(start, strlen(start), date, strlen(date), ret);
        explicit_bzero(start, sizeof(start));
        hmac_text(ret, region, k);
        hmac_text(k, service, ret);
        hmac_text(ret, "aws4_request", k);
        memcpy(ret, k, sizeof(k));
        explicit_bzero(k, sizeof(k));
}

int sigv4_sign(const char *access_key, const char *secret_key, const char *region, const char *service, const char *method,
               const char *path, const char *query, const SignHeader *headers, size_t n_headers, const void *body, size_t body_size,
               char **ret) {
        _cleanup_(text_done) Text lines = {}, names = {}, request = {}, to_sign = {};
        char body_hash[SHA256_HEX_SIZE], request_hash[SHA256_HEX_SIZE], signature[SHA256_HEX_SIZE], date[9];
        const char *time = find_value(headers, n_headers, "x-amz-date");
        uint8_t key[SHA256_SIZE], digest[SHA256_SIZE];

        assert(time && strlen(time) == 16);
        if (strlen(secret_key) > 250)
                return -EINVAL;
        (void) snprintf(date, sizeof(date), "%.8s", time);

        if (canonical_headers(headers, n_headers, &lines, &names) < 0 || text_open(&request) < 0)
                return -ENOMEM;
        sha256_hex(strempty(body), body_size, body_hash);
        (void) fprintf(request.file, "%s\n%s\n", method, path);
        if (put_sorted_query(request.file, query) < 0)
                return -ENOMEM;
        (void) fprintf(request.file, "\n%s\n%s\n%s", lines.text, names.text, body_hash);
        if (text_close(&request) < 0 || text_open(&to_sign) < 0)
                return -ENOMEM;

        sha256_hex(request.text, request.size, request_hash);
        (void) fprintf(to_sign.file, "AWS4-HMAC-SHA256\n%s\n%s/%s/%s/aws4_request\n%s", time, date, region, service, request_hash);
        if (text_close(&to_sign) < 0)
                return -ENOMEM;

        sigv4_key(secret_key, date, region, service, key);
        hmac_sha256(key, sizeof(key), to_sign.text, to_sign.size, digest);
        explicit_bzero(key, sizeof(key));
        to_hex(digest, signature);
        return asprintf(ret, "AWS4-HMAC-SHA256 Credential=%s/%s/%s/%s/aws4_request, SignedHeaders=%s, Signature=%s", access_key, date, region,
                        service, names.text, signature) < 0 ? -ENOMEM : 0;
}

void sigv4_time(time_t t, char ret[static 17]) {
        struct tm tm;

        if (!gmtime_r(&t, &tm) || strftime(ret, 17, "%Y%m%dT%H%M%SZ", &tm) == 0)
                ret[0] = '\0';
}

int acs3_sign(const char *access_key, const char *secret_key, const char *method, const char *query, const SignHeader *headers,
              size_t n_headers, char **ret) {
        _cleanup_(text_done) Text lines = {}, names = {}, request = {};
        const char *content = find_value(headers, n_headers, "x-acs-content-sha256");
        char hash[SHA256_HEX_SIZE], to_sign[sizeof("ACS3-HMAC-SHA256\n") + SHA256_HEX_SIZE], signature[SHA256_HEX_SIZE];
        uint8_t digest[SHA256_SIZE];

        assert(content);
        if (canonical_headers(headers, n_headers, &lines, &names) < 0 || text_open(&request) < 0)
                return -ENOMEM;
        (void) fprintf(request.file, "%s\n/\n%s\n%s\n%s\n%s", method, query, lines.text, names.text, content);
        if (text_close(&request) < 0)
                return -ENOMEM;

        sha256_hex(request.text, request.size, hash);
        (void) snprintf(to_sign, sizeof(to_sign), "ACS3-HMAC-SHA256\n%s", hash);
        hmac_sha256(secret_key, strlen(secret_key), to_sign, strlen(to_sign), digest);
        to_hex(digest, signature);
        return asprintf(ret, "ACS3-HMAC-SHA256 Credential=%s,SignedHeaders=%s,Signature=%s", access_key, names.text, signature) < 0 ? -ENOMEM : 0;
}

static int load_rsa_key(const char *pem, gnutls_privkey_t *ret) {
        const gnutls_datum_t datum = { (unsigned char*) pem, strlen(pem) };
        gnutls_privkey_t key;

        if (gnutls_privkey_init(&key) < 0)
                return -ENOMEM;
        if (gnutls_privkey_import_x509_raw(key, &datum, GNUTLS_X509_FMT_PEM, NULL, 0) < 0 ||
            gnutls_privkey_get_pk_algorithm(key, NULL) != GNUTLS_PK_RSA) {
                gnutls_privkey_deinit(key);
                return -EINVAL;
        }
        *ret = key;
        return 0;
}

static int put_jwt_header(FILE *f, const char *key_id) {
        (void) fputs("{\"alg\":\"RS256\",\"typ\":\"JWT\"", f);
        if (key_id) {
                (void) fputs(",\"kid\":\"", f);
                for (const char *p = key_id; *p; p++) {
                        if ((unsigned char) *p < 0x20)
                                return -EINVAL;
                        if (*p == '"' || *p == '\\')
                                (void) fputc('\\', f);
                        (void) fputc(*p, f);
                }
                (void) fputc('"', f);
        }
        (void) fputc('}', f);
        return 0;
}

int jwt_rs256(const char *key_pem, const char *key_id, const char *claims, char **ret) {
        _cleanup_(freep) char *header = NULL, *payload = NULL, *input = NULL, *signature = NULL;
        _cleanup_(text_done) Text plain = {};
        gnutls_datum_t datum, raw = {};
        gnutls_privkey_t key;
        int r;

        r = text_open(&plain);
        if (r < 0)
                return r;
        r = put_jwt_header(plain.file, key_id);
        if (r < 0)
                return r;
        if (text_close(&plain) < 0 || base64url_encode(plain.text, plain.size, &header) < 0 ||
            base64url_encode(claims, strlen(claims), &payload) < 0 || asprintf(&input, "%s.%s", header, payload) < 0)
                return -ENOMEM;

        r = load_rsa_key(key_pem, &key);
        if (r < 0)
                return r;
        datum = (gnutls_datum_t) { (unsigned char*) input, strlen(input) };
        r = gnutls_privkey_sign_data2(key, GNUTLS_SIGN_RSA_SHA256, 0, &datum, &raw) < 0 ? -EINVAL : 0;
        gnutls_privkey_deinit(key);
        if (r == 0)
                r = base64url_encode(raw.data, raw.size, &signature);
        gnutls_free(raw.data);
        if (r < 0)
                return r;
        return asprintf(ret, "%s.%s", input, signature) < 0 ? -ENOMEM : 0;
}
