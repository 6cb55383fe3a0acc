#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes side at Kubernetes' own API server (kube_cluster.py), as install/ sets it up: definitions with their rules, roles, admission, garbage
collection, expiring tokens. The accounts are those of install/rbac/, so that a right that lacks shows.

Usage: kube-apiserver-test.py NODE ADAPTOR PROVIDERD MODULE-DIRECTORY FAKES PEERPODCTL INSTALL-DIRECTORY INTERFACE-XML CTRL WEBHOOK FAKE-MODULE GO-PEER"""
import base64
import contextlib
import glob
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import yaml

from common_rig import PATIENCE, until
from kube_api import make_authority
from kube_cluster import Cluster
from kube_ctrl_rig import LEASE, Process, lasting_port
from kube_node_rig import FINALIZER, ID, INSTALL, OWNER, PROVIDERD, RESOURCE, WorkerRig

CTRL, WEBHOOK, FAKE, GO_PEER = [os.path.abspath(a) for a in sys.argv[9:13]]
NAMESPACE, WEBHOOK_NAMESPACE = "confidential-containers-system", "peer-pods-webhook-system"
SPEC = {"cloudProvider": "fake", "instanceID": "fake-1", "instanceName": "podvm-web", "nodeName": "node-1", "sandboxID": ID, "podUID": "u", "attempt": 1}
cluster = None


def load(*path):
    with open(os.path.join(INSTALL, *path), encoding="utf-8") as f:
        return [d for d in yaml.safe_load_all(f) if d]


def kubernetes_own(objects):
    return [o for o in objects if not o["apiVersion"].startswith("cert-manager.io/")]


def setUpModule():
    global cluster      # pylint: disable=global-statement
    directory = tempfile.mkdtemp(prefix="pp-kube-", dir="/tmp")
    unittest.addModuleCleanup(shutil.rmtree, directory)
    cluster = Cluster(os.path.join(directory, "cluster"), GO_PEER)
    unittest.addModuleCleanup(cluster.close)
    for name in NAMESPACE, WEBHOOK_NAMESPACE:
        cluster.kubectl("create", "namespace", name)
    cluster.kubectl("apply", "-f", INSTALL + "/crds", "-f", INSTALL + "/rbac")
    cluster.kubectl("wait", "--for=condition=Established", "crd/peerpods.confidentialcontainers.org", "crd/peerpodvolumes.confidentialcontainers.org",
                    f"--timeout={PATIENCE}s")
    cluster.wait(lambda: cluster.get("serviceaccount", "default", "default"), "the namespace has its account")


def pod(name, **spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}], **spec}}


def peerpod(name, **more):
    return {"apiVersion": "confidentialcontainers.org/v1alpha1", "kind": "PeerPod", "metadata": {"name": name}, **more}


def delete_pod(name):
    """as the kubelet does when all has ended"""
    cluster.kubectl("delete", "pod", name, "--grace-period=0", "--force", "--wait=false")


class Case(unittest.TestCase):
    def setUp(self):
        self.addCleanup(self.clean)

    @staticmethod
    def clean():
        for p in cluster.items("peerpods", "default"):
            cluster.kubectl("patch", "peerpod", p["metadata"]["name"], "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
        for kind in "peerpods", "pods", "secrets":
            cluster.kubectl("delete", kind, "--all", "-n", "default", "--grace-period=0", "--force")
        cluster.kubectl("delete", "node", "--all")


class Manifests(Case):
    def test_kubectl_and_the_server_take_each(self):
        for path in glob.glob(INSTALL + "/crds/*.yaml") + glob.glob(INSTALL + "/rbac/*.yaml") + glob.glob(INSTALL + "/manifests/*.yaml") + \
                [INSTALL + "/node/daemonset.yaml"]:
            objects = kubernetes_own(load(path))
            for where in "client", "server":
                with self.subTest(path=os.path.basename(path), where=where):
                    out = cluster.kubectl("apply", "--dry-run=" + where, "--validate=strict", "-f", "-", obj=objects)
                    self.assertEqual(len(out.splitlines()), len(objects))

    def test_the_server_takes_the_chart(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
            values.write("{}")
            values.flush()
            out = subprocess.run([GO_PEER, "chart-render", INSTALL + "/chart", NAMESPACE, values.name], check=True, stdout=subprocess.PIPE, timeout=PATIENCE)
        objects = kubernetes_own([d for d in yaml.safe_load_all(out.stdout) if d])
        self.assertGreater(len(objects), 10)
        cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", obj=objects)


class Definitions(Case):
    def test_the_server_finds_nothing_wrong_with_them(self):
        for name in "peerpods", "peerpodvolumes":
            conditions = {c["type"]: c["status"] for c in cluster.get("crd", name + ".confidentialcontainers.org")["status"]["conditions"]}
            self.assertEqual(conditions, {"NamesAccepted": "True", "Established": "True"})

    def test_what_has_been_set_once_stays(self):
        cluster.kubectl("create", "-f", "-", obj=peerpod("web", spec=SPEC))
        for field, value in SPEC.items():
            other = 2 if field == "attempt" else "other"
            text = cluster.kubectl("patch", "peerpod", "web", "--type=merge", "-p", json.dumps({"spec": {field: other}}), fails=True)
            self.assertRegex(text, f"{field} (is set once and )?cannot be changed")
            self.assertEqual(cluster.get("peerpod", "web", "default")["spec"][field], value)
        self.assertIn("spec cannot be removed", cluster.kubectl("patch", "peerpod", "web", "--type=merge", "-p", '{"spec": null}', fails=True))

    def test_an_instance_is_learnt_later(self):
        cluster.kubectl("create", "-f", "-", obj=peerpod("web", spec={k: v for k, v in SPEC.items() if k != "instanceID"}))
        cluster.kubectl("patch", "peerpod", "web", "--type=merge", "-p", '{"spec": {"instanceID": "fake-1"}}')

    def test_values_that_make_no_sense_are_refused(self):
        for field, value, text in (("attempt", -1, "should be greater than or equal to 0"), ("attempt", "1", "must be of type integer"),
                                   ("sandboxID", "a" * 65, "may not be more than 64"), ("cloudProvider", ["aws"], "must be of type string")):
            self.assertIn(text, cluster.kubectl("create", "--validate=false", "-f", "-", obj=peerpod("web", spec=dict(SPEC, **{field: value})), fails=True))

    def test_upstreams_objects_live_on_under_ours(self):
        ours = load("crds", "peerpods.yaml")[0]
        upstream = json.loads(json.dumps(ours))
        (version,) = upstream["spec"]["versions"]
        version["schema"] = {"openAPIV3Schema": {"type": "object", "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
            "spec": {"type": "object", "properties": {"cloudProvider": {"type": "string"}, "instanceID": {"type": "string"}}},
            "status": {"type": "object", "properties": {"cleaned": {"type": "boolean"}}}}}}
        version.pop("additionalPrinterColumns", None)
        cluster.kubectl("replace", "-f", "-", obj=upstream)
        self.addCleanup(cluster.kubectl, "replace", "-f", "-", obj=ours)
        until("what it does not know is pruned", lambda: "nodeName" not in cluster.kubectl(
            "create", "--dry-run=server", "--validate=false", "-o", "json", "-f", "-", obj=peerpod("try", spec=SPEC)))
        cluster.kubectl("create", "-f", "-", obj=peerpod("web", spec={"cloudProvider": "aws", "instanceID": "i-1"}))
        cluster.kubectl("replace", "-f", "-", obj=ours)
        until("ours is served", lambda: "nodeName" in cluster.kubectl(
            "create", "--dry-run=server", "--validate=false", "-o", "json", "-f", "-", obj=peerpod("try", spec=SPEC)))
        self.assertEqual(cluster.get("peerpod", "web", "default")["spec"], {"cloudProvider": "aws", "instanceID": "i-1"})
        cluster.kubectl("patch", "peerpod", "web", "--type=merge", "-p", '{"metadata": {"finalizers": ["a.b/c"]}}')
        self.assertIn("i-1", cluster.kubectl("get", "peerpods", "-o", "wide"))


class Worker(Case, WorkerRig):
    def setUp(self):
        Case.setUp(self)
        WorkerRig.setUp(self)
        self.kubeconfig = cluster.account("peerpod-node", NAMESPACE)
        cluster.kubectl("create", "-f", "-", obj={"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "status": {"capacity": {"cpu": "2"}}})
        cluster.kubectl("create", "-f", "-", obj=pod("web"))
        self.controllers = []

    def start_all(self):
        before = cluster.watched("peerpods")
        self.start_services()
        self.start_node()
        self.start_adaptor()
        until("the node watches", lambda: cluster.watched("peerpods") > before)

    def lose_a_node_with_a_pod_vm(self):
        self.start_all()
        self.create()
        self.start()
        until("it is told", lambda: self.phase() == "Running" and self.peerpod()["spec"].get("instanceID"))
        self.end_node(signal.SIGKILL)
        self.end_adaptor(signal.SIGKILL)

    def end_all(self):
        if self._outcome.result.errors or self._outcome.result.failures:
            print(*(p.log()[-3000:] for p in self.controllers), file=sys.stderr)
        super().end_all()

    def start_ctrl(self, *options, **environment):
        p = Process(ControllerRig(self), len(self.controllers), environment or {"FAKE_DIRECTORY": self.path("provider")}, options)
        self.controllers.append(p)
        self.addCleanup(p.end)
        return p

    def peerpod(self):
        found = cluster.items("peerpods", "default")
        return found[0] if found else None

    def phase(self):
        p = self.peerpod()
        return p and p.get("status", {}).get("phase")

    def capacity(self):
        node = cluster.get("node", "node-1")
        return node["status"].get("capacity", {}).get(RESOURCE), node["metadata"].get("annotations", {}).get(OWNER)

    def instances(self):
        return [f for f in os.listdir(self.path("provider")) if f.startswith("podvm-")]

    def patch_node(self, patch, *options):
        cluster.kubectl("patch", "node", "node-1", "--type=merge", "-p", json.dumps(patch), *options)


class ControllerRig:
    """What kube_ctrl_rig.Process wants of its rig"""
    program, providerd = CTRL, PROVIDERD

    def __init__(self, worker):
        self.path = pathlib.Path(worker.path("controllers"))
        (self.path / "modules").mkdir(parents=True, exist_ok=True)
        module = self.path / "modules" / "fake.so"
        if not module.exists():
            module.symlink_to(FAKE)
        self.api = self
        self.config = cluster.account("peerpod-ctrl", NAMESPACE)

    def kubeconfig(self, _):
        return self.config

    @staticmethod
    def wait(condition, what):
        return until(what, condition)


class Life(Worker):
    def test_a_peerpod_lives_as_its_pod_vm_does(self):
        self.start_all()
        self.create()
        p = self.peerpod()
        self.assertEqual(p["metadata"]["finalizers"], [FINALIZER])
        self.assertEqual([(o["kind"], o["name"]) for o in p["metadata"]["ownerReferences"]], [("Pod", "web")])
        until("it is being created", lambda: self.phase() == "Creating")
        cluster.down()
        self.start()
        cluster.up()
        until("it runs", lambda: self.phase() == "Running")
        p = self.peerpod()
        self.assertTrue(p["spec"]["instanceID"])
        self.assertEqual([(c["type"], c["status"]) for c in p["status"]["conditions"]], [("Ready", "True")])
        self.assertRegex(cluster.kubectl("get", "peerpods"), r"web-resource-\S+ +Running +fake +fake-podvm-web-\S+ +node-1 ")
        self.stop()
        until("it is released", lambda: not self.peerpod()["metadata"].get("finalizers"))
        delete_pod("web")
        until("it went with its pod", lambda: not self.peerpod())
        until("nothing is remembered", lambda: not self.records())

    def test_the_peerpod_of_a_pod_that_was_force_deleted_goes_with_its_vm(self):
        self.start_all()
        self.create()
        self.start()
        delete_pod("web")
        until("the collector has marked it", lambda: "deletionTimestamp" in self.peerpod()["metadata"])
        until("it is told", lambda: self.phase() == "Running")
        self.stop()
        until("it is gone", lambda: not self.peerpod())

    def test_the_instance_of_a_node_that_died_is_deleted_by_the_controller(self):
        self.start_ctrl().ready()
        self.lose_a_node_with_a_pod_vm()
        delete_pod("web")
        until("it is gone", lambda: not self.peerpod())
        self.assertEqual(self.instances(), [])
        until("an event tells", lambda: "InstanceDeleted" in cluster.kubectl("get", "events", "-n", "default", "-o", "jsonpath={.items[*].reason}"))

    def test_pull_secrets_reach_the_pod_vm_if_the_role_is_bound(self):
        auths = {"registry.example": {"auth": base64.b64encode(b"u:p").decode()}}
        cluster.kubectl("create", "-f", "-", obj={
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull", "namespace": "default"}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": json.dumps({"auths": auths})}})
        cluster.kubectl("create", "-f", "-", obj=pod("private", imagePullSecrets=[{"name": "pull"}]))
        self.start_all()
        self.create(pod="private")
        self.assertEqual(self.auth(), {"auths": auths})
        self.stop()
        cluster.kubectl("delete", "clusterrolebinding", "peerpod-node-pull-secrets")
        self.addCleanup(cluster.kubectl, "apply", "-f", INSTALL + "/rbac/peerpod-node.yaml")
        until("it is gone", lambda: cluster.kubectl("auth", "can-i", "get", "secrets", "--as", f"system:serviceaccount:{NAMESPACE}:peerpod-node",
                                                    fails=True) is not None)
        self.create("b" * 64, pod="private")
        self.assertIsNone(self.auth("b" * 64))
        self.assertIn("HTTP 403", self.read("node.log"))

    def test_the_node_offers_its_pod_vms_while_the_service_runs(self):
        self.start_services()
        self.start_node()
        until("it offers", lambda: self.capacity()[0] == "10")
        owner = self.capacity()[1]
        self.patch_node({"status": {"capacity": {RESOURCE: "0"}}}, "--subresource=status")      # as the kubelet does
        until("it is back", lambda: self.capacity()[0] == "10")
        self.patch_node({"metadata": {"annotations": {OWNER: None}}})
        until("it is back", lambda: self.capacity() == ("10", owner))
        self.end_node()
        self.assertEqual(self.capacity(), (None, None))

    def test_an_account_may_do_no_more_than_its_role_says(self):
        for account, verb, what in (("peerpod-node", "delete", "nodes"), ("peerpod-node", "delete", "peerpods"), ("peerpod-node", "update", "pods"),
                                    ("peerpod-node", "list", "secrets"), ("peerpod-ctrl", "get", "secrets"), ("peerpod-ctrl", "delete", "pods"),
                                    ("peerpod-ctrl", "create", "peerpods")):
            with self.subTest(account=account, verb=verb, what=what):
                cluster.kubectl("auth", "can-i", verb, what, "--all-namespaces", "--as", f"system:serviceaccount:{NAMESPACE}:{account}", fails=True)
        # Lists and watches by name are enough for these, and leases are written whole.
        for account, verb, what in (("peerpod-node", "get", "nodes/node-1"), ("peerpod-ctrl", "get", "configmaps/peer-pods-cm"),
                                    ("peerpod-ctrl", "get", "secrets/peer-pods-secret"), ("peerpod-ctrl", "patch", "leases.coordination.k8s.io/" + LEASE)):
            with self.subTest(account=account, verb=verb, what=what):
                cluster.kubectl("auth", "can-i", verb, what, "-n", NAMESPACE, "--as", f"system:serviceaccount:{NAMESPACE}:{account}", fails=True)


class Controllers(Worker):
    ELECTION = ("--leader-elect", "--leader-election-namespace=" + NAMESPACE)

    def holder(self):
        lease = cluster.get("lease", LEASE, NAMESPACE)
        return lease and lease["spec"].get("holderIdentity")

    def test_one_leads_and_hands_over_when_it_is_stopped(self):
        first = self.start_ctrl(*self.ELECTION).ready()
        leader = until("it leads", self.holder)
        second = self.start_ctrl(*self.ELECTION).ready()
        self.assertEqual(self.holder(), leader)
        self.assertEqual(first.stop(), 0)
        until("the other one leads", lambda: self.holder() not in (None, "", leader))
        self.assertEqual(second.stop(), 0)
        self.assertFalse(self.holder())

    def test_settings_and_credentials_are_those_of_the_objects_that_its_role_names(self):
        def opened():
            with contextlib.suppress(FileNotFoundError), open(self.path("provider/.opened"), encoding="ascii") as f:
                return f.read()
        self.addCleanup(cluster.kubectl, "delete", "configmap", "peer-pods-cm", "-n", NAMESPACE)
        cluster.kubectl("create", "configmap", "peer-pods-cm", "-n", NAMESPACE, "--from-literal=CLOUD_PROVIDER=fake",
                        "--from-literal=FAKE_DIRECTORY=" + self.path("provider"))
        cluster.kubectl("create", "secret", "generic", "peer-pods-secret", "-n", NAMESPACE, "--from-literal=FAKE_SECRET=s3cret")
        self.start_ctrl(PEERPODS_NAMESPACE=NAMESPACE).ready()
        until("the provider has begun", lambda: opened() == "open secret\n")
        cluster.kubectl("delete", "secret", "peer-pods-secret", "-n", NAMESPACE)
        until("it begins without it", lambda: opened() == "open secret\nopen no-secret\n")

    def test_what_happened_while_it_could_not_look_is_seen(self):
        """Its watch is too old by then: the storage has forgotten, and the server says 410."""
        self.start_ctrl().ready()
        self.lose_a_node_with_a_pod_vm()
        ctrl = self.controllers[0].process
        ctrl.send_signal(signal.SIGSTOP)
        delete_pod("web")
        until("the collector has marked it", lambda: "deletionTimestamp" in self.peerpod()["metadata"])
        cluster.down()
        cluster.compact()
        cluster.up()
        ctrl.send_signal(signal.SIGCONT)
        until("it is gone", lambda: not self.peerpod())
        self.assertEqual(self.instances(), [])


class Admission(Case):
    def setUp(self):
        super().setUp()
        self.directory = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.directory)
        self.port = lasting_port()
        make_authority(self.directory)
        for name in "crt", "key":
            os.rename(f"{self.directory}/server.{name}", f"{self.directory}/tls.{name}")
        self.webhook = None
        self.addCleanup(self.end_webhook)
        self.start_webhook()
        configuration = next(o for o in load("manifests", "webhook.yaml") if o["kind"] == "MutatingWebhookConfiguration")
        with open(self.directory + "/ca.crt", "rb") as f:
            configuration["webhooks"][0]["clientConfig"] = {"url": f"https://127.0.0.1:{self.port}/mutate-v1-pod", "caBundle": base64.b64encode(f.read()).decode()}
        (runtime_class,) = load("manifests", "runtimeclass.yaml")
        # The account of a pod is looked up by an admission plugin of the server's own; so is the class's overhead.
        cluster.kubectl("create", "-f", "-", obj=[runtime_class, configuration])
        self.addCleanup(cluster.kubectl, "delete", "runtimeclass", "kata-remote")
        self.addCleanup(cluster.kubectl, "delete", "mutatingwebhookconfiguration", configuration["metadata"]["name"])
        until("the server asks it", lambda: RESOURCE in json.dumps(self.made(self.try_pod())))

    def start_webhook(self):
        self.webhook = subprocess.Popen([WEBHOOK, f"--listen=127.0.0.1:{self.port}", "--cert-dir=" + self.directory])

    def end_webhook(self):
        if self.webhook:
            self.webhook.terminate()
            self.assertEqual(self.webhook.wait(PATIENCE), 0)
            self.webhook = None

    @staticmethod
    def try_pod(runtime_class="kata-remote", **resources):
        return pod("web", runtimeClassName=runtime_class, containers=[{"name": "c", "image": "i", "resources": resources}])

    @staticmethod
    def made(obj, *options):
        return json.loads(cluster.kubectl("create", "-o", "json", "-f", "-", *(options or ["--dry-run=server"]), obj=obj))

    def test_a_pod_of_the_class_asks_for_a_pod_vm_and_for_nothing_else(self):
        p = self.made(self.try_pod(limits={"cpu": "1500m", "memory": "1Gi"}), "--save-config=false")
        self.assertEqual(p["spec"]["containers"][0]["resources"], {"limits": {RESOURCE: "1"}, "requests": {RESOURCE: "1"}})
        self.assertEqual(p["spec"]["overhead"], {"cpu": "250m", "memory": "120Mi"})
        annotations = p["metadata"]["annotations"]
        self.assertEqual(annotations["io.katacontainers.config.hypervisor.default_vcpus"], "2")
        self.assertEqual(annotations["io.katacontainers.config.hypervisor.default_memory"], "1024")

    def test_a_pod_of_the_class_claims_no_device_of_its_node(self):
        p = self.try_pod(claims=[{"name": "gpu"}])
        p["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "g"}]
        p = self.made(p)
        self.assertNotIn("laim", json.dumps(p["spec"]))
        self.assertEqual(p["spec"]["containers"][0]["resources"], {"limits": {RESOURCE: "1"}, "requests": {RESOURCE: "1"}})

    def test_a_pod_of_another_class_is_not_asked_about(self):
        self.end_webhook()
        p = self.made(pod("web"))
        self.assertNotIn(RESOURCE, json.dumps(p))

    def test_without_the_webhook_no_pod_of_the_class_is_made(self):
        self.end_webhook()
        self.assertIn("failed calling webhook", cluster.kubectl("create", "-f", "-", obj=self.try_pod(), fails=True))
        self.start_webhook()
        until("it is there again", lambda: subprocess.run(
            ["kubectl", f"--kubeconfig={cluster.path}/admin.kubeconfig", "create", "--dry-run=server", "-f", "-"], input=json.dumps(self.try_pod()), text=True,
            capture_output=True, check=False, timeout=PATIENCE).returncode == 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + os.environ.get("TESTS", "").split(), verbosity=2)
