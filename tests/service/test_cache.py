"""The cache of answers: what is the same request, how much is kept, who has none, and what is counted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_rt import InvalidArgumentError
from maas_rt.service import Repository
from maas_rt.service._cache import ResponseCache
from maas_rt.service._config import ModelConfig
from tests import _tiny
from tests.service._serving import serving
from tests.service._versions import times
from tests.service.test_repository import _put

CACHE = "[response_cache]\nenable = true\n"


def test_what_is_another_request() -> None:
    x = np.array([[0, 1], [2, 3]], np.float32)
    different: list[dict[str, Any]] = [
        {"x": x},
        {"y": x},
        {"x": x.reshape(4, 1)},
        {"x": x.view(np.int32)},
        {"x": x * np.float32(-1) + 0},
        {"x": x.view(np.uint8)},
        {"x": np.array([[-0.0, 1], [2, 3]], np.float32)},
        {"x": np.array([[np.nan, 1], [2, 3]], np.float32)},
        {"x": x.T},
        {"x": x[:1], "y": x[1:]},
        {"x": x[:1], "y1": x[1:]},
        {"x": x[:0]},
        {"x": x.reshape(2, 1, 2)[:, :, :0]},
        {},
    ]
    keys = [ResponseCache.key(each) for each in different]
    assert all(one != other for one, other in itertools.combinations(keys, 2))
    strided = np.zeros((2, 4), np.float32)[:, ::2]
    strided[:] = x
    assert ResponseCache.key({"x": strided}) == keys[0] == ResponseCache.key({"x": x.copy()})
    assert ResponseCache.key({"b": x, "a": x}) == ResponseCache.key({"a": x, "b": x})
    nan = {"x": np.full((2, 2), np.nan, np.float32)}
    assert ResponseCache.key(nan) == ResponseCache.key({"x": nan["x"].copy()})


def test_what_is_used_least_recently_goes_first() -> None:
    cache = ResponseCache(3 * (512 + 1000))
    whole = np.arange(4000, dtype=np.uint8).reshape(4, 1000)
    for number in range(3):
        cache.put(b"%d" % number, {"y": whole[number]})
    assert cache.held == 3 * 1512
    whole[:] = 0
    found = cache.get(b"0")
    assert found is not None and found["y"][1] == 1  # a copy, and not part of a batch
    with pytest.raises(ValueError, match="read-only"):
        found["y"][0] = 1
    cache.put(b"3", {"y": whole[3]})
    assert [cache.get(b"%d" % number) is not None for number in range(4)] == [True, False, True, True]
    cache.put(b"3", {"y": whole[3][:500]})  # two that were asked at once
    assert cache.held == 2 * 1512 + 1012
    cache.put(b"4", {"y": np.zeros(10_000, np.uint8)})  # more than all of it: what is kept stays
    assert cache.get(b"4") is None and cache.get(b"0") is not None


@pytest.mark.parametrize("table", [1, {"enable": 1}, {"enable": True, "size_mib": 0}, {"size": 1}])
def test_caches_that_are_none(table: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="response_cache|enable is 1|size_mib is 0"):
        ModelConfig.read({"response_cache": table})
    assert ModelConfig.read({"response_cache": {"size_mib": 2}}).cache == 0
    assert ModelConfig.read({"response_cache": {"size_mib": 2, "enable": True}}).cache == 2 << 20


@pytest.mark.parametrize(
    ("data", "why"), [(_tiny.accumulator(), "keeps states"), (_tiny.noise(), "draws random numbers")]
)
def test_models_that_need_not_answer_the_same_again(tmp_path: Path, data: bytes, why: str) -> None:
    _put(tmp_path / "m.mrt", data)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.toml").write_text(CACHE)
    with pytest.raises(InvalidArgumentError, match=f"response_cache is enabled, and the model {why}"):
        Repository(tmp_path)


async def test_a_request_that_was_answered_before(tmp_path: Path) -> None:
    path = _put(tmp_path / "m" / "1" / "model.mrt", times(2, rows="n"))
    (path.parents[1] / "config.toml").write_text(CACHE)

    def body(*rows: float) -> dict[str, Any]:
        return {
            "inputs": [
                {"name": "x", "shape": [len(rows), 4], "datatype": "FP32", "data": [x for x in rows for _ in range(4)]}
            ]
        }

    async with serving(tmp_path) as server:

        async def ask(*rows: float, **more: Any) -> Any:
            status, found, _ = await server.ask("POST", "/v2/models/m/infer", json={**body(*rows), **more})
            assert status == 200, found
            return found

        first = await ask(1.5, id="one")
        second = await ask(1.5, id="two")
        assert first["id"] == "one" and second["id"] == "two" and first["outputs"] == second["outputs"]
        highest = await ask(1.5, outputs=[{"name": "y", "parameters": {"classification": 1}}])
        assert highest["outputs"][0]["datatype"] == "BYTES" and highest["outputs"][0]["data"][0].startswith("3")
        assert (await ask(1, 2))["outputs"][0]["data"] == [2.0] * 4 + [4.0] * 4
        _, found, _ = await server.ask("GET", "/v2/models/m/stats")
        (told,) = found["model_stats"]
        counts = {name: each["count"] for name, each in told["inference_stats"].items()}
        assert (counts["success"], counts["cache_hit"], counts["cache_miss"], counts["compute_infer"]) == (4, 2, 2, 2)
        assert told["execution_count"] == 2 and told["inference_stats"]["cache_hit"]["ns"] > 0
        _, found, _ = await server.ask("GET", "/v2/models/m/config")
        assert found["response_cache"] == {"enable": True}
        async with server.session.get("/metrics") as response:
            text = await response.text()
        for line in ("cache_hits_total", "cache_misses_total"):
            assert f'maas_rt_{line}{{model="m",version="1"}} 2\n' in text
        assert 'maas_rt_cache_bytes{model="m",version="1"} 1' in text  # two entries: 1,024 bytes and some
        _put(path, times(5, rows="n"))  # another version under the same number
        assert server.core.repository.reload() == []
        assert (await ask(1.5))["outputs"][0]["data"] == [7.5] * 4
