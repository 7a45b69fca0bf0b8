"""The likelihood is a probability, and the sampler draws from it: over all images of a few pixels."""

import itertools
import math

import pytest
import torch
from pixel_models import MODELS, seeded
from scipy import stats

TINY = ((1, 2, 2), (3, 1, 2))  # 16 and 64 images of two levels


def all_images(shape, levels=2):
    values = itertools.product(range(levels), repeat=math.prod(shape))
    return torch.tensor(list(values)).reshape(-1, *shape)


@pytest.mark.parametrize("shape", [*TINY, (3, 2, 1)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_all_images_sum_to_one(name, shape):
    with torch.no_grad():
        log_p = MODELS[name](shape, 2).log_prob(all_images(shape))
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-10)
    assert log_p.std() > 0.1  # and it is not the uniform distribution


@pytest.mark.parametrize("name", MODELS)
def test_three_levels_sum_to_one(name):
    with torch.no_grad():
        log_p = MODELS[name]((1, 2, 2), 3).log_prob(all_images((1, 2, 2), 3))
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-10)


def test_bits_per_dim_are_nats_by_log_two_and_values():
    model, x = MODELS["Gated PixelCNN"]((3, 2, 2), 2), all_images((3, 2, 1))[:8].expand(8, 3, 2, 2)
    with torch.no_grad():
        assert torch.allclose(model.bits_per_dim(x), -model.log_prob(x) / 12 / math.log(2), atol=1e-12)
        for p in model.parameters():
            p.zero_()
        assert torch.allclose(model.bits_per_dim(x), torch.ones(8).double(), atol=1e-12)  # uniform: log₂ 2
        terms = model.loss(x)
    assert terms["loss"].item() == pytest.approx(12 * math.log(2))
    assert terms["bits_per_dim"].item() == pytest.approx(1)


def assert_drawn_from(log_p, drawn, images):
    """Chi-square of the counts of `drawn` over all `images`; the seed is fixed, so this cannot fail by chance."""
    n, p = len(drawn), log_p.exp()
    counts = (drawn.flatten(1)[:, None] == images.flatten(1)[None]).all(2).sum(0)
    assert counts.sum() == n
    rare = n * p < 5  # the test wants at least five expected in every cell: rare images share one
    observed = [*counts[~rare].tolist(), counts[rare].sum().item()]
    expected = [*(n * p[~rare]).tolist(), (n * p[rare]).sum().item()]
    if expected[-1] < 5:
        rest_seen, rest = observed.pop(), expected.pop()
        observed[-1] += rest_seen
        expected[-1] += rest
    assert len(expected) > 4
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("shape", TINY, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_sampler_draws_from_the_likelihood(name, shape, cached):
    model, images = MODELS[name](shape, 2), all_images(shape)
    with torch.no_grad():
        assert_drawn_from(model.log_prob(images), model.sample(5_000, seeded(4), cached), images)


@pytest.mark.parametrize("name", MODELS)
def test_completion_draws_from_the_conditional_distribution(name):
    """p(x_3, x_4 | x_1, x_2) = p(x) / Σ p(x) over the images that begin alike; three levels."""
    model, images = MODELS[name]((1, 2, 2), 3), all_images((1, 2, 2), 3)
    known = torch.tensor([[True, True], [False, False]])
    alike = images[(images[:, 0, 0] == torch.tensor([2, 0])).all(1)]
    assert len(alike) == 9
    with torch.no_grad():
        log_p = model.log_prob(alike)
        start = alike[:1].repeat(5_000, 1, 1, 1)
        assert_drawn_from(log_p - log_p.logsumexp(0), model.complete(start, known, seeded(5)), alike)
