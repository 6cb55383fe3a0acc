#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""peerpod-node in its rig (kube_node_rig.py), with a scripted API server (kube_api.py) that lets it do what install/rbac/peerpod-node.yaml says, and
no more.

Usage: kube-node-test.py NODE ADAPTOR PROVIDERD MODULE-DIRECTORY FAKES PEERPODCTL INSTALL-DIRECTORY INTERFACE-XML"""
import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree

from common_rig import PATIENCE, connects, until
from kube_api import KubeApi
from kube_node_rig import BUS_NAME, BUS_PATH, FAKES, FINALIZER, ID, ID2, INSTALL, INTERFACE, NODE, OWNER, PEERPODCTL, RESOURCE, WorkerRig

SECRET = "c2VjcmV0Om9mLXRoZS1yZWdpc3RyeQ=="


def docker_config(auths):
    return base64.b64encode(json.dumps({"auths": auths}).encode()).decode()


class Rig(WorkerRig):
    def setUp(self):
        super().setUp()
        self.api = KubeApi(self.path("api"), [os.path.join(INSTALL, "crds", "peerpods.yaml")])
        self.addCleanup(self.api.close)
        self.api.user("node", "system:serviceaccount:confidential-containers-system:peerpod-node")
        self.api.grant(os.path.join(INSTALL, "rbac", "peerpod-node.yaml"))
        self.api.store.collect_garbage = True
        self.kubeconfig = self.api.kubeconfig("node")
        self.make("serviceaccounts", "default", "default", {})
        self.make("nodes", None, "node-1", {"metadata": {"annotations": {"a": "b"}}, "status": {"capacity": {"cpu": "2"}}})
        self.make_pod("web")

    def resource(self, plural):
        version = "confidentialcontainers.org/v1alpha1" if plural == "peerpods" else "v1"
        return self.api.store.resources[version, plural]

    def make(self, plural, ns, name, obj):
        resource = self.resource(plural)
        obj = dict(obj, metadata=dict(obj.get("metadata", {}), name=name))
        return self.api.store.create(resource, ns, dict(obj, apiVersion=resource.api_version, kind=resource.kind))

    def make_pod(self, name, node="node-1", **spec):
        return self.make("pods", "default", name, {"spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}], **spec}})

    def get(self, plural, ns, name):
        return self.api.store.get(self.resource(plural), ns, name)

    def change(self, plural, ns, name, patch, sub=None):
        return self.api.store.patch(self.resource(plural), ns, name, "application/merge-patch+json", patch, sub)

    def delete(self, plural, ns, name, **options):
        self.api.store.delete(self.resource(plural), ns, name, options)

    def peerpods(self):
        return self.api.store.items(self.resource("peerpods"), None)

    def peerpod(self, pod="web"):
        found = [p for p in self.peerpods() if p["metadata"]["name"].startswith(pod + "-resource-")]
        return found[0] if found else None

    def phase(self, pod="web"):
        p = self.peerpod(pod)
        return p and p.get("status", {}).get("phase")

    def capacity(self):
        node = self.get("nodes", None, "node-1")
        return node["status"]["capacity"].get(RESOURCE), node["metadata"].get("annotations", {}).get(OWNER)

    def start_all(self, *options):
        self.start_services()
        self.start_node(*options)
        self.start_adaptor()
        until("the node has seen it", lambda: self.api.count(verb="watch", path=".*/peerpods") > 0 or not self.api.server)


class Life(Rig):
    def test_a_peerpod_lives_as_its_pod_vm_does(self):
        self.start_all()
        self.create()
        p = self.peerpod()
        pod = self.get("pods", "default", "web")
        self.assertNotIn("create", self.calls())
        self.assertEqual(p["metadata"]["finalizers"], [FINALIZER])
        self.assertEqual([(o["kind"], o["name"], o["uid"]) for o in p["metadata"]["ownerReferences"]], [("Pod", "web", pod["metadata"]["uid"])])
        self.assertEqual(p["metadata"]["labels"], {"kata.peerpods.io/node": "node-1", "kata.peerpods.io/pod-uid": pod["metadata"]["uid"]})
        self.assertEqual({k: v for k, v in p["spec"].items() if k != "attempt"},
                         {"cloudProvider": "fake", "instanceName": "podvm-web-aaaaaaaa", "nodeName": "node-1", "sandboxID": ID,
                          "podUID": pod["metadata"]["uid"]})
        until("it is being created", lambda: self.phase() == "Creating")

        self.start()
        p = until("it runs", lambda: self.phase() == "Running" and self.peerpod())
        self.assertEqual(p["spec"]["instanceID"], re.search("^id=(.*)$", self.read("provider/podvm-web-aaaaaaaa"), re.M).group(1))
        self.assertEqual(p["status"]["addresses"], ["192.0.2.10"])
        self.assertEqual([(c["type"], c["status"]) for c in p["status"]["conditions"]], [("Ready", "True")])
        self.assertEqual(self.property("NPending"), 0)

        self.stop()
        p = until("it is released", lambda: not self.peerpod()["metadata"].get("finalizers") and self.peerpod())
        self.assertEqual(p["status"]["phase"], "Gone")
        until("nothing is remembered", lambda: not self.records())
        self.delete("pods", "default", "web", gracePeriodSeconds=0)
        self.assertEqual(self.peerpods(), [])
        self.assertEqual(self.api.denied, [])
        self.assertEqual(self.api.store.invalid, [])

    def test_the_peerpod_of_a_pod_that_was_force_deleted_goes_with_its_vm(self):
        self.start_all()
        self.create()
        self.start()
        until("it runs", lambda: self.phase() == "Running")
        self.delete("pods", "default", "web", gracePeriodSeconds=0)
        self.assertIn("deletionTimestamp", self.peerpod()["metadata"])
        self.restart_node()
        self.stop()
        until("it is gone", lambda: not self.peerpods())

    def test_what_others_have_put_into_it_stays(self):
        self.start_all()
        self.create()
        until("its phase is told", lambda: self.phase() == "Creating")
        name = self.peerpod()["metadata"]["name"]
        now = "2026-11-29T03:00:00Z"
        self.change("peerpods", "default", name, {"metadata": {"finalizers": ["example.org/a", FINALIZER, "example.org/b"]}})
        self.change("peerpods", "default", name, {"status": {"conditions": self.peerpod()["status"]["conditions"] + [
            {"type": "Seen", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": now}]}}, "status")
        self.start()
        until("it runs", lambda: self.phase() == "Running")
        self.stop()
        until("it is released", lambda: FINALIZER not in self.peerpod()["metadata"]["finalizers"])
        self.assertEqual(self.peerpod()["metadata"]["finalizers"], ["example.org/a", "example.org/b"])
        self.assertIn(("Seen", "True", now), [(c["type"], c["status"], c["lastTransitionTime"]) for c in self.peerpod()["status"]["conditions"]])

    def test_conflicts_are_read_again_and_overcome(self):
        self.start_all()
        for code, reason in (409, "Conflict"), (422, "Invalid"), (500, "InternalError"), (429, "TooManyRequests"):
            self.api.fault("status", verb="patch", path="/peerpods/", code=code, reason=reason)
        self.create()
        self.start()
        until("it runs", lambda: self.phase() == "Running" and self.peerpod()["spec"].get("instanceID"))
        self.api.fault("status", verb="patch", path="/peerpods/", code=422, reason="Invalid", times=3)
        self.stop()
        until("it is released", lambda: not self.peerpod()["metadata"].get("finalizers"))

    def test_an_answer_that_was_lost_makes_no_second_one(self):
        self.start_all()
        self.api.fault("lost", verb="create", path="/peerpods")
        self.create()
        until("it is told", lambda: self.phase() == "Creating")
        self.assertEqual(len(self.peerpods()), 1)

    def test_one_that_was_removed_by_hand_is_made_again(self):
        self.start_all()
        self.create()
        self.start()
        until("it runs", lambda: self.phase() == "Running")
        first = self.peerpod()["metadata"]
        self.change("peerpods", "default", first["name"], {"metadata": {"finalizers": None}})
        self.delete("peerpods", "default", first["name"])
        p = until("there is another one", lambda: self.phase() == "Running" and self.peerpod())
        self.assertNotEqual(p["metadata"]["uid"], first["uid"])
        self.assertTrue(p["spec"]["instanceID"])

    def test_the_longest_pod_name_gets_a_peerpod(self):
        name = "p" * 253
        self.make_pod(name)
        self.start_all()
        self.create(pod=name)
        p = until("it has one", self.peerpods)[0]
        self.assertLessEqual(len(p["metadata"]["name"]), 253)
        self.assertEqual(p["spec"]["sandboxID"], ID)

    def test_upstreams_resource_definition_does_as_well(self):
        version = self.api.store.resources["confidentialcontainers.org/v1alpha1", "peerpods"]
        version.schema = {"type": "object", "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
            "spec": {"type": "object", "properties": {"cloudProvider": {"type": "string"}, "instanceID": {"type": "string"}}},
            "status": {"type": "object", "properties": {"cleand": {"type": "boolean"}}}}}
        self.start_all()
        self.create()
        self.start()
        p = until("it has an instance", lambda: self.peerpod()["spec"].get("instanceID") and self.peerpod())
        self.assertEqual(set(p["spec"]), {"cloudProvider", "instanceID"})
        self.restart_node()
        self.stop()
        until("it is released", lambda: not self.peerpod()["metadata"].get("finalizers"))
        until("nothing is remembered", lambda: not self.records())

    def test_a_pod_of_another_node_gets_none(self):
        self.make_pod("far", node="node-2")
        self.start_all()
        self.create(pod="far")
        self.start()
        self.assertEqual(self.peerpods(), [])
        self.assertIn("is on node 'node-2', and not on 'node-1'", self.read("node.log"))

    def test_a_newer_sandbox_of_a_pod_retires_the_older(self):
        self.start_all()
        self.create()
        self.start()
        until("it runs", lambda: self.phase() == "Running")
        self.create(ID2)
        until("the older one is gone", lambda: ID not in self.hypervisor_list())
        attempts = {p["spec"]["sandboxID"]: p["spec"]["attempt"] for p in self.peerpods()}
        self.assertGreater(attempts[ID2], attempts[ID])

    def hypervisor_list(self):
        return os.listdir(self.path("state/sandboxes"))[0:] and "".join(os.listdir(self.path("state/sandboxes")))


class Restarts(Rig):
    STEPS = ("create", "start", "stop")

    def lives_with(self, between):
        self.start_all()
        between()
        self.create()
        between()
        self.start()
        between()
        until("it runs", lambda: self.phase() == "Running" and self.peerpod()["spec"].get("instanceID"))
        between()
        self.stop()
        between()
        until("it is released", lambda: not self.peerpod()["metadata"].get("finalizers"))
        until("nothing is remembered", lambda: not self.records())
        self.assertEqual(len(self.peerpods()), 1)

    def test_of_the_node(self):
        self.lives_with(self.restart_node)

    def test_of_the_adaptor(self):
        self.lives_with(lambda: self.restart_adaptor(signal.SIGKILL))

    def test_of_the_api_server(self):
        def restart():
            self.api.down()
            self.api.up()
        self.lives_with(restart)

    def test_a_node_that_comes_late_takes_up_what_is_there(self):
        self.start_services()
        self.start_adaptor()
        self.create()
        self.start()
        self.assertEqual(self.peerpods(), [])
        self.start_node()
        until("it is told", lambda: self.phase() == "Running" and self.peerpod()["spec"].get("instanceID"))

    def test_what_has_ended_while_the_node_was_away_is_released(self):
        self.start_all()
        self.create()
        self.start()
        until("it runs", lambda: self.phase() == "Running")
        self.end_node(signal.SIGKILL)
        self.stop()
        self.start_node()
        until("it is released", lambda: not self.peerpod()["metadata"].get("finalizers"))

    def test_what_nobody_remembers_is_left_to_the_controller(self):
        self.start_all()
        self.create()
        until("it is told", lambda: self.phase() == "Creating")
        self.end_node(signal.SIGKILL)
        self.write(f"node/sandboxes/{ID2}.json", self.read(f"node/sandboxes/{ID}.json").replace(ID, ID2))     # the adaptor never had it
        self.start_node()
        until("it is given up", lambda: f"nobody here knows what became of sandbox '{ID2}'" in self.read("node.log"))
        until("its record is gone", lambda: self.records() == [ID + ".json"])
        self.assertEqual(self.peerpod()["metadata"]["finalizers"], [FINALIZER])

    def reload_bus(self, more=""):
        self.write("dbus.conf", self.bus_config().replace("</policy>", more + "</policy>"))
        subprocess.run(["busctl", "--system", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig"], env=self.environment,
                       check=True, timeout=PATIENCE)

    def test_an_adaptor_that_cannot_be_asked_what_became_of_one_is_asked_again(self):
        self.start_all()
        self.create()
        until("it is told", lambda: self.phase() == "Creating")
        self.end_node(signal.SIGKILL)
        self.write(f"node/sandboxes/{ID2}.json", self.read(f"node/sandboxes/{ID}.json").replace(ID, ID2))
        self.reload_bus('<deny send_interface="org.confidentialcontainers.PeerPod1.Manager" send_member="Explain"/>')
        self.start_node()
        until("that is told", lambda: "Failed to ask the adaptor" in self.read("node.log"))
        self.reload_bus()
        until("it is given up", lambda: self.records() == [ID + ".json"])

    def test_ends_that_the_watch_tells_before_the_answers_hold_up_nobody(self):
        self.start_services()
        os.makedirs(self.path("node/sandboxes"), 0o700)
        names = [f"p-resource-{i:02}" for i in range(40)]      # more than are asked for at a time
        for i, name in enumerate(names):
            uid = self.make("peerpods", "default", name, {"metadata": {
                "labels": {"kata.peerpods.io/node": "node-1"}, "finalizers": [FINALIZER]}, "spec": {"sandboxID": f"{i:064x}"}})["metadata"]["uid"]
            self.delete("peerpods", "default", name)
            self.write(f"node/sandboxes/{i:064x}.json", json.dumps({
                "version": 1, "state": "gone", "sandbox-id": f"{i:064x}", "pod-namespace": "default", "pod-name": "p", "name": name, "uid": uid,
                "posted": True}))
        self.api.fault("hang", verb="patch", path="/peerpods/", times=0)
        self.start_node()
        self.start_adaptor()
        until("it watches", lambda: self.api.count(verb="watch", path=".*/peerpods") > 0)

        def asked():
            return {r["path"].split("/")[7] for r in list(self.api.requests) if r["verb"] == "patch" and "/peerpods/" in r["path"]}
        until("as many are asked for as may be", lambda: len(asked()) == 32)
        for name in asked():
            self.change("peerpods", "default", name, {"metadata": {"finalizers": None}})
        until("those are forgotten", lambda: len(self.records()) == 8)
        self.api.clear()
        until("the others come", lambda: not self.records())
        self.assertEqual(self.peerpods(), [])

    def test_a_damaged_record_is_set_aside_and_the_peerpod_found_again(self):
        self.start_all()
        self.create()
        until("it is told", lambda: self.phase() == "Creating")
        self.end_node(signal.SIGKILL)
        self.write(f"node/sandboxes/{ID}.json", "{")
        self.start_node()
        until("it is taken up", lambda: self.property("NPending") == 0 and self.records())
        self.assertIn("set aside as", self.read("node.log"))
        self.stop()
        until("it is released", lambda: not self.peerpod()["metadata"].get("finalizers"))


class Away(Rig):
    def test_a_pod_vm_starts_and_ends_without_an_api_server(self):
        self.start_all("--register-timeout=500ms")
        self.api.down()
        self.create()
        self.start()
        self.assertIn("before the API server knows of it", self.read("adaptor.log"))
        self.assertEqual(self.property("Reachable"), False)
        self.assertEqual(self.property("NPending"), 1)
        self.api.up()
        until("it is told", lambda: self.phase() == "Running" and self.peerpod()["spec"].get("instanceID"))
        self.api.down()
        self.stop()
        self.restart_node()
        self.api.up()
        until("it is released", lambda: not self.peerpod()["metadata"].get("finalizers"))

    def test_a_server_that_hangs_is_waited_for_no_longer_than_told(self):
        self.start_all("--register-timeout=300ms")
        self.api.fault("hang", verb="get", path="/pods/", times=0)
        begin = time.monotonic()
        self.create()
        self.assertLess(time.monotonic() - begin, 30)
        self.assertIn("has not answered in time", self.read("node.log"))
        self.api.clear()
        until("it is told", lambda: self.phase() == "Creating")

    def test_what_waits_goes_on_with_the_next_good_answer_to_anybody(self):
        self.start_all("--register-timeout=300ms")
        until("it offers", lambda: self.capacity()[0] == "10")
        self.api.fault("status", verb="create", path=".*/peerpods", code=503, retry_after=3600)
        self.create()
        self.assertEqual(self.property("Reachable"), False)
        self.change("nodes", None, "node-1", {"status": {"capacity": {RESOURCE: "0"}}}, "status")
        until("it is told", lambda: self.phase() == "Creating")

    def test_what_is_to_be_told_is_bounded(self):
        self.start_all("--records-max=2", "--register-timeout=100ms")
        for i in range(3):
            self.make_pod(f"p{i}")
        self.create("0" * 64, "p0")
        until("it is told", lambda: self.phase("p0") == "Creating")
        self.api.down()
        self.stop("0" * 64)             # its end is to be told
        self.create("1" * 64, "p1")
        self.create("2" * 64, "p2")     # takes the place of the first
        self.assertEqual(len(self.records()), 2)
        self.create("3" * 64, "web")    # is started without
        self.assertIn("There are 2 sandboxes already", self.read("adaptor.log"))
        self.api.up()
        until("the others are told", lambda: self.phase("p1") == "Creating" and self.phase("p2") == "Creating")
        self.assertEqual(self.peerpod("p0")["metadata"]["finalizers"], [FINALIZER])

    def test_a_sandbox_that_came_and_went_meanwhile_leaves_nothing(self):
        self.start_all("--register-timeout=100ms")
        self.api.down()
        self.create()
        self.stop()
        until("nothing is remembered", lambda: not self.records())
        self.api.up()
        self.assertEqual(self.peerpods(), [])

    def test_an_expired_token_is_read_again(self):
        self.start_all()
        self.api.rotate("node")
        self.create()
        until("it is told", lambda: self.phase() == "Creating")
        self.api.revoke("node")
        self.start()
        until("it is noted", lambda: self.property("Reachable") is False)
        self.api.user("node", "system:serviceaccount:confidential-containers-system:peerpod-node")
        until("it runs", lambda: self.phase() == "Running")

    def test_many_are_told_when_it_is_back(self):
        self.start_all("--register-timeout=50ms")
        self.api.down()
        for i in range(10):
            self.make_pod(f"p{i:02}")
            self.create(f"{i:064}", f"p{i:02}")
        self.assertEqual(self.property("NPending"), 10)
        self.api.up()
        until("all are told", lambda: self.property("NPending") == 0)
        self.assertEqual(len(self.peerpods()), 10)


class PullSecrets(Rig):
    def setUp(self):
        super().setUp()
        self.make("secrets", "default", "of-account", {"type": "kubernetes.io/dockerconfigjson", "data": {
            ".dockerconfigjson": docker_config({"registry.example": {"auth": "b2xkOm9sZA=="}, "two.example": {"username": "u", "password": "p" * 20}})}})
        self.make("secrets", "default", "of-pod", {"type": "kubernetes.io/dockercfg", "data": {
            ".dockercfg": base64.b64encode(json.dumps({"registry.example": {"auth": SECRET}}).encode()).decode()}})
        self.make("secrets", "default", "broken", {"type": "Opaque", "data": {".dockerconfigjson": base64.b64encode(b"{").decode()}})
        self.change("serviceaccounts", "default", "default", {"imagePullSecrets": [{"name": "of-account"}]})
        self.make_pod("private", imagePullSecrets=[{"name": "broken"}, {"name": "missing"}, {"name": "of-pod"}])

    def test_they_reach_the_pod_vm_and_nobody_else(self):
        self.start_all()
        self.create(pod="private")
        two = base64.b64encode(b"u:" + b"p" * 20).decode()
        self.assertEqual(self.auth(), {"auths": {"registry.example": {"auth": SECRET}, "two.example": {"auth": two}}})
        self.assertIn("Secret 'default/broken' is passed over", self.read("node.log"))
        self.assertIn("Secret 'default/missing' is passed over", self.read("node.log"))
        self.start()
        until("it is told", lambda: self.phase("private") == "Running")
        self.restart_node()
        self.stop()
        for name in "node.log", "adaptor.log", "provider.log", f"node/sandboxes/{ID}.json", f"state/sandboxes/{ID}.json":
            for secret in SECRET, two, "p" * 20, "b2xkOm9sZA==":
                self.assertNotIn(secret, self.read(name), name)
        self.assertEqual(self.auth(), None)     # went with the instance

    def test_a_pod_without_any_gets_no_auth_json(self):
        self.change("serviceaccounts", "default", "default", {"imagePullSecrets": None})
        self.start_all()
        self.create()
        self.assertEqual(self.auth(), None)

    def test_without_the_right_to_read_them_the_pod_vm_starts(self):
        self.api.rules = [r for r in self.api.rules if "secrets" not in r[2]["resources"]]
        self.start_all()
        self.create(pod="private")
        self.assertEqual(self.auth(), None)
        until("it is told", lambda: self.phase("private") == "Creating")
        self.assertIn("HTTP 403", self.read("node.log"))

    def test_the_pods_uid_tells_its_volumes(self):
        self.start_all()
        self.create()
        until("tunneld was asked", lambda: "Read " in self.read("calls"))
        self.assertIn("Read " + self.get("pods", "default", "web")["metadata"]["uid"], self.read("calls"))


class Capacity(Rig):
    def start_offering(self, *options):
        self.spawn(FAKES, self.dir)
        until("the fakes are there", lambda: connects(self.path("tunnel.sock")))
        self.start_node(*options)
        return until("it offers", lambda: self.capacity()[0] == "10" and self.capacity())[1]

    def test_is_offered_restored_and_withdrawn(self):
        owner = self.start_offering()
        self.assertEqual(self.get("nodes", None, "node-1")["status"]["capacity"]["cpu"], "2")
        self.change("nodes", None, "node-1", {"status": {"capacity": {RESOURCE: "0"}}}, "status")      # as the kubelet does
        until("it is back", lambda: self.capacity()[0] == "10")
        self.change("nodes", None, "node-1", {"status": {"capacity": {RESOURCE: None}}}, "status")
        self.change("nodes", None, "node-1", {"metadata": {"annotations": {OWNER: None}}})
        until("it is back", lambda: self.capacity() == ("10", owner))
        self.end_node()
        self.assertEqual(self.capacity(), (None, None))
        self.assertEqual(self.api.denied, [])

    def test_is_restored_if_it_is_lost_before_our_own_change_is_answered(self):
        self.api.fault("late", verb="patch", path=".*/nodes/node-1/status")
        self.start_offering()
        self.change("nodes", None, "node-1", {"status": {"capacity": {RESOURCE: "0"}}}, "status")
        version = int(self.get("nodes", None, "node-1")["metadata"]["resourceVersion"])
        until("the service has been told", lambda: any(r.get("version") == version for r in self.api.requests))
        self.api.clear()
        until("it is back", lambda: self.capacity()[0] == "10")

    def test_is_withdrawn_after_our_own_change_was_answered(self):
        self.spawn(FAKES, self.dir)
        until("the fakes are there", lambda: connects(self.path("tunnel.sock")))
        offer = self.api.fault("hang", verb="patch", path=".*/nodes/node-1/status", deaf=True)
        self.start_node()
        until("it is asked for", lambda: offer in self.api.spent)
        self.node.send_signal(signal.SIGTERM)
        until("the service is about to end", lambda: "list-jobs" in self.read("calls"))
        self.api.clear()
        self.assertEqual(self.node.wait(PATIENCE), 0)
        self.processes.remove(self.node)
        until("all is done that was asked for", lambda: all(r["code"] for r in self.api.requests if r["verb"] == "patch"))
        self.assertEqual(self.capacity(), (None, None))

    def test_is_restored_on_a_node_that_was_made_anew(self):
        self.start_offering()
        self.delete("nodes", None, "node-1")
        self.make("nodes", None, "node-1", {"status": {}})
        until("it is back", lambda: "capacity" in self.get("nodes", None, "node-1")["status"] and self.capacity()[0] == "10")

    def test_stays_when_the_service_is_restarted(self):
        first = self.start_offering()
        self.write("control", "node-job=restart\n")
        self.end_node()
        self.assertEqual(self.capacity(), ("10", first))
        self.start_node()
        until("the new one says so", lambda: self.capacity()[1] != first)
        self.assertEqual(self.capacity()[0], "10")

    def test_another_service_that_takes_over_is_not_fought_with(self):
        self.start_offering()
        self.change("nodes", None, "node-1", {"metadata": {"annotations": {OWNER: "another"}}})
        self.change("nodes", None, "node-1", {"status": {"capacity": {RESOURCE: "3"}}}, "status")
        until("it is told", lambda: "has taken over" in self.read("node.log"))
        self.end_node()
        self.assertEqual(self.capacity(), ("3", "another"))

    def test_a_negative_limit_withdraws_what_was_offered_before(self):
        self.start_offering()
        self.end_node(signal.SIGKILL)
        self.start_node("--peerpods-limit-per-node=-1")
        until("it is withdrawn", lambda: self.capacity() == (None, None))
        self.change("nodes", None, "node-1", {"metadata": {"annotations": {OWNER: "another"}}})
        self.end_node()
        self.start_node("--peerpods-limit-per-node=-1")
        self.end_node()
        self.assertEqual(self.capacity(), (None, "another"))

    def test_another_machines_node_is_left_alone(self):
        self.change("nodes", None, "node-1", {"status": {"nodeInfo": {
            k: "0" * 32 if k == "machineID" else "x" for k in (
                "architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "kubeletVersion", "machineID",
                "operatingSystem", "osImage", "systemUUID")}}}, "status")
        self.start_node()
        until("it is told", lambda: "is another machine" in self.read("node.log"))
        self.end_node()
        self.assertEqual(self.capacity(), (None, None))

    def test_an_api_server_that_is_away_does_not_hold_up_the_end(self):
        self.start_offering()
        self.api.down()
        self.end_node()


class Without(Rig):
    def test_the_adaptor_does_not_wait_for_a_node_that_is_not_there(self):
        self.start_services()
        self.start_adaptor()
        self.create()
        self.create(ID2, "other")
        self.assertEqual(self.read("adaptor.log").count("There is no peerpod-node"), 1)
        self.assertNotIn("register", self.steps())
        self.assertEqual(self.auth(), None)
        self.start_node()
        until("it is told", lambda: self.phase() == "Creating")
        self.end_node()
        self.create("c" * 64, "third")
        self.assertEqual(self.read("adaptor.log").count("There is no peerpod-node"), 2)

    def steps(self):
        return subprocess.run([PEERPODCTL, "why", ID], env=self.environment, stdout=subprocess.PIPE, check=True).stdout.decode()

    def test_a_node_that_dies_with_a_call_in_its_hands_is_waited_for(self):
        self.start_all()
        self.api.fault("hang", verb="get", path="/pods/", times=0)
        p = subprocess.Popen([PEERPODCTL, "hypervisor", "create-vm", ID, "--netns", "/run/netns/cni-test", "--pod-name", "web", "--pod-namespace",
                              "default", "--socket", self.path("hypervisor.sock")], env=self.environment)
        until("the node reads the pod", lambda: self.api.count(verb="get", path=".*/pods/web") > 0)
        self.end(self.node, signal.SIGKILL)
        self.api.clear()
        self.start_node()
        self.assertEqual(p.wait(PATIENCE), 0)
        self.assertNotIn("without an answer", self.read("adaptor.log"))
        self.assertTrue(self.peerpod())

    def test_bad_configuration_ends_with_status_78(self):
        for options, variables, text in (
                (["--kubeconfig=/nonexistent"], {}, "/nonexistent"),
                ([], {}, "There is no kubeconfig"),
                (["--kubeconfig=" + self.kubeconfig], {"PEERPODS_LIMIT_PER_NODE": "ten"}, "PEERPODS_LIMIT_PER_NODE"),
                (["--kubeconfig=" + self.kubeconfig], {"NODE_NAME": "Node_1"}, "NODE_NAME"),
                (["--kubeconfig=" + self.kubeconfig, "--register-timeout=9s"], {}, "register-timeout"),
                (["--kubeconfig=" + self.kubeconfig, "--state-dir=x"], {}, "state-dir")):
            p = subprocess.run([NODE, *options], env=dict(self.environment, HOME="/nonexistent", **variables), capture_output=True, check=False,
                               timeout=PATIENCE)
            self.assertEqual(p.returncode, 78, p.stderr)
            self.assertIn(text, p.stderr.decode())

    def test_its_interface_is_as_documented(self):
        def members(text):
            interface = xml.etree.ElementTree.fromstring(text).find(f"interface[@name='{BUS_NAME}']")
            return sorted((e.tag, e.get("name"), e.get("type"), e.get("access"), [(a.get("name"), a.get("type"), a.get("direction")) for a in e.iter("arg")])
                          for e in interface if e.tag in ("method", "property", "signal"))

        self.start_node()
        p = subprocess.run(["busctl", "--system", "introspect", "--xml-interface", BUS_NAME, BUS_PATH], env=self.environment, capture_output=True,
                           check=True)
        with open(INTERFACE, encoding="utf-8") as f:
            self.assertEqual(members(p.stdout), members(f.read()))


class Policy(Rig):
    """What the bus lets through, with users that each system has in the places of the family's."""
    USERS = {"peerpod": "daemon", "peerpod-node": "bin"}
    BUS = """<busconfig><type>system</type><listen>unix:path=%(dir)s/bus</listen><auth>EXTERNAL</auth>
      <policy context="default"><allow user="*"/><deny own="*"/><deny send_type="method_call"/><allow send_type="signal"/>
      <allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
      <allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
      <allow send_destination="org.freedesktop.DBus"/></policy>%(policy)s</busconfig>"""

    def bus_config(self):
        with open(os.path.join(os.path.dirname(INTERFACE), BUS_NAME + ".conf"), encoding="utf-8") as f:
            policy = re.search("<busconfig>(.*)</busconfig>", f.read(), re.S).group(1)
        for user, double in self.USERS.items():
            self.assertIn(f'user="{user}"', policy)
            policy = policy.replace(f'user="{user}"', f'user="{double}"')
        os.chmod(self.dir, 0o755)
        return self.BUS % {"dir": self.dir, "policy": policy}

    def busctl(self, user, *argv):
        p = subprocess.run(["busctl", "--system", *argv], env=self.environment, user=user, capture_output=True, check=False, timeout=PATIENCE)
        return p.stdout.decode() if p.returncode == 0 else p.stderr.decode()

    def register(self, user):
        return self.busctl(user, "call", BUS_NAME, BUS_PATH, BUS_NAME, "Register", "ssssss", ID, "default", "web", "", "podvm-web", "fake")

    def test_only_the_adaptor_may_register_and_everybody_may_look(self):
        self.start_node()
        self.assertIn("Access denied", self.register("nobody"))
        self.assertIn("Access denied", self.register("bin"))
        self.assertEqual(self.peerpods(), [])
        self.assertIn('"node-1"', self.busctl("nobody", "get-property", BUS_NAME, BUS_PATH, BUS_NAME, "Node"))
        self.assertIn("Register", self.busctl("nobody", "introspect", BUS_NAME, BUS_PATH))
        self.assertIn("sbh", self.register("daemon"))
        self.assertTrue(self.peerpod())

    def test_only_its_own_user_may_take_the_name(self):
        call = ("call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName", "su", BUS_NAME, "4")
        self.assertEqual(self.busctl("bin", *call).strip(), "u 1")
        self.assertIn("Access denied", self.busctl("daemon", *call))
        self.assertIn("Access denied", self.busctl("nobody", *call))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + os.environ.get("TESTS", "").split())
