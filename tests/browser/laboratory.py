"""A JupyterLab of its own for the tests, and a lecture that is open in it.

The server has its own port, token, settings and workspaces, all in a temporary folder, and serves a copy of the
lectures: neither the committed files nor the reader's JupyterLab notice anything. Nothing is asked of the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
    # Every cell is in the page and has a size, also far below what is visible.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
START_SECONDS = 90


class Laboratory:
    """A running server: `open(page, name)` opens one of the notebooks in `root`."""

    def __init__(self, address: str, token: str, root: Path) -> None:
        self.address, self.token, self.root = address.rstrip("/"), token, root

    def open(self, page, name: str) -> None:
        """Open notebooks/name in a workspace of its own and wait for its kernel."""
        workspace = quote(name.removesuffix(".ipynb"))
        page.goto(f"{self.address}/lab/workspaces/{workspace}/tree/{quote(name)}?token={self.token}")
        page.wait_for_function(READY, timeout=120_000)


READY = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.context?.isReady && panel.sessionContext.session?.kernel?.status === "idle";
}"""


@contextmanager
def laboratory(folder: Path) -> Iterator[Laboratory]:
    """A JupyterLab that lives as long as the `with` block; everything it writes lies in `folder`."""
    root = folder / "notebooks"
    shutil.copytree(NOTEBOOKS, root, ignore=shutil.ignore_patterns("exercises", ".*"))
    write_settings(folder / "settings")
    process = subprocess.Popen(command(root), env=environment(folder), cwd=root, **log(folder))
    try:
        yield wait_for(process, folder)
    finally:
        process.terminate()  # it shuts its kernels down first
        process.wait(timeout=60)


def command(root: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
        f"--ServerApp.root_dir={root}",
        "--ServerApp.port=0",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]


def environment(folder: Path) -> dict[str, str]:
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {**os.environ, **{name: str(folder / part) for name, part in places.items()}}


def write_settings(folder: Path) -> None:
    for name, settings in SETTINGS.items():
        path = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))


def log(folder: Path) -> dict:
    return {"stdout": (folder / "server.log").open("w"), "stderr": subprocess.STDOUT}


def wait_for(process: subprocess.Popen, folder: Path) -> Laboratory:
    """The server once it listens. Raises: RuntimeError with the end of its log if it does not come up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for note in (folder / "runtime").glob("jpserver-*.json"):
            if "is running at" in (folder / "server.log").read_text():
                facts = json.loads(note.read_text())
                return Laboratory(facts["url"], facts["token"], folder / "notebooks")
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{(folder / 'server.log').read_text()[-3000:]}")
