#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Module vsphere against govmomi's vCenter simulator (vsphere_rig.py).

Usage: vsphere-test.py PROVIDERD MODULE.so PART [PART OF A CASE'S NAME]   (run by tests/peers/python); PART: calls or faults"""
import base64
import concurrent.futures
import contextlib
import gzip
import hashlib
import pathlib
import random
import ssl
import sys
import tempfile

import cloud_rig
import vsphere_rig
from cloud_rig import wait_for
from vsphere_rig import method_of

PROVIDERD, MODULE, PART = sys.argv[1:4]
SANDBOX = "a" * 64


@contextlib.contextmanager
def running(args=(), **more):
    with vsphere_rig.Vcenter() as vc, cloud_rig.Daemon(PROVIDERD, MODULE, {**vc.settings(**more), "PEERPOD_LOG_LEVEL": "debug"}, list(args)) as d:
        yield vc, d
        cookies = {r.headers.get("cookie") for r in vc.server.requests} - {None}
        for secret in (vsphere_rig.PASSWORD, "cloud-config", base64.b64encode(cloud_rig.USER_DATA).decode()[:32], *cookies):
            assert secret not in d.log(), f"'{secret}' is in the log"


def expect(kind, text, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except cloud_rig.Error as e:
        assert e.kind == kind and text in e.text, f"{e}; not {kind}: …{text}…"
        return
    raise AssertionError(f"no error; expected {kind}: …{text}…")


def methods(vc):
    return [method_of(r) for r in vc.server.requests]


def an_instance_is_made_found_and_removed():
    """A clone has its owner and user data from the clone call on, is found by its node, and leaves nothing"""
    with running() as (vc, d):
        id, kind, addresses = d.create(SANDBOX, name="podvm-a")
        m = vc.machine("podvm-a")
        assert id == m["uuid"] and kind == "1x0.03125" and addresses[0].startswith("10.9.8."), (id, kind, addresses)
        assert m["extra"]["guestinfo.userdata.encoding"] == "base64" and base64.b64decode(m["extra"]["guestinfo.userdata"]) == cloud_rig.USER_DATA
        assert m["extra"]["peerpod.sandbox"] == SANDBOX and m["extra"]["peerpod.node"] == "node1" and SANDBOX in m["annotation"]
        assert m["power"] == "poweredOn" and m["folder"] == "peerpods" and m["host"] == "DC0_H0" and m["datastore"] == "LocalDS_0"
        assert methods(vc).count("Login") == 1 and methods(vc).count("CloneVM_Task") == 1 and methods(vc)[-1] == "DestroyPropertyCollector"
        assert d.find("node1") == [(SANDBOX, "podvm-a", id)] and d.find("node2") == []
        assert not any(b"userdata" in r.body for r in vc.server.requests if method_of(r) != "CloneVM_Task")
        d.delete(SANDBOX, "podvm-a", id)
        assert not vc.left()
        d.delete(SANDBOX, "podvm-a", id)
        d.delete(SANDBOX, "podvm-a")
        vc.server.reset()
    assert methods(vc) == ["Logout"], methods(vc)


def what_is_known_is_not_looked_up_again():
    """A second creation asks for nothing that the first one has learnt"""
    with running() as (vc, d):
        d.create("s1")
        vc.server.reset()
        d.create("s2")
        seen = methods(vc)
        assert not {"RetrieveServiceContent", "Login", "FindByInventoryPath", "CreateFolder"} & set(seen), seen


def a_create_cut_off_is_completed_by_the_next_daemon():
    """A daemon that is killed in the middle of a clone, or of the wait for an address, leaves what the next one completes"""
    with vsphere_rig.Vcenter() as vc:
        for part in ("clone", "address"):
            vc.set(task_delay={"CloneVm": 1500} if part == "clone" else {}, addresses=[""])
            d = cloud_rig.Daemon(PROVIDERD, MODULE, vc.settings())
            job = d.start(d.create, part)
            wait_for(lambda: "CloneVM_Task" in methods(vc) if part == "clone" else "WaitForUpdatesEx" in methods(vc), f"the {part} begins")
            d.kill()
            with contextlib.suppress(Exception):
                job.result(30)
            d.close()
            vc.set(addresses=["10.0.0.%d"])
            vc.server.reset()
            with cloud_rig.Daemon(PROVIDERD, MODULE, vc.settings()) as again:
                id, _, addresses = again.create(part)
                assert addresses[0].startswith("10.0.0.") and again.find() == [(part, f"podvm-{part}", id)]
                assert [m["name"] for m in vc.state()["machines"]].count(f"podvm-{part}") == 1
                again.delete(part)
                assert not vc.left() and not vc.state()["running"]


def another_owners_machine_is_left_alone():
    """A machine of that name and of another sandbox is neither taken over nor removed"""
    with running() as (vc, d):
        d.create("sandbox-a", name="podvm-a")
        expect("AlreadyExists", "belongs to somebody else", d.create, "sandbox-b", name="podvm-a")
        expect("FailedPrecondition", "belongs to somebody else", d.delete, "sandbox-b", "podvm-a")
        assert vc.left() == "podvm-a"
        d.delete("sandbox-a", "podvm-a")


def a_machine_is_as_big_as_the_pod_wants():
    """vCPUs and memory of the pod, or a type CPUSxGIB; else the template's size; GPUs are refused"""
    with running() as (vc, d):
        def size(**spec):
            kind = d.create("s", **spec)[1]
            m = vc.machine("podvm-s")
            d.delete("s")
            return m["cpus"], m["memory"], kind
        assert size(vcpus=3, memory_mib=2045) == (3, 2048, "3x2")
        assert size(vcpus=2) == (2, 32, "2x0.03125")
        assert size(machine_type="4x1.5", vcpus=1, memory_mib=512) == (4, 1536, "4x1.5")
        for bad in ("m5.large", "4", "x4", "4x", "0x4", "4x0", "4x4x4", "-1x4", "4x4.12345", "99999x4"):
            expect("InvalidArgument", "CPUSxGIB", d.create, "s", machine_type=bad)
        expect("FailedPrecondition", "GPU", d.create, "s", gpus=1)
        expect("FailedPrecondition", "", d.create, "s", volumes=["v"])
        assert not vc.left()


def user_data_are_packed_when_they_are_big():
    """Above 48 KiB user data are compressed; what is too big even so is refused before anything is asked"""
    with running() as (vc, d):
        text = b"#cloud-config\nwrite_files:\n  - path: /run/peerpod/initdata\n    content: |\n      " + b"x" * 300000 + b"\n"
        d.create("s", user_data=text)
        extra = vc.machine("podvm-s")["extra"]
        assert extra["guestinfo.userdata.encoding"] == "gzip+base64" and gzip.decompress(base64.b64decode(extra["guestinfo.userdata"])) == text
        d.delete("s")
        vc.server.reset()
        noise = base64.b64encode(random.Random(1).randbytes(60000))
        expect("Exhausted", "/run/peerpod/initdata", d.create, "s", user_data=b"#cloud-config\nwrite_files:\n  - path: /run/peerpod/initdata\n    content: |\n      " + noise + b"\n")
        assert not vc.server.requests


def machines_go_where_the_settings_say():
    """A host of a cluster, a resource pool, the place that DRS recommends"""
    for more, host, pool in (({"GOVC_VCLUSTER": "DC0_C0", "GOVC_HOST": "DC0_C0_H1"}, "DC0_C0_H1", "Resources"), ({"GOVC_RESOURCE_POOL": "DC0_H0/Resources"}, "DC0_H0", "Resources"),
                             ({"GOVC_DRS": "true", "GOVC_VCLUSTER": "DC0_C0", "GOVC_HOST": None, "GOVC_DATASTORE": None}, "DC0_C0_H", "Resources")):
        with running(**more) as (vc, d):
            d.create("s")
            m = vc.machine("podvm-s")
            assert m["host"].startswith(host) and m["pool"] == pool and m["datastore"] == "LocalDS_0", (more, m)
            assert ("PlaceVm" in methods(vc)) == ("GOVC_DRS" in more)
            d.delete("s")
            if "GOVC_DRS" in more:
                vc.set(drs=False)
                expect("Exhausted", "DC0_C0", d.create, "s")
                assert not vc.left()


def templates_have_names_and_paths():
    """A path below the datacenter's folder or from the root, or a name that is there once; a pod's own for that pod only"""
    with running(GOVC_TEMPLATE="images/podvm-deep") as (vc, d):
        for image in ("", "/DC0/vm/podvm-template", "podvm-deep", "images/podvm-deep", "podvm-template"):
            d.create("s", image=image)
            d.delete("s")
        expect("FailedPrecondition", "2 templates 'twice'", d.create, "s", image="twice")
        expect("FailedPrecondition", "no template 'nowhere'", d.create, "s", image="nowhere")
        expect("FailedPrecondition", "no template", d.create, "s", image="images")
        expect("FailedPrecondition", "is no template", d.create, "s", image="DC0_H0_VM0")
        d.create("s")
        d.delete("s")


def folders_are_made_once():
    """Nodes that make the same folders at the same time all succeed"""
    with vsphere_rig.Vcenter() as vc, contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(cloud_rig.Daemon(PROVIDERD, MODULE, vc.settings(GOVC_FOLDER="/a/b/c/"))) for _ in range(3)]
        assert nodes[0].find() == []
        jobs = [n.start(n.create, f"s{i}") for i, n in enumerate(nodes)]
        for j in jobs:
            j.result(60)
        assert {vc.machine(f"podvm-s{i}")["folder"] for i in range(3)} == {"c"} and len(nodes[1].find()) == 3


def addresses_are_those_that_others_reach():
    """No loopback, no link-local; IPv4 of an interface first, interfaces in the template's order; IPv6 alone where nothing else comes"""
    with running(["--create-timeout", "30s"]) as (vc, d):
        vc.set(addresses=["fe80::1|169.254.1.1|2001:db8::1|10.1.1.%d"])
        addresses = d.create("s1")[2]
        assert len(addresses) == 2 and addresses[0].startswith("10.1.1.") and addresses[1] == "2001:db8::1", addresses
        vc.set(addresses=["2001:db8::2"])
        alone = d.start(d.create, "s2")
        wait_for(lambda: vc.machine("podvm-s2") and vc.machine("podvm-s2")["power"] == "poweredOn", "the machine runs")
        vc.set(addresses=["10.1.1.%d", "2001:db8:1::9|10.2.2.%d"])
        addresses = d.create("s3", image="images/podvm-two-nics", multi_nic=True)[2]
        assert [a.rsplit(".", 1)[0] for a in addresses] == ["10.1.1", "10.2.2", "2001:db8:1::9"], addresses
        expect("FailedPrecondition", "second interface", d.create, "s4", multi_nic=True)
        assert alone.result(60)[2][0].startswith(("2001:db8::2", "10.1.1."))
        for s in ("s1", "s2", "s3"):
            d.delete(s)
        assert not vc.left()


def a_guest_without_an_address_is_removed():
    """No address before the time-out, or a guest that stops: an error, and nothing is left"""
    with running(["--create-timeout", "2s"]) as (vc, d):
        vc.set(addresses=["169.254.7.7"])
        expect("TimedOut", "", d.create, "s")
        wait_for(lambda: not vc.left(), "the machine is removed")


def an_ended_session_is_renewed():
    """Log-in once more when the vCenter has ended the session, in the middle of a wait, too"""
    with running() as (vc, d):
        d.create("s1")
        vc.end_sessions()
        vc.server.reset()
        assert len(d.find()) == 1 and methods(vc).count("Login") <= 1
        vc.set(addresses=[""])
        job = d.start(d.create, "s2")
        wait_for(lambda: "WaitForUpdatesEx" in methods(vc), "the wait begins")
        vc.end_sessions()
        wait_for(lambda: methods(vc).count("CreatePropertyCollector") == 2, "the wait begins anew")
        vc.set(addresses=["10.9.8.%d"])
        assert job.result(60)[2]
        d.delete("s1")
        d.delete("s2")
        assert methods(vc).count("Login") <= 2


def tasks_and_calls_that_fail_say_why_and_leave_nothing():
    """A fault of the call or of its task becomes an error of its kind, with the fault's name"""
    with running() as (vc, d):
        for settings, kind, text in ((dict(task_fault={"CloneVM_Task": "NoDiskSpace"}), "Exhausted", "NoDiskSpace"),
                                     (dict(task_fault={"CloneVM_Task": "InvalidDatastore"}), "FailedPrecondition", "InvalidDatastore"),
                                     (dict(task_fault={"PowerOnVM_Task": "InsufficientMemoryResourcesFault"}), "Exhausted", "InsufficientMemory"),
                                     (dict(fault={"CloneVM_Task": "NoPermission"}), "Unauthenticated", "NoPermission"),
                                     (dict(fault={"PowerOnVM_Task": "NoCompatibleHost"}), "Exhausted", "NoCompatibleHost"),
                                     (dict(fault={"FindByUuid": "RestrictedVersion"}), "Unauthenticated", "RestrictedVersion")):
            vc.set(**{"task_fault": None, "fault": None, **settings})
            expect(kind, text, d.create, "s")
            assert not vc.left(), settings
        for settings in (dict(fault={"CloneVM_Task": "TaskInProgress"}), dict(fault={"FindByUuid": "HostCommunication"}), dict(fault={"PowerOnVM_Task": "ConcurrentAccess"})):
            vc.set(**{"task_fault": None, "fault": None, **settings})
            d.create("s")
            d.delete("s")
        vc.set(task_fault={"Destroy_Task": "InvalidState"}, fault=None)
        d.create("s")
        expect("FailedPrecondition", "InvalidState", d.delete, "s")
        vc.set(task_fault={"Destroy_Task": "TaskInProgress"})
        job = d.start(d.delete, "s")
        vc.server.reset()
        wait_for(lambda: methods(vc).count("Destroy_Task") >= 2, "a deletion that something else is in the way of is tried again")
        vc.set(task_fault=None)
        job.result(60)
        assert not vc.left()


def what_others_have_removed_is_gone():
    """A machine, a folder or a template that somebody removed is no obstacle"""
    with running() as (vc, d):
        id = d.create("s1")[0]
        vc.destroy("DC0/vm/peerpods/podvm-s1")
        d.delete("s1", id=id)
        vc.destroy("DC0/vm/peerpods")
        assert d.find() == []
        d.create("s2")
        assert vc.machine("podvm-s2")["folder"] == "peerpods"
        d.delete("s2")
        vc.destroy("DC0/vm/peerpods")
        d.create("s3")
        vc.destroy("DC0/vm/podvm-template")
        expect("FailedPrecondition", "GOVC_TEMPLATE", d.create, "s4")
        d.delete("s3")
        assert not vc.left()


def all_pages_are_read():
    """However many machines there are, each is reported once"""
    with running() as (vc, d):
        handler = vc.server.handler

        def in_pages(request):
            request.body = request.body.replace(b"<maxObjects>200<", b"<maxObjects>2<")
            return handler(request)
        vc.server.handler = in_pages
        for i in range(5):
            d.create(f"s{i}", node="node1" if i != 2 else "node2")
        vc.server.reset()
        assert sorted(s for s, _, _ in d.find()) == ["s0", "s1", "s3", "s4"] and [s for s, _, _ in d.find("node2")] == ["s2"]
        assert methods(vc).count("ContinueRetrievePropertiesEx") == 4, methods(vc)


def a_cancelled_clone_is_removed_when_it_has_ended():
    """A clone that the vCenter does not stop is waited for, and removed"""
    with running() as (vc, d):
        vc.set(task_delay={"CloneVm": 1500})
        job = d.start(d.create, "s")
        wait_for(lambda: "CloneVM_Task" in methods(vc)[:-1] and vc.state()["running"], "the clone runs, and is waited for")
        d.delete("s")
        expect("Cancelled", "", job.result, 30)
        assert not vc.left() and not vc.state()["running"] and "CancelTask" in methods(vc)


def calls_that_are_made_once_leave_no_connection():
    """A call that is not to be made twice has a connection for itself, which ends with it"""
    with running() as (vc, d):
        for i in range(10):
            d.create(f"s{i}")
            d.delete(f"s{i}")
        once = sum(m in ("CloneVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task") for m in methods(vc))
        assert once >= 20, methods(vc)
        wait_for(lambda: len(vc.server.connections) <= 4, "those that are left are for what may be repeated")


def linked_clones_share_the_templates_disk():
    """Of the template's snapshot; without one it is an error"""
    with running(GOVC_LINKED_CLONE="true", GOVC_TEMPLATE="images/podvm-deep") as (vc, d):
        d.create("s")
        assert vc.machine("podvm-s")["linked"] == "createNewChildDiskBacking" and any(b"<snapshot type=" in r.body for r in vc.server.requests)
        d.delete("s")
        expect("FailedPrecondition", "has no snapshot", d.create, "s", image="podvm-template")


def confidential_machines_are_asked_for():
    """TDX and SEV-SNP, of a vCenter that knows them"""
    for kind, key in (("TDX", "tdx"), ("SEV_SNP", "sev_snp")):
        with running(GOVC_CONFIDENTIAL_TYPE=kind) as (vc, d):
            expect("FailedPrecondition", "GOVC_CONFIDENTIAL_TYPE", d.create, "s")
            vc.set(version="9.0.0.0")
            d.create("s")
            m = vc.machine("podvm-s")
            assert m[key] and m["tdx"] != m["sev_snp"]
            d.delete("s")


def only_a_vcenter_that_is_trusted_gets_the_password():
    """By authority, by thumbprint of SHA-1 or SHA-256, or not at all; before the certificate is right, nothing is sent"""
    with tempfile.TemporaryDirectory() as directory:
        tls = cloud_rig.make_certificate(directory)
        der = ssl.PEM_cert_to_DER_cert(pathlib.Path(tls[0]).read_text())
        sha1, sha256 = hashlib.sha1(der).hexdigest().upper(), hashlib.sha256(der).hexdigest()
        colons = ":".join(sha1[i:i + 2] for i in range(0, 40, 2))
        wrong = "00" + colons[2:]
        with vsphere_rig.Vcenter(tls) as vc:
            for more in ({"GOVC_THUMBPRINT": colons}, {"GOVC_THUMBPRINT": sha256}, {"GOVC_TLS_CA_CERTS": tls[0]}, {"GOVC_INSECURE": "1"}):
                with cloud_rig.Daemon(PROVIDERD, MODULE, vc.settings(**more)) as d:
                    d.create("s")
                    jobs = [d.start(d.create, f"s{i}") for i in range(4)]
                    for j in jobs:
                        j.result(60)
                    for s in ("s", "s0", "s1", "s2", "s3"):
                        d.delete(s)
            vc.server.reset()
            for more, text in (({}, "GOVC_THUMBPRINT"), ({"GOVC_THUMBPRINT": wrong}, colons)):
                status, output = cloud_rig.check(PROVIDERD, MODULE, vc.settings(**more))
                assert status != 0 and text in output, output
            assert not vc.server.requests


def settings_that_can_never_work_end_the_start():
    """Exit status 78, and the setting's name"""
    with vsphere_rig.Vcenter() as vc:
        for more, text in (({"GOVC_URL": None}, "GOVC_URL"), ({"GOVC_USERNAME": None}, "GOVC_USERNAME"), ({"GOVC_PASSWORD": None}, "GOVC_PASSWORD"),
                           ({"GOVC_DATACENTER": None}, "GOVC_DATACENTER"), ({"GOVC_URL": "ftp://x"}, "GOVC_URL"), ({"GOVC_HOST": None}, "GOVC_HOST"),
                           ({"GOVC_DATASTORE": None}, "GOVC_DATASTORE"), ({"GOVC_DRS": "true"}, "GOVC_VCLUSTER"), ({"GOVC_DRS": "maybe"}, "GOVC_DRS"),
                           ({"GOVC_URL": "https://x", "GOVC_THUMBPRINT": "AA:BB"}, "thumbprint"), ({"GOVC_URL": "https://x", "GOVC_TLS_CA_CERTS": "/nonexistent"}, "/nonexistent"),
                           ({"GOVC_URL": "https://x", "GOVC_THUMBPRINT": "00" * 20, "GOVC_INSECURE": "true"}, "GOVC_INSECURE"), ({"GOVC_CONFIDENTIAL_TYPE": "SGX"}, "GOVC_CONFIDENTIAL_TYPE"),
                           ({"GOVC_FOLDER": "a\tb"}, "GOVC_FOLDER")):
            status, output = cloud_rig.check(PROVIDERD, MODULE, vc.settings(**more))
            assert status == 78 and text in output and vsphere_rig.PASSWORD not in output, (more, status, output)
        assert not vc.server.requests


def the_check_names_what_is_wrong():
    """The check passes where all is well, makes nothing, and says which setting or privilege it is"""
    with vsphere_rig.Vcenter() as vc:
        check = lambda **more: cloud_rig.check(PROVIDERD, MODULE, vc.settings(**more))
        url = vc.server.url
        for more in ({}, {"GOVC_DRS": "true", "GOVC_VCLUSTER": "DC0_C0", "GOVC_HOST": None, "GOVC_DATASTORE": None}, {"GOVC_URL": url.removeprefix("http://").join(("http://user:secret@", "/sdk/"))}):
            status, output = check(**more)
            assert status == 0, output
        assert not {"CreateFolder", "CloneVM_Task"} & set(methods(vc))
        for more, text in (({"GOVC_DATACENTER": "DC9"}, "GOVC_DATACENTER"), ({"GOVC_TEMPLATE": "nowhere"}, "GOVC_TEMPLATE"), ({"GOVC_TEMPLATE": "DC0_H0_VM0"}, "is no template"),
                           ({"GOVC_HOST": "nowhere"}, "GOVC_HOST"), ({"GOVC_DATASTORE": "nowhere"}, "GOVC_DATASTORE"), ({"GOVC_RESOURCE_POOL": "DC0_H0"}, "GOVC_RESOURCE_POOL"),
                           ({"GOVC_DRS": "true", "GOVC_VCLUSTER": "DC0_H0"}, "GOVC_VCLUSTER"), ({"GOVC_FOLDER": "podvm-template"}, "GOVC_FOLDER"), ({"GOVC_PASSWORD": "wrong"}, "GOVC_PASSWORD"),
                           ({"GOVC_URL": url + "/elsewhere"}, "no vCenter"), ({"GOVC_URL": "http://127.0.0.1:1"}, "127.0.0.1")):
            status, output = check(**more)
            assert status != 0 and text in output and "wrong" not in output.replace("wrong_", ""), (more, status, output)
        vc.set(granted=["VirtualMachine.Inventory.CreateFromExisting", "VirtualMachine.Inventory.Delete", "VirtualMachine.Config.AdvancedConfig", "VirtualMachine.Config.CPUCount",
                        "VirtualMachine.Config.Memory", "VirtualMachine.Interact.PowerOn", "Datastore.AllocateSpace"])
        status, output = check()
        assert status != 0 and "VirtualMachine.Interact.PowerOff" in output and "PowerOn" not in output, output
        handler = vc.server.handler
        vc.server.handler = lambda r: (lambda a: (a[0], a[1].replace(b"VirtualCenter", b"HostAgent"), a[2]))(handler(r))
        status, output = check()
        assert status != 0 and "no vCenter Server" in output, output


def a_hundred_creates_at_once_against_a_throttle():
    """Each of a hundred is there once, and gone once"""
    with running(["--workers", "32"]) as (vc, d):
        handler, state = vc.server.handler, {"n": 0}

        def throttled(request):
            with vc.server.lock:
                state["n"] += 1
                if state["n"] % 19 == 0:
                    return 503 if state["n"] % 2 else 429, "busy", {"Retry-After": "1"}
            return handler(request)

        vc.server.handler = throttled
        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            list(pool.map(lambda i: d.create(f"sandbox-{i}"), range(100)))
            assert len(vc.left().split()) == 100 == len(d.find())
            list(pool.map(lambda i: d.delete(f"sandbox-{i}"), range(100)))
        assert not vc.left() and not vc.state()["running"]


FAULT = b"""<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>ServerFaultCode</faultcode>
<faultstring>no</faultstring><detail><%sFault xmlns="urn:vim25" xmlns:x="http://www.w3.org/2001/XMLSchema-instance" x:type="%s"/></detail></s:Fault></s:Body></s:Envelope>"""


def fault(name):
    return ("status", 500, FAULT % (name.encode(), name.encode()))


LANES = 8       # side by side, each with a vCenter of its own, since most of it is waiting before something is tried again


def each_fault_at_each_call_leaves_nothing():
    """Whatever goes wrong at whichever call of a creation: it runs, or there is nothing, and a deletion succeeds"""
    faults = [*cloud_rig.FAULTS, fault("NotAuthenticated"), fault("NoPermission"), fault("ManagedObjectNotFound"), fault("Timedout"), fault("InvalidState")]

    def some(n):
        with running() as (vc, d):
            d.create("warm")
            d.delete("warm")
            results = cloud_rig.run_faults(d, vc.server, vc.left, faults[n::LANES])
            assert not vc.state()["running"]
            return results

    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        results = [r for part in pool.map(some, range(LANES)) for r in part]
    outcomes = {outcome for _, _, outcome in results}
    # Finding, cloning, power, waiting: eleven calls at least, more where a task is asked for again.
    assert "runs" in outcomes and len(outcomes) > 2 and len(results) >= 11 * len(faults), (outcomes, len(results))


def a_cancel_at_each_call_leaves_nothing():
    """A creation that is cancelled while any of its calls is answered ends at once, and leaves nothing"""
    with running() as (vc, d):
        d.create("warm")
        d.delete("warm")
        vc.server.reset()
        d.create("count")
        n = vc.server.count
        d.delete("count")
        cloud_rig.run_cancels(d, vc.server, vc.left, range(n - 1))      # the last one is after the result


CALLS = [an_instance_is_made_found_and_removed, what_is_known_is_not_looked_up_again, a_create_cut_off_is_completed_by_the_next_daemon, another_owners_machine_is_left_alone,
         a_machine_is_as_big_as_the_pod_wants, user_data_are_packed_when_they_are_big, machines_go_where_the_settings_say, templates_have_names_and_paths, folders_are_made_once,
         addresses_are_those_that_others_reach, a_guest_without_an_address_is_removed, an_ended_session_is_renewed, tasks_and_calls_that_fail_say_why_and_leave_nothing,
         what_others_have_removed_is_gone, all_pages_are_read, a_cancelled_clone_is_removed_when_it_has_ended, calls_that_are_made_once_leave_no_connection,
         linked_clones_share_the_templates_disk,
         confidential_machines_are_asked_for, only_a_vcenter_that_is_trusted_gets_the_password, settings_that_can_never_work_end_the_start, the_check_names_what_is_wrong]
FAULTS = [a_hundred_creates_at_once_against_a_throttle, each_fault_at_each_call_leaves_nothing, a_cancel_at_each_call_leaves_nothing]

cloud_rig.main({"calls": CALLS, "faults": FAULTS}[PART], sys.argv[4] if len(sys.argv) > 4 else None)
