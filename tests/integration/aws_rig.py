# SPDX-License-Identifier: Apache-2.0
"""What aws-test.py needs: the module aws.so loaded as it is, and its peer. The peer is moto (getmoto/moto), an independent EC2 and STS,
behind a listener of ours that

- verifies each signature with botocore's own signer,
- reads each request by botocore's model of the service and writes it again by botocore's own serializer: an unknown parameter, one of a wrong
  type, or any other difference from what botocore would send for the same call is an error,
- does what moto leaves out of EC2's contract: ClientToken (IdempotentParameterMismatch), the limit of user data, the pairing of a public address
  with one interface; and the instance metadata service with its version 2,
- breaks when it is told to."""
import base64
import ctypes
import hashlib
import http.server
import json
import os
import select
import socket
import struct
import threading
import time
import urllib.parse
import uuid

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.serialize
import botocore.session
from moto.backends import get_backend
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import Client

from provider_abi import ERRORS, P, S, LOG, Error, Call, Config, Spec, Instance, Key, FOUND, Provider

REGION, ACCOUNT = "us-east-1", "123456789012"
KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
USEC = 1_000_000

# ---- the module ----

def now_usec():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class ModuleError(Exception):
    def __init__(self, error):
        super().__init__(error.text.decode())
        self.kind = ERRORS[error.kind]


class Module:
    """One opened module. Settings by their variables; `environment` is what the module finds in the environment."""

    def __init__(self, path, settings, environment):
        self.library = ctypes.CDLL(path)
        self.provider = Provider.in_dll(self.library, "peerpod_provider")
        self.messages, self.handle = [], P()
        self.log = LOG(lambda userdata, level, text: self.messages.append(text.decode()))
        options = [self.provider.options[i] for i in range(self.provider.n_options)]
        settings = dict(settings)
        values = []
        for o in options:
            values.append(settings.pop((o.env or o.name).decode(), o.default_value.decode()).encode())
        assert not settings, f"no such option: {settings}"
        old = dict(os.environ)
        try:
            for k in list(os.environ):
                if k.startswith("AWS_") or k.lower().endswith("_proxy"):
                    del os.environ[k]
            os.environ.update(environment)
            self.check(self.provider.open, ctypes.byref(Config(ctypes.sizeof(Config), len(values), (S * len(values))(*values), b"/nonexistent", self.log, None)),
                       ctypes.byref(self.call()), ctypes.byref(self.handle))
        finally:
            os.environ.clear()
            os.environ.update(old)

    def call(self, timeout=60, cancel_fd=-1):
        return Call(ctypes.sizeof(Call), cancel_fd, now_usec() + int(timeout * USEC), self.log, None)

    @staticmethod
    def check(function, *args):
        error = Error(ctypes.sizeof(Error))
        r = function(*args, ctypes.byref(error))
        if r < 0:
            assert error.kind != 0 and error.text, "a failure without a reason"
            raise ModuleError(error)

    def verify(self, timeout=30):
        self.check(self.provider.verify, self.handle, ctypes.byref(self.call(timeout)))

    def create(self, name="podvm-a", sandbox="sandbox-a", node="node1", user_data="#cloud-config\nwrite_files:\n  - path: /run/peerpod/apf.json\n", timeout=60,
               cancel_fd=-1, machine_type="", image="", vcpus=0, memory_mib=0, gpus=0, gpu_model="", multi_nic=False, volumes=()):
        e = lambda s: s.encode()
        spec = Spec(ctypes.sizeof(Spec), vcpus, memory_mib, gpus, 1 if multi_nic else 0, e(name), e(sandbox), e(node), e(machine_type), e(image), b"pod", b"default",
                    e(user_data), len(e(user_data)), (S * len(volumes))(*map(e, volumes)), len(volumes), e(gpu_model))
        i = Instance(ctypes.sizeof(Instance))
        self.check(self.provider.create, self.handle, ctypes.byref(self.call(timeout, cancel_fd)), ctypes.byref(spec), ctypes.byref(i))
        return i.id.decode(), i.type.decode(), [i.addresses[n].value.decode() for n in range(i.n_addresses)]

    def remove(self, name="podvm-a", sandbox="sandbox-a", id="", timeout=60):
        key = Key(ctypes.sizeof(Key), 0, name.encode(), sandbox.encode(), id.encode())
        self.check(self.provider.remove, self.handle, ctypes.byref(self.call(timeout)), ctypes.byref(key))

    def find(self, node="node1", timeout=60):
        found = []

        def on_found(userdata, key):
            k = key.contents
            found.append((k.name.decode(), k.sandbox_id.decode(), k.id.decode()))
            return 0

        self.check(self.provider.find, self.handle, ctypes.byref(self.call(timeout)), node.encode(), FOUND(on_found), None)
        return found

    def close(self):
        if self.handle:
            self.provider.close(self.handle)
            self.handle = P()


# ---- botocore's opinion of a request ----

MODELS = {s: botocore.session.get_session().get_service_model(s) for s in ("ec2", "sts")}


def check_signature(method, host, path, headers, body, secret, token):
    """None, or what is wrong"""
    authorization = headers.get("Authorization", "")
    if not authorization.startswith("AWS4-HMAC-SHA256 "):
        return "no signature"
    parts = dict(p.strip().split("=", 1) for p in authorization.split(" ", 1)[1].split(","))
    _, date, region, service, _ = parts["Credential"].split("/")
    request = botocore.awsrequest.AWSRequest(method=method, url=f"http://{host}{path}", data=body)
    signed = parts["SignedHeaders"].split(";")
    for name in ("host", "x-amz-date", "content-type") + (("x-amz-security-token",) if token else ()):
        if name not in signed:
            return f"{name} is not signed"
    for name in signed:
        request.headers[name] = headers[name]
    if token and headers.get("X-Amz-Security-Token") != token:
        return "another session token"
    auth = botocore.auth.SigV4Auth(botocore.credentials.Credentials("x", secret, token or None), service, region)
    request.context["timestamp"] = headers["X-Amz-Date"]
    if not headers["X-Amz-Date"].startswith(date):
        return "date of the scope"
    auth.payload = lambda _: hashlib.sha256(body).hexdigest()
    canonical = auth.canonical_request(request)
    signature = auth.signature(auth.string_to_sign(request, canonical), request)
    return None if signature == parts["Signature"] else f"signature of:\n{canonical}"


def read_value(shape, params, prefix, used):
    """What the flat parameters below @prefix say, by the model of EC2's Query protocol"""
    if shape.type_name == "structure":
        value = {}
        for name, member in shape.members.items():
            key = member.serialization.get("queryName") or member.serialization.get("name", name)
            if "queryName" not in member.serialization:
                key = key[0].upper() + key[1:]
            child = read_value(member, params, f"{prefix}.{key}" if prefix else key, used)
            if child is not None:
                value[name] = child
        return value or None
    if shape.type_name == "list":
        value = []
        while True:
            child = read_value(shape.member, params, f"{prefix}.{len(value) + 1}", used)
            if child is None:
                return value or None
            value.append(child)
    if prefix not in params:
        return None
    used.add(prefix)
    text = params[prefix]
    if shape.type_name in ("integer", "long"):
        return int(text)
    if shape.type_name == "boolean":
        assert text in ("true", "false"), f"{prefix}={text} is no boolean"
        return text == "true"
    if shape.type_name == "blob":
        return base64.b64decode(text, validate=True)
    assert shape.type_name == "string", f"{prefix}: {shape.type_name}"
    if shape.enum:
        assert text in shape.enum, f"{prefix}={text} is none of {shape.enum}"
    return text


def check_parameters(service, params):
    """The call's arguments; raises if botocore would send anything else for them."""
    operation = MODELS[service].operation_model(params["Action"])
    used = {"Action", "Version"}
    arguments = read_value(operation.input_shape, params, "", used) or {}
    assert used == set(params), f"{params['Action']}: unknown parameters {set(params) - used}"
    theirs = botocore.serialize.create_serializer(MODELS[service].metadata["protocol"]).serialize_to_request(arguments, operation)
    assert {k: str(v) for k, v in theirs["body"].items()} == params, f"{params['Action']}: botocore sends {theirs['body']}, not {params}"
    return arguments


# ---- the peer ----

class Peer:
    """Listens on a free port of loopback. `url` is the endpoint of EC2, STS and metadata."""

    def __init__(self):
        self.lock = threading.RLock()
        self.problems = []              # what botocore would not have sent; each test ends with a look at it
        self.app = DomainDispatcherApplication(create_backend_app)
        self.server = Server(("127.0.0.1", 0), self)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.reset()
        self.thread.start()

    def reset(self, keep=False):
        """@keep: what moto has; making its images anew takes a while"""
        if not keep:
            moto_api_backend.reset()
        with self.lock:
            self.keys = {KEY_ID: (SECRET, "")}  # id → (secret, session token)
            self.calls = []                     # (service, arguments) with "Action"
            self.faults = {}                    # action → list of faults, each used once
            self.fault_at = None                # (number of the call from now on, fault)
            self.on_call = None                 # called with the action before anything is done
            self.on_run = None                  # called with each instance that RunInstances has made
            self.answer = None                  # (action, arguments) → (status, code) or None
            self.tokens = {}                    # ClientToken → (parameters, reply)
            self.token_misses = 0
            self.metadata, self.metadata_tokens, self.metadata_v2 = {}, {}, True
            self.metadata_calls = []
            self.hidden = {}                    # instance id → how many DescribeInstances do not show it yet
            self.page_size = None
            self.clock_offset = 0
            self.released = threading.Event()   # set: slow answers go on
            self.problems.clear()
        if not keep:
            self.network()

    def network(self):
        ec2 = self.ec2
        self.subnet = next(iter(ec2.get_default_subnets().values())) if hasattr(ec2, "get_default_subnets") else ec2.describe_subnets()[0]
        self.subnet_id = self.subnet.id
        self.zone = self.subnet.availability_zone
        self.group = ec2.create_security_group("pods", "pods", vpc_id=self.subnet.vpc_id).id
        self.image = next(i for i in ec2.describe_images() if i.architecture == "x86_64" and i.root_device_name).id

    @property
    def ec2(self):
        return get_backend("ec2")[ACCOUNT][REGION]

    def actions(self):
        with self.lock:
            return [a["Action"] for _, a in self.calls]

    def arguments(self, action):
        with self.lock:
            return [a for _, a in self.calls if a["Action"] == action]

    def left(self):
        """What there is that costs money or a name"""
        ec2 = self.ec2
        return ([i.id for i in ec2.all_instances() if i._state.name not in ("terminated",)] +
                [a.allocation_id for a in ec2.addresses] + [n.id for n in ec2.enis.values() if any(t["key"] == "peerpod-node" for t in n.get_tags())])

    def environment(self, **more):
        return {"AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url, "HOME": "/nonexistent", **more}

    def settings(self, **more):
        return {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION, "PODVM_AMI_ID": self.image, "AWS_SUBNET_ID": self.subnet_id,
                "AWS_SG_IDS": self.group, "DISABLECVM": "true", **more}

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


def error_body(service, code, message="scripted"):
    if service == "sts":
        return f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    return f'<?xml version="1.0"?><Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>1</RequestID></Response>'


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address, peer):
        self.peer = peer
        super().__init__(address, Handler)

    def handle_error(self, request, client_address):
        pass


# What a try meets: before the service sees it, or after. The answer's bytes are broken, late, or other ones.
BEFORE = ("reset-before", "500", "503", "429", "throttle", "401", "403", "404")
AFTER = ("reset-after", "500-after", "truncated", "garbage", "slow")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def date_time_string(self, timestamp=None):
        return super().date_time_string((timestamp or time.time()) + self.server.peer.clock_offset)

    def reply(self, status, body, headers=(), cut=None):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for k, v in headers:
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    # -- metadata --

    def do_PUT(self):
        peer = self.server.peer
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        peer.metadata_calls.append(("PUT", self.path))
        if self.path != "/latest/api/token" or not peer.metadata_v2:
            self.reply(404, "")
            return
        token = uuid.uuid4().hex
        peer.metadata_tokens[token] = time.monotonic() + int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"])
        self.reply(200, token, [("X-aws-ec2-metadata-token-ttl-seconds", self.headers["X-aws-ec2-metadata-token-ttl-seconds"])])

    def do_GET(self):
        peer = self.server.peer
        peer.metadata_calls.append(("GET", self.path))
        if self.path.startswith("/container"):
            value = peer.metadata.get(self.path)
            if value is None or self.headers.get("Authorization") != "container-token":
                self.reply(401, "")
            else:
                self.reply(200, value)
            return
        if peer.metadata_v2 and peer.metadata_tokens.get(self.headers.get("X-aws-ec2-metadata-token"), 0) < time.monotonic():
            self.reply(401, "")
            return
        value = peer.metadata.get(self.path.removeprefix("/latest/meta-data/"))
        self.reply(200 if value is not None else 404, value or "")

    # -- EC2, STS --

    def do_POST(self):
        peer = self.server.peer
        body = self.rfile.read(int(self.headers["Content-Length"]))
        params = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
        service = "sts" if params["Version"] == "2011-06-15" else "ec2"
        action = params["Action"]
        with peer.lock:
            script = peer.faults.get(action)
            fault = script.pop(0) if script else None
            if peer.fault_at:
                n, at = peer.fault_at
                peer.fault_at = (n - 1, at) if n > 1 else None
                fault = at if n == 1 else fault
        if callable(fault):
            fault = fault()
        if fault == "reset-before":
            self.reset()
            return
        if fault == "hold":
            self.hold(peer)
            return
        if fault in BEFORE:
            self.refuse(service, fault)
            return

        status, reply = self.serve(peer, service, action, params, body)
        if fault == "reset-after":
            self.reset()
        elif fault == "500-after":
            self.reply(500, error_body(service, "InternalError"))
        elif fault == "truncated":
            self.reply(status, reply, cut=len(reply) // 2)
        elif fault == "garbage":
            self.reply(200, b"\x00\xff<html>" * 20)
        elif fault == "slow":
            self.hold(peer)
        else:
            self.reply(status, reply, [("Content-Type", "text/xml")])

    def hold(self, peer):
        """Says the head, and then no more until the other side has gone"""
        self.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n<")
        while not peer.released.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.05)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                break
        self.close_connection = True

    def refuse(self, service, fault):
        code = {"500": (500, "InternalError"), "503": (503, "Unavailable"), "throttle": (503, "RequestLimitExceeded"), "401": (401, "AuthFailure"),
                "403": (403, "UnauthorizedOperation")}.get(fault)
        if code:
            self.reply(code[0], error_body(service, code[1]))
        else:
            self.reply(int(fault), "<html>not what you wanted</html>", [("Retry-After", "0")] if fault == "429" else [])

    def serve(self, peer, service, action, params, body):
        try:
            arguments = check_parameters(service, params)
        except (AssertionError, ValueError, KeyError) as e:
            peer.problems.append(repr(e))
            return 400, error_body(service, "InvalidParameter", str(e)).encode()
        if action != "AssumeRoleWithWebIdentity":
            refused = self.check_signature(peer, body)
            if refused:
                return 403, error_body(service, *refused).encode()
        if peer.on_call:
            peer.on_call(action)
        with peer.lock:
            peer.calls.append((service, {"Action": action, **arguments}))
            scripted = peer.answer(action, arguments) if peer.answer else None
        if scripted:
            return scripted[0], error_body(service, *scripted[1:]).encode()
        if action == "RunInstances":
            return self.run_instances(peer, params, arguments, body)
        if action == "DescribeInstances" and peer.hidden:
            for id in arguments.get("InstanceIds", []):
                if peer.hidden.get(id, 0) > 0:
                    peer.hidden[id] -= 1
                    return 400, error_body(service, "InvalidInstanceID.NotFound").encode()
        return self.ask_moto(peer, service, body)

    def check_signature(self, peer, body):
        scope = self.headers.get("Authorization", "").partition("Credential=")[2]
        key = peer.keys.get(scope.partition("/")[0])
        if not key:
            return "AuthFailure", "no such key"
        wrong = check_signature("POST", self.headers["Host"], self.path, self.headers, body, *key)
        if wrong:
            peer.problems.append(wrong)
            return "SignatureDoesNotMatch", "wrong"
        sent = time.mktime(time.strptime(self.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")) - time.timezone
        if abs(sent - time.time() - peer.clock_offset) > 300:
            return "RequestExpired", "clock"
        return None

    def run_instances(self, peer, params, arguments, body):
        if len(base64.b64decode(arguments.get("UserData", ""))) > 16384:
            return 400, error_body("ec2", "InvalidParameterValue", "User data is limited to 16384 bytes").encode()
        nics = arguments.get("NetworkInterfaces", [])
        if len(nics) > 1 and any(n.get("AssociatePublicIpAddress") for n in nics):
            return 400, error_body("ec2", "InvalidParameterCombination").encode()
        token = arguments.get("ClientToken")
        with peer.lock:
            if token and not arguments.get("DryRun"):
                before = peer.tokens.get(token)
                if before and before[0] != params:
                    peer.token_misses += 1
                    return 400, error_body("ec2", "IdempotentParameterMismatch").encode()
                if before:
                    return before[1], self.refresh(peer, before[2])
            status, reply = self.ask_moto(peer, "ec2", body)
            if token and status == 200:
                peer.tokens[token] = (params, status, reply)
            if status == 200 and peer.on_run:
                peer.on_run(peer.ec2.get_instance(reply.split(b"<instanceId>")[1].split(b"<")[0].decode()))
        return status, reply

    @staticmethod
    def refresh(peer, reply):
        """The same answer, with the state that the instance has now"""
        id = reply.split(b"<instanceId>")[1].split(b"<")[0].decode()
        instance = peer.ec2.get_instance(id)
        if instance._state.name == "terminated":
            return reply.replace(b"<name>pending</name>", b"<name>terminated</name>")
        return reply

    def ask_moto(self, peer, service, body):
        headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential=AKIA/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0",
                   "Content-Type": "application/x-www-form-urlencoded"}
        if peer.page_size and b"Action=DescribeInstances&" in body:
            text = urllib.parse.parse_qsl(body.decode(), keep_blank_values=True)
            body = urllib.parse.urlencode([(k, str(peer.page_size) if k == "MaxResults" else v) for k, v in text]).encode()
        r = Client(peer.app).post("/", data=body, headers=headers, base_url=f"http://{service}.{REGION}.amazonaws.com")
        if b"Action=DescribeInstanceTypes&" in body:    # moto does not tell of features
            return r.status_code, b"<instanceType>".join(
                part.replace(b"<processorInfo>", b"<processorInfo><supportedFeatures><item>amd-sev-snp</item></supportedFeatures>")
                if part.startswith(b"m6a.") else part for part in r.data.split(b"<instanceType>"))
        if service == "sts" and b"<SecretAccessKey>" in r.data:
            get = lambda tag: r.data.split(f"<{tag}>".encode())[1].split(b"<")[0].decode()
            peer.keys[get("AccessKeyId")] = (get("SecretAccessKey"), get("SessionToken"))
        return r.status_code, r.data


def metadata_role(peer, key_id, secret, token, expires="2099-01-01T00:00:00Z"):
    peer.metadata["iam/security-credentials/"] = "podvm-role"
    peer.metadata["iam/security-credentials/podvm-role"] = json.dumps(
        {"Code": "Success", "AccessKeyId": key_id, "SecretAccessKey": secret, "Token": token, "Expiration": expires})
    peer.keys[key_id] = (secret, token)
