# SPDX-License-Identifier: Apache-2.0
"""What the tests of cloud modules share. In a test beside it: `import cloud_rig` (Python puts the script's directory on its path).

    with cloud_rig.Server(handler) as api, \
         cloud_rig.Daemon(PROVIDERD, MODULE_SO, {"AWS_ENDPOINT_URL": api.url}, ["--create-timeout", "30s"]) as d:
        id, type, addresses = d.create("sandbox-a", name="podvm-a", node="node1", user_data=b"#cloud-config\n", vcpus=2)
        d.find("node1")                         # [(sandbox_id, name, id)]
        d.delete("sandbox-a", "podvm-a", id)    # id "" : never learnt
        d.verify()                              # each raises cloud_rig.Error(kind, text); kind: "NotFound", "TimedOut", …
        d.log()                                 # what the daemon has said so far
        job = d.start(d.create, "sandbox-b")    # on a thread: job.result(timeout) returns or raises; d.delete() cancels a create
    cloud_rig.check(PROVIDERD, MODULE_SO, env)  # (exit status, output) of --check

handler(request) answers one Request (method, path, query: dict of lists, target, headers, body, index, server) by (status, body[, headers]);
str, bytes and what json.dumps() takes are bodies. It runs on a thread for each connection; use `with server.lock:` for its state.
server.requests has all so far. server.faults = {index: FAULT} breaks requests by their number (server.reset() begins at 0 again):
    "refuse"          the connection is reset as soon as the request has come, before it is handled
    "reset"           handled, and reset before a byte of the reply          "truncate"    half of the body, then reset
    "garbage"         handled, but the body is no document                   "slow"        a byte a second
    ("status", 503, body, headers)   not handled                             ("taken", 503, body, headers)  handled, but that is the answer
    ("delay", seconds)               handled after that
server.refuse(True) closes the listening socket, so that connections are refused. Server(handler, tls=(cert, key)) for HTTPS;
make_certificate(directory, names) makes a pair. run_faults() below is the fault script; wait_for(predicate, what) waits without sleeps."""
import concurrent.futures
import contextlib
import fcntl
import http
import itertools
import json
import os
import pathlib
import select
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import traceback
import urllib.parse

PROVIDER_PATH = "/org/confidentialcontainers/PeerPod1/Provider"
PROVIDER_INTERFACE = "org.confidentialcontainers.PeerPod1.Provider"
ERROR_PREFIX = "org.confidentialcontainers.PeerPod1.Error."
USER_DATA = b"#cloud-config\n\nwrite_files:\n  - path: /run/peerpod/apf.json\n    content: |\n      {}\n"
PATIENCE = 60           # seconds: how long a condition may take on a machine that is busy


def wait_for(predicate, what, timeout=PATIENCE):
    """What predicate() returns, as soon as that is true"""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        select.select([], [], [], 0.01)


class Error(Exception):
    """An error reply; kind is its name without the prefix"""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


# ---- D-Bus over a socket without a broker (D-Bus Specification), as much as the provider's interface needs ----

class _Writer:
    def __init__(self):
        self.data = bytearray()

    def align(self, n):
        self.data += bytes(-len(self.data) % n)

    def u32(self, v):
        self.align(4)
        self.data += struct.pack("<I", v)

    def put(self, signature, v):
        if signature in "uhb":
            self.u32(int(v))
        elif signature == "t":
            self.align(8)
            self.data += struct.pack("<Q", v)
        elif signature in "so":
            v = v.encode()
            self.u32(len(v))
            self.data += v + b"\0"
        elif signature == "g":
            self.data += bytes([len(v)]) + v.encode() + b"\0"
        elif signature == "v":
            self.put("g", v[0])
            self.put(v[0], v[1])
        elif signature == "as":
            self.array(4, v, lambda i: self.put("s", i))
        elif signature == "a{sv}":
            self.array(8, v.items(), lambda i: (self.align(8), self.put("s", i[0]), self.put("v", i[1])))
        else:
            raise ValueError(signature)

    def array(self, alignment, items, put):
        self.u32(0)
        at = len(self.data) - 4
        self.align(alignment)
        start = len(self.data)
        for i in items:
            put(i)
        struct.pack_into("<I", self.data, at, len(self.data) - start)


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def align(self, n):
        self.at += -self.at % n

    def take(self, n):
        self.at += n
        return self.data[self.at - n:self.at]

    def u32(self):
        self.align(4)
        return struct.unpack("<I", self.take(4))[0]

    def get(self, signature):
        if signature in "uh":
            return self.u32()
        if signature in "so":
            s = self.take(self.u32()).decode()
            self.at += 1
            return s
        if signature == "g":
            s = self.take(self.take(1)[0]).decode()
            self.at += 1
            return s
        if signature == "v":
            return self.get(self.get("g"))
        if signature[0] == "a":
            struct_items = signature[1:].startswith("(")
            size = self.u32()
            if struct_items:
                self.align(8)
            end, items = self.at + size, []
            while self.at < end:
                if struct_items:
                    self.align(8)
                    items.append(tuple(self.get(c) for c in signature[2:-1]))
                else:
                    items.append(self.get(signature[1:]))
            return items
        raise ValueError(signature)


def _read_exactly(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise Error("Disconnected", "the daemon closed the connection")
        data += more
    return data


def bus_call(path, method, signatures, values, fd=None, timeout=120):
    """One call over a connection of its own; returns the list of results"""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        s.connect(path)
        s.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
        line = b""
        while line.count(b"\r\n") < 2:
            more = s.recv(1)
            if not more:
                raise Error("Disconnected", f"the daemon does not want us: {line}")
            line += more
        assert line.startswith(b"OK ") and b"AGREE_UNIX_FD" in line, line

        body, head = _Writer(), _Writer()
        for sig, v in zip(signatures, values):
            body.put(sig, v)
        head.data += struct.pack("<BBBBII", ord("l"), 1, 0, 1, len(body.data), 1)
        fields = [(1, ("o", PROVIDER_PATH)), (2, ("s", PROVIDER_INTERFACE)), (3, ("s", method))]
        if signatures:
            fields.append((8, ("g", "".join(signatures))))
        if fd is not None:
            fields.append((9, ("u", 1)))
        head.array(8, fields, lambda f: (head.align(8), head.data.append(f[0]), head.put("v", f[1])))
        head.align(8)
        socket.send_fds(s, [bytes(head.data + body.data)], [fd] if fd is not None else [])

        while True:
            fixed = _read_exactly(s, 16)
            assert fixed[0:1] == b"l"
            body_size, _, fields_size = struct.unpack("<III", fixed[4:16])
            raw = _Reader(fixed + _read_exactly(s, fields_size + -fields_size % 8))
            raw.at, fields = 16, {}
            while raw.at < 16 + fields_size:
                raw.align(8)
                code = raw.take(1)[0]
                fields[code] = raw.get("v")
            reply = _Reader(_read_exactly(s, body_size))
            signature = fields.get(8, "")
            if fixed[1] == 3:
                name = fields[4]
                raise Error(name[len(ERROR_PREFIX):] if name.startswith(ERROR_PREFIX) else name, reply.get("s") if signature else "")
            if fixed[1] == 2:
                return [reply.get(t) for t in _split(signature)]


def _split(signature):
    types = []
    while signature:
        n = 1
        if signature[0] == "a":
            n = signature.index(")") + 1 if signature[1] == "(" else 2
        types.append(signature[:n])
        signature = signature[n:]
    return types


# ---- the daemon ----

def _environment(extra):
    """No settings of the machine's: only what a program needs to run, and sanitizers"""
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR") or k.endswith("SAN_OPTIONS")}
    env.update({k: str(v) for k, v in extra.items() if v is not None})
    return env


def check(providerd, module, environment, args=(), timeout=120):
    """(exit status, output) of peerpod-providerd --check"""
    with tempfile.TemporaryDirectory(prefix="cloud-") as directory:
        name = _link(module, directory)
        r = subprocess.run([providerd, "--check", "--provider", name, "--module-directory", f"{directory}/modules", "--state-directory", f"{directory}/state",
                            *args], env=_environment(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
        return r.returncode, r.stdout


def _link(module, directory):
    module = pathlib.Path(module).resolve()
    modules = pathlib.Path(directory) / "modules"
    modules.mkdir()
    (modules / module.name).symlink_to(module)
    return module.name.removesuffix(".so")


class Daemon:
    """peerpod-providerd with one module. A context manager; ends by SIGTERM, and fails the test if the status is not 0.

    state: a state directory that outlives this daemon (else a temporary one)"""

    def __init__(self, providerd, module, environment=None, args=(), state=None, timeout=PATIENCE, wrapper=()):
        self.directory = tempfile.TemporaryDirectory(prefix="cloud-")
        path = self.directory.name
        self.socket, self.log_path = f"{path}/bus", f"{path}/log"
        self.state = state or f"{path}/state"
        name = _link(module, path)
        self.executor = concurrent.futures.ThreadPoolExecutor(max_workers=256)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*wrapper, providerd, "--provider", name, "--module-directory", f"{path}/modules", "--state-directory", self.state, "--socket", self.socket,
                 "--peer-user", "root", *args], env=_environment(environment or {}), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            wait_for(self._listens, f"the daemon listens; it says: {self.log()}", timeout)
        except BaseException:
            self.kill()
            raise

    def _listens(self):
        assert self.process.poll() is None, f"the daemon has ended with status {self.process.returncode}: {self.log()}"
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(self.socket) == 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        status = self.stop()
        if kind is None:
            assert status == 0, f"the daemon ended with status {status}: {self.log()}"
        else:
            print("---- the daemon's log ----\n" + self.log(), flush=True)
        self.close()

    def close(self):
        self.executor.shutdown(wait=False)
        self.directory.cleanup()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()

    def log(self):
        return pathlib.Path(self.log_path).read_text(errors="replace")

    def start(self, function, *args, **kwargs):
        """function on a thread; a concurrent.futures.Future"""
        return self.executor.submit(function, *args, **kwargs)

    def create(self, sandbox, name=None, node="node1", user_data=USER_DATA, timeout=120, **spec):
        """spec: machine_type, image, pod_name, pod_namespace, gpu_model: str; vcpus, gpus, memory_mib: int; multi_nic: bool; volumes: list.
        Returns (id, type, addresses)."""
        types = {"vcpus": "u", "gpus": "u", "memory_mib": "t", "multi_nic": "b", "volumes": "as"}
        entries = {k.replace("_", "-"): (types.get(k, "s"), v) for k, v in spec.items()}
        fd = os.memfd_create("user-data", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(os.dup(fd), "wb") as f:
                f.write(user_data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
            return tuple(bus_call(self.socket, "CreateInstance", ["s", "s", "s", "a{sv}", "h"],
                                  [sandbox, name or f"podvm-{sandbox}", node, entries, 0], fd, timeout))
        finally:
            os.close(fd)

    def delete(self, sandbox, name=None, id="", timeout=120):
        bus_call(self.socket, "DeleteInstance", ["s", "s", "s"], [sandbox, name or f"podvm-{sandbox}", id], None, timeout)

    def find(self, node="node1", timeout=120):
        return bus_call(self.socket, "FindInstances", ["s"], [node], None, timeout)[0]

    def verify(self, timeout=120):
        bus_call(self.socket, "Verify", [], [], None, timeout)


# ---- the server ----

class Request:
    def __init__(self, method, target, headers, body, index, server):
        self.method, self.target, self.headers, self.body, self.index, self.server = method, target, headers, body, index, server
        parts = urllib.parse.urlsplit(target)
        self.path, self.query = parts.path, urllib.parse.parse_qs(parts.query, keep_blank_values=True)

    def json(self):
        return json.loads(self.body)

    def form(self):
        return urllib.parse.parse_qs(self.body.decode(), keep_blank_values=True)

    def __repr__(self):
        return f"#{self.index} {self.method} {self.target}"


class Headers(dict):
    """By lower-case names"""

    def get(self, name, default=None):
        return super().get(name.lower(), default)

    def __getitem__(self, name):
        return super().__getitem__(name.lower())

    def __contains__(self, name):
        return super().__contains__(name.lower())


class _Reset(Exception):
    pass


class Server:
    """HTTP/1.1 with connections that stay, one thread each; see the top of the file. address: "127.0.0.1" or a path for a Unix socket"""

    def __init__(self, handler, tls=None, address="127.0.0.1", port=0, client_ca=None):
        self.handler, self.tls, self.address = handler, None, address
        self.lock, self.requests, self.faults, self.count = threading.RLock(), [], {}, 0
        self.connections, self.n_connections, self.n_connections_max, self.errors, self.stopping = set(), 0, 0, [], threading.Event()
        if tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*tls)
            if client_ca:
                self.tls.verify_mode = ssl.CERT_REQUIRED
                self.tls.load_verify_locations(client_ca)
        self.port = port
        self.listener = None
        self.refuse(False)
        self.url = f"{'https' if tls else 'http'}://{address}:{self.port}" if "/" not in address else "http://localhost"

    def refuse(self, yes):
        """No longer listen, or listen (at the same port) again"""
        if yes:
            listener, self.listener = self.listener, None
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            with self.lock:
                for s in list(self.connections):
                    _reset(s)
            return
        unix = "/" in self.address
        self.listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        if not unix:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(self.address if unix else (self.address, self.port))
        self.listener.listen(512)
        if not unix:
            self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def reset(self, faults=None):
        """Forget the requests, count from 0 again"""
        with self.lock:
            self.requests, self.count, self.faults = [], 0, dict(faults or {})

    def close(self):
        self.stopping.set()
        if self.listener:
            self.refuse(True)
        assert not self.errors, "\n".join(self.errors)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.stopping.set()
        if self.listener:
            self.refuse(True)
        if kind is None:
            assert not self.errors, "\n".join(self.errors)
        elif self.errors:
            print("\n".join(self.errors), flush=True)

    def _accept(self, listener):
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(s,), daemon=True).start()

    def _connection(self, s):
        with self.lock:
            self.connections.add(s)
            self.n_connections += 1
            self.n_connections_max = max(self.n_connections_max, len(self.connections))
        raw = s
        try:
            if self.tls:
                s = self.tls.wrap_socket(s, server_side=True)
                with self.lock:
                    self.connections.discard(raw)
                    self.connections.add(s)
            if s.family == socket.AF_INET:
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with s.makefile("rb") as f:
                while self._one(s, f):
                    pass
        except _Reset:
            _reset(s)
        except (OSError, ValueError):
            pass
        except Exception:
            self.errors.append(traceback.format_exc())
        finally:
            with self.lock:
                self.connections.discard(s)
            s.close()

    def _one(self, s, f):
        line = f.readline(65536).decode("latin-1").rstrip("\r\n")
        if not line:
            return False
        method, target, _ = line.split(" ", 2)
        headers = Headers()
        while True:
            h = f.readline(65536).decode("latin-1").rstrip("\r\n")
            if not h:
                break
            name, _, value = h.partition(":")
            headers[name.lower()] = value.strip()
        if "chunked" in (headers.get("transfer-encoding") or ""):
            body = b""
            while (n := int(f.readline().split(b";")[0], 16)) > 0:
                body += f.read(n)
                f.readline()
            f.readline()
        else:
            body = f.read(int(headers.get("content-length") or 0))
        with self.lock:
            request = Request(method, target, headers, body, self.count, self)
            fault = self.faults.get(self.count)
            self.count += 1
            self.requests.append(request)
        self._answer(s, request, fault)
        return (headers.get("connection") or "").lower() != "close"

    def _answer(self, s, request, fault):
        kind = fault[0] if isinstance(fault, tuple) else fault
        if kind == "refuse":
            raise _Reset
        if kind == "delay":
            self.stopping.wait(fault[1])
        if kind == "status":
            status, body, headers = fault[1], fault[2] if len(fault) > 2 else "", fault[3] if len(fault) > 3 else {}
        else:
            status, body, headers = (*self.handler(request), {})[:3]
            if kind == "taken":
                status, body, headers = fault[1], fault[2] if len(fault) > 2 else "", fault[3] if len(fault) > 3 else {}
        if kind == "reset":
            raise _Reset
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        body = body.encode() if isinstance(body, str) else body
        if kind == "garbage":
            body = b"\x00\xff{<[&garbage"
        lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else ''}"]
        names = {k.lower() for k in headers}
        if "content-type" not in names:
            headers = {**headers, "Content-Type": "application/json"}
        lines += [f"{k}: {v}" for k, v in headers.items()]
        if "content-length" not in names:
            lines.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if request.method == "HEAD" or status in (204, 304):
            body = b""
        if kind == "truncate":
            s.sendall((head + body)[:len(head) + len(body) // 2] if body else head[:len(head) // 2])
            raise _Reset
        if kind == "slow":
            for b in head + body:
                s.sendall(bytes([b]))
                if self.stopping.wait(1):
                    raise _Reset
            return
        s.sendall(head + body)


def _reset(s):
    """Close so that the peer gets a reset, whatever has been sent"""
    with contextlib.suppress(OSError):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        if isinstance(s, ssl.SSLSocket):
            s = socket.socket(fileno=s.detach())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # A file object of the connection's keeps the descriptor open: shut it down, too.
    with contextlib.suppress(OSError):
        s.shutdown(socket.SHUT_RDWR)
    s.close()


def make_certificate(directory, names=("127.0.0.1", "localhost"), name="server"):
    """(cert, key) of a certificate that signs itself, for IP addresses and host names"""
    cert, key = f"{directory}/{name}.pem", f"{directory}/{name}-key.pem"
    template = pathlib.Path(directory) / f"{name}.cfg"
    lines = [f'cn = "{names[0]}"', "expiration_days = 2", "tls_www_server", "tls_www_client", "signing_key", "encryption_key", "ca", "cert_signing_key"]
    for n in names:
        lines.append(f'ip_address = "{n}"' if n.replace(".", "").isdigit() or ":" in n else f'dns_name = "{n}"')
    template.write_text("\n".join(lines) + "\n")
    run = lambda *a: subprocess.run(["certtool", *a], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run("--generate-privkey", "--key-type", "ecdsa", "--curve", "secp256r1", "--outfile", key)
    run("--generate-self-signed", "--load-privkey", key, "--template", str(template), "--outfile", cert)
    return cert, key


# ---- the fault script ----

FAULTS = ["refuse", "reset", "truncate", "garbage", ("status", 500, "{}"), ("status", 503, "{}"), ("taken", 503, "{}"),
          ("status", 429, "{}", {"Retry-After": "1"}), ("status", 401, "{}"), ("status", 403, "{}"), ("status", 404, "{}")]


def run_faults(daemon, server, nothing_left, faults=None, indices=None, sandbox="fault", create=None, delete=None, verbose=False):
    """A create under each fault at each of its requests in turn. Afterwards either it runs, and is deleted, or it has failed; in both cases
    nothing_left() must come true (a truth value, or a text that says what is left: "" is nothing), and a delete without an id succeeds.

    create(sandbox)  makes one, default daemon.create(sandbox); delete(sandbox, id) likewise
    indices          requests of a create; default: counted by an undisturbed one
    Returns [(fault, index, outcome)]."""
    create = create or (lambda s: daemon.create(s))
    delete = delete or (lambda s, i: daemon.delete(s, id=i))

    def gone():
        left = nothing_left()
        return left == "" if isinstance(left, str) else bool(left)

    if indices is None:
        server.reset()
        id = create(f"{sandbox}-0")[0]
        indices = range(server.count)
        delete(f"{sandbox}-0", id)
        wait_for(gone, f"nothing is left after an undisturbed create: {nothing_left()}")
    results, number = [], itertools.count(1)
    for fault in faults or FAULTS:
        for index in indices:
            name = f"{sandbox}-{next(number)}"
            server.reset({index: fault})
            try:
                id, outcome = create(name)[0], "runs"
            except Error as e:
                id, outcome = "", e.kind
                assert e.text, f"{fault} at {index}: an error without a text"
                assert e.kind not in ("Disconnected",), f"{fault} at {index}: the daemon is gone"
            history = [repr(r) for r in server.requests]
            server.reset()
            if outcome != "runs":
                assert gone(), f"{fault} at request {index}: {outcome}, and left behind: {nothing_left()}; requests: {history}"
            delete(name, id)
            assert gone(), f"{fault} at request {index}: {outcome}, deleted, and left behind: {nothing_left()}; requests: {history}"
            results.append((fault, index, outcome))
            if verbose:
                print(f"{fault} at {index}: {outcome}", flush=True)
    return results


def run_cancels(daemon, server, nothing_left, indices, sandbox="cancel", within=5):
    """A create that is cancelled (by a delete) while its request `index` is being answered: it ends soon, and nothing is left"""
    for index in indices:
        name = f"{sandbox}-{index}"
        server.reset({index: ("delay", 30)})
        job = daemon.start(daemon.create, name)
        wait_for(lambda: server.count > index or job.done(), f"request {index} comes")
        assert server.count > index, f"no request {index}: {job.exception()}"
        start = time.monotonic()
        server.faults = {}
        daemon.delete(name)
        took = time.monotonic() - start
        try:
            job.result(5)
            raise AssertionError(f"cancelled at request {index}: it runs")
        except Error as e:
            assert e.kind == "Cancelled", f"cancelled at request {index}: {e}"
        assert took < within, f"cancelled at request {index}: took {took:.1f} s"
        left = nothing_left()
        assert left == "" if isinstance(left, str) else left, f"cancelled at request {index}: left behind: {left}"


def expect(kind, text, function, *args, **kwargs):
    """Calls function, which has to fail with an error of kind and text in it; returns the whole text"""
    try:
        function(*args, **kwargs)
    except Error as e:
        assert e.kind == kind and text in e.text, f"{e}; not {kind}: …{text}…"
        return e.text
    raise AssertionError(f"no error; expected {kind}: …{text}…")


def main(cases, only=None):
    """Runs each function of the list, its name or first doc line is the specification; exits 1 if one fails"""
    failed = 0
    for case in cases:
        title = (case.__doc__ or case.__name__.replace("_", " ")).strip().splitlines()[0]
        if only and only not in case.__name__:
            continue
        start = time.monotonic()
        try:
            case()
            print(f"ok   {title} ({time.monotonic() - start:.1f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {title} ({time.monotonic() - start:.1f} s)\n{traceback.format_exc()}", flush=True)
    raise SystemExit(1 if failed else 0)
