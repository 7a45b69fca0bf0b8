"""CycleGAN: translation between two sets of pictures of which no two belong together.

G: A → B and F: B → A (here `g_ab` and `g_ba`) learn against two discriminators, D_B and D_A, which know only what
pictures of their set look like. That alone leaves open *which* picture of B a picture of A becomes; translating back
has to return what one began with:

    L = L_GAN(G, D_B) + L_GAN(F, D_A) + λ (E‖F(G(a)) − a‖₁ + E‖G(F(b)) − b‖₁) + λ_id (E‖G(b) − b‖₁ + E‖F(a) − a‖₁)

- L_GAN with least squares: D minimises E(D(b) − 1)² + E D(G(a))², G minimises E(D(G(a)) − 1)².
- The last term, identity: what already is in B should stay as it is, so that colours are not changed for no reason.
- Each discriminator sees a history of 50 generated pictures, not only the newest.
- Learning rate 2e-4 for half of the training, then linearly to zero.

Papers: J.-Y. Zhu, T. Park, P. Isola, A. A. Efros (2017), Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks, arXiv:1703.10593 (section 3, 4, appendix 7); J. Johnson et al. (2016), the generator,
arXiv:1603.08155; C. Chu et al. (2017), CycleGAN, a Master of Steganography, arXiv:1712.02950 (the cycle can be closed
by hidden signals: it guarantees less than it seems to). Departures: none in the losses; a generator takes the pictures
of both sets in one call, and the fakes that the generators learn on are the ones that the discriminators learn on.

Pictures are in [0, 1] wherever they can be seen; the networks change to [−1, 1] inside, as in `dcgan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from course_lib.adversarial.dcgan import initialise
from course_lib.adversarial.gan import (
    LOSSES,
    AdversarialLoss,
    SampleHistory,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
)
from course_lib.adversarial.pix2pix import NORMS, PatchDiscriminator, _known, _positive, l1_loss
from course_lib.training import Algorithm

__all__ = ["PRESETS", "CycleGAN", "CycleGANSettings", "ResNetGenerator", "cyclegan", "linear_decay"]

#: Section 4: D's loss is halved, G's is not; λ is measured in units of the latter.
LEAST_SQUARES = AdversarialLoss(
    least_squares_discriminator_loss, lambda fake: 2 * least_squares_generator_loss(fake), threshold=0.5
)


def linear_decay(step: int, steps: int) -> float:
    """Factor of the learning rate: 1 for the first half of ``steps``, then linearly to 0 (section 4)."""
    return min(1.0, max(0.0, 2 * (1 - step / steps)))


# --- The generator --------------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """x + two 3 × 3 convolutions of x, with reflected borders and no activation at the end."""

    def __init__(self, channels: int, normalise: str) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, channels, 3, bias=normalise != "batch") for _ in range(2)]
        first, second = (_block(nn.ReflectionPad2d(1), layer, normalise) for layer in convolutions)
        self.layers = nn.Sequential(*first, *second[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResNetGenerator(nn.Module):
    """Pictures (B, C, H, W) in [0, 1] → (B, out_channels, H, W) in [0, 1]; sides multiples of 2^downsamplings.

    Appendix 7.2: c7s1-64, d128, d256, R256 × 9 (6 for sides of 128 and less), u128, u64, c7s1-3.

    Args:
        channels, out_channels: of the two sets. width: channels of the first layer, doubled by each downsampling.
        blocks: residual blocks between. downsamplings: halvings of the side.
        kernel: side of the first and the last convolution. normalise: "instance", or a name in `pix2pix.NORMS`.
        init_std: of the weights; None for PyTorch's own initialisation.

    Raises: ValueError for other sizes and names.
    """

    def __init__(
        self,
        channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        blocks: int = 9,
        downsamplings: int = 2,
        *,
        kernel: int = 7,
        normalise: str = "instance",
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        _positive(channels=channels, out_channels=out_channels, width=width, blocks=blocks)
        _known(normalise, NORMS, "normalise")
        if downsamplings < 0 or kernel < 1 or kernel % 2 == 0:
            raise ValueError(
                f"expected downsamplings ≥ 0 and an odd kernel, got {downsamplings} and {kernel}"
            )
        self.channels, self.downsamplings = channels, downsamplings
        bias = normalise != "batch"
        layers = _block(
            nn.ReflectionPad2d(kernel // 2), nn.Conv2d(channels, width, kernel, bias=bias), normalise
        )
        widths = [width * 2**i for i in range(downsamplings + 1)]
        for c, wider in pairwise(widths):
            layers += _block(nn.Conv2d(c, wider, 3, stride=2, padding=1, bias=bias), normalise)
        layers += [ResidualBlock(widths[-1], normalise) for _ in range(blocks)]
        for c, narrower in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up = nn.ConvTranspose2d(c, narrower, 3, stride=2, padding=1, output_padding=1, bias=bias)
            layers += _block(up, normalise)
        layers += [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(width, out_channels, kernel)]
        self.layers = nn.Sequential(*layers)
        initialise(self, init_std)

    def forward(self, x: Tensor) -> Tensor:
        step = 2**self.downsamplings
        good = x.ndim == 4 and x.is_floating_point() and x.shape[1] == self.channels
        if not good or x.shape[2] % step or x.shape[3] % step or min(x.shape[2:]) < 2 * step:
            raise ValueError(
                f"expected pictures (B, {self.channels}, H, W) in [0, 1] with sides that are multiples of {step}, at "
                f"least {2 * step}, got {x.dtype} {tuple(x.shape)}"
            )
        # The bounds in full precision: bfloat16 has only 128 numbers between ½ and 1.
        return 0.5 * torch.tanh(self.layers(2 * x - 1).float()) + 0.5


def _block(*layers_and_norm: Any) -> list[nn.Module]:
    """Padding if any, convolution, norm, ReLU."""
    *layers, normalise = layers_and_norm
    channels = layers[-1].out_channels
    norm = [] if normalise == "none" else [NORMS[normalise](channels)]
    return [*layers, *norm, nn.ReLU(inplace=True)]


# --- The algorithm --------------------------------------------------------------------------------------------------


class CycleGAN(Algorithm):
    """Four networks and the step in which they learn. A batch is (a, b), pictures of either set, in [0, 1].

    Terms of a step: "g_loss" = gan_ab + gan_ba + λ (cycle_a + cycle_b) + λ_id (identity_a + identity_b), its parts
    (`pix2pix.l1_loss`'s unit), "d_a_loss", "d_b_loss", and the shares of outputs that are right, "d_accuracy_real" and
    "d_accuracy_fake" in [0, 1], over both discriminators.

    Args:
        g_ab, g_ba: generators, A → B and B → A. d_a, d_b: discriminators of A and of B. None of them may mix examples
            (instance norm, not batch norm): each takes several kinds of pictures in one batch.
        g_optimizer, d_optimizer: each over both generators, both discriminators.
        cycle: λ. identity: λ_id (half of λ in section 5.2); 0 leaves out its passes. Where A and B have different
            numbers of channels it must be 0.
        loss: a name in ``gan.LOSSES`` or an ``AdversarialLoss``; default the paper's least squares.
        history_a, history_b: `SampleHistory` of generated pictures, for D_A and D_B.
        g_scheduler, d_scheduler: learning rates, stepped once a step.

    Raises: ValueError for negative weights and unknown names.
    """

    def __init__(
        self,
        g_ab: nn.Module,
        g_ba: nn.Module,
        d_a: nn.Module,
        d_b: nn.Module,
        g_optimizer: Optimizer,
        d_optimizer: Optimizer,
        *,
        cycle: float = 10.0,
        identity: float = 5.0,
        loss: str | AdversarialLoss = LEAST_SQUARES,
        history_a: SampleHistory | None = None,
        history_b: SampleHistory | None = None,
        g_scheduler: LRScheduler | None = None,
        d_scheduler: LRScheduler | None = None,
    ) -> None:
        if not (cycle >= 0 and identity >= 0):
            raise ValueError(f"expected weights ≥ 0, got {cycle=}, {identity=}")
        self.loss = LOSSES[_known(loss, LOSSES, "loss")] if isinstance(loss, str) else loss
        self.g_ab, self.g_ba, self.d_a, self.d_b = g_ab, g_ba, d_a, d_b
        self.g_optimizer, self.d_optimizer = g_optimizer, d_optimizer
        self.cycle, self.identity = cycle, identity
        self.history_a, self.history_b = history_a, history_b
        self.g_scheduler, self.d_scheduler = g_scheduler, d_scheduler

    def step(self, batch: Any) -> Mapping[str, Tensor]:
        """One update of the generators, then one of the discriminators, on the same fakes."""
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(f"a batch of CycleGAN is a pair (a, b) of pictures, got {type(batch).__name__}")
        a, b = batch
        terms, fake_a, fake_b = self.generator_step(a, b)
        terms |= self.discriminator_step(a, b, fake_a, fake_b)
        for scheduler in (self.g_scheduler, self.d_scheduler):
            if scheduler is not None:
                scheduler.step()
        return {name: term.detach() for name, term in terms.items()}

    def generator_step(self, a: Tensor, b: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """One update of both generators, with the discriminators held still. (terms, F(b), G(a) without gradient)."""
        self.g_optimizer.zero_grad()
        fake_b, same_b = self._translate_and_keep(self.g_ab, a, b)
        fake_a, same_a = self._translate_and_keep(self.g_ba, b, a)
        terms = {}
        with self.frozen("d_a") as d_a, self.frozen("d_b") as d_b, self.autocast():
            scores_a, scores_b = d_a(fake_a), d_b(fake_b)
        terms["gan_ab"] = self.loss.generator(scores_b.float())
        terms["gan_ba"] = self.loss.generator(scores_a.float())
        g_loss = terms["gan_ab"] + terms["gan_ba"]
        if self.cycle > 0:
            terms["cycle_a"] = l1_loss(self.g_ba(fake_b), a)
            terms["cycle_b"] = l1_loss(self.g_ab(fake_a), b)
            g_loss = g_loss + self.cycle * (terms["cycle_a"] + terms["cycle_b"])
        if self.identity > 0:
            terms["identity_a"], terms["identity_b"] = l1_loss(same_a, a), l1_loss(same_b, b)
            g_loss = g_loss + self.identity * (terms["identity_a"] + terms["identity_b"])
        self.backward(g_loss)
        self.g_optimizer.step()
        return {"g_loss": g_loss} | terms, fake_a.detach(), fake_b.detach()

    def discriminator_step(self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor) -> dict[str, Tensor]:
        """One update of both discriminators, on pictures from the histories where there are any."""
        self.d_optimizer.zero_grad()
        losses, right_real, right_fake = [], [], []
        players = ((self.d_a, a, fake_a, self.history_a), (self.d_b, b, fake_b, self.history_b))
        for network, real, fake, history in players:
            fake = fake if history is None else history(fake)
            real_scores, fake_scores = network(torch.cat([real, fake])).float().split([len(real), len(fake)])
            losses.append(self.loss.discriminator(real_scores, fake_scores))
            right_real.append((real_scores > self.loss.threshold).float().mean())
            right_fake.append((fake_scores <= self.loss.threshold).float().mean())
        self.backward(losses[0] + losses[1])
        self.d_optimizer.step()
        return {
            "d_a_loss": losses[0],
            "d_b_loss": losses[1],
            "d_accuracy_real": 0.5 * (right_real[0] + right_real[1]),
            "d_accuracy_fake": 0.5 * (right_fake[0] + right_fake[1]),
        }

    def _translate_and_keep(
        self, network: nn.Module, source: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The translation of source and, for the identity term, what becomes of target: in one call."""
        if self.identity == 0:
            return network(source), None
        fake, same = network(torch.cat([source, target])).split([len(source), len(target)])
        return fake, same

    @torch.no_grad()
    def translate(self, pictures: Tensor, to: str) -> Tensor:
        """Pictures (N, C, H, W) of A for ``to="b"``, of B for ``to="a"``, in the other set's look, in [0, 1]."""
        if to not in ("a", "b"):
            raise ValueError(f"to should be 'a' or 'b', got {to!r}")
        return self.plain("g_ab" if to == "b" else "g_ba")(pictures)


@dataclass(frozen=True)
class CycleGANSettings:
    """A CycleGAN; losses, history and optimiser are the paper's.

    The small networks have no norms: instance norm takes from every picture its means, and with them the colours of
    small flat pictures, which the generator would have to bring back from the outlines.
    """

    width: int = 24  # of the generators
    blocks: int = 2
    downsamplings: int = 1
    kernel: int = 3  # of the first and the last layer
    normalise: str = "none"  # of all networks
    d_width: int = 32
    d_depth: int = 1
    cycle: float = 10.0
    identity: float = 5.0
    pool: int = 50  # 0: no history
    lr: float = 2e-4
    beta1: float = 0.5  # of Adam
    init_std: float | None = None


_PAPER = CycleGANSettings(
    width=64,
    blocks=9,
    downsamplings=2,
    kernel=7,
    normalise="instance",
    d_width=64,
    d_depth=3,
    init_std=0.02,
)

#: "paper": appendix 7 for (3, 256, 256), batches of 1; at 128 pixels and less it takes 6 blocks. "small": what the
#: course trains at 32 pixels.
PRESETS: dict[str, CycleGANSettings] = {
    "small": CycleGANSettings(lr=2e-3),
    "paper": _PAPER,
    "paper128": replace(_PAPER, blocks=6),
}


def cyclegan(
    image_shape: Sequence[int],
    preset: str = "small",
    *,
    steps: int | None = None,
    loss: str | AdversarialLoss = LEAST_SQUARES,
    **changes: Any,
) -> CycleGAN:
    """A ready `CycleGAN` for pictures (C, H, W) in [0, 1]; its networks are drawn from torch's global random state.

    Args:
        image_shape: of both sets; sides multiples of 2^downsamplings. preset: a name in ``PRESETS``.
        steps: of the whole training, for `linear_decay`; None for a constant learning rate.
        changes: fields of `CycleGANSettings`.

    Raises: ValueError for bad sizes and unknown names; TypeError for a field that does not exist.
    """
    s = replace(PRESETS[_known(preset, PRESETS, "preset")], **changes)
    c, height, width = image_shape if len(image_shape) == 3 else (0, 0, 0)
    step, least = 2**s.downsamplings, max(2 ** (s.downsamplings + 1), 3 * 2**s.d_depth)
    if c < 1 or height % step or width % step or min(height, width) < least:
        raise ValueError(
            f"CycleGAN needs image_shape (C, H, W) with sides that are multiples of {step}, at least {least}, got "
            f"{tuple(image_shape)}"
        )
    if s.pool < 0 or (steps is not None and steps < 1):
        raise ValueError(f"expected pool ≥ 0 and steps ≥ 1, got pool={s.pool}, {steps=}")
    generators = [
        ResNetGenerator(
            c,
            c,
            s.width,
            s.blocks,
            s.downsamplings,
            kernel=s.kernel,
            normalise=s.normalise,
            init_std=s.init_std,
        )
        for _ in range(2)
    ]
    discriminators = [
        PatchDiscriminator(c, s.d_depth, s.d_width, normalise=s.normalise, init_std=s.init_std)
        for _ in range(2)
    ]
    optimizers = [
        torch.optim.Adam(
            list(chain.from_iterable(n.parameters() for n in pair)),
            lr=s.lr,
            betas=(s.beta1, 0.999),
            fused=True,
        )
        for pair in (generators, discriminators)
    ]
    schedulers: list[LRScheduler | None] = [None, None]
    if steps is not None:
        schedulers = [LambdaLR(o, lambda step: linear_decay(step, steps)) for o in optimizers]
    history_a, history_b = (SampleHistory(s.pool, image_shape) if s.pool else None for _ in range(2))
    return CycleGAN(
        *generators,
        *discriminators,
        *optimizers,
        cycle=s.cycle,
        identity=s.identity,
        loss=loss,
        history_a=history_a,
        history_b=history_b,
        g_scheduler=schedulers[0],
        d_scheduler=schedulers[1],
    )
