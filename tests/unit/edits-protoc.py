#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What our edits leave alone is there afterwards, also what our .proto files do not know, as protoc sees it.
#
# The messages are made by protoc from a schema that is ahead of ours: each message of it has fields more. They are random, with a
# fixed seed, and reach into every message below the request. Before and after the edit they are decoded by protoc, once by that schema
# and once without any (--decode_raw), and compared.
#
# Usage: edits-protoc.py PROTOC EDIT-MESSAGE PROTO-DIRECTORY
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

protoc, edit_message, proto_directory = sys.argv[1:]
rng = random.Random(1)
N_MESSAGES = 25

NEWER = """
        string newer_text = 901;
        uint64 newer_number = 902;
        fixed32 newer_fixed = 903;
        double newer_double = 904;
        repeated sint32 newer_list = 905;
        map<string, bytes> newer_map = 906;
"""
FIELD = re.compile(r"^\s*(?:oneof \w+ \{ )?(repeated )?(map<[^>]*>|[\w.]+) (\w+) = \d+;", re.MULTILINE)
CONTAINER, SANDBOX = "grpc.CreateContainerRequest", "grpc.CreateSandboxRequest"

messages = {}           # name → [(repeated, type, name)]
enums = {}              # name → values


def read_schema(directory):
    for name in ("agent.proto", "oci.proto", "types.proto", "csi.proto"):
        path = os.path.join(directory, name)
        text = open(path).read()
        for enum, body in re.findall(r"^enum (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            enums[enum] = re.findall(r"^\s*(\w+) = \d+;", body, re.MULTILINE)
        # A field after the last one, so that oneofs stay as they are.
        text = re.sub(r"^(message \w+ \{.*?)^\}", lambda m: m[1] + NEWER + "}", text, flags=re.MULTILINE | re.DOTALL)
        text = re.sub(r"^(message \w+ \{)\}", lambda m: m[1] + NEWER + "}", text, flags=re.MULTILINE)
        for message, body in re.findall(r"^message (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            messages[message] = FIELD.findall(body)
        open(path, "w").write(text)


def word():
    return json.dumps("".join(rng.choice("abc/._-é") for _ in range(rng.choice((0, 1, 3, 200)))), ensure_ascii=False)


def scalar(kind):
    if kind in ("string", "bytes"):
        return word()
    if kind == "bool":
        return rng.choice(("true", "false"))
    if kind == "double":
        return rng.choice(("0.5", "-1e300", "inf"))
    if kind.startswith(("u", "f")):
        return str(rng.choice((0, 1, 127, 128, 2**31)))
    return str(rng.choice((0, 1, -1, 2**31 - 1)))


def text_of(message, depth):
    out = []
    for repeated, kind, name in messages[message]:
        short = kind.split(".")[-1]
        if kind.startswith("map"):
            for i in range(rng.randrange(3)):
                value = scalar(kind.split(",")[1].strip(" >"))
                out.append(f'{name} {{ key: "key-{i}" value: {value} }}')
            continue
        # The two messages that are looked into must be there, once.
        count = 1 if name in ("OCI", "Linux") else rng.randrange(3) if repeated else rng.randrange(2)
        for _ in range(count):
            if short in messages:
                if depth > 0:
                    out.append(f"{name} {{ {text_of(short, depth - 1)} }}")
            elif short in enums:
                out.append(f"{name}: {rng.choice(enums[short])}")
            else:
                out.append(f"{name}: {scalar(kind)}")
    return "\n".join(out)


def run(command, data):
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


def decode(directory, kind, data):
    return run([protoc, "-I" + directory, f"--decode={kind}", "agent.proto"], data).decode().splitlines()


def decode_raw(data):
    return run([protoc, "--decode_raw"], data).decode().splitlines()


def added_lines(before, after):
    """What after has more than before, which must be in it, in its order."""
    added, i = [], 0
    for line in after:
        if i < len(before) and line == before[i]:
            i += 1
        else:
            added.append(line.strip())
    assert i == len(before), f"lost from line {i}: {before[i]!r}"
    return added


def check_added(name, kind, directory, before, expected):
    after = run([edit_message, name], before)
    added = added_lines(decode(directory, kind, before), decode(directory, kind, after))
    keys = [line for line in added if line not in ("{", "}") and not line.endswith("{")]
    assert keys == expected, f"{name}: added {keys}, expected {expected}"
    added_lines(decode_raw(before), decode_raw(after))
    return after


with tempfile.TemporaryDirectory() as directory:
    shutil.copytree(proto_directory, directory, dirs_exist_ok=True)
    read_schema(directory)
    assert len(messages) > 60 and ("repeated ", "Mount", "Mounts") in messages["Spec"], "schema was not understood"

    for _ in range(N_MESSAGES):
        text = text_of("CreateContainerRequest", 6)
        before = run([protoc, "-I" + directory, f"--encode={CONTAINER}", "agent.proto"], text.encode())

        # Nothing to say about it: the worker passes it on as it is.
        assert run([edit_message, "worker"], before) == before

        extra = """OCI {
                Mounts { destination: "/a" source: "/v/volumes/kubernetes.io~csi/a/mount" type: "bind" newer_text: "x" }
                Annotations { key: "io.katacontainers.config.hypervisor.default_gpus" value: "2" }
        """
        assert text.count("OCI {") == 1
        volumes = run([protoc, "-I" + directory, f"--encode={CONTAINER}", "agent.proto"], text.replace("OCI {", extra).encode())
        # protoc prints a map in the order of its keys.
        on_worker = check_added("worker", CONTAINER, directory, volumes, [
            'key: "cdi.k8s.io/peer-pods"',
            'value: "nvidia.com/gpu=all"',
            'key: "io.confidentialcontainers.org.cloud_volumes"',
            'value: "{\\"vol-0\\":{\\"mount_point\\":\\"/a\\",\\"fs_type\\":\\"xfs\\",\\"lun\\":\\"0\\",\\"disk_id\\":\\"disk-a\\"}}"',
            'key: "io.confidentialcontainers.org.peerpodvolumes.target_path"',
            'value: "/v/volumes/kubernetes.io~csi/a/mount"',
        ])
        assert len(on_worker) > len(volumes)

        check_added("podvm", CONTAINER, directory, before, ['Type: "network"', 'Path: "/run/netns/podns"'])

    for _ in range(N_MESSAGES):
        text = text_of("CreateSandboxRequest", 6)
        before = run([protoc, "-I" + directory, f"--encode={SANDBOX}", "agent.proto"], text.encode())
        after = run([edit_message, "sandbox"], before)
        left = [line for line in decode(directory, SANDBOX, before) if not line.startswith("dns:")]
        assert decode(directory, SANDBOX, after) == left

print(f"{2 * N_MESSAGES} messages of {len(messages)} types")
