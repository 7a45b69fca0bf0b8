"""From a lecture to a talk: `python -m course_lib.classroom.slides [NOTEBOOK …]` writes reveal.js pages.

What is on which slide stands in the notebook, in each cell's `slideshow` metadata, as JupyterLab and nbconvert know it:

- `slide_type`: "slide" (a new section of the talk), "subslide" (a new slide below it), "fragment" (shown at the next
  key), "-" (goes on), "notes" (for the speaker's window, key S) or "skip".
- `output`, ours, of a code cell: "fragment" or "subslide" for its output alone, or "only": the code is not shown.
- `prose`, ours, of a text cell: "whole" shows every word. Otherwise a slide shows what the eye needs (headings,
  formulas, lists, tables, questions, short sentences), of a long paragraph the first sentence; the notes have it all.

The pages need no network: reveal.js, MathJax and the fonts lie beside them. They are made for 1280 × 720; `--check`
opens each of them in a browser and prints every slide that runs over its edge.
"""

import argparse
import hashlib
import html
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import nbformat
from nbconvert.exporters import SlidesExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

if TYPE_CHECKING:
    from playwright.sync_api import Page

REPOSITORY = Path(__file__).resolve().parents[2]
LECTURES = REPOSITORY / "notebooks"
OUTPUT = REPOSITORY / "build" / "slides"
TEMPLATES = Path(__file__).parent / "templates"

SLIDE_TYPES = ("slide", "subslide", "fragment", "-", "notes", "skip")
OUTPUTS = ("fragment", "subslide", "only")
PROSE = ("whole",)

# Words of a paragraph that a slide shows whole. What leads to a formula says what its letters mean, what begins in bold
# is a statement or a question, an item stands in a list: these may be longer.
SHORT, LONG, ALONE = 30, 60, 9

WIDTH, HEIGHT = 1280, 720
READY, PATIENCE = (
    "window.Reveal && Reveal.isReady && Reveal.isReady()",
    300_000,
)  # ms; seconds on an idle machine
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

REVEAL, MATHJAX, MATPLOTLIB = "sphinx-revealjs", "sphinx-mathjax-offline", "matplotlib"
#: What the pages load: the folder under assets/, the distribution that brings it, where in it, which files.
ASSETS = (
    (
        "reveal",
        REVEAL,
        "sphinx_revealjs/_static/revealjs",
        ("dist/re*.css", "dist/reveal.js", "plugin/notes/notes.js"),
    ),
    (
        "mathjax",
        MATHJAX,
        "sphinx-mathjax-offline/static/mathjax",
        ("tex-chtml-full.js", "output/chtml/fonts/**/*"),
    ),
    (
        "fonts",
        REVEAL,
        "sphinx_revealjs/_static/revealjs/dist/theme/fonts/source-sans-pro",
        ("*.woff", "LICENSE"),
    ),
    (
        "fonts",
        MATPLOTLIB,
        "matplotlib/mpl-data/fonts/ttf",
        ("DejaVuSans.ttf", "DejaVuSansMono.ttf", "LICENSE_*"),
    ),
)

_TITLE = re.compile("<title>(.*?)</title>")


class SlidesError(ValueError):
    """Slides cannot be made, or a notebook's metadata says nothing about them; the message says what is missing."""


# ----------------------------------------------------------------------------------------------- what a slide shows


def blocks(text: str) -> list[str]:
    """A Markdown text cut where a reader sees a gap: headings, paragraphs, formulas, items of lists, tables, fences."""
    found, inside = [[]], ""
    for line in text.split("\n"):
        stripped = line.strip()
        if not inside and (not stripped or re.match(r"\$\$|(?:[-*]|\d+\.) |```|<details|#+ ", stripped)):
            found.append([])
        if stripped:
            found[-1].append(line)
        inside = _inside(stripped, inside)
        if not inside and re.search(r"\$\$\W?$|^```$|</details>$|^#+ ", stripped):
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


def _inside(line: str, inside: str) -> str:
    """The mark that ends the formula, the fence or the fold that is open after this line; "" if none is."""
    for first, last in (("```", "```"), ("<details", "</details>"), ("$$", "$$")):
        if inside == last:
            return "" if last in line else inside
        if not inside and line.startswith(first):
            return "" if last in line[len(first) :] else last
    return inside


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph. What ends with an initial, an abbreviation or inside a formula is no sentence."""
    found = [""]
    for piece in re.split(r"(?<=[.!?])(?=[*_)”\"]*\s)", " ".join(paragraph.split())):
        closing = re.match(r"[*_)”\"]*", piece).group()  # what closes the sentence before
        found[-1] += closing
        piece = piece[len(closing) :]
        open_ended = (
            found[-1].count("$") % 2
            or found[-1].count("(") > found[-1].count(")")
            or found[-1].count("**") % 2
            or re.search(r"(\b[A-Z]|\b(al|vs|cf|e\.g|i\.e|[Ss]ec|[Ee]q|[Ff]ig|resp))\.$", found[-1])
            or not re.match(r"\s+[^a-zα-ω]", piece)
        )
        if open_ended:
            found[-1] += piece
        else:
            found.append(piece.strip())
    return [sentence for sentence in found if sentence]


def shorten(block: str, before_formula: bool) -> str:
    """What a slide shows of a block: all of it, if it is no long paragraph or item; "" of an aside or a fold."""
    if re.match(r"<details|\(.*\)$", block, re.DOTALL):
        return ""
    if re.match(r"\s*(#|\$\$|\||```|>|<)", block):
        return block
    marker, text = re.match(r"(\s*(?:[-*] |\d+\. )?)(.*)", block, re.DOTALL).groups()
    if len(text.split()) <= (LONG if before_formula or marker.strip() or text.startswith("*") else SHORT):
        return block
    first, *others = sentences(text)
    asked = [sentence for sentence in others if sentence.rstrip("*").endswith("?")]
    if others and (before_formula or asked):
        last = others[-1] if before_formula else asked[-1]
        return f"{marker}{first} {'… ' if last != others[0] else ''}{last}"
    if others and len(first.split()) <= ALONE and len(others[0].split()) <= LONG:
        return f"{marker}{first} {others[0]}"  # a first sentence of a few words announces the second
    return marker + first


def shown(text: str) -> str:
    """A text cell as its slide shows it."""
    parts = blocks(text)
    following = [*parts[1:], ""]
    kept = [
        shorten(part, after.lstrip().startswith("$$")) for part, after in zip(parts, following, strict=True)
    ]
    return "\n\n".join(part for part in kept if part)


def shown_title(text: str) -> str:
    """The first cell as its slide shows it: the title and what the reader will be able to do."""
    kept = []
    for part in blocks(text):
        if kept and re.match(r"\*\*(Prerequisite|Runs)", part):
            break
        kept.append(part)
    return "\n\n".join(kept)


# ------------------------------------------------------------------------------------------------- from cells to slides


def talk(notebook: NotebookNode) -> NotebookNode:
    """The notebook's slides as nbconvert understands them: what is not on a slide is in the notes, or gone.

    Raises SlidesError if a cell's metadata is missing or unknown.
    """
    cells = []
    for number, cell in enumerate(notebook.cells):
        slideshow = cell.metadata.get("slideshow", {})
        if (
            slideshow.get("slide_type") not in SLIDE_TYPES
            or slideshow.get("output", "only") not in OUTPUTS
            or slideshow.get("prose", "whole") not in PROSE
        ):
            raise SlidesError(f"cell {number}: unknown slideshow metadata {dict(slideshow)}")
        if slideshow["slide_type"] != "skip":
            cell = NotebookNode(cell, metadata=NotebookNode(slideshow=slideshow, number=number))
            cells += _of_code(cell) if cell.cell_type == "code" else _of_text(cell, title=number == 0)
    return NotebookNode(notebook, cells=cells)


def _of_text(cell: NotebookNode, title: bool) -> list[NotebookNode]:
    slideshow = cell.metadata.slideshow
    if slideshow.slide_type == "notes" or slideshow.get("prose") == "whole":
        return [cell]
    text = shown_title(cell.source) if title else shown(cell.source)
    first, *sections = re.split(r"\n\n(?=##+ )", text)  # a heading inside a cell opens a slide, too
    parts = [NotebookNode(cell, source=first)]
    if "".join(text.split()) != "".join(cell.source.split()):
        parts.append(_part(cell, "notes", source=cell.source))
    for section in sections:
        parts.append(_part(cell, "slide" if section.startswith("## ") else "subslide", source=section))
    return parts


def _of_code(cell: NotebookNode) -> list[NotebookNode]:
    place = cell.metadata.slideshow.get("output")
    if place == "only":
        return [NotebookNode(cell, source="")]
    if place in ("fragment", "subslide") and cell.outputs:
        return [NotebookNode(cell, outputs=[]), _part(cell, place, source="")]
    return [cell]


def _part(cell: NotebookNode, slide_type: str, **changed: object) -> NotebookNode:
    metadata = NotebookNode(cell.metadata, slideshow=NotebookNode(slide_type=slide_type))
    digest = hashlib.sha1(repr((cell.id, slide_type, changed)).encode()).hexdigest()  # an id of its own
    return NotebookNode(cell, metadata=metadata, id=digest, **changed)


# --------------------------------------------------------------------------------------------------------------- pages


def page(path: Path, output: Path) -> str:
    """The HTML page of the lecture at `path`, for the folder `output`. Raises SlidesError."""
    notebook = nbformat.read(path, as_version=4)
    title = notebook.cells[0].source.split("\n")[0].lstrip("# ")
    exporter = SlidesExporter(
        template_name="slides",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    try:
        text, _ = exporter.from_notebook_node(talk(notebook), resources={"title": title})
    except SlidesError as error:
        raise SlidesError(f"{path.name}: {error}") from error
    return re.sub(
        r'(<a href=")(?![a-z]+:)([^"#]+)', lambda found: found[1] + _link(found[2], path, output), text
    )


def _link(target: str, lecture: Path, output: Path) -> str:
    """Where a link of a lecture leads on its slides: to another lecture's slides, or to the file in the repository."""
    file = lecture.parent / target
    if file.suffix == ".ipynb" and file.parent == lecture.parent:
        return f"{file.stem}.html"
    return os.path.relpath(file, output).replace(os.sep, "/")


def copy_assets(output: Path) -> None:
    """Put what the pages load into `output`/assets. Raises SlidesError if a package that brings it is not installed."""
    assets = output / "assets"
    for folder, distribution, place, patterns in ASSETS:
        try:
            source = Path(str(importlib.metadata.distribution(distribution).locate_file(place)))
        except importlib.metadata.PackageNotFoundError:
            raise SlidesError(
                f"the package {distribution} is not installed; `make setup` installs it"
            ) from None
        files = [file for pattern in patterns for file in sorted(source.glob(pattern)) if file.is_file()]
        if not files:
            raise SlidesError(f"{distribution} is installed without {source}")
        for file in files:
            target = assets / folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    for name in ("slides.css", "slides.js"):
        shutil.copyfile(TEMPLATES / "slides" / name, assets / name)
    (assets / "pygments.css").write_text(
        HtmlFormatter(style="vs").get_style_defs(".highlight"), encoding="utf-8"
    )


def build(paths: Sequence[Path], output: Path = OUTPUT) -> list[Path]:
    """Write a page for each lecture, what they load, and index.html of all pages; returns the pages. SlidesError."""
    output.mkdir(parents=True, exist_ok=True)
    copy_assets(output)
    pages = [output / f"{path.stem}.html" for path in paths]
    for path, target in zip(paths, pages, strict=True):
        target.write_text(page(path, output), encoding="utf-8")
    (output / "index.html").write_text(_overview(output), encoding="utf-8")
    return pages


def _overview(output: Path) -> str:
    """A page with a link to every lecture whose slides are there."""
    present = (path for path in sorted(output.glob("*.html")) if path.name != "index.html")
    talks = [
        (path.name, html.unescape(_TITLE.search(path.read_text(encoding="utf-8"))[1])) for path in present
    ]
    template = (TEMPLATES / "slides" / "overview.html.j2").read_text(encoding="utf-8")
    return jinja2.Template(template).render(talks=talks)


# ------------------------------------------------------------------------------------------------------- in a browser


def faults(browser_page: "Page", slides: Path) -> list[str]:
    """What is wrong on the page `slides`, opened in Playwright's `browser_page`: a line for each fault of a slide.

    A fault: something lies over an edge, also of what appears step by step; a formula is not typeset; nothing is there.
    """
    browser_page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    browser_page.goto(slides.resolve().as_uri(), wait_until="commit")
    browser_page.wait_for_function(READY, timeout=PATIENCE)
    found = browser_page.evaluate((TEMPLATES / "slides" / "edges.js").read_text(encoding="utf-8"))
    return [f"slide {number}: {fault}" for number, slide in enumerate(found, start=1) for fault in slide]


def check(pages: Sequence[Path]) -> dict[str, list[str]]:
    """The faults of each page, without those that have none. Raises SlidesError if there is no browser to look with."""
    executable = next(
        filter(None, map(shutil.which, (os.environ.get("COURSE_CHROMIUM", ""), *BROWSERS))), None
    )
    if importlib.util.find_spec("playwright") is None or executable is None:
        raise SlidesError(
            "--check needs the package playwright (make setup) and Chromium (apt install chromium)"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        browser_page = browser.new_page()
        found = {page.stem: faults(browser_page, page) for page in pages}
        browser.close()
    return {name: lines for name, lines in found.items() if lines}


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if all pages were written and, with --check, nothing runs over an edge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; default: every lecture")
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help=f"where to (default {OUTPUT.relative_to(REPOSITORY)})"
    )
    parser.add_argument("--check", action="store_true", help="look for slides that run over an edge")
    args = parser.parse_args(argv)
    try:
        pages = build(
            [path.resolve() for path in args.paths] or sorted(LECTURES.glob("*.ipynb")), args.output
        )
        found = check(pages) if args.check else {}
    except SlidesError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(pages)} lectures: {args.output / 'index.html'}")
    for name, lines in found.items():
        print(name, *lines, sep="\n  ")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())
