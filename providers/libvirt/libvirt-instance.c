/* SPDX-License-Identifier: Apache-2.0 */
/* The domain is defined first and undefined last. Its metadata name the owner, so from the first effect to the last there is
 * something that find() sees and remove() can finish, wherever we were cut off: everything else an instance has (disks, tap device,
 * NVRAM) follows from its name. */
#include "libvirt-instance.h"

#include <dirent.h>
#include <limits.h>
#include <sys/random.h>
#include <syslog.h>

#include "basic/io.h"
#include "libvirt-address.h"
#include "libvirt-connection.h"
#include "libvirt-domain.h"
#include "libvirt-storage.h"
#include "libvirt-tap.h"
#include "provider/seed-iso.h"

#define VCPUS_MAX 4096
#define MEMORY_MIB_MIN 64
#define MEMORY_MIB_MAX (UINT64_C(64) << 20)
#define UNDO_USEC (60 * USEC_PER_SEC)
#define SHORT_NAME_SIZE 20                      /* libvirt: VIR_DOMAIN_SHORT_NAME_MAX */
#define UNDEFINE_FLAGS (VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | \
                        VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | VIR_DOMAIN_UNDEFINE_NVRAM | VIR_DOMAIN_UNDEFINE_TPM)

/* From this version of QEMU on, TCG's "max" CPU model runs guests without corrupting them (seen with 7.2, not with 10.0). */
#define QEMU_GOOD_MAX_MODEL 10000000

/* The domain of that name. Returns 1 and *ret, 0 if there is none, or negative with @error. */
static int find_domain(virConnectPtr c, const char *name, virDomainPtr *ret, PeerpodError *error) {
        virDomainPtr d = virDomainLookupByName(c, name);

        if (!d)
                return libvirt_last_code() == VIR_ERR_NO_DOMAIN ? 0 :
                        libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to look for instance '%s'", name);
        *ret = d;
        return 1;
}

/* Whose is it? Returns 1 and *ret, 0 if it has no owner tag of ours, or negative with @error: not to know is no "no". */
static int get_owner(virDomainPtr d, DomainOwner *ret, PeerpodError *error) {
        const char *name = virDomainGetName(d);         /* forgets the last error */
        char *xml = virDomainGetMetadata(d, VIR_DOMAIN_METADATA_ELEMENT, OWNER_NAMESPACE, 0);
        int r;

        if (!xml) {
                if (libvirt_last_code() != VIR_ERR_NO_DOMAIN_METADATA)
                        return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to ask whose VM '%s' is", name);
                virResetLastError();
                return 0;
        }
        r = domain_owner_parse(xml, ret);
        free(xml);
        return r < 0 ? 0 : 1;
}

/* Returns 1 yes, 0 no, or negative with @error. */
static int is_owned_by(virDomainPtr d, const char *sandbox_id, const char *node, PeerpodError *error) {
        _cleanup_(domain_owner_done) DomainOwner o = {};
        int r;

        r = get_owner(d, &o, error);
        return r <= 0 ? r : streq(o.sandbox_id, sandbox_id) && (!node || streq(o.node, node));
}

/* No disk may go while a VM has it open, and libvirt would not object: ask again, whatever destroy said. */
static int stop_domain(virDomainPtr d, const PeerpodCall *call, const char *name, PeerpodError *error) {
        for (;;) {
                int active = virDomainIsActive(d);

                if (active == 0)
                        return 0;
                if (active < 0 && libvirt_last_code() == VIR_ERR_NO_DOMAIN)
                        return 0;
                if (active > 0 && virDomainDestroyFlags(d, 0) == 0)
                        continue;

                /* It ended meanwhile, as the next look tells; or QEMU takes its time to go, with a disk that hangs. */
                int r = libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to stop instance '%s'", name);
                if (libvirt_is_cut_off() || peerpod_call_wait(call, -1, 0, USEC_PER_SEC / 5, NULL) < 0)
                        return r;
        }
}

static int undefine_domain(virDomainPtr d, const char *name, PeerpodError *error) {
        if (virDomainUndefineFlags(d, UNDEFINE_FLAGS) == 0 || libvirt_last_code() == VIR_ERR_NO_DOMAIN)
                return 0;
        /* An older daemon or another driver knows fewer flags. */
        if ((libvirt_last_code() == VIR_ERR_INVALID_ARG || libvirt_last_code() == VIR_ERR_NO_SUPPORT) &&
            (virDomainUndefineFlags(d, VIR_DOMAIN_UNDEFINE_NVRAM) == 0 || virDomainUndefine(d) == 0))
                return 0;
        return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to undefine instance '%s'", name);
}

/* libvirt makes directories for a VM before it writes down that it starts one, the process that becomes QEMU writes its number to a file, and
 * files are written beside their place, so a service that is killed in between leaves them (libvirt/libvirt: src/conf/domain_conf.c,
 * virDomainDefGetShortName(); src/util/virfile.c, virFileRewrite(); the directories are named by the VM's number and the first 20 characters of
 * its name). One whose number no running VM has is nobody's. */
static int remove_leftovers(const Libvirt *l, virConnectPtr c, const char *name, PeerpodError *error) {
        static const struct {
                const char *directory, *prefix;
        } places[] = {
                { "lib/qemu", "domain-" },
                { "run/qemu/channel", "" },
        };
        static const struct {
                const char *directory, *suffix;
        } files[] = {
                { "run/qemu", ".pid" },
                { "run/qemu", ".xml.new" },
                { "etc/qemu", ".xml.new" },
        };

        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
                _cleanup_(freep) char *path = NULL;

                if (asprintf(&path, "%s/%s/%s%s", l->embed_root, files[i].directory, name, files[i].suffix) < 0)
                        return libvirt_oom(error);
                if (unlink(path) < 0 && errno != ENOENT)
                        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to remove '%s': %s", path, strerror(errno));
        }
        for (size_t i = 0; i < ELEMENTSOF(places); i++) {
                _cleanup_(freep) char *directory = NULL;
                _cleanup_(closedirp) DIR *dir = NULL;

                if (asprintf(&directory, "%s/%s", l->embed_root, places[i].directory) < 0)
                        return libvirt_oom(error);
                dir = opendir(directory);
                for (struct dirent *de; dir && (de = readdir(dir));) {
                        _cleanup_(virDomainFreep) virDomainPtr running = NULL;
                        _cleanup_(freep) char *path = NULL;
                        const char *rest = startswith(de->d_name, places[i].prefix);
                        char *end = NULL;
                        long id = rest ? strtol(rest, &end, 10) : 0;
                        int r;

                        if (id <= 0 || id > INT_MAX || *end != '-' || strlen(end + 1) != strnlen(name, SHORT_NAME_SIZE) ||
                            strncmp(end + 1, name, SHORT_NAME_SIZE) != 0)
                                continue;
                        running = virDomainLookupByID(c, (int) id);
                        if (running)
                                continue;
                        if (asprintf(&path, "%s/%s", directory, de->d_name) < 0)
                                return libvirt_oom(error);
                        r = remove_tree(path);
                        if (r < 0)
                                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to remove '%s': %s", path, strerror(-r));
                }
        }

        return 0;
}

/* Everything that belongs to the name; @d is NULL if the domain is gone already. */
static int erase(Libvirt *l, virConnectPtr c, const PeerpodCall *call, virDomainPtr d, const char *name, PeerpodError *error) {
        _cleanup_(storage_done) Storage storage = {};
        char tap[IFNAMSIZ];
        int r;

        if (d) {
                r = stop_domain(d, call, name, error);
                if (r < 0)
                        return r;
        }
        if (libvirt_is_embedded(l)) {
                tap_name_make(name, tap);
                r = tap_remove(tap, error);
                if (r < 0)
                        return r;
        }
        r = storage_init(&storage, l, c, name, error);
        if (r == 0)
                r = storage_remove(&storage, call, error);
        if (r == 0 && libvirt_is_embedded(l))
                r = remove_leftovers(l, c, name, error);
        if (r == 0 && d)
                r = undefine_domain(d, name, error);
        return r;
}

static int make_mac(uint8_t mac[static 6], char text[static 18], PeerpodError *error) {
        static const uint8_t prefix[] = { 0x52, 0x54, 0x00 };   /* QEMU's */

        /* Random, not made from the name: a neighbour entry of an earlier instance must not answer for this one. */
        memcpy(mac, prefix, sizeof(prefix));
        if (getrandom(mac + sizeof(prefix), 3, 0) != 3)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "No random bytes: %s", strerror(errno));
        (void) snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
        return 0;
}

static const char* arch_from_model(const char *model) {
        return streq(model, "s390x") || streq(model, "aarch64") ? model : "x86_64";
}

static int get_arch(virConnectPtr c, const char **ret, PeerpodError *error) {
        virNodeInfo info;

        if (virNodeGetInfo(c, &info) < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to ask for the host's architecture");
        *ret = arch_from_model(info.model);
        return 0;
}

static int check_request(const PeerpodInstanceSpec *spec, PeerpodError *error) {
        if (!isempty(spec->image) && !image_name_is_valid(spec->image))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.128s' is no name of a base image.", spec->image);
        if (spec->vcpus > VCPUS_MAX)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%" PRIu32 " vCPUs are more than %i.", spec->vcpus, VCPUS_MAX);
        if (spec->memory_mib != 0 && (spec->memory_mib < MEMORY_MIB_MIN || spec->memory_mib > MEMORY_MIB_MAX))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Memory of %" PRIu64 " MiB is out of range.", spec->memory_mib);
        if (spec->gpus > 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "GPUs are not supported by provider 'libvirt'.");
        if (spec->flags & PEERPOD_INSTANCE_MULTI_NIC)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                         "A second interface (EXTERNAL_NETWORK_VIA_PODVM) is not supported by provider 'libvirt'.");
        return 0;
}

typedef struct Plan {
        DomainSpec domain;
        Storage storage;
        char tap[IFNAMSIZ];
        uint8_t mac[6];
        char mac_text[18];
} Plan;

static void plan_done(Plan *p) {
        storage_done(&p->storage);
}

static int plan(Libvirt *l, virConnectPtr c, const PeerpodInstanceSpec *spec, Plan *ret, PeerpodError *error) {
        unsigned long qemu_version = 0;
        const char *arch = NULL;
        int r;

        r = get_arch(c, &arch, error);
        if (r < 0)
                return r;
        if (l->s390_pv && !streq(arch, "s390x"))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                         "A confidential VM is asked for (DISABLECVM=false), which is possible on s390x only, not on %s.", arch);
        if (libvirt_is_embedded(l) && streq(arch, "x86_64") && !isempty(l->firmware) && access(l->firmware, R_OK) < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Firmware '%s' cannot be read: %s",
                                         l->firmware, strerror(errno));
        r = make_mac(ret->mac, ret->mac_text, error);
        if (r < 0)
                return r;
        r = storage_init(&ret->storage, l, c, spec->name, error);
        if (r < 0)
                return r;
        if (PEERPOD_HAS(spec, n_volumes)) {
                r = storage_find_volumes(&ret->storage, spec->volumes, spec->n_volumes, error);
                if (r < 0)
                        return r;
        }
        tap_name_make(spec->name, ret->tap);
        if (l->accel == ACCEL_TCG)
                (void) virConnectGetVersion(c, &qemu_version);

        ret->domain = (DomainSpec) {
                .name = spec->name,
                .sandbox_id = spec->sandbox_id,
                .node = spec->node,
                .arch = arch,
                .vcpus = spec->vcpus ?: l->vcpus,
                .memory_mib = spec->memory_mib ?: l->memory_mib,
                .cpuset = l->cpuset,
                .kvm = l->accel == ACCEL_KVM,
                .cpu_maximum = qemu_version >= QEMU_GOOD_MAX_MODEL,
                .firmware = l->firmware,
                .nvram = ret->storage.nvram,
                .s390_pv = l->s390_pv,
                .pool = libvirt_is_embedded(l) ? NULL : l->pool,
                .root = ret->storage.root,
                .seed = ret->storage.seed,
                .volumes = ret->storage.volumes,
                .network = l->network,
                .tap = libvirt_is_embedded(l) ? ret->tap : NULL,
                .mac = ret->mac_text,
                .serial_log = ret->storage.serial_log,
        };
        return 0;
}

static int define_domain(virConnectPtr c, const DomainSpec *spec, virDomainPtr *ret, PeerpodError *error) {
        _cleanup_(freep) char *xml = NULL;
        int r;

        r = domain_xml_write(spec, &xml);
        if (r == -EINVAL)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "A setting holds characters that XML cannot.");
        if (r < 0)
                return libvirt_oom(error);
        *ret = virDomainDefineXMLFlags(c, xml, VIR_DOMAIN_DEFINE_VALIDATE);
        return *ret ? 0 : libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to define instance '%s'", spec->name);
}

/* The two disks: the seed's size must be known before there is anything. */
static int make_disks(Plan *p, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *image, PeerpodError *error) {
        uint8_t *iso = NULL;
        size_t size = 0;
        int r;

        r = seed_iso_make(spec->sandbox_id, spec->name, spec->user_data, spec->user_data_size, &iso, &size);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to make the seed disk: %s", strerror(-r));
        r = storage_create_root(&p->storage, call, image, size, error);
        if (r == 0)
                r = storage_create_seed(&p->storage, call, iso, size, error);
        erase_free(iso, size);
        return r;
}

/* What the defined domain needs, in the order of need; peerpod_call_check() between the steps, so that a cancel acts soon. */
static int start(Libvirt *l, const PeerpodCall *call, const PeerpodInstanceSpec *spec, Plan *p, virDomainPtr d, PeerpodError *error) {
        int r;

        r = make_disks(p, call, spec, isempty(spec->image) ? l->image : spec->image, error);
        if (r < 0)
                return r;
        if (libvirt_is_embedded(l)) {
                r = tap_create(p->tap, l->network, p->mac, error);
                if (r < 0)
                        return r;
        }
        r = peerpod_call_check(call, error);
        if (r < 0)
                return r;
        if (virDomainCreateWithFlags(d, 0) < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to start instance '%s'", spec->name);
        return 0;
}

static int fill_instance(virDomainPtr d, PeerpodInstance *ret, PeerpodError *error) {
        virDomainInfo info;

        if (virDomainGetUUIDString(d, ret->id) < 0 || virDomainGetInfo(d, &info) < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to look at the VM");
        (void) snprintf(ret->type, sizeof(ret->type), "%u vCPU, %lu MiB", info.nrVirtCpu, info.maxMem / 1024);
        return 0;
}

/* Waiting for the address of a VM that an earlier call has started. */
static int join_running(Libvirt *l, const PeerpodCall *call, virDomainPtr d, PeerpodInstance *ret, PeerpodError *error) {
        char *xml = virDomainGetXMLDesc(d, 0);
        uint8_t mac[6];
        int r;

        if (!xml)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to read the VM's configuration");
        r = domain_mac_parse(xml, mac);
        free(xml);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The VM has no network interface.");
        r = fill_instance(d, ret, error);
        return r < 0 ? r : address_wait(l, call, d, mac, ret, error);
}

static void undo(Libvirt *l, virConnectPtr c, const PeerpodCall *call, virDomainPtr d, const char *name) {
        PeerpodCall u = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError e = { .size = sizeof(PeerpodError) };
        _cleanup_(libvirt_releasep) LibvirtConnection *again = NULL;

        if (erase(l, c, &u, d, name, &e) == 0)
                return;
        /* The connection may be what failed. */
        if (e.kind == PEERPOD_E_UNAVAILABLE && libvirt_connect(l, &u, &again, &e) == 0) {
                _cleanup_(virDomainFreep) virDomainPtr found = NULL;
                int r = find_domain(again->handle, name, &found, &e);

                if (r >= 0)
                        r = erase(l, again->handle, &u, found, name, &e);
                if (r == 0)
                        return;
        }
        peerpod_log(call, LOG_ERR, "What instance '%s' had could not be removed after its creation failed; deleting it will try again: %s",
                    name, e.text);
}

int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(libvirt_releasep) LibvirtConnection *c = NULL;
        _cleanup_(virDomainFreep) virDomainPtr d = NULL;
        _cleanup_(plan_done) Plan p = {};
        Libvirt *l = provider;
        int r;

        r = check_request(spec, error);
        if (r < 0)
                return r;
        r = libvirt_connect(l, call, &c, error);
        if (r < 0)
                return r;

        r = find_domain(c->handle, spec->name, &d, error);
        if (r < 0)
                return r;
        if (r > 0) {
                r = is_owned_by(d, spec->sandbox_id, spec->node, error);
                if (r < 0)
                        return r;
                if (r == 0)
                        return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS,
                                                 "A VM named '%s' exists and belongs to somebody else.", spec->name);
                if (virDomainIsActive(d) == 1) {
                        peerpod_log(call, LOG_INFO, "Instance '%s' runs already.", spec->name);
                        r = join_running(l, call, d, ret, error);
                        if (r == 0)
                                return 0;
                        if (r == -ECANCELED || r == -ETIMEDOUT) {
                                undo(l, c->handle, call, d, spec->name);
                                return r;
                        }
                        /* libvirt ends a VM at whose start it was itself cut off; that shows only after a while. */
                        peerpod_log(call, LOG_INFO, "Instance '%s' is not usable, making it anew: %s", spec->name, error->text);
                }
        }
        /* Remains of an attempt that was cut off. */
        r = erase(l, c->handle, call, d, spec->name, error);
        if (r < 0)
                return r;
        if (d) {
                (void) virDomainFree(d);
                d = NULL;
        }

        r = plan(l, c->handle, spec, &p, error);
        if (r < 0)
                return r;
        r = define_domain(c->handle, &p.domain, &d, error);
        if (r == 0)
                r = start(l, call, spec, &p, d, error);
        if (r == 0)
                r = fill_instance(d, ret, error);
        if (r == 0) {
                peerpod_log(call, LOG_INFO, "VM '%s' started with %s, waiting for its address.", spec->name,
                            l->accel == ACCEL_KVM ? "KVM" : "TCG");
                r = address_wait(l, call, d, p.mac, ret, error);
        }
        if (r < 0)
                undo(l, c->handle, call, d, spec->name);
        return r;
}

int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        _cleanup_(libvirt_releasep) LibvirtConnection *c = NULL;
        _cleanup_(virDomainFreep) virDomainPtr d = NULL;
        Libvirt *l = provider;
        int r;

        r = libvirt_connect(l, call, &c, error);
        if (r < 0)
                return r;
        r = find_domain(c->handle, key->name, &d, error);
        if (r < 0)
                return r;
        if (r > 0) {
                /* The id says nothing that name and owner do not; one that does not fit is somebody else's VM. */
                r = is_owned_by(d, key->sandbox_id, /* node= */ NULL, error);
                if (r < 0)
                        return r;
                if (r == 0)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM '%s' belongs to somebody else.", key->name);
        }
        return erase(l, c->handle, call, d, key->name, error);
}

static int report(virDomainPtr d, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        _cleanup_(domain_owner_done) DomainOwner o = {};
        char uuid[VIR_UUID_STRING_BUFLEN];
        int r;

        r = get_owner(d, &o, error);
        if (r < 0)
                return libvirt_last_code() == VIR_ERR_NO_DOMAIN ? 0 : r;        /* deleted since it was listed */
        if (r == 0 || !streq(o.node, node) || virDomainGetUUIDString(d, uuid) < 0)
                return 0;
        r = found(userdata, &(PeerpodFoundInstance) {
                .size = sizeof(PeerpodFoundInstance),
                .name = virDomainGetName(d),
                .sandbox_id = o.sandbox_id,
                .id = uuid,
        });
        if (r < 0)
                (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of instances was refused.");
        return r;
}

int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        _cleanup_(libvirt_releasep) LibvirtConnection *c = NULL;
        virDomainPtr *domains = NULL;
        Libvirt *l = provider;
        int n, r;

        r = libvirt_connect(l, call, &c, error);
        if (r < 0)
                return r;
        n = virConnectListAllDomains(c->handle, &domains, 0);
        if (n < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to list the VMs");

        for (int i = 0; i < n; i++) {
                if (r == 0)
                        r = peerpod_call_check(call, error);
                if (r == 0)
                        r = report(domains[i], node, found, userdata, error);
                (void) virDomainFree(domains[i]);
        }
        free(domains);
        return r;
}
