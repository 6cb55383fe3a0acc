# SPDX-License-Identifier: Apache-2.0
"""What the crash tests share, inside the worker host: Kata's shim as a client on asyncio, the pods' network namespaces, and a look at all
that sandboxes leave on the worker and in the cloud."""
import asyncio
import collections
import glob
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time

HYPERVISOR_SOCKET = "/run/peerpod/hypervisor.sock"
CLOUD_SOCKET = "/run/nscloud.sock"
CRASH_DIR = "/run/peerpod-crash"
LIBEXEC = "/usr/lib/peerpod"
DAEMONS = {"peerpod-adaptor": "peerpod-adaptor", "peerpod-tunneld": "peerpod-tunnel", "peerpod-providerd": "peerpod-provider"}
PROXY = "peerpod-agent-proxy"
CGROUP = "/sys/fs/cgroup/peerpod.slice"

# For what hangs, not for a machine that is busy.
PATIENCE = 180

# ---- protobuf and ttrpc, as much as a shim needs (containerd/ttrpc: PROTOCOL.md) ----


def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(data):
    """Yields (number, value) of a message; 64 and 32 bit fields do not occur here."""
    at = 0

    def read():
        nonlocal at
        n = shift = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return n

    while at < len(data):
        key = read()
        if key & 7 == 0:
            yield key >> 3, read()
        else:
            size = read()
            yield key >> 3, data[at:at + size]
            at += size


class Status(Exception):
    """The peer answered with an error."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Lost(Exception):
    """The connection has ended; what became of the call is not known."""


class Connection:
    """A ttrpc connection with any number of calls at once."""

    def __init__(self, path):
        self.path = path
        self.calls = {}
        self.streams = itertools.count(1, 2)
        self.writer = self.reading = None
        self.lost = asyncio.Event()

    async def open(self):
        reader, self.writer = await asyncio.open_unix_connection(self.path)
        self.reading = asyncio.ensure_future(self.read(reader))
        return self

    async def read(self, reader):
        try:
            while True:
                size, stream, kind, _ = struct.unpack(">IIBB", await reader.readexactly(10))
                data = await reader.readexactly(size)
                answer = self.calls.pop(stream, None)
                if answer and not answer.done():
                    answer.set_result(data)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.lost.set()
            for answer in self.calls.values():
                if not answer.done():
                    answer.set_exception(Lost())
                    answer.exception()      # who has given up waiting need not hear of it
            self.calls.clear()
            self.writer.close()

    async def call(self, service, method, payload=b"", timeout=PATIENCE):
        if self.lost.is_set():
            raise Lost
        stream = next(self.streams)
        answer = self.calls[stream] = asyncio.get_running_loop().create_future()
        body = field(1, service) + field(2, method) + field(3, payload) + field(4, timeout * 10**9)
        try:
            self.writer.write(struct.pack(">IIBB", len(body), stream, 1, 0) + body)
            await self.writer.drain()
        except OSError:
            raise Lost from None
        data = await asyncio.wait_for(answer, timeout + 10)

        result = b""
        for number, value in fields(data):
            if number == 1:
                status = dict(fields(value))
                if status.get(1, 0):
                    raise Status(status[1], status.get(2, b"").decode(errors="replace"))
            elif number == 2:
                result = value
        return result

    def close(self):
        if self.reading:
            self.reading.cancel()
        if self.writer:
            self.writer.close()


async def health_check(connection, timeout=PATIENCE):
    answer = dict(fields(await connection.call("grpc.Health", "Check", timeout=timeout)))
    if answer.get(1) != 1:
        raise Status(-1, "the agent does not serve")


# ---- sandboxes, as the shim sees them ----

KATA = "io.katacontainers.config.hypervisor."


class Sandbox:
    def __init__(self, pod, name, annotations={}):
        self.id = os.urandom(32).hex()
        self.pod, self.name = pod, name
        self.state = "none"                 # none, planned, running: what the client was told, and did not take back
        self.agent = None                   # a connection to its agent, as the shim keeps one
        self.annotations = {
            "io.kubernetes.cri.sandbox-name": name,
            "io.kubernetes.cri.sandbox-namespace": "crash",
            KATA + "default_vcpus": "1",
            KATA + "default_memory": "256",
        } | annotations

    @property
    def agent_socket(self):
        return f"/run/peerpod/pods/{self.id}/agent.ttrpc"

    @property
    def lost(self):
        return self.agent is not None and self.agent.lost.is_set()

    async def ask(self, method, payload, timeout=PATIENCE):
        connection = await Connection(HYPERVISOR_SOCKET).open()
        try:
            return await connection.call("hypervisor.Hypervisor", method, payload, timeout)
        finally:
            connection.close()

    async def create(self):
        payload = field(1, self.id)
        for k, v in self.annotations.items():
            payload += field(2, field(1, k) + field(2, v))
        answer = dict(fields(await self.ask("CreateVM", payload + field(3, self.pod.netns))))
        if answer[1].decode() != self.agent_socket:
            raise Status(-1, f"agent's socket is '{answer[1].decode()}'")
        self.state = "planned"

    async def start(self):
        await self.ask("StartVM", field(1, self.id))
        self.state = "running"

    async def attach(self):
        self.agent = await Connection(self.agent_socket).open()
        await health_check(self.agent)

    async def stop(self):
        """StopVM until it is answered: the shim's connection may end with the adaptor, its wish does not."""
        self.state = "stopping"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                await self.ask("StopVM", field(1, self.id))
                break
            except Lost:
                if time.monotonic() > deadline:
                    raise
        if self.agent:
            self.agent.close()
        self.state = "none"

    async def gone(self):
        await until(lambda: not os.path.exists(f"/var/lib/peerpod/sandboxes/{self.id}.json"), f"sandbox {self.id} is gone")


async def until(condition, text, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain until {text}")
        await asyncio.sleep(0.02)


# ---- pods, as a bridge CNI plugin leaves them ----


def ip_batch(lines):
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


class Pod:
    """A network namespace with one interface on the bridge cni0."""

    def __init__(self, number):
        self.name = f"cni-{number}"
        self.netns = f"/run/netns/{self.name}"
        self.address = f"10.88.{1 + number // 250}.{2 + number % 250}"
        ip_batch([f"netns add {self.name}",
                  f"link add veth-{number} mtu 1450 type veth peer name eth0 mtu 1450 netns {self.name}",
                  f"link set veth-{number} master cni0 up"])
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], check=True, text=True, input="\n".join(
            ["link set lo up", f"addr add {self.address}/16 brd + dev eth0", "link set eth0 up", "route add default via 10.88.0.1"]))

    def look(self):
        """(is there a vxlan1, has eth0 an ingress qdisc), from inside the namespace."""
        result = []

        def inside():
            with open(self.netns) as f:
                os.setns(f.fileno(), os.CLONE_NEWNET)
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as s:
                result.append("vxlan1" in [name for _, name in socket.if_nameindex()])
                result.append(has_ingress(s, socket.if_nametoindex("eth0")))

        # A thread of its own: setns() is for the thread that calls it, and ends with it.
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return tuple(result)


def make_bridge():
    if os.path.exists("/sys/class/net/cni0"):
        return
    ip_batch(["link add cni0 mtu 1450 address 02:00:00:58:00:01 type bridge", "addr add 10.88.0.1/16 dev cni0", "link set cni0 up"])


def has_ingress(s, ifindex):
    RTM_GETQDISC, NLM_F_REQUEST, NLM_F_DUMP, NLMSG_DONE, TC_H_INGRESS = 38, 1, 0x300, 3, 0xFFFFFFF1
    s.send(struct.pack("=IHHII", 36, RTM_GETQDISC, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + bytes(20))
    found = False
    while True:
        data = s.recv(65536)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            if kind == NLMSG_DONE:
                return found
            index, _, parent = struct.unpack_from("=iII", data, 20)
            found |= index == ifindex and parent == TC_H_INGRESS
            data = data[(size + 3) & ~3:]


# ---- what there is ----


def listing(path, suffix=""):
    try:
        return {n.removesuffix(suffix) for n in os.listdir(path)}
    except FileNotFoundError:
        return set()


def cloud_instances():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect(CLOUD_SOCKET)
        s.sendall(b"find -\n")
        text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
    return {line.split()[2] for line in text.splitlines() if line.startswith("instance ")}


def record_states():
    result = {}
    for path in glob.glob("/var/lib/peerpod/sandboxes/*.json"):
        try:
            with open(path) as f:
                result[os.path.basename(path).removesuffix(".json")] = json.load(f)["state"]
        except (FileNotFoundError, ValueError):
            pass                            # replaced or removed just now
    return result


def proxy_units():
    lines = subprocess.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", f"{PROXY}@*"],
                           capture_output=True, text=True, check=True).stdout.splitlines()
    return {(words[0], words[2]) for words in map(str.split, lines)}


def guarded_peers():
    """Addresses in the elements of the host's nf_tables table."""
    text = subprocess.run(["nft", "--json", "list", "table", "ip", "peerpod"], capture_output=True, text=True).stdout
    found = set(re.findall(r"\b10\.90\.\d+\.\d+\b", text))
    return found


def main_pid(unit):
    """The service's one process, or None."""
    try:
        with open(f"{CGROUP}/{unit}.service/cgroup.procs") as f:
            pids = f.read().split()
    except OSError:
        return None
    return int(pids[0]) if pids else None


def proxy_pids():
    result = {}
    for path in glob.glob(f"{CGROUP}/{PROXY}@*.service") + glob.glob(f"{CGROUP}/*/{PROXY}@*.service"):
        name = os.path.basename(path)
        try:
            with open(f"{path}/cgroup.procs") as f:
                pids = f.read().split()
        except OSError:
            continue
        if pids:
            result[name.removeprefix(f"{PROXY}@").removesuffix(".service")] = int(pids[0])
    return result


def n_fds(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, TypeError):
        return 0


def differences(pods, planned, running):
    """One line for each thing that is not exactly as the sandboxes @planned and @running need it."""
    found = []

    def compare(what, is_there, wanted):
        for x in sorted(is_there - wanted):
            found.append(f"{what}: {x} is too many")
        for x in sorted(wanted - is_there):
            found.append(f"{what}: {x} is missing")

    known = {s.id for s in planned} | {s.id for s in running}
    alive = {s.id for s in running}
    compare("record", listing("/var/lib/peerpod/sandboxes", ".json"), known)
    compare("state", set(record_states().items()), {(s.id, s.state) for s in planned + running})
    compare("instance", cloud_instances(), alive)
    compare("tunnel's record", listing("/run/peerpod/tunnel", ".json"), known)
    compare("adaptor's files", listing("/run/peerpod/adaptor"), known)
    compare("agent's socket", listing("/run/peerpod/pods"), alive)
    compare("agent proxy", set(proxy_pids()), alive)
    if found:
        return found                        # what follows is dear

    compare("unit", proxy_units(), {(f"{PROXY}@{i}.{t}", "active") for i in alive for t in ("service", "socket")})
    compare("drop-in", {n for n in listing("/run/systemd/system.control") if n.startswith(PROXY)},
            {f"{PROXY}@{i}.service.d" for i in alive})
    compare("credentials", {n for n in listing("/run/credentials") if n.startswith(PROXY)}, {f"{PROXY}@{i}.service" for i in alive})
    by_pod = {s.pod.name: s.state for s in planned + running}
    for pod in pods:
        state = by_pod.get(pod.name)
        compare(f"device and qdisc in {pod.name}", {pod.look()}, {(state is not None, state == "running")})
    n = len(guarded_peers())
    if n != len(alive):
        found.append(f"firewall: {n} peers for {len(alive)} tunnels")
    for path in glob.glob("/run/peerpod/adaptor/*/.#*") + glob.glob("/run/peerpod/*/.#*"):
        found.append(f"temporary file: {path}")
    return found


async def settle(pods, planned, running, more=lambda: []):
    """Waits until everything is as it has to be; raises with what is not."""
    deadline = time.monotonic() + PATIENCE
    said = []
    while True:
        found = differences(pods, planned, running) + more()
        if not found:
            return
        if time.monotonic() > deadline:
            raise AssertionError("\n".join(found))
        if time.monotonic() > deadline - PATIENCE + 10 and found != said:
            print("not settled yet:", *found, sep="\n    ", flush=True)
            said = found
        await asyncio.sleep(0.05)


# ---- kills ----


def crash_points(programs):
    """All (program, place) that the installed programs know."""
    result = []
    for program in programs:
        with open(f"{LIBEXEC}/{program}", "rb") as f:
            names = set(re.findall(rb"crash-point:([a-z0-9-]+)\0", f.read()))
        result += [(program, n.decode()) for n in sorted(names)]
    return result


def crash_file(point):
    return f"{CRASH_DIR}/{point[0]}.{point[1]}"


def arm(point):
    with open(crash_file(point), "w"):
        pass


def disarm(point):
    """True if somebody has died there."""
    try:
        os.unlink(crash_file(point))
        return False
    except FileNotFoundError:
        return True


ROUNDS_PER_PLACE = 40           # in which it was armed and not come by: nobody ever will


class Plan:
    """Where to die in a round: those places come first that have had fewest kills."""
    arm, disarm = staticmethod(arm), staticmethod(disarm)

    def __init__(self, dice, places, sizes):
        self.random, self.places, self.sizes = dice, places, sizes
        self.killed = collections.Counter()
        self.missed = collections.Counter()     # rounds in which the place was armed, and nobody came by
        self.armed = set()

    def begin(self):
        places = self.random.sample(self.places, len(self.places))
        places.sort(key=lambda p: (self.killed[p] > 0, self.killed[p] + self.missed[p] / 4))
        self.armed = set(places[:self.random.choice(self.sizes)])
        for place in self.armed:
            self.arm(place)

    def end(self):
        """Nobody dies from now on. Returns where somebody has."""
        been = {place for place in self.armed if self.disarm(place)}
        for place in self.armed - been:
            self.missed[place] += 1
            if not self.killed[place] and self.missed[place] >= ROUNDS_PER_PLACE:
                raise AssertionError(f"{place[0]} has not come by its place '{place[1]}' in {ROUNDS_PER_PLACE} rounds")
        self.killed.update(been)
        self.armed = set()
        return been

    def not_yet(self):
        return [p for p in self.places if not self.killed[p]]
