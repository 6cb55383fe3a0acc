# SPDX-License-Identifier: Apache-2.0
"""A scripted API server: the rules of Kubernetes (kube_store.py), TLS, tokens, client certificates and RBAC, and faults on demand.

From Python:
    api = KubeApi(directory, definitions=["…/peerpods.yaml"])
    api.user("node", "system:serviceaccount:ns:sa")         # a token for it, and a kubeconfig
    api.grant("…/rbac.yaml")                                # ClusterRoles, Roles and their bindings; without them a user may nothing
    with api:                                               # serves; api.url, api.ca, api.kubeconfig("node")
        api.fault("status", verb="watch", code=410, times=2)
        api.store.create(…); api.wait(lambda: …)

From elsewhere: kube_api.py --directory DIR [--definition FILE]… [--user NAME=USER]… [--grant FILE]… prints one line of JSON (url, ca, admin,
kubeconfigs) and serves until its stdin ends. "admin" is a plain HTTP address on loopback where everything is allowed and which has beside the API:
    POST   /_control/fault      {"action": …}, the arguments of fault()             POST /_control/compact
    DELETE /_control/fault      no fault any more; what hangs goes on               POST /_control/down, /_control/up
    GET    /_control/requests   what was asked: [{user, verb, path, code}]          DELETE /_control/requests
    GET    /_control/state      {"watches", "version", "denied", "invalid", "connections"}
    POST   /_control/revoke     {"user": …}: its token is refused from now on; /_control/rotate: and it gets a new one, in its token file

Faults (action): "status" (code, reason, message, retry_after), "reset", "close", "hang" (until faults are cleared, or, unless deaf, the client has
gone), "late" (done, and answered when faults are cleared), "lost" (done, but the connection breaks before the answer), "truncate" (half an answer),
"garbage" (no JSON), "endless" (a body that does not end), "slow" (seconds before the
answer), "trickle" (byte by byte); for watches also "error" (an ERROR event with code, reason), "short" (ends at once), "half-open" (the connection
stays, nothing comes any more), "break" (in the middle of an event). Selected by verb (get, list, watch, create, update, patch, delete), path (a regular
expression) and user; after skips that many, times (0: for ever)."""
import argparse
import errno
import http.server
import json
import os
import re
import secrets
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

import yaml

from kube_store import Refused, Store, dumps, now

ADMIN, TEST = "system:admin", "system:test"         # both may all; TEST, on the plain address, meets no faults
DISCOVERY = re.compile(r"/api(/v1)?|/apis(/[^/]+/[^/]+)?|/version|/healthz|/readyz|/livez")


def openssl(*arguments, **kwargs):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, **kwargs)


def make_authority(directory):
    """ca.crt, server.crt/.key for localhost, 127.0.0.1 and kubernetes.default; client certificates by make_client()"""
    path = lambda name: os.path.join(directory, name)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", path("ca.key"), "-out", path("ca.crt"))
    sign(directory, "server", "/CN=kube-apiserver", "subjectAltName=DNS:localhost,DNS:kubernetes.default,IP:127.0.0.1,IP:::1")


def sign(directory, name, subject, extension):
    path = lambda suffix: os.path.join(directory, name + suffix)
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject, "-keyout", path(".key"), "-out", path(".csr"))
    with open(path(".ext"), "w", encoding="utf-8") as f:
        f.write(extension + "\n")
    openssl("x509", "-req", "-in", path(".csr"), "-CA", os.path.join(directory, "ca.crt"), "-CAkey", os.path.join(directory, "ca.key"), "-CAcreateserial",
            "-days", "2", "-extfile", path(".ext"), "-out", path(".crt"))


class Hangup(Exception):
    """the connection ends here"""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        self.request.settimeout(60)
        if self.server.tls:
            try:
                self.request = self.server.tls.wrap_socket(self.request, server_side=True)
            except (OSError, ssl.SSLError):
                self.request.close()
                raise Hangup from None
            self.server.sockets.add(self.request)
        super().setup()

    def log_message(self, *_):
        pass

    @property
    def api(self):
        return self.server.api

    def answer(self, code, obj, headers=()):
        data = obj if isinstance(obj, bytes) else dumps(obj)
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        fault = self.active
        if fault and fault["action"] == "truncate":
            self.wfile.write(data[:len(data) // 2])
            raise Hangup
        if fault and fault["action"] == "trickle":
            for i in range(len(data)):
                self.wfile.write(data[i:i + 1])
                self.wfile.flush()
        else:
            self.wfile.write(data)

    def body(self):
        try:
            return json.loads(self.data or "{}")
        except ValueError as e:
            raise Refused(400, "BadRequest", f"the object provided is unrecognized: {e}") from None

    def who(self):
        if not self.server.tls:
            return TEST
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme == "Bearer":
            if token not in self.api.tokens:
                raise Refused(401, "Unauthorized", "Unauthorized")
            return self.api.tokens[token]
        if scheme == "Basic":
            raise Refused(401, "Unauthorized", "Unauthorized")
        peer = self.request.getpeercert()
        return dict(x[0] for x in peer["subject"])["commonName"] if peer else "system:anonymous"

    def reset(self):
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Hangup

    # ---- one request ----

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (Hangup, OSError, ssl.SSLError, ValueError):
            self.close_connection = True

    def serve(self):
        self.active, self.record = None, None
        self.data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        try:
            if not self.server.tls and url.path.startswith("/_control/"):
                self.control(url.path)
                return
            user = self.who()
            if DISCOVERY.fullmatch(url.path):
                self.discover(url.path)
                return
            self.serve_resource(user, url.path)
        except Refused as e:
            if self.record:
                self.record["code"] = e.code
            retry = e.details.get("retryAfterSeconds")
            self.answer(e.code, e.status(), [("Retry-After", str(retry))] if retry is not None else [])

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def parse(self, path):
        parts = [urllib.parse.unquote(p) for p in path.strip("/").split("/")]
        version, parts = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        ns = None
        if len(parts) >= 3 and parts[0] == "namespaces" and parts[2] not in ("status", "finalize"):
            ns, parts = parts[1], parts[2:]
        resource = self.api.store.resources.get((version, parts[0] if parts else ""))
        if not resource or len(parts) > 3:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return resource, ns, parts[1] if len(parts) > 1 else None, parts[2] if len(parts) > 2 else None

    def serve_resource(self, user, path):
        resource, ns, name, sub = self.parse(path)
        verb = {"GET": "get" if name else "watch" if self.query.get("watch") in ("true", "1") else "list", "POST": "create", "PUT": "update",
                "PATCH": "patch", "DELETE": "delete" if name else "deletecollection"}[self.command]
        self.record = {"user": user, "verb": verb, "path": path, "query": self.query, "code": 0, "agent": self.headers.get("User-Agent"), "type": self.headers.get("Content-Type")}
        with self.api.lock:
            self.api.requests.append(self.record)
        self.active = self.api.take_fault(user, verb, path)
        if self.active:
            self.misbehave(self.active)
        # Who lists or watches one object by its name may be limited to that name.
        only = re.fullmatch(r"metadata\.name=([^,]+)", self.query.get("fieldSelector") or "")
        self.api.authorize(user, verb, resource, ns, name or (only and only[1]), sub)
        if verb == "watch":
            self.watch(resource, ns)
            return
        code, obj = self.perform(verb, resource, ns, name, sub, self.body())
        self.record["code"] = code
        if self.active and self.active["action"] == "lost":
            self.reset()
        while self.active and self.active["action"] == "late" and self.active in self.api.faults + self.api.spent and not self.api.stopped.is_set():
            time.sleep(0.01)
        self.answer(code, obj)

    def perform(self, verb, resource, ns, name, sub, body):
        store = self.api.store
        if resource.namespaced and name and ns is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        if sub not in (None, "status") and (resource.plural, sub) != ("serviceaccounts", "token") or (sub == "status" and not resource.has_status):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        if verb == "list":
            return 200, store.list(resource, ns, self.query.get("labelSelector"), self.query.get("fieldSelector"), int(self.query.get("limit") or 0),
                                   self.query.get("continue"), self.query.get("resourceVersion"))
        if verb == "get":
            return 200, store.get(resource, ns, name)
        if sub == "token" and verb == "create":
            token = self.api.user(secrets.token_hex(8), f"system:serviceaccount:{ns}:{name}")
            body["status"] = {"token": token, "expirationTimestamp": now()}
            return 201, body
        if verb == "create" and not name:
            return 201, store.create(resource, ns, body)
        if verb == "update":
            return 200, store.replace(resource, ns, name, body, sub)
        if verb == "patch":
            return 200, store.patch(resource, ns, name, (self.headers.get("Content-Type") or "").partition(";")[0], body, sub, self.query.get("fieldManager"))
        if verb == "delete":
            obj, gone = store.delete(resource, ns, name, body)
            return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": {"name": name, "kind": resource.plural, "uid": obj["metadata"]["uid"]}} if gone else obj
        raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    # ---- watches ----

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, kind, obj):
        self.chunk(dumps({"type": kind, "object": obj}) + b"\n")

    def alive(self):
        readable, _, _ = select.select([self.connection], [], [], 0)
        return not readable

    def watch(self, resource, ns):
        store, q = self.api.store, self.query
        if q.get("sendInitialEvents"):
            raise Refused(422, "Invalid", 'ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled')
        labels, fields, since = q.get("labelSelector"), q.get("fieldSelector"), q.get("resourceVersion") or "0"
        if not since.isdigit():
            raise Refused(400, "BadRequest", f"Invalid value: \"{since}\": resourceVersion is no number")
        with store.changed:
            store.items(resource, ns, labels, fields)
            initial, version = (store.items(resource, ns, labels, fields), store.version) if since == "0" else ([], int(since))
        if self.api.gone_as_status and version < store.compacted:
            raise Refused(410, "Expired", f"too old resource version: {version} ({store.compacted})")
        self.record["code"] = 200
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        with self.api.lock:
            self.api.watches += 1
        try:
            self.follow(resource, ns, labels, fields, initial, version, time.monotonic() + float(q.get("timeoutSeconds") or 1800))
        finally:
            with self.api.lock:
                self.api.watches -= 1

    def follow(self, resource, ns, labels, fields, initial, version, end):
        store, bookmark = self.api.store, time.monotonic() + self.api.bookmark_seconds
        for obj in initial:
            self.event("ADDED", obj)
        action = self.active["action"] if self.active else ""
        if action == "error":
            self.event("ERROR", Refused(self.active.get("code", 410), self.active.get("reason", "Expired"), self.active.get("message", "too old resource version: 1 (2)")).status())
        while action not in ("error", "short") and time.monotonic() < end and not self.api.stopped.is_set() and self.alive():
            try:
                with store.changed:
                    events, after = store.events(resource, ns, labels, fields, version)
                    if not events:
                        version = after
                        store.changed.wait(0.05)
            except Refused as e:
                self.event("ERROR", e.status())
                break
            for kind, obj in events:
                if action == "break":
                    self.chunk(dumps({"type": kind, "object": obj})[:40])
                    self.reset()
                if action == "half-open":
                    while self.alive() and not self.api.stopped.is_set() and self.active in self.api.faults + self.api.spent:
                        time.sleep(0.02)
                    raise Hangup
                self.event(kind, obj)
                version = self.record["version"] = int(obj["metadata"]["resourceVersion"])
            if self.query.get("allowWatchBookmarks") == "true" and time.monotonic() > bookmark and action != "half-open":
                bookmark = time.monotonic() + self.api.bookmark_seconds
                self.event("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {"resourceVersion": str(version), "creationTimestamp": None}})
        self.chunk(b"")

    # ---- faults, discovery, control ----

    def misbehave(self, fault):
        action = fault["action"]
        if action == "status":
            details = {"retryAfterSeconds": fault["retry_after"]} if "retry_after" in fault else {}
            raise Refused(fault["code"], fault.get("reason", ""), fault.get("message", "as the test wants it"), details=details)
        if action == "reset":
            self.reset()
        if action == "close":
            raise Hangup
        if action == "hang":
            while fault in self.api.faults + self.api.spent and not self.api.stopped.is_set() and not select.select([] if fault.get("deaf") else [self.connection], [], [], 0.02)[0]:
                pass
            if self.command == "GET" and select.select([self.connection], [], [], 0)[0]:
                raise Hangup
        if action == "slow":
            time.sleep(fault["seconds"])
        if action in ("garbage", "endless"):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b'{"kind":' + b"\x00<html>" if action == "garbage" else b'{"items":["')
            while action == "endless":
                self.wfile.write(b"a" * 65536)
            raise Hangup

    def discover(self, path):
        resources = self.api.store.resources.values()
        parts = path.strip("/").split("/")
        if parts[0] in ("healthz", "readyz", "livez"):
            self.answer(200, b"ok")
        elif parts[0] == "version":
            self.answer(200, {"major": "1", "minor": "35", "gitVersion": "v1.35.0"})
        elif path == "/api":
            self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            groups = {}
            for r in resources:
                if r.group:
                    groups[r.group] = {"groupVersion": r.api_version, "version": r.api_version.rpartition("/")[2]}
            self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": g, "versions": [v], "preferredVersion": v} for g, v in groups.items()]})
        else:
            version = "/".join(parts[1:])
            found = [r for r in resources if r.api_version == version]
            if not found:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            self.answer(200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [
                {"name": r.plural, "singularName": r.kind.lower(), "namespaced": r.namespaced, "kind": r.kind, "verbs": verbs} for r in found]})

    def control(self, path):
        api, what, body = self.api, path.removeprefix("/_control/"), self.body() if self.command == "POST" else {}
        result = {}
        if what == "fault" and self.command == "POST":
            api.fault(**body)
        elif what == "fault":
            api.clear()
        elif what == "requests":
            with api.lock:
                result = [{k: r[k] for k in ("user", "verb", "path", "query", "code")} for r in api.requests]
                if self.command == "DELETE":
                    api.requests.clear()
        elif what == "state":
            result = {"watches": api.watches, "version": api.store.version, "denied": api.denied, "invalid": api.store.invalid, "connections": api.connections}
        elif what == "compact":
            api.store.compact()
        elif what in ("down", "up"):
            getattr(api, what)()
        elif what in ("revoke", "rotate"):
            getattr(api, what)(body["user"])
        else:
            raise Refused(404, "NotFound", what)
        self.answer(200, result)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads, block_on_close, allow_reuse_address = True, False, True
    request_queue_size = 128

    def __init__(self, api, port, tls):
        self.api, self.tls, self.sockets = api, tls, set()
        super().__init__(("127.0.0.1", port), Handler)

    def process_request_thread(self, request, address):
        self.sockets.add(request)
        self.api.connections += 1
        try:
            self.finish_request(request, address)
        except (Hangup, OSError, ssl.SSLError):
            pass
        finally:
            self.sockets.discard(request)
            request.close()

    def finish_request(self, request, address):
        handler = None
        try:
            handler = Handler(request, address, self)
        finally:
            # wrap_socket() has taken the descriptor from @request.
            if handler is not None:
                self.sockets.discard(handler.request)
                handler.request.close()

    def cut(self):
        self.shutdown()
        self.server_close()
        for s in list(self.sockets):
            try:
                socket.socket.shutdown(s, socket.SHUT_RDWR)
            except OSError:
                pass


def listen(api, port, tls):
    """A process that another thread has just forked has the old listener, too, until it executes its program."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return Server(api, port, tls)
        except OSError as e:
            if e.errno != errno.EADDRINUSE or port == 0 or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class KubeApi:
    def __init__(self, directory, definitions=(), port=0):
        self.directory, self.store = str(directory), Store()
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.tokens, self.users, self.rules = {}, {}, []
        self.requests, self.denied, self.faults, self.spent = [], [], [], []
        self.watches, self.connections = 0, 0
        self.bookmark_seconds, self.gone_as_status = 60, False
        os.makedirs(self.directory, exist_ok=True)
        if not os.path.exists(os.path.join(self.directory, "ca.crt")):
            make_authority(self.directory)
        self.ca = os.path.join(self.directory, "ca.crt")
        for path in definitions:
            self.store.define(path)
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        self.tls.verify_mode = ssl.CERT_OPTIONAL
        self.tls.load_cert_chain(os.path.join(self.directory, "server.crt"), os.path.join(self.directory, "server.key"))
        self.server, self.plain, self.port = None, Server(self, 0, None), port
        self.admin = f"http://127.0.0.1:{self.plain.server_address[1]}"
        threading.Thread(target=self.plain.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.up()

    def up(self):
        """serve; again, on the same port, after down()"""
        self.stopped.clear()
        self.server = listen(self, self.port, self.tls)
        self.port = self.server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def down(self):
        """no API server is there: connections break, new ones are refused; the objects stay"""
        self.stopped.set()
        if self.server:
            self.server.cut()
            self.server = None

    def close(self):
        self.clear()
        self.down()
        self.plain.cut()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- who may what ----

    def user(self, name, user=ADMIN):
        """a token for @user, and its file; *name* is how the test calls it"""
        token = secrets.token_urlsafe(24)
        self.tokens[token] = user
        self.users[name] = user, token
        path = os.path.join(self.directory, name + ".token")
        with open(path + ".new", "w", encoding="utf-8") as f:
            f.write(token + "\n")
        os.rename(path + ".new", path)
        return token

    def revoke(self, name):
        self.tokens.pop(self.users[name][1], None)

    def rotate(self, name):
        self.revoke(name)
        return self.user(name, self.users[name][0])

    def certificate(self, name, user):
        sign(self.directory, name, f"/CN={user}", "extendedKeyUsage=clientAuth")
        return os.path.join(self.directory, name + ".crt"), os.path.join(self.directory, name + ".key")

    def kubeconfig(self, name, token_file=True, **cluster):
        """path of a kubeconfig for a user of user()"""
        path = os.path.join(self.directory, name + ".kubeconfig")
        auth = {"tokenFile": name + ".token"} if token_file else {"token": self.users[name][1]}
        with open(path, "w", encoding="utf-8") as f:
            yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "k", "cluster": {"server": self.url, "certificate-authority": "ca.crt", **cluster}}],
                            "users": [{"name": "u", "user": auth}], "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]}, f)
        os.chmod(path, 0o600)
        return path

    def service_account(self, name, namespace):
        """a directory such as a pod has below /var/run/secrets; with the variables that go with it"""
        path = os.path.join(self.directory, name + ".account")
        os.makedirs(path, exist_ok=True)
        for file, content in (("token", self.users[name][1]), ("namespace", namespace), ("ca.crt", open(self.ca, encoding="utf-8").read())):
            with open(os.path.join(path, file), "w", encoding="utf-8") as f:
                f.write(content)
        return path, {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def grant(self, *paths):
        """the Roles and ClusterRoles of manifests, to whom their bindings name"""
        documents = [d for path in paths for d in yaml.safe_load_all(open(path, encoding="utf-8")) if d]
        roles = {(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d for d in documents if d["kind"] in ("Role", "ClusterRole")}
        for d in documents:
            if d["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
                continue
            ns = d["metadata"].get("namespace")
            ref = d["roleRef"]
            for rule in roles[ref["kind"], ns if ref["kind"] == "Role" else None, ref["name"]]["rules"]:
                for s in d["subjects"]:
                    who = f"system:serviceaccount:{s.get('namespace', ns)}:{s['name']}" if s["kind"] == "ServiceAccount" else s["name"]
                    self.rules.append((who, ns, rule))

    def authorize(self, user, verb, resource, ns, name, sub):
        if user in (ADMIN, TEST):
            return
        wanted = resource.plural + (f"/{sub}" if sub else "")
        for who, where, rule in self.rules:
            if who == user and where in (None, ns) and {verb, "*"} & set(rule["verbs"]) and {resource.group, "*"} & set(rule.get("apiGroups", [])) and \
                    {wanted, "*"} & set(rule.get("resources", [])) and (not rule.get("resourceNames") or name in rule["resourceNames"]):
                return
        self.denied.append([user, verb, wanted, ns, name])
        raise Refused(403, "Forbidden", f'{resource.label} "{name or ""}" is forbidden: User "{user}" cannot {verb} resource "{wanted}" in API group "{resource.group}"' +
                      (f' in the namespace "{ns}"' if ns else " at the cluster scope"), details={"name": name or "", "group": resource.group, "kind": resource.plural})

    # ---- faults ----

    def fault(self, action, verb=None, path=None, user=None, times=1, after=0, **more):
        fault = {"action": action, "verb": verb, "path": path, "user": user, "times": times, "after": after, "id": secrets.token_hex(4), **more}
        with self.lock:
            self.faults.append(fault)
        return fault

    def take_fault(self, user, verb, path):
        with self.lock:
            for f in self.faults:
                if user == TEST or f["user"] not in (None, user) or f["verb"] not in (None, verb) or (f["path"] and not re.search(f["path"], path)):
                    continue
                if f["after"] > 0:
                    f["after"] -= 1
                    continue
                if f["times"] > 0:
                    f["times"] -= 1
                    if f["times"] == 0:
                        self.faults.remove(f)
                        self.spent.append(f)
                return f
        return None

    def clear(self):
        with self.lock:
            self.faults, self.spent = [], []

    # ---- for tests ----

    def wait(self, condition, seconds=30, what="the condition"):
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds} s")
            time.sleep(0.01)
        return value

    def count(self, **match):
        with self.lock:
            return sum(all(re.fullmatch(str(v), str(r.get(k))) for k, v in match.items()) for r in self.requests)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--directory", required=True)
    p.add_argument("--definition", action="append", default=[])
    p.add_argument("--user", action="append", default=[])
    p.add_argument("--grant", action="append", default=[])
    p.add_argument("--bookmark-seconds", type=float, default=60)
    a = p.parse_args()
    api = KubeApi(a.directory, a.definition)
    api.bookmark_seconds = a.bookmark_seconds
    if a.grant:
        api.grant(*a.grant)
    configs = {}
    for name, _, user in (u.partition("=") for u in a.user):
        api.user(name, user or ADMIN)
        configs[name] = api.kubeconfig(name)
    print(json.dumps({"url": api.url, "ca": api.ca, "admin": api.admin, "kubeconfigs": configs}), flush=True)
    sys.stdin.read()
    api.close()


if __name__ == "__main__":
    main()
