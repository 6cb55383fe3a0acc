#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""peerpod-webhook as the API server sees it: the real program, on a socket as systemd passes it, asked over TLS by Python's own client.
Patches are applied by jsonpatch, and the pods that come out are compared with the schemas that the Kubernetes project publishes
(kubernetes-validate). Quantities are compared with what Kubernetes' own parser makes of them.

Usage: webhook-test.py WEBHOOK GO-PEER"""
import base64
import contextlib
import copy
import ctypes
import errno
import http.client
import json
import os
import random
import resource
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import jsonpatch
import kubernetes_validate

from common_rig import PATIENCE, until

WEBHOOK, GO_PEER = [os.path.abspath(a) for a in sys.argv[1:3]]
HYPERVISOR = "io.katacontainers.config.hypervisor."
with open(WEBHOOK, "rb") as program:       # AddressSanitizer keeps what was freed, and more beside what was not
    MEMORY_SCALE = 4 if b"__asan_init" in program.read() else 1
VM = {"limits": {"kata.peerpods.io/vm": "1"}, "requests": {"kata.peerpods.io/vm": "1"}}


def openssl(*argv):
    subprocess.run(["openssl", *argv], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=PATIENCE)


def make_pair(directory, name, days="30"):
    """A certificate that is its own CA, as small installations have it."""
    os.mkdir(os.path.join(directory, name))
    crt, key = (os.path.join(directory, name, f) for f in ("tls.crt", "tls.key"))
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", days, "-subj", "/CN=" + name,
            "-addext", "subjectAltName=DNS:webhook.peerpod.svc", "-keyout", key, "-out", crt)
    return crt, key


def pod(*containers, **spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-", "namespace": "default", "labels": {"a/b": "c~d"}},
            "spec": {"runtimeClassName": "kata-remote", "containers": list(containers), **spec}}


def container(name, requests=None, limits=None, **fields):
    return {"name": name, "image": "example.com/" + name, "resources": {"requests": requests or {}, "limits": limits or {}}, **fields}


def review(an_object, uid="0ddba11", operation="CREATE"):
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {
        "uid": uid, "kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "default", "operation": operation,
        "userInfo": {"username": "kubernetes-admin", "groups": ["system:masters"]}, "object": an_object, "oldObject": None, "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}}}


class Rig(unittest.TestCase):
    options = ()
    environment = {}

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.dir)
        make_pair(self.dir, "serving")
        self.start()

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def start(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.addCleanup(self.listener.close)
        self.port = self.listener.getsockname()[1]
        a = os.dup(self.listener.fileno())
        self.log = open(self.path("log"), "w+", encoding="utf-8")
        self.addCleanup(self.log.close)
        self.webhook = subprocess.Popen(
            ["sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh", WEBHOOK, "--cert-dir", self.path("serving"), *self.options],
            env=dict(os.environ, **self.environment,
                     ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"), stderr=self.log, pass_fds=(3,), preexec_fn=lambda: os.dup2(a, 3))
        os.close(a)
        self.addCleanup(self.stop)
        self.certificate()              # which is there as soon as it serves

    def stop(self):
        if self.webhook.poll() is None:
            self.webhook.send_signal(signal.SIGTERM)
        self.assertEqual(self.webhook.wait(PATIENCE), 0, self.logged())

    def logged(self):
        with open(self.path("log"), encoding="utf-8") as f:
            return f.read()

    def context(self, name="serving", **settings):
        context = ssl.create_default_context(cafile=self.path(name, "tls.crt"))
        for key, value in settings.items():
            setattr(context, key, value)
        return context

    def certificate(self):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with contextlib.closing(self.connect(context)) as s:
            return s.getpeercert(binary_form=True)

    def connect(self, context=None):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)         # as http.client does, and Go
        try:
            return (context or self.context()).wrap_socket(s, server_hostname="webhook.peerpod.svc")
        except BaseException:
            s.close()
            raise

    def client(self, context=None):
        c = http.client.HTTPConnection("webhook.peerpod.svc", timeout=PATIENCE)
        c.sock = self.connect(context)
        return contextlib.closing(c)

    def request(self, method="POST", url="/mutate-v1-pod?timeout=10s", body=None, headers=None, client=None):
        with contextlib.ExitStack() as stack:
            c = client or stack.enter_context(self.client())
            c.request(method, url, body=body, headers={"Content-Type": "application/json"} if headers is None else headers)
            r = c.getresponse()
            return r.status, r.headers, r.read().decode("utf-8")

    def ask_text(self, text, **arguments):
        status, headers, answer = self.request(body=text, **arguments)
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        answer = json.loads(answer)
        self.assertEqual((answer["kind"], answer["apiVersion"]), ("AdmissionReview", "admission.k8s.io/v1"))
        return answer["response"]

    def ask(self, an_object, **arguments):
        response = self.ask_text(json.dumps(review(an_object, uid="u-1")), **arguments)
        self.assertEqual(response["uid"], "u-1")
        self.assertEqual("patch" in response, "patchType" in response)
        return response

    def mutate(self, an_object, **arguments):
        """As the API server does: the patch must apply, and the outcome must be a pod."""
        response = self.ask(an_object, **arguments)
        self.assertTrue(response["allowed"], response)
        if "patch" not in response:
            return copy.deepcopy(an_object)
        out = jsonpatch.apply_patch(an_object, base64.b64decode(response["patch"], validate=True).decode("utf-8"))
        kubernetes_validate.validate(out, "1.34", strict=True)
        return out

    def sizes(self, an_object):
        annotations = an_object["metadata"].get("annotations", {})
        return tuple(annotations.get(HYPERVISOR + "default_" + k) for k in ("vcpus", "memory", "gpus"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.webhook.pid}/fd"))


class Pods(Rig):
    def test_a_pod_moves_its_size_into_annotations(self):
        before = pod(container("a", {"cpu": "2", "memory": "4Gi"}, {"cpu": "3", "memory": "5Gi"}, ports=[{"containerPort": 80}]),
                     container("b", {"cpu": "500m"}), initContainers=[container("i", {"memory": "8Gi"})],
                     overhead={"cpu": "250m", "memory": "120Mi"}, nodeSelector={"x": "y"})
        after = self.mutate(before)
        self.assertEqual(self.sizes(after), ("4", "8192", None))
        self.assertEqual([c["resources"] for c in after["spec"]["containers"]], [VM, {}])
        self.assertEqual(after["spec"]["initContainers"][0]["resources"], {})
        for p in before, after:         # and nothing else has changed
            p["metadata"].pop("annotations", None)
            for c in p["spec"]["containers"] + p["spec"]["initContainers"]:
                del c["resources"]
        self.assertEqual(before, after)

    def test_a_second_pass_changes_nothing(self):
        for p in (pod(container("a", {"cpu": "2", "memory": "4Gi"}), initContainers=[container("i", {"cpu": "9"})]), pod(container("a")),
                  pod(container("a"), resources={"limits": {"cpu": "3"}}), pod(container("a", {"ephemeral-storage": "1Gi"}))):
            self.assertNotIn("patch", self.ask(self.mutate(p)))

    def test_a_sidecar_that_is_injected_between_the_passes_is_added(self):
        for at in 0, 1:
            p = self.mutate(pod(container("a", {"cpu": "2", "memory": "4Gi"})))
            p["spec"]["containers"].insert(at, container("proxy", {"cpu": "1", "memory": "128Mi"}))
            p = self.mutate(p)
            self.assertEqual(self.sizes(p), ("3", "4224", None))
            self.assertEqual([c["resources"] for c in p["spec"]["containers"]], [VM, {}])
            self.assertNotIn("patch", self.ask(p))

    def test_two_webhooks_that_take_turns_come_to_an_end(self):
        p = pod(container("a", {"cpu": "1"}))
        for i in range(8):
            p = self.mutate(p)
            p["spec"].setdefault("initContainers", []).append(container(f"s{i}", {"cpu": "1"}, restartPolicy="Always"))
        self.assertEqual(self.sizes(self.mutate(p)), ("9", None, None))

    def test_what_the_author_has_set_wins(self):
        p = pod(container("a", {"cpu": "4", "memory": "1Gi"}))
        p["metadata"]["annotations"] = {HYPERVISOR + "default_vcpus": "2"}
        self.assertEqual(self.sizes(self.mutate(p)), ("2", "1024", None))
        self.assertEqual(len(self.ask(p)["warnings"]), 1)
        self.assertEqual(self.sizes(self.mutate(self.mutate(p))), ("2", "1024", None))

    def test_a_pod_of_another_class_stays_as_it_is(self):
        for p in (pod(container("a", {"cpu": "1"})), pod(container("a", {"cpu": "what"}))):
            p["spec"]["runtimeClassName"] = "runc"
            response = self.ask(p)
            self.assertEqual((response["allowed"], "patch" in response), (True, False))

    def test_what_no_schema_knows_stays(self):
        p = pod(container("a", {"cpu": "1"}))
        p["spec"]["futureField"] = {"x": [1.5, None, "\u00e4\U0001f600"]}
        response = self.ask(p)
        out = jsonpatch.apply_patch(p, base64.b64decode(response["patch"]).decode("utf-8"))
        self.assertEqual(out["spec"]["futureField"], p["spec"]["futureField"])

    def test_a_wrong_quantity_is_refused_with_its_field(self):
        response = self.ask(pod(container("a"), container("b", {"cpu": "1"}, {"memory": "-1Gi"})))
        self.assertFalse(response["allowed"])
        self.assertEqual(response["status"]["code"], 422)
        self.assertEqual(response["status"]["message"], "spec.containers[1]: resources: limits['memory']: '-1Gi' is negative")

    def test_warnings_are_short_whatever_the_pod_has(self):
        names = {f"example.com/{'\u00e4' * 40}-{i}": "1" for i in range(100)}
        warnings = self.ask(pod(container("a", names)))["warnings"]
        self.assertEqual(len(warnings), 1)
        self.assertLessEqual(len(warnings[0]), 256)


class Quantities(Rig):
    """Through the whole of the webhook, as memory in MiB and as processors."""

    def quantities(self):
        rng = random.Random(6)
        numbers = ["0", "1", "7", "0.5", ".1", "1.", "0.000000001", "1.000000001", "123456789.987654321", "0.0000000004", "18014398509481984",
                   "1048577", "9007199254740993", "4611686018427387905", "0.333333333333333333333333333", "-1", "+2", "-0.1"]
        numbers += [f"{rng.randrange(10 ** rng.randrange(1, 15))}.{rng.randrange(10 ** rng.randrange(1, 15))}" for _ in range(40)]
        suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "e3", "E-3", "e+6", "e-30", "e0"]
        wrong = ["K", "ki", "KI", "mi", "e", "e1.5", "i", " ", "Zi", "mm", "1.1", "x", "e+", "E1E1", "\u00b5", "Gi1"]
        return [n + s for n in numbers for s in suffixes + wrong] + ["", "+", "-", ".", "Ki", "m", "--1", "+-1", "1..2", "1,5", "inf", "0x1"]

    def test_they_are_what_kubernetes_makes_of_them(self):
        quantities = self.quantities()
        theirs = subprocess.run([GO_PEER, "quantity"], input="".join(json.dumps(q) + "\n" for q in quantities), check=True, text=True,
                                stdout=subprocess.PIPE, timeout=PATIENCE).stdout.splitlines()
        self.assertEqual(len(theirs), len(quantities))
        compared = 0
        with self.client() as c:
            for text, expected in zip(quantities, theirs):
                response = self.ask(pod({"name": "a", "resources": {"requests": {"cpu": text, "memory": text}}}), client=c)
                if expected == "error":
                    self.assertEqual((text, response["status"]["code"]), (text, 422))
                    self.assertIn("is no quantity", response["status"]["message"])
                    continue
                nano, whole = map(int, expected.split())
                if nano < 0 or nano >= 2 ** 63 * 10 ** 9:
                    self.assertEqual((text, response["status"]["code"]), (text, 422))
                    self.assertRegex(response["status"]["message"], "is negative|is more than any VM has")
                    continue
                self.assertTrue(response["allowed"], (text, response))
                annotations = {}
                for op in json.loads(base64.b64decode(response["patch"])):
                    if op["path"] == "/metadata/annotations":
                        annotations = op["value"]
                sizes = (annotations.get(HYPERVISOR + "default_vcpus"), annotations.get(HYPERVISOR + "default_memory"))
                mib = -(-nano // (10 ** 9 << 20))
                self.assertEqual((text, sizes), (text, (str(whole), str(mib)) if nano else (None, None)))
                compared += 1
        self.assertGreater(compared, 500)


class Reviews(Rig):
    def test_health_is_told_over_tls(self):
        for url in "/healthz", "/readyz":
            self.assertEqual(self.request("GET", url, headers={})[::2], (200, "ok"))
            self.assertEqual(self.request("HEAD", url, headers={})[::2], (200, ""))
            self.assertEqual(self.request("POST", url, body="x")[0], 405)

    def test_other_paths_and_methods_are_refused(self):
        for url in "/", "/mutate-v1-pod/", "/metrics", "//mutate-v1-pod":
            self.assertEqual((url, self.request(url=url, body="{}")[0]), (url, 404))
        for method in "GET", "PUT", "DELETE", "OPTIONS", "WHATEVER":
            status, headers, _ = self.request(method, headers={})
            self.assertEqual((method, status, headers["Allow"]), (method, 405, "POST"))

    def test_one_connection_takes_many_reviews(self):
        with self.client() as c:
            for i in range(100):
                self.assertEqual(self.sizes(self.mutate(pod(container("a", {"cpu": str(i + 1)})), client=c))[0], str(i + 1))

    def test_a_body_in_pieces_is_one_review(self):
        text = json.dumps(review(pod(container("a", {"cpu": "1"}))))
        with self.client() as c:
            c.request("POST", "/mutate-v1-pod", body=(text[i:i + 7].encode() for i in range(0, len(text), 7)), encode_chunked=True,
                      headers={"Content-Type": "application/json; charset=utf-8", "Transfer-Encoding": "chunked"})
            self.assertTrue(json.loads(c.getresponse().read())["response"]["allowed"])

    def test_what_is_no_review_is_refused_by_a_review(self):
        for body in "", "x", "[]", "{}", "{" * 1000, json.dumps(pod(container("a"))), "\0" * 100, "\xff\xfe":
            response = self.ask_text(body.encode("latin-1"))
            self.assertEqual((body, response["uid"], response["allowed"], response["status"]["code"]), (body, "", False, 400))
        for headers in {}, {"Content-Type": "text/plain"}, {"Content-Type": "application/jsonx"}:
            self.assertEqual(self.ask_text(json.dumps(review(pod(container("a")))), headers=headers)["status"]["code"], 400)

    def test_a_large_pod_is_a_pod_all_the_same(self):
        p = pod(container("a", {"cpu": "1"}))
        p["metadata"]["annotations"] = {f"example.com/a{i}": "x" * 1000 for i in range(3000)}
        response = self.ask(p)
        self.assertTrue(response["allowed"])
        self.assertIn("patch", response)

    def test_a_huge_review_is_refused(self):
        with self.client() as c:
            for chunked in False, True:
                body = b" " * ((7 << 20) + 1)
                c.request("POST", "/mutate-v1-pod", body=iter([body]) if chunked else body, encode_chunked=chunked,
                          headers={"Content-Type": "application/json", **({"Transfer-Encoding": "chunked"} if chunked else {})})
                r = c.getresponse()
                self.assertEqual((r.status, json.loads(r.read())["response"]["status"]["code"]), (200, 413))
            self.assertTrue(self.ask(pod(container("a")), client=c)["allowed"])

    def test_a_review_that_would_become_huge_is_refused(self):
        for piece in "{},", "[],", "0,":
            response = self.ask_text("[" + piece * ((6 << 20) // len(piece)) + "0]")
            self.assertEqual((piece, response["allowed"], response["status"]["code"]), (piece, False, 400))
        self.assertLess(memory_of(self.webhook.pid), 128 << 20)

    def test_http2_is_not_offered(self):
        context = self.context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with contextlib.closing(self.connect(context)) as s:
            self.assertIn(s.selected_alpn_protocol(), (None, "http/1.1"))
        with self.client(context) as c:
            self.assertTrue(self.ask(pod(container("a")), client=c)["allowed"])


def memory_of(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * resource.getpagesize() // MEMORY_SCALE


class Strangers(Rig):
    def ends(self, s, keep_alive=b""):
        """It is closed from the other side, though we go on."""
        s.settimeout(0.1)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if keep_alive:
                    s.sendall(keep_alive)
                if s.recv(65536) == b"":
                    return
            except (TimeoutError, ssl.SSLWantReadError):
                continue
            except (OSError, ssl.SSLError):
                return
        self.fail("still connected")

    def raw(self):
        return contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE))


class Deadlines(Strangers):
    options = ("--request-time=3s", "--idle-time=3s")

    def test_who_says_nothing_is_cut_off(self):
        with self.raw() as s:
            self.ends(s)

    def test_who_dribbles_a_handshake_is_cut_off(self):
        with self.raw() as s:
            s.sendall(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")
            self.ends(s, b"x")

    def test_who_dribbles_headers_is_cut_off(self):
        with contextlib.closing(self.connect()) as s:
            s.sendall(b"POST /mutate-v1-pod HTTP/1.1\r\nHost: a\r\nX: ")
            self.ends(s, b"x")

    def test_who_dribbles_a_body_is_cut_off(self):
        with contextlib.closing(self.connect()) as s:
            s.sendall(b"POST /mutate-v1-pod HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
            self.ends(s, b"x")

    def test_who_is_idle_is_cut_off(self):
        with self.client() as c:
            self.ask(pod(container("a")), client=c)
            self.ends(c.sock)


class Abuse(Strangers):
    def test_what_is_no_tls_ends_its_own_connection_only(self):
        for data in b"POST /mutate-v1-pod HTTP/1.1\r\n\r\n", b"\0" * 1000, b"\xff" * 1000:
            with self.raw() as s:
                s.sendall(data)
                self.ends(s)
        self.assertTrue(self.ask(pod(container("a")))["allowed"])

    def test_headers_without_end_are_refused(self):
        with contextlib.closing(self.connect()) as s:
            with contextlib.suppress(OSError):
                s.sendall(b"POST /mutate-v1-pod HTTP/1.1\r\nHost: a\r\n")
                for i in range(1000):
                    s.sendall(b"X-%d: %s\r\n" % (i, b"y" * 1000))
            self.ends(s)
        self.assertTrue(self.ask(pod(container("a")))["allowed"])

    def test_a_crowd_does_not_keep_the_api_server_out(self):
        with contextlib.ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(self.raw())
                self.assertLess(self.descriptors(), 300)
            self.assertTrue(self.ask(pod(container("a")))["allowed"])

    def test_reviews_that_do_not_end_take_no_more_memory_than_there_is_for_them(self):
        before = memory_of(self.webhook.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                s = stack.enter_context(contextlib.closing(self.connect()))
                s.sendall(b"POST /mutate-v1-pod HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 7340032\r\n\r\n")
                with contextlib.suppress(OSError):
                    s.sendall(b" " * ((7 << 20) - 1))
            self.assertTrue(self.ask(pod(container("a")))["allowed"])
            self.assertLess(memory_of(self.webhook.pid) - before, 96 << 20)

    def test_many_who_come_and_go_leave_nothing(self):
        text = json.dumps(review(pod(container("a"))))
        data = (b"POST /mutate-v1-pod HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
                + text.encode())
        self.ask(pod(container("a")))
        until("the first is gone", lambda: self.descriptors() < 20)
        before, before_memory = self.descriptors(), memory_of(self.webhook.pid)
        context = self.context()
        for i in range(300):
            with contextlib.closing(self.connect(context)) as s:
                s.sendall(data[:i * 7 % len(data)])
        until("all are gone", lambda: self.descriptors() <= before)
        self.assertTrue(self.ask(pod(container("a")))["allowed"])
        self.assertLess(memory_of(self.webhook.pid) - before_memory, 16 << 20)


class Certificates(Rig):
    def is_served(self, name):
        with open(self.path(name, "tls.crt"), encoding="ascii") as f:
            return self.certificate() == ssl.PEM_cert_to_DER_cert(f.read())

    def install(self, name, *files):
        for f in files or ("tls.crt", "tls.key"):
            shutil.copy(self.path(name, f), self.path("serving", f + ".new"))
            os.rename(self.path("serving", f + ".new"), self.path("serving", f))

    def test_a_new_pair_is_served_to_new_connections(self):
        make_pair(self.dir, "next")
        with self.client() as old:
            self.assertTrue(self.ask(pod(container("a")), client=old)["allowed"])
            self.install("next")
            until("the new one is served", lambda: self.is_served("next"))
            status, headers, _ = self.request(body=json.dumps(review(pod(container("a")))), client=old)
            self.assertEqual((status, headers["Connection"]), (200, "close"))
        with self.client(self.context("next")) as c:
            self.assertTrue(self.ask(pod(container("a")), client=c)["allowed"])

    def test_a_secret_is_exchanged_as_kubernetes_does_it(self):
        make_pair(self.dir, "next")
        self.stop()
        os.rename(self.path("serving"), self.path("first"))
        os.mkdir(self.path("serving"))
        os.symlink("../first", self.path("serving", "..data"))
        for f in "tls.crt", "tls.key":
            os.symlink("..data/" + f, self.path("serving", f))
        self.start()
        self.assertTrue(self.is_served("first"))
        os.symlink("../next", self.path("serving", "..data_tmp"))
        os.rename(self.path("serving", "..data_tmp"), self.path("serving", "..data"))
        until("the new one is served", lambda: self.is_served("next"))

    def test_a_pair_that_does_not_belong_together_is_logged_and_the_old_one_stays(self):
        shutil.copytree(self.path("serving"), self.path("first"))
        make_pair(self.dir, "next")
        self.install("next", "tls.crt")
        until("it is logged", lambda: "are no certificate with its key, the old one stays" in self.logged())
        self.assertTrue(self.is_served("first"))
        self.install("next", "tls.key")
        until("the new one is served", lambda: self.is_served("next"))
        with open(self.path("next", "tls.key"), encoding="ascii") as f:
            self.assertNotIn(f.read().splitlines()[1], self.logged())

    def test_a_pair_that_is_gone_is_logged_and_the_old_one_stays(self):
        shutil.copytree(self.path("serving"), self.path("first"))
        os.unlink(self.path("serving", "tls.key"))
        until("it is logged", lambda: "Failed to read tls.key" in self.logged())
        self.assertTrue(self.is_served("first"))

    def test_many_renewals_leave_nothing(self):
        make_pair(self.dir, "next")
        shutil.copytree(self.path("serving"), self.path("first"))
        self.assertTrue(self.is_served("first"))
        until("it is gone", lambda: self.descriptors() < 20)
        before = self.descriptors()
        for i in range(6):
            name = ("next", "first")[i % 2]
            self.install(name)
            until("the new one is served", lambda name=name: self.is_served(name))
        until("all are gone", lambda: self.descriptors() <= before)

    def test_a_certificate_that_has_ended_is_not_ready(self):
        self.assertEqual(self.request("GET", "/readyz", headers={})[0], 200)
        make_pair(self.dir, "ended")
        openssl("req", "-x509", "-key", self.path("ended", "tls.key"), "-not_before", "20200101000000Z", "-not_after", "20200102000000Z",
                "-subj", "/CN=ended", "-out", self.path("ended", "tls.crt"))
        self.install("ended")
        until("it is served", lambda: self.is_served("ended"))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.client(context) as c:
            c.request("GET", "/readyz")
            self.assertEqual(c.getresponse().status, 500)


class Tls13(Rig):
    environment = {"TLS_MIN_VERSION": "VersionTLS13"}

    def test_an_older_version_is_refused(self):
        with self.assertRaises(OSError):
            self.connect(self.context(maximum_version=ssl.TLSVersion.TLSv1_2))
        with contextlib.closing(self.connect()) as s:
            self.assertEqual(s.version(), "TLSv1.3")


class Suites(Rig):
    environment = {"TLS_CIPHER_SUITES": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}

    def test_no_other_suite_is_served(self):
        for name, good in ("ECDHE-ECDSA-AES256-GCM-SHA384", True), ("ECDHE-ECDSA-CHACHA20-POLY1305", False), ("ECDHE-ECDSA-AES128-GCM-SHA256", False):
            context = self.context(maximum_version=ssl.TLSVersion.TLSv1_2)
            context.set_ciphers(name)
            try:
                with self.client(context) as c:
                    served = self.ask(pod(container("a")), client=c)["allowed"]
            except (OSError, http.client.HTTPException):
                served = False
            self.assertEqual((name, served), (name, good))


class Settings(Rig):
    environment = {"TARGET_RUNTIMECLASS": "kata-remote-*, confidential", "POD_VM_EXTENDED_RESOURCE": "example.com/pod-vm",
                   "POD_VM_GPU_RESOURCES": "amd.com/gpu"}

    def test_upstreams_variables_are_heeded(self):
        for name, ours in ("kata-remote-tdx", True), ("confidential", True), ("kata-remote", False):
            p = pod(container("a", {"amd.com/gpu": "2", "nvidia.com/gpu": "1"}))
            p["spec"]["runtimeClassName"] = name
            p = self.mutate(p)
            self.assertEqual((name, self.sizes(p)), (name, (None, None, "2") if ours else (None,) * 3))
            self.assertEqual("example.com/pod-vm" in p["spec"]["containers"][0]["resources"]["limits"], ours)


def without_ipv6():
    """For a process about to be: as a kernel that was booted with ipv6.disable=1 answers socket() (seccomp(2))"""
    number = {"x86_64": 41, "aarch64": 198}[os.uname().machine]
    code = [(0x20, 0, 0, 0), (0x15, 0, 3, number),              # of the call, at 0, and its first argument
            (0x20, 0, 0, 16), (0x15, 0, 1, socket.AF_INET6),
            (0x06, 0, 0, 0x50000 | errno.EAFNOSUPPORT), (0x06, 0, 0, 0x7fff0000)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(text)))
    libc = ctypes.CDLL(None)
    if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, program, 0, 0) != 0:
        os._exit(1)


class Start(unittest.TestCase):
    def test_it_listens_by_hand_with_and_without_ipv6(self):
        with tempfile.TemporaryDirectory() as d, socket.socket() as holder:
            make_pair(d, "x")
            context = ssl.create_default_context(cafile=d + "/x/tls.crt")
            # Keeps others off the port, and not who has SO_REUSEADDR, too.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))
            port = holder.getsockname()[1]
            for host, called, limits in (("", "127.0.0.1", None), ("", "::1", None), ("[::1]", "::1", None), ("127.0.0.1", "127.0.0.1", None),
                                         ("", "127.0.0.1", without_ipv6), ("127.0.0.1", "127.0.0.1", without_ipv6)):
                def greets():
                    self.assertIsNone(webhook.poll())
                    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((called, port), timeout=PATIENCE) as s, \
                         context.wrap_socket(s, server_hostname="webhook.peerpod.svc"):
                        return True
                with self.subTest(host=host, called=called, ipv6=limits is None), \
                     subprocess.Popen([WEBHOOK, "--cert-dir", d + "/x", "--listen", f"{host}:{port}"], preexec_fn=limits) as webhook:
                    try:
                        until("it can be talked to", greets)
                    finally:
                        webhook.terminate()

    def run_webhook(self, *argv, **environment):
        p = subprocess.run([WEBHOOK, *argv], env=dict(os.environ, **environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           timeout=PATIENCE, check=False)
        return p.returncode, p.stdout

    def test_wrong_settings_are_refused_by_their_names(self):
        for name, value in (("TLS_MIN_VERSION", "VersionTLS11"), ("TLS_MIN_VERSION", "1.2"), ("TLS_CIPHER_SUITES", "TLS_NULL"),
                            ("POD_VM_EXTENDED_RESOURCE", "vm")):
            status, text = self.run_webhook(**{name: value})
            self.assertEqual(status, 78, text)
            self.assertIn(name, text)

    def test_without_a_certificate_it_does_not_start(self):
        with tempfile.TemporaryDirectory() as d:
            status, text = self.run_webhook("--cert-dir", d, "--listen", "127.0.0.1:1")
            self.assertEqual(status, 78)
            self.assertIn(f"Failed to read tls.key of '{d}'", text)
            make_pair(d, "x")
            self.assertIn("There is no socket from systemd; by hand, use --listen.", self.run_webhook("--cert-dir", d + "/x")[1])
            for address in "nowhere", "1.2.3.4:0", "1.2.3:5", "[::1:5", ":99999":
                status, text = self.run_webhook("--cert-dir", d + "/x", "--listen", address)
                self.assertEqual(status, 1)
                self.assertIn(f"Failed to listen on '{address}'", text)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
