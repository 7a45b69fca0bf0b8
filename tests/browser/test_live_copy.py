"""A live copy in a real JupyterLab: `%reveal` takes the place of the cell's text, and the check cell answers."""

from __future__ import annotations

import nbformat
import pytest
from laboratory import Laboratory
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.classroom import live
from course_lib.classroom.execute import KERNELSPEC

DOUBLE = "def double(x):\n    return x + x  # 2x"
#: Cell number → run it and wait; returns its text afterwards and its outputs.
RUN = """async ([number, text]) => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = number;
    const model = notebook.activeCell.model;
    if (text !== null) model.sharedModel.setSource(text);
    await window.jupyterapp.commands.execute("notebook:run-cell");
    return [model.sharedModel.source, JSON.stringify(model.outputs.toJSON())];
}"""


@pytest.fixture
def copy(lab: Laboratory, page):
    """The live copy of a tiny lecture, open in JupyterLab."""
    cells = [new_code_cell("start = 1"), new_code_cell(DOUBLE, metadata={"tags": ["live"]})]
    cells += [new_code_cell("y = double(start)")]
    folder = lab.root / "original"
    folder.mkdir()
    lecture = new_notebook(
        cells=cells, metadata={"kernelspec": KERNELSPEC}
    )  # without: a dialogue asks for one
    nbformat.write(lecture, folder / "98_tiny.ipynb")
    live.build([folder / "98_tiny.ipynb"], lab.root)
    lab.open(page, "98_tiny.ipynb")
    return page


def run(page, number: int, text: str | None = None) -> tuple[str, str]:
    source, outputs = page.evaluate(RUN, [number, text])
    return source, outputs


def test_reveal_replaces_the_cells_text(copy, troubles):
    assert run(copy, 0)[1] == "[]"  # %load_ext and %live say nothing
    run(copy, 1)
    assert "nothing was typed yet" in run(copy, 3)[1]
    run(copy, 2, "def double(x):\n    return x")
    assert "differs by up to" in run(copy, 3)[1]
    source, outputs = run(copy, 2, "%reveal --diff")
    assert source == "%reveal --diff"
    assert "+    return x + x" in outputs
    assert "background: #abf2bc" in outputs
    assert (
        run(copy, 2, "%reveal")[0] == DOUBLE
    )  # the whole text was replaced: JupyterLab says which cell it is
    run(copy, 2)
    assert "right (double)" in run(copy, 3)[1]
    assert troubles.all() == []
