"""What a lecturer gets from a graded class: `grades.csv` and `summary.png`, both made from its rows."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.classroom.submissions import printable


@dataclass
class Row:
    """A line of grades.csv. Points by the grade_id of the cell; None: not graded (yet)."""

    student: str
    assignment: str
    state: str  # "graded", "to review" (a written answer waits), "damaged", "failed", "not graded"
    message: str = ""
    points: dict[str, float | None] = field(default_factory=dict)
    maximum: dict[str, float] = field(default_factory=dict)
    written_names: list[str] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def written(self) -> float | None:
        """The points of the written answers; None while one of them waits."""
        given = [self.points.get(name) for name in self.written_names]
        return None if None in given or not self.points else sum(given)

    @property
    def total(self) -> float | None:
        """All points given so far; None if the submission is not graded."""
        return sum(p for p in self.points.values() if p is not None) if self.points else None


def write_csv(path: Path, rows: list[Row]) -> None:
    """student, assignment, state, total, maximum, written, one column a task (by grade_id), message."""
    tasks = list(dict.fromkeys(name for row in rows for name in row.maximum))
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["student", "assignment", "state", "total", "maximum", "written", *tasks, "message"])
        for row in rows:
            maximum = sum(row.maximum.values()) if row.maximum else None
            numbers = [row.total, maximum, row.written, *(row.points.get(task) for task in tasks)]
            numbers = ["" if number is None else f"{number:g}" for number in numbers]
            table.writerow(
                [
                    *map(_cell_text, (row.student, row.assignment, row.state)),
                    *numbers,
                    _cell_text(row.message),
                ]
            )
    os.replace(temporary, path)


def _cell_text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    text = printable(text.replace("\n", " "))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def write_summary(path: Path, rows: list[Row]) -> None:
    """For the lecturer: of each assignment, how the points of each task and of the whole are distributed (a PNG).

    Assignments without a graded submission are left out; without any, the file is removed.
    """
    graded = [row for row in rows if row.points]
    names = sorted({row.assignment for row in graded})
    if not names:
        path.unlink(missing_ok=True)
        return
    from course_lib import plotting  # imports PyTorch: only when there is something to draw

    plotting.use_style()
    of = {name: [row for row in graded if row.assignment == name] for name in names}
    heights = [1.6 + 0.36 * len(_tasks(of[name])) for name in names]
    figure = Figure(figsize=(11, sum(heights)))
    axes = figure.subplots(
        len(names), 2, squeeze=False, gridspec_kw={"width_ratios": (3, 2), "height_ratios": heights}
    )
    for name, (left, right) in zip(names, axes, strict=True):
        others = [row for row in rows if row.assignment == name and not row.points]
        _draw_tasks(left, name, of[name])
        _draw_totals(right, of[name], len(others))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    write_bytes(path, plotting.png(figure))


def _tasks(rows: list[Row]) -> dict[str, float]:
    return {task: maximum for row in rows for task, maximum in row.maximum.items()}


def _draw_tasks(ax: Axes, name: str, rows: list[Row]) -> None:
    """Each task a bar: the shares of full, partial and no points, and of answers that wait; at the right the first."""
    tasks = _tasks(rows)
    kinds_of_points = {
        "all points": lambda p, m: p is not None and p >= m,
        "some": lambda p, m: p is not None and 0 < p < m,
        "none": lambda p, m: p is not None and p <= 0,
        "not graded yet": lambda p, m: p is None,
    }
    starts = [0.0] * len(tasks)
    for (label, fits), (colour, hatch) in zip(kinds_of_points.items(), _FILLS, strict=True):
        shares = [
            100 * sum(fits(row.points.get(task), maximum) for row in rows) / len(rows)
            for task, maximum in tasks.items()
        ]
        ax.barh(
            range(len(tasks)), shares, left=starts, label=label, color=colour, hatch=hatch, edgecolor="white"
        )
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
        if label == "all points":
            for position, share in enumerate(shares):
                ax.annotate(f" {share:.0f} %", (100, position), va="center", annotation_clip=False)
    ax.set_yticks(range(len(tasks)), [f"{task} ({maximum:g})" for task, maximum in tasks.items()])
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), title=name, xlabel="share of the submissions in %; at the right: solved")


_FILLS = (("#006097", ""), ("#1E9BD7", "//"), ("#C58700", ".."), ("#D9D9D9", ""))


def _draw_totals(ax: Axes, rows: list[Row], others: int) -> None:
    maximum = sum(_tasks(rows).values())
    totals = [row.total for row in rows]
    waiting = sum(row.state == "to review" for row in rows)
    width = max(1.0, maximum / 40)
    edges = [(i - 0.5) * width for i in range(round(maximum / width) + 2)]
    ax.hist(totals, bins=edges, color=_FILLS[0][0], edgecolor="white")
    ax.axvline(median(totals), color="black", linestyle="--", label=f"median {median(totals):g}")
    ax.yaxis.get_major_locator().set_params(integer=True)
    title = f"{len(rows)} graded" + f", {waiting} wait for a grader" * bool(waiting)
    ax.set(title=title + f"\n{others} without a grade" * bool(others), xlabel=f"points of {maximum:g}")
    ax.set_ylabel("submissions")
    ax.legend(frameon=False)


def write_bytes(path: Path, content: bytes) -> None:
    """As `write`, for bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
