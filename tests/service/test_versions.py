"""Versions, labels, the folder that they lie in, and leases: without a server and without a model."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

import maas_rt
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._layout import ModelConfig, scan
from maas_rt.service._leases import Leased
from maas_rt.service._versions import Labels, Policy, resolve, served, version_number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("all", (2, 3, 10)),
        ({"latest": 1}, (10,)),
        ({"latest": 2}, (3, 10)),
        ({"latest": 9}, (2, 3, 10)),
        ([3, 4], (3,)),
        ([4], ()),
    ],
)
def test_policies(value: Any, expected: tuple[int, ...]) -> None:
    assert Policy.read(value).select([10, 2, 3]) == expected


@pytest.mark.parametrize(
    "value", ["latest", {}, {"latest": 0}, {"latest": True}, {"newest": 1}, [], [0], ["3"], 3, None]
)
def test_policies_that_are_none(value: Any) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match='must be "all", {latest = 2} or a list of versions'):
        Policy.read(value)


@pytest.mark.parametrize("text", ["", "0", "01", "-1", "+1", "1.0", "v1", " 1", "1_0", "\u0661", "9" * 19])
def test_what_is_no_version(text: str) -> None:
    assert version_number(text) is None


def test_labels_move_and_roll_back() -> None:
    first = Labels.read({"production": 1, "canary": 2})
    moved = first.set("production", 2).set("production", 2).set("production", 3)
    assert (first.current["production"], moved.current["production"]) == (1, 3)
    assert moved.rollback().current == {"production": 2, "canary": 2}
    assert moved.rollback().rollback().current["production"] == 1
    assert moved.rollback(present=[1, 3]).current["production"] == 1  # 2 is gone
    with pytest.raises(maas_rt.InvalidArgumentError, match="'production' is on version 1, and was on no other before"):
        first.rollback()
    with pytest.raises(
        maas_rt.InvalidArgumentError, match="there is no label 'beta'; the labels are production, canary"
    ):
        first.remove("beta")
    assert first.remove("canary").current == {"production": 1}
    for number in range(1, 200):
        moved = moved.set("production", number)
    assert len(moved.before["production"]) == 32


@pytest.mark.parametrize("label", ["", "7", "7a", "a b", "a/b", "..", "a\n", "é", "a" * 64])
def test_labels_that_are_none(label: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="is no label"):
        Labels().set(label, 1)


@pytest.mark.parametrize("version", [0, -1, True, "3", 1.0, None])
def test_labels_on_what_is_no_version(version: Any) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="must be on a version"):
        Labels().set("production", version)


def test_a_version_with_a_label_is_served_whatever_the_policy() -> None:
    assert served([1, 2, 3], Policy(latest=1), Labels({"stable": 1, "gone": 9})) == (1, 3)


_LABELS = Labels({"production": 2, "canary": 10, "lost": 9})


@pytest.mark.parametrize(
    ("wanted", "labels", "expected"),
    [
        (None, Labels(), 10),
        (None, _LABELS, 2),
        ("2", Labels(), 2),
        ("canary", _LABELS, 10),
        ("3", Labels(), (Kind.NOT_READY, "version '3' of model 'm' is not ready")),
        ("4", Labels(), (Kind.NOT_FOUND, "no version '4' of model 'm'; it has 2, 3, 10")),
        ("02", Labels(), (Kind.NOT_FOUND, "no version '02' of model 'm'; it has 2, 3, 10")),
        (
            "../2",
            _LABELS,
            (Kind.NOT_FOUND, "no version '../2' of model 'm'; it has 2, 3, 10, canary, lost, production"),
        ),
        ("lost", _LABELS, (Kind.NOT_FOUND, "no version 9, labelled 'lost', of model 'm'; it has")),
        (
            None,
            Labels({"production": 3}),
            (Kind.NOT_READY, "version 3, labelled 'production', of model 'm' is not ready"),
        ),
    ],
)
def test_what_a_request_means(wanted: str | None, labels: Labels, expected: Any) -> None:
    if isinstance(expected, int):
        assert resolve("m", wanted, {2, 10}, labels, {2, 3, 10}) == expected
        return
    with pytest.raises(ServiceError) as caught:
        resolve("m", wanted, {2, 10}, labels, {2, 3, 10})
    assert caught.value.kind is expected[0]
    assert str(caught.value).startswith(expected[1])
    assert (caught.value.retry_after is not None) == (expected[0] is Kind.NOT_READY)


def test_a_model_of_which_nothing_is_ready() -> None:
    with pytest.raises(ServiceError, match="no version of model 'm' is ready") as caught:
        resolve("m", None, (), Labels())
    assert caught.value.kind is Kind.NOT_READY


# ---- the folder -----------------------------------------------------------------------------------------------------


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_of_every_layout(tmp_path: Path) -> None:
    _touch(
        tmp_path, "a/2/model.mrt", "a/10/model.mrt", "a/10/labels.txt", "a/config.toml", "b/3.mrt", "c.mrt", "README.md"
    )
    _touch(tmp_path, ".git/1/model.mrt", "a/.copying/model.mrt", ".hidden.mrt", "a/README.md")
    contents = scan(tmp_path)
    assert {name: list(versions) for name, versions in contents.models.items()} == {"a": [2, 10], "b": [3], "c": [1]}
    assert contents.models["a"][10] == tmp_path / "a/10/model.mrt"
    assert contents.configs == {"a": tmp_path / "a/config.toml"}
    assert contents.surplus == ()


def test_junk_is_told_and_keeps_nothing_from_being_found(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1/model.mrt", "a/v2/model.mrt", "a/02/model.mrt", "a/3/weights.bin", "a/old.mrt", "x\ny.mrt")
    _touch(tmp_path, "b/1/model.mrt", "b/1.mrt", "b.mrt", "b/2.mrt")
    contents = scan(tmp_path)
    assert {name: list(versions) for name, versions in contents.models.items()} == {"a": [1], "b": [2]}
    told = {str(each.path.relative_to(tmp_path)): each.reason for each in contents.surplus}
    assert told.keys() == {"a/v2", "a/02", "a/3", "a/old.mrt", "x\ny.mrt", "b/1/model.mrt", "b/1.mrt", "b.mrt"}
    for name in ("a/v2", "a/02", "a/old.mrt"):
        assert told[name] == "its name is no version, a number from 1 on without leading zeros"
    assert told["a/3"] == "the folder holds no file model.mrt"
    assert told["x\ny.mrt"].startswith("'x\\ny' cannot be a model's name")
    assert told["b.mrt"].startswith("version 1 of model 'b' is ") and told["b.mrt"].endswith("too: remove one")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1/model.mrt", "a/2/model.mrt", "b/1/model.mrt")
    (tmp_path / "a/1").chmod(0)
    (tmp_path / "b").chmod(0)
    try:
        contents = scan(tmp_path)
    finally:
        (tmp_path / "a/1").chmod(0o700)
        (tmp_path / "b").chmod(0o700)
    assert {name: list(versions) for name, versions in contents.models.items()} == {"a": [2]}
    assert {each.reason for each in contents.surplus} == {"the folder cannot be read: Permission denied"}


def test_a_kubernetes_config_map(tmp_path: Path) -> None:
    _touch(tmp_path, "..2024/digits.mrt")
    os.symlink("..2024", tmp_path / "..data")
    os.symlink("..data/digits.mrt", tmp_path / "digits.mrt")
    assert scan(tmp_path).models == {"digits": {1: tmp_path / "digits.mrt"}}


def test_a_folder_that_is_gone_is_an_error_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "gone")


def test_configs() -> None:
    config = ModelConfig.read({"versions": {"latest": 2}, "labels": {"canary": 3}})
    assert (config.policy, config.labels.current) == (Policy(latest=2), {"canary": 3})
    assert ModelConfig.read({}) == ModelConfig()
    with pytest.raises(
        maas_rt.InvalidArgumentError, match="has version, which is none of: dynamic_batching, .*versions"
    ):
        ModelConfig.read({"version": 1})
    with pytest.raises(maas_rt.InvalidArgumentError, match="must be a table of versions"):
        ModelConfig.read({"labels": 3})


# ---- leases ---------------------------------------------------------------------------------------------------------


def test_the_last_lease_closes_what_was_retired() -> None:
    closed: list[str] = []
    leased = Leased("model", closed.append)
    first, second = leased.lease(), leased.lease()
    assert first is not None and second is not None
    leased.retire()
    leased.retire()
    assert leased.lease() is None and closed == [] and leased.users == 2
    first.end()
    first.end()
    assert closed == [] and not leased.wait_closed(0)
    with second as value:
        assert value == "model" and closed == []
    assert closed == ["model"] and leased.wait_closed(0)


def test_what_nobody_uses_is_closed_when_it_is_retired() -> None:
    closed: list[int] = []
    leased = Leased(7, closed.append)
    with leased.lease():  # type: ignore[union-attr]
        pass
    assert closed == []
    leased.retire()
    assert closed == [7]


def test_many_threads_and_one_end() -> None:
    closed: list[int] = []
    leased = Leased(7, closed.append)
    begin = threading.Barrier(9)
    used_after_the_end: list[bool] = []

    def use() -> None:
        begin.wait()
        while (lease := leased.lease()) is not None:
            used_after_the_end.append(bool(closed))
            threads = [threading.Thread(target=lease.end) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    users = [threading.Thread(target=use) for _ in range(8)]
    for thread in users:
        thread.start()
    begin.wait()
    leased.retire()
    assert leased.wait_closed(20)
    for thread in users:
        thread.join()
    assert closed == [7] and not any(used_after_the_end) and leased.users == 0


def test_a_close_that_fails_is_an_end_too() -> None:
    def fail(value: int) -> None:
        raise ValueError(value)

    leased = Leased(7, fail)
    with pytest.raises(ValueError):
        leased.retire()
    assert leased.wait_closed(0)


def test_the_config_that_the_docs_show() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has tomllib")
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    found = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    configs = [ModelConfig.read(table) for table in found if "issuer" not in table]
    assert configs[0].labels.current == {"production": 3, "canary": 4} and configs[0].warmup.shapes == (
        {"x": (1, 64)},
        {"x": (16, 64)},
    )
    graph = configs[1].pipeline
    assert graph is not None and graph.inputs == ("text",) and [step.name for step in graph.steps] == ["embed", "head"]
    assert len(configs) == 3 and configs[2].cache == 64 << 20
