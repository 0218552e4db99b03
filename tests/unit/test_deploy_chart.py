"""The Helm chart, rendered by Helm's own library and held against Kubernetes' schemas.

Of KEDA's and the Prometheus operator's objects only what they name is checked here.
"""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import typer.main
import yaml

from pspf.admin.app import ENDPOINTS
from pspf.admin.security import HostRule
from pspf.cli.main import app
from pspf.settings import load_settings
from tests.support.dockerfile import read_stages

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "pspf"
KUBERNETES: Final = ("1.25", "1.31", "1.37")
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CUSTOM: Final = {"ServiceMonitor", "ScaledObject", "TriggerAuthentication"}
TREES: Final = {"resources", "strategy", "probes.startup", "probes.liveness", "probes.readiness"}
"""Values that are handed on as they are."""

NEEDED: Final[dict[str, Any]] = {
    "image.repository": "registry.example/app",
    "backend.url": "valkey://worker@valkey:6379/0",
    "admin.tokenSecretName": "admin",
}
ALL: Final = NEEDED | {"autoscaling.enabled": True, "serviceMonitor.enabled": True}
OTHER: Final[dict[str, Any]] = {
    "image.repository": "registry.example/other",
    "image.tag": "7",
    "image.digest": "sha256:" + "a" * 64,
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "pull"}],
    "nameOverride": "shop",
    "fullnameOverride": "shop-workers",
    "app": "shop.main:stream",
    "processes": "orders=2,clicks/stats=3",
    "concurrency": 4,
    "args": ["--only=orders"],
    "replicas": 5,
    "backend.url": "rediss://other:6380/1",
    "backend.passwordSecretName": "broker",
    "backend.passwordSecretKey": "secret",
    "backend.secretName": "broker",
    "backend.secretKey": "address",
    "admin.port": 9001,
    "admin.tokenSecretName": "tokens",
    "admin.tokenSecretKey": "worker",
    "admin.hosts": ["pspf.example"],
    "logLevel": "DEBUG",
    "logFormat": "plain",
    "drainTimeoutSeconds": 30,
    "terminationGracePeriodSeconds": 90,
    "env": [{"name": "PSPF_LEASE_MS", "value": "20000"}],
    "envFrom": [{"secretRef": {"name": "more"}}],
    "volumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
    "volumeMounts": [{"name": "tmp", "mountPath": "/var/tmp"}],
    "resources": {"limits": {"cpu": "2"}},
    "probes.startup": {"periodSeconds": 9},
    "probes.liveness": {"periodSeconds": 9},
    "probes.readiness": {"periodSeconds": 9},
    "strategy": {"type": "Recreate", "rollingUpdate": None},
    "podDisruptionBudget.enabled": False,
    "podDisruptionBudget.maxUnavailable": "30%",
    "serviceMonitor.enabled": False,
    "serviceMonitor.interval": "5s",
    "serviceMonitor.labels": {"release": "prometheus"},
    "autoscaling.enabled": False,
    "autoscaling.minReplicas": 3,
    "autoscaling.maxReplicas": 16,
    "autoscaling.lagPerReplica": 50,
    "autoscaling.group": "billing",
    "autoscaling.topic": "orders",
    "autoscaling.pollingIntervalSeconds": 5,
    "autoscaling.scaleDownAfterSeconds": 60,
    "autoscaling.fallbackReplicas": 4,
    "serviceAccount.create": False,
    "serviceAccount.name": "runner",
    "serviceAccount.annotations": {"a/b": "c"},
    "podAnnotations": {"a/b": "c"},
    "podLabels": {"team": "shop"},
    "priorityClassName": "high",
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
}
"""Another value for each that the chart has."""

MOST: Final = (
    ALL
    | OTHER
    | {"backend.secretName": ""}
    | {f"{name}.enabled": True for name in ("autoscaling", "serviceMonitor", "podDisruptionBudget")}
    | {"serviceAccount.create": True}
)

BESIDE: Final[dict[str, dict[str, Any]]] = {
    "replicas": {"autoscaling.enabled": False},
    "backend.passwordSecretKey": {"backend.passwordSecretName": "broker"},
    "backend.secretName": {"backend.url": ""},
    "backend.secretKey": {"backend.url": "", "backend.secretName": "broker"},
    "drainTimeoutSeconds": {"terminationGracePeriodSeconds": 60},
}
"""What else has to be said for a value to matter, or to be allowed."""


def find_tool(name: str) -> ModuleType:
    """Return a module of the extra `deploy`; without it the test is skipped, and fails in CI."""
    if os.environ.get("CI"):
        return __import__(name)
    module: ModuleType = pytest.importorskip(name, reason="the extra `deploy` is not installed: CI=true make test")
    return module


@pytest.fixture(scope="module")
def chart() -> Iterator[Any]:
    with find_tool("helm_python").Chart.load(str(CHART)) as loaded:
        yield loaded


def nest(values: dict[str, Any]) -> dict[str, Any]:
    """Return values by their dotted names as Helm takes them."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every value."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value and path not in TREES:
            yield from leaves(value, f"{path}.")
        else:
            yield path


def render(chart: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects that values make."""
    files = chart.render(nest(values), name="demo", namespace="prod")
    texts = [text for name, text in files.items() if not name.endswith(".txt")]
    return [each for text in texts for each in yaml.load_all(text, LOADER) if each]


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def container_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


@cache
def read_schema(name: str) -> Any:
    folder = Path(find_tool("kubernetes_validate").__path__[0]) / "kubernetes-json-schema"
    return json.loads((folder / name).read_text())


@cache
def validator_of(kind: str, api_version: str, version: str) -> Any:
    """Return what checks objects of a kind; parsed once, which takes longer than all of the checks."""
    jsonschema, referencing = find_tool("jsonschema"), find_tool("referencing")
    # Those of policy/v1 and a.b.c/v1 are in KIND-policy-v1.json and KIND-a-v1.json.
    place = re.sub(r"^([^./]*)[^/]*/", r"\1-", api_version)
    resource, definitions = (
        referencing.Resource.from_contents(read_schema(f"v{version}.0-local-strict/{name}.json"))
        for name in (f"{kind.lower()}-{place}", "_definitions")
    )
    registry = definitions @ (resource @ referencing.Registry())
    return jsonschema.Draft202012Validator(resource.contents, registry=registry)


def check(objects: list[dict[str, Any]], versions: tuple[str, ...] = KUBERNETES) -> None:
    """Fail for an object that Kubernetes would refuse, unknown fields included."""
    for each in objects:
        if each["kind"] not in CUSTOM:
            for version in versions:
                validator_of(each["kind"], each["apiVersion"], version).validate(each)


def test_every_value_of_the_chart_is_tried_here() -> None:
    documented = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(leaves(documented)) == set(OTHER)


@pytest.mark.parametrize("name", OTHER)
def test_every_value_changes_what_is_rendered_into_what_kubernetes_takes(name: str, chart: Any) -> None:
    before = ALL | BESIDE.get(name, {})
    if name == "backend.secretName":
        before["backend.secretName"] = "first"
    after = before | {name: OTHER[name]}
    changed = render(chart, after)
    assert changed != render(chart, before)
    check(changed, KUBERNETES[-1:])


def test_the_least_and_all_that_can_be_said_fit_old_and_new_kubernetes(chart: Any) -> None:
    check(render(chart, NEEDED))
    check(render(chart, ALL))
    most = (
        ALL
        | OTHER
        | {"backend.secretName": ""}
        | dict.fromkeys(("autoscaling.enabled", "serviceMonitor.enabled"), True)
    )
    check(render(chart, most | {"podDisruptionBudget.enabled": True, "serviceAccount.create": True}))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"image.repository": ""}, "image.repository"),
        ({"backend.url": ""}, "url .* or secretName"),
        ({"backend.secretName": "broker"}, "url .* or secretName"),
        ({"backend.url": "valkey://user:s3cret@valkey"}, "pattern"),
        ({"backend.url": "sqlite:///broker.db"}, "pattern"),
        ({"admin.tokenSecretName": ""}, "admin.tokenSecretName"),
        ({"terminationGracePeriodSeconds": 25}, "above drainTimeoutSeconds"),
        ({"autoscaling.minReplicas": 0}, "minimum"),
        ({"autoscaling.enabled": True, "autoscaling.minReplicas": 9}, "above maxReplicas"),
        ({"replica": 3}, "replica"),
        ({"logFormat": "rich"}, "logFormat"),
    ],
)
def test_values_that_can_t_work_are_refused_with_the_reason(values: dict[str, Any], reason: str, chart: Any) -> None:
    with pytest.raises(find_tool("helm_python").HelmError, match=reason):
        render(chart, NEEDED | values)


def test_helm_s_linter_finds_no_fault() -> None:
    found = find_tool("helm_python").lint(str(CHART), nest(NEEDED))
    assert [message for message in found["messages"] if message["severity"] > 1] == []
    assert found["errors"] == []


def test_the_grace_period_is_above_the_drain_timeout(chart: Any) -> None:
    objects = render(chart, NEEDED)
    drain = next(each for each in container_of(objects)["args"] if each.startswith("--drain-timeout="))
    seconds = int(re.findall(r"\d+", drain)[0])
    assert only(objects, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= seconds + 10


def test_what_is_asked_for_over_http_are_endpoints_that_there_are(chart: Any) -> None:
    objects, known = render(chart, ALL), {each.path: each for each in ENDPOINTS if each.method == "GET"}
    container = container_of(objects)
    probes = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    scraped = {each["path"] for each in only(objects, "ServiceMonitor")["spec"]["endpoints"]}
    assert all(known[path].is_open for path in probes | scraped)
    (trigger,) = only(
        render(chart, ALL | OTHER | {"autoscaling.enabled": True, "backend.secretName": ""}), "ScaledObject"
    )["spec"]["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    assert set(parse_qs(url.query)) == set(known[url.path].query) == {"group", "topic"}
    assert trigger["metadata"]["valueLocation"] == "lag"


def test_the_scaler_may_call_the_workers_by_the_name_it_has_for_them(chart: Any) -> None:
    objects = render(chart, ALL)
    names = next(each["value"] for each in container_of(objects)["env"] if each["name"] == "PSPF_ADMIN_HOSTS")
    (trigger,) = only(objects, "ScaledObject")["spec"]["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    assert HostRule(True, frozenset(names.split(","))).allows(url.netloc)
    service = only(objects, "Service")
    assert url.hostname == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert url.port == service["spec"]["ports"][0]["port"] == container_of(objects)["ports"][0]["containerPort"]


def test_the_lag_is_asked_for_with_the_workers_own_token(chart: Any) -> None:
    objects = render(chart, ALL)
    (trigger,) = only(objects, "ScaledObject")["spec"]["triggers"]
    authentication = only(objects, "TriggerAuthentication")
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert trigger["metadata"]["authMode"] == "bearer"
    (token,) = authentication["spec"]["secretTargetRef"]
    assert token["parameter"] == "token"
    given = next(each for each in container_of(objects)["env"] if each["name"] == "PSPF_ADMIN_TOKEN")
    assert given["valueFrom"]["secretKeyRef"] == {"name": token["name"], "key": token["key"]}


def test_arguments_and_settings_are_pspf_s(chart: Any) -> None:
    container = container_of(render(chart, NEEDED | {"app": "a:b", "processes": 2, "concurrency": 4}))
    name, target, *options = container["args"]
    assert (name, target) == ("worker", "a:b")
    commands: Any = typer.main.get_command(app)
    known = {option for parameter in commands.commands["worker"].params for option in parameter.opts}
    assert {option.partition("=")[0] for option in options} <= known
    values = {each["name"]: each.get("value", "a-token-of-some-length") for each in container["env"]}
    described = {f"PSPF_{field}" for field in type(load_settings({})).model_fields} | {"VALKEY_PASSWORD"}
    assert values.keys() <= described
    load_settings(values)


def test_the_pod_runs_as_the_user_of_the_image_and_may_nothing(chart: Any) -> None:
    pod = only(render(chart, NEEDED), "Deployment")["spec"]["template"]["spec"]
    assert str(pod["securityContext"]["runAsUser"]) == read_stages(ROOT / "Dockerfile")[-1].last("USER")
    assert pod["enableServiceLinks"] is False
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_all_that_selects_pods_selects_these(chart: Any) -> None:
    objects = render(chart, ALL | {"nameOverride": "shop"})
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    wanted = [
        only(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        only(objects, "Service")["spec"]["selector"],
        only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    assert all(each.items() <= labels.items() for each in wanted)
    monitored = only(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= only(objects, "Service")["metadata"]["labels"].items()


def test_secrets_are_named_and_never_held(chart: Any) -> None:
    objects = render(chart, ALL | {"backend.url": "", "backend.secretName": "a", "backend.passwordSecretName": "b"})
    assert "Secret" not in {each["kind"] for each in objects}
    secrets = {each["name"]: each for each in container_of(objects)["env"] if each["name"] != "PSPF_ADMIN_HOSTS"}
    assert secrets.keys() == {"PSPF_BACKEND", "VALKEY_PASSWORD", "PSPF_ADMIN_TOKEN"}
    assert all(each.keys() == {"name", "valueFrom"} for each in secrets.values())
