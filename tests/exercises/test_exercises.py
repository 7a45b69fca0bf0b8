"""Every graded assignment, in one process: the points, the reference, the release, and what each test cell accepts.

The cells' text runs in plain namespaces, as in a student's notebook. A test cell sees what the solution cells define
and nothing else: not the imports of other cells, and no variable of another test. `wrong_exNN.py` holds, for each task,
submissions with a typical mistake (WRONG), which must lose this task and no other, and other correct ones (RIGHT).
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
import torch
from matplotlib import pyplot
from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions

from course_lib.classroom import checks

SOURCE = Path(__file__).parents[2] / "notebooks" / "exercises" / "source"
EIGHT = [
    "ex01_pca_autoencoders",
    "ex02_vae",
    "ex03_tighter_bounds",
    "ex04_discrete_latents",
    "ex05_gan_theory",
    "ex06_gan_practice",
    "ex07_image_translation",
    "ex08_autoregressive",
]
NAMES = sorted(path.stem for path in SOURCE.glob("*/ex*.ipynb"))
# What a student's cell may import where it is graded: the modules with the solutions are not there.
ALLOWED = {"course_lib.data", "course_lib.plotting", "course_lib.widgets", "course_lib.classroom"}
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", re.S)


class Assignment:
    """An instructor's notebook, and how to run it with some solution cells replaced."""

    def __init__(self, name: str):
        self.name = name
        self.notebook = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)
        self.cells = {
            cell.metadata.nbgrader.grade_id: cell
            for cell in self.notebook.cells
            if "nbgrader" in cell.metadata
        }
        self.tasks = [
            grade_id
            for grade_id, cell in self.cells.items()
            if cell.cell_type == "code" and cell.metadata.nbgrader.solution
        ]
        self.written = [i for i, cell in self.cells.items() if cell.cell_type == "markdown"]

    @functools.cached_property
    def submissions(self):
        """The module `wrong_exNN`, with its WRONG and RIGHT."""
        path = Path(__file__).with_name(f"wrong_{self.name[:4]}.py")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def run(
        self, replaced: dict[str, str] | None = None, release: bool = False
    ) -> dict[str, Exception | None]:
        """Run the cells in order; what each test cell raised (None: passed), by the grade_id of its task."""
        notebook = released(self.notebook) if release else self.notebook
        student, outcome, names = {"__name__": "__main__"}, {}, set()
        for cell in notebook.cells:
            if cell.cell_type != "code" or "nbgrader" not in cell.metadata:
                continue
            grader, text = cell.metadata.nbgrader, cell.source
            if grader.grade:
                outcome[task_of(grader.grade_id)] = error_of(
                    text, {n: student[n] for n in names if n in student}
                )
                continue
            if grader.solution:
                text = (replaced or {}).get(grader.grade_id, text)
                names |= defined(self.cells[grader.grade_id].source)
            error = error_of(text, student)
            assert error is None, f"{self.name}: the cell {grader.grade_id!r} itself raises {error!r}"
        return outcome


def released(notebook):
    """The students' version of a notebook, by nbgrader's own preprocessors."""
    notebook = copy.deepcopy(notebook)
    for preprocessor in (ClearSolutions(), ClearHiddenTests()):
        notebook, _ = preprocessor.preprocess(notebook, {})
    return notebook


def task_of(grade_id: str) -> str:
    return grade_id.removesuffix("-test")


def defined(text: str) -> set[str]:
    """The functions and classes that a cell defines at its top level."""
    return {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def error_of(text: str, namespace: dict) -> Exception | None:
    try:
        exec(compile(text, "<cell>", "exec"), namespace)
    except Exception as error:  # whatever a submission raises is its result
        return error
    return None


@functools.cache
def assignment(name: str) -> Assignment:
    return Assignment(name)


def lost(outcome: dict[str, Exception | None]) -> dict[str, Exception]:
    return {task: error for task, error in outcome.items() if error is not None}


each_assignment = pytest.mark.parametrize("name", NAMES)


def submissions(kind: str) -> list:
    """(assignment, task, title) of every entry of WRONG or RIGHT."""
    found = []
    for name in NAMES:
        if not Path(__file__).with_name(f"wrong_{name[:4]}.py").exists():
            continue  # test_enough_submissions_for_every_task says so
        for task, entries in getattr(assignment(name).submissions, kind).items():
            for title in entries:
                label = f"{name[:4]}-{task}-{title}".replace(" ", "_")
                found.append(pytest.param(name, task, title, id=label))
    return found


# --- The form -------------------------------------------------------------------------------------------------


def test_the_eight_assignments_of_the_syllabus_are_there():
    assert NAMES == EIGHT


@each_assignment
def test_points_and_tasks(name):
    a = assignment(name)
    points = [cell.metadata.nbgrader.points for cell in a.cells.values() if cell.metadata.nbgrader.grade]
    assert sum(points) == 20
    assert all(isinstance(p, int) and p > 0 for p in points)
    assert 4 <= len(a.tasks) <= 6
    assert 1 <= len(a.written) <= 3


@each_assignment
def test_cells_carry_the_metadata_that_nbgrader_expects(name):
    a = assignment(name)
    kinds = {}
    for grade_id, cell in a.cells.items():
        meta = cell.metadata.nbgrader
        assert meta.schema_version == 3
        assert not meta.get("task", False)
        assert ("points" in meta) == meta.grade
        kinds[grade_id] = (cell.cell_type, meta.grade, meta.solution, meta.locked)
    for task in a.tasks:
        assert kinds.pop(task) == ("code", False, True, False)
        assert kinds.pop(f"{task}-test") == ("code", True, False, True)
    for question in a.written:
        assert question.startswith("why-")
        assert kinds.pop(question) == ("markdown", True, True, False)
    assert set(kinds.values()) <= {("code", False, False, True)}  # imports
    assert len(a.cells) == sum("nbgrader" in cell.metadata for cell in a.notebook.cells)  # no id twice


@each_assignment
def test_the_source_is_stored_without_outputs(name):
    for cell in assignment(name).notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@each_assignment
def test_stubs_keep_their_docstring_and_tests_their_hidden_part(name):
    a = assignment(name)
    release = {
        c.metadata.nbgrader.grade_id: c.source for c in released(a.notebook).cells if "nbgrader" in c.metadata
    }
    for task in a.tasks:
        tree = ast.parse(release[task])
        definitions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        documented = [ast.get_docstring(n) for n in definitions if ast.get_docstring(n)]
        assert any(len(text) > 60 for text in documented), f"{task}: no docstring in the stub"
        assert "NotImplementedError" in release[task]
        assert "SOLUTION" not in release[task]
        (hidden,) = HIDDEN.findall(a.cells[f"{task}-test"].source)
        assert "checks.rng(" in hidden, f"{task}: the hidden test draws no inputs"
        assert "HIDDEN" not in release[f"{task}-test"]
        assert hidden not in release[f"{task}-test"]
        assert "checks.rng(" not in release[f"{task}-test"]
    for question in a.written:
        assert "ubric" in a.cells[question].source
        assert "ubric" not in release[question]


@each_assignment
def test_what_a_student_runs_imports_no_module_with_the_solutions(name):
    for cell in released(assignment(name).notebook).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            if any(module.startswith("course_lib") for module in modules):
                assert any(module in ALLOWED for module in modules), ast.unparse(node)


# --- What passes and what does not ----------------------------------------------------------------------------


@each_assignment
@pytest.mark.parametrize("seed", ["0", "1", "20261121"])
def test_the_reference_passes_whatever_the_lecturers_seed(name, seed, monkeypatch):
    monkeypatch.setenv("COURSE_GRADING_SEED", seed)
    outcome = assignment(name).run()
    assert set(outcome) == set(assignment(name).tasks)
    assert lost(outcome) == {}


@each_assignment
def test_the_release_passes_nothing_and_says_why(name):
    outcome = assignment(name).run(release=True)
    assert all(isinstance(error, NotImplementedError) for error in outcome.values()), outcome


@each_assignment
def test_enough_submissions_for_every_task(name):
    a = assignment(name)
    for kind, least in (("WRONG", 3), ("RIGHT", 2)):
        entries = getattr(a.submissions, kind)
        assert set(entries) == set(a.tasks)
        assert all(len(texts) >= least for texts in entries.values()), kind


@pytest.mark.parametrize(("name", "task", "title"), submissions("WRONG"))
def test_a_wrong_submission_loses_its_task_and_no_other(name, task, title):
    a = assignment(name)
    outcome = a.run({task: a.submissions.WRONG[task][title]})
    assert set(lost(outcome)) == {task}
    error = outcome[task]
    assert isinstance(error, checks.Failed), f"the mistake is not named, it raises {error!r}"
    assert len(str(error)) > 20


@pytest.mark.parametrize(("name", "task", "title"), submissions("RIGHT"))
def test_another_right_submission_passes(name, task, title):
    a = assignment(name)
    assert lost(a.run({task: a.submissions.RIGHT[task][title]})) == {}


# --- Hard-coded answers ---------------------------------------------------------------------------------------


def fingerprint(value) -> object:
    """A value as something to look up: the numbers of a tensor, not the object."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), str(value.dtype), tuple(value.detach().flatten().tolist())
    if isinstance(value, list | tuple):
        return tuple(fingerprint(v) for v in value)
    if isinstance(value, dict):
        return tuple((key, fingerprint(value[key])) for key in sorted(value))
    if isinstance(value, torch.nn.Module):
        return fingerprint(dict(value.state_dict()))
    return value.initial_seed() if isinstance(value, torch.Generator) else value


class Table:
    """A student's function that remembers its answers, and one that knows these answers only."""

    def __init__(self, function):
        self.function, self.answers = function, {}

    def record(self, *args, **kwargs):
        key, answer = fingerprint((args, kwargs)), self.function(*args, **kwargs)
        self.answers.setdefault(key, answer)
        return answer

    def replay(self, *args, **kwargs):
        key = fingerprint((args, kwargs))
        if key not in self.answers:
            raise KeyError("an input that the table does not know")
        return self.answers[key]


@each_assignment
def test_a_table_of_the_public_answers_fails_under_another_seed(name, monkeypatch):
    """Everything here is public, so someone may store the answers to the default seed's hidden inputs, too."""
    a = assignment(name)
    student = {"__name__": "__main__"}
    for cell in a.notebook.cells:
        if cell.cell_type == "code" and "nbgrader" in cell.metadata and not cell.metadata.nbgrader.grade:
            assert error_of(cell.source, student) is None
    for task in a.tasks:
        functions = {n: student[n] for n in defined(a.cells[task].source)}
        if any(isinstance(f, type) for f in functions.values()):
            continue  # a class has no table of answers: its weights and inputs come with every call
        tables, text = {n: Table(f) for n, f in functions.items()}, a.cells[f"{task}-test"].source
        monkeypatch.setenv("COURSE_GRADING_SEED", "0")
        assert error_of(text, {n: table.record for n, table in tables.items()}) is None, task
        monkeypatch.setenv("COURSE_GRADING_SEED", "1")
        assert error_of(text, {n: table.replay for n, table in tables.items()}) is not None, task


# --- The reward at the end ------------------------------------------------------------------------------------


@each_assignment
def test_cells_that_are_not_graded_run_with_the_reference(name, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    student = {"__name__": "__main__"}
    for cell in assignment(name).notebook.cells:
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade"):
            assert error_of(cell.source, student) is None, cell.source
    pyplot.close("all")
