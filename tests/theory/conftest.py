"""A latent-variable model whose evidence and posterior are known exactly: the yardstick of the bounds."""

import math

import pytest
import torch
from torch import Tensor, nn

from course_lib.latent.pca import PPCA
from course_lib.latent.vae import VAE, Gaussian, gaussian_kl


@pytest.fixture
def ppca() -> PPCA:
    """PPCA with D = 6, m = 3 in float64. Its W has orthogonal columns, so the posterior covariance is diagonal."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    z = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    return PPCA(3).fit(2.0 + z @ mixing + 0.6 * noise)


@pytest.fixture
def x(ppca) -> Tensor:
    """Five points (5, 6) drawn from the model."""
    return ppca.sample(5, torch.Generator().manual_seed(1))


@pytest.fixture
def as_vae():
    """A function: PPCA → the same model as a VAE with linear networks and the exact posterior as its encoder.

    `variance_factor` multiplies the encoder's variances and `shift` moves its means, to make q wrong on purpose.
    """

    def build(ppca: PPCA, variance_factor: float = 1.0, shift: float = 0.0) -> VAE:
        D, m = ppca.W.shape
        mean, covariance = ppca.posterior(torch.cat([torch.zeros(1, D), torch.eye(D)]).to(ppca.W))
        assert torch.allclose(covariance, covariance.diagonal().diag(), atol=1e-12)
        encoder, decoder = nn.Linear(D, 2 * m).double(), nn.Linear(m, D).double()
        with torch.no_grad():
            encoder.weight[:m], encoder.weight[m:] = (mean[1:] - mean[0]).T, 0.0
            encoder.bias[:m] = mean[0] + shift
            encoder.bias[m:] = covariance.diagonal().log() + math.log(variance_factor)
            decoder.weight.copy_(ppca.W)
            decoder.bias.copy_(ppca.mu)
        return VAE(encoder, decoder, Gaussian(float(ppca.sigma2.sqrt())), m, input_shape=(D,))

    return build


@pytest.fixture
def exact_elbo():
    """A function: (vae, x) → the ELBO without sampling noise, (B,).

    The decoder is linear, so log p(x|z) is quadratic in z, and the mean of a quadratic over N(μ, diag σ²) equals its
    mean over the 2m points μ ± √m σ_j e_j (spherical cubature of degree 3).
    """

    def evaluate(vae: VAE, x: Tensor) -> Tensor:
        mu, logvar = vae.encode(x)
        offsets = math.sqrt(vae.latent_dim) * torch.diag_embed(torch.exp(0.5 * logvar)).movedim(
            1, 0
        )  # (m, B, m)
        z = mu + torch.cat([offsets, -offsets])
        return vae.likelihood.log_prob(x, vae.decode(z)).mean(dim=0) - gaussian_kl(mu, logvar)

    return evaluate
