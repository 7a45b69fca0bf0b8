"""Notebooks for the judge's tests: an assignment of two small tasks, and submissions of it."""

from __future__ import annotations

import shutil

import pytest
from nbformat import NotebookNode, v4

#: A sandbox is what these tests are about; everywhere else they must not be skipped (.ci/run installs it).
needs_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed: there is no sandbox to attack"
)
#: stands in the hidden tests only
SECRET = "the-hidden-tests-own-words"

TEST = f"""
import torch
from course_lib.classroom import checks
checks.equal(NAME(3), FACTOR * 3, "of three")
### BEGIN HIDDEN TESTS
number = int(torch.randint(10**6, 10**9, (), generator=checks.rng("NAME")))
checks.equal(NAME(number), FACTOR * number, "{SECRET}")
### END HIDDEN TESTS
"""
DOUBLE_TEST = TEST.replace("NAME", "double").replace("FACTOR", "2")
TRIPLE_TEST = TEST.replace("NAME", "triple").replace("FACTOR", "3")


def cell(text: str, grade_id: str | None = None, **settings: object) -> NotebookNode:
    """A code cell, with nbgrader's metadata if it has a grade_id."""
    made = v4.new_code_cell(text)
    if grade_id:
        defaults = {"schema_version": 3, "grade": False, "solution": False, "locked": True, "task": False}
        made.metadata["nbgrader"] = {"grade_id": grade_id, **defaults, **settings}
    return made


def solution(text: str, grade_id: str) -> NotebookNode:
    """A cell for the student to fill."""
    return cell(text, grade_id, solution=True, locked=False)


def test_cell(text: str, grade_id: str) -> NotebookNode:
    """An autograded cell."""
    return cell(text, grade_id, grade=True, points=1)


test_cell.__test__ = False


def assignment(imports: str = "import math") -> NotebookNode:
    """The instructor's notebook: `double`, its test, `triple`, its test."""
    return v4.new_notebook(
        cells=[
            cell(imports, "imports"),
            solution("def double(x):\n    return 2 * x", "double"),
            test_cell(DOUBLE_TEST, "double-test"),
            solution("def triple(x):\n    return 3 * x", "triple"),
            test_cell(TRIPLE_TEST, "triple-test"),
        ]
    )


def submission(
    double: str = "def double(x):\n    return 2 * x",
    triple: str = "def triple(x):\n    return 3 * x",
    before: tuple[str, ...] = (),
    behind: tuple[str, ...] = (),
) -> NotebookNode:
    """A student's notebook: its solutions, and cells of its own at the start and at the end."""
    made = assignment()
    made.cells[1].source, made.cells[3].source = double, triple
    made.cells = [*map(cell, before), *made.cells, *map(cell, behind)]
    return made
