/* SPDX-License-Identifier: Apache-2.0 */
/* Reading properties, and waiting for them to change (vmware/pyvmomi: docs/vmodl/query/PropertyCollector.rst). A wait has a collector of its own,
 * since only one can wait on each; with its session it ends on the server, too, and is begun anew. */
#include <syslog.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-xml.h"
#include "vsphere.h"

#define PAGE_SIZE 200
#define PAGES_MAX 1000
#define TASK_POLL_FIRST_USEC (30 * USEC_PER_MSEC)
#define TASK_POLL_MAX_USEC (2 * USEC_PER_SEC)
#define WATCH_SECONDS 5                 /* that the server holds a request */
#define WATCH_TIMEOUT_USEC ((WATCH_SECONDS + 15) * USEC_PER_SEC)
#define LOST_MAX 5                      /* collectors of one wait, one after the other */
#define LOST_PAUSE_USEC (200 * USEC_PER_MSEC)
#define CLEANUP_USEC (2 * USEC_PER_SEC)

static void add_properties(Soap *s, const char *type, const char *const *paths) {
        soap_open(s, "propSet");
        soap_add(s, "type", type);
        for (; *paths; paths++)
                soap_add(s, "pathSet", *paths);
        soap_close(s, "propSet");
}

int vim_get(Vsphere *v, const PeerpodCall *call, const Ref *object, const char *const *paths, VimReply *reply, xmlNode **ret_object, PeerpodError *error) {
        Soap s = {};
        xmlNode *n;
        int r;

        soap_begin(&s, "RetrievePropertiesEx", &v->content.property_collector);
        soap_open(&s, "specSet");
        add_properties(&s, object->type, paths);
        soap_open(&s, "objectSet");
        soap_add_ref(&s, "obj", object);
        soap_close(&s, "objectSet");
        soap_close(&s, "specSet");
        soap_add(&s, "options", "");
        r = vim_call(v, call, &s, VIM_REPEATABLE, 0, reply, error);
        if (r < 0)
                return r;
        n = xml_child(reply->answer, "returnval/objects");
        if (!n)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "RetrievePropertiesEx: the answer has no object.");
        *ret_object = n;
        return 0;
}

/* ---- many ---- */

/* A folder's children, and theirs if they are folders. */
static void begin_each(Vsphere *v, const Ref *folder, const char *const *paths, Soap *s) {
        soap_begin(s, "RetrievePropertiesEx", &v->content.property_collector);
        soap_open(s, "specSet");
        add_properties(s, "VirtualMachine", paths);
        soap_open(s, "objectSet");
        soap_add_ref(s, "obj", folder);
        soap_add_bool(s, "skip", true);
        soap_open_typed(s, "selectSet", "TraversalSpec");
        soap_add(s, "name", "children");
        soap_add(s, "type", "Folder");
        soap_add(s, "path", "childEntity");
        soap_add_bool(s, "skip", false);
        soap_open(s, "selectSet");
        soap_add(s, "name", "children");
        soap_close(s, "selectSet");
        soap_close(s, "selectSet");
        soap_close(s, "objectSet");
        soap_close(s, "specSet");
        soap_open(s, "options");
        soap_add_uint(s, "maxObjects", PAGE_SIZE);
        soap_close(s, "options");
}

static int take_page(const xmlNode *answer, VimItem item, void *userdata, char **ret_token, PeerpodError *error) {
        xmlNode *result = xml_child(answer, "returnval");
        char *token;

        for (xmlNode *n = xml_first(result, "objects"); n; n = xml_next(n, "objects")) {
                Ref vm = {};
                int r;

                r = ref_read(xml_child(n, "obj"), &vm);
                if (r == -ENOMEM)
                        return oom(error);
                if (r < 0)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "RetrievePropertiesEx: the answer has an object without a name.");
                r = item(userdata, &vm, n, error);
                if (r < 0)
                        return r;
        }
        token = result ? xml_text(result, "token") : strdup("");
        if (!token)
                return oom(error);
        *ret_token = token;
        return 0;
}

int vim_each(Vsphere *v, const PeerpodCall *call, const Ref *folder, const char *const *paths, VimItem item, void *userdata, PeerpodError *error) {
        _cleanup_(freep) char *token = NULL;

        for (unsigned page = 0; page < PAGES_MAX; page++) {
                _cleanup_(vim_reply_done) VimReply reply = {};
                Soap s = {};
                int r;

                if (token) {
                        soap_begin(&s, "ContinueRetrievePropertiesEx", &v->content.property_collector);
                        soap_add(&s, "token", token);
                        free(token);
                        token = NULL;
                } else
                        begin_each(v, folder, paths, &s);
                /* A page can be asked for once. */
                r = vim_call(v, call, &s, page == 0 ? VIM_REPEATABLE : 0, 0, &reply, error);
                if (r == 0)
                        r = take_page(reply.answer, item, userdata, &token, error);
                if (r < 0)
                        return r;
                if (isempty(token))
                        return 0;
        }
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of virtual machines does not end.");
}

/* ---- tasks ---- */

/* 1: it has ended; a failure is an error */
static int read_task(const xmlNode *object, const char *what, Ref *ret, Fault *ret_fault, PeerpodError *error) {
        xmlNode *n = soap_property(object, "info.state");
        _cleanup_(freep) char *state = n ? xml_text(n, "") : strdup("");
        Fault fault = {};
        int r;

        if (!state)
                return oom(error);
        if (streq(state, "queued") || streq(state, "running"))
                return 0;
        if (streq(state, "success")) {
                r = ret ? ref_read(soap_property(object, "info.result"), ret) : 0;
                return r == 0 ? 1 : r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the task has no result.", what);
        }
        n = streq(state, "error") ? soap_property(object, "info.error") : NULL;
        if (!n)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the task has no state that is known.", what);
        r = fault_read(n, &fault);
        if (r < 0)
                return oom(error);
        if (ret_fault)
                *ret_fault = fault;
        return vim_fail(error, what, &fault);
}

int vim_wait_task(Vsphere *v, const PeerpodCall *call, const char *what, const Ref *task, Ref *ret, Fault *ret_fault, PeerpodError *error) {
        static const char *const paths[] = { "info.state", "info.result", "info.error", NULL };

        for (uint64_t pause = TASK_POLL_FIRST_USEC;; pause = MIN(pause * 2, TASK_POLL_MAX_USEC)) {
                _cleanup_(vim_reply_done) VimReply reply = {};
                xmlNode *object;
                int r;

                r = vim_get(v, call, task, paths, &reply, &object, error);
                if (r == 0)
                        r = read_task(object, what, ret, ret_fault, error);
                if (r != 0)
                        return r < 0 ? r : 0;
                r = peerpod_call_wait(call, -1, 0, pause, error);
                if (r < 0)
                        return r;
        }
}

/* ---- changes ---- */

static int make_collector(Vsphere *v, const PeerpodCall *call, Ref *ret, PeerpodError *error) {
        _cleanup_(vim_reply_done) VimReply reply = {};
        Soap s = {};
        int r;

        soap_begin(&s, "CreatePropertyCollector", &v->content.property_collector);
        /* One more of them is no harm: it ends with the session. */
        r = vim_call(v, call, &s, VIM_REPEATABLE, 0, &reply, error);
        if (r < 0)
                return r;
        r = ref_read(xml_child(reply.answer, "returnval"), ret);
        return r == 0 ? 0 : r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "CreatePropertyCollector: the answer has none.");
}

static int make_filter(Vsphere *v, const PeerpodCall *call, const Ref *collector, const Ref *object, const char *const *paths, VimReply *reply,
                       PeerpodError *error) {
        Soap s = {};

        soap_begin(&s, "CreateFilter", collector);
        soap_open(&s, "spec");
        add_properties(&s, object->type, paths);
        soap_open(&s, "objectSet");
        soap_add_ref(&s, "obj", object);
        soap_close(&s, "objectSet");
        soap_close(&s, "spec");
        soap_add_bool(&s, "partialUpdates", false);
        return vim_call(v, call, &s, VIM_REPEATABLE, 0, reply, error);
}

static void free_collector(Vsphere *v, const PeerpodCall *call, const Ref *collector) {
        PeerpodCall u = peerpod_call_for_undo(call, CLEANUP_USEC);
        PeerpodError e = { .size = sizeof(e) };
        _cleanup_(vim_reply_done) VimReply reply = {};
        Soap s = {};

        soap_begin(&s, "DestroyPropertyCollector", collector);
        if (vim_call(v, &u, &s, VIM_REPEATABLE, 0, &reply, &e) < 0 && !fault_is_gone(&reply.fault, collector))
                peerpod_log(call, LOG_DEBUG, "A property collector is left until its session ends: %s", e.text);
}

/* All objects of one answer; the version for the next question. 1: seen */
static int take_updates(const xmlNode *answer, VimSeen seen, void *userdata, char **version, PeerpodError *error) {
        xmlNode *result = xml_child(answer, "returnval");
        char *next;

        if (!result)
                return seen(userdata, NULL, error);
        for (xmlNode *f = xml_first(result, "filterSet"); f; f = xml_next(f, "filterSet"))
                for (xmlNode *o = xml_first(f, "objectSet"); o; o = xml_next(o, "objectSet")) {
                        int r = seen(userdata, o, error);

                        if (r != 0)
                                return r;
                }
        next = xml_text(result, "version");
        if (!next)
                return oom(error);
        if (isempty(next)) {
                free(next);
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "WaitForUpdatesEx: the answer has no version.");
        }
        free(*version);
        *version = next;
        return 0;
}

/* 1: seen; 0: nothing yet. Not repeated: whether the changes of a lost answer come again is not for sure. */
static int ask_for_updates(Vsphere *v, const PeerpodCall *call, const Ref *collector, char **version, VimSeen seen, void *userdata, VimReply *reply,
                           PeerpodError *error) {
        Soap s = {};
        int r;

        soap_begin(&s, "WaitForUpdatesEx", collector);
        soap_add(&s, "version", *version);
        soap_open(&s, "options");
        soap_add_uint(&s, "maxWaitSeconds", WATCH_SECONDS);
        soap_close(&s, "options");
        r = vim_call(v, call, &s, 0, WATCH_TIMEOUT_USEC, reply, error);
        return r < 0 ? r : take_updates(reply->answer, seen, userdata, version, error);
}

/* 1: seen; 0: the collector has gone, or what it said is lost; *n_lost counts that as long as it says nothing */
static int watch_with(Vsphere *v, const PeerpodCall *call, const Ref *collector, const Ref *object, const char *const *paths, VimSeen seen, void *userdata,
                      unsigned *n_lost, PeerpodError *error) {
        _cleanup_(freep) char *version = NULL;
        VimReply reply = {};
        bool lost = false;
        int r;

        r = make_filter(v, call, collector, object, paths, &reply, error);
        while (r == 0) {
                vim_reply_done(&reply);
                r = ask_for_updates(v, call, collector, &version, seen, userdata, &reply, error);
                lost = r < 0 && reply.unknown;
                if (r == 0)
                        *n_lost = 0;
        }
        if (r < 0 && !streq(reply.fault.object, object->id))
                lost = lost || fault_is_gone(&reply.fault, collector) || fault_is(&reply.fault, "InvalidCollectorVersion");
        vim_reply_done(&reply);
        return lost && ++*n_lost < LOST_MAX ? 0 : r;
}

int vim_watch(Vsphere *v, const PeerpodCall *call, const Ref *object, const char *const *paths, VimSeen seen, void *userdata, PeerpodError *error) {
        unsigned n_lost = 0;

        for (;;) {
                Ref collector = {};
                int r;

                r = make_collector(v, call, &collector, error);
                if (r < 0)
                        return r;
                r = watch_with(v, call, &collector, object, paths, seen, userdata, &n_lost, error);
                free_collector(v, call, &collector);
                if (r != 0)
                        return r < 0 ? r : 0;
                r = peerpod_call_wait(call, -1, 0, LOST_PAUSE_USEC, error);
                if (r < 0)
                        return r;
        }
}
