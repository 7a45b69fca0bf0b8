"""The VAE: shapes, named terms, free bits, memory, reproducibility, and a bound learned on held-out digits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from course_lib.latent.vae import (
    VAE,
    Bernoulli,
    CategoricalPixels,
    Gaussian,
    conv_vae,
    gaussian_kl,
    gaussian_kl_per_dimension,
    mlp_vae,
    reparameterize,
)

SHAPE = (1, 8, 8)
LIKELIHOODS = {
    "bernoulli": lambda: Bernoulli(),
    "dynamic": lambda: Bernoulli("dynamic"),
    "fixed sigma": lambda: Gaussian(0.2),
    "learned sigma": lambda: Gaussian("learned"),
    "sigma of z": lambda: Gaussian("per_pixel"),
    "levels": lambda: CategoricalPixels(17),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.rand(6, *SHAPE, generator=seeded())


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return mlp_vae(SHAPE, 4, hidden=(32,))


# --- Shapes and terms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [mlp_vae, conv_vae])
@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 16)])
def test_every_model_does_everything(build, kind, shape):
    model = build(shape, 4, 16 if build is conv_vae else (16,), likelihood=LIKELIHOODS[kind]())
    x = torch.rand(5, *shape, generator=seeded())
    mu, logvar = model.encode(x)
    assert mu.shape == logvar.shape == (5, 4)
    assert model.decode(mu).shape == (5, *model.likelihood.parameter_shape(shape))
    assert {value.shape for value in model.elbo(x).values()} == {(5,)}
    assert model.log_weights(x, 3).shape == (3, 5)
    assert model.log_prob(x, k=3).shape == (5,)
    assert model.active_units(x).shape == (4,)
    for images in (model.sample(2), model.sample(2, draw_pixels=True), model.reconstruct(x)):
        assert images.shape[1:] == shape
        assert not images.requires_grad
        assert 0 <= images.min() <= images.max() <= 1
    model.loss(x)["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_the_network_of_burda_et_al():
    model = mlp_vae((1, 28, 28), 50, (200, 200), likelihood=Bernoulli("dynamic"), activation=nn.Tanh)
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linears]
    assert widths == [(784, 200), (200, 200), (200, 100), (50, 200), (200, 200), (200, 784)]
    assert sum(isinstance(m, nn.Tanh) for m in model.modules()) == 4


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_loss_is_its_terms(x, beta):
    torch.manual_seed(0)
    model = mlp_vae(SHAPE, 4, (16,), beta=beta)
    terms = model.loss(x, torch.zeros(6), generator=seeded())
    assert set(terms) == {"loss", "recon", "kl"}
    assert torch.equal(terms["loss"], terms["recon"] + beta * terms["kl"])
    elbo = model.elbo(x, seeded())  # β is no part of it
    assert torch.allclose(terms["recon"], -elbo["log_likelihood"].mean())
    assert torch.allclose(terms["kl"], elbo["kl"].mean())
    assert torch.equal(elbo["elbo"], elbo["log_likelihood"] - elbo["kl"])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
def test_points_of_any_dimension(batch, dims, latent_dim):
    model = mlp_vae((dims,), latent_dim, (7,), likelihood=Gaussian("per_pixel"))
    assert model.elbo(torch.randn(batch, dims))["elbo"].shape == (batch,)
    assert model.sample(3, draw_pixels=True).shape == (3, dims)


def test_points_are_not_clamped():
    model = mlp_vae((2,), 1, (8,), likelihood=Gaussian(5.0))
    assert model.sample(200, seeded(), draw_pixels=True).min() < -1


def test_reparameterised_samples_have_the_right_moments():
    mu, logvar = torch.tensor([[0.5, -1.0]]), torch.tensor([[-1.0, 0.8]])
    n = 100_000
    z = reparameterize(mu.expand(n, 2), logvar.expand(n, 2), seeded())
    sigma = torch.exp(0.5 * logvar)[0]
    assert ((z.mean(dim=0) - mu[0]).abs() < 5 * sigma / math.sqrt(n)).all()
    assert ((z.std(dim=0) - sigma).abs() < 5 * sigma / math.sqrt(2 * n)).all()


# --- Free bits ------------------------------------------------------------------------------------------------


def test_free_bits_change_the_loss_and_not_the_elbo(x):
    torch.manual_seed(0)
    model = mlp_vae(SHAPE, 4, (16,), beta=2.0)
    plain = model.loss(x, generator=seeded())
    mu, logvar = model.encode(x)
    kl = gaussian_kl_per_dimension(mu, logvar).mean(dim=0)
    model.free_bits = kl.sort().values[1:3].mean().item()  # two dimensions below, two above
    free = model.loss(x, generator=seeded())
    expected = sum(max(value, model.free_bits) for value in kl.tolist())
    assert free["kl_free_bits"].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(free["loss"], free["recon"] + 2 * free["kl_free_bits"])
    assert torch.equal(free["recon"], plain["recon"])
    assert torch.allclose(free["kl"], plain["kl"])
    assert torch.allclose(free["kl"], gaussian_kl(mu, logvar).mean())
    assert free["loss"] > plain["loss"]


def test_below_the_free_bits_the_kl_has_no_gradient(x):
    """The penalty is then the constant d·λ: the encoder's gradient is that of the reconstruction alone."""
    torch.manual_seed(0)
    model = mlp_vae(SHAPE, 4, (16,), free_bits=10.0)
    terms = model.loss(x, generator=seeded())
    weight = model.encoder[1].weight
    (with_kl,) = torch.autograd.grad(terms["loss"], weight, retain_graph=True)
    (without,) = torch.autograd.grad(terms["recon"], weight, retain_graph=True)
    (kl_gradient,) = torch.autograd.grad(terms["kl"], weight)
    assert terms["kl_free_bits"].item() == 40
    assert torch.equal(with_kl, without)
    assert kl_gradient.abs().max() > 0


# --- Sampling, binarisation, memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_a_generator_makes_everything_repeatable(x, kind):
    torch.manual_seed(0)
    model = mlp_vae(SHAPE, 4, (16,), likelihood=LIKELIHOODS[kind]())
    calls = [
        lambda g: model.elbo(x, g)["elbo"],
        lambda g: model.loss(x, generator=g)["loss"],
        lambda g: model.log_prob(x, 4, g),
        lambda g: model.sample(3, g, draw_pixels=True),
        lambda g: model.reconstruct(x, g),
    ]
    for call in calls:
        first = call(seeded(5))
        torch.rand(7)  # the global state has moved on; it must not matter
        assert torch.equal(first, call(seeded(5)))


def test_all_importance_samples_see_one_binary_image(vae):
    """The decoder ignores z and the encoder is the prior: every weight is p(x), unless x changes between them."""
    model = mlp_vae(SHAPE, 2, (), likelihood=Bernoulli("dynamic"))
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        model.decoder[0].weight.zero_()
    grey = torch.full((3, *SHAPE), 0.5)
    log_w = model.log_weights(grey, 20, seeded())
    assert torch.allclose(log_w, log_w[:1].expand(20, -1), atol=1e-4)
    assert log_w[0].unique().numel() == 3  # but the three images were binarised one by one
    assert torch.allclose(model.log_prob(grey, 20, seeded()), log_w[0], atol=1e-4)


def test_log_prob_never_holds_more_decoder_outputs_than_it_was_allowed(vae, x):
    sizes = []
    vae.decoder.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    vae.log_prob(x, k=50, max_values=7 * 6 * 64)
    assert max(sizes) == 7 * 6 * 64
    assert sum(sizes) == 50 * 6 * 64


def test_active_units_are_those_whose_mean_varies():
    """Means x₀, 0.05·x₁ and 0: variances 1/12, 2e-4 and 0 against the threshold 0.01."""
    model = mlp_vae((2,), 3, (), likelihood=Gaussian(1.0))
    with torch.no_grad():
        linear = model.encoder[1]
        linear.weight.zero_()
        linear.weight[0, 0], linear.weight[1, 1] = 1.0, 0.05
    x = torch.rand(2000, 2, generator=seeded())
    assert model.active_units(x).tolist() == [True, False, False]
    assert model.active_units(x, threshold=1e-5).tolist() == [True, True, False]


def test_reconstruction_is_the_decoders_mean_at_the_encoders_mean(vae, x):
    assert torch.allclose(vae.reconstruct(x), vae.decode(vae.encode(x)[0]).sigmoid())


def test_a_state_dict_restores_the_model(vae, x):
    copy = mlp_vae(SHAPE, 4, hidden=(32,))
    copy.load_state_dict(vae.state_dict())
    assert torch.equal(copy.elbo(x, seeded())["elbo"], vae.elbo(x, seeded())["elbo"])


def test_sums_stay_in_float32_under_autocast(vae, x):
    """Half precision is for the networks: within 1 % of float32, and the terms come back as float32."""
    exact = vae.loss(x, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = vae.loss(x, generator=seeded())
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert terms["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.01)


# --- Learning -------------------------------------------------------------------------------------------------


def train(model, X, steps, lr=3e-3):
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    generator = seeded()
    for _ in range(steps):
        batch = X[torch.randint(len(X), (128,), generator=generator)]
        optimiser.zero_grad()
        model.loss(batch, generator=generator)["loss"].backward()
        optimiser.step()
    return model.eval()


def test_it_learns_the_digits():
    """Held-out binary digits: at least 5 nats better than independent pixels, and the bounds in their order."""
    images = torch.from_numpy(load_digits().images >= 8).float().unsqueeze(1)
    fit, held_out = images[:1400], images[1400:]
    torch.manual_seed(0)
    model = train(mlp_vae(SHAPE, 8, (64,)), fit, steps=500)
    frequency = fit.mean(dim=0).clamp(0.01, 0.99)
    independent = Bernoulli().log_prob(held_out, frequency.logit().expand_as(held_out)).mean()
    elbo = model.elbo(held_out, seeded())["elbo"].mean()
    log_prob = model.log_prob(held_out, k=200, generator=seeded()).mean()
    assert elbo < log_prob
    assert log_prob > independent + 5
    assert model.active_units(held_out).sum() >= 3


def test_a_learned_sigma_finds_the_noise_of_the_data():
    """Points on a line plus noise of 0.1: with linear networks this is PPCA, and σ is found to 15 %."""
    generator = seeded()
    position = torch.randn(4000, 1, generator=generator)
    X = position.expand(-1, 3) + 0.1 * torch.randn(4000, 3, generator=generator)
    torch.manual_seed(0)
    model = train(mlp_vae((3,), 1, (), likelihood=Gaussian("learned")), X, steps=800, lr=2e-2)
    assert model.likelihood.log_sigma(X).exp().item() == pytest.approx(0.1, rel=0.15)


def test_a_large_beta_collapses_the_posterior():
    images = torch.from_numpy(load_digits().images / 16).float().unsqueeze(1)
    active = []
    for beta in (1.0, 50.0):
        torch.manual_seed(0)
        model = train(mlp_vae(SHAPE, 4, (32,), beta=beta), images, steps=200)
        active.append(model.active_units(images).sum().item())
    assert active[0] >= 3
    assert active[1] == 0


# --- Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [(6, 64), (6, 1, 8, 7), (1, 8, 8), (0, 1, 8, 8)])
def test_inputs_of_another_shape_are_refused(vae, bad):
    x = torch.rand(bad)
    for call in (vae.encode, vae.elbo, vae.loss, vae.log_prob, vae.reconstruct):
        with pytest.raises(ValueError, match=r"expected a batch \(B, 1, 8, 8\)"):
            call(x)


def test_inputs_out_of_range_are_refused(vae):
    for call in (vae.elbo, vae.loss, vae.log_prob, vae.reconstruct):
        with pytest.raises(ValueError, match=r"images in \[0, 1\], got values from 255 to 255"):
            call(torch.full((2, *SHAPE), 255.0))


def test_latents_of_another_shape_are_refused(vae):
    for z in (torch.zeros(3, 5), torch.zeros(4)):
        with pytest.raises(ValueError, match="expected latents"):
            vae.decode(z)


def test_encoders_of_another_width_are_refused(x):
    model = VAE(nn.Flatten(), nn.Identity(), Bernoulli(), latent_dim=4)
    with pytest.raises(ValueError, match=r"should return \(B, 8\), got \(6, 64\)"):
        model.encode(x)


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_bad_sample_counts_are_refused(vae, x, k):
    for call in (vae.log_weights, vae.log_prob):
        with pytest.raises(ValueError, match="k should be"):
            call(x, k)
    with pytest.raises(ValueError, match="n should be"):
        vae.sample(0)
    with pytest.raises(ValueError, match="at least 2 examples"):
        vae.active_units(x[:1])


@pytest.mark.parametrize(
    "setting", [{"latent_dim": 0}, {"beta": -1.0}, {"free_bits": -0.1}, {"beta": float("nan")}]
)
def test_bad_settings_are_refused(setting):
    settings_ = {"latent_dim": 2, "beta": 1.0, "free_bits": 0.0} | setting
    with pytest.raises(ValueError, match=next(iter(setting))):
        VAE(nn.Identity(), nn.Identity(), Bernoulli(), **settings_)
