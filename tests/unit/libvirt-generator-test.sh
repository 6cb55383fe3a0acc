#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The sandbox of peerpod-provider.service is opened for QEMU exactly where the embedded driver is configured.
set -eu
generator=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/etc/peerpod"
link=$root/out/peerpod-provider.service.d/50-libvirt-embed.conf
failed=0

# check yes|no CM-FILE SECRET-FILE
check() {
        rm -rf "$root/out"; mkdir "$root/out"
        rm -f "$root"/etc/peerpod/*
        [ -z "$2" ] || printf '%b' "$2" >"$root/etc/peerpod/peer-pods-cm.env"
        [ -z "$3" ] || printf '%b' "$3" >"$root/etc/peerpod/peer-pods-secret.env"
        PEERPOD_GENERATOR_ROOT=$root "$generator" "$root/out" "$root/out" "$root/out"
        if [ -L "$link" ]; then got=yes; else got=no; fi
        if [ "$got" != "$1" ]; then
                echo "cm '$2', secret '$3': $got instead of $1"
                failed=1
        fi
}

check yes '' ''
check yes 'CLOUD_PROVIDER=libvirt\n' ''
check yes 'CLOUD_PROVIDER="libvirt"\nLIBVIRT_URI=\n' ''
check yes "LIBVIRT_URI='qemu:///embed?root=/x'\n" ''
check yes '# CLOUD_PROVIDER=aws\nCLOUD_PROVIDER = libvirt \nOTHER\n=\n' ''
check no 'CLOUD_PROVIDER=aws\n' ''
check no 'LIBVIRT_URI=qemu+ssh://root@192.168.122.1/system\n' ''
check no 'LIBVIRT_URI=qemu:///system' ''
check no '' 'CLOUD_PROVIDER=aws\n'
check no 'CLOUD_PROVIDER=libvirt\nCLOUD_PROVIDER=aws\n' ''

if "$generator" 2>/dev/null; then failed=1; fi
exit $failed
