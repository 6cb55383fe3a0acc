/* SPDX-License-Identifier: Apache-2.0 */
/* What the adaptor has: the sandboxes, and the ways to everybody who works for them. */
#pragma once

#include <stdbool.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "adaptor/metrics.h"
#include "adaptor/settings.h"
#include "basic/cleanup.h"

typedef struct CertificateWatch CertificateWatch;
typedef struct GoneSandbox GoneSandbox;
typedef struct History History;
typedef struct HypervisorService HypervisorService;
typedef struct ServiceLink ServiceLink;
typedef struct ServiceCall ServiceCall;
typedef struct Manager Manager;
typedef struct NodeClient NodeClient;
typedef struct OrphanQuery OrphanQuery;
typedef struct Pod Pod;
typedef struct Polkit Polkit;
typedef struct Sandbox Sandbox;
typedef struct SandboxStore SandboxStore;
typedef struct UnitClient UnitClient;

/* A node of a cluster runs at most some hundred pods; more is a caller gone mad. */
#define SANDBOXES_MAX 4096U

struct Manager {
        const Settings *settings;       /* borrowed */
        sd_event *event;
        sd_bus *bus;                    /* system bus; NULL in tests that have none */
        SandboxStore *store;
        History *history;               /* NULL in tests that have none */
        TAILQ_HEAD(, Sandbox) untold;   /* whose stories have not been written */
        sd_event_source *tell;
        ServiceLink *tunnel, *provider;
        UnitClient *units;
        NodeClient *node;               /* NULL in tests that have no bus */
        Polkit *polkit;
        HypervisorService *hypervisor;
        char *hypervisor_socket;        /* its path, whoever has made it; NULL before it is served */

        char *provider_name;            /* NULL until the provider service has told */
        uint64_t user_data_size_max;    /* 0 until then, or if it did not say */
        TAILQ_HEAD(SandboxHead, Sandbox) sandboxes;     /* in the order of their coming */
        Sandbox *by_id;
        Pod *pods;                      /* by name */
        unsigned n_sandboxes;
        struct SandboxHead gone;        /* freed by this: */
        sd_event_source *sweep;

        /* comparing our records with what is out there, at start and from time to time */
        ServiceCall *name_call, *find_call, *list_call;
        uint64_t find_usec;             /* CLOCK_REALTIME when find_call began */
        unsigned n_lists;               /* of the cloud's instances that were read */
        GoneSandbox *gone_meanwhile;    /* while a list is under way */
        sd_event_source *reconcile_again, *reconcile_timer;
        sd_event_source *shim_timer;
        CertificateWatch *certificates;
        LIST_HEAD(, OrphanQuery) orphan_queries;
        unsigned n_orphan_queries;
        bool notify;                    /* tell systemd our status */

        Metrics metrics;
};

/**
 * manager_new() - all but the bus, the records and the shim's socket
 * @settings: borrowed for the manager's life
 *
 * Logs its failures.
 */
int manager_new(const Settings *settings, sd_event *event, Manager **ret);
Manager* manager_free(Manager *m);
DEFINE_CLEANUP(Manager*, manager_free);

/* Each logs its failures. */
int manager_connect_bus(Manager *m);
int manager_load(Manager *m);                           /* reads the records; asks nobody anything yet */
int manager_listen(Manager *m, int fd);                 /* @fd: taken */

/* manager_start() - let the sandboxes that were read go on, and compare them with what cloud and kernel have, from time to time. Logs its
 * failures. */
int manager_start(Manager *m);

/* manager_notify() - READY=1 and STATUS= */
void manager_notify_ready(Manager *m);

/* manager_settings_changed() - the settings that a reload can change were read again */
void manager_settings_changed(Manager *m);

Sandbox* manager_find_sandbox(Manager *m, const char *id);

/* manager_forget_unreadable() - StopVM for a sandbox whose record was set aside: a sandbox that knows just enough to be deleted.
 * Returns 1 with @ret, 0 if there is none of that id, negative. */
int manager_forget_unreadable(Manager *m, const char *id, Sandbox **ret);

/* manager_retire_older() - kata's shim has made a new sandbox for a pod: older ones of the same pod have lost theirs */
void manager_retire_older(Manager *m, const Sandbox *newest);

/* manager_reap_instance() - one that carries our node's tag, and that no record knows: a sandbox is made up for it, and deleted. The
 * other for a tunnel. Failures are logged. */
void manager_reap_instance(Manager *m, const char *id, const char *name, const char *instance_id);
void manager_reap_tunnel(Manager *m, const char *id);

/* manager_is_gone_meanwhile() - a list that began before the sandbox went may still have it; to be forgotten when no list is under way */
bool manager_is_gone_meanwhile(const Manager *m, const char *id);
void manager_forget_gone(Manager *m);

/* For sandboxes. */
int manager_add_sandbox(Manager *m, Sandbox *s);       /* -ENOMEM: it is in no table */
void manager_remove_sandbox(Manager *m, Sandbox *s);
void manager_sandbox_changed(Manager *m, Sandbox *s);
void manager_sandbox_gone(Manager *m, Sandbox *s);      /* frees it later, from the loop */
