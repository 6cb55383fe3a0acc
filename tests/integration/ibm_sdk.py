# SPDX-License-Identifier: Apache-2.0
"""IBM's own packages as judges of what the modules send, and as makers of what the peer answers.

check_model()  a JSON body against a class of ibm_vpc.vpc_v1, by the types in its constructor: unknown, missing and mistyped keys are errors
fill()         an answer of such a class; what the test does not care for is filled in by type
replay()       the request that the vendor's client sends for the same call: path, query and body must be equal
PowerModels    bodies of Power Virtual Server by github.com/IBM-Cloud/power-go-client (tests/peers/ibm)"""
import datetime
import inspect
import json
import pathlib
import re
import subprocess
import threading

from ibm_cloud_sdk_core.authenticators import NoAuthAuthenticator
from ibm_platform_services import GlobalTaggingV1
from ibm_vpc import vpc_v1

VERSION = "2026-03-24"
BASE = "http://vpc.test/v1"
TIME = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)


class Mismatch(Exception):
    """What was sent is not what the vendor's schema says"""


def _parameters(cls):
    return {n.rstrip("_"): p for n, p in inspect.signature(cls.__init__).parameters.items() if n not in ("self", "kwargs")}


def _leaves(cls):
    return [leaf for sub in cls.__subclasses__() for leaf in _leaves(sub)] or [cls]


def _annotation(text):
    text = text if isinstance(text, str) else getattr(text, "__name__", None) and text or text
    return text


def _check(value, annotation, where):
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    text = text if "[" in text else (str(annotation) if "[" in str(annotation) else text)
    text = re.sub(r"ForwardRef\('(\w+)'\)", r"\1", text.replace("typing.", ""))
    if m := re.fullmatch(r"Optional\[(.*)\]", text):
        return _check(value, m[1], where)
    if m := re.fullmatch(r"List\[(.*)\]", text):
        if not isinstance(value, list):
            raise Mismatch(f"{where}: no list: {value!r}")
        for i, v in enumerate(value):
            _check(v, m[1], f"{where}[{i}]")
        return None
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float), "datetime": str, "dict": dict, "object": object}.get(text)
    if plain:
        if not isinstance(value, plain) or (text == "int" and isinstance(value, bool)):
            raise Mismatch(f"{where}: {value!r} is no {text}")
        return None
    return check_model(value, getattr(vpc_v1, text.strip("'\"")), where)


def check_model(value, cls, where="body"):
    """Raises Mismatch. Of a class that has variants (image by id, by CRN …) one must fit."""
    leaves = _leaves(cls)
    if len(leaves) > 1:
        reasons = []
        for leaf in leaves:
            try:
                return check_model(value, leaf, where)
            except Mismatch as e:
                reasons.append(f"{leaf.__name__}: {e}")
        raise Mismatch(f"{where}: none of the variants: {'; '.join(reasons)}")
    if not isinstance(value, dict):
        raise Mismatch(f"{where}: no object: {value!r}")
    known = _parameters(leaves[0])
    for key, v in value.items():
        if key not in known:
            raise Mismatch(f"{where}: {leaves[0].__name__} has no '{key}'")
        _check(v, known[key].annotation, f"{where}.{key}")
    for key, p in known.items():
        if p.default is inspect.Parameter.empty and key not in value:
            raise Mismatch(f"{where}: {leaves[0].__name__} needs '{key}'")
    return None


def _filler(annotation):
    text = annotation if isinstance(annotation, str) else str(annotation) if "[" in str(annotation) else annotation.__name__
    text = text.replace("typing.", "")
    if text.startswith("List["):
        return []
    plain = {"str": "x", "int": 0, "bool": False, "float": 0.0, "datetime": TIME, "dict": {}}
    if text in plain:
        return plain[text]
    return make(_leaves(getattr(vpc_v1, text.strip("'\"")))[0])


def make(cls, /, **known):
    """An object of the vendor's; known values are JSON"""
    values = {}
    for name, p in _parameters(cls).items():
        raw = name if name in inspect.signature(cls.__init__).parameters else name + "_"
        if name in known:
            values[raw] = known.pop(name)
        elif p.default is inspect.Parameter.empty:
            values[raw] = _filler(p.annotation)
    assert not known, f"{cls.__name__} has no {list(known)}"
    return cls(**values)


def fill(model, /, **known):
    """The JSON of an answer"""
    return make(getattr(vpc_v1, model), **known).to_dict()


# ---- the vendor's client ----

def _recorder(service, url):
    service.set_service_url(url)
    service.recorded = []
    service.send = lambda request, **_: service.recorded.append(request)
    return service


_vpc = _recorder(vpc_v1.VpcV1(version=VERSION, authenticator=NoAuthAuthenticator(), generation=2), BASE)
_tagging = _recorder(GlobalTaggingV1(authenticator=NoAuthAuthenticator()), "http://tags.test")
_lock = threading.Lock()


def replay(request, service, base, method, **arguments):
    """What the vendor's client sends for service.method(arguments); raises Mismatch if `request` of ours is anything else"""
    service = {"vpc": _vpc, "tagging": _tagging}[service]
    with _lock:
        service.recorded.clear()
        try:
            getattr(service, method)(**arguments)
        except (TypeError, ValueError) as e:
            raise Mismatch(f"{method}: {e}") from e
        recorded = service.recorded[0]
    path = recorded["url"].removeprefix(service.service_url)
    if request.method != recorded["method"] or request.path != base + path:
        raise Mismatch(f"{request!r} is not {recorded['method']} {path}")
    query = {k: [str(v)] for k, v in recorded["params"].items()}
    if request.query != query:
        raise Mismatch(f"{request!r}: the query is {request.query}, not {query}")
    if recorded.get("data"):
        data = recorded["data"]
        data = json.loads(data if isinstance(data, (str, bytes)) else json.dumps(data))
        if request.json() != data:
            raise Mismatch(f"{request!r}: the body is {request.json()}, not {data}")
        if "application/json" not in (request.headers.get("content-type") or ""):
            raise Mismatch(f"{request!r}: no JSON by its Content-Type")
    elif request.body:
        raise Mismatch(f"{request!r}: a body where none belongs")


class PowerModels:
    """One process for all checks"""

    def __init__(self):
        peer = pathlib.Path(__file__).resolve().parents[1] / "peers" / "go-peer"
        self.process = subprocess.Popen([peer, "ibm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lock = threading.Lock()

    def check(self, model, body):
        with self.lock:
            self.process.stdin.write(json.dumps({"model": model, "body": body}) + "\n")
            self.process.stdin.flush()
            error = json.loads(self.process.stdout.readline())["error"]
        if error:
            raise Mismatch(f"{model}: {error}: {body}")
        return body

    def close(self):
        self.process.stdin.close()
        self.process.wait()
