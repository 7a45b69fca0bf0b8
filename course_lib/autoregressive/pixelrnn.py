"""PixelRNN: an LSTM whose time is the rows of the image (Row LSTM), or its diagonals (Diagonal BiLSTM).

The state of a pixel depends on states of pixels before it: read pixel by pixel, an image of n × n needs n² steps, one
after the other. Both layers compute whole stretches at once instead:

    Row LSTM         a row at a time, from the row above: n steps. A pixel sees a triangle above it.
    Diagonal BiLSTM  a diagonal at a time: 2n − 1 steps. A pixel sees everything before it.

What the input contributes to the four gates of all pixels does not wait for anything: it is one masked convolution of
the whole map (input-to-state). Only the convolution of the previous row or diagonal (state-to-state) is inside the
loop. It needs no mask: what it reads are complete pixels, all their colours included, that come before.

Paper: A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu (2016), Pixel Recurrent Neural Networks, arXiv:1601.06759,
sections 3.1 to 3.5, table 1; the cell: S. Hochreiter, J. Schmidhuber (1997), Long Short-Term Memory. Departures: the
biases stand in the input-to-state convolution alone; the two directions of the Diagonal BiLSTM run in one loop; the
network of the Diagonal BiLSTM has a column more than the image (`margin`), without which it misses one pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.autoregressive.incremental import Chain, Residual, Stepper, stepper
from course_lib.autoregressive.masked import MaskedConv2d, causal_mask
from course_lib.autoregressive.model import PixelModel
from course_lib.autoregressive.pixelcnn import head

#: The paper's sizes (tables 1, 4 and 5), as keywords of the models. It gives no size of its Row LSTM for binary digits.
#: 129 and 1023 stand for 128 and 1024: three colours share them in equal parts.
PAPER = {
    "mnist": {"hidden": 16, "layers": 7, "head_channels": 32},
    "mnist-1-layer": {"hidden": 32, "layers": 1, "head_channels": 32},
    "cifar10": {"hidden": 129, "layers": 12, "head_channels": 1023},
}


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: the gates before their activations (B, 4h, …), c (B, h, …) → the new states (h, c).

    The gates come in the paper's order o, f, i, g (section 3.1, equation 3): output, forget, input, content.
    """
    hidden = c.shape[1]
    o, f, i = gates[:, : 3 * hidden].sigmoid().split(hidden, dim=1)
    g = gates[:, 3 * hidden :].tanh()
    c = f * c + i * g
    return o * c.tanh(), c


def skew(x: Tensor) -> Tensor:
    """Move row i by i places to the right: (…, H, W) → (…, H, W + H − 1), zeros elsewhere.

    Column d then holds the diagonal i + j = d: a pixel's left neighbour and the one above it are both in column d − 1.
    """
    height, width = x.shape[-2:]
    # Rows of W + H, read as rows of W + H − 1: every row begins one place further on than the one above.
    flat = F.pad(x, (0, height)).flatten(-2)
    return flat[..., : height * (width + height - 1)].unflatten(-1, (height, width + height - 1))


def unskew(x: Tensor) -> Tensor:
    """The inverse of `skew`: (…, H, W + H − 1) → (…, H, W)."""
    height, length = x.shape[-2:]
    rows = F.pad(x.flatten(-2), (0, height)).unflatten(-1, (height, length + 1))
    return rows[..., : length - height + 1]


def shift_down(x: Tensor) -> Tensor:
    """Move the map (…, H, W) down by one row; the first row becomes 0, the last one is lost."""
    return F.pad(x, (0, 0, 1, 0))[..., :-1, :]


class InputToState(MaskedConv2d):
    """The input's part in the gates, of the whole map at once: (B, in, H, W) → (B, gates · hidden, H, W), mask B.

    Each gate has its share for every colour, so the mask of one gate is repeated for all of them.
    """

    def __init__(
        self, in_channels: int, hidden: int, kernel_size: tuple[int, int], colours: int, gates: int = 4
    ):
        super().__init__(in_channels, gates * hidden, kernel_size, "B", colours)
        self.mask = causal_mask(in_channels, hidden, kernel_size, "B", colours).repeat(gates, 1, 1, 1)


class RowLSTMLayer(nn.Module):
    """An LSTM from the top row to the bottom one: (B, in_channels, H, W) → (B, hidden, H, W) (section 3.1).

    A pixel sees its own row from kernel_size // 2 places to its left up to itself (mask B), through the input-to-state
    convolution, and above it a triangle that grows by kernel_size // 2 to either side with every row.
    colours: 1 or 3; divides in_channels and hidden. Raises: ValueError if not, or for an even kernel_size.
    """

    def __init__(self, in_channels: int, hidden: int, kernel_size: int = 3, colours: int = 1):
        super().__init__()
        self.input_to_state = InputToState(in_channels, hidden, (1, kernel_size), colours)
        self.state_to_state = nn.Conv1d(hidden, 4 * hidden, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), self.state_to_state.in_channels, x.shape[-1])
        rows = []
        for gates in self.input_to_state(x).unbind(dim=2):  # each (B, 4 hidden, W)
            h, c = lstm_cell(gates + self.state_to_state(h), c)
            rows.append(h)
        return torch.stack(rows, dim=2)

    def stepper(self, n: int, width: int) -> RowStepper:
        return RowStepper(self, n, width)


class RowStepper(Stepper):
    """A Row LSTM one pixel at a time: keeps the states of the row above and of the current one.

    Memory: n × width × (7 hidden + in_channels) values.
    """

    def __init__(self, layer: RowLSTMLayer, n: int, width: int):
        self.layer, self.input_to_state = layer, layer.input_to_state.stepper(n, width)
        hidden = layer.state_to_state.in_channels
        self.h = layer.state_to_state.weight.new_zeros(width, n, hidden)
        self.c = torch.zeros_like(self.h)

    def row(self) -> None:
        self.input_to_state.row()
        above = self.layer.state_to_state(self.h.permute(1, 2, 0))  # (n, 4 hidden, width)
        self.from_above = above.permute(2, 0, 1).contiguous()
        self.c_above = self.c.clone()

    def pixel(self, j: int, x: Tensor) -> Tensor:
        gates = self.input_to_state.pixel(j, x) + self.from_above[j]
        self.h[j], self.c[j] = lstm_cell(gates, self.c_above[j])
        return self.h[j]


class DiagonalBiLSTMLayer(nn.Module):
    """Two LSTMs over the diagonals: (B, in_channels, H, W) → (B, hidden, H, W) (section 3.2).

    The first starts in the upper left corner and sees all pixels that are neither below nor to the right. The second
    starts in the upper right corner and sees those neither below nor to the left. Some of those come later in the row:
    its map is shifted down by one row, so that it only tells of the rows above. Their sum sees all earlier pixels.
    colours: 1 or 3; divides in_channels and hidden. Raises: ValueError if not.
    """

    def __init__(self, in_channels: int, hidden: int, colours: int = 1):
        super().__init__()
        self.input_to_state = InputToState(in_channels, hidden, (1, 1), colours, gates=8)
        # One column of the skewed map: the filter's two rows lie on the pixel above and on the left neighbour.
        self.state_to_state = nn.Conv1d(2 * hidden, 8 * hidden, 2, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        right, left = self.input_to_state(x).chunk(2, dim=1)  # named by where the two LSTMs go
        diagonals = skew(torch.cat([right, left.flip(-1)], dim=1)).movedim(-1, 0).contiguous()
        right, left = unskew(self.scan(diagonals, x.shape[-1])).chunk(2, dim=1)
        return right + shift_down(left.flip(-1))

    def scan(self, diagonals: Tensor, width: int) -> Tensor:
        """The gates' input part on the diagonals (D, B, 8 hidden, H) → the states, skewed (B, 2 hidden, H, D).

        Only the rows that a diagonal shares with the image are computed, about half of them. Around them all is 0.
        """
        _, batch, channels, height = diagonals.shape
        hidden, states = channels // 8, []
        h, c = diagonals.new_zeros(batch, 2 * hidden, 0), diagonals.new_zeros(2 * batch, hidden, 0)
        for d, gates in enumerate(diagonals):
            first, last = max(0, d - width + 1), min(d, height - 1)  # the diagonal's rows
            # The filter reads the rows first − 1 … last of the diagonal before. A zero stands above it until the
            # diagonals begin in the last column, and below it as long as they end in the first one.
            before, after = int(d < width), int(d < height)
            gates = gates[..., first : last + 1] + self.state_to_state(F.pad(h, (before, after)))
            # Both directions side by side as examples of a batch: their cells have no weights.
            h, c = lstm_cell(gates.view(2 * batch, 4 * hidden, -1), F.pad(c, (before - 1, after)))
            h = h.view(batch, 2 * hidden, -1)
            states.append(F.pad(h, (first, height - 1 - last)))
        return torch.stack(states, dim=-1)

    def stepper(self, n: int, width: int) -> DiagonalStepper:
        return DiagonalStepper(self, n, width)


class DiagonalStepper(Stepper):
    """A Diagonal BiLSTM one pixel at a time. The LSTM that goes to the right is run with the pixels.

    That to the left is run over a whole row as soon as it is complete, when the next one begins: its map is shifted.
    Memory: n × width × (15 hidden + in_channels) values.
    """

    def __init__(self, layer: DiagonalBiLSTMLayer, n: int, width: int):
        hidden = layer.state_to_state.in_channels // 2
        above, beside = layer.state_to_state.weight.transpose(1, 2).unbind(dim=1)  # each (8 hidden, hidden)
        (self.above_right, self.above_left), (self.beside_right, self.beside_left) = (
            [weight.T.contiguous() for weight in pair.chunk(2)] for pair in (above, beside)
        )
        self.input_to_state = layer.input_to_state.stepper(n, width)
        self.gates = above.new_zeros(width, n, 8 * hidden)  # the input's part, kept for the LSTM to the left
        # Column j of the one that goes right lies at j + 1, that of the other at j: zeros beside the image.
        self.h_right, self.c_right, self.h_left = above.new_zeros(3, width + 1, n, hidden)
        self.started = False

    def row(self) -> None:
        self.input_to_state.row()
        if self.started:
            self._run_left()
        self.from_above = self.h_right[1:] @ self.above_right
        self.started = True

    def _run_left(self) -> None:
        """The whole row above, from right to left."""
        gates = self.gates.chunk(2, dim=-1)[1] + self.h_left[:-1] @ self.above_left
        c = torch.zeros_like(self.h_left[0])
        for j in range(len(gates) - 1, -1, -1):
            self.h_left[j], c = lstm_cell(gates[j] + self.h_left[j + 1] @ self.beside_left, c)

    def pixel(self, j: int, x: Tensor) -> Tensor:
        self.gates[j] = self.input_to_state.pixel(j, x)
        gates = self.gates[j].chunk(2, dim=-1)[0] + self.from_above[j] + self.h_right[j] @ self.beside_right
        self.h_right[j + 1], self.c_right[j + 1] = lstm_cell(gates, self.c_right[j])
        return self.h_right[j + 1] + self.h_left[j]


class ResidualBlock(nn.Module):
    """x + a 1×1 masked convolution of lstm(x): (B, channels, H, W) of the same shape (section 3.3, figure 5).

    lstm: channels → hidden. Raises: ValueError for channels that `colours` does not divide.
    """

    def __init__(self, lstm: nn.Module, hidden: int, channels: int, colours: int = 1):
        super().__init__()
        self.branch = nn.Sequential(lstm, MaskedConv2d(hidden, channels, 1, "B", colours))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)

    def stepper(self, n: int, width: int) -> Stepper:
        return Residual(stepper(self.branch, n, width))


class PixelRNN(PixelModel):
    """Mask A, then LSTM layers with residual connections, then ReLU and 1×1 convolutions twice (table 1).

    What `RowLSTM` and `DiagonalBiLSTM` share. hidden: h, units of an LSTM; the residual stream has 2h channels. layers:
    of LSTM. Further options go to the layers. With C colours, hidden and head_channels have to be divisible by C. See
    `PixelModel` for shape, levels, embed_dim, the likelihood and the sampler.
    Raises: ValueError for other sizes, or less than one layer.
    """

    layer_type: type[nn.Module]

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 2,
        *,
        hidden: int = 16,
        layers: int = 7,
        first_kernel_size: int = 7,
        head_channels: int = 32,
        embed_dim: int | None = None,
        **layer_options: int,
    ):
        super().__init__(shape, levels, embed_dim)
        if layers < 1 or hidden < 1:
            raise ValueError(f"hidden and layers should be at least 1, got {hidden} and {layers}")
        colours, channels = shape[0], 2 * hidden
        self.first = MaskedConv2d(self.in_channels, channels, first_kernel_size, "A", colours)
        lstms = [self.layer_type(channels, hidden, colours=colours, **layer_options) for _ in range(layers)]
        self.blocks = nn.Sequential(*(ResidualBlock(lstm, hidden, channels, colours) for lstm in lstms))
        self.head = head(channels, head_channels, self.parameters_per_pixel, colours)

    def network(self, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
        self._check_no(condition)
        return self.head(self.blocks(self.first(inputs)))

    def stepper(self, n: int, condition: Tensor | None = None) -> Stepper:
        return self._chain(n, self.shape[2], condition)

    def _chain(self, n: int, width: int, condition: Tensor | None) -> Chain:
        self._check_no(condition)
        return Chain(stepper(part, n, width) for part in (self.first, self.blocks, self.head))

    @staticmethod
    def _check_no(condition: Tensor | None) -> None:
        if condition is not None:
            raise ValueError("a PixelRNN takes no condition; GatedPixelCNN does")


class RowLSTM(PixelRNN):
    """PixelRNN with Row LSTM layers. See `PixelRNN`; kernel_size=3: of both convolutions of a layer, along the row."""

    layer_type = RowLSTMLayer


class DiagonalBiLSTM(PixelRNN):
    """PixelRNN with Diagonal BiLSTM layers. See `PixelRNN`.

    margin: compute one column more, to the right of the image. Without it, as in the paper, exactly one earlier value
    stays out of sight, however many layers there are: the last colour of the last pixel of the row above, unless the
    first convolution reaches it. Mask A hides a value from its own position, so that the LSTM to the left, which begins
    at this pixel, does not know it. It does if it begins one place further on.
    """

    layer_type = DiagonalBiLSTMLayer

    def __init__(self, shape: Sequence[int], levels: int = 2, *, margin: bool = True, **options: Any):
        super().__init__(shape, levels, **options)
        self.margin = margin

    def network(self, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
        if not self.margin:
            return super().network(inputs, condition)
        return super().network(F.pad(inputs, (0, 1)), condition)[..., :-1]

    def stepper(self, n: int, condition: Tensor | None = None) -> Stepper:
        if not self.margin:
            return super().stepper(n, condition)
        outside = self.first.weight.new_zeros(n, self.in_channels)
        return MarginStepper(self._chain(n, self.shape[2] + 1, condition), self.shape[2], outside)


class MarginStepper(Stepper):
    """A network with one more column than the image; when a row is complete, the input there is `outside`."""

    def __init__(self, network: Chain, width: int, outside: Tensor):
        self.network, self.width, self.outside, self.started = network, width, outside, False

    def row(self) -> None:
        if self.started:
            self.network.pixel(self.width, self.outside)
        self.network.row()
        self.started = True

    def pixel(self, j: int, x: Tensor) -> Tensor:
        return self.network.pixel(j, x)

    def write(self, j: int, x: Tensor) -> None:
        self.network.write(j, x)
