"""∇ E_q[f(z)]: the score-function and the reparameterised estimator are both unbiased; their variances differ."""

import math

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy import stats

from course_lib.latent.vae import reparameterized_grad, score_function_grad

N = 200_000
MU = torch.tensor([0.8, -0.5], dtype=torch.float64)
LOGVAR = torch.tensor([-0.4, 0.6], dtype=torch.float64)
A = torch.tensor([0.7, -1.1], dtype=torch.float64)
B = torch.tensor([1.5, 0.3], dtype=torch.float64)

ESTIMATORS = [score_function_grad, reparameterized_grad]


def quadratic(z):
    """f(z) = Σ a z² + b z, so E f = Σ a(μ² + σ²) + bμ."""
    return (A * z.square() + B * z).sum(dim=-1)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unbiased(estimator):
    """Means of 200,000 samples within 5 standard errors of ∂/∂μ = 2aμ + b and ∂/∂log σ² = aσ²."""
    exact = (2 * A * MU + B, A * LOGVAR.exp())
    for samples, expected in zip(estimator(quadratic, MU, LOGVAR, N, generator()), exact, strict=True):
        assert samples.shape == (N, 2)
        assert ((samples.mean(dim=0) - expected).abs() < 5 * samples.std(dim=0) / math.sqrt(N)).all()


def test_the_reparameterised_variance_is_that_of_the_slope():
    """Per sample the gradient in μ is 2az + b, of variance 4a²σ² (3 % tolerance)."""
    slope, _ = reparameterized_grad(quadratic, MU, LOGVAR, N, generator())
    assert torch.allclose(slope.var(dim=0), 4 * A.square() * LOGVAR.exp(), rtol=0.03)


def test_the_score_functions_variance_for_the_identity():
    """f(z) = z in one dimension: var[z ε/σ] = μ²/σ² + 2; reparameterised the gradient is the constant 1."""
    mu, logvar = torch.tensor([1.5], dtype=torch.float64), torch.tensor([-0.7], dtype=torch.float64)
    score, _ = score_function_grad(lambda z: z[:, 0], mu, logvar, N, generator())
    slope, _ = reparameterized_grad(lambda z: z[:, 0], mu, logvar, N, generator())
    expected = (mu.square() / logvar.exp() + 2).item()
    assert score.var().item() == pytest.approx(expected, rel=0.03)
    assert torch.equal(slope, torch.ones_like(slope))


def test_the_score_function_is_several_times_noisier_here():
    variances = [estimator(quadratic, MU, LOGVAR, N, generator())[0].var(dim=0) for estimator in ESTIMATORS]
    ratio = variances[0] / variances[1]
    assert torch.allclose(ratio, exact_score_variance() / (4 * A.square() * LOGVAR.exp()), rtol=0.05)
    assert (ratio > 2).all()


def exact_score_variance():
    """var[f(z) ε_j/σ_j] by Gauss–Hermite quadrature with 10 nodes a dimension, exact for this polynomial."""
    nodes, weights = (torch.from_numpy(values) for values in hermegauss(10))
    weights = weights / weights.sum()
    noise = torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(dim=1, keepdim=True)
    sigma = torch.exp(0.5 * LOGVAR)
    samples = quadratic(MU + sigma * noise)[:, None] * noise / sigma
    mean = (weight * samples).sum(dim=0)
    return (weight * samples.square()).sum(dim=0) - mean.square()


def test_adding_a_constant_to_f_hurts_only_the_score_function():
    """E is unchanged, so is its gradient; that is why REINFORCE subtracts a baseline."""

    def shifted(z):
        return quadratic(z) + 100

    variances = [
        [estimator(f, MU, LOGVAR, N, generator())[0].var(dim=0) for f in (quadratic, shifted)]
        for estimator in ESTIMATORS
    ]
    assert (variances[0][1] > 100 * variances[0][0]).all()
    assert torch.allclose(variances[1][1], variances[1][0])


def test_the_score_function_needs_no_derivative_of_f():
    """f(z) = 1[z > 0]: E f = Φ(μ/σ), of slope φ(μ/σ)/σ. Its own derivative is zero wherever it exists."""
    mu, logvar = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    sigma = math.exp(0.1)
    grad_mu, _ = score_function_grad(lambda z: (z[:, 0] > 0).double(), mu, logvar, N, generator())
    expected = stats.norm.pdf(0.3 / sigma) / sigma
    assert abs(grad_mu.mean().item() - expected) < 5 * grad_mu.std().item() / math.sqrt(N)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bad_arguments_are_refused(estimator):
    with pytest.raises(ValueError, match="mu and logvar"):
        estimator(quadratic, MU, LOGVAR[:1], 10)
    with pytest.raises(ValueError, match="n ≥ 1"):
        estimator(quadratic, MU, LOGVAR, 0)
