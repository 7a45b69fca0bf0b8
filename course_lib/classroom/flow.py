"""Which names a notebook's cells read and write: enough to say what a later cell needs of an earlier one.

Read from the text, nothing is run. The names are those of the notebook (the module's level): what is local to a
function or a comprehension does not count, what a function reads of the notebook does. A loop is read once, from its
top to its bottom. Of an `if`, both branches count as taken.
"""

import ast
import symtable
from collections.abc import Sequence
from typing import NamedTuple


class Flow(NamedTuple):
    """`reads`: names that must exist before the cell runs.  `writes`: names that it (re)defines, imports included."""

    reads: frozenset[str]
    writes: frozenset[str]


def flow(source: str) -> Flow:
    """The names that a cell reads and writes. Raises SyntaxError if it is no Python."""
    reads, writes = _sequence(ast.parse(source).body)
    return Flow(frozenset(reads), frozenset(writes))


def _sequence(statements: Sequence[ast.stmt]) -> tuple[set[str], set[str]]:
    """What these statements read before they write it, and what they write."""
    reads, writes = set[str](), set[str]()
    for statement in statements:
        new_reads, new_writes = _statement(statement)
        reads |= new_reads - writes
        writes |= new_writes
    return reads, writes


def _statement(statement: ast.stmt) -> tuple[set[str], set[str]]:
    if isinstance(statement, ast.For):
        reads, targets = _names(ast.Expr(statement.iter))[0], _names(statement.target)[1]
        body_reads, writes = _sequence([*statement.body, *statement.orelse])
        return reads | (body_reads - targets), writes | targets
    if isinstance(statement, ast.With):
        reads, targets = _names(ast.With(statement.items, [ast.Pass()]))
        body_reads, writes = _sequence(statement.body)
        return reads | (body_reads - targets), writes | targets
    return _names(statement)


class _OwnScopes(ast.NodeTransformer):
    """Makes comprehensions generator expressions: since Python 3.12 only these have a scope of their own in a table."""

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)


def _names(node: ast.AST) -> tuple[set[str], set[str]]:
    """The names that a piece of code reads anywhere, and those that it writes at the notebook's level."""
    text = ast.unparse(ast.fix_missing_locations(_OwnScopes().visit(node)))
    if isinstance(node, ast.expr):  # the target of a loop
        text += " = None"
    table = symtable.symtable(text, "cell", "exec")
    symbols = table.get_symbols()
    writes = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    reads = {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        reads.add(node.target.id)
    return reads | _reads_inside(table), writes


def _reads_inside(table: symtable.SymbolTable) -> set[str]:
    """The notebook's names that the functions, classes and comprehensions of a table read."""
    found = set[str]()
    for child in table.get_children():
        found |= {
            symbol.get_name()
            for symbol in child.get_symbols()
            if symbol.is_global() and symbol.is_referenced()
        }
        found |= _reads_inside(child)
    return found


def read_later(name: str, later: Sequence[Flow]) -> bool:
    """Whether one of the later cells reads the name before any of them writes it anew."""
    for cell in later:
        if name in cell.reads:
            return True
        if name in cell.writes:
            return False
    return False


def needed(index: int, cells: Sequence[Flow], first: int) -> list[int]:
    """The cells from `first` on that must run for cell `index` to run, itself included, in their order.

    A name comes from its latest writer before the reader. What a cell changes without writing its name (a model that it
    trains) does not count.
    """
    found, waiting = {index}, [index]
    while waiting:
        reader = waiting.pop()
        for name in cells[reader].reads:
            writer = next((i for i in range(reader - 1, first - 1, -1) if name in cells[i].writes), None)
            if writer is not None and writer not in found:
                found.add(writer)
                waiting.append(writer)
    return sorted(found)
