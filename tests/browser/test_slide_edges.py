"""The slides of every lecture at 1280 × 720: nothing over an edge, every formula set, no request to anywhere."""

import re

import pytest

from course_lib.classroom import slides

PATHS = sorted(slides.LECTURES.glob("*.ipynb"))


@pytest.fixture
def built(tmp_path):
    """Builds a lecture's slides: name of the notebook → the page."""
    return lambda name: slides.build([slides.LECTURES / f"{name}.ipynb"], tmp_path)[0]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_slide_runs_over_its_edge(path, built, page, troubles):
    assert slides.faults(page, built(path.stem)) == []
    assert not troubles.all()


def test_the_keys_of_a_speaker(built, page, troubles):
    """Space goes through fragments and slides, S opens the notes (with their formulas), the address keeps the place."""
    page.goto(built("03_vae").as_uri(), wait_until="commit")
    page.wait_for_function(slides.READY, timeout=slides.PATIENCE)
    place = "JSON.stringify(Reveal.getIndices())"
    places = [page.evaluate(place)]
    for _ in range(6):
        page.keyboard.press("Space")
        places.append(page.evaluate(place))
    assert len(set(places)) == len(places)
    page.wait_for_function("location.hash.length > 2", timeout=slides.PATIENCE)
    page.evaluate("Reveal.slide(2, 0)")  # its notes hold formulas
    with page.expect_popup() as popup:
        page.keyboard.press("s")
    notes = popup.value.locator(".speaker-controls-notes .value")
    notes.locator("math").first.wait_for(timeout=slides.PATIENCE)
    assert "$" not in notes.inner_text()
    assert not troubles.all()


def test_a_page_can_be_printed(built, page, troubles):
    """`?print-pdf` puts every slide on one sheet of its own."""
    address = built("16_pixelcnn").as_uri()
    page.goto(address, wait_until="commit")
    page.wait_for_function(slides.READY, timeout=slides.PATIENCE)
    slides_shown = page.locator(".slides > section > section").count()
    page.goto(f"{address}?print-pdf", wait_until="commit")
    page.locator(".pdf-page").first.wait_for(timeout=slides.PATIENCE)
    assert page.locator(".pdf-page").count() == slides_shown
    assert not troubles.all()


def test_faults_are_found(built, page):
    """Each kind of fault, made on purpose, is seen."""
    address = built("16_pixelcnn")
    text = address.read_text(encoding="utf-8")
    start = text.index('<div class="text"')
    wrong = (
        "<p style='width: 1400px'>wide</p><p style='position: relative; left: -50px'>left</p>"
        "<p style='height: 900px'>high</p><p>$x <b>$</b></p>"
    )
    broken = address.with_name("broken.html")
    broken.write_text(text[:start] + wrong + text[start:], encoding="utf-8")
    found = "\n".join(slides.faults(page, broken))
    for fault in (
        "px over the right edge",
        "px over the left edge",
        "px over the lower edge",
        "is not typeset",
    ):
        assert re.search(f"^slide 1: .*{fault}", found, re.MULTILINE), found
