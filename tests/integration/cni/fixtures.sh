#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Pod networks as CNIs leave them: the pods "wpod" and "peer" with their node's side, in the network namespace "worker" of a
# lab (../netlab.h). Each follows its CNI's source, which stands above it (repository: path). What no namespace can be without
# the CNI's own data path (Open vSwitch, BPF, ebtables) has a stand-in, named where it is.
#
# A pod that Kata starts on the worker looks like this before its VM is there; "wpod" gets one, "peer" stays as it is.
#
#       fixtures.sh NAME        NAME is a function below, with "-" for "_"
set -eu

node() { ip -n worker "$@"; }
node_set() { ip netns exec worker sh -c 'echo "$2" >"/proc/sys/net/$1"' - "$1" "$2"; }
outside() { ip -n other "$@"; }

# The cloud's subnet has a router, and IPv6.
cloud() {
        ip -n fab addr add 10.10.255.254/16 dev br0
        ip -n fab addr add fd00:10::ff/64 dev br0 nodad
        ip netns exec fab sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
        node addr add fd00:10::1/64 dev enc0 nodad
        outside addr add fd00:10::9/64 dev enc0 nodad
        outside -6 route add default via fd00:10::ff
}

# The router knows the way to this node's pods.
cloud_route() {
        case $1 in
        *:*) ip -n fab -6 route add "$1" via fd00:10::1 ;;
        *) ip -n fab route add "$1" via 10.10.0.1 ;;
        esac
}

underlay_mtu() {
        for h in worker vm other; do
                ip -n fab link set "f-$h" mtu "$1"
                ip -n "$h" link set enc0 mtu "$1"
        done
        ip -n fab link set br0 mtu "$1"
}

forward() {
        node_set ipv4/ip_forward 1
        node_set ipv6/conf/all/forwarding 1
}

# pair NS HOST-INTERFACE MTU POD-MAC [HOST-MAC]: a pod's namespace and its veth, up
pair() {
        ip netns add "$1"
        ip -n "$1" link set lo up
        node link add "$2" ${5:+address "$5"} mtu "$3" type veth peer name eth0 netns "$1" address "$4" mtu "$3"
        ip netns exec "$1" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad'
        ip netns exec worker sh -c "echo 0 >/proc/sys/net/ipv6/conf/$2/accept_dad"
        node link set "$2" up
        ip -n "$1" link set eth0 up
}

# ---- Calico ----
# projectcalico/calico: cni-plugin/pkg/dataplane/linux/dataplane_linux.go (pod and veth), felix/dataplane/linux/vxlan_mgr.go
# (vxlan.calico: VNI 4096 on UDP port 4789, which is our default too, with addresses and neighbours of other nodes)

# calico_pod NS VETH IP MTU
calico_pod() {
        pair "$1" "$2" "$4" "ee:ff:00:00:00:${3##*.}" ee:ee:ee:ee:ee:ee
        ip -n "$1" route add 169.254.1.1 dev eth0 scope link
        ip -n "$1" route add default via 169.254.1.1 dev eth0
        ip -n "$1" addr add "$3/32" dev eth0
        node_set "ipv4/conf/$2/route_localnet" 1
        node_set "ipv4/neigh/$2/proxy_delay" 0
        node_set "ipv4/conf/$2/proxy_arp" 1
        node_set "ipv4/conf/$2/forwarding" 1
        node route add "$3/32" dev "$2" scope link
}

# calico_pod6 NS VETH IP: the gateway is the link-local address of the veth's other end, always made of the same MAC
calico_pod6() {
        ip -n "$1" -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0
        ip -n "$1" addr add "$3/128" dev eth0
        node_set "ipv6/conf/$2/proxy_ndp" 1
        node -6 route add "$3/128" dev "$2"
}

calico_vxlan() {
        forward
        calico_pod wpod cali0 192.168.77.5 1450
        calico_pod peer cali1 192.168.77.6 1450
        # node to node
        node link add vxlan.calico address 66:00:00:00:00:01 mtu 1450 type vxlan id 4096 local 10.10.0.1 dev enc0 dstport 4789 nolearning
        outside link add vxlan.calico address 66:00:00:00:00:02 mtu 1450 type vxlan id 4096 local 10.10.1.9 dev enc0 dstport 4789 nolearning
        node addr add 192.168.77.0/32 dev vxlan.calico
        outside addr add 192.168.78.0/32 dev vxlan.calico
        node link set vxlan.calico up
        outside link set vxlan.calico up
        ip netns exec worker bridge fdb add 66:00:00:00:00:02 dev vxlan.calico dst 10.10.1.9
        ip netns exec other bridge fdb add 66:00:00:00:00:01 dev vxlan.calico dst 10.10.0.1
        node neigh add 192.168.78.0 lladdr 66:00:00:00:00:02 dev vxlan.calico nud permanent
        outside neigh add 192.168.77.0 lladdr 66:00:00:00:00:01 dev vxlan.calico nud permanent
        node route add 192.168.78.0/26 via 192.168.78.0 dev vxlan.calico onlink
        outside route add 192.168.77.0/26 via 192.168.77.0 dev vxlan.calico onlink
}

# Node to node goes without tunl0 here (not every kernel has IPIP): only the MTU shows it to a pod.
calico_ipip() {
        forward
        calico_pod wpod cali0 192.168.77.5 1480
        calico_pod peer cali1 192.168.77.6 1480
        calico_pod6 wpod cali0 fd00:77::5
        calico_pod6 peer cali1 fd00:77::6
        cloud_route 192.168.77.0/26
        cloud_route fd00:77::/122
}

# ---- Cilium ----
# cilium/cilium: plugins/cilium-cni/cmd/cmd.go (addIPConfigToLink), pkg/datapath/connector/ipam.go (routes by the address of
# cilium_host, with the route's MTU and not the device's). BPF on the veth answers ARP and neighbour discovery and routes to the
# endpoint; proxy entries and a route for each endpoint stand in for it.

# cilium_pod NS VETH IP IP6
cilium_pod() {
        pair "$1" "$2" 1500 "be:c0:00:00:00:${3##*.}"
        ip -n "$1" addr add "$3/32" dev eth0
        ip -n "$1" route add 10.0.1.12/32 dev eth0 scope link
        ip -n "$1" route add default via 10.0.1.12 dev eth0 mtu 1450
        ip -n "$1" addr add "$4/128" dev eth0 nodad
        ip -n "$1" -6 route add fd02::c/128 dev eth0
        ip -n "$1" -6 route add default via fd02::c dev eth0 mtu 1450
        node route add "$3/32" dev "$2"
        node -6 route add "$4/128" dev "$2"
        node_set "ipv6/conf/$2/proxy_ndp" 1
        node -6 neigh add proxy fd02::c dev "$2"
}

cilium() {
        forward
        node link add cilium_host type veth peer name cilium_net
        node addr add 10.0.1.12/32 dev cilium_host
        node addr add fd02::c/128 dev cilium_host nodad
        node link set cilium_net up
        node link set cilium_host up
        node link add cilium_vxlan type vxlan external dstport 8472
        node link set cilium_vxlan up
        cilium_pod wpod lxc0 10.0.1.5 fd02::5
        cilium_pod peer lxc1 10.0.1.6 fd02::6
        cloud_route 10.0.1.0/24
        cloud_route fd02::/120
}

# ---- OVN-Kubernetes ----
# ovn-kubernetes/ovn-kubernetes: go-controller/pkg/cni/helper_linux.go (setupNetwork), go-controller/pkg/allocator/pod/pod_annotation.go
# (AddRoutesGatewayIP: cluster subnets, services, hairpin masquerade address, gateway, join subnet), MAC from the address by
# IPAddrToHWAddr(). A Linux bridge with the router's addresses and MAC stands in for br-int and its logical router.

# ovn_pod NS VETH LAST-OCTET
ovn_pod() {
        pair "$1" "$2" 1400 "0a:58:0a:f4:00:0$3"
        node link set "$2" master br-int
        ip -n "$1" addr add "10.244.0.$3/24" dev eth0
        ip -n "$1" addr add "fd00:10:244:1::$3/64" dev eth0
        ip -n "$1" route add default via 10.244.0.1 dev eth0
        ip -n "$1" -6 route add default via fd00:10:244:1::1 dev eth0
        for to in 10.244.0.0/16 10.96.0.0/16 169.254.0.5/32 100.64.0.0/16; do
                ip -n "$1" route add "$to" via 10.244.0.1 dev eth0
        done
        for to in fd00:10:244::/48 fd00:10:96::/112 fd69::5/128 fd98::/64; do
                ip -n "$1" -6 route add "$to" via fd00:10:244:1::1 dev eth0
        done
}

ovn_kubernetes() {
        forward
        node link add br-int address 0a:58:0a:f4:00:01 type bridge
        node addr add 10.244.0.1/24 dev br-int
        node addr add fd00:10:244:1::1/64 dev br-int nodad
        node link set br-int up
        ovn_pod wpod veth0 5
        ovn_pod peer veth1 6
        cloud_route 10.244.0.0/24
        cloud_route fd00:10:244:1::/64
}

# ---- AWS VPC CNI ----
# aws/amazon-vpc-cni-k8s: cmd/routed-eni-cni-plugin/driver/driver.go (pod, static neighbour; host route and rules),
# pkg/networkutils/network.go (priorities 512 and 1536; a table for each network interface)

# aws_pod NS VETH IP TABLE
aws_pod() {
        pair "$1" "$2" 9001 "aa:00:00:00:00:${3##*.}" "02:00:00:00:00:${3##*.}"
        ip -n "$1" route add 169.254.1.1 dev eth0 scope link
        ip -n "$1" route add default via 169.254.1.1 dev eth0
        ip -n "$1" addr add "$3/32" dev eth0
        ip -n "$1" neigh add 169.254.1.1 lladdr "02:00:00:00:00:${3##*.}" dev eth0 nud permanent
        node route add "$3/32" dev "$2" scope link
        node rule add to "$3/32" priority 512 lookup main
        [ "$4" = main ] || node rule add from "$3/32" priority 1536 lookup "$4"
}

aws_vpc_cni() {
        forward
        underlay_mtu 9001
        node route add 10.10.255.254 dev enc0 scope link table 2
        node route add default via 10.10.255.254 dev enc0 table 2
        aws_pod wpod eni0 192.168.40.15 2
        aws_pod peer eni1 192.168.40.16 main
        cloud_route 192.168.40.0/24
}

# Clusters of IPv6 have no IPv4 in a pod at all.
aws_vpc_cni_ipv6() {
        forward
        underlay_mtu 9001
        for p in "wpod eni0 15" "peer eni1 16"; do
                # shellcheck disable=SC2086
                set -- $p
                pair "$1" "$2" 9001 "aa:00:00:00:00:$3" "02:00:00:00:00:$3"
                ip -n "$1" -6 route add fe80::1 dev eth0
                ip -n "$1" -6 route add default via fe80::1 dev eth0
                ip -n "$1" addr add "2001:db8:40::$3/128" dev eth0
                ip -n "$1" neigh add fe80::1 lladdr "02:00:00:00:00:$3" dev eth0 nud permanent
                node -6 route add "2001:db8:40::$3/128" dev "$2"
                node -6 rule add to "2001:db8:40::$3/128" priority 512 lookup main
        done
        cloud_route 2001:db8:40::/64
}

# ---- Azure CNI ----
# Azure/azure-container-networking: network/transparent_endpointclient_linux.go, network/bridge_endpointclient_linux.go,
# netlink/protocol.go (routes have protocol "static")

# azure_pod NS VETH IP
azure_pod() {
        pair "$1" "$2" 1500 "a6:00:00:00:00:${3##*.}" "aa:aa:aa:aa:aa:${3##*.}"
        ip -n "$1" addr add "$3/16" dev eth0
        ip -n "$1" route del 10.240.0.0/16 dev eth0 scope link proto kernel
        ip -n "$1" route add 169.254.1.1/32 dev eth0 scope link proto static
        ip -n "$1" route add default via 169.254.1.1 dev eth0 proto static
        ip -n "$1" neigh replace 169.254.1.1 lladdr "aa:aa:aa:aa:aa:${3##*.}" dev eth0 nud permanent
        node route add "$3/32" dev "$2" proto static
        node_set "ipv4/conf/$2/proxy_arp" 1
}

azure_transparent() {
        forward
        azure_pod wpod azv0 10.240.0.15
        azure_pod peer azv1 10.240.0.16
        cloud_route 10.240.0.0/24
}

# The pods are in the cloud's subnet; the node's address moves to the bridge. On Azure ebtables answers ARP and turns MAC addresses,
# because the cloud knows one for each virtual machine; here the cloud is a bridge.
azure_bridge() {
        node link add azure0 type bridge
        node addr flush dev enc0
        node link set enc0 master azure0
        node link set azure0 up
        node addr add 10.10.0.1/16 dev azure0
        node route add default via 10.10.255.254 dev azure0
        for p in "wpod azv0 15" "peer azv1 16"; do
                # shellcheck disable=SC2086
                set -- $p
                pair "$1" "$2" 1500 "a6:00:00:00:00:$3"
                node link set "$2" master azure0
                ip netns exec worker bridge link set dev "$2" hairpin on
                ip -n "$1" addr add "10.10.0.$3/16" dev eth0
                ip -n "$1" route add default via 10.10.255.254 dev eth0 proto static
        done
}

# ---- GKE, and everybody with the ptp plugin ----
# containernetworking/plugins: plugins/main/ptp/ptp.go, pkg/ipam/ipam_linux.go; GKE gives it MTU 1460, its cloud's

# ptp_pod NS VETH LAST-OCTET
ptp_pod() {
        pair "$1" "$2" 1460 "c2:00:00:00:00:0$3"
        ip -n "$1" addr add "10.48.0.$3/24" dev eth0
        ip -n "$1" route add default via 10.48.0.1 dev eth0
        ip -n "$1" route del 10.48.0.0/24 dev eth0
        ip -n "$1" route add 10.48.0.1/32 dev eth0 scope link src "10.48.0.$3"
        ip -n "$1" route add 10.48.0.0/24 via 10.48.0.1 dev eth0 src "10.48.0.$3"
        node addr add 10.48.0.1/32 dev "$2"
        node route add "10.48.0.$3/32" dev "$2" scope host

        ip -n "$1" addr add "fd00:48::$3/112" dev eth0 nodad
        ip -n "$1" -6 route add default via fd00:48::1 dev eth0
        ip -n "$1" -6 route del fd00:48::/112 dev eth0
        ip -n "$1" -6 route add fd00:48::1/128 dev eth0 src "fd00:48::$3"
        ip -n "$1" -6 route add fd00:48::/112 via fd00:48::1 dev eth0 src "fd00:48::$3"
        node addr add fd00:48::1/128 dev "$2" nodad
        node -6 route add "fd00:48::$3/128" dev "$2"
}

gke_ptp() {
        forward
        underlay_mtu 1460
        ptp_pod wpod veth0 5
        ptp_pod peer veth1 6
        cloud_route 10.48.0.0/24
        cloud_route fd00:48::/112
}

# ---- Flannel ----
# flannel-io/cni-plugin: flannel_linux.go (delegates to "bridge", with a route to each of flannel's networks),
# containernetworking/plugins: plugins/main/bridge/bridge.go, flannel-io/flannel: pkg/backend/vxlan/vxlan.go (flannel.1: VNI 1, UDP port 8472)

# bridge_pod NS VETH LAST-OCTET MTU
bridge_pod() {
        pair "$1" "$2" "$4" "3e:00:00:00:00:0$3"
        node link set "$2" master cni0
        ip netns exec worker bridge link set dev "$2" hairpin on
        ip -n "$1" addr add "10.244.1.$3/24" dev eth0
        ip -n "$1" route add default via 10.244.1.1 dev eth0
}

flannel_node() {
        forward
        node link add cni0 mtu "$1" type bridge
        node addr add 10.244.1.1/24 dev cni0
        node link set cni0 up
        node link add flannel.1 address 66:00:00:00:01:01 mtu 1450 type vxlan id 1 local 10.10.0.1 dev enc0 dstport 8472 nolearning
        outside link add flannel.1 address 66:00:00:00:01:02 mtu 1450 type vxlan id 1 local 10.10.1.9 dev enc0 dstport 8472 nolearning
        node addr add 10.244.1.0/32 dev flannel.1
        outside addr add 10.244.2.0/32 dev flannel.1
        node link set flannel.1 up
        outside link set flannel.1 up
        ip netns exec worker bridge fdb add 66:00:00:00:01:02 dev flannel.1 dst 10.10.1.9
        ip netns exec other bridge fdb add 66:00:00:00:01:01 dev flannel.1 dst 10.10.0.1
        node neigh add 10.244.2.0 lladdr 66:00:00:00:01:02 dev flannel.1 nud permanent
        outside neigh add 10.244.1.0 lladdr 66:00:00:00:01:01 dev flannel.1 nud permanent
        node route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
        outside route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
}

flannel() {
        flannel_node 1450
        bridge_pod wpod veth0 5 1450
        bridge_pod peer veth1 6 1450
        for ns in wpod peer; do
                ip -n "$ns" route add 10.244.0.0/16 via 10.244.1.1 dev eth0
        done
}

# ---- Multus ----
# k8snetworkplumbingwg/multus-cni: docs/how-to-use.md: net1 beside the cluster's eth0, which keeps the default route
multus() {
        flannel
        node link add storage type bridge
        node link set storage up
        node link add vnet1 type veth peer name net1 netns wpod address 3e:00:00:00:02:05
        node link set vnet1 master storage up
        ip -n wpod addr add 172.16.0.5/24 dev net1
        ip -n wpod link set net1 up
        ip -n wpod route add 10.200.0.0/16 via 172.16.0.1 dev net1
        ip -n wpod neigh add 172.16.0.1 lladdr 3e:00:00:00:02:01 dev net1 nud permanent
}

# ---- Policy routing ----
# containernetworking/plugins: plugins/meta/sbr/sbr.go (net1 gets a table and a rule of its own), cilium/cilium:
# plugins/cilium-cni/cmd/cmd.go (addIPConfigToLink: routes in tables and rules for the pod's own interface), and what else a chained
# plugin may add: a second address, routes that reject, a routing daemon's protocol.
policy_routing() {
        multus
        ip -n wpod rule add from 172.16.0.5/32 priority 100 lookup 100
        ip -n wpod route add default via 172.16.0.1 dev net1 table 100

        ip -n wpod addr add 10.244.1.50/24 dev eth0
        ip -n wpod rule add from 10.244.1.50/32 priority 110 lookup 200
        ip -n wpod route add 10.244.1.0/24 dev eth0 scope link table 200
        ip -n wpod route add default via 10.244.1.1 dev eth0 src 10.244.1.50 table 200
        ip -n wpod rule add not fwmark 0x20/0xf0 to 10.245.0.0/16 oif eth0 priority 120 lookup 1000
        ip -n wpod route add 10.245.0.0/16 via 10.244.1.1 dev eth0 table 1000 proto bird metric 50 mtu 1300
        ip -n wpod rule add to 192.0.2.0/24 priority 130 prohibit
        ip -n wpod rule add ipproto udp dport 53 priority 140 lookup 200
        ip -n wpod route add blackhole 203.0.113.0/24
        ip -n wpod route add 198.51.100.0/24 via 10.244.1.1 dev eth0 tos 0x10
}

cloud
"$(echo "$1" | tr - _)"
