"""What the door hands out: three small datasets that live in memory, and a loader that fetches whole batches.

The course's sets are small enough to be one tensor each, so a batch is one indexing of that tensor; PyTorch's usual
way (fetch item by item, then stack) costs more than a training step of a small VAE. Images are kept as ``uint8``
and turned into numbers in [0, 1] (or into integer levels) when they are asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Indices = slice | Sequence[int] | Tensor


def quantise(stored: Tensor, stored_max: int, levels: int | None) -> Tensor:
    """Stored grey values 0…stored_max → float32 in [0, 1], or integer levels 0…levels−1 (uint8) in equal bins.

    ``levels = stored_max + 1`` is the identity; ``levels = 2`` cuts at the middle.
    """
    if levels is None:
        return stored.to(torch.float32) / stored_max
    if levels == stored_max + 1:
        return stored
    # Bins of equal width: level = ⌊value · L / (max + 1)⌋. int32 holds the product (at most 255 · 256).
    return (stored.to(torch.int32) * levels // (stored_max + 1)).to(torch.uint8)


def check_levels(levels: int | None, stored_max: int, name: str) -> None:
    """Raises ValueError unless ``levels`` is None or an integer in 2…stored_max + 1."""
    if levels is None:
        return
    if not isinstance(levels, int) or isinstance(levels, bool) or not 2 <= levels <= stored_max + 1:
        raise ValueError(
            f"levels={levels!r} for {name!r}: expected None (floats in [0, 1]) or an integer from 2 to "
            f"{stored_max + 1}, the number of grey levels that this set has"
        )


def as_index(indices: Indices, length: int) -> Tensor:
    """Slice, list, index tensor or boolean mask of that length → int64 index tensor (n,)."""
    if isinstance(indices, slice):
        return torch.arange(length)[indices]
    index = torch.as_tensor(indices)
    if index.dtype == torch.bool:
        if index.shape != (length,):
            raise ValueError(f"boolean mask of shape {tuple(index.shape)}: expected ({length},)")
        return index.nonzero().squeeze(1)
    if index.numel() and (index.min() < -length or index.max() >= length):
        raise IndexError(f"index outside −{length}…{length - 1}: {int(index.min())}…{int(index.max())}")
    return index.to(torch.int64).reshape(-1)


class _InMemory(Dataset):
    """Rows of tensors that share their first dimension; subclasses say what one row looks like to the outside."""

    _rows: tuple[str, ...]  # names of the attributes that are indexed along the examples
    factors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(getattr(self, self._rows[0]))

    def _fetch(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} in a dataset of {len(self)}")
        return self._fetch(index)

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """The examples at ``indices`` as one pair of tensors, fetched by one indexing."""
        return self._fetch(as_index(indices, len(self)))

    def subset(self, indices: Indices):
        """The same kind of dataset with the examples at ``indices`` (list, tensor, slice or boolean mask)."""
        index = as_index(indices, len(self))
        return self._map_rows(lambda rows: rows[index])

    def _map_rows(self, function: Callable[[Tensor], Tensor]):
        part = copy.copy(self)
        for row in self._rows:
            value = getattr(self, row)
            setattr(part, row, None if value is None else function(value))
        part.factors = {name: function(values) for name, values in self.factors.items()}
        return part


def concatenate(first: _InMemory, second: _InMemory, split: str) -> _InMemory:
    """The examples of two splits of one set, in this order."""
    both = copy.copy(first)
    for row in first._rows:
        a, b = getattr(first, row), getattr(second, row)
        setattr(both, row, None if a is None else torch.cat([a, b]))
    both.factors = {name: torch.cat([first.factors[name], second.factors[name]]) for name in first.factors}
    both.split = split
    return both


class ImageDataset(_InMemory):
    """Images with a label each, and, where the set is generated, the true factors of every image.

    Attributes:
        images: (N, C, H, W) uint8, as stored (0…``stored_max``).
        labels: (N,) int64, positions in ``label_names``.
        factors: name → (N,) tensor (int64 for categories, float32 for measures); empty for most real sets.
        factor_values: name of a categorical factor → the names of its values.
        levels: None when images come out as float32 in [0, 1], else the number of integer levels.

    ``dataset[i]`` is ``(image, label)``: the image (C, H, W) float32 in [0, 1], or uint8 levels 0…levels−1.
    """

    _rows = ("images", "labels")

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        name: str,
        split: str,
        label_names: Sequence[str],
        factors: Mapping[str, Tensor] | None = None,
        factor_values: Mapping[str, Sequence[str]] | None = None,
        levels: int | None = None,
        stored_max: int = 255,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"expected uint8 images (N, C, H, W) and N labels, got {images.dtype} {tuple(images.shape)} "
                f"and {len(labels)} labels"
            )
        check_levels(levels, stored_max, name)
        self.images, self.labels = images, labels.to(torch.int64)
        self.name, self.split = name, split
        self.levels, self.stored_max = levels, stored_max
        self.label_names = tuple(label_names)
        self.factors = dict(factors or {})
        self.factor_values = {key: tuple(values) for key, values in (factor_values or {}).items()}

    @property
    def factor_names(self) -> tuple[str, ...]:
        return tuple(self.factors)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.images.shape[1:])

    def _fetch(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        return quantise(self.images[index], self.stored_max, self.levels), self.labels[index]

    def tensor(self) -> Tensor:
        """All images (N, C, H, W): float32 in [0, 1], or int64 levels."""
        images = quantise(self.images, self.stored_max, self.levels)
        return images if self.levels is None else images.to(torch.int64)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.image_shape))
        values = "[0, 1]" if self.levels is None else f"levels 0…{self.levels - 1}"
        return f"ImageDataset({self.name!r}, {self.split!r}: {len(self):,} images {shape} in {values})"


class PointDataset(_InMemory):
    """Points of the plane, the component that each came from, and the density they were drawn from.

    Attributes: ``points`` (N, 2) float32, ``labels`` (N,) int64, ``means`` (K, 2) and ``std`` where the density is a
    mixture of K equal round Gaussians (else None). ``dataset[i]`` is ``(point, label)``.
    """

    _rows = ("points", "labels")

    def __init__(
        self,
        points: Tensor,
        labels: Tensor,
        *,
        name: str,
        split: str,
        label_names: Sequence[str],
        log_density: Callable[[Tensor], Tensor] | None = None,
        means: Tensor | None = None,
        std: float | None = None,
    ) -> None:
        self.points, self.labels = points, labels.to(torch.int64)
        self.name, self.split = name, split
        self.label_names = tuple(label_names)
        self.means, self.std = means, std
        self.factors: dict[str, Tensor] = {}
        self._log_density = log_density

    def log_prob(self, x: Tensor) -> Tensor | None:
        """log p(x) in nats of points (…, 2) → (…,), in the dtype of x; None where the density is not known."""
        if x.shape[-1:] != (2,):
            raise ValueError(f"expected points of shape (…, 2), got {tuple(x.shape)}")
        return None if self._log_density is None else self._log_density(x)

    def _fetch(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        return self.points[index], self.labels[index]

    def tensor(self) -> Tensor:
        """All points (N, 2) float32."""
        return self.points

    def __repr__(self) -> str:
        return f"PointDataset({self.name!r}, {self.split!r}: {len(self):,} points)"


class PairDataset(_InMemory):
    """Pictures with their label maps: ``dataset[i]`` is ``(label_map, picture)``, float32 (3, H, W) in [0, 1] each.

    Attributes:
        label_maps: (N, 3, H, W) uint8, the map in the colours of the CMP facades.
        pictures: (N, 3, H, W) uint8.
        label_index: (N, H, W) uint8, the map as positions in ``label_names`` (what each pixel is).
        palette: (K, 3) uint8, the colour of each label.
        factors: true factors of generated pictures (empty for real ones).
    """

    _rows = ("label_maps", "pictures", "label_index")

    def __init__(
        self,
        label_maps: Tensor,
        pictures: Tensor,
        label_index: Tensor,
        *,
        name: str,
        split: str,
        label_names: Sequence[str],
        palette: Tensor,
        factors: Mapping[str, Tensor] | None = None,
        factor_values: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if label_maps.shape != pictures.shape or label_maps.ndim != 4:
            raise ValueError(
                f"expected label maps and pictures of one shape (N, 3, H, W), got {tuple(label_maps.shape)} and "
                f"{tuple(pictures.shape)}"
            )
        self.label_maps, self.pictures, self.label_index = label_maps, pictures, label_index
        self.name, self.split, self.palette = name, split, palette
        self.label_names = tuple(label_names)
        self.factors = dict(factors or {})
        self.factor_values = {key: tuple(values) for key, values in (factor_values or {}).items()}
        self.levels = None

    @property
    def factor_names(self) -> tuple[str, ...]:
        return tuple(self.factors)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the picture, and of the label map."""
        return tuple(self.pictures.shape[1:])

    def _fetch(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        return quantise(self.label_maps[index], 255, None), quantise(self.pictures[index], 255, None)

    def tensor(self) -> tuple[Tensor, Tensor]:
        """All label maps and all pictures, each (N, 3, H, W) float32 in [0, 1]."""
        return quantise(self.label_maps, 255, None), quantise(self.pictures, 255, None)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.image_shape))
        return f"PairDataset({self.name!r}, {self.split!r}: {len(self):,} pairs {shape})"


class _ByBatch(Dataset):
    """The same examples, but a list of indices is answered with one batch (PyTorch calls ``__getitems__``)."""

    def __init__(self, dataset: _InMemory) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.dataset.batch(indices)


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch  # __getitems__ has put the batch together already; a named function, so that workers can pickle it


def loader(
    dataset: _InMemory, batch_size: int, shuffle: bool = True, drop_last: bool | None = None, seed: int = 0
) -> DataLoader:
    """A DataLoader whose batches are the tuples ``dataset.batch(indices)``: (images, labels) or (maps, pictures).

    It is an ordinary ``torch.utils.data.DataLoader``: Fabric can put a ``DistributedSampler`` into it. The order of
    the examples depends on ``seed`` alone, and differs from epoch to epoch.

    Args:
        drop_last: leave out a last, smaller batch. Default: when shuffling, if one full batch exists.

    Raises:
        ValueError: for a batch size below 1, an empty dataset, or when ``drop_last`` would leave no batch at all.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected an integer of at least 1")
    if len(dataset) == 0:
        raise ValueError(f"{dataset!r} is empty: there is nothing to load")
    if drop_last is None:
        drop_last = shuffle and batch_size <= len(dataset)
    elif drop_last and batch_size > len(dataset):
        raise ValueError(
            f"drop_last=True with batch_size={batch_size} leaves no batch of {len(dataset)} examples"
        )
    return DataLoader(
        _ByBatch(dataset),
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        collate_fn=_as_it_is,
        generator=torch.Generator().manual_seed(seed),
    )
