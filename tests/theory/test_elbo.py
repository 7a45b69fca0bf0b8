"""ELBO(x) = log p(x) − KL(q ‖ p(z|x)), on a model where all three are known exactly (float64)."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence


def kl_to_posterior(vae, ppca, x):
    """KL(q(z|x) ‖ p(z|x)) by torch.distributions, (B,)."""
    mu, logvar = vae.encode(x)
    mean, covariance = ppca.posterior(x)
    return kl_divergence(
        MultivariateNormal(mu, torch.diag_embed(logvar.exp())), MultivariateNormal(mean, covariance)
    )


def test_with_the_exact_posterior_the_bound_is_tight(ppca, x, as_vae, exact_elbo):
    assert torch.allclose(exact_elbo(as_vae(ppca), x), ppca.log_prob(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.5), (0.3, 0.0), (2.5, -0.2)])
def test_elbo_plus_kl_to_the_posterior_is_the_evidence(ppca, x, as_vae, exact_elbo, factor, shift):
    vae = as_vae(ppca, factor, shift)
    gap = kl_to_posterior(vae, ppca, x)
    assert (gap > 1e-2).all()  # q is wrong: the identity is not the trivial one
    assert torch.allclose(exact_elbo(vae, x) + gap, ppca.log_prob(x), rtol=0, atol=1e-10)


def test_doubling_the_posterior_covariance_opens_a_gap_of_half_m_times_one_minus_log_two(
    ppca, x, as_vae, exact_elbo
):
    gap = ppca.log_prob(x) - exact_elbo(as_vae(ppca, variance_factor=2.0), x)
    expected = torch.full_like(gap, 3 * (1 - math.log(2)) / 2)
    assert torch.allclose(gap, expected, rtol=0, atol=1e-10)


def test_the_sampled_elbo_is_unbiased_and_its_terms_add_up(ppca, x, as_vae, exact_elbo):
    vae = as_vae(ppca, variance_factor=1.5, shift=0.2)
    n = 20_000
    terms = vae.elbo(x.repeat(n, 1), generator=torch.Generator().manual_seed(0))
    assert torch.equal(terms["elbo"], terms["log_likelihood"] - terms["kl"])
    samples = terms["elbo"].view(n, len(x))
    standard_error = samples.std(dim=0) / math.sqrt(n)
    assert ((samples.mean(dim=0) - exact_elbo(vae, x)).abs() < 5 * standard_error).all()


def test_a_given_posterior_takes_the_place_of_the_encoders(ppca, x, as_vae):
    wrong, right = as_vae(ppca, variance_factor=3.0, shift=1.0), as_vae(ppca)
    given = wrong.elbo(x, torch.Generator().manual_seed(0), posterior=right.encode(x))
    expected = right.elbo(x, torch.Generator().manual_seed(0))
    assert torch.equal(given["elbo"], expected["elbo"])
    assert not torch.allclose(given["elbo"], wrong.elbo(x, torch.Generator().manual_seed(0))["elbo"])


def test_the_encoder_has_nothing_to_gain_at_the_exact_posterior(ppca, x, as_vae, exact_elbo):
    """The φ-step of variational EM is finished: the gradient with respect to the encoder is zero."""
    vae = as_vae(ppca)
    exact_elbo(vae, x).mean().backward()
    for parameter in vae.encoder.parameters():
        assert parameter.grad.abs().max() < 1e-10


def test_at_the_exact_posterior_the_decoders_gradient_is_that_of_the_evidence(ppca, x, as_vae, exact_elbo):
    """The θ-step: with q = p(z|x) the gradient of the bound is the gradient of log p(x) itself."""
    vae = as_vae(ppca)
    exact_elbo(vae, x).mean().backward()
    ppca.W.requires_grad_(), ppca.mu.requires_grad_()
    ppca.log_prob(x).mean().backward()
    assert torch.allclose(vae.decoder.weight.grad, ppca.W.grad, rtol=0, atol=1e-10)
    assert torch.allclose(vae.decoder.bias.grad, ppca.mu.grad, rtol=0, atol=1e-10)


def test_the_loss_is_the_negative_elbo(ppca, x, as_vae):
    vae = as_vae(ppca, variance_factor=1.5)
    loss = vae.loss(x, generator=torch.Generator().manual_seed(0))
    elbo = vae.elbo(x, generator=torch.Generator().manual_seed(0))
    assert loss["loss"].item() == pytest.approx(-elbo["elbo"].mean().item(), abs=1e-12)
