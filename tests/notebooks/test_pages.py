"""Every committed lecture as a page: light, stable, complete, readable without a kernel, its links alive.

Nothing is executed here: nbval runs the cells, `test_real_data.py` runs them on real data.
"""

import copy
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from course_lib.classroom import execute

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
TEXTS = sorted(FOLDER.glob("*.md"))

LECTURES = {
    "00_start_here",
    "01_dimensionality_reduction_pca",
    "02_autoencoders",
    "03_vae",
    "04_iwae",
    "05_vade",
    "06_discrete_vae",
    "07_vq_vae",
    "08_gan_theory",
    "09_gan_training",
    "10_dcgan",
    "11_pix2pix",
    "12_cyclegan",
    "13_stylegan",
    "14_wasserstein_gan",
    "15_pixelrnn",
    "16_pixelcnn",
    "17_comparison",
}
PARAMETERS = """\
SEED = 0
DATA = os.environ.get("COURSE_DATA", "glyphs")  # "digits", "glyphs", "mnist", "fashion_mnist"
SCALE = os.environ.get("COURSE_SCALE", "quick")  # "quick": a laptop in seconds; "full": the paper's size"""
TAGS = {"parameters", "live", "nbval-check-output", "nbval-ignore-output"}
TITLE_ITEMS = {
    "what the reader will be able to do": r"After this lecture you can",
    "prerequisites": r"Prerequisites?",
    "measured run time": r"Runs in about \d+ s on a 2-core laptop",
    "papers, with their years": r"Papers?\b.*\b(1[89]|20)\d\d\b",
    "the source code": r"\]\(\.\./course_lib/",
}
CLOSING = ("Summary", "Questions", "References")  # headings in this order, no code after the first
MAX_LINES, MAX_LIVE_LINES = 30, 12


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.stem)
def page(request):
    """A notebook's path and content."""
    return request.param, nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def headings(text):
    return re.findall(r"^#+ +(.+?) *$", without_code(text), flags=re.MULTILINE)


def without_code(text):
    """Markdown without fenced code, code spans and formulas: what is left may hold links and headings."""
    fences = r"^(```|~~~).*?^\1"
    spans = r"`[^`\n]+`|\$\$.+?\$\$|\$[^$\n]+\$"
    return re.sub(spans, "", re.sub(fences, "", text, flags=re.DOTALL | re.MULTILINE), flags=re.DOTALL)


def links(text):
    """Targets of the Markdown links and images, reference definitions and HTML attributes in a text."""
    text = without_code(text)
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", text)
    definitions = re.findall(r"^\s*\[[^\]]+\]:\s*<?([^\s>]+)", text, flags=re.MULTILINE)
    return inline + definitions + re.findall(r"""\b(?:href|src)\s*=\s*["']([^"']+)["']""", text)


def dead_links(texts):
    """Relative targets that are no file beside the notebooks, or no heading of the Markdown file they point into."""
    dead = []
    for target in itertools.chain.from_iterable(map(links, texts)):
        url = urlsplit(target)
        if url.scheme or url.netloc or not url.path:
            continue
        path = FOLDER / unquote(url.path)
        alive = (
            not url.path.startswith("/") and path.resolve().is_relative_to(FOLDER.parent) and path.exists()
        )
        if alive and url.fragment and path.suffix == ".md":
            alive = url.fragment in anchors(path)
        if not alive:
            dead.append(target)
    return dead


def anchors(path):
    """The fragments of a Markdown file: explicit ids, and headings as GitHub names them."""
    text = path.read_text(encoding="utf-8")
    named = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(text)]
    return {*named, *re.findall(r"""\b(?:id|name)=["']([^"']+)["']""", text)}


class Images(HTMLParser):
    """Collects the attributes of every <img>."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.found.append(dict(attributes))


def picture_alts(output):
    """The alt texts of an output's pictures: of image/* from its metadata, of text/html from <img> and metadata."""
    data, metadata = output.get("data", {}), output.get("metadata", {})
    alts = [
        metadata.get(mime, {}).get("alt", metadata.get("alt", ""))
        for mime in data
        if mime.startswith("image/")
    ]
    for image in Images(data.get("text/html", "")).found:
        alts += [image.get("alt") or "", metadata.get("text/html", {}).get("alt", "")]
    return alts


# ---- the set ---------------------------------------------------------------------------------------------------------


def test_lectures_have_the_names_of_the_course():
    """Some are in preparation, so there may be gaps; other names or a second file of a number may not be."""
    names = [path.stem for path in PATHS]
    assert names, f"no notebook in {FOLDER}"
    assert set(names) <= LECTURES


def test_no_two_notebooks_share_a_code_cell():
    first_seen, shared = {}, []
    for path in PATHS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            lines = tuple(line.rstrip() for line in cell.source.splitlines() if line.strip())
            if len(lines) >= 5 and first_seen.setdefault(lines, path) != path:
                shared.append(f"{first_seen[lines].name} and {path.name}: {lines[0]}")
    assert not shared


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_of_the_texts_exist(path):
    assert dead_links([path.read_text(encoding="utf-8")]) == []


# ---- each page -------------------------------------------------------------------------------------------------------


def test_is_clean_and_light(page):
    path, notebook = page
    nbformat.validate(notebook)
    before = nbformat.writes(notebook)
    assert nbformat.writes(execute.clean(copy.deepcopy(notebook))) == before, "run `make notebooks`"
    assert path.read_text(encoding="utf-8") == before + "\n"
    assert execute.light_text(
        copy.deepcopy(notebook)
    )  # at most 400 KB, nothing that differs between machines
    assert notebook.nbformat_minor >= 5


def test_outputs_are_those_of_a_whole_run(page):
    _, notebook = page
    assert "widgets" not in notebook.metadata
    for cell in code_cells(notebook):
        assert not [output for output in cell.outputs if output.output_type == "error"], cell.source
        assert not [o for o in cell.outputs if execute.WIDGET_MIME in o.get("data", {})], cell.source
        assert cell.source.strip()
        # nbval passes a tagged cell whose stored output is empty, whatever it prints.
        assert cell.outputs or "nbval-check-output" not in tags(cell), f"no output to compare: {cell.source}"
    assert any(picture_alts(output) for cell in code_cells(notebook) for output in cell.outputs)


def test_every_picture_has_an_alt_text(page):
    _, notebook = page
    for cell in code_cells(notebook):
        for alt in itertools.chain.from_iterable(map(picture_alts, cell.outputs)):
            assert len(alt.split()) >= 4, f"alt text {alt!r} of the picture made by:\n{cell.source}"


def test_parameters_cell_is_the_agreed_one(page):
    _, notebook = page
    tagged = [cell.source for cell in code_cells(notebook) if "parameters" in tags(cell)]
    assert tagged == [PARAMETERS]
    assert code_cells(notebook)[1].source == PARAMETERS, "it is the second code cell, after the imports"


def test_tags_are_known(page):
    _, notebook = page
    for cell in notebook.cells:
        assert set(tags(cell)) <= (TAGS if cell.cell_type == "code" else set()), cell.source


def test_cells_are_short(page):
    path, notebook = page
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= MAX_LINES, cell.source
    live = [cell.source for cell in code_cells(notebook) if "live" in tags(cell)]
    assert all(len(source.splitlines()) <= MAX_LIVE_LINES for source in live), live
    assert len(live) >= 3 or path.stem.startswith("00"), f"{len(live)} cells to type live, expected 3 or more"


def test_title_cell(page):
    path, notebook = page
    title = notebook.cells[0]
    assert title.cell_type == "markdown"
    assert re.match(rf"# {path.stem[:2]}\b", title.source), "it begins with # and the lecture's number"
    missing = [
        item
        for item, form in TITLE_ITEMS.items()
        if not re.search(form, title.source.replace("*", ""), re.IGNORECASE | re.DOTALL)
    ]
    assert not missing


def test_ends_with_summary_questions_and_references(page):
    _, notebook = page
    found = [
        (number, closing)
        for number, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown"
        for heading in headings(cell.source)
        for closing in CLOSING
        if heading.lower().lstrip("0123456789.· ").startswith(closing.lower())
    ]
    assert [closing for _, closing in found] == list(CLOSING)
    assert all(cell.cell_type == "markdown" for cell in notebook.cells[found[0][0] :]), (
        "code after the summary"
    )
    answers = "\n".join(markdown(notebook)[-6:])
    assert answers.count("<details") == answers.count("</details>") > 0, (
        "the questions' answers are in a fold"
    )


def test_links_exist_and_reach_the_neighbours(page):
    path, notebook = page
    texts = markdown(notebook)
    assert dead_links(texts) == []
    targets = {urlsplit(target).path for text in texts for target in links(text)}
    position = PATHS.index(path)
    neighbours = PATHS[max(position - 1, 0) : position] + PATHS[position + 1 : position + 2]
    assert {neighbour.name for neighbour in neighbours} <= targets


# ---- the checks above can fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("[a](nowhere.ipynb)", ["nowhere.ipynb"]),
        (
            '![picture](pictures/none.png "title") and <a href="none.md">b</a>',
            ["pictures/none.png", "none.md"],
        ),
        ("[root](/etc/hosts)", ["/etc/hosts"]),
        ("[out of the repository](../../elsewhere.md)", ["../../elsewhere.md"]),
        ("[module](../course_lib/latent/pca.py#L10), [web](https://arxiv.org), [here](#section)", []),
        ("`[a](b)`, $f[i](x)$ and $$g[i](y)$$ are no links\n```\n[a](b)\n```\n", []),
    ],
)
def test_dead_links_are_found(text, dead):
    assert sorted(dead_links([text])) == sorted(dead)


def test_pictures_without_alt_text_are_found():
    output = nbformat.v4.new_output(
        "display_data", {"text/html": '<p><img src="data:"></p>', "image/png": ""}
    )
    assert picture_alts(output) == ["", "", ""]
    output.metadata = {"image/png": {"alt": "a line"}, "text/html": {"alt": "a curve"}}
    output.data["text/html"] = '<img src="data:" alt="a curve">'
    assert sorted(picture_alts(output)) == ["a curve", "a curve", "a line"]
