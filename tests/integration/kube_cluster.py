# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' own API server with its storage and its garbage collector, on loopback and with roles enforced; no kubelet, no scheduler.
The programs are Debian's etcd and kubectl, and the control plane that tests/peers/kube-control-plane builds from Kubernetes' modules."""
import contextlib
import json
import pathlib
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import yaml

from kube_api import make_authority, openssl
from kube_ctrl_rig import lasting_port

PATIENCE = 180          # seconds; for a machine that is busy


class Cluster:
    def __init__(self, directory, go_peer):
        self.path, self.go_peer = pathlib.Path(directory), go_peer
        self.path.mkdir(parents=True)
        self.etcd_port, self.etcd_peer_port, self.port = lasting_port(), lasting_port(), lasting_port()
        self.admin_token = secrets.token_urlsafe(24)
        self.write("tokens.csv", f"{self.admin_token},admin,admin,system:masters\n")
        openssl("genrsa", "-out", self.path / "accounts.key", "2048")
        make_authority(self.path)
        self.kubeconfig("admin", token=self.admin_token)
        self.processes = {}
        try:
            self.start_all()
        except BaseException:
            self.close()
            raise

    def start_all(self):
        self.start("etcd", "etcd", f"--data-dir={self.path}/etcd", f"--listen-client-urls={self.etcd}", f"--advertise-client-urls={self.etcd}",
                   f"--listen-peer-urls=http://127.0.0.1:{self.etcd_peer_port}", "--unsafe-no-fsync")
        self.up()
        self.start("kube-controller-manager", self.go_peer, "kube-control-plane", "kube-controller-manager", f"--kubeconfig={self.path}/admin.kubeconfig",
                   "--controllers=garbage-collector-controller,namespace-controller,serviceaccount-controller", "--secure-port=0",
                   "--leader-elect=false", "--concurrent-gc-syncs=4")

    @property
    def etcd(self):
        return f"http://127.0.0.1:{self.etcd_port}"

    def write(self, name, text):
        path = self.path / name
        path.touch(0o600)
        path.write_text(text, encoding="utf-8")
        return str(path)

    # ---- processes ----

    def start(self, name, *argv):
        with open(self.path / (name + ".log"), "ab") as log:
            self.processes[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self, name):
        """at once: an API server that is asked to waits a minute for who watches"""
        p = self.processes.pop(name)
        p.kill()
        p.wait(PATIENCE)

    def up(self):
        """the API server; again, on the same port, after down()"""
        key = self.path / "accounts.key"
        self.start("kube-apiserver", self.go_peer, "kube-control-plane", "kube-apiserver", f"--etcd-servers={self.etcd}", "--bind-address=127.0.0.1",
                   "--advertise-address=192.0.2.1", f"--secure-port={self.port}", f"--tls-cert-file={self.path}/server.crt", f"--tls-private-key-file={self.path}/server.key",
                   "--authorization-mode=RBAC", f"--token-auth-file={self.path}/tokens.csv", "--service-cluster-ip-range=10.0.0.0/24",
                   f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
                   "--service-account-issuer=https://kubernetes.default.svc", "--shutdown-delay-duration=0s", f"--cert-dir={self.path}/certs")
        self.wait(lambda: self.ask("/readyz") == "ok", "the API server is ready")

    def down(self):
        self.end("kube-apiserver")

    def compact(self):
        """the storage forgets what was before"""
        etcdctl = ["etcdctl", "--endpoints=" + self.etcd]
        environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        out = subprocess.run([*etcdctl, "get", "/", "--limit=1", "--prefix", "-w", "json"], check=True, stdout=subprocess.PIPE, env=environment, timeout=PATIENCE)
        subprocess.run([*etcdctl, "compact", str(json.loads(out.stdout)["header"]["revision"])], check=True, stdout=subprocess.DEVNULL, env=environment,
                       timeout=PATIENCE)

    def close(self):
        for name in reversed(list(self.processes)):
            self.end(name)

    def logs(self):
        return "".join(f"---- {p.name} ----\n{p.read_text(errors='replace')[-3000:]}" for p in sorted(self.path.glob("*.log")))

    def wait(self, condition, what):
        end = time.monotonic() + PATIENCE
        while not (value := condition()):
            for name, p in self.processes.items():
                assert p.poll() is None, f"{name} has ended with {p.poll()} while we waited until {what}:\n{self.logs()}"
            assert time.monotonic() < end, f"waited in vain until {what}:\n{self.logs()}"
            time.sleep(0.05)
        return value

    # ---- its interface ----

    def ask(self, path):
        """what a GET is answered, or None"""
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", headers={"Authorization": "Bearer " + self.admin_token})
        context = ssl.create_default_context(cafile=self.path / "ca.crt")
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:
                return answer.read().decode()
        return None

    def kubectl(self, *argv, user="admin", obj=None, fails=False):
        """what it prints; for @fails what it complains of. @obj: an object, or a list of them, for '-f -'"""
        objects = obj if isinstance(obj, list) else [obj]
        p = subprocess.run(["kubectl", f"--kubeconfig={self.path}/{user}.kubeconfig", f"--cache-dir={self.path}/cache", *argv], check=False, text=True,
                           input="" if obj is None else yaml.safe_dump_all(objects), capture_output=True, timeout=PATIENCE)
        assert (p.returncode != 0) == fails, f"kubectl {argv}: {p.stdout}{p.stderr}"
        return p.stderr if fails else p.stdout

    def get(self, kind, name, namespace=None):
        out = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found", *(["-n", namespace] if namespace else []))
        return json.loads(out) if out.strip() else None

    def items(self, kind, namespace):
        return json.loads(self.kubectl("get", kind, "-n", namespace, "-o", "json"))["items"]

    def watched(self, plural, namespaced=True):
        """how many watches of it there are"""
        total = 0
        for line in (self.ask("/metrics") or "").splitlines():
            if line.startswith("apiserver_longrunning_requests{") and f'resource="{plural}"' in line and 'verb="WATCH"' in line:
                total += int(float(line.rpartition(" ")[2]))
        return total

    # ---- who asks ----

    def kubeconfig(self, name, token):
        """path of one whose token is in a file beside it"""
        self.write(name + ".token", token)
        return self.write(name + ".kubeconfig", yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": {"tokenFile": name + ".token"}}]}))

    def account(self, name, namespace):
        """a kubeconfig of a service account, with a token that expires"""
        return self.kubeconfig(name, self.kubectl("create", "token", name, "-n", namespace, "--duration=1h").strip())
