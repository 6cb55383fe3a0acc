#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The HTTP client of the cloud modules (providers/common/cloud-http.c) against servers that break.

Usage: cloud-http-test.py CLOUD-HTTP-CALL [CASE]"""
import base64
import email.utils
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import cloud_rig
from cloud_rig import Server

CALL = sys.argv[1]
INVALID, FAILED_PRECONDITION, UNAVAILABLE, TIMED_OUT, CANCELLED, INTERNAL = 1, 5, 6, 7, 8, 10


class Result:
    def __init__(self, line):
        m = re.match(r"error kind=(\d+) sent=(\d) msec=(\d+) text=(.*)", line)
        if m:
            self.kind, self.sent, self.msec, self.text = int(m[1]), m[2] == "1", int(m[3]), m[4]
            self.status = None
            return
        m = re.match(r"reply status=(\d+) sent=(\d) msec=(\d+) size=(\d+) headers=(\d+) header=(.*?) body=(.*)", line)
        assert m, line
        self.kind, self.status, self.sent, self.msec, self.size = 0, int(m[1]), m[2] == "1", int(m[3]), int(m[4])
        self.n_headers, self.header, self.body = int(m[5]), m[6], m[7]


last_log = ""


def calls(*args, program=(CALL,), **environment):
    global last_log
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env.update(environment)
    r = subprocess.run([*program, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100)
    last_log = r.stderr
    assert r.returncode == 0, f"status {r.returncode}: {r.stdout}{r.stderr}"
    return [Result(line) for line in r.stdout.splitlines()]


def call(*args, **environment):
    results = calls(*args, **environment)
    assert len(results) == 1
    return results[0]


def hello(request):
    return 200, "hello", {"X-Reply": "first", "x-reply": " last ", "Content-Type": "text/plain"}


def get_is_answered():
    """A GET is answered; the last header of a name counts; the log has neither query nor headers"""
    with Server(hello) as s:
        r = call(s.url + "/a?secret=1")
        assert (r.status, r.body, r.header, r.sent, r.n_headers) == (200, "hello", "last", True, 1), vars(r)
        q = s.requests[0]
        assert q.method == "GET" and q.headers["x-test"] == "one" and q.headers["user-agent"] == "peerpod-test/1"
        assert "secret" not in last_log and "/a, try 1: HTTP 200" in last_log, last_log


def body_is_sent():
    """A body goes out whole, an empty one with a length of 0"""
    with Server(hello) as s:
        call("method=PUT", "body=" + "x" * 100000, s.url)
        call("method=POST", "body=", s.url)
        assert len(s.requests[0].body) == 100000 and s.requests[1].headers["content-length"] == "0"


def redirects_are_not_followed():
    """A redirect is a reply like any other"""
    with Server(lambda q: (307, "", {"Location": "/elsewhere"})) as s:
        assert call(s.url).status == 307 and len(s.requests) == 1


def reset_is_repeated_where_allowed():
    """After a reset the request is sent again if it is repeatable, and not otherwise"""
    for fault in ("refuse", "reset", "truncate"):
        with Server(hello) as s:
            s.reset({0: fault})
            assert call("repeatable=1", s.url).status == 200 and len(s.requests) == 2
            s.reset({0: fault})
            r = call("method=POST", "body=a", s.url)
            assert r.kind == UNAVAILABLE and r.sent and len(s.requests) == 1, vars(r)
            assert r.text.startswith("Test: "), r.text


def nothing_listens():
    """A refused connection is tried again whatever the request, and was not sent"""
    with Server(hello) as s:
        s.refuse(True)
        r = call("method=POST", "body=a", s.url)
        assert r.kind == UNAVAILABLE and not r.sent and last_log.count("<7>") == 5, last_log


def statuses():
    """503 is repeated where allowed; 429 always, after Retry-After; 404 never; the last reply is the caller's"""
    with Server(hello) as s:
        s.reset({0: ("status", 503, "{}")})
        assert call("repeatable=1", s.url).status == 200
        s.reset({0: ("status", 503, "{}")})
        assert call("method=POST", "body=a", s.url).status == 503 and len(s.requests) == 1
        s.reset({0: ("status", 429, "{}", {"Retry-After": "1"})})
        r = call("method=POST", "body=a", s.url)
        assert r.status == 200 and 1000 <= r.msec, vars(r)
        when = email.utils.formatdate(time.time() + 2, usegmt=True)
        s.reset({0: ("status", 429, "{}", {"Retry-After": when})})
        r = call(s.url)
        assert r.status == 200 and 500 <= r.msec, vars(r)
        s.reset({n: ("status", 503, "{}") for n in range(9)})
        assert call("repeatable=1", "tries=3", s.url).status == 503 and len(s.requests) == 3
        s.reset({0: ("status", 404, "{}")})
        assert call("repeatable=1", s.url).status == 404 and len(s.requests) == 1


def retry_after_beyond_the_deadline():
    """A Retry-After that ends after the call's deadline is not waited for"""
    with Server(hello) as s:
        s.reset({0: ("status", 503, "{}", {"Retry-After": "3600"})})
        r = call("repeatable=1", "deadline=20000", s.url)
        assert r.status == 503 and r.msec < 10000, vars(r)


def bounded():
    """A body or head larger than allowed is an error, and not repeated"""
    with Server(lambda q: (200, "x" * 5000)) as s:
        assert call("max=5000", s.url).size == 5000
        r = call("max=4999", "repeatable=1", s.url)
        assert r.kind == INTERNAL and "larger" in r.text and len(s.requests) == 2
    with Server(lambda q: (200, "", {f"X-{i}": "y" * 1000 for i in range(80)})) as s:
        r = call("repeatable=1", s.url)
        assert r.kind == INTERNAL, vars(r)


def slow():
    """A body that trickles ends with the try's time, or with the call's deadline"""
    with Server(hello) as s:
        s.reset({0: "slow"})
        r = call("timeout=300", "repeatable=1", s.url)
        assert r.status == 200 and len(s.requests) == 2, vars(r)
        s.reset({0: "slow"})
        r = call("deadline=300", s.url)
        assert r.kind == TIMED_OUT and r.msec < 3000 and r.text.startswith("Test: "), vars(r)


def cancel():
    """A cancelled call is back soon: before it is connected, before the reply, in its middle, between two tries"""
    with Server(hello) as s:
        for fault in (("delay", 30), "slow", ("status", 429, "{}", {"Retry-After": "20"})):
            s.reset({n: fault for n in range(9)})
            r = call("cancel=200", "repeatable=1", s.url)
            assert r.kind == CANCELLED and r.msec < 3000, (fault, vars(r))
        s.stopping.set()
    # a listener whose queue is full: connect() never ends
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    clients = []
    for _ in range(8):
        c = socket.socket()
        c.setblocking(False)
        c.connect_ex(full.getsockname())
        clients.append(c)
    r = call("cancel=200", f"http://127.0.0.1:{full.getsockname()[1]}/")
    assert r.kind == CANCELLED and not r.sent and r.msec < 3000, vars(r)
    for c in [full, *clients]:
        c.close()
    with Server(hello) as s:
        assert call("cancel=0", "deadline=5000", s.url).kind in (0, CANCELLED)


def taken_piece_by_piece():
    """A body can be taken piece by piece; a refused piece ends it; an error's body is still kept"""
    with Server(lambda q: (200 if q.path != "/404" else 404, "X" if q.path == "/x" else "a" * 3000000)) as s:
        r = call("take", s.url)
        assert r.status == 200 and r.size == 0
        r = call("take", "repeatable=1", s.url + "/x")
        assert r.kind == INTERNAL and len(s.requests) == 2, vars(r)
        assert call("take", s.url + "/404").size == 3000000


def crowd():
    """100 threads share the connections, of which there are no more than allowed, and each gets an answer from a server that throttles"""
    lock, seen = threading.Lock(), []

    def handler(q):
        with lock:
            seen.append(q)
            n = len(seen)
        return (429, "{}", {"Retry-After": "0"}) if n % 3 == 0 else (200, "hello")

    with Server(handler) as s:
        results = calls("n=100", "connections=8", "tries=20", "repeatable=1", "quiet", s.url)
        assert len(results) == 100 and all(r.status == 200 for r in results), [vars(r) for r in results if r.status != 200]
        assert s.n_connections_max <= 8, s.n_connections_max
    with Server(hello) as s:
        s.reset({n: ("delay", 5) for n in range(100)})
        results = calls("n=50", "connections=4", "cancel=100", "repeatable=1", "quiet", s.url)
        assert len(results) == 50 and all(r.kind == CANCELLED and r.msec < 5000 for r in results), [vars(r) for r in results]


def once_only_is_once():
    """What may be done once only is not sent again, on no connection that the server closes when it has it"""
    with Server(hello) as s:
        s.reset({1: "reset"})
        r = call("method=POST", "body=a", "warm=" + s.url, s.url)
        assert r.kind == UNAVAILABLE and r.sent and len(s.requests) == 2, (vars(r), s.requests)
        s.reset({1: "reset"})
        r = call("repeatable=1", "warm=" + s.url, s.url)
        assert r.status == 200 and len(s.requests) == 3 and s.n_connections_max <= 2


def tokens():
    """100 threads fetch one token; a refused one is fetched anew once, and the request repeated; refused for good: the reply is the caller's"""
    state = {"n": 0}
    lock = threading.Lock()

    def handler(q):
        if q.path == "/token":
            with lock:
                state["n"] += 1
                return 200, f"token-{state['n']}"
        good = state.get("good")
        return (200, "hello") if good is None or q.headers.get("authorization") == good else (401, "{}")

    with Server(handler) as s:
        results = calls("n=100", "quiet", "token=" + s.url + "/token", s.url + "/x")
        assert all(r.status == 200 and r.n_headers == 1 for r in results) and state["n"] == 1, state
        state.update(n=0, good="token-2")
        results = calls("n=20", "quiet", "token=" + s.url + "/token", s.url + "/x")
        assert all(r.status == 200 for r in results) and state["n"] == 2, state
        state.update(n=0, good="none")
        r = call("method=POST", "body=a", "token=" + s.url + "/token", s.url + "/x")
        assert r.status == 401 and state["n"] == 2 and len(s.requests) > 3
        assert "token-" not in last_log, last_log


def token_failures():
    """A failed fetch is every waiting caller's failure, and not tried by each in turn"""
    with Server(lambda q: (403, "{}") if q.path == "/token" else (200, "hello")) as s:
        s.reset({0: ("delay", 1)})
        results = calls("n=30", "quiet", "token=" + s.url + "/token", s.url + "/x")
        assert all(r.kind == 9 for r in results), [vars(r) for r in results]
        assert len(s.requests) < 30, len(s.requests)


def tls():
    """TLS: a certificate that nobody vouches for is refused and not repeated; a CA file, or a pinned key, allows it; the client has one, too"""
    with tempfile.TemporaryDirectory() as d:
        cert, key = cloud_rig.make_certificate(d)
        other, other_key = cloud_rig.make_certificate(d, name="other")
        with Server(hello, tls=(cert, key)) as s:
            r = call("repeatable=1", s.url)
            assert r.kind == FAILED_PRECONDITION and not r.sent and s.count == 0 and last_log.count("<7>") == 1, (vars(r), last_log)
            assert call("ca=" + cert, s.url).status == 200
            assert call("ca=" + other, s.url).kind == FAILED_PRECONDITION
            assert call("pin=" + pin(cert), s.url).status == 200
            r = call("pin=" + pin(other), s.url)
            assert r.kind == FAILED_PRECONDITION and not r.sent, vars(r)
        with Server(hello, tls=(cert, key), client_ca=other) as s:
            assert call("ca=" + cert, "cert=" + other, "key=" + other_key, s.url).status == 200
            assert call("ca=" + cert, s.url).kind == UNAVAILABLE
        assert call("ca=/nonexistent", "http://127.0.0.1:1/").kind == INVALID
        assert call("ca=" + key, "http://127.0.0.1:1/").kind == UNAVAILABLE     # is read when it is needed
        assert call("pin=abc", "http://127.0.0.1:1/").kind == INVALID


def a_ca_file_is_instead_of_the_system_s():
    """With a CA file, the authorities of the system are not trusted"""
    with tempfile.TemporaryDirectory() as d:
        cert, key = cloud_rig.make_certificate(d)
        other, _ = cloud_rig.make_certificate(d, name="other")
        with Server(hello, tls=(cert, key)) as s:
            def as_the_system_s(*args):
                script = 'mount -t tmpfs tmpfs /etc/ssl/certs && cp "$1" /etc/ssl/certs/authority.pem && cp "$1" /etc/ssl/certs/ca-certificates.crt && shift && exec "$@"'
                return calls("-c", script, "sh", cert, CALL, *args, program=["unshare", "--mount", "sh"])[0]
            assert as_the_system_s(s.url).status == 200
            assert as_the_system_s("ca=" + other, s.url).kind == FAILED_PRECONDITION


def pin(cert):
    der = subprocess.run(f"openssl x509 -in {cert} -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary", shell=True, check=True,
                         stdout=subprocess.PIPE).stdout
    return "sha256//" + base64.b64encode(der).decode()


def old_tls_is_refused():
    """TLS 1.1 is refused"""
    with tempfile.TemporaryDirectory() as d:
        cert, key = cloud_rig.make_certificate(d)
        with Server(hello, tls=(cert, key)) as s:
            warnings.simplefilter("ignore", DeprecationWarning)
            s.tls.minimum_version, s.tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
            s.tls.set_ciphers("ALL:@SECLEVEL=0")
            assert call("ca=" + cert, s.url).kind == UNAVAILABLE and s.count == 0


def unix_socket():
    """Every connection goes to the Unix socket"""
    with tempfile.TemporaryDirectory() as d, Server(hello, address=d + "/sock") as s:
        assert call("unix=" + d + "/sock", "http://localhost/v1/x", http_proxy="http://127.0.0.1:1").status == 200 and s.requests[0].path == "/v1/x"


def proxies():
    """A proxy of the environment is used, but not for loopback, link-local and metadata services, nor for what no_proxy names"""
    with Server(hello) as proxy, Server(hello) as s:
        assert call("http://cloud.invalid/x", http_proxy=proxy.url).status == 200
        assert proxy.requests[0].target == "http://cloud.invalid/x"
        assert call(s.url, http_proxy=proxy.url).status == 200 and len(s.requests) == 1
        for near in ("http://169.254.169.254:1/", "http://100.100.100.200:1/", "http://[::1]:1/", "http://localhost:1/"):
            call("tries=1", "timeout=200", near, http_proxy=proxy.url)
        assert call("tries=1", "timeout=2000", "http://cloud.invalid/x", http_proxy=proxy.url, no_proxy="cloud.invalid").kind
        assert len(proxy.requests) == 1, proxy.requests


def http2():
    """A server that speaks HTTP/2 is asked for it"""
    with tempfile.TemporaryDirectory() as d:
        cert, key = cloud_rig.make_certificate(d)
        with Server(hello, tls=(cert, key)) as s:
            offered = []
            s.tls.set_alpn_protocols(["h2"])
            listener = s.tls
            s.tls = type("Tls", (), {"wrap_socket": lambda self, *a, **k: (lambda w: offered.append(w.selected_alpn_protocol()) or w)(listener.wrap_socket(*a, **k))})()
            call("ca=" + cert, "timeout=500", "tries=1", s.url)
            assert offered == ["h2"], offered


def connections_are_made_beside_each_other():
    """Of a server whose handshake takes its time nobody waits to learn whether one connection would do for all"""
    with tempfile.TemporaryDirectory() as d:
        cert, key = cloud_rig.make_certificate(d)
        with Server(hello, tls=(cert, key)) as s:
            both, listener = threading.Barrier(2), s.tls
            s.tls = type("Tls", (), {"wrap_socket": lambda self, *a, **k: both.wait(cloud_rig.PATIENCE) and False or listener.wrap_socket(*a, **k)})()
            results = calls("n=2", "ca=" + cert, "timeout=20000", "tries=1", "repeatable=1", "quiet", s.url)
            assert [r.status for r in results] == [200, 200], [vars(r) for r in results]


CASES = [get_is_answered, body_is_sent, redirects_are_not_followed, reset_is_repeated_where_allowed, nothing_listens, statuses, retry_after_beyond_the_deadline,
         bounded, slow, cancel, taken_piece_by_piece, crowd, once_only_is_once, tokens, token_failures, tls, a_ca_file_is_instead_of_the_system_s, old_tls_is_refused, unix_socket, proxies, http2,
         connections_are_made_beside_each_other]
cloud_rig.main(CASES, sys.argv[2] if len(sys.argv) > 2 else None)
