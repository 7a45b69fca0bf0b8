"""The layers of StyleGAN: equalised learning rates, styles that modulate convolutions, noise, smooth resampling.

A *style* s, one number a channel, is an affine function of the latent w. Two ways to let it act on a convolution:

- AdaIN (StyleGAN): every map of the output is brought to mean 0 and variance 1, then scaled and shifted by the style.
- Modulated convolution (StyleGAN2): the style scales the *weights* of each input channel, w' = s·w, and each output
  channel is divided by the deviation that it would have for independent inputs of variance 1, √Σ w'². Nothing looks at
  the actual maps, so a layer cannot hide information in their statistics.

Weights differ from example to example, so a modulated convolution looks like B convolutions. It is one: a grouped
convolution over B·I channels (the paper, appendix B), or, since scaling weights is scaling inputs and outputs, an
ordinary convolution of s·x whose result is divided by the deviation. Both are here; the second is the faster one.

Papers: T. Karras, S. Laine, T. Aila (2019), A Style-Based Generator Architecture for GANs, arXiv:1812.04948 (AdaIN, eq.
1; noise); T. Karras et al. (2020), Analyzing and Improving the Image Quality of StyleGAN, arXiv:1912.04958 (modulation,
eq. 1–3); X. Huang, S. Belongie (2017), AdaIN, arXiv:1703.06868; T. Karras et al. (2018), Progressive Growing of GANs,
arXiv:1710.10196 (equalised learning rate, section 4.1; minibatch deviation, section 3; pixel norm, 4.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Blur",
    "EqualisedConv2d",
    "EqualisedLinear",
    "ModulatedConv2d",
    "Noise",
    "adain",
    "leaky_relu",
    "minibatch_deviation",
    "modulated_conv2d",
    "pixel_norm",
]

METHODS = ("scaled", "grouped")
EPS = 1e-8


def pixel_norm(x: Tensor) -> Tensor:
    """Each row of (B, D) divided by its root mean square: a normal z lands on the sphere of radius √D."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPS)


def leaky_relu(x: Tensor) -> Tensor:
    """Slope 0.2 below 0, times √2: about as much energy comes out as goes in."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


# --- Equalised learning rate ----------------------------------------------------------------------------------------


class EqualisedLinear(nn.Module):
    """A linear layer whose weights are stored as N(0, 1) and scaled by lr_factor/√inputs at each use.

    Adam moves all stored numbers at one speed, so all layers learn at one relative speed (Karras et al. 2018, section
    4.1). lr_factor: slows the layer down without changing what it computes at first (0.01 in the mapping network).
    """

    def __init__(self, inputs: int, outputs: int, *, lr_factor: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_factor)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_factor))
        self.scale, self.lr_factor = lr_factor / math.sqrt(inputs), lr_factor

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_factor)


class EqualisedConv2d(nn.Module):
    """A convolution (1 × 1 or 3 × 3) with N(0, 1) stored and 1/√(fan in) at each use. resample: "up", "down", None."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, resample: str | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.resample = 1 / math.sqrt(inputs * kernel**2), resample
        self.blur = Blur() if resample else None

    def forward(self, x: Tensor) -> Tensor:
        y = resampled_conv2d(x, self.weight * self.scale, self.resample, self.blur)
        return y if self.bias is None else y + _channelwise(self.bias, y)


# --- Resampling -----------------------------------------------------------------------------------------------------


class Blur(nn.Module):
    """The filter [1, 3, 3, 1]/8 in both directions, as two passes: what keeps halving and doubling from aliasing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("taps", torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, persistent=False)

    def forward(self, x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
        """(B, C, H, W) → side (H + 2·padding − 3); values times ``gain``."""
        column, row = self._kernels(x, gain)
        x = F.conv2d(x, column, padding=(padding, 0), groups=x.shape[1])
        return F.conv2d(x, row, padding=(0, padding), groups=x.shape[1])

    def halve(self, x: Tensor) -> Tensor:
        """Half the side: the filter, at every other pixel only."""
        # In full precision: backwards, this kind of convolution is thirty times slower in bfloat16 on a CPU.
        with torch.autocast(x.device.type, enabled=False):
            y = x.float()
            column, row = self._kernels(y, 1.0)
            y = F.conv2d(y, column, stride=(2, 1), padding=(1, 0), groups=x.shape[1])
            return F.conv2d(y, row, stride=(1, 2), padding=(0, 1), groups=x.shape[1]).to(x.dtype)

    def enlarge(self, x: Tensor) -> Tensor:
        """Twice the side: zeros between the pixels, then the filter. Inside, this is bilinear interpolation."""
        c, taps = x.shape[1], (2 * self.taps).to(x.dtype)
        kernel = (taps[:, None] * taps).expand(c, 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=c)

    def _kernels(self, x: Tensor, gain: float) -> tuple[Tensor, Tensor]:
        taps = (self.taps * math.sqrt(gain)).to(x.dtype)
        shapes = (x.shape[1], 1, 4, 1), (x.shape[1], 1, 1, 4)
        return taps.view(1, 1, 4, 1).expand(shapes[0]), taps.view(1, 1, 1, 4).expand(shapes[1])


def resampled_conv2d(
    x: Tensor, weight: Tensor, resample: str | None = None, blur: Blur | None = None, groups: int = 1
) -> Tensor:
    """Convolution with weight (O, I, k, k), k odd, and at once: "up", twice the side; "down", half of it.

    Zeros between the pixels, convolution, filter (up), or filter, convolution of every other pixel (down). Folding the
    filter into one 6 × 6 kernel would be the same function at four times the products; measured, it is slower.
    """
    if resample == "up":  # a transposed convolution: the zeros are never multiplied
        if groups > 1:
            outputs, inputs = weight.shape[0] // groups, weight.shape[1]
            weight = weight.view(groups, outputs, inputs, *weight.shape[2:]).transpose(1, 2).flatten(0, 1)
        else:
            weight = weight.transpose(0, 1)
        return blur(F.conv_transpose2d(x, weight, stride=2, groups=groups), padding=1, gain=4.0)
    if resample == "down" and weight.shape[-1] == 1:
        return F.conv2d(blur.halve(x), weight, groups=groups)
    if resample == "down":
        return F.conv2d(blur(x, padding=2), weight, stride=2, groups=groups)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)


# --- Styles ---------------------------------------------------------------------------------------------------------


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    resample: str | None = None,
    blur: Blur | None = None,
    method: str = "scaled",
) -> Tensor:
    """A convolution whose weights are s_i·w_oi for each example, over √Σ (s_i·w_oi)² (Karras et al. 2020, eq. 1 and 3).

    Args:
        x: (B, I, H, W). weight: (O, I, k, k), shared. style: s (B, I), a factor for each input channel.
        demodulate: divide by the deviation. resample, blur: as in `resampled_conv2d`.
        method: "scaled": one convolution with the shared weights, of s·x, the result divided; "grouped": one
            convolution with B groups, each with its own weights. The same up to rounding.

    Returns: (B, O, H', W').
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; the known ones are: {', '.join(METHODS)}")
    if method == "grouped":
        return _grouped(x, weight, style, demodulate, resample, blur)
    y = resampled_conv2d(x * style.to(x.dtype)[:, :, None, None], weight, resample, blur)
    if not demodulate:
        return y
    with torch.autocast(x.device.type, enabled=False):  # sums of squares in full precision: they are tiny
        energy = style.float().square() @ weight.float().square().sum((2, 3)).T  # (B, O)
        factor = torch.rsqrt(energy + EPS)
    return y * factor.to(y.dtype)[:, :, None, None]


def _grouped(
    x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, resample: str | None, blur: Blur | None
) -> Tensor:
    own = weight * style[:, None, :, None, None]  # (B, O, I, k, k): what "scaled" never has to hold
    if demodulate:
        own = own * torch.rsqrt(own.square().sum((2, 3, 4), keepdim=True) + EPS)
    batch = len(x)
    y = resampled_conv2d(x.reshape(1, -1, *x.shape[2:]), own.flatten(0, 1), resample, blur, groups=batch)
    return y.view(batch, -1, *y.shape[2:])


class ModulatedConv2d(nn.Module):
    """`modulated_conv2d` with its weights and the affine map A: w (B, style_dim) → s, which begins around 1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        resample: str | None = None,
        method: str = "scaled",
    ) -> None:
        super().__init__()
        self.affine = EqualisedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale, self.demodulate, self.resample = 1 / math.sqrt(inputs * kernel**2), demodulate, resample
        self.method, self.blur = method, Blur() if resample else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return modulated_conv2d(
            x,
            self.weight * self.scale,
            self.affine(w),
            demodulate=self.demodulate,
            resample=self.resample,
            blur=self.blur,
            method=self.method,
        )


def adain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Each map of each example to mean ``shift`` and deviation ``scale`` (Karras et al. 2019, eq. 1).

    x: (B, C, H, W). scale, shift: (B, C).
    """
    deviation, mean = torch.std_mean(x.float(), dim=(2, 3), correction=0, keepdim=True)
    factor = scale.float()[:, :, None, None] / (deviation + EPS)
    return (x * factor.to(x.dtype)) + (shift.float()[:, :, None, None] - mean * factor).to(x.dtype)


class Noise(nn.Module):
    """Adds one normal number a pixel, the same for all channels, times one learned strength that begins at 0.

    Args: side: of the maps. There is a fixed picture of noise besides fresh ones, so that a style alone decides.
    """

    KINDS = ("random", "fixed", "none")

    def __init__(self, side: int) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.randn(1, 1, side, side))
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, kind: str = "random", generator: torch.Generator | None = None) -> Tensor:
        if kind == "none":
            return x
        if kind == "random":
            device = x.device if generator is None else generator.device
            noise = torch.randn(len(x), 1, *x.shape[2:], generator=generator, device=device).to(x.device)
        else:
            noise = self.fixed
        return x + (noise * self.strength).to(x.dtype)


# --- The discriminator's look at its neighbours ---------------------------------------------------------------------


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """(B, C, H, W) → (B, C + 1, H, W): one more map, constant, with how much the examples of a group differ.

    The deviation over a group of examples, at each channel and pixel, then averaged (Karras et al. 2018, section 3): a
    generator that makes one picture again and again is seen through. Groups of ``group`` examples, or of the largest
    number below it that divides B; example i is in group i mod (B/group).
    """
    size = next(g for g in range(min(group, len(x)), 0, -1) if len(x) % g == 0)
    grouped = x.float().reshape(size, -1, *x.shape[1:])
    deviation = (grouped.var(dim=0, correction=0) + EPS).sqrt().mean((1, 2, 3))  # (B/size,)
    maps = deviation.to(x.dtype).repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, maps], dim=1)


def _channelwise(bias: Tensor, like: Tensor) -> Tensor:
    return bias.to(like.dtype)[:, None, None]
