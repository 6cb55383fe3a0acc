#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# The man page has the commands and options of --help, all of them, no others, in the same order.
#
# Usage: ctl-man.py PEERPODCTL MANDOC PAGE
import re
import subprocess
import sys

program, mandoc, page = sys.argv[1:]


COMMAND = re.compile(r"^(list|status|stop|why|hold|reap|check|monitor|logs|info|hypervisor|agent)( |$)")


def of_help():
    text = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    commands, options = text.split("Commands:\n")[1].split("\nOptions:\n")
    commands = [re.split("  +", line.strip())[0] for line in commands.splitlines()]
    return [c for c in commands if COMMAND.match(c)], re.findall(r"^  (?:-\w|  ) (--\S+)", options, re.MULTILINE)


def of_page():
    # The tags of the lists in two sections, rendered, since that is what a reader sees.
    text = subprocess.run([mandoc, "-T", "utf8", "-O", "width=1000", page], check=True, capture_output=True, text=True).stdout
    text = re.sub(".\b", "", text)
    tags = {}
    section = None
    for line in text.splitlines():
        if re.match(r"^\S", line):
            section = line.strip()
        elif re.match(r"^     \S", line):
            # A tag that is shorter than the column has the text behind it.
            tags.setdefault(section, []).append(re.split("  +", line.strip())[0])
    commands = [t for t in tags["COMMANDS"] if COMMAND.match(t)]
    return commands, [re.sub(r"^-\w, ", "", t) for t in tags["OPTIONS"] if t.startswith("-")]


failed = False
for what, ours, theirs in zip(("commands", "options"), of_help(), of_page()):
    assert ours, f"--help has no {what}"
    if ours == theirs:
        continue
    failed = True
    for entry in ours:
        if entry not in theirs:
            print(f"{what}: --help has '{entry}', {page} has not")
    for entry in theirs:
        if entry not in ours:
            print(f"{what}: {page} has '{entry}', --help has not")
    if sorted(ours) == sorted(theirs):
        print(f"{what}: the order in {page} is another one than in --help")
sys.exit(failed)
