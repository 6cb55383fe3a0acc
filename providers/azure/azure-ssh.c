/* SPDX-License-Identifier: Apache-2.0 */
#include "azure-ssh.h"

#include <ctype.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/abstract.h>

#include "basic/io.h"
#include "basic/parse.h"
#include "userdata/encode.h"

#define KEY_FILE_MAX 16384
#define ED25519_SIZE 32
#define ED25519_NAME "ssh-ed25519"

/* RFC 8709 section 4: string "ssh-ed25519", string key */
static int print_key(const uint8_t *key, char **ret) {
        uint8_t blob[4 + sizeof(ED25519_NAME) - 1 + 4 + ED25519_SIZE];
        _cleanup_(freep) char *text = NULL;
        size_t n = strlen(ED25519_NAME);

        write_be32(blob, (uint32_t) n);
        memcpy(blob + 4, ED25519_NAME, n);
        write_be32(blob + 4 + n, ED25519_SIZE);
        memcpy(blob + 8 + n, key, ED25519_SIZE);
        if (base64_encode(blob, sizeof(blob), &text) < 0 || asprintf(ret, ED25519_NAME " %s peerpod", text) < 0)
                return -ENOMEM;
        return 0;
}

static int generate(char **ret, PeerpodError *error) {
        gnutls_privkey_t private_key = NULL;
        gnutls_pubkey_t public_key = NULL;
        gnutls_datum_t point = {};
        gnutls_ecc_curve_t curve;
        int g, r = 0;

        g = gnutls_privkey_init(&private_key);
        if (g == 0)
                g = gnutls_pubkey_init(&public_key);
        if (g == 0)
                g = gnutls_privkey_generate(private_key, GNUTLS_PK_EDDSA_ED25519, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_ED25519), 0);
        if (g == 0)
                g = gnutls_pubkey_import_privkey(public_key, private_key, 0, 0);
        if (g == 0)
                g = gnutls_pubkey_export_ecc_raw(public_key, &curve, &point, NULL);
        if (g < 0 || point.size != ED25519_SIZE)
                r = peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to make an SSH key: %s", g < 0 ? gnutls_strerror(g) : "of odd size");
        else if (print_key(point.data, ret) < 0)
                r = oom(error);
        gnutls_free(point.data);
        if (public_key)
                gnutls_pubkey_deinit(public_key);
        if (private_key)
                gnutls_privkey_deinit(private_key);
        return r;
}

/* "$HOME/key", "${HOME}/key" (cloud-api-adaptor: src/cloud-providers/azure/manager.go, os.ExpandEnv) */
static char* expand(const char *path) {
        char *out = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&out, &size);

        if (!f)
                return NULL;
        while (*path) {
                bool braces = path[0] == '$' && path[1] == '{';
                const char *name = path + 1 + braces;
                size_t n = 0;
                char variable[64];

                while (isalnum((unsigned char) name[n]) || name[n] == '_')
                        n++;
                if (path[0] != '$' || n == 0 || n >= sizeof(variable) || (braces && name[n] != '}')) {
                        (void) fputc(*path++, f);
                        continue;
                }
                memcpy(variable, name, n);
                variable[n] = '\0';
                (void) fputs(environment_or(variable, ""), f);
                path = name + n + braces;
        }
        if (fclose(f) != 0) {
                free(out);
                return NULL;
        }
        return out;
}

static bool line_is_key(const char *s) {
        const char *blank = strchr(s, ' ');

        if (!startswith(s, "ssh-rsa ") && !startswith(s, ED25519_NAME " ") && !startswith(s, "ecdsa-sha2-nistp"))
                return false;
        return blank && startswith(blank + 1, "AAAA") && text_is_plain(s, KEY_FILE_MAX);
}

int azure_ssh_key(const char *path, char **ret, PeerpodError *error) {
        _cleanup_(freep) char *expanded = NULL, *text = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        if (isempty(path))
                return generate(ret, error);
        expanded = expand(path);
        if (!expanded)
                return oom(error);
        fd = open(expanded, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        r = fd < 0 ? -errno : read_full_fd(fd, KEY_FILE_MAX, &text, NULL);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "The SSH public key '%s' (ssh-key-path) is unreadable: %s", expanded,
                                         strerror(-r));
        text[strcspn(text, "\r\n")] = '\0';
        if (!line_is_key(text))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "The file '%s' (ssh-key-path) holds no SSH public key.", expanded);
        *ret = TAKE_PTR(text);
        return 0;
}
