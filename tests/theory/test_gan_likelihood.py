"""Likelihood and quality of samples are independent: the two models of the lecture, with numbers.

L. Theis et al. (2016), A note on the evaluation of generative models, arXiv:1511.01844, section 3.2.
"""

import math

import pytest
import torch

from course_lib.adversarial.gan import mode_coverage
from course_lib.data import load


@pytest.fixture(scope="module")
def ring():
    return load("toy2d/ring")


def noise_log_prob(x, side=20.0):
    return torch.full((len(x),), -2 * math.log(side)).where(x.abs().max(dim=1).values < side / 2, -math.inf)


def spikes_log_prob(x, centres, std):
    """A Gaussian of this width on each training point."""
    squared = torch.cdist(x.double(), centres.double()) ** 2
    log_normal = -0.5 * squared / std**2 - math.log(2 * math.pi) - 2 * math.log(std)
    return log_normal.logsumexp(dim=1) - math.log(len(centres))


def test_a_model_that_is_99_percent_noise_loses_at_most_log_100(ring):
    """p₂ = 0.01 p + 0.99 noise: log p₂ ≥ log p − log 100 at every point, though 99 of 100 samples are noise."""
    test = load("toy2d/ring", "test").points
    log_p = ring.log_prob(test)
    log_p2 = torch.logaddexp(log_p + math.log(0.01), noise_log_prob(test) + math.log(0.99))
    assert (log_p2 >= log_p - math.log(100) - 1e-5).all()
    assert 4.4 < (log_p - log_p2).mean() < math.log(100)  # in the plane the noise adds a little to p₂
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(5_000, 1, generator=generator) < 0.01
    samples = torch.where(real, ring.points[:5_000], 20 * torch.rand(5_000, 2, generator=generator) - 10)
    assert mode_coverage(ring.points, ring.means, ring.std).high_quality > 0.98
    assert mode_coverage(samples, ring.means, ring.std).high_quality < 0.03


def test_spikes_on_the_training_set_make_perfect_samples_and_a_terrible_likelihood(ring):
    training, test = ring.points[:500], load("toy2d/ring", "test").points[:500]
    std = 1e-4
    on_training, on_test = (spikes_log_prob(x, training, std).mean().item() for x in (training, test))
    truth = ring.log_prob(test).mean().item()
    assert on_training > truth + 5  # better than the truth where it has looked …
    assert on_test < truth - 1_000  # … and hopeless where it has not
    samples = training + std * torch.randn(training.shape, generator=torch.Generator().manual_seed(0))
    quality = mode_coverage(samples, ring.means, ring.std)
    assert (quality.modes, quality.high_quality) == (8, pytest.approx(0.989, abs=0.02))
