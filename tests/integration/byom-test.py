#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Provider byom against the sshds and the Kubernetes API of byom_rig.py.

Usage: byom-test.py PROVIDERD BYOM.SO [CASE]. Runs in network and mount namespaces of its own, where the VMs are addresses of the loopback."""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import cloud_rig
from byom_rig import MAP, ROOT, TOKEN, USER, Api, Vm, connects, host_key, run, set_up, settings
from cloud_rig import Daemon, Error, wait_for

PROVIDERD, MODULE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
ONLY = sys.argv[3] if len(sys.argv) > 3 else None
if not os.environ.get("BYOM_TEST_INSIDE"):
    os.execvpe("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private", sys.executable, __file__,
                           PROVIDERD, MODULE, *sys.argv[3:]], {**os.environ, "BYOM_TEST_INSIDE": "1"})


@contextlib.contextmanager
def pool(n=2, args=(), **extra):
    """(daemon, api, VMs)"""
    with contextlib.ExitStack() as stack:
        vms = []
        for i in range(n):
            vms.append(Vm(f"10.77.0.{i + 1}"))
            stack.callback(vms[-1].close)
        api = stack.enter_context(Api())
        yield stack.enter_context(Daemon(PROVIDERD, MODULE, settings(api, f"10.77.0.1-10.77.0.{n}", **extra), args)), api, vms


def fails(kind, function, *args, **kwargs):
    try:
        r = function(*args, **kwargs)
    except Error as e:
        assert e.kind == kind, f"{e}, not {kind}"
        return e.text
    raise AssertionError(f"it succeeds ({r}), and should be {kind}")


def a_pod_gets_a_vm():
    """A pod gets a VM with its user data, whole at first sight; deleting it reboots the VM and frees it"""
    with pool() as (d, api, vms):
        data = b"#cloud-config\n" + b"# much\n" * 150000
        id, type, addresses = d.create("sandbox-a", user_data=data)
        vm = next(v for v in vms if v.address == addresses[0])
        assert id == f"{vm.address}/podvm-sandbox-a-sandbox-a" and type == "byom" and len(addresses) == 1
        wait_for(lambda: vm.user_data, "user data comes")
        assert vm.user_data == [(1, data)], [len(u[1]) for u in vm.user_data]
        assert d.find("node1") == [("sandbox-a", "podvm-sandbox-a", id)] and d.find("node2") == []
        state = api.state()
        entry = state["allocatedIPs"]["podvm-sandbox-a-sandbox-a"]
        assert {"allocationID", "ip", "nodeName", "podName", "allocatedAt"} <= set(entry) and entry["ip"] == vm.address and entry["nodeName"] == "node1"
        assert state["availableIPs"] == [v.address for v in vms if v != vm] and state["version"] == 1 and state["lastUpdated"].endswith("Z")
        assert api.maps[MAP]["metadata"]["labels"]["app.kubernetes.io/component"] == "byom-ip-pool-state"
        assert d.create("sandbox-a", user_data=data)[0] == id and vm.n_boots == 1, "the same again is the same"
        d.delete("sandbox-a", id=id)
        assert vm.n_boots == 2 and not api.allocated() and d.find("node1") == []
        assert sorted(api.state()["availableIPs"]) == [v.address for v in vms]
        d.delete("sandbox-a", id=id)
        assert TOKEN not in d.log() and "PRIVATE" not in d.log()


def connections_are_closed():
    """Nothing is left of connections to VMs that have served"""
    with pool(1) as (d, _, _):
        def descriptors():
            return len(os.listdir(f"/proc/{d.process.pid}/fd"))
        d.create("first")
        d.delete("first")
        before = wait_for(descriptors, "descriptors")
        for i in range(5):
            d.create(f"s{i}")
            d.delete(f"s{i}")
        wait_for(lambda: descriptors() <= before + 2, "no more descriptors than after the first, but for calls that are just ending")


def nodes_share_the_pool():
    """Two nodes that allocate at once never get the same VM, and lose no allocation of each other's"""
    with pool(6) as (d, api, vms), Daemon(PROVIDERD, MODULE, settings(api, "10.77.0.1-10.77.0.6")) as e:
        together = threading.Barrier(2, timeout=1)

        def before_put(q):      # the first writes come at the same time, each worked out without the other
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait()

        d.create("first")       # the map is there
        d.delete("first")
        api.before_put = before_put
        jobs = [(n, x.start(x.create, f"s{i}-{n}", node=n)) for i in range(3) for n, x in (("node1", d), ("node2", e))]
        got = [(n, *j.result(60)) for n, j in jobs]
        api.before_put = None
        assert len({g[3][0] for g in got}) == 6 and api.conflicts > 0, (got, api.conflicts)
        assert len(d.find("node1")) == 3 and len(e.find("node2")) == 3
        assert "free" in fails("Exhausted", d.create, "one-more")
        jobs = [x.start(x.delete, f"s{i}-{n}") for i in range(3) for n, x in (("node1", d), ("node2", e))]
        for j in jobs:
            j.result(60)
        assert not api.left() and all(v.n_boots >= 2 for v in vms)


def not_before_the_reboot():
    """A VM is not free before it is seen to have rebooted; until then the node has it, and deletes it again"""
    with pool(1, ["--delete-timeout", "2s"]) as (d, api, (vm,)):
        d.create("sandbox-a")
        vm.reboots = False
        text = fails("Unavailable", d.delete, "sandbox-a")
        assert "rebooted" in text, text
        assert api.allocated()["podvm-sandbox-a-sandbox-a"]["state"] == "cleaning"
        assert len(d.find("node1")) == 1
        fails("Exhausted", d.create, "sandbox-b")
        vm.reboots = True
        d.delete("sandbox-a")
        assert not api.left() and vm.n_boots == 2
        d.create("sandbox-b")
        d.delete("sandbox-b")


def an_empty_directory_is_no_boot():
    """A VM whose cidata was unmounted, so that nothing is in it, does not count as rebooted"""
    with pool(1, ["--delete-timeout", "2s"]) as (d, api, (vm,)):
        d.create("sandbox-a")
        vm.reboots = False
        shutil.rmtree(vm.cidata)
        vm.cidata.mkdir()
        assert "cidata" in fails("Unavailable", d.delete, "sandbox-a")
        assert api.left() and len(d.find("node1")) == 1
        vm.stop()
        vm.boot()
        vm.reboots = True
        d.delete("sandbox-a")
        assert not api.left() and not list(vm.cidata.iterdir())


def dead_vms_are_passed_over():
    """A VM that does not answer, answers nothing, or has been used and not rebooted is passed over"""
    with pool(3) as (d, api, vms):
        vms[0].stop()
        (vms[1].cidata / "user-data").write_text("another's")
        for i in range(3):
            assert d.create(f"sandbox-{i}")[2] == ["10.77.0.3"]
            d.delete(f"sandbox-{i}")
        (vms[2].cidata / "user-data").write_text("another's")
        try:
            d.create("sandbox-x")
            raise AssertionError("it runs")
        except Error as e:
            assert e.kind in ("FailedPrecondition", "Unavailable"), e
        assert not api.left()
        vms[0].start()


def silence_is_bounded():
    """A VM that takes the connection and says nothing costs SSH_TIMEOUT, and a cancelled create is back at once"""
    with pool(1, VM_POOL_IPS="10.77.1.1", SSH_TIMEOUT="1") as (d, api, _):
        run("ip", "addr", "replace", "10.77.1.1/32", "dev", "lo")
        with socket.socket() as s:
            s.bind(("10.77.1.1", 22))
            s.listen(16)
            start = time.monotonic()
            text = fails("Unavailable", d.create, "sandbox-a")
            assert "SSH_TIMEOUT" in text and time.monotonic() - start < 10, text
            assert not api.left()
    with pool(1, VM_POOL_IPS="10.77.1.1") as (d, api, _), socket.socket() as s:
        s.bind(("10.77.1.1", 22))
        s.listen(16)
        job = d.start(d.create, "sandbox-a")
        wait_for(api.left, "the VM is allocated")
        start = time.monotonic()
        d.delete("sandbox-a")
        fails("Cancelled", job.result, 5)
        assert time.monotonic() - start < 3 and not api.left()


def host_keys():
    """User data goes to a VM of the known key only: by known_hosts, by directory, by address within it; without any it does not start"""
    vm, api = Vm("10.77.0.1", host_key="other"), Api()
    try:
        with api, Daemon(PROVIDERD, MODULE, settings(api, "10.77.0.1")) as d:
            text = fails("Unauthenticated", d.create, "sandbox-a")
            assert "host key SHA256:" in text and not api.left() and not vm.user_data, text
            assert "Accepted publickey" not in vm.log()
        keys = ROOT / "keys"
        keys.mkdir()
        for name, kind in (("any.pub", None), ("10.77.0.1.pub", None), ("10.77.0.2.pub", "Unauthenticated")):
            for f in keys.iterdir():
                f.unlink()
            (keys / name).write_text(host_key("other") + " comment\n")
            env = settings(None, "10.77.0.1", SSH_KNOWN_HOSTS=None, SSH_HOST_KEY_ALLOWLIST_DIR=str(keys))
            with Daemon(PROVIDERD, MODULE, env) as d:
                if kind:
                    fails(kind, d.create, "sandbox-a")
                else:
                    d.create("sandbox-a")
                    d.delete("sandbox-a")
        status, text = cloud_rig.check(PROVIDERD, MODULE, settings(None, "10.77.0.1", SSH_KNOWN_HOSTS=None))
        assert status == 78 and "SSH_KNOWN_HOSTS" in text, text
        with Daemon(PROVIDERD, MODULE, settings(None, "10.77.0.1", SSH_KNOWN_HOSTS=None, SSH_ACCEPT_ANY_HOST_KEY="true")) as d:
            d.create("sandbox-a")
            d.delete("sandbox-a")
            assert "not checked" in d.log()
    finally:
        vm.close()


def damaged_state():
    """A damaged state is not believed and not overwritten; neither is one that may not be read"""
    with pool(1) as (d, api, _):
        d.create("sandbox-a")
        d.delete("sandbox-a")
        for text in ("{", "[]", '{"allocatedIPs": [1]}', '{"allocatedIPs": {"a": {"ip": "x"}}}', '{"allocatedIPs": {"a": null}}'):
            api.maps[MAP]["data"]["allocation-state"] = text
            assert "damaged" in fails("FailedPrecondition", d.create, "sandbox-a")
            fails("FailedPrecondition", d.find, "node1")
            assert api.maps[MAP]["data"]["allocation-state"] == text
        api.maps[MAP]["data"] = {"something": "else"}
        fails("FailedPrecondition", d.create, "sandbox-a")
        api.maps[MAP]["data"] = {"allocation-state": '{"allocatedIPs": null, "availableIPs": ["192.0.2.1"]}'}
        assert d.create("sandbox-a")[2] == ["10.77.0.1"]
        assert api.state()["availableIPs"] == []
        d.delete("sandbox-a")
        api.reset({n: ("status", 403, json.dumps(Api.status(403, "Forbidden", "configmaps is forbidden")[1])) for n in range(9)})
        assert "forbidden" in fails("Unauthenticated", d.create, "sandbox-a")


def others_are_left_alone():
    """An instance of another sandbox is not adopted and not deleted; upstream's allocations are kept, and not reported"""
    with pool(2) as (d, api, vms):
        api.keep(MAP, {"metadata": {"name": MAP}, "data": {"allocation-state": json.dumps({"allocatedIPs": {"pod-1": {
            "allocationID": "pod-1", "ip": "10.77.0.1", "nodeName": "node1", "podName": "pod", "allocatedAt": "2026-01-01T00:00:00Z"}}, "version": 7})}})
        assert d.create("sandbox-a", name="podvm-x")[2] == ["10.77.0.2"] and api.state()["version"] == 8
        fails("AlreadyExists", d.create, "sandbox-b", name="podvm-x")
        fails("FailedPrecondition", d.delete, "sandbox-b", name="podvm-x")
        assert len(d.find("node1")) == 1 and vms[1].n_boots == 1
        d.delete("sandbox-a", name="podvm-x")
        assert list(api.allocated()) == ["pod-1"]


def cut_off():
    """A create that was cut off by the end of the daemon is completed by the next, or removed"""
    with pool(2) as (d, api, vms):
        state = str(ROOT / "cut-off")
        for fault in (0, 1):
            x = Daemon(PROVIDERD, MODULE, settings(api, "10.77.0.1-10.77.0.2"), state=state)
            api.reset({fault: ("delay", 2)} if fault == 0 else {})
            job = x.start(x.create, "sandbox-a")
            wait_for(lambda: api.count > 0 if fault == 0 else api.left(), "it has begun")
            x.kill()
            with contextlib.suppress(Error, OSError):
                job.result(10)
            x.close()
            api.reset()
            found = d.find("node1")
            address = d.create("sandbox-a")[2]
            assert len(d.find("node1")) == 1 and (not found or found[0][2].startswith(address[0])), found
            d.delete("sandbox-a")
            assert not api.left()


def without_kubernetes():
    """Without Kubernetes the pool is this node's, its state a file that outlives the daemon"""
    vm, state = Vm("10.77.0.1"), str(ROOT / "state")
    try:
        with Daemon(PROVIDERD, MODULE, settings(None, " 10.77.0.1 - 10.77.0.1 ,"), state=state) as d:
            id = d.create("sandbox-a")[0]
            d.verify()
        with Daemon(PROVIDERD, MODULE, settings(None, "10.77.0.1"), state=state) as d:
            assert d.find("node1") == [("sandbox-a", "podvm-sandbox-a", id)]
            fails("Exhausted", d.create, "sandbox-b")
            d.delete("sandbox-a")
            assert vm.n_boots == 2
        file = pathlib.Path(state, "byom-pool.json")
        assert file.stat().st_mode & 0o777 == 0o600
        file.write_text("{")
        with Daemon(PROVIDERD, MODULE, settings(None, "10.77.0.1"), state=state) as d:
            fails("FailedPrecondition", d.create, "sandbox-b")
        assert file.read_text() == "{"
    finally:
        vm.close()


def what_vms_lack():
    """What a pool's VMs do not have is refused"""
    with pool(1) as (d, api, _):
        for spec in ({"gpus": 1}, {"multi_nic": True}, {"image": "x"}, {"machine_type": "y"}, {"volumes": ["v"]}):
            fails("FailedPrecondition", d.create, "sandbox-a", **spec)
        assert not api.left()
        assert d.create("sandbox-a", vcpus=2, memory_mib=4096)[1] == "byom"
        d.delete("sandbox-a")


def checks():
    """--check passes where all is well, and says what is not; wrong settings are a configuration's fault"""
    vm = Vm("10.77.0.1")
    try:
        with Api() as api:
            status, text = cloud_rig.check(PROVIDERD, MODULE, settings(api, "10.77.0.1"))
            assert status == 0, text
            assert MAP not in api.maps, "a check writes nothing"
            status, text = cloud_rig.check(PROVIDERD, MODULE, settings(api, "10.77.0.9"))
            assert status == 1 and "10.77.0.9" in text, text
            status, text = cloud_rig.check(PROVIDERD, MODULE, settings(api, "10.77.0.1", SSH_USERNAME="root"))
            assert status == 1, text
            (ROOT / "account" / "token").write_text("old")
            status, text = cloud_rig.check(PROVIDERD, MODULE, settings(api, "10.77.0.1"))
            assert status == 1 and "401" in text and "old" not in text.replace("older", ""), text
            (ROOT / "account" / "token").write_text(TOKEN)
        for env, word in (({"VM_POOL_IPS": "10.77.0.x"}, "10.77.0.x"), ({"VM_POOL_IPS": "10.77.0.9-10.77.0.1"}, "VM_POOL_IPS"),
                          ({"VM_POOL_IPS": "10.77.0.1-fd00::1"}, "VM_POOL_IPS"), ({"VM_POOL_IPS": ""}, "VM_POOL_IPS"),
                          ({"SSH_PRIV_KEY_PATH": "/nonexistent"}, "SSH_PRIV_KEY_PATH"), ({"SSH_PRIV_KEY_PATH": str(ROOT / "client.pub")}, "SSH_PRIV_KEY_PATH"),
                          ({"SSH_HOST_KEY_ALLOWLIST_DIR": "/nonexistent"}, "SSH_HOST_KEY_ALLOWLIST_DIR"), ({"SSH_TIMEOUT": "30s"}, "SSH_TIMEOUT")):
            status, text = cloud_rig.check(PROVIDERD, MODULE, {**settings(None, "10.77.0.1"), **env})
            assert status == 78 and word in text, (env, status, text)
        status, text = cloud_rig.check(PROVIDERD, MODULE, settings(None, "fd00::1-fd00::3,10.77.0.1"))
        assert status == 0, text
    finally:
        vm.close()


def faults():
    """Each fault at each call to the API: either the pod runs, or nothing is left"""
    with pool(2) as (d, api, vms):
        d.create("warm-up")     # the map is there
        d.delete("warm-up")
        results = cloud_rig.run_faults(d, api, api.left)
        ran = [r for r in results if r[2] == "runs"]
        assert len(ran) >= len(results) // 2, results


def cancels():
    """A create that is cancelled at any call to the API is back soon, and nothing is left"""
    with pool(1) as (d, api, vms):
        d.create("warm-up")
        d.delete("warm-up")
        cloud_rig.run_cancels(d, api, api.left, range(2))


class Cutter:
    """Forwards connections to a VM, and resets the first one after so many bytes of the client's"""

    def __init__(self, address, to):
        run("ip", "addr", "replace", address + "/32", "dev", "lo")
        self.to, self.cut_after, self.most = to, None, 0
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((address, 22))
        self.listener.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            limit, self.cut_after = self.cut_after, None
            threading.Thread(target=self.forward, args=(s, limit), daemon=True).start()

    def forward(self, s, limit):
        with s, socket.socket() as t:
            try:
                t.connect((self.to, 22))
            except OSError:
                return
            done, n = False, 0
            while not done:
                for a, b in ((s, t), (t, s)):
                    with contextlib.suppress(BlockingIOError):
                        a.setblocking(False)
                        try:
                            data = a.recv(65536)
                        except BlockingIOError:
                            continue
                        except OSError:
                            data = b""
                        a.setblocking(True)
                        b.setblocking(True)
                        if a is s:
                            if limit is not None and n + len(data) >= limit:
                                data, done = data[:limit - n], True
                            n += len(data)
                            self.most = max(self.most, n)
                        done = done or not data
                        with contextlib.suppress(OSError):
                            b.sendall(data)
                        if done:
                            break
                else:
                    time.sleep(0.001)
            if limit is not None:
                wait_quiet(t)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def wait_quiet(t):
    """Until the VM has done what it has got, or half a second"""
    t.setblocking(True)
    t.settimeout(0.1)
    with contextlib.suppress(OSError):
        while t.recv(65536):
            pass


def cut_anywhere():
    """A connection that is cut anywhere, before or after the VM was touched, leaves nothing: no allocation, and no VM that was used and not rebooted"""
    with pool(1, VM_POOL_IPS="10.77.1.1") as (d, api, (vm,)):
        proxy = Cutter("10.77.1.1", "10.77.0.1")
        d.create("warm-up")
        size = proxy.most
        d.delete("warm-up")
        outcomes = []
        for i, n in enumerate([1, *range(size // 16, size + 64, size // 16)]):
            proxy.cut_after = n
            try:
                d.create(f"sandbox-{i}")
                outcomes.append("runs")
                d.delete(f"sandbox-{i}")
            except Error as e:
                outcomes.append(e.kind)
                assert e.kind == "Unavailable", (n, e)
            assert not api.left(), (n, outcomes, api.left())
            left = [f.name for f in vm.cidata.iterdir() if f.name != ".peerpod-probe"]      # empty, and says nothing
            assert not left, (n, outcomes, left)
        assert 3 <= vm.n_boots - 2 < len(outcomes) and outcomes[0] != "runs", (vm.n_boots, outcomes)     # some before it was touched, some after
        proxy.listener.shutdown(socket.SHUT_RDWR)       # accept() in the other thread would keep it
        proxy.listener.close()


def crowd():
    """100 creates at once, with an API that throttles: each gets a VM of its own"""
    n = 100
    vm = Vm("10.77.1.1")
    try:
        # One sshd for all: Match LocalAddress makes each address a VM of its own.
        vm.alive = False
        vm.thread.join()
        vm.stop()
        lines = ["Port 22", f"HostKey {ROOT / 'vm'}", "PidFile none", f"AuthorizedKeysFile {ROOT / 'client.pub'}", "StrictModes no", "UsePAM no", "MaxStartups 500",
                 "PasswordAuthentication no", "PerSourcePenalties no", "Subsystem sftp internal-sftp", "ForceCommand internal-sftp"]
        for i in range(1, n + 1):
            root = ROOT / "crowd" / str(i)
            (root / "cidata").mkdir(parents=True)
            shutil.chown(root / "cidata", USER)
            run("ip", "addr", "replace", f"10.77.1.{i}/32", "dev", "lo")
            lines += [f"Match LocalAddress 10.77.1.{i}", f"  ChrootDirectory {root}"]
        config = ROOT / "crowd" / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        with open(ROOT / "crowd" / "log", "wb") as log:
            vm.sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stderr=log)
        wait_for(lambda: connects("10.77.1.1"), "sshd")
        with Api() as api, Daemon(PROVIDERD, MODULE, settings(api, f"10.77.1.1-10.77.1.{n}")) as d:
            api.reset({i: ("status", 429, "{}", {"Retry-After": "0"}) for i in range(5, 100000, 5)})
            jobs = [d.start(d.create, f"s-{i}") for i in range(n)]
            got = {j.result(100)[2][0] for j in jobs}
            assert len(got) == n and len(api.allocated()) == n, len(got)
    finally:
        vm.stop()


set_up()
cloud_rig.main([a_pod_gets_a_vm, connections_are_closed, nodes_share_the_pool, not_before_the_reboot, an_empty_directory_is_no_boot, dead_vms_are_passed_over, silence_is_bounded, host_keys, damaged_state,
                others_are_left_alone, cut_off, without_kubernetes, what_vms_lack, checks, faults, cancels, crowd, cut_anywhere], ONLY)
