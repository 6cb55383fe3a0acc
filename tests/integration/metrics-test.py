#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""peerpod-metrics as a scraper sees it: the real program, between real HTTP clients and the real adaptor and provider service on a
private bus, with doubles of systemd and tunneld (adaptor-fakes.c). What it says is read by parsers that are not ours: that of
prometheus_client, which is strict about OpenMetrics, and promtool for Prometheus' own format.

Usage: metrics-test.py METRICS ADAPTOR PROVIDERD MODULE-DIRECTORY FAKES PEERPODCTL"""
import contextlib
import http.client
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from common_rig import PATIENCE, bus_configuration, connects, start_bus, until

PROGRAMS = [os.path.abspath(a) for a in sys.argv[1:7]]
METRICS, ADAPTOR, PROVIDERD, MODULES, FAKES, PEERPODCTL = PROGRAMS

NAME = "org.confidentialcontainers.PeerPod1"
IDS = [c * 64 for c in "abcdef"]
OPENMETRICS = "application/openmetrics-text"


class Rig(unittest.TestCase):
    """A private bus, and on it what a test asks for."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        self.processes = []
        self.addCleanup(shutil.rmtree, self.dir)
        self.addCleanup(self.end_all)
        os.mkdir(self.path("services"))
        os.mkdir(self.path("provider"))
        # What the bus would do to have the adaptor started.
        self.write("services/adaptor.service", f"[D-BUS Service]\nName={NAME}\nExec=/usr/bin/touch {self.path('activated')}\n")
        self.environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS="unix:path=" + self.path("bus"))
        start_bus(self.spawn, self.dir, bus_configuration(self.dir, f"<servicedir>{self.dir}/services</servicedir>"))
        self.metrics = None

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name) + ".new", "w", encoding="ascii") as f:
            f.write(text)
        os.rename(self.path(name) + ".new", self.path(name))

    def spawn(self, *argv, **arguments):
        p = subprocess.Popen(argv, env=self.environment, **arguments)
        self.processes.append(p)
        return p

    def end(self, p, sig=signal.SIGTERM):
        p.send_signal(sig)
        self.assertIn(p.wait(PATIENCE), (0, -signal.SIGTERM, -signal.SIGKILL))
        self.processes.remove(p)

    def end_all(self):
        for p in reversed(list(self.processes)):
            self.end(p)

    def start_metrics(self, *options):
        self.metrics = self.spawn(METRICS, "--listen", self.path("metrics.sock"), "--cache-time=0",
                                  "--proxies-dir=" + self.path("proxy"), *options)
        until("it listens", lambda: connects(self.path("metrics.sock")))

    def start_adaptor(self, wait=True):
        self.spawn(FAKES, self.dir)
        self.spawn(PROVIDERD, "--provider", "fake", "--module-directory", MODULES, "--state-directory", self.path("provider"),
                   "--socket", self.path("provider.sock"), "--peer-user", "root")
        for name in "provider.sock", "tunnel.sock":
            until("its service listens on " + name, lambda name=name: connects(self.path(name)))
        self.adaptor = self.spawn(
            ADAPTOR, "--socket=" + self.path("hypervisor.sock"), "--state-dir=" + self.path("state"), "--runtime-dir=" + self.path("run"),
            "--pods-dir=" + self.path("pods"), "--tunnel-socket=" + self.path("tunnel.sock"),
            "--provider-socket=" + self.path("provider.sock"), "--node-name=node-1", "--start-timeout=60s")
        if wait:
            until("the adaptor is on the bus", lambda: self.scrape().get(("peerpod_adaptor_up", ())) == 1)

    def hypervisor(self, *argv, fails=False):
        p = subprocess.run([PEERPODCTL, "hypervisor", *argv, "--socket", self.path("hypervisor.sock")], env=self.environment,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
        self.assertEqual(p.returncode != 0, fails, p.stdout)

    def create(self, sandbox, **arguments):
        self.hypervisor("create-vm", sandbox, "--netns", "/run/netns/cni-test", "--pod-name", "web-" + sandbox[:4],
                        "--pod-namespace", "default", **arguments)

    def page(self, sandbox):
        os.makedirs(self.path("proxy/" + sandbox), exist_ok=True)
        return self.path(f"proxy/{sandbox}/counters")

    def write_page(self, sandbox, values, cut=None):
        """As an agent proxy does, see counters.c."""
        with open(self.page(sandbox), "wb") as f:
            f.write(struct.pack(f"=IIII{len(values)}Q", 0x54435050, 1, len(values), 0, *values)[:cut])

    # ---- the scraper ----

    def connect(self, timeout=PATIENCE):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(timeout)
        s.connect(self.path("metrics.sock"))
        return s

    def ask(self, method="GET", url="/metrics", headers=None, body=None):
        c = http.client.HTTPConnection("localhost")
        c.sock = self.connect()
        with contextlib.closing(c):
            c.request(method, url, headers=headers or {}, body=body)
            r = c.getresponse()
            return r.status, r.headers, r.read().decode("ascii")

    def families(self):
        status, headers, text = self.ask(headers={"Accept": OPENMETRICS})
        self.assertEqual(status, 200)
        self.assertEqual(headers["Content-Type"], "application/openmetrics-text; version=1.0.0; charset=utf-8")
        return {f.name: f for f in parse_openmetrics(text)}

    def scrape(self):
        """All samples, by name and labels."""
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in self.families().values() for s in f.samples}

    def value(self, name, **labels):
        return self.scrape()[name, tuple(sorted(labels.items()))]


class WithoutAdaptor(Rig):
    def test_an_adaptor_that_does_not_run_is_a_value_and_not_started(self):
        self.start_metrics()
        self.assertEqual(self.scrape(), {("peerpod_adaptor_up", ()): 0})
        self.assertFalse(os.path.exists(self.path("activated")))

    def test_without_a_bus_it_answers_all_the_same(self):
        self.start_metrics()
        self.end(self.processes[0])
        self.assertEqual(self.scrape(), {("peerpod_adaptor_up", ()): 0})

    def test_it_ends_when_nobody_asks(self):
        self.start_metrics("--exit-idle-time", "100ms")
        self.assertEqual(self.metrics.wait(PATIENCE), 0)
        self.processes.remove(self.metrics)

    def test_it_takes_all_sockets_of_systemd(self):
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as tcp, contextlib.closing(socket.socket(socket.AF_UNIX)) as unix:
            unix.bind(self.path("metrics.sock"))
            unix.listen()
            a, b = os.dup(tcp.fileno()), os.dup(unix.fileno())

            def pass_sockets():
                os.dup2(a, 3)
                os.dup2(b, 4)

            self.spawn("sh", "-c", f"LISTEN_FDS=2 LISTEN_PID=$$ exec {METRICS}", pass_fds=(3, 4), preexec_fn=pass_sockets)
            self.assertEqual(self.ask()[0], 200)
            c = http.client.HTTPConnection("127.0.0.1", tcp.getsockname()[1], timeout=PATIENCE)
            c.request("GET", "/metrics")
            self.assertEqual(c.getresponse().status, 200)
            c.close()

    def test_without_a_socket_it_says_so(self):
        p = subprocess.run([METRICS], env=self.environment, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
        self.assertEqual(p.returncode, 1)
        self.assertIn(b"There is no socket from systemd; by hand, use --listen.", p.stderr)


    def test_answers_may_be_shared_for_a_while(self):
        self.start_metrics("--cache-time=1h")
        self.assertEqual(self.value("peerpod_adaptor_up"), 0)
        self.start_adaptor(wait=False)
        until("the adaptor is on the bus", lambda: connects(self.path("hypervisor.sock")))
        self.assertEqual(self.value("peerpod_adaptor_up"), 0)


class Http(Rig):
    def setUp(self):
        super().setUp()
        self.start_metrics("--connection-time=3s")

    def test_the_format_is_negotiated(self):
        self.assertEqual(self.ask(headers={"Accept": OPENMETRICS})[1]["Content-Type"],
                         "application/openmetrics-text; version=1.0.0; charset=utf-8")
        status, headers, text = self.ask()
        self.assertEqual((status, headers["Content-Type"]), (200, "text/plain; version=0.0.4; charset=utf-8"))
        self.assertNotIn("EOF", text)

    def test_head_has_no_body(self):
        status, headers, text = self.ask("HEAD")
        self.assertEqual((status, text), (200, ""))
        self.assertGreater(int(headers["Content-Length"]), 0)

    def test_other_methods_are_refused(self):
        for method in "POST", "PUT", "DELETE", "OPTIONS", "WHATEVER":
            status, headers, _ = self.ask(method)
            self.assertEqual((method, status, headers["Allow"]), (method, 405, "GET, HEAD"))

    def test_other_paths_are_not_found(self):
        for url in "/", "/metrics/", "/metrics/../metrics", "//metrics", "/debug/pprof":
            self.assertEqual((url, self.ask(url=url)[0]), (url, 404))

    def test_a_connection_may_be_used_again(self):
        c = http.client.HTTPConnection("localhost")
        c.sock = self.connect()
        with contextlib.closing(c):
            for _ in range(3):
                c.request("GET", "/metrics")
                r = c.getresponse()
                self.assertEqual(r.status, 200)
                r.read()

    def test_what_is_no_http_ends_its_own_connection_only(self):
        for data in (b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"x" * 512, b"GET /metrics HTTP/9.9\r\n\r\n",
                     b"GET /metrics HTTP/1.1\r\n\r\n"):
            with contextlib.closing(self.connect()) as s:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                while s.recv(4096):
                    pass
        self.assertEqual(self.ask()[0], 200)

    def test_headers_without_end_are_refused(self):
        with contextlib.closing(self.connect()) as s:
            answer = b""
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n")
                for i in range(10000):
                    s.sendall(b"X-%d: %s\r\n" % (i, b"y" * 1000))
            with contextlib.suppress(ConnectionResetError):
                answer = s.recv(4096)
            if answer:
                self.assertRegex(answer, rb"^HTTP/1\.1 (413|414|431) ")
        self.assertEqual(self.ask()[0], 200)

    def test_a_body_without_end_is_not_read(self):
        with contextlib.closing(self.connect()) as s:
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    s.sendall(b"x" * 65536)
        self.assertEqual(self.ask()[0], 200)

    def test_who_only_connects_holds_up_the_others_for_a_while_only(self):
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(contextlib.closing(self.connect()))
            self.assertLessEqual(len(os.listdir(f"/proc/{self.metrics.pid}/fd")), 32 + 20)
            self.assertEqual(self.ask()[0], 200)

    def test_who_dribbles_is_cut_off(self):
        with contextlib.closing(self.connect()) as s:
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n")
            s.settimeout(0.1)
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                try:
                    s.sendall(b"X")                     # more often than it would take for idle
                    if s.recv(4096) == b"":
                        return
                except TimeoutError:
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    return
            self.fail("still connected")

    def test_many_who_come_and_go_leave_nothing(self):
        def descriptors():
            return len(os.listdir(f"/proc/{self.metrics.pid}/fd"))

        def memory():
            with open(f"/proc/{self.metrics.pid}/statm", encoding="ascii") as f:
                return int(f.read().split()[1]) * resource.getpagesize()

        self.assertEqual(self.ask()[0], 200)
        until("the first is gone", lambda: descriptors() < 20)
        before, before_memory = descriptors(), memory()
        for i in range(1000):
            with contextlib.closing(self.connect()) as s:
                if i % 2:
                    s.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"[:i % 30])
        until("all are gone", lambda: descriptors() <= before)
        self.assertEqual(self.ask()[0], 200)
        self.assertLess(memory() - before_memory, 16 << 20)


class WithAdaptor(Rig):
    def setUp(self):
        super().setUp()
        self.start_metrics()
        self.start_adaptor()

    def test_a_life_is_counted_and_measured(self):
        self.create(IDS[0])
        self.assertEqual(self.value("peerpod_sandboxes", state="planned"), 1)
        self.hypervisor("start-vm", IDS[0])
        samples = self.scrape()
        self.assertEqual(samples["peerpod_sandboxes", (("state", "planned"),)], 0)
        self.assertEqual(samples["peerpod_sandboxes", (("state", "running"),)], 1)
        self.assertEqual(samples["peerpod_starts_total", (("result", "running"),)], 1)
        for phase in "plan", "create", "tunnel", "connect", "start":
            self.assertEqual((phase, samples["peerpod_phase_duration_seconds_count", (("phase", phase),)]), (phase, 1))
        self.assertGreaterEqual(samples["peerpod_phase_duration_seconds_sum", (("phase", "start"),)],
                                samples["peerpod_phase_duration_seconds_sum", (("phase", "create"),)])
        self.hypervisor("stop-vm", IDS[0])
        until("it is gone", lambda: self.value("peerpod_phase_duration_seconds_count", phase="delete") == 1)
        self.assertEqual(self.value("peerpod_sandboxes", state="deleting"), 0)

    def test_a_failed_start_is_counted_with_step_and_error(self):
        self.write("provider/control", "create=fail:Exhausted:no capacity\n")
        self.create(IDS[0])
        self.hypervisor("start-vm", IDS[0], fails=True)
        samples = self.scrape()
        self.assertEqual(samples["peerpod_starts_total", (("result", "failed"),)], 1)
        self.assertEqual(samples["peerpod_starts_total", (("result", "running"),)], 0)
        self.assertEqual(samples["peerpod_step_failures_total", (("error", "Exhausted"), ("step", "create-instance"))], 1)
        self.assertEqual(samples["peerpod_phase_duration_seconds_count", (("phase", "create"),)], 0)

    def test_a_throttled_request_is_counted_as_such(self):
        self.write("provider/control", "create=fail:Throttled:fewer requests\n")
        self.create(IDS[0])
        self.hypervisor("start-vm", IDS[0], fails=True)
        self.assertEqual(self.value("peerpod_step_failures_total", error="Throttled", step="create-instance"), 1)

    def test_a_stopped_start_is_cancelled_and_not_failed(self):
        self.write("provider/control", "create=hang\n")
        self.create(IDS[0])
        start = subprocess.Popen([PEERPODCTL, "hypervisor", "start-vm", IDS[0], "--socket", self.path("hypervisor.sock")],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("it starts", lambda: self.value("peerpod_sandboxes", state="creating") == 1)
        self.hypervisor("stop-vm", IDS[0])
        self.assertNotEqual(start.wait(PATIENCE), 0)
        samples = self.scrape()
        self.assertEqual(samples["peerpod_starts_total", (("result", "cancelled"),)], 1)
        self.assertEqual(samples["peerpod_starts_total", (("result", "failed"),)], 0)

    def test_a_delete_that_does_not_come_to_an_end_is_seen(self):
        self.create(IDS[0])
        self.hypervisor("start-vm", IDS[0])
        self.write("provider/control", "delete=fail:Unavailable:try later\n")
        self.hypervisor("stop-vm", IDS[0])
        until("it fails", lambda: self.scrape().get(
            ("peerpod_step_failures_total", (("error", "Unavailable"), ("step", "delete-instance"))), 0) >= 2)
        samples = self.scrape()
        self.assertEqual(samples["peerpod_sandboxes", (("state", "deleting"),)], 1)
        self.assertGreater(samples["peerpod_oldest_delete_age_seconds", ()], 0)
        self.write("provider/control", "")
        until("it is gone", lambda: self.value("peerpod_oldest_delete_age_seconds") == 0)

    def test_a_pod_vm_that_is_held_is_counted(self):
        self.create(IDS[0])
        self.hypervisor("start-vm", IDS[0])
        self.assertEqual(self.value("peerpod_sandboxes_held"), 0)
        for arguments, held in ("--for=10m", 1), ("--release", 0):
            subprocess.run([PEERPODCTL, "hold", IDS[0], arguments], env=self.environment, timeout=PATIENCE, check=True)
            until("it is counted", lambda: self.value("peerpod_sandboxes_held") == held)

    def test_who_is_asked_says_who_he_is(self):
        until("the provider has told its name", lambda: (
            "peerpod_adaptor_info", (("node", "node-1"), ("provider", "fake"), ("version", "0.1.0"))) in self.scrape())
        self.assertLess(abs(time.time() - self.value("peerpod_adaptor_start_time_seconds")), 2 * PATIENCE)

    def test_an_adaptor_that_ends_is_told_at_the_next_scrape(self):
        self.end(self.adaptor)
        self.assertEqual(self.scrape(), {("peerpod_adaptor_up", ()): 0})

    def test_an_adaptor_that_hangs_holds_up_a_scrape_for_seconds_only(self):
        os.kill(self.adaptor.pid, signal.SIGSTOP)
        try:
            self.assertEqual(self.scrape(), {("peerpod_adaptor_up", ()): 0})
        finally:
            os.kill(self.adaptor.pid, signal.SIGCONT)

    def test_the_proxies_counters_carry_the_names_of_sandbox_and_pod(self):
        self.create(IDS[0])
        self.create(IDS[1])
        self.write_page(IDS[0], [5, 1, 4096, 123456, 2, 1, 1, 2, 3, 1, 21500000])
        self.write_page(IDS[2], [9] * 11)               # of no sandbox that the adaptor knows
        samples = self.scrape()
        labels = (("namespace", "default"), ("pod", "web-aaaa"), ("sandbox", IDS[0]))
        self.assertEqual(samples["peerpod_agent_proxy_calls_total", labels], 5)
        self.assertEqual(samples["peerpod_agent_proxy_link_up", labels], 1)
        self.assertEqual(samples["peerpod_agent_proxy_boot_seconds", labels], 21.5)
        self.assertEqual(samples["peerpod_agent_proxy_transferred_bytes_total", (("direction", "from-vm"), *labels)], 123456)
        self.assertEqual({dict(labels).get("sandbox") for _, labels in samples}, {None, IDS[0]})

    def test_a_proxy_that_was_taken_over_spoils_its_own_counters_only(self):
        for sandbox in IDS:
            self.create(sandbox)
        self.write_page(IDS[0], [5] * 11)
        os.symlink("/etc/passwd", self.page(IDS[1]))
        os.mkfifo(self.page(IDS[2]))
        os.mkdir(self.page(IDS[3]))
        self.write_page(IDS[4], [1] * 11, cut=40)
        self.write_page(IDS[5], [2 ** 64 - 1] * 11)
        samples = self.scrape()
        self.assertEqual({dict(labels).get("sandbox") for _, labels in samples}, {None, IDS[0], IDS[5]})
        self.assertEqual(samples["peerpod_adaptor_up", ()], 1)

    def test_both_formats_please_the_field_s_own_checkers(self):
        for i, sandbox in enumerate(IDS[:3]):
            if i == 1:
                self.write("provider/control", "create=fail:Exhausted:no capacity\n")
            self.create(sandbox)
            self.hypervisor("start-vm", sandbox, fails=i > 0)
        self.write("provider/control", "")

        self.write_page(IDS[0], [5, 1, 4096, 123456, 2, 1, 1, 2, 3, 1, 21500000])
        families = self.families()              # strict: order, units, suffixes, bounds, # EOF
        self.assertEqual(families["peerpod_phase_duration_seconds"].unit, "seconds")
        self.assertEqual(families["peerpod_starts"].type, "counter")
        p = subprocess.run(["promtool", "check", "metrics"], input=self.ask()[2].encode(), stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
        self.assertEqual((p.returncode, p.stdout), (0, b""))


if __name__ == "__main__":
    unittest.main(argv=["metrics-test", "-v", *sys.argv[7:]])
