"""An assignment of two tasks and a written question, small enough to be graded many times in the tests."""

import json
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.classroom.judge import CellResult, Output, Verdict
from course_lib.classroom.sandbox import SandboxMissing, require_bubblewrap
from course_lib.classroom.submissions import attempt

NAME = "ex01_tiny"

IMPORTS = "import torch"
SQUARE = '''def square(x):
    """x², elementwise. x: tensor (N,) → tensor (N,)."""
    ### BEGIN SOLUTION
    return x * x
    ### END SOLUTION'''
SQUARE_TEST = """import torch
from course_lib.classroom import checks

checks.close(square(torch.tensor([2.0])), torch.tensor([4.0]), "the square of 2 is 4")
### BEGIN HIDDEN TESTS
secret_input = torch.tensor([-3.0])
checks.close(square(secret_input), torch.tensor([9.0]), "a negative number has a positive square")
### END HIDDEN TESTS"""
DOUBLE = '''def double(x):
    """2x, elementwise. x: tensor (N,) → tensor (N,)."""
    ### BEGIN SOLUTION
    return x + x
    ### END SOLUTION'''
DOUBLE_TEST = (
    SQUARE_TEST.replace("square(", "double(").replace("[9.0]", "[-6.0]").replace("square of 2", "double of 2")
)
WHY = "Because a product of two numbers of one sign is positive: the model answer. (2 points: says *sign*.)"


def grader(name, *, grade=False, solution=False, locked=False, points=None):
    """nbgrader's metadata of a cell."""
    entry = {
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
        "grade_id": name,
        "schema_version": 3,
    }
    return {"nbgrader": entry | ({"points": points} if points is not None else {})}


def source() -> nbformat.NotebookNode:
    """The instructor's notebook: 3 + 4 points by tests, 2 by hand."""
    cells = [
        new_markdown_cell("# A tiny assignment"),
        new_code_cell(IMPORTS, metadata=grader("imports", locked=True)),
        new_code_cell(SQUARE, metadata=grader("square", solution=True)),
        new_code_cell(SQUARE_TEST, metadata=grader("square-test", grade=True, locked=True, points=3)),
        new_code_cell(DOUBLE, metadata=grader("double", solution=True)),
        new_code_cell(DOUBLE_TEST, metadata=grader("double-test", grade=True, locked=True, points=4)),
        new_markdown_cell("Why is a square never negative?"),
        new_markdown_cell(WHY, metadata=grader("why", grade=True, solution=True, points=2)),
    ]
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def write_source(folder: Path) -> Path:
    """A course with this one assignment; returns its source folder."""
    path = folder / "source" / NAME / f"{NAME}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(source(), path)
    return folder / "source"


def answer(
    square="return x * x", double="return x + x", why="Both factors have one sign."
) -> nbformat.NotebookNode:
    """A student's notebook, in which these lines stand in place of the stubs."""
    notebook = source()
    by_name = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in notebook.cells}
    by_name["square"].source = f"def square(x):\n    {square}"
    by_name["double"].source = f"def double(x):\n    {double}"
    by_name["why"].source = why
    for name in ("square-test", "double-test"):
        by_name[name].source = by_name[name].source.split("### BEGIN")[0].rstrip()
    return notebook


def submit(folder: Path, student: str, notebook=None, *, assignment=NAME, name=None) -> Path:
    """Put a notebook (or bytes) where a student's submission lies; returns its path."""
    path = folder / student / assignment / (name or f"{assignment}.ipynb")
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(notebook, bytes):
        path.write_bytes(notebook)
    else:
        path.write_text(json.dumps(notebook if notebook is not None else answer()), encoding="utf-8")
    return path


def stand_in(source, submission, *, seed, unsafe) -> Verdict:
    """In place of the judge, for tests of what happens around it: reads the solution instead of running it."""
    text = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell.source for cell in submission.cells}
    right = {
        "square-test": "x * x" in text.get("square", ""),
        "double-test": "x + x" in text.get("double", ""),
    }
    cells = {
        name: CellResult(passed, "" if passed else f"{name} failed", 0.0) for name, passed in right.items()
    }
    return Verdict(cells, [Output(ran=True) for _ in submission.cells], None, 0.0)


def serially(function, jobs, workers):
    """In place of `grading.in_parallel`: in this process, one after the other."""
    for job in jobs:
        yield job, attempt(function, job)


def sandboxed() -> bool:
    """Whether submissions can be graded in the sandbox on this machine."""
    try:
        require_bubblewrap()
    except SandboxMissing:
        return False
    return True
