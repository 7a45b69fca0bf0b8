"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

#: They need a browser, which `make setup` cannot install: `make browser-test` names the folder itself.
collect_ignore = ["browser"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data: $COURSE_DATA_ROOT, else ``shared/data`` beside the checkout; else skips."""
    named = os.environ.get("COURSE_DATA_ROOT")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (set COURSE_DATA_ROOT to a folder that has some)")
    return folder
