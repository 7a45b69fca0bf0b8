"""KL(q ‖ uniform) = log K − H(q), and the bound of a discrete VAE against enumeration of all its codes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from course_lib.latent.discrete_vae import (
    all_codes,
    categorical_entropy,
    categorical_kl,
    leave_one_out,
    log_q,
    mlp_discrete_vae,
    one_hot,
)

B, D, K = 4, 2, 3  # examples, variables, values: 9 codes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def logits():
    return 2 * torch.randn(B, D, K, generator=seeded(), dtype=torch.float64)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = mlp_discrete_vae((6,), D, K, (5,)).double()
    with torch.no_grad():  # far from the uniform posterior of a fresh network
        model.encoder[-1].weight.mul_(8)
        model.decoder[0].weight.mul_(4)
    return model.eval()


@pytest.fixture
def x():
    return torch.rand(B, 6, generator=seeded(1), dtype=torch.float64).round()


def test_kl_against_torch_distributions(logits):
    q, uniform = Categorical(logits=logits), Categorical(logits=torch.zeros_like(logits))
    assert torch.allclose(categorical_kl(logits), kl_divergence(q, uniform).sum(1), rtol=1e-12)
    assert torch.allclose(categorical_entropy(logits), q.entropy(), rtol=1e-12)


def test_kl_by_the_definition_over_all_codes(logits):
    """Σ_c q(c) log (q(c) / K^−d), the sum over the 9 joint codes: independent variables add up."""
    log_probability = log_q(logits, all_codes(D, K).unsqueeze(1))  # (9, B)
    definition = (log_probability.exp() * (log_probability + D * math.log(K))).sum(0)
    assert torch.allclose(categorical_kl(logits), definition, rtol=1e-12)


def test_kl_by_hand():
    """q = (½, ¼, ¼): H = 3/2 log 2, KL = log 3 − 3/2 log 2 = 0.0589."""
    logits = torch.tensor([[[0.5, 0.25, 0.25]]]).log()
    assert categorical_kl(logits).item() == pytest.approx(math.log(3) - 1.5 * math.log(2), abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-300, 300, width=32), min_size=2, max_size=6))
def test_kl_lies_between_zero_and_log_k(logits):
    kl = categorical_kl(torch.tensor([[logits]])).item()
    assert -1e-6 <= kl <= math.log(len(logits)) + 1e-6


def test_kl_ends():
    assert categorical_kl(torch.zeros(2, 3, 10)).abs().max() < 1e-6
    certain = torch.zeros(1, 2, 10)
    certain[..., 3] = 500.0  # the other probabilities underflow to 0
    certain.requires_grad_()
    kl = categorical_kl(certain)
    assert kl.item() == pytest.approx(2 * math.log(10), rel=1e-6)
    kl.sum().backward()
    assert torch.isfinite(certain.grad).all()


def test_codes_are_counted_completely():
    codes = all_codes(3, 4)
    assert codes.shape == (64, 3)
    assert (codes @ torch.tensor([16, 4, 1])).tolist() == list(range(64))
    assert torch.equal(all_codes(1, 5), torch.arange(5)[:, None])


def test_log_q_is_a_distribution_over_codes(logits):
    log_probability = log_q(logits, all_codes(D, K).unsqueeze(1))
    assert torch.allclose(log_probability.exp().sum(0), torch.ones(B, dtype=torch.float64))
    direct = Categorical(logits=logits).log_prob(all_codes(D, K).unsqueeze(1)).sum(-1)
    assert torch.allclose(log_probability, direct)


def test_the_evidence_is_a_probability(model):
    """p(x) sums to 1 over all 2⁶ binary vectors, and so do the posteriors of each."""
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6)
    assert model.exact_log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_the_exact_bound_is_the_definition_and_its_gap_the_kl_to_the_posterior(model, x):
    """log p(x) − ELBO = KL(q ‖ p(c|x)), all by enumeration (1e-10)."""
    with torch.no_grad():
        terms, logits = model.exact_elbo(x), model.encode(x)
        log_joint, log_p = model.log_joint(x), model.exact_log_prob(x)
        log_probability = log_q(logits, all_codes(D, K).unsqueeze(1))
        definition = (log_probability.exp() * (log_joint - log_probability)).sum(0)
        gap = (log_probability.exp() * (log_probability - log_joint.log_softmax(0))).sum(0)
    assert torch.allclose(terms["elbo"], definition, atol=1e-10)
    assert torch.allclose(log_p - terms["elbo"], gap, atol=1e-10)
    assert (gap > 1e-3).all()


def test_the_likelihood_of_each_code_is_the_decoders(model, x):
    z = one_hot(all_codes(D, K), torch.zeros(K, dtype=torch.float64))
    for code, row in zip(z, model.log_joint(x), strict=True):
        direct = model.likelihood.log_prob(x, model.decode(code.expand(B, D, K)))
        assert torch.allclose(row, direct - D * math.log(K))


def test_the_sampled_bound_is_unbiased(model, x):
    """Mean of 20,000 draws within 5 standard errors of the enumerated bound, for each example."""
    n = 20_000
    many = x.repeat_interleave(n, 0)
    with torch.no_grad():
        sampled = model.elbo(many, seeded())["elbo"].view(B, n)
        exact = model.exact_elbo(x)["elbo"]
    assert ((sampled.mean(1) - exact).abs() < 5 * sampled.std(1) / n**0.5).all()
    assert (sampled.std(1) > 0.01).all()


def test_importance_sampling_finds_the_evidence(model, x):
    """The mean weight is p(x) (5 standard errors), and log_prob is the logarithm of it, however it is cut."""
    n = 50_000
    with torch.no_grad():
        exact = model.exact_log_prob(x)
        ratio = (model.log_weights(x, n, seeded()) - exact).exp()
    assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / n**0.5).all()
    whole = model.log_prob(x, n, seeded())
    assert torch.allclose(whole, model.log_weights(x, n, seeded()).logsumexp(0) - math.log(n))
    assert torch.allclose(model.log_prob(x, n, seeded(), max_values=997), exact, atol=0.05)


def test_information_and_uneven_use_add_up_to_the_kl(model, x):
    """Mean KL = I_q(x; c) + KL(mean q ‖ uniform), each by its definition."""
    parts = model.information(x)
    with torch.no_grad():
        q = model.encode(x).softmax(-1)
    mean = q.mean(0)
    assert torch.allclose(parts["information"], (q * (q / mean).log()).sum(-1).mean(0))
    assert torch.allclose(parts["marginal_kl"], (mean * (mean * K).log()).sum(-1))
    assert torch.allclose(parts["information"] + parts["marginal_kl"], parts["kl"])
    assert parts["kl"].sum().item() == pytest.approx(categorical_kl(model.encode(x)).mean().item())


def test_leave_one_out_is_the_mean_of_the_others():
    values = torch.randn(4, 3, generator=seeded())
    for i in range(4):
        others = torch.cat([values[:i], values[i + 1 :]]).mean(0)
        assert torch.allclose(leave_one_out(values)[i], values[i] - others, atol=1e-6)
    assert torch.equal(leave_one_out(values[:1]), values[:1])


@pytest.mark.parametrize(("variables", "categories"), [(0, 3), (2, 1), (17, 2), (100, 10)])
def test_what_cannot_be_enumerated_is_refused(variables, categories):
    with pytest.raises(ValueError, match="at most 65,536 codes"):
        all_codes(variables, categories)


def test_logits_without_variables_are_refused():
    with pytest.raises(ValueError, match="variables, categories"):
        categorical_kl(torch.zeros(5))
