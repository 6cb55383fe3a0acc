#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The module ibmcloud against a peer whose schema is the vendor's (ibm_peer.py).

Usage: ibmcloud-test.py PROVIDERD MODULE.so [CASE]"""
import concurrent.futures
import contextlib
import pathlib
import sys
import tempfile

sys.dont_write_bytecode = True
import cloud_rig
import ibm_peer
from cloud_rig import wait_for

PROVIDERD, MODULE = sys.argv[1:3]


@contextlib.contextmanager
def world(args=(), **environment):
    with ibm_peer.Peer() as peer, cloud_rig.Daemon(PROVIDERD, MODULE, peer.environment(**environment), args) as daemon:
        yield peer, peer.cloud, daemon


def body_of(c, id):
    return c.instances[id]["body"]


# ---- life ----

def creates_finds_and_removes():
    """An instance runs, has its address and its owner's tags, is found, and leaves nothing"""
    with world() as (peer, c, d):
        id, type, addresses = d.create("sandbox1", name="podvm-web-sandbox1")
        assert type == "bx2-2x8" and addresses == ["10.0.0.1"], (type, addresses)
        body = body_of(c, id)
        assert body["user_data"].startswith("#cloud-config") and body["zone"] == {"name": "us-south-2"} and body["keys"] == [{"id": "r006-key"}]
        assert body["confidential_compute_mode"] == "disabled" and body["enable_secure_boot"] is False and body["resource_group"] == {"id": "rg1"}
        assert body["primary_network_interface"]["security_groups"] == [{"id": "r006-sg1"}] and "placement_target" not in body
        assert d.find() == [("sandbox1", "podvm-web-sandbox1", id)] and d.find("node2") == []
        (tags,) = c.tags.values()
        assert {"team-a", "peerpod-sandbox:sandbox1", "peerpod-name:podvm-web-sandbox1"} <= tags, tags
        d.delete("sandbox1", "podvm-web-sandbox1", id)
        assert c.left() == "" and d.find() == []
        d.delete("sandbox1", "podvm-web-sandbox1", id)
        d.delete("sandbox1", "podvm-web-sandbox1")


def creates_once():
    """A second create of the same sandbox gets the same instance; another sandbox of that name is refused and harms nothing"""
    with world() as (peer, c, d):
        id = d.create("s1", name="podvm-x")[0]
        assert d.create("s1", name="podvm-x")[0] == id and len(c.created) == 1
        cloud_rig.expect("AlreadyExists", "", d.create, "s2", name="podvm-x")
        assert "left alone" in cloud_rig.expect("FailedPrecondition", "", d.delete, "s2", "podvm-x", id)
        cloud_rig.expect("FailedPrecondition", "", d.delete, "s2", "podvm-x")
        cloud_rig.expect("FailedPrecondition", "", d.delete, "s1", "podvm-other", id)
        assert list(c.instances) == [id]
        d.delete("s1", "podvm-x")
        assert c.left() == ""


def finds_all_pages_and_orphans():
    """All pages are read; a boot volume without an instance is found and removed"""
    with world() as (peer, c, d):
        ids = {d.create(f"s{i}")[0] for i in range(5)}
        d.create("foreign", node="node2")
        with peer.lock:
            c.volumes["r006-orphan"] = {"id": "r006-orphan", "instance": "gone",
                                        "tags": [*(t for t in next(iter(c.volumes.values()))["tags"] if "node" in t), "peerpod-sandbox:s9", "peerpod-name:podvm-s9"]}
        found = d.find()
        assert {f[2] for f in found} == ids | {""} and ("s9", "podvm-s9", "") in found, found
        d.delete("s9")
        assert "r006-orphan" not in c.volumes and len(c.instances) == 6


def survives_eventual_consistency():
    """An instance that is unknown at first, has no address, and then one"""
    with world() as (peer, c, d):
        c.hidden_gets, c.address_gets, c.running_gets = 3, 3, 5
        _, _, addresses = d.create("s1")
        assert addresses == ["10.0.0.1"] and len(c.created) == 1


def waits_for_boot_volumes():
    """An instance that has no boot volume yet is nobody's until it has: then it is adopted, or removed"""
    with world() as (peer, c, d):
        id = d.create("s1")[0]
        c.volume_gets = 4
        c.instances[id]["gets"] = 0
        assert d.create("s1")[0] == id and len(c.created) == 1
        c.instances[id]["gets"] = 0
        d.delete("s1")
        assert c.left() == ""


def finds_what_it_lost():
    """A creation whose answer is lost is found although lists lag behind; where it is not found, its name tells"""
    for hidden in (2, 5):
        with world() as (peer, c, d):
            d.create("warm")
            peer.reset()
            d.create("count")
            (index,) = [r.index for r in peer.requests if (r.method, r.path) == ("POST", "/v1/instances")]
            c.hidden_gets, n = hidden, len(c.created)
            peer.reset({index: "reset"})
            assert d.create("s1")[2] and len(c.created) == n + 1
            d.delete("s1")
            assert len(c.instances) == 2


def restarts_between():
    """What a killed daemon has begun is adopted by the next one, or found and removed"""
    with ibm_peer.Peer() as peer:
        c = peer.cloud
        c.running_gets = 10 ** 6
        for n, end in enumerate(("adopt", "remove")):
            d = cloud_rig.Daemon(PROVIDERD, MODULE, peer.environment())
            job = d.start(d.create, f"s{n}")
            wait_for(lambda: c.instances, "the instance is there")
            d.kill()
            assert job.exception(30)
            d.close()
            with cloud_rig.Daemon(PROVIDERD, MODULE, peer.environment()) as d:
                (found,) = d.find()
                assert found[0] == f"s{n}"
                if end == "adopt":
                    for i in c.instances.values():
                        i["seen"]["running"] = 0
                    assert d.create(f"s{n}")[0] == found[2]
                d.delete(*found)
            assert c.left() == ""
        assert len(c.created) == 2


# ---- what is made ----

def chooses_profiles():
    """Smallest fit, by name, not allowed, none fits, GPUs"""
    with world(IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST="bx2-4x16,cx2-4x8,gx2-8x64x1v100") as (peer, c, d):
        assert d.create("a", vcpus=3, memory_mib=8192)[1] == "cx2-4x8"
        assert d.create("b", vcpus=1, memory_mib=9000)[1] == "bx2-4x16"
        assert d.create("c", machine_type="bx2-4x16")[1] == "bx2-4x16"
        assert d.create("g", gpus=1)[1] == "gx2-8x64x1v100"
        cloud_rig.expect("InvalidArgument", "", d.create, "d", machine_type="bx3dc-2x10")
        assert "cx2" in cloud_rig.expect("FailedPrecondition", "", d.create, "e", vcpus=100, memory_mib=1024) or True
        cloud_rig.expect("FailedPrecondition", "", d.create, "f", gpus=2)
        assert sum(r.path == "/v1/instance/profiles" for r in peer.requests) == 1, "the listing is kept"


def matches_images():
    """The image for the profile's architecture; a pod's own for that pod only; one that is not usable is refused"""
    with world(IBMCLOUD_PODVM_IMAGE_ID="r006-img-old,r006-img-s390x,r006-img-amd64", IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST="bz2-2x8,bx2-2x8") as (peer, c, d):
        assert body_of(c, d.create("a")[0])["image"] == {"id": "r006-img-amd64"}
        assert body_of(c, d.create("b", machine_type="bz2-2x8")[0])["image"] == {"id": "r006-img-s390x"}
        assert body_of(c, d.create("c", image="r006-img-s390x", machine_type="bz2-2x8")[0])["image"] == {"id": "r006-img-s390x"}
        assert "obsolete" in cloud_rig.expect("FailedPrecondition", "", d.create, "e", image="r006-img-old")
        assert "does not exist" in cloud_rig.expect("FailedPrecondition", "", d.create, "f", image="r006-none")
        cloud_rig.expect("InvalidArgument", "", d.create, "g", image="../instances")
        assert body_of(c, d.create("h")[0])["image"] == {"id": "r006-img-amd64"}


def makes_confidential_vms():
    """TDX and secure boot where the profile has them, Secure Execution by profile, an error elsewhere"""
    with world(DISABLECVM="false", IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST="bx3dc-2x10,bx2-2x8,bz2e-2x8,bz2-2x8", IBMCLOUD_PODVM_IMAGE_ID="r006-img-amd64,r006-img-s390x") as (peer, c, d):
        body = body_of(c, d.create("a", machine_type="bx3dc-2x10")[0])
        assert body["confidential_compute_mode"] == "tdx" and body["enable_secure_boot"] is True
        assert "TDX" in cloud_rig.expect("FailedPrecondition", "", d.create, "b")
        assert body_of(c, d.create("c", machine_type="bz2e-2x8")[0])["confidential_compute_mode"] == "disabled"
        assert "Secure Execution" in cloud_rig.expect("FailedPrecondition", "", d.create, "d", machine_type="bz2-2x8")


def has_second_interface():
    """Both addresses, the primary one first; without a second subnet it is refused"""
    with ibm_peer.Peer() as peer, cloud_rig.Daemon(PROVIDERD, MODULE, peer.environment(), ["--secondary-subnet-id", "0727-subnet2", "--secondary-security-group-id", "r006-sg2"]) as d:
        id, _, addresses = d.create("s1", multi_nic=True)
        assert addresses == ["10.0.0.1", "10.1.0.1"], addresses
        assert body_of(peer.cloud, id)["network_interfaces"] == [{"allow_ip_spoofing": True, "subnet": {"id": "0727-subnet2"}, "security_groups": [{"id": "r006-sg2"}]}]
    with world() as (peer, c, d):
        assert "secondary-subnet-id" in cloud_rig.expect("FailedPrecondition", "", d.create, "s1", multi_nic=True)


def learns_place_from_subnet():
    """Zone, VPC and resource group come from the subnet where they are not configured"""
    with world(IBMCLOUD_ZONE=None, IBMCLOUD_VPC_ID=None, IBMCLOUD_RESOURCE_GROUP_ID=None) as (peer, c, d):
        body = body_of(c, d.create("s1")[0])
        assert body["zone"] == {"name": "us-south-2"} and body["vpc"] == {"id": "r006-vpc"} and body["resource_group"] == {"id": "rg-of-subnet"}


def uses_dedicated_hosts():
    """The host of the zone; its group only when the host is full, at once or later; else the error"""
    with world(IBMCLOUD_DEDICATED_HOST_IDS="h-other,h-here", IBMCLOUD_DEDICATED_HOST_GROUP_IDS="g-other,g-here") as (peer, c, d):
        assert body_of(c, d.create("a")[0])["placement_target"] == {"id": "h-here"}
        c.outcome["h-here"] = "cannot_start_capacity"
        assert body_of(c, d.create("b")[0])["placement_target"] == {"id": "g-here"}
        c.outcome["g-here"] = "cannot_start_capacity"
        assert "cannot_start_capacity" in cloud_rig.expect("Exhausted", "", d.create, "c")
        c.outcome["h-here"] = "cannot_start_network"
        n = len(c.created)
        cloud_rig.expect("Unavailable", "", d.create, "d")
        assert len(c.created) == n + 1 and len(c.instances) == 2
    with world(IBMCLOUD_DEDICATED_HOST_IDS="h-other") as (peer, c, d):
        assert "h-other" in cloud_rig.expect("FailedPrecondition", "", d.create, "a")


def adds_cluster_group():
    """The cluster's security group and tag where a cluster is configured; a cluster that cannot be asked does no harm"""
    with world(IBMCLOUD_CLUSTER_ID="c1") as (peer, c, d):
        assert body_of(c, d.create("s1")[0])["primary_network_interface"]["security_groups"] == [{"id": "r006-sg1"}, {"id": "r006-kube"}]
        assert "coco-pod-vm:c1" in next(iter(c.tags.values()))
    with world(IBMCLOUD_CLUSTER_ID="unknown") as (peer, c, d):
        assert body_of(c, d.create("s1")[0])["primary_network_interface"]["security_groups"] == [{"id": "r006-sg1"}]
        assert "not added" in d.log()


def tags_do_no_harm():
    """A tagging service that fails is asked again, and never costs an instance"""
    with world() as (peer, c, d):
        c.tag_fails = 1
        d.create("s1")
        assert len(c.tags) == 1
        c.tag_fails = 9
        d.create("s2")
        assert len(c.tags) == 1 and len(c.instances) == 2 and "not found yet" in d.log()


def refuses_what_it_cannot():
    """User data beyond the limit, volumes: nothing is asked of the cloud"""
    with world() as (peer, c, d):
        text = cloud_rig.expect("Exhausted", "", d.create, "s1", user_data=b"#cloud-config\n" + b"#" * 65536)
        assert "65536" in text or "64" in text, text
        cloud_rig.expect("FailedPrecondition", "", d.create, "s1", volumes=["r006-vol"])
        assert not c.created and not peer.requests


# ---- failures ----

def reports_failed_instances():
    """A failed instance is an error with the cloud's reason, and is removed"""
    with world() as (peer, c, d):
        c.outcome[None] = "cannot_start_capacity"
        assert "cannot_start_capacity" in cloud_rig.expect("Exhausted", "", d.create, "s1")
        assert c.left() == ""
    with world(["--create-timeout", "2s"]) as (peer, c, d):
        c.running_gets = 10 ** 6
        cloud_rig.expect("TimedOut", "", d.create, "s1")
        assert c.left() == ""


def renews_tokens():
    """One token for all; a refused one is fetched anew, and so is one that ends"""
    with world() as (peer, c, d):
        d.create("s1")
        assert c.n_tokens == 1
        peer.revoke()
        d.create("s2")
        assert c.n_tokens == 2
    with world() as (peer, c, d):
        c.lifetime = 1
        for i in range(20):
            d.create(f"s{i}")
            if c.n_tokens >= 3:
                break
        assert c.n_tokens >= 3, "a token that lives for a second"
    with world(IBMCLOUD_API_KEY="wrong-key") as (peer, c, d):
        text = cloud_rig.expect("Unauthenticated", "", d.create, "s1")
        assert "BXNIM0415E" in text and "wrong-key" not in text + d.log(), text


def uses_trusted_profiles():
    """A compute resource token from its file, read anew; or the identity of this VPC instance"""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "token"
        path.write_text("stale")
        with ibm_peer.Peer() as peer, cloud_rig.Daemon(PROVIDERD, MODULE, peer.environment(IBMCLOUD_API_KEY=None, IBMCLOUD_IAM_PROFILE_ID=ibm_peer.PROFILE), ["--cr-token-filename", str(path)]) as d:
            cloud_rig.expect("Unauthenticated", "", d.create, "s1")
            path.write_text(ibm_peer.CR_TOKEN + "\n")
            d.create("s1")
            path.unlink()
            peer.revoke()
            d.create("s2")
            assert any(r.path.startswith("/md/") for r in peer.requests)


def keeps_secrets():
    """Neither key, token, nor user data is in the log, at debug level either"""
    with world(SYSTEMD_LOG_LEVEL="debug", LOG_LEVEL="debug") as (peer, c, d):
        d.create("s1", user_data=b"#cloud-config\n# very-secret-user-data\n")
        d.verify()
        log = d.log()
        assert ibm_peer.API_KEY not in log and "very-secret-user-data" not in log and not any(t in log for t in c.tokens)


def survives_throttling():
    """100 creations at once against a peer that lets three requests in four pass"""
    with world(["--workers", "64"]) as (peer, c, d):
        c.page = 100
        c.throttle = lambda r: r.index % 4 == 3
        jobs = [d.start(d.create, f"s{i}") for i in range(100)]
        for j in jobs:
            j.result(100)
        assert len(c.instances) == 100 and len(c.created) == 100


def run_fault(fault):
    with world() as (peer, c, d):
        c.page = 50
        peer.reset()
        d.create("warm")
        d.delete("warm")
        peer.reset()
        id = d.create("count")[0]
        n = peer.count
        d.delete("count", id=id)
        return cloud_rig.run_faults(d, peer, c.left, [fault], range(n))


def survives_faults():
    """Each request of a creation breaks once in each way: it runs, or nothing is left"""
    with concurrent.futures.ThreadPoolExecutor(len(cloud_rig.FAULTS)) as pool:
        results = [r for l in pool.map(run_fault, cloud_rig.FAULTS) for r in l]
    runs = sum(o == "runs" for *_, o in results)
    print(f"     {len(results)} faults, {runs} run all the same", flush=True)
    assert runs > len(results) // 2
    # what may be asked again is; of a POST only what was surely not done
    assert all(o == "runs" for f, i, o in results if f in ("reset", "truncate", "garbage") or (isinstance(f, tuple) and f[1] in (429, 401, 503))), results


def survives_cold_faults():
    """Likewise the requests that only the first creation makes: token, images, profiles"""
    def one(fault):
        with world() as (peer, c, d):
            peer.reset({i: fault for i in (0,)})
            try:
                d.create("s1")
            except cloud_rig.Error:
                assert c.left() == ""
            peer.reset()
            d.create("s1")
            d.delete("s1")
            assert c.left() == ""
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(one, cloud_rig.FAULTS))


def ends_slow_answers():
    """An answer that comes a byte a second does not outlast the call, and leaves nothing"""
    def one(index):
        with world(["--create-timeout", "8s"]) as (peer, c, d):
            c.running_gets = 2
            d.create("warm")
            d.delete("warm")
            peer.reset({index: "slow"})
            with contextlib.suppress(cloud_rig.Error):
                d.create("s1")
                d.delete("s1")
            assert c.left() == "", c.left()
    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        list(pool.map(one, range(7)))


def ends_when_cancelled():
    """A creation that is cancelled at any request ends soon, and leaves nothing"""
    with world() as (peer, c, d):
        c.page = 50
        d.create("warm")
        d.delete("warm")
        peer.reset()
        id = d.create("count")[0]
        n = peer.count
        d.delete("count", id=id)
        cloud_rig.run_cancels(d, peer, c.left, range(n), within=10)


def checks_settings():
    """--check: good; and what is wrong by its name"""
    with ibm_peer.Peer() as peer:
        status, output = cloud_rig.check(PROVIDERD, MODULE, peer.environment())
        assert status == 0, output
        for change, word in [({"IBMCLOUD_PODVM_IMAGE_ID": "r006-none"}, "r006-none"), ({"IBMCLOUD_PODVM_IMAGE_ID": "r006-img-old"}, "obsolete"),
                             ({"IBMCLOUD_VPC_SUBNET_ID": "0727-nothing"}, "IBMCLOUD_VPC_SUBNET_ID"), ({"IBMCLOUD_VPC_SUBNET_ID": "0727-subnet-full"}, "no free address"),
                             ({"IBMCLOUD_ZONE": "us-south-1"}, "IBMCLOUD_ZONE"), ({"IBMCLOUD_SECURITY_GROUP_IDS": "r006-sg1,r006-missing"}, "r006-missing"),
                             ({"IBMCLOUD_SSH_KEY_ID": "r006-missing"}, "IBMCLOUD_SSH_KEY_ID"), ({"IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST": "bx2-2x8,nope"}, "nope"),
                             ({"DISABLECVM": "false"}, "TDX"), ({"IBMCLOUD_API_KEY": "wrong"}, "BXNIM0415E"), ({"IBMCLOUD_DEDICATED_HOST_IDS": "h-other"}, "h-other")]:
            status, output = cloud_rig.check(PROVIDERD, MODULE, peer.environment(**change))
            assert status != 0 and word in output, (change, status, output)
        for change, word in [({"IBMCLOUD_API_KEY": None}, "IBMCLOUD_IAM_PROFILE_ID"), ({"IBMCLOUD_VPC_SUBNET_ID": "../x"}, "IBMCLOUD_VPC_SUBNET_ID"), ({"IBMCLOUD_VPC_ENDPOINT": "ftp://x"}, "IBMCLOUD_VPC_ENDPOINT"),
                             ({"IBMCLOUD_PODVM_IMAGE_ID": None}, "IBMCLOUD_PODVM_IMAGE_ID")]:
            status, output = cloud_rig.check(PROVIDERD, MODULE, peer.environment(**change))
            assert status == 78 and word in output, (change, status, output)


def judges_itself():
    """The peer refuses what the vendor's schema does not know"""
    import ibm_sdk
    good = {"name": "x", "image": {"id": "i"}, "zone": {"name": "z"}, "primary_network_interface": {"subnet": {"id": "s"}}}
    model = ibm_sdk.vpc_v1.InstancePrototypeInstanceByImageInstanceByImageInstanceByNetworkInterface
    ibm_sdk.check_model(good, model)
    for bad in ({"nam": "x"}, {"name": 1}, {"image": {"identity": "i"}}, {"enable_secure_boot": "true"}, {"metadata_service": {"enable": True}}, {"keys": {"id": "k"}},
                {"boot_volume_attachment": {"volume": {"user_tags": []}}}):
        try:
            ibm_sdk.check_model({**good, **bad}, model)
        except ibm_sdk.Mismatch:
            continue
        raise AssertionError(f"taken: {bad}")


CASES = [creates_finds_and_removes, creates_once, finds_all_pages_and_orphans, survives_eventual_consistency, waits_for_boot_volumes, finds_what_it_lost, restarts_between, chooses_profiles, matches_images,
         makes_confidential_vms, has_second_interface, learns_place_from_subnet, uses_dedicated_hosts, adds_cluster_group, tags_do_no_harm, refuses_what_it_cannot,
         reports_failed_instances, renews_tokens, uses_trusted_profiles, keeps_secrets, survives_throttling, survives_faults, survives_cold_faults, ends_slow_answers,
         ends_when_cancelled, checks_settings, judges_itself]

if __name__ == "__main__":
    ibm_peer.main(CASES, sys.argv[3] if len(sys.argv) > 3 else None)
