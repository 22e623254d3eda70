"""What the protocol tells of a model: its metadata, and its configuration in the fields of Triton's ModelConfig.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._native import cpu_count
from ._datatypes import BYTES
from ._graph import Source
from ._pipeline import Pipeline
from ._served import Served
from ._signature import TensorSpec
from ._versions import Policy

PLATFORM = "maas_rt"
ENSEMBLE = "ensemble"  # Triton's word for the platform of a pipeline


def model_metadata(served: Served, versions: Sequence[str]) -> dict[str, Any]:
    """The metadata of a model, whose `versions` are those that are ready."""
    return {
        "name": served.name,
        "versions": list(versions),
        "platform": ENSEMBLE if isinstance(served.model, Pipeline) else PLATFORM,
        "inputs": [spec.metadata() for spec in served.signature.inputs],
        "outputs": [spec.metadata() for spec in served.signature.outputs],
    }


def model_config(served: Served, policy: Policy, idle: int) -> dict[str, Any]:
    """The configuration. `idle`: nanoseconds after which a sequence ends that nobody asks for."""
    if isinstance(served.model, Pipeline):
        return _pipeline_config(served, served.model, policy)
    scheduling = served.scheduling
    batching = scheduling.batching
    rows = batching.max_rows if batching is not None else 0
    queue = {
        "max_queue_size": scheduling.queue,
        "default_timeout_microseconds": scheduling.timeout // 1000,
        "timeout_action": "REJECT",
        "allow_timeout_override": True,
    }
    found: dict[str, Any] = {
        "name": served.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "version_policy": _version_policy(policy),
        "max_batch_size": rows,
        "input": [_tensor(spec, rows > 0) for spec in served.signature.inputs],
        "output": [_tensor(spec, rows > 0) for spec in served.signature.outputs],
        "instance_group": [{"name": served.name, "kind": "KIND_CPU", "count": scheduling.instances or cpu_count()}],
        "default_model_filename": "model.mrt",
        "parameters": {},
    }
    if batching is not None:
        found["dynamic_batching"] = {
            "preferred_batch_size": list(batching.preferred),
            "max_queue_delay_microseconds": batching.max_delay // 1000,
            "default_priority_level": scheduling.priority,
            "default_queue_policy": queue,
        }
    if served.cache is not None:
        found["response_cache"] = {"enable": True}
    if served.stateful:
        found["sequence_batching"] = {"max_sequence_idle_microseconds": idle // 1000}
    return found


def _pipeline_config(served: Served, pipeline: Pipeline, policy: Policy) -> dict[str, Any]:
    """Its tensors are named as the pipeline's inputs and outputs are, and those between steps STEP.OUTPUT."""
    names = {source: name for name, source in pipeline.graph.outputs.items()}

    def tensor(source: Source) -> str:
        return names.get(source, str(source))

    steps = [
        {
            "model_name": step.model,
            "model_version": -1
            if step.version is None
            else int(member.version),  # -1: that of a request that names none
            "input_map": {name: tensor(source) for name, source in step.inputs.items()},
            "output_map": {source.name: tensor(source) for source in pipeline.uses if source.step == step.name},
        }
        for step, member in zip(pipeline.graph.steps, pipeline.members)
    ]
    found: dict[str, Any] = {
        "name": served.name,
        "platform": ENSEMBLE,
        "backend": "",
        "version_policy": _version_policy(policy),
        "max_batch_size": 0,
        "input": [_tensor(spec, False) for spec in served.signature.inputs],
        "output": [_tensor(spec, False) for spec in served.signature.outputs],
        "instance_group": [],
        "default_model_filename": "",
        "parameters": {},
        "ensemble_scheduling": {"step": steps},
    }
    if served.cache is not None:
        found["response_cache"] = {"enable": True}
    return found


def _version_policy(policy: Policy) -> dict[str, Any]:
    if policy.latest is not None:
        return {"latest": {"num_versions": policy.latest}}
    return {"specific": {"versions": sorted(policy.specific)}} if policy.specific is not None else {"all": {}}


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    """With `batched` the first dimension is max_batch_size's, and is left out."""
    if spec.datatype is BYTES:
        kind = "STRING"
    else:
        kind = spec.datatype.name if spec.datatype is not None else "INVALID"
    dims = [extent if isinstance(extent, int) else -1 for extent in spec.shape]
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims[1:] if batched else dims}
