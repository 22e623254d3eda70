"""`maas-rt repo`: versions that are added, labelled and removed, alone, at once, on a full disk, and under a server's eyes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from maas_rt import Error, FormatError, InvalidArgumentError
from maas_rt._cli import main
from maas_rt.service import Repository
from maas_rt.service._compatible import Interface, differences
from maas_rt.service._errors import ServiceError
from maas_rt.service._store import Store
from maas_rt.service._watch import Settling
from tests.service._serving import serving
from tests.service._versions import times
from tests.service.test_repository import _ask, _put


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "models").mkdir()
    return Store(tmp_path / "models")


def _file(tmp_path: Path, factor: float = 1, **options: Any) -> Path:
    path = tmp_path / "new.mrt"
    path.write_bytes(times(factor, **options))
    return path


def _all_names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_versions_are_added_one_after_the_other(tmp_path: Path, store: Store) -> None:
    for factor in (1, 2):
        added = store.add("m", _file(tmp_path, factor), note="trained on Monday", now=factor)
        assert (added.version, added.added, added.source, added.note) == (
            factor,
            factor,
            "new.mrt",
            "trained on Monday",
        )
    assert store.add("m", _file(tmp_path, 9), version=9).version == 9
    assert store.add("m", _file(tmp_path, 10), labels=["production", "best"]).labels == ("best", "production")
    with pytest.raises(InvalidArgumentError, match="version 9 of model 'm' is there"):
        store.add("m", _file(tmp_path), version=9)
    found = store.versions("m")
    assert [each.version for each in found] == [1, 2, 9, 10]
    assert all(each.manifest and each.manifest["name"] == "times" and not each.problem for each in found)
    assert not [name for name in _all_names(tmp_path / "models") if "/." in name]
    repository = Repository(tmp_path / "models")
    assert _ask(repository) == ("10", 10.0) and _ask(repository, "9") == ("9", 9.0)


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a\0", "a\nb", "x" * 201])
def test_names_that_are_none(tmp_path: Path, store: Store, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be a model's name"):
        store.add(name, _file(tmp_path))
    assert _all_names(tmp_path / "models") == []


def test_a_damaged_file_is_not_added(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "bad.mrt"
    good = times(1)
    for data in (b"", b"junk", good[:-100], good[:-2] + bytes([good[-2] ^ 1, good[-1]])):
        path.write_bytes(data)
        for force in (False, True):
            with pytest.raises(FormatError, match="bad.mrt"):
                store.add("m", path, force=force)
    with pytest.raises(Error, match="No such file"):
        store.add("m", tmp_path / "none.mrt")
    assert _all_names(tmp_path / "models") == []


def test_a_file_that_changes_after_it_was_added_is_told(tmp_path: Path, store: Store) -> None:
    path = store.add("m", _file(tmp_path)).path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # a weight, which listing alone does not read
    path.write_bytes(data)
    assert not store.versions("m")[0].problem
    assert "it has changed since" in store.versions("m", check=True)[0].problem
    path.write_bytes(data[:-1])
    assert "truncated or damaged" in store.versions()[0].problem or "changed" in store.versions()[0].problem


OLD = Interface.of_manifest(
    {
        "inputs": [
            {"name": "x", "dtype": "float32", "shape": ["n", 8, "s"]},
            {"name": "m", "dtype": "int64", "shape": ["k"]},
        ],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["n", 3]}],
        "symbols": {
            "n": {"min": 1, "max": 16},
            "s": {"min": 8, "max": None, "multiple": 8},
            "k": {"min": 1, "max": 16},
        },
    }
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        (
            {
                "symbols": {
                    "n": {"min": 1, "max": 32},
                    "s": {"min": 4, "max": None, "multiple": 4},
                    "k": {"min": 0, "max": 16},
                }
            },
            None,
        ),
        ({"outputs": [("y", "float32", [7, 3]), ("z", "int8", [])]}, None),
        ({"symbols": {"n": {"min": 1, "max": 8}}}, "dimension 0 of input 'x' is n (1..8) and was n (1..16)"),
        (
            {"symbols": {"s": {"min": 8, "max": None, "multiple": 16}}},
            "a multiple of 16) and was s (8.., a multiple of 8)",
        ),
        ({"symbols": {"s": {"min": 8, "max": 512, "multiple": 8}}}, "dimension 2 of input 'x' is s (8..512"),
        ({"inputs": [("x", "float32", ["n", 8, "s"])]}, "input 'm' is gone"),
        ({"inputs": [("x", "float32", ["n", 8, "s"]), ("m", "int64", ["k"]), ("o", "int64", [])]}, "input 'o' is new"),
        ({"inputs": [("x", "float16", ["n", 8, "s"]), ("m", "int64", ["k"])]}, "input 'x' is float16 and was float32"),
        ({"inputs": [("x", "float32", ["n", 8]), ("m", "int64", ["k"])]}, "input 'x' has 2 dimensions and had 3"),
        (
            {"inputs": [("x", "float32", ["n", 9, "s"]), ("m", "int64", ["k"])]},
            "dimension 1 of input 'x' is 9 and was 8",
        ),
        (
            {"inputs": [("x", "float32", ["n", 8, "s"]), ("m", "int64", ["n"])]},
            "must be dimension 0 of 'x', and was another",
        ),
        ({"outputs": [("z", "float32", ["n", 3])]}, "output 'y' is gone"),
        ({"outputs": [("y", "float32", ["n", 4])]}, "dimension 1 of output 'y' is 4 and was 3"),
        (
            {"outputs": [("y", "float32", ["n", "s"])]},
            "dimension 1 of output 'y' is s (8.., a multiple of 8) and was 3",
        ),
        ({"outputs": [("y", "float64", ["n", 3])]}, "output 'y' is float64 and was float32"),
        ({"source": {"strings": ["m"]}}, "input 'm' is string and was int64"),
    ],
)
def test_what_takes_the_place_of_what(change: dict[str, Any], told: str | None) -> None:
    manifest: dict[str, Any] = {
        "inputs": [("x", "float32", ["n", 8, "s"]), ("m", "int64", ["k"])],
        "outputs": [("y", "float32", ["n", 3])],
        **change,
    }
    symbols = {"n": {"min": 1, "max": 16}, "s": {"min": 8, "max": None, "multiple": 8}, "k": {"min": 1, "max": 16}}
    manifest["symbols"] = {**symbols, **change.get("symbols", {})}
    for field in ("inputs", "outputs"):
        manifest[field] = [dict(zip(("name", "dtype", "shape"), each)) for each in manifest[field]]
    found = differences(OLD, Interface.of_manifest(manifest))
    assert (found == []) if told is None else (told in "; ".join(found))


def test_a_version_that_cannot_answer_what_production_is_asked(tmp_path: Path, store: Store) -> None:
    store.add("m", _file(tmp_path, 1, rows="n", most=8), labels=["production"])
    store.add("m", _file(tmp_path, 2, rows="n", most=16))
    narrow = _file(tmp_path, 3, rows="n", most=4)
    with pytest.raises(
        InvalidArgumentError, match=r"place of version 1 of model 'm': dimension 0 of input 'x' is n \(1..4\)"
    ):
        store.add("m", narrow)
    assert [each.version for each in store.versions("m")] == [1, 2]
    store.set_label("m", "production", 2)
    with pytest.raises(InvalidArgumentError, match=r"and was n \(1..16\)"):
        store.add("m", _file(tmp_path, 3, rows="n", most=8))
    assert store.add("m", narrow, force=True).version == 3


def test_labels_and_rollback(tmp_path: Path, store: Store) -> None:
    for factor in (1, 2, 3):
        store.add("m", _file(tmp_path, factor))
    for version in (1, 2, 3):
        store.set_label("m", "production", version)
    assert store.rollback("m").current == {"production": 2}
    assert store.rollback("m").current == {"production": 1}
    with pytest.raises(InvalidArgumentError, match="was on no other before"):
        store.rollback("m")
    with pytest.raises(InvalidArgumentError, match="no version 4 of model 'm'; it has 1, 2, 3"):
        store.set_label("m", "production", 4)
    with pytest.raises(InvalidArgumentError, match="no model 'n'"):
        store.set_label("n", "production", 1)
    assert store.remove_label("m", "production").current == {}


def test_of_config_and_command_the_last_change_wins(tmp_path: Path, store: Store) -> None:
    for factor in (1, 2, 3):
        store.add("m", _file(tmp_path, factor))
    config = tmp_path / "models" / "m" / "config.toml"
    config.write_text("[labels]\nproduction = 1\nstaging = 3\n")
    assert store.labels("m").current == {"production": 1, "staging": 3}
    store.set_label("m", "production", 2)
    assert store.labels("m").current == {"production": 2, "staging": 3}
    config.write_text("[labels]\nproduction = 3\n")  # staging is gone, too
    assert store.labels("m").current == {"production": 3}
    assert store.rollback("m").current == {"production": 2}
    assert config.read_text() == "[labels]\nproduction = 3\n"
    assert _ask(Repository(tmp_path / "models")) == ("2", 2.0)


def test_what_is_removed_and_what_is_kept(tmp_path: Path, store: Store) -> None:
    root = tmp_path / "models"
    for factor in (1, 2, 3, 4, 5):
        store.add("m", _file(tmp_path, factor))
    store.set_label("m", "production", 1)
    store.set_label("m", "production", 2)
    with pytest.raises(InvalidArgumentError, match="version 2 of model 'm' is labelled production"):
        store.remove("m", [3, 2])
    assert store.remove("m", [3], dry_run=True) == [root / "m" / "3"] and (root / "m" / "3").is_dir()
    assert store.gc() == []  # the policy is all
    (root / "m" / "config.toml").write_text("versions = {latest = 1}\n")
    gone = [root / "m" / "3", root / "m" / "4"]  # 1 is what a rollback goes to
    assert store.gc(dry_run=True) == gone and store.gc("m") == gone and store.gc() == []
    assert [each.version for each in store.versions()] == [1, 2, 5]
    assert store.remove("m", [1]) == [root / "m" / "1"]
    store.remove_label("m", "production")
    assert store.remove("m", [2, 5]) == [root / "m" / "2", root / "m" / "5"]
    assert store.names() == [] and _all_names(root) == ["m", "m/config.toml", "m/labels.json"]


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path, store: Store) -> None:
    elsewhere = _put(tmp_path / "elsewhere" / "model.mrt", times(1))
    _put(tmp_path / "models" / "alone.mrt", times(1))
    (tmp_path / "models" / "m").mkdir()
    (tmp_path / "models" / "m" / "1").symlink_to(elsewhere.parent)
    store.remove("m", [1]), store.remove("alone", [1])
    assert elsewhere.is_file() and _all_names(tmp_path / "models") == []


def test_a_full_disk_and_a_kill_leave_nothing_half_written(tmp_path: Path, store: Store) -> None:
    file = _file(tmp_path, 1, width=256)
    arguments = [sys.executable, "-m", "maas_rt", "repo", "add", str(tmp_path / "models"), "m", str(file)]

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # writes fail as on a full disk

    found = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=bounded)
    assert found.returncode == 1 and "could not be written: File too large; nothing was added" in found.stderr
    assert _all_names(tmp_path / "models") == []

    pipe = tmp_path / "slow.mrt"  # the copy waits for more
    os.mkfifo(pipe)
    command = subprocess.Popen([*arguments[:-1], str(pipe), "--force"])
    with open(pipe, "wb", buffering=0) as slow:
        slow.write(file.read_bytes()[:50_000])
        while not list((tmp_path / "models").glob("m/.*/model.mrt")):
            time.sleep(0.01)
        assert store.names() == [] and Store(tmp_path / "models").add("m", file).version == 1
        assert store.gc() == []  # somebody is at it
        command.send_signal(signal.SIGKILL)
        command.wait()
    (left,) = store.gc(dry_run=True)
    assert left.is_dir() and store.gc() == [left] and not left.exists()


def test_many_at_once(tmp_path: Path, store: Store) -> None:
    file, errors = _file(tmp_path), []

    def add(number: int) -> None:
        try:
            added = store.add("m", file)
            store.set_label("m", f"l{number}", added.version)
            store.set_label("m", "production", added.version)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = store.labels("m")
    assert errors == [] and [each.version for each in store.versions("m")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sorted(labels.current[f"l{number}"] for number in range(8)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len({labels.current["production"], *labels.before["production"]}) == 8  # no change was lost


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "models"
    root.mkdir()
    source = {"framework": "torch", "framework_version": "2.13.0"}
    verified = {"status": "passed", "max_relative_error": 1.5e-7}
    file = str(_file(tmp_path, 1, source=source, verified=verified))

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["repo", arguments[0], str(root), *arguments[1:]])
        return status, *capsys.readouterr()

    assert run("list")[1] == "no versions\n"
    assert run("add", "m", file, "--label", "production", "--note", "the first")[1].startswith(
        "added m, version 1, labelled production"
    )
    status, printed, _ = run("add", "m", file, "--json")
    assert status == 0 and json.loads(printed)["version"] == 2 and json.loads(printed)["labels"] == []
    lines = run("list")[1].splitlines()
    assert lines[0].split() == ["model", "version", "labels", "size", "sha256", "verified", "from", "added"]
    assert "passed, error 1.5e-07" in lines[1] and "torch 2.13.0, new.mrt" in lines[1] and "m 1: the first" in lines
    assert run("label", "m", "production", "2")[1] == "production of m is on version 2\n"
    assert json.loads(run("rollback", "m", "--json")[1]) == {"production": 1}
    assert run("label", "m", "production", "--remove")[1] == "production of m is gone\n"
    status, _, printed = run("label", "m", "production")
    assert (
        status == 1 and printed == "maas-rt repo: error: repo label takes a version to put the label on, or --remove\n"
    )
    assert run("remove", "m", "1", "--dry-run")[1] == f"would remove {root}/m/1\n"
    assert run("gc", "--keep", "1")[1] == f"removed {root}/m/1\n"
    facts = json.loads(run("list", "--json")[1])
    assert [each["version"] for each in facts] == [2] and facts[0]["manifest"]["source"] == source
    assert run("list", "--check")[0] == 0
    Path(facts[0]["path"]).write_bytes(times(5))
    status, printed, _ = run("list", "--check")
    assert status == 1 and "it has changed since" in printed
    status, _, printed = run("add", "m", str(tmp_path / "none"))
    assert status == 1 and "No such file" in printed
    assert main(["repo", "list", str(tmp_path / "none")]) == 1


# ---- beside a server


def test_a_service_takes_up_what_the_command_does(tmp_path: Path, store: Store) -> None:
    root = tmp_path / "models"
    store.add("m", _file(tmp_path, 1), labels=["production"])
    repository, settle = Repository(root), Settling()
    store.add("m", _file(tmp_path, 2), labels=["production"])
    repository.reload(settle), repository.reload(settle)
    assert _ask(repository) == ("2", 2.0) and repository.labels("m") == {"production": "2"}
    repository.set_label("m", "canary", "1")  # as a request does
    assert store.labels("m").current == {"production": 2, "canary": 1}
    store.rollback("m")
    repository.reload(settle), repository.reload(settle)
    assert _ask(repository) == ("1", 1.0)
    assert repository.labels("m") == {"production": "1", "canary": "1"}
    store.set_label("m", "production", 2)
    assert repository.rollback("m") == "1"  # of what the command did a moment ago
    assert repository.unkept("m") == ""
    again = Repository(root)
    assert again.labels("m") == {"production": "1", "canary": "1"} and _ask(again) == ("1", 1.0)


def test_a_label_moves_when_its_version_is_ready(tmp_path: Path, store: Store) -> None:
    root = tmp_path / "models"
    store.add("m", _file(tmp_path, 1), labels=["production"])
    (root / "m" / "config.toml").write_text("versions = [1]\n")
    repository = Repository(root)
    _put(root / "m" / "2" / "model.mrt", b"junk")
    store.set_label("m", "production", 2)
    errors = [str(error) for error in repository.reload()]
    assert (
        len(errors) == 2 and errors[1] == "label 'production' of model 'm' is on version 1, for version 2 is not ready"
    )
    assert _ask(repository) == _ask(repository, "production") == ("1", 1.0)
    _put(root / "m" / "2" / "model.mrt", times(2))
    assert repository.reload() == [] and _ask(repository) == ("2", 2.0)


def test_labels_that_are_no_labels_change_nothing(tmp_path: Path, store: Store) -> None:
    root = tmp_path / "models"
    store.add("m", _file(tmp_path, 1)), store.add("m", _file(tmp_path, 2))
    store.set_label("m", "production", 1)
    repository = Repository(root)
    labels = root / "m" / "labels.json"
    for text in ("", "[]", "{}", '{"labels": 1, "config": {}}', '{"labels": {"production": 2}, "config": {}}'):
        labels.write_text(text)
        (error,) = repository.reload()
        assert str(labels) in str(error) and _ask(repository) == ("1", 1.0)
        with pytest.raises(InvalidArgumentError):
            repository.set_label("m", "production", "2")
        with pytest.raises(InvalidArgumentError, match="labels.json"):
            store.set_label("m", "production", 2)
    with pytest.raises(Error, match="labels.json"):
        Repository(root)  # not the highest, which nobody has labelled
    labels.unlink()
    assert repository.reload() == [] and _ask(repository) == ("2", 2.0)


async def test_labels_where_nothing_can_be_written(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    store.add("m", _file(tmp_path, 1)), store.add("m", _file(tmp_path, 2))
    path = "/v2/repository/models/m/labels"
    async with serving(root) as server:
        _, found, headers = await server.ask("POST", f"{path}/production", json={"version": "1"})
        assert found == {"production": "1"} and "Warning" not in headers
        (root / "m" / "labels.json").unlink()
        (root / "m" / "labels.json").mkdir()  # for root, who may write anywhere
        _, found, headers = await server.ask("POST", f"{path}/production", json={"version": "2"})
        assert found == {"production": "2"} and "last until the server ends" in headers["Warning"]
        assert "labels of m are not kept" in caplog.text
        _, found, headers = await server.ask("GET", path)
        assert found == {"production": "2"} and headers["Warning"].startswith("299 ")
        _, found, _ = await server.ask("POST", f"{path}/production/rollback")
        assert found == {"production": "1"}
        status, found, _ = await server.ask("POST", f"{path}/production", json={"version": "7"})
        assert status == 404 and "error" in found


def test_a_model_that_is_a_file_alone_has_labels(tmp_path: Path, store: Store) -> None:
    _put(tmp_path / "models" / "m.mrt", times(1))
    repository = Repository(tmp_path / "models")
    repository.set_label("m", "production", "1")
    assert (
        store.labels("m").current
        == Store(tmp_path / "models").set_label("m", "production", 1).current
        == {"production": 1}
    )
    (tmp_path / "models" / "m.mrt").unlink()
    with pytest.raises(ServiceError, match="empty all of a sudden"):
        repository.reload()
