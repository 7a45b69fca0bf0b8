"""Figures: what is drawn is what was given, the alt text arrives in the page, and the palette survives grey."""

import io
import re

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nbconvert import HTMLExporter
from PIL import Image

from course_lib import plotting


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        plotting.use_style()
        yield


def pixels(fig: Figure, **options) -> np.ndarray:
    """(H, W, 3) in [0, 1] of the rendered figure."""
    return np.asarray(Image.open(io.BytesIO(plotting.png(fig, **options))).convert("RGB")) / 255


def some_images(n: int = 6, channels: int = 1, side: int = 8) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


class TestPalette:
    @pytest.mark.parametrize("palette", [plotting.PALETTE, plotting.PALETTE_TEN, [plotting.GREY]])
    def test_lines_and_markers_contrast_with_white(self, palette):
        # WCAG 2.1, success criterion 1.4.11: 3 : 1 for what a figure draws.
        contrasts = {mpl.colors.to_hex(colour): 1.05 / (luminance(colour) + 0.05) for colour in palette}
        assert not {colour: contrast for colour, contrast in contrasts.items() if contrast < 3}

    def test_text_contrasts_with_white(self):
        # WCAG 2.1, 1.4.3: 4.5 : 1 for text; grey, and the colour of the first curve, may be written with.
        written = [plotting.GREY, plotting.PALETTE[0]]
        written += [
            mpl.rcParams[key] for key in ("text.color", "axes.labelcolor", "xtick.color", "axes.edgecolor")
        ]
        assert min(1.05 / (luminance(colour) + 0.05) for colour in written) >= 4.5

    def test_contour_labels_contrast_with_every_ground(self):
        g = np.linspace(-2, 2, 21)
        fig = plotting.heatmap(g[:, None] + g, g, g, xlabel="x", ylabel="y", label="z", contours=[-2, 0, 2])
        for text in fig.axes[0].texts:
            (effect, *_) = text.get_path_effects()
            rim = luminance(effect._gc["foreground"])
            assert (luminance(text.get_color()) + 0.05) / (rim + 0.05) >= 4.5

    def test_maps_of_a_quantity_rise_in_lightness(self):
        ramp = mpl.colormaps[plotting.COLOUR_MAP](np.linspace(0, 1, 256))
        lightness = [luminance(colour) ** (1 / 3) for colour in ramp]
        assert np.diff(lightness).min() > 0

    def test_told_apart_in_grey(self):
        grey = [luminance(colour) ** (1 / 2.2) for colour in plotting.PALETTE]
        assert np.abs(np.diff(grey)).min() > 0.1  # neighbours by lightness
        assert np.diff(sorted(grey[:4])).min() > 0.1  # and all of the first four
        assert len(set(map(str, plotting.LINE_STYLES[:6]))) == 6  # and six by line style
        assert len(set(plotting.MARKERS)) == len(set(plotting.HATCHES)) == 8

    @pytest.mark.parametrize("palette", [plotting.PALETTE, plotting.PALETTE_TEN])
    def test_told_apart_without_the_red_or_green_cones(self, palette):
        # Viénot, Brettel, Mollon 1999: what protanopes and deuteranopes see, in linear RGB.
        linear = np.array([mpl.colors.to_rgb(colour) for colour in palette]) ** 2.2
        for matrix in (
            [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
            [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        ):
            seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
            distance = np.linalg.norm(seen[:, None] - seen, axis=-1) + np.eye(len(palette))
            assert distance.min() > 0.08

    def test_colours(self):
        assert [len(plotting.colours(n)) for n in (1, 8, 9, 10, 36)] == [1, 8, 9, 10, 36]
        assert [len(set(plotting.colours(n))) for n in (8, 9, 10)] == [8, 9, 10]
        with pytest.raises(ValueError, match="at least 1"):
            plotting.colours(0)


class TestGrey:
    """What is drawn beside one another differs in more than its hue, so that a grey print tells it apart."""

    @property
    def four(self) -> dict[str, np.ndarray]:
        return {name: np.arange(5.0) * k for k, name in enumerate("abcd", 1)}

    @staticmethod
    def styles(lines) -> list:
        return [str(line._unscaled_dash_pattern) for line in lines]

    def test_curves_by_line_style(self):
        (ax,) = plotting.curves(self.four).axes
        assert len(set(self.styles(ax.lines))) == 4

    @pytest.mark.parametrize(
        "draw",
        [
            lambda reference: plotting.curves({"a": [1, 2], "b": [2, 3]}, reference=reference),
            lambda reference: plotting.histogram({"a": [1, 2]}, reference=reference),
            lambda reference: plotting.bars({"a": 1}, ylabel="", reference=reference),
        ],
    )
    def test_references_by_line_style(self, draw):
        (ax,) = draw({"one": 1.0, "two": 2.0, "three": 3.0}).axes
        assert len(set(self.styles(ax.lines))) == len(ax.lines) >= 3

    def test_histograms_by_line_style(self):
        (ax,) = plotting.histogram(self.four).axes
        outlines = [patch for patch in ax.patches if not patch.get_fill()]
        assert len({str(patch.get_linestyle()) for patch in outlines}) == len(outlines) == 4

    def test_bars_by_hatch(self):
        (ax,) = plotting.bars({"x": dict.fromkeys("abcd", 1.0)}, ylabel="").axes
        assert len({bar.get_hatch() for bar in ax.patches}) == 4

    def test_points_by_marker_and_name(self):
        z = np.random.default_rng(0).normal(size=(40, 2))
        (ax,) = plotting.latent_scatter(z, np.arange(40) % 8).axes
        assert len({points.get_paths()[0].vertices.tobytes() for points in ax.collections}) == 8
        assert {text.get_text() for text in ax.texts} == set("01234567")

    def test_many_points_by_colour_and_marker(self):
        z = np.random.default_rng(0).normal(size=(80, 2))
        (ax,) = plotting.latent_scatter(z, np.arange(80) % 36).axes
        kinds = {(p.get_facecolor().tobytes(), p.get_paths()[0].vertices.tobytes()) for p in ax.collections}
        assert len(kinds) == 36

    def test_spectrum_by_bars_and_line(self):
        (ax,) = plotting.spectrum([3.0, 2.0, 1.0]).axes
        bars, line = luminance(ax.patches[0].get_facecolor()), luminance(ax.lines[0].get_color())
        assert abs(bars ** (1 / 2.2) - line ** (1 / 2.2)) > 0.1


class TestPage:
    alt = 'A line that rises from "0" to 4 & <stays> there'

    def figure(self) -> Figure:
        return plotting.curves({"a": np.arange(5.0)})

    def test_png_is_small_and_the_same_every_time(self):
        data = plotting.png(self.figure())
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert data == plotting.png(self.figure())
        assert len(data) < 40_000
        assert len(data) < len(plotting.png(self.figure(), colours=None)) / 2

    def test_squeezing_changes_little(self):
        fig = plotting.latent_scatter(np.random.default_rng(0).normal(size=(300, 2)), np.arange(300) % 10)
        difference = np.abs(pixels(fig) - pixels(fig, colours=None))
        assert difference.max() < 0.18
        assert difference.mean() < 0.005
        assert pixels(fig)[0, 0].tolist() == [1, 1, 1]

    def test_grey_images_stay_exact(self):
        fig = plotting.image_grid(some_images())
        assert np.array_equal(pixels(fig), pixels(fig, colours=None))

    def test_png_leaves_the_figure_as_it_was(self):
        fig = self.figure()
        dpi = fig.dpi
        width = Image.open(io.BytesIO(plotting.png(fig, dpi=50))).width
        assert width == round(fig.get_figwidth() * 50)
        assert fig.dpi == dpi

    def test_default_page_of_nbconvert_has_picture_and_alt_text(self):
        data, metadata = plotting.picture(self.figure(), self.alt)._repr_mimebundle_()
        assert data["text/plain"] == self.alt
        output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
        cell = nbformat.v4.new_code_cell("show(…)", outputs=[output], execution_count=1)
        page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
        (element,) = re.findall(r"<img [^>]*?base64,[^>]*>", page)
        assert "A line that rises from" in element
        assert "No description" not in page
        assert (
            plotting.picture(self.figure(), "Short.")
            .html()
            .startswith('<img alt="Short." width="614" src="data:')
        )

    def test_show_displays_once_and_closes(self, monkeypatch):
        import IPython.display
        from matplotlib import pyplot

        shown = []
        monkeypatch.setattr(IPython.display, "display", shown.append)
        fig, _ = pyplot.subplots()
        plotting.show(fig, "Empty axes,\n   nothing in them")
        (picture,) = shown
        assert repr(picture) == "Empty axes, nothing in them"
        assert not pyplot.fignum_exists(fig.number)

    @pytest.mark.parametrize("alt", ["", "  \n", None])
    def test_alt_text_is_required(self, alt):
        with pytest.raises(ValueError, match="needs an alt text"):
            plotting.show(self.figure(), alt)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="expected a matplotlib Figure"):
            plotting.png("figure")
        with pytest.raises(ValueError, match="2 … 256"):
            plotting.png(self.figure(), colours=1)

    def test_only_use_style_touches_matplotlib(self):
        before = dict(mpl.rcParams)
        plotting.png(self.figure())
        plotting.png(plotting.image_grid(some_images()))
        assert dict(mpl.rcParams) == before

    def test_panels(self):
        fig, axes = plotting.panels(3, ncols=2, size=(3, 2))
        assert len(axes) == len(fig.axes) == 3
        assert fig.get_size_inches().tolist() == [6, 4]
        assert plotting.curves({"a": [1, 2]}, ax=axes[1]) is fig
        with pytest.raises(ValueError, match="at least 1"):
            plotting.panels(0)


class TestImages:
    def drawn(self, fig: Figure, i: int) -> np.ndarray:
        return np.asarray(fig.axes[0].images[i].get_array())

    @pytest.mark.parametrize("channels", [1, 3])
    def test_every_pixel_becomes_an_equal_square_of_its_colour(self, channels):
        x = some_images(6, channels, 8)
        fig = plotting.image_grid(x, ncols=3, titles=range(6), row_labels=["a", "b"], title="T")
        page = pixels(fig, colours=None)
        for i, image in enumerate(fig.axes[0].images):
            x0, x1, _, y1 = plotting.DPI * np.array(image.get_extent())
            left, top = x0, page.shape[0] - y1
            step = (x1 - x0) / 8
            assert step == pytest.approx(round(step), abs=1e-6)
            where = (np.arange(8) + 0.5) * step
            sampled = page[(top + where).astype(int)][:, (left + where).astype(int)]
            assert np.abs(sampled - x[i].permute(1, 2, 0).expand(-1, -1, 3).numpy()).max() < 1 / 255

    def test_signed_images_have_grey_zeros(self):
        drawn = self.drawn(plotting.image_grid(np.array([[[0.0, 2.0], [-4.0, 0.0]]]), signed=True), 0)
        assert drawn[..., 0].tolist() == [[0.5, 0.75], [0.0, 0.5]]

    def test_shapes_are_alike(self):
        x = some_images(4)
        one = plotting.png(plotting.image_grid(x))
        assert one == plotting.png(plotting.image_grid(x[:, 0].numpy()))
        assert one == plotting.png(plotting.image_grid(list(x)))
        assert one == plotting.png(plotting.image_grid(x.double().requires_grad_()))

    def test_reconstructions_stand_below_their_originals(self):
        x = some_images(3)
        fig = plotting.reconstructions(x, x * 0.5, x + 1)
        assert [t.get_text() for t in fig.texts] == ["original", "reconstruction", "reconstruction 2"]
        assert np.allclose(self.drawn(fig, 4), 0.5 * self.drawn(fig, 1))
        assert (self.drawn(fig, 7) == 1).all()
        above, below = (fig.axes[0].images[i].get_extent() for i in (1, 4))
        assert below[:2] == pytest.approx(above[:2])
        assert below[3] < above[2]

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: plotting.image_grid(torch.zeros(3, 2, 4, 4)), r"got shape \(3, 2, 4, 4\)"),
            (lambda: plotting.image_grid(torch.zeros(0, 1, 4, 4)), "expected images"),
            (lambda: plotting.image_grid(torch.full((1, 4, 4), -0.2)), r"values in \[0, 1\]"),
            (lambda: plotting.image_grid(torch.full((1, 4, 4), torch.nan)), "NaN"),
            (
                lambda: plotting.image_grid(torch.zeros(3, 4, 4), titles=["a"]),
                "titles: expected 3 of them, got 1",
            ),
            (
                lambda: plotting.image_grid(torch.zeros(3, 4, 4), 2, row_labels="abc"),
                "row_labels: expected 2",
            ),
            (
                lambda: plotting.reconstructions(torch.zeros(3, 4, 4), torch.zeros(2, 4, 4)),
                "a set of reconstructions is",
            ),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestCurves:
    def test_draws_the_history_it_is_given(self):
        class History(dict):
            steps = np.array([10, 20, 30])

        history = History(loss=[3.0, 2.0, 1.0], kl=torch.tensor([0.0, 1.0, 1.0]))
        (ax,) = plotting.curves(history, ["kl", "loss"], reference={"exact": 0.5}).axes
        lines = {line.get_label(): line for line in ax.lines}
        assert lines["loss"].get_xydata().tolist() == [[10, 3], [20, 2], [30, 1]]
        assert list(lines["exact"].get_ydata()) == [0.5, 0.5]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["kl", "loss", "exact"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "nats per image")

    def test_pairs_bands_and_logarithms(self):
        fig = plotting.curves(
            {"L": ([1, 10, 100], [1.0, 2.0, 3.0])}, bands={"L": [0.1, 0.2, 0.3]}, logx=True, logy=True
        )
        (ax,) = fig.axes
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        corners = ax.collections[0].get_paths()[0].vertices
        assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((0.9, 3.3))

    def test_smoothing(self):
        line = np.arange(20.0)
        assert np.allclose(plotting.smooth(line, 5)[2:-2], line[2:-2])
        assert np.allclose(plotting.smooth([0, 0, 3, 0, 0], 3), [0, 1, 1, 1, 0])
        assert np.allclose(plotting.smooth([4.0, 2.0], 100), 3.0)
        assert np.array_equal(plotting.smooth(line, 1), line)

    @pytest.mark.parametrize(
        ("series", "options", "message"),
        [
            ({"a": [1.0]}, {"keys": ["b"]}, r"no such curve: \['b'\]"),
            ({}, {}, "no such curve"),
            ({"a": [1.0, 2.0]}, {"x": [1, 2, 3]}, "curve 'a'"),
            ({"a": np.zeros((2, 2))}, {}, "curve 'a'"),
        ],
    )
    def test_bad_input(self, series, options, message):
        with pytest.raises(ValueError, match=message):
            plotting.curves(series, **options)


class TestSpectrumBarsHistogram:
    def test_shares_add_up(self):
        (ax,) = plotting.spectrum(torch.tensor([6.0, 3.0, 1.0]), marks=[2]).axes
        assert [bar.get_height() for bar in ax.patches] == pytest.approx([60, 30, 10])
        assert list(ax.lines[0].get_ydata()) == pytest.approx([60, 90, 100])
        assert ax.texts[0].get_text() == "m = 2: 90 %"
        (ax,) = plotting.spectrum([6.0, 3.0], total=20.0).axes
        assert list(ax.lines[0].get_ydata()) == pytest.approx([30, 45])

    def test_bars_carry_value_and_spread(self):
        (ax,) = plotting.bars({"PCA": (4.0, 0.5), "AE": 2.0}, ylabel="error").axes
        assert [bar.get_height() for bar in ax.patches] == [4.0, 2.0]
        assert [text.get_text() for text in ax.texts] == ["4", "2"]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["PCA", "AE"]
        segments = ax.collections[0].get_segments()
        assert segments[0][:, 1].tolist() == [3.5, 4.5]

    def test_groups_differ_by_hatch_too(self):
        values = {"VAE": {"train": -90.0, "test": (-95.0, 1.0)}, "IWAE": {"test": -91.0}}
        (ax,) = plotting.bars(values, ylabel="nats", reference={"exact": -85}).axes
        assert len(ax.patches) == 3
        assert len({bar.get_hatch() for bar in ax.patches}) == 2
        assert "−95" in [text.get_text() for text in ax.texts]
        assert {text.get_text() for text in ax.get_legend().get_texts()} == {"train", "test", "exact"}

    def test_histogram_is_a_density(self):
        samples = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        (ax,) = plotting.histogram({"a": samples, "b": 3 * samples}, reference={"exact": 0.0}).axes
        outline = ax.patches[-1].get_xy()  # of b: a closed polygon over the bins
        x, y = outline[:, 0], outline[:, 1]
        assert abs(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2)) == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: plotting.spectrum([[1.0]]), "non-negative variances"),
            (lambda: plotting.spectrum([1.0, -1.0]), "minimum -1"),
            (lambda: plotting.spectrum([1.0, 1.0], marks=[3]), r"marks must lie in 1 … 2"),
            (lambda: plotting.bars({}, ylabel="x"), "no values"),
            (lambda: plotting.histogram({}), "no samples"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestPlane:
    def test_every_point_has_its_label_s_colour_and_name(self):
        z = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 3.0]])
        (ax,) = plotting.latent_scatter(z, torch.tensor([7, 4, 7]), {4: "car", 7: "dog"}, prior=True).axes
        assert [c.get_label() for c in ax.collections] == ["car", "dog"]
        assert ax.collections[1].get_offsets().tolist() == [[0, 1], [0, 3]]
        assert [(t.get_text(), t.get_position()) for t in ax.texts] == [("car", (2, 3)), ("dog", (0, 2))]
        assert [circle.radius for circle in ax.patches] == [1, 2, 3]
        assert ax.get_aspect() == 1

    def test_heatmap_puts_every_value_at_its_place(self):
        x, y = np.linspace(-1, 1, 5), np.linspace(0, 2, 3)
        values = y[:, None] * 10 + x
        ax, bar = plotting.heatmap(values, x, y, xlabel="μ", ylabel="σ", label="KL (nats)", centre=0).axes
        (image,) = ax.images
        assert image.get_extent() == pytest.approx([-1.25, 1.25, -0.5, 2.5])
        assert image.origin == "lower"
        assert image.get_clim() == (-21, 21)
        assert bar.get_ylabel() == "KL (nats)"
        assert image.get_cursor_data(_event(ax, 0.5, 2.0)) == pytest.approx(20.5)

    def test_contours(self):
        g = np.linspace(-2, 2, 21)
        fig = plotting.heatmap(
            g[:, None] ** 2 + g**2, g, g, xlabel="x", ylabel="y", label="r²", contours=[1.0]
        )
        (circle,) = fig.axes[0].collections[0].get_paths()
        assert np.allclose(np.linalg.norm(circle.vertices, axis=1), 1.0, atol=0.02)

    def test_latent_map_lies_where_the_codes_do(self):
        mesh = plotting.latent_mesh(5, 2.0)
        assert mesh[0].tolist() == [-2, 2]  # upper left
        assert mesh[-1].tolist() == [2, -2]
        assert mesh[1].tolist() == [-1, 2]
        # An image whose grey says z₂, and whose left half is black, must give a picture bright above.
        images = torch.tensor(mesh[:, 1] / 4 + 0.5)[:, None, None, None].expand(-1, 1, 4, 4).clone()
        images[..., :2] = 0
        (ax,) = plotting.latent_map(images, 2.0).axes
        tiles = np.asarray(ax.images[0].get_array())[..., 0]
        assert tiles.shape == (20, 20)
        assert (tiles[0, 2], tiles[0, 0], tiles[-1, 2], tiles[8, 18]) == (1, 0, 0, 0.5)
        assert [t.get_text() for t in ax.get_yticklabels()] == ["−2.0", "−1.0", "0.0", "1.0", "2.0"]

    def test_quantiles_are_equally_likely(self):
        steps = plotting.latent_mesh(9, 2.0, quantiles=True)[:9, 0]
        mass = torch.distributions.Normal(0, 1).cdf(torch.tensor(steps))
        assert torch.allclose(mass.diff(), mass.diff().mean(), atol=1e-6)
        assert steps[-1] == pytest.approx(2.0, abs=1e-6)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: plotting.latent_scatter(np.zeros((4, 3))), r"\(N, 2\), got shape \(4, 3\)"),
            (lambda: plotting.latent_scatter(np.zeros((4, 2)), [1, 2]), r"labels \(4,\)"),
            (lambda: plotting.heatmap(np.zeros(3), xlabel="", ylabel="", label=""), r"got shape \(3,\)"),
            (
                lambda: plotting.heatmap(np.zeros((2, 3)), [1, 2], [1, 2, 3], xlabel="", ylabel="", label=""),
                r"values \(3, 2\)",
            ),
            (lambda: plotting.latent_map(torch.zeros(5, 1, 2, 2)), "n·n images"),
            (lambda: plotting.latent_mesh(1), "n ≥ 2"),
            (lambda: plotting.latent_mesh(3, -1.0), "span > 0"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


def _event(ax, x: float, y: float):
    """A mouse event over the data point (x, y)."""
    from matplotlib.backend_bases import MouseEvent
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    return MouseEvent("motion_notify_event", canvas, *ax.transData.transform((x, y)))
