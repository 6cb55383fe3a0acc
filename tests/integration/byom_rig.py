# SPDX-License-Identifier: Apache-2.0
"""For byom-test.py: the VMs of a pool, which are OpenSSH's sshd, each on an address of the loopback and chrooted to SFTP as on a real one, and a
Kubernetes API that keeps ConfigMaps as the API server does (Kubernetes API conventions: resourceVersion, Conflict, AlreadyExists, dryRun). The
caller is in network and mount namespaces of its own."""
import contextlib
import copy
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import cloud_rig
from cloud_rig import Server, wait_for

ROOT = pathlib.Path("/run/byom")
USER, TOKEN, NAMESPACE, MAP = "nobody", "token-of-the-node", "pods", "byom-ip-pool-state"


def run(*args):
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL)


def set_up():
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    run("ip", "link", "set", "lo", "up")
    pathlib.Path("/run/sshd").mkdir()
    ROOT.mkdir()
    for name in ("client", "vm", "other"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(ROOT / name))
    account = ROOT / "account"
    account.mkdir()
    global CERTIFICATE
    CERTIFICATE = cloud_rig.make_certificate(str(ROOT), ("127.0.0.1",))
    shutil.copy(CERTIFICATE[0], account / "ca.crt")
    (account / "token").write_text(TOKEN + "\n")
    (account / "namespace").write_text(NAMESPACE)


class Vm:
    """A VM: sshd on an address of its own, and what its units do when files appear in cidata"""

    def __init__(self, address, host_key="vm"):
        self.address, self.host_key, self.root = address, host_key, ROOT / address
        self.cidata = self.root / "media" / "cidata"
        run("ip", "addr", "replace", address + "/32", "dev", "lo")
        shutil.rmtree(self.root, ignore_errors=True)
        self.cidata.mkdir(parents=True)
        self.user_data, self.n_boots, self.reboots, self.alive = [], 0, True, True
        self.sshd = None
        self.boot()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def boot(self):
        shutil.rmtree(self.cidata)
        self.cidata.mkdir()
        shutil.chown(self.cidata, USER)
        self.cidata.chmod(0o750)
        self.n_boots += 1
        self.start()

    def start(self):
        config = self.root / "sshd_config"
        config.write_text(f"""
ListenAddress {self.address}
Port 22
HostKey {ROOT / self.host_key}
PidFile none
AuthorizedKeysFile {ROOT / 'client.pub'}
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
MaxStartups 300
Subsystem sftp internal-sftp
Match User {USER}
    ForceCommand internal-sftp
    ChrootDirectory {self.root / 'media'}
""")
        with open(self.root / "log", "ab") as log:
            self.sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stderr=log)
        wait_for(lambda: connects(self.address), f"sshd of {self.address}")

    def stop(self):
        """As the power does: with all connections"""
        for pid in [*descendants(self.sshd.pid), self.sshd.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.sshd.wait()

    def watch(self):
        while self.alive:
            if self.reboots and (self.cidata / "reboot").exists():
                self.stop()
                self.boot()
            with contextlib.suppress(OSError):
                data = (self.cidata / "user-data").read_bytes()
                if not self.user_data or self.user_data[-1] != (self.n_boots, data):
                    self.user_data.append((self.n_boots, data))
            time.sleep(0.005)

    def close(self):
        self.alive = False
        self.thread.join()
        self.stop()

    def log(self):
        return (self.root / "log").read_text()


def connects(address):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex((address, 22)) == 0


def descendants(pid):
    children = {}
    for p in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            children.setdefault(int(p.read_text().rsplit(")", 1)[1].split()[1]), []).append(int(p.parent.name))
    found, todo = [], [pid]
    while todo:
        for c in children.get(todo.pop(), []):
            found.append(c)
            todo.append(c)
    return found


class Api(Server):
    """ConfigMaps of one namespace"""

    def __init__(self):
        self.maps, self.version, self.conflicts, self.before_put = {}, 100, 0, None
        super().__init__(self.answer, tls=CERTIFICATE)

    @staticmethod
    def status(code, reason, message=""):
        return code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message or reason, "code": code}

    def answer(self, q):
        if q.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.status(401, "Unauthorized")
        collection = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        dry = q.query.get("dryRun") == ["All"]
        if q.path == collection and q.method == "POST":
            assert q.headers["content-type"] == "application/json"
            o = q.json()
            name = o["metadata"]["name"]
            assert o["kind"] == "ConfigMap" and o["apiVersion"] == "v1" and "resourceVersion" not in o["metadata"] and self.strings(o)
            with self.lock:
                if name in self.maps:
                    return self.status(409, "AlreadyExists", f'configmaps "{name}" already exists')
                return 201, o if dry else self.keep(name, o)
        if not q.path.startswith(collection + "/"):
            return self.status(404, "NotFound")
        name = q.path[len(collection) + 1:]
        if q.method == "GET":
            with self.lock:
                return (200, copy.deepcopy(self.maps[name])) if name in self.maps else self.status(404, "NotFound", f'configmaps "{name}" not found')
        if q.method == "PUT":
            o = q.json()
            if self.before_put:
                self.before_put(q)
            with self.lock:
                if name not in self.maps:
                    return self.status(404, "NotFound")
                old = self.maps[name]
                assert o["metadata"]["name"] == name and o["metadata"]["uid"] == old["metadata"]["uid"] and self.strings(o)
                assert o["metadata"]["resourceVersion"], "an update that nothing guards"
                if o["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
                    self.conflicts += 1
                    return self.status(409, "Conflict", "the object has been modified; please apply your changes to the latest version and try again")
                return 200, o if dry else self.keep(name, o)
        return self.status(405, "MethodNotAllowed")

    @staticmethod
    def strings(o):
        return all(isinstance(v, str) for v in o.get("data", {}).values())

    def keep(self, name, o):
        self.version += 1
        o["metadata"]["resourceVersion"] = str(self.version)
        o["metadata"].setdefault("uid", f"uid-{self.version}")
        self.maps[name] = copy.deepcopy(o)
        return o

    def state(self):
        with self.lock:
            return json.loads(self.maps[MAP]["data"]["allocation-state"]) if MAP in self.maps else {"allocatedIPs": {}}

    def allocated(self):
        return self.state()["allocatedIPs"]

    def left(self):
        return ", ".join(self.allocated())


def host_key(name):
    return " ".join((ROOT / f"{name}.pub").read_text().split()[:2])


def settings(api, addresses, **extra):
    known = ROOT / "known_hosts"
    known.write_text("".join(f"10.77.{i}.{n} {host_key('vm')}\n" for i in range(2) for n in range(1, 130)))
    env = {"VM_POOL_IPS": addresses, "SSH_USERNAME": USER, "SSH_PRIV_KEY_PATH": str(ROOT / "client"), "SSH_KNOWN_HOSTS": str(known)}
    if api:
        env.update(KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT=api.port, PEERPOD_BYOM_SERVICEACCOUNT=str(ROOT / "account"))
    env.update(extra)
    return env
