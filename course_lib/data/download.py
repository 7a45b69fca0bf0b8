"""Fetching a file so that it is there, whole and right, or not there at all.

A download goes into a temporary file beside its goal, its length and checksum are compared, and only then it takes its
name (``os.replace`` is atomic within a folder). Archives are unpacked into a temporary folder and renamed likewise.
Whatever goes wrong (no network, a cut connection, a wrong checksum, a full disk, Ctrl-C), the temporary file is
removed and ``DataError`` says what to do.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 30  # seconds without a byte
PIECE = 1 << 20


class DataError(RuntimeError):
    """A data set is neither there nor to be had, or is damaged. The message says what to do about it."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web and what proves that a copy is right.

    Attributes:
        path: where it belongs, relative to the root of the data.
        urls: mirrors, tried in this order.
        digest: "md5:…" or "sha256:…", or "" where nobody has published one.
        length: in bytes; 0 if unknown.
    """

    path: str
    urls: tuple[str, ...]
    digest: str = ""
    length: int = 0

    def problem(self, file: Path) -> str:
        """What is wrong with a local copy; empty if nothing is."""
        if self.length and file.stat().st_size != self.length:
            return f"it has {file.stat().st_size:,} bytes instead of {self.length:,}"
        if self.digest:
            algorithm, expected = self.digest.split(":")
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, algorithm).hexdigest()
            if found != expected:
                return f"its {algorithm.upper()} is {found} instead of {expected}"
        return ""


def fetch(remote: RemoteFile, root: Path) -> Path:
    """The checked local copy of ``remote`` under ``root``, downloaded if it is not there.

    Raises:
        DataError: no mirror gave the right file, or the copy that is there is damaged; nothing is left behind.
    """
    goal = root / remote.path
    if goal.is_file():
        problem = remote.problem(goal)
        if problem:
            raise DataError(
                f"{goal} is damaged: {problem}. Delete it and try again: it will be downloaded anew."
            )
        return goal
    failures = []
    for url in remote.urls:
        try:
            _download(url, remote, goal)
        except (OSError, http.client.HTTPException, _WrongFileError) as error:
            failures.append(f"  {url}: {_reason(error)}")
        else:
            return goal
    raise DataError(
        f"{goal.name} could not be downloaded to {goal.parent}:\n"
        + "\n".join(failures)
        + f"\nNothing was left half-written. Try again later, or fetch the file on another machine and put it at\n"
        f"  {goal}\n(or point COURSE_DATA_ROOT, or root=, at a folder that has {remote.path}). Without a network "
        "use an embedded set: digits, glyphs, sprites, creatures, facades_synthetic, toy2d/…"
    )


class _WrongFileError(Exception):
    """What came is not the file."""


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return f"no connection ({error.reason})"
    return str(error) or type(error).__name__


def _download(url: str, remote: RemoteFile, goal: Path) -> None:
    goal.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(goal.parent, goal.name) as scratch:
        part = scratch / goal.name
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, PIECE)
            announced = answer.headers.get("Content-Length")
        if announced is not None and part.stat().st_size != int(announced):
            raise _WrongFileError(f"cut off after {part.stat().st_size:,} of {int(announced):,} bytes")
        problem = remote.problem(part)
        if problem:
            raise _WrongFileError(f"not the right file: {problem}")
        part.replace(goal)


@contextmanager
def _temporary(folder: Path, name: str) -> Iterator[Path]:
    """A new folder beside the goal (same file system, so that renaming is atomic), removed in any case."""
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as scratch:
        yield Path(scratch)


def unpack(archive: Path, goal: Path, inner: str, required: Sequence[str]) -> None:
    """Unpacks the folder ``inner`` of a .tar.gz or .zip to ``goal``: all of it, or nothing.

    Args:
        required: sub-folders that must be in it.

    Raises:
        DataError: damaged archive, missing folders, names that lead outside, or no room.
    """
    try:
        with _temporary(goal.parent, goal.name) as scratch:
            _extract(archive, scratch)
            missing = [name for name in required if not (scratch / inner / name).is_dir()]
            if missing:
                raise DataError(f"{archive} lacks the folders {', '.join(missing)}. Delete it and try again.")
            if not goal.is_dir():  # another process may have been faster
                (scratch / inner).replace(goal)
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{archive} could not be unpacked to {goal}: {str(error) or type(error).__name__}. "
            "Nothing was left half-written. Make room if the disk is full; if the archive is damaged, delete it and "
            "try again."
        ) from error


def _extract(archive: Path, folder: Path) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)  # drops "..", and checks the CRC of every member
    else:
        with tarfile.open(archive) as opened:
            # Folders and files only, by hand: the filters of `extractall` came with Python 3.11.4.
            for member in opened:
                goal = (folder / member.name).resolve()
                if not goal.is_relative_to(folder.resolve()):
                    raise tarfile.TarError(f"the name {member.name!r} leads outside")
                if member.isfile():
                    goal.parent.mkdir(parents=True, exist_ok=True)
                    with opened.extractfile(member) as source, open(goal, "wb") as target:
                        shutil.copyfileobj(source, target)
            # The archive ends before gzip's own checksum: reading on to the end of the stream compares it.
            while opened.fileobj.read(PIECE):
                continue
