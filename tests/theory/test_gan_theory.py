"""The theory of the game on grids (float64): the optimal discriminator, the value, the divergences."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from torch.nn import functional as F

from course_lib.adversarial.gan import (
    LOSSES,
    js_divergence,
    kl_divergence,
    mlp_discriminator,
    optimal_discriminator,
    value_function,
)

LOG_2 = math.log(2)
GRID = torch.linspace(
    -12, 12, 24_001, dtype=torch.float64
)  # the trapezoid rule converges exponentially on Gaussians
CELL = 24 / 24_000


def normal(mean=0.0, std=1.0, x=GRID):
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def uniform(left, right):
    """On the grid: (right − left)/CELL points from left on, so that equal widths have equally many."""
    inside = ((left - CELL / 2 < GRID) & (right - CELL / 2 > GRID)).double()
    return inside / (inside.sum() * CELL)


def laplace(mean, scale):
    density = torch.exp(-(GRID - mean).abs() / scale)
    return density / (density.sum() * CELL)


FAMILIES = {
    "normals": (normal(0, 1), normal(1, 1)),
    "narrow and wide": (normal(0, 0.2), normal(0.3, 2)),
    "far apart, tails below rounding": (normal(-4, 0.3), normal(4, 0.3)),
    "mixture and normal": (0.5 * normal(-2, 0.5) + 0.5 * normal(2, 0.5), normal(0, 2)),
    "laplace and normal": (laplace(0, 1), normal(0, 1)),
    "overlapping boxes": (uniform(-2, 1), uniform(0, 3)),
    "a box in a normal": (uniform(-1, 1), normal(0, 1)),
    "disjoint boxes": (uniform(-2, -1), uniform(1, 2)),
}


@pytest.fixture(params=FAMILIES, ids=str)
def pair(request):
    return FAMILIES[request.param]


# --- The optimal discriminator ----------------------------------------------------------------------------------


def test_a_numerical_optimiser_over_d_finds_the_optimal_discriminator():
    """D on a coarse grid is a vector of free numbers; L-BFGS maximises V over it, knowing nothing of the formula."""
    x = torch.linspace(-3, 3, 25, dtype=torch.float64)
    p_data, p_g, cell = normal(-0.5, 0.8, x), normal(0.7, 1.1, x), 0.25

    def negative_value(logits):
        logits = torch.tensor(logits, requires_grad=True)
        loss = -value_function(p_data, p_g, torch.sigmoid(logits), cell)
        loss.backward()
        return loss.item(), logits.grad.numpy()

    best = minimize(
        negative_value, np.zeros(25), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-10}
    )
    found = torch.sigmoid(torch.tensor(best.x))
    assert torch.allclose(found, optimal_discriminator(p_data, p_g), rtol=0, atol=1e-5)
    assert -best.fun == pytest.approx(value_function(p_data, p_g, found, cell).item(), abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.1), (1e-3, 2.0), (5.0, 5.0)])
def test_at_each_point_alone_it_is_the_maximum_of_a_log_d_plus_b_log_one_minus_d(a, b):
    best = minimize_scalar(
        lambda d: -a * math.log(d) - b * math.log(1 - d),
        bounds=(1e-9, 1 - 1e-9),
        method="bounded",
        options={"xatol": 1e-12},
    )
    assert optimal_discriminator(
        torch.tensor([a]).double(), torch.tensor([b]).double()
    ).item() == pytest.approx(best.x, abs=1e-6)


def test_any_other_discriminator_has_a_lower_value(pair):
    p_data, p_g = pair
    d = optimal_discriminator(p_data, p_g)
    best = value_function(p_data, p_g, d, CELL)
    for shift in (-0.5, 0.3, 2.0):
        other = torch.sigmoid(torch.logit(d, eps=1e-6) + shift)
        assert value_function(p_data, p_g, other, CELL) < best - 1e-7


def test_where_only_one_density_lives_it_is_certain_and_where_none_does_it_is_a_half():
    p_data, p_g = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    assert optimal_discriminator(p_data, p_g).tolist() == [1.0, 0.0, 0.5]


# --- The value at the optimum -----------------------------------------------------------------------------------


def test_the_value_at_the_optimal_discriminator_is_two_jsd_minus_two_log_two(pair):
    """JSD by its definition, from KL to the mean density; to 1e-8."""
    p_data, p_g = pair
    m = 0.5 * (p_data + p_g)
    jsd = 0.5 * kl_divergence(p_data, m, CELL) + 0.5 * kl_divergence(p_g, m, CELL)
    value = value_function(p_data, p_g, optimal_discriminator(p_data, p_g), CELL)
    assert value.item() == pytest.approx(-2 * LOG_2 + 2 * jsd.item(), abs=1e-8)
    assert js_divergence(p_data, p_g, CELL).item() == pytest.approx(jsd.item(), abs=1e-10)


def test_the_value_against_adaptive_quadrature():
    """The same integral by scipy, with densities and D* written out in its own way."""
    from scipy.integrate import quad
    from scipy.stats import norm

    p, q = norm(0, 1).pdf, norm(1, 1.5).pdf
    integrand = lambda x: p(x) * np.log(p(x) / (p(x) + q(x))) + q(x) * np.log(q(x) / (p(x) + q(x)))  # noqa: E731
    expected = quad(integrand, -12, 12, epsabs=1e-12, limit=200)[0]
    p_data, p_g = normal(0, 1), normal(1, 1.5)
    value = value_function(p_data, p_g, optimal_discriminator(p_data, p_g), CELL)
    assert value.item() == pytest.approx(expected, abs=1e-8)


def test_overlapping_boxes_by_hand():
    """Boxes of width 3 that share a third: JSD = log 2 · (1 − 1/3), D* is 1, ½ and 0."""
    p_data, p_g = FAMILIES["overlapping boxes"]
    shared = ((p_data > 0) & (p_g > 0)).double().sum() / (p_data > 0).sum()
    assert shared.item() == pytest.approx(1 / 3, abs=1e-12)
    assert js_divergence(p_data, p_g, CELL).item() == pytest.approx(LOG_2 * 2 / 3, abs=1e-12)
    d = optimal_discriminator(p_data, p_g)
    assert (d[GRID < -0.001].unique().tolist(), d[GRID > 1.001].unique().tolist()) == ([0.5, 1.0], [0.0, 0.5])
    assert ((d[(GRID > 0.001) & (GRID < 0.998)] - 0.5).abs() < 1e-12).all()


def test_the_jsd_lies_between_zero_and_log_two_and_is_symmetric(pair):
    p, q = pair
    jsd = js_divergence(p, q, CELL).item()
    assert 1e-4 < jsd <= LOG_2 + 1e-12
    assert js_divergence(q, p, CELL).item() == pytest.approx(jsd, abs=1e-15)


def test_the_jsd_is_zero_only_for_equal_densities(pair):
    p, q = pair
    assert js_divergence(p, p, CELL).item() == pytest.approx(0, abs=1e-14)
    nearly = 0.999 * p + 0.001 * q
    assert js_divergence(p, nearly, CELL) > 1e-9


@pytest.mark.parametrize("gap", [1, 4, 8])
def test_on_disjoint_supports_the_jsd_is_log_two_however_far_apart(gap):
    p, q = uniform(-2, -1), uniform(-1.0 + gap, gap)
    assert js_divergence(p, q, CELL).item() == pytest.approx(LOG_2, abs=1e-12)


def test_the_minimum_is_minus_two_log_two_where_the_generator_is_perfect(pair):
    p, q = pair
    d = optimal_discriminator(p, p)
    assert (d == 0.5).all()
    assert value_function(p, p, d, CELL).item() == pytest.approx(-2 * LOG_2, abs=1e-9)
    assert value_function(p, q, optimal_discriminator(p, q), CELL).item() > -2 * LOG_2 + 1e-4


def test_a_confident_mistake_costs_infinitely_much_but_a_rounded_optimum_does_not():
    p, q = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.5, 0.5]).double()
    assert value_function(p, q, torch.tensor([1.0, 0.5]).double()) == -math.inf
    assert value_function(p, q, torch.tensor([0.0, 0.5]).double()) == -math.inf
    tail_data, tail_g = torch.tensor([1.0, 1e-30]).double(), torch.tensor([1e-30, 1.0]).double()
    d = optimal_discriminator(tail_data, tail_g)
    assert d[0] == 1
    assert value_function(tail_data, tail_g, d).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["overlapping boxes", "disjoint boxes", "far apart, tails below rounding"])
def test_empty_cells_have_finite_gradients(name):
    p, q = (density.clone().requires_grad_() for density in FAMILIES[name])
    for value in (js_divergence(p, q, CELL), value_function(p, q, optimal_discriminator(p, q), CELL)):
        for slope in torch.autograd.grad(value, (p, q)):
            assert slope.isfinite().all()
    box, wide = uniform(-1, 1).requires_grad_(), (normal(0, 1) * (GRID.abs() < 3)).requires_grad_()
    for slope in torch.autograd.grad(kl_divergence(box, wide, CELL), (box, wide)):
        assert slope.isfinite().all()


# --- KL, maximum likelihood -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 1.0), (-0.5, 1.5), (2.0, 0.7)])
def test_the_kl_of_normals_in_closed_form(mean, std):
    p, q = normal(mean, std), normal(0, 1)
    expected = 0.5 * (mean**2 + std**2 - math.log(std**2) - 1)
    assert kl_divergence(p, q, CELL).item() == pytest.approx(expected, abs=1e-9)


def test_the_kl_is_infinite_where_data_fall_where_the_model_has_none():
    box, wide = uniform(-1, 1), normal(0, 1)
    assert kl_divergence(wide, box, CELL) == math.inf
    assert kl_divergence(box, wide, CELL).isfinite()
    assert kl_divergence(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])) == 0


def test_maximum_likelihood_is_minimum_kl():
    """E_p log p_θ = −H(p) − KL(p ‖ p_θ): the two differ by a constant, so one θ is best for both."""
    p = 0.3 * normal(-2, 0.5) + 0.7 * normal(1, 1)
    thetas = [(m, s) for m in np.linspace(-1, 1, 21) for s in np.linspace(1, 2.5, 16)]
    models = [normal(m, s) for m, s in thetas]
    likelihood = torch.stack([(p * q.log()).sum() * CELL for q in models])
    kl = torch.stack([kl_divergence(p, q, CELL) for q in models])
    entropy = -(p * p.log()).sum() * CELL
    assert torch.allclose(likelihood + kl, -entropy.expand_as(kl), rtol=0, atol=1e-10)
    assert likelihood.argmax() == kl.argmin()
    mean = (p * GRID).sum() * CELL
    std = (p * (GRID - mean) ** 2).sum().mul(CELL).sqrt()
    assert thetas[int(kl.argmin())] == pytest.approx((mean.item(), std.item()), abs=0.051)


# --- The gradient of a maximum ----------------------------------------------------------------------------------


def test_the_gradient_of_the_maximum_is_the_gradient_at_the_maximiser():
    """Envelope theorem: d/dθ max_D V(θ, D) = ∂V/∂θ with D held at D*; and it is twice the gradient of the JSD."""
    p_data = normal(0, 1)
    for theta in (-1.0, 0.3, 2.0):
        mean = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        p_g = normal(mean, 1.3)
        d = optimal_discriminator(p_data, p_g)
        (through,) = torch.autograd.grad(value_function(p_data, p_g, d, CELL), mean, retain_graph=True)
        (held,) = torch.autograd.grad(value_function(p_data, p_g, d.detach(), CELL), mean, retain_graph=True)
        (of_jsd,) = torch.autograd.grad(js_divergence(p_data, p_g, CELL), mean)
        assert abs(held) > 0.05
        assert through.item() == pytest.approx(held.item(), abs=1e-9)
        assert held.item() == pytest.approx(2 * of_jsd.item(), abs=1e-9)


def test_away_from_the_maximiser_the_gradient_is_another_one():
    p_data, mean = normal(0, 1), torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    p_g = normal(mean, 1.0)
    wrong = torch.sigmoid(0.3 * torch.logit(optimal_discriminator(p_data, p_g)).detach())
    (held,) = torch.autograd.grad(value_function(p_data, p_g, wrong, CELL), mean, retain_graph=True)
    (of_jsd,) = torch.autograd.grad(js_divergence(p_data, p_g, CELL), mean)
    assert abs(held - 2 * of_jsd) > 0.05


def test_the_maximum_of_three_functions_has_the_gradient_of_the_one_that_is_largest():
    """The maxout example of the Chinese lecture."""
    functions = (lambda x: -x, lambda x: 0.2 * x + 0.5, lambda x: x**2 - 2)
    slopes = (lambda x: -1.0, lambda x: 0.2, lambda x: 2 * x)
    winners = set()
    for at in (-1.0, 0.5, 2.5):
        x = torch.tensor(at, requires_grad=True)
        values = torch.stack([f(x) for f in functions])
        values.max().backward()
        winners.add(winner := int(values.argmax()))
        assert x.grad.item() == pytest.approx(slopes[winner](at))
    assert winners == {0, 1, 2}


def test_three_generators_the_best_has_the_lowest_maximum_not_the_lowest_value_for_one_discriminator():
    """The quiz of the Chinese lecture, on three cells, the maximum over D by brute force."""
    p_data = torch.tensor([0.5, 0.3, 0.2]).double()
    generators = torch.tensor([[0.05, 0.05, 0.9], [0.9, 0.05, 0.05], [0.45, 0.3, 0.25]]).double()
    ticks = torch.linspace(0.02, 0.98, 49).double()
    d = torch.cartesian_prod(ticks, ticks, ticks)
    values = torch.stack([d.log() @ p_data + (1 - d).log() @ g for g in generators])  # (3, every D)
    highest = values.max(dim=1).values
    assert highest.argmin() == 2
    for g, found in zip(generators, highest, strict=True):
        exact = value_function(p_data, g, optimal_discriminator(p_data, g))
        assert exact - 2e-3 < found <= exact + 1e-12
    assert int(highest.argmin()) == int(torch.stack([js_divergence(p_data, g) for g in generators]).argmin())
    # For the discriminator that is best against the third generator, another one has a lower value …
    against_third = optimal_discriminator(p_data, generators[2])
    assert int(torch.stack([value_function(p_data, g, against_third) for g in generators]).argmin()) != 2
    # … so the order matters: first the maximum over D, then the minimum over G.
    assert values.min(dim=0).values.max() < highest.min()


def test_after_a_step_of_the_generator_the_old_discriminator_measures_no_divergence():
    """V(G₁, D₀*) < V(G₁, D₁*), and the more so the longer the step."""
    p_data, d_old = normal(0, 1), optimal_discriminator(normal(0, 1), normal(2, 1))
    errors = []
    for mean in (1.9, 1.0, -2.0):
        p_g = normal(mean, 1)
        best = value_function(p_data, p_g, optimal_discriminator(p_data, p_g), CELL)
        errors.append((best - value_function(p_data, p_g, d_old, CELL)).item())
    assert 0 < errors[0] < 0.01 < errors[1] < errors[2]


# --- A discriminator trained on samples -------------------------------------------------------------------------


def test_a_discriminator_trained_on_samples_bounds_the_value_from_below():
    """On fresh samples V(G, D) ≤ V(G, D*) within 4 standard errors, and it comes within 0.02 nats of it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    draw = lambda n, mean, std: mean + std * torch.randn(n, 1, generator=generator)  # noqa: E731
    d = mlp_discriminator((1,), (32,))
    optimiser = torch.optim.Adam(d.parameters(), lr=1e-2)
    for _ in range(200):
        loss = LOSSES["minimax"].discriminator(d(draw(256, 0, 1)), d(draw(256, 1.5, 0.7)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        n = 100_000
        terms = F.logsigmoid(d(draw(n, 0, 1))) + F.logsigmoid(-d(draw(n, 1.5, 0.7)))
    p_data, p_g = normal(0, 1), normal(1.5, 0.7)
    exact = value_function(p_data, p_g, optimal_discriminator(p_data, p_g), CELL).item()
    assert exact - 0.02 < terms.mean().item() < exact + 4 * terms.std().item() / math.sqrt(n)
