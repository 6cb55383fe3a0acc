#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The pod VM's units can be loaded without a word of complaint; each line of a preset names a unit that is there and can be enabled, and each
# unit that can be enabled has one line; what is started at boot is what the documentation says.
# Usage: podvm-units-test.sh DIRECTORY-WITH-BUILT-UNITS CHECKOUT
set -euo pipefail
built=$1 checkout=$2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
units=$root/usr/lib/systemd/system
mkdir -p "$units" "$root"/etc/systemd/system
failed=0
bad() { echo "not ok: $*"; failed=1; }

# systemd's own, which ours refer to; then ours; and a program for each path that one of them starts.
cp -r /usr/lib/systemd/system/. "$units"
ours=()
for unit in "$built"/*.service "$checkout"/units/podvm/*.{service,socket} "$checkout"/units/podvm/sftp/*.{mount,path,service,socket,target}; do
        cp "$unit" "$units"
        ours+=("${unit##*/}")
done
sed -n 's/^Exec[A-Za-z]*=[-+!@:]*\([^ ]*\).*/\1/p' "${ours[@]/#/$units/}" | sort -u | while read -r program; do
        [[ $program == /* ]] || echo "$program: no absolute path" >>"$root/relative"
        mkdir -p "$root${program%/*}"
        printf '#!/bin/sh\n' >"$root$program"
        chmod 755 "$root$program"
done
[[ ! -e $root/relative ]] || bad "$(cat "$root/relative")"

# verify UNIT...
verify() {
        local unit name out
        for unit; do
                name=${unit/@./@podns.}
                out=$(systemd-analyze --root="$root" --man=no --recursive-errors=no verify "$name" 2>&1) || bad "$name cannot be loaded"
                [[ -z $out ]] || bad "systemd-analyze verify $name: $out"
        done
}
verify "${ours[@]}"

# The variant that takes user data by SFTP changes some of them.
while read -r conf unit; do
        mkdir -p "$root/etc/systemd/system/$unit.d"
        cp "$conf" "$root/etc/systemd/system/$unit.d"
        verify "$unit"
        rm -r "$root/etc/systemd/system/$unit.d"
done <<-END
        $built/sftp/50-sftp.conf process-user-data.service
        $checkout/units/podvm/sftp/reboot-at-end.conf kata-agent.service
        $checkout/units/podvm/sftp/reboot-on-failure.conf scratch-storage.service
END

# Presets: of the image, and of our units
enable=$(sed -n 's/^enable  *//p' "$checkout"/units/podvm{,/sftp}/*.preset "$checkout"/podvm-mkosi/mkosi.extra/usr/lib/systemd/system-preset/*.preset)
[[ -z $(sort <<<"$enable" | uniq -d) ]] || bad "enabled twice: $(sort <<<"$enable" | uniq -d)"
for unit in $enable; do
        [[ -e $units/$unit ]] || { bad "a preset names '$unit', which is no unit"; continue; }
        grep -q '^\[Install\]' "$units/$unit" || bad "a preset names '$unit', which cannot be enabled"
done
for unit in "${ours[@]}"; do
        ! grep -q '^\[Install\]' "$units/$unit" || grep -qx "$unit" <<<"$enable" || bad "'$unit' can be enabled and no preset does so"
done
grep -qx 'disable \*' "$checkout/podvm-mkosi/mkosi.extra/usr/lib/systemd/system-preset/99-podvm-image.preset" ||
        bad "what no preset names is enabled"

# In the variant nothing that may need user data is started before it is there.
for unit in agent-protocol-forwarder.socket agent-protocol-forwarder.service api-server-rest.service; do
        grep -qx "disable $unit" "$checkout"/units/podvm/sftp/*.preset || bad "'$unit' is started without user data"
        sed -n 's/^Wants=//p' "$units/podvm-user-data.target" | tr ' ' '\n' | grep -qx "$unit" || bad "'$unit' is not started by user data"
done

# Order of the start: each of these after the one before it, and not without it
needs() {
        local unit=$1 other
        shift
        for other; do
                for key in Requires After; do
                        sed -n "s/^$key=//p" "$units/$unit.service" | tr ' ' '\n' | grep -qx "$other.service" ||
                                bad "$unit.service has no $key=$other.service"
                done
        done
}
needs scratch-storage process-user-data
needs attestation-agent process-user-data
needs confidential-data-hub attestation-agent scratch-storage
needs kata-agent process-user-data confidential-data-hub scratch-storage
needs agent-protocol-forwarder kata-agent pod-network process-user-data
needs api-server-rest confidential-data-hub

# Who needs the agent waits until it answers; a file is no sign of that.
for unit in attestation-agent confidential-data-hub kata-agent api-server-rest; do
        grep -qx "ExecStartPost=/usr/lib/peerpod/guest-ready $unit" "$units/$unit.service" || bad "$unit.service counts as started too early"
done
# A path unit starts its service again whenever that ends: it is for what stays, or ends the VM.
while read -r path; do
        unit=$(sed -n 's/^Unit=//p' "$path")
        [[ $unit == *.target ]] || grep -qx 'SuccessAction=reboot' "${path%.path}.service" || bad "$path starts something again and again"
done < <(find "$checkout/units/podvm" -name '*.path')

# Nothing gives away what pods use to reach the cloud: there is no unit that sends their packets to a metadata service.
! grep -rliE 'masquerade|ip_forward|[ds]nat ' "$checkout"/units/podvm "$checkout"/podvm-mkosi/mkosi.extra || bad "a path to the metadata service"
exit $failed
