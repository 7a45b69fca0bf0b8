"""The built site (`make site`) as a reader sees it, from the disk: no server, no network.

It is taken from `build/site` if that is newer than everything it is made of, and built otherwise; COURSE_SITE names a
folder with one to test as it is.
"""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from course_lib.site import __main__ as command
from course_lib.site import tree

ROOT = Path(__file__).parents[2]
LECTURES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
OTHERS = (
    "index",
    "results",
    "security",
    "api/index",
    "api/course_lib.latent.vae",
    "api/course_lib.metrics",
    "_modules/course_lib/latent/vae",
    "notebooks/errata",
    "notebooks/glossary",
    "notebooks/exercises/README",
    "notebooks/exercises/source/ex02_vae/ex02_vae",
)
# What sticks out of the window although nothing around it scrolls or ends there.
STICKING_OUT = """() => [...document.querySelectorAll('.bd-article *')].filter(element => {
    const scrolls = box => ['auto', 'scroll'].includes(getComputedStyle(box).overflowX)
    if (element.getBoundingClientRect().right <= innerWidth + 1) return false
    for (let box = element; box && box !== document.body; box = box.parentElement)
        if (box.getBoundingClientRect().right <= innerWidth + 1 && scrolls(box))
            return false
    return element.checkVisibility() && !element.closest('.sr-only, .visually-hidden, mjx-assistive-mml')
}).map(element => element.outerHTML.slice(0, 120)).slice(0, 5)"""


class Page(HTMLParser):
    """What a page refers to, its anchors, and its words outside code and formulas."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.parts: list[str] = []  # scripts, style sheets, pictures: what a browser fetches by itself
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self._silent = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical",):
            self.parts.append(values["href"])
        elif "src" in values:
            self.parts.append(values["src"])
        self._silent += tag in ("script", "style", "code", "pre") or "math" in values.get("class", "").split()

    def handle_endtag(self, tag: str) -> None:
        self._silent -= bool(self._silent) and tag in ("script", "style", "code", "pre")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if named := os.environ.get("COURSE_SITE"):
        return Path(named).resolve()
    made_of = [ROOT / "README.md", ROOT / "LICENSE", *(ROOT / path for path in tree.TEXTS)]
    for folder in ("notebooks", "course_lib"):
        made_of += [
            path for path in (ROOT / folder).rglob("*") if path.suffix in (".ipynb", ".py", ".css", ".png")
        ]
    first = command.OUTPUT / "index.html"
    if not first.exists() or first.stat().st_mtime < max(path.stat().st_mtime for path in made_of):
        assert command.build(command.OUTPUT) == 0
    return command.OUTPUT


@pytest.fixture(scope="session")
def html(site) -> dict[Path, Page]:
    """Every page of the site, read."""
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def opened(page, site: Path, name: str, viewport: dict = DESK) -> None:
    """Open a page and wait until its formulas are set."""
    page.set_default_timeout(120_000)  # of a machine that has other things to do
    page.set_viewport_size(viewport)
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_function("!window.MathJax || (window.MathJax.startup && window.MathJax.startup.promise)")
    page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => true) : true")


# ---------------------------------------------------------------------------------------------------- without a browser


def test_nothing_is_fetched_from_elsewhere(html):
    outside = {part for page in html.values() for part in page.parts if re.match(r"(https?:)?//", part)}
    assert not outside
    assert sum(len(page.parts) for page in html.values()) > len(html)


def test_every_link_and_anchor_of_the_site_exists(html, site):
    dead, checked = [], 0
    for path, page in html.items():
        for target in {*page.links, *page.parts}:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            place = (path.parent / unquote(url.path)).resolve() if url.path else path
            checked += 1
            alive = place.is_file() and place.is_relative_to(site)
            if alive and unquote(url.fragment) and place in html:
                alive = unquote(url.fragment) in html[place].anchors
            if not alive:
                dead.append(f"{path.relative_to(site)} → {target}")
    assert not dead
    assert checked > 5_000


def test_no_markdown_is_left_over(html, site):
    """A star or a link that was not understood stands on the page as it was typed."""
    left = [
        f"{path.relative_to(site)}: {words.strip()[:80]}"
        for path, page in html.items()
        if path.is_relative_to(site / "notebooks") or path.parent == site
        for words in page.words
        if re.search(r"\*\*|\]\(|:ref:", words)
    ]
    assert not left


def test_no_page_shows_where_it_was_built(html):
    for path in html:
        assert str(ROOT) not in path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- lectures


@pytest.mark.parametrize("name", LECTURES)
def test_lecture(page, troubles, site, name):
    opened(page, site, f"notebooks/{name}")
    assert page.locator("mjx-container").count() >= 10
    assert page.locator("mjx-merror").count() == 0
    broken = """images => images.filter(image => !image.naturalWidth || image.alt.split(' ').length < 4)
        .map(image => image.src.slice(0, 80))"""
    assert page.locator(".cell_output img").count() > 0
    assert page.eval_on_selector_all(".bd-article img", broken) == []
    panel = page.locator(".lecture-panel")
    hrefs = panel.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    for kind in ("../api/course_lib.", "../_modules/course_lib/", "exercises/", "../_downloads/"):
        assert any(href.startswith(kind) for href in hrefs), (kind, hrefs)
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(STICKING_OUT) == []
    assert troubles.all() == []


@pytest.mark.parametrize("name", OTHERS)
def test_a_phone_scrolls_no_page_sideways(page, troubles, site, name):
    opened(page, site, name, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(STICKING_OUT) == []
    assert troubles.all() == []


# -------------------------------------------------------------------------------------------------- what a reader does


def test_the_sidebar_groups_the_lectures(page, site):
    opened(page, site, "index")
    captions = page.locator(".bd-links .caption-text").all_inner_texts()
    assert captions[:5] == [
        "Foundations", "Latent variables", "Adversarial models", "Autoregressive models", "Comparison"
    ]  # fmt: skip
    links = page.locator(".bd-links a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert [Path(href).stem for href in links if re.match(r"notebooks/\d\d_", href)] == LECTURES


def test_search_finds_a_word_without_a_server(page, troubles, site):
    page.set_default_timeout(120_000)
    page.goto((site / "search.html").as_uri() + "?q=reparameterisation")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("document.querySelector('#search-results').innerText.includes('matching')")
    found = page.locator("#search-results li a").evaluate_all(
        "links => links.map(link => link.getAttribute('href'))"
    )
    assert any("03_vae" in href for href in found)
    assert any("glossary" in href for href in found)
    assert troubles.all() == []
    page.goto((site / "search.html").as_uri() + "?q=zzyzzx")
    page.wait_for_function("document.querySelector('#search-results').innerText.includes('did not match')")


def test_the_button_turns_the_page_dark_and_figures_stay_light(page, troubles, site):
    page.emulate_media(color_scheme="light")
    opened(page, site, "notebooks/03_vae")
    brightness = """element => { for (; element; element = element.parentElement) {
        const [r, g, b, a] = getComputedStyle(element).backgroundColor.match(/[\\d.]+/g).map(Number)
        if (a !== 0) return (r + g + b) / 3 } return 255 }"""
    article = page.locator(".bd-article")
    assert article.evaluate(brightness) > 200
    page.locator(".theme-switch-button:visible").first.click()
    page.locator('.theme-change-button[data-mode="dark"]:visible').click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert article.evaluate(brightness) < 60
    colour = page.locator(".bd-article p").first.evaluate("p => getComputedStyle(p).color")
    assert min(map(int, re.findall(r"\d+", colour)[:3])) > 180
    assert page.locator(".cell_output img").first.evaluate(brightness) > 200
    assert troubles.all() == []


def test_the_glossary_is_written_in_the_direction_of_each_language(page, site):
    opened(page, site, "notebooks/glossary")
    rows = page.locator("tbody tr").count()
    for language, direction in (("he", "rtl"), ("fa", "rtl"), ("ru", "ltr"), ("zh", "ltr")):
        cells = page.locator(f'tbody td[lang="{language}"]')
        assert cells.count() == rows > 40
        styles = cells.evaluate_all("cells => cells.map(cell => getComputedStyle(cell).direction)")
        assert set(styles) == {direction}
    assert page.locator('td[dir="rtl"]').count() == 2 * rows
    # A right-to-left cell begins at its right edge.
    gaps = page.locator('td[lang="he"]').first.evaluate(
        """cell => { const text = document.createRange(); text.selectNodeContents(cell)
        const inner = text.getBoundingClientRect(), outer = cell.getBoundingClientRect()
        return [inner.left - outer.left, outer.right - inner.right] }"""
    )
    assert gaps[1] <= gaps[0]
