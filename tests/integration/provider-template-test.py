#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A module from outside of the tree: docs/provider-template, built with its own Makefile against the installed header and nothing else, and
loaded by path and hash.

Usage: provider-template-test.py PROVIDERD TEMPLATE-DIRECTORY HEADER"""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROVIDERD, TEMPLATE, HEADER = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
CONFIGURATION = 78      # exit status: wrong settings, do not start again


class Case:
    """A temporary directory with a module in it"""

    def __init__(self, edit_header=None, edit_source=None):
        self.directory = tempfile.TemporaryDirectory(prefix="template-")
        self.path = pathlib.Path(self.directory.name)
        include = self.path / "include" / "peerpod"
        include.mkdir(parents=True)
        header = HEADER.read_text()
        (include / "peerpod-provider.h").write_text(edit_header(header) if edit_header else header)
        source = (TEMPLATE / "template.c").read_text()
        (self.path / "template.c").write_text(edit_source(source) if edit_source else source)
        shutil.copy(TEMPLATE / "Makefile", self.path)
        flags = "-O1 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers"
        subprocess.run(["make", "-s", f"CPPFLAGS=-I{self.path}/include", f"CFLAGS={flags}"], cwd=self.path, check=True)
        self.module = self.path / "template.so"
        self.module.chmod(0o755)

    def hash(self):
        return hashlib.sha256(self.module.read_bytes()).hexdigest()

    def check(self, provider="template", **environment):
        """--check with the module as external one; a None takes a variable away. Returns (status, output)."""
        env = {
            "CLOUD_PROVIDER": provider,
            "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN": "true",
            "CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH": str(self.module),
            "CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH": self.hash(),
            "STATE_DIRECTORY": str(self.path / "state"),
            "TEMPLATE_KEY": "s3cret",
        }
        env.update(environment)
        r = subprocess.run([PROVIDERD, "--check"], env={k: v for k, v in env.items() if v is not None},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        assert "s3cret" not in r.stdout
        return r.returncode, r.stdout


def expect(result, status, text):
    assert result[0] == status and text in result[1], f"status {result[0]}, not {status}, or no '{text}' in:\n{result[1]}"


def it_is_loaded_by_path_and_hash():
    expect(Case().check(), 0, "The check of provider 'template' passed.")


def it_is_not_loaded_unless_enabled():
    expect(Case().check(ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN=None), CONFIGURATION, "Provider 'template' is not installed")


def another_content_than_the_hash_says_is_refused():
    case = Case()
    known = case.hash()
    with open(case.module, "ab") as f:
        f.write(b"\0")
    expect(case.check(CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH=known), CONFIGURATION, "has SHA-256 ")


def without_a_hash_it_is_refused():
    expect(Case().check(CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH=None), CONFIGURATION, "CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH is not set")


def what_others_may_write_to_is_refused():
    case = Case()
    case.module.chmod(0o777)
    expect(case.check(), CONFIGURATION, "may be changed by others")


def a_refused_one_makes_no_room_for_a_built_in_one():
    """The name is that of a module that is installed: libvirt's."""
    case = Case(edit_source=lambda s: s.replace('.name = "template"', '.name = "libvirt"'))
    module = case.path / "libvirt.so"
    case.module = case.module.rename(module)
    expect(case.check(provider="libvirt", CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH="0" * 64), CONFIGURATION, "not the configured")


def another_interface_version_is_refused():
    case = Case(edit_header=lambda h: h.replace("PEERPOD_PROVIDER_ABI_VERSION UINT32_C(1)", "PEERPOD_PROVIDER_ABI_VERSION UINT32_C(2)"))
    expect(case.check(), CONFIGURATION, "has interface version 2, this program needs version 1")


def an_older_one_of_the_same_version_is_taken():
    """Built with a header whose structs lacked their last members."""
    def older(header):
        for line in ("        uint32_t volumes_max;", "        const char *gpu_model;"):
            assert line in header
            start = header.index(line)
            header = header[:start] + header[header.index("\n", start) + 1:]
        return header

    expect(Case(edit_header=older).check(), 0, "The check of provider 'template' passed.")


def an_incomplete_descriptor_is_refused():
    case = Case(edit_source=lambda s: s.replace("        .find = template_find,\n", "        .find = (void*) 0,\n").replace(
        "static int template_find(", "__attribute__((unused)) static int template_find("))
    expect(case.check(), CONFIGURATION, "has an incomplete descriptor")


def another_name_is_refused():
    case = Case(edit_source=lambda s: s.replace('.name = "template"', '.name = "other"'))
    expect(case.check(), CONFIGURATION, "says that its name is 'other', not 'template'")


def its_settings_are_checked():
    expect(Case().check(TEMPLATE_ADDRESS="x" * 64), CONFIGURATION, "Value of TEMPLATE_ADDRESS is no address.")


def its_options_are_told():
    case = Case()
    r = subprocess.run([PROVIDERD, "--print-options"], stdout=subprocess.PIPE, text=True, check=True, env={
        "CLOUD_PROVIDER": "template", "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN": "true",
        "CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH": str(case.module), "CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH": case.hash()})
    assert '"env_var":"TEMPLATE_KEY"' in r.stdout.replace(" ", "") and '"secret":true' in r.stdout.replace(" ", ""), r.stdout


CASES = [it_is_loaded_by_path_and_hash, it_is_not_loaded_unless_enabled, another_content_than_the_hash_says_is_refused,
         without_a_hash_it_is_refused, what_others_may_write_to_is_refused, a_refused_one_makes_no_room_for_a_built_in_one,
         another_interface_version_is_refused, an_older_one_of_the_same_version_is_taken, an_incomplete_descriptor_is_refused,
         another_name_is_refused, its_settings_are_checked, its_options_are_told]


def main():
    bad = 0
    for case in CASES:
        try:
            case()
            print(f"ok {case.__name__}", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            bad += 1
            print(f"not ok {case.__name__}: {e}", flush=True)
    sys.exit(1 if bad else 0)


main()
