#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Each MESSAGE_ID of messages.h has an entry in the catalog, and the other way round; and each entry says what happened and why, and,
# after an empty line, what to do. Usage: catalog-test.sh HEADER CATALOG MAN-PAGES-DIRECTORY
set -eu
header=$(sed -n 's/^#define MSG_.* "\([0-9a-f]\{32\}\)"$/\1/p' "$1" | sort)
catalog=$(sed -n 's/^-- \([0-9a-f]\{32\}\)$/\1/p' "$2" | sort)
[ -n "$header" ] || { echo "no MESSAGE_ID found in $1"; exit 1; }
[ "$header" = "$catalog" ] || { printf 'in %s:\n%s\nin %s:\n%s\n' "$1" "$header" "$2" "$catalog"; exit 1; }
[ -z "$(printf '%s\n' "$header" | uniq -d)" ] || { echo "an id stands twice"; exit 1; }

# The fields come first, then paragraphs.
awk -v pages="$3" '
        function bad(text) { printf "%s: entry %s %s\n", FILENAME, id, text; failed = 1 }
        function finish() {
                if (id == "")
                        return
                if (subject == "") bad("has no Subject:")
                if (length(subject) > 80) bad("has a Subject: of more than 80 characters")
                if (defined != "peerpod") bad("has no \"Defined-By: peerpod\"")
                if (page == "") bad("has no \"Documentation: man:PAGE(SECTION)\"")
                if (paragraphs < 2) bad("does not say what to do: that is a paragraph of its own, after what happened and why")
        }
        /^-- / { finish(); id = $2; subject = defined = page = ""; paragraphs = 0; fields = 1; blank = 1; next }
        id == "" { next }
        fields && /^Subject: / { subject = substr($0, 10); next }
        fields && /^Defined-By: / { defined = $2; next }
        fields && /^Documentation:( man:[A-Za-z0-9.-]+\([0-9]\))+$/ {
                for (i = 2; i <= NF; i++) {
                        page = substr($i, 5); sub(/\(/, ".", page); sub(/\)/, "", page)
                        if (system("test -e " pages "/" page) != 0) bad("names page " page ", which is not there")
                }
                next
        }
        /^$/ { fields = 0; blank = 1; next }
        { if (blank) paragraphs++; blank = 0; if (length($0) > 140) bad("has a line of more than 140 characters") }
        END { finish(); exit failed }' "$2"
