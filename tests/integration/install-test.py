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
                            ({"webhook": {"webhook": {"targetRuntimeClass": "kata-*"}}}, "webhook.webhook.matchConditions")):
            with self.assertRaisesRegex(ValueError, re.escape(why)):
                self.render(values)


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
