"""Live copies: what they hold, that a changed one is kept, and the magics through a real kernel.

The lectures themselves: each live cell has an outline and something to check; two are typed in and checked up to their
third live cell. `python -m course_lib.classroom.live --try` does that for all of them, to the end.
"""

import re

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.classroom import live
from course_lib.classroom.flow import flow, needed, read_later
from course_lib.classroom.live_lecture import live_cells, outline, read_lecture

LECTURES = sorted(live.LECTURES.glob("*.ipynb"))
ROOT = live.LECTURES.parent

TEXT = """\
# 98 A tiny lecture
[next](99_next.ipynb), [another](97_none.ipynb#part), [source](../course_lib/a.py#L3), [errata](<errata.md>),
[web](https://arxiv.org), [here](#part), ![picture](figures/a.png "title"), `[code](b.md)`

<a href="errata.md">errata</a>, [by reference][x]

[x]: glossary.md
"""
IMPORTS = """\
import torch
from torch import nn

generator = torch.Generator().manual_seed(0)"""
NOISY = '''\
def noisy(x, factor):
    """x (N,) → (N,)."""
    # factor · x + ε
    noise = torch.randn(x.shape, generator=generator)  # ε ~ N(0, I)
    return factor * x + noise'''
CALL = "y = noisy(torch.arange(3.0), 2.0)\nassert y.shape == (3,)"
STRAIGHT = """\
soft = torch.tensor([0.2, 0.8], requires_grad=True)
hard = soft.round() + (soft - soft.detach())  # forward 0 or 1, backward as if it were soft"""
USE = "slope = torch.autograd.grad(hard.sum(), soft)[0]"
MODEL = (
    "torch.manual_seed(1)\nmodel = nn.Linear(2, 1)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)"
)
TRAIN = """\
for _ in range(3):  # three steps
    loss = (model(torch.randn(8, 2)) - 1).square().mean()  # least squares
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()"""
LAST = "weights = model.weight.detach()"


def cell(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def tiny():
    """A lecture with three cells to type: a function, values with gradients, a training."""
    cells = [new_markdown_cell(TEXT), cell(IMPORTS), cell(NOISY, "live"), cell(CALL)]
    cells += [
        cell(STRAIGHT, "live", "nbval-check-output"),
        cell(USE),
        cell(MODEL),
        cell(TRAIN, "live"),
        cell(LAST),
    ]
    notebook = new_notebook(cells=cells)
    for name, each in zip("abcdefghi", notebook.cells, strict=True):
        each.id = name
    return notebook


@pytest.fixture
def course(tmp_path):
    """A folder with two lectures and the files that they link to."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("98_tiny.ipynb", "99_next.ipynb"):
        nbformat.write(tiny(), folder / name)
    return folder


# ---- the names of cells ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reads", "writes"),
    [
        ("x = y + 1", "y", "x"),
        ("x = 1\nz = x", "", "x z"),
        ("x += 1", "x", "x"),
        ("for i in a:\n    b = i + c", "a c", "i b"),
        ("with f() as g:\n    h = g", "f", "g h"),
        ("def f(a):\n    return a + b", "b", "f"),
        ("v = [i * k for i in n]", "k n", "v"),
        ("v = {i: [j for j in i] for i in n}", "n", "v"),
        ("v = f({i for i in n})", "f n", "v"),
        ("import torch.nn as nn, os.path", "", "nn os"),
        ("if a:\n    b = 1\nc = b", "a", "b c"),
        ("a[0] = b\nc.d = e", "a b c e", ""),
    ],
)
def test_flow_of_a_cell(source, reads, writes):
    assert flow(source) == (set(reads.split()), set(writes.split()))


def test_flow_between_cells():
    cells = [flow(source) for source in ("a = 1", "b = a", "a = 2", "c = 0", "d = a + c")]
    assert read_later("a", cells[1:])
    assert not read_later("a", cells[2:])  # written anew before it is read
    assert not read_later("b", cells[2:])
    assert needed(4, cells, 0) == [2, 3, 4]  # the first `a` is not the one that is read
    assert needed(4, cells, 3) == [3, 4]  # what was there before need not run
    assert needed(1, cells, 0) == [0, 1]


# ---- the copies ------------------------------------------------------------------------------------------------------


def test_outline_keeps_comments_where_they_stood():
    assert outline(NOISY).split("\n") == [
        "# def noisy(x, factor):",
        "    # x (N,) → (N,).",
        "    # factor · x + ε",
        "    # ε ~ N(0, I)",
    ]
    assert outline("a = '# no comment'  # noqa: E731\n\n\nb = 1  # two\n") == "# two"
    assert (
        outline("@torch.no_grad()\ndef f(x):  # (N,)\n    return x")
        == "# @torch.no_grad()\n# def f(x):  # (N,)"
    )


def test_a_copy_holds_outlines_and_checks_and_nothing_that_was_computed(course):
    path = course / "98_tiny.ipynb"
    lecture = nbformat.read(path, as_version=4)
    lecture.cells[3].outputs = [nbformat.v4.new_output("stream", text="old")]
    nbformat.write(lecture, path)
    assert live.build([path], course / "live") == []
    copy = nbformat.read(course / "live" / "98_tiny.ipynb", as_version=4)
    nbformat.validate(copy)
    assert [c.id for c in copy.cells] == [
        *(
            "a",
            "live-magics",
            "b",
            "c",
            "live-check-1",
            "d",
            "e",
            "live-check-2",
            "f",
            "g",
            "h",
            "live-check-3",
            "i",
        )
    ]
    assert copy.cells[1].source.endswith("%load_ext course_lib.classroom.live\n%live ../98_tiny.ipynb")
    assert copy.cells[3].source == f"# live 1 of 3, to define: noisy\n{outline(NOISY)}"
    assert copy.cells[4].source == "%check 1"
    assert copy.cells[6].source.startswith("# live 2 of 3, to define: soft, hard\n# forward 0 or 1")
    assert copy.cells[5].source == CALL
    assert not any(c.get("outputs") or c.get("execution_count") for c in copy.cells)
    assert not any(
        live_code in c.source for c in copy.cells for live_code in ("torch.randn", "detach())", "range(3)")
    )


def test_links_lead_back_but_to_copies(course):
    def links(*names):
        live.build([course / name for name in names], course / "live", force=True)
        return nbformat.read(course / "live" / "98_tiny.ipynb", as_version=4).cells[0].source

    alone = links("98_tiny.ipynb")
    assert "[next](../99_next.ipynb)" in alone  # there is no copy of it
    assert "[another](../97_none.ipynb#part)" in alone
    assert "[source](../../course_lib/a.py#L3)" in alone
    assert "[errata](<../errata.md>)" in alone
    assert "[web](https://arxiv.org), [here](#part)" in alone
    assert '![picture](../figures/a.png "title"), `[code](b.md)`' in alone
    assert '<a href="../errata.md">' in alone
    assert "\n[x]: ../glossary.md" in alone
    assert "[next](99_next.ipynb)" in links("98_tiny.ipynb", "99_next.ipynb")


def test_a_copy_that_was_typed_in_is_kept_unless_forced(course):
    paths, folder = [course / "98_tiny.ipynb", course / "99_next.ipynb"], course / "live"
    assert live.build(paths, folder) == []
    typed, other = folder / "98_tiny.ipynb", folder / "99_next.ipynb"
    made = typed.read_bytes()
    typed.write_text("typed", encoding="utf-8")
    other.unlink()
    assert live.build(paths, folder) == ["98_tiny.ipynb"]
    assert typed.read_text(encoding="utf-8") == "typed"
    assert other.is_file()
    assert live.build(paths, folder, force=True) == []
    assert typed.read_bytes() == made
    lecture = nbformat.read(paths[0], as_version=4)
    lecture.cells[3].source += "\n# new"
    nbformat.write(lecture, paths[0])
    assert live.build(paths, folder) == []  # nobody changed the copy: it follows the lecture
    assert b"# new" in typed.read_bytes()


def test_lectures_that_cannot_be_copied_are_named_and_nothing_is_written(course, capsys):
    nbformat.write(new_notebook(cells=[cell("x = 1")]), course / "96_nothing.ipynb")
    good = str(course / "98_tiny.ipynb")
    for bad, said in (
        ("96_nothing.ipynb", "no cell with the tag 'live'"),
        ("95_gone.ipynb", "there is no lecture"),
    ):
        assert live.main([good, str(course / bad), "--output", str(course / "live")]) == 1
        message = capsys.readouterr().err
        assert said in message
        assert bad in message
        assert not (course / "live").exists()


# ---- through a kernel ------------------------------------------------------------------------------------------------


class Notebook:
    """A kernel that takes cells as JupyterLab sends them."""

    def __init__(self, client):
        self.client = client
        self.html = None  # of the last rich output

    def run(self, source, cell_id=None):
        """Returns the text that is shown and the text that takes the place of the cell's, if any."""
        content = {
            "code": source,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
        }
        message = self.client.session.msg(
            "execute_request", content, metadata={"cellId": cell_id} if cell_id else {}
        )
        self.client.shell_channel.send(message)
        shown = []
        while (output := self._next(self.client.get_iopub_msg, message))["content"] != {
            "execution_state": "idle"
        }:
            shown.append(self._text(output["msg_type"], output["content"]))
        reply = self._next(self.client.get_shell_msg, message)["content"]
        payload = [
            piece["text"]
            for piece in reply.get("payload", [])
            if piece["source"] == "set_next_input" and piece["replace"]
        ]
        return "".join(shown), (payload or [None])[0]

    def _next(self, receive, request):
        """The next message that answers the request."""
        while (message := receive(timeout=120))["parent_header"].get("msg_id") != request["header"]["msg_id"]:
            continue
        return message

    def _text(self, kind, content):
        """What a message shows."""
        if kind == "error":
            return "ERROR " + re.sub(r"\x1b\[[\d;]*m", "", "\n".join(content["traceback"]))
        self.html = content.get("data", {}).get("text/html", self.html)
        return content.get("text", "") or content.get("data", {}).get("text/plain", "")

    def says(self, source, cell_id=None):
        return self.run(source, cell_id)[0]


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all tests of this file: it takes seconds to import PyTorch."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    yield Notebook(client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def notebook(kernel, course):
    """The kernel as after the first two cells of the tiny lecture's copy; nothing typed yet."""
    said = kernel.says(f"%reset -f\n%reload_ext course_lib.classroom.live\n%live {course / '98_tiny.ipynb'}")
    assert not said, said
    assert not kernel.says(IMPORTS)
    return kernel


def test_typed_right_in_another_way(notebook):
    assert "nothing was typed yet; it should define noisy" in notebook.says("%check 1")
    notebook.run(f"# live 1 of 3\n{outline(NOISY)}", "c")
    assert "ERROR live 1: nothing was typed yet" in notebook.says("%check 1")
    typed = "def noisy(values, factor):\n    return torch.randn(len(values), generator=generator).add(values * factor)"
    notebook.run(typed, "c")
    assert notebook.says("%check 1") == "✓ live 1: right (noisy)\n"
    # The check drew nothing from the notebook's own generator and left none of the lecture's names.
    assert (
        notebook.says("generator.get_state().equal(torch.Generator().manual_seed(0).get_state())") == "True"
    )
    assert "NameError" in notebook.says("y")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            NOISY.replace("factor * x", "x"),
            "the result of noisy differs by up to 2; its largest value should be",
        ),
        (NOISY.replace("return ", "return 0 * "), "result of noisy differs"),
        (
            NOISY.replace("+ noise", "+ noise[:1]").replace("x.shape", "x.shape, dtype=torch.float64"),
            "differs by up to",
        ),
        (
            NOISY.replace("factor * x + noise", "(factor * x + noise).sum()"),
            "has the shape (); it should be (3,)",
        ),
        (NOISY.replace("factor * x", "factor * z"), "noisy raises NameError: name 'z' is not defined"),
        (NOISY.replace("x, factor", "x"), "noisy raises TypeError"),
        (NOISY.replace("noisy", "loud"), "noisy is not defined"),
        ("noisy = 3", "noisy raises TypeError"),
        ("def noisy(:\n", "what was typed is no Python"),
    ],
)
def test_typed_wrong_function(notebook, typed, said):
    notebook.run(typed, "c")
    message = notebook.says("%check 1")
    assert message.startswith("ERROR live 1: ")
    assert said in message


def test_random_numbers_in_another_order_are_hinted_at(notebook):
    notebook.run(NOISY.replace("    noise", "    torch.randn(1, generator=generator)\n    noise"), "c")
    assert "drawn in another order" in notebook.says("%check 1")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (STRAIGHT, "✓ live 2: right (soft, hard)"),
        (
            STRAIGHT.replace(" + (soft - soft.detach())", ""),
            "the gradient of hard for soft differs by up to 1",
        ),
        (
            STRAIGHT.replace(" + (soft - soft.detach())", ".detach()"),
            "the gradient of hard for soft differs by up to 1",
        ),
        (STRAIGHT.replace("0.2", "0.3"), "soft differs by up to 0.1"),
        (STRAIGHT.replace("[0.2, 0.8]", "[0.2, 0.8, 0.9]"), "soft has the shape (3,); it should be (2,)"),
        ("soft = hard = 'text'", "soft is 'text'; it should be a Tensor of the shape (2,)"),
    ],
)
def test_typed_values_and_their_gradients(notebook, typed, said):
    notebook.run(typed, "e")
    assert said in notebook.says("%check 2")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            TRAIN.replace(
                "(model(torch.randn(8, 2)) - 1).square().mean()",
                "((model(torch.randn(8, 2)) - 1) ** 2).mean()",
            ),
            "✓",
        ),
        (TRAIN.replace("range(3)", "range(2)"), "model['weight'] differs by up to"),
        (TRAIN.replace("    optimizer.zero_grad()\n", ""), "model['weight'] differs by up to"),
    ],
)
def test_a_trained_model_is_compared_though_no_name_is_new(notebook, typed, said):
    notebook.run(MODEL)
    notebook.run(typed, "h")
    randomness = "hash(torch.get_rng_state().numpy().tobytes())"
    state = notebook.says(randomness)
    assert said in notebook.says("%check 3")
    assert notebook.says(randomness) == state
    assert said in notebook.says("%check 3")  # it left the model as it was, too
    # Mended and run once more, from the state that the wrong one left: the lecture's code starts there, too.
    notebook.run(TRAIN, "h")
    assert "✓ live 3: right" in notebook.says("%check 3")


def test_reveal_takes_the_cells_place(notebook):
    shown, text = notebook.run("%reveal", "c")
    assert (shown, text) == ("", NOISY)
    assert (
        notebook.run("# live 2 of 3, to define: hard\nsoft = 1\n%reveal")[1] == STRAIGHT
    )  # no cell id: by its first line
    assert notebook.run("%reveal 3", "c")[1] == TRAIN
    notebook.run(text, "c")
    assert "✓ live 1" in notebook.says("%check 1")
    notebook.run(STRAIGHT)  # no cell id, no first line: by the lecture's own text
    assert "✓ live 2" in notebook.says("%check 2")


def test_reveal_diff_shows_what_differs(notebook):
    wrong = NOISY.replace("factor * x", "x * x").replace("# factor · x + ε", "# mine")
    assert "nothing to compare yet" in notebook.says("%reveal --diff", "c")
    notebook.run(wrong, "c")
    shown, text = notebook.run("%reveal --diff", "c")
    assert text is None
    assert shown.split("\n") == [
        "− typed   + the lecture",
        " def noisy(x, factor):",
        "     noise = torch.randn(x.shape, generator=generator)",
        "−    return x * x + noise",
        "+    return factor * x + noise",
    ]
    assert '">−    return x * x + noise</span>' in notebook.html
    assert notebook.says(f"%reveal --diff\n{NOISY}", "c").startswith(
        "No difference"
    )  # what stands below, not what ran
    assert "x * x" in notebook.says("%reveal 1 --diff", "x") or "No difference" in notebook.says(
        "%reveal 1 --diff", "x"
    )


def test_a_state_that_is_gone_is_said(notebook):
    notebook.run(NOISY, "c")
    notebook.run(STRAIGHT, "e")
    assert "another live cell ran since" in notebook.says("%check 1")
    assert "✓ live 2" in notebook.says("%check 2")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("%check 7", "no live cell '7': their numbers are 1 to 3"),
        ("%check three", "no live cell 'three'"),
        ("%reveal 0", "no live cell '0'"),
        ("%reveal", "which live cell?"),
        ("%live nowhere/01_gone.ipynb", "there is no lecture nowhere/01_gone.ipynb"),
    ],
)
def test_unknown_cells_and_lectures(notebook, source, said):
    assert said in notebook.says(source, "another cell")


def test_a_copy_runs_from_top_to_bottom_with_the_lectures_code(course):
    assert live.try_out(course / "98_tiny.ipynb") == (3, [])


def test_a_trial_finds_a_check_that_sees_nothing(course):
    lecture = tiny()
    lecture.cells[3].source = "y = 0"  # nobody calls noisy
    nbformat.write(lecture, course / "98_tiny.ipynb")
    count, problems = live.try_out(course / "98_tiny.ipynb", first=1)
    assert count == 1
    assert len(problems) == 1
    assert "live 1: not compared, no call of it was seen: noisy" in problems[0]


# ---- the lectures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_lectures_have_outlines_to_follow_and_something_to_check(path):
    cells = live_cells(read_lecture(path))
    assert 3 <= len(cells) <= 8
    for each in cells:
        lines = [line for line in each.source.split("\n") if line.strip()]
        text = outline(each.source)
        assert compile(text, each.id, "exec").co_names == (), "only comments"
        said = [
            line for line in text.split("\n") if "# " in line.replace("# def ", "").replace("# class ", "")
        ]
        assert len(lines) <= 12
        assert 3 * len(said) >= len(lines), (
            f"{each.id}: {len(said)} comments for {len(lines)} lines:\n{each.source}"
        )
        assert each.task.names or each.task.changed, each.id


def test_links_of_all_copies_lead_somewhere(tmp_path):
    folder = live.LECTURES / "live"
    names = {path.name for path in LECTURES}
    for path in LECTURES:
        for each in live.live_copy(path, folder, names).cells:
            if each.cell_type == "markdown":
                for match in live._TARGET.finditer(each.source):
                    target = (match["target"] or "#").split("#")[0]
                    if target and "://" not in target and target not in names:
                        assert target.startswith("../"), target
                        assert (folder / target).resolve().exists(), target


@pytest.mark.parametrize("name", ["06_discrete_vae", "08_gan_theory"])
def test_lectures_typed_in_pass_their_checks(name):
    assert live.try_out(live.LECTURES / f"{name}.ipynb", first=3) == (3, [])
