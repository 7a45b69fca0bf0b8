"""The critic's step: penalty or clipping, what it reports, and a generator that is pulled from far away."""

import pytest
import torch

from course_lib.adversarial.gan import mlp_discriminator, mlp_generator
from course_lib.adversarial.wgan import (
    WGAN,
    clip_weights,
    critic_loss,
    generator_loss,
    gradient_penalty,
    wasserstein_1d,
    wasserstein_estimate,
)
from course_lib.data import load, loader
from course_lib.training import fit


def small_wgan(lr=1e-3, **options):
    torch.manual_seed(0)
    generator, critic = mlp_generator(2, (2,), (32, 32)), mlp_discriminator((2,), (32, 32))
    optimisers = [torch.optim.Adam(n.parameters(), lr=lr, betas=(0.0, 0.9)) for n in (generator, critic)]
    return WGAN(generator, critic, *optimisers, latent_dim=2, **options)


@pytest.fixture
def x():
    return torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


def test_the_losses_are_differences_of_means():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([5.0])
    assert critic_loss(real, fake) == 3
    assert generator_loss(fake) == -5
    assert wasserstein_estimate(lambda x: x, real, fake) == -3


@pytest.mark.parametrize("options", [{"penalty": 10.0}, {"penalty": None, "clip": 0.02}])
def test_a_step_takes_five_critic_steps_and_reports_the_estimate(options, x):
    wgan = small_wgan(**options)
    terms = wgan.step((x,))
    expected = {"d_loss", "g_loss", "wasserstein"} | ({"penalty"} if options["penalty"] else set())
    assert set(terms) == expected
    assert terms["wasserstein"] == -terms["d_loss"]
    assert wgan.d_updates.value == 5
    assert all(v.isfinite() and v.shape == () for v in terms.values())


def test_the_penalty_is_reported_with_its_weight_and_enters_the_loss(x):
    fake = x + 1
    wgan = small_wgan()
    torch.manual_seed(3)
    expected = 10 * gradient_penalty(wgan.discriminator, x, fake).item()
    torch.manual_seed(3)
    assert wgan.discriminator_step((x,), fake)["penalty"].item() == pytest.approx(expected, abs=1e-6)
    slopes = []
    for weight in (1.0, 1000.0):
        wgan = small_wgan(penalty=weight)
        wgan.discriminator_step((x,), fake)
        slopes.append(torch.cat([p.grad.flatten() for p in wgan.discriminator.parameters()]).norm())
    assert slopes[1] > 100 * slopes[0]


def test_clipping_holds_every_weight_after_every_step(x):
    wgan = small_wgan(lr=0.1, penalty=None, clip=0.02)
    wgan.step((x,))
    assert all(p.abs().max() <= 0.02 for p in wgan.discriminator.parameters())
    assert any(p.abs().max() > 0.02 for p in wgan.generator.parameters())


def test_clip_weights_changes_only_what_is_too_large():
    w = torch.tensor([-3.0, -0.1, 0.0, 0.4, 9.0])
    clip_weights([w], 0.5)
    assert torch.equal(w, torch.tensor([-0.5, -0.1, 0.0, 0.4, 0.5]))


def test_data_far_away_pull_the_generator_and_the_estimate_falls_with_the_distance():
    """Disjoint supports at a distance of 10: the estimate, the exact distance along the axis and quality agree."""
    generator = torch.Generator().manual_seed(0)
    wgan = small_wgan(lr=2e-3)
    estimates, distances = [], []
    for _ in range(150):
        real = 0.5 * torch.randn(160, 2, generator=generator) + torch.tensor([10.0, 0.0])
        estimates.append(wgan.step(real)["wasserstein"].item())
        distances.append(wasserstein_1d(wgan.sample(200, generator)[:, 0], real[:, 0]).item())
    assert distances[0] > 9
    assert distances[-1] < 4
    correlation = torch.corrcoef(torch.tensor([estimates[20:], distances[20:]]))[0, 1]
    assert correlation > 0.8


def test_bad_options_and_inputs_are_refused(x):
    for options in ({"penalty": 10.0, "clip": 0.1}, {"penalty": None}):
        with pytest.raises(ValueError, match="either penalty or clip"):
            small_wgan(**options)
    with pytest.raises(ValueError, match="should be positive"):
        small_wgan(penalty=-1.0)
    with pytest.raises(ValueError, match="limit should be positive, got 0"):
        clip_weights([], 0)
    with pytest.raises(ValueError, match="one shape"):
        gradient_penalty(mlp_discriminator(), x, x[:3])
    with pytest.raises(ValueError, match=r"x should be a floating vector"):
        wasserstein_1d(x, x[:, 0])
    with pytest.raises(ValueError, match=r"y should be a floating vector"):
        wasserstein_1d(x[:, 0], torch.arange(3))
    with pytest.raises(ValueError, match="weights of x"):
        wasserstein_1d(x[:, 0], x[:, 0], -torch.ones(40))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_runs_in_the_loop(precision):
    ring = loader(load("toy2d/ring", size=160), 40)
    history = fit(small_wgan(), ring, steps=3, device="cpu", precision=precision, progress=False)
    assert {"d_loss", "g_loss", "wasserstein", "penalty"} <= set(history.keys())
