"""Keeps what TVM's C++ code writes to stderr by itself off the terminal; everything else that is written there passes."""

from __future__ import annotations

import gc
import os
import re
import select
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["without_stray_lines"]

# "[08:28:13] /project/src/relax/ir/block_builder.cc:67: Warning: ...": no setting of TVM's wheel turns these off.
_STRAY = re.compile(rb"\[\d\d:\d\d:\d\d\] \S+\.(cc|h):\d+: ")


@contextmanager
def without_stray_lines() -> Iterator[TextIO]:
    """While it lasts, file descriptor 2 is a pipe whose lines are passed on, but for TVM's own. Gives the terminal itself, for a
    progress bar. With MAAS_RT_DEBUG set nothing is held back; nor where stderr is no file descriptor (a notebook's, a test's)."""
    if os.environ.get("MAAS_RT_DEBUG") or not _is_descriptor_2(sys.stderr):
        yield sys.stderr
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    reads, writes = os.pipe()
    os.dup2(writes, 2)
    os.close(writes)
    finished = threading.Event()
    pump = threading.Thread(target=_pass_on, args=(reads, terminal, finished), daemon=True)
    pump.start()
    try:
        with os.fdopen(os.dup(terminal), "w", encoding=sys.stderr.encoding, errors="replace") as out:
            yield out
    except BaseException as error:
        _let_go(error)
        raise
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        finished.set()  # a child that is left may hold the pipe's other end: its end is not waited for
        pump.join()


def _let_go(error: BaseException | None) -> None:
    """Destroys now what the frames of an error hold: some of TVM's objects say so."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False


def _pass_on(reads: int, terminal: int, finished: threading.Event) -> None:
    rest = b""
    while True:
        ready, _, _ = select.select([reads], [], [], 0.05)
        if not ready:
            if finished.is_set():
                break
            continue
        read = os.read(reads, 1 << 16)
        if not read:
            break
        *lines, rest = (rest + read).split(b"\n")
        _write(terminal, b"".join(line + b"\n" for line in lines if not _STRAY.match(line)))
    _write(terminal, b"" if _STRAY.match(rest) else rest)
    os.close(reads)
    os.close(terminal)


def _write(terminal: int, text: bytes) -> None:
    while text:
        text = text[os.write(terminal, text) :]
