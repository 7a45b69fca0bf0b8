"""Autoencoders: shapes, the loss by hand, denoising, and a code that beats PCA's on held-out digits."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from course_lib.latent.autoencoder import (
    Autoencoder,
    conv_autoencoder,
    gaussian_noise,
    linear_autoencoder,
    mlp,
    mlp_autoencoder,
)
from course_lib.latent.pca import PCA


@pytest.mark.parametrize("build", [linear_autoencoder, mlp_autoencoder, conv_autoencoder])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 8, 12)])
def test_shapes(build, shape):
    model = build(shape, 5)
    x = torch.rand(3, *shape)
    assert model.encode(x).shape == (3, 5)
    assert model(x).shape == x.shape
    assert model.decode(torch.zeros(2, 5)).shape == (2, *shape)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 3))
def test_fully_connected_models_take_any_shape(shape, latent_dim, batch):
    model = mlp_autoencoder(shape, latent_dim, hidden=(7,), activation=nn.Tanh)
    x = torch.rand(batch, *shape)
    assert model.encode(x).shape == (batch, latent_dim)
    assert model(x).shape == x.shape


def test_layers_stand_in_the_order_of_the_sizes():
    layers = list(mlp([4, 3, 2], nn.Tanh))
    assert [type(layer) for layer in layers] == [nn.Linear, nn.Tanh, nn.Linear]
    linears = [
        m for m in mlp_autoencoder((1, 28, 28), 9, hidden=(50, 20)).modules() if isinstance(m, nn.Linear)
    ]
    widths = [(layer.in_features, layer.out_features) for layer in linears]
    assert widths == [(784, 50), (50, 20), (20, 9), (9, 20), (20, 50), (50, 784)]


def test_the_loss_is_the_squared_error_per_image():
    model = mlp_autoencoder((1, 4, 4), 3, hidden=(6,))
    x = torch.rand(5, 1, 4, 4)
    terms = model.loss(x, torch.zeros(5))
    by_hand = sum(((model(image[None]) - image[None]) ** 2).sum() for image in x) / 5
    assert set(terms) == {"loss", "recon"}
    assert torch.allclose(terms["loss"], by_hand)
    assert torch.equal(terms["loss"], terms["recon"])


def test_denoising_noises_the_input_and_not_the_target():
    """With identity networks the loss is the noise itself: 64 · 0.3² a picture, in training mode only."""
    model = Autoencoder(nn.Identity(), nn.Identity(), noise_std=0.3)
    x = torch.rand(4000, 1, 8, 8)
    loss = model.loss(x, generator=torch.Generator().manual_seed(0))["loss"].item()
    assert loss == pytest.approx(64 * 0.09, rel=0.02)  # 4 standard errors are 1.1 %
    assert loss == model.loss(x, generator=torch.Generator().manual_seed(0))["loss"].item()
    assert model.eval().loss(x)["loss"].item() == 0
    assert torch.equal(model.train()(x), x)  # forward is the clean map


def test_noise_follows_device_dtype_and_generator_of_its_arguments():
    like = torch.zeros(1, dtype=torch.float64)
    noise = gaussian_noise((3, 2), like, torch.Generator().manual_seed(0))
    assert (noise.shape, noise.dtype) == ((3, 2), torch.float64)
    assert torch.equal(noise, gaussian_noise((3, 2), like, torch.Generator().manual_seed(0)))


def train(model, X, steps):
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = X[torch.randint(len(X), (128,), generator=generator)]
        optimiser.zero_grad()
        model.loss(batch)["loss"].backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def digits():
    """(train, held out), (N, 1, 8, 8) in [0, 1]."""
    images = torch.from_numpy(load_digits().images / 16).float().unsqueeze(1)
    return images[:1400], images[1400:]


@pytest.mark.parametrize(
    "build", [partial(mlp_autoencoder, hidden=(128, 32)), partial(conv_autoencoder, width=16)]
)
def test_a_deep_code_of_two_numbers_beats_pca_on_held_out_digits(digits, build):
    fit, held_out = digits
    torch.manual_seed(0)
    model = train(build((1, 8, 8), 2), fit, steps=300)
    pca = PCA(2).fit(fit.flatten(1))
    X = held_out.flatten(1)
    pca_error = (X - pca.inverse_transform(pca.transform(X))).square().sum(dim=1).mean()
    assert model.loss(held_out)["loss"] < 0.9 * pca_error


def test_denoising_removes_noise_from_held_out_digits(digits):
    fit, held_out = digits
    torch.manual_seed(0)
    model = train(mlp_autoencoder((1, 8, 8), 16, hidden=(128,), noise_std=0.4), fit, steps=300)
    noisy = held_out + 0.4 * gaussian_noise(held_out.shape, held_out, torch.Generator().manual_seed(1))
    error = (model(noisy) - held_out).square().mean()
    assert error < 0.5 * (noisy - held_out).square().mean()


@pytest.mark.parametrize(
    "x", [torch.rand(2, 1, 8, 7), torch.rand(1, 8, 8), torch.rand(0, 1, 8, 8), [[0.0]], torch.rand(2, 64)]
)
def test_inputs_of_another_shape_are_refused(x):
    model = mlp_autoencoder((1, 8, 8), 2)
    for call in (model, model.loss, model.encode):
        with pytest.raises(ValueError, match="expected a"):
            call(x)


def test_a_decoder_of_another_shape_is_refused():
    model = Autoencoder(nn.Flatten(), nn.Identity())
    with pytest.raises(ValueError, match=r"returned \(2, 64\) for \(2, 1, 8, 8\)"):
        model.loss(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (mlp_autoencoder, {"input_shape": (1, 8, 8), "latent_dim": 0}, "positive"),
        (mlp_autoencoder, {"input_shape": 64, "latent_dim": 2}, "positive"),
        (mlp_autoencoder, {"input_shape": (8,), "latent_dim": 2, "hidden": (0,)}, "positive"),
        (mlp_autoencoder, {"input_shape": (8,), "latent_dim": 2, "activation": "tanh"}, "module class"),
        (mlp_autoencoder, {"input_shape": (8,), "latent_dim": 2, "noise_std": -1.0}, "noise_std"),
        (conv_autoencoder, {"input_shape": (1, 10, 8), "latent_dim": 2}, "divisible by 4"),
        (conv_autoencoder, {"input_shape": (8, 8), "latent_dim": 2}, "image shape"),
    ],
)
def test_bad_sizes_are_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
