# SPDX-License-Identifier: Apache-2.0
"""kube-client-tool and kube_api.py together, for the tests of src/kube/: SCRIPT TOOL DEFINITIONS [TEST…]"""
import base64
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from kube_api import KubeApi, make_authority

TOOL, DEFINITIONS = sys.argv[1:3]
PEERPODS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/default/peerpods"
TESTS = []
SECONDS = 60


def test(f):
    TESTS.append(f)
    return f


class Tool:
    """kube-client-tool with its messages"""

    def __init__(self, config, *options, env=None):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([TOOL, config, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={**os.environ, "PEERPOD_LOG_LEVEL": "debug", **(env or {})})
        self.queue, self.messages, self.n = queue.Queue(), [], 0
        threading.Thread(target=self._read, daemon=True).start()
        self.ready = self.get(what="ready")

    def _read(self):
        for line in self.process.stdout:
            self.queue.put(json.loads(line))
        self.queue.put(None)

    def get(self, seconds=SECONDS, **match):
        """the next message that has these values; others stay for later"""
        end = time.monotonic() + seconds
        while True:
            for m in self.messages:
                if all(m.get(k) == v for k, v in match.items()):
                    self.messages.remove(m)
                    return m
            try:
                m = self.queue.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no message with {match} within {seconds} s; there are {self.messages}; log:\n{self.output()[-3000:]}") from None
            if m is None:
                self.queue.put(None)
                raise AssertionError(f"the tool has ended before a message with {match}: {self.output()[-3000:]}")
            self.messages.append(m)

    def drain(self):
        """all messages so far: what was done before this call has been told by then"""
        self.do("stats")
        stats = self.get(what="stats")
        kept, self.messages = self.messages, []
        return kept, stats

    def do(self, what, **arguments):
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()

    def begin(self, method, path, **arguments):
        self.n += 1
        self.do("request", id=str(self.n), method=method, path=path, **arguments)
        return str(self.n)

    def call(self, method, path, **arguments):
        return self.get(what="reply", id=self.begin(method, path, **arguments))

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def close(self):
        self.process.stdin.close()
        end = self.get(what="end")
        status = self.process.wait(SECONDS)
        log = self.output()
        assert status == 0 and end["left_fds"] == 0, f"status {status}, {end['left_fds']} descriptors are left over:\n{log[-3000:]}"
        return log


class Front:
    """HTTP/2 before the API server: kube-h2/main.go"""

    def __init__(self, rig):
        path = lambda name: os.path.join(rig.directory.name, name)
        self.process = subprocess.Popen([os.environ["KUBE_H2"], path("server.crt"), path("server.key"), path("ca.crt"), rig.api.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def close(self):
        self.process.stdin.close()
        self.process.wait(SECONDS)
        self.process.stdout.close()


class Rig:
    def __init__(self):
        self.directory = tempfile.TemporaryDirectory()
        if not os.path.exists(AUTHORITY.name + "/ca.crt"):
            make_authority(AUTHORITY.name)
        for f in os.listdir(AUTHORITY.name):
            os.link(os.path.join(AUTHORITY.name, f), os.path.join(self.directory.name, f))
        self.api = KubeApi(self.directory.name, [os.path.join(DEFINITIONS, "peerpods.yaml")])
        self.peerpods = self.api.store.resources["confidentialcontainers.org/v1alpha1", "peerpods"]
        self.token = self.api.user("t")
        self.tools, self.fronts = [], []

    def tool(self, *options, config=None, env=None):
        self.tools.append(Tool(self.api.kubeconfig("t") if config is None else config, "pause=1000", "qps=4294967295", *options, env=env))
        return self.tools[-1]

    def front(self):
        """a way to the server by HTTP/2, and a kubeconfig for it"""
        self.fronts.append(Front(self))
        return self.fronts[-1], kubeconfig(self, {"tokenFile": "t.token"}, cluster={"server": self.fronts[-1].url})

    def peerpod(self, name, **spec):
        return self.api.store.create(self.peerpods, "default", {"metadata": {"name": name, "finalizers": spec.pop("finalizers", [])}, "spec": {"cloudProvider": "x", **spec}})

    def watch(self, tool, synced=True, **more):
        tool.do("watch", **{"watch": 0, "path": PEERPODS.replace("/namespaces/default", ""), "pause_usec": 1000, "pause_max_usec": 20000, **more})
        if synced:
            return tool.get(what="synced")
        return None

    def watching(self, n=1):
        self.api.wait(lambda: self.api.watches == n, what=f"{n} watches")

    def end(self):
        for t in self.tools:
            log = t.close() if t.process.poll() is None else t.output()
            for user, token in self.api.users.values():
                assert token not in log, "a token is in the log"
            assert "ERROR: AddressSanitizer" not in log and "runtime error" not in log, log
        self.close()

    def close(self):
        for f in self.fronts:
            f.close()
        self.api.close()
        self.directory.cleanup()


AUTHORITY = tempfile.TemporaryDirectory()


def kubeconfig(rig, user, data=False, cluster=None):
    """written as JSON, which is YAML"""
    def load(o):
        return {k + "-data": base64.b64encode(open(os.path.join(rig.directory.name, v), "rb").read()).decode() for k, v in o.items()}
    path = os.path.join(rig.directory.name, "config.json")
    authority = {"certificate-authority": "ca.crt"}
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                   "clusters": [{"name": "k", "cluster": {"server": rig.api.url, **(load(authority) if data else authority), **(cluster or {})}}],
                   "users": [{"name": "u", "user": load(user) if data else user}]}, f)
    return path


def memory(t):
    return int(next(l for l in open(f"/proc/{t.process.pid}/status") if l.startswith("VmRSS")).split()[1])


def sanitized():
    return b"__asan_init" in open(TOOL, "rb").read()


def main():
    chosen = sys.argv[3:]
    failed = 0
    for f in TESTS:
        if chosen and f.__name__ not in chosen:
            continue
        began, rig = time.monotonic(), Rig()
        try:
            f(rig)
            rig.end()
            print(f"ok {f.__name__} ({time.monotonic() - began:.2f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {f.__name__}\n{traceback.format_exc()}", flush=True)
            for t in rig.tools:
                t.process.kill()
            rig.close()
    print(f"{failed} failed")
    return 1 if failed else 0
