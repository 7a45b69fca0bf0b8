"""The prior over codes: a distribution, trained alone, sampled level by level; rates as they are defined."""

import itertools
import math

import pytest
import torch
from torch import nn

from course_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from course_lib.latent.code_prior import CodePrior, TopCondition, gated_prior
from course_lib.latent.vae import Bernoulli, Gaussian
from course_lib.latent.vqvae import conv_vqvae
from course_lib.latent.vqvae2 import conv_vqvae2

K, D = 5, 4
BUILDERS = {"VQ-VAE": (conv_vqvae, 16), "VQ-VAE-2": (conv_vqvae2, 20)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def prior_of(name, shape=(1, 8, 8), num_codes=K, likelihood=None, scale=0.3):
    torch.manual_seed(0)
    build, _ = BUILDERS[name]
    options = {"width": 8, "residual_width": 4, "residual_layers": 1, "downsamplings": 1}
    autoencoder = build(shape, num_codes, D, likelihood=likelihood, **options)
    prior = gated_prior(autoencoder, channels=8, layers=2, embed_dim=3)
    with torch.no_grad():
        decoder = autoencoder.decoder if name == "VQ-VAE" else autoencoder.decode
        decoder[-1].bias.fill_(0.5)  # pictures away from both ends
        for parameter in (*prior.prior.parameters(), *(prior.bottom.parameters() if prior.bottom else ())):
            parameter.add_(scale * torch.randn_like(parameter))
    return prior


def pictures(n, seed=0):
    return torch.rand(n, 1, 8, 8, generator=seeded(seed))


@pytest.mark.parametrize("name", BUILDERS)
def test_codes_there_and_back(name):
    prior, x = prior_of(name), pictures(4)
    codes = prior.encode(x)
    assert codes.shape == (4, BUILDERS[name][1])
    assert torch.equal(prior.decode(codes), prior.autoencoder.reconstruct(x))
    assert torch.equal(prior.reconstruct(x), prior.autoencoder.reconstruct(x))
    grids = prior.levels(codes)
    expected = prior.autoencoder.encode_indices(x)
    for grid, own in zip(grids, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert torch.equal(grid, own)


@pytest.mark.parametrize("name", BUILDERS)
def test_probabilities_of_all_codes_sum_to_one(name):
    """4×4 pixels: a grid of 2×2 codes of 3, and above it for VQ-VAE-2 one of 1×1; float32, 1e-4."""
    prior = prior_of(name, shape=(1, 4, 4), num_codes=3)
    places = 4 if name == "VQ-VAE" else 5
    codes = torch.tensor(list(itertools.product(range(3), repeat=places)))
    with torch.no_grad():
        nats = sum(prior.nats(codes))
    assert nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert nats.std() > 0.1


@pytest.mark.parametrize("name", BUILDERS)
def test_sampled_codes_have_those_probabilities(name):
    """6,000 draws of 2×2 (+ 1) codes of 2: every frequency within 5 standard errors."""
    prior = prior_of(name, shape=(1, 4, 4), num_codes=2)
    places, n = (4 if name == "VQ-VAE" else 5), 6_000
    codes = torch.tensor(list(itertools.product(range(2), repeat=places)))
    with torch.no_grad():
        p = sum(prior.nats(codes)).neg().exp()
    drawn = prior.sample_codes(n, seeded())
    number = (drawn * 2 ** torch.arange(places - 1, -1, -1)).sum(dim=1)
    frequency = torch.bincount(number, minlength=len(codes)) / n
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-9).all()


@pytest.mark.parametrize("name", BUILDERS)
def test_samples_are_decoded_codes(name):
    prior = prior_of(name).train()
    images = prior.sample(5, seeded(3))
    assert torch.equal(images, prior.decode(prior.sample_codes(5, seeded(3))))
    assert images.shape == (5, 1, 8, 8)
    assert 0 <= images.min() <= images.max() <= 1
    assert len(images.unique(dim=0)) == 5
    assert prior.training
    assert not prior.autoencoder.training


def test_the_bottom_prior_is_told_all_top_codes_and_each_four_places_of_it():
    prior = prior_of("VQ-VAE-2")
    bottom = torch.zeros(1, 16, dtype=torch.int64)
    base = torch.zeros(1, 4, dtype=torch.int64)
    with torch.no_grad():
        reference = prior.nats(torch.cat([base, bottom], dim=1))[1]
        for place in range(4):
            other = base.clone()
            other[0, place] = 1
            assert (prior.nats(torch.cat([other, bottom], dim=1))[1] - reference).abs() > 1e-4
        condition = TopCondition(3, 6)(torch.tensor([[[0, 1], [2, 0]]]))
    assert condition.shape == (1, 6, 4, 4)
    for i, j in itertools.product(range(4), repeat=2):
        assert torch.equal(condition[..., i, j], condition[..., i // 2 * 2, j // 2 * 2])


@pytest.mark.parametrize("name", BUILDERS)
def test_only_the_prior_is_trained(name):
    prior, x = prior_of(name).train(), pictures(8)
    before = {k: v.clone() for k, v in prior.autoencoder.state_dict().items()}
    codes = prior.encode(x)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    first = prior.loss(codes)["loss"].item()
    for _ in range(30):
        optimizer.zero_grad()
        prior.loss(codes)["loss"].backward()
        optimizer.step()
    assert prior.loss(codes)["loss"].item() < 0.7 * first
    assert all(p.grad is None for p in prior.autoencoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in prior.autoencoder.state_dict().items())


@pytest.mark.parametrize("name", BUILDERS)
def test_rate_and_distortion_are_those_of_the_definition(name):
    prior, x = prior_of(name).eval(), pictures(6)
    terms = prior.rate_distortion(x)
    codes, bound = prior.encode(x), prior.autoencoder.elbo(x)
    with torch.no_grad():
        torch.testing.assert_close(terms["rate"], sum(prior.nats(codes)))
        loss = prior.loss(codes)
    assert terms["uniform_rate"].tolist() == pytest.approx([codes.shape[1] * math.log(K)] * 6)
    torch.testing.assert_close(terms["distortion"], -bound["log_likelihood"])
    assert loss["loss"].item() == pytest.approx(terms["rate"].mean().item(), rel=1e-5)
    assert loss["bits_per_code"].item() == pytest.approx(
        terms["rate"].mean().item() / codes.shape[1] / math.log(2), rel=1e-5
    )
    if name == "VQ-VAE-2":
        assert (loss["rate_top"] + loss["rate_bottom"]).item() == pytest.approx(loss["loss"].item(), rel=1e-5)


def test_bits_per_dimension_of_grey_levels_and_of_binary_pixels():
    """A Gaussian's density counts as a probability once it is multiplied by the distance of two levels."""
    x = pictures(6).round()
    binary = prior_of("VQ-VAE", likelihood=Bernoulli()).eval()
    terms = binary.rate_distortion(x)
    torch.testing.assert_close(
        binary.bits_per_dim(x), (terms["rate"] + terms["distortion"]) / 64 / math.log(2)
    )
    grey = prior_of("VQ-VAE", likelihood=Gaussian(sigma=0.3)).eval()
    terms = grey.rate_distortion(x)
    step = math.log(1 / 16) * 64  # 17 levels lie 1/16 apart
    expected = (terms["rate"] + terms["distortion"] - step) / 64 / math.log(2)
    torch.testing.assert_close(grey.bits_per_dim(x, grey_levels=17), expected)


def test_wrong_input_is_refused():
    prior = prior_of("VQ-VAE-2")
    with pytest.raises(ValueError, match=r"expected codes \(B, 20\)"):
        prior.decode(torch.zeros(2, 16).long())
    autoencoder, top = prior.autoencoder, prior.prior
    with pytest.raises(ValueError, match="expected priors"):
        CodePrior(autoencoder, top)
    with pytest.raises(ValueError, match="given together"):
        CodePrior(autoencoder, top, prior.bottom)
    with pytest.raises(ValueError, match="expected priors"):
        CodePrior(prior_of("VQ-VAE").autoencoder, GatedPixelCNN((1, 4, 4), K + 1, channels=4, layers=1))
    with pytest.raises(ValueError, match="given together"):
        CodePrior(prior_of("VQ-VAE").autoencoder, prior_of("VQ-VAE").prior, None, nn.Identity())
