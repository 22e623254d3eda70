"""From what a search measured to the page: figures in words, the plot's coordinates, the template (`page.html`)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from maas_rt._whole_file import whole_file

__all__ = ["report_page", "write_report"]

_WIDTH, _HEIGHT = 640, 360  # of the plot, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 20, 50
_OBJECTIVES = {
    "latency": ("latency", "ms a run", 1e3),
    "size": ("bytes", "MB", 1e-6),
    "cost": ("cpu", "CPU ms a run", 1e3),
}


def write_report(report: Mapping[str, Any], path: str | os.PathLike[str], *, name: str, price: float = 0.05) -> None:
    """Write the page beside `path` and rename it into place. `price`: of a core for an hour.

    Raises maas_rt.Error if it cannot be written.
    """
    with whole_file(Path(path)) as file:
        file.write(report_page(report, name=name, price=price).encode())


def report_page(report: Mapping[str, Any], *, name: str, price: float = 0.05) -> str:
    """The page as text: `report` is an artifact's. What it shows is in it as JSON, too (the element "data")."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(ms=lambda s: _significant(s * 1e3), size=_size, number=_significant, percent=_percent)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    data = json.dumps(report, sort_keys=True).replace("<", "\\u003c")
    return template.render(
        name=name, r=report, price=price, plot=_plot(report), data=data,
        cost={side: report["cpu"][side] * 1e6 / 3600 * price for side in ("float", "compressed")},
    )  # fmt: skip


def _plot(report: Mapping[str, Any]) -> dict[str, Any]:
    """Points, the front, and the axes' ticks, in the plot's units."""
    key, unit, factor = _OBJECTIVES[report["budget"]["objective"]]
    tried = [t for t in report["tried"] if not t["failure"] and t["score"] is not None]
    xs, ys = [t[key] * factor for t in tried], [t["score"] for t in tried]
    x_ticks, y_ticks = _ticks([0.0, *xs]), _ticks(ys)

    def at(value: float, ticks: Sequence[float], low: float, high: float) -> float:
        span = ticks[-1] - ticks[0] or 1.0
        return round(low + (value - ticks[0]) / span * (high - low), 1)

    def x_of(value: float) -> float:
        return at(value, x_ticks, _LEFT, _WIDTH - _RIGHT)

    def y_of(value: float) -> float:
        return at(value, y_ticks, _HEIGHT - _BOTTOM, _TOP)

    points = [
        {
            "x": x_of(x), "y": y_of(t["score"]), "front": t["on_front"], "chosen": t["chosen"],
            "label": f"{_methods(t['layers'])}: score {_significant(t['score'])}, {_significant(x)} {unit}",
        }
        for t, x in zip(tried, xs)
    ]  # fmt: skip
    front = sorted(((p["x"], p["y"]) for p in points if p["front"]), key=lambda p: (p[0], -p[1]))
    return {
        "width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _WIDTH - _RIGHT, "top": _TOP, "bottom": _HEIGHT - _BOTTOM,
        "points": points, "front": " ".join(f"{x},{y}" for x, y in front), "unit": unit,
        "x_ticks": [(x_of(v), _significant(v)) for v in x_ticks], "y_ticks": [(y_of(v), _significant(v)) for v in y_ticks],
        "rows": [{**t, "methods": _methods(t["layers"])} for t in report["tried"]],
    }  # fmt: skip


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around them, 4 to 8 of them."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or abs(high) or 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    first = math.floor(low / step)
    count = math.ceil(high / step) - first
    return [round((first + i) * step, 12) for i in range(max(count, 1) + 1)]


def _methods(layers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in layers.items()) or "all in float"


def _significant(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.2e}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _size(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"
