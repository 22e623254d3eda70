"""What must be reached, what is aimed at, and what was measured: the table that the gauntlet ends with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One target. `measured` is None where this run has no figure, and `note` says why or from what."""

    title: str
    must: float
    aim: float
    measured: float | None
    note: str = ""
    at_most: bool = False
    show: Callable[[float], str] = "{:.2f}".format

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        sign = -1 if self.at_most else 1
        if sign * self.measured >= sign * self.aim:
            return "aim reached"
        return "reached" if sign * self.measured >= sign * self.must else "MISSED"

    def cells(self) -> list[str]:
        sign = "≤" if self.at_most else "≥"
        measured = "" if self.measured is None else self.show(self.measured)
        return [self.title, f"{sign} {self.show(self.must)}", f"{sign} {self.show(self.aim)}", measured, self.verdict]


def geometric_mean(values: Sequence[float]) -> float | None:
    return statistics.geometric_mean(values) if values else None


def counted(rows: Sequence[dict[str, Any]], precision: str = "fp32", **where: int) -> list[dict[str, Any]]:
    """Rows that count: of quiet moments, with outputs of ours that agree, and a peer to compare with."""
    return [
        row
        for row in rows
        if row["precision"] == precision
        and all(row[name] == value for name, value in where.items())
        and row["quiet"]
        and row["speed_to_best"] is not None
    ]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"


def fraction(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"1/{1 / value:.1f}"


def lines(rows: Sequence[dict[str, Any]], extras: dict[str, Any]) -> list[Line]:
    """The table, from the rows and the further measurements of one run; either may be incomplete."""
    return [
        *_speeds(rows),
        _slowest(rows),
        *_int8(rows),
        *_gemm(extras.get("gemm")),
        *_scaling(extras.get("scaling")),
        _together(extras.get("together")),
        _cliffs(extras.get("cliffs")),
        *_overhead(extras.get("overhead")),
        *_others(rows, extras),
    ]


def _speeds(rows: Sequence[dict[str, Any]]) -> list[Line]:
    result = []
    settings = sorted({(row["batch"], row["threads"]) for row in rows} | {(1, 1), (1, 2), (8, 1), (8, 2)})
    for batch, threads in settings:
        here = counted(rows, threads=threads, batch=batch)
        every = [r for r in rows if (r["precision"], r["threads"], r["batch"]) == ("fp32", threads, batch)]
        note = f"{len(here)} models" + (f" of {len(every)}; the others do not count" if len(here) < len(every) else "")
        title = (
            f"fp32 against each model's best peer, geometric mean: {threads} thread{'s'[: threads > 1]}, batch {batch}"
        )
        result.append(Line(title, 1.0, 1.25, geometric_mean([r["speed_to_best"] for r in here]), note if every else ""))
    return result


def _slowest(rows: Sequence[dict[str, Any]]) -> Line:
    here = counted(rows)
    if not here:
        return Line("slowest single model against its best peer", 0.8, 1.0, None)
    row = min(here, key=lambda r: float(r["speed_to_best"]))
    note = f"{row['model']}, threads {row['threads']}, batch {row['batch']}, against {row['best_peer']}"
    return Line("slowest single model against its best peer", 0.8, 1.0, row["speed_to_best"], note)


def _int8(rows: Sequence[dict[str, Any]]) -> list[Line]:
    here = counted(rows, "int8")
    quantized = {(r["model"], r["threads"], r["batch"]): r for r in here}
    result = [
        Line(
            "int8 against the best peer's int8, geometric mean",
            1.0,
            1.25,
            geometric_mean([r["speed_to_best"] for r in here]),
            f"{len(here)} models" if here else "",
        )
    ]
    for model in ("resnet50", "bert_base"):
        ours = quantized.get((model, 1, 1))
        full = [r for r in counted(rows, threads=1, batch=1) if r["model"] == model]
        value = full[0]["median_ms"]["maas_rt"] / ours["median_ms"]["maas_rt"] if ours and full else None
        result.append(Line(f"int8 against our own fp32: {model}", 1.35, 1.6, value))
    return result


def _gemm(gemm: dict[str, Any] | None) -> list[Line]:
    title = "f32 GEMM 384 to 2048 cubed, share of the FMA peak, 1 thread: the lowest"
    if gemm is None:
        return [Line(title, 0.85, 0.92, None, show=percent)]
    size, share = min(gemm["share_of_peak"].items(), key=lambda item: item[1])
    return [Line(title, 0.85, 0.92, share, f"at {size}", show=percent)]


def _scaling(scaling: dict[str, Any] | None) -> list[Line]:
    return [
        Line(f"2 threads against 1: {model}", 1.75, 1.9, (scaling or {}).get(model, {}).get("speed"))
        for model in ("resnet50", "bert_base")
    ]


def _together(together: dict[str, Any] | None) -> Line:
    title = "two models at once, throughput against one after the other: the lowest"
    if not together:
        return Line(title, 0.9, 1.0, None)
    pair = min(together, key=lambda each: float(together[each]["throughput"]))
    return Line(title, 0.9, 1.0, together[pair]["throughput"], pair)


def _cliffs(cliffs: dict[str, Any] | None) -> Line:
    title = "time per item at batch or sequence n + 1, against n: the highest"
    if not cliffs:
        return Line(title, 1.5, 1.25, None, at_most=True)
    case = max(cliffs, key=lambda each: float(cliffs[each]["worst_step"]))
    return Line(title, 1.5, 1.25, cliffs[case]["worst_step"], f"{case}, at {cliffs[case]['at']}", at_most=True)


def _overhead(overhead: dict[str, Any] | None) -> list[Line]:
    def ratio(ours: str) -> float | None:
        return overhead["ratio"][ours] if overhead else None

    title = "call overhead, two-layer MLP, against ONNX Runtime from Python: "
    return [
        Line(title + "our C API", 1 / 8, 1 / 20, ratio("c"), at_most=True, show=fraction),
        Line(title + "our Python", 1 / 3, 1 / 6, ratio("python"), at_most=True, show=fraction),
    ]


def _others(rows: Sequence[dict[str, Any]], extras: dict[str, Any]) -> list[Line]:
    compile_, library = extras.get("compile_time"), extras.get("library")
    memory = {
        row["model"]: row["memory_bytes"]["maas_rt"] / row["memory_bytes"]["onnxruntime"]
        for row in rows
        if (row["precision"], row["threads"], row["batch"]) == ("fp32", 1, 1)
        and {"maas_rt", "onnxruntime"} <= row["memory_bytes"].keys()
    }
    worst = max(memory, key=lambda model: memory[model]) if memory else ""
    note = f"{worst}; geometric mean {geometric_mean(list(memory.values())):.2f}" if memory else ""
    return [
        Line(
            "compile of ResNet-50, against torch.compile's first call",
            0.5,
            0.2,
            compile_["ratio"] if compile_ else None,
            at_most=True,
        ),
        Line(
            "peak memory to load and run, against ONNX Runtime: the model with the highest",
            1.0,
            0.7,
            memory.get(worst),
            note,
            at_most=True,
        ),
        Line(
            "libmaas_rt.so, stripped",
            1.5e6,
            1e6,
            library["stripped_bytes"] if library else None,
            at_most=True,
            show=megabytes,
        ),
    ]


def text(table: Sequence[Line]) -> str:
    """The table for a terminal."""
    cells = [["", "must", "aim", "measured", ""]] + [line.cells() for line in table]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    result = []
    for row, line in zip(cells, [None, *table], strict=True):
        shown = [row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4].ljust(widths[4])]
        note = f"({line.note})" if line and line.note else ""
        result.append("  ".join([*shown, note]).rstrip())
    return "\n".join(result)


def records(table: Sequence[Line]) -> list[dict[str, Any]]:
    """The table for JSON."""
    return [
        {
            "target": line.title,
            "must": line.must,
            "aim": line.aim,
            "measured": line.measured,
            "at_most": line.at_most,
            "verdict": line.verdict,
            "note": line.note,
        }
        for line in table
    ]
