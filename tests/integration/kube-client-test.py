# SPDX-License-Identifier: Apache-2.0
"""credentials and requests of src/kube/: arguments as in kube_rig.py"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

from kube_rig import PEERPODS, SECONDS, TOOL, kubeconfig, main, make_authority, test

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
def requests_that_hang_do_not_keep_out_others(rig):
    t = rig.tool()
    fault = rig.api.fault("hang", verb="create", times=0)
    for i in range(40):
        t.begin("POST", PEERPODS, body={"metadata": {"name": f"p{i}"}})
    rig.api.wait(lambda: rig.api.count(verb="create") >= 32)
    assert t.call("GET", PEERPODS, timeout_usec=10000000)["error"] == ""
    rig.api.wait(lambda: rig.api.count(verb="create") == 40)
    assert fault in rig.api.faults
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
def nobody_waits_for_a_turn_longer_than_there_is_time(rig):
    t = rig.tool("qps=1", "burst=1")
    began = time.monotonic()
    replies = [t.get(what="reply", id=n) for n in [t.begin("GET", PEERPODS, timeout_usec=300000) for _ in range(30)]]
    assert time.monotonic() - began < 15
    assert sum(r["error"] == "ETIMEDOUT" and not r["sent"] and "too many requests" in r["text"] for r in replies) >= 28, replies
    began = time.monotonic()
    assert t.call("GET", PEERPODS)["error"] == "" and time.monotonic() - began < 15, "those that came to nothing have used up no turns"


@test
def what_begins_beside_a_connection_that_is_not_made_ends_in_time(rig):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        t = rig.tool(config=kubeconfig(rig, {"tokenFile": "t.token"}, cluster={"server": f"https://127.0.0.1:{silent.getsockname()[1]}"}))
        slow, quick = [t.begin("GET", PEERPODS, timeout_usec=usec) for usec in (10000000, 300000)]
        assert t.get(what="reply", id=quick)["error"] == "ETIMEDOUT"
        assert not t.messages, "the other one is still waiting"
        assert t.get(what="reply", id=slow)["error"] == "ETIMEDOUT"


@test
def odd_names_reach_the_server_as_they_are(rig):
    t = rig.tool()
    assert t.call("GET", PEERPODS + "/a%2Fb%3F")["error"] == "ENOENT"
    assert rig.api.requests[-1]["path"].endswith("/peerpods/a%2Fb%3F")


# ---- HTTP/2 ----

@test
def requests_share_a_connection_with_http_2(rig):
    front, config = rig.front()
    t = rig.tool(config=config)
    t.call("GET", PEERPODS)
    for n in [t.begin("GET", PEERPODS) for _ in range(100)]:
        assert t.get(what="reply", id=n)["status"] == 200
    assert front.ask("connections") == ["1", "0", "101"]
    assert t.call("POST", PEERPODS, body={"metadata": {"name": "a"}})["status"] == 201
    assert front.ask("connections") == ["2", "0", "102"], "what must not be done twice is not sent into a connection that may be dead"


@test
def a_server_that_says_goaway_is_left_and_met_again(rig):
    front, config = rig.front()
    t = rig.tool(config=config)
    t.do("watch", watch=0, path=PEERPODS, pause_usec=1000, pause_max_usec=20000)
    t.get(what="synced")
    rig.watching()
    for i in range(3):
        front.ask("goaway")
        assert t.call("GET", PEERPODS)["status"] == 200
        rig.peerpod(f"p{i}")
        t.get(what="ADDED", name=f"p{i}")
    assert front.ask("connections")[0] == "3", "the last one is left when the next request comes"


@test
def a_connection_that_went_silent_is_replaced_for_all(rig):
    front, config = rig.front()
    t = rig.tool(config=config)
    t.do("watch", watch=0, path=PEERPODS, pause_usec=1000, pause_max_usec=20000, idle_usec=1500000)
    t.get(what="synced")
    rig.watching()
    front.ask("freeze")
    rig.peerpod("a")
    assert t.call("GET", PEERPODS, timeout_usec=8000000)["status"] == 200
    t.get(what="ADDED", name="a")
    assert t.drain()[1]["lists"] == 1


if __name__ == "__main__":
    sys.exit(main())
