"""Documents for everybody: pictures in words, headings in order, links that say where they lead, colours that print.

Contrast and greys of the palette are tested in `tests/test_plotting.py`, the stored outputs' alt texts in
`test_pages.py`, the keyboard in `tests/browser`.
"""

import ast
import itertools
import re
import unicodedata

import nbformat
import pytest
from test_pages import FOLDER, PATHS, Images, code_cells, markdown, picture_alts, without_code

from course_lib import plotting

REPOSITORY = FOLDER.parent
ASSIGNMENTS = sorted((FOLDER / "exercises" / "source").glob("*/*.ipynb"))
DOCUMENTS = [
    *PATHS,
    *ASSIGNMENTS,
    *sorted(FOLDER.glob("*.md")),
    FOLDER / "exercises" / "README.md",
    REPOSITORY / "README.md",
    REPOSITORY / "data" / "README.md",
    *sorted((REPOSITORY / ".github").glob("*.md")),
]
LIBRARY = sorted((REPOSITORY / "course_lib").rglob("*.py"))
#: For quantities: their lightness rises from one end to the other, evenly as the eye sees it. And one for kinds.
COLOUR_MAPS = {"cividis", "viridis", "gray", "gray_r"} | {"tab20"}
EMPTY_WORDS = {"here", "click here", "this", "this link", "link", "there", "more", "read more", "see", "page"}
SHOWING = {"show", "show_pictures", "interact"}


def name_of(path):
    return path.relative_to(REPOSITORY).as_posix()


@pytest.fixture(scope="module", params=DOCUMENTS, ids=name_of)
def prose(request):
    """The Markdown of a document, without code and formulas: of a notebook all its cells, one below the other."""
    return "\n\n".join(map(without_code, parts(request.param)))


def parts(path):
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8")]
    return markdown(nbformat.read(path, as_version=4))


@pytest.fixture(scope="module", params=[*PATHS, *ASSIGNMENTS], ids=name_of)
def cells(request):
    """(syntax tree, outputs) of a notebook's code cells; lines for IPython alone are left out."""
    return [
        (ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE)), cell.outputs)
        for cell in code_cells(nbformat.read(request.param, as_version=4))
    ]


def calls(tree):
    """(the function's own name, the call) of every call in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield getattr(node.func, "id", None) or node.func.attr, node


def keyword(call, name):
    """The value of a keyword argument, or None."""
    return next((argument.value for argument in call.keywords if argument.arg == name), None)


# ---- pictures in words -----------------------------------------------------------------------------------------------


def test_pictures_of_the_prose_have_an_alt_text(prose):
    alts = re.findall(r"!\[([^\]]*)\]\(", prose) + [image.get("alt") or "" for image in Images(prose).found]
    assert not [alt for alt in alts if len(alt.split()) < 4]


def test_stored_pictures_are_shown_by_a_document():
    """A picture beside the lectures is shown with an alt text, or linked to with words."""
    files = {name_of(path) for path in (FOLDER / "figures").iterdir()}
    shown = re.findall(
        r"\[[^\]]+\]\((notebooks/figures/[^)\s]+)", (REPOSITORY / "README.md").read_text(encoding="utf-8")
    )
    assert files == set(shown)


def test_every_figure_is_shown_with_words(cells):
    """Also where no output is stored (the assignments) and for widgets, whose alt text goes on with their values."""
    for tree, _ in cells:
        for name, call in calls(tree):
            if name not in SHOWING or not (call.args or call.keywords):
                continue
            alt = keyword(call, "alt") or (call.args[1] if len(call.args) > 1 else None)
            assert alt is not None, f"no alt text: {ast.unparse(call)[:200]}"
            if isinstance(alt, ast.Constant):
                assert len(alt.value.split()) >= 4, alt.value


def words(tree):
    """Regular expressions for the texts in a cell: each string, and each f-string with anything in its gaps."""
    gaps = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [spaced(part.value) if isinstance(part, ast.Constant) else ".*" for part in node.values]
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in gaps:
            yield spaced(node.value.rstrip(".: ")) + r"[.:]?(?: \(.*\))?"


def spaced(text):
    return r"\s+".join(re.escape(word) for word in re.split(r"\s+", text))


def test_stored_alt_texts_are_those_of_the_code(cells):
    """A text that is mended in one of the two only is still wrong in the page, or wrong again after the next run."""
    for tree, outputs in cells:
        said = list(words(tree))
        for alt in itertools.chain.from_iterable(map(picture_alts, outputs)):
            assert any(re.fullmatch(form, alt) for form in said), f"not in the cell that shows it: {alt!r}"


def test_no_two_pictures_of_a_page_have_the_same_words(cells):
    alts = [set(picture_alts(output)) for _, outputs in cells for output in outputs]
    alts = list(itertools.chain.from_iterable(alts))
    assert not {alt for alt in alts if alts.count(alt) > 1}


# ---- headings, links, tables, languages ------------------------------------------------------------------------------


def test_headings_go_down_one_level_at_a_time(prose):
    levels = [len(marks) for marks in re.findall(r"^(#+) +\S", prose, flags=re.MULTILINE)]
    assert levels[0] == 1
    assert levels.count(1) == 1, "one title"
    assert not [pair for pair in itertools.pairwise(levels) if pair[1] > pair[0] + 1]


def empty_links(text):
    """Texts of links that do not say where they lead. (Code and formulas are taken out before: no text is no fault.)"""
    found = re.findall(r"(?<!!)\[([^\]]*)\]\([^)]*\)", text) + re.findall(r"<a [^>]*>(.*?)</a>", text)
    return [words for words in found if words.strip("*_ .").lower() in EMPTY_WORDS]


def test_links_say_where_they_lead(prose):
    assert empty_links(prose) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_tables_have_headings(path):
    for text in parts(path):  # with formulas, which may be all that a heading consists of
        for header in re.findall(r"^(\|.*\|) *\n\|[ :|-]+\| *$", text, flags=re.MULTILINE):
            assert re.sub(r"[|\s]", "", header), "a table without headings"
        for table in re.findall(r"<table.*?</table>", text, flags=re.DOTALL):
            assert "<th" in table


def test_tables_of_the_outputs_have_headings(cells):
    tables = [
        table
        for _, outputs in cells
        for output in outputs
        for table in re.findall(
            r"<table.*?</table>", output.get("data", {}).get("text/html", ""), flags=re.DOTALL
        )
    ]
    assert all("<th" in table for table in tables)


def unmarked(text):
    """Letters of other scripts than ours (Greek stands in formulas) outside elements that name their language."""
    text = re.sub(r"<(\w+)[^>]*\blang=.*?</\1>", "", text, flags=re.DOTALL)
    scripts = ("HEBREW", "ARABIC", "CYRILLIC", "CJK")
    return [letter for letter in text if unicodedata.name(letter, "").startswith(scripts)]


def test_other_scripts_name_their_language(prose):
    """For a screen reader. The glossary's columns get theirs when the site is built: Markdown has no place for it."""
    if not prose.startswith("# Glossary"):
        assert unmarked(prose) == []


# ---- colours ---------------------------------------------------------------------------------------------------------


def colour_maps(tree):
    """The names of matplotlib's colour maps in a syntax tree: cmap=…, colormaps[…], get_cmap(…), cm.…"""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("colormaps"):
            yield ast.unparse(node.slice).strip("'")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == "cm":
            yield node.attr
    for name, call in calls(tree):
        named = [keyword(call, "cmap"), *(call.args[:1] if name in ("get_cmap", "set_cmap") else [])]
        yield from (node.value for node in named if isinstance(node, ast.Constant))


def test_colour_maps_are_even_in_lectures_and_assignments(cells):
    assert {name for tree, _ in cells for name in colour_maps(tree)} <= COLOUR_MAPS


def test_colour_maps_are_even_in_the_library():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in LIBRARY]
    assert {name for tree in trees for name in colour_maps(tree)} <= COLOUR_MAPS
    assert plotting.COLOUR_MAP in COLOUR_MAPS


def test_coloured_text_on_pictures_has_a_rim(cells):
    """Whatever is below it, one of the two can be read."""
    for tree, _ in cells:
        for name, call in calls(tree):
            if name in ("text", "annotate") and keyword(call, "color"):
                assert keyword(call, "path_effects"), ast.unparse(call)


# ---- the checks above can fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see [here](a.md) and [**this**](b.md)", ["here", "**this**"]),
        ('<a href="a.md">Click here</a>', ["Click here"]),
        ("![here](picture.png), [the errata](errata.md)", []),
    ],
)
def test_empty_links_are_found(text, found):
    assert empty_links(text) == found


def test_unmarked_letters_are_found():
    assert unmarked("θ and é, מודל, <span lang='ru'>слово</span>") == list("מודל")


def test_colour_maps_are_found():
    code = (
        "ax.imshow(x, cmap='jet'); mpl.colormaps['turbo'](0); plt.cm.hsv(1); plt.get_cmap('rainbow'); a.cmap"
    )
    assert set(colour_maps(ast.parse(code))) == {"jet", "turbo", "hsv", "rainbow"}


@pytest.mark.parametrize(
    ("alt", "fits"),
    [
        ("Two lines, of which one rises", True),
        ("Two lines, of which one rises (step = 3)", True),
        ("Start: random, 3 classes", True),
        ("Two lines", False),
        ("A line that rises", False),
    ],
)
def test_alt_texts_are_compared_with_the_code(alt, fits):
    code = 'show(f, alt="Two lines, "\n  "of which one rises.")\nfor s in x: show(g, alt=f"Start: {s}, {n} classes")'
    assert any(re.fullmatch(form, alt) for form in words(ast.parse(code))) is fits
