#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Module azure against azure_peer.py, whose schema is that of the vendor's SDK.

Usage: azure-test.py PROVIDERD MODULE.so [PART]   (run by tests/peers/python; PART: "faults", "rest", or a part of a case's name)"""
import base64
import contextlib
import os
import pathlib
import sys
import tempfile

import azure_peer
import cloud_rig

PROVIDERD, MODULE = sys.argv[1:3]


def settings(peer, **more):
    env = {
        "AZURE_CLIENT_ID": azure_peer.CLIENT, "AZURE_CLIENT_SECRET": azure_peer.SECRET, "AZURE_TENANT_ID": azure_peer.TENANT,
        "AZURE_SUBSCRIPTION_ID": azure_peer.SUBSCRIPTION, "AZURE_REGION": azure_peer.REGION, "AZURE_RESOURCE_GROUP": azure_peer.GROUP,
        "AZURE_SUBNET_ID": azure_peer.SUBNET, "AZURE_IMAGE_ID": azure_peer.IMAGE, "AZURE_AUTHORITY_HOST": peer.url + "/",
        "AZURE_RESOURCE_MANAGER_ENDPOINT": peer.url, "AZURE_POD_IDENTITY_AUTHORITY_HOST": peer.url,
    }
    env.update(more)
    return env


@contextlib.contextmanager
def running(args=(), setup=None, **more):
    peer = azure_peer.Azure()
    with cloud_rig.Server(peer) as server:
        peer.url = server.url
        if setup:
            setup(peer)
        with cloud_rig.Daemon(PROVIDERD, MODULE, settings(peer, **more), args) as d:
            yield peer, server, d
            assert azure_peer.SECRET not in d.log() and "Bearer" not in d.log()


def a_vm_is_made_found_and_removed():
    with running(TAGS="team=pods,cost=1") as (peer, _, d):
        id, kind, addresses = d.create("sandbox-a", user_data=b"#cloud-config\n")
        body = peer.bodies[0]
        assert id == f"{azure_peer.ROOT}/providers/Microsoft.Compute/virtualMachines/podvm-sandbox-a" and kind == "Standard_DC2as_v5", (id, kind)
        assert len(addresses) == 1 and addresses[0].startswith("10.0.")
        assert body["tags"] == {"team": "pods", "cost": "1", "peerpod-node": "node1", "peerpod-sandbox": "sandbox-a"}
        assert body["properties"]["storageProfile"]["imageReference"] == {"id": azure_peer.IMAGE}
        assert body["properties"]["securityProfile"]["securityType"] == "ConfidentialVM" and "zones" not in body
        assert base64.b64decode(body["properties"]["userData"]) == b"#cloud-config\n"
        assert d.find("node1") == [("sandbox-a", "podvm-sandbox-a", id)] and d.find("node2") == []
        d.delete("sandbox-a", id=id)
        assert not peer.nothing_left(), peer.nothing_left()
        d.delete("sandbox-a", id=id)
        d.delete("sandbox-a")


def an_ordinary_vm_has_no_security_profile_and_the_root_size():
    with running(DISABLECVM="true", AZURE_INSTANCE_SIZE="Standard_D2s_v5", ROOT_VOLUME_SIZE="40", AZURE_NSG_ID=azure_peer.NSG) as (peer, _, d):
        d.create("sandbox-a")
        p = peer.bodies[0]["properties"]
        assert "securityProfile" not in p and p["storageProfile"]["osDisk"]["diskSizeGB"] == 40
        assert "securityProfile" not in p["storageProfile"]["osDisk"]["managedDisk"]
        assert p["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]["networkSecurityGroup"]["id"] == azure_peer.NSG
        d.delete("sandbox-a")


def secure_boot_is_asked_for():
    with running(ENABLE_SECURE_BOOT="true", AZURE_CVM_DISK_ENCRYPTION="DiskWithVMGuestState") as (peer, _, d):
        d.create("sandbox-a")
        p = peer.bodies[0]["properties"]
        assert p["securityProfile"] == {"securityType": "ConfidentialVM", "uefiSettings": {"secureBootEnabled": True, "vTpmEnabled": True}}
        assert p["storageProfile"]["osDisk"]["managedDisk"]["securityProfile"] == {"securityEncryptionType": "DiskWithVMGuestState"}
        d.delete("sandbox-a")
    with running(ENABLE_SECURE_BOOT="true", DISABLECVM="true", AZURE_INSTANCE_SIZE="Standard_D2s_v5") as (peer, _, d):
        d.create("sandbox-a")
        assert peer.bodies[0]["properties"]["securityProfile"]["securityType"] == "TrustedLaunch"
        d.delete("sandbox-a")


def with_a_public_address_that_is_the_first_one():
    with running(USE_PUBLIC_IP="true", AZURE_NSG_ID=azure_peer.NSG) as (peer, _, d):
        _, _, addresses = d.create("sandbox-a", multi_nic=True)
        assert len(addresses) == 3 and addresses[0].startswith("203.0.113.") and all(a.startswith("10.0.") for a in addresses[1:]), addresses
        assert peer.nothing_left().count("podvm-sandbox-a") == 5
        d.delete("sandbox-a")
        assert not peer.nothing_left(), peer.nothing_left()


def a_public_address_needs_a_security_group():
    with running(USE_PUBLIC_IP="true") as (peer, _, d):
        cloud_rig.expect("FailedPrecondition", "AZURE_NSG_ID", d.create, "sandbox-a")
        peer.subnet_nsg = azure_peer.NSG
        d.create("sandbox-a")
        d.delete("sandbox-a")


def the_external_interface_is_the_second():
    with running(AZURE_SECOND_SUBNET_ID=azure_peer.SUBNET2) as (peer, _, d):
        _, _, addresses = d.create("sandbox-a", multi_nic=True)
        configs = peer.bodies[0]["properties"]["networkProfile"]["networkInterfaceConfigurations"]
        assert [c["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"] for c in configs] == [azure_peer.SUBNET, azure_peer.SUBNET2]
        nics = [peer.nics[f"podvm-sandbox-a-net{n}"].ip_configurations[0].private_ip_address for n in ("", "2")]
        assert addresses == nics, (addresses, nics)
        d.delete("sandbox-a")
        assert not peer.nothing_left()


def the_smallest_size_that_fits_is_chosen():
    sizes = "Standard_D8s_v5,Standard_D2s_v5,Standard_NC4as_T4_v3,Standard_NC24ads_A100_v4,Standard_D96s_v5"
    with running(DISABLECVM="true", AZURE_INSTANCE_SIZE="Standard_D2s_v5", AZURE_INSTANCE_SIZES=sizes) as (peer, server, d):
        for sandbox, spec, size in [
                ("a", {}, "Standard_D2s_v5"), ("b", {"vcpus": 3, "memory_mib": 4096}, "Standard_D8s_v5"), ("c", {"gpus": 1}, "Standard_NC4as_T4_v3"),
                ("d", {"gpus": 1, "gpu_model": "A100"}, "Standard_NC24ads_A100_v4"), ("e", {"machine_type": "Standard_D8s_v5"}, "Standard_D8s_v5")]:
            assert d.create(sandbox, **spec)[1] == size, (spec, size)
            d.delete(sandbox)
        cloud_rig.expect("InvalidArgument", "AZURE_INSTANCE_SIZES", d.create, "f", machine_type="Standard_B1ls")
        cloud_rig.expect("FailedPrecondition", "not available to this subscription", d.create, "g", machine_type="Standard_D96s_v5")
        cloud_rig.expect("FailedPrecondition", "No allowed instance type fits", d.create, "h", vcpus=64, memory_mib=1024)
        assert sum("/skus" in r.path for r in server.requests) == 4, "one listing, of four pages"


def a_size_without_confidential_vms_is_refused_and_one_with_a_single_interface():
    with running(AZURE_INSTANCE_SIZES="Standard_D2s_v5") as (peer, _, d):
        cloud_rig.expect("FailedPrecondition", "no confidential VMs", d.create, "a", machine_type="Standard_D2s_v5")
    with running(DISABLECVM="true", AZURE_INSTANCE_SIZE="Standard_B1ls") as (peer, _, d):
        cloud_rig.expect("FailedPrecondition", "one network interface", d.create, "a", multi_nic=True)


def zones_come_from_the_settings_or_the_disks():
    with running(AZURE_ZONE="2") as (peer, _, d):
        d.create("a")
        assert peer.bodies[0]["zones"] == ["2"]
        disk = peer.add_disk("data1", zones=["1"])
        cloud_rig.expect("FailedPrecondition", "zone", d.create, "b", volumes=[disk])
        d.delete("a")
    with running(AZURE_INSTANCE_SIZE="Standard_DC4as_v5") as (peer, _, d):
        disks = [peer.add_disk("data1", zones=["1"]), peer.add_disk("data2")]
        d.create("a", volumes=[disks[0].replace("resourceGroups", "resourcegroups"), "data2"])
        p = peer.bodies[0]
        assert p["zones"] == ["1"] and [x["lun"] for x in p["properties"]["storageProfile"]["dataDisks"]] == [0, 1]
        cloud_rig.expect("FailedPrecondition", "is attached to VM 'podvm-a'", d.create, "b", volumes=disks)
        d.delete("a")
        assert sorted(peer.disks) == ["data1", "data2"] and peer.disks["data1"].disk_state == "Unattached"
        cloud_rig.expect("FailedPrecondition", "zone 3", d.create, "c", volumes=[peer.add_disk("data3", zones=["3"])])


def volumes_are_checked_first():
    with running() as (peer, _, d):
        cloud_rig.expect("FailedPrecondition", "does not exist", d.create, "a", volumes=["nosuch"])
        cloud_rig.expect("InvalidArgument", "no managed disk", d.create, "a", volumes=["/subscriptions/x/disks/y"])
        cloud_rig.expect("FailedPrecondition", "region", d.create, "a", volumes=[peer.add_disk("far", location="East US")])
        peer.add_disk("near", location="West Europe")
        d.create("a", volumes=["near"])
        d.delete("a")
        cloud_rig.expect("InvalidArgument", "twice", d.create, "a", volumes=["near", "NEAR"])
        five = [peer.add_disk(f"d{i}") for i in range(5)]
        cloud_rig.expect("FailedPrecondition", "takes 4 data disks", d.create, "a", volumes=five)
        assert not peer.nothing_left()


def images_have_four_forms():
    with running() as (peer, _, d):
        for image, reference in [
                ("/CommunityGalleries/cocopeerpods-1/Images/podvm/Versions/1.2.3",
                 {"communityGalleryImageId": "/CommunityGalleries/cocopeerpods-1/Images/podvm/Versions/1.2.3"}),
                ("/sharedGalleries/g/images/i/versions/latest", {"sharedGalleryImageId": "/sharedGalleries/g/images/i/versions/latest"}),
                ("canonical:ubuntu:22_04-lts:latest", {"publisher": "canonical", "offer": "ubuntu", "sku": "22_04-lts", "version": "latest"}),
                (azure_peer.IMAGE.replace("/versions/1.0.0", ""), {"id": azure_peer.IMAGE.replace("/versions/1.0.0", "")})]:
            d.create("a", image=image)
            assert peer.bodies[-1]["properties"]["storageProfile"]["imageReference"] == reference
            d.delete("a")
        cloud_rig.expect("InvalidArgument", "is no resource id of an image", d.create, "a", image="podvm.qcow2")
        cloud_rig.expect("FailedPrecondition", "GalleryImageNotFound", d.create, "a", image=azure_peer.IMAGE.replace("1.0.0", "9.9.9"))
        assert not peer.nothing_left()


def user_data_that_is_too_big_is_refused_before_any_call():
    with running() as (peer, server, d):
        cloud_rig.expect("Exhausted", "", d.create, "a", user_data=b"#cloud-config\n" + b"x" * 50000)
        assert not any(r.method == "PUT" for r in server.requests)
        d.create("a", user_data=b"#cloud-config\n" + b"x" * (49152 - 14))
        d.delete("a")


def what_is_not_visible_at_once_is_waited_for():
    with running(args=["--create-timeout", "60s"], setup=lambda p: (setattr(p, "hide_vm", 2), setattr(p, "hide_address", 1))) as (peer, _, d):
        d.create("a")
        peer.hide_vm = peer.hide_address = 0
        d.delete("a")
        assert not peer.nothing_left()


def operations_of_both_styles_are_followed_with_and_without_retry_after():
    for style, after, polls in [(True, "0", 3), (False, None, 0), (True, None, 0), (False, "1", 0)]:
        def setup(p, style=style, after=after, polls=polls):
            p.location_style, p.retry_after, p.polls = style, after, polls
        with running(setup=setup) as (peer, _, d):
            d.create("a")
            d.delete("a")
            assert not peer.nothing_left()


def a_failed_operation_is_undone_and_says_why():
    with running(setup=lambda p: setattr(p, "fail_create", ("AllocationFailed", "We do not have sufficient capacity."))) as (peer, _, d):
        cloud_rig.expect("Exhausted", "sufficient capacity. (AllocationFailed", d.create, "a")
        assert not peer.nothing_left(), peer.nothing_left()


def what_azure_leaves_behind_is_removed():
    def setup(p):
        p.leave_sides, p.nic_reserved, p.suffix = True, 1, "-4f3a"
    with running(setup=setup, USE_PUBLIC_IP="true", AZURE_NSG_ID=azure_peer.NSG) as (peer, _, d):
        d.create("a")
        d.delete("a")
        assert not peer.nothing_left(), peer.nothing_left()
        # The VM went, and nobody looked after the rest.
        d.create("b")
        peer.vms.clear()
        for n in peer.nics.values():
            n.virtual_machine = None
        peer.disks["podvm-b-disk"].managed_by = None
        d.delete("b")
        assert not peer.nothing_left(), peer.nothing_left()


def ids_are_compared_without_regard_to_case():
    with running(setup=lambda p: setattr(p, "change_case", True)) as (peer, _, d):
        id = d.create("a")[0]
        assert azure_peer.GROUP.upper() in id
        d.delete("a", id=id)
        assert not peer.nothing_left()
        cloud_rig.expect("FailedPrecondition", "not the configured one", d.delete, "a",
               id=f"/subscriptions/{azure_peer.SUBSCRIPTION}/resourceGroups/other/providers/Microsoft.Compute/virtualMachines/podvm-a")
        cloud_rig.expect("InvalidArgument", "no VM's resource id", d.delete, "a", id="i-0123")


def another_owners_vm_is_left_alone():
    with running() as (peer, _, d):
        d.create("a", name="podvm-x")
        cloud_rig.expect("AlreadyExists", "belongs to somebody else", d.create, "b", name="podvm-x")
        cloud_rig.expect("FailedPrecondition", "belongs to somebody else", d.delete, "b", name="podvm-x")
        assert "podvm-x" in peer.vms
        d.delete("a", name="podvm-x")
        assert not peer.nothing_left()


def a_create_that_was_cut_off_is_gone_on_with():
    with running() as (peer, server, d):
        first = d.create("a")
        n = len(peer.bodies)
        assert d.create("a")[:2] == first[:2] and len(peer.bodies) == n
        peer.vms["podvm-a"].provisioning_state = "Failed"
        d.create("a")
        assert len(peer.bodies) == n + 1
        d.delete("a")
        assert not peer.nothing_left()


def listings_are_read_to_their_last_page():
    with running(setup=lambda p: setattr(p, "page", 2)) as (peer, _, d):
        jobs = [d.start(d.create, f"s{i}") for i in range(7)]
        ids = [j.result(60)[0] for j in jobs]
        assert sorted(i for _, _, i in d.find()) == sorted(ids)
        for j in [d.start(d.delete, f"s{i}") for i in range(7)]:
            j.result(60)
        assert d.find() == [] and not peer.nothing_left()


def a_refused_token_is_replaced_once():
    with running() as (peer, _, d):
        assert d.find() == [] and peer.tokens["secret"] == 1
        d.find()
        assert peer.tokens["secret"] == 1
        peer.generation += 1
        for j in [d.start(d.find) for _ in range(8)]:
            assert j.result(60) == []
        assert peer.tokens["secret"] == 2, "one refresh for all"


def a_token_is_renewed_before_it_ends():
    with running(setup=lambda p: setattr(p, "token_life", 2)) as (peer, _, d):
        d.find()
        cloud_rig.wait_for(lambda: d.find() == [] and peer.tokens["secret"] > 1, "a second token")


def a_wrong_secret_is_an_authentication_error():
    with running(AZURE_CLIENT_SECRET="wr0ng") as (peer, _, d):
        cloud_rig.expect("Unauthenticated", "AADSTS7000215", d.find)
        assert "wr0ng" not in d.log()


def the_workload_identitys_token_file_is_read_anew():
    with tempfile.TemporaryDirectory() as directory:
        target, link = pathlib.Path(directory) / "token1", pathlib.Path(directory) / "token"
        target.write_text("not a token")
        link.symlink_to("token1")
        with running(AZURE_CLIENT_SECRET=None, AZURE_FEDERATED_TOKEN_FILE=str(link)) as (peer, _, d):
            cloud_rig.expect("Unauthenticated", "AADSTS700024", d.find)
            target.write_text(peer.assertion() + "\n")
            assert d.find() == []
            os.unlink(link)
            peer.generation += 1
            cloud_rig.expect("Unauthenticated", "AZURE_FEDERATED_TOKEN_FILE", d.find)
            link.symlink_to("token1")
            assert d.find() == [] and peer.tokens["assertion"] == 2


def the_managed_identity_is_asked_where_nothing_else_is_set():
    with running(AZURE_CLIENT_SECRET=None, AZURE_TENANT_ID=None) as (peer, server, d):
        server.faults = {0: ("status", 404, "{}"), 1: ("status", 410, "{}")}
        assert d.find() == [] and peer.tokens["machine"] == 1
    with running(AZURE_CLIENT_SECRET=None, AZURE_TENANT_ID=None, AZURE_CLIENT_ID=None) as (peer, _, d):
        assert d.find() == [] and peer.tokens["machine"] == 1


def check_passes_and_says_what_is_wrong():
    def check(setup=None, **more):
        peer = azure_peer.Azure()
        with cloud_rig.Server(peer) as server:
            peer.url = server.url
            if setup:
                setup(peer)
            return cloud_rig.check(PROVIDERD, MODULE, settings(peer, **more))

    status, output = check()
    assert status == 0, output
    for text, setup, more in [
            ("does not exist", None, {"AZURE_IMAGE_ID": azure_peer.IMAGE.replace("1.0.0", "7.7.7")}),
            ("Looking at the subnet", None, {"AZURE_SUBNET_ID": azure_peer.SUBNET + "x"}),
            ("network security group", None, {"AZURE_NSG_ID": azure_peer.NSG + "x"}),
            ("no confidential VMs", None, {"AZURE_INSTANCE_SIZE": "Standard_D2s_v5"}),
            ("does not exist in region", None, {"AZURE_INSTANCE_SIZES": "Standard_X1"}),
            ("virtualMachines/write", lambda p: p.not_actions.append("Microsoft.Compute/*/write"), {}),
            ("disks/delete", lambda p: setattr(p, "actions", ["Microsoft.Compute/virtualMachines/*", "*/read", "Microsoft.Compute/disks/write"]), {}),
            ("AADSTS7000215", None, {"AZURE_CLIENT_SECRET": "x"}),
            ("SubscriptionNotFound", None, {"AZURE_SUBSCRIPTION_ID": "0"}),
            ("AZURE_TENANT_ID", None, {"AZURE_TENANT_ID": None}),
            ("AZURE_NSG_ID", None, {"USE_PUBLIC_IP": "true"})]:
        status, output = check(setup, **more)
        assert status != 0 and text in output, f"status {status}, no '{text}' in: {output}"


def settings_that_cannot_work_are_refused_by_name():
    peer = azure_peer.Azure()
    peer.url = "http://127.0.0.1:1"
    for variable, value in [
            ("AZURE_REGION", ""), ("AZURE_REGION", "West Europe"), ("AZURE_SUBNET_ID", "pods"), ("AZURE_NSG_ID", azure_peer.SUBNET),
            ("AZURE_IMAGE_ID", "podvm"), ("AZURE_RESOURCE_GROUP", "a/b"), ("AZURE_RESOURCE_MANAGER_ENDPOINT", "http://management.test"),
            ("AZURE_CVM_DISK_ENCRYPTION", "None"), ("TAGS", "peerpod-node=x"), ("ROOT_VOLUME_SIZE", "4096"), ("DISABLECVM", "perhaps"),
            ("AZURE_SUBSCRIPTION_ID", "a?b")]:
        status, output = cloud_rig.check(PROVIDERD, MODULE, settings(peer, **{variable: value}))
        assert status == 78 and variable in output, f"{variable}={value}: status {status}: {output}"


def a_throttling_service_gets_a_hundred_at_once_done():
    with running(setup=lambda p: setattr(p, "throttle", 7)) as (peer, _, d):
        jobs = [d.start(d.create, f"s{i}", timeout=200) for i in range(100)]
        for j in jobs:
            j.result(200)
        assert len(peer.vms) == 100 and peer.tokens["secret"] == 1
        for j in [d.start(d.delete, f"s{i}", timeout=200) for i in range(100)]:
            j.result(200)
        assert not peer.nothing_left(), peer.nothing_left()


def calls_of_a_create(server, d):
    """How many requests one makes when token and VM sizes are known"""
    for sandbox in ("warm", "count"):
        server.reset()
        d.create(sandbox)
        n = server.count
        d.delete(sandbox)
    return n


FAULT_KINDS = [*(f for f in cloud_rig.FAULTS if f != ("status", 403, "{}")),
               ("status", 403, '{"error":{"code":"AuthorizationFailed","message":"no"}}'),
               ("status", 404, '{"error":{"code":"ResourceNotFound","message":"no"}}'),
               ("status", 409, '{"error":{"code":"AnotherOperationInProgress","message":"later"}}')]


def each_fault_at_each_call_of_a_create_leaves_nothing():
    with running(args=["--create-timeout", "30s"]) as (peer, server, d):
        calls = calls_of_a_create(server, d)
        results = cloud_rig.run_faults(d, server, peer.nothing_left, faults=FAULT_KINDS, indices=range(calls))
        for fault, index, outcome in results:
            # All passes but a refusal in the service's own words; and even that where it is about an operation that is over by then.
            if not (isinstance(fault, tuple) and len(fault) == 3 and fault[1] in (403, 404) and "error" in fault[2]):
                assert outcome == "runs", f"{fault} at {index}: {outcome}"


def a_slow_reply_ends_at_the_deadline_and_leaves_nothing():
    with running(args=["--create-timeout", "2s"]) as (peer, server, d):
        results = cloud_rig.run_faults(d, server, peer.nothing_left, faults=["slow"], indices=range(calls_of_a_create(server, d)))
        assert all(o == "TimedOut" for _, _, o in results), results


def each_fault_at_what_only_the_first_create_asks_leaves_nothing():
    """each fault at what only the first create asks (token, list of VM sizes) leaves nothing"""
    for fault in ["reset", "truncate", "garbage", ("status", 500, "{}"), ("status", 401, "{}"), ("status", 404, "{}")]:
        for index in range(6):
            with running() as (peer, server, d):
                server.reset({index: fault})
                try:
                    id = d.create("a")[0]
                except cloud_rig.Error as e:
                    assert index == 0 and fault[1] == 401 and e.kind == "Unauthenticated", f"{fault} at {index}: {e}"
                    assert not peer.nothing_left()
                    id = d.create("a")[0]
                d.delete("a", id=id)
                assert not peer.nothing_left()


def a_cancel_at_each_call_ends_soon_and_leaves_nothing():
    with running() as (peer, server, d):
        cloud_rig.run_cancels(d, server, peer.nothing_left, range(calls_of_a_create(server, d)))


FAULTS = [each_fault_at_each_call_of_a_create_leaves_nothing, a_slow_reply_ends_at_the_deadline_and_leaves_nothing,
          a_cancel_at_each_call_ends_soon_and_leaves_nothing, each_fault_at_what_only_the_first_create_asks_leaves_nothing]
REST = [f for n, f in list(globals().items()) if callable(f) and getattr(f, "__module__", "") == "__main__" and "_" in n and f not in FAULTS
        and n not in ("settings", "running", "expect", "calls_of_a_create")]

if __name__ == "__main__":
    part = sys.argv[3] if len(sys.argv) > 3 else ""
    cloud_rig.main(FAULTS if part == "faults" else REST if part == "rest" else REST + FAULTS, part if part not in ("faults", "rest") else None)
