"""The student's side of the wire with honest submissions: cells, captured output, calls and errors.

The process's own limits and hostile submissions are in test_attacks.py.
"""

from __future__ import annotations

import io
import sys
import threading

import pytest
import torch

from course_lib.classroom import student, wire


@pytest.fixture(scope="module")
def shell():
    """One IPython shell for all tests here: a process has only one."""
    before = sys.displayhook, sys.excepthook, sys.modules["__main__"]
    yield student.Student(output_bytes=1_000)
    sys.displayhook, sys.excepthook, sys.modules["__main__"] = before


@pytest.fixture
def ask(shell, monkeypatch):
    """ask(op, target, *args, **kwargs): a request as the judge sends it, and the decoded answer or the error."""
    assert threading.current_thread() is threading.main_thread()  # it moves a signal handler

    def request(op: str, target: str | int | None = None, *args: object, **kwargs: object):
        encoder = wire.Encoder(
            lambda thing: thing if type(thing) is dict and "t" in thing else None, modules=True
        )
        header = {"id": "7", "op": op, "args": encoder(args), "kwargs": encoder(kwargs)}
        if target is not None:
            header["target"] = {"t": "handle" if isinstance(target, int) else "name", "v": target}
        if op == "cell":
            header["text"] = encoder(student.as_array(args[0].encode()))
        body = student.answer(shell, header, [memoryview(b) for b in encoder.blobs], limit=100_000)
        told, blobs = wire.unpack(body[wire.PREFIX :])
        assert told["id"] == "7"
        return (told["error"][0], told["message"]) if "error" in told else wire.Decoder(blobs)(told["value"])

    import signal

    before = signal.getsignal(signal.SIGINT)
    yield request
    signal.signal(signal.SIGINT, before)


def text(told: dict) -> str:
    return told["text"].tobytes().decode()


def test_cells_share_a_namespace_and_their_output_is_kept(ask):
    assert text(ask("cell", None, "a = 20\nprint('printed')\na + 1")) == "printed\nOut[1]: 21\n"
    told = ask("cell", None, "import sys\nprint(a, file=sys.stderr)")
    assert (text(told), told["error"], told["images"]) == ("20\n", None, [])


def test_magics_and_top_level_await(ask):
    assert "1 loop" in text(ask("cell", None, "%timeit -n1 -r1 pass"))
    assert text(ask("cell", None, "import asyncio\nawait asyncio.sleep(0)\nprint('awaited')")) == "awaited\n"
    assert "one" in text(ask("cell", None, "!echo one"))


@pytest.mark.parametrize(
    ("cell", "error"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("def f(:", "SyntaxError"), ("undefined", "NameError"),
     ("raise SystemExit(3)", "SystemExit: 3"), ("raise NotImplementedError", "NotImplementedError")],
)  # fmt: skip
def test_errors_of_cells_are_told_without_escape_sequences(ask, cell, error):
    told = ask("cell", None, cell)
    assert told["error"].tobytes().decode().startswith(error)
    assert error.split(":")[0] in text(told)
    assert "\x1b" not in text(told)


def test_long_output_is_cut(ask):
    assert text(ask("cell", None, "print('ä' * 5_000)")) == "ä" * 1_000
    assert sys.stdout.write("") == 0  # the process's own stream is back


def test_figures_and_displayed_pictures_are_kept(ask):
    told = ask(
        "cell",
        None,
        "import matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    )
    assert [image.tobytes()[:4] for image in told["images"]] == [b"\x89PNG"]
    assert ask("cell", None, "1")["images"] == []  # it was closed
    show = "from course_lib import plotting\nfig, ax = plt.subplots()\nplotting.show(fig, alt='a line')"
    told = ask("cell", None, show)
    assert [image.tobytes()[:4] for image in told["images"]] == [b"\x89PNG"]
    assert "a line" in text(told)


def test_calls(ask):
    ask(
        "cell",
        None,
        "import torch\ndef f(x, *, y=1):\n    print('not kept')\n    return {'sum': x + y, 'pair': (1, None)}",
    )
    told = ask("call", "f", torch.ones(2), y=3)
    assert told["sum"].tolist() == [4.0, 4.0]
    assert told["pair"] == (1, None)
    assert ask("value", "f")[0] == "WireError"
    assert ask("call", "g", 1) == ("Missing", "g")
    assert ask("call", "f")[0] == "TypeError"
    ask("cell", None, "def g(f, rng):\n    return f(torch.rand(2, generator=rng))['sum']")
    generator = torch.Generator().manual_seed(9)
    expected = torch.rand(2, generator=torch.Generator().manual_seed(9)) + 1
    assert torch.equal(ask("call", "g", {"t": "name", "v": "f"}, generator), expected)


def test_results_that_cannot_be_sent(ask):
    ask(
        "cell",
        None,
        "def f(what):\n    return {'o': object(), 'big': torch.zeros(100_000), 'deep': [[[[[[[[[1]]]]]]]]]}[what]",
    )
    assert [ask("call", "f", what)[0] for what in ("o", "big", "deep")] == ["WireError"] * 3


def test_exits_and_interrupts_in_a_call_are_answers(ask):
    ask("cell", None, """
import os, signal, time
def leave():
    raise SystemExit
def stopped():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
""")  # fmt: skip
    assert ask("call", "leave")[0] == "SystemExit"
    assert ask("call", "stopped")[0] == "KeyboardInterrupt"
    assert ask("call", "abs", -3) == ("Missing", "abs")  # builtins are not the student's


def test_verbs(ask):
    ask("cell", None, """
class Net(torch.nn.Linear):
    pass
def square(x):
    return x**2
def noise(n):
    return torch.rand(n)
""")  # fmt: skip
    assert ask("gradient", "square", torch.tensor([3.0])).tolist() == [6.0]
    torch.manual_seed(4)
    expected = torch.rand(3)
    assert torch.equal(ask("seeded", "noise", 4, 3), expected)
    number = ask("build", "Net", 2, 1, seed=1)
    state = ask("handle.state", number)
    x = torch.ones(3, 2)
    assert torch.allclose(ask("call", number, x), x @ state["weight"].T + state["bias"])
    assert ask("handle.gradient", number, x)["bias"].tolist() == [3.0]
    assert ask("handle.attribute", number, "in_features") == 2
    assert ask("handle.call", number, "extra_repr").startswith("in_features=2")
    assert ask("handle.load", number, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}) is None
    assert ask("call", number, x).tolist() == [[2.0]] * 3
    assert ask("handle.eval", number) is None
    assert ask("handle.attribute", number, "training") is False
    assert ask("handle.train", number) is None
    assert ask("handle.attribute", number, "training") is True
    assert ask("handle.__init__", number, 3)[0] == "ValueError"
    assert ask("gradient", number, x).tolist() == [[1.0, 1.0]] * 3


def test_serving_ends_with_the_pipe():
    answers = io.BytesIO()
    student.serve(io.BytesIO(), answers)
    assert answers.getvalue() == b""
