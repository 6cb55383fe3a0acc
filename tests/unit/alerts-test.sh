#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The alerts are valid, and on metrics that there are; the manual page tells of each metric, peerpod-ctrl's of its own.
# Usage: alerts-test.sh ALERTS EXPOSITION.C PAGE CTRL-PAGE
set -eu
promtool check rules "$1"

names=$(sed -n 's/^ *{ "\(peerpod_[a-z_]*\)", FAMILY_.*/\1/p' "$2")
[ -n "$names" ] || { echo "no family found in $2"; exit 1; }
for used in $(grep -o 'peerpod_[a-z_]*' "$1" | sort -u); do
        name=$(printf '%s' "$used" | sed 's/_\(total\|info\|bucket\|sum\|count\)$//')
        printf '%s\n' "$names" | grep -qx "$name" || { echo "$1: there is no metric '$used'"; exit 1; }
done
for name in $names; do
        case $name in
        peerpod_ctrl_*) page=$4 short=${name#peerpod_ctrl_} ;;
        *) page=$3 short=${name#peerpod_} ;;
        esac
        grep -q "^\.It Li \(.* Li \|.* , \)\?$short\(_total\|_info\)\?\( \|$\)" "$page" || { echo "$page does not tell of '$name'"; exit 1; }
done
