# SPDX-License-Identifier: Apache-2.0
"""leases and events of src/kube/: arguments as in kube_rig.py"""
import signal
import sys
import time

from kube_rig import main, test

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
def a_lease_that_is_just_being_taken_is_let_go_of(rig):
    for verb in "create", "update":
        a = rig.tool()
        fault = rig.api.fault("slow", verb=verb, seconds=0.3)
        a.do("lease", identity="a", **LEASE)
        rig.api.wait(lambda: fault in rig.api.spent)
        a.do("release")
        a.get(what="released")
        assert lease(rig)["spec"]["holderIdentity"] == "", verb
        assert [m["what"] for m in a.drain()[0] if m["what"] == "acquired"] == []


@test
def what_keeps_a_lease_from_being_taken_is_told_once(rig):
    rig.api.user("t", "system:serviceaccount:default:nobody")
    a = rig.tool()
    a.do("lease", identity="a", **LEASE)
    rig.api.wait(lambda: rig.api.count(verb="get", path=".*/leases/l") > 3)
    warnings = [l for l in a.output().splitlines() if l.startswith("<4>")]
    assert len(warnings) == 1 and "'default/l'" in warnings[0] and "HTTP 403 Forbidden" in warnings[0], a.output()


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


if __name__ == "__main__":
    sys.exit(main())
