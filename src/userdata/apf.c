/* SPDX-License-Identifier: Apache-2.0 */
#include "userdata/apf.h"

#include <json-c/json.h>
#include <math.h>
#include <stdio.h>

#include "basic/error-text.h"
#include "basic/json.h"
#include "basic/strv.h"
#include "basic/utf8.h"
#include "basic/util.h"

#define INDENT 4

/* The simple keys, in upstream's order behind "pod-network" (Config in pkg/forwarder/forwarder.go). */
static const struct {
        const char *key;
        size_t offset;
        size_t size_max;
        bool always;            /* written even if there is nothing to say */
} strings[] = {
        { "pod-namespace",   offsetof(ApfConfig, pod_namespace),   APF_STRING_MAX, true  },
        { "pod-name",        offsetof(ApfConfig, pod_name),        APF_STRING_MAX, true  },
        { "tls-server-key",  offsetof(ApfConfig, tls_server_key),  APF_PEM_MAX,    false },
        { "tls-server-cert", offsetof(ApfConfig, tls_server_cert), APF_PEM_MAX,    false },
        { "tls-client-ca",   offsetof(ApfConfig, tls_client_ca),   APF_PEM_MAX,    false },
        { "tls-min-version", offsetof(ApfConfig, tls_min_version), APF_STRING_MAX, false },
};

static char** string_of(ApfConfig *c, size_t i) {
        return (char**) ((char*) c + strings[i].offset);
}

static const char* string_of_const(const ApfConfig *c, size_t i) {
        return *(char *const*) ((const char*) c + strings[i].offset);
}

void apf_config_done(ApfConfig *c) {
        for (size_t i = 0; i < ELEMENTSOF(strings); i++)
                erase_free_stringp(string_of(c, i));
        free(c->pod_network);
        strv_free(c->tls_cipher_suites);
        *c = APF_CONFIG_NULL;
}

static bool tls_version_is_known(const char *s) {
        return streq(s, "VersionTLS12") || streq(s, "VersionTLS13");
}

/* Go's encoding/json escapes &, <, > and U+2028/2029, and has short forms for \n, \r, \t, \b and \f. The characters from DEL
 * on are ours: the text is to fit into a YAML block, which may not hold them. */
static int put_string(FILE *f, const char *s) {
        fputc('"', f);
        for (size_t n; *s; s += n) {
                uint32_t c;

                n = utf8_decode(s, strnlen(s, UTF8_MAX), &c);
                if (n == 0)
                        return -EINVAL;

                if (c == '"' || c == '\\')
                        fprintf(f, "\\%c", (char) c);
                else if (c == '\n')
                        fputs("\\n", f);
                else if (c == '\r')
                        fputs("\\r", f);
                else if (c == '\t')
                        fputs("\\t", f);
                else if (c == '\b')
                        fputs("\\b", f);
                else if (c == '\f')
                        fputs("\\f", f);
                else if (c < 0x20 || c == '&' || c == '<' || c == '>' || (c >= 0x7f && c < 0xa0) ||
                         c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe || c == 0xffff)
                        fprintf(f, "\\u%04x", c);
                else
                        (void) fwrite(s, 1, n, f);
        }
        fputc('"', f);
        return 0;
}

static void put_line(FILE *f, unsigned depth) {
        fprintf(f, "\n%*s", (int) depth * INDENT, "");
}

/* As json.MarshalIndent() lays it out; the tree came through json_parse(), so its depth is bounded. */
static int put_value(FILE *f, json_object *v, unsigned depth) {
        bool first = true;
        int r;

        switch (json_object_get_type(v)) {

        case json_type_object:
                fputc('{', f);
                json_object_object_foreach(v, key, member) {
                        if (!first)
                                fputc(',', f);
                        first = false;
                        put_line(f, depth + 1);

                        r = put_string(f, key);
                        if (r < 0)
                                return r;
                        fputs(": ", f);
                        r = put_value(f, member, depth + 1);
                        if (r < 0)
                                return r;
                }
                if (!first)
                        put_line(f, depth);
                fputc('}', f);
                return 0;

        case json_type_array:
                fputc('[', f);
                for (size_t i = 0; i < json_object_array_length(v); i++) {
                        if (i > 0)
                                fputc(',', f);
                        put_line(f, depth + 1);

                        r = put_value(f, json_object_array_get_idx(v, i), depth + 1);
                        if (r < 0)
                                return r;
                }
                if (json_object_array_length(v) > 0)
                        put_line(f, depth);
                fputc(']', f);
                return 0;

        case json_type_string:
                if (strlen(json_object_get_string(v)) != (size_t) json_object_get_string_len(v))
                        return -EINVAL;
                return put_string(f, json_object_get_string(v));

        case json_type_double:
                if (!isfinite(json_object_get_double(v)))       /* json-c reads NaN and Infinity, JSON has neither */
                        return -EINVAL;
                fputs(json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN), f);    /* its own text, as it was read */
                return 0;

        default:        /* null, boolean and integers have one form each */
                fputs(json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN), f);
                return 0;
        }
}

static void put_key(FILE *f, const char *key) {
        fprintf(f, ",\n%*s\"%s\": ", INDENT, "", key);
}

static int put_config(FILE *f, const ApfConfig *c, json_object *network, char **reterr) {
        int r;

        fprintf(f, "{\n%*s\"pod-network\": ", INDENT, "");
        r = put_value(f, network, 1);
        if (r < 0)
                return error_text(reterr, r, "'pod-network' holds a string that is no text, or a number that JSON does not have");

        for (size_t i = 0; i < ELEMENTSOF(strings); i++) {
                const char *s = string_of_const(c, i);

                if (isempty(s) && !strings[i].always)
                        continue;
                if (strlen(strempty(s)) > strings[i].size_max)
                        return error_text(reterr, -E2BIG, "'%s' is longer than %zu bytes", strings[i].key, strings[i].size_max);
                put_key(f, strings[i].key);
                r = put_string(f, strempty(s));
                if (r < 0)
                        return error_text(reterr, r, "'%s' is no UTF-8 text", strings[i].key);
        }

        if (c->tls_cipher_suites && c->tls_cipher_suites[0]) {
                put_key(f, "tls-cipher-suites");
                fputc('[', f);
                for (char **s = c->tls_cipher_suites; *s; s++) {
                        if (s != c->tls_cipher_suites)
                                fputc(',', f);
                        put_line(f, 2);
                        r = put_string(f, *s);
                        if (r < 0)
                                return error_text(reterr, r, "'tls-cipher-suites' is no UTF-8 text");
                }
                put_line(f, 1);
                fputc(']', f);
        }

        fputs("\n}", f);
        return 0;
}

int apf_config_format(const ApfConfig *c, char **ret, size_t *ret_size, char **reterr) {
        _cleanup_(json_object_putp) json_object *network = NULL;
        _cleanup_(freep) char *why = NULL;
        char *text = NULL;
        size_t size = 0;
        bool failed;
        FILE *f;
        int r;

        if (c->pod_network) {
                if (strlen(c->pod_network) > APF_SIZE_MAX)
                        return error_text(reterr, -E2BIG, "'pod-network' is longer than %zu bytes", APF_SIZE_MAX);
                r = json_parse(c->pod_network, strlen(c->pod_network), &network, &why);
                if (r == -ENOMEM)
                        return r;
                if (r < 0)
                        return error_text(reterr, -EINVAL, "'pod-network' is no JSON object: %s", strempty(why));
        }
        if (!isempty(c->tls_min_version) && !tls_version_is_known(c->tls_min_version))
                return error_text(reterr, -EINVAL, "'tls-min-version' is neither VersionTLS12 nor VersionTLS13");
        if (strv_length(c->tls_cipher_suites) > APF_CIPHER_SUITES_MAX)
                return error_text(reterr, -E2BIG, "'tls-cipher-suites' has more than %u names", APF_CIPHER_SUITES_MAX);

        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;

        r = put_config(f, c, network, reterr);
        failed = ferror(f);
        if (fclose(f) != 0 || failed)
                r = r < 0 ? r : -ENOMEM;
        if (r >= 0 && size > APF_SIZE_MAX)
                r = error_text(reterr, -E2BIG, "the text is longer than %zu bytes", APF_SIZE_MAX);
        if (r < 0) {
                erase_free(text, size);
                return r;
        }

        *ret = text;
        *ret_size = size;
        return 0;
}

static int read_string(json_object *o, size_t i, ApfConfig *c, char **reterr) {
        const char *s;
        int r;

        r = json_get_string(o, strings[i].key, &s, reterr);
        if (r <= 0)
                return r;
        if (strlen(s) > strings[i].size_max)
                return error_text(reterr, -E2BIG, "'%s' is longer than %zu bytes", strings[i].key, strings[i].size_max);

        *string_of(c, i) = strdup(s);
        return *string_of(c, i) ? 0 : -ENOMEM;
}

/* As Go's strings.TrimSpace(), of ASCII. */
static void trim(char *s) {
        size_t n;

        if (!s)
                return;
        n = strspn(s, " \t\n\v\f\r");
        memmove(s, s + n, strlen(s + n) + 1);
        for (n = strlen(s); n > 0 && strchr(" \t\n\v\f\r", s[n - 1]); n--)
                ;
        s[n] = '\0';
}

static int read_cipher_suites(json_object *o, ApfConfig *c, char **reterr) {
        json_object *array;
        int r;

        r = json_get_array(o, "tls-cipher-suites", &array, reterr);
        if (r <= 0)
                return r;
        if (json_object_array_length(array) > APF_CIPHER_SUITES_MAX)
                return error_text(reterr, -E2BIG, "'tls-cipher-suites' has more than %u names", APF_CIPHER_SUITES_MAX);

        r = json_get_strv(o, "tls-cipher-suites", &c->tls_cipher_suites, reterr);
        if (r < 0)
                return r;
        for (char **s = c->tls_cipher_suites, **to = s; ; s++) {
                if (!*s) {
                        *to = NULL;
                        break;
                }
                if (strlen(*s) > APF_STRING_MAX)
                        r = error_text(reterr, -E2BIG, "'tls-cipher-suites' has a name longer than %zu bytes", APF_STRING_MAX);
                trim(*s);
                if (**s)
                        *to++ = *s;
                else
                        free(*s);
        }
        return r < 0 ? r : 0;
}

int apf_config_parse(const void *data, size_t size, ApfConfig *ret, char **reterr) {
        _cleanup_(apf_config_done) ApfConfig c = APF_CONFIG_NULL;
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *network;
        int r;

        if (size > APF_SIZE_MAX)
                return error_text(reterr, -E2BIG, "more than %zu bytes", APF_SIZE_MAX);

        r = json_parse(size > 0 ? data : "", size, &o, reterr);
        if (r < 0)
                return r;

        r = json_get_object(o, "pod-network", &network, reterr);
        if (r < 0)
                return r;
        if (r > 0) {
                const char *text = json_object_to_json_string_ext(network, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE);

                c.pod_network = text ? strdup(text) : NULL;
                if (!c.pod_network)
                        return -ENOMEM;
        }

        for (size_t i = 0; i < ELEMENTSOF(strings); i++) {
                r = read_string(o, i, &c, reterr);
                if (r < 0)
                        return r;
        }
        trim(c.tls_min_version);
        if (streq(strempty(c.tls_min_version), "VersionTLS10") || streq(strempty(c.tls_min_version), "VersionTLS11"))
                return error_text(reterr, -EBADMSG, "'tls-min-version': TLS 1.0 and 1.1 are not supported, use VersionTLS12 or VersionTLS13");
        if (!isempty(c.tls_min_version) && !tls_version_is_known(c.tls_min_version))
                return error_text(reterr, -EBADMSG, "'tls-min-version' is neither VersionTLS12 nor VersionTLS13");

        r = read_cipher_suites(o, &c, reterr);
        if (r < 0)
                return r;

        *ret = c;
        c = APF_CONFIG_NULL;
        return 0;
}
