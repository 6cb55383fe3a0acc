#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""peerpod-csi's gRPC, server and client, between peers that are not ours: gRPC's C core at both ends, and for what that would never send, frames
by hand.

Usage: csi-grpc-test.py PEERPOD-CSI"""
import concurrent.futures
import os
import socket
import struct
import threading
import time

import grpc

from csi_rig import PATIENCE, Caller, Rig, connects, main, until

ECHO = "/csi.v1.Identity/Echo"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(*headers):
    """HPACK without table or Huffman (RFC 7541, section 6.2.2)"""
    return b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in headers)


GOOD = [(":method", "POST"), (":scheme", "http"), (":path", ECHO), (":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers")]


def message(data, flag=0):
    return bytes([flag]) + struct.pack(">I", len(data)) + data


class Frames:
    """An HTTP/2 client that may do anything, and looks at the frames of the answer, not into them."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def read_exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            if not more:
                return None
            data += more
        return data

    def frames(self):
        while True:
            head = self.read_exactly(9)
            if head is None:
                return
            size = int.from_bytes(head[:3], "big")
            yield head[3], head[4], int.from_bytes(head[5:9], "big"), self.read_exactly(size)

    def ends(self):
        """how the connection or stream 1 ends"""
        for kind, flags, stream, payload in self.frames():
            if stream == 1 and kind == RST_STREAM:
                return "reset", struct.unpack(">I", payload)[0]
            if stream == 1 and kind in (HEADERS, DATA) and flags & 1:
                return "answer", None
            if kind == GOAWAY and struct.unpack(">I", payload[4:8])[0]:
                return "goaway", struct.unpack(">I", payload[4:8])[0]
        return "closed", None

    def close(self):
        self.socket.close()


class Grpc(Rig):
    def setUp(self):
        super().setUp()
        self.start_guest_driver()
        self.guest_driver.answers["Echo"] = lambda data, context: data
        self.caller = self.start("podvm")

    def frames_to(self):
        f = Frames(self.path("podvm.sock"))
        self.addCleanup(f.close)
        return f

    def refused(self, path, data=b"", **arguments):
        with self.assertRaises(grpc.RpcError) as caught:
            self.caller.raw(path, data, **arguments)
        return caught.exception.code(), caught.exception.details()

    # ---- good calls ----

    def test_any_bytes_pass_as_they_are(self):
        for size in 0, 1, 4, 5, 16383, 16384, 16385, 65535, 65536, (4 << 20) - 64:
            data = os.urandom(size)
            self.assertEqual(self.caller.raw(ECHO, data), data, size)

    def test_the_largest_message_is_4_mib_both_ways(self):
        self.assertEqual(len(self.caller.raw(ECHO, bytes(4 << 20))), 4 << 20)
        self.assertEqual(self.refused(ECHO, bytes((4 << 20) + 1)), (grpc.StatusCode.RESOURCE_EXHAUSTED, "The message is larger than 4 MiB."))
        self.guest_driver.answers["Big"] = lambda data, context: bytes((4 << 20) + 1)
        self.assertEqual(self.refused("/csi.v1.Identity/Big")[0], grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.caller.raw(ECHO, b"still here"), b"still here")

    def test_a_status_passes_with_its_text(self):
        for code in grpc.StatusCode:
            if code == grpc.StatusCode.OK:
                continue
            self.guest_driver.fail("Fail", code, "100 % – nicht möglich\n\t\x01")
            self.assertEqual(self.refused("/csi.v1.Identity/Fail"), (code, "100 % – nicht möglich\n\t\x01"))

    def test_status_details_pass(self):
        def fail(_data, context):
            context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05\x12\x02no"),))
            context.abort(grpc.StatusCode.NOT_FOUND, "no")
        self.guest_driver.answers["Fail"] = fail
        with self.assertRaises(grpc.RpcError) as caught:
            self.caller.raw("/csi.v1.Identity/Fail")
        self.assertIn(("grpc-status-details-bin", b"\x08\x05\x12\x02no"), caught.exception.trailing_metadata())

    def test_two_hundred_calls_at_once_share_the_connections(self):
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            for data, answer in pool.map(lambda i: (b"%d" % i * 1000, self.caller.raw(ECHO, b"%d" % i * 1000)), range(200)):
                self.assertEqual(data, answer)

    def test_methods_of_other_services_do_not_exist(self):
        self.assertEqual(self.refused("/csi.v1.Controller/CreateVolume"), (grpc.StatusCode.UNIMPLEMENTED, "unknown service csi.v1.Controller"))
        self.assertEqual(self.refused("/csi.v1.Identity/Nothing"), (grpc.StatusCode.UNIMPLEMENTED, "unknown method Nothing"))
        self.assertNotIn("CreateVolume", self.guest_driver.names())

    # ---- time ----

    def test_the_deadline_reaches_the_driver_and_is_kept(self):
        left = []
        def slow(_data, context):
            left.append(context.time_remaining())
            until("the caller has given up", lambda: not context.is_active())
            return b""
        self.guest_driver.answers["Slow"] = slow
        self.assertEqual(self.refused("/csi.v1.Identity/Slow", timeout=0.5)[0], grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertTrue(0 < left[0] <= 0.5, left)

    def test_a_call_that_is_cancelled_is_cancelled_at_the_driver(self):
        ended = threading.Event()
        def slow(_data, context):
            context.add_callback(ended.set)
            ended.wait(PATIENCE)
            return b""
        self.guest_driver.answers["Slow"] = slow
        call = self.caller.channel.unary_unary("/csi.v1.Identity/Slow").future(b"", wait_for_ready=True)
        until("the driver has it", lambda: "Slow" in self.guest_driver.names())
        call.cancel()
        self.assertTrue(ended.wait(PATIENCE))

    # ---- a driver that comes and goes ----

    def test_a_driver_that_is_not_there_is_waited_for_as_long_as_the_call_may_last(self):
        self.guest_driver.stop()
        until("its socket is gone", lambda: not connects(self.path("guest-driver.sock")))
        code, _ = self.refused(ECHO, timeout=0.5)
        self.assertEqual(code, grpc.StatusCode.DEADLINE_EXCEEDED)
        answer = self.caller.channel.unary_unary(ECHO).future(b"hello", timeout=PATIENCE, wait_for_ready=True)
        self.guest_driver.start()
        self.assertEqual(answer.result(), b"hello")

    def test_a_driver_that_stays_away_is_unavailable_by_name(self):
        self.guest_driver.stop()
        until("its socket is gone", lambda: not connects(self.path("guest-driver.sock")))
        code, text = self.refused(ECHO, timeout=PATIENCE)
        self.assertEqual(code, grpc.StatusCode.UNAVAILABLE)
        self.assertRegex(text, r"^Driver at '.*/guest-driver\.sock': connect: (No such file or directory|Connection refused)$")

    def test_calls_under_way_when_the_driver_dies_fail_and_the_next_one_works(self):
        self.guest_driver.hold("Held")
        calls = [self.caller.channel.unary_unary("/csi.v1.Identity/Held").future(b"", timeout=PATIENCE) for _ in range(3)]
        until("the driver has them", lambda: self.guest_driver.names().count("Held") == 3)
        stopped = self.guest_driver.server.stop(0)
        for call in calls:
            self.assertIn(call.exception().code(), (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED))
        self.guest_driver.held["Held"].set()
        stopped.wait()
        self.guest_driver.start()
        self.assertEqual(self.caller.raw(ECHO, b"again"), b"again")

    def test_something_else_at_the_drivers_socket_is_no_crash(self):
        self.guest_driver.stop()
        os.path.exists(self.path("guest-driver.sock")) and os.unlink(self.path("guest-driver.sock"))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path("guest-driver.sock"))
            listener.listen()

            def serve():
                for answer in b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4, b"\0" * 100, b"":
                    s, _ = listener.accept()
                    s.recv(1)
                    s.sendall(answer)
                    s.close()
            threading.Thread(target=serve, daemon=True).start()
            for _ in range(3):
                self.assertEqual(self.refused(ECHO, timeout=PATIENCE)[0], grpc.StatusCode.UNAVAILABLE)

    # ---- what no proper client does ----

    def test_headers_are_checked(self):
        def without(name):
            return [h for h in GOOD if h[0] != name]
        cases = {
            "not POST": [h if h[0] != ":method" else (":method", "GET") for h in GOOD],
            "no content-type": without("content-type"),
            "another content-type": without("content-type") + [("content-type", "application/grpcweb")],
            "no te": without("te"),
            "no path": without(":path"),
            "an ill-formed time-out": GOOD + [("grpc-timeout", "5 parsecs")],
        }
        for name, headers in cases.items():
            with self.subTest(name):
                f = self.frames_to()
                f.send(frame(HEADERS, 4, 1, block(*headers)), frame(DATA, 1, 1, message(b"x")))
                self.assertEqual(f.ends(), ("answer", None))
        self.assertEqual(self.guest_driver.names(), [])

    def test_a_connection_header_resets_the_stream(self):
        f = self.frames_to()
        f.send(frame(HEADERS, 4, 1, block(*GOOD, ("connection", "close"))))
        self.assertEqual(f.ends()[0], "reset")

    def test_a_path_as_authority_is_taken(self):
        f = self.frames_to()
        f.send(frame(HEADERS, 4, 1, block(*[h if h[0] != ":authority" else (":authority", "/csi/csi.sock") for h in GOOD])), frame(DATA, 1, 1, message(b"x")))
        self.assertEqual(f.ends(), ("answer", None))
        self.assertEqual(self.guest_driver.names(), ["Echo"])

    def test_bodies_that_are_no_single_message_are_refused(self):
        cases = {
            "nothing": b"", "half a prefix": b"\0\0", "less than announced": b"\0\0\0\0\x05abc", "more than announced": message(b"abc") + b"d",
            "two messages": message(b"abc") * 2, "compressed": message(b"abc", 1), "an unknown flag": message(b"abc", 7),
            "4 GiB announced": b"\0\xff\xff\xff\xffabc",
        }
        for name, body in cases.items():
            with self.subTest(name):
                f = self.frames_to()
                f.send(frame(HEADERS, 4, 1, block(*GOOD)), frame(DATA, 1, 1, body))
                self.assertEqual(f.ends(), ("answer", None))
        self.assertEqual(self.guest_driver.names(), [])

    def test_garbage_ends_its_connection_only(self):
        for garbage in b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", os.urandom(4096), PREFACE + os.urandom(4096), PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, b"\xff" * 64):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(PATIENCE)
                s.connect(self.path("podvm.sock"))
                try:
                    s.sendall(garbage)
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(4096):
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass
        self.assertEqual(self.caller.raw(ECHO, b"still here"), b"still here")

    def test_connections_that_say_nothing_make_room_for_one_that_does(self):
        idle = [self.frames_to() for _ in range(64)]
        other = Caller(self.path("podvm.sock"))
        self.assertEqual(other.raw(ECHO, b"hello"), b"hello")
        other.close()
        self.assertEqual(len(idle), 64)
        fds = os.listdir(f"/proc/{self.processes['podvm'].pid}/fd")
        self.assertLess(len(fds), 32 + 20)

    def test_endless_streams_and_announcements_take_no_memory(self):
        def resident():
            with open(f"/proc/{self.processes['podvm'].pid}/statm", encoding="ascii") as f:
                return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.caller.raw(ECHO, b"warm")
        before = resident()
        for _ in range(20):
            f = self.frames_to()
            f.send(*[frame(HEADERS, 4, i, block(*GOOD)) + frame(DATA, 0, i, b"\0\0\x3f\xff\xffx") for i in range(1, 128, 2)])
        self.assertEqual(self.caller.raw(ECHO, b"still here"), b"still here")
        self.assertLess(resident() - before, 64 << 20)

    def test_answers_that_nobody_takes_are_kept_up_to_a_bound(self):
        """by clients that do not open their windows any further"""
        big = bytes(1 << 20)
        self.guest_driver.answers["Big"] = lambda data, context: big
        self.assertEqual(self.caller.raw("/csi.v1.Identity/Big"), big)
        headers = block(*[h if h[0] != ":path" else (":path", "/csi.v1.Identity/Big") for h in GOOD])
        ended = []
        for n in 20, 20, 10:            # soon done, as the first one has 30 s only
            f = self.frames_to()
            answers = ((stream, flags & 1) for kind, flags, stream, _ in f.frames() if kind == HEADERS)
            for i in range(1, 2 * n, 2):
                f.send(frame(HEADERS, 4, i, headers) + frame(DATA, 1, i, message(b"")))
                stream, end = next(answers)
                self.assertEqual(stream, i)
                ended.append(end)
        # 31 MiB are kept; each of the others is a status without a message.
        self.assertEqual(ended, [0] * 31 + [1] * 19)
        self.assertEqual(self.refused("/csi.v1.Identity/Big"), (grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many answers are not taken."))
        self.assertEqual(self.caller.raw(ECHO, b"still here"), b"still here")

    def test_no_descriptor_is_left_when_clients_go(self):
        def count():
            return len(os.listdir(f"/proc/{self.processes['podvm'].pid}/fd"))
        self.caller.raw(ECHO, b"x")
        before = count()
        for _ in range(20):
            f = self.frames_to()
            f.send(frame(HEADERS, 4, 1, block(*GOOD)))
            f.close()
        until("all are closed", lambda: count() <= before)

    def test_a_request_that_does_not_end_is_answered_in_time(self):
        f = self.frames_to()
        f.send(frame(HEADERS, 4, 1, block(*GOOD, ("grpc-timeout", "200m"))), frame(DATA, 0, 1, b"\0"))
        began = time.monotonic()
        self.assertEqual(f.ends()[0], "answer")
        self.assertLess(time.monotonic() - began, 25)


if __name__ == "__main__":
    main(["podvm"])
