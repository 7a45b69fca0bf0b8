"""PCA: least error, largest variance and the discarded eigenvalues are one thing. PPCA: an exact density (float64)."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch.distributions import MultivariateNormal

from course_lib.latent.pca import PCA, PPCA

D = 8


@pytest.fixture(scope="module")
def X():
    """300 correlated points in 8 dimensions, far from the origin, so that forgetting to centre shows."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, D)
    return 5.0 + torch.randn(300, D, generator=generator, dtype=torch.float64) @ mixing.T


def eigenvalues(X, denominator):
    centred = X - X.mean(dim=0)
    return torch.linalg.eigvalsh(centred.T @ centred / denominator).flip(0)


def random_subspace(m, generator):
    basis, _ = torch.linalg.qr(torch.randn(D, m, generator=generator, dtype=torch.float64))
    return basis


def error_of_projection(X, basis):
    """Squared error of the orthogonal projection on mean + span(basis), summed over pixels, with n−1."""
    centred = X - X.mean(dim=0)
    return (centred - centred @ basis @ basis.T).square().sum() / (len(X) - 1)


@pytest.mark.parametrize("m", [1, 3, 7, 8])
def test_the_error_is_the_sum_of_the_discarded_eigenvalues(X, m):
    pca = PCA(m).fit(X)
    error = (X - pca.inverse_transform(pca.transform(X))).square().sum() / (len(X) - 1)
    assert error.item() == pytest.approx(eigenvalues(X, len(X) - 1)[m:].sum().item(), abs=1e-10)


@pytest.mark.parametrize("m", [1, 3, 6])
def test_no_other_subspace_has_a_smaller_error_or_a_larger_variance(X, m):
    pca = PCA(m).fit(X)
    total = eigenvalues(X, len(X) - 1).sum()
    least, most = error_of_projection(X, pca.components_.T), pca.explained_variance_.sum()
    assert torch.allclose(least + most, total, rtol=1e-12)  # Pythagoras: one falls as the other rises
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        basis = random_subspace(m, generator)
        variance = (X @ basis).var(dim=0).sum()
        assert error_of_projection(X, basis) > least
        assert variance < most
        assert torch.allclose(error_of_projection(X, basis) + variance, total, rtol=1e-12)


def test_turning_a_component_out_of_the_subspace_always_costs(X):
    """A minimum, not only better than random: rotate the last kept axis a little towards each discarded one."""
    axes = PCA(D).fit(X).components_.T
    kept, angle = axes[:, :3], 0.01
    least = error_of_projection(X, kept)
    for j in range(3, D):
        turned = math.cos(angle) * axes[:, 2] + math.sin(angle) * axes[:, j]
        assert error_of_projection(X, torch.cat([kept[:, :2], turned[:, None]], dim=1)) > least


def test_codes_are_uncorrelated_with_the_eigenvalues_as_variances(X):
    pca = PCA(5).fit(X)
    codes = pca.transform(X)
    assert torch.allclose(torch.cov(codes.T), pca.explained_variance_.diag(), rtol=0, atol=1e-12)
    assert codes.mean(dim=0).abs().max() < 1e-12


def test_ppca_evidence_is_the_gaussian_with_its_covariance(X):
    ppca = PPCA(3).fit(X)
    expected = MultivariateNormal(ppca.mu, ppca.covariance).log_prob(X)
    assert torch.allclose(ppca.log_prob(X), expected, rtol=0, atol=1e-10)


def test_ppca_evidence_is_the_integral_over_the_latent():
    """∫ p(x|z) p(z) dz by quadrature, for a single latent dimension."""
    W = torch.tensor([[1.2], [-0.4]], dtype=torch.float64)
    ppca = PPCA.from_parameters(W, torch.tensor([0.5, -1.0], dtype=torch.float64), 0.3)
    x = torch.tensor([[1.0, 0.2]], dtype=torch.float64)

    def joint(z):
        mean = ppca.mu + W[:, 0] * z
        return math.prod(stats.norm.pdf(x[0], mean, math.sqrt(0.3))) * stats.norm.pdf(z)

    evidence, _ = integrate.quad(joint, -10, 10, epsabs=1e-13)
    assert ppca.log_prob(x).item() == pytest.approx(math.log(evidence), abs=1e-9)


def test_ppca_posterior_is_bayes_rule(X):
    """log p(x) = log p(x|z) + log p(z) − log p(z|x) at every z."""
    ppca = PPCA(3).fit(X)
    mean, covariance = ppca.posterior(X[:4])
    identity = torch.eye(3, dtype=torch.float64)
    noise = torch.eye(D, dtype=torch.float64) * ppca.sigma2
    for seed in range(3):
        z = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        log_joint = MultivariateNormal(ppca.mu + z @ ppca.W.T, noise).log_prob(X[:4])
        log_joint = log_joint + MultivariateNormal(torch.zeros_like(z), identity).log_prob(z)
        log_posterior = MultivariateNormal(mean, covariance).log_prob(z)
        assert torch.allclose(log_joint - log_posterior, ppca.log_prob(X[:4]), rtol=0, atol=1e-9)


def test_ppca_noise_is_the_mean_of_the_discarded_eigenvalues(X):
    ppca = PPCA(3).fit(X)
    assert ppca.sigma2.item() == pytest.approx(eigenvalues(X, len(X))[3:].mean().item(), rel=1e-12)


def test_ppca_is_a_stationary_point_of_the_likelihood(X):
    """The closed form of Tipping & Bishop: the gradient of the mean log-likelihood is zero in every parameter."""
    fitted = PPCA(3).fit(X)
    parameters = [value.clone().requires_grad_() for value in (fitted.W, fitted.mu, fitted.sigma2)]
    model = PPCA(3)
    model.W, model.mu, model.sigma2 = parameters
    model.log_prob(X).mean().backward()
    for parameter in parameters:
        assert parameter.grad.abs().max() < 1e-9


def test_ppca_likelihood_at_the_optimum_has_tipping_and_bishops_value(X):
    """Mean log p = −½ (D log 2π + Σ_{j≤m} log λ_j + (D−m) log σ² + D), λ with 1/n."""
    m = 3
    ppca, values = PPCA(m).fit(X), eigenvalues(X, len(X))
    log_det = values[:m].log().sum() + (D - m) * values[m:].mean().log()
    expected = -0.5 * (D * math.log(2 * math.pi) + log_det + D)
    assert ppca.log_prob(X).mean().item() == pytest.approx(expected.item(), abs=1e-10)
