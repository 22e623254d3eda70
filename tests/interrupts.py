"""Ctrl-C at random moments of a compile: `python -m tests.interrupts [how many] [seed]`.

A process forked for each compiles a small model, gets a SIGINT some time between its first moment and its last, and must end by
KeyboardInterrupt (or have been done), say nothing, and leave nothing behind: no half-written file, no folder of the compiler's.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from maas_rt.compiler import compile

INTERRUPTED = 130


def main(trials: int, seed: int) -> int:
    torch.set_num_threads(1)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        tempfile.tempdir = None
        began = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(_compile(Path(folder)), 0)[1]) == 0
        whole = time.monotonic() - began
        ends: Counter[int] = Counter()
        wrong = 0
        for number in range(trials):
            for path in _files(folder):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            process = _compile(Path(folder))
            time.sleep(rng.uniform(0, whole * 1.05))
            os.kill(process, signal.SIGINT)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            ends[code] += 1
            left = [path.name for path in _files(folder)]
            said = (Path(folder) / "said").read_text().strip()
            if (code, left) not in [(INTERRUPTED, ["said"]), (0, ["model.mrt", "said"])] or said:
                wrong += 1
                print(f"{number}: ended by {code}, left {left}, said: {said}", flush=True)
        print(f"{trials} interrupts (seed {seed}): {dict(ends)}, {wrong} wrong")
    return int(wrong > 0)


def _files(folder: str) -> list[Path]:
    """But for what torch keeps."""
    return sorted(path for path in Path(folder).iterdir() if not path.name.startswith("torchinductor"))


def _compile(folder: Path) -> int:
    """A process that compiles. A signal that comes early waits until it is ready for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return process
    said = os.open(folder / "said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Softmax(-1), torch.nn.Linear(16, 4)).eval()
        compile(model, (torch.ones(3, 8),)).save(str(folder / "model.mrt"))
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException as error:
        os.write(2, repr(error).encode())
    os._exit(code)


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    sys.exit(main(*[*given, *[20, 0][len(given) :]]))
