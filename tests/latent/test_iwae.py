import math

import pytest
import torch

from course_lib.latent.iwae import (
    IWAE,
    conv_iwae,
    effective_sample_size,
    gradient_samples,
    iwae_bound,
    mlp_iwae,
    normalised_weights,
    signal_to_noise,
)
from course_lib.latent.vae import VAE, Bernoulli, mlp_vae


def images(n=6, shape=(1, 8, 8)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def test_the_bound_of_given_weights():
    w = torch.tensor([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]])
    assert torch.allclose(iwae_bound(w.log()), torch.tensor([3.0, 4.0]).log())
    assert torch.allclose(
        normalised_weights(w.log()), torch.tensor([[1 / 9, 1 / 3], [2 / 9, 1 / 3], [6 / 9, 1 / 3]])
    )
    assert torch.allclose(effective_sample_size(w.log()), torch.tensor([81 / 41, 3.0]))


def test_weights_that_no_float_could_hold():
    log_w = torch.tensor([[-1e5, 1e5], [-1e5 + math.log(3), -1e5]])
    assert torch.allclose(iwae_bound(log_w), torch.tensor([-1e5 + math.log(2), 1e5 - math.log(2)]), rtol=1e-7)
    assert torch.allclose(normalised_weights(log_w), torch.tensor([[0.25, 1.0], [0.75, 0.0]]), atol=2e-3)


@pytest.mark.parametrize("estimator", ["reparameterised", "doubly-reparameterised"])
def test_loss_is_minus_the_bound_and_both_networks_learn(estimator):
    model = mlp_iwae((1, 8, 8), 3, (16,), k=7, estimator=estimator)
    x = images()
    terms = model.loss(x, generator=torch.Generator().manual_seed(1))
    log_w = model.log_weights(x, 7, torch.Generator().manual_seed(1))
    assert set(terms) == {"loss", "elbo", "effective_samples"}
    assert torch.allclose(terms["loss"], -iwae_bound(log_w).mean())
    assert torch.allclose(terms["elbo"], log_w.mean())
    assert 1 <= terms["effective_samples"] <= 7
    assert -terms["loss"] > terms["elbo"]
    terms["loss"].backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_both_estimators_have_one_value_and_one_gradient_for_the_decoder():
    torch.manual_seed(0)
    plain = mlp_iwae((1, 8, 8), 3, (16,), k=5)
    doubly = IWAE(plain.encoder, plain.decoder, plain.likelihood, 3, 5, "doubly-reparameterised")
    x, gradients, values = images(), [], []
    for model in (plain, doubly):
        objective = model.objective(x, torch.Generator().manual_seed(1)).mean()
        values.append(objective)
        gradients.append(torch.autograd.grad(objective, [model.decoder[-2].weight, model.encoder[-1].weight]))
    assert torch.equal(*values)
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1], rtol=0.1)


def test_it_is_a_vae():
    model = mlp_iwae((1, 8, 8), 3, (16,), likelihood=Bernoulli("dynamic"))
    assert isinstance(model, VAE)
    assert model.k == 50
    assert model.sample(4, torch.Generator().manual_seed(0)).shape == (4, 1, 8, 8)
    assert model.log_prob(images(), k=10).shape == (6,)


def test_the_networks_are_those_of_the_vae():
    shapes = [
        {name: tuple(p.shape) for name, p in build((1, 8, 8), 3, (16, 8)).named_parameters()}
        for build in (mlp_vae, mlp_iwae)
    ]
    assert shapes[0] == shapes[1]
    assert conv_iwae((1, 8, 8), 3, 4, k=2).loss(images())["loss"].isfinite()


def test_one_binarisation_is_seen_by_all_samples():
    """With q = p(z) and a decoder that ignores z all weights of one picture are equal, whatever was drawn for it."""
    model = mlp_iwae((1, 8, 8), 2, (4,), k=6, likelihood=Bernoulli("dynamic"))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.decoder[-2].bias.fill_(1.0)
    terms = model.loss(images(), generator=torch.Generator().manual_seed(0))
    assert terms["effective_samples"] == pytest.approx(6, rel=1e-5)


def test_training_raises_the_bound():
    torch.manual_seed(0)
    model, x = mlp_iwae((1, 8, 8), 2, (32,), k=5, estimator="doubly-reparameterised"), images(32).round()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.log_prob(x, k=200, generator=torch.Generator().manual_seed(0)).mean()
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(x)["loss"].backward()
        optimizer.step()
    assert model.log_prob(x, k=200, generator=torch.Generator().manual_seed(0)).mean() > before + 5


def test_signal_to_noise_of_known_gradients():
    p = torch.nn.Parameter(torch.zeros(2))
    generator = torch.Generator().manual_seed(0)
    slope = torch.tensor([1.0, 3.0])

    def objective():
        return (p * (slope + torch.randn(2, generator=generator))).sum()

    samples = gradient_samples(objective, [p], 4_000)
    assert samples.shape == (4_000, 2)
    assert torch.allclose(
        signal_to_noise(samples), slope, rtol=0.1
    )  # standard errors: 0.016 + 1 % of the ratio


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp_iwae((1, 8, 8), 3, k=0), "k should be an integer of at least 1, got 0"),
        (lambda: mlp_iwae((1, 8, 8), 3, k=2.0), r"got 2\.0"),
        (
            lambda: mlp_iwae((1, 8, 8), 3, estimator="dreg"),
            "unknown estimator 'dreg'; the known ones are: repara",
        ),
        (lambda: iwae_bound(torch.zeros(3)), r"log-weights \(k, B\) with k ≥ 1, got \(3,\)"),
        (lambda: normalised_weights(torch.zeros(0, 3)), r"got \(0, 3\)"),
        (lambda: signal_to_noise(torch.zeros(1, 3)), r"n ≥ 2, got \(1, 3\)"),
        (lambda: gradient_samples(lambda: None, [], 5), "0 parameters"),
        (lambda: mlp_iwae((1, 8, 8), 3).sample_posterior(images(), k=-1), "k should be an integer"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
