#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The chart and the manifests of install/: rendered by Helm's own engine, each object held to Kubernetes' published schema of its kind.

Usage: install-test.py GO-PEER INSTALL [PART OF A CASE'S NAME]   (run by tests/peers/python)"""
import json
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

sys.dont_write_bytecode = True
import cloud_rig

GO_PEER, INSTALL = sys.argv[1], pathlib.Path(sys.argv[2])
CHART = INSTALL / "helm" / "peerpods"
NAMESPACE = "confidential-containers-system"
VERSION = "1.31"
FOREIGN = {"cert-manager.io/v1"}        # their schemas are not Kubernetes'
IMAGE = {"image": {"name": "example/peerpod"}}
AWKWARD = 'a "quoted" \\ value: {with} #everything\nand a second line\t%$`'


def render(values, *more):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        json.dump(values, f)            # is YAML, and leaves no doubt about what is a string
        f.flush()
        return subprocess.run([GO_PEER, "helm-template", CHART, f.name, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)


def objects(values, *more):
    r = render(values, *more)
    assert r.returncode == 0, r.stderr
    return [o for o in yaml.safe_load_all(r.stdout) if o]


def fails(values, text):
    r = render(values)
    assert r.returncode != 0 and text in r.stderr, (r.returncode, r.stderr)


def one(found, kind, name):
    (o,) = [o for o in found if o["kind"] == kind and o["metadata"]["name"] == name]
    return o


def check_schemas(found):
    for o in found:
        if o["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(o, VERSION, strict=True)


def pods(found):
    return [(o["metadata"]["name"], o["spec"]["template"]["spec"]) for o in found if o["kind"] in ("DaemonSet", "Deployment")]


def all_objects_fit_their_schemas():
    for values in ({}, {"provider": "aws", "secrets": {"mode": "reference", "existingSecretName": "mine"}}, {"webhook": {"enabled": False}},
                   {"resourceCtrl": {"enabled": False}, "daemonset": {"enabled": False}, "runtimeClass": {"create": False}},
                   {"webhook": {"certManager": {"enabled": False}, "tls": {"secretName": "tls", "caBundle": "Q0E="}}},
                   {"daemonset": {"tolerations": [{"operator": "Exists"}], "podLabels": {"a": "b"}, "podAnnotations": {"c": "d"}, "apiServer": "https://api:6443"},
                    "resourceCtrl": {"podLabels": {"a": "b"}}, "imagePullSecrets": [{"name": "pull"}], "tlsProfile": {"minVersion": "VersionTLS13"}}):
        check_schemas(objects({**IMAGE, **values}, "--crds"))


def an_upstream_s_values_name_the_same_things():
    found = objects({**IMAGE, "provider": "aws", "limit": "7", "tlsProfile": {"minVersion": "VersionTLS13", "cipherSuites": ""},
                     "providerConfigs": {"aws": {"PODVM_AMI_ID": "ami-1", "ROOT_VOLUME_SIZE": 30, "DISABLECVM": True}, "azure": {"AZURE_REGION": "eastus"}},
                     "providerSecrets": {"aws": {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": AWKWARD}}})
    assert one(found, "ConfigMap", "peer-pods-cm")["data"] == {
        "CLOUD_PROVIDER": "aws", "PEERPODS_LIMIT_PER_NODE": "7", "TLS_MIN_VERSION": "VersionTLS13", "PODVM_AMI_ID": "ami-1", "ROOT_VOLUME_SIZE": "30", "DISABLECVM": "true"}
    assert one(found, "Secret", "peer-pods-secret")["stringData"] == {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": AWKWARD}


def values_are_quoted_whatever_is_in_them():
    found = objects({**IMAGE, "providerConfigs": {"libvirt": {"INITDATA": AWKWARD, "LIBVIRT_NET": "yes", "X": "1e3"}}})
    assert one(found, "ConfigMap", "peer-pods-cm")["data"].items() >= {"INITDATA": AWKWARD, "LIBVIRT_NET": "yes", "X": "1e3"}.items()


def an_own_secret_is_used_by_its_name_everywhere():
    found = objects({**IMAGE, "secrets": {"mode": "reference", "existingSecretName": "mine"}, "providerSecrets": {"libvirt": {"A": "b"}}})
    assert not [o for o in found if o["kind"] == "Secret"]
    specs = dict(pods(found))
    assert "--secret=mine" in specs["peerpod-ctrl"]["containers"][0]["command"]
    assert [v for v in specs["peerpods-installer"]["volumes"] if v["name"] == "secrets"][0]["secret"]["secretName"] == "mine"
    role = one(found, "Role", "peerpod-ctrl")
    assert ["mine"] in [r.get("resourceNames") for r in role["rules"] if r["resources"] == ["secrets"]], role


def what_makes_no_sense_is_refused_with_the_value_s_name():
    fails({}, "image.name")
    fails({**IMAGE, "provider": "ec2"}, "provider: 'ec2'")
    fails({**IMAGE, "secrets": {"mode": "none"}}, "secrets.mode")
    fails({**IMAGE, "secrets": {"mode": "reference"}}, "secrets.existingSecretName")
    fails({**IMAGE, "webhook": {"certManager": {"enabled": False}}}, "webhook.tls.caBundle")


def no_container_has_a_privilege():
    found = objects(IMAGE)
    assert {name for name, _ in pods(found)} == {"peerpods-installer", "peerpod-ctrl", "peerpod-webhook"}
    for name, spec in pods(found):
        assert not spec.get("hostNetwork") and not spec.get("hostPID") and not spec.get("hostIPC"), name
        for c in spec["containers"]:
            context = c["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]} and context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"], name
            assert name == "peerpods-installer" or context["runAsNonRoot"], name
            assert c["resources"]["limits"]["memory"], name
    host = {v["hostPath"]["path"] for _, spec in pods(found) for v in spec["volumes"] if "hostPath" in v}
    assert host == {"/var/lib/extensions", "/etc/peerpod", "/run/dbus"}, host


def rights_are_the_least():
    """Nobody may do everything, read all Secrets, or make pods"""
    for o in objects(IMAGE):
        for rule in o.get("rules", []) if o["kind"] in ("ClusterRole", "Role") else []:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], o
            if o["kind"] == "ClusterRole" and "secrets" in rule["resources"]:
                assert set(rule["verbs"]) <= {"get"}, o         # image pull secrets: of what name is not known before
            if "pods" in rule["resources"]:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}, o


def the_webhook_is_asked_about_pod_vms_only():
    (hook,) = one(objects({**IMAGE, "webhook": {"targetRuntimeClass": "kata-remote, kata-remote-gpu"}}), "MutatingWebhookConfiguration", "peerpod-webhook")["webhooks"]
    (condition,) = hook["matchConditions"]
    assert condition["expression"].endswith("in ['kata-remote', 'kata-remote-gpu']") and hook["failurePolicy"] == "Fail"
    assert hook["clientConfig"]["service"]["path"] == "/mutate-v1-pod"


def each_account_is_bound_to_roles_that_exist():
    found = objects(IMAGE)
    there = {(o["kind"], o["metadata"]["name"]) for o in found}
    bindings = [o for o in found if o["kind"] in ("ClusterRoleBinding", "RoleBinding")]
    assert bindings
    for b in bindings:
        assert (b["roleRef"]["kind"], b["roleRef"]["name"]) in there, b
        for s in b["subjects"]:
            assert (s["kind"], s["name"]) in there and s["namespace"] == NAMESPACE, b
    for name, spec in pods(found):
        assert ("ServiceAccount", spec["serviceAccountName"]) in there, name


def the_plain_manifests_are_the_chart_s():
    """To be made anew by tools/manifests"""
    wanted = objects(yaml.safe_load((INSTALL / "manifests" / "values.yaml").read_text()), "--crds")
    assert [o for o in yaml.safe_load_all((INSTALL / "manifests" / "peerpods.yaml").read_text()) if o] == wanted


if __name__ == "__main__":
    cloud_rig.main([all_objects_fit_their_schemas, an_upstream_s_values_name_the_same_things, values_are_quoted_whatever_is_in_them,
                    an_own_secret_is_used_by_its_name_everywhere, what_makes_no_sense_is_refused_with_the_value_s_name, no_container_has_a_privilege,
                    rights_are_the_least, the_webhook_is_asked_about_pod_vms_only, each_account_is_bound_to_roles_that_exist,
                    the_plain_manifests_are_the_chart_s], sys.argv[3] if len(sys.argv) > 3 else None)
