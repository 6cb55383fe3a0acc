# SPDX-License-Identifier: Apache-2.0
"""Compute Engine as gcp-test.py needs it. Its schema is the vendor's (PyPI: google-cloud-compute): paths and methods are those of the library's
own HTTP rules, queries are fields of its request classes, bodies are parsed into its messages with unknown keys refused, answers are
made of its messages. Assertions of service accounts are verified by google-auth."""
import json
import re
import subprocess
import urllib.parse

import google.auth.jwt
from google.cloud import compute_v1
from google.cloud.compute_v1.services.disk_types.transports import rest_base as disk_types
from google.cloud.compute_v1.services.disks.transports import rest_base as disks
from google.cloud.compute_v1.services.images.transports import rest_base as images
from google.cloud.compute_v1.services.instances.transports import rest_base as instances
from google.cloud.compute_v1.services.machine_types.transports import rest_base as machine_types
from google.cloud.compute_v1.services.networks.transports import rest_base as networks
from google.cloud.compute_v1.services.subnetworks.transports import rest_base as subnetworks
from google.cloud.compute_v1.services.zone_operations.transports import rest_base as zone_operations
from google.cloud.compute_v1.services.zones.transports import rest_base as zones

PROJECT, ZONE = "pods-1", "europe-west4-a"
ACCOUNT = "peerpod@pods-1.iam.gserviceaccount.com"
METHODS = [
    (instances, "Instances", "Insert", compute_v1.InsertInstanceRequest), (instances, "Instances", "Get", compute_v1.GetInstanceRequest),
    (instances, "Instances", "Delete", compute_v1.DeleteInstanceRequest), (instances, "Instances", "List", compute_v1.ListInstancesRequest),
    (zone_operations, "ZoneOperations", "Wait", compute_v1.WaitZoneOperationRequest),
    (machine_types, "MachineTypes", "Get", compute_v1.GetMachineTypeRequest), (images, "Images", "Get", compute_v1.GetImageRequest),
    (images, "Images", "GetFromFamily", compute_v1.GetFromFamilyImageRequest), (disks, "Disks", "Get", compute_v1.GetDiskRequest),
    (zones, "Zones", "Get", compute_v1.GetZoneRequest), (disk_types, "DiskTypes", "Get", compute_v1.GetDiskTypeRequest),
    (networks, "Networks", "Get", compute_v1.GetNetworkRequest), (subnetworks, "Subnetworks", "Get", compute_v1.GetSubnetworkRequest),
]
TYPES = {
    "n2d-standard-2": (2, 8192, None, "X86_64"), "n2d-standard-4": (4, 16384, None, "X86_64"), "n2d-highmem-2": (2, 16384, None, "X86_64"),
    "t2a-standard-4": (4, 16384, None, "ARM64"), "a2-highgpu-1g": (12, 87040, ("nvidia-tesla-a100", 1), "X86_64"), "e2-medium": (2, 4096, None, "X86_64"),
}


def make_key(directory):
    """(key file's text of a service account without its token_uri, public key)"""
    private = subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], check=True, capture_output=True, text=True).stdout
    public = subprocess.run(["openssl", "pkey", "-pubout"], input=private, check=True, capture_output=True, text=True).stdout
    key = {"type": "service_account", "project_id": PROJECT, "private_key_id": "key-1", "private_key": private, "client_email": ACCOUNT}
    return key, public


def routes():
    for module, service, method, request in METHODS:
        for rule in getattr(getattr(module, f"_Base{service}RestTransport"), f"_Base{method}")._get_http_options():
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/?]+)", rule["uri"])
            yield rule["method"].upper(), re.compile(pattern + "$"), f"{service}.{method}", request, rule.get("body")


def snake(name):
    return re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), name)


class Refused(Exception):
    def __init__(self, status, reason, message=""):
        super().__init__(message or reason)
        self.status, self.reason = status, reason


class Google:
    """The handler of a cloud_rig.Server; its `lock` guards all."""

    def __init__(self, public_key):
        self.url, self.public_key = "", public_key
        self.routes = list(routes())
        self.instances, self.operations, self.requests, self.counter, self.tokens = {}, {}, {}, 0, set()
        self.bodies, self.page, self.looks, self.fail_operation, self.metadata_tokens, self.n_tokens = [], 500, 1, None, 0, 0
        self.denied, self.expires_in, self.disks, self.exchanges, self.waits = set(), 3600, {}, [], 1

    # ---- the protocol ----

    def __call__(self, request):
        with request.server.lock:
            try:
                return self.answer(request)
            except Refused as e:
                return e.status, {"error": {"code": e.status, "message": str(e), "errors": [{"reason": e.reason, "message": str(e)}]}}

    def answer(self, request):
        path = urllib.parse.unquote(request.path)
        if path == "/token":
            return self.token(request)
        if path in ("/sts", "/impersonate"):
            return self.exchange(request, path)
        if path.startswith("/computeMetadata/"):
            assert path == "/computeMetadata/v1/instance/service-accounts/default/token" and request.headers["Metadata-Flavor"] == "Google"
            self.metadata_tokens += 1
            return 200, self.new_token(), {"Metadata-Flavor": "Google"}
        if (request.headers.get("Authorization") or "").removeprefix("Bearer ") not in self.tokens:
            raise Refused(401, "authError", "Invalid Credentials")
        if path == f"/v3/projects/{PROJECT}:testIamPermissions":
            body = request.json()
            assert request.method == "POST" and set(body) == {"permissions"} and all(isinstance(p, str) for p in body["permissions"])
            return 200, {"permissions": [p for p in body["permissions"] if p not in self.denied]}
        for method, pattern, name, kind, body_field in self.routes:
            m = pattern.match(path)
            if m and method == request.method:
                return self.call(request, name, kind, m.groupdict(), body_field)
        raise AssertionError(f"no such method: {request.method} {path}")

    def call(self, request, name, kind, arguments, body_field):
        fields = kind.meta.fields
        for key in arguments:
            assert key in fields, (name, key)
        query = {k: v[0] for k, v in request.query.items()}
        query.pop("fields", None)       # of all methods; a selection of the answer
        for key in query:
            assert snake(key) in fields, f"{name} has no parameter '{key}'"
        message = None
        if body_field:
            field = fields[body_field]
            assert request.headers["Content-Type"] == "application/json"
            message = field.message.from_json(request.body.decode(), ignore_unknown_fields=False)
        else:
            assert not request.body, f"{name} takes no body"
        if "project" in arguments:
            assert arguments["project"] in (PROJECT, "shared"), arguments
        if arguments.get("zone", ZONE) != ZONE:
            raise Refused(404, "notFound", f"no zone {arguments['zone']}")
        result = getattr(self, name.replace(".", "_"))(arguments, query, message)
        return 200, type(result).to_json(result, use_integers_for_enums=False, always_print_fields_with_no_presence=False)

    # ---- credentials ----

    def new_token(self):
        self.n_tokens += 1
        token = f"ya29.{self.n_tokens}"
        self.tokens.add(token)
        return {"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"}

    def token(self, request):
        form = request.form()
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"], form
        try:
            claims = google.auth.jwt.decode(form["assertion"][0], certs=self.public_key, audience=f"{self.url}/token")
        except ValueError as e:
            return 400, {"error": "invalid_grant", "error_description": str(e)}
        if claims["iss"] != ACCOUNT:
            return 400, {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}
        assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform", claims
        return 200, self.new_token()

    def exchange(self, request, path):
        self.exchanges.append(path)
        if path == "/sts":
            form = request.form()
            assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:token-exchange"] and form["subject_token"] == ["subject-1"], form
            return 200, self.new_token()
        assert request.headers["Authorization"].removeprefix("Bearer ") in self.tokens
        assert request.json() == {"scope": ["https://www.googleapis.com/auth/cloud-platform"], "lifetime": "3600s"}
        return 200, {"accessToken": self.new_token()["access_token"], "expireTime": "2099-01-01T00:00:00Z"}

    # ---- instances ----

    def operation(self, kind, target, error=None):
        self.counter += 1
        name = f"operation-{self.counter}"
        self.operations[name] = [0, error, kind, target]
        return compute_v1.Operation(name=name, status="RUNNING", operation_type=kind, zone=ZONE, target_link=target)

    def Instances_Insert(self, arguments, query, body):
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", query["requestId"]), query
        if query["requestId"] in self.requests:
            return self.requests[query["requestId"]]
        if body.name in self.instances:
            raise Refused(409, "alreadyExists", f"The resource '{body.name}' already exists")
        if self.fail_operation:
            result = self.operation("insert", body.name, self.fail_operation)
        else:
            self.bodies.append(compute_v1.Instance.to_dict(body))
            self.counter += 1
            instance = compute_v1.Instance(body)
            instance.status = "PROVISIONING"
            instance.id = 1000 + self.counter
            instance.machine_type = f"https://compute.googleapis.com/compute/v1/projects/{PROJECT}/{body.machine_type}"
            self.instances[body.name] = [instance, 0]
            result = self.operation("insert", body.name)
        self.requests[query["requestId"]] = result
        return result

    def find(self, name):
        if name not in self.instances:
            raise Refused(404, "notFound", f"The resource '{name}' was not found")
        return self.instances[name]

    def Instances_Get(self, arguments, query, body):
        entry = self.find(arguments["instance"])
        entry[1] += 1
        instance = entry[0]
        if instance.status == "PROVISIONING" and entry[1] > self.looks:
            instance.status = "RUNNING"
        elif instance.status == "RUNNING" and entry[1] > self.looks + 1:
            for i, nic in enumerate(instance.network_interfaces):
                nic.network_i_p = nic.network_i_p or f"10.{i}.0.{10 + self.counter % 200}"
                for access in nic.access_configs:
                    access.nat_i_p = access.nat_i_p or f"203.0.113.{10 + self.counter % 200}"
        result = compute_v1.Instance(instance)
        result.metadata = None
        return result

    def Instances_Delete(self, arguments, query, body):
        self.find(arguments["instance"])
        del self.instances[arguments["instance"]]
        return self.operation("delete", arguments["instance"])

    def Instances_List(self, arguments, query, body):
        m = re.fullmatch(r"labels\.([a-z-]+)=([0-9a-f]{32})", query["filter"])
        assert m, query
        found = [i for i, _ in self.instances.values() if i.labels.get(m[1]) == m[2]]
        start, size = int(query.get("pageToken", 0)), min(self.page, int(query["maxResults"]))
        items = [compute_v1.Instance(name=i.name, description=i.description) for i in found[start:start + size]]
        return compute_v1.InstanceList(items=items, next_page_token=str(start + size) if start + size < len(found) else None)

    def ZoneOperations_Wait(self, arguments, query, body):
        name = arguments["operation"]
        if name not in self.operations:
            raise Refused(404, "notFound", name)
        entry = self.operations[name]
        entry[0] += 1
        result = compute_v1.Operation(name=name, status="DONE" if entry[0] > self.waits else "RUNNING", operation_type=entry[2])
        if entry[1] and entry[0] > self.waits:
            result.http_error_status_code, result.http_error_message = 409 if entry[1] != "QUOTA_EXCEEDED" else 403, "NO"
            result.error = compute_v1.Error(errors=[compute_v1.Errors(code=entry[1], message="the operation failed")])
        return result

    # ---- the catalogue ----

    def MachineTypes_Get(self, arguments, query, body):
        if arguments["machine_type"] not in TYPES:
            raise Refused(404, "notFound", arguments["machine_type"])
        cpus, memory, gpu, architecture = TYPES[arguments["machine_type"]]
        t = compute_v1.MachineType(name=arguments["machine_type"], guest_cpus=cpus, memory_mb=memory, architecture=architecture)
        if gpu:
            t.accelerators = [compute_v1.Accelerators(guest_accelerator_type=gpu[0], guest_accelerator_count=gpu[1])]
        return t

    def image(self, project, name):
        if name == "nowhere":
            raise Refused(404, "notFound", name)
        return compute_v1.Image(name=name, status="READY" if name != "young" else "PENDING", disk_size_gb=20, architecture="ARM64" if "arm" in name else "X86_64",
                                self_link=f"https://www.googleapis.com/compute/v1/projects/{project}/global/images/{name}")

    def Images_Get(self, arguments, query, body):
        return self.image(arguments["project"], arguments["image"])

    def Images_GetFromFamily(self, arguments, query, body):
        return self.image(arguments["project"], arguments["family"] + "-v7")

    def Disks_Get(self, arguments, query, body):
        if arguments["disk"] not in self.disks:
            raise Refused(404, "notFound", arguments["disk"])
        return compute_v1.Disk(name=arguments["disk"], status="READY", users=self.disks[arguments["disk"]])

    def Zones_Get(self, arguments, query, body):
        return compute_v1.Zone(name=arguments["zone"])

    def DiskTypes_Get(self, arguments, query, body):
        if arguments["disk_type"] != "pd-standard":
            raise Refused(404, "notFound", arguments["disk_type"])
        return compute_v1.DiskType(name=arguments["disk_type"])

    def Networks_Get(self, arguments, query, body):
        if arguments["network"] == "nowhere":
            raise Refused(404, "notFound", "network")
        return compute_v1.Network(name=arguments["network"])

    def Subnetworks_Get(self, arguments, query, body):
        assert arguments["region"] == ZONE[:-2], arguments
        return compute_v1.Subnetwork(name=arguments["subnetwork"])

    def nothing_left(self):
        return " ".join(self.instances)


def key_text(key, url):
    return json.dumps({**key, "token_uri": f"{url}/token"})
