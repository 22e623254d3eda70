"""The tables of gRPC's messages, against those that other packages carry, field by field."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("google.protobuf", reason="needs protobuf: pip install protobuf, as the extra grpc does")
pytest.importorskip("grpc", reason="needs grpcio: pip install grpcio, as the extra grpc does")
from maas_rt.service._grpc import METHODS
from maas_rt.service._grpc_messages import HEALTH, MESSAGES

# What KServe answers, where Triton's messages are empty.
_OF_KSERVE = {"RepositoryModelLoadResponse", "RepositoryModelUnloadResponse"}
# Of which there is what this server tells.
_IN_PART = {
    "ModelConfig",
    "ModelEnsembling",
    "ModelEnsembling.Step",
    "ModelInput",
    "ModelOutput",
    "ModelInstanceGroup",
    "ModelDynamicBatching",
    "ModelSequenceBatching",
}


def _fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    return {
        each.name: (
            each.number,
            each.type,
            each.is_repeated,
            None if each.containing_oneof is None else each.containing_oneof.name,
            None if each.message_type is None else _name(each.message_type),
            None if each.enum_type is None else _values(each.enum_type),
        )
        for each in descriptor.fields
    }


def _name(descriptor: Any) -> tuple[str, bool]:
    return descriptor.full_name, descriptor.GetOptions().map_entry


def _values(descriptor: Any) -> tuple[str, dict[str, int]]:
    return descriptor.full_name, {each.name: each.number for each in descriptor.values}


def _all(descriptors: Any) -> dict[str, Any]:
    """Messages and those in them, by name without the package."""
    found = {}
    for each in descriptors:
        found[each.full_name.removeprefix(f"{each.file.package}.")] = each
        found |= _all(each.nested_types)
    return found


def _compare(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, message in ours.items():
        wanted, found = _fields(theirs[name]), _fields(message)
        if name in _OF_KSERVE:
            assert not wanted
        elif name in _IN_PART:
            assert found.items() <= wanted.items(), name
        else:
            assert found == wanted, name


def _ours(package: str) -> dict[str, Any]:
    tops = [each.DESCRIPTOR for each in MESSAGES.values() if each.DESCRIPTOR.containing_type is None]
    return _all(each for each in tops if each.file.package == package)


def test_tritons() -> None:
    how = "needs NVIDIA's client: pip install tritonclient, as the extra dev does"
    service = pytest.importorskip("tritonclient.grpc.service_pb2", reason=how)
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason=how)
    theirs = _all(service.DESCRIPTOR.message_types_by_name.values())
    ours = _ours("inference")
    _compare(theirs | _all(config.DESCRIPTOR.message_types_by_name.values()), ours)
    assert set(theirs) <= set(ours)
    methods = service.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert {each.name for each in methods} == {*METHODS, "ModelInfer", "ModelStreamInfer"}
    for each in methods:
        name = "ModelInfer" if each.name == "ModelStreamInfer" else each.name
        assert (each.input_type.name, each.output_type.name) == (f"{name}Request", f"{each.name}Response")


def test_healths() -> None:
    how = "needs the health service's messages: pip install grpcio-health-checking, as the extra dev does"
    health = pytest.importorskip("grpc_health.v1.health_pb2", reason=how)
    _compare(_all(health.DESCRIPTOR.message_types_by_name.values()), _ours("grpc.health.v1"))
    assert health.DESCRIPTOR.services_by_name["Health"].full_name == HEALTH
