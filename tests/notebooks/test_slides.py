"""Every lecture as a talk: what its metadata says, what its page shows, and that the page needs no network.

What a browser makes of the pages is looked at in tests/browser.
"""

import importlib.metadata
import itertools
import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.classroom import slides

PATHS = sorted(slides.LECTURES.glob("*.ipynb"))
#: A talk of ninety minutes: about a slide a minute, and some that are only clicked through.
FEWEST, MOST = 25, 80


class Page(HTMLParser):
    """The elements of a page, each with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def every(self, tag, attribute):
        return [
            attributes[attribute]
            for name, attributes in self.elements
            if name == tag and attribute in attributes
        ]


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.stem)
def lecture(request):
    """A lecture's path, its notebook and its page of slides."""
    path = request.param
    return path, nbformat.read(path, as_version=4), Page(slides.page(path, slides.OUTPUT))


def slide_type(cell):
    return cell.metadata.get("slideshow", {}).get("slide_type")


def text(source, **slideshow):
    return new_markdown_cell(source, metadata={"slideshow": {"slide_type": "-", **slideshow}})


def code(source="1 + 1", **slideshow):
    output = new_output("stream", text="2\n")
    return new_code_cell(source, outputs=[output], metadata={"slideshow": {"slide_type": "-", **slideshow}})


def talk_of(*cells):
    """What becomes of these cells: (slide type, source, has outputs) of each."""
    cells = slides.talk(new_notebook(cells=[text("# 99 Title", slide_type="slide"), *cells])).cells[1:]
    return [(cell.metadata.slideshow.slide_type, cell.source, bool(cell.get("outputs"))) for cell in cells]


# ---- the lectures ----------------------------------------------------------------------------------------------------


def test_every_cell_has_slideshow_metadata(lecture):
    _, notebook, _ = lecture
    assert slide_type(notebook.cells[0]) == "slide"
    assert not [cell.source for cell in notebook.cells if slide_type(cell) not in slides.SLIDE_TYPES]
    for cell in notebook.cells:
        ours = {"output"} if cell.cell_type == "code" else {"prose"}
        assert set(cell.metadata.slideshow) <= {"slide_type", *ours}, cell.source


def test_a_section_opens_a_slide(lecture):
    _, notebook, _ = lecture
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            expected = "skip" if "References" in cell.source.split("\n")[0] else "slide"
            assert slide_type(cell) == expected, cell.source


def test_a_subsection_opens_a_slide_or_stands_below_its_section(lecture):
    _, notebook, _ = lecture
    for before, cell in itertools.pairwise(notebook.cells):
        if cell.cell_type == "markdown" and cell.source.startswith("### "):
            below = {"-"} if before.source.startswith("## ") else set()
            assert slide_type(cell) in {"slide", "subslide", "skip"} | below, cell.source


def test_setting_up_is_not_on_a_slide(lecture):
    _, notebook, _ = lecture
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first = [*cells[:2], *(cell for cell in cells if "class Settings" in cell.source)]
    assert [cell.source for cell in first if slide_type(cell) != "skip"] == []


def test_what_is_typed_live_is_on_a_slide(lecture):
    _, notebook, _ = lecture
    live = [cell for cell in notebook.cells if "live" in cell.metadata.get("tags", [])]
    assert not [cell.source for cell in live if slide_type(cell) in ("skip", "notes")]
    assert not [cell.source for cell in live if cell.metadata.slideshow.get("output") == "only"]


def test_a_talk_has_as_many_slides_as_can_be_shown(lecture):
    _, _, page = lecture
    stacks = len([cell for cell in lecture[1].cells if slide_type(cell) == "slide"])
    sections = sum(tag == "section" for tag, _ in page.elements)
    assert FEWEST <= sections - stacks <= MOST


def test_a_page_loads_only_what_lies_beside_it(lecture):
    _, _, page = lecture
    loaded = [*page.every("script", "src"), *page.every("link", "href"), *page.every("img", "src")]
    loaded = [source for source in loaded if not source.startswith("data:image/png;base64,")]
    assert loaded
    assert not [source for source in loaded if not source.startswith("assets/")]
    assert not {"iframe", "video", "audio", "object"} & {tag for tag, _ in page.elements}


def test_a_page_keeps_the_alt_texts(lecture):
    _, _, page = lecture
    alts = page.every("img", "alt")
    assert len(alts) == len(page.every("img", "src")) >= 5
    assert all(alts)


def test_links_lead_to_slides_and_to_files(lecture):
    _, _, page = lecture
    names = {f"{path.stem}.html" for path in PATHS}
    for target in page.every("a", "href"):
        if not re.match(r"https?:|#", target):
            file = target.split("#")[0]
            assert file in names or (slides.OUTPUT / file).resolve().exists(), target


# ---- the assets ------------------------------------------------------------------------------------------------------


def test_assets_are_copied_and_ask_nobody_else(tmp_path):
    slides.copy_assets(tmp_path)
    page = slides.page(PATHS[0], tmp_path)
    for source in re.findall(r'(?:src|href)="(assets/[^"]+)"', page):
        assert (tmp_path / source).is_file(), source
    for sheet in tmp_path.rglob("*.css"):
        loaded = re.findall(r"url\(([^)]+)\)|@import ([^;]+)", sheet.read_text(encoding="utf-8"))
        for target in ("".join(pair).strip("'\"") for pair in loaded):
            assert target.startswith("data:") or (sheet.parent / target).is_file(), f"{sheet.name}: {target}"
    assert list(tmp_path.glob("assets/mathjax/output/chtml/fonts/*/*.woff"))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(slides.SlidesError, match="sphinx-revealjs is not installed"):
        slides.copy_assets(tmp_path)


def test_the_overview_lists_every_page(tmp_path):
    first, last = PATHS[0], PATHS[-1]
    assert slides.build([first], tmp_path) == [tmp_path / f"{first.stem}.html"]
    slides.build([last], tmp_path)
    overview = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert Page(overview).every("a", "href") == [f"{first.stem}.html", f"{last.stem}.html"]
    assert "00 Start here: what a generative model is" in overview


# ---- the rules -------------------------------------------------------------------------------------------------------


def test_an_output_goes_where_the_metadata_says():
    assert talk_of(code("f()")) == [("-", "f()", True)]
    assert talk_of(code("f()", output="only", slide_type="subslide")) == [("subslide", "", True)]
    for place in ("fragment", "subslide"):
        assert talk_of(code("f()", output=place)) == [("-", "f()", False), (place, "", True)]


def test_skipped_cells_are_gone_and_notes_are_whole():
    long = "One sentence. " * 20
    assert talk_of(code(slide_type="skip"), text(long, slide_type="notes")) == [("notes", long, False)]


def test_a_long_paragraph_shows_its_first_sentence_and_the_notes_have_it_all():
    long = "A sentence of ten words, no more, is the first. " + "More. " * 40
    assert talk_of(text(long)) == [
        ("-", "A sentence of ten words, no more, is the first.", False),
        ("notes", long, False),
    ]
    assert talk_of(text(long, prose="whole")) == [("-", long, False)]


def test_a_heading_inside_a_cell_opens_a_slide():
    cell = text("So it is.\n\n### Below\n\nShort.\n\n## Next\n\n$$x$$")
    assert talk_of(cell) == [
        ("-", "So it is.", False),
        ("subslide", "### Below\n\nShort.", False),
        ("slide", "## Next\n\n$$x$$", False),
    ]
    ids = [part.id for part in slides.talk(new_notebook(cells=[cell])).cells]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "slideshow",
    [{}, {"slide_type": "slides"}, {"slide_type": "-", "output": "left"}, {"slide_type": "-", "prose": "no"}],
)
def test_unknown_metadata_is_refused(slideshow):
    cell = new_markdown_cell("Text", metadata={"slideshow": slideshow})
    with pytest.raises(slides.SlidesError, match="cell 0: unknown slideshow metadata"):
        slides.talk(new_notebook(cells=[cell]))


def test_blocks():
    parts = [
        "## Heading",
        "A paragraph\nof two lines:",
        "$$\n\\begin{aligned}\na\n\nb\n\\end{aligned}\n$$",
        "- one item\n  goes on",
        "- another",
        "```sh\n\n# no heading\n```",
        "| a |\n|---|",
        "<details><summary>Answers</summary>\n1. None.\n</details>",
    ]
    text = "\n".join(
        [parts[0], "", parts[1], parts[2], "", parts[3], parts[4], "", *parts[5:7], "", parts[7]]
    )
    assert slides.blocks(text) == [part.replace("\n\n", "\n") for part in parts]


@pytest.mark.parametrize(
    ("paragraph", "first"),
    [
        ("It holds. It does not.", "It holds."),
        ("By D. Kingma et al. it holds, cf. Sec. 3. Next.", "By D. Kingma et al. it holds, cf. Sec. 3."),
        ("**Question.** Why?", "**Question.**"),
        ("Let $p. Q$ be (say. This) so. Then", "Let $p. Q$ be (say. This) so."),
        ("A value of 0.5 is small. Yes.", "A value of 0.5 is small."),
        ("Three things: one. Two.", "Three things: one."),
        ("Is it so? We measure.", "Is it so?"),
        ("*Is it so?* We measure.", "*Is it so?*"),
    ],
)
def test_sentences(paragraph, first):
    found = slides.sentences(paragraph)
    assert found[0] == first
    assert " ".join(found) == paragraph


def test_what_a_slide_shows_of_a_block():
    middle, longer = "Word" + " word" * 39 + ".", "Word" + " word" * 69 + "."
    assert slides.shorten("Short enough.", False) == "Short enough."
    assert slides.shorten(f"A first sentence of ten words, so that it is enough. {middle}", False) == (
        "A first sentence of ten words, so that it is enough."
    )
    # What leads to a formula, what begins in bold and an item may be longer.
    assert slides.shorten(f"Let it be. {middle}", True) == f"Let it be. {middle}"
    assert slides.shorten(f"**In bold.** {middle}", False) == f"**In bold.** {middle}"
    assert slides.shorten(f"- It is. {middle}", False) == f"- It is. {middle}"
    assert slides.shorten(f"Let it be. {longer} Then", True) == "Let it be. … Then"
    assert slides.shorten(f"- A first sentence of ten words, so that it is enough. {longer}", False) == (
        "- A first sentence of ten words, so that it is enough."
    )
    # A question is shown, and a few words that announce the next sentence do not stand alone.
    assert slides.shorten(f"**Question.** {longer} Why?", False) == "**Question.** … Why?"
    assert slides.shorten(f"It is so. {middle} Why?", False) == "It is so. … Why?"
    assert (
        slides.shorten(f"Two remarks. The first is this. {middle}", False)
        == "Two remarks. The first is this."
    )
    for aside in ("(What the chapter says.)", "<details>\nAnswers\n</details>"):
        assert slides.shorten(aside, False) == ""
    for whole in (f"$$ {longer} $$", f"| {longer} |", f"## {longer}"):
        assert slides.shorten(whole, False) == whole


def test_the_title_slide_stops_at_the_prerequisites():
    title = (
        "# 99 Title\n\nAfter this lecture you can\n\n- see.\n\n**Prerequisites:** none.\n\n**Papers:** none."
    )
    shown = slides.shown_title(title)
    assert shown == "# 99 Title\n\nAfter this lecture you can\n\n- see."
    cells = slides.talk(new_notebook(cells=[text(title, slide_type="slide")])).cells
    assert [cell.metadata.slideshow.slide_type for cell in cells] == ["slide", "notes"]


def test_the_command_says_which_cell_is_at_fault(tmp_path, capsys):
    path = tmp_path / "99_broken.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 99")]), path)
    assert slides.main([str(path), "--output", str(tmp_path / "out")]) == 1
    assert "99_broken.ipynb: cell 0" in capsys.readouterr().err
