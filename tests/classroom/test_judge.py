"""Judging: which cells run in which order, what a test cell sees, what the student is told, and hostile answers."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import threading
import time
from types import SimpleNamespace

import nbformat
import pytest
import torch
from hostile import SECRET, assignment, cell, needs_bubblewrap, solution, submission, test_cell
from torch import nn

from course_lib.classroom import checks, remote, sandbox, server, trial, wire
from course_lib.classroom import judge as judging
from course_lib.classroom.judge import Limits, judge, plan
from course_lib.classroom.remote import Channel, StudentGone, TooSlow, Unanswerable

LIMITS = Limits(cell_seconds=100.0, total_seconds=250.0)


# --- which cells run ----------------------------------------------------------------------------------------------


def steps(source, work):
    return [(kind, place) for kind, _, place in plan(source, work)]


def test_plan_of_a_complete_submission():
    assert steps(assignment(), submission()) == [
        ("cell", 0), ("cell", 1), ("test", None), ("cell", 3), ("test", None),
    ]  # fmt: skip


def test_plan_takes_tests_and_locked_cells_from_the_source():
    forged = submission()
    for c in forged.cells:
        c.source = "forged"
    texts = [(kind, c.source == "forged") for kind, c, _ in plan(assignment(), forged)]
    assert texts == [("cell", False), ("cell", True), ("test", False), ("cell", True), ("test", False)]


def test_plan_with_cells_missing_twice_added_moved_and_of_another_type():
    source = assignment()
    work = submission(before=("first",), behind=("last",))
    del work.cells[2]  # double
    assert steps(source, work) == [
        ("cell", 0),
        ("cell", 1),
        ("test", None),
        ("cell", 3),
        ("test", None),
        ("cell", 5),
    ]
    work = submission()
    work.cells.append(copy.deepcopy(work.cells[1]))
    assert steps(source, work)[1] == ("cell", 1)
    assert len(steps(source, work)) == 5
    work = submission()
    work.cells.reverse()
    assert steps(source, work) == [("cell", 4), ("cell", 3), ("test", None), ("cell", 1), ("test", None)]
    work = submission()
    work.cells.insert(2, cell("own"))
    assert steps(source, work)[1:4] == [("cell", 1), ("cell", 2), ("test", None)]
    work = submission()
    work.cells[1].cell_type = "markdown"
    assert ("cell", 1) not in steps(source, work)
    assert [kind for kind, _ in steps(source, nbformat.v4.new_notebook())] == ["cell", "test", "test"]


@pytest.mark.parametrize(
    "metadata", [{}, {"nbgrader": None}, {"nbgrader": []}, {"nbgrader": {"grade_id": 3}}, None]
)
def test_damaged_metadata_make_a_stranger_of_a_cell(metadata):
    work = submission()
    work.cells[1].metadata = metadata
    assert judging.grade_id(work.cells[1]) is None
    assert steps(assignment(), work)[1] == ("cell", 1)  # behind the imports, as before


def test_what_the_instructors_own_cells_import():
    source = assignment()
    source.cells[0].source = "import math\nimport os.path as p\nfrom torch import nn\nfrom . import here\n"
    assert judging.imported(source) == ["math", "os.path", "torch", "torch.nn"]
    source.cells[0].metadata.nbgrader.locked = False
    assert judging.imported(source) == []  # neither a student's cell nor a test


def test_a_slow_import_of_the_instructors_is_not_the_submissions_time(monkeypatch, tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(6)\n")
    start = sandbox.START.replace("import sys;", f"import sys; sys.path.insert(0, {str(tmp_path)!r});")
    monkeypatch.setattr(sandbox, "START", start)
    limits = Limits(cell_seconds=4.0)
    source, eager = assignment("import slow"), submission("import slow\ndef double(x):\n    return 2 * x")
    verdict = judging.judge_here(source, eager, limits, unsafe=True)
    assert all(cell.passed for cell in verdict.cells.values())
    assert not any(output.error for output in verdict.outputs)
    verdict = judging.judge_here(assignment(), eager, limits, unsafe=True)
    assert verdict.outputs[1].error == "stopped after 4 s"
    assert [cell.passed for cell in verdict.cells.values()] == [False, True]


# --- test cells ---------------------------------------------------------------------------------------------------


def test_free_names_are_the_students():
    text = """
import torch
from torch import nn as layers
from course_lib.classroom import checks
inputs = [(a, b) for a, b in zip(range(3), range(3))]
def reference(x, scale=default): return x * helper(scale)
class Net(Base):
    size = width
    def forward(self, y): return [kl(y, z) for z in y]
for i in inputs: print(i)
with open(path) as file: pass
try: pass
except ValueError as error: print(error)
checks.close(kl(torch.ones(2)), reference(3), mistakes={"m": other.thing})
(lambda q: q + free)(1)
"""
    assert trial.free_names(text) == {"default", "helper", "Base", "width", "kl", "path", "other", "free"}


class Notebook:
    """A channel whose student is this process: what a proxy asks is done at once, by way of the wire."""

    def __init__(self, **names: object) -> None:
        self.names = names
        self.limits = []

    def limit_seconds(self, seconds: float) -> None:
        self.limits.append(seconds)

    def perform(self, verb, target, args, kwargs):
        from course_lib.classroom import student

        here = SimpleNamespace(
            shell=SimpleNamespace(user_ns=self.names), _handles=self.__dict__.setdefault("kept", [])
        )
        methods = student.Student
        here._keep = lambda handle: methods._keep(here, handle)
        here.resolve = lambda ref: methods.resolve(here, ref)
        here._verb = lambda name, what: methods._verb(here, name, what)
        here.perform = lambda *a: methods.perform(here, *a)
        encoder = wire.Encoder(remote.reference, modules=True)
        request = {"id": "1", "op": verb, "target": target, "args": encoder(args), "kwargs": encoder(kwargs)}
        body = student.answer(here, request, [memoryview(b) for b in encoder.blobs], 10**7)[wire.PREFIX :]
        header, blobs = wire.unpack(body)
        if "error" in header:
            raise remote.student_error(header)
        return wire.Decoder(blobs)(header["value"])


@pytest.fixture(autouse=True)
def signals():
    """`student.answer` moves the handler of Ctrl-C."""
    import signal

    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def attempt(text: str, **names: object) -> trial.CellResult:
    return trial.run_test("import torch\nfrom torch import nn\nfrom course_lib.classroom import checks\n" + text,
                          Notebook(**names), 30.0)  # fmt: skip


class Scale(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return self.factor * x

    def inverse(self, y):
        return y / self.factor


EVERY_VERB = """
checks.close(square(torch.tensor([3.0])), torch.tensor([9.0]))
checks.close(checks.gradient(square, torch.tensor([3.0])), torch.tensor([6.0]))
checks.close(checks.seeded(3, noise, 2), checks.seeded(3, noise, 2))
checks.close(draw(checks.generator(5)), torch.rand(2, generator=checks.generator(5)))
checks.close(apply(square, torch.tensor([2.0])), torch.tensor([4.0]))
net = nn.Sequential(nn.Linear(2, 1))
checks.close(apply(net, torch.ones(3, 2)), net(torch.ones(3, 2)))
checks.close(answer, 42)
checks.equal(checks.value(answer), 42)
handle = checks.build(Scale, 3.0, weights={"factor": torch.tensor(4.0)})
checks.close(handle(torch.ones(2)), torch.full((2,), 4.0))
checks.close(handle.call("inverse", 8.0), 2.0)
checks.close(handle.state()["factor"], 4.0)
handle.load({"factor": torch.tensor(5.0)})
checks.close(handle.attribute("factor"), 5.0)
checks.close(handle.gradient(torch.ones(2))["factor"], 2.0)
checks.close(checks.gradient(handle, torch.ones(2)), torch.full((2,), 5.0))
checks.close(apply(handle, 1.0), 5.0)
checks.equal(handle.eval().attribute("training"), False)
checks.equal(handle.train().attribute("training"), True)
checks.raises(ValueError, reject, 1, message="negative")
checks.raises(ZeroDivisionError, reject, 0)
"""


def reject(x):
    """A student's function that raises."""
    if x == 0:
        raise type("MyError", (ZeroDivisionError,), {})("zero")
    raise ValueError("must be Negative")


STUDENT = {
    "square": lambda x: x**2, "noise": lambda n: torch.rand(n), "draw": lambda g: torch.rand(2, generator=g),
    "apply": lambda f, x: f(x), "answer": 42, "Scale": Scale, "reject": reject,
}  # fmt: skip


def test_every_verb_works_alike_in_the_notebook_and_in_the_judge():
    imports = "import torch\nfrom torch import nn\nfrom course_lib.classroom import checks\n"
    exec(imports + EVERY_VERB, dict(STUDENT))
    result = attempt(EVERY_VERB, **STUDENT)
    assert (result.passed, result.message) == (True, "")


@pytest.mark.parametrize(
    "line", [line for line in EVERY_VERB.splitlines() if line.startswith("checks.close(")]
)
def test_every_verb_finds_another_function_wrong(line):
    count = itertools.count()
    wrong = {
        "square": lambda x: x**3, "noise": lambda n: torch.full((n,), float(next(count))),
        "draw": lambda g: torch.zeros(2), "apply": lambda f, x: f(x) + 1, "answer": 41, "Scale": Scale,
    }  # fmt: skip
    if "handle" in line:
        setup = 'handle = checks.build(Scale, 3.0, weights={"factor": torch.tensor(4.0)})\n'
        wrong["Scale"] = type("Wrong", (Scale,), {
            "forward": lambda self, x: self.factor**2 * x + 10 * x**3, "inverse": lambda self, y: y,
            "load_state_dict": lambda self, state: None,
        })  # fmt: skip
    else:
        setup = "net = nn.Sequential(nn.Linear(2, 1))\n"
    assert not attempt(setup + line, **wrong).passed


HIDDEN = "### BEGIN HIDDEN TESTS\n{}\n### END HIDDEN TESTS"


@pytest.mark.parametrize(
    ("function", "line", "visible", "hidden"),
    [
        (lambda x: x + 1, "checks.close(f(31.5), 31.5, 'see (2)')", "got 32.5, expected 31.5. see (2)",
         "the values differ from the expected ones. see (2)"),
        (lambda x: 2 * x, "checks.close(f(31.5), 31.5, 'see', mistakes={'it doubles': 63.0})",
         "it looks as if it doubles. see", "it looks as if it doubles. see"),
        (lambda x: [].index("it"), "f(31.5)", "your code raised ValueError: 'it' is not in list",
         "your code raised ValueError"),
        (lambda x: object(), "f(31.5)", "what came back cannot be compared: a object cannot be sent; numbers, strings, "
         "tensors, arrays and tuples, lists and dicts of them can", "what came back cannot be compared"),
        (lambda x: (_ for _ in ()).throw(NotImplementedError), "f(31.5)", "not solved yet (NotImplementedError)",
         "not solved yet (NotImplementedError)"),
        (lambda x: None, "f(31.5) + 31.5", "the test cannot use what your code gave back (TypeError: unsupported "
         "operand type(s) for +: 'NoneType' and 'float')", "the test cannot use what your code gave back (TypeError)"),
        (lambda x: x, "g(31.5)", "`g` is not defined: is its cell there, and did it run without an error?",
         "a name that the test needs is not defined: is its cell there, and did it run without an error?"),
    ],
)  # fmt: skip
def test_messages_of_visible_and_hidden_tests(function, line, visible, hidden):
    assert attempt(line, f=function).message == visible
    told = attempt(HIDDEN.format(line), f=function).message
    suffix = "" if "not solved" in hidden else " (in a hidden test, with other inputs)"
    assert told == hidden + suffix
    assert "31.5" not in told
    after = HIDDEN.format("pass") + "\n" + line
    assert attempt(after, f=function).message == visible


def test_a_student_cannot_raise_the_judges_own_exceptions():
    def claim(*kinds):
        return remote.student_error({"error": list(kinds), "message": "m"})

    assert type(claim("ValueError", "Exception")) is ValueError
    assert type(claim("MyError", "KeyError", "LookupError")) is KeyError
    for kinds in (["SystemExit"], ["KeyboardInterrupt"], ["AssertionError"], ["StudentGone"], ["print"],
                  ["BaseException"], ["__import__"], [], [3], ["UnicodeDecodeError"], ["GeneratorExit"]):  # fmt: skip
        assert type(claim(*kinds)) is RuntimeError
    assert type(claim("Failed", "AssertionError", "Exception")) is Unanswerable
    for header in (
        {"error": None},
        {"error": "ValueError"},
        {"error": {}, "message": 3},
        {"error": 1, "message": [1]},
    ):
        assert type(remote.student_error(header)) is RuntimeError
    assert len(str(remote.student_error({"error": ["ValueError"], "message": "x" * 10_000}))) <= 501


def test_text_of_students_is_cleaned():
    assert remote.clean("a\x1b[31mb\x1b[0m\x07\0\n\tä", 100) == "ab��\n\tä"
    assert remote.clean("x" * 50, 10) == "x" * 10 + "…"
    assert remote.clean("\u202ereversed", 100) == "�reversed"


def test_a_test_that_computes_for_too_long_is_stopped():
    with pytest.raises(trial._Timeout), trial.time_limit(0.05):
        all(True for _ in itertools.count())
    time.sleep(0.06)  # the clock is off again


def test_test_cells_share_nothing():
    first = "import torch\nleft = 1\nchecks = None"
    channel = Notebook()
    assert trial.run_test(first, channel, 10.0).passed
    assert trial.run_test("left()", channel, 10.0).message.startswith("`left` is not defined")
    assert channel.limits == [10.0, 10.0]


# --- hostile answers ----------------------------------------------------------------------------------------------


class Pipes:
    """A sandbox's pipes with a function in place of the student's process: it gets the request's id and the fd."""

    def __init__(self, student, seconds: float = 0.3, answer_bytes: int = 10_000) -> None:
        self.limits = Limits(
            start_seconds=seconds, total_seconds=seconds, cell_seconds=seconds, answer_bytes=answer_bytes
        )
        inside, self.requests = os.pipe()
        self.answers, self.out = os.pipe()
        self.ended, self.stopped, self.interrupts = None, threading.Event(), 0
        os.set_blocking(self.requests, False)
        self.thread = threading.Thread(target=self._run, args=(student, inside), daemon=True)
        self.thread.start()

    def _run(self, student, inside: int) -> None:
        with os.fdopen(inside, "rb") as file:
            header, _ = wire.unpack(file.read(int.from_bytes(file.read(8), "big")))
            with contextlib.suppress(OSError):
                student(self, header["id"])

    def interrupt(self):
        self.interrupts += 1

    def stop(self, why):
        self.ended = self.ended or why
        self.stopped.set()

    def has_ended(self, wait=0.0):
        return self.ended

    def close(self):
        self.stopped.set()
        os.close(self.answers)
        os.close(self.requests)
        self.thread.join()
        with contextlib.suppress(OSError):
            os.close(self.out)


@contextlib.contextmanager
def talk(student, **settings):
    """A channel to such a student."""
    pipes = Pipes(student, **settings)
    try:
        yield Channel(pipes), pipes
    finally:
        pipes.close()


def say(value, **more):
    """A student that gives this coded value under the right id."""
    return lambda pipes, name: os.write(pipes.out, wire.pack({"id": name, "value": value, **more}, []))


def flood(data: bytes):
    """A student that repeats itself until it is stopped."""

    def write(pipes, name):
        while not pipes.stopped.is_set():
            os.write(pipes.out, data.replace(b"NAME", name.encode()))

    return write


def call(channel):
    return channel.perform("call", {"t": "name", "v": "f"}, (), {})


def test_a_good_answer():
    with talk(say({"t": "int", "v": "0x7"})) as (channel, pipes):
        assert call(channel) == 7
        assert pipes.ended is None


BAD = {
    "rubbish": (flood(b"passed! " * 100), "at most"),
    "huge": (lambda p, n: os.write(p.out, b"\xff" * 8), "at most"),
    "larger than allowed": (lambda p, n: os.write(p.out, (3 * 10**6).to_bytes(8, "big")), "at most"),
    "not JSON": (lambda p, n: os.write(p.out, (9).to_bytes(8, "big") + b"\0\0\0\x05{{{{{"), "JSON"),
    "deep JSON": (
        flood((100_004).to_bytes(8, "big") + (100_000).to_bytes(4, "big") + b"[" * 100_000),
        "JSON",
    ),
    "no value": (lambda p, n: os.write(p.out, wire.pack({"id": n}, [])), "unknown kind"),
    "an unknown kind": (say({"t": "pickle", "v": "x"}), "unknown kind"),
    "a name of the judge's": (say({"t": "name", "v": "checks"}), "unknown kind"),
    "no id": (flood(wire.pack({"value": {"t": "int", "v": "0x7"}}, [])), "not asked"),
    "other ids": (flood(wire.pack({"id": "1", "value": {"t": "int", "v": "0x7"}}, [])), "not asked"),
    "a list for an id": (flood(wire.pack({"id": ["1"], "value": {"t": "int", "v": "0x7"}}, [])), "not asked"),
    "an array without bytes": (
        say({"t": "tensor", "dtype": "float32", "shape": [10**9], "blob": 0}),
        "its bytes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_answers_end_the_conversation(name):
    student, part = BAD[name]
    with talk(student, seconds=20.0) as (channel, pipes):
        with pytest.raises(StudentGone, match=part):
            call(channel)
        assert pipes.ended.startswith("an answer that breaks the rules")
        with pytest.raises(StudentGone):  # and nothing is asked any more
            call(channel)


@pytest.mark.parametrize("part", [b"", b"\0\0", (50).to_bytes(8, "big") + b"\0\0\0"])
def test_answers_that_never_come_or_never_end(part, monkeypatch):
    monkeypatch.setattr(remote, "GRACE_SECONDS", 0.2)
    with talk(lambda p, n: (os.write(p.out, part) if part else None, p.stopped.wait(20))) as (channel, pipes):
        start = time.monotonic()
        with pytest.raises(StudentGone, match="time"):
            call(channel)
        assert time.monotonic() - start < 10
        assert (pipes.interrupts, pipes.ended) == (1, "time")


def test_an_interrupted_call_is_too_slow_and_the_next_one_works():
    def student(pipes, name):
        while not pipes.interrupts:
            time.sleep(0.01)
        os.write(pipes.out, wire.pack({"id": name, "value": {"t": "int", "v": "0x7"}}, []))

    with talk(student) as (channel, pipes), pytest.raises(TooSlow):
        call(channel)
    assert pipes.ended is None


def test_late_answers_are_not_taken_for_the_next_ones():
    def student(pipes, name):
        old = wire.pack({"id": "an earlier one", "value": {"t": "int", "v": "0x1"}}, [])
        os.write(pipes.out, old + old + wire.pack({"id": name, "value": {"t": "int", "v": "0x2"}}, []))

    with talk(student, seconds=20.0) as (channel, _):
        assert call(channel) == 2


def test_ids_are_not_guessable():
    seen = []
    for _ in range(2):
        with talk(lambda p, n: (seen.append(n), say({"t": "const", "v": None})(p, n)), seconds=20.0) as (
            channel,
            _,
        ):
            call(channel)
    assert len(set(seen)) == 2
    assert all(len(name) == 32 for name in seen)


def test_closed_pipes():
    with talk(lambda p, n: os.close(p.out), seconds=20.0) as (channel, pipes):
        with pytest.raises(StudentGone, match="closed"):
            call(channel)
        assert pipes.ended == "it closed its connection"


def test_a_student_that_does_not_listen():
    large = torch.zeros(10**6)  # more than a pipe holds
    with talk(lambda p, n: p.stopped.wait(20), seconds=0.3) as (channel, pipes):
        os.write(pipes.requests, wire.pack({"id": "taken"}, []))  # the one frame that it reads
        with pytest.raises(StudentGone, match="time"):
            channel.perform("call", {"t": "name", "v": "f"}, (large,), {})
        assert pipes.ended == "time"


@pytest.mark.parametrize(
    "told",
    [3, None, {}, {"text": 3, "error": [], "images": 1}, {"text": "x", "images": ["a", None, torch.ones(2)]}],
)
def test_outputs_of_a_wrong_kind_are_empty(told):
    channel = SimpleNamespace(limit_seconds=lambda s: None, run_cell=lambda text: told)
    output = judging.run_student_cell("x", channel, Limits())
    assert (output.text, output.error, output.images) == ("", None, ())


def test_pictures_are_checked():
    import numpy as np

    png, large = judging.PNG + b"x", judging.PNG + bytes(judging.MAX_IMAGE_BYTES)
    told = {"images": [np.frombuffer(b, dtype=np.uint8) for b in [b"<svg onload=x>", large] + [png] * 20]}
    channel = SimpleNamespace(limit_seconds=lambda s: None, run_cell=lambda text: told)
    assert judging.run_student_cell("x", channel, Limits()).images == (png,) * judging.MAX_IMAGES


# --- the whole ----------------------------------------------------------------------------------------------------


def test_unsafe_judges_in_two_processes(monkeypatch, tmp_path):
    if judging._running:
        judging._running.close()
    monkeypatch.setenv("PATH", f"{tmp_path}")  # no bubblewrap
    book, work = assignment(), submission(before=("import os; print(os.getpid(), open('data.txt').read())",),
                                          triple="def triple(x):\n    return x")  # fmt: skip
    verdict = judge(book, work, limits=LIMITS, unsafe=True, files={"data.txt": b"my data"})
    assert verdict.cells["double-test"].passed
    assert verdict.cells["triple-test"].message == "got 3, expected 9. of three"
    pid, text = verdict.outputs[0].text.split(" ", 1)
    assert int(pid) != os.getpid()
    assert text.strip() == "my data"
    assert verdict.ended is None
    assert SECRET not in str(verdict)
    judging._running.close()  # it has that path


@needs_bubblewrap
def test_the_seed_reaches_the_hidden_tests_and_nothing_else(monkeypatch):
    monkeypatch.setenv("COURSE_GRADING_SEED", "1")
    learnt = submission(
        "numbers = []\ndef double(x):\n    numbers.append(x)\n    return 2 * x", behind=("print(numbers)",)
    )
    by_seed = [
        judge(assignment(), learnt, limits=LIMITS, seed=seed).outputs[-1].text for seed in (None, 1, 2)
    ]
    assert by_seed[0] == by_seed[1] != by_seed[2]
    look = submission(before=("import os; print(sorted(os.environ))",))
    assert "SEED" not in judge(assignment(), look, limits=LIMITS, seed=99).outputs[0].text


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".", ".."])
def test_files_lie_beside_the_notebook_and_nowhere_else(name):
    with pytest.raises(ValueError, match="without folders"):
        judge(assignment(), submission(), unsafe=True, files={name: b""})


def test_a_crash_of_the_judge_costs_one_submission_only():
    crash = assignment()
    crash.cells[2] = test_cell("import os\nos._exit(7)", "double-test")
    with pytest.raises(RuntimeError, match="exit status 7"):
        judge(crash, submission(), limits=LIMITS, unsafe=True)
    assert judge(assignment(), submission(), limits=LIMITS, unsafe=True).cells["double-test"].passed


def test_a_process_that_cannot_start_is_not_the_students_fault(monkeypatch):
    monkeypatch.setattr("course_lib.classroom.sandbox.START", "raise SystemExit('no interpreter {course}')")
    with pytest.raises(RuntimeError, match=r"could not be started: exit code 1\s+no interpreter"):
        judging.judge_here(assignment(), submission(), LIMITS, unsafe=True)


def answer_slowly(request: bytes) -> bytes:
    """A handler for the server's test."""
    if request == b"raise":
        raise ValueError("from the handler")
    time.sleep(json.loads(request))
    return b"done"


def test_server():
    made = server.Server("test_judge", "answer_slowly", f"{os.path.dirname(__file__)}:{judging.REPOSITORY}")
    try:
        assert made.usable()
        assert made.ask(b"0", 100.0) == b"done"
        with pytest.raises(RuntimeError, match="from the handler"):
            made.ask(b"raise", 100.0)
        with pytest.raises(RuntimeError, match="no answer in time"):
            made.ask(b"100", 0.2)
        assert made.ask(b"0", 100.0) == b"done"
    finally:
        made.close()
    assert not made.usable()
    with pytest.raises(RuntimeError, match="ended"):
        made.ask(b"0", 1.0)


def test_solution_with_a_torch_module_through_the_real_pipeline():
    book = assignment("import torch")
    book.cells.insert(1, solution("class Net(torch.nn.Linear):\n    pass", "net"))
    book.cells.insert(2, test_cell("""
import torch
from course_lib.classroom import checks
net = checks.build(Net, 2, 1, seed=3)
state = net.state()
checks.close(net(torch.ones(1, 2)), torch.ones(1, 2) @ state["weight"].T + state["bias"])
""", "net-test"))  # fmt: skip
    verdict = judge(book, book, limits=LIMITS, unsafe=True)
    assert {name: result.message for name, result in verdict.cells.items()} == {
        "net-test": "", "double-test": "", "triple-test": "",
    }  # fmt: skip


def test_proxies_tell_the_author_what_to_use():
    proxy = remote.Proxy(None, "Net")
    with pytest.raises(AttributeError, match=r"checks\.build"):
        proxy.codebook  # noqa: B018
    assert isinstance(proxy, checks.Remote)
