# SPDX-License-Identifier: Apache-2.0
"""peerpod-node between the real adaptor and provider service on a private bus, with doubles of systemd and tunneld (adaptor-fakes.c):
SCRIPT NODE ADAPTOR PROVIDERD MODULE-DIRECTORY FAKES PEERPODCTL INSTALL-DIRECTORY INTERFACE-XML …"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from common_rig import PATIENCE, bus_configuration, connects, start_bus, until

NODE, ADAPTOR, PROVIDERD, MODULES, FAKES, PEERPODCTL, INSTALL, INTERFACE = [os.path.abspath(a) for a in sys.argv[1:9]]

BUS_NAME = "org.confidentialcontainers.PeerPodNode1"
BUS_PATH = "/org/confidentialcontainers/PeerPodNode1"
RESOURCE, OWNER = "kata.peerpods.io/vm", "kata.peerpods.io/caa-owner"
FINALIZER = "peer.pod/finalizer"
ID, ID2 = "a" * 64, "b" * 64


class WorkerRig(unittest.TestCase):
    """self.kubeconfig is to be had before a node is started."""
    node_name = "node-1"

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        self.processes = []
        self.node = self.adaptor = None
        self.addCleanup(shutil.rmtree, self.dir)
        self.addCleanup(self.end_all)
        os.mkdir(self.path("provider"))
        self.environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS="unix:path=" + self.path("bus"), PEERPOD_LOG_LEVEL="debug")
        self.environment.pop("KUBECONFIG", None)
        start_bus(self.spawn, self.dir, self.bus_config())

    def bus_config(self):
        return bus_configuration(self.dir)

    # ---- processes ----

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name) + ".new", "w", encoding="ascii") as f:
            f.write(text)
        os.rename(self.path(name) + ".new", self.path(name))

    def read(self, name):
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def spawn(self, *argv, log=None):
        stderr = open(self.path(log), "ab") if log else None    # pylint: disable=consider-using-with
        p = subprocess.Popen(argv, env=self.environment, stderr=stderr)
        if stderr:
            stderr.close()
        self.processes.append(p)
        return p

    def end(self, p, sig=signal.SIGTERM):
        p.send_signal(sig)
        status = p.wait(PATIENCE)
        self.processes.remove(p)
        self.assertIn(status, (0, -sig), self.read("node.log") + self.read("adaptor.log"))

    def end_all(self):
        if self._outcome.result.errors or self._outcome.result.failures:
            print(self.read("node.log")[-6000:], self.read("adaptor.log")[-2000:], file=sys.stderr)
        for p in reversed(list(self.processes)):
            self.end(p)

    def on_bus(self, name):
        return subprocess.run(["busctl", "--system", "status", name], env=self.environment, capture_output=True, check=False).returncode == 0

    def property(self, name):
        p = subprocess.run(["busctl", "--system", "--json=short", "get-property", BUS_NAME, BUS_PATH, BUS_NAME, name], env=self.environment,
                           capture_output=True, check=False)
        return json.loads(p.stdout)["data"] if p.returncode == 0 else None

    def start_node(self, *options, ready=True):
        self.node = self.spawn(NODE, "--kubeconfig=" + self.kubeconfig, "--state-dir=" + self.path("node"), "--node-name=" + self.node_name, *options,
                               log="node.log")
        if ready:
            until("peerpod-node is on the bus", lambda: self.property("Node") == self.node_name)

    def end_node(self, sig=signal.SIGTERM):
        self.end(self.node, sig)
        until("it has left the bus", lambda: not self.on_bus(BUS_NAME))

    def start_services(self):
        self.spawn(FAKES, self.dir)
        self.spawn(PROVIDERD, "--provider", "fake", "--module-directory", MODULES, "--state-directory", self.path("provider"),
                   "--socket", self.path("provider.sock"), "--peer-user", "root", log="provider.log")
        for name in "provider.sock", "tunnel.sock":
            until("its service listens on " + name, lambda name=name: connects(self.path(name)))

    def start_adaptor(self):
        self.adaptor = self.spawn(
            ADAPTOR, "--socket=" + self.path("hypervisor.sock"), "--state-dir=" + self.path("state"), "--runtime-dir=" + self.path("run"),
            "--pods-dir=" + self.path("pods"), "--tunnel-socket=" + self.path("tunnel.sock"),
            "--provider-socket=" + self.path("provider.sock"), "--node-name=" + self.node_name, "--start-timeout=60s", log="adaptor.log")
        until("the adaptor is on the bus", lambda: connects(self.path("hypervisor.sock")) and self.on_bus("org.confidentialcontainers.PeerPod1"))
        # What it is told of the provider and of peerpod-node comes a moment later.
        until("it knows its provider", lambda: self.adaptor_property("Provider") == "fake")

    def adaptor_property(self, name):
        p = subprocess.run(["busctl", "--system", "--json=short", "get-property", "org.confidentialcontainers.PeerPod1",
                            "/org/confidentialcontainers/PeerPod1", "org.confidentialcontainers.PeerPod1.Manager", name], env=self.environment,
                           capture_output=True, check=False)
        return json.loads(p.stdout)["data"] if p.returncode == 0 else None

    def end_adaptor(self, sig=signal.SIGTERM):
        self.end(self.adaptor, sig)

    def restart_adaptor(self, sig=signal.SIGTERM):
        self.end_adaptor(sig)
        self.start_adaptor()

    def restart_node(self, *options, sig=signal.SIGKILL):
        self.end_node(sig)
        self.start_node(*options)

    # ---- the shim ----

    def hypervisor(self, *argv, fails=False):
        p = subprocess.run([PEERPODCTL, "hypervisor", *argv, "--socket", self.path("hypervisor.sock")], env=self.environment,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
        self.assertEqual(p.returncode != 0, fails, p.stdout)
        return p.stdout.decode()

    def create(self, sandbox=ID, pod="web", **arguments):
        return self.hypervisor("create-vm", sandbox, "--netns", "/run/netns/cni-test", "--pod-name", pod, "--pod-namespace", "default", **arguments)

    def start(self, sandbox=ID):
        self.hypervisor("start-vm", sandbox)

    def stop(self, sandbox=ID):
        self.hypervisor("stop-vm", sandbox)

    def calls(self):
        return self.read("provider/calls")

    def auth(self, sandbox=ID):
        """auth.json as the pod VM gets it, or None"""
        found = re.search(r"  - path: /run/peerpod/auth\.json\n    content: \|\n *(.*)\n", self.read(f"run/{sandbox}/user-data"))
        return json.loads(found.group(1)) if found else None

    def records(self):
        return sorted(f for f in os.listdir(self.path("node/sandboxes")) if f.endswith(".json"))
