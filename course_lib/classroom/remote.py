"""The judge's end of the wire: requests with a deadline, answers that are checked, and proxies for test cells.

A proxy looks to a test cell like the student's function or class. Whatever the student's process answers (nothing,
rubbish, too much, the answer to another question), the test cell sees plain data, an exception of Python's own, or
`StudentGone`; it never sees an object of the student's, and the judge never waits beyond the deadline.
"""

from __future__ import annotations

import builtins
import os
import re
import secrets
import select
import time
from typing import Any

import numpy as np

from course_lib.classroom import checks, wire
from course_lib.classroom.sandbox import Sandbox

GRACE_SECONDS = 2.0
HEADER_ROOM = 2 * wire.MAX_HEADER
SETUP = ("memory_bytes", "file_bytes", "output_bytes", "answer_bytes")
MAX_STRAY_FRAMES = 100
MESSAGE_CHARACTERS = 500
ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class StudentGone(Exception):
    """The student's process has ended or broke the rules of the wire; there will be no further answers."""


class TooSlow(Exception):
    """The student's code did not finish in time; its process may still be there."""


class Unanswerable(Exception):
    """The student's object is missing, or what it gave back cannot be sent; `hint` repeats nothing of what came."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Channel:
    """Requests to one student process, one at a time."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._deadline = 0.0
        self.limit_seconds(sandbox.limits.start_seconds)

    def limit_seconds(self, seconds: float) -> None:
        """From now on: the requests up to the next call of this method have so much time together."""
        self._deadline = time.monotonic() + seconds

    def setup(self, files: dict[str, bytes], modules: list[str]) -> None:
        """The first request: limits, the files that lie beside the notebook, what to import before the clock starts.

        Raises: StudentGone.
        """
        limits = self._sandbox.limits
        told: dict[str, Any] = {name: getattr(limits, name) for name in SETUP}
        told["cpu_seconds"] = int(limits.start_seconds + limits.total_seconds) + 1
        told["files"] = {name: np.frombuffer(data, dtype=np.uint8) for name, data in files.items()}
        told["modules"] = modules
        encoder = wire.Encoder()
        self._ask({"setup": encoder(told)}, encoder.blobs)

    def run_cell(self, text: str) -> Any:
        """Run a cell there; what came back, decoded but of unknown content. Raises: StudentGone, TooSlow."""
        encoder = wire.Encoder()
        coded = encoder(np.frombuffer(text.encode(errors="replace"), dtype=np.uint8))
        return self._ask({"op": "cell", "text": coded}, encoder.blobs)

    def perform(self, verb: str, target: dict, args: tuple, kwargs: dict) -> Any:
        """One verb of `course_lib.classroom.checks` done there; returns plain data.

        Raises: StudentGone; TooSlow; Unanswerable; or, if the student's code raised, an exception of Python's own
        with the same name (the nearest in its ancestry that Python has), marked with `from_student = True`.
        """
        encoder = wire.Encoder(reference, modules=True)
        request = {"op": verb, "target": target, "args": encoder(args), "kwargs": encoder(kwargs)}
        return self._ask(request, encoder.blobs)

    def _ask(self, request: dict, blobs: list[bytes]) -> Any:
        if why := self._sandbox.ended:
            raise StudentGone(why)
        name = secrets.token_hex(16)
        try:
            self._send(wire.pack({"id": name, **request}, blobs))
            header, answer = self._receive(name)
            if "error" in header:
                raise student_error(header)
            return wire.Decoder(answer)(header.get("value"))
        except wire.WireError as error:
            self._sandbox.stop(f"an answer that breaks the rules: {error}")
            raise StudentGone(self._sandbox.ended) from None

    def _receive(self, name: str) -> tuple[dict, list[memoryview]]:
        """The answer of that name. Late answers to earlier requests are skipped."""
        interrupted = False
        for _ in range(MAX_STRAY_FRAMES):
            try:
                body = self._frame()
            except TimeoutError:
                if interrupted:
                    self._sandbox.stop("time")
                    raise StudentGone("time") from None
                interrupted = True
                self._sandbox.interrupt()
                self._deadline = time.monotonic() + GRACE_SECONDS
                continue
            header, blobs = wire.unpack(body)
            if header.get("id") == name:
                if interrupted:
                    raise TooSlow
                return header, blobs
        raise wire.WireError("answers to questions that were not asked")

    def _frame(self) -> bytes:
        limit = self._sandbox.limits.answer_bytes + HEADER_ROOM
        return self._read(wire.frame_length(self._read(wire.PREFIX), limit))

    def _read(self, size: int) -> bytes:
        """Exactly so many bytes. Raises: TimeoutError, StudentGone."""
        parts, missing = [], size
        while missing:
            self._wait(self._sandbox.answers, write=False)
            part = os.read(self._sandbox.answers, min(missing, 1 << 20))
            if not part:
                self._gone()
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _send(self, data: bytes) -> None:
        """All of it, though nobody may read there. Raises: StudentGone."""
        view = memoryview(data)
        try:
            while view:
                self._wait(self._sandbox.requests, write=True)
                view = view[os.write(self._sandbox.requests, view[: 1 << 16]) :]
        except BrokenPipeError:
            self._gone()
        except TimeoutError:
            self._sandbox.stop("time")
            raise StudentGone("time") from None

    def _wait(self, fd: int, write: bool) -> None:
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            chosen = ([], [fd], []) if write else ([fd], [], [])
            if any(select.select(*chosen, min(left, 0.1))):
                return
            if self._sandbox.has_ended():
                self._gone()

    def _gone(self) -> None:
        if self._sandbox.has_ended(wait=1.0) is None:
            self._sandbox.stop("it closed its connection")
        raise StudentGone(self._sandbox.ended)


def student_error(header: dict) -> Exception:
    """The exception that an error answer stands for: always one of Python's own, whatever the answer claims."""
    kinds, message = header.get("error"), header.get("message")
    kinds = [kind for kind in kinds if type(kind) is str] if type(kinds) is list else []
    text = clean(message, MESSAGE_CHARACTERS) if type(message) is str else ""
    if kinds[:1] == ["Missing"]:
        hint = "is not defined: is its cell there, and did it run without an error?"
        return Unanswerable(f"`{text}` {hint}", f"a name that the test needs {hint}")
    if kinds[:1] in (["WireError"], ["Failed"]):
        hint = "what came back cannot be compared"
        return Unanswerable(f"{hint}: {text}", hint)
    known = [getattr(builtins, kind, None) for kind in kinds]
    classes = [kind for kind in known if isinstance(kind, type) and issubclass(kind, Exception)]
    usable = [kind for kind in classes if not issubclass(kind, UnicodeError | AssertionError | StopIteration)]
    error = (usable or [RuntimeError])[0](text)
    error.from_student = True
    return error


def clean(text: str, characters: int) -> str:
    """Text of the student's for people: no control characters or escape sequences, and not too much of it."""
    text = ESCAPE.sub("", text[: 2 * characters])
    shown = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text[: characters + 1])
    return shown if len(shown) <= characters else f"{shown[:characters]}…"


def reference(thing: object) -> dict | None:
    """What travels for a proxy or a handle among the arguments."""
    return thing.course_reference if isinstance(thing, Proxy | RemoteHandle) else None


class Proxy(checks.Remote):
    """A name of the student's in a test cell."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name
        self.course_reference = {"t": "name", "v": name}

    def __call__(self, /, *args: object, **kwargs: object) -> Any:
        return self._perform("call", *args, **kwargs)

    def _perform(self, verb: str, /, *args: object, **kwargs: object) -> Any:
        return self._channel.perform(verb, self.course_reference, args, kwargs)

    def _seeded(self, seed: int, /, *args: object, **kwargs: object) -> Any:
        return self._perform("seeded", seed, *args, **kwargs)

    def _gradient(self, /, *args: object, **kwargs: object) -> Any:
        return self._perform("gradient", *args, **kwargs)

    def _value(self) -> Any:
        return self._perform("value")

    def _build(self, /, *args: object, **kwargs: object) -> RemoteHandle:
        number = self._perform("build", *args, **kwargs)
        return RemoteHandle(self._channel, number if type(number) is int else -1)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a test cell asks for {self._name}.{name}: use checks.build or checks.value")


class RemoteHandle(checks.Remote):
    """`checks.Handle` for an object that lives in the student's process."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel = channel
        self.course_reference = {"t": "handle", "v": number}

    def _perform(self, verb: str, /, *args: object, **kwargs: object) -> Any:
        return self._channel.perform(verb, self.course_reference, args, kwargs)

    def __call__(self, /, *inputs: object, **kwargs: object) -> Any:
        return self._perform("call", *inputs, **kwargs)

    def _seeded(self, seed: int, /, *args: object, **kwargs: object) -> Any:
        return self._perform("seeded", seed, *args, **kwargs)

    def _gradient(self, /, *args: object, **kwargs: object) -> Any:
        return self._perform("gradient", *args, **kwargs)

    def call(self, method: str, /, *args: object, **kwargs: object) -> Any:
        """The result of a method."""
        return self._perform("handle.call", method, *args, **kwargs)

    def attribute(self, name: str) -> Any:
        """An attribute's value."""
        return self._perform("handle.attribute", name)

    def state(self) -> Any:
        """A copy of the module's state dict."""
        return self._perform("handle.state")

    def load(self, state: dict) -> None:
        """Load a state dict, strictly."""
        self._perform("handle.load", state)

    def gradient(self, /, *inputs: object, **kwargs: object) -> Any:
        """{parameter: gradient of the output's weighted sum}."""
        return self._perform("handle.gradient", *inputs, **kwargs)

    def train(self) -> RemoteHandle:
        """Switch to training mode."""
        self._perform("handle.train")
        return self

    def eval(self) -> RemoteHandle:
        """Switch to evaluation mode."""
        self._perform("handle.eval")
        return self
