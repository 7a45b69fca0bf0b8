"""Likelihoods: normalised, equal to the reference distributions, safe at extremes, honest about their input."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions

from course_lib.latent.likelihoods import Bernoulli, CategoricalPixels, Gaussian, Likelihood

SHAPE = (2, 3, 4)  # (C, H, W): three different sizes, so that a mixed-up axis shows

ALL = [
    Bernoulli(),
    Bernoulli("dynamic"),
    Gaussian(0.3),
    Gaussian("learned"),
    Gaussian("per_pixel"),
    CategoricalPixels(5),
]


def case(likelihood: Likelihood, batch=6, lead=()):
    """Prepared x (batch, *SHAPE) and parameters (*lead, batch, …)."""
    generator = torch.Generator().manual_seed(0)
    x = likelihood.prepare(torch.rand(batch, *SHAPE, generator=generator), generator)
    parameters = torch.randn(*lead, batch, *likelihood.parameter_shape(SHAPE), generator=generator)
    return x, parameters


# --- What all of them share -----------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_a_leading_sample_axis_is_a_loop(likelihood):
    x, parameters = case(likelihood, lead=(3,))
    together = likelihood.log_prob(x, parameters)
    assert together.shape == (3, 6)
    one_by_one = torch.stack([likelihood.log_prob(x, p) for p in parameters])
    assert torch.allclose(together, one_by_one, atol=1e-4)


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_examples_do_not_mix(likelihood):
    x, parameters = case(likelihood)
    separate = [likelihood.log_prob(x[i : i + 1], parameters[i : i + 1]) for i in range(len(x))]
    assert torch.allclose(likelihood.log_prob(x, parameters), torch.cat(separate), atol=1e-4)


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_preparing_twice_is_preparing_once(likelihood):
    x, _ = case(likelihood)
    assert torch.equal(likelihood.prepare(x), x)


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_draws_have_the_mean_that_is_claimed(likelihood):
    """20,000 draws of each pixel: within 5 standard errors of `mean`."""
    n = 20_000
    _, parameters = case(likelihood, batch=1)
    draws = likelihood.sample(parameters.expand(n, *parameters.shape[1:]), torch.Generator().manual_seed(0))
    assert draws.shape == (n, *SHAPE)
    error = (draws.mean(dim=0) - likelihood.mean(parameters)[0]).abs()
    assert (error < 5 * draws.std(dim=0) / math.sqrt(n)).all()


@pytest.mark.parametrize("likelihood", ALL, ids=str)
def test_outputs_of_another_shape_are_refused(likelihood):
    x, parameters = case(likelihood)
    for wrong in (parameters[:, :1], parameters[..., :-1], parameters[:5]):
        with pytest.raises(ValueError, match="needs decoder outputs of shape"):
            likelihood.log_prob(x, wrong)


def test_points_are_scored_like_images():
    x, mu = torch.randn(5, 2), torch.randn(5, 2)
    expected = distributions.Normal(mu, 0.3).log_prob(x).sum(dim=1)
    assert torch.allclose(Gaussian(0.3).log_prob(x, mu), expected, atol=1e-5)


# --- Bernoulli ------------------------------------------------------------------------------------------------


def test_bernoulli_against_torch_distributions():
    x, logits = case(Bernoulli("dynamic"))
    expected = distributions.Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(Bernoulli().log_prob(x, logits), expected, atol=1e-5)


def test_bernoulli_sums_to_one_over_all_binary_images():
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    logits = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_prob = Bernoulli().log_prob(images.view(16, 1, 2, 2), logits.expand(16, -1, -1, -1))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_extreme_logits_stay_finite():
    """sigmoid(200) is 1 in float32, and log(1 − 1) would be −∞; from the logits it is −200."""
    x = torch.zeros(1, 1, 1, 2)
    logits = torch.tensor([200.0, -200.0]).view(1, 1, 1, 2).requires_grad_()
    log_prob = Bernoulli().log_prob(x, logits)
    log_prob.backward()
    assert log_prob.item() == pytest.approx(-200)
    assert torch.isfinite(logits.grad).all()


def test_dynamic_binarisation_is_fresh_each_time_and_has_the_grey_level_as_its_mean():
    grey = torch.linspace(0, 1, 8).view(1, 1, 2, 4)
    batch, generator = grey.expand(20_000, -1, -1, -1), torch.Generator().manual_seed(0)
    first, second = (Bernoulli("dynamic").prepare(batch, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first.unique(), torch.tensor([0.0, 1.0]))
    standard_error = (grey * (1 - grey) / len(batch)).sqrt()[0]
    assert ((first.mean(dim=0) - grey[0]).abs() <= 5 * standard_error).all()  # exact at 0 and 1
    assert torch.equal(Bernoulli().prepare(batch), batch)


def test_without_a_generator_torchs_own_is_used():
    grey = torch.full((4, 1, 8, 8), 0.5)
    torch.manual_seed(3)
    first = Bernoulli("dynamic").prepare(grey)
    torch.manual_seed(3)
    assert torch.equal(first, Bernoulli("dynamic").prepare(grey))
    assert not torch.equal(first, Bernoulli("dynamic").prepare(grey))


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan")])
@pytest.mark.parametrize("likelihood", [Bernoulli(), Bernoulli("dynamic"), CategoricalPixels(4)], ids=str)
def test_images_outside_the_unit_interval_are_refused(likelihood, value):
    x = torch.rand(2, 1, 4, 4)
    x[1, 0, 2, 3] = value
    with pytest.raises(ValueError, match=r"needs images in \[0, 1\]"):
        likelihood.prepare(x)


def test_integer_images_are_refused_where_numbers_are_needed():
    for likelihood in (Bernoulli(), Gaussian(1.0)):
        with pytest.raises(ValueError, match=r"floating-point.*uint8"):
            likelihood.prepare(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


# --- Gaussian -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 2, "learned", "per_pixel"])
def test_gaussian_against_torch_distributions(sigma):
    likelihood = Gaussian(sigma, min_sigma=1e-12)  # a bound so low that σ = exp(raw)
    x, parameters = case(likelihood)
    mu = parameters[:, :2]
    scale = {"learned": torch.ones(()), "per_pixel": parameters[:, 2:].exp()}.get(sigma, sigma)
    expected = distributions.Normal(mu, scale).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(likelihood.log_prob(x, parameters), expected, rtol=1e-5)
    assert torch.equal(likelihood.mean(parameters), mu)


@pytest.mark.parametrize("sigma", ["learned", "per_pixel"])
def test_a_learned_sigma_has_a_smooth_lower_bound(sigma):
    likelihood = Gaussian(sigma, min_sigma=0.05).double()
    raw = torch.tensor([-50.0, -10.0, -3.0, 0.0, 4.0], dtype=torch.float64).view(5, 1, 1, 1).requires_grad_()
    if sigma == "per_pixel":
        log_sigma = likelihood.log_sigma(torch.cat([raw, raw], dim=1)).flatten()
    else:
        log_sigma = likelihood._bound(raw).flatten()
    assert (log_sigma >= math.log(0.05)).all()
    assert (log_sigma.diff() > 0).all()
    assert log_sigma[-1].item() == pytest.approx(4, abs=0.01)
    log_sigma.sum().backward()
    assert (raw.grad[1:] > 0).all()  # never the zero gradient of a clamp


@pytest.fixture
def noisy():
    """300 noisy copies of one image, with another noise level in each of its two channels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.tensor([0.1, 0.4], dtype=torch.float64).view(1, 2, 1, 1)
    return 0.5 + noise * torch.randn(300, *SHAPE, generator=generator, dtype=torch.float64)


def fit(log_prob, parameters):
    """Maximise the mean of log_prob() over the parameters."""
    optimiser = torch.optim.LBFGS(parameters, max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = -log_prob().mean()
        loss.backward()
        return loss

    optimiser.step(closure)


def test_the_best_single_sigma_is_the_root_mean_squared_error(noisy):
    likelihood = Gaussian("learned").double()
    mu = torch.full_like(noisy, 0.5)
    fit(lambda: likelihood.log_prob(noisy, mu), list(likelihood.parameters()))
    rmse = (noisy - mu).square().mean().sqrt().item()
    assert likelihood.log_sigma(mu).exp().item() == pytest.approx(rmse, rel=1e-3)


def test_the_best_sigma_of_each_pixel_is_its_own_root_mean_squared_error(noisy):
    likelihood = Gaussian("per_pixel")
    parameters = torch.zeros(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    fit(lambda: likelihood.log_prob(noisy, parameters.expand(300, -1, -1, -1)), [parameters])
    assert torch.allclose(likelihood.mean(parameters)[0], noisy.mean(dim=0), atol=1e-3)
    sigma = likelihood.log_sigma(parameters)[0].exp()
    assert torch.allclose(sigma, noisy.std(dim=0, correction=0), rtol=1e-2)


@pytest.mark.parametrize("sigma", [0, -1.0, float("inf"), float("nan"), "free", True])
def test_bad_sigmas_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma should be"):
        Gaussian(sigma)
    with pytest.raises(ValueError, match="min_sigma"):
        Gaussian("learned", min_sigma=0)


# --- Categorical pixels ---------------------------------------------------------------------------------------


def test_categorical_sums_to_one_over_all_images():
    """Three levels, one channel, 1×3 pixels: 27 images."""
    images = torch.tensor(list(itertools.product(range(3), repeat=3))).view(27, 1, 1, 3)
    likelihood = CategoricalPixels(3)
    logits = torch.randn(1, 3, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_prob = likelihood.log_prob(images, logits.expand(27, -1, -1, -1))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_categorical_against_torch_distributions():
    likelihood = CategoricalPixels(5)
    x, parameters = case(likelihood)
    logits = parameters.view(6, 5, *SHAPE).movedim(
        1, -1
    )  # level-major: level l of channel c is channel l·C + c
    expected = distributions.Categorical(logits=logits).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(likelihood.log_prob(x, parameters), expected, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 300))
def test_uniform_levels_cost_log2_levels_bits_per_dimension(levels):
    likelihood = CategoricalPixels(levels)
    x = likelihood.prepare(torch.rand(2, *SHAPE))
    nats = -likelihood.log_prob(x, torch.zeros(2, *likelihood.parameter_shape(SHAPE)))
    assert torch.allclose(nats / (math.prod(SHAPE) * math.log(2)), torch.tensor(math.log2(levels)))


def test_levels_and_grey_values_are_the_same_image():
    likelihood = CategoricalPixels(17)
    levels = torch.randint(0, 17, (4, *SHAPE), generator=torch.Generator().manual_seed(0))
    assert torch.equal(likelihood.prepare(levels / 16), levels)
    assert torch.equal(likelihood.prepare(levels.to(torch.uint8)), levels)
    assert torch.equal(likelihood.encoder_input(levels), levels / 16)


def test_categorical_draws_have_the_right_frequencies():
    """Each level of each pixel within 5 standard errors of its probability, over 20,000 draws."""
    likelihood, n = CategoricalPixels(5), 20_000
    _, parameters = case(likelihood, batch=1)
    draws = likelihood.sample(parameters.expand(n, -1, -1, -1), torch.Generator().manual_seed(0))
    levels = likelihood.prepare(draws)
    p = parameters.view(5, *SHAPE).softmax(dim=0)
    frequency = torch.stack([(levels == level).float().mean(dim=0) for level in range(5)])
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("bad", [-1, 5])
def test_levels_out_of_range_are_refused(bad):
    x = torch.zeros(1, *SHAPE, dtype=torch.int64)
    x[0, 1, 2, 3] = bad
    with pytest.raises(ValueError, match="needs levels 0 to 4"):
        CategoricalPixels(5).prepare(x)


@pytest.mark.parametrize("levels", [1, 2.5, True, "256"])
def test_bad_numbers_of_levels_are_refused(levels):
    with pytest.raises(ValueError, match="levels should be"):
        CategoricalPixels(levels)


def test_unknown_binarisations_are_refused():
    with pytest.raises(ValueError, match="binarize should be"):
        Bernoulli("static")
