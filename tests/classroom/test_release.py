"""`make exercises`: what students get holds neither solutions nor hidden tests, and their work is not overwritten."""

import shutil
import subprocess
import zipfile

import nbformat
import pytest
import tiny_course as tiny

from course_lib.classroom import release

NAMES = sorted(release.assignments()) if release.SOURCE.is_dir() else []


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A built release of the tiny assignment: (source, release)."""
    folder = tmp_path_factory.mktemp("course")
    source = tiny.write_source(folder)
    assert release.build(source=source, output=folder / "release") == []
    return source, folder / "release"


def test_the_release_is_the_visible_part(course):
    _, folder = course
    path = folder / tiny.NAME / f"{tiny.NAME}.ipynb"
    cells = {
        c.metadata.get("nbgrader", {}).get("grade_id"): c for c in nbformat.read(path, as_version=4).cells
    }
    docstring = '    """x², elementwise. x: tensor (N,) → tensor (N,)."""\n'
    stub = f"{docstring}    # YOUR CODE HERE\n    raise NotImplementedError()"
    assert cells["square"].source == "def square(x):\n" + stub
    assert cells["square-test"].source.endswith('"the square of 2 is 4")')
    assert cells["why"].source == "YOUR ANSWER HERE"
    text = path.read_text(encoding="utf-8")
    for secret in ("secret_input", "x * x", "the model answer", "HIDDEN", "SOLUTION"):
        assert secret not in text


def test_the_archive_unpacks_into_a_checkout(course):
    _, folder = course
    with zipfile.ZipFile(folder / "exercises.zip") as archive:
        (name,) = archive.namelist()
        assert name == f"notebooks/exercises/release/{tiny.NAME}/{tiny.NAME}.ipynb"
        assert archive.read(name) == (folder / tiny.NAME / f"{tiny.NAME}.ipynb").read_bytes()


def test_a_students_work_is_kept_unless_forced(tmp_path):
    source, output = tiny.write_source(tmp_path), tmp_path / "release"
    release.build(source=source, output=output)
    path = output / tiny.NAME / f"{tiny.NAME}.ipynb"
    released = path.read_bytes()
    path.write_bytes(b"my own work")
    assert release.build(source=source, output=output) == [f"{tiny.NAME}/{tiny.NAME}.ipynb"]
    assert path.read_bytes() == b"my own work"
    assert release.build(source=source, output=output, force=True) == []
    assert path.read_bytes() == released


@pytest.fixture(scope="module")
def all_released(tmp_path_factory):
    """The release of all assignments of the course, with the sources as they were: (source, release)."""
    folder = tmp_path_factory.mktemp("all")
    shutil.copytree(release.SOURCE, folder / "source")
    release.build(source=folder / "source", output=folder / "release")
    return folder / "source", folder / "release"


def released_pair(**changes):
    """The tiny source and its release made by hand, with some cells of the release replaced."""
    source = tiny.source()
    released = nbformat.from_dict(source)
    released = nbformat.reads(nbformat.writes(released), as_version=4)
    for cell in released.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        cell.source = "\n".join(release.visible_lines(next(c for c in source.cells if c.id == cell.id)))
        cell.source = changes.get(name, cell.source)
    return source, released


def test_check_release_accepts_the_visible_lines():
    release.check_release(*released_pair())


@pytest.mark.parametrize(
    ("cell", "text", "message"),
    [
        ("square", "def square(x):\n    return x * x", "must not be released: 'return x [*] x'"),
        ("square-test", "secret_input = torch.tensor([-3.0])", "secret_input"),
        ("why", tiny.WHY, "the model answer"),
    ],
)
def test_check_release_names_what_leaks(cell, text, message):
    with pytest.raises(release.ReleaseError, match=message):
        release.check_release(*released_pair(**{cell: text}))


def test_a_misspelt_marker_stops_the_release(tmp_path):
    source = tiny.write_source(tmp_path)
    path = source / tiny.NAME / f"{tiny.NAME}.ipynb"
    path.write_text(
        path.read_text(encoding="utf-8").replace("BEGIN SOLUTION", "BEGIN SOLUTON"), encoding="utf-8"
    )
    with pytest.raises(release.ReleaseError, match="SOLUTON"):
        release.build(source=source, output=tmp_path / "release")
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize(
    "extra", [{"outputs": [nbformat.v4.new_output("stream", text="4")]}, {"metadata": {"x": 1}}]
)
def test_outputs_and_foreign_metadata_are_not_released(extra):
    source, released = released_pair()
    for key, value in extra.items():
        released.cells[1][key] = {**released.cells[1].metadata, **value} if key == "metadata" else value
    with pytest.raises(release.ReleaseError, match="cell imports"):
        release.check_release(source, released)


def test_an_unknown_assignment_is_named(course, tmp_path, capsys):
    source, _ = course
    assert release.main(["ex99", "--source", str(source), "--output", str(tmp_path / "r")]) == 1
    assert "no assignment 'ex99'; there are: ex01_tiny" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


@pytest.mark.skipif(not NAMES, reason="there are no assignments yet")
def test_all_assignments_of_the_course_release(all_released):
    sources, folder = all_released
    for name in NAMES:
        source = release.read(sources / name / f"{name}.ipynb")
        text = (folder / name / f"{name}.ipynb").read_text(encoding="utf-8")
        release.check_release(source, nbformat.reads(text, as_version=4))
        released = nbformat.reads(text, as_version=4)
        told = {line.strip() for cell in released.cells for line in lines(cell)}
        seen = {line.strip() for cell in source.cells for line in release.visible_lines(cell)}
        hidden = {line.strip() for cell in source.cells for line in lines(cell)} - seen
        assert len(hidden) > 30
        assert not hidden & told, name


def lines(cell):
    return cell.source.split("\n")


@pytest.mark.skipif(shutil.which("git") is None, reason="git decides what it ignores, and is not installed")
def test_nothing_of_a_release_or_of_grades_is_seen_by_git(tmp_path):
    shutil.copy(release.REPOSITORY / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    made = ["release/ex01/ex01.ipynb", "gradebook.db", "submitted/a/b.ipynb", "autograded/x", "feedback/x"]
    made = [f"notebooks/exercises/{path}" for path in made] + ["graded/grades.csv", "graded/.state/x"]
    ours = [f"notebooks/exercises/{path}" for path in ("README.md", "nbgrader_config.py", "source/a/a.ipynb")]
    told = subprocess.run(["git", "check-ignore", *made, *ours], cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout.split() == made
