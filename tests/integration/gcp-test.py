#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Module gcp against gcp_peer.py, whose schema is that of the vendor's library.

Usage: gcp-test.py PROVIDERD MODULE.so [PART OF A CASE'S NAME]   (run by tests/peers/python)"""
import base64
import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import sys
import tempfile

import cloud_rig
import gcp_peer

PROVIDERD, MODULE = sys.argv[1:3]
KEY, PUBLIC = gcp_peer.make_key(None)
SANDBOX = "a" * 64


def settings(peer, **more):
    env = {
        "GCP_CREDENTIALS": gcp_peer.key_text(KEY, peer.url), "GCP_PROJECT_ID": gcp_peer.PROJECT, "GCP_ZONE": gcp_peer.ZONE, "GCP_NETWORK": "global/networks/pods",
        "PODVM_IMAGE_NAME": "podvm", "GCP_MACHINE_TYPE": "n2d-standard-2", "GCP_INSTANCE_TYPES": "n2d-standard-2, n2d-standard-4,n2d-highmem-2,a2-highgpu-1g,t2a-standard-4",
        "DISABLECVM": "true", "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": peer.url + "/compute/v1/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER": peer.url + "/", "GCE_METADATA_HOST": peer.url.removeprefix("http://"),
    }
    env.update(more)
    return {k: v for k, v in env.items() if v is not None}


@contextlib.contextmanager
def running(args=(), setup=None, **more):
    peer = gcp_peer.Google(PUBLIC)
    with cloud_rig.Server(peer) as server:
        peer.url = server.url
        if setup:
            setup(peer)
        with cloud_rig.Daemon(PROVIDERD, MODULE, settings(peer, **more), list(args)) as d:
            yield peer, server, d
            assert "PRIVATE KEY" not in d.log() and "ya29" not in d.log() and "cloud-config" not in d.log()


def made(peer):
    return peer.bodies[-1]


def an_instance_is_made_found_and_removed():
    with running() as (peer, _, d):
        id, kind, addresses = d.create(SANDBOX, name="podvm-a", user_data=b"#cloud-config\n")
        body = made(peer)
        assert id == "podvm-a" and kind == "n2d-standard-2" and len(addresses) == 1 and addresses[0].startswith("10.0.0."), (id, kind, addresses)
        items = {i["key"]: i["value"] for i in body["metadata"]["items"]}
        assert base64.b64decode(items["user-data"]) == b"#cloud-config\n" and items["user-data-encoding"] == "base64"
        assert body["labels"] == {"peerpod-node": hashlib.sha256(b"node1").hexdigest()[:32], "peerpod-sandbox": hashlib.sha256(SANDBOX.encode()).hexdigest()[:32]}
        disk = body["disks"][0]
        assert disk["boot"] and disk["auto_delete"] and disk["initialize_params"]["disk_size_gb"] == "20" or disk["initialize_params"]["disk_size_gb"] == 20, disk
        assert disk["initialize_params"]["source_image"] == f"projects/{gcp_peer.PROJECT}/global/images/podvm"
        assert d.find("node1") == [(SANDBOX, "podvm-a", "podvm-a")] and d.find("node2") == []
        d.delete(SANDBOX, "podvm-a", id)
        assert not peer.nothing_left()
        d.delete(SANDBOX, "podvm-a", id)
        d.delete(SANDBOX, "podvm-a")


def a_create_cut_off_is_completed_by_the_next_daemon():
    peer = gcp_peer.Google(PUBLIC)
    with cloud_rig.Server(peer) as server:
        peer.url = server.url
        peer.looks = 100000
        d = cloud_rig.Daemon(PROVIDERD, MODULE, settings(peer))
        job = d.start(d.create, "sandbox-a")
        cloud_rig.wait_for(lambda: peer.instances, "the insert has come")
        d.kill()
        with contextlib.suppress(Exception):
            job.result(30)
        d.close()
        peer.looks = 1
        with cloud_rig.Daemon(PROVIDERD, MODULE, settings(peer)) as again:
            assert len(again.find()) == 1
            again.create("sandbox-a")
            assert len(peer.bodies) == 1
            again.delete("sandbox-a")
            assert not peer.nothing_left()


def another_owners_instance_is_left_alone():
    with running() as (peer, _, d):
        d.create("sandbox-a", name="podvm-a")
        cloud_rig.expect("AlreadyExists", "belongs to somebody else", d.create, "sandbox-b", name="podvm-a")
        cloud_rig.expect("FailedPrecondition", "belongs to somebody else", d.delete, "sandbox-b", "podvm-a")
        assert list(peer.instances) == ["podvm-a"]
        d.delete("sandbox-a", "podvm-a")


def the_machine_type_fits_the_pod():
    with running() as (_, _, d):
        for spec, kind in (({"vcpus": 3, "memory_mib": 1024}, "n2d-standard-4"), ({"vcpus": 1, "memory_mib": 10000}, "n2d-highmem-2"), ({"gpus": 1}, "a2-highgpu-1g"),
                           ({"gpus": 1, "gpu_model": "A100"}, "a2-highgpu-1g"), ({"machine_type": "n2d-standard-4"}, "n2d-standard-4"), ({}, "n2d-standard-2"),
                           ({"image": "podvm-arm", "vcpus": 4, "memory_mib": 4096}, "t2a-standard-4")):
            assert d.create("sandbox-a", **spec)[1] == kind, spec
            d.delete("sandbox-a")
        cloud_rig.expect("FailedPrecondition", "n2d-standard-4", d.create, "sandbox-a", vcpus=64, memory_mib=1024)
        cloud_rig.expect("InvalidArgument", "c3-metal", d.create, "sandbox-a", machine_type="c3-metal")
        cloud_rig.expect("FailedPrecondition", "T4", d.create, "sandbox-a", gpus=1, gpu_model="T4")


def a_vm_with_gpus_is_not_moved():
    with running() as (peer, _, d):
        d.create("sandbox-a", gpus=1)
        assert made(peer)["scheduling"]["on_host_maintenance"] == "TERMINATE"
        d.delete("sandbox-a")


def confidential_vms_are_asked_for():
    with running(DISABLECVM=None, GCP_CONFIDENTIAL_TYPE="SEV_SNP", ENABLE_SECURE_BOOT="true") as (peer, _, d):
        d.create("sandbox-a")
        body = made(peer)
        assert body["confidential_instance_config"] == {"enable_confidential_compute": True, "confidential_instance_type": "SEV_SNP"}, body
        assert body["scheduling"]["on_host_maintenance"] == "TERMINATE" and body["shielded_instance_config"]["enable_secure_boot"]
        d.delete("sandbox-a")
        cloud_rig.expect("FailedPrecondition", "has no confidential VMs", d.create, "sandbox-a", machine_type="t2a-standard-4", image="podvm-arm")


def settings_that_can_never_work_end_the_start():
    peer = gcp_peer.Google(PUBLIC)
    with cloud_rig.Server(peer) as server:
        peer.url = server.url
        for more, text in (({"DISABLECVM": None}, "GCP_CONFIDENTIAL_TYPE"), ({"DISABLECVM": None, "GCP_CONFIDENTIAL_TYPE": "SEV", "GCP_MACHINE_TYPE": "e2-medium"}, "GCP_MACHINE_TYPE"),
                           ({"GCP_CREDENTIALS": "{"}, "GCP_CREDENTIALS"), ({"GCP_CREDENTIALS": "{\"type\": \"authorized_user\"}"}, "authorized_user"),
                           ({"GCP_PROJECT_ID": None}, "GCP_PROJECT_ID"), ({"GCP_ZONE": "a b"}, "GCP_ZONE"), ({"GCP_LABELS": "Team=x"}, "GCP_LABELS"),
                           ({"GCP_NETWORK_TIER": "GOLD"}, "GCP_NETWORK_TIER"), ({"TAGS": "novalue"}, "TAGS"), ({"ROOT_VOLUME_SIZE": "ten"}, "ROOT_VOLUME_SIZE")):
            status, output = cloud_rig.check(PROVIDERD, MODULE, settings(peer, **more))
            assert status == 78 and text in output, (more, status, output)
            assert "PRIVATE KEY" not in output


def public_addresses_come_first_and_private_ones_after():
    with running(USE_PUBLIC_IP="true", GCP_NETWORK_TIER="PREMIUM") as (peer, _, d):
        addresses = d.create("sandbox-a")[2]
        assert addresses[0].startswith("203.0.113.") and addresses[1].startswith("10.0."), addresses
        assert made(peer)["network_interfaces"][0]["access_configs"][0]["network_tier"] == "PREMIUM"
        d.delete("sandbox-a")


def a_second_interface_is_on_the_external_network():
    with running(GCP_EXTERNAL_NETWORK="global/networks/out", GCP_EXTERNAL_SUBNETWORK="out1", GCP_SUBNETWORK="pods1") as (peer, _, d):
        addresses = d.create("sandbox-a", multi_nic=True)[2]
        assert len(addresses) == 2 and addresses[1].startswith("10.1."), addresses
        nics = made(peer)["network_interfaces"]
        assert nics[0]["subnetwork"] == f"projects/{gcp_peer.PROJECT}/regions/europe-west4/subnetworks/pods1" and nics[1]["network"] == "global/networks/out"
        d.delete("sandbox-a")
    with running() as (peer, _, d):
        cloud_rig.expect("FailedPrecondition", "GCP_EXTERNAL_NETWORK", d.create, "sandbox-a", multi_nic=True)


def tags_and_labels_are_there_from_the_insert_on():
    with running(TAGS="env=prod, 123/team=pods", GCP_LABELS="cost=42", GCP_NETWORK_TAGS="podvm,inside") as (peer, _, d):
        d.create("sandbox-a")
        body = made(peer)
        assert body["params"]["resource_manager_tags"] == {f"{gcp_peer.PROJECT}/env": "prod", "123/team": "pods"}, body["params"]
        assert body["labels"]["cost"] == "42" and body["tags"]["items"] == ["podvm", "inside"]
        d.delete("sandbox-a")


def every_form_of_an_images_name_is_taken():
    with running() as (peer, _, d):
        for name, resource in (("projects/shared/global/images/x", "projects/shared/global/images/x"), ("global/images/x", f"projects/{gcp_peer.PROJECT}/global/images/x"),
                               ("https://www.googleapis.com/compute/v1/projects/shared/global/images/x", "projects/shared/global/images/x"),
                               ("family/podvm", f"projects/{gcp_peer.PROJECT}/global/images/podvm-v7"), ("projects/shared/global/images/family/f", "projects/shared/global/images/f-v7")):
            d.create("sandbox-a", image=name)
            assert made(peer)["disks"][0]["initialize_params"]["source_image"] == resource, (name, made(peer)["disks"])
            d.delete("sandbox-a")
        cloud_rig.expect("FailedPrecondition", "nowhere", d.create, "sandbox-a", image="nowhere")
        cloud_rig.expect("FailedPrecondition", "not ready", d.create, "sandbox-a", image="young")
        cloud_rig.expect("InvalidArgument", "no name of an image", d.create, "sandbox-a", image="a?b")
        assert d.create("sandbox-a")[0] and made(peer)["disks"][0]["initialize_params"]["source_image"].endswith("/podvm")
        d.delete("sandbox-a")


def disks_are_attached_in_their_order():
    with running() as (peer, _, d):
        peer.disks = {"d1": [], "d2": [], "used": [f"https://x/projects/p/zones/{gcp_peer.ZONE}/instances/other"]}
        d.create("sandbox-a", volumes=["d2", f"projects/{gcp_peer.PROJECT}/zones/{gcp_peer.ZONE}/disks/d1"])
        extra = made(peer)["disks"][1:]
        assert [x["source"].rsplit("/", 1)[1] for x in extra] == ["d2", "d1"] and not any(x.get("auto_delete") for x in extra), extra
        d.delete("sandbox-a")
        cloud_rig.expect("FailedPrecondition", "is attached to", d.create, "sandbox-a", volumes=["used"])
        cloud_rig.expect("FailedPrecondition", "There is no disk", d.create, "sandbox-a", volumes=["none"])
        cloud_rig.expect("FailedPrecondition", "is not in zone", d.create, "sandbox-a", volumes=["projects/p/zones/us-east1-b/disks/d1"])
        assert not peer.nothing_left()


def user_data_that_is_too_big_is_refused_before_any_call():
    with running() as (peer, server, d):
        cloud_rig.expect("Exhausted", "", d.create, "sandbox-a", user_data=b"#cloud-config\nwrite_files:\n  - path: /run/peerpod/initdata\n    content: |\n      " + b"x" * 200000 + b"\n")
        assert server.count == 0


def operations_that_fail_say_why_and_leave_nothing():
    with running() as (peer, _, d):
        for code, kind in (("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "Exhausted"), ("QUOTA_EXCEEDED", "Exhausted"), ("RESOURCE_NOT_FOUND", "FailedPrecondition"),
                           ("UNSUPPORTED_OPERATION", "FailedPrecondition")):
            peer.fail_operation = code
            cloud_rig.expect(kind, code, d.create, "sandbox-a")
            assert not peer.nothing_left()


def all_pages_are_read():
    with running() as (peer, _, d):
        peer.page = 2
        for i in range(5):
            d.create(f"sandbox-{i}")
        assert sorted(s for s, _, _ in d.find()) == [f"sandbox-{i}" for i in range(5)]
        for i in range(5):
            d.delete(f"sandbox-{i}")


def a_refused_token_is_fetched_anew_once():
    with running() as (peer, _, d):
        d.create("sandbox-a")
        assert peer.n_tokens == 1
        peer.tokens.clear()
        d.delete("sandbox-a")
        assert peer.n_tokens == 2 and not peer.nothing_left()


def the_machines_own_account_is_used_without_a_key():
    with running(GCP_CREDENTIALS=None) as (peer, _, d):
        d.create("sandbox-a")
        d.delete("sandbox-a")
        assert peer.metadata_tokens == 1


def an_external_account_is_exchanged_and_impersonates():
    with tempfile.TemporaryDirectory() as directory:
        subject, file = pathlib.Path(directory) / "subject", pathlib.Path(directory) / "account.json"
        subject.write_text("subject-1\n")
        peer = gcp_peer.Google(PUBLIC)
        with cloud_rig.Server(peer) as server:
            peer.url = server.url
            file.write_text(json.dumps({"type": "external_account", "audience": "//iam/x", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                                        "token_url": f"{server.url}/sts", "service_account_impersonation_url": f"{server.url}/impersonate",
                                        "credential_source": {"file": str(subject)}}))
            with cloud_rig.Daemon(PROVIDERD, MODULE, settings(peer, GCP_CREDENTIALS=None, GOOGLE_APPLICATION_CREDENTIALS=str(file))) as d:
                d.create("sandbox-a")
                d.delete("sandbox-a")
            assert peer.exchanges == ["/sts", "/impersonate"], peer.exchanges


def the_check_names_what_is_wrong():
    peer = gcp_peer.Google(PUBLIC)
    with cloud_rig.Server(peer) as server:
        peer.url = server.url
        status, output = cloud_rig.check(PROVIDERD, MODULE, settings(peer))
        assert status == 0, output
        for more, text in (({"GCP_ZONE": "mars-1-a"}, "GCP_ZONE"), ({"GCP_NETWORK": "global/networks/nowhere"}, "GCP_NETWORK"), ({"PODVM_IMAGE_NAME": "nowhere"}, "nowhere"),
                           ({"GCP_DISK_TYPE": "pd-warp"}, "GCP_DISK_TYPE"), ({"GCP_MACHINE_TYPE": "n9-huge"}, "GCP_MACHINE_TYPE"), ({"PODVM_IMAGE_NAME": None}, "PODVM_IMAGE_NAME")):
            status, output = cloud_rig.check(PROVIDERD, MODULE, settings(peer, **more))
            assert status != 0 and text in output, (more, output)
        peer.denied = {"compute.instances.delete", "compute.disks.create"}
        status, output = cloud_rig.check(PROVIDERD, MODULE, settings(peer))
        assert status != 0 and "compute.instances.delete, compute.disks.create" in output, output
        status, output = cloud_rig.check(PROVIDERD, MODULE, settings(peer, GCP_CREDENTIALS=gcp_peer.key_text({**KEY, "client_email": "x@y"}, peer.url)))
        assert status != 0


def throttles_are_waited_out():
    with running() as (peer, server, d):
        limit = {"error": {"code": 403, "message": "slow down", "errors": [{"reason": "rateLimitExceeded"}]}}
        server.reset({1: ("status", 403, limit, {"Retry-After": "1"}), 4: ("status", 429, "{}", {"Retry-After": "1"})})
        d.create("sandbox-a")
        d.delete("sandbox-a")


def a_hundred_creates_at_once_against_a_throttle():
    with running(["--workers", "64"]) as (peer, server, d):
        handler, state = server.handler, {"n": 0}

        def throttled(request):
            with server.lock:
                state["n"] += 1
                if state["n"] % 7 == 0:
                    return 429, "{}", {"Retry-After": "1"}
            return handler(request)

        server.handler = throttled
        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            list(pool.map(lambda i: d.create(f"sandbox-{i}"), range(100)))
            assert len(peer.instances) == 100 == len(peer.bodies)
            list(pool.map(lambda i: d.delete(f"sandbox-{i}"), range(100)))
        assert not peer.nothing_left()


def each_fault_at_each_call_leaves_nothing():
    with running() as (peer, server, d):
        peer.looks = peer.waits = 0
        cloud_rig.run_faults(d, server, peer.nothing_left)


def a_cancel_at_each_call_leaves_nothing():
    with running() as (peer, server, d):
        d.create("warm")
        d.delete("warm")
        server.reset()
        d.create("count")
        n = server.count
        d.delete("count")
        cloud_rig.run_cancels(d, server, peer.nothing_left, range(n))


CASES = [an_instance_is_made_found_and_removed, a_create_cut_off_is_completed_by_the_next_daemon, another_owners_instance_is_left_alone, the_machine_type_fits_the_pod,
         a_vm_with_gpus_is_not_moved, confidential_vms_are_asked_for, settings_that_can_never_work_end_the_start, public_addresses_come_first_and_private_ones_after,
         a_second_interface_is_on_the_external_network, tags_and_labels_are_there_from_the_insert_on, every_form_of_an_images_name_is_taken,
         disks_are_attached_in_their_order, user_data_that_is_too_big_is_refused_before_any_call, operations_that_fail_say_why_and_leave_nothing, all_pages_are_read,
         a_refused_token_is_fetched_anew_once, the_machines_own_account_is_used_without_a_key, an_external_account_is_exchanged_and_impersonates,
         the_check_names_what_is_wrong, throttles_are_waited_out, a_hundred_creates_at_once_against_a_throttle, each_fault_at_each_call_leaves_nothing,
         a_cancel_at_each_call_leaves_nothing]

cloud_rig.main(CASES, sys.argv[3] if len(sys.argv) > 3 else None)
