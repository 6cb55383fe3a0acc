/* SPDX-License-Identifier: Apache-2.0 */
/* Initdata, what a pod's author tells the pod VM: base64 of gzip of TOML, known by the digest of the TOML
 * (confidential-containers: trustee, kbs/docs/initdata.md). The worker writes it, the pod VM reads it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "basic/toml.h"

#define INITDATA_VERSION "0.1.0"
#define INITDATA_SIZE_MAX TOML_SIZE_MAX         /* the TOML text */
#define INITDATA_DIGEST_MAX 64U                 /* SHA-512 */
#define INITDATA_DIGEST_HEX_SIZE (2 * INITDATA_DIGEST_MAX + 1)

/* What stands for initdata where none came, so that its digest says so: byte for byte cloud-api-adaptor's
 * (src/cloud-api-adaptor/pkg/userdata/provision.go); no final newline. */
#define INITDATA_DUMMY "algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"aa.toml\" = '''\n'''"

typedef struct Initdata {
        TomlValue root;
        const char *algorithm;                  /* borrowed: constant */
        uint8_t digest[INITDATA_DIGEST_MAX];    /* of the TOML text */
        size_t digest_size;
} Initdata;

#define INITDATA_NULL (Initdata) {}

/**
 * initdata_encode() - what goes to the pod VM as /run/peerpod/initdata
 * @toml: at most INITDATA_SIZE_MAX bytes, as the shim sends it: it has undone base64 and gzip already
 * @ret:  newly allocated, without line breaks
 *
 * The digest that is measured is taken over the TOML bytes, so compressing them again is harmless. Returns 0, -ENOMEM.
 */
int initdata_encode(const char *toml, char **ret);

/**
 * initdata_decode() - unpack, check and hash
 * @encoded: need not end in NUL; line breaks in it are skipped
 * @ret:     filled on success only; initdata_done()
 * @reterr:  "line 7: …", or another reason without a capital letter and a full stop, newly allocated; never quotes the text
 *
 * Refused: what is not all gzip, a version other than INITDATA_VERSION, an algorithm other than sha256, sha384 and sha512, a [data] that
 * is missing or has other values than texts without NUL. Other keys are left to whoever gave them a meaning.
 *
 * Returns 0, -EBADMSG, -E2BIG, -EIO (no digest), -ENOMEM.
 */
int initdata_decode(const char *encoded, size_t size, Initdata *ret, char **reterr);

/* initdata_data() - the table [data]: name → text; borrowed */
const TomlValue* initdata_data(const Initdata *i);

/* initdata_digest_hex() - lower case */
void initdata_digest_hex(const Initdata *i, char ret[static INITDATA_DIGEST_HEX_SIZE]);

/* initdata_digest_fit() - the digest in a register of @size bytes: cut off, or with zeros behind it (trustee, kbs/docs/initdata.md) */
void initdata_digest_fit(const Initdata *i, uint8_t *ret, size_t size);

void initdata_done(Initdata *i);
