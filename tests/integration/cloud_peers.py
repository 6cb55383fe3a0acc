# SPDX-License-Identifier: Apache-2.0
"""The peers of all clouds' modules behind one face, for tests and measurements that do the same with each.

    with cloud_peers.open(name) as cloud:       # a key of CLOUDS
        cloud.environment()         what providerd needs to find it
        cloud.machines()            [Machine]: what the cloud has, as the cloud knows it
        cloud.owner(sandbox, node)  the tags that a machine must have, in the cloud's own form
        cloud.n_created()           how many machines were made so far
        cloud.left()                a text: everything that costs money or takes a name; "" is nothing
        cloud.hold()                machines that are made from now on do not get ready …
        cloud.release()             … until then
        cloud.at_once()             what is made, or deleted, is ready, or gone, at once
        cloud.forget()              what has been noted of the past; only while there are no machines
        cloud.spent()               Spent: seconds in which the peer was busy with requests, seconds in which nobody asked it anything for longer than
                                    PAUSE, and how many requests there were

At the end the peer says whether each request was one that the vendor's own code would have sent. Modules of peers are imported when they are used:
the vendors' packages are big.

docker, byom and libvirt have the real thing as their peer, in namespaces that this process then has for itself, and of the face what a measurement
needs: environment, left, at_once, forget and spent. Their life as sandboxes is in tests/e2e."""
import base64
import collections
import contextlib
import hashlib
import json
import os
import pathlib
import select
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

import cloud_rig

Spent = collections.namedtuple("Spent", "busy paused requests")
Machine = collections.namedtuple("Machine", "id name tags user_data addresses")
HERE = pathlib.Path(__file__).parent
EVER = 10 ** 9
PAUSE = 0.04            # seconds: somebody waits on purpose, and does not just work


def digest(text):
    """What stands for a text in a tag that would not take it"""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Stopwatch:
    def __init__(self):
        self.lock, self.busy, self.paused, self.n, self.last, self.pause = threading.Lock(), 0.0, 0.0, 0, time.perf_counter(), PAUSE

    def begin(self):
        now = time.perf_counter()
        with self.lock:
            gap = now - self.last
            self.paused += gap if gap > self.pause else 0
        return now

    def end(self, begin):
        with self.lock:
            self.last = time.perf_counter()
            self.busy += self.last - begin
            self.n += 1

    def wrap(self, function):
        def timed(*args, **kwargs):
            begin = self.begin()
            try:
                return function(*args, **kwargs)
            finally:
                self.end(begin)
        return timed

    def read(self):
        with self.lock:
            return Spent(self.busy, self.paused, self.n)


class _Relay:
    """Passes the bytes of connections on to a server that can't be looked into; what it is busy with is from what a client says until it answers"""

    def __init__(self, stack, watch, address, server):
        self.watch, self.family, self.server = watch, socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX, server
        self.listener = stack.enter_context(socket.socket(self.family))
        self.listener.bind(address)
        self.listener.listen(512)
        stack.callback(self.listener.shutdown, socket.SHUT_RDWR)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.carry, args=(self.listener.accept()[0],), daemon=True).start()

    def carry(self, client):
        asked = None
        with client, socket.socket(self.family) as server, contextlib.suppress(OSError):
            server.connect(self.server)
            while True:
                for s in select.select([client, server], [], [])[0]:
                    data = s.recv(65536)
                    if asked is None and s is client and data:
                        asked = self.watch.begin()
                    elif asked is not None and (s is server or not data):
                        self.watch.end(asked)
                        asked = None
                    if not data:
                        return
                    (server if s is client else client).sendall(data)


class _Http:
    """A cloud whose peer is a handler of a cloud_rig.Server"""

    def start(self, stack, server):
        self.server, self.watch = stack.enter_context(server), _Stopwatch()
        server._answer = self.watch.wrap(server._answer)

    def spent(self):
        return self.watch.read()

    def forget(self):
        self.server.reset()

    def owner(self, sandbox, node):
        return {"peerpod-sandbox": sandbox, "peerpod-node": node}


class Aws:
    module = "aws"

    def __init__(self, stack):
        # Read by moto when it is imported.
        os.environ.update(MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION="true", MOTO_ENABLE_AMI_VALIDATION="true", MOTO_ENABLE_KEYPAIR_VALIDATION="")
        import aws_rig
        self.peer, self.watch = aws_rig.Peer(), _Stopwatch()
        self.n = 0
        self.peer.on_run = self.made
        self.held = False
        aws_rig.Handler.do_POST = self.watch.wrap(aws_rig.Handler.do_POST)
        stack.callback(self.end)

    def end(self):
        self.peer.close()
        assert not self.peer.problems, self.peer.problems

    def spent(self):
        return self.watch.read()

    def made(self, instance):
        self.n += 1
        if self.held:
            self.peer.hidden[instance.id] = EVER

    def environment(self):
        return {**self.peer.settings(USE_PUBLIC_IP="true"), **self.peer.environment()}

    def owner(self, sandbox, node):
        return {"peerpod-sandbox": sandbox, "peerpod-node": node}

    def machines(self):
        with self.peer.lock:
            data = {a["TagSpecifications"][0]["Tags"][0]["Value"]: a.get("UserData") for a in self.peer.arguments("RunInstances")}
            return [self.machine(i, data) for i in self.peer.ec2.all_instances() if i._state.name != "terminated"]

    def machine(self, instance, data):
        tags = {t["key"]: t["value"] for t in instance.get_tags()}
        text = next((d for v, d in data.items() if v in tags.values()), "")
        addresses = {n.private_ip_address for n in instance.nics.values()} | {n.public_ip for n in instance.nics.values() if n.public_ip}
        addresses |= {a.public_ip for a in self.peer.ec2.addresses if a.instance and a.instance.id == instance.id or a.eni and a.eni.id in {n.id for n in instance.nics.values()}}
        return Machine(instance.id, tags.get("Name"), tags, base64.b64decode(text), addresses)

    def n_created(self):
        return self.n

    def left(self):
        return " ".join(self.peer.left())

    def hold(self):
        self.held = True

    def release(self):
        self.held = False
        self.peer.hidden.clear()

    def at_once(self):
        pass

    def forget(self):
        """When nothing runs: moto keeps what was terminated, too"""
        ec2 = self.peer.ec2
        with self.peer.lock:
            for id in [id for id in ec2.tags if id.startswith(("i-", "vol-", "eni-"))]:
                del ec2.tags[id]
            self.peer.calls.clear()
            self.peer.tokens.clear()
            for reservation in [r for r in ec2.reservations.values() if all(i._state.name == "terminated" for i in r.instances)]:
                del ec2.reservations[reservation.id]


class Azure(_Http):
    module = "azure"

    def __init__(self, stack):
        import azure_peer
        self.rig, self.peer = azure_peer, azure_peer.Azure()
        self.start(stack, cloud_rig.Server(self.peer))
        self.peer.url = self.server.url

    def environment(self):
        r = self.rig
        return {"AZURE_CLIENT_ID": r.CLIENT, "AZURE_CLIENT_SECRET": r.SECRET, "AZURE_TENANT_ID": r.TENANT, "AZURE_SUBSCRIPTION_ID": r.SUBSCRIPTION,
                "AZURE_REGION": r.REGION, "AZURE_RESOURCE_GROUP": r.GROUP, "AZURE_SUBNET_ID": r.SUBNET, "AZURE_IMAGE_ID": r.IMAGE, "AZURE_NSG_ID": r.NSG,
                "USE_PUBLIC_IP": "true", "AZURE_AUTHORITY_HOST": self.peer.url + "/", "AZURE_RESOURCE_MANAGER_ENDPOINT": self.peer.url,
                "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.peer.url}

    def machines(self):
        with self.server.lock:
            return [self.machine(vm) for vm in self.peer.vms.values()]

    def machine(self, vm):
        (body,) = [b for b in self.peer.bodies if b["properties"]["osProfile"]["computerName"] == vm.name]
        addresses = {c.private_ip_address for n in self.peer.nics.values() if n.virtual_machine and n.virtual_machine.id == vm.id for c in n.ip_configurations}
        public = {p.ip_address for n in self.peer.nics.values() for c in n.ip_configurations if c.public_ip_address
                  for p in self.peer.publics.values() if p.id == c.public_ip_address.id}
        return Machine(vm.id, vm.name, vm.tags, base64.b64decode(body["properties"]["userData"]), addresses | public)

    def n_created(self):
        return len(self.peer.bodies)

    def left(self):
        with self.server.lock:
            return self.peer.nothing_left()

    def hold(self):
        self.peer.polls = EVER

    def release(self):
        with self.server.lock:
            self.peer.polls = 1
            for o in self.peer.operations.values():
                o["polls"] = min(o["polls"], 1)
            for vm in self.peer.vms.values():
                vm.looks = min(vm.looks, 1)

    def at_once(self):
        self.peer.polls = 0

    def forget(self):
        super().forget()
        with self.server.lock:
            self.peer.operations.clear()
            self.peer.bodies.clear()


class Gcp(_Http):
    module = "gcp"

    def __init__(self, stack):
        import gcp_peer
        self.key, public = gcp_peer.make_key(None)
        self.rig, self.peer = gcp_peer, gcp_peer.Google(public)
        self.start(stack, cloud_rig.Server(self.peer))
        self.peer.url = self.server.url

    def environment(self):
        url = self.peer.url
        return {"GCP_CREDENTIALS": self.rig.key_text(self.key, url), "GCP_PROJECT_ID": self.rig.PROJECT, "GCP_ZONE": self.rig.ZONE, "GCP_NETWORK": "global/networks/pods",
                "PODVM_IMAGE_NAME": "podvm", "GCP_MACHINE_TYPE": "n2d-standard-2", "DISABLECVM": "true",
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": url + "/compute/v1/", "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER": url + "/",
                "GCE_METADATA_HOST": url.removeprefix("http://")}

    def owner(self, sandbox, node):
        return {"peerpod-sandbox": digest(sandbox), "peerpod-node": digest(node)}

    def machines(self):
        with self.server.lock:
            return [self.machine(i) for i, _ in self.peer.instances.values()]

    @staticmethod
    def machine(instance):
        items = {i.key: i.value for i in instance.metadata.items}
        addresses = {n.network_i_p for n in instance.network_interfaces} | {a.nat_i_p for n in instance.network_interfaces for a in n.access_configs}
        return Machine(instance.name, instance.name, dict(instance.labels), base64.b64decode(items["user-data"]), addresses)

    def n_created(self):
        return len(self.peer.bodies)

    def left(self):
        return self.peer.nothing_left()

    def hold(self):
        self.peer.looks = EVER

    def release(self):
        self.peer.looks = 1

    def at_once(self):
        insert = self.peer.Instances_Insert

        def run(*arguments):
            result = insert(*arguments)
            for entry in self.peer.instances.values():
                entry[0].status, entry[1] = "RUNNING", EVER
            return result

        self.peer.waits, self.peer.looks, self.peer.Instances_Insert = 0, 1, run

    def forget(self):
        super().forget()
        with self.server.lock:
            self.peer.operations.clear()
            self.peer.requests.clear()
            self.peer.bodies.clear()


class _Ibm(_Http):
    def __init__(self, stack):
        import ibm_peer
        self.start(stack, ibm_peer.Peer())
        self.cloud = self.server.cloud

    def machines(self):
        with self.server.lock:
            return [self.machine(i) for i in self.things()]

    @staticmethod
    def tags(texts):
        return dict(t.split(":", 1) for t in texts if ":" in t)

    def owner(self, sandbox, node):
        return {"peerpod-sandbox": sandbox, "peerpod-node": digest(node)}

    def n_created(self):
        return len(self.cloud.created)

    def left(self):
        with self.server.lock:
            return self.cloud.left()


class IbmCloud(_Ibm):
    module = "ibmcloud"

    def environment(self):
        return self.server.environment()

    def things(self):
        return self.cloud.instances.values()

    def machine(self, i):
        attached = next((t for crn, t in self.cloud.tags.items() if crn.endswith(i["id"])), set())
        tags = attached & set(self.cloud.volumes[i["volume"]]["tags"])          # those that both have, instance and volume
        return Machine(i["id"], i["name"], self.tags(tags), i["body"]["user_data"].encode(), {f"10.0.0.{i['number'] % 250 + 1}"})

    def hold(self):
        self.cloud.running_gets = EVER

    def release(self):
        with self.server.lock:
            self.cloud.running_gets = 2
            for i in self.things():
                i["seen"]["running"] = 0

    def at_once(self):
        self.cloud.address_gets = self.cloud.running_gets = self.cloud.deleting_gets = 0

    def forget(self):
        super().forget()
        self.cloud.tags.clear()


class PowerVs(_Ibm):
    module = "ibmcloud-powervs"

    def environment(self):
        return self.server.power_environment()

    def things(self):
        return self.cloud.servers.values()

    def machine(self, s):
        return Machine(s["id"], s["name"], self.tags(s["body"]["userTags"]), base64.b64decode(s["body"]["userData"]), {f"192.168.1.{s['number'] % 250 + 1}"})

    def hold(self):
        self.cloud.build_gets = EVER

    def release(self):
        self.cloud.build_gets = 2

    def at_once(self):
        self.cloud.build_gets = self.cloud.deleting_gets = 0


class Alibaba:
    module = "alibabacloud"

    def __init__(self, stack):
        p = subprocess.Popen([HERE.parent / "peers/node", HERE / "alibabacloud-peer.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(self.end, p)
        self.url = f"http://127.0.0.1:{int(p.stdout.readline())}"

    def end(self, p):
        try:
            violations = self.ask("/_state")["violations"]
        finally:
            p.stdin.close()
            p.wait(cloud_rig.PATIENCE)
        assert not violations, violations

    def ask(self, path, **arguments):
        with urllib.request.urlopen(urllib.request.Request(self.url + path, json.dumps(arguments).encode(), method="POST"), timeout=cloud_rig.PATIENCE) as r:
            return json.load(r)

    def spent(self):
        state = self.ask("/_state")
        return Spent(state["busyMs"] / 1000, state["pausedMs"] / 1000, state["nRequests"])

    def environment(self):
        return {**{f"ALIBABACLOUD_{s}_ENDPOINT": self.url for s in ("ECS", "VPC", "STS", "METADATA")}, "ALIBABACLOUD_ACCESS_KEY_ID": "testid",
                "ALIBABACLOUD_ACCESS_KEY_SECRET": "testsecret", "IMAGEID": "m-podvm", "VSWITCH_ID": "vsw-1", "SECURITY_GROUP_IDS": "sg-1, sg-2", "USE_PUBLIC_IP": "true"}

    def owner(self, sandbox, node):
        return {"peerpod-sandbox": sandbox, "peerpod-node": node}

    def machines(self):
        return [Machine(i["id"], i["name"], i["tags"], i["userData"].encode(), set(i["addresses"])) for i in self.ask("/_state")["instances"]]

    def n_created(self):
        return self.ask("/_state")["nMade"]

    def left(self):
        state = self.ask("/_state")
        return " ".join(x["id"] for x in state["instances"] + state["eips"])

    def hold(self):
        self.ask("/_set", startMs=EVER)

    def release(self):
        self.ask("/_set", startMs=0)

    def at_once(self):
        self.ask("/_set", startMs=0, goneMs=0)

    def forget(self):
        self.ask("/_fault")


class Vsphere(_Http):
    module = "vsphere"

    def __init__(self, stack):
        import vsphere_rig
        self.peer = stack.enter_context(vsphere_rig.Vcenter())
        self.start(stack, self.peer.server)
        self.watch.pause = 0.025        # the module looks at a task again after 30 ms

    def environment(self):
        return self.peer.settings()

    def machines(self):
        return [Machine(m["uuid"], m["name"], {k.replace(".", "-"): v for k, v in m["extra"].items()}, base64.b64decode(m["extra"]["guestinfo.userdata"]), set(m["addresses"] or []))
                for m in self.peer.state()["machines"] if "peerpod.sandbox" in m["extra"]]

    def n_created(self):
        return self.peer.state()["cloned"]

    def left(self):
        return " ".join(m.name for m in self.machines())

    def hold(self):
        self.peer.set(addresses=[""])

    def release(self):
        self.peer.set(addresses=["10.9.8.%d"])

    def at_once(self):
        pass


class _Host:
    """A program of this machine, behind a _Relay. What it makes is ready as soon as it can be."""

    def __init__(self, stack):
        os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)
        for command in ["mount", "--make-rprivate", "/"], ["ip", "link", "set", "lo", "up"]:
            subprocess.run(command, check=True)
        self.directory, self.watch = stack.enter_context(tempfile.TemporaryDirectory(prefix="peer-", dir="/tmp")), _Stopwatch()
        self.relay = f"{self.directory}/relay"

    def at_once(self):
        pass

    def forget(self):
        pass

    def spent(self):
        return self.watch.read()


class Docker(_Host):
    module = "docker"

    def __init__(self, stack):
        super().__init__(stack)
        import docker_rig
        self.engine = docker_rig.Engine(self.directory + "/engine")
        stack.callback(self.engine.clean)
        stack.callback(self.engine.stop)
        self.engine.import_image("podvm:1", docker_rig.small_image(), 'CMD ["/init"]')
        _Relay(stack, self.watch, self.relay, self.engine.socket)

    def environment(self):
        return {"DOCKER_HOST": f"unix://{self.relay}", "DOCKER_PODVM_IMAGE": "podvm:1"}

    def left(self):
        return " ".join(self.engine.names() + self.engine.volumes())


class Byom(_Host):
    module = "byom"
    N = 8       # VMs of the pool, at 10.77.1.*; the relays to them are at 10.77.0.*

    def __init__(self, stack):
        super().__init__(stack)
        import byom_rig
        self.rig = byom_rig
        byom_rig.set_up()
        self.api = stack.enter_context(byom_rig.Api())
        self.api._answer = self.watch.wrap(self.api._answer)
        for i in range(1, self.N + 1):
            stack.callback(byom_rig.Vm(f"10.77.1.{i}").close)
            byom_rig.run("ip", "addr", "add", f"10.77.0.{i}/32", "dev", "lo")
            _Relay(stack, self.watch, (f"10.77.0.{i}", 22), (f"10.77.1.{i}", 22))

    def environment(self):
        return self.rig.settings(self.api, f"10.77.0.1-10.77.0.{self.N}")

    def left(self):
        return self.api.left()

    def forget(self):
        self.api.reset()


class Libvirt(_Host):
    module = "libvirt"

    def __init__(self, stack):
        super().__init__(stack)
        import libvirtd_rig
        self.peer = libvirtd_rig.Libvirtd(self.directory)
        stack.callback(self.peer.stop)
        stack.callback(self.peer.virsh, "net-destroy", "peerpods")
        stack.enter_context(self.peer.all_speak())
        _Relay(stack, self.watch, self.relay, self.peer.socket)

    def environment(self):
        return self.peer.settings(LIBVIRT_URI=f"qemu+unix:///system?socket={self.relay}")

    def left(self):
        return " ".join(self.peer.domains() + [v for v in self.peer.volumes() if v != "podvm-base.qcow2"])


CLOUDS = {c.module: c for c in (Aws, Azure, Gcp, IbmCloud, PowerVs, Alibaba, Vsphere, Docker, Byom, Libvirt)}


@contextlib.contextmanager
def open(name):
    with contextlib.ExitStack() as stack:
        yield CLOUDS[name](stack)
