"""What the records say: a table of goals with ratios of the same round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from statistics import median

from tools.benchmarks.goals import Goal, Row, Unit
from tools.benchmarks.growth import Point
from tools.benchmarks.run import Record


@dataclass(frozen=True)
class Line:
    """One line of the table, all in text. ``met`` is None where there is nothing to be met, or nothing measured."""

    title: str
    value: str
    spread: str
    cpu: str
    against: str
    ratio: str
    goal: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """The last column."""
        return {True: "met", False: "NOT met", None: ""}[self.met]


def lines(rows: Iterable[Row], records: list[Record]) -> list[Line]:
    """Return the table."""
    return [line for row in rows for line in _lines_of(row, records)]


def growth_lines(points: list[Point]) -> list[Line]:
    """Return a line for each operation along each axis: its cost at the end, and at the beginning."""
    kinds = dict.fromkeys((point["axis"], point["where"], point["operation"]) for point in points)
    return [_growth_line(*kind, points) for kind in kinds]


def _growth_line(axis: str, where: str, operation: str, points: list[Point]) -> Line:
    kind = (axis, where, operation)
    curve = {p["x"]: p["us"] for p in points if (p["axis"], p["where"], p["operation"]) == kind}
    first, last = min(curve), max(curve)
    ratio, bound = curve[last] / curve[first], log(last) / log(first)
    return Line(
        f"growth with {axis}: {operation} ({where})",
        number(curve[last], Unit.MICROSECONDS),
        f"at {last:,}",
        "",
        f"at {first:,}: {number(curve[first], Unit.MICROSECONDS)}",
        f"{ratio:.2f}",
        f"≤ {bound:.1f}, the logarithm",
        ratio <= bound if last > first else None,
    )


def _of(records: list[Record], workload: str, target: str) -> dict[int, Record]:
    return {r["round"]: r for r in records if (r["workload"], r["target"]) == (workload, target) and "value" in r}


def _trouble(records: list[Record], workload: str, target: str) -> str:
    for record in records:
        if (record["workload"], record["target"]) == (workload, target):
            if "missing" in record:
                return f"not measured: {record['missing']}"
            if "error" in record:
                return f"failed: {record['error']}"
    return "not measured"


def _lines_of(row: Row, records: list[Record]) -> list[Line]:
    own = _of(records, row.workload, row.target)
    if not own:
        return [Line(row.title, _trouble(records, row.workload, row.target), "", "", "", "", "", None)]
    value = number(median(record[row.field] for record in own.values()), row.unit)
    return [_line(row, goal, own, value, records) for goal in row.goals] or [
        Line(row.title, value, _spread(row, own), _cpu(own), "", "", "", None)
    ]


def _line(row: Row, goal: Goal, own: dict[int, Record], value: str, records: list[Record]) -> Line:
    sign = "≤" if row.unit.less_is_better else "≥"
    spread, cpu = _spread(row, own), _cpu(own)
    if goal.target is None:
        assert goal.factor is not None
        got = median(record[row.field] for record in own.values())
        return Line(
            row.title, value, spread, cpu, "", "", f"{sign} {number(goal.factor, row.unit)}", _met(got, goal, row)
        )
    other = _of(records, row.workload, goal.target)
    bound = "" if goal.factor is None else f"{sign} {goal.factor:g}"
    ratios = [own[r][row.field] / other[r][row.field] for r in own if r in other]
    if not ratios:
        trouble = _trouble(records, row.workload, goal.target)
        return Line(row.title, value, spread, cpu, f"{goal.target} ({trouble})", "", bound, None)
    against = f"{goal.target} {number(median(record[row.field] for record in other.values()), row.unit)}"
    ratio = median(ratios)
    return Line(row.title, value, spread, cpu, against, f"{ratio:.2f}", bound, _met(ratio, goal, row))


def _met(got: float, goal: Goal, row: Row) -> bool | None:
    if goal.factor is None:
        return None
    return got <= goal.factor if row.unit.less_is_better else got >= goal.factor


def _spread(row: Row, own: dict[int, Record]) -> str:
    """Return p10, p90 and p99 of the latencies, or the range over the rounds."""
    quantiles = [record["quantiles"] for record in own.values() if "quantiles" in record]
    if row.unit is Unit.MICROSECONDS and quantiles:
        return " / ".join(number(median(q[at] for q in quantiles), row.unit).split(" ")[0] for at in (20, 180, 198))
    values = sorted(record[row.field] for record in own.values())
    return f"{number(values[0], row.unit).split(' ')[0]} .. {number(values[-1], row.unit).split(' ')[0]}"


def _cpu(own: dict[int, Record]) -> str:
    """Return the CPU time of the server and the pager for each miss."""
    spent = [record["cpu_us"] for record in own.values() if "cpu_us" in record]
    return number(median(spent), Unit.MICROSECONDS) if spent else ""


def number(value: float, unit: Unit) -> str:
    """Return a value with three digits and its unit."""
    if unit is Unit.PER_SECOND:
        return f"{value:,.0f} {unit}"
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


COLUMNS = ("work", "median", "p10 / p90 / p99, or range", "CPU", "against", "ratio", "goal", "")


def as_text(table: list[Line]) -> str:
    """Return the table for a terminal."""
    cells = [COLUMNS, *(_cells(line) for line in table)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def as_markdown(table: list[Line]) -> str:
    """Return the table for a document."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(line) for line in table)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _cells(line: Line) -> tuple[str, ...]:
    return line.title, line.value, line.spread, line.cpu, line.against, line.ratio, line.goal, line.verdict
