#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A sandbox's life through the real adaptor and the real provider service, at a cloud's peer (cloud_peers.py): what Kata's shim asks of the
hypervisor socket becomes a machine at the cloud, and its end leaves nothing there. systemd, polkit and tunneld are doubles (adaptor-fakes.c).

Usage: cloud-chain-test.py PROVIDERD ADAPTOR FAKES PEERPODCTL MODULE.so [PART OF A CASE'S NAME]   (run by tests/peers/python)"""
import contextlib
import fcntl
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import yaml

sys.dont_write_bytecode = True
import cloud_peers
import cloud_rig
import common_rig
from cloud_rig import PATIENCE, wait_for

PROVIDERD, ADAPTOR, FAKES, PEERPODCTL, MODULE = sys.argv[1:6]
NAME, ROOT = "org.confidentialcontainers.PeerPod1", "/org/confidentialcontainers/PeerPod1"
SANDBOX, NODE = "0123456789abcdef" * 4, "node-1"


class Chain:
    def __init__(self, cloud, stack):
        self.cloud, self.stack = cloud, stack
        self.directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp"))
        self.environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR") or k.endswith("SAN_OPTIONS")}
        self.environment["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=" + self.path("bus")
        self.log = stack.enter_context(open(self.path("log"), "w+b"))
        self.running = {}
        stack.callback(self.end)

        common_rig.start_bus(functools.partial(self.spawn, "dbus"), self.directory, common_rig.bus_configuration(self.directory))
        self.spawn("fakes", FAKES, self.directory)
        self.wait_for_socket("tunnel.sock")
        # As systemd does: the socket is there before the service, and stays when the service dies.
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(self.path("provider.sock"))
        listener.listen(16)
        self.listener = fcntl.fcntl(listener, fcntl.F_DUPFD, 10)
        stack.callback(os.close, self.listener)
        self.start_provider()
        self.spawn("adaptor", ADAPTOR, "--socket=" + self.path("hypervisor.sock"), "--state-dir=" + self.path("state"), "--runtime-dir=" + self.path("run"),
                   "--pods-dir=" + self.path("pods"), "--tunnel-socket=" + self.path("tunnel.sock"), "--provider-socket=" + self.path("provider.sock"),
                   "--node-name=" + NODE, "--start-timeout=120s")
        self.wait_for_socket("hypervisor.sock")

    def path(self, name):
        return f"{self.directory}/{name}"

    def spawn(self, name, *argv, **more):
        self.running[name] = subprocess.Popen(argv, env={**self.environment, **more.pop("environment", {})}, stdin=subprocess.DEVNULL, stdout=self.log,
                                              stderr=self.log, **more)

    def wait_for_socket(self, name):
        wait_for(lambda: common_rig.connects(self.path(name)), f"somebody listens on '{name}'")

    def start_provider(self):
        module = pathlib.Path(MODULE).resolve()
        self.spawn("provider", "bash", "-c", f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&{self.listener} {self.listener}<&-', PROVIDERD, "--provider", module.stem,
                   "--module-directory", str(module.parent), "--state-directory", self.path("provider"), "--peer-user", "root",
                   environment=self.cloud.environment(), pass_fds=(self.listener,))

    def kill_provider(self):
        p = self.running.pop("provider")
        p.kill()
        p.wait()

    def end(self):
        """In the order of their dependence; each must end well"""
        failed = []
        for name in ("adaptor", "provider", "fakes", "dbus"):
            if p := self.running.pop(name, None):
                p.terminate()
                if p.wait(PATIENCE) not in (0, -signal.SIGTERM if name in ("dbus", "fakes") else 0):
                    failed.append(f"{name} ended with {p.returncode}")
        if failed or sys.exc_info()[0]:
            self.log.seek(0)
            print(self.log.read().decode(errors="replace"), flush=True)
        assert not failed, failed

    # ---- the shim ----

    def call(self, *argv):
        return subprocess.Popen([PEERPODCTL, "hypervisor", *argv, "--socket", self.path("hypervisor.sock")], env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @staticmethod
    def outcome(call):
        text = call.communicate(timeout=PATIENCE * 2)[0]
        return call.returncode, text

    def do(self, *argv):
        status, text = self.outcome(self.call(*argv))
        assert status == 0, f"{argv}: {text}"

    def create(self):
        self.do("create-vm", SANDBOX, "--netns", "/run/netns/cni-test", "--pod-name", "web", "--pod-namespace", "default")

    # ---- what there is ----

    def sandbox(self):
        """The pod VM's properties on the bus; {} if there is no such sandbox"""
        r = subprocess.run(["busctl", "--address=unix:path=" + self.path("bus"), "--json=short", "call", NAME, ROOT, "org.freedesktop.DBus.ObjectManager",
                            "GetManagedObjects"], env=self.environment, stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
        objects = [o[f"{NAME}.PodVM"] for o in json.loads(r.stdout)["data"][0].values() if f"{NAME}.PodVM" in o]
        assert len(objects) <= 1, objects
        return {k: v["data"] for k, v in objects[0].items()} if objects else {}

    def left(self):
        """What is left of a sandbox, anywhere: a text"""
        files = [f"{d}/{n}" for d in ("state/sandboxes", "run", "pods") if os.path.isdir(self.path(d)) for n in os.listdir(self.path(d)) if not n.startswith(".")]
        return " ".join(filter(None, [self.cloud.left(), *files]))

    def wait_until_nothing_is_left(self):
        try:
            wait_for(lambda: not self.left() and not self.sandbox(), "nothing is left of the sandbox")
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.left()} {self.sandbox()}") from None
        assert "PRIVATE KEY" not in pathlib.Path(self.path("log")).read_text(errors="replace")


@contextlib.contextmanager
def running():
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(cloud_peers.open(pathlib.Path(MODULE).stem))
        yield cloud, Chain(cloud, stack)


def a_sandbox_runs_at_the_cloud_and_leaves_nothing():
    with running() as (cloud, chain):
        chain.create()
        assert not cloud.machines() and chain.sandbox()["State"] == "planned"
        chain.do("start-vm", SANDBOX)
        (machine,) = cloud.machines()
        sandbox = chain.sandbox()
        assert sandbox["State"] == "running" and sandbox["InstanceId"] == machine.id and sandbox["InstanceName"] == machine.name, (sandbox, machine)
        assert sandbox["Addresses"] and set(sandbox["Addresses"]) == machine.addresses, (sandbox["Addresses"], machine.addresses)
        assert cloud.owner(SANDBOX, NODE).items() <= machine.tags.items(), machine.tags
        check_user_data(machine.user_data)
        chain.do("stop-vm", SANDBOX)
        chain.wait_until_nothing_is_left()
        assert cloud.n_created() == 1


def check_user_data(data):
    """Its file apf.json has this pod's network, and what the VM's end of the agent's connection needs"""
    assert data.startswith(b"#cloud-config\n"), data[:40]
    (text,) = [f["content"] for f in yaml.safe_load(data)["write_files"] if f["path"] == "/run/peerpod/apf.json"]
    apf = json.loads(text)
    assert apf["pod-network"]["podip"] == "10.128.0.2/24" and apf["pod-network"]["vxlan-id"] == 555007 and apf["pod-name"] == "web", apf
    assert "BEGIN CERTIFICATE" in apf["tls-server-cert"] and "PRIVATE KEY" in apf["tls-server-key"] and "BEGIN CERTIFICATE" in apf["tls-client-ca"]


def start_and_kill_provider(cloud, chain):
    """The StartVM that has got as far as the cloud"""
    cloud.hold()
    chain.create()
    start = chain.call("start-vm", SANDBOX)
    wait_for(cloud.machines, "the cloud has been asked for a machine")
    chain.kill_provider()
    assert start.poll() is None, start.communicate()
    return start


def a_provider_service_killed_in_a_create_finishes_it_in_its_next_life():
    with running() as (cloud, chain):
        start = start_and_kill_provider(cloud, chain)
        cloud.release()
        chain.start_provider()
        status, text = chain.outcome(start)
        assert status == 0, text
        assert len(cloud.machines()) == 1 and cloud.n_created() == 1 and chain.sandbox()["State"] == "running"
        chain.do("stop-vm", SANDBOX)
        chain.wait_until_nothing_is_left()


def a_stop_after_such_a_kill_leaves_nothing():
    with running() as (cloud, chain):
        start = start_and_kill_provider(cloud, chain)
        stop = chain.call("stop-vm", SANDBOX)
        status, text = chain.outcome(start)
        assert status != 0, text
        cloud.release()
        chain.start_provider()
        assert chain.outcome(stop)[0] == 0
        chain.wait_until_nothing_is_left()
        assert cloud.n_created() == 1


if __name__ == "__main__":
    cloud_rig.main([a_sandbox_runs_at_the_cloud_and_leaves_nothing, a_provider_service_killed_in_a_create_finishes_it_in_its_next_life,
                    a_stop_after_such_a_kill_leaves_nothing], sys.argv[6] if len(sys.argv) > 6 else None)
