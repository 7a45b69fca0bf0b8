"""PixelCNN++: a pixel is one draw from a mixture of logistics, and the network is a U of three resolutions.

A softmax over 256 levels does not know that 128 and 129 are neighbours. Here the intensity, in [−1, 1], is a mixture of
K logistic distributions, rounded to the levels: with F the logistic distribution function and h half a level,

    p(x) = Σ_k π_k [F((x + h − μ_k)/s_k) − F((x − h − μ_k)/s_k)],    all below h at level 0, all above −h at L − 1.

All channels of a pixel share the mixture component; given it, the means of later channels are linear in the earlier
ones: μ_G + α·R, μ_B + β·R + γ·G. So one pass of the network is enough for a pixel, where a softmax takes three.

Two streams: u has seen the rows above (down-shifted 2×3 convolutions), ul those and the left of its own row
(down-right-shifted 2×2 ones, which also read u). Both go through gated residual blocks, two halvings by strided
convolutions and back, with a short cut from every layer on the way down to its mirror on the way up.

Paper: T. Salimans, A. Karpathy, X. Chen, D. P. Kingma (2017), PixelCNN++, arXiv:1701.05517. Departures: no weight
normalisation and no initialisation from data, but each block's second convolution begins at a tenth of its size; the
sampler rounds a channel before the next one is conditioned on it, as the likelihood does (the authors' code goes on
with the unrounded value, and so draws from another distribution); the first convolution of ul, the sum of two in the
paper, is the one masked convolution that the sum amounts to; log s is kept from 7 above as well as from −7 below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.autoregressive.incremental import Stepper
from course_lib.autoregressive.masked import ConvStepper, MaskedConv2d, RowConv
from course_lib.autoregressive.model import PixelModel, draw_category

#: The paper's network for CIFAR-10 (section 3): PixelCNNpp((3, 32, 32), **PAPER).
PAPER = {"filters": 160, "resnets": 5, "mixtures": 10, "dropout": 0.5}

#: log s is kept within ±7, in units of [−1, 1]: from less than an eighth of a level (of 256) to all mass at both edges.
LOG_SCALE = 7.0


# --- The discretised mixture of logistics ---------------------------------------------------------------------


class Mixture(NamedTuple):
    """Parameters of K logistics at every pixel, for intensities in [−1, 1]."""

    logits: Tensor  # of π: (B, K, *)
    means: Tensor  # (B, C, K, *), without what the earlier channels add
    log_scales: Tensor  # (B, C, K, *)
    coefficients: Tensor  # in (−1, 1), (B, C (C − 1)/2, K, *): of G on R; of B on R, on G; …

    def mean(self, channel: int, intensities: Tensor) -> Tensor:
        """Means (B, K, *) of one channel, given the earlier ones in intensities (B, C, *)."""
        mean, first = self.means[:, channel], channel * (channel - 1) // 2
        for earlier in range(channel):
            mean = mean + self.coefficients[:, first + earlier] * intensities[:, earlier, None]
        return mean


def mixture(parameters: Tensor, channels: int) -> Mixture:
    """Network outputs (B, K·(1 + 2C + C (C − 1)/2), *) → the mixture. Half precision becomes float32."""
    if parameters.dtype in (torch.float16, torch.bfloat16):
        parameters = parameters.float()
    pairs = channels * (channels - 1) // 2
    logits, means, log_scales, coefficients = parameters.unflatten(1, (1 + 2 * channels + pairs, -1)).split(
        [1, channels, channels, pairs], dim=1
    )
    return Mixture(logits.squeeze(1), means, log_scales.clamp(-LOG_SCALE, LOG_SCALE), coefficients.tanh())


def log_prob_of_levels(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """log [F((x + ½ − μ)/s) − F((x − ½ − μ)/s)], F logistic, in nats; everything in units of levels, and broadcast.

    At level 0 the second term is 0, at the last level the first is 1. For a = b + 1/s the difference is a product,

        F(a) − F(b) = F(a) F(−b) (1 − e^(b − a)),

    so its logarithm is a sum that neither cancels nor underflows, however far x is from μ and however small s is.
    """
    inverse = torch.exp(-log_scale)
    upper, lower = (x + 0.5 - mean) * inverse, (x - 0.5 - mean) * inverse
    first, last = x == 0, x == levels - 1
    below_upper = F.logsigmoid(upper) * ~last
    above_lower = F.logsigmoid(-lower) * ~first
    return below_upper + above_lower + torch.log(-torch.expm1(-inverse)) * ~(first | last)


# --- The layers -----------------------------------------------------------------------------------------------


class DownShiftedConv(nn.Conv2d):
    """A 2×3 convolution that ends at its own row: sees this row and the one above, at all sides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, (2, 3), stride)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 0)))


class DownRightShiftedConv(nn.Conv2d):
    """A 2×2 convolution that ends at its own pixel: sees it, the one to the left, and those above these two."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, 2, stride)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 0, 1, 0)))

    def stepper(self, n: int, width: int) -> ConvStepper:
        """At full resolution; of a strided one, every other column of every other row is what it computes."""
        return ConvStepper(F.pad(self.weight, (0, 1)), self.bias, n, width)  # centred on the pixel: 2×3


class Stream(NamedTuple):
    """What a layer returns, and the input that others read: its concatenated ELU, computed once for all of them."""

    value: Tensor  # (B, filters, …)
    active: Tensor  # (B, 2·filters, …)


def stream(value: Tensor) -> Stream:
    return Stream(value, concat_elu(value))


def concat_elu(x: Tensor) -> Tensor:
    """ELU of x and of −x: (B, F, …) → (B, 2F, …) (W. Shang et al. 2016, arXiv:1603.05201, there with ReLU)."""
    return F.elu(torch.cat([x, -x], dim=1), inplace=True)


class GatedResnet(nn.Module):
    """x + a · σ(b), (a, b) = conv(dropout(cELU(conv(cELU(x)) + Σ 1×1(cELU(other stream))))) + condition."""

    def __init__(
        self, convolution: type[nn.Conv2d], filters: int, others: int, dropout: float, num_classes: int | None
    ):
        super().__init__()
        self.enter = convolution(2 * filters, filters)
        self.others = nn.ModuleList(nn.Conv2d(2 * filters, filters, 1, bias=False) for _ in range(others))
        self.dropout = nn.Dropout(dropout)
        self.leave = convolution(2 * filters, 2 * filters)
        self.condition = None if num_classes is None else nn.Embedding(num_classes, 2 * filters)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)

    def forward(self, x: Stream, others: Sequence[Stream], label: Tensor | None) -> Stream:
        return self.run(self.enter, self.leave, x, others, label)

    def run(
        self,
        enter: Callable[[Tensor], Tensor],
        leave: Callable[[Tensor], Tensor],
        x: Stream,
        others: Sequence[Stream],
        label: Tensor | None,
    ) -> Stream:
        """`forward` with the two convolutions given: its own, or those that go on from the row above."""
        hidden = enter(x.active)
        for layer, other in zip(self.others, others, strict=True):
            hidden = hidden + layer(other.active)
        gated = leave(self.dropout(concat_elu(hidden)))
        if self.condition is not None:
            gated = gated + self.condition(label)[:, :, None, None]
        return stream(x.value + F.glu(gated, dim=1))


class Layer(nn.Module):
    """One gated residual block of each stream, ul's reading u; with a short cut, both read their mirrors as well."""

    def __init__(self, filters: int, short_cut: bool, dropout: float, num_classes: int | None):
        super().__init__()
        self.u = GatedResnet(DownShiftedConv, filters, short_cut, dropout, num_classes)
        self.ul = GatedResnet(DownRightShiftedConv, filters, 1 + short_cut, dropout, num_classes)

    def forward(
        self, u: Stream, ul: Stream, short_cut: Sequence[Stream], label: Tensor | None
    ) -> tuple[Stream, Stream]:
        u = self.u(u, short_cut[:1], label)
        return u, self.ul(ul, [u, *short_cut[1:]], label)


class Level(nn.Module):
    """The layers of one resolution, down and up, and between them all coarser resolutions.

    The coarsest goes on from its last layer; the others have one more layer on the way up than down, so that each
    tensor of the way down, the first one included, has a short cut.
    """

    def __init__(self, filters: int, resnets: int, resolutions: int, dropout: float, num_classes: int | None):
        super().__init__()
        coarsest = resolutions == 1
        self.down = nn.ModuleList(Layer(filters, False, dropout, num_classes) for _ in range(resnets))
        self.up = nn.ModuleList(
            Layer(filters, True, dropout, num_classes) for _ in range(resnets + (not coarsest))
        )
        self.coarser = None
        if not coarsest:
            self.shrink_u = DownShiftedConv(filters, filters, stride=2)
            self.shrink_ul = DownRightShiftedConv(filters, filters, stride=2)
            self.coarser = Level(filters, resnets, resolutions - 1, dropout, num_classes)
            self.grow_u = nn.ConvTranspose2d(
                filters, filters, (2, 3), stride=2, padding=(0, 1), output_padding=(0, 1)
            )
            self.grow_ul = nn.ConvTranspose2d(filters, filters, 2, stride=2)

    def forward(self, u: Stream, ul: Stream, label: Tensor | None) -> tuple[Stream, Stream]:
        passed = [(u, ul)]
        for layer in self.down:
            u, ul = layer(u, ul, (), label)
            passed.append((u, ul))
        if self.coarser is None:
            passed.pop()
        else:
            height, width = u.value.shape[2:]
            u, ul = self.coarser(stream(self.shrink_u(u.value)), stream(self.shrink_ul(ul.value)), label)
            u, ul = (
                stream(grow(x.value)[:, :, :height, :width])
                for grow, x in ((self.grow_u, u), (self.grow_ul, ul))
            )
        for layer in self.up:
            u, ul = layer(u, ul, passed.pop(), label)
        return u, ul


# --- The model ------------------------------------------------------------------------------------------------


class PixelCNNpp(PixelModel):
    """PixelCNN++ for images (C, H, W) of any size and number of channels.

    filters: of each stream. resnets: layers of a resolution on the way down. resolutions: 3 in the paper; each halves
    the sides, rounding up. mixtures: K. dropout: of each block. num_classes: condition each block on a class, by a
    learned vector; `condition` is then int64 (B,). Parameters of a pixel: K·(1 + 2C + C (C − 1)/2), `Mixture`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 256,
        *,
        filters: int = 40,
        resnets: int = 2,
        mixtures: int = 5,
        resolutions: int = 3,
        dropout: float = 0.0,
        num_classes: int | None = None,
    ):
        super().__init__(shape, levels)
        sizes = {"filters": filters, "resnets": resnets, "mixtures": mixtures, "resolutions": resolutions}
        if min(sizes.values()) < 1:
            raise ValueError(f"sizes should be at least 1, got {sizes}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes should be at least 1, or None, got {num_classes}")
        channels = shape[0]
        self.num_classes = num_classes
        self.parameters_per_pixel = mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)
        self.passes = 1  # all channels of a pixel at once
        self.draws = 1 + channels  # which component, and a number for each channel
        self.first_u = nn.Conv2d(channels + 1, filters, (2, 3))
        self.first_ul = MaskedConv2d(channels + 1, filters, 3, "A")
        self.body = Level(filters, resnets, resolutions, dropout, num_classes)
        self.last = nn.Conv2d(filters, self.parameters_per_pixel, 1)

    def network(self, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
        """Intensities (B, C, H, W) → parameters (B, parameters_per_pixel, H, W)."""
        label = self._label(condition, len(inputs))
        x = with_ones(inputs)
        above = F.pad(x, (1, 1, 2, 0))[:, :, :-1]  # two rows above, not the pixel's own
        _, ul = self.body(stream(self.first_u(above)), stream(self.first_ul(x)), label)
        return self.last(F.elu(ul.value))

    def log_prob_of(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(pixel | pixels before), its channels together: (B, 1, H, W), nats. x: integer levels (B, C, H, W)."""
        parts, half = mixture(parameters, len(x[0])), (self.levels - 1) / 2
        x = x.to(parts.logits.dtype)
        intensities = x / half - 1
        log_p = parts.logits.log_softmax(dim=1)  # (B, K, H, W)
        for channel in range(x.shape[1]):
            mean = half * (parts.mean(channel, intensities) + 1)
            log_scale = parts.log_scales[:, channel] + math.log(half)
            log_p = log_p + log_prob_of_levels(x[:, channel, None], mean, log_scale, self.levels)
        return log_p.logsumexp(dim=1, keepdim=True)

    def draw(self, parameters: Tensor, pixel: Tensor, step: int, uniform: Tensor) -> Tensor:
        """The pixel (n, C), all channels: the component and then each channel by inverting distribution functions."""
        half = (self.levels - 1) / 2
        parts = mixture(parameters, len(pixel[0]))
        chosen = draw_category(parts.logits, uniform[:, 0])
        rows = torch.arange(len(pixel), device=pixel.device)
        means, scales, coefficients = (p[rows, :, chosen, None] for p in parts[1:])
        parts = Mixture(parts.logits, means, scales, coefficients)  # one component
        logistic = torch.logit(uniform[:, 1:])  # −∞ at 0: level 0
        drawn = torch.empty_like(pixel)
        intensities = torch.empty_like(logistic)
        for channel in range(pixel.shape[1]):
            y = (
                parts.mean(channel, intensities)[:, 0]
                + parts.log_scales[:, channel, 0].exp() * logistic[:, channel]
            )
            level = (half * (y + 1)).round().clamp(0, self.levels - 1)
            intensities[:, channel] = level / half - 1
            drawn[:, channel] = level.to(drawn.dtype)
        return drawn

    def stepper(self, n: int, condition: Tensor | None = None) -> PixelStepper:
        return PixelStepper(self, n, self._label(condition, n))

    def _label(self, condition: Tensor | None, n: int) -> Tensor | None:
        if self.num_classes is None:
            if condition is not None:
                raise ValueError("this model takes no condition: build it with num_classes")
            return None
        if condition is None or condition.shape != (n,) or condition.dtype != torch.int64:
            got = None if condition is None else f"{condition.dtype} {tuple(condition.shape)}"
            raise ValueError(f"expected a label for each image, int64 ({n},), got {got}")
        if condition.device.type == "cpu" and not bool(
            ((condition >= 0) & (condition < self.num_classes)).all()
        ):
            low, high = int(condition.min()), int(condition.max())
            raise ValueError(f"expected labels 0 to {self.num_classes - 1}, got {low} to {high}")
        return condition


def with_ones(x: Tensor) -> Tensor:
    """x (B, C, …) with a channel of ones, by which the network tells a picture's inside from the zeros around it."""
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


# --- One pixel at a time --------------------------------------------------------------------------------------
#
# u depends on complete rows only: all of it is computed when a row begins, for the whole width. Of ul, a coarser level
# has work at rows and columns that its stride divides; what it returns there serves four pixels of the finer level.


class LayerStepper:
    """A `Layer`: `row` for u, `pixel` for ul."""

    def __init__(self, layer: Layer, n: int, width: int, label: Tensor | None):
        self.layer, self.label = layer, label
        self.enter_u, self.leave_u = (
            RowConv(part.weight, part.bias, n, width) for part in (layer.u.enter, layer.u.leave)
        )
        self.enter, self.leave = layer.ul.enter.stepper(n, width), layer.ul.leave.stepper(n, width)
        self.others = [other.weight[:, :, 0, 0].t() for other in layer.ul.others]
        self.condition = None if label is None else layer.ul.condition(label)

    def row(self, u: Stream, short_cut: Sequence[Stream]) -> Stream:
        self.enter.row()
        self.leave.row()
        u = self.layer.u.run(self.enter_u, self.leave_u, u, short_cut, self.label)
        self.from_u = u.active[:, :, 0].permute(2, 0, 1) @ self.others[0]  # (width, n, filters)
        return u

    def pixel(self, j: int, x: Stream, short_cut: Sequence[Stream]) -> Stream:
        hidden = self.enter.pixel(j, x.active) + self.from_u[j]
        for weight, other in zip(self.others[1:], short_cut, strict=True):
            hidden = torch.addmm(hidden, other.active, weight)
        gated = self.leave.pixel(j, concat_elu(hidden))
        if self.condition is not None:
            gated = gated + self.condition
        return stream(x.value + F.glu(gated, dim=1))


class LevelStepper:
    """A `Level`; streams of `row` are (n, ·, 1, width), those of `pixel` (n, ·)."""

    def __init__(self, level: Level, n: int, width: int, label: Tensor | None):
        self.level, self.width, self.i = level, width, -1
        self.down, self.up = (
            [LayerStepper(layer, n, width, label) for layer in layers] for layers in (level.down, level.up)
        )
        self.coarser = None
        if level.coarser is not None:
            columns = (width + 1) // 2
            self.coarser = LevelStepper(level.coarser, n, columns, label)
            filters = level.grow_ul.out_channels
            self.shrink_ul = level.shrink_ul.stepper(n, width)
            self.odd_u = level.grow_ul.weight.new_zeros(n, filters, 1, width)
            self.grow_weight = level.grow_ul.weight.permute(0, 2, 3, 1).flatten(
                1
            )  # (filters, 2 · 2 · filters)
            self.grow_bias = level.grow_ul.bias.repeat(4)
            self.grown_ul = self.grow_bias.new_empty(columns, n, 2, 2, filters)  # of two rows

    def row(self, u: Stream) -> Stream:
        self.i += 1
        passed = [u]
        for layer in self.down:
            u = layer.row(u, ())
            passed.append(u)
        if self.coarser is None:
            passed.pop()
        else:
            self.shrink_ul.row()
            u = stream(self._through_coarser_rows(u.value))
        for layer in self.up:
            u = layer.row(u, [passed.pop()])
        return u

    def _through_coarser_rows(self, u: Tensor) -> Tensor:
        if self.i % 2:
            self.odd_u = u
        else:
            shrink, rows = self.level.shrink_u, torch.cat([self.odd_u, u], dim=2)
            u = F.conv2d(rows, shrink.weight, shrink.bias, shrink.stride, padding=(0, 1))
            self.grown_u = self.level.grow_u(self.coarser.row(stream(u)).value)[..., : self.width]  # two rows
        return self.grown_u[:, :, self.i % 2, None]

    def pixel(self, j: int, ul: Stream) -> Stream:
        passed = [ul]
        for layer in self.down:
            ul = layer.pixel(j, ul, ())
            passed.append(ul)
        if self.coarser is None:
            passed.pop()
        else:
            ul = stream(self._through_coarser_pixels(j, ul.value))
        for layer in self.up:
            ul = layer.pixel(j, ul, [passed.pop()])
        return ul

    def _through_coarser_pixels(self, j: int, ul: Tensor) -> Tensor:
        if self.i % 2 or j % 2:
            self.shrink_ul.write(j, ul)
        else:
            ul = self.coarser.pixel(j // 2, stream(self.shrink_ul.pixel(j, ul))).value
            grown = torch.addmm(self.grow_bias, ul, self.grow_weight)
            self.grown_ul[j // 2] = grown.view_as(self.grown_ul[j // 2])
        return self.grown_ul[j // 2, :, self.i % 2, j % 2]


class PixelStepper(Stepper):
    """The whole network; the input of a pixel matters to later ones only: `write` it when it is drawn."""

    def __init__(self, model: PixelCNNpp, n: int, label: Tensor | None):
        width = model.shape[2]
        self.first_u = RowConv(model.first_u.weight, model.first_u.bias, n, width)
        self.first_ul = model.first_ul.stepper(n, width)
        self.body = LevelStepper(model.body, n, width, label)
        self.last_weight, self.last_bias = model.last.weight[:, :, 0, 0], model.last.bias

    def row(self) -> None:
        u = self.first_u(self.first_ul.window.complete_row())
        self.first_ul.row()
        self.body.row(stream(u))

    def write(self, j: int, x: Tensor) -> None:
        self.first_ul.write(j, with_ones(x))

    def pixel(self, j: int, x: Tensor) -> Tensor:
        ul = self.body.pixel(j, stream(self.first_ul.pixel(j, with_ones(x))))
        return F.linear(F.elu(ul.value), self.last_weight, self.last_bias)
