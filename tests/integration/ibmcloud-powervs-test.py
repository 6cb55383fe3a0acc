#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The module ibmcloud-powervs against a peer whose schema is the vendor's (ibm_peer.py).

Usage: ibmcloud-powervs-test.py PROVIDERD MODULE.so [CASE]"""
import base64
import concurrent.futures
import contextlib
import sys

sys.dont_write_bytecode = True
import cloud_rig
import ibm_peer
from cloud_rig import wait_for

PROVIDERD, MODULE = sys.argv[1:3]


@contextlib.contextmanager
def world(args=(), **environment):
    with ibm_peer.Peer() as peer, cloud_rig.Daemon(PROVIDERD, MODULE, peer.power_environment(**environment), args) as daemon:
        yield peer, peer.cloud, daemon


def creates_finds_and_removes():
    """An instance runs, has its address from the DHCP server's leases and its owner's tags, is found, and leaves nothing"""
    with world() as (peer, c, d):
        id, type, addresses = d.create("s1")
        assert type == "s922-0.50x2" and addresses == ["192.168.1.1"], (type, addresses)
        body = c.servers[id]["body"]
        assert body["processors"] == 0.5 and body["memory"] == 2 and body["procType"] == "shared" and body["keyPairName"] == "key", body
        assert base64.b64decode(body["userData"]) == cloud_rig.USER_DATA
        assert d.find() == [("s1", "podvm-s1", id)] and d.find("node2") == []
        d.create("s2")
        assert sum(r.path.endswith("/services/dhcp") for r in peer.requests) == 1 and sum(r.path.endswith("/apikeys/details") for r in peer.requests) == 1
        d.delete("s1", id=id)
        d.delete("s2")
        assert c.left() == "" and d.find() == []
        d.delete("s1", id=id)
        d.delete("s1")


def has_fixed_addresses():
    """Fixed addresses need no DHCP server; the external one where that is asked for"""
    with world() as (peer, c, d):
        c.fixed = True
        assert d.create("s1")[2] == ["192.168.0.1"]
        assert not any("dhcp" in r.path for r in peer.requests)
    with world(USE_PUBLIC_IP="true") as (peer, c, d):
        c.fixed = True
        assert d.create("s1")[2] == ["203.0.113.1"]


def creates_once():
    """A second create of the same sandbox gets the same instance; another sandbox of that name is refused and harms nothing"""
    with world() as (peer, c, d):
        id = d.create("s1", name="podvm-x")[0]
        assert d.create("s1", name="podvm-x")[0] == id and len(c.created) == 1
        cloud_rig.expect("AlreadyExists", "", d.create, "s2", name="podvm-x")
        assert "left alone" in cloud_rig.expect("FailedPrecondition", "", d.delete, "s2", "podvm-x", id)
        cloud_rig.expect("FailedPrecondition", "", d.delete, "s2", "podvm-x")
        assert list(c.servers) == [id]


def waits_for_tags():
    """Tags that come later than the instance do not make it another owner's"""
    with world() as (peer, c, d):
        id = d.create("s1")[0]
        c.build_gets, c.servers[id]["gets"] = 0, -3
        assert d.create("s1")[0] == id
        c.servers[id]["gets"] = -3
        d.delete("s1")
        assert c.left() == "" and len(c.created) == 1


def has_sizes():
    """Fractions of processors, memory rounded up, types by name; what is none is refused"""
    with world(POWERVS_PROCESSORS="0.3", POWERVS_MEMORY="2.5", POWERVS_PROCESSOR_TYPE="capped", POWERVS_SYSTEM_TYPE="e980") as (peer, c, d):
        def size(*a, **k):
            b = c.servers[d.create(*a, **k)[0]]["body"]
            return b["sysType"], b["processors"], b["memory"]
        assert size("a") == ("e980", 0.5, 3)
        assert size("b", vcpus=2, memory_mib=1536) == ("e980", 2, 2)
        assert size("c", machine_type="s922-0.25x4") == ("s922", 0.25, 4)
        assert size("e", machine_type="s1022-1.5x7.5", vcpus=1, memory_mib=1024) == ("s1022", 1.5, 8)
        for bad in ("s922", "s922-4", "s922-x4", "s922-4x", "-1x2", "s922-0x2", "s922-1x2x3", "s922-1e3x2"):
            cloud_rig.expect("InvalidArgument", "", d.create, "z", machine_type=bad)
        cloud_rig.expect("FailedPrecondition", "", d.create, "z", gpus=1)
    with world(POWERVS_PROCESSOR_TYPE="dedicated") as (peer, c, d):
        assert c.servers[d.create("a")[0]]["body"]["processors"] == 1


def refuses_what_it_cannot():
    """User data beyond the limit, volumes, a second interface: nothing is asked of the cloud"""
    with world() as (peer, c, d):
        cloud_rig.expect("Exhausted", "", d.create, "s1", user_data=b"#cloud-config\n" + b"#" * 64512)
        cloud_rig.expect("FailedPrecondition", "", d.create, "s1", volumes=["v"])
        cloud_rig.expect("FailedPrecondition", "", d.create, "s1", multi_nic=True)
        cloud_rig.expect("InvalidArgument", "", d.create, "s1", name="podvm-" + "x" * 42)
        assert not peer.requests


def deletes_what_is_stuck():
    """An instance in BUILD that refuses to be deleted is asked until it goes; one that never goes is an error, and is found"""
    with world(POWERVS_BUILD_TIMEOUT="1s") as (peer, c, d):
        c.build_gets, c.build_locked = 10 ** 6, 4
        assert "POWERVS_BUILD_TIMEOUT" in cloud_rig.expect("TimedOut", "", d.create, "s1")
        assert c.left() == "" and len(c.created) == 1
    with world(["--delete-timeout", "2s"]) as (peer, c, d):
        id = d.create("s1")[0]
        c.build_gets, c.servers[id]["refused"] = 10 ** 6, 10 ** 6
        assert "cannot be deleted yet" in cloud_rig.expect("TimedOut", "", d.delete, "s1", id=id)
        assert d.find() == [("s1", "podvm-s1", id)]


def reports_failed_instances():
    """An instance in ERROR is an error with the cloud's reason, and is removed"""
    with world() as (peer, c, d):
        c.server_error = True
        assert "No valid host" in cloud_rig.expect("Unavailable", "", d.create, "s1")
        assert c.left() == ""


def learns_images():
    """A pod's image is for that pod only; one that is not there is an error"""
    with world() as (peer, c, d):
        assert c.servers[d.create("a", image="img-2")[0]]["body"]["imageID"] == "img-2"
        assert c.servers[d.create("b")[0]]["body"]["imageID"] == "img-1"
        assert "image not found" in cloud_rig.expect("FailedPrecondition", "", d.create, "c", image="img-3")


def renews_tokens():
    """A refused token is fetched anew; a wrong key is said to be wrong, and not shown"""
    with world() as (peer, c, d):
        d.create("s1")
        peer.revoke()
        d.create("s2")
        assert c.n_tokens == 2
    with world(IBMCLOUD_API_KEY="wrong-key") as (peer, c, d):
        assert "BXNIM0415E" in cloud_rig.expect("Unauthenticated", "", d.create, "s1") and "wrong-key" not in d.log()
    with world(IBMCLOUD_API_KEY=None, IBMCLOUD_IAM_PROFILE_ID=ibm_peer.PROFILE, POWERVS_ACCOUNT_ID=ibm_peer.ACCOUNT) as (peer, c, d):
        d.create("s1")
        assert any(r.path.startswith("/md/") for r in peer.requests)


def restarts_between():
    """What a killed daemon has begun is adopted by the next one, or found and removed"""
    with ibm_peer.Peer() as peer:
        c = peer.cloud
        for n, end in enumerate(("adopt", "remove")):
            c.build_gets = 10 ** 6
            d = cloud_rig.Daemon(PROVIDERD, MODULE, peer.power_environment())
            job = d.start(d.create, f"s{n}")
            wait_for(lambda: c.servers, "the instance is there")
            d.kill()
            assert job.exception(30)
            d.close()
            with cloud_rig.Daemon(PROVIDERD, MODULE, peer.power_environment()) as d:
                (found,) = d.find()
                c.build_gets = 0
                if end == "adopt":
                    assert d.create(f"s{n}")[0] == found[2]
                d.delete(*found)
            assert c.left() == ""
        assert len(c.created) == 2


def survives_throttling():
    """100 creations at once against a peer that lets three requests in four pass"""
    with world(["--workers", "64"]) as (peer, c, d):
        c.throttle = lambda r: r.index % 4 == 3
        jobs = [d.start(d.create, f"s{i}") for i in range(100)]
        for j in jobs:
            j.result(100)
        assert len(c.servers) == 100 and len(c.created) == 100


def count_requests(peer, d):
    peer.reset()
    d.create("warm")
    d.delete("warm")
    peer.reset()
    id = d.create("count")[0]
    n = peer.count
    d.delete("count", id=id)
    return n


def run_fault(fault):
    with world() as (peer, c, d):
        return cloud_rig.run_faults(d, peer, c.left, [fault], range(count_requests(peer, d)))


def survives_faults():
    """Each request of a creation breaks once in each way: it runs, or nothing is left"""
    with concurrent.futures.ThreadPoolExecutor(len(cloud_rig.FAULTS)) as pool:
        results = [r for l in pool.map(run_fault, cloud_rig.FAULTS) for r in l]
    runs = sum(o == "runs" for *_, o in results)
    print(f"     {len(results)} faults, {runs} run all the same", flush=True)
    assert runs > len(results) // 2
    assert all(o == "runs" for f, i, o in results if f in ("reset", "truncate", "garbage") or f[0] == "taken" or f[1] in (429, 401)), results


def survives_cold_faults():
    """Likewise the requests that only the first creation makes: token, account"""
    def one(case):
        with world() as (peer, c, d):
            peer.reset({case[1]: case[0]})
            try:
                d.create("s1")
            except cloud_rig.Error:
                assert c.left() == ""
            peer.reset()
            d.create("s1")
            d.delete("s1")
            assert c.left() == ""
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(one, [(f, i) for f in cloud_rig.FAULTS for i in (0, 1)]))


def ends_slow_answers():
    """An answer that comes a byte a second does not outlast the call, and leaves nothing"""
    def one(index):
        with world(["--create-timeout", "8s"]) as (peer, c, d):
            d.create("warm")
            d.delete("warm")
            peer.reset({index: "slow"})
            with contextlib.suppress(cloud_rig.Error):
                d.create("s1")
                d.delete("s1")
            assert c.left() == "", c.left()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))


def ends_when_cancelled():
    """A creation that is cancelled at any request ends soon, and leaves nothing"""
    with world() as (peer, c, d):
        n = count_requests(peer, d)
        cloud_rig.run_cancels(d, peer, c.left, range(n), within=10)


def checks_settings():
    """--check: good; and what is wrong by its name"""
    with ibm_peer.Peer() as peer:
        status, output = cloud_rig.check(PROVIDERD, MODULE, peer.power_environment())
        assert status == 0, output
        for change, word in [({"POWERVS_IMAGE_ID": "img-missing"}, "POWERVS_IMAGE_ID"), ({"POWERVS_NETWORK_ID": "net-missing"}, "POWERVS_NETWORK_ID"), ({"IBMCLOUD_API_KEY": "wrong"}, "BXNIM0415E")]:
            status, output = cloud_rig.check(PROVIDERD, MODULE, peer.power_environment(**change))
            assert status != 0 and word in output, (change, status, output)
        for change, word in [({"IBMCLOUD_API_KEY": None}, "IBMCLOUD_IAM_PROFILE_ID"), ({"POWERVS_ZONE": None}, "POWERVS_ZONE"), ({"POWERVS_PROCESSOR_TYPE": "big"}, "POWERVS_PROCESSOR_TYPE"),
                             ({"POWERVS_PROCESSORS": "0"}, "POWERVS_PROCESSORS"), ({"POWERVS_MEMORY": "lots"}, "POWERVS_MEMORY"), ({"POWERVS_SERVICE_INSTANCE_ID": "a/b"}, "POWERVS_SERVICE_INSTANCE_ID")]:
            status, output = cloud_rig.check(PROVIDERD, MODULE, peer.power_environment(**change))
            assert status == 78 and word in output, (change, status, output)


def judges_itself():
    """The peer refuses what the vendor's schema does not know"""
    import ibm_sdk
    models = ibm_sdk.PowerModels()
    good = {"serverName": "x", "imageID": "i", "memory": 2, "processors": 0.5, "procType": "shared"}
    models.check("PVMInstanceCreate", good)
    for bad in ({"procType": "big"}, {"memory": "2"}, {"unknown": 1}, {"networks": [{"id": "x"}]}, {"serverName": None}):
        try:
            models.check("PVMInstanceCreate", {**good, **bad})
        except ibm_sdk.Mismatch:
            continue
        raise AssertionError(f"taken: {bad}")
    models.close()


CASES = [creates_finds_and_removes, has_fixed_addresses, creates_once, waits_for_tags, has_sizes, refuses_what_it_cannot, deletes_what_is_stuck, reports_failed_instances, learns_images, renews_tokens,
         restarts_between, survives_throttling, survives_faults, survives_cold_faults, ends_slow_answers, ends_when_cancelled, checks_settings, judges_itself]

if __name__ == "__main__":
    ibm_peer.main(CASES, sys.argv[3] if len(sys.argv) > 3 else None)
