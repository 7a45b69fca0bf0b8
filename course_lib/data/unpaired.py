"""Two sets of pictures of which no two belong together: what CycleGAN learns from."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from course_lib.data.datasets import ImageDataset, _InMemory


class UnpairedDataset(_InMemory):
    """Pictures of two sets of any two sizes: ``dataset[i]`` is ``(a, b)``, float32 (C, H, W) in [0, 1] each.

    An epoch shows every picture of the larger set once; the smaller one is gone through again from its beginning. The
    partners come from a fixed shuffle of the second set: if the i-th pictures of both sets do belong together, that is
    lost. (That partners stay partners does not matter: in CycleGAN's loss no term holds both.) `loader` takes it
    like any other set.

    Attributes: first, second: the two sets, with their factors. first_index, second_index: (L,) int64, where the
    pictures of pair i stand in them, L the larger of the two sizes.

    Args:
        first, second: sets of pictures of one shape, in [0, 1] (``levels=None``). seed: of the shuffle.

    Raises: ValueError for empty sets, and sets of different shapes or in levels.
    """

    _rows = ("first_index", "second_index")

    def __init__(self, first: ImageDataset, second: ImageDataset, seed: int = 0) -> None:
        if not len(first) or not len(second):
            raise ValueError(f"expected two sets that are not empty, got {first!r} and {second!r}")
        if first.image_shape != second.image_shape or first.levels is not None or second.levels is not None:
            raise ValueError(f"expected pictures of one shape in [0, 1], got {first!r} and {second!r}")
        length = max(len(first), len(second))
        order = torch.randperm(len(second), generator=torch.Generator().manual_seed(seed))
        self.first, self.second = first, second
        self.first_index = torch.arange(length) % len(first)
        self.second_index = order[torch.arange(length) % len(second)]
        self.name, self.split, self.levels = first.name, first.split, None
        self.factors: dict[str, Tensor] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture of either set."""
        return self.first.image_shape

    def _fetch(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        a, _ = self.first._fetch(self.first_index[index])
        b, _ = self.second._fetch(self.second_index[index])
        return a, b

    def __repr__(self) -> str:
        return f"UnpairedDataset({self.first!r} | {self.second!r})"


#: name → what the two sets are
DOMAINS = {
    "sprites": "plain shapes | striped shapes",
    "facades_synthetic": "label maps | pictures, their pairs lost",
    "facades": "label maps | photographs, their pairs lost",
    "horse2zebra": "horses | zebras",
}


def load_unpaired(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    image_size: int | None = None,
    root: str | os.PathLike | None = None,
) -> UnpairedDataset:
    """Two sets to translate between; arguments as in `load`.

    "sprites": plain and striped shapes, everything else alike (two of four textures: about ``size``/4 pictures each).
    "facades_synthetic", "facades": label maps and pictures. "horse2zebra": horses and zebras.

    Raises: ValueError for a set that has no two sides, and as `load`.
    """
    from course_lib.data import load

    if name not in DOMAINS:
        raise ValueError(f"{name!r} has no two sides; the sets that have are: {', '.join(DOMAINS)}")
    options = {"size": size, "image_size": image_size, "root": root}
    if name == "horse2zebra":
        return UnpairedDataset(*(load(name, split, classes=[label], **options) for label in (0, 1)))
    whole = load(name, split, **options)
    if name == "sprites":
        plain, striped = (whole.factor_values["texture"].index(kind) for kind in ("plain", "stripes"))
        texture = whole.factors["texture"]
        return UnpairedDataset(whole.subset(texture == plain), whole.subset(texture == striped))
    sides = (whole.label_maps, whole.pictures)
    described = {"name": name, "split": split, "label_names": ("map", "picture")}
    described |= {"factors": whole.factors, "factor_values": whole.factor_values}
    return UnpairedDataset(
        *(
            ImageDataset(images, torch.full((len(images),), label), **described)
            for label, images in enumerate(sides)
        )
    )
