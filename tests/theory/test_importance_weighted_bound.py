"""The importance-weighted bound, its gradient and the doubly reparameterised one, against exact values."""

import math

import numpy as np
import pytest
import torch

from course_lib.latent import vae as vae_module
from course_lib.latent.iwae import IWAE, gradient_samples, iwae_bound, normalised_weights, signal_to_noise
from course_lib.latent.pca import PPCA

BROAD = {"variance_factor": 2.0, "shift": 0.1}


def as_iwae(vae, k, estimator="reparameterised"):
    return IWAE(vae.encoder, vae.decoder, vae.likelihood, vae.latent_dim, k, estimator, vae.input_shape)


def test_the_bound_rises_to_the_evidence(ppca, x, as_vae):
    """L_1 ≤ L_5 ≤ L_50 ≤ log p(x) beyond 5 standard errors, and |L_5000 − log p(x)| < 0.02, for each of five points."""
    model = as_vae(ppca, **BROAD)
    with torch.no_grad():
        log_w = model.log_weights(x, 400_000, torch.Generator().manual_seed(0))
    exact, bounds, errors = ppca.log_prob(x), {}, {}
    for k in (1, 5, 50, 5000):
        estimates = iwae_bound(log_w.view(-1, k, 5).movedim(1, 0).flatten(1)).view(-1, 5)
        bounds[k], errors[k] = estimates.mean(dim=0), estimates.std(dim=0) / math.sqrt(len(estimates))
    for low, high in ((1, 5), (5, 50)):
        assert (bounds[high] - bounds[low] > 5 * (errors[low] + errors[high])).all()
    assert (exact - bounds[50] > 5 * errors[50]).all()
    assert ((bounds[5000] - exact).abs() < 0.02).all()


def test_the_gradient_is_that_of_the_weighted_log_weights(ppca, x, as_vae):
    """∇ log (1/k) Σ w_i = Σ w̃_i ∇ log w_i, w̃ = softmax of the log-weights. Softmax of the losses −log w is refuted."""
    model = as_vae(ppca, **BROAD)

    def gradients(objective):
        log_w = model.log_weights(x, 5, torch.Generator().manual_seed(0))
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(objective(log_w).sum(), model.parameters())]
        )

    autograd = gradients(iwae_bound)
    weighted = gradients(lambda log_w: (normalised_weights(log_w).detach() * log_w).sum(dim=0))
    wrong = gradients(lambda log_w: (normalised_weights(-log_w).detach() * log_w).sum(dim=0))
    assert torch.allclose(autograd, weighted, rtol=1e-10, atol=1e-12)
    assert (autograd - wrong).norm() > 0.5 * autograd.norm()


@pytest.fixture
def small():
    """PPCA with a one-dimensional latent, and one point: k samples of z fill a grid of k dimensions."""
    W, mu = torch.tensor([[0.8], [-0.5]], dtype=torch.float64), torch.tensor([0.3, -0.2], dtype=torch.float64)
    return PPCA.from_parameters(W, mu, 0.5), torch.tensor([[1.5, -0.7]], dtype=torch.float64)


def quadrature(k, n=40):
    """Nodes (k, nᵏ) and weights (nᵏ,) with which Σ weights · f(nodes) is E[f(ε)], ε ~ N(0, I_k) (Gauss–Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    grids = np.meshgrid(*[nodes] * k, indexing="ij")
    product = math.prod(np.meshgrid(*[weights / weights.sum()] * k, indexing="ij"))
    return (
        torch.from_numpy(np.stack([g.ravel() for g in grids])),
        torch.from_numpy(np.asarray(product).ravel()),
    )


def expected_gradients(model, x, monkeypatch):
    """Mean of the model's gradient estimate over all noise, by quadrature, for the encoder and for the decoder."""
    noise, weights = quadrature(model.k)
    monkeypatch.setattr(vae_module, "gaussian_noise", lambda shape, like, generator: noise.unsqueeze(-1))
    value = (weights * model.objective(x.expand(len(weights), -1))).sum()
    return value.item(), [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, network.parameters(), retain_graph=True)])
        for network in (model.encoder, model.decoder)
    ]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_doubly_reparameterised_gradient_is_unbiased(small, as_vae, monkeypatch, k):
    """Exactly: both estimators' means over the noise agree to 1e-6, and differ from zero by much more."""
    ppca, x = small
    vae = as_vae(ppca, **BROAD)
    plain, (encoder, decoder) = expected_gradients(as_iwae(vae, k), x, monkeypatch)
    doubly, (encoder_2, decoder_2) = expected_gradients(
        as_iwae(vae, k, "doubly-reparameterised"), x, monkeypatch
    )
    assert plain == pytest.approx(doubly, abs=1e-12)
    assert torch.allclose(encoder, encoder_2, rtol=0, atol=1e-6)
    assert encoder.abs().max() > 1e-2
    assert torch.allclose(decoder, decoder_2, rtol=0, atol=1e-12)


def test_at_k_1_the_gradient_is_the_elbos(small, as_vae, exact_elbo, monkeypatch):
    ppca, x = small
    vae = as_vae(ppca, **BROAD)
    value, (encoder, _) = expected_gradients(as_iwae(vae, 1), x, monkeypatch)
    elbo = exact_elbo(vae, x).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(elbo, vae.encoder.parameters())])
    assert value == pytest.approx(elbo.item(), abs=1e-10)
    assert torch.allclose(encoder, expected, rtol=0, atol=1e-10)


def test_one_drawn_gradient_is_the_formulas(ppca, x, as_vae):
    """Σ w̃_i² ∂log w_i/∂z_i · ∂z_i/∂φ, with the derivatives written out for the linear model, for μ and for log σ²."""
    model = as_iwae(as_vae(ppca, **BROAD), 4, "doubly-reparameterised")
    mu, logvar = (t.detach() for t in model.encode(x))
    model.objective(x, torch.Generator().manual_seed(0)).sum().backward()
    noise = torch.randn(4, *mu.shape, generator=torch.Generator().manual_seed(0), dtype=mu.dtype)
    z = mu + (0.5 * logvar).exp() * noise
    with torch.no_grad():
        weights = normalised_weights(model.log_weights(x, 4, torch.Generator().manual_seed(0))).unsqueeze(-1)
    # log w = log p(x|z) + log p(z) − log q(z): its slope in z at fixed μ, σ.
    slope = (x - z @ ppca.W.T - ppca.mu) @ ppca.W / ppca.sigma2 - z + (z - mu) * (-logvar).exp()
    by_mu = (weights**2 * slope).sum(dim=(0, 1))
    by_logvar = (weights**2 * slope * 0.5 * (0.5 * logvar).exp() * noise).sum(dim=(0, 1))
    assert torch.allclose(model.encoder.bias.grad, torch.cat([by_mu, by_logvar]), rtol=1e-9)


def test_the_encoders_signal_falls_with_k_and_the_fix_raises_it(ppca, x, as_vae):
    """Signal-to-noise by k: plain falls below a quarter from 1 to 100; doubly reparameterised grows by √10 a decade.

    400 draws leave an uncertainty of 0.05 in a small ratio and of 4 % in a large one; the √k of Rainforth et al. and
    Tucker et al. is for large k.
    """
    vae, ratio = as_vae(ppca, variance_factor=1.5, shift=0.1), {}
    for estimator in ("reparameterised", "doubly-reparameterised"):
        for k in (1, 10, 100, 1000):
            model = as_iwae(vae, k, estimator)
            generator = torch.Generator().manual_seed(0)

            def objective(model=model, generator=generator):
                return model.objective(x, generator).mean()

            samples = gradient_samples(objective, [vae.encoder.bias], 400)
            ratio[estimator, k] = signal_to_noise(samples)[:3].mean()  # of the means' biases
    assert ratio["reparameterised", 100] < ratio["reparameterised", 1] / 4
    for k in (10, 100):
        growth = ratio["doubly-reparameterised", 10 * k] / ratio["doubly-reparameterised", k]
        assert growth == pytest.approx(math.sqrt(10), rel=0.25)


def test_the_implied_posterior_goes_from_q_to_the_true_one(ppca, x, as_vae):
    """20,000 draws for one point: moments of q for k = 1, of p(z|x) for k = 200, within 5 standard errors + 1/k."""
    model = as_iwae(as_vae(ppca, **BROAD), 1)
    one = x[:1].expand(20_000, -1)
    generator = torch.Generator().manual_seed(0)
    mu, logvar = (t[0].detach() for t in model.encode(x[:1]))
    exact_mean, exact_covariance = ppca.posterior(x[:1])
    for k, mean, variance in (
        (1, mu, logvar.exp()),
        (200, exact_mean[0], exact_covariance.diagonal()),
    ):
        z = torch.cat([model.sample_posterior(part, k, generator) for part in one.split(5_000)])
        assert z.shape == (20_000, 3)
        allowed = 5 / math.sqrt(len(z)) + (k > 1) / k
        assert ((z.mean(dim=0) - mean).abs() < allowed * variance.sqrt()).all()
        assert ((z.var(dim=0) / variance - 1).abs() < 2 * allowed).all()
