"""Show what a model.mrt takes, gives and holds.

maas-rt inspect model.mrt
maas-rt inspect model.mrt --json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from .. import _container, _plan
from .._errors import DecryptionError, SignatureError
from ._arrays import pluralised, sized
from ._opening import add_opening, opening
from ._prune import inspected
from ._recipe import told_of

# What the manifest's words mean where the file did not run on the CPU that it was compiled on.
_STATUS = {
    "host-build": "by a build for the CPU that compiled it; this file was not run",
    "emulated": "by a build for the CPU that compiled it, and by this file under an emulator",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.mrt")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    add_opening(parser)


def execute(args: argparse.Namespace) -> int:
    facts = describe(args.model, **opening(args))
    print(json.dumps(facts, indent=2) if args.json else _text(facts))
    return 0


def describe(path: str, *, key: Any = None, require_signature: Any = None, lock: bool = True) -> dict[str, Any]:
    """Manifest, sections and step counts of a file. It is read and not loaded: a look at a file runs none of its code, and one for another
    CPU can be looked at, too."""
    container = _container.read(path)
    if require_signature is not None:
        _check_signature(path, require_signature)
    parts = _plain_parts(path, container, key)
    manifest = json.loads(parts[_container.SectionKind.MANIFEST])
    plan = _plan.decode(parts[_container.SectionKind.PLAN])
    steps = Counter(
        step.target if step.kind == _plan.StepKind.KERNEL else _plan.StepKind(step.kind).name.lower()
        for block in plan.blocks
        for step in block.steps
    )
    return {
        "file": Path(path).name,
        "bytes": Path(path).stat().st_size,
        "manifest": manifest,
        "sections": [
            {"kind": s.name, "target": s.target, "offset": s.offset, "bytes": s.size, "sha256": s.sha256.hex()}
            for s in container.sections
        ],
        "steps": dict(sorted(steps.items(), key=lambda item: (-item[1], item[0]))),
    }


def _check_signature(path: str, keys: Any) -> None:
    from ..trust import check

    report = check(path, keys)
    if report.accepted is None:
        raise SignatureError(f"the signature of '{path}' is not accepted: {report.refused}")


def _plain_parts(path: str, container: _container.Container, key: Any) -> dict[Any, bytes]:
    """Manifest and plan, decrypted where they are encrypted."""
    kinds = (_container.SectionKind.MANIFEST, _container.SectionKind.PLAN)
    if container.find(_container.SectionKind.ENCRYPTION) is None:
        return {kind: bytes(container.section(kind)) for kind in kinds}
    if key is None:
        raise DecryptionError(f"'{path}' is encrypted; load it with a key")
    from ..trust import plain_sections

    return {s.kind: b"".join(s.pieces()) for s in plain_sections(container, key) if s.kind in kinds}


def _tensor(entry: dict[str, Any]) -> str:
    return f"{entry['name']}: {entry['dtype']}[{', '.join(str(d) for d in entry['shape'])}]"


def _stored(row: dict[str, Any]) -> str:
    """What the manifest says of weights that are stored in one way."""
    text = f"{'int' if row['integer'] else 'float'}{row['bits']}"
    text += f" in groups of {row['group']}" if "group" in row else ""
    text += " with zero points" if row.get("zero_points") else ""
    text += f", scales in {row['scales']}" if "scales" in row else ""
    text += f", sparse ({row['sparse']})" if "sparse" in row else ""
    return f"{row['tensors']} × {text} ({sized(row['bytes'])})"


def _text(facts: dict[str, Any]) -> str:
    manifest = facts["manifest"]
    verified = manifest.get("verified") or {}
    lines = [
        f"{facts['file']}  {sized(facts['bytes'])}  {manifest.get('name', '')}",
        f"targets   {', '.join(manifest.get('targets') or []) or 'any (no code)'}",
        f"verified  {_STATUS.get(verified.get('status', 'unknown'), verified.get('status', 'unknown'))}"
        + (f", largest relative error {verified['max_relative_error']:.2g}" if "max_relative_error" in verified else "")
        + (f" against {verified['reference']}" if verified.get("reference") else ""),
    ]
    lines += [
        f"          under qemu: {each['target']} on {each['cpu']}, largest relative error {each['max_relative_error']:.2g}"
        for each in verified.get("emulated") or []
    ]
    compression = manifest.get("compression")
    if compression:
        score, size, latency = compression["score"], compression["bytes"], compression["latency"]
        lines.append(
            f"compressed  score {score['compressed']:.6g} (float {score['float']:.6g}), {size['ratio']:.2f} times smaller, "
            f"{latency['compressed'] * 1e3:.3g} ms a run (float {latency['float'] * 1e3:.3g} ms) where it was searched for"
        )
    prune = (manifest.get("recipe") or {}).get("prune")
    if prune:
        lines += inspected(prune)
    quantize = (manifest.get("recipe") or {}).get("quantize")
    if quantize:
        data = (
            f", calibrated on {pluralised(quantize['calibration_inputs'], 'input')}"
            if quantize["calibration_inputs"]
            else ""
        )
        lines.append(f"recipe    {told_of(quantize)}{data}")
        lines += [f"          {each['name']}: {each['reason']}" for each in quantize["float_layers"]]
    tuning = manifest.get("tuning")
    if tuning:
        lines.append(
            f"tuned     for {tuning['cpu']}, {pluralised(tuning['threads'], 'thread')}: {pluralised(len(tuning['steps']), 'step')}"
            + (f", {tuning['untuned']} more by estimate" if tuning["untuned"] else "")
        )
    if manifest.get("weights"):
        lines.append(f"{'weights':<9} " + ", ".join(map(_stored, manifest["weights"])))
    for title in ("inputs", "outputs", "states"):
        for entry in manifest.get(title) or []:
            lines.append(f"{title[:-1]:<9} {_tensor(entry)}")
    if manifest.get("draws"):
        lines.append(f"{'draws':<9} random numbers: a run takes a seed")
    for name, symbol in sorted((manifest.get("symbols") or {}).items()):
        top = "" if symbol.get("max") in (None, -1) else symbol["max"]
        multiple = f", a multiple of {symbol['multiple']}" if symbol.get("multiple", 1) > 1 else ""
        lines.append(f"{'dimension':<9} {name} = {symbol['min']}..{top}{multiple}")
    for section in facts["sections"]:
        target = f" {section['target']}" if section["target"] else ""
        lines.append(f"{'section':<9} {section['kind']}{target}: {sized(section['bytes'])}")
    lines.append(f"{'steps':<9} " + ", ".join(f"{count} × {name}" for name, count in facts["steps"].items()))
    return "\n".join(lines)
