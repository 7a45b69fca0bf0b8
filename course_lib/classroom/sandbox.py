"""Starts the student's process where it can do no harm, watches it, and ends it.

With bubblewrap (https://github.com/containers/bubblewrap) the process has its own user, process, network, IPC, host
name and mount namespaces, no capabilities and no network. It sees the system and the Python environment read-only, of
the course the few modules that an exercise may import, and one folder in memory to write to: no home, no solutions, no
gradebook, no other submission. The kernel limits address space, processor time, file size and open files of each
process; a thread here counts processes and memory of the whole tree, watches the clock, and kills all at once (the
first process of a process namespace takes the others with it).

Without bubblewrap the two processes remain, and every limit, but the submission can read what the user can read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import select
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

from course_lib.classroom import seccomp

REPOSITORY = Path(__file__).resolve().parents[2]
COURSE = "/course"
WORK = "/tmp/submission"
#: Parts of the repository that a submission may import or read; the modules with the solutions are not among them.
VISIBLE = (
    "course_lib/__init__.py", "course_lib/data", "course_lib/plotting.py", "course_lib/widgets.py",
    "course_lib/classroom/__init__.py", "course_lib/classroom/checks.py", "course_lib/classroom/wire.py",
    "course_lib/classroom/student.py", "data/glyphs.npz",
)  # fmt: skip
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/fonts",
            "/etc/localtime")  # fmt: skip
WATCH_SECONDS = 0.05
KILL_SECONDS = 20.0
TASKS_PER_PROCESS = 4
START = "import sys; sys.path.insert(0, {course!r}); from course_lib.classroom.student import main; main()"
INSTRUCTIONS = """Submissions are graded in a sandbox, and bubblewrap {problem}.
  Debian, Ubuntu: sudo apt-get install bubblewrap      Fedora: sudo dnf install bubblewrap
  Ubuntu 24.04 and later also need an AppArmor profile that lets /usr/bin/bwrap make user namespaces; in containers
  they have to be allowed (see .github/SECURITY.md). Elsewhere: grade on a Linux machine.
  To grade submissions that you trust without a sandbox, say so explicitly (--unsafe)."""


class SandboxMissing(RuntimeError):
    """bubblewrap is not installed or cannot make a sandbox here."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    start_seconds: float = (
        300.0  # to start Python and load what the instructor's cells import: nobody's fault
    )
    cell_seconds: float = 30.0  # one cell of the student's, or one test cell
    total_seconds: float = 120.0  # everything after the start
    memory_bytes: int = 4 << 30  # data of each process (5 % less), and what all together have touched
    processes: int = 64
    file_bytes: int = 50_000_000  # one file
    work_bytes: int = 200_000_000  # all files together (they are kept in memory)
    output_bytes: int = 200_000  # text of one cell
    answer_bytes: int = 64_000_000  # one result that a test asks for


def environment(work: str) -> dict[str, str]:
    """The student process's environment: nothing of the lecturer's."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {
        "PATH": "/usr/bin:/bin", "HOME": work, "USER": "student", "LANG": "C.UTF-8", "TMPDIR": work,
        "MPLBACKEND": "agg", "MPLCONFIGDIR": f"{work}/.matplotlib", "IPYTHONDIR": f"{work}/.ipython",
        "TQDM_DISABLE": "1", "MALLOC_ARENA_MAX": "2", "OMP_WAIT_POLICY": "PASSIVE", **threads,
    }  # fmt: skip


def python_paths() -> set[str]:
    """Folders of the running interpreter and its packages that are to be seen inside."""
    found = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *site.getsitepackages()}
    return {os.path.realpath(path) for path in found if os.path.isdir(path)} | {sys.prefix}


def bubblewrap_command(
    limits: Limits, info_fd: int | None = None, seccomp_fd: int | None = None
) -> list[str]:
    """bwrap with its options, without the program to run."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--disable-userns"]
    command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    command += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    for name, text in environment(WORK).items():
        command += ["--setenv", name, text]
    binds = {path: ("--ro-bind", path) for path in (*SYSTEM, *SETTINGS) if os.path.exists(path)}
    binds |= {path: ("--ro-bind", path) for path in python_paths()}
    if (hidden := str(REPOSITORY)) in binds:
        raise SandboxMissing(f"{hidden} is a Python environment and the course at once: put them apart")
    # An empty folder in its place, if anything around it or in it is bound; its own environment is put back.
    covered = any(REPOSITORY.is_relative_to(path) or Path(path).is_relative_to(REPOSITORY) for path in binds)
    binds |= {hidden: ("--tmpfs", hidden)} if covered else {}
    command += ["--size", str(limits.work_bytes), "--tmpfs", "/tmp", "--dir", WORK, "--chdir", WORK]
    for path, (option, source) in sorted(binds.items()):  # parents come before what is in them
        if option == "--tmpfs":
            command += [option, path]
        else:
            command += (
                ["--symlink", os.readlink(path), path] if os.path.islink(path) else [option, source, path]
            )
    for part in VISIBLE:
        command += ["--ro-bind", str(REPOSITORY / part), f"{COURSE}/{part}"]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", str(limits.work_bytes), "--tmpfs", "/dev/shm"]
    for name, path in font_list().items():  # else matplotlib searches the system's fonts in every sandbox
        command += ["--ro-bind", path, f"{WORK}/.matplotlib/{name}"]
    # /proc too: for root outside, the files of /proc/sys belong to the user inside, and need no capability
    for path in ("/", "/dev", "/proc", *([hidden] if covered else [])):
        command += ["--remount-ro", path]
    if seccomp_fd is not None:
        command += ["--seccomp", str(seccomp_fd)]
    return command + (["--info-fd", str(info_fd)] if info_fd is not None else [])


@functools.cache
def font_list() -> dict[str, str]:
    """matplotlib's stored list of fonts: {name: path}; it is made if it is not there yet."""
    import matplotlib

    folder = Path(matplotlib.get_cachedir())
    if not any(folder.glob("fontlist-*.json")):
        import matplotlib.font_manager  # writes it
    return {path.name: str(path) for path in folder.glob("fontlist-*.json")}


@functools.cache
def require_bubblewrap() -> None:
    """Raises: SandboxMissing, with what to do, unless a sandbox can be made here (tried once)."""
    if shutil.which("bwrap") is None:
        raise SandboxMissing(INSTRUCTIONS.format(problem="is not installed"))
    tried = subprocess.run(
        [*bubblewrap_command(Limits()), sys.executable, "-I", "-S", "-c", "print('inside')"],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if tried.returncode or tried.stdout != "inside\n":
        raise SandboxMissing(INSTRUCTIONS.format(problem=f"does not work here: {tried.stderr.strip()[:500]}"))


class Sandbox:
    """One student process. `requests` and `answers` are this side's ends of the two pipes.

    `ended` says why it was stopped ("time", "memory", "processes"), or how it ended by itself ("exit code 3"), or is
    None while it runs. Use as a context manager: nothing of it survives the block.
    """

    def __init__(self, limits: Limits, unsafe: bool = False) -> None:
        if not unsafe:
            require_bubblewrap()
        self.limits = limits
        self.ended: str | None = None
        self.log = b""  # what was printed past the notebook's own streams, e.g. why the start failed
        self._unsafe = unsafe
        self._before = set(children(os.getpid()))
        self._folder = tempfile.TemporaryDirectory(prefix="course-") if unsafe else None
        self._start(unsafe)
        self._deadline = time.monotonic() + limits.start_seconds
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _start(self, unsafe: bool) -> None:
        requests, self.requests = os.pipe()
        self.answers, answers = os.pipe()
        info, info_inside = os.pipe()
        filter_inside, filter_fd = os.pipe()
        rules = None if unsafe else seccomp.program()
        with os.fdopen(filter_fd, "wb") as file:
            file.write(rules or b"")
        python = [sys.executable, "-I", "-c", START.format(course=str(REPOSITORY) if unsafe else COURSE)]
        wrapper = bubblewrap_command(self.limits, info_inside, filter_inside if rules else None)
        inside = (requests, answers, info_inside, filter_inside)
        self.process = subprocess.Popen(
            [*([] if unsafe else wrapper), *python, str(requests), str(answers)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            pass_fds=inside[: 2 if unsafe else 4],
            env=environment(self._folder.name) if self._folder else {},
            cwd=self._folder.name if self._folder else "/",
        )  # fmt: skip
        for fd in inside:
            os.close(fd)
        os.set_blocking(self.requests, False)
        with os.fdopen(info, "rb") as file:
            report = file.read(
                10_000
            )  # empty: bubblewrap failed, and its exit code will say so; or none is used
        self._first = json.loads(report)["child-pid"] if report else self.process.pid
        self._first_fd = os.pidfd_open(self._first)
        for pid in (self.process.pid, self._first, *children(self._first)):
            with contextlib.suppress(
                OSError
            ):  # where memory runs out, the kernel is to end these before any other
                Path(f"/proc/{pid}/oom_score_adj").write_text("1000")

    def begin(self) -> None:
        """The process is ready; from now on `total_seconds` count."""
        self._deadline = time.monotonic() + self.limits.total_seconds

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._watcher.join()
        self._kill()
        self.process.wait()
        os.close(self.requests)
        os.close(self.answers)
        os.close(self._first_fd)
        self.process.stdout.close()
        if self._folder:
            self._folder.cleanup()

    def interrupt(self) -> None:
        """Ctrl-C for what runs in the student's process."""
        python = self._first if self._unsafe else next(iter(children(self._first)), None)
        if python is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(python, signal.SIGINT)

    def stop(self, why: str) -> None:
        """End all of it now."""
        self.ended = self.ended or why
        self._kill()

    def has_ended(self, wait: float = 0.0) -> str | None:
        """Why it ended, or None if it still runs after `wait` seconds."""
        if self.ended is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(wait)
                code = 128 - code if code < 0 else code  # as bubblewrap says it
                self.ended = self.ended or (f"signal {code - 128}" if code > 128 else f"exit code {code}")
        return self.ended

    def _kill(self) -> None:
        if self._unsafe:
            while victims := [*descendants(self._first, 10**6), *(set(children(os.getpid())) - self._before)]:
                for (
                    pid
                ) in victims:  # orphans of the student's are this process's children if it is a subreaper
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._reap(victims)
        elif self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)  # process 1 of its namespace
            select.select([self._first_fd], [], [], KILL_SECONDS)  # it has ended when all others there have
            self.process.kill()

    def _reap(self, pids: list[int]) -> None:
        self.process.poll()
        for pid in set(pids) - {self.process.pid}:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _watch(self) -> None:
        """The watching thread: clock, processes, memory, and what is printed to the real output."""
        output = self.process.stdout.fileno()
        while not self._stopping.is_set():
            if select.select([output], [], [], WATCH_SECONDS)[0]:
                data = os.read(output, 65536)
                self.log += data[: max(0, self.limits.output_bytes - len(self.log))]
                if not data:
                    self._stopping.wait(WATCH_SECONDS)
            if self.process.poll() is None and (why := self._excess()):
                self.stop(why)

    def _excess(self) -> str | None:
        """Which limit is exceeded, if one is."""
        if time.monotonic() > self._deadline:
            return "time"
        tree = [self._first, *descendants(self._first, self.limits.processes + 10)]
        tasks = sum(len(task_ids(pid)) for pid in tree)
        if len(tree) > self.limits.processes + 2 or tasks > TASKS_PER_PROCESS * self.limits.processes:
            return "processes"
        if sum(map(resident, tree)) <= self.limits.memory_bytes:  # counts shared pages once for each process
            return None
        return "memory" if sum(map(proportional, tree)) > self.limits.memory_bytes else None


def task_ids(pid: int) -> list[str]:
    """The threads of a process; none if it is gone."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def children(pid: int) -> list[int]:
    """The processes that the threads of a process started (or inherited)."""
    found = []
    for task in task_ids(pid):
        try:
            found += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
        except OSError:  # it ended between the two looks
            continue
    return found


def descendants(pid: int, limit: int) -> list[int]:
    """All processes below one, about `limit` at most; orphans too: the first of their namespace adopts them."""
    found = children(pid)
    for child in found:  # grows while it is walked through
        if len(found) > limit:
            break
        found += children(child)
    return found


def resident(pid: int) -> int:
    """Bytes of its own memory that a process has touched: anonymous and shared, but no files (they can be dropped)."""
    return _kilobytes(f"/proc/{pid}/status", ("RssAnon:", "RssShmem:")) * 1024


def proportional(pid: int) -> int:
    """The same with shared pages divided by the number of those who share them, where the kernel tells."""
    told = _kilobytes(f"/proc/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) * 1024
    return told or resident(pid)  # a process that hides, or an old kernel: counted in full


def _kilobytes(path: str, keys: tuple[str, ...]) -> int:
    """The sum of these lines of a file in /proc; 0 if the process is gone or the file is not to be read."""
    try:
        words = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return 0
    return sum(int(line[1]) for line in words if line and line[0] in keys)
