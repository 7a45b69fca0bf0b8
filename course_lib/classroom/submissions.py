"""A student's file on its way through nbgrader: read with suspicion, repaired, judged elsewhere, shown without harm.

Whatever was done to a notebook (cells deleted, doubled, retyped, moved; another kernel; megabytes of output), what
nbgrader gets to see is a *complete* one: the released assignment's cells, each with the instructor's metadata, around
what the student wrote. Nothing but the text of the cells and pasted pictures is taken over: metadata, outputs and HTML
could hide cells, show invented scores, or run scripts in the grader's browser.

Nothing of nbgrader is imported here: this is what the worker processes of `course_lib.classroom.grading` load.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.classroom.sandbox import SandboxMissing

if TYPE_CHECKING:
    from course_lib.classroom.judge import Output  # that module imports PyTorch

MAX_BYTES = 50_000_000  # of a submitted file
MAX_CELLS = 1_000
MAX_TEXT = 1_000_000  # characters of all cells together
MAX_PICTURES = 10_000_000  # characters of base64: pasted pictures of a written answer

_PICTURES = {"image/png", "image/jpeg", "image/gif", "image/webp"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Damaged(ValueError):
    """A submission that cannot be graded; the message says what is wrong with it, for the student and the lecturer."""


# ------------------------------------------------------------------------------------------------------------- reading


def read_bytes(path: Path) -> bytes:
    """The submitted file: an ordinary one of at most 50 MB. No link is followed, no pipe is waited for."""
    if path.is_dir() and not path.is_symlink():
        raise Damaged("a folder in place of the file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        raise Damaged("the file is not there") from None
    except OSError as error:
        reason = "a symbolic link in place of the file" if error.errno == errno.ELOOP else error.strerror
        raise Damaged(f"the file cannot be read: {reason}") from None
    with os.fdopen(handle, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Damaged("a special file in place of the file")
        if status.st_size == 0:
            raise Damaged("the file is empty")
        if status.st_size > MAX_BYTES:
            raise Damaged(
                f"the file has {status.st_size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read"
            )
        return file.read(MAX_BYTES)


def parse(content: bytes) -> tuple[NotebookNode, list[str]]:
    """The notebook in `content`, of its cells only type, text, grade_id and pasted pictures; and remarks on it.

    Raises Damaged with what is wrong.
    """
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Damaged(f"the file is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise Damaged("the file is not a notebook: nested too deeply") from None
    except ValueError as error:
        raise Damaged(f"the file is not a whole notebook ({error}): was it cut off?") from None
    data = _current(data)
    cells = [_cell(cell) for cell in data["cells"]]
    if len(cells) > MAX_CELLS:
        raise Damaged(f"the notebook has {len(cells)} cells; at most {MAX_CELLS} are graded")
    if sum(len(cell.source) for cell in cells) > MAX_TEXT:
        raise Damaged(f"the notebook has more than {MAX_TEXT:,} characters in its cells")
    return new_notebook(cells=cells), _kernel_remarks(data)


def _current(data: Any) -> dict:
    """The notebook's JSON in format 4; Damaged if it is none."""
    version = data.get("nbformat") if isinstance(data, dict) else None
    if version in (1, 2, 3):
        try:
            data = nbformat.convert(nbformat.reads(json.dumps(data), as_version=version), 4)
        except Exception as error:
            raise Damaged(
                f"a notebook of the old format {version} that cannot be converted: {error}"
            ) from None
    elif version != 4:
        raise Damaged(f"the file is JSON, but not a notebook of format 4 (nbformat is {str(version)[:20]!r})")
    if not isinstance(data.get("cells"), list):
        raise Damaged("the notebook has no list of cells")
    return data


def _cell(data: Any) -> NotebookNode:
    if not isinstance(data, dict):
        raise Damaged("a cell of the notebook is not a cell")
    source = data.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise Damaged("a cell of the notebook has no text")
    source = source.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be written
    if data.get("cell_type") == "code":
        cell = new_code_cell(source)
    elif data.get("cell_type") == "markdown":
        cell = new_markdown_cell(source)
        if pictures := _pictures(data.get("attachments")):
            cell["attachments"] = pictures
    else:  # raw cells may hold HTML
        cell = new_markdown_cell("~~~\n" + source.replace("~~~", "") + "\n~~~")
    metadata = data.get("metadata")
    grader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = grader.get("grade_id") if isinstance(grader, dict) else None
    if isinstance(name, str):
        cell.metadata["nbgrader"] = {"grade_id": name}
    return cell


def _pictures(attachments: Any) -> dict[str, dict[str, str]]:
    kept: dict[str, dict[str, str]] = {}
    room = MAX_PICTURES
    for name, bundle in attachments.items() if isinstance(attachments, dict) else ():
        for mime, text in bundle.items() if isinstance(bundle, dict) else ():
            if mime in _PICTURES and isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9+/=\s]*", text):
                room -= len(text)
                if room >= 0:
                    kept.setdefault(name, {})[mime] = text
    return kept


def _kernel_remarks(data: dict) -> list[str]:
    metadata = data.get("metadata")
    kernel = metadata.get("kernelspec") if isinstance(metadata, dict) else None
    language = kernel.get("language", "python") if isinstance(kernel, dict) else "python"
    name = kernel.get("name", "python3") if isinstance(kernel, dict) else "python3"
    if language == "python" and (name == "python3" or "python" in str(name)):
        return []
    return [f"the notebook asks for the kernel {printable(str(name), 40)!r}; it was graded with Python"]


def printable(text: str, length: int = 2_000) -> str:
    """The text, at most `length` long, without control characters (terminal codes overwrite what stands before)."""
    text = _CONTROL.sub("", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text))
    return text if len(text) <= length else text[: length - 2] + " …"


# ----------------------------------------------------------------------------------------------------------- repairing


@dataclass
class Repaired:
    """A submission that nbgrader can take: `notebook` is complete; `judged` are the cells that the judge gets."""

    notebook: NotebookNode
    judged: list[int]  # positions in `notebook`; a deleted solution cell has none
    remarks: list[str] = field(default_factory=list)

    def to_judge(self) -> NotebookNode:
        """The notebook without the cells that were put in place of deleted solutions."""
        return new_notebook(cells=[self.notebook.cells[i] for i in self.judged])


def repair(submission: NotebookNode, released: NotebookNode) -> Repaired:
    """Fit the student's cells into the released assignment, by grade_id; the student's order stays.

    The first of several cells with one grade_id counts; locked cells and test cells get the released text, deleted ones
    come back after the cell that they follow in the release; cell types are restored; unknown grade_ids are dropped.
    """
    originals = {name: cell for cell in released.cells if (name := grade_id(cell))}
    remarks: list[str] = []
    cells: list[NotebookNode] = []
    seen: set[str] = set()
    for cell in submission.cells:
        name = grade_id(cell)
        if name in seen:
            remarks.append(f"the cell {name} is there more than once: the first counts")
        original = originals.get(name) if name not in seen else None
        if original is None:
            cell.metadata = NotebookNode()
            cells.append(_harmless(cell))
            continue
        seen.add(name)
        cells.append(_restored(cell, original, remarks))
    order = [name for cell in cells if (name := grade_id(cell))]
    if order != [name for name in originals if name in seen]:
        remarks.append("the cells are in another order than in the assignment")
    deleted = _put_back(cells, originals, seen, remarks)
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    judged = [i for i, cell in enumerate(cells) if grade_id(cell) not in deleted]
    notebook = new_notebook(cells=cells, metadata=released.metadata)
    return Repaired(notebook, judged, remarks)


def grade_id(cell: NotebookNode) -> str | None:
    """nbgrader's name of the cell, if it has one."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def _is(cell: NotebookNode, what: str) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get(what))


def is_test(cell: NotebookNode) -> bool:
    """Whether the judge decides about this cell (a written answer is graded by hand)."""
    return _is(cell, "grade") and not _is(cell, "solution") and cell.cell_type == "code"


def is_written(cell: NotebookNode) -> bool:
    """Whether the cell is an answer that a person grades."""
    return _is(cell, "grade") and _is(cell, "solution")


def _restored(cell: NotebookNode, original: NotebookNode, remarks: list[str]) -> NotebookNode:
    name = grade_id(original)
    if cell.cell_type != original.cell_type:
        remarks.append(f"the cell {name} was made a {cell.cell_type} cell: it counts as {original.cell_type}")
    if not _is(original, "solution"):  # locked, or a test
        if cell.source.strip() != original.source.strip():
            remarks.append(f"the cell {name} was changed: the original counts")
        return _copy(original)
    if cell.cell_type == original.cell_type:
        restored = NotebookNode(cell)
    else:
        restored = _copy(original)
        restored.source = cell.source
    restored.metadata = _copy(original).metadata
    return restored if restored.source == original.source else _harmless(restored)


def _copy(cell: NotebookNode) -> NotebookNode:
    return nbformat.from_dict(json.loads(json.dumps(cell)))


def _put_back(
    cells: list[NotebookNode], originals: dict[str, NotebookNode], seen: set[str], remarks: list[str]
) -> set[str]:
    """Insert what was deleted into `cells`; returns the grade_ids of deleted solution cells."""
    deleted: set[str] = set()
    previous = None
    for name, original in originals.items():
        if name not in seen:
            cell = _copy(original)
            if _is(original, "solution"):
                deleted.add(name)
                if original.cell_type == "code":
                    cell.source = "# This cell was deleted from the submission."
            place = next((i + 1 for i, c in enumerate(cells) if previous and grade_id(c) == previous), 0)
            cells.insert(place, cell)
            remarks.append(f"the cell {name} was deleted")
        previous = name
    return deleted


def _harmless(cell: NotebookNode) -> NotebookNode:
    """A student's cell whose Markdown opens no HTML tag and no script: nbconvert would let both through.

    `a < b` reads as before, `<script>` becomes text; so does a link to `javascript:…`, also in its disguises.
    """
    if cell.cell_type == "markdown":
        text = re.sub(r"<(?=[A-Za-z/!?])", "< ", cell.source)
        text = re.sub(r"&(?=#?\w+;)", "& ", text)
        cell.source = re.sub(r"(script)(?=\\*:)", r"\1 ", text, flags=re.IGNORECASE)
    return cell


# ------------------------------------------------------------------------------------------------------------- judging


def judge_one(job: dict) -> dict:
    """In a worker: read, repair and judge the submission `job["path"]`; returns what its state file keeps.

    "state" is "judged", "damaged" (the submission's fault) or "refused" (no sandbox here); "message" says why.
    """
    try:
        submission, remarks = parse(read_bytes(Path(job["path"])))
    except Damaged as error:
        return {"state": "damaged", "message": str(error)}
    source, released = (nbformat.read(job[name], as_version=4) for name in ("source", "released"))
    repaired = repair(submission, released)
    try:
        verdict = job["judge"](source, repaired.to_judge(), seed=job["seed"], unsafe=job["unsafe"])
    except SandboxMissing as error:
        return {"state": "refused", "message": str(error)}
    if broken := _broken_start(repaired, verdict.outputs):
        return {"state": "failed", "message": broken}
    outputs: list[list[dict]] = [[] for _ in repaired.notebook.cells]
    for position, output in zip(repaired.judged, verdict.outputs, strict=True):
        outputs[position] = shown(output)
    ended = [f"the submission was stopped early: {verdict.ended}"] if verdict.ended else []
    return {
        "state": "judged",
        "message": "",
        "remarks": [*remarks, *repaired.remarks, *ended],
        "cells": {
            name: {"passed": r.passed is True, "message": str(r.message)} for name, r in verdict.cells.items()
        },
        "outputs": outputs,
        "notebook": nbformat.writes(repaired.notebook),
    }


def _broken_start(repaired: Repaired, outputs: list[Output]) -> str | None:
    """Why a verdict is worth nothing: a cell of the instructor's own, the imports say, did not run.

    On a machine that is too busy, importing PyTorch can take longer than a cell may; that is no fault of a student's.
    """
    for position, output in zip(repaired.judged, outputs, strict=True):
        cell = repaired.notebook.cells[position]
        if grade_id(cell) and output.error and not _is(cell, "solution") and not is_test(cell):
            name, error = grade_id(cell), printable(output.error)
            return f"the assignment's own cell {name} did not run ({error}): grade again, with fewer jobs at a time"
    return None


def shown(output: Output) -> list[dict]:
    """What a student's own cell printed and showed, in the form of the state file."""
    told = [{"text": printable(output.text, 200_000)}] if output.text else []
    told += [{"png": base64.b64encode(image).decode()} for image in output.images]
    return told + ([{"error": printable(output.error)}] if output.error else [])


def attempt(function: Callable[[dict], dict], job: dict) -> dict:
    """`function(job)`, or what it raised as {"state": "failed", "message"}."""
    try:
        return function(job)
    except Exception as error:
        return {"state": "failed", "message": printable(f"{type(error).__name__}: {error}")}


def serve(handle: int) -> None:
    """A worker's life: take (function, job) from the connection with this number, answer function(job), and again."""
    pipe = Connection(handle)
    pipe.send("ready")
    while True:
        try:
            function, job = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(function, job))
