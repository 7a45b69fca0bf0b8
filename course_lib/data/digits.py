"""1,797 real handwritten digits, 8×8, 17 grey levels: small enough to train on in a second.

E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998; the copy
inside scikit-learn (the test part of the original). We add a fixed stratified split, which the original has
not.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from course_lib.data.catalogue import Description, Request, stored_images
from course_lib.data.datasets import ImageDataset
from course_lib.data.random_bits import shuffled

DIGITS = tuple("0123456789")
DESCRIPTIONS = {
    "digits": Description(
        name="digits",
        summary="real handwritten digits, white on black",
        shape=(1, 8, 8),
        sizes={"train": 1257, "val": 270, "test": 270},
        label_names=DIGITS,
        levels=17,
        source="Alpaydin & Kaynak 1998, UCI Optical Recognition of Handwritten Digits, as in scikit-learn",
        licence="CC BY 4.0",
        notes="17 grey levels: levels=17 gives them as they are. The split is ours: fixed, stratified by digit.",
    )
}


def split_positions(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Split → sorted positions: of every digit 15 % to test, 15 % to val, the rest to train."""
    # Every digit in a fixed shuffle, then all digits interleaved by rank: any 15 % of that order are stratified.
    rank = np.empty(len(labels))
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        rank[members[shuffled(len(members), "digits", digit)]] = (np.arange(len(members)) + 0.5) / len(
            members
        )
    order = np.argsort(rank, kind="stable")
    return {
        "test": np.sort(order[:270]),
        "val": np.sort(order[270:540]),
        "train": np.sort(order[540:]),
    }


def make(request: Request) -> ImageDataset:
    """The requested split of ``digits``."""
    bunch = load_digits()
    index = split_positions(bunch.target)[request.split]
    images = torch.from_numpy(bunch.images[index].astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target[index].astype(np.int64))
    return stored_images(images, labels, request, DIGITS, stored_max=16)
