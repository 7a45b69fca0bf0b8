"""PixelCNN++: its mixture of logistics against the definition, its order of pixels, its sampler, its sizes."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from course_lib.autoregressive.model import receptive_field
from course_lib.autoregressive.pixelcnn_pp import (
    LOG_SCALE,
    PAPER,
    PixelCNNpp,
    concat_elu,
    log_prob_of_levels,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def model(shape, levels, *, scale=0.2, **options):
    """A small network in float64 whose weights are far enough from 0 for a leak to show."""
    torch.manual_seed(0)
    options = {"filters": 6, "resnets": 1, "mixtures": 3} | options
    network = PixelCNNpp(shape, levels, **options).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return network


def images(n, shape, levels, seed=0):
    return torch.randint(0, levels, (n, *shape), generator=seeded(seed))


# --- One logistic -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_level_s_probability_is_a_difference_of_distribution_functions(levels):
    """Against scipy's logistic.cdf; float64, 1e-11 where the difference does not cancel."""
    x = torch.arange(levels, dtype=torch.float64)
    for mean, scale in (
        (0.3 * levels, 0.8),
        (0.5 * levels, 0.2 * levels),
        (0.0, 5.0),
        (1.5 * levels, levels),
    ):
        parameters = torch.tensor([mean, math.log(scale)], dtype=torch.float64)
        ours = log_prob_of_levels(x, *parameters, levels)
        edges = np.arange(levels + 1) - 0.5
        edges[0], edges[-1] = -np.inf, np.inf
        theirs = np.diff(stats.logistic.cdf(edges, loc=mean, scale=scale))
        np.testing.assert_allclose(ours.exp().numpy(), theirs, rtol=1e-6, atol=1e-11)


def test_the_edges_take_the_tails():
    """The first level all that lies below its upper edge, the last all above its lower one; 1e-12 in float64."""
    for mean in (-20.0, 120.0, 270.0):
        parameters = torch.tensor([mean, 4.0], dtype=torch.float64)
        first, last = (log_prob_of_levels(torch.tensor(x), *parameters, 256).item() for x in (0.0, 255.0))
        assert first == pytest.approx(stats.logistic.logcdf(0.5, mean, math.exp(4)), abs=1e-12)
        assert last == pytest.approx(stats.logistic.logsf(254.5, mean, math.exp(4)), abs=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_one_logistic_sums_to_one_at_extreme_parameters(dtype, tolerance):
    """Over 256 levels, for means from far left to far right and scales from e^-7 to e^7 of [−1, 1]."""
    means = torch.tensor([-1e6, -300, -0.5, 0, 0.49, 17.5, 127.5, 255, 255.5, 600, 1e6], dtype=dtype)
    log_scales = torch.linspace(-LOG_SCALE, LOG_SCALE, 15, dtype=dtype) + math.log(127.5)
    x = torch.arange(256, dtype=dtype)[:, None, None]
    log_p = log_prob_of_levels(x, means[:, None], log_scales, 256)
    assert log_p.isfinite().all()
    torch.testing.assert_close(
        log_p.exp().sum(dim=0), torch.ones(11, 15, dtype=dtype), rtol=0, atol=tolerance
    )


# --- The mixture ------------------------------------------------------------------------------------------------


def by_the_paper(x, parameters, levels):
    """log p of one RGB pixel x (3,), parameters (10 K,), written as sections 2.1 and 2.2 of the paper."""
    weights, means, log_scales, c = np.split(parameters.reshape(10, -1), [1, 4, 7])
    xi = 2 * x / (levels - 1) - 1
    weights = np.exp(weights[0]) / np.exp(weights[0]).sum()
    alpha, beta, gamma = np.tanh(c)
    centres = [means[0], means[1] + alpha * xi[0], means[2] + beta * xi[0] + gamma * xi[1]]
    p = weights
    for level, value, centre, log_scale in zip(x, xi, centres, log_scales, strict=True):
        logistic = stats.logistic(centre, np.exp(log_scale))
        upper = 1.0 if level == levels - 1 else logistic.cdf(value + 1 / (levels - 1))
        lower = 0.0 if level == 0 else logistic.cdf(value - 1 / (levels - 1))
        p = p * (upper - lower)
    return math.log(p.sum())


@pytest.mark.parametrize("levels", [4, 256])
def test_the_mixture_is_that_of_the_paper(levels):
    network, rng = PixelCNNpp((3, 2, 3), levels, filters=4, resnets=1, mixtures=5), np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, levels, (2, 3, 2, 3)))
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, levels - 1
    parameters = rng.normal(size=(2, 50, 2, 3))
    ours = network.log_prob_of(x, torch.from_numpy(parameters))
    assert ours.shape == (2, 1, 2, 3)
    for b, i, j in itertools.product(range(2), range(2), range(3)):
        theirs = by_the_paper(x[b, :, i, j].numpy(), parameters[b, :, i, j], levels)
        assert ours[b, 0, i, j].item() == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_mixture_sums_to_one_over_256_levels_at_extreme_parameters(dtype):
    """One channel; parameters up to ±1,000 of either sign; within 1e-10 in float64, 2e-4 in float32."""
    network = PixelCNNpp((1, 1, 1), filters=2, resnets=1, mixtures=3)
    x = torch.arange(256).view(256, 1, 1, 1)
    for scale in (0.1, 1.0, 30.0, 1_000.0):
        parameters = scale * torch.randn(40, 9, generator=seeded(), dtype=dtype)
        total = network.log_prob_of(
            x.repeat(40, 1, 1, 1), parameters.repeat_interleave(256, 0)[:, :, None, None]
        )
        total = total.view(40, 256).exp().sum(dim=1)
        torch.testing.assert_close(
            total, torch.ones_like(total), rtol=0, atol=1e-10 if dtype == torch.float64 else 2e-4
        )


def test_values_and_gradients_are_finite_at_extreme_parameters():
    network = PixelCNNpp((3, 16, 16), filters=2, resnets=1, mixtures=4)
    x = images(2, (3, 16, 16), 256)
    x[:, :, 0], x[:, :, 1] = 0, 255
    for scale in (1e2, 1e4, 1e6):
        parameters = (scale * torch.randn(2, 40, 16, 16, generator=seeded())).requires_grad_()
        log_p = network.log_prob_of(x, parameters)
        (gradient,) = torch.autograd.grad(log_p.sum(), parameters)
        assert log_p.isfinite().all()
        assert log_p.max() <= 1e-6
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_half_precision_parameters_are_read_in_full():
    network = PixelCNNpp((3, 2, 2), filters=2, resnets=1, mixtures=2)
    x, parameters = images(3, (3, 2, 2), 256), torch.randn(3, 20, 2, 2, generator=seeded()).bfloat16()
    ours = network.log_prob_of(x, parameters)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, network.log_prob_of(x, parameters.float()), rtol=0, atol=0)


@pytest.mark.parametrize(("channels", "levels"), [(1, 5), (3, 2), (3, 3)])
def test_what_is_drawn_has_the_probabilities_of_the_likelihood(channels, levels):
    """60,000 draws of one pixel; chi-square over all its values, p > 0.001 for a fixed seed."""
    network, n = PixelCNNpp((channels, 1, 1), levels, filters=2, resnets=1, mixtures=3).double(), 60_000
    torch.manual_seed(1)
    count = network.parameters_per_pixel
    parameters = 0.7 * torch.randn(count).double() - 0.7 * (torch.arange(count) >= 3 * (1 + channels))
    uniform = torch.rand(n, network.draws, generator=seeded(), dtype=torch.float64)
    drawn = network.draw(parameters.expand(n, count), torch.zeros(n, channels, dtype=torch.int64), 0, uniform)
    values = torch.tensor(list(itertools.product(range(levels), repeat=channels)))
    log_p = network.log_prob_of(
        values[:, :, None, None], parameters.expand(len(values), count)[:, :, None, None]
    )
    p = log_p.flatten().exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-10)
    number = (drawn * levels ** torch.arange(channels - 1, -1, -1)).sum(dim=1)
    counts = torch.bincount(number, minlength=len(values))
    assert (n * p).min() > 5
    assert stats.chisquare(counts.numpy(), (n * p).numpy()).pvalue > 0.001


def test_draws_at_the_ends_of_the_uniform_numbers_are_levels():
    network = PixelCNNpp((3, 1, 1), filters=2, resnets=1, mixtures=2)
    parameters = 1e3 * torch.randn(50, 20, generator=seeded())
    for u in (0.0, 1 - 2**-24):
        drawn = network.draw(parameters, torch.zeros(50, 3, dtype=torch.int64), 0, torch.full((50, 4), u))
        assert drawn.dtype == torch.int64
        assert 0 <= drawn.min() <= drawn.max() <= 255


# --- The network ------------------------------------------------------------------------------------------------


def test_concatenated_elu_is_that_of_both_signs_and_leaves_its_input_alone():
    x = torch.randn(2, 3, 4, 5, generator=seeded(), dtype=torch.float64)
    before = x.clone()
    torch.testing.assert_close(concat_elu(x), torch.cat([torch.expm1(x.clamp_max(0)) + x.clamp_min(0),
                                                         torch.expm1((-x).clamp_max(0)) + (-x).clamp_min(0)], 1),
                               rtol=0, atol=1e-12)  # fmt: skip
    assert torch.equal(x, before)
    assert torch.autograd.gradcheck(concat_elu, x.requires_grad_())


@pytest.mark.parametrize("resolutions", [1, 2, 3])
@pytest.mark.parametrize("position", [(0, 0), (0, 4), (3, 0), (4, 3), (6, 5)])
def test_a_pixel_sees_all_earlier_ones_and_no_other(resolutions, position):
    """By gradient, on 7×6; enough layers that the field covers the image: no blind spot."""
    network = model((1, 7, 6), 4, resolutions=resolutions, resnets=4)
    field = receptive_field(network.network, (1, 7, 6), position)[0].flatten()
    place = 6 * position[0] + position[1]
    assert (field[place:] == 0).all()
    assert (field[:place] > 0).all()


CASES = {
    "odd sides": ((1, 5, 7), 4, {}),
    "colour": ((3, 8, 8), 256, {"resnets": 2}),
    "one resolution": ((2, 3, 4), 3, {"resolutions": 1}),
    "classes": ((3, 4, 6), 16, {"num_classes": 3, "resolutions": 2}),
    "one pixel": ((1, 1, 1), 2, {}),
}


@pytest.mark.parametrize(("shape", "levels", "options"), CASES.values(), ids=CASES)
def test_one_pixel_at_a_time_gives_what_the_whole_network_gives(shape, levels, options):
    """1e-10 of the largest parameter in float64, 1e-4 in float32; and the same images."""
    network = model(shape, levels, **options)
    x, n = images(3, shape, levels), 3
    label = torch.tensor([2, 0, 1]) if "num_classes" in options else None
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        network, inputs = network.to(dtype).eval(), None
        with torch.no_grad():
            inputs, whole = network.to_input(x), network(x, label)
            stepper, steps = network.stepper(n, label), torch.empty_like(whole)
            for i in range(shape[1]):
                stepper.row()
                for j in range(shape[2]):
                    steps[:, :, i, j] = stepper.pixel(j, torch.full_like(inputs[:, :, i, j], 7.0))
                    stepper.write(j, inputs[:, :, i, j])
        torch.testing.assert_close(steps, whole, rtol=0, atol=tolerance * max(1, whole.abs().max().item()))
        cached = network.sample(n, seeded(1), condition=label)
        assert torch.equal(cached, network.sample(n, seeded(1), cached=False, condition=label))


def test_classes_condition_every_pixel():
    network = model((1, 4, 4), 4, num_classes=3)
    x = images(1, (1, 4, 4), 4).expand(3, 1, 4, 4)
    with torch.no_grad():
        parameters = network(x, torch.tensor([0, 1, 1]))
    assert ((parameters[0] - parameters[1]).abs().amax(dim=0) > 1e-3).all()
    torch.testing.assert_close(parameters[1], parameters[2], rtol=0, atol=1e-12)
    terms = network.loss(x, torch.tensor([0, 1, 1]))
    expected = -network.log_prob(x, torch.tensor([0, 1, 1])).mean()
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-12, atol=0)


def test_dropout_is_for_training_only():
    network, x = model((1, 4, 4), 4, dropout=0.5), images(2, (1, 4, 4), 4)
    torch.manual_seed(0)
    assert not torch.equal(network.log_prob(x), network.log_prob(x))
    network.eval()
    assert torch.equal(network.log_prob(x), network.log_prob(x))


def test_the_paper_s_size():
    """Three resolutions of five layers, ten mixtures: 100 outputs a pixel and about 53 million parameters."""
    with torch.device("meta"):
        network = PixelCNNpp((3, 32, 32), **PAPER)
    assert network.parameters_per_pixel == 100
    assert (network.passes, network.draws) == (1, 4)
    levels = [network.body, network.body.coarser, network.body.coarser.coarser]
    assert [(len(level.down), len(level.up)) for level in levels] == [(5, 6), (5, 6), (5, 5)]
    assert levels[-1].coarser is None
    assert 50e6 < sum(parameter.numel() for parameter in network.parameters()) < 57e6


def test_it_learns_digits():
    """Thirty steps on 17 levels: under 65 % of what all levels alike cost, which is 8·8·log 17 = 181 nats."""
    torch.manual_seed(0)
    x = torch.from_numpy(load_digits().images[:256]).long()[:, None]
    network = PixelCNNpp((1, 8, 8), 17, filters=10, resnets=1, mixtures=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(30):
        loss = network.loss(x[64 * (step % 4) : 64 * (step % 4 + 1)])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network.loss(x)["loss"].item() < 0.65 * 64 * math.log(17)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "at least 1"),
        ({"mixtures": 0}, "at least 1"),
        ({"resolutions": 0}, "at least 1"),
        ({"num_classes": 0}, "num_classes"),
        ({"levels": 1}, "levels"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PixelCNNpp((1, 4, 4), **options)


def test_wrong_conditions_are_refused():
    x = images(2, (1, 4, 4), 4)
    with pytest.raises(ValueError, match="num_classes"):
        model((1, 4, 4), 4)(x, torch.tensor([0, 1]))
    for label in (None, torch.tensor([0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="label for each image"):
            model((1, 4, 4), 4, num_classes=2)(x, label)
    with pytest.raises(ValueError, match="labels 0 to 1, got 0 to 2"):
        model((1, 4, 4), 4, num_classes=2)(x, torch.tensor([0, 2]))
