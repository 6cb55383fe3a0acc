#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The docker module against a real dockerd, which runs in a network namespace of the test's own, with real containers.

Usage: docker-test.py PROVIDERD MODULE.so [CASE...]"""
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import cloud_rig
import docker_rig as rig

if "--inside" not in sys.argv:
    # A module with sanitizers wants theirs to be loaded first. What the interpreter leaves at its end is no leak of the module's.
    linked = subprocess.run(["ldd", sys.argv[2]], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    sanitizers = [w for w in linked if w.startswith("/") and ("libasan" in w or "libubsan" in w)]
    if sanitizers:
        os.environ["LD_PRELOAD"] = ":".join(sanitizers)
        os.environ["ASAN_OPTIONS"] = os.environ.get("PEERPOD_ASAN_OPTIONS", "detect_leaks=0")
    # The engine's bridge and rules are in here, and gone with it.
    os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv, "--inside"])

sys.argv.remove("--inside")
os.environ.pop("LD_PRELOAD", None)
os.environ.pop("ASAN_OPTIONS", None)
PROVIDERD, MODULE = sys.argv[1:3]
CALLS = ["version", "info", "network", "image", "create", "archive", "start", "inspect"]    # of one create
FAULTS = ["refused", "reset", "lost", 500, 503, 429, 401, 403, 404, "cut", "garbage", "stall"]
IMAGE = "podvm:1"
USER_DATA = b"#cloud-config\nwrite_files:\n  - path: /run/peerpod/apf.json\n    content: |\n      {}\n"

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
TEMPORARY = tempfile.TemporaryDirectory(prefix="docker-")
DIRECTORY = pathlib.Path(TEMPORARY.name)
lock = threading.Lock()
numbers = iter(range(1, 100000))


def number():
    with lock:
        return next(numbers)


def name():
    return f"podvm-web-{number()}"


def module(engine, path=None, **settings):
    settings.setdefault("DOCKER_PODVM_IMAGE", IMAGE)
    settings.setdefault("DOCKER_HOST", f"unix://{path or engine.socket}")
    return rig.Module(MODULE, DIRECTORY, **settings)


def proxy(engine, script=None):
    return rig.Proxy(engine, DIRECTORY / f"proxy-{number()}", script)


def fails(kind, text, f, *args, **kwargs):
    try:
        f(*args, **kwargs)
    except rig.Failure as e:
        assert e.kind in (kind if isinstance(kind, tuple) else (kind,)), f"{e}, not {kind}"
        assert text in e.text, f"no '{text}' in: {e.text}"
        return e
    raise AssertionError(f"{f.__name__} did not fail")


def nothing_left(engine, of=None):
    names, volumes = engine.names(), engine.volumes()
    if of:
        names = [n for n in names if n == of]
        volumes = [v for v in engine.json("GET", "/volumes")["Volumes"] or [] if (v["Labels"] or {}).get("peerpod-name") == of]
    assert not names and not volumes, (names, volumes)


# ---- one after the other ----

def a_container_is_made_with_its_user_data_and_runs(engine):
    n = name()
    with module(engine) as m:
        id, addresses, kind = m.create(n, user_data=USER_DATA)
        c = engine.inspect(n)
        assert c["State"]["Running"] and c["Id"] == id and addresses == [c["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]], c
        member, content = engine.read_file(n, "/media/cidata/user-data")
        assert content == USER_DATA and member.mode == 0o600 and member.uid == 0, (member, content)
        status, out = engine.run(n, "/bin/busybox", "stat", "-c", "%a %u", "/media/cidata")
        assert (status, out.strip()) == (0, "700 0"), out
        m.remove(n, id=id)
    nothing_left(engine)


def the_service_makes_finds_and_deletes_one(engine):
    n, secret = name(), "s3cret-5d1c"
    with cloud_rig.Daemon(PROVIDERD, MODULE, {"DOCKER_HOST": f"unix://{engine.socket}", "DOCKER_PODVM_IMAGE": IMAGE}) as d:
        id, kind, addresses = d.create("sandbox-s", name=n, node="node1", user_data=f"#cloud-config\n# {secret}\n".encode(), vcpus=1)
        assert addresses == [engine.inspect(id)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]] and "1 vCPU" in kind, kind
        assert [tuple(f) for f in d.find("node1")] == [("sandbox-s", n, id)]
        d.delete("sandbox-s", n)
        d.delete("sandbox-s", n, id)
        assert d.find("node1") == [] and secret not in d.log()
    nothing_left(engine)


def its_owner_is_in_its_labels(engine):
    n = name()
    with module(engine) as m:
        m.create(n, sandbox="sandbox-x", node="node.x")
        labels = engine.inspect(n)["Config"]["Labels"]
        assert {k: labels[k] for k in labels if k.startswith("peerpod-")} == {
            "peerpod-name": n, "peerpod-sandbox": "sandbox-x", "peerpod-node": "node.x", "peerpod-pod-name": "web",
            "peerpod-pod-namespace": "demo"}, labels
        m.remove(n, sandbox="sandbox-x")


def it_is_not_privileged(engine):
    n = name()
    with module(engine) as m:
        m.create(n)
        host = engine.inspect(n)["HostConfig"]
        assert not host["Privileged"] and host["CapDrop"] == ["ALL"] and "SYS_RESOURCE" not in str(host["CapAdd"]), host
        assert host["CgroupnsMode"] == "private" and not host["Binds"], host
        status, out = engine.run(n, "/bin/busybox", "grep", "-E", "CapBnd|CapEff", "/proc/1/status")
        wanted = sum(1 << b for b in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 18, 19, 21, 27, 29, 31))
        assert status == 0 and [int(line.split()[1], 16) for line in out.splitlines()] == [wanted, wanted], out
        # What the VM's half of the tunnel writes
        status, out = engine.run(n, "/bin/busybox", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        assert status == 0, out
        m.remove(n)


def only_listed_capabilities_are_given(engine):
    n = name()
    with module(engine, DOCKER_CAPABILITIES="CHOWN,NET_ADMIN") as m:
        m.create(n)
        _, out = engine.run(n, "/bin/busybox", "grep", "CapBnd", "/proc/1/status")
        assert int(out.split()[1], 16) == 1 << 0 | 1 << 12, out
        m.remove(n)


def a_privileged_one_is_made_only_if_the_settings_say_so(engine):
    n = name()
    with proxy(engine) as p, module(engine, p.path, DOCKER_PRIVILEGED="true") as m:
        try:
            m.create(n)
            assert engine.inspect(n)["HostConfig"]["Privileged"]
        except rig.Failure as e:
            # Where this machine itself has less than all, the runtime cannot.
            assert "apply caps" in e.text, e
            nothing_left(engine)
        m.remove(n)
        assert b'"Privileged":true' in next(c for c in p.calls if c[0] == "create")[4]


def the_pod_s_size_is_its_limit(engine):
    n = name()
    with module(engine, DOCKER_PIDS_LIMIT="321") as m:
        kind = m.create(n, vcpus=1, memory_mib=256)[2]
        host = engine.inspect(n)["HostConfig"]
        assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (10**9, 256 << 20, 321), host
        assert kind == "container, 1 vCPU, 256 MiB", kind
        m.remove(n)


def the_settings_are_the_limit_of_a_pod_that_asks_for_none(engine):
    n = name()
    with module(engine, DOCKER_CPU="4096", DOCKER_MEMORY="512") as m:
        m.create(n)
        host = engine.inspect(n)["HostConfig"]
        # No more than the machine has, which the engine would refuse
        assert (host["NanoCpus"], host["Memory"]) == (engine.json("GET", "/info")["NCPU"] * 10**9, 512 << 20), host
        m.remove(n)


def more_than_the_machine_has_is_refused_before_anything_is_made(engine):
    with proxy(engine) as p, module(engine, p.path) as m:
        fails("exhausted", "vCPUs; the engine's machine has", m.create, name(), vcpus=4000)
        fails("exhausted", "MiB of memory; the engine's machine has", m.create, name(), memory_mib=1 << 30)
        assert "create" not in p.counts


def what_it_cannot_do_is_refused_before_any_call(engine):
    with proxy(engine) as p, module(engine, p.path) as m:
        fails("invalid-argument", "GPUs", m.create, name(), gpus=1)
        fails("invalid-argument", "second network interface", m.create, name(), flags=1)
        fails("invalid-argument", "Volumes", m.create, name(), volumes=(rig.S * 1)(b"disk"), n_volumes=1)
        fails("invalid-argument", "instance types", m.create, name(), machine_type=b"m5.large")
        fails("exhausted", "more than 8388608", m.create, name(), user_data=b"x" * ((8 << 20) + 1))
        assert not p.calls


def the_largest_user_data_arrives_whole(engine):
    n, data = name(), os.urandom(8 << 20)
    with module(engine) as m:
        m.create(n, user_data=data)
        assert engine.read_file(n, "/media/cidata/user-data")[1] == data
        m.remove(n)


def a_second_create_is_the_first_one(engine):
    n = name()
    with module(engine) as m:
        first = m.create(n)[:2]
        assert m.create(n)[:2] == first and len(engine.names()) == 1
        m.remove(n)


def a_create_that_was_cut_off_is_taken_up(engine):
    """A service that was killed between the calls leaves a container that is made and does not run."""
    n = name()
    with module(engine) as m:
        first, *_ = m.create(n)
        engine.ask("POST", f"/containers/{n}/kill")
        second, *_ = m.create(n, user_data=b"new")
        assert first != second and engine.read_file(n, "/media/cidata/user-data")[1] == b"new"
        m.remove(n)
    nothing_left(engine)


def one_that_upstream_made_is_removed_by_its_id(engine):
    """cloud-api-adaptor sets no labels: name and id decide, and the id is no beginning of one and no name."""
    theirs, ours = name(), name()
    id = engine.json("POST", f"/containers/create?name={theirs}", {"Image": IMAGE, "Cmd": ["/init"]})["Id"]
    with module(engine) as m:
        our_id = m.create(ours)[0]
        for prefix, wrong in ((theirs + "x", id), (theirs[:4], id[:12]), (theirs[:4], theirs), (ours[:4], our_id)):
            fails("failed-precondition", "somebody else", m.remove, prefix, sandbox="", id=wrong, untagged=True)
        m.remove(theirs[:4], sandbox="", id=id, untagged=True)
        m.remove(theirs[:4], sandbox="", id=id, untagged=True)
        m.remove(ours)
    nothing_left(engine)


def a_container_of_somebody_else_is_left_alone(engine):
    foreign, ours = name(), name()
    engine.json("POST", f"/containers/create?name={foreign}", {"Image": IMAGE, "Cmd": ["/init"]})
    with module(engine) as m:
        m.create(ours, sandbox="sandbox-a")
        fails("already-exists", "somebody else", m.create, foreign)
        fails("already-exists", "somebody else", m.create, ours, sandbox="sandbox-b")
        fails("already-exists", "somebody else", m.create, ours, sandbox="sandbox-a", node="node-b")
        fails("failed-precondition", "somebody else", m.remove, foreign)
        fails("failed-precondition", "somebody else", m.remove, ours, sandbox="sandbox-b")
        assert engine.names() == sorted([foreign, ours]) and engine.inspect(ours)["State"]["Running"]
        m.remove(ours, sandbox="sandbox-a")
    engine.ask("DELETE", f"/containers/{foreign}?force=1")


def gone_is_deleted(engine):
    with module(engine) as m:
        m.remove(name())
        m.remove(name(), id="0123456789abcdef")


def its_volumes_go_with_it(engine):
    n = name()
    with module(engine) as m:
        m.create(n)
        assert len(engine.volumes()) == 2
        # Half of it: somebody removed the container, and left the volumes
        engine.ask("DELETE", f"/containers/{n}?force=1")
        assert len(engine.volumes()) == 2
        assert m.find() == [("sandbox-1", n, "")]
        m.remove(n)
        assert m.find() == []
    nothing_left(engine)


def find_tells_a_node_s_own_in_whatever_state(engine):
    a, b, c = name(), name(), name()
    with module(engine) as m:
        ids = {n: m.create(n, sandbox=f"s-{n}", node=node)[0] for n, node in ((a, "node-1"), (b, "node-1"), (c, "node-2"))}
        engine.ask("POST", f"/containers/{b}/kill")
        assert sorted(m.find()) == sorted([(f"s-{n}", n, ids[n]) for n in (a, b)])
        assert m.find("node-2") == [(f"s-{c}", c, ids[c])] and m.find("node-3") == [] and m.find("node") == []
        for n in (a, b, c):
            m.remove(n, sandbox=f"s-{n}")


def two_hundred_are_found(engine):
    labels = {"peerpod-node": "node-many", "peerpod-sandbox": "s"}
    many = [f"podvm-many-{i}" for i in range(200)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: engine.json("POST", f"/containers/create?name={n}", {"Image": IMAGE, "Labels": labels | {"peerpod-name": n}}), many))
        with module(engine) as m:
            assert sorted(n for _, n, _ in m.find("node-many")) == sorted(many)
        list(pool.map(lambda n: engine.ask("DELETE", f"/containers/{n}?force=1"), many))


def a_pod_s_image_is_for_its_own_container_only(engine):
    one, two = name(), name()
    with module(engine, DOCKER_IMAGE_PATTERNS="other*:1") as m:
        m.create(one, image=b"other:1")
        m.create(two)
        assert [engine.inspect(n)["Config"]["Image"] for n in (one, two)] == ["other:1", IMAGE]
        fails("invalid-argument", "DOCKER_IMAGE_PATTERNS", m.create, name(), image=b"host/other:1")
        m.remove(one)
        m.remove(two)
    with module(engine) as m:
        fails("invalid-argument", "DOCKER_IMAGE_PATTERNS", m.create, name(), image=b"other:1")


def an_image_that_is_not_there_is_said_to_be_missing(engine):
    with module(engine, DOCKER_PODVM_IMAGE="missing:1") as m:
        fails("failed-precondition", "no image 'missing:1'", m.create, name())
    nothing_left(engine)


def a_missing_image_is_pulled_where_that_is_allowed(engine):
    """No registry here: the engine tells that it cannot reach it, which comes inside of the stream."""
    with proxy(engine) as p, module(engine, p.path, DOCKER_PODVM_IMAGE="localhost:1/podvm:7", DOCKER_IMAGE_PULL="true",
                                    DOCKER_REGISTRY_AUTH='{"username": "u", "password": "s3cret", "serveraddress": "localhost:1"}') as m:
        e = fails(("failed-precondition", "unavailable", "internal"), "pull the image", m.create, name())
        label, _, path, headers, _ = next(c for c in p.calls if c[0] == "pull")
        assert "fromImage=localhost%3A1%2Fpodvm" in path and "tag=7" in path and "x-registry-auth" in headers
        assert "s3cret" not in e.text and "s3cret" not in "".join(m.lines)
    with proxy(engine) as p, module(engine, p.path, DOCKER_PODVM_IMAGE="127.0.0.1:1/podvm:7", DOCKER_IMAGE_PULL="true",
                                    DOCKER_REGISTRY_AUTH='{"username": "u", "password": "s3cret", "serveraddress": "localhost:1"}') as m:
        fails(("failed-precondition", "unavailable", "internal"), "pull the image", m.create, name())
        assert "x-registry-auth" not in next(c for c in p.calls if c[0] == "pull")[3], "another registry gets the password"


def a_container_that_ends_at_once_ends_the_create(engine):
    with module(engine, DOCKER_PODVM_IMAGE="ends:1") as m:
        fails("internal", "is exited, with exit status 3", m.create, name())
    nothing_left(engine)


def a_container_that_is_unhealthy_ends_the_create(engine):
    with module(engine, DOCKER_PODVM_IMAGE="unhealthy:1") as m:
        fails("internal", "unhealthy", m.create, name())
    nothing_left(engine)


def a_container_that_cannot_be_started_is_removed(engine):
    with module(engine, DOCKER_PODVM_IMAGE="nothing:1") as m:
        fails(("failed-precondition", "internal", "unavailable", "invalid-argument"), "start container", m.create, name())
    nothing_left(engine)


def it_waits_until_the_image_s_check_is_content(engine):
    n = name()
    with module(engine, DOCKER_PODVM_IMAGE="healthy:1") as m:
        m.create(n)
        assert engine.inspect(n)["State"]["Health"]["Status"] == "healthy"
        m.remove(n)


def another_network_is_joined(engine):
    n = name()
    engine.json("POST", "/networks/create", {"Name": "pods", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.99.0.0/24"}]}})
    with module(engine, DOCKER_NETWORK_NAME="pods") as m:
        _, addresses, _ = m.create(n)
        networks = engine.inspect(n)["NetworkSettings"]["Networks"]
        assert list(networks) == ["pods"] and addresses[0].startswith("10.99.0."), networks
        m.remove(n)
    engine.ask("DELETE", "/networks/pods")


def a_network_that_is_none_is_refused(engine):
    for network, text in (("missing", "no network 'missing'"), ("host", "no address of its own"), ("none", "no address of its own")):
        with module(engine, DOCKER_NETWORK_NAME=network) as m:
            fails("failed-precondition", text, m.create, name())
            fails("failed-precondition", text, m.verify)
    nothing_left(engine)


def the_api_s_version_is_one_that_both_speak(engine):
    maximum, minimum = (engine.json("GET", "/version")[k] for k in ("ApiVersion", "MinAPIVersion"))
    for wanted, spoken in (("1.999", maximum), ("1.41", "1.41"), ("1.1", max(minimum, "1.41", key=lambda v: int(v[2:])))):
        with proxy(engine) as p, module(engine, p.path, DOCKER_API_VERSION=wanted) as m:
            m.verify()
            assert next(c for c in p.calls if c[0] == "network")[2].startswith(f"/v{spoken}/"), p.calls


def an_engine_that_became_another_one_is_asked_anew(engine):
    """It was updated, and refuses what was agreed on with the old one."""
    refusals = []

    def script(label, n):
        if label == "network" and n == 2:
            refusals.append(n)
            return 400
        return None
    with proxy(engine, script) as p, module(engine, p.path) as m:
        original = p.answer

        def answer(s, fault, *rest):
            if fault == 400:
                body = b'{"message": "client version 1.44 is too old. Minimum supported API version is 1.45"}'
                s.sendall(b"HTTP/1.1 400 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                return True
            return original(s, fault, *rest)
        p.answer = answer
        m.verify()
        m.verify()
        assert refusals and p.counts["version"] == 2, p.counts


def without_an_engine_it_opens_and_says_so_when_asked(engine):
    with module(engine, DIRECTORY / "nobody") as m:
        fails(("unavailable", "timed-out"), "look at the engine's version", m.create, name(), seconds=2)


def throttled_requests_are_made_again(engine):
    n = name()
    with proxy(engine, lambda label, k: 429 if k == 1 and label in ("version", "network", "create", "start", "remove") else None) as p, \
            module(engine, p.path) as m:
        m.create(n)
        m.remove(n)
        assert p.counts["create"] == 2 and p.counts["start"] == 2, p.counts
    nothing_left(engine)


def wrong_settings_are_refused(engine):
    for variable, value in (("DOCKER_HOST", "ssh://root@host"), ("DOCKER_HOST", "unix://run"), ("DOCKER_HOST", "tcp://host:99999"),
                            ("DOCKER_HOST", "tcp://a b"), ("DOCKER_API_VERSION", "new"), ("DOCKER_PODVM_IMAGE", "a b"),
                            ("DOCKER_CERT_PATH", "certs"), ("DOCKER_CAPABILITIES", "net_admin"), ("DOCKER_REGISTRY_AUTH", "user:s3cret"),
                            ("DOCKER_NETWORK_NAME", "container:x"), ("DOCKER_MEMORY", "3")):
        settings = {"DOCKER_HOST": "tcp://127.0.0.1:1"} | {variable: value}
        e = fails("invalid-argument", variable, module, engine, **settings)
        assert "s3cret" not in e.text


def check_says_what_is_wrong(engine):
    def check(**environment):
        return cloud_rig.check(PROVIDERD, MODULE, {"DOCKER_HOST": f"unix://{engine.socket}", "DOCKER_PODVM_IMAGE": IMAGE} | environment)

    status, out = check()
    assert status == 0 and "passed" in out, out
    for environment, text in (({"DOCKER_PODVM_IMAGE": "missing:1"}, "no image 'missing:1'"), ({"DOCKER_NETWORK_NAME": "x"}, "no network 'x'"),
                              ({"DOCKER_HOST": f"unix://{DIRECTORY}/nobody"}, "look at the engine's version"),
                              ({"DOCKER_PODVM_IMAGE": ""}, "DOCKER_PODVM_IMAGE"), ({"DOCKER_IMAGE_PULL": "maybe"}, "DOCKER_IMAGE_PULL")):
        status, out = check(**environment)
        assert status != 0 and text in out, (status, out)


def tls_is_spoken_and_verified(engine):
    """A second way to the same engine: with certificates of its own, both sides'."""
    d = DIRECTORY / "tls"
    d.mkdir()

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=d, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for ca in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={ca}",
                "-keyout", f"{ca}-key.pem", "-out", f"{ca}.pem")
    for who in ("server", "cert"):
        (d / f"{who}.ext").write_text("subjectAltName=IP:127.0.0.1\n" if who == "server" else "extendedKeyUsage=clientAuth\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={who}", "-keyout", f"{who}-key.pem",
                "-out", f"{who}.csr")
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-days", "2", "-extfile", f"{who}.ext",
                "-out", f"{who}.pem")
    (d / "cert-key.pem").rename(d / "key.pem")
    stranger = DIRECTORY / "tls-other"
    stranger.mkdir()
    for f, t in (("other.pem", "ca.pem"), ("cert.pem", "cert.pem"), ("key.pem", "key.pem")):
        (stranger / t).write_bytes((d / f).read_bytes())
    without = DIRECTORY / "tls-without"
    without.mkdir()
    (without / "ca.pem").write_bytes((d / "ca.pem").read_bytes())

    second = rig.Engine(DIRECTORY / "second", "--host", "tcp://127.0.0.1:2399", "--tlsverify", "--tlscacert", d / "ca.pem", "--tlscert",
                        d / "server.pem", "--tlskey", d / "server-key.pem", "--bridge", "none", "--iptables=false")
    try:
        second.json("POST", "/networks/create", {"Name": "pods", "Driver": "bridge"})
        second.import_image(IMAGE, rig.small_image(), 'CMD ["/init"]')
        settings = {"DOCKER_HOST": "tcp://127.0.0.1:2399", "DOCKER_NETWORK_NAME": "pods"}
        with module(second, DOCKER_CERT_PATH=str(d), DOCKER_TLS_VERIFY="true", **settings) as m:
            m.verify()
        # Verified whatever is asked for
        with module(second, DOCKER_CERT_PATH=str(stranger), **settings) as m:
            fails("failed-precondition", "certificate is not trusted", m.verify)
        # The engine wants ours, and says so when the connection is made already.
        with module(second, DOCKER_CERT_PATH=str(without), **settings) as m:
            fails(("unavailable", "failed-precondition", "unauthenticated"), "", m.verify)
    finally:
        second.stop()
        second.clean()


def an_engine_that_restarts_keeps_and_finds_them(engine):
    n = name()
    with module(engine) as m:
        m.create(n)
        engine.stop()
        engine.start()
        assert [f[1] for f in m.find()] == [n]
        # It does not run any more; the same call brings it back.
        m.create(n)
        m.remove(n)
    nothing_left(engine)


# ---- what goes wrong ----

def one_fault(engine, call, fault):
    n, seconds = name(), 3 if fault == "stall" else 60
    with proxy(engine, lambda label, k: fault if label == call and k == 1 else None) as p, module(engine, p.path) as m:
        began = time.monotonic()
        try:
            m.create(n, seconds=seconds)
            result = "runs"
            c = engine.inspect(n)
            assert c and c["State"]["Running"], (call, fault, c)
        except rig.Failure as e:
            result = e.kind
        took = time.monotonic() - began
        assert p.counts.get(call), f"no {call} was made"
        if result != "runs":
            nothing_left(engine, n)
        m.remove(n)
    nothing_left(engine, n)
    # What nothing was done of, or may be done twice, does not fail.
    if fault in ("refused", "reset", "lost", 429, 503, "cut"):
        assert result == "runs", f"{call} {fault}: {result}"
    if fault == "stall":
        assert result == "timed-out", f"{call} {fault}: {result}"
    return f"{call} {fault}: {result} ({took:.1f} s)"


def each_call_of_a_create_may_fail_in_each_way_once(engine):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # The slow ones first
        jobs = [pool.submit(one_fault, engine, c, f) for f in reversed(FAULTS) for c in CALLS]
        for j in jobs:
            print("  ", j.result(), flush=True)
    nothing_left(engine)


def each_call_of_a_delete_may_fail_in_each_way_once(engine):
    def one(call, fault):
        n, seconds = name(), 3 if fault == "stall" else 60
        engine.json("POST", f"/containers/create?name={n}", {
            "Image": IMAGE, "Labels": {"peerpod-name": n, "peerpod-sandbox": "sandbox-1", "peerpod-node": "node-1"}})
        with proxy(engine, lambda label, k: fault if label == call and k == 1 else None) as p, module(engine, p.path) as m:
            try:
                m.remove(n, seconds=seconds)
                result = "gone"
            except rig.Failure as e:
                result = e.kind
                # What is not known to be gone is deleted again.
                m.remove(n)
            assert p.counts.get(call), f"no {call} was made"
        # Where the proxy itself says that there is none, it is believed.
        if fault == 404 and result == "gone":
            engine.ask("DELETE", f"/containers/{n}?force=1&v=1")
        assert not engine.inspect(n), (call, fault, result)
        if fault in ("refused", "reset", "lost", 429, 500, 503, "cut"):
            assert result == "gone", f"{call} {fault}: {result}"
        return f"{call} {fault}: {result}"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for text in pool.map(lambda cf: one(*cf), [(c, f) for f in reversed(FAULTS) for c in ("inspect", "remove", "volumes")]):
            print("  ", text, flush=True)
    nothing_left(engine)


def a_cancel_at_each_call_ends_the_create(engine):
    def one(call):
        n, cancel = name(), rig.Cancel()

        def at_it():
            cancel.now()
            return "stall"
        with proxy(engine, lambda label, k: at_it if label == call and k == 1 else None) as p, module(engine, p.path) as m:
            fails("cancelled", "", m.create, n, cancel=cancel)
            took = time.monotonic() - cancel.at
            nothing_left(engine, n)
        cancel.close()
        return f"{call}: back after {took:.2f} s", took
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for text, took in pool.map(one, CALLS):
            print("  ", text, flush=True)
            assert took < 10, text      # on a busy machine; the removal of what was made included
    nothing_left(engine)


def a_hundred_at_once_against_an_engine_that_throttles(engine):
    """It takes ten requests at a time, and refuses what comes beyond that."""
    p = proxy(engine)
    p.script = lambda label, n: 429 if p.active > 10 else None
    names = [name() for _ in range(100)]
    with p, module(engine, p.path) as m, concurrent.futures.ThreadPoolExecutor(100) as pool:
        def make(n):
            try:
                return m.create(n, sandbox=n, seconds=300)
            except rig.Failure as e:
                return e
        results = list(pool.map(make, names))
        refused = [r for r in results if isinstance(r, rig.Failure)]
        made = [r[1][0] for r in results if not isinstance(r, rig.Failure)]
        print(f"   {len(made)} made, {len(refused)} failed, {sum(p.counts.values())} requests", flush=True)
        assert not refused and len(set(made)) == 100, refused[:3]
        assert sorted(n for _, n, _ in m.find()) == sorted(names)
        p.script = lambda label, n: None
        list(pool.map(lambda n: m.remove(n, sandbox=n, seconds=300), names))
    nothing_left(engine)


CASES = [
    a_container_is_made_with_its_user_data_and_runs, the_service_makes_finds_and_deletes_one, its_owner_is_in_its_labels, it_is_not_privileged, only_listed_capabilities_are_given,
    a_privileged_one_is_made_only_if_the_settings_say_so, the_pod_s_size_is_its_limit, the_settings_are_the_limit_of_a_pod_that_asks_for_none,
    more_than_the_machine_has_is_refused_before_anything_is_made, what_it_cannot_do_is_refused_before_any_call,
    the_largest_user_data_arrives_whole, a_second_create_is_the_first_one, a_create_that_was_cut_off_is_taken_up,
    a_container_of_somebody_else_is_left_alone, one_that_upstream_made_is_removed_by_its_id, gone_is_deleted, its_volumes_go_with_it, find_tells_a_node_s_own_in_whatever_state,
    two_hundred_are_found, a_pod_s_image_is_for_its_own_container_only, an_image_that_is_not_there_is_said_to_be_missing,
    a_missing_image_is_pulled_where_that_is_allowed, a_container_that_ends_at_once_ends_the_create,
    a_container_that_is_unhealthy_ends_the_create, a_container_that_cannot_be_started_is_removed,
    it_waits_until_the_image_s_check_is_content, another_network_is_joined, a_network_that_is_none_is_refused,
    the_api_s_version_is_one_that_both_speak, an_engine_that_became_another_one_is_asked_anew,
    without_an_engine_it_opens_and_says_so_when_asked, throttled_requests_are_made_again, wrong_settings_are_refused, check_says_what_is_wrong,
    each_call_of_a_create_may_fail_in_each_way_once,
    each_call_of_a_delete_may_fail_in_each_way_once, a_cancel_at_each_call_ends_the_create,
    a_hundred_at_once_against_an_engine_that_throttles, an_engine_that_restarts_keeps_and_finds_them,
    # The last one: a second engine takes the first one's bridge away.
    tls_is_spoken_and_verified,
]


def main():
    bad, chosen = 0, sys.argv[3:]
    engine = rig.Engine(DIRECTORY / "engine")
    try:
        small = rig.small_image()
        engine.import_image(IMAGE, small, 'CMD ["/init"]')
        engine.import_image("other:1", small, 'CMD ["/init"]')
        engine.import_image("ends:1", small, 'CMD ["/bin/sh", "-c", "exit 3"]')
        engine.import_image("nothing:1", small, 'CMD ["/not/there"]')
        engine.import_image("healthy:1", small, 'CMD ["/init"]', "HEALTHCHECK --interval=1s CMD /bin/busybox true")
        engine.import_image("unhealthy:1", small, 'CMD ["/init"]', "HEALTHCHECK --interval=1s --retries=1 CMD /bin/busybox false")
        for case in CASES:
            if chosen and case.__name__ not in chosen:
                continue
            began = time.monotonic()
            try:
                case(engine)
                print(f"ok {case.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
            except (AssertionError, rig.Failure, OSError, subprocess.SubprocessError, KeyError) as e:
                bad += 1
                print(f"not ok {case.__name__} ({time.monotonic() - began:.1f} s): {type(e).__name__} {e}", flush=True)
                for n in engine.names():
                    engine.ask("DELETE", f"/containers/{n}?force=1&v=1")
                for v in engine.volumes():
                    engine.ask("DELETE", f"/volumes/{v}")
    finally:
        engine.stop()
        engine.clean()
    TEMPORARY.cleanup()
    sys.exit(1 if bad else 0)


main()
