# SPDX-License-Identifier: Apache-2.0
"""peerpod-ctrl between a scripted API server (kube_api.py) and the provider module whose instances are files (provider-fake.c)."""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
import traceback
import urllib.error
import urllib.request

from kube_api import KubeApi

NAMESPACE = "confidential-containers-system"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:peerpod-ctrl"
FINALIZER = "peer.pod/finalizer"
GROUP = "confidentialcontainers.org/v1alpha1"
LEASE = "33f6c5d6.confidentialcontainers.org"
AT_ONCE = 6             # cases: they mostly wait
PATIENCE = 60           # seconds: how long a condition may take on a machine that is busy


def sandbox(n):
    return f"{n:064x}"


def lasting_port():
    """A free port that no client gets for its end meanwhile: the API server goes away, and comes back there."""
    first = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(max(1024, first - 20000), first)
        with contextlib.closing(socket.socket()) as s, contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return port


class Process:
    """One peerpod-ctrl"""

    def __init__(self, rig, number, environment, arguments):
        self.rig, self.path = rig, rig.path / f"ctrl-{number}"
        self.path.mkdir()
        self.log_path, self.ending = self.path / "log", False
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH") or k.endswith("SAN_OPTIONS")}
        env.update(environment)
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [rig.program, "--kubeconfig", rig.api.kubeconfig("ctrl"), "--metrics-bind-address=127.0.0.1:0", "--health-probe-bind-address=127.0.0.1:0",
                 f"--runtime-directory={self.path}/run", f"--state-directory={self.path}/state", f"--module-directory={rig.path}/modules",
                 f"--providerd={rig.providerd}", "--retry=50ms", "--retry-max=300ms", "--recheck=200ms", "--lease-duration=4s", "--lease-renew-deadline=2500ms",
                 "--lease-retry-period=500ms", "--stop-timeout=1s", *arguments], env=env, stdout=log, stderr=subprocess.STDOUT)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def says(self, pattern):
        """waits until the log has it"""
        return self.rig.wait(lambda: re.search(pattern, self.log()), f"the log has '{pattern}'")

    def port(self, option):
        return int(self.says(rf"Listening on port (\d+) for {option}")[1])

    def get(self, option, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port(option)}{path}", timeout=PATIENCE) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def metrics(self):
        """{name or name{labels}: value}"""
        status, text = self.get("--metrics-bind-address", "/metrics")
        assert status == 200, text
        return {m[1]: float(m[2]) for m in re.finditer(r"^([a-z_]+(?:\{[^}]*\})?) ([0-9.e+]+)$", text, re.M)}

    def children(self):
        return [int(p) for p in pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def ready(self):
        self.rig.wait(lambda: self.get("--health-probe-bind-address", "/readyz")[0] == 200, "it is ready")
        return self

    def stop(self, sig=signal.SIGTERM):
        self.ending = True
        self.process.send_signal(sig)
        return self.wait()

    def wait(self):
        self.ending = True
        return self.process.wait(PATIENCE)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


class Rig:
    def __init__(self, program, providerd, modules, install, definitions=True):
        self.program, self.providerd, self.install = program, providerd, pathlib.Path(install)
        self.directory = tempfile.TemporaryDirectory(prefix="kube-ctrl-")
        self.path = pathlib.Path(self.directory.name)
        self.cloud, self.settings = self.path / "cloud", self.path / "settings.env"
        self.cloud.mkdir()
        (self.path / "modules").mkdir()
        for module in modules:
            (self.path / "modules" / os.path.basename(module)).symlink_to(os.path.abspath(module))
        self.crd = self.install / "crds" / "peerpods.yaml"
        self.api = KubeApi(self.path / "api", [self.crd] if definitions else [], lasting_port())
        self.api.user("ctrl", ACCOUNT)
        self.api.grant(self.install / "rbac" / "peerpod-ctrl.yaml")
        self.create("v1", "namespaces", None, {"metadata": {"name": NAMESPACE}})
        self.processes = []
        self.write_settings()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        leftover = [c for p in self.processes if p.process.poll() is None for c in p.children()]
        for p in self.processes:
            p.end()
        for pid in leftover:                    # they follow their parent
            self.wait(lambda pid=pid: not alive(pid), f"process {pid} ends with its parent", cleaning=True)
        self.api.close()
        if kind is None:
            assert not self.api.denied, f"the role lacks rights: {self.api.denied}"
            assert not self.api.store.invalid, f"objects that the API would not take: {self.api.store.invalid}"
        else:
            for p in self.processes:
                print(f"---- {p.path.name} ----\n{p.log()}", flush=True)
        self.directory.cleanup()

    def wait(self, condition, what, seconds=PATIENCE, cleaning=False):
        end = time.monotonic() + seconds
        while not (value := condition()):
            for p in [] if cleaning else self.processes:
                assert p.ending or p.process.poll() is None, f"{p.path.name} has ended with {p.process.poll()} while we waited: {what}"
            assert time.monotonic() < end, f"not within {seconds} s: {what}"
            time.sleep(0.01)
        return value

    def start(self, *arguments, settings=True, **environment):
        p = Process(self, len(self.processes), environment, [*([f"--settings={self.settings}"] if settings else []), *arguments])
        self.processes.append(p)
        return p

    def write_settings(self, **variables):
        new = self.settings.with_suffix(".new")
        new.write_text("".join(f"{k}='{v}'\n" for k, v in {"FAKE_DIRECTORY": self.cloud, **variables}.items()))
        new.rename(self.settings)

    # ---- the cluster ----

    def resource(self, version, plural):
        return self.api.store.resources[version, plural]

    def create(self, version, plural, ns, obj):
        return self.api.store.create(self.resource(version, plural), ns, obj)

    def pod(self, name, ns="default", node="n1"):
        return self.create("v1", "pods", ns, {"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})

    def delete_pod(self, name, ns="default"):
        """as the kubelet does when all has ended"""
        self.api.store.delete(self.resource("v1", "pods"), ns, name, {"gracePeriodSeconds": 0})

    def peerpod(self, name, pod=None, ns="default", finalizers=(FINALIZER,), age=0, **spec):
        """@pod: what pod() has returned. @age: seconds ago that it was made. By default one of ours of sandbox(1)."""
        owner = [{"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"], "controller": True}] if pod else []
        obj = self.create(GROUP, "peerpods", ns, {"metadata": {"name": name, "finalizers": list(finalizers), "ownerReferences": owner}, "spec": spec})
        if age:
            with self.api.store.changed:
                stored = self.api.store.objects[GROUP, "peerpods", ns, name]
                stored["metadata"]["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
        return obj

    def ours(self, name, n, pod=None, learnt=True, attempt=None, **more):
        """a PeerPod such as peerpod-node writes, and its instance"""
        self.instance(f"podvm-{name}", sandbox(n), f"fake-{n}")
        spec = {"cloudProvider": "fake", "instanceName": f"podvm-{name}", "sandboxID": sandbox(n), "nodeName": "n1"}
        if learnt:
            spec["instanceID"] = f"fake-{n}"
        if attempt is not None:
            spec["attempt"] = attempt
        return self.peerpod(name, pod, **spec, **more)

    def upstream(self, name, n, pod, **more):
        """a PeerPod such as cloud-api-adaptor writes, and its instance"""
        self.instance(f"podvm-{pod['metadata']['name']}-{n:08x}", "", f"fake-{n}")
        return self.peerpod(name, pod, cloudProvider="fake", instanceID=f"fake-{n}", **more)

    def get(self, name, ns="default"):
        return self.api.store.objects.get((GROUP, "peerpods", ns, name))

    def delete(self, name, ns="default"):
        self.api.store.delete(self.resource(GROUP, "peerpods"), ns, name, {})

    def gone(self, name, ns="default"):
        self.wait(lambda: self.get(name, ns) is None, f"PeerPod '{name}' is gone")

    def condition(self, name, kind="InstanceGone", ns="default", reason=None):
        """waits for one with status False; its reason and message"""
        def find():
            for c in (self.get(name, ns) or {}).get("status", {}).get("conditions", []):
                if c["type"] == kind and c["status"] == "False" and reason in (None, c["reason"]):
                    return c
            return None
        c = self.wait(find, f"PeerPod '{name}' has condition {kind}, reason {reason}; it is {json.dumps(self.get(name, ns))}")
        return c["reason"], c["message"]

    def events(self, reason):
        return [o for (v, p, _, _), o in list(self.api.store.objects.items()) if p == "events" and o.get("reason") == reason]

    # ---- the cloud ----

    def instance(self, name, owner, id, node="n1"):
        (self.cloud / name).write_text(f"sandbox={owner}\nnode={node}\nid={id}\n")

    def instances(self):
        return sorted(p.name for p in self.cloud.glob("podvm-*"))

    def calls(self, operation):
        try:
            return [line.split()[1] for line in (self.cloud / "calls").read_text().splitlines() if line.split()[0] == operation]
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def control(self, *orders):
        new = self.cloud / "control.new"
        new.write_text("\n".join(orders) + "\n")
        new.rename(self.cloud / "control")
        yield
        (self.cloud / "control").unlink()


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def attempt(case):
    """(whether it went well, what to say)"""
    begin = time.monotonic()
    try:
        case()
        return True, f"ok {case.__name__} ({time.monotonic() - begin:.1f} s)"
    except Exception as e:      # whatever it is, the next case is worth running
        text = "" if isinstance(e, AssertionError) else traceback.format_exc()
        return False, f"not ok {case.__name__}: {type(e).__name__}: {e}\n{text}"


def run(cases, alone, wanted=()):
    """each case by its name, several at once but for those of @alone; the process's exit status"""
    bad = 0
    cases, alone = ([c for c in list_ if not wanted or c.__name__ in wanted] for list_ in (cases, alone))
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for good, text in pool.map(attempt, cases):
            print(text, flush=True)
            bad += not good
    for good, text in map(attempt, alone):
        print(text, flush=True)
        bad += not good
    return 1 if bad else 0
