# SPDX-License-Identifier: Apache-2.0
"""A volume's life with peerpod-csi in its three roles, step by step, as kubelet and the sidecars take them (csi_rig.py)."""
import base64
import os

from csi_rig import GROUP, NAMESPACE, Rig, capability

POD = "uid-1"
SANDBOXES = [c * 64 for c in "abcdef"]
FAKE = {"attach-status": "attached", "device-path": "/dev/fff", "node-id": ""}


class Life(Rig):
    """The steps that sidecars and kubelet take, for one volume."""
    name, pv = "pvc-1", "pvc-1"

    def setUp(self):
        super().setUp()
        self.start_driver()
        self.start_guest_driver()
        # The driver of the VM shares what is attached.
        self.guest_driver.attached = self.driver.attached
        self.driver.staged, self.driver.published = self.guest_driver.staged, self.guest_driver.published

    def start_all(self):
        self.start_adaptor()
        self.start("controller")
        self.start("node")

    @property
    def volume_id(self):
        return "vol-" + self.name

    def staging(self):
        return self.path(f"kubelet/plugins/kubernetes.io/csi/csi.test.driver/{self.name}/globalmount")

    def target(self, uid=POD):
        return self.path(f"kubelet/pods/{uid}/volumes/kubernetes.io~csi/{self.pv}/mount")

    def record(self, uid=POD):
        return os.path.join(self.path("records"), base64.urlsafe_b64encode(self.target(uid).encode()).decode(), "mountInfo.json")

    def controller(self, method, **fields):
        self.callers["controller"].until_ok(method, **fields)

    def node(self, method, **fields):
        self.callers["node"].until_ok(method, **fields)

    def create(self):
        reply = self.callers["controller"].call("CreateVolume", name=self.name, parameters={"peerpod": "true", "type": "x"})
        self.assertEqual(reply.volume.volume_id, self.volume_id)

    def publish(self, **more):
        return self.callers["controller"].call("ControllerPublishVolume", volume_id=self.volume_id, node_id="node-id-1", volume_capability=capability(),
                                               **more)

    def stage(self, **more):
        self.node("NodeStageVolume", volume_id=self.volume_id, publish_context=FAKE, staging_target_path=self.staging(), volume_capability=capability(), **more)

    def node_publish(self, uid=POD, **more):
        self.node("NodePublishVolume", volume_id=self.volume_id, publish_context=FAKE, staging_target_path=self.staging(), target_path=self.target(uid),
                  volume_capability=capability(), **more)

    def node_unpublish(self, uid=POD):
        self.node("NodeUnpublishVolume", volume_id=self.volume_id, target_path=self.target(uid))

    def unstage(self):
        self.node("NodeUnstageVolume", volume_id=self.volume_id, staging_target_path=self.staging())

    def unpublish(self):
        self.controller("ControllerUnpublishVolume", volume_id=self.volume_id, node_id="node-id-1")

    def delete(self):
        self.controller("DeleteVolume", volume_id=self.volume_id)

    def mount(self, sandbox=SANDBOXES[0]):
        """to where the container can have it"""
        self.publish()
        self.stage()
        self.node_publish()
        self.create_vm(sandbox)
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")

    def set_vm(self, vm):
        """as the node does when it knows it"""
        self.api.store.patch(self.resource(GROUP, "peerpodvolumes"), NAMESPACE, self.volume_id, "application/merge-patch+json", {"spec": {"vmID": vm}})
        self.set_state(self.volume_id, "peerPodVSIIDReady")

    def end_pod(self):
        """as kubelet ends a pod: it is being deleted, then its containers get SIGTERM"""
        self.create_object("v1", "pods", "default", {"metadata": {"name": "web", "finalizers": ["test/keep"]}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
        self.api.store.delete(self.resource("v1", "pods"), "default", "web", {})
        self.end("podvm")
