#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Provider libvirt with a libvirtd: its storage pool, its network, QEMU without KVM. The guest is UEFI firmware with an empty disk, which is all
that a VM's life needs; the address that a guest would have made known is put into the neighbour table by hand.

Usage: provider-libvirtd-test.py PROVIDERD LIBVIRT.so; as root, for namespaces of its own"""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

import cloud_rig

PROVIDERD, MODULE = sys.argv[1:]
NAME = "podvm-web-sandbox1"
ADDRESS = "192.168.199.77"
NETWORK = """<network><name>peerpods</name><bridge name='ppd0'/><ip address='192.168.199.1' netmask='255.255.255.0'>
<dhcp><range start='192.168.199.2' end='192.168.199.254'/></dhcp></ip></network>"""


def run(*command, **kwargs):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **kwargs).stdout


class Libvirtd:
    """One with nothing of the machine's: in namespaces of this process, and with empty directories"""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.socket = f"{directory}/run/libvirt-sock"
        self.uri = f"qemu+unix:///system?socket={self.socket}"
        for place in ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/run"):
            pathlib.Path(place).mkdir(parents=True, exist_ok=True)
            run("mount", "-t", "tmpfs", "tmpfs", place)
        pathlib.Path("/etc/libvirt/qemu.conf").write_text(
            'user = "root"\ngroup = "root"\nstdio_handler = "file"\nsecurity_driver = "none"\ncgroup_controllers = []\nnamespaces = []\n')
        pathlib.Path("/etc/libvirt/network.conf").write_text('firewall_backend = "iptables"\n')
        (self.directory / "run").mkdir()
        (self.directory / "pool").mkdir()
        (self.directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{directory}/run"\nunix_sock_rw_perms = "0700"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n')
        self.start()
        self.virsh("pool-define-as", "peerpods", "dir", "--target", str(self.directory / "pool"))
        self.virsh("pool-start", "peerpods")
        self.virsh("vol-create-as", "peerpods", "podvm-base.qcow2", "64M", "--format", "qcow2")
        (self.directory / "network.xml").write_text(NETWORK)
        self.virsh("net-define", str(self.directory / "network.xml"))
        self.virsh("net-start", "peerpods")

    def start(self):
        with open(self.directory / "libvirtd.log", "ab") as log:
            self.process = subprocess.Popen(["libvirtd", "-f", str(self.directory / "libvirtd.conf"), "-p", f"{self.directory}/pid"],
                                            stdout=log, stderr=log)
        cloud_rig.wait_for(lambda: subprocess.run(["virsh", "-c", self.uri, "version"], stdout=subprocess.DEVNULL,
                                                  stderr=subprocess.DEVNULL, check=False).returncode == 0, "libvirtd answers")

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(60)

    def virsh(self, *arguments):
        return run("virsh", "-q", "-c", self.uri, *arguments)

    def domains(self):
        return self.virsh("list", "--all", "--name").split()

    def volumes(self):
        return sorted(line.split()[0] for line in self.virsh("vol-list", "peerpods").splitlines() if line.strip())

    def settings(self, **more):
        return {"LIBVIRT_URI": self.uri, "LIBVIRT_POOL": "peerpods", "LIBVIRT_NET": "peerpods", "LIBVIRT_ACCEL": "tcg",
                "LIBVIRT_VOL_NAME": "podvm-base.qcow2", "LIBVIRT_MEMORY": "256", "LIBVIRT_CPU": "1", **more}

    def mac(self):
        """Of the VM that runs, or None; it may be made anew between two looks"""
        if self.virsh("list", "--state-running", "--name").split() != [NAME]:
            return None
        text = subprocess.run(["virsh", "-q", "-c", self.uri, "dumpxml", NAME], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
        return xml.fromstring(text).find("devices/interface/mac").get("address") if text else None

    def let_it_speak(self):
        """As if the VM had spoken to this machine"""
        run("ip", "neigh", "replace", ADDRESS, "lladdr", cloud_rig.wait_for(self.mac, "the VM runs"), "dev", "ppd0", "nud", "stale")

    def assert_nothing_left(self):
        assert self.domains() == [], self.domains()
        assert self.volumes() == ["podvm-base.qcow2"], self.volumes()


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


def a_second_interface_is_refused(libvirtd):
    with cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings()) as d:
        try:
            d.create("sandbox1", NAME, multi_nic=True)
            raise AssertionError("it was made")
        except cloud_rig.Error as e:
            assert e.kind == "FailedPrecondition" and "EXTERNAL_NETWORK_VIA_PODVM" in str(e), e
        libvirtd.assert_nothing_left()


CASES = [a_vm_is_made_found_and_deleted_with_its_volumes, a_restart_of_libvirtd_is_survived,
         a_create_while_libvirtd_is_down_fails_and_leaves_nothing, a_vm_that_a_killed_daemon_has_begun_is_completed,
         another_sandboxs_vm_is_left_alone, what_is_not_there_is_named, a_second_interface_is_refused]


def main():
    os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)
    run("mount", "--make-rprivate", "/")
    run("ip", "link", "set", "lo", "up")
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
                    if libvirtd.process.poll() is not None:
                        libvirtd.start()
                    for domain in libvirtd.domains():
                        subprocess.run(["virsh", "-q", "-c", libvirtd.uri, "destroy", domain], check=False)
                        subprocess.run(["virsh", "-q", "-c", libvirtd.uri, "undefine", "--nvram", domain], check=False)
            if bad:
                print((libvirtd.directory / "libvirtd.log").read_text(errors="replace")[-4000:])
        finally:
            subprocess.run(["virsh", "-q", "-c", libvirtd.uri, "net-destroy", "peerpods"], check=False)
            libvirtd.stop()
    sys.exit(1 if bad else 0)


main()
