"""The manifests, dashboard and alert rules agree with the server that they are about."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.test_docs import parse

from vlv.serving.http.auth import _OPEN
from vlv.serving.telemetry import Metrics, outcome

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
MANIFESTS = {
    one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes/vlv.yaml").read_text())
}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]


def metric_names() -> set[str]:
    """The series that the server's page has, with and without values."""
    names = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return names


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana/vlv.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    return shown + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def test_dashboard_and_alerts_name_metrics_that_exist() -> None:
    known = metric_names()
    used = {name for one in expressions() for name in re.findall(r"\bvlv_\w+", one)}
    assert len(used) > 10
    assert used <= known, used - known
    statuses = (200, 400, 422, 499, 500, 501, 504)
    outcomes = {name for one in expressions() for name in re.findall(r'outcome=~"([\w|]+)"', one)}
    assert {name for one in outcomes for name in one.split("|")} <= set(map(outcome, statuses))


def test_labels_of_the_dashboard_exist() -> None:
    labels: dict[str, set[str]] = {}
    metrics = Metrics()
    for one in vars(metrics).values():
        if hasattr(one, "_labelnames"):
            labels[one._name] = set(one._labelnames)
    for one in expressions():
        for by, inner in re.findall(r"by \((\w+)\) \(\w+\((vlv_\w+?)(?:_total|_bucket)?[\[{]", one):
            assert by in labels[inner] | {"instance", "le"}, one


def test_kubernetes_starts_a_server_as_the_container_does() -> None:
    parse(CONTAINER["args"])
    flags = dict(zip(CONTAINER["args"][1::2], CONTAINER["args"][2::2], strict=True))
    [port] = CONTAINER["ports"]
    assert flags["--port"] == str(port["containerPort"])
    [exposed] = MANIFESTS["Service"]["spec"]["ports"]
    assert (exposed["port"], exposed["targetPort"]) == (port["containerPort"], port["name"])
    assert MANIFESTS["Service"]["spec"]["selector"] == {"app": "vlv"}
    assert MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"] == {"app": "vlv"}
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert POD["securityContext"]["runAsUser"] == 10001
    mounts = {one["name"]: one["mountPath"] for one in CONTAINER["volumeMounts"]}
    assert set(mounts) == {one["name"] for one in POD["volumes"]}
    assert flags["--api-key-file"] == f"{mounts['keys']}/vlv-api-key"
    claim = next(one for one in POD["volumes"] if one["name"] == "cache")["persistentVolumeClaim"]
    assert claim["claimName"] == MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"]


def test_an_upgrade_does_not_wait_for_a_volume_that_another_node_holds() -> None:
    """Two pods at once need a volume that two nodes may have."""
    modes = MANIFESTS["PersistentVolumeClaim"]["spec"]["accessModes"]
    recreates = MANIFESTS["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert recreates or "ReadWriteMany" in modes


def test_probes_ask_paths_that_need_no_key() -> None:
    paths: dict[str, Any] = {}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        paths[name] = CONTAINER[name]["httpGet"]["path"]
        assert CONTAINER[name]["httpGet"]["port"] == CONTAINER["ports"][0]["name"]
        assert _OPEN.fullmatch(paths[name].encode())
    assert paths == {
        "startupProbe": "/ready",
        "readinessProbe": "/ready",
        "livenessProbe": "/health",
    }
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > pause + 30, "longer than --drain-seconds"


@pytest.mark.slow
def test_the_manifests_fit_kubernetes_own_schemas() -> None:
    from kubernetes_validate import ValidationError, validate

    for version in ("1.27", "1.37"):
        for kind, manifest in MANIFESTS.items():
            assert validate(manifest, version, strict=True) == version, kind
    misspelt = copy.deepcopy(MANIFESTS["Deployment"])
    misspelt["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(ValidationError, match="livenessProb"):
        validate(misspelt, "1.37", strict=True)
