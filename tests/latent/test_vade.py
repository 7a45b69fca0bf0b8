"""VaDE as an object: its prior, its clusters, its samples, its stages of training, its errors."""

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.latent.vade import TERMS, MixturePrior, Pretraining, VaDE, conv_vade, fit_mixture, mlp_vade
from course_lib.latent.vae import Bernoulli, Gaussian
from course_lib.metrics import clustering_accuracy
from course_lib.training import SingleLoss, fit


@pytest.fixture
def model() -> VaDE:
    torch.manual_seed(0)
    return mlp_vade((1, 4, 4), 2, (16,), 3)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def blobs(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Three well separated clouds in 5 dimensions, and the cloud of each point."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    centres = 4.0 * torch.eye(3, 5)
    return centres[labels] + 0.3 * torch.randn(n, 5, generator=generator), labels


def test_the_paper_s_network():
    model = mlp_vade((1, 28, 28))
    sizes = [layer.out_features for layer in model.encoder if isinstance(layer, nn.Linear)]
    assert sizes == [500, 500, 2000, 20]  # means and log-variances of 10 latents
    sizes = [layer.out_features for layer in model.decoder if isinstance(layer, nn.Linear)]
    assert sizes == [2000, 500, 500, 784]
    assert model.prior.mu.shape == model.prior.logvar.shape == (10, 10)
    assert torch.allclose(model.prior.log_weights.exp(), torch.full((10,), 0.1))


def test_shapes_and_names(model, images):
    terms = model.elbo(images)
    assert tuple(terms) == ("elbo", *TERMS)
    assert all(value.shape == (12,) for value in terms.values())
    assert model.responsibilities(images).shape == model.responsibilities(images, k=4).shape == (12, 3)
    assert model.cluster(images).dtype == torch.int64
    assert model.log_weights(images, 5).shape == (5, 12)
    assert model.log_prob(images, 5).shape == (12,)
    assert model.reconstruct(images).shape == images.shape


def test_the_loss_is_minus_the_elbo_and_names_its_terms(model, images):
    loss = model.loss(images, generator=torch.Generator().manual_seed(0))
    elbo = model.elbo(images, torch.Generator().manual_seed(0))
    assert set(loss) == {"loss", "recon", "kl", *TERMS} - {"log_likelihood"}
    assert loss["loss"].item() == pytest.approx(-elbo["elbo"].mean().item(), abs=1e-5)
    assert loss["recon"].item() == pytest.approx(-elbo["log_likelihood"].mean().item(), abs=1e-5)
    assert (loss["recon"] + loss["kl"]).item() == pytest.approx(loss["loss"].item(), abs=1e-5)


def test_every_parameter_gets_a_gradient(model, images):
    model.loss(images)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_responsibilities_are_those_of_bayes_rule_and_sum_to_one(model, images):
    mu, _ = model.encode(images)
    densities = torch.distributions.Normal(model.prior.mu, (0.5 * model.prior.logvar).exp())
    joint = model.prior.logits.softmax(0) * densities.log_prob(mu.unsqueeze(1)).sum(-1).exp()
    expected = joint / joint.sum(1, keepdim=True)
    gamma = model.responsibilities(images)
    assert torch.allclose(gamma, expected, rtol=0, atol=1e-5)
    assert torch.equal(model.cluster(images), expected.argmax(1))
    averaged = model.responsibilities(images, k=50, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(averaged.sum(1), torch.ones(12), rtol=0, atol=1e-5)
    assert not torch.allclose(averaged, gamma, atol=1e-2)  # it averages over the posterior's spread


def test_latents_far_from_every_component_give_finite_terms_and_gradients():
    """π_c N(z; c) underflows to 0 for every c there: only log-sum-exp keeps the ratio."""
    model = VaDE(nn.Linear(2, 4), nn.Linear(2, 2), Gaussian(), 2, 3, (2,))
    with torch.no_grad():
        model.prior.logits.copy_(torch.tensor([0.0, -200.0, 50.0]))
    posterior = (torch.full((4, 2), 3e3), torch.full((4, 2), -3.0))
    x = torch.zeros(4, 2)
    gamma = model.prior.log_responsibilities(posterior[0])
    assert torch.allclose(gamma.logsumexp(-1), torch.zeros(4), atol=1e-5)
    terms = model.elbo(x, posterior=posterior)
    assert all(value.isfinite().all() for value in terms.values())
    terms["elbo"].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.prior.parameters())


# --- Samples ----------------------------------------------------------------------------------------------------


def test_samples_of_the_prior_have_its_moments():
    prior = MixturePrior(3, 2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.2, 0.5, 0.3]).log())
        prior.mu.copy_(torch.tensor([[-5.0, 0.0], [0.0, 5.0], [5.0, 0.0]]))
        prior.logvar.copy_(torch.tensor([[0.0, 1.0], [-2.0, 0.0], [-1.0, -1.0]]))
    n = 30_000
    z, c = prior.sample(n, torch.Generator().manual_seed(0))
    counts = torch.bincount(c, minlength=3)
    for cluster, share in enumerate((0.2, 0.5, 0.3)):
        assert abs(counts[cluster] / n - share) < 5 * (share * (1 - share) / n) ** 0.5
        own = z[c == cluster]
        std = (0.5 * prior.logvar[cluster]).exp()
        assert ((own.mean(0) - prior.mu[cluster]).abs() < 5 * std / len(own) ** 0.5).all()
        assert torch.allclose(own.std(0), std, rtol=0.05)
    z, c = prior.sample(100, torch.Generator().manual_seed(0), cluster=1)
    assert (c == 1).all()
    assert ((z - prior.mu[1]).abs() < 6 * (0.5 * prior.logvar[1]).exp()).all()


def test_sampling_one_cluster_decodes_latents_of_that_cluster_only():
    model = VaDE(nn.Linear(2, 4), nn.Identity(), Gaussian(), 2, 3, (2,))
    with torch.no_grad():
        model.prior.mu.copy_(torch.tensor([[-50.0, 0.0], [0.0, 50.0], [50.0, 0.0]]))
    for cluster in range(3):
        points = model.sample(20, torch.Generator().manual_seed(0), cluster=cluster)
        assert (model.prior.log_responsibilities(points).argmax(1) == cluster).all()
    everywhere = model.sample(200, torch.Generator().manual_seed(0))
    assert set(model.prior.log_responsibilities(everywhere).argmax(1).tolist()) == {0, 1, 2}


def test_sampled_images_lie_in_the_unit_interval_and_repeat_with_the_generator(model):
    first, second = (model.sample(7, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == (7, 1, 4, 4)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, second)
    drawn = model.sample(7, torch.Generator().manual_seed(3), draw_pixels=True)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}


# --- The stages -------------------------------------------------------------------------------------------------


def test_pretraining_trains_the_vade_s_own_networks_and_leaves_variances_and_prior(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = Pretraining(model)
    first = stage.loss(images)["loss"].item()
    optimizer = torch.optim.Adam(stage.parameters(), lr=1e-2)
    history = fit(
        SingleLoss(stage, optimizer), [(images, torch.zeros(12))], steps=150, progress=False, device="cpu"
    )
    assert history["loss"][-1] < 0.9 * first
    after = model.state_dict()
    last = [name for name in after if name.startswith("encoder")][-2:]
    for name in last:  # rows of μ, then rows of log σ²
        assert not torch.equal(after[name][:2], before[name][:2])
        assert torch.equal(after[name][2:], before[name][2:])
    for name in ("prior.mu", "prior.logits", "prior.logvar"):
        assert torch.equal(after[name], before[name])


def test_the_mixture_of_the_codes_becomes_the_prior():
    x, labels = blobs()
    torch.manual_seed(0)
    model = VaDE(nn.Linear(5, 6), nn.Linear(3, 5), Gaussian(), 3, 3, (5,))
    with torch.no_grad():
        model.encoder.weight[:3], model.encoder.bias[:] = (
            torch.eye(3, 5),
            0.0,
        )  # codes: the first three coordinates
    mixture = model.initialise_from_gmm(x, seed=0, batch_size=70)
    codes = x[:, :3]
    for c in range(3):
        own = codes[labels == labels[model.cluster(x) == c][0]]
        assert torch.allclose(model.prior.mu[c], own.mean(0), atol=1e-3)
        assert torch.allclose(model.prior.logvar[c], own.var(0, correction=0).log(), atol=1e-2)
    assert torch.allclose(model.prior.log_weights.exp(), torch.full((3,), 1 / 3), atol=1e-3)
    assert clustering_accuracy(labels, model.cluster(x)) == 1.0
    within = torch.stack([x[labels == c, :3].var(0, correction=0) for c in range(3)]).mean(0)
    assert torch.allclose(model.encode(x)[1].mean(0), (within / 10).log(), atol=1e-2)
    theirs = mixture.predict_proba(codes.double().numpy())
    assert np.allclose(model.responsibilities(x).numpy(), theirs, atol=1e-5)
    assert model.prior.log_prob(codes).mean().item() == pytest.approx(mixture.score(codes.numpy()), abs=1e-4)


def test_a_full_mixture_gives_the_prior_its_diagonals():
    """Clouds that lie slantwise: the variances along the axes, without the correlation between them."""
    generator = torch.Generator().manual_seed(0)
    tilt = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    x = torch.randn(600, 2, generator=generator) @ tilt.T + 20.0 * (torch.arange(600) % 2).unsqueeze(1)
    torch.manual_seed(0)
    model = VaDE(nn.Linear(2, 4), nn.Linear(2, 2), Gaussian(), 2, 2, (2,))
    with torch.no_grad():
        model.encoder.weight[:2], model.encoder.bias[:] = torch.eye(2), 0.0
    mixture = model.initialise_from_gmm(x, covariance="full")
    assert mixture.covariances_.shape == (2, 2, 2)
    for c in range(2):
        own = x[model.cluster(x) == c]
        assert len(own) == 300
        assert torch.allclose(model.prior.logvar[c], own.var(0, correction=0).log(), atol=1e-3)


def tilted(n: int = 900) -> torch.Tensor:
    """Three clouds in three dimensions, alike and slantwise: x = A s + centre, A neither diagonal nor a rotation."""
    generator = torch.Generator().manual_seed(0)
    slant = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [-0.5, 0.2, 0.4]])
    centres = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 3.0], [0.0, 9.0, -4.0]])
    return torch.randn(n, 3, generator=generator) @ slant.T + centres[torch.arange(n) % 3]


def linear_model(d: int = 3) -> VaDE:
    """Codes are the data: an encoder that copies, a decoder with weights of its own."""
    torch.manual_seed(0)
    model = VaDE(nn.Sequential(nn.Linear(d, 2 * d)), nn.Sequential(nn.Linear(d, d)), Gaussian(), d, 3, (d,))
    with torch.no_grad():
        model.encoder[-1].weight[:d], model.encoder[-1].bias[:d] = torch.eye(d), 0.5
    return model


def test_aligned_axes_make_alike_components_round_and_change_no_reconstruction():
    x, model = tilted(), linear_model()
    before = model.reconstruct(x), model.encode(x)[1]
    mixture = model.initialise_from_gmm(x, covariance="aligned")
    assert torch.allclose(model.decode(model.encode(x)[0]), before[0], rtol=0, atol=1e-4)
    clusters = model.cluster(x)
    codes = model.encode(x)[0].detach()
    for c in range(3):
        own = codes[clusters == c]
        assert len(own) == 300
        assert torch.allclose(model.prior.mu[c], own.mean(0), atol=1e-3)
        assert torch.allclose(
            torch.cov(own.T), torch.eye(3), atol=0.25
        )  # without alignment: correlations up to 0.95
    within = sum(torch.cov(codes[clusters == c].T, correction=0) for c in range(3)) / 3
    assert torch.allclose(within, torch.eye(3), atol=1e-3)  # on average exactly
    between = torch.cov(model.prior.mu.T, correction=0)
    assert (between - between.diag().diag()).abs().max() < 1e-3 * between.max()  # centres: uncorrelated axes
    assert (between.diag()[:-1] >= between.diag()[1:]).all()  # the widest first
    # The returned mixture describes the new codes, and σ̃² is a tenth of the new variances, 1.
    theirs = mixture.predict_proba(codes.double().numpy())
    assert np.array_equal(theirs.argmax(1), clusters.numpy())
    direct = (
        torch.distributions.MultivariateNormal(
            torch.from_numpy(mixture.means_), torch.from_numpy(mixture.covariances_)
        ).log_prob(codes.double().unsqueeze(1))
        + torch.from_numpy(mixture.weights_).log()
    )
    assert mixture.score(codes.double().numpy()) == pytest.approx(direct.logsumexp(1).mean().item(), abs=1e-6)
    assert torch.allclose(model.encode(x)[1].mean(0), torch.tensor(0.1).log().expand(3), atol=1e-3)


def test_one_tilted_covariance_for_all_loses_nothing_when_aligned():
    """The diagonal prior on the new axes clusters as the tied mixture did on the old ones, and nothing else changes."""
    x, model = tilted(), linear_model()
    codes, reconstruction = model.encode(x)[0].detach().double().numpy(), model.reconstruct(x)
    plain = fit_mixture(codes, 3, "tied")
    mixture = model.initialise_from_gmm(x, covariance="tied")
    assert torch.allclose(model.reconstruct(x), reconstruction, rtol=0, atol=1e-4)
    assert np.allclose(mixture.covariances_, np.eye(3), atol=1e-6)
    assert model.prior.logvar.abs().max() < 1e-4
    theirs = torch.from_numpy(plain.predict_proba(codes)).float()
    assert torch.allclose(model.responsibilities(x), theirs, atol=1e-3)


def test_alignment_needs_linear_layers_at_the_latent_ends():
    model = VaDE(
        nn.Sequential(nn.Linear(3, 6), nn.Tanh()), nn.Sequential(nn.Linear(3, 3)), Gaussian(), 3, 3, (3,)
    )
    with pytest.raises(
        ValueError, match=r"needs an encoder that ends, a decoder that begins with nn\.Linear"
    ):
        model.initialise_from_gmm(tilted(60), covariance="aligned")


def uneven() -> np.ndarray:
    """Two clouds of 200 points that touch, 200 far away: two components for three clouds."""
    random = np.random.RandomState(0)
    return np.concatenate([random.randn(200, 1) + shift for shift in (0.0, 3.0, 30.0)])


def test_a_balanced_mixture_has_equal_weights_and_prefers_equal_clusters(monkeypatch):
    """Of two given starts, the plain likelihood prefers the first and that under equal weights the second."""
    from sklearn.mixture import GaussianMixture

    codes = uneven()
    mixture = fit_mixture(codes, 3, balanced=True, n_init=10)
    assert np.array_equal(mixture.weights_, np.full(3, 1 / 3))
    assert np.abs(np.sort(mixture.means_[:, 0]) - [0.0, 3.0, 30.0]).max() < 0.5

    def fake(weights):  # one Gaussian each, so that only the weights decide
        found = GaussianMixture(2, covariance_type="diag")
        found.weights_, found.means_ = np.array(weights), np.array([[0.0], [30.0]])
        found.covariances_ = found.precisions_cholesky_ = np.ones((2, 1))
        return found

    even, odd = np.repeat([0.0, 30.0], 50)[:, None], np.repeat([0.0, 30.0], [95, 5])[:, None]
    fits = iter([fake([0.95, 0.05]), fake([0.5, 0.5])])
    monkeypatch.setattr(GaussianMixture, "fit", lambda self, x: next(fits))
    best = fit_mixture(np.concatenate([even, odd]), 2, balanced=True, n_init=2)
    assert best.weights_.tolist() == [0.5, 0.5]
    # Both have the same means, so the two tie at equal weights, and the first is kept; with another mean it is not.
    worse, better = fake([0.95, 0.05]), fake([0.5, 0.5])
    worse.means_ = np.array([[0.0], [29.0]])
    fits = iter([worse, better])
    assert fit_mixture(odd, 2, balanced=True, n_init=2) is better


def test_regularisation_is_a_share_of_the_codes_variance():
    codes = np.repeat(
        [[0.0, 0.0], [10.0, 20.0]], 50, axis=0
    )  # points without spread; mean variance (25 + 100) / 2
    for balanced in (False, True):
        mixture = fit_mixture(codes, 2, "full", balanced=balanced, regularise=0.02)
        assert np.allclose(mixture.covariances_, (1e-6 + 0.02 * 62.5) * np.eye(2), atol=1e-9)


def test_augmentation_reaches_the_encoder_in_training_only_and_the_target_stays():
    seen = []

    def invert(x, generator):
        seen.append(generator)
        return 1 - x

    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = mlp_vade((1, 4, 4), 2, (16,), 3, augment=invert)
    for stage in (model, Pretraining(model)):
        stage.eval()
        plain = stage.loss(x, generator=torch.Generator().manual_seed(1))
        assert not seen
        generator = torch.Generator().manual_seed(1)
        changed = stage.train().loss(x, generator=generator)
        assert seen.pop() is generator
        assert changed["loss"] != plain["loss"]
    mu, _ = model.encode(1 - x)
    expected = -model.likelihood.log_prob(
        x, model.decode(mu)
    ).mean()  # the unchanged picture from the changed one's code
    assert changed["recon"].item() == pytest.approx(expected.item(), abs=1e-5)
    terms = model.elbo(x, torch.Generator().manual_seed(1), model.encode(1 - x))
    found = model.loss(x, generator=torch.Generator().manual_seed(1))
    assert found["loss"].item() == pytest.approx(-terms["elbo"].mean().item(), abs=1e-5)


def test_the_convolutional_model_has_the_shapes_of_the_other():
    torch.manual_seed(0)
    model = conv_vade((1, 8, 8), 3, 4, 5, likelihood=Gaussian("per_pixel"))
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert model.responsibilities(x).shape == (6, 5)
    assert model.encode(x)[0].shape == (6, 3)
    assert model.sample(4).shape == (4, 1, 8, 8)
    model.loss(x)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_three_stages_find_three_clouds():
    x, labels = blobs()
    torch.manual_seed(0)
    model = mlp_vade((5,), 2, (32,), 3, likelihood=Gaussian("learned"))
    batches = list(zip(x.split(50), labels.split(50), strict=True))
    for stage in (Pretraining(model), model):
        if stage is model:
            model.initialise_from_gmm(x)
        optimizer = torch.optim.Adam(stage.parameters(), lr=3e-3)
        history = fit(SingleLoss(stage, optimizer), batches, steps=200, progress=False, device="cpu")
    assert history["loss"][-20:].mean() < history["loss"][:20].mean()
    assert clustering_accuracy(labels, model.cluster(x)) > 0.99
    # Each cluster generates its own cloud: the nearest centre of what it draws is one and the same.
    centres = torch.stack([x[labels == label].mean(0) for label in range(3)])
    for c in range(3):
        nearest = torch.cdist(model.sample(50, torch.Generator().manual_seed(0), cluster=c), centres).argmin(
            1
        )
        assert (nearest == nearest.mode().values).float().mean() > 0.95


# --- Errors -----------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_named(model, images):
    with pytest.raises(ValueError, match="clusters ≥ 1"):
        mlp_vade((4,), 2, (8,), 0)
    with pytest.raises(ValueError, match="latent_dim ≥ 1"):
        MixturePrior(3, 0)
    for cluster in (3, -1, 1.5):
        with pytest.raises(ValueError, match=f"one of 0 to 2, got {cluster}"):
            model.sample(2, cluster=cluster)
    with pytest.raises(ValueError, match="n should be at least 1, got 0"):
        model.sample(0)
    with pytest.raises(ValueError, match="at least 6 examples, got 5"):
        model.initialise_from_gmm(images[:5])
    with pytest.raises(ValueError, match="should be one of diag, full, aligned, tied, got 'round'"):
        model.initialise_from_gmm(images, covariance="round")
    with pytest.raises(ValueError, match="k should be an integer of at least 1, got 0"):
        model.responsibilities(images, k=0)
    with pytest.raises(ValueError, match=r"expected a batch \(B, 1, 4, 4\)"):
        model.elbo(images[:, :, :3])
    with pytest.raises(ValueError, match="expected a VaDE, got Linear"):
        Pretraining(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="images in \\[0, 1\\]"):
        model.loss(2 * images)


def test_a_dynamic_binarisation_is_drawn_once_for_all_weights(images):
    """log_prob of binary images: with all k weights on one binary x the estimate is finite and repeats."""
    torch.manual_seed(0)
    model = mlp_vade((1, 4, 4), 2, (16,), 3, likelihood=Bernoulli("dynamic"))
    first, second = (model.log_prob(images, 20, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert (first < 0).all()
