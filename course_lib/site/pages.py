"""What is a page of the site, and the text of each: functions from text to text, without Sphinx and without files.

A repository and a site are linked differently. In the repository, `[vae.py](../course_lib/latent/vae.py)` is a file; on
the site it is the page with the source of the module. `relink` translates, given the `Site`'s map.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import unquote

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

#: The sidebar: caption and numbers of the lectures below it.
GROUPS = (
    ("Foundations", range(3)),
    ("Latent variables", range(3, 8)),
    ("Adversarial models", range(8, 15)),
    ("Autoregressive models", range(15, 17)),
    ("Comparison", range(17, 18)),
)
#: Sections of the README that get a page of their own; all others, new ones too, stand on the first page.
OWN_PAGES = {
    "Training outside a notebook, GPUs, many machines": "training.md",
    "Measured results": "results.md",
    "How to add a lecture": "contributing.md",
}
#: The scheme of a link to a module's source, which `hooks` turns into an address.
SOURCE = "source"

_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", flags=re.DOTALL | re.MULTILINE)
# [text](target): the text may hold code spans and one level of brackets; an image's exclamation mark stays outside.
_LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")


@dataclass
class Site:
    """Where the files of the repository are on the site.

    `places`: file of the repository → document of the site. `sections`: anchor of the README → document.
    `modules`: every module of the library. All paths are relative, with slashes.
    """

    places: dict[str, str]
    sections: dict[str, str] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()


# ----------------------------------------------------------------------------------------------------------- the groups


def number(name: str) -> int:
    """The number of a lecture, of its file's name: 3 of `03_vae`. ValueError for other names."""
    if not (found := re.match(r"(\d\d)_", name)):
        raise ValueError(f"{name!r} is no lecture: its name should begin with two digits and an underscore")
    return int(found[1])


def grouped(names: list[str]) -> list[tuple[str, list[str]]]:
    """The lectures in the groups of the sidebar, in order. ValueError for a lecture that no group takes."""
    groups = [
        (caption, [name for name in sorted(names) if number(name) in wanted]) for caption, wanted in GROUPS
    ]
    if left := sorted(set(names) - {name for _, members in groups for name in members}):
        raise ValueError(f"no group of the sidebar takes {', '.join(left)}: add it to GROUPS")
    return [(caption, members) for caption, members in groups if members]


# ----------------------------------------------------------------------------------------------------------- the README


def anchor(heading: str) -> str:
    """What a heading is called in a link, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def cut(readme: str, own_pages: Mapping[str, str] = OWN_PAGES) -> tuple[dict[str, str], dict[str, str]]:
    """The README as pages: (document → text, anchor → document). `index.md` holds all but the sections of `own_pages`.

    Raises ValueError if such a section is not there.
    """
    head, *sections = _sections(readme)
    pages, anchors = {"index.md": head}, {}
    for section in sections:
        heading = section.split("\n", 1)[0].removeprefix("## ").strip()
        page = own_pages.get(heading, "index.md")
        anchors[anchor(heading)] = page
        if page == "index.md":
            pages[page] += section
        else:
            pages[page] = section.removeprefix("#")
    if missing := sorted(set(own_pages.values()) - set(pages)):
        raise ValueError(
            f"the README has no section for {', '.join(missing)}; its sections: {', '.join(anchors)}"
        )
    return pages, anchors


def _sections(text: str) -> list[str]:
    """The text cut before each heading of the second level; a comment of a code block is no heading."""
    masked = _FENCE.sub(lambda fence: re.sub(r"[^\n]", "x", fence[0]), text)
    starts = [0, *(found.start() for found in re.finditer(r"^## ", masked, flags=re.MULTILINE)), len(text)]
    return [text[start:end] for start, end in pairwise(starts)]


def modules_of_lectures(readme: str) -> dict[str, list[str]]:
    """Lecture → the modules of its row in the README's table, as `course_lib.latent.vae`."""
    found = {}
    for row in re.findall(r"^\|.*\]\(notebooks/\d\d_.*$", readme, flags=re.MULTILINE):
        name = re.search(r"\]\(notebooks/(\d\d_\w+)\.ipynb\)", row)[1]
        found[name] = [module(target) for target in re.findall(r"\]\((course_lib/[^)]+)\)", row)]
    return found


def module(path: str) -> str:
    """`course_lib/latent/vae.py` → `course_lib.latent.vae`; a folder is the package."""
    return path.removesuffix("/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# ------------------------------------------------------------------------------------------------------------ the links


def relink(text: str, page: str, site: Site) -> str:
    """The Markdown `text` of the repository's file `page`, its relative links for the site.

    A page is linked as a page, a module as `source:course_lib.latent.vae`, and of a file that the site does not have
    the text stays, without a link. Code blocks and links to elsewhere stay as they are.
    """
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(lambda link: _relinked(link, page, site), text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(lambda link: _relinked(link, page, site), text[end:])])


def _relinked(link: re.Match, page: str, site: Site) -> str:
    target, _, fragment = link["target"].partition("#")
    if re.match(r"[a-z]+:", target):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(target))) if target else page
    if path == "README.md" and fragment in site.sections:
        place = site.sections[fragment]
    elif module(path) in site.modules:
        return f"[{link['text']}]({SOURCE}:{module(path)})"
    elif path in site.places:
        place = site.places[path]
    else:
        return link["text"]
    here = posixpath.dirname(site.places[page])
    return f"[{link['text']}]({_relative(place, here)}{'#' * bool(fragment)}{fragment})"


def _relative(path: str, start: str) -> str:
    return os.path.relpath(path, start or ".").replace(os.sep, "/")


# --------------------------------------------------------------------------------------------------------- the lectures


def exercise(notebook: NotebookNode, names: list[str]) -> str | None:
    """The graded exercise that the lecture names last, or None; `names` are the exercises that there are."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    named = [name for name in re.findall(r"`(ex\d\d_\w+)`", text) if name in names]
    return named[-1] if named else None


def panel(name: str, modules: list[str], assignment: str | None) -> str:
    """The line below a lecture's title: its code, its exercise, the notebook to take away (Markdown)."""
    code = ", ".join(f"[{each.removeprefix('course_lib.')}](/api/{each}.rst)" for each in modules)
    source = ", ".join(f"[{each.rpartition('.')[2]}.py]({SOURCE}:{each})" for each in modules)
    task = (
        f"[{assignment}](exercises/source/{assignment}/{assignment}.ipynb)"
        if assignment
        else "none of its own ([all](exercises/README.md))"
    )
    notebook = f"{{download}}`{name}.ipynb </downloads/{name}.ipynb>`"
    return (
        f"```{{container}} lecture-panel\n**Code:** {code} · **Source:** {source} · **Exercise:** {task} · "
        f"**Notebook:** {notebook}\n```"
    )


def as_page(notebook: NotebookNode, page: str, site: Site, below_title: str = "") -> NotebookNode:
    """The notebook for the site: links translated, and a text below the title's cell (changed in place, returned)."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(cell.source, page, site)
    if below_title:
        notebook.cells.insert(1, new_markdown_cell(below_title, id="below-the-title"))
    return notebook
