# SPDX-License-Identifier: Apache-2.0
"""src/kube/ against kube_api.py: kube-client-test.py TOOL DEFINITIONS [TEST…]"""
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kube_api import KubeApi, make_authority  # noqa: E402

TOOL, DEFINITIONS = sys.argv[1:3]
PEERPODS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/default/peerpods"
TESTS = []
SECONDS = 60


def test(f):
    TESTS.append(f)
    return f


class Tool:
    """kube-client-tool with its messages"""

    def __init__(self, config, *options, env=None):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([TOOL, config, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={**os.environ, "PEERPOD_LOG_LEVEL": "debug", **(env or {})})
        self.queue, self.messages, self.n = queue.Queue(), [], 0
        threading.Thread(target=self._read, daemon=True).start()
        self.ready = self.get(what="ready")

    def _read(self):
        for line in self.process.stdout:
            self.queue.put(json.loads(line))
        self.queue.put(None)

    def get(self, seconds=SECONDS, **match):
        """the next message that has these values; others stay for later"""
        end = time.monotonic() + seconds
        while True:
            for m in self.messages:
                if all(m.get(k) == v for k, v in match.items()):
                    self.messages.remove(m)
                    return m
            try:
                m = self.queue.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no message with {match} within {seconds} s; there are {self.messages}; log:\n{self.output()[-3000:]}") from None
            if m is None:
                self.queue.put(None)
                raise AssertionError(f"the tool has ended before a message with {match}: {self.output()[-3000:]}")
            self.messages.append(m)

    def drain(self):
        """all messages so far: what was done before this call has been told by then"""
        self.do("stats")
        stats = self.get(what="stats")
        kept, self.messages = self.messages, []
        return kept, stats

    def do(self, what, **arguments):
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()

    def begin(self, method, path, **arguments):
        self.n += 1
        self.do("request", id=str(self.n), method=method, path=path, **arguments)
        return str(self.n)

    def call(self, method, path, **arguments):
        return self.get(what="reply", id=self.begin(method, path, **arguments))

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def close(self):
        self.process.stdin.close()
        end = self.get(what="end")
        status = self.process.wait(SECONDS)
        log = self.output()
        assert status == 0 and end["left_fds"] == 0, f"status {status}, {end['left_fds']} descriptors are left over:\n{log[-3000:]}"
        return log


class Rig:
    def __init__(self):
        self.directory = tempfile.TemporaryDirectory()
        if not os.path.exists(AUTHORITY.name + "/ca.crt"):
            make_authority(AUTHORITY.name)
        for f in os.listdir(AUTHORITY.name):
            os.link(os.path.join(AUTHORITY.name, f), os.path.join(self.directory.name, f))
        self.api = KubeApi(self.directory.name, [os.path.join(DEFINITIONS, "peerpods.yaml")])
        self.peerpods = self.api.store.resources["confidentialcontainers.org/v1alpha1", "peerpods"]
        self.token = self.api.user("t")
        self.tools = []

    def tool(self, *options, config=None, env=None):
        self.tools.append(Tool(self.api.kubeconfig("t") if config is None else config, "pause=1000", "qps=4294967295", *options, env=env))
        return self.tools[-1]

    def peerpod(self, name, **spec):
        return self.api.store.create(self.peerpods, "default", {"metadata": {"name": name, "finalizers": spec.pop("finalizers", [])}, "spec": {"cloudProvider": "x", **spec}})

    def watch(self, tool, synced=True, **more):
        tool.do("watch", **{"watch": 0, "path": PEERPODS.replace("/namespaces/default", ""), "pause_usec": 1000, "pause_max_usec": 20000, **more})
        if synced:
            return tool.get(what="synced")
        return None

    def watching(self, n=1):
        self.api.wait(lambda: self.api.watches == n, what=f"{n} watches")

    def end(self):
        for t in self.tools:
            log = t.close() if t.process.poll() is None else t.output()
            for user, token in self.api.users.values():
                assert token not in log, "a token is in the log"
            assert "ERROR: AddressSanitizer" not in log and "runtime error" not in log, log
        self.api.close()
        self.directory.cleanup()


AUTHORITY = tempfile.TemporaryDirectory()


# ---- credentials ----

@test
def a_token_file_is_read_again_after_a_401(rig):
    t = rig.tool()
    assert t.call("GET", PEERPODS)["status"] == 200
    rig.api.rotate("t")
    assert t.call("POST", PEERPODS, body={"metadata": {"name": "a"}})["status"] == 201


@test
def a_token_file_is_read_again_when_its_time_is_over(rig):
    t = rig.tool("token-age=1")
    before = t.drain()[1]["token_reads"]
    t.call("GET", PEERPODS)
    t.call("GET", PEERPODS)
    assert t.drain()[1]["token_reads"] >= before + 2
    slow = rig.tool()
    for _ in range(3):
        slow.call("GET", PEERPODS)
    assert slow.drain()[1]["token_reads"] == 1


@test
def a_lost_token_file_leaves_the_old_token(rig):
    t = rig.tool("token-age=1")
    os.unlink(os.path.join(rig.directory.name, "t.token"))
    assert t.call("GET", PEERPODS)["status"] == 200
    assert "keeping the old one" in t.output()


@test
def a_refused_token_is_an_error_after_one_more_try(rig):
    t = rig.tool()
    rig.api.revoke("t")
    before = rig.api.connections
    r = t.call("GET", PEERPODS)
    assert (r["error"], r["status"]) == ("EACCES", 401) and rig.api.connections - before <= 2
    assert t.drain()[1]["requests"] == 2


@test
def a_client_certificate_is_enough(rig):
    rig.api.certificate("c", "system:admin")
    for data in (False, True):
        config = kubeconfig(rig, {"client-certificate": "c.crt", "client-key": "c.key"}, data)
        t = rig.tool(config=config)
        assert t.call("GET", PEERPODS)["status"] == 200
    assert {r["user"] for r in rig.api.requests} == {"system:admin"}


@test
def a_foreign_certificate_is_not_trusted(rig):
    with tempfile.TemporaryDirectory() as other:
        make_authority(other)
        t = rig.tool(config=kubeconfig(rig, {"token": rig.token}, cluster={"certificate-authority": other + "/ca.crt"}))
        r = t.call("GET", PEERPODS)
    assert (r["error"], r["status"], r["sent"]) == ("EPROTO", 0, False), r


@test
def a_name_that_the_certificate_has_not_is_not_trusted(rig):
    t = rig.tool(config=kubeconfig(rig, {"token": rig.token}, cluster={"tls-server-name": "other.example"}))
    assert t.call("GET", PEERPODS)["error"] == "EPROTO"


@test
def tls_server_name_says_what_the_certificate_must_have(rig):
    t = rig.tool(config=kubeconfig(rig, {"token": rig.token}, cluster={"tls-server-name": "kubernetes.default"}))
    assert t.call("GET", PEERPODS)["status"] == 200
    assert t.ready["server"] == rig.api.url


@test
def a_pod_needs_no_kubeconfig(rig):
    path, env = rig.api.service_account("t", "ns1")
    # The library's directory is fixed; a mount namespace of its own puts the test's there.
    script = f"mkdir -p /var/run/secrets/kubernetes.io/serviceaccount && mount --bind {path} /var/run/secrets/kubernetes.io/serviceaccount && exec {TOOL} ''"
    p = subprocess.run(["unshare", "--mount", "sh", "-c", script], input='{"do":"request","id":"1","method":"GET","path":"/api/v1/namespaces"}\n', text=True, capture_output=True,
                       env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env}, timeout=SECONDS, check=False)
    ready = json.loads(p.stdout.splitlines()[0])
    assert (ready["id"], ready["namespace"], ready["server"]) == ("in-cluster", "ns1", rig.api.url), p


def kubeconfig(rig, user, data=False, cluster=None):
    """written as JSON, which is YAML"""
    import base64
    def load(o):
        return {k + "-data": base64.b64encode(open(os.path.join(rig.directory.name, v), "rb").read()).decode() for k, v in o.items()}
    path = os.path.join(rig.directory.name, "config.json")
    authority = {"certificate-authority": "ca.crt"}
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                   "clusters": [{"name": "k", "cluster": {"server": rig.api.url, **(load(authority) if data else authority), **(cluster or {})}}],
                   "users": [{"name": "u", "user": load(user) if data else user}]}, f)
    return path


# ---- requests ----

@test
def an_object_is_made_changed_and_deleted(rig):
    t = rig.tool()
    made = t.call("POST", PEERPODS, body={"metadata": {"name": "a", "finalizers": ["peer.pod/finalizer"]}, "spec": {"cloudProvider": "aws"}})
    assert made["status"] == 201 and made["error"] == ""
    assert t.call("PATCH", PEERPODS + "/a", type="application/merge-patch+json", body={"spec": {"instanceID": "i-1"}})["object"]["spec"]["instanceID"] == "i-1"
    assert t.call("PATCH", PEERPODS + "/a/status", type="application/merge-patch+json", body={"status": {"phase": "Running"}})["object"]["status"] == {"phase": "Running"}
    applied = t.call("PATCH", PEERPODS + "/b?fieldManager=t&force=true", type="application/apply-patch+yaml", body={"apiVersion": "confidentialcontainers.org/v1alpha1", "kind": "PeerPod", "metadata": {"name": "b"}})
    assert applied["object"]["metadata"]["name"] == "b"
    assert t.call("DELETE", PEERPODS + "/a")["object"]["metadata"]["deletionTimestamp"]
    t.do("finalizer", id="f", path=PEERPODS + "/a")
    assert t.get(what="reply", id="f")["error"] == ""
    assert t.call("GET", PEERPODS + "/a")["error"] == "ENOENT"


@test
def only_our_finalizer_is_removed(rig):
    t = rig.tool()
    rig.peerpod("a", finalizers=["other/one", "peer.pod/finalizer", "other/two"])
    t.do("finalizer", id="f", path=PEERPODS + "/a")
    assert t.get(what="reply", id="f")["object"]["metadata"]["finalizers"] == ["other/one", "other/two"]
    t.do("finalizer", id="g", path=PEERPODS + "/a")
    assert t.get(what="reply", id="g")["note"] == "no finalizer"


@test
def a_finalizer_that_moved_meanwhile_is_not_mistaken(rig):
    t = rig.tool()
    rig.peerpod("a", finalizers=["other/one", "peer.pod/finalizer"])
    fault = rig.api.fault("slow", verb="patch", seconds=0.3)
    t.do("finalizer", id="f", path=PEERPODS + "/a")
    rig.api.wait(lambda: fault in rig.api.spent)
    rig.api.store.patch(rig.peerpods, "default", "a", "application/merge-patch+json", {"metadata": {"finalizers": ["peer.pod/finalizer", "other/one"]}})
    r = t.get(what="reply", id="f")
    assert (r["error"], r["status"]) == ("EINVAL", 422)
    assert rig.api.store.get(rig.peerpods, "default", "a")["metadata"]["finalizers"] == ["peer.pod/finalizer", "other/one"]


@test
def errors_have_number_reason_and_words(rig):
    t = rig.tool()
    rig.peerpod("a")
    cases = [("GET", "/none", "ENOENT", 404, "NotFound", {}), ("POST", "", "EEXIST", 409, "AlreadyExists", {"body": {"metadata": {"name": "a"}}}),
             ("PUT", "/a", "ESTALE", 409, "Conflict", {"body": {"metadata": {"name": "a", "resourceVersion": "1"}}}),
             ("PATCH", "/a", "EINVAL", 422, "Invalid", {"type": "application/json-patch+json", "body": [{"op": "remove", "path": "/x"}]}),
             ("PATCH", "/a", "EINVAL", 415, "UnsupportedMediaType", {"type": "application/strategic-merge-patch+json", "body": {}})]
    for method, path, error, status, reason, more in cases:
        r = t.call(method, PEERPODS + path, **more)
        assert (r["error"], r["status"], r["reason"]) == (error, status, reason), r
        assert r["text"].startswith(f"{method} {PEERPODS + path}: HTTP {status} {reason}: "), r["text"]
    rig.api.user("t", "system:serviceaccount:default:nobody")
    assert (r := rig.tool().call("GET", PEERPODS))["error"] == "EPERM" and "cannot list resource" in r["text"], r


@test
def a_delete_with_another_uid_deletes_nothing(rig):
    t = rig.tool()
    rig.peerpod("a")
    assert t.call("DELETE", PEERPODS + "/a", body={"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}})["error"] == "ESTALE"
    assert t.call("GET", PEERPODS + "/a")["error"] == ""


@test
def retry_after_is_waited_for(rig):
    t = rig.tool()
    rig.api.fault("status", verb="create", code=429, reason="TooManyRequests", retry_after=1)
    began = time.monotonic()
    assert t.call("POST", PEERPODS, body={"metadata": {"name": "a"}})["status"] == 201
    assert time.monotonic() - began >= 1


@test
def a_get_is_repeated_whatever_happens_to_it(rig):
    t = rig.tool()
    for action, more in (("status", {"code": 500}), ("status", {"code": 503}), ("reset", {}), ("close", {}), ("truncate", {}), ("garbage", {})):
        rig.api.fault(action, verb="list", times=2, **more)
        r = t.call("GET", PEERPODS)
        assert r["error"] == "", (action, r)
        assert not rig.api.faults


@test
def a_create_is_not_repeated_when_the_server_may_have_done_it(rig):
    t = rig.tool()
    for name, action, more in (("a", "lost", {}), ("b", "status", {"code": 500}), ("c", "reset", {})):
        t.call("GET", PEERPODS)         # there is a connection that libcurl might use again
        rig.api.fault(action, verb="create", **more)
        r = t.call("POST", PEERPODS, body={"metadata": {"name": name}})
        assert r["error"] in ("ENOTCONN", "EREMOTEIO") and r["sent"], r
    assert rig.api.count(verb="create") == 3
    assert rig.api.store.get(rig.peerpods, "default", "a")


@test
def a_create_is_repeated_when_no_server_was_there(rig):
    t = rig.tool()
    rig.api.down()
    n = t.begin("POST", PEERPODS, body={"metadata": {"name": "a"}})
    rig.api.wait(lambda: t.drain()[1]["failures"] >= 2)
    rig.api.up()
    assert t.get(what="reply", id=n)["status"] == 201


@test
def a_request_ends_when_its_time_is_over(rig):
    t = rig.tool()
    rig.api.fault("hang", times=0)
    began = time.monotonic()
    r = t.call("POST", PEERPODS, body={"metadata": {"name": "a"}}, timeout_usec=300000)
    assert (r["error"], r["sent"]) == ("ETIMEDOUT", True) and time.monotonic() - began < 10
    rig.api.clear()


@test
def a_hanging_connection_is_given_up_within_the_time(rig):
    t = rig.tool()
    rig.api.fault("hang", verb="list")
    assert t.call("GET", PEERPODS, timeout_usec=4000000)["error"] == ""
    rig.api.clear()


@test
def an_answer_without_end_is_refused(rig):
    t = rig.tool()
    rig.api.fault("endless", verb="list")
    assert t.call("GET", PEERPODS, reply_max=1000000)["error"] == "EMSGSIZE"


@test
def a_cancelled_request_is_not_answered(rig):
    t = rig.tool()
    fault = rig.api.fault("hang", verb="list")
    n = t.begin("GET", PEERPODS)
    rig.api.wait(lambda: fault in rig.api.spent)
    t.do("cancel", id=n)
    rig.api.clear()
    assert t.call("GET", PEERPODS)["error"] == ""
    messages, stats = t.drain()
    assert messages == [] and stats["active"] == 0


@test
def requests_have_a_pace(rig):
    t = rig.tool("qps=20", "burst=2")
    began = time.monotonic()
    for n in [t.begin("GET", PEERPODS) for _ in range(12)]:
        t.get(what="reply", id=n)
    assert time.monotonic() - began >= 0.45
    began = time.monotonic()
    for n in [t.begin("GET", PEERPODS, unlimited=True) for _ in range(50)]:
        t.get(what="reply", id=n)
    assert rig.api.count(verb="list") == 62


@test
def odd_names_reach_the_server_as_they_are(rig):
    t = rig.tool()
    assert t.call("GET", PEERPODS + "/a%2Fb%3F")["error"] == "ENOENT"
    assert rig.api.requests[-1]["path"].endswith("/peerpods/a%2Fb%3F")


# ---- watches ----

@test
def a_watch_tells_what_is_there_and_what_happens(rig):
    rig.peerpod("a")
    t = rig.tool()
    assert rig.watch(t)["count"] == 1
    assert t.get(what="ADDED", name="a")["kind"] == "PeerPod"
    b = rig.peerpod("b")
    assert t.get(what="ADDED")["uid"] == b["metadata"]["uid"]
    rig.api.store.patch(rig.peerpods, "default", "b", "application/merge-patch+json", {"spec": {"instanceID": "i"}})
    assert t.get(what="MODIFIED")["name"] == "b"
    rig.api.store.delete(rig.peerpods, "default", "a", {})
    assert t.get(what="DELETED")["name"] == "a"
    messages, stats = t.drain()
    assert messages == [] and stats["count"] == 1 and stats["lists"] == 1 and stats["synced"]


@test
def a_list_comes_in_pages(rig):
    for i in range(25):
        rig.peerpod(f"p{i}")
    t = rig.tool()
    assert rig.watch(t, page_size=10)["count"] == 25
    assert rig.api.count(verb="list") == 3
    assert sorted(m["name"] for m in t.drain()[0]) == sorted(f"p{i}" for i in range(25))


@test
def a_page_that_expires_begins_the_list_again(rig):
    for i in range(25):
        rig.peerpod(f"p{i}")
    t = rig.tool()
    rig.api.fault("status", verb="list", after=1, code=410, reason="Expired")
    assert rig.watch(t, page_size=10)["count"] == 25
    added = [m["name"] for m in t.drain()[0] if m["what"] == "ADDED"]
    assert len(added) == 25 and len(set(added)) == 25 and rig.api.count(verb="list") == 5


@test
def a_page_that_fails_is_asked_for_again(rig):
    for i in range(25):
        rig.peerpod(f"p{i}")
    t = rig.tool()
    rig.api.fault("status", verb="list", after=1, code=500, times=2)
    assert rig.watch(t, page_size=10)["count"] == 25
    assert rig.api.count(verb="list") == 5


@test
def selectors_are_kept_to(rig):
    pods, nodes = rig.api.store.resources["v1", "pods"], ("n1", "n2")
    for node in nodes:
        rig.api.store.create(pods, "default", {"metadata": {"name": "on-" + node, "labels": {"app": node}}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
    t = rig.tool()
    rig.watch(t, path="/api/v1/pods", fields="spec.nodeName=n1", labels="app in (n1,n2)")
    assert t.get(what="ADDED")["kind"] == "Pod"
    rig.watching()
    rig.api.store.delete(pods, "default", "on-n2", {"gracePeriodSeconds": 0})
    rig.api.store.delete(pods, "default", "on-n1", {"gracePeriodSeconds": 0})
    assert t.get(what="DELETED")["name"] == "on-n1"
    assert t.drain()[0] == []


@test
def a_watch_goes_on_where_it_was(rig):
    rig.peerpod("a")
    t = rig.tool()
    rig.watch(t, watch_seconds=1)
    rig.api.wait(lambda: rig.api.count(verb="watch") >= 3, what="three watches")
    rig.peerpod("b")
    t.get(what="ADDED", name="b")
    _, stats = t.drain()
    assert stats["lists"] == 1 and stats["faults"] == 0


@test
def a_watch_that_ends_at_once_is_a_fault(rig):
    t = rig.tool()
    rig.api.fault("short", verb="watch", times=3)
    rig.watch(t)
    r = t.get(what="trouble")
    assert "ended at once" in r["text"] and not r["synced"]
    rig.peerpod("a")
    t.get(what="ADDED")
    assert t.drain()[1]["lists"] == 1


@test
def compaction_is_got_over_by_a_list(rig):
    for how in (False, True):
        rig.api.gone_as_status = how
        t = rig.tool()
        for n in ("a", "b", "c"):
            rig.peerpod(n)
        rig.watch(t, watch_seconds=1)
        rig.watching()
        rig.api.fault("status", verb="watch", code=503, times=0)
        rig.api.down()
        rig.api.store.delete(rig.peerpods, "default", "a", {})
        rig.api.store.delete(rig.peerpods, "default", "b", {})
        again = rig.peerpod("b")
        rig.api.store.patch(rig.peerpods, "default", "c", "application/merge-patch+json", {"spec": {"instanceID": "i"}})
        rig.peerpod("d")
        rig.api.store.compact()
        t.drain()
        rig.api.clear()
        rig.api.up()
        t.get(what="synced")
        told = [(m["what"], m["name"]) for m in t.drain()[0] if m["what"] in ("ADDED", "MODIFIED", "DELETED")]
        assert sorted(told) == [("ADDED", "b"), ("ADDED", "d"), ("DELETED", "a"), ("DELETED", "b"), ("MODIFIED", "c")], told
        assert told.index(("DELETED", "b")) < told.index(("ADDED", "b"))
        assert again["metadata"]["uid"]
        t.close()
        for n in ("b", "c", "d"):
            rig.api.store.delete(rig.peerpods, "default", n, {})


@test
def an_error_event_is_followed_by_what_it_says(rig):
    t = rig.tool()
    rig.api.fault("error", verb="watch", code=410)
    rig.api.fault("error", verb="watch", code=500, reason="InternalError", message="etcd is tired")
    rig.watch(t)
    t.get(what="synced")
    rig.watching()
    rig.peerpod("a")
    t.get(what="ADDED")
    _, stats = t.drain()
    assert stats["lists"] == 2 and stats["faults"] == 2 and "etcd is tired" in t.output()


@test
def a_version_that_never_works_is_given_up(rig):
    t = rig.tool()
    rig.api.fault("status", verb="watch", code=500, times=4)
    rig.watch(t)
    t.get(what="synced")
    assert t.drain()[1]["lists"] == 2


@test
def a_connection_that_breaks_is_replaced(rig):
    t = rig.tool()
    for action, more in (("break", {}), ("reset", {}), ("status", {"code": 500}), ("status", {"code": 429, "retry_after": 1}), ("status", {"code": 401}), ("garbage", {})):
        rig.api.fault(action, verb="watch", **more)
        if action == "break":
            rig.watch(t)
            rig.watching()
        else:
            rig.api.down()
            rig.api.up()
        rig.peerpod(f"after-{action}-{more.get('code', 0)}")
        t.get(what="ADDED", name=f"after-{action}-{more.get('code', 0)}")
        assert not rig.api.faults, action
    _, stats = t.drain()
    assert stats["count"] == 6 and stats["lists"] == 1


@test
def a_half_open_connection_is_found_out(rig):
    t = rig.tool()
    rig.api.fault("half-open", verb="watch")
    rig.watch(t, idle_usec=400000)
    rig.watching()
    rig.peerpod("a")
    assert t.get(what="trouble")["error"] == "ETIMEDOUT"
    t.get(what="ADDED", name="a")


@test
def bookmarks_keep_an_idle_watch_alive_and_its_version_young(rig):
    rig.api.bookmark_seconds = 0.1
    t = rig.tool()
    rig.watch(t, idle_usec=2000000)
    rig.watching()
    version = t.drain()[1]["version"]
    rig.api.store.create(rig.api.store.resources["v1", "namespaces"], None, {"metadata": {"name": "other"}})
    rig.api.wait(lambda: t.drain()[1]["version"] != version)
    began = time.monotonic()
    rig.api.wait(lambda: time.monotonic() - began > 2.5)
    messages, stats = t.drain()
    assert stats["watches"] == 1 and stats["faults"] == 0, stats


@test
def an_outage_is_survived(rig):
    t = rig.tool()
    rig.peerpod("a")
    rig.watch(t)
    rig.watching()
    rig.api.down()
    assert t.get(what="trouble")["synced"] is False
    rig.api.store.delete(rig.peerpods, "default", "a", {})
    rig.api.wait(lambda: t.drain()[1]["faults"] > 5)
    rig.api.up()
    t.get(what="DELETED", name="a")
    rig.api.wait(lambda: t.drain()[1]["synced"])
    log = t.output()
    assert log.count("does not go on") > 1 and log.count("<4>") == 1, "one warning for one outage"


@test
def a_missing_resource_is_waited_for(rig):
    t = rig.tool()
    rig.watch(t, synced=False, path="/apis/confidentialcontainers.org/v1alpha1/peerpodvolumes")
    assert t.get(what="trouble")["error"] == "ENOENT"
    rig.api.store.define(os.path.join(DEFINITIONS, "peerpodvolumes.yaml"))
    t.get(what="synced")


@test
def an_event_of_any_size_is_bounded(rig):
    t = rig.tool()
    rig.watch(t, event_max=5000)
    rig.watching()
    rig.peerpod("a", instanceName="n" * 250, instanceID="x" * 2000)
    t.get(what="ADDED")
    rig.api.store.create(rig.peerpods, "default", {"metadata": {"name": "big", "annotations": {"a": "y" * 20000}}, "spec": {}})
    assert t.get(what="trouble")["error"] == "EMSGSIZE"


@test
def many_events_at_once_are_all_told(rig):
    t = rig.tool()
    rig.watch(t, event_max=20000)
    rig.watching()
    with rig.api.store.changed:
        for i in range(400):
            rig.peerpod(f"p{i}", instanceID="x" * 1500)
    for i in range(400):
        t.get(what="ADDED", name=f"p{i}")
    assert t.drain()[1]["faults"] == 0


@test
def a_watch_may_be_freed_by_what_it_tells(rig):
    for where in ("list", "watch"):
        t = rig.tool()
        if where == "list":
            rig.peerpod("a")
            rig.watch(t, synced=False, free_on_object=True)
        else:
            rig.watch(t, free_on_object=True)
            rig.watching()
            rig.peerpod("b")
        t.get(what="ADDED")
        assert "lists" not in t.drain()[1]
        rig.api.wait(lambda: rig.api.watches == 0)
        for n in ("a", "b"):
            if where == "list" and n == "a":
                rig.api.store.delete(rig.peerpods, "default", n, {})


@test
def three_thousand_objects_are_followed_in_little_memory(rig):
    for i in range(3000):
        rig.peerpod(f"pod-{i:04}-resource-x7k2p", instanceID=f"i-{i:017x}", nodeName="worker-1", sandboxID="0" * 64)
    t = rig.tool()
    before = memory(t)
    began = time.monotonic()
    assert rig.watch(t, quiet=True)["count"] == 3000
    took, grown = time.monotonic() - began, memory(t) - before
    print(f"    3000 objects: {took:.2f} s, {grown} KiB more than before", flush=True)
    if "AddressSanitizer" not in os.environ.get("ASAN_OPTIONS", "") and not sanitized():
        assert grown < 8192, f"{grown} KiB"


def memory(t):
    return int(next(l for l in open(f"/proc/{t.process.pid}/status") if l.startswith("VmRSS")).split()[1])


def sanitized():
    return b"__asan_init" in open(TOOL, "rb").read()


# ---- leases ----

LEASE = {"namespace": "default", "name": "l", "duration_usec": 30000000, "deadline_usec": 20000000, "retry_usec": 100000}
SHORT = {**LEASE, "duration_usec": 3000000, "deadline_usec": 1500000}


def lease(rig):
    return rig.api.store.get(rig.api.store.resources["coordination.k8s.io/v1", "leases"], "default", "l")


@test
def one_leads_and_the_other_follows_when_it_lets_go(rig):
    a, b = rig.tool(), rig.tool()
    a.do("lease", identity="a", **LEASE)
    assert a.get(what="acquired")["held"]
    b.do("lease", identity="b", **LEASE)
    b.get(what="leader", id="a")
    first = lease(rig)["spec"]
    rig.api.wait(lambda: lease(rig)["spec"]["renewTime"] != first["renewTime"])
    assert lease(rig)["spec"]["acquireTime"] == first["acquireTime"] and lease(rig)["spec"]["leaseDurationSeconds"] == 30
    began = time.monotonic()
    a.do("release")
    a.get(what="released")
    b.get(what="acquired")
    assert time.monotonic() - began < 20, "the successor did not have to wait for the lease to end"
    assert lease(rig)["spec"]["holderIdentity"] == "b" and lease(rig)["spec"]["leaseTransitions"] == 1
    assert [m for m in b.drain()[0] if m["what"] == "lost"] == []


@test
def a_lease_is_let_go_of_even_while_it_is_renewed(rig):
    for action, more in (("slow", {"seconds": 0.3}), ("lost", {})):
        a = rig.tool()
        a.do("lease", identity="a", **LEASE)
        a.get(what="acquired")
        rig.api.fault(action, verb="update", **more)
        rig.api.wait(lambda: not rig.api.faults)
        a.do("release")
        a.get(what="released")
        assert lease(rig)["spec"]["holderIdentity"] == "", action


@test
def a_dead_leader_is_followed_when_its_lease_is_over(rig):
    a, b = rig.tool(), rig.tool()
    a.do("lease", identity="a", **SHORT)
    a.get(what="acquired")
    b.do("lease", identity="b", **LEASE)
    b.get(what="leader", id="a")
    a.process.kill()
    a.process.wait()
    b.get(what="acquired")
    rig.tools.remove(a)


@test
def a_leader_without_a_server_stops_before_another_can_lead(rig):
    a = rig.tool()
    a.do("lease", identity="a", **SHORT)
    a.get(what="acquired")
    rig.api.down()
    began = time.monotonic()
    assert a.get(what="lost")["held"] is False
    assert time.monotonic() - began < 3
    rig.api.up()
    a.get(what="acquired")


@test
def a_leader_that_was_stopped_knows_that_it_leads_no_more(rig):
    import signal
    a, b = rig.tool(), rig.tool()
    a.do("lease", identity="a", **SHORT)
    a.get(what="acquired")
    b.do("lease", identity="b", **LEASE)
    b.get(what="leader", id="a")
    a.process.send_signal(signal.SIGSTOP)
    b.get(what="acquired")
    a.process.send_signal(signal.SIGCONT)
    assert a.get(what="lost")["held"] is False
    a.get(what="leader", id="b")
    assert [m["what"] for m in b.drain()[0] if m["what"] == "lost"] == []


@test
def a_lease_that_another_takes_is_lost_at_once(rig):
    a = rig.tool()
    a.do("lease", identity="a", **LEASE)
    a.get(what="acquired")
    leases = rig.api.store.resources["coordination.k8s.io/v1", "leases"]
    rig.api.store.patch(leases, "default", "l", "application/merge-patch+json", {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 60}})
    assert "another one" in a.get(what="lost")["why"]


@test
def conflicts_and_lost_answers_do_not_end_a_leadership(rig):
    a = rig.tool()
    a.do("lease", identity="a", **LEASE)
    a.get(what="acquired")
    for action, more in (("status", {"code": 409, "reason": "Conflict"}), ("lost", {}), ("status", {"code": 500})):
        rig.api.fault(action, verb="update", **more)
        rig.api.wait(lambda: not rig.api.faults)
        version = lease(rig)["metadata"]["resourceVersion"]
        rig.api.wait(lambda: lease(rig)["metadata"]["resourceVersion"] != version)
    assert [m["what"] for m in a.drain()[0] if m["what"] == "lost"] == []


@test
def a_deleted_lease_is_made_again(rig):
    a = rig.tool()
    a.do("lease", identity="a", **LEASE)
    a.get(what="acquired")
    rig.api.store.delete(rig.api.store.resources["coordination.k8s.io/v1", "leases"], "default", "l", {})
    assert "deleted" in a.get(what="lost")["why"]
    a.get(what="acquired")


# ---- events ----

@test
def an_event_that_repeats_itself_is_one(rig):
    t = rig.tool()
    t.do("event", namespace="default", name="p", uid="u", times=50)
    events = rig.api.store.resources["events.k8s.io/v1", "events"]
    rig.api.wait(lambda: rig.api.store.items(events, "default"))
    messages, stats = t.drain()
    assert (stats["events_written"], stats["events_merged"]) == (1, 49)
    e = rig.api.store.items(events, "default")[0]
    assert (e["regarding"]["name"], e["reason"], e["type"], e["note"]) == ("p", "Tested", "Warning", "It is so.")
    assert not rig.api.store.invalid


@test
def events_are_bounded(rig):
    t = rig.tool()
    t.do("event", namespace="default", name="p", uid="u", times=500, different=True)
    stats = t.drain()[1]
    assert stats["events_written"] <= 25 and stats["events_dropped"] >= 475


def main():
    chosen = sys.argv[3:]
    failed = 0
    for f in TESTS:
        if chosen and f.__name__ not in chosen:
            continue
        began, rig = time.monotonic(), Rig()
        try:
            f(rig)
            rig.end()
            print(f"ok {f.__name__} ({time.monotonic() - began:.2f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {f.__name__}\n{traceback.format_exc()}", flush=True)
            for t in rig.tools:
                t.process.kill()
            rig.api.close()
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
