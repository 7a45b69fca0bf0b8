"""The discrete VAE: shapes, named terms, annealing, reproducibility, and a bound learned on held-out digits."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from course_lib.latent.discrete_vae import (
    ESTIMATORS,
    DiscreteVAE,
    categorical_kl,
    mlp_discrete_vae,
)
from course_lib.latent.vae import Bernoulli, CategoricalPixels, Gaussian

SHAPE, D, K = (1, 8, 8), 3, 4
LIKELIHOODS = {
    "bernoulli": lambda: Bernoulli(),
    "dynamic": lambda: Bernoulli("dynamic"),
    "learned sigma": lambda: Gaussian("learned"),
    "sigma of z": lambda: Gaussian("per_pixel"),
    "levels": lambda: CategoricalPixels(17),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(shape=SHAPE, **options):
    torch.manual_seed(0)
    return mlp_discrete_vae(shape, D, K, (16,), **options)


@pytest.fixture
def x():
    return torch.rand(6, *SHAPE, generator=seeded())


# --- Shapes and terms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6)])
def test_every_model_does_everything(kind, shape):
    model = build(shape, likelihood=LIKELIHOODS[kind]())
    x = torch.rand(5, *shape, generator=seeded())
    assert model.encode(x).shape == (5, D, K)
    z = nn.functional.one_hot(model.codes(x), K).float()
    assert model.decode(z).shape == (5, *model.likelihood.parameter_shape(shape))
    assert model.decode(z.expand(2, 5, D, K)).shape[:2] == (2, 5)
    for terms in (model.elbo(x), model.exact_elbo(x)):
        assert {value.shape for value in terms.values()} == {(5,)}
        assert torch.equal(terms["elbo"], terms["log_likelihood"] - terms["kl"])
    assert model.log_weights(x, 3).shape == (3, 5)
    assert model.log_prob(x, k=3).shape == model.exact_log_prob(x).shape == (5,)
    assert model.log_joint(x).shape == (K**D, 5)
    assert model.codes(x).shape == (5, D)
    for images in (model.sample(2), model.sample(2, draw_pixels=True), model.reconstruct(x)):
        assert images.shape[1:] == shape
        assert not images.requires_grad
        assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_trains_every_parameter(estimator, x):
    model = build(estimator=estimator, samples=2)
    terms = model.loss(x, torch.zeros(6), seeded())
    assert terms["loss"] == terms["recon"] + terms["kl"]
    assert ("temperature" in terms) == ("gumbel" in estimator)
    terms["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_in_evaluation_mode_the_loss_is_the_negative_elbo_at_drawn_codes(x):
    model = build(temperature=5.0, likelihood=Bernoulli()).eval()
    terms, elbo = model.loss(x, generator=seeded()), model.elbo(x, seeded())
    assert set(terms) == {"loss", "recon", "kl"}
    assert terms["loss"].item() == pytest.approx(-elbo["elbo"].mean().item())
    assert terms["kl"].item() == pytest.approx(categorical_kl(model.encode(x)).mean().item())
    assert model.steps == 0


def test_only_the_gumbel_softmax_trains_on_soft_codes(x):
    """What the decoder is given: one-hot vectors, except by this estimator."""
    for estimator in ESTIMATORS:
        model, given = build(estimator=estimator, samples=2), []
        model.decoder.register_forward_pre_hook(lambda module, inputs, given=given: given.append(inputs[0]))
        model.loss(x)
        hard = torch.cat(given).detach().unflatten(1, (D, K)).amax(-1) == 1
        assert hard.all() == (estimator != "gumbel-softmax")


def test_points_are_not_clamped():
    model = build((2,), likelihood=Gaussian(5.0))
    assert model.sample(200, seeded(), draw_pixels=True).min() < -1


# --- Temperature ------------------------------------------------------------------------------------------------


def test_the_temperature_falls_geometrically_and_stays():
    model = build(temperature=2.0, final_temperature=0.5, anneal_steps=4)
    seen = [model.loss(torch.rand(2, *SHAPE))["temperature"].item() for _ in range(7)]
    assert seen == pytest.approx([2, 2**0.5, 1, 2**-0.5, 0.5, 0.5, 0.5])
    assert build(temperature=0.7).temperature.item() == pytest.approx(0.7)


def test_the_step_is_part_of_the_state():
    model = build(temperature=1.0, final_temperature=0.1, anneal_steps=10)
    for _ in range(3):
        model.loss(torch.rand(2, *SHAPE))
    model.eval().loss(torch.rand(2, *SHAPE))  # does not count
    other = build(temperature=1.0, final_temperature=0.1, anneal_steps=10)
    other.load_state_dict(model.state_dict())
    assert other.temperature.item() == pytest.approx(0.1**0.3)


# --- Draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_a_generator_makes_everything_repeatable(x, kind):
    model = build(likelihood=LIKELIHOODS[kind]())
    for run in (
        lambda g: model.elbo(x, g)["elbo"],
        lambda g: model.loss(x, generator=g)["loss"],
        lambda g: model.log_prob(x, 7, g),
        lambda g: model.sample(4, g),
        lambda g: model.sample(4, g, draw_pixels=True),
    ):
        assert torch.equal(run(seeded(3)), run(seeded(3)))
    assert not torch.equal(model.elbo(x, seeded(1))["elbo"], model.elbo(x, seeded(2))["elbo"])


def test_samples_use_all_codes_equally():
    """A linear decoder that prints its code: each value of each variable with probability 1/K (5 standard errors)."""
    decoder = nn.Sequential(nn.Linear(D * K, D * K, bias=False), nn.Unflatten(1, (1, D, K)))
    nn.init.eye_(decoder[0].weight)
    model = DiscreteVAE(nn.Identity(), decoder, Gaussian(), D, K)
    n = 20_000
    share = model.sample(n, seeded()).mean(0)[0]
    assert (share - 1 / K).abs().max() < 5 * (1 / K * (1 - 1 / K) / n) ** 0.5


def test_all_importance_samples_see_one_binary_image(x):
    """With grey images log_prob is that of a binary image, so it cannot exceed log 1; and k cuts change no image."""
    model = build(likelihood=Bernoulli("dynamic"))
    binary = model.likelihood.prepare(x, seeded(5))
    generator = seeded(5)
    assert torch.allclose(model.log_prob(x, 4000, generator), model.exact_log_prob(binary), atol=0.1)


def test_log_prob_never_holds_more_decoder_outputs_than_it_was_allowed(x):
    model, largest = build(), []
    model.decoder.register_forward_hook(lambda module, inputs, out: largest.append(out.numel()))
    model.log_prob(x, k=50, max_values=6 * 64 * 7)
    assert max(largest) == 6 * 64 * 7
    assert sum(largest) == 6 * 64 * 50


def test_reconstruction_is_the_mean_at_the_most_probable_code(x):
    model = build()
    hard = nn.functional.one_hot(model.encode(x).argmax(-1), K).float()
    assert torch.allclose(model.reconstruct(x), model.decode(hard).sigmoid())
    assert torch.equal(model.decode_codes(model.codes(x)), model.reconstruct(x))


def test_sums_stay_in_float32_under_autocast(x):
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model.loss(x)
    assert {value.dtype for value in terms.values()} == {torch.float32}


# --- Learning ---------------------------------------------------------------------------------------------------


def digits():
    pixels = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1).round()
    return pixels[:1500], pixels[1500:]


def fitted(train, steps, **options):
    torch.manual_seed(0)
    model = mlp_discrete_vae(SHAPE, hidden=(64,), **options)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        batch = train[torch.randint(len(train), (64,))]
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("estimator", ["gumbel-softmax", "straight-through"])
def test_it_learns_the_digits(estimator):
    """Test ELBO above −22.7 nats; independent pixels at their means give −24.1. All variables are in use."""
    train, test = digits()
    model = fitted(train, 500, variables=6, categories=8, estimator=estimator, temperature=0.7)
    mean = train.mean(0).clamp(0.01, 0.99)
    without_codes = Bernoulli().log_prob(test, mean.logit().expand(len(test), *SHAPE)).mean()
    with torch.no_grad():
        elbo = model.elbo(test, seeded())["elbo"].mean()
    assert elbo > -22.7 > without_codes + 1
    assert (model.information(test)["information"] > 0.1).all()
    assert elbo < model.log_prob(test, 200, seeded()).mean()


def test_two_clusters_get_two_codes():
    """One binary variable, exact gradient, two noisy prototypes: log p(x) reaches the truth, log ½ + H of the noise."""
    prototypes = torch.tensor([[1.0] * 8 + [0.0] * 8, [0.0] * 8 + [1.0] * 8]).view(2, 1, 4, 4)
    generator, flip = seeded(), 0.1
    labels = torch.randint(2, (2_000,), generator=generator)
    noise = torch.rand(2_000, 1, 4, 4, generator=generator) < flip
    x = (prototypes[labels] - noise.float()).abs()
    torch.manual_seed(0)
    model = mlp_discrete_vae((1, 4, 4), 1, 2, (), estimator="exact")
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss(x)["loss"].backward()
        optimizer.step()
    codes = model.codes(x)[:, 0]
    assert max((codes == labels).float().mean(), (codes != labels).float().mean()) > 0.995
    entropy = -16 * (flip * math.log(flip) + (1 - flip) * math.log(1 - flip)) + math.log(2)
    assert model.exact_log_prob(x).mean().item() == pytest.approx(-entropy, abs=0.1)


# --- Bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [torch.rand(2, 1, 8, 7), torch.rand(1, 8, 8), torch.rand(0, 1, 8, 8), [[0.0]]]
)
def test_inputs_of_another_shape_are_refused(bad):
    model = build()
    for call in (model.encode, model.elbo, model.loss, model.exact_log_prob, model.reconstruct):
        with pytest.raises(ValueError, match="expected a"):
            call(bad)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), r"integer codes \(N, 3\)"),
        (torch.zeros(2, 3), "integer codes"),
        (torch.full((2, 3), K), "0 … 3, got 4 to 4"),
    ],
)
def test_bad_codes_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        build().decode_codes(codes)


def test_bad_calls_are_refused(x):
    model = build()
    with pytest.raises(ValueError, match=r"expected codes \(…, 3, 4\)"):
        model.decode(torch.zeros(2, 12))
    with pytest.raises(ValueError, match="n should be at least 1"):
        model.sample(0)
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match="k should be an integer"):
            model.log_prob(x, k)
    narrow = DiscreteVAE(nn.Flatten(), nn.Identity(), Bernoulli(), 3, 4)
    with pytest.raises(ValueError, match=r"the encoder should return \(B, 12\), got \(6, 64\)"):
        narrow.encode(x)


def test_too_many_codes_to_enumerate_are_refused(x):
    model = mlp_discrete_vae(SHAPE, 20, 10, (4,))
    for call in (model.exact_elbo, model.exact_log_prob):
        with pytest.raises(ValueError, match="at most 65,536 codes"):
            call(x)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"variables": 0}, "variables ≥ 1"),
        ({"categories": 1}, "categories ≥ 2"),
        ({"estimator": "gumble"}, "unknown estimator 'gumble'; the known ones are: gumbel-softmax"),
        ({"estimator": "exact", "variables": 20}, "at most 65,536 codes"),
        ({"temperature": 0.0}, "temperature should be positive"),
        ({"final_temperature": -1.0, "anneal_steps": 5}, "temperature should be positive"),
        ({"final_temperature": 0.5}, "needs anneal_steps ≥ 1"),
        ({"samples": 0}, "integer of at least 1"),
    ],
)
def test_bad_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DiscreteVAE(
            nn.Identity(), nn.Identity(), Bernoulli(), **({"variables": D, "categories": K} | setting)
        )
