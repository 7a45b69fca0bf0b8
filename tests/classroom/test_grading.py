"""`make grade`: all assignments through the real pipeline; what becomes of grades when something changes or breaks."""

import csv
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import nbgrader.api
import odd_jobs
import pytest
import tiny_course as tiny
from matplotlib.figure import Figure
from nbgrader.api import Gradebook, MissingEntry

from course_lib.classroom import grading, plugs, release, results
from course_lib.classroom.judge import Output, SandboxMissing, Verdict
from course_lib.classroom.submissions import grade_id, is_test

NAMES = sorted(release.assignments()) if release.SOURCE.is_dir() else []
SEED = 20_26


# --- all assignments, graded once for all tests ----------------------------------------------------------------------


def mistakes(name):
    """{solution's grade_id: a wrong solution} for every second task of an assignment; {} if none are written down."""
    path = release.REPOSITORY / "tests" / "exercises" / f"wrong_{name[:4]}.py"
    if not path.is_file():
        return {}
    spec = importlib.util.spec_from_file_location(path.stem, path)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return {task: next(iter(wrong.values())) for task, wrong in list(module.WRONG.items())[::2]}


@pytest.fixture(scope="module")
def graded_class(tmp_path_factory):
    """Of each assignment the reference solution, the untouched release, and one with mistakes: (folder, rows)."""
    folder = tmp_path_factory.mktemp("class")
    submissions, source = folder / "submissions", folder / "source"
    shutil.copytree(release.SOURCE, source)
    release.build(source=source, output=folder / "release")
    for name, path in release.assignments(source).items():
        reference = release.read(path)
        tiny.submit(submissions, "reference", reference, assignment=name)
        released = (folder / "release" / name / f"{name}.ipynb").read_bytes()
        tiny.submit(submissions, "release", released, assignment=name)
        wrong = mistakes(name)
        for cell in reference.cells:
            cell.source = wrong.get(grade_id(cell), cell.source)
        tiny.submit(submissions, "mistakes", reference, assignment=name)
    unsafe = not tiny.sandboxed()
    rows = grading.grade(
        submissions, folder / "graded", source=source, jobs=2, seed=SEED, unsafe=unsafe, progress=False
    )
    return folder, {(row.student, row.assignment): row for row in rows}


def cells_of(graded_class, name):
    return release.read(graded_class[0] / "source" / name / f"{name}.ipynb").cells


def judged_tests(graded_class, name):
    return [grade_id(cell) for cell in cells_of(graded_class, name) if is_test(cell)]


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_solution_has_all_points(graded_class, name):
    row, tests = graded_class[1]["reference", name], judged_tests(graded_class, name)
    assert {task: row.points[task] for task in tests} == {task: row.maximum[task] for task in tests}
    assert sum(row.maximum.values()) == 20
    assert row.state == "to review"  # the written answers are for a person


@pytest.mark.parametrize("name", NAMES)
def test_the_untouched_release_has_no_point(graded_class, name):
    row = graded_class[1]["release", name]
    assert row.maximum
    assert set(row.points.values()) == {0}
    assert (row.state, row.message) == ("graded", "")


@pytest.mark.parametrize("name", NAMES)
def test_mistakes_cost_their_tasks_only(graded_class, name):
    row, wrong = graded_class[1]["mistakes", name], mistakes(name)
    task, lost, kept = None, set(), set()
    for cell in cells_of(graded_class, name):
        task = grade_id(cell) if cell.metadata.get("nbgrader", {}).get("solution") else task
        if is_test(cell):
            (lost if task in wrong else kept).add(grade_id(cell))
    assert len(lost) == len(wrong)
    assert {task for task in lost | kept if row.points[task] == 0} == lost
    assert {task for task in lost | kept if row.points[task] == row.maximum[task]} == kept


@pytest.mark.parametrize("name", NAMES)
def test_no_feedback_shows_a_hidden_test(graded_class, name):
    folder, rows = graded_class
    cells = cells_of(graded_class, name)
    seen = {line.strip() for cell in cells for line in release.visible_lines(cell)}
    seen |= {line.strip() for cell in cells if not is_test(cell) for line in cell.source.split("\n")}
    hidden = {line.strip() for cell in cells for line in cell.source.split("\n")} - seen
    assert len(hidden) > 10
    for student in ("reference", "release", "mistakes"):
        page = (folder / "graded" / "feedback" / student / name / f"{name}.html").read_text(encoding="utf-8")
        text = plain(page)
        assert "HIDDEN TESTS" not in text
        own = release.read(folder / "graded" / "submitted" / student / name / f"{name}.ipynb").cells
        own = {line.strip() for cell in own for line in cell.source.split("\n")}
        assert not hidden - own & {line.strip() for line in text.split("\n")}
        passed = [task for task in judged_tests(graded_class, name) if rows[student, name].points[task]]
        assert text.count("Passed.") == len(passed)


def plain(page):
    """A page's text without tags."""
    from bs4 import BeautifulSoup

    return BeautifulSoup(page, "html.parser").get_text()


@pytest.mark.skipif(not NAMES, reason="there are no assignments yet")
def test_the_gradebook_says_what_the_table_says(graded_class):
    folder, rows = graded_class
    with (folder / "graded" / "grades.csv").open(encoding="utf-8", newline="") as file:
        table = {(line["student"], line["assignment"]): line for line in csv.DictReader(file)}
    assert set(table) == set(rows)
    with Gradebook(f"sqlite:///{folder / 'graded' / 'gradebook.db'}") as book:
        for (student, name), line in table.items():
            assert book.find_submission(name, student).score == float(line["total"])
            assert float(line["maximum"]) == 20
    assert (folder / "graded" / "summary.png").read_bytes().startswith(b"\x89PNG")


# --- the bookkeeping, with a stand-in for the judge -------------------------------------------------------------------


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course with the tiny assignment, graded in this process."""
    monkeypatch.setattr(nbgrader.api, "get_alembic_version", alembic_version)
    monkeypatch.setattr(grading, "in_parallel", tiny.serially)
    monkeypatch.setattr(grading, "code_version", lambda: "1")
    return Course(tmp_path)


#: nbgrader asks a process of its own for it, for each new gradebook.
alembic_version = functools.cache(nbgrader.api.get_alembic_version)


class Course:
    """Submissions to the tiny assignment, and how often each was judged."""

    def __init__(self, folder):
        self.source, self.submissions, self.output = tiny.write_source(folder), folder / "in", folder / "out"
        self.judged = 0

    def grade(self, judge=tiny.stand_in, **settings):
        """→ {student: row}."""

        def counting(source, submission, **options):
            self.judged += 1
            return judge(source, submission, **options)

        settings = {"source": self.source, "progress": False, "seed": 1, **settings}
        rows = grading.grade(self.submissions, self.output, judge=counting, **settings)
        return {row.student: row for row in rows}

    def submit(self, student, notebook=None, **place):
        return tiny.submit(self.submissions, student, notebook, **place)

    def book(self):
        return Gradebook(f"sqlite:///{self.output / 'gradebook.db'}")

    def score(self, student):
        """The gradebook's score; None if it knows no such submission."""
        with self.book() as book:
            try:
                return book.find_submission(tiny.NAME, student).score
            except MissingEntry:
                return None

    def table(self):
        with (self.output / "grades.csv").open(encoding="utf-8", newline="") as file:
            return {line["student"]: line for line in csv.DictReader(file)}

    def feedback(self, student):
        return (self.output / "feedback" / student / tiny.NAME / f"{tiny.NAME}.html").read_text(
            encoding="utf-8"
        )

    def by_hand(self, student, score, comment):
        """What a grader does in the formgrader."""
        with self.book() as book:
            grade = book.find_grade("why", tiny.NAME, tiny.NAME, student)
            grade.manual_score, grade.needs_manual_grade = score, False
            book.find_comment("why", tiny.NAME, tiny.NAME, student).manual_comment = comment
            book.db.commit()


def test_only_what_changed_is_graded_again(course, monkeypatch):
    for student in ("ann", "bob", "cyd"):
        course.submit(student)
    course.submit("bad", b"{")
    rows = course.grade()
    assert (course.judged, rows["ann"].total, rows["bad"].state) == (3, 7, "damaged")
    again = course.grade()
    assert course.judged == 3
    assert again == rows
    course.submit("bob", tiny.answer(square="return 2 * x"))
    assert course.grade()["bob"].total == 4
    assert course.judged == 4
    course.grade(only=["ann"], seed=2)
    assert course.judged == 5
    course.grade(seed=2)
    assert course.judged == 7
    monkeypatch.setattr(grading, "code_version", lambda: "2")
    course.grade(only=[f"*/{tiny.NAME}"], seed=2)
    assert course.judged == 10
    shutil.rmtree(course.submissions / "cyd")
    rows = course.grade(seed=2)
    assert (course.judged, rows["cyd"].total, rows["cyd"].message) == (
        10,
        7,
        "not among the submissions any more",
    )


def test_a_changed_source_is_released_and_graded_again(course):
    course.submit("ann")
    course.grade()
    path = course.source / tiny.NAME / f"{tiny.NAME}.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace('"points": 3', '"points": 5'), encoding="utf-8")
    assert course.grade()["ann"].total == 9
    assert course.judged == 2


def crash(source, submission, **options):
    raise RuntimeError("the judge broke")


@pytest.mark.parametrize("how", ["judge", "nbgrader", "damaged", "vanished"])
def test_a_failed_regrade_leaves_no_old_score(course, monkeypatch, how):
    path = course.submit("ann")
    course.submit("bob")
    course.grade()
    course.by_hand("ann", 2, "well said")
    assert course.score("ann") == 9
    course.submit("ann", b"{" if how == "damaged" else tiny.answer(square="return -x"))
    with monkeypatch.context() as patch:
        if how == "nbgrader":
            failing = {"success": False, "error": "Traceback\nOSError: disk full", "log": ""}
            patch.setattr("nbgrader.apps.api.NbGraderAPI.autograde", lambda *_, **__: failing)
        if how == "vanished":
            path.unlink()
        row = course.grade(crash if how == "judge" else tiny.stand_in)["ann"]
    reasons = {
        "judge": "the judge broke",
        "nbgrader": "disk full",
        "damaged": "cut off",
        "vanished": "no ex01_tiny",
    }
    assert row.state == ("failed" if how in ("judge", "nbgrader") else "damaged") or how == "judge"
    assert (row.total, course.score("ann")) == (None, None)
    line = course.table()["ann"]
    assert [line[name] for name in ("total", "maximum", "written", "square-test", "double-test", "why")] == [
        ""
    ] * 6
    assert reasons[how] in line["message"]
    assert reasons[how] in course.feedback("ann")
    assert not (course.output / "autograded" / "ann" / tiny.NAME).exists()
    assert course.table()["bob"]["total"] == "7"
    course.submit("ann")  # the answer that was graded by hand
    assert course.grade()["ann"].total == 9
    assert course.score("ann") == 9


def test_what_a_person_gave_stays_with_the_same_answer(course):
    course.submit("ann")
    row = course.grade()["ann"]
    assert (row.state, row.total, row.written) == ("to review", 7, None)
    assert "Not graded yet." in course.feedback("ann")
    course.by_hand("ann", 1.5, "which sign?")
    row = course.grade()["ann"]
    assert (row.state, row.total, row.written, course.judged) == ("graded", 8.5, 1.5, 1)
    assert "which sign?" in course.feedback("ann")
    row = course.grade(seed=2)["ann"]  # judged anew, the same text
    assert (row.state, row.total, row.written, course.judged) == ("graded", 8.5, 1.5, 2)
    assert "which sign?" in course.feedback("ann")
    course.submit("ann", tiny.answer(why="I changed my mind."))
    row = course.grade(seed=2)["ann"]
    assert (row.state, row.total, row.written) == ("to review", 7, None)
    assert "which sign?" not in course.feedback("ann")


def test_after_ctrl_c_the_same_command_goes_on(course):
    for student in ("ann", "bob", "cyd"):
        course.submit(student)
    course.grade()
    for student in ("ann", "bob", "cyd"):
        course.submit(student, tiny.answer(double="return 3 * x"))

    def interrupted(source, submission, **options):
        if course.judged == 5:
            raise KeyboardInterrupt
        return tiny.stand_in(source, submission, **options)

    with pytest.raises(KeyboardInterrupt):
        course.grade(interrupted)
    table = course.table()
    assert [table[s]["total"] for s in ("ann", "bob", "cyd")] == ["3", "", ""]
    assert [table[s]["state"] for s in ("bob", "cyd")] == ["not graded"] * 2
    assert [course.score(s) for s in ("ann", "bob", "cyd")] == [3, None, None]
    assert {row.total for row in course.grade().values()} == {3}
    assert course.judged == 7  # ann's was not judged again


def test_without_a_sandbox_nothing_is_graded(course, capsys):
    course.submit("ann")

    def missing(*_, **__):
        raise SandboxMissing("install bubblewrap")

    with pytest.raises(grading.Refused, match="install bubblewrap"):
        course.grade(missing)
    assert course.table()["ann"]["state"] == "not graded"


def test_a_judge_that_forgets_a_cell_gives_no_points(course):
    course.submit("ann")

    def forgetful(source, submission, **options):
        verdict = tiny.stand_in(source, submission, **options)
        verdict.cells.pop("double-test")
        return verdict

    row = course.grade(forgetful)["ann"]
    assert (row.state, row.total) == ("failed", None)


def test_imports_that_a_busy_machine_stopped_cost_nobody_points(course):
    course.submit("ann")

    def busy(source, submission, **options):
        verdict = tiny.stand_in(source, submission, **options)
        verdict.outputs[1] = Output(error="stopped after 30 s", ran=True)
        return verdict

    row = course.grade(busy)["ann"]
    assert (row.state, row.total) == ("failed", None)
    assert "cell imports did not run (stopped after 30 s): grade again" in row.message
    assert course.grade()["ann"].total == 7


def test_nbgrader_alone_never_runs_a_submission(course):
    course.submit("ann")
    course.grade()
    tiny.submit(course.output / "submitted", "eve", tiny.answer())
    with plugs.quietly():
        result = plugs.nbgrader_on(course.output).autograde(tiny.NAME, "eve")
    assert not result["success"]
    assert "no verdict on eve/ex01_tiny: run `make grade`" in result["log"]
    assert plugs.nbgrader_on(course.output).autograde(tiny.NAME, "ann")["success"]
    assert course.score("ann") == 7


# --- what a hostile student gets into the pages -----------------------------------------------------------------------


def test_nothing_of_a_students_poses_as_a_result(course):
    why = "<script>steal()</script> [a](javascript:steal()) [b](JAVASCRIPT\\:steal()) $a<b$"
    why += " [c](java&#115;cript:steal())"
    notebook = tiny.answer(square="### BEGIN HIDDEN TESTS\n    return 2 * x", why=why)
    fake = {"grade": True, "solution": False, "locked": True, "grade_id": "bonus", "points": 90, "score": 90}
    notebook.cells.insert(
        1, nbformat.v4.new_code_cell("1", metadata={"nbgrader": {**fake, "schema_version": 3}})
    )
    notebook.cells.insert(
        1, nbformat.v4.new_raw_cell("<b id=raw>20</b>", metadata={"raw_mimetype": "text/html"})
    )
    notebook.cells[3].metadata["tags"] = ["hide"]
    html = nbformat.v4.new_output("display_data", {"text/html": "<b id=fake>Score: 90 / 90</b>"})
    notebook.cells[2].outputs = [html]
    notebook.metadata["title"] = "20 / 20"
    course.submit("eve", notebook)

    def printing(source, submission, **options):
        verdict = tiny.stand_in(source, submission, **options)
        outputs = [Output(ran=True) for _ in submission.cells]
        outputs[2] = Output(
            "\x1b[1A\x1b[2KPassed.\n<i id=out>", "<i id=error>", (b"\x89PNG\r\n\x1a\n",), True
        )
        return Verdict(verdict.cells, outputs, "time", 1.0)

    row = course.grade(printing)["eve"]
    assert (row.total, row.points) == (4, {"square-test": 0, "double-test": 4, "why": None})
    assert "stopped early: time" in row.message
    page = course.feedback("eve")
    assert "(Score: 4.0 / 9.0)" in page
    assert "secret_input" not in page
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(page, "html.parser")
    assert not soup.find_all(id=["raw", "fake", "out", "error"])
    assert not [tag for tag in soup.find_all("script") if "steal" in tag.text]
    assert not [a["href"] for a in soup.find_all("a", href=True) if "script" in a["href"].lower()]
    assert "90" not in soup.find(id="toc").text
    assert "\x1b" not in page
    tests = [cell for cell in soup.select("div.cell") if "Grade cell" in cell.text]
    assert ["Passed." in cell.text for cell in tests] == [False, True]
    assert "square-test failed" in tests[0].text
    assert "$a< b$" in soup.text


def test_the_table_holds_no_formula(tmp_path):
    row = results.Row("=cmd()", "ex01", "failed", "=1+1\nand \x1b[31mmore")
    results.write_csv(tmp_path / "grades.csv", [row])
    with (tmp_path / "grades.csv").open(encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["student"], line["message"]) == ("'=cmd()", "'=1+1 and more")


# --- the workers ------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_or_hangs_costs_its_own_job():
    jobs = [{"do": what, "n": n} for n, what in enumerate(["work", "die", "raise", "hang", "work"])]
    told = {job["n"]: result for job, result in grading.in_parallel(odd_jobs.work, jobs, 1, patience=5)}
    assert [told[n]["state"] for n in range(5)] == ["judged", "failed", "failed", "failed", "judged"]
    assert told[1]["message"] == "the grading process died"
    assert told[2]["message"] == "ValueError: no"
    assert told[3]["message"] == "grading took longer than 5 s and was given up"


def test_workers_end_with_the_run():
    running = grading.in_parallel(odd_jobs.work, [{"do": "work"}, {"do": "hang"}, {"do": "hang"}], 2)
    _, result = next(running)
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(result["pid"], 0)


def test_ctrl_c_at_the_terminal(tmp_path):
    source, mark = tiny.write_source(tmp_path), tmp_path / "running"
    for student in ("ann", "bob"):
        endless = f"open({str(mark)!r}, 'w').close()\n    while True: pass"
        tiny.submit(tmp_path / "in", student, tiny.answer(square=endless))
    listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job's child would not
    code = f"import signal, sys; {listen}; from course_lib.classroom import grading; sys.exit(grading.main())"
    command = [sys.executable, "-c", code, str(tmp_path / "in"), "--unsafe"]
    command += ["--source", str(source), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=release.REPOSITORY, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "The same command goes on from here." in told
    assert "No COURSE_GRADING_SEED is set" in told
    with (tmp_path / "out" / "grades.csv").open(encoding="utf-8") as file:
        assert [line["state"] for line in csv.DictReader(file)] == ["not graded"] * 2


# --- the summary, the command line ------------------------------------------------------------------------------------


def test_the_summary_shows_the_shares(tmp_path):
    def row(student, square, why):
        maximum = {"square-test": 3.0, "why": 2.0}
        return results.Row(
            student, "ex01", "graded", "", {"square-test": square, "why": why}, maximum, ["why"]
        )

    rows = [row("a", 3.0, 1.0), row("b", 0.0, None), row("c", 3.0, 2.0), row("d", 3.0, 0.0)]
    ax = Figure().subplots()
    results._draw_tasks(ax, "ex01", rows)
    shares = [[bar.get_width() for bar in bars] for bars in ax.containers]
    assert shares == [[75, 25], [0, 25], [25, 25], [0, 25]]  # all, some, none, not graded; for each task
    assert [text.get_text().strip() for text in ax.texts] == ["75 %", "25 %"]
    results.write_summary(tmp_path / "summary.png", [*rows, results.Row("e", "ex01", "damaged", "empty")])
    assert (tmp_path / "summary.png").stat().st_size > 5_000
    results.write_summary(tmp_path / "summary.png", [])
    assert not (tmp_path / "summary.png").exists()


def test_the_command_line(course, monkeypatch, capsys):
    course.submit("ann")
    course.submit("bad", b"")
    monkeypatch.setattr(
        grading.grade, "__kwdefaults__", {**grading.grade.__kwdefaults__, "judge": tiny.stand_in}
    )
    paths = [str(course.submissions), "--source", str(course.source), "--output", str(course.output)]
    assert grading.main([*paths, "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert f"bad/{tiny.NAME}: damaged: the file is empty" in told
    assert "2 submissions: 1 damaged, 1 to review" in told
    assert grading.main([str(course.output / "x"), *paths[1:], "--seed", "3"]) == 2
    assert "no folder of submissions" in capsys.readouterr().err
    inside = [
        str(course.submissions),
        "--source",
        str(course.source),
        "--output",
        str(course.submissions / "out"),
    ]
    assert grading.main([*inside, "--seed", "3"]) == 2
    assert "need folders apart" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        grading.main([*paths, "--jobs", "0"])


def test_a_seed_that_is_no_number_is_refused(course, monkeypatch):
    course.submit("ann")
    monkeypatch.setenv("COURSE_GRADING_SEED", "secret")
    with pytest.raises(ValueError, match="COURSE_GRADING_SEED must be a whole number"):
        course.grade(seed=None)
