# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Provider docker: an engine in the worker host, and a sandbox in a container of the pod VM's image. Sourced by ./run.

# docker_up: an engine in the worker host, with the pod VM's image as a container's, and the provider service that uses it
docker_up() {
        container_build "$IMAGE_DIR" "$OUT/podvm.tar"
        # The worker's own file system is an overlay, below which there can be no other one.
        in_worker bash -ec 'mkdir -p /var/lib/docker
                mountpoint -q /var/lib/docker || mount -t tmpfs -o size=4G,mode=0710 tmpfs /var/lib/docker
                systemd-run --quiet --unit=dockerd --service-type=notify --property=Delegate=yes dockerd --group docker
                # Docker forwards nothing but its own; what CNI plugins do about that (containernetworking/plugins: plugins/meta/firewall)
                iptables -I DOCKER-USER -i cni0 -j ACCEPT
                iptables -I DOCKER-USER -o cni0 -j ACCEPT'
        in_worker curl --silent --show-error --fail --unix-socket /run/docker.sock --header 'Content-Type: application/x-tar' --data-binary @- \
                "http://localhost/images/create?fromSrc=-&repo=podvm&tag=1&$(container_changes)" <"$OUT/podvm.tar" >/dev/null
        rm "$OUT/podvm.tar"
        in_worker bash -ec 'printf "%s\n" CLOUD_PROVIDER=docker DOCKER_PODVM_IMAGE=podvm:1 DOCKER_HOST=unix:///run/docker.sock DOCKER_MEMORY=2048 >/run/e2e-docker.env
                d=/run/systemd/system/peerpod-provider.service.d; mkdir -p $d
                printf "[Service]\nSupplementaryGroups=docker\nEnvironmentFile=\nEnvironmentFile=/run/e2e-docker.env\n" >$d/85-docker.conf
                systemctl daemon-reload; systemctl try-restart peerpod-provider.service'
}

docker_down() {
        in_worker bash -ec 'rm /run/systemd/system/peerpod-provider.service.d/85-docker.conf
                systemctl daemon-reload; systemctl try-restart peerpod-provider.service
                systemctl stop dockerd.service; umount /var/lib/docker
                ip link delete docker0; iptables-save | grep -q DOCKER && { iptables -F; iptables -t nat -F; iptables -P FORWARD ACCEPT; } || :'
}

docker_ask() { in_worker curl --silent --show-error --fail --unix-socket /run/docker.sock "http://localhost/$1"; }

case_a_sandbox_runs_in_a_container_of_docker() {
        local id out
        docker_up
        cni_bridge
        cni_add docker $SECOND_IP
        cni_add beside $THIRD_IP
        id=$(new_sandbox_id)
        sandbox_create "$id" docker --annotation "example.com/token=$CANARY"
        note_secrets "$id"
        ctl hypervisor start-vm "$id" --timeout 120
        holds "$(ctl agent "$id" check)" SERVING
        holds "$(ctl status "$id")" "container, "
        ctl agent "$id" create-sandbox --hostname docker
        ctl agent "$id" create-container web --rootfs $ROOTFS -- /bin/busybox sh -c \
                'mkdir -p /tmp/www && echo "hello from the container" >/tmp/www/index.html && exec busybox httpd -f -p 80 -h /tmp/www'
        ctl agent "$id" start-container web
        holds "$(ctl agent "$id" exec web -- /bin/busybox hostname)" docker

        in_pod beside ping -c 3 -i 0.2 -W 10 $SECOND_IP
        holds "$(in_pod beside curl --silent --show-error --max-time 30 http://$SECOND_IP/)" "hello from the container"
        ctl agent "$id" exec web -- /bin/busybox ping -c 2 -W 10 -s 8000 $THIRD_IP

        # The keys that came with the user data are not in the container's files any more.
        out=$(docker_ask "containers/json?all=1")
        holds "$out" "\"peerpod-sandbox\":\"$id\""
        ! docker_ask "containers/$(sed -n 's/.*"Id":"\([0-9a-f]*\)".*/\1/p' <<<"$out")/archive?path=/media/cidata/user-data" >/dev/null 2>&1 ||
                fail "the user data is still there"

        ctl agent "$id" destroy-sandbox || :
        ctl hypervisor stop-vm "$id"
        wait_until 120 "the sandbox is gone" sandbox_is_gone "$id"
        out=$(docker_ask "containers/json?all=1")$(docker_ask volumes)
        [[ $out != *peerpod-* ]] || fail "left: $out"
        cni_del docker
        cni_del beside
        docker_down
        leftovers
}
