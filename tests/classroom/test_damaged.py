"""Damaged submissions through the real pipeline: each is reported, none stops the run or costs another's grade."""

import json
import os
import socket

import nbformat
import pytest
import tiny_course as tiny
from nbformat.v4 import new_code_cell

from course_lib.classroom import grading
from course_lib.classroom.submissions import Damaged, parse, read_bytes, repair

NAME = tiny.NAME


def cell_named(notebook, name):
    return next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == name)


def without(*names):
    notebook = tiny.answer()
    notebook.cells = [
        c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") not in names
    ]
    return notebook


def doubled():
    """A second, wrong copy of a solution cell, and a second copy of its test."""
    notebook = tiny.answer()
    copies = [json.loads(json.dumps(cell_named(notebook, name))) for name in ("square", "square-test")]
    copies[0]["source"] = "def square(x):\n    return x"
    for number, copy in enumerate(copies):
        notebook.cells.append(nbformat.from_dict({**copy, "id": f"copy{number}"}))
    return notebook


def retyped():
    """The code of one task made text, a written answer made code, a test made text."""
    notebook = json.loads(json.dumps(tiny.answer()))
    for cell in notebook["cells"]:
        name = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if name in ("square", "double-test"):
            cell["cell_type"] = "markdown"
            del cell["outputs"], cell["execution_count"]
        if name == "why":
            cell.update(cell_type="code", outputs=[], execution_count=None)
    return notebook


def reordered():
    notebook = tiny.answer()
    notebook.cells = notebook.cells[::-1]
    return notebook


def edited():
    """Tests that say yes, imports that were changed."""
    notebook = tiny.answer(double="return 3 * x")
    cell_named(notebook, "double-test").source = "pass"
    cell_named(notebook, "imports").source = "import torch as np"
    return notebook


def other_kernel():
    notebook = tiny.answer()
    notebook.metadata = {"kernelspec": {"name": "ir", "language": "R", "display_name": "R"}, "title": "x"}
    return notebook


def flooded():
    """20 MB of stored output and a cell that prints as much."""
    notebook = tiny.answer()
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="x" * 20_000_000)]
    notebook.cells.append(new_code_cell("print('y' * 20_000_000)"))
    return notebook


WHOLE = json.dumps(tiny.answer()).encode()
# student: (what is handed in, points of square-test, double-test (None: no grade at all), what the message says)
CASES = {
    "a-good": (tiny.answer(), (3, 4), ""),
    "deleted-solution": (without("square"), (0, 4), "the cell square was deleted"),
    "deleted-tests": (
        without("square-test", "double-test", "imports"),
        (3, 4),
        "the cell double-test was deleted",
    ),
    "deleted-all": (nbformat.v4.new_notebook(), (0, 0), "the cell why was deleted"),
    "doubled": (doubled(), (3, 4), "the cell square is there more than once: the first counts"),
    "retyped": (retyped(), (3, 4), "the cell square was made a markdown cell: it counts as code"),
    "reordered": (reordered(), (3, 4), "the cells are in another order than in the assignment"),
    "edited": (edited(), (3, 0), "the cell double-test was changed: the original counts"),
    "other-kernel": (other_kernel(), (3, 4), "the notebook asks for the kernel 'ir'"),
    "flooded": (flooded(), (3, 4), ""),
    "not-utf8": (WHOLE.replace(b"Both", b"B\xf6th"), None, "the file is not UTF-8 text"),
    "truncated": (WHOLE[: len(WHOLE) // 2], None, "the file is not a whole notebook"),
    "empty": (b"", None, "the file is empty"),
    "no-notebook": (b'{"cells": 3, "nbformat": 4}', None, "the notebook has no list of cells"),
    "a-list": (b"[1]", None, "not a notebook of format 4"),
    "z-good": (tiny.answer(double="return 3 * x"), (3, 0), ""),
}
ODD = {
    "folder": "a folder in place of the file",
    "link": "a symbolic link in place of the file",
    "linked-folder": "a symbolic link in place of the folder",
    "pipe": "a special file in place of the file",
    "two-names": "no ex01_tiny.ipynb in the folder; there is: a.ipynb, b.ipynb",
    "nothing": "no ex01_tiny.ipynb in the folder; there is: no notebook",
    "file-as-folder": "a file in place of the assignment's folder",
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """All of them, graded in one run: (folder of the graded class, {(student, assignment): row})."""
    folder = tmp_path_factory.mktemp("damaged")
    source, submissions = tiny.write_source(folder), folder / "in"
    for student, (notebook, _, _) in CASES.items():
        tiny.submit(submissions, student, notebook)
    tiny.submit(submissions, "wrong-name", name="homework (1).ipynb")
    tiny.submit(submissions, "נועה כהן")
    secret = tiny.submit(folder / "elsewhere", "secret")
    for student in set(ODD) - {"file-as-folder", "linked-folder"}:
        (submissions / student / NAME).mkdir(parents=True)
    (submissions / "folder" / NAME / f"{NAME}.ipynb").mkdir()
    (submissions / "link" / NAME / f"{NAME}.ipynb").symlink_to(secret)
    (submissions / "linked-folder").mkdir()
    (submissions / "linked-folder" / NAME).symlink_to(secret.parent)
    os.mkfifo(submissions / "pipe" / NAME / f"{NAME}.ipynb")
    for name in ("a", "b"):
        tiny.submit(submissions, "two-names", name=f"{name}.ipynb")
    (submissions / "file-as-folder").mkdir()
    (submissions / "file-as-folder" / NAME).write_text("x")
    tiny.submit(submissions, "other-assignment", assignment="ex99")
    tiny.submit(submissions, "st*r")
    (submissions / "a-good" / f"{NAME}.ipynb").write_bytes(b"a copy in the wrong place")
    (submissions / "loose.ipynb").write_bytes(WHOLE)
    (submissions / ".DS_Store").write_text("x")
    rows = grading.grade(
        submissions, folder / "out", source=source, jobs=2, unsafe=not tiny.sandboxed(), progress=False
    )
    return folder / "out", {(row.student, row.assignment): row for row in rows}


@pytest.mark.parametrize("student", CASES)
def test_each_is_graded_or_reported(graded, student):
    folder, rows = graded
    row = rows[student, NAME]
    _, points, message = CASES[student]
    if points is None:
        assert (row.state, row.total, row.points) == ("damaged", None, {})
    else:
        assert (row.points["square-test"], row.points["double-test"]) == points
        assert row.state in ("graded", "to review")
    assert message in row.message
    assert bool(message) == bool(row.message)
    page = (folder / "feedback" / student / NAME / f"{NAME}.html").read_text(encoding="utf-8")
    assert message.replace("'", "&#39;") in page or message.replace("'", "&#x27;") in page or message in page
    assert len(page) < 500_000


@pytest.mark.parametrize("student", ODD)
def test_what_is_no_file_is_reported(graded, student):
    row = graded[1][student, NAME]
    assert (row.state, row.total) == ("damaged", None)
    assert ODD[student] in row.message


def test_other_places_and_names(graded):
    _, rows = graded
    row = rows["wrong-name", NAME]
    assert (row.total, row.message) == (
        7,
        "the file has the name 'homework (1).ipynb' in place of 'ex01_tiny.ipynb'",
    )
    assert rows["נועה כהן", NAME].total == 7
    assert rows["other-assignment", "ex99"].message == "no assignment has the name of this folder"
    assert rows["st*r", ""].message == "nbgrader cannot take this folder's name: rename it"
    assert rows["loose", ""].message == "a notebook outside a student's folder"
    assert rows["a-good", f"{NAME}.ipynb"].message == "a notebook outside an assignment's folder"
    assert len(rows) == len(CASES) + len(ODD) + 6


def test_a_link_gives_nothing_away(graded):
    folder, _ = graded
    for student in ("link", "linked-folder"):
        assert not (folder / "autograded" / student).exists()
        assert "Both factors" not in (folder / "feedback" / student / NAME / f"{NAME}.html").read_text()


# --- reading and repairing, without the pipeline ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"nbformat": 5, "cells": []}', "nbformat is '5'"),
        (b'{"nbformat": 4, "cells": [1]}', "a cell of the notebook is not a cell"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": 5}]}', "no text"),
        (b'{"nbformat": 2, "worksheets": 7}', "old format 2"),
        (json.dumps({"nbformat": 4, "cells": [{"source": ""}] * 1_001}).encode(), "1001 cells"),
        (json.dumps({"nbformat": 4, "cells": [{"source": "x" * 1_000_001}]}).encode(), "more than 1,000,000"),
    ],
)
def test_parse_says_what_is_wrong(content, message):
    with pytest.raises(Damaged, match=message):
        parse(content)


def test_parse_takes_text_grade_ids_and_pictures_only():
    picture = {"image/png": "aGk=", "text/html": "<b>", "image/svg+xml": "PHN2Zz4="}
    cells = [
        {"cell_type": "markdown", "source": ["a\n", "b \ud800"], "attachments": {"p.png": picture, "q": 3}},
        {
            "cell_type": "code",
            "source": "1",
            "metadata": {"nbgrader": {"grade_id": "kl", "points": 99}, "tags": ["x"]},
        },
        {"cell_type": "raw", "source": "~~~\n<b>", "metadata": {"raw_mimetype": "text/html"}},
        {"cell_type": "code", "source": "2", "metadata": {"nbgrader": "yes"}, "outputs": "none"},
    ]
    notebook, remarks = parse(b"\xef\xbb\xbf" + json.dumps({"nbformat": 4, "cells": cells}).encode())
    assert [cell.source for cell in notebook.cells] == ["a\nb ?", "1", "~~~\n\n<b>\n~~~", "2"]
    assert [cell.metadata for cell in notebook.cells] == [{}, {"nbgrader": {"grade_id": "kl"}}, {}, {}]
    assert notebook.cells[0].attachments == {"p.png": {"image/png": "aGk="}}
    assert remarks == []
    nbformat.validate(notebook)


def test_an_old_notebook_is_converted():
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": [
        {"cell_type": "code", "input": "x = 1", "outputs": [], "language": "python", "collapsed": False, "metadata": {}}
    ]}]}  # fmt: skip
    notebook, _ = parse(json.dumps(old).encode())
    assert [cell.source for cell in notebook.cells] == ["x = 1"]


def test_read_bytes_refuses_what_is_too_large(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(50_000_001)
    with pytest.raises(Damaged, match="at most 50 MB"):
        read_bytes(tmp_path / "a")


def test_read_bytes_refuses_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(Damaged, match="cannot be read"):
            read_bytes(tmp_path / "s")


def test_repair_keeps_the_students_order_and_fills_the_gaps():
    released = tiny.answer()
    for name in ("square", "double", "why"):
        cell_named(released, name).source = f"stub of {name}"
    submission, _ = parse(json.dumps(without("square", "double-test")).encode())
    submission.cells.reverse()
    repaired = repair(submission, released)
    names = [cell.metadata.get("nbgrader", {}).get("grade_id", "-") for cell in repaired.notebook.cells]
    assert names == ["why", "-", "double", "double-test", "square-test", "imports", "square", "-"]
    assert [i for i in range(8) if i not in repaired.judged] == [6]
    assert "deleted" in repaired.notebook.cells[6].source
    assert cell_named(repaired.notebook, "why").source == "Both factors have one sign."
    assert cell_named(repaired.notebook, "square-test").metadata.nbgrader.points == 3
    nbformat.validate(repaired.notebook)


def test_repair_takes_the_first_of_two():
    submission, _ = parse(json.dumps(doubled()).encode())
    repaired = repair(submission, tiny.answer())
    copies = [cell for cell in repaired.notebook.cells if cell.source.startswith("def square")]
    assert [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in copies] == ["square", None]
    assert "return x * x" in copies[0].source


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("a < b, $a<b$ and $1<2$", "a < b, $a< b$ and $1<2$"),
        ("<script>steal()</script>", "< script>steal()< /script>"),
        ("[x](javascript:steal())", "[x](javascript :steal())"),
        ("[x](JavaScript\\:steal())", "[x](JavaScript \\:steal())"),
        ("[x](java&#115;cript:steal())", "[x](java& #115;cript:steal())"),
        ("$a &= b$ & c", "$a &= b$ & c"),
    ],
)
def test_a_students_markdown_opens_no_tag_and_no_script(text, harmless):
    submission = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    assert repair(submission, nbformat.v4.new_notebook()).notebook.cells[0].source == harmless
