"""The earth mover's distance: exact on the line, against scipy, its dual and a critic; where the penalty is taken."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance
from torch import nn

from course_lib.adversarial.gan import js_divergence, mlp_discriminator, mlp_generator
from course_lib.adversarial.wgan import WGAN, gradient_penalty, wasserstein_1d, wasserstein_estimate

numbers = st.floats(-100, 100, width=32)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- On the line ------------------------------------------------------------------------------------------------


@given(st.lists(numbers, min_size=1, max_size=12), st.lists(numbers, min_size=1, max_size=12))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_samples_of_any_sizes_against_scipy(x, y):
    assert wasserstein_1d(vector(*x), vector(*y)).item() == pytest.approx(
        wasserstein_distance(x, y), abs=1e-9
    )


@given(
    st.lists(st.tuples(numbers, st.floats(0.01, 5)), min_size=1, max_size=9),
    st.lists(st.tuples(numbers, st.floats(0.01, 5)), min_size=1, max_size=9),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_weighted_samples_against_scipy(left, right):
    (x, wx), (y, wy) = zip(*left, strict=True), zip(*right, strict=True)
    ours = wasserstein_1d(vector(*x), vector(*y), vector(*wx), vector(*wy)).item()
    assert ours == pytest.approx(wasserstein_distance(x, y, wx, wy), abs=1e-9)


def test_equal_sizes_pair_the_sorted_samples():
    x, y = (torch.randn(50, generator=seeded(s)).double() for s in (0, 1))
    paired = (x.sort().values - y.sort().values).abs().mean()
    assert wasserstein_1d(x, y).item() == pytest.approx(paired.item(), abs=1e-12)
    assert wasserstein_1d(x, x.flip(0)) == 0


def test_it_is_the_cheapest_plan_and_the_best_bounded_price():
    """Primal (couplings) and dual (1-Lipschitz functions on the points) by linear programming, W by sorting."""
    x, y = (torch.randn(n, generator=seeded(n)).double().numpy() for n in (6, 4))
    cost = np.abs(x[:, None] - y[None])
    rows = np.kron(np.eye(6), np.ones(4)), np.kron(np.ones(6), np.eye(4))
    primal = linprog(
        cost.ravel(), A_eq=np.concatenate(rows), b_eq=[1 / 6] * 6 + [1 / 4] * 4, bounds=(0, None)
    ).fun
    points = np.concatenate([x, y])
    pairs = [(i, j) for i in range(10) for j in range(10) if i != j]
    slopes = np.zeros((len(pairs), 10))
    for row, (i, j) in zip(slopes, pairs, strict=True):
        row[i], row[j] = 1, -1
    gain = np.array([1 / 6] * 6 + [-1 / 4] * 4)
    limit = [abs(points[i] - points[j]) for i, j in pairs]
    dual = -linprog(-gain, A_ub=slopes, b_ub=limit, bounds=(-100, 100)).fun
    ours = wasserstein_1d(torch.tensor(x), torch.tensor(y)).item()
    assert primal == pytest.approx(ours, abs=1e-8)
    assert dual == pytest.approx(ours, abs=1e-8)


@pytest.mark.parametrize("shift", [-3.0, 0.5, 20.0])
def test_a_shift_costs_its_length_and_has_a_gradient_however_far(shift):
    x = torch.randn(40, generator=seeded()).double()
    distance = vector(shift).requires_grad_()
    w = wasserstein_1d(x + distance, x)
    w.backward()
    assert w.item() == pytest.approx(abs(shift), abs=1e-9)
    assert distance.grad.item() == pytest.approx(math.copysign(1, shift), abs=1e-9)


def test_while_the_jsd_of_disjoint_masses_is_constant():
    """The parallel lines seen from the side: two point masses at distance θ."""
    jsd, w = [], []
    for theta in (1, 3, 7):
        p, q = torch.zeros(10).double(), torch.zeros(10).double()
        p[0] = q[theta] = 1
        jsd.append(js_divergence(p, q).item())
        w.append(wasserstein_1d(vector(0.0), vector(float(theta))).item())
    assert jsd == pytest.approx([math.log(2)] * 3, abs=1e-15)
    assert w == [1, 3, 7]


# --- The gradient penalty ---------------------------------------------------------------------------------------


class Slope(nn.Module):
    """f(x) = w · x, whose gradient is w everywhere; keeps the points at which it was asked."""

    def __init__(self, *w):
        super().__init__()
        self.w = nn.Parameter(vector(*w))

    def forward(self, x):
        self.seen = x.detach()
        return x.flatten(1) @ self.w


def test_it_is_zero_for_a_critic_of_unit_gradient_and_counts_the_excess_of_any_other():
    real, fake = (torch.randn(30, 2, generator=seeded(s)).double() for s in (0, 1))
    assert gradient_penalty(Slope(0.6, 0.8), real, fake).item() == pytest.approx(0, abs=1e-20)
    assert gradient_penalty(Slope(3.0, 4.0), real, fake).item() == pytest.approx(16, abs=1e-12)
    assert gradient_penalty(Slope(0.0, 0.25), real, fake).item() == pytest.approx(0.5625, abs=1e-12)
    pictures = torch.randn(
        5, 1, 2, 2, generator=seeded(2)
    ).double()  # the norm is over all pixels of a picture
    assert gradient_penalty(Slope(0.5, 0.5, 0.5, 0.5), pictures, -pictures).item() == pytest.approx(
        0, abs=1e-20
    )


def test_it_moves_the_critic_towards_unit_gradient():
    critic = Slope(3.0, 4.0)
    gradient_penalty(critic, torch.zeros(4, 2).double(), torch.ones(4, 2).double()).backward()
    assert torch.allclose(critic.w.grad, 2 * (5 - 1) * vector(0.6, 0.8))  # d(‖w‖ − 1)² = 2(‖w‖ − 1) w/‖w‖


def positions(real, fake):
    """t of x̂ = t·real + (1 − t)·fake for each example, and how far x̂ lies off the straight line."""
    critic = Slope(*[1.0] * real[0].numel())
    torch.manual_seed(0)
    gradient_penalty(critic, real, fake)
    direction = (real - fake).flatten(1)
    offset = critic.seen.flatten(1) - fake.flatten(1)
    t = (offset * direction).sum(1) / direction.square().sum(1)
    return t, (offset - t[:, None] * direction).abs().max()


def test_it_is_taken_between_real_and_generated_points():
    """Not at real points, not at generated ones, not beyond either: one t for all pixels of an example, in [0, 1]."""
    real, fake = (torch.randn(4_000, 1, 2, 2, generator=seeded(s)).double() for s in (0, 1))
    t, off_the_line = positions(real, fake)
    assert off_the_line < 1e-6
    assert 0 <= t.min() < 0.01
    assert 0.99 < t.max() <= 1


def test_its_weights_are_uniform_and_independent():
    """Kolmogorov–Smirnov distance to U[0, 1] below the 0.1 % level, 1.95/√n; every example has a weight of its own."""
    real, fake = (torch.randn(4_000, 2, generator=seeded(s)).double() for s in (0, 1))
    t = positions(real, fake)[0].sort().values
    n = len(t)
    steps = torch.arange(n + 1).double() / n
    distance = max((t - steps[:-1]).abs().max(), (t - steps[1:]).abs().max())
    assert distance < 1.95 / math.sqrt(n)
    assert t.unique().numel() > 0.99 * n


def test_a_critic_that_is_flat_at_a_point_gives_a_finite_gradient():
    critic = Slope(0.0, 0.0)
    gradient_penalty(critic, torch.zeros(3, 2).double(), torch.ones(3, 2).double()).backward()
    assert critic.w.grad.isfinite().all()


# --- A critic, trained ------------------------------------------------------------------------------------------


def parallel_lines(theta, n, generator):
    """Real: (0, y); generated: (θ, y), y ~ U[0, 1] (Arjovsky et al., example 1). W = |θ|, JSD = log 2 for θ ≠ 0."""
    real, fake = (torch.rand(n, 2, generator=generator) for _ in range(2))
    real[:, 0], fake[:, 0] = 0.0, theta
    return real, fake


def trained_critic(draw, steps, penalty):
    torch.manual_seed(0)
    critic, generator = mlp_discriminator((2,), (32, 32)), mlp_generator(2, (2,), (4,))
    optimiser = torch.optim.Adam(critic.parameters(), lr=2e-2, betas=(0.5, 0.9))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    unused = torch.optim.SGD(generator.parameters(), lr=0.0)
    wgan = WGAN(generator, critic, unused, optimiser, latent_dim=2, penalty=penalty)
    for _ in range(steps):
        real, fake = draw(64)
        wgan.discriminator_step((real,), fake)
        decay.step()
    return critic


@pytest.mark.parametrize("theta", [-0.5, 0.3, 1.0, 2.0])
def test_on_parallel_lines_a_trained_critic_estimates_w_within_five_percent(theta):
    """With λ = 20 W, whose own error, the factor 1 + W/(2λ), is 2.5 %. (With λ ≫ W slope −1 is a trap.)"""
    generator = seeded(1)
    penalty = 20 * abs(theta)
    critic = trained_critic(lambda n: parallel_lines(theta, n, generator), steps=300, penalty=penalty)
    real, fake = parallel_lines(theta, 4_000, generator)
    with torch.no_grad():
        estimate = (critic(real).mean() - critic(fake).mean()).item()
    assert wasserstein_estimate(critic, real, fake).item() == pytest.approx(estimate, rel=1e-6)
    assert estimate == pytest.approx(abs(theta), rel=0.05)
    assert estimate == pytest.approx(1.025 * abs(theta), rel=0.02)


def test_the_penalty_lets_the_slope_grow_to_one_plus_w_over_two_lambda():
    """max over s of s·W − λ(s − 1)²: what a critic with the usual λ = 10 overestimates at W = 4 is a fifth."""
    generator = seeded(1)
    critic = trained_critic(lambda n: parallel_lines(4.0, n, generator), steps=300, penalty=10.0)
    estimate = wasserstein_estimate(critic, *parallel_lines(4.0, 4_000, generator)).item()
    assert estimate == pytest.approx(4.0 * (1 + 4.0 / 20), rel=0.03)


def test_in_one_dimension_sorting_and_a_trained_critic_agree():
    generator = seeded(2)

    def draw(n):
        x = torch.randn(n, 2, generator=generator)
        y = 1.5 + 0.5 * torch.randn(n, 2, generator=generator)
        x[:, 1] = y[:, 1] = 0.0
        return x, y

    critic = trained_critic(draw, steps=300, penalty=40.0)
    x, y = draw(4_000)
    assert wasserstein_estimate(critic, x, y).item() == pytest.approx(
        wasserstein_1d(x[:, 0], y[:, 0]).item(), rel=0.05
    )
