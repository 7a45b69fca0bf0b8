"""The models that the tests of this folder share: small, in float64, with weights far enough from 0 for a leak to show.

`MODELS` maps a name to a function (shape, levels) → model; `SOFTMAX` are those whose colours follow one another as
values of their own, each with its softmax. The others give one distribution of a whole pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from course_lib.autoregressive.model import PixelModel
from course_lib.autoregressive.pixelcnn import PixelCNN
from course_lib.autoregressive.pixelcnn_pp import PixelCNNpp
from course_lib.autoregressive.pixelrnn import DiagonalBiLSTM, RowLSTM


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: nn.Module, scale: float = 0.4, seed: int = 0) -> nn.Module:
    """The module in float64 and evaluation mode, its weights normal with the given standard deviation."""
    generator, module = seeded(seed), module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def images(n: int, shape: Sequence[int], levels: int, seed: int = 1) -> Tensor:
    return torch.randint(levels, (n, *shape), generator=seeded(seed))


def maker(kind: type[PixelModel], scale: float = 0.4, **options: int) -> Callable[..., PixelModel]:
    return lambda shape, levels, **more: randomised(kind(shape, levels, **options, **more), scale)


SMALL = {"first_kernel_size": 5, "head_channels": 6}
SOFTMAX = {
    "PixelCNN": maker(PixelCNN, hidden=6, blocks=2, **SMALL),
    "PixelCNN of codes": maker(PixelCNN, hidden=6, blocks=1, embed_dim=2, **SMALL),
    "Gated PixelCNN": maker(GatedPixelCNN, channels=6, layers=3, **SMALL),
    "Gated PixelCNN of codes": maker(
        GatedPixelCNN, channels=6, layers=2, kernel_size=5, embed_dim=2, **SMALL
    ),
    "Row LSTM": maker(RowLSTM, hidden=6, layers=1, **SMALL),
    "Diagonal BiLSTM": maker(DiagonalBiLSTM, hidden=6, layers=1, **SMALL),
}
MODELS = SOFTMAX | {"PixelCNN++": maker(PixelCNNpp, 0.3, filters=4, resnets=1, mixtures=2)}
