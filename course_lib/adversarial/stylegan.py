"""StyleGAN: a generator that is told at every scale how to look, by one vector that a network has made out of noise.

    z ──pixel norm──> mapping network ──> w ──A──> style of each layer
    learned constant (4 × 4) ──> [modulated convolution, + noise, leaky ReLU] × 2 at each size ──> picture

- Mapping network f: z ~ N(0, I) → w. The normal density of z forces rare combinations of factors into a warped space;
  w need not follow any density, and factors can lie straight in it: `perceptual_path_length` measures that.
- The picture begins from a constant. All that differs between pictures enters by the styles, and by noise.
- Style mixing: some layers take their style from another w. Coarse layers (4 × 4, 8 × 8) decide what is where, fine
  ones the colours. Training with mixed styles keeps neighbouring layers from relying on each other.
- Truncation: w̄ + ψ(w − w̄), with w̄ the mean of w, trades variety for typical pictures.
- D is a residual network; R1 keeps its slope at real examples small; the averaged generator is the one evaluated.

Papers: T. Karras, S. Laine, T. Aila (2019), arXiv:1812.04948 (StyleGAN); T. Karras et al. (2020), arXiv:1912.04958
(StyleGAN2: modulation, skip outputs, residual D, lazy and path length regularisation); L. Mescheder et al. (2018),
arXiv:1801.04406 (R1). Departures: pictures are in [0, 1] outside, so that slopes with respect to them are twice those
with respect to [−1, 1] (γ here is a quarter of the paper's, the path length's weight four times it); styles are mixed
for each example, not for each batch; D and G learn on the same fakes, as in `gan`; with ``modulation="adain"`` the
layers and the one output are StyleGAN's, D and the filter StyleGAN2's.

"Style" means the statistics of feature maps, a word from style transfer, where the picture is given and its style is
replaced. Here no picture is given: StyleGAN makes pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from course_lib.adversarial.gan import GAN, r1_penalty
from course_lib.adversarial.modulation import (
    Blur,
    EqualisedConv2d,
    EqualisedLinear,
    ModulatedConv2d,
    Noise,
    adain,
    leaky_relu,
    minibatch_deviation,
    modulated_conv2d,
    pixel_norm,
)

__all__ = [
    "PRESETS",
    "Discriminator",
    "Generator",
    "MappingNetwork",
    "StyleGAN",
    "StyleGANSettings",
    "Synthesis",
    "lazy_adam",
    "mix_styles",
    "modulated_conv2d",
    "path_lengths",
    "perceptual_path_length",
    "slerp",
    "stylegan",
]

MODULATIONS = ("demodulate", "adain")

# --- The generator --------------------------------------------------------------------------------------------------


class MappingNetwork(nn.Module):
    """f: z (B, latent_dim) → w (B, style_dim): pixel norm, then layers of an equal width, slowed down by lr_factor."""

    def __init__(self, latent_dim: int, style_dim: int, layers: int = 8, lr_factor: float = 0.01) -> None:
        super().__init__()
        if min(latent_dim, style_dim, layers) < 1 or not lr_factor > 0:
            raise ValueError(
                f"expected latent_dim, style_dim, layers ≥ 1, lr_factor > 0; got {latent_dim}, {style_dim}, {layers}, "
                f"{lr_factor}"
            )
        self.latent_dim, self.style_dim = latent_dim, style_dim
        widths = [latent_dim] + layers * [style_dim]
        self.layers = nn.ModuleList(EqualisedLinear(a, b, lr_factor=lr_factor) for a, b in pairwise(widths))

    def forward(self, z: Tensor) -> Tensor:
        _check_vectors("latents", z, self.latent_dim)
        x = pixel_norm(z)
        for layer in self.layers:
            x = leaky_relu(layer(x))
        return x.float()


class StyleLayer(nn.Module):
    """One layer of the synthesis: convolution under a style, noise, bias, leaky ReLU (AdaIN comes after these).

    inputs: None for StyleGAN's first layer, which has no convolution before it.
    """

    def __init__(
        self, inputs: int | None, outputs: int, style_dim: int, side: int, *, up: bool, modulation: str
    ) -> None:
        super().__init__()
        resample = "up" if up else None
        self.convolution = self.affine = None
        if modulation == "demodulate":
            self.convolution = ModulatedConv2d(inputs, outputs, 3, style_dim, resample=resample)
        else:
            self.affine = EqualisedLinear(style_dim, 2 * outputs)
            if inputs is not None:
                self.convolution = EqualisedConv2d(inputs, outputs, 3, resample=resample, bias=False)
        self.noise = Noise(side)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: str, generator: torch.Generator | None) -> Tensor:
        if self.affine is None:
            x = self.convolution(x, w)
        elif self.convolution is not None:
            x = self.convolution(x)
        x = leaky_relu(self.noise(x, noise, generator) + self.bias.to(x.dtype)[:, None, None])
        if self.affine is None:
            return x
        scale, shift = self.affine(w).chunk(2, dim=1)
        return adain(x, 1 + scale, shift)


class Synthesis(nn.Module):
    """g: one w for each layer (B, layers, style_dim) → pictures (B, *image_shape), not yet bounded to [0, 1].

    Two layers a size; the picture is the sum of what each size adds to the enlarged sum of the smaller ones ("skip
    outputs", Karras et al. 2020, section 4.1); with AdaIN, as in StyleGAN, only the last size makes it. ``sides[i]`` is
    the side of the maps that w number i first acts on: 4, 8, 8, …, S, S, S, the last on the last output only; with
    AdaIN 4, 4, 8, 8, …, the first on the constant.

    Args:
        image_shape: (C, S, S), S a power of two, at least 16. style_dim: of w.
        base, cap: maps of side s have min(base/s, cap) channels (32,768 and 512 in the paper).
        modulation: "demodulate" (StyleGAN2) or "adain" (StyleGAN).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        style_dim: int,
        base: int = 32_768,
        cap: int = 512,
        modulation: str = "demodulate",
    ) -> None:
        super().__init__()
        sides = _sides(image_shape)
        _known(modulation, MODULATIONS, "modulation")
        self.image_shape, self.style_dim = tuple(image_shape), style_dim
        widths = [_width(side, base, cap) for side in sides]
        twice = [side for side in sides for _ in range(2)]
        self.sides = tuple(twice if modulation == "adain" else [*twice[1:], sides[-1]])
        self.const = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.layers, self.outputs = nn.ModuleList(), nn.ModuleList()
        # The first sizes, which add nothing to the picture by themselves.
        self.silent = 0 if modulation == "demodulate" else len(sides) - 1
        wider = widths[0] if modulation == "demodulate" else None
        for side, width in zip(sides, widths, strict=True):
            kind = {"style_dim": style_dim, "side": side, "modulation": modulation}
            if side == 4 and modulation == "demodulate":
                self.layers.append(StyleLayer(wider, width, up=False, **kind))
            else:
                self.layers.append(StyleLayer(wider, width, up=side > 4, **kind))
                self.layers.append(StyleLayer(width, width, up=False, **kind))
            if side >= sides[self.silent]:
                self.outputs.append(_Output(width, self.image_shape[0], style_dim, modulation))
            wider = width
        self.blur = Blur()

    @property
    def n_layers(self) -> int:
        """How many w a picture takes: 2 log₂ S − 2."""
        return len(self.sides)

    def forward(self, ws: Tensor, noise: str = "random", generator: torch.Generator | None = None) -> Tensor:
        if ws.ndim != 3 or ws.shape[1:] != (self.n_layers, self.style_dim):
            raise ValueError(
                f"expected one w a layer, (B, {self.n_layers}, {self.style_dim}), got {tuple(ws.shape)}"
            )
        _known(noise, Noise.KINDS, "noise")
        x = self.const.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        picture, used = None, 0
        for i, output in enumerate(self.outputs, start=self.silent):
            for layer in self.layers[used : self._layers_until(i)]:
                x = layer(x, ws[:, used], noise, generator)
                used += 1
            added = output(x, ws[:, 2 * i + 1]).float()  # sums of pixels in full precision
            picture = added if picture is None else self.blur.enlarge(picture) + added
        return 0.5 * picture + 0.5  # [−1, 1] → [0, 1]

    def _layers_until(self, i: int) -> int:
        """Number of layers whose maps are not larger than those of size number i."""
        first = len(self.layers) % 2 or 2  # at 4 × 4: one, or two with AdaIN
        return first + 2 * i


class _Output(nn.Module):
    """What maps of one size add to the picture: a 1 × 1 convolution, modulated (but not demodulated) in StyleGAN2."""

    def __init__(self, width: int, channels: int, style_dim: int, modulation: str) -> None:
        super().__init__()
        self.modulated = modulation == "demodulate"
        if self.modulated:
            self.convolution = ModulatedConv2d(width, channels, 1, style_dim, demodulate=False)
        else:
            self.convolution = EqualisedConv2d(width, channels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        y = self.convolution(x, w) if self.modulated else self.convolution(x)
        return y + self.bias.to(y.dtype)[:, None, None]


class Generator(nn.Module):
    """Mapping network and synthesis, and w̄, the running mean of w, for truncation.

    forward is what training uses; `styles` and `synthesize` are for looking at a trained generator.

    Args: w_decay: of w̄, once a forward pass in training mode (0.995 in StyleGAN). Others: of the two networks.
    """

    def __init__(self, mapping: MappingNetwork, synthesis: Synthesis, w_decay: float = 0.995) -> None:
        super().__init__()
        if mapping.style_dim != synthesis.style_dim or not 0 <= w_decay < 1:
            raise ValueError(
                f"expected one style_dim and 0 ≤ w_decay < 1, got {mapping.style_dim}, {synthesis.style_dim}, {w_decay}"
            )
        self.mapping, self.synthesis, self.w_decay = mapping, synthesis, w_decay
        self.register_buffer("w_avg", torch.zeros(mapping.style_dim))

    @property
    def n_layers(self) -> int:
        return self.synthesis.n_layers

    def forward(self, z: Tensor, other: Tensor | None = None, crossover: Tensor | None = None) -> Tensor:
        """z (B, latent_dim) → pictures (B, *image_shape) around [0, 1]; clamped to it in evaluation mode.

        other, crossover: a second z, whose w the layers from number ``crossover`` (B,) on take: mixed styles.
        """
        w = self.mapping(z)
        if self.training:
            with torch.no_grad():
                self.w_avg.lerp_(w.mean(dim=0), 1 - self.w_decay)
        ws = self._everywhere(w)
        if other is not None:
            ws = mix_styles(ws, self._everywhere(self.mapping(other)), crossover)
        pictures = self.synthesis(ws)
        return pictures if self.training else pictures.clamp(0, 1)

    @torch.no_grad()
    def styles(self, z: Tensor, psi: float = 1.0, until: int | None = None) -> Tensor:
        """z (B, latent_dim) → one w for each layer (B, layers, style_dim), truncated.

        psi: ψ; 1 leaves w as it is, 0 makes every w the mean. until: truncate the layers below this number only.
        """
        ws = self._everywhere(self.mapping(z))
        until = self.n_layers if until is None else until
        if not 0 <= until <= self.n_layers:
            raise ValueError(f"until should be in 0 … {self.n_layers}, got {until}")
        truncated = self.w_avg.lerp(ws[:, :until], psi)
        return torch.cat([truncated, ws[:, until:]], dim=1)

    @torch.no_grad()
    def synthesize(
        self, ws: Tensor, noise: str = "fixed", generator: torch.Generator | None = None
    ) -> Tensor:
        """One w for each layer (B, layers, style_dim) → pictures in [0, 1]. noise: "fixed", "random" or "none"."""
        return self.synthesis(ws, noise, generator).clamp(0, 1)

    def _everywhere(self, w: Tensor) -> Tensor:
        return w[:, None].expand(-1, self.n_layers, -1)


def mix_styles(ws: Tensor, other: Tensor, crossover: int | Tensor) -> Tensor:
    """The layers below ``crossover`` from ``ws``, the others from ``other``: all (B, layers, style_dim).

    crossover: a number in 0 … layers, or one for each example (B,). Of ``sides``: ``sides.index(16)`` is where the
    layers of 16 × 16 begin.
    """
    if ws.shape != other.shape or ws.ndim != 3:
        raise ValueError(
            f"expected two (B, layers, style_dim) alike, got {tuple(ws.shape)} and {tuple(other.shape)}"
        )
    number = torch.arange(ws.shape[1], device=ws.device)
    limit = torch.as_tensor(crossover, device=ws.device).reshape(-1, 1)
    return torch.where((number < limit)[:, :, None], ws, other)


# --- The discriminator ----------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Half the side: two 3 × 3 convolutions beside a 1 × 1, over √2 so that the sum keeps its variance."""

    def __init__(self, width: int, wider: int) -> None:
        super().__init__()
        self.first = EqualisedConv2d(width, width, 3)
        self.second = EqualisedConv2d(width, wider, 3, resample="down")
        self.skip = EqualisedConv2d(width, wider, 1, resample="down", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = leaky_relu(self.second(leaky_relu(self.first(x))))
        return (y + self.skip(x)) * math.sqrt(0.5)


class Discriminator(nn.Module):
    """Pictures (B, *image_shape) in [0, 1] → logits (B,) (Karras et al. 2020, figure 7, "residual").

    The logit of a picture depends a little on the others of its group, by `minibatch_deviation`.

    Args: image_shape, base, cap: as in `Synthesis`. group: of the minibatch deviation; 1 for none of it.
    """

    def __init__(
        self, image_shape: Sequence[int], base: int = 32_768, cap: int = 512, group: int = 4
    ) -> None:
        super().__init__()
        widths = [_width(side, base, cap) for side in reversed(_sides(image_shape))]
        if group < 1:
            raise ValueError(f"group should be at least 1, got {group}")
        self.image_shape, self.group = tuple(image_shape), group
        self.first = EqualisedConv2d(self.image_shape[0], widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(widths)))
        self.last = EqualisedConv2d(widths[-1] + (group > 1), widths[-1], 3)
        self.dense = EqualisedLinear(16 * widths[-1], widths[-1])
        self.decide = EqualisedLinear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape or not x.is_floating_point():
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(f"expected pictures (B, {wanted}) in [0, 1], got {x.dtype} {tuple(x.shape)}")
        maps = self.blocks(leaky_relu(self.first((2 * x - 1).contiguous(memory_format=torch.channels_last))))
        if self.group > 1:
            maps = minibatch_deviation(maps, self.group)
        maps = leaky_relu(self.last(maps))
        return self.decide(leaky_relu(self.dense(maps.flatten(1)))).flatten()


# --- The algorithm --------------------------------------------------------------------------------------------------


def path_lengths(pictures: Tensor, ws: Tensor, direction: Tensor) -> Tensor:
    """How far a picture moves with w: ‖Jᵀy‖ for each example (B,), differentiable (Karras et al. 2020, eq. 4).

    pictures (B, C, H, W) computed from ws (B, layers, style_dim). direction: y, normal noise of the pictures' shape.
    Divided by √(H·W), the mean of squares over the layers, as in the authors' code.
    """
    y = direction / math.sqrt(pictures.shape[-1] * pictures.shape[-2])
    (slope,) = torch.autograd.grad((pictures * y).sum(), ws, create_graph=True)
    return slope.square().sum(dim=2).mean(dim=1).sqrt()


class StyleGAN(GAN):
    """The adversarial step with mixed styles and lazy regularisers.

    A regulariser costs more than the step itself and changes slowly: it takes a step of its own optimiser's now and
    then, ``every`` times as strong (Karras et al. 2020, section 3.1). Its step comes on top: `lazy_adam` slows Adam
    down by k/(k + 1) for that.

    Args:
        generator, discriminator, g_optimizer, d_optimizer: `Generator`, any network (B, *shape) → (B,), their Adams.
        r1: γ, the weight of `r1_penalty`; pixels are in [0, 1]: γ = 2.5 is the paper's 10. r1_every: in steps.
        path_length: the weight of (‖Jᵀy‖ − a)², a the running mean of the lengths; 0: left out; 8 is the paper's 2.
            path_length_every: in steps; half of the batch is used.
        mixing: probability that a training picture has styles of two w, crossed over at a random layer.
        options: of `GAN` (ema, d_steps, history, schedulers, loss).
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: nn.Module,
        g_optimizer: Optimizer,
        d_optimizer: Optimizer,
        *,
        r1: float = 2.5,
        r1_every: int = 16,
        path_length: float = 0.0,
        path_length_every: int = 4,
        mixing: float = 0.9,
        **options: Any,
    ) -> None:
        if not 0 <= mixing <= 1 or not path_length >= 0 or path_length_every < 1:
            raise ValueError(
                f"expected mixing in [0, 1], path_length ≥ 0, path_length_every ≥ 1; got {mixing=}, {path_length=}, "
                f"{path_length_every=}"
            )
        latent_dim = generator.mapping.latent_dim
        super().__init__(
            generator,
            discriminator,
            g_optimizer,
            d_optimizer,
            latent_dim=latent_dim,
            r1=r1,
            r1_every=r1_every,
            **options,
        )
        self.path_length, self.path_length_every, self.mixing = path_length, path_length_every, mixing
        self.mean_path = torch.zeros(())

    def fake(self, part: tuple[Tensor, ...]) -> Tensor:
        real = self.real(part)
        n, layers = len(real), self.plain("generator").n_layers
        z = self.latent(n, real)
        if self.mixing == 0:
            return self.generator(z)
        crossover = torch.randint(1, layers, (n,), device=real.device)
        crossover[torch.rand(n, device=real.device) >= self.mixing] = layers
        return self.generator(z, self.latent(n, real), crossover)

    def penalty(
        self, part: tuple[Tensor, ...], real: Tensor, fake: Tensor, real_logits: Tensor
    ) -> dict[str, Tensor]:
        """None beside the loss: R1 has steps of its own."""
        return {}

    def discriminator_step(self, part: tuple[Tensor, ...], fake: Tensor) -> dict[str, Tensor]:
        """One update of D, and now and then one by R1, "r1" then being among the terms of `GAN`."""
        due = self._r1_is_due()
        terms = super().discriminator_step(part, fake)
        if due:
            real = self.real(part).detach().requires_grad_()
            with self.autocast():
                logits = self.score(self.plain("discriminator"), real, part).float()
            penalty = self.r1 * self.r1_every * r1_penalty(logits, real)
            self._regularise("discriminator", self.d_optimizer, penalty)
            terms["r1"] = penalty.detach()
        return terms

    def generator_step(self, part: tuple[Tensor, ...], fake: Tensor) -> dict[str, Tensor]:
        """One update of G, and now and then one by the path length: "path" (mean length), "path_penalty"."""
        terms = super().generator_step(part, fake)
        step = self.d_updates.value // self.d_steps - 1
        if self.path_length > 0 and step % self.path_length_every == 0:
            terms |= self._path_step(self.real(part))
        return terms

    def _path_step(self, real: Tensor) -> dict[str, Tensor]:
        network, n = self.plain("generator"), max(1, len(real) // 2)
        with self.autocast():
            w = network.mapping(self.latent(n, real))
            ws = w[:, None].repeat(1, network.n_layers, 1)
            pictures = network.synthesis(ws)
        lengths = path_lengths(pictures, ws, torch.randn_like(pictures))
        # As in the authors' code a = 0 at first and follows with 0.01 a regularised step.
        self.mean_path = self.mean_path.lerp(lengths.detach().mean(), 0.01)
        penalty = self.path_length * self.path_length_every * (lengths - self.mean_path).square().mean()
        self._regularise("generator", self.g_optimizer, penalty)
        return {"path": lengths.detach().mean(), "path_penalty": penalty.detach()}

    def _regularise(self, name: str, optimizer: Optimizer, penalty: Tensor) -> None:
        """A step of its own. The networks went around their wrappers, so processes exchange gradients by hand."""
        optimizer.zero_grad()
        self.backward(penalty)
        if self.fabric is not None and self.fabric.world_size > 1:
            for parameter in self.plain(name).parameters():
                if parameter.grad is not None:
                    parameter.grad = self.fabric.all_reduce(parameter.grad, reduce_op="mean")
        optimizer.step()

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        psi: float = 1.0,
        until: int | None = None,
        noise: str = "random",
    ) -> Tensor:
        """n pictures (n, *image_shape) in [0, 1] of the averaged generator; psi, until: of `Generator.styles`."""
        if n < 1:
            raise ValueError(f"n should be at least 1, got {n}")
        network = self.evaluated
        z = self.latent(n, next(network.parameters()), generator)
        return network.synthesize(network.styles(z, psi, until), noise, generator)


def lazy_adam(
    parameters: Iterable[Tensor],
    lr: float,
    every: int | None,
    betas: tuple[float, float] = (0.0, 0.99),
) -> torch.optim.Adam:
    """Adam for k steps and one of a regulariser in turn, k = ``every``; None: there is no regulariser.

    With c = k/(k + 1): lr·c and β^c, so that k + 1 steps do what k did (Karras et al. 2020, appendix B).
    """
    c = 1.0 if every is None else every / (every + 1)
    betas = (betas[0] ** c, betas[1] ** c)
    return torch.optim.Adam(parameters, lr=lr * c, betas=betas, eps=1e-8, fused=True)


# --- Presets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StyleGANSettings:
    """A StyleGAN; the defaults are configuration F of StyleGAN2, for batches of 32."""

    latent_dim: int = 512
    style_dim: int = 512
    mapping_layers: int = 8
    mapping_lr_factor: float = 0.01
    base: int = 32_768  # maps of side s have min(base/s, cap) channels
    cap: int = 512
    modulation: str = "demodulate"  # or "adain"
    group: int = 4  # of the minibatch deviation
    lr: float = 2e-3
    r1: float = 2.5  # γ = 10 for pixels in [−1, 1]
    r1_every: int = 16
    path_length: float = 8.0  # 2 for pixels in [−1, 1]
    path_length_every: int = 4
    mixing: float = 0.9
    ema: float | None = 0.5 ** (32 / 10_000)  # a half-life of 10,000 pictures
    w_decay: float = 0.995


#: "paper": configuration F of Karras et al. (2020). "small": 32 × 32 on a laptop.
PRESETS: dict[str, StyleGANSettings] = {
    "small": StyleGANSettings(
        latent_dim=32,
        style_dim=32,
        mapping_layers=3,
        mapping_lr_factor=0.1,
        base=512,
        cap=64,
        lr=4e-3,
        r1=0.1,
        path_length=0.0,
        ema=0.99,
    ),
    "paper": StyleGANSettings(),
}


def stylegan(
    image_shape: Sequence[int],
    preset: str = "small",
    *,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> StyleGAN:
    """A ready `StyleGAN` for pictures (C, S, S) in [0, 1]; its networks are drawn from torch's global random state.

    Args:
        image_shape: S a power of two, at least 16. preset: a name in ``PRESETS``.
        changes: fields of `StyleGANSettings` that replace the preset's. options: of `GAN`: d_steps, history, …

    Raises: ValueError for bad sizes and unknown names; TypeError for a field that does not exist.
    """
    s = replace(PRESETS[_known(preset, PRESETS, "preset")], **changes)
    mapping = MappingNetwork(s.latent_dim, s.style_dim, s.mapping_layers, s.mapping_lr_factor)
    synthesis = Synthesis(image_shape, s.style_dim, s.base, s.cap, s.modulation)
    generator = Generator(mapping, synthesis, s.w_decay)
    discriminator = Discriminator(image_shape, s.base, s.cap, s.group)
    average = None
    if s.ema is not None:  # w̄ is averaged with the weights
        average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(s.ema), use_buffers=True)
    return StyleGAN(
        generator,
        discriminator,
        lazy_adam(generator.parameters(), s.lr, s.path_length_every if s.path_length else None),
        lazy_adam(discriminator.parameters(), s.lr, s.r1_every if s.r1 else None),
        r1=s.r1,
        r1_every=s.r1_every,
        path_length=s.path_length,
        path_length_every=s.path_length_every,
        mixing=s.mixing,
        ema=average,
        **(options or {}),
    )


# --- How straight a latent space is ---------------------------------------------------------------------------------


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From a to b (B, D) along the sphere of radius √D, at t (B,) in [0, 1]: where normal latents lie.

    Raises: ValueError for shapes that differ.
    """
    if a.shape != b.shape or a.ndim != 2 or t.shape != a.shape[:1]:
        raise ValueError(
            f"expected (B, D) twice and (B,), got {tuple(a.shape)}, {tuple(b.shape)}, {tuple(t.shape)}"
        )
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(dim=1, keepdim=True)
    across = b - cosine * a
    sine = across.norm(dim=1, keepdim=True)
    angle = t[:, None] * torch.atan2(sine, cosine)  # surer than arccos where a and b are near
    across = across / sine.clamp_min(torch.finfo(a.dtype).tiny)
    return math.sqrt(a.shape[1]) * (a * torch.cos(angle) + across * torch.sin(angle))


@torch.no_grad()
def perceptual_path_length(
    network: Generator,
    features: Callable[[Tensor], Tensor],
    *,
    space: str = "w",
    where: str = "full",
    n: int = 1_000,
    epsilon: float = 1e-3,
    batch: int = 100,
    generator: torch.Generator | None = None,
) -> float:
    """How much pictures change, to the eye of ``features``, along a way between two latents: E d(t, t + ε)/ε².

    d is the squared distance of features, so the result is the mean squared speed of the features, in their unit per
    whole way; a shorter length means a straighter, more even space (Karras et al. 2019, section 4.1, eq. 2 and 3).

    Args:
        network: with ``mapping``, ``n_layers`` and ``synthesis``. features: (B, C, H, W) → (B, F).
        space: "w", straight lines between f(z₁) and f(z₂); "z", `slerp` between z₁ and z₂.
        where: "full", t ~ U[0, 1); "end", t = 0, which leaves out latents that no z is mapped to.
        n: pairs. epsilon: ε (1e-4 in the paper; float32 features are surer with a little more). batch: at a time.

    All latents, noise "fixed". Unlike LPIPS, whose values papers print, features of ours compare our models only.
    """
    _known(space, ("w", "z"), "space")
    _known(where, ("full", "end"), "where")
    if min(n, batch) < 1 or not epsilon > 0:
        raise ValueError(f"expected n, batch ≥ 1 and epsilon > 0, got {n}, {batch}, {epsilon}")
    like = next(network.parameters())
    device = like.device if generator is None else generator.device
    total = 0.0
    for start in range(0, n, batch):
        m = min(batch, n - start)
        z = torch.randn(2, m, network.mapping.latent_dim, generator=generator, device=device).to(like)
        t = torch.rand(m, generator=generator, device=device).to(like) * (where == "full")
        if space == "w":
            a, b = network.mapping(z[0]), network.mapping(z[1])
            ways = [torch.lerp(a, b, (t + e)[:, None]) for e in (0, epsilon)]
        else:
            ways = [network.mapping(slerp(z[0], z[1], t + e)) for e in (0, epsilon)]
        near, far = (
            features(network.synthesis(w[:, None].expand(-1, network.n_layers, -1), "fixed")) for w in ways
        )
        total += (far - near).double().square().flatten(1).sum(dim=1).sum().item()
    return total / epsilon**2 / n


# --- Inner parts ----------------------------------------------------------------------------------------------------


def _sides(image_shape: Sequence[int]) -> list[int]:
    """4, 8, …, S."""
    c, height, side = image_shape if len(image_shape) == 3 else (0, 0, 1)
    if c < 1 or height != side or side < 16 or side & (side - 1):
        raise ValueError(
            "a StyleGAN needs image_shape (C, S, S) with S a power of two, at least 16 (load(…, image_size=32) makes "
            f"28 × 28 pictures so), got {tuple(image_shape)}"
        )
    return [2**i for i in range(2, side.bit_length())]


def _width(side: int, base: int, cap: int) -> int:
    if base < side or cap < 1:
        raise ValueError(f"base should be at least the side, {side}, and cap at least 1; got {base}, {cap}")
    return min(base // side, cap)


def _known(name: str, known: Iterable[str], what: str) -> str:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; the known ones are: {', '.join(known)}")
    return name


def _check_vectors(what: str, x: Tensor, width: int) -> None:
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"expected {what} (B, {width}), got {tuple(x.shape)}")
