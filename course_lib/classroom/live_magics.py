"""The magics of a live copy: `%live LECTURE` (its first cell), `%check NUMBER` (after each live cell), and `%reveal`.

    %reveal            the lecture's code takes the place of this cell's text
    %reveal --diff     shows what differs from what stands below in this cell, else from what the cell last ran
    %reveal 3          the same for live cell 3, here (with --diff, too)

Which cell is meant: the front end's cell id (JupyterLab sends it), else the number in the cell's first line, else the
text, if it is the lecture's own.
"""

import difflib
import html
import re
from pathlib import Path
from typing import NamedTuple

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.display import display

from course_lib.classroom.live_check import NOT_COPIED, Before, Report, check, remember
from course_lib.classroom.live_lecture import (
    LiveCell,
    LiveError,
    code_only,
    live_cells,
    number_in,
    read_lecture,
)

_MAGIC = re.compile(r"^\s*%(reveal|check)\b.*$\n?", re.MULTILINE)


class NotRight(AssertionError):
    """A check failed; shown without the traceback of the checking code."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Typed(NamedTuple):
    """What a live cell ran last. `before` is None if the state before it is not there, and `problem` says why."""

    source: str
    before: Before | None
    problem: str = ""


@magics_class
class LiveMagics(Magics):
    """The magics, and what was typed so far."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.cells: list[LiveCell] = []
        self.typed: dict[int, Typed] = {}
        self.here: int | None = None  # the live cell that is running
        self.below = ""  # its text without the magics

    @line_magic
    def live(self, line: str) -> None:
        """%live PATH: this notebook is the live copy of the lecture at PATH."""
        try:
            self.cells = live_cells(read_lecture(Path(line.strip().strip("\"'"))))
        except LiveError as error:
            raise UsageError(str(error)) from error
        self.typed.clear()

    @line_magic
    def reveal(self, line: str) -> None:
        """%reveal [NUMBER] [--diff]: the lecture's code into this cell, or what differs from it."""
        words = line.split()
        diff = "--diff" in words
        cell = self._cell([word for word in words if word != "--diff"])
        if not diff:
            self.shell.set_next_input(cell.source, replace=True)
            return
        text = self.below if self.here == cell.number and code_only(self.below).strip() else ""
        if not text and cell.number not in self.typed:
            raise UsageError(
                f"live {cell.number}: nothing to compare yet: type the code below this line, or run it"
            )
        display(Difference(text or self.typed[cell.number].source, cell.source))

    @line_magic
    def check(self, line: str) -> None:
        """%check NUMBER: whether what was typed into this live cell is right."""
        cell = self._cell(line.split())
        name, typed = f"live {cell.number}", self.typed.get(cell.number)
        if typed is None:
            raise NotRight(
                f"{name}: nothing was typed yet{_wanted(cell)}. %reveal in its cell shows the lecture's code."
            )
        if typed.before is None:
            raise NotRight(f"{name}: {typed.problem}")
        report = check(cell.task, typed.before, typed.source, self.shell.user_ns)
        if report.problems:
            raise NotRight(_not_right(name, report))
        print(_right(name, report))

    def _cell(self, words: list[str]) -> LiveCell:
        """The live cell of this number, or the one that is running."""
        if not self.cells:
            raise UsageError("run the first cell with %live: it says which lecture this is a copy of")
        numbers = [cell.number for cell in self.cells]
        if not words and self.here is None:
            raise UsageError(
                f"which live cell? This one is none of them; say its number (1 to {numbers[-1]}), as %reveal 1"
            )
        wanted = words[0] if words else str(self.here)
        if len(words) > 1 or not wanted.isdecimal() or int(wanted) not in numbers:
            raise UsageError(f"no live cell {' '.join(words)!r}: their numbers are 1 to {numbers[-1]}")
        return self.cells[int(wanted) - 1]

    # ------------------------------------------------------------------------------------------ what the lecturer runs

    def before_cell(self, info: object) -> None:
        """IPython's pre_run_cell: if it is a live cell with code, keep its text and the state that it starts from."""
        text = info.raw_cell
        self.here = self._recognise(text, getattr(info, "cell_id", None))
        self.below = _MAGIC.sub("", text)
        if self.here is None:
            return
        if not code_only(self.below).strip():
            if (
                self.below == text
            ):  # the outline itself ran; a cell with only a magic says nothing about what was typed
                self.typed.pop(self.here, None)
            return
        source = self.shell.transform_cell(self.below)
        # The state of one cell at a time: with large data each is hundreds of megabytes.
        for number, typed in self.typed.items():
            self.typed[number] = typed._replace(
                before=None, problem="another live cell ran since; run its cell again, then this check"
            )
        self.typed[self.here] = self._remember(self.cells[self.here - 1], source)

    def _remember(self, cell: LiveCell, source: str) -> Typed:
        try:
            compile(source, "<typed>", "exec")
        except SyntaxError as error:
            return Typed(source, None, f"what was typed is no Python: {error.msg}")
        try:
            return Typed(source, remember(cell.task, self.shell.user_ns))
        except NOT_COPIED as error:
            return Typed(source, None, f"cannot be checked, the names before it cannot be copied: {error}")

    def _recognise(self, text: str, cell_id: str | None) -> int | None:
        for cell in self.cells:
            if cell_id == cell.id:
                return cell.number
        number = number_in(text)
        if number is not None and number <= len(self.cells):
            return number
        same = [cell.number for cell in self.cells if cell.source.strip() == text.strip()]
        return same[0] if same else None


def _wanted(cell: LiveCell) -> str:
    return f"; it should define {', '.join(cell.task.names)}" if cell.task.names else ""


def _not_right(name: str, report: Report) -> str:
    lines = [f"{name}: not yet right", *(f"  · {problem}" for problem in report.problems)]
    if report.random:
        lines.append("  (It draws random numbers: drawn in another order, right values differ, too.)")
    return "\n".join([*lines, "%reveal --diff in its cell shows what differs from the lecture's code."])


def _right(name: str, report: Report) -> str:
    unseen = f"not compared, no call of it was seen: {', '.join(report.unseen)}" if report.unseen else ""
    if not report.compared:
        return f"{name}: {unseen or 'there is nothing to compare'}"
    return f"✓ {name}: right ({', '.join(report.compared)})" + (f"; {unseen}" if unseen else "")


class Difference:
    """The code that was typed (−) and the lecture's (+), line by line; comments, docstrings and empty lines aside."""

    def __init__(self, typed: str, original: str) -> None:
        lines = [code_only(text).split("\n") for text in (typed, original)]
        self.lines = list(difflib.unified_diff(*lines, "typed", "the lecture", n=99, lineterm=""))[3:]

    def __repr__(self) -> str:
        if not self.lines:
            return "No difference, but for comments and empty lines."
        return "\n".join(
            [
                "− typed   + the lecture",
                *(line.replace("-", "−", 1) if line[0] == "-" else line for line in self.lines),
            ]
        )

    def _repr_html_(self) -> str:
        """In colours of different lightness; the signs say the same without any."""
        styles = {"−": "background: #ffd7d5; color: #1f1f1f", "+": "background: #abf2bc; color: #1f1f1f"}
        rows = [
            f'<span style="{styles.get(line[0], "")}">{html.escape(line)}</span>'
            if number
            else html.escape(line)
            for number, line in enumerate(repr(self).split("\n"))
        ]
        return "<pre>" + "\n".join(rows) + "</pre>"


def load(shell: InteractiveShell) -> None:
    """Register the magics; a second time they begin anew."""
    unload(shell)
    magics = LiveMagics(shell)
    shell.register_magics(magics)
    shell.events.register("pre_run_cell", magics.before_cell)
    # The cell that loads this runs already, and its own %live follows.


def unload(shell: InteractiveShell) -> None:
    """Forget what was typed and stop listening."""
    magics = shell.magics_manager.registry.get(LiveMagics.__name__)
    if magics is not None and magics.before_cell in shell.events.callbacks["pre_run_cell"]:
        shell.events.unregister("pre_run_cell", magics.before_cell)
