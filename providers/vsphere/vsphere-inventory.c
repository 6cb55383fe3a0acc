/* SPDX-License-Identifier: Apache-2.0 */
/* From names to references, which are kept until one of them turns out to be gone. An inventory path is DATACENTER/vm/FOLDER/…, DATACENTER/host/…,
 * DATACENTER/datastore/…; in its names, '%', '/' and '\' are %25, %2f and %5c (vmware/pyvmomi: docs/vim/SearchIndex.rst). */
#include <syslog.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-xml.h"
#include "vsphere.h"

static bool is_a(const Ref *r, const char *type) {
        return streq(r->type, type);
}

static void copy_locked(Vsphere *v, void *to, const void *from, size_t size) {
        (void) pthread_mutex_lock(&v->mutex);
        memcpy(to, from, size);
        (void) pthread_mutex_unlock(&v->mutex);
}

void inventory_forget(Vsphere *v) {
        (void) pthread_mutex_lock(&v->mutex);
        v->place = (Place) {};
        v->folder_ref = v->template_ref = (Ref) {};
        (void) pthread_mutex_unlock(&v->mutex);
}

int inventory_find(Vsphere *v, const PeerpodCall *call, const char *path, Ref *ret, PeerpodError *error) {
        _cleanup_(vim_reply_done) VimReply reply = {};
        Soap s = {};
        int r;

        soap_begin(&s, "FindByInventoryPath", &v->content.search_index);
        soap_add(&s, "inventoryPath", path);
        r = vim_call(v, call, &s, VIM_REPEATABLE, 0, &reply, error);
        if (r < 0)
                return r;
        r = ref_read(xml_child(reply.answer, "returnval"), ret);
        if (r == -ENOENT)
                return 0;
        return r == 0 ? 1 : r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "FindByInventoryPath: the answer is no reference.");
}

__attribute__((format(printf, 5, 6)))
static int find_format(Vsphere *v, const PeerpodCall *call, Ref *ret, PeerpodError *error, const char *format, ...) {
        _cleanup_(freep) char *path = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&path, format, ap);
        va_end(ap);
        if (r < 0) {
                path = NULL;
                return oom(error);
        }
        return inventory_find(v, call, path, ret, error);
}

static int not_there(PeerpodError *error, const char *what, const char *value, const char *variable) {
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no %s '%.128s', the value of %s.", what, value, variable);
}

/* ---- where machines go ---- */

static int make_folder(Vsphere *v, const PeerpodCall *call, const Ref *parent, const char *name, const char *path, Ref *ret, PeerpodError *error) {
        _cleanup_(vim_reply_done) VimReply reply = {};
        Soap s = {};
        int r;

        soap_begin(&s, "CreateFolder", parent);
        soap_add(&s, "name", name);
        r = vim_call(v, call, &s, VIM_REPEATABLE, 0, &reply, error);
        if (r == 0) {
                r = ref_read(xml_child(reply.answer, "returnval"), ret);
                return r == 0 ? 0 : r == -ENOMEM ? oom(error) : peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "CreateFolder: the answer has none.");
        }
        /* Another node's, or ours, whose answer was lost */
        if (fault_is(&reply.fault, "DuplicateName"))
                r = inventory_find(v, call, path, ret, error);
        return r == 0 ? peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "CreateFolder: '%.128s' is there, and is not.", path) : MIN(r, 0);
}

int inventory_folder(Vsphere *v, const PeerpodCall *call, bool make, Ref *ret, PeerpodError *error) {
        _cleanup_(freep) char *path = NULL, *folder = NULL;
        char *save = NULL;
        Ref at = {};
        int r;

        copy_locked(v, ret, &v->folder_ref, sizeof(*ret));
        if (ref_is_set(ret))
                return 1;
        folder = strdup(v->folder);
        if (!folder || asprintf(&path, "%s/vm", v->datacenter) < 0)
                return oom(error);
        r = inventory_find(v, call, path, &at, error);
        if (r == 0)
                return not_there(error, "datacenter", v->datacenter, "GOVC_DATACENTER");
        for (char *name = strtok_r(folder, "/", &save); name && r > 0; name = strtok_r(NULL, "/", &save)) {
                Ref parent = at;
                char *longer;

                if (asprintf(&longer, "%s/%s", path, name) < 0)
                        return oom(error);
                free(path);
                path = longer;
                r = inventory_find(v, call, path, &at, error);
                if (r == 0 && !make) {
                        *ret = parent;
                        return 0;
                }
                if (r == 0) {
                        r = make_folder(v, call, &parent, name, path, &at, error);
                        if (r == 0) {
                                peerpod_log(call, LOG_INFO, "Folder '%s' is made.", path);
                                r = 1;
                        }
                }
        }
        if (r < 0)
                return r;
        if (!is_a(&at, "Folder"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "'%.128s', the value of GOVC_FOLDER, is no folder.", v->folder);
        copy_locked(v, &v->folder_ref, &at, sizeof(at));
        *ret = at;
        return 1;
}

/* The root pool of a host, by what the host is a part of; and the host itself where the name stands for both. */
static int pool_of_host(Vsphere *v, const PeerpodCall *call, Ref *host, Ref *ret, PeerpodError *error) {
        static const char *const of_host[] = { "parent", NULL }, *const of_compute[] = { "resourcePool", "host", NULL };
        _cleanup_(vim_reply_done) VimReply first = {}, second = {};
        Ref compute = *host;
        xmlNode *object;
        int r;

        if (is_a(host, "HostSystem")) {
                r = vim_get(v, call, host, of_host, &first, &object, error);
                if (r == 0 && ref_read(soap_property(object, "parent"), &compute) < 0)
                        r = peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Host '%.128s', the value of GOVC_HOST, is a part of nothing.", v->host);
                if (r < 0)
                        return r;
        }
        r = vim_get(v, call, &compute, of_compute, &second, &object, error);
        if (r < 0)
                return r;
        if (!is_a(host, "HostSystem")) {
                xmlNode *hosts = soap_property(object, "host");

                if (!is_a(host, "ComputeResource") || !hosts || ref_read(xml_child(hosts, "ManagedObjectReference"), host) < 0)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "'%.128s', the value of GOVC_HOST, is no host.", v->host);
        }
        if (ref_read(soap_property(object, "resourcePool"), ret) < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Host '%.128s', the value of GOVC_HOST, has no resource pool.", v->host);
        return 0;
}

static int find_cluster(Vsphere *v, const PeerpodCall *call, Ref *ret, PeerpodError *error) {
        int r = find_format(v, call, ret, error, "%s/host/%s", v->datacenter, v->cluster);

        if (r < 0)
                return r;
        return r > 0 && is_a(ret, "ClusterComputeResource") ? 0 : not_there(error, "cluster", v->cluster, "GOVC_VCLUSTER");
}

static int find_pool(Vsphere *v, const PeerpodCall *call, Ref *ret, PeerpodError *error) {
        int r = find_format(v, call, ret, error, "%s/host/%s", v->datacenter, v->pool);

        if (r < 0)
                return r;
        return r > 0 && is_a(ret, "ResourcePool") ? 0 : not_there(error, "resource pool", v->pool, "GOVC_RESOURCE_POOL");
}

static int find_host(Vsphere *v, const PeerpodCall *call, Place *p, PeerpodError *error) {
        int r;

        r = find_format(v, call, &p->host, error, "%s/host/%s%s%s", v->datacenter, v->cluster, isempty(v->cluster) ? "" : "/", v->host);
        if (r < 0)
                return r;
        if (r == 0)
                return not_there(error, "host", v->host, "GOVC_HOST");
        r = pool_of_host(v, call, &p->host, &p->pool, error);
        if (r < 0)
                return r;
        r = find_format(v, call, &p->datastore, error, "%s/datastore/%s", v->datacenter, v->datastore);
        if (r < 0)
                return r;
        return r > 0 && is_a(&p->datastore, "Datastore") ? 0 : not_there(error, "datastore", v->datastore, "GOVC_DATASTORE");
}

int inventory_place(Vsphere *v, const PeerpodCall *call, Place *ret, PeerpodError *error) {
        Place p = {};
        int r;

        copy_locked(v, ret, &v->place, sizeof(*ret));
        if (ref_is_set(v->drs ? &ret->cluster : &ret->datastore))
                return 0;
        r = v->drs ? find_cluster(v, call, &p.cluster, error) : find_host(v, call, &p, error);
        if (r == 0 && !isempty(v->pool))
                r = find_pool(v, call, &p.pool, error);
        if (r < 0)
                return r;
        copy_locked(v, &v->place, &p, sizeof(p));
        *ret = p;
        return 0;
}

/* ---- templates ---- */

typedef struct Search {
        const char *name;
        Ref found;
        unsigned n;
} Search;

static int on_template(void *userdata, const Ref *vm, const xmlNode *object, PeerpodError *error) {
        xmlNode *name = soap_property(object, "name"), *template = soap_property(object, "config.template");
        _cleanup_(freep) char *n = name ? xml_text(name, "") : NULL, *t = template ? xml_text(template, "") : NULL;
        Search *s = userdata;

        if (n && t && streq(n, s->name) && streq(t, "true")) {
                s->found = *vm;
                s->n++;
        }
        return 0;
}

/* A name alone is that of a template in any folder of the datacenter, as upstream has it. */
static int search_template(Vsphere *v, const PeerpodCall *call, const char *name, Ref *ret, PeerpodError *error) {
        static const char *const paths[] = { "name", "config.template", NULL };
        Search s = { .name = name };
        Ref folder;
        int r;

        r = find_format(v, call, &folder, error, "%s/vm", v->datacenter);
        if (r == 0)
                return not_there(error, "datacenter", v->datacenter, "GOVC_DATACENTER");
        if (r > 0)
                r = vim_each(v, call, &folder, paths, on_template, &s, error);
        if (r < 0)
                return r;
        if (s.n > 1)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There are %u templates '%.128s': name one by its path.", s.n, name);
        *ret = s.found;
        return s.n > 0;
}

static int find_template(Vsphere *v, const PeerpodCall *call, const char *name, Ref *ret, PeerpodError *error) {
        int r;

        r = name[0] == '/' ? inventory_find(v, call, name, ret, error) : find_format(v, call, ret, error, "%s/vm/%s", v->datacenter, name);
        if (r == 0 && !strchr(name, '/'))
                r = search_template(v, call, name, ret, error);
        return r;
}

static int read_template(const xmlNode *object, const char *name, bool linked, Template *t, PeerpodError *error) {
        xmlNode *is = soap_property(object, "config.template"), *nics = soap_property(object, "summary.config.numEthernetCards");
        _cleanup_(freep) char *yes = is ? xml_text(is, "") : NULL, *n = nics ? xml_text(nics, "") : NULL;

        if (!yes || !streq(yes, "true"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "'%.128s' is no template, but a virtual machine.", name);
        t->n_nics = n ? strtoul(n, NULL, 10) : 1;
        if (linked && ref_read(soap_property(object, "snapshot.currentSnapshot"), &t->snapshot) < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Template '%.128s' has no snapshot, which GOVC_LINKED_CLONE needs.", name);
        return 0;
}

int inventory_template(Vsphere *v, const PeerpodCall *call, const char *name, Template *ret, PeerpodError *error) {
        static const char *const paths[] = { "config.template", "summary.config.numEthernetCards", "snapshot.currentSnapshot", NULL };
        bool configured = isempty(name) || streq(name, v->template);
        const char *what = configured ? v->template : name;
        _cleanup_(vim_reply_done) VimReply reply = {};
        Template t = {};
        xmlNode *object;
        int r = 1;

        if (configured)
                copy_locked(v, &t.vm, &v->template_ref, sizeof(t.vm));
        if (!ref_is_set(&t.vm))
                r = find_template(v, call, what, &t.vm, error);
        if (r < 0)
                return r;
        if (r == 0 || !is_a(&t.vm, "VirtualMachine"))
                return configured ? not_there(error, "template", what, "GOVC_TEMPLATE") :
                        peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no template '%.128s', which the pod asks for.", what);
        r = vim_get(v, call, &t.vm, paths, &reply, &object, error);
        if (r < 0 && fault_is_gone(&reply.fault, &t.vm))
                inventory_forget(v);
        if (r == 0)
                r = read_template(object, what, v->linked, &t, error);
        if (r < 0)
                return r;
        if (configured)
                copy_locked(v, &v->template_ref, &t.vm, sizeof(t.vm));
        *ret = t;
        return 0;
}
