# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What tools/ share: messages, the packages of the host, and the trixie tree in which everything is built and run.
#
# The tree is one directory with a Debian trixie in it, made once by debootstrap and apt from tools/packages.txt and
# kept in the cache. Nothing else is installed on the host but debootstrap itself. Commands run in the tree in
# namespaces of their own (mounts, processes), with the tree as their root; whatever they mounted or left running
# is gone when they end.
#
# Settings, all by environment:
#   PEERPOD_CACHE    where everything is kept (/var/cache/peerpod)
#   PEERPOD_MIRROR   Debian mirror, an URL that ends in /debian (debootstrap's own default)

set -euo pipefail

PEERPOD_CHECKOUT=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
PEERPOD_CACHE=${PEERPOD_CACHE:-/var/cache/peerpod}
PEERPOD_MIRROR=${PEERPOD_MIRROR:-}
PEERPOD_TREE=$PEERPOD_CACHE/trixie

# Where a command in the tree finds the checkout and what it may keep.
TREE_SRC=/usr/src/peerpod
TREE_OUT=/var/cache/peerpod/out

# One build directory for each checkout, so that worktrees side by side do not rebuild each other's files.
CHECKOUT_ID=$(basename -- "$PEERPOD_CHECKOUT")-$(printf '%s' "$PEERPOD_CHECKOUT" | sha256sum | cut -c1-8)

# ---- messages ----

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
START_MS=${START_MS:-$(now_ms)}

# seconds_since MS: with one decimal
seconds_since() { local d=$(($(now_ms) - $1)); printf '%d.%d' $((d / 1000)) $((d % 1000 / 100)); }

say() { printf '%7s s  %s\n' "$(seconds_since "$START_MS")" "$*"; }
warn() { printf '%7s s  warning: %s\n' "$(seconds_since "$START_MS")" "$*" >&2; }
die() { printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2; exit 1; }

# step TEXT LOG COMMAND...: runs COMMAND with its output in the file LOG, says how long it took; shows the end of LOG
# when it fails
step() {
        local text=$1 log=$2 t r
        shift 2
        say "$text …"
        t=$(now_ms)
        mkdir -p -- "$(dirname -- "$log")"
        # Not '|| r=$?': that would turn off 'set -e' in all that COMMAND does.
        set +e
        (set -e; "$@") >"$log" 2>&1 </dev/null
        r=$?
        set -e
        if ((r != 0)); then
                printf '%s\n' "---- end of $log ----" >&2
                tail -n "${PEERPOD_LOG_LINES:-40}" -- "$log" >&2
                die "$text: failed with status $r; the whole log is $log"
        fi
        say "$text: done in $(seconds_since "$t") s"
}

# ---- host ----

need_root() {
        [[ $(id -u) == 0 ]] || die "must run as root; try: sudo $0${*:+ $*}"
}

# host_packages PACKAGE...: installs what is missing on the host (Debian 12 or 13)
host_packages() {
        local p missing=()
        for p; do
                [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null) == ii* ]] || missing+=("$p")
        done
        ((${#missing[@]})) || return 0
        command -v apt-get >/dev/null || die "this host has no apt-get; install by hand: ${missing[*]}"
        step "installing on this host: ${missing[*]}" "$PEERPOD_CACHE/log/host-packages.log" \
                host_apt_install "${missing[@]}"
}

host_apt_install() {
        local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120)
        # The package lists may be missing or old; they are fetched again only when the first try does not succeed.
        "${apt[@]}" install --no-install-recommends "$@" ||
                { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "$@"; }
}

# ---- the tree ----

tree_packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$PEERPOD_CHECKOUT/tools/packages.txt" | LC_ALL=C sort -u; }
tree_stamp() { { echo 'tree 1'; tree_packages; } | sha256sum | cut -d' ' -f1; }

# tree_missing: packages of the list that the tree does not have
tree_missing() {
        LC_ALL=C comm -23 <(tree_packages) \
                <(dpkg-query --admindir="$PEERPOD_TREE/var/lib/dpkg" -W -f '${db:Status-Abbrev} ${Package}\n' |
                        sed -n 's/^ii *//p' | LC_ALL=C sort -u)
}

# tree_ensure: makes the tree, or adds to it what tools/packages.txt has gained; no network when there is nothing to do
tree_ensure() {
        local stamp missing lock
        stamp=$(tree_stamp)
        [[ -d $PEERPOD_TREE && $(cat "$PEERPOD_TREE.stamp" 2>/dev/null) == "$stamp" ]] && return 0

        mkdir -p "$PEERPOD_CACHE"
        exec {lock}>"$PEERPOD_CACHE/tree.lock"
        flock -n "$lock" || { say "another command prepares the tree, waiting for it"; flock "$lock"; }

        if [[ ! -d $PEERPOD_TREE ]]; then
                (($(df --output=avail -B1M "$PEERPOD_CACHE" | tail -1) > 6000)) ||
                        die "less than 6 GB free below $PEERPOD_CACHE; free some, or set PEERPOD_CACHE to a place with room"
                host_packages debootstrap
                step "making a Debian trixie tree in $PEERPOD_TREE" "$PEERPOD_CACHE/log/debootstrap.log" tree_bootstrap
        fi

        missing=$(tree_missing)
        [[ -z $missing ]] ||
                step "installing $(wc -w <<<"$missing") packages and what they need into the tree" \
                        "$PEERPOD_CACHE/log/tree-packages.log" tree_install

        echo "$stamp" >"$PEERPOD_TREE.stamp"
        exec {lock}>&-
}

# tree_mirror [TREE]: where debootstrap got it from
tree_mirror() { awk '$1 == "deb" { print $2; exit }' "${1:-$PEERPOD_TREE}/etc/apt/sources.list"; }

tree_bootstrap() {
        local i mirror new=$PEERPOD_TREE.new

        rm -rf --one-file-system "$new"
        for i in 1 2 3; do              # a download may fail; what has arrived is kept
                if debootstrap --variant=minbase --include=ca-certificates trixie "$new" ${PEERPOD_MIRROR:+"$PEERPOD_MIRROR"}; then
                        break
                fi
                ((i < 3)) || return 1
        done

        mirror=$(tree_mirror "$new")
        {
                echo "deb $mirror trixie-updates main"
                echo "deb $mirror-security trixie-security main"
        } >"$new/etc/apt/sources.list.d/extra.list"

        # Packages must not start services while they are installed.
        printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
        chmod 755 "$new/usr/sbin/policy-rc.d"
        mv -T "$new" "$PEERPOD_TREE"
}

tree_install() {
        # A list of its own for each run: the checkout's may change while apt reads it.
        tree_packages >"$PEERPOD_TREE/var/cache/peerpod-packages"
        tree_run bash -c '
                set -e
                apt() { apt-get -q -y -o Acquire::Retries=3 -o APT::Sandbox::User=root "$@"; }
                apt update
                xargs -a /var/cache/peerpod-packages apt-get -q -y -o Acquire::Retries=3 -o APT::Sandbox::User=root \
                        install --no-install-recommends
                apt clean
                rm /var/cache/peerpod-packages'
}

# tree_enter PROGRAM...: becomes PROGRAM with the tree as root; expects to be alone in its mount namespace.
# Exported as text into the namespace, so it uses nothing from outside but its arguments and the environment.
tree_enter() {
        set -eu
        # A real new root, not a chroot: user namespaces and crun's own pivot_root are refused in a chroot.
        mount --bind "$PEERPOD_TREE" "$PEERPOD_TREE"
        cd "$PEERPOD_TREE"
        mkdir -p ".$TREE_SRC" ".$TREE_OUT"
        mount -t proc proc proc
        mount --rbind /sys sys
        mount --rbind /dev dev
        mount -t tmpfs -o mode=0755 tmpfs run
        mkdir run/lock
        mount -t tmpfs -o mode=1777 tmpfs tmp
        mount --bind "$PEERPOD_CHECKOUT" ".$TREE_SRC"
        mount --bind "$PEERPOD_CACHE/out" ".$TREE_OUT"
        # Package clients in the tree trust what this machine trusts: its way out may have a certificate authority of its own.
        [ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt run/host-ca.crt
        if [ -e /etc/resolv.conf ]; then
                [ -f etc/resolv.conf ] || { rm -f etc/resolv.conf; : >etc/resolv.conf; }
                mount --bind "$(readlink -f /etc/resolv.conf)" etc/resolv.conf
        fi
        # shellcheck disable=SC2086
        for b in ${TREE_BIND:-}; do mkdir -p ".${b#*:}"; mount --rbind "${b%%:*}" ".${b#*:}"; done
        pivot_root . .
        umount -l .
        cd "$TREE_CWD"
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
                DEBIAN_FRONTEND=noninteractive ${http_proxy:+"http_proxy=$http_proxy"} "$@"
}

# tree_run COMMAND...: runs COMMAND in the tree, in the checkout; whatever it leaves behind (processes, mounts) ends
# with it. The network is the host's. TREE_CWD is the working directory (in the tree), TREE_BIND="HOSTDIR:TREEDIR …"
# binds more; TREE_BEFORE is shell text that is run in the new namespaces first, still with the host's root.
tree_run() {
        mkdir -p "$PEERPOD_CACHE/out"
        unshare --mount --pid --fork --kill-child --propagation private \
                env PEERPOD_TREE="$PEERPOD_TREE" PEERPOD_CHECKOUT="$PEERPOD_CHECKOUT" PEERPOD_CACHE="$PEERPOD_CACHE" \
                        TREE_SRC="$TREE_SRC" TREE_OUT="$TREE_OUT" TREE_CWD="${TREE_CWD:-$TREE_SRC}" \
                        TREE_BIND="${TREE_BIND:-}" \
                bash -c "set -eu; ${TREE_BEFORE:-:}; $(declare -f tree_enter)"$'\ntree_enter "$@"' tree_run "$@"
}

# ---- peers: independent implementations that tests need and Debian does not have ----

# peers_ensure: installs what tests/peers/ lists, each set into a directory named after its list, below $TREE_OUT/peers.
# tests/peers/python and tests/peers/node run a program with them. No network when there is nothing to do.
peers_ensure() {
        local list id lock
        mkdir -p "$PEERPOD_CACHE/out/peers"
        exec {lock}>"$PEERPOD_CACHE/out/peers/lock"
        flock "$lock"
        for list in requirements.txt package.json go.mod kube-control-plane/go.mod; do
                [[ -e $PEERPOD_CHECKOUT/tests/peers/$list ]] || continue
                id=$(peers_id "$list")
                [[ -e $PEERPOD_CACHE/out/peers/$id/complete ]] ||
                        step "installing the tests' peers of tests/peers/$list" "$PEERPOD_CACHE/log/peers-$(tr / - <<<"${list%%.*}").log" \
                                tree_run bash -c "$(declare -f peers_install peers_try)"$'\npeers_install "$@"' peers_ensure "$list" "$TREE_OUT/peers/$id"
        done
        exec {lock}>&-
}

# peers_id LIST: the directory of what LIST names; the same as in tests/peers/
peers_id() {
        case $1 in
        */go.mod) echo "${1%/*}-$(cat "$PEERPOD_CHECKOUT/tests/peers/${1%/*}"/{go.mod,go.sum,main.go} | sha256sum | cut -c1-12)" ;;
        go.mod) echo "go-$(cat "$PEERPOD_CHECKOUT"/tests/peers/go.{mod,sum} "$PEERPOD_CHECKOUT"/tests/peers/*/*.go 2>/dev/null | sha256sum | cut -c1-12)" ;;
        *) echo "${1%%.*}-$(sha256sum <"$PEERPOD_CHECKOUT/tests/peers/$1" | cut -c1-12)" ;;
        esac
}

# A download may fail; what has arrived is kept.
peers_try() { "$@" || { sleep 2; "$@"; } || { sleep 10; "$@"; }; }

# In the tree: peers_install LIST DIRECTORY
peers_install() {
        set -eu
        export PIP_CERT=/run/host-ca.crt NODE_EXTRA_CA_CERTS=/run/host-ca.crt SSL_CERT_FILE=/run/host-ca.crt
        local src=/usr/src/peerpod/tests/peers
        rm -rf "$2"
        mkdir -p "$2"
        case $1 in
        requirements.txt)
                # The system's packages, too: what Debian has is not taken from elsewhere.
                python3 -m venv --system-site-packages "$2"
                peers_try "$2/bin/pip" install --disable-pip-version-check --no-cache-dir -r "$src/$1"
                ;;
        package.json)
                cp "$src"/package*.json "$2"
                cd "$2"
                peers_try npm install --ignore-scripts --no-audit --no-fund --cafile /run/host-ca.crt
                ;;
        go.mod | */go.mod)
                export GOFLAGS=-mod=mod GOTOOLCHAIN=local GOMODCACHE=/var/cache/peerpod/out/peers/go-modules GOCACHE=/var/cache/peerpod/out/peers/go-build
                cp -r "$src/$(dirname "$1")" "$2/src"
                cd "$2/src"
                for d in ./ */; do
                        # A folder with a go.mod is a set of its own.
                        if ls "$d"*.go >/dev/null 2>&1 && [[ $d == ./ || ! -e ${d}go.mod ]]; then
                                peers_try go build -buildvcs=false -ldflags="-s -w" -o "$2/bin/" "./$d"
                        fi
                done
                rm -rf "$2/src"
                ;;
        esac
        : >"$2/complete"
}

# ---- the product ----

# Where the build directory NAME is, in the tree and on the host.
build_dir() { echo "$TREE_OUT/build/$CHECKOUT_ID/${1:-release}"; }
build_dir_host() { echo "$PEERPOD_CACHE/out/build/$CHECKOUT_ID/${1:-release}"; }

# product_configure NAME [MESON-OPTION...]: configures in the tree, once
product_configure() {
        local name=$1
        shift
        [[ -e $(build_dir_host "$name")/build.ninja ]] ||
                step "configuring the build '$name'" "$PEERPOD_CACHE/log/meson-$CHECKOUT_ID-$name.log" \
                        tree_run meson setup "$@" "$(build_dir "$name")" "$TREE_SRC"
}

# product_build [NAME [MESON-OPTION...]]: configures (once) and builds in the tree; waits for another command that does
product_build() {
        local name=${1:-release} lock
        (($# == 0)) || shift
        mkdir -p "$(build_dir_host "$name")"
        exec {lock}>"$(build_dir_host "$name").lock"
        flock "$lock"
        product_configure "$name" "$@"
        step "building '$name'" "$PEERPOD_CACHE/log/ninja-$CHECKOUT_ID-$name.log" tree_run ninja -C "$(build_dir "$name")"
        exec {lock}>&-
}
