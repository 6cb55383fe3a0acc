/* SPDX-License-Identifier: Apache-2.0 */
/* Names of the PeerPod and PeerpodVolume resources on the wire (cloud-api-adaptor: src/peerpod-ctrl/api/v1alpha1/peerpod_types.go and, until its
 * removal, src/csi-wrapper/pkg/apis/peerpodvolume/v1alpha1/types.go); ours are marked. */
#pragma once

#define PEERPOD_GROUP "confidentialcontainers.org"
#define PEERPOD_API_VERSION PEERPOD_GROUP "/v1alpha1"
#define PEERPOD_KIND "PeerPod"
#define PEERPOD_PLURAL "peerpods"
#define PEERPOD_FINALIZER "peer.pod/finalizer"
#define PEERPOD_VOLUME_KIND "PeerpodVolume"
#define PEERPOD_VOLUME_PLURAL "peerpodvolumes"

#define PEERPOD_RESOURCE "kata.peerpods.io/vm"                  /* extended resource of a node */
#define PEERPOD_OWNER_ANNOTATION "kata.peerpods.io/caa-owner"   /* of a node: who advertises it */

/* Labels, ours: to list one node's or one pod's records. Values by kube_name_make(…, 63), so a label is for finding; the spec decides. */
#define PEERPOD_LABEL_NODE "kata.peerpods.io/node"
#define PEERPOD_LABEL_POD_UID "kata.peerpods.io/pod-uid"

/* status.phase, ours */
#define PEERPOD_PHASE_CREATING "Creating"
#define PEERPOD_PHASE_RUNNING "Running"
#define PEERPOD_PHASE_DELETING "Deleting"
#define PEERPOD_PHASE_FAILED "Failed"
#define PEERPOD_PHASE_GONE "Gone"
