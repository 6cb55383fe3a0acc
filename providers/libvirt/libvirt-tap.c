/* SPDX-License-Identifier: Apache-2.0 */
#include "libvirt-tap.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "basic/util.h"

#define TUN_DEVICE "/dev/net/tun"
#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

typedef struct __user_cap_header_struct CapabilityHeader;
typedef struct __user_cap_data_struct CapabilityData;

static int set_effective(uint32_t effective, uint32_t inheritable) {
        CapabilityHeader header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        CapabilityData data[_LINUX_CAPABILITY_U32S_3] = {};

        if (syscall(SYS_capget, &header, data) < 0)
                return -errno;
        for (size_t i = 0; i < ELEMENTSOF(data); i++) {
                data[i].effective = i == 0 ? effective & data[i].permitted : 0;
                data[i].inheritable = i == 0 ? inheritable & data[i].permitted : 0;
        }
        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int capabilities_lower(void) {
        if (geteuid() == 0)
                return 0;
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
                return -errno;
        return set_effective(0, 0);
}

static void raise_net_admin(void) {
        if (geteuid() != 0)
                (void) set_effective(BIT(CAP_NET_ADMIN), 0);
}

static void lower_net_admin(void) {
        if (geteuid() != 0)
                (void) set_effective(0, 0);
}

void tap_name_make(const char *instance_name, char ret[static IFNAMSIZ]) {
        uint64_t h = UINT64_C(0xcbf29ce484222325);      /* FNV-1a */

        for (const char *p = instance_name; *p; p++)
                h = (h ^ (uint8_t) *p) * UINT64_C(0x100000001b3);
        (void) snprintf(ret, IFNAMSIZ, "ppv%012llx", (unsigned long long) (h & UINT64_C(0xffffffffffff)));
}

static int attach(int tun, const char *tap) {
        struct ifreq ifr = { .ifr_flags = TAP_FLAGS };

        strncpy(ifr.ifr_name, tap, IFNAMSIZ - 1);
        return ioctl(tun, TUNSETIFF, &ifr) < 0 ? -errno : 0;
}

static int set_mac(int s, const char *tap, const uint8_t mac[static 6]) {
        struct ifreq ifr = { .ifr_hwaddr.sa_family = ARPHRD_ETHER };

        strncpy(ifr.ifr_name, tap, IFNAMSIZ - 1);
        memcpy(ifr.ifr_hwaddr.sa_data, mac, 6);
        ifr.ifr_hwaddr.sa_data[0] = (char) 0xfe;        /* as libvirt does for its own: a bridge takes its ports' lowest */
        return ioctl(s, SIOCSIFHWADDR, &ifr) < 0 ? -errno : 0;
}

static int add_to_bridge(int s, const char *tap, const char *bridge) {
        struct ifreq ifr = { .ifr_ifindex = (int) if_nametoindex(tap) };

        strncpy(ifr.ifr_name, bridge, IFNAMSIZ - 1);
        /* EBUSY: it already is a port, of this bridge or of another one. */
        if (ioctl(s, SIOCBRADDIF, &ifr) < 0 && errno != EBUSY)
                return -errno;
        return 0;
}

static int set_up(int s, const char *tap) {
        struct ifreq ifr = {};

        strncpy(ifr.ifr_name, tap, IFNAMSIZ - 1);
        if (ioctl(s, SIOCGIFFLAGS, &ifr) < 0)
                return -errno;
        ifr.ifr_flags |= IFF_UP;
        return ioctl(s, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

static int fail(PeerpodError *error, int r, const char *what, const char *name) {
        const char *hint = r == -EPERM ? ": CAP_NET_ADMIN is needed" : "";

        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s '%s': %s%s", what, name, strerror(-r), hint);
}

static int check_bridge(const char *bridge, PeerpodError *error) {
        char path[64];

        if (isempty(bridge) || strlen(bridge) >= IFNAMSIZ || strchr(bridge, '/') || bridge[0] == '.')
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.64s' is no name of a network interface.", bridge);
        if (if_nametoindex(bridge) == 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "There is no bridge '%s'.", bridge);
        /* /sys may show another network namespace than ours; only "is not there" while /sys knows the interface says something. */
        (void) snprintf(path, sizeof(path), "/sys/class/net/%s/bridge", bridge);
        if (access(path, F_OK) < 0) {
                *strrchr(path, '/') = '\0';
                if (access(path, F_OK) == 0)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Network interface '%s' is no bridge.", bridge);
        }
        return 0;
}

int tap_create(const char *tap, const char *bridge, const uint8_t mac[static 6], PeerpodError *error) {
        _cleanup_(close_fdp) int tun = -EBADF, s = -EBADF;
        const char *what;
        int r;

        r = check_bridge(bridge, error);
        if (r < 0)
                return r;
        tun = open(TUN_DEVICE, O_RDWR|O_CLOEXEC);
        if (tun < 0)
                return fail(error, -errno, "Failed to open", TUN_DEVICE);
        s = socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, 0);
        if (s < 0)
                return fail(error, -errno, "Failed to make a socket for", tap);

        raise_net_admin();
        what = "Failed to make the tap device";
        r = attach(tun, tap);
        if (r == 0 && ioctl(tun, TUNSETOWNER, geteuid()) < 0)
                r = -errno;
        if (r == 0)
                r = set_mac(s, tap, mac);
        if (r == 0) {
                what = "Failed to add the tap device to bridge";
                r = add_to_bridge(s, tap, bridge);
        }
        if (r == 0) {
                what = "Failed to bring up the tap device on bridge";
                r = set_up(s, tap);
        }
        /* Last: until here it goes with our descriptor. */
        if (r == 0 && ioctl(tun, TUNSETPERSIST, 1) < 0)
                r = -errno;
        lower_net_admin();

        return r < 0 ? fail(error, r, what, strstr(what, "bridge") ? bridge : tap) : 0;
}

int tap_remove(const char *tap, PeerpodError *error) {
        _cleanup_(close_fdp) int tun = -EBADF;
        int r;

        if (if_nametoindex(tap) == 0)
                return 0;
        tun = open(TUN_DEVICE, O_RDWR|O_CLOEXEC);
        if (tun < 0)
                return fail(error, -errno, "Failed to open", TUN_DEVICE);
        r = attach(tun, tap);
        if (r == 0 && ioctl(tun, TUNSETPERSIST, 0) < 0)
                r = -errno;
        return r < 0 ? fail(error, r, "Failed to remove the tap device", tap) : 0;
}

int tap_check(const char *bridge, PeerpodError *error) {
        _cleanup_(close_fdp) int tun = -EBADF;
        struct ifreq ifr = { .ifr_flags = TAP_FLAGS };
        int r;

        r = check_bridge(bridge, error);
        if (r < 0)
                return r;
        tun = open(TUN_DEVICE, O_RDWR|O_CLOEXEC);
        if (tun < 0)
                return fail(error, -errno, "Failed to open", TUN_DEVICE);

        raise_net_admin();
        (void) snprintf(ifr.ifr_name, IFNAMSIZ, "ppvcheck%%d");
        r = ioctl(tun, TUNSETIFF, &ifr) < 0 ? -errno : 0;       /* gone with the descriptor */
        lower_net_admin();
        return r < 0 ? fail(error, r, "Failed to make a tap device for bridge", bridge) : 0;
}
