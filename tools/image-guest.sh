# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What is put into a pod VM image beside our own programs; sourced by image.sh, after lib.sh.
#
#   image_guest DIR PROFILE   adds to the tree DIR, which mkosi lays over the image's
#   $KATA_AGENT               Kata's agent
#   $ATTESTATION_AGENT $CONFIDENTIAL_DATA_HUB $API_SERVER_REST     guest components, where wanted
#   $AGENT_POLICY             deny-all, allow-all, or the path of a Rego file
#   $SFTP_AUTHORIZED_KEYS     public keys of the worker nodes, where user data comes by SFTP

# image_guest_program VARIABLE DIR NAME
image_guest_program() {
        local path=${!1:-}
        [[ -n $path ]] || return 0
        [[ -f $path && -x $path ]] || die "$1: '$path' is no program"
        install -D -m 0755 "$path" "$2/usr/bin/$3"
}

image_guest_policy() {
        local policy=${AGENT_POLICY:-} file
        [[ -n $policy ]] || { [[ $1 == production ]] && policy=deny-all || policy=allow-all; }
        file=$PEERPOD_CHECKOUT/podvm-mkosi/policy/$policy.rego
        [[ $policy == */* || ! -f $file ]] && file=$policy
        [[ -f $file ]] || die "AGENT_POLICY: '$policy' is neither deny-all nor allow-all, nor a file"
        # kata-containers: src/agent/src/policy.rs asks for rules of this package; in any other the agent would find none.
        grep -Eq '^[[:space:]]*package[[:space:]]+agent_policy[[:space:]]*(#.*)?$' "$file" ||
                die "AGENT_POLICY: '$file' is not of the package 'agent_policy'"
        echo "$file"
}

# image_guest_agent_config PROGRAM: the agent runs here for a moment, to say which version it is
image_guest_agent_config() {
        { timeout 20 "$1" --version </dev/null 2>/dev/null || :; } | "$PEERPOD_CHECKOUT/podvm-mkosi/agent-config"
}

image_guest_has_components() { [[ -n ${ATTESTATION_AGENT:-}${CONFIDENTIAL_DATA_HUB:-} ]]; }

# image_guest_packages: options for mkosi. Guest components reach key brokers and registries by name, and check whom they reached.
image_guest_packages() {
        if image_guest_has_components; then
                printf -- '--package=%s\n' ca-certificates systemd-resolved
        fi
}

# Names are resolved by the servers that the cloud's DHCP names and by nobody else, and nothing listens for that.
image_guest_resolver() {
        local dir=$1
        mkdir -p "$dir"/etc/systemd/resolved.conf.d "$dir"/usr/lib/systemd/system-preset
        printf '[Resolve]\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\nDNSStubListener=no\n' >"$dir/etc/systemd/resolved.conf.d/podvm.conf"
        printf 'enable systemd-resolved.service\n' >"$dir/usr/lib/systemd/system-preset/30-guest-components.preset"
        ln -sfn /run/systemd/resolve/resolv.conf "$dir/etc/resolv.conf"
}

# image_guest_sftp DIR: whose keys are good. A private key does not get into an image, where everybody could read it.
image_guest_sftp() {
        local keys=${SFTP_AUTHORIZED_KEYS:-}
        [[ -n $keys ]] || return 0
        [[ -f $keys ]] || die "SFTP_AUTHORIZED_KEYS: '$keys' is no file"
        ! grep -q 'PRIVATE KEY' "$keys" || die "SFTP_AUTHORIZED_KEYS: '$keys' is a private key; the public one is wanted, '$keys.pub' perhaps"
        install -D -m 0644 "$keys" "$1/etc/ssh/podvm-authorized_keys"
        TREE_BIND="$1:/work/extra" tree_run ssh-keygen -l -f /work/extra/etc/ssh/podvm-authorized_keys >/dev/null ||
                die "SFTP_AUTHORIZED_KEYS: '$keys' has no public key in it, in the form of sshd(8)'s authorized_keys"
}

image_guest() {
        local dir=$1 profile=$2 policy
        mkdir -p "$dir"/etc/kata-opa
        if [[ $profile == @(production|debug) ]]; then
                image_guest_program KATA_AGENT "$dir" kata-agent
                image_guest_agent_config "$KATA_AGENT" >"$dir/etc/agent-config.toml" || die "KATA_AGENT: '$KATA_AGENT' cannot be used"
        else
                # The stand-in reads one key.
                "$PEERPOD_CHECKOUT/podvm-mkosi/agent-config" </dev/null 2>/dev/null >"$dir/etc/agent-config.toml"
        fi
        image_guest_program ATTESTATION_AGENT "$dir" attestation-agent
        image_guest_program CONFIDENTIAL_DATA_HUB "$dir" confidential-data-hub
        image_guest_program API_SERVER_REST "$dir" api-server-rest
        if image_guest_has_components; then
                image_guest_resolver "$dir"
        fi
        image_guest_sftp "$dir"
        policy=$(image_guest_policy "$profile")
        install -m 0644 "$policy" "$dir/etc/kata-opa/image-policy.rego"
}
