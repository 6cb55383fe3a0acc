#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes of a unit's SystemCallFilter= lists the program for seccomp(2) that systemd would make of it (systemd: src/shared/
seccomp-util.c), but for what is not allowed: that ends the process, so that a test cannot miss it.

Usage: unit-filter.py UNIT OUTPUT"""
import platform
import re
import struct
import subprocess
import sys

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[platform.machine()]          # linux/audit.h
LD_W_ABS, JEQ_K, RET_K = 0x20, 0x15, 0x06                                               # linux/bpf_common.h
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000                                            # linux/seccomp.h
NR, ARCH = 0, 4                                                                         # offsets in struct seccomp_data


def expand(name):
    if not name.startswith("@"):
        return {name}
    out = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", name], stdout=subprocess.PIPE, check=True).stdout.decode()
    calls = set()
    for line in out.splitlines()[1:]:
        member = line.split("#")[0].strip()
        if member:
            calls |= expand(member)
    return calls


def numbers():
    out = subprocess.run(["cc", "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", "/dev/null"], stdout=subprocess.PIPE, check=True).stdout
    return {name: int(n) for name, n in re.findall(r"^#define __NR_(\w+) (\d+)$", out.decode(), re.M)}


def main(unit, output):
    with open(unit, encoding="utf-8") as f:
        settings = [line.strip().split("=", 1) for line in f if "=" in line and not line.startswith("#")]
    calls = expand("@default")
    filters = [value.split() for name, value in settings if name == "SystemCallFilter"]
    if not filters or filters[0][0].startswith("~"):
        sys.exit(f"{unit}: SystemCallFilter= does not begin with an allow-list")
    for first, *names in filters:
        named = set().union(*(expand(name) for name in [first.lstrip("~"), *names]))
        calls = calls - named if first.startswith("~") else calls | named
    if ["RestrictSUIDSGID", "yes"] in settings:
        calls -= {"openat2"}                    # whose mode a filter cannot see (systemd: src/shared/seccomp-util.c)

    known = numbers()
    allowed = sorted(known[call] for call in calls if call in known)

    program = [(LD_W_ABS, 0, 0, ARCH), (JEQ_K, 1, 0, AUDIT_ARCH), (RET_K, 0, 0, KILL_PROCESS), (LD_W_ABS, 0, 0, NR)]
    for number in allowed:
        program += [(JEQ_K, 0, 1, number), (RET_K, 0, 0, ALLOW)]
    program.append((RET_K, 0, 0, KILL_PROCESS))
    with open(output, "wb") as f:
        f.write(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))


main(*sys.argv[1:])
