"""Tensors in regions of system shared memory: written and read here, and told to the server by their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .._errors import InvalidArgumentError
from ..service._datatypes import DATATYPES, Array
from ..service._errors import ServiceError
from ..service._requests import InputTensor, OutputTensor, SharedMemory
from ..service._tensors import check_shape, read_binary, write_binary
from ._arrays import as_array, as_read


@dataclass(frozen=True)
class InRegion:
    """A tensor in a region that was registered (Client.register_region), instead of its data.

    `put` makes one for an input. For an output `region`, `size` and `offset` say where there is room for it, and the result's `in_regions`
    where it lies then, with `datatype` and `shape`.

    Args:
        region: the name by which it was registered.
        size: in bytes.
        offset: in bytes, from the region's begin.
        datatype, shape: the protocol's.
    """

    region: str
    size: int
    offset: int = 0
    datatype: str = ""
    shape: tuple[int, ...] = ()

    @classmethod
    def put(cls, region: str, buffer: Any, value: object, offset: int = 0) -> InRegion:
        """Copies a tensor into a region.

        Args:
            buffer: the region's memory, from its first byte on, as SharedMemory.buf.
            value: as Client.infer takes it.
            offset: in bytes, from the region's begin.

        Raises:
            InvalidArgumentError: it does not fit, or is no tensor.
        """
        what = f"the tensor for region {region!r}"
        array, datatype = as_array(value, what)
        data = write_binary(array, datatype)
        _part(buffer, offset, len(data), what, is_written=True)[:] = data
        return cls(region, len(data), offset, datatype.name, array.shape)

    def array(self, buffer: Any) -> Array:
        """The tensor: a view of the region's memory; of BYTES, a copy.

        Args:
            buffer: as that of `put`.

        Raises:
            InvalidArgumentError: it is not there.
        """
        what = f"the tensor in region {self.region!r}"
        data = _part(buffer, self.offset, self.size, what)
        try:
            tensor = self.input_tensor(what)
            check_shape(tensor.shape, tensor.datatype, what)
            return as_read(read_binary(data, tensor.datatype, tensor.shape, what), tensor.datatype)
        except ServiceError as error:
            raise InvalidArgumentError(str(error)) from None

    @classmethod
    def of(cls, output: OutputTensor) -> InRegion:
        """Where an output lies."""
        place = output.shared_memory
        assert place is not None
        return cls(place.region, place.size, place.offset, output.datatype.name, output.array.shape)

    @property
    def place(self) -> SharedMemory:
        """As a request tells it."""
        return SharedMemory(self.region, self.size, self.offset)

    def input_tensor(self, name: str) -> InputTensor:
        """As a request tells it of an input. Raises InvalidArgumentError without a datatype."""
        if self.datatype not in DATATYPES:
            raise InvalidArgumentError(
                f"{name!r} is in region {self.region!r} as {self.datatype!r}: its datatype must be one of {', '.join(DATATYPES)}"
            )
        return InputTensor(name, DATATYPES[self.datatype], self.shape, self.place)


Outputs = Iterable[str] | Mapping[str, InRegion | None] | None


def _part(buffer: Any, offset: int, size: int, what: str, is_written: bool = False) -> memoryview:
    try:
        memory = memoryview(buffer).cast("B")
    except TypeError:
        raise InvalidArgumentError(
            f"{what}: the buffer is a {type(buffer).__name__}, and no contiguous memory"
        ) from None
    if is_written and memory.readonly:
        raise InvalidArgumentError(f"{what} cannot be written: the buffer is read-only")
    if not 0 <= offset <= offset + size <= len(memory):
        raise InvalidArgumentError(f"{what} has bytes {offset} to {offset + size}, and the buffer has {len(memory)}")
    return memory[offset : offset + size]
