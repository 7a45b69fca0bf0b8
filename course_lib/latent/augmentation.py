"""Random small changes of a picture that leave its kind what it is: turns, shifts, scalings, slants.

A code that has to name the picture from any of its changed versions cannot depend on the change. For clusters that
is what counts: two slants of a 1 come closer than a 1 and a 7 (X. Guo, E. Zhu, X. Liu, J. Yin 2018, Deep embedded
clustering with data augmentation, ACML). It is knowledge of the pictures that the pixels do not hold: a mirror image
of a digit is no digit, and for photographs of faces other changes would be right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class RandomAffine:
    """A map of the plane for each picture, each of its numbers uniform from minus to plus the largest one given.

    rotation: largest angle, radians. scale: largest change of the size, as a share of it. shift: largest one across
    and along, in sides of the picture. shear: largest slant, pixels across for each pixel along.

    Raises: ValueError for a negative number, or a scale of 1 or more.
    """

    rotation: float = 0.3
    scale: float = 0.15
    shift: float = 0.1
    shear: float = 0.2

    def __post_init__(self) -> None:
        values = (self.rotation, self.scale, self.shift, self.shear)
        if not all(0 <= value < math.inf for value in values) or self.scale >= 1:
            raise ValueError(f"expected numbers of at least 0 and a scale below 1, got {self}")

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pictures (B, C, H, W) in [0, 1] → the like, read between pixels (bilinear); what comes in from outside is 0.

        Raises: ValueError for another number of axes.
        """
        if x.ndim != 4:
            raise ValueError(f"expected pictures (B, C, H, W), got shape {tuple(x.shape)}")
        device = x.device if generator is None else generator.device
        draws = 2 * torch.rand(5, len(x), 1, 1, generator=generator, device=device).to(x) - 1
        angle, size = self.rotation * draws[0], 1 + self.scale * draws[1]
        right, down = 2 * self.shift * draws[2], 2 * self.shift * draws[3]  # the picture reaches from −1 to 1
        # Where the changed picture's pixel (across, along) is read in the old one. Products of numbers, no matrix
        # product: automatic precision would round those to bfloat16, which is a tenth of a pixel.
        height, width = x.shape[2:]
        along = torch.linspace(1 / height - 1, 1 - 1 / height, height, device=x.device, dtype=x.dtype).view(
            -1, 1
        )
        across = torch.linspace(1 / width - 1, 1 - 1 / width, width, device=x.device, dtype=x.dtype)
        cos, sin = size * angle.cos(), size * angle.sin()
        grid = torch.stack(
            [cos * across + (self.shear * draws[4] - sin) * along + right, sin * across + cos * along + down],
            dim=-1,
        )
        return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)  # rounding must not leave [0, 1]
