#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""peerpod-csi while something goes wrong: an API server that is away or slow, a VM that is replaced, a second controller, and kill -9 of each role.

Usage: csi-faults-test.py CONTROLLER NODE PODVM PEERPOD-ADAPTOR PEERPOD-PROVIDERD MODULE-DIRECTORY ADAPTOR-FAKES PEERPODCTL [TEST…]"""
import os
import signal
import time

import grpc

from csi_life import POD, SANDBOXES, Life
from csi_rig import NAMESPACE, PATIENCE, capability, main, until

BOOT = "11111111-2222-4333-8444-555555555555"          # of a second VM


class Faults(Life):
    def test_an_api_server_that_goes_away_holds_things_up_and_harms_nothing(self):
        self.start_all()
        self.create()
        self.publish()
        self.stage()
        self.api.down()
        with self.assertRaises(grpc.RpcError) as caught:
            self.callers["node"].call("NodePublishVolume", timeout=2, volume_id=self.volume_id, staging_target_path=self.staging(),
                                      target_path=self.target(), volume_capability=capability())
        self.assertIn(caught.exception.code(), (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED))
        self.api.up()
        self.node_publish()
        self.create_vm(SANDBOXES[0])
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")

    def test_changes_by_others_in_between_are_seen(self):
        self.start_all()
        self.create()
        self.api.fault("status", verb="patch", path="/peerpodvolumes", code=409, reason="Conflict", times=3)
        self.publish()
        self.assertEqual(self.state(self.volume_id), "controllerPublishVolumeCached")

    def test_an_api_server_that_gives_no_answer_is_asked_again_whether_the_pod_ends(self):
        self.start_all()
        self.create()
        self.mount()
        self.api.fault("status", verb="get", path="/pods/", code=403, reason="Forbidden", times=2)
        self.api.fault("status", verb="list", path="/peerpodvolumes", code=403, reason="Forbidden")
        self.end_pod()
        self.assertEqual(self.guest_driver.names()[2:], ["NodeUnpublishVolume", "NodeUnstageVolume"])
        self.assertEqual(self.guest_driver.published, {})
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")

    def replace_vm(self):
        """as kubelet does with a sandbox that has died, without a word to us; the cloud takes its time to delete the VM"""
        self.end("podvm", signal.SIGKILL)
        with open(self.path("provider/control"), "w", encoding="ascii") as f:
            f.write("delete=fail:Unavailable:later\n")
        self.hypervisor("stop-vm", SANDBOXES[0])
        self.create_vm(SANDBOXES[1])
        self.start("podvm", uid=POD, boot=BOOT)
        until("the node has looked", lambda: "is still there" in self.log("node"))

    def test_a_vm_that_was_replaced_before_it_was_found_is_no_obstacle(self):
        """The node finds the second one, for the first one's announcement."""
        self.start("controller")
        self.start("node")
        self.create()
        self.publish()
        self.stage()
        self.node_publish()
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "peerPodVSIRunning")
        self.end("podvm", signal.SIGKILL)
        self.start_adaptor()
        self.create_vm(SANDBOXES[1])
        self.until_state(self.volume_id, "controllerPublishVolumeApplied")
        self.start("podvm", uid=POD, boot=BOOT)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        self.assertEqual(self.driver.attached, {self.volume_id: self.volume(self.volume_id)["spec"]["vmID"]})
        self.assertEqual(self.guest_driver.names(), ["NodeStageVolume", "NodePublishVolume"])

    def let_the_first_vm_go(self):
        os.unlink(self.path("provider/control"))
        self.driver.staged.clear()
        self.driver.published.clear()

    def test_a_sandbox_made_anew_for_the_same_pod_gets_the_volume_when_the_first_vm_is_gone(self):
        self.start_all()
        self.create()
        self.mount()
        first = self.volume(self.volume_id)["spec"]["vmID"]
        self.replace_vm()
        self.assertEqual((self.driver.attached, self.guest_driver.names()), ({self.volume_id: first}, ["NodeStageVolume", "NodePublishVolume"]))
        self.let_the_first_vm_go()
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        second = self.volume(self.volume_id)["spec"]["vmID"]
        self.assertNotEqual(first, second)
        self.assertEqual((self.driver.attached, self.guest_driver.published), ({self.volume_id: second}, {self.volume_id: self.target()}))
        self.end_pod()
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")
        self.assertEqual((self.driver.attached, self.guest_driver.staged), ({}, {}))

    def test_a_pod_that_ends_while_its_second_vm_waits_leaves_nothing(self):
        self.start_all()
        self.create()
        self.mount()
        self.replace_vm()
        self.node_unpublish()
        self.unstage()
        self.end_pod()
        self.let_the_first_vm_go()
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")
        self.unpublish()
        self.assertEqual((self.state(self.volume_id), self.driver.attached), ("", {}))
        self.assertEqual(set(self.volume(self.volume_id)["spec"]), {"volumeID", "volumeName"})

    def test_a_retry_that_falls_due_while_a_call_is_under_way_comes_after_it(self):
        self.start("controller")
        self.create()
        self.publish()
        self.driver.fail("ControllerPublishVolume", grpc.StatusCode.INTERNAL, "no slot is free")
        self.set_vm("vm-1")
        until("it has failed once", lambda: "no slot is free" in self.log("controller"))
        self.api.fault("hang", verb="get", path="/peerpodvolumes/", user="system:serviceaccount:kube-system:peerpod-csi-controller")
        call = self.callers["controller"].begin("ControllerPublishVolume", volume_id=self.volume_id, node_id="node-id-1", volume_capability=capability())
        until("the call waits", lambda: self.api.spent)
        time.sleep(1)                   # twice the pause before the first retry
        self.api.clear()
        call.result()
        self.until_state(self.volume_id, "controllerPublishVolumeApplied")


class Replicas(Life):
    """of the controller"""

    def setUp(self):
        super().setUp()
        self.start("controller")
        self.create()

    def leases(self):
        return self.resource("coordination.k8s.io/v1", "leases")

    def test_only_the_one_that_holds_the_lease_serves_and_it_hands_over(self):
        second = self.start("controller", name="second")
        call = second.begin("ControllerPublishVolume", volume_id=self.volume_id, node_id="node-id-1", volume_capability=capability())
        until("the second one has looked", lambda: "'uid-of-controller' serves, waiting" in self.log("second"))
        self.assertEqual((call.done(), self.state(self.volume_id)), (False, ""))
        self.end("controller")
        call.result()
        self.assertEqual(self.state(self.volume_id), "controllerPublishVolumeCached")
        self.set_vm("vm-1")
        self.until_state(self.volume_id, "controllerPublishVolumeApplied")

    def test_one_that_loses_the_lease_ends(self):
        (lease,) = self.api.store.items(self.leases(), NAMESPACE)
        self.assertEqual(lease["spec"]["holderIdentity"], "uid-of-controller")
        self.api.store.patch(self.leases(), NAMESPACE, lease["metadata"]["name"], "application/merge-patch+json", {"spec": {"holderIdentity": "another"}})
        self.assertEqual(self.processes.pop("controller").wait(PATIENCE), 1)
        self.assertIn("Another controller may serve from now on", self.log("controller"))

    def test_none_is_needed_by_who_says_so(self):
        (lease,) = self.api.store.items(self.leases(), NAMESPACE)
        second = self.start("controller", "--leader-elect=false", name="second")
        self.assertEqual(second.raw("/csi.v1.Identity/Probe"), b"")
        self.assertEqual(self.api.store.items(self.leases(), NAMESPACE)[0]["spec"]["holderIdentity"], lease["spec"]["holderIdentity"])


class Killed(Life):
    """kill -9 of each role, before each step and while its own is under way."""

    def restart(self, role):
        self.end(role, signal.SIGKILL)
        self.start(role, uid=POD)

    def test_each_role_may_die_between_all_steps(self):
        self.start_all()
        steps = [self.create, self.publish, self.stage, self.node_publish, lambda: self.create_vm(SANDBOXES[0]), lambda: self.start("podvm", uid=POD),
                 lambda: self.until_state(self.volume_id, "nodePublishVolumeApplied"), self.node_unpublish,
                 lambda: self.until_state(self.volume_id, "nodeUnpublishVolumeApplied"), self.unstage,
                 lambda: self.until_state(self.volume_id, "controllerUnpublishVolumeApplied"), self.unpublish]
        for step in steps:
            for role in "controller", "node", "podvm":
                if role in self.processes:
                    self.restart(role)
            step()
        self.assertEqual((self.state(self.volume_id), self.driver.attached, self.guest_driver.published, self.guest_driver.staged), ("", {}, {}, {}))
        self.delete()
        self.assertEqual((self.volumes(), self.driver.volumes), ({}, {}))

    def test_the_controller_may_die_while_it_attaches_and_detaches(self):
        self.start_all()
        self.create()
        self.publish()
        self.stage()
        self.node_publish()
        self.create_vm(SANDBOXES[0])
        held = self.driver.hold("ControllerPublishVolume")
        self.start("podvm", uid=POD)
        until("it attaches", lambda: self.driver.requests("ControllerPublishVolume"))
        self.restart("controller")
        held.set()
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        held = self.driver.hold("ControllerUnpublishVolume")
        self.node_unpublish()
        self.unstage()
        until("it detaches", lambda: self.driver.requests("ControllerUnpublishVolume"))
        self.restart("controller")
        held.set()
        self.until_state(self.volume_id, "controllerUnpublishVolumeApplied")
        self.assertEqual(self.driver.attached, {})

    def test_the_podvm_role_may_die_while_it_mounts_and_unmounts(self):
        self.start_all()
        self.create()
        self.publish()
        self.stage()
        self.node_publish()
        self.create_vm(SANDBOXES[0])
        for method in "NodeStageVolume", "NodePublishVolume":
            held = self.guest_driver.hold(method)
            self.start("podvm", uid=POD)
            until("it has begun " + method, lambda method=method: self.guest_driver.requests(method))
            self.end("podvm", signal.SIGKILL)
            held.set()
        self.start("podvm", uid=POD)
        self.until_state(self.volume_id, "nodePublishVolumeApplied")
        held = self.guest_driver.hold("NodeUnpublishVolume")
        self.node_unpublish()
        until("it unmounts", lambda: self.guest_driver.requests("NodeUnpublishVolume"))
        self.restart("podvm")
        held.set()
        self.until_state(self.volume_id, "nodeUnpublishVolumeApplied")

    def test_a_state_that_this_version_does_not_know_is_left_alone(self):
        self.start("controller")
        self.create()
        self.set_state(self.volume_id, "somethingNew")
        with self.assertRaises(grpc.RpcError) as caught:
            self.publish()
        self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertIn("somethingNew", caught.exception.details())


if __name__ == "__main__":
    main(["controller", "node", "podvm", "adaptor", "providerd", "modules", "fakes", "ctl"])
