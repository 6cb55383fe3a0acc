/* SPDX-License-Identifier: Apache-2.0 */
/* The module's face: settings (cloud-api-adaptor: src/cloud-providers/libvirt/manager.go), open, check, close. */
#include "libvirt-provider.h"

#include <syslog.h>

#include "basic/io.h"
#include "basic/parse.h"
#include "libvirt-accel.h"
#include "libvirt-connection.h"
#include "libvirt-instance.h"
#include "libvirt-probe.h"
#include "libvirt-storage.h"
#include "libvirt-tap.h"

#define EMBED_PREFIX "qemu:///embed"
#define EMBED_ROOT_MAX 60               /* QEMU's monitor is a UNIX socket some 40 characters below it (unix(7): 107 in all) */
#define DEFAULT_BRIDGE "virbr0"         /* of libvirt's network "default" */
#define GIB (UINT64_C(1) << 30)

enum {
        OPTION_URI,
        OPTION_POOL,
        OPTION_NETWORK,
        OPTION_IMAGE,
        OPTION_LAUNCH_SECURITY,
        OPTION_FIRMWARE,
        OPTION_CPU,
        OPTION_MEMORY,
        OPTION_CPUSET,
        OPTION_ROOT_DISK_SIZE,
        OPTION_DATA_DIR,
        OPTION_DISABLE_CVM,
        OPTION_ACCEL,
        _OPTION_MAX,
};

static const PeerpodOption options[_OPTION_MAX] = {
        [OPTION_URI] = { "uri", "LIBVIRT_URI", "",
                "libvirt URI; empty: the embedded driver, below the state directory" },
        [OPTION_POOL] = { "pool-name", "LIBVIRT_POOL", "default",
                "Storage pool; embedded: directory of the base images, 'default' is /var/lib/libvirt/images" },
        [OPTION_NETWORK] = { "network-name", "LIBVIRT_NET", "default",
                "libvirt network; embedded: bridge, 'default' is virbr0" },
        [OPTION_IMAGE] = { "vol-name", "LIBVIRT_VOL_NAME", "podvm-base.qcow2",
                "Base image: name of a volume, or of a file in the directory" },
        [OPTION_LAUNCH_SECURITY] = { "launch-security", "LIBVIRT_LAUNCH_SECURITY", "",
                "Launch security: 's390-pv', or empty for what the machine has" },
        [OPTION_FIRMWARE] = { "firmware", "LIBVIRT_EFI_FIRMWARE", "/usr/share/OVMF/OVMF_CODE_4M.fd",
                "UEFI firmware of x86_64 VMs" },
        [OPTION_CPU] = { "cpu", "LIBVIRT_CPU", "2",
                "vCPUs of a VM whose pod asks for none", .type = PEERPOD_OPTION_UINT, .minimum = 1, .maximum = 4096 },
        [OPTION_MEMORY] = { "memory", "LIBVIRT_MEMORY", "8192",
                "Memory, in MiB, of a VM whose pod asks for none", .type = PEERPOD_OPTION_UINT, .minimum = 64, .maximum = 67108864 },
        [OPTION_CPUSET] = { "cpuset", "LIBVIRT_CPUSET", "",
                "Host CPUs that the VMs may use, such as '0-3,6'" },
        [OPTION_ROOT_DISK_SIZE] = { "root-disk-size", "LIBVIRT_ROOT_DISK_SIZE", "10",
                "Least size of the root disk, in GiB; 0 is 10", .type = PEERPOD_OPTION_UINT, .maximum = 1048576 },
        [OPTION_DATA_DIR] = { "data-dir", NULL, "/var/lib/libvirt/images",
                "Accepted and not used, as upstream" },
        [OPTION_DISABLE_CVM] = { "disable-cvm", "DISABLECVM", "true",
                "false asks for confidential VMs", .type = PEERPOD_OPTION_BOOL },
        [OPTION_ACCEL] = { "accel", "LIBVIRT_ACCEL", "auto",
                "'kvm', 'tcg', or 'auto': KVM if it works, TCG if not" },
};

static int copy(char **to, const char *from, PeerpodError *error) {
        *to = strdup(from);
        return *to ? 0 : libvirt_oom(error);
}

static int refuse(PeerpodError *error, unsigned option, const char *value, const char *why) {
        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Value '%.128s' of %s: %s.", value,
                                 options[option].env ?: options[option].name, why);
}

static bool cpuset_is_valid(const char *s) {
        for (;;) {
                char *end;
                unsigned long first, last;

                if (*s < '0' || *s > '9')
                        return false;
                first = last = strtoul(s, &end, 10);
                if (*end == '-') {
                        if (end[1] < '0' || end[1] > '9')
                                return false;
                        last = strtoul(end + 1, &end, 10);
                }
                if (first > last || last > 65535)
                        return false;
                if (*end == '\0')
                        return true;
                if (*end != ',')
                        return false;
                s = end + 1;
        }
}

static int hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "/abs%20dir" up to the end or '&' → "/abs dir" */
static int uri_unescape(const char *s, char **ret) {
        char *out = malloc(strlen(s) + 1), *p = out;

        if (!out)
                return -ENOMEM;
        for (; *s && *s != '&'; s++)
                if (*s != '%')
                        *p++ = *s;
                else {
                        int high = hex_digit(s[1]), low = high < 0 ? -1 : hex_digit(s[2]);

                        if (low < 0 || (high == 0 && low == 0)) {
                                free(out);
                                return -EINVAL;
                        }
                        *p++ = (char) (high << 4 | low);
                        s += 2;
                }
        *p = '\0';
        *ret = out;
        return 0;
}

static int read_uri(Libvirt *l, const PeerpodConfig *config, PeerpodError *error) {
        const char *uri = config->values[OPTION_URI], *root, *authority;

        if (isempty(uri)) {
                if (asprintf(&l->embed_root, "%s/embed", config->state_directory) < 0)
                        return libvirt_oom(error);
                if (asprintf(&l->uri, EMBED_PREFIX "?root=%s", l->embed_root) < 0)
                        return libvirt_oom(error);
        } else {
                int r = copy(&l->uri, uri, error);

                if (r < 0)
                        return r;
        }

        if (startswith(l->uri, EMBED_PREFIX) && !l->embed_root) {
                root = strstr(l->uri, "?root=") ?: strstr(l->uri, "&root=");
                if (!root || uri_unescape(root + strlen("?root="), &l->embed_root) < 0 || l->embed_root[0] != '/')
                        return refuse(error, OPTION_URI, uri, "the embedded driver needs ?root= with an absolute directory");
        }
        if (l->embed_root && strlen(l->embed_root) > EMBED_ROOT_MAX)
                return refuse(error, OPTION_URI, l->embed_root, "the directory's path is too long for the sockets below it");
        if (l->embed_root && strpbrk(l->embed_root, "%&#?\"' \\"))
                return refuse(error, OPTION_URI, l->embed_root, "the directory's path holds characters that a URI cannot");

        authority = strstr(l->uri, "://");
        if (!authority)
                return refuse(error, OPTION_URI, uri, "it is no URI");
        l->local = authority[3] == '/';
        return 0;
}

static int read_disk_and_network(Libvirt *l, const PeerpodConfig *config, PeerpodError *error) {
        const char *pool = config->values[OPTION_POOL], *network = config->values[OPTION_NETWORK];
        const char *image = config->values[OPTION_IMAGE];
        uint64_t size = 0;
        int r;

        if (isempty(pool) || isempty(network))
                return refuse(error, isempty(pool) ? OPTION_POOL : OPTION_NETWORK, "", "it must not be empty");
        if (libvirt_is_embedded(l)) {
                if (pool[0] != '/' && !streq(pool, "default"))
                        return refuse(error, OPTION_POOL, pool, "for the embedded driver it is an absolute directory, or 'default'");
                if (!image_name_is_valid(image))
                        return refuse(error, OPTION_IMAGE, image, "it is no name of a file in the directory of base images");
                if (streq(network, "default"))
                        network = DEFAULT_BRIDGE;
        } else if (isempty(image) || !text_is_plain(image, 4096))
                return refuse(error, OPTION_IMAGE, image, "it is no name of a volume");

        (void) parse_u64(config->values[OPTION_ROOT_DISK_SIZE], &size);
        l->root_disk_size = (size ?: 10) * GIB;
        r = copy(&l->pool, pool, error);
        if (r == 0)
                r = copy(&l->network, network, error);
        return r < 0 ? r : copy(&l->image, image, error);
}

static int read_machine(Libvirt *l, const PeerpodConfig *config, PeerpodError *error) {
        const char *firmware = config->values[OPTION_FIRMWARE], *cpuset = config->values[OPTION_CPUSET];
        uint64_t vcpus = 0;
        int r;

        if (!isempty(firmware) && (firmware[0] != '/' || !text_is_plain(firmware, 4096)))
                return refuse(error, OPTION_FIRMWARE, firmware, "it is no absolute path");
        if (!isempty(cpuset) && !cpuset_is_valid(cpuset))
                return refuse(error, OPTION_CPUSET, cpuset, "it is no list of CPUs such as '0-3,6'");

        (void) parse_u64(config->values[OPTION_CPU], &vcpus);
        (void) parse_u64(config->values[OPTION_MEMORY], &l->memory_mib);
        l->vcpus = vcpus;
        r = copy(&l->firmware, firmware, error);
        return r < 0 ? r : copy(&l->cpuset, cpuset, error);
}

/* Whoever asks for a confidential VM gets one or an error, never a plain one. */
static int read_launch_security(Libvirt *l, const PeerpodConfig *config, PeerpodError *error) {
        const char *launch = config->values[OPTION_LAUNCH_SECURITY];
        bool disabled = streq(config->values[OPTION_DISABLE_CVM], "true");

        if (!isempty(launch) && !streq(launch, "s390-pv"))
                return refuse(error, OPTION_LAUNCH_SECURITY, launch, "it is not a known launch security setting");
        if (disabled && !isempty(launch))
                return refuse(error, OPTION_LAUNCH_SECURITY, launch, "it contradicts DISABLECVM=true");
        l->s390_pv = !disabled;
        return 0;
}

static int choose_accel(Libvirt *l, const PeerpodConfig *config, const PeerpodCall *call, PeerpodError *error) {
        const char *accel = config->values[OPTION_ACCEL];
        char reason[128];

        if (streq(accel, "kvm"))
                l->accel = ACCEL_KVM;
        else if (streq(accel, "tcg"))
                l->accel = ACCEL_TCG;
        else if (!streq(accel, "auto"))
                return refuse(error, OPTION_ACCEL, accel, "it is none of 'auto', 'kvm' and 'tcg'");
        else if (!l->local)
                l->accel = ACCEL_KVM;   /* another machine's /dev/kvm cannot be tried from here */
        else if (kvm_probe(reason, sizeof(reason)) > 0)
                l->accel = ACCEL_KVM;
        else {
                l->accel = ACCEL_TCG;
                peerpod_log(call, LOG_NOTICE, "KVM does not work here (%s): VMs are emulated, which is slow.", reason);
        }
        return 0;
}

/* The embedded driver reads its settings from below its own root. They are ours to choose: the file is written anew each time. */
static int write_qemu_conf(const Libvirt *l, PeerpodError *error) {
        static const char common[] =
                "# Written by the libvirt provider of peerpod-providerd at each start.\n"
                "stdio_handler = \"file\"\n"            /* there is no virtlogd */
                "namespaces = []\n"
                "cgroup_controllers = []\n"
                "dynamic_ownership = 0\n"
                "remember_owner = 0\n"
                "clear_emulator_capabilities = 1\n";
        static const char privileged[] =
                "user = \"root\"\n"
                "group = \"root\"\n";
        _cleanup_(freep) char *directory = NULL, *path = NULL, *content = NULL;
        int r;

        if (asprintf(&directory, "%s/etc", l->embed_root) < 0 || asprintf(&path, "%s/qemu.conf", directory) < 0 ||
            asprintf(&content, "%s%s", common, geteuid() == 0 ? privileged : "") < 0)
                return libvirt_oom(error);
        r = mkdir_p(directory, 0700);
        if (r == 0)
                r = write_file_atomic(path, content, strlen(content), 0600);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to write '%s': %s", path, strerror(-r));
        return 0;
}

/* As an ordinary user libvirt keeps some files in the user's home, which a system user has not. Before other threads exist. */
static int set_home(const Libvirt *l, PeerpodError *error) {
        static const char *const variables[] = { "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR" };
        _cleanup_(freep) char *home = NULL;
        int r;

        if (asprintf(&home, "%s/home", l->embed_root) < 0)
                return libvirt_oom(error);
        r = mkdir_p(home, 0700);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to create '%s': %s", home, strerror(-r));
        if (setenv("HOME", home, true) < 0)
                return libvirt_oom(error);
        for (size_t i = 0; i < ELEMENTSOF(variables); i++)
                if (setenv(variables[i], home, true) < 0)
                        return libvirt_oom(error);
        return 0;
}

static int open_embedded(Libvirt *l, const PeerpodConfig *config, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(libvirt_releasep) LibvirtConnection *c = NULL;
        int r;

        if (asprintf(&l->instances, "%s/instances", config->state_directory) < 0)
                return libvirt_oom(error);
        r = mkdir_p(l->instances, 0700);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to create '%s': %s", l->instances, strerror(-r));
        r = write_qemu_conf(l, error);
        if (r < 0)
                return r;
        if (geteuid() != 0) {
                r = set_home(l, error);
                if (r < 0)
                        return r;
        }
        r = capabilities_lower();
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to lower capabilities: %s", strerror(-r));
        libvirt_end_probes(l, call);

        r = libvirt_loop_start(l);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to start libvirt's event loop: %s", strerror(-r));
        /* At once: this is what takes over the VMs that run. */
        return libvirt_connect(l, call, &c, error);
}

static void libvirt_close(void *provider) {
        Libvirt *l = provider;

        if (!libvirt_disconnect(l))
                return;                         /* the process ends, and libvirt with it */
        libvirt_loop_stop(l);
        (void) pthread_cond_destroy(&l->connected);
        (void) pthread_mutex_destroy(&l->mutex);
        free(l->uri);
        free(l->pool);
        free(l->network);
        free(l->image);
        free(l->firmware);
        free(l->cpuset);
        free(l->embed_root);
        free(l->instances);
        free(l);
}

DEFINE_CLEANUP(Libvirt*, libvirt_close);

static int libvirt_open(const PeerpodConfig *config, const PeerpodCall *call, void **ret, PeerpodError *error) {
        _cleanup_(libvirt_closep) Libvirt *l = NULL;
        int r;

        l = new(Libvirt);
        if (!l)
                return libvirt_oom(error);
        *l = (Libvirt) { .log = config->log, .log_userdata = config->log_userdata };
        (void) pthread_mutex_init(&l->mutex, NULL);
        (void) pthread_cond_init(&l->connected, NULL);

        r = read_uri(l, config, error);
        if (r == 0)
                r = read_disk_and_network(l, config, error);
        if (r == 0)
                r = read_machine(l, config, error);
        if (r == 0)
                r = read_launch_security(l, config, error);
        if (r == 0)
                r = choose_accel(l, config, call, error);
        if (r < 0)
                return r;

        if (libvirt_is_embedded(l))
                r = open_embedded(l, config, call, error);
        else if (libvirt_loop_start(l) < 0)     /* the connection is made when it is needed */
                r = peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to start libvirt's event loop.");
        if (r < 0)
                return r;

        *ret = TAKE_PTR(l);
        return 0;
}

static int check_network(virConnectPtr c, const char *name, PeerpodError *error) {
        _cleanup_(virNetworkFreep) virNetworkPtr network = virNetworkLookupByName(c, name);
        int active = network ? virNetworkIsActive(network) : -1;

        if (active < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to find network '%s'", name);
        if (active == 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Network '%s' is not active.", name);
        return 0;
}

static int libvirt_verify(void *provider, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(libvirt_releasep) LibvirtConnection *c = NULL;
        Libvirt *l = provider;
        virNodeInfo info;
        char *capabilities;
        int r;

        r = libvirt_connect(l, call, &c, error);
        if (r < 0)
                return r;
        if (virNodeGetInfo(c->handle, &info) < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to ask for the host's architecture");
        if (l->s390_pv && !streq(info.model, "s390x"))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT,
                                         "DISABLECVM=false asks for confidential VMs, which this provider makes on s390x only, not on %s.",
                                         info.model);
        r = storage_check(l, c->handle, error);
        if (r < 0)
                return r;
        r = libvirt_is_embedded(l) ? tap_check(l->network, error) : check_network(c->handle, l->network, error);
        if (r < 0)
                return r;
        if (libvirt_is_embedded(l) && streq(info.model, "x86_64") && !isempty(l->firmware) && access(l->firmware, R_OK) < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Firmware '%s' cannot be read: %s", l->firmware, strerror(errno));

        capabilities = virConnectGetDomainCapabilities(c->handle, NULL, NULL, NULL, l->accel == ACCEL_KVM ? "kvm" : "qemu", 0);
        if (!capabilities)
                return libvirt_fail(error, PEERPOD_E_FAILED_PRECONDITION, "libvirt cannot run VMs with %s", l->accel == ACCEL_KVM ? "KVM" : "TCG");
        free(capabilities);
        return 0;
}

const PeerpodProvider peerpod_provider = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION,
        .size = sizeof(PeerpodProvider),
        .name = "libvirt",
        .description = "QEMU VMs through libvirt, in this process or by a daemon",
        .options = options,
        .n_options = _OPTION_MAX,
        .option_size = sizeof(PeerpodOption),
        .user_data_size_max = UINT64_C(8) << 20,
        .volumes_max = 24,                      /* vdb to vdy; the seed is the last one */
        .open = libvirt_open,
        .verify = libvirt_verify,
        .create = instance_create,
        .remove = instance_remove,
        .find = instance_find,
        .close = libvirt_close,
};
