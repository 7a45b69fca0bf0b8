"""Live coding: copies of the lectures to type in, `python -m course_lib.classroom.live [NOTEBOOK …]`.

In notebooks/live/ each cell with the tag `live` holds only its comment outline: the comments of the lecture's code,
each where it stood, with signatures and docstrings as comments. Everything else is as in the lecture, without outputs,
and a check cell follows each live cell. The first code cell loads the magics:

    %check 3           (written into the copy) says at once whether what was typed into live cell 3 is right
    %reveal            puts the lecture's code into the current cell
    %reveal --diff     shows what differs from what was typed

The code itself is read from the lecture when it is needed, so it stands in one place (`live_magics`, `live_check`). A
copy that somebody typed in is kept, unless told otherwise (`--force`).

`--try` proves the check cells: it runs copies of the lectures in a kernel, and in each live cell the outline alone must
fail its check and the lecture's own code must pass.
"""

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from course_lib.classroom.handout import hand_out
from course_lib.classroom.live_lecture import LiveCell, LiveError, header, live_cells, outline, read_lecture

LECTURES = Path(__file__).resolve().parents[2] / "notebooks"
COPIES = LECTURES / "live"
TOP = """\
# A copy to type in: below "# live" stand the comments of the code to write, and %check compares it.
# Stuck? Run %reveal in such a cell: the lecture's code takes its place. %reveal --diff shows what differs.
%load_ext course_lib.classroom.live
%live {lecture}"""


# --------------------------------------------------------------------------------------------------------- the copies


def live_copy(path: Path, output: Path, siblings: Collection[str]) -> NotebookNode:
    """The lecture at `path` as it lies in `output` for typing; links to `siblings` stay there, all others lead back.

    Raises LiveError if the lecture is not there or has nothing to type.
    """
    notebook = read_lecture(path)
    live = {cell.id: cell for cell in live_cells(notebook)}
    back = Path(os.path.relpath(path.parent, output)).as_posix()
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = lead_back(cell.source, back, siblings)
        elif cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if not any(earlier.cell_type == "code" for earlier in cells):
                cells.append(_generated(TOP.format(lecture=f"{back}/{path.name}"), "live-magics"))
        cells.append(cell)
        if cell.id in live:
            task = live[cell.id]
            cell.source = f"{header(task, len(live))}\n{outline(task.source)}".rstrip("\n")
            cells.append(_generated(f"%check {task.number}", f"live-check-{task.number}"))
    notebook.cells = cells
    return notebook


def _generated(source: str, cell_id: str) -> NotebookNode:
    return nbformat.v4.new_code_cell(source, id=cell_id, metadata={"tags": ["check"]})


_CODE = r"^(?P<fence>```+|~~~+).*?^(?P=fence)|`[^`\n]+`"  # shows links rather than being some
_TARGET = re.compile(
    rf"(?:{_CODE})"
    r"|(?P<before>\]\(\s*<?|^\s*\[[^\]\n]+\]:\s*<?|\b(?:href|src)\s*=\s*[\"'])(?P<target>[^)\s>\"']+)",
    re.DOTALL | re.MULTILINE,
)


def lead_back(text: str, back: str, siblings: Collection[str]) -> str:
    """A Markdown text with its relative links beginning with `back`, except those to `siblings` (file names)."""

    def moved(match: re.Match) -> str:
        target = match["target"]
        if target is None:
            return match[0]
        url = urlsplit(target)
        if url.scheme or url.netloc or not url.path or url.path.startswith("/") or url.path in siblings:
            return match[0]
        return f"{match['before']}{back}/{target}"

    return _TARGET.sub(moved, text)


def build(paths: Sequence[Path], output: Path = COPIES, force: bool = False) -> list[str]:
    """Write the live copies of these lectures; returns the names of those that were kept because they were changed.

    Raises LiveError, before anything is written.
    """
    present = {path.name for path in output.glob("*.ipynb")} if output.is_dir() else set()
    siblings = present | {path.name for path in paths}
    files = {}
    for path in paths:
        notebook = live_copy(path.resolve(), output.resolve(), siblings)
        files[path.name] = (nbformat.writes(notebook) + "\n").encode()
    return hand_out(files, output, force)


# -------------------------------------------------------------------------------------------------------- the extension


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext course_lib.classroom.live`."""
    from course_lib.classroom import live_magics  # it takes PyTorch, which making copies does not need

    live_magics.load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext course_lib.classroom.live`."""
    from course_lib.classroom import live_magics

    live_magics.unload(shell)


# ------------------------------------------------------------------------------------------------------------- a trial


def try_out(path: Path, first: int | None = None, timeout: float = 600) -> tuple[int, list[str]]:
    """Run a live copy with the lecture's code typed in; returns the number of live cells and what went wrong.

    Only up to the check of live cell number `first`, if it is given.

    In each live cell the outline alone must fail its check, then the lecture's code must pass, every name compared.
    """
    cells = live_cells(read_lecture(path))[:first]
    to_type = {cell.id: cell for cell in cells}
    problems = []
    with tempfile.TemporaryDirectory(prefix="course-live-") as folder:
        notebook = live_copy(path, Path(folder), ())
        last = next(i for i, cell in enumerate(notebook.cells) if cell.id == f"live-check-{len(cells)}")
        end = None if first is None else last + 1
        with running(notebook, Path(folder), timeout) as client:
            try:
                for index, cell in enumerate(notebook.cells[:end]):
                    if cell.id in to_type:
                        problems += _try_cell(client, index, to_type[cell.id])
                    elif cell.cell_type == "code":
                        client.execute_cell(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                problems.append(f"{cell.id}: {error}")
    return len(cells), problems


@contextlib.contextmanager
def running(notebook: NotebookNode, folder: Path, timeout: float = 600) -> Iterator[NotebookClient]:
    """A client with a fresh kernel in `folder`, for `execute_cell`."""
    client = NotebookClient(notebook, kernel_name="python3", timeout=timeout, store_widget_state=False)
    client.resources["metadata"] = {"path": str(folder)}
    with client.setup_kernel(env={**os.environ, "TQDM_DISABLE": "1"}):
        yield client


def _try_cell(client: NotebookClient, index: int, live: LiveCell) -> list[str]:
    """The outline, the check, the lecture's code (the check cell itself comes next)."""
    cell, check = client.nb.cells[index : index + 2]
    client.execute_cell(cell, index)
    problems = []
    try:
        client.execute_cell(check, index + 1)
        problems.append(f"live {live.number} ({live.id}): the outline alone passes its check")
    except CellExecutionError:
        check.outputs = []
    cell.source = live.source
    client.execute_cell(cell, index)
    client.execute_cell(check, index + 1)
    said = "".join(output.get("text", "") for output in check.outputs)
    if "not compared" in said or "✓" not in said:
        problems.append(f"live {live.number} ({live.id}): {said}")
    return problems


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if all copies were written (with --try: if every check does what it should)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="lectures; default: every one in notebooks/")
    parser.add_argument("--output", type=Path, default=COPIES, help="where to (default notebooks/live)")
    parser.add_argument("--force", action="store_true", help="overwrite copies that were typed in")
    parser.add_argument(
        "--try", dest="trial", action="store_true", help="write nothing, prove the check cells"
    )
    args = parser.parse_args(argv)
    paths = args.paths or sorted(LECTURES.glob("*.ipynb"))
    try:
        return _try_all(paths) if args.trial else _write_all(paths, args.output, args.force)
    except LiveError as error:
        print(error, file=sys.stderr)
        return 1


def _write_all(paths: Sequence[Path], output: Path, force: bool) -> int:
    for name in build(paths, output, force):
        print(f"kept, because it was changed: {output / name} (FORCE=1 or --force overwrites it)")
    print(f"Live copies: {output}")
    return 0


def _try_all(paths: Sequence[Path]) -> int:
    failed = 0
    for path in paths:
        start = time.perf_counter()
        count, problems = try_out(path.resolve())
        failed += bool(problems)
        seconds = time.perf_counter() - start
        print(f"{path.name}: {count} live cells, {seconds:.0f} s", *problems, sep="\n  ", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
