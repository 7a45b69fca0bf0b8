"""Sphinx' source folder, written from the texts, notebooks and modules of the repository."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions

from course_lib.classroom.release import assignments, check_release
from course_lib.site import pages
from course_lib.site.pages import Site

REPOSITORY = Path(__file__).resolve().parents[2]
#: Texts of the repository → documents of the site; the README is cut into several, the notebooks keep their names.
TEXTS = {
    "notebooks/errata.md": "notebooks/errata.md",
    "notebooks/glossary.md": "notebooks/glossary.md",
    "notebooks/exercises/README.md": "notebooks/exercises/README.md",
    "data/README.md": "data/README.md",
    ".github/CONTRIBUTING.md": "rules.md",
    ".github/SECURITY.md": "security.md",
}
#: Texts that are one wide table, and need no list of contents beside it.
TABLES = ("notebooks/errata.md", "notebooks/glossary.md")
_INDEX, _EXERCISES = "index.md", "notebooks/exercises/README.md"
_FIGURES = "notebooks/figures"


def write(target: Path, repository: Path = REPOSITORY) -> None:
    """Write the whole source tree into the empty folder `target`.

    Raises ValueError where the README, the lectures and the modules do not fit together; ReleaseError if an exercise
    would show its solution.
    """
    readme = (repository / "README.md").read_text(encoding="utf-8")
    lectures = {path.stem: path for path in sorted((repository / "notebooks").glob("*.ipynb"))}
    exercises = assignments(repository / "notebooks/exercises/source")
    modules = public_modules(repository)
    parts, sections = pages.cut(readme)
    with_source = frozenset(name for name, path in modules.items() if has_source_page(path))
    site = Site(
        _places(repository, [*lectures.values(), *exercises.values()], modules), sections, with_source
    )

    _write_readme(target, parts, lectures, site)
    _write_texts(target, repository, exercises, site)
    _write_lectures(target, lectures, list(exercises), pages.modules_of_lectures(readme), site)
    _write_exercises(target, repository, exercises, site)
    _write_reference(target, modules, with_source)
    shutil.copytree(repository / _FIGURES, target / _FIGURES)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _places(repository: Path, notebooks: list[Path], modules: dict[str, Path]) -> dict[str, str]:
    """File of the repository → document or figure of the site."""
    kept = [
        path.relative_to(repository).as_posix() for path in [*notebooks, *(repository / _FIGURES).iterdir()]
    ]
    reference = {name.replace(".", "/"): f"api/{name}.rst" for name in modules}  # the folders of packages
    reference |= {
        path.relative_to(repository).as_posix(): f"api/{name}.rst" for name, path in modules.items()
    }
    # A link to the folder of the assignments leads to the page that lists them.
    extra = {"LICENSE": "licence.md", "notebooks/exercises/source": _EXERCISES, "README.md": _INDEX}
    return {**{path: path for path in kept}, **reference, **TEXTS, **extra}


# ------------------------------------------------------------------------------------------------------------ the texts


def _write_readme(target: Path, parts: dict[str, str], lectures: dict[str, Path], site: Site) -> None:
    for name, text in parts.items():
        page = pages.relink(text, "README.md", site)
        _write(target / name, page + _sidebar(list(lectures)) if name == _INDEX else page)


def _write_texts(target: Path, repository: Path, exercises: dict[str, Path], site: Site) -> None:
    for path, place in TEXTS.items():
        text = pages.relink((repository / path).read_text(encoding="utf-8"), path, site)
        if path in TABLES:
            text = f"---\nhtml_theme.sidebar_secondary.remove: true\n---\n{text}"
        if place == _EXERCISES:
            text += "\n## The assignments\n" + _toctree(
                [f"source/{name}/{name}" for name in exercises], hidden=False
            )
        _write(target / place, text)
    licence = (repository / "LICENSE").read_text(encoding="utf-8")
    _write(target / "licence.md", f"# Licence\n\n```text\n{licence}```\n")


def _sidebar(lectures: list[str]) -> str:
    groups = pages.grouped(lectures)
    lists = [_toctree([f"notebooks/{name}" for name in names], caption) for caption, names in groups]
    course = [_EXERCISES, "notebooks/errata", "notebooks/glossary"]
    library = [
        "api/index",
        "training",
        "results",
        "data/README",
        "contributing",
        "rules",
        "security",
        "licence",
    ]
    return "".join([*lists, _toctree(course, "Beside the lectures"), _toctree(library, "The library")])


def _toctree(entries: list[str], caption: str = "", *, hidden: bool = True) -> str:
    options = [
        ":maxdepth: 1",
        *([":hidden:"] if hidden else []),
        *([f":caption: {caption}"] if caption else []),
    ]
    return "\n".join(["", "```{toctree}", *options, "", *entries, "```", ""])


# -------------------------------------------------------------------------------------------------------- the notebooks


def _write_lectures(
    target: Path, lectures: dict[str, Path], exercises: list[str], modules: dict[str, list[str]], site: Site
) -> None:
    if missing := sorted(set(lectures) - set(modules)):
        raise ValueError(f"the README's table of lectures has no row for {', '.join(missing)}")
    (target / "downloads").mkdir()
    for name, path in lectures.items():
        notebook = nbformat.read(path, as_version=4)
        panel = pages.panel(name, modules[name], pages.exercise(notebook, exercises))
        page = f"notebooks/{path.name}"
        _write(target / page, nbformat.writes(pages.as_page(notebook, page, site, panel)))
        shutil.copy(path, target / "downloads" / path.name)


def _write_exercises(target: Path, repository: Path, exercises: dict[str, Path], site: Site) -> None:
    for path in exercises.values():
        page = path.relative_to(repository).as_posix()
        _write(target / page, nbformat.writes(pages.as_page(without_solutions(path), page, site)))


def without_solutions(path: Path) -> NotebookNode:
    """An assignment as students see it, by nbgrader's own preprocessors. Raises ReleaseError if it shows too much."""
    source = nbformat.read(path, as_version=4)
    shown = nbformat.read(path, as_version=4)
    for preprocessor in (ClearSolutions(), ClearHiddenTests()):
        shown, _ = preprocessor.preprocess(shown, {})
    check_release(source, shown)
    return shown


# -------------------------------------------------------------------------------------------------------- the reference


def public_modules(repository: Path = REPOSITORY) -> dict[str, Path]:
    """Name → file of every module of the library but what only a command runs, packages before what they hold."""
    files = (
        path for path in (repository / "course_lib").rglob("*.py") if path.stem not in ("__main__", "conf")
    )
    return dict(sorted((pages.module(path.relative_to(repository).as_posix()), path) for path in files))


def has_source_page(path: Path) -> bool:
    """Whether viewcode writes a page of the module's source: if it defines something public with a docstring."""
    definitions = [node for node in _body(path) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return any(not node.name.startswith("_") and ast.get_docstring(node) for node in definitions)


def passed_on(path: Path) -> list[str]:
    """What a module offers (`__all__`) and imports from another module of the library: its full names, sorted."""
    body = _body(path)
    lists = [node.value for node in body if isinstance(node, ast.Assign) and _is_all(node.targets)]
    offered = {name for each in lists for name in ast.literal_eval(each)}
    imports = [
        node
        for node in body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib")
    ]
    return sorted(
        f"{node.module}.{each.name}" for node in imports for each in node.names if each.name in offered
    )


def _body(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def _is_all(targets: list[ast.expr]) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def _write_reference(target: Path, modules: dict[str, Path], with_source: frozenset[str]) -> None:
    for name, path in modules.items():
        _write(target / "api" / f"{name}.rst", module_page(name, passed_on(path), source=name in with_source))
    _write(target / "api" / "index.rst", reference_page(list(modules)))


def module_page(name: str, elsewhere: list[str], *, source: bool = True) -> str:
    """The page of a module (reStructuredText): what it defines, and names that it offers from other modules."""
    title = name.removeprefix("course_lib.")
    text = f"{title}\n{'=' * len(title)}\n\n" + f"`Source <source:{name}>`__\n\n" * source
    text += f".. automodule:: {name}\n   :members:\n   :show-inheritance:\n"
    if elsewhere:
        text += f"\nAlso in ``{title}``: " + ", ".join(f"`{full}`" for full in elsewhere) + ".\n"
    return text


def reference_page(modules: list[str]) -> str:
    """The list of all modules with the first sentence of each, a section for each package."""
    packages = {name: [each for each in modules if each.rpartition(".")[0] == name] for name in modules}
    text = "Reference of the library\n========================\n"
    for package in filter(packages.get, packages):
        own = [package, *(each for each in packages[package] if not packages[each])]
        text += f"\n{package}\n{'-' * len(package)}\n\n.. autosummary::\n\n"
        text += "".join(f"   {each}\n" if each == package else f"   ~{each}\n" for each in own)
        text += "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {each}\n" for each in own)
    return text
