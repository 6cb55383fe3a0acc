# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Worker hosts: the trixie tree with a writable layer of its own and the product installed, booted by systemd-nspawn.
# Sourced after lib.sh.
#
# A worker NAME is one process tree: unshare (namespaces) > script (a pty) > systemd-nspawn > systemd. Its mounts live
# in that unshare's mount namespace and its processes in its process namespace, so ending the first process ends
# them all. What is left then is a control group and the directory $PEERPOD_CACHE/worker/NAME; worker_down removes both.
#
#   worker_up NAME [IMAGE-DIR]     make, boot and wait until it runs; IMAGE-DIR appears as /srv/peerpod in it, read-only,
#                                  and /var/lib/libvirt/images/podvm.qcow2 leads to the image there
#   worker_exec NAME COMMAND...    run COMMAND in it (root, clean environment); returns its status
#   worker_pid NAME                pid of its systemd, as the host sees it; for nsenter
#   worker_is_up NAME              status 0 if it runs
#   worker_down NAME               end it and remove all of it; fine if there is none
#
# What is installed: WORKER_BUILD, the name of the build (release); WORKER_TAGS, meson's install tags (worker,ctl,tests); and
# WORKER_PROGRAMS, further programs by their paths in the build directory. WORKER_NSPAWN: further options of systemd-nspawn. WORKER_PREPARE, a function that gets the directory with what was
# installed, before the first boot.

# Where a worker's root is in the mount namespace of its own. In /run, which is private there too: systemd-nspawn puts a lock
# beside the root, and elsewhere workers would lock each other out.
WORKER_ROOT=/run/worker/root

worker_dir() { echo "$PEERPOD_CACHE/worker/$1"; }

worker_check_name() {
        [[ $1 =~ ^[a-z0-9][a-z0-9-]{0,31}$ ]] || die "'$1' is no name for a worker host: lower-case letters, digits and '-'"
}

# Where its control group is: below systemd's or, on a host without, below the root of the unified hierarchy
worker_cgroup_root() { awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts; }
host_has_systemd() { [[ -d /run/systemd/system ]]; }

worker_is_up() {
        local dir pid
        dir=$(worker_dir "$1")
        pid=$(cat "$dir/pid" 2>/dev/null) || return 1
        # A pid may have been given to somebody else meanwhile: the process must be the one that we started.
        [[ $(process_start "$pid") == "$(cat "$dir/pid-start" 2>/dev/null)" ]]
}

# process_start PID: start time in ticks since boot, which together with the pid names a process for good
process_start() { sed -n 's/^.*) //p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

worker_pid() {
        local pid
        pid=$(cat "$(worker_dir "$1")/leader" 2>/dev/null) || return 1
        [[ -d /proc/$pid ]] && echo "$pid"
}

worker_exec() {
        local name=$1 pid
        shift
        worker_is_up "$name" || die "worker host '$name' is not up"
        pid=$(worker_pid "$name") || die "worker host '$name' is still booting, or going down"
        nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --root --wdns=/root -- \
                env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 "$@"
}

# The writable layer: configuration of the host, the product, users; made offline, before the first boot
worker_install() {
        local dir=$1 name=$2 build=$3
        local root=$WORKER_ROOT

        mkdir -p "$dir"/{upper,work,root}
        cp -rT "$PEERPOD_CHECKOUT/tools/worker" "$dir/upper"
        echo "peerpod-$name" >"$dir/upper/etc/hostname"
        printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n' "peerpod-$name" >"$dir/upper/etc/hosts"
        tr -d - </proc/sys/kernel/random/uuid >"$dir/upper/etc/machine-id"
        mkdir -p "$dir/upper/var/lib/libvirt/images"
        ln -s /srv/peerpod/podvm.qcow2 "$dir/upper/var/lib/libvirt/images/podvm.qcow2"

        # shellcheck disable=SC2016
        TREE_BEFORE=$(worker_mount_text "$dir") TREE_BIND="$dir/root:$root" \
                tree_run bash -euc '
                        root=$1 build=$2
                        meson install -C "$build" --no-rebuild --tags "$3" --destdir "$root"
                        for f in $4; do install -D "$build/$f" "$root/usr/lib/peerpod/${f##*/}"; done
                        systemd-sysusers --root="$root"
                        systemctl --root="$root" preset-all
                        journalctl --root="$root" --update-catalog' \
                worker_install "$root" "$build" "${WORKER_TAGS:-worker,ctl,tests}" "${WORKER_PROGRAMS:-}"
}

worker_mount_text() {
        printf 'mount -t overlay peerpod-worker -o lowerdir=%q,upperdir=%q,workdir=%q %q' \
                "$PEERPOD_TREE" "$1/upper" "$1/work" "$1/root"
}

# Boots in the foreground; the console goes to stdout
worker_boot() {
        local dir=$1 name=$2 images=$3 root=$WORKER_ROOT
        local device nspawn=(systemd-nspawn --quiet --register=no --keep-unit --machine="peerpod-$name" --directory="$root"
                --boot --capability=all --private-network --link-journal=no --resolv-conf=off --timezone=off)

        for device in /dev/net/tun /dev/kvm /dev/fuse; do
                [[ ! -c $device ]] || nspawn+=(--bind="$device")
        done
        [[ -z $images ]] || nspawn+=(--bind-ro=/srv/peerpod)
        # shellcheck disable=SC2206
        nspawn+=(${WORKER_NSPAWN:-})

        # systemd-nspawn needs a terminal as its console: on a pipe the boot stalls.
        TREE_CWD=/ TREE_BEFORE=$(worker_mount_text "$dir") TREE_BIND="$dir/root:$root${images:+ $images:/srv/peerpod}" \
                tree_run script --quiet --flush --return --command \
                "stty cols 120 rows 40; SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec ${nspawn[*]@Q}" /dev/null
}

# Starts worker_boot detached, in a control group of its own
worker_start() {
        local dir=$1 name=$2 images=$3 cgroup text
        text="set -euo pipefail; . ${PEERPOD_CHECKOUT@Q}/tools/lib.sh; . ${PEERPOD_CHECKOUT@Q}/tools/worker.sh
                worker_boot ${dir@Q} ${name@Q} ${images@Q}"

        if host_has_systemd; then
                setsid --fork env PEERPOD_CACHE="$PEERPOD_CACHE" WORKER_NSPAWN="${WORKER_NSPAWN:-}" \
                        systemd-run --quiet --scope --collect --unit="peerpod-worker-$name" --property=Delegate=yes \
                        bash -c "echo \$\$ >${dir@Q}/pid; $text" >"$dir/console.log" 2>&1 </dev/null
        else
                cgroup=$(worker_cgroup_root)/peerpod-worker-$name
                mkdir -p "$cgroup"
                setsid --fork env PEERPOD_CACHE="$PEERPOD_CACHE" WORKER_NSPAWN="${WORKER_NSPAWN:-}" \
                        bash -c "echo \$\$ >${cgroup@Q}/cgroup.procs; echo \$\$ >${dir@Q}/pid; $text" \
                        >"$dir/console.log" 2>&1 </dev/null
        fi
}

# Where systemd-nspawn put the container's own control group
worker_find_cgroup() {
        local dir pid
        pid=$(cat "$(worker_dir "$1")/pid")
        sed -n 's/^0:://p' "/proc/$pid/cgroup"
}

worker_wait() {
        local dir=$1 name=$2 deadline=$((SECONDS + ${PEERPOD_BOOT_TIMEOUT:-120})) pid='' state init

        while ((SECONDS < deadline)); do
                worker_is_up "$name" || return 1
                if [[ -z $pid ]]; then
                        init=$(worker_cgroup_root)$(worker_find_cgroup "$name")/payload/init.scope/cgroup.procs
                        read -r pid 2>/dev/null <"$init" || pid=
                        [[ -z $pid ]] || echo "$pid" >"$dir/leader"
                elif worker_exec "$name" test -S /run/systemd/private; then
                        state=$(worker_exec "$name" timeout 100 systemctl is-system-running --wait 2>&1) || :
                        case $state in
                        running) return 0 ;;
                        degraded)
                                warn "units of the worker host failed: $(worker_exec "$name" systemctl --failed --plain \
                                        --no-legend | awk '{ print $1 }' | tr '\n' ' ')"
                                return 0 ;;
                        esac
                fi
                sleep 0.1
        done
        return 1
}

worker_up() {
        local name=$1 images=${2:-} dir t
        worker_check_name "$name"
        dir=$(worker_dir "$name")
        worker_is_up "$name" && die "worker host '$name' is up already"
        worker_down "$name"

        step "installing the product into the worker host '$name'" "$PEERPOD_CACHE/log/worker-$name-install.log" \
                worker_install "$dir" "$name" "$(build_dir "${WORKER_BUILD:-release}")"
        [[ -z ${WORKER_PREPARE:-} ]] || "$WORKER_PREPARE" "$dir/upper"

        echo "$images" >"$dir/images"           # keeps it from being pruned
        say "booting the worker host '$name' …"
        t=$(now_ms)
        worker_start "$dir" "$name" "$images"
        until [[ -s $dir/pid ]]; do sleep 0.05; done
        process_start "$(cat "$dir/pid")" >"$dir/pid-start"
        if ! worker_wait "$dir" "$name"; then
                tail -n 40 "$dir/console.log" >&2
                die "worker host '$name' did not come up; its console: $dir/console.log"
        fi
        say "booting the worker host '$name': done in $(seconds_since "$t") s"
}

worker_down() {
        local name=$1 dir pid cgroup="" root d
        worker_check_name "$name"
        dir=$(worker_dir "$name")
        [[ -d $dir ]] || return 0

        root=$(worker_cgroup_root)
        if worker_is_up "$name"; then
                cgroup=$(worker_find_cgroup "$name")
                cgroup=${cgroup%/supervisor}
                # In good order first, so that VMs and their files end as on a real shutdown; then by force.
                if pid=$(worker_pid "$name"); then
                        kill -s RTMIN+4 "$pid" 2>/dev/null || :         # systemd: power off
                fi
                worker_wait_gone "$name" "${PEERPOD_STOP_TIMEOUT:-20}" || worker_kill "$root$cgroup"
                worker_wait_gone "$name" 10 || die "worker host '$name' (pid $(cat "$dir/pid")) does not end"
        fi

        # A host with systemd has cleaned up the scope by itself.
        for d in "$root/peerpod-worker-$name" "/sys/fs/cgroup/systemd/peerpod-worker-$name"; do
                [[ ! -d $d ]] || find "$d" -depth -type d -exec rmdir {} +
        done
        rm -rf --one-file-system "$dir"
}

worker_wait_gone() {
        local deadline=$((SECONDS + $2))
        while worker_is_up "$1"; do
                ((SECONDS < deadline)) || return 1
                sleep 0.05
        done
}

worker_kill() { [[ ! -e $1/cgroup.kill ]] || echo 1 >"$1/cgroup.kill"; }

worker_list() {
        local d
        for d in "$PEERPOD_CACHE"/worker/*/; do
                [[ -d $d ]] && basename "$d"
        done
        return 0
}
