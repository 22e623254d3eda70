"""Progress on stderr for what takes more than a second: tqdm, told of stages and fractions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from maas_rt._errors import MissingExtraError

from ._stray import without_stray_lines

Progress = Callable[[str, float], None]


@contextmanager
def reporter(enabled: bool = True) -> Iterator[Progress]:
    """A callback `(stage, fraction done)` that draws a bar, on a terminal and only once a second has passed; meanwhile TVM's own
    lines are kept off it."""
    if not enabled:
        with without_stray_lines():
            yield lambda stage, fraction: None
        return
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise MissingExtraError("the compiler", "compiler", "tqdm") from error
    with (
        without_stray_lines() as terminal,
        tqdm(
            total=100,
            delay=1.0,
            file=terminal,
            leave=False,
            disable=None if sys.stderr.isatty() else True,
            bar_format="{desc:<28} {percentage:3.0f}% |{bar:24}| {elapsed}",
        ) as bar,
    ):

        def update(stage: str, fraction: float) -> None:
            bar.set_description_str(stage, refresh=False)
            bar.update(max(0.0, 100 * fraction - bar.n))

        yield update
