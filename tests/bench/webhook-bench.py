#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How long the API server waits for peerpod-webhook at 500 reviews a second, and how much longer than for an answer that takes no thought
(/healthz, over the same connections, at the same rate, in the same run).

Usage: webhook-bench.py WEBHOOK GO-PEER"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile

RATE, SECONDS = 500, 10


def container(i):
    return {"name": f"c{i}", "image": "example.com/image@sha256:" + "0" * 64, "ports": [{"containerPort": 80 + i}],
            "env": [{"name": f"VARIABLE_{j}", "value": "x" * 40} for j in range(20)],
            "volumeMounts": [{"name": f"v{j}", "mountPath": f"/mnt/{j}"} for j in range(5)],
            "resources": {"requests": {"cpu": "250m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "1.5Gi"}}}


def review():
    pod = {"metadata": {"generateName": "web-", "labels": {f"example.com/l{i}": "x" * 20 for i in range(10)}},
           "spec": {"runtimeClassName": "kata-remote", "volumes": [{"name": f"v{i}", "emptyDir": {}} for i in range(5)],
                    "initContainers": [container(3)], "containers": [container(i) for i in range(3)]}}
    return json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {
        "uid": "0ddba11", "resource": {"group": "", "version": "v1", "resource": "pods"}, "operation": "CREATE", "object": pod}})


def main(webhook, go_peer):
    with tempfile.TemporaryDirectory() as d, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x",
                        "-addext", "subjectAltName=DNS:webhook", "-keyout", d + "/tls.key", "-out", d + "/tls.crt"], check=True, stderr=subprocess.DEVNULL)
        with open(d + "/review", "w", encoding="ascii") as f:
            f.write(review())
        a = os.dup(listener.fileno())
        p = subprocess.Popen(["sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh", webhook, "--cert-dir", d], pass_fds=(3,),
                             preexec_fn=lambda: os.dup2(a, 3))
        try:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"

            def measure(path, *body):
                before = cpu(p.pid)
                out = subprocess.run([go_peer, "webhook-load", url + path, d + "/tls.crt", "webhook", str(RATE), str(SECONDS), *body], check=True,
                                     stdout=subprocess.PIPE, text=True, timeout=300).stdout
                p50, p99 = map(int, out.split())
                print(f"{path:16} p50 {p50 / 1000:7.3f} ms   p99 {p99 / 1000:7.3f} ms   "
                      f"{(cpu(p.pid) - before) / RATE / SECONDS * 1e6:6.0f} us of processor each")
                return p50, p99

            plain = measure("/healthz")
            mutation = measure("/mutate-v1-pod", d + "/review")
            print(f"ratio            p50 {mutation[0] / plain[0]:7.2f}      p99 {mutation[1] / plain[1]:7.2f}      "
                  f"({RATE} a second, {os.path.getsize(d + '/review')} bytes each)")
        finally:
            p.send_signal(signal.SIGTERM)
            p.wait(60)


def cpu(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


main(*sys.argv[1:3])
