"""The glossary and the errata: every row complete, in the right scripts, and true of the lectures that it names."""

import itertools
import re
import unicodedata

import nbformat
import pytest
from test_pages import FOLDER, PATHS, dead_links, markdown

GLOSSARY, ERRATA = FOLDER / "glossary.md", FOLDER / "errata.md"
LANGUAGES = {"עברית": "HEBREW", "русский": "CYRILLIC", "فارسی": "ARABIC", "中文": "CJK"}
GLOSSARY_HEADER = ["English", *LANGUAGES, "meaning", "lecture"]
ERRATA_HEADER = ["#", "source", "what it says", "what is right", "where the course shows it"]
SOURCES = r"(Hebrew 7|Russian|Persian Q\d|Chinese|[A-Z].+ \d{4}, section)"
LECTURE_LINK = r"\[(\d\d)\]\(([\w.]+)\)"


def table(path):
    """Header and rows of the one table of a Markdown file, as lists of cells; an escaped \\| belongs to its cell."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    header, rule, *rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in lines
    ]
    assert all(re.fullmatch(r":?-+:?", cell) for cell in rule), "the line below the header"
    return header, rows


def lectures(cell):
    """(number, file) of every lecture that a cell links to."""
    return re.findall(LECTURE_LINK, cell)


def lecture_text(path):
    """What a lecture says between its code cells, without the targets of its links."""
    return re.sub(r"\]\((?!errata)[^)]*\)", "]", "\n".join(markdown(nbformat.read(path, as_version=4))))


HEADER, ROWS = table(GLOSSARY)
ERRATA_HEADER_FOUND, ERRATA_ROWS = table(ERRATA)
LECTURE_TEXTS = {path.name[:2]: lecture_text(path) for path in PATHS}


# ---- terms -----------------------------------------------------------------------------------------------------------


def terms(english):
    """The terms of an English cell, each with its names: "encoder (net, map); decoder" → two terms, of 3 and 1 names.

    Commas and semicolons separate terms; parentheses hold other names, which may also stand inside the first one.
    """
    outside = re.split(r"[;,] (?![^(]*\))", english)
    return [
        [
            re.sub(r"\s*\([^)]*\)\s*", " ", term).strip(),
            term.replace("(", "").replace(")", ""),
            *itertools.chain.from_iterable(inside.split(", ") for inside in re.findall(r"\(([^)]*)\)", term)),
        ]
        for term in outside
    ]


def mentions(text, name):
    """Whether a text contains a name: in any case, in singular or plural, with any hyphens or none."""
    words = [re.escape(word) + r"(?:s|es)?" for word in re.split(r"[\s\-–‐]+", name)]
    return bool(re.search(r"(?<!\w)" + r"[\s\-–‐]*".join(words) + r"(?!\w)", text, flags=re.IGNORECASE))


def foreign(text, own):
    """The letters of a text that belong to one of the glossary's scripts, but not to its own."""
    others = [script for script in LANGUAGES.values() if script != own]
    return [letter for letter in text if any(script in unicodedata.name(letter, "") for script in others)]


def test_the_header_names_the_languages():
    assert HEADER == GLOSSARY_HEADER


def test_there_are_enough_terms():
    assert len(ROWS) >= 60


def test_terms_are_complete():
    for row in ROWS:
        assert len(row) == len(GLOSSARY_HEADER), row
        assert all(row), f"an empty cell: {row}"
        assert len(row[5].split()) >= 4, f"a definition, not a synonym: {row}"
        assert len(row[5]) <= 125, f"in one line: {row}"


def test_each_language_is_written_in_its_script():
    for row in ROWS:
        for cell, script in zip(row[1:5], LANGUAGES.values(), strict=True):
            assert any(script in unicodedata.name(letter, "") for letter in cell), f"{cell}: nothing {script}"
            assert not foreign(cell, script), cell
        assert not foreign(row[0] + row[5], "LATIN"), row


def test_right_to_left_text_is_stored_in_the_order_of_reading():
    """Text copied from a display is stored backwards: words then begin with a final letter, or controls are left."""
    text = GLOSSARY.read_text(encoding="utf-8")
    assert not re.findall(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]", text), (
        "control characters of direction"
    )
    assert not re.findall(r"\b[םןץףך]\w*", text), "Hebrew words that begin with a final letter"
    assert not re.findall(r"[يكة]", text), "Arabic letters where Persian has its own (ی, ک, ه)"


def test_no_term_stands_twice():
    names = [names[0].lower() for row in ROWS for names in terms(row[0])]
    assert not {name for name in names if names.count(name) > 1}
    for column in range(1, 6):
        cells = [row[column].casefold() for row in ROWS]
        assert not {cell for cell in cells if cells.count(cell) > 1}


def test_terms_follow_the_lectures():
    first = [lectures(row[6])[0][0] for row in ROWS]
    assert first == sorted(first)
    assert set(first) == set(LECTURE_TEXTS), "every lecture introduces a term"


def test_the_lectures_use_their_terms():
    missing = []
    for row in ROWS:
        assert re.fullmatch(rf"{LECTURE_LINK}(; {LECTURE_LINK})*", row[6]), row
        assert dead_links([row[6]]) == []
        for number, file in lectures(row[6]):
            assert file.startswith(f"{number}_"), row
            said = [any(mentions(LECTURE_TEXTS[number], name) for name in names) for names in terms(row[0])]
            missing += [] if all(said) else [f"{row[0]}: not in lecture {number}"]
    assert not missing


# ---- errata ----------------------------------------------------------------------------------------------------------


def errata_numbers(text):
    """The numbers in "errata 3", "[errata](errata.md) 1–4, 17 and 20", "[errata 8](errata.md)", as a set."""
    found = set()
    link = r"(?:\]\(errata\.md\))?"
    for listed in re.findall(rf"\berrata{link} ((?:\d+|[–,]| and | )+)", text, flags=re.IGNORECASE):
        for first, last in re.findall(r"(\d+)(?:–(\d+))?", listed):
            found.update(range(int(first), int(last or first) + 1))
    return found


MENTIONED = {number: errata_numbers(text) for number, text in LECTURE_TEXTS.items()}


def test_errata_are_numbered_without_gaps():
    assert ERRATA_HEADER_FOUND == ERRATA_HEADER
    assert [row[0] for row in ERRATA_ROWS] == [str(number) for number in range(1, len(ERRATA_ROWS) + 1)]
    assert len(ERRATA_ROWS) >= 16


@pytest.mark.parametrize("row", ERRATA_ROWS, ids=lambda row: row[0])
def test_erratum_is_complete(row):
    assert len(row) == len(ERRATA_HEADER)
    assert all(row), "no empty cell"
    assert re.match(SOURCES, row[1]), f"which source is {row[1]!r}?"
    assert row[2] != row[3]
    assert len(row[3].split()) >= 5


@pytest.mark.parametrize("row", ERRATA_ROWS, ids=lambda row: row[0])
def test_erratum_says_where_it_is_shown(row):
    shown = lectures(row[4])
    assert shown, "no lecture"
    assert dead_links([row[4]]) == []
    for number, file in shown:
        assert file.startswith(f"{number}_")
        assert int(row[0]) in MENTIONED[number], f"lecture {number} does not mention errata {row[0]}"
    for path in re.findall(r"`([^`]+)`", row[4]):
        beside = FOLDER.parent / path
        assert beside.is_file() or list((FOLDER.parent / "tests").rglob(path)), f"no file {path}"


@pytest.mark.parametrize("number", LECTURE_TEXTS)
def test_lectures_mention_errata_that_exist(number):
    assert MENTIONED[number] <= set(range(1, len(ERRATA_ROWS) + 1))


# ---- the checks above can fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("english", "names"),
    [
        ("generator", [["generator", "generator"]]),
        ("rate; distortion", [["rate", "rate"], ["distortion", "distortion"]]),
        ("skewing (skew)", [["skewing", "skewing skew", "skew"]]),
        ("mean (EMA, running mean)", [["mean", "mean EMA, running mean", "EMA", "running mean"]]),
        (
            "saturating (minimax) loss, MMGAN",
            [["saturating loss", "saturating minimax loss", "minimax"], ["MMGAN"] * 2],
        ),
    ],
)
def test_terms_are_taken_apart(english, names):
    assert terms(english) == names


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        (
            "Two **mini-batches** a step",
            "minibatch",
            False,
        ),  # a hyphen may be missing in the text, not in the term
        ("Two **minibatches** a step", "mini-batch", True),
        ("bits per dimension", "bit per dimension", True),
        ("The push-\nforward of z", "push-forward", True),
        ("regenerators", "generator", False),
        ("KULLBACK–LEIBLER divergence", "Kullback-Leibler divergence", True),
        ("critical", "critic", False),
    ],
)
def test_mentions(text, name, found):
    assert mentions(text, name) is found


def test_foreign_letters_are_found():
    assert foreign("нат бит", "CYRILLIC") == []
    assert foreign("шум σ, x и 熵", "CYRILLIC") == ["熵"]
    assert foreign("mode נ", "LATIN") == ["נ"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("([errata 8](errata.md)), lecture 02", {8}),
        ("the sources: [errata](errata.md) 1–4, 17 and 20. Terms", {1, 2, 3, 4, 17, 20}),
        ("see the [errata](errata.md). 5 of them", set()),
        ("(the product rule; errata 7)", {7}),
    ],
)
def test_errata_numbers(text, numbers):
    assert errata_numbers(text) == numbers
