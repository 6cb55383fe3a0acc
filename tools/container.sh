# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A container image of a pod VM image; sourced after lib.sh.
#
#   container_build IMAGE-DIR FILE.tar
#   container_changes                       what an engine must know of it, as "changes=…&changes=…" of its API's import

# In the tree: container_unpack IMAGE.raw DIRECTORY; the root partition by its type (UAPI group's Discoverable Partitions Specification), any
# architecture's
container_unpack() {
        set -eu
        local start size sector=512
        read -r start size < <(sfdisk --json "$1" | python3 -c '
import json, sys
roots = {"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "5EEAD9A9-FE09-4A1E-A1D7-520D00531306"}
for p in json.load(sys.stdin)["partitiontable"]["partitions"]:
    if p["type"] in roots:
        print(p["start"], p["size"])
        break')
        dd if="$1" of="$2.erofs" bs=$sector skip="$start" count="$size" conv=sparse status=none
        rm -rf "$2"
        fsck.erofs --extract="$2" --overwrite --preserve-owner --preserve-perms "$2.erofs" >/dev/null
        rm "$2.erofs"
}

# In the tree: container_fit DIRECTORY EXTRA
container_fit() {
        set -eu
        local root=$1 unit
        rm -rf "$root"/boot "$root"/efi "$root"/usr/lib/{modules,firmware,kernel}
        # What belongs to a machine: its devices, its disks, its network, which the engine has set up, its clock.
        for unit in systemd-networkd.{service,socket} systemd-networkd-wait-online.service systemd-network-generator.service systemd-udevd.service \
                systemd-udevd-{control,kernel}.socket systemd-udev-trigger.service systemd-modules-load.service kmod-static-nodes.service \
                systemd-timesyncd.service systemd-resolved.service tee-report.service peerpod-seed.service dev-hugepages.mount dev-mqueue.mount \
                sys-kernel-{config,debug,tracing}.mount sys-fs-fuse-connections.mount systemd-firstboot.service systemd-binfmt.service \
                proc-sys-fs-binfmt_misc.automount systemd-random-seed.service systemd-repart.service systemd-tpm2-setup{,-early}.service \
                systemd-pcr{machine,phase,phase-sysinit,phase-initrd}.service console-getty.service; do
                ln -sfT /dev/null "$root/etc/systemd/system/$unit"
        done
        mkdir -p "$root/media/cidata" "$root/image" "$root"/{proc,sys,dev,run,tmp,var,root}
        # Made at each start (machine-id(5)), so that no two pod VMs are one.
        : >"$root/etc/machine-id"
        cp -rT "$2" "$root"
        chmod 755 "$root/usr/lib/peerpod/container-init"
}

container_build() {
        local image=$1 file=$2 work name
        work=$PEERPOD_CACHE/out/container/$CHECKOUT_ID
        name=$(basename -- "$file")
        mkdir -p "$work"
        file=$(cd "$(dirname -- "$file")" && pwd)/$name
        step "making a container image of the pod VM image" "$PEERPOD_CACHE/log/container-$CHECKOUT_ID.log" container_make "$image" "$work"
        mv "$work/image.tar" "$file"
}

container_make() {
        local image=$1 work=$2
        # A file system in memory: ownership and modes are kept whatever the cache is on.
        TREE_BIND="$image:/work/image $work:/work/out" tree_run bash -c "$(declare -f container_unpack container_fit)"'
                set -eu
                container_unpack /work/image/podvm.raw /tmp/root
                container_fit /tmp/root "$1/tools/container/extra"
                tar --create --file /work/out/image.tar --directory /tmp/root --numeric-owner --xattrs --sort=name .' container_make "$TREE_SRC"
}

# ENTRYPOINT ["/usr/lib/peerpod/container-init"], ENV container=docker, STOPSIGNAL SIGRTMIN+3
container_changes() {
        echo 'changes=ENTRYPOINT%20%5B%22%2Fusr%2Flib%2Fpeerpod%2Fcontainer-init%22%5D&changes=ENV%20container%3Ddocker&changes=STOPSIGNAL%20SIGRTMIN%2B3'
}
