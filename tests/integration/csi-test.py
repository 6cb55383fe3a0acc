#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""peerpod-csi in its three roles, from a volume's making to its end: what kubelet and the sidecars see, what the driver sees, and in which order.
The driver refuses what would lose data (csi_rig.py).

Usage: csi-test.py CONTROLLER NODE PODVM PEERPOD-ADAPTOR PEERPOD-PROVIDERD MODULE-DIRECTORY ADAPTOR-FAKES PEERPODCTL [TEST…]"""
import base64
import json
import os
import signal

import grpc

from csi_life import POD, SANDBOXES, Life
from csi_rig import GROUP, MESSAGES, NAMESPACE, NODE, cached, capability, main, until

class Whole(Life):
    def test_a_volume_reaches_the_vm_and_comes_back_in_order(self):
        self.start_all()
        self.create()
        self.assertEqual(self.driver.requests("CreateVolume")[0].parameters, {"type": "x"})
        obj = self.volume(self.volume_id)
        self.assertEqual((obj["spec"]["volumeID"], obj["spec"]["volumeName"]), (self.volume_id, self.pv))

        context = dict(self.publish().publish_context)
        self.assertEqual((context["device-path"], context["attach-status"]), ("/dev/fff", "attached"))
        self.assertEqual(self.state(self.volume_id), "controllerPublishVolumeCached")
        self.stage()
        self.assertEqual(self.state(self.volume_id), "nodeStageVolumeCached")
        self.node_publish()
        self.assertEqual(self.state(self.volume_id), "nodePublishVolumeCached")
        self.assertTrue(os.path.isdir(self.staging()) and os.path.isdir(self.target()))
        with open(self.record(), encoding="ascii") as f:
            self.assertEqual(json.load(f), {"Device": "/dev/zero", "fstype": "ext4"})
        self.assertEqual(os.stat(self.record()).st_mode & 0o777, 0o600)
        obj = self.volume(self.volume_id)
        request = cached(obj, "wrapperNodePublishVolumeReq", "NodePublishVolumeRequest")
        self.assertEqual((request.target_path, request.volume_capability.mount.fs_type), (self.target(), "ext4"))
        self.assertEqual(obj["metadata"]["labels"], {"volumeName": self.pv, "nodeID": "node-id-1", "podNodeName": NODE, "podUid": POD})
        self.assertEqual(self.driver.names(), ["CreateVolume"])

        self.create_vm(SANDBOXES[0])
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        obj = self.volume(self.volume_id)
        self.assertEqual((obj["spec"]["podName"], obj["spec"]["podNamespace"]), ("web", "default"))
        vm = obj["spec"]["vmID"]
        self.assertTrue(vm.startswith("fake-"), vm)
        self.assertEqual(self.driver.attached, {self.volume_id: vm})
        self.assertEqual(self.guest_driver.names(), ["NodeStageVolume", "NodePublishVolume"])
        self.assertEqual(dict(self.guest_driver.requests("NodeStageVolume")[0].publish_context), {"device-path": "/dev/sdx", "lun": "7"})
        self.assertEqual(self.guest_driver.published, {self.volume_id: self.target()})

        self.end_pod()
        self.assertEqual(self.guest_driver.names()[2:], ["NodeUnpublishVolume", "NodeUnstageVolume"])
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")
        self.assertEqual(self.driver.attached, {})
        self.node_unpublish()
        self.unstage()
        self.assertFalse(os.path.exists(self.target()) or os.path.exists(self.staging()) or os.path.exists(os.path.dirname(self.record())))
        self.unpublish()
        self.assertEqual(self.state(self.volume_id), "")
        self.assertEqual(set(self.volume(self.volume_id)["spec"]), {"volumeID", "volumeName"})
        self.assertEqual(self.volume(self.volume_id)["metadata"]["labels"], {"volumeName": self.pv})
        self.delete()
        self.assertEqual((self.volumes(), self.driver.volumes), ({}, {}))

    def test_the_next_pod_of_the_node_gets_the_volume_without_the_attacher(self):
        self.start_all()
        self.create()
        self.mount()
        self.end("podvm", signal.SIGKILL)
        self.hypervisor("stop-vm", SANDBOXES[0])
        self.driver.staged.clear()
        self.driver.published.clear()
        self.node_unpublish()
        self.unstage()
        self.stage()
        self.node_publish(uid="uid-2")
        self.create_vm(SANDBOXES[1])
        self.start("podvm", uid="uid-2")
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        first, second = (r.node_id for r in self.driver.requests("ControllerPublishVolume"))
        self.assertNotEqual(first, second)
        self.assertEqual(self.driver.attached, {self.volume_id: second})
        self.assertEqual(self.guest_driver.published, {self.volume_id: self.target("uid-2")})

    def test_a_second_pod_is_refused_and_its_path_taken_away_without_harm(self):
        self.start_all()
        self.create()
        self.mount()
        with self.assertRaises(grpc.RpcError) as caught:
            self.callers["node"].call("NodePublishVolume", volume_id=self.volume_id, staging_target_path=self.staging(), target_path=self.target("uid-2"),
                                      volume_capability=capability())
        self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertIn(POD, caught.exception.details())
        self.node_unpublish(uid="uid-2")
        self.assertEqual(self.state(self.volume_id), "nodePublishVolumeApplied")
        self.assertTrue(os.path.exists(self.record()))

    def test_a_pod_that_never_had_a_vm_leaves_nothing(self):
        self.start_all()
        self.create()
        self.publish()
        self.stage()
        self.node_publish()
        self.node_unpublish()
        self.unstage()
        self.unpublish()
        self.delete()
        self.assertEqual(self.driver.names(), ["CreateVolume", "DeleteVolume"])
        self.assertEqual(os.listdir(self.path("records")), [])

    def test_a_static_volume_takes_part_by_its_attribute(self):
        self.start_all()
        self.publish(volume_context={"peerpod": "true", "a": "b"})
        self.assertEqual(self.volume(self.volume_id)["spec"]["volumeName"], "peerpod-volume-name-placeholder")
        self.stage(volume_context={"peerpod": "true", "a": "b"})
        self.node_publish(volume_context={"peerpod": "true", "a": "b"})
        self.create_vm(SANDBOXES[0])
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        self.assertEqual(self.volume(self.volume_id)["spec"]["volumeName"], self.pv)
        for request in self.driver.requests("ControllerPublishVolume") + self.guest_driver.requests("NodeStageVolume"):
            self.assertEqual(dict(request.volume_context), {"a": "b"})

    def test_a_container_that_is_restarted_leaves_the_volume_mounted(self):
        self.start_all()
        self.create()
        self.mount()
        self.create_object("v1", "pods", "default", {"metadata": {"name": "web", "uid": POD}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
        self.set_pod_uid()
        self.end("podvm")
        self.assertEqual(self.state(self.volume_id), "nodePublishVolumeApplied")
        self.assertEqual(self.guest_driver.published, {self.volume_id: self.target()})

    def set_pod_uid(self):
        """the store makes uids of its own"""
        with self.api.store.changed:
            for key, obj in self.api.store.objects.items():
                if key[1] == "pods":
                    obj["metadata"]["uid"] = POD


class Ordinary(Life):
    """Volumes that are no peer pod's."""

    def setUp(self):
        super().setUp()
        self.start("controller")
        self.start("node")

    def test_c1_they_pass_every_step_untouched(self):
        self.callers["controller"].call("CreateVolume", name=self.name, parameters={"type": "x"})
        reply = self.publish(volume_context={"a": "b"}, secrets={"k": "v"})
        self.assertEqual(dict(reply.publish_context), {"device-path": "/dev/sdx", "lun": "7"})
        real = dict(reply.publish_context)
        self.node("NodeStageVolume", volume_id=self.volume_id, publish_context=real, staging_target_path=self.staging(), volume_capability=capability())
        self.node("NodePublishVolume", volume_id=self.volume_id, publish_context=real, staging_target_path=self.staging(), target_path=self.target(),
                  volume_capability=capability())
        self.node_unpublish()
        self.unstage()
        self.unpublish()
        self.delete()
        self.assertEqual(self.driver.names(), ["CreateVolume", "ControllerPublishVolume", "NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume",
                                               "NodeUnstageVolume", "ControllerUnpublishVolume", "DeleteVolume"])
        self.assertEqual(dict(self.driver.requests("ControllerPublishVolume")[0].secrets), {"k": "v"})
        self.assertEqual(self.volumes(), {})
        self.assertFalse(os.path.exists(self.path("records")) or os.path.exists(self.staging()) or os.path.exists(self.target()))

    def test_their_size_is_the_drivers_to_say_and_to_change(self):
        for method in "NodeGetVolumeStats", "NodeExpandVolume":
            self.driver.answers[method] = lambda data, context: b"\x12\x03new"
            path, data = self.callers["node"].request(method, {"volume_id": self.volume_id, "volume_path": self.target()})
            self.assertEqual(self.callers["node"].raw(path, data + b"\xaa\x0f\x03new"), b"\x12\x03new")
        # A driver that leaves Kata a record of its own knows better than we do.
        os.makedirs(os.path.dirname(self.record()))
        with open(self.record(), "w", encoding="ascii") as f:
            f.write('{"device": "vol-1"}')
        self.callers["node"].call("NodeGetVolumeStats", volume_id=self.volume_id, volume_path=self.target())
        self.assertEqual(self.driver.names(), ["NodeGetVolumeStats", "NodeExpandVolume", "NodeGetVolumeStats"])

    def test_fields_of_later_versions_of_csi_pass(self):
        data = MESSAGES["CreateVolumeRequest"](name=self.name, parameters={"type": "x", "peerpod": "1"}).SerializeToString() + b"\xaa\x0f\x03new"
        self.driver.answers["CreateVolume"] = lambda got, context: got_.append(got) or MESSAGES["CreateVolumeResponse"](
            volume={"volume_id": self.volume_id}).SerializeToString() + b"\xaa\x0f\x05newer"
        got_ = []
        answer = self.callers["controller"].raw("/csi.v1.Controller/CreateVolume", data)
        self.assertIn(b"\xaa\x0f\x03new", got_[0])
        self.assertIn(b"\xaa\x0f\x05newer", answer)

    def test_c2_deletevolume_says_what_the_driver_said(self):
        self.driver.fail("DeleteVolume", grpc.StatusCode.FAILED_PRECONDITION, "has snapshots")
        with self.assertRaises(grpc.RpcError) as caught:
            self.callers["controller"].call("DeleteVolume", volume_id="ordinary")
        self.assertEqual((caught.exception.code(), caught.exception.details()), (grpc.StatusCode.FAILED_PRECONDITION, "has snapshots"))
        self.callers["controller"].call("DeleteVolume", volume_id="ordinary")
        self.create()
        self.driver.fail("DeleteVolume", grpc.StatusCode.INTERNAL, "disk on fire")
        with self.assertRaises(grpc.RpcError) as caught:
            self.callers["controller"].call("DeleteVolume", volume_id=self.volume_id)
        self.assertEqual(caught.exception.details(), "disk on fire")
        self.assertIn(self.volume_id, self.volumes())

    def test_malformed_requests_are_refused_by_the_wrapper(self):
        for path in "/csi.v1.Controller/CreateVolume", "/csi.v1.Controller/ControllerPublishVolume":
            with self.assertRaises(grpc.RpcError) as caught:
                self.callers["controller"].raw(path, b"\x0a\xff")
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        with self.assertRaises(grpc.RpcError) as caught:
            self.callers["node"].call("NodeUnstageVolume", volume_id="")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(self.driver.names(), [])


class Requirements(Life):
    def refused(self, caller, method, **fields):
        with self.assertRaises(grpc.RpcError) as caught:
            self.callers[caller].call(method, **fields)
        return caught.exception.code(), caught.exception.details()

    def test_c3_a_createvolume_that_fails_makes_no_object(self):
        self.start("controller")
        self.driver.fail("CreateVolume", grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")
        self.assertEqual(self.refused("controller", "CreateVolume", name=self.name, parameters={"peerpod": "1"}), (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota"))
        self.driver.answers["CreateVolume"] = lambda data, context: b""
        self.assertEqual(self.refused("controller", "CreateVolume", name=self.name, parameters={"peerpod": "1"})[0], grpc.StatusCode.INTERNAL)
        self.assertEqual(self.volumes(), {})

    def test_c3_a_volume_whose_object_cannot_be_made_is_asked_for_again(self):
        self.start("controller")
        self.api.fault("status", verb="create", path="/peerpodvolumes", code=403, reason="Forbidden", message="not allowed")
        code, text = self.refused("controller", "CreateVolume", name=self.name, parameters={"peerpod": "1"})
        self.assertEqual(code, grpc.StatusCode.UNAVAILABLE)
        self.assertIn("Forbidden", text)
        self.create()
        self.assertEqual((list(self.volumes()), list(self.driver.volumes)), ([self.volume_id], [self.name]))

    def test_c4_nothing_is_detached_while_it_may_be_mounted(self):
        self.start_all()
        self.create()
        self.mount()
        code, text = self.refused("controller", "ControllerUnpublishVolume", volume_id=self.volume_id, node_id="node-id-1")
        self.assertEqual(code, grpc.StatusCode.ABORTED)
        self.assertIn("may be mounted in VM 'fake-", text)
        # kubelet asks to unmount; the wrapper in the VM has died, and the VM is still there.
        self.end("podvm", signal.SIGKILL)
        self.node_unpublish()
        self.unstage()
        self.assertEqual(self.state(self.volume_id), "nodeUnstageVolumeCached")
        self.assertEqual(self.refused("controller", "ControllerUnpublishVolume", volume_id=self.volume_id, node_id="node-id-1")[0], grpc.StatusCode.ABORTED)
        until("the node has looked", lambda: "is still there" in self.log("node"))
        # The cloud takes its time to delete it.
        with open(self.path("provider/control"), "w", encoding="ascii") as f:
            f.write("delete=fail:Unavailable:later\n")
        self.hypervisor("stop-vm", SANDBOXES[0])
        self.assertEqual(self.refused("controller", "ControllerUnpublishVolume", volume_id=self.volume_id, node_id="node-id-1")[0], grpc.StatusCode.ABORTED)
        self.assertEqual(self.state(self.volume_id), "nodeUnstageVolumeCached")
        os.unlink(self.path("provider/control"))
        self.driver.staged.clear()
        self.driver.published.clear()
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")
        self.assertEqual(self.driver.attached, {})
        self.unpublish()
        self.assertEqual(self.state(self.volume_id), "")

    def test_c4_what_kubelet_asks_for_is_done_in_the_vm_first(self):
        self.start_all()
        self.create()
        self.mount()
        self.node_unpublish()
        self.until_state(self.volume_id, "nodeUnpublishVolumeApplied")
        obj = self.volume(self.volume_id)
        self.assertEqual(cached(obj, "wrapperNodeUnpublishVolumeReq", "NodeUnpublishVolumeRequest").target_path, self.target())
        self.unstage()
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")
        self.assertEqual(list(dict.fromkeys(self.guest_driver.names())), ["NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"])
        self.assertEqual(self.driver.attached, {})

    def test_c5_secrets_are_not_stored_but_fetched_when_they_are_needed(self):
        def secret(name, value):
            self.create_object("v1", "secrets", NAMESPACE, {"metadata": {"name": name}, "data": {"token": base64.b64encode(value.encode()).decode()}})
        refs = {ref: {"name": ref.lower(), "namespace": NAMESPACE} for ref in ("controllerPublishSecretRef", "nodeStageSecretRef", "nodePublishSecretRef")}
        self.grant_secrets(*(ref.lower() for ref in refs))
        for ref in refs:
            secret(ref.lower(), "hush-" + ref)
        self.create_object("v1", "persistentvolumes", None, {"metadata": {"name": self.pv}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": {"driver": "csi.test.driver", "volumeHandle": self.volume_id, **refs}}})
        self.start_all()
        self.create()
        self.publish(secrets={"token": "hush-controllerPublishSecretRef"})
        self.stage(secrets={"token": "hush-nodeStageSecretRef"})
        self.node_publish(secrets={"token": "hush-nodePublishSecretRef"})
        self.create_vm(SANDBOXES[0])
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        self.assertEqual(self.driver.secrets["ControllerPublishVolume"], {"token": "hush-controllerPublishSecretRef"})
        self.assertEqual(self.guest_driver.secrets, {"NodeStageVolume": {"token": "hush-nodeStageSecretRef"},
                                                     "NodePublishVolume": {"token": "hush-nodePublishSecretRef"}})
        self.end_pod()
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")
        self.assertEqual(self.driver.secrets["ControllerUnpublishVolume"], {"token": "hush-controllerPublishSecretRef"})
        self.assert_nothing_leaked()

    def assert_nothing_leaked(self):
        history = json.dumps([o for o in self.api.store.history if "PeerpodVolume" in repr(o)], default=repr)
        self.assertIn("wrapperNodeStageVolumeReq", history)
        self.assertNotIn("hush", history)
        for name in "controller", "node", "podvm":
            self.assertNotIn("hush", self.log(name))

    def test_c5_tokens_of_the_pods_account_go_nowhere(self):
        """kubelet has two places for them; neither needs a secret to be fetched"""
        tokens = {"csi.storage.k8s.io/serviceAccount.tokens": '{"vault":{"token":"hush","expirationTimestamp":"2026-11-29T00:00:00Z"}}'}
        self.start_all()
        self.create()
        self.publish()
        self.stage()
        self.node_publish(volume_context={"a": "b", **tokens}, secrets=tokens)
        self.node_publish(volume_context={"a": "b", **tokens}, secrets=tokens)          # as for a driver with requiresRepublish
        self.create_vm(SANDBOXES[0])
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        (request,) = self.guest_driver.requests("NodePublishVolume")
        self.assertEqual((dict(request.volume_context), dict(request.secrets)), ({"a": "b"}, {}))
        self.assert_nothing_leaked()
        self.assertEqual(self.log("node").count("asks for tokens"), 1)

    def test_c5_that_there_were_secrets_is_known_after_a_conflict(self):
        self.start("controller")
        self.create()
        self.api.fault("status", verb="patch", path="/peerpodvolumes", code=409, reason="Conflict")
        self.publish(secrets={"token": "hush"})
        self.assertEqual(self.volume(self.volume_id)["metadata"]["annotations"], {"kata.peerpods.io/csi-secrets": "controllerPublishSecretRef"})

    def test_c6_a_driver_that_fails_in_the_vm_is_asked_again_with_pauses(self):
        self.start_all()
        self.create()
        self.publish()
        self.stage()
        self.node_publish()
        self.guest_driver.fail("NodeStageVolume", grpc.StatusCode.INTERNAL, "device not there yet", times=2)
        self.create_vm(SANDBOXES[0])
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        self.assertEqual(self.guest_driver.names().count("NodeStageVolume"), 3)
        self.assertIn("device not there yet", self.log("podvm"))

    def test_the_driver_of_the_node_is_not_asked_about_what_is_in_the_vm(self):
        answer = (grpc.StatusCode.FAILED_PRECONDITION, "The volume is for a pod VM and not mounted on this node.")
        self.start("controller")
        self.start("node")
        self.create()
        self.publish()
        self.stage()
        self.assertEqual(self.refused("node", "NodeExpandVolume", volume_id=self.volume_id, volume_path=self.staging()), answer)
        self.node_publish()
        for method in "NodeGetVolumeStats", "NodeExpandVolume":
            self.assertEqual(self.refused("node", method, volume_id=self.volume_id, volume_path=self.target()), answer)
        self.assertEqual(self.driver.names(), ["CreateVolume"])

    def test_c6_azures_vm_is_attached_to_and_detached_from_by_its_name(self):
        self.start("controller")
        self.create()
        self.publish()
        vm = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/podvm-web"
        self.set_vm(vm)
        self.until_state(self.volume_id, "controllerPublishVolumeApplied")
        self.set_state(self.volume_id, "nodeUnstageVolumeApplied")
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")
        self.assertEqual([r.node_id for r in self.driver.requests("ControllerPublishVolume") + self.driver.requests("ControllerUnpublishVolume")],
                         ["podvm-web", "podvm-web"])

    def test_c6_ids_that_are_no_names_of_objects_get_names_of_their_own(self):
        self.start("controller")
        names = set()
        for i in ("/subscriptions/a/disks/pvc", "/subscriptions/b/disks/pvc", "https://account###share#dir", "UPPER", "x" * 300):
            self.callers["controller"].call("ControllerPublishVolume", volume_id=i, node_id="n", volume_capability=capability(), volume_context={"peerpod": "1"})
            names = {o["spec"]["volumeID"]: n for n, o in self.volumes().items()}
            self.assertIn(i, names)
        self.assertEqual(len(set(names.values())), 5)

    def test_c6_an_object_of_csi_wrappers_is_gone_on_with_if_its_name_is_the_whole_id(self):
        """which docs/csi.md says; the other one may be that of two volumes"""
        whole, cut = ({"metadata": {"name": name}, "spec": {"volumeID": name, "volumeName": self.pv}} for name in ("vol-1", "share.dir"))
        for obj in whole, cut:
            self.create_object(GROUP, "peerpodvolumes", NAMESPACE, obj)
        self.start("controller")
        for volume_id in "vol-1", "account#share#dir":
            self.callers["controller"].call("ControllerPublishVolume", volume_id=volume_id, node_id="n", volume_capability=capability(), volume_context={"peerpod": "1"})
        found = {o["spec"]["volumeID"]: o.get("status", {}).get("state") for o in self.volumes().values()}
        self.assertEqual(found, {"vol-1": "controllerPublishVolumeCached", "account#share#dir": "controllerPublishVolumeCached", "share.dir": None})
        self.assertEqual(self.driver.names(), [])

    def test_c6_paths_that_are_no_pods_are_refused(self):
        self.start("controller")
        self.start("node")
        self.create()
        self.publish()
        self.stage()
        for path in ("/", "/a", self.path("x/pods/u/volumes/kubernetes.io~csi/pv"), self.path("plugins/kubernetes.io/csi/volumeDevices/publish/pv/uid"),
                     self.path("pods/u/volumes/kubernetes.io~nfs/pv/mount"), "relative/pods/u/volumes/kubernetes.io~csi/pv/mount", "/a/../etc"):
            code, _ = self.refused("node", "NodePublishVolume", volume_id=self.volume_id, target_path=path, volume_capability=capability())
            self.assertEqual((path, code), (path, grpc.StatusCode.INVALID_ARGUMENT))
        code, text = self.refused("node", "NodePublishVolume", volume_id=self.volume_id, volume_capability=capability(),
                                  target_path=self.path("pods/u/volumes/kubernetes.io~csi/other/mount"))
        self.assertIn("'other'", text)
        self.assertEqual(self.refused("controller", "ControllerPublishVolume", volume_id=self.volume_id, node_id="node-id-1",
                                      volume_capability=capability(block=True))[0], grpc.StatusCode.INVALID_ARGUMENT)

    def test_c6_the_node_waits_for_an_adaptor_that_is_not_there(self):
        self.start("controller")
        self.start("node")
        self.create()
        self.publish()
        self.stage()
        self.node_publish()
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "peerPodVSIRunning")
        until("the node has tried", lambda: "trying again" in self.log("node"))
        self.start_adaptor()
        self.create_vm(SANDBOXES[0])
        self.until_state(self.volume_id, "nodePublishVolumeApplied")

    def test_c7_the_record_names_no_disk(self):
        """so that HEAD's way, which attaches by these records, attaches nothing for it"""
        self.start("controller")
        self.start("node")
        self.create()
        self.publish()
        self.stage()
        self.node_publish()
        with open(self.record(), encoding="ascii") as f:
            record = json.load(f)
        self.assertNotIn("device", record)
        self.assertNotIn("metadata", record)

    def test_c7_a_record_that_names_a_disk_is_left_alone(self):
        self.start("controller")
        self.start("node")
        self.create()
        self.publish()
        self.stage()
        os.makedirs(os.path.dirname(self.record()))
        with open(self.record(), "w", encoding="ascii") as f:
            f.write('{"device": "vol-1"}')
        self.node_publish()
        with open(self.record(), encoding="ascii") as f:
            self.assertEqual(f.read(), '{"device": "vol-1"}')

    def test_c8_the_role_in_the_vm_asks_the_cloud_for_nothing(self):
        self.start_all()
        self.create()
        self.mount()
        self.assertEqual(self.guest_driver.names(), ["NodeStageVolume", "NodePublishVolume"])
        with self.assertRaises(grpc.RpcError) as caught:
            self.callers["podvm"].raw("/csi.v1.Controller/ControllerPublishVolume")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)


if __name__ == "__main__":
    main(["controller", "node", "podvm", "adaptor", "providerd", "modules", "fakes", "ctl"])
