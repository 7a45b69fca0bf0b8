"""Grading in two processes and a sandbox beside plain nbgrader, which runs notebook and tests in one kernel.

Both grade copies of one assignment's reference solution. Plain nbgrader has no parallel grading, so the price of a
submission is compared one at a time (`--jobs 1`), in turns within one run: the ratio of the fastest rounds. A round of
ours is all of `make grade`: starting the workers, judging, gradebook, feedback; a round of nbgrader's is autograde and
feedback. The throughput is that of two jobs; memory is the largest sum, over all processes of a run, of the memory that
each has for itself plus its share of what it has in common with others (PSS).
"""

import contextlib
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbgrader.apps.api import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from course_lib.classroom import grading, plugs, release

N = 4  # submissions a round
ROUNDS = 2


def submit(folder: Path, name: str, source: Path, count: int) -> None:
    """`count` students who handed in the reference solution, with a remark that makes each a file of its own."""
    for number in range(count):
        notebook = release.read(source)
        notebook.cells.append(nbformat.v4.new_markdown_cell(f"student {number}"))
        path = folder / f"s{number}" / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)


def plain_nbgrader(course: Path, name: str, source: Path) -> NbGraderAPI:
    """nbgrader with its own settings, the assignment generated and the submissions in place."""
    patient = {"timeout": 600, "iopub_timeout": 60}  # a busy machine is no reason to fail
    config = Config({"CourseDirectory": {"root": str(course)}, "Execute": patient})
    plugs.nbgrader_on(course)  # finds alembic
    api = NbGraderAPI(coursedir=CourseDirectory(config=config), config=config)
    release.generate(api, name, source)
    submit(course / "submitted", name, source, N)
    return api


@contextlib.contextmanager
def memory_watched():
    """The largest PSS of all child processes together, in bytes, as `.peak` once the block has ended."""
    watch = threading.Event()
    watch.peak = 0

    def look():
        me = psutil.Process()
        while not watch.wait(0.3):
            total = 0
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_full_info().pss
            watch.peak = max(watch.peak, total)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        watch.set()
        thread.join()


def test_grading_against_plain_nbgrader(tmp_path, benchmark):
    """At most 1.5 times the time of plain nbgrader for a submission; submissions a minute and memory are printed."""
    assignments = release.assignments()
    if not assignments:
        pytest.skip("there are no assignments yet")
    name, source = next(iter(assignments.items()))
    submissions = tmp_path / "submissions"
    submit(submissions, name, source, N)
    api = plain_nbgrader(tmp_path / "plain", name, source)
    seconds = {"ours": [], "plain": [], "two jobs": []}
    peaks = {}

    def ours(number, jobs):
        start = time.perf_counter()
        rows = grading.grade(
            submissions, tmp_path / f"graded-{jobs}-{number}", jobs=jobs, seed=number, progress=False
        )
        assert {row.state for row in rows} == {"to review"}
        return time.perf_counter() - start

    def plain():
        start = time.perf_counter()
        with plugs.quietly():
            for number in range(N):
                assert api.autograde(name, f"s{number}", force=True)["success"]
                assert api.generate_feedback(name, f"s{number}", force=True)["success"]
        return time.perf_counter() - start

    def one_round():
        number = len(seconds["ours"])
        seconds["plain"].append(plain())
        with memory_watched() as watch:
            seconds["ours"].append(ours(number, 1))
        peaks[1] = watch.peak
        with memory_watched() as watch:
            seconds["two jobs"].append(ours(number, 2))
        peaks[2] = watch.peak

    benchmark.pedantic(one_round, rounds=ROUNDS)
    each = {what: min(times) / N for what, times in seconds.items()}
    ratio = each["ours"] / each["plain"]
    benchmark.extra_info |= {"ratio": round(ratio, 2), "a_minute": round(60 / each["two jobs"], 1)}
    print(
        f"\ngrading {name}: {each['ours']:.1f} s a submission, {ratio:.2f} times plain nbgrader's {each['plain']:.1f} s"
        f"\ntwo jobs: {60 / each['two jobs']:.0f} submissions a minute; memory {peaks[2] / 2e6:.0f} MB a job"
        f" (one job: {peaks[1] / 1e6:.0f} MB)"
    )
    assert ratio <= 1.5
