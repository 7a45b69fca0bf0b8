"""Deep convolutional GAN: the guidelines under which two convolutional networks learn against each other stably.

The generator begins with a 4 × 4 map of many channels and doubles its side, halving its channels, until the picture is
there; the discriminator goes the same way back. The paper's guidelines, each of which can be broken here:

- no pooling: strided convolutions in D, transposed ones in G       `strided`, `resize`
- batch norm in both, except at G's output and D's input            `normalise`
- no fully connected layers but the first of G and the last of D
- ReLU in G, leaky ReLU of slope 0.2 in D                           `g_slope`, `d_slope`
- tanh at G's output, pictures in [−1, 1]                           `output`
- weights from N(0, 0.02²)                                          `init_std`
- Adam with a learning rate of 2e-4 and β₁ = 0.5                    `lr`, `beta1`

Papers: A. Radford, L. Metz, S. Chintala (2016), Unsupervised Representation Learning with Deep Convolutional GANs,
arXiv:1511.06434 (sections 3 and 4; section 5.1 for D's features); A. Odena, V. Dumoulin, C. Olah (2016),
Deconvolution and Checkerboard Artifacts, Distill (resize-convolution); I. Gulrajani et al. (2017), arXiv:1704.00028
(layer norm in a critic). Departures: kernels are 4 × 4, so that stride 2 divides them (the paper's code has 5 × 5;
4 × 4 is what PyTorch's example made common); D's output is a logit.

Pictures are in [0, 1] wherever they can be seen: the generator returns them so and the discriminator takes them so.
Both change to [−1, 1] inside, the generator after its tanh, the discriminator before its first layer, and no one else
ever does. Activations lie channels last in memory, the faster order for convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from course_lib.adversarial.gan import GAN
from course_lib.adversarial.wgan import WGAN

__all__ = ["PRESETS", "DCGANSettings", "Discriminator", "Generator", "dcgan", "wgan_gp"]

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),  # over all of one picture; it mixes no examples
    "none": lambda channels: nn.Identity(),
}
OUTPUTS = ("tanh", "sigmoid", "linear")


class Generator(nn.Module):
    """(B, latent_dim) → pictures (B, *image_shape) in [0, 1].

    Args:
        image_shape: (C, S, S), S a power of two, at least 16.
        latent_dim: of z. width: channels of the last hidden layer; each layer before it has twice as many.
        resize: nearest-neighbour enlargement and a 3 × 3 convolution in place of the transposed convolution.
        normalise: "batch", "layer" or "none". slope: of the activation below 0; 0 is ReLU.
        output: "tanh"; "sigmoid", pictures in [0, 1] inside as well; "linear", nothing that bounds them while
            training, clamped in evaluation mode.
        init_std: of the weights; None for PyTorch's own initialisation.

    Raises: ValueError for other sizes and names.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int = 100,
        width: int = 64,
        *,
        resize: bool = False,
        normalise: str = "batch",
        slope: float = 0.0,
        output: str = "tanh",
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        widths = _widths(image_shape, width)
        _known(normalise, NORMS, "normalise")
        _known(output, OUTPUTS, "output")
        if latent_dim < 1:
            raise ValueError(f"latent_dim should be at least 1, got {latent_dim}")
        self.image_shape, self.latent_dim, self.output = tuple(image_shape), latent_dim, output
        bias = normalise == "none"  # a norm's own shift makes it superfluous
        self.project = nn.Linear(latent_dim, 16 * widths[-1], bias=bias)
        layers = [_block((), widths[-1], normalise, slope)]
        for c, narrower in zip(widths[:0:-1], widths[-2::-1], strict=True):
            layers.append(_block(_larger(c, narrower, resize, bias), narrower, normalise, slope))
        layers.append(nn.Sequential(*_larger(widths[0], self.image_shape[0], resize, bias=False)))
        self.layers = nn.Sequential(*layers)
        initialise(self, init_std)

    def forward(self, z: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"expected latents (B, {self.latent_dim}), got {tuple(z.shape)}")
        # A map of 4 × 4, the channels last in memory (section 3: "just a matrix multiplication", then a reshape).
        maps = self.project(z).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
        # The bounds in full precision: bfloat16 has only 128 numbers between ½ and 1.
        x = self.layers(maps).float()
        if self.output == "sigmoid":
            return torch.sigmoid(x)
        x = 0.5 * (torch.tanh(x) if self.output == "tanh" else x) + 0.5  # [−1, 1] → [0, 1]
        return x if self.training else x.clamp(0, 1)


class Discriminator(nn.Module):
    """Pictures (B, *image_shape) in [0, 1] → logits (B,); with ``normalise="layer"`` a critic for WGAN-GP.

    Args:
        image_shape: (C, S, S), S a power of two, at least 16. width: channels of the first layer; then doubling.
        strided: False for 3 × 3 convolutions followed by max pooling.
        normalise: "batch", "layer" or "none"; never at the input. slope: of the activation below 0.
        signed: the first layer sees [−1, 1]; False: [0, 1], for a generator with ``output="sigmoid"``.
        init_std: of the weights; None for PyTorch's own initialisation.

    Raises: ValueError for other sizes and names.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: int = 64,
        *,
        strided: bool = True,
        normalise: str = "batch",
        slope: float = 0.2,
        signed: bool = True,
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        widths = _widths(image_shape, width)
        _known(normalise, NORMS, "normalise")
        self.image_shape, self.signed = tuple(image_shape), signed
        layers = [_block(_smaller(self.image_shape[0], width, strided, False), width, "none", slope)]
        for c, wider in pairwise(widths):
            layers.append(_block(_smaller(c, wider, strided, normalise == "none"), wider, normalise, slope))
        self.layers = nn.Sequential(*layers)
        self.decide = nn.Linear(16 * widths[-1], 1, bias=False)
        initialise(self, init_std)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.layers(self._inside(x))
        # "Flattened and then fed into a single output" (section 3), in the order in which they lie in memory.
        return self.decide(maps.permute(0, 2, 3, 1).flatten(1)).flatten()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """What D has learned to see (N, F): all its hidden layers, each max-pooled to 4 × 4, side by side.

        Section 5.1: the representation on which a linear classifier is trained; F = 16 · (sum of the layers' channels).
        Computed in evaluation mode.
        """
        training = self.training
        self.eval()
        try:
            hidden = list(accumulate(self.layers, lambda h, layer: layer(h), initial=self._inside(x)))[1:]
        finally:
            self.train(training)
        return torch.cat([F.adaptive_max_pool2d(h, 4).flatten(1) for h in hidden], dim=1)

    def _inside(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape or not x.is_floating_point():
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(f"expected pictures (B, {wanted}) in [0, 1], got {x.dtype} {tuple(x.shape)}")
        return 2 * x - 1 if self.signed else x


# --- The ready algorithms -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DCGANSettings:
    """A DCGAN; the guidelines' defaults are the paper's."""

    width: int = 32  # of both networks
    latent_dim: int = 64
    prior: str = "normal"  # of z; "uniform" in the paper
    lr: float = 2e-4
    beta1: float = 0.5  # of Adam
    ema: float | None = 0.98  # decay of the generator's average, from which samples come; not in the paper
    strided: bool = True  # False: enlargement and pooling in place of strides
    resize: bool = False  # resize-convolution in G alone
    normalise: str = "batch"
    g_slope: float = 0.0
    d_slope: float = 0.2
    output: str = "tanh"
    init_std: float | None = 0.02


#: "paper": figure 1 and section 4, for (3, 64, 64) and batches of 128. "example": PyTorch's DCGAN example, half as
#: wide and with normal z, for batches of 64. "small": what the course trains in a minute.
PRESETS: dict[str, DCGANSettings] = {
    "small": DCGANSettings(lr=2e-3),
    "paper": DCGANSettings(width=128, latent_dim=100, prior="uniform", ema=None),
    "example": DCGANSettings(width=64, latent_dim=100, ema=None),
}


def dcgan(
    image_shape: Sequence[int],
    preset: str = "small",
    *,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> GAN:
    """A ready `GAN` for pictures (C, S, S) in [0, 1]; its networks are drawn from torch's global random state.

    Args:
        image_shape: S a power of two, at least 16. preset: a name in ``PRESETS``.
        changes: fields of `DCGANSettings` that replace the preset's, e.g. ``width=64, beta1=0.9``.
        options: of `GAN`: loss, d_steps, r1, history, …

    Raises: ValueError for bad sizes and unknown names; TypeError for a field that does not exist.
    """
    s = replace(PRESETS[_known(preset, PRESETS, "preset")], **changes)
    generator = Generator(
        image_shape,
        s.latent_dim,
        s.width,
        resize=s.resize or not s.strided,
        normalise=s.normalise,
        slope=s.g_slope,
        output=s.output,
        init_std=s.init_std,
    )
    discriminator = Discriminator(
        image_shape,
        s.width,
        strided=s.strided,
        normalise=s.normalise,
        slope=s.d_slope,
        signed=s.output != "sigmoid",
        init_std=s.init_std,
    )
    g_optimizer, d_optimizer = (_adam(n, s.lr, (s.beta1, 0.999)) for n in (generator, discriminator))
    return GAN(
        generator,
        discriminator,
        g_optimizer,
        d_optimizer,
        latent_dim=s.latent_dim,
        prior=s.prior,
        ema=_average(generator, s.ema),
        **(options or {}),
    )


def wgan_gp(
    image_shape: Sequence[int],
    *,
    width: int = 32,
    latent_dim: int = 64,
    lr: float = 1e-4,
    critic_steps: int = 5,
    penalty: float = 10.0,
    ema: float | None = 0.995,
    **options: Any,
) -> WGAN:
    """WGAN-GP with the networks of DCGAN; the critic has layer norm (Gulrajani et al., section 4), Adam (0, 0.9).

    Batches of ``critic_steps`` · m pictures in [0, 1]. Distances, and with them the slope of 1 that the penalty asks
    for, are in units of such pixels. Other arguments as in `dcgan`; options: of `GAN`.
    """
    generator = Generator(image_shape, latent_dim, width)
    critic = Discriminator(image_shape, width, normalise="layer")
    return WGAN(
        generator,
        critic,
        _adam(generator, lr, (0.0, 0.9)),
        _adam(critic, lr, (0.0, 0.9)),
        latent_dim=latent_dim,
        critic_steps=critic_steps,
        penalty=penalty,
        ema=_average(generator, ema),
        **options,
    )


def _adam(network: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, fused=True)


def _average(network: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    # The running statistics of batch norm are averaged with the weights: they belong together.
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


# --- Layers ---------------------------------------------------------------------------------------------------------


def _widths(image_shape: Sequence[int], width: int) -> list[int]:
    """Channels of the maps of sides S/2, S/4, …, 4."""
    c, height, side = image_shape if len(image_shape) == 3 else (0, 0, 1)
    if c < 1 or height != side or side < 16 or side & (side - 1):
        raise ValueError(
            "a DCGAN needs image_shape (C, S, S) with S a power of two, at least 16 (load(…, image_size=32) makes "
            f"28 × 28 pictures so), got {tuple(image_shape)}"
        )
    if width < 1:
        raise ValueError(f"width should be at least 1, got {width}")
    return [width * 2**i for i in range(side.bit_length() - 3)]


def _known(name: str, known: Any, what: str) -> str:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; the known ones are: {', '.join(known)}")
    return name


def _block(resizing: Sequence[nn.Module], channels: int, normalise: str, slope: float) -> nn.Sequential:
    """Convolution, norm, activation."""
    activation = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
    norm = () if normalise == "none" else (NORMS[normalise](channels),)
    return nn.Sequential(*resizing, *norm, activation)


def _larger(c: int, out: int, resize: bool, bias: bool) -> list[nn.Module]:
    """Twice the side."""
    if resize:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(c, out, 3, padding=1, bias=bias)]
    return [nn.ConvTranspose2d(c, out, 4, stride=2, padding=1, bias=bias)]


def _smaller(c: int, out: int, strided: bool, bias: bool) -> list[nn.Module]:
    """Half the side."""
    if strided:
        return [nn.Conv2d(c, out, 4, stride=2, padding=1, bias=bias)]
    return [nn.Conv2d(c, out, 3, padding=1, bias=bias), nn.MaxPool2d(2)]


def initialise(network: nn.Module, std: float | None) -> None:
    """N(0, std²) for weights, N(1, std²) for the scales of norms, 0 for shifts; std None: PyTorch's own.

    Radford et al., section 4, and their code; Isola et al. (2017, section 6.2) and Zhu et al. took it over.
    """
    for module in network.modules() if std is not None else ():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, std)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # transposed convolutions are faster with theirs as they are
            module.to(memory_format=torch.channels_last)
