"""The plots: distributions of latencies, throughput against block size, growth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.benchmarks.growth import AXES, Point
from tools.benchmarks.run import Record
from tools.benchmarks.workloads import BLOCK_SIZES, reading_in_blocks, supplying_in_blocks

_LATENCIES = ("pread, 1 reader", "mmap, 1 reader", "pread, process per miss")


def draw(records: list[Record], points: list[Point], directory: Path) -> list[Path]:
    """Draw what there are figures for, and return the files."""
    drawn = []
    for name, title, draw_panels in (
        ("latency", "Random 4 KiB reads that miss the kernel's cache", _latencies(records)),
        ("throughput", "Throughput against block size", _throughputs(records)),
        ("growth", "Cost of an operation, median", _growth(points)),
    ):
        if draw_panels:
            figure = Figure(
                figsize=(6.5 * min(len(draw_panels), 4), 4.8 * -(-len(draw_panels) // 4)), layout="constrained"
            )
            FigureCanvasAgg(figure)
            figure.suptitle(title)
            for number, panel in enumerate(draw_panels):
                panel(figure.add_subplot(-(-len(draw_panels) // 4), min(len(draw_panels), 4), number + 1))
            path = directory / f"{name}.png"
            figure.savefig(path, dpi=110)
            drawn.append(path)
    return drawn


Panel = Callable[[Axes], None]

_COLOURS = {
    "null": "tab:blue",
    "C null": "tab:gray",
    "nbdkit python": "tab:olive",
    "nbdkit sh": "tab:pink",
    "vmofs present": "tab:green",
    "vmofs supply": "tab:red",
    "vmofs supplying": "tab:red",
    "vmofs aux": "tab:orange",
    "vmofs answers": "tab:purple",
    "vmofs bash": "tab:brown",
}
"""A colour means the same in every plot; what has none gets the next free one."""


def _targets(records: Iterable[Record], workload: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["workload"] == workload and "value" in record:
            found.setdefault(record["target"], []).append(record)
    return dict(sorted(found.items()))


def _latencies(records: list[Record]) -> list[Panel]:
    return [_latency(workload, found) for workload in _LATENCIES if (found := _targets(records, workload))]


def _latency(workload: str, found: dict[str, list[Record]]) -> Panel:
    def panel(axes: Axes) -> None:
        for target, samples in found.items():
            curves = zip(*(sample["quantiles"] for sample in samples), strict=True)
            values = [mean(at) for at in curves]
            axes.plot(
                values,
                [index / (len(values) - 1) for index in range(len(values))],
                label=target,
                color=_COLOURS.get(target),
            )
        axes.set(xscale="log", xlabel="µs", ylabel="share of the reads", title=workload)
        _finish(axes)

    return panel


def _throughputs(records: list[Record]) -> list[Panel]:
    panels = []
    for title, name in (
        ("sequential read, not in the kernel's cache", reading_in_blocks),
        ("supplied into the kernel's cache", supplying_in_blocks),
    ):
        by_size = {size: _targets(records, name(size)) for size in BLOCK_SIZES}
        if any(by_size.values()):
            panels.append(_throughput(title, by_size))
    return panels


def _throughput(title: str, by_size: dict[int, dict[str, list[Record]]]) -> Panel:
    def panel(axes: Axes) -> None:
        for target in sorted({target for found in by_size.values() for target in found}):
            points = [
                (size // 1024, median(sample["value"] for sample in found[target]))
                for size, found in by_size.items()
                if target in found
            ]
            axes.plot(
                [size for size, _ in points],
                [value for _, value in points],
                marker="o",
                label=target,
                color=_COLOURS.get(target),
            )
        axes.set(xscale="log", yscale="log", xlabel="block, KiB", ylabel="GB/s", title=title)
        sizes = [size // 1024 for size in by_size]
        axes.set_xticks(sizes, [str(size) for size in sizes])
        _finish(axes)

    return panel


def _growth(points: list[Point]) -> list[Panel]:
    return [
        _growth_panel(where, axis, found)
        for where in ("model", "mount")
        for axis in AXES
        if (found := [point for point in points if (point["where"], point["axis"]) == (where, axis)])
    ]


def _growth_panel(where: str, axis: str, points: list[Point]) -> Panel:
    def panel(axes: Axes) -> None:
        for operation in dict.fromkeys(point["operation"] for point in points):
            curve = [(point["x"], point["us"]) for point in points if point["operation"] == operation]
            axes.plot([x for x, _ in curve], [us for _, us in curve], marker="o", label=operation)
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="µs", title=f"{where}: {axis}")
        axes.set_ylim(bottom=min(1.0, axes.get_ylim()[0]))
        _finish(axes)

    return panel


def _finish(axes: Axes) -> None:
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize="small")
