"""How the demo tells that its training was ended, or that a way to run the model was not to be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from maas_rt.compiler.demo import failure, measure

# As torchrun of torch 2.13 reports on stderr.
REPORT = """\
E1129 08:50:30.123 torch/distributed/elastic/multiprocessing/api.py:1010] failed (exitcode: {code}) local_rank: 1 (pid: 7) of python
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
maas_rt.compiler.demo.train FAILED
Root Cause (first observed failure):
[0]:
  time      : 2024-11-29_08:50:30
  host      : here
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 7)
  error_file: <N/A>
"""


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (REPORT.format(code=-9), 1, ["rank 1", "signal 9", "memory"]),
        (REPORT.format(code=-11), 1, ["rank 1", "signal 11"]),
        ("[rank1]: RuntimeError: no space left\n" + REPORT.format(code=1), 1, ["rank 1", "status 1", "no space left"]),
        ("", -9, ["torchrun", "signal 9"]),
        ("ModuleNotFoundError: No module named 'sklearn'\n", 1, ["status 1", "sklearn"]),
    ],
)
def test_training_that_fails_is_one_sentence(text: str, status: int, words: list[str]) -> None:
    told = failure(text.splitlines(), status)
    assert "\n" not in told and all(word in told for word in words), told


def test_a_way_that_fails_is_a_row_that_says_why(tmp_path: Path) -> None:
    begun = tmp_path / "digits.pt"

    def way() -> measure.Row:
        begun.write_bytes(b"half")
        raise RuntimeError("unexpected pos 42624 vs 42520\nand more")

    row = measure._row_or_failure("eager torch", [begun], way)
    assert (row.note, begun.exists()) == ("did not finish: unexpected pos 42624 vs 42520", False)
    assert "eager torch     did not finish" in measure.table([row])
