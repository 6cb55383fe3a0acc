#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Each MESSAGE_ID of messages.h has an entry in the catalog, and the other way round. Usage: catalog-test.sh HEADER CATALOG
set -eu
header=$(sed -n 's/^#define MSG_.* "\([0-9a-f]\{32\}\)"$/\1/p' "$1" | sort)
catalog=$(sed -n 's/^-- \([0-9a-f]\{32\}\)$/\1/p' "$2" | sort)
[ -n "$header" ] || { echo "no MESSAGE_ID found in $1"; exit 1; }
[ "$header" = "$catalog" ] || { printf 'in %s:\n%s\nin %s:\n%s\n' "$1" "$header" "$2" "$catalog"; exit 1; }
[ -z "$(printf '%s\n' "$header" | uniq -d)" ] || { echo "an id stands twice"; exit 1; }
