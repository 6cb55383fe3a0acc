/* SPDX-License-Identifier: Apache-2.0 */
/* Calls, their failures, and the session (vSphere Web Services API; vmware/govmomi: vim25/soap/client.go, session/manager.go). */
#include <strings.h>
#include <syslog.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-xml.h"
#include "vsphere.h"

#define ACTION "urn:vim25/6.7"                  /* what a 6.7 knows is all that is asked, */
#define ACTION_CONFIDENTIAL "urn:vim25/9.0.0.0" /* but for these (vmware/govmomi: vim25/types/types.go, VirtualMachineConfigSpec) */
#define COOKIE "vmware_soap_session="
#define LOGOUT_USEC (2 * USEC_PER_SEC)

/* One call and what its tries have brought. */
typedef struct Try {
        Vsphere *vsphere;
        const char *method;
        int flags;
        Token used;
        xmlDoc *doc;
        xmlNode *answer;
        Fault fault;
} Try;

void vim_reply_done(VimReply *r) {
        if (r->doc)
                xmlFreeDoc(r->doc);
        *r = (VimReply) {};
}

bool fault_is(const Fault *f, const char *type) {
        return streq(f->type, type);
}

bool fault_is_gone(const Fault *f, const Ref *object) {
        return fault_is(f, "ManagedObjectNotFound") && (isempty(f->object) || streq(f->object, object->id));
}

/* ---- failures ---- */

static bool is_one_of(const char *type, const char *const *list) {
        for (; *list; list++)
                if (streq(type, *list))
                        return true;
        return false;
}

/* Nothing is done: somebody else has the object. */
static const char *const busy[] = { "TaskInProgress", "ResourceInUse", "ConcurrentAccess", NULL };
static const char *const passing[] = { "HostCommunication", "HostNotConnected", "HostNotReachable", "Timedout", NULL };
static const char *const forbidden[] = { "InvalidLogin", "NoPermission", "NotAuthenticated", "InvalidLocale", "PasswordExpired", "RestrictedVersion", NULL };
static const char *const exhausted[] = {
        "InsufficientResourcesFault", "InsufficientCpuResourcesFault", "InsufficientMemoryResourcesFault", "InsufficientHostCapacityFault",
        "InsufficientFailoverResourcesFault", "InsufficientStorageSpace", "InsufficientDisks", "NoDiskSpace", "NoCompatibleHost",
        "NoCompatibleDatastore", "NotEnoughLicenses", "OutOfBounds", NULL,
};

static PeerpodErrorKind kind_of(const Fault *f) {
        if (is_one_of(f->type, busy) || is_one_of(f->type, passing))
                return PEERPOD_E_UNAVAILABLE;
        if (is_one_of(f->type, forbidden))
                return PEERPOD_E_UNAUTHENTICATED;
        if (is_one_of(f->type, exhausted))
                return PEERPOD_E_EXHAUSTED;
        if (fault_is(f, "DuplicateName"))
                return PEERPOD_E_ALREADY_EXISTS;
        if (fault_is(f, "ManagedObjectNotFound"))
                return PEERPOD_E_NOT_FOUND;
        return PEERPOD_E_FAILED_PRECONDITION;
}

int vim_fail(PeerpodError *error, const char *what, const Fault *f) {
        return peerpod_error_set(error, kind_of(f), "%s: %s%s%s", what, isempty(f->type) ? "it failed" : f->type, isempty(f->words) ? "" : ": ", f->words);
}

/* ---- the hooks of a try ---- */

static int authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        Token token = {};
        Try *t = userdata;
        int r;

        if (t->flags & VIM_ANONYMOUS)
                return 0;
        r = token_cache_get(t->vsphere->sessions, call, fresh ? &t->used : NULL, &token, error);
        if (r < 0)
                return r;
        token_done(&t->used);
        t->used = token;
        r = http_add_header(request, "Cookie", t->used.parts[0]);
        return r < 0 ? oom(error) : 0;
}

static HttpVerdict judge(void *userdata, const HttpReply *reply) {
        Try *t = userdata;

        if (t->doc)
                xmlFreeDoc(t->doc);
        t->doc = NULL;
        t->answer = NULL;
        t->fault = (Fault) {};
        if (xml_parse(reply->body, reply->size, &t->doc) < 0)
                t->doc = NULL;
        if (t->doc && reply->status == 200)
                t->answer = soap_answer(t->doc, t->method);
        if (t->answer)
                return (t->flags & VIM_ANONYMOUS) == 0 && soap_lacks_session(t->answer) ? HTTP_UNAUTHORIZED : HTTP_DONE;
        if (!t->doc || soap_fault(t->doc, &t->fault) <= 0)
                return reply->status == 200 ? HTTP_AGAIN : http_judge_by_status(NULL, reply);

        if (fault_is(&t->fault, "NotAuthenticated"))
                return HTTP_UNAUTHORIZED;
        if (is_one_of(t->fault.type, busy))
                return HTTP_AGAIN_UNDONE;
        return is_one_of(t->fault.type, passing) ? HTTP_AGAIN : HTTP_DONE;
}

/* ---- the call ---- */

static int explain(const Try *t, const HttpReply *reply, VimReply *ret, PeerpodError *error) {
        int r;

        ret->fault = t->fault;
        if (!isempty(t->fault.type) || !isempty(t->fault.words))
                return vim_fail(error, t->method, &t->fault);
        ret->unknown = reply->status < 400 || reply->status >= 500;
        if (reply->status < 300)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer is none of a vCenter's (HTTP %i).", t->method, reply->status);
        r = http_error(error, t->method, reply, NULL, NULL);
        if (error->kind != PEERPOD_E_NOT_FOUND)
                return r;
        /* Not the object: the path of GOVC_URL. */
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s: there is no vCenter at '%s' (HTTP %i).", t->method, t->vsphere->url, reply->status);
}

static int perform(Try *t, const PeerpodCall *call, const char *body, uint64_t timeout_usec, HttpReply *reply, VimReply *ret, PeerpodError *error) {
        const CloudApi api = { .authorize = authorize, .judge = judge, .userdata = t };
        HttpRequest request = { .api = &api, .method = "POST", .url = t->vsphere->url, .what = t->method, .body = body, .body_size = strlen(body),
                                .repeatable = t->flags & VIM_REPEATABLE, .timeout_usec = timeout_usec };
        bool sent = false;
        int r;

        r = http_add_header(&request, "Content-Type", "text/xml; charset=\"utf-8\"");
        if (r == 0)
                r = http_add_header(&request, "SOAPAction", isempty(t->vsphere->confidential) ? ACTION : ACTION_CONFIDENTIAL);
        r = r < 0 ? oom(error) : cloud_http_perform(t->vsphere->http, call, &request, reply, &sent, error);
        http_request_done(&request);
        ret->unknown = r < 0 && sent;
        return r;
}

int vim_call(Vsphere *v, const PeerpodCall *call, Soap *s, int flags, uint64_t timeout_usec, VimReply *ret, PeerpodError *error) {
        Try t = { .vsphere = v, .method = s->method, .flags = flags };
        const char *body = soap_text(s);
        HttpReply reply = {};
        int r;

        *ret = (VimReply) {};
        r = body ? perform(&t, call, body, timeout_usec, &reply, ret, error) :
                peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: out of memory, or a value holds what no XML can.", t.method);
        soap_done(s);
        token_done(&t.used);
        if (r == 0 && t.answer) {
                ret->answer = t.answer;
                ret->doc = TAKE_PTR(t.doc);
        } else if (r == 0)
                r = explain(&t, &reply, ret, error);
        if (t.doc)
                xmlFreeDoc(t.doc);
        http_reply_done(&reply);
        return r;
}

int vim_begin(Vsphere *v, const PeerpodCall *call, const char *method, const Ref *object, Ref *ret_task, VimReply *reply, PeerpodError *error) {
        Soap s = {};
        int r;

        /* Of what was done already, the second one says that the state is not that. */
        soap_begin(&s, method, object);
        r = vim_call(v, call, &s, VIM_REPEATABLE, 0, reply, error);
        if (r < 0)
                return r;
        r = ref_read(xml_child(reply->answer, "returnval"), ret_task);
        return r == 0 ? 0 : r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer names no task.", method);
}

/* ---- the session ---- */

static int read_content(const xmlNode *answer, Content *ret) {
        xmlNode *n = xml_child(answer, "returnval");
        _cleanup_(freep) char *type = NULL, *version = NULL, *name = NULL, *plain = NULL;
        const struct {
                const char *path;
                Ref *to;
        } refs[] = {
                { "rootFolder", &ret->root_folder },            { "propertyCollector", &ret->property_collector },
                { "sessionManager", &ret->session_manager },    { "searchIndex", &ret->search_index },
                { "authorizationManager", &ret->authorization_manager },
        };
        int r;

        for (size_t i = 0; i < ELEMENTSOF(refs); i++) {
                r = ref_read(xml_child(n, refs[i].path), refs[i].to);
                if (r < 0)
                        return r == -ENOENT ? -EBADMSG : r;
        }
        type = xml_text(n, "about/apiType");
        version = xml_text(n, "about/apiVersion");
        name = xml_text(n, "about/fullName");
        plain = name ? text_make_plain(name, sizeof(ret->name) - 1) : NULL;
        if (!type || !version || !plain)
                return -ENOMEM;
        ret->is_vcenter = streq(type, "VirtualCenter");
        ret->version = (unsigned) strtoul(version, NULL, 10);
        (void) snprintf(ret->name, sizeof(ret->name), "%s", plain);
        return 0;
}

static int learn_content(Vsphere *v, const PeerpodCall *call, PeerpodError *error) {
        const Ref instance = { "ServiceInstance", "ServiceInstance" };
        _cleanup_(vim_reply_done) VimReply reply = {};
        Content content = {};
        Soap s = {};
        int r;

        soap_begin(&s, "RetrieveServiceContent", &instance);
        r = vim_call(v, call, &s, VIM_REPEATABLE|VIM_ANONYMOUS, 0, &reply, error);
        if (r < 0) {
                if (r == -ENOTSUP && isempty(reply.fault.type)) {
                        char why[512];

                        (void) snprintf(why, sizeof(why), "%.511s", error->text);
                        return peerpod_error_set(error, error->kind, "%s Settings: GOVC_URL, GOVC_THUMBPRINT, GOVC_TLS_CA_CERTS.", why);
                }
                return r;
        }
        r = read_content(reply.answer, &content);
        if (r < 0)
                return r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "RetrieveServiceContent: the answer is none of a vCenter's.");
        if (!content.is_vcenter)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "'%s' at GOVC_URL is no vCenter Server, and only that can clone.", content.name);
        if (!isempty(v->confidential) && content.version < 9)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "GOVC_CONFIDENTIAL_TYPE needs a vCenter Server 9; this is '%s'.", content.name);
        v->content = content;
        atomic_store(&v->content_known, true);
        return 0;
}

/* "Set-Cookie: vmware_soap_session="0123…"; Path=/; HttpOnly; Secure;" is sent back as it came, quotes and all. */
static char* read_cookie(const char *headers) {
        for (const char *p = headers; *p; p += strcspn(p, "\n"), p += *p == '\n') {
                const char *value;

                if (strncasecmp(p, "set-cookie:", 11) != 0)
                        continue;
                value = p + 11 + strspn(p + 11, " \t");
                if (startswith(value, COOKIE))
                        return strndup(value, strcspn(value, ";\r\n"));
        }
        return NULL;
}

int vim_login(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        Vsphere *v = userdata;
        Try t = { .vsphere = v, .method = "Login", .flags = VIM_REPEATABLE|VIM_ANONYMOUS };
        _cleanup_(soap_done) Soap s = {};
        VimReply outcome = {};
        HttpReply reply = {};
        const char *body;
        int r;

        /* Without a cookie: a log-in within a session is refused as if the password were wrong. */
        r = atomic_load(&v->content_known) ? 0 : learn_content(v, call, error);
        if (r < 0)
                return r;
        soap_begin(&s, "Login", &v->content.session_manager);
        soap_add(&s, "userName", v->user);
        soap_add(&s, "password", v->password);
        soap_add(&s, "locale", "en_US");
        body = soap_text(&s);
        if (!body)
                return oom(error);
        r = perform(&t, call, body, 0, &reply, &outcome, error);
        if (r == 0 && !t.answer)
                r = explain(&t, &reply, &outcome, error);
        if (r == 0) {
                *ret = (Token) { .parts = { read_cookie(reply.headers) }, .expires_usec = UINT64_MAX };
                if (!ret->parts[0])
                        r = peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Login: the answer has no session.");
                else
                        atomic_store(&v->logged_in, true);
        }
        if (r < 0 && fault_is(&outcome.fault, "InvalidLogin"))
                r = peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The vCenter does not accept GOVC_USERNAME '%s' with GOVC_PASSWORD.", v->user);
        if (t.doc)
                xmlFreeDoc(t.doc);
        http_reply_done(&reply);
        return r;
}

int vim_ready(Vsphere *v, const PeerpodCall *call, PeerpodError *error) {
        Token token = {};
        int r;

        if (atomic_load(&v->content_known))
                return 0;
        r = token_cache_get(v->sessions, call, NULL, &token, error);
        token_done(&token);
        return r;
}

/* A session that is left would be kept for half an hour. */
void vim_logout(Vsphere *v) {
        PeerpodCall call = { .size = sizeof(call), .cancel_fd = -1, .deadline_usec = peerpod_now_usec() + LOGOUT_USEC };
        PeerpodError error = { .size = sizeof(error) };
        _cleanup_(vim_reply_done) VimReply reply = {};
        Soap s = {};

        if (!atomic_load(&v->logged_in))
                return;
        soap_begin(&s, "Logout", &v->content.session_manager);
        (void) vim_call(v, &call, &s, 0, LOGOUT_USEC, &reply, &error);
}
