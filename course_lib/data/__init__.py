"""One door to all data of the course: ``load(name)``, ``describe(name)``, ``names()``, ``loader(dataset, …)``;
``load_unpaired(name)`` for two sets to translate between.

Embedded sets (``digits``, ``glyphs``) and generated ones (``sprites``, ``facades_synthetic``, ``creatures``,
``toy2d/*``) need no network. The real ones are downloaded when they are first asked for, checked, and kept under
``root`` (default: the environment variable ``COURSE_DATA_ROOT``, else ``data/downloads`` of this repository).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from course_lib.data import creatures, digits, facades_synthetic, glyphs, real, sprites, toy2d
from course_lib.data.catalogue import SPLITS, Description, Request
from course_lib.data.datasets import (
    ImageDataset,
    PairDataset,
    PointDataset,
    check_levels,
    concatenate,
    loader,
)
from course_lib.data.download import DataError
from course_lib.data.random_bits import shuffled
from course_lib.data.unpaired import UnpairedDataset, load_unpaired

__all__ = [
    "DataError",
    "Description",
    "ImageDataset",
    "PairDataset",
    "PointDataset",
    "UnpairedDataset",
    "data_root",
    "describe",
    "load",
    "load_unpaired",
    "loader",
    "names",
]

_MODULES: tuple[ModuleType, ...] = (digits, glyphs, sprites, facades_synthetic, creatures, toy2d, real)
_MAKERS = {name: module for module in _MODULES for name in module.DESCRIPTIONS}


def names() -> tuple[str, ...]:
    """The names of all sets, in the order of the catalogue."""
    return tuple(_MAKERS)


def describe(name: str) -> Description:
    """Shape, sizes of the splits, labels, factors, source and licence of a set. ValueError for unknown names."""
    if name not in _MAKERS:
        raise ValueError(f"unknown data set {name!r}; the known ones are: {', '.join(names())}")
    return _MAKERS[name].DESCRIPTIONS[name]


def data_root(root: str | os.PathLike | None = None) -> Path:
    """The folder for real sets: ``root``, else $COURSE_DATA_ROOT, else ``data/downloads`` of this repository."""
    chosen = root or os.environ.get("COURSE_DATA_ROOT") or Path(__file__).parents[2] / "data" / "downloads"
    return Path(chosen).expanduser()


def load(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    image_size: int | None = None,
    levels: int | None = None,
    classes: Sequence[int | str] | None = None,
    root: str | os.PathLike | None = None,
) -> ImageDataset | PointDataset | PairDataset:
    """A split of a data set, in memory.

    Args:
        name: one of ``names()``.
        split: "train", "val" or "test"; "train+val" for both together (what papers without a validation set use).
        size: number of examples: how many to make of a generated set; of a stored one the first ``size`` of a fixed
            shuffle.
        image_size: side in pixels: generated sets are drawn at it, stored ones are resized (antialiased).
        levels: None for float32 pixels in [0, 1]; L for integer levels 0…L−1 (uint8).
        classes: keep only these labels (numbers or names); the numbers of the labels stay what they are.
        root: where real sets lie or are put; see ``data_root``.

    Returns:
        ImageDataset of (image, label), PointDataset of (point, label) or PairDataset of (label_map, picture).

    Raises:
        ValueError: an argument that does not fit the set (says what would).
        DataError: a real set that is neither there nor to be had, or is damaged (says what to do).
    """
    description = describe(name)
    if split == "train+val":
        parts = (
            load(name, part, image_size=image_size, levels=levels, classes=classes, root=root)
            for part in ("train", "val")
        )
        whole = concatenate(*parts, split=split)
        return whole if size is None else _first_of_shuffle(whole, size)
    _check(description, split, size, image_size, levels, classes)
    request = Request(
        name, split, size, image_size, levels, _class_numbers(description, classes), data_root(root)
    )
    return _MAKERS[name].make(request)


def _first_of_shuffle(whole: ImageDataset | PointDataset | PairDataset, size: int):
    if not 1 <= size <= len(whole):
        raise ValueError(f"size={size!r}: {whole!r} has {len(whole):,} examples")
    return whole.subset(shuffled(len(whole), whole.name, whole.split, "order")[:size])


def _check(
    description: Description,
    split: str,
    size: int | None,
    image_size: int | None,
    levels: int | None,
    classes: Sequence[int | str] | None,
) -> None:
    name, points = description.name, description.shape == (2,)
    pairs = name.startswith("facades")
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)} (or train+val)")
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"size={size!r}: expected a number of examples, at least 1")
    if image_size is not None and points:
        raise ValueError(f"image_size={image_size!r}: {name!r} consists of points, not of images")
    if image_size is not None and (not isinstance(image_size, int) or not 4 <= image_size <= 1024):
        raise ValueError(f"image_size={image_size!r}: expected a side of 4 to 1024 pixels")
    if levels is not None and (points or pairs):
        raise ValueError(
            f"levels={levels!r}: {name!r} consists of {'points' if points else 'pairs of floats'}"
        )
    check_levels(levels, description.levels - 1, name)
    if classes is not None and pairs:
        raise ValueError(
            f"classes={classes!r}: the labels of {name!r} belong to pixels; it cannot be cut by them"
        )
    if classes is not None and points:
        raise ValueError(
            f"classes={classes!r}: a part of {name!r} would have another density; use .subset(…)"
        )


def _class_numbers(description: Description, classes: Sequence[int | str] | None) -> tuple[int, ...] | None:
    """Names or numbers of labels → numbers, without repetition, in ascending order."""
    if classes is None:
        return None
    known = description.label_names
    numbers = []
    for wanted in [classes] if isinstance(classes, str) else classes:
        if isinstance(wanted, str) and wanted in known:
            numbers.append(known.index(wanted))
        elif not isinstance(wanted, str) and 0 <= int(wanted) < len(known):
            numbers.append(int(wanted))
        else:
            raise ValueError(
                f"classes={classes!r}: {wanted!r} is no label of {description.name!r}; expected numbers from 0 to "
                f"{len(known) - 1} or names from: {', '.join(known)}"
            )
    if not numbers:
        raise ValueError(f"classes={classes!r}: expected at least one label")
    return tuple(sorted(set(numbers)))
