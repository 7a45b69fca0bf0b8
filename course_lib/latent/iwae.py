"""The importance-weighted autoencoder: a VAE trained on a tighter bound.

With k samples z_1 … z_k of the encoder's q(z|x) and the weights w_i = p(x, z_i) / q(z_i|x),

    L_k(x) = E[log (1/k) Σ_i w_i],    ELBO = L_1 ≤ L_2 ≤ … ≤ log p(x).

The gradient of one estimate is Σ_i w̃_i ∇log w_i with the normalised weights w̃_i = w_i / Σ_j w_j. As k grows its signal
to the encoder vanishes faster than its noise; the doubly reparameterised estimator (DReG) has the same mean without
that defect.

Papers: Y. Burda, R. Grosse, R. Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519; T. Rainforth
et al. (2018), Tighter Variational Bounds Are Not Necessarily Better, arXiv:1802.04537; G. Tucker et al. (2019), Doubly
Reparameterized Gradient Estimators for Monte Carlo Objectives, arXiv:1810.04152; C. Cremer et al. (2017),
Reinterpreting Importance-Weighted Autoencoders, arXiv:1704.02916 (the posterior that the bound implies).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from course_lib.latent.autoencoder import Activation
from course_lib.latent.likelihoods import Likelihood
from course_lib.latent.vae import VAE, check_k, conv_vae, mlp_vae, reparameterize

ESTIMATORS = ("reparameterised", "doubly-reparameterised")


def iwae_bound(log_w: Tensor) -> Tensor:
    """log (1/k) Σ_i w_i from log-weights (k, B): (B,), nats (Burda et al., eq. 8). Its mean is L_k."""
    _check_log_weights(log_w)
    return log_w.logsumexp(dim=0) - math.log(len(log_w))


def normalised_weights(log_w: Tensor) -> Tensor:
    """w̃_i = w_i / Σ_j w_j from log-weights (k, B): (k, B), non-negative, columns sum to 1 (Burda et al., eq. 14)."""
    _check_log_weights(log_w)
    return log_w.softmax(dim=0)


def effective_sample_size(log_w: Tensor) -> Tensor:
    """1 / Σ_i w̃_i², between 1 (one sample has all the weight) and k (all are alike): (k, B) → (B,)."""
    return 1 / normalised_weights(log_w).square().sum(dim=0)


class IWAE(VAE):
    """A `VAE` whose loss is −L_k; everything else (encode, decode, sample, log_prob, …) is the VAE's.

    k: samples of z per example, at least 1; k = 1 trains on the ELBO, with its KL sampled instead of exact.
    estimator: of the encoder's gradient, "reparameterised" (Burda et al., eq. 13) or "doubly-reparameterised" (Tucker
    et al., eq. 8). The decoder's gradient and the value are the same.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        latent_dim: int,
        k: int = 50,
        estimator: str = "reparameterised",
        input_shape: Sequence[int] | None = None,
    ):
        super().__init__(encoder, decoder, likelihood, latent_dim, input_shape=input_shape)
        check_k(k)
        if estimator not in ESTIMATORS:
            raise ValueError(f"unknown estimator {estimator!r}; the known ones are: {', '.join(ESTIMATORS)}")
        self.k, self.estimator = k, estimator

    def loss(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scalars, means over the batch: {"loss", "elbo", "effective_samples"}; loss = −L_k. `label` is ignored.

        "elbo" is the mean of log w over the k samples, an estimate of L_1 for comparison.
        """
        log_w, objective = self._objective(self._prepare(x, generator), generator)
        log_w = log_w.detach()
        return {
            "loss": -objective.mean(),
            "elbo": log_w.mean(),
            "effective_samples": effective_sample_size(log_w).mean(),
        }

    def objective(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An estimate of L_k, (B,), whose gradient is that of the chosen estimator."""
        return self._objective(self._prepare(x, generator), generator)[1]

    @torch.no_grad()
    def sample_posterior(
        self, x: Tensor, k: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """One z (B, latent_dim) for each x from the posterior that L_k implies (Cremer et al. 2017).

        k samples of q(z|x), of which one is chosen with probabilities w̃: q itself for k = 1, p(z|x) as k → ∞.
        """
        k = self.k if k is None else k
        check_k(k)
        x = self._prepare(x, generator)
        mu, logvar = self.encode(x)
        z = reparameterize(mu.expand(k, *mu.shape), logvar, generator)  # (k, B, d)
        weights = normalised_weights(self._log_weights_at(x, z, mu, logvar))
        chosen = torch.multinomial(weights.T, 1, generator=generator)  # (B, 1)
        return z[chosen[:, 0], torch.arange(len(x), device=z.device)]

    def _objective(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encode(x)
        z = reparameterize(mu.expand(self.k, *mu.shape), logvar, generator)  # (k, B, d)
        if self.estimator == "reparameterised":
            log_w = self._log_weights_at(x, z, mu, logvar)
            return log_w, iwae_bound(log_w)  # the gradient of log-sum-exp brings the normalised weights
        # φ acts through the samples only: ∂/∂φ of log q at a fixed z has been integrated by parts.
        log_w = self._log_weights_at(x, z, mu.detach(), logvar.detach())
        weights = normalised_weights(log_w.detach())
        if z.requires_grad:
            # On its way to φ the gradient passes z and is weighted once more: Σ w̃_i² ∂log w_i/∂z_i · ∂z_i/∂φ.
            z.register_hook(lambda gradient: weights.unsqueeze(-1) * gradient)
        return log_w, iwae_bound(log_w)


def mlp_iwae(
    input_shape: Sequence[int],
    latent_dim: int,
    hidden: Sequence[int] = (400,),
    *,
    k: int = 50,
    estimator: str = "reparameterised",
    likelihood: Likelihood | None = None,
    activation: Activation = nn.ReLU,
) -> IWAE:
    """A fully connected IWAE with the networks of `mlp_vae`.

    The one-layer network of Burda et al.: mlp_iwae((1, 28, 28), 50, (200, 200), activation=nn.Tanh,
    likelihood=Bernoulli("dynamic")).
    """
    parts = mlp_vae(input_shape, latent_dim, hidden, likelihood=likelihood, activation=activation)
    return _with_parts_of(parts, k, estimator)


def conv_iwae(
    input_shape: Sequence[int],
    latent_dim: int,
    width: int = 32,
    *,
    k: int = 50,
    estimator: str = "reparameterised",
    likelihood: Likelihood | None = None,
    activation: Activation = nn.ReLU,
) -> IWAE:
    """A convolutional IWAE with the networks of `conv_vae`; its decoder sees k pictures for each of the batch."""
    parts = conv_vae(input_shape, latent_dim, width, likelihood=likelihood, activation=activation)
    return _with_parts_of(parts, k, estimator)


def _with_parts_of(vae: VAE, k: int, estimator: str) -> IWAE:
    return IWAE(vae.encoder, vae.decoder, vae.likelihood, vae.latent_dim, k, estimator, vae.input_shape)


# --- How much of a gradient is signal ------------------------------------------------------------------------


def gradient_samples(objective: Callable[[], Tensor], parameters: Iterable[nn.Parameter], n: int) -> Tensor:
    """n independent estimates (n, P) of the gradient of `objective()`, a random scalar, in P parameters."""
    parameters = list(parameters)
    if n < 2 or not parameters:
        raise ValueError(f"expected n ≥ 2 and some parameters, got n={n} and {len(parameters)} parameters")
    rows = []
    for _ in range(n):
        gradients = torch.autograd.grad(objective(), parameters)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def signal_to_noise(samples: Tensor) -> Tensor:
    """|mean| / standard deviation of each parameter's gradient, from estimates (n, P): (P,) (Rainforth et al., eq. 3).

    Of order √M for M pictures. For k samples of z, Rainforth et al. show √(M k) for the decoder's gradient and √(M / k)
    for the reparameterised gradient of the encoder. Without noise it is infinite, without either NaN.
    """
    if samples.ndim != 2 or len(samples) < 2:
        raise ValueError(f"expected gradients (n, P) with n ≥ 2, got {tuple(samples.shape)}")
    return samples.mean(dim=0).abs() / samples.std(dim=0)


def _check_log_weights(log_w: Tensor) -> None:
    if log_w.ndim != 2 or len(log_w) < 1:
        raise ValueError(f"expected log-weights (k, B) with k ≥ 1, got {tuple(log_w.shape)}")
