"""The site before Sphinx: which pages there are, where their links lead, what their text becomes.

What a browser shows is in `tests/browser/test_site.py`.
"""

import re
from pathlib import Path

import nbformat
import pytest
from docutils import nodes
from docutils.core import publish_doctree, publish_parts

from course_lib.classroom.release import ReleaseError, assignments
from course_lib.site import hooks, pages, tree
from course_lib.site.docstrings import as_restructured
from course_lib.site.pages import Site

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LECTURES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
EXERCISES = sorted(assignments())

SITE = Site(
    places={
        "README.md": "index.md",
        "LICENSE": "licence.md",
        ".github/SECURITY.md": "security.md",
        "notebooks/03_vae.ipynb": "notebooks/03_vae.ipynb",
        "notebooks/errata.md": "notebooks/errata.md",
        "notebooks/figures/vae.png": "notebooks/figures/vae.png",
    },
    sections={"measured-results": "results.md", "licence": "index.md"},
    modules=frozenset({"course_lib.data", "course_lib.latent.vae"}),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The source tree of the whole course."""
    target = tmp_path_factory.mktemp("site")
    tree.write(target)
    return target


# ---------------------------------------------------------------------------------------------------------- the sidebar


def test_the_groups_hold_every_lecture_once_and_in_order():
    groups = pages.grouped(LECTURES[::-1])
    assert [name for _, names in groups for name in names] == LECTURES
    assert [caption for caption, _ in groups] == [caption for caption, _ in pages.GROUPS]


def test_a_lecture_without_a_group_is_reported():
    with pytest.raises(ValueError, match="18_flows"):
        pages.grouped(["00_start_here", "18_flows"])
    with pytest.raises(ValueError, match="'errata' is no lecture"):
        pages.grouped(["errata"])


# ----------------------------------------------------------------------------------------------------------- the README


def test_the_readme_is_cut_without_loss():
    texts, anchors = pages.cut(README)
    assert set(texts) == {"index.md", *pages.OWN_PAGES.values()}
    for text in texts.values():
        assert text.startswith("# ")
    lines = sorted(
        line for text in texts.values() for line in re.sub(r"\A# ", "## ", text).split("\n") if line
    )
    assert lines == sorted(line for line in re.sub(r"\A# ", "## ", README).split("\n") if line)
    assert anchors["measured-results"] == "results.md"
    assert anchors["the-lectures"] == "index.md"


def test_a_new_section_stays_on_the_first_page_and_code_is_no_heading():
    readme = "# T\nhead\n## A\na\n```sh\n## no heading\n```\n## B\nb\n"
    texts, anchors = pages.cut(readme, {"B": "b.md"})
    assert texts == {"index.md": "# T\nhead\n## A\na\n```sh\n## no heading\n```\n", "b.md": "# B\nb\n"}
    assert anchors == {"a": "index.md", "b": "b.md"}
    with pytest.raises(ValueError, match=r"no section for c\.md"):
        pages.cut(readme, {"C": "c.md"})


def test_the_table_of_lectures_names_the_modules_of_each():
    modules = pages.modules_of_lectures(README)
    assert sorted(modules) == LECTURES
    assert modules["00_start_here"] == ["course_lib.data"]
    assert modules["13_stylegan"] == ["course_lib.adversarial.stylegan", "course_lib.adversarial.modulation"]
    assert {name for names in modules.values() for name in names} <= set(tree.public_modules())


# ------------------------------------------------------------------------------------------------------------ the links


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("notebooks/03_vae.ipynb", "[e](errata.md#e1)", "[e](errata.md#e1)"),
        ("notebooks/03_vae.ipynb", "[c](../course_lib/latent/vae.py#L3)", "[c](source:course_lib.latent.vae)"),
        ("notebooks/03_vae.ipynb", "[`a[0]`](../course_lib/data)", "[`a[0]`](source:course_lib.data)"),
        ("notebooks/03_vae.ipynb", "[r](../README.md#measured-results)", "[r](../results.md#measured-results)"),
        ("notebooks/03_vae.ipynb", "[r](../README.md)", "[r](../index.md)"),
        ("notebooks/03_vae.ipynb", "see [t](../tests/theory/test_kl.py).", "see t."),
        ("notebooks/03_vae.ipynb", "[w](https://arxiv.org/abs/1)", "[w](https://arxiv.org/abs/1)"),
        ("notebooks/03_vae.ipynb", "[h](#part)", "[h](03_vae.ipynb#part)"),
        ("README.md", "```\n[e](LICENSE)\n```\n[e](LICENSE)", "```\n[e](LICENSE)\n```\n[e](licence.md)"),
        (".github/SECURITY.md", "[x](../notebooks/errata.md)", "[x](notebooks/errata.md)"),
        ("README.md", "![p](notebooks/figures/vae.png)", "![p](notebooks/figures/vae.png)"),
        ("README.md", "[m](#measured-results)", "[m](results.md#measured-results)"),
        ("README.md", "[l](#licence), [d](course_lib/data)", "[l](index.md#licence), [d](source:course_lib.data)"),
    ],
)  # fmt: skip
def test_links_lead_to_the_site(page, text, expected):
    assert pages.relink(text, page, SITE) == expected


def test_every_relative_link_of_the_tree_leads_to_a_file_of_it(written):
    checked = 0
    for path in [*written.rglob("*.md"), *(written / "notebooks").rglob("*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = nbformat.reads(text, as_version=4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for target in re.findall(r"(?<=\]\()[^()\s#]+", re.sub(r"`[^`\n]+`|\$[^$]+\$", "", text)):
            if re.match("[a-z]+:", target):
                assert target.split(":")[0] in ("https", "mailto", "source"), (path.name, target)
                continue
            place = written / target.lstrip("/") if target.startswith("/") else path.parent / target
            assert place.exists(), (path.name, target)
            checked += 1
    assert checked > 200


# ---------------------------------------------------------------------------------------------- lectures and exercises


def test_every_lecture_leads_to_its_code_exercise_and_notebook(written):
    modules = pages.modules_of_lectures(README)
    graded = {}
    for name in LECTURES:
        original = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        shown = nbformat.read(written / "notebooks" / f"{name}.ipynb", as_version=4)
        assert len(shown.cells) == len(original.cells) + 1
        assert [cell.get("outputs") for cell in shown.cells if cell.cell_type == "code"] == [
            cell.get("outputs") for cell in original.cells if cell.cell_type == "code"
        ]
        panel = shown.cells[1].source
        for module in modules[name]:
            assert f"(/api/{module}.rst)" in panel
            assert f"(source:{module})" in panel
        assert f"</downloads/{name}.ipynb>" in panel
        assert (written / "downloads" / f"{name}.ipynb").read_bytes() == (
            ROOT / "notebooks" / f"{name}.ipynb"
        ).read_bytes()
        graded[name] = re.search(r"exercises/(?:source/(\w+)/|README)", panel)[1]
    assert set(graded.values()) == {None, *EXERCISES}
    assert [name for name, exercise in graded.items() if exercise is None] == ["17_comparison"]
    assert graded["03_vae"] == "ex02_vae"
    assert graded["14_wasserstein_gan"] == "ex06_gan_practice"


@pytest.mark.parametrize("name", EXERCISES)
def test_exercises_are_shown_without_their_solutions(written, name):
    text = (written / f"notebooks/exercises/source/{name}/{name}.ipynb").read_text(encoding="utf-8")
    assert "YOUR CODE HERE" in text
    assert "YOUR ANSWER HERE" in text
    assert "SOLUTION" not in text
    assert "HIDDEN TESTS" not in text


def test_an_exercise_that_would_show_too_much_stops_the_site(tmp_path):
    source = next(iter(assignments().values()))
    damaged = tmp_path / source.name
    text = source.read_text(encoding="utf-8")
    assert "### BEGIN SOLUTION" in text
    damaged.write_text(text.replace("### BEGIN SOLUTION", "### BEGIN SOLUTON", 1), encoding="utf-8")
    with pytest.raises(ReleaseError, match="BEGIN SOLUTON"):
        tree.without_solutions(damaged)


# -------------------------------------------------------------------------------------------------------- the reference


def test_modules_are_all_but_what_only_a_command_runs():
    modules = tree.public_modules()
    assert {"course_lib", "course_lib.latent", "course_lib.latent.vae", "course_lib.site.pages"} <= set(
        modules
    )
    assert not [name for name in modules if name.endswith(("__main__", "__init__", "conf"))]


def test_a_module_names_what_it_passes_on(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from math import pi\nfrom course_lib.a import B, C\n__all__ = ['B', 'own', 'pi']\n", encoding="utf-8"
    )
    assert tree.passed_on(path) == ["course_lib.a.B"]
    assert "Also in ``a``: `course_lib.b.C`." in tree.module_page("course_lib.a", ["course_lib.b.C"])


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("q(z|x), E*, codes_ and \\ell.", r"q(z\|x), E\*, codes\_ and \\ell." "\n"),
        ("A `name.of_it`, `f(x|y)` and ``a_``.", "A `name.of_it`, ``f(x|y)`` and ``a_``.\n"),
        ("the `k`th and −`x`", "the `k`\\ th and −\\ `x`\n"),
        ("Idea:\n\n    z = μ + σ*ε,\n\n    x_\n\nwhere", "Idea:\n\n::\n\n    z = μ + σ*ε,\n\n    x_\n\nwhere\n"),
        ("Does.\n\nArgs:\n    x: a*b.\n\n    More.\n", "Does.\n\nArgs:\n    x: a\\*b.\n\n    More.\n"),
        ("Text\n- one\n- two", "Text\n\n- one\n\n- two\n"),
        ("* one\n* two", "- one\n\n- two\n"),
        ("Does.\nRaises: ValueError", "Does.\n\n**Raises:** ValueError\n"),
        ("k: samples,\n    at least 1.\nbeta: weight", "\n**k:** samples,\nat least 1.\n\n**beta:** weight\n"),
        ("see arXiv:1312.6114.", "see `arXiv:1312.6114 <https://arxiv.org/abs/1312.6114>`__.\n"),
    ],
)  # fmt: skip
def test_docstrings_become_restructured_text(docstring, expected):
    text = as_restructured(docstring)
    assert text == expected
    settings = {"report_level": 1, "halt_level": 2, "default_role": "literal"}
    publish_doctree(
        text.replace("`name.of_it`", "x").replace("`k`", "k").replace("`x`", "x"), settings_overrides=settings
    )


# ------------------------------------------------------------------------------------------------------------ languages


def test_columns_are_marked_with_their_language_and_direction():
    table = "===== ===== =====\nword  עברית русский\n===== ===== =====\na     אב    б\n===== ===== =====\n"
    document = publish_doctree(table)
    hooks.mark_languages(None, document)
    marked = {entry.astext(): entry["classes"] for entry in document.findall(nodes.entry)}
    assert marked == {
        "word": [], "עברית": ["language-he"], "русский": ["language-ru"],
        "a": [], "אב": ["language-he"], "б": ["language-ru"],
    }  # fmt: skip
    context = {"body": publish_parts(table, writer="html5")["body"]}
    hooks.mark_directions(None, "glossary", "page.html", context, document)
    assert 'dir="rtl"' not in context["body"], "no language, no direction"
    context = {"body": '<td lang="he">א</td><td lang="ru">б</td><td lang="fa">ب</td>'}
    hooks.mark_directions(None, "glossary", "page.html", context, document)
    assert context["body"] == (
        '<td lang="he" dir="rtl">א</td><td lang="ru">б</td><td lang="fa" dir="rtl">ب</td>'
    )


def test_the_glossary_has_the_columns_that_are_marked():
    header = next(
        line
        for line in (ROOT / "notebooks/glossary.md").read_text(encoding="utf-8").split("\n")
        if "|" in line
    )
    assert set(hooks.LANGUAGES) <= {cell.strip() for cell in header.split("|")}
