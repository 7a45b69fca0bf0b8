"""Every kind of control in a real JupyterLab, in a small notebook of its own."""

from __future__ import annotations

import nbformat
import pytest
from conftest import watched_page
from driving import Lecture, Widget

CELLS = {
    "kinds": """
        import time
        import numpy as np
        from course_lib import plotting, widgets
        plotting.use_style()

        def line(slope=1, shift=0.0, bold=False, shape="straight"):
            if slope == 13:
                raise RuntimeError("thirteen is unlucky")
            x = np.linspace(0, 1, 20)
            y = slope * (x if shape == "straight" else x**2) + shift
            return plotting.curves({"line": y + (0.5 if bold else 0)}, size=(3, 2))

        widgets.interact(line, alt="A line", slope=(1, 20, 1, 11), shift=(0.0, 1.0, 0.1, 0.5), bold=False,
                         shape=["straight", "bent"])
    """,
    "film": """
        widgets.interact(line, alt="A film", slope=widgets.Player(0, 40, interval=250))
    """,
    "drawing": """
        def square():
            figure, (ax,) = plotting.panels(1, size=(3, 3))
            figure.set_layout_engine("none")
            ax.set_position([0.2, 0.2, 0.7, 0.7])
            return figure, ax

        def painted_square(painted):
            figure, ax = square()
            pixels = np.zeros((16, 16))
            for r in painted:
                pixels[r.top : r.bottom, r.left : r.right] = 1 + ("light", "dark").index(r.brush)
            ax.imshow(pixels, vmin=0, vmax=2)
            ax.grid(False)
            return figure

        widgets.interact(painted_square, alt=lambda painted: "; ".join(map(str, painted)) or "nothing",
                         painted=widgets.Rectangles(["light", "dark"], 16))
    """,
    "plane": """
        def plane(x, y):
            figure, ax = square()
            ax.plot(x, y, "o")
            ax.set(xlim=(-2, 2), ylim=(-1, 3))
            return figure

        widgets.interact(plane, alt="A plane", point=("x", "y"), x=(-2.0, 2.0, 0.1, 0.0), y=(-1.0, 3.0, 0.1, 0.0))
    """,
    "slow": """
        def slow(n):
            time.sleep(1.0)
            return line(n)

        widgets.interact(slow, alt="A slow figure", n=(1, 20))
    """,
}


@pytest.fixture(scope="module")
def shown(lab, chromium):
    """Name → widget of each cell of `CELLS`, in an open notebook."""
    sources = ["\n".join(row[8:] for row in text.split("\n")) for text in CELLS.values()]
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path = lab.root / "controls.ipynb"
    nbformat.write(notebook, path)
    with watched_page(chromium) as (page, troubles):
        opened = Lecture(lab, page, troubles, path)
        opened.run()
        assert opened.complaints() == []
        yield dict(zip(CELLS, opened.widgets(), strict=True))
        assert opened.complaints() == []
        assert troubles.all() == []
        opened.close()


def by_name(widget: Widget, name: str):
    (control,) = [control for control in widget.controls() if control.name == name]
    return control.element


def press(widget: Widget, element, *keys: str, settle: bool = True) -> None:
    element.focus()
    for key in keys:
        widget.page.keyboard.press(key)
        if settle:
            widget.settle()


def test_slider_box_and_menu_by_keys(shown):
    widget = shown["kinds"]
    for name, key, said in (
        ("slope", "ArrowRight", "slope = 12"),
        ("shift", "ArrowLeft", "shift = 0.4"),
        ("bold", "Space", "bold = True"),
        ("shape", "ArrowDown", "shape = bent"),
    ):
        before = widget.picture
        press(widget, by_name(widget, name), key)
        assert said in widget.alt
        assert widget.picture != before


def test_keys_stay_in_the_control(shown):
    """In command mode the notebook would take b for "another cell below" and the arrows for "the next cell"."""
    widget, page = shown["kinds"], shown["kinds"].page
    count = "() => window.jupyterapp.shell.currentWidget.content.model.cells.length"
    place = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    before = page.evaluate(count), page.evaluate(place)
    press(widget, by_name(widget, "shape"), "b")
    assert widget.says("shape = bent")
    press(widget, by_name(widget, "shape"), "ArrowUp")
    assert widget.says("shape = straight")
    press(widget, by_name(widget, "bold"), "ArrowDown", "b")
    assert (page.evaluate(count), page.evaluate(place)) == before


def test_a_number_can_be_typed(shown):
    widget = shown["kinds"]
    number = widget.box.query_selector("[role=textbox][aria-label='slope, value']")
    press(widget, number, "Control+a", "7", "Enter")
    assert widget.says("slope = 7")


def test_every_control_has_a_name(shown):
    names = {cell: [control.name for control in widget.controls()] for cell, widget in shown.items()}
    assert names == {
        "kinds": ["slope", "shift", "bold", "shape"],
        "film": ["play or pause", "stop", "repeat", "slope"],
        "drawing": [
            "brush",
            "columns, from",
            "columns, to",
            "rows, from",
            "rows, to",
            "keep",
            "undo",
            "clear",
        ],
        "plane": ["x", "y"],
        "slow": ["n"],
    }
    box = shown["kinds"].page.locator(".course-interactive").first
    for role, name in (("slider", "slope"), ("checkbox", "bold"), ("combobox", "shape")):
        assert box.get_by_role(role, name=name, exact=True).count() == 1


def test_an_error_takes_the_pictures_place_until_the_next_move(shown):
    widget = shown["kinds"]
    slope = by_name(widget, "slope")
    press(widget, slope, "Home", *["ArrowRight"] * 12)
    message = widget.box.wait_for_selector("[role=alert]").inner_text()
    assert "RuntimeError: thirteen is unlucky" in message
    assert widget.picture is None
    press(widget, slope, "ArrowRight")
    assert widget.says("slope = 14")
    assert widget.error is None


def test_a_film_plays_pauses_and_stops_by_keys_and_mouse(shown):
    widget = shown["film"]
    play, stop = by_name(widget, "play or pause"), by_name(widget, "stop")
    by_keys = [
        lambda: press(widget, play, "Space", settle=False),
        lambda: press(widget, play, "Enter", settle=False),
    ]
    for toggle in (*by_keys, play.click):
        assert widget.plays(toggle)
        assert "slope = 0" not in widget.alt
        stop.click()
        widget.settle()
        assert widget.says("slope = 0")


def drag(widget: Widget, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Press the mouse at `start`, move it to `end`: shares of the axes of `square`, from their upper left corner."""
    picture = widget.box.query_selector("img")
    side = picture.bounding_box()["width"]
    (x, y), (to_x, to_y) = [((0.2 + 0.7 * x) * side, (0.1 + 0.7 * y) * side) for x, y in (start, end)]
    widget.drag(picture, to_x - x, to_y - y, start=(x, y))


def test_the_mouse_draws_rectangles(shown):
    widget = shown["drawing"]
    before, first = widget.picture, widget.alt
    drag(widget, (10.5 / 16, 2.5 / 16), (13.5 / 16, 6.5 / 16))
    widget.settle()
    assert widget.picture != before
    assert widget.says(f"{first}; light in columns 10 to 14 and rows 2 to 7")
    press(widget, by_name(widget, "brush"), "ArrowDown")
    drag(widget, (3.5 / 16, 15.5 / 16), (1.5 / 16, 14.5 / 16))
    widget.settle()
    assert widget.says("; dark in columns 1 to 4 and rows 14 to 16")
    assert widget.alt.count(";") == 2
    press(widget, by_name(widget, "undo"), "Space")
    assert widget.alt.count(";") == 1
    press(widget, by_name(widget, "undo"), "Enter")
    assert widget.alt == first
    press(widget, by_name(widget, "clear"), "Space")
    assert widget.alt == "nothing"


def test_keys_draw_rectangles(shown):
    widget = shown["drawing"]
    press(widget, by_name(widget, "clear"), "Space")
    left, right, top, bottom = [c.element for c in widget.controls() if c.kind == "slider"]
    for handle, key, times in (
        (left, "Home", 1),
        (right, "End", 1),
        (bottom, "End", 1),
        (top, "End", 1),
        (top, "ArrowLeft", 2),
    ):
        press(widget, handle, *[key] * times)
    assert widget.says("in columns 0 to 16 and rows 14 to 16")
    before = widget.picture
    press(widget, by_name(widget, "keep"), "Space")
    press(widget, right, "Home")
    assert widget.picture == before  # what was kept stays


def test_the_mouse_points(shown):
    widget = shown["plane"]
    before = widget.picture
    drag(widget, (0.75, 0.25), (0.75, 0.25))
    widget.settle()
    assert widget.picture != before
    assert widget.says("(x = 1, y = 2)")


def test_a_slow_figure_says_that_it_is_being_computed(shown):
    widget = shown["slow"]
    (slider,) = widget.controls()
    press(widget, slider.element, "ArrowRight")  # now its time is known
    before = widget.picture
    slider.element.focus()
    widget.page.keyboard.press("ArrowRight")
    status = widget.box.wait_for_selector("[role=status] :text('computing …')", timeout=900)
    assert status.is_visible()
    assert widget.picture == before
    assert widget.says("n = 3")
    assert widget.picture != before
    assert widget.box.query_selector("[role=status]").inner_text() == ""
