"""Pix2Pix: a picture from a picture, learned from pairs by a conditional GAN and an L1 distance.

The generator sees x (a label map) and draws y; the discriminator sees x with y, or x with G(x):

    L_cGAN(G, D) = E[log D(x, y)] + E[log(1 − D(x, G(x)))]
    G* = arg min over G of the max over D of  L_cGAN(G, D) + λ E‖y − G(x)‖₁

L1 alone gives what is certain and the median where it is not: a blur. The discriminator asks for one of the possible
sharp pictures. As L1 has the large forms in hand, D needs to judge the fine ones only: it looks at patches.

- Generator: a U-Net, an encoder and a decoder with a skip from each encoder layer to its mirror image.
- Discriminator: a PatchGAN, a convolutional network whose outputs each judge one square of the picture.
- Noise: no z (the generator learned to ignore it) but dropout in the decoder, also when it is used.

Papers: P. Isola, J.-Y. Zhu, T. Zhou, A. A. Efros (2017), Image-to-Image Translation with Conditional Adversarial
Networks, arXiv:1611.07004 (sections 3 and 6); O. Ronneberger et al. (2015), U-Net, arXiv:1505.04597; D. Ulyanov et al.
(2016), Instance Normalization, arXiv:1607.08022. Departures: D learns first and G after it, on the same fakes (as in
`gan`); D's loss is not halved: Adam's steps do not depend on the scale of a loss.

Pictures are in [0, 1] wherever they can be seen; the networks change to [−1, 1] inside, as in `dcgan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from course_lib.adversarial.dcgan import initialise
from course_lib.adversarial.gan import GAN

__all__ = [
    "PRESETS",
    "PatchDiscriminator",
    "Pix2Pix",
    "Pix2PixSettings",
    "UNet",
    "l1_loss",
    "patch_side",
    "pix2pix",
]


def l1_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean |output − target| in the papers' unit, in which pixels span [−1, 1]: twice that of pixels in [0, 1].

    So λ means here what it means in the papers. A scalar in [0, 2].
    """
    return 2 * F.l1_loss(output, target)


# --- Building blocks ------------------------------------------------------------------------------------------------


class InstanceNorm2d(nn.InstanceNorm2d):
    """Every channel of every picture to mean 0 and variance 1 (Ulyanov et al., eq. 4); it mixes no examples.

    The same as PyTorch's, which on a CPU copies maps that lie channels last, and takes three times as long for them.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.is_contiguous():
            return super().forward(x)
        return torch.cat([F.batch_norm(one, None, None, training=True, eps=self.eps) for one in x.split(1)])


class NoisyDropout(nn.Dropout):
    """Dropout in training and evaluation mode alike: the noise of the generator (section 3.2.1)."""

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if generator is None:
            return F.dropout(x, self.p, training=True)
        kept = torch.rand(x.shape, generator=generator, device=generator.device) >= self.p
        return x * kept.to(x.device) / (1 - self.p)


#: "batch": by the statistics of the batch that is translated, never by running ones (section 3.4). With one picture in
#: the batch that is instance norm, but with a learned scale and shift.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "instance": InstanceNorm2d,
    "none": lambda channels: nn.Identity(),
}


class UNet(nn.Module):
    """Pictures (B, C, H, W) in [0, 1] → (B, out_channels, H, W) in [0, 1]; H and W multiples of 2^depth.

    Section 6.1.1 with ``depth=8, width=64``: encoder C64-C128-C256-C512-C512-C512-C512-C512, decoder
    CD512-CD512-CD512-C512-C256-C128-C64, a last convolution, tanh. Every convolution is 4 × 4 with stride 2. Decoder
    layer i takes its predecessor's channels and those of encoder layer depth − i. The first encoder layer has no norm,
    and neither has the innermost: on a 1 × 1 map with one picture it would leave zeros (the paper's errata).

    Args:
        channels, out_channels: of x and y. depth: halvings of the side. width: channels of the first layer; each layer
            has twice those of the one before, at most 8 · width.
        dropouts: number of decoder layers, from the innermost on, with dropout of rate ``noise``.
        normalise: a name in ``NORMS``. skips: False for a plain encoder and decoder (section 4.2's comparison).
        init_std: of the weights; None for PyTorch's own initialisation.

    Raises: ValueError for other sizes and names.
    """

    def __init__(
        self,
        channels: int = 3,
        out_channels: int = 3,
        depth: int = 8,
        width: int = 64,
        *,
        dropouts: int = 3,
        noise: float = 0.5,
        normalise: str = "batch",
        skips: bool = True,
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        _positive(channels=channels, out_channels=out_channels, depth=depth, width=width)
        norm, bias = NORMS[_known(normalise, NORMS, "normalise")], normalise != "batch"
        if not 0 <= dropouts < depth or not 0 <= noise < 1:
            raise ValueError(f"expected 0 ≤ dropouts < depth={depth}, 0 ≤ noise < 1; got {dropouts}, {noise}")
        self.channels, self.depth, self.skips = channels, depth, skips
        widths = [width * min(2**i, 8) for i in range(depth)]
        normed = [False, *[True] * (depth - 2), False][:depth]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, out, 4, stride=2, padding=1, bias=bias),
                norm(out) if normed[i] else nn.Identity(),
            )
            for i, (c, out) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.decoder, self.noise = nn.ModuleList(), nn.ModuleList()
        for i, out in enumerate(widths[-2::-1]):
            c = widths[-1 - i] * (2 if skips and i > 0 else 1)
            up = nn.ConvTranspose2d(c, out, 4, stride=2, padding=1, bias=bias)
            self.decoder.append(nn.Sequential(up, norm(out)))
            self.noise.append(NoisyDropout(noise) if i < dropouts and noise > 0 else nn.Identity())
        c = width * (2 if skips and depth > 1 else 1)
        self.last = nn.ConvTranspose2d(c, out_channels, 4, stride=2, padding=1)
        initialise(self, init_std)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """generator: of the dropout's noise; default: torch's global one."""
        self._check(x)
        h, hidden = 2 * x - 1, []
        for i, layer in enumerate(self.encoder):
            h = layer(h if i == 0 else F.leaky_relu(h, 0.2))
            hidden.append(h)
        hidden.pop()
        for layer, noise in zip(self.decoder, self.noise, strict=True):
            h = layer(F.relu(h))
            h = noise(h, generator) if isinstance(noise, NoisyDropout) else h
            skip = hidden.pop()
            h = torch.cat([h, skip], dim=1) if self.skips else h
        # The bounds in full precision: bfloat16 has only 128 numbers between ½ and 1.
        return 0.5 * torch.tanh(self.last(F.relu(h)).float()) + 0.5

    def _check(self, x: Tensor) -> None:
        step = 2**self.depth
        good = x.ndim == 4 and x.is_floating_point() and x.shape[1] == self.channels
        if not good or x.shape[2] % step or x.shape[3] % step or not x.numel():
            raise ValueError(
                f"expected pictures (B, {self.channels}, H, W) in [0, 1] with sides that are multiples of {step} "
                f"(a U-Net of depth {self.depth}), got {x.dtype} {tuple(x.shape)}"
            )


class PatchDiscriminator(nn.Module):
    """Pictures (B, C, H, W) in [0, 1] → logits (B, h, w): each judges one square of the picture (section 3.3).

    Section 6.1.2 with ``depth=3, width=64``: C64-C128-C256-C512 and a convolution to one channel; 4 × 4 convolutions,
    the first ``depth`` of them with stride 2, the last two with stride 1. A map of side H/2^depth − 2.

    Args:
        channels: of what it judges; x and y one above the other for a conditional model.
        depth: halvings of the side. Receptive fields of 16, 34, 70, 142, 286 for depths 1 to 5; 0 is the PixelGAN,
            whose convolutions are all 1 × 1. width: channels of the first layer, then doubling, at most 8 · width.
        normalise: a name in ``NORMS``; never in the first layer and the last.
        init_std: of the weights; None for PyTorch's own initialisation.

    Raises: ValueError for other sizes and names.
    """

    def __init__(
        self,
        channels: int = 3,
        depth: int = 3,
        width: int = 64,
        *,
        normalise: str = "batch",
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        _positive(channels=channels, width=width)
        norm, bias = NORMS[_known(normalise, NORMS, "normalise")], normalise != "batch"
        if depth < 0:
            raise ValueError(f"depth should be at least 0, got {depth}")
        self.channels, self.depth = channels, depth
        kernel, padding = (4, 1) if depth else (1, 0)
        widths = [width * min(2**i, 8) for i in range(depth + 1)] if depth else [width, 2 * width]
        layers: list[nn.Module] = []
        for i, (c, out) in enumerate(zip([channels, *widths], widths, strict=False)):
            stride = 2 if i < depth else 1
            layers.append(nn.Conv2d(c, out, kernel, stride, padding, bias=i == 0 or bias))
            layers += [norm(out)] if i > 0 else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, kernel, 1, padding))
        initialise(self, init_std)

    def forward(self, x: Tensor) -> Tensor:
        least = 3 * 2**self.depth if self.depth else 1
        if (
            x.ndim != 4
            or x.shape[1] != self.channels
            or min(x.shape[2:]) < least
            or not x.is_floating_point()
        ):
            raise ValueError(
                f"expected pictures (B, {self.channels}, H, W) in [0, 1] with sides of at least {least} pixels (a "
                f"PatchGAN of depth {self.depth}), got {x.dtype} {tuple(x.shape)}"
            )
        return self.layers(2 * x - 1).squeeze(1)

    def receptive_field(self) -> int:
        """Side, in pixels, of the square that one output sees through its convolutions.

        From the output back: a layer of kernel k and stride s turns a field of r into s (r − 1) + k. (A norm's
        statistics come from the whole map, but they carry no place.)
        """
        field = 1
        for layer in reversed([m for m in self.layers if isinstance(m, nn.Conv2d)]):
            field = layer.stride[0] * (field - 1) + layer.kernel_size[0]
        return field


def patch_side(discriminator: PatchDiscriminator, side: int) -> tuple[int, int]:
    """(height, width) of the pixels from which the middle output of a side × side picture has a gradient.

    Measured, not computed: weights are replaced by ones, so that nothing cancels, and norms and activations are
    passed over, which carry no place. Where the field does not reach the border it is `receptive_field`.
    """
    x = torch.zeros(1, discriminator.channels, side, side, dtype=torch.float64, requires_grad=True)
    h = x
    for layer in discriminator.layers:
        if isinstance(layer, nn.Conv2d):
            h = F.conv2d(h, torch.ones_like(layer.weight, dtype=x.dtype), None, layer.stride, layer.padding)
    h[0, 0, h.shape[2] // 2, h.shape[3] // 2].backward()
    seen = x.grad[0, 0] != 0
    return int(seen.any(dim=1).sum()), int(seen.any(dim=0).sum())


# --- The algorithm --------------------------------------------------------------------------------------------------


class Pix2Pix(GAN):
    """The adversarial step on pairs: D judges (x, y), G adds λ times an L1 distance to what D makes it learn.

    A batch is (x, y): conditions (B, C, H, W) and pictures (B, C', H, W) in [0, 1]. Terms of a step: those of `GAN`,
    and "gan" and "l1", of which ``g_loss = gan_weight · gan + l1_weight · l1`` (`l1_loss`'s unit).

    Args:
        generator: x → y. discriminator: (B, C + C', H, W) → logits.
        l1_weight: λ. gan_weight: 0 for L1 alone (then D does not learn, and is not run).
        options: of `GAN`: loss, r1, history, ema, schedulers, …
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        g_optimizer: Optimizer,
        d_optimizer: Optimizer,
        *,
        l1_weight: float = 100.0,
        gan_weight: float = 1.0,
        **options: Any,
    ) -> None:
        if not (l1_weight >= 0 and gan_weight >= 0 and l1_weight + gan_weight > 0):
            raise ValueError(f"expected weights ≥ 0, one of them positive; got {l1_weight=}, {gan_weight=}")
        # There is no z: the noise is the generator's dropout.
        super().__init__(generator, discriminator, g_optimizer, d_optimizer, latent_dim=1, **options)
        self.l1_weight, self.gan_weight = l1_weight, gan_weight

    def step(self, batch: Any) -> Mapping[str, Tensor]:
        if not isinstance(batch, tuple | list) or len(batch) != 2 or len(batch[0]) != len(batch[1]):
            raise ValueError("a batch of Pix2Pix is a pair (x, y) of as many conditions as pictures")
        return super().step(batch)

    def real(self, part: tuple[Tensor, ...]) -> Tensor:
        return part[1]

    def fake(self, part: tuple[Tensor, ...]) -> Tensor:
        return self.generator(part[0])

    def score(self, discriminator: nn.Module, x: Tensor, part: tuple[Tensor, ...]) -> Tensor:
        return discriminator(torch.cat([part[0], x], dim=1))

    def discriminator_step(self, part: tuple[Tensor, ...], fake: Tensor) -> dict[str, Tensor]:
        return super().discriminator_step(part, fake) if self.gan_weight > 0 else {}

    def generator_terms(
        self, discriminator: nn.Module, part: tuple[Tensor, ...], fake: Tensor
    ) -> dict[str, Tensor]:
        terms = {"l1": l1_loss(fake, part[1])}
        g_loss = self.l1_weight * terms["l1"]
        if self.gan_weight > 0:
            terms["gan"] = super().generator_terms(discriminator, part, fake)["g_loss"]
            g_loss = g_loss + self.gan_weight * terms["gan"]
        return {"g_loss": g_loss} | terms

    @torch.no_grad()
    def translate(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pictures for conditions x (B, C, H, W), a sample of each from G's distribution; generator: of the noise."""
        return self.evaluated(x) if generator is None else self.evaluated(x, generator)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Nothing to sample from: raises ValueError."""
        raise ValueError("Pix2Pix draws nothing without a condition: use translate(x, generator)")


@dataclass(frozen=True)
class Pix2PixSettings:
    """A Pix2Pix; what is not a size has the paper's value."""

    width: int = 32  # of both networks
    depth: int | None = None  # of the U-Net; None: down to a map of 1 × 1
    dropouts: int = 3
    noise: float = 0.5
    normalise: str = "instance"  # of both networks
    skips: bool = True
    d_depth: int = 3  # of the PatchGAN
    l1_weight: float = 100.0
    gan_weight: float = 1.0
    lr: float = 2e-4
    beta1: float = 0.5  # of Adam
    init_std: float | None = 0.02


#: "paper": section 6 for (3, 256, 256), batches of 1. "small": what the course trains at 64 and 128 pixels.
PRESETS: dict[str, Pix2PixSettings] = {
    "small": Pix2PixSettings(lr=1e-3, d_depth=2),
    "paper": Pix2PixSettings(width=64, depth=8, normalise="batch"),
}


def pix2pix(
    image_shape: Sequence[int],
    preset: str = "small",
    *,
    out_channels: int | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> Pix2Pix:
    """A ready `Pix2Pix` for conditions (C, S, S) in [0, 1]; its networks are drawn from torch's global random state.

    Args:
        image_shape: of a condition; S a power of two, or a multiple of 2^depth. preset: a name in ``PRESETS``.
        out_channels: of a picture; default C. options: of `GAN`. changes: fields of `Pix2PixSettings`.

    Raises: ValueError for bad sizes and unknown names; TypeError for a field that does not exist.
    """
    s = replace(PRESETS[_known(preset, PRESETS, "preset")], **changes)
    c, height, side = image_shape if len(image_shape) == 3 else (0, 0, 1)
    depth = side.bit_length() - 1 if s.depth is None else s.depth
    if c < 1 or height != side or side % 2 ** max(depth, 1) or depth < 1:
        raise ValueError(
            f"Pix2Pix needs image_shape (C, S, S) with S a multiple of 2^depth = {2**depth}, got {tuple(image_shape)}"
        )
    out = c if out_channels is None else out_channels
    generator = UNet(
        c,
        out,
        depth,
        s.width,
        dropouts=min(s.dropouts, depth - 1),
        noise=s.noise,
        normalise=s.normalise,
        skips=s.skips,
        init_std=s.init_std,
    )
    discriminator = PatchDiscriminator(
        c + out, s.d_depth, s.width, normalise=s.normalise, init_std=s.init_std
    )
    optimizers = (
        torch.optim.Adam(n.parameters(), lr=s.lr, betas=(s.beta1, 0.999), fused=True)
        for n in (generator, discriminator)
    )
    weights = {"l1_weight": s.l1_weight, "gan_weight": s.gan_weight}
    return Pix2Pix(generator, discriminator, *optimizers, **weights, **(options or {}))


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} should be at least 1, got {size}")


def _known(name: str, known: Any, what: str) -> str:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; the known ones are: {', '.join(known)}")
    return name
