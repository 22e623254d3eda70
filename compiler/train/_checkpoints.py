"""Checkpoints of a run: written by torch.distributed.checkpoint beside the training, complete or not there.

A checkpoint is a folder `step-N`. It is written under another name, and renamed once every process has written its part; then the file
`latest` is replaced by one that names it. It holds tensors alone, other values as JSON in bytes, and is read without unpickling.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse, async_save, save
from torch.distributed.tensor import DTensor

from maas_rt._errors import CheckpointError, Error, InvalidArgumentError

from ..importers._safe_pickle import RefusedPickleError
from ..importers.dcp import DistributedCheckpoint
from ._workers import Workers

__all__ = ["Checkpoints", "Kept", "as_bytes", "from_bytes"]

# torch tells everyone who saves in one process that they do.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)

_NAME = re.compile(r"step-(\d+)")
_LATEST = "latest"


class Checkpoints:
    """The folder of a run's checkpoints, in this process."""

    def __init__(self, folder: str | Path, keep: int, workers: Workers) -> None:
        self.folder = Path(folder)
        self._keep = keep
        self._workers = workers
        self._pending: tuple[int, Future[str | None]] | None = None  # its step; what stood in the way, once it is over
        problem = None
        if workers.first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._remove_unfinished()
            except OSError as error:
                problem = f"TrainOptions: checkpoint is {folder}, which cannot be made a folder ({error.strerror}): choose another"
        problem = workers.told(problem)
        if problem is not None:
            raise InvalidArgumentError(problem)

    def latest(self) -> int | None:
        """The step of the last complete checkpoint, the same in every process."""
        found = None
        if self._workers.first:
            try:
                named = _NAME.fullmatch((self.folder / _LATEST).read_text(encoding="utf-8").strip())
            except OSError:
                named = None
            if named is not None and (self.folder / named[0]).is_dir():
                found = int(named[1])
        return self._workers.told(found)  # type: ignore[no-any-return]

    def begin(self, step: int, state: dict[str, Tensor]) -> None:
        """Copies `state`, and writes it while the training goes on; first ends what is being written."""
        self.end()
        folder = self._unfinished(step)
        self._clear(folder)
        group, alone = self._workers.checkpoint_group, not dist.is_initialized()
        begun = async_save(state, storage_writer=FileSystemWriter(folder), process_group=group, no_dist=alone)
        over: Future[str | None] = Future()
        written = begun.upload_completion if isinstance(begun, AsyncSaveResponse) else begun
        # In the thread that wrote: a run that is killed a moment later has this checkpoint.
        written.add_done_callback(lambda done: over.set_result(self._complete(step, done.exception())))
        self._pending = (step, over)

    def end(self) -> None:
        """Waits until what is being written is complete, in every process."""
        if self._pending is None:
            return
        (step, over), self._pending = self._pending, None
        problem = self._workers.told(over.result())
        if problem is not None:
            last = self.latest()
            kept = f"the last complete one is of step {last}" if last is not None else "there is no earlier one"
            raise Error(
                f"the checkpoint of step {step} could not be written to {self.folder} ({problem}); {kept}: free space, and run again to go on from there"
            )

    def save_result(self, name: str, state: dict[str, Tensor]) -> Path:
        """The weights alone, as a checkpoint `name` that `maas-rt compile` reads; complete or not there."""
        folder, final = self.folder / f".{name}", self.folder / name
        self._clear(folder)
        problem: Exception | None = None
        try:
            save(state, storage_writer=FileSystemWriter(folder), no_dist=not dist.is_initialized())
        except Exception as error:
            problem = error
        told = self._workers.told(self._exchange(folder, final, problem) if self._workers.first else None)
        if told is not None:
            raise Error(f"the trained weights could not be written to {final} ({told}): free space, and run again")
        return final

    def read(self, step: int) -> Kept:
        return Kept(self.folder / f"step-{step:08d}")

    def _complete(self, step: int, problem: BaseException | None) -> str | None:
        """Makes what was written the last checkpoint, which the first process does for all; what stood in the way."""
        if not self._workers.first:
            return None
        folder = self.folder / f"step-{step:08d}"
        return self._exchange(self._unfinished(step), folder, problem) or self._point_to(folder)

    def _exchange(self, folder: Path, final: Path, problem: BaseException | None) -> str | None:
        """`folder` becomes `final`; what stands in the way, if anything does."""
        if problem is None:
            try:
                shutil.rmtree(final, ignore_errors=True)
                folder.rename(final)
                return None
            except OSError as error:
                problem = error
        shutil.rmtree(folder, ignore_errors=True)
        return _reason(problem)

    def _point_to(self, folder: Path) -> str | None:
        try:
            beside = self.folder / f".{_LATEST}"
            with beside.open("w", encoding="utf-8") as file:
                file.write(folder.name + "\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.folder / _LATEST)
            complete = sorted(each for each in self.folder.iterdir() if _NAME.fullmatch(each.name))
            for old in complete[: -self._keep]:
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            return _reason(error)
        return None

    def _unfinished(self, step: int) -> Path:
        return self.folder / f".step-{step:08d}"

    def _clear(self, folder: Path) -> None:
        if self._workers.first:
            shutil.rmtree(folder, ignore_errors=True)
        self._workers.wait()

    def _remove_unfinished(self) -> None:
        for each in self.folder.glob(".*"):
            if each.is_dir() and (_NAME.fullmatch(each.name[1:]) or each.name == ".result"):
                shutil.rmtree(each, ignore_errors=True)


class Kept:
    """A complete checkpoint, to be read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._contents = DistributedCheckpoint(folder)
            self.tensors = self._contents.tensors()
        except (RefusedPickleError, OSError) as error:
            raise CheckpointError(
                f"{folder} cannot be read ({error}): remove it and name an older one in {folder.parent / _LATEST}"
            ) from None

    def check(self, shapes: Mapping[str, torch.Size], kinds: tuple[str, ...]) -> None:
        """Tensors of these shapes are there, and of these kinds (what names begin with) no others."""
        missing = [name for name in shapes if name not in self.tensors]
        wrong = [name for name in shapes if name in self.tensors and self.tensors[name][0] != shapes[name]]
        surplus = [name for name in self.tensors if name.startswith(kinds) and name not in shapes]
        if missing or wrong or surplus:
            raise self.misfit(surplus or missing, wrong)

    def fill(self, state: dict[str, Tensor], *, alone: bool = False) -> None:
        """Reads into these tensors, each in its own layout. They must be there, with their shapes. `alone`: other processes read nothing,
        or something else, at the time."""
        self.check({name: value.shape for name, value in state.items()}, ())
        try:
            load(state, storage_reader=self._contents.reader(list(state)), no_dist=alone or not dist.is_initialized())
        except Exception as error:
            raise CheckpointError(
                f"{self._folder} cannot be read ({_reason(error)}): remove it and name an older one in {self._folder.parent / _LATEST}"
            ) from error

    def misfit(self, missing: list[str], wrong: list[str]) -> CheckpointError:
        """The error that this checkpoint is of another model."""
        name = (missing or wrong)[0].split(".", 1)[1]
        how = f"has no {name}" if missing else f"has another shape of {name}"
        return CheckpointError(
            f"{self._folder} is a checkpoint of another model or other options: it {how}; train into another folder, or give the model that it is of",
            missing=missing, misshapen=wrong,
        )  # fmt: skip

    def filled_like(self, name: str, reference: Tensor) -> Tensor:
        """An empty tensor of this name: laid out as `reference` where it has its shape."""
        size, dtype = self.tensors[name]
        if size == reference.shape:
            return torch.zeros_like(reference, dtype=dtype)
        device = reference.to_local().device if isinstance(reference, DTensor) else reference.device
        return torch.zeros(size, dtype=dtype, device="cpu" if not size else device)

    def value(self, name: str) -> Any:
        """What `as_bytes` made a tensor of."""
        if name not in self.tensors:
            raise self.misfit([name], [])
        state = {name: torch.empty(self.tensors[name][0], dtype=torch.uint8)}
        self.fill(state, alone=True)
        return from_bytes(state[name])


def as_bytes(value: Any) -> Tensor:
    """A value of JSON as a tensor of bytes."""
    return torch.frombuffer(bytearray(json.dumps(value, sort_keys=True).encode()), dtype=torch.uint8)


def from_bytes(value: Tensor) -> Any:
    return json.loads(bytes(value.tolist()))


def _reason(error: BaseException) -> str:
    """The innermost cause in a line: torch wraps what each process met."""
    failures = getattr(error, "failures", None)
    if failures:
        return _reason(next(iter(failures.values()))[0])
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__
