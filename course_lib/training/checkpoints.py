"""Files that are there completely or not at all, and that run no code when they are read."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHECKPOINT_FORMAT = 1
CHECKPOINT_KEYS = {"algorithm", "step", "seed", "epoch", "position", "random", "history", "state"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: damaged, of another algorithm, of other shapes. Nothing was modified."""


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a file that is there completely or not at all, and that ``torch.load(weights_only=True)`` reads.

    Raises:
        TypeError: something in it is neither a tensor nor plain data; names it.
        OSError: it could not be written (disk full, no permission). A former file is left as it was.
    """
    _require_plain_data(content, "checkpoint")
    path = Path(path)
    buffer = io.BytesIO()  # torch.save into a file would hide the operating system's reason for a failure
    torch.save(content, buffer)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the former checkpoint is unchanged" if path.exists() else ""
        reason = f"could not write the checkpoint {path} ({buffer.tell():,} bytes): {error.strerror or error}{kept}"
        raise OSError(error.errno, reason) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what ``fit`` wrote. Tensors come to the CPU; no code in the file is run.

    Raises:
        CheckpointError: damaged, not one of ours, or of another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises half a dozen types for the ways in which a file can be damaged
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        message = f"{path} is damaged or not a checkpoint ({reason}); delete it to begin anew, or use a copy"
        raise CheckpointError(message) from error
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path} holds something else than a checkpoint of fit")
    if content["format"] != CHECKPOINT_FORMAT or (missing := CHECKPOINT_KEYS - content.keys()):
        found = (
            f"lacks {missing}"
            if content["format"] == CHECKPOINT_FORMAT
            else f"has format {content['format']}"
        )
        raise CheckpointError(f"{path} {found}; this version reads format {CHECKPOINT_FORMAT}")
    return content


def _require_plain_data(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain_data(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple | set):
        for i, item in enumerate(value):
            _require_plain_data(item, f"{where}[{i}]")
    elif not isinstance(
        value, Tensor | int | float | complex | str | bytes | torch.dtype | torch.device | None
    ):
        raise TypeError(
            f"{where} is a {type(value).__name__}: a checkpoint holds tensors, numbers, strings and containers"
        )
