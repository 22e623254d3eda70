"""The table, from rows and what was measured of them: as text for a terminal, and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._rows import Goal, Row

HEAD = ("row", "figure", "must", "aim", "ours", "peer's", "reached")
Lines = list[tuple[str, ...]]


def lines(rows: Iterable[Row], measured: Mapping[str, Mapping[str, Any]]) -> Lines:
    """A line a goal. A row that was not measured says so, one that failed says why."""
    found: Lines = []
    for row in rows:
        record = measured.get(row.name)
        title = row.title + (" (busy)" if record is not None and row.timed and not record.get("quiet") else "")
        for number, goal in enumerate(row.goals):
            bounds = (goal.figure, goal.told(goal.must), goal.told(goal.aim))
            found.append((title if not number else "", *bounds, *_figures(goal, record)))
    return found


def _figures(goal: Goal, record: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if record is None:
        return "", "", "not measured"
    if "error" in record:
        return "", "", f"failed: {record['error']}"
    peer = goal.best(record["peers"])
    ours = record["ours"].get(goal.figure)
    told = f"{_number(peer[1])} ({peer[0]})" if peer is not None else ""
    if ours is None:
        return "", told, "not measured"
    return _number(ours), told, goal.reached(ours, peer[1] if peer is not None else None)


def _number(value: float) -> str:
    return f"{value:.4f}" if 0.9 <= abs(value) < 1 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def text(table: Lines) -> str:
    """Columns as wide as they need to be."""
    widths = [max(len(line[column]) for line in [HEAD, *table]) for column in range(len(HEAD))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [HEAD, *table]]
    return "\n".join([shown[0], rule, *shown[1:]])


def markdown(table: Lines) -> str:
    """The same for a page."""
    body = ["| " + " | ".join(line) + " |" for line in table]
    return "\n".join(["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|", *body])
