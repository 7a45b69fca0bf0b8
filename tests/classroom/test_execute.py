"""The command behind `make notebooks`: what it keeps, what it drops, and that a failure loses nothing."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.classroom import execute


def write(path, *sources):
    nbformat.write(new_notebook(cells=[new_code_cell(s) for s in sources]), path)
    return path


def printed(text):
    return new_notebook(cells=[new_code_cell("…", outputs=[new_output("stream", name="stdout", text=text)])])


def test_executes_in_order_and_again_to_the_same_bytes(tmp_path):
    path = write(tmp_path / "a.ipynb", "x = 20", "", "print(x + 1)", "x * 2")
    execute.execute(path)
    stored = nbformat.read(path, as_version=4)
    assert stored.cells[2].outputs[0].text == "21\n"
    assert stored.cells[3].outputs[0].data["text/plain"] == "40"
    assert [c.execution_count for c in stored.cells] == [1, None, 2, 3]
    first = path.read_bytes()
    execute.execute(path)
    assert path.read_bytes() == first


def test_keeps_what_says_something(tmp_path):
    path = write(
        tmp_path / "a.ipynb",
        "from tqdm import tqdm\nfor _ in tqdm(range(3)): pass",
        "import warnings; warnings.warn('look here')",
        "import ipywidgets\nfrom IPython.display import display\n"
        "mime = ipywidgets.IntSlider()._repr_mimebundle_()\n"
        "display({**mime, 'image/svg+xml': '<svg/>'}, raw=True)\nipywidgets.IntSlider()",
    )
    bar, warning, widget = execute.execute(path).cells
    assert bar.outputs == []
    assert "<cell>:1: UserWarning: look here" in warning.outputs[0].text
    (picture,) = widget.outputs  # the slider without a static picture is gone
    assert set(picture.data) == {"image/svg+xml", "text/plain"}


def test_an_error_fails_and_leaves_the_file(tmp_path, capsys):
    path = write(tmp_path / "a.ipynb", "print('before')", "1 / 0")
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize("text", ["<object object at 0x7f0123456789>", str(Path.home() / "somewhere")])
def test_outputs_that_differ_between_machines_are_refused(text):
    with pytest.raises(ValueError, match="differ between machines"):
        execute.light_text(printed(text))
    assert "0.25 nats" in execute.light_text(printed("0.25 nats"))


def test_large_outputs_are_refused():
    with pytest.raises(ValueError, match="at most 400 KB"):
        execute.light_text(printed("x" * 500_000))


def test_clean_keeps_teaching_metadata_and_is_idempotent():
    cell = new_code_cell("1", metadata={"tags": ["live"], "execution": {"started": "now"}, "collapsed": True})
    cell.outputs = [new_output("execute_result", {"text/plain": "1"}, execution_count=7)]
    notebook = new_notebook(
        cells=[new_markdown_cell("text", metadata={"slideshow": {"slide_type": "slide"}}), cell]
    )
    notebook.metadata["widgets"] = {"state": {}}
    once = nbformat.writes(execute.clean(notebook))
    assert nbformat.writes(execute.clean(notebook)) == once
    assert cell.metadata == {"tags": ["live"]}
    assert cell.execution_count == cell.outputs[0].execution_count == 1
    assert notebook.cells[0].metadata == {"slideshow": {"slide_type": "slide"}}
    assert "widgets" not in notebook.metadata


def test_clean_joins_what_a_progress_bar_cut():
    pieces = [("stdout", "a\n"), ("stderr", "\r 50%"), ("stdout", "b\n")]
    notebook = printed("")
    notebook.cells[0].outputs = [new_output("stream", name=name, text=text) for name, text in pieces]
    (output,) = execute.clean(notebook).cells[0].outputs
    assert output.text == "a\nb\n"


def test_missing_paths_are_named(capsys):
    with pytest.raises(SystemExit):
        execute.main(["nowhere.ipynb"])
    assert "nowhere.ipynb" in capsys.readouterr().err
