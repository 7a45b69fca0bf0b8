"""What studies store: a CSV file with one row for each setting and seed, below the command that makes it; weights."""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn


def read_table(path: Path, **kinds: Callable[[str], str | float]) -> list[dict[str, str | float]]:
    """The rows. ``setting`` is text, ``seed`` a whole number, the others are floats unless ``kinds`` says otherwise."""
    kinds = {"setting": str, "seed": int, **kinds}  # so that writing rows back changes nothing
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [{k: kinds.get(k, float)(v) for k, v in row.items()} for row in rows]


def write_table(
    rows: Sequence[Mapping[str, str | float]], path: Path, fields: Sequence[str], command: str
) -> None:
    """Write the table, complete or not at all, below the command that makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        file.write(f"# {command}\n")
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def store_weights(networks: Mapping[str, nn.Module], path: Path) -> None:
    """Write the numbers of some networks, named, in half precision."""
    arrays = {
        f"{name}/{key}": value.detach().cpu().half().numpy()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    write_arrays(arrays, path)


def write_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write named arrays into one .npz file: complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)


def load_weights(networks: Mapping[str, nn.Module], path: Path) -> None:
    """Read what `store_weights` wrote into networks of the same build; gradients off, evaluation mode.

    Raises: KeyError for a name that is not stored; RuntimeError for another build.
    """
    with np.load(path) as arrays:
        for name, network in networks.items():
            mine = [key for key in arrays if key.startswith(f"{name}/")]
            if not mine:
                raise KeyError(f"{path.name} holds no network {name!r}")
            state = {key.removeprefix(f"{name}/"): torch.from_numpy(arrays[key]).float() for key in mine}
            network.load_state_dict(state)
            network.eval().requires_grad_(False)


def study_parser(
    description: str,
    settings: Collection[str] | None = None,
    help_for_seeds: str = "of each setting (default 3)",
    seeds: int = 3,
) -> argparse.ArgumentParser:
    """What the command of every study takes: --run, --seeds, --only (of ``settings``; None: any text)."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", action="store_true", help="measure and store, in place of printing what is stored"
    )
    parser.add_argument("--seeds", type=int, default=seeds, help=help_for_seeds)
    parser.add_argument("--only", nargs="+", choices=settings, metavar="SETTING", help="measure these only")
    return parser


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean (least to most), the latter two with that many decimal places."""
    return f"{statistics.mean(values):.1f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
