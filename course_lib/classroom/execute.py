"""Run notebooks from top to bottom and keep what a reader needs: `python -m course_lib.classroom.execute [PATH …]`.

A committed lecture is read far more often than it is run, so its outputs stay in the file, but only those that
say something and stay the same from one run to the next. Progress bars, widget state, timestamps and the
kernel's own metadata go; figures, printed results and tables stay. An interactive figure keeps the static
picture that it carries (see `course_lib.widgets`). A notebook with an error is left as it was on disk.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT_CELL_METADATA = ("tags", "slideshow", "nbgrader", "editable", "deletable")
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
MAX_KILOBYTES = 400


def clean(notebook: NotebookNode) -> NotebookNode:
    """The notebook with light, stable outputs and metadata (changed in place and returned).

    Idempotent: a cleaned notebook comes back unchanged.
    """
    notebook.metadata = NotebookNode(kernelspec=KERNELSPEC, language_info={"name": "python"})
    count = 0
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA})
        if cell.cell_type != "code":
            continue
        if cell.source.strip():  # the kernel does not count an empty cell
            count += 1
        cell.execution_count = count if cell.source.strip() else None
        kept = [out for out in map(_clean_output, _merge_streams(cell.outputs)) if out is not None]
        cell.outputs = _merge_streams(kept)  # what stood between two pieces may be gone
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = cell.execution_count
    return notebook


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs with pieces of one stream joined: how a kernel cuts a text depends on its timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _clean_output(output: NotebookNode) -> NotebookNode | None:
    """One output without what only a live kernel can use, or None if nothing is left of it."""
    if output.output_type == "stream" and output.name == "stderr":
        # A progress bar redraws its line with carriage returns; warnings do not, and stay visible.
        lines = [line for line in output.text.split("\n") if "\r" not in line and line.strip()]
        output.text = re.sub(r"\S*ipykernel_\d+\S*\.py", "<cell>", "".join(line + "\n" for line in lines))
        return output if lines else None
    if (
        "data" in output
        and output.data.pop(WIDGET_MIME, None) is not None
        and not set(output.data) - {"text/plain"}
    ):
        return None  # a widget that carries no static picture: its text is a Python repr
    return output


def unstable_text(notebook: NotebookNode) -> list[str]:
    """What in the printed outputs would differ on another machine: memory addresses and paths of this one."""
    places = {str(Path.home()), str(Path.cwd()), tempfile.gettempdir() + os.sep, sys.prefix} - {"/", os.sep}
    pattern = re.compile("|".join([r"\bat 0x[0-9a-f]{6,}", *map(re.escape, sorted(places))]))
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            texts = [output.get("text", "")] + [
                re.sub(r"base64,[^\"']*", "", value)  # a picture's bytes are no text
                for mime, value in output.get("data", {}).items()
                if mime.startswith("text/")
            ]
            found += [f"cell {number}: {match.group()}" for text in texts for match in pattern.finditer(text)]
    return found


def execute(path: Path, *, timeout: float = 600, write: bool = True) -> NotebookNode:
    """Run the notebook at `path` in its own folder with a fresh kernel and, with `write`, store it cleaned.

    Raises `nbclient`'s CellExecutionError, CellTimeoutError (`timeout` is in seconds, for each cell) or
    DeadKernelError, and ValueError if an output is too large or would differ between machines; the file is then
    left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=timeout,
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        record_timing=False,
    )
    client.execute(env={**os.environ, "TQDM_DISABLE": "1"})  # nobody watches the bars
    text = light_text(clean(notebook))
    if write:
        write_atomically(path, text.encode())
    return notebook


def light_text(notebook: NotebookNode) -> str:
    """The notebook's file contents. Raises ValueError if it is too large or holds unstable text."""
    if found := unstable_text(notebook):
        raise ValueError(f"outputs that differ between machines: {'; '.join(found[:5])}")
    text = nbformat.writes(notebook) + "\n"
    kilobytes = len(text.encode()) / 1024
    if kilobytes > MAX_KILOBYTES:
        raise ValueError(
            f"{kilobytes:.0f} KB with its outputs; at most {MAX_KILOBYTES} KB are kept: fewer or smaller figures"
        )
    return text


def write_atomically(path: Path, content: bytes) -> None:
    """The file holds either the old content or the new one, also after Ctrl-C or on a full disk."""
    mode = path.stat().st_mode if path.exists() else 0o644
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the number of notebooks that failed (at most 1 as an exit status)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; default: every lecture in notebooks/")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one cell (default 600)")
    parser.add_argument("--check", action="store_true", help="run only: leave the files as they are")
    args = parser.parse_args(argv)
    paths = args.paths or sorted(Path("notebooks").glob("*.ipynb"))
    if missing := [str(path) for path in paths if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(missing)}")
    if not paths:
        parser.error("no notebook found in notebooks/: run this in the repository's root")

    failed = []
    for path in paths:
        print(f"{path} … ", end="", flush=True)
        start = time.perf_counter()
        try:
            execute(path.resolve(), timeout=args.timeout, write=not args.check)
        except (CellExecutionError, CellTimeoutError, DeadKernelError, ValueError) as error:
            failed.append(path)
            print(f"FAILED after {time.perf_counter() - start:.0f} s\n{error}", flush=True)
        else:
            print(f"{time.perf_counter() - start:.0f} s, {path.stat().st_size / 1024:.0f} KB", flush=True)
    print(f"{len(paths) - len(failed)} of {len(paths)} notebooks ran from top to bottom.")
    return min(len(failed), 1)


if __name__ == "__main__":
    sys.exit(main())
