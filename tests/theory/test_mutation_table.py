"""The table of `tests/mutations.py` stays valid: its texts stand in the sources, its tests exist."""

import ast
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / "tests" / "mutations.py"))
MUTATIONS = SCRIPT["MUTATIONS"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_text_is_found_exactly_once_and_every_test_exists(mutation, tmp_path):
    copy = tmp_path / mutation.file
    copy.parent.mkdir(parents=True)
    original = (ROOT / mutation.file).read_text(encoding="utf-8")
    copy.write_text(original, encoding="utf-8")
    SCRIPT["mutate"](mutation, tmp_path)
    mutant = copy.read_text(encoding="utf-8")
    assert mutant != original
    compile(mutant, mutation.file, "exec")  # a syntax error would be no mutation
    file, *names = mutation.test.partition("[")[0].split("::")
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for name in names:  # of a class, then of its method, or of a function
        found = [node for node in body if getattr(node, "name", None) == name]
        assert len(found) == 1, f"{name} in {file}: {len(found)}"
        body = found[0].body


def test_names_are_unique():
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)


def test_a_text_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "model.py").write_text("a = 1\na = 1\n", encoding="utf-8")
    for text, found in (("b = 1", 0), ("a = 1", 2)):
        mutation = SCRIPT["Mutation"]("broken", "model.py", ((text, ""),), "tests/test.py::test")
        with pytest.raises(ValueError, match=f"found {found} times"):
            SCRIPT["mutate"](mutation, tmp_path)
