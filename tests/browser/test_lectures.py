"""Every lecture in a real JupyterLab: its cells run, and each control of each widget changes the picture."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
from conftest import watched_page
from driving import Control, Lecture, Widget
from laboratory import NOTEBOOKS

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
MOVES = 7
#: A control that changes the picture in fewer of its seven moves has too many idle places.
CHANGES = 4
KEYS = {"slider": ("ArrowRight", "ArrowLeft"), "menu": ("ArrowDown", "ArrowUp"), "tick": ("Space", "Space")}


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.stem)
def lecture(request, lab, chromium):
    """A lecture that has been run from top to bottom in a browser of its own."""
    with watched_page(chromium) as (page, troubles):
        opened = Lecture(lab, page, troubles, Path(request.param))
        try:
            opened.run()
            yield opened
        finally:
            opened.close()  # one kernel at a time, also after a lecture that took too long


def movable(widget: Widget) -> list[Control]:
    return [control for control in widget.controls() if control.kind in KEYS]


def press(widget: Widget, control: Control) -> None:
    """One step with the arrow keys; back from the end."""
    control.element.focus()
    forward, back = KEYS[control.kind]
    widget.page.keyboard.press(back if control.at_the_end() else forward)


def check(lecture: Lecture) -> None:
    """No picture has turned into an error message, no cell reports one, and the browser has no complaints."""
    assert [widget.error for widget in lecture.widgets() if widget.error] == []
    assert lecture.complaints() == []
    assert lecture.troubles.all() == []


class TestLecture:
    def test_every_cell_runs_without_complaint(self, lecture):
        counts = [cell["count"] for cell in lecture.code_cells()]
        assert counts == list(range(1, len(counts) + 1))
        check(lecture)

    def test_there_are_as_many_widgets_as_its_source_asks_for(self, lecture):
        asked = sum(
            len(re.findall(r"(?<!def )\binteract\(", cell["source"])) for cell in lecture.code_cells()
        )
        assert len(lecture.widgets()) == asked >= 1
        assert all(widget.picture and widget.alt for widget in lecture.widgets())

    def test_keys_move_every_control_and_with_it_the_picture(self, lecture, reaction_times, reaction_limit):
        for number, widget in enumerate(lecture.widgets(), start=1):
            for control in movable(widget):
                widget.settle()
                spoken = widget.alt
                times = [widget.reaction(press, widget, control) for _ in range(MOVES)]
                seen = [milliseconds for milliseconds in times if milliseconds is not None]
                assert len(seen) >= CHANGES, (
                    f"{control.name}: {len(seen)} of {MOVES} moves changed the picture"
                )
                assert widget.alt != spoken, f"{control.name}: the alt text does not follow"
                median = statistics.median(seen)
                reaction_times.append((lecture.path.stem, number, control.name, median))
                assert median <= reaction_limit, f"{control.name}: {median:.0f} ms"
        check(lecture)

    def test_the_mouse_drags_every_slider(self, lecture):
        for widget in lecture.widgets():
            for control in movable(widget):
                if control.kind != "slider":
                    continue
                before, place = widget.picture, control.value
                widget.drag(control.element, -60 if control.at_the_end() else 60)
                widget.settle()
                assert control.value != place, f"{control.name} does not follow the mouse"
                assert widget.picture != before, f"{control.name}: the picture does not follow the mouse"
        check(lecture)

    def test_films_play_and_pictures_are_drawn_on(self, lecture):
        for widget in lecture.widgets():
            kinds = {control.name: control for control in widget.controls()}
            assert {control.kind for control in kinds.values()} <= {*KEYS, "film", "button"}
            if "play or pause" in kinds:
                kinds["stop"].element.click()  # to the beginning
                assert widget.plays(kinds["play or pause"].element.click)
            if widget.surface:
                press(widget, movable(widget)[0])  # the first picture is stored with fewer colours
                widget.settle()
                before = widget.picture
                widget.drag(widget.surface, 40, 30, start=(90, 120))
                widget.settle()
                assert widget.picture != before
            if "undo" in kinds:
                kinds["undo"].element.press("Space")
                widget.settle()
                assert widget.picture == before
        check(lecture)

    def test_tab_reaches_every_control_and_shows_where_it_is(self, lecture):
        for widget in lecture.widgets():
            controls = widget.controls()
            reached, unseen = lecture.tab_through(controls)
            assert reached == [control.name for control in controls]
            assert all(reached), "a control without a name"
            assert unseen == []
