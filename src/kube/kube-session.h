/* SPDX-License-Identifier: Apache-2.0 */
/* What all transfers to one API server have in common: its address, credentials, connections. For kube-transfer.c and kube-client.c. */
#pragma once

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "kube/kube-client.h"
#include "kube/kube-curl.h"

typedef struct KubeSession {
        sd_event *event;
        KubeConfig *config;
        KubeCurl *curl;                 /* the connections that new transfers use */
        char *base;                     /* what the path is appended to */
        struct curl_slist *connect_to;  /* or NULL */
        char *host_header;              /* or NULL */
        char *user_agent;
        char *ca_path, *cert_path, *key_path;
        int ca_fd, cert_fd, key_fd;

        char *token;                    /* of the token file */
        uint64_t token_usec, token_max_age_usec;        /* CLOCK_BOOTTIME */
        uint64_t n_token_reads;
        bool token_failed;

        uint64_t connect_timeout_usec;
} KubeSession;

/* Arguments and results as of kube_client_new(). */
int kube_session_new(sd_event *event, const KubeConfig *config, const KubeClientOptions *options, KubeSession **ret, char **reterr);
KubeSession* kube_session_free(KubeSession *s);         /* when no transfer is left */
DEFINE_CLEANUP(KubeSession*, kube_session_free);

const char* kube_session_token(KubeSession *s);         /* the one to use now, or NULL; borrowed, a secret */
/* kube_session_renew() - credentials were refused: read them again. Returns whether another try has a chance. */
bool kube_session_renew(KubeSession *s);
/* kube_session_distrust() - something on a connection did not answer: nothing new is sent on any that there is now */
void kube_session_distrust(KubeSession *s);

/* Of kube-client.c, for kube-watch.c. */
KubeSession* kube_client_session(KubeClient *c);
