"""The lectures run on real MNIST as they do on the embedded set: only the parameters cell knows the difference."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest

from course_lib.classroom import execute

FOLDER = Path(__file__).parents[2] / "notebooks"


def offers_mnist(path):
    """The parameters cell names mnist as a choice."""
    cells = nbformat.read(path, as_version=4).cells
    return any("parameters" in cell.metadata.get("tags", []) and '"mnist"' in cell.source for cell in cells)


def pictures(notebook):
    """Everything that the cells show besides printed text."""
    data = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [content for bundle in data for mime, content in bundle.items() if mime != "text/plain"]


@pytest.fixture(scope="session")
def mnist_root(shared_data, tmp_path_factory):
    """A folder to which the four official files were copied: unpacking writes beside them."""
    official = shared_data / "MNIST" / "raw"
    if not official.is_dir():
        pytest.skip(f"no real MNIST: {official} is not there")
    root = tmp_path_factory.mktemp("root")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in official.iterdir():
        shutil.copyfile(file, raw / file.name)
    return root


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(FOLDER.glob("*.ipynb")) if offers_mnist(path)],
    # `--dist loadscope` cuts a test's name at its last "::" and gives each worker whole scopes: one for each lecture.
    ids=lambda path: f"{path.stem}::mnist",
)
def test_runs_to_the_end_on_mnist(path, mnist_root, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "mnist")
    monkeypatch.setenv("COURSE_DATA_ROOT", os.fspath(mnist_root))
    committed = nbformat.read(path, as_version=4)
    with_end = nbformat.read(path, as_version=4)
    with_end.cells.append(nbformat.v4.new_code_cell("print(DATA)"))
    nbformat.write(with_end, tmp_path / path.name)

    ran = execute.execute(tmp_path / path.name, write=False)

    assert ran.cells[-1].outputs[0].text == "mnist\n"
    assert set(pictures(ran)) - set(pictures(committed)), "the figures are those of the embedded set"
