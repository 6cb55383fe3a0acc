/* SPDX-License-Identifier: Apache-2.0 */
/* Where the API server is and what proves who we are: from a kubeconfig file, or from what a pod is given (kubernetes/client-go:
 * tools/clientcmd, rest/config.go).
 *
 * A kubeconfig is YAML, so JSON too. What would run a program (exec, auth-provider) or act for somebody else (as, as-groups …) is refused
 * with words, not ignored. Files named in it are relative to its own directory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

#define KUBE_CONFIG_SIZE_MAX (UINT64_C(1) << 20)
#define KUBE_TOKEN_SIZE_MAX (UINT64_C(64) << 10)

/* All strings are owned; what is secret is erased by kube_config_free(). Read only for users. */
typedef struct KubeConfig {
        char *origin;           /* where it came from, for people: a path, or "in-cluster" */
        char *server;           /* "https://host[:port][/path]", without a slash at the end */
        bool loopback;          /* that is on this machine */
        char *tls_server_name;  /* name in the server's certificate, or NULL: the host of server */
        char *proxy_url;        /* or NULL: as the environment says (HTTPS_PROXY, NO_PROXY), never for loopback */
        char *ca_file;          /* absolute; NULL: ca_data, or the system's authorities when that is NULL, too */
        char *ca_data;          /* PEM */
        bool insecure;          /* insecure-skip-tls-verify */

        char *token;            /* secret, or NULL */
        char *token_file;       /* absolute, or NULL; wins over token, read again while we run */
        char *username, *password;              /* secret */
        char *cert_file, *key_file;             /* absolute PEM files of a client certificate, or NULL */
        char *cert_data, *key_data;             /* PEM; win over the files; secret */

        char *default_namespace; /* of the context, or of the pod; NULL: none is said */
} KubeConfig;

/**
 * kube_config_load() - find the configuration
 * @path: a kubeconfig, or NULL to look for one
 *
 * @path; else $KUBECONFIG (several files with ":" between are merged, the first one wins; those that do not exist are passed over); else the
 * systemd credential "kubeconfig" ($CREDENTIALS_DIRECTORY/kubeconfig); else what a pod is given ($KUBERNETES_SERVICE_HOST …); else
 * $HOME/.kube/config.
 *
 * Returns 0; -ENXIO: none of these is there (the service may go on without a cluster); -EINVAL, -EBADMSG, -ENOENT, -EACCES …: what is there
 * cannot be used, with *reterr naming file and key, never a secret; -ENOMEM.
 */
int kube_config_load(const char *path, KubeConfig **ret, char **reterr);

/* kube_config_load_in_cluster() - what a pod is given; @directory NULL: /var/run/secrets/kubernetes.io/serviceaccount. Returns as above. */
int kube_config_load_in_cluster(const char *directory, KubeConfig **ret, char **reterr);

/**
 * kube_config_parse() - one kubeconfig's text
 * @origin: path of the file, for messages
 * @directory: what relative paths in it are relative to; absolute
 *
 * Reads no file. Returns 0, -EBADMSG (no YAML, or more of it than a kubeconfig has), -EINVAL (a key that is missing, ill-formed or not
 * supported), -ENOMEM.
 */
int kube_config_parse(const char *text, size_t size, const char *origin, const char *directory, KubeConfig **ret, char **reterr);

/* kube_token_read() - read a token file: blanks around it are dropped, an empty one or one with control characters is -EBADMSG. *ret is a
 * secret. Returns 0 or -errno with *reterr. */
int kube_token_read(const char *path, char **ret, char **reterr);

KubeConfig* kube_config_free(KubeConfig *c);
DEFINE_CLEANUP(KubeConfig*, kube_config_free);
