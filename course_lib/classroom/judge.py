"""Grades one submission in two processes: the student's cells run in a sandbox, the test cells run here.

    verdict = judge(source, submission)          # two notebooks: the instructor's, and an untrusted one

The cells are matched by nbgrader's grade_id and run in the instructor's order. Test cells, visible and hidden, are
taken from `source` alone; whatever a submission has in their place is never run. In a test cell each name that the
cell does not define itself stands for the student's object of that name (`course_lib.classroom.remote`): only data
crosses, and every comparison happens in this process. Nothing of a submission is imported or evaluated here.

A process that grades loads torch once and forks for each submission, so that not even a crash while judging (a test
that runs out of memory, say) touches another submission's grade.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import ctypes
import dataclasses
import json
import os
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import nbformat
from nbformat import NotebookNode

from course_lib.classroom.remote import Channel, StudentGone, TooSlow, clean
from course_lib.classroom.sandbox import REPOSITORY, Limits, Sandbox, SandboxMissing, require_bubblewrap
from course_lib.classroom.server import Server
from course_lib.classroom.trial import CellResult, run_test

__all__ = ["CellResult", "Limits", "Output", "SandboxMissing", "Verdict", "judge"]

PNG = b"\x89PNG\r\n\x1a\n"
MAX_IMAGES, MAX_IMAGE_BYTES = 8, 300_000
SERVER_MARGIN_SECONDS = 30.0
JUDGE_MEMORY_BYTES = (
    12 << 30
)  # address space, of which torch alone takes some; enough for any test of the course
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


@dataclasses.dataclass(frozen=True)
class Output:
    """What one cell of the submission printed and showed: text, its error in one line (or None), PNG pictures.

    `ran` is False for cells that are not run: markdown, the submission's copies of test cells, or cells after the end
    of the process. All of it is untrusted text and untrusted pictures: escape the one, do not trust the other.
    """

    text: str = ""
    error: str | None = None
    images: tuple[bytes, ...] = ()
    ran: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What `judge` found.

    cells: grade_id → result, for each autograded test cell of the source.
    outputs: one for each cell of the submission.
    ended: None, or why the student's process stopped before the last cell: "time", "memory", "processes",
        "exit code 3", "signal 9", "an answer that breaks the rules: …".
    """

    cells: dict[str, CellResult]
    outputs: list[Output]
    ended: str | None
    seconds: float


def judge(
    source: NotebookNode,
    submission: NotebookNode,
    *,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    seed: int | None = None,
    unsafe: bool = False,
    files: Mapping[str, bytes] | None = None,
) -> Verdict:
    """Run a submission's cells in a sandbox and the source's test cells here, in a process of its own.

    Args:
        source: the instructor's notebook, with solutions and hidden tests.
        submission: the student's notebook, parsed; nothing else of it is trusted.
        limits: what the submission may use.
        seed: COURSE_GRADING_SEED of the hidden tests; None: this process's environment's.
        unsafe: without bubblewrap: for submissions that are trusted with the user's files.
        files: name → content, laid beside the submission's notebook (names without folders).

    Returns a Verdict whatever the submission does. One call at a time in a process; several processes may judge.
    Raises: SandboxMissing; RuntimeError if judging itself failed; ValueError for a bad file name.
    """
    if not unsafe:
        require_bubblewrap()
    for name in files or {}:
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise ValueError(f"expected a file name without folders, got {name!r}")
    request = {
        "source": nbformat.writes(source),
        "submission": json.dumps(submission),
        "limits": dataclasses.asdict(limits),
        "seed": os.environ.get("COURSE_GRADING_SEED") if seed is None else str(seed),
        "unsafe": unsafe,
        "files": {name: base64.b64encode(data).decode() for name, data in (files or {}).items()},
    }
    answer = _server().ask(
        json.dumps(request).encode(), limits.start_seconds + limits.total_seconds + SERVER_MARGIN_SECONDS
    )
    return _from_json(json.loads(answer))


_running: Server | None = None


def _server() -> Server:
    global _running
    if _running is None or not _running.usable():
        _running = Server("course_lib.classroom.judge", "_handle", str(REPOSITORY))
    return _running


def _handle(request: bytes) -> bytes:
    """One request in its fork."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the sandbox dies with this process, this one with its server
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # without a sandbox, the student's orphans come here
    asked = json.loads(request)
    os.environ.pop("COURSE_GRADING_SEED", None)
    if asked["seed"] is not None:
        os.environ["COURSE_GRADING_SEED"] = asked["seed"]
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    unlimited = hard == resource.RLIM_INFINITY
    resource.setrlimit(
        resource.RLIMIT_AS, (JUDGE_MEMORY_BYTES if unlimited else min(hard, JUDGE_MEMORY_BYTES), hard)
    )
    verdict = judge_here(
        nbformat.reads(asked["source"], as_version=4),
        nbformat.from_dict(json.loads(asked["submission"])),
        Limits(**asked["limits"]),
        unsafe=asked["unsafe"],
        files={name: base64.b64decode(data) for name, data in asked["files"].items()},
    )
    told = dataclasses.asdict(verdict)
    for output in told["outputs"]:
        output["images"] = [base64.b64encode(image).decode() for image in output["images"]]
    return json.dumps(told).encode()


def _from_json(told: dict[str, Any]) -> Verdict:
    for output in told["outputs"]:
        output["images"] = tuple(base64.b64decode(image) for image in output["images"])
    cells = {name: CellResult(**cell) for name, cell in told["cells"].items()}
    return Verdict(cells, [Output(**output) for output in told["outputs"]], told["ended"], told["seconds"])


def judge_here(
    source: NotebookNode,
    submission: NotebookNode,
    limits: Limits,
    *,
    unsafe: bool = False,
    files: Mapping[str, bytes] | None = None,
) -> Verdict:
    """What `judge` does, in this process and its main thread.

    Raises: RuntimeError if the student's process could not be started.
    """
    start = time.monotonic()
    outputs = [Output() for _ in submission.cells]
    results: dict[str, CellResult] = {}
    with Sandbox(limits, unsafe) as sandbox:
        channel = Channel(sandbox)
        try:
            channel.setup(dict(files or {}), imported(source))
            sandbox.begin()
        except StudentGone as error:  # nothing of the submission has run yet
            log = clean(sandbox.log.decode(errors="replace"), 2_000)
            raise RuntimeError(f"the student's process could not be started: {error}\n{log}") from None
        for kind, cell, place in plan(source, submission):
            if kind == "test":
                results[grade_id(cell)] = run_test(cell.source, channel, limits.cell_seconds)
                continue
            with contextlib.suppress(StudentGone):  # the tests that follow will say so
                output = run_student_cell(cell.get("source"), channel, limits)
                if place is not None:
                    outputs[place] = output
        ended = sandbox.has_ended()
    return Verdict(results, outputs, ended, time.monotonic() - start)


def plan(source: NotebookNode, submission: NotebookNode) -> Iterator[tuple[str, NotebookNode, int | None]]:
    """What is run, in order: ("test" or "cell", the cell, its place among the submission's cells if it has one).

    Locked cells are the source's; solutions are the submission's, the first of each grade_id; code cells that the
    source does not know run after the known cell behind which they stand.
    """
    known = {grade_id(cell) for cell in source.cells} - {None}
    first: dict[str, int] = {}
    strangers: dict[str | None, list[int]] = {}
    behind = None
    for index, cell in enumerate(submission.cells):
        name = grade_id(cell)
        if name in known:
            first.setdefault(name, index)
            behind = name
        elif cell.get("cell_type") == "code":
            strangers.setdefault(behind, []).append(index)

    for index in strangers.get(None, []):
        yield "cell", submission.cells[index], index
    for cell in source.cells:
        name = grade_id(cell)
        if name is None:
            continue
        settings = cell.metadata.nbgrader
        place = first.get(name)
        if cell.cell_type == "code" and settings.get("grade") and not settings.get("solution"):
            yield "test", cell, None
        elif cell.cell_type == "code" and settings.get("locked") and not settings.get("solution"):
            yield "cell", cell, place
        elif cell.cell_type == "code" and place is not None and submission.cells[place].cell_type == "code":
            yield "cell", submission.cells[place], place
        for index in strangers.get(name, []):
            yield "cell", submission.cells[index], index


def imported(source: NotebookNode) -> list[str]:
    """The modules that the instructor's own cells import, tests apart: loading them is not the submission's time.

    On a busy machine `import torch` alone can take longer than a cell may.
    """
    found: list[str] = []
    for cell in source.cells:
        settings = cell.metadata.get("nbgrader", {})
        if cell.cell_type != "code" or not settings.get("locked") or settings.get("grade"):
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return list(dict.fromkeys(found))


def grade_id(cell: NotebookNode) -> str | None:
    """nbgrader's name of a cell, None if it has none; a submission's metadata may hold anything."""
    metadata = cell.get("metadata")
    settings = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = settings.get("grade_id") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def run_student_cell(source: object, channel: Channel, limits: Limits) -> Output:
    """Have one cell run and take what it printed. Raises: StudentGone."""
    channel.limit_seconds(limits.cell_seconds)
    try:
        told = channel.run_cell(source if isinstance(source, str) else "")
    except TooSlow:
        return Output(error=f"stopped after {limits.cell_seconds:.0f} s", ran=True)
    except StudentGone:
        raise
    except (
        Exception
    ) as error:  # what the cell answered in place of its outputs, as one of Python's own exceptions
        return Output(error=f"{type(error).__name__}: {error}", ran=True)
    told = told if isinstance(told, dict) else {}
    images = told.get("images")
    pictures = [_bytes(image) for image in (images if isinstance(images, list) else [])]
    error = _bytes(told.get("error")).decode(errors="replace")
    return Output(
        clean(_bytes(told.get("text")).decode(errors="replace"), limits.output_bytes),
        clean(error, 2_000) or None,
        tuple(p for p in pictures if p.startswith(PNG) and len(p) <= MAX_IMAGE_BYTES)[:MAX_IMAGES],
        ran=True,
    )


def _bytes(array: object) -> bytes:
    """The bytes of an array that the wire brought; none for anything else."""
    tobytes = getattr(array, "tobytes", None)
    return tobytes() if tobytes is not None else b""
