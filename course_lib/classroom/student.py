"""The student's process: runs the submission's cells and answers the judge's calls.

It is started by `course_lib.classroom.sandbox`, and shares its interpreter with the submission, which may replace
anything in it, this module included. Nothing that it says is trusted, and nothing here defends anything: it is
written for honest submissions. What it must not know (the tests, the solutions, the seed) never comes here.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from course_lib.classroom import wire

MESSAGE_CHARACTERS = 2_000
LIBRARY_BYTES = 8 << 30  # of address space: PyTorch's libraries alone take three, without using memory
PNG_IN_HTML = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
HANDLE_VERBS = ("call", "attribute", "state", "load", "gradient", "train", "eval")


class Truncated(io.StringIO):
    """A text stream that keeps the first `limit` characters and forgets the rest."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._left = limit

    def write(self, text: str) -> int:
        """Always says that all was written."""
        kept = text[: self._left]
        self._left -= len(kept)
        super().write(kept)
        return len(text)


class Student:
    """An IPython shell for the submission's cells, and the objects that the judge's tests build."""

    def __init__(self, output_bytes: int) -> None:
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.xmode = "Plain"
        config.InteractiveShell.colors = "nocolor"
        self.shell = InteractiveShell.instance(config=config)
        self.shell.display_pub.publish = self._publish  # rich output, e.g. plotting.show
        self._output_bytes = output_bytes
        self._images: list[bytes] = []
        self._handles: list[Any] = []

    def _publish(self, data: dict[str, Any], *args: object, **kwargs: object) -> None:
        """What IPython does with display(…): keep the text and the picture."""
        if "image/png" in data:
            png = data["image/png"]
            self._images.append(base64.b64decode(png) if isinstance(png, str) else png)
        elif found := PNG_IN_HTML.search(str(data.get("text/html", ""))):
            self._images.append(base64.b64decode(found[1]))
        print(data.get("text/plain", ""))

    def cell(self, text: str) -> dict[str, Any]:
        """Run one cell; {"text", "error" (None or one line), "images"}, texts and PNG pictures as bytes in arrays."""
        self._images = []
        captured = Truncated(self._output_bytes)
        sys.stdout = sys.stderr = captured
        try:
            result = self.shell.run_cell(text, store_history=True)
            self._figures()
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        error = result.error_before_exec or result.error_in_exec
        line = None if error is None else f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]
        return {
            "text": as_array(captured.getvalue().encode(errors="replace")),
            "error": None if line is None else as_array(line.encode(errors="replace")),
            "images": [as_array(png) for png in self._images],
        }

    def _figures(self) -> None:
        """Keep the open matplotlib figures as pictures and close them, as a notebook's cell does at its end."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        for number in pyplot.get_fignums() if pyplot else ():
            file = io.BytesIO()
            pyplot.figure(number).savefig(file, format="png", dpi=72)
            self._images.append(file.getvalue())
        if pyplot:
            pyplot.close("all")

    def resolve(self, reference: dict) -> Any:
        """The object that a name or a handle of the judge's means. Raises: Missing for an unknown name."""
        if reference["t"] == "handle":
            return self._handles[reference["v"]]
        if reference["v"] not in self.shell.user_ns:
            raise Missing(reference["v"])
        return self.shell.user_ns[reference["v"]]

    def perform(self, verb: str, target: Any, args: tuple, kwargs: dict) -> Any:
        """What the judge asks to be done with `target`; its printed output is thrown away."""
        sys.stdout = sys.stderr = Truncated(0)
        try:
            return self._verb(verb, target)(*args, **kwargs)
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__

    def _verb(self, verb: str, target: Any) -> Callable:
        if verb == "call":
            return target
        if verb == "value":
            return lambda: target
        from course_lib.classroom import checks

        if verb == "gradient":
            return lambda *args, **kwargs: checks.gradient(target, *args, **kwargs)
        if verb == "seeded":
            return lambda seed, /, *args, **kwargs: checks.seeded(seed, target, *args, **kwargs)
        if verb == "build":
            return lambda *args, **kwargs: self._keep(checks.build(target, *args, **kwargs))
        name = verb.removeprefix("handle.")
        if name not in HANDLE_VERBS:
            raise ValueError(f"no such verb: {verb}")
        done = getattr(target, name)
        return done if name not in ("train", "eval") else lambda: done() and None

    def _keep(self, handle: Any) -> int:
        self._handles.append(handle)
        return len(self._handles) - 1


def as_array(data: bytes) -> Any:
    """Bytes in the form in which they may be of any length on the wire."""
    import numpy as np

    return np.frombuffer(data, dtype=np.uint8)


class Missing(NameError):
    """The submission has no object of that name."""


def answer(student: Student, header: dict, blobs: list[memoryview], limit: int) -> bytes:
    """The frame that answers one request; errors of the submission's code are answers too."""
    encoder = wire.Encoder()
    try:
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # the judge's way to stop what takes too long
        decode = wire.Decoder(blobs, student.resolve, modules=True)
        if header["op"] == "cell":
            result = student.cell(decode(header["text"]).tobytes().decode())
        else:
            target = student.resolve(header["target"])
            args, kwargs = decode(header["args"]), decode(header["kwargs"])
            result = student.perform(header["op"], target, args, kwargs)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        value = encoder(result)
        if sum(map(len, encoder.blobs)) > limit:
            raise wire.WireError(f"the result is larger than {limit} bytes")
        return wire.pack({"id": header["id"], "value": value}, encoder.blobs)
    except BaseException as error:  # SystemExit too: a call to exit() must not end the other tasks
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return wire.pack({"id": header["id"], "error": kinds, "message": str(error)[:MESSAGE_CHARACTERS]}, [])


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the judge closes the pipe. The first one brings limits and files."""
    student, limit = None, 0
    while prefix := requests.read(wire.PREFIX):
        header, blobs = wire.unpack(requests.read(int.from_bytes(prefix, "big")))
        if student is None:
            setup = wire.Decoder(blobs)(header["setup"])
            restrict(setup)
            for name, content in setup["files"].items():
                with open(name, "wb") as file:
                    file.write(content.tobytes())
            limit = setup["answer_bytes"]
            student = Student(setup["output_bytes"])
            for name in setup["modules"]:
                with contextlib.suppress(ImportError):  # the cell that asks for it will say so
                    importlib.import_module(name)
            frame = wire.pack({"id": header["id"], "value": {"t": "const", "v": None}}, [])
        else:
            frame = answer(student, header, blobs, limit)
        answers.write(frame)
        answers.flush()


def restrict(setup: dict[str, int]) -> None:
    """Limits that the kernel enforces on this process and what it starts, before any of the submission runs."""
    for kind, value in (
        (
            resource.RLIMIT_DATA,
            setup["memory_bytes"] - setup["memory_bytes"] // 20,
        ),  # before the watcher ends it
        (resource.RLIMIT_AS, setup["memory_bytes"] + LIBRARY_BYTES),
        (resource.RLIMIT_FSIZE, setup["file_bytes"]),
        (resource.RLIMIT_CPU, setup["cpu_seconds"]),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def main() -> None:
    """`python … REQUEST_FD ANSWER_FD`, as `course_lib.classroom.sandbox` starts it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)  # the judge, which watches, comes first
    with os.fdopen(int(sys.argv[1]), "rb") as requests, os.fdopen(int(sys.argv[2]), "wb") as answers:
        serve(requests, answers)
