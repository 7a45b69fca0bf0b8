"""The Wasserstein GAN: a critic that measures how far the mass has to be moved.

The earth mover's distance between two distributions,

    W(p, q) = min over couplings γ of E_γ‖x − y‖ = max over 1-Lipschitz f of E_p f(x) − E_q f(y)

(Kantorovich–Rubinstein), changes smoothly when a distribution moves, where the Jensen–Shannon divergence of disjoint
supports stays at log 2. A critic f is trained to attain the maximum; E f(real) − E f(fake) then estimates W, and the
generator lowers it. The Lipschitz bound comes from clipping every weight, or from a penalty on the critic's gradient.

Papers: M. Arjovsky et al. (2017), Wasserstein GAN, arXiv:1701.07875; I. Gulrajani et al. (2017), Improved Training of
Wasserstein GANs, arXiv:1704.00028. Departure: after the critic's last step the
generator learns on the same fakes (as in `gan`), not on new ones.

In one dimension W is known exactly: the area between the two distribution functions, `wasserstein_1d`.

The penalty is soft: where the distance is W along one direction, slope s earns s·W and costs λ(s − 1)², so the best
slope is 1 + W/(2λ), and the critic's estimate is high by that factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from course_lib.adversarial.gan import GAN, AdversarialLoss

__all__ = [
    "WGAN",
    "clip_weights",
    "critic_loss",
    "generator_loss",
    "gradient_penalty",
    "wasserstein_1d",
    "wasserstein_estimate",
]


def wasserstein_1d(
    x: Tensor, y: Tensor, x_weights: Tensor | None = None, y_weights: Tensor | None = None
) -> Tensor:
    """W₁ of two samples on the line, ∫|F(t) − G(t)| dt, exactly, by sorting: a scalar, in their unit, differentiable.

    x (n,) and y (m,), floating, n and m free. Weights: of the points' shapes, not negative; divided by their sum.
    For n = m without weights it is mean |x₍ᵢ₎ − y₍ᵢ₎|: the i-th smallest goes to the i-th smallest.
    """
    wx, wy = _weights(x, x_weights, "x"), _weights(y, y_weights, "y")
    points, order = torch.cat([x, y]).sort()
    # F − G jumps by +w at each point of x, by −w at each point of y.
    difference = torch.cat([wx, -wy])[order].cumsum(0)
    return (difference[:-1].abs() * points.diff()).sum()


def _weights(x: Tensor, weights: Tensor | None, name: str) -> Tensor:
    if x.ndim != 1 or len(x) == 0 or not x.is_floating_point():
        raise ValueError(
            f"{name} should be a floating vector (n,) with n ≥ 1, got {x.dtype} {tuple(x.shape)}"
        )
    if weights is None:
        return torch.full_like(x, 1 / len(x))
    if weights.shape != x.shape or not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise ValueError(
            f"weights of {name} should be {tuple(x.shape)}, not negative, not all 0; got {weights}"
        )
    return weights / weights.sum()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E f(G(z)) − E f(x), to be minimised: minus the estimate of W."""
    return fake.mean() - real.mean()


def generator_loss(fake: Tensor) -> Tensor:
    """−E f(G(z))."""
    return -fake.mean()


@torch.no_grad()
def wasserstein_estimate(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E f(real) − E f(fake): W for a critic that attains the maximum, less for any other that is 1-Lipschitz."""
    return -critic_loss(critic(real), critic(fake))


@torch.no_grad()
def clip_weights(parameters: Iterable[Tensor], limit: float) -> None:
    """Put every weight into [−limit, limit], in place (Arjovsky et al., algorithm 1, limit 0.01).

    The critic is then K-Lipschitz with a K that nobody knows, and estimates K·W at best.
    """
    if not limit > 0:
        raise ValueError(f"limit should be positive, got {limit}")
    for parameter in parameters:
        parameter.clamp_(-limit, limit)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """E(‖∇f(x̂)‖ − 1)², x̂ = t·real + (1 − t)·fake, t ~ U[0, 1] for each example (Gulrajani et al., eq. 3; without λ).

    real, fake: (B, *shape). A scalar, differentiable in the critic's weights. Not at real points: on the
    straight lines along which mass moves the best critic has slope 1 (proposition 1 there).
    """
    if real.shape != fake.shape:
        raise ValueError(f"real and fake should have one shape, got {tuple(real.shape)}, {tuple(fake.shape)}")
    device = real.device if generator is None else generator.device
    t = torch.rand(len(real), *[1] * (real.ndim - 1), generator=generator, device=device).to(real)
    between = (t * real + (1 - t) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()


class WGAN(GAN):
    """The adversarial step with a critic: WGAN-GP by default, the first WGAN with ``clip``.

    Args:
        generator, critic, g_optimizer, critic_optimizer, latent_dim: as in `GAN`; the critic is its discriminator. It
            must not mix examples: layer norm, no batch norm (Gulrajani et al., section 4). Their optimiser: Adam, 1e-4,
            betas (0, 0.9); with clipping RMSprop, 5e-5.
        critic_steps: for each step of the generator. A batch is cut into so many mini-batches.
        penalty: λ, the weight of `gradient_penalty`; None with ``clip``.
        clip: the largest absolute weight; None with ``penalty``.
        options: of `GAN` (prior, history, ema, schedulers).
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        g_optimizer: Optimizer,
        critic_optimizer: Optimizer,
        *,
        latent_dim: int,
        critic_steps: int = 5,
        penalty: float | None = 10.0,
        clip: float | None = None,
        **options: Any,
    ) -> None:
        if (penalty is None) == (clip is None):
            raise ValueError(f"expected either penalty or clip, the other None; got {penalty=}, {clip=}")
        if not (penalty or clip or 0) > 0:
            raise ValueError(f"penalty and clip should be positive, got {penalty=}, {clip=}")
        loss = AdversarialLoss(critic_loss, generator_loss)
        super().__init__(
            generator,
            critic,
            g_optimizer,
            critic_optimizer,
            latent_dim=latent_dim,
            loss=loss,
            d_steps=critic_steps,
            **options,
        )
        self.penalty_weight, self.clip = penalty, clip

    def penalty(
        self, part: tuple[Tensor, ...], real: Tensor, fake: Tensor, real_logits: Tensor
    ) -> dict[str, Tensor]:
        terms = super().penalty(part, real, fake, real_logits)
        if self.penalty_weight is not None:
            critic = self.plain("discriminator")
            with self.autocast():
                value = gradient_penalty(lambda x: self.score(critic, x, part).float(), real, fake)
            terms["penalty"] = self.penalty_weight * value
        return terms

    def after_discriminator_step(self) -> None:
        if self.clip is not None:
            clip_weights(self.plain("discriminator").parameters(), self.clip)

    def discriminator_step(self, part: tuple[Tensor, ...], fake: Tensor) -> dict[str, Tensor]:
        """One update of the critic. {"d_loss", "wasserstein": the estimate before the update, "penalty"}."""
        terms = super().discriminator_step(part, fake)
        # A critic's zero means nothing, so there is no accuracy.
        del terms["d_accuracy_real"], terms["d_accuracy_fake"]
        return terms | {"wasserstein": -terms["d_loss"]}
