# SPDX-License-Identifier: Apache-2.0
"""What the cases of the image test share: a network of their own, seeds, pod VMs under QEMU without anything above it, and the worker's
end of the agent protocol, written here once more so that nothing of ours has to be right for a VM to count as up."""
import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time

# For what hangs, not for a machine that is busy.
PATIENCE = 600

FORWARDER_PORT = 15150
VXLAN_PORT = 4789
HOST4, HOST6 = "10.77.0.1", "fd77::1"
OVMF = "/usr/share/OVMF"
UKI = "EFI/BOOT/BOOTX64.EFI"


class Failure(Exception):
    """What was seen is not what the case says."""


def run(*argv, input=""):
    r = subprocess.run(argv, capture_output=True, text=True, input=input)
    if r.returncode != 0:
        raise Failure(f"{' '.join(argv)}: {r.stderr.strip()}")
    return r.stdout


def until(condition, text, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds} s in vain until {text}")
        time.sleep(0.1)
    return result


# ---- network ----


class Network:
    """A bridge in this network namespace, with DHCP for IPv4, and where asked for router advertisements for IPv6."""

    def __init__(self, scratch):
        self.numbers = itertools.count(10)
        self.lock = threading.Lock()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "address", "add", f"{HOST4}/24", "dev", "br0")
        run("ip", "address", "add", f"{HOST6}/64", "dev", "br0", "nodad")
        run("ip", "link", "set", "br0", "up")
        run("ip", "route", "add", "local", "10.78.0.0/16", "dev", "lo")
        self.leases = f"{scratch}/leases"
        self.dnsmasq = subprocess.Popen(
            ["dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", "--user=root", "--port=0", "--interface=br0",
             "--bind-interfaces", f"--dhcp-leasefile={self.leases}", "--dhcp-authoritative", "--no-ping",
             "--dhcp-range=10.77.0.10,10.77.0.250,255.255.255.0", "--dhcp-range=::,constructor:br0,ra-only", "--enable-ra",
             f"--dhcp-option=option:router,{HOST4}", f"--log-facility={scratch}/dnsmasq.log"], stdin=subprocess.DEVNULL)

    def add_port(self):
        """A tap device on the bridge; (name, MAC address of the VM behind it)."""
        with self.lock:
            n = next(self.numbers)
        name = f"tap{n}"
        run("ip", "tuntap", "add", name, "mode", "tap")
        run("ip", "link", "set", name, "master", "br0", "up")
        return name, f"52:54:00:77:00:{n:02x}"

    @staticmethod
    def source(n):
        """One of 65535 addresses of ours."""
        return f"10.78.{n >> 8}.{n & 255}"

    def address(self, mac):
        """What DHCP gave to it, or None."""
        try:
            with open(self.leases) as f:
                for line in f:
                    words = line.split()
                    if words[1:2] == [mac]:
                        return words[2]
        except FileNotFoundError:
            pass
        return None

    def close(self):
        self.dnsmasq.terminate()
        self.dnsmasq.wait()


def address6(mac):
    """What a VM makes of the advertised prefix (RFC 4291, appendix A)."""
    b = bytes.fromhex(mac.replace(":", ""))
    b = bytes([b[0] ^ 2]) + b[1:3] + b"\xff\xfe" + b[3:]
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, HOST6)[:8] + b)


# ---- keys and seed ----


def make_certificate(path, name, usage):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2", "-subj", f"/CN={name}",
        "-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"extendedKeyUsage={usage}", "-addext", f"subjectAltName=DNS:{name}",
        "-keyout", f"{path}.key", "-out", f"{path}.crt")


def enrol(certificate, variables):
    """Makes firmware variables in which it is the only key, and Secure Boot is on."""
    owner = "d2b1c9a4-6f0a-4c0e-8a52-1d6b4a5e7f10"
    run("virt-fw-vars", "--input", f"{OVMF}/OVMF_VARS_4M.fd", "--set-pk", owner, certificate, "--add-kek", owner, certificate,
        "--add-db", owner, certificate, "--sb", "--output", variables)


class Seed:
    """User data as the worker gives it, on a FAT disk, and the client's keys that go with it."""

    def __init__(self, scratch):
        self.client, self.server = f"{scratch}/client", f"{scratch}/server"
        make_certificate(self.client, "worker", "clientAuth")
        make_certificate(self.server, "podvm", "serverAuth")

        def text(path):
            with open(path) as f:
                return f.read()

        apf = {
            "pod-network": {
                "podip": "10.244.1.21/24", "pod-hw-addr": "02:00:0a:f4:01:15", "interface": "eth0", "worker-node-ip": f"{HOST4}/24",
                "tunnel-type": "vxlan", "mtu": 1450, "index": 1,
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1", "dev": "eth0"}, {"dst": "10.244.1.0/24", "dev": "eth0", "scope": "link"}],
                "vxlan-port": VXLAN_PORT, "vxlan-id": 555001, "dedicated": False,
            },
            "pod-namespace": "image", "pod-name": "image",
            "tls-server-key": text(f"{self.server}.key"), "tls-server-cert": text(f"{self.server}.crt"),
            "tls-client-ca": text(f"{self.client}.crt"),
        }
        lines = json.dumps(apf, indent=4).splitlines()
        user_data = "#cloud-config\n\nwrite_files:\n  - path: /run/peerpod/apf.json\n    content: |\n" + "".join(
            f"      {line}\n" for line in lines)
        self.path = f"{scratch}/seed.img"
        with open(f"{scratch}/user-data", "w") as f:
            f.write(user_data)
        with open(f"{scratch}/meta-data", "w"):
            pass
        with open(self.path, "wb") as f:
            f.truncate(1 << 20)
        run("mkfs.vfat", "-n", "CIDATA", self.path)
        run("mcopy", "-i", self.path, f"{scratch}/user-data", f"{scratch}/meta-data", "::")

    def tls(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(f"{self.server}.crt")
        context.load_cert_chain(f"{self.client}.crt", f"{self.client}.key")
        return context


# ---- the agent protocol ----


def health_check(address, context, seconds):
    """grpc.Health/Check over mutual TLS (containerd/ttrpc: PROTOCOL.md); true if the agent serves, or an OSError."""
    def field(number, value):
        return bytes([number << 3 | 2, len(value)]) + value

    request = field(1, b"grpc.Health") + field(2, b"Check") + field(3, b"")
    with socket.create_connection((address, FORWARDER_PORT), timeout=seconds) as plain, context.wrap_socket(plain) as s:
        s.sendall(struct.pack(">IIBB", len(request), 1, 1, 0) + request)
        answer = b""
        while len(answer) < 10 or len(answer) < 10 + struct.unpack_from(">I", answer)[0]:
            data = s.recv(4096)
            if not data:
                raise ConnectionResetError("the forwarder hung up")
            answer += data
        # Response.payload (2) is a HealthCheckResponse with status (1) SERVING (1); a status other than OK would come first.
        return answer[10:] == field(2, b"\x08\x01")


# ---- TPM ----


class TPM:
    """A swtpm for one VM, whose registers can be read when the VM is gone."""

    SET_DATAFD = 0x10

    def __init__(self, directory):
        os.mkdir(directory)
        self.control = f"{directory}/control"
        self.process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}", "--ctrl", f"type=unixio,path={self.control}",
             "--log", f"file={directory}/log"], stdin=subprocess.DEVNULL)
        until(lambda: os.path.exists(self.control), "swtpm listens", 60)

    def arguments(self):
        return ["-chardev", f"socket,id=tpm,path={self.control}", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"]

    def read(self, *registers):
        """{register: hex} of the SHA-256 bank (TPM 2.0 part 3, TPM2_PCR_Read), by a data channel as QEMU had it."""
        ours, theirs = socket.socketpair()
        values = {}
        with socket.socket(socket.AF_UNIX) as control, ours:
            control.settimeout(60)
            ours.settimeout(60)
            control.connect(self.control)
            with theirs:
                socket.send_fds(control, [struct.pack(">I", self.SET_DATAFD)], [theirs.fileno()])
            if control.recv(4) != bytes(4):
                raise Failure("swtpm takes no data channel")
            for n in registers:
                bits = bytearray(3)
                bits[n // 8] = 1 << n % 8
                ours.sendall(struct.pack(">HIIIHB", 0x8001, 20, 0x17E, 1, 0xB, 3) + bits)
                answer = ours.recv(4096)
                if struct.unpack_from(">I", answer, 6)[0] != 0 or len(answer) < 62:
                    raise Failure(f"PCR {n} cannot be read: {answer.hex()}")
                values[n] = answer[-32:].hex()
        return values

    def close(self):
        self.process.terminate()
        self.process.wait()


# ---- disks ----


class Disk:
    """A copy of an image that may be changed. A context manager."""

    ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
    VERITY = "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5"
    ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"

    def __init__(self, image, path):
        self.path = path
        run("cp", "--sparse=always", image, path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.unlink(self.path)

    def partition(self, kind):
        table = json.loads(run("sfdisk", "--json", self.path))["partitiontable"]
        p = next(p for p in table["partitions"] if p["type"] == kind)
        return p["start"] * 512, p["size"] * 512

    def read(self, offset, size):
        with open(self.path, "rb") as f:
            f.seek(offset)
            return f.read(size)

    def write(self, offset, data):
        with open(self.path, "r+b") as f:
            f.seek(offset)
            f.write(data)

    def flip(self, offset):
        self.write(offset, bytes([self.read(offset, 1)[0] ^ 1]))

    def append(self, kind, label, uuid, content):
        """A further partition at the end; the UUID without hyphens."""
        start = os.path.getsize(self.path) + (1 << 20)
        os.truncate(self.path, start + len(content) + (2 << 20))
        uuid = "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))
        run("sfdisk", "--quiet", "--relocate", "gpt-bak-std", self.path)
        run("sfdisk", "--quiet", "--append", "--no-reread", self.path,
            input=f"start={start // 512}, size={len(content) // 512}, type={kind}, name={label}, uuid={uuid}\n")
        self.write(start, content)

    def flip_in_uki(self):
        """Changes a bit of the UKI on the ESP that does no harm: of the text that tells what system it is."""
        path = f"{self.path}.efi"
        self.on_esp("mcopy", f"::{UKI}", path)
        with open(path, "r+b") as f:
            uki = f.read()
            at = uki.index(b"ID=debian")
            f.seek(at)
            f.write(bytes([uki[at] ^ 1]))
        self.on_esp("mcopy", "-o", path, f"::{UKI}")
        os.unlink(path)

    def on_esp(self, *argv):
        """Runs an mtools command on the ESP."""
        start, _ = self.partition(self.ESP)
        run(argv[0], "-i", f"{self.path}@@{start}", *argv[1:])


# ---- VMs ----

DISKS = {
    "virtio-blk": ["-device", "virtio-blk-pci,drive=root,bootindex=1", "-device", "virtio-blk-pci,drive=seed"],
    "virtio-scsi": ["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=root,bootindex=1", "-device", "scsi-hd,drive=seed"],
    "pvscsi": ["-device", "pvscsi", "-device", "scsi-hd,drive=root,bootindex=1", "-device", "scsi-hd,drive=seed"],
    "nvme": ["-device", "nvme,serial=root,drive=root,bootindex=1", "-device", "nvme,serial=seed,drive=seed"],
    # q35's own controller
    "ahci": ["-device", "ide-hd,bus=ide.0,drive=root,bootindex=1", "-device", "ide-hd,bus=ide.1,drive=seed"],
}
NICS = {"virtio-net": "virtio-net-pci", "vmxnet3": "vmxnet3", "e1000e": "e1000e"}


def read_console(path):
    """Its text, without what moves cursors and colours."""
    try:
        with open(path, errors="replace") as f:
            text = re.sub(r"\x1b(\[[0-9;?!=]*[A-Za-z]|[A-Z])|\r", "", f.read())
    except FileNotFoundError:
        return ""
    return "\n".join(line for line in text.splitlines() if line.strip())


class VM:
    """A pod VM from its first instruction on. A context manager: its end leaves nothing."""

    def __init__(self, rig, name, image, disk="virtio-blk", nic="virtio-net", variables=None, tpm=False, smbios=(), arguments=()):
        self.rig, self.name, self.mac = rig, name, None
        self.process = self.tpm = self.keyboard = None
        self.started = time.monotonic()
        self.scratch = tempfile.mkdtemp(prefix="vm.", dir=rig.scratch)  # short: a socket in it has a path of 107 bytes at most
        self.console_path = f"{rig.logs}/{name}.console"
        self.image, self.disk, self.nic, self.variables = image, disk, nic, variables
        self.with_tpm, self.smbios, self.more = tpm, smbios, arguments

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    def start(self):
        tap, self.mac = self.rig.network.add_port()
        self.tap = tap
        secure = self.variables is not None
        variables = f"{self.scratch}/variables"
        shutil.copyfile(self.variables or f"{OVMF}/OVMF_VARS_4M.fd", variables)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.console_path)
        argv = [
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024",
            "-machine", "q35" + (",smm=on" if secure else ""),
            "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M{'.secboot' if secure else ''}.fd",
            "-drive", f"if=pflash,unit=1,format=raw,file={variables}",
            "-drive", f"if=none,id=root,format=raw,snapshot=on,file={self.image}",
            "-drive", f"if=none,id=seed,format=raw,snapshot=on,file={self.rig.seed.path}",
            *DISKS[self.disk],
            "-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no",
            "-device", f"{NICS[self.nic]},netdev=net,mac={self.mac},romfile=",
            "-device", "virtio-rng-pci",
            "-chardev", f"socket,id=console,path={self.scratch}/console,server=on,wait=off,logfile={self.console_path}",
            "-serial", "chardev:console", *self.more,
        ]
        if secure:
            argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        for i, text in enumerate(self.smbios):
            with open(f"{self.scratch}/smbios-{i}", "w") as f:
                f.write(text)
            argv += ["-smbios", f"type=11,path={self.scratch}/smbios-{i}"]
        if self.with_tpm:
            self.tpm = TPM(f"{self.scratch}/tpm")
            argv += self.tpm.arguments()
        with open(f"{self.rig.logs}/{self.name}.qemu", "w") as log:
            print(" ".join(argv), file=log, flush=True)
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        """Its end without a word to anybody, so that the TPM stays as it is."""
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.keyboard:
            self.keyboard.close()
        if self.process:
            self.kill()
        if self.tpm:
            self.tpm.close()
        if self.mac:
            subprocess.run(["ip", "link", "delete", self.tap], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.scratch)

    @property
    def console(self):
        return read_console(self.console_path)

    @property
    def address(self):
        return self.rig.network.address(self.mac)

    @property
    def seconds(self):
        return time.monotonic() - self.started

    def says(self, pattern):
        """Waits for a line on its console; the match."""
        def look():
            if m := re.search(pattern, self.console):
                return m
            if self.process.poll() is not None:
                raise Failure(f"QEMU ended with {self.process.returncode} before the console said '{pattern}'")
            return None
        return until(look, f"the console says '{pattern}'")

    def is_up(self, ipv6=False):
        """Waits until its agent answers, through the forwarder; what was seen."""
        def ask():
            if self.process.poll() is not None:
                raise Failure(f"QEMU ended with {self.process.returncode} before the agent answered")
            address = self.address
            if not address:
                return False
            try:
                return health_check(address6(self.mac) if ipv6 else address, self.rig.seed.tls(), 10)
            except OSError:
                return False
        until(ask, "the agent answers")
        return f"up in {self.seconds:.0f} s"

    def ends(self):
        """Waits until it has switched itself off, or panicked; what its console said."""
        def over():
            if self.process.poll() is not None:
                return True
            address = self.address
            with contextlib.suppress(OSError):
                if address and health_check(address, self.rig.seed.tls(), 2):
                    raise Failure("the agent answers")
            return False
        until(over, "the VM ends")
        if self.process.returncode != 0:
            raise Failure(f"QEMU ended with {self.process.returncode}")
        return self.console

    def type(self, text):
        """Left connected until the VM's end: what its serial port has not taken yet would be lost."""
        if not self.keyboard:
            self.keyboard = socket.socket(socket.AF_UNIX)
            self.keyboard.connect(f"{self.scratch}/console")
        self.keyboard.sendall(text.encode())


class Rig:
    """What all cases share; a context manager."""

    def __init__(self, images, logs):
        self.production, self.signed, self.test, self.debug = (
            f"{images}/{name}/podvm.raw" for name in ("production", "signed", "test", "debug"))
        self.certificate, self.logs = f"{images}/keys/certificate.pem", logs

    def __enter__(self):
        self.scratch = tempfile.mkdtemp(prefix="image-test.")
        self.network = Network(self.scratch)
        self.seed = Seed(self.scratch)
        self.variables = f"{self.scratch}/variables"
        enrol(self.certificate, self.variables)
        self.own_files = set(os.listdir(self.scratch)) | {"leases"}
        return self

    def __exit__(self, *_):
        self.network.close()
        shutil.rmtree(self.scratch)
