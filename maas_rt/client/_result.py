"""What a model answered, for the program that asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._errors import InvalidArgumentError
from ..service._datatypes import BYTES, DATATYPES, Array
from ..service._requests import InferResponse, OutputTensor, Parameters
from ._arrays import as_read
from ._regions import InRegion


@dataclass(frozen=True)
class ClassScore:
    """One of an output's highest entries: its value, its index in the row, and its label if the model has labels."""

    value: float | int
    index: int
    label: str | None


class InferResult(Mapping[str, Array]):
    """What a model answered: arrays by the names of its outputs, in the model's order.

    The arrays are their reader's own, and may be written to. BYTES are an array of `bytes` objects. BF16 is ml_dtypes.bfloat16 where ml_dtypes is
    installed, else float32, which holds each of its values.

    Attributes:
        model_name, model_version: what answered, as text.
        id: the request's, if it had one.
        parameters: of the answer, as the seed that a model has drawn from.
        in_regions: where the outputs lie that were to go to shared memory, by their names; they are no members of the mapping.
    """

    def __init__(self, response: InferResponse) -> None:
        self.model_name = response.model_name
        self.model_version = response.model_version
        self.id = response.id
        self.parameters: Parameters = response.parameters
        # A copy: binary data lie in the answer at any address, beside each other.
        self._outputs = {each.name: _own(each) for each in response.outputs if each.shared_memory is None}
        self.in_regions = {each.name: InRegion.of(each) for each in response.outputs if each.shared_memory is not None}

    def __getitem__(self, name: str) -> Array:
        output = self._output(name)
        return as_read(output.array, output.datatype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        tensors = ", ".join(
            f"{each.name}: {each.datatype.name}{list(each.array.shape)}" for each in self._outputs.values()
        )
        return f"<InferResult of {self.model_name}, version {self.model_version}: {tensors}>"

    def strings(self, name: str) -> Array:
        """An output of strings (BYTES) as `str` objects, in its shape.

        Raises:
            KeyError: there is no such output.
            InvalidArgumentError: it has another datatype, or bytes that are no UTF-8.
        """
        array = self._bytes(name)
        try:
            texts = [each.decode() for each in array.flat]
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(
                f"output {name!r} has bytes that are no UTF-8 ({error.reason}): read {name!r} itself"
            ) from None
        return np.fromiter(texts, object, len(texts)).reshape(array.shape)

    def classes(self, name: str) -> list[list[ClassScore]]:
        """The highest entries of each row of an output that was asked for in `classes`, the highest first.

        Raises:
            KeyError: there is no such output.
            InvalidArgumentError: it is no such list.
        """
        rows = self._bytes(name)
        try:
            return [[_score(each) for each in row] for row in rows.reshape(-1, rows.shape[-1])]
        except (ValueError, IndexError):
            raise InvalidArgumentError(f"output {name!r} has no highest entries: ask for it in `classes`") from None

    def tensors(self) -> dict[str, Any]:
        """All outputs as torch's tensors on the CPU, which share the arrays' memory. The program has imported torch: nothing here does.

        Raises:
            InvalidArgumentError: it has not; or an output has strings, which torch has not.
        """
        for name, output in self._outputs.items():
            if output.datatype is BYTES:
                raise InvalidArgumentError(
                    f"output {name!r} has strings, which torch's tensors do not: read {name!r} itself"
                )
        torch = sys.modules.get("torch")
        if torch is None:
            raise InvalidArgumentError("tensors of torch are asked for, and nobody has imported it: import torch first")
        found = {}
        for name, output in self._outputs.items():
            if output.datatype is DATATYPES["BF16"]:
                found[name] = torch.from_numpy(output.array.view(np.int16)).view(torch.bfloat16)
            else:
                found[name] = torch.from_numpy(output.array)
        return found

    def _output(self, name: str) -> OutputTensor:
        if name in self.in_regions:
            raise KeyError(f"output {name!r} lies in shared memory: see in_regions")
        if name not in self._outputs:
            raise KeyError(f"there is no output {name!r}: there are {', '.join(self._outputs) or 'none'}")
        return self._outputs[name]

    def _bytes(self, name: str) -> Array:
        output = self._output(name)
        if output.datatype is not BYTES:
            raise InvalidArgumentError(f"output {name!r} is {output.datatype.name} and not BYTES")
        return output.array


def _own(output: OutputTensor) -> OutputTensor:
    array = output.array
    dense = array if array.flags.owndata and array.flags.writeable else np.array(array)
    return OutputTensor(output.name, output.datatype, dense)


def _score(entry: bytes) -> ClassScore:
    value, index, *label = entry.decode().split(":", 2)
    try:
        number: float | int = int(value)
    except ValueError:
        number = float(value)
    return ClassScore(number, int(index), label[0] if label else None)
