# SPDX-License-Identifier: Apache-2.0
"""IBM Cloud as far as the modules ibmcloud and ibmcloud-powervs see it: IAM, VPC, global tagging, containers, instance metadata, Power
Virtual Server. Each request is held against the vendor's own packages (ibm_sdk.py); what they do not know is a failure of the test."""
import concurrent.futures
import functools
import re
import uuid

import cloud_rig
import ibm_sdk
from ibm_sdk import fill, vpc_v1

API_KEY = "a-very-secret-key"
PROFILE = "Profile-1234"
CR_TOKEN = "compute.resource.token"
ACCOUNT = "0123456789abcdef0123456789abcdef"
WORKSPACE = "7845d372-d4e1-46b8-91fc-41051c984601"
ZONE, REGION = "us-south-2", "us-south"


def error(status, code, message, **headers):
    return status, {"errors": [{"code": code, "message": message}], "trace": "0f1e"}, headers


class Cloud:
    """State; tests turn the knobs. All under server.lock."""

    def __init__(self):
        self.mismatches, self.tokens, self.n_tokens, self.lifetime = [], set(), 0, 3600
        self.instances, self.volumes, self.tags, self.servers = {}, {}, {}, {}
        self.created = []               # names, in the order of POSTs that were taken
        # what instances go through, by the number of GETs since their creation
        self.hidden_gets = 0            # 404 so often
        self.address_gets = 1           # then 0.0.0.0 so often
        self.running_gets = 2
        self.deleting_gets = 1
        self.volume_gets = 0            # no boot volume so long
        self.outcome = {}               # placement target or None → status_reasons code: fails instead of running
        self.page = 2                   # items of a page
        self.throttle = None            # callable() → true: 429
        self.tag_fails = 0              # so many times tags/attach says is_error
        self.build_gets, self.build_locked = 2, 0       # PowerVS: BUILD so long; DELETE refused so often
        self.fixed = False              # PowerVS: addresses are fixed, else by DHCP
        self.server_error = False
        self.images = {"r006-img-amd64": ("amd64", "available"), "r006-img-s390x": ("s390x", "available"), "r006-img-old": ("amd64", "obsolete")}
        self.profiles = {
            "bx2-2x8": dict(vcpu=2, memory=8), "bx2-4x16": dict(vcpu=4, memory=16), "cx2-4x8": dict(vcpu=4, memory=8), "bx3dc-2x10": dict(vcpu=2, memory=10, tdx=True),
            "gx2-8x64x1v100": dict(vcpu=8, memory=64, gpus=1), "bz2-2x8": dict(vcpu=2, memory=8, arch="s390x"), "bz2e-2x8": dict(vcpu=2, memory=8, arch="s390x"),
        }

    def left(self):
        """What there is, as a text"""
        return " ".join([*(f"instance {i['name']}" for i in self.instances.values()), *(f"volume {v['tags']}" for v in self.volumes.values()),
                         *(f"server {s['name']}" for s in self.servers.values())])


class Peer(cloud_rig.Server):
    def __init__(self):
        self.cloud = Cloud()
        self.power = ibm_sdk.PowerModels()
        super().__init__(self.handle)

    def close(self):
        super().close()
        self.power.close()

    def __exit__(self, kind, *rest):
        super().__exit__(kind, *rest)
        self.power.close()
        if kind is None:
            assert not self.cloud.mismatches, "\n".join(self.cloud.mismatches)
        else:
            print("\n".join(self.cloud.mismatches))

    def handle(self, request):
        with self.lock:
            try:
                for pattern, function in ROUTES:
                    if m := re.fullmatch(pattern, f"{request.method} {request.path}"):
                        if function.__name__.startswith(("vpc_", "power_", "cs_", "tag_", "iam_details")):
                            if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.cloud.tokens:
                                return error(401, "not_authorized", "The token is not valid")
                            if self.cloud.throttle and self.cloud.throttle(request):
                                return error(429, "too_many_requests", "Slow down", **{"Retry-After": "1"})
                        return function(self, self.cloud, request, *m.groups())
                raise ibm_sdk.Mismatch(f"no such call: {request!r}")
            except ibm_sdk.Mismatch as e:
                self.cloud.mismatches.append(str(e))
                return error(400, "bad_request", str(e))

    def environment(self, **more):
        return {"IBMCLOUD_API_KEY": API_KEY, "IBMCLOUD_IAM_ENDPOINT": f"{self.url}/iam/identity/token", "IBMCLOUD_VPC_ENDPOINT": f"{self.url}/v1",
                "IBMCLOUD_GT_API_ENDPOINT": self.url, "IBMCLOUD_CS_API_ENDPOINT": f"{self.url}/global", "PEERPOD_IBMCLOUD_METADATA_ENDPOINT": f"{self.url}/md",
                "IBMCLOUD_ZONE": ZONE, "IBMCLOUD_VPC_SUBNET_ID": "0727-subnet", "IBMCLOUD_VPC_ID": "r006-vpc", "IBMCLOUD_RESOURCE_GROUP_ID": "rg1",
                "IBMCLOUD_PODVM_INSTANCE_PROFILE_NAME": "bx2-2x8", "IBMCLOUD_PODVM_INSTANCE_PROFILE_LIST": "bx2-2x8,bx2-4x16,cx2-4x8",
                "IBMCLOUD_PODVM_IMAGE_ID": "r006-img-amd64", "IBMCLOUD_SECURITY_GROUP_IDS": "r006-sg1", "IBMCLOUD_SSH_KEY_ID": "r006-key", "TAGS": "team-a", **more}

    def power_environment(self, **more):
        return {"IBMCLOUD_API_KEY": API_KEY, "IBMCLOUD_IAM_ENDPOINT": f"{self.url}/iam", "IBMCLOUD_POWER_API_ENDPOINT": self.url, "POWERVS_ZONE": "dal12",
                "POWERVS_SERVICE_INSTANCE_ID": WORKSPACE, "POWERVS_NETWORK_ID": "net-1", "POWERVS_IMAGE_ID": "img-1", "POWERVS_SSH_KEY_NAME": "key",
                "PEERPOD_IBMCLOUD_METADATA_ENDPOINT": f"{self.url}/md", **more}

    def token(self):
        c = self.cloud
        c.n_tokens += 1
        t = f"token-{c.n_tokens}-{uuid.uuid4().hex}"
        c.tokens.add(t)
        return t

    def revoke(self):
        with self.lock:
            self.cloud.tokens.clear()


# ---- IAM and metadata ----

def identity_token(peer, c, request):
    form = {k: v[0] for k, v in request.form().items()}
    if request.headers.get("content-type") != "application/x-www-form-urlencoded" or "authorization" in request.headers:
        raise ibm_sdk.Mismatch(f"{request!r}: headers {request.headers}")
    by_key = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": API_KEY, "response_type": "cloud_iam"}
    by_cr = {"grant_type": "urn:ibm:params:oauth:grant-type:cr-token", "cr_token": CR_TOKEN, "profile_id": PROFILE}
    if set(form) not in (set(by_key), set(by_cr)) or form["grant_type"] not in (by_key["grant_type"], by_cr["grant_type"]):
        raise ibm_sdk.Mismatch(f"{request!r}: form {form}")
    if form not in (by_key, by_cr):
        return 400, {"errorCode": "BXNIM0415E", "errorMessage": "Provided API key could not be found.", "context": {"requestId": "1"}}
    return 200, {"access_token": peer.token(), "refresh_token": "not_supported", "token_type": "Bearer", "expires_in": c.lifetime, "expiration": 1790000000}


def iam_details(peer, c, request):
    if request.headers.get("iam-apikey") != API_KEY:
        raise ibm_sdk.Mismatch(f"{request!r}: no IAM-ApiKey")
    return 200, {"id": "ApiKey-1", "account_id": ACCOUNT, "name": "peerpod"}


def metadata_token(peer, c, request):
    if request.headers.get("metadata-flavor") != "ibm" or request.query != {"version": ["2022-03-01"]} or request.json() != {"expires_in": 300}:
        raise ibm_sdk.Mismatch(f"{request!r}: {request.headers} {request.body}")
    return 200, {"access_token": "instance-identity", "created_at": "2026-11-28T12:00:00Z", "expires_at": "2026-11-28T12:05:00Z", "expires_in": 300}


def metadata_iam(peer, c, request):
    if request.headers.get("authorization") != "Bearer instance-identity" or request.json() != {"trusted_profile": {"id": PROFILE}}:
        raise ibm_sdk.Mismatch(f"{request!r}: {request.headers} {request.body}")
    return 200, {"access_token": peer.token(), "created_at": "2026-11-28T12:00:00Z", "expires_at": "2026-11-28T13:00:00Z", "expires_in": 3600}


# ---- VPC ----

def vpc_call(request, method, **arguments):
    ibm_sdk.replay(request, "vpc", "/v1", method, **arguments)


def listing(peer, c, request, key, items, to_json):
    """A page; the next one's address is the vendor's form"""
    start = int(request.query.get("start", ["0"])[0])
    page = items[start:start + c.page]
    answer = {"limit": c.page, "total_count": len(items), "first": {"href": f"{peer.url}{request.path}?limit={c.page}"}, key: [to_json(i) for i in page]}
    if start + c.page < len(items):
        answer["next"] = {"href": f"{peer.url}{request.path}?limit={c.page}&start={start + c.page}&version=2026-03-24"}
    return 200, answer


def list_arguments(request):
    a = {k.replace(".", "_"): v[0] for k, v in request.query.items() if k not in ("version", "generation")}
    if "limit" in a:
        a["limit"] = int(a["limit"])
    return a


def interface_json(i, n, subnet):
    ready = i["gets"] > i["seen"]["address"]
    return fill("NetworkInterfaceInstanceContextReference", id=f"{i['id']}-nic{n}", name=f"eth{n}", href="https://x", resource_type="network_interface",
                primary_ip=fill("ReservedIPReference", address=f"10.{n}.0.{i['number'] % 250 + 1}" if ready else "0.0.0.0"), subnet=fill("SubnetReference", id=subnet))


def instance_json(c, i):
    seen = i["seen"]
    reason = c.outcome.get(i["target"])
    status = "deleting" if i["deleting"] else "pending" if i["gets"] <= seen["address"] else "starting" if i["gets"] <= seen["running"] else "running"
    reasons = []
    if status == "running" and reason:
        status, reasons = "failed", [fill("InstanceStatusReason", code=reason, message="The instance cannot start")]
    nics = [interface_json(i, 0, i["subnet"])] + ([interface_json(i, 1, i["secondary"])] if i["secondary"] else [])
    volume = c.volumes.get(i["volume"])
    attachment = fill("VolumeAttachmentReferenceInstanceContext", **({"volume": fill("VolumeReferenceVolumeAttachmentContext", id=i["volume"])} if volume and i["gets"] > c.volume_gets else {}))
    return fill("Instance", id=i["id"], name=i["name"], crn=f"crn:v1:bluemix:public:is:{ZONE}:a/{ACCOUNT}::instance:{i['id']}", status=status, status_reasons=reasons,
                primary_network_interface=nics[0], network_interfaces=nics, boot_volume_attachment=attachment, profile=fill("InstanceProfileReference", name=i["profile"]),
                zone=fill("ZoneReference", name=ZONE), vpc=fill("VPCReference", id="r006-vpc"))


def vpc_create(peer, c, request):
    body = request.json()
    ibm_sdk.check_model(body, vpc_v1.InstancePrototypeInstanceByImageInstanceByImageInstanceByNetworkInterface)
    vpc_call(request, "create_instance", instance_prototype=body)
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", body["name"]):
        raise ibm_sdk.Mismatch(f"name {body['name']}")
    for tag in body["boot_volume_attachment"]["volume"]["user_tags"]:
        if len(tag) > 128 or not re.fullmatch(r"[A-Za-z0-9:_ .-]+", tag):
            raise ibm_sdk.Mismatch(f"tag {tag}")
    if body["image"]["id"] not in c.images:
        return error(404, "image_not_found", "Image not found")
    if any(i["name"] == body["name"] for i in c.instances.values()):
        return error(400, "validation_unique_failed", f"Provided Name ({body['name']}) is not unique")
    number = len(c.created)
    c.created.append(body["name"])
    id, volume = f"0727_{uuid.uuid4()}", f"r006-{uuid.uuid4()}"
    c.volumes[volume] = {"id": volume, "tags": body["boot_volume_attachment"]["volume"]["user_tags"], "instance": id}
    i = {"id": id, "name": body["name"], "number": number, "volume": volume, "gets": 0, "deleting": 0, "body": body, "profile": body["profile"]["name"],
         "subnet": body["primary_network_interface"]["subnet"]["id"], "target": body.get("placement_target", {}).get("id"),
         "secondary": body["network_interfaces"][0]["subnet"]["id"] if body.get("network_interfaces") else None,
         "seen": {"hidden": c.hidden_gets, "address": c.hidden_gets + c.address_gets, "running": c.hidden_gets + c.running_gets}}
    c.instances[id] = i
    return 201, instance_json(c, i)


def vanish(c, i):
    """A GET of an instance that is being deleted"""
    i["deleting"] += 1
    if i["deleting"] > c.deleting_gets + 1:
        del c.instances[i["id"]]
        c.volumes.pop(i["volume"], None)
        return True
    return False


def vpc_get(peer, c, request, id):
    vpc_call(request, "get_instance", id=id)
    i = c.instances.get(id)
    if i:
        i["gets"] += 1
    if not i or i["gets"] <= i["seen"]["hidden"] or (i["deleting"] and vanish(c, i)):
        return error(404, "not_found", "Instance not found")
    return 200, instance_json(c, i)


def vpc_list(peer, c, request):
    a = list_arguments(request)
    vpc_call(request, "list_instances", **a)
    items = []
    for i in list(c.instances.values()):
        if "name" in a and i["name"] != a["name"]:
            continue
        i["gets"] += 1
        if i["gets"] > i["seen"]["hidden"]:
            items.append(i)
    return listing(peer, c, request, "instances", items, lambda i: instance_json(c, i))


def vpc_delete(peer, c, request, id):
    vpc_call(request, "delete_instance", id=id)
    i = c.instances.get(id)
    if not i:
        return error(404, "not_found", "Instance not found")
    if i["deleting"]:
        return error(409, "instance_in_transition", "The instance is being deleted")
    i["deleting"] = 1
    return 204, ""


def volume_json(c, v):
    attachments = []
    if v["instance"] in c.instances:
        i = c.instances[v["instance"]]
        attachments = [fill("VolumeAttachmentReferenceVolumeContext", instance=fill("InstanceReference", id=i["id"], name=i["name"]), type="boot")]
    return fill("Volume", id=v["id"], user_tags=v["tags"], volume_attachments=attachments, status="available")


def vpc_volume(peer, c, request, id):
    vpc_call(request, "get_volume", id=id)
    v = c.volumes.get(id)
    return (200, volume_json(c, v)) if v else error(404, "not_found", "Volume not found")


def vpc_volumes(peer, c, request):
    a = list_arguments(request)
    vpc_call(request, "list_volumes", **a)
    items = [v for v in c.volumes.values() if "tag" not in a or a["tag"].lower() in [t.lower() for t in v["tags"]]]
    return listing(peer, c, request, "volumes", items, lambda v: volume_json(c, v))


def vpc_delete_volume(peer, c, request, id):
    vpc_call(request, "delete_volume", id=id)
    if id not in c.volumes:
        return error(404, "not_found", "Volume not found")
    if c.volumes[id]["instance"] in c.instances:
        return error(409, "volume_in_use", "The volume is attached")
    del c.volumes[id]
    return 202, ""


def profile_json(c, name):
    p = c.profiles[name]
    more = {"gpu_count": fill("InstanceProfileGPUFixed", type="fixed", value=p["gpus"]),
            "gpu_model": fill("InstanceProfileGPUModel", type="enum", values=["v100"])} if p.get("gpus") else {}
    return fill("InstanceProfile", name=name, vcpu_count=fill("InstanceProfileVCPUFixed", type="fixed", value=p["vcpu"]),
                memory=fill("InstanceProfileMemoryFixed", type="fixed", value=p["memory"]), vcpu_architecture=fill("InstanceProfileVCPUArchitecture", type="fixed", value=p.get("arch", "amd64")),
                confidential_compute_modes=fill("InstanceProfileSupportedConfidentialComputeModes", type="enum", default="disabled", values=["disabled"] + (["tdx"] if p.get("tdx") else [])),
                secure_boot_modes=fill("InstanceProfileSupportedSecureBootModes", type="enum", default=False, values=[False] + ([True] if p.get("tdx") else [])), **more)


def vpc_profiles(peer, c, request):
    vpc_call(request, "list_instance_profiles", **list_arguments(request))
    return 200, {"profiles": [profile_json(c, n) for n in c.profiles]}


def vpc_profile(peer, c, request, name):
    vpc_call(request, "get_instance_profile", name=name)
    return (200, profile_json(c, name)) if name in c.profiles else error(404, "not_found", "Profile not found")


def vpc_image(peer, c, request, id):
    vpc_call(request, "get_image", id=id)
    if id not in c.images:
        return error(404, "image_not_found", "Image not found")
    arch, status = c.images[id]
    return 200, fill("Image", id=id, status=status, user_data_format="cloud_init", operating_system=fill("OperatingSystem", architecture=arch, user_data_format="cloud_init"))


def vpc_subnet(peer, c, request, id):
    vpc_call(request, "get_subnet", id=id)
    if "subnet" not in id:
        return error(404, "not_found", "Subnet not found")
    return 200, fill("Subnet", id=id, available_ipv4_address_count=0 if "full" in id else 200, vpc=fill("VPCReference", id="r006-vpc"),
                     resource_group=fill("ResourceGroupReference", id="rg-of-subnet"), zone=fill("ZoneReference", name=ZONE))


def simple(method, model):
    def vpc_simple(peer, c, request, id):
        vpc_call(request, method, id=id)
        if "missing" in id:
            return error(404, "not_found", "Not found")
        zone = {"zone": fill("ZoneReference", name="us-south-1" if "other" in id else ZONE)} if "zone" in ibm_sdk._parameters(getattr(vpc_v1, model)) else {}
        return 200, fill(model, id=id, **zone)
    return vpc_simple


def tag_attach(peer, c, request):
    body = request.json()
    ibm_sdk.replay(request, "tagging", "", "attach_tag", resources=body["resources"], tag_names=body["tag_names"], tag_type="user")
    if set(body) != {"resources", "tag_names"}:
        raise ibm_sdk.Mismatch(f"tags: {body}")
    failing = c.tag_fails > 0
    c.tag_fails -= failing
    for r in body["resources"]:
        if not failing:
            c.tags.setdefault(r["resource_id"], set()).update(body["tag_names"])
    return 200, {"results": [{"resource_id": r["resource_id"], "is_error": failing, "message": "not found yet"} for r in body["resources"]]}


def cs_groups(peer, c, request):
    cluster = request.query["cluster"][0]
    if request.query != {"cluster": [cluster], "type": ["cluster"]}:
        raise ibm_sdk.Mismatch(f"{request!r}")
    if cluster == "unknown":
        return 404, {"code": "E0001", "description": "no such cluster"}
    return 200, [{"id": "r006-other", "name": "kube-vpegw", "type": "x", "userProvided": False, "shared": False, "workerPoolID": ""},
                 {"id": "r006-kube", "name": f"kube-{cluster}", "type": "cluster", "userProvided": False, "shared": False, "workerPoolID": ""}]


# ---- Power Virtual Server ----

def power_error(peer, status, message):
    return status, peer.power.check("Error", {"code": status, "description": message, "error": message, "message": message})


def check_crn(request):
    if request.headers.get("crn") != f"crn:v1:staging:public:power-iaas:dal12:a/{ACCOUNT}:{WORKSPACE}::":
        raise ibm_sdk.Mismatch(f"{request!r}: CRN {request.headers.get('crn')}")
    if request.query:
        raise ibm_sdk.Mismatch(f"{request!r}: a query")


def server_json(c, s, tags=True):
    status = "BUILD" if s["gets"] <= c.build_gets else "ERROR" if c.server_error else "ACTIVE"
    network = {"networkID": "net-1", "macAddress": s["mac"], "networkName": "n", "type": "fixed" if c.fixed else "dynamic", "version": 4}
    if c.fixed and status == "ACTIVE":
        network |= {"ipAddress": f"192.168.0.{s['number'] % 250 + 1}", "externalIP": f"203.0.113.{s['number'] % 250 + 1}"}
    b = s["body"]
    answer = {"pvmInstanceID": s["id"], "serverName": s["name"], "status": status, "networks": [network], "addresses": [network], "diskSize": 20, "imageID": b["imageID"],
              "memory": b["memory"], "processors": b["processors"], "procType": b["procType"], "osType": "rhel", "storageType": "tier3", "networkIDs": ["net-1"], "volumeIDs": []}
    if status == "ERROR":
        answer["fault"] = {"code": 500, "created": "2026-11-28T12:00:00.000Z", "details": "No valid host was found", "message": "scheduling"}
    if tags and s["gets"] > 0:
        answer["userTags"] = b.get("userTags", [])
    return answer


def power_create(peer, c, request):
    check_crn(request)
    body = peer.power.check("PVMInstanceCreate", request.json())
    if body["imageID"] not in ("img-1", "img-2"):
        return power_error(peer, 404, "image not found")
    number = len(c.created)
    c.created.append(body["serverName"])
    s = {"id": str(uuid.uuid4()), "name": body["serverName"], "number": number, "gets": 0, "refused": c.build_locked, "body": body, "mac": f"FA:16:3E:00:{number // 256:02X}:{number % 256:02X}", "deleting": 0}
    c.servers[s["id"]] = s
    return 202, peer.power.check("PVMInstanceList", [server_json(c, s)])


def power_get(peer, c, request, id):
    check_crn(request)
    s = c.servers.get(id)
    if s:
        s["gets"] += 1
    if s and s["deleting"]:
        s["deleting"] += 1
        if s["deleting"] > c.deleting_gets + 1:
            del c.servers[id]
            return power_error(peer, 410, "instance deleted")
    return (200, peer.power.check("PVMInstance", server_json(c, s))) if s else power_error(peer, 404, "pvm-instance not found")


def power_list(peer, c, request):
    check_crn(request)
    return 200, peer.power.check("PVMInstances", {"pvmInstances": [{**{k: v for k, v in server_json(c, s, tags=False).items() if k not in ("networkIDs", "volumeIDs", "fault")}, "href": "/x"}
                                                                   for s in c.servers.values()]})


def power_delete(peer, c, request, id):
    check_crn(request)
    s = c.servers.get(id)
    if not s:
        return power_error(peer, 404, "pvm-instance not found")
    if s["refused"] > 0:
        s["refused"] -= 1
        return power_error(peer, 409 if s["refused"] % 2 else 400, "instance is in state BUILD")
    s["deleting"] = s["deleting"] or 1
    return 200, {}


def power_dhcp(peer, c, request):
    check_crn(request)
    return 200, peer.power.check("DHCPServers", [{"id": "dhcp-0", "network": {"id": "net-0", "name": "a"}, "status": "ACTIVE"}, {"id": "dhcp-1", "network": {"id": "net-1", "name": "b"}, "status": "ACTIVE"}])


def power_dhcp_one(peer, c, request, id):
    check_crn(request)
    if id != "dhcp-1":
        return power_error(peer, 404, "no such server")
    return 200, peer.power.check("DHCPServerDetail", {"id": id, "network": {"id": "net-1", "name": "b"}, "status": "ACTIVE", "leases": [
        {"instanceIP": f"192.168.1.{s['number'] % 250 + 1}", "instanceMacAddress": s["mac"].lower()} for s in c.servers.values()]})


def power_thing(peer, c, request, kind, id):
    check_crn(request)
    return (200, {"id": id}) if "missing" not in id else power_error(peer, 404, "not found")


W = f"/pcloud/v1/cloud-instances/{WORKSPACE}"
ROUTES = [
    (r"POST /iam/identity/token", identity_token), (r"GET /iam/v1/apikeys/details", iam_details),
    (r"PUT /md/instance_identity/v1/token", metadata_token), (r"POST /md/instance_identity/v1/iam_token", metadata_iam),
    (r"POST /v1/instances", vpc_create), (r"GET /v1/instances", vpc_list), (r"GET /v1/instances/([^/]+)", vpc_get), (r"DELETE /v1/instances/([^/]+)", vpc_delete),
    (r"GET /v1/volumes", vpc_volumes), (r"GET /v1/volumes/([^/]+)", vpc_volume), (r"DELETE /v1/volumes/([^/]+)", vpc_delete_volume),
    (r"GET /v1/instance/profiles", vpc_profiles), (r"GET /v1/instance/profiles/([^/]+)", vpc_profile), (r"GET /v1/images/([^/]+)", vpc_image), (r"GET /v1/subnets/([^/]+)", vpc_subnet),
    (r"GET /v1/security_groups/([^/]+)", simple("get_security_group", "SecurityGroup")), (r"GET /v1/keys/([^/]+)", simple("get_key", "Key")),
    (r"GET /v1/dedicated_hosts/([^/]+)", simple("get_dedicated_host", "DedicatedHost")), (r"GET /v1/dedicated_host/groups/([^/]+)", simple("get_dedicated_host_group", "DedicatedHostGroup")),
    (r"POST /v3/tags/attach", tag_attach), (r"GET /global/network/v2/security-group/getSecurityGroups", cs_groups),
    (rf"POST {W}/pvm-instances", power_create), (rf"GET {W}/pvm-instances", power_list), (rf"GET {W}/pvm-instances/([^/]+)", power_get), (rf"DELETE {W}/pvm-instances/([^/]+)", power_delete),
    (rf"GET {W}/services/dhcp", power_dhcp), (rf"GET {W}/services/dhcp/([^/]+)", power_dhcp_one), (rf"GET {W}/(images|networks)/([^/]+)", power_thing),
]


def main(cases, only=None, at_once=5):
    """cloud_rig.main(), with some cases at once: each has a world of its own, and they mostly wait"""
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        def begin(case):
            future = pool.submit(case)
            return functools.wraps(case)(lambda: future.result())
        cloud_rig.main([begin(c) for c in cases if not only or only in c.__name__])
