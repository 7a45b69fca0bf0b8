"""Gumbel noise: the maximum is an exact categorical draw, the softmax its relaxation with a known density."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import RelaxedOneHotCategorical
from torch.nn import functional as F

from course_lib.latent.discrete_vae import (
    concrete_log_prob,
    gumbel_max,
    gumbel_noise,
    gumbel_softmax,
    relaxed_sample,
    straight_through,
)

LOGITS = torch.tensor([1.2, -0.3, 0.5, -1.0, 0.0], dtype=torch.float64)
N = 200_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def p_value(codes, probabilities):
    """Of a chi-square test that the codes were drawn with these probabilities."""
    counts = torch.bincount(codes, minlength=len(probabilities))
    return stats.chisquare(counts.numpy(), (probabilities * len(codes)).numpy()).pvalue


def test_the_noise_is_gumbel():
    """Kolmogorov–Smirnov against scipy's gumbel_r, and mean and variance γ and π²/6 (5 standard errors)."""
    noise = gumbel_noise((N,), LOGITS, seeded())
    assert stats.kstest(noise.numpy(), stats.gumbel_r.cdf).pvalue > 0.01
    assert abs(noise.mean().item() - 0.5772156649) < 5 * math.sqrt(math.pi**2 / 6 / N)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.02)
    assert torch.isfinite(gumbel_noise((1_000_000,), torch.zeros(1), seeded())).all()  # float32, too


def test_the_argmax_is_an_exact_draw():
    codes = gumbel_max(LOGITS.expand(N, -1), seeded())
    assert p_value(codes, LOGITS.softmax(0)) > 0.01
    assert (
        p_value(codes, (1.1 * LOGITS).softmax(0)) < 1e-6
    )  # the test has the power to see 10 % off the logits


def test_normal_noise_in_place_of_gumbel_noise_is_no_exact_draw():
    noise = (
        torch.randn(N, 5, generator=seeded(), dtype=torch.float64) * math.pi / math.sqrt(6)
    )  # same variance
    assert p_value((LOGITS + noise).argmax(1), LOGITS.softmax(0)) < 1e-6


def test_the_winner_is_independent_of_the_winning_value():
    """max_k (l_k + g_k) is Gumbel(log Σ e^l) whoever wins: the step of the proof, for each winner."""
    perturbed = LOGITS + gumbel_noise((N, 5), LOGITS, seeded())
    value, winner = perturbed.max(dim=1)
    location = LOGITS.logsumexp(0).item()
    for k in range(5):
        assert stats.kstest(value[winner == k].numpy(), stats.gumbel_r(location).cdf).pvalue > 0.001


def test_the_relaxation_equals_that_of_torch():
    """Same noise from the same global state, to the last bits."""
    logits = torch.randn(7, 3, 5, generator=seeded())
    for temperature in (0.3, 1.0, 4.0):
        torch.manual_seed(1)
        ours = gumbel_softmax(logits, temperature)
        torch.manual_seed(1)
        torchs = F.gumbel_softmax(logits, tau=temperature)
        assert torch.allclose(ours, torchs, rtol=1e-6, atol=0)


def test_straight_through_equals_that_of_torch_in_value_and_gradient():
    weight = torch.randn(6, 5, generator=seeded())
    gradients = []
    for sample in (
        lambda logits: relaxed_sample(logits, "straight-through-gumbel", 0.7),
        lambda logits: F.gumbel_softmax(logits, tau=0.7, hard=True),
    ):
        logits = LOGITS.float().expand(6, -1).clone().requires_grad_()
        torch.manual_seed(2)
        z = sample(logits)
        assert ((z - 1).abs() < 1e-6).sum() == 6
        (z * weight).square().sum().backward()
        gradients.append(logits.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_straight_through_is_one_hot_bit_for_bit():
    soft = torch.rand(1000, 7, generator=seeded()).softmax(-1)
    hard = straight_through(soft)
    assert torch.equal(hard, F.one_hot(soft.argmax(-1), 7).float())
    codes = torch.randint(7, (1000,), generator=seeded())
    assert torch.equal(straight_through(soft, codes).argmax(-1), codes)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 5.0])
def test_at_every_temperature_the_largest_entry_is_an_exact_draw(temperature):
    soft = gumbel_softmax(LOGITS.expand(N, -1), temperature, seeded())
    assert p_value(soft.argmax(1), LOGITS.softmax(0)) > 0.01
    assert torch.allclose(soft.sum(1), torch.ones(N, dtype=soft.dtype))


def test_limits_of_the_temperature():
    many = LOGITS.expand(2_000, -1)
    cold, hot = gumbel_softmax(many, 1e-4, seeded()), gumbel_softmax(many, 1e4, seeded())
    assert torch.equal(cold.argmax(1), gumbel_max(many, seeded()))  # with the same noise
    assert (cold.amax(1) > 0.99).double().mean() > 0.99
    assert torch.allclose(hot, torch.full_like(hot, 0.2), atol=1e-3)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_density_integrates_to_one(temperature):
    """K = 2 on the unit interval by quadrature; K = 3 on the triangle by a product of two (absolute 1e-3)."""
    two, three = LOGITS[:2], LOGITS[:3]

    def density(*y):
        point = torch.tensor([*y, 1 - sum(y)], dtype=torch.float64)
        return concrete_log_prob(point, three if len(y) == 2 else two, temperature).exp().item()

    total, _ = integrate.quad(density, 0, 1, limit=200)
    assert total == pytest.approx(1, abs=1e-5)
    # Logits of the simplex make the integrand smooth: y = softmax(s₁, s₂, 0), |∂y/∂s| = y₁y₂y₃.
    steps = torch.linspace(-40, 40, 801, dtype=torch.float64)
    s = torch.cartesian_prod(steps, steps)
    y = torch.cat([s, torch.zeros(len(s), 1, dtype=torch.float64)], dim=1).softmax(1)
    mass = (concrete_log_prob(y, three, temperature) + y.log().sum(1)).exp().sum() * (
        steps[1] - steps[0]
    ) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-3)


def test_the_density_equals_that_of_torch_distributions():
    y = torch.rand(50, 5, generator=seeded(), dtype=torch.float64).softmax(-1)
    for temperature in (0.3, 1.0, 2.0):
        expected = RelaxedOneHotCategorical(LOGITS.new_tensor(temperature), logits=LOGITS).log_prob(y)
        assert torch.allclose(concrete_log_prob(y, LOGITS, temperature), expected, rtol=1e-10)


def test_the_density_is_that_of_the_samples():
    """K = 2: the distribution function of y₁ is σ(τ logit y₁ − (l₁ − l₂)) (Kolmogorov–Smirnov)."""
    y = gumbel_softmax(LOGITS[:2].expand(N, -1), 0.7, seeded())[:, 0]
    shift = (LOGITS[0] - LOGITS[1]).item()
    assert (
        stats.kstest(y.numpy(), lambda t: stats.logistic.cdf(0.7 * (stats.logistic.ppf(t)) - shift)).pvalue
        > 0.01
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=8), st.floats(0.05, 20))
def test_relaxed_points_lie_on_the_simplex(logits, temperature):
    y = gumbel_softmax(torch.tensor(logits), temperature)
    assert torch.isfinite(y).all()
    assert (y >= 0).all()
    assert y.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_bad_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature should be positive"):
        gumbel_softmax(LOGITS, temperature)
    with pytest.raises(ValueError, match="temperature should be positive"):
        concrete_log_prob(LOGITS.softmax(0), LOGITS, temperature)


def test_unknown_relaxations_are_refused():
    with pytest.raises(ValueError, match="the known ones are: gumbel-softmax, straight-through-gumbel"):
        relaxed_sample(LOGITS, "gumbel-sotfmax")
