# SPDX-License-Identifier: Apache-2.0
"""What vsphere-test.py needs: govmomi's vCenter simulator (vmware/govmomi: simulator; tests/peers/vcsim says what is added), and a listener in
front of it that counts and breaks requests.

    with vsphere_rig.Vcenter() as vc:               # vc.server: the cloud_rig.Server in front; vc.settings(GOVC_…="…")
        vc.state()                                  # {"machines": [{"name", "uuid", "power", …}], "running": tasks}
        vc.set(task_fault={"CloneVM_Task": "NoDiskSpace"})
        vc.left("podvm-")                           # names of machines that begin so, "" if there are none"""
import contextlib
import http.client
import json
import pathlib
import re
import subprocess
import threading
import urllib.parse
import xml.sax.saxutils

import cloud_rig

PEERS = pathlib.Path(__file__).resolve().parent.parent / "peers"
USER, PASSWORD = "peerpod@vsphere.local", "s3cret & <word>"


def method_of(request):
    """The method that a request asks for"""
    m = re.search(rb"<s:Body><(\w+) ", request.body)
    return m.group(1).decode() if m else ""


class Vcenter:
    def __init__(self, tls=None):
        self.process = subprocess.Popen([PEERS / "go-peer", "vcsim", USER, PASSWORD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), "the simulator does not start"
        self.address = urllib.parse.urlsplit(self.url).netloc
        self.local = threading.local()
        self.server = cloud_rig.Server(self.forward, tls=tls)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            self.server.__exit__(*exc)
        finally:
            self.process.stdin.close()
            self.process.wait(cloud_rig.PATIENCE)
            self.process.stdout.close()

    def ask(self, method, path, body=None, headers=()):
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection(self.address, timeout=cloud_rig.PATIENCE)
        try:
            self.local.connection.request(method, path, body, dict(headers))
            reply = self.local.connection.getresponse()
            return reply.status, reply.read(), reply.headers
        except (OSError, http.client.HTTPException):
            self.local.connection.close()
            raise

    def forward(self, request):
        keep = {k: v for k, v in request.headers.items() if k in ("cookie", "soapaction", "content-type")}
        status, body, headers = self.ask(request.method, request.target, request.body, keep)
        cookie = headers.get("Set-Cookie")
        return status, body, {"Content-Type": headers.get("Content-Type", "text/xml"), **({"Set-Cookie": cookie} if cookie else {})}

    def state(self):
        return json.loads(self.ask("GET", "/peer/state")[1])

    def set(self, **settings):
        status, body, _ = self.ask("POST", "/peer/set", json.dumps(settings))
        assert status == 200, body

    def machine(self, name):
        return next((m for m in self.state()["machines"] if m["name"] == name), None)

    def left(self, prefix="podvm-"):
        return " ".join(m["name"] for m in self.state()["machines"] if m["name"].startswith(prefix) and not m["template"])

    def soap(self, method, this, inside="", cookie=None):
        """One call past the listener: (body, cookie)"""
        kind, id = this
        body = ('<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><s:Body>'
                f'<{method} xmlns="urn:vim25"><_this type="{kind}">{id}</_this>{inside}</{method}></s:Body></s:Envelope>')
        status, answer, headers = self.ask("POST", "/sdk", body, {"SOAPAction": "urn:vim25/6.7", **({"Cookie": cookie} if cookie else {})})
        assert status == 200, answer
        return answer.decode(), (headers.get("Set-Cookie") or "").split(";")[0]

    def destroy(self, path):
        """Somebody removes what is at an inventory path"""
        _, cookie = self.soap("Login", ("SessionManager", "SessionManager"), f"<userName>{USER}</userName><password>{xml.sax.saxutils.escape(PASSWORD)}</password>")
        found, _ = self.soap("FindByInventoryPath", ("SearchIndex", "SearchIndex"), f"<inventoryPath>{path}</inventoryPath>", cookie)
        ref = re.search(r'<returnval type="(\w+)">([^<]+)<', found).groups()
        if ref[0] == "VirtualMachine" and self.machine(path.rsplit("/", 1)[1])["power"] == "poweredOn":
            self.soap("PowerOffVM_Task", ref, "", cookie)
            cloud_rig.wait_for(lambda: self.machine(path.rsplit("/", 1)[1])["power"] == "poweredOff", f"{path} is off")
        self.soap("Destroy_Task", ref, "", cookie)
        cloud_rig.wait_for(lambda: "returnval" not in self.soap("FindByInventoryPath", ("SearchIndex", "SearchIndex"), f"<inventoryPath>{path}</inventoryPath>", cookie)[0],
                           f"{path} is gone")
        self.soap("Logout", ("SessionManager", "SessionManager"), "", cookie)

    def end_sessions(self):
        """As a vCenter does after half an hour: log out each session that was seen"""
        for cookie in {r.headers.get("cookie") for r in self.server.requests if r.headers.get("cookie")}:
            with contextlib.suppress(AssertionError):
                self.soap("Logout", ("SessionManager", "SessionManager"), "", cookie)

    def settings(self, **more):
        env = {"GOVC_URL": self.server.url, "GOVC_USERNAME": USER, "GOVC_PASSWORD": PASSWORD, "GOVC_DATACENTER": "DC0", "GOVC_HOST": "DC0_H0",
               "GOVC_DATASTORE": "LocalDS_0", "GOVC_FOLDER": "peerpods"}
        env.update(more)
        return {k: v for k, v in env.items() if v is not None}
