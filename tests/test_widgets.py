"""Widgets: a move changes the picture, errors are seen, and a page without a kernel still shows the figure."""

import base64
import io
import re

import ipywidgets
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image

from course_lib import plotting, widgets


def slope(m: int = 1, shift: float = 0.0) -> Figure:
    if m == 13:
        raise RuntimeError("thirteen <is> unlucky")
    return plotting.curves({"line": m * np.arange(5.0) + shift}, size=(3, 2))


def shown(interactive: widgets.Interactive) -> np.ndarray:
    """The pixels that the live widget shows."""
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', interactive.output.value)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


class TestMoves:
    def test_a_move_redraws_picture_and_alt_text(self):
        interactive = widgets.Interactive(slope, alt="A line.", m=(1, 20), shift=(0.0, 1.0, 0.1, 0.5))
        assert 'alt="A line (m = 1, shift = 0.5)"' in interactive.output.value
        interactive.controls["m"].value = 2
        first = shown(interactive)
        interactive.controls["m"].value = 7
        assert 'alt="A line (m = 7, shift = 0.5)"' in interactive.output.value
        moved = shown(interactive)
        assert moved.shape == first.shape
        assert (moved != first).any()
        interactive.controls["m"].value = 2
        assert (shown(interactive) == first).all()

    def test_an_error_is_shown_and_the_next_move_recovers(self):
        interactive = widgets.Interactive(slope, alt="A line", m=(1, 20))
        interactive.controls["m"].value = 13
        assert "<img" not in interactive.output.value
        assert 'role="alert"' in interactive.output.value
        assert "RuntimeError: thirteen &lt;is&gt; unlucky" in interactive.output.value
        interactive.controls["m"].value = 14
        assert "(m = 14)" in interactive.output.value
        assert 'role="alert"' not in interactive.output.value

    def test_an_error_of_the_first_drawing_is_raised(self):
        with pytest.raises(RuntimeError, match="unlucky"):
            widgets.Interactive(slope, alt="A line", m=(1, 20, 1, 13))

    def test_alt_text_of_its_own(self):
        interactive = widgets.Interactive(
            slope, alt=lambda m: f'Slope {m}, "{"steep" if m > 5 else "flat"}"', m=(1, 20)
        )
        assert repr(interactive) == 'Slope 1, "flat"'
        interactive.controls["m"].value = 9
        assert "Slope 9, &quot;steep&quot;" in interactive.output.value

    def test_the_static_figure_is_smaller_than_the_live_one(self):
        interactive = widgets.Interactive(slope, alt="A line", m=(1, 20))
        interactive.controls["m"].value = 2
        assert len(interactive.default.html()) < len(interactive.output.value) / 2

    def test_figures_of_pyplot_are_closed(self):
        from matplotlib import pyplot

        def plot(m):
            fig, ax = pyplot.subplots(figsize=(2, 2))
            ax.plot([0, m])
            return fig

        before = pyplot.get_fignums()
        interactive = widgets.Interactive(plot, alt="A line", m=(1, 3))
        interactive.controls["m"].value = 2
        assert pyplot.get_fignums() == before


class TestControls:
    @pytest.mark.parametrize(
        ("choice", "kind", "value"),
        [
            ((1, 20), ipywidgets.IntSlider, 1),
            ((1, 20, 2, 5), ipywidgets.IntSlider, 5),
            ((0, 1.0), ipywidgets.FloatSlider, 0.0),
            ((-3.0, 3.0, 0.25, 1.5), ipywidgets.FloatSlider, 1.5),
            ([1, 5, 50], ipywidgets.SelectionSlider, 1),
            (([1, 5, 50], 5), ipywidgets.SelectionSlider, 5),
            (["VAE", "AE"], ipywidgets.Dropdown, "VAE"),
            (True, ipywidgets.Checkbox, True),
            (ipywidgets.Play(value=3, max=9), ipywidgets.Play, 3),
        ],
    )
    def test_from_a_description(self, choice, kind, value):
        control = widgets.control("latent_size", choice)
        assert type(control) is kind
        assert control.value == value
        if control.has_trait("description"):
            assert control.description == "latent size"

    def test_sliders_follow_the_hand_and_show_their_steps(self):
        control = widgets.control("x", (0.0, 1.0, 0.05))
        assert control.continuous_update
        assert (control.min, control.max, control.step, control.readout_format) == (0.0, 1.0, 0.05, ".2f")

    @pytest.mark.parametrize(
        "choice",
        [
            (1,),
            (3, 1),
            (0, 1, 0),
            (0, 1, 0.1, 2.0),
            [],
            "abc",
            (0, float("nan")),
            ([1, 2], 3),
            None,
            ipywidgets.VBox(),
        ],
    )
    def test_bad_description(self, choice):
        with pytest.raises(ValueError, match="control 'm'"):
            widgets.Interactive(slope, alt="A line", m=choice)

    def test_other_bad_input(self):
        with pytest.raises(ValueError, match="needs an alt text"):
            widgets.interact(slope, alt=" ", m=(1, 2))
        with pytest.raises(ValueError, match="at least one control"):
            widgets.interact(slope, alt="A line")
        with pytest.raises(ValueError, match="must return a matplotlib Figure, got int"):
            widgets.interact(lambda m: m, alt="A line", m=(1, 2))


class TestPlayer:
    @pytest.fixture
    def film(self):
        return widgets.Interactive(slope, alt="A line", m=widgets.Player(2, 12, value=3, interval=200))

    def test_the_running_buttons_move_slider_picture_and_alt_text(self, film):
        player, first = film.controls["m"], shown(film)
        player.buttons.value = 7  # what the front end sends while it plays
        assert (player.slider.value, player.value) == (7, 7)
        assert 'alt="A line (m = 7)"' in film.output.value
        assert (shown(film) != first).any()

    def test_playing_goes_on_from_where_the_slider_was_dragged(self, film):
        player = film.controls["m"]
        player.slider.value = 9
        assert (player.buttons.value, player.value) == (9, 9)
        assert 'alt="A line (m = 9)"' in film.output.value

    def test_each_step_is_drawn_once(self):
        drawn = []

        def plot(m):
            drawn.append(m)
            return slope(m)

        film = widgets.Interactive(plot, alt="A line", m=widgets.Player(0, 5))
        film.controls["m"].buttons.value = 1
        film.controls["m"].slider.value = 2
        film.controls["m"].value = 3
        assert drawn == [0, 1, 2, 3]

    def test_it_starts_at_its_value_with_a_label_and_its_speed(self, film):
        player = film.controls["m"]
        assert film.values == {"m": 3}
        assert player.slider.description == "m"
        assert (player.buttons.min, player.buttons.max, player.buttons.step) == (2, 12, 1)
        assert player.buttons.interval == 200
        assert [type(part) for part in player.children] == [ipywidgets.Play, ipywidgets.IntSlider]

    @pytest.mark.parametrize(
        "arguments",
        [{"low": 3, "high": 3}, {"low": 0, "high": 5, "value": 6}, {"low": 0, "high": 5, "step": 0}],
    )
    def test_bad_input(self, arguments):
        with pytest.raises(ValueError, match="Player needs low < high"):
            widgets.Player(**arguments)
        with pytest.raises(ValueError, match="interval=0"):
            widgets.Player(0, 5, interval=0)


class TestRectangles:
    @pytest.fixture
    def paint(self):
        control = widgets.Rectangles(["wall", "window"], 16, ("window", 2, 6, 3, 9))
        return widgets.Interactive(lambda painted: slope(len(painted)), alt="A line", painted=control)

    def test_the_last_rectangle_follows_menu_and_sliders(self, paint):
        control = paint.controls["painted"]
        assert control.value == (("window", 2, 6, 3, 9),)
        control.across.value = (4, 10)
        control.down.value = (0, 16)
        control.brush.value = "wall"
        assert control.value == (("wall", 4, 10, 0, 16),)
        assert control.value[0].right == 10
        assert control.value[0].top == 0

    def test_kept_ones_stay_below_and_can_be_taken_back(self, paint):
        control, first = paint.controls["painted"], shown(paint)
        control.keep.click()
        control.across.value = (8, 12)
        assert [r.left for r in control.value] == [2, 8]
        assert (shown(paint) != first).any()
        control.keep.click()
        control.brush.value = "wall"
        assert [(r.brush, r.left) for r in control.value] == [("window", 2), ("window", 8), ("wall", 8)]
        control.undo.click()
        assert control.value == (("window", 2, 6, 3, 9), ("window", 8, 12, 3, 9))
        control.undo.click()
        assert control.value == (("window", 2, 6, 3, 9),)
        assert (control.brush.value, control.across.value) == ("window", (2, 6))  # it can be moved again
        control.undo.click()
        control.undo.click()  # nothing is left to take back
        assert control.value == ()

    def test_clear_takes_all_away_with_one_drawing(self, paint):
        control, drawn = paint.controls["painted"], []
        control.keep.click()
        control.across.value = (8, 12)
        control.observe(drawn.append, names="value")
        control.clear.click()
        assert control.value == ()
        assert len(drawn) == 1
        control.across.value, control.down.value = (1, 3), (2, 5)
        assert control.value == (("window", 1, 3, 2, 5),)

    def test_rectangles_read_as_words(self, paint):
        (rectangle,) = paint.controls["painted"].value
        assert str(rectangle) == "window in columns 2 to 6 and rows 3 to 9"

    def test_an_empty_rectangle_is_none(self, paint):
        control = paint.controls["painted"]
        control.down.value = (5, 5)
        assert control.value == ()
        assert 'role="alert"' not in paint.output.value

    @pytest.mark.parametrize(
        ("brushes", "side", "first"),
        [
            ([], 16, None),
            (["wall"], 1, None),
            (["wall"], 16, ("door", 0, 1, 0, 1)),
            (["wall"], 16, ("wall", 0, 17, 0, 1)),
            (["wall"], 16, ("wall", 3, 3, 0, 1)),
        ],
    )
    def test_bad_input(self, brushes, side, first):
        with pytest.raises(ValueError, match=r"Rectangles needs|expected a brush"):
            widgets.Rectangles(brushes, side, first)


class TestSurface:
    """The mouse: strokes come from the front end as shares of the plotting area, from its upper left corner."""

    @staticmethod
    def raster(painted) -> Figure:
        figure, (ax,) = plotting.panels(1, size=(2, 2))
        pixels = np.zeros((16, 16))
        for r in painted:
            pixels[r.top : r.bottom, r.left : r.right] = 1
        ax.imshow(pixels, vmin=0, vmax=1)
        return figure

    @staticmethod
    def plane(x, y) -> Figure:
        figure, (ax, _) = plotting.panels(2, size=(2, 2))
        ax.plot(x, y, "o")
        ax.set(xlim=(-2, 2), ylim=(-1, 3))
        return figure

    @pytest.fixture
    def paint(self):
        control = widgets.Rectangles(["wall", "window"], 16, ("window", 2, 6, 3, 9))
        return widgets.Interactive(self.raster, alt="Pixels", painted=control)

    @pytest.fixture
    def walk(self):
        sliders = {"x": (-2.0, 2.0, 0.1, 0.0), "y": (0.0, 3.0, 0.5)}
        return widgets.Interactive(self.plane, alt="A plane", point=("x", "y"), **sliders)

    def test_a_stroke_adds_the_rectangle_that_it_encloses(self, paint):
        first = shown(paint)
        paint.output.stroke = [1, 10.2 / 16, 4.5 / 16, 10.2 / 16, 4.5 / 16]  # pressed on pixel (10, 4)
        assert paint.controls["painted"].value[1:] == (("window", 10, 11, 4, 5),)
        paint.output.stroke = [1, 10.2 / 16, 4.5 / 16, 12.5 / 16, 1.5 / 16]  # dragged to the right and up
        assert paint.controls["painted"].value == (("window", 2, 6, 3, 9), ("window", 10, 13, 1, 5))
        assert (shown(paint) != first).any()

    def test_each_stroke_keeps_the_ones_before_and_stays_inside(self, paint):
        paint.controls["painted"].brush.value = "wall"
        paint.output.stroke = [1, 0, 0, 1, 1]
        paint.output.stroke = [2, 0.75, 0.5, 1, 0.5]
        assert paint.controls["painted"].value[1:] == (("wall", 0, 16, 0, 16), ("wall", 12, 16, 8, 9))

    def test_the_area_is_where_the_picture_has_its_first_axes(self, paint):
        pixels = shown(paint).astype(int)
        edges = np.array(paint.output.area[:4]) * np.tile(pixels.shape[1::-1], 2)
        left, top, right, bottom = edges.round().astype(int)
        background = pixels[top + 3, left + 3]
        assert (background != 255).any()
        # Just inside the edges lies the raster's background, just outside there is none.
        for row, column in ((top, left), (top, right - 1), (bottom - 1, left), (bottom - 1, right - 1)):
            inwards = 3 if row == top else -3, 3 if column == left else -3
            assert (pixels[row + inwards[0], column + inwards[1]] == background).all()
            assert (pixels[row - inwards[0], column + inwards[1]] != background).any()
            assert (pixels[row + inwards[0], column - inwards[1]] != background).any()

    def test_a_point_moves_both_sliders_with_one_drawing(self, walk):
        drawn = []
        walk.output.observe(drawn.append, names="value")
        walk.output.stroke = [1, 0.5, 0.5, 0.87, 0.3]  # x = −2 + 0.87 · 4 = 1.48, y = 3 − 0.3 · 4 = 1.8
        assert walk.values == {"x": pytest.approx(1.5), "y": pytest.approx(2.0)}
        assert "(x = 1.5, y = 2)" in walk.output.value
        assert len(drawn) == 1

    def test_a_point_beyond_a_slider_goes_to_its_end(self, walk):
        walk.output.stroke = [1, 0, 1, 0, 1]  # y = −1, where the slider begins at 0
        assert walk.values == {"x": -2.0, "y": 0.0}
        walk.controls["x"].value = 0.3  # the sliders go on as ever
        assert "(x = 0.3, y = 0)" in walk.output.value

    @pytest.mark.parametrize("point", [("x",), ("x", "z"), ("x", "way")])
    def test_a_point_needs_two_sliders(self, point):
        with pytest.raises(ValueError, match="point must name two sliders"):
            widgets.Interactive(self.plane, alt="A plane", point=point, x=(0, 1), y=(0, 1), way=["a", "b"])


class TestBusy:
    def test_a_slow_drawing_says_so_before_it_begins(self, monkeypatch):
        said = []

        def plot(m):
            if interactives:
                said.append(interactives[0].busy.value)
            return slope(m)

        interactives = []
        interactives.append(widgets.Interactive(plot, alt="A line", m=(1, 20)))
        (interactive,) = interactives
        interactive.controls["m"].value = 2  # how long it takes is not known yet
        monkeypatch.setattr(widgets, "PROMPT", 0.0)
        interactive.controls["m"].value = 3
        monkeypatch.setattr(widgets, "PROMPT", 1e9)
        interactive.controls["m"].value = 4
        assert said == ["", widgets.BUSY, ""]
        assert interactive.busy.value == ""

    def test_an_error_ends_it(self, monkeypatch):
        monkeypatch.setattr(widgets, "PROMPT", -1.0)
        interactive = widgets.Interactive(slope, alt="A line", m=(1, 20))
        interactive.controls["m"].value = 13
        assert interactive.busy.value == ""


CELLS = [
    """
    from course_lib import plotting, widgets
    def slope(m):
        return plotting.curves({"line": [0, m]}, size=(3, 2))
    widgets.interact(slope, alt="A line", m=(1, 20))
    """,
    """
    live = widgets.Interactive(slope, alt="Another line", m=(1, 20))
    print(live.controls["m"].model_id)
    """,
    "print(live.output.value.split('base64')[0])",
]


@pytest.fixture(scope="module")
def executed():
    """A notebook run through a real kernel; before its last cell a front end moves the slider by a comm message."""
    cells = [
        nbformat.v4.new_code_cell("\n".join(line[4:] for line in c.split("\n")) if "\n" in c else c)
        for c in CELLS
    ]
    client = NotebookClient(nbformat.v4.new_notebook(cells=cells), kernel_name="python3", timeout=60)
    with client.setup_kernel():
        for index in (0, 1):
            client.execute_cell(client.nb.cells[index], index)
        move = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
        model = client.nb.cells[1].outputs[0].text.strip()
        client.kc.shell_channel.send(client.kc.session.msg("comm_msg", {"comm_id": model, "data": move}))
        client.execute_cell(client.nb.cells[2], 2)
    return client.nb


class TestNotebook:
    def test_one_bundle_holds_the_widget_and_the_static_figure(self, executed):
        (output,) = executed.cells[0].outputs
        assert output.output_type == "display_data"
        assert set(output.data) == {widgets.WIDGET_VIEW, "text/html", "text/plain"}
        assert output.data["text/plain"] == "A line (m = 1)"
        assert output.metadata["text/html"]["alt"] == "A line (m = 1)"

    def test_a_message_of_the_front_end_moves_the_picture(self, executed):
        assert 'alt="Another line (m = 7)"' in executed.cells[2].outputs[0].text

    def test_without_the_live_widget_the_page_shows_the_picture_with_its_alt_text(self, executed):
        page = nbformat.from_dict(executed)
        page.cells = page.cells[:1]
        page.metadata.pop("widgets", None)
        page.cells[0].outputs[0].data = {
            k: v for k, v in page.cells[0].outputs[0].data.items() if k != widgets.WIDGET_VIEW
        }
        body, _ = HTMLExporter().from_notebook_node(page)
        (element,) = re.findall(r"<img [^>]*base64,[^>]*>", body)
        assert 'alt="A line (m = 1)"' in element
        (data,) = re.findall(r'base64,([^"]+)"', element)
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (432, 288)
