# SPDX-License-Identifier: Apache-2.0
"""A network namespace that has the addresses of the clouds' metadata services, with the firmware's words of each cloud mounted over
/sys/class/dmi. The services answer as the clouds document it; vSphere's hypervisor is backdoor-peer.c."""
import ctypes
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
import xml.etree.ElementTree as ElementTree

if os.environ.get("IN_NAMESPACES") != "1":
    os.environ["IN_NAMESPACES"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, *sys.argv])

PROGRAM, AZURE_READY, BACKDOOR_PEER = [os.path.abspath(a) for a in sys.argv[1:4]]
PATIENCE = 120          # seconds; for a machine that is busy
LINK_LOCAL, ALIBABA, WIRE = "169.254.169.254", "100.100.100.200", "168.63.129.16"
AWS6, GCP6 = "fd00:ec2::254", "fd20:ce::254"
ADDRESSES = [LINK_LOCAL, ALIBABA, WIRE, AWS6, GCP6]

LIBC = ctypes.CDLL(None, use_errno=True)
IN_OPEN = 0x20

SECRET = "SECRET-OF-THE-TEST"
TOKEN = "TOKEN-OF-THE-TEST=="
GOOD = f"""#cloud-config

write_files:
  - path: /run/peerpod/apf.json
    content: |
      {{
          "pod-network": null,
          "pod-name": "nginx",
          "tls-server-key": "{SECRET}"
      }}
  - path: /run/peerpod/auth.json
    content: |
      {{"auths":{{}}}}
""".encode()

DMI = {
    "aws": {"sys_vendor": "Amazon EC2"},
    "azure": {"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"},
    "gcp": {"sys_vendor": "Google", "product_name": "Google Compute Engine"},
    "ibm": {"sys_vendor": "QEMU", "chassis_vendor": "IBM:Cloud Compute Server 1.0:bx2-2x8", "chassis_asset_tag": "ibmcloud"},
    "alibaba": {"sys_vendor": "Alibaba Cloud", "product_name": "Alibaba Cloud ECS"},
    "vsphere": {"sys_vendor": "VMware, Inc.", "product_name": "VMware7,1"},
}


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, timeout=PATIENCE)


def prefix(address):
    return [address + "/128", "nodad"] if ":" in address else [address + "/32"]


def add_addresses():
    ip("link", "set", "lo", "up")
    for a in ADDRESSES:
        ip("address", "add", *prefix(a), "dev", "lo")


def wait_for_opens(path, n):
    """Until somebody else has opened a file so many times."""
    fd = LIBC.inotify_init1(os.O_NONBLOCK)
    try:
        if fd < 0 or LIBC.inotify_add_watch(fd, path.encode(), IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        for _ in range(n):
            # Equal events in a row are merged while they are not read.
            if not select.select([fd], [], [], PATIENCE)[0]:
                raise AssertionError("nobody opens " + path)
            os.read(fd, 4096)
    finally:
        os.close(fd)


def reply(body=b"", status=200, **headers):
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Request:
    def __init__(self, connection):
        text = b""
        while b"\r\n\r\n" not in text:
            more = connection.recv(65536)
            if not more:
                raise ConnectionError
            text += more
        head, self.body = text.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        self.method, self.path, self.version = first.split(" ")
        self.headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        while len(self.body) < int(self.headers.get("content-length", 0)):
            self.body += connection.recv(65536)


class Service:
    """Listens at an address; answer(request) gives the bytes of the reply, or has a connection to do what it likes with."""

    def __init__(self, address, answer, port=80):
        self.answer, self.requests, self.connections = answer, [], 0
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((address, port))
        self.socket.listen(64)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            try:
                request = Request(connection)
                self.requests.append(request)
                answer = self.answer(request, connection)
                if answer is not None:
                    connection.sendall(answer)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(PATIENCE)


def in_turn(*answers):
    """One answer for each request, the last one for all that follow; each is bytes, or a function as Service has it."""
    left = list(answers)

    def answer(request, connection):
        now = left.pop(0) if len(left) > 1 else left[0]
        return now(request, connection) if callable(now) else now
    return answer


def with_token(data, path, ttl, header):
    """AWS and Alibaba: a token for whoever asks with PUT, data for whoever has it."""
    def answer(request, connection):
        if request.path == "/latest/api/token":
            good = request.method == "PUT" and 0 < int(request.headers.get(ttl, 0)) <= 21600 and not request.body
            return reply(TOKEN.encode()) if good else reply(status=400)
        if request.headers.get(header) != TOKEN:
            return reply(status=401)
        if (request.method, request.path) != ("GET", path):
            return reply(status=404)
        return data(request, connection) if callable(data) else data
    return answer


def aws(data):
    return with_token(data, "/latest/user-data", "x-aws-ec2-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token")


def alibaba(data):
    return with_token(data, "/latest/user-data", "x-aliyun-ecs-metadata-token-ttl-seconds", "x-aliyun-ecs-metadata-token")


def azure(data):
    def answer(request, connection):
        if request.headers.get("metadata") != "true" or "x-forwarded-for" in request.headers:
            return reply(status=400)
        if request.path != "/metadata/instance/compute/userData?api-version=2021-01-01&format=text":
            return reply(status=404)
        return data(request, connection) if callable(data) else data
    return answer


def gcp(data, flavor="Google"):
    def answer(request, _):
        if request.headers.get("metadata-flavor") != "Google" or request.headers["host"] != "metadata.google.internal":
            return reply(status=403)
        if request.path != "/computeMetadata/v1/instance/attributes/user-data":
            return reply(status=404, Metadata_Flavor=flavor)
        return reply(data, Metadata_Flavor=flavor, Server="Metadata Server for VM")
    return answer


def ibm(data):
    def answer(request, _):
        if request.path == "/instance_identity/v1/token?version=2022-03-01":
            if (request.method, request.headers.get("metadata-flavor")) != ("PUT", "ibm") or json.loads(request.body) != {"expires_in": 300}:
                return reply(status=400)
            return reply(json.dumps({"access_token": TOKEN, "created_at": "x", "expires_at": "y", "expires_in": 300}).encode())
        if request.headers.get("authorization") != "Bearer " + TOKEN:
            return reply(status=401)
        if request.path != "/metadata/v1/instance/initialization?version=2022-03-01":
            return reply(status=404)
        return reply(json.dumps({"keys": [], "user_data": data}).encode() if isinstance(data, str) else data)
    return answer


class Rig(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.dir)
        os.mkdir(self.path("seed"))
        os.mkdir(self.path("sys"))              # a machine without TPM and TEE
        self.environment = dict(os.environ)
        self.log = ""

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def write(self, name, data):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as f:
            f.write(data)

    def machine(self, cloud):
        """The firmware's words, which the kernel shows below /sys."""
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/class"], check=True)
        self.addCleanup(subprocess.run, ["umount", "/sys/class"], check=True)
        os.makedirs("/sys/class/dmi/id")
        for name, value in DMI[cloud].items():
            with open("/sys/class/dmi/id/" + name, "w") as f:
                f.write(value + "\n")

    def service(self, address, answer, port=80):
        s = Service(address, answer, port)
        self.addCleanup(s.close)
        return s

    def start(self, *arguments, program=(PROGRAM, "provision-files")):
        command = [*program, *arguments]
        if program[-1] == "provision-files":
            command += ["--seed-dir", self.path("seed"), "--output-dir", self.path("out"), "--sys-dir", self.path("sys")]
        p = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.kill)
        return p

    def finish(self, p, status):
        self.log = p.communicate(timeout=PATIENCE)[0].decode()
        self.assertEqual(p.returncode, status, self.log)
        self.assertNotIn(SECRET, self.log)
        self.assertNotIn(TOKEN.rstrip("="), self.log)

    def run_to(self, status, *arguments, **more):
        self.finish(self.start(*arguments, **more), status)

    def succeeds(self, *arguments, **more):
        self.run_to(0, *arguments, **more)
        self.check_files()

    def check_files(self):
        self.assertEqual(sorted(os.listdir(self.path("out"))), ["aa.toml", "apf.json", "auth.json", "initdata", "initdata.digest", "user-data"])
        with open(self.path("out", "user-data"), "rb") as f:
            self.assertEqual(f.read(), GOOD)

    def fails(self, status, text, *arguments, **more):
        self.run_to(status, *arguments, **more)
        self.assertIn(text, self.log)
        self.assertFalse(os.path.exists(self.path("out")), self.log)


VERSIONS = b"""<?xml version="1.0" encoding="utf-8"?>
<Versions><Preferred><Version>2015-04-05</Version></Preferred>
<Supported><Version>2015-06-05</Version><Version>2015-04-05</Version><Version>2012-11-30</Version></Supported></Versions>"""
GOAL_STATE = b"""<?xml version="1.0" encoding="utf-8"?>
<GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="goalstate10.xsd">
  <Version>2015-04-05</Version><Incarnation>1</Incarnation>
  <Machine><ExpectedState>Started</ExpectedState><StopRolesDeadlineHint>300000</StopRolesDeadlineHint></Machine>
  <Container><ContainerId>c6d5526c-5ac2-4200-b6e2-56f2b70c5ab2</ContainerId>
    <RoleInstanceList><RoleInstance><InstanceId>b61f93d0.MachineRole_IN_0</InstanceId><State>Started</State></RoleInstance></RoleInstanceList>
  </Container></GoalState>"""


class Wire:
    """Azure's WireServer, as far as it concerns a VM without extensions."""

    def __init__(self, **answers):
        self.answers = {"versions": VERSIONS, "goalstate": GOAL_STATE, **answers}
        self.health = []

    def __call__(self, request, connection):
        if request.headers.get("x-ms-agent-name") != "azure-ready":
            return reply(status=400)
        for path, name in (("/?comp=versions", "versions"), ("/machine/?comp=goalstate", "goalstate")):
            if (request.method, request.path) == ("GET", path):
                if name == "goalstate" and request.headers.get("x-ms-version") != "2015-04-05":
                    return reply(status=400)
                return reply(self.answers[name])
        if (request.method, request.path) != ("POST", "/machine?comp=health"):
            return reply(status=404)
        if request.headers.get("content-type") != "text/xml; charset=utf-8" or request.headers.get("x-ms-version") != "2015-04-05":
            return reply(status=400)
        self.health.append(ElementTree.fromstring(request.body))
        return reply()
