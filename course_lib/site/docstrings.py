"""Docstrings of the house as reStructuredText, which reads more marks into a text than ours have.

Ours are prose with `code`, indented formulas and commands, lists, and sections (`Args:`). Sphinx would take z|x for a
substitution, E_ for a target and an indented formula for a quotation, so that the text is spelt out for it: before
Napoleon, which knows the sections, sees it.
"""

from __future__ import annotations

import re

_SPAN = re.compile(r"(``.+?``|`[^`]+`)", flags=re.DOTALL)
_NAME = re.compile(r"`[A-Za-z_][\w.]*`")
_SECTION = re.compile(r"^ *(Args|Returns|Raises|Attributes|Yields|Examples?):$", flags=re.MULTILINE)
_LABEL = re.compile(r"^( *)(Args|Returns|Raises|Attributes): (?=\S)", flags=re.MULTILINE)
_FIELD = re.compile(
    r"^( *)([a-z_]\w*(?:, [a-z_]\w*)*|Args|Returns|Raises|Attributes): (?=\S)", flags=re.MULTILINE
)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})")


def as_restructured(docstring: str) -> str:
    """The docstring, which has no indentation of its own, in reStructuredText.

    A `name` stays one (Sphinx links what it knows), other code is kept literally, what is indented after an empty line
    too; stars, bars, backslashes and underscores at a word's end mean themselves; an arXiv number is a link.
    """
    out, margin, literal = (
        [],
        0,
        None,
    )  # margin: of the last paragraph; literal: of a block that is kept as it is
    for block in re.split(r"\n(?: *\n)+", docstring.strip("\n")):
        indent = len(block) - len(block.lstrip(" "))
        if literal is None and indent > margin:
            out.append(" " * margin + "::")
            literal = indent
        if literal is not None and indent >= literal:
            out.append(block)
            continue
        literal = None
        margin = (
            indent if not _SECTION.search(block) else indent + 4
        )  # a section's second paragraph is no formula
        out.append(_prose(block))
    return "\n\n".join(out) + "\n"


def _prose(block: str) -> str:
    """A paragraph, a list or a section. Code spans are kept apart; a list and a `Raises: …` begin a paragraph.

    So does each `name: …` of a block that begins with one; what hangs below it is not indented then.
    """
    pieces = _SPAN.split(re.sub(r"^( *)\* ", r"\1- ", block, flags=re.MULTILINE))
    for i, piece in enumerate(pieces):
        pieces[i] = _code(piece, pieces[i - 1], pieces[i + 1]) if i % 2 else _escaped(piece)
    text, label = "".join(pieces), _LABEL
    if not _SECTION.search(block) and (first := _FIELD.match(text)):
        text, label = re.sub(r"\n +", "\n" + first[1], text), _FIELD
    text = label.sub(r"\n\1**\2:** ", text)
    return re.sub(r"\n(?= *- )", "\n\n", text)


def _code(span: str, before: str, after: str) -> str:
    """A name to be looked up, or literal text; set off from a word that touches it."""
    span = span if _NAME.fullmatch(span) else f"``{span.strip('`')}``"
    left = "" if not before or before[-1] in " \n(" else r"\ "
    right = "" if not after or after[0] in " \n.,;:!?)" else r"\ "
    return left + span + right


def _escaped(text: str) -> str:
    text = re.sub(r"(?<=\w)_(?!\w)", r"\_", re.sub(r"([\\*|])", r"\\\1", text))
    return _ARXIV.sub(r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", text)
