"""The mean importance weight is an unbiased estimate of p(x); its logarithm is a biased one of log p(x)."""

import math

import pytest
import torch

# Broader than the posterior, so that the weights are bounded and their variance is finite.
BROAD = {"variance_factor": 2.0, "shift": 0.1}


@pytest.fixture
def log_ratio(ppca, x, as_vae):
    """log w − log p(x) for 100,000 samples of z at each of five points, (100000, 5)."""
    vae = as_vae(ppca, **BROAD)
    with torch.no_grad():
        return vae.log_weights(x, 100_000, torch.Generator().manual_seed(0)) - ppca.log_prob(x)


def test_with_the_exact_posterior_every_weight_is_the_evidence(ppca, x, as_vae):
    log_w = as_vae(ppca).log_weights(x, 50, torch.Generator().manual_seed(0))
    assert log_w.shape == (50, len(x))
    assert torch.allclose(log_w, ppca.log_prob(x).expand(50, -1), rtol=0, atol=1e-10)


def test_the_mean_weight_is_unbiased(log_ratio):
    """E[w] / p(x) = 1 within 5 standard errors, which are below 1 %."""
    ratio = log_ratio.exp()
    standard_error = ratio.std(dim=0) / math.sqrt(len(ratio))
    assert (standard_error < 0.01).all()
    assert ((ratio.mean(dim=0) - 1).abs() < 5 * standard_error).all()


def test_the_mean_log_weight_is_the_elbo(ppca, x, as_vae, exact_elbo, log_ratio):
    elbo = exact_elbo(as_vae(ppca, **BROAD), x)
    standard_error = log_ratio.std(dim=0) / math.sqrt(len(log_ratio))
    difference = log_ratio.mean(dim=0) + ppca.log_prob(x) - elbo
    assert (difference.abs() < 5 * standard_error).all()


def test_the_bound_is_low_and_rises_with_k(log_ratio):
    """L_k − log p(x) for k = 1, 5, 50: negative, rising, each step beyond 5 standard errors."""
    bounds, errors = [], []
    for k in (1, 5, 50):
        estimates = log_ratio.view(-1, k, 5).logsumexp(dim=1) - math.log(k)
        bounds.append(estimates.mean(dim=0))
        errors.append(estimates.std(dim=0) / math.sqrt(len(estimates)))
    for i in range(2):
        assert (bounds[i + 1] - bounds[i] > 5 * (errors[i] + errors[i + 1])).all()
    assert (bounds[2] < 0).all()
    assert (bounds[2] > -0.05).all()


@pytest.mark.parametrize("k", [1, 7, 64])
@pytest.mark.parametrize("max_values", [1, 90, 2**21])
def test_log_prob_is_the_log_of_the_mean_however_it_is_cut(ppca, x, as_vae, k, max_values):
    """All weights are p(x) here, so their log-mean is log p(x) for every k; their log-sum would grow by log k."""
    estimate = as_vae(ppca).log_prob(x, k=k, max_values=max_values)
    assert estimate.shape == (len(x),)
    assert torch.allclose(estimate, ppca.log_prob(x), rtol=0, atol=1e-10)


def test_log_prob_converges_to_the_evidence(ppca, x, as_vae, exact_elbo):
    """k = 20,000 with a wrong q: within 0.03 nats, where one sample (the ELBO) is off by more than 0.4."""
    vae = as_vae(ppca, **BROAD)
    estimate = vae.log_prob(x, k=20_000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(estimate, ppca.log_prob(x), rtol=0, atol=0.03)
    assert (ppca.log_prob(x) - exact_elbo(vae, x) > 0.4).all()


def test_gradients_reach_the_encoder_through_the_weights(ppca, x, as_vae):
    vae = as_vae(ppca, **BROAD)
    bound = vae.log_weights(x, 5, torch.Generator().manual_seed(0)).logsumexp(dim=0).mean()
    bound.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in vae.parameters())
