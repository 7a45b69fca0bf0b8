"""Runs the instructor's test cells in the judge's process, with proxies in place of the student's names."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import io
import signal
import symtable
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from course_lib.classroom.checks import Failed
from course_lib.classroom.remote import Channel, Proxy, StudentGone, TooSlow, Unanswerable

TEST_FILE = "<test cell>"
BEGIN, END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
MARGIN_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class CellResult:
    """One autograded test cell: `message` is for the student, empty if it passed."""

    passed: bool
    message: str
    seconds: float


class _Timeout(BaseException):
    """Raised by the clock in a test cell that computes for too long."""


def run_test(text: str, channel: Channel, seconds: float) -> CellResult:
    """Run one test cell in a namespace of its own, with a time limit for itself and the student's answers together."""
    start = time.monotonic()
    torch.manual_seed(0)
    channel.limit_seconds(seconds)
    namespace: dict[str, Any] = {"__name__": "test", "__builtins__": builtins}
    namespace |= {name: Proxy(channel, name) for name in free_names(text)}
    message = ""
    try:
        with time_limit(seconds + MARGIN_SECONDS), contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, TEST_FILE, "exec"), namespace)  # the instructor's text, never the submission's
    except (Exception, _Timeout) as error:
        message = explain(error, is_hidden(text, error), seconds)
    return CellResult(not message, message, time.monotonic() - start)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise _Timeout in the block after so many seconds (main thread only)."""

    def ring(*_: object) -> None:
        raise _Timeout

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def free_names(text: str) -> set[str]:
    """The names that a cell uses and neither defines nor imports, builtins apart: the student's."""
    table = symtable.symtable(text, TEST_FILE, "exec")
    own = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    scopes, used = [table], set()
    for scope in scopes:  # grows while it is walked through
        scopes += scope.get_children()
        top = scope is table
        used |= {s.get_name() for s in scope.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return used - own - set(dir(builtins))


def is_hidden(text: str, error: BaseException) -> bool:
    """Whether the line of the cell that raised stands among the hidden tests."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == TEST_FILE
    ]
    before = [line.strip() for line in text.splitlines()[: lines[0] if lines else 0]]
    return before.count(BEGIN) > before.count(END)


def explain(error: BaseException, hidden: bool, seconds: float) -> str:
    """The message for the student. Of a hidden test: no number of it, and no text of the student's own making."""
    where = " (in a hidden test, with other inputs)" if hidden else ""
    kind = type(error).__name__
    if isinstance(error, Failed | Unanswerable):
        return (error.hint if hidden else str(error)) + where
    if isinstance(error, _Timeout | TooSlow):
        return f"stopped after {seconds:.0f} s{where}"
    if isinstance(error, StudentGone):
        return f"the notebook's process had ended: {error}"
    if not getattr(error, "from_student", False):
        text = "" if hidden else f": {str(error)[:500]}"
        return f"the test cannot use what your code gave back ({kind}{text}){where}"
    if isinstance(error, NotImplementedError):
        return "not solved yet (NotImplementedError)"
    return f"your code raised {kind}{where}" if hidden else f"your code raised {kind}: {error}"
