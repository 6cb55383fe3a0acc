/* SPDX-License-Identifier: Apache-2.0 */
/* All that can be asked without making anything: the log-in, the template, the places, what the account may do with them. */
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-xml.h"
#include "vsphere.h"

#define ROLES_MAX 64

/* What of a role's privileges is needed where. */
static const char *const for_folder[] = { "VirtualMachine.Inventory.CreateFromExisting", "VirtualMachine.Inventory.Delete", "VirtualMachine.Config.AdvancedConfig",
                                          "VirtualMachine.Config.CPUCount", "VirtualMachine.Config.Memory", "VirtualMachine.Interact.PowerOn",
                                          "VirtualMachine.Interact.PowerOff", NULL };
static const char *const for_new_folder[] = { "Folder.Create", NULL };
static const char *const for_template[] = { "VirtualMachine.Provisioning.DeployTemplate", NULL };
static const char *const for_datastore[] = { "Datastore.AllocateSpace", NULL };
static const char *const for_pool[] = { "Resource.AssignVMToPool", NULL };

static bool role_has(const xmlNode *role, const char *privilege) {
        for (xmlNode *n = xml_first(role, "privilege"); n; n = xml_next(n, "privilege")) {
                _cleanup_(freep) char *text = xml_text(n, "");

                if (text && streq(text, privilege))
                        return true;
        }
        return false;
}

/* Among the roles of @list, does one with a number of @numbers have it? */
static bool is_granted(const xmlNode *list, const xmlNode *numbers, const char *privilege) {
        for (xmlNode *n = xml_first(numbers, "int"); n; n = xml_next(n, "int")) {
                _cleanup_(freep) char *number = xml_text(n, "");

                for (xmlNode *role = xml_first(list, "AuthorizationRole"); number && role; role = xml_next(role, "AuthorizationRole")) {
                        _cleanup_(freep) char *id = xml_text(role, "roleId");

                        if (id && streq(id, number) && role_has(role, privilege))
                                return true;
                }
        }
        return false;
}

static int verify_privileges(Vsphere *v, const PeerpodCall *call, const xmlNode *roles, const Ref *object, const char *what, const char *const *needed,
                             PeerpodError *error) {
        static const char *const paths[] = { "effectiveRole", NULL };
        _cleanup_(vim_reply_done) VimReply reply = {};
        char missing[512] = "";
        xmlNode *entity, *numbers;
        int r;

        if (!ref_is_set(object))
                return 0;
        r = vim_get(v, call, object, paths, &reply, &entity, error);
        if (r < 0)
                return r;
        numbers = soap_property(entity, "effectiveRole");
        for (; *needed; needed++)
                if (!is_granted(roles, numbers, *needed)) {
                        size_t n = strlen(missing);

                        (void) snprintf(missing + n, sizeof(missing) - n, "%s%s", n > 0 ? ", " : "", *needed);
                }
        return missing[0] ? peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "GOVC_USERNAME '%s' lacks privileges on the %s: %s.", v->user, what, missing) : 0;
}

static int verify_all_privileges(Vsphere *v, const PeerpodCall *call, const Ref *folder, bool folder_is_there, const Place *place, const Template *template,
                                 PeerpodError *error) {
        static const char *const paths[] = { "roleList", NULL };
        _cleanup_(vim_reply_done) VimReply reply = {};
        xmlNode *object, *roles;
        int r;

        r = vim_get(v, call, &v->content.authorization_manager, paths, &reply, &object, error);
        if (r < 0)
                return r;
        roles = soap_property(object, "roleList");
        r = verify_privileges(v, call, roles, folder, "folder", for_folder, error);
        if (r == 0 && !folder_is_there)
                r = verify_privileges(v, call, roles, folder, "folder above GOVC_FOLDER", for_new_folder, error);
        if (r == 0)
                r = verify_privileges(v, call, roles, &template->vm, "template", for_template, error);
        if (r == 0)
                r = verify_privileges(v, call, roles, &place->datastore, "datastore", for_datastore, error);
        if (r == 0)
                r = verify_privileges(v, call, roles, &place->pool, "resource pool", for_pool, error);
        return r;
}

/* Switched off by somebody, or out of reach */
static int verify_state(Vsphere *v, const PeerpodCall *call, const Ref *object, const char *path, const char *wanted, const char *what, const char *variable,
                        PeerpodError *error) {
        const char *const paths[] = { path, NULL };
        _cleanup_(vim_reply_done) VimReply reply = {};
        xmlNode *entity;
        char state[32];
        int r;

        if (!ref_is_set(object))
                return 0;
        r = vim_get(v, call, object, paths, &reply, &entity, error);
        if (r < 0)
                return r;
        if (machine_field(entity, path, "", state, sizeof(state)) < 0)
                return oom(error);
        return streq(state, wanted) ? 0 :
                peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The value of %s: the %s's %s is '%s'.", variable, what, path, state);
}

static int verify_place(Vsphere *v, const PeerpodCall *call, const Place *p, PeerpodError *error) {
        int r;

        r = verify_state(v, call, &p->datastore, "summary.accessible", "true", "datastore", "GOVC_DATASTORE", error);
        if (r == 0)
                r = verify_state(v, call, &p->host, "runtime.connectionState", "connected", "host", "GOVC_HOST", error);
        if (r == 0)
                r = verify_state(v, call, &p->host, "runtime.inMaintenanceMode", "false", "host", "GOVC_HOST", error);
        return r;
}

int vsphere_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        Vsphere *v = provider;
        Template template = {};
        Place place = {};
        Ref folder = {};
        int r, there = 0;

        if (isempty(v->template))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "No template is set: GOVC_TEMPLATE is empty.");
        inventory_forget(v);
        r = vim_ready(v, call, error);
        if (r == 0)
                r = inventory_template(v, call, NULL, &template, error);
        if (r == 0)
                r = there = inventory_folder(v, call, false, &folder, error);
        if (r >= 0)
                r = inventory_place(v, call, &place, error);
        if (r == 0)
                r = verify_place(v, call, &place, error);
        return r < 0 ? r : verify_all_privileges(v, call, &folder, there, &place, &template, error);
}
