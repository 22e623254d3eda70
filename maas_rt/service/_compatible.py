"""Whether a version can take another one's place: whatever was asked of the one can be asked of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._tensor_info import TensorInfo


@dataclass(frozen=True)
class Extent:
    """Of a dimension: a number, or the text of its expression, and what that may be; `most` is None where there is no bound."""

    text: str
    least: int
    most: int | None
    multiple: int = 1

    @property
    def fixed(self) -> bool:
        return self.least == self.most

    def takes(self, other: Extent) -> bool:
        """Whether it may be whatever the other may be."""
        if self.most is not None and (other.most is None or other.most > self.most):
            return False
        return self.least <= other.least and (other.least if other.fixed else other.multiple) % self.multiple == 0

    def __str__(self) -> str:
        if self.fixed:
            return str(self.least)
        most = "" if self.most is None else str(self.most)
        return f"{self.text} ({self.least}..{most}{f', a multiple of {self.multiple}' if self.multiple > 1 else ''})"


@dataclass(frozen=True)
class Tensor:
    """An input or output."""

    name: str
    dtype: str
    shape: tuple[Extent, ...]


@dataclass(frozen=True)
class Interface:
    """What clients see of a version."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Interface:
        """What a file says of itself; nothing of it is loaded."""
        symbols = manifest.get("symbols") or {}

        def tensors(entries: Iterable[Mapping[str, Any]]) -> tuple[Tensor, ...]:
            return tuple(Tensor(e["name"], e["dtype"], tuple(_extent(d, symbols) for d in e["shape"])) for e in entries)

        found = cls(tensors(manifest.get("inputs") or ()), tensors(manifest.get("outputs") or ()))
        return found._with_strings(manifest)

    @classmethod
    def of_model(
        cls, inputs: Iterable[TensorInfo], outputs: Iterable[TensorInfo], manifest: Mapping[str, Any]
    ) -> Interface:
        """A loaded model's."""
        found = cls(tuple(map(_tensor, inputs)), tuple(map(_tensor, outputs)))
        return found._with_strings(manifest)

    def _with_strings(self, manifest: Mapping[str, Any]) -> Interface:
        """Strings are bytes to the model, in one more dimension, and strings to clients."""
        names = (manifest.get("source") or {}).get("strings", ())

        def seen(tensor: Tensor) -> Tensor:
            return Tensor(tensor.name, "string", tensor.shape[:-1]) if tensor.name in names else tensor

        return Interface(tuple(map(seen, self.inputs)), tuple(map(seen, self.outputs)))


def differences(old: Interface, new: Interface) -> list[str]:
    """Why `new` cannot take the place of `old`, a clause each; none if it can.

    Every request to the one must be one to the other: the same inputs, of the same type, whose extents may at least be what they might be.
    And an answer must be as it was: the outputs that there were, of the same type, of the same extent where that was fixed.
    """
    found = []
    ours, theirs = {each.name: each for each in new.inputs}, {each.name: each for each in old.inputs}
    found += [f"input {name!r} is gone" for name in theirs if name not in ours]
    found += [f"input {name!r} is new" for name in ours if name not in theirs]
    for name in (name for name in theirs if name in ours):
        found += _differs("input", theirs[name], ours[name], lambda was, now: now.takes(was))
    found += _tied(theirs, ours)
    results = {each.name: each for each in new.outputs}
    for was in old.outputs:
        if was.name not in results:
            found.append(f"output {was.name!r} is gone")
        else:
            found += _differs(
                "output",
                was,
                results[was.name],
                lambda was, now: not was.fixed or (now.fixed and now.least == was.least),
            )
    return found


def _differs(kind: str, was: Tensor, now: Tensor, fits: Callable[[Extent, Extent], bool]) -> list[str]:
    what = f"{kind} {now.name!r}"
    if now.dtype != was.dtype:
        return [f"{what} is {now.dtype} and was {was.dtype}"]
    if len(now.shape) != len(was.shape):
        return [f"{what} has {len(now.shape)} dimensions and had {len(was.shape)}"]
    return [
        f"dimension {axis} of {what} is {new} and was {old}"
        for axis, (old, new) in enumerate(zip(was.shape, now.shape))
        if not fits(old, new)
    ]


def _tied(was: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> list[str]:
    """Dimensions that have to be equal now and were independent of each other."""
    places: dict[str, list[tuple[str, int]]] = {}
    for name, tensor in now.items():
        for axis, extent in enumerate(tensor.shape):
            if not extent.fixed and name in was and axis < len(was[name].shape):
                places.setdefault(extent.text, []).append((name, axis))
    found = []
    for (first, one), *others in places.values():
        for name, axis in others:
            before, after = was[first].shape[one], was[name].shape[axis]
            if before.text != after.text and not (before.fixed and after.fixed and before.least == after.least):
                found.append(
                    f"dimension {axis} of input {name!r} must be dimension {one} of {first!r}, and was another"
                )
    return found


def _extent(dim: object, symbols: Mapping[str, Any]) -> Extent:
    if isinstance(dim, int):
        return Extent(str(dim), dim, dim)
    known = symbols.get(str(dim), {})
    return Extent(str(dim), known.get("min", 0), known.get("max"), known.get("multiple", 1))


def _tensor(info: TensorInfo) -> Tensor:
    multiples: Sequence[int] = info.multiples or [1] * len(info.shape)
    extents = (
        Extent(str(extent), least, most, multiple)
        for extent, (least, most), multiple in zip(info.shape, info.bounds, multiples)
    )
    return Tensor(info.name, info.dtype, tuple(extents))
