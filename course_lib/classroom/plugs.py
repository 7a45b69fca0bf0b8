"""nbgrader, as this course uses it: its settings, and the three preprocessors that they plug in.

`RecordedVerdict` stands where nbgrader would run a submission and its tests together; it puts in what the judge found
out, so that points, gradebook and formgrader work as ever. `HideTests` and `FeedbackText` make the feedback fit to be
handed out. `notebooks/exercises/nbgrader_config.py` names them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output
from nbgrader.api import Gradebook
from nbgrader.apps.api import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import ClearHiddenTests, NbGraderPreprocessor
from sqlalchemy.exc import SAWarning
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from course_lib.classroom.submissions import grade_id, is_test, is_written, printable

CONFIG = Path(__file__).resolve().parents[2] / "notebooks" / "exercises" / "nbgrader_config.py"
STATE = ".state"  # the folder of a graded course where the verdicts lie


def nbgrader_on(course: Path) -> NbGraderAPI:
    """nbgrader on the course folder `course`, with this course's settings."""
    if shutil.which("alembic") is None:  # a new gradebook calls it by name: it lies beside this Python
        os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)  # its log comes back with each call
    config = PyFileConfigLoader(CONFIG.name, path=str(CONFIG.parent)).load_config()
    config.merge(Config({"CourseDirectory": {"root": str(course)}}))
    return NbGraderAPI(coursedir=CourseDirectory(config=config), config=config)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings about nbgrader's use of SQLAlchemy, which say nothing to a lecturer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)
        yield


def last_line(result: dict) -> str:
    """Why nbgrader failed, in a line, from what a call of its API returned."""
    text = (result.get("error") or result.get("log") or "").strip()
    return printable(text.splitlines()[-1]) if text else ""


def state_file(course: Path, assignment: str, student: str) -> Path:
    """Where the verdict on this submission lies."""
    return course / STATE / assignment / f"{student}.json"


class RecordedVerdict(NbGraderPreprocessor):
    """In place of nbgrader's Execute: the outputs that the judge recorded, and for each test cell its verdict.

    nbgrader reads the points from the outputs: an error is none, anything else is all of them.
    """

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Fill in the outputs; RuntimeError if there is no verdict on exactly this notebook."""
        where = resources["nbgrader"]
        path = state_file(
            Path.cwd(), where["assignment"], where["student"]
        )  # nbgrader works in the course's folder
        if not path.is_file():
            raise RuntimeError(f"no verdict on {where['student']}/{where['assignment']}: run `make grade`")
        state = json.loads(path.read_text(encoding="utf-8"))
        if len(state.get("outputs", ())) != len(nb.cells):
            raise RuntimeError(
                f"the verdict on {where['student']}/{where['assignment']} is on another notebook"
            )
        for cell, outputs in zip(nb.cells, state["outputs"], strict=True):
            if cell.cell_type == "code":
                name = grade_id(cell)
                cell.outputs = (
                    [_verdict(state["cells"][name])] if is_test(cell) else list(map(_output, outputs))
                )
        return nb, resources


def _verdict(result: dict) -> NotebookNode:
    if result["passed"]:
        return new_output("stream", name="stdout", text="Passed.\n")
    message = printable(result["message"]) or "not passed"
    return new_output("error", ename="Not passed", evalue=message, traceback=[f"Not passed: {message}"])


def _output(output: dict) -> NotebookNode:
    if "png" in output:
        return new_output("display_data", {"image/png": output["png"], "text/plain": "a picture"})
    if "error" in output:
        return new_output("error", ename="Error", evalue=output["error"], traceback=[output["error"]])
    return new_output("stream", name="stdout", text=output["text"])


class HideTests(ClearHiddenTests):
    """Cut the hidden tests out of the test cells, and of no other: students may write what they like into theirs."""

    def preprocess_cell(
        self, cell: NotebookNode, resources: Any, cell_index: int
    ) -> tuple[NotebookNode, Any]:
        """One cell."""
        return super().preprocess_cell(cell, resources, cell_index) if is_test(cell) else (cell, resources)


class FeedbackText(NbGraderPreprocessor):
    """Above the feedback the remarks on the submission; beside a written answer that waits for its grade, this."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Add the texts; comes after nbgrader's GetGrades."""
        where = resources["nbgrader"]
        with Gradebook(where["db_url"]) as book:
            for cell in filter(is_written, nb.cells):
                place = (where["notebook"], where["assignment"], where["student"])
                if book.find_grade(grade_id(cell), *place).needs_manual_grade:
                    cell.metadata.nbgrader["comment"] = "Not graded yet."
        path = state_file(Path.cwd(), where["assignment"], where["student"])
        remarks = json.loads(path.read_text(encoding="utf-8"))["remarks"] if path.is_file() else []
        if remarks:
            text = "\n".join(printable(remark).replace("\n", " ") for remark in remarks)
            nb.cells.insert(0, new_markdown_cell(f"**Remarks on the submitted file**\n\n~~~\n{text}\n~~~"))
        return nb, resources
