"""What a set is (``Description``), what was asked for (``Request``), and the steps that the stored sets share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from course_lib.data.datasets import ImageDataset, check_levels
from course_lib.data.random_bits import shuffled

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Description:
    """One row of the catalogue; prints as text, and as a table in a notebook.

    Attributes:
        shape: (C, H, W) of an image at the default size, or (2,) for points.
        sizes: split → number of examples (for generated sets the default; ``size`` asks for any other).
        levels: number of grey levels per channel as stored; 0 where the values are not discrete.
        factors: name of each true factor → its range or values.
    """

    name: str
    summary: str
    shape: tuple[int, ...]
    sizes: Mapping[str, int]
    label_names: tuple[str, ...]
    source: str
    licence: str
    levels: int = 256
    factors: Mapping[str, str] = field(default_factory=dict)
    generated: bool = False
    downloaded: bool = False
    notes: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """(heading, text) of everything there is to say."""
        sizes = ", ".join(f"{split} {count:,}" for split, count in self.sizes.items())
        rows = [
            ("what", self.summary),
            ("shape", " × ".join(map(str, self.shape)) + (f", {self.levels} levels" if self.levels else "")),
            ("examples", sizes + (" (any other number by size=)" if self.generated else "")),
            ("labels", f"{len(self.label_names)}: " + " ".join(self.label_names)),
        ]
        rows += [(f"factor {name}", text) for name, text in self.factors.items()]
        rows += [("source", self.source), ("licence", self.licence)]
        return rows + ([("note", self.notes)] if self.notes else [])

    def __str__(self) -> str:
        width = max(len(heading) for heading, _ in self.rows())
        return "\n".join([self.name] + [f"  {heading:<{width}}  {text}" for heading, text in self.rows()])

    def _repr_markdown_(self) -> str:
        body = "\n".join(
            f"| {heading} | {text.replace('|', chr(92) + '|')} |" for heading, text in self.rows()
        )
        return f"| **{self.name}** | |\n|---|---|\n{body}"


@dataclass(frozen=True)
class Request:
    """One call of ``load`` after its arguments were checked; ``classes`` are positions in ``label_names``."""

    name: str
    split: str
    size: int | None
    image_size: int | None
    levels: int | None
    classes: tuple[int, ...] | None
    root: Path

    def count(self, description: Description) -> int:
        """How many examples to generate."""
        return description.sizes[self.split] if self.size is None else self.size


def resize(images: Tensor, side: int, stored_max: int = 255, chunk: int = 2000) -> Tensor:
    """uint8 images (N, C, H, W) → (N, C, side, side) uint8, antialiased (bilinear filter as wide as the shrinking)."""
    if images.shape[-2:] == (side, side):
        return images
    parts = []
    for part in images.split(chunk):
        scaled = torch.nn.functional.interpolate(
            part.float(), size=(side, side), mode="bilinear", antialias=True
        )
        parts.append(scaled.round().clamp(0, stored_max).to(torch.uint8))
    return torch.cat(parts)


def choose(labels: Tensor, request: Request) -> Tensor:
    """Positions (n,) of the stored examples that were asked for: of the wanted classes, the first ``size`` of a fixed
    shuffle (all of them, in stored order, without ``size``).

    Raises ValueError when there are fewer than ``size``.
    """
    index = torch.arange(len(labels))
    if request.classes is not None:
        index = index[torch.isin(labels, torch.tensor(request.classes))]
    if request.size is None:
        return index
    if request.size > len(index):
        raise ValueError(
            f"size={request.size:,}: {request.name!r} has {len(index):,} examples in split {request.split!r}"
            + ("" if request.classes is None else " with these classes")
        )
    order = torch.from_numpy(shuffled(len(index), request.name, request.split, "order"))
    return index[order[: request.size]]


def stored_images(
    images: Tensor,
    labels: Tensor,
    request: Request,
    label_names: Sequence[str],
    *,
    stored_max: int = 255,
    factors: Mapping[str, Tensor] | None = None,
    factor_values: Mapping[str, Sequence[str]] | None = None,
) -> ImageDataset:
    """A whole split as stored → the ImageDataset that was asked for."""
    check_levels(request.levels, stored_max, request.name)
    index = choose(labels, request)
    images = images[index]
    if request.image_size is not None:
        images = resize(images, request.image_size, stored_max)
    return ImageDataset(
        images,
        labels[index],
        name=request.name,
        split=request.split,
        label_names=label_names,
        factors={name: values[index] for name, values in (factors or {}).items()},
        factor_values=factor_values,
        levels=request.levels,
        stored_max=stored_max,
    )
