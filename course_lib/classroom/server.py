"""A process that loads what is slow once and forks for each request: a crash costs one request, not the run."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable

EXCEPTION = 1  # the exit status after one


class Server:
    """Starts `serve(module.handler)` in a process of its own, and asks it. Several threads may share one."""

    def __init__(self, module: str, handler: str, path: str) -> None:
        code = f"from course_lib.classroom import server; from {module} import {handler}; server.serve({handler})"
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={**os.environ, **threads, "PYTHONPATH": path},
        )  # fmt: skip

    def usable(self) -> bool:
        """Whether it was started by this very process (not by one that this was forked from) and still runs."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, request: bytes, seconds: float) -> bytes:
        """The handler's answer. Raises: RuntimeError if the handler raised, crashed or took longer than `seconds`."""
        with self._lock:
            if not self.usable():
                raise RuntimeError("the judge's process ended")
            try:
                write(self._process.stdin.fileno(), seconds.hex().encode())
                write(self._process.stdin.fileno(), request)
                status, answer = read(self._process.stdout.fileno()), read(self._process.stdout.fileno())
            except BaseException as error:  # Ctrl-C too: a half-read answer must not become the next one's
                self.close()
                if isinstance(error, OSError | EOFError):
                    raise RuntimeError("the judge's process ended") from None
                raise
        if status != b"0":
            raise RuntimeError(
                f"the judge itself failed ({status.decode()})\n{answer.decode(errors='replace')}"
            )
        return answer

    def close(self) -> None:
        """End it, with what it is doing."""
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def serve(handler: Callable[[bytes], bytes]) -> None:
    """Answer requests from the standard input until it is closed, each in a fork."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # nothing that is printed may get between the answers
    while True:
        try:
            seconds, request = float.fromhex(read(requests).decode()), read(requests)
        except EOFError:
            return
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            for fd in (requests, answers, reading):
                os.close(fd)
            _work(handler, request, writing)
        os.close(writing)
        answer, status = _collect(reading, requests, time.monotonic() + seconds)
        if status:
            os.kill(child, signal.SIGKILL)
        os.close(reading)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == "nobody waits":
            return
        write(
            answers, (status or {0: "0", EXCEPTION: "an exception"}.get(code, f"exit status {code}")).encode()
        )
        write(answers, answer)


def _work(handler: Callable[[bytes], bytes], request: bytes, writing: int) -> None:
    """The forked process's whole life."""
    code = EXCEPTION
    try:
        answer, code = handler(request), 0
    except BaseException:  # reported to whoever asked
        answer = traceback.format_exc()[-4000:].encode()
    with os.fdopen(writing, "wb") as file:
        file.write(answer)
    os._exit(code)


def _collect(reading: int, requests: int, deadline: float) -> tuple[bytes, str]:
    """All that comes until the pipe's end, and what is wrong: nothing, the deadline, or that nobody waits for it."""
    parts = []
    while True:
        ready = select.select([reading, requests], [], [], max(0.0, deadline - time.monotonic()))[0]
        if requests in ready:  # requests come one at a time: this is the end of the one who asked
            return b"", "nobody waits"
        if not ready:
            return b"", "no answer in time"
        part = os.read(reading, 1 << 20)
        if not part:
            return b"".join(parts), ""
        parts.append(part)


def write(fd: int, data: bytes) -> None:
    """The data behind its length."""
    view = memoryview(len(data).to_bytes(8, "big") + data)
    while view:
        view = view[os.write(fd, view) :]


def read(fd: int) -> bytes:
    """What `write` wrote. Raises: EOFError."""
    return _exactly(fd, int.from_bytes(_exactly(fd, 8), "big"))


def _exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
