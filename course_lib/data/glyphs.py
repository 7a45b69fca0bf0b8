"""12,000 digits and capital letters drawn from open fonts, 1×28×28: the course's stand-in for MNIST.

The file ``data/glyphs.npz`` is committed and checked against its SHA-256; ``make_glyphs.py`` drew it and says how.
The true factors of every image are known: font, slant, rotation, weight, width, height, wobble.
"""

from __future__ import annotations

import functools
import hashlib
import io
from pathlib import Path

import numpy as np
import torch

from course_lib.data.catalogue import SPLITS, Description, Request, stored_images
from course_lib.data.datasets import ImageDataset
from course_lib.data.download import DataError

CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # no I, no O: in many fonts they are 1 and 0
PATH = Path(__file__).parents[2] / "data" / "glyphs.npz"
SHA256 = "9b31914cf6d4d2a6c0c934c9ab69cd6cd20b8249f3210e052107c001a3503167"
MEASURES = ("slant", "rotation", "weight", "width", "height", "wobble")

DESCRIPTIONS = {
    "glyphs": Description(
        name="glyphs",
        summary="digits and capital letters from 56 open fonts, white on black, in MNIST's shape and manner",
        shape=(1, 28, 28),
        sizes={"train": 9600, "val": 1200, "test": 1200},
        label_names=tuple(CHARACTERS),
        factors={
            "font": "one of 56 families (factor_values['font'] names them)",
            "slant": "−10…22 degrees, to the right",
            "rotation": "−9…9 degrees, clockwise",
            "weight": "0…0.75 pixels by which the outline was moved outwards",
            "width": "0.8…1.15 times the font's own",
            "height": "18.5…20.5 pixels, longer side of the box",
            "wobble": "0…0.7 pixels of smooth distortion",
        },
        source="drawn by course_lib/data/make_glyphs.py from open fonts (data/README.md lists them)",
        licence="CC0 1.0 (the fonts: see data/README.md)",
        notes="600 images of each digit, 250 of each letter (no I, no O). The splits share no font family and no cell "
        "of slant × rotation × weight, so that the test set is not near copies of the training set.",
    )
}


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    """The arrays of the file, after its checksum was compared."""
    if not PATH.is_file():
        raise DataError(f"{PATH} is missing: it belongs to the repository (git checkout -- data/glyphs.npz)")
    content = PATH.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise DataError(
            f"{PATH} is damaged or another version: SHA-256 {found}, expected {SHA256}; "
            "restore it with git checkout -- data/glyphs.npz"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def make(request: Request) -> ImageDataset:
    """The requested split of ``glyphs``."""
    arrays = _arrays()
    index = np.flatnonzero(arrays["split"] == SPLITS.index(request.split))
    factors = {"font": torch.from_numpy(arrays["font"][index].astype(np.int64))}
    for name in MEASURES:  # stored in hundredths
        factors[name] = torch.from_numpy(arrays[name][index].astype(np.float32) / 100)
    return stored_images(
        torch.from_numpy(arrays["images"][index])[:, None],
        torch.from_numpy(arrays["labels"][index].astype(np.int64)),
        request,
        CHARACTERS,
        factors=factors,
        factor_values={"font": tuple(str(family) for family in arrays["families"])},
    )
