"""Sequences: one state an id, one request at a time, the version that it began with, and an end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from maas_rt.service import Repository, create_app
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._places import Places
from maas_rt.service._sequences import Sequence, Sequences
from tests import _tiny


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """The model "sum", whose sum begins at 10; every lease has ended when the test has."""
    (tmp_path / "sum.mrt").write_bytes(_tiny.accumulator())
    repository = Repository(tmp_path)
    yield repository
    assert repository.close(0), "a lease was kept"


def _step(sequence: Sequence, value: float = 1) -> float:
    x = np.full((1, 4), value, np.float32)
    return float(sequence.served.model.run({"x": x}, state=sequence.state)["y"][0, 0])


def _refused(sequences: Sequences, repository: Repository, *given: Any) -> Kind:
    with pytest.raises(ServiceError) as caught:
        sequences.take("sum", *given, repository.lease("sum"))
    return caught.value.kind


def test_a_sequence_goes_on_with_its_own_state(repository: Repository) -> None:
    sequences = Sequences()
    sums = []
    for identifier, start in ((7, True), ("7", True), (7, False), ("7", False), (7, False)):
        sequence = sequences.take("sum", identifier, start, repository.lease("sum")).result(0)
        sums.append(_step(sequence))
        sequences.give_back(sequence)
    assert sums == [11, 11, 12, 12, 13] and len(sequences) == 2
    sequences.close()


def test_it_ends_by_request_by_a_new_start_and_by_idleness(repository: Repository) -> None:
    clock = [0]
    sequences = Sequences(idle=100, now=lambda: clock[0])
    assert _refused(sequences, repository, 1, False) is Kind.BAD_REQUEST
    first = sequences.take("sum", 1, True, repository.lease("sum")).result(0)
    sequences.give_back(first, end=True)
    assert len(sequences) == 0 and _refused(sequences, repository, 1, False) is Kind.BAD_REQUEST
    for _ in range(2):
        again = sequences.take("sum", 1, True, repository.lease("sum")).result(0)
        assert _step(again) == 11
        sequences.give_back(again)
    clock[0] = 99
    sequences.expire()
    assert len(sequences) == 1
    sequence = sequences.take("sum", 1, False, repository.lease("sum")).result(0)
    clock[0] = 500
    sequences.expire()  # not while it is in use
    sequences.give_back(sequence)
    clock[0] = 599
    sequences.expire()
    assert len(sequences) == 1
    clock[0] = 600
    assert _refused(sequences, repository, 1, False) is Kind.BAD_REQUEST


def test_requests_of_one_sequence_take_turns(repository: Repository) -> None:
    sequences = Sequences(queue=3)
    first = sequences.take("sum", 1, True, repository.lease("sum")).result(0)
    others = [sequences.take("sum", 1, False, repository.lease("sum")) for _ in range(3)]
    assert _refused(sequences, repository, 1, False) is Kind.OVERLOADED
    assert not any(each.done() for each in others)
    assert others[0].cancel()  # its client went away
    sequences.give_back(first)
    assert others[1].done() and not others[2].done()
    sequences.give_back(others[1].result(0), end=True)
    with pytest.raises(ServiceError, match="sequence 1 of model 'sum' has not begun, has ended or was idle too long"):
        others[2].result(0)


def test_a_start_while_the_old_one_runs(repository: Repository) -> None:
    sequences = Sequences()
    old = sequences.take("sum", 1, True, repository.lease("sum")).result(0)
    waits = sequences.take("sum", 1, False, repository.lease("sum"))
    new = sequences.take("sum", 1, True, repository.lease("sum")).result(0)
    assert (_step(old), _step(new)) == (11, 11)
    sequences.give_back(old)
    assert _step(waits.result(0)) == 12  # it was asked of the old one
    sequences.give_back(waits.result(0))
    sequences.give_back(new)
    after = sequences.take("sum", 1, False, repository.lease("sum")).result(0)
    assert _step(after) == 12 and after is new
    sequences.close()
    sequences.give_back(after)


def test_there_is_a_most_of_sequences(repository: Repository) -> None:
    sequences = Sequences(places=Places(1))
    sequence = sequences.take("sum", 1, True, repository.lease("sum")).result(0)
    assert _refused(sequences, repository, 2, True) is Kind.OVERLOADED
    sequences.give_back(sequence)
    sequences.give_back(sequences.take("sum", 1, True, repository.lease("sum")).result(0), end=True)


def test_a_client_may_hold_an_eighth_of_them(repository: Repository) -> None:
    sequences = Sequences(places=Places(16))

    def take(identifier: int, owner: str, start: bool = True) -> Sequence:
        return sequences.take("sum", identifier, start, repository.lease("sum"), owner).result(0)

    held = [take(identifier, "a") for identifier in range(2)]
    with pytest.raises(ServiceError, match="2 sequences of this client are under way") as caught:
        take(2, "a")
    assert caught.value.kind is Kind.OVERLOADED
    again = take(1, "a")  # in the place of its own
    for sequence in (*held, again, take(2, "b"), *(take(identifier, "") for identifier in range(10))):
        sequences.give_back(sequence)
    sequences.give_back(take(0, "a", start=False), end=True)
    sequences.give_back(take(2, "a"))
    sequences.close()


def test_a_sequence_stays_on_its_version(tmp_path: Path) -> None:
    (tmp_path / "sum").mkdir()
    (tmp_path / "sum" / "1.mrt").write_bytes(_tiny.accumulator())
    repository, sequences = Repository(tmp_path), Sequences()
    sequences.give_back(sequences.take("sum", "a", True, repository.lease("sum")).result(0))
    (tmp_path / "sum" / "2.mrt").write_bytes(_tiny.accumulator())
    (tmp_path / "sum" / "1.mrt").unlink()
    assert repository.reload() == [] and repository.versions("sum") == ["2"]
    sequence = sequences.take("sum", "a", False, repository.lease("sum")).result(0)
    assert sequence.served.version == "1" and _step(sequence) == 11
    sequences.give_back(sequence, end=True)
    assert repository.close(0)


async def test_over_http(repository: Repository) -> None:
    async with TestClient(TestServer(create_app(repository))) as client:

        async def ask(value: float, **parameters: Any) -> tuple[int, Any]:
            tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}
            body = {"inputs": [tensor], "parameters": parameters}
            response = await client.post("/v2/models/sum/infer", json=body)
            answer = await response.json()
            return response.status, answer["outputs"][0]["data"][0] if response.status == 200 else answer["error"]

        assert await ask(1, sequence_id=5, sequence_start=True) == (200, 11)
        assert sorted(await asyncio.gather(*(ask(1, sequence_id=5) for _ in range(8)))) == [
            (200, 12.0 + i) for i in range(8)
        ]
        assert await ask(1) == (200, 11)
        status, error = await ask(1, sequence_id="five")
        assert status == 400 and "sequence 'five' of model 'sum' has not begun" in error
        status, error = await ask(1e39, sequence_id=5, sequence_end=True)
        assert status == 400 and "does not fit" in error
        assert await ask(1, sequence_id=5, sequence_end=True) == (200, 20)
        assert (await ask(1, sequence_id=5))[0] == 400
