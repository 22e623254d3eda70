"""maas_rt.client and tensors in shared memory: both clients, inputs and outputs in regions, and what may be wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest

from maas_rt import InvalidArgumentError
from maas_rt import client as api
from maas_rt.client import Client, InRegion
from maas_rt.client._calls import Answer, infer
from maas_rt.service._datatypes import DATATYPES
from tests import _tiny
from tests.service._serving import Served, fill, serving_beside
from tests.service.test_client import BOTH, EXPECTED, ROWS

if not os.access("/dev/shm", os.W_OK):
    pytest.skip("needs /dev/shm, where Linux keeps POSIX shared memory", allow_module_level=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = fill(tmp_path_factory.mktemp("models"), two=_tiny.two_outputs())
    with serving_beside(models, shared_memory=True) as server:
        yield server


@pytest.fixture
def url(server: Served) -> Iterator[str]:
    url = f"http://127.0.0.1:{server.port}"
    yield url
    with Client(url) as client:
        client.unregister_regions()


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory(create=True, size=4096)
    yield memory
    memory.unlink()
    memory.close()


@BOTH
@pytest.mark.parametrize("json", [False, True])
def test_inputs_and_outputs(kind: Any, url: str, memory: SharedMemory, json: bool) -> None:
    with kind(url) as client:
        client.register_region("mine", memory.name, 2048, 1024)
        there = {"name": "mine", "key": memory.name, "offset": 1024, "byte_size": 2048, "unlinked": False}
        assert client.regions() == client.regions("mine") == [there]
        part = memory.buf[1024:3072]
        x = InRegion.put("mine", part, ROWS, offset=4)
        assert x == InRegion("mine", ROWS.nbytes, 4, "FP32", ROWS.shape)
        np.testing.assert_array_equal(x.array(part), ROWS)
        y = client.infer("mlp", {"x": x}, json=json)["y"]  # the one there, the other in the answer
        np.testing.assert_allclose(y, EXPECTED, rtol=1e-4, atol=1e-5)
        for given in (x, ROWS):
            memory.buf[3072:] = part[1024:] = bytes(1024)
            result = client.infer("mlp", {"x": given}, outputs={"y": InRegion("mine", 1000, 1024)}, json=json)
            assert list(result) == []
            place = result.in_regions["y"]
            assert place == InRegion("mine", EXPECTED.nbytes, 1024, "FP32", EXPECTED.shape)
            np.testing.assert_array_equal(place.array(part), y)
            with pytest.raises(KeyError, match="lies in shared memory: see in_regions"):
                result["y"]
        part.release()
        client.unregister_regions("mine")
        client.unregister_regions("mine")
        with pytest.raises(api.NotFoundError, match="registered no region 'mine'"):
            client.regions("mine")
        with pytest.raises(api.NotFoundError, match="registered no region 'mine'"):
            client.infer("mlp", {"x": x})
        client.register_region("a", memory.name, 64)
        client.register_region("b", memory.name, 64)
        client.unregister_regions()
        assert client.regions() == []


@BOTH
def test_some_outputs_there_and_others_not(kind: Any, url: str, memory: SharedMemory) -> None:
    inputs = {"a": np.arange(1, 7, dtype=np.float32).reshape(2, 3), "b": np.arange(1, 7).reshape(2, 3)}
    with kind(url) as client:
        client.register_region("mine", memory.name, 4096)
        plain = client.infer("two", inputs)
        result = client.infer("two", inputs, outputs={"bt": InRegion("mine", 512), "aa": None})
        np.testing.assert_array_equal(result["aa"], plain["aa"])
        assert list(result) == ["aa"]
        np.testing.assert_array_equal(result.in_regions["bt"].array(memory.buf), plain["bt"])


@BOTH
def test_strings(kind: Any, url: str, memory: SharedMemory) -> None:
    with kind(url) as client:
        client.register_region("mine", memory.name, 4096)
        a = InRegion.put("mine", memory.buf, [["one", "zwölf"]])
        b = InRegion.put("mine", memory.buf, np.array([["", "123456"]]), offset=a.size)
        place = client.infer("strings", {"a": a, "b": b}, outputs={"y": InRegion("mine", 512, 512)}).in_regions["y"]
        assert [[each.decode() for each in row] for row in place.array(memory.buf)] == [
            ["one", "zwölf"],
            ["", "123456"],
        ]


@BOTH
def test_what_the_server_refuses(kind: Any, url: str, memory: SharedMemory) -> None:
    with kind(url, retry=None) as client:
        client.register_region("mine", memory.name, 64)
        with pytest.raises(api.BadRequestError, match="is registered already"):
            client.register_region("mine", memory.name, 64)
        with pytest.raises(api.BadRequestError, match='"key" is'):
            client.register_region("other", "../../etc/passwd", 64)
        with pytest.raises(api.NotFoundError, match="is not there"):
            client.register_region("other", "maas-rt-test-none", 64)
        with pytest.raises(api.BadRequestError, match="ends at byte 128 of region 'mine', which has 64"):
            client.infer("mlp", {"x": InRegion("mine", 128, 0, "FP32", (2, 16))})
        with pytest.raises(api.BadRequestError, match='output .y. has .* bytes, and "shared_memory_byte_size" is 8'):
            client.infer("mlp", {"x": ROWS}, outputs={"y": InRegion("mine", 8)})


def test_every_datatype(memory: SharedMemory) -> None:
    for number, (name, datatype) in enumerate(DATATYPES.items()):
        if name not in ("BYTES", "BF16"):
            value = np.arange(4).astype(datatype.dtype).reshape(2, 2)
            place = InRegion.put("r", memory.buf, value, offset=number)  # wherever it lies
            assert (place.datatype, place.size, place.shape) == (name, value.nbytes, (2, 2))
            np.testing.assert_array_equal(place.array(memory.buf), value)
    place = InRegion("r", 4, 1, "BF16", (2,))
    memory.buf[1:5] = bytes((0x80, 0x3F, 0x20, 0xC0))
    assert place.array(memory.buf).astype(np.float32).tolist() == [1.0, -2.5]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (InRegion("r", 64, 0, "FP32", (2, 16)), "has 64 bytes of data, and FP32 of shape"),
        (InRegion("r", 64, 4090, "FP32", (16,)), "has bytes 4090 to 4154, and the buffer has 4096"),
        (InRegion("r", 64, -1, "FP32", (16,)), "has bytes -1 to 63"),
        (InRegion("r", -8, 16, "FP32", (16,)), "has bytes 16 to 8"),
        (InRegion("r", 64), "its datatype must be one of"),
        (InRegion("r", 64, 0, "FP33", (16,)), "its datatype must be one of"),
        (InRegion("r", 0, 0, "FP32", (2**62, 0)), "beyond any tensor's"),
        (InRegion("r", 8, 0, "BYTES", (2**40,)), "too few for"),
    ],
)
def test_places_that_hold_no_tensor(memory: SharedMemory, place: InRegion, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        place.array(memory.buf)


def test_tensors_that_find_no_place(memory: SharedMemory) -> None:
    for buffer, offset, sentence in (
        (memory.buf, 4000, "has bytes 4000 to 4128, and the buffer has 4096"),
        (memory.buf, -1, "has bytes -1 to"),
        (bytes(4096), 0, "the buffer is read-only"),
        (np.zeros((64, 64), np.uint8).T, 0, "no contiguous memory"),
        (3, 0, "the buffer is a int"),
    ):
        with pytest.raises(InvalidArgumentError, match=sentence):
            InRegion.put("r", buffer, ROWS, offset)
    with pytest.raises(InvalidArgumentError, match="give an array"):
        InRegion.put("r", memory.buf, 3)
    assert bytes(memory.buf) == bytes(4096)


def test_arguments_that_are_wrong() -> None:
    client = Client("http://127.0.0.1:9")
    with pytest.raises(InvalidArgumentError, match="output 'y' is to go to a str: give an InRegion"):
        client.infer("m", {}, outputs={"y": "mine"})  # type: ignore[dict-item]
    with pytest.raises(InvalidArgumentError, match="its datatype must be one of"):
        client.infer("m", {"x": InRegion("mine", 64)})
    with pytest.raises(InvalidArgumentError, match="the region is '..' and must be a name"):
        client.register_region("..", "k", 8)


def test_an_answer_whose_outputs_lie_nowhere() -> None:
    """Of a server that says so in a wrong way."""
    call = infer(
        "m", {}, outputs=None, classes=None, version=None, id=None, parameters=None, as_json=True, left=1, packing=None
    )
    for parameters, sentence in (
        (b'{"shared_memory_region": 3, "shared_memory_byte_size": 4}', "shared memory is told by"),
        (b'{"shared_memory_region": "r", "shared_memory_byte_size": -4}', "shared memory is told by"),
        (b'{"shared_memory_region": "r"}', "shared memory is told by"),
    ):
        output = b'{"name": "y", "datatype": "FP32", "shape": [1], "parameters": %s}' % parameters
        with pytest.raises(api.InvalidAnswerError, match=sentence):
            call.read(Answer(200, "OK", {}, b'{"outputs": [%s]}' % output))
