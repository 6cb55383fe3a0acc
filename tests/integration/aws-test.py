#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The module aws against moto (see aws_rig.py): each request is one that botocore would have sent.

Usage: aws-test.py PROVIDERD MODULE.so [CASE...]; the faults run in processes of their own, "faults K N" and "cancel K N"."""
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

os.environ.update(MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION="true", MOTO_ENABLE_AMI_VALIDATION="true", MOTO_ENABLE_KEYPAIR_VALIDATION="")
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import aws_rig as rig
from aws_rig import KEY_ID, REGION, SECRET, Module, ModuleError, Peer

PROVIDERD, MODULE = sys.argv[1:3]
PROCESSES = 3
CONFIGURATION = 78


class Case:
    """A peer without anything in it, and modules that are closed at the end"""

    def __init__(self, peer, keep=False):
        self.peer, self.modules = peer, []
        peer.reset(keep)

    def open(self, environment=None, without=(), **settings):
        s = self.peer.settings(**settings)
        m = Module(MODULE, {k: v for k, v in s.items() if k not in without}, self.peer.environment(**(environment or {})))
        self.modules.append(m)
        return m

    def end(self):
        self.peer.released.set()
        said = "\n".join(text for m in self.modules for text in m.messages)
        for m in self.modules:
            m.close()
        assert not self.peer.problems, self.peer.problems
        assert SECRET not in said and "apf.json" not in said, said


def refused(kind, text, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except ModuleError as e:
        assert e.kind == kind and text in str(e), f"{e.kind}: {e}; not {kind}: {text}"
        assert SECRET not in str(e)
        return
    raise AssertionError(f"not refused: {text}")


def tags_of(specifications, kind):
    return {t["Key"]: t["Value"] for s in specifications if s["ResourceType"] == kind for t in s["Tags"]}


# ---- create, find, remove ----

def it_is_created_found_and_deleted(case):
    m = case.open(TAGS="team=a,cost=7")
    id, type, addresses = m.create()
    assert id.startswith("i-") and type == "m6a.large" and len(addresses) == 1, (id, type, addresses)
    assert m.find() == [("podvm-a", "sandbox-a", id)] and m.find("node2") == []
    m.remove(id=id)
    assert m.find() == [] and case.peer.left() == []


def what_is_asked_for_is_complete(case):
    m = case.open(TAGS="team=a,cost=7", SSH_KP_NAME="key")
    m.create()
    (run,) = case.peer.arguments("RunInstances")
    assert run["MinCount"] == run["MaxCount"] == 1 and run["KeyName"] == "key" and run["SubnetId"] == case.peer.subnet_id
    assert run["SecurityGroupIds"] == [case.peer.group] and run["ImageId"] == case.peer.image and run["InstanceType"] == "m6a.large"
    assert run["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"}
    assert run["InstanceInitiatedShutdownBehavior"] == "terminate" and len(run["ClientToken"]) == 36 and "CpuOptions" not in run
    want = {"Name": "podvm-a", "peerpod-name": "podvm-a", "peerpod-sandbox": "sandbox-a", "peerpod-node": "node1", "team": "a", "cost": "7"}
    for kind in ("instance", "volume", "network-interface"):
        assert tags_of(run["TagSpecifications"], kind) == want, run["TagSpecifications"]


def the_public_address_comes_first(case):
    m = case.open(USE_PUBLIC_IP="true")
    _, _, addresses = m.create()
    assert len(addresses) == 2 and addresses[1].startswith("172.31.") and not addresses[0].startswith("172.31."), addresses
    (nic,) = case.peer.arguments("RunInstances")[0]["NetworkInterfaces"]
    assert nic["AssociatePublicIpAddress"] and nic["DeleteOnTermination"] and nic["DeviceIndex"] == 0 and nic["SubnetId"] == case.peer.subnet_id
    m.remove()
    assert case.peer.left() == []


def a_second_interface_is_made_with_the_instance(case):
    m = case.open()
    _, _, addresses = m.create(multi_nic=True)
    assert len(addresses) == 2 and len(set(addresses)) == 2
    nics = case.peer.arguments("RunInstances")[0]["NetworkInterfaces"]
    assert [n["DeviceIndex"] for n in nics] == [0, 1] and all(n["DeleteOnTermination"] and n["Groups"] == [case.peer.group] for n in nics)
    m.remove()
    assert case.peer.left() == []


def two_interfaces_get_elastic_addresses_that_go_with_them(case):
    m = case.open(USE_PUBLIC_IP="true")
    _, _, addresses = m.create(multi_nic=True)
    assert len(addresses) == 4 and [a.startswith("172.31.") for a in addresses] == [False, False, True, True], addresses
    assert all(tags_of(a["TagSpecifications"], "elastic-ip")["peerpod-sandbox"] == "sandbox-a" for a in case.peer.arguments("AllocateAddress"))
    m.remove()
    assert case.peer.left() == []


def the_root_volume_is_the_images_own_and_big_enough(case):
    ec2 = case.peer.ec2
    other = next(i for i in ec2.describe_images() if i.architecture == "x86_64" and i.root_device_name == "/dev/xvda")
    case.open().create(image=other.id)
    case.open(ROOT_VOLUME_SIZE="0", ROOT_VOLUME_KMS_KEY="alias/pods").create(name="podvm-b", sandbox="sandbox-b")
    a, b = (r["BlockDeviceMappings"][0] for r in case.peer.arguments("RunInstances"))
    assert a["DeviceName"] == "/dev/xvda" and a["Ebs"]["VolumeSize"] == 30 and a["Ebs"]["DeleteOnTermination"], a
    assert 0 < b["Ebs"]["VolumeSize"] and b["Ebs"]["Encrypted"] and b["Ebs"]["KmsKeyId"] == "alias/pods", b
    refused("invalid-argument", "no id of an image", case.open().create, image="../x")
    refused("failed-precondition", "InvalidAMIID.NotFound", case.open().create, image="ami-00000000")


def confidential_vms_are_asked_for_unless_switched_off(case):
    case.open(DISABLECVM="false").create()
    assert case.peer.arguments("RunInstances")[0]["CpuOptions"] == {"AmdSevSnp": "enabled"}
    refused("failed-precondition", "has no AMD SEV-SNP", case.open(DISABLECVM="false", PODVM_INSTANCE_TYPE="m5.large").create)


def the_smallest_type_that_fits_is_taken(case):
    m = case.open(PODVM_INSTANCE_TYPES="m6a.xlarge,g4dn.xlarge,m6a.large,m6a.2xlarge")
    kinds = [m.create(name=f"podvm-{i}", sandbox=f"s{i}", **wish)[1] for i, wish in enumerate((
        {}, {"vcpus": 1, "memory_mib": 2048}, {"vcpus": 4, "memory_mib": 8192}, {"gpus": 1, "gpu_model": "T4"}, {"machine_type": "m6a.2xlarge"}))]
    assert kinds == ["m6a.large", "m6a.large", "m6a.xlarge", "g4dn.xlarge", "m6a.2xlarge"], kinds
    assert case.peer.actions().count("DescribeInstanceTypes") == 1
    refused("failed-precondition", "No allowed instance type fits", m.create, name="podvm-x", sandbox="sx", vcpus=64, memory_mib=1024)
    refused("invalid-argument", "t3.large", m.create, name="podvm-x", sandbox="sx", machine_type="t3.large")
    refused("failed-precondition", "No allowed instance type fits", m.create, name="podvm-x", sandbox="sx", gpus=1, gpu_model="H100")


def a_launch_template_is_used_and_overridden(case):
    ec2 = case.peer.ec2
    data = {"ImageId": case.peer.image, "InstanceType": "c5.large", "SecurityGroupId": [case.peer.group]}
    ec2.create_launch_template("kata", "1", data, {})
    m = case.open(USE_PODVM_LAUNCHTEMPLATE="true", without=("PODVM_AMI_ID", "AWS_SG_IDS", "AWS_SUBNET_ID"))
    m.create()
    run = case.peer.arguments("RunInstances")[0]
    assert run["LaunchTemplate"] == {"LaunchTemplateName": "kata", "Version": "$Default"} and not {"ImageId", "InstanceType", "SubnetId"} & set(run), run
    assert run["MetadataOptions"]["HttpTokens"] == "required"
    m = case.open(USE_PODVM_LAUNCHTEMPLATE="true", PODVM_INSTANCE_TYPE="m6a.xlarge", PODVM_LAUNCHTEMPLATE_VERSION="1", without=("AWS_SG_IDS",))
    m.create(name="podvm-b", sandbox="sandbox-b")
    run = case.peer.arguments("RunInstances")[1]
    assert run["InstanceType"] == "m6a.xlarge" and run["ImageId"] == case.peer.image and run["SubnetId"] == case.peer.subnet_id, run
    refused("failed-precondition", "needs AWS_SUBNET_ID", case.modules[0].create, name="podvm-c", sandbox="c", multi_nic=True)


def user_data_that_is_too_big_is_refused_before_any_call(case):
    m = case.open()
    refused("exhausted", "/run/peerpod/initdata", m.create,
            user_data="#cloud-config\n\nwrite_files:\n  - path: /run/peerpod/a\n  - path: /run/peerpod/initdata\n    content: |\n      " + "x" * 16384 + "\n")
    assert case.peer.actions() == []


def contradictory_settings_are_refused(case):
    for text, settings, without in (("PODVM_AMI_ID", {}, ("PODVM_AMI_ID",)), ("AWS_SG_IDS", {"AWS_SG_IDS": "pods"}, ()), ("TAGS", {"TAGS": "Name=x"}, ()),
                                    ("TAGS", {"TAGS": "aws:x=y"}, ()), ("AWS_REGION", {"AWS_REGION": "us/east"}, ()), ("PODVM_INSTANCE_TYPE", {"PODVM_INSTANCE_TYPE": "M*"}, ()),
                                    ("AWS_SECRET_ACCESS_KEY", {}, ("AWS_SECRET_ACCESS_KEY",)), ("AWS_SUBNET_ID", {"AWS_SUBNET_ID": "vpc-12345678"}, ())):
        refused("invalid-argument", text, case.open, without=without, **settings)


# ---- volumes ----

def volumes_are_attached_in_order(case):
    ec2 = case.peer.ec2
    ids = [ec2.create_volume(size=1, zone_name=case.peer.zone).id for _ in range(3)]
    m = case.open()
    id, _, _ = m.create(volumes=ids)
    assert [(a["VolumeId"], a["Device"]) for a in case.peer.arguments("AttachVolume")] == list(zip(ids, ("/dev/xvdb", "/dev/xvdc", "/dev/xvdd")))
    assert m.create(volumes=ids)[0] == id and case.peer.actions().count("AttachVolume") == 3, "a second try attaches nothing twice"
    refused("failed-precondition", f"attached to {id}", m.create, name="podvm-b", sandbox="b", volumes=ids[:1])
    m.remove(id=id)


def volumes_that_cannot_be_attached_are_refused_before_the_vm_is_made(case):
    ec2, m = case.peer.ec2, case.open()
    elsewhere = ec2.create_volume(size=1, zone_name=next(z for z in (f"{REGION}a", f"{REGION}b") if z != case.peer.zone)).id
    refused("failed-precondition", "is in zone", m.create, volumes=[elsewhere])
    refused("invalid-argument", "no id of an EBS volume", m.create, volumes=["vol-x"])
    refused("failed-precondition", "InvalidVolume.NotFound", m.create, volumes=["vol-00000000"])
    refused("invalid-argument", "twice", m.create, volumes=[elsewhere, elsewhere])
    assert "RunInstances" not in case.peer.actions()


# ---- once and only once ----

def a_second_create_returns_the_first_ones_instance(case):
    a = case.open().create()
    b = case.open().create(user_data="#cloud-config\nother: 1\n")
    assert a == b and case.peer.actions().count("RunInstances") == 1


def a_name_can_be_used_again(case):
    m = case.open()
    ids = []
    for data in ("#cloud-config\n", "#cloud-config\n", "#cloud-config\nother: 1\n"):
        ids.append(m.create(user_data=data)[0])
        m.remove(id=ids[-1])
    assert len(set(ids)) == 3 and case.peer.token_misses > 0 and case.peer.left() == [], ids


def another_owners_instance_is_left_alone(case):
    m = case.open()
    id, _, _ = m.create(sandbox="somebody")
    refused("already-exists", id, m.create)
    refused("failed-precondition", "somebody else", m.remove)
    refused("failed-precondition", "somebody else", m.remove, id=id)
    refused("already-exists", id, m.create, sandbox="somebody", node="node2")
    assert case.peer.left() == [id]


def what_is_gone_is_deleted(case):
    m = case.open()
    m.remove()
    m.remove(id="i-0123456789abcdef0")
    m.remove(id="eipalloc-0123456789abcdef0")
    id = m.create()[0]
    m.remove(id="i-0123456789abcdef0")
    assert case.peer.left() == [], "found by its tags when the id leads nowhere"
    m.remove(id=id)


def find_reads_all_pages(case):
    m = case.open()
    ids = sorted(m.create(name=f"podvm-{i}", sandbox=f"s{i}")[0] for i in range(12))
    m.create(name="podvm-other", sandbox="other", node="node2")
    case.peer.page_size = 5
    assert sorted(i for _, _, i in m.find()) == ids
    assert case.peer.actions().count("DescribeInstances") >= 26 + 3


def what_is_not_described_yet_is_waited_for(case):
    case.peer.on_run = lambda i: case.peer.hidden.update({i.id: 2})
    id = case.open().create()[0]
    assert case.peer.hidden == {id: 0}


def an_instance_that_dies_at_its_start_is_an_error_with_the_reason(case):
    def kill(i):
        i._state.name, i._state.code = "terminated", 48
        i._state_reason.message, i._state_reason.code = "Server.InsufficientInstanceCapacity: none left", "Server.InsufficientInstanceCapacity"

    case.peer.on_run = kill
    refused("exhausted", "none left", case.open().create)
    assert case.peer.left() == []


def an_address_without_an_instance_is_found_and_removed(case):
    m = case.open(USE_PUBLIC_IP="true")
    tags = {"peerpod-name": "podvm-a", "peerpod-sandbox": "sandbox-a", "peerpod-node": "node1"}
    address = case.peer.ec2.allocate_address("vpc", tags=tags).allocation_id
    assert m.find() == [("podvm-a", "sandbox-a", address)]
    m.remove(id=address)
    assert m.find() == [] and case.peer.left() == []


def policies_that_know_nothing_of_interfaces_do_for_deletion(case):
    m = case.open()
    id = m.create()[0]
    case.peer.answer = lambda action, a: (403, "UnauthorizedOperation") if action in ("DescribeNetworkInterfaces", "DescribeAddresses", "DescribeImages") else None
    assert m.find() == [("podvm-a", "sandbox-a", id)]
    case.open().remove(id=id)
    assert case.peer.left() == []


# ---- credentials, region ----

def session_tokens_are_sent(case):
    case.peer.keys["ASIAX"] = ("sEcr3t", "session-token")
    case.open(AWS_ACCESS_KEY_ID="ASIAX", AWS_SECRET_ACCESS_KEY="sEcr3t", AWS_SESSION_TOKEN="session-token").create()


KEYLESS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def a_web_identity_is_read_anew_each_time(case):
    with tempfile.TemporaryDirectory() as d:
        file = pathlib.Path(d) / "token"
        file.write_text("first-token\n")
        m = case.open(without=KEYLESS, environment={"AWS_WEB_IDENTITY_TOKEN_FILE": str(file), "AWS_ROLE_ARN": f"arn:aws:iam::{rig.ACCOUNT}:role/pods",
                                                    "AWS_ROLE_SESSION_NAME": "me"})
        m.create()
        file.write_text("second-token")
        case.peer.keys = {}         # all are refused from now on
        m.find()
    sts = case.peer.arguments("AssumeRoleWithWebIdentity")
    assert [a["WebIdentityToken"] for a in sts] == ["first-token", "second-token"] and sts[0]["RoleSessionName"] == "me"


def a_profile_assumes_its_role(case):
    with tempfile.TemporaryDirectory() as d:
        aws = pathlib.Path(d) / ".aws"
        aws.mkdir()
        (aws / "config").write_text("# mine\n[profile pods]\nrole_arn = arn:aws:iam::123456789012:role/pods\nsource_profile = base\nexternal_id=ext\n"
                                    f"region = {REGION}\ns3 =\n  addressing_style = path\n")
        (aws / "credentials").write_text(f"[base]\naws_access_key_id={KEY_ID}\naws_secret_access_key = {SECRET}\n")
        m = case.open(without=KEYLESS + ("AWS_REGION",), environment={"HOME": d}, **{"aws-profile": "pods"})
        m.create()
        assert case.peer.arguments("AssumeRole")[0]["ExternalId"] == "ext"
        case.open(without=KEYLESS, environment={"HOME": d, "AWS_PROFILE": "base"}).find()
        refused("unauthenticated", "no profile 'none'", case.open(without=KEYLESS, environment={"HOME": d}, **{"aws-profile": "none"}).find)
    assert case.peer.actions().count("AssumeRole") == 1


def container_credentials_are_asked_for_with_their_token(case):
    case.peer.keys["ASIAC"] = ("cs", "ct")
    case.peer.metadata["/container/creds"] = json.dumps({"AccessKeyId": "ASIAC", "SecretAccessKey": "cs", "Token": "ct", "Expiration": "2099-01-01T00:00:00Z"})
    with tempfile.NamedTemporaryFile("w") as token:
        token.write("container-token\n")
        token.flush()
        case.open(without=KEYLESS, environment={"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{case.peer.url}/container/creds",
                                                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": token.name}).create()
    refused("unauthenticated", "neither https", case.open(without=KEYLESS, environment={"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://192.0.2.1/x"}).find)


def an_instance_gives_role_region_and_network(case):
    mac = "02:00:00:00:00:01"
    rig.metadata_role(case.peer, "ASIAI", "is", "it")
    case.peer.metadata.update({"placement/region": REGION, "mac": mac, f"network/interfaces/macs/{mac}/subnet-id": case.peer.subnet_id,
                               f"network/interfaces/macs/{mac}/security-group-ids": f"{case.peer.group}\n{case.peer.group}", "public-keys": "0=node-key"})
    m = case.open(without=KEYLESS + ("AWS_REGION", "AWS_SUBNET_ID", "AWS_SG_IDS"))
    assert case.peer.metadata_calls == [], "nothing is asked before it is needed"
    m.create()
    run = case.peer.arguments("RunInstances")[0]
    assert run["SubnetId"] == case.peer.subnet_id and run["KeyName"] == "node-key" and run["SecurityGroupIds"] == [case.peer.group] * 2
    assert case.peer.metadata_calls.count(("PUT", "/latest/api/token")) == 1
    case.peer.metadata_tokens.clear()       # they have expired: 401
    case.peer.keys.pop("ASIAI")
    rig.metadata_role(case.peer, "ASIAJ", "js", "jt")
    m.remove()


def an_old_metadata_service_will_do_unless_forbidden(case):
    case.peer.metadata_v2 = False
    rig.metadata_role(case.peer, "ASIAI", "is", "it")
    case.open(without=KEYLESS).find()
    refused("not-found", "token", case.open(without=KEYLESS, environment={"AWS_EC2_METADATA_V1_DISABLED": "true"}).find)
    refused("failed-precondition", "AWS_EC2_METADATA_DISABLED", case.open(without=KEYLESS, environment={"AWS_EC2_METADATA_DISABLED": "true"}).find)


def a_wrong_clock_is_put_right_by_the_answer(case):
    case.peer.clock_offset = 3600
    m = case.open()
    m.find()
    n = len(case.peer.actions())
    m.find()
    assert len(case.peer.actions()) == 2 * n, "learnt for good"


def refused_credentials_are_an_error_of_that_kind(case):
    refused("unauthenticated", "SignatureDoesNotMatch", case.open(AWS_SECRET_ACCESS_KEY="wrong").create)
    case.peer.problems.clear()
    refused("unauthenticated", "AuthFailure", case.open(AWS_ACCESS_KEY_ID="AKIAUNKNOWN").create)


# ---- throttling ----

def a_throttled_call_is_repeated(case):
    case.peer.faults["RunInstances"] = ["throttle", "429", "503"]
    case.open().create()
    assert case.peer.actions().count("RunInstances") == 1


def a_hundred_creates_get_past_a_throttle(case):
    m = case.open()
    lock, n, throttled = threading.Lock(), [0], [0]

    def throttle(action, arguments):
        # By number, not by time: a slow machine would never be throttled.
        with lock:
            n[0] += 1
            if n[0] % 4:
                return None
            throttled[0] += 1
            return 503, "RequestLimitExceeded"

    case.peer.answer = throttle
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        results = list(pool.map(lambda i: m.create(name=f"podvm-{i}", sandbox=f"s{i}", timeout=120)[0], range(100)))
    assert len(set(results)) == 100 and throttled[0] > 0
    case.peer.answer = None
    assert sorted(results) == sorted(case.peer.left()), "one instance each"


# ---- the check ----

def check(case, environment=None, **settings):
    env = {"CLOUD_PROVIDER": "aws", **case.peer.environment(), **case.peer.settings(**settings), **(environment or {})}
    with tempfile.TemporaryDirectory() as d:
        r = subprocess.run([PROVIDERD, "--check", "--module-directory", os.path.dirname(MODULE), "--state-directory", d], env=env, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, timeout=60)
    assert SECRET not in r.stdout
    return r.returncode, r.stdout


def the_check_passes_and_makes_nothing(case):
    status, text = check(case)
    assert status == 0 and "The check of provider 'aws' passed." in text, text
    assert case.peer.left() == [] and case.peer.arguments("RunInstances")[0]["DryRun"]


def the_check_says_what_is_wrong(case):
    for settings, want, text in (({"AWS_SECRET_ACCESS_KEY": "wrong"}, 1, "SignatureDoesNotMatch"), ({"PODVM_AMI_ID": "ami-00000000"}, 1, "InvalidAMIID.NotFound"),
                                 ({"AWS_SUBNET_ID": "subnet-00000000"}, 1, "subnet-00000000"), ({"AWS_SG_IDS": "sg-00000000"}, 1, "sg-00000000"),
                                 ({"PODVM_AMI_ID": "nonsense"}, CONFIGURATION, "PODVM_AMI_ID")):
        status, said = check(case, **settings)
        assert status == want and text in said, (settings, status, said)
        case.peer.problems.clear()
    case.peer.answer = lambda action, a: (403, "UnauthorizedOperation", "no") if action == "TerminateInstances" else None
    status, said = check(case)
    assert status == 1 and "TerminateInstances: UnauthorizedOperation" in said, said


# ---- faults ----

def full_create(case, m, name="podvm-a", sandbox="sandbox-a", **kwargs):
    volume = case.peer.ec2.create_volume(size=1, zone_name=case.peer.zone).id
    return m.create(name, sandbox, multi_nic=True, volumes=[volume], **kwargs)


def count_calls(peer):
    case = Case(peer)
    m = case.open(USE_PUBLIC_IP="true")
    full_create(case, m)
    actions = peer.actions()
    m.remove()
    case.end()
    return actions


def in_processes(case, what):
    children = [subprocess.Popen([sys.executable, __file__, PROVIDERD, MODULE, what, str(k), str(PROCESSES)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                for k in range(PROCESSES)]
    outputs = [c.communicate()[0] for c in children]
    assert all(c.returncode == 0 for c in children), "\n".join(o for o, c in zip(outputs, children) if c.returncode)
    print("  " + " ".join(o.strip().splitlines()[-1] for o in outputs))


def any_fault_at_any_call_leaves_a_running_vm_or_nothing(case):
    in_processes(case, "faults")


def a_cancel_at_any_call_leaves_nothing(case):
    in_processes(case, "cancel")


def run_faults(peer, k, n):
    actions = count_calls(peer)
    script = [(i, fault) for fault in rig.BEFORE + rig.AFTER for i in range(1, len(actions) + 1)]
    failed = 0
    for i, fault in script[k::n]:
        case = Case(peer, keep=True)
        m, name = case.open(USE_PUBLIC_IP="true"), f"podvm-{fault}-{i}"
        peer.fault_at = (i, fault)
        try:
            full_create(case, m, name, name, timeout=1.5 if fault == "slow" else 60)
            m.remove(name, name)
        except ModuleError as e:
            failed += 1
            assert e.kind in ("unavailable", "unauthenticated", "internal", "failed-precondition", "timed-out", "not-found"), (fault, actions[i - 1], e.kind, e)
        assert peer.left() == [], (fault, i, actions[i - 1], peer.left(), peer.actions())
        case.end()
    print(f"{len(script[k::n])} faults, {failed} failures")


def run_cancels(peer, k, n):
    actions = count_calls(peer)
    script = [(i, how) for how in ("hold", "slow") for i in range(1, len(actions) + 1)]
    for i, how in script[k::n]:
        case = Case(peer, keep=True)
        m = case.open(USE_PUBLIC_IP="true")
        fd, begin = os.eventfd(0), []

        def cancel():
            begin.append(time.monotonic())
            os.eventfd_write(fd, 1)
            return how

        peer.fault_at = (i, cancel)
        refused("cancelled", "", full_create, case, m, f"podvm-{how}-{i}", f"podvm-{how}-{i}", cancel_fd=fd)
        took = time.monotonic() - begin[0]
        os.close(fd)
        # RunInstances itself: whether there will be an instance is not clear at once.
        assert took < (15 if actions[i - 1] == "RunInstances" else 5), (how, i, actions[i - 1], took)
        assert peer.left() == [], (how, i, actions[i - 1], peer.left())
        case.end()
    print(f"{len(script[k::n])} cancels")


CASES = [it_is_created_found_and_deleted, what_is_asked_for_is_complete, the_public_address_comes_first, a_second_interface_is_made_with_the_instance,
         two_interfaces_get_elastic_addresses_that_go_with_them, the_root_volume_is_the_images_own_and_big_enough,
         confidential_vms_are_asked_for_unless_switched_off, the_smallest_type_that_fits_is_taken, a_launch_template_is_used_and_overridden,
         user_data_that_is_too_big_is_refused_before_any_call, contradictory_settings_are_refused, volumes_are_attached_in_order,
         volumes_that_cannot_be_attached_are_refused_before_the_vm_is_made, a_second_create_returns_the_first_ones_instance, a_name_can_be_used_again,
         another_owners_instance_is_left_alone, what_is_gone_is_deleted, find_reads_all_pages, what_is_not_described_yet_is_waited_for,
         an_instance_that_dies_at_its_start_is_an_error_with_the_reason, an_address_without_an_instance_is_found_and_removed,
         policies_that_know_nothing_of_interfaces_do_for_deletion, session_tokens_are_sent, a_web_identity_is_read_anew_each_time, a_profile_assumes_its_role,
         container_credentials_are_asked_for_with_their_token, an_instance_gives_role_region_and_network, an_old_metadata_service_will_do_unless_forbidden,
         a_wrong_clock_is_put_right_by_the_answer, refused_credentials_are_an_error_of_that_kind, a_throttled_call_is_repeated,
         a_hundred_creates_get_past_a_throttle, the_check_passes_and_makes_nothing, the_check_says_what_is_wrong,
         any_fault_at_any_call_leaves_a_running_vm_or_nothing, a_cancel_at_any_call_leaves_nothing]


def main():
    peer, wanted, bad = Peer(), sys.argv[3:], 0
    if wanted[:1] == ["faults"] or wanted[:1] == ["cancel"]:
        (run_faults if wanted[0] == "faults" else run_cancels)(peer, int(wanted[1]), int(wanted[2]))
        peer.close()
        return
    for function in CASES:
        if wanted and function.__name__ not in wanted:
            continue
        case, begin = Case(peer), time.monotonic()
        try:
            function(case)
            case.end()
            print(f"ok {function.__name__} {time.monotonic() - begin:.1f}s", flush=True)
        except (AssertionError, ModuleError, OSError, subprocess.SubprocessError, LookupError, ValueError, AttributeError, TypeError) as e:
            bad += 1
            print(f"not ok {function.__name__}: {type(e).__name__}: {e} (line {e.__traceback__.tb_next.tb_lineno if e.__traceback__.tb_next else '?'})", flush=True)
            for m in case.modules:
                print("   ", "\n    ".join(m.messages[-6:]))
    peer.close()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
