"""Interactive figures: an ordinary plotting function plus sliders.

    def plot(components): …; return fig
    interact(plot, alt="Digits and their reconstructions", components=(1, 64, 1, 8))
    interact(frame, alt="Training as a film", step=Player(0, 40))        # with play, pause, repeat
    interact(draw, alt=…, painted=Rectangles(["wall", "window"], 64))    # drawn on the picture with the mouse
    interact(walk, alt=…, point=("z1", "z2"), z1=(-3., 3.), z2=(-3., 3.))  # press on the map, or move the sliders

The function takes the values of the controls and returns a matplotlib Figure, as it does without a widget. In
JupyterLab the controls (ipywidgets 8) redraw it at each move. The same output carries the figure of the default
values, so that a page without a kernel (the committed notebook, the site) shows that.

The picture is an HTML element and not ipywidgets' Image: that one has no alt text. Moves do not pile up:
ipywidgets' front end holds back the changes of a control until the kernel has finished with the last one, then
sends the latest. A figure that takes longer than a fifth of a second says "computing …" meanwhile.

Everything works by keyboard: Tab goes from control to control, the arrow keys move a slider, and what can be pointed at
or drawn has sliders, too.
"""

from __future__ import annotations

import html
import math
import time
import traceback
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import anywidget
import ipywidgets
import traitlets
from matplotlib.figure import Figure

from course_lib.plotting import Picture, check_alt, close, picture

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_LABELS = {"description_width": "initial"}
SLIDERS = (ipywidgets.IntSlider, ipywidgets.FloatSlider)
BUSY = "computing …"
#: Seconds that a drawing may take before the picture says that it is being computed.
PROMPT = 0.2


def interact(
    plot: Callable[..., Figure],
    alt: str | Callable[..., str],
    *,
    point: tuple[str, str] | None = None,
    **controls: object,
) -> None:
    """Display a plotting function with controls for its arguments.

    Args:
        plot: plot(**values) → Figure. Quick ones (under 0.2 s) follow the slider; they should only decode and draw.
        alt: what there is to see; the values of the controls are appended. Or a function alt(**values) → str.
        point: two sliders that also follow the mouse where it is pressed in the figure's first axes (x, y).
        controls: one per argument of `plot`:
            (low, high), (low, high, step) or (low, high, step, default): a slider, of whole numbers if all are;
            a list of numbers: a slider over them; a list of anything else: a menu; each may be ([…], default);
            True or False: a box to tick;  a `Player`: a slider that moves by itself;  `Rectangles`: to draw with;
            any ipywidgets widget that has a value: itself.

    An error of the *first* drawing is raised here, so that a broken lecture fails; later ones are shown in the
    picture's place, and the next good move brings it back.
    Raises: ValueError for an empty alt text, no controls, a control that is none of the above, or a `point` that does
    not name two sliders.
    """
    from IPython.display import display

    display(Interactive(plot, alt, point=point, **controls))


class Interactive:
    """The controls and the picture of `interact`, undisplayed: `controls[name].value = …` moves one.

    As an output it is one MIME bundle: the live widget, and for pages without a kernel the default figure.
    """

    def __init__(
        self,
        plot: Callable[..., Figure],
        alt: str | Callable[..., str],
        *,
        point: tuple[str, str] | None = None,
        **controls: object,
    ):
        if not controls:
            raise ValueError("interact needs at least one control, such as components=(1, 64, 1, 8)")
        if not callable(alt):
            check_alt(alt)
        self.plot = plot
        self._alt = alt
        self.controls = {name: control(name, choice) for name, choice in controls.items()}
        self._strokes = self._taker_of_strokes(point)
        self._seconds = 0.0  # that the last drawing took
        self._held = False
        self.default = self.draw(colours=256)  # stored in the notebook, so squeezed; an error here is raised
        self.output = Surface(self._strokes, outlined=not point) if self._strokes else ipywidgets.HTML()
        self.busy = Attendant()
        self._show(self.default.html())
        self.widget = ipywidgets.VBox([*self.controls.values(), self.busy, self.output])
        self.widget.add_class("course-interactive")
        for widget in self.controls.values():
            widget.observe(self._update, names="value")

    def _taker_of_strokes(self, point: tuple[str, str] | None) -> Callable[[Stroke], None] | None:
        """What moves when the mouse is dragged over the picture: two sliders, a drawing, or nothing."""
        if point is None:
            return next((c.paint for c in self.controls.values() if isinstance(c, Rectangles)), None)
        if len(point) != 2 or not all(isinstance(self.controls.get(name), SLIDERS) for name in point):
            raise ValueError(f"point must name two sliders among {list(self.controls)}, got {point!r}")
        return lambda stroke: self._point([self.controls[name] for name in point], stroke)

    def _point(self, sliders: list[ipywidgets.Widget], stroke: Stroke) -> None:
        """Both sliders to where the pointer is, then one drawing for the two."""
        self._held = True
        for slider, place in zip(sliders, (stroke.x, stroke.y), strict=True):
            steps = round((min(slider.max, max(slider.min, place)) - slider.min) / slider.step)
            slider.value = min(slider.max, slider.min + steps * slider.step)
        self._held = False
        self._update()

    @property
    def values(self) -> dict[str, object]:
        """Name → present value of each control."""
        return {name: widget.value for name, widget in self.controls.items()}

    @property
    def alt(self) -> str:
        """The alt text of the present values."""
        if callable(self._alt):
            return self._alt(**self.values)
        # A full stop or colon at its end goes, so that the text reads on: "Digits (components = 8)".
        values = ", ".join(f"{label(name)} = {_spoken(value)}" for name, value in self.values.items())
        return f"{check_alt(self._alt).rstrip('.:')} ({values})"

    def draw(self, colours: int | None = None) -> Picture:
        """The picture of the present values, by default the fast way. Errors of the plotting function come through."""
        fig = self.plot(**self.values)
        if not isinstance(fig, Figure):
            raise ValueError(
                f"the plotting function must return a matplotlib Figure, got {type(fig).__name__}"
            )
        drawn = picture(fig, self.alt, colours=colours)
        self._area = PlottingArea.of(fig) if self._strokes else None
        close(fig)
        return drawn

    def _update(self, change: object = None) -> None:
        if self._held:
            return
        start = time.perf_counter()
        self.busy.value = BUSY if self._seconds > PROMPT else ""
        try:
            content = self.draw().html()
        except Exception:
            # Whatever the plotting function raises belongs on the screen: a callback's error is seen nowhere else.
            message = html.escape(traceback.format_exc(limit=-2))
            content = f'<pre role="alert" style="color: #b00020; white-space: pre-wrap">{message}</pre>'
        self._show(content)
        self.busy.value = ""
        self._seconds = time.perf_counter() - start

    def _show(self, content: str) -> None:
        with self.output.hold_sync():
            if self._strokes:
                self.output.area = self._area
            self.output.value = f'<div style="background: white; display: inline-block">{content}</div>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data, metadata = self.default._repr_mimebundle_()
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return {WIDGET_VIEW: view, **data}, metadata

    def __repr__(self) -> str:
        return self.default.alt


class Attendant(anywidget.AnyWidget):
    """What ipywidgets' front end leaves out: a line that says what is going on, names for what has none, its own keys.

    JupyterLab takes the arrow keys for itself while a menu has the focus, and a screen reader hears no name for a
    slider's handle or the buttons of a film. `value` is shown over the figure's upper left corner and read aloud.
    """

    _esm = Path(__file__).with_name("attendant.js")
    _css = """
    .course-attendant { height: 0; overflow: visible; position: relative; z-index: 1; }
    .course-attendant > span:not(:empty) { position: absolute; padding: 0 0.5em; white-space: nowrap;
        background: #ffffffdd; color: black; }
    .course-interactive :focus-visible { outline: 3px solid #0072B2 !important; outline-offset: 2px; }
    [data-jp-theme-light="false"] .course-interactive :focus-visible { outline-color: #56B4E9 !important; }
    """
    value = traitlets.Unicode().tag(sync=True)


class PlottingArea(NamedTuple):
    """Where a figure's first axes lie: edges as shares of the picture from its upper left corner, and their limits."""

    left: float
    top: float
    right: float
    bottom: float
    x_limits: tuple[float, float]
    y_limits: tuple[float, float]

    @classmethod
    def of(cls, fig: Figure) -> PlottingArea:
        """That of a figure that has been drawn."""
        ax = fig.axes[0]
        box = ax.get_position()
        return cls(box.x0, 1 - box.y1, box.x1, 1 - box.y0, ax.get_xlim(), ax.get_ylim())


class Stroke(NamedTuple):
    """A movement of the pressed mouse: its number, where it began and where it is, in the units of the axes."""

    number: int
    x_start: float
    y_start: float
    x: float
    y: float


class Surface(anywidget.AnyWidget):
    """A picture (`value`: HTML with one <img>) that tells `take` about each `Stroke` over its first axes.

    With `outlined` the rectangle between start and end of a stroke is shown at once, while the kernel still draws.
    """

    _esm = Path(__file__).with_name("surface.js")
    _css = """
    .course-surface { position: relative; width: fit-content; }
    .course-surface > :first-child { cursor: crosshair; touch-action: none; user-select: none; }
    .course-surface > :last-child { display: none; position: absolute; pointer-events: none; border: 2px dashed black;
        outline: 1px solid white; box-sizing: border-box; }
    """
    value = traitlets.Unicode().tag(sync=True)
    area = traitlets.Tuple(default_value=None, allow_none=True).tag(sync=True)
    outlined = traitlets.Bool().tag(sync=True)
    #: Number of the stroke, x and y of its start, x and y of its end, as shares of the area from its upper left corner.
    stroke = traitlets.List([0, 0, 0, 0, 0]).tag(sync=True)

    def __init__(self, take: Callable[[Stroke], None], outlined: bool) -> None:
        super().__init__(outlined=outlined)
        self._take = take
        self.observe(self._tell, names="stroke")

    def _tell(self, change: object) -> None:
        number, *places = self.stroke
        (left, right), (bottom, top) = self.area[4:]
        across = [left + share * (right - left) for share in places[0::2]]
        down = [top + share * (bottom - top) for share in places[1::2]]
        self._take(Stroke(number, across[0], down[0], across[1], down[1]))


class Player(ipywidgets.HBox):
    """A control for films: a slider of whole numbers beside buttons for play, pause, stop and repeat.

    Play counts from the slider's place to the end, a step each `interval` milliseconds; the slider may be dragged
    while it runs. The front end holds values back while the kernel draws, so a slow figure skips frames and does not
    fall behind. `slider` and `buttons` are the two parts; `value` is the number of both.

    Raises: ValueError unless low ≤ value ≤ high, low < high, step ≥ 1 and interval > 0.
    """

    value = traitlets.Int()
    description = traitlets.Unicode()

    def __init__(
        self, low: int, high: int, step: int = 1, value: int | None = None, *, interval: int = 250
    ) -> None:
        value = low if value is None else value
        if not (low < high and low <= value <= high and step >= 1 and interval > 0):
            raise ValueError(
                "Player needs low < high, low ≤ value ≤ high, step ≥ 1 and interval > 0; got "
                f"{low=}, {high=}, {step=}, {value=}, {interval=}"
            )
        numbers = {"min": low, "max": high, "step": step, "value": value}
        width = ipywidgets.Layout(width="22em", max_width="100%")
        self.slider = ipywidgets.IntSlider(**numbers, layout=width, style=_LABELS)
        self.buttons = ipywidgets.Play(**numbers, interval=interval)
        super().__init__([self.buttons, self.slider])
        self.value = value
        # Through the kernel and not by jslink: the buttons, the slider and the picture never show different steps.
        traitlets.link((self.buttons, "value"), (self.slider, "value"))
        traitlets.link((self.slider, "value"), (self, "value"))
        traitlets.link((self, "description"), (self.slider, "description"))


class Rectangle(NamedTuple):
    """Columns left … right − 1 of rows top … bottom − 1, painted with a brush."""

    brush: str
    left: int
    right: int
    top: int
    bottom: int

    def __str__(self) -> str:
        return f"{self.brush} in columns {self.left} to {self.right} and rows {self.top} to {self.bottom}"


class Rectangles(ipywidgets.VBox):
    """A control to draw with: rectangles, one over the other, of which the last follows the sliders.

    The mouse draws, too: each drag over the picture's first axes (whose units are pixels, as imshow sets them) keeps
    what was there and adds a rectangle. `value` is the tuple of all `Rectangle`s, in the order in which they are
    painted; "keep" fixes the one that moves and starts another in its place, "undo" takes the last one away and goes
    back to the one before, "clear" takes all away. `brush`, `across` and `down` are the menu and the two sliders;
    `keep`, `undo` and `clear` the buttons.

    Args:
        brushes: their names. side: of the square to paint on, in pixels. first: the rectangle to begin with.

    Raises: ValueError for no brushes, a side below 2 or a first rectangle that is not on the square.
    """

    value = traitlets.Tuple()

    def __init__(self, brushes: Sequence[str], side: int, first: Rectangle | Sequence | None = None) -> None:
        if not brushes or side < 2:
            raise ValueError(f"Rectangles needs brushes and a side of at least 2, got {brushes!r} and {side}")
        first = Rectangle(*(first or (brushes[0], side // 4, side // 2, side // 4, side // 2)))
        inside = 0 <= first.left < first.right <= side and 0 <= first.top < first.bottom <= side
        if first.brush not in brushes or not inside:
            raise ValueError(f"expected a brush of {list(brushes)} on {side} × {side} pixels, got {first}")
        width = ipywidgets.Layout(width="26em", max_width="100%")
        options = {"layout": width, "style": _LABELS}
        self.brush = ipywidgets.Dropdown(
            options=list(brushes), value=first.brush, description="brush", **options
        )
        self.across, self.down = (
            ipywidgets.IntRangeSlider(min=0, max=side, value=ends, description=name, **options)
            for name, ends in (("columns", first[1:3]), ("rows", first[3:5]))
        )
        self.keep = ipywidgets.Button(description="keep", tooltip="fix this rectangle and start another")
        self.undo = ipywidgets.Button(description="undo", tooltip="take the last rectangle away")
        self.clear = ipywidgets.Button(description="clear", tooltip="take all rectangles away")
        self.kept: list[Rectangle] = []
        self._stroke = 0
        buttons = ipywidgets.HBox([self.keep, self.undo, self.clear])
        super().__init__([self.brush, self.across, self.down, buttons])
        self.add_class("course-rectangles")
        for part in (self.brush, self.across, self.down):
            part.observe(self._follow, names="value")
        self.keep.on_click(self._keep)
        self.undo.on_click(self._undo)
        self.clear.on_click(self._clear)
        self._follow()

    def _follow(self, change: object = None) -> None:
        now = Rectangle(self.brush.value, *self.across.value, *self.down.value)
        empty = now.left == now.right or now.top == now.bottom
        self.value = tuple(self.kept) if empty else (*self.kept, now)

    def _keep(self, button: object) -> None:
        self.kept = list(self.value)

    def _undo(self, button: object) -> None:
        *self.kept, last = self.kept or [self._nothing()]
        self._place(last)

    def _clear(self, button: object) -> None:
        self.kept = []
        self._place(self._nothing())

    def _nothing(self) -> Rectangle:
        """A rectangle without pixels, where the last one is."""
        left, top = self.across.value[0], self.down.value[0]
        return Rectangle(self.brush.value, left, left, top, top)

    def _place(self, rectangle: Rectangle) -> None:
        """Menu and sliders to this rectangle."""
        with self.hold_trait_notifications():  # three controls, one drawing
            self.brush.value = rectangle.brush
            self.across.value, self.down.value = rectangle[1:3], rectangle[3:5]
            self._follow()

    def paint(self, stroke: Stroke) -> None:
        """A drag of the mouse: from its first pixel to its last; a new stroke keeps the rectangle before it."""
        if stroke.number != self._stroke:
            self._stroke = stroke.number
            self._keep(None)
        columns = self._pixels(stroke.x_start, stroke.x)
        rows = self._pixels(stroke.y_start, stroke.y)
        self._place(Rectangle(self.brush.value, *columns, *rows))

    def _pixels(self, *ends: float) -> tuple[int, int]:
        """The first pixel between two places and the one after the last. Pixel i lies around i, as imshow draws it."""
        first, last = (min(max(round(end), 0), self.across.max - 1) for end in sorted(ends))
        return first, last + 1


def label(name: str) -> str:
    """An argument's name as a person reads it: n_components → n components."""
    return name.replace("_", " ").strip()


def _spoken(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def control(name: str, choice: object) -> ipywidgets.Widget:
    """The widget for a control's description, as listed at `interact`. Raises: ValueError for anything else."""
    options: dict[str, object] = {"description": label(name), "tooltip": label(name), "style": _LABELS}
    if isinstance(choice, ipywidgets.Widget):
        if not choice.has_trait("value"):
            raise ValueError(f"control {name!r}: {type(choice).__name__} has no value")
        if choice.has_trait("description") and not choice.description:
            choice.description, choice.style = label(name), _LABELS
        return choice
    if isinstance(choice, bool):
        return ipywidgets.Checkbox(value=choice, indent=False, description=label(name))
    if isinstance(choice, tuple) and len(choice) == 2 and isinstance(choice[0], list):
        return _menu(name, *choice, options)
    if isinstance(choice, list) and choice:
        return _menu(name, choice, choice[0], options)
    if isinstance(choice, tuple) and 2 <= len(choice) <= 4 and all(_is_number(v) for v in choice):
        return _slider(name, choice, options)
    expected = "(low, high[, step[, default]]), a list, a bool or a widget with a value"
    raise ValueError(f"control {name!r}: expected {expected}, got {choice!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _slider(name: str, choice: Sequence[float], options: dict) -> ipywidgets.Widget:
    low, high = choice[:2]
    whole = all(isinstance(v, Integral) for v in choice)
    step = choice[2] if len(choice) > 2 else (1 if whole else (high - low) / 50)
    default = choice[3] if len(choice) > 3 else low
    if not (low < high and step > 0 and low <= default <= high):
        raise ValueError(
            f"control {name!r}: needs low < high, step > 0 and low ≤ default ≤ high, got {choice!r}"
        )
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    digits = max(0, min(4, math.ceil(-math.log10(step) - 1e-9)))
    readout = "d" if whole else f".{digits}f"
    width = ipywidgets.Layout(width="26em", max_width="100%")
    return kind(min=low, max=high, step=step, value=default, readout_format=readout, layout=width, **options)


def _menu(name: str, choices: list, default: object, options: dict) -> ipywidgets.Widget:
    if default not in choices:
        raise ValueError(f"control {name!r}: the default {default!r} is not among {choices!r}")
    kind = ipywidgets.SelectionSlider if all(_is_number(v) for v in choices) else ipywidgets.Dropdown
    width = ipywidgets.Layout(width="26em", max_width="100%")
    return kind(options=choices, value=default, layout=width, **options)
