# SPDX-License-Identifier: Apache-2.0
"""A CSI driver, peerpod-csi in front of it, and what both need: the driver and all clients are gRPC's C core, messages are read and written by
Google's protobuf, the API server is kube_api.py, and the VMs are those of the real adaptor on a private bus (adaptor-fakes.c, provider-fake.c)."""
import concurrent.futures
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

import grpc
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

import kube_api
from common_rig import PATIENCE, bus_configuration, connects, start_bus, until

SOURCE = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
GROUP = "confidentialcontainers.org/v1alpha1"
NAMESPACE = "kube-system"
NODE = "worker-1"


def load_messages():
    with tempfile.NamedTemporaryFile() as f:
        subprocess.run(["protoc", f"-I{SOURCE}/src/proto", "--descriptor_set_out=" + f.name, "csi-v1.proto"], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(f.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return {m.name: message_factory.GetMessageClass(pool.FindMessageTypeByName("csi.v1." + m.name)) for m in files.file[0].message_type}


MESSAGES = load_messages()


def reuse_authority(directory, make=kube_api.make_authority, cache=tempfile.TemporaryDirectory()):
    """the same certificates for all tests of a program"""
    if not os.listdir(cache.name):
        make(cache.name)
    shutil.copytree(cache.name, directory, dirs_exist_ok=True)


kube_api.make_authority = reuse_authority


class Driver(grpc.GenericRpcHandler):
    """A CSI driver that keeps account of what is attached and mounted, and objects to any order of calls that would lose data."""

    def __init__(self, path):
        self.path = path
        self.calls, self.lock = [], threading.Lock()
        self.volumes, self.attached, self.staged, self.published = {}, {}, {}, {}
        self.failures, self.held, self.answers = {}, {}, {}
        self.secrets = {}
        self.server = None
        self.start()

    def start(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(32), handlers=[self],
                                  options=[("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)])
        self.server.add_insecure_port("unix:" + self.path)
        self.server.start()

    def stop(self):
        self.server.stop(0).wait()

    def service(self, handler_call_details):
        method = handler_call_details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self.serve(method, data, context))

    def names(self):
        with self.lock:
            return [name for name, _ in self.calls]

    def requests(self, method):
        with self.lock:
            return [request for name, request in self.calls if name == method]

    def fail(self, method, code, text="no", times=1):
        self.failures[method] = [code, text, times]

    def hold(self, method):
        self.held[method] = threading.Event()
        return self.held[method]

    def serve(self, method, data, context):
        kind = MESSAGES.get(method + "Request")
        request = kind.FromString(data) if kind else data
        with self.lock:
            self.calls.append((method, request))
        if method in self.held:
            self.held[method].wait(PATIENCE)
        failure = self.failures.get(method)
        if failure and failure[2] > 0:
            failure[2] -= 1
            context.abort(failure[0], failure[1])
        if method in self.answers:
            return self.answers[method](data, context)
        handler = getattr(self, method, None)
        if handler is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {method}")
        return handler(request, context) or b""

    # ---- the state of the world ----

    def GetPluginInfo(self, _request, _context):
        return b"\x0a\x0fcsi.test.driver\x12\x011"

    def Probe(self, _request, _context):
        return b""

    def CreateVolume(self, request, context):
        if "peerpod" in request.parameters:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown parameter peerpod")
        with self.lock:
            volume_id = self.volumes.setdefault(request.name, "vol-" + request.name)
        return MESSAGES["CreateVolumeResponse"](volume={"volume_id": volume_id}).SerializeToString()

    def DeleteVolume(self, request, context):
        if request.volume_id in self.attached:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "in use")
        with self.lock:
            self.volumes = {n: v for n, v in self.volumes.items() if v != request.volume_id}

    def ControllerPublishVolume(self, request, context):
        self.check_context(request, context)
        with self.lock:
            at = self.attached.setdefault(request.volume_id, request.node_id)
            self.secrets["ControllerPublishVolume"] = dict(request.secrets)
        if at != request.node_id:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"attached to {at}")
        return MESSAGES["ControllerPublishVolumeResponse"](publish_context={"device-path": "/dev/sdx", "lun": "7"}).SerializeToString()

    def ControllerUnpublishVolume(self, request, context):
        if request.volume_id in self.staged or request.volume_id in self.published:
            context.abort(grpc.StatusCode.DATA_LOSS, "detached while it is mounted")
        with self.lock:
            if self.attached.get(request.volume_id) == request.node_id:
                del self.attached[request.volume_id]
            self.secrets["ControllerUnpublishVolume"] = dict(request.secrets)

    def NodeStageVolume(self, request, context):
        self.check_context(request, context)
        if request.volume_id in self.attached and request.publish_context.get("lun") != "7":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is not my publish_context")
        with self.lock:
            self.staged[request.volume_id] = request.staging_target_path
            self.secrets["NodeStageVolume"] = dict(request.secrets)

    def NodePublishVolume(self, request, context):
        self.check_context(request, context)
        with self.lock:
            self.published[request.volume_id] = request.target_path
            self.secrets["NodePublishVolume"] = dict(request.secrets)

    def NodeUnpublishVolume(self, request, _context):
        with self.lock:
            self.published.pop(request.volume_id, None)

    def NodeUnstageVolume(self, request, context):
        if request.volume_id in self.published:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "still published")
        with self.lock:
            self.staged.pop(request.volume_id, None)

    @staticmethod
    def check_context(request, context):
        if "peerpod" in request.volume_context:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown attribute peerpod")


class Caller:
    """kubelet or a sidecar: gRPC's C core on a wrapper's socket"""

    def __init__(self, path):
        self.channel = grpc.insecure_channel("unix:" + path, options=[
            ("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20), ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_reconnect_backoff_ms", 100), ("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20)])

    def raw(self, path, data=b"", timeout=PATIENCE):
        return self.channel.unary_unary(path)(data, timeout=timeout, wait_for_ready=True)

    @staticmethod
    def request(method, fields):
        service = "Node" if method.startswith("Node") else "Controller"
        return f"/csi.v1.{service}/{method}", MESSAGES[method + "Request"](**fields).SerializeToString()

    def begin(self, method, **fields):
        path, data = self.request(method, fields)
        return self.channel.unary_unary(path).future(data, timeout=PATIENCE, wait_for_ready=True)

    def call(self, method, timeout=PATIENCE, **fields):
        data = self.raw(*self.request(method, fields), timeout)
        kind = MESSAGES.get(method + "Response")
        return kind.FromString(data) if kind else data

    def until_ok(self, method, **fields):
        """as kubelet and sidecars do: again until it works"""
        return until(method + " works", lambda: self.ok(method, **fields))

    def ok(self, method, **fields):
        try:
            self.call(method, **fields)
            return True
        except grpc.RpcError as e:
            if e.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
                raise
            return False

    def close(self):
        self.channel.close()


class Rig(unittest.TestCase):
    programs = {}           # by name; filled by the test's main

    def setUp(self):
        self.failed_before = len(self._outcome.result.failures) + len(self._outcome.result.errors)
        self.dir = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.dir)
        self.processes = {}
        self.callers = {}
        self.addCleanup(self.end_all)
        self.api = kube_api.KubeApi(self.path("kube"), [SOURCE + "/install/crds/peerpodvolumes.yaml"])
        self.addCleanup(self.api.close)
        self.grant()
        self.environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS="unix:path=" + self.path("bus"))
        self.environment.pop("KUBECONFIG", None)
        self.driver = self.guest_driver = None

    def grant(self):
        """Each role may do what install/rbac gives it; the pod's account what the manual has its owner give it."""
        def bind(namespace, kind, role):
            return {"kind": "RoleBinding", "metadata": {"namespace": namespace}, "roleRef": {"kind": kind, "name": role},
                    "subjects": [{"kind": "ServiceAccount", "name": "podvm", "namespace": "default"}]}
        with open(self.path("pod.yaml"), "w", encoding="utf-8") as f:
            yaml.safe_dump_all([bind(NAMESPACE, "Role", "peerpod-csi-node"), bind("default", "ClusterRole", "peerpod-csi-podvm")], f)
        self.api.grant(SOURCE + "/install/rbac/peerpod-csi.yaml", self.path("pod.yaml"))
        self.api.user("controller", f"system:serviceaccount:{NAMESPACE}:peerpod-csi-controller")
        self.api.user("node", f"system:serviceaccount:{NAMESPACE}:peerpod-csi-node")
        self.api.user("podvm", "system:serviceaccount:default:podvm")

    def grant_secrets(self, *names):
        for account in f"system:serviceaccount:{NAMESPACE}:peerpod-csi-controller", "system:serviceaccount:default:podvm":
            self.api.rules.append((account, None, {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get"]}))
            self.api.rules.append((account, NAMESPACE, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": list(names)}))

    def path(self, name):
        return os.path.join(self.dir, name)

    # ---- processes ----

    def spawn(self, name, *argv):
        log = open(self.path(name + ".log"), "ab")
        self.processes[name] = subprocess.Popen(argv, env=self.environment, stderr=log, stdout=log)
        log.close()
        return self.processes[name]

    def log(self, name):
        with open(self.path(name + ".log"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def end(self, name, sig=signal.SIGTERM):
        p = self.processes.pop(name)
        p.send_signal(sig)
        status = p.wait(PATIENCE)
        if sig == signal.SIGTERM and name in ("controller", "node", "podvm"):
            self.assertEqual(status, 0, self.log(name))
        return status

    def end_all(self):
        for caller in self.callers.values():
            caller.close()
        for driver in self.driver, self.guest_driver:
            if driver:
                driver.stop()
        for name in reversed(list(self.processes)):
            self.end(name, signal.SIGKILL)
        if len(self._outcome.result.failures) + len(self._outcome.result.errors) > self.failed_before:
            for name in "controller", "node", "podvm":
                if os.path.exists(self.path(name + ".log")):
                    print(f"---- {name}\n" + self.log(name), file=sys.stderr)

    def start_driver(self):
        self.driver = Driver(self.path("driver.sock"))

    def start_guest_driver(self):
        self.guest_driver = Driver(self.path("guest-driver.sock"))

    def start(self, role, *options, pod="web", uid="uid-1", boot=None, name=None):
        """@boot: uuid, the podvm role's VM; @name: of a replica"""
        name = name or role
        sock = self.path(name + ".sock")
        argv = [self.programs.get(role) or self.programs["podvm"], "--role=" + role, "--endpoint=" + sock, "--namespace=" + NAMESPACE, "--kubeconfig=" + self.api.kubeconfig(role),
                "--target-endpoint=" + self.path("guest-driver.sock" if role == "podvm" else "driver.sock"),
                "--vm-id-information-endpoint=" + self.path("hypervisor.sock"), "--direct-volumes-dir=" + self.path("records")]
        # So that one that was killed need not wait for its own lease to end.
        argv.append("--pod-uid=uid-of-" + name if role == "controller" else "--node-name=" + NODE)
        if role == "podvm":
            argv += [f"--pod-name={pod}", "--pod-namespace=default", f"--pod-uid={uid}"]
        if boot:
            with open(self.path("boot_id"), "w", encoding="ascii") as f:
                f.write(boot + "\n")
            argv = ["unshare", "--mount", "--propagation=private", "sh", "-ec", 'mount --bind "$0" /proc/sys/kernel/random/boot_id; exec "$@"',
                    self.path("boot_id"), *argv]
        self.spawn(name, *argv, *options)
        until(name + " listens", lambda: connects(sock) or self.processes[name].poll() is not None)
        self.assertIsNone(self.processes[name].poll(), self.log(name))
        if name not in self.callers:
            self.callers[name] = Caller(sock)
        return self.callers[name]

    # ---- VMs ----

    def start_adaptor(self):
        start_bus(functools.partial(self.spawn, "bus"), self.dir, bus_configuration(self.dir))
        os.mkdir(self.path("provider"))
        p = self.programs
        self.spawn("fakes", p["fakes"], self.dir)
        self.spawn("providerd", p["providerd"], "--provider", "fake", "--module-directory", p["modules"],
                   "--state-directory", self.path("provider"), "--socket", self.path("provider.sock"), "--peer-user", "root",
                   "--fake-directory", self.path("provider"))
        for name in "provider.sock", "tunnel.sock":
            until("its service listens on " + name, lambda name=name: connects(self.path(name)))
        self.spawn("adaptor", p["adaptor"], "--socket=" + self.path("hypervisor.sock"), "--state-dir=" + self.path("state"),
                   "--runtime-dir=" + self.path("run"), "--pods-dir=" + self.path("pods"), "--tunnel-socket=" + self.path("tunnel.sock"),
                   "--provider-socket=" + self.path("provider.sock"), "--node-name=" + NODE, "--start-timeout=60s")
        until("the adaptor listens", lambda: connects(self.path("hypervisor.sock")))

    def hypervisor(self, *argv):
        p = subprocess.run([self.programs["ctl"], "hypervisor", *argv, "--socket", self.path("hypervisor.sock")], env=self.environment,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
        self.assertEqual(p.returncode, 0, p.stdout)

    def create_vm(self, sandbox, pod="web"):
        self.hypervisor("create-vm", sandbox, "--netns", "/run/netns/cni-test", "--pod-name", pod, "--pod-namespace", "default")
        self.hypervisor("start-vm", sandbox)

    # ---- objects ----

    def resource(self, api_version, plural):
        return self.api.store.resources[api_version, plural]

    def volumes(self):
        return {o["metadata"]["name"]: o for o in self.api.store.items(self.resource(GROUP, "peerpodvolumes"), NAMESPACE)}

    def volume(self, name):
        return self.volumes()[name]

    def state(self, name):
        return self.volume(name).get("status", {}).get("state", "")

    def until_state(self, name, *states):
        until(f"volume {name} is {states}", lambda: self.state(name) in states)

    def set_state(self, name, state):
        self.api.store.patch(self.resource(GROUP, "peerpodvolumes"), NAMESPACE, name, "application/merge-patch+json", {"status": {"state": state}}, "status")

    def create_object(self, api_version, plural, ns, obj):
        return self.api.store.create(self.resource(api_version, plural), ns, obj)


def capability(fs_type="ext4", block=False):
    access = {"mode": "SINGLE_NODE_WRITER"}
    return {"block": {}, "access_mode": access} if block else {"mount": {"fs_type": fs_type}, "access_mode": access}


def cached(obj, field, kind):
    """a request that an object keeps, read by protobuf's own JSON parser"""
    return json_format.Parse(obj["spec"][field], MESSAGES[kind]())


def main(names):
    Rig.programs = dict(zip(names, map(os.path.abspath, sys.argv[1:1 + len(names)])))
    unittest.main(argv=[sys.argv[0], *sys.argv[1 + len(names):]], verbosity=2, warnings="default" if os.environ.get("PYTHONWARNINGS") else "ignore")
