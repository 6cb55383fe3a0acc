# SPDX-License-Identifier: Apache-2.0
"""watches of src/kube/: arguments as in kube_rig.py"""
import os
import sys
import time

from kube_rig import DEFINITIONS, PEERPODS, main, memory, sanitized, test

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
def a_refusal_that_follows_an_outage_is_told(rig):
    t = rig.tool()
    rig.api.fault("status", verb="list", code=503, times=3)
    rig.api.fault("status", verb="list", code=403, reason="Forbidden", message="you may not")
    rig.api.fault("status", verb="list", code=503, times=2)
    rig.api.fault("status", verb="list", code=403, reason="Forbidden", message="you may not", times=2)
    rig.watch(t)
    troubles = [m["error"] for m in t.drain()[0] if m["what"] == "trouble"]
    assert troubles == ["EREMOTEIO", "EPERM"], troubles
    warnings = [l for l in t.output().splitlines() if l.startswith("<4>")]
    assert len(warnings) == 2 and "you may not" in warnings[1], warnings


@test
def a_server_that_asks_for_patience_is_not_asked_to_list_before(rig):
    t = rig.tool()
    rig.api.fault("status", verb="list", code=429, reason="TooManyRequests", retry_after=1)
    began = time.monotonic()
    rig.watch(t)
    assert time.monotonic() - began >= 1


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


if __name__ == "__main__":
    sys.exit(main())
