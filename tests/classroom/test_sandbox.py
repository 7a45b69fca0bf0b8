"""The sandbox's parts: its command line, its refusals, and the way it counts and ends what runs in it."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile import needs_bubblewrap

from course_lib.classroom import sandbox, seccomp
from course_lib.classroom.sandbox import Limits, Sandbox, SandboxMissing


@pytest.fixture
def fresh():
    """`require_bubblewrap` forgets what it found before and after."""
    sandbox.require_bubblewrap.cache_clear()
    yield
    sandbox.require_bubblewrap.cache_clear()


def test_missing_bubblewrap_is_refused_with_instructions(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        SandboxMissing, match=r"is not installed[\s\S]*apt-get install bubblewrap[\s\S]*--unsafe"
    ):
        sandbox.require_bubblewrap()
    with pytest.raises(SandboxMissing):
        Sandbox(Limits())


def test_bubblewrap_that_does_not_work_is_refused_with_its_words(fresh, monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SandboxMissing, match=r"No permissions to create new namespace[\s\S]*AppArmor"):
        sandbox.require_bubblewrap()


def test_bubblewrap_that_only_pretends_is_refused(fresh, monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SandboxMissing):
        sandbox.require_bubblewrap()


def test_a_course_that_is_its_own_environment_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "REPOSITORY", Path(sys.prefix))
    with pytest.raises(SandboxMissing, match="put them apart"):
        sandbox.bubblewrap_command(Limits())


def test_a_course_below_the_environment_is_covered(monkeypatch):
    below = Path(sys.prefix) / "lib"
    monkeypatch.setattr(sandbox, "REPOSITORY", below)
    command = sandbox.bubblewrap_command(Limits())
    bound, covered = command.index(os.path.realpath(sys.prefix)), command.index(str(below))
    assert bound < covered
    assert command[covered - 1] == "--tmpfs"
    assert command[len(command) - 1 - command[::-1].index(str(below)) - 1] == "--remount-ro"


def test_nothing_of_the_repository_but_the_visible_parts_is_bound():
    command = sandbox.bubblewrap_command(Limits())
    bound = {command[i + 1] for i, word in enumerate(command) if word in ("--ro-bind", "--bind")}
    root = str(sandbox.REPOSITORY)
    inside = {os.path.relpath(path, root) for path in bound if path.startswith(root + os.sep)}
    environment = {path for path in inside if (sandbox.REPOSITORY / path).is_relative_to(sys.prefix)}
    assert inside - environment == set(sandbox.VISIBLE)
    assert "--bind" not in command
    assert root not in bound
    assert not any(Path(path) in (Path.home(), *Path.home().parents) for path in bound)
    solutions = [
        path for path in sandbox.VISIBLE if path.startswith(("course_lib/latent", "course_lib/adversarial"))
    ]
    assert solutions == []


def test_environment_holds_nothing_of_the_lecturers(monkeypatch):
    monkeypatch.setenv("COURSE_GRADING_SEED", "123")
    assert not any("123" in value or "SEED" in name for name, value in sandbox.environment("/w").items())


def test_descendants_are_counted_and_orphans_found():
    script = "import os, time\nfor _ in range(3): os.fork() or time.sleep(60)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-S", "-c", script]) as process:
        deadline = time.monotonic() + 60
        while len(sandbox.descendants(process.pid, 100)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        found = sandbox.descendants(process.pid, 100)
        assert len(found) == 3
        assert len(sandbox.task_ids(process.pid)) == 1
        assert 10**6 < sandbox.resident(process.pid) < 10**8
        assert 0 < sandbox.proportional(process.pid) <= 2 * sandbox.resident(process.pid)
        for pid in [process.pid, *found]:
            os.kill(pid, 9)
    assert sandbox.children(process.pid) == []
    assert sandbox.resident(process.pid) == sandbox.proportional(process.pid) == 0


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended (an ended one may wait for its parent to notice)."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and not any(
        line.startswith("State:\tZ") for line in status.read_text().splitlines()
    )


@needs_bubblewrap
def test_nothing_survives_the_block_and_the_start_leaks_no_descriptor():
    before = set(os.listdir("/proc/self/fd"))
    with Sandbox(Limits()) as box:
        assert box.has_ended() is None
        first = box._first
        assert runs(first)
    assert not runs(first)
    assert set(os.listdir("/proc/self/fd")) == before


def test_unsafe_still_means_a_process_of_its_own():
    with Sandbox(Limits(), unsafe=True) as box:
        assert box.process.pid != os.getpid()
        folder = os.readlink(f"/proc/{box.process.pid}/cwd")
        assert os.listdir(folder) == []
    assert not os.path.exists(folder)
    assert box.process.poll() is not None


# --- system calls -------------------------------------------------------------------------------------------------


def decide(
    program: bytes, number: int, argument: int = 0, audit: int = seccomp.ARCHITECTURES["x86_64"][0]
) -> int:
    """What the filter returns: a small interpreter of the four instructions that it consists of."""
    lines = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    data = {seccomp.NUMBER: number, seccomp.ARCHITECTURE: audit, seccomp.FIRST_ARGUMENT: argument}
    value, at = 0, 0
    while True:
        code, yes, no, operand = lines[at]
        if code == seccomp.RETURN:
            return operand
        if code == seccomp.LOAD:
            value = data[operand]
            at += 1
        else:
            holds = value == operand if code == seccomp.EQUAL else value >= operand
            at += 1 + (yes if holds else no)


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_filter(machine):
    audit, column, socket = seccomp.ARCHITECTURES[machine]
    program = seccomp.program(machine)
    for numbers in seccomp.DENIED.values():
        assert decide(program, numbers[column], audit=audit) == seccomp.ERROR | 1
    allowed = set(range(500)) - {numbers[column] for numbers in seccomp.DENIED.values()} - {socket}
    assert all(decide(program, number, audit=audit) == seccomp.ALLOW for number in allowed)
    families = [family for family in range(50) if decide(program, socket, family, audit) == seccomp.ALLOW]
    assert families == [1, 2, 10]
    assert decide(program, 0, audit=0x40000003) == seccomp.KILL  # 32-bit calls have other numbers
    assert decide(program, seccomp.X32 | 1, audit=audit) != seccomp.ALLOW
    assert len(program) <= 4096 * 8


def test_no_filter_for_an_unknown_machine():
    assert seccomp.program("riscv64") is None


def test_numbers_agree_with_the_systems_header():
    header = Path(f"/usr/include/{platform.machine()}-linux-gnu/asm/unistd_64.h")
    if not header.is_file():
        pytest.skip(f"{header} is not installed")
    known = dict(
        line.split()[1:3] for line in header.read_text().splitlines() if line.startswith("#define __NR_")
    )
    column = seccomp.ARCHITECTURES[platform.machine()][1]
    ours = {f"__NR_{name}": str(numbers[column]) for name, numbers in seccomp.DENIED.items()}
    ours["__NR_socket"] = str(seccomp.ARCHITECTURES[platform.machine()][2])
    assert {name: known[name] for name in ours if name in known} == {
        n: v for n, v in ours.items() if n in known
    }
    assert len(set(ours) & set(known)) > 30
