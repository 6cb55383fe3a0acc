# SPDX-License-Identifier: Apache-2.0
"""The objects of kube_api.py, with the rules that a Kubernetes API server applies to them: versions, generations, subresources, finalizers,
selectors, patches, pruning, the history that watches read (kubernetes/apiserver: pkg/registry/generic/registry/store.go, pkg/endpoints/handlers).

What is written of a built-in kind is checked against the published schemas (PyPI: kubernetes-validate), what is written of a custom one
is pruned and checked by its definition's own; CEL rules are not evaluated here. JSON patches are PyPI's jsonpatch."""
import base64
import bisect
import copy
import datetime
import json
import re
import threading
import uuid

import jsonpatch
import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.37"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

# (group/version, plural): (kind, namespaced, subresource status)
BUILTIN = {
    ("v1", "pods"): ("Pod", True, True), ("v1", "nodes"): ("Node", False, True), ("v1", "namespaces"): ("Namespace", False, True),
    ("v1", "secrets"): ("Secret", True, False), ("v1", "configmaps"): ("ConfigMap", True, False), ("v1", "events"): ("Event", True, False),
    ("v1", "serviceaccounts"): ("ServiceAccount", True, False), ("v1", "services"): ("Service", True, True),
    ("v1", "persistentvolumes"): ("PersistentVolume", False, True), ("v1", "persistentvolumeclaims"): ("PersistentVolumeClaim", True, True),
    ("coordination.k8s.io/v1", "leases"): ("Lease", True, False), ("events.k8s.io/v1", "events"): ("Event", True, False),
    ("node.k8s.io/v1", "runtimeclasses"): ("RuntimeClass", False, False), ("apps/v1", "deployments"): ("Deployment", True, True),
    ("apps/v1", "daemonsets"): ("DaemonSet", True, True), ("storage.k8s.io/v1", "storageclasses"): ("StorageClass", False, False),
    ("storage.k8s.io/v1", "volumeattachments"): ("VolumeAttachment", False, True), ("storage.k8s.io/v1", "csinodes"): ("CSINode", False, False),
    ("rbac.authorization.k8s.io/v1", "clusterroles"): ("ClusterRole", False, False), ("rbac.authorization.k8s.io/v1", "roles"): ("Role", True, False),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings"): ("ClusterRoleBinding", False, False),
    ("rbac.authorization.k8s.io/v1", "rolebindings"): ("RoleBinding", True, False),
    ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"): ("MutatingWebhookConfiguration", False, False),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions"): ("CustomResourceDefinition", False, True),
}
STATUS_AT_CREATE = {"nodes", "persistentvolumes", "customresourcedefinitions"}   # kept when such an object is created
VERSION_REQUIRED = {"leases"}                                                    # to replace one, beside custom resources


class Refused(Exception):
    """What an API server answers instead: an HTTP status and a Status object."""

    def __init__(self, code, reason, message, causes=(), details=None):
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, dict(details or {})
        if causes:
            self.details["causes"] = list(causes)

    def status(self):
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message, "reason": self.reason,
                "details": self.details, "code": self.code}


class Resource:
    def __init__(self, api_version, plural, kind, namespaced, has_status, schema=None):
        self.api_version, self.plural, self.kind, self.namespaced, self.has_status, self.schema = api_version, plural, kind, namespaced, has_status, schema
        self.group = api_version.rpartition("/")[0]
        self.label = f"{plural}.{self.group}" if self.group else plural

    @property
    def custom(self):
        return self.schema is not None


def now(micro=False):
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S" + (".%fZ" if micro else "Z"))


def invalid(resource, name, field, message, reason="FieldValueInvalid"):
    return Refused(422, "Invalid", f'{resource.kind}.{resource.group} "{name}" is invalid: {field}: {message}',
                   [{"reason": reason, "message": message, "field": field}], {"name": name, "group": resource.group, "kind": resource.kind})


def conflict(resource, name, why="the object has been modified; please apply your changes to the latest version and try again"):
    return Refused(409, "Conflict", f'Operation cannot be fulfilled on {resource.label} "{name}": {why}', details={"name": name, "group": resource.group, "kind": resource.plural})


def prune(value, schema):
    """Structural schemas: what is not in them is dropped."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    if isinstance(value, dict) and "properties" in schema:
        return {k: prune(v, schema["properties"][k]) for k, v in value.items() if k in schema["properties"]}
    if isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        return {k: prune(v, schema["additionalProperties"]) for k, v in value.items()}
    if isinstance(value, list) and "items" in schema:
        return [prune(v, schema["items"]) for v in value]
    return value


def merge_patch(target, patch):
    """RFC 7386"""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def selected(obj, labels, fields, resource):
    have = obj["metadata"].get("labels") or {}
    for term in filter(None, re.split(r",(?![^(]*\))", labels or "")):
        if (m := re.fullmatch(r"\s*([^\s=!]+)\s*(==|=|!=)\s*(\S*)\s*", term)):
            if (have.get(m[1]) == m[3]) == (m[2] == "!="):
                return False
        elif (m := re.fullmatch(r"\s*(\S+)\s+(in|notin)\s+\(([^)]*)\)\s*", term)):
            if (have.get(m[1]) in [v.strip() for v in m[3].split(",")]) == (m[2] == "notin"):
                return False
        elif (m := re.fullmatch(r"\s*(!?)([^\s=!]+)\s*", term)):
            if (m[2] in have) == bool(m[1]):
                return False
        else:
            raise Refused(400, "BadRequest", f"unable to parse requirement: '{term}'")
    known = {"metadata.name": obj["metadata"]["name"], "metadata.namespace": obj["metadata"].get("namespace", "")}
    if resource.plural == "pods":
        known["spec.nodeName"] = obj.get("spec", {}).get("nodeName", "")
        known["status.phase"] = obj.get("status", {}).get("phase", "")
    for term in filter(None, (fields or "").split(",")):
        key, op, value = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term).groups()
        if key not in known:
            raise Refused(400, "BadRequest", f'field label not supported: {key}')
        if (known[key] == value) == (op == "!="):
            return False
    return True


class Store:
    def __init__(self):
        self.changed = threading.Condition(threading.RLock())
        self.resources = {key: Resource(*key, *value) for key, value in BUILTIN.items()}
        self.objects, self.history, self.version, self.compacted = {}, [], 1000, 0
        self.pages, self.invalid, self.collect_garbage = {}, [], True
        for name in ("default", "kube-system"):
            self.create(self.resources["v1", "namespaces"], None, {"metadata": {"name": name}})

    def define(self, path):
        """a custom resource, by its definition's file"""
        for crd in yaml.safe_load_all(open(path, encoding="utf-8")):
            self.create(self.resources["apiextensions.k8s.io/v1", "customresourcedefinitions"], None, crd)

    def _add_definition(self, crd):
        spec = crd["spec"]
        for version in spec["versions"]:
            r = Resource(f"{spec['group']}/{version['name']}", spec["names"]["plural"], spec["names"]["kind"], spec["scope"] == "Namespaced",
                         "status" in version.get("subresources", {}), version["schema"]["openAPIV3Schema"])
            self.resources[r.api_version, r.plural] = r

    # ---- reading ----

    def get(self, resource, ns, name):
        with self.changed:
            try:
                return copy.deepcopy(self.objects[resource.api_version, resource.plural, ns or "", name])
            except KeyError:
                raise Refused(404, "NotFound", f'{resource.label} "{name}" not found', details={"name": name, "group": resource.group, "kind": resource.plural}) from None

    def items(self, resource, ns, labels=None, fields=None):
        return [copy.deepcopy(o) for (a, p, n, _), o in sorted(self.objects.items())
                if (a, p) == (resource.api_version, resource.plural) and ns in (None, n) and selected(o, labels, fields, resource)]

    def list(self, resource, ns, labels, fields, limit, token, at_least):
        with self.changed:
            if at_least and int(at_least) > self.version:
                raise Refused(504, "Timeout", f"Too large resource version: {at_least}, current: {self.version}",
                              [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], {"retryAfterSeconds": 1})
            if token:
                if token not in self.pages:
                    raise Refused(410, "Expired", "The provided continue parameter is too old to display a consistent list result.")
                items, version = self.pages[token]
            else:
                items, version = self.items(resource, ns, labels, fields), str(self.version)
            meta = {"resourceVersion": version}
            if limit and len(items) > limit:
                meta["continue"] = base64.urlsafe_b64encode(f"{version} {uuid.uuid4()}/=+".encode()).decode()
                meta["remainingItemCount"] = len(items) - limit
                self.pages[meta["continue"]] = items[limit:], version
            return {"kind": resource.kind + "List", "apiVersion": resource.api_version, "metadata": meta,
                    "items": [{k: v for k, v in o.items() if resource.custom or k not in ("kind", "apiVersion")} for o in (items[:limit] if limit else items)]}

    def events(self, resource, ns, labels, fields, since):
        """(what a watch from that version on sees, the version after it)"""
        result = []
        if since < self.compacted:
            raise Refused(410, "Expired", f"too old resource version: {since} ({self.compacted})")
        for _, change, r, old, new in self.history[bisect.bisect_right(self.history, since, key=lambda h: h[0]):]:
            if r is not resource or ns not in (None, new["metadata"].get("namespace", "")):
                continue
            was = change != "ADDED" and selected(old, labels, fields, resource)
            is_ = change != "DELETED" and selected(new, labels, fields, resource)
            if was or is_:
                result.append(("MODIFIED" if was and is_ else "ADDED" if is_ else "DELETED", copy.deepcopy(new)))
        return result, self.version

    def compact(self):
        """forgets the history, as etcd does after a while"""
        with self.changed:
            self.version += 1
            self.history, self.pages, self.compacted = [], {}, self.version
            self.changed.notify_all()

    # ---- writing ----

    def _commit(self, change, resource, old, new):
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        key = resource.api_version, resource.plural, new["metadata"].get("namespace", ""), new["metadata"]["name"]
        if change == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = new
        self.history.append((self.version, change, resource, old, copy.deepcopy(new)))
        if change == "ADDED" and resource.plural == "customresourcedefinitions":
            self._add_definition(new)
        if change == "DELETED" and self.collect_garbage:
            self._orphaned(new["metadata"]["uid"])
        self.changed.notify_all()
        return copy.deepcopy(new)

    def _orphaned(self, uid):
        for (a, p, n, name), o in list(self.objects.items()):
            if any(ref["uid"] == uid for ref in o["metadata"].get("ownerReferences") or []):
                self.delete(self.resources[a, p], n, name, {})

    def collect(self, plural):
        """deletes those objects whose owners were gone before they came: it takes the garbage collector a while to see that"""
        with self.changed:
            alive = {o["metadata"]["uid"] for o in self.objects.values()}
            for (a, p, n, name), o in list(self.objects.items()):
                owners = o["metadata"].get("ownerReferences") or []
                if p == plural and owners and not any(ref["uid"] in alive for ref in owners) and "deletionTimestamp" not in o["metadata"]:
                    self.delete(self.resources[a, p], n, name, {})

    def _check(self, resource, obj):
        meta = obj["metadata"]
        name = meta.get("name", "")
        if not NAME.fullmatch(name) or len(name) > 253:
            raise invalid(resource, name, "metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \'-\' or \'.\'')
        for key, value in (meta.get("labels") or {}).items():
            if not re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", value) or len(value) > 63 or len(key.rpartition("/")[2]) > 63:
                raise invalid(resource, name, "metadata.labels", f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric characters')
        for f in meta.get("finalizers") or []:
            if "/" not in f:
                raise invalid(resource, name, "metadata.finalizers", f'Invalid value: "{f}": name is neither a standard finalizer name nor is it fully qualified')
        if resource.custom:
            self._check_custom(resource, obj, name)
            return
        try:
            kubernetes_validate.validate(obj, VERSION, strict=True)
        except kubernetes_validate.ValidationError as e:
            self.invalid.append((resource.kind, str(e.message)))
            raise invalid(resource, name, ".".join(map(str, e.path)), str(e.message)) from None

    def _check_custom(self, resource, obj, name):
        for error in jsonschema.Draft7Validator(resource.schema).iter_errors({k: v for k, v in obj.items() if k != "metadata"}):
            field = ".".join(map(str, error.path))
            self.invalid.append((resource.kind, error.message))
            raise invalid(resource, name, field, error.message)

    def _prepare(self, resource, ns, obj):
        if not isinstance(obj, dict) or not isinstance(obj.get("metadata", {}), dict):
            raise Refused(400, "BadRequest", "the object provided is unrecognized (must be of type with metadata)")
        for key, value in (("apiVersion", resource.api_version), ("kind", resource.kind)):
            if obj.setdefault(key, value) != value:
                raise Refused(400, "BadRequest", f"{key} of the object ({obj[key]}) does not match that of the request ({value})")
        meta = obj["metadata"] = {k: v for k, v in obj.get("metadata", {}).items() if v not in (None, [], {})}
        if resource.custom:
            obj.update({k: prune(v, resource.schema["properties"].get(k, {})) for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")})
            for key in [k for k in obj if k not in resource.schema["properties"]]:
                del obj[key]
        if resource.namespaced and meta.setdefault("namespace", ns) != ns:
            raise Refused(400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request")
        return meta

    def create(self, resource, ns, obj):
        with self.changed:
            obj = copy.deepcopy(obj)
            meta = self._prepare(resource, ns, obj)
            if resource.namespaced:
                namespace = self.get(self.resources["v1", "namespaces"], None, ns)
                if namespace["metadata"].get("deletionTimestamp"):
                    raise Refused(403, "Forbidden", f'{resource.label} "{meta.get("name", "")}" is forbidden: unable to create new content in namespace {ns} because it is being terminated')
            if meta.get("resourceVersion"):
                raise Refused(400, "BadRequest", "resourceVersion should not be set on objects to be created")
            if not meta.get("name") and meta.get("generateName"):
                meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
            meta.update(uid=str(uuid.uuid4()), creationTimestamp=now())
            if resource.custom or "spec" in obj:
                meta["generation"] = 1
            for key in ("deletionTimestamp", "deletionGracePeriodSeconds"):
                meta.pop(key, None)
            if resource.has_status and resource.plural not in STATUS_AT_CREATE:
                obj.pop("status", None)
            self._check(resource, obj)
            if (resource.api_version, resource.plural, meta.get("namespace", ""), meta["name"]) in self.objects:
                raise Refused(409, "AlreadyExists", f'{resource.label} "{meta["name"]}" already exists', details={"name": meta["name"], "kind": resource.plural})
            return self._commit("ADDED", resource, None, obj)

    def replace(self, resource, ns, name, obj, subresource=None, patched=False):
        with self.changed:
            old = self.get(resource, ns, name)
            obj = copy.deepcopy(obj)
            meta, was = self._prepare(resource, ns, obj), old["metadata"]
            version = meta.get("resourceVersion")
            if not version and not patched and (resource.custom or resource.plural in VERSION_REQUIRED):
                raise invalid(resource, name, "metadata.resourceVersion", "Invalid value: 0: must be specified for an update")
            if version and version != was["resourceVersion"]:
                raise conflict(resource, name)
            if meta.get("uid", was["uid"]) != was["uid"]:
                raise conflict(resource, name, f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}")
            if meta.get("name") != name:
                raise Refused(400, "BadRequest", f"the name of the object ({meta.get('name')}) does not match the name on the URL ({name})")
            for key in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"):
                meta.pop(key, None)
                if key in was:
                    meta[key] = was[key]
            if subresource == "status":
                obj = {**old, **({"status": obj["status"]} if "status" in obj else {}), "metadata": was if resource.custom else meta}
                if "status" not in obj and "status" in old:
                    obj["status"] = old["status"]
            elif resource.has_status:
                obj.pop("status", None)
                if "status" in old:
                    obj["status"] = old["status"]
            meta = obj["metadata"]
            if "deletionTimestamp" in was and set(meta.get("finalizers") or []) - set(was.get("finalizers") or []):
                raise invalid(resource, name, "metadata.finalizers", "Forbidden: no new finalizers can be added if the object is being deleted", "FieldValueForbidden")
            if "generation" in was and {k: v for k, v in obj.items() if k not in ("metadata", "status")} != {k: v for k, v in old.items() if k not in ("metadata", "status")}:
                meta["generation"] = was["generation"] + 1
            self._check(resource, obj)
            if obj == old:
                return old
            if "deletionTimestamp" in was and not meta.get("finalizers") and meta.get("deletionGracePeriodSeconds", 0) == 0:
                return self._commit("DELETED", resource, old, obj)
            return self._commit("MODIFIED", resource, old, obj)

    def patch(self, resource, ns, name, kind, body, subresource=None, manager=None):
        with self.changed:
            if kind == "application/apply-patch+yaml":
                if not manager:
                    raise Refused(422, "Invalid", "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")
                if (resource.api_version, resource.plural, ns or "", name) not in self.objects:
                    return self.create(resource, ns, body)
            old = self.get(resource, ns, name)
            if kind == "application/strategic-merge-patch+json" and resource.custom or kind not in (
                    "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"):
                raise Refused(415, "UnsupportedMediaType", f"the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml (not {kind})")
            if kind == "application/json-patch+json":
                try:
                    new = jsonpatch.apply_patch(old, body)
                except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as e:
                    raise Refused(422, "Invalid", f"the server rejected our request due to an error in our request: {e}") from None
            else:
                new = merge_patch(old, body)
            return self.replace(resource, ns, name, new, subresource, patched=True)

    def delete(self, resource, ns, name, options):
        with self.changed:
            old = self.get(resource, ns, name)
            meta = old["metadata"]
            for key, value in (options.get("preconditions") or {}).items():
                if meta[key] != value:
                    raise conflict(resource, name, f"Precondition failed: {key} in precondition: {value}, in object meta: {meta[key]}")
            new = copy.deepcopy(old)
            grace = options.get("gracePeriodSeconds")
            if resource.plural == "pods":
                grace = 0 if not old["spec"].get("nodeName") else old["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
            else:
                grace = 0
            if meta.get("finalizers") or grace > 0:
                if "deletionTimestamp" in meta and meta.get("deletionGracePeriodSeconds", 0) <= grace:
                    return old, False
                new["metadata"].setdefault("deletionTimestamp", now())
                new["metadata"]["deletionGracePeriodSeconds"] = grace
                if "generation" in meta:
                    new["metadata"]["generation"] += 1
                return self._commit("MODIFIED", resource, old, new), False
            return self._commit("DELETED", resource, old, new), True


def dumps(obj):
    return json.dumps(obj, separators=(",", ":")).encode()
