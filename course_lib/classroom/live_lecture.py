"""The live cells of a lecture: their comment outline, what they have to define, and where the lecture uses it."""

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import nbformat

from course_lib.classroom.flow import Flow, flow, needed, read_later

LIVE = "live"  # the tag
MENTIONS = 3  # cells that mention a function and are run, if need be, to see it called
_DIRECTIVE = re.compile(r"#\s*(noqa|fmt|type|ruff|pragma)\b")  # comments for tools


class LiveError(ValueError):
    """A lecture or a cell that is not there, or that cannot be taught live; the message says what to do."""


class Task(NamedTuple):
    """A live cell: the lecture's code, what is to agree, and the later cells that call its functions."""

    source: str
    names: tuple[str, ...]  # to define, in the order of the code
    changed: tuple[str, ...]  # read here and later, perhaps changed here
    later: tuple[str, ...]  # sources


class LiveCell(NamedTuple):
    """One cell to type: `number` counts from 1, `id` is the cell's in the lecture and in its live copy."""

    number: int
    id: str
    source: str
    task: Task


def tagged(cell: nbformat.NotebookNode) -> bool:
    """Whether the lecturer types this cell."""
    return cell.cell_type == "code" and LIVE in cell.metadata.get("tags", [])


def read_lecture(path: Path) -> nbformat.NotebookNode:
    """The lecture. Raises LiveError if it is not there or has no cell to type."""
    if not path.is_file():
        raise LiveError(f"there is no lecture {path}; its code is read from there")
    notebook = nbformat.read(path, as_version=4)
    if not any(map(tagged, notebook.cells)):
        raise LiveError(f"{path} has no cell with the tag {LIVE!r}")
    return notebook


def live_cells(notebook: nbformat.NotebookNode) -> list[LiveCell]:
    """The cells to type, in their order."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    flows = [flow(cell.source) for cell in code]
    places = [index for index, cell in enumerate(code) if tagged(cell)]
    return [
        LiveCell(number, code[index].id, code[index].source, _task(index, [c.source for c in code], flows))
        for number, index in enumerate(places, 1)
    ]


def _task(index: int, sources: list[str], flows: list[Flow]) -> Task:
    source, later = sources[index], flows[index + 1 :]
    body = ast.parse(source).body
    imported = {
        name for node in body if isinstance(node, ast.Import | ast.ImportFrom) for name in _writes(node)
    }
    written = sorted(flows[index].writes - imported - _loops(body), key=lambda name: _place(name, source))
    shown = _functions(body) | _printed(body)
    names = [name for name in written if name in shown or read_later(name, later)]
    names = names or [name for name in written if name in _asserted(body)]
    changed = [name for name in sorted(flows[index].reads - flows[index].writes) if read_later(name, later)]
    users = {place for name in _functions(body) & set(names) for place in _users(name, index, sources, flows)}
    run = sorted({i for place in users for i in needed(place, flows, index + 1)})
    return Task(source, tuple(names), tuple(changed), tuple(sources[i] for i in run))


def _writes(node: ast.stmt) -> frozenset[str]:
    return flow(ast.unparse(node)).writes


def _place(name: str, source: str) -> int:
    found = re.search(rf"\b{re.escape(name)}\b", source)
    return found.start() if found else len(source)


def _loops(body: list[ast.stmt]) -> set[str]:
    """The variables of the cell's loops."""
    loops = [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.For)]
    return {name for loop in loops for name in _mentioned(loop.target)}


def _printed(body: list[ast.stmt]) -> set[str]:
    """The names in the cell's prints, and those that a loop with a print runs over."""
    found = set[str]()
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            found |= _mentioned(node)
        elif isinstance(node, ast.For) and _printed(node.body):
            found |= _mentioned(node.iter)
    return found


def _asserted(body: list[ast.stmt]) -> set[str]:
    """The names in the cell's assertions."""
    asserts = [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Assert)]
    return {name for node in asserts for name in _mentioned(node)}


def _mentioned(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def _functions(body: list[ast.stmt]) -> set[str]:
    """The functions that a cell defines, lambdas with a name among them."""
    lambdas = [node for node in body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)]
    named = {name for node in lambdas for name in _writes(node)}
    return named | {node.name for node in body if isinstance(node, ast.FunctionDef)}


def _users(name: str, index: int, sources: list[str], flows: list[Flow]) -> list[int]:
    """The first later cells that mention a function, or a function of a cell that mentions it."""
    known, found = {name}, []
    for place in range(index + 1, len(sources)):
        if flows[place].reads & known:
            found.append(place)
            known |= _functions(ast.parse(sources[place]).body)
        if name in flows[place].writes or len(found) == MENTIONS:
            break
    return found


# ------------------------------------------------------------------------------------------------------------- the text


def outline(source: str) -> str:
    """The comments of a cell, each at its line's indentation, with signatures and docstrings as comments; no code."""
    lines: list[str] = []
    notes = _notes(source)
    for number, line in enumerate(source.split("\n"), 1):
        if number in notes:
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}# {notes[number]}")
        elif not line.strip() and lines and lines[-1]:
            lines.append("")
    return "\n".join(lines).rstrip("\n")


def _notes(source: str) -> dict[int, str]:
    """Line number → what the outline says of this line."""
    notes = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not _DIRECTIVE.match(token.string):
            notes[token.start[0]] = token.string.lstrip("# ")
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            notes |= {
                i: lines[i - 1].strip()
                for i in range(first, max(node.body[0].lineno, first + 1))
                if lines[i - 1].strip() and not lines[i - 1].lstrip().startswith("#")
            }
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                notes |= {
                    i: lines[i - 1].strip().strip('"')
                    for i in range(text.lineno, text.end_lineno + 1)
                    if lines[i - 1].strip().strip('"')
                }
    return notes


def header(cell: LiveCell, count: int) -> str:
    """The first line of a cell in a live copy."""
    names = f", to define: {', '.join(cell.task.names)}" if cell.task.names else ""
    return f"# live {cell.number} of {count}{names}"


_HEADER = re.compile(r"^# live (\d+) of \d+\b", re.MULTILINE)


def number_in(text: str) -> int | None:
    """The number that the first line of a live cell gives, if it is still there."""
    found = _HEADER.search(text)
    return int(found[1]) if found else None


def code_only(source: str) -> str:
    """The code without comments, docstrings and empty lines. The text itself if it is no Python."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
        tree = ast.parse(source)
    except (SyntaxError, tokenize.TokenError):
        return source
    lines = source.split("\n")
    for token in tokens:
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            for row in range(node.body[0].lineno, node.body[0].end_lineno + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())
