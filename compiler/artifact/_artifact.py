"""A compiled model in memory, and how it becomes a file."""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maas_rt import _container
from maas_rt._errors import InvalidArgumentError
from maas_rt._model import Model, load
from maas_rt._plan import encode

from .._recipes import Recipe
from ..codegen import LinkableCode
from ..plan import ROOM, LinearPlan

__all__ = ["Artifact"]

_RESIDENT = 1 << 26  # bytes of packed weights that stay in memory while a model runs from its temporary file


@dataclass(frozen=True)
class Artifact:
    """What `compile` returns. `maas_rt.load` accepts it, `save` writes it, `to_bytes` gives the file's bytes."""

    linear: LinearPlan
    code: Mapping[str, bytes]  # by target, best first; empty if no step needs generated code
    _manifest: dict[str, Any]
    measured_error: float | None = None  # the largest relative error, of which the manifest has the power of ten
    report: dict[str, Any] | None = None  # of a search for a recipe: all that it measured
    recipe: Recipe | None = None  # what such a search chose, with its data
    objects: Mapping[str, LinkableCode] = field(
        default_factory=dict
    )  # by target: the file has them in the place of `code`

    def __deepcopy__(self, memo: Any) -> Artifact:
        return self  # nothing of it changes

    def __reduce__(self) -> Any:
        raise InvalidArgumentError(
            "an Artifact may lie in a temporary file: send its to_bytes(), or save it and send the path"
        )

    @property
    def manifest(self) -> dict[str, Any]:
        """A copy of the manifest (csrc/artifact/FORMAT.md lists its keys)."""
        return copy.deepcopy(self._manifest)

    def with_manifest(self, **changes: Any) -> Artifact:
        """The same artifact with some of the manifest's keys replaced."""
        return replace(self, _manifest={**self._manifest, **changes})

    def sections(self) -> list[_container.Section]:
        """The file's sections in order: manifest, plan, code, weights last."""
        manifest = json.dumps(self._manifest, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        kinds = _container.SectionKind
        parts = [_container.Section(kinds.MANIFEST, manifest), _container.Section(kinds.PLAN, encode(self.linear.plan))]
        if self.objects:
            parts += [_container.Section(kinds.OBJECT, each.model, target) for target, each in self.objects.items()]
        else:
            parts += [_container.Section(kinds.CODE, image, target) for target, image in self.code.items()]
        if self.linear.weights.size:
            parts.append(_container.Section(kinds.WEIGHTS, self.linear.weights))
        return parts

    def to_bytes(self) -> bytes:
        """The file. Equal artifacts give equal bytes."""
        return b"".join(_container.write(self.sections()))

    def loaded(self) -> Model:
        """The model, ready to run as it is now; the weights of a large one are mapped from the temporary file that they are in."""
        if self.objects:  # what is linked into a host does not run here
            return replace(self, objects={}).loaded()
        file = self.linear.weights.file
        if file is None or not os.path.exists(f"/proc/self/fd/{file}") or self.linear.weights.is_mapped:
            return load(self.to_bytes())
        *before, weights = self.sections()
        head = io.BytesIO()
        for piece in _container.write([*before, weights], ROOM):
            if head.tell() + len(piece) > ROOM:
                break
            head.write(piece)
        if head.tell() != ROOM:  # more than there is room for
            return load(self.to_bytes())
        os.pwrite(file, head.getbuffer(), 0)
        self.linear.weights.is_mapped = True  # what is mapped is not written again
        return load(f"/proc/self/fd/{file}", resident=_RESIDENT)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file beside `path`, flush it to the disk and rename it into place: whatever happens, no half file is left.

        With `code="object"` the object files (`model.x86-64-v3.o` beside `model.mrt`) and the header that declares their tables
        (`model.h`) are written the same way, before it. Raises maas_rt.Error if one cannot be written.
        """
        for beside, data in _linked_beside(Path(path), self.objects).items():
            _container.write_whole(beside, [data])
        _container.save(path, self.sections())


def _linked_beside(path: Path, objects: Mapping[str, LinkableCode]) -> dict[Path, bytes]:
    """What belongs to a file whose generated functions are linked: an object file a target, and a header."""
    if not objects:
        return {}
    files = {path.with_name(f"{path.stem}.{target}.o"): each.image for target, each in objects.items()}
    tables = "".join(f"extern const mrt_code_table {each.symbol};\n" for each in objects.values())
    text = f"""/* The generated functions of {path.name}, in {", ".join(each.name for each in files)}: for the load option code_tables. */
#include <maas_rt.h>
#ifdef __cplusplus
extern "C" {{
#endif
{tables}#ifdef __cplusplus
}}
#endif
"""
    return {**files, path.with_suffix(".h"): text.encode()}
