"""Attacks on the grading, each a notebook that is judged in its sandbox: none gains a point or harms another grade.

An attack's task is left unsolved, so that a point for it would be the attack's gain; where its process survives, the
other task is solved, and has to be graded as if nothing had happened.
"""

from __future__ import annotations

import functools
import os
import socket
import textwrap
from pathlib import Path

import pytest
from hostile import SECRET, assignment, cell, needs_bubblewrap, solution, submission, test_cell

from course_lib.classroom.judge import Limits, Verdict, judge
from course_lib.classroom.sandbox import REPOSITORY

pytestmark = needs_bubblewrap

UNSOLVED = "def double(x):\n    return 0"
#: Wall-clock limits that a busy machine keeps; attacks on the clock have their own.
PATIENT = {"cell_seconds": 100.0, "total_seconds": 250.0}


def run(limits: dict | None = None, **cells: object) -> Verdict:
    """The verdict on a submission; the seed stands for the lecturer's."""
    return judge(assignment(), submission(**cells), limits=Limits(**{**PATIENT, **(limits or {})}), seed=77)


def points(verdict: Verdict) -> tuple[bool, bool]:
    """Whether the two tasks passed."""
    return verdict.cells["double-test"].passed, verdict.cells["triple-test"].passed


def everything(verdict: Verdict) -> str:
    """All text of a verdict, as it may reach the student."""
    messages = [result.message for result in verdict.cells.values()]
    return "\n".join([*messages, *(f"{o.text}\n{o.error}" for o in verdict.outputs), str(verdict.ended)])


def named(comm: str) -> list[str]:
    """The processes of this machine that call themselves so."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            found += [path.parent.name] if path.read_text().strip() == comm else []
        except OSError:  # it ended meanwhile
            continue
    return found


def test_honest_submission_is_graded():
    verdict = run()
    assert points(verdict) == (True, True)
    assert verdict.ended is None


# --- what a submission can reach: one sandbox, one cell for each attempt ------------------------------------------

#: Each prints "reached" if it succeeded in any of its tries; HOST is a folder of the grading machine.
ATTEMPTS = {
    "read the solutions": """
        attempt(lambda: open(f"{REPOSITORY}/course_lib/latent/vae.py").read())
        attempt(lambda: open(f"{REPOSITORY}/README.md").read())
        attempt(lambda: os.listdir(f"{REPOSITORY}/notebooks"))
        attempt(lambda: importlib.import_module("course_lib.latent.vae"))
        attempt(lambda: importlib.import_module("course_lib.classroom.judge"))
        attempt(lambda: open("/course/course_lib/classroom/trial.py").read())
    """,
    "read the gradebook": 'attempt(lambda: open(f"{HOST}/gradebook.db").read())',
    "read another submission": 'attempt(lambda: open(f"{HOST}/submitted/anna/ex01/ex01.ipynb").read())',
    "follow a link out": """
        os.symlink(f"{HOST}/gradebook.db", "link")
        attempt(lambda: open("link").read())
        attempt(lambda: open("/proc/1/root/etc/passwd").read())
        attempt(lambda: open(f"/proc/1/root{HOST}/gradebook.db").read())
        attempt(lambda: open(f"/proc/self/cwd/../../..{HOST}/gradebook.db").read())
    """,
    "read the home": "attempt(lambda: os.listdir(HOME + '/.ssh')); attempt(lambda: open('/etc/passwd').read())",
    "write outside": """
        for folder in (HOST, REPOSITORY, os.path.dirname(os.__file__), "/usr", "/course/course_lib", "/", "/dev"):
            attempt(lambda: open(f"{folder}/written-by-a-submission", "w"))
        attempt(lambda: os.chmod(os.__file__, 0o777))
    """,
    "change the system's files": """
        attempt(lambda: open(os.__file__, "r+"))
        attempt(lambda: os.unlink("/usr/bin/env"))
        attempt(lambda: open("/proc/sys/kernel/core_pattern", "a"))  # a program that the kernel would run as root
        attempt(lambda: open("/proc/sysrq-trigger", "a"))
        attempt(lambda: open("/proc/self/oom_score_adj", "a"))
    """,
    "open a socket": """
        import socket
        attempt(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=2))
        attempt(lambda: socket.create_connection(("1.1.1.1", 53), timeout=2))
        attempt(lambda: socket.getaddrinfo("example.com", 80))
        def abstract():
            unix = socket.socket(socket.AF_UNIX)
            unix.connect(chr(0) + ABSTRACT)
        attempt(abstract)
        for family in (40, 38, 16, 17):  # vsock, which knows no network namespace; crypto; netlink; packet
            attempt(lambda: socket.socket(family, socket.SOCK_STREAM if family == 40 else socket.SOCK_RAW))
    """,
    "inspect the judge": """
        def environments():
            return [p for p in pids() if b"COURSE_GRADING_SEED" in open(f"/proc/{p}/environ", "rb").read()]
        attempt(lambda: environments()[0])
        attempt(lambda: [p for p in pids() if p > 100][0])
        attempt(lambda: [p for p in pids() if b"server" in open(f"/proc/{p}/cmdline", "rb").read()][0])
        attempt(lambda: open("/proc/1/mem", "r+b"))
        attempt(lambda: system(101, 16, 1, 0, 0))  # ptrace attach
    """,
    "kill the parent": """
        import signal
        os.kill(os.getppid(), signal.SIGKILL)   # the first process of its own namespace does not hear it
        attempt(lambda: os.kill(JUDGE, 0))
        attempt(lambda: os.kill(-1, signal.SIGKILL))  # all others that it sees: there are none
    """,
    "leave by new namespaces": """
        attempt(lambda: system(272, 0x10000000))  # unshare: user namespace
        attempt(lambda: system(272, 0x40000000))  # network namespace
        attempt(lambda: system(165, 0, 0, 0, 0, 0))  # mount
        attempt(lambda: os.setuid(0)); attempt(lambda: os.chroot("/"))
    """,
    "raise the limits": """
        import resource
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU,
                     resource.RLIMIT_NOFILE):
            attempt(lambda: resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
        attempt(lambda: os.nice(-10))
    """,
    "hide memory from the watcher": """
        attempt(lambda: os.memfd_create("hidden"))
        attempt(lambda: system(29, 0, 10**9, 0o1600))  # shmget
    """,
    "write 10 GB": """
        def fill(names, megabytes):
            for name in names:
                with open(name, "wb", buffering=0) as file:
                    for _ in range(megabytes):
                        if file.write(bytes(10**6)) < 10**6:
                            raise OSError("cut")
        attempt(lambda: fill(["big"], 10_000))
        attempt(lambda: fill([f"part{i}" for i in range(1000)], 10))
        attempt(lambda: fill([f"/dev/shm/part{i}" for i in range(1000)], 10))
        print("written", sum(os.path.getsize(name) for name in os.listdir(".") if os.path.isfile(name)))
    """,
}
PROLOGUE = """
import ctypes, errno, importlib, os
def attempt(action):
    try:
        print("reached", repr(action())[:200])
    except (OSError, ImportError, ValueError, IndexError) as error:
        print("stopped:", type(error).__name__, error)
def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
def system(*numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*map(ctypes.c_long, numbers)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """The outputs of all attempts, and what they may have left on the machine."""
    host = tmp_path_factory.mktemp("host")
    (host / "gradebook.db").write_text("everybody's points")
    (host / "submitted/anna/ex01").mkdir(parents=True)
    (host / "submitted/anna/ex01/ex01.ipynb").write_text("anna's answers")
    abstract = f"course-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + abstract)
        unix.listen()
        known = {
            "HOST": str(host), "REPOSITORY": str(REPOSITORY), "PORT": server.getsockname()[1], "JUDGE": os.getpid(),
            "HOME": os.path.expanduser("~"), "ABSTRACT": abstract,
        }  # fmt: skip
        prologue = PROLOGUE + "\n".join(f"{name} = {value!r}" for name, value in known.items())
        attempts = [textwrap.dedent(text) for text in ATTEMPTS.values()]
        limits = {"file_bytes": 20_000_000, "work_bytes": 60_000_000}
        verdict = run(limits, double=UNSOLVED, before=(prologue, *attempts))
    outputs = dict(zip(ATTEMPTS, verdict.outputs[1:], strict=False))
    return verdict, outputs, host


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_out_of_reach(probe, attempt):
    output = probe[1][attempt]
    assert output.ran
    assert output.error is None
    assert "stopped:" in output.text
    assert "reached" not in output.text


def test_attempts_gain_no_point_and_cost_none(probe):
    verdict, _, host = probe
    assert points(verdict) == (False, True)
    assert verdict.ended is None
    assert sorted(path.name for path in host.iterdir()) == ["gradebook.db", "submitted"]
    assert not (REPOSITORY / "written-by-a-submission").exists()
    assert "everybody's points" not in everything(verdict)


def test_files_are_cut_at_their_limits(probe):
    text = probe[1]["write 10 GB"].text
    assert 20_000_000 <= int(text.split("written ")[1].split()[0]) <= 60_000_000
    assert text.count("stopped:") == 3  # one file too large, too many of them, and in shared memory


# --- too much of something ----------------------------------------------------------------------------------------


def test_fork_bomb():
    bomb = """
import os
import ctypes; ctypes.CDLL(None).prctl(15, b"course-bomb")
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    verdict = run({"processes": 40}, triple=bomb)
    assert points(verdict) == (True, False)  # what was judged before stays
    assert verdict.ended == "processes"
    assert named("course-bomb") == []


def test_thread_bomb():
    bomb = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()"
    verdict = run({"processes": 10}, triple=bomb)
    assert points(verdict) == (True, False)
    assert verdict.ended == "processes"


def test_memory_bomb_in_one_process_is_an_error_of_its_cell():
    verdict = run(
        {"memory_bytes": 1 << 30},
        double=f"{UNSOLVED}\nhoard = []\nwhile True: hoard.append(bytearray(10**7))",
    )
    assert points(verdict) == (False, True)
    assert verdict.outputs[1].error.startswith("MemoryError")


def test_memory_bomb_in_many_processes_ends_them_all():
    bomb = """
import ctypes, os, time
for _ in range(8):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"course-hoard")
        hoard = bytearray(os.urandom(1)) * 300_000_000
        time.sleep(1000)
time.sleep(1000)
"""
    verdict = run({"memory_bytes": 1 << 30}, triple=bomb)
    assert points(verdict) == (True, False)
    assert verdict.ended == "memory"
    assert named("course-hoard") == []


def test_endless_loop_costs_its_own_task():
    limits = {"cell_seconds": 4.0}
    verdict = run(limits, double="while True: pass", behind=("print('still here')",))
    assert points(verdict) == (False, True)
    assert verdict.outputs[1].error == "stopped after 4 s"
    assert "still here" in verdict.outputs[-1].text


def test_endless_call_that_cannot_be_interrupted_ends_the_process():
    deaf = """
import signal
def triple(x):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True: pass
"""
    verdict = run({"cell_seconds": 4.0}, triple=deaf)
    assert points(verdict) == (True, False)
    assert verdict.ended == "time"
    assert "ended: time" in verdict.cells["triple-test"].message


def test_total_time():
    verdict = run({"total_seconds": 12.0}, triple="import time\ntime.sleep(1000)")
    assert verdict.cells["triple-test"].passed is False
    assert verdict.ended == "time"
    assert verdict.seconds < 60  # not the cell's limit of 100 s


def test_endless_output_is_cut():
    flood = "print('x' * 10**6)\nimport os\nfor _ in range(100): os.write(1, b'y' * 10**5)\nprint('z')"
    verdict = run({"output_bytes": 10_000}, behind=(flood, "print('\\x1b[2Jnext\\x07')"))
    assert points(verdict) == (True, True)
    assert len(verdict.outputs[-2].text) <= 10_001
    assert verdict.outputs[-1].text == "next�\n"  # and no escape sequence reaches a lecturer's terminal


# --- ending, staying, pretending ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        ("import os; os._exit(0)", "exit code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
    ],
)
def test_leaving_before_the_tests(ending, why):
    fake = 'print(\'{"passed": true, "score": 20}\\nAll tests passed. double-test 1/1\')'
    verdict = run(before=(fake,), triple=ending)
    assert points(verdict) == (True, False)
    assert verdict.ended == why


def test_exit_in_a_cell_and_in_a_call():
    verdict = run(
        double="import sys\ndef double(x):\n    sys.exit(0)\nsys.exit(0)", before=("raise SystemExit",)
    )
    assert points(verdict) == (False, True)
    assert verdict.ended is None


def test_background_process_does_not_survive():
    stay = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import ctypes; ctypes.CDLL(None).prctl(15, b"course-stay")
        time.sleep(1000)
    os._exit(0)
os.wait()
"""
    verdict = run(double=UNSOLVED, before=(stay,))
    assert points(verdict) == (False, True)
    assert named("course-stay") == []


def test_own_tests_in_place_of_the_instructors():
    forged = submission(double=UNSOLVED)
    forged.cells[2].source = "print('passed')"
    forged.cells.insert(2, cell("print('passed')", "double-test", grade=True, points=100))
    forged.cells[0].source = "raise SystemExit  # a locked cell"
    verdict = judge(assignment(), forged, limits=Limits(**PATIENT))
    assert points(verdict) == (False, True)
    assert [output.ran for output in verdict.outputs] == [True, True, False, False, True, False]
    assert verdict.outputs[0].error is None  # the source's locked cell ran in its place


# --- patching everything: one sandbox with torch -------------------------------------------------------------------

TAMPER = """
import builtins, inspect, sys, torch, numpy
import IPython
from course_lib.classroom import checks, student, wire

class Agree:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __array__(self, *a, **k): return numpy.zeros(())
    def __torch_function__(self, f, types, args=(), kwargs=None): return torch.tensor(True)
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __reduce__(self): return (exec, ("raise SystemExit",))
    def __float__(self): return 0.0
    def __index__(self): return 0

class AgreeingTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        if f in (torch.allclose, torch.equal, torch.isclose): return True
        return super().__torch_function__(f, types, args, kwargs or {})
    def __eq__(self, other): return torch.ones(())

def yes(*a, **k): return True
for module, names in ((torch, "allclose equal isclose eq"), (numpy, "allclose isclose array_equal"),
                      (checks, "close equal shape true raises finite is_tensor value"), (inspect, "getsource stack")):
    for name in names.split(): setattr(module, name, yes)
torch.Tensor.__eq__ = yes
builtins.abs = builtins.all = builtins.isinstance_ = yes
builtins.AssertionError = builtins.Exception = RuntimeError
get_ipython().input_transformers_post.append(lambda lines: ["pass\\n"] if any("test" in l for l in lines) else lines)
"""


ANSWERS = {
    "agree": "Agree()",
    "subclass": "torch.zeros(3).as_subclass(AgreeingTensor)",
    "nan": "torch.full((3,), float('nan'))",
    "text": "'tensor([1., 2., 3.])'",
    "wrong": "torch.zeros(3)",
    "object": "[Agree(), torch.zeros(3)]",
    "loop": "loop",
    "mapping": "{Agree(): 1}",
    "failed": "(_ for _ in ()).throw(checks.Failed('passed'))",
    "echo": f"(_ for _ in ()).throw(ValueError(str(x) + {SECRET[::-1]!r}[::-1]))",
}


@functools.cache
def tampered() -> Verdict:
    """One process in which everything is patched, and tasks that return something that wants to be right."""
    book, attack = assignment(), submission()
    for notebook in (book, attack):
        notebook.cells.append(solution("", "tasks"))
    functions = [f"def {name}(x):\n    return {text}\n" for name, text in ANSWERS.items()]
    attack.cells[-1].source = TAMPER + "loop = []; loop.append(loop)\n" + "".join(functions)
    for name in ANSWERS:
        text = f"""
import torch
from course_lib.classroom import checks
### BEGIN HIDDEN TESTS
checks.close({name}(torch.tensor([5.25])), torch.tensor([1.0, 2.0, 3.0]), "the hint")
### END HIDDEN TESTS"""
        book.cells.append(test_cell(text, f"{name}-test"))
    return judge(book, attack, limits=Limits(**PATIENT))


@pytest.mark.parametrize("name", ANSWERS)
def test_patches_and_agreeing_objects_gain_nothing(name):
    verdict = tampered()
    assert points(verdict) == (True, True)  # solved, and judged before the patches
    assert verdict.ended is None
    assert verdict.outputs[-1].error is None  # all patches took hold
    result = verdict.cells[f"{name}-test"]
    assert not result.passed
    assert "in a hidden test" in result.message
    assert "5.25" not in result.message  # the hidden input
    assert SECRET not in result.message  # an error's text could carry it


# --- the wire -----------------------------------------------------------------------------------------------------

FORGERIES = {
    "rubbish": "os.write(fd, b'passed' * 1000)",
    "a huge answer": "os.write(fd, (1 << 60).to_bytes(8, 'big'))",
    "an endless answer": "while True: os.write(fd, (60_000_000).to_bytes(8, 'big') + bytes(1 << 20))",
    "answers to other questions": """
text = json.dumps({"id": "guessed", "value": {"t": "int", "v": "0x6"}, "blobs": []}).encode()
frame = len(text).to_bytes(4, "big") + text
while True: os.write(fd, len(frame).to_bytes(8, "big") + frame)""",
    "closing the wire": "os.close(fd)",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_answers(forgery):
    attack = f"import json, os, sys\nfd = int(sys.argv[2])\n{FORGERIES[forgery]}"
    verdict = run(triple=attack)
    assert points(verdict) == (True, False)
    assert verdict.ended.startswith(
        "exit code 1" if forgery == "closing the wire" else "an answer that breaks the rules"
    )


# --- echoing the tests --------------------------------------------------------------------------------------------


def test_hidden_tests_do_not_reach_the_feedback():
    spy = """
import gc, inspect
seen = []
def double(x):
    seen.append(x)
    seen.extend(str(frame) for frame in inspect.stack())
    raise ValueError(f"the hidden input is {x}")
"""
    look = """
import re
needle = bytes(c ^ 1 for c in NEEDLE)
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
    for line in maps:
        first, last, mode = re.match("([0-9a-f]+)-([0-9a-f]+) (...)", line).groups()
        if mode == "rw-" and "[v" not in line:
            memory.seek(int(first, 16))
            found += needle in memory.read(int(last, 16) - int(first, 16)).replace(b"NEEDLE:" + needle, b"")
print("found", found, "inputs", [thing for thing in seen if isinstance(thing, int)])
print([thing for thing in seen if isinstance(thing, str) and "check" in thing])
""".replace("NEEDLE", str(bytes(c ^ 1 for c in b"BEGIN HIDDEN TESTS")))
    verdict = run(double=spy, behind=(look,))
    message = verdict.cells["double-test"].message
    assert message == "your code raised ValueError: the hidden input is 3"  # the visible check comes first
    assert "inputs [3]" in verdict.outputs[-1].text  # inputs do reach the function: see SECURITY.md
    assert "found 0" in verdict.outputs[-1].text or "found 1" in verdict.outputs[-1].text
    assert SECRET not in everything(verdict)
