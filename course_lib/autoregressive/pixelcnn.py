"""PixelCNN: masked convolutions all the way, so that one pass gives the likelihood of every pixel.

    7×7 convolution, mask A  →  residual blocks  →  ReLU, 1×1, ReLU, 1×1, masks B  →  softmax over the levels

A residual block takes 2h channels down to h, convolves 3×3 with mask B, and goes up to 2h again, with a ReLU before
each convolution. Training looks at all pixels at once; sampling has to wait for each.

What it cannot see: a 3×3 filter with mask B reaches one row up and one column to the right in one step, but from the
row above it can go right only by going up again. So the earlier pixels that lie to the right, less than one row up for
each column, never reach the output, however many layers there are: the *blind spot*. `gated_pixelcnn` has none.

Paper: A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu (2016), Pixel Recurrent Neural Networks, arXiv:1601.06759,
section 3.5, figure 5 (left) and table 1. Its sizes are in `PAPER`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from course_lib.autoregressive.incremental import Chain, Residual, Stepper, stepper
from course_lib.autoregressive.masked import MaskedConv2d
from course_lib.autoregressive.model import PixelModel

#: The paper's sizes (table 1 and section 5), as keywords of `PixelCNN`: binary digits, and colour photographs. For
#: digits it gives the head only; h and the number of blocks are those of its Diagonal BiLSTM.
PAPER = {
    "mnist": {"hidden": 16, "blocks": 7, "head_channels": 32},
    "cifar10": {"hidden": 129, "blocks": 15, "head_channels": 1023},  # 128 and 1024, in three equal parts
}


class ResidualBlock(nn.Module):
    """x + 1×1(ReLU 3×3(ReLU 1×1(ReLU x))), all with mask B: (B, 2h, H, W) → the same (figure 5, left)."""

    def __init__(self, hidden: int, kernel_size: int = 3, colours: int = 1):
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),
            MaskedConv2d(2 * hidden, hidden, 1, "B", colours),
            nn.ReLU(),
            MaskedConv2d(hidden, hidden, kernel_size, "B", colours),
            nn.ReLU(),
            MaskedConv2d(hidden, 2 * hidden, 1, "B", colours),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)

    def stepper(self, n: int, width: int) -> Stepper:
        return Residual(stepper(self.branch, n, width))


def head(channels: int, head_channels: int, out_channels: int, colours: int) -> nn.Sequential:
    """ReLU, 1×1, ReLU, 1×1 with masks B: features (B, channels, H, W) → parameters (B, out_channels, H, W)."""
    return nn.Sequential(
        nn.ReLU(),
        MaskedConv2d(channels, head_channels, 1, "B", colours),
        nn.ReLU(),
        MaskedConv2d(head_channels, out_channels, 1, "B", colours),
    )


class PixelCNN(PixelModel):
    """PixelCNN for integer images (C, H, W). hidden: h; the residual stream has 2h channels.

    With C colours, `hidden` and `head_channels` have to be divisible by C. See `PixelModel` for shape, levels,
    embed_dim, the likelihood and the sampler.
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 2,
        *,
        hidden: int = 16,
        blocks: int = 7,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        head_channels: int = 32,
        embed_dim: int | None = None,
    ):
        super().__init__(shape, levels, embed_dim)
        if blocks < 0:
            raise ValueError(f"blocks should be at least 0, got {blocks}")
        colours = shape[0]
        self.first = MaskedConv2d(self.in_channels, 2 * hidden, first_kernel_size, "A", colours)
        self.blocks = nn.Sequential(*(ResidualBlock(hidden, kernel_size, colours) for _ in range(blocks)))
        self.head = head(2 * hidden, head_channels, self.parameters_per_pixel, colours)

    def network(self, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None:
            raise ValueError("this PixelCNN takes no condition; GatedPixelCNN does")
        return self.head(self.blocks(self.first(inputs)))

    def stepper(self, n: int, condition: Tensor | None = None) -> Chain:
        if condition is not None:
            raise ValueError("this PixelCNN takes no condition; GatedPixelCNN does")
        return Chain(stepper(part, n, self.shape[2]) for part in (self.first, self.blocks, self.head))
