# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the demo and the end-to-end tests do with a worker host: pods as a CNI plugin makes them, sandboxes as Kata's shim asks for
# them, and the search for leftovers. Sourced after lib.sh and worker.sh; W names the worker host.

in_worker() { worker_exec "$W" "$@"; }
ctl() { in_worker peerpodctl "$@"; }

# ---- pod network, as a bridge CNI plugin leaves it ----

CNI_GATEWAY=10.88.0.1

cni_bridge() {
        in_worker bash -ec '
                ip link show cni0 >/dev/null 2>&1 && exit 0
                ip link add cni0 mtu 1450 type bridge
                ip addr add "$1/24" dev cni0
                ip link set cni0 up
                echo 1 >/proc/sys/net/ipv4/ip_forward' cni_bridge "$CNI_GATEWAY"
}

# cni_add POD ADDRESS: a network namespace with one interface on the bridge, an address and the default route
cni_add() {
        in_worker bash -ec '
                pod=$1 address=$2 gateway=$3
                ip netns add "cni-$pod"
                ip link add "veth-$pod" mtu 1450 type veth peer name eth0 mtu 1450 netns "cni-$pod"
                ip link set "veth-$pod" master cni0 up
                ip -n "cni-$pod" link set lo up
                ip -n "cni-$pod" addr add "$address/24" brd + dev eth0
                ip -n "cni-$pod" link set eth0 up
                ip -n "cni-$pod" route add default via "$gateway"' cni_add "$1" "$2" "$CNI_GATEWAY"
}

cni_del() { in_worker ip netns del "cni-$1"; }
in_pod() { local pod=$1; shift; in_worker ip netns exec "cni-$pod" "$@"; }

# ---- sandboxes ----

# Root file system of containers in the test image (podvm-mkosi/mkosi.build)
ROOTFS=/usr/lib/peerpod/tests/rootfs

# new_sandbox_id: 64 hexadecimal digits, as CRI runtimes name them
new_sandbox_id() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

# sandbox_create ID POD [PEERPODCTL-OPTION...]
sandbox_create() {
        local id=$1 pod=$2
        shift 2
        ctl hypervisor create-vm "$id" --netns "/run/netns/cni-$pod" --pod-name "$pod" --pod-namespace demo "$@"
}

# ---- what may be left over ----

# leftovers: prints one line for each thing that a worker without sandboxes should not have; fails if there is one
leftovers() {
        in_worker bash -c '
                found() { sed "s|^|$1: |"; }
                {
                        busctl --system call org.confidentialcontainers.PeerPod1 /org/confidentialcontainers/PeerPod1 \
                                org.confidentialcontainers.PeerPod1.Manager ListPodVMs 2>&1 |
                                grep -vx "a(sssso) 0" | found "pod VM on the bus"
                        for d in /var/lib/peerpod/sandboxes /run/peerpod/pods /run/peerpod/adaptor; do
                                find "$d" -mindepth 1 2>/dev/null
                        done | found "file of the adaptor"
                        find /run/peerpod/tunnel -mindepth 1 2>/dev/null | found "file of the tunnel manager"
                        find /var/lib/peerpod-provider -type f 2>/dev/null |
                                grep -E "podvm-[^/]*\.(qcow2|iso|xml|log|fd|sock|pid)$|/podvm-[^/]*$" | found "file of the provider"
                        systemctl list-units --all --plain --no-legend "peerpod-agent-proxy@*" | found "unit"
                        find /run/systemd/system.control -mindepth 1 -name "peerpod-*" 2>/dev/null | found "drop-in"
                        find /run/credentials -mindepth 1 -name "peerpod-agent-proxy@*" 2>/dev/null | found "credentials"
                        for p in /proc/[0-9]*; do
                                case $(tr "\0" " " <"$p/cmdline" 2>/dev/null) in
                                *qemu-system*podvm-*) echo "${p#/proc/}" | found "QEMU process" ;;
                                *peerpod-agent-proxy*) echo "${p#/proc/}" | found "agent proxy process" ;;
                                esac
                        done
                        ip -o link show type vxlan | found "link of the host"
                        ip -o tuntap show | found "tap device"
                        for ns in $(ip netns list | cut -d" " -f1); do
                                ip -n "$ns" -o link show type vxlan | found "link in $ns"
                                tc -n "$ns" qdisc show | grep -E "ingress|clsact" | found "qdisc in $ns"
                        done
                        nft list table ip peerpod 2>/dev/null | grep -E "elements|drop" | found "firewall rule"
                } | { ! grep . ; }'
}

WHAT_LEFTOVERS_LOOKS_AT="pod VMs on the bus, records and run-time files of all services, disks and logs of VMs, proxy units with
drop-ins and credentials, QEMU and proxy processes, VXLAN links, tap devices, qdiscs and firewall rules"

sandbox_is_gone() { ! ctl status "$1" >/dev/null 2>&1; }

# wait_until SECONDS TEXT COMMAND...: until the command succeeds
wait_until() {
        local deadline=$((SECONDS + $1)) text=$2
        shift 2
        until "$@"; do
                ((SECONDS < deadline)) || { warn "waited in vain until $text"; return 1; }
                sleep 0.2
        done
}

# pod_mtu: inner MTU of the tunnel, as the pod VM's interface has it
pod_mtu() { ctl agent "$SANDBOX" exec web -- /bin/busybox cat /sys/class/net/eth0/mtu; }

# podvm_path: object path of $SANDBOX on the bus
podvm_path() {
        in_worker busctl --system call org.confidentialcontainers.PeerPod1 /org/confidentialcontainers/PeerPod1 \
                org.confidentialcontainers.PeerPod1.Manager GetPodVM s "$SANDBOX" | sed 's/^o "\(.*\)"$/\1/'
}
