"""A lecture in the browser as its reader handles it: run it, find its widgets, move their controls, see what happens.

Everything is found in the page: nothing here knows what a lecture contains.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conftest import Troubles
from laboratory import Laboratory

#: For a whole lecture; most take less than one minute on an idle machine.
RUN_SECONDS = 900
#: A move that has changed nothing by then changes nothing.
PATIENCE_MS = 8_000
#: For what must come, however busy the machine is.
ANSWER_MS = 30_000

RUN_ALL = """async () => {
    const {commands} = window.jupyterapp;
    await commands.execute("notebook:clear-all-cell-outputs");
    window.ranAll = false;
    commands.execute("notebook:run-all-cells").finally(() => { window.ranAll = true; });
}"""
IDLE = """() => window.ranAll
    && window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === "idle" """
CODE_CELLS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
    .filter(cell => cell.type === "code")
    .map(cell => ({source: cell.sharedModel.source, count: cell.executionCount, outputs: cell.outputs.toJSON()}))"""
ERRORS = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
SHUT_DOWN = "() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"

#: Milliseconds of one question and its answer: the machine may be busy with something else.
ROUND_TRIP = """async () => {
    const start = performance.now();
    await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestKernelInfo();
    return performance.now() - start;
}"""

#: Time from the first key or pointer event to the frame that shows another picture, in milliseconds; null if none came.
WATCH = """([box, patience]) => {
    window.reaction = new Promise(resolve => {
        const before = box.querySelector("img")?.src;
        let start = null;
        const begin = event => { start ??= event.timeStamp; };
        for (const kind of ["keydown", "pointerdown", "input"])
            document.addEventListener(kind, begin, {capture: true, once: true});
        const seen = new MutationObserver(async () => {
            const picture = box.querySelector("img");
            if (!picture || picture.src === before) return;
            seen.disconnect();
            await picture.decode();
            requestAnimationFrame(() => resolve(performance.now() - start));
        });
        seen.observe(box, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
        setTimeout(() => { seen.disconnect(); resolve(null); }, patience);
    });
}"""

#: A box's controls in the order of the page, each with its kind, its name and its element.
CONTROLS = """box => {
    const kinds = {"[role=slider]": "slider", "select": "menu", "input[type=checkbox]": "tick",
                   ".widget-play button": "film", "button.widget-button": "button"};
    const all = [...box.querySelectorAll(Object.keys(kinds).join())];
    return all.map(element => {
        const kind = Object.entries(kinds).find(([selector]) => element.matches(selector))[1];
        const row = element.closest(".widget-inline-hbox");
        const label = row?.querySelector(".widget-label-basic") ?? row?.querySelector(".widget-label");
        const name = element.getAttribute("aria-label") ?? (kind === "button" ? element : label)?.textContent.trim();
        return {kind, name: name ?? kind, element};
    });
}"""


@dataclass
class Control:
    """One thing to move: a slider's handle, a menu, a box to tick, a button, one of a film's three buttons."""

    kind: str
    name: str
    element: object  # Playwright's ElementHandle

    @property
    def value(self) -> str:
        """Where it stands: a slider's number (or place among its options), a menu's choice, a tick."""
        return self.element.evaluate(
            "e => e.getAttribute('aria-valuenow') ?? (e.type === 'checkbox' ? e.checked : e.value)"
        )

    def at_the_end(self) -> bool:
        """True if a step forward would lead nowhere."""
        return self.element.evaluate("""e => e.matches("select")
            ? e.selectedIndex === e.options.length - 1
            : Number(e.getAttribute("aria-valuenow")) >= Number(e.getAttribute("aria-valuemax"))""")

    def focus_is_visible(self) -> bool:
        """True if it is ringed, as what has the keyboard's attention should be."""
        return self.element.evaluate("""e => {
            const style = getComputedStyle(e);
            return e.matches(":focus-visible") && style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2;
        }""")


class Lecture:
    """A lecture that is open in JupyterLab."""

    def __init__(self, laboratory: Laboratory, page, troubles: Troubles, path: Path) -> None:
        self.page, self.troubles, self.path = page, troubles, path
        laboratory.open(page, path.name)

    def run(self) -> None:
        """Clear all outputs, run all cells, wait until the kernel is idle and the widgets are there."""
        self.page.evaluate(RUN_ALL)
        self.page.wait_for_function(IDLE, timeout=1000 * RUN_SECONDS)
        self.page.wait_for_timeout(500)

    def code_cells(self) -> list[dict]:
        """Source, execution count and outputs of each code cell that has a source."""
        return [cell for cell in self.page.evaluate(CODE_CELLS) if cell["source"].strip()]

    def complaints(self) -> list[str]:
        """Errors and warnings among the outputs, and errors on the screen."""
        found = []
        for cell in self.code_cells():
            for output in cell["outputs"]:
                if output["output_type"] == "error":
                    found.append(f"{output['ename']}: {output['evalue']}")
                if output["output_type"] == "stream" and output["name"] == "stderr":
                    found.append("".join(output["text"]))
        return found + [element.inner_text() for element in self.page.query_selector_all(ERRORS)]

    def widgets(self) -> list[Widget]:
        boxes = self.page.query_selector_all(".course-interactive")
        return [Widget(self.page, box) for box in boxes]

    def close(self) -> None:
        self.page.evaluate(SHUT_DOWN)

    def tab_through(self, controls: list[Control]) -> tuple[list[str], list[str]]:
        """Names of the controls that Tab reaches, going on from the first, and of those whose focus is not seen."""
        reached, unseen = [], []
        controls[0].element.focus()
        self.page.keyboard.press("Shift+Tab")
        for _ in range(
            3 * len(controls)
        ):  # between them lie the numbers beside the sliders, which can be typed
            self.page.keyboard.press("Tab")
            for control in controls:
                if control.element.evaluate("e => e === document.activeElement"):
                    reached.append(control.name)
                    unseen += [] if control.focus_is_visible() else [control.name]
            if len(reached) == len(controls):
                break
        return reached, unseen


class Widget:
    """One interactive figure: its controls and its picture."""

    def __init__(self, page, box) -> None:
        self.page, self.box = page, box

    def controls(self) -> list[Control]:
        found = self.page.evaluate_handle(CONTROLS, self.box)
        controls = []
        for item in found.get_properties().values():
            parts = item.get_properties()
            kind, name = parts["kind"].json_value(), parts["name"].json_value()
            controls.append(Control(kind, name, parts["element"].as_element()))
        return controls

    @property
    def picture(self) -> str | None:
        """The picture's data; None while there is none."""
        return self.box.evaluate("box => box.querySelector('img')?.src")

    @property
    def alt(self) -> str | None:
        return self.box.evaluate("box => box.querySelector('img')?.alt")

    @property
    def error(self) -> str | None:
        """What stands in the picture's place after an error."""
        return self.box.evaluate("box => box.querySelector('[role=alert]')?.textContent")

    @property
    def surface(self):
        """The picture, if it can be drawn on or pointed at."""
        return self.box.query_selector(".course-surface img")

    def reaction(self, move: Callable, *arguments: object) -> float | None:
        """Milliseconds from the move's first event until another picture is on the screen; None if none comes."""
        self.page.evaluate(WATCH, [self.box, PATIENCE_MS])
        move(*arguments)
        return self.page.evaluate("() => window.reaction")

    def plays(self, toggle: Callable[[], None], *, seconds: float = 20.0) -> bool:
        """True if the picture changes by itself, twice or more, after `toggle`, and no more after another `toggle`."""
        self.settle()
        seen, deadline = {self.picture}, time.monotonic() + seconds
        toggle()
        while len(seen) < 3 and time.monotonic() < deadline:
            self.page.wait_for_timeout(50)
            seen.add(self.picture)
        toggle()
        self.settle()
        still = self.picture
        self.page.wait_for_timeout(800)
        return len(seen) >= 3 and self.picture == still

    def says(self, text: str) -> bool:
        """Wait until the alt text holds `text`; TimeoutError of Playwright if it never does."""
        return self.box.wait_for_selector(f'img[alt*="{text}"]', timeout=ANSWER_MS) is not None

    def settle(self) -> None:
        """Wait until nothing has happened for so long that nothing more will: long after an answer would be here."""
        quiet = max(0.3, 4 * self.page.evaluate(ROUND_TRIP) / 1000)
        since, last = time.monotonic(), self.picture
        while time.monotonic() - since < quiet:
            self.page.wait_for_timeout(40)
            if self.picture != last or not self.page.evaluate(IDLE):
                since, last = time.monotonic(), self.picture

    def drag(
        self, element, right: float, down: float = 0.0, start: tuple[float, float] | None = None
    ) -> None:
        """Press the mouse in the element's middle (or at `start`, pixels from its corner), move it, let go."""
        element.scroll_into_view_if_needed()
        place = element.bounding_box()
        dx, dy = start or (place["width"] / 2, place["height"] / 2)
        x, y = place["x"] + dx, place["y"] + dy
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for part in (0.25, 0.5, 0.75, 1.0):
            self.page.mouse.move(x + part * right, y + part * down)
            self.page.wait_for_timeout(30)
        self.page.mouse.up()
