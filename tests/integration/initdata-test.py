#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Initdata bound to the platform: process-user-data with a real TPM (swtpm), and with attestation reports.

swtpm is behind a pseudo terminal, which to the program is a character device like /dev/tpmrm0; tpm2_pcrread looks at it independently.
Reports are built field by field from the vendors' structures, in a directory that stands for configfs.

Usage: initdata-test.py PROGRAM
"""
import base64
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import tty
import unittest

PROGRAM = sys.argv.pop(1)
TIMEOUT = 120                   # for what hangs; nothing here takes a second

DUMMY = b'algorithm = "sha256"\nversion = "0.1.0"\n\n[data]\n"aa.toml" = \'\'\'\n\'\'\''
# cloud-api-adaptor: src/cloud-api-adaptor/pkg/initdata, test/e2e/azure_test.go: the digest, and PCR 8 after one extend from zero
DUMMY_DIGEST = 'adb48cc14fea9403d3d51f3b5f5068fd4d80445a14e94f1b3d5dbabaad66478d'
DUMMY_PCR8 = '4b58b30becd30d16f7f60d56b32661d921ae0d3310c6a89f5d552f9bfee921a9'
APF = '{"pod-network":{"podip":"10.0.0.1/24"},"pod-name":"p","pod-namespace":"n"}'
FEWEST = ['aa.toml', 'apf.json', 'initdata', 'initdata.digest', 'user-data']


def toml(algorithm):
    return f'version = "0.1.0"\nalgorithm = "{algorithm}"\n[data]\n"aa.toml" = "a"\n"cdh.toml" = "c"\n"policy.rego" = "p"\n'.encode()


def fit(digest, size):
    """trustee, kbs/docs/initdata.md: cut off, or with zeros behind it"""
    return digest[:size].ljust(size, b'\0')


def extended(bank, digest):
    """What a verifier expects of PCR 8, as docs/security.md says it."""
    h = hashlib.new(bank)
    return hashlib.new(bank, bytes(h.digest_size) + fit(digest, h.digest_size)).hexdigest()


class Swtpm:
    """A TPM 2.0 that has been started up, as firmware leaves it."""

    def __init__(self, directory):
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.device = os.ttyname(self.slave)
        state = pathlib.Path(directory, 'tpm')
        state.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            ['swtpm', 'chardev', '--fd', str(self.master), '--tpm2', '--tpmstate', f'dir={state}',
             '--flags', 'not-need-init,startup-clear', '--log', f'file={state}/log'],
            pass_fds=[self.master], stdin=subprocess.DEVNULL)

    def pcr8(self):
        """Both banks, as tpm2-tools see them."""
        out = subprocess.run(['tpm2_pcrread', '-T', f'device:{self.device}', 'sha256:8+sha384:8'], check=True, timeout=TIMEOUT,
                             capture_output=True, text=True).stdout
        values = [line.split('0x')[1].strip().lower() for line in out.splitlines() if '0x' in line]
        return dict(zip(('sha256', 'sha384'), values))

    def extend8(self, digest):
        subprocess.run(['tpm2_pcrextend', '-T', f'device:{self.device}', f'8:sha256={digest}'], check=True, timeout=TIMEOUT)

    def stop(self):
        self.process.terminate()
        self.process.wait(TIMEOUT)

    def close(self):
        self.stop()
        os.close(self.slave)
        os.close(self.master)


class Scripted:
    """Something in the place of a TPM that answers every command by what a function makes of it; an empty answer hangs up."""

    def __init__(self, answer):
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.device = os.ttyname(self.slave)
        self.commands = []
        self.answer = answer
        self.end_read, self.end_write = os.pipe()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            ready, _, _ = select.select([self.master, self.end_read], [], [])
            if self.end_read in ready:
                return
            command = os.read(self.master, 4096)
            self.commands.append(struct.unpack('>I', command[6:10])[0])
            os.write(self.master, self.answer(command))

    def close(self):
        os.close(self.end_write)
        self.thread.join(TIMEOUT)
        for fd in (self.end_read, self.slave, self.master):
            os.close(fd)


def tpm_error(code):
    return struct.pack('>HII', 0x8001, 10, code)


class Case(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.dir = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix='initdata-')))
        self.out = self.dir / 'peerpod'
        self.sys = self.dir / 'sys'
        for d in ('seed', 'sys'):
            (self.dir / d).mkdir()
        self.give(None)

    def tearDown(self):
        self.stack.close()

    def tpm(self, device):
        self.stack.callback(device.close)
        return device

    def give(self, text):
        """User data with initdata of this text."""
        lines = ['#cloud-config', '', 'write_files:', '  - path: /run/peerpod/apf.json', '    content: |', '      ' + APF]
        if text is not None:
            lines += ['  - path: /run/peerpod/initdata', '    content: |', '      ' + base64.b64encode(gzip.compress(text)).decode()]
        (self.dir / 'seed/user-data').write_text('\n'.join(lines) + '\n')

    def run_program(self, device='/nonexistent'):
        run = subprocess.run([PROGRAM, 'provision-files', '--seed-dir', self.dir / 'seed', '--output-dir', self.out, '--tpm-device', device,
                              '--sys-dir', self.sys], capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False)
        self.said = run.stderr
        return run.returncode

    def assert_done(self, *args):
        self.assertEqual(self.run_program(*args), 0, getattr(self, 'said', ''))

    def assert_refused(self, status, text, *args):
        self.assertEqual(self.run_program(*args), status, self.said)
        self.assertIn(text, self.said)
        self.assertFalse(self.out.exists(), 'files were written')

    def files(self):
        return sorted(p.name for p in self.out.iterdir())


class Tpm(Case):
    def test_pcr_8_is_what_upstream_expects(self):
        tpm = self.tpm(Swtpm(self.dir))
        self.assertEqual(tpm.pcr8(), {'sha256': '0' * 64, 'sha384': '0' * 96})
        self.assert_done(tpm.device)
        self.assertEqual(self.files(), sorted(FEWEST + ['measurements']))
        self.assertEqual((self.out / 'initdata.digest').read_text(), DUMMY_DIGEST)
        self.assertEqual(tpm.pcr8(), {'sha256': DUMMY_PCR8, 'sha384': extended('sha384', hashlib.sha256(DUMMY).digest())})

    def test_digests_of_each_algorithm_fit_both_banks(self):
        for algorithm in ('sha256', 'sha384', 'sha512'):
            with self.subTest(algorithm), contextlib.ExitStack() as stack:
                tpm = Swtpm(stack.enter_context(tempfile.TemporaryDirectory()))
                stack.callback(tpm.close)
                self.give(toml(algorithm))
                self.assert_done(tpm.device)
                digest = hashlib.new(algorithm, toml(algorithm)).digest()
                self.assertEqual(tpm.pcr8(), {bank: extended(bank, digest) for bank in ('sha256', 'sha384')})
                self.assertEqual((self.out / 'initdata.digest').read_text(), digest.hex())
                shutil.rmtree(self.out)

    def test_the_log_replays_to_the_register(self):
        tpm = self.tpm(Swtpm(self.dir))
        self.give(toml('sha512'))
        self.assert_done(tpm.device)
        records = (self.out / 'measurements').read_text().split('\x1e')
        self.assertEqual(records[0], '')
        self.assertEqual(len(records), 2)
        record = json.loads(records[1])
        self.assertEqual(record['pcr'], 8)
        self.assertEqual(record['content'], {'eventType': 'initdata', 'algorithm': 'sha512',
                                             'digest': hashlib.sha512(toml('sha512')).hexdigest()})
        replayed = {d['hashAlg']: hashlib.new(d['hashAlg'], bytes(len(d['digest']) // 2) + bytes.fromhex(d['digest'])).hexdigest()
                    for d in record['digests']}
        self.assertEqual(replayed, tpm.pcr8())

    def test_a_second_run_does_not_extend_again(self):
        tpm = self.tpm(Swtpm(self.dir))
        self.assert_done(tpm.device)
        self.assert_done(tpm.device)
        self.assertEqual(tpm.pcr8()['sha256'], DUMMY_PCR8)

    def test_a_run_that_was_cut_off_behind_the_measurement_is_finished(self):
        tpm = self.tpm(Swtpm(self.dir))
        self.assert_done(tpm.device)
        shutil.rmtree(self.out)         # as if it had been killed before the first rename
        self.assert_done(tpm.device)
        self.assertEqual(tpm.pcr8()['sha256'], DUMMY_PCR8)
        self.assertEqual(self.files(), sorted(FEWEST + ['measurements']))

    def test_other_initdata_in_the_same_boot_is_refused(self):
        tpm = self.tpm(Swtpm(self.dir))
        self.assert_done(tpm.device)
        shutil.rmtree(self.out)
        self.give(toml('sha256'))
        self.assert_refused(78, 'PCR 8 of the TPM holds something else than this initdata', tpm.device)
        self.assertEqual(tpm.pcr8()['sha256'], DUMMY_PCR8)

    def test_a_register_that_somebody_else_extended_is_refused(self):
        tpm = self.tpm(Swtpm(self.dir))
        tpm.extend8('11' * 32)
        before = tpm.pcr8()
        self.assert_refused(78, 'PCR 8 of the TPM holds something else than this initdata', tpm.device)
        self.assertEqual(tpm.pcr8(), before)

    def test_a_tpm_that_was_reset_after_the_first_run_is_noticed(self):
        self.assert_done(self.tpm(Swtpm(self.dir)).device)
        (self.dir / 'other').mkdir()
        fresh = self.tpm(Swtpm(self.dir / 'other'))
        self.assertEqual(self.run_program(fresh.device), 78)
        self.assertIn('PCR 8 of the TPM holds something else', self.said)
        self.assertEqual(fresh.pcr8()['sha256'], '0' * 64)

    def test_bad_initdata_is_not_measured(self):
        tpm = self.tpm(Swtpm(self.dir))
        self.give(b'version = "0.2.0"\nalgorithm = "sha256"\n[data]\n')
        self.assert_refused(78, 'line 1: its version is not "0.1.0"', tpm.device)
        self.assertEqual(tpm.pcr8()['sha256'], '0' * 64)

    def test_a_stopped_tpm_fails_the_run(self):
        tpm = self.tpm(Swtpm(self.dir))
        (self.sys / 'class/tpm/tpm0').mkdir(parents=True)
        tpm.stop()
        os.close(tpm.master)
        tpm.master = os.open('/dev/null', os.O_RDONLY)
        self.assert_refused(1, 'Initdata cannot be measured: the TPM cannot ', tpm.device)

    def test_a_tpm_that_answers_with_errors_fails_the_run(self):
        for code in (0x100, 0x101, 0x921):      # TPM_RC_INITIALIZE, TPM_RC_FAILURE, TPM_RC_LOCKOUT
            with self.subTest(code):
                tpm = Scripted(lambda command, code=code: tpm_error(code))
                self.stack.callback(tpm.close)
                self.assert_refused(1, 'Initdata cannot be measured: the TPM cannot read a PCR: error 0x', tpm.device)

    def test_a_tpm_that_refuses_to_extend_fails_the_run(self):
        zeros = {11: 32, 12: 48}

        def answer(command):
            if struct.unpack('>I', command[6:10])[0] != 0x17e:          # TPM2_CC_PCR_Read
                return tpm_error(0x101)
            size = zeros[struct.unpack('>H', command[14:16])[0]]
            body = struct.pack('>I', 1) + command[10:20] + struct.pack('>IH', 1, size) + bytes(size)
            return struct.pack('>HII', 0x8001, 10 + len(body), 0) + body

        tpm = self.tpm(Scripted(answer))
        self.assert_refused(1, 'Initdata cannot be measured: the TPM cannot extend a PCR: error 0x00000101', tpm.device)
        self.assertIn(0x182, tpm.commands)

    def test_a_tpm_that_says_yes_and_does_nothing_fails_the_run(self):
        zeros = {11: 32, 12: 48}

        def answer(command):
            code = struct.unpack('>I', command[6:10])[0]
            if code == 0x182:                                           # TPM2_CC_PCR_Extend
                body = struct.pack('>IHBH', 0, 0, 1, 0)
                return struct.pack('>HII', 0x8002, 10 + len(body), 0) + body
            if code != 0x17e:
                return tpm_error(0x101)
            size = zeros[struct.unpack('>H', command[14:16])[0]]
            body = struct.pack('>I', 1) + command[10:20] + struct.pack('>IH', 1, size) + bytes(size)
            return struct.pack('>HII', 0x8001, 10 + len(body), 0) + body

        tpm = self.tpm(Scripted(answer))
        self.assert_refused(1, 'PCR 8 of the TPM does not hold what it was just extended by', tpm.device)

    def test_nonsense_from_a_tpm_fails_the_run(self):
        for answer in (b'\0' * 10, b'\xff' * 4096, struct.pack('>HII', 0x8001, 0xffffffff, 0)):
            with self.subTest(answer[:10]):
                tpm = Scripted(lambda command, answer=answer: answer)
                self.stack.callback(tpm.close)
                self.assert_refused(1, 'Initdata cannot be measured: the TPM cannot ', tpm.device)

    def test_a_tpm_without_its_device_fails_the_run(self):
        (self.sys / 'class/tpm/tpm0').mkdir(parents=True)
        self.assert_refused(1, 'Initdata cannot be measured: the TPM cannot be opened')

    def test_a_machine_without_tpm_goes_on_and_says_so(self):
        self.assert_done()
        self.assertIn('This VM has no TPM, initdata is not measured into one.', self.said)
        self.assertEqual(self.files(), FEWEST)


def snp_report(host_data, version=3):
    """AMD SEV-SNP ABI (56860) revision 1.57, table 23"""
    return b''.join([
        struct.pack('<IIQ', version, 1, 0x30000),       # VERSION, GUEST_SVN, POLICY
        b'F' * 16, b'I' * 16,                           # FAMILY_ID, IMAGE_ID
        struct.pack('<II', 0, 1),                       # VMPL, SIGNATURE_ALGO
        b'T' * 8, b'P' * 8,                             # CURRENT_TCB, PLATFORM_INFO
        struct.pack('<II', 0, 0),                       # flags, reserved
        b'D' * 64, b'M' * 48,                           # REPORT_DATA, MEASUREMENT
        host_data,
        b'K' * 48, b'A' * 48,                           # ID_KEY_DIGEST, AUTHOR_KEY_DIGEST
        b'R' * 32, b'r' * 32,                           # REPORT_ID, REPORT_ID_MA
    ]).ljust(0x2a0, b'\xaa') + b'S' * 512               # … SIGNATURE


def tdx_quote(mrconfigid, version=4, body_type=2):
    """Intel TDX DCAP quoting library API, appendix 3"""
    header = struct.pack('<HHI', version, 2, 0x81) + b'\xbb' * 40
    body = b''.join([b'V' * 16, b's' * 48, b'\0' * 48, b'\0' * 8, b'a' * 8, b'x' * 8, b'm' * 48,
                     mrconfigid, b'\0' * 48, b'\0' * 48, b'0' * 48, b'1' * 48, b'2' * 48, b'3' * 48, b'D' * 64])
    assert len(body) == 584
    if version == 5:
        if body_type == 3:
            body += b'v' * 16 + b'M' * 48
        header += struct.pack('<HI', body_type, len(body))
    return header + body + struct.pack('<I', 100) + b'S' * 100


class Report(Case):
    digest = hashlib.sha256(DUMMY).digest()

    def report(self, provider, outblob):
        entry = self.sys / 'kernel/config/tsm/report/peerpod-initdata'
        entry.mkdir(parents=True, exist_ok=True)
        (entry / 'provider').write_text(provider + '\n')
        (entry / 'outblob').write_bytes(outblob)
        (entry / 'inblob').write_bytes(b'')
        return entry

    def test_host_data_of_this_initdata_is_accepted(self):
        entry = self.report('sev_guest', snp_report(self.digest))
        self.assert_done()
        self.assertIn('Initdata is what HOSTDATA of the attestation report says.', self.said)
        self.assertEqual((entry / 'inblob').read_bytes(), fit(self.digest, 64))

    def test_other_host_data_is_refused(self):
        self.report('sev_guest', snp_report(self.digest[:-1] + b'\0'))
        self.assert_refused(78, 'Initdata is not what this VM was made with: HOSTDATA of its attestation report is another digest.')

    def test_mrconfigid_of_this_initdata_is_accepted(self):
        for version, body in ((4, 2), (5, 2), (5, 3)):
            with self.subTest(version=version, body=body):
                self.report('tdx_guest', tdx_quote(fit(self.digest, 48), version, body))
                self.assert_done()
                self.assertIn('Initdata is what MRCONFIGID of the attestation report says.', self.said)
                shutil.rmtree(self.out)

    def test_other_mrconfigid_is_refused(self):
        self.report('tdx_guest', tdx_quote(fit(self.digest, 48)[:-1] + b'\1'))
        self.assert_refused(78, 'MRCONFIGID of its attestation report is another digest')

    def test_a_mismatch_is_not_measured_into_the_tpm(self):
        tpm = self.tpm(Swtpm(self.dir))
        self.report('sev_guest', snp_report(b'\1' * 32))
        self.assert_refused(78, 'HOSTDATA', tpm.device)
        self.assertEqual(tpm.pcr8()['sha256'], '0' * 64)

    def test_a_longer_digest_is_cut_off(self):
        self.give(toml('sha512'))
        self.report('sev_guest', snp_report(hashlib.sha512(toml('sha512')).digest()[:32]))
        self.assert_done()

    def test_a_field_that_the_cloud_does_not_set_is_said_and_no_error(self):
        for provider, outblob in (('sev_guest', snp_report(bytes(32))), ('tdx_guest', tdx_quote(bytes(48)))):
            with self.subTest(provider):
                self.report(provider, outblob)
                self.assert_done()
                self.assertIn('is not set by this cloud', self.said)
                shutil.rmtree(self.out)

    def test_what_is_no_report_is_refused(self):
        good, quote, quote5 = snp_report(self.digest), tdx_quote(fit(self.digest, 48)), tdx_quote(fit(self.digest, 48), 5)
        for provider, outblob in (
                ('sev_guest', b''), ('sev_guest', good[:-1]), ('sev_guest', good + b'x'), ('sev_guest', snp_report(self.digest, 1)),
                ('tdx_guest', b''), ('tdx_guest', quote[:48 + 583]), ('tdx_guest', b'\3' + quote[1:]), ('tdx_guest', quote[:4] + bytes(4) + quote[8:]),
                ('tdx_guest', quote5[:53]), ('tdx_guest', quote5[:48] + b'\1' + quote5[49:]), ('tdx_guest', quote5[:50] + b'\xff' * 4 + quote5[54:])):
            with self.subTest(provider=provider, size=len(outblob)):
                self.report(provider, outblob)
                self.assert_refused(78, f"The attestation report of this VM is none of '{provider}'.")

    def test_reports_of_others_are_said_and_no_error(self):
        self.report('arm_cca_guest', b'?' * 100)
        self.assert_done()
        self.assertIn("Attestation reports of 'arm_cca_guest' have no field", self.said)

    def test_a_report_that_cannot_be_made_is_warned_of(self):
        (self.report('sev_guest', b'') / 'outblob').unlink()
        self.assert_done()
        self.assertIn('The attestation report of this VM cannot be read, initdata is not compared with it', self.said)

    def test_a_machine_without_reports_says_nothing(self):
        self.assert_done()
        self.assertNotIn('attestation report', self.said)


if __name__ == '__main__':
    unittest.main(verbosity=2)
