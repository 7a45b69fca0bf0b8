"""Gated PixelCNN: two stacks, so that no earlier pixel is out of sight; gates; conditions.

The *vertical* stack sees the rows above, all of their columns within reach: a filter of rows and columns without any
mask, whose first layer is moved up by one row. The *horizontal* stack sees the left of the pixel's own row, and at
every layer what the vertical stack has gathered at the same position. Together they see a rectangle: no blind spot.
One layer (figure 2; v, h: the stacks, *: convolution, ⊙: elementwise product):

    a = W_v * v + V_v c                           rows above
    b = W_h * h + W_vh * a + V_h c                the row, and what the vertical stack passes on (1×1)
    v' = tanh(a_1) ⊙ σ(a_2)                       a = (a_1, a_2), half of the channels each: the gate, equation 2
    h' = h + W_o * (tanh(b_1) ⊙ σ(b_2))           with a residual connection, in the horizontal stack only

The condition c is a class (one-hot), a vector, or a map with a vector at every position (equations 3 to 5); V is a
1×1 convolution.

Paper: A. van den Oord, N. Kalchbrenner, O. Vinyals, L. Espeholt, A. Graves, K. Kavukcuoglu (2016), Conditional Image
Generation with PixelCNN Decoders, arXiv:1606.05328. NOTE: where the paper masks or shifts, the filters here have just
the entries that count. W_o has a bias in the first layer only: later ones would add nothing to the sum of biases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.autoregressive.incremental import Stepper, stepper
from course_lib.autoregressive.masked import MaskedConv2d, RowConv, Window
from course_lib.autoregressive.model import PixelModel
from course_lib.autoregressive.pixelcnn import head

#: The paper's sizes for 32×32 colour photographs (section 3.1): 128 of 3 colours' shares become 129.
PAPER = {"channels": 384, "layers": 20, "kernel_size": 5, "first_kernel_size": 7, "head_channels": 1023}


def gate(x: Tensor) -> Tensor:
    """tanh of the first half of the channels times σ of the second: (B, 2p, …) → (B, p, …)."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """One layer of both stacks: v (B, in, H, W), h (B, in, H, W), condition (B, d, H or 1, W or 1) → v', h' with p
    channels.

    first: the layer whose inputs are the pixels; its vertical filter is moved up by a row, its horizontal one has
    mask A, and there is no residual connection.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        first: bool = False,
        colours: int = 1,
        condition_dim: int | None = None,
    ):
        super().__init__()
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size should be odd and at least 3, got {kernel_size}")
        self.first, self.above, side = first, kernel_size // 2, kernel_size // 2
        rows = self.above if first else self.above + 1  # those strictly above; also the row itself, of v
        self.vertical = nn.Conv2d(in_channels, 2 * channels, (rows, kernel_size), padding=(0, side))
        self.horizontal = MaskedConv2d(
            in_channels, 2 * channels, (1, kernel_size), "A" if first else "B", colours, bias=False, parts=2
        )
        self.down = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = MaskedConv2d(channels, channels, 1, "B", colours, bias=first)
        self.condition = (
            None if condition_dim is None else nn.Conv2d(condition_dim, 4 * channels, 1, bias=False)
        )

    def forward(self, v: Tensor, h: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # `above` rows of zeros come on top. The first layer must not see its own row: the last one is left out.
        v = F.pad(v, (0, 0, self.above, -1 if self.first else 0))
        a, b = self._add_condition(self.vertical(v), condition)
        b = b + self.horizontal(h)
        out = self.out(gate(b))
        return gate(a), out if self.first else h + out

    def _add_condition(self, a: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """From W_v * v: a, and what b gets from it and from the condition."""
        if condition is None:
            return a, self.down(a)
        for_a, for_b = self.condition(condition).chunk(2, dim=1)
        a = a + for_a
        return a, self.down(a) + for_b

    def stepper(self, n: int, width: int, condition: Tensor | None = None) -> GatedStepper:
        return GatedStepper(self, n, width, condition)


class GatedStepper(Stepper):
    """A gated layer, one pixel at a time: the vertical stack when a row begins, the horizontal one for each pixel.

    Memory, in values: n × in × rows × width for the vertical stack, n × in × (width + k//2) for the horizontal one, and
    n × 2p × width for what the vertical stack passes on.
    """

    def __init__(self, layer: GatedLayer, n: int, width: int, condition: Tensor | None):
        self.layer, self.conditions, self.i = layer, condition, -1
        weight = layer.horizontal.masked_weight()
        self.vertical = RowConv(layer.vertical.weight, layer.vertical.bias, n, width)
        self.window = Window(weight, weight.shape[1], weight.shape[3] - 1, n, width)
        self.weight = Window.weight(weight.squeeze(2))
        self.out, self.out_bias = layer.out.masked_weight().flatten(1).T.contiguous(), layer.out.bias

    def row(self, v: Tensor | None = None) -> Tensor:
        """v: the row's input of the vertical stack, (n, in, 1, width); its output. The first layer needs none: it
        reads the row above, which is complete."""
        self.i += 1
        a = self.vertical(self.window.complete_row() if self.layer.first else v)
        a, b = self.layer._add_condition(a, self._condition())
        self.from_above = b.squeeze(2).permute(2, 0, 1).contiguous().unbind()  # for each column (n, 2p)
        self.window.clear()
        return gate(a)

    def _condition(self) -> Tensor | None:
        c = self.conditions
        return c if c is None or c.shape[2] == 1 else c[:, :, self.i : self.i + 1]

    def write(self, j: int, x: Tensor) -> None:
        self.window.slots[j].copy_(x)

    def pixel(self, j: int, x: Tensor) -> Tensor:
        self.window.slots[j].copy_(x)
        b = torch.addmm(self.from_above[j], self.window.windows[j], self.weight)
        return torch.addmm(self.out_bias if self.layer.first else x, gate(b), self.out)


class GatedPixelCNN(PixelModel):
    """Gated PixelCNN for integer images (C, H, W), with `layers` gated layers of `channels` channels in each stack.

    num_classes: the condition of `log_prob`, `sample`, … is a label (B,), int64. condition_dim: it is a vector (B, d)
    or a map (B, d, H, W). At most one of the two; without them there is no condition. With C colours, `channels` and
    `head_channels` have to be divisible by C. See `PixelModel` for shape, levels, embed_dim and the sampler.
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 2,
        *,
        channels: int = 32,
        layers: int = 8,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        head_channels: int = 32,
        num_classes: int | None = None,
        condition_dim: int | None = None,
        embed_dim: int | None = None,
    ):
        super().__init__(shape, levels, embed_dim)
        if layers < 1:
            raise ValueError(f"layers should be at least 1, got {layers}")
        if num_classes is not None and condition_dim is not None:
            raise ValueError("give num_classes or condition_dim, not both")
        self.num_classes = num_classes
        self.condition_dim = num_classes if condition_dim is None else condition_dim
        sizes = {"colours": shape[0], "condition_dim": self.condition_dim}
        self.layers = nn.ModuleList(
            [GatedLayer(self.in_channels, channels, first_kernel_size, first=True, **sizes)]
            + [GatedLayer(channels, channels, kernel_size, **sizes) for _ in range(layers - 1)]
        )
        self.head = head(channels, head_channels, self.parameters_per_pixel, shape[0])
        self.to(memory_format=torch.channels_last)  # as `network` has its inputs

    def network(self, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
        condition = self._condition(condition, len(inputs))
        # Each position's channels together in memory: in bfloat16 nearly twice as fast on a CPU, and good on a GPU.
        v = h = inputs.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            v, h = layer(v, h, condition)
        return self.head(h)

    def stepper(self, n: int, condition: Tensor | None = None) -> GatedNetworkStepper:
        return GatedNetworkStepper(self, n, self._condition(condition, n))

    def _condition(self, condition: Tensor | None, n: int) -> Tensor | None:
        """As a map (n, d, H, W) or (n, d, 1, 1), or None. Raises: ValueError if it is not what the model takes."""
        if (condition is None) != (self.condition_dim is None):
            raise ValueError(
                "this model takes no condition"
                if self.condition_dim is None
                else f"this model needs a condition: {self._wanted(n)}"
            )
        if condition is None:
            return None
        given, d = f"got {condition.dtype} {tuple(condition.shape)}", self.condition_dim
        if self.num_classes is not None:
            if condition.is_floating_point() or condition.shape != (n,):
                raise ValueError(f"expected {self._wanted(n)}; {given}")
            if condition.device.type == "cpu" and not bool(((condition >= 0) & (condition < d)).all()):
                raise ValueError(f"expected labels 0 to {d - 1}, got {condition.min()} to {condition.max()}")
            condition = F.one_hot(condition.long(), d)
        elif condition.shape not in ((n, d), (n, d, *self.shape[1:])):
            raise ValueError(f"expected {self._wanted(n)}; {given}")
        condition = condition.to(next(self.parameters()).dtype)
        return condition[:, :, None, None] if condition.ndim == 2 else condition

    def _wanted(self, n: int) -> str:
        if self.num_classes is not None:
            return f"integer labels ({n},)"
        _, height, width = self.shape
        return f"vectors ({n}, {self.condition_dim}) or maps ({n}, {self.condition_dim}, {height}, {width})"


class GatedNetworkStepper(Stepper):
    """All layers and the head, one pixel at a time."""

    def __init__(self, model: GatedPixelCNN, n: int, condition: Tensor | None):
        width = model.shape[2]
        self.layers = [layer.stepper(n, width, condition) for layer in model.layers]
        self.head = stepper(model.head, n, width)

    def row(self) -> None:
        v = None
        for layer in self.layers:
            v = layer.row(v)
        self.head.row()

    def write(self, j: int, x: Tensor) -> None:
        self.layers[0].write(j, x)

    def pixel(self, j: int, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer.pixel(j, x)
        return self.head.pixel(j, x)
