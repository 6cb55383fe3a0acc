#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The official TOML test suite (github.com/toml-lang/toml-test): what is valid means what it says, what is not is refused.

Usage: toml-suite.py DECODER SUITE      (SUITE: the directory that holds valid/ and invalid/)
"""
import json
import pathlib
import subprocess
import sys

decoder, suite = sys.argv[1], pathlib.Path(sys.argv[2])

# Valid cases that are not ours to accept, each with what the decoder must say instead.
REFUSED_ON_PURPOSE = {
    # A key becomes the name of a file or setting.
    'valid/key/quoted-unicode.toml': 'a key has a NUL',
    # Of the draft of TOML 1.1; we read 1.0.0, as Kata's parsers do.
    'valid/datetime/no-seconds.toml': 'here should be a value',
    'valid/inline-table/newline.toml': 'here should be a key',
    'valid/key/unicode.toml': 'here should be a key',
    'valid/string/escape-esc.toml': 'an escape that is none',
    'valid/string/hex-escape.toml': 'an escape that is none',
}


def normal(value):
    """The one spelling of what TOML lets be written in several ways."""
    if isinstance(value, list):
        return [normal(v) for v in value]
    if not isinstance(value.get('type'), str) or not isinstance(value.get('value'), str):
        return {k: normal(v) for k, v in value.items()}
    kind, text = value['type'], value['value']
    if kind == 'float':
        text = repr(float(text.replace('_', '')))
        text = 'nan' if 'nan' in text else text
    elif kind.startswith(('datetime', 'time')):
        text = text.upper().replace(' ', 'T').replace('+00:00', 'Z')
        if '.' in text:                                     # digits of a second: the suite has milliseconds
            head, _, tail = text.partition('.')
            digits = tail[:len(tail) - len(tail.lstrip('0123456789'))]
            text = head + '.' + digits.rstrip('0') + tail[len(digits):]
            text = text.replace('.Z', 'Z')
    return {'type': kind, 'value': text}


def failure(name):
    """What is wrong with a case, or None."""
    path = suite / name
    run = subprocess.run([decoder], stdin=path.open('rb'), capture_output=True, timeout=60, check=False)
    said = run.stderr.decode().strip()
    if name in REFUSED_ON_PURPOSE or name.startswith('invalid/'):
        if run.returncode != 1 or not said.startswith('line '):
            return f'not refused: status {run.returncode}, {said}'
        if REFUSED_ON_PURPOSE.get(name, '') not in said:
            return f'refused for another reason: {said}'
        return None
    if run.returncode != 0:
        return f'status {run.returncode}, {said}'
    got, wanted = normal(json.loads(run.stdout)), normal(json.loads(path.with_suffix('.json').read_text()))
    return None if got == wanted else f'\n  wanted {wanted}\n  got    {got}'


cases = sorted(str(p.relative_to(suite)) for p in suite.rglob('*.toml'))
failed = 0
for case in cases:
    what = failure(case)
    if what:
        print(f'FAILED: {case}: {what}')
        failed += 1
missing = REFUSED_ON_PURPOSE.keys() - set(cases)
print(f'{len(cases) - failed} passed, {failed} failed')
sys.exit(1 if failed or missing or len(cases) < 500 else 0)
