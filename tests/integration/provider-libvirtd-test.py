#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Provider libvirt with a libvirtd (libvirtd_rig.py).

Usage: provider-libvirtd-test.py PROVIDERD LIBVIRT.so; as root, for namespaces of its own"""
import os
import pathlib
import signal
import sys
import tempfile

import cloud_rig
from libvirtd_rig import ADDRESS, NAME, Libvirtd, enter_namespaces, run

PROVIDERD, MODULE = sys.argv[1:]
SLOW = 600              # seconds


def create(daemon, libvirtd):
    job = daemon.start(daemon.create, "sandbox1", NAME, vcpus=1, memory_mib=256)
    libvirtd.let_it_speak()
    return job.result(cloud_rig.PATIENCE)


def a_vm_is_made_found_and_deleted_with_its_volumes(libvirtd):
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings()) as d:
        id, _, addresses = create(d, libvirtd)
        assert addresses == [ADDRESS], addresses
        assert [tuple(f) for f in d.find()] == [("sandbox1", NAME, id)], d.find()
        assert d.find("node2") == []
        assert len(libvirtd.volumes()) == 3, libvirtd.volumes()
        d.delete("sandbox1", NAME, id)
        libvirtd.assert_nothing_left()
        d.delete("sandbox1", NAME, id)


def a_restart_of_libvirtd_is_survived(libvirtd):
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings()) as d:
        id, _, _ = create(d, libvirtd)
        libvirtd.stop(signal.SIGKILL)
        libvirtd.start()
        cloud_rig.wait_for(lambda: libvirtd.domains() == [NAME], "libvirtd knows its VM again")
        assert len(d.find()) == 1
        d.delete("sandbox1", NAME, id)
        libvirtd.assert_nothing_left()


def a_create_while_libvirtd_is_down_fails_and_leaves_nothing(libvirtd):
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings()) as d:
        d.verify()
        libvirtd.stop()
        try:
            d.create("sandbox1", NAME)
            raise AssertionError("it was made")
        except cloud_rig.Error as e:
            assert e.kind == "Unavailable", e
        libvirtd.start()
        libvirtd.assert_nothing_left()
        d.verify()


def a_vm_that_a_killed_daemon_has_begun_is_completed(libvirtd):
    d = cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings())
    job = d.start(d.create, "sandbox1", NAME, vcpus=1, memory_mib=256)
    cloud_rig.wait_for(libvirtd.mac, "the VM runs")
    d.kill()
    try:
        job.result(cloud_rig.PATIENCE)
    except Exception:       # its connection is gone
        pass
    d.close()
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings()) as again:
        uuid = libvirtd.virsh("domuuid", NAME).strip()
        id, _, _ = create(again, libvirtd)
        assert id == uuid, (id, uuid)
        again.delete("sandbox1", NAME)
        libvirtd.assert_nothing_left()


def another_sandboxs_vm_is_left_alone(libvirtd):
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings()) as d:
        id, _, _ = create(d, libvirtd)
        for kind, call in (("AlreadyExists", lambda: d.create("sandbox2", NAME)), ("FailedPrecondition", lambda: d.delete("sandbox2", NAME))):
            try:
                call()
                raise AssertionError("no error")
            except cloud_rig.Error as e:
                assert e.kind == kind, e
        assert libvirtd.domains() == [NAME]
        d.delete("sandbox1", NAME, id)
        libvirtd.assert_nothing_left()


def what_is_not_there_is_named(libvirtd):
    for variable, text in (("LIBVIRT_POOL", "pool"), ("LIBVIRT_NET", "network"), ("LIBVIRT_VOL_NAME", "nowhere")):
        status, output = cloud_rig.check(PROVIDERD, MODULE, libvirtd.settings(**{variable: "nowhere"}))
        assert status != 0 and text in output and "nowhere" in output, output
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings()) as d:
        try:
            d.create("sandbox1", NAME, image="nowhere.qcow2")
            raise AssertionError("it was made")
        except cloud_rig.Error as e:
            assert "nowhere.qcow2" in str(e), e
        libvirtd.assert_nothing_left()


def a_confidential_vm_is_refused_on_this_machine(libvirtd):
    """Never is an ordinary one made in its place"""
    for more, said in (({"DISABLECVM": "false"}, "on s390x only, not on "), ({"DISABLECVM": "false", "LIBVIRT_LAUNCH_SECURITY": "s390-pv"}, "on s390x only"),
                       ({"DISABLECVM": "false", "LIBVIRT_LAUNCH_SECURITY": "sev-snp"}, "sev-snp"),
                       ({"LIBVIRT_LAUNCH_SECURITY": "s390-pv"}, "DISABLECVM")):
        status, output = cloud_rig.check(PROVIDERD, MODULE, libvirtd.settings(**more))
        assert status != 0 and said in output, output
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings(DISABLECVM="false")) as d:
        cloud_rig.expect("FailedPrecondition", "possible on s390x only, not on ", d.create, "sandbox1", NAME)
        libvirtd.assert_nothing_left()


def a_second_interface_is_refused(libvirtd):
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings()) as d:
        try:
            d.create("sandbox1", NAME, multi_nic=True)
            raise AssertionError("it was made")
        except cloud_rig.Error as e:
            assert e.kind == "FailedPrecondition" and "EXTERNAL_NETWORK_VIA_PODVM" in str(e), e
        libvirtd.assert_nothing_left()


def a_pool_without_room_is_named(libvirtd):
    """And asked again once somebody has made room"""
    place = str(libvirtd.directory / "small")
    run("mkdir", place)
    run("mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", place)
    libvirtd.virsh("pool-create-as", "small", "dir", "--target", place)
    try:
        libvirtd.virsh("vol-create-as", "small", "podvm-base.qcow2", "64M", "--format", "qcow2")
        settings = libvirtd.settings(LIBVIRT_POOL="small")
        text = "Storage pool 'small' has 0.50 GiB free, and a VM needs 1.00 GiB"
        status, output = cloud_rig.check(PROVIDERD, MODULE, settings)
        assert status != 0 and text in output, output
        with cloud_rig.Daemon(PROVIDERD, MODULE, settings) as d:
            cloud_rig.expect("Exhausted", text, d.create, "sandbox1", NAME)
            assert libvirtd.domains() == []
            assert libvirtd.virsh("vol-list", "small").split()[::2] == ["podvm-base.qcow2"]
            run("mount", "-o", "remount,size=4g", place)
            create(d, libvirtd)
            d.verify()
            d.delete("sandbox1", NAME)
    finally:
        libvirtd.virsh("pool-destroy", "small")
        run("umount", place)
    libvirtd.assert_nothing_left()


def a_hundred_at_once_on_a_slow_host(libvirtd):
    """libvirtd has a few calls of a connection under way at a time, and reads nothing more meanwhile, not even the question whether it is alive. The
    first VMs take longer to start than a connection may be silent."""
    hooks = pathlib.Path("/etc/libvirt/hooks")
    hooks.mkdir()
    slow = libvirtd.directory / "slow"
    slow.mkdir()
    (hooks / "qemu").write_text(f"#!/bin/sh\n[ $2 = prepare ] || exit 0\nfor i in 1 2 3 4 5 6 7 8; do mkdir {slow}/$i 2>/dev/null && exec sleep 40; done\nexit 0\n")
    (hooks / "qemu").chmod(0o755)
    libvirtd.stop()
    libvirtd.start()            # it looks for hooks once
    sandboxes = [f"sandbox{i}" for i in range(100)]
    # Without firmware a VM, whose disk is empty, has nothing to do.
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings(LIBVIRT_MEMORY="64"), ["--firmware", ""]) as d, libvirtd.all_speak():
        made = [job.result(SLOW) for job in [d.start(d.create, s, timeout=SLOW) for s in sandboxes]]
        assert len({id for id, _, _ in made}) == 100
        assert len(os.listdir(slow)) == 8
        assert sorted(s for s, _, _ in d.find()) == sorted(sandboxes)
        for job in [d.start(d.delete, s, timeout=SLOW) for s in sandboxes]:
            job.result(SLOW)
        assert "ended by" not in d.log(), d.log()
    libvirtd.assert_nothing_left()


CASES = [a_vm_is_made_found_and_deleted_with_its_volumes, a_restart_of_libvirtd_is_survived,
         a_create_while_libvirtd_is_down_fails_and_leaves_nothing, a_vm_that_a_killed_daemon_has_begun_is_completed,
         another_sandboxs_vm_is_left_alone, what_is_not_there_is_named, a_pool_without_room_is_named, a_second_interface_is_refused,
         a_confidential_vm_is_refused_on_this_machine, a_hundred_at_once_on_a_slow_host]


def main():
    enter_namespaces()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="pplvd-", dir="/tmp") as directory:
        libvirtd = Libvirtd(directory)
        try:
            for case in CASES:
                try:
                    case(libvirtd)
                    print(f"ok {case.__name__}", flush=True)
                except Exception as e:
                    bad += 1
                    print(f"not ok {case.__name__}: {type(e).__name__}: {e}", flush=True)
                    libvirtd.end_domains()
            if bad:
                print(libvirtd.log()[-4000:])
        finally:
            libvirtd.clean()
    sys.exit(1 if bad else 0)


main()
