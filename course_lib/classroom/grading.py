"""Grade a folder of submissions: `python -m course_lib.classroom.grading SUBMISSIONS [--jobs N]` (`make grade`).

`SUBMISSIONS/student/assignment/assignment.ipynb` go in; a graded class comes out as one folder that is an nbgrader
course (gradebook, autograded notebooks: `jupyter lab` in it opens the formgrader), with `grades.csv`, `summary.png` and
`feedback/student/assignment/assignment.html` beside.

nbgrader runs a notebook and its tests in one process, which the notebook controls, one notebook at a time. Here the
running is done by `course_lib.classroom.judge` (two processes, a sandbox) in several workers, and this process, the
only one that writes the gradebook, passes the verdicts through nbgrader's own converter. What was graded is kept under
`.state/` with a digest of everything that the verdict depends on, so that a second run grades what changed, and a run
that was broken off is continued. Before a submission is graded anew its old grade is removed: whatever goes wrong then,
no old score stays behind. What a person gave by hand is kept as long as the answer's text stays the same.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import html
import importlib.metadata
import json
import multiprocessing
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbgrader.api import Gradebook, MissingEntry
from tqdm import tqdm

from course_lib.classroom import release
from course_lib.classroom.plugs import CONFIG, STATE, last_line, nbgrader_on, quietly, state_file
from course_lib.classroom.results import Row, write_csv, write_summary
from course_lib.classroom.sandbox import Limits, descendants
from course_lib.classroom.submissions import (
    Damaged,
    grade_id,
    is_test,
    is_written,
    judge_one,
    printable,
    read_bytes,
)

if TYPE_CHECKING:
    from course_lib.classroom.judge import Verdict

OUTPUT = release.REPOSITORY / "graded"
START = 120.0  # seconds for a worker to start
# Seconds until a worker is given up; the judge's own limits end a submission before.
PATIENCE = Limits().start_seconds + Limits().total_seconds + 120.0


# ------------------------------------------------------------------------------------------------------ what there is


@dataclass(frozen=True)
class Submission:
    """One notebook that was handed in, or what stands in its place (then `problem` says what is wrong)."""

    student: str
    assignment: str
    path: Path
    remarks: tuple[str, ...] = ()
    problem: str | None = None


def find(folder: Path, known: Iterable[str]) -> list[Submission]:
    """All submissions `student/assignment/*.ipynb` of `folder` to the assignments `known`, by student.

    What is not where it belongs comes back with a `problem`; hidden files and files that are no notebooks are left out.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder of submissions: {folder}")
    known = set(known)
    found = []
    for student in _entries(folder):
        if problem := _name_problem(student.name):
            found.append(Submission(printable(student.name), "", student, problem=problem))
        elif student.is_symlink():
            found.append(
                Submission(student.name, "", student, problem="a symbolic link in place of the folder")
            )
        elif student.is_dir():
            found += _of_student(student, known)
        elif student.suffix == ".ipynb":
            found.append(
                Submission(student.stem, "", student, problem="a notebook outside a student's folder")
            )
    return found


def _of_student(folder: Path, known: set[str]) -> list[Submission]:
    try:
        return [s for entry in _entries(folder) if (s := _submission(folder.name, entry, known))]
    except OSError as error:
        return [Submission(folder.name, "", folder, problem=f"the folder cannot be read: {error.strerror}")]


def _entries(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX"
    )


def _name_problem(name: str) -> str | None:
    if (
        set(name) & set('*?[]"\\')
        or name != name.strip()
        or printable(name) != name
        or len(name.encode("utf-8", "replace")) > 200
    ):
        return "nbgrader cannot take this folder's name: rename it"
    return None


def _submission(student: str, entry: Path, known: set[str]) -> Submission | None:
    def problem(text: str) -> Submission:
        return Submission(student, printable(entry.name), entry, problem=text)

    if entry.name not in known:
        if entry.is_dir() and not entry.is_symlink():
            return problem("no assignment has the name of this folder")
        return problem("a notebook outside an assignment's folder") if entry.suffix == ".ipynb" else None
    if entry.is_symlink():
        return problem("a symbolic link in place of the folder")
    if not entry.is_dir():
        return problem("a file in place of the assignment's folder")
    expected = f"{entry.name}.ipynb"
    notebooks = [path for path in _entries(entry) if path.suffix == ".ipynb"]
    names = [path.name for path in notebooks]
    if expected in names:
        others = ", ".join(name for name in names if name != expected)
        remarks = (f"not looked at: {others}",) if others else ()
        return Submission(student, entry.name, entry / expected, remarks)
    if len(notebooks) == 1:
        remark = f"the file has the name {names[0]!r} in place of {expected!r}"
        return Submission(student, entry.name, notebooks[0], (remark,))
    return problem(f"no {expected} in the folder; there is: {', '.join(names) or 'no notebook'}")


def digest(*parts: bytes | str) -> str:
    """A hash of the parts and of where each ends."""
    total = hashlib.sha256()
    for part in parts:
        total.update(
            hashlib.sha256(
                part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
            ).digest()
        )
    return total.hexdigest()


def code_version() -> str:
    """A digest of what a verdict depends on beside the notebooks: the library's code, PyTorch's version and NumPy's."""
    library = release.REPOSITORY / "course_lib"
    texts = [path.read_bytes() for path in sorted(library.rglob("*.py"))]
    return digest(*texts, *(importlib.metadata.version(name) for name in ("torch", "numpy", "nbgrader")))


# ---------------------------------------------------------------------------------------------------------- in parallel


def in_parallel(
    function: Callable[[dict], dict], jobs: list[dict], workers: int, patience: float = PATIENCE
) -> Iterator[tuple[dict, dict]]:
    """Each job with `function(job)`, in the order of completion, from `workers` processes.

    A process that dies or takes longer than `patience` seconds costs its own job only: {"state": "failed", "message"}.
    When the caller stops (an error, Ctrl-C), the processes are ended.
    """
    todo: queue.SimpleQueue = queue.SimpleQueue()
    done: queue.SimpleQueue = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    stopped = threading.Event()
    staff = [_Worker(function, patience, stopped) for _ in range(min(workers, len(jobs)))]
    threads = [threading.Thread(target=worker.work, args=(todo, done), daemon=True) for worker in staff]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            yield done.get()
    finally:
        stopped.set()
        for worker in staff:
            worker.end()
        for thread in threads:
            thread.join()


class _Worker:
    """A process that does one job after the other, replaced when it dies; lives in a thread of its own."""

    def __init__(self, function: Callable[[dict], dict], patience: float, stopped: threading.Event) -> None:
        self.function, self.patience, self.stopped = function, patience, stopped
        self.process: subprocess.Popen | None = None
        self.lock = threading.Lock()

    def work(self, todo: queue.SimpleQueue, done: queue.SimpleQueue) -> None:
        while not self.stopped.is_set():
            try:
                job = todo.get_nowait()
            except queue.Empty:
                break
            done.put((job, self._do(job)))
        self.end()

    def _do(self, job: dict) -> dict:
        with self.lock:
            if self.stopped.is_set():
                return {"state": "failed", "message": "interrupted"}
            if self.process is None:
                self._start()
        try:
            if not self.ready:
                self.ready = self.pipe.poll(START) and self.pipe.recv() == "ready"
            self.pipe.send((self.function, job))
            if self.pipe.poll(self.patience):
                return self.pipe.recv()
            message = f"grading took longer than {self.patience:.0f} s and was given up"
        except (EOFError, OSError):
            message = "the grading process died"
        except Exception as error:  # a job that cannot be sent, say: the others go on
            message = printable(f"{type(error).__name__}: {error}")
        self.end()
        return {"state": "failed", "message": message}

    def _start(self) -> None:
        self.ready = False
        self.pipe, theirs = multiprocessing.Pipe()
        code = f"from course_lib.classroom.submissions import serve; serve({theirs.fileno()})"
        path = os.pathsep.join(filter(None, sys.path))  # what can be imported here can be imported there
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which ends them all
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()

    def end(self) -> None:
        with self.lock:
            if self.process is not None:
                family = descendants(self.process.pid, 10_000)  # a student's process has a session of its own
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                for pid in family:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
                self.process = None


# ------------------------------------------------------------------------------------------------------ a graded class


class GradedClass:
    """The folder with all about a graded class: nbgrader's course, its gradebook, and the state of each grade."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.api = nbgrader_on(self.folder)
        shutil.copyfile(CONFIG, self.folder / CONFIG.name)  # for the formgrader

    def prepare(self, name: str, notebook: Path) -> tuple[Path, Path]:
        """The assignment's source and release in this course, brought up to date."""
        mark = self.folder / STATE / f"{name}.source"
        source, released = (self.folder / step / name / f"{name}.ipynb" for step in ("source", "release"))
        now = digest(*(path.read_bytes() for path in sorted(notebook.parent.rglob("*")) if path.is_file()))
        if not (mark.is_file() and mark.read_text() == now and source.is_file() and released.is_file()):
            mark.unlink(missing_ok=True)
            try:
                release.generate(self.api, name, notebook)
            except release.ReleaseError as error:
                if "associated with it" in str(error):
                    error = f"{name} has other cells than when submissions were graded: use a new folder (--output)"
                raise ValueError(str(error)) from None
            write(mark, now)
        return source, released

    # --- state files

    def state(self, assignment: str, student: str) -> dict:
        """What is known about a submission; {} for nothing."""
        path = state_file(self.folder, assignment, student)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def keep(self, assignment: str, student: str, state: dict) -> None:
        """Write a submission's state: either the old file or the new one is there, also after Ctrl-C."""
        write(state_file(self.folder, assignment, student), json.dumps(state))

    def known(self) -> list[tuple[str, str]]:
        """(assignment, student) of all state files."""
        return sorted((path.parent.name, path.stem) for path in (self.folder / STATE).glob("*/*.json"))

    # --- the gradebook

    def forget(self, assignment: str, student: str) -> None:
        """Take a grade out of the gradebook, with notebooks and feedback; what was given by hand goes to the state."""
        state = self.state(assignment, student)
        manual = {**state.get("manual", {}), **self._manual(assignment, student, state)}
        self.keep(assignment, student, {"state": "not graded", "message": "", "manual": manual})
        with Gradebook(self.api.coursedir.db_url) as book:
            if any(
                submission.assignment.name == assignment for submission in book.student_submissions(student)
            ):
                book.remove_submission(assignment, student)
        for step in ("submitted", "autograded", "feedback"):
            if (folder := self.folder / step / student / assignment).exists():
                _remove(folder)

    def _manual(self, assignment: str, student: str, state: dict) -> dict[str, dict]:
        """grade_id → score, extra credit and comment that a person gave, with a digest of what they were given for."""
        if "notebook" not in state:
            return {}
        texts = answers(state["notebook"])
        manual: dict[str, dict] = {}
        with Gradebook(self.api.coursedir.db_url) as book:
            try:
                graded = book.find_submission_notebook(assignment, assignment, student)
            except MissingEntry:
                return {}
            for grade in graded.grades:
                if grade.manual_score is not None or grade.extra_credit:
                    manual.setdefault(grade.name, {}).update(
                        score=grade.manual_score, extra=grade.extra_credit
                    )
            for comment in graded.comments:
                if comment.manual_comment:
                    manual.setdefault(comment.name, {}).update(comment=comment.manual_comment)
        return {name: {"text": texts[name], **given} for name, given in manual.items() if name in texts}

    def record(self, assignment: str, student: str, state: dict) -> None:
        """Pass a verdict through nbgrader into the gradebook, and give back what was given by hand for the same text.

        On an error of nbgrader's the state says "failed", and the gradebook has nothing of this submission.
        """
        notebook = self.folder / "submitted" / student / assignment / f"{assignment}.ipynb"
        write(notebook, state["notebook"])
        self.keep(assignment, student, state)  # nbgrader reads the verdict from there
        with quietly():
            result = self.api.autograde(assignment, student, force=True, create=True)
        if not result["success"]:
            self.fail(assignment, student, f"nbgrader: {last_line(result)}")
            return
        self._give_back(assignment, student, state)
        self.keep(assignment, student, {**state, "state": "graded"})

    def _give_back(self, assignment: str, student: str, state: dict) -> None:
        texts = answers(state["notebook"])
        with Gradebook(self.api.coursedir.db_url) as book:
            graded = book.find_submission_notebook(assignment, assignment, student)
            cells = {grade.name: grade for grade in graded.grades}
            comments = {comment.name: comment for comment in graded.comments}
            for name, given in state.get("manual", {}).items():
                if given["text"] != texts.get(name):
                    continue
                if "score" in given and name in cells:
                    cells[name].manual_score, cells[name].extra_credit = given["score"], given["extra"]
                    cells[name].needs_manual_grade = False
                if "comment" in given and name in comments:
                    comments[name].manual_comment = given["comment"]
            book.db.commit()

    def fail(self, assignment: str, student: str, message: str, state: str = "failed", key: str = "") -> None:
        """No grade for this submission, and the reason; a page of feedback says so to the student."""
        self.forget(assignment, student)
        manual = self.state(assignment, student)["manual"]
        self.keep(assignment, student, {"state": state, "message": message, "manual": manual, "key": key})
        page = f"<!DOCTYPE html><meta charset='utf-8'><title>{html.escape(assignment)}</title>\n"
        page += f"<h1>{html.escape(assignment)}: not graded</h1>\n<p>{html.escape(message)}</p>\n"
        write(self.feedback_page(assignment, student), page)

    def give_feedback(self, row: Row) -> None:
        """nbgrader's page for the student, from the gradebook as it is now."""
        state = self.state(row.assignment, row.student)
        result = self.api.generate_feedback(row.assignment, row.student, force=True)
        if result["success"]:
            self.keep(row.assignment, row.student, {**state, "feedback": row.fingerprint})
        else:
            remark = f"no feedback: {last_line(result)}"
            self.keep(row.assignment, row.student, {**state, "remarks": [*state["remarks"], remark]})

    def feedback_page(self, assignment: str, student: str) -> Path:
        """Where the student's feedback lies."""
        return self.folder / "feedback" / student / assignment / f"{assignment}.html"

    def rows(self, places: Iterable[tuple[str, str]]) -> list[Row]:
        """The grades of these (assignment, student) as they are in the gradebook now."""
        with Gradebook(self.api.coursedir.db_url) as book:
            return [self._row(book, *place) for place in places]

    def _row(self, book: Gradebook, assignment: str, student: str) -> Row:
        state = self.state(assignment, student)
        row = Row(student, assignment, state["state"], state["message"])
        if row.state != "graded":  # "judged": broken off before it was in the gradebook
            row.state = "not graded" if row.state == "judged" else row.state
            return row
        row.message = "; ".join(state["remarks"])
        graded = book.find_submission_notebook(assignment, assignment, student)
        written = {name for name, kind in kinds(state["notebook"]).items() if kind == "written"}
        for grade in graded.grades:
            waits = grade.needs_manual_grade and grade.name in written
            row.points[grade.name] = None if waits else grade.score
            row.maximum[grade.name] = grade.max_score
        row.written_names = sorted(written)
        row.fingerprint = digest(
            state["key"],
            *sorted(f"{g.name} {g.score} {g.manual_score} {g.needs_manual_grade}" for g in graded.grades),
            *sorted(f"{c.name} {c.comment}" for c in graded.comments),
        )
        if None in row.points.values():
            row.state = "to review"
        return row


def answers(notebook: str) -> dict[str, str]:
    """grade_id → digest of the student's text that a grade by hand is about: the cell, for a test all solutions."""
    cells = nbformat.reads(notebook, as_version=4).cells
    named = {name: cell for cell in cells if (name := grade_id(cell))}
    solutions = digest(*(cell.source for cell in named.values() if not is_test(cell)))
    return {name: solutions if is_test(cell) else digest(cell.source) for name, cell in named.items()}


def kinds(notebook: str) -> dict[str, str]:
    """grade_id → "test" or "written", in the order of the cells that bear points."""
    cells = nbformat.reads(notebook, as_version=4).cells
    return {
        grade_id(cell): "test" if is_test(cell) else "written"
        for cell in cells
        if is_test(cell) or is_written(cell)
    }


def write(path: Path, text: str) -> None:
    """Either the old text or the new one is there, also after Ctrl-C."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _remove(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:  # nbgrader makes them read-only
        os.chmod(path, 0o700 if path.is_dir() else 0o600)
    shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------------------------- the run


class Refused(RuntimeError):
    """Nothing was graded, because the sandbox is missing; the message says what to do."""


def grade(
    submissions: Path,
    output: Path = OUTPUT,
    *,
    source: Path = release.SOURCE,
    jobs: int = 1,
    seed: int | None = None,
    unsafe: bool = False,
    only: Iterable[str] = (),
    judge: Callable[..., Verdict] | None = None,
    progress: bool = True,
) -> list[Row]:
    """Grade what changed under `submissions`, and write grades.csv, the feedback and summary.png into `output`.

    `seed` draws the hidden tests' inputs (default: COURSE_GRADING_SEED, else 0). `only`: patterns of students,
    assignments or `student/assignment`. Returns a row for every submission known. Raises ValueError for a wrong
    argument and Refused without a sandbox (`unsafe` grades without). After Ctrl-C, grading again goes on.
    `judge` is `course_lib.classroom.judge.judge`, or what stands in its place in a test.
    """
    if judge is None:
        from course_lib.classroom.judge import judge  # imports PyTorch
    known = release.assignments(source)
    found = find(submissions, known)
    if output.resolve().is_relative_to(submissions.resolve()) or submissions.resolve().is_relative_to(
        output.resolve()
    ):
        raise ValueError(f"submissions and results need folders apart: {submissions}, {output}")
    seed = environment_seed() if seed is None else seed
    course = GradedClass(output)
    places = {
        name: course.prepare(name, known[name]) for name in sorted({s.assignment for s in found} & set(known))
    }
    version = digest(code_version(), str(seed), str(unsafe))
    todo = []
    for submission in (s for s in found if s.assignment in known and chosen(s, only)):
        key = digest(
            version, _content(submission), *(path.read_bytes() for path in places[submission.assignment])
        )
        state = course.state(submission.assignment, submission.student)
        if state.get("key") != key or state["state"] not in ("graded", "damaged"):
            course.forget(submission.assignment, submission.student)
            todo.append((submission, key))
    strays = [
        Row(s.student, s.assignment, "damaged", s.problem or "") for s in found if s.assignment not in known
    ]
    try:
        _judge_all(course, todo, places, {"seed": seed, "unsafe": unsafe, "judge": judge}, jobs, progress)
        _feedback_all(course, progress)
    finally:
        rows = course.rows(course.known()) + strays
        for row in rows:
            if not any((s.student, s.assignment) == (row.student, row.assignment) for s in found):
                row.message = "not among the submissions any more"
        write_csv(course.folder / "grades.csv", rows)
    write_summary(course.folder / "summary.png", rows)
    return rows


def environment_seed() -> int:
    """COURSE_GRADING_SEED, 0 without; ValueError if it is no whole number."""
    text = os.environ.get("COURSE_GRADING_SEED") or "0"
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"COURSE_GRADING_SEED must be a whole number, not {text!r}")
    return int(text)


def chosen(submission: Submission, only: Iterable[str]) -> bool:
    """Whether a pattern of `only` (all, if there is none) fits the student, the assignment or `student/assignment`."""
    names = (submission.student, submission.assignment, f"{submission.student}/{submission.assignment}")
    patterns = list(only)
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _content(submission: Submission) -> bytes:
    if submission.problem:
        return submission.problem.encode()
    try:
        return read_bytes(submission.path) + repr(submission.remarks).encode()
    except Damaged as error:
        return str(error).encode()


def _judge_all(
    course: GradedClass,
    todo: list[tuple[Submission, str]],
    places: dict[str, tuple[Path, Path]],
    settings: dict,
    jobs: int,
    progress: bool,
) -> None:
    """Judge in the workers, record in this process, one submission after the other as they come."""
    work = []
    with tqdm(total=len(todo), desc="grading", unit="submission", disable=not progress) as bar:
        for number, (submission, key) in enumerate(todo):
            if submission.problem:
                course.fail(submission.assignment, submission.student, submission.problem, "damaged", key)
                bar.update()
                continue
            source, released = places[submission.assignment]
            paths = {"path": str(submission.path), "source": str(source), "released": str(released)}
            work.append({"number": number, **paths, **settings})
        for job, result in in_parallel(judge_one, work, jobs):
            submission, key = todo[job["number"]]
            _record(course, submission, key, result)
            (row,) = course.rows([(submission.assignment, submission.student)])
            if row.points:
                course.give_feedback(row)
            bar.update()


def _record(course: GradedClass, submission: Submission, key: str, result: dict) -> None:
    names = submission.assignment, submission.student
    if result["state"] == "refused":
        raise Refused(result["message"])
    if result["state"] != "judged":
        course.fail(*names, result["message"], result["state"], key if result["state"] == "damaged" else "")
        return
    expected = {name for name, kind in kinds(result["notebook"]).items() if kind == "test"}
    if set(result["cells"]) != expected:
        course.fail(*names, "the judge left out a test cell: please report this")
        return
    manual = course.state(*names).get("manual", {})
    remarks = [*submission.remarks, *result["remarks"]]
    course.record(*names, {**result, "remarks": remarks, "manual": manual, "key": key})


def _feedback_all(course: GradedClass, progress: bool) -> None:
    """Pages for whom something changed, here or in the formgrader."""
    rows = [row for row in course.rows(course.known()) if row.points]
    stale = [
        row for row in rows if course.state(row.assignment, row.student).get("feedback") != row.fingerprint
    ]
    for row in tqdm(stale, desc="feedback", unit="page", disable=not progress):
        course.give_feedback(row)


# -------------------------------------------------------------------------------------------------- the command line


def report(rows: list[Row], output: Path) -> str:
    """What the lecturer reads at the end: the counts, and every submission that needs attention."""
    lines = [f"{row.student}/{row.assignment}: {row.state}: {row.message}" for row in rows if not row.points]
    states = ", ".join(f"{n} {state}" for state, n in sorted(Counter(row.state for row in rows).items()))
    return "\n".join(
        [*lines, f"{len(rows)} submissions: {states or 'none'}", f"grades: {output / 'grades.csv'}"]
    )


def main(argv: list[str] | None = None) -> int:
    """The command line. 0: done (damaged submissions included), 1: some were not graded, 2: none, 130: Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("submissions", type=Path, help="a folder student/assignment/assignment.ipynb")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the graded class (default: graded/)")
    parser.add_argument("--source", type=Path, default=release.SOURCE, help="the instructor's notebooks")
    parser.add_argument("--jobs", type=int, default=1, help="submissions at a time (default 1)")
    parser.add_argument(
        "--seed", type=int, help="of the hidden tests' inputs (default: COURSE_GRADING_SEED, else 0)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PATTERN", help="student, assignment, student/assignment"
    )
    parser.add_argument(
        "--unsafe", action="store_true", help="without the sandbox: only for notebooks that you trust"
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {args.jobs}")
    if args.seed is None and not os.environ.get("COURSE_GRADING_SEED"):
        print(
            "No COURSE_GRADING_SEED is set: the hidden tests draw the inputs that everybody can see.",
            file=sys.stderr,
        )
    try:
        rows = grade(
            args.submissions,
            args.output,
            source=args.source,
            jobs=args.jobs,
            seed=args.seed,
            unsafe=args.unsafe,
            only=args.only,
        )
    except (ValueError, Refused) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    print(report(rows, args.output))
    return int(any(row.state in ("failed", "not graded") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
