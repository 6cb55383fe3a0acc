#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What is put into an image for Kata's agent: a configuration with the keys that its version reads, and the policy that was asked for.
# Version texts are those of releases (kata-containers: src/agent/src/main.rs at the tags). Usage: agent-config-test.sh CHECKOUT
set -euo pipefail
PEERPOD_CHECKOUT=$1
die() { echo "die: $*" >&2; exit 1; }
# shellcheck source=tools/image-guest.sh
. "$PEERPOD_CHECKOUT/tools/image-guest.sh"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
bad() { echo "not ok: $*"; failed=1; }

# agent TEXT [STATUS]: a program that says so when asked for its version
agent() {
        printf '#!/bin/sh\n[ "$*" = --version ] || exit 9\ncat <<"END"\n%s\nEND\nexit %s\n' "$1" "${2:-0}" >"$dir/kata-agent"
        chmod 755 "$dir/kata-agent"
}

# keys WANTED TEXT: the configuration for the agent that says TEXT
keys() {
        local wanted=$1 got
        agent "$2"
        KATA_AGENT=$dir/kata-agent image_guest "$dir/out" production 2>"$dir/err" || { bad "$2: refused"; cat "$dir/err"; return; }
        got=$(sed -n 's/^\([a-z_]*\) = .*/\1/p' "$dir/out/etc/agent-config.toml" | tr '\n' ' ')
        [[ $got == "$wanted " ]] || bad "$2: keys '$got' instead of '$wanted'"
}

sha=7a0a3d1b9f5a5c2f7f5f3b1a7c1e0d9b8a7f6e5d
keys "server_addr" "kata-agent version 2.4.0 (api version: 0.0.1, commit version: 2.4.0-$sha, type: rust)"
keys "server_addr" "kata-agent version 3.2.0 (api version: 0.0.1, commit version: 3.2.0-$sha, type: rust)"
grep -q "no policy will hold it" "$dir/err" || bad "an agent without policy is not told of"
keys "server_addr" "kata-agent version 3.4.0 (api version: 0.0.1, commit version: 3.4.0-$sha, type: rust, extra-features: [\"agent-policy\", \"guest-pull\", \"seccomp\"])"
grep -q "starts guest components by itself" "$dir/err" || bad "that 3.4.0 starts guest components is not told"
keys "server_addr guest_components_procs" "kata-agent version 3.6.0 (api version: 0.0.1, commit version: 3.6.0-$sha, type: rust, extra-features: [\"seccomp\"])"
keys "server_addr guest_components_procs" "kata-agent version 3.8.0 (api version: 0.0.1, commit version: 3.8.0-$sha, type: rust, extra-features: [\"agent-policy\", \"seccomp\"])"
keys "server_addr guest_components_procs policy_file" "kata-agent version 3.9.0 (api version: 0.0.1, commit version: 3.9.0-$sha, type: rust, extra-features: [\"agent-policy\", \"seccomp\"])"
keys "server_addr guest_components_procs policy_file" "kata-agent version 3.19.1 (api version: 0.0.1, commit version: 3.19.1-$sha-dirty, type: rust, extra-features: [\"agent-policy\", \"seccomp\"])"
keys "server_addr guest_components_procs policy_file" "kata-agent version 4.0.0 (api version: 0.0.1, commit version: 4.0.0-$sha, type: rust, extra-features: [\"agent-policy\", \"seccomp\"])"
[[ ! -s $dir/err ]] || bad "an agent that has all is complained about: $(cat "$dir/err")"
keys "server_addr guest_components_procs" "kata-agent version 4.1.0 (api version: 0.0.1, commit version: 4.1.0, type: rust, extra-features: [])"
keys "server_addr guest_components_procs" "something else 1.0"
grep -q "no version text" "$dir/err" || bad "a foreign version text is not told of"

agent "kata-agent version 2.3.1 (api version: 0.0.1, commit version: 2.3.1-$sha, type: rust)"
! (KATA_AGENT=$dir/kata-agent image_guest "$dir/out" production) 2>"$dir/err" || bad "an agent that reads no configuration is taken"
grep -q "before 2.4.0" "$dir/err" || bad "the reason is not told"

# The programs, and the conditions of the units that start them
agent "kata-agent version 4.0.0 (api version: 0.0.1, commit version: 4.0.0, type: rust, extra-features: [\"agent-policy\"])"
KATA_AGENT=$dir/kata-agent ATTESTATION_AGENT=$dir/kata-agent API_SERVER_REST=$dir/kata-agent image_guest "$dir/out" production
for name in kata-agent attestation-agent api-server-rest; do
        [[ -x $dir/out/usr/bin/$name ]] || bad "no $name"
        grep -q "/usr/bin/$name" "$PEERPOD_CHECKOUT/units/podvm/$name.service.in" || bad "$name.service starts something else"
done
[[ ! -e $dir/out/usr/bin/confidential-data-hub ]] || bad "a program that was not given"
[[ $(readlink "$dir/out/etc/resolv.conf") == /run/systemd/resolve/resolv.conf ]] || bad "guest components cannot resolve names"
for setting in LLMNR=no MulticastDNS=no DNSStubListener=no FallbackDNS=; do
        grep -qx "$setting" "$dir/out/etc/systemd/resolved.conf.d/podvm.conf" || bad "the resolver has no $setting"
done
[[ $(ATTESTATION_AGENT=$dir/kata-agent image_guest_packages | tr '\n' ' ') == *systemd-resolved* ]] || bad "no resolver is installed"
[[ -z $(image_guest_packages) ]] || bad "an image without guest components gets packages for them"
image_guest "$dir/without" test
[[ ! -L $dir/without/etc/resolv.conf ]] || bad "an image without guest components has a resolver"
! (CONFIDENTIAL_DATA_HUB=/etc/passwd image_guest "$dir/out" test) 2>"$dir/err" || bad "a file that is no program is taken"
grep -q "CONFIDENTIAL_DATA_HUB" "$dir/err" || bad "the variable is not named"

# policy NAME PROFILE [AGENT_POLICY]: the image's policy is this file
policy() {
        KATA_AGENT=$dir/kata-agent AGENT_POLICY=${3:-} image_guest "$dir/out" "$2"
        cmp -s "$dir/out/etc/kata-opa/image-policy.rego" "$1" || bad "profile $2, AGENT_POLICY='${3:-}': another policy"
}
printf 'package agent_policy\ndefault CreateSandboxRequest := true\n' >"$dir/own.rego"
policy "$PEERPOD_CHECKOUT/podvm-mkosi/policy/deny-all.rego" production
policy "$PEERPOD_CHECKOUT/podvm-mkosi/policy/allow-all.rego" test
policy "$PEERPOD_CHECKOUT/podvm-mkosi/policy/allow-all.rego" production allow-all
policy "$dir/own.rego" production "$dir/own.rego"
for other in nothing /nonexistent /etc/passwd; do
        ! (AGENT_POLICY=$other image_guest "$dir/out" test) 2>"$dir/err" || bad "AGENT_POLICY=$other is taken"
        grep -q "^die: AGENT_POLICY" "$dir/err" || bad "AGENT_POLICY=$other: the reason is not told"
done

# Each request of the protocol has one rule in either; what is not ruled is an internal error of the agent.
requests=$(sed -n 's/^ *rpc [A-Za-z]*(\([A-Za-z]*\)).*/\1/p' "$PEERPOD_CHECKOUT/src/proto/agent.proto" | sort -u)
(($(wc -l <<<"$requests") > 35)) || bad "the protocol's requests are not found"
for file in allow-all:true deny-all:false; do
        rules=$(sed -n "s/^default \([A-Za-z]*\) := ${file#*:}\$/\1/p" "$PEERPOD_CHECKOUT/podvm-mkosi/policy/${file%:*}.rego")
        for request in $requests; do
                [[ $(grep -cx "$request" <<<"$rules") == 1 ]] || bad "${file%:*}.rego has no rule, or two, for $request"
        done
        ! grep -vE "^(#.*|package agent_policy|default [A-Za-z]* := ${file#*:}|)\$" "$PEERPOD_CHECKOUT/podvm-mkosi/policy/${file%:*}.rego" ||
                bad "${file%:*}.rego says more than that"
done

# The pause bundle: the agent takes args[0] from below rootfs.
python3 - "$PEERPOD_CHECKOUT" <<'END' || failed=1
import json, re, sys
config = json.load(open(sys.argv[1] + "/podvm-mkosi/mkosi.extra/pause_bundle/config.json"))
build = open(sys.argv[1] + "/src/podvm/pause/meson.build").read()
assert config["process"]["args"] == ["/pause"], config["process"]["args"]
assert "executable('pause'" in build and "install_dir: '/pause_bundle/rootfs'" in build, "pause is elsewhere"
assert config["process"]["cwd"] == "/" and config["process"]["user"]["uid"] and config["process"]["noNewPrivileges"]
json.load(open(sys.argv[1] + "/podvm-mkosi/mkosi.extra/etc/ocicrypt_config.json"))
assert json.load(open(sys.argv[1] + "/podvm-mkosi/mkosi.extra/etc/kata-oci/empty-auth.json")) == {"auths": {}}
END
exit $failed
