"""What the losses say: −BCE = V, which divergence each measures, where each has its gradient."""

import math

import pytest
import torch
from torch.nn import functional as F

from course_lib.adversarial.gan import (
    LOSSES,
    js_divergence,
    kl_divergence,
    minimax_discriminator_loss,
    minimax_generator_loss,
    non_saturating_generator_loss,
    optimal_discriminator,
    value_function,
)

GRID = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
CELL = 24 / 24_000

# Two distributions on five cells, as counts of a batch of ten: a mean over the batch is the exact expectation.
DATA, FAKE = torch.tensor([5, 3, 1, 1, 0]), torch.tensor([0, 1, 2, 3, 4])
P, Q = DATA.double() / 10, FAKE.double() / 10


def batches(output):
    """The outputs of a discriminator, one number for each cell, on the real and on the fake batch."""
    return output.repeat_interleave(DATA), output.repeat_interleave(FAKE)


def seeded(n, scale=1.0):
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


# --- −BCE = V ---------------------------------------------------------------------------------------------------


def test_the_discriminator_is_a_binary_classifier_its_cross_entropy_is_minus_the_value():
    real, fake = seeded(40, 3), seeded(50, 3)
    cross_entropy = F.binary_cross_entropy(real.sigmoid(), torch.ones_like(real)) + F.binary_cross_entropy(
        fake.sigmoid(), torch.zeros_like(fake)
    )
    value = real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()
    loss = minimax_discriminator_loss(real, fake)
    assert loss.item() == pytest.approx(cross_entropy.item(), abs=1e-12)
    assert loss.item() == pytest.approx(-value.item(), abs=1e-12)


def test_on_batches_and_on_densities_it_is_the_same_value():
    logits = seeded(5)
    loss = minimax_discriminator_loss(*batches(logits))
    assert loss.item() == pytest.approx(-value_function(P, Q, logits.sigmoid()).item(), abs=1e-12)


def test_minimax_the_players_move_one_value_in_opposite_directions():
    fake = seeded(20).requires_grad_()
    (of_d,) = torch.autograd.grad(minimax_discriminator_loss(seeded(20), fake), fake)
    (of_g,) = torch.autograd.grad(minimax_generator_loss(fake), fake)
    assert torch.allclose(of_d, -of_g, rtol=0, atol=1e-15)


def test_non_saturating_is_the_cross_entropy_with_the_labels_swapped():
    fake = seeded(30, 3)
    swapped = F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    assert non_saturating_generator_loss(fake).item() == pytest.approx(swapped.item(), abs=1e-12)


# --- Which divergence the discriminator measures ----------------------------------------------------------------

MEASURED = {
    "minimax": lambda: 2 * math.log(2) - 2 * js_divergence(P, Q),
    "non_saturating": lambda: 2 * math.log(2) - 2 * js_divergence(P, Q),
    # ½ Σ pq/(p + q): a half of what is left of 1 after the triangular (Le Cam) divergence
    "least_squares": lambda: 0.5 * (P * Q / (P + Q)).sum(),
    # 2 Σ min(p, q) = 2 − 2 TV
    "hinge": lambda: 2 - (P - Q).abs().sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_best_discriminator_of_each_loss_measures_its_divergence(name):
    """min over D, cell by cell over a table of outputs. (Where one density is 0 the best logit is ±∞: ±30 will do.)"""
    output, table = torch.zeros(5).double(), torch.linspace(-30, 30, 3_001).double()
    for cell in range(5):
        tried = output.repeat(len(table), 1)
        tried[:, cell] = table
        losses = torch.stack([LOSSES[name].discriminator(*batches(row)) for row in tried])
        output[cell] = table[losses.argmin()]
    smallest = LOSSES[name].discriminator(*batches(output))
    assert smallest.item() == pytest.approx(MEASURED[name]().item(), abs=1e-4)


def test_the_best_output_is_the_optimal_discriminator():
    """Of the logistic loss its logit, of least squares D* itself: there the slopes vanish."""
    d = optimal_discriminator(P, Q)[1:4]  # where both live
    outputs = {"minimax": torch.logit(d), "least_squares": d}
    for name, best in outputs.items():
        output = torch.cat([torch.tensor([40.0]), best, torch.tensor([-40.0])]).double().requires_grad_()
        LOSSES[name].discriminator(*batches(output)).backward()
        assert output.grad[1:4].abs().max() < 1e-12


# --- The generator's gradient -----------------------------------------------------------------------------------


def generator_gradients(mean, std):
    """∂/∂(mean, log std) of: both generator losses with D held at D*; the JSD; KL(p_g ‖ p_data). By quadrature."""
    theta = torch.tensor([mean, math.log(std)], dtype=torch.float64, requires_grad=True)
    scale = theta[1].exp()
    p_g = torch.exp(-0.5 * ((GRID - theta[0]) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    component = lambda m: torch.exp(-0.5 * (GRID - m) ** 2) / math.sqrt(2 * math.pi)  # noqa: E731
    p_data = 0.4 * component(-1.5) + 0.6 * component(1.0)
    logit = (p_data / p_g).log().detach()  # of D*: the discriminator stands still while the generator learns
    expected = {
        "saturating": -(p_g * F.softplus(logit)).sum() * CELL,  # E log(1 − D*)
        "non_saturating": (p_g * F.softplus(-logit)).sum() * CELL,  # −E log D*
        "jsd": js_divergence(p_data, p_g, CELL),
        "reverse_kl": kl_divergence(p_g, p_data, CELL),
    }
    return {n: torch.autograd.grad(v, theta, retain_graph=True)[0] for n, v in expected.items()}


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (2.0, 0.7), (-1.0, 1.4)])
def test_at_the_optimal_discriminator_saturating_is_the_gradient_of_two_jsd(mean, std):
    g = generator_gradients(mean, std)
    assert g["saturating"].norm() > 1e-2
    assert torch.allclose(g["saturating"], 2 * g["jsd"], rtol=0, atol=1e-8)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (2.0, 0.7), (-1.0, 1.4)])
def test_at_the_optimal_discriminator_non_saturating_is_the_gradient_of_reverse_kl_minus_two_jsd(mean, std):
    """Arjovsky & Bottou (2017, arXiv:1701.04862), theorem 2.5: not the divergence that minimax goes down."""
    g = generator_gradients(mean, std)
    assert torch.allclose(g["non_saturating"], g["reverse_kl"] - 2 * g["jsd"], rtol=0, atol=1e-8)
    assert (g["non_saturating"] - g["saturating"]).norm() > 1e-2


def test_when_the_discriminator_wins_it_is_the_gradient_that_vanishes_and_only_of_the_minimax_loss():
    """D(G(z)) → 0: log(1 − D) → 0 (not −∞) with slope −D → 0; −log D → ∞ with slope D − 1 → −1."""
    for logit in (-5.0, -20.0, -60.0):
        x = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
        d = math.exp(logit) / (1 + math.exp(logit))
        saturating, non_saturating = minimax_generator_loss(x), non_saturating_generator_loss(x)
        assert saturating.item() == pytest.approx(-d, rel=0.01)
        assert non_saturating.item() == pytest.approx(-logit, rel=0.01)
        assert torch.autograd.grad(saturating, x)[0].item() == pytest.approx(-d, rel=1e-9)
        assert torch.autograd.grad(non_saturating, x)[0].item() == pytest.approx(d - 1, rel=1e-9)


def test_both_generator_losses_fall_with_the_logit_and_agree_on_where_to_go():
    x = torch.linspace(-10, 10, 41).double().requires_grad_()
    for loss in (minimax_generator_loss, non_saturating_generator_loss):
        assert (torch.autograd.grad(loss(x), x)[0] < 0).all()


def test_a_perfect_generator_meets_a_discriminator_of_one_half():
    """Persian Q1b: D(G(z)) is ½ there, not 1. The losses at D = ½ (logit 0) are 2 log 2, −log 2 and log 2."""
    zero = torch.zeros(4).double()
    assert (optimal_discriminator(P, P)[:4] == 0.5).all()
    assert minimax_discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2), abs=1e-15)
    assert minimax_generator_loss(zero).item() == pytest.approx(-math.log(2), abs=1e-15)
    assert non_saturating_generator_loss(zero).item() == pytest.approx(math.log(2), abs=1e-15)


# --- Numbers out of range ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_finite_for_logits_up_to_ten_thousand(name, dtype):
    logits = torch.tensor([-1e4, -100, -1, 0, 1, 100, 1e4], dtype=dtype, requires_grad=True)
    for loss in (LOSSES[name].discriminator(logits, -logits), LOSSES[name].generator(logits)):
        (slope,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert slope.isfinite().all()
    assert non_saturating_generator_loss(torch.tensor([-1e4])).item() == 1e4
    assert minimax_generator_loss(torch.tensor([1e4])).item() == -1e4
