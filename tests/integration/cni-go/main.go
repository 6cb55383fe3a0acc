// SPDX-License-Identifier: Apache-2.0

// Reads files of "pod-network" by the rules of cloud-api-adaptor's agent-protocol-forwarder, with Go's own parsers of JSON and
// addresses, and checks what its pod VM needs beyond (cloud-api-adaptor: src/cloud-api-adaptor/pkg/podnetwork/tunneler/tunneler.go,
// pkg/podnetwork/podnode.go, pkg/util/netops/netops.go). Names that are not in its tables end the forwarder there, and this
// program here.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// A string of a fixed set; each upstream type refuses all others.
type protocol string
type scope string
type state string

func oneOf(data []byte, what string, names ...string) (string, error) {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return "", err
	}
	if !slices.Contains(names, s) {
		return "", fmt.Errorf("unknown %s: %s", what, s)
	}
	return s, nil
}

func (p *protocol) UnmarshalJSON(data []byte) error {
	s, err := oneOf(data, "route protocol", "static", "boot", "dhcp", "kernel")
	*p = protocol(s)
	return err
}

func (v *scope) UnmarshalJSON(data []byte) error {
	s, err := oneOf(data, "route scope", "universe", "site", "link", "host", "nowhere")
	*v = scope(s)
	return err
}

func (v *state) UnmarshalJSON(data []byte) error {
	s, err := oneOf(data, "neighbor state", "none", "incomplete", "reachable", "stale", "delay", "probe", "failed", "noarp", "permanent")
	*v = state(s)
	return err
}

type route struct {
	Dst      netip.Prefix `json:"dst"`
	Gateway  netip.Addr   `json:"gw"`
	Device   string       `json:"dev"`
	Protocol protocol     `json:"protocol"`
	Scope    scope        `json:"scope"`
}

type neighbour struct {
	Address netip.Addr `json:"ip"`
	MAC     string     `json:"hw-addr"`
	Device  string     `json:"dev"`
	State   state      `json:"state"`
}

type podNetwork struct {
	Pod        netip.Prefix `json:"podip"`
	MAC        string       `json:"pod-hw-addr"`
	Interface  string       `json:"interface"`
	Worker     netip.Prefix `json:"worker-node-ip"`
	Type       string       `json:"tunnel-type"`
	Routes     []*route     `json:"routes"`
	Neighbours []*neighbour `json:"neighbors"`
	MTU        int          `json:"mtu"`
	Index      int          `json:"index"`
	Port       int          `json:"vxlan-port"`
	ID         int          `json:"vxlan-id"`
	Dedicated  bool         `json:"dedicated"`
	External   bool         `json:"external-net-via-pod-vm"`
}

// What makes a pod VM of upstream's fail although it could read everything.
func (n *podNetwork) check() error {
	if !n.Pod.IsValid() || !n.Worker.IsValid() || n.Interface == "" || n.Type != "vxlan" || n.MTU <= 0 {
		return fmt.Errorf("something it cannot do without is missing: %+v", *n)
	}
	if _, err := net.ParseMAC(n.MAC); err != nil {
		return err
	}

	// Routes without gateway come first there; each gateway must then be on a link. All go to table main with one metric.
	onLink := []netip.Prefix{}
	seen := map[netip.Prefix]bool{}
	for _, withGateway := range []bool{false, true} {
		for _, r := range n.Routes {
			if r.Gateway.IsValid() != withGateway {
				continue
			}
			dst := netip.PrefixFrom(r.Dst.Addr().Unmap(), r.Dst.Bits())
			if !dst.Addr().Is4() || dst != dst.Masked() {
				return fmt.Errorf("route to %s: not an IPv4 network", r.Dst)
			}
			if r.Device != n.Interface {
				return fmt.Errorf("route to %s: its device '%s' does not exist there", dst, r.Device)
			}
			if seen[dst] {
				return fmt.Errorf("route to %s: a second one", dst)
			}
			seen[dst] = true
			if !withGateway {
				onLink = append(onLink, dst)
			} else if !slices.ContainsFunc(onLink, func(p netip.Prefix) bool { return p.Contains(r.Gateway) }) {
				return fmt.Errorf("route to %s: gateway %s is on no link", dst, r.Gateway)
			}
		}
	}

	for _, v := range n.Neighbours {
		if _, err := net.ParseMAC(v.MAC); err != nil || !v.Address.Is4() || v.State == "" || v.State == "none" || v.Device != n.Interface {
			return fmt.Errorf("neighbour %+v is refused there", *v)
		}
	}
	return nil
}

func read(data []byte) error {
	var n podNetwork
	if err := json.Unmarshal(data, &n); err != nil {
		return err
	}
	return n.check()
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "Say which files.")
		os.Exit(2)
	}
	for _, path := range os.Args[1:] {
		data, err := os.ReadFile(path)
		if err == nil {
			err = read(data)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			os.Exit(1)
		}
		// It does refuse what upstream refuses.
		for _, change := range [][2]string{
			{`"dev": "eth0"`, `"dev": "net1"`},
			{`"podip": "`, `"podip": "x`},
			{`"protocol": "`, `"protocol": "x`},
			{`"dst": "0.0.0.0/0"`, `"dst": "default"`},
		} {
			broken := strings.Replace(string(data), change[0], change[1], 1)
			if broken == string(data) || read([]byte(broken)) == nil {
				fmt.Fprintf(os.Stderr, "%s: accepted with %s\n", path, change[1])
				os.Exit(1)
			}
		}
		fmt.Println(path)
	}
}
