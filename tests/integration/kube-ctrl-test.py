# SPDX-License-Identifier: Apache-2.0
"""peerpod-ctrl as a cluster sees it: the real program and real provider services, a scripted API server, instances that are files. The role that it
has there is install/rbac/peerpod-ctrl.yaml: each case also fails if that lacks a right.

Usage: kube-ctrl-test.py CTRL PROVIDERD FAKE-MODULE INSTALL-DIRECTORY [CASE…]"""
import base64
import os
import re
import signal
import sys
import time

from kube_ctrl_rig import FINALIZER, GROUP, LEASE, NAMESPACE, Rig, alive, run, sandbox

CTRL, PROVIDERD, FAKE, INSTALL = sys.argv[1:5]


def rig(**more):
    return Rig(CTRL, PROVIDERD, [FAKE], INSTALL, **more)


# ---- what is deleted, and what is not ----

def the_instance_of_a_pod_that_has_ended_is_deleted():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        r.start().ready()
        r.delete_pod("web")
        r.gone("web")
        assert r.instances() == [] and r.calls("delete") == ["podvm-web"]
        r.wait(lambda: r.events("InstanceDeleted"), "an event tells")


def what_was_deleted_while_no_controller_ran_is_deleted():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        r.ours("other", 2, r.pod("other"))
        r.delete_pod("web")
        r.start()
        r.gone("web")
        assert r.instances() == ["podvm-other"] and FINALIZER in r.get("other")["metadata"]["finalizers"]


def an_instance_whose_id_was_never_learnt_is_found_by_name_and_owner():
    with rig() as r:
        r.ours("web", 1, r.pod("web"), learnt=False)
        r.start().ready()
        r.delete_pod("web")
        r.gone("web")
        assert r.instances() == []


def an_instance_that_is_not_there_is_deleted():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        (r.cloud / "podvm-web").unlink()
        r.start().ready()
        r.delete_pod("web")
        r.gone("web")


def another_owners_instance_is_left_alone():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        r.instance("podvm-web", sandbox(2), "fake-1")
        r.start().ready()
        r.delete_pod("web")
        reason, message = r.condition("web")
        assert reason == "FailedPrecondition" and "belongs to another sandbox" in message
        assert r.instances() == ["podvm-web"] and FINALIZER in r.get("web")["metadata"]["finalizers"]
        r.wait(lambda: r.events("FailedPrecondition"), "an event tells")


def no_finalizer_but_ours_is_removed():
    with rig() as r:
        r.ours("web", 1, finalizers=("example.com/before", FINALIZER, "example.com/after"))
        r.start().ready()
        r.delete("web")
        r.wait(lambda: r.get("web")["metadata"]["finalizers"] == ["example.com/before", "example.com/after"], "ours is removed")
        assert r.instances() == []


def a_finalizer_that_moves_meanwhile_is_found_again():
    with rig() as r:
        r.ours("web", 1, finalizers=("example.com/before", FINALIZER))
        r.api.fault("slow", verb="patch", path="peerpods/web$", seconds=0.5)
        p = r.start().ready()
        r.delete("web")
        r.wait(lambda: r.api.count(verb="patch", path=".*/peerpods/web"), "the finalizer is about to be removed")
        r.api.store.patch(r.resource(GROUP, "peerpods"), "default", "web", "application/merge-patch+json", {"metadata": {"finalizers": [FINALIZER]}})
        r.gone("web")
        assert r.calls("delete") == ["podvm-web"], "the cloud is not asked again"
        assert p.process.poll() is None


def one_that_waits_for_no_finalizer_of_ours_is_nobodys_business():
    with rig() as r:
        r.ours("web", 1, finalizers=("example.com/other",))
        r.ours("next", 2)
        r.start().ready()
        r.delete("web")
        r.delete("next")
        r.gone("next")
        assert r.instances() == ["podvm-web"] and r.calls("delete") == ["podvm-next"]


def a_peerpod_that_is_deleted_by_hand_waits_for_its_pod():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        p = r.start().ready()
        r.delete("web")
        assert r.condition("web")[0] == "PodAlive"
        r.wait(lambda: r.events("PodAlive"), "an event tells")
        r.wait(lambda: p.metrics()['peerpod_ctrl_peerpods{state="held"}'] == 1, "it is counted")
        seen = r.api.count(verb="get", path=".*/pods/web")
        r.wait(lambda: r.api.count(verb="get", path=".*/pods/web") > seen + 1, "the pod is looked after")
        assert r.calls("delete") == [] and r.instances() == ["podvm-web"]
        r.delete_pod("web")
        r.gone("web")
        assert r.instances() == []


def a_pod_that_has_ended_holds_up_nothing():
    with rig() as r:
        pod = r.pod("web")
        r.ours("web", 1, pod)
        r.api.store.patch(r.resource("v1", "pods"), "default", "web", "application/merge-patch+json", {"status": {"phase": "Failed"}}, "status")
        r.start().ready()
        r.delete("web")
        r.gone("web")


def another_pod_of_the_same_name_holds_up_nothing():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        r.api.store.collect_garbage = False
        r.delete_pod("web")
        r.pod("web")
        r.start().ready()
        r.delete("web")
        r.gone("web")


def one_whose_instance_the_node_says_is_gone_waits_for_no_pod():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        r.api.store.patch(r.resource(GROUP, "peerpods"), "default", "web", "application/merge-patch+json", {"status": {"cleand": True}}, "status")
        r.start().ready()
        r.delete("web")
        r.gone("web")


def of_several_of_one_pod_the_one_with_the_highest_attempt_stays():
    with rig() as r:
        pod = r.pod("web")
        for attempt in (2, 1, 3):
            r.ours(f"web-{attempt}", attempt, pod, attempt=attempt)
        r.start()
        r.gone("web-1")
        r.gone("web-2")
        assert r.instances() == ["podvm-web-3"] and "deletionTimestamp" not in r.get("web-3")["metadata"]


def a_newer_one_that_comes_later_replaces_the_older_one():
    with rig() as r:
        pod = r.pod("web")
        r.ours("web-1", 1, pod, attempt=1)
        p = r.start().ready()
        r.ours("web-2", 2, pod, attempt=2)
        r.gone("web-1")
        assert r.instances() == ["podvm-web-2"]
        assert p.metrics()["peerpod_ctrl_peerpods_superseded_total"] == 1


def without_attempts_the_younger_one_stays():
    with rig() as r:
        pod = r.pod("web")
        r.upstream("web-a", 1, pod, age=3)
        r.upstream("web-b", 2, pod)
        r.start("--delete-untagged")
        r.gone("web-a")
        assert r.instances() == ["podvm-web-00000002"]


def one_that_was_replaced_by_another_of_its_name_is_not_deleted():
    """The DELETE names the uid of the object that was meant."""
    with rig() as r:
        pod = r.pod("web")
        r.ours("web-1", 1, pod, attempt=1, finalizers=())
        r.ours("web-2", 2, pod, attempt=2)
        r.api.fault("slow", verb="delete", path="peerpods/web-1", seconds=0.5)
        r.start()
        r.wait(lambda: r.api.count(verb="delete", path=".*/peerpods/web-1"), "the older one is about to be deleted")
        r.delete("web-1")
        r.ours("web-1", 3)
        r.wait(lambda: r.api.count(verb="delete", path=".*/peerpods/web-1", code="409"), "the API server refuses")
        assert "deletionTimestamp" not in r.get("web-1")["metadata"] and "podvm-web-1" in r.instances()


def a_second_object_of_the_same_instance_deletes_nothing():
    with rig() as r:
        r.ours("web", 1, r.pod("web"), age=5)
        r.peerpod("thief", cloudProvider="fake", instanceName="podvm-web", sandboxID=sandbox(1), instanceID="fake-1")
        r.start().ready()
        r.delete("thief")
        reason, message = r.condition("thief")
        assert reason == "ClaimedByAnother" and "'default/web'" in message
        assert r.calls("delete") == []
        r.delete_pod("web")
        r.gone("web")
        r.gone("thief")


# ---- upstream's ----

def an_instance_without_owner_tag_is_kept_unless_told_otherwise():
    with rig() as r:
        r.upstream("web-resource", 1, r.pod("web"))
        r.start().ready()
        r.delete_pod("web")
        reason, message = r.condition("web-resource")
        assert reason == "NotTagged" and "--delete-untagged" in message
        assert len(r.instances()) == 1 and r.calls("delete-untagged") == []


def an_instance_that_upstream_made_is_deleted_when_told_so():
    with rig() as r:
        r.upstream("web-resource", 1, r.pod("web"))
        r.start("--delete-untagged").ready()
        r.delete_pod("web")
        r.gone("web-resource")
        assert r.instances() == []


def an_instance_of_another_pod_or_of_ours_is_not_taken_for_upstreams():
    with rig() as r:
        r.instance("podvm-other-00000001", "", "fake-1")
        r.instance("podvm-web-00000002", sandbox(2), "fake-2")
        for n in (1, 2):
            r.peerpod(f"web-{n}", r.pod(f"web-{n}") if n == 1 else r.pod("web"), cloudProvider="fake", instanceID=f"fake-{n}")
        r.peerpod("ownerless", cloudProvider="fake", instanceID="fake-1", age=9)
        r.start("--delete-untagged").ready()
        r.delete("ownerless")
        assert r.condition("ownerless")[0] == "NotTagged"
        r.delete_pod("web-1")
        r.delete_pod("web")
        for n in (1, 2):
            assert r.condition(f"web-{n}")[0] == "FailedPrecondition"
        assert len(r.instances()) == 2


# ---- what makes no sense ----

def an_object_that_makes_no_sense_gets_a_condition():
    with rig() as r:
        specs = {
            "empty": ({}, "cloudProvider is empty"),
            "nothing": ({"cloudProvider": "fake"}, "names no instance"),
            "half": ({"cloudProvider": "fake", "instanceName": "podvm-a"}, "only one of"),
            "path": ({"cloudProvider": "fake", "instanceName": "../../etc/passwd", "sandboxID": sandbox(1)}, "instanceName is no"),
            "control": ({"cloudProvider": "fake", "instanceID": "a\nb"}, "instanceID is no"),
            "sandbox": ({"cloudProvider": "fake", "instanceName": "podvm-a", "sandboxID": "-/.."}, "sandboxID is no"),
        }
        for name, (spec, _) in specs.items():
            r.peerpod(name, **spec)
        p = r.start().ready()
        for name, (_, text) in specs.items():
            reason, message = r.condition(name, "Valid")
            assert reason == "InvalidSpec" and text in message, message
        r.wait(lambda: len(r.events("InvalidSpec")) == len(specs), "events tell")
        for name in specs:
            r.delete(name)
        r.ours("web", 1)
        r.delete("web")
        r.gone("web")
        assert all(r.get(name) for name in specs), "the finalizer is nobody's to remove who does not know the instance"
        assert p.process.poll() is None


def what_is_mended_is_followed_again():
    with rig() as r:
        r.instance("podvm-web", sandbox(1), "fake-1")
        r.peerpod("web", cloudProvider="fake")
        r.start().ready()
        r.condition("web", "Valid")
        r.api.store.patch(r.resource(GROUP, "peerpods"), "default", "web", "application/merge-patch+json",
                          {"spec": {"instanceName": "podvm-web", "sandboxID": sandbox(1)}})
        r.wait(lambda: any(c["type"] == "Valid" and c["status"] == "True" for c in r.get("web")["status"]["conditions"]), "the condition is taken back")
        r.delete("web")
        r.gone("web")
        assert r.instances() == []


def what_makes_no_sense_once_more_is_told_once_more():
    """An API server with upstream's resource definition lets a spec change at any time."""
    with rig() as r:
        r.peerpod("web", cloudProvider="fake")
        r.start().ready()
        r.condition("web", "Valid")
        for instance, status in (("fake-1", "True"), ("", "False")):
            r.api.store.patch(r.resource(GROUP, "peerpods"), "default", "web", "application/merge-patch+json", {"spec": {"instanceID": instance}})
            r.wait(lambda status=status: any((c["type"], c["status"]) == ("Valid", status) for c in r.get("web")["status"]["conditions"]),
                   f"the condition is {status}")


def conditions_of_others_stay():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        theirs = {"type": "Example", "status": "True", "reason": "Theirs", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        r.api.store.patch(r.resource(GROUP, "peerpods"), "default", "web", "application/merge-patch+json", {"status": {"conditions": [theirs]}}, "status")
        r.start().ready()
        r.delete("web")
        r.condition("web")
        assert theirs in r.get("web")["status"]["conditions"] and r.get("web")["status"]["phase"] == "Deleting"


# ---- clouds that fail ----

def what_fails_is_tried_again_and_says_why():
    with rig() as r:
        r.ours("web", 1, r.pod("web"))
        p = r.start().ready()
        with r.control("delete=fail:Unavailable:the cloud is on fire"):
            r.delete_pod("web")
            assert r.condition("web") == ("Unavailable", "the cloud is on fire")
            r.wait(lambda: len(r.calls("delete")) > 2, "it is tried again")
            assert p.metrics()['peerpod_ctrl_delete_failures_total{provider="fake"}'] >= 2
            assert p.metrics()["peerpod_ctrl_oldest_delete_age_seconds"] > 0
        r.gone("web")
        assert r.instances() == []


def one_that_hangs_holds_up_no_other_and_ends_at_its_deadline():
    with rig() as r:
        for n in range(1, 5):
            r.ours(f"web-{n}", n)
        r.start("--concurrent-deletes=2", "--delete-timeout=1s").ready()
        with r.control("delete podvm-web-1=hang"):
            for n in range(1, 5):
                r.delete(f"web-{n}")
            for n in range(2, 5):
                r.gone(f"web-{n}")
            assert r.condition("web-1")[0] == "TimedOut"
        r.gone("web-1")


def no_more_than_so_many_deletions_run_at_once():
    with rig() as r:
        for n in range(1, 9):
            r.ours(f"web-{n}", n)
        r.start("--concurrent-deletes=3").ready()
        with r.control("delete=hang"):
            for n in range(1, 9):
                r.delete(f"web-{n}")
            r.wait(lambda: len(r.calls("delete")) == 3, "three have begun")
            # What the controller has begun after them is done: a fourth would have been sent.
            r.peerpod("later", cloudProvider="fake")
            r.condition("later", "Valid")
            assert len(r.calls("delete")) == 3


def a_module_that_crashes_takes_nobody_with_it():
    with rig() as r:
        r.ours("bad", 1)
        r.ours("good", 2)
        p = r.start().ready()
        with r.control("delete podvm-bad=crash"):
            r.delete("bad")
            p.says("was killed by signal 6")
        r.delete("good")
        r.gone("good")
        r.gone("bad")
        assert p.process.poll() is None and r.instances() == []


def an_unknown_provider_gets_a_condition_and_the_others_go_on():
    with rig() as r:
        r.peerpod("web", cloudProvider="nimbus", instanceID="i-1")
        r.ours("good", 1)
        r.start().ready()
        r.delete("web")
        assert r.condition("web")[0] == "ProviderUnknown"
        r.delete("good")
        r.gone("good")


# ---- settings ----

def an_unknown_cloud_provider_is_refused_at_start():
    with rig() as r:
        for how in ({"CLOUD_PROVIDER": "nimbus"}, {}):
            if not how:
                r.write_settings(CLOUD_PROVIDER="nimbus")
            p = r.start(**how)
            assert p.wait() == 78 and "CLOUD_PROVIDER is 'nimbus'" in p.log(), p.log()


def a_known_one_is_begun_with():
    with rig() as r:
        p = r.start(CLOUD_PROVIDER="fake").ready()
        r.wait(lambda: p.metrics().get('peerpod_ctrl_provider_up{provider="fake"}') == 1, "its service runs")


def settings_that_change_in_a_file_are_taken():
    with rig() as r:
        old = r.cloud
        r.ours("web-1", 1)
        p = r.start().ready()
        r.delete("web-1")
        r.gone("web-1")
        r.cloud = r.path / "cloud-2"
        r.cloud.mkdir()
        r.write_settings()
        p.says("settings have changed")
        r.wait((r.cloud / ".opened").exists, "the provider begins with the new ones")
        r.ours("web-2", 2)
        r.delete("web-2")
        r.gone("web-2")
        assert r.calls("delete") == ["podvm-web-2"] and (old / "calls").read_text().count("delete") == 1


def settings_that_are_refused_are_told_and_mended_without_a_restart():
    with rig() as r:
        r.ours("web", 1)
        r.write_settings(FAKE_DELAY_MS="soon")
        p = r.start().ready()
        r.delete("web")
        assert r.condition("web")[0] == "ProviderRefusesSettings"
        assert "FAKE_DELAY_MS" in p.log() and p.metrics()['peerpod_ctrl_provider_up{provider="fake"}'] == 0
        r.write_settings()
        r.gone("web")


def settings_come_from_a_mounted_directory():
    """The way that a kubelet mounts a Secret, and changes it: a directory that is swapped as a whole."""
    with rig() as r:
        mount = r.path / "mount"
        mount.mkdir()

        def put(version, **files):
            (mount / version).mkdir()
            for name, value in files.items():
                (mount / version / name).write_text(value)
                if not (mount / name).is_symlink():
                    (mount / name).symlink_to(f"..data/{name}")
            os.symlink(version, mount / "..data_tmp")
            os.rename(mount / "..data_tmp", mount / "..data")

        put("..1", FAKE_DIRECTORY=str(r.cloud), FAKE_SECRET="s3cret's \"$HOME\" \\ #")
        r.ours("web-1", 1)
        p = r.start(f"--credentials={mount}", settings=False).ready()
        r.delete("web-1")
        r.gone("web-1")
        assert (r.cloud / ".opened").read_text() == "open secret\n"
        cloud = r.path / "cloud-2"
        cloud.mkdir()
        put("..2", FAKE_DIRECTORY=str(cloud))
        p.says("settings have changed")
        r.wait((cloud / ".opened").exists, "the provider begins with the new ones")


def settings_come_from_the_api_server_and_change_there():
    with rig() as r:
        cms, secrets = r.resource("v1", "configmaps"), r.resource("v1", "secrets")
        r.create("v1", "configmaps", NAMESPACE, {"metadata": {"name": "peer-pods-cm"}, "data": {"FAKE_DIRECTORY": str(r.cloud), "CLOUD_PROVIDER": "fake"}})
        r.create("v1", "secrets", NAMESPACE, {"metadata": {"name": "peer-pods-secret"}, "data": {"FAKE_SECRET": base64.b64encode(b"s3cret").decode()}})
        r.ours("web", 1)
        p = r.start(settings=False, PEERPODS_NAMESPACE=NAMESPACE).ready()
        r.delete("web")
        r.gone("web")
        assert (r.cloud / ".opened").read_text() == "open secret\n"
        r.api.store.delete(secrets, NAMESPACE, "peer-pods-secret", {})
        r.wait(lambda: (r.cloud / ".opened").read_text() == "open secret\nopen no-secret\n", "the provider begins without it")
        r.api.store.patch(cms, NAMESPACE, "peer-pods-cm", "application/merge-patch+json", {"data": {"FAKE_ADDRESSES": "192.0.2.7"}})
        r.wait(lambda: (r.cloud / ".opened").read_text().count("open") == 3, "and with the other address")
        assert "s3cret" not in p.log()


def a_secret_is_in_no_environment_no_command_line_and_no_log():
    with rig() as r:
        credentials = r.path / "credentials"
        credentials.mkdir()
        (credentials / "peer-pods-secret.env").write_text("FAKE_SECRET=s3cret\n")
        p = r.start(CLOUD_PROVIDER="fake", CREDENTIALS_DIRECTORY=str(credentials)).ready()
        r.wait((r.cloud / ".opened").exists, "the provider has begun")
        assert (r.cloud / ".opened").read_text() == "open secret\n"
        for pid in (p.process.pid, *p.children()):
            for file in ("environ", "cmdline"):
                with open(f"/proc/{pid}/{file}", "rb") as f:
                    assert b"s3cret" not in f.read()
        assert "s3cret" not in p.log()
        for path in (p.path / "run").rglob("*"):
            assert os.stat(path).st_mode & 0o077 == 0, f"{path} can be read by others"


# ---- the API server ----

def without_the_resource_it_says_so_and_waits():
    with rig(definitions=False) as r:
        p = r.start()
        p.says("knows no resource 'peerpods.confidentialcontainers.org'.*kubectl apply")
        assert p.get("--health-probe-bind-address", "/readyz")[0] == 503 and p.get("--health-probe-bind-address", "/healthz")[0] == 200
        r.api.store.define(r.crd)
        p.says("There is a PeerPod resource now")
        r.ours("web", 1)
        r.delete("web")
        r.gone("web")


def a_watch_that_is_too_old_begins_anew():
    with rig() as r:
        r.ours("web", 1)
        r.ours("stays", 2)
        r.start().ready()
        r.api.fault("error", verb="watch", path="peerpods", times=1)
        r.api.down()
        r.delete("web")
        r.api.store.compact()
        r.api.up()
        r.gone("web")
        assert r.calls("delete") == ["podvm-web"] and r.instances() == ["podvm-stays"]


def each_fault_of_the_api_server_is_lived_through():
    """Each at each of the requests of a deletion: the pod, the object, its finalizer."""
    with rig() as r:
        r.start().ready()
        n = 0
        for verb, path in (("get", "pods/"), ("get", "peerpods/"), ("patch", "peerpods/[^/]*$")):
            for fault in ({"action": "reset"}, {"action": "close"}, {"action": "lost"}, {"action": "truncate"}, {"action": "garbage"},
                          {"action": "status", "code": 500}, {"action": "status", "code": 503}, {"action": "status", "code": 429, "retry_after": 0},
                          {"action": "status", "code": 409, "reason": "Conflict"}, {"action": "status", "code": 401}, {"action": "status", "code": 403}):
                n += 1
                r.ours(f"web-{n}", n, r.pod(f"web-{n}"))
                r.api.fault(verb=verb, path=path + ("" if path.endswith("$") else f"web-{n}$"), times=1, **fault)
                r.delete_pod(f"web-{n}")
                r.gone(f"web-{n}")
        assert r.instances() == [] and sorted(set(r.calls("delete"))) == sorted(f"podvm-web-{i}" for i in range(1, n + 1))


def a_token_that_expires_is_read_again():
    with rig() as r:
        r.ours("web", 1)
        r.start().ready()
        r.api.rotate("ctrl")
        r.delete("web")
        r.gone("web")


def an_api_server_that_is_away_is_waited_for():
    with rig() as r:
        r.ours("web", 1)
        p = r.start().ready()
        r.api.down()
        r.wait(lambda: p.get("--health-probe-bind-address", "/readyz")[0] == 503, "it is not ready")
        r.delete("web")
        r.api.up()
        r.gone("web")
        p.ready()


# ---- the end of a process ----

def killed_at_each_step_it_goes_on_where_it_was():
    with rig() as r:
        steps = {
            "pod": ("hang", "get", "pods/pod$"),
            "cloud": None,
            "object": ("hang", "get", "peerpods/object$"),
            "finalizer": ("hang", "patch", "peerpods/finalizer$"),
            "answer": ("lost", "patch", "peerpods/answer$"),
        }
        for n, (name, step) in enumerate(steps.items(), 1):
            r.ours(name, n, r.pod(name))
            r.ours(f"stays-{name}", 100 + n, r.pod(f"stays-{name}"))
            p = r.start().ready()
            if step:
                action, verb, path = step
                r.api.fault(action, verb=verb, path=path, times=1)
                r.delete_pod(name)
                r.wait(lambda verb=verb, name=name: r.api.count(verb=verb, path=f".*/{name}"), f"step '{name}' is reached")
                p.stop(signal.SIGKILL)
                r.api.clear()
            else:
                with r.control(f"delete podvm-{name}=hang"):
                    r.delete_pod(name)
                    r.wait(lambda name=name: f"podvm-{name}" in r.calls("delete"), f"step '{name}' is reached")
                    children = p.children()
                    p.stop(signal.SIGKILL)
                    r.wait(lambda: not any(map(alive, children)), "its children end with it")
            p = r.start().ready()
            r.gone(name)
            assert p.stop() == 0
        assert r.instances() == sorted(f"podvm-stays-{name}" for name in steps)


def what_runs_may_end_when_it_is_stopped():
    with rig() as r:
        r.ours("web", 1)
        p = r.start("--stop-timeout=30s").ready()
        with r.control("delete=delay:700"):
            r.delete("web")
            r.wait(lambda: r.calls("delete"), "the deletion has begun")
            children = p.children()
            assert children and p.stop() == 0
        assert r.instances() == []
        r.start()
        r.gone("web")
        assert not any(alive(c) for c in children)


def nothing_is_left_behind_when_it_is_stopped():
    with rig() as r:
        r.ours("web", 1)
        p = r.start(CLOUD_PROVIDER="fake").ready()
        r.delete("web")
        r.gone("web")
        children = p.children()
        assert children and p.stop() == 0
        assert not any(alive(c) for c in children)
        assert list((p.path / "run").iterdir()) == []


# ---- leaders ----

def leader(r):
    return (r.api.store.objects.get(("coordination.k8s.io/v1", "leases", NAMESPACE, LEASE)) or {}).get("spec", {}).get("holderIdentity")


ELECTION = ("--leader-elect", f"--leader-election-namespace={NAMESPACE}")


def one_leads_and_hands_over_when_it_is_stopped():
    with rig() as r:
        first = r.start(*ELECTION)
        first.says("leads now")
        second = r.start(*ELECTION).ready()
        second.says("leads, waiting")
        before = leader(r)
        begin = time.monotonic()
        assert first.stop() == 0
        second.says("leads now")
        assert time.monotonic() - begin < 3.5, "it did not wait for the lease to end"
        assert leader(r) not in (before, "", None)
        r.ours("web", 1)
        r.delete("web")
        r.gone("web")


def a_leader_that_stands_still_is_replaced_and_ends():
    with rig() as r:
        first = r.start(*ELECTION)
        first.says("leads now")
        second = r.start(*ELECTION)
        second.says("leads, waiting")
        r.ours("web", 1)
        first.process.send_signal(signal.SIGSTOP)
        second.says("leads now")
        r.delete("web")
        r.gone("web")
        first.process.send_signal(signal.SIGCONT)
        assert first.wait() == 1 and "does not lead any more" in first.log()
        assert r.calls("delete") == ["podvm-web"]


def without_a_namespace_for_the_lease_it_is_refused():
    with rig() as r:
        p = r.start("--leader-elect")
        assert p.wait() == 78 and "--leader-election-namespace" in p.log()


def times_that_would_let_it_spin_are_refused():
    with rig() as r:
        for option in ("--recheck=0", "--retry=0", "--delete-timeout=0", "--delete-timeout=500ms", "--lease-duration=5500ms"):
            p = r.start(*ELECTION, option)
            assert p.wait() == 78 and option.partition("=")[0] in p.log(), p.log()


# ---- much of it ----

def three_thousand_peerpods():
    with rig() as r:
        for n in range(3000):
            r.ours(f"web-{n}", n + 1)
        begin = time.monotonic()
        p = r.start("--concurrent-deletes=32").ready()
        r.wait(lambda: p.metrics()['peerpod_ctrl_peerpods{state="alive"}'] == 3000, "all are known")
        listed = time.monotonic() - begin
        status = open(f"/proc/{p.process.pid}/status", encoding="ascii").read()
        rss = int(re.search(r"VmRSS:\s*(\d+)", status)[1])
        begin = time.monotonic()
        for n in range(300):
            r.delete(f"web-{n}")
        r.wait(lambda: not any(r.get(f"web-{n}") for n in range(300)), "a tenth of them is deleted")
        took = time.monotonic() - begin
        assert len(r.instances()) == 2700
        print(f"# 3,000 PeerPods: known after {listed:.1f} s, {rss // 1024} MiB resident; 300 deletions in {took:.1f} s", flush=True)
        if "ASAN_OPTIONS" not in os.environ:
            assert rss < 40 * 1024
        assert sorted(r.calls("delete")) == sorted(f"podvm-web-{n}" for n in range(300))


CASES = [v for k, v in list(globals().items()) if callable(v) and getattr(v, "__module__", "") == "__main__" and k not in ("rig", "leader")]
ALONE = [three_thousand_peerpods]

if __name__ == "__main__":
    sys.exit(run([c for c in CASES if c not in ALONE], ALONE, sys.argv[5:]))
