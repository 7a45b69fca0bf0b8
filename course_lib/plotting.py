"""The course's figures: one palette, one style, and text in place of every picture for those who cannot see it.

Each function takes tensors or arrays and returns a matplotlib Figure; `show(fig, alt)` puts it into the notebook. The
colours have the hues of Okabe and Ito (2008, "Color Universal Design"), told apart by colour-blind readers, and are
darker than theirs: lines and bars contrast 3 : 1 or more with white paper (WCAG 2.1, success criterion 1.4.11). Line
styles, hatches, markers and written names say the same again, so that a figure survives a grey print. Maps of a
quantity use *cividis* (Nuñez, Anderton, Renslow 2018, doi:10.1371/journal.pone.0199239), whose lightness rises with the
value.

How the alt text travels: neither JupyterLab 4.6 nor nbconvert 7.17's default page puts the `alt` metadata of an
image/png output into the page. Both show text/html first and keep its <img alt="…">, so a picture is displayed as such
an element with the PNG inside it, beside text/plain (the alt text alone).
"""

from __future__ import annotations

import base64
import html
import io
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy.special import ndtr, ndtri
from torch import Tensor

ArrayLike = Tensor | np.ndarray | Sequence

#: Okabe–Ito darkened, with Tol's wine in place of the yellow that white paper swallows; neighbours differ in lightness.
PALETTE = ("#006097", "#C58700", "#008862", "#7E014A", "#1E9BD7", "#C05600", "#000000", "#CC6CA3")
#: For nine or ten kinds: Tol's "muted" scheme (personal.sron.nl/~pault, 2021), darkened likewise, and black.
PALETTE_TEN = (
    "#3802A5", "#309ECC", "#026A2A", "#AA9305", "#DE4C6C", "#0C9180", "#8B0151", "#757502", "#B910A4", "#000000",
)  # fmt: skip
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "oo", "++")
#: For the thin grey lines of reference values: no two alike in one plot, none like a curve's.
REFERENCE_STYLES = ((0, (1, 1.5)), (0, (8, 2)), (0, (8, 2, 1, 2)), (0, (3, 3)))
#: For a quantity (and, centred on zero, for a signed one): lightness rises with the value.
COLOUR_MAP = "cividis"
GREY = "#595959"

#: Pictures are drawn at DPI and displayed at DISPLAY_DPI: sharp on a projector and on a dense screen, still small.
DPI = 144
DISPLAY_DPI = 96

STYLE = {
    "figure.figsize": (6.4, 3.6),
    "figure.dpi": DISPLAY_DPI,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "legend.fontsize": 11,
    "axes.prop_cycle": mpl.cycler(color=PALETTE, linestyle=LINE_STYLES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.2,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "image.cmap": COLOUR_MAP,
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Set matplotlib's defaults to the course's style: the first cell of a lecture calls it once."""
    mpl.rcParams.update(STYLE)


def colours(n: int) -> list[tuple[float, float, float, float]]:
    """n colours (RGBA) that colour-blind readers tell apart; beyond ten they begin again, as markers do beyond eight.

    Together the two tell forty kinds apart: colour i mod 10 with marker i mod 8.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    palette = PALETTE if n <= len(PALETTE) else PALETTE_TEN
    return [mpl.colors.to_rgba(palette[i % len(palette)]) for i in range(n)]


# ---- from a figure to the page ---------------------------------------------------------------------------------------


class Picture:
    """A PNG with its alt text, as Jupyter displays it (`_repr_mimebundle_`). Outside Jupyter it prints the alt text."""

    def __init__(self, png: bytes, alt: str, width: int | None = None):
        self.png, self.alt, self.width = png, check_alt(alt), width

    def html(self) -> str:
        width = f' width="{self.width}"' if self.width else ""
        source = base64.b64encode(self.png).decode("ascii")
        return f'<img alt="{html.escape(self.alt)}"{width} src="data:image/png;base64,{source}">'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        return {"text/html": self.html(), "text/plain": self.alt}, {"text/html": {"alt": self.alt}}

    def __repr__(self) -> str:
        return self.alt


def check_alt(alt: str) -> str:
    """The alt text without surrounding white space; ValueError if nothing is left."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"a figure needs an alt text that says what there is to see, got {alt!r}")
    return " ".join(alt.split())


def png(fig: Figure, *, dpi: int = DPI, colours: int | None = 256) -> bytes:
    """The figure as PNG bytes, small: at most `colours` different ones (None: all of them, and faster).

    Raises: ValueError if `fig` is no Figure or colours is not in 2 … 256.
    """
    if not isinstance(fig, Figure):
        raise ValueError(f"expected a matplotlib Figure, got {type(fig).__name__}")
    if colours is not None and not 2 <= colours <= 256:
        raise ValueError(f"colours must lie in 2 … 256 or be None, got {colours}")
    canvas = fig.canvas if isinstance(fig.canvas, FigureCanvasAgg) else FigureCanvasAgg(fig)
    drawn_at = fig.dpi
    fig.dpi = dpi
    try:
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba()).copy()
    finally:
        fig.dpi = drawn_at
    image = Image.fromarray(pixels).convert("RGB")
    buffer = io.BytesIO()
    if colours is None:
        image.save(buffer, "PNG", compress_level=1)
    else:
        _indexed(image, colours).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _indexed(image: Image.Image, colours: int) -> Image.Image:
    """A palette picture: exact where the picture has few colours, the nearest of a fitted palette elsewhere."""
    return image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def picture(fig: Figure, alt: str, *, dpi: int = DPI, colours: int | None = 256) -> Picture:
    """Figure and alt text → Picture, displayed at the figure's size in inches × 96 pixels."""
    check_alt(alt)
    return Picture(png(fig, dpi=dpi, colours=colours), alt, width=round(fig.get_figwidth() * DISPLAY_DPI))


def show(fig: Figure, alt: str, *, dpi: int = DPI, colours: int | None = 256) -> None:
    """Display a figure in the notebook as a small PNG with alt text, and close it.

    Args:
        fig: any matplotlib Figure. alt: one or two sentences that say what there is to see; required.
        dpi: dots per inch of the PNG; its size on the page does not depend on it.
        colours: the number of different colours kept, or None for all (photographs).
    Raises: ValueError for an empty alt text or something that is no Figure.
    """
    from IPython.display import display

    shown = picture(fig, alt, dpi=dpi, colours=colours)
    close(fig)
    display(shown)


def close(fig: Figure) -> None:
    """Forget a figure: those made through pyplot would otherwise be displayed again at the end of the cell."""
    if "matplotlib.pyplot" in sys.modules:
        from matplotlib import pyplot

        pyplot.close(fig)


def panels(
    n: int = 1, ncols: int | None = None, *, size: tuple[float, float] = (4.0, 3.2), **options: object
):
    """A figure with n axes in ncols columns, each of `size` inches → (figure, list of Axes).

    Further options go to `Figure.subplots` (sharex=True, …). The functions below draw into such an Axes by `ax=`.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    ncols = min(n, ncols or n)
    nrows = math.ceil(n / ncols)
    fig = Figure(figsize=(size[0] * ncols, size[1] * nrows), layout="constrained")
    axes = list(np.atleast_1d(fig.subplots(nrows, ncols, **options)).flat)
    for spare in axes[n:]:
        spare.remove()
    return fig, axes[:n]


def _axes(ax: Axes | None, size: tuple[float, float] | None) -> Axes:
    if ax is not None:
        return ax
    return Figure(figsize=size or STYLE["figure.figsize"], layout="constrained").subplots()


def to_array(values: ArrayLike) -> np.ndarray:
    """Tensor (any device, any dtype) or array-like → NumPy array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values if values.dtype.is_floating_point is False else values.float()).numpy()
    return np.asarray(values)


# ---- images ----------------------------------------------------------------------------------------------------------


def _pixels(images: ArrayLike, signed: bool = False) -> np.ndarray:
    """(N, C, H, W), (N, H, W) or a sequence of (C, H, W) → (N, H, W, 3) in [0, 1]."""
    if not isinstance(images, Tensor | np.ndarray):
        images = np.stack([to_array(image) for image in images])
    x = to_array(images)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
        raise ValueError(f"expected images (N, 1 or 3, H, W) or (N, H, W), got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("the images hold NaN or infinite values")
    if signed:
        bound = np.abs(x).max(axis=(1, 2, 3), keepdims=True)
        x = 0.5 + 0.5 * x / np.where(bound == 0, 1, bound)
    elif x.min() < -1e-3 or x.max() > 1 + 1e-3:
        raise ValueError(
            f"expected values in [0, 1], got {x.min():.3g} … {x.max():.3g}; signed=True scales each image"
        )
    x = np.clip(x.transpose(0, 2, 3, 1).astype(np.float64), 0, 1)
    return np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x


def image_grid(
    images: ArrayLike,
    ncols: int | None = None,
    *,
    titles: Sequence[object] | None = None,
    row_labels: Sequence[object] | None = None,
    col_labels: Sequence[object] | None = None,
    title: str | None = None,
    signed: bool = False,
    width: float = 7.6,
    cell: float | None = None,
) -> Figure:
    """Images side by side, every pixel a square.

    Args:
        images: (N, C, H, W) or (N, H, W) in [0, 1], C = 1 or 3; or a sequence of such images.
        ncols: images a row; default: all in one row up to 10, else a shape near 2 : 1.
        titles: one per image, above it. row_labels, col_labels: one per row (left) and per column (above).
        title: over the whole. signed: scale each image to ±its largest magnitude; mid-grey is zero (PCA components).
        width: of the figure in inches, when the images fill it; they are drawn at most 1.1 inches wide, or `cell`.
    Raises: ValueError for another shape, values outside [0, 1], or labels of a wrong number.
    """
    x = _pixels(images, signed)
    n, height, side, _ = x.shape
    ncols = ncols or (n if n <= 10 else math.ceil(math.sqrt(2 * n)))
    if ncols < 1:
        raise ValueError(f"ncols must be at least 1, got {ncols}")
    nrows = math.ceil(n / ncols)
    for name, labels, count in (
        ("titles", titles, n),
        ("row_labels", row_labels, nrows),
        ("col_labels", col_labels, ncols),
    ):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name}: expected {count} of them, got {len(labels)}")

    # Lengths are in dots until the end. A small image's pixel is a whole number of them: equal pixels look equal.
    left, gap, caption = 7, 9, 35
    if row_labels is not None:
        left = 17 + 14 * max(len(str(label)) for label in row_labels)
    wanted = DPI * (cell or min(1.1, (width - left / DPI) / ncols - gap / DPI))
    dots = int(wanted / side)
    w = dots * side if dots >= 2 else round(wanted)  # large images are scaled as photographs are
    h = round(w * height / side)
    between = gap + (caption if titles is not None else 0)
    top = (49 if title else 6) + (caption if titles is not None or col_labels is not None else 0)
    fig_width, fig_height = (
        max(left + ncols * (w + gap), 2 * DPI),
        top + nrows * h + (nrows - 1) * between + gap,
    )
    left, gap, w, h, between, top, fig_width, fig_height = (
        length / DPI for length in (left, gap, w, h, between, top, fig_width, fig_height)
    )
    fig = Figure(figsize=(fig_width, fig_height), layout="none")
    # One axes in inches for all: axes of their own would take five times as long, and this is drawn at each move.
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, fig_width), ylim=(0, fig_height), autoscale_on=False)
    ax.set_axis_off()
    for i in range(n):
        row, col = divmod(i, ncols)
        x0, y1 = left + col * (w + gap), fig_height - top - row * (h + between)
        place = (x0, x0 + w, y1 - h, y1)
        ax.imshow(x[i], extent=place, interpolation="nearest" if dots >= 2 else "auto", aspect="auto")
        if titles is not None:
            _text(fig, x0 + w / 2, y1 + 0.03, titles[i], "center", size=10)
        elif col_labels is not None and row == 0:
            _text(fig, x0 + w / 2, y1 + 0.03, col_labels[col], "center", size=11)
        if row_labels is not None and col == 0:
            _text(fig, left - 0.08, y1 - h / 2, row_labels[row], "right", va="center")
    if title:
        _text(fig, fig_width / 2, fig_height - 0.06, title, "center", va="top", size=13)
    return fig


def _text(fig: Figure, x: float, y: float, text: object, ha: str, va: str = "bottom", size: int = 11) -> None:
    """Text at a place in inches from the lower left corner."""
    fig.text(x / fig.get_figwidth(), y / fig.get_figheight(), str(text), ha=ha, va=va, fontsize=size)


def reconstructions(
    originals: ArrayLike, *decoded: ArrayLike, labels: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Originals in the first row, their reconstructions below them, one row a method.

    Args: originals (N, C, H, W) and any number of sets of the same shape, in [0, 1] (values outside are clipped:
    linear decoders leave the range); labels: one per row, default "original", "reconstruction".
    Raises: ValueError for sets of unequal shape or labels of a wrong number.
    """
    rows = [to_array(rows) for rows in (originals, *decoded)]
    for row in rows[1:]:
        if row.shape != rows[0].shape:
            raise ValueError(f"originals are {rows[0].shape}, a set of reconstructions is {row.shape}")
    labels = (
        labels
        or ("original", "reconstruction", *(f"reconstruction {i}" for i in range(2, len(rows))))[: len(rows)]
    )
    return image_grid(np.clip(np.concatenate(rows), 0, 1), len(rows[0]), row_labels=labels, title=title)


# ---- curves ----------------------------------------------------------------------------------------------------------


def smooth(values: ArrayLike, window: int) -> np.ndarray:
    """Running mean over `window` values, the window cut short at both ends: (T,) → (T,)."""
    values = to_array(values).astype(np.float64)
    if window <= 1 or len(values) == 0:
        return values
    half = min(window, len(values)) // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def curves(
    series: Mapping[str, object],
    keys: Sequence[str] | None = None,
    *,
    x: ArrayLike | None = None,
    window: int = 1,
    xlabel: str = "step",
    ylabel: str = "nats per image",
    logx: bool = False,
    logy: bool = False,
    reference: Mapping[str, float] | None = None,
    bands: Mapping[str, ArrayLike] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Named curves over one axis: a training history with its loss terms, a bound over k, an error over m.

    Args:
        series: a History, or name → values (T,), or name → (x, values) pair.
        keys: which of them, in this order; default all.
        x: the common abscissa (T,); default the history's steps, else 1 … T.
        window: running mean over so many values; the raw ones stay behind it in a lighter tone.
        reference: name → height of a horizontal line, such as the exact value. bands: name → ± spread (T,).
    Raises: ValueError for unknown keys, nothing to draw or an abscissa of another length.
    """
    if keys is None:
        keys = [key for key in series if key != "steps"]
    missing = [key for key in keys if key not in series]
    if missing or not keys:
        raise ValueError(f"no such curve: {missing}; there are {list(series)}")
    if x is None:
        x = getattr(series, "steps", None)
    ax = _axes(ax, size)
    for key, colour, style in zip(keys, _cycle(PALETTE), _cycle(LINE_STYLES), strict=False):
        across, values = _curve(series[key], x, key)
        if window > 1:
            ax.plot(across, values, color=colour, linewidth=1, linestyle="-", alpha=0.25)
        ax.plot(across, smooth(values, window), color=colour, linestyle=style, label=key)
        if bands is not None and key in bands:
            spread = to_array(bands[key])
            ax.fill_between(across, values - spread, values + spread, color=colour, alpha=0.2, linewidth=0)
    for (name, height), style in zip((reference or {}).items(), _cycle(REFERENCE_STYLES), strict=False):
        ax.axhline(float(height), color=GREY, linestyle=style, linewidth=1.6, label=name)
    if logx:
        ax.set_xscale("log")
    if logy:
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(keys) + len(reference or {}) > 1:
        ax.legend()
    return ax.figure


def _cycle(values: Sequence) -> Iterable:
    while True:
        yield from values


def _curve(values: object, x: ArrayLike | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]) == 1:
        x, values = values
    values = np.array([float(v) for v in values]) if isinstance(values, list) else to_array(values)
    across = np.arange(1, len(values) + 1) if x is None else to_array(x)
    if values.ndim != 1 or across.shape != values.shape:
        raise ValueError(f"curve {name!r}: expected (T,) over (T,), got {values.shape} over {across.shape}")
    return across, values


def spectrum(
    variances: ArrayLike,
    *,
    cumulative: bool = True,
    marks: Sequence[int] = (),
    total: float | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Explained variance of principal components: share of each (bars) and, cumulated, of the first m (line).

    Args:
        variances: eigenvalues (m,), descending, ≥ 0; ratios will do.
        total: the sum of *all* variances, if some are left out; default the sum of those given.
        marks: numbers of components whose cumulated share is written down.
    Raises: ValueError for another shape, negative values, or a mark out of range.
    """
    v = to_array(variances).astype(np.float64)
    if v.ndim != 1 or len(v) == 0 or (v < -1e-6 * np.abs(v).max()).any():
        raise ValueError(
            f"expected non-negative variances (m,), got shape {v.shape} with minimum {v.min():.3g}"
        )
    if any(not 1 <= mark <= len(v) for mark in marks):
        raise ValueError(f"marks must lie in 1 … {len(v)}, got {list(marks)}")
    share = 100 * np.clip(v, 0, None) / (total or v.sum())
    m = np.arange(1, len(v) + 1)
    ax = _axes(ax, size)
    ax.bar(m, share, width=1.0 if len(v) > 40 else 0.8, color=PALETTE[1], label="one component")
    ax.set(xlabel="number of components m", ylabel="explained variance (%)")
    if cumulative:
        line = share.cumsum()
        ax.plot(
            m,
            line,
            color=PALETTE[0],
            linestyle="-",
            marker="o" if len(v) <= 20 else "",
            label="the first m together",
        )
        for mark in marks:
            ax.plot(mark, line[mark - 1], "o", color=PALETTE[0], markersize=8)
            ax.annotate(
                f"m = {mark}: {line[mark - 1]:.0f} %",
                (mark, line[mark - 1]),
                (8, -14),
                textcoords="offset points",
            )
        ax.set_ylim(0, 105)
        ax.legend(loc="center right")
    return ax.figure


def histogram(
    samples: Mapping[str, ArrayLike],
    *,
    bins: int | ArrayLike = 40,
    density: tuple[ArrayLike, ArrayLike] | None = None,
    reference: Mapping[str, float] | None = None,
    xlabel: str = "value",
    title: str | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Distributions of samples over common bins (as densities), with a curve (x, p(x)) and marked values over them."""
    if not samples:
        raise ValueError("histogram got no samples")
    arrays = {name: to_array(values).ravel() for name, values in samples.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(arrays.values())), bins)
    ax = _axes(ax, size)
    for (name, values), colour, style in zip(arrays.items(), PALETTE, LINE_STYLES, strict=False):
        ax.hist(values, edges, density=True, color=colour, alpha=0.25)
        ax.hist(
            values,
            edges,
            density=True,
            histtype="step",
            color=colour,
            linestyle=style,
            linewidth=2,
            label=name,
        )
    if density is not None:
        ax.plot(to_array(density[0]), to_array(density[1]), color="black", linestyle="-", label="density")
    for (name, place), style in zip((reference or {}).items(), _cycle(REFERENCE_STYLES), strict=False):
        ax.axvline(float(place), color=GREY, linestyle=style, linewidth=1.8, label=name)
    ax.set(xlabel=xlabel, ylabel="density", title=title)
    ax.legend()
    return ax.figure


def bars(
    values: Mapping[str, object],
    *,
    ylabel: str,
    reference: Mapping[str, float] | None = None,
    title: str | None = None,
    fmt: str = "{:.3g}",
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Compare numbers: name → value, (value, spread), or {group: value | (value, spread)} for grouped bars.

    Spreads are drawn as ± whiskers; say in the text what they are. Values are written on the bars.
    Raises: ValueError if there are none.
    """
    if not values:
        raise ValueError("bars got no values")
    grouped = all(isinstance(value, Mapping) for value in values.values())
    table = {name: dict(value) if grouped else {"": value} for name, value in values.items()}
    groups = list(dict.fromkeys(group for row in table.values() for group in row))
    ax = _axes(ax, size)
    width = 0.8 / len(groups)
    for j, group in enumerate(groups):
        places = [
            i + (j - (len(groups) - 1) / 2) * width for i, row in enumerate(table.values()) if group in row
        ]
        pairs = [row[group] for row in table.values() if group in row]
        heights = [float(p[0]) if isinstance(p, tuple) else float(p) for p in pairs]
        spreads = np.array(
            [float(p[1]) if isinstance(p, tuple) else np.nan for p in pairs]
        )  # nan: no whisker
        ax.bar(
            places,
            heights,
            width * 0.94,
            yerr=spreads if np.isfinite(spreads).any() else None,
            capsize=4,
            color=PALETTE[j % len(PALETTE)],
            hatch=HATCHES[j % len(HATCHES)],
            edgecolor="white",
            label=group or None,
        )
        for place, height, spread in zip(places, heights, np.nan_to_num(spreads), strict=True):
            ax.annotate(
                fmt.format(height).replace("-", "−"),
                (place, height + math.copysign(spread, height)),
                (0, 3 if height >= 0 else -3),
                textcoords="offset points",
                ha="center",
                va="bottom" if height >= 0 else "top",
                fontsize=11,
            )
    for (name, height), style in zip((reference or {}).items(), _cycle(REFERENCE_STYLES), strict=False):
        ax.axhline(float(height), color=GREY, linestyle=style, linewidth=1.6, label=name)
    ax.set_xticks(range(len(table)), list(table))
    ax.grid(False, axis="x")
    ax.margins(y=0.15)
    ax.set(ylabel=ylabel, title=title)
    if grouped or reference:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(groups) + len(reference or {}))
    return ax.figure


# ---- the plane -------------------------------------------------------------------------------------------------------


def latent_scatter(
    z: ArrayLike,
    labels: ArrayLike | None = None,
    names: Sequence[str] | Mapping[int, str] | None = None,
    *,
    prior: bool = False,
    axis_names: tuple[str, str] = ("z₁", "z₂"),
    title: str | None = None,
    legend: bool = False,
    point_size: float | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Points of the plane, coloured by label, each label's name written at its median.

    Args:
        z: (N, 2). labels: (N,) integers. names: what they stand for; default the numbers themselves.
        prior: circles at 1, 2 and 3 standard deviations of N(0, I). legend: names beside the plot, not in it.
    Raises: ValueError if z is not (N, 2) or the labels are not (N,).
    """
    z = to_array(z)
    if z.ndim != 2 or z.shape[1] != 2:
        raise ValueError(f"expected points of the plane (N, 2), got shape {z.shape}")
    labels = np.zeros(len(z), dtype=int) if labels is None else to_array(labels)
    if labels.shape != (len(z),):
        raise ValueError(f"expected labels ({len(z)},), got shape {labels.shape}")
    ax = _axes(ax, size or (4.8, 4.4))
    kinds = np.unique(labels)
    s = point_size or float(np.clip(12000 / max(len(z), 1), 7, 40))
    for i, (kind, colour) in enumerate(zip(kinds, colours(max(len(kinds), 1)), strict=True)):
        mine = z[labels == kind]
        name = str(kind) if names is None else str(names[int(kind)])
        marker = MARKERS[i % len(MARKERS)]
        ax.scatter(*mine.T, s=s, color=colour, marker=marker, alpha=0.7, linewidths=0, label=name)
        if len(kinds) > 1 and not legend:
            stroke = [withStroke(linewidth=3, foreground="white")]
            ax.text(
                *np.median(mine, axis=0),
                name,
                path_effects=stroke,
                ha="center",
                va="center",
                fontweight="bold",
                zorder=5,
            )
    if prior:
        for radius in (1, 2, 3):
            ax.add_patch(Circle((0, 0), radius, fill=False, edgecolor=GREY, linewidth=1.2, linestyle="--"))
    if legend and len(kinds) > 1:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], title=title)
    return ax.figure


def heatmap(
    values: ArrayLike,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    xlabel: str,
    ylabel: str,
    label: str,
    centre: float | None = None,
    contours: int | Sequence[float] = 0,
    title: str | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """A quantity over a grid, with a colour bar that says what it is.

    Args:
        values: (len(y), len(x)), row i at y[i]; y upwards. x, y: ascending, evenly spaced; default the indices.
        label: the quantity and its unit. centre: the value in the middle of the colours (0 for signed quantities).
        contours: how many labelled contour lines, or at which values.
    Raises: ValueError if the shapes do not fit.
    """
    v = to_array(values).astype(np.float64)
    if v.ndim != 2:
        raise ValueError(f"expected values (rows, columns), got shape {v.shape}")
    x = np.arange(v.shape[1]) if x is None else to_array(x)
    y = np.arange(v.shape[0]) if y is None else to_array(y)
    if v.shape != (len(y), len(x)):
        raise ValueError(f"expected values ({len(y)}, {len(x)}) for these x and y, got {v.shape}")
    ax = _axes(ax, size or (5.4, 4.2))
    low, high = np.nanmin(v), np.nanmax(v)
    if centre is not None:
        reach = max(high - centre, centre - low) or 1.0
        low, high = centre - reach, centre + reach
    half_x, half_y = ((g[-1] - g[0]) / max(len(g) - 1, 1) / 2 or 0.5 for g in (x, y))
    extent = (x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y)
    drawn = ax.imshow(v, origin="lower", extent=extent, aspect="auto", cmap=COLOUR_MAP, vmin=low, vmax=high)
    if np.ndim(contours) or contours:
        lines = ax.contour(x, y, v, contours, colors="white", linewidths=1.2)
        texts = ax.clabel(lines, fontsize=10)
        for drawn_over_bright in (lines, *texts):
            drawn_over_bright.set_path_effects([withStroke(linewidth=2.6, foreground="#404040")])
    ax.grid(False)
    ax.figure.colorbar(drawn, ax=ax, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return ax.figure


def latent_mesh(n: int, span: float = 2.0, *, quantiles: bool = False) -> np.ndarray:
    """Points of a square grid of the plane (n·n, 2), float32, in reading order: the first row is the top (z₂ largest).

    quantiles: equal steps of probability under N(0, 1) between its values at ±span, instead of equal steps of z.
    """
    steps = _mesh_steps(n, span, quantiles)
    z1, z2 = np.meshgrid(steps, steps[::-1])
    return np.stack([z1.ravel(), z2.ravel()], axis=1).astype(np.float32)


def _mesh_steps(n: int, span: float, quantiles: bool) -> np.ndarray:
    if n < 2 or span <= 0:
        raise ValueError(f"expected n ≥ 2 and span > 0, got {n} and {span}")
    if quantiles:
        return ndtri(np.linspace(ndtr(-span), ndtr(span), n))
    return np.linspace(-span, span, n)


def latent_map(
    images: ArrayLike,
    span: float = 2.0,
    *,
    quantiles: bool = False,
    axis_names: tuple[str, str] = ("z₁", "z₂"),
    title: str | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Images decoded at the points of `latent_mesh(n, span)`, laid out where their code lies.

    Args: images (n·n, C, H, W) in [0, 1], in the order of `latent_mesh`; span, quantiles as there.
    Raises: ValueError if the number of images is no square, or for other shapes and ranges.
    """
    x = _pixels(images)
    n = math.isqrt(len(x))
    if n * n != len(x) or n < 2:
        raise ValueError(f"expected n·n images, n ≥ 2, got {len(x)}")
    _, height, side, _ = x.shape
    tiled = x.reshape(n, n, height, side, 3).transpose(0, 2, 1, 3, 4).reshape(n * height, n * side, 3)
    ax = _axes(ax, size or (4.8, 4.8))
    ax.imshow(tiled, interpolation="nearest", extent=(0, n, 0, n), aspect=height / side)
    steps = _mesh_steps(n, span, quantiles)
    shown = np.unique(np.linspace(0, n - 1, min(n, 5)).round().astype(int))
    names = [f"{steps[i]:.1f}".replace("-", "−") for i in shown]
    ax.set_xticks(shown + 0.5, names)
    ax.set_yticks(shown + 0.5, names)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], title=title)
    return ax.figure
