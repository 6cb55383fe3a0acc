#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What install/ has for a cluster: each object is one by the schemas that the Kubernetes project publishes (kubernetes-validate), kubectl
takes the whole, and the chart says the same as the plain manifests. The chart is rendered by Go's templates and Helm's functions
(tests/peers/chart-render).

Usage: install-test.py SOURCE-DIRECTORY WEBHOOK GO-PEER PROGRAM-OR-MODULE…"""
import base64
import glob
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import unittest

import kubernetes_validate
import yaml

SOURCE, WEBHOOK, GO_PEER, *PROGRAMS = [os.path.abspath(a) for a in sys.argv[1:]]
INSTALL = os.path.join(SOURCE, "install")
PATIENCE = 120
VERSIONS = ("1.30", "1.34")
OTHERS = {"cert-manager.io/v1"}         # whose schemas are not Kubernetes' own


def documents(text):
    return [d for d in yaml.safe_load_all(text) if d is not None]


def load(*path):
    with open(os.path.join(INSTALL, *path), encoding="utf-8") as f:
        return documents(f.read())


def files_of_all(*folders):
    """What everybody needs: not the roles of the CSI wrapper, which stands beside one driver or another (docs/csi.md)"""
    return [p for f in folders for p in sorted(glob.glob(f"{INSTALL}/{f}/*.yaml")) if os.path.basename(p) != "peerpod-csi.yaml"]


def key(o):
    return o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]


def by_key(objects):
    return {key(o): o for o in objects}


class Objects(unittest.TestCase):
    def check(self, objects):
        self.assertEqual(len(by_key(objects)), len(objects))
        for o in objects:
            if o["apiVersion"] in OTHERS:
                continue
            for version in VERSIONS:
                with self.subTest(object=key(o), version=version):
                    kubernetes_validate.validate(o, version, strict=True)


class Manifests(Objects):
    def test_each_object_is_one(self):
        paths = glob.glob(INSTALL + "/*/*.yaml")
        objects = [o for p in sorted(paths) if os.path.basename(os.path.dirname(p)) in ("crds", "rbac", "manifests") for o in load(p)]
        self.assertGreater(len(objects), 15)
        self.check(objects)

    def test_kubectl_takes_all_of_it(self):
        out = subprocess.run(["kubectl", "kustomize", INSTALL], check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout
        built = by_key(documents(out))
        for path in files_of_all("crds", "rbac", "manifests"):
            for k in by_key(load(path)):
                self.assertIn(k, built)

    def test_whoever_is_bound_is_there(self):
        objects = [o for p in glob.glob(INSTALL + "/*/*.yaml") if "/rbac/" in p or "/manifests/" in p for o in load(p)]
        accounts = {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects if o["kind"] == "ServiceAccount"}
        for o in objects:
            for s in o.get("subjects", []):
                self.assertIn((s["namespace"], s["name"]), accounts)
            if o["kind"] == "Deployment":
                self.assertIn((o["metadata"]["namespace"], o["spec"]["template"]["spec"]["serviceAccountName"]), accounts)

    def test_no_pod_has_a_privilege(self):
        for o in load("manifests", "webhook.yaml") + load("manifests", "controller.yaml"):
            if o["kind"] != "Deployment":
                continue
            spec = o["spec"]["template"]["spec"]
            self.assertEqual([spec.get(f) for f in ("hostNetwork", "hostPID", "hostIPC")], [None] * 3)
            self.assertEqual(spec["securityContext"]["runAsNonRoot"], True)
            self.assertFalse([v for v in spec["volumes"] if "hostPath" in v])
            for c in spec["containers"]:
                self.assertEqual(c["securityContext"], {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                        "capabilities": {"drop": ["ALL"]}})

    def test_the_node_installer_has_three_directories_of_the_host_and_no_privilege(self):
        (o,) = load("node", "daemonset.yaml")
        self.check([o])
        spec = o["spec"]["template"]["spec"]
        self.assertEqual([spec.get(f) for f in ("hostNetwork", "hostPID", "hostIPC")], [None] * 3)
        self.assertEqual({v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}, {"/var/lib/extensions", "/etc/peerpod", "/run/dbus"})
        self.assertEqual(spec["containers"][0]["securityContext"], {"runAsUser": 0, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                                    "capabilities": {"drop": ["ALL"]}})

    def test_the_webhook_takes_what_it_is_given(self):
        o = next(o for o in load("manifests", "webhook.yaml") if o["kind"] == "Deployment")
        c = o["spec"]["template"]["spec"]["containers"][0]
        self.assertEqual(c["command"], ["/usr/lib/peerpod/peerpod-webhook"])
        p = subprocess.run([WEBHOOK, *c["args"]], env=dict(os.environ, **{e["name"]: e["value"] for e in c["env"]}), stderr=subprocess.PIPE,
                           text=True, timeout=PATIENCE, check=False)
        # All it lacks is the certificate.
        self.assertEqual((p.returncode, p.stderr), (78, "<3>Failed to read the directory of '/run/certificates': No such file or directory\n"))

    def test_the_webhook_is_asked_by_the_name_in_its_certificate(self):
        objects = load("manifests", "webhook.yaml")
        service = next(o for o in objects if o["kind"] == "MutatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["service"]
        certificate = next(o for o in objects if o["kind"] == "Certificate")
        deployment = next(o for o in objects if o["kind"] == "Deployment")
        self.assertIn(f"{service['name']}.{service['namespace']}.svc", certificate["spec"]["dnsNames"])
        self.assertEqual(certificate["spec"]["secretName"], deployment["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"])
        self.assertEqual(next(o for o in objects if o["kind"] == "Service")["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"])

    def test_the_image_has_the_libraries_of_all_that_runs_in_it(self):
        with open(INSTALL + "/Containerfile", encoding="ascii") as f:
            packages = set(re.findall(r"[a-z]\S+", f.read().split("trixie-slim")[1].split("&& rm")[0]))
        out = subprocess.run(["objdump", "-p", WEBHOOK, *PROGRAMS], check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout
        for name in set(re.findall(r"NEEDED +(lib\S+)", out)):
            # libc is in every image; what a sanitizer brings is in none.
            if not re.match(r"lib(c|m|asan|ubsan)\.so", name):
                found = subprocess.run(["dpkg", "-S", "*/" + name], check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout
                self.assertIn(found.split(":")[0], packages, name)


class Chart(Objects):
    def render(self, values=None, namespace="confidential-containers-system"):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            json.dump(values or {}, f)
            f.flush()
            p = subprocess.run([GO_PEER, "chart-render", INSTALL + "/chart", namespace, f.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, timeout=PATIENCE, check=False)
        if p.returncode != 0:
            raise ValueError(p.stderr)
        return documents(p.stdout)

    def test_it_says_the_same_as_the_plain_manifests(self):
        chart = by_key(self.render())
        for path in files_of_all("rbac", "manifests"):
            for k, o in by_key(load(path)).items():
                if k[0] == "Namespace" and k[2] == "confidential-containers-system":
                    continue
                for c in o.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                    c["imagePullPolicy"] = "IfNotPresent"
                    if c["name"] == "webhook":
                        c["env"].append({"name": "POD_VM_GPU_RESOURCES", "value": "nvidia.com/gpu"})
                self.assertEqual(chart.pop(k), o)
        self.assertEqual({k[0] for k in chart}, {"ConfigMap", "Secret"})

    def test_its_node_installer_is_the_plain_one(self):
        (plain,) = load("node", "daemonset.yaml")
        plain["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
        self.assertEqual(by_key(self.render({"daemonset": {"enabled": True}}))[key(plain)], plain)

    def test_each_rendering_is_valid(self):
        for values in ({}, {"daemonset": {"enabled": True}}, {"webhook": {"enabled": False}, "resourceCtrl": {"enabled": False}, "node": {"enabled": False}},
                       {"webhook": {"certManager": {"enabled": False}, "caBundle": base64.b64encode(b"x").decode()}},
                       {"secrets": {"mode": "reference", "existingSecretName": "mine"}}, {"tlsProfile": {"minVersion": "VersionTLS13"}},
                       {"webhook": {"webhook": {"targetRuntimeClass": "kata-*", "matchConditions": [
                           {"name": "peer-pods", "expression": "object.spec.runtimeClassName.startsWith('kata-')"}]}}}):
            self.check(self.render(values, namespace="elsewhere"))

    def test_settings_survive_whatever_is_in_them(self):
        awkward = 'a "quoted" \\ line\nand: another # one\t{{ x }}'
        objects = by_key(self.render({"provider": "aws", "providerConfigs": {"aws": {"INITDATA": awkward, "PEERPODS_LIMIT_PER_NODE": 7}},
                                      "providerSecrets": {"aws": {"AWS_SECRET_ACCESS_KEY": awkward}, "azure": {"x": "y"}}}))
        ns = "confidential-containers-system"
        self.assertEqual(objects["ConfigMap", ns, "peer-pods-cm"]["data"],
                         {"CLOUD_PROVIDER": "aws", "INITDATA": awkward, "PEERPODS_LIMIT_PER_NODE": "7"})
        self.assertEqual(objects["Secret", ns, "peer-pods-secret"]["stringData"], {"AWS_SECRET_ACCESS_KEY": awkward})

    def test_a_secret_that_is_there_is_referred_to(self):
        objects = by_key(self.render({"secrets": {"mode": "reference", "existingSecretName": "mine"}}))
        self.assertNotIn("Secret", {k[0] for k in objects})
        env = objects["Deployment", "confidential-containers-system", "peerpod-ctrl"]["spec"]["template"]["spec"]["containers"][0]["env"]
        self.assertIn({"name": "PEERPOD_CTRL_SECRET", "value": "mine"}, env)

    def test_values_that_cannot_work_are_refused(self):
        for values, why in (({"secrets": {"mode": "x"}}, "secrets.mode"), ({"secrets": {"mode": "reference"}}, "secrets.existingSecretName"),
                            ({"webhook": {"certManager": {"enabled": False}}}, "webhook.caBundle"),
                            ({"webhook": {"webhook": {"targetRuntimeClass": "kata-*"}}}, "webhook.webhook.matchConditions"),
                            ({"daemonset": {"enabled": True}, "node": {"enabled": False}}, "daemonset.enabled needs node.enabled")):
            with self.assertRaisesRegex(ValueError, re.escape(why)):
                self.render(values)


# What a host's systemd says when all goes well, but for the call that $RIG/fail has a part of, and the one at which the installer is killed;
# $RIG/result is that of its services
BUSCTL = """#!/bin/bash
echo "$*" >>"$RIG/calls"
if [[ -s $RIG/fail && $* == *"$(<"$RIG/fail")"* ]]; then echo "Call failed: on purpose" >&2; exit 1; fi
if [[ -s $RIG/kill && $* == *"$(<"$RIG/kill")"* ]]; then kill -KILL "$INSTALLER"; exit 1; fi
case $* in
*" Version") echo 's "257"' ;;
*LoadUnit*) echo "o \\"/org/freedesktop/systemd1/unit/${!#}\\"" ;;
*" LoadState") echo "s \\"$(<"$RIG/load-state")\\"" ;;
*GetManagedObjects) cat "$RIG/objects" ;;
*ListUnitsByPatterns*.service) echo '{"type":"a(ssssssouso)","data":[[["peerpod-adaptor.service","a"],["peerpod-agent-proxy@a.service","b"]]]}' ;;
*" ActiveState") echo 's "active"' ;;
*" Job") echo '(uo) 0 "/"' ;;
*Result) echo "s \\"$(<"$RIG/result")\\"" ;;
*"Unit ss "*) echo 'o "/org/freedesktop/systemd1/job/1"' ;;
*) echo '{"data":[{}]}' ;;
esac
"""


class Installer(unittest.TestCase):
    """peerpod-node-installer when something goes wrong; that it works is for a real host to show (tests/install)."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.dir = directory.name
        self.extensions, self.etc = self.path("host/var/lib/extensions"), self.path("host/etc/peerpod")
        for d in self.extensions, self.etc, self.path("host/run/dbus"):
            os.makedirs(d)
        self.write("bin/busctl", BUSCTL)
        os.chmod(self.path("bin/busctl"), 0o755)
        self.write("result", "success")
        self.write("load-state", "loaded")
        self.write("objects", '{"type":"a{oa{sa{sv}}}","data":[{}]}')
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.path("host/run/dbus/system_bus_socket"))
        self.write("tree/usr/share/peerpod/version", "1.0\n")
        self.write("tree/usr/lib/systemd/system-preset/90-peerpod.preset", "enable peerpod-adaptor.socket\n")
        self.write("tree/usr/lib/peerpod/program", "one")
        self.write("cm/CLOUD_PROVIDER", "libvirt")
        self.write("secret/AWS_SECRET_ACCESS_KEY", "hush")
        self.write("account/token", "t1")
        self.write("account/ca.crt", "ca")

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="ascii") as f:
            f.write(text)

    def read(self, *parts):
        with open(os.path.join(*parts), encoding="ascii") as f:
            return f.read()

    def on_host(self):
        """All files that it is responsible for, and what is in them"""
        return {p: self.read(p) for d in (self.extensions, self.etc) for p in glob.glob(d + "/**", recursive=True, include_hidden=True)
                if os.path.isfile(p)}

    def run_installer(self, *command):
        """As its container runs it, root without any capability: status, what it said, and what it had systemd do"""
        self.write("calls", "")
        p = subprocess.run(["sh", "-c", 'INSTALLER=$$ exec setpriv --bounding-set=-all --no-new-privs "$@"', "sh",
                            INSTALL + "/node/peerpod-node-installer", *command],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False, env={
            "PATH": self.path("bin") + ":" + os.environ["PATH"], "RIG": self.dir, "PEERPOD_HOST": self.path("host"), "PEERPOD_TREE": self.path("tree"),
            "PEERPOD_CM": self.path("cm"), "PEERPOD_SECRET": self.path("secret"), "PEERPOD_ACCOUNT": self.path("account"), "PEERPOD_SERVER": "https://x"})
        return p.returncode, p.stdout, [f"{verb} {unit}" for verb, unit in re.findall(r"(\w+)Unit ss (\S+)", self.read(self.path("calls")))]

    def install(self):
        status, out, calls = self.run_installer("install")
        self.assertEqual(status, 0, out)
        return calls

    def refused(self, why, *command):
        status, out, calls = self.run_installer(*command or ["install"])
        self.assertEqual(status, 1, out)
        self.assertIn(why, out)
        return calls

    def small_disk(self, directory, size):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True, timeout=PATIENCE)
        self.addCleanup(subprocess.run, ["umount", directory], check=True, timeout=PATIENCE)

    def test_a_disk_too_small_for_the_programs_keeps_nothing_of_them(self):
        self.small_disk(self.extensions, "256k")
        self.write("tree/usr/lib/peerpod/program", "one" * 200000)
        self.assertEqual(self.refused("No space left on device"), [])
        self.assertEqual((os.listdir(self.extensions), os.listdir(self.etc)), ([], []))

    def test_a_disk_too_small_for_an_upgrade_keeps_the_old_programs_and_settings(self):
        self.small_disk(self.extensions, "256k")
        self.install()
        before = self.on_host()
        self.write("tree/usr/lib/peerpod/program", "two" * 200000)
        self.write("cm/PROXY_TIMEOUT", "7m")
        self.assertEqual(self.refused("No space left on device"), [])
        self.assertEqual(self.on_host(), before)
        self.assertEqual(os.listdir(self.extensions), ["peerpod"])

        self.write("tree/usr/lib/peerpod/program", "two")
        self.assertIn("ReloadOrRestart systemd-sysext.service", self.install())
        self.assertEqual(self.read(self.extensions, "peerpod/usr/lib/peerpod/program"), "two")

    def test_a_disk_too_small_for_the_settings_keeps_the_old_ones(self):
        self.small_disk(self.etc, "64k")
        self.install()
        before = self.on_host()
        self.write("cm/CLOUD_PROVIDER", "aws")
        self.write("secret/GCP_CREDENTIALS", "x" * 100000)
        self.assertEqual(self.refused("No space left on device"), [])
        self.assertEqual(self.on_host(), before)

    def test_a_setting_that_cannot_be_read_is_not_taken_for_another_one(self):
        self.install()
        before = self.on_host()
        os.chown(self.path("cm/CLOUD_PROVIDER"), 1, 1)
        os.chmod(self.path("cm/CLOUD_PROVIDER"), 0o600)
        self.assertEqual(self.refused("cm/CLOUD_PROVIDER cannot be read"), [])
        os.unlink(self.path("account/ca.crt"))
        os.unlink(self.path("cm/CLOUD_PROVIDER"))
        self.assertEqual(self.refused("account/ca.crt"), [])
        self.assertEqual(self.on_host(), before)

    def test_an_upgrade_that_was_ended_is_gone_on_with(self):
        self.install()
        for step in "ReloadOrRestartUnit ss systemd-sysext", "RestartUnit ss systemd-sysusers", "ReloadConfig", "TryRestartUnit ss peerpod-adaptor", \
                    "TryRestartUnit ss peerpod-node":
            with self.subTest(step):
                self.write("tree/usr/lib/peerpod/program", step)
                self.write("kill", step)
                self.assertEqual(self.run_installer("install")[0], -9)
                self.assertEqual(self.read(self.extensions, "peerpod/usr/lib/peerpod/program"), step)
                self.write("kill", "")
                calls = self.install()
                self.assertIn("TryRestart peerpod-adaptor.service", calls)
                self.assertIn("TryRestart peerpod-node.service", calls)
                self.assertEqual("ReloadOrRestart systemd-sysext.service" in calls, not step.startswith("TryRestart"))
                self.assertEqual(os.listdir(self.extensions), ["peerpod"])
        self.assertNotIn("TryRestart peerpod-adaptor.service", self.install())

    def test_programs_that_are_merged_stay_whole_until_others_are(self):
        self.install()
        merged = os.open(self.extensions + "/peerpod/usr/lib/peerpod", os.O_RDONLY)
        self.addCleanup(os.close, merged)
        for text in "two", "three":
            self.write("tree/usr/lib/peerpod/program", text)
            self.write("kill", "ReloadOrRestartUnit ss systemd-sysext")
            self.assertEqual(self.run_installer("install")[0], -9)
            self.assertEqual(os.listdir(merged), ["program"])
        self.write("kill", "")
        self.install()
        self.assertEqual(self.read(self.extensions, "peerpod/usr/lib/peerpod/program"), "three")
        self.assertEqual(os.listdir(self.extensions), ["peerpod"])

    def test_what_a_run_that_was_ended_had_not_put_into_place_is_not_kept(self):
        self.install()
        self.write("bin/sync", '#!/bin/bash\nkill -KILL "$PPID"\n')
        os.chmod(self.path("bin/sync"), 0o755)
        before = self.on_host()
        for name in "cm/CLOUD_PROVIDER", "tree/usr/lib/peerpod/program":
            self.write(name, "new")
            self.assertEqual(self.run_installer("install")[0], -9)
            self.assertGreater(len(self.on_host()), len(before))
            self.write(name, "libvirt" if name.startswith("cm") else "one")
            self.install()
            self.assertEqual(self.on_host(), before)

    def test_settings_whose_restart_did_not_come_are_not_forgotten(self):
        self.install()
        self.write("cm/PROXY_TIMEOUT", "7m")
        self.write("kill", "TryRestartUnit ss peerpod-adaptor")
        self.assertEqual(self.run_installer("install")[0], -9)
        self.write("kill", "")
        calls = self.install()
        self.assertIn("TryRestart peerpod-adaptor.service", calls)
        self.assertNotIn("ReloadOrRestart systemd-sysext.service", calls)
        self.assertNotIn("TryRestart peerpod-adaptor.service", self.install())

    def test_a_token_that_is_new_when_the_installer_starts_reaches_the_service(self):
        """the old one ends with the pod of the installer that it was made for"""
        self.install()
        self.write("account/token", "t2")
        calls = self.install()
        self.assertIn('"token": "t2"', self.read(self.etc, "node.kubeconfig"))
        self.assertIn("TryRestart peerpod-node.service", calls)
        self.assertNotIn("TryRestart peerpod-adaptor.service", calls)

    def test_pod_vms_stop_an_uninstall_and_so_does_an_adaptor_that_does_not_say(self):
        self.install()
        before = self.on_host()
        # More than fits into a pipe, as it does on a large node.
        self.write("objects", json.dumps({"data": [{f"/org/confidentialcontainers/PeerPod1/podvm/{i}": {"x": "y" * 500} for i in range(300)}]}))
        self.assertEqual(self.refused("300 pod VMs exist", "uninstall"), [])
        self.write("fail", "GetManagedObjects")
        self.assertEqual(self.refused("peerpod-adaptor does not answer", "uninstall"), [])
        self.write("load-state", "masked")
        self.assertEqual(self.refused("peerpod-adaptor does not answer", "uninstall"), [])
        self.write("fail", "LoadUnit")
        self.assertEqual(self.refused("on purpose", "uninstall"), [])
        self.assertEqual(self.on_host(), before)

        self.assertEqual(self.run_installer("uninstall", "--forced")[0], 2)
        self.write("fail", "GetManagedObjects")
        status, out, calls = self.run_installer("uninstall", "--force")
        self.assertEqual(status, 0, out)
        self.assertIn("Stop peerpod-agent-proxy@a.service", calls)
        self.assertEqual(self.on_host(), {})

    def test_a_node_that_has_no_adaptor_has_no_pod_vms(self):
        self.write("load-state", "not-found")
        self.write("fail", "GetManagedObjects")
        self.assertEqual(self.run_installer("uninstall")[0], 0)

    def test_an_uninstall_that_failed_or_was_ended_leaves_nothing_masked(self):
        for call in "StopUnit ss peerpod-adaptor", "ReloadOrRestartUnit ss systemd-sysext":
            self.install()
            self.write("fail", call)
            self.refused("on purpose", "uninstall")
            calls = self.read(self.path("calls"))
            self.assertIn("UnmaskUnitFiles", calls[calls.index("MaskUnitFiles"):].split("\n", 1)[1])
            self.write("fail", "")
        self.write("load-state", "masked")
        self.write("fail", "ReloadOrRestartUnit ss systemd-sysext")
        self.refused("on purpose")
        self.assertIn("UnmaskUnitFiles", self.read(self.path("calls")))

    def test_what_systemd_does_not_do_or_does_in_vain_is_an_error(self):
        for call in "LoadUnit s peerpod.target", "ReloadOrRestartUnit ss systemd-sysext", "RestartUnit ss systemd-sysusers", "ReloadConfig":
            with self.subTest(call):
                self.write("tree/usr/lib/peerpod/program", call)
                self.write("fail", call)
                self.refused("on purpose")
        self.write("fail", "")
        self.write("tree/usr/lib/peerpod/program", "two")
        self.write("result", "exit-code")
        self.refused("ReloadOrRestart of systemd-sysext.service failed on the host (exit-code)")


class Nodes(unittest.TestCase):
    """The snippets for those who make node images."""

    def test_both_set_up_the_same(self):
        butane, cloud_init = load("node", "peerpod.bu")[0], load("node", "cloud-init.yaml")[0]
        self.assertEqual({f["path"]: f["contents"]["inline"] for f in butane["storage"]["files"]},
                         {f["path"]: f["content"] for f in cloud_init["write_files"]})
        enabled = {u for c in cloud_init["runcmd"] if c[:2] == ["systemctl", "enable"] for u in c[3:]}
        self.assertEqual({u["name"] for u in butane["systemd"]["units"]}, enabled)
        with open(SOURCE + "/units/worker/90-peerpod.preset", encoding="ascii") as f:
            self.assertEqual(enabled, set(re.findall(r"^enable (\S+)", f.read(), re.M)))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
