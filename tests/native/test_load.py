"""Loading: paths, bytes, artifacts; bad files of every kind get one sentence and no crash."""

from __future__ import annotations

import dataclasses
import errno
import hmac
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import maas_rt
import maas_rt.capi
from maas_rt import _container, _plan
from tests import _tiny

DATA = _tiny.softmax()
X = np.zeros((2, 4), np.float32)


def test_a_file_its_bytes_and_an_artifact(tmp_path: Path) -> None:
    path = tmp_path / "mödel.mrt"
    path.write_bytes(DATA)

    class Artifact:
        manifest: ClassVar[dict[str, Any]] = {}

        def to_bytes(self) -> bytes:
            return DATA

    for source in (path, str(path), DATA, bytearray(DATA), memoryview(DATA), Artifact()):
        np.testing.assert_allclose(maas_rt.load(source)(X), 0.25)


def test_the_bytes_may_change_after_loading() -> None:
    data = bytearray(DATA)
    model = maas_rt.load(data)
    data[:] = bytes(len(data))
    np.testing.assert_allclose(model(X), 0.25)


def test_a_mapped_file_that_is_written_to_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.mrt"
    x, want = np.ones((1, 16), np.float32), _tiny.reference_mlp(np.ones((1, 16), np.float32))
    other = bytearray(_tiny.mlp())
    other[-400:] = bytes(400)  # other weights, which no hash of a plain load covers
    for change in (lambda: path.write_bytes(other), lambda: os.truncate(path, 100), lambda: os.utime(path)):
        path.write_bytes(_tiny.mlp())
        mapped, copied = maas_rt.load(path), maas_rt.load(path, copy=True)
        session = mapped.session()
        np.testing.assert_allclose(mapped(x), want, rtol=1e-5, atol=1e-6)
        change()
        for run in (mapped, session):
            with pytest.raises(maas_rt.FormatError, match=r"model.mrt' was changed since it was opened .*copy=True"):
                run(x)
        with pytest.raises(maas_rt.FormatError, match="was changed"):
            mapped.session()
        np.testing.assert_allclose(copied(x), want, rtol=1e-5, atol=1e-6)


def _in_memory(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    found, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            found = line.endswith(str(path))
        elif found and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is mapped")
def test_a_mapped_files_weights_stay_in_memory_as_far_as_is_asked(tmp_path: Path) -> None:
    rng, path, size, layers = np.random.default_rng(0), tmp_path / "model.mrt", 512, 8
    b = _tiny.Builder()
    last = b.input("x", [1, size])
    for i in range(layers):
        y = b.value(f"y{i}", [1, size])
        b.gemm(last, rng.normal(0, size**-0.5, (size, size)).astype(np.float32), y)
        last = y
    path.write_bytes(b.file(last))
    x, one = rng.normal(size=(1, size)).astype(np.float32), 4 * size * size
    want = maas_rt.load(path.read_bytes(), threads=1)(x)
    free = maas_rt.load(path, threads=1)
    np.testing.assert_array_equal(free(x), want)
    assert _in_memory(path) >= layers * one
    del free
    for load, threads in ((maas_rt.load, 1), (maas_rt.load, 2), (maas_rt.capi.load, 1)):
        model = load(path, threads=threads, resident=2 * one)
        for _ in range(2):
            np.testing.assert_array_equal(model(x), want)
            assert _in_memory(path) <= 2 * one
        del model
    for source, options in ((path.read_bytes(), {}), (path, {"copy": True})):
        for load in (maas_rt.load, maas_rt.capi.load):
            with pytest.raises(maas_rt.InvalidArgumentError, match="mapped file.* load a path, without copy"):
                load(source, resident=one, **options)
    for wrong in (0, -1, 1.5, True):
        for load in (maas_rt.load, maas_rt.capi.load):
            with pytest.raises(maas_rt.InvalidArgumentError, match="resident is .* number of bytes above 0"):
                load(path, resident=wrong)


def test_a_file_may_be_replaced_by_renaming_or_removed(tmp_path: Path) -> None:
    path = tmp_path / "model.mrt"
    path.write_bytes(DATA)
    model = maas_rt.load(path)
    (tmp_path / "new.mrt").write_bytes(_tiny.mlp())
    os.replace(tmp_path / "new.mrt", path)
    np.testing.assert_allclose(model(X), 0.25)
    path.unlink()
    np.testing.assert_allclose(model(X), 0.25)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.mrt' does not exist") as caught:
        maas_rt.load(tmp_path / "absent.mrt")
    assert isinstance(caught.value, maas_rt.ModelNotFoundError)
    assert isinstance(caught.value, maas_rt.Error)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "absent.mrt")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_model_is_sent_by_its_path_or_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.mrt"
    path.write_bytes(DATA)
    program = f"import pickle, numpy, maas_rt; m = pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb')); print(m(numpy.zeros((2, 4), numpy.float32)).sum())"
    for source in (path, DATA):
        sent = pickle.dumps(maas_rt.load(source, threads=1))
        assert (len(sent) > len(DATA)) == (source is DATA)
        (tmp_path / "pickle").write_bytes(sent)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert run.stdout == "2.0\n", run.stderr
    sent = pickle.dumps(maas_rt.load(path))
    path.write_bytes(_tiny.mlp())
    with pytest.raises(maas_rt.FormatError, match="is another file now"):
        pickle.loads(sent)


@pytest.mark.parametrize("text", ["abc", b"abc", ["a"], (["a"],), np.array(["a"]), np.array(["a"], object)])
def test_text_is_pointed_to_encode_strings(text: Any) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="input 'x' .*maas_rt.encode_strings"):
        maas_rt.load(DATA)(text)


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty.mrt").touch()
    (tmp_path / "text.mrt").write_text("hello, this is not a model at all; " * 10)
    for source in (tmp_path / "empty.mrt", tmp_path / "text.mrt", b"", b"hello", bytes(5000)):
        with pytest.raises(maas_rt.FormatError):
            maas_rt.load(source)
    for source in (tmp_path, tmp_path / "absent.mrt"):
        with pytest.raises(maas_rt.Error) as caught:
            maas_rt.load(source)
        assert str(source) in str(caught.value)
    for wrong in (None, 7, [DATA]):
        with pytest.raises(maas_rt.InvalidArgumentError, match="load takes a path"):
            maas_rt.load(wrong)  # type: ignore[arg-type]


def test_every_truncation_is_refused() -> None:
    for n in [*range(0, min(len(DATA), 1500), 7), len(DATA) - 1]:
        with pytest.raises(maas_rt.FormatError):
            maas_rt.load(DATA[:n])


def test_flipped_bytes_are_refused() -> None:
    data = _tiny.mlp()
    sections = _container.read(data).sections
    used = [*range(64 + 96 * len(sections))]
    used += [at for s in sections for at in range(s.offset, s.offset + s.size, 11)]
    for at in used:
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(maas_rt.Error) as caught:
            maas_rt.load(bytes(damaged), verify="full")
        assert isinstance(caught.value, maas_rt.FormatError)


def test_damaged_weights_are_found_under_full_verification() -> None:
    data = bytearray(_tiny.mlp())
    data[-1] ^= 1
    maas_rt.load(bytes(data))
    with pytest.raises(maas_rt.FormatError, match="weights|section"):
        maas_rt.load(bytes(data), verify="full")


def test_options() -> None:
    maas_rt.load(DATA, code="refuse")  # it holds no code
    for options in (
        {"code": "maybe"},
        {"code": None},
        {"verify": "half"},
        {"verify": True},
        {"check_signature": 3},
        {"copy": "no"},
        {"threads": -1},
        {"threads": 1.5},
        {"threads": "two"},
    ):
        with pytest.raises(maas_rt.InvalidArgumentError, match=next(iter(options))):
            maas_rt.load(DATA, **options)  # type: ignore[arg-type]
    assert maas_rt.load(DATA, threads=10_000)(X).shape == (2, 4)


def test_bytes_that_are_not_together_and_a_path_that_is_no_text() -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="must be contiguous"):
        maas_rt.load(memoryview(DATA)[::2])
    with pytest.raises(FileNotFoundError):
        maas_rt.load("\udce4.mrt")  # a name in Latin-1, as os.listdir gives it


def test_signatures() -> None:
    def sign(message: bytes) -> bytes:
        return hmac.digest(b"key", message, "sha256")

    def accept(message: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(sign(message), signature)

    sections = [_container.Section(s.kind, bytes(s.data), s.target) for s in _container.read(_tiny.mlp()).sections]
    good = b"".join(_container.write(_container.signed(sections, 32, sign)))
    assert maas_rt.load(good, check_signature=accept)(np.zeros((1, 16), np.float32)).shape == (1, 8)
    other = b"".join(_container.write(_container.signed(sections, 32, lambda message: bytes(32))))
    damaged = bytearray(good)
    weights = _container.read(good).find(_container.SectionKind.WEIGHTS)
    assert weights is not None
    damaged[weights.offset] ^= 1
    with pytest.raises(maas_rt.FormatError):  # a signature covers the weights: they are hashed without being asked
        maas_rt.load(bytes(damaged), check_signature=accept)
    for data, check in ((other, accept), (DATA, accept), (good, lambda message, signature: False)):
        with pytest.raises(maas_rt.SignatureError):
            maas_rt.load(data, check_signature=check)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signature_check_that_fails_accepts_nothing() -> None:
    def broken(message: bytes, signature: bytes) -> bool:
        raise KeyError("no such key")

    sections = [_container.Section(s.kind, bytes(s.data), s.target) for s in _container.read(DATA).sections]
    data = b"".join(_container.write(_container.signed(sections, 4, lambda message: b"sign")))
    with pytest.raises(maas_rt.SignatureError):
        maas_rt.load(data, check_signature=broken)


def edited(**changes: Any) -> bytes:
    """The softmax file with a plan that was changed after it was made, hashes made right again."""
    sections = _container.read(DATA).sections
    plan = _plan.decode(sections[1].data)
    for path, value in changes.items():
        *places, last = path.split("__")
        target: Any = plan
        for place in places:
            target = target[int(place)] if place.isdigit() else getattr(target, place)
        if last.isdigit():
            target[int(last)] = value
        else:
            setattr(target, last, value)
    new = [_container.Section(s.kind, bytes(s.data), s.target) for s in sections]
    new[1] = dataclasses.replace(new[1], data=_plan.encode(plan))
    return b"".join(_container.write(new))


@pytest.mark.parametrize(
    "change",
    [
        {"values__0__dims__0": 99},
        {"entries__0__inputs__0": 99},
        {"entries__0__outputs__0": 99},
        {"entries__0__block": 99},
        {"blocks__0__steps__0__target": "no_such_kernel"},
        {"blocks__0__steps__0__packing": "no_such_packing"},
        {"blocks__0__steps__0__outs__0": 99},
        {"blocks__0__steps__0__kind": _plan.StepKind.LAUNCH},
        {"blocks__0__steps__0__blocks": [0]},
        {"exprs__0": _plan.Expr(_plan.ExprOp.ADD, 0, 0)},
        {"exprs__0": _plan.Expr(_plan.ExprOp.SYMBOL, 99)},
        {"symbols__0__multiple": 0},
        {"values__1__storage": _plan.Storage.CONSTANT, "values__1__offset": 2**62, "values__1__bytes": 2**62},
        {"values__1__storage": _plan.Storage.CONSTANT, "values__1__offset": -64, "values__1__bytes": 64},
        {"values__1__encoding": _plan.Encoding.CSR},
        {"version": 0},
        {"entries": []},
    ],
    ids=str,
)
def test_a_plan_that_is_wrong_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(maas_rt.Error) as caught:
        maas_rt.load(edited(**change))
    assert isinstance(caught.value, (maas_rt.FormatError, maas_rt.InvalidArgumentError)), caught.value
    assert "\n" not in str(caught.value)


def test_a_step_without_its_inputs_is_refused() -> None:
    with pytest.raises(maas_rt.FormatError, match=r"\(softmax_f32\) has 0 arguments, expected 1 to 1"):
        maas_rt.load(edited(blocks__0__steps__0__args=[]))


def test_a_newer_plan_is_refused_by_version() -> None:
    with pytest.raises(maas_rt.FormatError, match="version|newer"):
        maas_rt.load(edited(version=2))
