"""Pipelines: what a config may say of one, what fits together, how its steps run, and what becomes of it when its models change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt.service import Repository, _pipeline_scheduler
from maas_rt.service._calls import Context
from maas_rt.service._catalogue import Catalogue
from maas_rt.service._config import ModelConfig, Scheduling
from maas_rt.service._core import Core
from maas_rt.service._datatypes import DATATYPES
from maas_rt.service._errors import Kind, ServiceError, kind_of
from maas_rt.service._gate import Gatekeeper
from maas_rt.service._grants import Client
from maas_rt.service._graph import Graph
from maas_rt.service._jobs import Job
from maas_rt.service._metadata import model_config
from maas_rt.service._record import State
from maas_rt.service._requests import InferRequest, InferResponse, InputTensor
from maas_rt.service._scheduler import Scheduler
from maas_rt.service._served import Served
from maas_rt.service._statistics import Phases, Statistics
from maas_rt.service._versions import Policy
from maas_rt.service._watch import Settling
from tests import _tiny
from tests.service._serving import serving, serving_beside
from tests.service._versions import times
from tests.service.test_repository import _put, _states

TWO = """
[[pipeline.step]]
name = "embed"
model = "encoder"
inputs = {x = "text"}
[[pipeline.step]]
model = "head"
inputs = {h = "embed.y"}
[pipeline.outputs]
probs = "head.p"
"""
FORK = """
[[pipeline.step]]
name = "left"
model = "encoder"
inputs = {x = "text"}
[[pipeline.step]]
name = "right"
model = "encoder"
inputs = {x = "text"}
[[pipeline.step]]
model = "add"
inputs = {a = "left.y", b = "right.y"}
[pipeline.outputs]
sum = "add.sum"
half = "left.y"
"""


def add() -> bytes:
    """a [n, 4], b [n, 4] -> sum."""
    b = _tiny.Builder("add")
    b.symbol("n", 1, 64)
    left, right = b.input("a", ["n", 4]), b.input("b", ["n", 4])
    total = b.value("sum", ["n", 4])
    b.gemm(left, np.eye(4, dtype=np.float32), total, residual=right)
    return b.file(total)


def _models(root: Path) -> Path:
    """encoder: y = 2 x; head: p = 3 h; add."""
    _put(root / "encoder" / "1" / "model.mrt", times(2, rows="n"))
    _put(root / "head" / "1" / "model.mrt", times(3, rows="m", names=("h", "p")))
    _put(root / "add" / "1" / "model.mrt", add())
    return root


def _pipeline(root: Path, text: str, name: str = "pipe") -> Path:
    return _put(root / name / "config.toml", text.encode())


def _step(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


# ---- what a config says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (TWO, "pipeline = 1", "pipeline is 1 and must be a table"),
        (TWO, "[pipeline]", "a pipeline has one step or more"),
        (TWO, "[pipeline]\nstep = [1]", "step 1 of the pipeline is 1 and must be a table"),
        ("[pipeline.outputs]", "[pipeline.results]", "pipeline has results, which is none of: inputs, outputs, step"),
        ('name = "embed"', 'label = "embed"', "step 1 of the pipeline has label, which is none of"),
        ('model = "encoder"', "model = 1", "step 1 of the pipeline: model is 1 and must be the name"),
        ('model = "encoder"', "", "step 1 of the pipeline: model is None"),
        ('name = "embed"', 'name = "a.b"', "name is 'a.b' .* and must be a text without dots"),
        ('model = "head"', 'model = "he.ad"', "name is 'he.ad' .* and must be a text without dots"),
        ('name = "embed"', 'name = "head"', "two steps of the pipeline are named 'head'"),
        ('model = "encoder"', 'model = "encoder"\nversion = 1.5', "version is 1.5 and must be a number or a label"),
        ('inputs = {x = "text"}', "", "inputs of step 'embed': they are None and must be a table"),
        ('{x = "text"}', "{}", "inputs of step 'embed': they are {} and must be a table of one entry or more"),
        ('"text"', "1", "inputs of step 'embed': x is 1 and must be an input of the pipeline or \"STEP.OUTPUT\""),
        ('"embed.y"', '"embed."', "h is 'embed.' and must be"),
        ('"embed.y"', '".y"', "h is '.y' and must be"),
        ('"embed.y"', '"emb.y"', "input 'h' of step 'head' is 'emb.y', and there is no step 'emb'; there is embed, head"),
        ('"text"', '"head.p"', "the pipeline has a cycle: (embed → head → embed|head → embed → head)"),
        ('"text"', '"embed.y"', "the pipeline has a cycle: embed → embed"),
        ('probs = "head.p"', 'y = "embed.y"', "step 'head' of the pipeline leads to none of its outputs"),
        ('probs = "head.p"', "", "pipeline.outputs: they are {}"),
        ('probs = "head.p"', 'probs = "text"', "output 'probs' of the pipeline is its input 'text'"),
        ('probs = "head.p"', 'text = "head.p"', "output 'text' of the pipeline must have a name without dots that is none"),
        ('probs = "head.p"', '"a.b" = "head.p"', "output 'a.b' of the pipeline must have a name without dots"),
        ('probs = "head.p"', 'probs = "head.p"\nq = "head.p"', "outputs 'probs' and 'q' of the pipeline are both 'head.p'"),
        ('probs = "head.p"', 'probs = "heed.p"', "output 'probs' of the pipeline is 'heed.p', and there is no step"),
        ("[pipeline.outputs]", '[pipeline]\ninputs = ["txt"]\n[pipeline.outputs]', "no step takes input 'txt'"),
        ("[pipeline.outputs]", "[pipeline]\ninputs = [1]\n[pipeline.outputs]", "pipeline.inputs is .1. and must be a list"),
        ("[pipeline.outputs]", "[pipeline]\ninputs = []\n[pipeline.outputs]", "'text', which is neither an input of"),
        ("[pipeline.outputs]", "[warmup]\n[pipeline.outputs]", "config.toml of a pipeline has warmup, which is none of"),
        ("[pipeline.outputs]", "[queue]\nsize = 3\n[pipeline.outputs]", "queue has size, which is none of"),
    ],
)  # fmt: skip
def test_what_is_no_pipeline(old: str, new: str, why: str) -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has tomllib")
    with pytest.raises(maas_rt.InvalidArgumentError, match=why):
        ModelConfig.read(tomllib.loads(_step(TWO, old, new)))


def test_steps_are_put_in_the_order_in_which_they_can_run() -> None:
    head = {"model": "head", "inputs": {"h": "embed.y.1", "m": "mask"}}
    table = {"step": [head, {"name": "embed", "model": "e", "inputs": {"x": "text"}}], "outputs": {"p": "head.p"}}
    graph = Graph.read(table)
    assert [step.name for step in graph.steps] == ["embed", "head"] and graph.inputs == ("mask", "text")
    assert graph.steps[1].inputs["h"] == ("embed", "y.1") and graph.steps[1].needs() == ("embed",)
    assert Graph.read({**table, "inputs": ["text", "mask"]}).inputs == ("text", "mask")


# ---- what fits together ---------------------------------------------------------------------------------------------


def _double() -> bytes:
    """x [n, 4] int64 -> y, the same."""
    b = _tiny.Builder("int64")
    b.symbol("n", 1, 64)
    x, y = b.input("x", ["n", 4], "int64"), b.value("y", ["n", 4], "int64")
    b.copy(x, y)
    return b.file(y)


@pytest.mark.parametrize(
    ("changes", "text", "why"),
    [
        ({}, _step(TWO, '"encoder"', '"gone"'), "step 'embed': no model 'gone'"),
        ({}, _step(TWO, '"encoder"', '"encoder"\nversion = 7'), "step 'embed': no version '7' of model 'encoder'"),
        ({}, _step(TWO, '"encoder"', '"encoder"\nversion = "canary"'), "step 'embed': no version 'canary' of model 'encoder'"),
        ({}, _step(TWO, "{x =", "{z ="), "step 'embed': model 'encoder' has no input 'z'; its inputs are x"),
        ({}, _step(FORK, ', b = "right.y"', "").replace("half", 'other = "right.y"\nhalf'), "step 'add': nothing is said of input 'b' of model 'add'"),
        ({}, _step(TWO, '"embed.y"', '"embed.z"'), "input 'h' of step 'head' is 'embed.z', and the model of step 'embed' has no output 'z'; its outputs are y"),
        ({}, _step(TWO, '"head.p"', '"head.q"'), "output 'probs' of the pipeline is 'head.q', and the model of step 'head' has no output 'q'; its outputs are p"),
        ({"encoder": _double()}, TWO, "input 'h' of step 'head' is FP32, and output 'y' of step 'embed', which it takes, is INT64"),
        ({"encoder": times(2, width=5, rows="n")}, TWO, "dimension 1 of input 'h' of step 'head' is 4, and of output 'y' of step 'embed', which it takes, 5"),
        ({"encoder": times(2, rows=9), "head": times(3, rows="m", most=8, names=("h", "p"))}, TWO, "dimension 0 of input 'h' of step 'head' is m .1..8., and of output 'y' of step 'embed', which it takes, 9"),
        ({"head": _tiny.two_outputs()}, _step(TWO, "{h =", "{b = \"embed.y\", a ="), "of step 'head' is (2|INT64|3)"),
        ({"encoder": _tiny.accumulator()}, TWO, "step 'embed': model 'encoder' keeps states between runs, and a pipeline has no sequences"),
        ({"encoder": _tiny.noise()}, TWO + "[response_cache]\nenable = true\n", "response_cache is enabled, and step 'embed' draws random numbers"),
        # Extents that are one within a step are given by steps that disagree.
        ({"encoder": times(2, rows=2), "head": times(3, rows=3, names=("h", "p"))}, _step(FORK, 'name = "right"\nmodel = "encoder"\ninputs = {x =', 'name = "right"\nmodel = "head"\ninputs = {h =').replace("right.y", "right.p").replace('{h = "text"}', '{h = "other"}'), "dimension 0 of input 'b' of step 'add' is 2, and of output 'p' of step 'right', which it takes, 3"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_not_served_and_told(
    tmp_path: Path, changes: dict[str, bytes], text: str, why: str
) -> None:
    _models(tmp_path)
    for name, data in changes.items():
        _put(tmp_path / name / "1" / "model.mrt", data)
    path = _pipeline(tmp_path, text)
    repository = Repository(tmp_path)
    (entry,) = [each for each in repository.index() if each.name == "pipe"]
    assert entry.state is State.UNAVAILABLE and entry.reason.startswith(f"{path}: ")
    with pytest.raises(maas_rt.Error, match=why):
        raise maas_rt.Error(entry.reason)
    assert repository.names() == ["add", "encoder", "head"]  # the others are
    with pytest.raises(ServiceError, match="pipeline 'pipe' is not ready: ") as caught:
        repository.lease("pipe")
    assert caught.value.kind is Kind.NOT_READY and caught.value.retry_after
    assert repository.reload() == []  # told once
    assert "pipe" not in repository.names()


def test_a_pipeline_is_no_step_of_another(tmp_path: Path) -> None:
    _pipeline(_models(tmp_path), TWO)
    _pipeline(
        tmp_path,
        '[[pipeline.step]]\nname = "s"\nmodel = "pipe"\ninputs = {text = "t"}\n[pipeline.outputs]\np = "s.probs"\n',
        "outer",
    )
    _pipeline(
        tmp_path, '[[pipeline.step]]\nmodel = "self"\ninputs = {a = "b"}\n[pipeline.outputs]\np = "self.p"\n', "self"
    )
    reasons = {each.name: each.reason for each in Repository(tmp_path).index()}
    assert "step 's': model 'pipe' is a pipeline itself: write its steps here in its place" in reasons["outer"]
    assert "step 'self': no version of model 'self' is ready" in reasons["self"] and reasons["pipe"] == ""


def test_what_the_whole_takes_and_gives(tmp_path: Path) -> None:
    _models(tmp_path)
    _put(tmp_path / "head" / "1" / "model.mrt", times(3, rows="n", most=8, names=("h", "p")))
    _put(tmp_path / "fixed.mrt", times(1, rows=5))
    _pipeline(tmp_path, TWO)
    _pipeline(
        tmp_path,
        _step(TWO, '"embed.y"', '"mask"').replace("[pipeline.outputs]", '[pipeline.outputs]\nh = "embed.y"'),
        "apart",
    )
    _pipeline(tmp_path, _step(TWO, '"encoder"', '"fixed"'), "five")
    repository = Repository(tmp_path)
    assert repository.names() == ["add", "apart", "encoder", "five", "fixed", "head", "pipe"]
    with repository.lease("pipe") as served:
        (taken,), (given,) = served.signature.inputs, served.signature.outputs
        assert (taken.name, taken.shape, given.name, given.shape) == ("text", ("n", 4), "probs", ("n", 4))
        # What the second step takes at most holds for the first.
        assert [(each.least, each.most) for each in served.interface.inputs[0].shape] == [(1, 8), (4, 4)]
    with repository.lease("apart") as served:  # two that are called n, and are not the same
        assert [each.shape for each in served.signature.inputs] == [("embed.n", 4), ("head.n", 4)]
        assert [each.shape for each in served.signature.outputs] == [("embed.n", 4), ("head.n", 4)]


def test_what_is_fixed_behind_is_fixed_in_front(tmp_path: Path) -> None:
    _models(tmp_path)
    _put(tmp_path / "head" / "1" / "model.mrt", times(3, rows=5, names=("h", "p")))
    _pipeline(tmp_path, TWO)
    with Repository(tmp_path).lease("pipe") as served:
        assert served.signature.inputs[0].shape == (5, 4)
        with pytest.raises(ServiceError, match="input 'text' has 4 in dimension 0, the model takes 5"):
            served.signature.arrays(_request(4))


# ---- how it runs ----------------------------------------------------------------------------------------------------


def _request(rows: int = 1, value: float = 1.0, name: str = "text", **parameters: Any) -> InferRequest:
    array = np.full((rows, 4), value, np.float32)
    return InferRequest((InputTensor(name, DATATYPES["FP32"], array.shape, array),), parameters=parameters)


class _Observer:
    """Keeps what it is told, and what is under way."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Kind | None]] = []
        self.under_way: list[str] = []

    def began(self, served: Served) -> None:
        self.under_way.append(served.name)

    def left(self, served: Served) -> None:
        self.under_way.remove(served.name)

    def ran(self, served: Served, kind: Kind | None, phases: Phases, ns: int) -> None:
        self.under_way.remove(served.name)
        assert ns >= phases.queue + phases.compute_infer >= 0
        self.seen.append((served.name, kind))

    ended = ran


class _Beside:
    """The models of a pipeline, whose runs begin when the test says so; what they were run with, and what they gave."""

    def __init__(self, root: Path, text: str = FORK, **scheduling: Scheduling) -> None:
        repository = Repository(_models(root))
        self.launched: list[Callable[[], None]] = []
        self.runs: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.fail: dict[str, Exception] = {}
        self.ended: list[Job] = []
        tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has tomllib")
        self.config = ModelConfig.read(tomllib.loads(text))
        assert self.config.pipeline is not None
        members = []
        for step in self.config.pipeline.steps:
            with repository.lease(step.model) as found:
                policy = scheduling.get(step.name, found.scheduling)
                runs = _Runs(self, step.name, found.model)
                scheduler = Scheduler(step.name, runs, policy, launch=self.launched.append)
                members.append(replace(found, scheduler=scheduler, scheduling=policy, statistics=Statistics()))
        self.served = Served.of_pipeline("pipe", "1", self.config.pipeline, members, self.config)
        self.observer = _Observer()

    def submit(self, **options: Any) -> Job:
        job = Job({"text": np.ones((1, 4), np.float32)}, self.ended.append, steps=self.observer, priority=0, **options)
        self.served.scheduler.submit(job)
        return job

    def launch(self, number: int = 0) -> None:
        self.launched.pop(number)()


class _Runs:
    def __init__(self, world: _Beside, name: str, model: Any) -> None:
        self.world, self.name, self.model = world, name, model

    def run(self, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        if self.name in self.world.fail:
            raise self.world.fail[self.name]
        results: dict[str, Any] = self.model.run(inputs, **options)
        self.world.runs.append((self.name, inputs, results))
        return results


def test_steps_run_side_by_side_and_hand_on_what_they_gave(tmp_path: Path) -> None:
    world = _Beside(tmp_path)
    job = world.submit()
    assert len(world.launched) == 2 and not world.runs  # both wait for a thread at once
    world.launch(1)
    assert not world.launched[1:] and not job.finished  # the last step needs the other one, too
    world.launch()
    assert not job.finished and len(world.launched) == 1
    world.launch()
    assert job.finished and world.ended == [job] and job.error is None
    (right, _, right_gave), (left, took, left_gave), (last, added, total) = world.runs
    assert (right, left, last) == ("right", "left", "add")
    assert (
        took["x"] is job.arrays["text"] and added["a"] is left_gave["y"] and added["b"] is right_gave["y"]
    )  # no copies
    assert job.results["sum"] is total["sum"] and job.results["half"] is left_gave["y"]
    np.testing.assert_array_equal(job.results["sum"], np.full((1, 4), 4, np.float32))
    assert set(job.results) == {"sum", "half"} and job.submitted <= job.started <= job.ended
    assert world.observer.under_way == [] and {kind for _, kind in world.observer.seen} == {None}
    assert world.served.statistics.told("pipe", "1")["execution_count"] == 1
    members = world.served.model.members  # type: ignore[union-attr]
    assert [each.statistics.told("", "")["inference_stats"]["success"]["count"] for each in members] == [1, 1, 1]
    # What is known to be quick runs at once, all of it on the thread that asks.
    second = world.submit()
    assert second.finished and not world.launched
    np.testing.assert_array_equal(second.results["sum"], job.results["sum"])


def test_a_tensor_is_let_go_of_when_nobody_takes_it_any_more(tmp_path: Path) -> None:
    world = _Beside(tmp_path)
    world.submit()
    (flow,) = world.served.scheduler._flows.values()  # type: ignore[union-attr]
    assert not flow._values  # both that take the input have it
    world.launch(), world.launch()
    assert [str(each) for each in flow._values] == ["left.y"]  # an output of the whole


@pytest.mark.parametrize("first", [0, 1])
def test_a_step_that_fails_ends_the_others(tmp_path: Path, first: int) -> None:
    world = _Beside(tmp_path, left=Scheduling(instances=1), right=Scheduling(instances=1))
    error = maas_rt.Error("an index is out of range")
    error.status = "MRT_ERROR_RUN"
    world.fail["left"] = error
    job = world.submit()
    if first:
        world.launch(1)
    world.launch()
    if not first:
        assert not job.finished  # the other step has a thread already: it is told to stop
        world.launch()
    assert job.finished and world.ended == [job] and not world.launched
    assert str(job.error) == "step 'left': an index is out of range" and kind_of(job.error) is Kind.BAD_REQUEST
    assert world.observer.under_way == [] and ("encoder", Kind.BAD_REQUEST) in world.observer.seen
    assert ("encoder", None if first else Kind.CANCELLED) in world.observer.seen and len(world.observer.seen) == 2


def test_a_step_that_fails_while_another_thread_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is not over before it has its error."""
    text = _step(
        FORK[: FORK.index('[[pipeline.step]]\nmodel = "add"')] + FORK[FORK.index("[pipeline.outputs]") :],
        "add.sum",
        "right.y",
    )
    world = _Beside(tmp_path, text)
    world.fail["right"] = maas_rt.InvalidArgumentError("no")
    job = world.submit()
    world.launch()
    (flow,) = world.served.scheduler._flows.values()  # type: ignore[union-attr]
    named = _pipeline_scheduler._named

    def looked_at(step: str, error: BaseException) -> BaseException:
        with ThreadPoolExecutor(1) as other:
            other.submit(flow.go_on).result(60)
        return named(step, error)

    monkeypatch.setattr(_pipeline_scheduler, "_named", looked_at)
    world.launch()
    assert world.ended == [job] and str(job.error) == "step 'right': no"


def test_what_a_model_refuses_the_pipeline_refuses(tmp_path: Path) -> None:
    world = _Beside(tmp_path, right=Scheduling(instances=1, queue=0))
    blocking = Job({"x": np.ones((1, 4), np.float32)}, lambda job: None)
    right = world.served.model.members[1].scheduler  # type: ignore[union-attr]
    right.submit(blocking)
    with pytest.raises(ServiceError, match="step 'right': 0 requests wait") as caught:
        world.served.scheduler.check_load(None)
    assert caught.value.kind is Kind.OVERLOADED and caught.value.retry_after == 1
    job = world.submit()
    assert not job.finished and len(world.launched) == 2
    world.launch(1)
    assert isinstance(job.error, ServiceError) and job.error.kind is Kind.OVERLOADED and job.error.retry_after == 1
    assert str(job.error).startswith("step 'right': 0 requests wait for model 'right'")
    late = world.submit(deadline=1)
    assert late.finished and late.error is not None and kind_of(late.error) is Kind.DEADLINE
    assert world.observer.under_way == []


def test_a_request_that_is_cancelled_stops_its_steps(tmp_path: Path) -> None:
    world = _Beside(tmp_path)
    job = world.submit()
    world.launch()
    world.served.scheduler.cancel(job)
    assert not job.finished  # one step runs still
    world.served.scheduler.cancel(job)
    world.launch()
    assert job.finished and job.error is not None and kind_of(job.error) is Kind.CANCELLED and world.ended == [job]
    assert not world.launched and not world.served.scheduler._flows  # type: ignore[union-attr]
    world.served.scheduler.cancel(job)  # what is over stays so
    world.served.scheduler.close()
    with pytest.raises(ServiceError, match="is going away"):
        world.submit()


def test_each_request_ends_once_however_it_ends(tmp_path: Path) -> None:
    """Many threads submit, fail and cancel, while steps end on others."""
    _models(tmp_path)
    _put(tmp_path / "head" / "1" / "model.mrt", _tiny.gather())  # refuses an index that is out of range
    for name in ("encoder", "head"):
        _put(tmp_path / name / "config.toml", b"instances = 1\nqueue = {size = 20}\n")
    rows = '[[pipeline.step]]\nname = "rows"\nmodel = "head"\ninputs = {table = "table", i = "i"}\n'
    _pipeline(tmp_path, _step(rows + FORK, "[pipeline.outputs]", '[pipeline.outputs]\nrows = "rows.rows"'))
    observer = _Observer()
    ended: list[Job] = []
    draw = np.random.default_rng(17)
    with Repository(tmp_path).lease("pipe") as served:

        def ask(bad: bool, cancels: bool) -> None:
            index = np.array([0, 1, 9 if bad else 2], np.int64)
            arrays = {"text": np.ones((64, 4), np.float32), "table": np.ones((5, 2), np.float32), "i": index}
            job = Job(arrays, ended.append, steps=observer)
            served.scheduler.submit(job)
            if cancels:
                served.scheduler.cancel(job)

        with ThreadPoolExecutor(8) as threads:
            jobs = [threads.submit(ask, *draw.random(2) < 0.4) for _ in range(800)]
        for each in jobs:
            each.result()
        end = time.monotonic() + 60
        while served.scheduler.stats().running and time.monotonic() < end:
            time.sleep(0.01)
    assert len(ended) == len(set(map(id, ended))) == 800 and observer.under_way == []
    kinds = {None if job.error is None else kind_of(job.error) for job in ended}
    assert kinds >= {None, Kind.BAD_REQUEST} and kinds <= {None, Kind.BAD_REQUEST, Kind.CANCELLED, Kind.OVERLOADED}
    assert all((job.results["sum"] == 4).all() for job in ended if job.error is None)


def test_time_and_priority_of_the_request_or_of_the_model(tmp_path: Path) -> None:
    world = _Beside(tmp_path, left=Scheduling(timeout=10**12, priority=5))
    seen: dict[str, Job] = {}
    for step, member in zip(world.config.pipeline.steps, world.served.model.members):  # type: ignore[union-attr]
        plain = member.scheduler.submit
        member.scheduler.submit = lambda job, name=step.name, plain=plain: (seen.update({name: job}), plain(job))
    now = time.monotonic_ns()
    world.submit()
    assert seen["left"].deadline is not None and now + 10**12 <= seen["left"].deadline <= time.monotonic_ns() + 10**12
    assert seen["right"].deadline is None and (seen["left"].priority, seen["right"].priority) == (5, 1)
    job = Job({"text": np.ones((1, 4), np.float32)}, lambda job: None, deadline=now + 10**11, priority=3)
    world.served.scheduler.submit(job)
    assert {each.deadline for each in seen.values()} == {now + 10**11} and {
        each.priority for each in seen.values()
    } == {3}


def test_a_long_pipeline_grows_no_stack(tmp_path: Path) -> None:
    steps = "".join(
        f'[[pipeline.step]]\nname = "s{n}"\nmodel = "encoder"\ninputs = {{x = "{f"s{n - 1}.y" if n else "text"}"}}\n'
        for n in range(400)
    )
    _models(tmp_path)
    _put(tmp_path / "encoder" / "1" / "model.mrt", times(1, rows="n"))
    _pipeline(tmp_path, steps + '[pipeline.outputs]\ny = "s399.y"\n')
    with Repository(tmp_path).lease("pipe") as served:
        for _ in range(3):
            done: Future[Job] = Future()
            job = Job({"text": np.full((2, 4), 7, np.float32)}, done.set_result)
            served.scheduler.submit(job)
            assert done.result(60) is job and job.error is None and (job.results["y"] == 7).all()


async def _infer(
    core: Core, request: InferRequest, model: str = "pipe", context: Context | None = None
) -> InferResponse:
    with core.begin(model, None, context or Context()) as call:
        return await call.infer(request)


def _value(response: InferResponse) -> float:
    return float(response.outputs[0].array[0, 0])


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    _pipeline(_models(tmp_path), TWO)
    found = Core(Repository(tmp_path), observe=_Observer())
    yield found
    assert found.observe.under_way == []  # type: ignore[union-attr]
    found.close()
    assert found.repository.close(10)  # no lease is left


async def test_a_request_keeps_the_versions_that_it_began_with(core: Core, tmp_path: Path) -> None:
    with core.begin("pipe", None, Context()) as old:
        _put(tmp_path / "head" / "1" / "model.mrt", times(30, rows="m", names=("h", "p")))
        _put(tmp_path / "encoder" / "2" / "model.mrt", times(20, rows="n"))
        assert core.repository.reload() == []
        states = _states(core.repository)
        assert states["head/1"] is states["pipe/1"] is State.READY
        assert _value(await _infer(core, _request())) == 600
        response = await old.infer(_request())
        assert _value(response) == 6 and response.model_version == "1"
        before = old.served
    with core.begin("pipe", None, Context()) as new:
        assert new.served is not before and new.served.statistics is before.statistics  # it is the same pipeline
    assert core.repository.reload() == []
    with core.repository.lease("pipe") as served:
        assert served is new.served  # and is not made anew for nothing


async def test_answers_are_of_versions_that_were_live_when_they_were_asked(core: Core, tmp_path: Path) -> None:
    """Under load, with changes of both models: none fails, and none mixes what was never live together."""
    live = [{(2, 3)}]
    stop = asyncio.Event()

    async def ask() -> int:
        asked = 0
        while not stop.is_set():
            first = len(live) - 1
            product = _value(await _infer(core, _request()))
            assert product in {a * b for pair in live[first:] for a, b in pair}, (product, live[first:])
            asked += 1
            await asyncio.sleep(0.001)
        return asked

    clients = [asyncio.create_task(ask()) for _ in range(4)]
    pair = (2, 3)
    for factor in (5, 7, 11, 13):
        for new, path, data in (
            ((factor, pair[1]), "encoder", times(factor, rows="n")),
            ((factor, factor + 1), "head", times(factor + 1, rows="m", names=("h", "p"))),
        ):
            _put(tmp_path / path / "1" / "model.mrt", data)
            live.append({pair, new})
            assert await asyncio.to_thread(core.repository.reload) == []
            live.append({new})
            pair = new
            await asyncio.sleep(0.005)
    stop.set()
    assert min(await asyncio.gather(*clients)) > 0


async def test_a_label_that_moves_takes_the_pipeline_along(tmp_path: Path) -> None:
    _models(tmp_path)
    _put(tmp_path / "encoder" / "2" / "model.mrt", times(20, rows="n"))
    _put(tmp_path / "encoder" / "config.toml", b"[labels]\nblue = 1\n")
    _pipeline(tmp_path, _step(TWO, '"encoder"', '"encoder"\nversion = "blue"'))
    _pipeline(tmp_path, _step(TWO, '"encoder"', '"encoder"\nversion = 1'), "first")
    core = Core(Repository(tmp_path))
    assert _value(await _infer(core, _request())) == 6
    core.repository.set_label("encoder", "blue", "2")
    assert _value(await _infer(core, _request())) == 60 and _value(await _infer(core, _request(), "first")) == 6
    assert core.repository.rollback("encoder", "blue") == "1" and _value(await _infer(core, _request())) == 6
    with core.repository.lease("pipe") as served:
        assert [each["model_version"] for each in model_config(served, Policy(), 0)["ensemble_scheduling"]["step"]] == [
            1,
            -1,
        ]
    core.repository.set_label("pipe", "production", "1")  # pipelines have labels, too
    assert core.repository.labels("pipe") == {"production": "1"} and _value(await _infer(core, _request())) == 6


async def test_a_model_that_is_unloaded_and_comes_back(
    core: Core, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    friend = Context()
    await core.unload("head", friend)
    assert "no longer serving pipeline pipe: step 'head': no version of model 'head' is ready" in caplog.text
    (line,) = [each for each in core.index(friend) if each["name"] == "pipe"]
    assert line["state"] == "UNAVAILABLE" and "step 'head': no version of model 'head' is ready" in line["reason"]
    for call in (lambda: core.begin("pipe", None, friend), lambda: core.model_ready("pipe", None, friend)):
        with pytest.raises(ServiceError, match="pipeline 'pipe' is not ready: step 'head'") as caught:
            call()
        assert caught.value.kind is Kind.NOT_READY and caught.value.retry_after == 1
    with pytest.raises(ServiceError, match="step 'head': no version of model 'head' is ready"):
        await core.load("pipe", friend)
    assert core.ready  # others are
    await core.load("head", friend)
    assert _value(await _infer(core, _request())) == 6
    (line,) = [each for each in core.index(friend) if each["name"] == "pipe"]
    assert (line["state"], line["reason"]) == ("READY", "")
    await core.unload("pipe", friend)
    await core.load("head", friend)  # which does not bring it back
    assert _states(core.repository)["pipe/1"] is State.UNAVAILABLE
    with pytest.raises(ServiceError, match="no version of model 'pipe' is ready"):
        core.begin("pipe", None, friend)
    await core.load("pipe", friend)
    assert _value(await _infer(core, _request())) == 6
    await core.unload("pipe", friend, dependents=True)
    assert core.repository.names() == ["add"]
    with pytest.raises(ServiceError, match="no model 'nope'"):
        await core.unload("nope", friend, dependents=True)


async def test_only_the_pipelines_own_name_is_asked_for(core: Core) -> None:
    asked = []

    class Gate(Gatekeeper):
        def __init__(self) -> None:
            pass

        def enter(self, context: Context, verb: str, model: str | None) -> Any:
            asked.append((verb, model))
            if model != "pipe":
                raise ServiceError(Kind.FORBIDDEN, "no")
            return _Inside()

    core.gate = Gate()
    assert _value(await _infer(core, _request())) == 6
    with pytest.raises(ServiceError, match="no"):
        await _infer(core, _request(name="x"), "encoder")
    with pytest.raises(ServiceError, match="no"):
        await core.unload("pipe", Context(), dependents=True)  # each of them has to be asked for
    assert asked == [("infer", "pipe"), ("infer", "encoder"), ("admin", "pipe"), ("admin", "encoder")]
    assert core.repository.names() == ["add", "encoder", "head", "pipe"]  # and before the first is unloaded


async def test_models_of_a_pipeline_that_are_gone_keep_none_from_being_unloaded(core: Core, tmp_path: Path) -> None:
    """It waits for one that was never there, or is unloaded already."""
    _pipeline(tmp_path, _step(TWO, 'model = "encoder"', 'model = "lost"'), "waits")
    friend = Context()
    with pytest.raises(ServiceError, match="no model 'lost'"):
        await core.load("waits", friend)
    await core.unload("waits", friend, dependents=True)
    assert core.repository.names() == ["add", "encoder"]  # head was one of its models, and pipe's
    await core.unload("pipe", friend, dependents=True)
    assert core.repository.names() == ["add"]


def test_no_pipeline_is_leased_when_its_models_are_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pipeline(_models(tmp_path), TWO)
    repository = Repository(tmp_path)
    retire, answers = Catalogue.retire, []

    def looked_at(self: Catalogue, name: str, *args: Any) -> None:
        retire(self, name, *args)
        try:
            repository.lease("pipe").end()
        except ServiceError as error:
            answers.append(error.kind)

    monkeypatch.setattr(Catalogue, "retire", looked_at)
    repository.close()
    assert answers == [Kind.NOT_READY] * 4


class _Inside:
    def __enter__(self) -> Client:
        return Client("friend", ())

    def __exit__(self, *_: object) -> None:
        return None


async def test_deadlines_and_clients_that_go_away_end_the_run_of_a_step(tmp_path: Path) -> None:
    _models(tmp_path)
    _put(tmp_path / "endless" / "1" / "model.mrt", _tiny.endless())
    _put(tmp_path / "endless" / "config.toml", b"instances = 1\n[warmup]\ntimeout_ms = 0\n")
    _pipeline(tmp_path, _step(FORK, 'name = "right"\nmodel = "encoder"', 'name = "right"\nmodel = "endless"'))
    _pipeline(
        tmp_path,
        _step(FORK, 'name = "right"\nmodel = "encoder"', 'name = "right"\nmodel = "endless"')
        + "[queue]\ntimeout_ms = 30\n",
        "timed",
    )
    observer = _Observer()
    core = Core(Repository(tmp_path), observe=observer)
    for model, request in (("pipe", _request(timeout=30_000)), ("timed", _request())):
        with pytest.raises((ServiceError, maas_rt.DeadlineExceededError)) as caught:
            await _infer(core, request, model)
        assert kind_of(caught.value) is Kind.DEADLINE
    task = asyncio.create_task(_infer(core, _request()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    core.close()
    assert core.repository.close(10)
    end = time.monotonic() + 60  # the run stops at its next step
    while observer.under_way and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert observer.under_way == []
    kinds = [kind for name, kind in observer.seen if name == "endless"]
    assert len(kinds) == 3 and set(kinds) <= {Kind.DEADLINE, Kind.CANCELLED}


async def test_its_models_batch_what_several_of_its_requests_ask(tmp_path: Path) -> None:
    _models(tmp_path)
    batching = b"max_batch_size = 64\ninstances = 1\n[dynamic_batching]\nmax_queue_delay_microseconds = 50000\n"
    _put(tmp_path / "encoder" / "config.toml", batching)
    _pipeline(tmp_path, TWO)
    core = Core(Repository(tmp_path))
    answers = await asyncio.gather(*(_infer(core, _request(value=value)) for value in range(16)))
    assert [_value(each) for each in answers] == [6.0 * value for value in range(16)]
    (told,) = (await core.statistics("encoder", "1", Context()))["model_stats"]
    assert told["inference_count"] == 16 and told["execution_count"] < 8
    assert told["inference_stats"]["success"]["count"] == 16
    (told,) = (await core.statistics("pipe", None, Context()))["model_stats"]
    assert told["inference_stats"]["success"]["count"] == told["execution_count"] == 16


async def test_steps_that_draw_draw_numbers_of_their_own_that_a_seed_repeats(tmp_path: Path) -> None:
    _models(tmp_path)
    _put(tmp_path / "encoder" / "1" / "model.mrt", _tiny.noise())
    _pipeline(tmp_path, _step(FORK, "half", 'other = "right.y"\nhalf'))
    core = Core(Repository(tmp_path))
    first, again, other = [await _infer(core, _request(seed=seed)) for seed in (2**64 - 1, 2**64 - 1, 3)]
    found = [{each.name: each.array for each in answer.outputs} for answer in (first, again, other)]
    np.testing.assert_array_equal(found[0]["sum"], found[1]["sum"])
    assert (found[0]["sum"] != found[2]["sum"]).any() and (found[0]["half"] != found[0]["other"]).any()
    assert first.parameters == {"seed": 2**64 - 1} and "seed" in (await _infer(core, _request())).parameters


async def test_answers_that_are_kept_go_with_a_version_of_a_model(tmp_path: Path) -> None:
    _pipeline(_models(tmp_path), TWO + "[response_cache]\nenable = true\n")
    core = Core(Repository(tmp_path))
    assert [_value(await _infer(core, _request())) for _ in range(3)] == [6.0] * 3
    (told,) = (await core.statistics("pipe", "1", Context()))["model_stats"]
    assert told["inference_stats"]["cache_hit"]["count"] == 2 and told["execution_count"] == 1
    (told,) = (await core.statistics("encoder", "1", Context()))["model_stats"]
    assert told["execution_count"] == 1
    _put(tmp_path / "encoder" / "1" / "model.mrt", times(20, rows="n"))
    assert core.repository.reload() == [] and _value(await _infer(core, _request())) == 60


async def test_strings_go_from_step_to_step(tmp_path: Path) -> None:
    _put(tmp_path / "strings" / "1" / "model.mrt", _tiny.strings())
    _pipeline(
        tmp_path,
        '[[pipeline.step]]\nname = "one"\nmodel = "strings"\ninputs = {a = "a", b = "b"}\n'
        '[[pipeline.step]]\nname = "two"\nmodel = "strings"\ninputs = {a = "a", b = "b"}\n'
        '[pipeline.outputs]\nfirst = "one.y"\nsecond = "two.y"\n',
    )
    _put(tmp_path / "encoder" / "1" / "model.mrt", times(2, rows="n"))
    _pipeline(
        tmp_path,
        '[[pipeline.step]]\nname = "s"\nmodel = "strings"\ninputs = {a = "a", b = "e.y"}\n[[pipeline.step]]\nname = "e"\nmodel = "encoder"\ninputs = {x = "x"}\n[pipeline.outputs]\ny = "s.y"\n',
        "mixed",
    )
    repository = Repository(tmp_path)
    core = Core(repository)
    texts = [np.array([[word.encode()]], object) for word in ("grün", "blau!")]
    tensors = tuple(InputTensor(name, DATATYPES["BYTES"], (1, 1), text) for name, text in zip("ab", texts))
    answer = await _infer(core, InferRequest(tensors))
    assert [each.array.ravel().tolist() for each in answer.outputs] == [["grün".encode(), b"blau!"]] * 2
    reasons = {each.name: each.reason for each in repository.index()}
    assert "input 'b' of step 's' is BYTES, and output 'y' of step 'e', which it takes, is FP32" in reasons["mixed"]


# ---- the folder -----------------------------------------------------------------------------------------------------


async def test_a_config_that_changes(core: Core, tmp_path: Path) -> None:
    repository = core.repository
    more = _step(TWO, "[pipeline.outputs]", '[pipeline.outputs]\nhidden = "embed.y"')
    path = _pipeline(tmp_path, more)
    assert repository.reload() == []
    assert [each.name for each in (await _infer(core, _request())).outputs] == ["hidden", "probs"]
    _pipeline(tmp_path, TWO)  # an output less: clients may want it
    (error,) = repository.reload()
    assert str(error).startswith(
        f"{path}: it cannot take the place of version 1, which goes on: output 'hidden' is gone"
    )
    (entry,) = [each for each in repository.index() if each.name == "pipe"]
    assert entry.state is State.READY and "output 'hidden' is gone" in entry.reason and repository.reload() == []
    _put(tmp_path / "encoder" / "1" / "model.mrt", times(20, rows="n"))  # what goes on goes on with new versions
    assert repository.reload() == [] and len((await _infer(core, _request())).outputs) == 2
    for bad in (TWO.replace('"embed.y"', '"embed.z"'), "[pipeline", TWO + "[warmup]\n"):
        _pipeline(tmp_path, bad)
        (error,) = repository.reload()
        assert str(error).startswith(f"{path}: ") and len((await _infer(core, _request())).outputs) == 2
    _pipeline(tmp_path, "replace_incompatible = true\n" + TWO)
    assert repository.reload() == []
    assert [each.name for each in (await _infer(core, _request())).outputs] == ["probs"]
    (entry,) = [each for each in repository.index() if each.name == "pipe"]
    assert entry.reason == ""
    path.unlink()
    assert repository.reload() == [] and "pipe" not in repository.names()
    with pytest.raises(ServiceError, match="no model 'pipe'"):
        repository.lease("pipe")
    settle = Settling()
    _pipeline(tmp_path, TWO)
    assert repository.reload(settle) == [] and "pipe" not in repository.names()  # it may be half written
    assert repository.reload(settle) == [] and "pipe" in repository.names()


async def test_a_config_that_waits_for_a_model_is_taken_when_that_is_there(core: Core, tmp_path: Path) -> None:
    _pipeline(tmp_path, _step(TWO, '"head"', '"tail"').replace('"head.p"', '"tail.p"'))
    (error,) = core.repository.reload()
    assert "step 'tail': no model 'tail'" in str(error) and _value(await _infer(core, _request())) == 6
    _put(tmp_path / "tail.mrt", times(7, rows="n", names=("h", "p")))
    assert core.repository.reload() == [] and _value(await _infer(core, _request())) == 14
    (tmp_path / "tail.mrt").unlink()
    assert core.repository.reload() == []  # and goes with it
    with pytest.raises(ServiceError, match="step 'tail': no "):
        core.begin("pipe", None, Context())


async def test_a_model_whose_new_version_does_not_fit(core: Core, tmp_path: Path) -> None:
    _put(tmp_path / "encoder" / "config.toml", b"replace_incompatible = true\n")
    _put(tmp_path / "encoder" / "1" / "model.mrt", times(2, width=5, rows="n"))
    assert core.repository.reload() == []
    with pytest.raises(ServiceError, match="dimension 1 of input 'h' of step 'head' is 4"):
        core.begin("pipe", None, Context())
    _put(tmp_path / "encoder" / "1" / "model.mrt", times(9, rows="n"))
    assert core.repository.reload() == [] and _value(await _infer(core, _request())) == 27


async def test_a_folder_is_a_model_or_a_pipeline(core: Core, tmp_path: Path) -> None:
    model = _put(tmp_path / "pipe" / "1" / "model.mrt", times(5, rows="n", names=("text", "probs")))
    (error,) = core.repository.reload()
    assert f"config.toml describes a pipeline, and beside it lies {model}: take one of them away" in str(error)
    assert _value(await _infer(core, _request())) == 6  # as it was
    (tmp_path / "pipe" / "config.toml").unlink()
    assert core.repository.reload() == [] and _value(await _infer(core, _request())) == 5
    model.unlink()
    _pipeline(tmp_path, TWO)
    assert core.repository.reload() == [] and _value(await _infer(core, _request())) == 6
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "config.toml").write_text("instances = 1\n")  # neither
    assert core.repository.reload() == [] and "papers" not in {each.name for each in core.repository.index()}


def test_pipelines_of_models_that_are_loaded_when_they_are_asked_for(tmp_path: Path) -> None:
    _pipeline(_models(tmp_path), TWO)
    sizes = {name: (tmp_path / name / "1" / "model.mrt").stat().st_size for name in ("add", "encoder", "head")}
    repository = Repository(tmp_path, memory=sizes["encoder"] + sizes["head"] + 10)
    assert _states(repository) == {
        "add/1": State.READY,
        "encoder/1": State.READY,
        "head/1": State.UNAVAILABLE,
        "pipe/1": State.UNAVAILABLE,
    }
    assert {each.name: each.reason for each in repository.index()}["pipe"] == "it is loaded when it is asked for"
    assert "pipe" in repository.names()
    lease = _leased(repository, "pipe")
    assert _states(repository) == {
        "add/1": State.UNAVAILABLE,
        **dict.fromkeys(("encoder/1", "head/1", "pipe/1"), State.READY),
    }
    with pytest.raises(ServiceError):  # what a request uses, through a pipeline too, stays
        _leased(repository, "add", seconds=0.3)
    assert _states(repository)["pipe/1"] is State.READY
    lease.end()
    _leased(repository, "add").end()
    states = _states(repository)
    assert states["add/1"] is State.READY and states["pipe/1"] is State.UNAVAILABLE  # one of its models has gone for it
    _leased(repository, "pipe").end()
    assert repository.reload() == [] and _states(repository)["pipe/1"] is State.READY
    small = Repository(tmp_path, memory=sizes["add"] + 10)
    with pytest.raises(ServiceError, match="could not be loaded yet, and is tried again"):
        _leased(small, "pipe", seconds=0.5)
    assert "takes" in {each.name: each.reason for each in small.index()}["pipe"]


def test_a_pipeline_that_nobody_asks_for_sleeps_with_its_models(tmp_path: Path) -> None:
    _pipeline(_models(tmp_path), TWO)
    repository = Repository(tmp_path, idle=10**9)
    with repository.lease("pipe"):
        repository.unload_idle(time.monotonic_ns() + 2 * 10**9)
        assert _states(repository) == {
            "add/1": State.UNAVAILABLE,
            **dict.fromkeys(("encoder/1", "head/1", "pipe/1"), State.READY),
        }
    repository.unload_idle(time.monotonic_ns() + 2 * 10**9)
    assert set(_states(repository).values()) == {State.UNAVAILABLE} and "pipe" in repository.names()
    _leased(repository, "pipe").end()
    assert _states(repository) == {
        "add/1": State.UNAVAILABLE,
        **dict.fromkeys(("encoder/1", "head/1", "pipe/1"), State.READY),
    }


def _leased(repository: Repository, name: str, seconds: float = 60) -> Any:
    """As a client does that is told to ask again."""
    end = time.monotonic() + seconds
    while True:
        try:
            return repository.lease(name)
        except ServiceError as error:
            assert error.kind is Kind.NOT_READY and error.retry_after
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def test_a_model_of_a_pipeline_that_turns_out_to_be_bad(tmp_path: Path) -> None:
    _pipeline(_models(tmp_path), TWO)
    path = tmp_path / "head" / "1" / "model.mrt"
    path.write_bytes(path.read_bytes()[:-1] + b"x")  # its last weight
    sizes = [(tmp_path / name / "1" / "model.mrt").stat().st_size for name in ("encoder", "head")]
    repository = Repository(tmp_path, memory=sum(sizes) + 10)  # add and encoder are there
    end = time.monotonic() + 60
    with pytest.raises(
        ServiceError, match="pipeline 'pipe' is not ready: step 'head': no version of model 'head' is ready"
    ):
        while time.monotonic() < end:
            try:
                repository.lease("pipe")
            except ServiceError as error:
                if "being loaded" not in str(error):
                    raise
                time.sleep(0.01)
    assert _states(repository)["encoder/1"] is State.READY


# ---- over the wire --------------------------------------------------------------------------------------------------


async def test_over_http_and_grpc(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc", reason="needs grpcio: pip install grpcio, as the extra grpc does")
    from maas_rt.service._grpc_messages import INFERENCE, MESSAGES

    _pipeline(
        _models(tmp_path),
        _step(TWO, "[pipeline.outputs]", '[pipeline.outputs]\nhidden = "embed.y"')
        + "[response_cache]\nenable = true\n",
    )
    _pipeline(tmp_path, TWO, "plain")
    body = {"id": "7", "inputs": [{"name": "text", "shape": [2, 4], "datatype": "FP32", "data": list(range(8))}]}
    async with serving(tmp_path, grpc={}) as server:
        for _ in range(4):  # at last by the short way
            status, found, _ = await server.ask("POST", "/v2/models/plain/infer", json=body)
            assert (
                status == 200 and found["id"] == "7" and (found["model_name"], found["model_version"]) == ("plain", "1")
            )
            assert found["outputs"] == [
                {"name": "probs", "datatype": "FP32", "shape": [2, 4], "data": [6.0 * n for n in range(8)]}
            ]
        status, found, _ = await server.ask("POST", "/v2/models/pipe/versions/1/infer", json=body)
        assert status == 200 and [each["name"] for each in found["outputs"]] == ["hidden", "probs"]
        status, found, _ = await server.ask("POST", "/v2/models/pipe/infer", json={**body, "outputs": [{"name": "p"}]})
        assert status == 400 and "its outputs are hidden, probs" in found["error"]
        _, found, _ = await server.ask("GET", "/v2/models/pipe")
        assert found["platform"] == "ensemble" and found["inputs"] == [
            {"name": "text", "datatype": "FP32", "shape": [-1, 4]}
        ]
        _, config, _ = await server.ask("GET", "/v2/models/pipe/config")
        assert (
            config["platform"] == "ensemble"
            and config["response_cache"] == {"enable": True}
            and config["input"][0]["dims"] == [-1, 4]
        )
        assert config["ensemble_scheduling"]["step"] == [
            {"model_name": "encoder", "model_version": -1, "input_map": {"x": "text"}, "output_map": {"y": "hidden"}},
            {"model_name": "head", "model_version": -1, "input_map": {"h": "hidden"}, "output_map": {"p": "probs"}},
        ]
        async with server.session.get("/metrics") as response:
            text = await response.text()
        for line in (
            'requests_total{model="plain",version="1"} 4',
            'requests_total{model="head",version="1"} 5',
            'requests_in_flight{model="encoder",version="1"} 0',
        ):
            assert f"maas_rt_{line}\n" in text, line
        status, found, _ = await server.ask("GET", "/console/models/pipe/versions/1")
        assert status == 200 and found["steps"][1] == {
            "name": "head",
            "model": "head",
            "version": "1",
            "takes": {"h": "embed.y"},
        }
        status, found, _ = await server.ask("POST", "/console/models/pipe/versions/1/profile")
        assert status == 400 and "pipe is a pipeline: profile the models that it runs" in found["error"]
        status, found, _ = await server.ask(
            "POST", "/v2/repository/models/pipe/unload", json={"parameters": {"unload_dependents": 1}}
        )
        assert status == 400 and '"unload_dependents" is 1 and must be true or false' in found["error"]

        async with grpc.aio.insecure_channel(server.grpc.places[0].partition("://")[2]) as channel:

            async def ask(name: str, /, **fields: Any) -> Any:
                call = channel.unary_unary(f"/{INFERENCE}/{name}")
                data = MESSAGES[f"{name}Request"](**fields).SerializeToString()
                return MESSAGES[f"{name}Response"].FromString(await call(data, timeout=60))

            told = (await ask("ModelConfig", name="pipe")).config
            assert (
                told.platform == "ensemble"
                and told.WhichOneof("scheduling_choice") == "ensemble_scheduling"
                and told.response_cache.enable
            )
            assert [dict(step.input_map) for step in told.ensemble_scheduling.step] == [{"x": "text"}, {"h": "hidden"}]
            assert [step.model_version for step in told.ensemble_scheduling.step] == [-1, -1]
            tensor = {"name": "text", "shape": [1, 4], "datatype": "FP32"}
            answer = await ask(
                "ModelInfer", model_name="plain", inputs=[tensor], raw_input_contents=[np.ones(4, np.float32).tobytes()]
            )
            assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [6.0] * 4
            parameters = {"unload_dependents": MESSAGES["ModelRepositoryParameter"](bool_param=True)}
            await ask("RepositoryModelUnload", model_name="pipe", parameters=parameters)
        assert server.core.repository.names() == ["add"]
        status, found, headers = await server.ask("POST", "/v2/models/plain/infer", json=body)
        assert (
            status == 503
            and headers["Retry-After"] == "1"
            and "pipeline 'plain' is not ready: step 'embed'" in found["error"]
        )


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_nvidias_clients(tmp_path: Path, kind: str) -> None:
    how = f"NVIDIA's client: pip install 'tritonclient[{kind}]'"
    triton = pytest.importorskip(f"tritonclient.{kind}", reason=how)
    _pipeline(_models(tmp_path), FORK)
    with serving_beside(tmp_path, grpc={} if kind == "grpc" else None) as server:
        place = f"127.0.0.1:{server.port}" if kind == "http" else server.grpc.places[0].partition("://")[2]
        client = triton.InferenceServerClient(place)
        text = triton.InferInput("text", [2, 4], "FP32")
        text.set_data_from_numpy(np.ones((2, 4), np.float32))
        answer = client.infer("pipe", [text])
        assert (answer.as_numpy("sum") == 4).all() and (answer.as_numpy("half") == 2).all()
        config = (
            client.get_model_config("pipe")
            if kind == "http"
            else client.get_model_config("pipe", as_json=True)["config"]
        )
        assert [step["model_name"] for step in config["ensemble_scheduling"]["step"]] == ["encoder", "encoder", "add"]
        client.unload_model("pipe", unload_dependents=True)
        assert [client.is_model_ready(name) for name in ("pipe", "encoder", "add", "head")] == [
            False,
            False,
            False,
            True,
        ]
        client.close()


def test_a_check_names_what_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from maas_rt._cli import main

    path = _pipeline(_models(tmp_path), TWO)
    assert main(["serve", str(tmp_path), "--port", "0", "--check"]) == 0
    _pipeline(tmp_path, _step(TWO, '"embed.y"', '"embed.z"'))
    assert main(["serve", str(tmp_path), "--port", "0", "--check"]) == 1
    told = capsys.readouterr().err + caplog.text
    assert f"not served: {path}: input 'h' of step 'head' is 'embed.z'" in told
