#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# No unit of the worker or of the pod VM is more exposed than it has to be, as 'systemd-analyze security' reckons (ten times its figure
# here), and all can be loaded. Above 15 a unit says in a comment which privilege makes it so.
# Usage: exposure-test.sh DIRECTORY-WITH-UNITS...
set -eu
# Only ours, and nothing of this machine.
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/lib/systemd/system"
for dir; do cp "$dir"/*.service "$root/usr/lib/systemd/system/"; done

failed=0
check() {
        systemd-analyze security --no-pager --offline=true --root="$root" --threshold="$2" "$1.service" >"$root/out" 2>&1 || {
                echo "$1.service is more exposed than $2:"
                grep -E '✗|Overall' "$root/out" || cat "$root/out"
                failed=1
        }
}

# Worker
check peerpod-adaptor 4
check peerpod-agent-proxy@ 11
check peerpod-ctrl 12
check peerpod-csi-controller 12
check peerpod-csi-node 16
check peerpod-metrics 4
check peerpod-node 12
check peerpod-provider 12
check peerpod-tunnel 23
check peerpod-webhook 4

# Pod VM
check agent-protocol-forwarder 17
check api-server-rest 16
check attestation-agent 22
check azure-ready 12
check confidential-data-hub 48
check kata-agent 94
check netns@ 32
check peerpod-seed 35
check peerpod-user-data-failed 12
check pod-network 20
check podvm-reboot 9
check podvm-sftp-keys 9
check podvm-sftp@ 15
check podvm-volumes 40
check process-user-data 17
check scratch-storage 39
check tee-report 39

for unit in "$root"/usr/lib/systemd/system/*.service; do
        name=$(basename "$unit" .service)
        grep -q "^check $name [0-9]*$" "$0" || { echo "$name.service is not looked at here"; failed=1; }
done
exit $failed
