"""The masked convolution: a convolution that sees the earlier pixels only.

Pixels are ordered row by row from the top left, and within a pixel the colours R, G, B. A filter of kernel_size
(kh, kw) centred on a pixel may look at the rows above, and at what lies to the left in its own row. At the centre, the
channels are split into as many equal consecutive blocks as the image has colours, one block for each colour:

    mask A, for the first layer: an output of colour c sees the inputs of the colours before c, not c itself;
    mask B, for later layers:    it sees the inputs of the colours up to and including c.

An input of a later layer has not seen the pixel's own colour, which is why mask B may look at it and mask A, whose
inputs are the colours themselves, may not.

Paper: A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu (2016), Pixel Recurrent Neural Networks, arXiv:1601.06759,
section 3.4 and figure 2. The rows of the filter below the centre are stored, masked, and never multiplied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.autoregressive.incremental import Stepper

MASK_TYPES = ("A", "B")


def causal_mask(
    in_channels: int, out_channels: int, kernel_size: tuple[int, int], mask_type: str, colours: int = 1
) -> Tensor:
    """What a masked convolution may look at: (out_channels, in_channels, kh, kw) of 0 and 1. See the module's text.

    Raises: ValueError for another mask_type, an even kernel_size, or channels that `colours` does not divide.
    """
    if mask_type not in MASK_TYPES:
        raise ValueError(f'mask_type should be "A" or "B", got {mask_type!r}')
    if any(k < 1 or k % 2 == 0 for k in kernel_size):
        raise ValueError(f"a filter with a centre has odd sizes, got kernel_size={tuple(kernel_size)}")
    if colours < 1 or in_channels % colours or out_channels % colours:
        raise ValueError(
            f"each of {colours} colours needs its share of the channels; got {in_channels} in and {out_channels} out"
        )
    kh, kw = kernel_size
    mask = torch.zeros(out_channels, in_channels, kh, kw)
    mask[:, :, : kh // 2] = 1  # the rows above
    mask[:, :, kh // 2, : kw // 2] = 1  # the left of the row
    colour_out = torch.arange(out_channels) * colours // out_channels
    colour_in = torch.arange(in_channels) * colours // in_channels
    earlier = colour_in < colour_out[:, None]
    mask[:, :, kh // 2, kw // 2] = (
        earlier if mask_type == "A" else earlier | (colour_in == colour_out[:, None])
    )
    return mask


class MaskedConv2d(nn.Conv2d):
    """A convolution (B, in_channels, H, W) → (B, out_channels, H, W) of the earlier pixels; `mask` shows which.

    kernel_size: odd, or (rows, columns), both odd. mask_type: "A" where the inputs are the pixels, "B" further up.
    colours: 1 or 3, or as many as a pixel has values in sequence. parts: the outputs are that many equal consecutive
    parts, and each of them is split among the colours (2: what a gate multiplies). Stride 1, zeros around the image.
    Raises: as `causal_mask`, and where `parts` does not divide the outputs.
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        mask_type: str,
        colours: int = 1,
        bias: bool = True,
        parts: int = 1,
    ):
        kernel_size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if parts < 1 or out_channels % parts:
            raise ValueError(f"{out_channels} outputs do not come in {parts} equal parts")
        mask = causal_mask(in_channels, out_channels // parts, kernel_size, mask_type, colours)
        kh, kw = kernel_size
        super().__init__(in_channels, out_channels, kernel_size, padding=(kh // 2, kw // 2), bias=bias)
        self.mask_type, self.colours, self.parts = mask_type, colours, parts
        self.register_buffer("mask", mask.repeat(parts, 1, 1, 1), persistent=False)

    def masked_weight(self) -> Tensor:
        """The filter times its mask, without what lies after its centre: without the rows below it, (out, in,
        kh//2 + 1, kw), and in a filter of one row without the columns to the right, (out, in, 1, kw//2 + 1)."""
        rows = self.kernel_size[0] // 2 + 1
        columns = self.kernel_size[1] // 2 + 1 if rows == 1 else self.kernel_size[1]
        return self.weight[:, :, :rows, :columns] * self.mask[:, :, :rows, :columns]

    def forward(self, x: Tensor) -> Tensor:
        up, side = self.padding
        if up:
            return F.conv2d(F.pad(x, (0, 0, up, 0)), self.masked_weight(), self.bias, padding=(0, side))
        return F.conv2d(F.pad(x, (side, 0)) if side else x, self.masked_weight(), self.bias)

    def stepper(self, n: int, width: int) -> Stepper:
        weight = self.masked_weight()
        if self.kernel_size == (1, 1):
            return PointwiseConvStepper(weight, self.bias)
        return ConvStepper(weight, self.bias, n, width)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mask_type={self.mask_type!r}, colours={self.colours}"


class RowConv:
    """A convolution of complete rows, one row of outputs a call; keeps as many rows as the filter has.

    weight (out, in, rows, kw), whose last row lies on the row that comes last. Memory: n × in × rows × width values.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, n: int, width: int):
        self.weight, self.bias, self.side = weight.contiguous(), bias, weight.shape[3] // 2
        self.kept = weight.new_zeros(n, weight.shape[1], weight.shape[2], width)

    def __call__(self, latest: Tensor) -> Tensor:
        """The row (n, in, 1, width) comes below those before it: their outputs (n, out, 1, width)."""
        self.kept = torch.cat([self.kept[:, :, 1:], latest], dim=2)
        return F.conv2d(self.kept, self.weight, self.bias, padding=(0, self.side))


class Window:
    """The current row's inputs, and of them, for each column, those that a filter reaches to its left.

    Memory: n × (width + side) × channels values.
    """

    def __init__(self, like: Tensor, channels: int, side: int, n: int, width: int):
        self.inputs = like.new_zeros(n, side + width, channels)
        self.width = width
        # Views, made once: a window's columns lie one after the other in memory, each with all its channels.
        self.slots = [self.inputs[:, side + j] for j in range(width)]
        self.windows = [self.inputs[:, j : j + side + 1].flatten(1) for j in range(width)]

    def clear(self) -> None:
        self.inputs.zero_()

    def complete_row(self) -> Tensor:
        """(n, channels, 1, width)."""
        return self.inputs[:, -self.width :].transpose(1, 2).unsqueeze(2)

    @staticmethod
    def weight(weight: Tensor) -> Tensor:
        """(out, in, columns) → the matrix that a window is multiplied with: (columns · in, out)."""
        return weight.permute(2, 1, 0).flatten(0, 1).contiguous()


class ConvStepper(Stepper):
    """A causal convolution one pixel at a time; keeps the rows that the filter reaches and the current row.

    weight (out, in, rows, columns), whose last row lies on the current pixel's row and ends at its column: of several
    rows, the last is read up to its centre. Memory: n × in × (rows × width + kw//2) values, and a row of outputs.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, n: int, width: int):
        out, channels, rows, columns = weight.shape
        side = columns // 2 if rows > 1 else columns - 1
        self.window = Window(weight, channels, side, n, width)
        self.weight_here = Window.weight(weight[:, :, -1, : side + 1])
        self.above = RowConv(weight[:, :, :-1], bias, n, width) if rows > 1 else None
        bias = weight.new_zeros(out) if bias is None else bias
        self.from_above = bias.expand(width, n, out).unbind()  # for each column (n, out)
        self.started = False

    def row(self) -> None:
        if self.started and self.above is not None:
            above = self.above(self.window.complete_row())
            self.from_above = above.squeeze(2).permute(2, 0, 1).contiguous().unbind()
        self.started = True
        self.window.clear()

    def write(self, j: int, x: Tensor) -> None:
        """The input at column j, (n, in), without computing anything."""
        self.window.slots[j].copy_(x)

    def pixel(self, j: int, x: Tensor) -> Tensor:
        self.window.slots[j].copy_(x)
        return torch.addmm(self.from_above[j], self.window.windows[j], self.weight_here)


class PointwiseConvStepper(Stepper):
    """A 1×1 convolution has nothing to keep. weight (out, in, 1, 1)."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight.flatten(1).T.contiguous(), bias

    def pixel(self, j: int, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)
