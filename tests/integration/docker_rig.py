# SPDX-License-Identifier: Apache-2.0
"""For docker-test.py: the module loaded into this process (the whole chain is in tests/e2e/run), a real dockerd of the test's own, and a proxy between the two that goes wrong by
script. The caller is in a network namespace of its own, where dockerd makes its bridge and its rules."""
import ctypes
import http.client
import io
import json
import os
import pathlib
import re
import secrets
import select
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.parse

from provider_abi import ERRORS, P, S, LOG, Error, Call, Config, Spec, Instance, Key, FOUND, Provider

# ---- the module ----

class Failure(Exception):
    """What a call of the module failed with"""

    def __init__(self, kind, text):
        super().__init__(f"{ERRORS[kind]}: {text}")
        self.kind, self.text = ERRORS[kind], text


class Cancel:
    def __init__(self):
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.at = None

    def now(self):
        self.at = time.monotonic()
        os.eventfd_write(self.fd, 1)

    def close(self):
        os.close(self.fd)


class Module:
    """An open module. Calls may come from any thread; @settings by variable or flag."""

    def __init__(self, path, directory, **settings):
        self.d = Provider.in_dll(ctypes.CDLL(path), "peerpod_provider")
        self.lines = []
        self.log = LOG(lambda _, level, text: self.lines.append(text.decode()))
        values = (S * self.d.n_options)()
        known = set()
        for i in range(self.d.n_options):
            o = self.d.options[i]
            name = (o.env or o.name).decode()
            known.add(name)
            values[i] = settings.get(name, o.default_value.decode()).encode()
        assert set(settings) <= known, settings
        self.handle = P()
        error = self.error()
        config = Config(ctypes.sizeof(Config), self.d.n_options, values, str(directory).encode(), self.log)
        call, _ = self.call(30)
        if self.d.open(config, call, ctypes.byref(self.handle), error) < 0:
            raise Failure(error.kind, error.text.decode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.d.close(self.handle)

    @staticmethod
    def error():
        return Error(ctypes.sizeof(Error))

    def call(self, seconds, cancel=None):
        deadline = int((time.clock_gettime(time.CLOCK_MONOTONIC) + seconds) * 1e6)
        return Call(ctypes.sizeof(Call), cancel.fd if cancel else -1, deadline, self.log), deadline

    def done(self, r, error):
        if r < 0:
            assert error.kind != 0 and error.text, r
            raise Failure(error.kind, error.text.decode())

    def verify(self, seconds=60):
        error = self.error()
        self.done(self.d.verify(self.handle, self.call(seconds)[0], error), error)

    def create(self, name, sandbox="sandbox-1", node="node-1", user_data=b"#cloud-config\n", seconds=60, cancel=None, **more):
        error, instance = self.error(), Instance(ctypes.sizeof(Instance))
        spec = Spec(ctypes.sizeof(Spec), name=name.encode(), sandbox_id=sandbox.encode(), node=node.encode(), machine_type=b"", image=b"",
                    pod_name=b"web", pod_namespace=b"demo", user_data=user_data, user_data_size=len(user_data), gpu_model=b"")
        for k, v in more.items():
            setattr(spec, k, v)
        self.done(self.d.create(self.handle, self.call(seconds, cancel)[0], spec, instance, error), error)
        return instance.id.decode(), [instance.addresses[i].value.decode() for i in range(instance.n_addresses)], instance.type.decode()

    def remove(self, name, sandbox="sandbox-1", id="", seconds=60, untagged=False):
        error = self.error()
        key = Key(ctypes.sizeof(Key), int(untagged), name.encode(), sandbox.encode(), id.encode())
        self.done(self.d.remove(self.handle, self.call(seconds)[0], key, error), error)

    def find(self, node="node-1", seconds=60):
        error, found = self.error(), []

        @FOUND
        def one(_, f):
            found.append((f.contents.sandbox_id.decode(), f.contents.name.decode(), f.contents.id.decode()))
            return 0
        self.done(self.d.find(self.handle, self.call(seconds)[0], node.encode(), one, None, error), error)
        return found


# ---- the engine ----

class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout=60):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Engine:
    """A dockerd with everything of its own below @directory"""

    def __init__(self, directory, *arguments):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.socket = str(self.directory / "docker.sock")
        self.log = open(self.directory / "log", "wb")
        self.group = f"peerpod-test-{secrets.token_hex(6)}"       # control groups are the machine's
        self.process = None
        self.arguments = arguments
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["dockerd", "--data-root", self.directory / "data", "--exec-root", self.directory / "exec", "--host", f"unix://{self.socket}",
             "--pidfile", self.directory / "pid", "--storage-driver", "overlay2", "--cgroup-parent", f"/{self.group}",
             "--exec-opt", "native.cgroupdriver=cgroupfs", *self.arguments],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while True:
            try:
                if self.ask("GET", "/_ping")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError("dockerd does not answer:\n" + "\n".join((self.directory / "log").read_text().splitlines()[-20:]))
            time.sleep(0.05)

    def stop(self, signal=15):
        self.process.send_signal(signal)
        self.process.wait(120)

    def clean(self):
        """After stop(): control groups"""
        for root, directories, _ in os.walk("/sys/fs/cgroup"):
            for d in directories:
                if d == self.group:
                    subprocess.run(["find", os.path.join(root, d), "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], stderr=subprocess.DEVNULL)
            if root.count("/") >= 5:
                directories.clear()
        self.log.close()

    def ask(self, method, path, body=None, headers=None):
        c = Connection(self.socket)
        try:
            c.request(method, path, body, headers or {})
            r = c.getresponse()
            return r.status, r.read()
        finally:
            c.close()

    def json(self, method, path, value=None):
        status, body = self.ask(method, path, json.dumps(value) if value is not None else None, {"Content-Type": "application/json"})
        assert status < 300, (method, path, status, body)
        return json.loads(body) if body else None

    def import_image(self, name, files, *changes):
        """@files: {path: content or host path}"""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for path, content in files.items():
                if isinstance(content, bytes):
                    info = tarfile.TarInfo(path)
                    info.size, info.mode = len(content), 0o755
                    tar.addfile(info, io.BytesIO(content))
                else:
                    tar.add(os.path.realpath(content), arcname=path)
        query = "&".join(f"changes={urllib.parse.quote(c)}" for c in changes)
        repository, tag = name.rsplit(":", 1)
        status, body = self.ask("POST", f"/images/create?fromSrc=-&repo={repository}&tag={tag}&{query}", out.getvalue(),
                                {"Content-Type": "application/x-tar"})
        assert status == 200 and b'"error"' not in body, body

    def inspect(self, name):
        """None if there is no such container"""
        status, body = self.ask("GET", f"/containers/{name}/json")
        return json.loads(body) if status == 200 else None

    def names(self):
        return sorted(c["Names"][0][1:] for c in self.json("GET", "/containers/json?all=1"))

    def volumes(self):
        return sorted(v["Name"] for v in self.json("GET", "/volumes")["Volumes"] or [])

    def read_file(self, name, path):
        status, body = self.ask("GET", f"/containers/{name}/archive?path={path}")
        assert status == 200, body
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            member = tar.getmembers()[0]
            return member, tar.extractfile(member).read()

    def run(self, name, *command):
        """In a running container: (status, output)"""
        e = self.json("POST", f"/containers/{name}/exec", {"Cmd": command, "AttachStdout": True, "AttachStderr": True, "Tty": True})
        _, out = self.ask("POST", f"/exec/{e['Id']}/start", json.dumps({"Tty": True}), {"Content-Type": "application/json"})
        return self.json("GET", f"/exec/{e['Id']}/json")["ExitCode"], out.decode(errors="replace").replace("\r\n", "\n")


# ---- the proxy ----

CALLS = [("version", "GET", r"/version"), ("info", "GET", r"/info"), ("network", "GET", r"/v[0-9.]+/networks/"),
         ("image", "GET", r"/v[0-9.]+/images/"), ("pull", "POST", r"/v[0-9.]+/images/create"), ("create", "POST", r"/v[0-9.]+/containers/create"),
         ("archive", "PUT", r"/v[0-9.]+/containers/[^/]+/archive"), ("start", "POST", r"/v[0-9.]+/containers/[^/]+/start"),
         ("list", "GET", r"/v[0-9.]+/containers/json"), ("inspect", "GET", r"/v[0-9.]+/containers/[^/]+/json"),
         ("remove", "DELETE", r"/v[0-9.]+/containers/"), ("volumes", "GET", r"/v[0-9.]+/volumes"), ("volume", "DELETE", r"/v[0-9.]+/volumes/")]


def label_of(method, path):
    for label, m, pattern in CALLS:
        if m == method and re.match(pattern, path):
            return label
    return "other"


class Proxy:
    """Between the module and the engine. @script(label, n): what goes wrong with the n-th request of that label, counted from 1; None if nothing:
    'refused' and 'reset' close before the engine sees it, 'lost' after it has done it; a number is answered instead of the engine; 'cut', 'garbage',
    'stall' do so to the engine's answer; a function is called first. What the engine answers is JSON of known size."""

    def __init__(self, engine, path, script=None):
        self.engine, self.path, self.script = engine, str(path), script or (lambda label, n: None)
        self.counts, self.calls, self.lock = {}, [], threading.Lock()
        self.active = self.most_active = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(512)
        self.open = True
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open = False
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()

    def accept(self):
        while self.open:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        with s, s.makefile("rb") as f:
            try:
                while self.one(s, f):
                    pass
            except OSError:
                pass

    def one(self, s, f):
        line = f.readline().decode().split()
        if len(line) != 3:
            return False
        method, path, headers = line[0], line[1], {}
        while True:
            h = f.readline().decode().strip()
            if not h:
                break
            k, v = h.split(":", 1)
            headers[k.strip().lower()] = v.strip()
        if headers.get("expect", "").lower() == "100-continue":
            s.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = f.read(int(headers.get("content-length", 0)))
        label = label_of(method, path)
        with self.lock:
            self.counts[label] = n = self.counts.get(label, 0) + 1
            self.calls.append((label, method, path, headers, body))
            self.active += 1
            self.most_active = max(self.active, self.most_active)
        try:
            return self.answer(s, self.script(label, n), method, path, headers, body)
        finally:
            with self.lock:
                self.active -= 1

    def answer(self, s, fault, method, path, headers, body):
        if callable(fault):
            fault = fault()
        if fault in ("refused", "reset"):
            return False
        if isinstance(fault, int):
            status, reply, extra = fault, json.dumps({"message": f"as the script says: {fault}"}).encode(), b"Retry-After: 0\r\n"
        else:
            status, reply = self.engine.ask(method, path, body if body or method in ("POST", "PUT") else None,
                                            {k: v for k, v in headers.items() if k in ("content-type", "x-registry-auth")})
            extra = b""
        if fault == "lost":
            return False
        if fault == "garbage":
            reply = b"\x00\xff{]" + b"x" * 2000
        head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%s" % (status, extra)
        if status not in (204, 304):
            # Truncated: less than was promised
            head += b"Content-Length: %d\r\n" % (len(reply) + (100 if fault in ("cut", "stall") else 0))
        elif fault in ("cut", "stall"):
            head = head[:20]
            reply = b""
        s.sendall(head + (b"" if fault in ("cut", "stall") and status in (204, 304) else b"\r\n") + reply)
        if fault == "stall":
            # Until the other side has had enough of it
            select.select([s], [], [], 60)
            return False
        return fault != "cut"


def small_image(init=b"#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 1000 & wait $!; done\n"):
    return {"bin/busybox": shutil.which("busybox"), "bin/sh": shutil.which("busybox"), "bin/sleep": shutil.which("busybox"), "init": init}
