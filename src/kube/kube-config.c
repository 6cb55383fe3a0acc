/* SPDX-License-Identifier: Apache-2.0 */
/* Several kubeconfigs become one tree first, with the paths in it made absolute, then the tree is read: so "the first one wins" is said in one
 * place, and each entry still finds its files. */
#include "kube/kube-config.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <json-c/json_object.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "basic/error-text.h"
#include "basic/io.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/kube-yaml.h"
#include "userdata/decode.h"

#define ACCOUNT_DIRECTORY "/var/run/secrets/kubernetes.io/serviceaccount"
#define NAME_SIZE_MAX 253U

DEFINE_CLEANUP(CURLU*, curl_url_cleanup);

static void erase_jsonp(json_object **o) {
        kube_json_erase(*o);
        json_object_put(*o);
}

KubeConfig* kube_config_free(KubeConfig *c) {
        if (!c)
                return NULL;
        free(c->origin);
        free(c->server);
        free(c->tls_server_name);
        free(c->ca_file);
        free(c->ca_data);
        free(c->token_file);
        free(c->username);
        free(c->cert_file);
        free(c->key_file);
        free(c->default_namespace);
        erase_free_stringp(&c->proxy_url);      /* may hold a password */
        erase_free_stringp(&c->token);
        erase_free_stringp(&c->password);
        erase_free_stringp(&c->cert_data);
        erase_free_stringp(&c->key_data);
        free(c);
        return NULL;
}

/* Concatenates; *ret is not touched on failure. */
#define join(ret, ...) join_strings((ret), (const char *const[]) { __VA_ARGS__, NULL })
static int join_strings(char **ret, const char *const *parts) {
        size_t n = 1;
        char *s, *p;

        for (const char *const *q = parts; *q; q++)
                n += strlen(*q);
        s = p = malloc(n);
        if (!s)
                return -ENOMEM;
        *p = '\0';
        for (const char *const *q = parts; *q; q++)
                p = stpcpy(p, *q);
        *ret = s;
        return 0;
}

/* ---- files ---- */

/* Follows symlinks, unlike read_full_file_at(): the kubelet's projected files are some. *ret may be a secret. */
static int read_file(const char *path, size_t max, char **ret, char **reterr) {
        _cleanup_(close_fdp) int fd = open(path, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        struct stat st;
        int r;

        if (fd < 0)
                return error_text(reterr, -errno, "'%s' cannot be read: %s", path, strerror(errno));
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return error_text(reterr, -EBADMSG, "'%s' is no file", path);
        r = read_full_fd(fd, max, ret, NULL);
        if (r < 0)
                return error_text(reterr, r, "'%s' cannot be read: %s", path, r == -EBADMSG ? "it holds a NUL byte" : strerror(-r));
        return 0;
}

int kube_token_read(const char *path, char **ret, char **reterr) {
        _cleanup_(erase_free_stringp) char *text = NULL;
        char *begin, *token;
        size_t n;
        int r;

        r = read_file(path, KUBE_TOKEN_SIZE_MAX, &text, reterr);
        if (r < 0)
                return r;
        begin = text + strspn(text, " \t\r\n");
        n = strlen(begin);
        while (n > 0 && strchr(" \t\r\n", begin[n - 1]))
                n--;
        if (n == 0)
                return error_text(reterr, -EBADMSG, "the token file '%s' is empty", path);
        /* RFC 6750 section 2.1: what a token may consist of, and more; but never what would end the header. */
        for (size_t i = 0; i < n; i++)
                if (begin[i] <= ' ' || begin[i] >= 0x7f)
                        return error_text(reterr, -EBADMSG, "the token file '%s' holds something else than a token", path);
        token = strndup(begin, n);
        if (!token)
                return -ENOMEM;
        *ret = token;
        return 0;
}

/* ---- the tree ---- */

static int make_absolute(json_object *o, const char *key, const char *directory) {
        const char *path = NULL;
        _cleanup_(freep) char *full = NULL;
        int r;

        r = json_get_string(o, key, &path, NULL);
        if (r <= 0 || isempty(path) || path[0] == '/')
                return 0;       /* a wrong type is found when it is read */
        r = join(&full, directory, "/", path);
        return r < 0 ? r : json_set_string(o, key, full);
}

static bool has_name(json_object *array, const char *name) {
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                const char *s = NULL;

                if (json_get_string(json_object_array_get_idx(array, i), "name", &s, NULL) > 0 && streq(s, name))
                        return true;
        }
        return false;
}

/* Adds the entries of one file's list that are not there yet. */
static int merge_list(json_object *tree, json_object *file, const char *list, const char *inner, const char *const *paths, const char *directory,
                      const char *origin, char **reterr) {
        json_object *to = json_object_object_get(tree, list), *from = NULL;
        int r;

        r = json_get_array(file, list, &from, NULL);
        if (r <= 0)
                return r < 0 ? error_text(reterr, -EINVAL, "%s: %s is no list", origin, list) : 0;
        for (size_t i = 0; i < json_object_array_length(from); i++) {
                json_object *entry = json_object_array_get_idx(from, i), *body = NULL;
                const char *name = NULL;

                if (!json_object_is_type(entry, json_type_object) || json_get_string(entry, "name", &name, NULL) <= 0 || isempty(name))
                        return error_text(reterr, -EINVAL, "%s: %s[%zu] has no name", origin, list, i);
                if (has_name(to, name)) {
                        kube_json_erase(entry);
                        continue;
                }
                if (json_get_object(entry, inner, &body, NULL) < 0)
                        return error_text(reterr, -EINVAL, "%s: %s[%zu].%s is no mapping", origin, list, i, inner);
                for (const char *const *p = paths; body && *p; p++)
                        if (make_absolute(body, *p, directory) < 0)
                                return -ENOMEM;
                if (json_object_array_add(to, json_object_get(entry)) < 0) {
                        json_object_put(entry);
                        return -ENOMEM;
                }
        }
        return 0;
}

static int merge(json_object *tree, json_object *file, const char *origin, const char *directory, char **reterr) {
        static const char *const cluster_paths[] = { "certificate-authority", NULL }, *const none[] = { NULL },
                *const user_paths[] = { "client-certificate", "client-key", "tokenFile", NULL };
        const char *s = NULL, *have = NULL;
        int r;

        if ((r = json_get_string(file, "kind", &s, NULL)) < 0 || (r > 0 && !streq(s, "Config")))
                return error_text(reterr, -EINVAL, "%s: kind is not Config", origin);
        if ((r = json_get_string(file, "apiVersion", &s, NULL)) < 0 || (r > 0 && !streq(s, "v1")))
                return error_text(reterr, -EINVAL, "%s: apiVersion is not v1", origin);
        if ((r = json_get_string(file, "current-context", &s, NULL)) < 0)
                return error_text(reterr, -EINVAL, "%s: current-context is no string", origin);
        if (r > 0 && !isempty(s) && json_get_string(tree, "current-context", &have, NULL) == 0) {
                r = json_set_string(tree, "current-context", s);
                if (r < 0)
                        return r;
        }
        if ((r = merge_list(tree, file, "clusters", "cluster", cluster_paths, directory, origin, reterr)) < 0 ||
            (r = merge_list(tree, file, "users", "user", user_paths, directory, origin, reterr)) < 0)
                return r;
        return merge_list(tree, file, "contexts", "context", none, directory, origin, reterr);
}

static int new_tree(json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();

        if (!o || json_set(o, "clusters", json_object_new_array()) < 0 || json_set(o, "users", json_object_new_array()) < 0 ||
            json_set(o, "contexts", json_object_new_array()) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(o);
        return 0;
}

static int parse_into(json_object *tree, const char *text, size_t size, const char *origin, const char *directory, char **reterr) {
        _cleanup_(json_object_putp) json_object *file = NULL;   /* its entries go on in the tree, which erases them */
        _cleanup_(freep) char *why = NULL;
        int r;

        if (size > KUBE_CONFIG_SIZE_MAX)
                return error_text(reterr, -EBADMSG, "%s is too big for a kubeconfig", origin);
        r = kube_yaml_parse(text, size, &file, &why);
        if (r < 0)
                return r == -ENOMEM ? r : error_text(reterr, r, "%s, %s", origin, why);
        r = merge(tree, file, origin, directory, &why);
        if (r < 0 && r != -ENOMEM)
                return error_text(reterr, -EINVAL, "%s", why ?: origin);
        return r;
}

/* ---- from the tree ---- */

/* One section of the tree, while it is read: what cannot be used is said with its place. */
typedef struct Section {
        json_object *body;              /* or NULL: it is empty */
        const char *list, *name, *origin;
        char **reterr;
} Section;

static int PRINTF(3, 4) bad(const Section *s, const char *key, const char *format, ...) {
        _cleanup_(freep) char *why = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&why, format, ap) < 0)
                why = NULL;
        va_end(ap);
        return error_text(s->reterr, -EINVAL, "%s: %s '%s': %s %s", s->origin, s->list, s->name, key, strempty(why));
}

static int find(json_object *tree, const char *list, const char *inner, const char *name, const char *origin, char **reterr, Section *ret) {
        json_object *array = json_object_object_get(tree, list);

        for (size_t i = 0; i < json_object_array_length(array); i++) {
                json_object *entry = json_object_array_get_idx(array, i), *body = NULL;
                const char *s = NULL;

                if (json_get_string(entry, "name", &s, NULL) > 0 && streq(s, name)) {
                        (void) json_get_object(entry, inner, &body, NULL);
                        *ret = (Section) { .body = body, .list = inner, .name = s, .origin = origin, .reterr = reterr };
                        return 0;
                }
        }
        return error_text(reterr, -EINVAL, "%s: there is no %s '%s'", origin, inner, name);
}

/* A string, copied; *ret stays NULL for one that is absent or empty. */
static int take(const Section *s, const char *key, char **ret) {
        const char *v = NULL;
        int r;

        if (!s->body)
                return 0;
        r = json_get_string(s->body, key, &v, NULL);
        if (r < 0)
                return bad(s, key, "is no string");
        if (isempty(v))
                return 0;
        for (const char *p = v; *p; p++)
                if ((unsigned char) *p < ' ' || *p == 0x7f)
                        return bad(s, key, "holds control characters");
        *ret = strdup(v);
        return *ret ? 0 : -ENOMEM;
}

/* Base64 of PEM. */
static int take_data(const Section *s, const char *key, char **ret) {
        _cleanup_(freep) char *data = NULL;
        const char *v = NULL;
        size_t size;
        int r;

        if (!s->body)
                return 0;
        r = json_get_string(s->body, key, &v, NULL);
        if (r < 0)
                return bad(s, key, "is no string");
        if (isempty(v))
                return 0;
        r = base64_decode(v, strlen(v), &data, &size);
        if (r == -ENOMEM)
                return r;
        if (r < 0 || strlen(data) != size || !strstr(data, "-----BEGIN "))
                return bad(s, key, "is no base64 of PEM");
        *ret = TAKE_PTR(data);
        return 0;
}

/* A host as libcurl writes it, which makes addresses whole. */
static bool is_loopback(const char *host) {
        struct in_addr four;

        return streq(host, "localhost") || streq(host, "[::1]") || (inet_pton(AF_INET, host, &four) == 1 && be32toh(four.s_addr) >> 24 == IN_LOOPBACKNET);
}

static int check_server(const char *server, bool *ret_loopback, const char **ret_why) {
        _cleanup_(curl_url_cleanupp) CURLU *url = curl_url();
        char *host = NULL, *part = NULL;

        if (!url)
                return -ENOMEM;
        *ret_why = NULL;
        if (!strstr(server, "://") || curl_url_set(url, CURLUPART_URL, server, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK ||
            curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK)
                *ret_why = "is no URL such as https://HOST:PORT";
        else if (curl_url_get(url, CURLUPART_USER, &part, 0) == CURLUE_OK || curl_url_get(url, CURLUPART_QUERY, &part, 0) == CURLUE_OK ||
                 curl_url_get(url, CURLUPART_FRAGMENT, &part, 0) == CURLUE_OK)
                *ret_why = "has a user, a query or a fragment";
        else if (!startswith(server, "https://") && !(startswith(server, "http://") && is_loopback(host)))
                *ret_why = "is not https";
        else
                *ret_loopback = is_loopback(host);
        curl_free(host);
        curl_free(part);
        return *ret_why ? -EINVAL : 0;
}

static int take_server(const Section *s, KubeConfig *c) {
        const char *why;
        size_t n;
        int r;

        r = take(s, "server", &c->server);
        if (r < 0)
                return r;
        if (!c->server)
                return bad(s, "server", "is missing");
        r = check_server(c->server, &c->loopback, &why);
        if (r < 0)
                return r == -EINVAL ? bad(s, "server", "%s", why) : r;
        for (n = strlen(c->server); n > 0 && c->server[n - 1] == '/'; n--)
                c->server[n - 1] = '\0';
        return 0;
}

static int read_cluster(const Section *s, KubeConfig *c) {
        int r;

        if ((r = take_server(s, c)) < 0 || (r = take(s, "tls-server-name", &c->tls_server_name)) < 0 || (r = take(s, "proxy-url", &c->proxy_url)) < 0 ||
            (r = take_data(s, "certificate-authority-data", &c->ca_data)) < 0 || (r = take(s, "certificate-authority", &c->ca_file)) < 0)
                return r;
        if (c->ca_data)
                c->ca_file = (free(c->ca_file), NULL);
        if (s->body && json_get_bool(s->body, "insecure-skip-tls-verify", &c->insecure, NULL) < 0)
                return bad(s, "insecure-skip-tls-verify", "is neither true nor false");
        if (c->insecure && (c->ca_data || c->ca_file))
                return bad(s, "insecure-skip-tls-verify", "contradicts certificate-authority");
        return 0;
}

/* What we will not do, for what reason. */
static int refuse_foreign(const Section *s) {
        static const struct {
                const char *key, *why;
        } foreign[] = {
                { "exec", "would run a program to get credentials, which a service does not do: use a token file (tokenFile) or a client certificate" },
                { "auth-provider", "is not supported (nor by Kubernetes any more): use a token file (tokenFile) or a client certificate" },
                { "as", "(acting for another user) is not supported" },
                { "as-uid", "(acting for another user) is not supported" },
                { "as-groups", "(acting for another user) is not supported" },
                { "as-user-extra", "(acting for another user) is not supported" },
        };

        for (size_t i = 0; i < ELEMENTSOF(foreign); i++)
                if (json_object_object_get(s->body, foreign[i].key))
                        return bad(s, foreign[i].key, "%s", foreign[i].why);
        return 0;
}

static int read_user(const Section *s, KubeConfig *c) {
        int r;

        if (!s->body)
                return 0;
        if ((r = refuse_foreign(s)) < 0 || (r = take_data(s, "client-certificate-data", &c->cert_data)) < 0 ||
            (r = take_data(s, "client-key-data", &c->key_data)) < 0 || (r = take(s, "client-certificate", &c->cert_file)) < 0 ||
            (r = take(s, "client-key", &c->key_file)) < 0 || (r = take(s, "tokenFile", &c->token_file)) < 0 || (r = take(s, "token", &c->token)) < 0 ||
            (r = take(s, "username", &c->username)) < 0 || (r = take(s, "password", &c->password)) < 0)
                return r;
        if (!!(c->cert_data ?: c->cert_file) != !!(c->key_data ?: c->key_file))
                return bad(s, c->cert_data || c->cert_file ? "client-key" : "client-certificate", "is missing");
        for (const char *p = strempty(c->token); *p; p++)
                if (*p <= ' ' || *p >= 0x7f)
                        return bad(s, "token", "holds characters that no token has");
        if (c->username && strchr(c->username, ':'))
                return bad(s, "username", "holds a colon");
        return 0;
}

static int from_tree(json_object *tree, const char *origin, KubeConfig **ret, char **reterr) {
        _cleanup_(kube_config_freep) KubeConfig *c = new(KubeConfig);
        _cleanup_(freep) char *cluster = NULL, *user = NULL;
        const char *current = NULL;
        Section s;
        int r;

        if (!c)
                return -ENOMEM;
        *c = (KubeConfig) { .origin = strdup(origin) };
        if (!c->origin)
                return -ENOMEM;
        if (json_get_string(tree, "current-context", &current, NULL) <= 0)
                return error_text(reterr, -EINVAL, "%s: current-context is missing", origin);

        if ((r = find(tree, "contexts", "context", current, origin, reterr, &s)) < 0 || (r = take(&s, "cluster", &cluster)) < 0 ||
            (r = take(&s, "user", &user)) < 0 || (r = take(&s, "namespace", &c->default_namespace)) < 0)
                return r;
        if (!cluster)
                return bad(&s, "cluster", "is missing");
        if ((r = find(tree, "clusters", "cluster", cluster, origin, reterr, &s)) < 0 || (r = read_cluster(&s, c)) < 0)
                return r;
        if (user && ((r = find(tree, "users", "user", user, origin, reterr, &s)) < 0 || (r = read_user(&s, c)) < 0))
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

int kube_config_parse(const char *text, size_t size, const char *origin, const char *directory, KubeConfig **ret, char **reterr) {
        _cleanup_(erase_jsonp) json_object *tree = NULL;
        int r;

        if ((r = new_tree(&tree)) < 0 || (r = parse_into(tree, text, size, origin, directory, reterr)) < 0)
                return r;
        return from_tree(tree, origin, ret, reterr);
}

/* ---- where to look ---- */

static int directory_of(const char *path, char **ret) {
        _cleanup_(freep) char *full = NULL;
        char *slash;

        if (path[0] == '/')
                full = strdup(path);
        else {
                _cleanup_(freep) char *here = getcwd(NULL, 0);

                if (!here)
                        return -errno;
                if (join(&full, here, "/", path) < 0)
                        return -ENOMEM;
        }
        if (!full)
                return -ENOMEM;
        slash = strrchr(full, '/');
        slash[slash == full ? 1 : 0] = '\0';
        *ret = TAKE_PTR(full);
        return 0;
}

static int load_file(json_object *tree, const char *path, char **reterr) {
        _cleanup_(freep) char *directory = NULL;
        _cleanup_(erase_free_stringp) char *text = NULL;
        int r;

        if ((r = read_file(path, KUBE_CONFIG_SIZE_MAX, &text, reterr)) < 0 || (r = directory_of(path, &directory)) < 0)
                return r;
        return parse_into(tree, text, strlen(text), path, directory, reterr);
}

static int load_path(const char *path, KubeConfig **ret, char **reterr) {
        _cleanup_(erase_jsonp) json_object *tree = NULL;
        int r;

        if ((r = new_tree(&tree)) < 0 || (r = load_file(tree, path, reterr)) < 0)
                return r;
        return from_tree(tree, path, ret, reterr);
}

static int load_list(const char *paths, KubeConfig **ret, char **reterr) {
        _cleanup_(erase_jsonp) json_object *tree = NULL;
        _cleanup_(strv_freep) char **l = NULL;
        bool any = false;
        int r;

        if ((r = new_tree(&tree)) < 0 || (r = strv_split(paths, ":", &l)) < 0)
                return r;
        for (char **p = l; *p; p++) {
                if (access(*p, F_OK) < 0 && errno == ENOENT)
                        continue;
                r = load_file(tree, *p, reterr);
                if (r < 0)
                        return r;
                any = true;
        }
        if (!any)
                return error_text(reterr, -ENOENT, "none of the files in variable 'KUBECONFIG' exists: %s", paths);
        return from_tree(tree, strv_length(l) == 1 ? l[0] : "$KUBECONFIG", ret, reterr);
}

int kube_config_load_in_cluster(const char *directory, KubeConfig **ret, char **reterr) {
        _cleanup_(kube_config_freep) KubeConfig *c = NULL;
        _cleanup_(erase_free_stringp) char *token = NULL;
        _cleanup_(freep) char *namespace_file = NULL, *ca = NULL;
        const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT"), *why;
        bool bare;
        int r;

        if (isempty(host) || isempty(port))
                return error_text(reterr, -ENXIO, "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod of a cluster");
        directory = directory ?: ACCOUNT_DIRECTORY;
        c = new(KubeConfig);
        if (!c)
                return -ENOMEM;
        *c = (KubeConfig) { .origin = strdup("in-cluster") };
        bare = strchr(host, ':') && host[0] != '[';     /* IPv6 */
        if (!c->origin || join(&c->server, "https://", bare ? "[" : "", host, bare ? "]:" : ":", port) < 0 || join(&c->token_file, directory, "/token") < 0 ||
            join(&c->ca_file, directory, "/ca.crt") < 0 || join(&namespace_file, directory, "/namespace") < 0)
                return -ENOMEM;
        r = check_server(c->server, &c->loopback, &why);
        if (r < 0)
                return r == -EINVAL ? error_text(reterr, -EINVAL, "KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT: '%s' %s", c->server, why) : r;
        if ((r = kube_token_read(c->token_file, &token, reterr)) < 0 || (r = read_file(c->ca_file, KUBE_CONFIG_SIZE_MAX, &ca, reterr)) < 0)
                return r;
        if (read_file(namespace_file, NAME_SIZE_MAX, &c->default_namespace, NULL) >= 0) {
                c->default_namespace[strcspn(c->default_namespace, " \t\r\n")] = '\0';
                if (isempty(c->default_namespace))
                        c->default_namespace = (free(c->default_namespace), NULL);
        }
        *ret = TAKE_PTR(c);
        return 0;
}

/* A file that need not be there. */
static int load_optional(const char *directory, const char *name, KubeConfig **ret, char **reterr) {
        _cleanup_(freep) char *path = NULL;

        if (isempty(directory))
                return -ENXIO;
        if (join(&path, directory, "/", name) < 0)
                return -ENOMEM;
        if (access(path, F_OK) < 0)
                return -ENXIO;
        return load_path(path, ret, reterr);
}

int kube_config_load(const char *path, KubeConfig **ret, char **reterr) {
        const char *list = getenv("KUBECONFIG");
        int r;

        if (!isempty(path))
                return load_path(path, ret, reterr);
        if (!isempty(list))
                return load_list(list, ret, reterr);
        r = load_optional(getenv("CREDENTIALS_DIRECTORY"), "kubeconfig", ret, reterr);
        if (r != -ENXIO)
                return r;
        if (!isempty(getenv("KUBERNETES_SERVICE_HOST")))
                return kube_config_load_in_cluster(NULL, ret, reterr);
        r = load_optional(getenv("HOME"), ".kube/config", ret, reterr);
        if (r != -ENXIO)
                return r;
        return error_text(reterr, -ENXIO, "there is no Kubernetes configuration: no kubeconfig is set, and this is no pod of a cluster");
}
