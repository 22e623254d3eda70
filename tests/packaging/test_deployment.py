"""The files under docs/deploy: manifests hold nothing that Kubernetes and KServe do not know, and options that the server takes."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from maas_rt._cli import _serve

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

yaml = pytest.importorskip("yaml", reason="reads the manifests: pip install PyYAML")
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
CONTAINER_TYPES = re.compile(r"([Ll]ist|[Dd]ict)[\[(](?:str, )?(.*)[\])]")


def _documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")) if each]


def _check(models: tuple[Any, ...], kind: str, value: Any, where: str) -> None:
    """Holds a value against a class of an official client's models: each field is known, the required ones are there, and types fit."""
    found = CONTAINER_TYPES.fullmatch(kind)
    if found is not None:
        outer, inner = found.groups()
        assert isinstance(value, list if outer.lower() == "list" else dict), where
        for key, each in enumerate(value) if outer.lower() == "list" else value.items():
            _check(models, inner, each, f"{where}[{key}]")
        return
    model = next((getattr(each, kind) for each in models if hasattr(each, kind)), None)
    if model is None:
        assert not re.match(r"V\d", kind), f"{where}: nobody has {kind}"
        fits = {"str": str, "int": int, "float": (int, float), "bool": bool}.get(kind)
        assert fits is None or (isinstance(value, fits) and isinstance(value, bool) == (kind == "bool")), (
            f"{where}: {value!r} is no {kind}"
        )
        return
    assert isinstance(value, dict), where
    fields = {text: field for field, text in model.attribute_map.items()}
    assert set(value) <= set(fields), f"{where}: {kind} has no {set(value) - set(fields)}"
    model(**{fields[text]: each for text, each in value.items()})  # which asks for what is required
    for text, each in value.items():
        _check(models, model.openapi_types[fields[text]], each, f"{where}.{text}")


CLASSES = {
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Service"): "V1Service",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "V2HorizontalPodAutoscaler",
}


def test_kubernetes_knows_all_that_its_manifest_says() -> None:
    client = pytest.importorskip("kubernetes.client", reason="has Kubernetes' own models: pip install kubernetes")
    documents = _documents("kubernetes.yaml")
    assert {each["kind"] for each in documents} >= {"ConfigMap", "Deployment", "Service"}
    for each in documents:
        _check((client.models,), CLASSES[each["apiVersion"], each["kind"]], each, each["kind"])
    with pytest.raises(AssertionError, match="has no"):
        _check((client.models,), "V1PodSpec", {"contaners": []}, "Pod.spec")


def test_kserve_knows_all_that_its_manifest_says() -> None:
    client = pytest.importorskip("kubernetes.client", reason="has Kubernetes' own models: pip install kubernetes")
    kserve = pytest.importorskip("kserve.models", reason="has KServe's own models: pip install kserve")
    classes = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
    for each in _documents("kserve.yaml"):
        _check((kserve, client.models), classes[each["kind"]], each, each["kind"])


def _containers() -> dict[str, dict[str, Any]]:
    (deployment,) = (each for each in _documents("kubernetes.yaml") if each["kind"] == "Deployment")
    (runtime,) = (each for each in _documents("kserve.yaml") if each["kind"] == "ServingRuntime")
    return {
        "kubernetes": deployment["spec"]["template"]["spec"]["containers"][0],
        "kserve": runtime["spec"]["containers"][0],
    }


def _options(flags: list[str], **environment: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    _serve.add_arguments(parser)
    args = parser.parse_args(flags)
    return args.layers.resolve(args, environment)  # type: ignore[no-any-return]


def test_the_server_takes_the_options_of_the_manifests(tmp_path: Path) -> None:
    (config,) = (each for each in _documents("kubernetes.yaml") if each["kind"] == "ConfigMap")
    (tmp_path / "serve.toml").write_text(config["data"]["serve.toml"], encoding="utf-8")
    assert set(tomllib.loads(config["data"]["serve.toml"])) >= {"directory", "keys", "tls-cert", "tls-key"}
    containers = _containers()
    flags = [each.replace("/etc/maas-rt", str(tmp_path)) for each in containers["kubernetes"]["args"]]
    found = _options(flags)
    assert (found.directory, found.host, found.port, found.insecure) == ("/models", ["0.0.0.0"], 8000, False)
    mounts = {each["mountPath"] for each in containers["kubernetes"]["volumeMounts"]}
    assert {str(found.keys.parent), str(found.tls_cert.parent), found.directory} <= mounts
    found = _options(containers["kserve"]["args"])
    assert (found.directory, found.host, found.insecure) == ("/mnt/models", ["0.0.0.0"], True)


def test_a_container_is_nobody_special_and_its_probes_ask_what_there_is() -> None:
    for name, container in _containers().items():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        for probe, path in (("readinessProbe", "/v2/health/ready"), ("livenessProbe", "/v2/health/live")):
            assert container[probe]["httpGet"]["path"] == path, name
        assert {each["containerPort"] for each in container["ports"]} == {8000}, name


def test_the_image_runs_the_server_as_nobody_and_asks_after_its_health() -> None:
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    final = lines[max(i for i, (word, _) in enumerate(lines) if word == "FROM") :]
    told = dict(final)
    assert all("slim" in rest for word, rest in lines if word == "FROM")
    assert told["USER"].split(":")[0].isdigit() and told["USER"] != "0:0"
    assert json.loads(told["ENTRYPOINT"]) == ["maas-rt", "serve"]
    command = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
    compile(command[2], "the health check", "exec")
    assert command[:2] == ["python", "-c"] and "/v2/health/live" in command[2]
    environment = dict(each.partition("=")[::2] for each in shlex.split(told["ENV"]))
    options = {name: value for name, value in environment.items() if name.startswith("MAAS_RT_")}
    assert _options([], **options).directory == "/models"
    sources = {
        each for word, rest in lines if word == "COPY" and not rest.startswith("--") for each in rest.split()[:-1]
    }
    assert all((DEPLOY.parents[1] / each).exists() for each in sources)
