"""The variational autoencoder: maximum likelihood for a latent-variable model with a network as its posterior.

The model is z ~ N(0, I), x ~ p_θ(x|z), a likelihood whose parameters a decoder computes. log p(x) is an intractable
integral; the encoder's q_φ(z|x) = N(μ(x), diag σ²(x)) gives the lower bound

    ELBO(x) = E_q[log p_θ(x|z)] − KL(q_φ(z|x) ‖ p(z)) = log p(x) − KL(q_φ(z|x) ‖ p(z|x)),

whose gradient passes through the sample z = μ + σε (the reparameterisation trick).

Papers: D. Kingma and M. Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114; D. Rezende et al. (2014),
arXiv:1401.4082; I. Higgins et al. (2017), β-VAE, ICLR; D. Kingma et al. (2016), free bits, arXiv:1606.04934; Y. Burda
et al. (2016), importance weights, active units, arXiv:1509.00519. Departures: one sample of z per example and
step; PyTorch's default initialisation; free bits per latent dimension rather than per group of them.

Logs are natural and all terms are nats per example. Nothing is clamped: the encoder's log σ² is used as it comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_lib.latent.autoencoder import (
    Activation,
    check_input,
    conv_decoder,
    conv_encoder,
    gaussian_noise,
    mlp_decoder,
    mlp_encoder,
)
from course_lib.latent.likelihoods import LOG_2PI, Bernoulli, CategoricalPixels, Gaussian, Likelihood

__all__ = [
    "VAE",
    "Bernoulli",
    "CategoricalPixels",
    "Gaussian",
    "Likelihood",
    "conv_vae",
    "gaussian_kl",
    "gaussian_log_prob",
    "mlp_vae",
    "reparameterize",
    "reparameterized_grad",
    "score_function_grad",
]


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − log σ² − 1): (B, d) → (B,), nats (Kingma & Welling, appendix B)."""
    return gaussian_kl_per_dimension(mu, logvar).sum(dim=-1)


def gaussian_kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """The terms of `gaussian_kl` before the sum, (B, d)."""
    if mu.shape != logvar.shape:
        raise ValueError(
            f"mu and logvar should have one shape, got {tuple(mu.shape)} and {tuple(logvar.shape)}"
        )
    # expm1(log σ²) is σ² − 1 without the cancellation near σ = 1 that would make the KL slightly negative.
    return 0.5 * (mu.square() + torch.expm1(logvar) - logvar)


def gaussian_log_prob(x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(x; μ, diag σ²) summed over the last dimension: (…, d) → (…), nats. μ and log σ² broadcast."""
    squared_error = (x - mu).square() * torch.exp(-logvar)
    return -0.5 * (squared_error + logvar + LOG_2PI).sum(dim=-1)


def reparameterize(mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """z = μ + σε, ε ~ N(0, I): a sample of N(μ, diag σ²) that is differentiable in μ and log σ²."""
    return mu + torch.exp(0.5 * logvar) * gaussian_noise(mu.shape, mu, generator)


class VAE(nn.Module):
    """A variational autoencoder with prior N(0, I) and diagonal Gaussian posterior.

    encoder: (B, *input_shape) → (B, 2·latent_dim), μ and log σ² side by side. decoder: (N, latent_dim) →
    (N, *likelihood.parameter_shape(input_shape)). beta: weight of the KL in the loss (1 is the ELBO). free_bits: nats
    per latent dimension below which the KL costs a constant, so that no gradient pushes it further down.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        latent_dim: int,
        beta: float = 1.0,
        free_bits: float = 0.0,
        input_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        if latent_dim < 1 or not beta >= 0 or not free_bits >= 0:
            raise ValueError(
                "expected latent_dim ≥ 1, beta ≥ 0 and free_bits ≥ 0, got "
                f"latent_dim={latent_dim}, beta={beta}, free_bits={free_bits}"
            )
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.latent_dim, self.beta, self.free_bits = latent_dim, beta, free_bits
        self.input_shape = None if input_shape is None else tuple(input_shape)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of q(z|x), each (B, latent_dim)."""
        check_input(x, self.input_shape)
        out = self.encoder(self.likelihood.encoder_input(x))
        if out.shape != (len(x), 2 * self.latent_dim):
            raise ValueError(f"the encoder should return (B, {2 * self.latent_dim}), got {tuple(out.shape)}")
        mu, logvar = full_precision(out).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x|z) for z (…, latent_dim), with the same leading dimensions."""
        if z.ndim < 2 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"expected latents (…, {self.latent_dim}), got {tuple(z.shape)}")
        out = full_precision(self.decoder(z.flatten(0, -2)))
        return out.unflatten(0, z.shape[:-1]) if z.ndim > 2 else out

    def elbo(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        posterior: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """{"elbo", "log_likelihood", "kl"}, each (B,): E_q[log p(x|z)] from one sample, the exact KL, their difference.

        The ELBO proper: neither β nor free bits enter. posterior: (μ, log σ²) to use in place of the encoder's,
        for instance to measure the amortisation gap.
        """
        x = self._prepare(x, generator)
        mu, logvar = self.encode(x) if posterior is None else posterior
        z = reparameterize(mu, logvar, generator)
        log_likelihood = self.likelihood.log_prob(x, self.decode(z))
        kl = gaussian_kl(mu, logvar)
        return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}

    def loss(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scalars, means over the batch: {"loss", "recon", "kl"} with loss = recon + β·kl and recon = −E_q[log p(x|z)].

        With free bits λ > 0 (Kingma et al. 2016, eq. 15) there is a fourth term: loss = recon + β·kl_free_bits, where
        kl_free_bits = Σ_j max(λ, mean over the batch of KL_j). "kl" stays the KL of the ELBO, so −(recon + kl)
        estimates the ELBO whatever is trained. `label` is ignored.
        """
        x = self._prepare(x, generator)
        mu, logvar = self.encode(x)
        recon = -self.likelihood.log_prob(x, self.decode(reparameterize(mu, logvar, generator))).mean()
        kl_of_dimension = gaussian_kl_per_dimension(mu, logvar).mean(dim=0)  # (d,)
        kl = kl_of_dimension.sum()
        if self.free_bits == 0:
            return {"loss": recon + self.beta * kl, "recon": recon, "kl": kl}
        kl_free_bits = kl_of_dimension.clamp(min=self.free_bits).sum()
        loss = recon + self.beta * kl_free_bits
        return {"loss": loss, "recon": recon, "kl": kl, "kl_free_bits": kl_free_bits}

    def log_weights(self, x: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
        """log w_i = log p(x|z_i) + log p(z_i) − log q(z_i|x), z_i ~ q(z|x), i = 1 … k: (k, B), differentiable.

        The mean of w is an unbiased estimate of p(x); the mean of log w is the ELBO.
        """
        check_k(k)
        x = self._prepare(x, generator)
        return self._log_weights(x, *self.encode(x), k, generator)

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, k: int = 5000, generator: torch.Generator | None = None, max_values: int = 2**21
    ) -> Tensor:
        """log p(x) by importance sampling, log (1/k) Σ_i w_i: (B,), nats (L_k of Burda et al.).

        Biased low, less so as k grows. Memory does not grow with k: about max_values decoder outputs exist at a
        time. A likelihood that binarises draws one binary image, and all k samples see it.
        """
        check_k(k)
        x = self._prepare(x, generator)
        mu, logvar = self.encode(x)
        outputs = len(x) * math.prod(self.likelihood.parameter_shape(x.shape[1:]))
        chunk = max(1, max_values // outputs)
        log_sum = torch.full_like(mu[:, 0], -math.inf)
        for start in range(0, k, chunk):
            log_w = self._log_weights(x, mu, logvar, min(chunk, k - start), generator)
            log_sum = torch.logaddexp(log_sum, log_w.logsumexp(dim=0))
        return log_sum - math.log(k)  # the logarithm of the mean, not of the sum

    # no_grad, not inference_mode, below: what is sampled may be fed to something that trains.
    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, *, draw_pixels: bool = False
    ) -> Tensor:
        """n images (n, C, H, W) in [0, 1], or points: z ~ N(0, I), then the mean of p(x|z), as the papers print them.

        draw_pixels: draw x ~ p(x|z) instead, a true sample of the model. Images of a Gaussian likelihood, which may
        leave [0, 1], are clamped to it; points are not.
        """
        if n < 1:
            raise ValueError(f"n should be at least 1, got {n}")
        z = gaussian_noise((n, self.latent_dim), next(self.parameters()), generator)
        return self._image(self.decode(z), generator, draw_pixels)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean of p(x|z) at z = μ(x), of x's shape, clamped as in `sample`. The generator serves to binarise x."""
        mu, _ = self.encode(self._prepare(x, generator))
        return self._image(self.decode(mu), generator, draw_pixels=False)

    @torch.no_grad()
    def active_units(self, x: Tensor, threshold: float = 0.01) -> Tensor:
        """Which latent dimensions carry information: boolean (latent_dim,), variance over x of μ_j(x) > threshold.

        Burda et al., section 5.2. `.sum()` counts them; the others have collapsed onto the prior.
        """
        if len(x) < 2:
            raise ValueError(f"a variance over the data needs at least 2 examples, got {len(x)}")
        mu, _ = self.encode(self._prepare(x, None))
        return mu.var(dim=0) > threshold

    def _prepare(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        check_input(x, self.input_shape)
        return self.likelihood.prepare(x, generator)

    def _log_weights(
        self, x: Tensor, mu: Tensor, logvar: Tensor, k: int, generator: torch.Generator | None
    ) -> Tensor:
        z = reparameterize(mu.expand(k, *mu.shape), logvar, generator)  # (k, B, d)
        return self._log_weights_at(x, z, mu, logvar)

    def _log_weights_at(self, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        log_likelihood = self.likelihood.log_prob(x, self.decode(z))
        log_prior = gaussian_log_prob(z, torch.zeros_like(mu), torch.zeros_like(mu))
        return log_likelihood + log_prior - gaussian_log_prob(z, mu, logvar)

    def _image(self, parameters: Tensor, generator: torch.Generator | None, draw_pixels: bool) -> Tensor:
        x = self.likelihood.sample(parameters, generator) if draw_pixels else self.likelihood.mean(parameters)
        return x.clamp(0, 1) if x.ndim == 4 else x


def mlp_vae(
    input_shape: Sequence[int],
    latent_dim: int,
    hidden: Sequence[int] = (400,),
    *,
    likelihood: Likelihood | None = None,
    activation: Activation = nn.ReLU,
    beta: float = 1.0,
    free_bits: float = 0.0,
) -> VAE:
    """A fully connected VAE, by default with a Bernoulli likelihood.

    The one-layer network of Burda et al.: mlp_vae((1, 28, 28), 50, (200, 200), activation=nn.Tanh,
    likelihood=Bernoulli("dynamic")).
    """
    likelihood = Bernoulli() if likelihood is None else likelihood
    encoder = mlp_encoder(input_shape, 2 * latent_dim, hidden, activation)
    decoder = mlp_decoder(latent_dim, likelihood.parameter_shape(input_shape), hidden, activation)
    return VAE(encoder, decoder, likelihood, latent_dim, beta, free_bits, input_shape)


def conv_vae(
    input_shape: Sequence[int],
    latent_dim: int,
    width: int = 32,
    *,
    likelihood: Likelihood | None = None,
    activation: Activation = nn.ReLU,
    beta: float = 1.0,
    free_bits: float = 0.0,
) -> VAE:
    """A convolutional VAE for images (C, H, W) with H and W divisible by 4, by default with a Bernoulli likelihood."""
    likelihood = Bernoulli() if likelihood is None else likelihood
    encoder = conv_encoder(input_shape, 2 * latent_dim, width, activation)
    decoder = conv_decoder(latent_dim, likelihood.parameter_shape(input_shape), width, activation)
    return VAE(encoder, decoder, likelihood, latent_dim, beta, free_bits, input_shape)


# --- Two estimators of ∇ E_q[f(z)], to be compared ---------------------------------------------------------


def score_function_grad(
    f: Callable[[Tensor], Tensor],
    mu: Tensor,
    logvar: Tensor,
    n: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """n single-sample estimates of ∂/∂μ and ∂/∂log σ² of E_q[f(z)], q = N(μ, diag σ²), by f(z)·∇ log q(z) (REINFORCE).

    f: (n, d) → (n,), never differentiated; mu, logvar: (d,). Returns two tensors (n, d), whose means over n are
    unbiased.
    """
    noise, z = _gradient_samples(mu, logvar, n, generator)
    value = f(z).unsqueeze(-1)  # (n, 1)
    # log q = −½ ((z−μ)/σ)² − ½ log σ² + const; with ε = (z−μ)/σ its gradients are ε/σ and ½(ε² − 1).
    return value * noise * torch.exp(-0.5 * logvar), value * 0.5 * (noise.square() - 1)


def reparameterized_grad(
    f: Callable[[Tensor], Tensor],
    mu: Tensor,
    logvar: Tensor,
    n: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The same gradients through the sample: ∇_z f at z = μ + σε, times ∂z/∂μ = 1 and ∂z/∂log σ² = ½σε.

    f: (n, d) → (n,), differentiable, each value depending on its own row only. Returns two tensors (n, d).
    """
    noise, z = _gradient_samples(mu, logvar, n, generator)
    z.requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    return slope, slope * 0.5 * torch.exp(0.5 * logvar) * noise


def _gradient_samples(
    mu: Tensor, logvar: Tensor, n: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    if mu.ndim != 1 or mu.shape != logvar.shape or n < 1:
        raise ValueError(
            f"expected mu and logvar (d,) and n ≥ 1, got {tuple(mu.shape)}, {tuple(logvar.shape)}, {n}"
        )
    noise = gaussian_noise((n, len(mu)), mu, generator)
    return noise, (mu + torch.exp(0.5 * logvar) * noise).detach()


def full_precision(out: Tensor) -> Tensor:
    """Half precision is for the networks (autocast); sums over pixels and exponentials need float32."""
    return out.float() if out.dtype in (torch.float16, torch.bfloat16) else out


def check_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k should be an integer of at least 1, got {k!r}")
