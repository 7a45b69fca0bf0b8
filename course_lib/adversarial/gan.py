"""Generative adversarial networks: a generator learns from a classifier that tries to tell its samples from data.

The discriminator D and the generator G play for the value

    V(G, D) = E_{x∼p_data}[log D(x)] + E_{x∼p_g}[log(1 − D(x))],        min over G of the max over D.

For a fixed G the best discriminator is D* = p_data/(p_data + p_g), and V(G, D*) = −2 log 2 + 2 JSD(p_data ‖ p_g), so
the best generator has p_g = p_data, D* = ½ and V = −2 log 2. In practice expectations become mini-batches, D is a
binary classifier that takes k steps for each one of G, and nobody reaches the inner maximum.

Papers: I. Goodfellow et al. (2014), Generative Adversarial Networks, arXiv:1406.2661; W. Fedus et al. (2018), Many
Paths to Equilibrium (the names minimax and non-saturating GAN), arXiv:1710.08446; X. Mao et al. (2017), Least Squares
GAN, arXiv:1611.04076; J. Lim and J. C. Ye (2017), Geometric GAN (hinge), arXiv:1705.02894; L. Mescheder et al. (2018),
R1, arXiv:1801.04406; T. Karras et al. (2020), lazy regularisation, arXiv:1912.04958; A. Shrivastava et al. (2017),
history of generated images, arXiv:1612.07828; L. Metz et al. (2017), Unrolled GAN, arXiv:1611.02163; A. Srivastava
et al. (2017), VEEGAN (how modes are counted), arXiv:1705.07761. Departures: the generator learns on the fakes that the
discriminator saw last, so that they are computed once (Goodfellow et al. draw new ones); `unroll` looks ahead with the
discriminator's own optimiser on one mini-batch.

Logs are natural. A discriminator returns logits, log D/(1 − D), never probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from course_lib.adversarial.divergences import (
    js_divergence,
    kl_divergence,
    optimal_discriminator,
    value_function,
)
from course_lib.adversarial.unrolled import DifferentiableUpdate, Functional
from course_lib.latent.autoencoder import Activation, mlp_decoder, mlp_encoder
from course_lib.training import Algorithm

__all__ = [
    "GAN",
    "LOSSES",
    "AdversarialLoss",
    "ModeCoverage",
    "SampleHistory",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "js_divergence",
    "kl_divergence",
    "least_squares_discriminator_loss",
    "least_squares_generator_loss",
    "minimax_discriminator_loss",
    "minimax_generator_loss",
    "mlp_discriminator",
    "mlp_generator",
    "mode_coverage",
    "non_saturating_generator_loss",
    "optimal_discriminator",
    "r1_penalty",
    "value_function",
]

# --- The losses, from logits; each returns a scalar to be minimised -------------------------------------------------


def minimax_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−V = −E log D(x) − E log(1 − D(G(z))), by softplus: the binary cross-entropy, summed over the two classes."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """E log(1 − D(G(z))). Its slope in the logit is −D, which vanishes where D wins: it saturates."""
    return -F.softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """−E log D(G(z)), the cross-entropy with swapped labels. Its slope in the logit is D − 1: largest where D wins."""
    return F.softplus(-fake).mean()


def least_squares_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """½ E(D(x) − 1)² + ½ E D(G(z))²; the output is used as it comes, without a sigmoid (Mao et al., eq. 9)."""
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def least_squares_generator_loss(fake: Tensor) -> Tensor:
    """½ E(D(G(z)) − 1)²."""
    return 0.5 * (fake - 1).square().mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))) (Lim & Ye, eq. 13): a margin of 1 is enough."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """−E D(G(z))."""
    return -fake.mean()


class AdversarialLoss(NamedTuple):
    """What each player minimises, and from which output on an example counts as called real.

    is_value: the discriminator's loss is −V, so that the step can report V.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    threshold: float = 0.0
    is_value: bool = False


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(minimax_discriminator_loss, minimax_generator_loss, is_value=True),
    "non_saturating": AdversarialLoss(
        minimax_discriminator_loss, non_saturating_generator_loss, is_value=True
    ),
    "least_squares": AdversarialLoss(
        least_squares_discriminator_loss, least_squares_generator_loss, threshold=0.5
    ),
    "hinge": AdversarialLoss(hinge_discriminator_loss, hinge_generator_loss),
}


def r1_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """½ E‖∇_x D(x)‖² at real examples (Mescheder et al., eq. 9, without its weight γ): a scalar, differentiable.

    logits: D(real), any shape, computed with real.requires_grad; each must depend on its own example only.
    """
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return 0.5 * slope.square().sum() / len(real)


# --- A history of generated samples ---------------------------------------------------------------------------------


class SampleHistory(nn.Module):
    """A pool of past samples: the discriminator keeps seeing what the generator used to make (Shrivastava et al.).

    Until the pool is full, samples are stored and passed on. Then each is passed on as it is, or, with probability ½,
    takes the place of an old one, which is passed on instead: the rule of CycleGAN (Zhu et al. 2017, section 4, with a
    capacity of 50). It is a module so that it moves to the device and into the checkpoint.

    Args:
        capacity: number of samples. shape: of one sample, without the batch.
    """

    def __init__(self, capacity: int, shape: Sequence[int]) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"capacity should be at least 1, got {capacity}")
        self.register_buffer("pool", torch.zeros(capacity, *shape))
        self.filled = 0

    def get_extra_state(self) -> int:
        return self.filled

    def set_extra_state(self, state: int) -> None:
        self.filled = state

    @torch.no_grad()
    def forward(self, samples: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As many samples as came, (B, *shape), some of them older; no gradient passes."""
        if samples.shape[1:] != self.pool.shape[1:]:
            wanted = ", ".join(map(str, self.pool.shape[1:]))
            raise ValueError(f"expected samples (B, {wanted}), got {tuple(samples.shape)}")
        return torch.cat([self._exchange(part, generator) for part in samples.split(len(self.pool))])

    def _exchange(self, samples: Tensor, generator: torch.Generator | None) -> Tensor:
        new, rest = samples.tensor_split([len(self.pool) - self.filled])
        self.pool[self.filled : self.filled + len(new)] = new.to(self.pool)
        self.filled += len(new)
        # Places without repetition: two samples of a batch never claim the same one.
        device = rest.device if generator is None else generator.device
        place = torch.randperm(len(self.pool), generator=generator, device=device)[: len(rest)]
        place = place.to(rest.device)
        old = self.pool[place].to(rest)
        swap = torch.rand(len(rest), generator=generator, device=device).to(rest.device) < 0.5
        swap = swap.view(-1, *[1] * (rest.ndim - 1))
        self.pool[place] = torch.where(swap, rest, old).to(self.pool)
        return torch.cat([new, torch.where(swap, old, rest)])


# --- The game -------------------------------------------------------------------------------------------------------


class GAN(Algorithm):
    """Two networks and the step in which they learn from each other.

    A batch is a tensor of real examples or a tuple that begins with them. It is cut into ``d_steps`` mini-batches, one
    for each step of the discriminator: for mini-batches of m examples use a loader with ``d_steps`` · m. Then the
    generator takes one step, on the fakes of the last of them.

    Args:
        generator: (B, latent_dim) → (B, *shape). discriminator: (B, *shape) → logits, of any shape.
        g_optimizer, d_optimizer: over the parameters of each.
        latent_dim: of z. prior: "normal", N(0, I), or "uniform", U[−1, 1].
        loss: a name in ``LOSSES`` or an ``AdversarialLoss``.
        d_steps: k, steps of the discriminator for one of the generator.
        r1: γ, the weight of `r1_penalty`; r1_every: taken every so many discriminator steps with r1_every times the
            weight (lazy regularisation).
        history: mixes past fakes into what the discriminator sees.
        ema: ``AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(0.999))``; then `sample` uses it.
        unroll: the generator learns against the discriminator as it will be after so many more steps.
        g_scheduler, d_scheduler: learning rates, stepped once a step.

    To derive from it: override `fake`, `real` and `score` for conditional models, `generator_terms` to add a loss of
    the generator, `penalty` to regularise the discriminator (gradients with respect to inputs: through
    ``self.plain("discriminator")``), `after_discriminator_step` to constrain its weights.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        g_optimizer: Optimizer,
        d_optimizer: Optimizer,
        *,
        latent_dim: int,
        prior: str = "normal",
        loss: str | AdversarialLoss = "non_saturating",
        d_steps: int = 1,
        r1: float = 0.0,
        r1_every: int = 1,
        history: SampleHistory | None = None,
        ema: AveragedModel | None = None,
        unroll: int = 0,
        g_scheduler: LRScheduler | None = None,
        d_scheduler: LRScheduler | None = None,
    ) -> None:
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; the known ones are: {', '.join(LOSSES)}")
        if prior not in ("normal", "uniform"):
            raise ValueError(f"prior should be 'normal' or 'uniform', got {prior!r}")
        numbers = {"latent_dim": latent_dim, "d_steps": d_steps, "r1_every": r1_every}
        if min(numbers.values()) < 1 or unroll < 0 or not r1 >= 0:
            raise ValueError(
                f"expected {', '.join(numbers)} ≥ 1, r1 and unroll ≥ 0; got {numbers}, {r1=}, {unroll=}"
            )
        if unroll:
            DifferentiableUpdate.check(d_optimizer)
        self.generator, self.discriminator = generator, discriminator
        self.g_optimizer, self.d_optimizer = g_optimizer, d_optimizer
        self.latent_dim, self.prior = latent_dim, prior
        self.loss = LOSSES[loss] if isinstance(loss, str) else loss
        self.d_steps, self.r1, self.r1_every, self.unroll = d_steps, r1, r1_every, unroll
        self.history, self.ema = history, ema
        self.g_scheduler, self.d_scheduler = g_scheduler, d_scheduler
        self.d_updates = _Counter()

    # -- what a conditional model overrides

    def real(self, part: tuple[Tensor, ...]) -> Tensor:
        """The real examples of a mini-batch."""
        return part[0]

    def fake(self, part: tuple[Tensor, ...]) -> Tensor:
        """As many generated ones: G(z), z from the prior."""
        real = self.real(part)
        return self.generator(self.latent(len(real), real))

    def score(self, discriminator: nn.Module, x: Tensor, part: tuple[Tensor, ...]) -> Tensor:
        """Logits for real or generated examples x of this mini-batch."""
        return discriminator(x)

    def generator_terms(
        self, discriminator: nn.Module, part: tuple[Tensor, ...], fake: Tensor
    ) -> dict[str, Tensor]:
        """Named terms of the generator; "g_loss" is minimised."""
        return {"g_loss": self.loss.generator(self.score(discriminator, fake, part).float())}

    def penalty(
        self, part: tuple[Tensor, ...], real: Tensor, fake: Tensor, real_logits: Tensor
    ) -> dict[str, Tensor]:
        """Named terms that are added to the discriminator's loss, with their weights. Here: lazy R1."""
        if not self._r1_is_due():
            return {}
        return {"r1": self.r1 * self.r1_every * r1_penalty(real_logits, real)}

    def after_discriminator_step(self) -> None:
        """Called when the discriminator's weights have changed."""

    # -- one step

    def step(self, batch: Any) -> Mapping[str, Tensor]:
        """k steps of D, one of G. Named scalars: losses, accuracies of D in [0, 1], V in nats; see the methods."""
        parts = self._mini_batches(batch)
        for part in parts[:-1]:
            with torch.no_grad():
                fake = self.fake(part)
            self.discriminator_step(part, fake)
        fake = self.fake(parts[-1])  # one pass of the generator serves both players
        terms = self.discriminator_step(parts[-1], fake.detach())
        terms |= self.generator_step(parts[-1], fake)
        if self.ema is not None:
            self.ema.update_parameters(self.plain("generator"))
        for scheduler in (self.g_scheduler, self.d_scheduler):
            if scheduler is not None:
                scheduler.step()
        return terms

    def discriminator_step(self, part: tuple[Tensor, ...], fake: Tensor) -> dict[str, Tensor]:
        """One update of D. {"d_loss" (without penalties), "d_accuracy_real", "d_accuracy_fake", "value" where the
        loss is −V, and the penalties}. fake: without gradient."""
        real, network = self.real(part), self.discriminator
        if self._r1_is_due():
            # Fabric lets no gradient but its own backward pass through what a wrapped network returns.
            real, network = real.detach().requires_grad_(), self.plain("discriminator")
        if self.history is not None:
            fake = self.history(fake)
        self.d_optimizer.zero_grad()
        with self.autocast():
            real_logits = self.score(network, real, part)
            fake_logits = self.score(self.discriminator, fake, part)
        d_loss = self.loss.discriminator(real_logits.float(), fake_logits.float())
        penalties = self.penalty(part, real, fake, real_logits)
        self.backward(sum(penalties.values(), start=d_loss))
        self.d_optimizer.step()
        self.d_updates.value += 1
        self.after_discriminator_step()
        terms = {"d_loss": d_loss} | ({"value": -d_loss} if self.loss.is_value else {}) | penalties
        terms["d_accuracy_real"] = (real_logits > self.loss.threshold).float().mean()
        terms["d_accuracy_fake"] = (fake_logits <= self.loss.threshold).float().mean()
        return {name: term.detach() for name, term in terms.items()}

    def generator_step(self, part: tuple[Tensor, ...], fake: Tensor) -> dict[str, Tensor]:
        """One update of G through fakes that carry its gradient, with D held still. The terms of `generator_terms`."""
        self.g_optimizer.zero_grad()
        with self.frozen("discriminator") as discriminator, self.autocast():
            if self.unroll:
                discriminator = self._unrolled(discriminator, part, fake)
            terms = self.generator_terms(discriminator, part, fake)
        self.backward(terms["g_loss"])
        self.g_optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    # -- samples

    @property
    def evaluated(self) -> nn.Module:
        """The generator that counts, unwrapped: the averaged one if there is one."""
        return self.plain("generator") if self.ema is None else self.ema.module

    def latent(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z from the prior, (n, latent_dim), with the device and type of ``like``."""
        device = like.device if generator is None else generator.device
        draw = torch.randn if self.prior == "normal" else torch.rand
        z = draw(n, self.latent_dim, generator=generator, device=device, dtype=like.dtype).to(like.device)
        return z if self.prior == "normal" else 2 * z - 1

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples G(z), in evaluation mode (batch norm by running statistics); of the averaged generator if any."""
        if n < 1:
            raise ValueError(f"n should be at least 1, got {n}")
        network = self.evaluated
        with _evaluating(network):
            return network(self.latent(n, next(network.parameters()), generator))

    # -- inner parts

    def _mini_batches(self, batch: Any) -> list[tuple[Tensor, ...]]:
        batch = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        if len(batch[0]) < self.d_steps:
            raise ValueError(
                f"a batch of {len(batch[0])} cannot be cut into d_steps={self.d_steps} mini-batches"
            )
        return list(zip(*(item.tensor_split(self.d_steps) for item in batch), strict=True))

    def _r1_is_due(self) -> bool:
        return self.r1 > 0 and self.d_updates.value % self.r1_every == 0

    def _unrolled(self, discriminator: nn.Module, part: tuple[Tensor, ...], fake: Tensor) -> Callable:
        """D after ``unroll`` more steps of its optimiser, as a function of ``fake`` (Metz et al., eq. 10)."""
        names = [name for name, _ in discriminator.named_parameters()]
        optimizer = self.plain("d_optimizer")
        weights = [p.detach().requires_grad_() for p in discriminator.parameters()]
        update = DifferentiableUpdate(optimizer, list(discriminator.parameters()))
        real = self.real(part)
        for _ in range(self.unroll):
            look = Functional(discriminator, dict(zip(names, weights, strict=True)))
            logits = self.score(look, real, part), self.score(look, fake, part)
            slopes = torch.autograd.grad(self.loss.discriminator(*logits), weights, create_graph=True)
            weights = update(weights, slopes)
        return Functional(discriminator, dict(zip(names, weights, strict=True)))


class _Counter(nn.Module):
    """A number that belongs to the checkpoint and that a step may read without waiting for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.value = 0

    def get_extra_state(self) -> int:
        return self.value

    def set_extra_state(self, state: int) -> None:
        self.value = state


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


# --- Small networks -------------------------------------------------------------------------------------------------


def mlp_generator(
    latent_dim: int,
    output_shape: Sequence[int] = (2,),
    hidden: Sequence[int] = (128, 128),
    *,
    activation: Activation = nn.ReLU,
    output: nn.Module | None = None,
) -> nn.Sequential:
    """(B, latent_dim) → (B, *output_shape). output: a last activation, e.g. nn.Sigmoid() for pixels in [0, 1]."""
    layers = mlp_decoder(latent_dim, output_shape, tuple(reversed(hidden)), activation)  # reverses them
    return layers if output is None else nn.Sequential(*layers, output)


def _leaky_relu() -> nn.Module:
    return nn.LeakyReLU(0.2)


def mlp_discriminator(
    input_shape: Sequence[int] = (2,),
    hidden: Sequence[int] = (128, 128),
    *,
    activation: Activation = _leaky_relu,
) -> nn.Sequential:
    """(B, *input_shape) → logits (B,); also a critic."""
    return nn.Sequential(*mlp_encoder(input_shape, 1, hidden, activation), nn.Flatten(0))


# --- Diagnostics ----------------------------------------------------------------------------------------------------


class ModeCoverage(NamedTuple):
    """What `mode_coverage` counts: modes covered, the share of high-quality samples in [0, 1], and of each mode."""

    modes: int
    high_quality: float
    shares: Tensor


def mode_coverage(samples: Tensor, modes: Tensor, std: float, least: int = 1) -> ModeCoverage:
    """Which modes of a mixture of round Gaussians do samples (N, d) reach? modes: means (K, d); std: of each.

    As in Metz et al. and Srivastava et al.: a sample is of high quality within 3 standard deviations of the nearest
    mode, and a mode is covered if it is the nearest of at least ``least`` high-quality samples (1 there). ``shares``
    (K,) are the high-quality samples of each mode, divided by N: for the mixture itself nearly 1/K each. (Of true
    samples in the plane 1 − e^(−9/2) = 98.9 % are of high quality.)
    """
    if samples.ndim != 2 or modes.ndim != 2 or samples.shape[1] != modes.shape[1] or len(samples) == 0:
        raise ValueError(
            f"expected samples (N, d) and modes (K, d), got {tuple(samples.shape)} and {tuple(modes.shape)}"
        )
    if not std > 0 or least < 1:
        raise ValueError(f"expected std > 0 and least ≥ 1, got {std} and {least}")
    distance, nearest = torch.cdist(samples, modes.to(samples)).min(dim=1)
    counts = torch.bincount(nearest[distance <= 3 * std], minlength=len(modes))
    return ModeCoverage(
        int((counts >= least).sum()), counts.sum().item() / len(samples), counts.float() / len(samples)
    )
