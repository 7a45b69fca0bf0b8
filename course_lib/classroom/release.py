"""From the instructor's notebooks to the students': `python -m course_lib.classroom.release [ASSIGNMENT …]`.

nbgrader (`generate_assignment`) clears the solutions and cuts out the hidden tests. What it made is then read line by
line: every line of a student's notebook must stand in the visible part of the instructor's, or be a stub. A marker with
a typing error, a model answer outside its markers, a stored output: each stops the release, before a file is written.

A student may work in the released folder itself, so a file that changed since it was released is kept, unless told
otherwise (`--force`).
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.apps.api import NbGraderAPI

from course_lib.classroom.handout import hand_out
from course_lib.classroom.plugs import nbgrader_on, quietly

REPOSITORY = Path(__file__).resolve().parents[2]
EXERCISES = REPOSITORY / "notebooks" / "exercises"
SOURCE = EXERCISES / "source"
RELEASE = EXERCISES / "release"

_REGIONS = (("BEGIN SOLUTION", "END SOLUTION"), ("BEGIN HIDDEN TESTS", "END HIDDEN TESTS"))
# What looks like a marker, rightly spelt or not.
_MARKER = re.compile(r"#+\s*(BEGIN|END)\b|###\s*(?i:begin|end)\b|\b(BEGIN|END)\s+[A-Z]")


class ReleaseError(ValueError):
    """The release would show what it must not show, or an assignment cannot be released; the message says where."""


def assignments(source: Path = SOURCE) -> dict[str, Path]:
    """Name → the instructor's notebook, sorted by name.

    Raises ReleaseError if a folder of `source` has no notebook of its own name, or more than this one.
    """
    found = {}
    for folder in sorted(
        path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")
    ):
        notebooks = sorted(path.name for path in folder.glob("*.ipynb"))
        if notebooks != [f"{folder.name}.ipynb"]:
            raise ReleaseError(
                f"{folder} must hold the one notebook {folder.name}.ipynb; it holds {notebooks}"
            )
        found[folder.name] = folder / notebooks[0]
    return found


def choose(names: Iterable[str], source: Path) -> dict[str, Path]:
    """The assignments of these names (the beginning of a name is enough, as `ex01`), or all of them for no names."""
    known = assignments(source)
    names = list(names)
    chosen = {k: path for k, path in known.items() if not names or any(k.startswith(name) for name in names)}
    for name in names:
        if not any(k.startswith(name) for k in chosen):
            raise ReleaseError(f"no assignment {name!r}; there are: {', '.join(known) or 'none'}")
    return chosen


# ------------------------------------------------------------------------------------------------------- with nbgrader


def generate(api: NbGraderAPI, name: str, notebook: Path) -> Path:
    """Put the assignment into the api's course: its source, its gradebook's cells, its release; returns the last.

    Raises ReleaseError with nbgrader's own words if it refuses, or if the released text shows too much.
    """
    course = Path(api.coursedir.root)
    source, release = course / "source" / name, course / "release" / name
    if source.exists():
        shutil.rmtree(source)
    shutil.copytree(notebook.parent, source, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    with quietly():
        result = api.generate_assignment(name, force=True, create=True)
    if not result["success"]:
        raise ReleaseError(f"{name}: nbgrader generate_assignment failed\n{result['log'] or result['error']}")
    check_release(read(notebook), read(release / f"{name}.ipynb"))
    return release


def read(path: Path) -> NotebookNode:
    """A notebook of the instructor, in the current format."""
    return nbformat.read(path, as_version=4)


# ------------------------------------------------------------------------------------------------ what students may see


def visible_lines(cell: NotebookNode) -> list[str]:
    """The lines of an instructor's cell that stand outside its solution and its hidden tests.

    Of a solution cell without markers nothing is visible, as in nbgrader.
    """
    end, visible, marked = None, [], False
    for line in cell.source.split("\n"):
        if end is not None:
            end = None if end in line else end
            continue
        end = next((last for first, last in _REGIONS if first in line), None)
        if end is None:
            visible.append(line)
        marked |= end == "END SOLUTION"
    if cell.metadata.get("nbgrader", {}).get("solution") and not marked:
        return []
    return visible


def check_release(source: NotebookNode, released: NotebookNode) -> None:
    """Raise ReleaseError if `released` holds anything but the visible lines of `source` and the stubs.

    Compared cell by cell on the text; outputs, attachments and metadata other than nbgrader's must not be there at all.
    """
    stubs = {"# YOUR CODE HERE", "raise NotImplementedError()", "YOUR ANSWER HERE", ""}
    if len(source.cells) != len(released.cells):
        raise ReleaseError(f"{len(released.cells)} cells were released of {len(source.cells)}")
    for number, (original, cell) in enumerate(zip(source.cells, released.cells, strict=True)):
        name = cell.metadata.get("nbgrader", {}).get("grade_id") or f"number {number}"
        for line in original.source.split("\n"):
            if _MARKER.search(line) and not any(marker in line for region in _REGIONS for marker in region):
                raise ReleaseError(f"cell {name}: a marker that nbgrader does not know: {line.strip()!r}")
        allowed = {line.strip() for line in visible_lines(original)} | stubs
        for line in cell.source.split("\n"):
            if line.strip() not in allowed:
                raise ReleaseError(f"cell {name}: this line must not be released: {line.strip()!r}")
        if cell.get("outputs") or cell.get("attachments"):
            raise ReleaseError(f"cell {name}: outputs and attachments are not released")
        if extra := set(cell.metadata) - {"nbgrader", "tags", "deletable", "editable"}:
            raise ReleaseError(f"cell {name}: metadata that students need not have: {sorted(extra)}")


# ------------------------------------------------------------------------------------------------------------- on disk


def build(
    names: Iterable[str] = (), *, source: Path = SOURCE, output: Path = RELEASE, force: bool = False
) -> list[str]:
    """Release assignments into `output` (a folder for each, and `exercises.zip` of them all); returns what was kept.

    A file that was changed in `output` since it was released is a student's work: it is kept, and named in the returned
    list, unless `force`. nbgrader's own folders and its gradebook live in a temporary folder. Raises ReleaseError.
    """
    chosen = choose(names, source)
    if not chosen:
        raise ReleaseError(f"no assignment in {source}")
    with tempfile.TemporaryDirectory(prefix="course-release-") as temporary:
        api = nbgrader_on(Path(temporary))
        folders = [generate(api, name, notebook) for name, notebook in chosen.items()]
        files = {
            f"{folder.name}/{path.relative_to(folder)}": path.read_bytes()
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    kept = hand_out(files, output, force)
    _zip(files, output / "exercises.zip")
    return kept


def _zip(files: dict[str, bytes], path: Path) -> None:
    """The released files as they lie in a checkout: to be unpacked in its root. The same files give the same bytes."""
    temporary = path.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(f"notebooks/exercises/release/{name}", (2000, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    os.replace(temporary, path)


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if everything was released."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="assignments (the beginning is enough: ex01); default: all")
    parser.add_argument("--source", type=Path, default=SOURCE, help="the instructor's notebooks")
    parser.add_argument(
        "--output", type=Path, default=RELEASE, help=f"where to (default {RELEASE.relative_to(REPOSITORY)})"
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite released notebooks that were worked on"
    )
    args = parser.parse_args(argv)
    try:
        kept = build(args.names, source=args.source, output=args.output, force=args.force)
    except ReleaseError as error:
        print(f"Nothing was released. {error}", file=sys.stderr)
        return 1
    for name in kept:
        print(f"kept, because it was worked on: {args.output / name}")
    print(f"Released: {args.output} (to hand out as one file: {args.output / 'exercises.zip'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
