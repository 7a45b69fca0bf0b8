"""KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − log σ² − 1): four independent ways to compute it, and its properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import Independent, Normal, kl_divergence

from course_lib.latent.vae import gaussian_kl, gaussian_log_prob

finite = st.floats(-8, 8, width=32)


def scalar(value):
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.fixture
def q():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 7, 4, generator=generator, dtype=torch.float64).unbind()


def test_against_torch_distributions(q):
    mu, logvar = q
    standard = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    expected = kl_divergence(Independent(Normal(mu, torch.exp(0.5 * logvar)), 1), standard)
    assert torch.allclose(gaussian_kl(mu, logvar), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 1.0), (1.3, 0.2), (-2.0, 3.0)])
def test_against_quadrature(mu, sigma):
    q, p = stats.norm(mu, sigma), stats.norm(0, 1)
    low, high = q.interval(1 - 1e-14)
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), low, high, epsabs=1e-11)
    ours = gaussian_kl(scalar(mu), scalar(2 * math.log(sigma)))
    assert ours.item() == pytest.approx(expected, abs=1e-8)


def test_against_monte_carlo(q):
    """The definition, sampled: within 5 standard errors."""
    mu, logvar = q
    generator = torch.Generator().manual_seed(1)
    n = 50_000
    z = mu + torch.exp(0.5 * logvar) * torch.randn(n, *mu.shape, generator=generator, dtype=mu.dtype)
    zero = torch.zeros_like(mu)
    samples = gaussian_log_prob(z, mu, logvar) - gaussian_log_prob(z, zero, zero)
    error = (samples.mean(dim=0) - gaussian_kl(mu, logvar)).abs()
    assert (error < 5 * samples.std(dim=0) / math.sqrt(n)).all()


def test_gradients_are_mu_and_half_sigma_squared_minus_one(q):
    mu, logvar = (value.clone().requires_grad_() for value in q)
    gaussian_kl(mu, logvar).sum().backward()
    assert torch.allclose(mu.grad, mu.detach(), atol=1e-14)
    assert torch.allclose(logvar.grad, 0.5 * (logvar.detach().exp() - 1), atol=1e-14)


def test_log_prob_against_torch_distributions(q):
    mu, logvar = q
    x = torch.linspace(-2, 2, 28, dtype=torch.float64).view(7, 4)
    expected = Normal(mu, torch.exp(0.5 * logvar)).log_prob(x).sum(dim=-1)
    assert torch.allclose(gaussian_log_prob(x, mu, logvar), expected, rtol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=5))
def test_never_negative_in_float32(pairs):
    mu, logvar = torch.tensor(pairs, dtype=torch.float32).T.unsqueeze(1).unbind()
    kl = gaussian_kl(mu, logvar)
    assert kl.shape == (1,)
    assert kl.item() >= 0


@settings(max_examples=200, deadline=None)
@given(finite, finite)
def test_zero_only_at_the_standard_normal(mu, logvar):
    kl = gaussian_kl(scalar(mu), scalar(logvar)).item()
    if mu == 0 and logvar == 0:
        assert kl == 0
    elif abs(mu) + abs(logvar) > 1e-6:
        assert kl > 0
    assert gaussian_kl(torch.zeros(3, 2), torch.zeros(3, 2)).eq(0).all()


def test_near_the_standard_normal_nothing_cancels():
    """½ (e^l − l − 1) ≈ l²/4; in float32 the textbook order of operations returns 0 or noise here."""
    logvar = torch.full((1, 1), 1e-4)
    assert gaussian_kl(torch.zeros(1, 1), logvar).item() == pytest.approx(0.25e-8, rel=0.05)


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        gaussian_kl(torch.zeros(3, 2), torch.zeros(2))
