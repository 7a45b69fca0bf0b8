"""∇ E_q[f(c)] for a categorical c: bias and variance of each estimator against enumeration and quadrature.

For one binary variable everything is an integral. With s = l + L, L logistic, the relaxed code is t = σ(s/τ), and along
the edge of the simplex h(t) = f(t, 1−t):
    exact                      (h(1) − h(0)) π(1−π)              = π(1−π) ∫ h′(t) dt
    Gumbel-softmax             ∫ ρ(τ logit t) h′(t) dt           ρ: density of s; → the exact one as τ → 0
    straight-through Gumbel    ½ … of the slopes at the ends     → the trapezoid rule ½(h′(0) + h′(1)) as τ → 0
    straight-through           π(1−π) (π h′(1) + (1−π) h′(0))    the ends weighted by their probabilities
"""

import math

import pytest
import torch
from scipy import integrate, stats

from course_lib.latent.discrete_vae import (
    RELAXATIONS,
    exact_gradient,
    gumbel_max,
    mlp_discrete_vae,
    one_hot,
    relaxed_gradient,
    score_function_gradient,
)

N = 100_000
LOGITS = torch.tensor(
    [[0.7, -0.4, 0.1], [-0.2, 0.9, 0.3]], dtype=torch.float64
)  # two variables of three values
TABLE = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.2, -1.0], [0.4, 1.5, 2.0]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bilinear(z):
    """f(c₁, c₂) = TABLE[c₁, c₂], extended to relaxed codes: an interaction of the two variables."""
    return torch.einsum("ni,ij,nj->n", z[:, 0], TABLE, z[:, 1])


def linear(z):
    return (z * TABLE[:2]).sum((1, 2))


def within(samples, expected, errors=5):
    stderr = samples.std(0) / math.sqrt(len(samples))
    return ((samples.mean(0) - expected).abs() <= errors * stderr + 1e-12).all()


def test_enumeration_against_the_formula_and_finite_differences():
    p = LOGITS.softmax(1)
    mean = p[0] @ TABLE @ p[1]
    first = p[0] * (TABLE @ p[1] - mean)
    assert torch.allclose(exact_gradient(bilinear, LOGITS)[0], first, atol=1e-12)
    step = torch.zeros_like(LOGITS)
    step[1, 2] = 1e-5
    above, below = (x.softmax(1) for x in (LOGITS + step, LOGITS - step))
    difference = (above[0] @ TABLE @ above[1] - below[0] @ TABLE @ below[1]) / 2e-5
    assert exact_gradient(bilinear, LOGITS)[1, 2].item() == pytest.approx(difference.item(), abs=1e-9)


@pytest.mark.parametrize("baseline", [0.0, 5.0, -20.0])
def test_the_score_function_is_unbiased_whatever_the_baseline(baseline):
    samples = score_function_gradient(bilinear, LOGITS, N, baseline, seeded())
    assert samples.shape == (N, 2, 3)
    assert within(samples, exact_gradient(bilinear, LOGITS))


def test_the_score_functions_variance_by_enumeration():
    """One variable: Σ_c π_c (f_c − b)² (1[c=k] − π_k)² − g_k² (3 % tolerance), smaller with the mean as baseline."""
    p, f = LOGITS[:1].softmax(1)[0], TABLE[1] + 10
    exact = exact_gradient(lambda z: z[:, 0] @ f, LOGITS[:1])[0]
    variances = []
    for baseline in (0.0, (p @ f).item()):
        score = torch.eye(3, dtype=torch.float64) - p  # (c, k)
        expected = (p[:, None] * (f[:, None] - baseline) ** 2 * score**2).sum(0) - exact**2
        samples = score_function_gradient(lambda z: z[:, 0] @ f, LOGITS[:1], N, baseline, seeded())
        assert torch.allclose(samples[:, 0].var(0), expected, rtol=0.03)
        variances.append(expected.sum())
    assert variances[1] < variances[0] / 10


def test_a_derivative_of_f_never_enters_the_score_function():
    step = score_function_gradient(lambda z: (bilinear(z) > 0.3).double(), LOGITS, N, 0.0, seeded())
    assert within(step, exact_gradient(lambda z: (bilinear(z) > 0.3).double(), LOGITS))


def test_the_path_through_the_argmax_is_zero():
    """Why the estimators are needed: autograd has no gradient, and small changes of the logits change no draw."""
    many = LOGITS[0].expand(N, -1).clone().requires_grad_()
    codes = gumbel_max(many, seeded())
    moved = gumbel_max(many + torch.tensor([1e-9, 0, 0]), seeded())  # the same noise
    assert torch.equal(codes, moved)
    assert not one_hot(codes, many).requires_grad


def test_straight_through_is_exact_and_noiseless_for_a_linear_f():
    samples = relaxed_gradient(linear, LOGITS, 10, "straight-through", generator=seeded())
    assert torch.allclose(samples, exact_gradient(linear, LOGITS).expand(10, 2, 3), atol=1e-14)


def test_straight_through_is_unbiased_for_an_interaction_of_independent_variables():
    """E[TABLE c₂] = TABLE π₂: what is linear in each variable is met on average."""
    samples = relaxed_gradient(bilinear, LOGITS, N, "straight-through", generator=seeded())
    assert within(samples, exact_gradient(bilinear, LOGITS))


@pytest.mark.parametrize("estimator", RELAXATIONS)
def test_straight_through_is_biased_for_a_curved_f(estimator):
    """f = Σ e^{2z₁}: the slopes at the corners differ from the difference of the values."""

    def curved(z):
        return torch.exp(2 * z[:, 0, 0])

    samples = relaxed_gradient(curved, LOGITS, N, estimator, 1.0, seeded())
    assert not within(samples, exact_gradient(curved, LOGITS), errors=20)


# --- One binary variable: quadrature ----------------------------------------------------------------------------

L = 0.8
PI = stats.logistic.cdf(L)
BINARY = torch.tensor([[L, 0.0]], dtype=torch.float64)


def cubic(z):
    t = z[:, 0, 0]
    return t**3 - 0.5 * t


def slope(t):
    return 3 * t**2 - 0.5


def gumbel_softmax_mean(temperature, power=1):
    """∫ ρ(τ logit t) h′(t)^p (t(1−t)/τ)^{p−1} dt: the p-th moment of the estimate of ∂/∂l₁."""

    def integrand(t):
        density = stats.logistic.pdf(temperature * math.log(t / (1 - t)) - L)
        return density * slope(t) ** power * (t * (1 - t) / temperature) ** (power - 1)

    return integrate.quad(integrand, 0, 1, limit=200)[0]


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
def test_gumbel_softmax_mean_and_second_moment_by_quadrature(temperature):
    """Means within 5 standard errors, second moments within 5 %."""
    samples = relaxed_gradient(cubic, BINARY, N, "gumbel-softmax", temperature, seeded())[:, 0, 0]
    assert within(samples, gumbel_softmax_mean(temperature))
    assert samples.square().mean().item() == pytest.approx(gumbel_softmax_mean(temperature, 2), rel=0.05)


def test_bias_vanishes_with_the_temperature_and_the_variance_explodes():
    """τ → 0: the mean goes to the exact gradient; τ · (second moment) to π(1−π) ∫ h′² t(1−t) dt."""
    exact = exact_gradient(cubic, BINARY)[0, 0].item()
    assert exact == pytest.approx(0.5 * PI * (1 - PI), abs=1e-12)  # (h(1) − h(0)) π(1−π)
    bias = [abs(gumbel_softmax_mean(temperature) - exact) for temperature in (0.3, 0.1, 0.03, 0.01)]
    assert bias == sorted(bias, reverse=True)
    assert bias[-1] < 0.1 * bias[0]
    limit = PI * (1 - PI) * integrate.quad(lambda t: slope(t) ** 2 * t * (1 - t), 0, 1)[0]
    assert 0.01 * gumbel_softmax_mean(0.01, 2) == pytest.approx(limit, rel=0.01)


def test_straight_through_weighs_the_slopes_at_the_ends():
    samples = relaxed_gradient(cubic, BINARY, N, "straight-through", generator=seeded())[:, 0, 0]
    expected = PI * (1 - PI) * (PI * slope(1) + (1 - PI) * slope(0))
    assert within(samples, expected)


@pytest.mark.parametrize("temperature", [0.02, 0.5, 2.0])
def test_straight_through_gumbel_by_quadrature_and_its_limit(temperature):
    """∫ ρ(τ logit t) h′(1[t > ½]) dt; for τ → 0 the trapezoid rule π(1−π) ½(h′(0) + h′(1))."""
    samples = relaxed_gradient(cubic, BINARY, N, "straight-through-gumbel", temperature, seeded())[:, 0, 0]

    def integrand(t):
        return stats.logistic.pdf(temperature * math.log(t / (1 - t)) - L) * slope(float(t > 0.5))

    expected = integrate.quad(integrand, 0, 1, points=[0.5], limit=200)[0]
    assert within(samples, expected)
    if temperature == 0.02:
        assert expected == pytest.approx(PI * (1 - PI) * (slope(0) + slope(1)) / 2, rel=0.02)


# --- The model's own training gradients -------------------------------------------------------------------------


def model_gradient(estimator, x, repeats, **options):
    """Mean and standard error of the gradient of the training loss in the bias of the encoder's last layer."""
    torch.manual_seed(0)
    model = mlp_discrete_vae((6,), 2, 3, (5,), estimator=estimator, **options).double()
    with torch.no_grad():
        model.decoder[0].weight.mul_(4)
    generator, parameter, rows = seeded(), model.encoder[-1].bias, []
    for _ in range(repeats):
        loss = model.loss(x, generator=generator)["loss"]
        rows.append(torch.autograd.grad(loss, [parameter, model.decoder[-2].bias]))
    rows = [torch.stack(column) for column in zip(*rows, strict=True)]
    return [(row.mean(0), row.std(0) / repeats**0.5) for row in rows] if repeats > 1 else [r[0] for r in rows]


@pytest.fixture
def x():
    return torch.rand(200, 6, generator=seeded(1), dtype=torch.float64).round()


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_training_by_the_score_function_follows_the_exact_gradient(x, samples):
    """Encoder's and decoder's gradient, 300 repetitions, within 5 standard errors of enumeration."""
    exact = model_gradient("exact", x, 1)
    for (mean, stderr), expected in zip(
        model_gradient("score-function", x, 300, samples=samples), exact, strict=True
    ):
        assert ((mean - expected).abs() < 5 * stderr).all()
        assert (stderr > 0).all()


def test_the_exact_gradient_is_that_of_the_exact_bound(x):
    torch.manual_seed(0)
    model = mlp_discrete_vae((6,), 2, 3, (5,), estimator="exact").double()
    loss = model.loss(x)["loss"]
    assert loss.item() == pytest.approx(-model.exact_elbo(x)["elbo"].mean().item(), abs=1e-12)
    ours, theirs = (
        torch.autograd.grad(value, list(model.parameters()))
        for value in (loss, -model.exact_elbo(x)["elbo"].mean())
    )
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("gradient", [score_function_gradient, exact_gradient])
@pytest.mark.parametrize("logits", [torch.zeros(3), torch.zeros(2, 1), torch.zeros(2, 2, 2)])
def test_bad_logits_are_refused(gradient, logits):
    with pytest.raises(ValueError, match="expected logits"):
        gradient(linear, logits, *([5] if gradient is score_function_gradient else []))


def test_bad_counts_are_refused():
    with pytest.raises(ValueError, match="n ≥ 1"):
        relaxed_gradient(linear, LOGITS, 0, "straight-through")
