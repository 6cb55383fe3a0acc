# SPDX-License-Identifier: Apache-2.0
"""peerpod-ctrl with the real module of a cloud: EC2 as moto has it (aws_rig.py), each request checked against botocore.

Usage: kube-ctrl-aws-test.py CTRL PROVIDERD AWS-MODULE INSTALL-DIRECTORY [CASE…]"""
import os
import sys

os.environ.update(MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION="true", MOTO_ENABLE_AMI_VALIDATION="true", MOTO_ENABLE_KEYPAIR_VALIDATION="")
from aws_rig import Module, Peer
from kube_ctrl_rig import Rig, run, sandbox

CTRL, PROVIDERD, MODULE, INSTALL = sys.argv[1:5]


class Cloud(Rig):
    """A cluster, and an account at the cloud"""

    def __init__(self, peer):
        self.peer = peer
        peer.reset(keep=True)
        super().__init__(CTRL, PROVIDERD, [MODULE], INSTALL)
        secret = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        everything = {**peer.environment(), **peer.settings()}
        self.settings.write_text("".join(f"{k}='{v}'\n" for k, v in everything.items() if k not in secret))
        self.credentials = self.path / "credentials.env"
        self.credentials.write_text("".join(f"{k}='{everything[k]}'\n" for k in secret))
        self.module = Module(MODULE, peer.settings(), peer.environment())

    def __exit__(self, kind, *rest):
        self.module.close()
        if kind is None:
            assert not self.peer.problems, self.peer.problems
        super().__exit__(kind, *rest)

    def start(self, *arguments):
        return super().start(f"--credentials={self.credentials}", *arguments)

    def running(self):
        return [i.id for i in self.peer.ec2.all_instances() if i._state.name == "running"]

    def made_by_upstream(self, name):
        """RunInstances as cloud-api-adaptor calls it: no tag but the name"""
        reservation = self.peer.ec2.run_instances(self.peer.image, 1, "", [], instance_type="t3.small", is_instance_type_default=False, tags={"instance": {"Name": name}})
        return reservation.instances[0].id


PEER = None


def the_instance_of_a_pod_that_has_ended_is_deleted():
    with Cloud(PEER) as r:
        id, _, _ = r.module.create(name="podvm-web", sandbox=sandbox(1))
        other, _, _ = r.module.create(name="podvm-other", sandbox=sandbox(2))
        r.peerpod("web", r.pod("web"), cloudProvider="aws", instanceID=id, instanceName="podvm-web", sandboxID=sandbox(1))
        r.start().ready()
        r.delete_pod("web")
        r.gone("web")
        assert r.running() == [other]
        r.module.remove(name="podvm-other", sandbox=sandbox(2))


def one_whose_id_was_never_learnt_is_found_by_its_tags():
    with Cloud(PEER) as r:
        r.module.create(name="podvm-web", sandbox=sandbox(1))
        r.peerpod("web", r.pod("web"), cloudProvider="aws", instanceName="podvm-web", sandboxID=sandbox(1))
        r.start().ready()
        r.delete_pod("web")
        r.gone("web")
        assert r.running() == []


def one_that_is_gone_is_released():
    with Cloud(PEER) as r:
        r.peerpod("web", r.pod("web"), cloudProvider="aws", instanceID="i-0123456789abcdef0", instanceName="podvm-web", sandboxID=sandbox(1))
        r.start().ready()
        r.delete_pod("web")
        r.gone("web")


def another_sandboxs_instance_is_left_alone():
    with Cloud(PEER) as r:
        id, _, _ = r.module.create(name="podvm-web", sandbox=sandbox(2))
        r.peerpod("web", r.pod("web"), cloudProvider="aws", instanceID=id, instanceName="podvm-web", sandboxID=sandbox(1))
        r.start().ready()
        r.delete_pod("web")
        reason, message = r.condition("web")
        assert reason == "FailedPrecondition" and "belongs to somebody else" in message
        assert r.running() == [id]
        r.module.remove(name="podvm-web", sandbox=sandbox(2))


def one_that_upstream_made_is_deleted_if_its_name_is_the_pods():
    with Cloud(PEER) as r:
        theirs, foreign = r.made_by_upstream("podvm-web-1a2b3c4d"), r.made_by_upstream("podvm-website-1a2b3c4d")
        ours, _, _ = r.module.create(name="podvm-web-ours", sandbox=sandbox(3))
        for name, id in (("theirs", theirs), ("foreign", foreign), ("ours", ours)):
            r.peerpod(name, r.pod("web") if name == "theirs" else r.api.store.get(r.resource("v1", "pods"), "default", "web"), cloudProvider="aws", instanceID=id)
        r.start("--delete-untagged").ready()
        r.delete_pod("web")
        r.gone("theirs")
        for name in ("foreign", "ours"):
            assert r.condition(name)[0] == "FailedPrecondition"
        assert sorted(r.running()) == sorted([foreign, ours])
        r.module.remove(name="podvm-web-ours", sandbox=sandbox(3))
        r.peer.ec2.terminate_instances([foreign])


CASES = [v for k, v in list(globals().items()) if callable(v) and getattr(v, "__module__", "") == "__main__" and k != "Cloud"]

if __name__ == "__main__":
    PEER = Peer()
    status = run([], CASES, sys.argv[5:])
    PEER.close()
    sys.exit(status)
