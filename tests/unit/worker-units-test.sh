#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Each service of a worker or of a controller's host can be had at boot: by a socket or another unit of its name, or because it can be enabled. Each line
# of the preset names a unit that can be enabled, and each that can be is named there: what no preset names, some systems enable.
#
# Usage: worker-units-test.sh DIRECTORY-WITH-SOURCES
set -eu
units=$1/units/worker
failed=0

bad() { echo "worker-units-test: $*" >&2; failed=1; }

for file in "$units"/*.service.in; do
        service=${file##*/}
        service=${service%.in}
        # Templates are started by their instances' names, D-Bus services by theirs.
        [[ $service == *@* || -e $units/${service%.service}.socket ]] || grep -q '^\[Install\]' "$file" || bad "nothing can start '$service' at boot"
done

while read -r verb unit; do
        [[ $verb == enable || $verb == disable ]] || continue
        grep -q '^\[Install\]' "$units/$unit" 2>/dev/null || grep -q '^\[Install\]' "$units/$unit.in" 2>/dev/null ||
                bad "the preset names '$unit', which cannot be enabled"
done <"$units/90-peerpod.preset"

for file in $(grep -l '^\[Install\]' "$units"/*.service.in "$units"/*.socket "$units"/*.target); do
        unit=${file##*/}
        grep -Eqx "(enable|disable) ${unit%.in}" "$units/90-peerpod.preset" || bad "no preset says whether '${unit%.in}' is enabled"
done

exit $failed
