#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Provider libvirt with a libvirtd, and a proxy between them (libvirtd_proxy.py): each call of a create and of a delete fails once in each way.
Afterwards the VM runs, or nothing of it is left, or find() still names it; and the same call, made again, works.

Usage: provider-libvirtd-faults-test.py PROVIDERD LIBVIRT.so; as root, for namespaces of its own"""
import concurrent.futures
import itertools
import os
import sys
import tempfile

import cloud_rig
import libvirtd_proxy
import libvirtd_rig

PROVIDERD, MODULE = sys.argv[1:]
NUMBERS = itertools.count(1)
FAULTS = "cut", "lost", "error"         # libvirtd_proxy.py


class Rig:
    """One daemon behind one proxy, and one sandbox"""

    def __init__(self, libvirtd, *options):
        n = next(NUMBERS)
        self.libvirtd, self.sandbox, self.name = libvirtd, f"sandbox{n}", f"podvm-web-sandbox{n}"
        self.address = f"192.168.199.{2 + n % 250}"
        self.proxy = libvirtd_proxy.Proxy(libvirtd, libvirtd.directory / f"proxy{n}", self.address)
        # Without firmware the VM, whose disk is empty, has nothing to do.
        self.daemon = cloud_rig.Daemon(PROVIDERD, MODULE, libvirtd.settings(LIBVIRT_URI=self.proxy.uri, LIBVIRT_MEMORY="64"), ["--firmware", "", *options])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.daemon.__exit__(*exception)
        self.proxy.__exit__()

    def create(self):
        _, _, addresses = self.daemon.create(self.sandbox, self.name)
        assert addresses == [self.address], addresses
        assert len(self.domain()) == 2, self.domain()

    def delete(self):
        self.daemon.delete(self.sandbox, self.name)

    def found(self):
        return [name for _, name, _ in self.daemon.find()].count(self.name)

    def domain(self):
        """libvirtd's own files of the VM, one if it is defined and one if it runs, since asking it each time takes longer than all the rest"""
        return [f for f in (f"/etc/libvirt/qemu/{self.name}.xml", f"/run/libvirt/qemu/{self.name}.xml") if os.path.exists(f)]

    def assert_nothing_left(self):
        left = self.domain()
        left += [f for f in self.libvirtd.files() if f.startswith(f"{self.name}-")]
        assert not left, left


def outcome(call, *arguments):
    try:
        call(*arguments)
        return None
    except cloud_rig.Error as e:
        return e


def judge(fault, error, what):
    """Whoever asks must learn that another try is worth it, and never that the VM is somebody else's"""
    if error is None:
        return f"{what}: done"
    if fault in ("cut", "lost"):
        assert error.kind == "Unavailable", f"{what}: {error}"
    elif fault == "hang":
        assert error.kind in ("Unavailable", "Cancelled"), f"{what}: {error}"
    else:
        assert error.kind in ("Internal", "Unavailable") and "made up by the test" in error.text, f"{what}: {error}"
    return f"{what}: {error}"


def create_with(r, label, fault):
    """Afterwards the VM runs, or nothing is left; returns a text, and whether it runs"""
    r.proxy.arm(label, fault)
    error = outcome(r.create)
    assert r.proxy.hit.is_set(), f"no call {label} of a create"
    if error:
        r.assert_nothing_left()
    return judge(fault, error, f"create {label} {fault}"), not error


def delete_with(r, label, fault):
    """Afterwards it is gone"""
    r.proxy.arm(label, fault)
    error = outcome(r.delete)
    assert r.proxy.hit.is_set(), f"no call {label} of a delete"
    text = judge(fault, error, f"delete {label} {fault}")
    if error and not r.found():
        r.assert_nothing_left()
    r.delete()
    r.assert_nothing_left()
    return text


def one_life(libvirtd, create, delete, fault):
    """A fault at a call of its creation, which is then made again, and one at a call of its deletion"""
    with Rig(libvirtd) as r:
        text, runs = create_with(r, create, fault)
        if not runs:
            r.create()
        return [text, delete_with(r, delete, fault)]


def one_create_after_the_other(libvirtd, labels, fault):
    """A fault at a call of each, and none at last"""
    texts = []
    with Rig(libvirtd) as r:
        for label in labels:
            text, runs = create_with(r, label, fault)
            texts.append(text)
            if runs:
                r.delete()
        r.create()
        r.delete()
        r.assert_nothing_left()
    return texts


def a_silent_connection_at_a_create(libvirtd, label):
    """A cancel, as a delete does it, ends it"""
    with Rig(libvirtd) as r:
        r.proxy.arm(label, "hang")
        job = r.daemon.start(outcome, r.daemon.create, r.sandbox, r.name)      # if it succeeds, the VM is gone at once
        assert r.proxy.hung.wait(cloud_rig.PATIENCE), f"no call {label} of a create"
        r.delete()
        texts = [judge("hang", job.result(cloud_rig.PATIENCE), f"create {label} hang")]
        r.assert_nothing_left()
        assert not r.found()
    return texts


def a_silent_connection_at_a_delete(libvirtd, label):
    with Rig(libvirtd) as r:
        r.create()
        return [delete_with(r, label, "hang")]


def a_wait_for_a_connection_that_is_not_made_ends(libvirtd, label):
    """The daemon listens and does not answer: a cancel, and the deadline, end the wait of whoever connects, and of those behind it"""
    with Rig(libvirtd, "--create-timeout=5s") as r:
        r.proxy.arm(label, "hang")
        late = r.daemon.start(outcome, r.daemon.create, "late")
        assert r.proxy.hung.wait(cloud_rig.PATIENCE), f"no call {label}"
        error = late.result(cloud_rig.PATIENCE)
        assert error and error.kind == "TimedOut" and "No connection to libvirt in time" in error.text, error
    with Rig(libvirtd) as r:
        r.proxy.arm(label, "hang")
        first = r.daemon.start(outcome, r.daemon.find)
        assert r.proxy.hung.wait(cloud_rig.PATIENCE), f"no call {label}"
        jobs = [r.daemon.start(outcome, r.daemon.create, r.sandbox + n, r.name + n) for n in "ab"]
        cloud_rig.wait_for(lambda: r.daemon.log().count("Creating instance") == 2, "both creates have begun")
        deletes = [r.daemon.start(outcome, r.daemon.delete, r.sandbox + n, r.name + n) for n in "ab"]
        for job in jobs:
            error = job.result(cloud_rig.PATIENCE)
            assert error and error.kind == "Cancelled", error
        r.proxy.cut()
        error = first.result(cloud_rig.PATIENCE)
        assert error and error.kind == "Unavailable", error
        errors = [job.result(cloud_rig.PATIENCE) for job in deletes]
        assert errors == [None, None], errors
        r.create()
        r.delete()
        r.assert_nothing_left()
    return ["a wait for a connection: TimedOut, Cancelled"]


def each_fault_at_each_call_of_a_find(libvirtd, labels):
    """What it cannot ask about is no reason to say that it is not there"""
    texts = []
    with Rig(libvirtd) as r:
        r.create()
        for fault, label in itertools.product(FAULTS, labels):
            assert r.found() == 1           # and the connection is there again
            r.proxy.arm(label, fault)
            found = []
            error = outcome(lambda: found.append(r.found()))
            assert r.proxy.hit.is_set(), f"no call {label} of a find"
            assert error or found == [1], f"find {label} {fault}: {found}"
            texts.append(judge(fault, error, f"find {label} {fault}"))
        r.delete()
    return texts


def a_vm_that_goes_while_it_is_looked_at_is_nobody_elses(libvirtd, ask):
    """ask: the call whose it is"""
    with Rig(libvirtd) as r:
        r.create()
        r.proxy.arm(ask, "gone")
        r.found()               # there may be others, whose call it is
        assert r.proxy.hit.is_set(), f"no call {ask} of a find"
        for call in (r.create, r.delete):
            r.proxy.arm(ask, "gone")
            cloud_rig.expect("Internal", "made up by the test", call)
        r.delete()
        r.assert_nothing_left()
    return ["a VM that goes while it is looked at"]


def calls(libvirtd):
    """Labels of a daemon's first create, the first n of which make the connection, of its next create, of a delete, and of a find"""
    with Rig(libvirtd) as r:
        r.create()
        first = list(r.proxy.labels)
        r.proxy.arm()
        assert r.found() == 1
        find = list(r.proxy.labels)
        r.delete()
        r.proxy.arm()
        r.create()
        again = list(r.proxy.labels)
        r.proxy.arm()
        r.delete()
        delete = list(r.proxy.labels)
    assert [c for c in first if c in again] == again, (first, again)
    return first, first.index(again[0]), again, delete, find


def main():
    libvirtd_rig.enter_namespaces()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="pplvd-", dir="/tmp") as directory:
        libvirtd = libvirtd_rig.Libvirtd(directory)
        try:
            create, handshake, again, delete, find = calls(libvirtd)
            print(f"   {len(create)} calls of a create, {len(delete)} of a delete, {len(find)} of a find", flush=True)
            # The silence of a connection is noticed after 20 seconds, in which the others have the machine.
            slow = [(a_silent_connection_at_a_create, label) for label in create[handshake:]]
            slow += [(a_silent_connection_at_a_delete, label) for label in delete]
            # Calls that a daemon makes once, and the last ones, at which the VM runs, have a life each.
            once = [c for c in create if c not in again]
            late = again[len(once) - len(delete):]
            quick = [(one_life, *labels, fault) for fault in FAULTS for labels in zip(once + late, delete)]
            quick += [(one_create_after_the_other, again[:-len(late)], fault) for fault in FAULTS]
            quick += [(each_fault_at_each_call_of_a_find, find), (a_wait_for_a_connection_that_is_not_made_ends, create[0]),
                      (a_vm_that_goes_while_it_is_looked_at_is_nobody_elses, find[1])]
            with concurrent.futures.ThreadPoolExecutor(len(slow)) as waiting, concurrent.futures.ThreadPoolExecutor(8) as pool:
                jobs = [(waiting.submit(f, libvirtd, *a), f, a) for f, *a in slow] + [(pool.submit(f, libvirtd, *a), f, a) for f, *a in quick]
                for job, f, a in jobs:
                    try:
                        print(*(f"ok {text}\n" for text in job.result()), sep="", end="", flush=True)
                    except Exception as e:
                        bad += 1
                        print(f"not ok {f.__name__} {a}: {type(e).__name__}: {e}", flush=True)
            if not bad:
                libvirtd.assert_nothing_left()
                links = libvirtd_rig.run("ip", "-o", "link", "show", "master", "ppd0")
                assert links == "", links
        finally:
            libvirtd.clean()
    sys.exit(1 if bad else 0)


main()
