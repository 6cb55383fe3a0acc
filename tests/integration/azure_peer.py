# SPDX-License-Identifier: Apache-2.0
"""Azure Resource Manager, Entra ID and the metadata service's token part, as far as pod VMs need them.

The schema is the vendor's: each path and query is compared with what the request builders of the SDK make (PyPI: azure-mgmt-compute,
azure-mgmt-network), each body goes through the SDK's models and back and must come out the same, so that an unknown or mistyped key is an error
of the test; the answers are made with the same models. Tokens are JWTs, signed and verified by PyJWT."""
import base64
import datetime
import itertools
import json
import re
import time
import urllib.parse

import jwt
from azure.mgmt.compute._serialization import Serializer
from azure.mgmt.compute.v2021_07_01 import models as sku_models
from azure.mgmt.compute.v2021_07_01.operations import _operations as sku_operations
from azure.mgmt.compute.v2023_07_03 import models as gallery_models
from azure.mgmt.compute.v2023_07_03.operations import _operations as gallery_operations
from azure.mgmt.compute.v2024_11_01 import models as compute
from azure.mgmt.compute.v2024_11_01.operations import _operations as compute_operations
from azure.mgmt.compute.v2025_01_02 import models as disk_models
from azure.mgmt.compute.v2025_01_02.operations import _operations as disk_operations
from azure.mgmt.network import models as network
from azure.mgmt.network.operations import _operations as network_operations
from cryptography.hazmat.primitives.asymmetric import rsa

SUBSCRIPTION, GROUP, REGION = "00000000-1111-2222-3333-444444444444", "pods_(test).1", "westeurope"
TENANT, CLIENT, SECRET = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "99999999-8888-7777-6666-555555555555", "s3cret~Value.with-%-signs+and spaces"
ROOT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
SUBNET = f"{ROOT}/providers/Microsoft.Network/virtualNetworks/net/subnets/pods"
SUBNET2 = f"{ROOT}/providers/Microsoft.Network/virtualNetworks/net/subnets/outside"
NSG = f"{ROOT}/providers/Microsoft.Network/networkSecurityGroups/worker"
IMAGE = f"{ROOT}/providers/Microsoft.Compute/galleries/pods/images/podvm/versions/1.0.0"
ISSUER = "https://kubernetes.test"


SERIALIZER = Serializer({k: v for k, v in vars(compute).items() if isinstance(v, type)})


class Reply(Exception):
    def __init__(self, status, body="", headers=None):
        super().__init__(status)
        self.reply = (status, body, headers or {})


def error(status, code, message, headers=None):
    body = compute.CloudError(error=compute.ApiError(code=code, message=message)) if hasattr(compute, "CloudError") else None
    content = {"error": {"code": code, "message": message}}
    if body is not None:
        assert plain(body) == content, plain(body)
    return Reply(status, content, {"x-ms-request-id": "11111111-aaaa-bbbb-cccc-222222222222", **(headers or {})})


def plain(model):
    return model.serialize(keep_readonly=True)


def strict(model, data):
    """The SDK's object of a request's body; AssertionError if the SDK itself would not have sent that"""
    again = SERIALIZER.body(model.deserialize(data), model.__name__)       # what is required, and ranges, are checked there
    o = model.deserialize(data)
    assert again == data, f"not as {model.__name__} has it:\n sent {json.dumps(data, sort_keys=True)}\n SDK  {json.dumps(again, sort_keys=True)}"
    return o


def members(enum):
    return {e.value for e in enum}


class Route:
    """One operation of the SDK: its request builder, with the names of its path arguments in order"""

    def __init__(self, method, builder, template, handler, query=()):
        self.method, self.builder, self.handler, self.query = method, builder, handler, query
        names = re.findall(r"{(\w+)}", template)
        self.names = names
        pattern = re.sub(r"{\w+}", "([^/]+)", template.replace(".", r"\."))
        self.pattern = re.compile(pattern + "$", re.IGNORECASE)

    def match(self, request):
        m = self.method == request.method and self.pattern.match(request.path)
        if not m:
            return None
        values = dict(zip(self.names, (urllib.parse.unquote(g) for g in m.groups())))
        extra = {q: request.query[k][0] for q, k in self.query if k in request.query}
        made = self.builder(**values, **extra)
        made_url = urllib.parse.urlsplit(made.url)
        have = {k: v for k, v in request.query.items() if k != "$skiptoken"}
        want = urllib.parse.parse_qs(made_url.query)
        assert urllib.parse.unquote(made_url.path).lower() == urllib.parse.unquote(request.path).lower(), (made.url, request.target)
        assert have == want, f"{request.method} {request.path}: query {have}, the SDK's is {want}"
        return values


class Azure:
    def __init__(self):
        self.key, self.federation_key = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
        self.url = None         # of the server, set by who starts it
        self.addresses, self.ids = itertools.count(4), itertools.count(1)
        self.vms, self.nics, self.publics, self.disks, self.operations = {}, {}, {}, {}, {}
        self.generation = 0     # of tokens: those of an older one are refused
        self.tokens = {"secret": 0, "assertion": 0, "machine": 0}
        self.token_life = 3599
        self.page = 1000
        self.polls = 1          # looks at an operation before it is over
        self.fail_create = None         # (code, message): the operation ends so
        self.hide_vm = 0        # GETs of a new VM that still answer 404
        self.hide_address = 0   # GETs of a new interface that show no address yet
        self.location_style = False
        self.retry_after = "0"
        self.throttle = 0       # every nth request is refused
        self.change_case = False
        self.suffix = ""        # that Azure adds to the names of interfaces
        self.leave_sides = False        # deleting a VM leaves interface, address and disk
        self.nic_reserved = 0   # refusals to delete an interface
        self.subnet_nsg = None
        self.actions = ["*"]
        self.not_actions = []
        self.bodies = []        # of the PUTs
        self.requests_n = 0
        self.skus = default_skus()
        vm = "/subscriptions/{subscription_id}/resourceGroups/{resource_group_name}/providers/Microsoft.Compute/virtualMachines"
        net = "/subscriptions/{subscription_id}/resourceGroups/{resource_group_name}/providers/Microsoft.Network"
        c, n, d, g = compute_operations, network_operations, disk_operations, gallery_operations
        disk = vm.replace("virtualMachines", "disks") + "/{disk_name}"
        self.routes = [
            Route("PUT", c.build_virtual_machines_create_or_update_request, vm + "/{vm_name}", self.vm_put),
            Route("GET", c.build_virtual_machines_get_request, vm + "/{vm_name}", self.vm_get),
            Route("DELETE", c.build_virtual_machines_delete_request, vm + "/{vm_name}", self.vm_delete),
            Route("GET", c.build_virtual_machines_list_request, vm, lambda r: self.paged(r, self.vms, compute.VirtualMachineListResult)),
            Route("GET", n.build_network_interfaces_get_request, net + "/networkInterfaces/{network_interface_name}", self.nic_get),
            Route("DELETE", n.build_network_interfaces_delete_request, net + "/networkInterfaces/{network_interface_name}", self.nic_delete),
            Route("GET", n.build_network_interfaces_list_request, net + "/networkInterfaces",
                  lambda r: self.paged(r, self.nics, network.NetworkInterfaceListResult)),
            Route("GET", n.build_public_ip_addresses_get_request, net + "/publicIPAddresses/{public_ip_address_name}", self.public_get),
            Route("DELETE", n.build_public_ip_addresses_delete_request, net + "/publicIPAddresses/{public_ip_address_name}", self.public_delete),
            Route("GET", n.build_public_ip_addresses_list_request, net + "/publicIPAddresses",
                  lambda r: self.paged(r, self.publics, network.PublicIPAddressListResult)),
            Route("GET", n.build_subnets_get_request, net + "/virtualNetworks/{virtual_network_name}/subnets/{subnet_name}", self.subnet_get),
            Route("GET", n.build_network_security_groups_get_request, net + "/networkSecurityGroups/{network_security_group_name}", self.nsg_get),
            Route("GET", d.build_disks_get_request, disk, self.disk_get),
            Route("DELETE", d.build_disks_delete_request, disk, self.disk_delete),
            Route("GET", g.build_gallery_image_versions_get_request, vm.replace("virtualMachines", "galleries") +
                  "/{gallery_name}/images/{gallery_image_name}/versions/{gallery_image_version_name}", self.image_get),
            Route("GET", sku_operations.build_resource_skus_list_request, "/subscriptions/{subscription_id}/providers/Microsoft.Compute/skus",
                  self.skus_list, query=[("filter", "$filter")]),
        ]

    # ---- tokens ----

    def token(self, life=None):
        now = int(time.time())
        claims = {"aud": self.url, "iss": f"https://sts.test/{TENANT}/", "appid": CLIENT, "tid": TENANT, "iat": now, "nbf": now,
                  "exp": now + 3599, "gen": self.generation, "jti": str(next(self.ids))}
        return jwt.encode(claims, self.key, algorithm="RS256")

    def assertion(self, audience="api://AzureADTokenExchange", key=None):
        now = int(time.time())
        return jwt.encode({"aud": audience, "iss": ISSUER, "sub": "system:serviceaccount:peerpods:provider", "iat": now, "exp": now + 600},
                          key or self.federation_key, algorithm="RS256")

    def token_post(self, request):
        form = {k: v[0] for k, v in request.form().items()}
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        if form.pop("grant_type") != "client_credentials" or form.pop("scope") != f"{self.url}/.default":
            raise Reply(400, {"error": "invalid_scope", "error_description": "AADSTS70011: scope"})
        if form.pop("client_id") != CLIENT:
            raise Reply(400, {"error": "unauthorized_client", "error_description": "AADSTS700016: no such application\r\nTrace ID: 1", "error_codes": [700016]})
        if "client_secret" in form:
            if form.pop("client_secret") != SECRET:
                raise Reply(401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1"})
            self.tokens["secret"] += 1
        else:
            assert form.pop("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            try:
                jwt.decode(form.pop("client_assertion"), self.federation_key.public_key(), algorithms=["RS256"],
                           audience="api://AzureADTokenExchange", issuer=ISSUER)
            except jwt.PyJWTError as e:
                raise Reply(401, {"error": "invalid_client", "error_description": f"AADSTS700024: {e}"}) from None
            self.tokens["assertion"] += 1
        assert not form, f"unknown fields: {form}"
        return 200, {"token_type": "Bearer", "expires_in": self.token_life, "ext_expires_in": self.token_life, "access_token": self.token()}

    def token_machine(self, request):
        assert request.headers["metadata"] == "true" and request.method == "GET"
        assert request.query["api-version"] == ["2018-02-01"] and request.query["resource"] == [self.url + "/"]
        if request.query.get("client_id", [CLIENT]) != [CLIENT]:
            raise Reply(400, {"error": "invalid_request", "error_description": "Identity not found"})
        self.tokens["machine"] += 1
        return 200, {"access_token": self.token(), "expires_in": str(self.token_life), "expires_on": str(int(time.time()) + self.token_life),
                     "resource": self.url + "/", "token_type": "Bearer"}

    def authorize(self, request):
        scheme, _, token = (request.headers.get("authorization") or "").partition(" ")
        challenge = {"WWW-Authenticate": f'Bearer authorization_uri="{self.url}/{TENANT}", error="invalid_token"'}
        if scheme != "Bearer":
            raise error(401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", challenge)
        try:
            claims = jwt.decode(token, self.key.public_key(), algorithms=["RS256"], audience=self.url)
        except jwt.PyJWTError as e:
            raise error(401, "InvalidAuthenticationToken", str(e), challenge) from None
        if claims["gen"] != self.generation:
            raise error(401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than now.", challenge)

    # ---- the entry ----

    def __call__(self, request):
        try:
            with request.server.lock:
                return self.dispatch(request)
        except Reply as r:
            return r.reply

    def dispatch(self, request):
        if request.path == f"/{TENANT}/oauth2/v2.0/token" and request.method == "POST":
            return self.token_post(request)
        if request.path == "/metadata/identity/oauth2/token":
            return self.token_machine(request)
        self.authorize(request)
        assert request.headers["accept"] == "application/json"
        self.requests_n += 1
        if self.throttle and self.requests_n % self.throttle == 0:
            raise error(429, "OperationNotAllowed", "The server rejected the request because too many requests have been received.",
                        {"Retry-After": "1"})
        if request.path.startswith("/operations/"):
            return self.operation_get(request)
        if request.path == f"{ROOT}/providers/Microsoft.Authorization/permissions":
            return 200, {"value": [{"actions": self.actions, "notActions": self.not_actions, "dataActions": [], "notDataActions": []}]}
        m = re.fullmatch(r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft.Authorization/permissions", request.path)
        if m and m.group(1) != SUBSCRIPTION:
            raise error(404, "SubscriptionNotFound", "The subscription could not be found.")
        for route in self.routes:
            values = route.match(request)
            if values is not None:
                if values["subscription_id"] != SUBSCRIPTION:
                    raise error(404, "SubscriptionNotFound", "The subscription could not be found.")
                if values.get("resource_group_name", GROUP).lower() != GROUP.lower():
                    raise error(404, "ResourceGroupNotFound", f"Resource group '{values['resource_group_name']}' could not be found.")
                return route.handler(request)
        raise AssertionError(f"no operation of the SDK: {request!r}")

    def paged(self, request, table, model):
        items = [v for _, v in sorted(table.items())]
        start = int(request.query.get("$skiptoken", ["0"])[0])
        link = f"{self.url}{request.path}?api-version={request.query['api-version'][0]}&$skiptoken={start + self.page}"
        result = plain(model(value=[model_of(i) for i in items[start:start + self.page]]))
        result.setdefault("value", [])
        if start + self.page < len(items):
            result["nextLink"] = link
        return 200, result

    @staticmethod
    def last(request):
        return urllib.parse.unquote(request.path).rsplit("/", 1)[1]

    def missing(self, request):
        return error(404, "ResourceNotFound", f"The Resource '{self.last(request)}' under resource group '{GROUP}' was not found.")

    # ---- operations ----

    def begin(self, finish, status=202, body="", failing=None):
        id = str(next(self.ids))
        self.operations[id] = {"polls": self.polls, "finish": finish, "fail": failing}
        url = f"{self.url}/operations/{id}?api-version=2024-11-01"
        headers = {"Location" if self.location_style else "Azure-AsyncOperation": url}
        if self.retry_after is not None:
            headers["Retry-After"] = self.retry_after
        return (202 if self.location_style else status), body, headers

    def operation_get(self, request):
        o = self.operations.get(self.last(request))
        if o is None:
            raise error(404, "NotFound", "The operation was not found.")
        o["polls"] -= 1
        headers = {"Retry-After": self.retry_after} if self.retry_after is not None else {}
        if o["polls"] >= 0:
            return (202, "", {**headers, "Location": f"{self.url}{request.target}"}) if self.location_style else (200, {"status": "InProgress"}, headers)
        if o["fail"]:
            o["finish"]()
            return 200, {"status": "Failed", "error": {"code": o["fail"][0], "message": o["fail"][1]}}
        o["finish"]()
        return (204, "") if self.location_style else (200, {"status": "succeeded", "startTime": datetime.datetime.now().isoformat()})

    # ---- VMs ----

    def resource_id(self, kind, name):
        root = ROOT.replace("resourceGroups", "resourcegroups").replace(GROUP, GROUP.upper()) if self.change_case else ROOT
        return f"{root}/providers/{kind}/{name}"

    def vm_put(self, request):
        name = self.last(request)
        assert request.headers["if-none-match"] == "*" and request.headers["content-type"] == "application/json"
        body = request.json()
        vm = strict(compute.VirtualMachine, body)
        check_vm(vm, name)
        if name.lower() in self.vms:
            raise error(412, "PreconditionFailed", "The precondition given in the request headers evaluated to false.")
        if self.nics.get(f"{name}-net".lower()) or f"{name}-disk".lower() in self.disks:
            raise error(409, "PropertyChangeNotAllowed", "Changing property 'osDisk' is not allowed.")
        self.bodies.append(body)
        vm.id, vm.name, vm.type = self.resource_id("Microsoft.Compute/virtualMachines", name), name, "Microsoft.Compute/virtualMachines"
        vm.provisioning_state, vm.user_data, vm.vm_id = "Creating", None, "u"
        vm.network_profile.network_interfaces = [self.make_nic(c, vm) for c in vm.network_profile.network_interface_configurations]
        vm.network_profile.network_interface_configurations = None
        disk = disk_models.Disk(location=REGION, creation_data=disk_models.CreationData(create_option="FromImage"))
        disk.id, disk.name, disk.managed_by, disk.disk_state = (self.resource_id("Microsoft.Compute/disks", f"{name}-disk"), f"{name}-disk", vm.id,
                                                                  "Attached")
        self.disks[f"{name}-disk".lower()] = disk
        self.vms[name.lower()] = vm
        vm.hidden = self.hide_vm
        for d in vm.storage_profile.data_disks or []:
            mine = self.disks[d.managed_disk.id.rsplit("/", 1)[1].lower()]
            mine.disk_state, mine.managed_by = "Attached", vm.id

        def finish():
            vm.provisioning_state = "Failed" if self.fail_create else "Succeeded"
        vm.finish, vm.looks = finish, self.polls        # it also goes on when nobody looks at the operation
        return self.begin(finish, 201, plain(vm), self.fail_create)

    def make_nic(self, config, vm):
        name = config.name + self.suffix
        nic = network.NetworkInterface(location=REGION)
        nic.id, nic.name = self.resource_id("Microsoft.Network/networkInterfaces", name), name
        nic.virtual_machine = network.SubResource(id=vm.id)
        ip = config.ip_configurations[0]
        mine = network.NetworkInterfaceIPConfiguration(name=ip.name, private_ip_address=f"10.0.{next(self.addresses) // 250}.{next(self.addresses) % 250 + 1}",
                                                       primary=True)
        if ip.public_ip_address_configuration:
            p = ip.public_ip_address_configuration
            public = network.PublicIPAddress(location=REGION, sku=network.PublicIPAddressSku(name=p.sku.name, tier=p.sku.tier),
                                             public_ip_allocation_method=p.public_ip_allocation_method,
                                             ip_address=f"203.0.113.{next(self.addresses) % 250 + 1}")
            public.id, public.name, public.hidden = self.resource_id("Microsoft.Network/publicIPAddresses", p.name + self.suffix), p.name + self.suffix, 0
            self.publics[public.name.lower()] = public
            mine.public_ip_address = network.PublicIPAddress(id=public.id)
        nic.ip_configurations = [mine]
        nic.hidden = self.hide_address
        self.nics[name.lower()] = nic
        return compute.NetworkInterfaceReference(id=nic.id, primary=config.primary, delete_option=config.delete_option)

    def vm_get(self, request):
        vm = self.vms.get(self.last(request).lower())
        if vm is None:
            raise self.missing(request)
        if vm.hidden > 0:
            vm.hidden -= 1
            raise self.missing(request)
        vm.looks -= 1
        if vm.looks < 0 and vm.provisioning_state == "Creating":
            vm.finish()
        return 200, plain(vm)

    def vm_delete(self, request):
        name = self.last(request)
        vm = self.vms.get(name.lower())
        if vm is None:
            return 204, ""
        vm.provisioning_state = "Deleting"

        def finish():
            self.vms.pop(name.lower(), None)
            for d in list(self.disks.values()):
                if d.managed_by == vm.id:
                    d.managed_by, d.disk_state = None, "Unattached"
            for n in list(self.nics.values()):
                if n.virtual_machine and n.virtual_machine.id == vm.id:
                    n.virtual_machine = None
                    if not self.leave_sides:
                        self.drop_nic(n)
            if not self.leave_sides:
                self.disks.pop(f"{name}-disk".lower(), None)
        return self.begin(finish)

    def drop_nic(self, nic):
        del self.nics[nic.name.lower()]
        if not self.leave_sides:
            for c in nic.ip_configurations:
                if c.public_ip_address:
                    self.publics.pop(c.public_ip_address.id.rsplit("/", 1)[1].lower(), None)

    # ---- what comes with them ----

    def nic_get(self, request):
        nic = self.nics.get(self.last(request).lower())
        if nic is None:
            raise self.missing(request)
        data = plain(nic)
        if nic.hidden > 0:
            nic.hidden -= 1
            for c in data["properties"]["ipConfigurations"]:
                c["properties"].pop("privateIPAddress", None)
        return 200, data

    def nic_delete(self, request):
        nic = self.nics.get(self.last(request).lower())
        if nic is None:
            return 204, ""
        if nic.virtual_machine:
            raise error(400, "NicInUse", f"Network Interface {nic.name} is used by existing resource.")
        if self.nic_reserved > 0:
            self.nic_reserved -= 1
            raise error(400, "NicReservedForAnotherVm", "Nic(s) in request is reserved for another Virtual Machine for 180 seconds.")
        return self.begin(lambda: self.drop_nic(nic) if nic.name.lower() in self.nics else None)

    def public_get(self, request):
        p = self.publics.get(self.last(request).lower())
        if p is None:
            raise self.missing(request)
        return 200, plain(p)

    def public_delete(self, request):
        if self.last(request).lower() not in self.publics:
            return 204, ""
        return self.begin(lambda: self.publics.pop(self.last(request).lower(), None))

    def disk_get(self, request):
        d = self.disks.get(self.last(request).lower())
        if d is None:
            raise self.missing(request)
        return 200, plain(d)

    def disk_delete(self, request):
        d = self.disks.get(self.last(request).lower())
        if d is None:
            return 204, ""
        if d.managed_by:
            raise error(409, "OperationNotAllowed", f"Disk {d.name} is attached to VM.")
        return self.begin(lambda: self.disks.pop(self.last(request).lower(), None))

    def add_disk(self, name, state="Unattached", zones=None, location=REGION, managed_by=None):
        d = disk_models.Disk(location=location, zones=zones, creation_data=disk_models.CreationData(create_option="Empty"))
        d.id, d.name, d.disk_state, d.managed_by = f"{ROOT}/providers/Microsoft.Compute/disks/{name}", name, state, managed_by
        self.disks[name.lower()] = d
        return d.id

    def subnet_get(self, request):
        if self.last(request) not in ("pods", "outside"):
            raise self.missing(request)
        s = network.Subnet(id=request.path, name=self.last(request), address_prefix="10.0.0.0/16")
        if self.subnet_nsg:
            s.network_security_group = network.NetworkSecurityGroup(id=self.subnet_nsg)
        return 200, plain(s)

    def nsg_get(self, request):
        if self.last(request) != "worker":
            raise self.missing(request)
        return 200, plain(network.NetworkSecurityGroup(id=NSG, location=REGION))

    def image_get(self, request):
        if self.last(request) != "1.0.0":
            raise self.missing(request)
        return 200, plain(gallery_models.GalleryImageVersion(location=REGION))

    def skus_list(self, request):
        assert request.query["$filter"] == [f"location eq '{REGION}'"]
        start = int(request.query.get("$skiptoken", ["0"])[0])
        result = plain(sku_models.ResourceSkusResult(value=self.skus[start:start + 3]))
        if start + 3 < len(self.skus):
            result["nextLink"] = f"{self.url}{request.target.split('&$skiptoken')[0]}&$skiptoken={start + 3}"
        return 200, result

    def nothing_left(self):
        left = [*self.vms, *self.nics, *self.publics, *(n for n, d in self.disks.items() if n.endswith("-disk"))]
        return ", ".join(left)


def model_of(item):
    return item


def check_vm(vm, name):
    """What the service checks beyond its schema"""
    assert re.fullmatch(r"[a-z0-9-]{1,64}", name)
    assert vm.location == REGION and vm.os_profile.computer_name == name
    key = vm.os_profile.linux_configuration.ssh.public_keys[0]
    kind, blob = key.key_data.split(" ")[:2]
    raw = base64.b64decode(blob, validate=True)
    assert raw[4:4 + raw[3]].decode() == kind and kind in ("ssh-ed25519", "ssh-rsa"), key.key_data
    assert key.path == f"/home/{vm.os_profile.admin_username}/.ssh/authorized_keys"
    assert len(vm.user_data) <= 65536 and base64.b64decode(vm.user_data, validate=True).startswith(b"#cloud-config")
    assert len(vm.tags) <= 50 and vm.tags["peerpod-node"] and vm.tags["peerpod-sandbox"]
    os_disk = vm.storage_profile.os_disk
    assert os_disk.create_option in members(compute.DiskCreateOptionTypes) and os_disk.caching in members(compute.CachingTypes)
    assert os_disk.delete_option in members(compute.DiskDeleteOptionTypes)
    assert os_disk.managed_disk.storage_account_type in members(compute.StorageAccountTypes)
    if vm.security_profile:
        assert vm.security_profile.security_type in members(compute.SecurityTypes)
    confidential = vm.security_profile and vm.security_profile.security_type == "ConfidentialVM"
    assert bool(confidential) == bool(os_disk.managed_disk.security_profile)
    if confidential:
        assert os_disk.managed_disk.security_profile.security_encryption_type in members(compute.SecurityEncryptionTypes)
        assert vm.security_profile.uefi_settings.v_tpm_enabled is True
        if not vm.hardware_profile.vm_size.startswith("Standard_DC"):
            raise error(400, "InvalidParameter", "The VM size is not supported for creation of VMs with 'ConfidentialVM' security type.")
    assert vm.network_profile.network_api_version in members(compute.NetworkApiVersion)
    configs = vm.network_profile.network_interface_configurations
    assert [c.primary for c in configs].count(True) == 1 and all(c.delete_option in members(compute.DeleteOptions) for c in configs)
    for c in configs:
        p = c.ip_configurations[0].public_ip_address_configuration
        if p:
            assert p.sku.name == "Standard" and p.public_ip_allocation_method == "Static", "Basic public addresses are retired"
    image = vm.storage_profile.image_reference
    if image.id and image.id.endswith("/9.9.9"):
        raise error(404, "GalleryImageNotFound", f"The gallery image {image.id} is not available in {REGION} region.")


def sku(name, vcpus, gib, family="standardDSv5Family", zones=("1", "2", "3"), restrictions=(), resource="virtualMachines", **capabilities):
    caps = {"vCPUs": str(vcpus), "MemoryGB": str(gib), "MaxDataDiskCount": "4", "MaxNetworkInterfaces": "2", "HyperVGenerations": "V1,V2",
            "CpuArchitectureType": "x64", **{k: str(v) for k, v in capabilities.items()}}
    s = sku_models.ResourceSku()
    s.resource_type, s.name, s.family, s.locations = resource, name, family, [REGION]
    info = sku_models.ResourceSkuLocationInfo()
    info.location, info.zones = REGION, list(zones)
    s.location_info = [info]
    s.capabilities = []
    for k, v in caps.items():
        c = sku_models.ResourceSkuCapabilities()
        c.name, c.value = k, v
        s.capabilities.append(c)
    s.restrictions = []
    for kind, values in restrictions:
        r = sku_models.ResourceSkuRestrictions()
        r.type, r.values, r.reason_code = kind, [REGION], "NotAvailableForSubscription"
        r.restriction_info = sku_models.ResourceSkuRestrictionInfo()
        if kind == "Zone":
            r.restriction_info.zones = values
        s.restrictions.append(r)
    return s


def default_skus():
    return [
        sku("Standard_DC2as_v5", 2, 8, "standardDCASv5Family", ConfidentialComputingType="SNP"),
        sku("Standard_DC4as_v5", 4, 16, "standardDCASv5Family", ConfidentialComputingType="SNP", restrictions=[("Zone", ["3"])]),
        sku("Premium_LRS", 0, 0, resource="disks"),
        sku("Standard_DC8es_v5", 8, 32, "standardDCESv5Family", ConfidentialComputingType="TDX"),
        sku("Standard_D2s_v5", 2, 8),
        sku("Standard_D8s_v5", 8, 32),
        sku("Standard_B1ls", 1, "0.5", MaxNetworkInterfaces=1),
        sku("Standard_D96s_v5", 96, 384, restrictions=[("Location", None)]),
        sku("Standard_NC4as_T4_v3", 4, 28, "standardNCASv3_T4Family", GPUs=1),
        sku("Standard_NC24ads_A100_v4", 24, 220, "StandardNCADSA100v4Family", GPUs=1),
    ]
