"""What a run tells: JSON lines, one a step, and a picture of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import IO, Any

from maas_rt._errors import Error, InvalidArgumentError

__all__ = ["Log", "plot", "read_log"]

_WIDTH, _HEIGHT = 720, 180  # of one chart
_LEFT, _TOP, _BOTTOM = 70, 24, 24
_CHARTS = ("loss", "accuracy", "validation_loss", "validation_accuracy", "sparsity", "lr", "samples_per_second")


class Log:
    """Appends to a file of JSON lines; nothing where there is no path, as in every process but the first.

    A run that goes on from step `after` drops the lines of later ones first, so that each step stands there once.
    """

    def __init__(self, path: Path | None, after: int) -> None:
        self._path = path
        self._told: set[tuple[Any, ...]] = set()  # of a step that is told of again, behind a checkpoint in its middle
        self._file: IO[str] | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and after:
                self._keep(path, after)
                self._file = path.open("a", encoding="utf-8")
            else:
                self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise InvalidArgumentError(f"the log {path} cannot be written ({error.strerror}): choose another") from None

    def _keep(self, path: Path, after: int) -> None:
        """Leaves the lines of steps up to `after`, whatever happens meanwhile."""
        kept = {
            (line.get("step"), line.get("event")): line
            for line in reversed(read_log(path))
            if line.get("step", 0) <= after
        }
        beside = path.with_name(f".{path.name}")
        beside.write_text("".join(json.dumps(line) + "\n" for line in reversed(kept.values())), encoding="utf-8")
        beside.replace(path)
        self._told = set(kept)

    def write(self, **values: Any) -> None:
        key = (values.get("step"), values.get("event"))
        if self._file is None or key in self._told:
            return
        self._told.add(key)
        line = json.dumps({name: _rounded(value) for name, value in values.items() if value is not None})
        with self._writing():
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        """Ends the file, and draws it beside."""
        if self._file is not None and self._path is not None:
            with self._writing():
                self._file.close()
                self._file = None
                plot(self._path, self._path.with_suffix(".svg"))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()
                self._file = None
            raise Error(
                f"the log {self._path} cannot be written ({error.strerror}): free space, and run again to go on from the last checkpoint"
            ) from None


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log. A last one that was cut off with its process is left out."""
    found = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def plot(log: str | Path, picture: str | Path) -> None:
    """Draws a log as SVG: a chart for each thing that it tells, over steps."""
    lines = [line for line in read_log(log) if "step" in line]
    charts: list[str] = []
    for name in _CHARTS:
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        if len(points) > 1:
            charts.append(_chart(name.replace("_", " "), points, len(charts) * _HEIGHT))
    height = max(len(charts), 1) * _HEIGHT
    Path(picture).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(charts)}</svg>\n',
        encoding="utf-8",
    )


def _chart(name: str, points: Sequence[tuple[float, float]], top: int) -> str:
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    low, high = min(y for _, y in points), max(y for _, y in points)
    span = high - low or 1.0
    above, below = top + _TOP, top + _HEIGHT - _BOTTOM
    place = [
        (
            _LEFT + (x - first) / (last - first) * (_WIDTH - _LEFT - 16),
            below - (y - low) / span * (below - above),
        )
        for x, y in points
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    return (
        f'<text x="{_LEFT}" y="{above - 8}" font-weight="bold">{escape(name)}</text>'
        f'<text x="{_LEFT - 6}" y="{above + 4}" text-anchor="end">{high:.4g}</text>'
        f'<text x="{_LEFT - 6}" y="{below + 4}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{_LEFT}" y="{below + 16}">step {first}</text>'
        f'<text x="{_WIDTH - 16}" y="{below + 16}" text-anchor="end">{last}</text>'
        f'<path d="M{_LEFT} {above}V{below}H{_WIDTH - 16}" fill="none" stroke="#bbb"/>'
        f'<polyline points="{path}" fill="none" stroke="#1f77b4" stroke-width="1.5"/>'
    )


def _rounded(value: Any) -> Any:
    """Nine digits tell every float32 from every other; JSON has no NaN."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else str(value)
    return value
