/* SPDX-License-Identifier: Apache-2.0 */
/* The Query protocol of EC2 and STS (aws/aws-sdk-go-v2: service/ec2/serializers.go; botocore: botocore/serialize.py, QuerySerializer). */
#include "aws-api.h"

#include <stdarg.h>
#include <syslog.h>
#include <time.h>

#include "aws-metadata.h"
#include "basic/parse.h"
#include "cloud-config.h"
#include "cloud-sign.h"

#define EC2_VERSION "2016-11-15"
#define STS_VERSION "2011-06-15"
#define CONTENT_TYPE "application/x-www-form-urlencoded; charset=utf-8"
#define PAGES_MAX 1000
#define CLOCK_OFFSET_MAX (7 * 24 * 3600)

/* One request and what its tries have brought. */
typedef struct Try {
        Aws *aws;
        const AwsQuery *query;
        const char *region;
        Token used;                     /* of the last try */
        xmlDoc *doc;                    /* of the last reply */
        char code[AWS_CODE_SIZE];
} Try;

void aws_reply_done(AwsReply *r) {
        if (r->doc)
                xmlFreeDoc(r->doc);
        *r = (AwsReply) {};
}

int aws_field(const xmlNode *n, const char *path, char *ret, size_t size, PeerpodError *error) {
        _cleanup_(freep) char *text = xml_text(n, path);

        if (!text)
                return oom(error);
        (void) snprintf(ret, size, "%s", strlen(text) < size ? text : "");
        return 0;
}

int aws_number(const xmlNode *n, const char *path, uint64_t *ret, PeerpodError *error) {
        char text[24];
        int r = aws_field(n, path, text, sizeof(text), error);

        *ret = 0;
        if (r == 0)
                (void) parse_u64(text, ret);
        return r;
}

void form_add_key(Form *f, const char *value, const char *key, ...) {
        char text[128];
        va_list ap;

        va_start(ap, key);
        (void) vsnprintf(text, sizeof(text), key, ap);
        va_end(ap);
        form_add(f, text, value);
}

void form_add_filter(Form *f, unsigned n, const char *name, const char *value) {
        form_add_key(f, name, "Filter.%u.Name", n);
        form_add_key(f, value, "Filter.%u.Value.1", n);
}

void form_add_list(Form *f, const char *prefix, const char *list) {
        const char *item;
        unsigned i = 1;
        size_t n;

        while (list_next(&list, &item, &n)) {
                char key[128];

                (void) snprintf(key, sizeof(key), "%s%u", prefix, i++);
                form_addf(f, key, "%.*s", (int) n, item);
        }
}

/* ---- errors ---- */

static bool is_one_of(const char *code, const char *const *list) {
        for (; *list; list++)
                if (streq(code, *list))
                        return true;
        return false;
}

/* aws/aws-sdk-go-v2: aws/retry/standard.go, DefaultThrottleErrorCodes */
static const char *const throttles[] = {
        "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottledException", "RequestThrottled", "TooManyRequestsException",
        "ProvisionedThroughputExceededException", "TransactionInProgressException", "RequestLimitExceeded", "BandwidthLimitExceeded",
        "LimitExceededException", "SlowDown", "PriorRequestNotComplete", "EC2ThrottledException", NULL,
};
static const char *const passing[] = {
        "RequestTimeout", "RequestTimeoutException", "InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable", "IDPCommunicationError",
        "InvalidIdentityToken", NULL,   /* the last one: the token file's new content is not known everywhere at once */
};
static const char *const refusals[] = {
        "AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired", "RequestInTheFuture", "SignatureDoesNotMatch",
        "InvalidSignatureException", "IncompleteSignature", "UnrecognizedClientException", "InvalidToken", NULL,
};
static const char *const forbidden[] = {
        "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "OptInRequired", "PendingVerification", "Blocked", "MissingAuthenticationToken",
        "InvalidIdentityToken", NULL,
};
static const char *const exhausted[] = {
        "InstanceLimitExceeded", "VcpuLimitExceeded", "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity",
        "InsufficientReservedInstanceCapacity", "InsufficientFreeAddressesInSubnet", "InsufficientAddressCapacity", "AddressLimitExceeded",
        "VolumeLimitExceeded", "AttachmentLimitExceeded", "NetworkInterfaceLimitExceeded", "MaxIOPSLimitExceeded", "TagLimitExceeded",
        "MaxSpotInstanceCountExceeded", "InsufficientVolumeCapacity", NULL,
};

bool aws_is_gone(const char *code) {
        const char *dot = strrchr(code, '.');

        return startswith(code, "Invalid") && dot && (streq(dot, ".NotFound") || streq(dot, ".NotFoundException"));
}

PeerpodErrorKind aws_error_kind(const char *code, int status) {
        if (is_one_of(code, throttles) || status == 429)
                return PEERPOD_E_THROTTLED;
        if (is_one_of(code, exhausted))
                return PEERPOD_E_EXHAUSTED;
        if (is_one_of(code, refusals) || is_one_of(code, forbidden) || status == 401 || status == 403)
                return PEERPOD_E_UNAUTHENTICATED;
        if (is_one_of(code, passing) || status >= 500)
                return PEERPOD_E_UNAVAILABLE;
        if (aws_is_gone(code) || startswith(code, "Incorrect") || startswith(code, "Unsupported") || startswith(code, "DependencyViolation") ||
            streq(code, "VolumeInUse") || streq(code, "ResourceAlreadyAssociated") || strstr(code, ".InUse") || status == 404 || status == 412)
                return PEERPOD_E_FAILED_PRECONDITION;
        if (status == 400)
                return PEERPOD_E_INVALID_ARGUMENT;
        return PEERPOD_E_INTERNAL;
}

/* ---- the hooks of a try ---- */

/* "http://host:1234/path" → "host:1234", "/path" */
static void split_url(const char *url, char host[static 256], const char **ret_path) {
        const char *begin = strstr(url, "://");
        size_t n;

        begin = begin ? begin + 3 : url;
        n = strcspn(begin, "/");
        (void) snprintf(host, 256, "%.*s", (int) MIN(n, (size_t) 255), begin);
        *ret_path = begin[n] ? begin + n : "/";
}

static int sign(const Try *t, HttpRequest *request, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *authorization = NULL;
        const char *session = t->used.parts[CREDENTIAL_SESSION], *path;
        char date[17], host[256];
        SignHeader headers[] = {
                { "content-type", CONTENT_TYPE },
                { "host", host },
                { "x-amz-date", date },
                { "x-amz-security-token", session },
        };
        int r;

        split_url(request->url, host, &path);
        sigv4_time(time(NULL) + (time_t) atomic_load(&t->aws->clock_offset), date);
        r = sigv4_sign(t->used.parts[CREDENTIAL_KEY_ID], t->used.parts[CREDENTIAL_SECRET], t->region, t->query->sts ? "sts" : "ec2", request->method,
                       path, "", headers, ELEMENTSOF(headers) - (isempty(session) ? 1 : 0), request->body, request->body_size, &authorization);
        if (r == 0)
                r = http_add_header(request, "X-Amz-Date", date);
        if (r == 0 && !isempty(session))
                r = http_add_header(request, "X-Amz-Security-Token", session);
        if (r == 0)
                r = http_add_header(request, "Authorization", authorization);
        if (r == -EINVAL)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The credentials hold characters that no header can.");
        return r < 0 ? oom(error) : 0;
}

static int authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        Try *t = userdata;
        Token token = {};
        int r;

        if (t->query->anonymous)
                return 0;
        if (t->query->credentials)
                r = token_copy(t->query->credentials, &token) < 0 ? oom(error) : 0;
        else
                r = token_cache_get(t->aws->credentials, call, fresh ? &t->used : NULL, &token, error);
        if (r < 0)
                return r;
        token_done(&t->used);
        t->used = token;
        return sign(t, request, error);
}

/* A signature that is refused may be one of the wrong time: take the answer's. */
static void learn_clock(Try *t, const HttpReply *reply) {
        _cleanup_(freep) char *date = NULL;
        long long offset;
        struct tm tm = {};

        if (http_reply_header(reply, "Date", &date) <= 0 || !strptime(date, "%a, %d %b %Y %H:%M:%S GMT", &tm))
                return;
        offset = (long long) timegm(&tm) - (long long) time(NULL);
        if (offset < -CLOCK_OFFSET_MAX || offset > CLOCK_OFFSET_MAX)
                return;
        /* What is less than a minute is the way of the answer, not the clock. */
        atomic_store(&t->aws->clock_offset, offset > -60 && offset < 60 ? 0 : offset);
}

/* EC2: Response/Errors/Error/Code, STS: ErrorResponse/Error/Code */
static xmlNode* find_error(const xmlNode *root) {
        return xml_child(root, "Errors/Error") ?: xml_child(root, "Error");
}

static HttpVerdict judge(void *userdata, const HttpReply *reply) {
        _cleanup_(freep) char *code = NULL;
        xmlNode *failure = NULL;
        Try *t = userdata;

        if (t->doc)
                xmlFreeDoc(t->doc);
        t->doc = NULL;
        t->code[0] = '\0';
        if (xml_parse(reply->body, reply->size, &t->doc) < 0)
                t->doc = NULL;

        if (reply->status >= 200 && reply->status < 300) {
                const char *rest = t->doc ? startswith((const char*) xmlDocGetRootElement(t->doc)->name, t->query->action) : NULL;

                return rest && streq(rest, "Response") ? HTTP_DONE : HTTP_AGAIN;
        }
        if (t->doc)
                failure = find_error(xmlDocGetRootElement(t->doc));
        if (failure) {
                code = xml_text(failure, "Code");
                (void) snprintf(t->code, sizeof(t->code), "%s", strempty(code));
        }

        if (is_one_of(t->code, throttles))
                return HTTP_AGAIN_UNDONE;
        if (is_one_of(t->code, refusals)) {
                learn_clock(t, reply);
                return HTTP_UNAUTHORIZED;
        }
        if (is_one_of(t->code, passing))
                return HTTP_AGAIN;
        /* What has a code of its own is not mended by a second try, not even where the status is 500 (InsufficientInstanceCapacity). */
        if (!isempty(t->code))
                return HTTP_DONE;
        return http_judge_by_status(NULL, reply);
}

/* ---- the request ---- */

static int make_url(Aws *a, const AwsQuery *q, const char *region, char **ret) {
        const char *override = q->sts ? a->environment.sts : a->environment.ec2;

        if (!isempty(override))
                *ret = strdup(override);
        else if (asprintf(ret, "https://%s.%s.amazonaws.com%s/", q->sts ? "sts" : "ec2", region, startswith(region, "cn-") ? ".cn" : "") < 0)
                *ret = NULL;
        return *ret ? 0 : -ENOMEM;
}

static int report(const AwsQuery *q, const Try *t, const HttpReply *reply, PeerpodError *error) {
        _cleanup_(freep) char *message = NULL, *plain = NULL;
        xmlNode *failure = t->doc ? find_error(xmlDocGetRootElement(t->doc)) : NULL;

        if (isempty(t->code))
                return peerpod_error_set(error, reply->status < 300 ? PEERPOD_E_UNAVAILABLE : aws_error_kind("", reply->status),
                                         "%s: The answer is none of AWS's (HTTP %i).", q->action, reply->status);
        message = failure ? xml_text(failure, "Message") : NULL;
        plain = message ? text_make_plain(message, 400) : NULL;
        return peerpod_error_set(error, aws_error_kind(t->code, reply->status), "%s: %s: %s (HTTP %i)", q->action, t->code, strempty(plain),
                                 reply->status);
}

static int perform(Aws *a, const PeerpodCall *call, Try *t, const char *url, const Form *form, AwsReply *ret, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *body = NULL;
        const AwsQuery *q = t->query;
        const char *parameters = form ? form_text(form) : "", *page = q->page ? form_text(q->page) : "";
        const CloudApi api = { .authorize = authorize, .judge = judge, .userdata = t };
        HttpRequest request = { .api = &api, .method = "POST", .url = url, .what = q->action, .repeatable = q->repeatable };
        HttpReply reply = {};
        bool sent = true;
        int r;

        if (!parameters || !page || asprintf(&body, "Action=%s&Version=%s%s%s%s%s", q->action, q->sts ? STS_VERSION : EC2_VERSION,
                                             *parameters ? "&" : "", parameters, *page ? "&" : "", page) < 0) {
                body = NULL;
                return oom(error);
        }
        request.body = body;
        request.body_size = strlen(body);
        r = http_add_header(&request, "Content-Type", CONTENT_TYPE) < 0 ? oom(error) :
                cloud_http_perform(a->http, call, &request, &reply, &sent, error);
        http_request_done(&request);
        if (r < 0) {
                ret->unknown = sent;
                return r;
        }

        if (reply.status >= 200 && reply.status < 300 && t->doc && isempty(t->code)) {
                const char *rest = startswith((const char*) xmlDocGetRootElement(t->doc)->name, q->action);

                if (rest && streq(rest, "Response")) {
                        ret->root = xmlDocGetRootElement(t->doc);
                        ret->doc = TAKE_PTR(t->doc);
                        http_reply_done(&reply);
                        return 0;
                }
        }
        memcpy(ret->code, t->code, sizeof(ret->code));
        ret->unknown = reply.status < 300 || reply.status >= 500;
        r = report(q, t, &reply, error);
        http_reply_done(&reply);
        return r;
}

int aws_query(Aws *a, const PeerpodCall *call, const AwsQuery *q, const Form *form, AwsReply *ret, PeerpodError *error) {
        _cleanup_(freep) char *region = NULL, *url = NULL;
        Try t = { .aws = a, .query = q };
        int r;

        *ret = (AwsReply) {};
        r = aws_region(a, call, &region, error);
        if (r < 0)
                return r;
        if (make_url(a, q, region, &url) < 0)
                return oom(error);
        t.region = region;
        r = perform(a, call, &t, url, form, ret, error);
        token_done(&t.used);
        if (t.doc)
                xmlFreeDoc(t.doc);
        return r;
}

int aws_each(Aws *a, const PeerpodCall *call, const char *action, const Form *form, unsigned page_size, const char *path, AwsItem item,
             void *userdata, char code[static AWS_CODE_SIZE], PeerpodError *error) {
        _cleanup_(freep) char *next = NULL;
        const AwsQuery q = { .action = action, .repeatable = true };

        code[0] = '\0';
        for (unsigned page = 0; page < PAGES_MAX; page++) {
                _cleanup_(form_done) Form place = {};
                AwsReply reply = {};
                AwsQuery query = q;
                int r;

                if (page_size > 0)
                        form_addf(&place, "MaxResults", "%u", page_size);
                if (!isempty(next))
                        form_add(&place, "NextToken", next);
                free(next);
                next = NULL;

                query.page = &place;
                r = aws_query(a, call, &query, form, &reply, error);
                memcpy(code, reply.code, AWS_CODE_SIZE);
                if (r == 0) {
                        xmlNode *set = xml_child(reply.root, path);

                        for (xmlNode *n = set ? xml_first(set, "item") : NULL; n && r == 0; n = xml_next(n, "item"))
                                r = item(userdata, n, error);
                        if (r == 0 && !(next = xml_text(reply.root, "nextToken")))
                                r = oom(error);
                }
                aws_reply_done(&reply);
                if (r < 0)
                        return r;
                if (isempty(next))
                        return 0;
        }
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: more than %i pages.", action, PAGES_MAX);
}
