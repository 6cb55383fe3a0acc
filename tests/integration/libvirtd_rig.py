# SPDX-License-Identifier: Apache-2.0
"""For the tests of provider libvirt: a libvirtd with its storage pool and network, and QEMU without KVM. The guest is UEFI firmware with an empty disk,
which is all that a VM's life needs; the address that a guest would have made known is put into the neighbour table by hand."""
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import threading
import xml.etree.ElementTree as xml

import cloud_rig

NAME = "podvm-web-sandbox1"
ADDRESS = "192.168.199.77"
NETWORK = """<network><name>peerpods</name><bridge name='ppd0'/><ip address='192.168.199.1' netmask='255.255.255.0'>
<dhcp><range start='192.168.199.2' end='192.168.199.254'/></dhcp></ip></network>"""


def run(*command, **kwargs):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **kwargs).stdout


def enter_namespaces():
    os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)
    run("mount", "--make-rprivate", "/")
    run("ip", "link", "set", "lo", "up")


def others_in_namespace():
    """Numbers of the processes"""
    def namespace(pid):
        try:
            return os.readlink(f"/proc/{pid}/ns/net")
        except OSError:         # it ends
            return None
    return [p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid() and namespace(p) == namespace("self")]


class Libvirtd:
    """One with nothing of the machine's: in namespaces of this process (enter_namespaces()), and with empty directories"""

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

    def end_domains(self):
        if self.process.poll() is not None:
            self.start()
        for domain in self.domains():
            subprocess.run(["virsh", "-q", "-c", self.uri, "destroy", domain], check=False)
            subprocess.run(["virsh", "-q", "-c", self.uri, "undefine", "--nvram", domain], check=False)

    def clean(self):
        """The end: no VM, no network, no daemon, and no other process in the network namespace of this one"""
        self.end_domains()
        subprocess.run(["virsh", "-q", "-c", self.uri, "net-destroy", "peerpods"], check=False)
        self.stop()
        cloud_rig.wait_for(lambda: not others_in_namespace(), "the last process ends")

    def log(self):
        return (self.directory / "libvirtd.log").read_text(errors="replace")

    def virsh(self, *arguments):
        return run("virsh", "-q", "-c", self.uri, *arguments)

    def domains(self):
        return self.virsh("list", "--all", "--name").split()

    def volumes(self):
        return sorted(line.split()[0] for line in self.virsh("vol-list", "peerpods").splitlines() if line.strip())

    def files(self):
        return sorted(os.listdir(self.directory / "pool"))

    def settings(self, **more):
        return {"LIBVIRT_URI": self.uri, "LIBVIRT_POOL": "peerpods", "LIBVIRT_NET": "peerpods", "LIBVIRT_ACCEL": "tcg",
                "LIBVIRT_VOL_NAME": "podvm-base.qcow2", "LIBVIRT_MEMORY": "256", "LIBVIRT_CPU": "1",
                "LIBVIRT_ROOT_DISK_SIZE": "1", **more}

    def mac(self):
        """Of the VM that runs, or None; it may be made anew between two looks"""
        if self.virsh("list", "--state-running", "--name").split() != [NAME]:
            return None
        text = subprocess.run(["virsh", "-q", "-c", self.uri, "dumpxml", NAME], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
        return xml.fromstring(text).find("devices/interface/mac").get("address") if text else None

    def let_it_speak(self):
        """As if the VM had spoken to this machine"""
        run("ip", "neigh", "replace", ADDRESS, "lladdr", cloud_rig.wait_for(self.mac, "the VM runs"), "dev", "ppd0", "nud", "stale")

    @contextlib.contextmanager
    def all_speak(self):
        """As if each VM spoke to this machine as soon as its interface is there, whose address is the guest's with another first byte"""
        addresses = {}

        def listen(monitor):
            for line in monitor.stdout:
                mac = re.search(r" master ppd0 .* link/ether fe:([0-9a-f:]+) ", line)
                if mac and mac[1] not in addresses:
                    addresses[mac[1]] = f"192.168.199.{len(addresses) % 200 + 2}"
                    run("ip", "neigh", "replace", addresses[mac[1]], "lladdr", "52:" + mac[1], "dev", "ppd0", "nud", "stale")
        with subprocess.Popen(["ip", "-o", "monitor", "link"], stdout=subprocess.PIPE, text=True) as monitor:
            thread = threading.Thread(target=listen, args=(monitor,))
            thread.start()
            try:
                yield
            finally:
                monitor.terminate()
                thread.join()

    def assert_nothing_left(self):
        assert self.domains() == [], self.domains()
        assert self.volumes() == ["podvm-base.qcow2"], self.volumes()
        assert self.files() == ["podvm-base.qcow2"], self.files()
