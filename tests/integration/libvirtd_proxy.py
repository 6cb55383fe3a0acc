# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of the libvirtd of libvirtd_rig.py that breaks one call.

libvirt's RPC (libvirt/libvirt: docs/kbase/internals/rpc.rst, src/rpc/virnetprotocol.x): each packet is its length, itself included, then
program, version, procedure, type, serial and status, each four bytes, big-endian; then the payload as XDR."""
import collections
import os
import re
import socket
import struct
import threading

from libvirtd_rig import run

CALL, REPLY, STREAM = 0, 1, 3                   # types
OK, ERROR, CONTINUE = 0, 1, 2                   # status
REMOTE_PROGRAM = 0x20008086                     # src/remote/remote_protocol.x; keep-alive is another one
PACKET_MAX = 16777216 + 4                       # VIR_NET_MESSAGE_MAX, VIR_NET_MESSAGE_LEN_MAX
OPERATION_FAILED, NO_DOMAIN, FROM_QEMU = 9, 42, 10      # include/libvirt/virterror.h


class Packet:
    def __init__(self, data):
        self.data = data
        self.program, self.version, self.procedure, self.type, self.serial, self.status = struct.unpack(">6I", data[4:28])
        self.payload = data[28:]

    def like(self, type, status, payload=b""):
        return struct.pack(">7I", 28 + len(payload), self.program, self.version, self.procedure, type, self.serial, status) + payload

    def wants_answer(self):
        """A call, or the end of a stream"""
        return self.program == REMOTE_PROGRAM and (self.type == CALL or (self.type == STREAM and self.status == OK))


def error_payload(text, code=OPERATION_FAILED):
    """virNetMessageError"""
    text = text.encode()
    return struct.pack(">5I", code, FROM_QEMU, 1, len(text), 0)[:16] + text + bytes(-len(text) % 4) + struct.pack(">8I", 2, 0, 0, 0, 0, 0, 0, 0)


def read_exactly(s, n):
    data = bytearray()
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            return None
        data += more
    return bytes(data)


def read_packet(s):
    try:
        head = read_exactly(s, 4)
        if not head:
            return None
        size = struct.unpack(">I", head)[0]
        assert 28 <= size <= PACKET_MAX, size
        rest = read_exactly(s, size - 4)
    except OSError:             # reset
        return None
    return Packet(head + rest) if rest else None


def cut(*sockets):
    for s in sockets:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Proxy:
    """Between a module and libvirtd. A label is (procedure, type, k): the k-th such packet that wants an answer, since arm().
    arm(label, fault) breaks that one:
        "cut"   the connection is cut before it is passed on        "lost"  it is done, and the connection cut before its answer
        "error" it is not done, and the answer is an error          "gone"  likewise, that there is no such VM
        "hang"  from then on the connection is silent, keep-alive too
    labels has those seen. With an address, that of each VM that is defined is put into the neighbour table."""

    def __init__(self, libvirtd, path, address=None):
        self.target, self.path, self.address = libvirtd.socket, str(path), address
        self.lock, self.hung, self.hit = threading.Lock(), threading.Event(), threading.Event()
        self.arm()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        self.sockets = []
        self.uri = f"qemu+unix:///system?socket={self.path}"
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        cut(self.listener)
        self.listener.close()
        self.cut()
        os.unlink(self.path)

    def cut(self):
        """All connections of now"""
        with self.lock:
            cut(*self.sockets)

    def arm(self, label=None, fault=None):
        with self.lock:
            self.labels, self.counts, self.label, self.fault = [], collections.Counter(), label, fault
            self.hung.clear()
            self.hit.clear()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            with self.lock:
                self.sockets += [client, server]
            c = Connection(self, client, server)
            threading.Thread(target=c.from_client, daemon=True).start()
            threading.Thread(target=c.from_server, daemon=True).start()

    def fault_for(self, packet):
        if not packet.wants_answer():
            return None
        with self.lock:
            kind = (packet.procedure, packet.type)
            self.counts[kind] += 1
            label = (*kind, self.counts[kind])
            self.labels.append(label)
            if label != self.label:
                return None
            self.hit.set()
            return self.fault

    def look_at(self, packet):
        mac = self.address and packet.type == CALL and b"<domain " in packet.payload and re.search(rb"<mac address=\"([0-9a-f:]+)\"", packet.payload)
        if mac:
            # Permanent: others go when the bridge loses its last port, and with it the carrier.
            run("ip", "neigh", "replace", self.address, "lladdr", mac[1].decode(), "dev", "ppd0", "nud", "permanent")


class Connection:
    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self.lost = self.aborted = None         # serial whose answer is not passed on
        self.silent = False

    def from_client(self):
        while packet := read_packet(self.client):
            self.proxy.look_at(packet)
            fault = None if self.silent else self.proxy.fault_for(packet)
            if fault == "cut" and packet.type == CALL:
                break
            if fault == "hang":
                self.silent = True
                self.proxy.hung.set()
            if fault in ("cut", "lost"):
                self.lost = packet.serial
            try:
                if fault in ("cut", "error", "gone"):
                    self.refuse(packet, NO_DOMAIN if fault == "gone" else OPERATION_FAILED)
                elif not self.silent:
                    self.server.sendall(packet.data)
            except OSError:
                break
        cut(self.client, self.server)

    def refuse(self, packet, code):
        if packet.type == STREAM:
            # The daemon's half of the stream ends by an abort, even if the connection is cut then: if that ends while the daemon has not yet
            # taken all data of a stream, its only event loop waits for ever for a lock that it holds, seen with libvirt 11.3 (libvirt/libvirt:
            # daemonStreamEvent() in src/remote/remote_daemon_stream.c closes the client with its lock held, remoteClientCloseFunc() in
            # src/remote/remote_daemon_dispatch.c takes that again).
            self.aborted = packet.serial
            self.server.sendall(packet.like(STREAM, ERROR))
        else:
            self.client.sendall(packet.like(REPLY, ERROR, error_payload("made up by the test", code)))

    def from_server(self):
        while packet := read_packet(self.server):
            answer = packet.program == REMOTE_PROGRAM and packet.type in (REPLY, STREAM)
            if answer and packet.serial == self.lost:
                break
            try:
                if answer and packet.serial == self.aborted and packet.type == STREAM:
                    self.client.sendall(packet.like(STREAM, ERROR, error_payload("made up by the test")))
                elif not self.silent:
                    self.client.sendall(packet.data)
            except OSError:
                break
        if self.lost is not None or not self.silent:
            cut(self.client, self.server)
