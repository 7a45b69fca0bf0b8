"""What Sphinx is asked to do otherwise: our docstrings, links to source, the languages of the glossary's columns."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

from course_lib.site.docstrings import as_restructured
from course_lib.site.pages import SOURCE

#: The heading of a column in its own language → the language of its cells.
LANGUAGES = {"עברית": "he", "русский": "ru", "فارسی": "fa", "中文": "zh"}
RIGHT_TO_LEFT = ("he", "fa")


def setup(app: Sphinx) -> dict:
    """Connect the functions below (Sphinx calls this)."""
    app.connect(
        "autodoc-process-docstring", translate_docstring, priority=400
    )  # before Napoleon, which has 500
    app.connect("autodoc-skip-member", skip_what_is_described_elsewhere)
    app.connect("doctree-read", mark_languages)
    app.connect("doctree-resolved", resolve_source_links)
    app.connect("html-page-context", mark_directions)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def translate_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Rewrite `lines` in place. All are ours: docstrings of other libraries are not inherited (`conf`)."""
    lines[:] = as_restructured("\n".join(lines)).split("\n")


def skip_what_is_described_elsewhere(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """A name that a module only passes on is described where it is defined; a named tuple's field in its docstring."""
    here = app.env.temp_data.get("autodoc:module")  # `current_document` since Sphinx 8.2
    defined = str(getattr(obj, "__module__", ""))
    elsewhere = what == "module" and defined.startswith("course_lib.") and defined != here
    return True if elsewhere or type(obj).__name__ == "_tuplegetter" else None


def mark_languages(app: Sphinx, doctree: nodes.document) -> None:
    """Cells below a heading of `LANGUAGES`, and the heading: docutils writes the class `language-he` as lang="he"."""
    for row in doctree.findall(nodes.row):
        headings = [entry.astext().strip() for entry in next(iter(_table(row).findall(nodes.row)))]
        for entry, heading in zip(row, headings, strict=True):
            if heading in LANGUAGES:
                entry["classes"].append(f"language-{LANGUAGES[heading]}")


def _table(node: nodes.Node) -> nodes.table:
    while not isinstance(node, nodes.table):
        node = node.parent
    return node


def resolve_source_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """`source:course_lib.latent.vae` → the page with that module's source, beside which viewcode writes them all."""
    for link in doctree.findall(nodes.reference):
        scheme, _, module = link.get("refuri", "").partition(":")
        if scheme == SOURCE:
            link["refuri"] = app.builder.get_relative_uri(docname, "_modules/" + module.replace(".", "/"))
            link["internal"] = True


def mark_directions(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """A cell in a language that is written from right to left says so: lang alone does not turn a browser round."""
    for language in RIGHT_TO_LEFT:
        mark = f'lang="{language}"'
        context["body"] = context.get("body", "").replace(mark, f'{mark} dir="rtl"')
