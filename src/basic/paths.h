/* SPDX-License-Identifier: Apache-2.0 */
/* Where the family's programs meet. Each path can be set by an option or variable of the program that uses it. */
#pragma once

#define PEERPOD_HYPERVISOR_SOCKET "/run/peerpod/hypervisor.sock"  /* kata-containers: configuration-remote.toml.in */
#define PEERPOD_TUNNEL_SOCKET "/run/peerpod/tunnel.sock"
#define PEERPOD_PROVIDER_SOCKET "/run/peerpod/provider.sock"
#define PEERPOD_PODS_DIR "/run/peerpod/pods"
#define PEERPOD_ADAPTOR_RUNTIME_DIR "/run/peerpod/adaptor"
#define PEERPOD_TUNNEL_RUNTIME_DIR "/run/peerpod/tunnel"
#define PEERPOD_PROXY_RUNTIME_DIR "/run/peerpod/proxy"
#define PEERPOD_STATE_DIR "/var/lib/peerpod"
#define PEERPOD_PROVIDER_STATE_DIR "/var/lib/peerpod-provider"
#define PEERPOD_NODE_STATE_DIR "/var/lib/peerpod-node"

/* In the pod VM (cloud-api-adaptor: src/cloud-api-adaptor/pkg/paths/paths.go) */
#define PODVM_DATA_DIR "/run/peerpod"
#define PODVM_APF_CONFIG "/run/peerpod/apf.json"
#define PODVM_SCRATCH_MARKER "/run/peerpod/scratch-space.marker"
#define PODVM_AGENT_SOCKET "/run/peerpod/agent.sock"
#define PODVM_IMAGES_DIR "/run/kata-containers/image"            /* guest-components: image-rs, its default work directory */
#define PODVM_AGENT_EXIT "/run/peerpod/agent-exit"
#define PODVM_POD_NETNS "/run/netns/podns"
#define PODVM_CDH_SOCKET "/run/confidential-containers/cdh.sock"
#define PODVM_VOLUMES_SOCKET "/run/podvm-volumes/bus.sock"
#define PODVM_VOLUMES_RUNTIME_DIR "/run/podvm-volumes"
#define PODVM_VOLUMES_DIR "/run/cloud-volumes"
#define PODVM_FORWARDER_PORT 15150
