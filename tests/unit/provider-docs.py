#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/providers/NAME.md has a row for each option of module NAME, and no other: flag, variable and default as the module says.

Usage: provider-docs.py PROVIDERD MODULE.so DOCUMENT"""
import json
import os
import subprocess
import sys


def rows_of(path):
    """{(flag, variable): default} of the table whose head is 'flag | variable | default | meaning'"""
    rows, inside = {}, False
    with open(path, encoding="utf-8") as f:
        for line in f:
            if not line.startswith("|"):
                inside = False
                continue
            # '\|' is a bar in a cell
            cells = [c.strip().strip("`").replace("\0", "|") for c in line.replace("\\|", "\0").strip().strip("|").split("|")]
            if cells[:3] == ["flag", "variable", "default"]:
                inside = True
            elif inside and not set(cells[0]) <= set("-: "):
                if len(cells) < 4 or not cells[3]:
                    sys.exit(f"{path}: row '{cells[0]}' has no meaning")
                key = tuple("" if c in ("–", "-") else c for c in cells[:2])
                if key in rows:
                    sys.exit(f"{path}: option {key} has two rows")
                rows[key] = "" if cells[2] in ("–", "-", "empty") else cells[2]
    return rows


def options_of(providerd, module):
    name = os.path.basename(module).removesuffix(".so")
    out = subprocess.run([providerd, "--provider", name, "--module-directory", os.path.dirname(module), "--print-options"],
                         check=True, stdout=subprocess.PIPE, env={}).stdout
    answer = json.loads(out)
    assert answer["provider"] == name
    return {(o["flag_name"], o["env_var"]): o["default"] for o in answer["flags"]}


def main():
    providerd, module, document = sys.argv[1:]
    options, rows = options_of(providerd, module), rows_of(document)
    if not options:
        sys.exit(f"{module} has no options")
    bad = [f"no row for {o}" for o in sorted(options.keys() - rows.keys())]
    bad += [f"row without an option: {o}" for o in sorted(rows.keys() - options.keys())]
    bad += [f"{o}: the default is '{options[o]}', not '{rows[o]}'" for o in sorted(options.keys() & rows.keys()) if options[o] != rows[o]]
    for b in bad:
        print(f"{document}: {b}", file=sys.stderr)
    print(f"{len(options)} options, {len(bad)} differences")
    sys.exit(1 if bad else 0)


main()
