#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The program process-user-data as its unit calls it: command line, exit statuses, a disk that is full.
# Usage: process-user-data.sh PROGRAM      (root; makes its own mount namespace)
set -u

if [ "${IN_NAMESPACE:-}" != 1 ]; then
        IN_NAMESPACE=1 exec unshare --mount --propagation private "$BASH" "$0" "$@"
fi

program=$1
failed=0
dir=$(mktemp -d)
trap 'rm -rf "$dir/seed" "$dir/out" "$dir/log" "$dir/log2"; umount "$dir/small" 2>/dev/null; rmdir "$dir/small" "$dir"' EXIT
mkdir "$dir/seed" "$dir/small"

# check NAME STATUS TEXT ARGUMENT…: exit status, and TEXT in what it says
check() {
        local name=$1 status=$2 text=$3 r
        shift 3
        timeout 20 "$program" "$@" >"$dir/log" 2>&1 </dev/null
        r=$?
        if [ $r != "$status" ] || ! grep -qF -- "$text" "$dir/log"; then
                echo "FAILED: $name: exit status $r instead of $status, or no '$text' in:"
                sed 's/^/    /' "$dir/log"
                failed=1
        else
                echo "ok: $name"
        fi
}

expect() {
        local name=$1
        shift
        if "$@"; then
                echo "ok: $name"
        else
                echo "FAILED: $name"
                failed=1
        fi
}

good() {
        cat <<'END'
#cloud-config

write_files:
  - path: /run/peerpod/apf.json
    content: |
      {
          "pod-network": null,
          "pod-namespace": "default",
          "pod-name": "nginx",
          "tls-server-key": "SECRET-OF-THE-TEST"
      }
  - path: /run/peerpod/auth.json
    content: |
      {"auths":{}}
END
}

where=(--tpm-device "$dir/no-tpm" --sys-dir "$dir/no-sys")
at=(provision-files --seed-dir "$dir/seed" --output-dir "$dir/out" "${where[@]}")

check "no argument prints help" 0 "provision-files"
check "--help" 0 "Usage: process-user-data COMMAND" --help
check "--version" 0 "process-user-data 0." --version
check "-v" 0 "process-user-data 0." -v
check "help of the command" 0 "--user-data-fetch-timeout" provision-files --help
check "unknown command" 2 "Unknown command 'provision'" provision
check "unknown option" 2 "Unknown option '--nonsense'" provision-files --nonsense
check "surplus argument" 2 "Unexpected argument 'x'" provision-files x
check "time-out that is none" 2 "is not a whole number" "${at[@]}" -t abc

check "no user data" 1 "There is no user data: '$dir/seed/user-data' is missing" "${at[@]}"
start=$SECONDS
check "no user data after waiting" 1 "There is no user data" "${at[@]}" --wait-for-seed -t 1
expect "the wait is bounded" [ $((SECONDS - start)) -le 5 ]
expect "nothing was written" [ ! -e "$dir/out" ]

echo "write_files: [" >"$dir/seed/user-data"
check "cut user data" 78 "The user data cannot be read: line 2" "${at[@]}"
expect "nothing was written" [ ! -e "$dir/out" ]

{ good; printf '  - path: /run/peerpod/initdata\n    content: |\n      H4sIAAAA\n'; } >"$dir/seed/user-data"
check "cut initdata" 78 "The initdata cannot be used: it is not gzip inside base64." "${at[@]}"
expect "nothing was written" [ ! -e "$dir/out" ]

rm "$dir/seed/user-data"
(sleep 0.5; good >"$dir/seed/.new"; mv "$dir/seed/.new" "$dir/seed/user-data") &
check "user data that comes late" 0 "Wrote '$dir/out/apf.json'." "${at[@]}" --wait-for-seed --user-data-fetch-timeout=10
wait
expect "secrets are not logged" bash -c '! grep -q SECRET "$1"' _ "$dir/log"
expect "these files" [ "$(ls -A "$dir/out" | tr '\n' ' ')" = "aa.toml apf.json auth.json initdata initdata.digest user-data " ]
expect "readable by root only" [ "$(stat -c %a "$dir"/out "$dir"/out/* | sort | uniq -c | tr -s ' \n' ' ')" = " 6 600 1 700 " ]
check "the same again" 0 "processed before" "${at[@]}"

good | sed s/nginx/other/ >"$dir/seed/user-data"
check "other data" 78 "provisioned with other user data before" "${at[@]}"
expect "the first stays" grep -q nginx "$dir/out/apf.json"

# A disk with room for some of the files, but not for all.
mount -t tmpfs -o size=64k,mode=0755 tmpfs "$dir/small" || exit 1
{ good; printf '  - path: /run/peerpod/scratch-space.marker\n    content: |\n'; head -c 60000 /dev/zero | tr '\0' x | fold -w 100 | sed 's/^/      /'; } >"$dir/seed/user-data"
check "full disk" 1 "No space left on device" provision-files --seed-dir "$dir/seed" --output-dir "$dir/small/out" "${where[@]}"
expect "nothing is left on it" [ -z "$(ls -A "$dir/small")" ]
mkdir "$dir/small/out" && echo old >"$dir/small/out/auth.json"
check "full disk, directory there" 1 "No space left on device" provision-files --seed-dir "$dir/seed" --output-dir "$dir/small/out" "${where[@]}"
expect "what was there is left on it" [ "$(ls -A "$dir/small/out")" = auth.json ]
mount -o remount,ro "$dir/small"
check "read-only disk" 1 "Read-only file system" provision-files --seed-dir "$dir/seed" --output-dir "$dir/small/out" "${where[@]}"

exit $failed
