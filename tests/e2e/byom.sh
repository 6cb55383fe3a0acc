# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A machine for provider byom: the pod VM image's root file system with the SFTP variant's units, booted by systemd-nspawn in the worker host as
# on a machine of its own: read-only, with /var in memory, an interface, and a directory that outlasts a reboot. Sourced by ./run.

BYOM_ROOT=/var/lib/machines/pool-vm BYOM_STATE=/var/lib/pool-vm-state BYOM_GATEWAY=10.99.0.1 BYOM_ADDRESS=10.99.0.2

# In the tree: what mkosi does for podvm-mkosi/mkosi.profiles/sftp, in an image's root directory, without its package manager
byom_fit() {
        set -eu
        local root=$1 build=$2 keys=$3 program
        for program in /usr/sbin/sshd /usr/lib/openssh/sshd-{session,auth} /usr/bin/ssh-keygen; do
                cp --parents "$program" "$root"
                ldd "$program" | awk '$2 == "=>" { print $3 }' | while read -r library; do
                        [[ -e $root$library ]] || cp --parents --dereference "$library" "$root"
                done
        done
        cp /usr/lib/sysusers.d/openssh-server.conf "$root/usr/lib/sysusers.d"
        meson install -C "$build" --no-rebuild --tags podvm-sftp --quiet --destdir "$root"
        cp "$keys" "$root/etc/ssh/podvm-authorized_keys"
        systemd-sysusers --root="$root"
        systemctl --root="$root" preset-all
        BUILDROOT=$root podvm-mkosi/mkosi.profiles/sftp/mkosi.finalize
        printf '[Match]\nName=host0\n[Network]\nAddress=%s/24\nGateway=%s\nLinkLocalAddressing=no\n' "$4" "$5" >"$root/etc/systemd/network/10-host0.network"
}

# byom_machine PUBLIC-KEY: its root directory in the worker host
byom_machine() {
        # In the tree's /tmp, which is in memory; what it is made of goes to stderr.
        TREE_BIND="$IMAGE_DIR:/work/image" tree_run bash -c "$(declare -f container_unpack byom_fit)"'
                set -eu
                container_unpack /work/image/podvm.raw /tmp/root >&2
                base64 -d <<<"$1" >/tmp/keys
                byom_fit /tmp/root "$2" /tmp/keys "$3" "$4" >&2
                tar --create --directory /tmp/root --numeric-owner .' byom_machine "$(base64 -w0 <<<"$1")" "$(build_dir release)" \
                $BYOM_ADDRESS $BYOM_GATEWAY |
                in_worker bash -ec 'mkdir -p "$1"; tar --extract --directory "$1" --numeric-owner' byom_machine $BYOM_ROOT
}

# byom_boot: as by its power button; a reboot ends systemd-nspawn with status 133 (systemd: src/nspawn/nspawn.c, EXIT_FORCE_RESTART)
byom_boot() {
        in_worker bash -ec '
                ip link add byom0 type bridge
                ip addr add "$3/24" dev byom0
                ip link set byom0 up
                mkdir -p -m 0700 "$2"
                systemd-run --quiet --unit=pool-vm --service-type=notify --property=Delegate=yes --property=RestartForceExitStatus=133 \
                        --property=KillMode=mixed --property=TimeoutStopSec=30s --setenv=SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 \
                        systemd-nspawn --quiet --boot --machine=pool-vm --directory="$1" --register=no --keep-unit --capability=all --volatile=state \
                        --network-bridge=byom0 --bind="$2:/var/lib/peerpod" --system-call-filter=@keyring --link-journal=no --resolv-conf=off \
                        --timezone=off --notify-ready=yes --console=pipe' byom_boot $BYOM_ROOT $BYOM_STATE $BYOM_GATEWAY
}

# in_machine COMMAND...: as somebody at its console, which the real one does not have
in_machine() {
        in_worker bash -ec 'read -r pid </sys/fs/cgroup/system.slice/pool-vm.service/payload/init.scope/cgroup.procs
                exec nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --root -- env -i PATH=/usr/sbin:/usr/bin "$@"' in_machine "$@"
}

# unit_is UNIT STATE: of the machine's
unit_is() { [[ $(in_machine systemctl show --property=ActiveState --value "$1") == "$2" ]]; }

# byom_up: the machine runs, and the provider service has it for a pool, as docs/providers/byom.md says
byom_up() {
        in_worker bash -ec 'mkdir -p -m 0700 /etc/peerpod/byom; ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/peerpod/byom/key'
        byom_machine "$(in_worker cat /etc/peerpod/byom/key.pub)"
        byom_boot
        in_worker bash -ec 'cd /etc/peerpod/byom
                echo "$2 $(ssh-keygen -y -f "$1/ssh_host_ed25519_key")" >known_hosts
                printf "%s\n" CLOUD_PROVIDER=byom "VM_POOL_IPS=$2" SSH_PRIV_KEY_PATH=/run/credentials/peerpod-provider.service/byom-key \
                        SSH_KNOWN_HOSTS=/run/credentials/peerpod-provider.service/byom-known-hosts >settings.env
                d=/run/systemd/system/peerpod-provider.service.d; mkdir -p $d
                printf "[Service]\nEnvironmentFile=\nEnvironmentFile=$PWD/settings.env\nLoadCredential=byom-key:$PWD/key\nLoadCredential=byom-known-hosts:$PWD/known_hosts\n" \
                        >$d/85-byom.conf
                systemctl daemon-reload; systemctl try-restart peerpod-provider.service' byom_up $BYOM_STATE $BYOM_ADDRESS
}

byom_down() {
        in_worker bash -ec 'rm /run/systemd/system/peerpod-provider.service.d/85-byom.conf
                systemctl daemon-reload; systemctl try-restart peerpod-provider.service
                systemctl stop pool-vm.service; ip link delete byom0
                rm -r "$1" "$2" /etc/peerpod/byom
                rm -f /var/lib/peerpod-provider/byom-pool.json' byom_down $BYOM_ROOT $BYOM_STATE
}

# byom_sftp: commands of sftp(1) on stdin, as who has the pool's key
byom_sftp() {
        in_worker sftp -q -b- -i /etc/peerpod/byom/key -o UserKnownHostsFile=/etc/peerpod/byom/known_hosts "$@" peerpod@$BYOM_ADDRESS
}

# byom_is_clean: it has rebooted since anything was uploaded
byom_is_clean() {
        local out
        out=$(echo 'ls -1a cidata' | byom_sftp) && [[ $out == *cidata/.* ]] && ! grep -vx -e 'sftp> .*' -e 'cidata/\.' -e 'cidata/\.\.' <<<"$out"
}

# byom_sandbox ID POD ADDRESS: one from begin to end, but for the end
byom_sandbox() {
        sandbox_create "$1" "$2" --annotation "example.com/token=$CANARY"
        note_secrets "$1"
        ctl hypervisor start-vm "$1" --timeout 120
        holds "$(ctl agent "$1" check)" SERVING
        ctl agent "$1" create-sandbox --hostname "$2"
        ctl agent "$1" create-container web --rootfs $ROOTFS -- /bin/busybox sh -c \
                "mkdir -p /tmp/www && echo hello from $2 >/tmp/www/index.html && exec busybox httpd -f -p 80 -h /tmp/www"
        ctl agent "$1" start-container web
        holds "$(ctl agent "$1" exec web -- /bin/busybox hostname)" "$2"
        in_pod beside ping -c 3 -i 0.2 -W 10 "$3"
        holds "$(in_pod beside curl --silent --show-error --max-time 30 "http://$3/")" "hello from $2"
        ctl agent "$1" exec web -- /bin/busybox ping -c 2 -W 10 -s 8000 $THIRD_IP
}

case_sandboxes_run_one_after_the_other_on_a_machine_of_a_pool() {
        local id pod pool
        byom_up
        cni_bridge
        cni_add beside $THIRD_IP
        # The agent's end makes the machine reboot; so does the provider's request alone.
        for pod in first second; do
                id=$(new_sandbox_id)
                cni_add "$pod" $SECOND_IP
                byom_sandbox "$id" "$pod" $SECOND_IP
                holds "$(ctl status "$id")" "$BYOM_ADDRESS/"
                [[ $pod == second ]] || ctl agent "$id" destroy-sandbox
                ctl hypervisor stop-vm "$id"
                wait_until 120 "the sandbox is gone" sandbox_is_gone "$id"
                cni_del "$pod"

                pool=$(in_worker cat /var/lib/peerpod-provider/byom-pool.json)
                [[ $pool != *"$id"* && $pool == *"$BYOM_ADDRESS"* ]] || fail "the pool: $pool"
                byom_is_clean || fail "it is free and not clean: $(echo 'ls -la cidata' | byom_sftp)"
        done
        cni_del beside
        byom_down
        leftovers
}

# cut_upload NAME: the connection breaks while a file is sent
cut_upload() {
        local client
        # 1 KiB in a second; the text is one line, whose end would come after five minutes.
        in_worker bash -ec 'head -c 300000 /dev/zero | tr "\0" x >/run/e2e-upload; echo >>/run/e2e-upload'
        echo "put /run/e2e-upload cidata/$1" | in_worker sftp -q -b- -l 8 -B 1024 -i /etc/peerpod/byom/key \
                -o UserKnownHostsFile=/etc/peerpod/byom/known_hosts peerpod@$BYOM_ADDRESS &
        wait_until 60 "a part of it is there" in_machine test -s "/media/cidata/$1"
        client=$(in_worker pgrep -x ssh)
        in_worker kill -KILL "$client"
        wait $! || :
        in_worker rm /run/e2e-upload
}

user_data_is_incomplete() { [[ $(in_machine journalctl --no-pager -u process-user-data.service) == *"its last line has no end"* ]]; }

case_an_upload_that_breaks_off_starts_nothing() {
        local id unit
        byom_up
        # As our provider sends it
        cut_upload .user-data.new
        # The target, and so whatever it would have started, has never been on its way.
        [[ $(in_machine systemctl show --property=InactiveExitTimestampMonotonic --value podvm-user-data.target) == 0 ]]
        # As others do, under its own name: it is looked at, and waited for.
        cut_upload user-data
        wait_until 60 "it is found incomplete" user_data_is_incomplete
        for unit in agent-protocol-forwarder.service kata-agent.service pod-network.service; do
                [[ $(in_machine systemctl show --property=ExecMainStartTimestampMonotonic --value "$unit") == 0 ]] || fail "$unit was started"
        done
        [[ -z $(in_machine find /run/peerpod -type f) ]] || fail "files: $(in_machine find /run/peerpod)"

        # It is not given to a pod, though nobody has it.
        cni_bridge
        cni_add cut $SECOND_IP
        id=$(new_sandbox_id)
        sandbox_create "$id" cut >/dev/null
        holds "$(ctl hypervisor start-vm "$id" --timeout 120 2>&1 || :)" "it has been used and not rebooted since"
        ctl hypervisor stop-vm "$id"
        wait_until 120 "the sandbox is gone" sandbox_is_gone "$id"
        cni_del cut

        # A reboot makes it as new, also in the midst of this.
        in_worker touch /run/e2e-reboot
        echo 'put /run/e2e-reboot cidata/reboot' | byom_sftp || :
        in_worker rm /run/e2e-reboot
        wait_until 60 "it has rebooted" byom_is_clean
        unit_is podvm-user-data.target inactive
        byom_down
        leftovers
}

# refused COMMAND...: in the worker host, with the pool's key
refused() {
        ! in_worker "$@" >"$OUT/refused" 2>&1 </dev/null || fail "$* succeeds: $(cat "$OUT/refused")"
}

case_the_key_of_a_pool_opens_nothing_but_its_directory() {
        local ssh=(ssh -o BatchMode=yes -o ConnectTimeout=60 -o UserKnownHostsFile=/etc/peerpod/byom/known_hosts) command key='-i /etc/peerpod/byom/key'
        byom_up
        refused "${ssh[@]}" $key peerpod@$BYOM_ADDRESS id
        holds "$(cat "$OUT/refused")" "This service allows sftp connections only."
        refused "${ssh[@]}" $key root@$BYOM_ADDRESS id
        holds "$(cat "$OUT/refused")" "Permission denied (publickey)"
        refused "${ssh[@]}" $key -W 127.0.0.1:22 peerpod@$BYOM_ADDRESS
        holds "$(cat "$OUT/refused")" "administratively prohibited"
        # Another key, and other ways to log in, do not even get that far.
        in_worker ssh-keygen -q -t ed25519 -N '' -C '' -f /etc/peerpod/byom/other
        refused "${ssh[@]}" -i /etc/peerpod/byom/other peerpod@$BYOM_ADDRESS id
        holds "$(cat "$OUT/refused")" "Permission denied (publickey)"

        in_worker touch /run/e2e-empty
        for command in 'ln -s /etc/passwd cidata/user-data' 'ln cidata cidata/user-data' 'put /run/e2e-empty user-data' 'rm /etc/passwd' 'rmdir cidata' \
                'rename cidata other' 'mkdir other'; do
                ! echo "$command" | byom_sftp >"$OUT/refused" 2>&1 || fail "'$command' succeeds"
        done
        in_worker rm /run/e2e-empty
        byom_is_clean
        byom_down
        leftovers
}
